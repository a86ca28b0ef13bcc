"""Tests of budget.py: each formula against the module that it speaks of, in every family."""

import dataclasses
import gc
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import budget
from budget import (activation_bytes, count_parameters, flops_per_token, muon_bytes, muon_groups,
                    recomputed_bytes, readable, training_memory)
from family import FAMILIES, MODELS, MODERN, Norm, family_of, model_config, n_parameters
from gpt import GPTConfig, make_model

SHAPES = {"gqa": GPTConfig(300, 32, 3, 4, 2, 64, 160), "mha": GPTConfig(300, 48, 1, 4, 4, 64, 96),
          "mqa": GPTConfig(100, 32, 2, 2, 1, 64, 160)}


def config_of(family, name, **changes):
    """A family's choices with a shape, and some of them changed."""
    shape = {k: v for k, v in vars(SHAPES[name]).items() if k != "family"}
    return model_config(**shape | FAMILIES[family] | changes)


CONFIGS = {f"{family}-{name}": config_of(family, name) for family in FAMILIES for name in SHAPES}
CONFIGS |= {  # and what is in no family
    "layernorm without gains": config_of("gpt2", "gqa", gains=False, softcap=5.0),
    "all norms with gains": config_of("modern", "gqa", gains=True, bias=True),
    "swiglu with bias": config_of("llama", "gqa", bias=True, qk_norm=True),
    "n-grams": config_of("modern", "gqa", ngrams=3, ngram_rows=50),
    "layernorm first": config_of("gpt2", "mha", embed_norm=True, qk_norm=True)}
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def ids_for(config, batch_size=2):
    return torch.zeros(batch_size, config.seq_len, dtype=torch.long)


def groups_of(model):
    """The parameters of a live model, sorted by what they are called."""
    tables = {"embed": "embedding", "ngrams": "embedding", "position_embed": "positions"}
    found = dict.fromkeys(("embedding", "positions", "attention", "mlp", "norms", "head"), 0)
    for name, parameter in model.named_parameters():
        module, *inner = name.split(".")
        part = inner[1] if module == "blocks" else module
        found["norms" if part.endswith("norm") else tables.get(part, part)] += parameter.numel()
    return found


def largest_use(profile):
    """The most bytes of memory that tensors had at once under a torch.profiler.profile."""
    used = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            used += event.nbytes()
            most = max(most, used)
    return most


def test_todays_recipe():
    """Said twice, so that who counts it need not load the family tree."""
    assert vars(budget.MODERN) == {name: getattr(MODERN, name) for name in vars(budget.MODERN)}
    for config in SHAPES.values():
        same = dataclasses.replace(config, family=MODERN)
        for count in (count_parameters, flops_per_token, partial(training_memory, batch_size=3)):
            assert count(config) == count(same)


@every_config
def test_count_parameters(config):
    assert count_parameters(config) == groups_of(make_model(config)), (
        "a group must have as many numbers as in the model itself: look at n_kv_head, at the "
        "third matrix of SwiGLU, at biases, gains and shifts, and at a head that is the table")


def test_count_parameters_worked_example():
    config = model_config(vocab_size=9, seq_len=3, n_layer=1, n_head=1, n_kv_head=1, d_model=4,
                          d_ff=8, bias=True, activation="swiglu")
    assert count_parameters(config) == {"embedding": 36, "positions": 0, "attention": 80,
                                        "mlp": 116, "norms": 0, "head": 36}


@pytest.mark.parametrize("name", MODELS)
def test_count_parameters_of_models(name):
    config = model_config(**MODELS[name])
    assert sum(count_parameters(config).values()) == n_parameters(config)


@every_config
def test_flops_per_token(config):
    """PyTorch counts the matrix products of one step; attention by hand shows it all of them."""
    model, ids = make_model(dataclasses.replace(config, by_hand=True)), ids_for(config)
    with FlopCounterMode(display=False) as counter:
        model.loss(ids, ids).sum().backward()
    assert flops_per_token(config) * ids.numel() == counter.get_total_flops(), (
        "6 for each weight that is multiplied, also of a tied head, not of the table or of biases; "
        "and 12 L C T for attention's own products")


def saved_bytes(config, dtype):
    """What autograd saves; weights are not activations, and no storage counts twice."""
    model, ids = make_model(config), ids_for(config)
    storages = {}

    def save(tensor):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with (torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
          torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")):
        model.loss(ids, ids)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(n for pointer, (n, _) in storages.items() if pointer not in weights)


@every_config
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activation_bytes(config, dtype):
    """What the formula leaves out is less than 2%: ids, targets, the angles of rotary positions. In
    bfloat16 autograd saves copies of the weights, which budget.py counts by themselves.
    """
    copies, saved = training_memory(config, 2, dtype=dtype)["copies"], saved_bytes(config, dtype)
    counted = activation_bytes(config, 2, dtype) + copies
    assert counted == pytest.approx(saved, rel=0.01 if dtype == "float32" else 0.02)
    by_hand = dataclasses.replace(config, by_hand=True)
    counted, saved = activation_bytes(by_hand, 2, dtype) + copies, saved_bytes(by_hand, dtype)
    assert 0.98 < counted / saved < 1.2, "by hand rather too much than too little"


@pytest.mark.parametrize("activation", ["gelu", "relu2", "swiglu"])
@pytest.mark.parametrize("vocab_size", [16, 4000], ids=["few logits", "many logits"])
def test_memory_of_recomputed_blocks(activation, vocab_size):
    """What PyTorch had in use at most: of many ids when the backward pass begins, to 1%; of few
    while a block is recomputed, at most what is said.
    """
    config = model_config(vocab_size=vocab_size, seq_len=256, n_layer=4, n_head=2, n_kv_head=2,
                          d_model=64, d_ff=256, activation=activation)
    ids = ids_for(config)
    gc.collect()  # models of tests before, whose end would count here
    with torch.profiler.profile(profile_memory=True) as profile:
        model = make_model(config)
        for block in model.blocks:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        for _ in range(2):  # the second time all gradients are there
            model.loss(ids, ids).sum().backward()
    memory = training_memory(config, 2, recompute=True)
    said = sum(memory.values()) - memory["optimizer"]
    assert largest_use(profile) == pytest.approx(said, rel=0.01 if vocab_size == 4000 else 0.25)
    assert largest_use(profile) < 1.01 * said
    fewer = dataclasses.replace(config, n_layer=3)
    one = memory["activations"] - training_memory(fewer, 2, recompute=True)["activations"]
    assert one == 4 * 2 * 256 * 64, "of a block what it reads"
    assert recomputed_bytes(config, 2) == recomputed_bytes(fewer, 2), "one block, however many"


@every_config
def test_training_memory(config):
    model, ids = make_model(config), ids_for(config, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model.loss(ids, ids).sum().backward()
    optimizer.step()
    memory = training_memory(config, 1)
    assert memory["copies"] == 0, "what is computed in float32 needs no copy"
    assert memory["weights"] == sum(p.nbytes for p in model.parameters())
    assert memory["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    assert memory["optimizer"] == sum(t.nbytes for state in optimizer.state.values()
                                      for t in state.values() if t.numel() > 1)
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2]
    less = memory["optimizer"] - training_memory(config, 1, "muon")["optimizer"]
    assert less == sum(p.nbytes for p in matrices), "Muon keeps one average of a matrix, not two"
    multiplied = [p for p in model.blocks.parameters() if p.dim() == 2 or family_of(config).bias
                  and not any(p is q for m in model.modules() if type(m) is Norm
                              for q in m.parameters())] + [model.head.weight]
    copies = training_memory(config, 1, dtype="bfloat16")["copies"]
    assert copies == sum(p.nbytes // 2 for p in multiplied)


def test_training_memory_worked_example():
    """12 C^2 numbers in the block, V C in each table; C = 4, V = 9, 3 positions; with a pencil."""
    config = GPTConfig(vocab_size=9, seq_len=3, n_layer=1, n_head=1, n_kv_head=1, d_model=4,
                       d_ff=16)
    adamw, muon = training_memory(config, 2), training_memory(config, 2, "muon", "bfloat16")
    assert adamw["weights"] == adamw["gradients"] == 4 * (192 + 36 + 36)
    assert adamw["optimizer"] == 8 * 264 and muon["optimizer"] == 4 * 192 + 8 * 72
    assert adamw["workspace"] == 2 * 4 * 2 * 3 * 9, "the logits' gradient, twice"
    assert muon["copies"] == 2 * (192 + 36)


@every_config
def test_muon_groups(config):
    found = dict.fromkeys(muon_groups(config), 0)
    for block in make_model(config).blocks:
        D, matrices = config.head_dim, [p for p in block.parameters() if p.dim() == 2]
        split = [n * D for n in block.attention.heads]
        for p in matrices:
            for part in p.split(split) if p is block.attention.qkv.weight else [p]:
                found[tuple(part.shape)] += part.numel()
    assert found == muon_groups(config)


def test_muon_bytes():
    """C = 4, d_ff = 16: of the three groups of 64 numbers the square one has products as large as
    itself. With one key head of two, keys and values are a group of their own, and smaller."""
    config = GPTConfig(vocab_size=9, seq_len=3, n_layer=1, n_head=2, n_kv_head=2, d_model=4,
                       d_ff=16)
    assert muon_bytes(config) == 4 * (192 + (3 + 2) * 64)
    shared = dataclasses.replace(config, n_kv_head=1)
    assert muon_bytes(shared) == 4 * (176 + max((3 + 2) * 32, 3 * 64 + 2 * 16))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["modern-gqa", "gpt2-mha", "llama-gqa"])
def test_training_memory_is_what_is_taken(name, dtype):
    """PyTorch says how much of what it gave out was in use at most, in a second step whose batch
    comes in two halves: with all gradients there while activations are.
    """
    config = dataclasses.replace(CONFIGS[name], vocab_size=2000)
    ids = ids_for(config, 2)
    gc.collect()  # models of tests before, whose end would count here
    with torch.profiler.profile(profile_memory=True) as profile:
        model = make_model(config)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                for _ in range(2):
                    model.loss(ids, ids).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert sum(training_memory(config, 2, dtype=dtype).values()) == pytest.approx(
        largest_use(profile), rel=0.03)


def test_size():
    assert [*map(readable, (12, 1234, 5e6, 2.5e9, 7e12))] == ["12 B", "1.23 kB", "5 MB", "2.5 GB",
                                                               "7 TB"]
