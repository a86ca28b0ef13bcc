"""Tests of console.py: what every command relies on."""

import dataclasses
import io
import os
import signal
import subprocess
import sys
import time

import pytest

import bpe
import console
from console import (Parser, Progress, StopSignal, add_options, duration, in_batches, option,
                     parallel, run, track, write_safely)


@pytest.mark.parametrize("error, code", [(ValueError("no"), 2), (OSError("no"), 2),
                                         (KeyboardInterrupt(), 130)])
def test_run_ends_with_a_code(error, code, capsys):
    def main():
        raise error
    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == code
    assert capsys.readouterr().err == ("error: no\n" if code == 2 else "")


def test_run_lets_mistakes_of_ours_through():
    def main():
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        run(main)


def test_a_reader_that_has_enough(tmp_path):
    """`bpe.py show ... | head` ends without a word about the pipe."""
    bpe.Tokenizer([]).save(tmp_path / "t")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, bpe.__file__, "encode", "--tokenizer", "t", "-"],
                          input="word " * 100_000, text=True, stdout=write,
                          stderr=subprocess.PIPE, cwd=tmp_path)
    os.close(write)
    assert done.returncode == 141 and done.stderr == ""


def test_options_come_from_the_fields():
    @dataclasses.dataclass
    class Options:
        n_layer: int = option(3, "blocks")
        fast: bool = option(False, "hurry")
        device: str = option("cpu", "where", ("cpu", "cuda"))
    parser = Parser()
    add_options(parser, Options)
    assert vars(parser.parse_args([])) == {}, "only what was given, so that presets can differ"
    given = vars(parser.parse_args(["--n-layer", "5", "--fast"]))
    assert Options(**given) == Options(5, True, "cpu")
    assert "blocks (default: 3)" in parser.format_help()
    for wrong in (["--n-layer", "x"], ["--device", "tpu"], ["--unknown"]):
        with pytest.raises(ValueError, match="--help"):
            parser.parse_args(wrong)


def test_duration():
    assert [duration(s) for s in (0, 9.4, 59.6, 754, 10800, 432000)] == [
        "0:00", "0:09", "1:00", "12:34", "3:00:00", "5 days"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress():
    quiet, pipe, terminal = io.StringIO(), io.StringIO(), Terminal()
    with Progress(stream=quiet) as progress:
        progress.show("too early")
    assert quiet.getvalue() == "", "quick work stays quiet"
    for stream in (pipe, terminal):
        with Progress(patience=0, stream=stream) as progress:
            progress.show(lambda: "one")
            progress.show("too soon after the other")
    assert pipe.getvalue() == "one\n", "plain lines in a pipe"
    assert terminal.getvalue() == "\rone\x1b[K\n", "one line that redraws on a terminal"


def test_track(capsys):
    assert list(track(iter("abc"), "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_write_safely(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_safely(path, "naïve")
    assert path.read_text(encoding="utf-8") == "naïve"

    def power_cut(*arguments):
        raise OSError("no space left")
    monkeypatch.setattr(console.os, "fsync", power_cut)
    with pytest.raises(OSError):
        write_safely(path, b"half")
    assert path.read_text(encoding="utf-8") == "naïve", "the old stays until the new is safe"
    assert list(tmp_path.iterdir()) == [path]


def test_stop_signal():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignal() as stop:
            assert not stop.asked
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def double(x):
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
        list(parallel(double, [12, 13], workers))


def test_parallel_when_the_parent_dies(tmp_path):
    """Workers blocked in the middle of an answer go, too, and leave no orphans behind."""
    (tmp_path / "main.py").write_text(f"""
import os, signal, sys, time
sys.path += {sys.path!r}
from console import parallel

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


def test_parallel_with_processes_started_from_nothing(tmp_path):
    """Where processes are spawned, not forked (macOS, Windows), by a file that a user runs."""
    (tmp_path / "main.py").write_text(f"""
import multiprocessing, sys
sys.path += {sys.path!r}
from bpe import Tokenizer

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    texts = ["the cat sat"] * 100_000
    tokenizer = Tokenizer.train(texts, 270, [r"\\p{{N}}|\\P{{N}}+", "\\w+| "], workers=2)
    assert tokenizer.hash == Tokenizer.train(texts, 270, tokenizer.pattern).hash
    print([len(ids) for ids in tokenizer.encode_many(texts, workers=2)] == [3 + 2] * 100_000)
""")
    done = subprocess.run([sys.executable, "main.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_in_batches():
    assert list(in_batches(["ab", "c", "d", "efgh", "i"], 3)) == [["ab", "c"], ["d", "efgh"], ["i"]]
    assert list(in_batches([], 3)) == []
