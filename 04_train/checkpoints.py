"""A run's folder: checkpoints that are whole or not there, and which of them is the newest.

    runs/tiny/config.json  tokenizer.json  metrics.jsonl  loss.png
    runs/tiny/checkpoints/step-000300/model.pt   the weights
                                      state.pt   all else: optimizer, loop, loader, random numbers

train.py writes them; 05_sample and 06_eval read them. Left out: sharded ones. Next: report.py.
"""

import os
import shutil
from pathlib import Path

import torch


def save_checkpoint(folder, step, model, state, keep=2):
    """Write checkpoints/step-NNNNNN/ with the model's weights and `state`, a dict of plain values
    and tensors.

    It is written aside and renamed when it is whole and on the disk, so that a kill at any moment
    leaves whole checkpoints only. The newest `keep` stay. OSError if the disk is full, ValueError
    if a weight is not finite: that would be nothing to go on from.
    """
    if not all(tensor.isfinite().all() for tensor in model.parameters()):
        raise ValueError(f"after step {step} some weights are not finite; not saved. A lower --lr "
                         "may help")
    checkpoints = Path(folder) / "checkpoints"
    target, aside = checkpoints / f"step-{step:06}", checkpoints / ".writing"
    shutil.rmtree(aside, ignore_errors=True)  # what a kill may have left
    try:
        aside.mkdir(parents=True)
        for name, content in (("model.pt", model.state_dict()), ("state.pt", state)):
            with open(aside / name, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
    except RuntimeError as error:  # what torch makes of a disk that is full
        reason = str(error).splitlines()[0]
        raise OSError(f"could not write {target}, the earlier ones are whole: {reason}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for old in sorted(checkpoints.glob("step-*"), key=step_of)[:-keep]:
        shutil.rmtree(old)


def step_of(checkpoint):
    """The step after which a checkpoint was saved, from the name of its folder."""
    return int(checkpoint.name.removeprefix("step-"))


def newest_checkpoint(folder):
    """The folder of a run's last checkpoint, or None. One that a kill left half deleted, or that
    was never finished, does not count.
    """
    whole = (p for p in (Path(folder) / "checkpoints").glob("step-*")
             if (p / "model.pt").exists() and (p / "state.pt").exists())
    return max(whole, default=None, key=step_of)


def newest_run(runs_dir="runs", name=None):
    """The folder of the run `name`, or without one of the run that saved last.

    ValueError if there is none that has a checkpoint.
    """
    runs = [Path(runs_dir) / name] if name else Path(runs_dir).glob("*")
    saved = [(checkpoint.stat().st_mtime, folder) for folder in runs
             if (checkpoint := newest_checkpoint(folder))]
    if not saved:
        raise ValueError(f"there is no {f'run {name!r}' if name else 'run'} with a checkpoint in "
                         f"{runs_dir}/; train one: python 04_train/train.py --preset tiny")
    return max(saved)[1]


def load_model(model, checkpoint, device):
    """Fill `model` with a checkpoint's weights. ValueError if they don't fit or are damaged."""
    weights = load(checkpoint / "model.pt", device)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(f"{checkpoint} doesn't fit the config of its run: {first}") from None


def load(path, device):
    """Tensors and plain values from a file; nothing in it is executed."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # bytes that are no checkpoint can make it stumble anywhere
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is damaged or no checkpoint: {first}") from None
