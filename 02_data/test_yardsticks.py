"""Tests of yardsticks.py, from primitive to composite."""

import lzma
import math
import zlib

import numpy as np
import pytest

from bpe import Tokenizer
from corpus import find_source
from shards import write_shards
from streams import Shards
from yardsticks import baselines, bits_per_byte, token_bytes, unigram_bits, windows


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the cat sat on the mat, naïve and sure\n" * 3], 280)


def test_token_bytes(tokenizer):
    sizes = token_bytes(tokenizer)
    assert sizes.shape == (280,) and sizes.dtype == np.int64
    assert sizes[:256].tolist() == [1] * 256
    assert sizes[tokenizer.encode("the")].sum() == 3
    assert sizes[tokenizer.special["<|bos|>"]] == 0, "special tokens stand for no text"


def test_bits_per_byte():
    ln2 = math.log(2)
    assert bits_per_byte([ln2, 9.0, 9.0], [0, 1, -1], [2, 0]) == pytest.approx(0.5)
    assert bits_per_byte([[2 * ln2], [4 * ln2]], [[0], [1]], [1, 2]) == pytest.approx(2.0), (
        "sums over all targets, then one division: not a mean of ratios")
    n = 1 << 20
    nats = np.full(n, 0.1, dtype=np.float32)
    exact = float(nats[0]) / ln2
    assert bits_per_byte(nats, np.zeros(n, int), [1]) == pytest.approx(exact, rel=1e-12), "float64"


def test_windows():
    assert windows(10, 4, 4) == [(0, 0), (4, 0), (8, 0)]
    assert windows(10, 4, 2)[:2] == [(0, 0), (2, 2)]
    for n in range(2, 30):
        for stride in range(1, 6):
            scored = [i + 1 for start, fresh in windows(n, 5, stride)
                      for i in range(start + fresh, min(start + 5, n - 1))]
            assert scored == list(range(1, n)), f"each target once: windows({n}, 5, {stride})"
            assert all(start < n - 1 for start, _ in windows(n, 5, stride)), "no empty window"
    for stride in (0, 6):
        with pytest.raises(ValueError, match="stride"):
            windows(10, 5, stride)


def test_unigram_bits():
    assert unigram_bits([3, 1], [0, 1]) == pytest.approx([math.log2(6 / 4), math.log2(6 / 2)])
    assert unigram_bits([0, 0, 0, 0], [2]) == pytest.approx([2.0]), "never seen, not impossible"


def test_baselines(tokenizer, tmp_path):
    (tmp_path / "text").write_text("the cat sat on the mat, naïve\n" * 100)
    source = find_source(f"folder:{tmp_path / 'text'}")
    write_shards(source, tokenizer, tmp_path / "out")
    shards = Shards(tmp_path / "out")
    text = "".join(record["text"] for part, record in source.parts() if part == "val")
    ids, n = tokenizer.encode(text), len(text.encode())
    rows = baselines(shards)
    assert list(rows) == ["uniform", "unigram", "zlib -9", "lzma -9"]
    assert rows["uniform"] == pytest.approx(len(ids) * math.log2(280) / n, rel=0.02)
    assert rows["unigram"] < rows["uniform"]
    assert rows["lzma -9"] == pytest.approx(8 * len(lzma.compress(text.encode(), preset=9)) / n)
    assert rows["zlib -9"] == pytest.approx(8 * len(zlib.compress(text.encode(), 9)) / n)
