"""Tests of budget.py: each formula against the module that it speaks of."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import gpt
from budget import (activation_bytes, cache_bytes, count_parameters, flops_per_token, main,
                    size, training_memory)
from gpt import GPT, GPTConfig, KVCache

CONFIGS = [GPTConfig(300, 32, 3, 4, 2, 64, 160), GPTConfig(300, 48, 1, 4, 4, 64, 96),
           GPTConfig(100, 32, 2, 2, 1, 64, 160)]
every_config = pytest.mark.parametrize("config", CONFIGS, ids=["gqa", "mha", "mqa"])


@every_config
def test_count_parameters(config):
    model, counts = GPT(config), count_parameters(config)
    found = dict.fromkeys(counts, 0)
    for name, parameter in model.named_parameters():
        group = name.split(".")[0].replace("embed", "embedding")
        found[name.split(".")[2] if group == "blocks" else group] += parameter.numel()
    assert counts == found


@every_config
def test_flops_per_token(config, monkeypatch):
    """PyTorch counts the matrix products of one step; attention by hand shows it all of them."""
    monkeypatch.setattr(gpt, "attention", gpt.attention_by_hand)
    model, ids = GPT(config), torch.zeros(2, config.seq_len, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.loss(ids, ids).sum().backward()
    assert flops_per_token(config) * ids.numel() == counter.get_total_flops()


@every_config
def test_cache_bytes(config):
    cache = KVCache(config, batch_size=3, size=10)
    held = cache.keys.nbytes + cache.values.nbytes
    assert 3 * cache_bytes(config, 10) == held
    assert cache_bytes(config, value_bytes=2) * 2 == cache_bytes(config)
    multi_head = dataclasses.replace(config, n_kv_head=config.n_head)
    assert cache_bytes(multi_head) == config.n_head // config.n_kv_head * cache_bytes(config)


@every_config
def test_activation_bytes(config):
    """Autograd tells what it saves; weights are not activations, and no storage counts twice."""
    model, ids = GPT(config), torch.zeros(2, config.seq_len, dtype=torch.long)
    storages = {}

    def save(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        model.loss(ids, ids)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved = sum(n for pointer, (n, _) in storages.items() if pointer not in weights)
    assert activation_bytes(config, 2) == pytest.approx(saved, rel=0.01)


@every_config
def test_training_memory(config):
    model, ids = GPT(config), torch.zeros(1, config.seq_len, dtype=torch.long)
    optimizer = torch.optim.AdamW(model.parameters())
    model.loss(ids, ids).sum().backward()
    optimizer.step()
    memory = training_memory(config, 1)
    assert memory["weights"] == sum(p.nbytes for p in model.parameters())
    assert memory["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    assert memory["optimizer"] == sum(t.nbytes for state in optimizer.state.values()
                                      for t in state.values() if t.numel() > 1)


def test_size():
    assert [size(n) for n in (12, 1234, 5e6, 2.5e9, 7e12)] == ["12 B", "1.23 kB", "5 MB", "2.5 GB",
                                                               "7 TB"]


def test_command_line(capsys, fails):
    main(["--n-layer", "2", "--n-kv-head", "1"])
    assert "KV cache" in capsys.readouterr().out
    assert "n_layer is 0" in fails(main, "--n-layer", 0)
    assert "invalid int value" in fails(main, "--n-layer", "two")
