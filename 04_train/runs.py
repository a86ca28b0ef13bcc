"""A run that can't be lost: its folder, and checkpoints that are whole or not there.

    runs/tiny/config.json  tokenizer.json  metrics.jsonl  loss.png  .name  snapshots/
    runs/tiny/checkpoints/step-000300/weights/head.weight.npy ...   one file for each tensor
                                      state.pt         optimizer, loop, loader, random numbers
                                      val.json         its validation bits per byte
                                      checksums.json   the sha256 of each of these files

A checkpoint is written under another name and renamed once all of it is on the disk, so a kill at
any moment leaves only whole ones. Files that are read are checked by checksum. Next: train.py.
"""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import file_hash, housekeeping, read_text, users_mistake, write_safely

import numpy as np
import torch

from bpe import tokenizer_class
from data import prepare, reopen
from gpt import make_model

STATE = dict(step=int, seconds=float, optimizer=dict, loader=dict, data=str, rng=torch.Tensor)
WAYS = ("steps", "flops", "tokens_per_param")  # a run's length is the first of these that is not 0


def tensors(model):
    """(name, tensor) of each parameter and buffer; a tensor with two names comes once."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield name, tensor.detach()


def save_checkpoint(folder, step, weights, state, keep=2, val=None):  # exercise
    """Write a new checkpoints/step-NNNNNN/; delete all others but the newest `keep` and the best.
    weights: (name, tensor) pairs, as tensors(model) gives them; they may be made one by one.
    state: a dict of plain values and tensors. val: validation bits per byte, None if not evaluated.
    The files above (checksums.json: file_hash() of "weights/a.npy" and all others) are made in a
    new .checkpoint.*.tmp of `folder`; to_disk() all and metrics.jsonl; rename; to_disk() folders.
    One to be deleted is renamed to a .tmp first, but stays if its val.json has damage(). No .tmp is
    left. ValueError if a weight is not finite; if writing fails (in torch: RuntimeError), OSError.
    """
    target = folder / "checkpoints" / f"step-{step:06}"
    aside = folder / f".checkpoint.{os.urandom(4).hex()}.tmp"  # no other process has this name
    try:
        (aside / "weights").mkdir(parents=True)
        for name, tensor in weights:
            if not tensor.isfinite().all():
                raise ValueError(f"after step {step} {name} is not finite: is --lr too high?")
            np.save(aside / "weights" / f"{name}.npy", tensor.cpu().numpy())
        with open(aside / "state.pt", "wb") as file:  # Python's own error says why it fails
            torch.save(state, file)
        write_safely(aside / "val.json", json.dumps({"val_bits_per_byte": val}))
        sums = {p.relative_to(aside).as_posix(): file_hash(p)
                for p in sorted(aside.rglob("*")) if p.is_file()}
        write_safely(aside / "checksums.json", json.dumps(sums, indent=1))
        to_disk(*folder.glob("metrics.jsonl"), *aside.rglob("*"), aside)
        target.parent.mkdir(exist_ok=True)
        os.replace(aside, target)
        to_disk(target.parent, folder)  # the new name, before the older checkpoints go
    except (OSError, RuntimeError) as error:  # torch's message is unclear, its context is not
        reason = str(error.__context__ or error).splitlines()[0]
        raise OSError(f"could not write {target}; all saved before is whole: {reason}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    stay = {*all_checkpoints(folder)[-keep:], best_checkpoint(folder)}
    for old in all_checkpoints(folder):
        if old not in stay and not damage(old, "val.json"):  # if damaged, it may be the best
            aside = folder / f".{old.name}.{os.urandom(4).hex()}.tmp"
            os.replace(old, aside)  # at no moment is half of it left under its name
            shutil.rmtree(aside, ignore_errors=True)  # another process may be reading from it


def to_disk(*paths):
    """Return when files' content, and the names in folders, would survive a power failure."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def step_of(checkpoint):
    """The step after which a checkpoint was saved, from the name of its folder."""
    return int(checkpoint.name.removeprefix("step-"))


def all_checkpoints(*folders):
    """The checkpoints in the folder of a run, or in several, in the order of their steps."""
    found = [p for folder in folders for p in (Path(folder) / "checkpoints").glob("step-*")]
    return sorted((p for p in found if p.name[5:].isdecimal()), key=step_of)


def newest_checkpoint(folder):
    """The checkpoint of the last step, where --resume goes on, or None."""
    return next(reversed(all_checkpoints(folder)), None)


def val_of(checkpoint):
    """A checkpoint's validation bits per byte; infinity if not evaluated, damaged or gone."""
    try:
        bits = json.loads(read_text(checkpoint / "val.json"))["val_bits_per_byte"]
        return bits if math.isfinite(bits) and not damage(checkpoint, "val.json") else math.inf
    except Exception:  # val.json is only a hint, and the trainer may delete it in the meantime
        return math.inf


def best_checkpoint(folder):
    """The checkpoint with the fewest validation bits per byte, of equals the first, or None."""
    while True:
        vals = {p: val_of(p) for p in all_checkpoints(folder)}
        if all(p.exists() for p in vals):  # else the trainer has deleted one in the meantime
            return min((p for p in vals if vals[p] < math.inf), default=None, key=vals.get)


def find_checkpoint(folder, which):
    """The checkpoint "newest", "best" or of a step, "300". ValueError if it isn't there."""
    found = {"newest": newest_checkpoint(folder), "best": best_checkpoint(folder)}
    found |= {str(step_of(p)): p for p in all_checkpoints(Path(folder) / "snapshots", folder)}
    if not found.get(which):
        there = ", ".join(name for name in found if found[name]) or "none"
        raise ValueError(f"{folder} has no checkpoint {which!r}; it has: {there}")
    return found[which]


def damage(checkpoint, part=""):
    """What is wrong with a checkpoint's files whose names begin with `part`; "" if nothing is."""
    try:
        sums = json.loads(read_text(checkpoint / "checksums.json"))
        names = [name for name in sums if name.startswith(part)]
        changed = [name for name in names if file_hash(checkpoint / name) != sums[name]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        return str(error)
    if changed:
        return f"{changed[0]} has changed"
    return "" if names else f"it has no {part}"


def check(checkpoint, part):
    """ValueError if damage() finds any. It names the last undamaged checkpoint before this one."""
    if found := damage(checkpoint, part):
        hint = "There is no whole one before it"
        for other in all_checkpoints(checkpoint.parents[1]):
            if step_of(other) < step_of(checkpoint) and not damage(other):
                hint = (f"{other.name}, before it, is whole: --checkpoint {step_of(other)} reads "
                        "that, and once damaged ones are deleted, --resume takes the newest left")
        raise ValueError(f"{checkpoint} is damaged: {found}. {hint}")


def refusal(error, message):
    """ValueError(message) for an error of any kind, but the error itself if memory ran out."""
    return error if str(users_mistake(error)).startswith("out of memory") else ValueError(message)


@torch.no_grad()
def load_weights(model, checkpoint, new=()):
    """Fill `model`, but for `new` names, from a checkpoint. ValueError if damaged or unfit."""
    check(checkpoint, "weights/")
    ours, found = {name: t for name, t in tensors(model) if name not in new}, {}
    for path in sorted((checkpoint / "weights").glob("*.npy")):
        try:
            found[path.name.removesuffix(".npy")] = torch.from_numpy(np.load(path, mmap_mode="c"))
        except Exception as error:  # numpy raises a dozen kinds for a file that is no array
            raise refusal(error, f"{path} is no array: {type(error).__name__}") from None
    for name in sorted(ours.keys() | found.keys()):
        forms = [f"{tuple(one[name].shape)} of {one[name].dtype}" if name in one else "absent"
                 for one in (ours, found)]
        if forms[0] != forms[1]:
            raise ValueError(f"{checkpoint} doesn't fit the config of its run: {name!r} is "
                             f"{forms[1]}, not {forms[0]}")
        ours[name].copy_(found[name])


def check_size(shape, checkpoint):
    """ValueError, before a model is built, if its shape needs more bytes than a checkpoint has."""
    sizes = [path.stat().st_size for path in (checkpoint / "weights").glob("*.npy")]
    with torch.device("meta"):  # where tensors have no content
        if shape.n_layer > len(sizes) or shape.d_model ** 2 > sum(sizes) or sum(sizes) < sum(
                tensor.nbytes for _, tensor in tensors(make_model(shape))):
            raise ValueError(f"{checkpoint} doesn't fit the config of its run: its {len(sizes)} "
                             f"files of {sum(sizes):,} bytes are too few for {shape}")


def load_state(checkpoint):
    """A checkpoint's state, on the CPU; nothing in it is executed. ValueError if it isn't whole."""
    check(checkpoint, "state.pt")
    path, step = checkpoint / "state.pt", step_of(checkpoint)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)  # read if used
        wrong = sorted(part for part in STATE if not isinstance(state.get(part), STATE[part]))
    except Exception as error:  # torch's message would advise to execute code from the file
        raise refusal(error, f"{path} is no state of a run ({type(error).__name__})") from None
    if wrong or state["step"] != step:
        raise ValueError(f"{path} is not of step {step}, or lacks a part: {', '.join(wrong)}")
    return state


def start_run(runs_dir, name):
    """A new folder for a run, runs_dir/NAME or NAME-2, NAME-3 ...: no older run is touched."""
    Path(runs_dir).mkdir(parents=True, exist_ok=True)
    for n in range(1, sys.maxsize):
        folder = Path(runs_dir) / (name if n == 1 else f"{name}-{n}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            write_safely(folder / ".name", os.fsencode(name))  # a user may name a run NAME-2
            return folder


def write_config(folder, config, data):
    """Write tokenizer.json and config.json: the Config, the data's hash, and their folders."""
    data.tokenizer.save(folder / "tokenizer.json")
    where = [(share, os.path.relpath(part.folder.resolve(), folder.resolve()))
             for share, part in data.parts]  # relative: run and data may be moved together
    content = as_json(config) | {"data_hash": data.hash, "data_folders": where}
    write_safely(folder / "config.json", json.dumps(content, indent=1))


def as_json(config):
    """The fields of a Config; those that only another family has are grouped under `family`."""
    content = dataclasses.asdict(config)
    return {name: content[name] for name in content if name not in (content["family"] or {})}


def read_run(folder):
    """What config.json says: (Config, hash of the data, [(share, folder of the data)])."""
    from train import Config as kind  # inside, since train.py imports this file
    path = folder / "config.json"
    try:
        content = json.loads(read_text(path))
        data_hash, where = content.pop("data_hash"), content.pop("data_folders")
        where = [(float(share), folder.resolve() / part) for share, part in where]
        content.update(**content.pop("family") or {})
        if content.keys() - {field.name for field in dataclasses.fields(kind)}:
            from presets import FullConfig as kind  # which has more fields
        return kind(**content), data_hash, where
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not the config of a run, or of one of an earlier version, "
                         f"which is to be trained anew ({error!r})") from None


def read_config(folder):
    return read_run(folder)[0]


def newest_run(runs_dir="runs", name=None):
    """The run `name`, or the one that saved last. ValueError if there is none with a checkpoint."""
    saved = [folder for folder in Path(runs_dir).glob("*") if newest_checkpoint(folder)]
    found = [Path(runs_dir) / name] if name else saved
    if not any(all_checkpoints(run, run / "snapshots") for run in found):
        there = housekeeping.nearest(name, [run.name for run in saved]) if housekeeping else ""
        raise ValueError(f"there is no run {f'{name!r} ' if name else ''}with a checkpoint in "
                         f"{runs_dir}/; {there}python 04_train/train.py trains one")
    return found[0] if name else max(found, key=lambda run: (run / "checkpoints").stat().st_mtime)


def load_run(folder, device="cpu", which="newest", by_hand=False):
    """(model, tokenizer, config, step) of a run's checkpoint, ready to be used. which: as in
    find_checkpoint(). by_hand: with the plain versions, whichever it was trained with.
    """
    config = dataclasses.replace(read_config(folder), by_hand=by_hand)
    tokenizer = tokenizer_class(by_hand).load(folder / "tokenizer.json")
    shape = config.gpt(tokenizer.vocab_size)
    while True:
        checkpoint = find_checkpoint(folder, which)
        try:
            check_size(shape, checkpoint)
            model = config.make_model(tokenizer.vocab_size).to(device)
            load_weights(model, checkpoint)
            return model.eval(), tokenizer, config, step_of(checkpoint)
        except (ValueError, OSError):
            if checkpoint.exists():
                raise  # else the trainer has deleted it in the meantime: there are newer ones


def run_data(folder, by_hand=False, data_dir=None):
    """The data that a run was trained on, from their folders; if those are gone, prepared anew in
    data_dir (default: where they were). ValueError if the source is not what it was.
    """
    config, data_hash, where = read_run(folder)
    if where and all((part / "index.json").exists() for _, part in where):
        data = reopen(where, by_hand, check=True)
    else:
        tokenizer = tokenizer_class(by_hand).load(folder / "tokenizer.json")
        data_dir = data_dir or (where[0][1].parent if where else config.data_dir)
        data = prepare(config.data, None, data_dir, tokenizer, by_hand)
    if data.hash != data_hash:
        raise ValueError(f"{folder} was trained on data {data_hash}, but its data are now "
                         f"{data.hash}: the source has changed")
    return data


def choose_run(words, given, preset, kind):
    """(folder, config) of the run to go on with, or (None, config) of a new one. words: the options
    of a command line; given, preset: fields of a `kind` of Config. ValueError if they don't fit.
    """
    name = words.name or words.preset or "tiny"
    if Path(name).name != name or name == "..":
        raise ValueError(f"the name {name!r} is not one of a folder; --runs-dir says where")
    if {*WAYS} & {*given}:  # a length that the user gives replaces the preset's
        given = dict.fromkeys(WAYS, 0) | given
    if words.resume and housekeeping:
        from resuming import resumed  # finds the run; refuses options that must not change
        return resumed(words, given)
    if words.resume:
        old = read_config(folder := Path(words.runs_dir) / name)
        new = dataclasses.replace(old, **given)
        for key in given.keys() - {*WAYS, "by_hand", "data_dir", "device"}:
            if getattr(new, key) != getattr(old, key):
                raise ValueError(f"with another {key} it is another run: leave --{key} out")
        return folder, new
    if given.get("init", preset.get("init")) is not None:
        from starting import adopt  # the shape of a model from elsewhere
        preset = adopt(name, preset, given)
    return None, kind(**preset | given)


def restore_weights(folder, config, data, model):  # exercise
    """load_state() of the newest checkpoint; ValueError, naming both, if "data" isn't data.hash;
    else load_weights(). If none: {"step": 0, "seconds": 0.0}; after starting.begin(model, init) if
    the config has an init; else, if it has bigrams and `housekeeping` is not None, with the seconds
    that bigrams.begin(model, config, data) returns.
    """
    if checkpoint := newest_checkpoint(folder):
        state = load_state(checkpoint)
        if state["data"] != data.hash:
            raise ValueError(f"{checkpoint} was trained on data {state['data']!r}, not {data.hash}")
        load_weights(model, checkpoint)
        return state
    if config.init:
        from starting import begin  # with the weights of a model from elsewhere
        begin(model, config.init)
    elif config.bigrams and housekeeping:
        from bigrams import begin
        return {"step": 0, "seconds": begin(model, config, data)}
    return {"step": 0, "seconds": 0.0}


def restore_state(state, **parts):
    """Restore from a state {name: what has load_state_dict()}, and PyTorch's random numbers."""
    if "rng" in state:  # else the run is new
        try:
            for name, part in parts.items():
                part.load_state_dict(state.pop(name))  # popped, so that it is not kept twice
            torch.set_rng_state(state["rng"])
        except Exception as error:  # torch and our classes raise many kinds
            raise refusal(error, f"the checkpoint's state doesn't fit the run: {error!r}") from None
