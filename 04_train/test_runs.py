"""Tests of runs.py: whole, or not there."""

import dataclasses
import errno
import io
import json

import pytest
import torch

import runs
from bpe import Tokenizer
from gpt import GPT
from presets import Config
from runs import (ModelOptions, best_checkpoint, find_checkpoint, load, load_model,
                  load_run, main, newest_checkpoint, newest_run, save_checkpoint)


def linear(value):
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, value)
    return model


def test_save_and_load(tmp_path):
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, linear(step), {"step": step, "rng": torch.ones(3)})
    newest = newest_checkpoint(tmp_path)
    assert newest.name == "step-000015"
    assert sorted(p.name for p in newest.parent.iterdir()) == ["step-000010", "step-000015"]
    model = linear(0)
    load_model(model, newest, "cpu")
    assert (model.weight == 15).all() and load(newest / "state.pt", "cpu")["step"] == 15


def kept(folder):
    return sorted(int(p.name.removeprefix("step-")) for p in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_and_the_best_are_kept(tmp_path, keep):
    """After each save: the last `keep`, and the lowest value so far, of equals the first."""
    vals = [3.0, None, 2.0, 2.5, None, 2.0, float("nan"), 1.5, 4.0, 4.0, 4.0]
    for step, val in enumerate(vals):
        save_checkpoint(tmp_path, step, linear(step), {}, keep, val)
        seen = [(v, i) for i, v in enumerate(vals[:step + 1]) if v is not None and v == v]
        expected = {*range(max(0, step - keep + 1), step + 1), min(seen)[1]}
        assert kept(tmp_path) == sorted(expected), f"after step {step}"
        assert best_checkpoint(tmp_path).name == f"step-{min(seen)[1]:06}"


def test_without_an_evaluation_there_is_no_best_one(tmp_path):
    assert best_checkpoint(tmp_path) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, linear(step), {})
    assert best_checkpoint(tmp_path) is None and kept(tmp_path) == [2, 3]
    (newest_checkpoint(tmp_path) / "val.json").unlink()  # as runs were saved before there was one
    assert best_checkpoint(tmp_path) is None


def test_find_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint 'best'; it has: none"):
        find_checkpoint(tmp_path, "best")
    for step, val in ((1, 2.0), (2, 1.0), (3, 1.5), (4, None)):
        save_checkpoint(tmp_path, step, linear(step), {}, val=val)
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
        save_checkpoint(tmp_path, step, linear(step), {})
    assert copy.exists() and newest_checkpoint(tmp_path).name == "step-000003"


def test_steps_are_numbers_not_words(tmp_path):
    for step in (999_998, 999_999, 1_000_000):
        save_checkpoint(tmp_path, step, linear(step), {})
    assert newest_checkpoint(tmp_path).name == "step-1000000"


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    save_checkpoint(tmp_path, 1, linear(1), {})
    with pytest.raises(ValueError, match="not finite"):
        save_checkpoint(tmp_path, 2, linear(float("inf")), {})
    assert newest_checkpoint(tmp_path).name == "step-000001"


def test_a_full_disk_spoils_nothing(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, linear(1), {})

    def full(*args):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed\n...")
    monkeypatch.setattr(runs.torch, "save", full)
    with pytest.raises(OSError, match="the earlier ones are whole"):
        save_checkpoint(tmp_path, 2, linear(2), {})
    assert kept(tmp_path) == [1]

    def full_for_python(*args):  # what torch makes of it when Python writes the file
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")
    monkeypatch.setattr(runs.torch, "save", full_for_python)
    with pytest.raises(OSError, match="earlier ones are whole: .*No space left on device"):
        save_checkpoint(tmp_path, 2, linear(2), {})
    assert kept(tmp_path) == [1]


def test_a_file_in_the_way(tmp_path):
    """As a user without the right to write there would see it."""
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(OSError, match="could not write .*step-000001, "):
        save_checkpoint(tmp_path, 1, linear(1), {})
    with pytest.raises(OSError, match="File exists: .*checkpoints"):
        runs.start_run(tmp_path / "checkpoints", "a")
    (tmp_path / "runs").symlink_to(tmp_path / "a disk that is not there")
    with pytest.raises(OSError, match="File exists: .*runs"):
        runs.start_run(tmp_path / "runs", "a")


def test_what_a_kill_leaves_behind_is_passed_over(tmp_path):
    save_checkpoint(tmp_path, 1, linear(1), {})
    half_written, half_deleted = (tmp_path / "checkpoints" / n for n in (".writing", "step-000002"))
    for folder in (half_written, half_deleted):
        folder.mkdir()
        (folder / "model.pt").write_bytes(b"...")
    assert newest_checkpoint(tmp_path).name == "step-000001"
    save_checkpoint(tmp_path, 2, linear(2), {})
    assert newest_checkpoint(tmp_path).name == "step-000002" and not half_written.exists()


def test_damaged_and_foreign_files(tmp_path):
    save_checkpoint(tmp_path, 1, linear(1), {})
    newest = newest_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="doesn't fit"):
        load_model(torch.nn.Linear(3, 3), newest, "cpu")
    whole = (newest / "model.pt").read_bytes()
    for n in (0, 1, 100, len(whole) - 10):
        (newest / "model.pt").write_bytes(whole[:n])
        with pytest.raises(ValueError, match="damaged"):
            load_model(linear(0), newest, "cpu")


def test_nothing_in_a_file_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("executed",))
    buffer = io.BytesIO()
    torch.save(Trap(), buffer)
    (tmp_path / "x.pt").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="damaged or no checkpoint"):
        load(tmp_path / "x.pt", "cpu")


def test_newest_run(tmp_path):
    for message in ("no run with", "no run 'a'"):
        with pytest.raises(ValueError, match=message):
            newest_run(tmp_path, "a" if "'a'" in message else None)
    for name in ("b", "a"):
        save_checkpoint(tmp_path / name, 1, linear(1), {})
    (tmp_path / "unfinished").mkdir()
    assert newest_run(tmp_path).name == "a" and newest_run(tmp_path, "b").name == "b"


def test_list_and_export(tmp_path, capsys, fails):
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    tokenizer = Tokenizer.train(["spam and eggs " * 9], 280)
    config = Config(n_layer=1, d_model=16, n_head=1, n_kv_head=1, d_ff=16, seq_len=32)
    folder = runs.start_run(tmp_path / "runs", "one")
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    tokenizer.save(folder / "tokenizer.json")
    save_checkpoint(folder, 5, GPT(config.gpt(tokenizer.vocab_size), seed=5), {}, val=1.0)
    model = GPT(config.gpt(tokenizer.vocab_size))
    save_checkpoint(folder, 7, model, {}, val=2.0)
    main(["list", "--runs-dir", str(tmp_path / "runs")])
    assert capsys.readouterr().out.startswith("one                  step 7 of 350, python, 1 l")
    main(["export", str(tmp_path / "out"), "--runs-dir", str(tmp_path / "runs"), "--run", "one"])
    assert "one, step 7" in capsys.readouterr().out
    main(["export", str(tmp_path / "best"), "--runs-dir", str(tmp_path / "runs"), "--checkpoint",
          "best"])
    assert "one, step 5" in capsys.readouterr().out
    assert load_run(folder)[3] == 7 and load_run(folder, which="best")[3] == 5
    assert "no checkpoint '6'; it has: newest, best, 5, 7" in fails(
        main, "export", tmp_path / "x", "--runs-dir", tmp_path / "runs", "--checkpoint", 6)
    with pytest.raises(ValueError, match="--checkpoint best and --weights .*: give one of them"):
        ModelOptions(weights=str(tmp_path / "out"), checkpoint="best").load()
    _, found, vocabulary, shape, step = ModelOptions(weights=str(tmp_path / "out")).load()
    shape = dataclasses.replace(shape, by_hand=False)  # True where PYTHONPATH has a reader's file
    assert step is None and shape == model.config and vocabulary.hash == tokenizer.hash
    for (name, ours), theirs in zip(model.state_dict().items(), found.state_dict().values()):
        assert torch.equal(ours, theirs), name
    assert "no run 'two'" in fails(main, "export", tmp_path / "x", "--run", "two", "--runs-dir",
                                   tmp_path / "runs")
    assert not (tmp_path / "x").exists()
