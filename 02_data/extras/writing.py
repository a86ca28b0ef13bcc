"""The folder that data.py writes, for more kinds of documents, by many processes, of any size.

Several processes encode documents; ids are written to the disk in order, as they come, so a corpus
may be larger than memory. In conversations some ids are not to be learned; then a mask is written
beside the ids, train-mask.npy; with loss=all behind a source's name it is 1 everywhere. Some
training documents may be rearranged (fim.py). For plain files the folder is the same as
data.write_folder()'s, byte for byte.

Used by mixtures.py. Writes data/NAME-KEY/. Next: mixtures.py.
"""

import contextlib
import functools
import io
import json
import lzma
import os
import secrets
import shutil
import sys
import zlib
from array import array

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import file_hash, track, write_safely

import numpy as np

import data
from conversations import render_any
from corpus import content
from data import FORMAT, document_start, hash_of
from pieces import in_batches
from workers import parallel


# ---- one document ----
def encode_conversation(messages, tokenizer, loss="answers"):
    """render_any()'s ids and mask, and the bytes of the text that the model learns to write. loss:
    "answers", or "all" for a mask of ones. ValueError if special tokens are missing.
    """
    ids, mask = render_any(messages, tokenizer)
    if loss == "all":
        mask = [1] * len(ids)
    special = set(tokenizer.special.values())
    learned = [i for i, own in zip(ids, mask) if own and i not in special]
    return ids, mask, tokenizer.decode_bytes(learned)


def encode(record, tokenizer, fim=0.0, loss="answers"):
    """A document as (ids, mask, text). mask: which ids are to be learned, None for all; text: the
    learned text, as bytes. With probability `fim` a text is rearranged. loss: of a conversation.
    """
    if "messages" in record:
        return encode_conversation(record["messages"], tokenizer, loss)
    text = record["text"]
    if fim:
        from fim import encode_fim
        return encode_fim(text, tokenizer, fim), None, text.encode()
    return data.encode(text, tokenizer), None, text.encode()


def encode_batch(batch, tokenizer, fim, loss="answers"):
    """A worker's part: [(split, record), ...] -> [(split, ids, mask, bytes of text, text), ...].
    Validation documents are never rearranged; only their text is returned, to be compressed.
    """
    done = []
    for split, record in batch:
        ids, mask, text = encode(record, tokenizer, fim if split == "train" else 0.0, loss)
        ids = np.asarray(ids, dtype_of(tokenizer))  # smaller than a list, to be sent
        done.append((split, ids, mask, len(text), text if split == "val" else b""))
    return done


def dtype_of(tokenizer):
    return np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)


# ---- files that grow ----
@contextlib.contextmanager
def naming(path):
    """Give an OSError from within the file's name, which that of a full disk lacks."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


class NpyWriter:
    """An .npy file of one dimension that grows: its header, with the length, is written again when
    it is closed. OSError, which names the file, when the disk is full.
    """

    def __init__(self, path, dtype):
        self.path, self.dtype, self.n = path, dtype, 0
        self.file = open(path, "w+b", buffering=0)  # so that close() writes nothing after an error
        self.write(self.header())

    def header(self):
        content = io.BytesIO()  # numpy leaves room in it for any length
        np.lib.format.write_array_header_1_0(content, {
            "descr": self.dtype.str, "fortran_order": False, "shape": (self.n,)})
        return content.getvalue()

    def write(self, data):
        data = memoryview(data)
        with naming(self.path):
            while len(data):  # without a buffer, write() may write only a part
                data = data[self.file.write(data):]

    def append(self, values):
        self.write(np.asarray(values, self.dtype).tobytes())
        self.n += len(values)

    def close(self):
        """Returns the file's sha256, once it is on the disk."""
        with self.file:
            self.file.seek(0)
            self.write(self.header())
            with naming(self.path):
                os.fsync(self.file.fileno())
        return file_hash(self.path)


class SplitWriter:
    """One split's documents: the ids, where each begins, and a mask if there are conversations."""

    def __init__(self, folder, split, dtype):
        self.folder, self.split = folder, split
        self.ids = NpyWriter(folder / f"{split}.npy", dtype)
        self.mask, self.starts, self.bytes = None, array("q"), 0

    def add(self, ids, mask, n_bytes):
        if mask is not None and self.mask is None:
            self.mask = NpyWriter(self.folder / f"{self.split}-mask.npy", np.dtype(np.uint8))
            self.mask.append(np.ones(self.ids.n, np.uint8))
        if self.mask:
            self.mask.append(np.ones(len(ids), np.uint8) if mask is None else mask)
        self.starts.append(self.ids.n)
        self.ids.append(ids)
        self.bytes += n_bytes

    def close(self):
        """The entry for index.json."""
        starts = NpyWriter(self.folder / f"{self.split}-starts.npy", np.dtype(np.int64))
        starts.append(self.starts)
        files = {"": self.ids, "-starts": starts} | ({"-mask": self.mask} if self.mask else {})
        return {"documents": len(self.starts), "tokens": self.ids.n, "bytes": self.bytes,
                "sha256": {f"{self.split}{name}.npy": file.close() for name, file in files.items()}}


class Compressors:
    """The sizes to which zlib -9 and lzma -9 compress a text that comes piece by piece."""

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


# ---- a folder ----
def write_folder(source, tokenizer, folder, workers=1):
    """Encode every document of `source`, a corpus.Source, into `folder`. All files are written
    aside, then moved there; index.json comes last: a folder with it is complete.

    The files are the same for any number of worker processes. ValueError if a split is left without
    a document or without anything to learn, or if the tokenizer lacks a token.
    """
    document_start(tokenizer)  # ValueError if the tokenizer has no such token
    if source.fim:
        from fim import TOKENS
        if missing := [token for token in TOKENS if token not in tokenizer.special]:
            raise ValueError(f"the tokenizer has no {missing[0]}, which fill-in-the-middle needs")
    aside = folder / f".writing.{secrets.token_hex(4)}.tmp"  # held() deletes what a kill leaves
    aside.mkdir(parents=True)
    try:
        dtype, compressors = dtype_of(tokenizer), Compressors()
        writers = {split: SplitWriter(aside, split, dtype) for split in ("train", "val")}
        pairs = []  # of answers, chosen and rejected, which only dpo.py may learn

        def noted():
            for split, record in source.documents():
                pairs[:] = pairs or [True] * ("rejected" in record)
                yield split, record
        documents = track(noted(), "encoding", unit=" MB",
                          size=lambda document: len(content(document[1])) / 1e6)
        batches = in_batches(documents, 1 << 20, size=lambda document: len(content(document[1])))
        work = functools.partial(encode_batch, tokenizer=tokenizer, fim=source.fim,
                                 loss=source.loss)
        for batch in parallel(work, batches, workers):
            for split, ids, mask, n_bytes, text in batch:
                writers[split].add(ids, mask, n_bytes)
                compressors.add(text)
        index = {"format": FORMAT, "source": source.name, "split_by": source.split_by,
                 "tokenizer": tokenizer.hash, "vocab_size": tokenizer.vocab_size,
                 "dtype": dtype.name, **{split: w.close() for split, w in writers.items()}}
        index |= {"pairs": True} if pairs else {}
        for split in writers:
            if not index[split]["documents"]:
                raise ValueError(f"{source.name} leaves nothing for {split}; it needs more text")
            if not index[split]["bytes"]:
                raise ValueError(f"{source.name} has nothing to learn in {split}: no assistant "
                                 "writes any text")
        index["val"] |= compressors.sizes()
        tokenizer.save(aside / "tokenizer.json")
        write_safely(aside / "index.json",
                     json.dumps(index | {"hash": hash_of(index)}, indent=1))
        for file in sorted(aside.iterdir(), key=lambda file: file.name == "index.json"):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
