"""Many answers at once, fast: rl.write_answers(), on copies of the weights that are read faster.

Matrices are stored in the order in which a CPU reads them (blocked.py), and answers that have ended
leave the batch, after each CHUNK of ids. The answers are the same as rl.py's own, but for the last
bits of their probabilities, which may decide otherwise once in a while.

Used by rl.py. Reads and writes nothing. Next: dpo.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import torch

from blocked import for_reading
from gpt import generate
from ragged import make_cache
from rl import Answer, draw, uniforms

CHUNK = 16


def write_fast(model, prompts, tokenizer, n_samples, n_tokens, seeds, temperature=1.0,
               kind=Answer):
    """As rl.write_answers(), of answers that fit into the model's window."""
    answers = [kind(tokenizer) for _ in prompts for _ in range(n_samples)]
    rows = [prompt for prompt in prompts for _ in range(n_samples)]
    numbers, model = uniforms(seeds, n_samples, n_tokens), for_reading(model, len(rows))
    alive, steps = [*range(len(rows))], iter(range(n_tokens))
    with torch.inference_mode():
        cache = make_cache(model, prompts, n_tokens)
        cache.read(model, prompts)
        cache = cache.take([i // n_samples for i in alive])

    def pick(logits):
        drawn = zip(alive, *draw(logits, temperature, numbers[alive, next(steps)]))
        ids = [i if answers[n].ended else answers[n].add(i, *rest) for n, i, *rest in drawn]
        return torch.tensor(ids, device=logits.device)
    for start in range(0, n_tokens, CHUNK):
        for _ in generate(model, [rows[n] + answers[n].ids for n in alive],
                          min(CHUNK, n_tokens - start), pick, 1, cache):
            pass
        stay = [place for place, n in enumerate(alive) if not answers[n].ended]
        if not stay:
            break
        if len(stay) < len(alive):
            alive, cache = [alive[place] for place in stay], cache.take(stay)
    return [answers[i:i + n_samples] for i in range(0, len(answers), n_samples)]
