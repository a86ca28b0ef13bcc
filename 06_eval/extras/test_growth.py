"""Tests of growth.py: every kept checkpoint is scored once, and drawn over the tokens seen."""

import json
import shutil

import pytest

import charts
import growth
import train
from bundle import read_bundle
from core import decisions, main, mean_centred, prepare
from runs import load_run
from scoring import score_items
from test_bundle import make_bundle

pytest.importorskip("yaml", reason="an oracle of tests/requirements.txt")


@pytest.fixture
def course(tmp_path, quick_runs):
    make_bundle(tmp_path / "bundle")
    (tmp_path / "text").write_text("".join(f"{i} + 1 = {i + 1}\n" for i in range(900)))
    train.main(["--preset", "nano", "--data", f"folder:{tmp_path / 'text'}", "--vocab-size", "280",
                "--steps", "12", "--snapshots", "4", "--save-every", "10", "--device", "cpu",
                "--data-dir", str(tmp_path / "data"), "--runs-dir", str(tmp_path / "runs")])
    return tmp_path


def test_growth(course, capsys, monkeypatch, fails):
    arguments = ["--runs-dir", str(course / "runs"), "--bundle", str(course / "bundle"), "--device",
                 "cpu", "--every-checkpoint"]
    drawn = []
    monkeypatch.setattr(charts, "draw_growth", lambda *how, draw=charts.draw_growth:
                        drawn.append(how) or draw(*how))
    main(arguments)
    out = capsys.readouterr().out
    points, means, tokens, path, title = drawn[-1]
    assert means == [mean_centred(row) for row in points.values()]
    assert [*points] == [1, 2, 5, 10, 12], "four snapshots, and a checkpoint besides"
    assert tokens[5] == 5 * 8 * 64 and title == "nano"
    assert "\nsums  " in out and "0 of 0" in out, "a table, with what was in the training text"
    assert out.count("mean centred accuracy") == 5 and "shows 5 checkpoints" in out
    assert path.read_bytes().startswith(b"\x89PNG")
    for task in read_bundle(course / "bundle"):
        model, tokenizer, config, _ = load_run(course / "runs" / "nano", which="5")
        items, _ = prepare(task, tokenizer, config.seq_len)
        assert points[5][task.label]["correct"] == decisions(task, score_items(model, items))
    losses = [points[step]["sums"]["loss"] for step in points]
    assert losses[-1] < losses[0], "what is learned shows in the loss"

    monkeypatch.setattr(growth, "score_items", lambda *how, **more: pytest.fail("scored again"))
    main(arguments)
    assert drawn[-1] == drawn[-2] and capsys.readouterr().out == out, "kept in growth.json"
    path = course / "runs" / "nano" / "growth.json"
    path.write_text("[1]")
    assert "holds no checkpoints that this command" in fails(main, *arguments)
    path.unlink()
    monkeypatch.undo()
    monkeypatch.setattr(growth, "load_weights", lambda model, path, load=growth.load_weights:
                        load(model, path) if "step-000005" not in path.name else
                        [shutil.rmtree(path), load(model, path)])
    main(arguments)
    assert "shows 4 checkpoints" in capsys.readouterr().out, "one was deleted in the meantime"
    shutil.rmtree(course / "runs" / "nano" / "checkpoints")
    main([*arguments, "--run", "nano"])
    assert "shows 3 checkpoints" in capsys.readouterr().out, "of a run with snapshots alone"


def test_a_picture_says_if_it_is_of_a_part(course, capsys, monkeypatch):
    """Its run may have any name; that it shows a picture is said only if there is one."""
    (course / "runs" / "nano").rename(course / "runs" / "a$x_$b")
    titles = []
    monkeypatch.setattr(charts, "draw_growth", lambda *how, draw=charts.draw_growth:
                        titles.append(how[-1]) or draw(*how))
    arguments = ["--runs-dir", str(course / "runs"), "--bundle", str(course / "bundle"), "--device",
                 "cpu", "--every-checkpoint", "--items", "2"]
    main(arguments)
    said = capsys.readouterr()
    assert "could not" not in said.err and said.out.count("shows 5 checkpoints") == 1
    assert titles[0].startswith("a$x_$b, at the end partial, 3 tasks of at most 2 items a task")
    (course / "runs" / "a$x_$b" / "growth.png").unlink()
    monkeypatch.setattr(charts, "draw_growth", lambda *how: 1 / 0)
    main(arguments)
    said = capsys.readouterr()
    assert "could not draw the scores" in said.err and "shows" not in said.out


def test_a_kill_loses_one_task(course, monkeypatch):
    """What was scored before is in the file after each task."""
    calls = []

    def fail(*how, score=growth.score_items, **more):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(how)
        return score(*how, **more)
    monkeypatch.setattr(growth, "score_items", fail)
    with pytest.raises(KeyboardInterrupt):
        main(["--runs-dir", str(course / "runs"), "--bundle", str(course / "bundle"), "--device",
              "cpu", "--every-checkpoint"])
    path = course / "runs" / "nano" / "growth.json"
    assert len(json.loads(path.read_text())["checkpoints"]) == 4
