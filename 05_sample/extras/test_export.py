"""Tests of export.py; of the folder that it writes, test_weights.py."""

import json

import pytest
import torch

from bpe import Tokenizer
from export import main
from gpt import GPT
from runs import as_json, save_checkpoint, start_run, tensors
from sample import Options
from train import Config


def test_export(tmp_path, capsys, fails):
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    tokenizer = Tokenizer.train(["spam and eggs " * 9], 280)
    config = Config(n_layer=1, d_model=16, n_head=1, n_kv_head=1, d_ff=16, seq_len=32)
    folder = start_run(tmp_path / "runs", "one")
    (folder / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []}), encoding="utf-8")
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
    assert "where to export to" in fails(main, "")
    with pytest.raises(ValueError, match="--checkpoint best and --weights x: give one of them"):
        Options(weights="x", checkpoint="best").load()
    _, found, vocabulary, shape, step = Options(weights=str(tmp_path / "out")).load()
    assert step is None and vocabulary.hash == tokenizer.hash
    assert (shape.n_layer, shape.d_model, shape.seq_len) == (1, 16, 32)
    for (name, ours), theirs in zip(model.state_dict().items(), found.state_dict().values()):
        assert torch.equal(ours, theirs), name
