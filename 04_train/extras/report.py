"""A run's metrics -> pictures of its progress, and a command for pages and a list of runs.

    python 04_train/extras/report.py runs/tiny
    python 04_train/extras/report.py runs/tiny runs/tiny-2 --output compare.html
    python 04_train/extras/report.py                # every run, and where it stands

loss.png is redrawn during a run: both losses, and smaller panels that may explain them. Panels
without recorded values are left out. page.py makes the page.

Reads metrics.jsonl; of one run writes loss.png and report.html beside it. Next: page.py.
"""

import functools
import io
import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import run, write_safely

import numpy as np

BITS = "val_bits_per_byte"
STYLE = {"font.size": 9, "axes.titlesize": 10, "axes.xmargin": 0.02, "axes.spines.top": False,
         "axes.spines.right": False, "legend.loc": "center left", "legend.fontsize": 8,
         "legend.frameon": False, "text.parse_math": False,  # a "$" in a name is a "$"
         "path.simplify_threshold": 0.5, "svg.fonttype": "none",
         "svg.hashsalt": "report"}  # the same curves give the same bytes


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

    steps, tokens, seconds: (N,) each; the latter two count from the start of the run. The N - 1
    steps between the rows are cut into stretches of k = ceil((N - 1) / most), the last may be
    shorter. The rate of a stretch is its tokens / its seconds, not the mean of its steps' rates,
    since a slow step must weigh as much as the time it took. It belongs to the last step of the
    stretch. A stretch without a time above 0, where a clock was reset, is left out.
    throughput([1, 2, 3], [10, 20, 30], [1, 2, 4], most=1) is [3], [20 / 3]
    """
    n = len(steps) - 1
    ends = [*range(0, n, -(-n // most)), n] if n > 0 else [0]
    rates = [(steps[j], (tokens[j] - tokens[i]) / (seconds[j] - seconds[i]))
             for i, j in zip(ends, ends[1:]) if seconds[j] > seconds[i]]
    return np.array(rates, float).reshape(-1, 2).T


def numbers(values):
    """{name: number}: the numbers among a dict's values; {} for None."""
    return {name: value for name, value in (values or {}).items()
            if isinstance(value, (int, float))}


def evenly(items, most):
    """At most `most` of a list's items, the first and the last one among them."""
    indices = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[i] for i in indices]


# ---- panels: each draws its curve of [(colour, metrics)], one run or several ----
def logarithmic(axes):
    """Powers of ten, and two and five times them, as plain numbers at the left of a panel in which
    all is drawn; not where all is 0, as gradients are while rl.py's answers are all wrong.
    """
    from matplotlib.ticker import LogLocator

    if not axes.dataLim.ymax > 0:
        return
    axes.set_yscale("log", subs=[])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")


def draw_smoothed(axes, runs, *keys):
    """Smoothed curves of keys[1] over keys[0]; for a single run the raw values, too."""
    for color, metrics in runs:
        x, y = column(metrics, *keys)
        steps = max(10, len(y) / 100)
        axes.plot(x, smooth(y.tolist(), 1 - 1 / steps), color=color)  # a list is read faster
        if len(runs) == 1 and len(x):
            y = y.clip(max=np.percentile(y, 99.5))  # one wild step must not flatten all others
            axes.plot(x, y, color=color, alpha=0.3, lw=0.7)


def draw_loss(axes, runs):
    axes.set(title="training loss, nats a token")
    draw_smoothed(axes, runs, "step", "loss")
    x, y = column([row for row in runs[0][1] if row.get("spike")], "step", "loss")
    if len(runs) == 1 and len(x):
        axes.plot(x, y.clip(max=axes.get_ylim()[1]), "v", color="C3", ms=5, clip_on=False)
        axes.set_title(f"training loss, nats a token; spikes: {len(x)}")


def draw_validation(axes, runs):
    """A line for evaluations on a part of the validation text; a star for the last one, on all."""
    axes.set(title="validation, bits a byte")
    for color, metrics in runs:
        ends = [row for row in metrics if "baselines" in row]
        axes.plot(*column([row for row in metrics if row not in ends], "step", BITS), ".-",
                  color=color)
        axes.plot(*column(ends, "step", BITS), "*", color=color, ms=9)
    # Several runs may have different validation texts.
    others = numbers(ends[-1]["baselines"]) if len(runs) == 1 and ends else {}
    for i, name in enumerate(sorted(others, key=others.get, reverse=True), 1):
        axes.axhline(others[name], color=f"C{i}", lw=1, ls="--", label=name)
        axes.legend(bbox_to_anchor=(1, 0.5))


def draw_rate(axes, runs):
    axes.set(title="learning rate")
    for color, metrics in runs:
        axes.plot(*column(metrics, "step", "lr"), color=color)
    axes.set_ylim(0)


def draw_norm(axes, runs):
    axes.set(title="gradient norm")
    draw_smoothed(axes, runs, "step", "grad_norm")
    logarithmic(axes)


def draw_throughput(axes, runs):
    axes.set(title="tokens a second")
    for color, metrics in runs:
        axes.plot(*throughput(*column(metrics, "step", "tokens", "seconds")), color=color)
    axes.set_ylim(0)


def draw_over_time(axes, runs):
    axes.set(title="training loss over seconds")
    draw_smoothed(axes, runs, "seconds", "loss")


def draw_parts(axes, runs, key):
    """For one run, a curve for each part of the model, from the first, dark, to the last, light:
    row[key] is {part: number}.
    """
    import matplotlib

    axes.set(title=key.replace("_", " "))
    [(_, metrics)] = runs
    rows = [{"step": row["step"]} | numbers(row.get(key)) for row in metrics]
    parts = list(dict.fromkeys(part for row in rows for part in row if part != "step"))
    shades = matplotlib.colormaps["viridis"](np.linspace(0.3, 0.9, len(parts)))
    for part, shade in zip(parts, shades):
        axes.plot(*column(rows, "step", part), color=shade, label=part)
    logarithmic(axes)
    axes.legend(handles=evenly(axes.lines, 9)[::-1], bbox_to_anchor=(1, 0.5))


def draw_rewards(axes, runs):
    """Of rl.py: the reward of each step's answers; and of held-out questions, by how many of k
    answers one or more is right, pass@k.
    """
    axes.set(title="reward; held out: pass@k", ylim=(0, 1))
    draw_smoothed(axes, runs, "step", "reward")
    keys = sorted({key for _, metrics in runs for row in metrics for key in row
                   if key.startswith("pass@")}, key=lambda key: int(key[5:]))
    for key, marker in zip(keys, ("o", "^")):
        for color, metrics in runs:
            axes.plot(*column(metrics, "step", key), marker, color=color, ms=4, ls=":", label=key)
    axes.legend(handles=[line for line in axes.lines if line.get_label() in keys][::len(runs)],
                loc="best")


def draw_measure(axes, runs, key, title):
    """Of rl.py and dpo.py: a measure of each step; with dots, the same of held-out pairs."""
    axes.set(title=title)
    draw_smoothed(axes, runs, "step", key)
    axes.axhline(0, lw=0)  # so that 0 is seen
    for color, metrics in runs:
        axes.plot(*column(metrics, "step", f"val_{key}"), "o", color=color, ms=4)


# Rows of panels: their height in inches, the room between them, and for each panel the function
# that draws it and the keys it needs, without which it is left out. The last row is for one run.
PANELS = (
    (3.3, 0.15, ((draw_loss, "loss"), (draw_validation, BITS))),
    (2.0, 0.3, ((draw_rate, "lr"), (draw_norm, "grad_norm"),
                (draw_throughput, "tokens", "seconds"), (draw_over_time, "loss", "seconds"))),
    (2.4, 0.3, ((draw_rewards, "reward"),
                *((functools.partial(draw_measure, key=key, title=title), key) for key, title in (
                    ("entropy", "entropy, nats an id"), ("answer_length", "ids in an answer"),
                    ("groups_equal", "share of groups that teach nothing"),
                    ("accuracy", "pairs: accuracy"), ("margin", "pairs: margin of rewards"),
                    ("chosen", "chosen: log(p / p_ref)"),
                    ("rejected", "rejected: log(p / p_ref)"))))),
    (2.4, 0.5, ((functools.partial(draw_parts, key="update_ratio"), "update_ratio"),
                (functools.partial(draw_parts, key="activation_scale"), "activation_scale"))),
)


# ---- pictures ----
def known_rows(runs):
    """The rows of PANELS for which `runs`, a list of metrics, have values, with the functions that
    draw their panels: [(height, room, [functions])]. ValueError if there are none.
    """
    known = {key for metrics in runs for row in metrics for key in row}
    rows = [(height, room, [draw for draw, *keys in panels if known >= set(keys)])
            for height, room, panels in (PANELS if len(runs) == 1 else PANELS[:-1])]
    rows = [row for row in rows if row[-1]]
    if not rows:
        raise ValueError("nothing to draw yet: no step was recorded")
    return rows


def picture(runs, format, rows=None, width=11):
    """The bytes of a picture, "png" or "svg", of `runs`, a list of metrics. rows: of panels, by
    default known_rows(); width: in inches.
    """
    import matplotlib
    from matplotlib.figure import Figure  # without pyplot: no display, no global state
    from matplotlib.ticker import EngFormatter

    rows = rows or known_rows(runs)
    heights, file = [height for height, *_ in rows], io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, sum(heights)))
        parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, (height, room, panels) in zip(parts, rows):
            for axes, draw in zip(part.subplots(1, len(panels), squeeze=False)[0], panels):
                draw(axes, [(f"C{i}", metrics) for i, metrics in enumerate(runs)])
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k
            # Positions are explicit, since a layout engine would take as long as all the drawing.
            # A single panel leaves room for a legend only if it has one.
            legend = len(runs) == 1 and (len(panels) > 1 or axes.get_legend())
            part.subplots_adjust(left=0.66 / width, right=1 - (1.43 if legend else 0.22) / width,
                                 wspace=room, bottom=0.4 / height, top=1 - 0.3 / height)
        how = {"dpi": 110} if format == "png" else {"transparent": True, "metadata": {"Date": None}}
        figure.savefig(file, format=format, **how)
    return file.getvalue()


def draw(metrics, path):
    """Draw one run into a PNG, replaced as a whole, since trainers redraw it during the run."""
    write_safely(path, picture([metrics], "png"))


# ---- the command line ----
def main(argv=None):
    from compare import command  # which is built on this file
    command(argv)


if __name__ == "__main__":
    run(main)
