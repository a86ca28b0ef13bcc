"""Which run is meant: a new one, one that goes on, one that begins with a model from elsewhere.

Everything that can be refused is refused here, before a folder is made. Used by train.py and
ladder.py. Reads runs/, Hugging Face folders; writes nothing. Next: metrics.py.
"""

import dataclasses
import os
import re
import sys
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

from console import by_hand

import formats
from bpe import Tokenizer
from data import prepare
from family import FamilyConfig, family_of
from gpt import GPTConfig
from length import choose_length
from presets import GO_ON, MAY_CHANGE, PRESETS, Config
from runs import read_config
from weights import open_folder, read_model


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


def prepare_data(folder, config):
    """The data of a run, a Dataset or a Mixture: by hand in one process, else with all cores."""
    workers = 1 if config.by_hand else os.cpu_count() or 1
    return prepare(config.data, config.vocab_size, config.data_dir,
                   adopted_tokenizer(folder, config), config.by_hand, workers)


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
