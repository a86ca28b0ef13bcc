"""Documents -> token shards on disk.

Text is encoded once and kept as plain arrays, because a trainer reads it many times, from random
places, and faster than a tokenizer could encode it. A folder of shards holds tokenizer.json,
train-00000.npy and so on, the same for val, where each document starts, and index.json: counts,
checksums, and what two compressors make of the validation text, a yardstick for a model.
Every document starts with <|bos|>. In conversations, ids that a model should not learn to say have
mask 0.
Left out: how they are read (streams.py), how ids become batches (batches.py).

    python 02_data/shards.py python --vocab-size 2048
    python 02_data/shards.py jsonl:FILE --language go --fim 0.5 --workers 2
    python 02_data/shards.py folder:PATH --tokenizer FILE  # one made by 01_tokenizer/bpe.py

Reads a source; writes data/NAME/. Next: streams.py, or
batches.py at once.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import shutil
import sys
from array import array
from pathlib import Path

import numpy as np

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from bpe import SPECIAL_TOKENS, Tokenizer
from chats import document_start, render
from clean import Rules, open_clean
from console import Parser, in_batches, parallel, run, track, write_safely
from corpus import content, find_source, parse_name, strings
from fim import TOKENS as FIM_TOKENS
from fim import fill_in_the_middle
from streams import Mixture, Shards
from yardsticks import Compressors, baselines


FORMAT = 2  # of the files, and of what is in them: another number, and all are made anew


# ---- one document ----

def encode(record, tokenizer, fim=0.0):
    """A document as (ids, mask, text):
    ids: an array, beginning as document_start() says; with probability `fim` a text is rearranged
    (fim.py)
    mask: None for a text; of a conversation which ids are to be learned, as chats.render() says
    text: the bytes that are to be learned
    """
    if "messages" in record:
        if missing := set(SPECIAL_TOKENS) - set(tokenizer.special):
            raise ValueError(f"the tokenizer has no {min(missing)}, which conversations need")
        ids, mask = render(record["messages"], tokenizer)
        own = [i for i, learned in zip(ids, mask) if learned]
        special = set(tokenizer.special.values())
        return np.array(ids), mask, tokenizer.decode_bytes(i for i in own if i not in special)
    ids = [document_start(tokenizer)]
    for token, text in fill_in_the_middle(record["text"], fim) if fim else [(None, record["text"])]:
        if token:
            ids.append([tokenizer.special[token]])
        ids.append(tokenizer.encode_array(text))
    return np.concatenate(ids), None, record["text"].encode()


def encode_batch(batch, tokenizer, fim):
    """What a worker does: [(part, record), ...] -> [(part, ids, mask, bytes of text, text)], the
    text itself only for validation, as it is compressed then.
    """
    done = []
    for part, record in batch:
        ids, mask, text = encode(record, tokenizer, fim if part == "train" else 0.0)
        ids = ids.astype(dtype_of(tokenizer))  # less to send
        done.append((part, ids, mask, len(text), text if part == "val" else b""))
    return done


def dtype_of(tokenizer):
    return np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32


# ---- writing ----

def save(path, values):
    """np.save to the disk itself. Returns the file's sha256."""
    with open(path, "w+b") as file:
        np.save(file, values)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


class Writer:
    """Collects one split's documents and writes them as shards of at most `shard_tokens` ids."""

    def __init__(self, folder, split, dtype, shard_tokens):
        self.folder, self.split, self.dtype, self.shard_tokens = folder, split, dtype, shard_tokens
        self.ids, self.masks, self.starts, self.shards = [], [], array("q"), []
        self.tokens = self.written = self.bytes = 0

    def add(self, ids, mask, n_bytes):
        self.starts.append(self.tokens)
        self.tokens += len(ids)
        self.bytes += n_bytes
        self.ids.append(ids)
        self.masks.append(np.ones(len(ids), np.uint8) if mask is None
                          else np.array(mask, np.uint8))
        if self.tokens - self.written >= self.shard_tokens:
            self.flush()

    def flush(self, everything=False):
        """Write what is full; with `everything`, the rest too. A mask of ones is not written."""
        ids = np.concatenate(self.ids) if self.ids else np.empty(0, self.dtype)
        masks = np.concatenate(self.masks) if self.masks else np.empty(0, np.uint8)
        while len(ids) >= self.shard_tokens or everything and len(ids):
            name, n = f"{self.split}-{len(self.shards):05}", min(self.shard_tokens, len(ids))
            entry = {"file": f"{name}.npy", "tokens": n,
                     "sha256": save(self.folder / f"{name}.npy", ids[:n])}
            if not masks[:n].all():
                entry["mask"] = f"{name}-mask.npy"
                entry["mask_sha256"] = save(self.folder / entry["mask"], masks[:n])
            ids, masks = ids[n:], masks[n:]
            self.shards.append(entry)
            self.written += n
        self.ids, self.masks = [ids], [masks]

    def close(self):
        """Write the rest and where each document starts; returns the entry for index.json."""
        self.flush(everything=True)
        name = f"{self.split}-documents.npy"
        return {"documents": len(self.starts), "tokens": self.tokens, "bytes": self.bytes,
                "starts": {"file": name, "sha256": save(self.folder / name,
                                                        np.array(self.starts, np.int64))},
                "shards": self.shards}


def write_shards(source, tokenizer, folder, shard_tokens=1 << 26, fim=0.0, workers=1):
    """Encode every document of `source` into a new `folder`, which appears only once it is whole.

    The files are the same for any number of worker processes. ValueError if one side of the
    split is left without a document, or the tokenizer without a token that is needed.
    """
    document_start(tokenizer)  # which may refuse
    for token in FIM_TOKENS if fim else ():
        if token not in tokenizer.special:
            raise ValueError(f"the tokenizer has no {token}, which fill-in-the-middle needs")
    if folder.exists() and not (folder / "index.json").exists():
        raise ValueError(f"{folder} is there, but is not a folder of shards; remove it")
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed and had this number
    aside.mkdir(parents=True)
    try:
        dtype, compressors = dtype_of(tokenizer), Compressors()
        writers = {split: Writer(aside, split, dtype, shard_tokens) for split in ("train", "val")}
        parts = track(source.parts(), "encoding", unit=" MB",
                      size=lambda part: len(content(part[1])) / 1e6)
        batches = in_batches(parts, 1 << 20, size=lambda part: len(content(part[1])))
        work = functools.partial(encode_batch, tokenizer=tokenizer, fim=fim)
        for batch in parallel(work, batches, workers):
            for split, ids, mask, n_bytes, text in batch:
                writers[split].add(ids, mask, n_bytes)
                compressors.add(text)
        index = {"source": source.name, "split": source.split, "fim": fim,
                 "tokenizer": tokenizer.hash, "vocab_size": tokenizer.vocab_size,
                 "dtype": np.dtype(dtype).name}
        index |= {split: writer.close() for split, writer in writers.items()}
        for split in writers:
            if not index[split]["documents"]:
                raise ValueError(f"{source.name} leaves nothing for {split}; it needs more text")
            if not index[split]["bytes"]:
                raise ValueError(f"{source.name} has nothing to learn in {split}: no assistant "
                                 "says a word")
        index["val"] |= compressors.sizes()
        tokenizer.save(aside / "tokenizer.json")
        write_safely(aside / "index.json", json.dumps(index, indent=1))
        if not (folder / "index.json").exists():  # another process may have been faster
            os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


# ---- by name ----

def make_key(*parts):
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def train_tokenizer(sources, vocab_size, fim=0.0, workers=1):
    """A tokenizer of the training documents of all `sources`, with the tokens that `fim` needs."""
    def texts():
        for source in sources:
            for part, record in source.parts():
                if part == "train":
                    yield from strings(record)

    special = (*SPECIAL_TOKENS, *(FIM_TOKENS if fim else ()))
    return Tokenizer.train(texts(), vocab_size, special_tokens=special, workers=workers)


def make_shards(source, fim, vocab_size, data_dir, tokenizer, workers, say):
    """The Shards of a Source, made if they aren't there yet.

    The folder's name holds a hash of all that its content depends on, so changed documents never
    meet yesterday's shards.
    """
    key = make_key(FORMAT, source.name, source.fingerprint, fim,
                   tokenizer.hash if tokenizer else vocab_size)
    folder = Path(data_dir) / f"{source.slug}-{key}"
    earlier = (folder / "index.json").exists()
    if not earlier:
        tokenizer = tokenizer or train_tokenizer([source], vocab_size, fim, workers)
        write_shards(source, tokenizer, folder, fim=fim, workers=workers)
    shards = Shards(folder).verify()
    train, val = shards.index["train"], shards.index["val"]
    say(f"data       {folder}{' (made earlier)' if earlier else ''}: {train['documents']:,} "
        f"documents, {train['tokens']:,} tokens of {shards.index['vocab_size']:,} kinds, "
        f"{train['bytes']:,} bytes to learn; validation {val['documents']:,} documents, "
        f"{val['bytes']:,} bytes")
    return shards


def prepare_mixture(names, vocab_size=None, data_dir="data", tokenizer=None,
                    workers=os.cpu_count() or 1, say=print):
    """The Mixture of ["a:0.7", "b:0.3"], or ["a"]: sources by name, each with a weight or none.

    A name is a source's, its options behind it (NAME,key=value; those of clean.py and fim=RATE,
    too), or shards:FOLDER for a folder that this made earlier. All share one tokenizer: the one
    given, or that of a shards:FOLDER, or one trained on the training documents of all to
    `vocab_size` ids (fewer, if the text gives no more). Everything is read once and compared with
    its checksums. ValueError if some have weights and others don't.
    """
    weighted = [split_weight(name) for name in names]
    if len({weight is None for _, weight in weighted}) > 1:
        raise ValueError(f"of {', '.join(names)} some have weights (NAME:0.3); give all one, or "
                         "none, for equal parts")
    opened = [open_name(name, vocab_size, data_dir, say) for name, _ in weighted]
    for shards in opened:
        if isinstance(shards, Shards):
            tokenizer = tokenizer or shards.tokenizer
            if tokenizer.hash != shards.tokenizer.hash:
                raise ValueError(f"{shards.folder} has a tokenizer of its own, "
                                 f"{shards.tokenizer.hash}, and can't be used with another, "
                                 f"{tokenizer.hash}")
    if tokenizer is None and len(names) > 1:
        key = make_key(FORMAT, [(s.name, s.fingerprint, fim) for s, fim in opened], vocab_size)
        path = Path(data_dir) / f"tokenizer-{key}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            sources, rates = zip(*opened)
            train_tokenizer(sources, vocab_size, max(rates), workers).save(path)
        tokenizer = Tokenizer.load(path)
    return Mixture([(1.0 if weight is None else weight, one if isinstance(one, Shards) else
                     make_shards(*one, vocab_size, data_dir, tokenizer, workers, say))
                    for (_, weight), one in zip(weighted, opened)])


def prepare(name, *arguments, **more):
    """The Shards of one source: see prepare_mixture()."""
    return prepare_mixture([name], *arguments, **more).shards[0]


def split_weight(name):
    """"gsm8k:0.3" -> ("gsm8k", 0.3); a name without a weight, and folder:2024, -> (name, None)."""
    found = re.fullmatch(r"(.+):(\d*\.?\d+)", name)
    if not found or found[1] in ("folder", "jsonl", "parquet", "shards"):
        return name, None
    if not float(found[2]) > 0:
        raise ValueError(f"the weight of {found[1]} is {found[2]}, but must be above 0")
    return found[1], float(found[2])


def open_name(name, vocab_size=None, data_dir="data", say=print):
    """Shards, if they are there already; or a Source, cleaned if it has options of clean.py, and
    the share of its documents to be filled in.
    """
    if name.startswith("shards:"):
        if parse_name(name)[1]:
            raise ValueError(f"{name}: shards are made already, and take no options")
        return Shards(name.removeprefix("shards:"), vocab_size).verify()
    base, options = parse_name(name)
    fim = options.pop("fim", ["0"])[-1]
    if not re.fullmatch(r"[\d.e-]+", fim) or not 0 <= float(fim) <= 1:
        raise ValueError(f"fim is {fim!r}, but must be a share from 0 to 1")
    rules = {"against"} | {field.name for field in dataclasses.fields(Rules)}
    cleaning = {key: options.pop(key) for key in list(options) if key in rules}
    name = ",".join([base, *(f"{key}={value}" for key in options for value in options[key])])
    source = find_source(name, data_dir)
    if cleaning:
        source = open_clean(source, cleaning, data_dir, say)
    return source, float(fim)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="python",
                        help="as 02_data/corpus.py lists them (default: python)")
    parser.add_argument("--vocab-size", type=int,
                        help="train a tokenizer of this size (default: 2048)")
    parser.add_argument("--tokenizer", metavar="FILE", help="use this one instead")
    parser.add_argument("--num-shards", metavar="N", help="files of a large data set (default: 1)")
    parser.add_argument("--language", help="keep what is worth it, by the rules of filters.py")
    parser.add_argument("--against", metavar="SOURCE", nargs="+", default=[],
                        help="leave out what shares 13 words in a row with these evaluation sets")
    parser.add_argument("--fim", metavar="RATE", help="share of documents to be filled in")
    parser.add_argument("--workers", type=int, default=os.cpu_count(),
                        help="processes that encode (default: all cores)")
    parser.add_argument("--data-dir", default="data", help="where data is kept (default: data)")
    args = parser.parse_args(argv)
    tokenizer = Tokenizer.load(args.tokenizer) if args.tokenizer else None
    given = [(key, value) for key in ("num_shards", "language", "fim")
             if (value := getattr(args, key)) is not None]
    given += [("against", name) for name in args.against]
    if unclear := [name for name in args.against if parse_name(name)[1]]:
        raise ValueError(f"--against {unclear[0]}: an option here would be the first source's; "
                         "clean.py takes it")
    name = ",".join([args.source, *(f"{key}={value}" for key, value in given)])
    ready = tokenizer or name.startswith("shards:")
    vocab_size = args.vocab_size or (None if ready else 2048)
    shards = prepare(name, vocab_size, args.data_dir, tokenizer, args.workers)
    first = shards.train.read(0, min(40, len(shards.train)))
    print(f"begins     {shards.tokenizer.decode(first)!r}")
    for name, bits in baselines(shards).items():
        print(f"{name:10} {bits:6.3f} bits per byte of validation text")


if __name__ == "__main__":
    run(main)
