"""Other people's checkpoints, in and out: a Hugging Face folder <-> our GPT.

By the tables of huggingface.py, in both directions: an exported model is imported bit for bit.
Left out: other architectures, quantised weights, pickles (a .bin file can run anything).

    python 03_model/extras/weights.py FOLDER

Prints what a folder holds, and each tensor's name and shape (out, in), here and there.
Reads and writes config.json and model.safetensors, for which it needs safetensors; export() writes
the tokenizer's files and generation_config.json beside them. Next: 04_train/train.py.
"""

import json
import os
import re
import secrets
import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, escaped, run, track

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import formats
from conversations import begin_ids, end_ids
from family import family_of
from gpt import make_model
from housekeeping import clear_away
from huggingface import ARCHITECTURES, flat, from_huggingface, to_huggingface
from records import library
from shards import CONSTANTS, PURPOSE, check_size, naming, read_json, read_tensors

WRITTEN = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
           "generation_config.json"}  # all files that export() writes
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # fewer bits need scales


# ---- a tensor ----
def turned(rows, config):  # exercise
    """Our rows of queries, keys and values from Llama's, and Llama's from ours: its own inverse.

    rows: a weight ((H + 2G) * D, C) or a bias ((H + 2G) * D,): D rows for each of H queries, then
    G keys, then G values. Returns a new tensor, in which the second half of every query's and key's
    rows is negated. With H = G = 1 and D = 2, [1, 2, 3, 4, 5, 6] becomes [1, -2, 3, -4, 5, 6].
    Llama rotates the pair (x1, x2) the other way, which is rotate() of the mirrored (x1, -x2).
    """
    # Exact: rotating the other way is mirroring, rotate(), and mirroring again (conjugation). The
    # first mirroring is done here; the second is not needed, since q k' is the same without it.
    H, G = config.n_head, config.n_kv_head
    heads = rows.clone().view(H + 2 * G, 2, -1)  # (heads, halves, rows of a half)
    heads[:H + G, 1] *= -1
    return heads.view_as(rows)


def divided(rows, config):  # exercise
    """Rows of queries, keys and values, as in turned(), divided into three tensors.

    rows: ((H + 2G) * D, C) or ((H + 2G) * D,). Returns (H * D, ...), (G * D, ...), (G * D, ...).
    With H = 2, G = 1 and D = 2, [1, 2, 3, 4, 5, 6, 7, 8] becomes [1, 2, 3, 4], [5, 6], [7, 8].
    """
    heads = (config.n_head, config.n_kv_head, config.n_kv_head)
    return rows.split([n * config.head_dim for n in heads])


def to_theirs(tensor, how, config):
    """A tensor of ours as a list of theirs. how: from an Architecture's `tensors`."""
    tensor = turned(tensor, config) if "turned" in how else tensor
    tensor = tensor.t() if "transposed" in how else tensor  # to (in, out)
    return divided(tensor, config) if "divided" in how else [tensor]


def to_ours(tensors, how, config):
    """The inverse of to_theirs()."""
    tensor = torch.cat(tensors) if "divided" in how else tensors[0]
    tensor = tensor.t() if "transposed" in how else tensor
    return turned(tensor, config) if "turned" in how else tensor


def full_name(name, kind):
    prefix = ARCHITECTURES[kind].prefix
    return name if name.startswith((prefix, "lm_head.")) else prefix + name


def dictionary(model, kind):
    """Yield (name, their names, how it differs) for each of a model's tensors, but no tied head."""
    for name, _ in model.named_parameters():
        module, _, last = name.rpartition(".")  # last: weight or bias
        n = "".join(re.findall(r"^blocks\.(\d+)", module))
        theirs, how = ARCHITECTURES[kind].tensors[module.replace(f"blocks.{n}.", "blocks.N.")]
        theirs = full_name(f"{theirs.replace('.N.', f'.{n}.')}.{last}", kind)
        how = "" if (how, last) == ("transposed", "bias") else how
        yield name, [theirs.format(x) for x in "qkv"] if "divided" in how else [theirs], how


def in_their_terms(model, kind):
    """{their name: tensor} of a whole model."""
    parameters = dict(model.named_parameters())
    return {other: tensor.detach() for name, theirs, how in dictionary(model, kind)
            for other, tensor in zip(theirs, to_theirs(parameters[name], how, model.config))}


# ---- in ----
def check(tensors, expected):
    """ValueError, naming tensors and shapes, unless these are the expected ones, of floats."""
    there, wanted = ({name: f"{name} {tuple(tensor.shape)}" for name, tensor in each.items()}
                     for each in (tensors, expected))
    problems = {
        "missing": [wanted[n] for n in wanted if n not in there],
        "unexpected": [there[n] for n in there if n not in wanted],
        "of another shape": [f"{there[n]}, expected {tuple(expected[n].shape)}" for n in wanted
                             if n in there and there[n] != wanted[n]],
        "not floats": [f"{there[n]} {str(tensors[n].dtype).removeprefix('torch.')}" for n in wanted
                       if n in there and tensors[n].dtype not in FLOATS]}
    if any(problems.values()):
        raise ValueError("; ".join(
            f"{what}: {', '.join(names[:3])}" + f" and {len(names) - 3} more" * (len(names) > 3)
            for what, names in problems.items() if names))


class Unfilled(TorchFunctionMode):
    """A context in which no tensor is filled with random numbers, which is slower than reading."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function.__name__.endswith(("uniform_", "normal_")):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def open_folder(folder, by_hand=False):
    """(a GPT on "meta", without data, its model_type, {their name: tensor}), which fit together."""
    folder = Path(folder)
    settings = read_json(folder / "config.json")
    with naming(folder / "config.json"):
        config, kind = from_huggingface(settings), settings["model_type"]
    stored = read_tensors(folder)
    with naming(folder):
        check_size(config, stored)
        with torch.device("meta"), Unfilled():
            model = make_model(replace(config, by_hand=by_hand)).eval()
        tensors = {full_name(name, kind): tensor for name, tensor in stored.items()
                   if not CONSTANTS.fullmatch(name)}
        if len(tensors) < sum(not CONSTANTS.fullmatch(name) for name in stored):
            raise ValueError("a tensor is there twice, with and without "
                             f"{ARCHITECTURES[kind].prefix} in front of its name")
        embed = full_name(ARCHITECTURES[kind].tensors["embed"][0] + ".weight", kind)
        head = "lm_head.weight"
        if family_of(config).tied and {embed, head} <= tensors.keys():  # some store it twice
            if (tensors[head].dtype == tensors[embed].dtype
                    and torch.equal(tensors[head], tensors[embed])):
                del tensors[head]
        try:
            check(tensors, in_their_terms(model, kind))
        except ValueError as error:
            raise ValueError(f"the tensors don't fit config.json; {error}") from None
    return model, kind, tensors


def our_tensors(model, kind, tensors):
    """(our name, tensor) of what open_folder() returns, read from the disk one by one."""
    names = list(dictionary(model, kind))
    for name, theirs, how in track(names, "reading tensors", len(names)):
        yield name, to_ours([tensors[t] for t in theirs], how, model.config)


def read_model(folder, device="cpu", dtype=torch.float32, by_hand=False):
    """The GPT in a Hugging Face folder, in eval mode.

    dtype: of its parameters; in the file they may have any float type. ValueError, in one line,
    for a folder that is incomplete, damaged or not expressible here.
    """
    model, kind, tensors = open_folder(folder, by_hand)
    state = {name: nn.Parameter(tensor.to(device, dtype, copy=True,
                                          memory_format=torch.contiguous_format))
             for name, tensor in our_tensors(model, kind, tensors)}
    if family_of(model.config).tied:
        state["head.weight"] = state["embed.weight"]
    model.load_state_dict(state, assign=True)
    return model


def stored_ends(folder):
    """The ids at which a text ends, as generation_config.json and config.json say: [] if neither
    does. ValueError for anything that is neither a number nor a list of numbers.
    """
    found = []
    for path in (folder / "generation_config.json", folder / "config.json"):
        ids = read_json(path).get("eos_token_id") if path.exists() else None
        ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
        with naming(path):
            if any(type(i) is not int for i in ids):
                raise ValueError(f"eos_token_id is {ids}, but must be an id or a list of ids")
        found += [i for i in ids if i >= 0]  # some files have -1 for no id
    return list(dict.fromkeys(found))


def open_tokenizer(folder):
    """The tokenizer of a Hugging Face folder. A text begins with the ids that tokenizer.json puts
    there, and ends at special tokens of known names and at ids that the folder's settings name.
    ValueError, in one line, if it is damaged or not expressible here.
    """
    folder = Path(folder)
    with naming(folder):
        tokenizer = formats.load(folder)
    tokenizer.ends = [i for i in stored_ends(folder) if i not in end_ids(tokenizer)]
    return tokenizer


def check_fit(folder, tokenizer, vocab_size):
    """ValueError if the tokenizer may give ids that the model in `folder`, of vocab_size ids,
    lacks. The model may have more ids.
    """
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(f"{folder} has a tokenizer of {tokenizer.vocab_size} ids, but a model of "
                         f"{vocab_size}")
    if (last := max(end_ids(tokenizer), default=0)) >= vocab_size:
        raise ValueError(f"{folder} says that a text ends at the id {last}, but has a model of "
                         f"{vocab_size} ids")


def open_model(options, device="cpu", by_hand=False):
    """(folder, model, tokenizer, config, None) of the Hugging Face folder options.weights, as
    RunOptions.load() gives them, but no step. ValueError if the options name a run as well, or if
    model and tokenizer don't fit together.
    """
    folder = options.weights
    if options.run or options.checkpoint != "newest":
        of_a_run = f"--run {options.run}" if options.run else f"--checkpoint {options.checkpoint}"
        raise ValueError(f"{of_a_run} and --weights {folder}: give one of them")
    read_json(Path(folder) / "config.json")  # a quick check comes first
    tokenizer = open_tokenizer(folder)
    model = read_model(folder, device, by_hand=by_hand)
    check_fit(folder, tokenizer, model.config.vocab_size)
    return folder, model, tokenizer, model.config, None


# ---- out ----
def check_room(folder, names):
    """ValueError if a folder holds anything but files of these names: other files would look like
    part of the model that is to be written there.
    """
    if others := [path.name for path in folder.iterdir()
                  if path.name not in names or not path.is_file()]:
        raise ValueError(f"{folder} holds {escaped(min(others))}, which is not of this model: "
                         "give a new folder")


@contextmanager
def all_or_nothing(folder):
    """A context with a new folder, whose files move to `folder` at the end. An old config.json is
    deleted first, the new one moved last: a folder without it is visibly incomplete. ValueError if
    `folder` holds anything else, OSError if it can't be made, both at once where possible.
    """
    folder = Path(folder).resolve()
    if folder.exists():
        check_room(folder, WRITTEN)
    clear_away(folder.parent, f".{folder.name}.*.tmp")
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None
    try:
        yield aside
        folder.mkdir(exist_ok=True)
        check_room(folder, {path.name for path in aside.iterdir()})
        (folder / "config.json").unlink(missing_ok=True)
        for path in sorted(aside.iterdir(), key=lambda path: path.name == "config.json"):
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(aside)


def write_json(path, content):
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_model(model, folder, bos=None, eos=None):
    """Write config.json and model.safetensors, for transformers and read_model().

    bos, an id, and eos, a list of ids, are for config.json. ValueError if no architecture expresses
    the model, OSError if the disk is full; then `folder` is as it was.
    """
    settings, safetensors = to_huggingface(model.config), library("safetensors.torch", PURPOSE)
    settings |= {"dtype": str(model.embed.weight.dtype).removeprefix("torch."),
                 "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": None}
    tensors = {name: tensor.clone(memory_format=torch.contiguous_format)  # none may share memory
               for name, tensor in in_their_terms(model, settings["model_type"]).items()}
    with all_or_nothing(folder) as aside:
        try:
            safetensors.save_file(tensors, aside / "model.safetensors", {"format": "pt"})
            (aside / "model.safetensors").chmod(0o666 & aside.stat().st_mode)
        except library("safetensors", PURPOSE).SafetensorError as error:
            raise OSError(f"{folder}: model.safetensors can't be written ({error})") from None
        write_json(aside / "config.json", settings)


def export(model, tokenizer, folder):
    """write_model(), and all files that AutoTokenizer and generate() of transformers need to behave
    as here: a text begins with conversations.begin_ids(), as <|bos|>, and ends at one of end_ids().
    ValueError if the model lacks ids, or if a text begins with more than one special token.
    """
    if tokenizer.vocab_size > model.config.vocab_size:
        raise ValueError(f"the tokenizer has {tokenizer.vocab_size} ids, the model "
                         f"{model.config.vocab_size}")
    begin = begin_ids(tokenizer)
    bos = next((name for name, i in tokenizer.special.items() if begin == [i]), None)
    if begin and not bos:
        raise ValueError(f"a text begins with the ids {begin}, but only a special token can be "
                         "written as its beginning")
    first = tokenizer.special.get(bos)
    ends = sorted(end_ids(tokenizer)) or None
    with all_or_nothing(folder) as aside:
        write_model(model, aside, first, ends)
        formats.write_huggingface(tokenizer, aside / "tokenizer.json", bos)
        write_json(aside / "tokenizer_config.json", {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": bos,
            "pad_token": bos, "padding_side": "left", "clean_up_tokenization_spaces": False,
            "model_max_length": model.config.seq_len})
        write_json(aside / "generation_config.json", {  # padding is masked, so any id will do
            "bos_token_id": first, "eos_token_id": ends, "pad_token_id": first})


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="with config.json and model.safetensors")
    model, kind, tensors = open_folder(parser.parse_args(argv).folder)
    parameters, there = dict(model.named_parameters()), in_their_terms(model, kind)
    print(f"{kind}: {', '.join(f'{k} {v}' for k, v in flat(model.config).items())}\n"
          f"{sum(p.numel() for p in parameters.values()):,} parameters; {len(parameters)} tensors "
          f"here, {len(tensors)} there\n")
    rows = [("here", "", "there", "", "")]
    for name, theirs, how in dictionary(model, kind):
        if not re.match(r"blocks\.[1-9]", name):  # all blocks are alike
            cells = [(other, tuple(there[other].shape)) for other in theirs]
            rows.append((name, tuple(parameters[name].shape), *cells[0], how))
            rows += [("", "", *cell, "") for cell in cells[1:]]
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows)]
    for row in rows:
        print("  ".join(f"{cell!s:{width}}" for cell, width in zip(row, widths)).rstrip())


if __name__ == "__main__":
    run(main)
