"""Tests of runs.py: whole, or not there."""

import errno
import json
import math
import random
import shutil
import sys
import time
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import runs
from bpe import Tokenizer
from console import holding
from gpt import GPT
from runs import (all_checkpoints, as_json, best_checkpoint, choose_run, find_checkpoint,
                  load_run, load_state, load_weights, newest_checkpoint, newest_run,
                  save_checkpoint, step_of, tensors)
from train import Config


def whole_state(step):
    return {"step": step, "seconds": 1.0, "optimizer": {}, "loader": {}, "data": "",
            "rng": torch.get_rng_state()}


def linear(value):
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, value)
    return model


def test_save_checkpoint(tmp_path):
    run_folder = tmp_path / "saved"
    save_checkpoint(run_folder, 5, tensors(linear(5)), {"step": 5}, val=1.5)
    folder = run_folder / "checkpoints" / "step-000005"
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files == {"weights/weight.npy", "weights/bias.npy", "state.pt", "val.json",
                     "checksums.json"}, "these are the files that the top of runs.py lists"
    sums = json.loads((folder / "checksums.json").read_text())
    assert sums == {name: runs.file_hash(folder / name) for name in files - {"checksums.json"}}, (
        "checksums.json has the hash of every other file, by its name in the checkpoint")
    assert (np.load(folder / "weights" / "weight.npy") == 5).all(), "a tensor is an .npy file"
    assert torch.load(folder / "state.pt") == {"step": 5}, "the state is what torch.save() writes"
    assert json.loads((folder / "val.json").read_text()) == {"val_bits_per_byte": 1.5}
    assert [p.name for p in run_folder.iterdir()] == ["checkpoints"], "nothing else must be left"


def test_a_kill_at_any_moment_leaves_whole_checkpoints(tmp_path):
    """Looked at while the weights are being written."""
    run_folder = tmp_path / "killed"
    seen = []

    def weights():
        for pair in tensors(linear(1)):
            yield pair
            seen.append(all_checkpoints(run_folder))
    save_checkpoint(run_folder, 1, weights(), {})
    assert seen == [[], []], "half a checkpoint must not have the name of a whole one"
    assert kept(run_folder) == [1], "in the end the checkpoint has its name"


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    run_folder = tmp_path / "on-disk"
    run_folder.mkdir()
    (run_folder / "metrics.jsonl").touch()
    before, after = set(), set()
    monkeypatch.setattr(runs, "to_disk", lambda *paths: (
        after if all_checkpoints(run_folder) else before).update(p.name for p in paths))
    save_checkpoint(run_folder, 1, tensors(linear(1)), {})
    assert {"weights", "weight.npy", "bias.npy", "state.pt", "val.json", "checksums.json",
            "metrics.jsonl"} <= before, "all files must be on the disk before the renaming"
    assert {"checkpoints", run_folder.name} <= after, "after it, the folders with the new name"


def test_save_and_load(tmp_path):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, tensors(linear(step)), whole_state(step))
    newest = newest_checkpoint(tmp_path)
    assert newest.name == "step-000015"
    assert sorted(p.name for p in newest.parent.iterdir()) == ["step-000010", "step-000015"]
    model = linear(0)
    load_weights(model, newest)
    assert (model.weight == 15).all() and load_state(newest)["step"] == 15


def kept(folder):
    return sorted(int(p.name.removeprefix("step-")) for p in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_and_the_best_are_kept(tmp_path, keep):
    """After each save: the last `keep`, and the lowest value so far, of equals the first."""
    folder = tmp_path / str(keep)
    vals = [3.0, None, 2.0, 2.5, None, 2.0, float("nan"), 1.5, 4.0, 4.0, 4.0]
    for step, val in enumerate(vals):
        save_checkpoint(folder, step, tensors(linear(step)), {}, keep, val)
        seen = [(v, i) for i, v in enumerate(vals[:step + 1]) if v is not None and v == v]
        expected = {*range(max(0, step - keep + 1), step + 1), min(seen)[1]}
        assert kept(folder) == sorted(expected), (
            f"after step {step}: the newest {keep} and the best one must be kept")
        assert best_checkpoint(folder).name == f"step-{min(seen)[1]:06}"


def test_without_an_evaluation_there_is_no_best_one(tmp_path):
    assert best_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, tensors(linear(step)), {})
    assert best_checkpoint(tmp_path) is None and kept(tmp_path) == [2, 3]
    (newest_checkpoint(tmp_path) / "val.json").unlink()
    assert best_checkpoint(tmp_path) is None


def test_find_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint 'best'; it has: none"):
        find_checkpoint(tmp_path, "best")
    for step, val in ((1, 2.0), (2, 1.0), (3, 1.5), (4, None)):
        save_checkpoint(tmp_path, step, tensors(linear(step)), {}, val=val)
    for which, step in (("newest", 4), ("best", 2), ("3", 3)):
        assert find_checkpoint(tmp_path, which).name == f"step-00000{step}"
    for which in ("1", "x", ""):
        with pytest.raises(ValueError, match=f"no checkpoint '{which}'; it has: newest, best, 2, "):
            find_checkpoint(tmp_path, which)


def test_a_folder_that_is_no_checkpoint_is_left_alone(tmp_path):
    """Someone's copy of one, say."""
    copy = tmp_path / "checkpoints" / "step-000001-good"
    copy.mkdir(parents=True)
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, tensors(linear(step)), {})
    assert copy.exists() and newest_checkpoint(tmp_path).name == "step-000003"


def test_steps_are_numbers_not_words(tmp_path):
    for step in (999_998, 999_999, 1_000_000):
        save_checkpoint(tmp_path, step, tensors(linear(step)), {})
    assert newest_checkpoint(tmp_path).name == "step-1000000"


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run_folder = tmp_path / "not-finite"
    save_checkpoint(run_folder, 1, tensors(linear(1)), {})
    with pytest.raises(ValueError, match="not finite"):
        save_checkpoint(run_folder, 2, tensors(linear(float("inf"))), {})
        pytest.fail("weights that are nan or infinite must be refused with a ValueError")
    assert newest_checkpoint(run_folder).name == "step-000001"
    assert [p.name for p in run_folder.iterdir()] == ["checkpoints"], (
        "of a checkpoint that can't be written nothing must be left behind")


def test_a_full_disk_spoils_nothing(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, tensors(linear(1)), {})

    def full(*args):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed\n...")
    monkeypatch.setattr(runs.torch, "save", full)
    with pytest.raises(OSError, match="all saved before is whole: PytorchStreamWriter failed"):
        save_checkpoint(tmp_path, 2, tensors(linear(2)), {})
    assert kept(tmp_path) == [1]

    def full_for_python(*args):  # what torch makes of it when Python writes the file
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")
    monkeypatch.setattr(runs.torch, "save", full_for_python)
    with pytest.raises(OSError, match="saved before is whole: .*No space left on device"):
        save_checkpoint(tmp_path, 2, tensors(linear(2)), {})
    assert kept(tmp_path) == [1]


def test_a_file_in_the_way(tmp_path):
    """As a user without the right to write there would see it."""
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OSError, match="could not write .*step-000001; "):
        save_checkpoint(tmp_path, 1, tensors(linear(1)), {})
    with pytest.raises(OSError, match="File exists: .*checkpoints"):
        runs.start_run(tmp_path / "checkpoints", "a")
    (tmp_path / "runs").symlink_to(tmp_path / "a disk that is not there")
    with pytest.raises(OSError, match="File exists: .*runs"):
        runs.start_run(tmp_path / "runs", "a")


def test_what_a_kill_leaves_behind_is_no_obstacle(tmp_path):
    """Half a checkpoint that was being written, half of one that was being deleted."""
    with holding(tmp_path, "is being trained"):
        save_checkpoint(tmp_path, 1, tensors(linear(1)), {})
        for name in (".checkpoint.89abcdef.tmp", ".step-000001.tmp"):
            shutil.copytree(newest_checkpoint(tmp_path), tmp_path / name)
    with holding(tmp_path, "is being trained"):
        for step in (2, 3):
            save_checkpoint(tmp_path, step, tensors(linear(step)), {})
    assert kept(tmp_path) == [2, 3]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "checkpoints"]


def test_two_processes_that_save_at_once(tmp_path, monkeypatch):
    """As on file systems without locks: neither takes the other's half for its own."""
    save_checkpoint(tmp_path, 1, tensors(linear(1)), whole_state(1))

    def weights():
        yield from tensors(linear(2))
        save_checkpoint(tmp_path, 3, tensors(linear(3)), whole_state(3), keep=3)

    save_checkpoint(tmp_path, 2, weights(), whole_state(2), keep=3)
    assert kept(tmp_path) == [1, 2, 3]
    assert not any(runs.damage(checkpoint) for checkpoint in all_checkpoints(tmp_path))


def test_every_flipped_bit_is_noticed(tmp_path):
    """In any file of a checkpoint. The one before it is named; which is the best is forgotten."""
    for step in (1, 2):
        save_checkpoint(tmp_path, step, tensors(linear(step)), whole_state(step), val=1.0 / step)
    newest, rng = newest_checkpoint(tmp_path), random.Random(0)
    for file in [p for p in newest.rglob("*") if p.is_file()]:
        whole = file.read_bytes()
        for _ in range(30):
            at = rng.randrange(8 * len(whole))
            flipped = bytearray(whole)
            flipped[at // 8] ^= 1 << at % 8
            file.write_bytes(flipped)
            assert runs.damage(newest), f"byte {at // 8} of {file}"
            if file.parent.name == "weights" or file.name == "state.pt":
                with pytest.raises(ValueError, match="step-000002 is damaged: .*step-000001, before"
                                   " it, is whole: --checkpoint 1 .* --resume"):
                    load_weights(linear(0), newest)
                    load_state(newest)
            if file.name == "val.json":
                assert best_checkpoint(tmp_path).name == "step-000001"
        for short in (whole[:0], whole[:-1], whole + b"0"):
            file.write_bytes(short)
            assert runs.damage(newest), file
        file.unlink()
        assert runs.damage(newest), file
        file.write_bytes(whole)
        assert not runs.damage(newest)
    load_weights(linear(0), newest), load_state(newest)
    (newest.parent / "step-000001" / "state.pt").unlink()
    (newest / "state.pt").unlink()
    with pytest.raises(ValueError, match="step-000002 is damaged: .*no whole one before it"):
        load_state(newest)


def test_what_does_not_belong_together(tmp_path):
    """Whole files, but of another model, another step, or of less than a run."""
    save_checkpoint(tmp_path, 1, tensors(linear(1)), {"step": 1})
    newest = newest_checkpoint(tmp_path)
    with pytest.raises(ValueError, match=r"doesn't fit .*: 'bias' is \(2,\) of .*, not \(3,\) of "):
        load_weights(torch.nn.Linear(3, 3), newest)
    with pytest.raises(ValueError, match=r"doesn't fit .*: 'bias' is \(2,\) of .*, not absent"):
        load_weights(torch.nn.Linear(2, 2, bias=False), newest)
    with pytest.raises(ValueError, match="lacks a part: data, loader, optimizer, rng, seconds"):
        load_state(newest)
    save_checkpoint(tmp_path, 2, tensors(linear(1)), whole_state(3))
    with pytest.raises(ValueError, match="step-000002/state.pt is not of step 2,"):
        load_state(newest_checkpoint(tmp_path))
    save_checkpoint(tmp_path, 4, tensors(linear(1)), [1])
    with pytest.raises(ValueError, match="step-000004/state.pt is no state of a run"):
        load_state(newest_checkpoint(tmp_path))


def test_one_tensor_can_be_read_alone(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 2))
    model[1].weight = torch.nn.Parameter(model[0].weight.detach().T.clone())
    model[1].bias = model[1].bias
    model.register_module("again", model[0])  # as a tied head
    save_checkpoint(tmp_path, 1, tensors(model), {})
    newest = newest_checkpoint(tmp_path)
    assert sorted(p.name for p in (newest / "weights").iterdir()) == [
        "0.bias.npy", "0.weight.npy", "1.bias.npy", "1.weight.npy"]
    (newest / "weights" / "1.weight.npy").write_bytes(b"")
    assert not runs.damage(newest, "weights/0.weight.npy") and runs.damage(newest, "weights/1.w")
    alone = np.load(newest / "weights" / "0.weight.npy", mmap_mode="r")
    assert (alone == model[0].weight.detach().numpy()).all()


def test_restore_weights(tmp_path, monkeypatch):
    run_folder = tmp_path / "restored"
    model, data, begun = linear(0), Mock(hash="abc"), []
    monkeypatch.setitem(sys.modules, "starting", Mock(begin=lambda *what: begun.append(what)))
    new = {"step": 0, "seconds": 0.0}
    assert runs.restore_weights(run_folder, Config(), data, model) == new and not begun, (
        "a new run without an init begins at step 0, with the weights that the model has")
    assert runs.restore_weights(run_folder, Config(init="a"), data, model) == new, "it is a new run"
    assert begun == [(model, "a")], "a new run with an init begins with starting.begin()"
    monkeypatch.setitem(sys.modules, "bigrams", Mock(begin=lambda *what: begun.append(what) or 2.5))
    config = Config(bigrams=20)
    assert runs.restore_weights(run_folder, config, data, model) == new | {"seconds": 2.5}, (
        "the time that bigrams.begin() takes is part of the run")
    assert begun.pop() == (model, config, data)
    assert runs.restore_weights(run_folder, Config(bigrams=20, init="a"), data, model) == new, (
        "a model from elsewhere begins as it is, whatever bigrams are")
    assert begun.pop() == (model, "a")
    monkeypatch.setattr(runs, "housekeeping", None)
    assert runs.restore_weights(run_folder, config, data, model) == new and len(begun) == 1, (
        "where there are no extras, the run begins without")
    save_checkpoint(run_folder, 5, tensors(linear(5)), whole_state(5) | {"data": "abc"})
    with pytest.raises(ValueError, match="abc.*def"):
        runs.restore_weights(run_folder, Config(), Mock(hash="def"), model)
        pytest.fail("a run must not go on with other data than those it began with")
    assert (model.weight == 0).all(), "the data are compared before the weights are filled in"
    state = runs.restore_weights(run_folder, Config(init="a"), data, model)
    assert (model.weight == 5).all(), "the model must have the weights of the newest checkpoint"
    assert state["step"] == 5 and len(begun) == 1, "its state is returned, and init is the past"
    monkeypatch.undo()
    assert runs.restore_weights(run_folder, config, data, model)["step"] == 5


def test_a_run_that_goes_on_while_it_is_read(tmp_path, monkeypatch):
    """The checkpoint that was to be read is gone: there are newer ones in its stead."""
    config, tokenizer = Config(n_layer=1, d_model=16, d_ff=16, seq_len=32), Tokenizer([])
    (tmp_path / "config.json").write_text(
        json.dumps(as_json(config) | {"data_hash": "", "data_folders": []}))
    tokenizer.save(tmp_path / "tokenizer.json")
    model = GPT(config.gpt(tokenizer.vocab_size))
    save_checkpoint(tmp_path, 1, tensors(model), {})

    def meanwhile(checkpoint, part, check=runs.check):
        if step_of(checkpoint) < 5:
            save_checkpoint(tmp_path, step_of(checkpoint) + 1, tensors(model), {}, keep=1)
        check(checkpoint, part)
    monkeypatch.setattr(runs, "check", meanwhile)
    assert load_run(tmp_path)[3] == 5 and len(all_checkpoints(tmp_path)) == 1


def test_what_may_have_been_the_best_is_kept(tmp_path):
    for step, val in ((1, 1.0), (2, 3.0)):
        save_checkpoint(tmp_path, step, tensors(linear(step)), {}, val=val)
    path = tmp_path / "checkpoints" / "step-000001" / "val.json"
    path.write_text(path.read_text().replace("1", "7"))
    for step in (3, 4):
        save_checkpoint(tmp_path, step, tensors(linear(step)), {}, val=3.0)
    assert kept(tmp_path) == [1, 2, 3, 4] and best_checkpoint(tmp_path).name == "step-000002"


def test_the_best_one_is_looked_for_again(tmp_path, monkeypatch):
    """The trainer deletes it while it is looked for."""
    for step, val in ((2, 2.0), (3, 3.0)):
        save_checkpoint(tmp_path, step, tensors(linear(step)), {}, val=val)

    def meanwhile(checkpoint, val_of=runs.val_of, done=[]):
        if not done:
            done.append(1)
            save_checkpoint(tmp_path, 4, tensors(linear(4)), {}, keep=1, val=1.0)
        return val_of(checkpoint)
    monkeypatch.setattr(runs, "val_of", meanwhile)
    assert best_checkpoint(tmp_path).name == "step-000004"


@pytest.mark.parametrize("changed", [{"steps": 6.5}, {"by_hand": "no"}, {"data": [1]}, {"data": 1},
                                     {"data_dir": 5}, {"data_folders": [5]}, {"family": 3}])
def test_a_config_that_was_changed(tmp_path, changed):
    content = as_json(Config()) | {"data_hash": "", "data_folders": []} | changed
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="config.json is not the config of a run"):
        runs.read_config(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="config.json is not the config of a run"):
        runs.read_config(tmp_path)


SMALL = {"n_layer": 1, "d_model": 16, "d_ff": 16, "seq_len": 32}


@pytest.mark.parametrize("changed", [
    {name: value} for name, value in [
        ("steps", 2.5), ("steps", "3"), ("steps", None), ("steps", True), ("n_layer", 1.0),
        ("keep", math.inf), ("keep", 1.0), ("compile", "x"), ("compile", 0), ("lr", math.nan),
        ("lr", "0.1"), ("lr", True), ("seed", None), ("device", "tpu"), ("data", [])]], ids=str)
def test_fields_of_a_config_have_their_types(tmp_path, changed):
    """Also values that equal the default: 1.0 is no 1, 0 no False."""
    (tmp_path / "config.json").write_text(json.dumps(
        as_json(Config(**SMALL)) | {"data_hash": "", "data_folders": []} | changed))
    with pytest.raises(ValueError, match=f"is not the config of a run.*{[*changed][0]} is "):
        runs.read_config(tmp_path)


@pytest.mark.parametrize("changed", [{"n_layer": 2**31 - 1}, {"n_layer": 3}, {"d_ff": 2**31 - 1},
                                     {"d_model": 2**20, "n_head": 1, "n_kv_head": 1},
                                     {"d_model": 2**31 - 2, "n_head": 1, "n_kv_head": 1,
                                      "d_ff": 2**31 - 1}], ids=str)
def test_a_config_of_a_giant_is_refused_before_it_is_built(tmp_path, changed):
    tokenizer, config = Tokenizer([]), Config(**SMALL)
    tokenizer.save(tmp_path / "tokenizer.json")
    save_checkpoint(tmp_path, 1, tensors(GPT(config.gpt(tokenizer.vocab_size))), {})
    (tmp_path / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []} | changed))
    start = time.monotonic()
    with pytest.raises(ValueError, match="doesn't fit the config of its run: its 6 files of"):
        load_run(tmp_path)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("damaged", [
    lambda data: data[:50], lambda data: b"", lambda data: data[:-1],
    lambda data: b"PK\3\4" + data[4:], lambda data: b"\x80\4" + data[2:],
    lambda data: data.replace(b"<f4", b"|O8"), lambda data: data.replace(b"<f4", b">f4"),
    lambda data: data.replace(b"<f4", b"<i4"), lambda data: data.replace(b"(2, 2)", b"((((((")])
def test_an_array_that_is_none(tmp_path, damaged):
    """Its checksum is right: someone has made it so."""
    save_checkpoint(tmp_path, 1, tensors(linear(1)), {})
    newest = newest_checkpoint(tmp_path)
    path, sums = newest / "weights" / "weight.npy", json.loads(
        (newest / "checksums.json").read_text())
    path.write_bytes(damaged(path.read_bytes()))
    sums["weights/weight.npy"] = runs.file_hash(path)
    (newest / "checksums.json").write_text(json.dumps(sums))
    expected = "weight.npy is no array|doesn't fit .*'weight' is"
    with pytest.raises(ValueError, match=expected) as error:
        load_weights(linear(0), newest)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part, value", [("step", None), ("step", "1"), ("seconds", None),
                                         ("optimizer", []), ("rng", [1]), ("data", None)])
def test_a_state_whose_parts_have_other_types(tmp_path, part, value):
    save_checkpoint(tmp_path, 1, tensors(linear(1)), whole_state(1) | {part: value})
    with pytest.raises(ValueError, match=f"state.pt is not of step 1, .*: {part}$"):
        load_state(newest_checkpoint(tmp_path))


def test_a_state_that_does_not_fit_the_run():
    with pytest.raises(ValueError, match="state doesn't fit the run: KeyError"):
        runs.restore_state(whole_state(1), optimizer=torch.optim.SGD([torch.ones(1)], lr=1.0))


@pytest.mark.parametrize("error", [
    MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5 GiB"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 5 GiB")], ids=repr)
def test_lack_of_memory_is_no_fault_of_the_files(tmp_path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error
    save_checkpoint(tmp_path, 1, tensors(linear(1)), whole_state(1))
    checkpoint = newest_checkpoint(tmp_path)
    monkeypatch.setattr(np, "load", fail)
    monkeypatch.setattr(torch, "load", fail)
    for work in (lambda: load_state(checkpoint), lambda: load_weights(linear(0), checkpoint),
                 lambda: runs.restore_state(whole_state(1), optimizer=Mock(load_state_dict=fail))):
        with pytest.raises(type(error)) as raised:
            work()
        assert raised.value is error


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "3", '{"val_bits_per_byte": "1"}', "{}",
                                  '{"val_bits_per_byte": 1' + "0" * 400 + "}", "\0"])
def test_val_json_is_only_a_hint(tmp_path, text):
    save_checkpoint(tmp_path, 1, tensors(linear(1)), {}, val=1.0)
    newest = newest_checkpoint(tmp_path)
    (newest / "val.json").write_text(text)
    sums = json.loads((newest / "checksums.json").read_text())
    sums["val.json"] = runs.file_hash(newest / "val.json")
    (newest / "checksums.json").write_text(json.dumps(sums))
    assert runs.val_of(newest) == math.inf and best_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 2, tensors(linear(1)), {}, keep=1)
    assert kept(tmp_path) == [2]


def test_nothing_in_a_file_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("executed",))
    save_checkpoint(tmp_path, 1, tensors(linear(1)), {"rng": Trap()})
    with pytest.raises(ValueError, match="state.pt is no state of a run") as error:
        load_state(newest_checkpoint(tmp_path))
    assert "weights_only" not in str(error.value), "torch's advice would be to execute it"


def test_newest_run(tmp_path):
    for message in ("no run with", "no run 'a'"):
        with pytest.raises(ValueError, match=message):
            newest_run(tmp_path, "a" if "'a'" in message else None)
    for name in ("b", "a"):
        save_checkpoint(tmp_path / name, 1, tensors(linear(1)), {})
    (tmp_path / "unfinished").mkdir()
    assert newest_run(tmp_path).name == "a" and newest_run(tmp_path, "b").name == "b"
    (newest_checkpoint(tmp_path / "b") / "model.pt").touch()  # one of an earlier version
    assert newest_run(tmp_path).name == "a", "it is in nobody's way"


def test_load_run(tmp_path):
    tokenizer = Tokenizer.train(["spam and eggs " * 9], 280)
    config = Config(n_layer=1, d_model=16, n_head=1, n_kv_head=1, d_ff=16, seq_len=32)
    folder = runs.start_run(tmp_path / "runs", "one")
    (folder / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []}))
    tokenizer.save(folder / "tokenizer.json")
    for step, val in ((5, 1.0), (7, 2.0)):
        model = GPT(config.gpt(tokenizer.vocab_size), seed=step)
        save_checkpoint(folder, step, tensors(model), {}, val=val)
    assert load_run(folder)[3] == 7 and load_run(folder, which="best")[3] == 5
    with pytest.raises(ValueError, match="no checkpoint '6'; it has: newest, best, 5, 7"):
        load_run(folder, which="6")


def test_a_config_with_more_fields(tmp_path):
    """Another family, label smoothing ...: extras/presets.py's Config, and back."""
    from presets import ALL, FullConfig
    for config in (FullConfig(**ALL["scratch"]), FullConfig(z_loss=0.1), Config(steps=3)):
        (tmp_path / "config.json").write_text(json.dumps(
            as_json(config) | {"data_hash": "", "data_folders": []}))
        assert runs.read_config(tmp_path) == config


# ---- which run is meant ----
class Words:
    """The options that name a run."""

    def __init__(self, runs_dir, name=None, resume=False):
        self.runs_dir, self.name, self.resume, self.preset = runs_dir, name, resume, "nano"


def test_which_run_is_meant(tmp_path):
    """What --resume means is test_resuming.py's."""
    assert choose_run(Words(tmp_path), {"steps": 7}, {}, Config) == (None, Config(steps=7))
    for name, message in (("a/b", "'a/b' is not one of a folder"), ("..", "'..' is not one of a")):
        with pytest.raises(ValueError, match=message):
            choose_run(Words(tmp_path, name), {}, {}, Config)


def test_a_copy_of_the_spine_goes_on_with_the_run_of_that_name(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "housekeeping", None)
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "config.json").write_text(json.dumps(
        as_json(Config(steps=5)) | {"data_hash": "", "data_folders": []}))
    found = choose_run(Words(tmp_path, resume=True), {"steps": 9}, {}, Config)
    assert found == (tmp_path / "nano", Config(steps=9))
    with pytest.raises(ValueError, match="with another lr it is another run: leave --lr out"):
        choose_run(Words(tmp_path, resume=True), {"lr": 0.1, "by_hand": True}, {}, Config)
    with pytest.raises(OSError, match="No such file or directory"):
        choose_run(Words(tmp_path, "b", resume=True), {}, {}, Config)
