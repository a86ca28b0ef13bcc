"""What a model's loss is measured in, and what it is measured against.

Bits per byte can be compared between tokenizers, and with programs that compress: a model that
predicts text well could compress it well (Shannon 1948), so zlib and lzma are yardsticks.
Left out: models, which come in stage 3.

Used by shards.py, the trainer and the evaluation. Next: batches.py.
"""

import lzma
import math
import zlib

import numpy as np


def token_bytes(tokenizer):  # exercise
    """How many bytes of text each id stands for, (V,) int64; 0 for special tokens.

    Uses tokenizer.vocab (the bytes of each id) and tokenizer.special ({name: id}).
    """
    sizes = np.array([len(token) for token in tokenizer.vocab], dtype=np.int64)
    sizes[list(tokenizer.special.values())] = 0
    return sizes


def bits_per_byte(nats, targets, sizes):  # exercise
    """How many bits a byte of text costs: a loss that any tokenizer may be compared by.

    nats, targets: arrays of one shape, the loss (-ln of the probability that the model gave) of
    each target and the target's id, negative where masked. sizes: what token_bytes() returns. Sum
    the nats, in float64, over targets that stand for at least one byte, and divide by ln 2 times
    the bytes of those targets.
    bits_per_byte([ln 2, 9.0, 9.0], [0, 1, -1], [2, 0]) is 0.5: only id 0 counts.
    """
    nats, targets = np.asarray(nats, dtype=np.float64), np.asarray(targets)
    size = np.where(targets >= 0, np.asarray(sizes)[np.maximum(targets, 0)], 0)
    return float(nats[size > 0].sum() / (math.log(2) * size.sum()))


def windows(n_tokens, seq_len, stride):  # exercise
    """Windows that score every token of a text but the first exactly once: [(start, skip), ...].

    A window reads ids start .. start + seq_len - 1, the last window perhaps fewer, and predicts the
    id after each. Windows start every `stride` ids until the last id has been predicted. `skip` is
    how many of a window's first predictions an earlier window has made already; they are not
    counted again. With stride = seq_len that is 0; with less, all targets after the first window
    have a past of more than seq_len - stride ids. ValueError, naming the stride, unless
    0 < stride <= seq_len.
    windows(10, 4, 4) == [(0, 0), (4, 0), (8, 0)]; windows(10, 4, 2)[:2] == [(0, 0), (2, 2)]
    """
    if not 0 < stride <= seq_len:
        raise ValueError(f"stride is {stride}, but must be between 1 and seq_len ({seq_len})")
    last = max(0, n_tokens - 1 - seq_len)  # a window from here on predicts the last id
    count = 1 + -(-last // stride)
    return [(i * stride, 0 if i == 0 else seq_len - stride) for i in range(count)]


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

    shards: a Shards or a Mixture. ids: the text's (default: those of the validation set that are
    to be learned); compressed: Compressors.sizes() of it.
    uniform: all ids equally likely. unigram: the frequencies of the training ids. zlib -9 and
    lzma -9: the text itself, compressed in one piece (of every source in a mixture).
    """
    if ids is None:
        ids, compressed = shards.val.labels(0, len(shards.val)), shards.index["val"]
    sizes, vocab_size = token_bytes(shards.tokenizer), shards.index["vocab_size"]
    counts = sum(np.bincount(array, minlength=vocab_size) for array in shards.train.arrays)
    ids = ids[ids >= 0]
    ids = ids[sizes[ids] > 0]
    n_bytes = sizes[ids].sum()
    return {"uniform": math.log2(vocab_size) * len(ids) / n_bytes,
            "unigram": unigram_bits(counts, ids).sum() / n_bytes,
            "zlib -9": 8 * compressed["zlib"] / n_bytes,
            "lzma -9": 8 * compressed["lzma"] / n_bytes}
