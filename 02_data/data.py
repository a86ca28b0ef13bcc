"""Documents -> ids on disk -> batches, and the measure of a loss: bits per byte.

A trainer reads its text faster than any tokenizer encodes it. So text is encoded once, to a folder:
tokenizer.json; train.npy, val.npy: all ids; where documents begin; index.json: counts, checksums.

    python 02_data/data.py                        # the source code of Python's own library
    python 02_data/data.py folder:PATH --vocab-size 1024
    python 02_data/data.py jsonl:FILE.jsonl --tokenizer tokenizer.json

Writes data/NAME-KEY/; prints baselines and some windows. extras/ has more. Next: conversations.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import (Parser, by_hand, file_hash, holding, housekeeping, read_text, run, track,
                     write_safely)
import hashlib
import io
import json
import lzma
import math
import re
import zlib
from argparse import BooleanOptionalAction
from array import array
from pathlib import Path

import numpy as np

from bpe import tokenizer_class

FORMAT = 4  # version of a folder of prepared data; folders of another one are made anew
FEW = 200  # with fewer documents than this, a split by hash could leave one side empty
LARGEST = 1 << 27  # the most bytes that a document may have
BEGIN_NAMES = ("<|bos|>", "<|begin_of_text|>")  # special tokens that open a text
DOCUMENT_NAMES = (*BEGIN_NAMES, "<|endoftext|>")  # the last, GPT-2's, stands between documents


def is_validation(text, share=0.05):  # exercise
    """Whether a document belongs to the validation set: decided by its content alone, so that equal
    documents are always in one split. The first 8 bytes of sha256(text as UTF-8) are a big-endian
    number between 0 and 2^64; the document is validation if it is below share * 2^64.
    """
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def json_texts(file):
    """The text in each line of a .jsonl file, {"text": ...}; None for a line of another form."""
    with open(file, "rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)  # encode() refuses half a surrogate pair
                text = None if row.get("messages") else row["text"].encode().decode()
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                text = None
            yield text


def split_rule(name, files):
    """"hash": whole documents are drawn by hash; "tail": the last tenth of each of a few files."""
    return "tail" if len(files) < FEW and not name.startswith("jsonl:") else "hash"


def documents(name, files):
    """Yield ("train" or "val", text). A document is a whole file, or a line of jsonl:FILE."""
    tail = split_rule(name, files) == "tail"
    for text in json_texts(files[0]) if name.startswith("jsonl:") else map(read_text, files):
        if text is None:
            raise ValueError(f"{files[0]} was changed while it was read; start again")
        cut = int(len(text) * 0.9) if tail else 0 if is_validation(text) else len(text)
        yield from (part for part in (("train", text[:cut]), ("val", text[cut:])) if part[1])


def find_files(name):
    """The files of python, folder:PATH or jsonl:FILE.jsonl; None if corpus.py has to read it."""
    kind, path = name.partition(":")[0], Path(name.partition(":")[2])
    if name == "python":  # the modules of Python's own library, without their tests
        top = Path(os.__file__).parent
        others = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
        return [p for p in sorted(top.rglob("*.py")) if not others & set(p.relative_to(top).parts)]
    if kind == "jsonl" and path.suffix == ".jsonl" and path.is_file():
        return [path] if path.stat().st_size < LARGEST and None not in json_texts(path) else None
    if kind == "folder" and name != "folder:":
        files = [p for p in sorted([path] if path.is_file() else path.rglob("*"))
                 if p.is_file() and p.stat().st_size  # neither empty nor hidden
                 and not any(part.startswith(".") for part in p.relative_to(path).parts)]
        plain = not housekeeping or housekeeping.are_texts(path, files, LARGEST)
        return files if files and plain else None  # else corpus.py decides what to leave out


def hash_of(*values):
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def fingerprint(files):
    """A hash that changes when the size or the time of a file does."""
    return hash_of(*((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files))


def slug(name):
    """A source's name, fit for a folder's name: jsonl:some/where/a.jsonl becomes a-jsonl."""
    return re.sub(r"[^A-Za-z0-9]+", "-", Path(name).name)[-40:].strip("-")


def document_start(tokenizer):
    """The ids that open a document; begin, ends: a MappedTokenizer's. ValueError if none."""
    named = [tokenizer.special[name] for name in DOCUMENT_NAMES if name in tokenizer.special]
    if ids := getattr(tokenizer, "begin", []) or (named + getattr(tokenizer, "ends", []))[:1]:
        return [*ids]
    raise ValueError(f"the tokenizer has none of {', '.join(DOCUMENT_NAMES)} to open a document")


def encode(text, tokenizer):  # exercise
    """A document as a list of ids: document_start(tokenizer), then tokenizer.encode(text), which
    never gives a special token, whatever the text looks like.
    """
    return document_start(tokenizer) + tokenizer.encode(text)


def write_folder(name, files, tokenizer, folder):
    """Encode the files of source `name` into `folder`; index.json, written last, completes it."""
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    index = {"format": FORMAT, "source": name, "split_by": split_rule(name, files),
             "tokenizer": tokenizer.hash, "vocab_size": tokenizer.vocab_size, "dtype": dtype.name}
    ids, starts = ({"train": array(code), "val": array(code)} for code in "Iq")
    n_bytes, val_text = {"train": 0, "val": 0}, bytearray()
    for split, text in track(documents(name, files), "encoding", unit=" MB",
                             size=lambda document: len(document[1]) / 1e6):
        starts[split].append(len(ids[split]))
        ids[split].extend(encode(text, tokenizer))
        n_bytes[split] += len(text.encode())
        val_text += text.encode() if split == "val" else b""
    if empty := [split for split in starts if not starts[split]]:
        raise ValueError(f"{name} leaves nothing for {empty[0]}; it needs more text")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder / "tokenizer.json")
    for split in starts:
        index[split] = {"documents": len(starts[split]), "tokens": len(ids[split]),
                        "bytes": n_bytes[split], "sha256": {}}
        for file, values in ((f"{split}.npy", np.array(ids[split], dtype)),
                             (f"{split}-starts.npy", np.array(starts[split], np.int64))):
            np.save(content := io.BytesIO(), values)
            write_safely(folder / file, content.getbuffer())
            index[split]["sha256"][file] = hashlib.sha256(content.getbuffer()).hexdigest()
    index["val"] |= {"zlib": len(zlib.compress(val_text, 9)),
                     "lzma": len(lzma.compress(val_text, preset=9))}
    write_safely(folder / "index.json", json.dumps(index | {"hash": hash_of(index)}, indent=1))


class Ids:
    """The ids of one split, (N,), memory-mapped, since they may be larger than the memory.
    starts: where each document begins; mask, (N,), or None: 0 where an id is not to be learned.
    """

    def __init__(self, ids, starts=None, mask=None):
        self.ids, self.starts, self.mask = ids, starts, mask

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, span):
        return self.ids[span].astype(np.int64)

    def read(self, start, n):
        """Ids start .. start + n - 1, (n,) int64. ValueError unless all of them are there."""
        if start < 0 or start + n > len(self):
            raise ValueError(f"{n} ids from {start} on are not among {len(self)}")
        return self[start:start + n]

    def labels(self, start, n):
        """The ids of read(start, n), but -1 where an id is not to be learned."""
        ids = self.read(start, n)
        return ids if self.mask is None else np.where(self.mask[start:start + n] > 0, ids, -1)

    def counts(self, vocab_size):
        """How often each id occurs, (V,); a part at a time, since bincount() makes a copy."""
        return sum(np.bincount(self.ids[i:i + (1 << 24)], minlength=vocab_size)
                   for i in range(0, len(self), 1 << 24))


class Dataset:
    """A folder of prepared data: index, tokenizer, the splits train and val, as Ids. hash: changes
    with any id. parts: [(1.0, self)], like a Mixture's. check: ValueError if a checksum differs.
    """

    def __init__(self, folder, by_hand=False, check=True):
        self.folder, self.parts = Path(folder), [(1.0, self)]
        try:
            if odd := [p for p in self.folder.iterdir() if not (p.is_file() or p.is_dir())]:
                raise ValueError(f"{odd[0].name} is no regular file, and reading it may never end")
            self.index = json.loads(read_text(self.folder / "index.json"))
            if (self.index.pop("hash", 0), FORMAT) != (hash_of(self.index), self.index["format"]):
                raise ValueError("another version wrote it, or it was changed; delete it")
            self.train, self.val = self._open("train", check), self._open("val", check)
            self.hash = hash_of(self.index["train"]["sha256"], self.index["val"]["sha256"])[:16]
        except Exception as error:  # numpy raises many kinds for a damaged file
            raise ValueError(f"{folder} is not a folder of prepared data: {error}") from None
        self.tokenizer = tokenizer_class(by_hand).load(self.folder / "tokenizer.json")
        if self.tokenizer.hash != self.index["tokenizer"]:
            raise ValueError(f"{folder} has tokenizer {self.tokenizer.hash}, not that of its ids")

    def _open(self, split, check):
        arrays = {}
        for name, sha256 in self.index[split]["sha256"].items():
            if check and file_hash(self.folder / name) != sha256:
                raise ValueError(f"{name} has changed since it was written; delete the folder")
            arrays[name] = np.lib.format.open_memmap(self.folder / name, "r")
        return Ids(*(arrays.get(f"{split}{what}.npy") for what in ("", "-starts", "-mask")))

    def __str__(self):
        return f"{self.folder}: " + "; ".join(
            f"{split} {n['documents']:,} documents, {n['tokens']:,} tokens, {n['bytes']:,} bytes"
            for split in ("train", "val") for n in [self.index[split]])


class Batches:
    """Endless batches (inputs, targets), numpy (b, T) int64, of windows from random places. Target
    t is the id after input t, or -1 where there is nothing to learn. A batch is the same for any
    number of processes, `world`: number `rank`, 0 ... world - 1, reads rows rank, rank + world ...
    """

    def __init__(self, data, batch_size, seq_len, seed=0, rank=0, world=1):
        if batch_size < world:
            raise ValueError(f"batch_size is {batch_size}, too few windows for {world} processes")
        if not 0 < seq_len < len(data.train):
            raise ValueError(f"seq_len is {seq_len}, but {len(data.train)} tokens are to train on")
        self.ids, self.batch_size, self.seq_len, self.seed = data.train, batch_size, seq_len, seed
        self.rank, self.world, self.n = rank, world, 0  # n: windows so far, of all ranks

    def start(self, n):  # exercise
        """Where window n begins: an int that np.random.default_rng((self.seed, n)).integers() draws
        from all places at which T + 1 ids fit into len(self.ids), 0 and the last place included; T
        = self.seq_len. It depends on the seed and n alone, so a checkpoint stores only n.
        """
        return int(np.random.default_rng((self.seed, n)).integers(0, len(self.ids) - self.seq_len))

    def __next__(self):  # exercise
        """This rank's rows of the next batch, whose windows are self.n ... self.n + batch_size - 1.
        Then self.n grows by batch_size. Of the T + 1 ids from self.start(n) on, inputs are all but
        the last, by self.ids.read(); targets are all but the first, by self.ids.labels().
        """
        T, rows = self.seq_len, range(self.n + self.rank, self.n + self.batch_size, self.world)
        self.n += self.batch_size
        starts = [self.start(n) for n in rows]
        return (np.stack([self.ids.read(start, T) for start in starts]),
                np.stack([self.ids.labels(start + 1, T) for start in starts]))

    def __iter__(self):
        return self

    def epochs(self):  # for each source, how often its ids have been seen
        return [self.n * self.seq_len / len(self.ids)]

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = int(state["n"])


def make_batches(data, batch_size, seq_len, seed=0, sampling="random", rank=0, world=1):
    """The Batches above; for a mixture or another sampling, the Batches of extras/batches.py."""
    if sampling == "random" and len(data.parts) == 1:
        return Batches(data, batch_size, seq_len, seed, rank, world)
    from batches import Batches as AnyBatches
    return AnyBatches(data, batch_size, seq_len, seed, sampling, rank, world)


def token_bytes(tokenizer):  # exercise
    """How many bytes of text each id stands for, (V,) int64: the length of its entry in
    tokenizer.vocab, but 0 for special tokens; their ids are in tokenizer.special, {name: id}.
    """
    sizes = np.array([len(token) for token in tokenizer.vocab])
    sizes[list(tokenizer.special.values())] = 0
    return sizes


def bits_per_byte(nats, targets, sizes):  # exercise
    """How many bits a byte of text costs: a loss that can be compared between tokenizers.

    nats, targets: arrays of one shape, the loss of each target (-ln of its probability) and its id,
    negative where masked. sizes: from token_bytes(). Sum the nats, in float64, over targets that
    stand for at least one byte, and divide by ln 2 times the bytes of those targets.
    bits_per_byte([ln 2, 9.0, 9.0], [0, 1, -1], [2, 0]) is 0.5: only id 0 counts.
    """
    nats, targets = np.asarray(nats, dtype=np.float64), np.asarray(targets)
    size = np.where(targets >= 0, np.asarray(sizes)[np.maximum(targets, 0)], 0)
    return float(nats[size > 0].sum() / (math.log(2) * size.sum()))


def unigram_nats(counts, targets):  # exercise
    """The loss of a model that knows only how often each id occurs, (N,) float64. counts: (V,);
    targets: (N,) ids. Each costs -ln of its share of all counts, one added to every count so that
    nothing is impossible (Laplace). unigram_nats([3, 1], [0, 1]) == [ln(6/4), ln(6/2)]
    """
    counts = np.asarray(counts) + 1.0
    return np.log(counts.sum() / counts)[targets]


def baselines(data, ids=None, compressed=None):
    """What a model has to beat, {name: bits per byte}, by default on the validation set. ids: of
    another text; compressed: its {"zlib": bytes, "lzma": bytes}.
    """
    if ids is None:
        ids, compressed = data.val.labels(0, len(data.val)), data.index["val"]
    sizes, ids, V = token_bytes(data.tokenizer), ids[ids >= 0], data.tokenizer.vocab_size
    return {"uniform": bits_per_byte(np.full(len(ids), math.log(V)), ids, sizes),
            "unigram": bits_per_byte(unigram_nats(data.train.counts(V), ids), ids, sizes),
            "zlib -9": float(8 * compressed["zlib"] / sizes[ids].sum()),
            "lzma -9": float(8 * compressed["lzma"] / sizes[ids].sum())}


def prepare(names, vocab_size=None, data_dir="data", tokenizer=None, by_hand=False, workers=None,
            say=print):
    """A Dataset of the sources `names`, made if it isn't there yet. All commands get their data
    here. Without a tokenizer, one of `vocab_size` ids (2048) is trained. For mixtures: mixtures.py.
    """
    files = find_files(names[0]) if len(names) == 1 and workers in (None, 1) else None
    if files is None:
        from mixtures import prepare_any
        return prepare_any(names, vocab_size, data_dir, tokenizer, by_hand, workers, say)
    name, vocab_size = names[0], 2048 if vocab_size is None else vocab_size
    key = hash_of(FORMAT, name, fingerprint(files), tokenizer.hash if tokenizer else vocab_size,
                  housekeeping and housekeeping.readers_code("bpe", "data"))
    folder = Path(data_dir) / f"{slug(name)}-{key[:8]}"
    if not (earlier := (folder / "index.json").exists()):
        with holding(folder, "is being prepared", wait=True):
            if not (folder / "index.json").exists():  # else another process has just made it
                texts = (text for split, text in documents(name, files) if split == "train")
                tokenizer = tokenizer or tokenizer_class(by_hand).train(texts, vocab_size)
                write_folder(name, files, tokenizer, folder)
    data = Dataset(folder, by_hand)
    say(f"data       {data}" + (", made earlier" if earlier else ""))
    return data


def reopen(parts, by_hand=False, check=False):
    """Open the Dataset or Mixture that prepare() made, from its parts [(share, folder), ...]."""
    parts = [(share, Dataset(folder, by_hand, check)) for share, folder in parts]
    if len(parts) == 1:
        return parts[0][1]
    from mixtures import Mixture
    return Mixture(parts)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("source", nargs="?", default="python", help="see corpus.py for a list (default: python)")
    add("--vocab-size", type=int, help="train a tokenizer of this size (default: 2048)")
    add("--tokenizer", metavar="FILE", help="use this tokenizer instead")
    add("--data-dir", default="data", help="where data is kept (default: data)")
    add("--workers", type=int, help="processes (default: 1 for the sources above, else all cores)")
    add("--by-hand", action=BooleanOptionalAction, default=by_hand(), help="bpe.py's tokenizer")
    args = parser.parse_args(argv)
    if args.tokenizer and args.vocab_size is not None:
        raise ValueError("--tokenizer has a vocabulary of its own: leave out --vocab-size")
    own = args.tokenizer and tokenizer_class(args.by_hand).load(args.tokenizer)
    data = prepare([args.source], args.vocab_size, args.data_dir, own, args.by_hand, args.workers)
    for name, bits in baselines(data).items():
        print(f"{name:10} {bits:6.3f} bits per byte of validation text")
    for rows in zip(*next(make_batches(data, batch_size=3, seq_len=12))):
        for what, ids in zip(("\ninputs ", "targets"), rows):
            print(what, *(repr(data.tokenizer.decode([i]))[1:-1] if i >= 0 else "-" for i in ids),
                  sep=" | ")


if __name__ == "__main__":
    run(main)
