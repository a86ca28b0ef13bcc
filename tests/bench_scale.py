"""Two ranks on one machine: a step of each engine beside torch's DDP, what ZeRO saves, and what
becomes of a run of which a rank is killed. bench.py calls it.

Engines take turns in one group of two processes with a thread each; a step is the trainer's, of
Muon and AdamW, with the gradients' way to the other rank, clipping and all.
"""

import dataclasses
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import scale
from bench_memory import calibrate
from family import dimensions
from metrics import read_metrics
from optim import make_optimizer
from ranks import on_ranks
from scale import DataParallel, make_engine, train_step
from train import PRESETS, Config

SHAPES = {"tiny, 8 x 128 a rank": PRESETS["tiny"] | dict(batch_size=16, micro_batch=8),
          "6 x 384, 4 x 256 a rank": dimensions(6, 384, 6, vocab_size=4096, seq_len=256)
          | dict(batch_size=8, micro_batch=4)}


class Naive(DataParallel):
    """All gradients after the backward pass, one by one."""

    def __init__(self, model, config):
        super().__init__(model, dataclasses.replace(config, by_hand=True))
        self.optimizer = make_optimizer(model, config)


NAMES = ("torch-ddp", "naive", "ddp", "zero1", "zero2")


def state_bytes(engine):
    """What the optimizer of this process remembers."""
    states = engine.optimizer.state.values()
    return sum(value.nbytes for state in states for value in state.values())


def steps(fields, rounds):
    """A function of a rank: {engine: (seconds of its steps, bytes its optimizer remembers)}."""
    def work(rank):
        config = Config(**fields | dict(optimizer="muon", device="cpu", steps=350))
        engines, generator = {}, torch.Generator().manual_seed(0)
        for name in NAMES:
            model = config.make_model(config.vocab_size)
            engines[name] = (Naive(model, config) if name == "naive" else
                             make_engine(name, model, config))
        seconds = {name: [] for name in engines}
        for i in range(rounds + 1):
            ids = torch.randint(config.vocab_size, (config.batch_size, config.seq_len + 1),
                                generator=generator).numpy()[rank::2]
            for name, engine in engines.items():
                dist.barrier()
                start = time.perf_counter()
                train_step(engine, (ids[:, :-1], ids[:, 1:]), i, config)
                dist.barrier()
                seconds[name].append(time.perf_counter() - start)
        return {name: (seconds[name][1:], state_bytes(engines[name])) for name in engines}
    return work


def print_steps(rounds):
    for title, fields in SHAPES.items():
        found = on_ranks(steps(fields, rounds), patience=600)[0]
        whole = found["torch-ddp"]
        print(f"\n| {title} | ms, median of {rounds} | times torch-ddp's | optimizer, MB a rank | "
              "|\n|---|---|---|---|---|")
        for name, (seconds, n_bytes) in found.items():
            ratio = statistics.median(a / b for a, b in zip(seconds, whole[0]))
            print(f"| {name} | {1000 * statistics.median(seconds):.0f} | {ratio:.2f} | "
                  f"{n_bytes / 1e6:.2f} | {n_bytes / whole[1]:.0%} |", flush=True)


# ---- a rank that dies ----
def command(folder, name, *more):
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            scale.__file__, "--preset", "nano", "--engine", "zero1", "--optimizer", "muon",
            "--data", f"folder:{Path(scale.__file__).parent},include=*.py", "--steps", "300",
            "--save-every", "20", "--device", "cpu", "--data-dir", str(folder / "data"),
            "--runs-dir", str(folder), "--name", name, *more]


def result(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [{key: row[key] for key in row.keys() & {"step", "loss", "grad_norm"}} for row in rows
            if "loss" in row], rows[-1]["val_bits_per_byte"]


def print_faults(kills, seed):
    """Kill a rank at random moments: do the others stop, does the run end as if nothing was?"""
    rng, waited, same = random.Random(seed), [], 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        start = time.perf_counter()
        subprocess.run(command(folder, "whole"), check=True, capture_output=True)
        longest = time.perf_counter() - start
        for i in range(kills):
            with open(folder / "said", "w+", encoding="utf-8") as said:
                process = subprocess.Popen(command(folder, str(i)), stdout=said, stderr=said)
                metrics = folder / str(i) / "metrics.jsonl"
                while process.poll() is None and not (
                        metrics.exists() and metrics.stat().st_size):
                    time.sleep(0.01)
                time.sleep(rng.random() * longest / 10)
                ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True,
                                       text=True, encoding="utf-8").stdout.split()
                if ranks:
                    os.kill(int(rng.choice(ranks)), signal.SIGKILL)
                start = time.perf_counter()
                process.wait()
                waited.append(time.perf_counter() - start)
            subprocess.run(command(folder, str(i), "--resume"), check=True, capture_output=True)
            same += result(folder / str(i)) == result(folder / "whole")
    print(f"\n| ranks killed | all had ended after, at most | resumed to the same numbers |"
          f"\n|---|---|---|\n| {kills} | {max(waited):.1f} s | {same} |")


def bench_scale(rounds, kills, seed, memory):
    print_steps(rounds)
    if kills:
        print_faults(kills, seed)
    if memory:
        calibrate()
