"""Tests of precision.py: against torch's own autocast and GradScaler."""

import math

import numpy as np
import pytest
import torch

from gpt import GPT, GPTConfig
from optim import clip
from precision import (FLOOR, FORMATS, LossScaler, Scaled, autocast_linear, experiments, limits,
                       main)
from ranks import on_ranks
from scale import make_engine, train_step
from train import Config
from zero import Zero


# ---- formats ----
def test_limits():
    for dtype, (exponent, fraction) in FORMATS.items():
        found, info = limits(exponent, fraction), torch.finfo(dtype)
        assert found["largest"] == info.max, (
            f"of {dtype}: (2 - spacing) * 2^bias, where bias is 2^(exponent - 1) - 1")
        assert found["normal"] == info.smallest_normal, f"of {dtype}: 2^(1 - bias)"
        assert found["subnormal"] == info.smallest_normal * info.eps, (
            f"of {dtype}: a subnormal number has no leading 1, so that f may be as small as 1")
        assert found["spacing"] == info.eps, dtype
        assert 1 + exponent + fraction == info.bits
    assert limits(4, 3)["normal"] == torch.finfo(torch.float8_e4m3fnuz).smallest_normal * 2, (
        "any number of bits")


def test_experiments():
    """What the header says of each format is so."""
    full, brain, half = (list(dict(experiments(dtype)).values()) for dtype in FORMATS)
    assert brain[0] == brain[1] == half[1] == 1, "the weight has not moved"
    assert full[0] == pytest.approx(2, abs=1e-4) and full[1] == pytest.approx(2, abs=1e-3)
    assert (full[2], brain[2], half[2]) == (4096, 256, 2048)
    assert half[3] == 0 and math.isinf(half[4]) and half[5] == 0
    assert full[5] == brain[5] == full[6] == brain[6] == half[6] == 2.0**-29, "scaled: not lost"


def test_main(capsys):
    main([])
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["float32", "bfloat16", "float16"]
    assert {len(line) for line in table} == {64}
    assert next(line for line in table if line.startswith("largest")).endswith(" 65504")


# ---- autocast ----
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_linear(dtype):
    """Bit for bit where every sum is exact in float32, though far from it in 16 bits; else to one
    rounding of the result.
    """
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(600, 7)
    for exact in (True, False):
        x = torch.randn(2, 5, 600, generator=generator)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(7, 600, generator=generator))
            if exact:
                x = x.mul(8).round()
                layer.weight.mul_(8).round_()
                layer.bias.copy_(torch.randn(7, generator=generator).mul(3000).round())
        results = []
        for work in (layer, lambda x: autocast_linear(x, layer.weight, layer.bias, dtype)):
            layer.zero_grad()
            if work is layer:
                with torch.autocast("cpu", dtype):
                    y = work(x)
            else:
                y = work(x)
            assert y.dtype == dtype, "the result is in 16 bits"
            (y.float() * torch.linspace(-1, 1, 7)).sum().backward()
            assert layer.weight.grad.dtype == torch.float32, "the weight's type, not autocast's"
            results.append((y.detach(), layer.weight.grad, layer.bias.grad))
        tolerance = {"rtol": 0, "atol": 0} if exact else {}
        torch.testing.assert_close(results[1][0], results[0][0], **tolerance, msg=(
            "inputs, weights and bias are rounded, but sums are made in float32"))
        for mine, torchs in zip(results[1][1:], results[0][1:]):
            spacing = torch.finfo(dtype).eps
            torch.testing.assert_close(mine, torchs, rtol=2 * spacing, atol=20 * spacing)


# ---- the scaler ----
def test_scale():
    scaler = LossScaler()
    x = torch.tensor(1.5, requires_grad=True)
    (x * x * scaler.factor).backward()
    assert x.grad == 3 * 65536, "the gradient grows as the loss does"


def test_unscale_():
    scaler = LossScaler(factor=8.0)
    gradients = [torch.tensor([8.0, -16.0]), torch.tensor(1e-38), torch.zeros(0)]
    again = list(gradients)
    scaler.unscale_(gradients)
    assert again[0].tolist() == [1.0, -2.0], "in place, and by the factor"
    assert again[1] > 0
    scaler.unscale_([]), scaler.unscale_(g for g in gradients)
    assert again[0].tolist() == [0.125, -0.25], "twice is twice: it is for the caller to do once"


def test_update():
    scaler = LossScaler(factor=8.0, growth_interval=2)
    factors = []
    for overflowed in (True, False, False, False, True, False, True, True, *[False] * 4):
        scaler.update(overflowed)
        factors.append(scaler.factor)
    assert factors == [4, 4, 8, 8, 4, 4, 2, 1, 1, 2, 2, 4], (
        "halved at once, doubled after two in a row, and after two more")
    assert scaler.steps == 12 and scaler.skipped == 0


def test_update_gives_up():
    scaler, skipped = LossScaler(), 0
    scaler.update(False)
    with pytest.raises(ValueError, match=r"^step 32: .* for 31 steps in a row.*--lr") as stop:
        for skipped in range(100):
            scaler.update(True)
        pytest.fail("a scale below FLOOR helps nobody: it must end with a ValueError")
    assert skipped == 30 and "\n" not in str(stop.value)
    assert scaler.factor < FLOOR <= scaler.factor * 2


def test_state():
    """Restored, it goes on as if nothing had happened; the state is plain numbers."""
    def go(scaler, steps):
        for i in steps:
            scaler.update(i % 7 == 3)
            yield scaler.factor
    one, two = LossScaler(growth_interval=3), LossScaler(growth_interval=3)
    expected = list(go(one, range(12))) + list(go(one, range(12, 40)))
    found = list(go(two, range(12)))
    state = two.state_dict()
    assert all(type(value) in (int, float) for value in state.values())
    fresh = LossScaler(growth_interval=3)
    fresh.load_state_dict(state)
    assert found + list(go(fresh, range(12, 40))) == expected, (
        "the state must hold all that decides when the scale grows: also the good steps so far")
    assert fresh.state_dict() == one.state_dict()


def test_equals_gradscaler():
    """torch.amp.GradScaler, step by step: the same scales, steps skipped, gradients, weights."""
    def bad(i):
        return i in (0, 1, 9, 10, 11, 17) or i % 23 == 5
    weights = [torch.nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2)]
    optimizers = [torch.optim.SGD([w], lr=0.1) for w in weights]
    mine, torchs = LossScaler(growth_interval=4), torch.amp.GradScaler("cpu", growth_interval=4)
    skipped = [[], []]
    for i in range(60):
        for w in weights:
            w.grad = None
        losses = [(w * (i + 1)).square().mean() * (float("inf") if bad(i) else 1) for w in weights]

        (losses[0] * mine.factor).backward()
        mine.unscale_([weights[0].grad])
        norm = clip([weights[0].grad], 1.0)
        mine.update(not math.isfinite(norm))
        if math.isfinite(norm):
            optimizers[0].step()
        else:
            skipped[0].append(i)

        torchs.scale(losses[1]).backward()
        torchs.unscale_(optimizers[1])
        clip([weights[1].grad], 1.0)
        before = weights[1].detach().clone()
        torchs.step(optimizers[1])
        torchs.update()
        if torch.equal(before, weights[1]):
            skipped[1].append(i)

        assert mine.factor == torchs.get_scale(), f"step {i}"
        assert torch.equal(*weights), f"step {i}"
        if not bad(i):
            assert torch.equal(weights[0].grad, weights[1].grad)
    assert skipped[0] == skipped[1] == [i for i in range(60) if bad(i)]


# ---- training ----
def tiny():
    torch.manual_seed(0)
    return GPT(GPTConfig(vocab_size=32, seq_len=16, n_layer=2, d_model=32, d_ff=64))


def lesson(i, model):
    """The loss of step i, under autocast: counting on, from some number."""
    ids = (torch.arange(17) + torch.randint(32, (8, 1), generator=torch.Generator().manual_seed(i)))
    with torch.autocast("cpu", torch.float16):
        return model.loss(ids[:, :-1] % 32, ids[:, 1:] % 32).mean()


def test_a_scale_saves_gradients():
    """Divided by as many targets as a large batch has, half of a GPT's gradient vanishes."""
    lost = []
    for factor in (1.0, 2.0**16):
        model = tiny()
        for i in range(3):  # the writers start as zeros: move them first
            lesson(i, model).backward()
            torch.optim.SGD(model.parameters(), lr=0.5).step()
            model.zero_grad()
        (lesson(5, model) / 1e5 * factor).backward()
        grads = torch.cat([p.grad.flatten() for p in model.blocks.parameters()])
        lost.append(float((grads == 0).float().mean()))
    assert lost[0] > 0.3 and lost[1] < 0.1, lost


def test_resumed_is_not_interrupted():
    """Saved in the middle, with overflows before and after: the same weights bit for bit."""
    def train(model, optimizer, scaler, first, last):
        for i in range(first, last):
            loss = lesson(i, model) * (float("inf") if i in (2, 7) else 1)
            (loss * scaler.factor).backward()
            gradients = [p.grad for p in model.parameters()]
            scaler.unscale_(gradients)
            bad = not math.isfinite(clip(gradients, 1.0))
            scaler.update(bad)
            if not bad:
                optimizer.step()
            optimizer.zero_grad()

    def new():
        model = tiny()
        return model, torch.optim.SGD(model.parameters(), lr=0.5), LossScaler(growth_interval=3)
    results = []
    for cut in (10, 6):
        parts = new()
        train(*parts, 0, cut)
        if cut < 10:
            saved = [part.state_dict() for part in parts]
            parts = new()
            for part, state in zip(parts, saved):
                part.load_state_dict(state)
            train(*parts, cut, 10)
        results.append((parts[2].state_dict(), torch.cat([p.flatten() for p in
                                                          parts[0].parameters()])))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


# ---- the scaler, around an engine ----
SHAPE = dict(vocab_size=61, seq_len=8, n_layer=1, n_head=2, n_kv_head=2, d_model=16, d_ff=32)


def windows(n, seed):
    ids = np.random.default_rng(seed).integers(0, 61, (n, 9))
    return ids[:, :-1], ids[:, 1:].copy()


@pytest.mark.parametrize("engine", ["ddp", "zero2"])
def test_a_step_that_overflows_is_skipped_by_all(engine, explains):
    """On one rank a gradient is inf: no rank moves, and all halve the scale of the loss."""
    def work(rank):
        config, scaler = Config(**SHAPE, warmup=0), LossScaler(factor=8.0)
        model = GPT(GPTConfig(**SHAPE))
        made = Scaled(make_engine(engine, model, config), scaler)
        loss, steps = made.loss, []
        for step in range(3):
            bad = step == 1 and rank == 1

            def overflows(x, y):
                nats = loss(x, y)
                if bad:
                    nats.register_hook(lambda gradient: gradient * float("inf"))
                return nats
            made.loss, before = overflows, model.head.weight.detach().clone()
            with explains("when a gradient of any rank is inf, no rank may move"):
                _, norm, _ = train_step(made, windows(2, rank), step, config)
            moved = not torch.equal(before, model.head.weight)
            steps.append((moved, math.isfinite(norm), scaler.factor))
        made.loss = lambda x, y: loss(x, y) * float("nan")
        with pytest.raises(ValueError, match="step 4: loss nan"):
            train_step(made, windows(2, rank), 3, config)
        return steps
    assert on_ranks(work) == [[(True, True, 8.0), (False, False, 4.0), (True, True, 4.0)]] * 2, (
        "when a gradient of any rank is inf, no rank moves, and all halve the scale")


def test_a_scaled_loss_has_the_same_gradients():
    """To the last bit: a power of two. They are unscaled before they are clipped."""
    def work(rank):
        results = []
        for factor in (None, 2.0**10):
            model, config = GPT(GPTConfig(**SHAPE)), Config(**SHAPE, grad_clip=0.1)
            engine = Zero(model, config, 1)
            if factor:
                engine = Scaled(engine, LossScaler(factor))
            norm = train_step(engine, windows(2, rank), 0, config)[1]
            results.append((norm, [p.tolist() for p in model.parameters()]))
        assert results[0] == results[1] and norm > 0.1, (
            "gradients must be unscaled before their norm is taken and they are clipped")
    on_ranks(work)
