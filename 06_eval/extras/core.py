"""Tasks in context, as of CORE: what a model can do, beside guessing, and how sure that is.

CORE is the mean of the centred accuracy over 22 tasks (Li et al. 2024, DataComp-LM, section 3.5).
Two ways to compute it carry the name; this is nanochat's, by which GPT-2 XL has 0.2565. Another one
puts one line end between examples, draws them otherwise, and splits texts into ids piece by piece.
A score alone misleads. So beside each stand what guessing solves, what one answer to all questions
solves, how many texts were cut to fit the window, and how many items share 13 words in a row with
the training text; with --shuffled also what is solved when each question is that of another item.

    python 06_eval/extras/core.py --bundle DIR --run tiny
    python 06_eval/extras/core.py --bundle core --weights FOLDER --json FILE   # downloads CORE
    python 06_eval/extras/core.py --bundle DIR --run tiny --against FILE       # another's --json
    python 06_eval/extras/core.py --bundle DIR --run tiny --every-checkpoint
    python 06_eval/extras/core.py --bundle DIR --weights FOLDER --certify

Reads a bundle and a run, or a Hugging Face folder. --json FILE gets all decisions, after each task,
and what it holds is not computed again; a picture stands beside it. Without it, core.png in a run's
folder shows all tasks and items. Next: charts.py.
"""

import math
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, escaped, option, run, track

import numpy as np
import torch

from blocked import for_reading
from bundle import CORE, find_bundle, read_bundle
from duplicates import overlap
from evals import centred, gold_of, is_right
from housekeeping import check_writable
from kept import Kept, identity
from metrics import Hints
from runs import run_data
from sample import RunOptions
from scoring import score_items

FIELDS = ("hash", "means", "loss", "cropped")  # that a kept row has beside its decisions
CERTAIN = 1.96  # standard errors on either side of a mean: 95% of a normal distribution


# ---- how sure ----
def interval(n_right, n):  # exercise
    """Wilson's 95% interval (1927) of an accuracy: (low, high), where n_right of n were right.

    With p = n_right / n and z = CERTAIN, the middle is (p + z^2 / 2n) / (1 + z^2 / n), and on each
    side stand z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2); what rounding puts outside of
    0 ... 1 is cut off. It has a width where none or all were right: interval(0, 10) is (0, 0.278).
    """
    p, z = n_right / n, CERTAIN
    middle = p + z * z / (2 * n)
    side = z * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
    return max(0.0, (middle - side) / (1 + z * z / n)), min(1.0, (middle + side) / (1 + z * z / n))


def paired_bootstrap(ours, others, draws=10_000, seed=0):  # exercise
    """How much more is right in `ours` than in `others`: (difference, low, high) of the means.

    ours, others: (N,) booleans for the same items, in the same order. low and high are the 2.5 and
    the 97.5 percentile over `draws` samples of N items, with replacement (Efron and Tibshirani
    1993, section 13.3), by np.random.default_rng(seed). Both models find the same items hard, so
    both decisions on an item are drawn together; apart, they would give a wider interval.
    """
    gains = np.asarray(ours, float) - np.asarray(others, float)
    # Gains are -1, 0 or 1, so a sample is known by how often it has each.
    counts = [np.count_nonzero(gains == gain) for gain in (-1, 0, 1)]
    drawn = np.random.default_rng(seed).multinomial(len(gains), np.divide(counts, len(gains)),
                                                    draws)
    low, high = np.percentile((drawn[:, 2] - drawn[:, 0]) / len(gains), [2.5, 97.5])
    return float(gains.mean()), float(low), float(high)


def mean_side(sides):
    """Half the width of the interval of a mean over tasks; sides: {label: that of the task}. Tasks
    are independent but for hellaswag and hellaswag_zeroshot, whose items are the same: theirs add
    up, as if the same decisions were right in both, which makes the interval rather too wide.
    """
    independent = Counter()
    for label, side in sides.items():
        independent[label.removesuffix("_zeroshot")] += side
    return math.hypot(*independent.values()) / len(sides)


def mean_centred(results):
    """(the mean of the tasks' centred accuracies, half the width of its 95% interval)."""
    sides = {label: (row["interval"][1] - row["interval"][0]) / 2 / (1 - row["baseline"] / 100)
             for label, row in results.items()}
    return float(np.mean([row["centred"] for row in results.values()])), mean_side(sides)


# ---- one task ----
def majority(task, n):
    """The accuracy over the first n items of giving one answer always: the text, or the place among
    the choices, that is right most often.
    """
    texts = Counter(task.answers()[:n]).values()
    places = Counter(gold_of(task.kind, item) for item in task.items[:n]).values()
    return max(*texts, *(places if task.kind != "language_modeling" else ())) / n


def prepare(task, tokenizer, seq_len, most=0):
    """(evals.spans() of each item, how many are cropped) of a task, or of its first `most` items.
    """
    n = min(most or len(task.items), len(task.items))
    found = [task.spans(i, tokenizer, seq_len) for i in range(n)]
    return [rows for rows, _ in found], sum(cropped for _, cropped in found)


def right_answer(task, i, losses):
    """The mean loss of the right alternative of an item."""
    return float(losses[gold_of(task.kind, task.items[i])][0].mean())


def decisions(task, losses):
    """For each item whether it was solved."""
    return [is_right(task.kind, task.items[i], each) for i, each in enumerate(losses)]


def mean_losses(losses):
    """The mean loss of each alternative of each item: a list of lists."""
    return [[float(nats.mean()) for nats, _ in each] for each in losses]


def score(model, task, tokenizer, options):
    """The row of --json for a task: of each item whether it is solved, and the mean losses of its
    alternatives; how many are cropped; the mean loss of the right answers.
    """
    items, cropped = prepare(task, tokenizer, model.config.seq_len, options.items)
    found = score_items(model, items, options.batch_size, options.dtype, label=task.label)
    return {"correct": decisions(task, found), "means": mean_losses(found), "cropped": cropped,
            "hash": task.hash, "batch_size": options.batch_size,
            "loss": float(np.mean([right_answer(task, i, each) for i, each in enumerate(found)]))}


def score_shuffled(model, task, tokenizer, options):
    """The accuracy with each question that of another item."""
    swapped, _ = prepare(task.swapped(), tokenizer, model.config.seq_len, options.items)
    found = score_items(model, swapped, options.batch_size, options.dtype,
                        label=f"{task.label}, shuffled")
    return float(np.mean(decisions(task, found)))


def derived(task, row):
    """A row with all that follows from its decisions and its task, which may have been mended."""
    n, right = len(row["correct"]), sum(row["correct"])
    return row | {"accuracy": right / n, "interval": interval(right, n), "shots": task.n_shots,
                  "centred": centred(right / n, task.baseline), "baseline": task.baseline,
                  "majority": majority(task, n), "kind": task.kind}


# ---- training text ----
def training_texts(data, tokenizer, n=1 << 20, both=1000):
    """The training text of a run, n ids at a time, each part with the last ids of the one before.
    """
    starts = range(0, len(data.train), n)
    for start in track(starts, "looking for the items in the training text", len(starts)):
        begin = max(0, start - both)
        ids = data.train.read(begin, min(start + n, len(data.train)) - begin)
        yield tokenizer.decode_bytes(ids.tolist()).decode("utf-8", errors="replace")


# ---- the report ----
def heading(results, options):
    """What the mean is called, and the mean: CORE only if it is of all its 22 tasks."""
    mean, side = mean_centred(results)
    part = f" of at most {options.items or options.max_per_task} items a task" * bool(
        options.items or options.max_per_task)
    if {*results} >= {*CORE}:
        results = {label: results[label] for label in CORE}
        mean, side = mean_centred(results)
        return f"CORE{part}: {mean:.4f} +- {side:.4f} (95%)"
    tasks = f"{len(results)} task{'s' * (len(results) > 1)}"
    return (f"partial, {tasks}{part}, {len({*results} & {*CORE})} of CORE's 22: mean centred "
            f"accuracy {mean:.4f} +- {side:.4f} (95%). This is not CORE.")


def report(results, others=None, shuffled=False):
    """Lines of a table of results, {label: row}; with others, those of a second model, the
    differences and their 95% intervals.
    """
    yield (f"{'':31} shots  items  accuracy  95% interval  centred  guess  one answer  cropped  "
           f"in training" + "  shuffled" * shuffled)
    for label, row in results.items():
        low, high = row["interval"]
        seen = f"{row['seen']} of {row['checked']}" if "seen" in row else "unknown"
        yield (f"{label:31} {row['shots']:5} {len(row['correct']):6} {row['accuracy']:9.1%}  "
               f"{low:5.1%} {high:6.1%} {row['centred']:8.3f} {row['baseline'] / 100:6.1%} "
               f"{row['majority']:11.1%} {row['cropped']:8} "
               f"{seen:>12}" + (f" {row['shuffled']:9.1%}" if shuffled else ""))
    yield ("guess: solved by guessing; one answer: by always giving the same; cropped: items too "
           "long for the window;\nin training: of the items of 13 words or more, those that have "
           "13 in a row in common with the training text"
           + "; shuffled: with the question of another item" * shuffled
           + "\nprompts and rules are nanochat's, by which GPT-2 XL's CORE is 0.2565")
    if others:
        yield f"\n{'more right than the other':31} difference  95% interval (paired bootstrap)"
        gains, sides = [], {}
        for label, row in results.items():
            if others.get(label, {}).get("hash") != row["hash"] or len(row["correct"]) != len(
                    others[label]["correct"]):
                yield f"{label:31} the other was scored on other items, or not at all"
                continue
            gain, low, high = paired_bootstrap(row["correct"], others[label]["correct"])
            gains.append(gain / (1 - row["baseline"] / 100))
            sides[label] = (high - low) / 2 / (1 - row["baseline"] / 100)
            yield f"{label:31} {gain:+10.1%}  {low:+6.1%} {high:+6.1%}" + "  *" * (low * high > 0)
        if gains:
            yield (f"mean centred accuracy {np.mean(gains):+.4f} +- {mean_side(sides):.4f} (95%)\n"
                   "* 0 is outside, which happens by chance in one of 20 tasks")


# ---- the command ----
@dataclass
class Options(RunOptions):
    weights: str = option("", "a Hugging Face folder, read instead of a run")
    bundle: str = option("core", "a folder or .zip file of tasks; core: the public one, downloaded")
    tasks: tuple = option((), "only these")
    max_per_task: int = option(0, "only so many of a task's items, examples too; 0: all", least=0)
    items: int = option(0, "score only the first so many of these; 0: all", least=0)
    batch_size: int = option(0, "items at once; 0: 8, or a run's micro-batch if that is less",
                             least=0)
    dtype: str = option("float32", "of matrix products", ("float32", "bfloat16"))
    shuffled: bool = option(False, "also with the questions of other items")
    json: str = option("", "a file for all decisions")
    against: str = option("", "another model's --json file, to compare with")
    every_checkpoint: bool = option(False, "of all weights that a run has kept, as a picture")
    certify: bool = option(False, "which decisions depend on batch size, cache and dtype?")
    data_dir: str = option("data", "where downloads are kept")

    def load(self):
        """As RunOptions.load(); a batch size that is not given becomes one that fits."""
        loaded = super().load()
        if self.dtype == "float32" and loaded[1].embed.weight.is_cuda:  # not choose_device()'s TF32
            torch.set_float32_matmul_precision("highest")
        self.batch_size = self.batch_size or min(8, getattr(loaded[3], "micro_batch", 8))
        return loaded


def key_of(model, tokenizer, options):
    """identity() with the options on which decisions depend."""
    batch_size = options.batch_size if options.dtype != "float32" else 0  # there it changes none
    part = (options.max_per_task,) if options.max_per_task else ()  # it must replace no whole task
    return identity(model, tokenizer, model.embed.weight.device.type, options.dtype, options.items,
                    batch_size, *part)


def score_all(model, tokenizer, tasks, options, kept):
    """{label: row} for all tasks. What is Kept of a row is not computed again."""
    results = {}
    for task in tasks:
        row = kept.rows.get(task.label, {})
        if row.get("hash") != task.hash:
            row = score(model, task, tokenizer, options)
        kept.put(task.label, derived(task, row))
        if options.shuffled and "shuffled" not in row:
            row["shuffled"] = score_shuffled(model, task, tokenizer, options)
            kept.put(task.label, derived(task, row))
        results[task.label] = derived(task, row)
    return results


def look_up(results, tasks, texts):
    """Add to each row "seen" and "checked": how many of the items of 13 words or more have 13 in a
    row in common with the training text, and how many items there are of that length.
    """
    full = [[task.in_full(i) for i in range(len(results[task.label]["correct"]))] for task in tasks]
    found = iter(overlap([text for each in full for text in each], texts))
    for task, each in zip(tasks, full):
        seen = [next(found) for _ in each]
        results[task.label] |= {"seen": seen.count(True), "checked": len(seen) - seen.count(None)}


def look_up_run(results, tasks, folder, tokenizer, by_hand):
    """look_up() in what a run was trained on; if that is gone, a line says so."""
    try:
        look_up(results, tasks, training_texts(run_data(folder, by_hand), tokenizer))
    except (ValueError, OSError) as error:
        print(escaped(f"the training text is unknown: {error}"), file=sys.stderr)


def check(options):
    """ValueError if options don't go together."""
    one = [name for name in ("certify", "every_checkpoint", "shuffled", "against")
           if getattr(options, name)]
    if len(one) > 1 and {*one[:2]} & {"certify", "every_checkpoint"}:
        raise ValueError(f"--{one[0]} and --{one[1]}: give one of them".replace("_", "-"))
    if options.every_checkpoint and (options.json or options.weights):
        raise ValueError("--every-checkpoint is for a run, and keeps its results there: leave out "
                         "--json and --weights")
    if options.json:
        if Path(options.json).suffix == ".png":
            raise ValueError(f"{options.json} would be the picture beside the results: give --json "
                             "another name")
        check_writable(Path(options.json).parent)
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    check(options)
    if options.against and not Path(options.against).exists():
        raise ValueError(f"there is no file {options.against}")
    others = Kept(options.against or None, "tasks", fields=FIELDS).rows
    if options.against and not others:
        raise ValueError(f"{options.against} holds no scores of tasks, as --json FILE keeps them")
    path = find_bundle(options.bundle, options.data_dir)
    tasks = read_bundle(path, options.tasks, options.max_per_task)  # what is quick to find is first
    if options.every_checkpoint:
        from growth import grow
        return grow(options, tasks)
    folder, model, tokenizer, config, step = options.load()
    what = f"{folder}" if step is None else f"{folder}, step {step}"
    key = key_of(model, tokenizer, options)
    kept = Kept(options.json or None, "tasks", key, what, FIELDS)
    fast = for_reading(model) if options.dtype == "float32" and not model.config.by_hand else model
    results = score_all(fast, tokenizer, tasks, options, kept)
    if options.certify:
        from certify import certify
        return certify(options, tasks, model, tokenizer, results, key)
    if step is not None:
        look_up_run(results, tasks, folder, tokenizer, config.by_hand)
    for label, row in results.items():
        kept.put(label, row)
    print(escaped(f"{what}, {options.dtype}, a window of {model.config.seq_len:,} ids"))
    print("\n".join(report(results, others, options.shuffled)))
    print(heading(results, options))
    part = options.tasks or options.items or options.max_per_task
    picture = (Path(options.json).with_suffix(".png") if options.json else
               Path(folder) / "core.png" if step is not None and not part else None)
    if picture:
        from charts import draw_scores
        Hints()(f"draw {picture}", draw_scores, results, picture,
                f"{what}: {heading(results, options)}")


if __name__ == "__main__":
    run(main)
