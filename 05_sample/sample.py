"""From logits to text: how the next id is chosen, and how ids become characters on a screen.

A model gives a score for every id. Taking the best each time (greedy) is safe and repeats itself;
drawing at random from all of them now and then draws nonsense. Between the two: sharpen the
distribution (temperature), or cut off its unlikely tail (top-k, top-p). The loop that calls
these is gpt.generate.
Left out: batches of prompts, stop strings, penalties.

    python 05_sample/sample.py --prompt "def main(" --tokens 300
    python 05_sample/sample.py --run tiny --temperature 0

Reads the newest run in runs/, or --run; writes to the screen. Next: 06_eval/evals.py.
"""

import codecs
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import Parser, add_options, option, run
from gpt import apply_temperature, generate, greedy, random_pick
from runs import RunOptions


# ---- choosing ----

def top_k(logits, k):  # exercise
    """Keep the k likeliest ids of each row, and no more, whatever their ties; -inf for the others.

    logits: (B, V) -> (B, V). A k of V or more changes nothing (Fan et al. 2018, section 5.4).
    """
    values, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return torch.full_like(logits, float("-inf")).scatter(-1, ids, values)


def top_p(logits, p):  # exercise
    """Keep the fewest ids whose probabilities reach p together, the likeliest first; -inf others.

    logits: (B, V) -> (B, V). The id that crosses p is kept, so at least one always is: with
    probabilities .5 .3 .2, p = .5 keeps one id and p = .6 two (Holtzman et al. 2019, section 3.1).
    """
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    shares = ordered.softmax(dim=-1)
    before = shares.cumsum(dim=-1) - shares  # what the likelier ones add up to
    ordered = ordered.masked_fill(before >= p, float("-inf"))
    return torch.empty_like(logits).scatter(-1, ids, ordered)


def make_pick(temperature=1.0, k=None, p=None, seed=0):  # exercise
    """A pick for generate(): logits (B, V) -> ids (B,). Temperature 0 is greedy.

    Otherwise apply_temperature(logits, temperature), then top_k if k is given, then top_p if p is
    given, then a draw by random_pick with this seed.
    """
    if temperature == 0:
        return greedy
    draw = random_pick(seed=seed)

    def pick(logits):
        logits = apply_temperature(logits, temperature)
        logits = logits if k is None else top_k(logits, k)
        logits = logits if p is None else top_p(logits, p)
        return draw(logits)
    return pick


# ---- showing ----

class TextStream:
    """Ids in, text out, piece by piece, never half a character: an id may end in the middle of one.

    decode_bytes: a tokenizer's method of that name.
    """

    def __init__(self, decode_bytes):
        self.decode_bytes = decode_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids):  # exercise
        """The text that is complete after these further ids, "" if none is; bytes that can't
        become a character come out as U+FFFD. self.decoder keeps the rest.
        """
        return self.decoder.decode(self.decode_bytes(ids))

    def end(self):
        """What is left over at the end: U+FFFD for a character that never became whole."""
        return self.decoder.decode(b"", final=True)


def stream_text(model, tokenizer, prompt, n_tokens, pick):
    """Yield the text that follows `prompt`, as it is generated; stops when a document ends."""
    bos, text = tokenizer.special["<|bos|>"], TextStream(tokenizer.decode_bytes)
    ids = torch.tensor([[bos] + tokenizer.encode(prompt)], device=model.head.weight.device)
    for next_ids in generate(model, ids, n_tokens, pick):
        if int(next_ids) == bos:
            break
        yield text.push(next_ids.tolist())
    yield text.end()


@dataclass
class Options(RunOptions):
    prompt: str = option("", "what the text begins with; - reads it from the standard input")
    tokens: int = option(200, "how many to write at most")
    temperature: float = option(0.8, "0 always takes the likeliest; 1 is the model as it is")
    top_k: int = option(0, "draw from this many only; 0: from all")
    top_p: float = option(1.0, "draw from the likeliest that have this probability together")
    seed: int = option(0, "of the draws")

    def __post_init__(self):
        for name, good in (("temperature", 0 <= self.temperature < float("inf")),
                           ("top_k", self.top_k >= 0), ("tokens", self.tokens >= 0),
                           ("top_p", 0 < self.top_p <= 1)):
            if not good:
                raise ValueError(f"{name} can't be {getattr(self, name)}")


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    folder, model, tokenizer, _, step = options.load()
    prompt = sys.stdin.read() if options.prompt == "-" else options.prompt
    pick = make_pick(options.temperature, options.top_k or None,
                     options.top_p if options.top_p < 1 else None, options.seed)
    print(f"{folder}, step {step}, on {model.head.weight.device}", file=sys.stderr)
    start, count = time.perf_counter(), 0
    print(prompt, end="", flush=True)
    for text in stream_text(model, tokenizer, prompt, options.tokens, pick):
        print(text, end="", flush=True)
        count += 1
    seconds = time.perf_counter() - start
    print(f"\n{(count - 1) / seconds:,.0f} tokens/s", file=sys.stderr)  # the last was end()


if __name__ == "__main__":
    run(main)
