"""Small tasks with one right answer, to watch what a tiny model learns at each stage of training.

Adding, copying, reversing, sorting, counting, dates, look-ups, two steps, a calculator: each task
has a question, its answer, and three forms. Prose is a sentence for pretraining, in one of several
wordings. Chat is for fine-tuning: brief working, from level 2 on where it helps, then a last line
"#### ANSWER", as in GSM8K. Pairs, for dpo.py, are chats with the right and with a wrong last line.
Levels 1 to 3 are longer and longer. Whether a task is for training or validation is decided by its
question, so no question is in both, whatever its form, level and seed. Within a split, questions
may repeat.

    python 02_data/extras/tasks.py --level 2 --only addition+dates -n 3     # some of each ability
    python 04_train/train.py --data tasks,form=chat,level=2,n=20000         # a source, as any other

Reads and writes nothing. Next: duplicates.py.
"""

import itertools
import os
import re
import sys
from calendar import month_name, monthrange
from dataclasses import dataclass
from datetime import date, timedelta

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, file_hash, run

import numpy as np

from corpus import Source
from data import is_validation
from mistakes import nearest
from records import with_calculator

LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAMES = "Ann Bob Cy Dan Eve Fay Gus Ida Jo Kim".split()
THINGS = "cups figs hats keys nuts pens".split()
FORMS = "prose", "chat", "pairs"


# ---- a task ----
def split_of(ability, question):  # exercise
    """The split that a question belongs to: "val" for about one in ten, else "train".

    Decided by data.is_validation(), with a share of 0.1, for the text "ABILITY: QUESTION"; so by
    the question alone: one that is drawn again, by any number or seed, is in the same split.
    """
    return "val" if is_validation(f"{ability}: {question}", 0.1) else "train"


@dataclass(frozen=True)
class Task:
    """working: lines that come before the answer, or ""; <<6*7=42>> in it is a call of a calculator
    and what that says. prose: a text with both question and answer, without working.
    """

    ability: str
    question: str
    answer: str
    working: str
    prose: str

    @property
    def split(self):
        return split_of(self.ability, self.question)

    @property
    def text(self):
        """What an assistant is to write, with calculator calls as GSM8K spells them."""
        return self.working + "\n" * bool(self.working) + f"#### {self.answer}"

    @property
    def solution(self):
        """The same as the parts of a message."""
        return with_calculator(self.text)

    @property
    def wrong(self):
        """The text, but with a wrong answer behind the right working. It looks like a slip, and is
        as long as the right one: a number's last digit is another one or, where there is none, a
        word's last letter. The same whenever the question is asked.
        """
        rng, kind = np.random.default_rng([*self.question.encode()]), r"\d\b"
        ends = [*re.finditer(kind, self.answer)] or [*re.finditer(r"[a-z]\b", self.answer)]
        end = ends[rng.integers(len(ends))]
        others = ("0123456789" if end[0].isdigit() else LETTERS).replace(end[0], "")
        wrong = (self.answer[:end.start()] + others[rng.integers(len(others))]
                 + self.answer[end.end():])
        return self.text.removesuffix(self.answer) + wrong

    def record(self, form):
        """As a document of the form "prose" or "chat", or, of the form "pairs", as two."""
        if form == "prose":
            return {"text": self.prose, "split": self.split}
        chat, rejected = ([{"role": "user", "content": self.question},
                           {"role": "assistant", "content": parts}]
                          for parts in (self.solution, with_calculator(self.wrong)))
        pair = {"rejected": rejected} if form == "pairs" else {}
        return {"messages": chat, "split": self.split} | pair


# ---- abilities: (rng, level) -> question, answer, working, prose in several wordings ----
def column_sums(a, b):  # exercise
    """The working of a + b, as done on paper: digit by digit, from the right; a line for each place
    of the longer number, joined by "\\n".

    A line adds the digit of a, that of b (0 where a number has no digit left) and, only if the sum
    in the line before was 10 or more, a carry of 1: column_sums(57, 8) == "7+8=15\\n5+0+1=6".
    A carry that is left at the end has no line of its own: column_sums(9, 1) == "9+1=10".
    """
    lines, carry = [], 0
    for place in range(max(len(str(a)), len(str(b)))):
        digits = [a // 10**place % 10, b // 10**place % 10] + [1] * carry
        lines.append(f"{'+'.join(map(str, digits))}={sum(digits)}")
        carry = sum(digits) // 10
    return "\n".join(lines)


def addition(rng, level):
    a, b = rng.integers(0, 10 ** (level + 1), 2).tolist()
    return (f"What is {a} + {b}?", a + b, column_sums(a, b) if level > 1 else "",
            [f"{a} + {b} = {a + b}.", f"{a} plus {b} is {a + b}.",
             f"Adding {b} to {a} gives {a + b}."])


def copying(rng, level):
    pairs = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    words = " ".join("".join(rng.choice(pairs, 2)) for _ in range((2, 3, 5)[level - 1]))
    return (f"Copy these words: {words}", words, "",
            [f"The words {words} once more: {words}.", f"He said {words}, and she said {words}.",
             f"First {words}, then again {words}."])


def reversing(rng, level):
    letters = rng.choice([*LETTERS], (4, 6, 9)[level - 1]).tolist()
    there, back = " ".join(letters), " ".join(letters[::-1])
    return (f"Write {there} backwards.", back, "",
            [f"{there} backwards is {back}.", f"Read from the end, {there} becomes {back}.",
             f"The reverse of {there} is {back}."])


def sorting(rng, level):
    numbers = rng.integers(0, 100, (3, 5, 7)[level - 1]).tolist()
    given, ordered = (" ".join(map(str, some)) for some in (numbers, sorted(numbers)))
    return (f"Sort {given} from small to large.", ordered, "",
            [f"{given} sorted is {ordered}.", f"The numbers {given} in order: {ordered}.",
             f"From small to large, {given} become {ordered}."])


def counting(rng, level):
    """The working counts along the letters: b0 a1 c1 a2."""
    n = (5, 8, 12)[level - 1]
    letter, *others = rng.permutation([*LETTERS])[:5].tolist()
    count = int(rng.integers(n))
    letters = rng.permutation([letter] * count + rng.choice(others, n - count).tolist()).tolist()
    row = " ".join(letters)
    along = " ".join(f"{x}{letters[:i].count(letter)}" for i, x in enumerate(letters, 1))
    return (f"How often is {letter} in {row}?", count, along if level > 1 else "",
            [f"In {row} the count of {letter} is {count}.",
             f"The number of {letter} in {row} is {count}.",
             f"Counting {letter} in {row} gives {count}."])


def dates(rng, level):
    """The day after a date, or some days later; at level 3 several months may end in between."""
    year, month = int(rng.integers(2000, 2100)), int(rng.integers(1, 13))
    first = date(year, month, min(int(rng.integers(1, 41)), monthrange(year, month)[1]))
    days = int(rng.integers(min(level, 2), (2, 29, 100)[level - 1]))
    now, then = (f"{d.day} {month_name[d.month]} {d.year}"
                 for d in (first, first + timedelta(days)))
    total = first.day + days
    working = [f"{first.day} + {days} = {total}"]
    while total > (last := monthrange(year, month)[1]):
        working.append(f"{month_name[month]} has {last}: {total} - {last} = {total - last}")
        total, year, month = total - last, year + month // 12, month % 12 + 1
    later = "the next day" if level == 1 else f"{days} days later"
    return (f"Today is {now}. Which date is {later}?", then, "\n".join(working) * (level > 1),
            [f"Today is {now}; {later} it is {then}.", f"It was {now}, and {later} {then}.",
             f"From {now}, {later} is {then}."])


def facts(rng, level, most):
    """Who has how many of what, fewer than `most`: the text; name, number and thing of one."""
    n = (2, 3, 5)[level - 1]
    names, things = rng.permutation(NAMES)[:n].tolist(), rng.permutation(THINGS)[:n].tolist()
    numbers = rng.integers(2, most, n).tolist()
    rows = [f"{name} {k} {thing}" for name, k, thing in zip(names, numbers, things)]
    i = int(rng.integers(n))
    return ", ".join(rows).replace(" ", " has ", 1) + ".", names[i], numbers[i], things[i]


def lookup(rng, level):
    text, name, k, thing = facts(rng, level, 100)
    return (f"{text} How many {thing} does {name} have?", k, "",
            [f"{text} So {name} has {k} {thing}.", f"{text} The {thing} of {name} are {k}.",
             f"{text} There are {k} {thing}, and {name} has them."])


def two_steps(rng, level):
    """A look-up, then an addition."""
    most = (20, 50, 100)[level - 1]
    text, name, k, thing = facts(rng, level, most)
    more = int(rng.integers(2, most))
    return (f"{text} {name} gets {more} more. How many now?", k + more,
            f"{name} {k}\n{k} + {more} = {k + more}",
            [f"{text} {name} gets {more} more and now has {k + more} {thing}.",
             f"{text} With {more} more, {name} has {k + more}.",
             f"{text} Then {name}, who gets {more}, has {k + more} {thing}."])


def calculator(rng, level):
    """Too hard to do in the head: the answer calls a calculator."""
    a, b = rng.integers(10**level, 10 ** (level + 1), 2).tolist()
    return (f"What is {a} * {b}?", a * b, f"<<{a}*{b}={a * b}>>",
            [f"{a} * {b} = {a * b}.", f"{a} times {b} is {a * b}.",
             f"Multiplying {a} by {b} gives {a * b}."])


ABILITIES = {make.__name__: make for make in (
    addition, copying, reversing, sorting, counting, dates, lookup, two_steps, calculator)}


# ---- tasks by number, and as a source ----
def draw(ability, number, level=1, seed=0):
    """Task `number`, 0, 1, ..., of an ability: the same Task whenever it is drawn."""
    rng = np.random.default_rng(([*ABILITIES].index(ability), level, seed, number))
    question, answer, working, prose = ABILITIES[ability](rng, level)
    prose.append(f"Question: {question}\nAnswer: {answer}")
    return Task(ability, question, str(answer), working, prose[rng.integers(len(prose))])


def draws(abilities, level=1, seed=0):
    """Tasks without end, the abilities in turn."""
    for number in itertools.count():
        yield from (draw(ability, number, level, seed) for ability in abilities)


def examples(abilities, split, level=1, seed=0):
    """The tasks of one split, "train" or "val", without end."""
    return (task for task in draws(abilities, level, seed) if task.split == split)


def chosen(only):
    """"addition+dates" -> ["addition", "dates"]. ValueError if one is no ability."""
    names = [*dict.fromkeys(only.split("+"))]
    for name in names:
        if name not in ABILITIES:
            raise ValueError(f"there is no ability {name!r}; {nearest(name, ABILITIES)}several are "
                             "joined by +")
    return names


def whole(key, text, least, most=2**31 - 1):
    """The whole number that an option has as text. ValueError if it is none, or out of range."""
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ValueError(f"{key} is {text!r}, but must be a whole number from {least} to {most}")
    return int(text)


def open_tasks(n=("20000",), form=("prose",), only=("+".join(ABILITIES),), level=("1",),
               seed=("0",)):
    """The Source of n tasks. Options are as behind a source's name: lists of texts, of which the
    last counts. ValueError for a wrong one.
    """
    count, names = whole("n", n[-1], 1), chosen(only[-1])
    level, seed, form = whole("level", level[-1], 1, 3), whole("seed", seed[-1], 0), form[-1]
    if form not in FORMS:
        raise ValueError(f"form is {form!r}, but must be {', '.join(FORMS[:-1])} or {FORMS[-1]}")

    def records():
        return (task.record(form) for task in itertools.islice(draws(names, level, seed), count))

    return Source("tasks", records, "official", file_hash(__file__))


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--level", default="1", help="1, 2 or 3: how long, how many digits (default: 1)")
    add("--only", default="+".join(ABILITIES), metavar="A+B", help="abilities (default: all)")
    add("--form", choices=FORMS, help="only this form (default: prose, chat)")
    add("-n", default="2", help="tasks of each ability (default: 2)")
    add("--seed", default="0", help="another one draws other tasks (default: 0)")
    args = parser.parse_args(argv)
    level, n = whole("level", args.level, 1, 3), whole("n", args.n, 1)
    seed = whole("seed", args.seed, 0)
    for ability in chosen(args.only):
        print(f"{ability}, level {level}")
        for task in (draw(ability, number, level, seed) for number in range(n)):
            shown = [("user", task.question), ("assistant", task.text)] * (args.form != "prose")
            shown += [("rejected", task.wrong)] * (args.form == "pairs")
            shown += [("prose", task.prose)] * (args.form in (None, "prose"))
            for who, text in shown:
                print(f"  {task.split:5}  {who:9}  " + text.replace("\n", "\n" + " " * 20))
        print()


if __name__ == "__main__":
    run(main)
