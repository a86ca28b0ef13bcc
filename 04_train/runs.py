"""A run's folder: started, resumed, found again, loaded; checkpoints that are whole or not there.

    runs/tiny/config.json  tokenizer.json  metrics.jsonl  loss.png
    runs/tiny/checkpoints/step-000300/model.pt   the weights
                                      state.pt   all else: optimizer, loop, loader, random numbers
                                      val.json   what it was evaluated at, for "the best one"

train.py writes them; 05_sample and 06_eval read them. Left out: sharded ones.

    python 04_train/runs.py list
    python 05_sample/sample.py --run tiny --checkpoint best
    python 04_train/runs.py export FOLDER --run tiny   # for transformers, and everyone else

Next: metrics.py.
"""

import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

# The other files of the course: PYTHONPATH=mine wins over them, they over installed packages.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
stages = [str(p) for p in [*root.glob("0?_*"), *root.glob("0?_*/extras")]]
path = [p for p in sys.path if p not in stages]
at = path.index(os.path.dirname(os.__file__)) + 1  # behind the standard library
sys.path[:] = path[:at] + stages + path[at:]

from console import Parser, add_options, by_hand, choose_device, option, run, write_safely

import torch

import formats
from bpe import Tokenizer, tokenizer_class
from data import prepare
from family import FamilyConfig, family_of
from gpt import GPTConfig, make_model
from length import choose_length
from presets import GO_ON, MAY_CHANGE, PRESETS, Config
from weights import export, open_folder, read_json, read_model


# ---- checkpoints ----

def save_checkpoint(folder, step, model, state, keep=2, val=None):
    """Write checkpoints/step-NNNNNN/ with the model's weights and `state`, a dict of plain values
    and tensors. val: its validation bits per byte, or None if it was not evaluated.

    It is written aside and renamed when it is whole and on the disk, so that a kill at any moment
    leaves whole checkpoints only. The newest `keep` stay, and the best. OSError if it can't be
    written, ValueError if a weight is not finite: that would be nothing to go on from.
    """
    if not all(tensor.isfinite().all() for tensor in model.parameters()):
        raise ValueError(f"after step {step} some weights are not finite; not saved. A new run "
                         "with a lower --lr may help")
    checkpoints, metrics = Path(folder) / "checkpoints", Path(folder) / "metrics.jsonl"
    target, aside = checkpoints / f"step-{step:06}", checkpoints / ".writing"
    shutil.rmtree(aside, ignore_errors=True)  # what a kill may have left
    try:
        aside.mkdir(parents=True)
        if metrics.exists():
            to_disk(metrics)  # of its steps, which won't come again
        write_safely(aside / "val.json", json.dumps({"val_bits_per_byte": val}))
        for name, content in (("model.pt", model.state_dict()), ("state.pt", state)):
            with open(aside / name, "wb") as file:
                torch.save(content, file)
            to_disk(aside / name)
        to_disk(aside)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(aside, target)
        to_disk(checkpoints)  # its new name, before the older ones go
    except (OSError, RuntimeError) as error:  # of a full disk torch makes a riddle
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = str(cause).splitlines()[0]
        raise OSError(f"could not write {target}, the earlier ones are whole: {reason}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    stay = {*whole_checkpoints(folder)[-keep:], best_checkpoint(folder)}
    for old in set(all_checkpoints(folder)) - stay:
        shutil.rmtree(old)


def to_disk(path):
    """Return when a file's content, or the names in a folder, would survive the power going."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def step_of(checkpoint):
    """The step after which a checkpoint was saved, from the name of its folder."""
    return int(checkpoint.name.removeprefix("step-"))


def val_of(checkpoint):
    """The validation bits per byte of a checkpoint; infinity if it was not evaluated."""
    path = checkpoint / "val.json"
    bits = read_json(path)["val_bits_per_byte"] if path.exists() else None
    return math.inf if bits is None else bits


def all_checkpoints(folder):
    """The folders of a run's checkpoints, in the order of their steps."""
    found = (Path(folder) / "checkpoints").glob("step-*")
    return sorted((p for p in found if re.fullmatch(r"step-\d+", p.name)), key=step_of)


def whole_checkpoints(folder):
    """Those of all_checkpoints() that a kill has not left half deleted."""
    return [p for p in all_checkpoints(folder)
            if (p / "model.pt").exists() and (p / "state.pt").exists()]


def newest_checkpoint(folder):
    """The folder of a run's last whole checkpoint, where --resume goes on, or None."""
    return max(whole_checkpoints(folder), default=None, key=step_of)


def best_checkpoint(folder):
    """The folder of the whole checkpoint with the fewest validation bits per byte, of equals the
    first, or None if none was evaluated.
    """
    evaluated = [p for p in whole_checkpoints(folder) if val_of(p) < math.inf]  # nan isn't, either
    return min(evaluated, default=None, key=val_of)


def find_checkpoint(folder, which):
    """The folder of a run's checkpoint: "newest", "best", or the one of a step, "300". ValueError,
    naming those that there are, if it isn't there.
    """
    found = {"newest": newest_checkpoint(folder), "best": best_checkpoint(folder)}
    found |= {str(step_of(p)): p for p in whole_checkpoints(folder)}
    if not found.get(which):
        there = ", ".join(name for name in found if found[name]) or "none"
        raise ValueError(f"{folder} has no checkpoint {which!r}; it has: {there}")
    return found[which]


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
        return Config.from_json(read_json(folder / "config.json"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'} is not the config of a run: {error}") from None


def start_run(runs_dir, name):
    """A new folder for a run, runs_dir/NAME or NAME-2, NAME-3 ...: no older run is touched."""
    Path(runs_dir).mkdir(parents=True, exist_ok=True)
    for n in itertools.count(1):
        folder = Path(runs_dir) / (name if n == 1 else f"{name}-{n}")
        try:
            folder.mkdir()
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
    new = Config(**choose_length(dataclasses.asdict(config), given))
    for key in given:
        if key not in MAY_CHANGE and getattr(new, key) != getattr(config, key):
            raise ValueError(f"{folder} was started with {key} {getattr(config, key)}, not "
                             f"{getattr(new, key)}; that is another run: give it another --name")
    return folder, new


def choose_run(given, preset, runs_dir, name, resume):
    """(folder, config) of the run to go on with, or (None, config) of a new one.

    given: Config's fields that the user gave; preset: a row of PRESETS; name: the run's, or None:
    then it is called as the preset. What a reader wrote is what runs: then by_hand is given, too.
    ValueError for what can't be.
    """
    if by_hand():
        given = {"by_hand": True} | given
    if name and (Path(name).name != name or name == ".."):
        raise ValueError(f"the name {name!r} is not one of a folder; --runs-dir says where")
    if resume and (found := resume_run(given, runs_dir, name or preset)):
        return found
    if resume and name:
        raise ValueError(f"there is no run {name!r} in {runs_dir}/ to resume")
    if resume:
        print("nothing to resume: a new run")
    if preset in GO_ON and not given.get("init"):
        raise ValueError(f"preset {preset} goes on from a model: give --init FOLDER")
    return None, new_config(given, PRESETS[preset])


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


def prepare_data(folder, config):
    """The data of a run, a Dataset or a Mixture: by hand in one process, else with all cores."""
    workers = 1 if config.by_hand else os.cpu_count() or 1
    return prepare(config.data, config.vocab_size, config.data_dir,
                   adopted_tokenizer(folder, config), config.by_hand, workers)


def load_run(folder, device="cpu", which="newest", by_hand=False):
    """(model, tokenizer, config, step) of one of a run's checkpoints, ready to be used. by_hand:
    with the plain versions, whichever it was trained with.
    """
    checkpoint = find_checkpoint(folder, which)
    config = dataclasses.replace(read_config(folder), by_hand=by_hand)
    tokenizer = tokenizer_class(by_hand).load(folder / "tokenizer.json")
    model = make_model(config.gpt(tokenizer.vocab_size)).to(device)
    load_model(model, checkpoint, device)
    return model.eval(), tokenizer, config, step_of(checkpoint)


@dataclass
class RunOptions:
    """Options of every command that works with a run."""

    run: str = option("", "a run's name; without one, the run that saved last")
    checkpoint: str = option("newest", "which one of it: newest, best (it had the fewest "
                                       "validation bits per byte), or a step")
    runs_dir: str = option("runs", "where runs are kept")
    device: str = option("auto", "where to compute", ("auto", "cpu", "cuda", "mps"))
    by_hand: bool = option(None, "run the versions that are written to be read (default: where a "
                                 "file of them is your own)")

    def plain(self):
        """Whether the plain versions are to run."""
        return by_hand() if self.by_hand is None else self.by_hand

    def load(self):
        """(folder, model, tokenizer, config, step) of the run that is meant."""
        folder = newest_run(self.runs_dir, self.run)
        return folder, *load_run(folder, choose_device(self.device), self.checkpoint, self.plain())


@dataclass
class ModelOptions(RunOptions):
    """Options of a command that works with any model, from here or elsewhere."""

    weights: str = option("", "a Hugging Face folder, read instead of a run")

    def load(self):
        """(folder, model, tokenizer, config, step); of a Hugging Face folder step is None."""
        if not self.weights:
            return super().load()
        if self.run or self.checkpoint != "newest":
            of_a_run = f"--run {self.run}" if self.run else f"--checkpoint {self.checkpoint}"
            raise ValueError(f"{of_a_run} and --weights {self.weights}: give one of them")
        model = read_model(self.weights, choose_device(self.device), by_hand=self.plain())
        tokenizer = formats.load(self.weights)
        if tokenizer.vocab_size > model.config.vocab_size:
            raise ValueError(f"{self.weights} has a tokenizer of {tokenizer.vocab_size} ids, but a "
                             f"model of {model.config.vocab_size}")
        return self.weights, model, tokenizer, model.config, None


# ---- where a run begins ----

def adopt(folder, asked):
    """Config's fields for a run that begins with the model of a Hugging Face folder: its shape.

    asked: the fields that are asked for. Of these only a seq_len shorter than the model's is
    another. ValueError if the user has asked for another shape.
    """
    config = open_folder(folder)[0].config
    shape = dataclasses.asdict(config) | dataclasses.asdict(family_of(config))
    del shape["family"], shape["by_hand"]
    shape["seq_len"] = min(shape["seq_len"], asked.get("seq_len", shape["seq_len"]))
    for name in shape.keys() & asked.keys():
        if asked[name] != shape[name] and name != "seq_len":
            raise ValueError(f"{folder} has {name} {shape[name]}, not {asked[name]}: leave out "
                             f"--{name.replace('_', '-')}")
    return shape


def new_config(given, preset):
    """The Config of a new run: what was given and, before that, the model's shape of given["init"]
    or the preset's.
    """
    if folder := given.get("init"):
        ours = {field.name for kind in (GPTConfig, FamilyConfig)
                for field in dataclasses.fields(kind)} - {"seq_len", "by_hand", "family"}
        preset = {name: value for name, value in preset.items() if name not in ours}
        shape = adopt(folder, preset | given)
        if given.get("seq_len", 0) > shape["seq_len"]:
            raise ValueError(f"seq_len is {given['seq_len']}, but the model in {folder} has a "
                             f"window of {shape['seq_len']}")
        given = given | shape
    return Config(**choose_length(preset, given))


def adopted_tokenizer(folder, config):
    """The tokenizer that comes with config.init, or with the run in `folder`, if that has begun;
    None if the run trains its own. ValueError if the model knows fewer ids.
    """
    if not config.init:
        return None
    kept = folder / "tokenizer.json" if folder else None
    tokenizer = Tokenizer.load(kept) if kept and kept.exists() else formats.load(config.init)
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(f"{config.init} has a tokenizer of {tokenizer.vocab_size} ids, but a "
                         f"model of {config.vocab_size}")
    return tokenizer


def begin(model, folder):
    """Fill `model` with the weights of a Hugging Face folder; of learned positions it takes the
    first, as many as it has.
    """
    weights = read_model(folder, model.embed.weight.device).state_dict()
    if "places.weight" in weights:
        weights["places.weight"] = weights["places.weight"][:model.config.seq_len]
    model.load_state_dict(weights)


def restore_weights(folder, config, data, model, engine):
    """Bring the model to where the run's newest checkpoint left it, or to where config.init begins.
    Returns the checkpoint's state, for restore_state().

    A new run's folder gets its tokenizer.json. ValueError if the data are not what the run was
    trained on.
    """
    device = model.embed.weight.device
    if (folder / "tokenizer.json").exists():
        same_tokenizer(folder, Tokenizer.load(folder / "tokenizer.json"), data)
    elif engine.leads:
        data.tokenizer.save(folder / "tokenizer.json")
    checkpoint = newest_checkpoint(folder)
    if not checkpoint:
        if config.init:
            begin(model, config.init)
        return {"step": 0, "seconds": 0.0}
    load_model(model, checkpoint, device)
    state = load(checkpoint / "state.pt", "cpu")  # what takes it moves it, or only its part
    if state["data"] != data.hash:
        raise ValueError(f"{folder} was trained on data {state['data']}, but its data are "
                         f"now {data.hash}: the source has changed")
    return state


def restore_state(state, **parts):
    """Bring parts, {name: what has load_state_dict()}, and PyTorch's random numbers to where they
    were in a checkpoint's state; a new run's leaves them as they are.
    """
    for name, part in parts.items():
        if name in state:  # older checkpoints have fewer
            part.load_state_dict(state.pop(name))  # which then is not kept twice
    if "rng" in state:
        torch.set_rng_state(state["rng"])


def same_tokenizer(folder, tokenizer, data):
    """ValueError unless the run in `folder` and these data have one tokenizer."""
    if tokenizer.hash != data.tokenizer.hash:
        raise ValueError(f"{folder} was trained with tokenizer {tokenizer.hash}, but its data now "
                         f"has tokenizer {data.tokenizer.hash}: the source has changed")


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
            try:
                config = read_config(folder)
            except ValueError as error:
                print(f"{folder.name:20} can't be read: {error}")
                continue
            print(f"{folder.name:20} step {step_of(checkpoint)} of {config.steps}, "
                  f"{', '.join(config.data)}, {config.n_layer} layers of width {config.d_model}")


if __name__ == "__main__":
    run(main)
