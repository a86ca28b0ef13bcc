"""Tests of wandb_log.py: a hint, no more. Weights & Biases is played by a module of its name."""

import sys
import types

import pytest

from metrics import read_metrics
from wandb_log import WandbLog


class Wandb(types.ModuleType):
    """Remembers what it was told; from the row `broken` on it fails."""

    def __init__(self, broken=None):
        super().__init__("wandb")
        self.started, self.rows, self.broken, self.code = [], [], broken, None

    def init(self, **how):
        if self.broken == 0:
            raise RuntimeError("no API key\nconfigured")
        self.started.append(how)
        return self

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, row):
        self.rows.append(row)
        if len(self.rows) == self.broken:
            raise OSError("connection lost")

    def finish(self, exit_code):
        self.code = exit_code


def test_wandb_gets_every_row(monkeypatch, tmp_path):
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    folder = tmp_path / "tiny-2"
    folder.mkdir()
    with WandbLog(folder, config={"lr": 0.1}) as log:
        log.record(1, loss=2.0)
        log.record(2, loss=float("nan"))
    with pytest.raises(KeyboardInterrupt), WandbLog(folder, step=1) as log:
        assert fake.code == 0
        log.record(2, loss=1.5)
        raise KeyboardInterrupt
    assert fake.code == 1, "a run that was ended by an error is marked so"
    assert fake.rows == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None},
                         {"step": 2, "loss": 1.5}]
    first, second = fake.started
    assert first["id"] == second["id"] and first["resume"] == "allow", "it is one run there too"
    assert (first["name"], first["project"], first["config"]) == ("tiny-2", "mine", {"lr": 0.1})
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == [0, 1, 2]


def test_a_run_outlives_wandb(monkeypatch, tmp_path, capsys):
    fake = Wandb(broken=2)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with WandbLog(tmp_path) as log:
        for step in range(1, 6):
            log.record(step, loss=1.0)
    assert len(fake.rows) == 2 and fake.code is None, "it is asked no more"
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1 + 5, "all rows are in the file"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "connection lost" in lines[0] and "any longer" in lines[0]


@pytest.mark.parametrize("module, why", [(None, "wandb"),
                                         (Wandb(broken=0), "no API key configured")])
def test_wandb_that_cannot_start(module, why, monkeypatch, tmp_path, capsys):
    """Not installed, or without a key or a network: the run goes on, and one line says so."""
    monkeypatch.setitem(sys.modules, "wandb", module)
    with WandbLog(tmp_path) as log:
        for step in (1, 2):
            log.record(step, loss=1.0)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("could not send metrics to wandb (pip install wandb,") and why in line
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
