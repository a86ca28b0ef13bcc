"""Tests of recompute.py: the same gradients, to the bit, from less memory."""

import copy
import functools
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import recompute
from family import MODELS, model_config
from gpt import GPT, GPTConfig, KVCache, generate, make_model, random_pick
from recompute import HOW, Recompute, recompute_blocks, saved_bytes
from train import Config

SMALL = {"vocab_size": 50, "seq_len": 12, "n_layer": 3, "n_head": 2, "n_kv_head": 2, "d_model": 16,
         "d_ff": 32}


def dropping_block():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 24), nn.Dropout(0.5), nn.Tanh(), nn.Linear(24, 6),
                         nn.Dropout(0.2))


def through(block, x, recomputed, others=()):
    if recomputed:
        return Recompute.apply(block, others, x, *block.parameters())
    return block(x, *others)


def gradients(block, x, recomputed, others=(), types=(None, None)):
    """The result, the gradients of x and of all parameters, from numbers drawn after seed 1; and a
    number drawn at the end. types: autocast's around the forward and the backward pass.
    """
    autocast = [torch.autocast("cpu", how, enabled=how is not None) for how in types]
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    block.zero_grad()
    with autocast[0]:
        y = through(block, x, recomputed, others)
        loss = y.float().square().sum()
    torch.rand(1)  # the next block's dropout
    with autocast[1]:
        loss.backward()
    return [y.detach(), x.grad, *(p.grad for p in block.parameters()), torch.rand(1)]


def assert_equal(one, two, what):
    for a, b in zip(one, two, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b)), what


# ---- the idea ----
def test_forward():
    block, x = dropping_block().eval(), torch.randn(5, 6)
    y = through(block, x, True)
    assert torch.equal(y, block(x))
    assert y.requires_grad, "the parameters need gradients, though x does not"
    x.requires_grad_()
    kept = saved_bytes(lambda: through(block, x, True), block)
    assert kept == 5 * 6 * 4, f"{kept} bytes are kept, but x has 120"
    assert saved_bytes(lambda: block(x), block) > 4 * kept


def test_backward():
    """Bit for bit, for x and all parameters, with what else a block takes passed through."""
    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.unused = nn.Linear(6, 6), nn.Parameter(torch.ones(1))

        def forward(self, x, how, name, nothing):
            assert name == "name" and nothing is None and type(how) is list
            return x + torch.sin(self.first(x)) * how[0]

    torch.manual_seed(0)
    block, x = Scales(), torch.randn(5, 6)
    others = [torch.rand(6)], "name", None
    for frozen in ((), ("first.bias",), ("unused",)):
        for name, p in block.named_parameters():
            p.requires_grad_(name not in frozen)
        plain, again = (gradients(block, x, how, others) for how in (False, True))
        assert_equal(plain, again, "recomputed gradients differ")
        assert again[2 + 0] is None, "the unused parameter"
    x.requires_grad_(False)
    block.zero_grad()
    through(block, x, True, others).sum().backward()
    assert block.first.weight.grad is not None, "x needs no gradient, but the parameters do"
    x, told = x.clone().requires_grad_(), []
    before = 2 * x
    before.register_hook(told.append)
    through(block, before, True, others).sum().backward()
    assert len(told) == 1, "detach x, else what waits for its gradient hears of it twice"


def test_backward_with_dropout():
    """The same numbers are dropped again, and those drawn afterwards are not disturbed."""
    block, x = dropping_block(), torch.randn(5, 6)
    assert_equal(gradients(block, x, False), gradients(block, x, True),
                 "the second time the same numbers must be dropped, and those after it not be "
                 "disturbed")


def test_backward_under_autocast():
    """Rounded as the first time, whatever autocast is around the backward pass."""
    block, x = dropping_block(), torch.randn(5, 6)
    for types in itertools.product((None, torch.bfloat16, torch.float16), repeat=2):
        plain, again = (gradients(block, x, how, types=types) for how in (False, True))
        assert_equal(plain, again, f"forward and backward under autocast {types}")


def test_backward_under_one_autocast():
    """Both passes in one context, as in train.py: no weight rounded without a graph is left in its
    cache, and no rounded weight at all.
    """
    block, x = dropping_block(), torch.randn(5, 6)
    plain = gradients(block, x, False, types=(torch.bfloat16, None))
    block.zero_grad()
    for _ in range(2):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            through(block, x, True).float().square().sum().backward()
    for p, once in zip(block.parameters(), plain[2:]):
        assert torch.equal(p.grad, 2 * once)


def test_backward_by_other_ways():
    """torch.autograd.grad, and a second pass through a graph that was kept; not a second order."""
    block, x = dropping_block(), torch.randn(5, 6, requires_grad=True)
    y = through(block, x, True).sum()
    once = torch.autograd.grad(y, [x, *block.parameters()], retain_graph=True)
    assert_equal(once, torch.autograd.grad(y, [x, *block.parameters()]), "twice the same")
    assert x.grad is None and block[0].weight.grad is None, "nothing is written in passing"
    squares = through(block, x, True).square().sum()
    first, = torch.autograd.grad(squares, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_hooks_fire_once_and_in_turn():
    """What data parallelism waits for: each parameter's gradient is complete when its hook is
    called, once, and those of later blocks come first. A block that comes twice has one gradient.
    """
    torch.manual_seed(0)
    a, b = (nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
    found = {}
    for recomputed in (False, True):
        calls = []
        handles = [p.register_post_accumulate_grad_hook(
            lambda p, name=name: calls.append((name, p.grad.sum().item())))
            for block, of in ((a, "a"), (b, "b"))
            for name, p in ((f"{of}.{n}", p) for n, p in block.named_parameters())]
        x = torch.ones(3, 4)
        for block in (a, b, a):
            block.zero_grad()
        for block in (a, b, a):
            x = through(block, x, recomputed)
        x.sum().backward()
        assert [name[0] for name, _ in calls] == ["b", "b", "a", "a"], calls
        found[recomputed] = dict(calls)
        for handle in handles:
            handle.remove()
    assert found[True] == found[False], "a hook saw an incomplete gradient"


# ---- the blocks of a GPT ----
def model_gradients(model, ids, autocast=False):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for part in ids.split(2):  # micro-batches
            model.loss(part, part.roll(1, 1)).sum().backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("name", ["ours", "gpt2"])
def test_recompute_blocks(name):
    """All ways have the gradients of the plain model to the bit, in float32 and in bfloat16."""
    model = make_model(model_config(**MODELS.get(name, {}) | SMALL))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(len(p)))
    ids = torch.randint(50, (4, 12), generator=torch.Generator().manual_seed(0))
    names, kind = list(model.state_dict()), type(model.blocks[0])
    for autocast in (False, True):
        plain = model_gradients(model, ids, autocast)
        for how in ("hand", "torch", "none"):
            recompute_blocks(model, how)
            assert_equal(plain, model_gradients(model, ids, autocast),
                         f"gradients are not those of the plain model: {how}, {autocast}")
            assert list(model.state_dict()) == names and type(model.blocks[0]) is kind
            twin = copy.deepcopy(model)
            assert_equal(plain, model_gradients(twin, ids, autocast), f"a copy, {how}")
            for p in twin.parameters():
                p.data.zero_()
            assert not any(g.any() for g in model_gradients(twin, ids)), "a copy is on its own"
    assert model.blocks[0].forward == kind.forward.__get__(model.blocks[0]), "as it was"
    with pytest.raises(ValueError, match="'both', but must be one of none, hand, torch"):
        recompute_blocks(model, "both")


@pytest.mark.slow
def test_compiled_blocks_are_recomputed(monkeypatch):
    """They run again as they were compiled: twice, as the first time nothing is kept."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    config = Config(**SMALL | {"n_layer": 2}, compile=True)
    model = make_model(config.gpt(50))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(len(p)))
    ids = torch.randint(50, (4, 12), generator=torch.Generator().manual_seed(0))
    plain, names = model_gradients(model, ids), list(model.state_dict())
    torch._dynamo.reset()
    counters.clear()
    config.objective(model)
    compiled = model.blocks[0].forward
    recompute_blocks(model, "hand")
    for a, b in zip(plain, model_gradients(model, ids)):
        torch.testing.assert_close(a, b)
    assert counters["stats"]["unique_graphs"] == 2 and list(model.state_dict()) == names
    recompute_blocks(model, "none")
    assert model.blocks[0].forward == compiled
    torch._dynamo.reset()


def test_blocks_run_twice_only_for_gradients():
    model, runs = GPT(GPTConfig(**SMALL)), []
    model.blocks[1].mlp.register_forward_hook(lambda *_: runs.append(1))
    ids = torch.zeros(1, 5, dtype=torch.long)
    for how in HOW:
        recompute_blocks(model, how)
        for context in (torch.no_grad, torch.inference_mode):
            runs.clear()
            with context():
                model(ids)
                assert len(runs) == 1
        runs.clear()
        model(ids).sum().backward()
        if how != "torch":  # which stops as soon as it has what was missing
            assert len(runs) == (2 if how == "hand" else 1)
        cache = KVCache(model.config, 1)
        runs.clear()
        weight = model.blocks[0].attention.qkv.weight
        expected, = torch.autograd.grad(model(ids).sum(), weight)
        runs.clear()
        found, = torch.autograd.grad(model(ids, cache).sum(), weight)
        assert len(runs) == 1, "with a cache nothing is run again: the same keys would come twice"
        torch.testing.assert_close(found, expected)
        assert cache.length == 5


def test_what_is_written_stays():
    model = make_model(GPTConfig(**SMALL), std=0.2)
    written = []
    for how in HOW:
        recompute_blocks(model, how)
        written.append(list(generate(model, [[1, 2, 3]], 8, random_pick(1.0, seed=0))))
    assert written[0] == written[1] == written[2]


# ---- what it saves ----
def test_saved_bytes():
    """A block more costs B T C numbers, where it cost dozens of times as many."""
    B, T, C = 2, 12, 16
    kept = {}
    for n_layer in (2, 5):
        model = GPT(GPTConfig(**SMALL | {"n_layer": n_layer}))
        ids = torch.zeros(B, T, dtype=torch.long)
        for how in HOW:
            recompute_blocks(model, how)
            kept[how, n_layer] = saved_bytes(lambda: model.loss(ids, ids), model)
    a_block = {how: (kept[how, 5] - kept[how, 2]) / 3 for how in HOW}
    assert a_block["hand"] == a_block["torch"] == B * T * C * 4, a_block
    assert a_block["none"] > 12 * B * T * C * 4, a_block


PEAK = """
import sys
import torch
sys.path.append({folder!r})
from recompute import GPT, GPTConfig, recompute_blocks, saved_bytes
torch.set_num_threads(1)
model = GPT(GPTConfig(vocab_size=64, seq_len=256, n_layer=6, d_model=128, d_ff=512))
ids = torch.zeros(6, 256, dtype=torch.long)
def peak():  # not getrusage, which remembers the process that started this one
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))
for how in ("hand", "none"):  # what is loaded and made at the first call
    recompute_blocks(model, how)
    model.loss(ids[:1], ids[:1]).sum().backward()
start = peak()
for how in ("hand", "none"):  # a peak only grows: the lower one first
    recompute_blocks(model, how)
    model.loss(ids, ids).sum().backward()
    print(peak() - start, saved_bytes(lambda: model.loss(ids, ids), model))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_peak_memory():
    """Of a whole process: what is kept for the backward pass, and a block's worth or two more."""
    folder = str(Path(recompute.__file__).parent)
    done = subprocess.run([sys.executable, "-c", PEAK.format(folder=folder)], text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    (hand, hand_kept), (plain, plain_kept) = (map(int, line.split())
                                              for line in done.stdout.splitlines())
    block = (plain_kept - hand_kept) / 6
    assert plain > 0.8 * plain_kept
    assert hand < hand_kept + 4 * block, (hand / 1e6, hand_kept / 1e6, block / 1e6)
    assert hand < plain / 2, f"{hand / 1e6:.0f} MB, without {plain / 1e6:.0f} MB"


def test_main(capsys):
    recompute.main(["--repeats", "1", "--d-model", "32"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split()[0] for row in rows] == list(HOW)
    none, hand, torchs = (float(row.split()[1]) for row in rows)
    assert hand == torchs < none / 3
