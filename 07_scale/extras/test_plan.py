"""Tests of plan.py: a billion on two cards by pencil, laws that hold for every engine, what fits,
how long it takes and what it costs, and what the command says.
"""

import dataclasses
import re

import pytest
import torch

from budget import activation_bytes, count_adapters, muon_bytes, training_memory
from gpt import GPT
from optim import make_optimizer
from plan import (DIVIDED, GPUS, ITEMS, SERVED, TOKENIZED, TRAFFIC, Job, accumulation, buffers,
                  disk_bytes, fullest, largest_micro_batch, main, moments, muon_work, offer,
                  parameters, peak, rank_states, run_length, step_seconds)
from presets import ALL as PRESETS, FullConfig as Config
from runs import save_checkpoint, tensors

RUN = Config(**PRESETS["1b"])  # Muon, bfloat16
BILLION = RUN.gpt(RUN.vocab_size)
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
            f"{engine}, {matrices} of 1,000 parameters Muon's, {world} ranks, {low=}: bytes of "
            f"weights, gradients and optimizer must be {expected}")


def test_a_billion_parameters():
    assert parameters(BILLION) == N == 1_027_473_408


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
    assert both("fsdp2") == (4 * (3 * head + block),) * 2
    shape = dataclasses.replace(BILLION, vocab_size=512)  # a small table: four times a block
    assert buffers(shape, "fsdp2", 2, False, width=4) == (16 * block,) * 2


def test_moments_of_a_billion_on_two_cards():
    """By pencil, for AdamW under ZeRO-1, one window of 1,024 tokens."""
    found = moments(ADAMW, BILLION, "zero1", 2, 1)
    assert list(found) == ["backward begins", "backward ends", "optimizer", "evaluation"]
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


def test_adapters():
    """As stage 4 says; what each rank has whole of the weights has neither gradients nor averages.
    """
    config = dataclasses.replace(ADAMW, init="x", lora=8)
    expected = training_memory(BILLION, 4, "adamw", config.dtype, rank=8)
    assert total(config, windows=4) == pytest.approx(sum(expected.values()), rel=0.01)
    adapters = count_adapters(BILLION, 8)
    for engine in DIVIDED:
        for found in moments(config, BILLION, engine, 2).values():
            assert found["weights"] == 4 * (N + adapters) // (1 + (engine == "fsdp2"))
            assert found["gradients"] <= 4 * adapters and found["optimizer"] <= 8 * adapters
            assert engine == "fsdp2" or found["buffers"] <= 12 * adapters


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
    assert sum(items.values()) == peak(found) == max(sum(m.values()) for m in found.values()), (
        "a rank needs what its fullest moment needs, not all moments together")


@pytest.mark.parametrize("recompute", [False, True])
@several
def test_an_evaluation_is_never_the_fullest_moment(engine, recompute):
    """It has the activations of one block, few logits, and no gradients."""
    for name, preset in PRESETS.items():
        config = Job(**preset)
        found = moments(config, config.model_config, engine, 2, 1, recompute)
        evaluation = found.pop("evaluation")
        assert evaluation["gradients"] == 0 < evaluation["activations"]
        assert sum(evaluation.values()) <= peak(found), name


def test_what_takes_less_takes_less():
    needs = [total(RUN, engine, 2, 4) for engine in ("torch-ddp", "zero1", "zero2", "fsdp2")]
    assert needs == sorted(needs, reverse=True)


# ---- what fits, and how long it takes ----
JOB = Job(**PRESETS["1b"])  # on two RTX 3090 Ti
CARD = GPUS["rtx3090ti"]


def test_largest_micro_batch():
    for room, most, expected in ((9, 100, 0), (10, 100, 1), (50, 100, 4), (80, 100, 8),
                                 (79, 100, 4), (10**9, 100, 64), (10**9, 1, 1), (10**9, 64, 64)):
        assert largest_micro_batch(lambda k: 10 * k, room, most) == expected, (
            f"10 bytes a window, {room} bytes of room, at most {most} windows: {expected} fit")


@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2", "fsdp2"])  # torch-ddp: not even one
def test_the_largest_micro_batch_fits_and_twice_as_much_does_not(engine):
    found = offer(JOB, CARD, engine, False)
    assert found.windows >= 1 and sum(found.items.values()) <= 24e9
    assert peak(moments(RUN, BILLION, engine, 2, 2 * found.windows)) > 24e9


def test_accumulation():
    for batch, world, windows, expected in ((512, 2, 2, 128), (512, 2, 256, 1), (10, 2, 2, 3)):
        config = dataclasses.replace(RUN, batch_size=batch)
        assert accumulation(config, world, windows) == expected


def test_step_seconds():
    """Arithmetic by pencil; a third more when blocks are recomputed; a slow link is what counts."""
    flops = (6 * (N - 1664 * 49152) + 12 * 26 * 1664 * 1024) * 524288
    plain = step_seconds(JOB, CARD, "ddp", 1, False)
    assert plain == pytest.approx(flops / (2 * 0.4 * 80e12))
    assert step_seconds(JOB, CARD, "ddp", 1, True) == pytest.approx(4 / 3 * plain)
    slow = CARD._replace(link=0.01)  # GB/s; all-reduce: 2 * (N - 1) / N times 4 bytes a parameter
    for engine in ("ddp", "torch-ddp", "zero1"):
        assert step_seconds(JOB, slow, engine, 1, False) == pytest.approx(4 * N / 1e7), engine
    assert step_seconds(JOB, slow, "zero2", 2, False) == pytest.approx(
        (1 + 128) * 4 * N / 2 / 1e7), "a gather, and a scatter for each of 128 micro-batches"
    assert step_seconds(JOB, slow, "fsdp2", 2, False) == pytest.approx(
        3 * 128 * 4 * N / 2 / 1e7), "two gathers and a scatter for each of 128 micro-batches"
    assert step_seconds(JOB, slow._replace(tflops=1e-3), "ddp", 1, False) > plain


def test_every_engine_has_its_traffic():
    assert TRAFFIC.keys() == DIVIDED.keys()


# ---- money and disks ----
def test_run_length():
    """20 seconds on two GPUs at 0.9 dollars an hour are a cent; and what the other ways say."""
    job = dataclasses.replace(JOB, price=0.9, budget=1.005)
    assert run_length(job, 20.0) == (100, "1.005 dollars at 0.9 a GPU-hour"), "half a step is none"
    with pytest.raises(ValueError, match="--budget 0.005 buys no step: one costs 0.01 dollars"):
        run_length(dataclasses.replace(job, budget=0.005), 20.0)
    assert run_length(JOB, 20.0) == (36_075, "tokens_per_param 20")
    assert run_length(dataclasses.replace(JOB, steps=7), 20.0) == (7, "steps 7")


def test_disk_bytes():
    """AdamW: 4 + 8 bytes a parameter; Muon 4 less for the blocks'; divided states are put together;
    fsdp2 has no Muon. A snapshot, without optimizer state: 4. An id takes 2 bytes as long as 65,536
    are enough.
    """
    inside = 26 * 12 * 1664**2
    for changes, expected in ((dict(optimizer="adamw"), 12 * N), ({}, 12 * N - 4 * inside),
                              (dict(engine="fsdp2"), 12 * N), (dict(engine="zero2", gpus=8),
                                                               12 * N - 4 * inside)):
        job = dataclasses.replace(JOB, **changes)
        assert disk_bytes(job, 10) == (10 * 524288 * 2, expected, 4 * N), changes
    for vocab_size, width in ((1 << 16, 2), ((1 << 16) + 1, 4)):
        job = dataclasses.replace(JOB, vocab_size=vocab_size)
        assert disk_bytes(job, 10)[0] == 10 * 524288 * width


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_disk_bytes_of_a_real_checkpoint(tmp_path, optimizer):
    """What the trainer saves, with a few kilobytes of names and counts."""
    job = Job(vocab_size=512, seq_len=16, n_layer=2, n_head=2, n_kv_head=2, d_model=128, d_ff=512,
              optimizer=optimizer)
    model = GPT(job.model_config)
    stepper = make_optimizer(model, job)
    ids = torch.zeros(1, 16, dtype=torch.long)
    model.loss(ids, ids).mean().backward()
    stepper.step()
    save_checkpoint(tmp_path, 1, tensors(model), {"optimizer": stepper.state_dict()})
    save_checkpoint(tmp_path / "snapshots", 1, tensors(model), {})
    found = [sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
             for folder in (tmp_path / "checkpoints", tmp_path / "snapshots")]
    assert found == pytest.approx(disk_bytes(job, 1)[1:], rel=0.02)


# ---- the command ----
@pytest.fixture
def said(tmp_path, capsys):
    """said(options): what the command prints."""
    def run(options):
        main([*options.split(), "--out", str(tmp_path / "m.png")])
        assert (tmp_path / "m.png").stat().st_size > 10_000
        return capsys.readouterr().out
    return run


def test_command(said):
    text = said("--gpu rtx3090ti --gpus 2 --price 0.4")
    seconds = 6206e6 * 524288 / (0.8 * 80e12)
    days, rate = 36075 * seconds / 86400, 524288 / seconds
    for part in ("1,027,473,408 parameters, 945,684,480 of them outside",
                 "36,075 steps, 18.9B tokens", "FLOP: tokens_per_param 20\n20 tokens for each",
                 "Yes, with zero1: micro-batches of 2, 128 of them",
                 f"{days:.1f} days, {48 * days:,.0f} GPU-hours, {48 * days * 0.4:,.0f} dollars",
                 "an assumption", "37.8 GB of prepared data", "newest 2 checkpoints and the best",
                 "26.6 GB, and 8.87 GB more", f"{rate / TOKENIZED:.3g} busy if text is tokenized",
                 f"{rate / SERVED:.3g} if data is prepared"):
        assert part in text, text
    assert all(f"  {name} " in text for name in GPUS), "a row for every GPU"


def test_command_takes_the_length_that_was_asked_for(said):
    text = said("--preset tiny --gpus 1 --flops 1e15 --snapshots 12")
    assert "FLOP: flops 1e+15\n" in text and "Yes, with plain" in text
    assert ", 12 snapshots, 101 MB, and " in text


def test_command_spends_its_budget(said):
    """Half the dollars, half the steps, half the tokens a parameter; and never a dollar more."""
    text = said("--price 0.4 --budget 203.8")
    steps = int(re.search(r"([\d,]+) steps, 9.46B tokens", text)[1].replace(",", ""))
    assert steps == pytest.approx(36075 / 2, rel=1e-3)
    assert "FLOP: 203.8 dollars at 0.4 a GPU-hour\n10 tokens for each parameter" in text
    assert ", 204 dollars, if" in text


def test_command_says_no(said):
    """And what would fit. 16 bytes for each of 7 billion are 108 GB, a half of it too much, too."""
    how = "--optimizer adamw --dtype bfloat16 --preset"
    assert re.search("No: with torch-ddp one window needs 2.*The rows above say what fits",
                     said(f"{how} 1b --engine torch-ddp"))
    assert "Nothing here fits: take more GPUs, or a smaller model" in said(f"{how} llama-7b")


@pytest.mark.parametrize("options, words", [
    ("--gpu rtx9999", "rtx9999"), ("--gpus 0", "gpus is 0"), ("--price -1", "price is -1.0"),
    ("--price nan", "price is nan"), ("--utilisation 0", "utilisation is 0.0"),
    ("--engine plain", "engine plain is not for 2"), ("--gpus 1 --engine zero1", "not for 1"),
    ("--preset 2b", "2b"), ("--batch-size 0", "batch_size is 0"),
    ("--budget 100", "--budget needs --price"), ("--budget inf --price 1", "budget is inf"),
    ("--budget 100 --steps 5 --price 1", "--steps and --budget contradict each other"),
    ("--flops 1e9 --tokens-per-param 20", "--flops and --tokens-per-param contradict"),
    ("--budget 0.001 --price 1", "buys no step")])
def test_mistakes_are_one_line(fails, options, words):
    assert words in fails(main, *options.split())
