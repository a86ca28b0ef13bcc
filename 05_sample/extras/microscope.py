"""A microscope for texts: how likely a model found each token, and how it came to expect it.

survey() reads a text once and describes every token: its probability, and what was likelier.
inside() looks into the model as it predicted one of them: what each layer would have said, and
where each head looked. Both return what json.dumps() takes as it is. A token is predicted from
those before it: all that is said of token i was computed at position i - 1, where token i - 1 is
read, and nothing of the first. Left out: what a layer or a head is for. The logit lens reads early
layers with a norm and a head that were trained for the last one: they may know more than it shows.

    python 05_sample/extras/microscope.py --run tiny --prompt "def main(self):"
    python 05_sample/extras/microscope.py --weights FOLDER --at 5 \\
        --prompt "The capital of France is Paris"

Reads the newest run in runs/, --run, or --weights; writes to the screen.
Next: lookback.py.
"""

import bisect
import contextlib
import math
import os
import sys
from dataclasses import dataclass

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, escaped, has_colours, option, run

import torch

from figures import recorded
from gpt import attention_weights
from sample import RunOptions, TextStream, start_of

SLICE = 64  # positions whose logits are in memory at once
BITS = (1, 3, 6, 10)  # of surprise, at which a token's colour changes
COLOURS = ("\x1b[0m", *(f"\x1b[30;48;5;{n}m" for n in (230, 222, 215, 203)))


def spelled(tokenizer, i):
    """The text of an id alone; bytes that are no whole character are spelled out, as \\xe2."""
    return tokenizer.decode_bytes([i]).decode("utf-8", errors="backslashreplace")


# ---- all tokens ----
@torch.inference_mode()
def survey(model, tokenizer, ids, top=10):
    """How likely the model found every token of a text. ids: a list of 1 to seq_len ids, else
    ValueError. Returns a dict for each:
    id, and its bytes, in hex; text: all texts joined are tokenizer.decode(ids), so that a character
    of several ids stands at the last of them, and the others have "";
    probability; surprise: -log2 of it, in bits; rank: 1 if no id was likelier;
    top: a dict of id, text and probability for each of the likeliest ids in its place.
    The first id, which is not predicted, has None for the numbers, and an empty top.
    """
    if not 1 <= len(ids) <= model.config.seq_len:
        raise ValueError(f"the text has {len(ids)} tokens, but must have 1 to "
                         f"{model.config.seq_len}, the model's window")
    push, last = TextStream(tokenizer).push, len(ids) - 1
    tokens = [{"id": i, "text": push([i], final=n == last),
               "bytes": tokenizer.decode_bytes([i]).hex(),
               "probability": None, "surprise": None, "rank": None, "top": []}
              for n, i in enumerate(ids)]
    read = torch.tensor([ids], device=model.embed.weight.device)  # (1, T)
    hidden, targets, predicted = model.hidden(read)[0, :-1], read[0, 1:], iter(tokens[1:])
    for x, came in zip(hidden.split(SLICE), targets.split(SLICE)):  # (n, C), (n,)
        logps = model.logits(x).log_softmax(dim=-1)  # (n, V)
        if not logps.isfinite().all():
            raise ValueError("the model predicts nan or infinity: its weights must be damaged")
        own = logps.gather(1, came[:, None])
        ranks = 1 + (logps > own).sum(dim=-1)
        best, best_ids = logps.topk(min(top, logps.shape[-1]), dim=-1)
        for logp, rank, values, likeliest in zip(own[:, 0].tolist(), ranks.tolist(),
                                                 best.exp().tolist(), best_ids.tolist()):
            next(predicted).update(
                probability=math.exp(logp), surprise=0 - logp / math.log(2), rank=rank,
                top=[{"id": i, "text": spelled(tokenizer, i), "probability": value}
                     for i, value in zip(likeliest, values)])
    return tokens


# ---- one token ----
@contextlib.contextmanager
def streams(model):
    """A context that gives a list of what each block returns while the model reads: the residual
    stream behind it, (B, T, C). Afterwards, whatever happens, the model is as it was.
    """
    found = []
    with contextlib.ExitStack() as hooks:
        for block in model.blocks:
            hooks.enter_context(block.register_forward_hook(
                lambda block, given, x: found.append(x)))
        yield found


@torch.inference_mode()
def logit_lens(model, ids, position):  # exercise
    """What each of L blocks would have said, had it been the last, before ids[position] came: the
    "logit lens" (nostalgebraist 2020).

    In the context streams(model), model.hidden() reads the ids before `position`, (1, position),
    on the device of model.embed.weight. What each block returned at their last position, (C,), goes
    through the final norm, model.norm(), and the head, model.logits(), and becomes probabilities.
    Returns three lists of L: each block's likeliest id, the probability of that id, and that of
    ids[position]. With ids [5, 7, 2] and position 2, the model reads 5 and 7, what is looked at
    stands where 7 was read, and the third list has p(2). Its last number is the model's own.
    """
    with streams(model) as found:
        model.hidden(torch.tensor([ids[:position]], device=model.embed.weight.device))
    x = torch.stack([x[0, -1] for x in found])  # (L, C)
    probs = model.logits(model.norm(x)).softmax(dim=-1)  # (L, V)
    best, best_ids = probs.max(dim=-1)
    return best_ids.tolist(), best.tolist(), probs[:, ids[position]].tolist()


@torch.inference_mode()
def inside(model, tokenizer, ids, position):
    """What was in the model as it predicted ids[position] from the ids before. ids: as in survey();
    position: 1 ... len(ids) - 1, else ValueError. Returns a dict:
    lens: for each layer a dict of the likeliest id by logit_lens(), its text and probability, and
    target_probability, that of ids[position];
    attention: [layer][head][key], how much each head at position - 1 took from each of the
    positions 0 ... position - 1, to six decimals; the numbers of a head add up to 1.
    Meanwhile no other thread may use the model: what it computes would be recorded, too.
    """
    if not 0 < position < len(ids):
        raise ValueError(f"position is {position}, but the text has {len(ids)} tokens, of which "
                         "the first, 0, is not predicted")
    with recorded(model) as calls:
        likeliest, shares, targets = logit_lens(model, ids, position)
    all_seen = torch.ones(1, position, dtype=torch.bool, device=model.embed.weight.device)
    weights = torch.cat([attention_weights(q[:, :, -1:].float(), k.float(), all_seen)
                         for q, k, *_ in calls])[:, :, 0]  # (L, H, S)
    return {"lens": [{"id": i, "text": spelled(tokenizer, i), "probability": share,
                      "target_probability": target}
                     for i, share, target in zip(likeliest, shares, targets)],
            "attention": weights.cpu().double().round(decimals=6).tolist()}


# ---- on the screen ----
def coloured(tokens):
    """The text of survey()'s tokens; the redder a background, the more the token surprised."""
    def painted(token):
        colour = COLOURS[bisect.bisect(BITS, token["surprise"] or 0)]
        lines = escaped(token["text"]).split("\n")
        return "↵\n".join(f"{colour}{line}{COLOURS[0]}" for line in lines)
    legend = "  ".join(f"{colour} {bits}+ {COLOURS[0]}" for bits, colour in zip(BITS, COLOURS[1:]))
    return f"{''.join(map(painted, tokens))}\n\nbits of surprise: {legend}"


def columns(tokens):
    """A line for each of survey()'s tokens, where there are no colours."""
    lines = [f"{'token':>5} {'id':>7} {'bits':>6} {'rank':>7}"]
    for n, token in enumerate(tokens):
        bits, rank = (f"{token['surprise']:.2f}", f"{token['rank']:,}") if n else ("", "")
        text = repr(token["text"]) if token["text"] else f"({token['bytes']})"
        lines.append(f"{n:5} {token['id']:7} {bits:>6} {rank:>7}  {text}")
    return "\n".join(lines)


def most_attended(heads, tokenizer, ids, n=4):
    """The n tokens to which a layer's heads, (H, S), attend most on average, with their shares."""
    shares, keys = torch.tensor(heads).mean(dim=0).topk(min(n, len(heads[0])))
    return ", ".join(f"{share:.0%} {spelled(tokenizer, ids[s])!r} ({s})"
                     for share, s in zip(shares.tolist(), keys.tolist()))


@dataclass
class Options(RunOptions):
    weights: str = option("", "a Hugging Face folder, read instead of a run")
    prompt: str = option("def main(self):", "the text to look at; \\n is a new line")
    at: int = option(0, "look inside at this token; 0: at the most surprising one", least=0)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    _, model, tokenizer, *_ = options.load()
    ids = start_of(options.prompt.replace("\\n", "\n"), tokenizer)
    tokens = survey(model, tokenizer, ids)
    at = options.at or max(range(1, len(ids)), key=lambda n: tokens[n]["surprise"], default=0)
    found, token = inside(model, tokenizer, ids, at), tokens[at]
    print(coloured(tokens) if has_colours() else columns(tokens))
    print(f"\ntoken {at}, {spelled(tokenizer, ids[at])!r}: probability {token['probability']:.2g}, "
          f"{token['surprise']:.2f} bits, rank {token['rank']:,}; the likeliest were")
    for other in token["top"]:
        print(f"{other['probability']:12.2%}  {other['text']!r}")
    print("\nhad each layer been the last: the token's probability, and what was likeliest")
    for layer, row in enumerate(found["lens"], 1):
        print(f"{layer:3} {row['target_probability']:8.2g} {row['probability']:8.2%}  "
              f"{row['text']!r}")
    print("\nwhere each layer's heads looked, on average: the share, the token, its number")
    for layer, heads in enumerate(found["attention"], 1):
        print(f"{layer:3} {most_attended(heads, tokenizer, ids)}")


if __name__ == "__main__":
    run(main)
