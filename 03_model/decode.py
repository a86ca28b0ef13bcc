"""Writing with a model, one id after another, without computing anything twice.

To choose the next id a model needs the keys and values of all that came before. They never change,
so they are kept: the cache. One pass over the prompts fills it, then each step looks at one new
position only. Prompts of different lengths are continued side by side, each as if it were alone,
since every row knows where it stands.
Left out: choosing well, text, speed beyond this (05_sample).

Used by all later stages. Next: family.py.
"""

import copy
import sys
from pathlib import Path

import torch

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages


class KVCache:
    """The keys and values of the positions a generation has seen, so that none is computed twice.

    Memory is taken once, for `size` positions of every row. lengths[b] says how many of row b are
    filled; every layer writes after them, and GPT moves them on, once, when all layers are done.
    Lowering lengths[b] takes positions back: the next ones overwrite them. That is how what a short
    prompt was filled up with disappears, or a guess that was wrong.
    """

    def __init__(self, config, batch_size, size=None, dtype=torch.float32, device=None):
        self.size, self.lengths = size or config.seq_len, [0] * batch_size
        shape = (config.n_layer, batch_size, config.n_kv_head, self.size, config.head_dim)
        # (n_layer, B, G, size, D). Zeros, since a key that must not be seen must not be nan either.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros_like(self.keys)
        self.layers = [(self.keys[i], self.values[i]) for i in range(config.n_layer)]
        self.ids = torch.zeros((batch_size, self.size), dtype=torch.int64, device=device)

    def positions(self, T):  # exercise
        """Where T further ids of each row stand: lengths[b], lengths[b] + 1, ... for row b.

        (B, T) on the device of self.keys; (T,), the one row of it, if all lengths are the same.
        """
        starts = torch.tensor(self.lengths, device=self.keys.device)
        positions = starts[:, None] + torch.arange(T, device=self.keys.device)
        return positions[0] if len(set(self.lengths)) == 1 else positions

    def append(self, layer, k, v):  # exercise
        """Store k, v (B, G, T, D) at self.positions(T) of self.layers[layer], keys and values, each
        (B, G, size, D), in the cache's type.

        Does not change self.lengths. Returns all of that layer's keys and values up to the last new
        one of the longest row, each (B, G, S, D); after a shorter row's last one stands anything.
        """
        (keys, values), T = self.layers[layer], k.shape[2]
        end = max(self.lengths) + T
        if len(set(self.lengths)) == 1:  # one block
            keys.narrow(2, end - T, T).copy_(k)
            values.narrow(2, end - T, T).copy_(v)
        else:
            rows = torch.arange(len(k), device=k.device)[:, None]
            place = rows, slice(None), self.positions(T)  # two indices: (B, T) comes first
            keys[place], values[place] = (x.transpose(1, 2).to(keys.dtype) for x in (k, v))
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    def remember(self, ids):
        """Keep ids (B, T) at self.positions(T), for models that look several up together. Returns
        all up to the last new one of the longest row, (B, S), as append() does.
        """
        T = ids.shape[1]
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        self.ids[rows, self.positions(T)] = ids
        return self.ids[:, :max(self.lengths) + T]

    def take(self, rows):
        """A new cache with copies of these rows, a list; one may come more than once."""
        taken = copy.copy(self)
        taken.lengths = [self.lengths[b] for b in rows]
        taken.keys, taken.values = self.keys[:, rows], self.values[:, rows]
        taken.ids = self.ids[rows]
        taken.layers = [(taken.keys[i], taken.values[i]) for i in range(len(self.layers))]
        return taken


# ---- writing ----

def greedy(logits):
    """The likeliest id of each row. logits: (B, V) -> (B,)."""
    return logits.argmax(dim=-1)


def apply_temperature(logits, temperature):
    """logits / temperature, up to a constant that no softmax sees: the largest is subtracted first,
    otherwise a tiny temperature would overflow.
    """
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def random_pick(temperature=1.0, seed=0):
    """A pick for generate() that draws each id with probability softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(seed)

    def pick(logits):
        shares = apply_temperature(logits, temperature).softmax(dim=-1).cpu()
        return torch.multinomial(shares, 1, generator=generator)[:, 0].to(logits.device)
    return pick


def prefill(model, prompts, cache):
    """Read B prompts, lists of ids, in one pass into a cache with B rows, which forgets what it
    held. Returns what the model makes of the last id of each, (B, C). Short prompts are filled up
    at their ends, where nothing that counts can see it.
    """
    T, cache.lengths = max(map(len, prompts)), [0] * len(prompts)
    ids = [[*prompt, *[0] * (T - len(prompt))] for prompt in prompts]
    x = model.hidden(torch.tensor(ids, device=cache.keys.device), cache)  # (B, T, C)
    cache.lengths = [len(prompt) for prompt in prompts]
    return x[range(len(prompts)), [n - 1 for n in cache.lengths]]


@torch.inference_mode()
def generate(model, prompts, n_tokens, pick=greedy, n_samples=1):
    """Yield `n_tokens` times the next id of each row, (B,), each chosen by pick(logits (B, V)).

    prompts: lists of ids, not empty; each is continued as if it were alone, `n_samples` times: row
    i continues prompt i // n_samples. Of a prompt longer than the window its end is read. A row
    whose window is full starts again from the newer half of what it holds.
    """
    if not all(map(len, prompts)):
        raise ValueError("a prompt is empty: give it at least <|bos|>")

    # 1) read the prompts, each once
    window, weight = model.config.seq_len, model.embed.weight
    prompts = [list(prompt)[-window:] for prompt in prompts]
    size = min(window, max(map(len, prompts)) + n_tokens)
    cache = KVCache(model.config, len(prompts), size, weight.dtype, weight.device)
    x = prefill(model, prompts, cache)  # (B, C)

    # 2) share what was read
    shared = [i for i in range(len(prompts)) for _ in range(n_samples)]
    rows = [list(prompts[i]) for i in shared]
    if n_samples > 1:
        x, cache = x[shared], cache.take(shared)

    # 3) go on, one position at a time
    for step in range(n_tokens):
        next_ids = pick(model.logits(x))  # (B,)
        yield next_ids
        if step == n_tokens - 1:
            break
        for row, i in zip(rows, next_ids.tolist()):
            row.append(i)
        if window in cache.lengths:  # read all rows again: of the full ones the newer half
            kept = [(window + 1) // 2 if length == window else length + 1  # 1: the new id
                    for length in cache.lengths]
            x = prefill(model, [row[-n:] for row, n in zip(rows, kept)], cache)
        else:
            x = model.hidden(next_ids[:, None], cache)[:, -1]
