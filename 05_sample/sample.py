"""From logits to text: how the next id is chosen, and how ids become characters on a screen.

Taking the likeliest id each time (greedy) is safe, but repeats itself; drawing from all ids now and
then draws nonsense. Between the two: sharpen the distribution (temperature), or cut off its
unlikely tail (top-k, top-p, min-p). Text is shown once it can't change any more: an id may end in
the middle of a character, and a stop string ends a text before it. The loop is gpt.generate().

    python 05_sample/sample.py --prompt "def main(" --tokens 300
    python 05_sample/sample.py --top-k 50 --top-p 0.9 --min-p 0.02 --repetition-penalty 1.1
    python 05_sample/sample.py --weights FOLDER --chat --temperature 0 --prompt "Who wrote Faust?"

Reads the newest run, or --run, or --weights; writes to the screen. Left to extras/: several ids at
a step (lookup.py), fewer bits (quant.py), pictures (figures.py). Next: chat.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, by_hand, check_options, choose_device, option, run, track
import codecs
import random
import time
from dataclasses import dataclass, fields, replace

import torch

from conversations import begin_ids, end_ids, prompt_ids
from data import document_start
from gpt import generate
from runs import load_run, newest_run


def penalise(logits, seen, penalty):  # exercise
    """Make ids seen before less likely: divide their logits by `penalty` where they are positive,
    multiply where they are negative (Keskar et al. 2019, section 4.1). logits: (B, V); seen: (B, V)
    booleans -> (B, V). A penalty of 1 changes nothing.
    """
    weaker = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, weaker, logits)


def top_k(logits, k):  # exercise
    """Keep the k likeliest ids of each row, exactly k even with ties; -inf for the others.
    logits: (B, V) -> (B, V). A k of V or more changes nothing (Fan et al. 2018, section 5.4).
    """
    values, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return torch.full_like(logits, float("-inf")).scatter(-1, ids, values)


def top_p(logits, p):  # exercise
    """Keep the fewest ids whose probabilities reach p together, the likeliest first; -inf for the
    others. logits: (B, V) -> (B, V). The id that crosses p is kept, so at least one always is: with
    probabilities .5 .3 .2, p = .5 keeps one id and p = .6 two (Holtzman et al. 2019, section 3.1).
    """
    ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
    probs = ordered.softmax(dim=-1)
    before = probs.cumsum(dim=-1) - probs  # what the likelier ones add up to
    ordered = ordered.masked_fill(before >= p, float("-inf"))
    return logits.scatter(-1, ids, ordered)  # each in its place again


def min_p(logits, p):  # exercise
    """Keep the ids at least p times as likely as the likeliest; -inf for the others. A flat
    distribution keeps many, a sharp one few (Nguyen et al. 2024, section 3).
    logits: (B, V) -> (B, V). With probabilities .5 .3 .2, p = .5 keeps two.
    """
    probs = logits.softmax(dim=-1)
    return logits.masked_fill(probs < p * probs.amax(dim=-1, keepdim=True), float("-inf"))


@dataclass(unsafe_hash=True)
class Sampling:
    """How the ids of a text are chosen."""

    temperature: float = option(0.8, "0: always the likeliest; 1: the model unchanged", least=0)
    top_k: int = option(0, "draw from this many ids only; 0: from all", least=0)
    top_p: float = option(1.0, "draw from the likeliest that add up to this", least=1e-30, most=1)
    min_p: float = option(0.0, "drop ids below this share of the top probability", least=0, most=1)
    repetition_penalty: float = option(1.0, "above 1: ids seen before are rarer", least=1e-30)
    seed: int = option(0, "of the random draws; each further text adds 1", least=0, most=1e18)
    __post_init__ = check_options


def distribution(logits, seen, sampling):  # exercise
    """The probabilities from which the next id is drawn. logits, seen: (B, V) -> (B, V). First
    penalise() the ids seen. At temperature 0 the likeliest then has probability 1; otherwise
    (logits - their row's maximum) / temperature, then top_k, top_p, min_p, each on the ids that are
    left, and softmax. A filter that is off (top_k = 0, top_p = 1, min_p = 0) is skipped.
    """
    if sampling.repetition_penalty != 1:
        logits = penalise(logits, seen, sampling.repetition_penalty)
    if sampling.temperature < 1e-30:  # float32 may round it to 0
        return torch.zeros_like(logits).scatter(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
    if sampling.top_k:
        logits = top_k(logits, sampling.top_k)
    if sampling.top_p < 1:
        logits = top_p(logits, sampling.top_p)
    if sampling.min_p:
        logits = min_p(logits, sampling.min_p)
    return logits.softmax(dim=-1)


def draw(probs, uniforms):  # exercise
    """For each row the first id at which the cumulative probability exceeds the row's number:
    inverse transform sampling. probs: (B, V), rows that sum to about 1; uniforms: a list of B
    numbers from [0, 1), each multiplied by its row's sum, in float64. Returns ids, (B,): with .5 .3
    .2, 0.49 draws 0, 0.5 draws 1, 0.99 draws 2; an id of probability 0 is never drawn.
    """
    cdf = probs.cpu().double().cumsum(dim=-1)  # (B, V); not every device has float64
    uniforms = torch.tensor(uniforms, dtype=torch.double)[:, None]
    return torch.searchsorted(cdf, uniforms * cdf[:, -1:], right=True)[:, 0].to(probs.device)


class Picker:
    """A pick for generate(), logits (B, V) -> ids (B,), with a Sampling, random numbers and seen
    ids for each row. A row's ids depend on its Sampling and prompt alone, not on other rows.
    """

    def __init__(self, samplings, prompts):
        self.groups = {}  # {Sampling: rows}: rows that are chosen alike are chosen together
        for b, sampling in enumerate(samplings):
            self.groups.setdefault(replace(sampling, seed=0), []).append(b)
        self.uniforms = [random.Random(sampling.seed) for sampling in samplings]
        self.prompts, self.seen = prompts, None
        self.logprobs = None  # of the ids picked last, (B,), by the model's unchanged logits

    def __call__(self, logits):
        if not logits.isfinite().all():
            raise ValueError("the model predicts nan or infinity: its weights must be damaged")
        if self.seen is None:
            self.seen = torch.zeros_like(logits, dtype=torch.bool)
            for row, prompt in zip(self.seen, self.prompts):
                row[prompt] = True
        probs = torch.empty_like(logits)
        for sampling, rows in self.groups.items():
            probs[rows] = distribution(logits[rows], self.seen[rows], sampling)
        ids = draw(probs, [uniform.random() for uniform in self.uniforms])[:, None]
        self.seen.scatter_(1, ids, True)
        self.logprobs = (logits.gather(1, ids) - logits.logsumexp(1, keepdim=True))[:, 0]
        return ids[:, 0]


def held_back(text, stops):  # exercise
    """How many characters at the end of `text` may be the beginning of one of the strings `stops`.
    held_back("a\\n", ["\\n\\n", "END"]) is 1, held_back("THE EN", ["\\n\\n", "END"]) is 2.
    """
    return max([0, *(n for s in stops for n in range(1, len(s)) if text.endswith(s[:n]))])


class TextStream:
    """Ids in, text out, of one row. text: shown so far; pending: not shown yet, as a stop string
    may begin in it; ids, logprobs: all generated; finish: "", at the end "stop" or "length".
    """

    def __init__(self, tokenizer, end_ids=(), stops=()):
        self.tokenizer, self.end_ids, self.stops = tokenizer, end_ids, stops
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.text, self.pending, self.ids, self.logprobs, self.finish = "", "", [], [], ""

    def push(self, ids, final=False):
        """The text that is complete after further ids: half a character waits for the rest."""
        return self.decoder.decode(self.tokenizer.decode_bytes(ids), final)

    def add(self, i, logprob):  # exercise
        """Append another id and its logprob; return the new text, by show(). At one of end_ids:
        end("stop"). Else push([i]) joins self.pending. With a stop string in that, self.finish is
        "stop", and what is before the first one is shown; else all but what is held_back().
        """
        self.ids.append(i)
        self.logprobs.append(logprob)
        if i in self.end_ids:
            return self.end("stop")
        self.pending += self.push([i])
        found = [self.pending.find(stop) for stop in self.stops if stop in self.pending]
        if found:
            self.finish = "stop"  # and the rest is never shown
            return self.show(min(found))
        return self.show(len(self.pending) - held_back(self.pending, self.stops))

    def end(self, finish):
        """The text that is left to show at the end."""
        self.finish = finish
        self.pending += self.push([], final=True)
        return self.show(len(self.pending))

    def show(self, n):
        shown, self.pending = self.pending[:n], self.pending[n:]
        self.text += shown
        return shown


def stream(model, tokenizer, prompts, n_tokens, samplings=Sampling(), stops=(), n_samples=1,
           generate=generate):
    """Continue B prompts, lists of ids, side by side: yield (b, text, TextStream) whenever row b
    has more text, and when it is done: after n_tokens ids, at one of end_ids(), or before a string
    of `stops`. Row b continues prompt b // n_samples. samplings: a list, one for each row, or one
    whose seed grows by 1 from row to row. generate: gpt.generate(), or a faster equivalent.
    """
    if "" in stops:
        raise ValueError("a stop string is empty: every text would end before it begins")
    prompted = [prompt for prompt in prompts for _ in range(n_samples)]
    if isinstance(samplings, Sampling):
        samplings = [replace(samplings, seed=samplings.seed + b) for b in range(len(prompted))]
    pick, ends = Picker(samplings, prompted), end_ids(tokenizer)
    rows = [TextStream(tokenizer, ends, stops) for _ in prompted]
    steps = generate(model, prompts, n_tokens, pick, n_samples)
    if len(rows) > 1:  # shown when they are whole
        steps = track(steps, "writing", n_tokens, unit=" steps")
    for ids in steps:
        for b, (i, logprob) in enumerate(zip(ids.tolist(), pick.logprobs.tolist())):
            if not rows[b].finish:
                text = rows[b].add(i, logprob)
                if text or rows[b].finish:
                    yield b, text, rows[b]
        if all(row.finish for row in rows):
            break
    for b, row in enumerate(rows):
        if not row.finish:
            yield b, row.end("length"), row


@dataclass
class RunOptions:
    """Options of every command that works with a run."""

    run: str = option("", "a run's name; without one, the run that saved last")
    checkpoint: str = option("newest", "newest, best (fewest validation bits per byte), or a step")
    runs_dir: str = option("runs", "where runs are kept")
    device: str = option("auto", "where to compute", ("auto", "cpu", "cuda", "mps"))
    by_hand: bool = option(None, "run the plain versions (default: where a file of them is yours)")
    weights = ""  # an option() in commands that can also load a Hugging Face folder
    __post_init__ = check_options

    def load(self):
        """(folder, model, tokenizer, config, step); of a Hugging Face folder step is None."""
        plain = by_hand() if self.by_hand is None else self.by_hand
        if self.weights:
            from weights import open_model
            return open_model(self, choose_device(self.device), plain)
        folder = newest_run(self.runs_dir, self.run)
        return folder, *load_run(folder, choose_device(self.device), self.checkpoint, plain)


def start_of(prompt, tokenizer):
    """The ids of a prompt: begin_ids(), such as <|bos|>, then the text's; if both are empty,
    document_start(). ValueError if the tokenizer has no id for that.
    """
    return begin_ids(tokenizer) + tokenizer.encode(prompt) or document_start(tokenizer)


@dataclass
class Options(Sampling, RunOptions):
    weights: str = option("", "a Hugging Face folder, read instead of a run")
    prompt: tuple = option(("",), "what the text begins with, or several; - is the standard input")
    chat: bool = option(False, "the prompt is what a user says, and the model answers")
    tokens: int = option(200, "how many to write at most", least=0)
    samples: int = option(1, "texts for each prompt, which is read once", least=1)
    stop: tuple = option((), "strings before which a text ends")
    weights_as: str = option("float32", "large models are fastest in int8 or int4, but less exact",
                             ("float32", "bfloat16", "int8", "int4"))
    guesses: int = option(0, "guess up to this many ids a step: faster if text repeats", least=0)
    logprobs: bool = option(False, "after the text, print every id and its log-probability")


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    texts = [sys.stdin.read() if text == "-" else text for text in options.prompt]
    folder, model, tokenizer, _, step = options.load()
    prompts = [prompt_ids([{"role": "user", "content": text}], tokenizer) if options.chat else
               start_of(text, tokenizer) for text in texts]
    n_rows, how = len(prompts) * options.samples, generate
    if options.weights_as != "float32" or not model.config.by_hand:
        from quant import pack
        model = pack(model, options.weights_as, rows=n_rows)
    if options.guesses:
        from lookup import guessing
        how = guessing(options.guesses)
    sampling = Sampling(**{f.name: getattr(options, f.name) for f in fields(Sampling)})
    begins = ["" if options.chat else text for text in texts for _ in range(options.samples)]
    if n_rows == 1:  # shown as it is written; of several rows, each is shown when all are done
        print(begins[0], end="", flush=True)
    rows, start = {}, time.perf_counter()
    for b, text, row in stream(model, tokenizer, prompts, options.tokens, sampling, options.stop,
                               options.samples, how):
        rows[b] = row
        if n_rows == 1:
            print(text, end="", flush=True)
    speed = sum(len(row.ids) for row in rows.values()) / (time.perf_counter() - start)
    for b, row in sorted(rows.items()):
        print(f"---- {b + 1} of {n_rows}, {row.finish} ----\n{begins[b]}{row.text}"
              if n_rows > 1 else "")
        if options.logprobs:
            for i, logprob in zip(row.ids, row.logprobs):
                print(f"{logprob:9.4f}  {i:6}  {tokenizer.decode([i])!r}")
    print(f"{folder}{'' if step is None else f', step {step}'}, {model.embed.weight.device} "
          f"{options.weights_as}: {speed:,.1f} tokens/s, reading the prompt included",
          file=sys.stderr)


if __name__ == "__main__":
    run(main)
