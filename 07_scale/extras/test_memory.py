"""Tests of memory.py: a billion on two cards by pencil, and laws that hold for every engine."""

import dataclasses

import pytest

from budget import activation_bytes, muon_bytes, training_memory
from family import MODELS, model_config
from memory import (DIVIDED, ITEMS, buffers, fullest, groups, moments, muon_work, parameters,
                    peak, rank_states)
from presets import ALL as PRESETS, FullConfig as Config

BILLION = model_config(**MODELS["1b"])
RUN = Config(**PRESETS["1b"])  # Muon, bfloat16
ADAMW = dataclasses.replace(RUN, optimizer="adamw")
# 26 blocks of 12 * 1664^2, and two tables of 1664 x 49,152
N = 26 * 12 * 1664**2 + 2 * 1664 * 49152
several = pytest.mark.parametrize("engine", [name for name in DIVIDED if name != "plain"])


def total(config, engine="plain", world=1, windows=1, recompute=False, low=False):
    return peak(moments(config, BILLION, engine, world, windows, recompute, low))


def test_rank_states():
    """1,000 parameters, with 600 of them Muon's or none; odd numbers are rounded up."""
    for engine, matrices, world, low, expected in (
            ("plain", 0, 1, False, (4000, 4000, 8000)), ("ddp", 0, 2, False, (4000, 4000, 8000)),
            ("ddp", 600, 2, False, (4000, 4000, 5600)), ("zero1", 0, 2, False, (4000, 4000, 4000)),
            ("zero1", 600, 4, False, (4000, 4000, 1400)),
            ("zero2", 0, 4, False, (4000, 1000, 2000)),
            ("fsdp2", 0, 8, False, (500, 500, 1000)), ("zero1", 0, 3, False, (4000, 4000, 2667)),
            ("plain", 0, 1, True, (2000, 2000, 12000)), ("zero1", 600, 2, True, (2000, 2000, 4800)),
            ("fsdp2", 0, 2, True, (1000, 1000, 6000))):
        found = rank_states(1000, matrices, engine, world, low)
        assert tuple(found[k] for k in ("weights", "gradients", "optimizer")) == expected, (
            engine, matrices, world, low)


def test_a_billion_parameters():
    assert parameters(BILLION) == N == 1_027_473_408
    block, outside = groups(BILLION)
    assert (block, outside) == (12 * 1664**2, 2 * 1664 * 49152)


def test_buffers():
    """A bucket, or the table's when it is the last; the head twice; what FSDP gathers."""
    def both(engine, world=2, muon=False):
        return buffers(BILLION, engine, world, muon, width=4)
    head, block, matrix = 1664 * 49152, 12 * 1664**2, 4 * 1664**2
    assert both("plain") == (0, 0)
    assert both("ddp") == both("zero1") == (4 << 20, 8 * head), "to be added, and as a message"
    assert both("torch-ddp") == (4 * N, 4 * N)
    assert both("zero2") == (2 * 4 * head,) * 2, "its gradients, and as a message"
    assert both("zero2", 4, muon=True) == (3 * 4 * 2 * 4 * matrix,) * 2, "three buckets"
    assert both("zero2", 32, muon=True) == (3 * 4 * 2 * 32 * matrix,) * 2, "of two a rank"
    assert both("fsdp2") == (4 * (4 * head + 2 * block),) * 2


def test_moments_of_a_billion_on_two_cards():
    """By pencil, for AdamW under ZeRO-1, one window of 1,024 tokens."""
    found = moments(ADAMW, BILLION, "zero1", 2, 1)
    assert list(found) == ["backward begins", "backward ends", "optimizer"]
    copies = 2 * (N - 1664 * 49152)  # all but the table is multiplied by
    states = {"weights": 4 * N, "gradients": 4 * N, "optimizer": 4 * N}
    assert found["optimizer"] == states | {"gradients": 2 * N, "muon": 0, "buffers": 0}
    assert found["backward ends"] == states | {"copies": copies, "buffers": 8 * 1664 * 49152}
    logits = 4 * 1024 * 49152  # with their tanh, and two gradients on their way
    assert found["backward begins"] == states | {
        "copies": copies, "buffers": 4 << 20, "logits": 4 * logits,
        "activations": activation_bytes(BILLION, 1, "bfloat16") - 2 * logits}
    assert peak(found) == sum(found["backward begins"].values()), "activations are the most"


def test_muon_work():
    """Of one rank it is the trainer's; of 2, half the gradients, and all of one shape; of 64, a
    share so small that one shape is all there is.
    """
    assert muon_work(BILLION, 1) == muon_bytes(BILLION)
    every, square = 26 * 12 * 1664**2, 26 * 4 * 1664**2  # attention's are square: 3 + 2 times
    assert muon_work(BILLION, 2) == 4 * (every // 2 + 5 * square)
    assert muon_work(BILLION, 64) == 4 * (every // 64 * 6)


def test_moments_of_muon():
    """Its work comes when activations and copies are gone; under ZeRO-1 gradients are divided by
    then.
    """
    for engine, world, ranks in (("plain", 1, 1), ("ddp", 2, 1), ("zero1", 2, 2), ("zero2", 4, 4)):
        found = moments(RUN, BILLION, engine, world)["optimizer"]
        assert found["muon"] == muon_work(BILLION, ranks), engine
        assert found["gradients"] == 4 * N // ranks, engine
        assert "activations" not in found and "copies" not in found
    assert moments(RUN, BILLION, "torch-ddp", 2)["optimizer"]["buffers"] == 4 * N, "for good"


def test_moments_of_recomputed_blocks():
    found = moments(ADAMW, BILLION, recompute=True, windows=2)
    kept = 4 * 2 * 1024 * 1664  # what one block reads
    fewer = moments(ADAMW, dataclasses.replace(BILLION, n_layer=25), recompute=True, windows=2)
    assert found["backward begins"]["activations"] - fewer["backward begins"]["activations"] == kept
    assert found["a block again"]["activations"] > found["backward begins"]["activations"]
    assert "logits" not in found["a block again"], "they are gone by then"
    assert total(ADAMW, windows=4, recompute=True) < total(ADAMW, windows=4)


def test_moments_with_masters():
    """2 + 2 + 4 + 8 bytes instead of 4 + 4 + 8 and 2 for the copies."""
    found = moments(ADAMW, BILLION, low=True)["backward begins"]
    assert found["weights"] == found["gradients"] == 2 * N and found["optimizer"] == 12 * N
    assert found["copies"] == 0


@pytest.mark.parametrize("config", [RUN, ADAMW, dataclasses.replace(RUN, dtype="float32")],
                         ids=["muon", "adamw", "float32"])
def test_one_process_is_the_trainers(config):
    """Alone, the plan is what stage 4 says, with and without recomputing."""
    for windows in (1, 4):
        for recompute in (False, True):
            expected = training_memory(BILLION, windows, config.optimizer, config.dtype, recompute)
            assert total(config, windows=windows, recompute=recompute) == pytest.approx(
                sum(expected.values()), rel=0.01), (windows, recompute)


@several
def test_what_an_engine_divides(engine):
    """Over N ranks to an N-th; all else is whole."""
    one, four = (rank_states(N, 0, engine, world) for world in (1, 4))
    for name, n_bytes in one.items():
        assert four[name] == (n_bytes / 4 if name in DIVIDED[engine] else n_bytes), name


@several
def test_fullest(engine):
    found = moments(RUN, BILLION, engine, 2, 2, True)
    items = fullest(found)
    assert list(items) == list(ITEMS), "all items, in one order"
    assert sum(items.values()) == peak(found) == max(sum(m.values()) for m in found.values())


def test_what_takes_less_takes_less():
    needs = [total(RUN, engine, 2, 4) for engine in ("torch-ddp", "zero1", "zero2", "fsdp2")]
    assert needs == sorted(needs, reverse=True)
