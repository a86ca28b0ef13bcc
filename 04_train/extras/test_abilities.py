"""Tests of abilities.py: what counts as right, and the whole way of a very small model."""

import itertools
import json
import shutil
from types import SimpleNamespace

import pytest

import abilities
from abilities import (LEVEL, OTHERS, STAGES, UNSURE, as_parts, asked, between, gain, is_right,
                       main, measured, prompt_of, right_answers, share, spent)
from bpe import Tokenizer
from conversations import render
from rl import write_answers
from runs import read_config
from tasks import draw, examples

TOKENIZER = Tokenizer([])


def test_prompts():
    """Of both forms: what a model has read in front of an answer."""
    task = draw("addition", 3, level=1)
    assert TOKENIZER.decode(prompt_of(task, TOKENIZER, "chat")) == (
        f"<|bos|><|user_start|>{task.question}<|user_end|><|assistant_start|>")
    text = TOKENIZER.decode(prompt_of(task, TOKENIZER, "prose"))
    assert text == f"<|bos|>Question: {task.question}\nAnswer:"
    wordings = {draw("addition", n, level=1).prose.partition(":")[0] for n in range(40)}
    assert "Question" in wordings, "prose has this wording, too"


@pytest.mark.parametrize("text, form, right", [
    (" 140", "prose", True), ("140\nQuestion", "prose", True), (" 14", "prose", False),
    ("1400", "prose", False), ("#### 140", "chat", True), ("2+8=10\n#### 140", "chat", True),
    ("140", "chat", False), ("#### 141", "chat", False)])
def test_is_right(text, form, right):
    assert is_right(text, SimpleNamespace(answer="140"), form) == right


def test_what_is_asked():
    """What no stage has seen, and the same whenever it is asked."""
    tasks = asked("addition", 50)
    assert len(tasks) == 50 and all(task.split == "val" for task in tasks)
    assert tasks[:9] == asked("addition", 9) and tasks[0].ability == "addition"


def test_right_answers(tmp_path, monkeypatch):
    """Those that are right and have ended are kept, as often as they are written."""
    def written(model, prompts, tokenizer, n, longest, seeds):
        texts = [tokenizer.decode(prompt).partition("What is ")[2].partition("?")[0]
                 for prompt in prompts]
        return [[SimpleNamespace(ids=tokenizer.encode(f"#### {sum(map(int, text.split('+')))}")
                                 + [0], ended=n % 4 < 2) if n < 8 else
                 SimpleNamespace(ids=tokenizer.encode("#### x") + [0], ended=True)
                 for n in range(n)] for text in texts]
    monkeypatch.setattr(abilities, "load_run", lambda folder: (
        None, TOKENIZER, SimpleNamespace(seed=0), None))
    monkeypatch.setattr(abilities, "write_answers", written)
    monkeypatch.setattr(abilities, "UNSURE", "addition")
    n = right_answers(tmp_path, tmp_path / "right.jsonl", 1)
    rows = [json.loads(line) for line in (tmp_path / "right.jsonl").read_text().splitlines()]
    tasks = [*itertools.islice(examples(["addition"], "train", LEVEL, OTHERS), 32)]
    assert [row["messages"] for row in rows] == [
        [{"role": "user", "content": task.question},
         {"role": "assistant", "content": as_parts(f"#### {task.answer}")}] for task in tasks
        for _ in range(4)], "four of sixteen are right, and end"
    assert n == sum(8 * len(f"#### {task.answer}") + 8 * 6 + 16 for task in tasks)


def test_between():
    """Of what is practised, what sft has 10% to 60% right."""
    counts = dict(zip(UNSURE.split("+"), (1, 2, 5, 9, 10, 16)))
    results = {"0": {"sft": {"chat": {name: [n] for name, n in counts.items()}}}}
    assert between(results) == ["sorting", "counting", "dates"]


def test_share():
    def of(*seeds):
        return {str(n): {"sft": {"chat": {"a": counts}}} for n, counts in enumerate(seeds)}
    assert share(of([16] * 3), "sft", "chat", "a") == (1.0, 0.0)
    mean, side = share(of([16, 0, 8, 8]), "sft", "chat", "a")
    assert mean == 0.5 and side == pytest.approx(1.96 * (0.125 ** 0.5) / 2)
    assert share(of([16, 0, 8, 8], [0, 16, 8, 8]), "sft", "chat", "a") == (0.5, 0.0), (
        "a question is a single draw, whatever the number of seeds")
    assert share(of([8, 0]), "sft", "chat", "a", k=16)[0] == 0.5


def test_gain():
    """All questions gain as much, so that is certain, whatever each of them has."""
    one = {"sft": {"chat": {"a": [0, 4, 8, 12]}}, "rl": {"chat": {"a": [4, 8, 12, 16]}}}
    assert gain({"0": one}, "rl", "a") == (0.25, 0.0)
    assert gain({"0": one}, "sft", "a") == (0.0, 0.0)
    one["rl"]["chat"]["a"] = [0, 4, 8, 16]
    assert gain({"0": one}, "rl", "a")[1] > 0


def test_what_the_rival_learns_is_what_was_written():
    """Calls of the calculator are calls again, whose output is not learned."""
    task = draw("calculator", 3, level=2)
    ids, mask = render(task.record("chat")["messages"], TOKENIZER)
    begin = ids.index(TOKENIZER.special["<|assistant_start|>"]) + 1
    parts = as_parts(TOKENIZER.decode(ids[begin:-1]))
    assert render([{"role": "user", "content": task.question},
                   {"role": "assistant", "content": parts}], TOKENIZER) == (ids, mask)
    assert as_parts("<|python_start|>1+1") is None


@pytest.mark.slow
def test_the_whole_way(tmp_path, monkeypatch, capsys, quick_runs):
    """Stopped after sft, it goes on there; then a table, costs that are alike, and a picture."""
    small = "--n-layer 1 --n-head 2 --n-kv-head 2 --d-model 32 --d-ff 32".split()
    for stage, more in {"base": small, "rl": ["--batch-size", "32"]}.items():
        monkeypatch.setitem(abilities.OPTIONS, stage, [*abilities.OPTIONS[stage], *more])
    for stage in abilities.OPTIONS:
        options = [word.replace("100000", "400") for word in abilities.OPTIONS[stage]]
        steps = [] if stage == "rival" else ["--steps", "2", "--device", "cpu"]
        monkeypatch.setitem(abilities.OPTIONS, stage, [*options, *steps])
    for name, value in (("QUESTIONS", 2), ("LONGEST", 16), ("SAMPLES", 16)):
        monkeypatch.setattr(abilities, name, value)
    monkeypatch.setitem(abilities.OPTIONS, "rl", [*abilities.OPTIONS["rl"], "--answer-tokens",
                                                 "16"])
    monkeypatch.setattr(abilities, "is_right", lambda text, task, form: len(text) % 2 == 0)

    def ended(*given):  # which answers of a model that has learned nothing don't do
        groups = write_answers(*given)
        for group in groups:
            for answer in group:
                answer.ended = True
        return groups
    monkeypatch.setattr(abilities, "write_answers", ended)
    whole, words = abilities.rl.main, ["--folder", str(tmp_path / "abilities")]

    def stopped(argv):
        raise KeyboardInterrupt
    monkeypatch.setattr(abilities.rl, "main", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(words)
    early = tmp_path / "abilities" / "rl-0"  # of a run that was ended before its first checkpoint
    early.mkdir()
    (early / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="rl-0 has no checkpoint yet"):
        main(words)
    assert (early / "config.json").exists(), "nothing is deleted"
    shutil.rmtree(early)
    kept = json.loads((tmp_path / "abilities" / "abilities.json").read_text())
    assert [*kept["0"]] == ["base", "mid", "sft"]
    monkeypatch.setattr(abilities.rl, "main", whole)
    capsys.readouterr()
    main(words)
    said = capsys.readouterr().out
    assert "======== rl-0" in said and "======== sft-0" not in said
    assert "chat, pass@1" in said and "pass@16" in said and "counting" in said
    folder = tmp_path / "abilities"
    results = json.loads((folder / "abilities.json").read_text())["0"]
    cost = {stage: results[stage]["spent"] for stage in STAGES}
    assert cost["rl"] == spent(folder / "rl-0") and cost["sft"]["written"] == 0
    assert 0 <= cost["rival"]["written"] - cost["rl"]["written"] <= 32 * 16 * 16, "one round more"
    batch = 32 * 128
    assert abs(cost["rival"]["read"] - cost["rl"]["read"]) <= batch, "as much training"
    assert (folder / "abilities.png").stat().st_size > 10_000
    assert read_config(folder / "rival-0").init == str(folder / "sft-0")
    assert (folder / "practice.png").stat().st_size > 10_000
    rows = [json.loads(line) for line in (folder / "right-0.jsonl").read_text().splitlines()]
    questions = [row["messages"][0]["content"] for row in rows]
    train = {task.question for task in itertools.islice(
        examples(UNSURE.split("+"), "train", LEVEL, OTHERS), 1000)}
    assert {*questions} <= train and len(questions) > len({*questions}), (
        "questions of the training split, each as often as an answer was right")
    found = measured(folder / "sft-0", ["chat"], 1, 4)
    assert {*found["chat"]} == {*found["said"]} == {*abilities.ABILITIES}
