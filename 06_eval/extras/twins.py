"""Twins of test items, by which to tell what a model has memorised from what it can do.

A twin is the same task with another surface: of a question of GSM8K other numbers, of a problem of
HumanEval-X other names. Whoever can solve an item solves its twin about as often; whoever has seen
the test set has not seen its twins. So the score on the originals minus the score on their twins
says what was memorised (for arithmetic: Zhang et al. 2024, Mirzadeh et al. 2024). Only items that
can be changed safely have a twin, so the originals are to be those same items (--originals).

    python 06_eval/extras/twins.py gsm8k --out twins.jsonl --originals originals.jsonl
    python 06_eval/extras/answers.py --weights FOLDER --data jsonl:twins.jsonl,val=1 --json b.jsonl
    python 06_eval/extras/twins.py compare a.jsonl b.jsonl       # of the originals, of the twins
    python 06_eval/extras/twins.py humaneval FILE.jsonl.gz --out twins.jsonl --seed 0

Reads GSM8K, or problems in Go with HumanEval-X's fields, and files of verdicts by answers.py or
humaneval.py; writes JSON lines in the form that was read. How twins are made: renumbering.py and
renaming.py. Next: bodies.py.
"""

import json
import math
import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run, track, write_safely

import numpy as np

from answers import last_number_is_right, pairs_of, share
from core import CERTAIN
from corpus import find_source
from humaneval import read_problems
from records import read_rows
from renaming import renamed
from renumbering import renumbered


# ---- the difference ----
def memorised(right, twin_right):  # exercise
    """How much better the originals are solved than their twins: (mean difference, half the width
    of its 95% interval). right, twin_right: (N, samples) of 0 and 1, row i of either about
    the same item; N is 2 or more.

    An item's difference is the mean of its row in `right` minus that in `twin_right`. The half
    width is CERTAIN standard errors of the mean of the N differences: CERTAIN * s / sqrt(N), s
    their standard deviation with N - 1 below. Item by item, since an item and its twin are about
    as hard; the intervals of both scores, apart, would hide a difference that is there.
    memorised([[1], [1], [0], [1]], [[1], [0], [0], [0]]) is (0.5, 0.566).
    """
    gains = np.mean(right, axis=1) - np.mean(twin_right, axis=1)
    return gains.mean(), CERTAIN * gains.std(ddof=1) / math.sqrt(len(gains))


def write_rows(path, rows):
    write_safely(path, "".join(json.dumps(row) + "\n" for row in rows))


def verdicts(rows, strict=True):
    """{item: verdicts of its samples} of rows by answers.py or humaneval.py. strict: as they say;
    otherwise by the last number of an answer, in whatever form.
    """
    found = {}
    for i, row in enumerate(rows):
        right = [row["passed"]] if "passed" in row else row["right"] if strict else [
            last_number_is_right(text or "", row["reference"]) for text in row["answers"]]
        found.setdefault(row.get("task_id", i), []).extend(right)
    return found


def compare(path, twin_path):
    """Lines on two files of verdicts, of the originals and of their twins."""
    both = [[row for _, row in read_rows(one) if row.keys() & {"passed", "right"}]  # no heading
            for one in (path, twin_path)]
    for strict in (True, False) if all("answers" in row for row in sum(both, [])) else (True,):
        right, twin_right = (verdicts(rows, strict) for rows in both)
        sizes = {len(one) for one in [*right.values(), *twin_right.values()]}
        if [*right] != [*twin_right] or len(right) < 2 or len(sizes) != 1:
            raise ValueError(f"{path} and {twin_path} hold verdicts on other items, on less than "
                             "2, or on different numbers of samples")
        right, twin_right = (np.array([*found.values()], bool) for found in (right, twin_right))
        gain, side = memorised(right, twin_right)
        yield f"{len(right):,} items" + ("" if strict else ", by the last number of each answer")
        yield f"originals   {share(right)}\ntwins       {share(twin_right)}"
        yield f"difference  {gain:+.1%}, 95% interval {gain - side:+.1%} to {gain + side:+.1%}"


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    gsm8k = commands.add_parser("gsm8k", help="questions with other numbers")
    gsm8k.add_argument("--data", default="gsm8k", help="the source whose held-out questions are "
                       "read, with calculations in << >> (default: gsm8k)")
    gsm8k.add_argument("--data-dir", default="data", help="where downloads are (default: data)")
    gsm8k.add_argument("--originals", metavar="FILE", help="a file for those questions unchanged")
    humaneval = commands.add_parser("humaneval", help="problems in Go with other names")
    humaneval.add_argument("problems", metavar="FILE", help="as humaneval.py reads them")
    for command in (gsm8k, humaneval):
        command.add_argument("--out", metavar="FILE", required=True, help="a file for the twins")
        command.add_argument("--seed", type=int, default=0, help="another one draws other twins")
    files = commands.add_parser("compare", help="the difference between two files of verdicts")
    files.add_argument("originals")
    files.add_argument("twins")
    args = parser.parse_args(argv)
    if args.command == "compare":
        print(*compare(args.originals, args.twins), sep="\n")
        return
    if args.command == "gsm8k":
        items = [{"question": question, "answer": answer} for question, answer in
                 pairs_of(find_source(args.data, args.data_dir), "val", 0)]
        twins = [renumbered(**item, seed=args.seed) for item in track(
            items, "renumbering", len(items), unit=" questions")]
        if args.originals:
            write_rows(args.originals, [item for item, twin in zip(items, twins) if twin])
    else:
        items = [*read_problems(args.problems).values()]
        twins = [renamed(row, args.seed) for row in items]
    write_rows(args.out, [twin for twin in twins if twin])
    print(f"{args.out}: {sum(map(bool, twins)):,} twins of {len(items):,} items")


if __name__ == "__main__":
    run(main)
