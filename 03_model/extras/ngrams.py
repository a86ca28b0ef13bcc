"""Hashed n-grams: the last few ids, looked up together in a table.

A small model of bytes spends its first layers on finding out which letters precede each one. A
table gives that at once: every 2, 3, ... consecutive ids have a row, found by hashing, which others
may share (hash n-gram embeddings: Pagnoni et al. 2024, Byte Latent Transformer, section 3.2.1).
Tables cost memory, but no matrix products.
Left out: weights of their own for each n. No architecture of transformers has this.

    python 04_train/train.py --preset speedrun

Reads and writes nothing: FamilyGPT adds NGrams to the embedding if its config has `ngrams`. They
don't support masks: windows of several documents are refused. Next: ragged.py.
"""

import torch
from torch import nn

PRIME = 2_654_435_761  # 2^32 times the golden ratio: its multiples spread evenly (Knuth, TAOCP 6.4)


def hash_ngrams(ids, longest, n_rows):  # exercise
    """Which rows of the tables belong to the last 2, 3, ... `longest` ids at each position.

    ids: (B, T) of 0 or more, T > 0 -> (B, T, longest - 1) int64. For the n ids that end at t

        h = sum over j = 0 .. n - 1 of (ids[t - j] + 1) * PRIME^j, modulo 2^64

    where positions before the first count 0 instead of ids + 1; n may be larger than T. Products
    of int64 tensors are modulo 2^64 by themselves; PRIME**3, a Python number, fits in none. The
    row is (n - 2) * n_rows + h % n_rows, with Python's %: never negative.
    [[0, 4]] with longest 2 and n_rows 100 gives [[[1], [66]]]: 1 + 0, and 5 + 1 * PRIME.
    """
    T, rows, h, power = ids.shape[1], [], torch.zeros_like(ids), torch.ones_like(ids[0, 0])
    for j in range(longest):
        earlier = nn.functional.pad(ids + 1, (j, 0))[:, :T]  # ids[t - j] + 1
        h = h + earlier * power
        power = power * PRIME
        if j > 0:
            rows.append((j - 1) * n_rows + h % n_rows)
    return torch.stack(rows, dim=-1)


class NGrams(nn.Module):
    """The sum of the rows of the n-grams that end at each position."""

    def __init__(self, config):
        super().__init__()
        self.longest, self.n_rows = config.family.ngrams, config.family.ngram_rows
        self.tables = nn.Embedding((self.longest - 1) * self.n_rows, config.d_model)  # stacked

    def forward(self, ids, cache=None):
        """ids: (B, T) -> (B, T, C). With a cache, ids continue those that the cache remembers."""
        seen = ids if cache is None else remember(cache, ids)  # (B, S)
        rows = hash_ngrams(seen, self.longest, self.n_rows)  # (B, S, longest - 1)
        if cache is not None:
            rows = rows[torch.arange(len(ids), device=ids.device)[:, None],
                        cache.positions(ids.shape[1])]  # of the new ones
        return self.tables(rows).sum(dim=2)


def remember(cache, ids):
    """Store ids, (B, T), in cache.ids at cache.positions(T), like their keys. Returns the cached
    ids up to the last new one of the longest row, (B, S); in shorter rows, positions after the last
    id hold garbage.
    """
    T, rows = ids.shape[1], torch.arange(len(ids), device=ids.device)[:, None]
    if not hasattr(cache, "ids"):
        cache.ids = torch.zeros(len(ids), cache.size, dtype=torch.int64, device=ids.device)
    cache.ids[rows, cache.positions(T)] = ids
    return cache.ids[:, :cache.length + T]
