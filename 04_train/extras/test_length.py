"""Tests of length.py: worked examples by pencil, and memory beside what PyTorch takes."""

import argparse
import dataclasses

import pytest

import length
import resuming
from budget import flops_per_token, training_memory
from length import (announce, largest_tensor, memory_needed, outside_table, plan, planned_steps,
                    refuse, windows_at_once)
from family import FAMILIES, model_config
from presets import FullConfig
from runs import choose_run
from train import Config

# 20 layers of width 1280: 20 * 12 * 1280^2 in the blocks, 1280 * 53,248 in each table
BIG = Config(vocab_size=53248, n_layer=20, n_head=10, n_kv_head=10, d_model=1280, d_ff=5120,
             seq_len=2048, batch_size=256, device="cpu")
SMALL = Config(vocab_size=2000, seq_len=64, n_layer=2, d_model=64, d_ff=256, batch_size=32,
               micro_batch=32, device="cpu")


def steps(config, **changes):
    config = dataclasses.replace(config, **changes)
    return planned_steps(config, config.gpt(config.vocab_size))


def needs(config, **changes):
    config = dataclasses.replace(config, **changes)
    return sum(memory_needed(config, config.gpt(config.vocab_size)).values())


def refused(config, available, **how):
    with pytest.raises(ValueError) as error:
        refuse(config, config.gpt(config.vocab_size), available, **how)
    return str(error.value)


# ---- how long ----
class Words:
    resume, name, preset = False, None, "x"


def test_what_the_user_says_wins():
    def new(preset, given):
        return choose_run(Words, given, preset, Config)[1]
    preset = {"steps": 100, "lr": 0.1}
    assert new(preset, {}) == Config(**preset) and new({}, {"lr": 1.0}) == Config(lr=1.0)
    found = new(preset, {"flops": 1e12, "lr": 0.2})
    assert (found.steps, found.flops, found.lr) == (0, 1e12, 0.2)
    found = new({}, {"tokens_per_param": 20.0})
    assert (found.steps, found.tokens_per_param) == (0, 20.0), "also over Config's own default"
    found = new({"flops": 1e12}, {"tokens_per_param": 20.0})
    assert (found.flops, found.tokens_per_param) == (0, 20.0), "no matter which way a preset goes"
    found = new({"tokens_per_param": 20.0, "steps": 0}, {})
    assert (found.steps, found.tokens_per_param) == (0, 20.0), "a preset may go any way"
    found = new(preset, {"steps": 7, "flops": 1e12})
    assert (found.steps, found.flops) == (7, 1e12), "both are the user's"


def test_outside_table():
    assert outside_table(BIG.gpt(53248)) == 461_373_440
    tied = FullConfig(**dataclasses.asdict(BIG) | {"tied": True, "family": None}).gpt(53248)
    assert outside_table(tied) == 20 * 12 * 1280**2, "a tied head is the table"


def test_planned_steps_precedence():
    assert steps(SMALL, steps=7, flops=1e15, tokens_per_param=20.0) == 7, (
        "steps, where they are given, come before flops and tokens_per_param")
    cost = flops_per_token(SMALL.gpt(2000)) * 32 * 64
    assert steps(SMALL, steps=0, flops=5.0 * cost, tokens_per_param=20.0) == 5, (
        "flops, where they are given, come before tokens_per_param")
    n = outside_table(SMALL.gpt(2000))
    assert steps(SMALL, steps=0, tokens_per_param=5 * 32 * 64 / n) == 5


def test_planned_steps_of_tokens():
    """20 : 1, 9.2 billion tokens; 17.5k steps where these 9.2 are not 9.227."""
    assert steps(BIG, steps=0, tokens_per_param=20.0) == 17_600, (
        "20 tokens for each parameter outside the table, in steps of batch_size * seq_len tokens")
    assert 17_600 == pytest.approx(9.2e9 / 524_288, rel=0.01)
    assert steps(BIG, steps=0, tokens_per_param=20.0, vocab_size=2 * 53248) > 20_000, "head counts"


def test_planned_steps_of_flops():
    """4e19 FLOPs: 28k steps if only the matrices counted; 6 * 461,373,440 and 12 * 20 * 1280 * T
    for each of 524,288 tokens are 24.7k with windows of 1024, 22.5k of 2048.
    """
    assert steps(BIG, steps=0, flops=4e19) == 22_457, (
        "a token costs flops_per_token(), with what attention computes beside its matrices")
    assert steps(BIG, steps=0, flops=4e19, seq_len=1024, batch_size=512) == 24_749
    assert 4e19 / (6 * 461_373_440 * 524_288) == pytest.approx(28_000, rel=0.02)


def test_planned_steps_rounds_up():
    cost = flops_per_token(SMALL.gpt(2000)) * 32 * 64
    assert steps(SMALL, steps=0, flops=1.0) == 1, "a run has at least one step"
    assert steps(SMALL, steps=0, flops=2.1 * cost) == 3, "a part of a step is a step"
    assert steps(SMALL, steps=0, flops=3.0 * cost) == 3
    assert steps(SMALL, steps=0, tokens_per_param=1e-6) == 1
    assert type(steps(SMALL, steps=0, flops=2.1 * cost)) is int


# ---- does it fit ----
def test_windows_at_once():
    for batch, micro, world, expected in ((8, 4, 1, 4), (8, 16, 1, 8), (8, 8, 3, 3), (8, 2, 3, 2)):
        config = Config(batch_size=batch, micro_batch=micro)
        assert windows_at_once(config, world) == expected, (batch, micro, world)


def test_largest_tensor():
    """Logits; the MLP's; a table; Muon's stack of both layers' matrices of one shape."""
    for windows, expected, how in ((2, 128 * 2000, {}), (2, 128 * 256, {"vocab_size": 100}),
                                   (1, 64 * 2000, {"seq_len": 8}),
                                   (1, 2 * 256 * 64, {"vocab_size": 100, "optimizer": "muon"})):
        config = dataclasses.replace(SMALL, **how)
        found = largest_tensor(config, config.gpt(config.vocab_size), windows)
        assert found == 4 * expected, how


def test_memory_needed(monkeypatch):
    """What tensors take, and what a CPU's heap loses."""
    shape = SMALL.gpt(2000)
    one, tensors = memory_needed(SMALL, shape), training_memory(shape, 32)
    assert one == tensors | {"holes": 7 * 4 * 32 * 64 * 2000}
    monkeypatch.setattr(length, "choose_device", lambda name: "cuda")
    assert memory_needed(SMALL, shape) == tensors, "only a heap has holes"


def test_refuse():
    shape = SMALL.gpt(2000)
    refuse(SMALL, shape, needs(SMALL))
    refuse(SMALL, shape, None)
    assert refused(SMALL, needs(SMALL) - 1).startswith(
        f"the run needs {length.readable(needs(SMALL))} of memory")


# ---- the plan ----
def test_plan():
    lines = "\n".join(plan(dataclasses.replace(BIG, steps=0, tokens_per_param=20.0),
                           BIG.gpt(53248), available=20e9, n_train_tokens=10**10))
    for part in ("529,530,880 parameters, 461,373,440 outside the embedding table",
                 "17,600 steps of 524,288 tokens: 9,227,468,800 tokens, 0.92 epochs, 20.00 a par",
                 "3,397.4 MFLOP a token, 3.13e+19 FLOP in all: ",
                 f"about {length.readable(needs(BIG))} of 20 GB that are free:",
                 "weights 2.12 GB, gradients 2.12 GB, optimizer 4.24 GB, activations"):
        assert part in lines, lines
    assert "copies" not in lines, "what takes nothing is not named"
    assert all(line.startswith(("model      ", "plan       ", "memory     ", " " * 11))
               for line in lines.splitlines())


def test_plan_without_measurements(monkeypatch):
    """A guess is called one; what is not known is left out."""
    monkeypatch.setattr(length, "matmul_peak", lambda device, dtype: 1e9)
    shape = SMALL.gpt(2000)
    lines = "\n".join(plan(SMALL, shape, world=2))
    seconds = SMALL.steps * 32 * 64 * flops_per_token(shape) / (0.5 * 2e9)
    assert f"{length.duration(seconds)} if a step reaches 50% of 2 GFLOP/s, which is a gu" in lines
    assert "epochs" not in lines and "free" not in lines and "a process" in lines


def test_the_model_in_words():
    assert length.in_words(SMALL.gpt(2000)) == (
        "2 layers of width 64, 2 heads, 2 of keys and values, MLP 256 wide, 2,000 ids, window 64")
    gpt2 = model_config(**FAMILIES["gpt2"])
    assert "positions learned, norm layernorm, " in length.in_words(gpt2)
    assert "rope_base" not in length.in_words(gpt2), "only what differs"


def test_what_needs_no_training(monkeypatch, capsys, tmp_path):
    """A plan, a finished run; and a new run that can't be kept is refused at once."""
    words = argparse.Namespace(plan=False, profile=False, runs_dir=tmp_path / "runs")
    assert not length.answered(words, None, SMALL) and not [*tmp_path.iterdir()]
    monkeypatch.setattr(resuming, "finished", lambda folder, config: folder.name == "done")
    assert length.answered(words, tmp_path / "done", SMALL)
    assert not length.answered(words, tmp_path / "begun", SMALL)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OSError, match="runs is no folder"):
        length.answered(words, None, SMALL)
    words.plan = True
    assert length.answered(words, None, SMALL) and "plan " in capsys.readouterr().out


def test_what_does_not_fit_is_refused(monkeypatch):
    class Data:
        train = range(100)

        class tokenizer:
            vocab_size = 50
    monkeypatch.setattr(length, "matmul_peak", lambda device, dtype: 1e9)
    monkeypatch.setattr(length, "free_memory", lambda device: 1000)
    with pytest.raises(ValueError, match="of memory, 1 kB are free"):
        announce(SMALL, Data)
    monkeypatch.setattr(length, "free_memory", lambda device: None)
    config = dataclasses.replace(SMALL, steps=0, flops=1e9)
    assert announce(config, Data) == dataclasses.replace(
        config, flops=0.0, steps=planned_steps(config, config.gpt(50)))


def test_what_a_plan_does_not_count(monkeypatch):
    """Adapters, the reference of pairs, and the keys and values of answers."""
    monkeypatch.setattr(length, "matmul_peak", lambda device, dtype: 1e9)

    def lines(**changes):
        config = FullConfig(vocab_size=300, seq_len=64, n_layer=2, n_head=2, n_kv_head=1,
                            d_model=32, d_ff=64, batch_size=16, init="x", device="cpu", **changes)
        return config, [*plan(config, config.gpt(300))]
    assert not any("not counted" in line for line in lines()[1])
    assert "frozen matrices have no gradients" in lines(lora=4)[1][-1]
    config, said = lines(sampling="answers")
    n_bytes = 16 * 64 * 2 * 2 * 16 * 4  # answers, ids, keys and values, layers, a head's numbers
    assert f"writing 16 answers at once takes other FLOP, and up to {n_bytes / 1e3:.3g} kB" in (
        said[-1])
    config, said = lines(sampling="pairs")
    model = config.make_model(300)
    assert memory_needed(config, config.gpt(300))["reference"] == 4 * sum(
        p.numel() for p in model.parameters()) and "a third more FLOP" in said[-1]
