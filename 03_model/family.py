"""The family tree: which choices make a GPT-2, a Llama, today's recipe, at which sizes.

A family is a handful of GPTConfig's fields; what it leaves out is as in today's recipe. Read a
column to know a model, a row to see what changed between 2017 and now.
Left out: how they are trained (04_train/presets.py), their weights (weights.py).

    python 03_model/family.py

Prints the table, and every preset with its number of parameters. Next: budget.py.
"""

import dataclasses
import sys
from pathlib import Path

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from budget import count_parameters
from console import Parser, run
from gpt import GPTConfig

# ---- what changed ----

FAMILIES = {
    # Vaswani et al. 2017, but with the norms before what they feed, as everyone does since GPT-2.
    "scratch": dict(positions="sinusoidal", norm="layernorm", norm_eps=1e-5, gains=True,
                    embed_norm=False, qk_norm=False, activation="relu", bias=True, softcap=0.0),
    # Radford et al. 2019
    "gpt2": dict(positions="learned", norm="layernorm", norm_eps=1e-5, gains=True,
                 embed_norm=False, qk_norm=False, activation="gelu", bias=True, tied=True,
                 softcap=0.0),
    # Touvron et al. 2023, Llama
    "llama": dict(positions="rope", norm="rmsnorm", norm_eps=1e-5, gains=True, embed_norm=False,
                  qk_norm=False, activation="swiglu", bias=False, tied=False, softcap=0.0),
    "modern": {},
}


def shape(n_layer, d_model, n_head, n_kv_head=None, d_ff=None, **others):
    """GPTConfig's fields of a size: by default every head has its own keys, and d_ff is 4 C."""
    return dict(n_layer=n_layer, d_model=d_model, n_head=n_head, n_kv_head=n_kv_head or n_head,
                d_ff=d_ff or 4 * d_model, **others)


# ---- sizes ----

GPT2 = FAMILIES["gpt2"] | dict(vocab_size=50257, seq_len=1024)
LLAMA = FAMILIES["llama"] | dict(vocab_size=32000, seq_len=2048)
MODERN = FAMILIES["modern"] | dict(vocab_size=32768, seq_len=1024)

MODELS = {
    "scratch": FAMILIES["scratch"] | shape(4, 512, 8, d_ff=1024, vocab_size=4096, seq_len=256),
    # Radford et al. 2019, table 2 (heads of 64, as released)
    "gpt2": GPT2 | shape(12, 768, 12),
    "gpt2-medium": GPT2 | shape(24, 1024, 16),
    "gpt2-large": GPT2 | shape(36, 1280, 20),
    "gpt2-xl": GPT2 | shape(48, 1600, 25),
    # stories: llama2.c's; smollm2: Allal et al. 2025; 1b: TinyLlama (Zhang et al. 2024); 7b: Llama
    "llama-15m": LLAMA | shape(6, 288, 6, d_ff=768, seq_len=256, tied=True),
    "llama-135m": LLAMA | shape(30, 576, 9, 3, 1536, vocab_size=49152, rope_base=100000.0,
                                tied=True),
    "llama-1b": LLAMA | shape(22, 2048, 32, 4, 5632),
    "llama-7b": LLAMA | shape(32, 4096, 32, d_ff=11008),
    # Today's recipe; nano and tiny are for a laptop, heads are of 128 from small on.
    "nano": shape(2, 64, 2, vocab_size=512, seq_len=64),
    "tiny": {},
    "small": MODERN | shape(12, 768, 6),
    "medium": MODERN | shape(16, 1024, 8),
    "1b": MODERN | shape(20, 2048, 16, 4),
}


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    fields = [f.name for f in dataclasses.fields(GPTConfig)
              if any(f.name in family for family in FAMILIES.values())]
    configs = {name: GPTConfig(**family) for name, family in FAMILIES.items()}
    print(" " * 12 + "".join(f"{name:>13}" for name in configs))
    for field in fields:
        print(f"{field:12}" + "".join(f"{getattr(config, field)!s:>13}"
                                      for config in configs.values()))
    print(f"\n{'':12}{'layers':>7}{'d_model':>8}{'heads':>10}{'d_ff':>7}{'vocabulary':>11}"
          f"{'window':>7}{'parameters':>15}")
    for name, fields in MODELS.items():
        c = GPTConfig(**fields)
        heads = f"{c.n_head}/{c.n_kv_head}"
        print(f"{name:12}{c.n_layer:7}{c.d_model:8}{heads:>10}{c.d_ff:7}{c.vocab_size:11,}"
              f"{c.seq_len:7}{sum(count_parameters(c).values()):15,}")


if __name__ == "__main__":
    run(main)
