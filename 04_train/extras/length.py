"""How long a run is, and whether it fits: known before the first step.

A run's length is a number of steps, or follows from a budget of FLOPs or from the number of
parameters. Time, memory and epochs follow. For money see 07_scale/extras/plan.py.

    python 04_train/train.py --preset tiny --tokens-per-param 20 --plan
    python 04_train/train.py --preset tiny --flops 1e13

Reads and writes nothing: train.py calls it. Next: planned.py.
"""

import dataclasses
import math
import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import choose_device

import torch

from budget import (count_adapters, count_parameters, flops_per_token, muon_groups, readable,
                    training_memory)
from machine import free_memory, matmul_peak
from housekeeping import check_writable, duration

HOLES = 7  # times the largest tensor; see holes()
SHARE = 0.5  # of matmul_peak() that a step reaches: a guess; 0.4 (tiny), 0.7 were seen on a CPU


def rank_of(config):
    """The rank of the adapters that a run with this Config trains (lora.py); 0 if it has none."""
    return getattr(config, "lora", 0)  # which only a FullConfig has


# ---- how long ----
def outside_table(model_config):
    """How many parameters a model has beside its embedding table, which is only looked up."""
    parameters = count_parameters(model_config)
    return sum(parameters.values()) - parameters["embedding"]


def planned_steps(config, model_config):  # exercise
    """How many steps a run takes. config: a Config; model_config: its config.gpt().

    The first of these that is not 0:
    - config.steps
    - config.flops: as many steps as cost that much. A token costs flops_per_token(model_config), a
      step has batch_size * seq_len of them.
    - config.tokens_per_param: until the model has seen this many tokens for each of
      outside_table(model_config) parameters. About 20 are the best use of FLOPs (Hoffmann et al.
      2022, table 3). A part of a step is rounded up to a whole one.

    461,373,440 parameters outside the table, at 20 : 1, take 17,600 steps of 524,288 tokens.
    """
    if config.steps:
        return config.steps
    if config.flops:
        tokens = config.flops / flops_per_token(model_config)
    else:
        tokens = config.tokens_per_param * outside_table(model_config)
    return math.ceil(tokens / (config.batch_size * config.seq_len))


# ---- does it fit ----
def windows_at_once(config, world=1):
    """Windows in a micro-batch of the process with the most of them."""
    return min(config.micro_batch, -(-config.batch_size // world))


def largest_tensor(config, model_config, windows):
    """Bytes of the largest tensor of a step: logits, the MLP's features, a matrix, or the matrices
    that Muon orthogonalises together.
    """
    tokens, C = windows * model_config.seq_len, model_config.d_model
    numbers = max(tokens, C) * max(model_config.vocab_size, model_config.d_ff)
    groups = muon_groups(model_config).values() if config.optimizer == "muon" else []
    return 4 * max([numbers, *groups])


def holes(config, model_config, windows):
    """{"holes": bytes} on a CPU: freed memory in which the next block doesn't fit, which grows with
    the size of blocks; {} on other devices.
    HOLES was measured on processes of 0.1 to 3 GB after keep_freed_memory() (glibc 2.36): the sum
    with training_memory() was right to 15%, for Muon on wide matrices 18% too much.
    """
    if choose_device(config.device) != "cpu":
        return {}
    return {"holes": HOLES * largest_tensor(config, model_config, windows)}


def memory_needed(config, model_config):
    """{"weights": bytes, ...}: what a process that is alone takes for a step, by part: that of
    training_memory(), dpo.py's second model, and holes. What ranks send each other is plan.py's.
    GPUs were not tried.
    """
    windows, needed = windows_at_once(config), {}
    if config.sampling == "pairs":  # and its own adapters, which are 0, if there are any
        needed["reference"] = 4 * (sum(count_parameters(model_config).values())
                                   + count_adapters(model_config, rank_of(config)))
    return training_memory(model_config, windows, config.optimizer, config.dtype,
                           rank=rank_of(config)) | needed | holes(config, model_config, windows)


def available(device):
    """Bytes that a process may take on a device, None if unknown. On a CPU all processes of a
    machine share its memory: torchrun tells their number.
    """
    device = choose_device(device)
    free = free_memory(device)
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if device == "cpu" else 1
    return free // neighbours if free else free


def refuse(config, model_config, available, world=1, memory=None):
    """ValueError, which says what would fit, if a step needs more memory than the `available` bytes
    (None: unknown). memory: a function like memory_needed(), for processes that share the work.
    """
    needed = sum((memory or memory_needed)(config, model_config).values())
    if available is not None and needed > available:
        from planned import what_would_fit
        raise ValueError(f"the run needs {readable(needed)} of memory, {readable(available)} are "
                         f"free{what_would_fit(config, model_config, available, world, memory)}")


# ---- the plan ----
def in_words(model_config):
    """A GPTConfig in a line: its sizes, and what its family has other than gpt.py's recipe."""
    family = [f"{field.name} {getattr(model_config.family, field.name)}" for field in
              (dataclasses.fields(model_config.family) if model_config.family else ())
              if getattr(model_config.family, field.name) != field.default]
    sizes = ("{n_layer} layers of width {d_model:,}, {n_head} heads, {n_kv_head} of keys and "
             "values, MLP {d_ff:,} wide, {vocab_size:,} ids, window {seq_len:,}")
    return ", ".join([sizes.format(**vars(model_config)), *family])


def plan(config, model_config, available=None, world=1, n_train_tokens=None, memory=None):
    """Yield lines on a run to come: parameters, tokens, FLOPs, time, memory of a process.

    available: bytes that a process may take; n_train_tokens: how many there are; memory: as in
    refuse(). Unknown numbers are left out; the time is a guess, and the line says so.
    """
    steps, n = planned_steps(config, model_config), count_parameters(model_config)
    outside = outside_table(model_config)
    step_tokens, flops = config.batch_size * config.seq_len, flops_per_token(model_config)
    tokens, peak = steps * step_tokens, world * matmul_peak(choose_device(config.device),
                                                            getattr(torch, config.dtype))
    yield f"model      {in_words(model_config)}"
    yield "           " + ", ".join(f"{name} {k:,}" for name, k in n.items() if k) + " parameters"
    yield f"plan       {sum(n.values()):,} parameters, {outside:,} outside the embedding table"
    if n_trained := count_adapters(model_config, rank_of(config)):
        every = n_trained + sum(n.values())
        yield (f"adapters   of rank {config.lora}: {n_trained:,} of {every:,} parameters are "
               f"trained, {n_trained / every:.2%}; the others are frozen")
    epochs = f", {tokens / n_train_tokens:.2f} epochs" if n_train_tokens else ""
    yield (f"           {steps:,} steps of {step_tokens:,} tokens: {tokens:,} tokens{epochs}, "
           f"{tokens / outside:.2f} a parameter outside the table")
    yield (f"           {flops / 1e6:,.1f} MFLOP a token, {flops * tokens:.3g} FLOP in all: "
           f"{duration(tokens * flops / (SHARE * peak))} if a step reaches {SHARE:.0%} of "
           f"{peak / 1e9:,.0f} GFLOP/s, which is a guess")
    needed = (memory or memory_needed)(config, model_config)
    free = f" of {readable(available)} that are free" if available is not None else ""
    each = " a process" if world > 1 else ""
    yield f"memory     about {readable(sum(needed.values()))}{each}{free}:"
    yield "           " + ", ".join(f"{part} {readable(k)}" for part, k in needed.items() if k)
    if rank_of(config) or config.sampling in ("pairs", "answers"):
        from planned import not_counted
        for line in not_counted(config, model_config, world):
            yield f"           not counted: {line}"


def answered(words, folder, config, world=1, memory=None):
    """Whether nothing is to be trained, because the command line asks for a plan or a profile, or
    because the run is finished; then that is printed. words: its options; folder: of the run to go
    on with, or None. OSError if a new run's folder could not be written, ValueError if the run in
    `folder` is beyond the steps asked for.
    """
    if words.plan:
        from planned import show_plan
        show_plan(config, world, memory, folder or hasattr(words, "micro_batch"))
    elif words.profile:
        from timing import show_profile
        show_profile(config)
    elif folder:
        from resuming import finished
        return finished(folder, config)
    else:
        check_writable(words.runs_dir)
        return False
    return True


def announce(config, data, world=1, memory=None, keep=True):
    """Print the plan of a run, once it is clear that it fits. Returns its config, with the length
    as a number of steps, and on a GPU, unless `keep`, with the largest micro-batch that fits.
    """
    model_config, free = config.gpt(data.tokenizer.vocab_size), available(config.device)
    config = dataclasses.replace(config, steps=planned_steps(config, model_config), flops=0.0,
                                 tokens_per_param=0.0)
    if not keep and choose_device(config.device) == "cuda":
        from planned import with_largest_micro_batch
        config = with_largest_micro_batch(config, model_config, free, world, memory)
    refuse(config, model_config, free, world, memory)
    print(*plan(config, model_config, free, world, len(data.train), memory), sep="\n")
    return config
