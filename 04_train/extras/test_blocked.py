"""Tests of blocked.py: a copy that computes the same."""

import torch
from torch import nn

from blocked import Blocked, for_reading
from gpt import GPT, GPTConfig
from lora import add_adapters


def test_for_reading():
    """A copy for texts of any length, whose numbers are the model's but for their last bits."""
    model = GPT(GPTConfig(vocab_size=300, seq_len=64, n_layer=2, d_model=64, n_head=2, d_ff=96))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    fast = for_reading(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_parameters())
    assert isinstance(fast.blocks[0].mlp.up, Blocked) == torch.backends.mkldnn.is_available()
    for shape in ((1, 1), (1, 64), (5, 33)):
        ids = torch.randint(0, 300, shape)
        with torch.inference_mode():
            assert torch.allclose(fast(ids), model(ids), atol=1e-4), shape
    meta = GPT(GPTConfig()).to("meta")
    assert for_reading(meta) is meta, "elsewhere than on a CPU it stays as it is"


def test_adapters_are_merged():
    adapted = add_adapters(GPT(GPTConfig(vocab_size=61, d_model=32, n_head=2, d_ff=48)), 4)
    for parameter in adapted.parameters():
        nn.init.normal_(parameter, std=0.2)
    ids = torch.randint(61, (1, 40))
    expected = adapted(ids)
    assert torch.allclose(for_reading(adapted)(ids), expected, atol=1e-4)
