"""How a run's abilities grew while it trained: every kept checkpoint, scored on tasks.

`train.py --snapshots N` keeps the weights of N steps. The accuracies of a small model stay near
guessing for long; its loss on the right answers shows earlier what it learns. So both are drawn
over the tokens seen.

    python 04_train/train.py --preset tiny --snapshots 12
    python 06_eval/extras/core.py --bundle DIR --run tiny --every-checkpoint

Reads a bundle and a run; writes growth.json and growth.png into its folder, after each checkpoint:
what is there is not scored again. Next: certify.py.
"""

import json
import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import escaped, write_safely

import numpy as np

from core import decisions, identity, mean_centred, prepare, read_kept, right_answer
from evals import centred
from metrics import Hints
from runs import load_weights
from scoring import score_items
from snapshots import weights_of


def grow(options, tasks):
    """Score all weights that the run options.run has kept, and draw the scores."""
    if options.weights:
        raise ValueError("--every-checkpoint is for a run: a Hugging Face folder has one model")
    folder, model, tokenizer, config, _ = options.load()
    known = read_kept(path := folder / "growth.json")
    prepared = {task.label: prepare(task, tokenizer, model.config.seq_len, options.items)[0]
                for task in tasks}
    points, checkpoints = {}, weights_of(folder)
    for n, (step, checkpoint) in enumerate(checkpoints.items(), 1):
        load_weights(model, checkpoint)
        key = identity(model, tokenizer, options)
        points[step] = {}
        for task in tasks:
            name = f"step {step}: {task.label}, {task.hash}, {key}"
            if name not in known:
                losses = score_items(model, prepared[task.label], options.batch_size, options.dtype,
                                     label=f"{n} of {len(checkpoints)}, {task.label}")
                known[name] = {"correct": decisions(task, losses), "loss": float(np.mean(
                    [right_answer(task, i, each) for i, each in enumerate(losses)]))}
                write_safely(path, json.dumps(known))
            points[step][task.label] = with_scores(task, known[name])
        print(f"step {step}: mean centred accuracy {mean_centred(points[step])[0]:.4f}, loss of "
              f"right answers {np.mean([row['loss'] for row in points[step].values()]):.3f}")
    tokens = {step: step * config.batch_size * config.seq_len for step in points}
    Hints()("draw the scores", draw_growth, points, tokens, folder / "growth.png", folder.name)
    print(escaped(f"{folder}/growth.png shows {len(points)} checkpoints"))


def with_scores(task, row):
    accuracy = float(np.mean(row["correct"]))
    return row | {"accuracy": accuracy, "baseline": task.baseline,
                  "centred": centred(accuracy, task.baseline)}


def draw_growth(points, tokens, path, title):
    """A picture of scores over tokens. points: {step: {label: row}}; tokens: {step: how many}."""
    from matplotlib.figure import Figure

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
    means = [mean_centred(row) for row in points.values()]
    left.errorbar(x, [mean for mean, _ in means], [side for _, side in means], fmt="ko-", lw=2,
                  capsize=3, label="mean, with its 95% interval")
    left.axhline(0, color="0.7", lw=1, zorder=0)
    figure.suptitle(title)
    figure.legend(loc="outside right upper", fontsize=7, frameon=False)
    figure.savefig(path, dpi=120)
