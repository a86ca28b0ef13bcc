"""Texts of different lengths side by side, several from each prompt, and texts that go on later.

gpt.KVCache has one length for all rows. In a RaggedCache every row has its own length; each is
continued as if it were alone, because it has its own positions, and a mask hides positions after
its end. The caches here read lists of ids, of which they may hold the beginnings already, and their
rows can be repeated. All of it works with GPT and FamilyGPT.

Used by gpt.generate(), for what it can't do by itself. Next: losses.py.
"""

import copy
import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import torch

from gpt import KVCache, causal_mask, greedy


# ---- caches ----
class RowsCache(KVCache):
    """A KVCache that reads lists of ids, and of which rows can be taken."""

    def read(self, model, rows):
        """Read the new ids of B lists. Returns model.hidden() at the last id of each, (B, C)."""
        self.length = min(self.length, min(map(len, rows)) - 1)  # the last is always read
        ids = torch.tensor([row[self.length:] for row in rows], device=self.keys.device)
        return model.hidden(ids, self)[:, -1]

    def take(self, rows):
        """A new cache with copies of these rows, a list; one may come more than once."""
        taken = copy.copy(self)
        taken.keys, taken.values = self.keys[:, rows], self.values[:, rows]
        if hasattr(self, "ids"):  # those of ngrams.remember()
            taken.ids = self.ids[rows]
        return taken


class RaggedCache(RowsCache):
    """A KVCache with a length for each row: lengths[b] positions of row b are filled.

    A lower lengths[b] drops row b's last positions, such as the padding of a short prompt.
    """

    def __init__(self, config, batch_size, size=None, dtype=torch.float32, device=None):
        self.lengths = [0] * batch_size
        super().__init__(config, batch_size, size, dtype, device)

    @property
    def length(self):
        """Of the longest row. Setting it changes all rows by the same number, none to below 0."""
        return max(self.lengths)

    @length.setter
    def length(self, n):
        further = n - self.length
        self.lengths = [max(0, length + further) for length in self.lengths]

    def positions(self, T):  # exercise
        """The positions of T further ids of each row: lengths[b], lengths[b] + 1, ... for row b.
        (B, T), on the device of self.keys.
        """
        starts = torch.tensor(self.lengths, device=self.keys.device)
        return starts[:, None] + torch.arange(T, device=self.keys.device)

    def mask(self, T):
        """What T further ids of each row may attend to, (B, 1, T, S): the same for all heads."""
        return causal_mask(self.positions(T), self.length + T).unsqueeze(1)

    def append(self, layer, k, v):  # exercise
        """Store k, v (B, G, T, D) at self.positions(T) of self.keys[layer] and self.values[layer],
        each (B, G, size, D), in the cache's type.

        Returns that layer's keys and values up to the last new one of the longest row, each (B, G,
        S, D); in shorter rows, positions after the last id hold garbage; the mask hides them. Does
        not change self.lengths.
        """
        T = k.shape[2]
        rows = torch.arange(len(k), device=k.device)[:, None]
        place = rows, slice(None), self.positions(T)  # two indices: (B, T) comes first
        keys, values = self.keys[layer], self.values[layer]
        keys[place], values[place] = (x.transpose(1, 2).to(keys.dtype) for x in (k, v))
        end = self.length + T
        return keys[:, :, :end], values[:, :, :end]

    def read(self, model, rows):
        """As RowsCache.read(), for rows of any lengths: in one pass, padded at their ends."""
        self.lengths = [min(n, len(row) - 1) for row, n in zip(rows, self.lengths)]
        new = [row[n:] for row, n in zip(rows, self.lengths)]  # the last id is always read
        if self.length + max(map(len, new)) > self.size:  # padding would exceed the cache
            self.length = 0
            new = rows
        T = max(map(len, new))
        ids = torch.tensor([[*ids, *[0] * (T - len(ids))] for ids in new], device=self.keys.device)
        x = model.hidden(ids, self)  # (B, T, C)
        self.lengths = [len(row) for row in rows]  # drops the padding
        return x[range(len(new)), [len(ids) - 1 for ids in new]]

    def take(self, rows):
        taken = super().take(rows)
        taken.lengths = [self.lengths[b] for b in rows]
        return taken


def make_cache(model, prompts, n_tokens):
    """An empty cache, large enough for these prompts, lists of ids, and n_tokens more."""
    longest, weight = max(map(len, prompts)), model.embed.weight
    kind = RaggedCache if min(map(len, prompts)) < longest else RowsCache
    size = min(model.config.seq_len, longest + n_tokens)
    return kind(model.config, len(prompts), size, weight.dtype, weight.device)


# ---- writing ----
@torch.inference_mode()
def generate_any(model, prompts, n_tokens, pick=greedy, n_samples=1, cache=None):
    """gpt.generate(), for prompts of any lengths. Row i continues prompt i // n_samples, as if it
    were alone.

    A prompt is read once, then its row is repeated n_samples times. cache: a RowsCache or
    RaggedCache that holds beginnings of the prompts; used unless a prompt is longer than seq_len.
    """
    if not all(map(len, prompts)):
        raise ValueError("a prompt is empty: give it at least <|bos|>")
    window, rows = model.config.seq_len, [prompt[-model.config.seq_len:] for prompt in prompts]
    if cache is None or max(map(len, prompts)) > window:
        cache = make_cache(model, rows, n_tokens)
    for step in range(n_tokens):
        x = cache.read(model, rows)  # (B, C)
        if step == 0 and n_samples > 1:
            shared = [i for i in range(len(rows)) for _ in range(n_samples)]
            rows, x, cache = [rows[i] for i in shared], x[shared], cache.take(shared)
        next_ids = pick(model.logits(x))  # (B,)
        yield next_ids
        rows = [[*row, i] for row, i in zip(rows, next_ids.tolist())]
        if max(map(len, rows)) > window:
            rows = [row[-((window + 1) // 2):] if len(row) > window else row for row in rows]
            cache.length = 0
