"""What a run on GPUs takes, before any is paid for: steps, memory by item, time and money.

Memory is memory.py's; time is what the arithmetic takes at a share of the data sheet, or what the
messages do, whichever is more; money is both multiplied.
Left out: power, disks, what a GPU costs while it waits; a simulation of the network (simulate.py).

    python 07_scale/extras/plan.py --preset 1b --gpu rtx3090ti --gpus 2
    python 07_scale/extras/plan.py --gpu rtx3090ti --gpus 2 --engine ddp --optimizer adamw
    python 07_scale/extras/plan.py --preset 461m --gpu h100 --gpus 8 --price 2.5 --flops 4e19

Writes the picture --out, where the memory goes by engine. Next: simulate.py.
"""

import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import NamedTuple

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

from console import Parser, add_options, duration, run
from budget import flops_per_token, size
from curves import COLOURS, INK, label, picture
from length import choose_length, outside_table, planned_steps
from memory import DIVIDED, ITEMS, fullest, moments, parameters, peak
from presets import ALL as PRESETS, FullConfig as Config


class GPU(NamedTuple):
    """What a data sheet says: 10^12 FLOP/s in dense bfloat16 with float32 sums (GeForce: half of
    what is printed in bold; others: without sparsity), GB of memory, GB/s to it, and GB/s each way
    to the other GPUs of a machine: PCIe 4.0 x16, or half of what NVLink is said to do both ways.

    A card of "24 GB" has 24 * 2^30 bytes. Counting 24 * 10^9 leaves 7% to the driver and to holes.
    """

    tflops: float
    gigabytes: float
    bandwidth: float
    link: float


GPUS = {"rtx3090": GPU(71, 24, 936, 32), "rtx3090ti": GPU(80, 24, 1008, 32),
        "rtx4090": GPU(165, 24, 1008, 32), "l4": GPU(121, 24, 300, 32),
        "a40": GPU(150, 48, 696, 32), "a6000": GPU(155, 48, 768, 32),
        "a100": GPU(312, 80, 2039, 300), "h100": GPU(989, 80, 3350, 450),
        "h200": GPU(989, 141, 4800, 450), "b200": GPU(2250, 180, 8000, 900)}

# How often a rank sends as many bytes as all gradients have, in a step, and in a micro-batch. An
# all-reduce is twice, a reduce-scatter or an all-gather once (Rajbhandari et al. 2020, section 7).
SENDS = {"plain": (0, 0), "ddp": (2, 0), "torch-ddp": (2, 0), "zero1": (2, 0), "zero2": (1, 1),
         "fsdp2": (0, 3)}


# ---- how many windows, how long ----

def largest_micro_batch(needs, room, most):  # exercise
    """The largest power of two, at most `most`, of windows that fit: needs(windows) <= room. 0 if
    not even one fits. needs grows with the windows.

    largest_micro_batch(lambda windows: 10 * windows, 50, 100) is 4.
    """
    fits, windows = 0, 1
    while windows <= most and needs(windows) <= room:
        fits, windows = windows, 2 * windows
    return fits


def step_seconds(config, shape, gpu, engine, world, windows, recompute, utilisation):
    """Seconds of a step: those of its arithmetic, at a share `utilisation` of what the data sheet
    says, or those of its messages, whichever are more, as they go on at the same time.

    Recomputing is one more forward pass, a third of the arithmetic of both. Muon's is left out.
    """
    tokens = config.batch_size * shape.seq_len
    flops = flops_per_token(shape) * tokens * (4 / 3 if recompute else 1) / world
    a_step, a_micro_batch = SENDS[engine]
    rounds = a_step + a_micro_batch * accumulation(config, world, windows)
    sent = rounds * 4 * parameters(shape) * (world - 1) / world
    return max(flops / (utilisation * gpu.tflops * 1e12), sent / (gpu.link * 1e9))


def accumulation(config, world, windows):
    """Micro-batches of `windows` in a step of one rank."""
    return math.ceil(config.batch_size / (world * windows))


class Offer(NamedTuple):
    """How an engine does it on a GPU."""

    engine: str
    recompute: bool
    windows: int  # in the largest micro-batch that fits; 0: it doesn't fit
    items: dict  # bytes by item, of a rank, with them; of one window if it doesn't fit
    days: float  # of the whole run


def usable(config, engine):
    """With fsdp2 matrices are divided, but Muon needs them whole: AdamW then."""
    return dataclasses.replace(config, optimizer="adamw") if engine == "fsdp2" else config


def offer(config, shape, gpu, engine, world, recompute, low, utilisation):
    config = usable(config, engine)

    def found(windows):
        return moments(config, shape, engine, world, windows, recompute, low)
    windows = largest_micro_batch(lambda k: peak(found(k)), gpu.gigabytes * 1e9,
                                  -(-config.batch_size // world))
    seconds = step_seconds(config, shape, gpu, engine, world, max(1, windows), recompute,
                           utilisation)
    return Offer(engine, recompute, windows, fullest(found(max(1, windows))),
                 seconds * planned_steps(config, shape) / 86400)


# ---- what is printed ----

def engines(world):
    """What can be used on so many GPUs."""
    return ["plain"] if world == 1 else [name for name in DIVIDED if name != "plain"]


def lengths(config, shape):
    """Lines: steps and tokens by each way to say how long; what wins is marked."""
    step_tokens, flops = config.batch_size * shape.seq_len, flops_per_token(shape)
    wins = next(way for way in ("steps", "flops", "tokens_per_param") if getattr(config, way))
    ratio = config.tokens_per_param or 20.0
    for way, value, words in (("steps", config.steps, "as many as asked for"),
                              ("flops", config.flops, f"a budget of {config.flops:.3g} FLOP"),
                              ("tokens_per_param", ratio, f"{ratio:g} tokens a parameter")):
        none = dict(steps=0, flops=0.0, tokens_per_param=0.0)
        if not value:
            yield f"{f'  by {way}':22}not given"
            continue
        steps = planned_steps(dataclasses.replace(config, **none | {way: value}), shape)
        yield (f"{f'  by {way}':22}{steps:>9,} steps, {steps * step_tokens / 1e9:,.3g}B tokens, "
               f"{steps * step_tokens * flops:.3g} FLOP: {words}"
               + (" (this one counts)" if way == wins else ""))


def amount(n_bytes):
    return f"{n_bytes / 1e9:.2f}" if n_bytes else "-"


def report(config, shape, chosen, offers, name, world, price, utilisation):
    """Lines about one GPU: the model, the run, a row of memory for each offer, and the chosen one's
    time and money.
    """
    gpu, step_tokens = GPUS[name], config.batch_size * shape.seq_len
    yield (f"{parameters(shape):,} parameters, {outside_table(shape):,} of them outside the "
           f"embedding table; {flops_per_token(shape) / 1e6:,.0f} MFLOP a token; {step_tokens:,} "
           f"tokens a step\n{config.optimizer}, {config.dtype}, windows of {shape.seq_len}, on "
           f"{world} x {name}: {gpu.tflops:g} TFLOP/s, {gpu.gigabytes:g} GB each")
    yield from lengths(config, shape)
    used = [item for item in ITEMS if any(o.items[item] for o in offers)]
    yield (f"\nGB of a rank, with the largest micro-batch that fits\n{'':22}{'windows':>8}"
           + "".join(f"{item:>12}" for item in used) + f"{'all':>8}")
    for o in offers:
        words = o.engine + (", recompute" if o.recompute else "")
        yield (f"  {words:20}{o.windows or 'no':>8}" + "".join(f"{amount(o.items[i]):>12}"
                                                             for i in used)
               + f"{amount(sum(o.items.values())):>8}" + ("" if o.windows else "  (of 1 window)"))
    yield ""
    how = chosen.engine + (", recomputing blocks" if chosen.recompute else "")
    if not chosen.windows:
        others = [o.engine + ", recompute" * o.recompute for o in offers if o.windows]
        yield (f"No, not with {how}: one window needs {size(sum(chosen.items.values()))} of "
               f"{gpu.gigabytes:g} GB. " + (f"These fit: {'; '.join(others)}" if others else
                                            "Nothing here fits: more GPUs, or a smaller model"))
        return
    hours = 24 * chosen.days * world
    yield (f"Yes, with {how}: micro-batches of {chosen.windows}, "
           f"{accumulation(config, world, chosen.windows)} of them a step on each GPU, "
           f"{size(sum(chosen.items.values()))} of {gpu.gigabytes:g} GB.")
    time = f"{chosen.days:,.1f} days" if chosen.days >= 1 else duration(86400 * chosen.days)
    yield (f"{time}, {hours:,.0f} hours of a GPU"
           + (f", {hours * price:,.0f} at {price:g} an hour" if price is not None else "")
           + f", if steps reach {utilisation:.0%} of the data sheet: an assumption")


def market(config, shape, world, recompute, low, utilisation, price):
    """Lines: a row for each kind of GPU, a column for each engine: largest micro-batch, days, and
    with a price what that is in money. * recomputes blocks, as it does not fit otherwise.
    """
    names = engines(world)
    hourly = f"; money at {price:g} an hour of any GPU" if price is not None else ""
    yield (f"\n{world} x ...: windows in the largest micro-batch, days{hourly}\n"
           "(-: does not fit; *: fits if blocks are recomputed)")
    yield f"{'':12}" + "".join(f"{name:>20}" for name in names)
    for name, gpu in GPUS.items():
        cells = []
        for engine in names:
            for again in (False, True)[recompute:]:
                o = offer(config, shape, gpu, engine, world, again, low, utilisation)
                if o.windows:
                    break
            money = f", {24 * o.days * world * price:,.0f}" if price is not None else ""
            star = "*" * (o.recompute and not recompute)
            cells.append(f"{o.windows}{star}, {o.days:,.1f}{money}" if o.windows else "-")
        yield f"  {name:10}" + "".join(f"{cell:>20}" for cell in cells)


def draw(bars, gigabytes, title, path):
    """Stacked bars of bytes by item, {label: {item: bytes}}, beside the line of a card's memory."""
    colours = dict(zip(ITEMS, [COLOURS[0], "#a1b5d8", COLOURS[2], COLOURS[1], COLOURS[3],
                               "#c9bfe0", "0.55", "#d9b64c"]))
    figure, axes = picture(9.5, 1.9 + 0.42 * len(bars))
    most = max(gigabytes, *(sum(items.values()) / 1e9 for items in bars.values()))
    for y, items in enumerate(bars.values()):
        left = 0.0
        for item, n_bytes in items.items():
            axes.barh(y, n_bytes / 1e9, left=left, color=colours[item], height=0.66)
            left += n_bytes / 1e9
        label(axes, left, y, f"  {left:.1f}", INK)
    axes.plot([gigabytes] * 2, [-1, len(bars) - 0.5], color=INK, lw=1, ls="--")
    label(axes, gigabytes, -0.85, f"the card: {gigabytes:g} GB ", INK, ha="right")
    place = 0.0  # the words stand side by side, each as wide as it is long
    for item in [i for i in ITEMS if any(items.get(i) for items in bars.values())]:
        label(axes, place, len(bars) - 0.25, item, colours[item], fontsize=10.5, va="top")
        place += most * (0.028 + 0.0125 * len(item))
    axes.set_yticks(range(len(bars)), list(bars))
    axes.set(xlim=(0, 1.08 * most), ylim=(len(bars) + 0.15, -1.1), xlabel="GB of a rank")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_title(title, loc="left", fontsize=11)
    figure.savefig(path, dpi=120)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="1b", choices=PRESETS, help="(default: 1b)")
    parser.add_argument("--gpu", default="rtx3090ti", choices=GPUS, help="(default: rtx3090ti)")
    parser.add_argument("--gpus", type=int, default=2, help="how many (default: 2)")
    parser.add_argument("--engine", choices=DIVIDED, help="(default: zero1, plain on one GPU)")
    parser.add_argument("--recompute", default="none", choices=("none", "torch", "hand"),
                        help="blocks are computed again in the backward pass (default: none)")
    parser.add_argument("--masters", action="store_true", help="bfloat16 weights and gradients, "
                        "float32 masters in the optimizer")
    parser.add_argument("--price", type=float, help="of an hour of one GPU")
    parser.add_argument("--utilisation", type=float, default=0.4,
                        help="share of the data sheet that steps reach: a guess (default: 0.4)")
    parser.add_argument("--out", default="memory.png", help="the picture (default: memory.png)")
    add_options(parser, Config)
    given = vars(parser.parse_args(argv))
    preset, name, world, engine, recompute, low, price, utilisation, out = (
        given.pop(key) for key in ("preset", "gpu", "gpus", "engine", "recompute", "masters",
                                   "price", "utilisation", "out"))
    engine, recompute = engine or ("plain" if world == 1 else "zero1"), recompute != "none"
    if world < 1:
        raise ValueError(f"gpus is {world}, but must be at least 1")
    if engine not in engines(world):
        raise ValueError(f"engine {engine} is not for {world} of them; {', '.join(engines(world))} "
                         "may be")
    if not 0 < utilisation <= 1:
        raise ValueError(f"utilisation is {utilisation}, but must be a share above 0, at most 1")
    if price is not None and not 0 <= price < math.inf:
        raise ValueError(f"price is {price}, but must be 0 or more")
    config = Config(**choose_length(PRESETS[preset], given))
    shape = config.gpt(config.vocab_size)

    def ask(engine, again):
        return offer(config, shape, GPUS[name], engine, world, again, low, utilisation)

    chosen = ask(engine, recompute)
    offers = [ask(other, again) for other in engines(world)
              for again in (False, True)]
    print(*report(config, shape, chosen, offers, name, world, price, utilisation), sep="\n")
    print(*market(config, shape, world, recompute, low, utilisation, price), sep="\n")
    bars, windows = {}, max(1, chosen.windows)
    for other in dict.fromkeys(["plain", *engines(world)]):
        ranks = 1 if other == "plain" else world
        for again in (False, True):
            bars[other + ", recompute" * again] = fullest(moments(
                usable(config, other), shape, other, ranks, windows, again, low))
    draw(bars, GPUS[name].gigabytes, f"where the memory goes: {preset}, {config.optimizer}, "
         f"{config.dtype}, {windows} x {shape.seq_len} tokens at once, {world} x {name}", out)
    print(f"\n{out}: where the memory goes, by engine")


if __name__ == "__main__":
    run(main)
