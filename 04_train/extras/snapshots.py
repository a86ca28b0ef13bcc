"""--snapshots N: the weights at N steps of a run are kept, to see how its abilities change.

A run keeps its newest checkpoints and the best one. Snapshots are checkpoints that stay; they have
no optimizer state, so no run can go on from one. A model changes most at the beginning: snapshots
are evenly spaced in the logarithm of the steps, which is that of the tokens seen.

    python 04_train/train.py --preset tiny --snapshots 12
    python 05_sample/sample.py --run tiny --checkpoint 14

beside.py calls it; writes runs/NAME/snapshots/checkpoints/step-000014/ ... Next: curves.py.
"""

import os
import shutil
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import holding

import numpy as np

from runs import all_checkpoints, save_checkpoint, step_of


def snapshot_steps(steps, n):
    """n of the steps 1, 2, ... `steps`, ascending, all if there are fewer: the geometric sequence
    from the first to the last, rounded, but each at least one more than the one before. A single
    one is the last, as whoever asks for one wants the weights of the whole run.

    snapshot_steps(350, 6) == [1, 3, 10, 34, 108, 350]
    """
    found = []
    for step in np.geomspace(steps, 1, min(n, steps))[::-1].round():
        found.append(max(int(step), found[-1] + 1 if found else 1))
    return found


def save_snapshot(config, folder, step, tensors, bits=None, is_rank0=True):
    """Keep the weights of the run in `folder`, if a snapshot is due after `step`. Snapshots of this
    and later steps that are there go: a --resume has gone back, and may have changed the run.

    config: a FullConfig. tensors(): the model's (name, tensor) pairs. All ranks call this, as those
    of a divided model gather its tensors together; rank 0 writes. bits: validation bits per byte,
    or None. OSError if writing fails, ValueError if a weight is not finite; the other ranks, which
    are not told, have gathered as many tensors then.
    """
    if step not in snapshot_steps(config.steps, config.snapshots):
        return
    weights, kept = tensors(), Path(folder) / "snapshots"
    try:
        if is_rank0:
            with holding(kept, "is being written"):  # deletes what a kill has left half written
                for old in all_checkpoints(kept):
                    if step_of(old) >= step:
                        shutil.rmtree(old)
                save_checkpoint(kept, step, weights, {}, sys.maxsize, bits)
    finally:
        for _ in weights:  # those that rank 0 has not gathered because it failed; of others, all
            pass


def weights_of(folder):
    """{step: path} of all weights that a run has kept, checkpoints and snapshots, in the order of
    their steps. Where there are both it is the snapshot, as checkpoints are deleted while it runs.
    runs.load_weights(model, path) fills a model; load_run(folder, which=str(step)) makes one.
    """
    return {step_of(p): p for p in all_checkpoints(folder, Path(folder) / "snapshots")}
