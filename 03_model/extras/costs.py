"""What models cost, side by side: the table of budget.py, a column for each; what memory it takes
to evaluate one; and how to measure what memory they take.

    python 03_model/extras/budget.py --model gpt2-xl llama-7b smollm2-135m

Prints that table when budget.py is run. Next: heads.py.
"""

import ctypes
import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options

import budget
from budget import (count_parameters, family_of, flops_per_token, holds_scores, readable,
                    training_memory)
from family import MODELS, FamilyConfig, model_config
from gpt import GPTConfig
from heads import cache_bytes
from machine import matmul_peak


def evaluation_memory(config, batch_size, optimizer="adamw", dtype="float32", rank=0):
    """{"weights": bytes, ...}: what tensors take at most while a model is evaluated between two
    training steps, with so many windows at once.

    Weights, copies and the optimizer's state are those of training_memory(), gradients are gone.
    "activations" is what the last block has written, and its norm; "workspace" what comes and goes:
    one block's tensors, or the logits of 512 positions (GPT.loss), each of them twice.
    """
    C, H, keys = config.d_model, config.n_head, config.n_kv_head * config.head_dim
    T, tokens, short = config.seq_len, batch_size * config.seq_len, 4 if dtype == "float32" else 2
    attention = short * (C + 2 * keys + C + keys + 3 * C)  # qkv; q and k turned; twice what the
    # heads found, and what comes of it; perhaps also scores, scores masked, and weights
    attention += holds_scores(config, dtype) * short * (3 * H * T + (H != config.n_kv_head) * 2 * C)
    mlp = short * config.d_ff * (4 if family_of(config).activation == "swiglu" else 2)
    block = tokens * max(attention, mlp)
    logits = 2 * 4 * min(512, tokens) * config.vocab_size
    kept = training_memory(config, batch_size, optimizer, dtype, rank=rank)
    return {name: kept[name] for name in ("weights", "copies", "optimizer")} | {
        "activations": 2 * 4 * C * tokens, "workspace": max(block, logits)}


def return_freed_memory(least):
    """Ask glibc to return freed blocks of at least this many bytes (up to 32 MB) to the system at
    once: a process then holds hardly more than its tensors. The opposite of machine.py's
    keep_freed_memory(), which makes steps faster, but leaves holes of a few largest blocks.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 2**16)  # M_MMAP_MAX: as many large blocks as are asked for
        libc.mallopt(-3, least)  # M_MMAP_THRESHOLD: each a mapping of its own
    except (OSError, AttributeError):
        pass


def column(config, batch_size, peak):
    """A config's column of the table: {title: {row: text}}; "" for an empty cell."""
    parameters, memory = count_parameters(config), training_memory(config, batch_size)
    n, flops = sum(parameters.values()), flops_per_token(config)
    evaluation = evaluation_memory(config, batch_size)
    return {
        "parameters":
        {name: f"{k:,}  {k / n:4.0%}" if k else "" for name, k in parameters.items()}
        | {"all": f"{n:,}  100%"},
        f"training, float32, AdamW, {batch_size} windows at once":
        {"a window": f"{config.seq_len:,} tokens"}
        | {name: readable(n_bytes) if n_bytes else "" for name, n_bytes in memory.items()}
        | {"all": readable(sum(memory.values())), "evaluation": readable(sum(evaluation.values())),
           "a token": f"{flops / 1e6:,.1f} MFLOP", "at best": f"{peak / flops:,.1f} tokens/s"},
        "KV cache, float32":
        {"a token": readable(cache_bytes(config)),
         "a window": readable(cache_bytes(config, config.seq_len))}}


def table(argv=None):
    """The command line of budget.py."""
    parser = Parser(description=budget.__doc__.splitlines()[0])
    parser.add_argument("--model", nargs="+", choices=MODELS, metavar="NAME",
                        help="rows of family.py's MODELS, which the other options change (default: "
                        f"what these say). There are {', '.join(MODELS)}")
    parser.add_argument("--batch-size", type=int, default=8,
                        help="windows in a micro-batch (default: 8)")
    for kind in (GPTConfig, FamilyConfig):
        add_options(parser, kind)
    given = vars(parser.parse_args(argv))
    names, batch_size = given.pop("model"), given.pop("batch_size")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
    names = names or ["model"]
    configs = [model_config(**MODELS.get(name, {}) | given) for name in names]
    peak = matmul_peak()
    columns = [column(config, batch_size, peak) for config in configs]
    print(" " * 13 + "".join(f"{name:>22}" for name in names))
    for title, rows in columns[0].items():
        print(title)
        for row in rows:
            texts = [cells[title][row] for cells in columns]
            if any(texts):
                print(f"  {row:11}" + "".join(f"{text:>22}" for text in texts).rstrip())
    print(f"at best: if all were as quick here as a large matrix product, {peak / 1e9:.0f} GFLOP/s")
