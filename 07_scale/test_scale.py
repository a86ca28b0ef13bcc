"""Tests of scale.py: two processes must train what one trains, and stop together."""

import functools
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import pytest
import torch

import train
from runs import newest_checkpoint
from scale import join, launch

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "text").write_text("".join(f"{i} spam {i % 7} eggs\n" for i in range(2000)))
    return ["--preset", "nano", "--data", f"folder:{tmp_path / 'text'}", "--vocab-size", 300,
            "--steps", 20, "--save-every", 10, "--eval-every", 20, "--seq-len", 32,
            "--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs", "--device", "cpu"]


def metrics(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row.keys() & {"loss", "val_bits_per_byte"}]


def leave_out_pictures(monkeypatch):
    """They take seconds."""
    monkeypatch.setattr(train, "redraw", lambda folder: None)
    monkeypatch.setattr(train, "page", lambda folders, path: None)


@pytest.fixture
def ranks(fork, tmp_path, monkeypatch):
    """ranks(work): two processes that call work() as those that torchrun starts, when both have
    ended.
    """
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # a fork has one thread
    meet = torch.distributed.init_process_group

    numbers = itertools.count()

    def rank(i, number, work):
        os.environ |= {"RANK": str(i), "WORLD_SIZE": "2", "LOCAL_RANK": str(i),
                       "LOCAL_WORLD_SIZE": "2"}
        torch.distributed.init_process_group = lambda backend, timeout: meet(
            backend, init_method=f"file://{tmp_path}/store-{number}", rank=i, world_size=2)
        work()

    def start(work):
        number = next(numbers)
        both = [fork(functools.partial(rank, i, number, work)) for i in range(2)]
        for process in both:
            process.join(60)
            process.kill()
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
    leave_out_pictures(monkeypatch)
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


def test_without_torchrun_one_process_trains(arguments, tmp_path, fork):
    process = fork(lambda: launch(["--recompute", "hand", *map(str, arguments), "--steps", "2"]))
    process.join()
    assert process.exitcode == 0, process.log.read_text()
    assert metrics(tmp_path / "runs" / "nano")[-1]["step"] == 2


# ---- the other engines ----

@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """alone(optimizer): (the options of a run, its folder), made by one process. Steps have 16
    windows, micro-batches 2, so that all engines accumulate; the schedule has no end.
    """
    folder, found = tmp_path_factory.mktemp("alone"), {}
    (folder / "text").write_text("".join(f"{i} spam {i % 7} eggs\n" for i in range(1000)))

    def made(optimizer):
        words = ["--preset", "nano", "--data", f"folder:{folder / 'text'}", "--vocab-size", "300",
                 "--seq-len", "32", "--batch-size", "16", "--micro-batch", "2", "--eval-every",
                 "100", "--schedule", "inverse-sqrt", "--warmup", "3", "--optimizer", optimizer,
                 "--data-dir", str(folder / "data"), "--runs-dir", str(folder), "--device", "cpu"]
        if optimizer not in found:
            found[optimizer] = folder / optimizer
            train.main([*words, "--steps", "8", "--name", optimizer])
        return words, found[optimizer]
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out_pictures(monkeypatch)
        yield made


def assert_same_curve(one, two, tolerance=1e-5):
    one, two = ({(row["step"], key): row[key] for row in metrics(folder)
                 for key in row.keys() & {"loss", "grad_norm", "val_bits_per_byte"}}
                for folder in (one, two))
    assert one.keys() == two.keys()
    for step, key in one:
        assert two[step, key] == pytest.approx(one[step, key], abs=tolerance), f"{key}, {step}"


@pytest.mark.parametrize("optimizer, engine, recompute", [
    ("muon", "zero1", "hand"), ("muon", "zero2", "none"), ("adamw", "zero2", "none"),
    ("muon", "torch-ddp", "none"), ("adamw", "fsdp2", "torch")])
def test_engines_train_what_one_process_trains(alone, ranks, optimizer, engine, recompute):
    """Four steps on two ranks, then four in one process, which are as eight of one process."""
    words, whole = alone(optimizer)
    words = [*words, "--name", f"{optimizer}-{engine}"]
    for rank in ranks(lambda: launch(["--engine", engine, "--recompute", recompute, *words,
                                      "--steps", "4", "--save-every", "4"])):
        assert rank.exitcode == 0, rank.log.read_text()
    train.main([*words, "--steps", "8", "--resume"])
    folder = whole.with_name(f"{optimizer}-{engine}")
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    halfway = [row for row in rows if '"step": 4,' in row and "bits_per_byte" in row]
    kept = [row for row in rows if row not in halfway]
    (folder / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    assert_same_curve(whole, folder)


def test_one_checkpoint_for_all_engines(alone, ranks):
    """Begun by one process, gone on with by two, whose ranks have divided all."""
    words, whole = alone("adamw")
    train.main([*words, "--name", "begun", "--steps", "4", "--save-every", "4"])
    for rank in ranks(lambda: launch(["--engine", "fsdp2", *words, "--name", "begun", "--steps",
                                      "8", "--resume"])):
        assert rank.exitcode == 0, rank.log.read_text()
    one, two = (metrics(folder)[-1] for folder in (whole, whole.with_name("begun")))
    assert two["val_bits_per_byte"] == pytest.approx(one["val_bits_per_byte"], abs=1e-5)


def test_float16_with_a_scaled_loss(alone, ranks):
    words, whole = alone("muon")
    words = [*words, "--name", "half", "--steps", "8", "--dtype", "float16"]
    for rank in ranks(lambda: launch(["--engine", "zero2", *words])):
        assert rank.exitcode == 0, rank.log.read_text()
    assert_same_curve(whole, whole.with_name("half"), tolerance=0.05)
    state = torch.load(newest_checkpoint(whole.with_name("half")) / "state.pt", weights_only=True)
    assert state["engine"]["scaler"]["good"] > 0, "what the scaler has learned is remembered"


def test_what_an_engine_can_not_do(alone, ranks):
    words, _ = alone("muon")
    for changes, expected in ((["--engine", "fsdp2"], "Muon needs whole matrices"),
                              (["--engine", "zero2", "--batch-size", "15"], "dealt evenly"),
                              (["--batch-size", "1"], "dealt out to 2")):
        both = ranks(lambda: launch([*words, *changes]))
        said = "".join(rank.log.read_text() for rank in both)
        assert [rank.exitcode for rank in both] == [2, 2] and said.count(expected) == 1, said


# ---- what can happen ----

def test_a_rank_that_dies_ends_the_others(alone, ranks, tmp_path, monkeypatch):
    """With one line each; and a restart ends as if nothing had happened."""
    words, whole = alone("muon")
    words = [*words, "--name", "killed", "--steps", "8", "--save-every", "2"]
    take_step = train.take_step

    def die(model, optimizer, batch, step, config, engine, *rest):
        if step == 5 and engine.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return take_step(model, optimizer, batch, step, config, engine, *rest)
    monkeypatch.setattr(train, "take_step", die)
    start = time.monotonic()
    first, second = ranks(lambda: launch(words))
    assert time.monotonic() - start < 60
    assert second.exitcode == -signal.SIGKILL and first.exitcode == 2
    line = first.log.read_text().splitlines()[-1]
    assert line.startswith("error: rank 0 has lost another process") and "--resume" in line, line
    monkeypatch.setattr(train, "take_step", take_step)
    folder = whole.with_name("killed")
    assert newest_checkpoint(folder).name == "step-000004"
    for rank in ranks(lambda: launch([*words, "--resume"])):
        assert rank.exitcode == 0, rank.log.read_text()
    losses = [{row["step"]: row["loss"] for row in metrics(f) if "loss" in row}
              for f in (whole, folder)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_others_that_are_not_there(monkeypatch):
    with socket.socket() as nobody:  # bound, but it doesn't listen
        nobody.bind(("127.0.0.1", 0))
        for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1,
                            "MASTER_ADDR": "127.0.0.1",
                            "MASTER_PORT": nobody.getsockname()[1]}.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(ValueError, match="rank 1 of 2 could not reach the others within 1 s"):
            join(timedelta(seconds=1))


def test_ranks_that_were_started_otherwise(alone, ranks):
    words, _ = alone("muon")

    def work():
        launch([*words, "--steps", "9" if os.environ["RANK"] == "1" else "8"])
    for rank in ranks(work):
        line = rank.log.read_text().splitlines()[-1]
        assert rank.exitcode == 2 and "rank 1 was started otherwise than rank 0: with 9, not 8" in (
            line), line
