"""Shards on disk, read as if they were one long array of ids in memory.

The files are mapped, not loaded: the system reads a page of them when somebody looks at it, and
forgets it when memory is short. So a corpus may be larger than memory.
Left out: what to read, in which order (batches.py).

Used by everything that reads shards. Next: yardsticks.py.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from bpe import Tokenizer
from console import track


class Stream:
    """One split as a single long array of ids, whatever the number of shards it lies in.

    arrays: the shards' ids; masks: which are to be learned, arrays of the same lengths (default:
    all); starts: where its documents start.
    """

    def __init__(self, arrays, masks=None, starts=None):
        self.arrays, self.starts = arrays, starts
        self.ends = np.cumsum([len(array) for array in arrays])
        self.mask = Stream(masks) if masks else None

    def __len__(self):
        return int(self.ends[-1])

    def read(self, start, n):  # exercise
        """Ids start .. start + n - 1 of the stream, (n,) int64, also across shards.

        self.arrays: the shards' ids; self.ends: where in the stream each of them ends.
        ValueError, naming the stream's length, if start is negative or the stream ends before.
        """
        if start < 0 or start + n > len(self):
            raise ValueError(f"{n} ids from {start} on are not in a stream of {len(self)}")
        parts, i = [], int(np.searchsorted(self.ends, start, side="right"))
        offset = start - (self.ends[i - 1] if i else 0)
        while n > 0:
            parts.append(self.arrays[i][offset:offset + n].astype(np.int64))
            n, i, offset = n - len(parts[-1]), i + 1, 0
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def __getitem__(self, part):
        """stream[start:stop], as of an array; what is beyond its end is left out."""
        start, stop, _ = part.indices(len(self))
        return self.read(start, max(0, stop - start))

    def labels(self, start, n):
        """The same ids, but -1 where they are not to be learned."""
        ids = self.read(start, n)
        return ids if self.mask is None else np.where(self.mask.read(start, n) > 0, ids, -1)


class Shards:
    """A folder of shards, opened: index, tokenizer, and the streams train and val.

    ValueError if it is no such folder, or if what it holds doesn't fit together.
    """

    def __init__(self, folder, vocab_size=None):
        self.folder = Path(folder)
        try:
            self.index = json.loads((self.folder / "index.json").read_text())
            self.tokenizer = Tokenizer.load(self.folder / "tokenizer.json")
            self.train, self.val = self._open("train"), self._open("val")
            made_with, size = self.index["tokenizer"], self.index["vocab_size"]
        except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{folder} is not a folder of shards: {error!r}") from None
        if self.tokenizer.hash != made_with:
            raise ValueError(f"{folder} was made with tokenizer {made_with}, but holds tokenizer "
                             f"{self.tokenizer.hash}")
        if vocab_size not in (None, size):
            raise ValueError(f"vocab_size is {vocab_size}, but the shards in {folder} were made "
                             f"with a vocabulary of {size}")

    def __reduce__(self):  # to another process goes the folder, not what it holds
        return Shards, (self.folder,)

    @property
    def hash(self):
        """16 hex digits that change with any id in any shard."""
        digests = [entry.get(key, "") for split in ("train", "val")
                   for entry in self.index[split]["shards"] for key in ("sha256", "mask_sha256")]
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]

    def _open(self, split):
        arrays, masks = [], []
        for entry in self.index[split]["shards"]:
            shape = (entry["tokens"],)
            arrays.append(self._map(entry["file"], self.index["dtype"], shape))
            masks.append(self._map(entry["mask"], "uint8", shape) if "mask" in entry
                         else np.broadcast_to(np.uint8(1), shape))  # takes no memory
        masked = any("mask" in entry for entry in self.index[split]["shards"])
        starts = self._map(self.index[split]["starts"]["file"], "int64",
                           (self.index[split]["documents"],))
        return Stream(arrays, masks if masked else None, starts)

    def _map(self, name, dtype, shape):
        """An .npy file as an array that is read from disk where it is looked at."""
        values = np.load(self.folder / name, mmap_mode="r")
        if (values.dtype.name, values.shape) != (dtype, shape):
            raise ValueError(f"{self.folder / name} holds {values.dtype.name} {values.shape}, but "
                             f"index.json says {dtype} {shape}")
        return values

    def verify(self):
        """Read everything once. ValueError if a file is not the one that was written, or an id is
        beyond the vocabulary.
        """
        for split in ("train", "val"):
            entries, stream = self.index[split]["shards"], getattr(self, split)
            files = [(entry["file"], entry["sha256"]) for entry in entries]
            files += [(e["mask"], e["mask_sha256"]) for e in entries if "mask" in e]
            files.append((self.index[split]["starts"]["file"],
                          self.index[split]["starts"]["sha256"]))
            for name, sha256 in track(files, f"checking {split}", len(files), unit=" files"):
                with open(self.folder / name, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                        raise ValueError(f"{self.folder / name} has changed since it was written "
                                         f"(sha256); delete {self.folder} to make it anew")
            for entry, ids in zip(entries, stream.arrays):
                if (largest := int(ids.max(initial=0))) >= self.index["vocab_size"]:
                    raise ValueError(f"{self.folder / entry['file']} holds id {largest}, but the "
                                     f"vocabulary has {self.index['vocab_size']}")
        return self


class Mixture:
    """Several Shards as one, with one tokenizer: what a trainer reads.

    parts: [(weight, Shards), ...]; weights: their shares, which sum to 1. train and val: the
    streams one after the other; index: vocab_size, and val's bytes and compressed sizes summed.
    """

    def __init__(self, parts):
        self.shards = [shards for _, shards in parts]
        self.weights = [weight / sum(weight for weight, _ in parts) for weight, _ in parts]
        self.tokenizer = self.shards[0].tokenizer
        for shards in self.shards:
            if shards.tokenizer.hash != self.tokenizer.hash:
                raise ValueError(f"{self.shards[0].folder} has tokenizer {self.tokenizer.hash}, "
                                 f"but {shards.folder} has {shards.tokenizer.hash}")
        self.weighted = list(zip(self.weights, self.shards))
        self.train, self.val = (self._join([getattr(s, split) for s in self.shards])
                                for split in ("train", "val"))
        self.index = {"vocab_size": self.tokenizer.vocab_size,
                      "val": {key: sum(s.index["val"][key] for s in self.shards)
                              for key in ("bytes", "zlib", "lzma")}}

    def __reduce__(self):
        return Mixture, (self.weighted,)

    def _join(self, streams):
        masks = [mask for s in streams for mask in (
            s.mask.arrays if s.mask else [np.broadcast_to(np.uint8(1), len(a)) for a in s.arrays])]
        return Stream([array for s in streams for array in s.arrays],
                      masks if any(s.mask for s in streams) else None)

    @property
    def hash(self):
        """16 hex digits that change with any id of any source, and with the weights."""
        parts = [(s.hash, weight) for s, weight in zip(self.shards, self.weights)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
