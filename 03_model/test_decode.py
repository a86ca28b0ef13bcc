"""Tests of decode.py: the cache, then what is written with it."""

import dataclasses

import pytest
import torch

import decode
from decode import KVCache, generate, greedy, prefill, random_pick
from family import FAMILIES
from gpt import GPT, GPTConfig

SMALL = GPTConfig(vocab_size=61, seq_len=16, n_layer=3, n_head=4, n_kv_head=2, d_model=32, d_ff=48)
KINDS = {**FAMILIES, "multi-head": {"n_kv_head": 4}, "multi-query": {"n_kv_head": 1},
         "n-grams": {"ngrams": 3, "ngram_rows": 40}}
every_kind = pytest.mark.parametrize("kind", KINDS)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_model(seed=0, **changes):
    """A model whose matrices are all random: a new one's zeros would hide mistakes."""
    model = GPT(dataclasses.replace(SMALL, **changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model.eval()


def random_ids(*shape, seed=0):
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    return True


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


# ---- the cache ----

def test_cache_remember():
    """Ids stand where their keys do, in rows of any length; what is behind a row is anything."""
    cache = KVCache(SMALL, 2, 6)
    assert cache.remember(torch.tensor([[1, 2, 3], [4, 5, 0]])).tolist() == [[1, 2, 3], [4, 5, 0]]
    cache.lengths = [3, 2]
    seen = cache.remember(torch.tensor([[7], [8]]))
    assert seen[0].tolist() == [1, 2, 3, 7] and seen[1, :3].tolist() == [4, 5, 8]
    taken = cache.take([1, 1])
    taken.ids[0] = 9
    assert cache.ids[1, :3].tolist() == [4, 5, 8], "a row that was taken is not a copy"


def test_cache_positions():
    cache = KVCache(SMALL, batch_size=3)
    assert cache.positions(2).tolist() == [0, 1]
    cache.lengths = [4, 4, 4]
    assert cache.positions(1).tolist() == [4], "one row of them, where all rows are equally long"
    cache.lengths = [4, 0, 7]
    assert cache.positions(3).tolist() == [[4, 5, 6], [0, 1, 2], [7, 8, 9]]


def test_cache_append():
    cache = KVCache(SMALL, batch_size=2)
    k, v = randn(2, 2, 3, 8, seed=1), randn(2, 2, 3, 8, seed=2)
    keys, values = cache.append(1, k, v)
    assert close(keys, k) and close(values, v)
    assert cache.lengths == [0, 0], "only the model moves the lengths: the next layer writes there"
    cache.lengths = [3, 3]
    k2, v2 = randn(2, 2, 2, 8, seed=3), randn(2, 2, 2, 8, seed=4)
    keys, values = cache.append(1, k2, v2)
    assert close(keys, torch.cat((k, k2), 2)) and close(values, torch.cat((v, v2), 2))
    assert keys.data_ptr() == cache.keys[1].data_ptr(), "the memory is the cache's own, no copy"


def test_cache_append_where_each_row_stands():
    cache = KVCache(SMALL, batch_size=2)
    k, v = randn(2, 2, 3, 8, seed=1), randn(2, 2, 3, 8, seed=2)
    cache.append(1, k, v)
    cache.lengths = [3, 1]
    k2, v2 = randn(2, 2, 2, 8, seed=3), randn(2, 2, 2, 8, seed=4)
    for got, old, new in zip(cache.append(1, k2, v2), (k, v), (k2, v2)):
        assert got.shape == (2, 2, 5, 8)
        assert close(got[0], torch.cat((old[0], new[0]), 1)), "behind three"
        assert close(got[1, :, :3], torch.cat((old[1, :, :1], new[1]), 1)), "behind one"


def test_cache_take():
    cache = KVCache(SMALL, batch_size=2)
    cache.append(0, randn(2, 2, 3, 8), randn(2, 2, 3, 8, seed=1))
    cache.lengths = [3, 2]
    taken = cache.take([1, 1, 0])
    assert taken.lengths == [2, 2, 3] and cache.lengths == [3, 2]
    assert close(taken.keys, cache.keys[:, [1, 1, 0]])
    taken.keys.zero_()
    assert cache.keys.any(), "what is taken is a copy"


@every_kind
def test_cached_equals_uncached(kind):
    """However the ids come, and whichever way the model knows where they stand."""
    model, ids = random_model(**KINDS[kind]), random_ids(2, 16)
    expected = model(ids)
    with torch.inference_mode():
        for first in range(1, 17):  # every length of prompt, then one by one to the last position
            cache = KVCache(model.config, batch_size=2)
            got = [model(ids[:, :first], cache)]
            got += [model(ids[:, t:t + 1], cache) for t in range(first, 16)]
            assert close(torch.cat(got, 1), expected), f"a prompt of {first}"
            assert cache.lengths == [16, 16]
        for sizes in ((3, 5, 8), (1, 7, 8), (15, 1)):  # prompts that come in chunks
            cache = KVCache(model.config, batch_size=2)
            got = torch.cat([model(part, cache) for part in ids.split(sizes, 1)], 1)
            assert close(got, expected), f"chunks of {sizes}"
        assert close(model(ids), expected), "a generation must leave nothing behind in the model"


@every_kind
def test_rows_of_different_length(kind):
    """Each is as if it were alone, whatever short ones are filled up with, also chunk by chunk."""
    model, ids = random_model(**KINDS[kind]), random_ids(3, 16)
    lengths = [5, 2, 9]
    with torch.inference_mode():
        cache = KVCache(model.config, batch_size=3)
        x = prefill(model, [row[:n] for row, n in zip(ids.tolist(), lengths)], cache)
        assert cache.lengths == lengths
        more = torch.stack([row[n:n + 3] for row, n in zip(ids, lengths)])
        got = torch.cat((model.logits(x)[:, None], model(more, cache)), dim=1)  # (3, 4, V)
        cache.lengths = [n + 1 for n in lengths]  # two are taken back, and said again
        again = model(more[:, 1:], cache)
        for b, n in enumerate(lengths):
            alone = model(ids[b:b + 1, :n + 3])[0, n - 1:]
            assert close(got[b], alone), f"row {b}, {n} ids long"
            assert close(again[b], alone[2:]), f"row {b}, after two were taken back"


def test_garbage_behind_a_row_is_never_seen():
    """A cache is used again; what it held may be anything, and does not show."""
    model = random_model()
    cache = KVCache(model.config, batch_size=2)
    cache.keys.fill_(1e30)
    cache.values.fill_(1e30)
    with torch.inference_mode():
        found = model.logits(prefill(model, [[1, 2, 3], [4]], cache))
    assert close(found[0], model(torch.tensor([[1, 2, 3]]))[0, -1])
    assert close(found[1], model(torch.tensor([[4]]))[0, -1])


def test_what_does_not_fit_is_refused():
    model, cache = random_model(), KVCache(SMALL, batch_size=1, size=4)
    with pytest.raises(ValueError, match="0 \\+ 17 positions don't fit into 16"):
        model(random_ids(1, 17))
    model(random_ids(1, 3), cache)
    with pytest.raises(ValueError, match="3 \\+ 2 positions don't fit into 4"):
        model(random_ids(1, 2), cache)
    assert cache.lengths == [3]


def test_half_precision():
    """Weights and cache in bfloat16: half the memory, and logits that are a little off."""
    model, ids = random_model(), random_ids(2, 16)
    expected = model(ids)
    for weights, kept in ((torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)):
        small = random_model().to(weights)
        cache = KVCache(model.config, batch_size=2, dtype=kept)
        got = torch.cat([small(part, cache) for part in ids.split((5, 1, 10), 1)], 1)
        assert got.dtype == torch.float32 and cache.keys.dtype == kept
        assert 0 < (got - expected).abs().max() < 0.3


# ---- writing ----

@pytest.mark.parametrize("window", [1, 2, 5])
def test_small_windows(window):
    model = random_model(seq_len=window)
    expected = [slowly(model, prompt, 12) for prompt in ([3], [4, 5, 6, 7, 8, 9])]
    assert columns(generate(model, [[3], [4, 5, 6, 7, 8, 9]], 12)) == expected


def test_memory_is_for_what_is_written(monkeypatch):
    sizes, real = [], decode.KVCache
    monkeypatch.setattr(decode, "KVCache", lambda config, rows, size, *rest: (
        sizes.append((rows, size)) or real(config, rows, size, *rest)))
    list(generate(random_model(), [[1, 2, 3], [4]], 5))
    list(generate(random_model(), [[1, 2, 3]], 50))
    assert sizes == [(2, 8), (1, 16)], "prompt and text, but no more than the window"


@every_kind
def test_generate_takes_the_likeliest(kind):
    """Prompts of any length, side by side: each says what it says alone, also when its window is
    full before the others' are.
    """
    model = random_model(**KINDS[kind])
    prompts = [ids.tolist() for ids in random_ids(30).split([5, 1, 16, 8])]
    for n in (1, 12, 40):
        expected = [slowly(model, prompt, n) for prompt in prompts]
        assert columns(generate(model, prompts, n)) == expected, f"{n} ids"
    assert columns(generate(model, prompts[:1], 40)) == expected[:1]


def test_generate_reads_the_end_of_a_long_prompt():
    model, long = random_model(), random_ids(1, 30)
    assert torch.equal(next(generate(model, long.tolist(), 1)), greedy(model(long[:, -16:])[:, -1]))
    with pytest.raises(ValueError, match="empty"):
        next(generate(model, [[1], []], 1))
    assert not list(generate(model, [[1]], 0))


def test_samples_share_one_reading_of_the_prompt():
    model, seen, hidden = random_model(), [], GPT.hidden
    model.hidden = lambda ids, cache: seen.append(ids.shape) or hidden(model, ids, cache)
    ids = columns(generate(model, [[1, 2, 3], [4]], 9, random_pick(seed=1), n_samples=3))
    assert seen == [(2, 3)] + [(6, 1)] * 8, "two prompts are read, then six rows go on"
    assert len({tuple(row) for row in ids}) == 6, "and every row draws for itself"
    expected = columns(generate(model, [[1, 2, 3], [4]], 9))
    got = columns(generate(model, [[1, 2, 3], [4]], 9, n_samples=2))
    assert got == [expected[0]] * 2 + [expected[1]] * 2, "row i continues prompt i // n_samples"


def test_random_pick():
    logits = torch.tensor([[1.0, 2.0, 0.0]]).repeat(30_000, 1)
    for temperature in (1.0, 0.5):
        counts = torch.bincount(random_pick(temperature, seed=1)(logits), minlength=3) / 30_000
        assert close(counts, (logits[0] / temperature).softmax(0), 0.02)
    assert random_pick(1e-40)(logits[:5]).tolist() == [1] * 5
    assert torch.equal(random_pick(seed=2)(logits), random_pick(seed=2)(logits))
    assert not torch.equal(random_pick(seed=2)(logits), random_pick(seed=3)(logits))
