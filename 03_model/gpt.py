"""A decoder-only transformer: ids in, a score for every possible next id out.

The recipe of October 2025's nanochat: RMSNorm without parameters, RoPE, QK-norm, key/value heads
that query heads share, ReLU^2, no biases, an untied head, soft-capped logits. One alphabet for
shapes, here and everywhere: B batch, T time, C channels (d_model), H query heads, G key/value
heads, D head size, S positions seen (the cached and the T new ones), V vocabulary.

    python 03_model/gpt.py        # learns a sentence by heart, writes it, measures the cache

GPT-2 and Llama are in extras/family.py. Next: 04_train/optim.py.
"""

import math
import os
import sys
from dataclasses import dataclass, replace

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, check_options, option, run

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model. family: None, or another recipe, a FamilyConfig of extras/family.py."""

    vocab_size: int = option(2048, "ids, special tokens included", least=1)
    seq_len: int = option(128, "tokens in a window", least=1)
    n_layer: int = option(3, "blocks", least=1)
    n_head: int = option(2, "query heads", least=1)
    n_kv_head: int = option(2, "key/value heads; n_head: multi-head, 1: multi-query", least=1)
    d_model: int = option(128, "width of the residual stream", least=1)
    d_ff: int = option(512, "width of the MLP", least=1)
    by_hand: bool = option(False, "run the plain versions, written to be read, not the fast ones")
    family: object = None

    def __post_init__(self):
        check_options(self)
        if self.d_model % self.n_head or self.n_head % self.n_kv_head:
            raise ValueError(f"d_model {self.d_model} must be a multiple of n_head {self.n_head}, "
                             f"and that of n_kv_head {self.n_kv_head}")
        if not self.family and self.head_dim % 2:
            raise ValueError(f"heads have {self.head_dim} channels, but RoPE rotates pairs of them")

    @property
    def head_dim(self):
        return self.d_model // self.n_head


def rms_norm(x, eps=1e-6):  # exercise
    """x / sqrt(mean(x^2) + eps) over the last dimension (Zhang & Sennrich 2019), in x's float type,
    computed in float32. rms_norm(tensor([3., 4.])) is [0.8485, 1.1314]: its mean square is 1.
    """
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def rope_angles(positions, head_dim, base=10000.0):  # exercise
    """cos and sin of RoPE's angles, each (..., T, D/2) in float32, for positions, (..., T) ints (Su
    et al. 2021, section 3.2.2), on their device. Pair i of D channels: position * base^(-2i/D).
    """
    inv_freq = base ** (-torch.arange(0, head_dim, 2, device=positions.device) / head_dim)
    angles = positions[..., None] * inv_freq
    return angles.cos(), angles.sin()


def rotate(x, cos, sin):  # exercise
    """Rotate each pair (x1, x2) of x by its angle: (x1 cos + x2 sin, x2 cos - x1 sin). So a query's
    dot product with a key depends only on how far apart they stand. x: (B, H, T, D), whose pair i
    is x[..., i] and x[..., i + D/2]; returned in its type. cos, sin: (..., T, D/2) in float32.
    """
    x1, x2 = x.chunk(2, dim=-1)  # the paper pairs neighbours, and rotates the other way
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((x1 * cos + x2 * sin, x2 * cos - x1 * sin), dim=-1)


def causal_mask(positions, n_keys):  # exercise
    """(..., T, S), on their device: True where key s, 0 ... S - 1, is at most positions[..., t]."""
    return torch.arange(n_keys, device=positions.device) <= positions[..., None]


def attention_weights(q, k, mask):  # exercise
    """How much each query takes from each key: softmax(q k' / sqrt(D)), (B, H, T, S). q: (B, H, T,
    D); k: (B, G, S, D); mask: (T, S) or (B, 1, T, S), True where a query may attend; elsewhere the
    weight is 0. Query head h reads key head h // (H/G) (Ainslie et al. 2023).
    """
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)  # (B, H, S, D)
    scores = q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1)  # (B, H, T, S)
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)


def attention(q, k, v, mask=None):  # exercise
    """attention_weights(q, k, mask) times v, (B, H, T, D) (Vaswani et al. 2017, section 3.2.1). v,
    (B, G, S, D), is shared as k is. Without a mask: the causal_mask() of the last T of S positions.
    """
    T, S = q.shape[2], k.shape[2]
    if mask is None:
        mask = causal_mask(torch.arange(S - T, S, device=q.device), S)
    v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)  # (B, H, S, D)
    return attention_weights(q, k, mask) @ v


def rms_norm_fused(x, eps=1e-6):
    """rms_norm() in one kernel."""
    return F.rms_norm(x, x.shape[-1:], eps=eps)


def attention_fused(q, k, v, mask=None):
    """attention() by a kernel that doesn't hold the (T, S) scores, or itself where it is faster."""
    (B, H, T, D), (G, S) = q.shape, k.shape[1:3]
    if 1 < T and S <= 256 and q.dtype == torch.float32 and q.device.type == "cpu":
        return attention(q, k, v, mask)
    if T == 1:  # query heads that share a key head are passed as several positions
        return F.scaled_dot_product_attention(q.reshape(B, G, H // G, D), k, v, mask).reshape_as(q)
    if mask is None and T < S:
        mask = causal_mask(torch.arange(S - T, S, device=q.device), S)
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, enable_gqa=H != G)


class Attention(nn.Module):
    """Each position takes values from itself and those before, most where a key fits its query."""

    def __init__(self, config, layer):
        super().__init__()
        self.config, self.layer = config, layer
        self.heads = (config.n_head, config.n_kv_head, config.n_kv_head)  # of q, k, v
        self.qkv = nn.Linear(config.d_model, sum(self.heads) * config.head_dim, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.norm = rms_norm if config.by_hand else rms_norm_fused
        self.attend = attention if config.by_hand else attention_fused

    def forward(self, x, angles, mask=None, cache=None):  # exercise
        """x: (B, T, C) -> (B, T, C). angles: (cos, sin) for rotate(); mask: for self.attend.
        1. self.qkv(x) holds D channels for each of H query, then G key, then G value heads: make
           q, (B, H, T, D), k and v, (B, G, T, D), of it. Rotate q and k, then self.norm both.
        2. With a cache, k, v = cache.append(self.layer, k, v), of S positions; q takes their type.
        3. self.attend(q, k, v, mask), in x's type, its heads side by side, goes through self.out.
        """
        qkv = self.qkv(x).unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)
        q, k, v = qkv.split(self.heads, dim=1)  # (B, H, T, D), (B, G, T, D) twice
        q, k = self.norm(rotate(q, *angles)), self.norm(rotate(k, *angles))
        if cache is not None:
            k, v = cache.append(self.layer, k, v)  # (B, G, S, D)
        y = self.attend(q.to(k.dtype), k, v, mask).to(x.dtype)  # (B, H, T, D)
        return self.out(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Each position computes by itself: a projection up to d_ff, an activation, one down."""

    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x):  # exercise
        """down(relu(up(x))^2), (B, T, C) -> (B, T, C) (So et al. 2021)."""
        return self.down(F.relu(self.up(x)).square())


class Block(nn.Module):
    """Attention, then the MLP, each adding what it finds to x: hence the "residual stream"."""

    def __init__(self, config, layer):
        super().__init__()
        self.norm = rms_norm if config.by_hand else rms_norm_fused
        self.attention, self.mlp = Attention(config, layer), MLP(config)

    def forward(self, x, angles, mask=None, cache=None):  # exercise
        """y = x + attention(norm(x), angles, mask, cache), then y + mlp(norm(y)); all (B, T, C)."""
        x = x + self.attention(self.norm(x), angles, mask, cache)
        return x + self.mlp(self.norm(x))


class KVCache:
    """Keys and values of `length` positions, computed only once; lowering `length` drops some."""

    def __init__(self, config, batch_size, size=None, dtype=torch.float32, device=None):
        self.size, self.length = size or config.seq_len, 0
        shape = (config.n_layer, batch_size, config.n_kv_head, self.size, config.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))

    def positions(self, T):  # exercise
        """The positions of T further ids: length, length + 1, ... (T,), on self.keys' device."""
        return torch.arange(self.length, self.length + T, device=self.keys.device)

    def append(self, layer, k, v):  # exercise
        """Store k, v, (B, G, T, D), behind the `length` positions of self.keys[layer] and
        self.values[layer], (B, G, size, D). Returns the filled parts of both, (B, G, S, D), views.
        """
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length:end] = k
        self.values[layer, :, :, self.length:end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class GPT(nn.Module):
    """The model. Initially each block adds 0: its output matrices are 0. seed: of the others."""

    def __init__(self, config, seed=0):
        super().__init__()
        self.config = config
        self.norm = rms_norm if config.by_hand else rms_norm_fused
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.blocks.named_parameters():  # of variance 1 / fan-in
            bound = 0 if "out" in name or "down" in name else math.sqrt(3 / weight.shape[1])
            nn.init.uniform_(weight, -bound, bound, generator=generator)
        nn.init.normal_(self.head.weight, std=0.001, generator=generator)  # near-uniform
        nn.init.normal_(self.embed.weight, std=0.1, generator=generator)  # small, to turn fast

    def hidden(self, ids, cache=None, positions=None, mask=None):  # exercise
        """ids, (B, T) -> what the head reads, (B, T, C): self.embed, norm, blocks, and norm again.
        Blocks take rope_angles() of positions (else cache.positions(T), or 0 ... T - 1 on the ids'
        device) as (..., 1, T, D/2), and the mask, or cache.mask(T) if a cache has that. At the end
        cache.length grows by T. ValueError "3 + 2 positions don't fit into 4": seq_len, cache.size.
        """
        T = ids.shape[1]
        start, room = (cache.length, cache.size) if cache is not None else (0, self.config.seq_len)
        if start + T > room:
            raise ValueError(f"{start} + {T} positions don't fit into {room}")
        if positions is None:
            positions = torch.arange(T, device=ids.device) if cache is None else cache.positions(T)
        mask = cache.mask(T) if hasattr(cache, "mask") else mask
        angles = [a.unsqueeze(-3) for a in rope_angles(positions, self.config.head_dim)]
        x = self.norm(self.embed(ids))  # (B, T, C)
        for block in self.blocks:
            x = block(x, angles, mask, cache)
        if cache is not None:
            cache.length += T
        return self.norm(x)

    def logits(self, x):
        """What hidden() returned, or some of its positions: (..., C) -> (..., V) in float32."""
        return 15 * torch.tanh(self.head(x / 15).float())  # squashed smoothly into (-15, 15)

    def forward(self, ids, cache=None, positions=None, mask=None):
        """ids: (B, T) ints -> logits (B, T, V) in float32; other arguments as in hidden()."""
        return self.logits(self.hidden(ids, cache, positions, mask))

    def loss(self, ids, targets, positions=None, mask=None):  # exercise
        """-log p of each target, the next id, in nats, (B, T) float32; 0 for a negative target.
        B may be 0. positions, mask: as in hidden(). Without gradients, logits of 512 at a time;
        with a mask, as of packed conversations, no logits where a target is negative.
        """
        x, y = self.hidden(ids, None, positions, mask).flatten(0, 1), targets.flatten()
        learned = slice(None) if mask is None else y >= 0  # of B T positions, those with logits
        n, nats = len(x) if torch.is_grad_enabled() else 512, torch.zeros_like(y, dtype=torch.float)
        nats[learned] = torch.cat([
            F.cross_entropy(self.logits(x), y, ignore_index=-1, reduction="none")
            for x, y in zip(x[learned].split(n), y[learned].clamp(min=-1).split(n))])
        return nats.view_as(targets)


def make_model(config, seed=0, std=0.0):
    """A new model of any family. std: of all initial weights; 0: each by its matrix's size."""
    if config.family or std:
        from family import FamilyGPT
        return FamilyGPT(config, seed, std)
    return GPT(config, seed)


def greedy(logits):
    """The likeliest id of each row. logits: (B, V) -> (B,)."""
    return logits.argmax(dim=-1)


def random_pick(temperature=1.0, seed=0, device="cpu"):
    """A pick for generate() that draws by softmax(logits / temperature); at 0 a largest."""
    generator = torch.Generator(device).manual_seed(seed)

    def pick(logits):
        probs = (logits / max(temperature, 1e-30)).softmax(dim=-1).to(device)
        race = torch.empty_like(probs).exponential_(generator=generator) / probs
        return race.argmin(dim=-1).to(logits.device)  # multinomial(), without waiting for a GPU
    return pick


@torch.inference_mode()
def generate(model, prompts, n_tokens, pick=greedy, n_samples=1, cache=None):  # exercise
    """Yield, n_tokens times, the next id of every row, (B,): pick(logits), of (B, V). prompts: B
    lists of ids. If they are empty or differ in length, if n_samples > 1, or if a cache is given:
    yield from ragged.py's generate_any(), given all six arguments. Otherwise:
    1. ids are the last seq_len ids, or fewer, of each prompt, (B, T). Make an empty KVCache, in the
       type and on the device of the weights, for T + n_tokens positions, at most seq_len.
    2. Read ids[:, cache.length:] by model.hidden(), pick from the last logits, yield, and append.
    3. If ids are now longer than seq_len, keep the last (seq_len + 1) // 2; cache.length = 0.
    """
    if n_samples > 1 or cache is not None or len(set(map(len, prompts))) > 1 or not prompts[0]:
        from ragged import generate_any
        yield from generate_any(model, prompts, n_tokens, pick, n_samples, cache)
        return
    window, weight = model.config.seq_len, model.embed.weight
    ids = torch.tensor(prompts, device=weight.device)[:, -window:]  # (B, T)
    size = min(window, ids.shape[1] + n_tokens)
    cache = KVCache(model.config, len(prompts), size, weight.dtype, weight.device)
    for _ in range(n_tokens):
        x = model.hidden(ids[:, cache.length:], cache)  # (B, new, C)
        next_ids = pick(model.logits(x[:, -1]))  # (B,)
        yield next_ids
        ids = torch.cat((ids, next_ids[:, None]), dim=1)
        if ids.shape[1] > window:
            ids, cache.length = ids[:, -((window + 1) // 2):], 0


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    text = b"A model that has read one sentence can write one sentence."
    ids, n = torch.tensor([list(text)]), len(text) - 1  # (1, n + 1): here an id is a byte
    model = GPT(GPTConfig(256, seq_len=64, n_layer=2, n_head=4, d_model=64, d_ff=256, by_hand=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(61):
        loss = model.loss(ids[:, :-1], ids[:, 1:]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 15 == 0:
            print(f"step {step:2}  loss {loss.item():.3f}")
    print("it writes:", bytes([text[0], *generate(model, [[text[0]]], n)]).decode(errors="replace"))
    print(f"{n} positions were computed, {n * (n + 1) // 2:,} without the cache, which takes")
    for G, name in ((4, "multi-head"), (2, "grouped-query"), (1, "multi-query")):
        cache = KVCache(replace(model.config, n_kv_head=G), batch_size=1)
        print(f"{2 * cache.keys.nbytes:,} bytes with {G} key/value heads: {name}")


if __name__ == "__main__":
    run(main)
