"""Tests of starting.py: a run takes over the shape of a model from elsewhere, or is refused."""

import pytest

import rl
import sft
from bpe import Tokenizer
from gpt import GPTConfig, make_model
from metrics import read_metrics
from presets import ALL, FullConfig
from runs import load_run
from starting import adopt
from weights import export


def test_the_shape_of_a_model_from_elsewhere(tmp_path):
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    tokenizer = Tokenizer.train(["spam and eggs " * 9], 280)
    shape = GPTConfig(tokenizer.vocab_size, seq_len=64, n_layer=1, n_head=2, n_kv_head=1,
                      d_model=32, d_ff=48)
    export(make_model(shape), tokenizer, tmp_path / "model")
    given = {"init": str(tmp_path / "model")}

    def config(**more):
        return FullConfig(**adopt("continue", ALL["continue"], given | more) | given | more)
    assert config().gpt(999) == shape, "its own vocabulary, and no longer window than it has"
    assert config(seq_len=16).seq_len == 16
    with pytest.raises(ValueError, match="has n_layer 1, not 2: leave out --n-layer"):
        config(n_layer=2)
    with pytest.raises(ValueError, match="seq_len is 128, but the model in .* has a window of 64"):
        config(seq_len=128)
    with pytest.raises(ValueError, match="continue goes on from a model: give --init FOLDER"):
        adopt("continue", ALL["continue"], {})


@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_conversations_in_chatml(stage, tmp_path, quick_runs):
    """A model from elsewhere, whose tokenizer has ChatML's special tokens, learns to answer."""
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer.train(["What is 2 + 2? assistant #### 4 user " * 9], 280, "gpt4", names)
    shape = GPTConfig(tokenizer.vocab_size, seq_len=64, n_layer=1, n_head=2, n_kv_head=1,
                      d_model=32, d_ff=48)
    export(make_model(shape), tokenizer, tmp_path / "model")
    more = {"sft": [], "rl": ["--group", "2", "--answer-tokens", "6"]}[stage]
    {"sft": sft, "rl": rl}[stage].main(
        ["--init", str(tmp_path / "model"), "--data", "tasks,form=chat,only=addition,n=200",
         *"--seq-len 64 --steps 2 --batch-size 4 --micro-batch 2 --eval-tokens 100".split(),
         "--last-eval-tokens", "100", "--device", "cpu", "--runs-dir", str(tmp_path), "--data-dir",
         str(tmp_path / "data"), *more])
    rows = read_metrics(tmp_path / stage / "metrics.jsonl")
    assert sum("loss" in row for row in rows) == 2
    assert any("reward" in row for row in rows) == (stage == "rl")
    _, found, _, _ = load_run(tmp_path / stage)
    assert found.special == tokenizer.special
