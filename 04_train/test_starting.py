"""Tests of starting.py: which run is meant, and what is refused before anything is made."""

import json

import pytest

import starting
from bpe import Tokenizer
from gpt import GPTConfig, make_model
from presets import PRESETS, Config
from starting import choose_run, new_config, resume_run
from weights import export


def make_run(runs_dir, name, **fields):
    folder = runs_dir / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(
        Config(**fields).to_json() | {"data_hash": "", "data_folders": []}))
    return folder


def test_a_new_run(tmp_path):
    folder, config = choose_run({"steps": 7}, "nano", tmp_path, None, False)
    assert folder is None and config.steps == 7 and config.n_layer == PRESETS["nano"]["n_layer"]
    assert choose_run({}, "nano", tmp_path, None, True)[0] is None, "there is nothing to resume"


def test_a_readers_file_runs_by_hand(tmp_path, monkeypatch):
    monkeypatch.setattr(starting, "by_hand", lambda: True)
    assert choose_run({}, "tiny", tmp_path, None, False)[1].by_hand
    assert not choose_run({"by_hand": False}, "tiny", tmp_path, None, False)[1].by_hand


def test_resume_run(tmp_path):
    assert resume_run({}, tmp_path, "a") is None
    for name in ("a-b", "a"):
        make_run(tmp_path, name, steps=5)
    assert resume_run({}, tmp_path, "a") == (tmp_path / "a", Config(steps=5))
    assert resume_run({"steps": 9, "keep": 3}, tmp_path, "a")[1] == Config(steps=9, keep=3)
    with pytest.raises(ValueError, match="a was started with lr 0.006, not 0.1; that is another"):
        resume_run({"lr": 0.1}, tmp_path, "a")


def test_what_cannot_be(tmp_path):
    for words, message in ((("nano", tmp_path, "a/b", False), "'a/b' is not one of a folder"),
                           (("nano", tmp_path, "..", False), "'..' is not one of a folder"),
                           (("nano", tmp_path, "a", True), "there is no run 'a' in"),
                           (("continue", tmp_path, None, False), "give --init FOLDER")):
        with pytest.raises(ValueError, match=message):
            choose_run({}, *words)


def test_the_shape_of_a_model_from_elsewhere(tmp_path):
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    tokenizer = Tokenizer.train(["spam and eggs " * 9], 280)
    shape = GPTConfig(tokenizer.vocab_size, seq_len=64, n_layer=1, n_head=2, n_kv_head=1,
                      d_model=32, d_ff=48)
    export(make_model(shape), tokenizer, tmp_path / "model")
    given = {"init": str(tmp_path / "model")}
    config = new_config(given, PRESETS["continue"])
    assert config.gpt(999) == shape, "its own vocabulary, and no longer window than it has"
    assert new_config(given | {"seq_len": 16}, PRESETS["continue"]).seq_len == 16
    with pytest.raises(ValueError, match="has n_layer 1, not 2: leave out --n-layer"):
        new_config(given | {"n_layer": 2}, PRESETS["continue"])
    with pytest.raises(ValueError, match="seq_len is 128, but the model in .* has a window of 64"):
        new_config(given | {"seq_len": 128}, PRESETS["continue"])
