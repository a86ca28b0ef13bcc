"""Results that took long, kept in a JSON file after each of them, so that none is computed twice.

    {"what": "runs/tiny, step 350", "of": KEY, KIND: {NAME: {"correct": [true, ...], ...}, ...}}

Nothing else is overwritten: a file of another kind, or of another model, is refused. Next: core.py.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import read_text, write_safely

import torch

from data import hash_of
from runs import tensors


def identity(model, tokenizer, *others):
    """16 hex digits that change with a model's weights and shape, its tokenizer, and any of the
    other values.
    """
    weights = hashlib.sha256()
    for name, tensor in tensors(model):
        weights.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        weights.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return hash_of(weights.hexdigest(), repr(model.config), tokenizer.hash, *others)[:16]


class Kept:
    """The rows of a kind in a file, which may hold several kinds; without a path, in memory alone.

    of: the identity() of what they are results of, or "" where names of rows hold it; what: the
    same in words. ValueError if the file holds anything else, or rows without `fields`.
    """

    def __init__(self, path, kind, of="", what="", fields=()):
        self.path, self.kind, self.rows = path and Path(path), kind, {}
        self.content = {"what": what, "of": of, kind: self.rows}
        if not self.path or not self.path.exists():
            return
        try:
            found = json.loads(read_text(self.path))
            self.rows.update(found.get(kind, {}).items())
            self.content = {**found, **self.content, "what": found["what"]}
            whole = all(row.keys() >= {"correct", *fields} and row["correct"] and
                        {*map(type, row["correct"])} == {bool} for row in self.rows.values())
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            whole = False
        if not whole:
            raise ValueError(f"{path} holds no {kind} that this command has written: give another "
                             "file")
        if of and found.get("of") != of:
            raise ValueError(f"{path} holds results of {found.get('what')!r}, of other weights or "
                             "with other options: give another file")

    def put(self, name, row):
        """Keep a row, in the file if there is one."""
        self.rows[name] = row
        if self.path:
            write_safely(self.path, json.dumps(self.content, indent=1))
