"""Tests of workers.py: results in order, and no process left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from workers import parallel


def double(x):
    if x == 12:
        raise NotImplementedError("exercise: double")
    if x == 13:
        raise ValueError("13 is unlucky")
    if x == 14:
        os._exit(1)
    if x == 15:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * x


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_parallel(workers):
    taken = []
    items = (taken.append(x) or x for x in range(10))
    results = parallel(double, items, workers)
    assert next(results) == 0 and len(taken) <= workers + 1, "items are taken as they are needed"
    assert list(results) == [2 * x for x in range(1, 10)]
    assert list(parallel(double, [], workers)) == []
    with pytest.raises(ValueError, match="unlucky"):
        list(parallel(double, [11, 13], workers))
    with pytest.raises(NotImplementedError, match="exercise: double"):
        list(parallel(double, [11, 12], workers))


def test_too_few_workers():
    for workers in (0, -3):
        with pytest.raises(ValueError, match=str(workers)):
            list(parallel(double, [1], workers))


def test_parallel_when_the_parent_dies(tmp_path):
    """Workers blocked in the middle of an answer go, too, and leave no orphans behind."""
    (tmp_path / "main.py").write_text(f"""
import os, signal, sys, time
sys.path += {sys.path!r}
from workers import parallel

def large(x):
    return os.getpid(), b"x" * 10_000_000

if __name__ == "__main__":
    results = parallel(large, range(100), 2)
    print(next(results)[0], next(results)[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
""")
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL and len(pids := done.stdout.split()) == 2, done.stderr
    for _ in range(50):
        if not any(os.path.exists(f"/proc/{pid}") for pid in pids):
            return
        time.sleep(0.1)
    raise AssertionError(f"workers {pids} are still there")


def test_parallel_when_an_idle_worker_dies():
    def items():
        yield 1
        yield 2
        yield 15
        yield 3
    with pytest.raises(ValueError, match="died"):
        list(parallel(double, items(), 2))


def test_parallel_when_a_worker_dies():
    with pytest.raises(ValueError, match="died"):
        list(parallel(double, [1, 14, 2], 2))


@pytest.mark.parametrize("started", [0, 1])
def test_parallel_when_no_worker_can_be_started(monkeypatch, started):
    """One line; Ctrl-C comes again, and what has begun is ended."""
    start, born = multiprocessing.Process.start, []

    def refuse(process):
        if len(born) == started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        start(process)
        born.append(process)
    monkeypatch.setattr(multiprocessing.Process, "start", refuse)
    with pytest.raises(ValueError, match=f"^worker process {started + 1} of 3 can't be started"):
        list(parallel(double, range(10), 3))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}
    assert not any(process.is_alive() for process in born)


def test_parallel_where_signals_can_not_be_blocked(monkeypatch):
    """As on Windows."""
    for name in ("pthread_sigmask", "SIG_BLOCK", "SIG_UNBLOCK"):
        monkeypatch.delattr(signal, name)
    assert list(parallel(double, range(5), 2)) == [0, 2, 4, 6, 8]


def test_parallel_with_spawned_processes(tmp_path):
    """Where processes are spawned, not forked (macOS, Windows), by a file that a user runs."""
    (tmp_path / "main.py").write_text(f"""
import multiprocessing, sys
sys.path += {sys.path!r}
from mapped import MappedTokenizer

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    texts = ["the cat sat"] * 100_000
    tokenizer = MappedTokenizer.train(texts, 270, [r"\\p{{N}}|\\P{{N}}+", "\\w+| "], workers=2)
    assert tokenizer.hash == MappedTokenizer.train(texts, 270, tokenizer.pattern).hash
    print([len(ids) for ids in tokenizer.encode_many(texts, workers=2)] == [3 + 2] * 100_000)
""")
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
