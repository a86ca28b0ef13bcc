"""Tests of starting.py: a run takes over the shape of a model from elsewhere, or is refused."""

import pytest

from bpe import Tokenizer
from gpt import GPTConfig, make_model
from presets import ALL, FullConfig
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
