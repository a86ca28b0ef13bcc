"""For runs that don't start: the output of --plan, and what would fit when a run does not.

    python 04_train/train.py --preset 1b --plan

Reads and writes nothing: length.py calls it. Next: beside.py.
"""

import dataclasses
import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import choose_device

from budget import readable
from costs import evaluation_memory
from heads import cache_bytes
from length import available, memory_needed, plan, rank_of, refuse, windows_at_once


def not_counted(config, model_config, world=1):
    """What plan() doesn't count of a run, a line for each: the FLOPs are those of training the
    whole model on full windows, and the memory is that of a step.
    """
    if rank_of(config):
        yield "adapters need about a third fewer FLOP: frozen matrices have no gradients"
    if config.sampling == "pairs":
        yield "the reference needs about a third more FLOP: it reads each answer once"
    if config.sampling == "answers":
        rows = config.batch_size // world
        needed = rows * cache_bytes(model_config, config.seq_len)
        yield (f"writing {rows:,} answers at once takes other FLOP, and up to {readable(needed)} "
               "for their keys and values, twice that for a moment; --micro-batch doesn't matter")


def what_would_fit(config, model_config, available, world=1, memory=None):
    """The end of length.refuse()'s message, from the same arguments: the largest micro-batch that
    fits, or, if none does, other changes that would.

    Micro-batches that are a power of two or divide the batch are tried.
    """
    def needs(**changes):
        changed = dataclasses.replace(config, **changes)
        changed_model = changed.gpt(model_config.vocab_size)
        return sum((memory or memory_needed)(changed, changed_model).values())

    windows, share = windows_at_once(config, world), -(-config.batch_size // world)
    for n in range(windows - 1, 0, -1):
        if (n & (n - 1) == 0 or share % n == 0) and (less := needs(micro_batch=n)) <= available:
            return (f": --micro-batch {n} (accumulated over {-(-share // n)}) needs "
                    f"{readable(less)} and gives the same gradients")
    levers = [{"seq_len": config.seq_len >> i} for i in range(1, config.seq_len.bit_length())]
    levers += [{"optimizer": "adamw" if config.optimizer == "muon" else "muon"},
               {"dtype": "float32" if config.dtype == "bfloat16" else "bfloat16"}]
    if config.init and hasattr(config, "lora"):
        levers.append({"lora": min(8, config.d_model)})
    helps = {}  # for every field, the first change that is enough
    for lever in levers:
        [(name, value)] = lever.items()
        if name not in helps and (less := needs(micro_batch=1, **lever)) <= available:
            helps[name] = f"--{name.replace('_', '-')} {value} then needs {readable(less)}"
    return (f", and --micro-batch 1 still needs {readable(needs(micro_batch=1))}: "
            + ("; ".join(helps.values()) or "a smaller --preset is what it takes"))


def with_largest_micro_batch(config, model_config, available, world=1, memory=None):
    """The config with the largest micro-batch, a power of two or a divisor of a rank's windows,
    that fits into nine tenths of the `available` bytes, as no step was ever measured on a GPU.
    If nobody knows how many there are, or not even one window fits, its own. The other arguments
    are refuse()'s.
    """
    if available is None:
        return config
    share = -(-config.batch_size // world)
    for n in range(share, 0, -1):
        larger = dataclasses.replace(config, micro_batch=n)
        needed = sum((memory or memory_needed)(larger, model_config).values())
        if needed <= 0.9 * available and (share % n == 0 or n & (n - 1) == 0):
            return larger
    return config


def show_plan(config, world=1, memory=None, keep=True):
    """Print the plan of a run whose data are not there yet, what an evaluation's tensors take, and
    whether the run would fit here. keep: as in length.announce().
    """
    model_config, free = config.gpt(config.vocab_size), available(config.device)
    if not keep and choose_device(config.device) == "cuda":
        config = with_largest_micro_batch(config, model_config, free, world, memory)
    print(*plan(config, model_config, free, world, None, memory), sep="\n")
    needed = memory(config, model_config, evaluating=True) if memory else evaluation_memory(
        model_config, windows_at_once(config), config.optimizer, config.dtype, rank_of(config))
    print(f"evaluation about {readable(sum(needed.values()))} of memory, between steps:\n{'':11}"
          + ", ".join(f"{part} {readable(k)}" for part, k in needed.items() if k))
    try:
        refuse(config, model_config, free, world, memory)
    except ValueError as error:
        print(f"here       it would be refused: {error}")
