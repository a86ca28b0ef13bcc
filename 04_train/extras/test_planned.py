"""Tests of planned.py: what is advised fits, and is the largest that does."""

import dataclasses

import numpy as np
import pytest
import torch

import length
import planned
from costs import evaluation_memory
from data import Ids
from length import announce, refuse, windows_at_once
from optim import make_optimizer
from planned import show_plan
from presets import FullConfig
from test_budget import largest_use
from test_length import SMALL, needs, refused
from train import Config, evaluate, train_step


def test_refuse_names_the_largest_micro_batch_that_fits():
    shape = SMALL.gpt(2000)
    for n in (16, 8, 1):
        said = refused(SMALL, needs(SMALL, micro_batch=n) + 1)
        assert f"--micro-batch {n} (accumulated over {32 // n}) needs" in said
        assert f"needs {length.readable(needs(SMALL))} of memory, " in said and "same grad" in said
        refuse(dataclasses.replace(SMALL, micro_batch=n), shape, needs(SMALL, micro_batch=n) + 1)
    odd = dataclasses.replace(SMALL, batch_size=18, micro_batch=18)
    assert "--micro-batch 9 (accumulated over 2)" in refused(odd, needs(odd, micro_batch=9))
    assert "--micro-batch 8 (accumulated over 3)" in refused(odd, needs(odd, micro_batch=8))
    many = dataclasses.replace(SMALL, batch_size=64)  # of four processes each has 16 windows
    assert "--micro-batch 8 (accumulated over 2)" in refused(
        many, 8, world=4, memory=lambda config, shape: {"a window": windows_at_once(config, 4)})


def test_refuse_names_adapters_of_a_model_that_is_trained_already():
    shape = {name: getattr(SMALL, name) for name in ("vocab_size", "n_layer", "d_model", "d_ff",
                                                     "seq_len", "batch_size", "device")}
    config = FullConfig(**shape, init="x")
    less = needs(config, lora=8, micro_batch=1)
    assert needs(config, micro_batch=1, seq_len=1) > less, "else a shorter window is enough, too"
    all_trained, adapters = (length.readable(n) for n in (needs(config, micro_batch=1), less))
    assert (f"--micro-batch 1 still needs {all_trained}: --lora 8 then needs {adapters}"
            in refused(config, less))


def test_on_a_gpu_the_largest_micro_batch_is_chosen(monkeypatch, capsys):
    """That fits into nine tenths of what is free; one that was asked for, and a CPU's, is kept."""
    class Data:
        train = range(100)

        class tokenizer:
            vocab_size = 2000
    free, config = {}, dataclasses.replace(SMALL, micro_batch=4)
    monkeypatch.setattr(length, "matmul_peak", lambda device, dtype: 1e9)
    monkeypatch.setattr(length, "free_memory", lambda device: free["bytes"])
    monkeypatch.setattr(length, "choose_device", lambda name: name)
    assert SMALL.batch_size == 32
    on_gpu = dataclasses.replace(config, device="cuda")
    for n in (1, 2, 8, 32):
        for others, expected in ((0.9, n), (1.0, max(1, n // 2))):
            free["bytes"] = int(needs(on_gpu, micro_batch=n) / others) + 1
            if n > 1 or others < 1:
                assert announce(on_gpu, Data, keep=False).micro_batch == expected
    assert announce(on_gpu, Data).micro_batch == 4, "it was asked for"
    monkeypatch.setattr(planned, "choose_device", lambda name: name)
    for keep, n in ((True, 4), (False, 16)):
        capsys.readouterr()
        show_plan(dataclasses.replace(on_gpu, vocab_size=2000), keep=keep)
        most = length.readable(needs(on_gpu, micro_batch=n))
        assert f"memory     about {most} of " in capsys.readouterr().out, "--plan shows that run"
    assert announce(dataclasses.replace(config, device="cpu"), Data, keep=False).micro_batch == 4
    free["bytes"] = None
    assert announce(on_gpu, Data, keep=False).micro_batch == 4, "nobody knows"
    with pytest.raises(ValueError, match="--micro-batch 1 still needs"):
        free["bytes"] = 1000
        announce(on_gpu, Data, keep=False)


def test_refuse_names_what_else_would_fit():
    """Where one window at a time is too much; and only what is enough."""
    long = dataclasses.replace(SMALL, seq_len=1024)
    half = needs(long, micro_batch=1, seq_len=512)
    said = refused(long, half)
    assert "--micro-batch 1 still needs" in said and "\n" not in said
    assert f"--seq-len 512 then needs {length.readable(half)}" in said
    assert "--optimizer" not in said, "it would not be enough"
    low = needs(long, micro_batch=1, dtype="bfloat16")
    assert half < low and "--dtype bfloat16 then needs" in refused(long, low)
    one = needs(long, micro_batch=1, optimizer="muon")
    assert "--optimizer muon then needs" in refused(long, one)
    assert "a smaller --preset is what it takes" in refused(long, 1000)


def test_refuse_names_the_optimizer_that_takes_less():
    """Muon keeps less and works with more: of few tokens AdamW takes less."""
    config = dataclasses.replace(SMALL, d_model=256, d_ff=1024, seq_len=16, optimizer="muon",
                                 vocab_size=100)
    assert "--optimizer adamw then needs" in refused(
        config, needs(config, micro_batch=1, optimizer="adamw"))


def test_a_plan_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(length, "matmul_peak", lambda device, dtype: 1e9)
    show_plan(dataclasses.replace(SMALL, steps=0, tokens_per_param=20.0))
    out = capsys.readouterr().out
    needed = evaluation_memory(SMALL.gpt(2000), 32)
    most = length.readable(sum(needed.values()))
    assert "20.0" in out and f"evaluation about {most} of memory" in out
    show_plan(SMALL, 2, lambda config, shape, evaluating=False: {"x": 3 if evaluating else 7})
    assert "evaluation about 3 B of memory, between steps:\n           x 3 B" in (
        capsys.readouterr().out)
    monkeypatch.setattr(length, "free_memory", lambda device: 1000)
    show_plan(SMALL)  # which answers the question, and so is no error
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("here ") and last.endswith("a smaller --preset is what it takes")


SHAPES = {
    "long windows": dict(vocab_size=64, seq_len=1024, n_layer=2, d_model=64, micro_batch=2),
    "many ids": dict(vocab_size=8000, seq_len=64, n_layer=2, d_model=32, micro_batch=16),
    "deep": dict(vocab_size=256, seq_len=64, n_layer=12, d_model=32, micro_batch=4),
    "wide": dict(vocab_size=256, seq_len=32, n_layer=1, d_model=256, micro_batch=4, d_ff=2048,
                 optimizer="muon")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_an_evaluation_takes_no_more_memory_than_a_step(name, dtype):
    """Of a text of many windows; and what tensors take at most is what is planned, to 10%."""
    config = Config(**SHAPES[name] | dict(dtype=dtype, batch_size=2 * SHAPES[name]["micro_batch"]))
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (config.batch_size, 1025))
    batch = ids[:, :config.seq_len], ids[:, 1:config.seq_len + 1]
    with torch.profiler.profile(profile_memory=True) as profile:
        model = config.make_model(config.vocab_size)
        optimizer = make_optimizer(model, config)
        for step in range(2):
            train_step(model, optimizer, batch, step, config)
    of_a_step = largest_use(profile)
    kept = sum(t.nbytes for state in optimizer.state.values() for t in state.values()
               if isinstance(t, torch.Tensor)) + sum(p.nbytes for p in model.parameters())
    text = Ids(ids.flatten()[:40 * config.seq_len + 1])
    with torch.profiler.profile(profile_memory=True) as profile:
        evaluate(model, text, [1] * config.vocab_size, config)
    of_an_evaluation = kept + largest_use(profile)
    assert of_an_evaluation <= of_a_step
    planned = evaluation_memory(model.config, config.micro_batch, config.optimizer, dtype)
    assert sum(planned.values()) == pytest.approx(of_an_evaluation, rel=0.1)
