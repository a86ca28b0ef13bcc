"""Tests of compiling.py: what is compiled, how often, and when gradients arrive."""

import copy
import dataclasses
import functools

import pytest
import torch
from torch._dynamo.utils import counters

import compiling  # noqa: F401, what Config.objective() imports
from family import MODELS
from gpt import generate, make_model
from nonfinite import first_bad
from presets import FullConfig
from train import Config

SMALL = dict(vocab_size=31, seq_len=8, n_layer=3, n_head=2, n_kv_head=1, d_model=8, d_ff=16)


@pytest.fixture(autouse=True)
def without_inductor(monkeypatch):
    """Its kernels take minutes to build; where the graphs end and what autograd sees are the same.
    """
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def random_model(config):
    model = make_model(config)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    return model


def windows(n=2):
    ids = torch.randint(31, (n, 9), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1], ids[:, 1:]


def arrivals(model, loss):
    """A backward pass: the names of parameters as their gradients are complete, among them "out 1"
    when the backward pass of block 1 begins.
    """
    seen, handles = [], []
    for name, p in model.named_parameters():
        handles.append(p.register_post_accumulate_grad_hook(lambda p, name=name: seen.append(name)))
    for i, block in enumerate(model.blocks):
        handles.append(block.register_forward_hook(lambda block, given, out, i=i: out.register_hook(
            lambda gradient: seen.append(f"out {i}")) and None))
    loss(*windows()).sum().backward()
    for handle in handles:
        handle.remove()
    return seen


CONFIGS = {"ours": Config(**SMALL, compile=True),
           "gpt2": FullConfig(**MODELS["gpt2"] | SMALL | {"n_kv_head": 2}, z_loss=0.01,
                              compile=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_blocks_are_compiled_one_by_one(name):
    """The gradients are as without; those of a block are all there before the backward pass of the
    block below begins; its code is compiled once, not for each block, and not again in a next step.
    """
    config = CONFIGS[name]
    model = random_model(config.gpt(31))
    names = list(model.state_dict())
    dataclasses.replace(config, compile=False).objective(model)(*windows()).sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss = config.objective(model)
    loss(*windows()).sum().backward()  # compiled without the hooks of arrivals()
    for p, gradient in zip(model.parameters(), expected):
        torch.testing.assert_close(p.grad, gradient)
    assert list(model.state_dict()) == names, "checkpoints have the names of the plain model"
    n_graphs = counters["stats"]["unique_graphs"]
    assert n_graphs <= 3, "a block, the head, the loss"
    seen = arrivals(model, loss)
    bounds = [seen.index(f"out {i}") for i in (2, 1, 0)] + [len(seen)]
    for i, begin, end in zip((2, 1, 0), bounds, bounds[1:]):
        inside = {name for name in seen[begin:end] if name.startswith("blocks.")}
        assert inside == {name for name, _ in model.named_parameters()
                          if name.startswith(f"blocks.{i}.")}, f"block {i}: {seen}"
    assert counters["stats"]["unique_graphs"] == n_graphs and not counters["recompile_limit"]


@pytest.mark.slow
def test_what_else_a_compiled_model_does():
    """It is evaluated, it writes, without compiling anything for that; a copy is on its own; and
    what is not finite is found inside a block.
    """
    config = CONFIGS["ours"]
    model, plain = random_model(config.gpt(31)), random_model(config.gpt(31))
    config.objective(model)(*windows()).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(model.loss(*windows()), plain.loss(*windows()))
    n_graphs = counters["stats"]["unique_graphs"]
    assert ([int(i) for i in generate(model, [[1, 2]], 12)]
            == [int(i) for i in generate(plain, [[1, 2]], 12)])
    assert counters["stats"]["unique_graphs"] == n_graphs, "lengths change with each id"
    twin = copy.deepcopy(model)
    for p in twin.parameters():
        p.data.zero_()
    assert not twin.loss(*windows()).sub(torch.tensor(31.0).log()).abs().gt(1e-6).any()
    model.blocks[1].mlp.up.register_forward_hook(lambda *given: given[-1] * float("inf"))
    assert first_bad(model, windows(), config).startswith("what comes out of blocks.1.mlp.up")
