"""Tests of metrics.py: rows are there at once, also when something else fails."""

import json

import pytest

from metrics import Hints, Log, environment, finite, forget_unbegun, read_metrics, table


def test_read_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.5}], "a line that a kill cut short"
    path.write_text('{"step": 1, "loss": NaN}\n')
    assert read_metrics(path) == [{"step": 1, "loss": None}], "what older files may hold"
    for line, complaint in (("5", "no metric"), ('{"step": "1"}', "no metric"),
                            ("nonsense", "no JSON"), ("[" * 100_000, "no JSON"),
                            ('{"step": 1, "environment": "x"}', "no metric"),
                            ('{"step": 1, "sample": 3}', "no metric")):
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match=complaint):
            read_metrics(path)


def test_finite():
    assert finite({"a": float("nan"), "b": {"c": float("-inf"), "d": 1.5}, "e": "inf", "f": 2}) == {
        "a": None, "b": {"c": None, "d": 1.5}, "e": "inf", "f": 2}


def test_record(tmp_path):
    with Log(tmp_path) as log:
        for step in (1, 2):
            log.record(step, loss=1.0 / step, grad_norm=float("inf"))
            rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
            assert len(rows) == step, "a row is in the file before the next one is recorded"
    assert [json.loads(row) for row in rows] == [{"step": 1, "loss": 1.0, "grad_norm": None},
                                                 {"step": 2, "loss": 0.5, "grad_norm": None}]


def test_what_will_come_again_is_forgotten(tmp_path):
    """Later steps, the result, and half a line; not what was before."""
    with Log(tmp_path) as log:
        for step in (1, 2, 3):
            log.record(step, loss=1.0)
        log.record(2, val_bits_per_byte=2.0, baselines={})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    with Log(tmp_path, step=2) as log:
        log.record(3, loss=0.5)
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 1.0}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 0.5}]


def test_what_is_damaged_is_put_aside(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text("nonsense\n")
    with Log(tmp_path, step=2) as log:
        log.record(3, loss=0.5)
    assert (tmp_path / "metrics.jsonl.damaged").read_text() == "nonsense\n"
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 0.5}]
    [line] = capsys.readouterr().err.splitlines()
    assert "no JSON" in line and "metrics.jsonl.damaged" in line


def test_numbers_that_no_float_can_hold_are_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 7, "loss": 1e999, "lr": 1' + "0" * 400 + ', "seconds": -2.5}\n')
    assert read_metrics(path) == [{"step": 7, "loss": None, "lr": None, "seconds": -2.5}]


def test_hints(capsys):
    """What fails is said once, in one line, and nothing in it reaches the terminal as it is."""
    hint = Hints()
    assert hint("add", lambda a, b: a + b, 1, b=2) == 3
    for _ in range(3):
        assert hint("divide", lambda: 1 / 0) is None
    assert hint("shout", lambda: open("\x1b[31m\n")) is None
    first, second = capsys.readouterr().err.splitlines()
    assert first == "could not divide; the run goes on (division by zero)"
    assert "\x1b" not in second and "No such file" in second
    with pytest.raises(KeyboardInterrupt):
        hint("stop", lambda: (_ for _ in ()).throw(KeyboardInterrupt))


def test_a_start_that_failed_leaves_no_folder(tmp_path):
    for name in ("config.json", "metrics.jsonl", "checkpoints"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).touch()
        forget_unbegun(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "metrics.jsonl"]


def test_environment():
    found = environment()
    assert set(found) == {"date", "python", "torch", "system", "cpu", "cores", "threads", "device"}
    assert found["cores"] >= 1 and found["threads"] >= 1 and found["device"] == "cpu"
    assert found["cpu"] and found["date"][:2] == "20" and json.dumps(found)


def test_table():
    lines = table({"zlib -9": 2.0, "this model": 1.5, "uniform": 3.25}).splitlines()
    assert [line.split() for line in lines] == [["uniform", "3.250"], ["zlib", "-9", "2.000"],
                                                ["this", "model", "1.500", "<--"]]
