"""Tests of ragged.py: the cache, then rows of different lengths side by side, of any family."""

import types

import pytest
import torch

from family import FAMILIES, FamilyGPT, model_config
from gpt import GPT, KVCache, generate, make_model, random_pick
from ragged import RaggedCache, RowsCache, generate_any, make_cache

SMALL = dict(vocab_size=61, seq_len=16, n_layer=3, n_head=4, n_kv_head=2, d_model=32, d_ff=48)
KINDS = {**FAMILIES, "multi-head": {"n_kv_head": 4}, "multi-query": {"n_kv_head": 1},
         "n-grams": {"ngrams": 3, "ngram_rows": 40}, "by hand": {"by_hand": True}}
every_kind = pytest.mark.parametrize("kind", KINDS)
CONFIG = model_config(**SMALL)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_model(kind="modern", make=make_model, **changes):
    """A model whose matrices are all random: a new one's zeros would hide mistakes."""
    model = make(model_config(**SMALL | KINDS[kind] | changes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model.eval()


def random_ids(*shape, seed=0):
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


def same(found, expected, wrong, tolerance=1e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance,
                               msg=lambda details: f"{wrong}\n{details}")


def columns(steps):
    return torch.stack(list(steps), dim=1).tolist()


def slowly(model, prompt, n_tokens):
    """What generate() should say after one prompt, without a cache: everything again each time. A
    window that is full starts again from its newer half.
    """
    window = model.config.seq_len
    row, start = list(prompt), max(0, len(prompt) - window)
    for _ in range(n_tokens):
        if len(row) - start > window:
            start = len(row) - (window + 1) // 2
        row.append(model(torch.tensor([row[start:]]))[0, -1].argmax().item())
    return row[len(prompt):]


def spied(model):
    """A list to which the shape of all ids that the model reads is appended."""
    seen, hidden = [], model.hidden
    model.hidden = lambda ids, *others, **named: (
        seen.append(tuple(ids.shape)) or hidden(ids, *others, **named))
    return seen


# ---- the cache ----
def test_positions():
    cache = RaggedCache(CONFIG, batch_size=3)
    assert cache.positions(2).tolist() == [[0, 1]] * 3, "every row begins at 0"
    cache.lengths = [4, 0, 7]
    assert cache.positions(3).tolist() == [[4, 5, 6], [0, 1, 2], [7, 8, 9]], \
        "every row goes on behind its own last position"
    assert RaggedCache(CONFIG, 1, device="meta").positions(2).device.type == "meta", \
        "positions are on the device of the keys"


def test_mask():
    cache = RaggedCache(CONFIG, batch_size=2)
    cache.lengths = [2, 0]
    mask = cache.mask(2)
    assert mask.shape == (2, 1, 2, 4), "one for each row, the same for all heads"
    assert mask[0, 0].tolist() == [[True] * 3 + [False], [True] * 4]
    assert mask[1, 0].tolist() == [[True] + [False] * 3, [True] * 2 + [False] * 2], \
        "what is behind a shorter row is hidden"


def test_append():
    cache = RaggedCache(CONFIG, batch_size=2)
    k, v = randn(2, 2, 3, 8, seed=1), randn(2, 2, 3, 8, seed=2)
    for got, given in zip(cache.append(1, k, v), (k, v)):
        same(got, given, "the first are all that there are")
    assert cache.lengths == [0, 0], "only the model moves the lengths"
    cache.lengths = [3, 1]
    k2, v2 = randn(2, 2, 2, 8, seed=3), randn(2, 2, 2, 8, seed=4)
    for got, old, new in zip(cache.append(1, k2, v2), (k, v), (k2, v2)):
        assert got.shape == (2, 2, 5, 8), "up to the last one of the longest row"
        same(got[0], torch.cat((old[0], new[0]), 1), "in the first row behind three")
        same(got[1, :, :3], torch.cat((old[1, :, :1], new[1]), 1), "in the second row behind one")
    half = RaggedCache(CONFIG, 2, dtype=torch.bfloat16)
    assert half.append(0, k, v)[0].dtype == torch.bfloat16, "in the cache's type"
    there = RaggedCache(CONFIG, 2, device="meta").append(0, k.to("meta"), v.to("meta"))
    assert there[0].device.type == "meta", "the rows' numbers are on the cache's device"


def test_rows_are_taken_as_copies():
    cache = RowsCache(CONFIG, batch_size=2)
    cache.append(0, randn(2, 2, 3, 8), randn(2, 2, 3, 8, seed=1))
    cache.length += 3
    taken = cache.take([1, 1, 0])
    assert taken.length == cache.length == 3, "a copy holds as many positions"
    same(taken.keys, cache.keys[:, [1, 1, 0]], "row i must be the one that rows[i] names")
    same(taken.values, cache.values[:, [1, 1, 0]], "values belong to their keys")
    taken.keys.zero_()
    taken.length = 0
    assert taken.length == 0 and cache.length == 3 and cache.keys.any(), "what is taken is a copy"


def test_lengths():
    cache = RaggedCache(CONFIG, batch_size=3)
    cache.lengths = [3, 2, 5]
    cache.length += 2
    assert cache.lengths == [5, 4, 7] and cache.length == 7, "its length is that of the longest row"
    cache.length -= 5
    assert cache.lengths == [0, 0, 2], "all rows move as far, none to below 0"
    cache.lengths = [5, 4, 7]
    cache.append(0, randn(3, 2, 1, 8), randn(3, 2, 1, 8, seed=1))
    taken = cache.take([1, 1, 2])
    assert taken.lengths == [4, 4, 7]
    same(taken.keys, cache.keys[:, [1, 1, 2]], "row i must be the one that rows[i] names")
    taken.keys.zero_()
    taken.length = 0
    assert taken.lengths == [0, 0, 0] and cache.lengths == [5, 4, 7] and cache.keys.any(), \
        "what is taken is a copy"


@every_kind
def test_equal_rows_are_as_in_the_plain_cache(kind):
    model, ids = random_model(kind), random_ids(2, 16)
    with torch.inference_mode():
        caches = [cache(model.config, 2) for cache in (KVCache, RaggedCache)]
        for part in ids.split((3, 1, 5, 1, 6), 1):
            plain = model(part, caches[0])
            ragged = model(part, caches[1], mask=caches[1].mask(part.shape[1]))
            same(ragged, plain, "rows of one length are something else here")
    assert caches[1].lengths == [16, 16]


@every_kind
def test_rows_of_different_length(kind):
    """Each is as if it were alone, whatever short ones are padded with, also chunk by chunk."""
    model, ids = random_model(kind), random_ids(3, 16)
    lengths = [5, 2, 9]
    with torch.inference_mode():
        cache = RaggedCache(model.config, batch_size=3)
        x = cache.read(model, [row[:n] for row, n in zip(ids.tolist(), lengths)])
        assert cache.lengths == lengths, "the padding must be taken back"
        more = torch.stack([row[n:n + 3] for row, n in zip(ids, lengths)])
        got = model(more, cache)
        got = torch.cat((model.logits(x)[:, None], got), dim=1)  # (3, 4, V)
        cache.lengths = [n + 1 for n in lengths]  # two are taken back, and read again
        again = model(more[:, 1:], cache)
        cache.lengths = [lengths[0] + 3, lengths[1], lengths[2] + 1]
        rows = [row[:n + 3] for row, n in zip(ids.tolist(), lengths)]
        rows[0] = ids[0, :lengths[0] + 4].tolist()
        last = cache.read(model, rows)  # 1, 3 and 2 new ids
        for b, n in enumerate(lengths):
            alone = model(ids[b:b + 1, :n + 3])[0, n - 1:]
            same(got[b], alone, f"row {b}, {n} ids long")
            same(again[b], alone[2:], f"row {b}, after two were taken back")
            alone = model.hidden(torch.tensor([rows[b]]))[0, -1]
            same(last[b], alone, f"row {b}, of which some was there already")


def test_read_what_does_not_fit_with_its_padding():
    """Each row has room, but padded to the longest new part the first would not."""
    model, rows = random_model(), random_ids(2, 14).tolist()
    cache = RaggedCache(CONFIG, 2)
    cache.read(model, [rows[0][:10], rows[1][:1]])
    found = cache.read(model, [rows[0][:11], rows[1]])
    assert cache.lengths == [11, 14]
    for row, length, x in zip(rows, (11, 14), found):
        same(x, model.hidden(torch.tensor([row[:length]]))[0, -1], "each as if it were alone")


@pytest.mark.parametrize("make", [GPT, FamilyGPT])
def test_garbage_behind_a_row_is_never_seen(make):
    """A cache is used again; what it held may be anything, and does not show."""
    model = random_model(make=make)
    cache = RaggedCache(model.config, batch_size=2)
    cache.keys.fill_(1e30)
    cache.values.fill_(1e30)
    with torch.inference_mode():
        found = model.logits(cache.read(model, [[1, 2, 3], [4]]))
    same(found[0], model(torch.tensor([[1, 2, 3]]))[0, -1], "garbage in the longer row")
    same(found[1], model(torch.tensor([[4]]))[0, -1], "garbage in the shorter row")


def test_what_does_not_fit_is_refused():
    model, cache = random_model(), RaggedCache(CONFIG, 2, size=4)
    cache.read(model, [[1], [1, 2, 3]])
    with pytest.raises(ValueError, match="3 \\+ 2 positions don't fit into 4"):
        model(random_ids(2, 2), cache)
    assert cache.lengths == [1, 3]


# ---- writing ----
@every_kind
def test_equal_rows_are_written_as_gpt_writes_them(kind):
    model, prompts = random_model(kind), random_ids(2, 5).tolist()
    for n in (0, 1, 30):
        found, expected = (list(how(model, prompts, n)) for how in (generate_any, generate))
        assert len(found) == n and all(map(torch.equal, found, expected))


def test_rows_are_kept_apart():
    """Whatever the cache does: here a fake one."""
    model = types.SimpleNamespace(config=types.SimpleNamespace(seq_len=4), logits=lambda x: x)
    read = []

    class Fake:
        def read(self, model, rows):
            read.append([list(row) for row in rows])

        def __setattr__(self, name, value):
            read.append(f"{name} {value}")
    found = columns(generate(model, [[1, 2, 3], [4]], 4, lambda x: torch.tensor([7, 8]), 1, Fake()))
    assert found == [[7] * 4, [8] * 4], "what is picked is yielded"
    assert read[:2] == [[[1, 2, 3], [4]], [[1, 2, 3, 7], [4, 8]]], "each id goes behind its own row"
    assert read[2] == "length 0", "a row of more than seq_len ids: all are read again"
    assert read[3:5] == [[[7, 7], [4, 8, 8]], [[7, 7, 7], [4, 8, 8, 8]]], (
        "of the row that is too long the newer half stays, and all of the other one")


@every_kind
def test_prompts_of_any_length(kind):
    """Side by side each says what it says alone, also when its window is full before the others'.
    """
    model = random_model(kind)
    prompts = [ids.tolist() for ids in random_ids(30).split([5, 1, 16, 8])]
    for n in (1, 12, 26):
        expected = [slowly(model, prompt, n) for prompt in prompts]
        assert columns(generate(model, prompts, n)) == expected, f"{n} ids"
    assert columns(generate(model, prompts[:1], 26)) == expected[:1]


def test_both_classes_write_the_same():
    prompts = [ids.tolist() for ids in random_ids(24).split([5, 1, 18])]
    spine, family = (columns(generate(random_model(make=make), prompts, 30))
                     for make in (GPT, FamilyGPT))
    assert spine == family


@pytest.mark.parametrize("window", [1, 2, 5])
def test_small_windows(window):
    model = random_model(seq_len=window)
    expected = [slowly(model, prompt, 12) for prompt in ([3], [4, 5, 6, 7, 8, 9])]
    assert columns(generate(model, [[3], [4, 5, 6, 7, 8, 9]], 12)) == expected


def test_memory_is_for_what_is_written():
    model = random_model()
    for prompts, n, size, kind in (([[1, 2, 3], [4]], 5, 8, RaggedCache),
                                   ([[1] * 3, [1] * 9], 50, 16, RaggedCache),
                                   ([[1, 2, 3]] * 2, 5, 8, RowsCache)):
        cache = make_cache(model, prompts, n)
        assert type(cache) is kind and cache.keys.shape == (3, 2, 2, size, 8)
    assert make_cache(model.bfloat16(), [[1]], 1).keys.dtype == torch.bfloat16, "the weights' type"


@pytest.mark.parametrize("prompts", [[[1, 2, 3], [4, 5, 6]], [[1, 2, 3], [4]]])
def test_samples_share_one_reading_of_the_prompt(prompts):
    model = random_model()
    expected = columns(generate(model, prompts, 30))
    seen = spied(model)
    ids = columns(generate(model, prompts, 9, random_pick(seed=1), n_samples=3))
    assert seen == [(2, 3)] + [(6, 1)] * 8, "two prompts are read, then six rows go on"
    assert len({tuple(row) for row in ids}) == 6, "and every row draws for itself"
    got = columns(generate(model, prompts, 30, n_samples=2))
    assert got == [expected[0]] * 2 + [expected[1]] * 2, "row i continues prompt i // n_samples"


def test_a_cache_of_one_text_is_gone_on_from():
    model, text = random_model(), random_ids(1, 7).tolist()
    seen, cache = spied(model), RowsCache(CONFIG, batch_size=1)
    text[0] += columns(generate(model, text, 3, cache=cache))[0]
    assert cache.length == 9, "all but the last id, which nobody has asked to continue"
    text[0] += [1, 2]
    del seen[:]
    found = columns(generate(model, text, 30, cache=cache))
    assert seen[:2] == [(1, 3), (1, 1)], "what the cache holds is not read again"
    assert found == [slowly(model, text[0], 30)], "and the result is the same as without it"
    text[0] += found[0]
    assert columns(generate(model, text, 5, cache=cache)) == [slowly(model, text[0], 5)], \
        "of a text that no longer fits, the cache's beginning must not be used"
    cache = RowsCache(CONFIG, batch_size=1)
    cache.read(model, [[1, 2, 3]])
    assert columns(generate(model, [[1, 2, 3]], 5, cache=cache)) == [slowly(model, [1, 2, 3], 5)], \
        "where a cache holds all of a prompt, its last id is read once more"


@every_kind
def test_a_given_cache_is_gone_on_from(kind):
    model, prompts = random_model(kind), [[1, 2, 3, 4], [5]]
    cache = RaggedCache(model.config, 2)
    columns(generate(model, prompts, 3, cache=cache))
    assert cache.lengths == [6, 3]
    cache.lengths = [3, 1]  # some of it is taken back
    longer = [[1, 2, 3, 9, 8], [5, 7, 7, 7, 7]]
    assert columns(generate(model, longer, 20, cache=cache)) == [
        slowly(model, prompt, 20) for prompt in longer], "a cache must save time, and no more"
