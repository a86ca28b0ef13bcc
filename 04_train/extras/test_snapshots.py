"""Tests of snapshots.py: what a run keeps, and that it stays the same; ranks: test_fsdp.py."""

import contextlib
import json
import shutil
import sys

import numpy as np
import pytest
import torch

import train
from metrics import forget_unbegun
from presets import FullConfig
from runs import (all_checkpoints, as_json, best_checkpoint, damage, find_checkpoint, load_run,
                  load_state, load_weights, newest_checkpoint, newest_run, read_config,
                  restore_weights, save_checkpoint, step_of, tensors)
from snapshots import save_snapshot, snapshot_steps, weights_of


# ---- when ----
def test_snapshot_steps():
    assert snapshot_steps(350, 6) == [1, 3, 10, 34, 108, 350]
    assert snapshot_steps(17_600, 20)[-8:] == [480, 803, 1344, 2248, 3760, 6290, 10521, 17600]


@pytest.mark.parametrize("steps", [1, 2, 3, 12, 350, 17_600])
def test_they_are_evenly_spaced_in_the_logarithm(steps):
    """As far as steps are whole numbers and come once: where the sequence has a distance of more
    than one, it is right to half a step.
    """
    for n in [*range(2, min(steps, 60) + 1), steps]:
        found = snapshot_steps(steps, n)
        assert len(found) == n and found[0] == 1 and found[-1] == steps
        assert all(a < b for a, b in zip(found, found[1:])) and {type(s) for s in found} == {int}
        exact = steps ** (np.arange(n) / max(1, n - 1))
        assert all(abs(s - x) <= 0.5 for s, x, gap in zip(
            found[1:], exact[1:], np.diff(found)) if gap > 1), n


def test_all_steps_if_there_are_fewer():
    assert snapshot_steps(3, 5) == snapshot_steps(3, 3) == [1, 2, 3]
    assert snapshot_steps(9, 0) == []


def test_a_single_one_is_the_last():
    """A run that is to keep one snapshot keeps what it has learned, not its first step."""
    assert snapshot_steps(350, 1) == [350] and snapshot_steps(1, 1) == [1]


# ---- whole runs ----
@pytest.fixture(scope="module")
def start(tmp_path_factory, quick_runs):
    """start(name, *options): the folder of a run of 12 steps, which takes a second."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text").write_text("".join(f"{i} spam {i % 7} eggs\n" for i in range(1000)))

    def run(name, *options):
        train.main([
            "--preset", "nano", "--data", f"folder:{folder / 'text'}", "--vocab-size", "300",
            "--steps", "12", "--n-layer", "1", "--seq-len", "32", "--batch-size", "4",
            "--save-every", "5", "--eval-every", "6", "--eval-tokens", "200", "--data-dir",
            str(folder / "data"), "--runs-dir", str(folder), "--device", "cpu", "--name", name,
            *options])
        return folder / name
    run.folder = folder
    return run


@pytest.fixture(scope="module")
def each_step(start):
    """{step: the files of the weights} of a run without snapshots, which saves after each step."""
    folder = start("each-step", "--save-every", "1", "--keep", "12")
    assert not (folder / "snapshots").exists()
    return {step: weights(path) for step, path in weights_of(folder).items()}


def weights(checkpoint):
    return {path.name: path.read_bytes() for path in (checkpoint / "weights").iterdir()}


def kept(folder):
    return {step_of(path): path for path in all_checkpoints(folder / "snapshots")}


def test_a_run_keeps_them(start, each_step, tmp_path):
    """The weights of those steps, bit for bit, and nothing that a run could go on from; the run is
    the same as without them.
    """
    folder = start("kept", "--snapshots", "5")
    assert [*kept(folder)] == snapshot_steps(12, 5) == [1, 2, 3, 6, 12]
    for step, path in kept(folder).items():
        assert weights(path) == each_step[step], step
        assert not damage(path) and (path / "state.pt").stat().st_size < 2000
        assert torch.load(path / "state.pt") == {}
    vals = {step: json.loads((path / "val.json").read_text())["val_bits_per_byte"]
            for step, path in kept(folder).items()}
    assert [step for step in vals if vals[step]] == [6, 12], "steps that were evaluated"
    assert [step_of(path) for path in all_checkpoints(folder)] == [10, 12]
    assert weights(newest_checkpoint(folder)) == each_step[12]
    assert {path.name for path in (folder / "snapshots").iterdir()} == {".lock", "checkpoints"}

    found = weights_of(folder)
    assert [*found] == [1, 2, 3, 6, 10, 12]
    assert found[12] == kept(folder)[12], "the one that stays"
    model, *_, step = load_run(folder, which="6")
    assert step == 6
    load_weights(model, found[3])
    for name, tensor in tensors(model):
        assert np.array_equal(tensor, np.load(found[3] / "weights" / f"{name}.npy"))
    with pytest.raises(ValueError, match="no checkpoint '4'; it has: newest, best, 1, 2, 3, 6, 10"):
        find_checkpoint(folder, "4")
    head = found[6] / "weights" / "head.weight.npy"
    head.write_bytes(bytes(head.stat().st_size))
    with pytest.raises(ValueError, match="6 is damaged: .*step-000003, before it, is whole"):
        load_run(folder, which="6")


def test_a_run_that_was_ended(start, each_step, monkeypatch, capsys):
    """It goes on from its checkpoint, not from a later snapshot. What was kept after the checkpoint
    is replaced, whole or not; what a kill has left half written is gone.
    """
    whole_step = train.train_step

    def ends(model, optimizer, batch, step, *rest):
        if step == 8:
            raise RuntimeError("killed")
        return whole_step(model, optimizer, batch, step, *rest)
    monkeypatch.setattr(train, "train_step", ends)
    with pytest.raises(RuntimeError, match="killed"):
        start("ended", "--snapshots", "5")
    monkeypatch.undo()
    folder = start.folder / "ended"
    assert [*kept(folder)] == [1, 2, 3, 6] and step_of(newest_checkpoint(folder)) == 5
    (kept(folder)[6] / "weights" / "head.weight.npy").write_bytes(b"")
    shutil.copytree(kept(folder)[3], folder / "snapshots" / ".checkpoint.89abcdef.tmp")
    capsys.readouterr()
    start("ended", "--resume")
    assert "steps 5 to 12" in capsys.readouterr().out
    assert {step: weights(path) for step, path in kept(folder).items()} == {
        step: each_step[step] for step in (1, 2, 3, 6, 12)}
    assert not [*(folder / "snapshots").glob(".*.tmp")]


def test_a_run_that_becomes_longer(start, capsys):
    """Those still to come are spaced as in a run of that length; later ones, which a run that was
    even longer has left, go. Nobody needs to have asked for snapshots when it began.
    """
    folder = start("longer", "--steps", "5")
    assert "snapshots" not in json.loads((folder / "config.json").read_text())
    for step in (4, 10):
        save_checkpoint(folder / "snapshots", step, [], {}, sys.maxsize)
    start("longer", "--resume", "--steps", "8", "--snapshots", "4")
    assert [*kept(folder)] == [4, 8] and snapshot_steps(8, 4) == [1, 2, 4, 8]
    assert read_config(folder).snapshots == 4

    shutil.rmtree(folder / "snapshots")
    (folder / "snapshots").write_text("in the way")
    start("longer", "--resume", "--steps", "9")
    said = capsys.readouterr().err
    assert said.count("could not save a snapshot in ") == 1 and "the run goes on" in said, said
    assert step_of(newest_checkpoint(folder)) == 9


# ---- one of them ----
@pytest.fixture
def model():
    return torch.nn.Linear(2, 2)


CONFIG = FullConfig(steps=6, snapshots=3)  # after steps 1, 2, 6


@pytest.mark.parametrize("is_rank0, fails", [(True, False), (True, True), (False, False)])
def test_every_rank_gathers_every_tensor(is_rank0, fails, model, tmp_path, monkeypatch):
    """Where one is due, and also if rank 0 fails; or the others would wait for ever."""
    gathered = []

    def weights():
        for name, tensor in tensors(model):
            gathered.append(name)
            yield name, tensor
    if fails:
        def full(*what):
            raise OSError("No space left on device")
        monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left") if fails else contextlib.nullcontext():
        save_snapshot(CONFIG, tmp_path, 2, weights, 1.5, is_rank0)
    assert gathered == ["weight", "bias"]
    assert [*kept(tmp_path)] == [2] * (is_rank0 and not fails)
    assert not [*tmp_path.rglob("*.tmp")]
    save_snapshot(CONFIG, tmp_path, 3, lambda: pytest.fail("none is due"), None, is_rank0)


def test_a_run_with_snapshots_alone(start):
    """One that was ended before its first checkpoint: a snapshot is read if its step is given."""
    shutil.copytree(start("alone", "--snapshots", "5"), folder := start.folder / "ended-early")
    shutil.rmtree(folder / "checkpoints")
    assert newest_run(start.folder, "ended-early") == folder
    assert load_run(folder, which="3")[-1] == 3
    with pytest.raises(ValueError, match="no checkpoint 'newest'; it has: 1, 2, 3, 6, 12"):
        load_run(folder)
    assert newest_run(start.folder).name == "alone", "without a name it is one to go on with"


def test_a_snapshot_is_no_checkpoint(model, tmp_path):
    """For whatever goes on with a run, or takes one for unbegun."""
    save_snapshot(CONFIG, tmp_path, 2, lambda: tensors(model), 1.5)
    assert newest_checkpoint(tmp_path) is best_checkpoint(tmp_path) is None
    new = {"step": 0, "seconds": 0.0}
    assert restore_weights(tmp_path, CONFIG, None, model) == new
    with pytest.raises(ValueError, match="lacks a part"):
        load_state(kept(tmp_path)[2])
    forget_unbegun(tmp_path)
    assert tmp_path.exists()


@pytest.mark.parametrize("preset", ["tiny", "gpt2"])
def test_every_preset_has_the_option(preset):
    words, given, fields, kind = train.read_command_line(["--preset", preset, "--snapshots", "12"])
    config = kind(**fields | given)
    assert config.snapshots == 12 and kind(**fields).snapshots == 0
    assert as_json(config)["snapshots"] == 12
