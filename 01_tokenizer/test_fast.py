"""Tests of fast.py: the same as the definitions in bpe.py, on everything random."""

import random
from array import array

import pytest

from bpe import apply_merges, train_naive
from fast import Chunks, Pieces, Row, apply_merges_fast, apply_merges_long, train_fast
from pieces import PATTERNS, split_function


def random_words(rng, letters=b"abcd", longest=14):
    letters = letters[:rng.randint(1, len(letters))]
    return {bytes(rng.choices(letters, k=rng.randint(1, longest))): rng.randint(1, 3)
            for _ in range(rng.randint(0, 20))}


def test_train_fast_equals_naive():
    seed = 1
    rng = random.Random(seed)
    for i in range(300):
        words = random_words(rng)
        assert train_fast(words, 40) == train_naive(words, 40), f"seed {seed}, case {i}: {words}"
    for words in ({}, {b"a": 1}, {b"a" * 1001: 1}, {b"ab" * 500 + b"a": 1}, {b"a\0\xff\0\xff": 2}):
        assert train_fast(words, 30) == train_naive(words, 30), words


def test_train_fast_with_large_vocabularies():
    """Words of many letters: batches of many pairs, and ties by the hundred."""
    seed = 2
    rng = random.Random(seed)
    words = {bytes(rng.choices(range(97, 123), weights=range(26, 0, -1), k=rng.randint(2, 12))):
             rng.randint(1, 50) for _ in range(400)}
    assert train_fast(words, 600) == train_naive(words, 600), f"seed {seed}"


def test_counts_do_not_overflow():
    assert train_fast({b"abab": 1 << 40, b"cd": (1 << 41) + 1}, 2) == [(99, 100), (97, 98)]


def test_a_batch_ends_where_pairs_touch():
    row = Row({b"ab": 9, b"cd": 8, b"be": 7, b"fg": 6})
    row.threshold = 1
    assert row.most_frequent(9)[0] == [(97, 98), (99, 100)], "(b, e) begins with what (a, b) ends"
    assert row.most_frequent(1)[0] == [(97, 98)]
    row = Row({b"aa": 9, b"cd": 8})
    row.threshold = 1
    assert row.most_frequent(9)[0] == [(97, 97)], "(a, a) can make a frequent pair: (aa, aa)"


@pytest.mark.parametrize("function", [apply_merges_fast, apply_merges_long])
def test_apply_merges_equals_slow(function):
    seed = 3
    rng = random.Random(seed)
    for i in range(400):
        ranks = {pair: 256 + n for n, pair in enumerate(train_naive(random_words(rng), 25))}
        while i % 2 and len(ranks) < 25:  # merges that no training would give
            symbols = [*b"abcd", *ranks.values()]
            ranks.setdefault((rng.choice(symbols), rng.choice(symbols)), 256 + len(ranks))
        ids = rng.choices(b"abcd", k=rng.randint(0, 150))
        expected = apply_merges(ids, ranks)
        assert function(ids, ranks) == expected, f"seed {seed}, case {i}"


def unpack(ids):
    return array("I", ids).tolist()


def test_pieces_forget_when_they_are_many():
    pieces = Pieces({(97, 98): 256}, [*range(256), 300], limit=3)
    for word, ids in (("ab", [300]), ("b", [98]), ("abc", [300, 99]), ("ab", [300]), ("c", [99]),
                      ("abab", [300, 300]), ("ab", [300])):
        assert unpack(pieces[word]) == ids and len(pieces) <= 3


def test_chunks_stay_when_they_are_many():
    split = split_function(PATTERNS["gpt2"])
    pieces = Pieces({(32, 97): 256}, range(257))
    chunks = Chunks(split, pieces, limit=2)
    text = "a a b, a\n c  d a b, e a "
    expected = [i for piece in split(text) for i in unpack(pieces[piece])]
    for _ in range(3):
        assert unpack(chunks.encode(text)) == expected
    assert chunks and unpack(chunks.encode("")) == []
