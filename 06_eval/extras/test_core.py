"""Tests of core.py: a table that doesn't mislead, and results that are kept."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

import core
import housekeeping
import train
from bpe import Tokenizer
from bundle import CORE, read_bundle
from core import (Options, derived, heading, interval, key_of, main, majority, mean_centred,
                  paired_bootstrap, report, score, score_shuffled)
from duplicates import ngrams
from evals import centred, gold_of, is_right, span_losses
from test_bundle import make_bundle

pytest.importorskip("yaml", reason="an oracle of tests/requirements.txt")


@pytest.fixture(scope="module")
def course(tmp_path_factory, quick_runs):
    """A folder with a bundle and a run, whose text has one of the bundle's items in full."""
    base = tmp_path_factory.mktemp("core")
    make_bundle(base / "bundle")
    path = base / "bundle" / "eval_data" / "cats.jsonl"
    [first, *others] = path.read_text().splitlines()
    long = json.loads(first) | {"continuation": " ".join(f"word{i}" for i in range(15))}
    path.write_text("\n".join([json.dumps(long), *others]))
    for i in range(3):
        whole = "\n".join(f"{text} {long['continuation']}" for text in long["context_options"])
        (base / f"{i}.txt").write_text(whole + "".join(f"{i} spam {j} eggs\n" for j in range(400)))
    train.main(["--preset", "nano", "--data", f"folder:{base},include=*.txt", "--vocab-size", "300",
                "--steps", "20", "--device", "cpu", "--data-dir", str(base / "data"),
                "--seq-len", "96", "--runs-dir", str(base / "runs")])
    return base


def options(course, *more):
    return ["--runs-dir", str(course / "runs"), "--bundle", str(course / "bundle"), "--device",
            "cpu", *map(str, more)]


# ---- how sure ----
def test_interval():
    assert interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-3), "it has a width at 0, too"
    assert interval(10, 10) == pytest.approx((0.7225, 1), abs=1e-3), "and at 1"
    assert interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-3), "Wilson's, not Wald's"
    low, high = interval(400, 1000)
    assert (low + high) / 2 == pytest.approx(0.4, abs=1e-3), "of many items it is around p"
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.24 / 1000), rel=0.01), (
        "of many items it has the width of the normal one")
    assert interval(1, 1)[1] == 1 and interval(0, 1)[0] == 0, "it never leaves 0 ... 1"


def test_paired_bootstrap():
    rng, seed = np.random.default_rng(4), 4
    hard = rng.random(400)  # both models find the same items hard
    ours, others = rng.random(400) > hard - 0.05, rng.random(400) > hard
    gain, low, high = paired_bootstrap(ours, others)
    assert gain == pytest.approx(ours.mean() - others.mean()), "the difference of the means"
    picked = rng.integers(0, 400, (20_000, 400))
    means = (ours[picked].astype(float) - others[picked]).mean(axis=1)
    assert (low, high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.004), (
        "the 2.5 and 97.5 percentiles of samples in which both decisions on an item stay together; "
        f"seed {seed}")
    assert paired_bootstrap(ours, others) == (gain, low, high), "the same seed, the same numbers"
    assert paired_bootstrap([True] * 9, [True] * 9) == (0, 0, 0), "equal decisions differ by 0"
    assert paired_bootstrap([True] * 9, [False] * 9) == (1, 1, 1), "ours minus the others"


def row(accuracy, n=100, baseline=0.0, **more):
    right = round(accuracy * n)
    return {"correct": [True] * right + [False] * (n - right), "accuracy": accuracy, "shots": 0,
            "interval": interval(right, n), "baseline": baseline, "cropped": 0, "majority": 0.5,
            "centred": (accuracy - baseline / 100) / (1 - baseline / 100), "hash": "h"} | more


def test_mean_centred():
    mean, side = mean_centred({"a": row(0.75, baseline=50), "b": row(0.3)})
    assert mean == pytest.approx((0.5 + 0.3) / 2)
    errors = [math.sqrt(0.75 * 0.25 / 100) / 0.5, math.sqrt(0.3 * 0.7 / 100)]
    assert side == pytest.approx(1.96 * math.hypot(*errors) / 2, rel=0.03)
    assert mean_centred({"a": row(0.0)})[1] > 0.01, "none of 100 is no certainty"


def test_two_tasks_with_the_same_items_are_not_independent():
    alone = mean_centred({"hellaswag": row(0.3, baseline=25)})
    twice = {"hellaswag": row(0.3, baseline=25), "hellaswag_zeroshot": row(0.3, baseline=25)}
    assert mean_centred(twice) == pytest.approx(alone), "twice the same items, no more certainty"
    assert mean_centred({"a": row(0.3, baseline=25), "b": row(0.3, baseline=25)})[1] == (
        pytest.approx(alone[1] / math.sqrt(2))), "of other items, more"
    worse = {label: row(0.1, baseline=25) for label in twice}
    alike = {label: each for label, each in zip("ab", worse.values())}
    sides = [float("\n".join(report(ours, others)).split(" +- ")[1].split()[0]) for ours, others in
             ((twice, worse), (dict(zip("ab", twice.values())), alike))]
    assert sides[0] == pytest.approx(sides[1] * math.sqrt(2), abs=1e-3), "a difference's, too"


def test_only_22_tasks_are_core():
    options = Options(run="x", bundle="b")
    whole = {label: row(0.5) for label in CORE}
    assert heading(whole, options).startswith("CORE: 0.5000 +- ")
    assert heading(whole | {"other": row(0.0)}, options).startswith("CORE: 0.5000"), (
        "a bundle may hold other tasks, which are no part of CORE")
    assert heading(whole, Options(run="x", bundle="b", items=50)).startswith(
        "CORE of at most 50 items a task: ")
    assert "not CORE" in heading({f"{n}": row(0.5) for n in range(22)}, options)
    part = dict([*whole.items()][1:])
    assert heading(part, options).startswith("partial, 21 tasks, 21 of CORE's 22: mean")
    assert heading({"a": row(0.5)}, options).startswith("partial, 1 task, 0 of CORE's 22")
    assert heading(part, options).endswith("This is not CORE.")


def test_report():
    ours = {"a": row(0.9, seen=7, checked=90), "b": row(0.2, hash="other"), "c": row(0.5)}
    lines = "\n".join(report(ours, {"a": row(0.5), "b": row(0.3)}))
    assert "7 of 90" in lines and lines.count("unknown") == 2
    assert "mean centred accuracy +0.4000 +- 0.1" in lines, "of the one task that both have"
    assert "    +40.0%" in lines and lines.count("  *") == 1, "a * where 0 is outside"
    assert lines.count("scored on other items, or not at all") == 2
    both = {"a": row(1.0, shuffled=0.625)}
    assert "62.5%" not in "\n".join(report(both)), "kept, but not asked for"
    assert "62.5%" in "\n".join(report(both, None, True))


# ---- a task ----
def test_majority(course):
    sums, cats, count = read_bundle(course / "bundle")
    assert majority(sums, 9) == 1, "the first choice is always right"
    assert majority(cats, 4) == 0.5, "either place is right in half of the items"
    assert majority(cats, 1) == 1, "of one item one answer is right"
    assert majority(count, 7) == 1 / 7, "every answer comes once"


def test_score(course):
    """Decisions are those of evals.py, one item at a time, in the order of the shuffled items."""
    choices = Options(runs_dir=str(course / "runs"), device="cpu")
    _, model, tokenizer, config, _ = choices.load()
    for task in read_bundle(course / "bundle"):
        found = score(model, task, tokenizer, choices)
        for name, each in (("correct", task), ("shuffled", task.swapped())):
            expected, losses = [], []
            for i, item in enumerate(task.items):
                rows, _ = each.spans(i, tokenizer, config.seq_len)
                scored = [span_losses(model, row, start) for row, start in rows]
                expected.append(is_right(task.kind, item, scored))
                losses.append(float(scored[gold_of(task.kind, item)][0].mean()))
            if name == "correct":
                assert found["correct"] == expected
                assert found["loss"] == pytest.approx(np.mean(losses), abs=1e-4)
            else:
                assert score_shuffled(model, task, tokenizer, choices) == np.mean(expected)
        whole = derived(task, found)
        assert whole["accuracy"] == np.mean(found["correct"])
        assert whole["centred"] == centred(whole["accuracy"], task.baseline)
        few = score(model, task, tokenizer, Options(runs_dir="x", items=2, batch_size=1))
        assert few["correct"] == found["correct"][:2], "the first two; examples from all items"


def test_no_more_at_once_than_in_training(course):
    choices = Options(runs_dir=str(course / "runs"))
    choices.load()
    assert choices.batch_size == 8, "nano has a micro-batch of 8"
    path = course / "runs" / "nano" / "config.json"
    before = path.read_text()
    path.write_text(before.replace('"micro_batch": 8', '"micro_batch": 2'))
    for given, used in ((0, 2), (32, 32)):
        choices = Options(runs_dir=str(course / "runs"), batch_size=given)
        choices.load()
        assert choices.batch_size == used
    path.write_text(before)


# ---- the command ----
def test_command(course, capsys, tmp_path, monkeypatch, fails):
    path = tmp_path / "scores.json"
    main(options(course, "--json", path, "--shuffled"))
    out, content = capsys.readouterr().out, json.loads(path.read_text())
    for word in ("sums", "cats", "count", "guess", "one answer", "cropped", "shuffled",
                 "partial, 3 tasks, 0 of CORE's 22"):
        assert word in out
    assert [*content["tasks"]] == ["sums", "cats", "count"]
    sums, cats, count = content["tasks"].values()
    assert len(sums["correct"]) == 9 and {*map(type, sums["correct"])} == {bool}
    assert sums["centred"] == pytest.approx((sums["accuracy"] - 0.5) / 0.5)
    assert sums["cropped"] > 0, "the window is short"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert not (course / "runs" / "nano" / "core.png").exists()
    main(options(course))
    assert (course / "runs" / "nano" / "core.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    [line] = [line for line in out.splitlines() if line.startswith("cats")]
    assert line.split()[-4:-1] == ["1", "of", "1"], (
        "one of the four items has 13 words, and stands in the training text")

    monkeypatch.setattr(core, "score", lambda *how: pytest.fail("computed again"))
    main(options(course, "--json", path, "--shuffled"))
    assert capsys.readouterr().out == out, "what the file holds is read from there"
    main(options(course, "--json", path, "--tasks", "cats", "--against", path))
    assert "+0.0%" in capsys.readouterr().out
    assert [*json.loads(path.read_text())["tasks"]] == ["sums", "cats", "count"], "all are kept"

    (tmp_path / "growth.json").write_text('{"what": "nano", "of": "", "checkpoints": {}}')
    assert "holds no scores of tasks" in fails(main, *options(
        course, "--against", tmp_path / "growth.json"))
    assert "give --json another name" in fails(main, *options(
        course, "--json", path.with_suffix(".png")))
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "sums: 3 examples beside the item itself" in fails(main, *options(
        course, "--max-per-task", 3))
    assert "has no task 'x'" in fails(main, *options(course, "--tasks", "x"))
    path.write_text('{"tasks": {"a": []}}')
    assert "holds no tasks that this command" in fails(main, *options(course, "--against", path))
    assert "holds no tasks that this command" in fails(main, *options(course, "--json", path))
    assert "there is no file" in fails(main, *options(course, "--against", tmp_path / "none"))
    for more in (("--certify", "--every-checkpoint"), ("--every-checkpoint", "--shuffled")):
        assert "give one of them" in fails(main, *options(course, *more))
    assert "leave out --json and --weights" in fails(main, *options(
        course, "--every-checkpoint", "--json", path))


def test_what_is_asked_for_later_is_added(course, tmp_path, monkeypatch, capsys):
    """--shuffled with a file of scores: what is there is not computed again, killed or not."""
    path, swapped = tmp_path / "scores.json", []

    def kill(model, task, *how, score=core.score_shuffled):
        swapped.append(task.label)
        if len(swapped) == 2:
            raise KeyboardInterrupt
        return score(model, task, *how)
    monkeypatch.setattr(core, "score_shuffled", kill)
    main(options(course, "--json", path, "--tasks", "sums"))
    with pytest.raises(KeyboardInterrupt):
        main(options(course, "--json", path, "--shuffled"))
    rows = json.loads(path.read_text())["tasks"]
    assert ["shuffled" in rows[label] for label in rows] == [True, False], "two tasks, one swapped"
    monkeypatch.setattr(core, "score", lambda model, task, *how, score=core.score: score(
        model, task, *how) if task.label == "count" else pytest.fail(f"{task.label} again"))
    main(options(course, "--json", path, "--shuffled"))
    assert swapped == ["sums", "cats", "cats", "count"]
    capsys.readouterr()


def test_what_cannot_be_kept_is_not_computed(course, tmp_path, monkeypatch, fails):
    monkeypatch.setattr(housekeeping.os, "access", lambda path, how: path != tmp_path)
    monkeypatch.setattr(core, "score", lambda *how: pytest.fail("computed"))
    assert "no right to write into" in fails(main, *options(
        course, "--json", tmp_path / "new" / "a.json"))
    assert not (tmp_path / "new").exists()


def test_what_is_kept_is_of_one_model(course, tmp_path, capsys, monkeypatch, fails):
    path, scored = tmp_path / "folder" / "scores.json", []
    monkeypatch.setattr(core, "score", lambda model, task, *how: scored.append(task.label) or {
        "correct": [True, False], "hash": task.hash, "means": [], "loss": 1.0, "cropped": 0})
    main(options(course, "--json", path))
    before = path.read_text()
    assert scored == ["sums", "cats", "count"] and json.loads(before)["what"].endswith("step 20")
    monkeypatch.setattr(core, "read_bundle", lambda *how, read=core.read_bundle: [
        task.cut(6) for task in read(*how)])
    main(options(course, "--json", path))
    assert scored[3:] == ["sums", "count"], "of other items; cats has only four"
    monkeypatch.setattr(core, "read_bundle", lambda *how, read=core.read_bundle: [
        replace(task, baseline=20.0) for task in read(*how)])
    main(options(course, "--json", path))
    assert len(scored) == 5 and json.loads(path.read_text())["tasks"]["sums"]["centred"] == (
        pytest.approx((0.5 - 0.2) / 0.8)), "scores follow from the decisions that are kept"
    for more in ("--items", "--max-per-task"):  # else they would replace whole tasks
        assert "of other weights or with other options" in fails(main, *options(
            course, "--json", path, more, 4))
    path.write_text('{"name": "a file of something else"}')
    assert "holds no tasks" in fails(main, *options(course, "--json", path))
    assert json.loads(path.read_text()) == {"name": "a file of something else"}


def test_what_a_key_depends_on(course):
    """All that may change a decision, and nothing that can't."""
    choices = Options(runs_dir=str(course / "runs"))
    _, model, tokenizer, _, _ = choices.load()
    key = key_of(model, tokenizer, choices)
    assert key == key_of(model, tokenizer, replace(choices, batch_size=1, shuffled=True))
    half = replace(choices, dtype="bfloat16")
    keys = {key, key_of(model, tokenizer, half), key_of(model, tokenizer, replace(
        half, batch_size=3)), key_of(model, tokenizer, replace(choices, items=4)),
        key_of(model, Tokenizer([(97, 98)]), choices),
            key_of(model, tokenizer, replace(choices, max_per_task=6))}
    weight = model.blocks[1].mlp.up.weight.data
    weight[[20, 30]] = weight[[30, 20]]  # the same numbers, elsewhere
    keys.add(key_of(model, tokenizer, choices))
    model.config = replace(model.config, seq_len=32)
    keys.add(key_of(model, tokenizer, choices))
    assert len(keys) == 8, "dtype, batch size of bfloat16, items, tokenizer, weights, window"


def test_training_texts(course):
    """All of the training text, whatever the size of its parts: no run of 13 words is lost."""
    _, model, tokenizer, config, _ = Options(runs_dir=str(course / "runs")).load()
    data = core.run_data(course / "runs" / "nano")
    whole = tokenizer.decode_bytes(data.train.read(0, len(data.train)).tolist()).decode()
    parts = [*core.training_texts(data, tokenizer, 500, 100)]
    assert len(parts) > 5
    assert {*ngrams(whole, 13).tolist()} <= {g for part in parts for g in ngrams(part, 13).tolist()}
