"""Does any decision depend on how it is computed: batch size, cache, float type, program?

Sums of floats depend on their order, so losses of the same text differ in their last bits between
ways to compute them. That must change no decision: whether an item is solved. Here the same items
are scored in several ways, and each is compared with the first. Where lm-evaluation-harness and
transformers are installed, and the model is a Hugging Face folder, the harness scores the same ids;
the rule of which ids are scored, and of means, is evals.py's.

    python 06_eval/extras/core.py --bundle DIR --weights FOLDER --certify

With --json FILE every way's losses are kept there, after each task, and not computed again.
Reads what core.py reads. Next: harness.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import torch

from core import decisions, key_of, prepare
from kept import Kept
from records import library
from scoring import score_items

HARNESS = "lm-evaluation-harness, transformers"
WAYS = {"batch 1, no cache": ("float32", 1, False), "batch 32, cache": ("float32", 32, True),
        "batch 1, cache": ("float32", 1, True), "batch 32, no cache": ("float32", 32, False),
        "bfloat16, batch 1, no cache": ("bfloat16", 1, False),
        "bfloat16, batch 32, cache": ("bfloat16", 32, True), HARNESS: None}


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


def margin(task, means):
    """How far the mean losses of the two best alternatives are apart; None if there is but one."""
    best = sorted(means)[:2]
    return best[1] - best[0] if task.kind != "language_modeling" else None


def certify(options, tasks, model, tokenizer):
    """Score all items in all WAYS; print for each how many decisions differ from the first's.
    ValueError if any differ in float32: then scores depend on how they are computed.
    """
    kept = Kept(options.json or None, "certificate", key_of(model, tokenizer, options),
                options.weights or options.run, ("means",))
    theirs = None
    if options.weights:
        try:
            theirs = by_harness(options.weights, model.embed.weight.device.type)
        except ValueError as error:
            print(f"left out: {HARNESS} ({error})")
    ways = {way: how for way, how in WAYS.items() if how or theirs}
    found = {way: {} for way in ways}
    for task in tasks:  # each in all ways, so that a run that is stopped has compared some
        items, _ = prepare(task, tokenizer, model.config.seq_len, options.items)
        for way, how in ways.items():
            name = f"{way}: {task.label}, {task.hash}"
            if name not in kept.rows:
                losses = score_items(model, items, how[1], how[0], how[2],
                                     f"{task.label}, {way}") if how else theirs(items)
                kept.put(name, {"correct": decisions(task, losses), "means": [
                    [float(nats.mean()) for nats, _ in each] for each in losses]})
            found[way][task.label] = kept.rows[name]
    print(*table(tasks, found), sep="\n")
    wrong = sum(len(flips(tasks, found, way)) for way in ways if "bfloat16" not in way)
    if wrong:
        raise ValueError(f"{wrong} decisions in float32 depend on how they are computed")


def flips(tasks, found, way):
    """The label of each item whose decision, by `way`, differs from that by the first way."""
    first = next(iter(found))
    return [task.label for task in tasks for a, b in zip(
        found[first][task.label]["correct"], found[way][task.label]["correct"]) if a != b]


def table(tasks, found):
    """Lines that compare each way with the first: decisions that differ, by task and in all, and
    the largest difference of a mean loss; then the smallest margin of a choice.
    """
    first, *others = found
    n = sum(len(row["correct"]) for row in found[first].values())
    yield (f"\n{n:,} decisions of {len(tasks)} tasks. How many differ from those by {first!r} (in "
           "float32 none may):")
    yield f"{'':37} {'decisions':>9} {'largest difference of a mean loss':>34}"
    for way in others:
        gap = max(abs(x - y) for task in tasks for a, b in zip(
            found[first][task.label]["means"], found[way][task.label]["means"])
                  for x, y in zip(a, b))
        labels = flips(tasks, found, way)
        where = ", ".join(f"{labels.count(label)} of {label}" for label in dict.fromkeys(labels))
        yield f"{way:37} {len(labels):9} {gap:34.2g}  {where}".rstrip()
    margins = [margin(task, means) for task in tasks for means in found[first][task.label]["means"]]
    margins = sorted(m for m in margins if m)  # equal choices have none
    if margins:
        yield f"the smallest margin between the two best of several choices: {margins[0]:.2g} nats"
