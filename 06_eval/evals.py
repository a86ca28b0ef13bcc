"""How good is it? Bits per byte of a run on any text, and tasks with right and wrong answers.

Compressors are measured in bits per byte, too: a model that gives the next id a probability of p
could code it in -log2 p bits. So the table compares the model with compression programs, which know
no language. Perplexity, the older measure, is per token: it compares models with one tokenizer.

A task is a list of items. The model answers none in words: of several continuations the one with
the lowest loss counts as its choice. The format and rules are those of CORE, 22 tasks in context
(Li et al. 2024, DataComp-LM, section 3.5), as nanochat computes it.

    python 06_eval/evals.py
    python 06_eval/evals.py --file README.md --stride 32
    python 06_eval/evals.py --task FILE.jsonl --item 3   # an item, its choices and their losses

Reads the newest run in runs/, or --run, and the data it was trained on; writes context.png into
the run's folder. Left to extras/core.py: many items at once, all tasks. Next: humaneval.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, escaped, option, read_text, run, track
import json
import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from data import baselines, bits_per_byte, document_start, encode, token_bytes
from runs import run_data
from sample import RunOptions
from train import score


# ---- bits per byte ----
def windows(n_tokens, seq_len, stride):  # exercise
    """Windows that score every token of a text but the first exactly once: [(start, skip), ...].

    A window reads ids start .. start + seq_len - 1, the last window perhaps fewer, and predicts the
    id after each. Windows start every `stride` ids until the last id has been predicted. `skip` is
    how many of a window's first predictions an earlier window has already made; they are not
    counted again. With stride = seq_len skip is 0; with a smaller stride, all targets after the
    first window are predicted from more than seq_len - stride ids. ValueError, naming the stride,
    unless 0 < stride <= seq_len.
    windows(10, 4, 4) == [(0, 0), (4, 0), (8, 0)]; windows(10, 4, 2)[:2] == [(0, 0), (2, 2)]
    """
    if not 0 < stride <= seq_len:
        raise ValueError(f"stride is {stride}, but must be between 1 and seq_len ({seq_len})")
    last = max(0, n_tokens - 1 - seq_len)  # a window from here on predicts the last id
    count = 1 + -(-last // stride)
    return [(i * stride, 0 if i == 0 else seq_len - stride) for i in range(count)]


def perplexity(nats):  # exercise
    """exp of the mean loss: as uncertain as a choice among that many equally likely ids.

    nats: (N,) losses. perplexity([ln 4, ln 4]) == 4.0
    """
    return float(np.exp(np.mean(nats)))


def by_position(nats, seq_len):  # exercise
    """The mean loss at each position of a window: does the model use a longer past?

    nats: (N,) losses of windows that lie side by side, N >= seq_len; entry i is at position
    i modulo seq_len. Returns (seq_len,); the last window may be incomplete.
    by_position([4., 2., 6., 2., 8.], 2) is [6., 2.]
    """
    return np.array([np.mean(nats[i::seq_len]) for i in range(seq_len)])


def standard_error(bits, sizes, documents):  # exercise
    """The standard error of bits per byte over the draw of documents.

    bits, sizes: (N,) the bits and the bytes of each target; documents: (N,) which document each
    is from, 0 .. D - 1, D >= 2. With B_d bits and S_d bytes in document d, and r = sum B / sum S,
    it is sqrt(D / (D - 1) * sum of (B_d - r S_d)^2) / sum S (Cochran 1977, section 6.4). Tokens of
    one document are not independent, so documents count as the draws, not tokens.
    """
    B, S = (np.bincount(documents, weights=x) for x in (bits, sizes))
    r, D = B.sum() / S.sum(), len(B)
    return float(np.sqrt(D / (D - 1) * np.sum((B - r * S) ** 2)) / S.sum())


# ---- tasks ----
KINDS = {"multiple_choice": {"query": str, "choices": list, "gold": int},
         "schema": {"context_options": list, "continuation": str, "gold": int},
         "language_modeling": {"context": str, "continuation": str}}


def kind_of(item):
    """The kind of task to which an item belongs, by its fields. ValueError if it is of none."""
    fields = item if isinstance(item, dict) else {}
    for kind, needed in KINDS.items():
        if all(type(fields.get(name)) is of for name, of in needed.items()):
            [options] = [fields[name] for name in needed if needed[name] is list] or [["", ""]]
            if ({*map(type, options)} == {str} and len(options) > 1
                    and 0 <= gold_of(kind, fields) < len(options)):
                return kind
    needed = "; or ".join(", ".join(fields) for fields in KINDS.values())
    raise ValueError(f"no item of a task, which needs {needed}; gold counts the choices from 0")


def gold_of(kind, item):
    """The number of the right one among an item's choices."""
    return 0 if kind == "language_modeling" else item["gold"]


def read_items(text, where):
    """(kind, items) of a JSON lines file's text. Items are shuffled, into the same order every
    time. ValueError, which begins with `where`, if one is damaged, or if they are of several kinds.
    """
    items, kinds = [], set()
    for n, line in enumerate(text.split("\n"), 1):
        try:
            if line.strip():
                items.append(json.loads(line))
                kinds.add(kind_of(items[-1]))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}, line {n}: {error}") from None
    if len(kinds) != 1:
        raise ValueError(f"{where} holds {' and '.join(sorted(kinds)) or 'no item'}")
    random.Random(1337).shuffle(items)
    return kinds.pop(), items


def shots(items, i, k):  # exercise
    """The k solved items that stand before item i: a sample by random.Random(1234 + i) of a list of
    all other items, in their order. ValueError "3 examples beside the item itself can't be drawn
    from 3" unless there are more than k items.
    """
    if k >= len(items):
        raise ValueError(f"{k} examples beside the item itself can't be drawn from {len(items)}")
    return random.Random(1234 + i).sample(items[:i] + items[i + 1:], k)


def alternatives(kind, item, examples, delimiter=" "):  # exercise
    """The texts that are compared, one for each choice: solved examples, then the item with that
    choice. kind, item: as in KINDS; examples: items, such as those of shots().

    An item with a choice is, for multiple choice, the query, the delimiter, a choice; for a schema,
    a context option, the delimiter, the continuation; for language modelling, context.strip(), the
    delimiter, the continuation. An example has the choice of gold_of(), and a blank line behind it.
    For language modelling there are two texts: first the prompt, without the item's continuation,
    from which all spaces at both ends are stripped; then the text with it, of which none are.
    [{"query": "1 + 1 =", "choices": ["2", "3"], "gold": 0}] as shots before {"query": "2 + 1 =",
    "choices": ["2", "3"], "gold": 1}: ["1 + 1 = 2\n\n2 + 1 = 2", "1 + 1 = 2\n\n2 + 1 = 3"]
    """
    def with_choices(item):
        if kind == "multiple_choice":
            return [item["query"] + delimiter + choice for choice in item["choices"]]
        if kind == "schema":
            return [option + delimiter + item["continuation"] for option in item["context_options"]]
        return [item["context"].strip() + delimiter + item["continuation"]]
    solved = [with_choices(example)[gold_of(kind, example)] + "\n\n" for example in examples]
    before = "".join(solved)
    texts = [before + text for text in with_choices(item)]
    if kind == "language_modeling":
        return [(before + item["context"].strip() + delimiter).strip(), *texts]
    return texts


def common_prefix(rows):  # exercise
    """How many ids all rows, lists of ids, begin with. [[1, 2, 3], [1, 2, 4, 3]]: 2"""
    same = [len({*column}) == 1 for column in zip(*rows)]
    return (same + [False]).index(False)


def common_suffix(rows):  # exercise
    """How many ids all rows, lists of ids, end with. [[1, 2, 3], [1, 2, 4, 3]]: 1"""
    return common_prefix([row[::-1] for row in rows])


def spans(kind, texts, tokenizer, seq_len):  # exercise
    """Which ids are scored: for each of alternatives() its ids and a place, (row, start), in a
    list; row[start:] is what the choice adds.

    A row is data.encode() of a text, which begins with <|bos|>. Scored is in a schema the
    common_suffix() of all rows; else what is behind their common_prefix(), for language modelling
    of the last row alone. (Counting the ids of a choice by itself would be wrong: its first one may
    hold the space before it.) Of a row of more than seq_len ids the last seq_len are kept, and
    `start` moves along. At least the last id is scored, and never the first: ValueError if a row is
    left with fewer than two. With one id a letter, the choices "ab" and "acb" are [bos, a, b] and
    [bos, a, c, b], both with start 2; with seq_len 3 the second is ([a, c, b], 1).
    """
    rows = [encode(text, tokenizer) for text in texts]
    if kind == "schema":
        starts = [len(row) - common_suffix(rows) for row in rows]
    else:
        starts = [common_prefix(rows)] * len(rows)
    if kind == "language_modeling":
        rows, starts = rows[-1:], starts[-1:]
    if min(seq_len, *map(len, rows)) < 2:
        raise ValueError("an empty text, or a window of one id, has no id to be predicted")
    cuts = [max(0, len(row) - seq_len) for row in rows]
    return [(row[cut:], max(1, min(start, len(row) - 1) - cut))
            for row, start, cut in zip(rows, starts, cuts)]


@torch.inference_mode()
def span_losses(model, row, start):  # exercise
    """(nats, hits), (len(row) - start,) each: the loss of row[start], row[start + 1] ..., given all
    ids before it, and whether it is the likeliest of all ids. One pass of model.hidden() over the
    row, on the device of model.embed.weight, without the last id, which predicts nothing that is
    scored; then model.logits() of those positions alone that predict the span.
    """
    ids = torch.tensor([row], device=model.embed.weight.device)
    targets = ids[0, start:]
    logits = model.logits(model.hidden(ids[:, :-1])[0, start - 1:])  # (len(row) - start, V)
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets


def is_right(kind, item, losses):  # exercise
    """Whether the model has solved an item. losses: (nats, hits), as from span_losses(), for each
    of spans(). In language modelling all ids must be hits. Else the row with the lowest mean loss
    is chosen (the lowest sum would favour short choices), of equal ones the first, and must be that
    of the "gold" choice. ValueError if a loss is not finite.
    """
    means = [float(nats.mean()) for nats, _ in losses]
    if not np.isfinite(means).all():
        raise ValueError("losses are nan or infinite: the model's weights must be damaged")
    if kind == "language_modeling":
        return bool(losses[0][1].all())
    return means.index(min(means)) == item["gold"]


def centred(accuracy, baseline):  # exercise
    """An accuracy, 0 ... 1, rescaled so that guessing gets 0 and a perfect model 1: (a - b) /
    (1 - b), where b is the baseline / 100: it comes in percent. centred(0.625, 25) == 0.5
    """
    return (accuracy - baseline / 100) / (1 - baseline / 100)


def show_item(kind, item, rows, losses, tokenizer):
    """Print an item: the text that all alternatives share, then of each what differs before the
    span, and the loss of each id of the span, behind their mean.
    """
    shared = min(common_prefix([row for row, _ in rows]), rows[0][1])
    cropped = "" if rows[0][0][:1] == document_start(tokenizer)[:1] else "(cropped) ..."
    print(escaped(cropped + tokenizer.decode(rows[0][0][:shared])))
    means = [float(nats.mean()) for nats, _ in losses]
    for n, ((row, start), (nats, hits)) in enumerate(zip(rows, losses)):
        marks = ["chosen"] * (len(rows) > 1 and n == means.index(min(means)))
        marks += ["gold"] * (n == gold_of(kind, item))
        ids = [f"{escaped(tokenizer.decode([i]))!r} {loss:.2f}{'*' * bool(hit)}"
               for i, loss, hit in zip(row[start:], nats.tolist(), hits.tolist())]
        print(f"{' '.join(marks):11} {means[n]:7.3f} nats an id:",
              escaped(tokenizer.decode(row[shared:start])), ", ".join(ids))
    print("solved" if is_right(kind, item, losses) else "missed", "(* the likeliest of all ids;",
          "all must be)" if len(rows) == 1 else "the lowest mean is chosen)")


def score_task(options, model, tokenizer, kind, items):
    """Print item number options.item of the shuffled list, and the accuracy over all items."""
    delimiter, right, guesses = options.delimiter.replace("\\n", "\n"), [], []
    for i, item in enumerate(track(items, "scoring", len(items), unit=" items")):
        texts = alternatives(kind, item, shots(items, i, options.shots), delimiter)
        rows = spans(kind, texts, tokenizer, model.config.seq_len)
        losses = [span_losses(model, row, start) for row, start in rows]
        right.append(is_right(kind, item, losses))
        guesses.append(1 / len(rows) if len(rows) > 1 else 0)
        if i == options.item:
            show_item(kind, item, rows, losses, tokenizer)  # at once: the others may take long
    error, guessing = np.std(right) / np.sqrt(len(right)), 100 * np.mean(guesses)
    print(escaped(f"{options.task}: {kind}, {options.shots} shots; {sum(right)} of {len(items)} "
                  f"solved, {np.mean(right):.1%} +- {error:.1%} (standard error), guessing "
                  f"{guessing:.1f}%; centred accuracy {centred(np.mean(right), guessing):.3f}"))


# ---- the command ----
@dataclass
class Options(RunOptions):
    weights: str = option("", "a Hugging Face folder, read instead of a run")
    file: str = option("", "a UTF-8 text to evaluate on; without one, the run's validation set")
    stride: int = option(0, "tokens between windows: fewer give each a longer past; 0: seq_len",
                         least=0)
    task: str = option("", "instead of a text, a task: a file of items, as CORE's are")
    item: int = option(0, "number of the item that is shown, after they are shuffled", least=0)
    shots: int = option(0, "solved items before each item of the task", least=0)
    delimiter: str = option(" ", "what stands before each answer; \\n is a line end")


def score_text(options, text, folder, model, tokenizer, config, step):
    """Print bits per byte and perplexity of a text, or of a run's validation set if it is None."""
    data = None if options.weights else run_data(folder, config.by_hand)
    bos, sizes = document_start(tokenizer), token_bytes(tokenizer)
    if text:
        labels = ids = np.array(bos + tokenizer.encode(text))
        from writing import Compressors
        compressed = Compressors(text.encode()).sizes()
        bars = baselines(data, ids, compressed) if data else {
            f"{name} -9": 8 * n / len(text.encode()) for name, n in compressed.items()}
    else:
        ids, labels = (read(0, len(data.val)) for read in (data.val.read, data.val.labels))
        bars = baselines(data)
    starts = windows(len(ids), config.seq_len, options.stride or config.seq_len)
    at_once = min(config.micro_batch, config.batch_size, 8) if data else 1
    nats = score(model, ids, starts, at_once, config.dtype if data else "float32")
    targets = labels[1:]
    what = options.file or f"the validation set of {', '.join(config.data)}"
    is_text = (targets >= 0) & (sizes[targets] > 0)
    bits = bits_per_byte(nats, targets, sizes)
    at = f", step {step}" * (step is not None)
    print(escaped(f"{folder}{at}, {model.embed.weight.device}, on {what}: "
                  f"{sizes[targets[is_text]].sum():,} bytes, {is_text.sum():,} tokens"))
    error = ""
    documents = np.cumsum(ids == bos[0])[1:][is_text] - 1
    if documents[-1] > 0:
        error = standard_error(nats[is_text] / np.log(2), sizes[targets[is_text]], documents)
        error = f" +- {error:.3f} (standard error over {documents[-1] + 1} documents)"
    print(f"perplexity {perplexity(nats[is_text]):.2f} per token; bits per byte {bits:.4f}{error}")
    from metrics import Hints, table
    print(table(bars | {"this model": bits}))
    if not text and not options.stride and len(nats) >= config.seq_len:
        from charts import draw_positions
        Hints()("draw what context is worth", draw_positions, by_position(nats, config.seq_len),
                folder / "context.png")


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    text = read_text(options.file) if options.file else None  # first: the rest takes a while
    if text == "":
        raise ValueError(f"{options.file} is empty")
    task = read_items(read_text(options.task), options.task) if options.task else None
    if task and options.file:
        raise ValueError("a text is evaluated, or a task: leave out --file or --task")
    if task:
        shots(task[1], 0, options.shots)  # ValueError if there are too few items
        if options.item >= len(task[1]):
            raise ValueError(f"item is {options.item}, but the last is {len(task[1]) - 1}")
    elif options.weights and text is None:
        raise ValueError("a model from elsewhere has no validation set: give --file or --task")
    folder, model, tokenizer, config, step = options.load()
    if task:
        score_task(options, model, tokenizer, *task)
    else:
        score_text(options, text, folder, model, tokenizer, config, step)


if __name__ == "__main__":
    run(main)
