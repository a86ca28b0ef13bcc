"""Several ids at a step: guess what comes next from the text itself, then let the model check.

A step costs about the same whether a model reads one new id or three: the time goes into reading
its weights. So let something cheap guess the next few, here the ids that followed when the last few
stood in the text before (code, tables and quotations repeat themselves), and read all of them in
one step. Then choose the ids one after the other exactly as without guesses; as long as a guess was
right, what the model made of the next position is already there. Where one was wrong, the rest is
taken back. The text is not only as likely as without guesses: with the same seed it is the same.
(In float32. With fewer bits numbers are rounded a little differently when more are read together.)
This is speculative decoding (Leviathan et al. 2023) with the prompt for a draft model. Its guesses
are certain of themselves, so no rejection step is needed: an id to which the model gives 30% is
drawn 30% of the time, so often is the guess accepted; otherwise what was drawn is another id.
Left out: draft models, trees of guesses, more than one text.

    python 05_sample/sample.py --prompt "def main(" --temperature 0 --guesses 8

Used by sample.py. Next: quant.py.
"""

import sys
from pathlib import Path

import numpy as np
import torch

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from decode import KVCache, greedy, prefill


def guess(ids, n_guesses, longest=3):  # exercise
    """What followed the last time: up to n_guesses ids, [] if there is no such time.

    ids: (N,) array. Take the last n = `longest` ids; if they stand somewhere before, return what
    followed at the latest such place (it may run on into those n); else try n - 1, ... 1.
    guess(np.array([1, 2, 3, 9, 1, 2]), 3) is [3, 9, 1], a list.
    """
    N = len(ids)
    for n in range(min(longest, N - 1), 0, -1):
        same = np.ones(N - n, bool)  # does a copy of the last n begin at 0, 1, ... N - n - 1?
        for i in range(n):
            same &= ids[i:N - n + i] == ids[N - n + i]
        places = np.flatnonzero(same)
        if len(places):
            start = places[-1] + n
            return ids[start:start + n_guesses].tolist()
    return []


@torch.inference_mode()
def generate_by_lookup(model, prompt, n_tokens, pick=greedy, n_guesses=8):
    """decode.generate() for one prompt, a list of ids, with up to n_guesses guesses a step.

    Yields the same: n_tokens times the next id, (1,), chosen by pick(logits (1, V)), which sees the
    logits in the same order.
    """
    window, weight = model.config.seq_len, model.embed.weight
    prompt = list(prompt)[-window:]
    row, end = np.array(prompt), len(prompt)  # row[:end]: all so far
    cache = KVCache(model.config, 1, min(window, end + n_tokens), weight.dtype, weight.device)
    x, guesses, last = prefill(model, [prompt], cache), [], end + n_tokens
    while end < last:
        # 1) choose ids as long as the guesses are right
        known = cache.lengths[0] - len(guesses)  # what the cache will rightly hold
        for i, logits in enumerate(model.logits(x).split(1)):
            next_id = pick(logits)
            row = np.concatenate((row, np.zeros_like(row))) if end == len(row) else row
            row[end], end = next_id, end + 1
            yield next_id
            if end == last or i == len(guesses) or guesses[i] != row[end - 1]:
                break
        # 2) take back what was guessed wrongly; read the new id and the next guesses
        if end == last:
            break
        cache.lengths = [known + i]
        if known + i == window:
            x, guesses = prefill(model, [row[end - (window + 1) // 2:end].tolist()], cache), []
        else:
            room = min(n_guesses, cache.size - (known + i) - 1, last - end - 1)
            guesses = guess(row[:end], room)
            ids = torch.tensor([[row[end - 1], *guesses]], device=weight.device)
            x = model.hidden(ids, cache)[0]  # (1 + guesses, C)
