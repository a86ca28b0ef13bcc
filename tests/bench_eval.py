"""Tasks in context: items a second and decisions, beside lm-evaluation-harness with transformers.

Both get the same ids of the same items, and the same rule makes decisions of the losses. Rounds
alternate. bench.py calls it.
"""

import os
import statistics
import sys
import time

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from blocked import for_reading
from bundle import read_bundle
from certify import by_harness
from core import Options, decisions, prepare
from scoring import score_items


def bench_eval(weights, bundle, items, runs):
    """Print a table: of each task how many items both score in a second, and whether they agree."""
    _, model, tokenizer, _, _ = Options(weights=weights, device="cpu").load()
    theirs = by_harness(weights, "cpu")
    model = for_reading(model)
    ways = {"ours": lambda rows: score_items(model, rows), "theirs": theirs}
    print(f"{weights}, float32, {items or 'all'} items a task, median of {runs}\n\n"
          "| task | items | ours, items/s | lm-eval, items/s | times | other decisions "
          "|\n|---|---|---|---|---|---|")
    total, n_items, n_differ = dict.fromkeys(ways, 0.0), 0, 0
    for task in read_bundle(bundle):
        rows, _ = prepare(task, tokenizer, model.config.seq_len, items)
        seconds, found = {way: [] for way in ways}, {}
        for _ in range(runs):
            for way, score in ways.items():
                start = time.perf_counter()
                found[way] = decisions(task, score(rows))
                seconds[way].append(time.perf_counter() - start)
        differ = sum(a != b for a, b in zip(found["ours"], found["theirs"]))
        ours, others = (statistics.median(seconds[way]) for way in ways)
        for way in ways:
            total[way] += statistics.median(seconds[way])
        n_items, n_differ = n_items + len(rows), n_differ + differ
        print(f"| {task.label} | {len(rows)} | {len(rows) / ours:.2f} | {len(rows) / others:.2f} | "
              f"{others / ours:.2f} | {differ} |", flush=True)
    print(f"| all | {n_items} | {n_items / total['ours']:.2f} | {n_items / total['theirs']:.2f} | "
          f"{total['theirs'] / total['ours']:.2f} | {n_differ} |")
