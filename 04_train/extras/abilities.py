"""What does each stage of training change? One small model, followed through all of them.

base reads tasks.py's prose; mid reads prose and conversations; sft learns the assistant's part of
conversations alone; rl writes answers itself, and learns from which are right. Beside rl stands a
rival that costs as much: best-of-n, which fine-tunes sft on all the right ones among its own
answers, with as many ids written and as many FLOPs of training. After each stage every ability is
measured on questions that no stage has seen, several answers to each; so two things can be told
apart: an answer that has become likelier (pass@1), and one that was out of reach before (pass@k).
Intervals are those of other questions and answers; what another training would give, seeds show.

    python 04_train/extras/abilities.py                # a seed; the same command goes on
    python 04_train/extras/abilities.py --seeds 0 1 2

Writes runs/abilities/, a run for each stage and seed, abilities.json, abilities.png, practice.png;
what is there is not made again. Next: 05_sample/sample.py.
"""

import itertools
import json
import math
import os
import re
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, escaped, read_text, run, track, write_safely

import numpy as np

import rl
import sft
import train
from budget import flops_per_token
from conversations import prompt_ids
from curves import COLOURS, picture
from data import document_start
from metrics import read_metrics
from records import with_calculator
from report import draw_smoothed
from resuming import find_run
from rl import pass_at_k, reward, write_answers
from runs import load_run, newest_checkpoint, read_config
from tasks import ABILITIES, examples

STAGES = {"base": "", "mid": "base", "sft": "mid", "rl": "sft", "rival": "sft"}  # what each is from
LEVEL, QUESTIONS, SAMPLES, LONGEST = 2, 200, 16, 64  # of a measurement; ids in an answer
OTHERS, ASKED = 2, 1  # seeds of the tasks to practise, and of those that measure; all else has 0
UNSURE = "addition+sorting+counting+dates+lookup+two_steps"  # what sft leaves to be practised
SHAPE = ("--preset tiny --n-layer 4 --n-head 4 --n-kv-head 4 --d-model 128 --d-ff 512 "
         "--vocab-size 320 --seq-len 128 --batch-size 32 --micro-batch 32 --bigrams 0 --lr 0.012 "
         "--momentum 0.95").split()
PROSE, CHAT = (f"tasks,form={form},level={LEVEL},n=100000" for form in ("prose", "chat"))
OPTIONS = {
    "base": [*SHAPE, "--data", PROSE, "--steps", "1500"],
    "mid": ["--preset", "mid", "--data", f"{PROSE}:0.7", f"{CHAT},loss=all:0.3", "--steps", "500",
            "--seq-len", "128", "--batch-size", "32", "--micro-batch", "32", "--dtype", "float32"],
    "sft": ["--preset", "sft", "--data", CHAT, "--steps", "200", "--seq-len", "128",
            "--batch-size", "32", "--micro-batch", "32", "--lr", "1e-3", "--warmup", "10"],
    "rl": ["--preset", "rl", "--data", f"{CHAT},only={UNSURE},seed={OTHERS}", "--steps", "120",
           "--seq-len", "128", "--batch-size", "512", "--micro-batch", "64", "--group", "16",
           "--answer-tokens", str(LONGEST), "--lr", "2e-4", "--beta2", "0.99",
           "--eval-every", "40", "--eval-tokens", "100000", "--last-eval-tokens", "100000"],
    "rival": ["--preset", "sft", "--seq-len", "128", "--batch-size", "32", "--micro-batch", "32",
              "--lr", "3e-4"],
}
QUIET = ("--eval-every", "100", "--eval-tokens", "20000", "--last-eval-tokens", "20000")


# ---- measuring ----
def prompt_of(task, tokenizer, form):
    """The ids of a question: as prose, one of the wordings that a base model has read, or as chat.
    """
    if form == "prose":
        return document_start(tokenizer) + tokenizer.encode(f"Question: {task.question}\nAnswer:")
    return prompt_ids([{"role": "user", "content": task.question}], tokenizer)


def is_right(text, task, form):
    """Whether a text answers a task."""
    if form == "prose":
        return text.partition("\n")[0].strip() == task.answer
    return reward(text, f"#### {task.answer}") == 1


def solved(model, tokenizer, tasks, form, samples, seed=0):
    """(how many of `samples` answers to each task are right, the first answer to the first)."""
    counts, first = [], None
    for i in track(range(0, len(tasks), 64), f"answering, {form}", -(-len(tasks) // 64)):
        some = tasks[i:i + 64]
        seeds = [(seed, i + j) for j in range(len(some))]
        groups = write_answers(model, [prompt_of(task, tokenizer, form) for task in some],
                               tokenizer, samples, LONGEST, seeds)
        counts += [sum(one.ended and is_right(tokenizer.decode(one.ids[:-1]), task, form)
                       for one in group) for group, task in zip(groups, some)]
        first = first or tokenizer.decode(groups[0][0].ids)
    return counts, first


def asked(ability, n):
    """The first n questions by which an ability is measured."""
    return list(itertools.islice(examples([ability], "val", LEVEL, ASKED), n))


def measured(folder, forms, questions, samples):
    """{form: {ability: how many of `samples` answers to each question are right}} of a run, and
    "said": {ability: an answer to its first question}, in the last of the forms.
    """
    model, tokenizer, _, _ = load_run(folder)
    found, said = {form: {} for form in forms}, {}
    for form in forms:
        for n, ability in enumerate(ABILITIES):
            found[form][ability], said[ability] = solved(
                model, tokenizer, asked(ability, questions), form, samples, n)
    return found | {"said": said}


def scores(results, stage, form, abilities, k=1):
    """pass@k of each question, (questions,), by its mean over the seeds: all are asked the same, so
    a question is a single draw, whatever the number of seeds.
    """
    return np.mean([[pass_at_k(SAMPLES, c, k) for ability in abilities
                     for c in seed[stage][form][ability]] for seed in results.values()], axis=0)


def with_interval(each):
    """(the mean of numbers, half its 95% interval)."""
    return float(each.mean()), 1.96 * float(each.std()) / math.sqrt(len(each))


def share(results, stage, form, abilities, k=1):
    """pass@k of a stage, with_interval()."""
    return with_interval(scores(results, stage, form, abilities, k))


def gain(results, stage, abilities, k=1):
    """How much more than sft's it is in chat, with_interval(): of differences, question by
    question, so that it doesn't matter which questions are hard for both.
    """
    return with_interval(scores(results, stage, "chat", abilities, k)
                         - scores(results, "sft", "chat", abilities, k))


# ---- training ----
def spent(folder, written=None):
    """What a run has taken: {"written": ids of answers, "read": ids to learn from, "flops": of
    learning}. Answers from which rl learns nothing, as their group had all the same reward, are
    written, but not read. written: of a rival, as right_answers() returned it.
    """
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "loss" in row]
    config = read_config(folder)
    if written is None:
        written = sum(row.get("answer_length", 0) * config.batch_size for row in rows)
    return {"written": round(written), "read": rows[-1]["tokens"],
            "flops": rows[-1]["tokens"] * flops_per_token(config.gpt(config.vocab_size))}


def as_parts(text):
    """The parts of a message, whose text has the calculator's special tokens by name. None if some
    of them are out of place.
    """
    pattern = "<|python_start|>(.*?)<|python_end|><|output_start|>(.*?)<|output_end|>"
    found = re.sub(pattern.replace("|", r"\|"), r"<<\1=\2>>", text)
    return None if "<|" in found else with_calculator(found)


def right_answers(folder, path, ids):
    """Write to `path`, as conversations, the right answers among those that the model of a run
    gives to questions to practise, until it has written so many ids. A text that it wrote several
    times stands there as often. Returns how many ids were written.
    """
    model, tokenizer, config, _ = load_run(folder)
    stream = examples(UNSURE.split("+"), "train", LEVEL, OTHERS)
    written, rows, round_ = 0, [], 0
    while written < ids:
        tasks, round_ = list(itertools.islice(stream, 32)), round_ + 1
        groups = write_answers(model, [prompt_of(task, tokenizer, "chat") for task in tasks],
                               tokenizer, SAMPLES, LONGEST, [(2, config.seed, round_, i)
                                                            for i in range(len(tasks))])
        written += sum(len(one.ids) for group in groups for one in group)
        texts = [(task, tokenizer.decode(one.ids[:-1])) for task, group in zip(tasks, groups)
                 for one in group if one.ended]
        rows += [{"messages": [{"role": "user", "content": task.question},
                               {"role": "assistant", "content": as_parts(text)}]}
                 for task, text in texts if is_right(text, task, "chat") and as_parts(text)]
    write_safely(path, "".join(json.dumps(row) + "\n" for row in rows))
    return written


def trained(stage, seed, top):
    """The folder of a stage's run, which is trained if it isn't there; None if it was stopped."""
    name, before = f"{stage}-{seed}", f"{STAGES[stage]}-{seed}"
    options, folder = [*QUIET, *OPTIONS[stage]], find_run(top, name)
    resumed = folder and newest_checkpoint(folder)
    if folder and not resumed:
        raise ValueError(f"{folder} has no checkpoint yet: if nothing is training it, delete it, "
                         "and the same command begins it again")
    if stage == "rival":
        cost, path = spent(top / f"rl-{seed}"), top / f"right-{seed}.jsonl"
        if not (top / f"written-{seed}.json").exists():
            write_safely(top / f"written-{seed}.json",
                         json.dumps(right_answers(top / before, path, cost["written"])))
        steps = max(1, round(cost["read"] / (32 * 128)))
        options += ["--data", f"jsonl:{path}", "--steps", str(steps)]
    if STAGES[stage]:
        options += ["--init", str(top / before)]
    main = {"sft": sft.main, "rival": sft.main, "rl": rl.main}.get(stage, train.main)
    print(f"\n======== {name} ========")
    main([*options, "--seed", str(seed), "--name", name, "--runs-dir", str(top), "--data-dir",
          str(top / "data"), *(["--resume"] if resumed else [])])
    rows = read_metrics(top / name / "metrics.jsonl") if (top / name).exists() else []
    return top / name if any("baselines" in row for row in rows) else None


# ---- results ----
def heading(title, names):
    return f"\n{title:16}" + "".join(f"{name:>16}" for name in names)


def line(title, shares):
    return f"{title:16}" + "".join("{:9.1%} +-{:5.1%}".format(*one) for one in shares)


def between(results, least=0.1, most=0.6):
    """The abilities that rl practises, of which sft has so large a share right."""
    return [ability for ability in UNSURE.split("+")
            if least <= share(results, "sft", "chat", [ability])[0] <= most]


def table(results):
    """Yield lines: the share of answers that are right, by ability and stage, over all seeds."""
    for form, stages in (("prose", ["base", "mid"]), ("chat", [*STAGES])):
        yield heading(f"{form}, pass@1", stages)
        for ability in [*ABILITIES, "all"]:
            some = [*ABILITIES] if ability == "all" else [ability]
            yield line(ability, [share(results, stage, form, some) for stage in stages])
    yield "\nof which sft has 10% to 60% right"
    for seed in results:
        one = {seed: results[seed]}
        unsure = between(one)
        yield f"seed {seed}: {', '.join(unsure) or 'none'}"
        if unsure:
            yield line("  right", [share(one, stage, "chat", unsure) for stage in STAGES])
            yield line("  more than sft", [gain(one, stage, unsure) for stage in STAGES])
    yield heading("practised, chat", STAGES)
    for k in (1, 2, 4, 8, 16):
        yield line(f"pass@{k}", [share(results, stage, "chat", UNSURE.split("+"), k)
                                 for stage in STAGES])
        yield line("  more than sft", [gain(results, stage, UNSURE.split("+"), k)
                                       for stage in STAGES])
    yield "\nthe same questions to each stage, the first seed, the first answer drawn"
    said = {stage: row["said"] for stage, row in next(iter(results.values())).items()}
    for ability in ABILITIES:
        task = asked(ability, 1)[0]
        yield f"\n{task.question}  ({task.answer})"
        for stage in STAGES:
            yield f"{stage:>8}  " + escaped(said[stage][ability]).replace("\n", "; ")
    yield heading("cost, mean", ("ids written", "learned from", "FLOPs"))
    for stage in STAGES:
        costs = [row[stage]["spent"] for row in results.values()]
        yield f"{stage:16}" + "".join(f"{np.mean([cost[key] for cost in costs]):16,.4g}"
                                      for key in ("written", "read", "flops"))


def draw(results, top):
    """abilities.png: right answers by stage, and pass@k. practice.png: what rl goes through."""
    figure, (ladder, curves) = picture(11, 4.4, 2)
    for n, ability in enumerate(ABILITIES):
        shares = [share(results, stage, "prose" if stage == "base" else "chat", [ability])
                  for stage in STAGES]
        ladder.errorbar(np.arange(len(STAGES)) + n / 40, *zip(*shares), fmt="o-", ms=3, lw=1,
                        label=ability)
    ladder.set_xticks(range(len(STAGES)), ["base, in prose", *[*STAGES][1:]])
    ladder.set(ylim=(0, 1.02), title="answers that are right (pass@1), with 95% intervals")
    ladder.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    for stage, colour in zip(("sft", "rl", "rival"), COLOURS):
        curve = [share(results, stage, "chat", UNSURE.split("+"), k)[0]
                 for k in range(1, SAMPLES + 1)]
        curves.plot(range(1, SAMPLES + 1), curve, color=colour, label=stage)
    curves.legend(frameon=False, loc="lower right")
    curves.set(xlabel="k", title="what is practised: one of k answers is right (pass@k)")
    figure.savefig(top / "abilities.png", dpi=120)
    figure, panels = picture(11, 3, 3)
    runs = [(colour, read_metrics(top / f"rl-{seed}" / "metrics.jsonl"))
            for seed, colour in zip(results, COLOURS * len(results))]
    for axes, key, title in zip(panels, ("reward", "entropy", "answer_length"), (
            "rl: mean reward", "entropy of an id, nats", "ids in an answer")):
        draw_smoothed(axes, runs, "step", key)
        axes.set(title=title, xlabel="step")
    figure.savefig(top / "practice.png", dpi=120)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="(default: 0)")
    parser.add_argument("--folder", default="runs/abilities", help="(default: runs/abilities)")
    args = parser.parse_args(argv)
    top, results = Path(args.folder), {}
    kept = top / "abilities.json"
    if kept.exists():
        results = json.loads(read_text(kept))
    for seed in map(str, args.seeds):
        for stage in STAGES:
            if stage in results.setdefault(seed, {}):
                continue
            folder = trained(stage, seed, top)
            if not folder:
                print("\nstopped; the same command goes on from here")
                return
            forms = ("prose", "chat") if stage in ("base", "mid") else ("chat",)
            written = (json.loads(read_text(top / f"written-{seed}.json")) if stage == "rival" else
                       None)
            results[seed][stage] = (measured(folder, forms, QUESTIONS, SAMPLES)
                                    | {"spent": spent(folder, written)})
            write_safely(kept, json.dumps(results))
    whole = {seed: stages for seed, stages in results.items() if stages.keys() == STAGES.keys()}
    print(*table(whole), sep="\n")
    draw(whole, top)
    print(escaped(f"\n{top / 'abilities.png'} and {top / 'practice.png'} show it"))


if __name__ == "__main__":
    run(main)
