"""Several runs -> what page.py's page says of them: results side by side, and what was different.

    python 04_train/extras/report.py runs/tiny runs/tiny-2 --output compare.html

Called by page.py; reads and writes nothing itself. Next: timing.py.
"""

import sys
from pathlib import Path

if "console" not in sys.modules:  # which is found first, and puts all folders on the path
    sys.path[1:1] = [str(folder / "01_tokenizer") for folder in Path(__file__).resolve().parents]

import console  # noqa: F401, which finds the others

from page import curves, environment, results, samples, section, table, text


def differing(runs):
    """What several {name: value} do not all say: {name: [values]}, None where one says nothing."""
    rows = {name: [run.get(name) for run in runs] for run in runs for name in run}
    return {name: values for name, values in rows.items() if values.count(values[0]) < len(runs)}


def several(runs):
    """What a page says of {name: (metrics, config)}, beneath the title."""
    from matplotlib.colors import to_hex

    metrics, configs = zip(*runs.values())
    heads = [f"<i style='background:{to_hex(f'C{i}')}'></i>{text(name)}"
             for i, name in enumerate(runs)]  # in the colours of the curves
    found = [results(*run) for run in runs.values()]
    names = dict.fromkeys(name for each in found for name in each)
    different = differing(configs) | differing(list(map(environment, metrics)))
    wrote = [samples(rows, 3) for rows in metrics]
    columns = "".join(f"<div><b>{head}</b>{each}</div>" for head, each in zip(heads, wrote))
    return (f"{' &emsp; '.join(heads)}{curves(metrics)}"
            + section("Results", table({n: [each.get(n) for each in found] for n in names}, heads))
            + section("What was different", table(different, heads))
            + section("What they wrote", columns if any(wrote) else "", "samples"))
