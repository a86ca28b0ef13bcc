"""Tests of ngrams.py: the hash against Python's own integers, then what the tables say."""

import dataclasses
import math

import pytest
import torch

from family import model_config
from gpt import make_model
from ngrams import PRIME, NGrams, hash_ngrams, remember
from ragged import RaggedCache, RowsCache

SMALL = model_config(vocab_size=61, seq_len=16, n_layer=2, n_head=2, n_kv_head=2, d_model=16,
                     d_ff=32, ngrams=4, ngram_rows=50)


def slowly(ids, place, n, n_rows):
    """The row of the n ids that end at `place`, in whole numbers of any size."""
    h = sum((ids[place - j] + 1 if place >= j else 0) * PRIME**j for j in range(n))
    h = (h + 2**63) % 2**64 - 2**63  # as an int64 holds it
    return (n - 2) * n_rows + h % n_rows


def test_hash_ngrams():
    assert hash_ngrams(torch.tensor([[0]]), 2, 100).tolist() == [[[1]]], (
        "positions before the first count 0, also before a single id")
    assert hash_ngrams(torch.tensor([[0, 4]]), 2, 100).tolist() == [[[1], [66]]], (
        "an n-gram ends at its place: it holds the ids before it, and 0 before the first place")
    ids = torch.randint(50_000, (3, 20), generator=torch.Generator().manual_seed(0))
    rows = hash_ngrams(ids, 5, 1000)
    for b in range(3):
        for t in range(20):
            expected = [slowly(ids[b].tolist(), t, n, 1000) for n in (2, 3, 4, 5)]
            assert rows[b, t].tolist() == expected, (
                f"row {b}, place {t}: h % n_rows, in the tables of n = 2, 3, 4, 5, which lie "
                "one behind the other")


@pytest.mark.parametrize("n_rows", [1, 7, 4096])
def test_every_length_has_rows_of_its_own(n_rows):
    ids = torch.randint(61, (2, 30), generator=torch.Generator().manual_seed(1))
    rows = hash_ngrams(ids, 4, n_rows)
    for i in range(3):
        assert (rows[..., i] // n_rows == i).all(), f"{i + 2}-grams reach into others' rows"


def test_pairs_rarely_meet():
    """Of about as many rows as pairs, random ones would leave 1/e unused."""
    a, b = torch.meshgrid(torch.arange(265), torch.arange(265), indexing="ij")
    rows = hash_ngrams(torch.stack((a.flatten(), b.flatten()), 1), 2, 65_536)[:, 1, 0]
    assert len(rows.unique()) > (1 - 1 / math.e) * 65_536, "many pairs share a row"


def test_ngrams_adds_up_what_the_tables_say():
    tables = NGrams(SMALL)
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    rows = hash_ngrams(ids, 4, 50)
    expected = sum(tables.tables.weight[rows[0, 3, i]] for i in range(3))
    torch.testing.assert_close(tables(ids)[0, 3], expected)


@pytest.mark.parametrize("kind", [RowsCache, RaggedCache])
def test_remember(kind):
    """Ids stand where their keys do."""
    cache = kind(SMALL, 2, 6)
    assert remember(cache, torch.tensor([[1, 2], [4, 5]])).tolist() == [[1, 2], [4, 5]]
    cache.length = 2
    assert remember(cache, torch.tensor([[7], [8]])).tolist() == [[1, 2, 7], [4, 5, 8]]
    taken = cache.take([1, 1])
    taken.ids[0] = 9
    assert cache.ids[1, :3].tolist() == [4, 5, 8], "a row that was taken is not a copy"
    assert taken.ids[1, :3].tolist() == [4, 5, 8]


def test_remember_in_rows_of_any_length():
    cache = RaggedCache(SMALL, 2, 6)
    remember(cache, torch.tensor([[1, 2, 3], [4, 5, 0]]))
    cache.lengths = [3, 2]
    seen = remember(cache, torch.tensor([[7], [8]]))
    assert seen[0].tolist() == [1, 2, 3, 7] and seen[1, :3].tolist() == [4, 5, 8]


def test_a_new_model_does_not_hear_them():
    """Tables begin at zero: the model starts as the one without, and the tables learn."""
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    plain, model = make_model(dataclasses.replace(SMALL, family=None)), make_model(SMALL)
    assert torch.equal(model(ids), plain(ids))
    model.head.weight.data.normal_()
    model.loss(ids, ids).sum().backward()
    assert model.ngrams.tables.weight.grad.abs().sum() > 0, "the tables learn nothing"
