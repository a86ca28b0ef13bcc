"""Tests of renumbering.py: which numbers change, and that the answer follows."""

import re
from decimal import Decimal

import pytest

from renumbering import (ALONE, choices, decimals, fits, kept_numbers, renumbered, replaced,
                         safe_sums, said, value)

QUESTION = ("Ann has 12 apples and 3 times as many pears. She sells half of her 1,250 plums for "
            "$0.75 each, 20% of which are bad, and buys ninety pears. How many pears has she got?")
ANSWER = ("She had 3 * 12 = <<3*12=36>>36 pears.\n"
          "With the ninety, she has $<<36+90=126>>126.00.\n#### 126")
ITEM = {"question": QUESTION, "answer": ANSWER}


def numbers(*texts):
    return {Decimal(text) for text in texts}


def alone(text):
    return [found[0] for found in ALONE.finditer(text)]


# ---- numbers ----
def test_numbers_that_stand_alone():
    assert alone("He has 3 cats, 1,250 dogs (7 of them black), $5 and $2.50.") == [
        "3", "1,250", "7", "5", "2.50"]
    for text in ("at 2:30", "at 5 pm", "at 5 p.m.", "in 1999", "on May 5", "on the 1st", "20%",
                 "20 percent", "20 %", "1/2 of", "3 1/2 cups", "3 and a half", "a 5-mile run",
                 "5-10 people", "No. #7", "grade 5", "x5", "5x", "3 / 4", "1.2.3", "day 3"):
        assert not alone(text), text
    assert alone("It costs $1999 an hour, $20/hour before, and 5 and a box.") == ["1999", "20", "5"]


def test_said():
    """What a solution may use because of a word, whose plural is known."""
    assert said("Half of THREE weeks") >= numbers("2", ".5", "3", "7", "52")
    assert said("twenty-five, forty two, seventeen") == numbers("20", "5", "25", "40", "2", "42",
                                                                "17")
    assert said("hundreds of thousands") == numbers("100", "1000") and not said("He has 3.")


def test_kept_numbers():
    kept = kept_numbers("He reads 20% of 50 books, 3/4 of page 9, at 5 pm, with two of his 2 cats.",
                        "On the 4th <<50-8=42>>42, 10 percent, a dozen.")
    assert kept >= numbers("0", "1", "20", ".2", ".8", "1.2", "80", "120", "100", "3", "4", ".75",
                           ".25", "7", "9", "5", "2", "10", ".9", "12")
    assert not kept & numbers("50", "8", "42")


def test_choices():
    """Half to twice, as round, of the same kind, never 1 and never the number itself."""
    assert choices(Decimal(12), 0) == [*map(Decimal, (*range(6, 12), *range(13, 25)))]
    assert choices(Decimal(2), 0) == [3, 4] and choices(Decimal(3), 0) == [2, 4, 5, 6]
    assert choices(Decimal(100), 0) == [50, 150, 200] and choices(Decimal(15), 0) == [10, 20, 25,
                                                                                      30]
    assert choices(Decimal(30), 0) == [20, 40, 50, 60], "a multiple of 10 stays one"
    assert choices(Decimal("0.75"), 2)[0] == Decimal("0.4") and Decimal(1) not in choices(
        Decimal("0.75"), 2)
    assert choices(Decimal(5), 2) == [3, 4, 6, 7, 8, 9, 10], "$5.00: whole as it was"
    assert choices(Decimal(5), 0, most=7) == [3, 4, 6, 7], "no more days than a week has"


def test_replaced():
    new = {value(old): Decimal(to) for old, to in (("3", 4), ("1250", 900), ("800", 1600), (
        "0.5", "0.8"), ("7", 7), ("2", "2"))}
    assert replaced("3*1,250 - $800.00 and .5, 7.0", new) == "4*900 - $1600.00 and 0.8, 7.0"
    assert replaced("1,250", {Decimal(1250): Decimal(2300)}) == "2,300"
    with pytest.raises(KeyError):
        replaced("9", new)


def drawn(**numbers_):
    return {Decimal(old[1:]): Decimal(new) for old, new in numbers_.items()}


def test_fits():
    """The results are computed; half to twice; of one kind; one number each; in order."""
    new = drawn(n2=3, n3=4, n1=1)
    assert fits([("2*3", "6"), ("6+1", "7")], new), "3 * 4 is 12, and 12 + 1 is 13"
    assert new == drawn(n1=1, n2=3, n3=4, n6=12, n7=13), "the results get their new numbers, too"
    for why, sums, new in (
            ("a result is more than twice the old one", [("2*3", "6")], drawn(n2=4, n3=5)),
            ("a result is less than half of the old one", [("9-1", "8")], drawn(n9=4, n1=1)),
            ("a whole result gets a fraction", [("9/2", "4.5"), ("4.5*2", "9")],
             drawn(n2=4, n9=9)),
            ("a whole result gets a fraction", [("8/2", "4")], drawn(n8=9, n2=2)),
            ("a result gets more decimals", [("7/2", "3.5")], drawn(n7=9, n2=4)),
            ("the question's 6 and the result 6 differ", [("2*3", "6")], drawn(n2=2, n3=4, n6=7)),
            ("who had less has more", [("2+9", "11")], drawn(n2=9, n9=8)),
            ("two numbers have become equal", [("2+9", "11")], drawn(n2=8, n9=8)),
            ("a result passes the limit of 12", [("2+9", "11")], drawn(n2=3, n9=10, n12=12)),
            ("a division by 0 has no value", [("9/(3-2)", "9")], drawn(n9=9, n3=2, n2=2))):
        assert not fits(sums, new), f"not to be taken: {why}"
    for why, sums, new in (
            ("exactly twice is no more than twice", [("2*3", "6")], drawn(n2=3, n3=4)),
            ("exactly half is no less than half", [("9-1", "8")], drawn(n9=5, n1=1)),
            ("the question's 6 and the result 6 are equal", [("2*3", "6")],
             drawn(n2=3, n3=4, n6=12)),
            ("a fraction may stay one", [("7/2", "3.5")], drawn(n7=9, n2=2)),
            ("a fraction may become whole", [("7/2", "3.5")], drawn(n7=8, n2=2))):
        assert fits(sums, new), f"to be taken: {why}"


def test_safe_sums():
    kept = kept_numbers(QUESTION, ANSWER)
    assert safe_sums(QUESTION, ANSWER, kept) == [("3*12", "36"), ("36+90", "126")]
    for why, old, new in (("a wrong result", "90=126>>", "90=127>>"),
                          ("no number", "90=126>>", "90=12x>>"),
                          ("a sum without its end", "90=126>>", "90=126"),
                          ("the last is not the answer", "#### 126", "#### 36"),
                          ("no answer", "#### 126", ""),
                          ("a number from nowhere", "3*12=36", "6*6=36"),
                          ("a number from nowhere in the text", "pears", "pears for 41"),
                          ("a sum that is not marked", "<<3*12=36>>", "")):
        assert ANSWER.count(old) == 1, old
        assert safe_sums(QUESTION, ANSWER.replace(old, new), kept) == [], why
    assert safe_sums(QUESTION, ANSWER, kept - {Decimal(90)}) == [], "a 90 from nowhere"
    assert safe_sums(QUESTION, "It is 12.\n#### 12", kept) == [], "nothing is computed"


def test_renumbered():
    """12 and 3 change, and what follows from them; what words or "%" say, and 1,250, stay."""
    twin = renumbered(**ITEM)
    shape = re.fullmatch(re.escape(QUESTION).replace("12\\ a", r"(\d+)\ a").replace(
        "3\\ t", r"(\d+)\ t"), twin["question"])
    a, b = int(shape[1]), int(shape[2])
    assert a != 12 and b != 3 and 6 <= a <= 24 and 2 <= b <= 6 and 18 <= a * b <= 72
    n = a * b
    assert twin["answer"] == (
        f"She had {b} * {a} = <<{b}*{a}={n}>>{n} pears.\n"
        f"With the ninety, she has $<<{n}+90={n + 90}>>{n + 90}.00.\n#### {n + 90}")
    assert twin == renumbered(**ITEM, seed=0), "the same seed gives the same twin"
    assert len({renumbered(**ITEM, seed=seed)["answer"] for seed in range(9)}) > 1


def test_some_have_no_twin():
    for question, answer in (
            ("He has a pair of cats, and 2 more.", "<<2+2=4>>4\n#### 4"),  # which 2 is whose?
            ("He has 3 cats.", "They are 3.\n#### 3"),
            ("He has 8 cats at 7 pm.", "<<8-3=5>>5\n#### 5"),  # where is the 3 from?
            ("He has 5 of 6 cats.", "<<6-5=1>>1\n#### 1")):  # 1 stays 1: there is no other answer
        assert renumbered(question, answer) is None, question
    twin = renumbered("He works 5 times, for 6 hours, at $2000 an hour.",
                      "<<5*6=30>>30 hours, so $<<30*2000=60000>>60,000\n#### 60,000")
    hours = int(re.search(r"for (\d+) hours", twin["question"])[1])
    assert hours != 6 and 3 <= hours <= 12
    assert re.fullmatch(r".*\$<<\d+\*\d+=\d+>>\d+,000\n#### \d+,000", twin["answer"], re.DOTALL)


def test_decimals():
    assert [decimals(Decimal(text)) for text in ("3", "300", "2.50", "0.125")] == [0, 0, 1, 3]
