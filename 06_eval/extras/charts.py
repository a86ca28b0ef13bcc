"""The pictures of this stage: what context is worth, scores of tasks, and how they grew.

Each function is given numbers and a path. Next: growth.py.
"""

import os
import sys
import textwrap

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import escaped

import numpy as np
from matplotlib.figure import Figure


def draw_positions(losses, path):
    """A picture of by_position(): the loss falls as the past grows longer."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    seen = np.arange(1, len(losses) + 1)
    axes.plot(seen, losses, ".", color="0.8")
    octaves = [(seen >= 2**i) & (seen < 2**(i + 1)) for i in range(int(np.log2(len(losses))) + 1)]
    axes.plot([seen[o].mean() for o in octaves], [losses[o].mean() for o in octaves], "o-")
    axes.set(xscale="log", xlabel="ids that the model sees", ylabel="nats per token",
             title="what context is worth")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    print(escaped(f"{path} shows what context is worth"))


def draw_scores(results, path, title):
    """A picture of the table: accuracies with their intervals, beside guessing and one answer."""
    rows = [*results.items()][::-1]
    figure = Figure(figsize=(7, 1.2 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    y, share = np.arange(len(rows)), np.array([row["accuracy"] for _, row in rows])
    bounds = np.array([row["interval"] for _, row in rows]).T
    axes.barh(y, share, color="C0", alpha=0.35, height=0.6)
    axes.errorbar(share, y, xerr=abs(bounds - share), fmt="none", ecolor="C0", label="95% interval")
    for marker, colour, label, values in (
            ("|", "k", "guessing", [row["baseline"] / 100 for _, row in rows]),
            ("x", "C3", "one answer to all", [row["majority"] for _, row in rows]),
            ("d", "C1", "questions shuffled", [row.get("shuffled", np.nan) for _, row in rows])):
        if not np.isnan(values).all():
            axes.plot(values, y, marker, color=colour, label=label, ms=8 if marker == "|" else 5)
    axes.set(yticks=y, yticklabels=[label for label, _ in rows], xlim=(0, 1),
             xlabel="share of items solved")
    figure.suptitle(textwrap.fill(title, 80), fontsize=9, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


def draw_growth(points, means, tokens, path, title):
    """A picture of scores over tokens. points: {step: {label: row}}; means: of each step
    (mean centred accuracy, half the width of its interval); tokens: {step: how many}.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    x, labels = [tokens[step] for step in points], [*next(iter(points.values()))]
    for axes, key, what in ((left, "centred", "centred accuracy: 0 is guessing"),
                            (right, "loss", "loss of the right answers, nats an id")):
        for n, label in enumerate(labels):
            axes.plot(x, [row[label][key] for row in points.values()], ".-", lw=1, ms=4,
                      color=f"C{n}", alpha=0.6, label=label if axes is left else None)
        axes.set(xscale="log", xlabel="tokens seen", title=what)
        axes.spines[["top", "right"]].set_visible(False)
    left.errorbar(x, [mean for mean, _ in means], [side for _, side in means], fmt="ko-", lw=2,
                  capsize=3, label="mean, with its 95% interval")
    left.axhline(0, color="0.7", lw=1, zorder=0)
    figure.suptitle(textwrap.fill(title, 60), parse_math=False)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    figure.savefig(path, dpi=120)
    print(escaped(f"{path} shows {len(points)} checkpoints"))
