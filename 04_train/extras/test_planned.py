"""Tests of planned.py: what is advised fits, and is the largest that does."""

import dataclasses

import pytest

import length
from length import announce, refuse, windows_at_once
from planned import show_plan
from test_length import SMALL, needs, refused


def test_refuse_names_the_largest_micro_batch_that_fits():
    shape = SMALL.gpt(2000)
    for n in (16, 8, 1):
        said = refused(SMALL, needs(SMALL, micro_batch=n) + 1)
        assert f"--micro-batch {n} (accumulated over {32 // n}) needs" in said
        assert f"needs {length.size(needs(SMALL))} of memory, " in said and "same grad" in said
        refuse(dataclasses.replace(SMALL, micro_batch=n), shape, needs(SMALL, micro_batch=n) + 1)
    odd = dataclasses.replace(SMALL, batch_size=18, micro_batch=18)
    assert "--micro-batch 9 (accumulated over 2)" in refused(odd, needs(odd, micro_batch=9))
    assert "--micro-batch 8 (accumulated over 3)" in refused(odd, needs(odd, micro_batch=8))
    many = dataclasses.replace(SMALL, batch_size=64)  # of four processes each has 16 windows
    assert "--micro-batch 8 (accumulated over 2)" in refused(
        many, 8, world=4, memory=lambda config, shape: {"a window": windows_at_once(config, 4)})


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
    assert f"--seq-len 512 then needs {length.size(half)}" in said
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
    assert "20.0" in capsys.readouterr().out
    monkeypatch.setattr(length, "free_memory", lambda device: 1000)
    show_plan(SMALL)  # which answers the question, and so is no error
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("here ") and last.endswith("a smaller --preset is what it takes")
