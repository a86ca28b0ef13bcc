"""Tests of scoring.py: what many items at once cost and give, beside evals.py, one at a time."""

import random

import pytest
import torch

from evals import common_prefix, span_losses
from family import FAMILIES, FamilyConfig
from gpt import GPTConfig, make_model
from scoring import Group, batches_of, branch_mask, groups_of, losses, score_items


def make(seq_len=40, **family):
    config = GPTConfig(vocab_size=50, seq_len=seq_len, n_layer=2, n_head=4, n_kv_head=2, d_model=32,
                       d_ff=48, family=FamilyConfig(**family) if family else None)
    model = make_model(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():  # so that every id is of consequence for those after it
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return model.eval()


MODELS = {"gpt": {}, "gpt2": FAMILIES["gpt2"], "llama": FAMILIES["llama"],
          "scratch": FAMILIES["scratch"], "ngrams": {"ngrams": 3, "ngram_rows": 40}}


def random_items(rng, n):
    """Items of one to four rows that share some of their beginnings; some share all, some none."""
    def some(low, high):
        return [rng.randrange(50) for _ in range(rng.randrange(low, high))]
    items, text = [], some(1, 20)
    for _ in range(n):
        text = rng.choice([text, text[:len(text) // 2] + some(1, 5), some(1, 20), []])
        rows = [text + some(0 if text else 2, 9) + some(2, 4) for _ in range(rng.randrange(1, 5))]
        if rng.random() < 0.2:
            rows.append(rows[0])  # an equal choice
        shared = min(max(1, common_prefix(rows)), *(len(row) - 1 for row in rows))
        items.append([(row, shared if len(rows) > 1 else len(row) - 2) for row in rows])
    return items


@pytest.mark.parametrize("name", MODELS)
def test_equal_to_one_at_a_time(name):
    """Whatever the model, the batch and the cache: the losses of evals.py, and its hits."""
    model, seed = make(**MODELS[name]), 5
    items = random_items(random.Random(seed), 25)
    expected = [[span_losses(model, row, start) for row, start in rows] for rows in items]
    for batch_size, cached in ((1, True), (4, True), (32, True), (1, False), (32, False)):
        found = score_items(model, items, batch_size, cached=cached)
        for i, (ours, theirs) in enumerate(zip(found, expected)):
            assert len(ours) == len(theirs)
            for (nats, hits), (right, right_hits) in zip(ours, theirs):
                where = f"seed {seed}, item {i}, batches of {batch_size}, cache {cached}"
                assert torch.allclose(nats, right, atol=2e-5), where
                assert torch.equal(hits, right_hits), where


def test_half_precision_is_close():
    model = make()
    items = random_items(random.Random(1), 6)
    expected = score_items(model, items)
    for cached in (True, False):
        found = score_items(model, items, dtype="bfloat16", cached=cached)
        gaps = [float((a[0] - b[0]).abs().max()) for x, y in zip(found, expected)
                for a, b in zip(x, y)]
        assert 0 < max(gaps) < 0.5, f"largest difference {max(gaps)}"


def counted(model, monkeypatch):
    """Counters of the ids that hidden() reads, and of the positions whose logits are computed."""
    counts = {"read": 0, "logits": 0}
    hidden, logits = model.hidden, model.logits

    def read(ids, *more):
        counts["read"] += ids.numel()
        return hidden(ids, *more)

    def compute(x):
        counts["logits"] += len(x)
        return logits(x)
    monkeypatch.setattr(model, "hidden", read)
    monkeypatch.setattr(model, "logits", compute)
    return counts


def test_what_is_shared_is_read_once(monkeypatch):
    model, text = make(), list(range(1, 31))
    item = [(text + [n, n + 1, n + 2], 30) for n in (10, 20, 40)]
    counts = counted(model, monkeypatch)
    score_items(model, [item], 1)
    assert counts == {"read": 29 + 3 * 3, "logits": 9}, (
        "29 shared ids; of each choice the last shared one, and all but its last")
    counts.update(read=0)
    score_items(model, [item], 1, cached=False)
    assert counts["read"] == 3 * 32, "without the cache every row is read from its beginning"
    counts.update(read=0)
    score_items(model, [item, [(text + [7, 8], 30)]], 1)  # the same text, another question
    assert counts["read"] == 29 + 3 * 3 + 2, "what items share is read once, too"


def test_groups():
    """Items join only where that saves: what is shared shrinks, and all that follows is longer."""
    text = list(range(20))

    def item(*ends, text=text):
        return [(text + end, len(text)) for end in ends]
    one, two, other = item([30, 1]), item([31, 1], [32, 1]), item([30, 1], text=[9] + text)
    groups = groups_of([one, other, two])
    assert sorted(sorted({m[0] for m in group.members}) for group in groups) == [[0, 2], [1]]
    assert [group.tokens for group in groups if len(group.members) == 3] == [19 + 3 * 2]
    assert [group.shared for group in groups if len(group.members) == 1] == [20]
    far = item([1, 2, 3], [4, 5, 6], text=[0, 1] + [40] * 20)
    assert len(groups_of([one, far])) == 2, "two shared ids are not worth reading 20 twice"
    cropped = [([n, *range(30)], 29) for n in range(4)]
    assert len(groups_of([cropped])) == 4, "rows that share nothing are not read side by side"


def test_batches():
    groups = [Group([(n, 0, [1] * size, size - 1)]) for n, size in enumerate((50, 101, 48, 99, 47))]
    found = [[group.tokens for group in batch] for batch in batches_of(groups, 2)]
    assert found == [[100, 98], [49, 47], [46]], "the longest first, none with much padding"
    assert len(batches_of(groups, 1)) == 5


def test_branch_mask():
    mask = branch_mask(torch.tensor([2, 1]), torch.tensor([[1, 1, 2, 2], [1, 2, 2, 0]]), 2)
    expected = [[[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0], [1, 1, 0, 0, 1, 1]],
                [[1, 0, 1, 0, 0, 0], [1, 0, 0, 1, 0, 0], [1, 0, 0, 1, 1, 0], [1, 0, 0, 0, 0, 1]]]
    assert mask.shape == (2, 1, 4, 6), f"(B, 1, T, shared and T), not {tuple(mask.shape)}"
    assert mask.dtype == torch.bool, "booleans, True where an id may attend"
    assert mask[:, 0, :, :2].int().tolist() == [[row[:2] for row in rows] for rows in expected], (
        "every id attends to what its own row shares, and to no padding behind that")
    assert mask[:, 0, :, 2:].int().tolist() == [[row[2:] for row in rows] for rows in expected], (
        "an id attends to the ids of its own branch up to itself, and to no other branch")


def test_the_head_takes_512_positions_at_a_time(monkeypatch):
    model, sizes = make(seq_len=700), []
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda x: sizes.append(len(x)) or logits(x))
    [*losses(model, [Group([(0, 0, [1] * 700, 10)])], "float32", True)]
    assert sizes == [512, 178]
