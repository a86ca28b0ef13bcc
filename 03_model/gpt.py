"""A decoder-only transformer: ids in, a score for every possible next id out.

The modern recipe, which transformers calls "nanochat": RMSNorm without parameters, rotary
positions, normalised queries and keys, grouped key/value heads, ReLU^2, no biases, an untied head
with a soft cap on its logits. Read from the top: the functions that are all of the mathematics,
then the cache, attention, the block, the model, and generate().
Left out: other architectures, other people's weights, clever sampling (05_sample/sample.py).

One alphabet for shapes, here and everywhere: B batch, T time, C channels (d_model), H heads,
G key/value heads, D head size, S positions seen (the cache's and the T new ones), V vocabulary.

    python 03_model/gpt.py        # builds a small one and prints it

Reads and writes nothing. Next: 03_model/budget.py.
"""

import math
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import Parser, option, run


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model."""

    vocab_size: int = option(2048, "ids, special tokens included")
    seq_len: int = option(128, "tokens in a window")
    n_layer: int = option(3, "blocks")
    n_head: int = option(2, "query heads")
    n_kv_head: int = option(2, "key/value heads: n_head is multi-head attention, 1 multi-query")
    d_model: int = option(128, "width of the stream")
    d_ff: int = option(512, "width of the MLP")
    rope_base: float = option(10000.0, "rotary positions: how slow the slowest pair turns")
    softcap: float = option(15.0, "no logit is larger than this")

    def __post_init__(self):
        for field in fields(GPTConfig):
            if not getattr(self, field.name) > 0:  # not "<=", which would let nan pass
                raise ValueError(f"{field.name} is {getattr(self, field.name)}, but must be "
                                 "positive")
        if self.d_model % (2 * self.n_head):
            raise ValueError(f"d_model {self.d_model} can't be divided into {self.n_head} heads of "
                             "an even size (rotary positions turn pairs)")
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
    rms_norm([3., 4.]) is [0.8485, 1.1314]: the mean of its squares is 1.
    """
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rope_angles(positions, head_dim, base=10000.0):  # exercise
    """The cosines and sines by which rotary positions turn (Su et al. 2021, section 3.2.2).

    positions: (T,) ints. Pair i of the D/2 pairs turns by the angle position * base^(-2i/D):
    the first fast, the last hardly at all, like the hands of a clock.
    Returns (cos, sin), each (T, D/2) in float32.
    """
    speeds = base ** (-torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim)
    angles = positions.float()[:, None] * speeds
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):  # exercise
    """Turn each pair (x1, x2) of x by its angle: (x1 cos + x2 sin, x2 cos - x1 sin).

    x: (B, H, T, D), whose pair i is x[..., i] and x[..., i + D/2]. cos, sin: (T, D/2).
    The dot product of two turned vectors depends only on how far apart they stand. (The paper
    pairs neighbours and turns the other way: as good, as long as queries and keys do the same.)
    """
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1)


def visible(n_queries, n_keys, device=None):  # exercise
    """Which keys a query may look at: (T, S) booleans, True where the key is not in its future.

    The T queries are the last T of the S positions: query t stands at position S - T + t.
    visible(2, 3) == [[True, True, False], [True, True, True]]
    """
    return torch.ones(n_queries, n_keys, dtype=torch.bool, device=device).tril(n_keys - n_queries)


def attention_by_hand(q, k, v):  # exercise
    """Causal scaled dot-product attention (Vaswani et al. 2017, section 3.2.1), written out.

    q: (B, H, T, D); k, v: (B, G, S, D); the queries are the last T of S positions. Query head h
    reads key/value head h // (H/G) (Ainslie et al. 2023). softmax(q k' / sqrt(D)) v over the
    visible keys, (B, H, T, D). attention() is the same, fused; this is what it computes.
    """
    H, T, D = q.shape[1:]
    G, S = k.shape[1:3]
    k, v = (x.repeat_interleave(H // G, dim=1) for x in (k, v))  # (B, H, S, D)
    scores = q @ k.transpose(-2, -1) / math.sqrt(D)  # (B, H, T, S)
    scores = scores.masked_fill(~visible(T, S, q.device), float("-inf"))
    return scores.softmax(dim=-1) @ v


def attention(q, k, v):
    """attention_by_hand in one kernel, which never holds the (T, S) scores in memory."""
    T, S = q.shape[2], k.shape[2]
    mask = visible(T, S, q.device) if 1 < T < S else None  # a chunk after a filled cache
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=T == S and T > 1,
                                          enable_gqa=q.shape[1] != k.shape[1])


# ---- the cache ----

class KVCache:
    """The keys and values of the positions a generation has seen, so that none is computed twice.

    Memory is taken once, for `size` positions. `length` says how many are filled; every layer
    writes behind it, and GPT.forward moves it on, once, when all layers are done.
    """

    def __init__(self, config, batch_size, size=None, dtype=torch.float32, device=None):
        self.size, self.length = size or config.seq_len, 0
        shape = (config.n_layer, batch_size, config.n_kv_head, self.size, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)  # (n_layer, B, G, size, D)
        self.values = torch.empty_like(self.keys)

    def append(self, layer, k, v):  # exercise
        """Store k, v (B, G, T, D) behind the `length` positions that `layer` holds already.

        Writes into self.keys[layer] and self.values[layer]; does not change self.length.
        Returns all of that layer's keys and values up to the new ones, each (B, G, length + T, D).
        """
        start, end = self.length, self.length + k.shape[2]
        self.keys[layer, :, :, start:end] = k
        self.values[layer, :, :, start:end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


# ---- the model ----

class Attention(nn.Module):
    """Positions talk: each gathers from those before it what its query asks for."""

    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer = config, layer
        C, D = config.d_model, config.head_dim
        self.q = nn.Linear(C, config.n_head * D, bias=False)
        self.k = nn.Linear(C, config.n_kv_head * D, bias=False)
        self.v = nn.Linear(C, config.n_kv_head * D, bias=False)
        self.out = nn.Linear(config.n_head * D, C, bias=False)

    def forward(self, x, cos, sin, cache):
        B, T, C = x.shape
        q, k, v = (f(x).unflatten(2, (-1, self.config.head_dim)).transpose(1, 2)
                   for f in (self.q, self.k, self.v))  # (B, H, T, D), (B, G, T, D) twice
        q, k = rms_norm(rotate(q, cos, sin)), rms_norm(rotate(k, cos, sin))
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, G, S, D)
        return self.out(attention(q, k, v).transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """Each position thinks by itself: up to d_ff features, ReLU squared (So et al. 2021), down."""

    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x):  # exercise
        """down(relu(up(x))^2). x: (B, T, C) -> (B, T, C)."""
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    """Attention, then the MLP, each adding what it finds to a stream it reads normalised."""

    def __init__(self, config, layer):
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, cos, sin, cache):  # exercise
        """x + attention(norm(x)), then y + mlp(norm(y)). x: (B, T, C) -> (B, T, C).

        norm is rms_norm; cos, sin and cache are handed to self.attention as they are.
        """
        x = x + self.attention(rms_norm(x), cos, sin, cache)
        return x + self.mlp(rms_norm(x))


class GPT(nn.Module):
    def __init__(self, config, seed=0):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.init_weights(torch.Generator().manual_seed(seed))

    @torch.no_grad()
    def init_weights(self, generator):
        """Embedding normal; matrices uniform with variance 1 / d_model, but those that write to the
        stream zero, so that each block starts as "do nothing"; a tiny head, so that all ids start
        about equally likely.
        """
        bound = math.sqrt(3 / self.config.d_model)
        self.embed.weight.normal_(generator=generator)
        for block in self.blocks:
            a, m = block.attention, block.mlp
            for linear in (a.q, a.k, a.v, m.up):
                linear.weight.uniform_(-bound, bound, generator=generator)
            a.out.weight.zero_()
            m.down.weight.zero_()
        self.head.weight.normal_(std=0.001, generator=generator)

    def forward(self, ids, cache=None):
        """ids: (B, T) ints -> logits (B, T, V) in float32.

        With a cache, ids continue what it holds and are added to it: cache.length grows by T.
        ValueError if the positions don't fit into the window or, with a cache, into the cache.
        """
        T = ids.shape[1]
        start, room = (0, self.config.seq_len) if cache is None else (cache.length, cache.size)
        if start + T > room:
            raise ValueError(f"{start} + {T} positions don't fit into {room}")
        positions = torch.arange(start, start + T, device=ids.device)
        cos, sin = rope_angles(positions, self.config.head_dim, self.config.rope_base)
        x = rms_norm(self.embed(ids))  # (B, T, C)
        for block in self.blocks:
            x = block(x, cos, sin, cache)
        if cache is not None:
            cache.length += T
        cap = self.config.softcap  # cap * tanh(logits / cap); dividing the C, not the V, is cheaper
        return cap * torch.tanh(self.head(rms_norm(x) / cap).float())  # (B, T, V)

    def loss(self, ids, targets):  # exercise
        """The loss of every target, in nats: -log p(target), and 0 where the target is negative.

        ids, targets: (B, T); targets[b, t] is what should follow ids[b, t], or negative where
        nothing is to be learned. Returns (B, T) float32; a new model's is very
        nearly ln(vocab_size).
        """
        logits = self(ids)  # (B, T, V)
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten().clamp(min=-1),
                               ignore_index=-1, reduction="none")
        return nats.view_as(targets)


# ---- writing ----

def greedy(logits):
    """The likeliest id of each row. logits: (B, V) -> (B,)."""
    return logits.argmax(dim=-1)


def apply_temperature(logits, temperature):
    """logits / temperature, up to a constant that no softmax sees; without it a tiny temperature
    would overflow.
    """
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def random_pick(temperature=1.0, seed=0):
    """A pick for generate() that draws each id with probability softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(seed)

    def pick(logits):
        shares = apply_temperature(logits, temperature).softmax(dim=-1).cpu()
        return torch.multinomial(shares, 1, generator=generator)[:, 0].to(logits.device)
    return pick


@torch.inference_mode()
def generate(model, ids, n_tokens, pick=greedy):
    """Yield `n_tokens` times the next id of each row, (B,), each chosen by pick(logits (B, V)).

    ids: (B, T) prompts of one length, T >= 1. One pass over the prompt fills the cache, then one
    position a step. A window that is full starts again from the newer half of what it holds.
    """
    if ids.shape[1] == 0:
        raise ValueError("the prompt is empty: give it at least <|bos|>")
    window = model.config.seq_len
    cache = KVCache(model.config, len(ids), dtype=model.head.weight.dtype, device=ids.device)
    ids = new = ids[:, -window:]
    for _ in range(n_tokens):
        if cache.length == window:
            new, cache.length = ids[:, -((window + 1) // 2):], 0
        next_ids = pick(model(new, cache)[:, -1])  # (B,)
        yield next_ids
        new = next_ids[:, None]
        ids = torch.cat((ids, new), dim=1)[:, -window:]


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    model = GPT(GPTConfig())
    print(model)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters; "
          f"ids (1, 3) -> logits {tuple(model(torch.tensor([[1, 2, 3]])).shape)}")


if __name__ == "__main__":
    run(main)
