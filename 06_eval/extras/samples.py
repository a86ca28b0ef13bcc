"""Samples of a model for humaneval.py: drawn, judged, kept in a file with their verdicts, shown.

The file begins with what its samples are of, and grows by one JSON object a line, so that an
evaluation that was interrupted goes on where it was; a sample depends on its problem, number and
--seed alone, not on what was drawn before. Next: replies.py.
"""

import fcntl
import itertools
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import escaped, has_colours, track

from core import interval
from data import hash_of, slug
from folders import one_line
from harness import divided
from humaneval import STOPS, cut_python, judge_all, summary
from kept import identity
from records import read_rows
from sample import Sampling, start_of, stream

AT_ONCE = 32  # texts
DIM, GREEN, RED, PLAIN = "\033[2m", "\033[32m", "\033[31m", "\033[0m"


class Samples:
    """A file of samples, dicts with task_id, sample (a number), completion, passed and verdict.
    of: what they are samples of. ValueError if the file holds something else, which is left alone,
    or if another command writes to it.
    """

    def __init__(self, path, of):
        self.path, self.rows = Path(path), {}
        heading = json.dumps(of).encode()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(self.path, "a+b")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{path} is being written by another command") from None
        except OSError:  # a file system without locks
            pass
        if not self.file.tell():  # it is new, or empty
            self.file.write(heading + b"\n")
            self.file.flush()
        self.file.seek(0)
        data = self.file.read()
        if (first := data.partition(b"\n")[0]) != heading:
            raise ValueError(f"{path} holds {one_line(first.decode('utf-8', 'replace'))}, not "
                             f"samples of {one_line(heading.decode())}: give another --out")
        self.file.truncate(data.rfind(b"\n") + 1 or len(data))  # the last line may be cut off
        _, *rows = read_rows(self.path)
        for where, row in rows:
            if not isinstance(row, dict) or row.keys() != {"task_id", "sample", "completion",
                                                           "passed", "verdict"}:
                raise ValueError(f"{where} is no sample: give another --out")
            self.rows[row["task_id"], row["sample"]] = row

    def add(self, rows):
        self.rows |= {(row["task_id"], row["sample"]): row for row in rows}
        self.file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        self.file.flush()


def sampling_of(options):
    """How to draw: one sample greedily, several at temperature 0.8 (Chen et al. 2021, section 3.3),
    unless a temperature is given.
    """
    usual = 0.8 if options.samples > 1 else 0.0
    return Sampling(options.temperature if options.temperature >= 0 else usual,
                    top_p=options.top_p, seed=options.seed)


def opening(problem, tokenizer):  # exercise
    """The text that a model is given of a prompt, so that it ends where the tokenizer would end an
    id anyway: the prompt without its last line ends, or the prompt, or the prompt and an indent (a
    tab in Go, 4 spaces in Python). The first of the three is taken whose ids are the beginning of
    those of the prompt, an indent and "return x"; the prompt, if none is.

    For one tokenizer " {\\n\\t" is a single id; after the id of " {" alone, a model that has
    learned from its ids would never write a line end.
    """
    prompt, indent = problem["prompt"], "    " if "entry_point" in problem else "\t"
    whole = tokenizer.encode(f"{prompt}{indent}return x")
    for text in (prompt.rstrip("\n"), prompt, prompt + indent):
        ids = tokenizer.encode(text)
        if whole[:len(ids)] == ids:
            return text
    return prompt


def behind(prompt, start, text):
    """What stands behind a prompt, of a text that a model has written behind opening()."""
    whole = start + text
    return whole[len(prompt):] if whole.startswith(prompt) else text


def ended(problem, start, text):
    """behind(), up to the function's end; in Go with its end, at which the text has stopped; one
    that was cut off gets it, too.
    """
    text = behind(problem["prompt"], start, text)
    return cut_python(text) if "entry_point" in problem else text + "\n}\n"


def complete(model, tokenizer, problems, samplings, n_tokens):
    """A completion of each problem, texts."""
    stops = STOPS if "entry_point" in problems[0] else ("\n}\n",)
    starts = [opening(problem, tokenizer) for problem in problems]
    room = model.config.seq_len - n_tokens  # a longer prompt loses its beginning
    prompts, texts = [start_of(start, tokenizer)[-room:] for start in starts], [""] * len(starts)
    for b, text, _ in stream(model, tokenizer, prompts, n_tokens, samplings, stops):
        texts[b] += text
    return [*map(ended, problems, starts, texts)]


def show(problem, row):
    """A problem, and what was written, in green if it passed."""
    text = escaped(row["completion"].replace("\t", "    ")).rstrip("\n")
    head = escaped(problem["prompt"].replace("\t", "    "))
    if has_colours():
        head, text = f"{DIM}{head}{PLAIN}", f"{GREEN if row['passed'] else RED}{text}{PLAIN}"
    print(f"{head}{text}\n--- {escaped(row['task_id'])}: {row['verdict']}\n")


def of_server(server, options, sampling):
    """As of_model(), of a Hosted."""
    def write(problems, numbers):
        problem, *_ = problems  # all the same
        stops = STOPS if "entry_point" in problem else ("\n}\n",)
        texts = server.texts(problem["prompt"], len(problems), sampling.temperature,
                             sampling.top_p, options.tokens, stops, numbers[0])
        return [text if server.chat else ended(problem, problem["prompt"], text)
                for text in texts]

    what = {"endpoint": server.endpoint, "model": server.model, "chat": server.chat}
    return what, Path(options.data_dir), write


def of_model(problems, options, sampling):
    """(what is asked, a folder for its samples, a function from problems, and a number
    for each to draw by, to completions).
    """
    folder, model, tokenizer, _, step = options.load()
    if options.tokens >= model.config.seq_len:
        raise ValueError(f"tokens is {options.tokens}, which leaves no room for a prompt in a "
                         f"window of {model.config.seq_len}; give fewer --tokens")
    model.eval()
    room = model.config.seq_len - options.tokens
    cut = sum(len(start_of(opening(problem, tokenizer), tokenizer)) > room for problem in problems)
    if cut:
        print(f"{cut} of {len(problems)} prompts have more than the {room} ids for which there is "
              "room, and lose their beginning")

    def write(problems, numbers):
        samplings = [replace(sampling, seed=number) for number in numbers]
        return complete(model, tokenizer, problems, samplings, options.tokens)

    what = {"model": str(folder), "step": step, "weights": identity(model, tokenizer)}
    return what, Path(options.data_dir if options.weights else folder), write


def sample_and_judge(problems, options, server=None):
    """Draw options.samples completions of each problem that the file doesn't hold yet, judge them,
    and print what came out.
    """
    if options.json:
        raise ValueError("--json prints verdicts of --judge and --canonical; samples are kept with "
                         "theirs in a file of JSON Lines, --out")
    sampling = sampling_of(options)
    what, folder, write = (of_server(server, options, sampling) if server else
                           of_model(problems.values(), options, sampling))
    name = Path(options.problems).name.split(".")[0]
    of = what | {"problems": name, "hash": hash_of(problems)[:16], "seed": options.seed,
                 "temperature": sampling.temperature, "top_p": options.top_p}
    of |= {key: getattr(options, key) for key in ("tokens", "seconds", "memory", "unsafe")}
    path = Path(options.out or folder / f"samples-{slug(name)}-{hash_of(of)[:8]}.jsonl")
    kept = Samples(path, of)
    wanted = [(problem, (task, sample), int(hash_of(options.seed, task, sample)[:7], 16))
              for task, problem in problems.items() for sample in range(options.samples)]
    missing = [(problem, key, number) for problem, key, number in wanted if key not in kept.rows]
    parts = divided(missing, AT_ONCE) if not server else [
        [*part] for _, part in itertools.groupby(
            missing, key=lambda one: (one[1][0], one[1][1] // server.at_once))]
    for some in track(parts, "sampling", len(missing), len, " samples"):
        asked, keys, numbers = zip(*some)
        texts = write(asked, numbers)
        rows = [{"task_id": task, "sample": sample, "completion": text, "passed": passed,
                 "verdict": word} for (task, sample), text, (passed, word)
                in zip(keys, texts, judge_all([*zip(asked, texts)], options))]
        kept.add(rows)
    if server:
        print(escaped(server.summary()))
    rows = [kept.rows[key] for _, key, _ in wanted]
    if options.demo:
        for (problem, *_), row in zip(wanted, rows):
            show(problem, row)
    step = "" if what.get("step") is None else f", step {what['step']}"
    how = "greedy" if not sampling.temperature else f"temperature {sampling.temperature:g}"
    print(escaped(f"{what['model']}{step}: {len(problems)} problems of {name}, {options.samples} "
                  f"samples of each, {how}; {path} has them"))
    print(*summary(rows), sep="\n")
    if options.samples == 1:
        low, high = interval(sum(row["passed"] for row in rows), len(rows))
        print(f"95% interval {low:.1%} to {high:.1%}")
