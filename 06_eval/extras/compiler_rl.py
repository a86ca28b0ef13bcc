"""Reinforcement learning with a compiler as the judge: does it make a small model's Go better?

The model is a base model: it reads the head of a function and writes the body. The compiler says
how far each body gets: it parses (gofmt -e), it compiles (go build), nothing in it is suspicious
(go vet). rl.py's step then makes bodies that get far more likely. No test has to be passed, so the
reward can be earned without any work: `return nil` compiles. How often that happens is counted
beside it, and a second run, strict, rewards no body that is trivial or ignores its parameters. The
rival of each is best-of-n, as in abilities.py: fine-tuning on the bodies that earned the full
reward among as many ids, written by the base model, with as many FLOPs of training.

    python 06_eval/extras/compiler_rl.py --run go --data jsonl:FILE
    python 06_eval/extras/compiler_rl.py --run go --data "folder:$(go env GOROOT)/src,include=*.go"

Heads come from the Go files of --data; a fifth of its repositories, or folders, is held out, and so
are our own problems, the only ones that say whether a body is right. Writes runs/compiler/, a run
for each stage, results, compiler.png; the same command goes on. Next: 07_scale/scale.py.
"""

import dataclasses
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import (Parser, add_options, check_options, escaped, holding, option, read_text, run,
                     track, write_safely)

import numpy as np

import rl
from abilities import spent, with_interval
from bodies import FACTS, LONGEST, Body, Compiler, asked, facts, facts_of, find_heads
from core import interval
from curves import COLOURS, picture
from data import token_bytes
from humaneval import OURS, cut_go, judge_all, read_problems
from metrics import read_metrics
from report import draw_smoothed
from rl import as_arrays, write_answers
from runs import load_run, newest_run, read_config, run_data, write_config
from sandbox import trouble
from train import evaluate, train

STAGES = {"base": "", "rl": "", "rival": "rl", "strict": "", "strict-rival": "strict"}  # rival of
PRACTICE = dict(  # what a run of practice changes in the config of its base
    batch_size=128, micro_batch=32, group=16, answer_tokens=LONGEST, temperature=1.0,
    optimizer="adamw", lr=3e-4, beta2=0.99, weight_decay=0.0, schedule="wsd", warmup=5,
    cooldown=0.8, save_every=20, keep=1, eval_tokens=10_000, last_eval_tokens=10_000)


# ---- batches ----
def reward(fact, strict=False):
    """A third for each of: it parses, it compiles, vet finds nothing. Each implies those before it,
    so no body that doesn't compile earns as much as one that does; most of a small model's don't,
    and a group in which none does can still learn to parse. strict: nothing for a trivial body, or
    for one that ignores its parameters.
    """
    if strict and (fact["trivial"] or fact["ignores"]):
        return 0.0
    return (fact["parses"] + fact["compiles"] + fact["vets"]) / 3


class Batches(rl.Batches):
    """rl.Batches of bodies, whose questions are (ids, row). right: [(ids, ids of a body)] of those
    that earned the reward; written: ids of bodies, of which `most` count.
    """

    def __init__(self, config, data, model, rows, compiler, strict=False, most=None):
        self.config, self.model, self.tokenizer = config, model, data.tokenizer
        self.questions = [(asked(row, data.tokenizer), row) for row in rows]
        self.compiler, self.strict = compiler, strict
        self.rank, self.world, self.n, self.tokens = 0, 1, 0, 0
        self.measures, self.tested, self.seen, self.right = {}, {}, {}, []
        self.written, self.most = 0, most

    def answers(self, questions, seeds):
        config, rows = self.config, [row for _, row in questions]
        groups = write_answers(self.model, [ids for ids, _ in questions], self.tokenizer,
                               config.group, config.answer_tokens, seeds, config.temperature, Body)
        began = time.perf_counter()
        found = facts(rows, groups, self.compiler)
        self.seen = {"judging": time.perf_counter() - began}  # seconds of the step
        self.seen |= {name: float(np.mean([[one[name] for one in group] for group in found]))
                      for name in FACTS}
        rewards = np.array([[reward(one, self.strict) for one in group] for group in found])
        for (ids, _), group, values in zip(questions, groups, rewards):
            for body, value in zip(group, values):
                if self.most is not None and self.written < self.most:
                    self.written += len(body.ids)
                    self.right += [(ids, body.ids)] * int(value == 1)
        return groups, rewards

    def __next__(self):
        batch = super().__next__()
        self.measures |= self.seen
        return batch

    evaluate = staticmethod(evaluate)  # of any text, not of answers


class Kept:
    """Endless batches (inputs, targets) of bodies to learn, rows (ids, ids of the body): in each
    of config.steps as many that after the last one `most` ids have been read.
    """

    def __init__(self, config, rows, most):
        self.config, self.rows, self.most = config, rows, most
        self.step, self.n, self.tokens = 0, 0, 0

    def __next__(self):
        rows, self.step = [], self.step + 1
        while not rows or self.tokens < self.most * self.step / self.config.steps:
            epoch, place = divmod(self.n, len(self.rows))
            order = np.random.default_rng((self.config.seed, epoch, 2)).permutation(len(self.rows))
            ids, body = self.rows[order[place]]
            rows.append((ids, SimpleNamespace(ids=body, own=[1] * len(body), logps=0), 1.0))
            self.tokens += len(ids) + len(body)
            self.n += 1
        return as_arrays(sorted(rows, key=lambda row: len(row[0] + row[1].ids)))[:2]

    def epochs(self):
        return [self.n / len(self.rows)]

    def state_dict(self):
        return {"step": self.step, "n": self.n, "tokens": self.tokens}

    def load_state_dict(self, state):
        self.step, self.n, self.tokens = state["step"], state["n"], state["tokens"]


def with_batches(config, make, **changes):
    """A run's config, changed, whose batches are make(config, data, model)."""
    class Ours(type(config)):
        def batches(self, data, model=None, rank=0, world=1):
            return make(self, data, model)
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return Ours(**given | changes)


# ---- stages ----
def right_bodies(base, config, rows, compiler, strict, ids):
    """{"written": ids, "rows": [(ids, ids of a body)]}: what earned the reward among the bodies
    that the base model writes, until it has written so many ids; the heads, and the random numbers
    for each, come in the order in which rl has them.
    """
    model, tokenizer, _, _ = load_run(base)
    batches = Batches(config, SimpleNamespace(tokenizer=tokenizer), model, rows, compiler, strict,
                      ids)
    while batches.written < ids:
        print(f"best of n: {batches.written:,} of {ids:,} ids written", flush=True)
        next(batches)
    if not batches.right:
        raise ValueError(f"no body of {ids:,} ids earned the full reward, so there is nothing to "
                         "learn from; --stages leaves this one out")
    return {"written": batches.written, "rows": batches.right}


def practised(stage, base, rows, compiler, options):
    """The folder of a stage's run, trained to its end, and what it has cost; None if stopped."""
    top, strict, written = Path(options.folder), stage.startswith("strict"), None
    folder, of = top / f"{stage}-{options.seed}", STAGES[stage]
    changes = PRACTICE | {"steps": options.steps, "eval_every": options.steps, "init": str(base),
                          "lr": options.lr, "seed": options.seed}

    def make(config, data, model):
        return Batches(config, data, model, rows, compiler, strict)
    config = with_batches(read_config(base), make, **changes)
    if of:
        cost = spent(top / f"{of}-{options.seed}")
        kept = top / f"{stage}-{options.seed}.json"
        if not kept.exists():
            write_safely(kept, json.dumps(right_bodies(base, config, rows, compiler, strict,
                                                       cost["written"])))
        right = json.loads(read_text(kept))
        written = right["written"]
        print(f"{len(right['rows']):,} bodies earned the full reward, of {written:,} ids written")
        config = with_batches(config, lambda config, data, model: Kept(
            config, right["rows"], cost["read"]), **changes)
    print(f"\n======== {folder.name} ========", flush=True)
    with holding(folder, "is being trained"):
        data = run_data(base)
        write_config(folder, config, data)
        if train(config, folder, data) is None:
            return None
    return folder, spent(folder, written)


def measured(folder, rows, options, compiler, label):
    """What a run writes after each head: {"facts": [{fact: share of its samples}], "bits": bits per
    byte, "bodies": the commonest}. Of problems that have a test also the fact "passes".
    """
    model, tokenizer, config, _ = load_run(folder)
    found, bodies, n = [], Counter(), options.samples
    for i in track(range(0, len(rows), 32), f"{label}: writing", -(-len(rows) // 32)):
        some = rows[i:i + 32]
        prompts = [asked(row, tokenizer)[-(config.seq_len - LONGEST):] for row in some]
        groups = write_answers(model, prompts, tokenizer, n, LONGEST, [
            (options.seed, 1, i + j) for j in range(len(some))], kind=Body)
        for row, group, each in zip(some, groups, facts(some, groups, compiler)):
            found.append({name: sum(one[name] for one in each) / n for name in FACTS})
            found[-1]["ids"] = sum(len(body.ids) for body in group) / n
            found[-1]["one of them honest"] = float(any(one["honest"] for one in each))
            bodies.update(" ".join(cut_go(body.completion(row)).split()) for body in group)
            found[-1]["try"] = [body.completion(row) for body, one in zip(group, each)
                                if one["compiles"] and "func Test" in row["test"]]
    pairs = [(k, text) for k, one in enumerate(found) for text in dict.fromkeys(one["try"])]
    judged = track(judge_all([(rows[k], text) for k, text in pairs], options),
                   f"{label}: judging", len(pairs))
    passed = {pair for pair, (right, _) in zip(pairs, judged) if right}
    for k, one in enumerate(found):
        one["passes"] = sum((k, text) in passed for text in one.pop("try")) / n
    data = run_data(folder)
    bits = evaluate(model, data.val, token_bytes(tokenizer), config, options.bits_tokens)
    return {"facts": found, "bits": bits, "bodies": bodies.most_common(5)}


# ---- results ----
def share(each):
    """A cell: the mean in percent of numbers from 0 to 1, one for each head, with its 95% interval.
    All bodies of a head are a single draw, which makes the interval rather too wide.
    """
    low, high = interval(sum(each), len(each))
    return f"{100 * sum(each) / len(each):.1f} ({100 * low:.1f}-{100 * high:.1f})"


def of_heads(title, results, rows, part, names):
    """Yield a table's lines on the heads `rows`, which are `part` of those that were measured."""
    def line(label, cells):
        return f"{label:22}" + "".join(f"{cell:>19}" for cell in cells)
    people = [facts_of(row, row["canonical_solution"], 3) for row in rows]
    people = {name: f"{100 * np.mean([one[name] for one in people]):.1f}" for name in FACTS[3:]}
    yield "\n" + line(f"{len(rows)} {title}", [*results, "people"])
    for name in names:
        each = {stage: np.array([one[name] for one in row["facts"][part]])
                for stage, row in results.items()}
        yield line(f"{name}, %", [*map(share, each.values()), people.get(name, "")])
        if "base" in each:
            gains = [with_interval(100 * (values - each["base"])) for values in each.values()]
            yield line("  more than base", [f"{mean:+.1f} +- {half:.1f}" for mean, half in gains])
    yield line("ids in a body", [f"{np.mean([one['ids'] for one in row['facts'][part]]):.1f}"
                                 for row in results.values()])


def table(results, held_out, problems):
    """Yield lines: each fact by stage, of heads held out and of problems; what the stages cost."""
    n, names = len(held_out), [*FACTS, "one of them honest"]
    yield from of_heads("heads held out", results, held_out, slice(n), names)
    yield from of_heads("problems", results, problems, slice(n, None), [*names, "passes"])
    yield f"\n{'cost':20}{'ids written':>16}{'learned from':>16}{'FLOPs':>16}{'bits per byte':>16}"
    for stage, row in results.items():
        cost = row.get("spent", {"written": 0, "read": 0, "flops": 0})
        yield (f"{stage:20}{cost['written']:16,}{cost['read']:16,}{cost['flops']:16.4g}"
               f"{row['bits']:16.3f}")
    yield "\nthe commonest bodies of each stage, and how many there are"
    for stage, row in results.items():
        yield f"{stage:20}" + "; ".join(f"{n} x {escaped(text)[:60]}" for text, n in row["bodies"])


def draw(results, top, seed):
    """compiler.png: what rl and strict go through, step by step."""
    figure, panels = picture(11, 3, 3)
    names = [stage for stage in ("rl", "strict") if stage in results]
    runs = [(colour, read_metrics(top / f"{stage}-{seed}" / "metrics.jsonl"))
            for stage, colour in zip(names, COLOURS)]
    for axes, (key, title) in zip(panels, {
            "compiles": "share that compiles", "honest": "share that compiles and does something",
            "answer_length": "ids in a body"}.items()):
        draw_smoothed(axes, runs, "step", key)
        axes.set(title=title, xlabel="step")
    for name, (colour, _) in zip(names, runs):
        panels[0].plot([], [], color=colour, label=name)
    panels[0].legend(frameon=False)
    figure.savefig(top / "compiler.png", dpi=120)


@dataclass
class Options:
    run: str = option("", "a run's name; without one, the run that saved last")
    runs_dir: str = option("runs", "where runs are kept")
    data: tuple = option((), "sources of Go files, from which heads of functions are taken")
    problems: str = option(str(OURS), "problems with tests, as humaneval.py reads them")
    folder: str = option("runs/compiler", "where all is written")
    stages: tuple = option((*STAGES,), "what is made and compared")
    steps: int = option(60, "of rl, and of its rival", least=1)
    lr: float = option(PRACTICE["lr"], "peak learning rate of all", least=1e-15)
    samples: int = option(8, "bodies for each head by which a stage is measured", least=1)
    heads: int = option(200, "how many heads are held out at most", least=1)
    bits_tokens: int = option(100_000, "tokens of validation text that are measured", least=2)
    seed: int = option(0, "another one practises and measures with other bodies", least=0)
    seconds: float = option(10.0, "that a program may run", least=0.1)
    memory: int = option(1024, "megabytes that it may use", least=16)
    unsafe: bool = option(False, "compile and run programs as this user, without a sandbox")
    data_dir: str = option("data", "where Go's build cache is kept")
    __post_init__ = check_options


def heads_of(base, top, options, compiler):
    """find_heads(), kept in the folder `top`, which belongs to one set of options."""
    names = ("data", "problems", "steps", "lr", "samples", "heads", "bits_tokens")
    own = {"run": str(base)} | {name: getattr(options, name) for name in names}
    own, path = json.loads(json.dumps(own)), top / "heads.json"
    if not path.exists():
        _, tokenizer, config, _ = load_run(base)
        rows = find_heads(options.data, options.data_dir, tokenizer, config.seq_len, compiler)
        top.mkdir(parents=True, exist_ok=True)
        write_safely(path, json.dumps({"options": own, "rows": rows}))
    found = json.loads(read_text(path))
    if other := [name for name in own if own[name] != found["options"][name]]:
        raise ValueError(f"{top} was made with another {' and '.join(other)}: give another "
                         "--folder")
    return found["rows"]


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    if unknown := {*options.stages} - {*STAGES}:
        raise ValueError(f"stages are {', '.join(STAGES)}; not {', '.join(sorted(unknown))}")
    if not options.unsafe and (why := trouble()):
        raise ValueError(f"{why}; --unsafe runs programs all the same, as this user")
    base, top = newest_run(options.runs_dir, options.run), Path(options.folder)
    compiler = Compiler(options.data_dir, options.unsafe)
    rows, held_out = heads_of(base, top, options, compiler)
    kept = top / f"results-{options.seed}.json"
    held_out = held_out[:options.heads]
    problems = [*read_problems(options.problems).values()]
    print(f"heads      {len(rows):,} to practise on, {len(held_out):,} held out; "
          f"{len(problems):,} problems")
    results = json.loads(read_text(kept)) if kept.exists() else {}
    for stage in [stage for stage in STAGES if stage in options.stages and stage not in results]:
        folder, cost = base, {}
        if stage != "base":
            found = practised(stage, base, rows, compiler, options)
            if not found:
                print("\nstopped; the same command goes on from here")
                return
            folder, cost = found[0], {"spent": found[1]}
        results[stage] = measured(folder, held_out + problems, options, compiler, stage) | cost
        write_safely(kept, json.dumps(results))
    print(*table(results, held_out, problems), sep="\n")
    draw(results, top, options.seed)
    print(escaped(f"\n{top / 'compiler.png'} shows it"))


if __name__ == "__main__":
    run(main)
