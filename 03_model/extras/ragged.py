"""A cache for rows of different lengths: prompts of any lengths are continued side by side.

gpt.KVCache has one length for all rows. Here every row has its own; each is continued as if it were
alone, because it stands at its own positions, and a mask hides what is behind its end. It serves
GPT and FamilyGPT alike: gpt.generate() takes it where prompts differ in length.

Reads and writes nothing. Next: losses.py.
"""

import os
import sys
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

import console  # noqa: F401, first: it makes the others be found

import torch

from gpt import KVCache, causal_mask


class RaggedCache(KVCache):
    """A KVCache with a length for each row: lengths[b] positions of row b are filled.

    Lowering lengths[b] takes positions back. That is also how what a short prompt was filled up
    with disappears.
    """

    def __init__(self, config, batch_size, size=None, dtype=torch.float32, device=None):
        self.lengths = [0] * batch_size
        super().__init__(config, batch_size, size, dtype, device)

    @property
    def length(self):
        """Of the longest row."""
        return max(self.lengths)

    @length.setter
    def length(self, n):
        self.lengths = [n] * len(self.lengths)

    def positions(self, T):  # exercise
        """Where T further ids of each row stand: lengths[b], lengths[b] + 1, ... for row b. (B, T),
        on the device of self.keys.
        """
        starts = torch.tensor(self.lengths, device=self.keys.device)
        return starts[:, None] + torch.arange(T, device=self.keys.device)

    def mask(self, T):
        """What T further ids of each row may look at, (B, 1, T, S): the same for all heads."""
        return causal_mask(self.positions(T), self.length + T).unsqueeze(1)

    def append(self, layer, k, v):  # exercise
        """Store k, v (B, G, T, D) at self.positions(T) of self.keys[layer] and self.values[layer],
        each (B, G, size, D), in the cache's type.

        Returns all of that layer's keys and values up to the last new one of the longest row, each
        (B, G, S, D); in shorter rows, what is behind the last id is meaningless, and the mask hides
        it. Does not change self.lengths.
        """
        T = k.shape[2]
        rows = torch.arange(len(k), device=k.device)[:, None]
        place = rows, slice(None), self.positions(T)  # two indices: (B, T) comes first
        keys, values = self.keys[layer], self.values[layer]
        keys[place], values[place] = (x.transpose(1, 2).to(keys.dtype) for x in (k, v))
        end = self.length + T
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, T):
        self.lengths = [n + T for n in self.lengths]

    def read(self, model, rows):
        """As in gpt.py, of rows of any lengths: in one pass, padded at their ends."""
        self.lengths = [min(n, len(row) - 1) for row, n in zip(rows, self.lengths)]
        new = [row[n:] for row, n in zip(rows, self.lengths)]  # the last id is always read
        if self.length + max(map(len, new)) > self.size:  # the padding behind the longest row
            self.length = 0
            new = rows
        T = max(map(len, new))
        ids = torch.tensor([[*ids, *[0] * (T - len(ids))] for ids in new], device=self.keys.device)
        x = model.hidden(ids, self)  # (B, T, C)
        self.lengths = [len(row) for row in rows]  # what the padding has added is taken back
        return x[range(len(new)), [len(ids) - 1 for ids in new]]

    def take(self, rows):
        taken = super().take(rows)
        taken.lengths = [self.lengths[b] for b in rows]
        return taken
