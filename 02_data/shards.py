"""Documents -> token shards on disk -> batches.

Text is encoded once and kept as plain arrays, because a trainer reads it many times, from random
places, and faster than a tokenizer could encode it. A folder of shards holds tokenizer.json,
train-00000.npy and so on, the same for val, where each document starts, and index.json: counts,
checksums, and what two compressors make of the validation text, a yardstick for a model.
Every document starts with <|bos|>.
Left out: mixing sources, packing documents into windows, several workers.

    python 02_data/shards.py python --vocab-size 2048
    python 02_data/shards.py folder:PATH --tokenizer tokenizer.json

Reads a source; writes data/NAME/. Next: 03_model/gpt.py.
"""

import hashlib
import json
import lzma
import math
import os
import re
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from bpe import Tokenizer
from console import Parser, run, track, write_safely
from corpus import find_source


# ---- bytes and bits ----

def token_bytes(tokenizer):  # exercise
    """How many bytes of text each id stands for, (V,) int64; 0 for special tokens.

    Uses tokenizer.vocab (the bytes of each id) and tokenizer.special ({name: id}).
    """
    sizes = np.array([len(token) for token in tokenizer.vocab], dtype=np.int64)
    sizes[list(tokenizer.special.values())] = 0
    return sizes


def bits_per_byte(nats, targets, sizes):  # exercise
    """How many bits a byte of text costs: a loss that any tokenizer may be compared by.

    nats, targets: arrays of one shape, the loss of each target and its id, negative where masked.
    sizes: what token_bytes() returns. Sum the nats, in float64, over targets that stand for at
    least one byte, and divide by ln 2 times the bytes of those targets.
    bits_per_byte([ln 2, 9.0, 9.0], [0, 1, -1], [2, 0]) is 0.5: only id 0 counts.
    """
    nats, targets = np.asarray(nats, dtype=np.float64), np.asarray(targets)
    size = np.where(targets >= 0, np.asarray(sizes)[np.maximum(targets, 0)], 0)
    return float(nats[size > 0].sum() / (math.log(2) * size.sum()))


# ---- writing ----

class Writer:
    """Collects one split's documents and writes them as shards of at most `shard_tokens` ids."""

    def __init__(self, folder, split, dtype, shard_tokens):
        self.folder, self.split, self.dtype, self.shard_tokens = folder, split, dtype, shard_tokens
        self.pending, self.starts, self.shards = [], [], []
        self.tokens = self.written = self.bytes = 0

    def add(self, ids, n_bytes):
        self.starts.append(self.tokens)
        self.tokens += len(ids)
        self.bytes += n_bytes
        self.pending.append(np.array(ids, dtype=self.dtype))
        if self.tokens - self.written >= self.shard_tokens:
            self.flush()

    def flush(self, everything=False):
        """Write what is full; with `everything`, the rest too."""
        ids = np.concatenate(self.pending) if self.pending else np.empty(0, self.dtype)
        while len(ids) >= self.shard_tokens or everything and len(ids):
            name = f"{self.split}-{len(self.shards):05}.npy"
            shard, ids = ids[:self.shard_tokens], ids[self.shard_tokens:]
            with open(self.folder / name, "w+b") as file:
                np.save(file, shard)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self.shards.append({"file": name, "tokens": len(shard), "sha256": digest})
            self.written += len(shard)
        self.pending = [ids]

    def close(self):
        """Write the rest and where each document starts; returns the entry for index.json."""
        self.flush(everything=True)
        np.save(self.folder / f"{self.split}-documents.npy", np.array(self.starts, dtype=np.int64))
        return {"documents": len(self.starts), "tokens": self.tokens, "bytes": self.bytes,
                "shards": self.shards}


def write_shards(source, tokenizer, folder, shard_tokens=1 << 26):
    """Encode every document of `source` into a new `folder`, which appears only once it is whole.

    ValueError if one side of the split is left without a document.
    """
    if "<|bos|>" not in tokenizer.special:
        raise ValueError("the tokenizer has no <|bos|>, which opens every document")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    aside.mkdir(parents=True)
    try:
        dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
        writers = {split: Writer(aside, split, dtype, shard_tokens) for split in ("train", "val")}
        bos = tokenizer.special["<|bos|>"]
        compressors = Compressors()
        for split, text in track(source.parts(), "encoding", size=lambda part: len(part[1]) / 1e6,
                                 unit=" MB"):
            data = text.encode()
            writers[split].add(np.append(bos, tokenizer.encode_array(text)), len(data))
            if split == "val":
                compressors.add(data)
        index = {"source": source.name, "split": source.split,
                 "tokenizer": tokenizer.hash, "vocab_size": tokenizer.vocab_size,
                 "dtype": np.dtype(dtype).name}
        index |= {split: writer.close() for split, writer in writers.items()}
        for split in writers:
            if not index[split]["documents"]:
                raise ValueError(f"{source.name} leaves nothing for {split}; it needs more text")
        index["val"] |= compressors.sizes()
        tokenizer.save(aside / "tokenizer.json")
        write_safely(aside / "index.json", json.dumps(index, indent=1))
        if not (folder / "index.json").exists():  # another process may have been faster
            os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def prepare(name, vocab_size=None, data_dir="data", tokenizer=None, say=print):
    """The Shards of a source, made if they aren't there yet, with a tokenizer of their own.

    name: a source's, or shards:FOLDER for a folder that this made earlier. The tokenizer is
    trained on the training documents to `vocab_size` ids (fewer, if the text gives no more),
    unless one is given. The folder's name holds a hash of all that it depends on, so changed
    documents never meet yesterday's shards.
    """
    if name.startswith("shards:"):
        if tokenizer:
            raise ValueError(f"{name} has a tokenizer of its own; leave the other one out")
        return Shards(name.removeprefix("shards:"), vocab_size)
    source = find_source(name, data_dir)
    key = [source.name, source.fingerprint, tokenizer.hash if tokenizer else vocab_size]
    key = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:8]
    slug = re.sub(r"[^A-Za-z0-9]+", "-", source.name).strip("-")[-40:]
    folder = Path(data_dir) / f"{slug}-{key}"
    earlier = (folder / "index.json").exists()
    if not earlier:
        if tokenizer is None:
            texts = (text for part, text in source.parts() if part == "train")
            tokenizer = Tokenizer.train(texts, vocab_size)
        write_shards(source, tokenizer, folder)
    shards = Shards(folder)
    train, val = shards.index["train"], shards.index["val"]
    say(f"data       {folder}{' (made earlier)' if earlier else ''}: {train['documents']:,} "
        f"documents, {train['tokens']:,} tokens of {shards.index['vocab_size']:,} kinds, "
        f"{train['bytes'] / (train['tokens'] - train['documents']):.2f} bytes each; validation "
        f"{val['documents']:,} documents, {val['bytes']:,} bytes")
    return shards


# ---- reading ----

class Stream:
    """One split as a single long array of ids, whatever the number of shards it lies in."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.ends = np.cumsum([len(array) for array in arrays])

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
        except (OSError, EOFError, ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{folder} is not a folder of shards: {error!r}") from None
        if self.tokenizer.hash != self.index["tokenizer"]:
            raise ValueError(f"{folder} was made with tokenizer {self.index['tokenizer']}, but "
                             f"holds tokenizer {self.tokenizer.hash}")
        if vocab_size not in (None, self.index["vocab_size"]):
            raise ValueError(f"vocab_size is {vocab_size}, but the shards in {folder} were made "
                             f"with a vocabulary of {self.index['vocab_size']}")

    @property
    def hash(self):
        """16 hex digits that change with any id in any shard."""
        digests = [shard["sha256"] for split in ("train", "val")
                   for shard in self.index[split]["shards"]]
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]

    def _open(self, split):
        arrays = []
        for entry in self.index[split]["shards"]:
            array = np.load(self.folder / entry["file"], mmap_mode="r")
            expected = (self.index["dtype"], (entry["tokens"],))
            if (array.dtype.name, array.shape) != expected:
                raise ValueError(f"{self.folder / entry['file']} holds {array.dtype.name} "
                                 f"{array.shape}, but index.json says {expected[0]} {expected[1]}")
            arrays.append(array)
        return Stream(arrays)


class RandomWindows:
    """Endless batches of windows from random places.

    Batch n depends on the seed and on n alone: two numbers are the whole state, and a resumed run
    sees what it would have seen.
    """

    def __init__(self, stream, batch_size, seq_len, seed=0):
        if len(stream) <= seq_len:
            raise ValueError(f"{len(stream)} tokens are too few for a window of {seq_len} and the "
                             "token after it; give more text, or a smaller seq_len")
        self.stream, self.batch_size, self.seq_len = stream, batch_size, seq_len
        self.seed, self.n = seed, 0

    def batch(self, n):  # exercise
        """Batch number n: (inputs, targets), each (B, T) int64, the targets one id further on.

        The B starts are drawn by np.random.default_rng((seed, n)).integers from 0 to the last
        start at which a window and the id after it still fit, inclusive.
        """
        rng = np.random.default_rng((self.seed, n))
        starts = rng.integers(0, len(self.stream) - self.seq_len, self.batch_size)
        rows = np.stack([self.stream.read(int(i), self.seq_len + 1) for i in starts])
        return rows[:, :-1], rows[:, 1:]

    def __next__(self):
        self.n += 1
        return self.batch(self.n - 1)

    def state_dict(self):
        return {"seed": self.seed, "n": self.n}

    def load_state_dict(self, state):
        self.seed, self.n = state["seed"], state["n"]


def windows(n_tokens, seq_len, stride):  # exercise
    """Windows that score every token of a text but the first exactly once: [(start, skip), ...].

    A window reads ids start .. start + seq_len - 1 and predicts the id after each. Windows start
    every `stride` ids until the last id has been predicted. `skip` is how many of a window's first
    predictions an earlier window has made already; they are not counted again. With stride =
    seq_len that is 0; with less, all targets after the first window have a past of more than
    seq_len - stride ids. ValueError, naming the stride, unless 0 < stride <= seq_len.
    windows(10, 4, 4) == [(0, 0), (4, 0), (8, 0)]; windows(10, 4, 2)[:2] == [(0, 0), (2, 2)]
    """
    if not 0 < stride <= seq_len:
        raise ValueError(f"stride is {stride}, but must be between 1 and seq_len ({seq_len})")
    last = max(0, n_tokens - 1 - seq_len)  # a window from here on predicts the last id
    count = 1 + -(-last // stride)
    return [(i * stride, 0 if i == 0 else seq_len - stride) for i in range(count)]


# ---- yardsticks for a model ----

class Compressors:
    """How small zlib -9 and lzma -9 make a text that is given to them piece by piece."""

    def __init__(self, data=b""):
        self.compressors = {"zlib": zlib.compressobj(9), "lzma": lzma.LZMACompressor(preset=9)}
        self.written = dict.fromkeys(self.compressors, 0)
        self.add(data)

    def add(self, data):
        for name, compressor in self.compressors.items():
            self.written[name] += len(compressor.compress(data))

    def sizes(self):
        """{"zlib": bytes, "lzma": bytes}. Ends the text."""
        return {name: self.written[name] + len(compressor.flush())
                for name, compressor in self.compressors.items()}


def unigram_bits(counts, targets):  # exercise
    """Bits that each target costs a reader who knows how often ids occur, and nothing else.

    counts: (V,) how often each id was seen in training; targets: (N,) ids. Each is coded with
    -log2 of its share, one added to every count so that nothing is impossible (Laplace).
    Returns (N,) float64. unigram_bits([3, 1], [0, 1]) == [log2(6/4), log2(6/2)]
    """
    counts = np.asarray(counts) + 1.0
    return np.log2(counts.sum() / counts)[targets]


def baselines(shards, ids=None, compressed=None):
    """Bits per byte of a text for those who know less: {name: bits}.

    ids: the text's (default: the validation set's); compressed: Compressors.sizes() of it.
    uniform: all ids equally likely. unigram: the frequencies of the training ids. zlib -9 and
    lzma -9: the text itself, compressed in one piece.
    """
    if ids is None:
        ids, compressed = shards.val.read(0, len(shards.val)), shards.index["val"]
    sizes, vocab_size = token_bytes(shards.tokenizer), shards.index["vocab_size"]
    counts = sum(np.bincount(array, minlength=vocab_size) for array in shards.train.arrays)
    ids = ids[sizes[ids] > 0]
    n_bytes = sizes[ids].sum()
    return {"uniform": math.log2(vocab_size) * len(ids) / n_bytes,
            "unigram": unigram_bits(counts, ids).sum() / n_bytes,
            "zlib -9": 8 * compressed["zlib"] / n_bytes,
            "lzma -9": 8 * compressed["lzma"] / n_bytes}


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="python",
                        help="as 02_data/corpus.py lists them (default: python)")
    parser.add_argument("--vocab-size", type=int, default=2048,
                        help="train a tokenizer of this size (default: 2048)")
    parser.add_argument("--tokenizer", metavar="FILE", help="use this one instead")
    parser.add_argument("--data-dir", default="data", help="where data is kept (default: data)")
    args = parser.parse_args(argv)
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else None
    shards = prepare(args.source, args.vocab_size, args.data_dir, tokenizer)
    inputs, _ = next(RandomWindows(shards.train, 1, min(40, len(shards.train) - 1)))
    print(f"a window   {shards.tokenizer.decode(inputs[0])!r}")
    for name, bits in baselines(shards).items():
        print(f"{name:10} {bits:6.3f} bits per byte of validation text")


if __name__ == "__main__":
    run(main)
