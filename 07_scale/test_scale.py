"""Tests of scale.py: two processes must train what one trains."""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import train
from scale import deal, launch

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def test_deal():
    assert deal([0, 1, 2, 3, 4], 1, 2) == [1, 3] and deal([0, 1, 2, 3, 4], 0, 2) == [0, 2, 4]
    rows = np.arange(22).reshape(11, 2)
    for world in (1, 2, 3, 5, 12):
        hands = [deal(rows, rank, world) for rank in range(world)]
        assert sorted(np.concatenate(hands)[:, 0].tolist()) == list(range(0, 22, 2))
        sizes = [len(hand) for hand in hands]
        assert max(sizes) - min(sizes) <= 1, "no rank gets two more than another"


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "text").write_text("".join(f"{i} spam {i % 7} eggs\n" for i in range(2000)))
    return ["--preset", "nano", "--data", f"folder:{tmp_path / 'text'}", "--vocab-size", 300,
            "--steps", 20, "--save-every", 10, "--eval-every", 20, "--seq-len", 32,
            "--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs", "--device", "cpu"]


def metrics(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row.keys() & {"loss", "val_bits_per_byte"}]


@pytest.fixture
def ranks(fork, tmp_path, monkeypatch):
    """ranks(work): two processes that call work() as those that torchrun starts, when both have
    ended.
    """
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # a fork has one thread
    join = torch.distributed.init_process_group

    def rank(i, work):
        os.environ |= {"RANK": str(i), "LOCAL_RANK": str(i), "LOCAL_WORLD_SIZE": "2"}
        torch.distributed.init_process_group = lambda backend: join(
            backend, init_method=f"file://{tmp_path}/store", rank=i, world_size=2)
        work()

    def start(work):
        both = [fork(functools.partial(rank, i, work)) for i in range(2)]
        for process in both:
            process.join()
        return both
    return start


@pytest.mark.slow
def test_two_ranks_equal_one_process(arguments, tmp_path, command, ranks, monkeypatch):
    """Over 20 steps, to 1e-5: with 5 windows for 2 ranks (3 and 2), micro-batches of 2, and
    conversations in between, of which not all is to be learned; matrices by Muon, all else by
    AdamW.
    """
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps({"turns": [f"{i} spam?", "eggs"]}) + "\n"
                             for i in range(300)))
    batch = ["--batch-size", 5, "--micro-batch", 2, "--sampling", "bestfit",
             "--optimizer", "muon", "--data", f"folder:{tmp_path / 'text'}", f"jsonl:{chats}"]
    arguments = [str(a) for a in (*arguments, *batch)]
    monkeypatch.setattr(train, "redraw", lambda folder: None)  # pictures take seconds
    monkeypatch.setattr(train, "page", lambda folders, path: None)
    train.main([*arguments, "--name", "one"])
    done = command("scale", *arguments, "--name", "two", launcher=TORCHRUN)
    assert done.stdout.count("this model") == 1, "only rank 0 prints"
    one, two = (metrics(tmp_path / "runs" / name) for name in ("one", "two"))
    assert len(one) == len(two) == 23
    for a, b in zip(one, two):
        for key in a.keys() & {"loss", "grad_norm", "val_bits_per_byte"}:
            assert a[key] == pytest.approx(b[key], abs=1e-5), f"step {a['step']}, {key}"

    # a run of two ranks goes on in one process, and the other way round
    resumed = [*arguments, "--resume", "--steps", "22"]
    train.main([*resumed, "--name", "two"])
    for rank in ranks(lambda: launch([*resumed, "--name", "one"])):
        assert rank.exitcode == 0, rank.log.read_text()
    one, two = ([m["loss"] for m in metrics(tmp_path / "runs" / name) if "loss" in m][-1]
                for name in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-5)


@pytest.mark.slow
def test_wrong_input_ends_all_ranks(arguments, ranks):
    both = ranks(lambda: launch([*map(str, arguments), "--data", "nowhere"]))
    said = "".join(rank.log.read_text() for rank in both)
    assert [rank.exitcode for rank in both] == [2, 2], said
    assert said.count("error: there is no source 'nowhere'") == 1, said


@pytest.mark.slow
def test_the_group_is_gone_at_the_end(arguments):
    """With its threads: one that is left over may abort the process while Python shuts down."""
    program = f"""
import os, sys
sys.path[:0] = {[p for p in sys.path if p]!r}
import train
from scale import launch
train.redraw = train.page = lambda *what: None
launch(sys.argv[1:])
tasks = "/proc/self/task"
print(*(open(f"{{tasks}}/{{task}}/comm").read().strip() for task in os.listdir(tasks)), sep=",")
"""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    environment = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
                   "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments), "--steps", "1"],
                          capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "gloo" not in done.stdout.splitlines()[-1], done.stdout.splitlines()[-1]


def test_without_torchrun(fails, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert "torchrun" in fails(launch)
