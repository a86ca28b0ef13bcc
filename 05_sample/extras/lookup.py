"""Several ids at a step: guess what comes next from the text itself, then let the model check.

A step costs about the same whether a model reads one new id or three: most of the time goes into
reading its weights. So guess the next ids cheaply, here as those that followed the last time the
final few ids occurred (code, tables and quotations repeat themselves), and read all of them in one
step. Then choose the ids one after the other exactly as without guesses; as long as a guess was
right, the logits of the next position are already computed. After a wrong guess the rest is
dropped. With the same seed, the text is the same as without guesses. (In float32. With fewer bits
numbers are rounded a little differently when more ids are read together.) This is speculative
decoding (Leviathan et al. 2023) with the text itself as the draft model. A guess has probability 1
under that draft, so no rejection step is needed: an id to which the model gives 30% is drawn, and
the guess accepted, 30% of the time; otherwise another id is drawn.
Left out: draft models, trees of guesses, more than one text.

    python 05_sample/sample.py --prompt "def main(" --temperature 0 --guesses 8

Used by sample.py. Next: batching.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import numpy as np
import torch

from gpt import greedy
from ragged import make_cache


def guess(ids, n_guesses, longest=3):  # exercise
    """The ids that followed the last time: up to n_guesses of them, [] if there was no such time.

    ids: (N,) array. Take the last n = `longest` ids; if they occur earlier, return what followed
    their latest earlier occurrence (it may overlap those n); else try n - 1, ... 1.
    guess(np.array([1, 2, 3, 9, 1, 2]), 3) is [3, 9, 1], a list.
    """
    N = len(ids)
    for n in range(min(longest, N - 1), 0, -1):
        same = np.ones(N - n, bool)  # does a copy of the last n begin at 0, 1, ... N - n - 1?
        for i in range(n):
            same &= ids[i:N - n + i] == ids[N - n + i]
        matches = np.flatnonzero(same)
        if len(matches):
            start = matches[-1] + n
            return ids[start:start + n_guesses].tolist()
    return []


@torch.inference_mode()
def generate_by_lookup(model, prompt, n_tokens, pick=greedy, n_guesses=8):  # exercise
    """gpt.generate() for one prompt, a list of ids, with up to n_guesses guesses a step.

    Yields the same: n_tokens times the next id, (1,), chosen by pick(logits (1, V)), which sees the
    same logits in the same order. A step reads the new id and guess(row, ...) behind it at once,
    model.hidden(ids (1, 1 + g), cache)[0], (1 + g, C), and then
    1. chooses ids one after the other, as long as the guesses are right: the logits after guess i
       count only if guesses 0 .. i were chosen;
    2. drops wrong guesses: cache.length becomes the number of positions that hold chosen ids, of
       which the id chosen last is not one yet.
    There are never more guesses than room in the cache, or than ids still wanted. When the window
    is full, the newer half of the row, (window + 1) // 2 ids, is read into the empty cache, as in
    generate().
    """
    window, prompt = model.config.seq_len, prompt[-model.config.seq_len:]
    row, end, last = np.array(prompt), len(prompt), len(prompt) + n_tokens  # row[:end]: all so far
    cache = make_cache(model, [prompt], n_tokens)
    x, guesses = cache.read(model, [prompt]), []
    while end < last:
        # 1) choose ids as long as the guesses are right
        known = cache.length - len(guesses)  # positions in the cache before the guesses
        for i, logits in enumerate(model.logits(x).split(1)):
            next_id = pick(logits)
            row = np.concatenate((row, np.zeros_like(row))) if end == len(row) else row
            row[end], end = next_id, end + 1
            yield next_id
            if i == len(guesses) or guesses[i] != row[end - 1]:  # at end == last there are none
                break
        # 2) drop wrong guesses; read the new id and the next guesses
        if end == last:
            break
        cache.length = known + i
        if cache.length == window:
            cache.length = 0
            x, guesses = cache.read(model, [row[end - (window + 1) // 2:end].tolist()]), []
        else:
            room = min(n_guesses, cache.size - cache.length - 1, last - end - 1)
            guesses = guess(row[:end], room)
            ids = torch.tensor([[row[end - 1], *guesses]], device=cache.keys.device)
            x = model.hidden(ids, cache)[0]  # (1 + guesses, C)


def guessing(n_guesses):
    """generate_by_lookup() in place of gpt.generate(), for sample.stream()."""
    def generate(model, prompts, n_tokens, pick, n_samples):
        if len(prompts) * n_samples > 1:
            raise ValueError("several ids at a step are for a single text, not for "
                             f"{len(prompts) * n_samples}")
        return generate_by_lookup(model, prompts[0], n_tokens, pick, n_guesses)
    return generate
