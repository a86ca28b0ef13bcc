"""Reads the files of a Hugging Face folder, which come from elsewhere, and checks them.

JSON without repeated keys or numbers that aren't finite; tensors in one file, or in several with an
index that must agree with them. Anything wrong becomes a ValueError of one line, which names the
file. The library safetensors checks the tensors' lengths, offsets, shapes and types.
Left out: what the settings and names mean (huggingface.py), pickles (a .bin file can run anything).

Used by weights.py. Next: weights.py.
"""

import contextlib
import json
import math
import os
import re
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import escaped, read_text

from family import family_of
from mistakes import refuse_pointer
from records import library

PURPOSE = "a Hugging Face folder"  # which needs safetensors, says records.library()
MOST_JSON = 100_000_000  # bytes of a JSON file; safetensors has the same limit for headers
# Tensors of older files that are the same in every model.
CONSTANTS = re.compile(r".*(\.attn\.(masked_)?bias|rotary_emb\.inv_freq)")


@contextlib.contextmanager
def naming(path):
    """A context that turns errors into a ValueError of one line that begins with `path`."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError,
            OSError) as error:
        plain = type(error) is ValueError or isinstance(error, (OSError, UnicodeError))
        what = " ".join(escaped(str(error) if plain else repr(error)).split())
        what = what if len(what) < 600 else f"{what[:600]} ..."
        where = " ".join(escaped(str(path)).split())
        raise ValueError(what if what.startswith(where) else f"{where}: {what}") from None


def said_once(pairs):
    """The dict of a JSON object. ValueError if a key is repeated: programs differ in which of the
    values they take.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{max(keys, key=keys.count)!r} stands there twice")
    return found


def finite(text):
    """The float of a JSON number. ValueError for NaN, Infinity and numbers too large for it."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"it holds {text}, which is no number")
    return number


def parse(text):
    """The dict in a JSON text. ValueError if it is none, or if programs might read it differently.
    """
    try:
        content = json.loads(text, object_pairs_hook=said_once, parse_constant=finite,
                             parse_float=finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it holds no JSON object")
    return content


def read_json(path):
    """The dict in a JSON file. ValueError, naming the file, if there is none."""
    with naming(path):
        if not path.is_file():
            raise ValueError(f"{path.parent} holds no {path.name}")
        if path.stat().st_size > MOST_JSON:
            raise ValueError(f"{path} is damaged (it has {path.stat().st_size:,} bytes)")
        text = read_text(path)
        try:
            return parse(text)
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error})") from None


def weight_files(folder):
    """{file: the names of the tensors that the index says it holds}, or {model.safetensors: None}
    where one file holds all.
    """
    if (folder / "model.safetensors").exists():
        return {"model.safetensors": None}
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        there = folder.iterdir() if folder.is_dir() else ()
        pickles = [path.name for path in there if path.suffix in (".bin", ".pt", ".pth")]
        but = f", only a pickle, {min(pickles)}, which could run anything" if pickles else ""
        raise ValueError(f"{folder} holds no model.safetensors{but}")
    names, files = read_json(index).get("weight_map"), {}
    if not isinstance(names, dict) or any(
            not isinstance(file, str) or Path(file).name != file for file in names.values()):
        raise ValueError(f"{index} is damaged (its weight_map names no files)")
    for name, file in names.items():
        files.setdefault(file, set()).add(name)
    return files


def read_file(path):
    """{name: tensor} of a file. A tensor is read from the disk when it is used."""
    if not path.is_file():
        raise ValueError(f"{path.parent} holds no {path.name}, which its index names")
    refuse_pointer(path)
    try:
        tensors = library("safetensors.torch", PURPOSE).load_file(path)
    except library("safetensors", PURPOSE).SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    with open(path, "rb") as file:  # of tensors with one name, safetensors takes the last
        parse(file.read(int.from_bytes(file.read(8), "little")).decode())
    return tensors


def read_tensors(folder):
    """{name: tensor} of all of a folder's files. ValueError, in one line, if a file is damaged, or
    if a tensor is not in exactly the file that the index names.
    """
    tensors = {}
    with naming(folder):
        for file, names in weight_files(folder).items():
            with naming(folder / file):
                found = read_file(folder / file)
                if twice := found.keys() & tensors.keys():
                    raise ValueError(f"{min(twice)} stands in another file, too")
                if names and (lost := names - found.keys()):
                    raise ValueError(f"{min(lost)} is not there, where the index has it")
                if names and (more := [name for name in found.keys() - names
                                       if not CONSTANTS.fullmatch(name)]):
                    raise ValueError(f"{min(more)} is there, where the index doesn't have it")
            tensors |= found
    return tensors


def check_size(config, tensors):
    """ValueError if tensors have too few numbers for a model of that GPTConfig; called before it is
    built, which would take forever with absurd sizes.
    """
    C, n_layer, there = config.d_model, config.n_layer, sum(t.numel() for t in tensors.values())
    least = config.vocab_size * C + n_layer * (2 * C * C + 2 * C * config.d_ff)
    if family_of(config).positions == "learned":
        least += config.seq_len * C
    if least > there or 4 * n_layer > len(tensors):
        raise ValueError(
            f"config.json says {n_layer:,} layers of {C:,} channels, d_ff {config.d_ff:,} and "
            f"{config.vocab_size:,} ids, which are more than {least:,} parameters; the weights "
            f"are {len(tensors):,} tensors with {there:,}")
