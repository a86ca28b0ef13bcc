"""Does the course work on a GPU, how fast, and in how much memory? bench.py calls it.

First, for each preset, training steps with the largest micro-batch that fits by the memory plan,
eager and compiled, beside the data sheet and the plan; then decoding, beside the speed of memory.
Then selftest.py, as far as time allows. What fails is said in its row, and the next row is tried.
"""

import dataclasses
import gc
import os
import re
import resource
import signal
import statistics
import sys
import time
import traceback
from collections import namedtuple
from functools import partial

import numpy as np
import torch
from torch.autograd import DeviceType

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import choose_device

from bench_model import bandwidth, rate
from budget import flops_per_token, readable
from gpt import generate
from length import available, refuse
from machine import matmul_peak
from optim import make_optimizer
from plan import GPUS, memory_of_a_rank, parameters
from planned import with_largest_micro_batch
from presets import ALL as PRESETS, FullConfig
from quant import weight_bytes
from selftest import selftest
from train import train_step

AIMS = {"small": "50%", "1b": "55%"}  # of the data sheet's FLOP/s, by compiled steps
STEPS, SECONDS = 3, 5  # at least so many steps are timed, for at least so long
SHARE = 0.65  # of the time is for steps and decoding; selftest.py has the rest
NO_MEMORY = "out of memory"
# Functions of a GPU's driver that wait for it. A CPU is not waited for, but reading a number from a
# tensor can be counted there.
WAITS = {"cuda": ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize",
                  "cudaMemcpy"), "cpu": ("aten::_local_scalar_dense",)}
MEMORY = memory_of_a_rank("plain", "none", 1)  # plan.py's, of one process
Machine = namedtuple("Machine", "device sheet read")  # sheet: a row of GPUS, or None; read: bytes/s


class TimeIsOver(BaseException):
    """No Exception, since torch.compile would catch that and report it as another."""


# ---- the machine ----
def data_sheet(name):
    """plan.py's row of a GPU that calls itself "NVIDIA GeForce RTX 3090 Ti"; None if it has none,
    or only that of a faster or larger relative: of an H100 PCIe, a laptop's, a part of one (MIG).
    """
    words = re.split(r"[\s-]+", name.lower())
    joined = ["".join(words[i:i + n]) for n in (3, 2, 1) for i in range(len(words))]
    if {"laptop", "d", "nvl", "mig", "40gb"} & {*words} or {"h100", "pcie"} <= {*words}:
        return None
    return next((GPUS[key] for key in joined if key in GPUS), None)


def look_at(device):
    """Print what the machine is and reaches. Returns a Machine."""
    name = torch.cuda.get_device_name() if device == "cuda" else "a CPU"
    sheet, peak = data_sheet(name), matmul_peak(device, torch.bfloat16)
    read = bandwidth(4_000_000_000 if device == "cuda" else 100_000_000, device)
    print(f"{name}, {readable(available(device) or 0)} of memory free, torch {torch.__version__}\n"
          f"measured: {peak / 1e12:.3g} TFLOP/s in a bfloat16 matrix product, memory is read at "
          f"{read / 1e9:,.0f} GB/s\ndata sheet: "
          + (f"{sheet.tflops:g} TFLOP/s, {sheet.bandwidth:,} GB/s" if sheet else
             "plan.py's GPUS lacks this one, so shares of it are unknown")
          + "\nnot tried: messages between GPUs, unless selftest.py finds several; int8, which is "
          "for CPUs; long runs; a Mac's GPU")
    return Machine(device, sheet, read)


def share(value, whole):
    return f"{value / whole:.0%}" if whole else "unknown"


# ---- memory, and what goes wrong ----
def forget(device):
    """Free what has no name any more, such as a model, and count memory from here on."""
    torch.compiler.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def most_memory(device):
    """The most bytes of tensors since forget(); on a CPU of all the process since it began."""
    return (torch.cuda.max_memory_allocated() if device == "cuda" else
            1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def attempt(label, work):
    """Print a row of a table: the cells that work() returns, if it returns any, or why it failed.
    Returns why, not the error, which would keep all tensors alive that it has seen.
    """
    try:
        if cells := work():
            print(f"| {label} | {' | '.join(cells)} |", flush=True)
        return None
    except torch.OutOfMemoryError:
        why = NO_MEMORY
    except ValueError as error:  # says in words what is wrong, such as a plan that does not fit
        why = str(error)
    except Exception as error:  # of any kind: the next row may work
        why = f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        traceback.print_exc()
    print(f"| {label} | {why} |", flush=True)
    return why


# ---- training steps ----
def waits(events, device):
    """Of profiler.events() within "a step", how many were waits for the device, and copies from it;
    or that the profiler has not seen the driver.
    """
    step = next(e.time_range for e in events
                if e.name == "a step" and e.device_type == DeviceType.CPU)
    names = [e.name for e in events if step.start <= e.time_range.start < step.end]
    if device == "cuda" and not any(name.startswith("cuda") for name in names):
        return "unknown"
    copies = sum(name.startswith("Memcpy DtoH") for name in names)
    return f"{sum(name in WAITS[device] for name in names)} / {copies}"


def take_steps(config, model, optimizer):
    """(seconds of each of some steps, of the first, what waits() says of one), on ids that mean
    nothing. Steps that are not timed have at most two micro-batches, of the same size.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # keeps the profiler's own log off stderr
    loss = config.objective(model)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (
        config.batch_size, config.seq_len + 1))

    def step(windows=2 * config.micro_batch):
        start, batch = time.perf_counter(), (ids[:windows, :-1], ids[:windows, 1:])
        with torch.profiler.record_function("a step"):
            train_step(model, optimizer, batch, 0, config, loss)
        getattr(torch, config.device).synchronize()
        return time.perf_counter() - start
    first, _, times = step(), step(), []
    while len(times) < STEPS or sum(times) < SECONDS:
        times.append(step(config.batch_size))
    with torch.profiler.profile() as profiler:
        step()
    return times, first, waits(profiler.events(), config.device)


def step_cells(name, config, model, optimizer, machine, room, before):
    """A row of print_steps(). before: bytes that were taken when there was no model."""
    refuse(config, model.config, room, 1, MEMORY)
    forget(config.device)
    times, first, waited = take_steps(config, model, optimizer)
    took = most_memory(config.device) - before
    planned = sum(MEMORY(config, model.config).values())
    tokens = config.batch_size * config.seq_len / statistics.median(times)
    flops = tokens * flops_per_token(model.config)
    return [f"{1000 * statistics.median(times):,.0f}", f"{tokens:,.0f}", f"{flops / 1e12:.3g}",
            share(flops, machine.sheet and 1e12 * machine.sheet.tflops),
            AIMS.get(name, "") if config.compile else "", readable(planned), readable(took),
            f"{took / planned - 1:+.0%}", waited, f"{first:.1f}"]


def print_steps(name, config, model, machine, free, before):
    """Eager steps, then compiled ones, with the largest micro-batch that fits into `free` bytes by
    the plan. Where the plan was wrong, once more as if half as many were free.
    """
    optimizer = make_optimizer(model, config)
    print(f"\n{name}, {parameters(model.config):,} parameters: steps of {config.batch_size} x "
          f"{config.seq_len} tokens, {config.optimizer}, {config.dtype}, medians of {STEPS} or "
          f"more\nwaits / copies: the profiler's {', '.join(WAITS[config.device])} / Memcpy DtoH "
          "in a step of at most two micro-batches\n\n"
          "| windows at once | ms | tokens/s | TFLOP/s | of the data sheet | aim | memory planned "
          "| taken | off, aim 10% | waits / copies | first step, s |\n|" + "---|" * 11)
    for compiled in (False, True):
        room, why = free, NO_MEMORY
        while why == NO_MEMORY:
            chosen = with_largest_micro_batch(dataclasses.replace(config, compile=compiled),
                                              model.config, room, 1, MEMORY)
            why = attempt(f"{chosen.micro_batch}{', compiled' * compiled}", partial(
                step_cells, name, chosen, model, optimizer, machine, room, before))
            optimizer.zero_grad()
            room //= 2


# ---- decoding ----
def decode_cells(model, rows, machine, n=64):
    """A row of bench_preset()'s table. For each id all weights are read, except the embedding's."""
    forget(machine.device)
    wait = getattr(torch, machine.device).synchronize
    speed = statistics.median(
        rate((wait() for _ in generate(model, [[*range(32)]] * rows, n)), rows) for _ in range(3))
    read = speed / rows * (weight_bytes(model) - model.embed.weight.nbytes)
    return [f"{speed:,.0f}", f"{read / 1e9:,.1f}", share(read, machine.read),
            share(read, machine.sheet and 1e9 * machine.sheet.bandwidth)]


# ---- all of it ----
def bench_preset(name, machine):
    forget(machine.device)
    free, before = available(machine.device), most_memory(machine.device)
    config = FullConfig(**PRESETS[name] | dict(  # rates so low that no step can spoil the model
        device=machine.device, by_hand=False, lr=1e-12, muon_lr=1e-12, steps=1000))
    model = config.make_model(config.vocab_size).to(machine.device)
    print_steps(name, config, model, machine, free, before)
    print(f"\n{name}: decoding 64 ids after 32, medians of 3\n\n| texts at once | tokens/s | "
          "weights read, GB/s | of the measured speed | of the data sheet |\n|" + "---|" * 5)
    for kind in ("float32", "bfloat16"):
        model.to(getattr(torch, kind))
        for rows in (1, 8):
            attempt(f"{rows}, {kind}", partial(decode_cells, model, rows, machine))


def bench_gpu(device, minutes, presets):
    if unknown := {*presets} - {*PRESETS}:
        raise ValueError(f"there is no preset {', '.join(unknown)}")
    end, device, left = time.monotonic() + 60 * minutes, choose_device(device), [*presets]

    def ring(*what):
        raise TimeIsOver
    signal.signal(signal.SIGALRM, ring)
    try:  # it rings again after 5 s: where Python ignores errors, as in a __del__, one is lost
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, SHARE * 60 * minutes), 5)
        machine = look_at(device)
        while left:
            attempt(left[0], partial(bench_preset, left[0], machine))
            left.pop(0)
    except TimeIsOver:
        print(f"\nno more time for steps and decoding; not tried, or only what is above: "
              f"{', '.join(left)}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    forget(device)
    print("\nselftest.py, on all GPUs, or on two processes of a CPU:")
    selftest(seconds=end - time.monotonic() - 20)  # about as long as a path takes
