"""Does any decision depend on how it is computed: batch size, cache, float type, program?

Sums of floats depend on their order, so losses of the same text differ in their last bits between
ways to compute them. That must change no decision: whether an item is solved. Here the same items
are scored in several ways, and each is compared with core.py's scores. Where lm-evaluation-harness
and transformers are installed, and the model is a Hugging Face folder, the harness scores the same
ids; the rule of which ids are scored, and of means, is evals.py's.

    python 06_eval/extras/core.py --bundle DIR --weights FOLDER --certify

The ways in float32 come first, since bfloat16 takes long where the processor has no units for it.
With --json FILE every way's losses are kept there, after each task, and not computed again. Reads
what core.py reads. Next: harness.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import torch

from core import decisions, mean_losses, prepare
from kept import Kept
from records import library
from scoring import groups_of, score_items

HARNESS = "lm-evaluation-harness, transformers"
WAYS = {"batch 1, no cache": ("float32", 1, False), HARNESS: None,
        "batch 32, cache": ("float32", 32, True), "batch 1, cache": ("float32", 1, True),
        "batch 32, no cache": ("float32", 32, False),
        "bfloat16, batch 1, no cache": ("bfloat16", 1, False),
        "bfloat16, batch 32, cache": ("bfloat16", 32, True)}  # the first is that of evals.py


def by_harness(folder, device):
    """A function that scores items as scoring.score_items() does, by the harness's own model of
    transformers. ValueError if it is not installed.
    """
    library("lm_eval", "this comparison", "lm-eval")
    model = library("lm_eval.models.huggingface", "this comparison", "lm-eval").HFLM(
        pretrained=str(folder), device=device, dtype="float32", batch_size=8)

    def score(items):
        requests = [(("", ""), row[:start], row[start:]) for rows in items for row, start in rows]
        found = iter(model._loglikelihood_tokens(requests))
        answers = []
        for rows in items:
            each = [(next(found), len(row) - start) for row, start in rows]
            answers.append([(torch.tensor([-float(total) / n]), torch.tensor([bool(greedy)]))
                            for (total, greedy), n in each])
        return answers
    return score


def certify(options, tasks, model, tokenizer, results, key):
    """Score all items in all WAYS; print for each how many decisions differ from `results`, those
    of core.score_all(). ValueError if any differ in float32: then scores depend on how they are
    computed. key: core.key_of() the model, whose matrices are stored as usual here, while those of
    core.py are blocked.for_reading().
    """
    if options.dtype != "float32":
        raise ValueError("the certificate compares all ways with float32: leave out --dtype")
    kept, theirs = Kept(options.json or None, "certificate", key, "", ("means",)), None
    if options.weights:
        try:
            theirs = by_harness(options.weights, model.embed.weight.device.type)
        except ValueError as error:
            print(f"left out: {HARNESS} ({error})")
    items = {task.label: prepare(task, tokenizer, model.config.seq_len, options.items)[0]
             for task in tasks}
    n = sum(len(row["correct"]) for row in results.values())
    batches = sorted({row["batch_size"] for row in results.values()})
    if margins := [gap for task in tasks if task.kind != "language_modeling"
                   for gap in map(margin, results[task.label]["means"]) if gap]:
        print(f"The two best of several choices differ by {min(margins):.2g} nats or more.")
    print(f"{n:,} decisions of {len(tasks)} tasks, in batches of {', '.join(map(str, batches))}, "
          f"with a cache. How many are others (in float32 none may be):\n{'':37} {'decisions':>9} "
          "largest difference of a mean loss")

    def row_of(task, way, how):
        dtype, batch_size, cached = how or (way, 8, False)
        if cached and all(len(group.members) == 1 for group in groups_of(items[task.label])):
            cached = False  # nothing is shared, and every row is read by itself
        name = f"{task.label}, {dtype}, batch {batch_size}, cache {cached}, {task.hash}"
        if name not in kept.rows:
            losses = score_items(model, items[task.label], batch_size, dtype, cached,
                                 f"{task.label}, {way}") if how else theirs(items[task.label])
            kept.put(name, {"correct": decisions(task, losses), "means": mean_losses(losses)})
        return kept.rows[name]
    for precise in (True, False):
        wrong = 0
        for way, how in WAYS.items():
            if precise == ("bfloat16" not in way) and (how or theirs):
                found = {task.label: row_of(task, way, how) for task in tasks}
                print(line(way, results, found), flush=True)
                wrong += len(flips(results, found))
        if precise and wrong:
            raise ValueError(f"{wrong} decisions in float32 depend on how they are computed")


def flips(results, found):
    """The label of each item whose decision differs between two dicts of rows."""
    return [label for label in results for a, b in zip(
        results[label]["correct"], found[label]["correct"]) if a != b]


def line(way, results, found):
    """A line that compares a way with the results: decisions that differ, in all and by task, and
    the largest difference of a mean loss.
    """
    gap = max(abs(x - y) for label in results for a, b in zip(
        results[label]["means"], found[label]["means"]) for x, y in zip(a, b))
    labels = flips(results, found)
    where = ", ".join(f"{labels.count(label)} of {label}" for label in dict.fromkeys(labels))
    return f"{way:37} {len(labels):9} {gap:33.2g}  {where}".rstrip()


def margin(means):
    """How far the mean losses of the two best alternatives are apart; equal choices have none."""
    first, second = sorted(means)[:2]
    return second - first
