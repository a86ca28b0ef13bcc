"""Several runs -> their results and their differences side by side; or a list of all runs.

    python 04_train/extras/report.py runs/tiny runs/tiny-2 --output compare.html
    python 04_train/extras/report.py

page.py calls this for its page, report.py for its command line.

Reads runs, and writes what report.py says. Next: timing.py.
"""

import os
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser

import report
from folders import one_line
from metrics import read_metrics
from page import curves, page, results, samples, section, table, text
from runs import newest_checkpoint, read_config, step_of, val_of


def differing(runs):
    """{name: [values]} of the names on which several dicts differ; None where a name is missing."""
    rows = {name: [run.get(name) for run in runs] for run in runs for name in run}
    return {name: values for name, values in rows.items() if values.count(values[0]) < len(runs)}


def several(runs):
    """The HTML, beneath the title, of a page on several runs, {name: (metrics, config)}."""
    from matplotlib.colors import to_hex

    metrics, configs = zip(*runs.values())
    heads = [f"<i style='background:{to_hex(f'C{i}')}'></i>{text(name)}"
             for i, name in enumerate(runs)]  # in the colours of the curves
    found = [results(*run) for run in runs.values()]
    names = dict.fromkeys(name for each in found for name in each)
    different = differing(configs) | differing([
        next((row["environment"] for row in rows[::-1] if row.get("environment")), {})
        for rows in metrics])
    wrote = [samples(rows, 3) for rows in metrics]
    columns = "".join(f"<div><b>{head}</b>{each}</div>" for head, each in zip(heads, wrote))
    return (f"{' &emsp; '.join(heads)}{curves(metrics)}"
            + section("Results", table({n: [each.get(n) for each in found] for n in names}, heads))
            + section("Differences", table(different, heads))
            + section("What they wrote", columns if any(wrote) else "", "samples"))


# ---- the command line ----
def listing(runs_dir):
    """Yield a line for each run with a checkpoint: its step and its bits per byte."""
    for folder in sorted(Path(runs_dir).glob("*")):
        if checkpoint := newest_checkpoint(folder):
            try:
                config = read_config(folder)
            except ValueError as error:
                yield f"{folder.name:20} can't be read: {error}"
                continue
            yield (f"{folder.name:20} step {step_of(checkpoint)} of {config.steps}, "
                   f"{val_of(checkpoint):.3f} bits per byte of {config.eval_tokens:,} tokens, "
                   f"{', '.join(config.data)}, {config.n_layer} layers of width {config.d_model}")


def command(argv=None):
    """The command line of report.py."""
    parser = Parser(description=report.__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", metavar="run", help="a run's folder; without one, the "
                        "runs in --runs-dir are listed")
    parser.add_argument("--runs-dir", default="runs", help="where runs are kept (default: runs)")
    parser.add_argument("--output", metavar="FILE", help="the page (default: report.html in the "
                        "run's folder; for several, in this one)")
    args = parser.parse_args(argv)
    if not args.runs:
        for line in listing(args.runs_dir):
            print(one_line(line, most=1000))
        return
    output = Path(args.output or Path(args.runs[0] if len(args.runs) == 1 else ".") / "report.html")
    page(args.runs, output)
    print(output)
    if len(args.runs) == 1:
        path = Path(args.runs[0]) / "loss.png"
        report.draw(read_metrics(path.with_name("metrics.jsonl")), path)
        print(path)
