"""A run that begins with another model: --init FOLDER, of a run, or in Hugging Face's form.

Its shape, tokenizer and weights are taken over, of a run those of its newest checkpoint; optimizer
and learning rate begin anew. train.py and runs.py call it when a run has --init.
Reads that folder; writes nothing. Next: bigrams.py.
"""

import dataclasses
import os
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from bpe import Tokenizer
from conversations import end_ids
from data import document_start
from family import FamilyConfig, family_of
from gpt import GPTConfig
from length import rank_of
from lora import is_adapter, merge
from runs import check_size, load_run, load_weights, newest_checkpoint, read_config, tensors
from weights import check_fit, open_folder, open_tokenizer, our_tensors


def shape_of(folder):
    """The GPTConfig of the model in a folder. ValueError if there is none."""
    if checkpoint := newest_checkpoint(folder):
        tokenizer = Tokenizer.load(Path(folder) / "tokenizer.json")
        shape = read_config(Path(folder)).gpt(tokenizer.vocab_size)
        check_size(shape, checkpoint)
        return shape
    if not Path(folder, "config.json").exists() and newest_checkpoint(Path("runs") / folder):
        raise ValueError(f"there is no folder {folder}; did you mean runs/{folder}?")
    if Path(folder, "tokenizer.json").exists() and Path(folder, ".name").exists():
        raise ValueError(f"the run {folder} has no checkpoint yet")
    return open_folder(folder)[0].config


def adopt(name, preset, given):
    """The fields of a preset, but with the shape of the model in given["init"].

    ValueError if the user has asked for another shape; only a seq_len shorter than the model's is
    allowed.
    """
    if not (folder := given.get("init")):
        raise ValueError(f"preset {name} goes on from a model: give --init FOLDER")
    ours = {field.name for kind in (GPTConfig, FamilyConfig)
            for field in dataclasses.fields(kind)} - {"seq_len", "by_hand", "family"}
    asked = {key: value for key, value in preset.items() if key not in ours} | given
    config = shape_of(folder)
    shape = dataclasses.asdict(config) | dataclasses.asdict(family_of(config))
    del shape["family"], shape["by_hand"]
    if given.get("seq_len", 0) > shape["seq_len"]:
        raise ValueError(f"seq_len is {given['seq_len']}, but the model in {folder} has a window "
                         f"of {shape['seq_len']}")
    shape["seq_len"] = min(shape["seq_len"], asked.get("seq_len", shape["seq_len"]))
    may_change = {"seq_len"}
    if newest_checkpoint(folder) and family_of(config).positions == "learned":
        may_change, shape["seq_len"] = set(), config.seq_len  # of a run begin() takes all vectors
    for key in shape.keys() & given.keys() - may_change:
        if given[key] != shape[key]:
            raise ValueError(f"{folder} has {key} {shape[key]}, not {given[key]}: leave out "
                             f"--{key.replace('_', '-')}")
    return asked | shape


def adopted_tokenizer(folder, config):
    """The tokenizer that comes with config.init, or with the run in `folder`, if that has begun;
    None if the run trains its own. ValueError if the model knows fewer ids.
    """
    if not config.init:
        return None
    kept = folder / "tokenizer.json" if folder else None
    if kept and kept.exists():
        tokenizer = Tokenizer.load(kept)
    elif newest_checkpoint(config.init):
        tokenizer = Tokenizer.load(Path(config.init) / "tokenizer.json")
    else:  # the id that opens documents now also ends texts
        tokenizer = open_tokenizer(config.init)
        start = document_start(tokenizer)
        if max(start) >= tokenizer.vocab_size:  # data have room for the tokenizer's ids only
            raise ValueError(f"{config.init}: documents would begin with {max(start)}, at which "
                             f"its texts end, but its tokenizer has {tokenizer.vocab_size} ids")
        tokenizer.ends += {*start[:1]} - end_ids(tokenizer)
    check_fit(config.init, tokenizer, config.vocab_size)
    return tokenizer


def begin(model, folder):
    """Fill `model` with the weights in a folder, tensor by tensor, since it may be divided over
    processes that have no room for more; of learned positions in Hugging Face's form it takes the
    first, as many as it has. Its own adapters stay as they are; those of a run in the folder, which
    is then read as a whole, are merged.
    """
    new = {name for name, _ in tensors(model) if is_adapter(name)}
    checkpoint = newest_checkpoint(folder)
    if checkpoint and not rank_of(read_config(Path(folder))):
        return load_weights(model, checkpoint, new)
    ours = {name: tensor for name, tensor in tensors(model) if name not in new}
    theirs = tensors(merge(load_run(Path(folder))[0])) if checkpoint else (
        our_tensors(*open_folder(folder)))
    for name, tensor in theirs:
        rows = slice(model.config.seq_len if name == "position_embed.weight" else None)
        ours.pop(name).copy_(tensor[rows])
    assert not ours, f"{folder} has no {', '.join(ours)}"
