"""Tests of heads.py: what is measured is what is said."""

import dataclasses

import pytest
import torch

import heads
from gpt import GPT, KVCache
from heads import cache_bytes, decode_seconds, held_bytes, kinds, main, measure, spread

CONFIGS = kinds(n_layer=2, d_model=64, n_head=8, seq_len=32)


def test_kinds_differ_in_keys_and_values_only():
    assert [config.n_kv_head for config in CONFIGS.values()] == [8, 2, 1]
    shapes = {name: {key: tuple(value.shape) for key, value in GPT(config).state_dict().items()}
              for name, config in CONFIGS.items()}
    for name, config in CONFIGS.items():
        for key, shape in shapes[name].items():
            expected = ((64 + 2 * 8 * config.n_kv_head, 64) if key.endswith("qkv.weight") else
                        shapes["MHA"][key])
            assert shape == expected, f"{name}: {key}"
    for n_head in (4, 6, 0):
        with pytest.raises(ValueError, match=f"n_head is {n_head}"):
            kinds(2, 64, n_head, 32)


def test_held_bytes():
    """What live caches hold is what cache_bytes() says, and what is shared is held once."""
    for n in (1, 7, 32):
        held = {name: held_bytes(KVCache(config, 1, n)) for name, config in CONFIGS.items()}
        assert held == {name: cache_bytes(config, n) for name, config in CONFIGS.items()}
        assert held["MHA"] == 4 * held["GQA"] == 8 * held["MQA"]
    assert held_bytes(KVCache(CONFIGS["GQA"], 3, 32)) == 3 * cache_bytes(CONFIGS["GQA"], 32)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cache_bytes(config, dtype):
    cache = KVCache(config, batch_size=3, size=10, dtype=dtype)
    held = cache.keys.nbytes + cache.values.nbytes
    assert 3 * cache_bytes(config, 10, dtype.itemsize) == held, (
        "keys and values, of the key/value heads alone, of every layer, in the bytes of that type")
    multi_head = dataclasses.replace(config, n_kv_head=config.n_head)
    assert cache_bytes(multi_head) == config.n_head // config.n_kv_head * cache_bytes(config)


def test_decode_seconds(monkeypatch):
    """Every step reads the same number of positions: a spy in front of append() sees how many."""
    model, seen, append = GPT(CONFIGS["GQA"]), [], KVCache.append

    def listen(cache, layer, k, v):
        keys, values = append(cache, layer, k, v)
        seen.append((layer, k.shape[2], keys.shape[2]))
        return keys, values
    monkeypatch.setattr(KVCache, "append", listen)
    cache = KVCache(model.config, 3)
    cache.length = 31
    seconds = decode_seconds(model, cache, 4)
    assert len(seconds) == 4 and all(s > 0 for s in seconds)
    assert cache.length == 31, "the cache holds what it held"
    assert seen == [(0, 1, 32), (1, 1, 32)] * 4


def test_measure(monkeypatch):
    """The models and positions take turns, the first round does not count, the median does."""
    models, calls = {name: GPT(config) for name, config in CONFIGS.items()}, []

    def pretend(model, cache, steps):
        assert steps == 1 and cache.keys.shape[1] == 2
        calls.append((model.config.n_kv_head, cache.length + 1))
        turn = (len(calls) - 1) // 6
        return [model.config.n_kv_head + cache.length + (1e6, 5.0, 1.0, 99.0)[turn]]
    monkeypatch.setattr(heads, "decode_seconds", pretend)
    found = measure(models, 2, [8, 32], 3)
    assert calls == [(8, 8), (2, 8), (1, 8), (8, 32), (2, 32), (1, 32)] * 4
    assert found == {"MHA": [20.0, 44.0], "GQA": [14.0, 38.0], "MQA": [13.0, 37.0]}


def test_spread():
    assert spread([1.0, 5.0, 9.0], 2.0) == [1.0, 5.0, 9.0]
    assert spread([1.0, 1.5, 9.0], 2.0) == [1.0, 3.0, 9.0]
    assert spread([1.0, 1.5, 2.0], 2.0) == [1.0, 3.0, 5.0]


def test_command_line(tmp_path, capsys, fails):
    picture = tmp_path / "h.png"
    small = ("--n-layer", "2", "--d-model", "64", "--n-head", "8", "--steps", "1", "--device",
             "cpu", "--out", str(picture))
    main([*small, "--seq-len", "32", "--batch-sizes", "1", "3"])
    out = capsys.readouterr().out
    for words in ("MHA 8, GQA 2, MQA 1", "ms per step, batch 1", "tokens/s, batch 3", "h.png"):
        assert words in out
    assert f"{cache_bytes(CONFIGS['MHA'], 32) / 1e6:.2f}" in out
    assert picture.read_bytes().startswith(b"\x89PNG")

    assert "n_head is 6" in fails(main, *small, "--n-head", 6)
    assert "seq_len is 8" in fails(main, *small, "--seq-len", 8)
    assert "a batch of 0" in fails(main, *small, "--batch-sizes", 0)
    assert "no folder" in fails(main, *small, "--out", tmp_path / "none" / "h.png")
    assert "must be a multiple of" in fails(main, *small, "--d-model", 60)
