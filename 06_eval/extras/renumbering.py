"""Questions of GSM8K with other numbers: the same task, and an answer that nobody has seen.

One number gets one new number, everywhere; the answer follows through the calculations in << >>.
Order is kept, and every number, results too, stays within half to twice of what it was. What words,
percentages, fractions, dates or ordinals may stand for stays as it is. A question whose answer may
hide a step has no twin. Next: renaming.py.
"""

import os
import random
import re
import sys
from decimal import Decimal

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from conversations import calculate
from rl import answer_of, number_at

DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
NUMBER = re.compile(DIGITS)
PERCENT = re.compile(rf"({DIGITS})(?: ?%|[- ]percent)")
FRACTION = re.compile(r"(\d+) ?/ ?(\d+)")
SUM = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
# A number that stands alone; no date, time, year, percentage, fraction, ordinal, range or "5-mile".
NAMED = ("January February March April May June July August September October November December "
         "grade page number chapter day week size aged level")
ALONE = re.compile(
    "".join(rf"(?<!\b{word} )" for word in NAMED.split()) + r"(?<![\w.,:/#'’-])(?<!\d |/ )"
    rf"(?:(?<=\$)|(?!(?:19|20)\d\d\b))(?:{DIGITS})(?![\w:'’%-]|[.,]\d|/\d| ?/ ?\d| \d| ?%"
    r"| percent| ?[ap]\.?m\b| o'clock| and (?:a|one) (?:half|quarter|third))", re.IGNORECASE)
ONES = ("zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
        "fifteen sixteen seventeen eighteen nineteen").split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred".split()
# Words (in the singular, too), and the numbers that a solution may contain because of them.
BECAUSE = {
    "thousand": "1000", "million": "1000000", "once single": "1", "thrice triple tripled": "3",
    "half halves halved halfway twice double doubled doubling pair couple both other another twin"
    "": "2 .5 1.5 50", "third triplet triangle": "3 2 1.5",
    "quarter quarterly fourth quadruple quadrupled": "4 3 .25 .75 25",
    "fifth": "5 4 .2 .8 .4 .6", "sixth": "6 5", "seventh": "7 6", "eighth": "8 7 3 5 .125",
    "ninth": "9 8", "tenth": "10 9 .1 .9", "dozen": "12 6", "decade": "10",
    "century centuries": "100", "day daily": "24 7 5 2 365 30 31",
    "week weekly weekday weekend": "7 5 2 4 52", "month monthly": "12 30 31 28 4 52",
    "year yearly annual annually old": "12 52 365 366 4", "leap": "366 29",
    "hour hourly minute second": "60 24 3600 2", "cent percent percentage penny pennies": "100 .01",
    "dime": "10 .1", "nickel": "5 .05", "feet foot inch inches yard": "12 3 36 2 4",
    "mile": "5280", "pound ounce lb oz cup ton gallon pint quart": "16 2000 8 4 2 128",
    "kilogram kilometer kilometre kilo km kg gram meter metre cm mm liter litre ml milliliter "
    "millilitre centimeter centimetre": "1000 100 10", "average mean": "2 3 4 5",
    "rectangle rectangular square perimeter fence side": "2 4", "deck card chess": "52 64",
    "dice die cube insect": "6", "spider octopus octopuses": "8",
    "leg wheel eye arm hand shoe sock glove parent": "2 4"}
STANDS_FOR = {word: {*map(Decimal, numbers.split())}
              for words, numbers in BECAUSE.items() for word in words.split()}
STANDS_FOR |= {word: {Decimal(i)} for i, word in enumerate(ONES)}
STANDS_FOR |= {word: {Decimal(10 * i)} for i, word in enumerate(TENS, 2)}
AT_MOST = {"day": 7, "hour": 24, "minute": 60, "second": 60, "month": 12, "week": 52, "year": 100}
TRIES = 300  # draws for one item, before it is left without a twin


def value(text):
    """The number that digits stand for, perhaps with commas."""
    return Decimal(text.replace(",", ""))


def decimals(number):
    return max(0, -number.normalize().as_tuple().exponent)


def said(text):
    """The numbers that the words of a text may stand for: of "half", among others, 2 and 0.5."""
    words = re.findall("[a-z]+", text.lower())
    found = [STANDS_FOR.get(word, set()) | STANDS_FOR.get(word.removesuffix("s"), set())
             for word in words]
    both = {Decimal(10 * TENS.index(a) + 20 + ONES.index(b)) for a, b in zip(words, words[1:])
            if a in TENS and b in ONES[1:10]}
    return both.union(*found)


def kept_numbers(question, answer):
    """The numbers that a twin keeps: what words, percentages and fractions stand for, and what does
    not stand alone in the question. A number that is written in digits as well is kept everywhere,
    since a solution doesn't say which of them it means.
    """
    prose = SUM.sub("", answer)
    kept = {Decimal(0), Decimal(1)} | said(question + "\n" + prose)
    kept |= {value(found) for found in NUMBER.findall(ALONE.sub(" ", question))}
    kept |= {value(found[1]) for found in re.finditer(rf"({DIGITS})(?:st|nd|rd|th)\b", prose)}
    for p in map(value, PERCENT.findall(question + prose)):
        kept |= {p, p / 100, 1 - p / 100, 1 + p / 100, 100 - p, 100 + p, Decimal(100)}
    for a, b in ((int(a), int(b)) for a, b in FRACTION.findall(question) if int(b)):
        kept |= {Decimal(n) for n in (a, b, b - a, a + b)} | {a / Decimal(b), 1 - a / Decimal(b)}
    return kept


def choices(number, places, most=None):
    """What may stand instead of a number above 1: half of it to twice, as round as it is (a
    multiple of 5, 10, 50 ...), as many decimals at most, and whole if it is. most: no more than.
    """
    unit = 10**places
    n = int(number * unit)
    steps = [s for k in range(len(str(n))) for s in (10**k, 5 * 10**k) if n % s == 0 and 2 * s <= n]
    step = max(steps, default=1)
    top = min(2 * n, (most or 2 * n) * unit)
    return [k / Decimal(unit) for k in range(-(-n // (2 * step)) * step, top + 1, step)
            if k not in (n, unit) and (k % unit == 0) == (n % unit == 0)]


def replaced(text, new):
    """A text with new[number] instead of each number, with as many decimals and commas as it had.
    KeyError for a number of which `new` knows nothing.
    """
    def write(found):
        number = new[value(found[0])]
        if number == value(found[0]):
            return found[0]
        form = f"{',' * (',' in found[0])}.{len(found[0].partition('.')[2])}f"
        return format(number, form)
    return NUMBER.sub(write, text)


def fits(sums, new):  # exercise
    """Whether new numbers suit a solution. If they do, `new` holds those of all results, too.

    sums: (expression, result) of each calculation, in order, texts; new: {number: new number},
    Decimals, of the question's. replaced(expression, new) is an expression with the new numbers,
    and calculate() its value, as a text, or None. That is the new number of the result, value(
    result), and must be the one that `new` has already, if it has one. One number, one new number:
    then it doesn't matter whether a later expression means the question's 6 or an earlier result 6.

    A new result must be half to twice the old one, and have no more decimals() than it. At the end
    the new numbers must be ordered as the old ones are, smaller before larger, none equal: so who
    had more has more, and what was above a limit still is.
    fits([("2*3", "6"), ("6+1", "7")], {2: 3, 3: 4, 1: 1}) with Decimals: True, and 12 and 13 added.
    """
    for expression, text in sums:
        result, found = value(text), calculate(replaced(expression, new))
        if found is None or new.setdefault(result, Decimal(found)) != Decimal(found):
            return False
        if not result / 2 <= new[result] <= 2 * result or decimals(new[result]) > decimals(result):
            return False
    ordered = [new[number] for number in sorted(new)]
    return all(a < b for a, b in zip(ordered, ordered[1:]))


def safe_sums(question, answer, kept):
    """The calculations of an answer, (expression, result) each, or [] if they may hide a step: if
    one is wrong or stands outside of << >>, the last is not the answer, or a number comes from
    nowhere.
    """
    sums = SUM.findall(answer)
    if re.search(r"= *\$?[\d.]", re.sub(r"<<.*?>>[\d.,]*", "", answer)):
        return []
    if len(sums) != answer.count("<<") or not all(NUMBER.fullmatch(result) for _, result in sums):
        return []
    known = kept | {value(found) for found in NUMBER.findall(question)}
    for expression, result in sums:
        found = calculate(expression)
        if found is None or Decimal(found) != value(result):
            return []
        if not {value(one) for one in NUMBER.findall(expression)} <= known:
            return []
        known.add(value(result))
    if not sums or number_at(answer_of(answer) or "") != value(sums[-1][1]):
        return []
    return sums if {value(one) for one in NUMBER.findall(answer)} <= known else []


def renumbered(question, answer, seed=0):
    """The twin of a question and its answer, with other numbers: {"question": , "answer": }; None
    if none is safe. answer: a solution with calculations in << >>, and "#### 6" at its end.
    """
    kept = kept_numbers(question, answer)
    sums = safe_sums(question, answer, kept)
    used = {value(one) for expression, _ in sums for one in NUMBER.findall(expression)}
    may_be = {}
    for found in ALONE.finditer(question):
        number, places = value(found[0]), len(found[0].partition(".")[2])
        unit = re.match(r" (?:\w+ )?(" + "|".join(AT_MOST) + ")", question[found.end():])
        most = AT_MOST[unit[1]] if unit and number <= AT_MOST[unit[1]] else None
        if number in used - kept:
            some = choices(number, places, most)
            may_be[number] = [one for one in may_be.get(number, some) if one in some]
    may_be = {number: some for number, some in may_be.items() if some}
    same = {value(one) for one in NUMBER.findall(answer)}
    same -= {value(result) for _, result in sums} - kept
    same = (same | {value(one) for one in NUMBER.findall(question)}) - {*may_be}
    rng = random.Random(f"{seed}: {question}")  # the same for an item, whatever stands around it
    for _ in range(TRIES if sums and may_be else 0):
        new = {one: one for one in same} | {one: rng.choice(some) for one, some in may_be.items()}
        if fits(sums, new) and new[value(sums[-1][1])] != value(sums[-1][1]):
            return {"question": ALONE.sub(lambda found: replaced(found[0], new), question),
                    "answer": replaced(answer, new)}
    return None
