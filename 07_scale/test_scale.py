"""Tests of scale.py: two processes must train what one trains."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

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
            "--steps", 20, "--save-every", 10, "--eval-every", 10, "--seq-len", 32,
            "--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs", "--device", "cpu"]


def metrics(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row.keys() & {"loss", "val_bits_per_byte"}]


@pytest.mark.slow
def test_two_ranks_equal_one_process(arguments, tmp_path, command):
    """Over 20 steps, to 1e-5: with 5 windows for 2 ranks (3 and 2), micro-batches of 2, and
    conversations in between, of which not all is to be learned; matrices by Muon, all else by
    AdamW.
    """
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps({"turns": [f"{i} spam?", "eggs"]}) + "\n"
                             for i in range(300)))
    batch = ["--batch-size", 5, "--micro-batch", 2, "--sampling", "bestfit",
             "--optimizer", "muon", "--data", f"folder:{tmp_path / 'text'}", f"jsonl:{chats}"]
    command("train", *arguments, *batch, "--name", "one")
    done = command("scale", *arguments, *batch, "--name", "two", launcher=TORCHRUN)
    assert done.stdout.count("this model") == 1, "only rank 0 prints"
    one, two = (metrics(tmp_path / "runs" / name) for name in ("one", "two"))
    assert len(one) == len(two) == 23
    for a, b in zip(one, two):
        for key in a.keys() & {"loss", "grad_norm", "val_bits_per_byte"}:
            assert a[key] == pytest.approx(b[key], abs=1e-5), f"step {a['step']}, {key}"

    # a run of two ranks goes on in one process, and the other way round
    command("train", *arguments, *batch, "--name", "two", "--resume", "--steps", 22)
    command("scale", *arguments, *batch, "--name", "one", "--resume", "--steps", 22,
            launcher=TORCHRUN)
    one, two = ([m["loss"] for m in metrics(tmp_path / "runs" / name) if "loss" in m][-1]
                for name in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-5)


@pytest.mark.slow
def test_wrong_input_ends_all_ranks(arguments, command):
    done = command("scale", *arguments, "--data", "nowhere", launcher=TORCHRUN, code=1)
    assert done.stderr.count("error: there is no source 'nowhere'") == 1


@pytest.mark.slow
def test_the_group_is_gone_at_the_end(arguments):
    """With its threads: one that is left over may abort the process while Python shuts down."""
    program = f"""
import os, sys
sys.path[:0] = {[p for p in sys.path if p]!r}
from scale import launch
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
