"""A run's metrics -> a picture of how it goes, and the table that it ends with.

    python 04_train/extras/report.py runs/tiny
    python 04_train/extras/report.py runs/tiny runs/tiny-2 --output compare.html

loss.png is drawn anew while a run goes: both losses, and in small what may explain them. What a run
has not recorded is not drawn. report.html, page.py's, says all of it; of several runs it says what
was different.
Left out: anything that moves by itself; reload the picture.

Reads metrics.jsonl; of one run writes loss.png and report.html beside it. Next: page.py.
"""

import functools
import io
import os
import sys
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

from console import Parser, run, write_safely

import numpy as np

from metrics import read_metrics

BITS = "val_bits_per_byte"
WIDTH = 11  # inches
STYLE = {"font.size": 9, "axes.titlesize": 10, "axes.xmargin": 0.02, "axes.spines.top": False,
         "axes.spines.right": False, "text.parse_math": False,  # a "$" in a name is a "$"
         "svg.fonttype": "none", "svg.hashsalt": "report"}  # the same curves give the same bytes


# ---- curves ----

def column(metrics, *keys):
    """The numbers under `keys` of the rows that have them all: (len(keys), N)."""
    wanted = set(keys)
    rows = [[row[key] for key in keys] for row in metrics if row.keys() >= wanted]
    rows = np.array(rows, float).reshape(-1, len(keys))
    return rows[~np.isnan(rows).any(axis=1)].T  # None has become nan


def smooth(values, weight=0.9):  # exercise
    """An exponential moving average that is right from its first value on.

    average_i = weight * average_{i-1} + (1 - weight) * value_i from average_0 = 0, divided by
    1 - weight^i so that the start counts fully (Kingma & Ba 2014, section 3: the same correction
    as Adam's). values: (N,) -> (N,). smooth([3, 3, 3]) is [3, 3, 3]
    """
    average, result = 0.0, []
    for i, value in enumerate(values, 1):
        average = weight * average + (1 - weight) * value
        result.append(average / (1 - weight**i))
    return np.array(result)


def throughput(steps, tokens, seconds, most=100):  # exercise
    """How fast a run was: (steps, tokens per second), at most `most` of each, as arrays.

    steps, tokens, seconds: (N,) each; the latter count all since the start of the run. The N - 1
    steps between the rows are cut into stretches of k = ceil((N - 1) / most), the last may be
    shorter. The rate of a stretch is what was read in it over the time that took, not the mean of
    the steps' rates: a step that took long must weigh as much as it took. It belongs to the last
    step of the stretch. One without a time above 0, where a clock began anew, is left out.
    throughput([1, 2, 3], [10, 20, 30], [1, 2, 4], most=1) is [3], [20 / 3]
    """
    n = len(steps) - 1
    ends = [*range(0, n, -(-n // most)), n] if n > 0 else [0]
    rates = [(steps[j], (tokens[j] - tokens[i]) / (seconds[j] - seconds[i]))
             for i, j in zip(ends, ends[1:]) if seconds[j] > seconds[i]]
    return np.array(rates, float).reshape(-1, 2).T


def thin(x, y, most=400):
    """A curve of at most `most` points that looks like that of all: its ends, and of each stretch
    the lowest and the highest, so that no spike is lost.
    """
    if len(x) <= most:
        return x, y
    stretches = np.array_split(np.arange(len(x)), (most - 2) // 2)
    kept = np.unique([0, len(x) - 1, *(s[y[s].argmin()] for s in stretches),
                      *(s[y[s].argmax()] for s in stretches)])
    return x[kept], y[kept]


def spread(places, gap, top):
    """Places of labels, rising, moved apart until no two are nearer than `gap`: first up, and what
    is then above `top` down again.
    """
    moved = []
    for place in places:
        moved.append(max(place, moved[-1] + gap) if moved else place)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], top if i == len(moved) - 1 else moved[i + 1] - gap)
    return moved


def numbers(values):
    """{name: number} of a row's field, which may be missing, without what is no number."""
    return {name: value for name, value in (values or {}).items()
            if isinstance(value, (int, float))}


def evenly(items, most):
    """At most `most` of a list's items, the first and the last one among them."""
    places = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[i] for i in places]


# ---- panels: each draws its curve of [(colour, metrics)], one run or several ----

def draw_smoothed(axes, runs, *keys, size=1):
    """Smoothed curves of keys[1] over keys[0] / size; of a run that is alone, what they smooth too.
    """
    for color, metrics in runs:
        x, y = column(metrics, *keys)
        steps = max(10, len(y) / 100)
        calm = smooth(y.tolist(), 1 - 1 / steps)  # a list is read faster than an array
        axes.plot(*thin(x / size, calm), color=color)
        if len(runs) == 1 and len(x):
            axes.plot(*thin(x / size, y, 1000), color=color, alpha=0.3, lw=0.7)
            # One wild step must not flatten all others.
            ends = np.percentile(y, [0.5, 99.5])
            low, high = min(calm.min(), ends[0]), max(calm.max(), ends[1])
            room = 0.05 * (high - low)
            if axes.get_yscale() == "linear" and room:
                axes.set_ylim(low - room, high + room)


def draw_loss(axes, runs):
    axes.set(title="training loss, nats a token")
    draw_smoothed(axes, runs, "step", "loss")
    x, y = column([row for row in runs[0][1] if row.get("spike")], "step", "loss")
    if len(runs) == 1 and len(x):
        axes.plot(x, y.clip(max=axes.get_ylim()[1]), "v", color="C3", ms=5, clip_on=False)
        axes.set_title(f"training loss, nats a token; {len(x)} spike{'s' * (len(x) > 1)}")


def label(axes, places, colors={}):
    """Names at the right of a panel, each where it is in {name: y} or as near as there is room;
    of many, some.
    """
    bottom, _ = axes.get_ylim()
    to_share = axes.transData + axes.transAxes.inverted()
    names = evenly(sorted(places, key=places.get), 9)
    shares = [to_share.transform((1, max(places[name], bottom)))[1] for name in names]
    line = 0.14 * axes.figure.dpi / axes.bbox.height  # of text, 0.14 inches
    for name, share in zip(names, spread(shares, line, 1.0)):
        axes.annotate(name, (1, share), (4, 0), xycoords="axes fraction", va="center", fontsize=8,
                      textcoords="offset points", color=colors.get(name, "0.5"))


def draw_validation(axes, runs):
    """A line for the evaluations on a part of the text; a star for the last one, on all of it."""
    axes.set(title="validation, bits a byte")
    others = {}
    for color, metrics in runs:
        x, y = column([row for row in metrics if "baselines" not in row], "step", BITS)
        axes.plot(*thin(x, y), "o-" if len(x) < 30 else "-", color=color, ms=3)
        for row in metrics:
            if "baselines" in row:
                axes.plot(*column([row], "step", BITS), "*", color=color, ms=9)
                others |= numbers(row["baselines"])
    if len(runs) == 1:  # several may have been measured on several texts
        for place in others.values():
            axes.axhline(place, color="0.6", lw=0.8, ls="--")
        label(axes, others)


def draw_rate(axes, runs):
    axes.set(title="learning rate")
    for color, metrics in runs:
        axes.plot(*thin(*column(metrics, "step", "lr")), color=color)
    axes.set_ylim(0)


def draw_norm(axes, runs):
    axes.set(title="gradient norm", yscale="log")
    draw_smoothed(axes, runs, "step", "grad_norm")


def draw_throughput(axes, runs):
    axes.set(title="tokens a second")
    for color, metrics in runs:
        axes.plot(*throughput(*column(metrics, "step", "tokens", "seconds")), color=color)
    axes.set_ylim(0)


def draw_over_time(axes, runs):
    most = max(column(metrics, "seconds").max(initial=0) for _, metrics in runs)
    size, unit = next(unit for unit in ((3600, "hours"), (60, "minutes"), (1, "seconds"))
                      if most >= 2 * unit[0] or unit[0] == 1)
    axes.set(title=f"training loss over {unit}")
    draw_smoothed(axes, runs, "seconds", "loss", size=size)


def draw_parts(axes, runs, key):
    """Of rows of {part of the model: number} a curve for each part, from the first, dark, to the
    last, light; of several runs the median over the parts.
    """
    import matplotlib

    axes.set(title=key.replace("_", " "), yscale="log")
    for color, metrics in runs:
        rows = [(row["step"], found) for row in metrics if (found := numbers(row.get(key)))]
        if len(runs) > 1:
            rows = [(step, {"median": np.median([*found.values()])}) for step, found in rows]
        parts = list(dict.fromkeys(part for _, found in rows for part in found))
        shades = matplotlib.colormaps["viridis"](np.linspace(0.3, 0.9, len(parts)))
        for part, shade in zip(parts, shades):
            x, y = np.array([(step, found[part]) for step, found in rows if part in found]).T
            axes.plot(*thin(x, y), color=shade if len(runs) == 1 else color)
    if len(runs) == 1 and rows:
        label(axes, rows[-1][1], dict(zip(parts, shades)))


# Rows of panels, and their height in inches: the room that names need at the right of one, what
# draws it, and the keys it needs; where no row has one of them it is left out.
PANELS = (
    (3.3, ((0, draw_loss, "loss"), (0.7, draw_validation, BITS))),
    (2.0, ((0, draw_rate, "lr"), (0, draw_norm, "grad_norm"),
           (0, draw_throughput, "tokens", "seconds"), (0, draw_over_time, "loss", "seconds"))),
    (2.4, ((1.2, functools.partial(draw_parts, key="update_ratio"), "update_ratio"),
           (0.7, functools.partial(draw_parts, key="activation_scale"), "activation_scale"))),
)


# ---- pictures ----

def ticks(axes):
    """Few and plain numbers at the axes; a logarithmic one has those that fit its range."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

    low, high = axes.get_ylim()
    inches = axes.bbox.width / axes.figure.dpi
    axes.locator_params(axis="x", nbins=int(2 * inches))
    if axes.get_yscale() == "log":
        digits = (1, 1.5, 2, 3, 5, 7) if high < 10 * low else (1, 3) if high < 1e3 * low else (1,)
        axes.yaxis.set_major_locator(LogLocator(subs=digits))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.locator_params(axis="y", nbins=6)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k
    axes.yaxis.set_major_formatter(EngFormatter(sep="") if high > 1e4 else "{x:g}")


def picture(runs, format):
    """The bytes of a picture, "png" or "svg", of what `runs`, a list of metrics, have recorded.

    ValueError if that is nothing that could be drawn.
    """
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    known = {key for metrics in runs for row in metrics for key in row}
    rows = [(height, [(room if len(runs) == 1 else 0, draw) for room, draw, *keys in panels
                      if known >= set(keys)]) for height, panels in PANELS]
    rows = [(height, panels) for height, panels in rows if panels]
    if not rows:
        raise ValueError("nothing to draw yet: no step was recorded")
    top = height = sum(height for height, _ in rows)
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height))
        # Places are in inches. A layout engine would look for better ones, in twice the time.
        for of_row, panels in rows:
            top, left = top - of_row, 0.0
            width = (WIDTH - sum(room for room, _ in panels)) / len(panels) - 0.72
            for room, draw in panels:
                axes = figure.add_axes(((left + 0.62) / WIDTH, (top + 0.4) / height,
                                        width / WIDTH, (of_row - 0.7) / height))
                draw(axes, [(f"C{i}", metrics) for i, metrics in enumerate(runs)])
                ticks(axes)
                left += 0.72 + width + room
        how = {"dpi": 110} if format == "png" else {"transparent": True, "metadata": {"Date": None}}
        figure.savefig(file, format=format, **how)
    return file.getvalue()


def draw(metrics, path):
    """Draw one run into a PNG, which is never there by half: trainers redraw it as they go."""
    write_safely(path, picture([metrics], "png"))


# ---- the command line ----

def main(argv=None):
    from page import page  # which is built on this file

    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="run", help="a run's folder")
    parser.add_argument("--output", metavar="FILE", help="the page (default: report.html in the "
                        "run's folder; for several, in this one)")
    args = parser.parse_args(argv)
    output = Path(args.output or Path(args.runs[0] if len(args.runs) == 1 else ".") / "report.html")
    page(args.runs, output)
    print(output)
    if len(args.runs) == 1:
        path = Path(args.runs[0]) / "loss.png"
        draw(read_metrics(path.with_name("metrics.jsonl")), path)
        print(path)


if __name__ == "__main__":
    run(main)
