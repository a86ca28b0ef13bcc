"""Several sources as one data set, with one tokenizer.

Sources are given by name, perhaps with options behind it, and all or none of them with a share,
which says how often a source is read. Sources that data.prepare() can't prepare are prepared here:
any source of corpus.py, cleaned if options of clean.py ask for it, by several processes.

    python 04_train/train.py --data "jsonl:FILE,language=go:0.8" gsm8k:0.2

Used by data.prepare(). Reads sources; writes data/NAME-KEY/. Next: batches.py.
"""

import dataclasses
import math
import os
import re
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import holding

import numpy as np

from bpe import SPECIAL_TOKENS, tokenizer_class
from corpus import open_source, parse_name, strings
from data import FORMAT, Dataset, Ids, hash_of
from housekeeping import readers_code
from pieces import PATTERNS
from writing import write_folder

OWN = {"include", "exclude", "field", "links", "strict", "num_shards", "n", "form", "only", "level",
       "seed"}  # a source's own options


# ---- several datasets as one ----
class Joined(Ids):
    """Several Ids, read as if they were one, one after the other."""

    def __init__(self, parts):
        self.parts, self.ends = parts, np.cumsum([len(part) for part in parts])

    @property
    def starts(self):
        """Where each document begins, in the whole."""
        return np.concatenate([part.starts + end - len(part)
                               for part, end in zip(self.parts, self.ends)])

    def __len__(self):
        return int(self.ends[-1])

    def spans(self, start, n):  # exercise
        """Where n ids from `start` on lie: [(Ids, start in it, how many), ...], no piece empty.

        self.parts: the Ids; self.ends: where in the whole each of them ends, an array. ValueError,
        naming the length of the whole, if start is negative, or the whole ends before start + n.
        """
        if start < 0 or start + n > len(self):
            raise ValueError(f"{n} ids from {start} on are not among {len(self)}")
        spans, i = [], np.searchsorted(self.ends, start, side="right")
        offset = start - (self.ends[i - 1] if i else 0)
        while n > 0:
            k = min(n, len(self.parts[i]) - offset)
            spans.append((self.parts[i], offset, k))
            n, i, offset = n - k, i + 1, 0
        return spans

    def read(self, start, n):
        found = [part.read(offset, k) for part, offset, k in self.spans(start, n)]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def labels(self, start, n):
        found = [part.labels(offset, k) for part, offset, k in self.spans(start, n)]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def __getitem__(self, span):
        start, stop, _ = span.indices(len(self))
        return self.read(start, max(0, stop - start))

    def counts(self, vocab_size):
        return sum(part.counts(vocab_size) for part in self.parts)


class Mixture:
    """Several Datasets with one tokenizer.

    parts: [(share, Dataset), ...], with shares scaled to sum to 1. train, val: the Datasets'
    splits, joined; index: vocab_size, and the bytes and compressed sizes of val, summed. hash: 16
    hex digits that differ if any id of any source or any share differs.
    """

    def __init__(self, parts):
        total = sum(share for share, _ in parts)
        total = 1.0 if math.isclose(total, 1) else total  # don't change what sums to 1
        self.parts = [(share / total, data) for share, data in parts]
        datasets = [data for _, data in parts]
        self.tokenizer = datasets[0].tokenizer
        for data in datasets:
            if data.tokenizer.hash != self.tokenizer.hash:
                raise ValueError(f"{datasets[0].folder} has tokenizer {self.tokenizer.hash}, "
                                 f"but {data.folder} has {data.tokenizer.hash}")
        self.train, self.val = (Joined([getattr(data, split) for data in datasets])
                                for split in ("train", "val"))
        self.index = {"vocab_size": self.tokenizer.vocab_size,
                      "val": {key: sum(data.index["val"][key] for data in datasets)
                              for key in ("bytes", "zlib", "lzma")}}
        self.hash = hash_of(*((data.hash, share) for share, data in self.parts))[:16]


# ---- by name ----
def split_share(name):
    """"gsm8k:0.3" -> ("gsm8k", 0.3); a name without a share, and folder:2024, -> (name, None)."""
    found = re.fullmatch(r"(.+):(\d*\.?\d+)", name)
    if not found or found[1] in ("folder", "jsonl", "parquet", "prepared"):
        return name, None
    if not float(found[2]) > 0:
        raise ValueError(f"the share of {found[1]} is {found[2]}, but must be above 0")
    return found[1], float(found[2])


def check_arrays(name, data):
    """ValueError for a Dataset, whose checksums fit, that writing.py could not have written."""
    n_ids = data.tokenizer.vocab_size
    for split, ids in (("train", data.train), ("val", data.val)):
        entry, many = data.index[split], getattr(ids.ids, "shape", ())
        kinds = [getattr(array, "dtype", None) for array in (ids.ids, ids.starts, ids.mask)]
        if (not entry.get("documents") or not entry.get("tokens")
                or kinds[0] not in (np.uint16, np.uint32) or kinds[1] != np.int64
                or kinds[2] not in (None, np.uint8) or ids.starts.shape != (entry["documents"],)
                or many != (entry["tokens"],) or ids.mask is not None and ids.mask.shape != many
                or ids.starts[0] != 0 or (np.diff(ids.starts, append=len(ids)) < 0).any()):
            raise ValueError(f"the arrays of {split} in {name} are not those that its index.json "
                             "describes; prepare it anew")
        if (most := int(ids.ids.max())) >= n_ids:
            raise ValueError(f"{name} holds id {most}, but its tokenizer has {n_ids} ids")


def open_name(name, data_dir="data", by_hand=False, say=print):
    """A Dataset for prepared:FOLDER, else a Source, cleaned if it has options of clean.py.

    Options behind a name: fim, the share of training documents that fim.py rearranges; pattern, by
    which a tokenizer that is trained on it cuts texts (pieces.py has names for some); loss, which
    ids of a conversation are learned, those of the "answers" or "all"; against and the fields of
    Rules, for clean.py; all others are the source's own. ValueError for a wrong or unknown option.
    """
    base, options = parse_name(name)
    if base.startswith("prepared:"):
        if options:
            raise ValueError(f"{name}: prepared data takes no options, it is made already")
        data = Dataset(base.removeprefix("prepared:"), by_hand)
        check_arrays(base, data)
        return data
    fim = options.pop("fim", ["0"])[-1]
    if not re.fullmatch(r"[\d.e-]+", fim) or not 0 <= float(fim) <= 1:
        raise ValueError(f"fim is {fim!r}, but must be a share from 0 to 1")
    loss = options.pop("loss", ["answers"])[-1]
    if loss not in ("answers", "all"):
        raise ValueError(f"loss is {loss!r}, but must be answers or all")
    pattern = options.pop("pattern", [""])[-1]
    if pattern not in ("", *PATTERNS):
        raise ValueError(f"pattern is {pattern!r}, but must be {', '.join(PATTERNS)}")
    cleaning = {}
    if options.keys() - OWN:
        from clean import RULES, open_clean
        cleaning = {key: options.pop(key) for key in RULES if key in options}
    source = open_source(base, options, data_dir)  # ValueError for unknown options
    if cleaning:
        source = open_clean(source, cleaning, data_dir, say)
    if float(fim):  # the name gets it, so that the data's folder differs
        source = dataclasses.replace(source, name=f"{source.name},fim={float(fim)}", fim=float(fim))
    if pattern:
        source = dataclasses.replace(source, name=f"{source.name},pattern={pattern}",
                                     pattern=pattern)
    if loss == "all":
        source = dataclasses.replace(source, name=f"{source.name},loss=all", loss=loss)
    return source


def train_tokenizer(sources, vocab_size, by_hand=False, workers=1):
    """A tokenizer of the training documents of all `sources`, with the tokens that fim needs.
    ValueError if two of them name different patterns.
    """
    patterns = {source.pattern for source in sources if source.pattern} or {"gpt4"}
    if len(patterns) > 1:
        raise ValueError(f"a tokenizer has one pattern, not {' and '.join(sorted(patterns))}")
    texts = (text for source in sources for split, record in source.documents()
             if split == "train" for text in strings(record))
    special = SPECIAL_TOKENS
    if any(source.fim for source in sources):
        from fim import TOKENS
        special = (*SPECIAL_TOKENS, *TOKENS)
    more = {} if by_hand else {"workers": workers}
    return tokenizer_class(by_hand).train(texts, vocab_size, PATTERNS[patterns.pop()], special,
                                          **more)


def make_dataset(source, vocab_size=2048, data_dir="data", tokenizer=None, by_hand=False,
                 workers=1, say=print):
    """The Dataset of a Source, made if it isn't there yet, in the same folder as by data.prepare().
    """
    key = hash_of(FORMAT, source.name, source.fingerprint,
                  tokenizer.hash if tokenizer else vocab_size, readers_code("bpe", "data"))
    folder = Path(data_dir) / f"{source.slug}-{key[:8]}"
    earlier = (folder / "index.json").exists()
    if not earlier:
        with holding(folder, "is being prepared", wait=True):
            if not (folder / "index.json").exists():
                tokenizer = tokenizer or train_tokenizer([source], vocab_size, by_hand, workers)
                write_folder(source, tokenizer, folder, workers)
    data = Dataset(folder, by_hand)
    say(f"data       {data}" + (", made earlier" if earlier else ""))
    return data


def common_tokenizer(opened, vocab_size, tokenizer):
    """The tokenizer that was given, or that of the Datasets among `opened`, or None. ValueError if
    two of them differ, or if none was given and `vocab_size` is not that of a Dataset.
    """
    for data in opened:
        if isinstance(data, Dataset):
            if tokenizer is None and vocab_size not in (None, data.tokenizer.vocab_size):
                raise ValueError(f"vocab_size is {vocab_size}, but {data.folder} was made with a "
                                 f"vocabulary of {data.tokenizer.vocab_size}")
            tokenizer = tokenizer or data.tokenizer
            if tokenizer.hash != data.tokenizer.hash:
                raise ValueError(f"{data.folder} has a tokenizer of its own, {data.tokenizer.hash},"
                                 f" and can't be used with another, {tokenizer.hash}")
    return tokenizer


def prepare_any(names, vocab_size=None, data_dir="data", tokenizer=None, by_hand=False,
                workers=None, say=print):
    """data.prepare() for any sources: ["a:0.7", "b:0.3"] gives a Mixture, ["a"] a Dataset.

    All have the same tokenizer: the one given, or that of a prepared:FOLDER, or one trained on the
    training documents of all. ValueError if some sources have shares and others don't.
    """
    workers = workers or (1 if by_hand else os.cpu_count() or 1)
    shares = [split_share(name) for name in names]
    if len({share is None for _, share in shares}) > 1:
        raise ValueError(f"of {', '.join(names)} some have shares (NAME:0.3); give all one, or "
                         "none, for equal parts")
    opened = [open_name(name, data_dir, by_hand, say) for name, _ in shares]
    tokenizer = common_tokenizer(opened, vocab_size, tokenizer)
    vocab_size = 2048 if vocab_size is None else vocab_size
    if tokenizer is None and len(names) > 1:
        key = hash_of(FORMAT, *((s.name, s.fingerprint) for s in opened), vocab_size,
                      readers_code("bpe", "data"))
        path = Path(data_dir) / f"tokenizer-{key[:8]}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            train_tokenizer(opened, vocab_size, by_hand, workers).save(path)
        tokenizer = tokenizer_class(by_hand).load(path)
    datasets = [one if isinstance(one, Dataset) else
                make_dataset(one, vocab_size, data_dir, tokenizer, by_hand, workers, say)
                for one in opened]
    parts = [(1.0 if share is None else share, data) for (_, share), data in zip(shares, datasets)]
    return Mixture(parts) if len(parts) > 1 else datasets[0]
