"""Tests of optim.py: schedules, then directions, then the optimizer that the trainer uses."""

import copy
import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from family import model_config
from gpt import GPT, GPTConfig, make_model
from optim import (QUINTICS, SCHEDULES, Optimizer, adamw_by_hand, clip, learning_rate, main,
                   make_optimizer, nesterov, orthogonalize, orthogonalize_parts)
from train import Config

SMALL = GPTConfig(vocab_size=61, seq_len=16, n_layer=2, n_head=2, n_kv_head=1, d_model=32, d_ff=64)


def random_model(config=SMALL):
    model, generator = GPT(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model


def normal(*shape, seed=0, **how):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **how)


def random_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


# ---- schedules ----
def rates(**how):
    config = Config(**{"lr": 1.0} | how)
    return [learning_rate(step, config) for step in range(config.steps)]


def test_learning_rate():
    found = rates(warmup=4, steps=20, cooldown=0.5)
    assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0]), (
        "up over the warm-up, of which the first step has a share already, and then level")
    assert found[4:11] == pytest.approx([1.0] * 7), "level"
    assert found[10:] == pytest.approx([1 - i / 10 for i in range(10)]), (
        "over the last cooldown * steps steps, down to almost 0")
    assert rates(lr=2.0, warmup=0, steps=700, cooldown=0.0) == [2.0] * 700
    assert max(rates(warmup=10, steps=10, cooldown=1.0)) <= 0.6, "the lower where both apply"
    found = rates(warmup=0, steps=10, cooldown=0.5, min_lr_share=0.2)
    assert found[5:] == pytest.approx([1.0, 0.84, 0.68, 0.52, 0.36]), (
        "it is on its way to a fifth, not cut off there")


@pytest.mark.parametrize("low", [0.0, 0.1])
def test_learning_rate_that_falls_all_the_way(low):
    found = rates(schedule="linear", warmup=2, steps=6, min_lr_share=low)
    left = [0.5, 1, 1, 0.75, 0.5, 0.25]
    assert found == pytest.approx([0.5] + [low + (1 - low) * x for x in left[1:]]), (
        "linear falls from the end of the warm-up, over (steps - warmup) steps, to `low` in the "
        "step after the last")
    found = rates(schedule="cosine", lr=3.0, warmup=2, steps=10, min_lr_share=low)
    assert found[:3] == pytest.approx([1.5, 3.0, 3.0]), "up, then from the peak"
    assert found[6] == pytest.approx(3 * (low + 1) / 2), "cosine is half way down at half time"
    for step in range(2, 10):  # nanoGPT's get_lr
        curve = 0.5 * (1 + math.cos(math.pi * (step - 2) / (10 - 2)))
        assert found[step] == pytest.approx(3 * low + curve * (3 - 3 * low)), f"step {step}"


def test_learning_rate_inverse_sqrt():
    """The paper's formula where lr is the paper's peak; else its shape, with the peak that is asked
    for.
    """
    warmup, width = 40, 512
    paper = [width**-0.5 * min(s**-0.5, s * warmup**-1.5) for s in range(1, 201)]
    how = dict(schedule="inverse-sqrt", warmup=warmup, steps=200)
    assert rates(**how, lr=(width * warmup)**-0.5) == pytest.approx(paper), (
        "the last step of the warm-up is at the peak: then lr * sqrt(warmup / (step + 1))")
    found = rates(**how, lr=0.5)
    assert found == pytest.approx([0.5 * x / max(paper) for x in paper])
    assert found.index(max(found)) == warmup - 1 and found[159] == pytest.approx(0.25)
    assert rates(**how | {"warmup": 0, "steps": 4}) == pytest.approx([1, 2**-0.5, 3**-0.5, 0.5])


@pytest.mark.parametrize("schedule", ["wsd", "linear", "cosine", "inverse-sqrt"])
def test_learning_rate_at_the_corners(schedule):
    first = rates(schedule=schedule, warmup=0, steps=10, cooldown=0.5)[0]
    assert first == 1.0, "without a warm-up the first step is at the peak"
    found = rates(schedule=schedule, warmup=20, steps=5, cooldown=0.1)
    assert found == pytest.approx([0.05, 0.1, 0.15, 0.2, 0.25]), (
        "a run that ends in its warm-up must rise as any other, without a division by nothing")
    found = rates(schedule=schedule, warmup=5, steps=5, cooldown=0.0)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]), "or with it"
    assert rates(schedule=schedule, warmup=0, steps=1, cooldown=1.0) == [1.0], "a single step"
    assert all(0 < rate <= 1 for rate in rates(schedule=schedule, warmup=3, steps=50))


# ---- directions ----
def test_clip():
    """By hand, one number after the other; below the limit, and beside a nan, nothing changes."""
    a, b = torch.tensor([3.0]), torch.tensor([0.0, 4.0])
    assert clip([a, b], 6.0) == pytest.approx(5)
    assert a.tolist() == [3] and b.tolist() == [0, 4], "below the limit nothing may change"
    assert clip([a, b], 1.0) == pytest.approx(5), "the norm before, not after"
    assert a.tolist() == pytest.approx([0.6]) and b.tolist() == pytest.approx([0, 0.8]), (
        "all gradients must be multiplied by largest / norm, the norm of all of them together")
    a[:] = math.nan
    assert math.isnan(clip([a, b], 1.0)) and b[1].item() == pytest.approx(0.8)
    assert type(clip([b], 1.0)) is float, "a float is returned, not a tensor"


def test_clip_of_a_part():
    """Others have the rest: its squares, 9, are added to ours, 16."""
    ours = torch.tensor([0.0, 4.0])
    norm = clip([ours], 1.0, lambda square: square + 9)
    assert norm == pytest.approx(5), (
        "add() is given the sum of the squares, and the norm is the root of what it returns")
    assert ours.tolist() == pytest.approx([0, 0.8]), "the norm is that of all parts together"
    assert type(norm) is float, "a float is returned, not a tensor"
    given = []
    clip([torch.tensor([3e19])], 1.0, lambda square: given.append(square) or square)
    assert given[0].dtype == torch.float64 and given[0].isfinite(), (
        "the squares are added up in float64, which holds them")


def test_adamw_by_hand():
    one = torch.ones(())
    p, m, v = adamw_by_hand(one, 0.3 * one, 0 * one, 0 * one, 1, 0.1, (0.9, 0.95), 1e-8, 0.5)
    assert p == pytest.approx(0.85) and m == pytest.approx(0.03) and v == pytest.approx(0.0045), (
        "m and v are divided by 1 - b^t; the decay is no part of the gradient; lr scales both")
    p = normal(5, 3, dtype=torch.float64)
    p[0] = 0  # as biases begin
    theirs = p.clone().requires_grad_()
    optimizer = torch.optim.AdamW([theirs], lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)
    m, v = torch.zeros_like(p), torch.zeros_like(p)
    for t in range(1, 6):
        gradient = theirs.grad = normal(5, 3, seed=t, dtype=torch.float64)
        given = [p, gradient, m, v]
        copies = [x.clone() for x in given]
        p, m, v = adamw_by_hand(*given, t, 0.01, (0.8, 0.95), 1e-3, 0.1)
        optimizer.step()
        assert all(map(torch.equal, given, copies)), "what was given was changed"
        torch.testing.assert_close(p, theirs.detach(), msg=(
            f"not torch's AdamW after step {t}: look at 1 - b^t, and at where eps stands"))


def test_nesterov():
    average = torch.zeros(2)
    assert nesterov(torch.ones(2), average, 0.9).tolist() == pytest.approx([0.19] * 2), (
        "first the average moves, then it is mixed with the gradient once more, by the same shares")
    assert average.tolist() == pytest.approx([0.1] * 2), "the average goes on in place"
    gradient = torch.tensor([2.0, -1.0])
    ahead = nesterov(gradient, average, 0.9)
    assert average.tolist() == pytest.approx([0.29, -0.01])
    assert ahead.tolist() == pytest.approx([0.461, -0.109]), "the average, and 0.1 of what came"
    assert gradient.tolist() == [2.0, -1.0], "the gradient stays as it is"


def known(m, n):
    """(G, U, V): a matrix with singular values from 0.15 to 5, and its directions."""
    k = min(m, n)
    U, V = (torch.linalg.qr(normal(size, k, seed=seed)).Q for size, seed in ((m, 1), (n, 2)))
    return U * torch.logspace(math.log10(0.03), 0, k) * 5 @ V.T, U, V


@pytest.mark.parametrize("m, n", [(16, 16), (8, 40), (40, 8), (1, 7), (7, 1)])
def test_orthogonalize(m, n):
    G, U, V = known(m, n)
    X = orthogonalize(G)
    assert X.shape == G.shape and X.dtype == G.dtype
    turned = U.T @ X @ V
    found = turned.diagonal()
    assert found.min() > 0.72 and found.max() < 1.28, (
        "afterwards all singular values lie between 0.73 and 1.27, in the shape of G: divide by "
        f"the norm, and turn a tall matrix back; found {found.tolist()}")
    assert (turned - found.diag()).abs().max() < 1e-4, "its directions are not those of G"
    torch.testing.assert_close(orthogonalize(G * 1000), X, rtol=1e-3, atol=1e-4,
                               msg="how large G is does not matter")


def test_orthogonalize_lifts_each_value_by_the_polynomial():
    s = expected = torch.tensor([0.6, 0.8])  # together 1
    steps = (3.4445, -4.7750, 2.0315), (3.0, -2.0, 0.5)
    for n, (a, b, c) in enumerate(steps, 1):
        expected = a * expected + b * expected**3 + c * expected**5
        assert orthogonalize(s.diag(), steps[:n]).diagonal().tolist() == pytest.approx(
            expected.tolist()), "a step makes a s + b s^3 + c s^5 of each singular value s"
    torch.testing.assert_close(orthogonalize(3 * s.diag(), ()), s.diag())
    torch.testing.assert_close(orthogonalize(1e-7 * s.diag(), ()), s.diag() / 2,
                               msg="1e-7 is added to |G|, which is 1e-7 here")


def test_quintics_are_the_best():
    """Chebyshev's theorem: of all a s + b s^3 + c s^5 the one that stays nearest to 1 is as far
    from it at four places, below and above in turn. Each works on what the one before leaves.
    """
    low, high = 0.01, 1.0
    for a, b, c in QUINTICS:
        s = torch.linspace(low, high, 100_001, dtype=torch.float64)
        off = a * s + b * s**3 + c * s**5 - 1
        worst = float(off.abs().max())
        turns = (off[1:-1] - off[:-2]) * (off[2:] - off[1:-1]) < 0
        places = [float(off[0]), *off[1:-1][turns].tolist(), float(off[-1])]
        assert places == pytest.approx([-worst, worst, -worst, worst], abs=2e-3)
        low, high = 1 - worst, 1 + worst
    assert (round(low, 2), round(high, 2)) == (0.73, 1.27)


def test_orthogonalize_a_batch_is_one_by_one():
    for shape in ((3, 6, 10), (2, 2, 10, 6)):
        G = normal(*shape) * torch.arange(1, 1 + shape[0]).view(-1, *[1] * (len(shape) - 1))
        single = torch.stack([orthogonalize(g) for g in G.flatten(0, -3)]).view(shape)
        torch.testing.assert_close(orthogonalize(G), single,
                                   msg="each matrix has its own norm, not the batch")


def test_orthogonalize_zeros_and_types():
    G = torch.stack([torch.zeros(4, 3), normal(4, 3)])
    assert orthogonalize(G)[0].tolist() == torch.zeros(4, 3).tolist(), (
        "a matrix of zeros stays zeros: the norm has 1e-7 added to it")
    assert orthogonalize(G)[1].isfinite().all()
    half, found = G.bfloat16(), orthogonalize(G.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, orthogonalize(half.float()).bfloat16()), "in float32, rounded once"

    class OnGPU(torch.Tensor):
        is_cuda = True
    found = orthogonalize(G.as_subclass(OnGPU))
    assert found.dtype == torch.float32
    assert torch.equal(found, found.bfloat16().float()), "on a GPU it is computed in bfloat16"
    expected = orthogonalize(G, [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in QUINTICS])
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected, atol=0.05, rtol=0)
    for seed in range(20):  # whose one singular value is the whole norm
        for G in (normal(1, 64, seed=seed), normal(16, 1, seed=seed) @ normal(1, 24, seed=seed)):
            norm = float(orthogonalize(G.as_subclass(OnGPU)).as_subclass(torch.Tensor).norm())
            assert norm < 1.4, "in bfloat16 rounding lifts a value above the range of a step"


def test_orthogonalize_works_on_the_short_side():
    costs = []
    for G in (normal(4, 64), normal(64, 4)):
        with FlopCounterMode(display=False) as counter:
            orthogonalize(G)
        costs.append(counter.get_total_flops())
    step = 2 * 4 * 4 * 64 + 2 * 4**3 + 2 * 4 * 4 * 64  # A, then A A, then what multiplies X
    assert costs == [len(QUINTICS) * step] * 2, (
        "A is 4 x 4, of a matrix that lies and of one that stands")


def test_orthogonalize_parts():
    matrices = [normal(8, 4, seed=1), normal(4, 4, seed=2), normal(16, 4, seed=3)]
    parts = [[4, 2, 2], [4], [16]]
    given = [matrix.clone() for matrix in matrices]
    orthogonalize_parts(matrices, parts)
    torch.testing.assert_close(matrices[0][:4], orthogonalize(given[0][:4]))
    torch.testing.assert_close(matrices[0][4:6], orthogonalize(given[0][4:6]))
    torch.testing.assert_close(matrices[0][6:], orthogonalize(given[0][6:]))
    torch.testing.assert_close(matrices[1], orthogonalize(given[1]))
    torch.testing.assert_close(matrices[2], 2 * orthogonalize(given[2]), msg=(
        "16 rows, 4 columns: a tall part is multiplied by the root of rows / columns"))


# ---- the optimizer ----
def test_muon():
    """Two steps of two matrices, one of which has two parts."""
    matrices = [torch.nn.Parameter(normal(4, 4, seed=seed)) for seed in (0, 1)]
    group = dict(params=matrices, kind="muon", lr=0.1, weight_decay=0.5, momentum=0.9)
    optimizer = Optimizer([group], {matrices[1]: [2, 2]})
    for p, seed in zip(matrices, (2, 3)):
        p.grad = normal(*p.shape, seed=seed)
    for share, ahead in ((0.1, 0.19), (0.19, 0.271)):
        before = [p.detach().clone() for p in matrices]
        optimizer.step()
        for p, old, rows in zip(matrices, before, (4, 2)):
            torch.testing.assert_close(optimizer.state[p]["average"], share * p.grad, msg=(
                "each matrix has its own average, zeros at first, which goes on by nesterov()"))
            parts = [orthogonalize(ahead * part) for part in p.grad.split(rows)]
            torch.testing.assert_close(p.detach(), 0.95 * old - 0.1 * torch.cat(parts), msg=(
                "p, in place, shrinks by lr * weight_decay of itself and moves by -lr times what "
                "orthogonalize_parts() makes of what nesterov() returned"))


def test_optimizer_is_adamw():
    """Three steps of AdamW, written from its paper: beta 0.9 and 0.95, blocks' matrices decay."""
    config = Config(weight_decay=0.1, lr=0.01)
    model, twin = random_model(), random_model()
    optimizer = make_optimizer(model, config)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p))
               for name, p in twin.named_parameters()}
    for t in range(1, 4):
        random_gradients(model, seed=t)
        random_gradients(twin, seed=t)
        optimizer.step()
        for name, p in twin.named_parameters():
            decay = 0.1 if name.startswith("blocks") else 0.0
            p.data, *moments[name] = adamw_by_hand(p.data, p.grad, *moments[name], t, 0.01,
                                                   (0.9, 0.95), 1e-8, decay)
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=(
            "betas are 0.9 and config.beta2, and only the matrices of the blocks decay"))


def test_optimizer_is_muon():
    """Three steps, one matrix after the other: queries, keys and values each for itself; the
    matrices at their own rate and with decay; all else as AdamW does it.
    """
    config = Config(optimizer="muon", muon_lr=0.05, momentum=0.9, weight_decay=0.1, lr=0.01)
    model, twin, reference = random_model(), random_model(), random_model()
    optimizer, adamw = make_optimizer(model, config), make_optimizer(reference, Config(lr=0.01))
    averages = {p: torch.zeros_like(p) for p in twin.parameters()}
    for t in range(1, 4):
        for m in (model, twin, reference):
            random_gradients(m, seed=t)
        optimizer.step()
        adamw.step()
        for name, p in twin.blocks.named_parameters():
            averages[p] = 0.9 * averages[p] + 0.1 * p.grad
            ahead = 0.9 * averages[p] + 0.1 * p.grad
            rows = [32, 16, 16] if name.endswith("qkv.weight") else [len(p)]  # two heads read one
            direction = [orthogonalize(part) * max(1, len(part) / p.shape[1])**0.5
                         for part in ahead.split(rows)]
            p.data = p.data - 0.05 * (torch.cat(direction) + 0.1 * p.data)
    for (name, a), b, c in zip(model.named_parameters(), twin.parameters(),
                               reference.parameters()):
        torch.testing.assert_close(a, b if name.startswith("blocks") else c, rtol=1e-4, atol=1e-5,
                                   msg=(
            f"{name} moved otherwise: Muon moves the blocks' matrices, which decay, and queries, "
            "keys and values each for itself; AdamW moves all else"))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("shape", [{}, {"tied": True}, {"gains": True, "bias": True,
                                                        "positions": "learned"}])
def test_groups_add_up(optimizer, shape):
    """Every parameter is in one group, and once."""
    model = make_model(model_config(**shape, vocab_size=61, n_layer=2))
    made = make_optimizer(model, Config(optimizer=optimizer, lr=0.001))
    grouped = [p for group in made.param_groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped}) == len(list(model.parameters()))
    first, second = made.param_groups
    assert sum(p.numel() for p in first["params"]) == 2 * (4 * 128**2 + 2 * 128 * 512), (
        "the blocks' matrices")
    assert (first["kind"], second["kind"]) == (optimizer, "adamw")
    assert first["lr"] == (0.02 if optimizer == "muon" else 0.001) and second["lr"] == 0.001
    assert (first["weight_decay"], second["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_an_optimizer_remembers_is_all_it_needs(optimizer):
    """2 steps, saved and loaded, and 2 steps = 4 steps, bit for bit."""
    config = Config(optimizer=optimizer)
    model, halves = random_model(), random_model()
    whole, first = make_optimizer(model, config), make_optimizer(halves, config)
    for t in range(4):
        if t == 2:
            first, saved = make_optimizer(halves, config), first.state_dict()
            groups = first.param_groups
            first.load_state_dict(saved)
            assert first.param_groups is groups, "who set their rates before has to set them now"
        random_gradients(model, seed=t)
        random_gradients(halves, seed=t)
        whole.step()
        first.step()
    assert all(map(torch.equal, model.parameters(), halves.parameters()))


def test_checkpoints_of_torchs_adamw_go_on():
    """Runs were trained with it before this file was there: the same numbers, bit for bit."""
    config, model, twin = Config(), random_model(), random_model()
    ours = make_optimizer(model, config)
    theirs = torch.optim.AdamW(
        [{"params": g["params"], "weight_decay": g["weight_decay"]}
         for g in make_optimizer(twin, config).param_groups],
        lr=config.lr, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for t in range(4):
        if t == 2:
            ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
        random_gradients(model, seed=t)
        random_gradients(twin, seed=t)
        ours.step()
        theirs.step()
    assert all(map(torch.equal, model.parameters(), twin.parameters()))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_by_hand_is_the_same(optimizer):
    """The trainer's steps with adamw_by_hand(), and with the kernel; one goes on from the other."""
    models = [random_model() for _ in range(2)]
    both = [make_optimizer(model, Config(optimizer=optimizer, by_hand=by_hand))
            for model, by_hand in zip(models, (True, False))]
    for step in range(6):
        for model, one in zip(models, both):
            random_gradients(model, step)
            one.step()
        if step == 3:  # a run that goes on without --by-hand, and one with it
            states = [one.state_dict() for one in both]
            for one, state in zip(both, reversed(states)):
                one.load_state_dict(copy.deepcopy(state))
        for (name, a), b in zip(models[0].named_parameters(), models[1].parameters()):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=f"{name}, step {step}")


def test_command_line(capsys):
    main([])
    out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in out[1:5]] == list(SCHEDULES)
    first, last = ([float(x) for x in line.split()[2:]] for line in (out[-4], out[-1]))
    assert max(first) / min(first) > 50 and max(last) / min(last) < 5


def test_a_state_of_another_form_is_refused():
    """At once, when it is loaded: a step with it would end in the middle."""
    model = torch.nn.Linear(3, 2)

    group = {"kind": "adamw", "lr": 0.1, "scale": 1.0, "weight_decay": 0.0, "betas": (0.9, 0.9),
             "eps": 1e-8}

    def make():
        return Optimizer([{"params": list(model.parameters()), **group}], {})
    first = make()
    model(torch.ones(1, 3)).sum().backward()
    first.step()
    whole = first.state_dict()
    for name, wrong in (("exp_avg", []), ("exp_avg", torch.zeros(7)), ("exp_avg_sq", None),
                        ("step", "x"), ("step", torch.zeros(3))):
        state = {0: whole["state"][0] | {name: wrong}, 1: whole["state"][1]}
        with pytest.raises(Exception):
            make().load_state_dict(whole | {"state": state})
    state = {0: {"step": whole["state"][0]["step"]}, 1: whole["state"][1]}
    with pytest.raises(KeyError, match="exp_avg"):
        make().load_state_dict(whole | {"state": state})
    make().load_state_dict(whole)
