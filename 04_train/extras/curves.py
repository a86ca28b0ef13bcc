"""Pictures that explain this stage, drawn from its own functions; and the race of its recipes.

schedules.png: the learning rate over a run, a line for each schedule.
muon.png: the singular values of a real gradient, of a small model trained for some steps on this
folder's source, after each step of Muon's iteration, and those of AdamW's direction.
packed.png: two conversations in a window of sft.py: what is learned, and what may be seen.
race.png: loss in nats a character against seconds, a line for each run. ablations.png: how much
longer it takes to reach the same loss without each ingredient.
Left out: the race itself (tests/bench.py train --output race.json).

    python 04_train/extras/curves.py
    python 04_train/extras/curves.py --race race.json

race.json: {"target": 1.88,
 "runs": [{"name": "classic", "seed": 0, "curve": [[seconds, step, loss], ...],
           "seconds_to_target": 52.1}, ...],
 "ablations": [{"name": "full recipe", "steps_to_target": 300, "seconds_to_target": 9.1,
                "loss_at_end": 1.85}, ...]}
with null where the target was never reached; the first of the ablations has every ingredient.
Writes the pictures into --out. Next: ideas.py.
"""

import os
import re
import statistics
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run

import numpy as np
import torch

from bpe import Tokenizer
from conversations import render
from data import Ids
from gpt import GPT
from optim import QUINTICS, SCHEDULES
from optim import adamw_by_hand, learning_rate, make_optimizer, orthogonalize
from sft import Packed, packed_mask
from shards import read_json
from train import Config

BLUE, ORANGE, GREEN, VIOLET = COLOURS = ["#4c72b0", "#dd8452", "#55a868", "#8172b3"]
INK = "0.3"
NAMES_OF_STEPS = ["the gradient", *map(str, range(1, len(QUINTICS))), "Muon's direction"]


def picture(width, height, columns=1, **how):
    """(figure, axes): `columns` of them side by side, in the style of all our pictures."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(1, columns, squeeze=False, **how)[0]
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    return figure, grid if columns > 1 else grid[0]


def label(axes, x, y, text, colour, **how):
    """Write a text beside the thing that it names, instead of a legend."""
    axes.annotate(text, (x, y), color=colour, annotation_clip=False,
                  **dict(va="center", fontsize=9.5) | how)


# ---- schedules ----
def rates(schedule, steps=1000):
    """The share of the peak at every step of a run, (steps,), with Config's own warm-up and
    cool-down.
    """
    config = Config(schedule=schedule, steps=steps, lr=1.0)
    return np.array([learning_rate(step, config) for step in range(steps)])


def draw_schedules(path):
    """A line for each schedule, over 1,000 steps."""
    figure, axes = picture(7.5, 3.6)
    for schedule, colour in zip(SCHEDULES, COLOURS):
        axes.plot(rates(schedule), color=colour, lw=1.8, label=schedule)
    axes.set(xlabel="step", xlim=(0, 1000), ylim=(0, 1.08), yticks=[0, 1], yticklabels=["0", "lr"])
    axes.set_title("how far: the learning rate", loc="left", fontsize=11)
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=120)


# ---- Muon's direction ----
def learn(text, steps=60, seed=0):
    """(model, optimizer): a small model after `steps` steps of AdamW on the bytes of a text, with
    the unused gradients of one more batch in .grad.
    """
    config = Config(vocab_size=256, seq_len=64, n_layer=2, d_model=64, d_ff=256, batch_size=16,
                    steps=steps, warmup=10)
    model = GPT(config.gpt(256), seed)
    optimizer, generator = make_optimizer(model, config), torch.Generator().manual_seed(seed)
    ids = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    for step in range(steps + 1):
        starts = torch.randint(len(ids) - config.seq_len, (config.batch_size, 1),
                               generator=generator)
        rows = ids[starts + torch.arange(config.seq_len + 1)]  # (B, T + 1)
        optimizer.zero_grad()
        model.loss(rows[:, :-1], rows[:, 1:]).mean().backward()
        if step < steps:
            for group in optimizer.param_groups:
                group["lr"] = group["scale"] * learning_rate(step, config)
            optimizer.step()
    return model, optimizer


def singular_values(matrix):
    """Those of a matrix (m, n), the largest first: (min(m, n),)."""
    return torch.linalg.svdvals(matrix.double()).numpy()


def adamw_direction(matrix, optimizer):
    """The direction of AdamW's next step for a matrix: the averaged gradient, each number divided
    by its usual size.
    """
    group, state = optimizer.param_groups[0], optimizer.state[matrix]
    moved, *_ = adamw_by_hand(torch.zeros_like(matrix), matrix.grad, state["exp_avg"],
                              state["exp_avg_sq"], float(state["step"]) + 1, lr=1.0,
                              betas=group["betas"], eps=group["eps"], decay=0.0)
    return moved


def lifted(values, steps):
    """The singular values after some of Muon's steps, from values, (N,), each at most 1 -> (N,).

    Each value s is put into a 2 x 2 matrix of norm 1, whose other singular value is sqrt(1 - s^2).
    """
    s = torch.tensor(values, dtype=torch.float32)
    matrices = torch.diag_embed(torch.stack((s, (1 - s**2).sqrt()), dim=-1))  # (N, 2, 2)
    return orthogonalize(matrices, QUINTICS[:steps])[:, 0, 0].numpy()


def draw_muon(text, path):
    """Draw the singular values of a gradient after each of Muon's steps, and of AdamW's direction;
    beside it the result of the steps for any singular value.
    """
    from matplotlib import colormaps

    model, optimizer = learn(text)
    matrix = model.blocks[0].mlp.up.weight
    figure, (left, right) = picture(10.5, 4.6, 2, sharey=True)
    ranks, s = np.arange(1, min(matrix.shape) + 1), np.geomspace(1e-4, 0.999, 500)
    last = len(NAMES_OF_STEPS) - 1
    for n, words in enumerate(NAMES_OF_STEPS):
        colour = "0.35" if n == 0 else colormaps["Blues"](0.35 + 0.65 * n / last)
        values = singular_values(orthogonalize(matrix.grad, QUINTICS[:n]))
        for axes, x, y in ((left, ranks, values), (right, s, lifted(s, n))):
            axes.plot(x, y, color=colour, lw=2 if n in (0, last) else 1.2)
        label(left, ranks[-1], values[-1], f"  {words}", colour)
        label(right, s[0], lifted(s[:1], n)[0], f"{n} ", colour, ha="right")
    adamw = singular_values(adamw_direction(matrix, optimizer))
    adamw *= np.linalg.norm(values) / np.linalg.norm(adamw)
    left.plot(ranks, adamw, color=ORANGE, lw=2)
    label(left, ranks[1], adamw[1], "  AdamW's direction, made as large", ORANGE, va="bottom")
    rows, columns = matrix.shape
    left.set(yscale="log", xlim=(0, columns), xlabel="the largest, the second ...")
    left.set_title(f"singular values of a gradient, {rows} x {columns},\nand of what Muon makes of "
                   f"it in {last} steps", loc="left", fontsize=11)
    right.set(xscale="log", xlim=(s[0], 1), xlabel="s, a share of the gradient's norm")
    right.set_title("a step takes s to $a s + b s^3 + c s^5$:\nwhat comes out of s after 0 to "
                    f"{last} of them", loc="left", fontsize=11)
    for axes in (left, right):
        axes.grid(axis="y", color="0.92")
        axes.yaxis.set_major_formatter("{x:g}")
    right.xaxis.set_major_formatter("{x:g}")
    right.spines["left"].set_visible(False)
    right.tick_params(axis="y", which="both", length=0)
    figure.savefig(path, dpi=120)


# ---- packed conversations ----
TALKS = [[{"role": "user", "content": "What is 2 + 3?"},
          {"role": "assistant", "content": "It is 5."}],
         [{"role": "user", "content": "How much is half of 96?"},
          {"role": "assistant", "content": [{"type": "python", "text": "96/2"},
                                            {"type": "output", "text": "48"},
                                            {"type": "text", "text": "It is 48."}]}]]


def packed_window(talks):
    """Conversations in a window that they just fill: ([(texts of its tokens, which are learned) of
    each], which ids each may attend to, (T, T), the targets, (T,), where each begins).
    """
    said = [Tokenizer([]).decode(render(talk, Tokenizer([]))[0]) for talk in talks]
    tokenizer = Tokenizer.train(re.split(r"<\|\w+\|>", "".join(said)), 400)  # a word is a token
    rows = [render(talk, tokenizer) for talk in talks]
    begins = np.cumsum([0, *(len(ids) for ids, _ in rows)])
    ids, learned = (np.concatenate(some) for some in zip(*rows))
    packed = Packed(Ids(ids, begins[:-1], learned.astype(np.uint8)), len(ids) - len(rows))
    _, targets, starts = packed.read([packed.conversations])
    texts = [([tokenizer.decode([i]) for i in ids], learned) for ids, learned in rows]
    return texts, packed_mask(torch.tensor(starts))[0, 0].numpy(), targets[0], np.unique(starts)


def draw_tokens(axes, texts, learned, y, width=58):
    """A conversation from line y on, a box for each token, green if it is learned, and a new line
    for each answer. Returns the line below its last.
    """
    from matplotlib.patches import FancyBboxPatch

    x = 0
    for text, green in zip(texts, learned):
        n = 0.68 * len(text) + 1.3
        x, y = (0, y + 1) if x + n > width or text == "<|assistant_start|>" else (x, y)
        axes.text(x + n / 2 - 0.2, y, text.replace(" ", "\u00b7"), family="monospace", fontsize=10,
                  ha="center", va="center", color="white" if green else INK)
        axes.add_patch(FancyBboxPatch((x, y - 0.36), n - 0.4, 0.72, boxstyle="round,pad=0,rounding"
                                      "_size=0.2", color=GREEN if green else "0.92", lw=0))
        x += n
    return y + 1


def draw_packed(path, talks=TALKS):
    """Left the tokens of conversations; right, for each id of the window in which they are packed,
    a row: which ids it may attend to, green if what it predicts is learned.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Rectangle

    texts, mask, targets, starts = packed_window(talks)
    figure, (left, right) = picture(13, 4.8, 2, width_ratios=[1.7, 1])
    y = 0
    for n, (tokens, learned) in enumerate(texts, 1):
        left.text(0, y, f"conversation {n}", color=INK, fontsize=9.5, va="center")
        y = draw_tokens(left, tokens, learned, y + 1) + 0.6
    left.set(xlim=(0, 58), ylim=(y - 1, -0.6))
    left.axis("off")
    left.set_title("what is learned, in green: what the assistant writes, its calls and its end,"
                   "\nand not what the calculator says", loc="left", fontsize=11)
    shades = np.where(mask[..., None], np.where(
        targets[:, None, None] >= 0, to_rgb(GREEN), to_rgb("0.85")), 1.0)
    right.imshow(shades, interpolation="nearest")
    for n, (start, end) in enumerate(zip(starts, [*starts[1:], len(mask)]), 1):
        right.add_patch(Rectangle((start - 0.5, start - 0.5), end - start, end - start, fill=False,
                                  ec=INK, lw=0.8, clip_on=False))
        label(right, end - 1, start + 1.5, f"conversation {n}", INK, ha="right")
    right.set(xlabel="may see this id", ylabel="the id at this place", xticks=starts, yticks=starts)
    right.spines[:].set_visible(False)
    right.set_title("the window's mask: only what came before in the\nsame conversation; green: "
                    "the next id is learned", loc="left", fontsize=11)
    figure.savefig(path, dpi=120)


# ---- races and ablations ----
def read_race(path):
    """The content of race.json. ValueError if it is not a race."""
    race = read_json(Path(path))
    if not (race.get("runs") and "target" in race):
        raise ValueError(f"{path} is no race, as --help describes it")
    return race


def draw_race(race, path):
    """Loss against seconds: a colour for each recipe, a line for each of its seeds, and a dot where
    a run reaches the target.
    """
    figure, axes = picture(8.5, 4.4)
    recipes, target = {}, race["target"]
    for r in race["runs"]:
        recipes.setdefault(r["name"], []).append(r)
    for (name, runs), colour in zip(recipes.items(), COLOURS * len(recipes)):
        times = [r["seconds_to_target"] for r in runs if r["seconds_to_target"] is not None]
        text = f"{statistics.median(times):,.3g} s" if len(times) == len(runs) else (
            f"{len(times)} of {len(runs)} got there")
        for r in runs:
            seconds, _, losses = zip(*r["curve"])
            [line] = axes.plot(seconds, losses, color=colour, lw=1.2)
        line.set_label(f"{name}: {text}")
        axes.plot(times, [target] * len(times), "o", color=colour, ms=5)
    axes.axhline(target, color="0.6", lw=0.8, ls="--")
    losses = [loss for r in race["runs"] for _, _, loss in r["curve"]]
    axes.set_ylim(top=np.quantile(losses, 0.9))  # what comes first is not shown
    axes.set(xlim=0, xlabel="seconds of training", ylabel="validation loss, nats a character")
    axes.set_title(f"how long to {target:.4g} nats a character?", loc="left", fontsize=11)
    axes.legend(loc="upper right", frameon=False)
    figure.savefig(path, dpi=120)


def worth(ablations):
    """What each ingredient is worth: [(name, seconds to the target / those of the first ablation,
    the same ratio of steps), ...], the worst first; None and None if the target was not reached.
    ValueError if the first did not reach it.
    """
    full, *others = ablations
    if full["seconds_to_target"] is None:
        raise ValueError(f"{full['name']!r}, the first of the ablations, has every ingredient, but "
                         "never reached the target: nothing can be compared with it")
    rows = [(row["name"], *(row[key] and row[key] / full[key]
                            for key in ("seconds_to_target", "steps_to_target"))) for row in others]
    return sorted(rows, key=lambda row: -np.inf if row[1] is None else -row[1])


def draw_ablations(race, path):
    """Bars: how many times as long it takes without an ingredient. Dots: the same in steps."""
    full, rows = race["ablations"][0], worth(race["ablations"])
    ends = {row["name"]: row["loss_at_end"] for row in race["ablations"]}
    most = 1.1 * max([times for _, *both in rows for times in both if times], default=1)
    figure, axes = picture(8, 1.4 + 0.38 * len(rows))
    for y, (name, seconds, steps) in enumerate(rows):
        if seconds is None:
            axes.barh(y, most, color="0.93", height=0.62)
            label(axes, most, y, f"  never: {ends[name]:.3f} at its end", INK)
            continue
        axes.barh(y, seconds, color=BLUE if seconds >= 1 else ORANGE, height=0.62)
        axes.plot(steps, y, "o", color="white", mec=INK, ms=5)
        label(axes, 0, y, f"  {seconds:.2f}", "white")
    axes.axvline(1, color=INK, lw=1)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set(xlim=(0, most), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xlabel(f"time to {race['target']:.4g} nats a character; 1 is the {full['name']}'s, "
                    f"{full['seconds_to_target']:.3g} s\n(dots: steps; 1 is its "
                    f"{full['steps_to_target']:,})", fontsize=9.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    figure.savefig(path, dpi=120)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--race", metavar="FILE", help="the numbers of a race: draws race.png and "
                        "ablations.png; without it the others are drawn")
    parser.add_argument("--out", default=".", help="the folder for the pictures (default: .)")
    args = parser.parse_args(argv)
    out = Path(args.out)
    if not out.is_dir():
        raise ValueError(f"there is no folder {out} to draw into")
    if args.race:
        race = read_race(args.race)
        draw_race(race, out / "race.png")
        print(out / "race.png")
        if race.get("ablations"):
            draw_ablations(race, out / "ablations.png")
            print(out / "ablations.png")
        return
    draw_schedules(out / "schedules.png")
    sources = sorted(Path(__file__).resolve().parent.glob("*.py"))
    draw_muon(b"".join(path.read_bytes() for path in sources), out / "muon.png")
    draw_packed(out / "packed.png")
    print(f"{out / 'schedules.png'}, {out / 'packed.png'}, {out / 'muon.png'}")


if __name__ == "__main__":
    run(main)
