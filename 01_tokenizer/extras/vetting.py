"""What a tokenizer's file is checked for before it is used.

Files come from elsewhere, and JSON has no types to rely on: a number may be 1.5, NaN or true, a
list a string, and a few merges can make a token that fills the memory. bpe.py calls vet() for a
tokenizer.json of this course, and formats.py the rest for other people's.

Reads and writes nothing. Next: mapped.py.
"""

import functools
import sys
from pathlib import Path

if "console" not in sys.modules:  # which is found first, and puts all folders on the path
    sys.path[1:1] = [str(folder / "01_tokenizer") for folder in Path(__file__).resolve().parents]

from console import housekeeping

MOST_BYTES = 1 << 26  # of all tokens together


def is_id(value):
    """Whether `value` is a whole number that can be an id; True and 1.0 are none."""
    return type(value) is int and value >= 0


def check_ids(names):
    """ValueError unless `names` is a dict from names to ids, {name: id}."""
    if type(names) is not dict:
        raise ValueError(f"what should be names with their ids is {names!r:.100}")
    for name, i in names.items():
        if not is_id(i):
            raise ValueError(f"the id of {name!r:.100} is {i!r:.100}, not a number from 0 on")


def check_pairs(pairs, kind):
    """ValueError unless `pairs` is a list of pairs whose parts are all of type `kind`."""
    if type(pairs) is not list:
        raise ValueError(f"the merges are {pairs!r:.100}, not a list")
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2 or {*map(type, pair)} != {kind}:
            raise ValueError(f"a merge is {pair!r:.100}, not a pair")


def vet(content, path):
    """Check the content of `path`, a tokenizer.json of this course. ValueError for what train()
    and save() would not have written. If other Unicode tables are installed now, a line says so.
    """
    kind, special = content["kind"], content["special_tokens"]
    if kind not in ("bpe", "mapped"):
        raise ValueError(f"its kind is {kind!r:.100}")
    if type(special) is dict:
        check_ids(special)
    elif type(special) is not list or not all(type(name) is str for name in special):
        raise ValueError(f"its special tokens are {special!r:.100}, not a list of names")
    check_pairs(content["merges"], int)
    sizes = [1] * 256
    for a, b in content["merges"]:
        if not 0 <= min(a, b) <= max(a, b) < len(sizes):
            raise ValueError(f"the merge of {a} and {b} is none that train() would return")
        sizes.append(sizes[a] + sizes[b])
    if sum(sizes) > MOST_BYTES:
        raise ValueError("its merges make tokens that are too long for any text")
    if (version := content.get("unicode")) is not None:
        compare_unicode(str(version), str(path))


@functools.cache  # so that it is said once, however often a file is read
def compare_unicode(version, path):
    if version != (installed := housekeeping.unicode_version()):
        print(f"note: {path!r} was written with Unicode {version!r:.40}, and here is {installed}: "
              "characters that are new in one of them may get other ids", file=sys.stderr)
