"""Tests of nonfinite.py: of a model in which one number went bad, it names the first that did."""

import math

import numpy as np
import pytest
import torch

from nonfinite import first_bad, how_bad
from optim import make_optimizer
from sft import packed_loss
from test_watch import NOTHING, every_family, hooks, random_ids, random_model
from train import Config, train_step


def test_how_bad():
    assert how_bad(torch.tensor([1.0, -3e38])) == how_bad(torch.tensor([1, 2])) == ""
    bad = torch.zeros(40, 50)
    bad[0, :3], bad[1, 0], bad[2, 0] = math.nan, math.inf, -math.inf
    assert how_bad(bad) == "3 nan and 2 inf of 2,000 numbers"


def bad(model, micro_batch=2, n=4, dtype="float32"):
    return first_bad(model, (random_ids(n, 16), random_ids(n, 16, seed=1)),
                     Config(micro_batch=micro_batch, dtype=dtype))


@every_family
def test_first_bad_weight(family):
    for name in dict(random_model(family).named_parameters()):
        model = random_model(family)
        model.get_parameter(name).data.view(-1)[:2] = torch.tensor([math.nan, math.inf])
        n = model.get_parameter(name).numel()
        assert bad(model) == f"the weight {name}: 1 nan and 1 inf of {n:,} numbers"


@every_family
@pytest.mark.parametrize("layer", [0, 1])
def test_first_bad_output(family, layer):
    """Weights so large that a sum of products is no float32, in one matrix."""
    for part in ("attention.qkv", "attention.out", "mlp.up", "mlp.down"):
        model = random_model(family, std=1.0)
        with torch.no_grad():
            model.get_submodule(f"blocks.{layer}.{part}").weight.fill_(3e38)
        line = bad(model)
        assert line.startswith(f"what comes out of blocks.{layer}.{part}: "), line
        assert hooks(model) == 0


def test_first_bad_between_modules():
    """What no module does alone: ReLU^2 makes 1e60 of 1e30; two halves of a stream add up."""
    model = random_model()
    with torch.no_grad():
        model.blocks[1].mlp.up.weight.mul_(1e30)
    assert bad(model).startswith("what goes into blocks.1.mlp.down: 0 nan and ")
    model = random_model("llama")
    for module in (model.blocks[0].attention, model.blocks[0].mlp):
        module.register_forward_hook(lambda module, inputs, output: output * 0 + 3e38)
    assert bad(model) == "what comes out of blocks.0: 0 nan and 1,024 inf of 1,024 numbers"


def test_first_bad_loss():
    model = random_model()
    loss = model.loss
    model.loss = lambda ids, targets: loss(ids, targets) / (targets != targets[0, 0])
    assert bad(model).startswith("the loss: ") and "inf of 32 numbers" in bad(model)


def test_first_bad_gradient_of_a_weight():
    """The weights, and all that is computed forward, are good. Of two the one made first."""
    model = random_model()
    model.blocks[0].mlp.up.weight.register_hook(lambda gradient: gradient * math.inf)
    line = bad(model)
    assert line.startswith("the gradient of the weight blocks.0.mlp.up.weight: "), line
    model.blocks[1].attention.out.weight.register_hook(lambda gradient: gradient * math.nan)
    assert bad(model) == ("the gradient of the weight blocks.1.attention.out.weight: "
                          "1,024 nan and 0 inf of 1,024 numbers")


@every_family
def test_first_bad_gradient_of_an_output(family):
    """It spoils all weights below, but those are not where it began."""
    model = random_model(family)

    def spoil(module, inputs, output):
        output.register_hook(lambda gradient: gradient * math.nan)
    model.blocks[1].mlp.up.register_forward_hook(spoil)
    line = bad(model)
    assert line.startswith("the gradient of what comes out of blocks.1.mlp.up: 2,048 nan "), line


def test_first_bad_norm():
    """Gradients that are finite, and whose squares are not."""
    model = random_model()
    model.blocks[1].mlp.up.weight.register_hook(lambda gradient: gradient.sign() * 1e25)
    line = bad(model)
    assert line.startswith("the norm of all gradients, the largest that of "
                           "blocks.1.mlp.up.weight: "), line


def test_first_bad_micro_batch():
    """The one that is bad may be the last; the earlier ones go forward and back first."""
    model, calls = random_model(), []

    def spoil(module, inputs, output):
        calls.append(len(output))
        return output * (math.nan if len(calls) == 3 else 1)
    model.blocks[0].mlp.register_forward_hook(spoil)
    assert bad(model, 2, 5) == "what comes out of blocks.0.mlp: 512 nan and 0 inf of 512 numbers"
    assert calls == [2, 2, 1]


def test_first_bad_computes_as_the_step_did():
    """What float32 holds, float16 does not."""
    model = random_model()
    with torch.no_grad():
        model.blocks[1].attention.qkv.weight.mul_(5e4)
    assert bad(model) == NOTHING
    found = bad(model, dtype="float16")
    assert found.startswith("what comes out of blocks.1.attention.qkv: 0 nan and ")
    assert bad(model, dtype="bfloat16") == NOTHING


def test_a_step_that_is_not_finite_says_where_that_began():
    model, ids = random_model(), random_ids(2, 16).numpy()
    model.blocks[1].mlp.up.weight.data[3, 4] = math.inf
    with pytest.raises(ValueError, match="^step 8: loss nan.*blocks.1.mlp.up.weight: 0 nan and 1"):
        train_step(model, make_optimizer(model, Config()), (ids, ids), 7, Config())


def test_first_bad_computes_the_loss_of_the_step():
    """Of packed conversations, with the mask that keeps them apart."""
    model, ids, seen = random_model(), random_ids(3, 16), []
    batch = ids.numpy(), random_ids(3, 16, seed=1).numpy(), np.repeat([[0] * 8 + [8] * 8], 3, 0)

    def loss(*parts):
        seen.append(packed_loss(model.loss, *parts).detach())
        return seen[-1].clone().requires_grad_() * math.nan
    with pytest.raises(ValueError, match="first to go bad: the loss: 48 nan and 0 inf of 48 num"):
        train_step(model, make_optimizer(model, Config()), batch, 7, Config(), loss)
    step, again = seen
    assert torch.equal(step, again) and not torch.allclose(
        again, model.loss(*map(torch.tensor, batch[:2]))), "each conversation sees only itself"


def test_first_bad_leaves_gradients_alone():
    """They are what another process may still wait for: it adds nothing, and sends nothing."""
    model = random_model()
    for p in model.parameters():
        p.grad = torch.full_like(p, math.nan)  # as clipping by a norm of nan leaves them
        p.register_post_accumulate_grad_hook(lambda p: pytest.fail("a gradient was added"))
    kept, weights = [p.grad for p in model.parameters()], {
        name: p.detach().clone() for name, p in model.named_parameters()}
    assert bad(model) == NOTHING, "what is in .grad says nothing"
    assert all(p.grad is grad for p, grad in zip(model.parameters(), kept))
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    masked = torch.full((2, 16), -1)
    found = first_bad(model, (random_ids(2, 16), masked), Config(micro_batch=2))
    assert found == NOTHING, "nothing to be learned"
