"""Tests of tasks.py: answers that are right, splits that never share a question, a source."""

import dataclasses
import hashlib
import itertools
import re
from datetime import datetime, timedelta

import numpy as np
import pytest

import corpus
from corpus import content, find_source
from data import baselines, prepare
from records import with_calculator
from tasks import ABILITIES, column_sums, draw, draws, examples, main, split_of

LEVELS = (1, 2, 3)


def quiet(text):
    pass


# ---- one exercise each ----
def test_split_of():
    found = {}
    for ability, i in itertools.product(("addition", "copying"), range(1000)):
        question = f"What is {i}?"
        digest = hashlib.sha256(f"{ability}: {question}".encode()).digest()
        expected = "val" if int.from_bytes(digest[:8], "big") < 0.1 * 2**64 else "train"
        found[ability, i] = split_of(ability, question)
        assert found[ability, i] == expected, (
            f"the hash of '{ability}: {question}', with a share of 0.1, decides the split: "
            f"{expected}, not {found[ability, i]}")
    assert 150 < [*found.values()].count("val") < 250, "one question in ten is for validation"


def test_column_sums():
    assert column_sums(57, 8) == "7+8=15\n5+0+1=6", (
        "places go from the right, with a carry of 1 where the sum before was 10 or more, and a 0 "
        "where the shorter number has no digit")
    assert column_sums(8, 57) == "8+7=15\n0+5+1=6", "the first number may be the shorter one"
    assert column_sums(9, 1) == "9+1=10", "a carry left at the end has no line of its own"
    assert column_sums(123, 456) == "3+6=9\n2+5=7\n1+4=5", "where nothing is carried, no +1"
    assert column_sums(0, 0) == "0+0=0", "zero has one digit, too"
    assert column_sums(905, 116) == "5+6=11\n0+1+1=2\n9+1=10", (
        "a carry is for the next place only, not for all that follow")
    for a, b in np.random.default_rng(0).integers(0, 10**6, (200, 2)).tolist():
        sums = [int(line.split("=")[1]) for line in column_sums(a, b).split("\n")]
        digits = [str(s % 10) for s in sums]
        assert int(str(sums[-1]) + "".join(digits[-2::-1])) == a + b, (
            f"the last digits of the sums, read from the end, are {a} + {b}")


# ---- abilities ----
def owned(question, name):
    [(number, thing)] = re.findall(rf"{name} (?:has )?(\d+) (\w+)", question)
    return int(number), thing


def solved(ability, question):
    """The answer, found from the question alone."""
    if ability in ("addition", "calculator"):
        a, sign, b = re.fullmatch(r"What is (\d+) ([+*]) (\d+)\?", question).groups()
        return str(int(a) + int(b) if sign == "+" else int(a) * int(b))
    if ability == "copying":
        return question.removeprefix("Copy these words: ")
    if ability == "reversing":
        return re.fullmatch(r"Write (.*) backwards\.", question)[1][::-1]
    if ability == "sorting":
        return " ".join(sorted(re.findall(r"\d+", question), key=int))
    if ability == "counting":
        letter, row = re.fullmatch(r"How often is (.) in (.*)\?", question).groups()
        return str(row.count(letter))
    if ability == "dates":
        now, later = re.fullmatch(r"Today is (.*)\. Which date is (.*)\?", question).groups()
        days = 1 if later == "the next day" else int(later.split()[0])
        then = datetime.strptime(now, "%d %B %Y") + timedelta(days)
        return f"{then.day} {then:%B %Y}"
    if ability == "lookup":
        thing, name = re.search(r"How many (\w+) does (\w+) have\?", question).groups()
        number, its = owned(question, name)
        assert its == thing
        return str(number)
    name, more = re.search(r"(\w+) gets (\d+) more", question).groups()
    return str(owned(question.replace(f"{name} gets", ""), name)[0] + int(more))


@pytest.mark.parametrize("ability", ABILITIES)
@pytest.mark.parametrize("level", LEVELS)
def test_answers_are_right(ability, level):
    for task in (draw(ability, i, level) for i in range(300)):
        assert task.answer == solved(ability, task.question), task
        assert task.text.endswith(f"#### {task.answer}") and task.text.count("####") == 1
        assert task.answer in task.prose and task.prose.isprintable() == ("\n" not in task.prose)
        for left, right in re.findall(r"(\d[\d +*-]*)=\s*(\d+)", task.working):
            assert eval(left) == int(right), task.working
        calls = [part for part in task.solution if part["type"] != "text"]
        assert [part["type"] for part in calls] == ["python", "output"] * (ability == "calculator")
        if calls:
            assert str(eval(calls[0]["text"])) == calls[1]["text"] == task.answer
        if level == 1 and ability not in ("two_steps", "calculator"):
            assert task.text == f"#### {task.answer}", "a direct answer"


def test_working():
    """Sums by their digits, a count along the row, the ends of months."""
    sums, counts = draw("addition", 1, 2), draw("counting", 1, 2)
    a, b = map(int, re.findall(r"\d+", sums.question))
    assert sums.working == column_sums(a, b)
    letter, *row = re.findall(r"\b[a-z]\b", counts.question)
    assert counts.working.split() == [f"{x}{row[:i].count(letter)}" for i, x in enumerate(row, 1)]
    crossing = [t for t in (draw("dates", i, 3) for i in range(50)) if t.working.count("\n") > 2]
    assert crossing and all(" has 3" in task.working for task in crossing)


def test_levels_and_lengths():
    """Mostly short at levels 1 and 2, and thousands of questions at each."""
    for ability in ABILITIES:
        lengths = []
        for level in LEVELS:
            some = [draw(ability, i, level) for i in range(1500)]
            assert len({task.question for task in some}) > 1200, f"{ability} {level}: too few"
            assert len({task.question for task in some if task.split == "train"}) < 1450
            lengths.append(np.percentile([[len(t.question), len(t.text)] for t in some], 80, 0))
            assert level == 3 or (lengths[-1] <= (80, 64)).all(), (ability, level, lengths[-1])
        assert lengths[0].sum() < lengths[1].sum() < lengths[2].sum(), "levels grow"


def test_prose_has_many_wordings():
    for ability in ABILITIES:
        some = [draw(ability, i) for i in range(80)]
        shapes = {re.sub(r"\b(?:\d+|[A-Z]\w+|[a-z]|[a-z]{4})\b", "_", t.prose) for t in some}
        assert len(shapes) >= 4, f"{ability}: {shapes}"
        asked = [t for t in some if t.prose == f"Question: {t.question}\nAnswer: {t.answer}"]
        assert 8 <= len(asked) <= 40, f"{ability}: about a fourth is question and answer"


# ---- by number ----
def test_a_task_depends_on_its_number_alone():
    one = draw("sorting", 7, 2, seed=3)
    assert draw("sorting", 7, 2, seed=3) == one and hash(one) == hash(draw("sorting", 7, 2, 3))
    assert len({one, draw("sorting", 8, 2, 3), draw("sorting", 7, 1, 3), draw("sorting", 7, 2, 4),
                draw("copying", 7, 2, 3)}) == 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.answer = "1"
    first = [*itertools.islice(draws(["sorting", "dates"], 2, 3), 4)]
    assert first == [draw(ability, i, 2, 3) for i in (0, 1) for ability in ("sorting", "dates")]


def test_examples_are_of_one_split():
    whole = [*itertools.islice(draws(["dates", "lookup"]), 400)]
    for split in ("train", "val"):
        own = [task for task in whole if task.split == split]
        assert len(own) > 20
        assert [*itertools.islice(examples(["dates", "lookup"], split), len(own))] == own


@pytest.mark.parametrize("ability", ABILITIES)
def test_train_and_val_share_no_question(ability):
    """Whatever the wording, the level and the seed; no text of val stands in one of train."""
    some = [draw(ability, i, level, seed)
            for level in LEVELS for seed in (0, 1) for i in range(700)]
    train, val = ([t for t in some if t.split == split] for split in ("train", "val"))
    assert 0.07 < len(val) / len(some) < 0.13
    assert not {t.question for t in train} & {t.question for t in val}
    everything = "\n".join(t.prose for t in train) + "\n".join(f"{t.question}\n" for t in train)
    for task in val:
        assert task.prose not in everything and task.question + "\n" not in everything, task


# ---- as a source ----
def test_both_forms_are_a_source():
    prose, chat = ([*find_source(f"tasks,form={form},n=900,level=2").documents()]
                   for form in ("prose", "chat"))
    tasks = [*itertools.islice(draws(ABILITIES, 2), 900)]
    assert prose == [(t.split, {"text": t.prose, "split": t.split}) for t in tasks]
    assert [split for split, _ in chat] == [split for split, _ in prose]
    user, assistant = chat[0][1]["messages"]
    assert (user["role"], user["content"]) == ("user", tasks[0].question)
    assert (assistant["role"], assistant["content"]) == ("assistant", tasks[0].solution)
    for documents in (prose, chat):
        texts = [{content(record) for split, record in documents if split == which}
                 for which in ("train", "val")]
        assert min(map(len, texts)) > 50 and not texts[0] & texts[1]
    assert not ({r["messages"][0]["content"] for split, r in chat if split == "val"}
                & {t.question for t in tasks if t.split == "train"})


@pytest.mark.parametrize("level", LEVELS)
def test_pairs_differ_in_the_answer_alone(level):
    """Which is wrong, but looks like a right one: as long, of as many words, of the same kind."""
    documents = [*find_source(f"tasks,form=pairs,n=900,level={level}").documents()]
    for task, (split, record), (other, rejected) in zip(
            itertools.islice(draws(ABILITIES, level), 900), documents[::2], documents[1::2]):
        assert split == other == task.split and record["messages"][1]["content"] == task.solution
        assert record["messages"][0] == rejected["messages"][0]
        assert rejected["messages"][1]["content"] == with_calculator(task.wrong)
        before, mark, wrong = task.wrong.rpartition("#### ")
        assert before + mark + task.answer == task.text, "the right working, then another answer"
        assert sum(a != b for a, b in zip(wrong, task.answer)) == 1 and len(wrong) == len(
            task.answer), f"{wrong} for {task.answer}"
        assert re.sub("[a-z]", "a", re.sub(r"\d", "0", wrong)) == re.sub(
            "[a-z]", "a", re.sub(r"\d", "0", task.answer)), f"{wrong} for {task.answer}"
        assert task.ability != "dates" or wrong.split()[1] == task.answer.split()[1]
    assert draw("dates", 5, level).wrong == draw("dates", 5, level).wrong


def test_options(fails):
    first = [r for _, r in find_source("tasks,n=4,only=dates+copying,seed=5").documents()]
    assert [r["text"] for r in first] == [
        t.prose for t in itertools.islice(draws(["dates", "copying"], 1, 5), 4)]
    assert len([*find_source("tasks").documents()]) == 20_000
    source = find_source("tasks,n=4")
    assert source.name == "tasks,n=4" and source.split_by == "official"
    for options, said in (("only=additon", "did you mean 'addition'?"),
                          ("only=", "no ability ''"), ("n=0", "n is '0', but must be a whole"),
                          ("n=many", "n is 'many'"), ("level=4", "whole number from 1 to 3"),
                          ("seed=-1", "seed is '-1'"),
                          ("form=poem", "must be prose, chat or pairs"),
                          ("size=3", "takes form, level, n, only, seed; not size")):
        assert said in fails(corpus.main, f"tasks,{options}"), options


def test_prepare(tmp_path):
    chat = prepare(["tasks,form=chat,n=300"], 300, tmp_path, say=quiet)
    text = chat.tokenizer.decode(chat.train[:])
    assert "<|python_start|>" in text and "####" in text
    learned = chat.tokenizer.decode([i for i in chat.train.labels(0, len(chat.train)) if i >= 0])
    assert "####" in learned and "What is" not in learned
    assert 0 < baselines(chat)["unigram"] < 8
    both = prepare(["tasks,n=300:0.7", "tasks,form=chat,n=300,loss=all:0.3"], 300, tmp_path,
                   say=quiet)
    assert [share for share, _ in both.parts] == [0.7, 0.3] and both.parts[1][1].train.mask.all()


def test_command_line(capsys, fails):
    main(["--level", "2", "--only", "addition+calculator", "-n", "1"])
    out = capsys.readouterr().out
    assert "addition, level 2" in out and "copying" not in out
    task = draw("calculator", 0, 2)
    assert all(part in out for part in (task.question, *task.text.split("\n"), task.prose))
    main(["--form", "chat"])
    out = capsys.readouterr().out
    assert "prose" not in out and all(f"{ability}, level 1" in out for ability in ABILITIES)
    main(["--form", "pairs"])
    out = capsys.readouterr().out
    assert "prose" not in out and out.count("rejected") == out.count("assistant") == 18
    main(["--form", "prose", "--seed", "1"])
    assert "assistant" not in capsys.readouterr().out
    assert "did you mean 'sorting'?" in fails(main, "--only", "sortin")
    assert "level is '0'" in fails(main, "--level", 0)
    corpus.main(["list"])
    assert "small tasks with one right answer" in capsys.readouterr().out
    corpus.main(["tasks,form=chat,n=20"])
    assert re.search(r"train +\d+ documents", capsys.readouterr().out)
