"""How a run's abilities grew while it trained: every kept checkpoint, scored on tasks.

`train.py --snapshots N` keeps the weights of N steps. The accuracies of a small model stay near
guessing for long; its loss on the right answers shows earlier what it learns. So both are drawn
over the tokens seen. The table of the last one says what of each task was in the training text.

    python 04_train/train.py --preset tiny --snapshots 12
    python 06_eval/extras/core.py --bundle DIR --run tiny --every-checkpoint

Reads a bundle and a run. Writes growth.json into its folder after each task, and what is there is
not scored again; at the end growth.png. Next: certify.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import numpy as np

from core import (decisions, derived, heading, key_of, look_up_run, mean_centred, prepare, report,
                  right_answer)
from kept import Kept
from metrics import Hints
from runs import load_weights, newest_run
from scoring import score_items
from snapshots import weights_of


def grow(options, tasks):
    """Score all weights that the run options.run has kept, and draw the scores."""
    # Its last weights, not "newest": it may have snapshots alone.
    options.checkpoint = str(max(weights_of(newest_run(options.runs_dir, options.run))))
    folder, model, tokenizer, config, _ = options.load()
    kept = Kept(folder / "growth.json", "checkpoints", "", folder.name, ("loss",))
    prepared = {task.label: prepare(task, tokenizer, model.config.seq_len, options.items)
                for task in tasks}
    points, checkpoints = {}, weights_of(folder)
    for n, (step, checkpoint) in enumerate(checkpoints.items(), 1):
        try:
            load_weights(model, checkpoint)
        except (ValueError, OSError):
            if checkpoint.exists():
                raise  # else the trainer has deleted it in the meantime
            continue
        key = key_of(model, tokenizer, options)
        points[step] = {}
        for task in tasks:
            name = f"step {step}: {task.label}, {task.hash}, {key}"
            if name not in kept.rows:
                losses = score_items(
                    model, prepared[task.label][0], options.batch_size, options.dtype,
                    label=f"{n} of {len(checkpoints)}, {task.label}")
                kept.put(name, {"correct": decisions(task, losses), "loss": float(np.mean(
                    [right_answer(task, i, each) for i, each in enumerate(losses)]))})
            points[step][task.label] = derived(task, kept.rows[name]) | {
                "cropped": prepared[task.label][1]}
        mean, side = mean_centred(points[step])
        print(f"step {step}: mean centred accuracy {mean:.4f} +- {side:.4f} (95%), loss of right "
              f"answers {np.mean([row['loss'] for row in points[step].values()]):.3f}")
    tokens = {step: step * config.batch_size * config.seq_len for step in points}
    title, last = folder.name, [*points.values()][-1]
    if options.tasks or options.items or options.max_per_task:
        title += f", at the end {heading(last, options)}"
    look_up_run(last, tasks, folder, tokenizer, config.by_hand)
    print(*report(last), sep="\n")
    from charts import draw_growth  # matplotlib takes a second
    Hints()("draw the scores", draw_growth, points, [*map(mean_centred, points.values())],
            tokens, folder / "growth.png", title)
