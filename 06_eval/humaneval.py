"""Run the code that a model writes: HumanEval in Python, HumanEval-X and our own problems in Go.

A problem is the head of a function, with a comment that says what it does; the model writes the
body, and a test says whether it is right. What a model writes is hostile until proved otherwise: it
runs in a sandbox, and passes only if the test reports so behind a secret that it can't know. More
samples make the estimate of pass@k better, the probability that one of k is right (see rl.py).

    python 06_eval/humaneval.py --run go --tokens 64 --demo
    python 06_eval/humaneval.py --weights FOLDER --problems HumanEval.jsonl.gz --samples 20
    python 06_eval/humaneval.py --problems FILE --judge ROWS.jsonl --json
    python 06_eval/humaneval.py --canonical humaneval_go.jsonl.gz
    python 06_eval/humaneval.py --endpoint http://127.0.0.1:8000/v1 --model go --no-chat

Reads a run or a Hugging Face folder, and problems, ours without --problems; writes every sample
with its verdict to a file, and goes on there when it is run again. Left to extras/: sandbox.py,
programs.py (build and run), hosted.py (models behind an API), twins.py. Next: 07_scale/scale.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, escaped, option, read_text, run, track
import json
import re
import secrets
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rl import pass_at_k
from sample import RunOptions

OURS = Path(__file__).resolve().parent / "extras/problems"
GO = re.compile(r"""(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))|(?P<space>\s+)|(?P<name>[^\W\d]\w*)
    |(?P<text>"(?:[^"\\\n]|\\.)*"?|`[^`]*`?|'(?:[^'\\\n]|\\.)*'?)
    |(?P<number>\.?\d(?:[eEpP][+-]|[\w.])*)|(?P<other>:=|\.{3}|.)""", re.DOTALL | re.VERBOSE)
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # Chen et al. 2021, section 3.1


# ---- problems ----
def read_problems(path):
    """The rows of JSON Lines as HumanEval and HumanEval-X have them, perhaps compressed, or of a
    folder of Go files such as extras/problems: {task_id: row}. ValueError for anything else.
    """
    from records import read_rows
    rows, path = {}, Path(path)
    for where, row in of_folder(path) if path.is_dir() else read_rows(path):
        if not (isinstance(row, dict) and all(isinstance(value, str) for value in row.values())
                and row.keys() >= {"task_id", "prompt", "test"}):
            raise ValueError(f"{where} is no object of texts, among them task_id, prompt and test")
        if row["task_id"] in rows:
            raise ValueError(f"{where} has the task_id {row['task_id']}, which is taken")
        rows[row["task_id"]] = row
    if not rows:
        raise ValueError(f"{path} holds no problems")
    return rows


def of_folder(folder):
    """(where, row) of each problem: NAME.go, whose last function is the task, and NAME_test.go."""
    for file in sorted(folder.glob("[0-9]*.go")):
        if not file.stem.endswith("_test"):
            text = read_text(file)
            at = text.find("\n", text.rfind("\nfunc ") + 1) + 1  # the end of its last head
            yield file, {"task_id": file.stem, "prompt": text[:at], "canonical_solution": text[at:],
                         "test": read_text(file.with_name(f"{file.stem}_test.go"))}


# ---- Go ----
def tokens(code):
    """Yield (kind, text) for all of a Go text, by the groups of GO."""
    return ((found.lastgroup, found[0]) for found in GO.finditer(code))


def cut_go(completion):  # exercise
    """A completion up to where its function ends: the function's { stands in the prompt, so at the
    first } that closes more than the completion has opened. Functions that follow at once are kept,
    since the first may call them; anything else, and a function that isn't finished, is cut off.
    Braces count in code only, not in comments, strings or characters; a { behind `interface` or
    `struct` in the head of a function does not begin its body. A completion that never ends its
    function is kept as it is. cut_go("\\treturn 1 // }\\n}\\nvar x int\\n") is all up to "}\\n}".
    """
    depth, at, end, head, before = 1, 0, 0, False, ""  # head: that of a function that follows
    for kind, text in tokens(completion):
        at += len(text)
        if kind in ("comment", "space"):
            continue
        if not depth and not head:  # behind a function
            if text != "func":
                break
            head = True
        if text in ("(", "[", "{"):
            if text == "{" and not depth and before not in ("interface", "struct"):
                head = False
            depth += 1
        elif text in (")", "]", "}"):
            depth -= 1
            if not depth and not head:
                end = at
        before = text
    return completion[:end] if end else completion


# ---- Python ----
def cut_python(completion):  # exercise
    """A completion up to the first of STOPS, strings that begin with a line end; all of it if it
    has none. cut_python("    return 1\\n\\ndef f():\\n") == "    return 1\\n"
    """
    return completion[:min((at for stop in STOPS if (at := completion.find(stop)) >= 0),
                           default=len(completion))]


# ---- the judge ----
def verdict(built, ended, secret):  # exercise
    """One word on a program. built: the Outcome (sandbox.py) of compiling it, None for a language
    that isn't compiled; ended: that of running it, None if it can't be built; secret: what is not
    known to the program, only to the test that watches it.

    - "compile error" if it was built, but not to an end with exit code 0;
    - "timeout" or "memory", its kind, if that ended it;
    - the word behind the secret, if it said the secret first (ended.said, bytes);
    - otherwise, whatever was printed, "ended early" after exit code 0, else "crash".
    """
    if built and (built.kind != "ended" or built.code):
        return "compile error"
    if ended.kind != "ended":
        return ended.kind
    said = ended.said.decode("latin-1")
    if said.startswith(secret):
        return said.removeprefix(secret)
    return "crash" if ended.code else "ended early"


def judge(problem, completion, options):
    """(passed, verdict) of a completion of a problem, run with its test in a sandbox."""
    from programs import go_build, go_files, go_program, go_run, python_run
    from sandbox import Limits
    secret, limits = secrets.token_hex(16), Limits(options.seconds, options.memory << 20)
    with tempfile.TemporaryDirectory() as folder:
        if "entry_point" in problem:
            built, ended = None, python_run(folder, problem["prompt"] + completion, problem, secret,
                                            limits, options.unsafe)
        else:  # what compiling takes is no time of the program
            work, ended = go_files(folder, *go_program(problem, cut_go(completion))), None
            built = go_build(work, options.data_dir, options.unsafe)
            if built.kind == "ended" and not built.code:
                ended = go_run(work, secret, limits, options.unsafe)
    word = verdict(built, ended, secret)
    return word == "passed", word


def judge_all(pairs, options):
    """Yield the judge()ment of each (problem, completion), in order, by all cores."""
    from sandbox import stop
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield from pool.map(lambda pair: judge(*pair, options), pairs)
        finally:  # after Ctrl-C those that run now aren't waited for
            stop()


# ---- the command line ----
def summary(rows):
    """Lines on judged samples, dicts of task_id, passed and verdict: how many have which verdict,
    and pass@k for those k of which there are as many samples of every problem.
    """
    groups = {}
    for row in rows:
        groups.setdefault(row["task_id"], []).append(row["passed"])
    words = Counter(row["verdict"] for row in rows)
    yield ", ".join(f"{word}: {n}" for word, n in words.most_common())
    for k in (k for k in (1, 5, 10, 25, 50, 100) if k <= min(map(len, groups.values()))):
        scores = [pass_at_k(len(group), sum(group), k) for group in groups.values()]
        yield f"pass@{k:<4}{sum(scores) / len(scores):.1%}"


@dataclass
class Options(RunOptions):
    weights: str = option("", "a Hugging Face folder, read instead of a run")
    problems: str = option(str(OURS), "JSON Lines as HumanEval's, or a folder of Go files")
    judge: str = option("", "a file of {task_id, completion}: judge these instead")
    json: bool = option(False, "print verdicts as JSON, an object a row")
    canonical: str = option("", "judge the solutions of these problems instead")
    demo: bool = option(False, "show what is written")
    samples: int = option(1, "completions of each problem", least=1)
    temperature: float = option(-1.0, "below 0: 0 (greedy) for one sample, 0.8 for several")
    top_p: float = option(0.95, "draw from the likeliest that add up to this", least=1e-30, most=1)
    tokens: int = option(256, "the most ids of a completion", least=1)
    seed: int = option(0, "another one draws other completions", least=0)
    seconds: float = option(10.0, "that a program may run", least=0.1)
    memory: int = option(1024, "megabytes that it may use", least=16)
    unsafe: bool = option(False, "run programs as this user, without a sandbox")
    out: str = option("", "the file of samples (default: beside the run's checkpoints)")
    data_dir: str = option("data", "where Go's build cache is kept, and other models' samples")


def completions_of(path, problems):
    """[(problem, completion)] of JSON Lines of {task_id, completion}. ValueError for other rows."""
    from records import read_rows
    pairs = []
    for where, row in read_rows(path):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str)
                                                for key in ("task_id", "completion")):
            raise ValueError(f"{where} is no object of a task_id and a completion, texts")
        if row["task_id"] not in problems:
            raise ValueError(f"{where} has task_id {row['task_id']}, which no problem has")
        pairs.append((problems[row["task_id"]], row["completion"]))
    if not pairs:
        raise ValueError(f"{path} is empty")
    return pairs


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    from hosted import Hosted, hosted_of
    add_options(parser, Hosted)
    given = vars(parser.parse_args(argv))
    server, options = hosted_of(given), Options(**given)
    if options.judge and options.canonical:
        raise ValueError("--judge and --canonical are two things: give one of them")
    problems = read_problems(options.canonical or options.problems)
    pairs = completions_of(options.judge, problems) if options.judge else []
    from programs import check
    check(problems.values(), options.data_dir, options.unsafe)
    if options.canonical:  # cut as samples are: Go's by judge()
        pairs = [(row, text if "entry_point" not in row else cut_python(text)) for row in
                 problems.values() for text in [row.get("canonical_solution", "")]]
    elif not options.judge:
        from samples import sample_and_judge
        sample_and_judge(problems, options, server)
        return
    rows = []
    judged = track(judge_all(pairs, options), "judging", len(pairs), unit=" programs")
    for (problem, _), (passed, word) in zip(pairs, judged):
        rows.append({"task_id": problem["task_id"], "passed": passed, "verdict": word})
        print(json.dumps(rows[-1]) if options.json else escaped(f"{problem['task_id']:<20} {word}"),
              flush=True)
    if not options.json:
        print(*summary(rows), sep="\n")


if __name__ == "__main__":
    run(main)
