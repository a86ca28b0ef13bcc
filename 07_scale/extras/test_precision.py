"""Tests of precision.py: against torch's own autocast and GradScaler, and two ranks over gloo."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from gpt import GPT, GPTConfig
from optim import clip
from precision import (FLOOR, FORMATS, LossScaler, Scaled, autocast_linear, experiments, limits,
                       main)
from test_ddp import on_ranks


# ---- formats ----

def test_limits():
    for dtype, (exponent, fraction) in FORMATS.items():
        found, info = limits(exponent, fraction), torch.finfo(dtype)
        assert found["largest"] == info.max, dtype
        assert found["normal"] == info.smallest_normal, dtype
        assert found["subnormal"] == info.smallest_normal * info.eps, dtype
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
                for p in layer.parameters():
                    p.copy_(p.mul(8).round())
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
        torch.testing.assert_close(results[1][0], results[0][0], **tolerance)
        for mine, torchs in zip(results[1][1:], results[0][1:]):
            spacing = torch.finfo(dtype).eps
            torch.testing.assert_close(mine, torchs, rtol=2 * spacing, atol=20 * spacing)


# ---- the scaler ----

def test_scale():
    scaler = LossScaler()
    x = torch.tensor(1.5, requires_grad=True)
    scaler.scale(x * x).backward()
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
    for overflowed in (True, False, False, False, True, False, True, True, False, False):
        scaler.update(overflowed)
        factors.append(scaler.factor)
    assert factors == [4, 4, 8, 8, 4, 4, 2, 1, 1, 2], "halved at once, doubled after two in a row"
    assert scaler.steps == 10 and scaler.skipped == 0


def test_update_gives_up():
    scaler, skipped = LossScaler(), 0
    scaler.update(False)
    with pytest.raises(ValueError, match=r"^step 32: .* for 31 steps in a row.*--lr") as stop:
        for skipped in range(100):
            scaler.update(True)
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
    assert found + list(go(fresh, range(12, 40))) == expected
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

        mine.scale(losses[0]).backward()
        mine.unscale_([weights[0].grad])
        norm = clip([weights[0]], 1.0)
        mine.update(not math.isfinite(norm))
        if math.isfinite(norm):
            optimizers[0].step()
        else:
            skipped[0].append(i)

        torchs.scale(losses[1]).backward()
        torchs.unscale_(optimizers[1])
        clip([weights[1]], 1.0)
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


# ---- engines ----

class Alone:
    """What Scaled needs of an Engine."""

    def prepare(self, model, config):
        return torch.optim.SGD(model.parameters(), lr=config.lr)

    def backward(self, loss):
        loss.backward()

    def clip(self, model, largest):
        return clip(model.parameters(), largest)

    def overflowed(self, norm):
        return False

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class Summed(Alone):
    """Data parallel: every rank has the sum of all gradients."""

    def backward(self, loss):
        loss.backward()
        for p in self.parameters:
            dist.all_reduce(p.grad)

    def prepare(self, model, config):
        self.parameters = list(model.parameters())
        return super().prepare(model, config)


class Sections(Summed):
    """As ZeRO-2: rank r has the summed gradient of parameter r alone, and the norm is of all."""

    def backward(self, loss):
        super().backward(loss)
        for i, p in enumerate(self.parameters):
            p.grad = p.grad if i == dist.get_rank() else None

    def clip(self, model, largest):
        grads = [p.grad for p in self.parameters if p.grad is not None]
        squares = sum(g.double().square().sum() for g in grads)
        dist.all_reduce(squares)
        norm = float(squares.sqrt())
        if norm > largest:
            torch._foreach_mul_(grads, largest / norm)
        return norm


def scaled(engine):
    return type(engine.__name__, (Scaled, engine), {})()


def steps(engine, model, optimizer, losses, largest=1.0):
    """One step for each loss, as the loop makes them; yields the norm, and whether it skipped."""
    for loss in losses:
        engine.backward(loss(model))
        norm = engine.clip(model, largest)
        if bad := engine.overflowed(norm):
            optimizer.zero_grad()
        else:
            optimizer.step()
            optimizer.zero_grad()
        yield norm, bad


def test_clip():
    """Unscaled first: the norm, what is clipped, and the weights are those without a scale."""
    found = {}
    for dtype in ("float32", "float16"):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        engine = scaled(Alone)
        optimizer = engine.prepare(model, SimpleNamespace(dtype=dtype, lr=0.1))
        losses = [lambda model: model(torch.ones(3)).sum(),  # clipped
                  lambda model: 0.01 * model(torch.ones(3)).sum()]  # not
        norms = [norm for norm, bad in steps(engine, model, optimizer, losses)]
        found[dtype] = norms, model.weight.tolist()
    assert found["float32"] == found["float16"]
    assert found["float16"][0] == pytest.approx([8**0.5, 0.01 * 8**0.5])


@pytest.mark.parametrize("engine_class", [Summed, Sections])
def test_overflowed_on_one_rank_skips_on_all(engine_class):
    """Rank 1 makes inf of the gradient of the second parameter alone, in the second step of three.
    Were each to judge by the gradients it has, rank 0 would step where they are in sections.
    """
    def work(rank):
        model = torch.nn.ParameterList([torch.ones(2), torch.ones(3)])
        engine = scaled(engine_class)
        optimizer = engine.prepare(model, SimpleNamespace(dtype="float16", lr=0.1))

        def loss(model, spoil=1.0):
            return model[0].sum() + (model[1] * spoil).sum()
        spoiled = float("inf") if rank == 1 else 1.0
        history = []
        for norm, bad in steps(engine, model, optimizer,
                               [loss, lambda model: loss(model, spoiled), loss]):
            history.append((norm, bad, engine.scaler.factor, model[rank].tolist()))
        return history
    first, second = on_ranks(work)
    for a, b in zip(first, second):
        assert a[1:3] == b[1:3] and (a[0] == b[0] or a[1]), "ranks differ"
    for history in (first, second):
        assert [bad for _, bad, _, _ in history] == [False, True, False]
        assert [factor for _, _, factor, _ in history] == [2.0**16, 2.0**15, 2.0**15]
        weights = [w for *_, w in history]
        assert weights[0] == weights[1] != weights[2], "a step skipped leaves the weights alone"


# ---- training ----

def tiny(dtype, engine):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=32, seq_len=16, n_layer=2, d_model=32, d_ff=64))
    optimizer = engine.prepare(model, SimpleNamespace(dtype=dtype, lr=0.5))
    return model, optimizer


def lesson(i, dtype=torch.float16):
    """The loss of step i: counting on, from some number; under autocast unless in float32."""
    ids = (torch.arange(17) + torch.randint(32, (8, 1), generator=torch.Generator().manual_seed(i)))

    def loss(model):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return model.loss(ids[:, :-1] % 32, ids[:, 1:] % 32).mean()
    return loss


def test_training_in_float16():
    """A GPT learns under autocast as it does in float32."""
    curves = {}
    for dtype in (torch.float32, torch.float16):
        engine = scaled(Alone)
        model, optimizer = tiny(str(dtype).removeprefix("torch."), engine)
        curve = []
        for i in range(60):
            assert model.embed.weight.dtype == torch.float32, "the master weights"
            list(steps(engine, model, optimizer, [lesson(i, dtype)]))
            with torch.no_grad():
                curve.append(float(lesson(1000, torch.float32)(model)))
        curves[dtype] = torch.tensor(curve)
    full, half = curves.values()
    assert half[-1] < 0.5 * half[0], "the loss falls"
    assert (full - half).abs().max() < 0.02 * full[0], "the same curve"
    assert engine.scaler.steps == 60


def test_a_scale_saves_gradients():
    """Divided by as many targets as a large batch has, half of a GPT's gradient vanishes."""
    lost = []
    for factor in (1.0, 2.0**16):
        model, _ = tiny("float16", scaled(Alone))
        for i in range(3):  # the writers start as zeros: move them first
            lesson(i)(model).backward()
            torch.optim.SGD(model.parameters(), lr=0.5).step()
            model.zero_grad()
        (lesson(5)(model) / 1e5 * factor).backward()
        grads = torch.cat([p.grad.flatten() for p in model.blocks.parameters()])
        lost.append(float((grads == 0).float().mean()))
    assert lost[0] > 0.3 and lost[1] < 0.1, lost


def test_resumed_is_not_interrupted():
    """Saved in the middle, with overflows before and after: the same weights bit for bit."""
    def losses(first, last):
        for i in range(first, last):
            yield (lambda model, i=i: lesson(i)(model) * (float("inf") if i in (2, 7) else 1))
    results = []
    for cut in (10, 6):
        engine = scaled(Alone)
        model, optimizer = tiny("float16", engine)
        engine.scaler.growth_interval = 3
        list(steps(engine, model, optimizer, losses(0, cut)))
        if cut < 10:
            saved = model.state_dict(), optimizer.state_dict(), engine.state_dict()
            engine = scaled(Alone)
            model, optimizer = tiny("float16", engine)
            engine.scaler.growth_interval = 3
            for part, state in zip((model, optimizer, engine), saved):
                part.load_state_dict(state)
            list(steps(engine, model, optimizer, losses(cut, 10)))
        results.append((engine.state_dict(), torch.cat([p.flatten() for p in model.parameters()])))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


def test_without_float16_nothing_is_scaled():
    for dtype in ("float32", "bfloat16"):
        engine = scaled(Alone)
        tiny(dtype, engine)
        assert engine.scaler is None and engine.state_dict() == {}
        assert not engine.overflowed(float("nan")), "nan is not this one's to forgive"
    engine.load_state_dict({"scaler": LossScaler().state_dict()})
    half = scaled(Alone)
    tiny("float16", half)
    half.load_state_dict({})
    assert half.scaler.factor == 2.0**16, "a run that began in bfloat16 goes on in float16"
