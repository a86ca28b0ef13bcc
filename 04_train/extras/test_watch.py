"""Tests of watch.py: what stands out, what moved, what is large; and that a run that is watched is
the same run.
"""

import math

import numpy as np
import pytest
import torch
from torch import nn

from family import FAMILIES, dimensions, family_of, model_config
from gpt import make_model
from nonfinite import first_bad
from optim import make_optimizer
from train import Config
from watch import Spikes, activation_scales, group_of, listening, sampled, update_ratios

every_family = pytest.mark.parametrize("family", FAMILIES)
NOTHING = "nothing here: done again, all that this process does is finite"


def random_model(family="modern", std=0.2, **others):
    small = dimensions(2, 32, 2, 1, 64, vocab_size=61, seq_len=16)
    model = make_model(model_config(**FAMILIES[family] | small | others))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=std, generator=generator)
    return model


def random_ids(*shape, seed=0):
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


def hooks(model):
    """How many hooks a model has, on its modules and its weights."""
    return (sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
            + sum(len(p._backward_hooks or ()) for p in model.parameters()))


# ---- the loss ----
def after(losses):
    """Spikes that have seen these losses."""
    spikes = Spikes()
    for loss in losses:
        spikes.seen(float(loss))
    return spikes


def test_seen():
    assert not after([1, 3] * 10).seen(6.0), "4 deviations are not more than 4"
    spikes = after([1, 3] * 10)
    assert spikes.seen(9.0) and spikes.recent[-1] == 6.0, "a spike enters as the limit"
    assert len(spikes.recent) == 21 and spikes.recent[:2] == [1, 3]
    assert not after([1, 3] * 10).seen(-9.0), "a loss far below the others is good news"
    assert not after([1, 3] * 4 + [1]).seen(99.0), "9 losses are too few to say"
    assert after([1, 3] * 5).seen(99.0), "10 are enough"
    spikes = after([100] * 5 + [1, 3] * 25)
    assert spikes.recent == [1, 3] * 25, "only the last 50 losses are kept and count"
    assert spikes.seen(6.5), "what is long gone makes no difference"
    rng, spikes, recent, n = np.random.default_rng(0), Spikes(), [], 0
    for i in range(300):  # the same, with numpy
        loss = float(5 - i / 100 + rng.normal() * 0.1 + (i % 40 == 39) * rng.exponential())
        limit = np.mean(recent) + 4 * np.std(recent) if i >= 10 else np.inf
        found = spikes.seen(loss)
        assert found == (loss > limit), (
            f"loss {i} is {loss}: a spike lies above {limit}, the mean and 4 standard deviations")
        recent, n = [*recent, min(loss, limit)][-50:], n + found
        assert spikes.recent == pytest.approx(recent)
    assert n >= 3, "no spike was there to be seen"


def test_a_spike_does_not_hide_the_next():
    noise = np.random.default_rng(0).normal(size=100)
    spikes = after(noise)
    assert spikes.seen(1000.0) and spikes.seen(20.0), "the first has widened what is expected"


def test_a_new_level_is_a_spike_for_a_while():
    noise = np.random.default_rng(0).normal(size=200)
    spikes = after(noise[:100])
    found = [spikes.seen(float(100 + x)) for x in noise[100:]]
    n = found.index(False)
    assert 10 < n < 30 and not any(found[n + 1:]), "100 deviations higher, and never got used to"


def test_noise_is_seldom_a_spike():
    spikes = Spikes()
    found = sum(spikes.seen(float(x)) for x in np.random.default_rng(0).normal(size=10_000))
    assert found < 6, f"{found} of 10,000"
    assert not any(map(Spikes().seen, [2.0] * 100)), "equal losses are no spikes"


# ---- the weights ----
def snapshot(named):
    return {name: sampled(p) for name, p in named}


@every_family
def test_group_of(family):
    model = random_model(family)
    found = {group_of(name) for name, _ in model.named_parameters()}
    expected = {"embed", *(f"blocks.{i}.{part}" for i in (0, 1) for part in ("attention", "mlp"))}
    choices = family_of(model.config)
    expected |= {"head"} if not choices.tied else set()
    expected |= {"norms"} if choices.gains else set()
    expected |= {"position_embed"} if choices.positions == "learned" else set()
    assert found == expected
    assert group_of("blocks.11.mlp.down.bias") == "blocks.11.mlp"
    assert group_of("blocks.0.attention_norm.weight") == group_of("norm.bias") == "norms"


def test_update_ratios(explains):
    model = nn.Module()
    model.embed, model.head, model.position_embed = nn.Module(), nn.Module(), nn.Module()
    model.embed.a = nn.Parameter(torch.tensor([3.0]))
    model.embed.b = nn.Parameter(torch.tensor([4.0, 0.0]))
    model.head.a = nn.Parameter(torch.tensor([[1.0, -1.0]]))
    model.head.b = nn.Parameter(torch.tensor([-1.0, 1.0, 2.0]))
    model.position_embed.a = nn.Parameter(torch.zeros(2))
    before = snapshot(model.named_parameters())
    with torch.no_grad():
        model.embed.b[1] = 0.5
        model.head.a.copy_(torch.tensor([[2.0, -2.0]]))
        model.position_embed.a += 1
    with explains("a group that was all zeros is left out, not divided by"):
        found = update_ratios(before, model.named_parameters())
    assert found["embed"] == pytest.approx(0.1), "0.5 / 5: all tensors of a group together"
    assert found["head"] == pytest.approx(0.5), "of the size before, not after"
    assert list(found) == ["embed", "head"], "a share of nothing is nothing one can say"
    assert all(type(ratio) is float for ratio in found.values())
    still = update_ratios(snapshot(model.named_parameters()), model.named_parameters())
    assert set(still.values()) == {0.0}, "nothing has moved"


@pytest.mark.parametrize("moved, off", [(1, 0.012), (30, 0.06)], ids=["all", "a row in 30"])
def test_update_ratios_of_large_tensors(moved, off):
    """An estimate, within three of the standard errors that are stated; and nearly nothing kept."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1500, 512, generator=generator)
    change = 0.01 * torch.randn(1500, 512, generator=generator)
    change[torch.arange(1500) % moved > 0] = 0
    pairs = {"embed.weight": weight, "embed.b": torch.ones(8)}
    before = snapshot(pairs.items())
    assert sum(t.untyped_storage().nbytes() for t in before.values()) < weight.nbytes / 10
    [found] = update_ratios(before, (pairs | {"embed.weight": weight + change}).items()).values()
    exact = float(change.norm()) / math.sqrt(float(weight.square().sum()) + 8)
    assert found == pytest.approx(exact, rel=off) and found != exact
    [still] = update_ratios(before, pairs.items()).values()
    assert still == 0, "the same places are looked at before and after"


@every_family
def test_update_ratios_of_adamw(family):
    """Its first step moves every number by lr, whatever the gradient."""
    model, config = random_model(family), Config(lr=1e-3, weight_decay=0.0)
    optimizer, before = make_optimizer(model, config), snapshot(model.named_parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    found = update_ratios(before, model.named_parameters())
    for group, ratio in found.items():
        numbers = torch.cat([p for n, p in before.items() if group_of(n) == group])
        assert ratio == pytest.approx(1e-3 / numbers.square().mean().sqrt().item(), rel=1e-3)


# ---- what is computed from them ----
def test_listening():
    """The order of computation, there and back."""
    model, heard = random_model(n_layer=1), []
    with listening(model, lambda what, tensor: heard.append(what)):
        model(random_ids(2, 8)).sum().backward()
    forward = [what for what in heard if not what.startswith("the gradient")]
    assert forward[:3] == ["what goes into the model", "what goes into embed",
                           "what comes out of embed"]
    assert forward[-2:] == ["what comes out of head", "what comes out of the model"]
    assert forward.index("what comes out of blocks.0.attention") < forward.index(
        "what goes into blocks.0.mlp") < forward.index("what comes out of blocks.0")
    back = heard[len(forward):]
    assert all(what.startswith("the gradient of ") for what in back)
    assert back[0] == "the gradient of what comes out of the model"
    assert back[-1] == "the gradient of the weight embed.weight"
    assert back.index("the gradient of the weight blocks.0.mlp.down.weight") < back.index(
        "the gradient of what comes out of blocks.0.mlp.up") < back.index(
        "the gradient of the weight blocks.0.attention.qkv.weight")
    assert {what.split()[-1] for what in back if "weight" in what} == {
        name for name, _ in model.named_parameters()}
    assert hooks(model) == 0


@every_family
def test_activation_scales(family):
    """Each is read by the slow way: a model that ends after so many blocks."""
    model, ids = random_model(family), random_ids(1, 16)
    found = activation_scales(model, ids)
    assert list(found) == ["embed", "blocks.0", "blocks.1", "logits"]

    class End(nn.Module):
        def forward(self, x, *others):
            streams.append(x)  # (1, T, C)
            return x
    with torch.no_grad():
        logits, blocks, streams = model(ids), model.blocks, []
        for n in range(3):
            model.blocks = nn.ModuleList([*blocks[:n], End()])
            model.hidden(ids)
    for (name, scale), x in zip(found.items(), [*streams, logits]):
        numbers = x.flatten().tolist()
        expected = math.sqrt(sum(v * v for v in numbers) / len(numbers))
        assert type(scale) is float and scale == pytest.approx(expected, rel=1e-4), name


def test_activation_scales_leave_no_hooks():
    model = random_model()
    activation_scales(model, random_ids(1, 16))
    assert hooks(model) == 0
    with pytest.raises(ValueError, match="don't fit"):
        activation_scales(model, random_ids(1, 17))
    assert hooks(model) == 0, "after an exception, too"


# ---- all of it ----
@every_family
def test_a_run_that_is_watched_is_the_same_run(family):
    """Bit for bit, and with the same random numbers to come."""
    results = []
    for watched in (False, True):
        model, config = random_model(family, std=0.05), Config(lr=1e-2)
        optimizer, spikes = make_optimizer(model, config), Spikes()
        torch.manual_seed(0)
        np.random.seed(0)
        for step in range(4):
            ids = random_ids(4, 17, seed=step)
            inputs, targets = ids[:, :-1], ids[:, 1:]
            before = snapshot(model.named_parameters()) if watched else None
            loss = model.loss(inputs, targets).mean()
            loss.backward()
            if watched:
                assert first_bad(model, (inputs, targets), Config(micro_batch=2)) == NOTHING
                spikes.seen(loss.item())
            optimizer.step()
            optimizer.zero_grad()
            if watched:
                ratios = update_ratios(before, model.named_parameters())
                scales = activation_scales(model, ids[:1, 1:])
                assert all(0 < x < 10 for x in [*ratios.values(), *scales.values()])
        results.append([*model.parameters(), torch.get_rng_state(), torch.rand(3),
                        torch.from_numpy(np.random.random(3))])
        assert hooks(model) == 0
    assert all(map(torch.equal, *results)), "watching has changed what was watched"
