"""Tests of timing.py: each call counted once, as what it is, and the rows make up the time."""

import gzip
import json
import time

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import record_function

from gpt import GPT
from optim import make_optimizer
from train import Config
from timing import KINDS, PYTHON, kind_of, phases, profile, table, tally

SMALL = dict(vocab_size=61, seq_len=16, n_layer=2, n_head=2, n_kv_head=1, d_model=32, d_ff=64)


def watch(work):
    with torch.profiler.profile(with_flops=True) as profiler:
        work()
    return tally(profiler.events())


@pytest.mark.parametrize("name, kind", [
    ("aten::mm", "matrix products"), ("aten::baddbmm", "matrix products"),
    ("aten::mul", "norms, elementwise"), ("aten::_to_copy", "copies"),
    ("aten::linear", "views, bookkeeping"), ("aten::t", "views, bookkeeping"),
    ("aten::tanh", "norms, elementwise"), ("aten::_fused_adamw_", "AdamW"),
    ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
    ("aten::_log_softmax_backward_data", "softmax, cross-entropy"),
    ("aten::index_select", "embedding"), ("aten::embedding_dense_backward", "embedding"),
    ("autograd::engine::evaluate_function: EmbeddingBackward0", "views, bookkeeping"),
    ("Optimizer.step#Optimizer.step", "views, bookkeeping"), ("data loading", "data loading"),
    ("aten::something new", "norms, elementwise")])
def test_kind_of(name, kind):
    assert kind_of(name) == kind


def test_phases():
    grad, move = "autograd::engine::evaluate_function: MmBackward0", "Optimizer.step#Optimizer.step"
    names = ["data loading", "aten::mm", grad, "aten::mm", grad, grad, "aten::_foreach_norm", move,
             "aten::mm", grad, "aten::item", move, "aten::item"]
    assert [p[0] for p in phases(names)] == list("ffbfbboo" + "fboo" + "o"), phases(names)


def test_tally_counts_every_call_once():
    """The layers of a product call each other; its time and its operations count once."""
    x, w = torch.randn(8, 16), torch.randn(4, 16, requires_grad=True)
    batch = torch.randn(3, 8, 8)
    seconds, calls, flops = watch(lambda: F.linear(x, w).sum().backward())
    assert calls["matrix products"] == 2, "x w' and, for w, g' x"
    assert flops == 2 * 2 * 8 * 16 * 4
    assert {p for kind, p in seconds if kind == "matrix products"} == {"forward", "backward"}
    seconds, calls, flops = watch(lambda: torch.baddbmm(batch @ batch, batch, batch))
    assert calls["matrix products"] == 2 and flops == 2 * 2 * 3 * 8**3, flops
    start = time.perf_counter()
    seconds, calls, flops = watch(lambda: torch.randn(500, 500) @ torch.randn(500, 500))
    assert 0 < sum(seconds.values()) < time.perf_counter() - start


def test_table():
    lines = list(table({("copies", "forward"): 0.010, ("copies", "backward"): 0.020,
                        (PYTHON, ""): 0.010}, {"copies": 8}, n=2))
    assert [line.split() for line in lines[1:]] == [
        ["copies", "4", "5.00", "10.00", "15.00", "75.0%"],
        ["Python", "between", "calls", "0", "5.00", "25.0%"],
        ["all", "4", "5.00", "10.00", "20.00", "100.0%"]]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_profile(tmp_path, optimizer):
    """Rows add up, by the clock of whoever makes the steps; nothing is lost or in the wrong row."""
    config = Config(**SMALL | dict(optimizer=optimizer, seq_len=260))  # for the fused attention
    model, clocks = GPT(config.gpt(61)), []
    mover, ids = make_optimizer(model, config), torch.arange(260).view(1, 260) % 61

    def step():
        start = time.perf_counter()
        with record_function("data loading"):
            time.sleep(0.02)
        model.loss(ids, ids).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        time.sleep(0.03)
        mover.step()
        mover.zero_grad()
        clocks.append(time.perf_counter() - start)

    text = profile(step, tmp_path, peak=1e12, n=4)
    assert len(clocks) == 11, "3 to warm up, 4 alone, 4 watched"
    rows = {line[:22].strip(): line[22:].split() for line in text.splitlines()[1:-2]}
    assert set(rows) == set(KINDS) | {PYTHON, "all"}
    whole = {kind: float(row[-2]) for kind, row in rows.items()}
    assert 1 <= (whole["all"] + 0.01) / (1e3 * sum(clocks[7:]) / 4) < 1.3, "the time that passed"
    assert sum(whole.values()) == pytest.approx(2 * whole["all"], abs=0.1), "the rows' sum"
    assert whole["data loading"] > 20 and whole[PYTHON] > 30, "two sleeps, two rows"
    assert min(whole.values()) >= 0
    # Of each block four matrices, and the head: a product forward, two backward.
    assert int(rows["matrix products"][0]) >= 9 * 3
    assert (len(rows["matrix products"]) == 6) == (optimizer == "muon"), "Muon makes some"
    with gzip.open(tmp_path / "trace.json.gz") as file:
        assert any(e["name"] == "aten::mm" for e in json.load(file)["traceEvents"])
    assert "GFLOP a step" in text
