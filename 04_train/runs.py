"""A run's folder: started, resumed, found again, loaded; checkpoints that are whole or not there.

    runs/tiny/config.json  tokenizer.json  metrics.jsonl  loss.png
    runs/tiny/checkpoints/step-000300/model.pt   the weights
                                      state.pt   all else: optimizer, loop, loader, random numbers

train.py writes them; 05_sample and 06_eval read them. Left out: sharded ones.

    python 04_train/runs.py list
    python 04_train/runs.py export FOLDER --run tiny   # for transformers, and everyone else

Next: report.py.
"""

import dataclasses
import itertools
import json
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

import formats
from bpe import Tokenizer
from console import Parser, add_options, option, run
from gpt import GPT
from machine import choose_device
from presets import MAY_CHANGE, Config
from weights import export, read_json, read_model


# ---- checkpoints ----

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
    whole = (p for p in (Path(folder) / "checkpoints").glob("step-[0-9]*")
             if (p / "model.pt").exists() and (p / "state.pt").exists())
    return max(whole, default=None, key=step_of)


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


# ---- runs ----

def read_config(folder):
    """The Config of a run."""
    try:
        return Config(**read_json(folder / "config.json"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'} is not the config of a run: {error}") from None


def start_run(runs_dir, name):
    """A new folder for a run, runs_dir/NAME or NAME-2, NAME-3 ...: no older run is touched."""
    for n in itertools.count(1):
        folder = Path(runs_dir) / (name if n == 1 else f"{name}-{n}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            pass


def resume_run(given, runs_dir, name):
    """(folder, config) of the newest run NAME or NAME-2 ..., or None if there is none.

    given: the options asked for this time. ValueError if one would make it another run.
    """
    runs = [p.parent for p in Path(runs_dir).glob("*/config.json")
            if re.fullmatch(rf"{re.escape(name)}(-\d+)?", p.parent.name)]
    if not runs:
        return None
    folder = max(runs, key=lambda run: (run / "config.json").stat().st_mtime)
    config = read_config(folder)
    new = dataclasses.replace(config, **given)
    for key in given:
        if key not in MAY_CHANGE and getattr(new, key) != getattr(config, key):
            raise ValueError(f"{folder} was started with {key} {getattr(config, key)}, not "
                             f"{getattr(new, key)}; that is another run: leave out --resume")
    return folder, new


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


def load_run(folder, device="cpu"):
    """(model, tokenizer, config, step) of a run's newest checkpoint, ready to be used."""
    tokenizer, config = Tokenizer.load(folder / "tokenizer.json"), read_config(folder)
    checkpoint = newest_checkpoint(folder)
    model = GPT(config.gpt(tokenizer.vocab_size)).to(device)
    load_model(model, checkpoint, device)
    return model.eval(), tokenizer, config, step_of(checkpoint)


@dataclass
class RunOptions:
    """Options of every command that works with a run."""

    run: str = option("", "a run's name; without one, the run that saved last")
    runs_dir: str = option("runs", "where runs are kept")
    device: str = option("auto", "where to compute", ("auto", "cpu", "cuda", "mps"))

    def load(self):
        """(folder, model, tokenizer, config, step) of the run that is meant."""
        folder = newest_run(self.runs_dir, self.run)
        return folder, *load_run(folder, choose_device(self.device))


@dataclass
class ModelOptions(RunOptions):
    """Options of a command that works with any model, from here or elsewhere."""

    weights: str = option("", "a Hugging Face folder, read instead of a run")

    def load(self):
        """(folder, model, tokenizer, config, step); of a Hugging Face folder step is None."""
        if not self.weights:
            return super().load()
        if self.run:
            raise ValueError(f"--run {self.run} and --weights {self.weights}: give one of them")
        model = read_model(self.weights, choose_device(self.device))
        tokenizer = formats.load(self.weights)
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(f"{self.weights} has a tokenizer of {tokenizer.vocab_size} ids, but a "
                             f"model of {model.config.vocab_size}")
        return self.weights, model, tokenizer, model.config, None


def same_tokenizer(folder, tokenizer, shards):
    """ValueError unless the run in `folder` and these shards have one tokenizer."""
    if tokenizer.hash != shards.tokenizer.hash:
        raise ValueError(f"{folder} was trained with tokenizer {tokenizer.hash}, but its data now "
                         f"has tokenizer {shards.tokenizer.hash}: the source has changed")


# ---- the command line ----

def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("list", help="every run, and where it stands")
    command.add_argument("--runs-dir", default="runs", help="where runs are kept (default: runs)")
    command = commands.add_parser("export", help="write a run's model as a Hugging Face folder")
    command.add_argument("folder", help="where to; transformers loads it, and so does --weights")
    add_options(command, RunOptions)
    given = vars(parser.parse_args(argv))
    if given.pop("command") == "export":
        target = given.pop("folder")
        if not target:
            raise ValueError("say where to export to")
        folder, model, tokenizer, _, step = RunOptions(**given).load()
        export(model, tokenizer, target)
        print(f"wrote {target}: {folder}, step {step}")
        return
    for folder in sorted(Path(given["runs_dir"]).glob("*")):
        if checkpoint := newest_checkpoint(folder):
            config = read_config(folder)
            print(f"{folder.name:20} step {step_of(checkpoint)} of {config.steps}, "
                  f"{', '.join(config.data)}, {config.n_layer} layers of width {config.d_model}")


if __name__ == "__main__":
    run(main)
