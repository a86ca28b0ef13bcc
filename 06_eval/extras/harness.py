"""The tasks of lm-evaluation-harness, on our models: its questions and metrics, our forward pass.

lm-evaluation-harness (package lm-eval) asks three things of a model: how likely a text is after
another one, how likely a text is by itself, and what the model writes after a text. Harness answers
as lm-eval's own class for Hugging Face folders does, HFLM, so that a run gets the numbers that its
exported folder gets there. Left out: chat templates, beam search, several GPUs.

    pip install lm-eval==0.4.13
    python 06_eval/extras/harness.py --run tiny --tasks arc_easy --limit 100
    python 06_eval/extras/harness.py --weights FOLDER --tasks NAME --include-path DIR

Reads a run or a Hugging Face folder, and tasks; lm-eval downloads what a task's items are, once,
into its own cache. Prints every metric with its standard error. Next: answers.py.
"""

import os
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, escaped, option, run, track

import torch
import torch.nn.functional as F

from conversations import begin_ids, end_ids
from data import document_start
from folders import one_line
from gpt import generate
from mistakes import nearest
from records import library
from sample import Picker, RunOptions, Sampling, TextStream

PURPOSE = "a task of lm-evaluation-harness"
# The names that tasks have for the most ids to write; the first that is given counts.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def divided(items, n):
    """A list as lists of n items, the last perhaps shorter."""
    return [items[i:i + n] for i in range(0, len(items), n)]


def how_to_write(options):
    """(stop strings, most ids, Sampling) of a task's generation_kwargs, a dict. Without a
    temperature, or with do_sample=False, always the likeliest id. ValueError for other options.
    """
    options = {name: value for name, value in options.items() if value is not None}
    until, sampled = options.pop("until", []), options.pop("do_sample", True)
    stops = tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop)
    lengths = [options.pop(name) for name in LENGTHS if name in options]
    known = {field.name for field in fields(Sampling)}
    if unknown := sorted(options.keys() - known):
        raise ValueError(f"a task sets {unknown[0]} for its texts, which is not known here; there "
                         f"are until, do_sample, {', '.join((*LENGTHS, *sorted(known)))}")
    options["temperature"] = options.get("temperature", 0.0) if sampled else 0.0
    return stops, int([*lengths, 256][0]), Sampling(**options)


class Harness:
    """What lm-evaluation-harness asks of a model. A request's .args are its texts and options; the
    answers have the order of the requests. batch_size: texts that go through the model together.
    """

    def __init__(self, model, tokenizer, batch_size=8):
        super().__init__()  # that of lm-eval's LM, in adapter()
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.window = model.config.seq_len
        self.prefix = document_start(tokenizer)[:1]  # what a text is predicted from at its start

    # ---- texts as ids ----
    def encode(self, text):
        """A text's ids as Hugging Face's tokenizers give them: the ids that begin every text come
        first, unless the text begins with the prefix; special tokens are found in the text.
        """
        ids = self.tokenizer.encode(text, "all")
        return ids if ids[:1] == self.prefix else begin_ids(self.tokenizer) + ids

    def pair(self, context, continuation):
        """(ids of the context, ids of the continuation). Spaces at the end of the context belong to
        the continuation, as a word's token holds the space before it. Text is cut into tokens as a
        whole: the continuation's are those behind as many as the context has by itself.
        """
        if not context:
            ids = self.tokenizer.encode(continuation, "all")
            return (ids[:1], ids[1:]) if ids[:1] == self.prefix else (self.prefix, ids)
        ids = self.encode(context.rstrip())
        return ids or self.prefix, self.encode(context + continuation)[len(ids):]

    def windows(self, text):
        """Yield such pairs, which together predict every id of a text once: windows that lie side
        by side, but the last one has a full window as its context. The ids that begin a text are
        predicted, too, from the prefix before them: HFLM does so, and its numbers depend on it.
        """
        ids = self.prefix + self.encode(text)
        for start in range(1, len(ids), self.window):
            end = min(start + self.window, len(ids))
            yield ids[max(0, end - self.window - 1):start], ids[start:end]

    # ---- answers ----
    @torch.inference_mode()
    def score(self, pairs):
        """(log-likelihood, greedy) of each pair of lists of ids: the sum of log p of the second's
        ids after the first's, in nats, and whether each of them is the likeliest. A pair's last
        seq_len + 1 ids count. ValueError if seq_len ids can't hold the second, or it is empty.
        """
        sharing = {}  # {ids to be read: the numbers of the pairs that need no others}
        for n, (context, continuation) in enumerate(pairs):
            if not 0 < len(continuation) <= self.window:
                raise ValueError(f"a continuation has {len(continuation)} ids, but must have 1 to "
                                 f"{self.window}, as many as the model reads at once")
            ids = (context + continuation)[-self.window - 1:-1]
            sharing.setdefault(tuple(ids), []).append(n)
        device, scores = self.model.embed.weight.device, [None] * len(pairs)
        batches = divided(sorted(sharing, key=len, reverse=True), self.batch_size)
        for rows in track(batches, "scoring", len(sharing), len, " texts"):
            # Padding stands at the end, where no id before it attends to it.
            padded = [[*row, *[0] * (len(rows[0]) - len(row))] for row in rows]
            x = self.model.hidden(torch.tensor(padded, device=device))  # (B, T, C)
            asked = [(b, n) for b, row in enumerate(rows) for n in sharing[row]]
            sizes = [len(pairs[n][1]) for _, n in asked]
            x = torch.cat([x[b, len(rows[b]) - size:len(rows[b])]
                           for (b, _), size in zip(asked, sizes)])  # (N, C): continuations only
            targets = torch.tensor([i for _, n in asked for i in pairs[n][1]], device=device)
            found = []
            for some, ids in zip(x.split(512), targets.split(512)):  # (512, V) logits at a time
                logits = self.model.logits(some)
                nats = F.cross_entropy(logits, ids, reduction="none")
                found.append(torch.stack((nats, (logits.argmax(-1) == ids).float())))
            for (_, n), part in zip(asked, torch.cat(found, 1).cpu().double().split(sizes, 1)):
                scores[n] = -part[0].sum().item(), bool(part[1].all())
        return scores

    def loglikelihood(self, requests):
        """(log-likelihood, greedy) of each (context, continuation)."""
        return self.score([self.pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests):
        """The log-likelihood of each (text,), in nats."""
        pairs = [list(self.windows(*request.args)) for request in requests]
        scores = iter(self.score([pair for of_one in pairs for pair in of_one]))
        return [sum(next(scores)[0] for _ in of_one) for of_one in pairs]

    def generate_until(self, requests):
        """The text that the model writes after each (context, options), before a stop string or an
        end token, at most max_gen_toks ids. The last ids of the context are read for which there is
        room beside those. Texts that are drawn depend on the request's number. ValueError for
        options that are not known, or that leave no room for a context.
        """
        groups, texts = {}, [None] * len(requests)  # together are written those with equal options
        for n, request in enumerate(requests):
            context, options = request.args
            how = how_to_write(options)
            if (room := self.window - how[1]) < 1:
                raise ValueError(f"a task asks for texts of {how[1]} ids, but the model has a "
                                 f"window of {self.window}, its context included")
            groups.setdefault(how, []).append(
                (n, (self.encode(context) or self.prefix)[-room:]))
        batches = [(batch, how) for how, group in groups.items() for batch in divided(
            sorted(group, key=lambda item: -len(item[1])), self.batch_size)]
        for batch, (stops, n_tokens, sampling) in track(batches, "writing", len(requests),
                                                        lambda item: len(item[0]), " texts"):
            numbers, prompts = zip(*batch)
            samplings = [replace(sampling, seed=sampling.seed + n) for n in numbers]
            for n, text in zip(numbers, self.write(prompts, n_tokens, samplings, stops)):
                texts[n] = text
        return texts

    def write(self, prompts, n_tokens, samplings, stops):
        """What follows each of the prompts, lists of ids: texts, without special tokens."""
        pick, ends = Picker(samplings, prompts), end_ids(self.tokenizer)
        rows = [TextStream(self.tokenizer, ends, stops) for _ in prompts]
        for ids in generate(self.model, prompts, n_tokens, pick):
            for row, i in zip(rows, ids.tolist()):
                if not row.finish:
                    row.add(i, 0.0)
            if all(row.finish for row in rows):
                break
        hidden = ends | {*self.tokenizer.special.values()}
        for row in rows:
            text = self.tokenizer.decode([i for i in row.ids if i not in hidden])
            for stop in stops:
                text = text.split(stop)[0]
            yield text


def adapter(model, tokenizer, batch_size=8):
    """A Harness that lm_eval.simple_evaluate() takes as its model: of a subclass of lm-eval's LM.
    ValueError if lm-eval is not installed.
    """
    class Adapter(Harness, library("lm_eval.api.model", PURPOSE).LM):
        """Harness's answers under the name of lm-eval's interface."""

    return Adapter(model, tokenizer, batch_size)


# ---- the command line ----
def load_tasks(names, folder=""):
    """A TaskManager of lm-eval whose load() gives these tasks, with their items. folder: where they
    are looked up first. ValueError if one is not there, or if its items can't be had.
    """
    manage = library("lm_eval.tasks", PURPOSE).TaskManager
    if folder and not Path(folder).is_dir():
        raise ValueError(f"there is no folder {folder}")
    manager = manage(include_path=folder, include_defaults=False) if folder else None
    if not manager or not {*names} <= {*manager.all_tasks}:
        print("reading the list of lm-eval's own tasks takes some 20 seconds")
        manager = manage(include_path=folder or None)
    for name in names:
        if name not in manager.all_tasks:
            raise ValueError(f"there is no task {name!r}; {nearest(name, manager.all_tasks)}"
                             "--include-path says where more are")
    try:
        loaded = manager.load(list(names))
    except Exception as error:  # of any library, for which a task's files or a server are at fault
        what = type(error).__name__ if isinstance(error, KeyError) else ""
        raise ValueError(f"{', '.join(names)} can't be loaded ({what}{one_line(error)}); unless "
                         "its items are on this machine, a task downloads them") from None
    manager.load = lambda names: loaded  # simple_evaluate() would do it again
    return manager


def rows_of(results):
    """Yield (task, metric, value, standard error), strings, of what simple_evaluate() returns."""
    for task, found in results["results"].items():
        for name, value in found.items():
            metric, comma, way = name.partition(",")  # way: how an answer was taken from a text
            if comma and not metric.endswith("_stderr"):
                error = found.get(f"{metric}_stderr,{way}")
                yield (task, metric if way == "none" else f"{metric}, {way}",
                       *(f"{x:.4f}" if isinstance(x, float) else "" if x in (None, "N/A")
                         else str(x) for x in (value, error)))


@dataclass
class Options(RunOptions):
    weights: str = option("", "a Hugging Face folder, read instead of a run")
    tasks: tuple = option((), "names of tasks or groups of tasks")
    include_path: str = option("", "a folder with more tasks; code in their files runs")
    limit: int = option(0, "how many items of each task; 0: all", least=0)
    batch_size: int = option(8, "texts that go through the model together", least=1)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    if not options.tasks:
        raise ValueError("say which --tasks")
    evaluator = library("lm_eval.evaluator", PURPOSE)
    folder, model, tokenizer, _, step = options.load()  # before the tasks, which take longer
    manager = load_tasks(options.tasks, options.include_path)
    results = evaluator.simple_evaluate(
        adapter(model, tokenizer, options.batch_size), tasks=list(options.tasks),
        limit=options.limit or None, task_manager=manager, log_samples=False)
    print(escaped(f"{folder}{'' if step is None else f', step {step}'}, {model.embed.weight.device}"
                  + f", {options.limit} items of each task" * bool(options.limit)))
    rows = [("task", "metric", "value", "standard error"), *rows_of(results)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print(escaped("  ".join(f"{cell:{w}}" for cell, w in zip(row, widths)).rstrip()))


if __name__ == "__main__":
    run(main)
