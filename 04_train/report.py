"""A run's metrics.jsonl -> a picture of its loss; and the table that a run ends with.

One JSON object a line, written by train.py as it goes: {"step", "loss", "lr", ...} for each step,
{"step", "val_bits_per_byte"} for each evaluation; the last one also says what others reach,
{..., "baselines": {name: bits per byte}}.

    python 04_train/report.py runs/tiny

Left out: more than one run on a page.
Reads metrics.jsonl; writes loss.png beside it. Next: 05_sample/sample.py.
"""

import json
import sys
from pathlib import Path

import numpy as np

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import Parser, run


def read_metrics(path):
    """The objects in a .jsonl file; a last line that a kill cut short is left out."""
    try:
        rows = [json.loads(line) for line in Path(path).read_text().split("\n")[:-1]]
    except ValueError as error:
        raise ValueError(f"{path} holds a line that is no JSON: {error}") from None
    if not all(isinstance(row, dict) and "step" in row for row in rows):
        raise ValueError(f"{path} holds a line that is no metric of a step")
    return rows


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


def draw(metrics, path):
    """Draw training loss and validation bits per byte over the steps."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    steps = [m["step"] for m in metrics if "loss" in m]
    losses = [m["loss"] for m in metrics if "loss" in m]
    vals = [m for m in metrics if "val_bits_per_byte" in m]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(steps, losses, color="0.8", lw=0.8)
    left.plot(steps, smooth(losses), color="C0")
    left.set(xlabel="step", ylabel="nats per token", title="training loss")
    for final, style in ((False, "o-"), (True, "*")):  # on a part of the text; at the end, on all
        points = [m for m in vals if ("baselines" in m) == final]
        right.plot([m["step"] for m in points], [m["val_bits_per_byte"] for m in points], style,
                   color="C1", ms=9 if final else 3)
    right.margins(y=0.08)
    for name, bits in vals[-1].get("baselines", {}).items():
        right.axhline(bits, color="0.6", lw=0.8, ls="--")
        right.annotate(name, (1, bits), xycoords=("axes fraction", "data"), fontsize=8,
                       ha="right", va="bottom", color="0.4")
    right.set(xlabel="step", ylabel="bits per byte", title="validation")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def table(rows):
    """Lines that show {name: bits per byte}, the best last, the model's own marked."""
    return "\n".join(f"{name:12} {bits:6.3f}{'  <--' if name == 'this model' else ''}"
                     for name, bits in sorted(rows.items(), key=lambda row: -row[1]))


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="a run's folder")
    folder = Path(parser.parse_args(argv).run)
    if not (folder / "metrics.jsonl").exists():
        raise ValueError(f"{folder} is not a run: it has no metrics.jsonl")
    metrics = read_metrics(folder / "metrics.jsonl")
    if not any("loss" in m for m in metrics) or not any("val_bits_per_byte" in m for m in metrics):
        raise ValueError(f"{folder} has nothing to draw yet: no evaluation was made")
    draw(metrics, folder / "loss.png")
    print(folder / "loss.png")


if __name__ == "__main__":
    run(main)
