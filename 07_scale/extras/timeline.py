"""A real timeline: when each block's backward pass runs on two ranks, and when gradients travel.

It shows the overlap that scale.py promises: sent naively, all gradients wait for the whole backward
pass; in buckets, those of the last block travel while earlier blocks still compute. Hooks record
when the gradient reaches each piece of the model, and a wrapped all-reduce records when each
message is sent and done; the picture shows the step of rank 0.
Left out: what happens inside a block (04_train/extras/timing.py), other engines, GPUs, whose clocks
are not Python's. Where the processors that compute must also move messages, as with gloo, a message
slows the computation it overlaps.

    python 07_scale/extras/timeline.py
    torchrun --standalone --nproc-per-node 2 07_scale/extras/timeline.py

Writes timeline.png into --out. Next: Dockerfile, train.slurm.
"""

import contextlib
import os
import sys
import time
from collections import namedtuple
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run

import torch
import torch.distributed as dist

from curves import BLUE, INK, ORANGE, label, picture
from scale import BucketedSum, broadcast_weights, make_buckets, sum_gradients_naive
from gpt import GPT, GPTConfig
from ranks import on_ranks

SHAPE = GPTConfig(vocab_size=2048, seq_len=64, n_layer=6, n_head=6, n_kv_head=6, d_model=384,
                  d_ff=1536)
BUCKET_BYTES = 4 << 20

# Seconds after the backward pass began. intervals: [(name, start, end)]; messages: [(bytes, start,
# end)] in the order in which they were sent; end: when all sums are in .grad.
Timeline = namedtuple("Timeline", "intervals messages end")


def watch_backward(model, seen):
    """Hooks by which every backward pass appends to `seen` (name of a piece, when its gradient
    arrived): the blocks from last to first, then the embedding. The head starts with the pass.
    """
    def mark(name):
        def forward_hook(module, inputs, output):
            if output.requires_grad:
                output.register_hook(lambda gradient: seen.append((name, time.perf_counter())))
        return forward_hook
    blocks = [(f"block {i + 1}", block) for i, block in enumerate(model.blocks)]
    return [module.register_forward_hook(mark(name))
            for name, module in [("embedding", model.embed), *blocks]]


@contextlib.contextmanager
def watched_messages():
    """A context that records every all-reduce in a list of [bytes, when it was sent, when it was
    done]; the last is nan until then.
    """
    messages, all_reduce = [], dist.all_reduce

    def watched(tensor, *arguments, **how):
        row = [tensor.numel() * tensor.element_size(), time.perf_counter(), float("nan")]
        messages.append(row)

        def done(_=None):
            row[2] = time.perf_counter()
        work = all_reduce(tensor, *arguments, **how)
        if work is None:  # it was synchronous
            done()
        else:
            work.get_future().then(done)  # called by gloo's thread
        return work

    dist.all_reduce = watched
    try:
        yield messages
    finally:
        dist.all_reduce = all_reduce


def record_step(model, ids, engine):
    """The Timeline of one step on this rank. engine: "naive", or a BucketedSum of the model's."""
    model.zero_grad()
    seen, bucketed = [], engine != "naive"
    hooks = watch_backward(model, seen)
    if bucketed:
        engine.start()
    loss = model.loss(ids, ids).mean()
    with watched_messages() as messages:
        dist.barrier()
        start = time.perf_counter()
        loss.backward()
        computed = time.perf_counter()
        engine.finish() if bucketed else sum_gradients_naive(model.parameters())
        end = time.perf_counter()
        dist.barrier()  # by then gloo has called done() for the last message, too
    for hook in hooks:
        hook.remove()
    names, times = zip(("head", start), *seen)
    intervals = [(name, a - start, b - start) for name, a, b in
              zip(names, times, [*times[1:], computed])]
    return Timeline(intervals, [(n, a - start, b - start) for n, a, b in messages], end - start)


def record(rank, shape=SHAPE, windows=1, bucket_bytes=BUCKET_BYTES, rounds=5):
    """{"naive": Timeline, "bucketed": Timeline} of this rank: the quickest of `rounds` each, which
    take turns, as the one least disturbed by other programs.
    """
    model, ids = GPT(shape), torch.zeros(windows, shape.seq_len, dtype=torch.long)
    broadcast_weights(model)
    summed = BucketedSum(make_buckets(model.parameters(), bucket_bytes))
    found = {"naive": [], "bucketed": []}
    for _ in range(rounds + 1):
        found["naive"].append(record_step(model, ids, "naive"))
        found["bucketed"].append(record_step(model, ids, summed))
    return {name: min(timelines[1:], key=lambda t: t.end) for name, timelines in found.items()}


# ---- the picture ----
def lanes(messages):
    """The number of the lane in which each message is drawn, so that none overlap: the first lane
    free when it is sent. lanes([(1, 0, 5), (1, 2, 3), (1, 4, 9)]) is [0, 1, 1].
    """
    ends, result = [], []
    for _, start, end in messages:
        lane = next((i for i, free in enumerate(ends) if free <= start), len(ends))
        ends[lane:lane + 1] = [end]
        result.append(lane)
    return result


def draw(timelines, path):
    """On one axis of time, for each way of sending: a bar for each piece of the backward pass,
    below it one for each message, from sending to its sum, and a line at the end of the step.
    """
    figure, axes = picture(11, 4.2)
    words = {"naive": "naive: a message for each parameter, when all is computed",
             "bucketed": "in buckets: each is sent as soon as its gradients are there"}
    longest = max(timeline.end for timeline in timelines.values())
    ticks = []
    for top, (name, timeline) in zip((0, 3.4), timelines.items()):
        y, intervals, messages = top + 0.9, timeline.intervals, timeline.messages
        label(axes, 0, top, words[name], INK, fontsize=11)
        for piece, start, end in intervals:
            axes.barh(y, end - start, 0.8, start, color=BLUE, ec="white", lw=1)
            text = piece if end - start > longest / 16 else piece.split()[-1]
            if end - start > longest / 16 or "block" in piece and end - start > longest / 60:
                label(axes, (start + end) / 2, y, text, "white", ha="center", fontsize=9)
        rows = lanes(messages)
        thick = 0.8 / (max(rows, default=0) + 1)
        for (n_bytes, start, end), lane in zip(messages, rows):
            axes.barh(y + 0.6 + thick * (lane + 0.5), end - start, thick, start, color=ORANGE,
                      ec="white", lw=0.6)
        ticks += [(y, "backward"), (y + 1, "messages")]
        axes.plot([timeline.end] * 2, [y - 0.5, y + 1.5], color=INK, lw=1.2,
                  clip_on=False)
        sent = sum(n for n, *_ in messages)
        label(axes, timeline.end, y + 0.5, f"  {1e3 * timeline.end:,.0f} ms\n  "
              f"{len(messages)} messages,\n  {sent / 1e6:,.0f} MB", INK, fontsize=9.5)
    axes.set(xlim=(0, longest), ylim=(6, -0.3))
    axes.set_yticks(*zip(*ticks))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(lambda x, _: f"{1e3 * x:,g}")
    axes.set_xlabel("milliseconds since the backward pass began, on rank 0 of 2")
    figure.savefig(path, dpi=120)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default=".", help="the folder for the picture (default: .)")
    out = Path(parser.parse_args(argv).out)
    if not out.is_dir():
        raise ValueError(f"there is no folder {out} to draw into")
    if "RANK" in os.environ:  # torchrun has started us
        torch.set_num_threads(1)
        dist.init_process_group("gloo")
        timelines, is_rank0 = record(dist.get_rank()), dist.get_rank() == 0
        dist.destroy_process_group()
        if not is_rank0:
            return
    else:
        timelines = on_ranks(record)[0]
    for name, timeline in timelines.items():
        computed = timeline.intervals[-1][-1]
        print(f"{name:9} backward {1e3 * computed:6.1f} ms, step {1e3 * timeline.end:6.1f} ms, "
              f"{len(timeline.messages)} messages")
    draw(timelines, out / "timeline.png")
    print(out / "timeline.png")


if __name__ == "__main__":
    run(main)
