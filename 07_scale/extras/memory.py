"""What a rank holds: memory of a training step by item, for every engine.

A step is looked at in its fullest moments: when the backward pass begins, when a block is
recomputed, when the last gradients are on their way, and when the optimizer works. What is largest
decides. Engines (engines.py, fsdp.py) differ in what every rank holds whole and what they divide.
How near that is to real steps: tests/bench.py scale --memory, for a process alone, ddp and ZeRO;
the others are arithmetic, and so are GPUs.
Left out: time and money (plan.py); holes between blocks (04_train/extras/length.py).

Used by engines.py and plan.py; reads and writes nothing. Next: engines.py.
"""

import os
import sys
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

import console  # noqa: F401, first: it makes the others be found

from budget import (activation_bytes, count_parameters, muon_groups, recomputed_bytes,
                    training_memory)
from length import holes, windows_at_once
from scale import BUCKET_BYTES
from family import family_of

# What each engine divides over the ranks.
DIVIDED = {"plain": (), "ddp": (), "torch-ddp": (), "zero1": ("optimizer",),
           "zero2": ("optimizer", "gradients"), "fsdp2": ("optimizer", "gradients", "weights")}
ITEMS = ("weights", "copies", "gradients", "optimizer", "activations", "logits", "buffers", "muon")


def parameters(shape):
    return sum(count_parameters(shape).values())


def rank_states(n, matrices, engine, world, low=False):  # exercise
    """{"weights": bytes, "gradients": bytes, "optimizer": bytes} that one of `world` ranks keeps
    for a model of n parameters (Rajbhandari et al. 2020, section 3.1). Whole numbers, rounded up.

    In float32 a weight takes 4 bytes, its gradient 4, AdamW's two moments 8. Of the n parameters
    `matrices` are Muon's (0: none), which keeps one average instead of two moments. With `low`
    weights and gradients are bfloat16, 2 bytes each, and the optimizer also keeps a float32 copy of
    every weight, 4.
    An engine divides what DIVIDED[engine] names over the ranks; all else each rank has whole.

    n = 1000, all AdamW's, "zero1" on 2 ranks: 4000, 4000 and 8000 / 2 = 4000.
    """
    width = 2 if low else 4
    states = {"weights": width * n, "gradients": width * n,
              "optimizer": 8 * n - 4 * matrices + 4 * low * n}
    return {name: -(-k // (world if name in DIVIDED[engine] else 1))
            for name, k in states.items()}


def groups(shape):
    """(numbers in a block, numbers in all that is outside the blocks): what FSDP gathers."""
    n = count_parameters(shape)
    block = (n["attention"] + n["mlp"]) // shape.n_layer
    return block, sum(n.values()) - shape.n_layer * block


def buffers(shape, engine, world, muon, width):
    """Bytes that a rank needs to send and receive: (during the backward pass, at its end).

    ddp.py puts a bucket's gradients into a message, part of which they then are. The embedding's
    comes last, and is there three times for a moment: what .grad was, what is added, and the
    message. torch's DDP keeps its buckets for good. ZeRO-2 has two buckets on their way while a
    third fills; Muon's are at least 2 `world` times the largest matrix. FSDP holds what is
    outside the blocks, two blocks, one of them on its way, and whole gradients of the larger of
    these groups.
    """
    n, table = parameters(shape), shape.d_model * shape.vocab_size
    if engine == "fsdp2":
        block, outside = groups(shape)
        return (width * (outside + 2 * block + max(block, outside)),) * 2
    if engine == "zero2":
        matrices = muon * 2 * world * width * shape.d_model * shape.d_ff
        return (max(3 * BUCKET_BYTES, 3 * matrices, 2 * width * table),) * 2
    return {"plain": (0, 0), "torch-ddp": (width * n,) * 2}.get(
        engine, (BUCKET_BYTES, 2 * width * table))


def muon_work(shape, ranks):
    """budget.muon_bytes() of one of the `ranks` to which matrices are dealt: of all look-ahead
    gradients it has its share, but of those of one shape it may have all.
    """
    groups = muon_groups(shape)
    share = -(-groups.total() // ranks)
    mine = {size: min(k, share) for size, k in groups.items()}
    return 4 * (share + max(3 * k + 2 * k * min(size) // max(size) for size, k in mine.items()))


def moments(config, shape, engine="plain", world=1, windows=1, recompute=False, low=False):
    """{moment: {item: bytes}}: what a rank holds at the fullest moments of a step.

    windows: in a micro-batch; recompute: of a block only what it reads is kept; low: bfloat16
    weights with float32 masters, see rank_states().
    """
    muon, dtype = config.optimizer == "muon", "bfloat16" if low else config.dtype
    n, memory = parameters(shape), training_memory(shape, windows, config.optimizer, dtype)
    matrices = muon * muon_groups(shape).total()
    states = rank_states(n, matrices, engine, world, low)
    copies, width = {"copies": 0 if low else memory["copies"]}, 2 if low else 4
    sending, sent = buffers(shape, engine, world, muon, width)

    ranks = world if "optimizer" in DIVIDED[engine] else 1
    own = {"gradients": states["gradients"] // ranks} if engine == "zero1" else {}  # when summed

    logits = 4 * windows * shape.seq_len * shape.vocab_size
    kept = (1 + (family_of(shape).softcap > 0)) * logits
    stream = activation_bytes(shape, windows, dtype, recompute) - kept
    found = {"backward begins": states | copies | {"activations": stream, "buffers": sending,
                                                   "logits": kept + 2 * logits},
             "backward ends": states | copies | {"buffers": sent},
             "optimizer": states | own | {"muon": muon * muon_work(shape, ranks),
                                          "buffers": sent if engine == "torch-ddp" else 0}}
    if recompute:
        again = stream + recomputed_bytes(shape, windows, dtype)
        found["a block again"] = states | copies | {"activations": again, "buffers": sending}
    return found


def fullest(found):
    """The items of the moment that needs the most, in the order of ITEMS."""
    most = max(found.values(), key=lambda items: sum(items.values()))
    return {name: most.get(name, 0) for name in ITEMS}


def peak(found):
    """Bytes that a rank needs, from what moments() found."""
    return sum(fullest(found).values())


def memory_of_a_rank(engine, recompute, world):
    """A function of (config, shape) that gives {part: bytes}, what a rank of `world` takes at most
    in a step, holes included.
    """
    def memory(config, shape):
        windows, name = windows_at_once(config, world), engine if world > 1 else "plain"
        at_most = fullest(moments(config, shape, name, world, windows, recompute != "none"))
        return at_most | holes(config, shape, windows)
    return memory
