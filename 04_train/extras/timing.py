"""Where a training step spends its time: a table by kinds of work, and a trace to look at.

A step of a small model is a thousand short calls, of which matrix products, which the machine is
good at, are only a part. PyTorch's profiler records when every call begins and ends; this file sums
its thousands of lines in one table. A call's own time excludes the calls inside it, so that nothing
counts twice; the time outside all calls is Python's: the rows add up to the time that passed.
Left out: memory. The first profile of a program takes two seconds more, of imports.

    python 04_train/train.py --preset tiny --profile

Writes profile/trace.json.gz: ui.perfetto.dev draws it. Next: starting.py.
"""

import dataclasses
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import choose_device

import torch
from torch.autograd import DeviceType

from data import prepare
from machine import keep_freed_memory, matmul_peak
from optim import make_optimizer
from train import train_step

PHASES = ("forward", "backward", "optimizer")

# Kinds of work, and patterns of calls' names; a call is of the first kind whose pattern it matches.
KINDS = {
    "data loading": r"^data loading",  # the record_function() in step()
    "views, bookkeeping": r"^(?!aten::)|^aten::(_unsafe_view|_reshape_alias|alias|as_strided|chunk|"
                          r"detach|empty\w*|expand\w*|flatten|item|lift_fresh|linear|matmul|"
                          r"narrow|new_empty\w*|permute|reshape\w*|resolve_\w+|result_type|select|"
                          r"slice|split\w*|squeeze\w*|stack|t|to|transpose|unbind|unsqueeze\w*|"
                          r"view\w*)$",  # no number is touched; or autograd's calls
    "matrix products": r"^aten::(mm|bmm|addmm|baddbmm|_addmm_activation|mv|addmv)$",
    "attention": r"attention",
    "softmax, cross-entropy": r"softmax|nll_loss|cross_entropy",
    "embedding": r"^aten::(embedding|index_select)",
    "AdamW": r"fused_adam",
    "copies": r"^aten::(_to_copy|cat|clone|contiguous|copy_|fill_|zero_|zeros\w*|ones\w*)$",
    "norms, elementwise": r"",  # all others: little arithmetic for each number read
}
PYTHON = "Python between calls"


def kind_of(name):
    """The first of KINDS whose pattern matches the name of a call."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))


def phases(names):
    """The phase of each of the outermost calls of some steps, by their names, in order.

    Autograd's and the optimizer's calls are known by name. Of the others, those before a backward
    pass are forward; those after it, such as clipping, belong to the optimizer.
    """
    found, then = [], "optimizer"
    for name in reversed(names):
        backward = name.startswith("autograd::engine")
        if backward or name.startswith("Optimizer.step"):
            then = "backward" if backward else "optimizer"
        found.append("forward" if then == "backward" and not backward else then)
    return found[::-1]


def family(event):
    """A call and all calls inside it."""
    yield event
    for child in event.cpu_children:
        yield from family(child)


def tally(events, device="cpu"):
    """The profiler's events -> (seconds, calls, flops): the own time of each (kind, phase), the
    number of calls of each kind, and the FLOPs of all matrix products.

    On a GPU the time of a call is that of the kernels it started there (not tried).
    """
    own = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    outermost = sorted((e for e in events
                        if e.cpu_parent is None and e.device_type == DeviceType.CPU),
                       key=lambda e: e.time_range.start)
    seconds, calls, flops = Counter(), Counter(), 0
    for root, phase in zip(outermost, phases([e.name for e in outermost])):
        for event in family(root):
            kind = kind_of(event.name)
            seconds[kind, phase] += getattr(event, own) / 1e6
            calls[kind] += 1
            flops += event.flops * (kind == "matrix products")
    return seconds, calls, flops


def table(seconds, calls, n):
    """Yield lines with each kind's milliseconds a step, by phase and together, and its share.

    seconds: {(kind, phase): seconds of n steps}; phase "" is none of PHASES.
    """
    total = sum(seconds.values())
    kinds = {kind: sum(s for (k, _), s in seconds.items() if k == kind) for kind, _ in seconds}
    yield f"{'milliseconds a step':22} {'calls':>6}" + "".join(
        f"{name:>10}" for name in (*PHASES, "together", "share"))
    rows = [(kind, [seconds.get((kind, phase), 0) for phase in PHASES], kinds[kind],
             calls.get(kind, 0))
            for kind in sorted(kinds, key=kinds.get, reverse=True)]
    sums = [sum(s for (_, p), s in seconds.items() if p == phase) for phase in PHASES]
    for kind, parts, whole, count in [*rows, ("all", sums, total, sum(calls.values()))]:
        yield f"{kind:22} {count / n:6,.0f}" + "".join(
            f"{1e3 * s / n:10.2f}" if s else " " * 10 for s in (*parts, whole)
        ) + f"{whole / total:10.1%}"


def profile(step, folder, peak, n=5, device="cpu"):
    """Call step(), which makes one training step, 3 + 2n times, and profile the last n.

    Returns a table and its summary, as text; folder/trace.json.gz has every call. peak: FLOP/s that
    matrix products could reach (machine.matmul_peak). Time counts as "data loading" if step()
    spends it inside torch.profiler.record_function("data loading").
    """
    def run_steps():
        start = time.perf_counter()
        for _ in range(n):
            step()
        getattr(torch, device).synchronize()
        return time.perf_counter() - start

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # keeps the profiler's own log off stderr
    for _ in range(3):
        step()
    alone = run_steps()
    with torch.profiler.profile(with_flops=True) as profiler:
        wall = run_steps()
    profiler.export_chrome_trace(str(Path(folder) / "trace.json.gz"))
    seconds, calls, flops = tally(profiler.events(), device)
    seconds[PYTHON, ""] = wall - sum(seconds.values())
    inside = sum(s for (kind, _), s in seconds.items() if kind == "matrix products")
    return "\n".join([*table(seconds, calls, n), (
        f"matrix products: {flops / n / 1e9:.2f} GFLOP a step, {flops / inside / peak:.0%} of the "
        f"machine's {peak / 1e9:.0f} GFLOP/s while they run, {flops / wall / peak:.0%} over all"), (
        f"without the profiler, a step takes {1e3 * alone / n:.2f} ms")])


def show_profile(config):
    """Make steps as in a run of this config, with a model that is thrown away, and print where they
    spend their time. The learning rates are tiny, so that the model can't diverge.
    """
    config = dataclasses.replace(config, lr=1e-12, muon_lr=1e-12, steps=config.steps or 1)
    folder = Path("profile")
    keep_freed_memory()
    tokenizer = None
    if config.init:
        from starting import adopted_tokenizer
        tokenizer = adopted_tokenizer(None, config)
    data = prepare(config.data, config.vocab_size, config.data_dir, tokenizer, config.by_hand)
    device = choose_device(config.device)
    model = config.make_model(data.tokenizer.vocab_size).to(device)
    optimizer, loss = make_optimizer(model, config), config.objective(model)
    loader = config.batches(data, model)
    if hasattr(loader, "objective"):  # those of sft.py, for example
        loss = loader.objective(loss)
    peak = matmul_peak(device, getattr(torch, config.dtype))

    def step():
        with torch.profiler.record_function("data loading"):
            batch = next(loader)
        train_step(model, optimizer, batch, 0, config, loss)
    folder.mkdir(exist_ok=True)
    print(profile(step, folder, peak, device=device))
