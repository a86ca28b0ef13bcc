"""Tests of runs.py: whole, or not there."""

import dataclasses
import io
import json

import pytest
import torch

import runs
from bpe import Tokenizer
from gpt import GPT
from presets import Config
from runs import (ModelOptions, load, load_model, main, newest_checkpoint, newest_run,
                  save_checkpoint)


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
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000001"]


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
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    tokenizer.save(folder / "tokenizer.json")
    model = GPT(config.gpt(tokenizer.vocab_size))
    save_checkpoint(folder, 7, model, {})
    main(["list", "--runs-dir", str(tmp_path / "runs")])
    assert capsys.readouterr().out.startswith("one                  step 7 of 700, python, 1 l")
    main(["export", str(tmp_path / "out"), "--runs-dir", str(tmp_path / "runs"), "--run", "one"])
    assert "one, step 7" in capsys.readouterr().out
    _, found, vocabulary, shape, step = ModelOptions(weights=str(tmp_path / "out")).load()
    assert step is None and shape == model.config and vocabulary.hash == tokenizer.hash
    for (name, ours), theirs in zip(model.state_dict().items(), found.state_dict().values()):
        assert torch.equal(ours, theirs), name
    assert "no run 'two'" in fails(main, "export", tmp_path / "x", "--run", "two", "--runs-dir",
                                   tmp_path / "runs")
    assert not (tmp_path / "x").exists()
