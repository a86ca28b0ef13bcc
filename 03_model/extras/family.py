"""The family tree: GPT-2, Llama, the first transformer and nanochat as choices of one model.

A family is a handful of FamilyConfig's fields; what it leaves out is as in gpt.py, whose recipe is
nanochat's of October 2025. FamilyGPT is built of gpt.py's own functions (rms_norm, rotate ...), and
has the same logits where both apply. A model is a family and a size; read a row of the first table
to see what changed since 2017. Left out: training (04_train) and weights (weights.py).

    python 03_model/extras/family.py

Prints both tables. Next: ngrams.py.
"""

import math
import os
import sys
from dataclasses import dataclass, fields
from functools import partial

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, check_options, option, run

import torch
import torch.nn.functional as F
from torch import nn

from gpt import (GPT, MLP, Attention, GPTConfig, make_model, rms_norm, rms_norm_fused, rope_angles,
                 rotate)
from ngrams import NGrams

ACTIVATIONS = {
    "relu": F.relu,  # Vaswani et al. 2017
    "gelu": partial(F.gelu, approximate="tanh"),  # GPT-2 (Hendrycks & Gimpel 2016, section 2)
    "swiglu": F.silu,  # Llama (Shazeer 2020): applied to the gate, which is multiplied by up(x)
    "relu2": lambda x: F.relu(x).square(),  # So et al. 2021
}


@dataclass(frozen=True)
class FamilyConfig:
    """What a family has besides a GPTConfig. The defaults are gpt.py's recipe."""

    positions: str = option("rope", "position encoding: vectors added to the embeddings, or RoPE, "
                            "which rotates queries and keys", ("learned", "sinusoidal", "rope"))
    rope_base: float = option(10000.0, "RoPE: a larger base rotates more slowly", least=1e-9)
    norm: str = option("rmsnorm", "LayerNorm also subtracts the mean", ("layernorm", "rmsnorm"))
    norm_eps: float = option(1e-6, "keeps the norm of zeros finite", least=1e-30)
    gains: bool = option(False, "norms have parameters")
    embed_norm: bool = option(True, "a norm after the embedding")
    qk_norm: bool = option(True, "a norm, without parameters, on every query and key")
    activation: str = option("relu2", "the MLP's", tuple(ACTIVATIONS))
    bias: bool = option(False, "linear layers and LayerNorms add a vector")
    tied: bool = option(False, "the head is the embedding table")
    softcap: float = option(15.0, "no logit is further from 0 than this; 0: no cap", least=0)
    ngrams: int = option(0, "look up the last 2, 3, ... up to this many ids, too", least=0)
    ngram_rows: int = option(8192, "rows for the n-grams of each length, found by hashing", least=1)

    def __post_init__(self):
        check_options(self)
        if self.ngrams == 1:
            raise ValueError("ngrams is 1, but must be 2 or more: one id has its own embedding")

    def check(self, config):
        """ValueError if a model of that GPTConfig can't be of this family."""
        if self.positions == "rope" and config.head_dim % 2:
            raise ValueError(f"{config.n_head} heads of d_model {config.d_model} have an odd size "
                             f"{config.head_dim}, but RoPE rotates pairs: make it even")
        if self.positions == "sinusoidal" and config.d_model % 2:
            raise ValueError(f"d_model {config.d_model} is odd, and sinusoidal positions are pairs")


MODERN = FamilyConfig()


def family_of(config):
    """The FamilyConfig of a GPTConfig: gpt.py's recipe, if it has no other."""
    return config.family or MODERN


def model_config(**choices):
    """A GPTConfig from its own fields and FamilyConfig's, side by side, as in MODELS. What is as in
    gpt.py's recipe has no family.
    """
    names = {field.name for field in fields(FamilyConfig)}
    family = FamilyConfig(**{name: value for name, value in choices.items() if name in names})
    shape = {name: value for name, value in choices.items() if name not in names}
    return GPTConfig(**shape, family=None if family == MODERN else family)


# ---- the layers ----
def sinusoids(positions, d_model):  # exercise
    """A fixed vector for each position (Vaswani et al. 2017, section 3.5): sin and cos of RoPE's
    angles, added to the embeddings instead of used to rotate.

    positions: (..., T) ints -> (..., T, C): sin and cos in turn, sin a0, cos a0, sin a1, ... with
    the angles of rope_angles(positions, C).
    """
    cos, sin = rope_angles(positions, d_model)
    return torch.stack((sin, cos), dim=-1).flatten(-2)


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm, with gains or without."""

    def __init__(self, config):
        super().__init__()
        family = family_of(config)
        shifts = family.gains and family.bias and family.norm == "layernorm"
        self.rms_norm = rms_norm if config.by_hand else rms_norm_fused
        self.layernorm, self.eps = family.norm == "layernorm", family.norm_eps
        self.weight = nn.Parameter(torch.ones(config.d_model)) if family.gains else None
        self.bias = nn.Parameter(torch.zeros(config.d_model)) if shifts else None

    def forward(self, x):
        if self.layernorm:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        x = self.rms_norm(x, self.eps)
        return x if self.weight is None else x * self.weight


class FamilyAttention(Attention):
    """Attention with or without biases, RoPE, and norms of queries and keys."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.family = family_of(config)
        if self.family.bias:
            self.qkv.bias = nn.Parameter(torch.zeros(self.qkv.out_features))
            self.out.bias = nn.Parameter(torch.zeros(self.out.out_features))

    def forward(self, x, angles, mask=None, cache=None):
        """As in gpt.py; angles: None if positions are added to the embeddings."""
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, sum(self.heads), self.config.head_dim)
        q, k, v = qkv.transpose(1, 2).split(self.heads, dim=1)
        if angles:
            q, k = rotate(q, *angles), rotate(k, *angles)
        if self.family.qk_norm:
            q, k = self.norm(q, self.family.norm_eps), self.norm(k, self.family.norm_eps)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)
        y = self.attend(q.to(k.dtype), k, v, mask).to(x.dtype)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


class FamilyMLP(MLP):
    """An MLP with any activation, or a gate."""

    def __init__(self, config):
        nn.Module.__init__(self)
        family = family_of(config)
        gated = family.activation == "swiglu"
        self.activation = ACTIVATIONS[family.activation]
        self.gate = nn.Linear(config.d_model, config.d_ff, family.bias) if gated else None
        self.up = nn.Linear(config.d_model, config.d_ff, family.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, family.bias)

    def forward(self, x):  # exercise
        """down(activation(up(x))), or with a gate down(activation(gate(x)) * up(x)).

        x: (B, T, C) -> (B, T, C). self.gate is None where there is none.
        """
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class FamilyBlock(nn.Module):
    """A block whose norms may have parameters."""

    def __init__(self, config, layer):
        super().__init__()
        self.attention_norm, self.attention = Norm(config), FamilyAttention(config, layer)
        self.mlp_norm, self.mlp = Norm(config), FamilyMLP(config)

    def forward(self, x, angles, mask=None, cache=None):
        x = x + self.attention(self.attention_norm(x), angles, mask, cache)
        return x + self.mlp(self.mlp_norm(x))


class FamilyGPT(GPT):
    """A GPT of any family. seed: of its weights; std: see init_weights()."""

    def __init__(self, config, seed=0, std=0.0):
        nn.Module.__init__(self)
        self.config, self.family, self.std = config, family_of(config), std
        self.family.check(config)
        learned = self.family.positions == "learned"
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embed = nn.Embedding(config.seq_len, config.d_model) if learned else None
        self.ngrams = NGrams(config) if self.family.ngrams else None
        self.embed_norm = Norm(config) if self.family.embed_norm else None
        self.blocks = nn.ModuleList(FamilyBlock(config, layer) for layer in range(config.n_layer))
        self.norm = Norm(config)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        if self.family.tied:
            self.head.weight = self.embed.weight
        self.init_weights(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def init_weights(self, generator):
        """Matrices uniform with variance 1 / fan-in, biases zero, all ids about equally likely.

        Untied: as in gpt.py. Tied: the table has small values, since it is also the head, and the
        matrices that write to the residual stream are divided by the root of their number, so that
        together they write about as much as one would, and the stream is not only the last id
        (GPT-2; Radford et al. 2019, section 2.3). Tables of n-grams are zero. With a `std` matrices
        and tables are normal with that std instead, whatever their size: GPT-2's is 0.02.
        """
        tied, std = self.family.tied, self.std
        write = (2 * self.config.n_layer) ** -0.5 if tied or std else 0
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                scale = write if name.endswith(("attention.out", "mlp.down")) else 1
                bound = scale * math.sqrt(3 / module.in_features)
                if std:
                    module.weight.normal_(std=scale * std, generator=generator)
                else:
                    module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()
        self.head.weight.normal_(std=std or (0.02 if tied else 0.001), generator=generator)
        untied = 0.1 if self.family.embed_norm else 1.0  # beside sinusoids a small one is lost
        for table in filter(None, (None if tied else self.embed, self.position_embed)):
            table.weight.normal_(std=std or untied, generator=generator)
        if self.ngrams:
            self.ngrams.tables.weight.zero_()

    def hidden(self, ids, cache=None, positions=None, mask=None):
        """As in gpt.py."""
        T, family = ids.shape[1], self.family
        start, room = (cache.length, cache.size) if cache is not None else (0, self.config.seq_len)
        if start + T > room:
            raise ValueError(f"{start} + {T} positions don't fit into {room}")
        if self.ngrams and mask is not None and cache is None:
            raise ValueError("n-gram tables look across the documents that a mask divides")
        if positions is None:
            positions = torch.arange(T, device=ids.device) if cache is None else cache.positions(T)
        mask = cache.mask(T) if hasattr(cache, "mask") else mask
        x = self.embed(ids)  # (B, T, C)
        x = x + self.ngrams(ids, cache) if self.ngrams else x
        angles = None
        if family.positions == "rope":
            angles = [a.unsqueeze(-3) for a in rope_angles(positions, self.config.head_dim,
                                                           family.rope_base)]
        else:
            x = x + (self.position_embed(positions) if self.position_embed else
                     sinusoids(positions, self.config.d_model).to(x.dtype))
        x = self.embed_norm(x) if self.embed_norm else x
        for block in self.blocks:
            x = block(x, angles, mask, cache)
        if cache is not None:
            cache.length += T
        return self.norm(x)

    def logits(self, x):
        """As in gpt.py; without a softcap, the head's output itself."""
        cap = self.family.softcap
        return cap * torch.tanh(self.head(x / cap).float()) if cap else self.head(x).float()


# ---- what changed ----
FAMILIES = {
    # The transformer's decoder (Vaswani et al. 2017), as built from scratch today: norms come
    # before attention and MLP, not after, and the head is a matrix of its own.
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
    # gpt.py (Karpathy 2025, nanochat as of October)
    "modern": {},
}


def dimensions(n_layer, d_model, n_head, n_kv_head=None, d_ff=None, **others):
    """GPTConfig's fields of a size: by default every head has its own keys, and d_ff is 4 C."""
    return dict(n_layer=n_layer, d_model=d_model, n_head=n_head, n_kv_head=n_kv_head or n_head,
                d_ff=d_ff or 4 * d_model, **others)


# ---- sizes ----
GPT2 = FAMILIES["gpt2"] | dict(vocab_size=50257, seq_len=1024)
LLAMA = FAMILIES["llama"] | dict(vocab_size=32000, seq_len=2048)

MODELS = {
    "scratch": FAMILIES["scratch"] | dimensions(4, 512, 8, d_ff=1024, vocab_size=4096, seq_len=256),
    # As released, with heads of 64; the paper's table 2 gives too few parameters.
    "gpt2": GPT2 | dimensions(12, 768, 12),
    "gpt2-medium": GPT2 | dimensions(24, 1024, 16),
    "gpt2-large": GPT2 | dimensions(36, 1280, 20),
    "gpt2-xl": GPT2 | dimensions(48, 1600, 25),
    # Llama's recipe in other sizes: llama2.c's model of TinyStories (Karpathy 2023), SmolLM2
    # (Allal et al. 2025) and TinyLlama (Zhang et al. 2024).
    "stories-15m": LLAMA | dimensions(6, 288, 6, d_ff=768, seq_len=256, tied=True),
    "smollm2-135m": LLAMA | dimensions(30, 576, 9, 3, 1536, vocab_size=49152, seq_len=8192,
                                  rope_base=100000.0, tied=True),
    "tinyllama-1b": LLAMA | dimensions(22, 2048, 32, 4, 5632),
    "llama-7b": LLAMA | dimensions(32, 4096, 32, d_ff=11008, norm_eps=1e-6),
}


def n_parameters(config):
    """How many parameters a model has. On the device "meta" tensors have shapes, but no data."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make_model(config).parameters())


# ---- the tables ----
def word(value):
    """A field's value as the table shows it."""
    return "yes" if value is True else str(value) if value else "no"


def print_families():
    """A row for each choice; " means the same as on the left."""
    print(f"{'':13}" + "".join(f"{name:>12}" for name in FAMILIES))
    configs = [FamilyConfig(**family) for family in FAMILIES.values()]
    for field in FAMILIES["scratch"]:
        words = [word(getattr(config, field)) for config in configs]
        changes = [new if new != old else '"' for old, new in zip(["", *words], words)]
        print(f"{field:13}" + "".join(f"{change:>12}" for change in changes))
    print('": as on the left')


def print_models():
    """A row for each model; heads are of queries / of keys and values."""
    row = "{:13}{:>7}{:>9}{:>8}{:>8}{:>12}{:>8}{:>15}".format
    print(row("", "layers", "d_model", "heads", "d_ff", "vocabulary", "window", "parameters"))
    for name, choices in MODELS.items():
        c = model_config(**choices)
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
