"""A decoder-only transformer: ids in, a score for every possible next id out.

One config spans the family tree: GPT-2, Llama and today's recipe are the same few lines, with other
choices (family.py lists them side by side). The defaults are today's recipe, "modern" in our tables
and "nanochat" in transformers: RMSNorm without parameters, rotary positions, normalised queries and
keys, grouped key/value heads, ReLU^2, no biases, an untied head with a soft cap on its logits.
Read from the top: the functions that are all of the mathematics, then attention, the MLP, the block
and the model.
Left out: the cache that makes writing quick (decode.py), other people's weights (weights.py).

One alphabet for shapes, here and everywhere: B batch, T time, C channels (d_model), H heads,
G key/value heads, D head size, S positions seen (the cache's and the T new ones), V vocabulary.

    python 03_model/gpt.py        # builds a small one and prints it

Reads and writes nothing. Next: decode.py, family.py.
"""

import math
import sys
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import Parser, option, run
from ngrams import NGrams

ACTIVATIONS = {
    "relu": F.relu,  # Vaswani et al. 2017
    "gelu": partial(F.gelu, approximate="tanh"),  # GPT-2 (Hendrycks & Gimpel 2016, section 2)
    "swiglu": F.silu,  # Llama (Shazeer 2020): of a gate, which is then multiplied by what goes up
    "relu2": lambda x: F.relu(x).square(),  # So et al. 2021
}


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model, and of which kind its parts are."""

    vocab_size: int = option(2048, "ids, special tokens included")
    seq_len: int = option(128, "tokens in a window")
    n_layer: int = option(3, "blocks")
    n_head: int = option(2, "query heads")
    n_kv_head: int = option(2, "key/value heads: n_head is multi-head attention, 1 multi-query")
    d_model: int = option(128, "width of the stream")
    d_ff: int = option(512, "width of the MLP")
    positions: str = option("rope", "how a model knows what stands where: vectors added to the "
                            "stream, or queries and keys that turn", ("learned", "sinusoidal",
                                                                      "rope"))
    rope_base: float = option(10000.0, "rotary positions: how slow the slowest pair turns")
    norm: str = option("rmsnorm", "LayerNorm also takes the mean away", ("layernorm", "rmsnorm"))
    norm_eps: float = option(1e-6, "keeps the norm of zeros finite")
    gains: bool = option(False, "norms have parameters")
    embed_norm: bool = option(True, "a norm after the embedding")
    qk_norm: bool = option(True, "a norm, without parameters, on every query and key")
    activation: str = option("relu2", "the MLP's", tuple(ACTIVATIONS))
    bias: bool = option(False, "matrices and LayerNorms add a vector")
    tied: bool = option(False, "the head is the embedding table")
    softcap: float = option(15.0, "no logit is further from 0 than this; 0: no cap")
    ngrams: int = option(0, "also look up the last 2, 3, ... so many ids together; 0: don't")
    ngram_rows: int = option(8192, "rows for the n-grams of each length, found by hashing")

    def __post_init__(self):
        for field in fields(GPTConfig):
            value, kind = getattr(self, field.name), field.type
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise ValueError(f"{field.name} is {value!r}, but must be of type {kind.__name__}")
            if field.metadata["choices"] and value not in field.metadata["choices"]:
                raise ValueError(f"{field.name} is {value!r}, but must be one of "
                                 f"{', '.join(field.metadata['choices'])}")
            optional = field.name in ("softcap", "ngrams")  # 0 for none
            if kind in (int, float) and not (0 < value < 2**31 or value == 0 and optional):
                raise ValueError(f"{field.name} is {value}, but must be positive"
                                 f"{', or 0 for none' if optional else ', and not huge'}")
        if self.ngrams == 1:
            raise ValueError("ngrams is 1, but must be 2 or more: one id has its own embedding")
        if self.d_model % self.n_head:
            raise ValueError(f"d_model {self.d_model} can't be divided into {self.n_head} heads")
        if self.positions == "rope" and self.head_dim % 2:
            raise ValueError(f"{self.n_head} heads of d_model {self.d_model} have an odd size "
                             f"{self.head_dim}, but rotary positions turn pairs: make it even")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} is odd, and sinusoidal positions are pairs")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} is not a multiple of n_kv_head "
                             f"{self.n_kv_head}, so they can't share evenly")

    @property
    def head_dim(self):
        return self.d_model // self.n_head


# ---- the mathematics ----

def rms_norm(x, eps=1e-6):  # exercise
    """x / sqrt(mean(x^2) + eps) over the last dimension (Zhang & Sennrich 2019), no parameters.

    x: (..., C), any float type; computed in float32, returned in x's type.
    rms_norm(tensor([3., 4.])) is [0.8485, 1.1314]: the mean of its squares is 1.
    """
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rope_angles(positions, head_dim, base=10000.0):  # exercise
    """The cosines and sines by which rotary positions turn (Su et al. 2021, section 3.2.2).

    positions: (..., T) ints. Pair i of the D/2 pairs turns by the angle position * base^(-2i/D):
    the first fast, the last hardly at all, like the hands of a clock.
    Returns (cos, sin), each (..., T, D/2) in float32.
    """
    speeds = base ** (-torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angles = positions.float()[..., None] * speeds
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):  # exercise
    """Turn each pair (x1, x2) of x by its angle: (x1 cos + x2 sin, x2 cos - x1 sin).

    x: (B, H, T, D), whose pair i is x[..., i] and x[..., i + D/2]. cos, sin: (T, D/2) in float32,
    or (B, 1, T, D/2) if rows stand at different positions. Returned in x's type, like rms_norm().
    The dot product of two turned vectors depends only on how far apart they stand. (The paper
    pairs neighbours and turns the other way: as good, as long as queries and keys do the same.)
    """
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1)


def sinusoids(positions, d_model):  # exercise
    """A fixed vector for each position (Vaswani et al. 2017, section 3.5): the hands of the same
    clock, shown instead of used to turn.

    positions: (..., T) ints -> (..., T, C): sin and cos in turn, sin a0, cos a0, sin a1, ... with
    the angles of rope_angles(positions, C).
    """
    cos, sin = rope_angles(positions, d_model)
    return torch.stack((sin, cos), dim=-1).flatten(-2)


def visible(positions, n_keys):  # exercise
    """Which keys a query may look at: True where the key's position is the query's, or earlier.

    positions: (..., T), where the queries stand; the keys stand at 0, 1, ... S - 1. (..., T, S).
    visible(tensor([1, 2]), 3) is [[True, True, False], [True, True, True]]
    """
    return torch.arange(n_keys, device=positions.device) <= positions[..., None]


def attention_weights(q, k, mask):  # exercise
    """How much each query takes from each key: softmax(q k' / sqrt(D)), (B, H, T, S).

    q: (B, H, T, D); k: (B, G, S, D); mask: (T, S) or (B, 1, T, S), True where a query may look; all
    else weighs 0. Query head h reads key head h // (H/G) (Ainslie et al. 2023).
    """
    H, D, G = q.shape[1], q.shape[3], k.shape[1]
    k = k.repeat_interleave(H // G, dim=1)  # (B, H, S, D)
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)  # (B, H, T, S)
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)


def attention_by_hand(q, k, v, mask):  # exercise
    """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1), written out.

    attention_weights(q, k, mask) times v, (B, H, T, D). v: (B, G, S, D), shared as the keys are.
    attention() is the same, fused; this is what it computes.
    """
    v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)  # (B, H, S, D)
    return attention_weights(q, k, mask) @ v


def attention(q, k, v, mask=None):
    """attention_by_hand in one kernel, which never holds the (T, S) scores in memory.

    Without a mask: causal if T == S, and a single query sees all keys.
    """
    B, H, T, D = q.shape
    G, fused = k.shape[1], F.scaled_dot_product_attention
    if T == 1:  # heads that read the same keys are like queries at several positions
        return fused(q.view(B, G, H // G, D), k, v, attn_mask=mask).view(B, H, 1, D)
    return fused(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=H != G)


# ---- the model ----

class Linear(nn.Linear):
    """x W' + b, (..., in) -> (..., out): an nn.Linear that is quicker where texts are written."""

    def forward(self, x):
        rows = x.numel() // self.in_features
        if not 8 <= rows <= 32 or torch.is_grad_enabled() or x.device.type != "cpu":
            return F.linear(x, self.weight, self.bias)
        # A position of each of some texts: W @ x' took two thirds of the time of x @ W' for 8 rows
        # of GPT-2's shapes on two cores of a Xeon, nine tenths on one.
        y = self.weight @ x.reshape(rows, self.in_features).t()  # (out, rows)
        y = y.t().contiguous().view(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias


class Norm(nn.Module):
    """LayerNorm (Ba et al. 2016) or RMSNorm, with gains or without."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        shifts = config.gains and config.bias and config.norm == "layernorm"
        self.weight = nn.Parameter(torch.ones(config.d_model)) if config.gains else None
        self.bias = nn.Parameter(torch.zeros(config.d_model)) if shifts else None

    def forward(self, x):
        eps = self.config.norm_eps
        if self.config.norm == "layernorm":
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, eps)
        return rms_norm(x, eps) if self.weight is None else rms_norm(x, eps) * self.weight


class Attention(nn.Module):
    """Positions talk: each gathers from itself and those before it what its query asks for."""

    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer = config, layer
        C, D = config.d_model, config.head_dim
        self.heads = (config.n_head, config.n_kv_head, config.n_kv_head)  # of q, k, v
        self.qkv = Linear(C, sum(self.heads) * D, config.bias)  # one product is quicker than three
        self.out = Linear(config.n_head * D, C, config.bias)

    def forward(self, x, angles, mask, cache):
        """x: (B, T, C) -> (B, T, C). angles: cos and sin for rotate(), or None."""
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, sum(self.heads), self.config.head_dim)
        q, k, v = qkv.transpose(1, 2).split(self.heads, dim=1)  # (B, H, T, D), (B, G, T, D) twice
        if angles:
            q, k = rotate(q, *angles), rotate(k, *angles)
        if self.config.qk_norm:
            q, k = rms_norm(q, self.config.norm_eps), rms_norm(k, self.config.norm_eps)
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, G, S, D)
        y = attention(q.to(k.dtype), k, v, mask).to(x.dtype)  # (B, H, T, D)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Each position thinks by itself: up to d_ff features, an activation, down."""

    def __init__(self, config):
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        gated = config.activation == "swiglu"
        self.gate = Linear(config.d_model, config.d_ff, config.bias) if gated else None
        self.up = Linear(config.d_model, config.d_ff, config.bias)
        self.down = Linear(config.d_ff, config.d_model, config.bias)

    def forward(self, x):  # exercise
        """down(activation(up(x))), or with a gate down(activation(gate(x)) * up(x)).

        x: (B, T, C) -> (B, T, C). self.gate is None where there is none.
        """
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention, then the MLP, each adding what it finds to a stream it reads normalised."""

    def __init__(self, config, layer):
        super().__init__()
        self.attention_norm, self.attention = Norm(config), Attention(config, layer)
        self.mlp_norm, self.mlp = Norm(config), MLP(config)

    def forward(self, x, angles, mask, cache):  # exercise
        """x + attention(norm(x)), then y + mlp(norm(y)). x: (B, T, C) -> (B, T, C).

        The norms are self.attention_norm and self.mlp_norm; angles, mask and cache are handed to
        self.attention as they are.
        """
        x = x + self.attention(self.attention_norm(x), angles, mask, cache)
        return x + self.mlp(self.mlp_norm(x))


class GPT(nn.Module):
    """The whole of it. seed: of its weights; std: as init_weights() has it."""

    def __init__(self, config, seed=0, std=0.0):
        super().__init__()
        self.config = config
        learned = config.positions == "learned"
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.places = nn.Embedding(config.seq_len, config.d_model) if learned else None
        self.ngrams = NGrams(config) if config.ngrams else None
        self.embed_norm = Norm(config) if config.embed_norm else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = Norm(config)
        self.head = Linear(config.d_model, config.vocab_size, bias=False)
        if config.tied:
            self.head.weight = self.embed.weight
        self.init_weights(torch.Generator().manual_seed(seed), std)

    @torch.no_grad()
    def init_weights(self, generator, std=0.0):
        """Matrices uniform with variance 1 / fan-in, biases zero, all ids about equally likely.

        Untied: the head is tiny, and the matrices that write to the stream are zero, so that each
        block starts as "do nothing". Tied: the table is small, as it is the head, and all writers
        together write about as much as one would, divided by the root of their number, so that the
        stream is not only the last id (GPT-2; Radford et al. 2019, section 2.3). Tables of n-grams
        are zero.
        With `std` matrices and tables are normal instead, whatever their size: GPT-2's is 0.02.
        """
        tied = self.config.tied
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
        for table in ([] if tied else [self.embed]) + ([self.places] if self.places else []):
            table.weight.normal_(std=std or (0.02 if tied else 1.0), generator=generator)
        if self.ngrams:
            self.ngrams.tables.weight.zero_()

    def hidden(self, ids, cache=None):
        """ids: (B, T) ints -> what the head reads, (B, T, C).

        With a cache, ids continue what it holds and are added to it: cache.lengths grow by T.
        ValueError if the positions don't fit into the window or, with a cache, into the cache.
        """
        config, T = self.config, ids.shape[1]
        start, room = (0, config.seq_len) if cache is None else (max(cache.lengths), cache.size)
        if start + T > room:
            raise ValueError(f"{start} + {T} positions don't fit into {room}")
        positions = torch.arange(T, device=ids.device) if cache is None else cache.positions(T)
        ragged = positions.dim() == 2  # rows stand at different positions
        # A mask is slower: none where all keys are seen, or where attention() is causal by itself.
        mask = visible(positions, start + T) if ragged or 1 < T < start + T else None
        mask = mask.unsqueeze(1) if ragged else mask  # (B, 1, T, S): the same for all heads

        x = self.embed(ids)  # (B, T, C)
        x = x + self.ngrams(ids, cache) if self.ngrams else x
        angles = None
        if config.positions == "rope":
            angles = rope_angles(positions, config.head_dim, config.rope_base)  # (T, D/2) twice
            angles = [a.unsqueeze(1) for a in angles] if ragged else angles  # (B, 1, T, D/2)
        else:
            x = x + (self.places(positions) if self.places else
                     sinusoids(positions, config.d_model).to(x.dtype))
        x = self.embed_norm(x) if self.embed_norm else x
        for block in self.blocks:
            x = block(x, angles, mask, cache)
        if cache is not None:
            cache.lengths = [n + T for n in cache.lengths]
        return self.norm(x)

    def logits(self, x):
        """What hidden() returned, or some of its positions: (..., C) -> (..., V) in float32."""
        cap = self.config.softcap
        if not cap:
            return self.head(x).float()
        return cap * torch.tanh(self.head(x / cap).float())  # dividing the C, not the V, is cheaper

    def forward(self, ids, cache=None):
        """ids: (B, T) ints -> logits (B, T, V) in float32; cache: as in hidden()."""
        return self.logits(self.hidden(ids, cache))

    def loss(self, ids, targets, label_smoothing=0.0, z_loss=0.0):  # exercise
        """The loss of every target, in nats: -log p(target), and 0 where the target is negative.

        ids, targets: (B, T); targets[b, t] is what should follow ids[b, t], or negative where
        nothing is to be learned. Returns (B, T) float32; a new model's is very
        nearly ln(vocab_size).
        label_smoothing: this share of the loss is the mean of -log p over all ids instead (Szegedy
        et al. 2015, section 7). z_loss: so many times log(Z)^2 is added, with Z the sum of
        exp(logits), which keeps logits from growing (Chowdhery et al. 2022, section 5).
        """
        logits = self(ids).flatten(0, 1)  # (B T, V)
        nats = F.cross_entropy(logits, targets.flatten().clamp(min=-1), ignore_index=-1,
                               reduction="none", label_smoothing=label_smoothing)
        if z_loss:
            nats = nats + z_loss * logits.logsumexp(dim=-1)**2 * (targets.flatten() >= 0)
        return nats.view_as(targets)


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    model = GPT(GPTConfig())
    print(model)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters; "
          f"ids (1, 3) -> logits {tuple(model(torch.tensor([[1, 2, 3]])).shape)}")


if __name__ == "__main__":
    run(main)
