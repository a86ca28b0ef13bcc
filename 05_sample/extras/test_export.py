"""Tests of export.py; of the folder that it writes, test_weights.py."""

import json

import pytest
import torch

from bpe import Tokenizer
from export import main
from gpt import GPT
from presets import FullConfig
from runs import as_json, load_run, save_checkpoint, start_run, tensors
from sample import Options
from train import Config
from weights import read_model


def test_export(tmp_path, capsys, fails):
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    tokenizer = Tokenizer.train(["spam and eggs " * 9], 280)
    config = Config(n_layer=1, d_model=16, n_head=1, n_kv_head=1, d_ff=16, seq_len=32)
    folder = start_run(tmp_path / "runs", "one")
    (folder / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []}))
    tokenizer.save(folder / "tokenizer.json")
    for step, val in ((5, 1.0), (7, 2.0)):
        model = GPT(config.gpt(tokenizer.vocab_size), seed=step)
        save_checkpoint(folder, step, tensors(model), {}, val=val)
    runs_dir = ["--runs-dir", str(tmp_path / "runs")]
    main([str(tmp_path / "best"), *runs_dir, "--checkpoint", "best"])
    assert "one, step 5" in capsys.readouterr().out
    main([str(tmp_path / "out"), *runs_dir, "--run", "one"])
    assert "one, step 7" in capsys.readouterr().out
    assert "no run 'two'" in fails(main, tmp_path / "x", "--run", "two", *runs_dir)
    assert not (tmp_path / "x").exists() and not [*tmp_path.glob(".*.tmp")]
    assert "where to export to" in fails(main, "")
    assert "holds one, which is not of" in fails(main, tmp_path / "runs", "--run", "two", *runs_dir)
    (tmp_path / "file").write_text("")
    for wrong in ("file", "file/x"):  # found out before a model is loaded
        assert "Not a directory" in fails(main, tmp_path / wrong, "--run", "two", *runs_dir)
    with pytest.raises(ValueError, match="--checkpoint best and --weights x: give one of them"):
        Options(weights="x", checkpoint="best").load()
    _, found, vocabulary, shape, step = Options(weights=str(tmp_path / "out")).load()
    assert step is None and vocabulary.hash == tokenizer.hash
    assert (shape.n_layer, shape.d_model, shape.seq_len) == (1, 16, 32)
    for (name, ours), theirs in zip(model.state_dict().items(), found.state_dict().values()):
        assert torch.equal(ours, theirs), name


def test_adapters_are_merged(tmp_path):
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    tokenizer = Tokenizer.train(["spam and eggs " * 9], 280)
    config = FullConfig(vocab_size=280, n_layer=1, d_model=16, n_head=1, n_kv_head=1, d_ff=16,
                        seq_len=32, lora=2, init="x")
    folder = start_run(tmp_path / "runs", "tuned")
    (folder / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []}))
    tokenizer.save(folder / "tokenizer.json")
    model = config.make_model(280)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_checkpoint(folder, 1, tensors(model), {})
    main([str(tmp_path / "out"), "--runs-dir", str(tmp_path / "runs")])
    found, ids = read_model(tmp_path / "out"), torch.arange(20)[None]
    assert torch.allclose(found(ids), load_run(folder)[0](ids), atol=1e-5)
    assert not torch.allclose(found(ids), GPT(config.gpt(280))(ids), atol=0.1)
