"""--resume: find the run, refuse options that must not change, tell whether it is finished.

--name, or --run, is a run's own name, and wins. A --preset alone means the last run that was
started without a name; neither of them means the run that saved last.

Reads runs/NAME/; writes nothing: runs.py and train.py call it. Next: beside.py.
"""

import dataclasses
import os
import re
import shlex
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from bpe import Tokenizer
from folders import one_line
from length import planned_steps
from metrics import read_metrics
from runs import WAYS, check_size, newest_checkpoint, newest_run, read_config, step_of

# What may change when a run goes on: how long it is, what it reports and keeps, and where it runs.
MAY_CHANGE = {*WAYS, "micro_batch", "eval_every", "last_eval_tokens", "save_every", "keep",
              "device", "compile", "data_dir", "wandb", "snapshots", "by_hand"}


def started_as(folder, name):
    """Whether start_run() has made a run's folder for `name`: it is called NAME, NAME-2, NAME-3
    ..., and its file .name holds `name`; runs of an earlier version have no .name. The file alone
    is not enough, since copies and renamed folders keep it.
    """
    file = folder / ".name"
    recorded = os.fsdecode(file.read_bytes()) if file.is_file() else name
    return recorded == name and bool(re.fullmatch(re.escape(name) + r"(-\d+)?", folder.name))


def find_run(runs_dir, name, last=False):
    """The folder of the run called `name`; if there is none, or if `last` is true, that of the last
    run started with this name: the highest of NAME, NAME-2, NAME-3 ... None if there is none.
    """
    runs = [path.parent for path in Path(runs_dir).glob("*/config.json")]
    exact = [run for run in runs if run.name == name]
    if exact and not last:
        return exact[0]
    return max([run for run in runs if started_as(run, name)] or exact,
               key=lambda run: (len(run.name), run.name), default=None)


def check_changes(folder, given):
    """The Config of the run in `folder`, with the fields in `given` changed. ValueError if one of
    them is not in MAY_CHANGE and differs.
    """
    old = read_config(folder)
    if given.keys() - vars(old).keys():  # options of a FullConfig, which the run was begun without
        from presets import FullConfig
        old = FullConfig(**vars(old))
    new = dataclasses.replace(old, **given)
    for key in given.keys() - MAY_CHANGE:
        if getattr(new, key) != getattr(old, key):
            raise ValueError(f"{folder} was started with {key} {getattr(old, key)}, not "
                             f"{getattr(new, key)}; that is another run: give it another --name")
    return new


def resumed(words, given):
    """(folder, config) of the run that a command line means, as in runs.choose_run(). ValueError,
    which lists the runs there are, if there is none.
    """
    name, runs_dir = words.name or words.preset, Path(words.runs_dir)
    if not name:
        folder = newest_run(runs_dir)
        print(f"resume     {one_line(folder)}, the run that saved last")
    elif not (folder := find_run(runs_dir, name, last=not words.name)):
        from mistakes import nearest
        there = nearest(name, [path.parent.name for path in runs_dir.glob("*/config.json")])
        raise ValueError(f"there is no run {name!r} in {runs_dir}/ to resume; {there}"
                         "without --resume a new one starts")
    return folder, check_changes(folder, given)


def finished(folder, config):
    """Whether the run in `folder` has made all steps that `config` asks for, and has its result;
    then the result is printed, and how to go on. ValueError if it has made more steps, or if its
    checkpoint is too small for the config.
    """
    checkpoint = newest_checkpoint(folder)
    if not checkpoint:
        return False
    model_config = config.gpt(Tokenizer.load(folder / "tokenizer.json").vocab_size)
    check_size(model_config, checkpoint)  # before a plan: a damaged config may ask for any size
    steps = planned_steps(config, model_config)
    if step_of(checkpoint) > steps:
        raise ValueError(f"{checkpoint} is beyond the {steps} steps asked for")
    try:
        results = [row["val_bits_per_byte"] for row in read_metrics(folder / "metrics.jsonl")
                   if "baselines" in row and row["step"] == step_of(checkpoint) == steps]
        result = f"{results[-1]:.3f}"
    except (OSError, ValueError, LookupError, TypeError):  # no result: evaluate again
        return False
    print(f"{one_line(folder)} is finished: {steps:,} steps, {result} bits per byte. "
          f"--name {one_line(shlex.quote(folder.name))} --resume --steps {2 * steps} would go on")
    return True
