"""Tests of plan.py: what fits, how long it takes, what the command says."""

import dataclasses

import pytest

from family import MODELS, model_config
from memory import moments, peak
from plan import GPUS, accumulation, largest_micro_batch, main, offer, step_seconds
from presets import ALL as PRESETS, FullConfig as Config

BILLION = model_config(**MODELS["1b"])
RUN = Config(**PRESETS["1b"])  # Muon, bfloat16
N = 1_027_473_408  # its parameters, test_memory.py


def test_largest_micro_batch():
    for room, most, expected in ((9, 100, 0), (10, 100, 1), (50, 100, 4), (80, 100, 8),
                                 (79, 100, 4), (10**9, 100, 64), (10**9, 1, 1), (10**9, 64, 64)):
        assert largest_micro_batch(lambda k: 10 * k, room, most) == expected, (room, most)


@pytest.mark.parametrize("engine", ["ddp", "zero1", "zero2", "fsdp2"])  # torch-ddp: not even one
def test_the_largest_micro_batch_fits_and_twice_as_much_does_not(engine):
    found = offer(RUN, BILLION, GPUS["rtx3090ti"], engine, 2, False, False, 0.4)
    assert found.windows >= 1 and sum(found.items.values()) <= 24e9
    assert peak(moments(RUN, BILLION, engine, 2, 2 * found.windows)) > 24e9


# ---- time ----

def test_accumulation():
    for batch, world, windows, expected in ((512, 2, 2, 128), (512, 2, 256, 1), (10, 2, 2, 3)):
        config = dataclasses.replace(RUN, batch_size=batch)
        assert accumulation(config, world, windows) == expected


def test_step_seconds():
    """Arithmetic by pencil; a third more when blocks are recomputed; a slow link is what counts."""
    gpu = GPUS["rtx3090ti"]
    flops = (6 * (N - 1664 * 49152) + 12 * 26 * 1664 * 1024) * 524288
    plain = step_seconds(RUN, BILLION, gpu, "ddp", 2, 1, False, 0.4)
    assert plain == pytest.approx(flops / (2 * 0.4 * 80e12))
    assert step_seconds(RUN, BILLION, gpu, "ddp", 2, 1, True, 0.4) == pytest.approx(4 / 3 * plain)
    slow = gpu._replace(link=0.01)  # GB/s; all-reduce: 2 * (N - 1) / N times 4 bytes a parameter
    assert step_seconds(RUN, BILLION, slow, "ddp", 2, 1, False, 0.4) == pytest.approx(4 * N / 1e7)
    assert step_seconds(RUN, BILLION, slow, "fsdp2", 2, 2, False, 0.4) == pytest.approx(
        3 * 128 * 4 * N / 2 / 1e7), "two gathers and a scatter for each of 128 micro-batches"
    assert step_seconds(RUN, BILLION, slow._replace(tflops=1e-3), "ddp", 2, 1, False, 0.4) > plain


# ---- the command ----

def test_command(tmp_path, capsys):
    main(["--gpu", "rtx3090ti", "--gpus", "2", "--price", "0.4", "--out", str(tmp_path / "m.png")])
    said = capsys.readouterr().out
    days = 36075 * 6206e6 * 524288 / (0.8 * 80e12) / 86400
    for part in ("1,027,473,408 parameters, 945,684,480 of them outside", "by steps            not",
                 "36,075 steps, 18.9B tokens", "(this one counts)", "Yes, with zero1: micro-batch",
                 f"{days:.1f} days", f"{48 * days * 0.4:,.0f} at 0.4 an hour", "an assumption"):
        assert part in said, said
    assert all(f"  {name} " in said for name in GPUS), "a row for every GPU"
    assert (tmp_path / "m.png").stat().st_size > 10_000


def test_command_takes_the_length_that_was_asked_for(tmp_path, capsys):
    main(["--preset", "tiny", "--gpus", "1", "--flops", "1e15", "--out", str(tmp_path / "m.png")])
    said = capsys.readouterr().out
    assert "a budget of 1e+15 FLOP (this one counts)" in said and "20 tokens a parameter\n" in said
    assert "Yes, with plain" in said


def test_command_says_no(tmp_path, capsys):
    """And what would fit. 16 bytes for each of 7 billion are 108 GB, a half of it too much, too."""
    out = ["--out", str(tmp_path / "m.png"), "--optimizer", "adamw", "--dtype", "bfloat16"]
    main([*out, "--preset", "1b", "--engine", "torch-ddp"])
    assert "No, not with torch-ddp: one window needs 2" in (said := capsys.readouterr().out)
    assert "torch-ddp, recompute; zero1; " in said
    main([*out, "--preset", "llama-7b"])
    assert "Nothing here fits: more GPUs, or a smaller model" in capsys.readouterr().out


@pytest.mark.parametrize("options, words", [
    ("--gpu rtx9999", "rtx9999"), ("--gpus 0", "gpus is 0"), ("--price -1", "price is -1.0"),
    ("--price nan", "price is nan"), ("--utilisation 0", "utilisation is 0.0"),
    ("--engine plain", "engine plain is not for 2"), ("--gpus 1 --engine zero1", "not for 1"),
    ("--preset 2b", "2b"), ("--batch-size 0", "batch_size is 0")])
def test_mistakes_are_one_line(fails, options, words):
    assert words in fails(main, *options.split())
