"""The family tree: which choices make a GPT-2, a Llama, today's recipe, at which sizes.

A family is a handful of GPTConfig's fields; what it leaves out is as in today's recipe. A model is
a family and a size. Read a row of the first table to see what changed since 2017.
Left out: how they are trained (04_train/presets.py), their weights (weights.py).

    python 03_model/family.py

Prints both tables. Next: ngrams.py.
"""

import sys
from pathlib import Path

import torch

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import Parser, run
from gpt import GPT, GPTConfig

# ---- what changed ----

FAMILIES = {
    # The transformer's decoder (Vaswani et al. 2017), as one builds it from scratch today: each
    # norm stands before what it feeds, and the head is a matrix of its own.
    "scratch": dict(positions="sinusoidal", norm="layernorm", norm_eps=1e-5, gains=True,
                    embed_norm=False, qk_norm=False, activation="relu", bias=True, tied=False,
                    softcap=0.0),
    # Radford et al. 2019
    "gpt2": dict(positions="learned", norm="layernorm", norm_eps=1e-5, gains=True,
                 embed_norm=False, qk_norm=False, activation="gelu", bias=True, tied=True,
                 softcap=0.0),
    # Llama (Touvron et al. 2023)
    "llama": dict(positions="rope", norm="rmsnorm", norm_eps=1e-5, gains=True, embed_norm=False,
                  qk_norm=False, activation="swiglu", bias=False, tied=False, softcap=0.0),
    # GPTConfig's defaults (Karpathy 2025, nanochat)
    "modern": {},
}


def shape(n_layer, d_model, n_head, n_kv_head=None, d_ff=None, **others):
    """GPTConfig's fields of a size: by default every head has its own keys, and d_ff is 4 C."""
    return dict(n_layer=n_layer, d_model=d_model, n_head=n_head, n_kv_head=n_kv_head or n_head,
                d_ff=d_ff or 4 * d_model, **others)


def rung(depth):
    """GPTConfig's fields of today's recipe at a depth, the one dial that sets all others.

    d_model is 64 a layer, with heads of 64 below depth 8, of 128 from there (depth is even then),
    each with keys of its own. Vocabulary and window double with each layer: at depth 3 they are
    2,048 and 128, until they reach 32,768 and 1,024. Returned as shape() does.
    rung(12) has d_model 768, 6 heads, vocabulary 32,768, window 1,024.
    """
    doubled = 2 ** max(0, depth - 3)
    return shape(depth, 64 * depth, depth if depth < 8 else depth // 2,
                 vocab_size=min(32768, 2048 * doubled), seq_len=min(1024, 128 * doubled))


# ---- sizes ----

GPT2 = FAMILIES["gpt2"] | dict(vocab_size=50257, seq_len=1024)
LLAMA = FAMILIES["llama"] | dict(vocab_size=32000, seq_len=2048)
LADDER = {"tiny": 3, "d4": 4, "d5": 5, "d6": 6, "d8": 8, "small": 12, "medium": 16, "461m": 20,
          "1b": 26}

MODELS = {
    "scratch": FAMILIES["scratch"] | shape(4, 512, 8, d_ff=1024, vocab_size=4096, seq_len=256),
    # As released, with heads of 64; the paper's table 2 counts fewer parameters than there are.
    "gpt2": GPT2 | shape(12, 768, 12),
    "gpt2-medium": GPT2 | shape(24, 1024, 16),
    "gpt2-large": GPT2 | shape(36, 1280, 20),
    "gpt2-xl": GPT2 | shape(48, 1600, 25),
    # Others took Llama's parts to other sizes: llama2.c's model of TinyStories (Karpathy 2023),
    # SmolLM2 (Allal et al. 2025) and TinyLlama (Zhang et al. 2024).
    "stories-15m": LLAMA | shape(6, 288, 6, d_ff=768, seq_len=256, tied=True),
    "smollm2-135m": LLAMA | shape(30, 576, 9, 3, 1536, vocab_size=49152, seq_len=8192,
                                  rope_base=100000.0, tied=True),
    "tinyllama-1b": LLAMA | shape(22, 2048, 32, 4, 5632),
    "llama-7b": LLAMA | shape(32, 4096, 32, d_ff=11008, norm_eps=1e-6),
    # Ours: one ladder, from minutes on a laptop to a billion parameters.
    "nano": shape(2, 64, 2, vocab_size=512, seq_len=64),
    **{name: rung(depth) for name, depth in LADDER.items()},
}
# 461 million outside the embedding: then 20 tokens each are 9.2 billion.
MODELS["461m"] |= dict(vocab_size=53248)
MODELS["1b"] |= dict(vocab_size=49152)  # a billion, all in all


def n_parameters(config):
    """How many parameters a model has. None is made: on "meta" a tensor is a shape, no numbers."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in GPT(config).parameters())


# ---- the tables ----

def word(value):
    """A field's value as it stands in the table."""
    return "yes" if value is True else str(value) if value else "no"


def print_families():
    """A row for each choice; " where it is as on the left."""
    print(f"{'':13}" + "".join(f"{name:>12}" for name in FAMILIES))
    configs = [GPTConfig(**family) for family in FAMILIES.values()]
    for field in FAMILIES["scratch"]:
        words = [word(getattr(config, field)) for config in configs]
        changes = [new if new != old else '"' for old, new in zip(["", *words], words)]
        print(f"{field:13}" + "".join(f"{change:>12}" for change in changes))
    print('": as on the left')


def print_models():
    """A row for each model; heads are of queries / of keys and values."""
    row = "{:13}{:>7}{:>9}{:>8}{:>8}{:>12}{:>8}{:>15}".format
    print(row("", "layers", "d_model", "heads", "d_ff", "vocabulary", "window", "parameters"))
    for name, fields in MODELS.items():
        c = GPTConfig(**fields)
        numbers = (c.d_ff, c.vocab_size, c.seq_len, n_parameters(c))
        print(row(name, c.n_layer, f"{c.d_model:,}", f"{c.n_head}/{c.n_kv_head}",
                  *(f"{n:,}" for n in numbers)))


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    print_families()
    print()
    print_models()


if __name__ == "__main__":
    run(main)
