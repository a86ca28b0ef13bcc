"""Tests of selftest.py: it sees what works, and what doesn't."""

import runpy
import sys
from types import SimpleNamespace

import pytest

import selftest as module
from selftest import PATHS, selftest


def test_paths_refer_to_those_before():
    names = list(PATHS)
    for name, (_, legs, reference) in PATHS.items():
        assert legs and (reference is None or names.index(reference) < names.index(name))


@pytest.mark.slow
def test_selftest(capsys, monkeypatch, fork, quick_runs):
    """Of three paths: one that works, one whose command fails, one that learns something else."""
    def forked(words, **how):
        def work():
            sys.argv = words[1:]
            runpy.run_path(words[1], run_name="__main__")
        process = fork(work)
        process.join()
        said = process.log.read_text()
        return SimpleNamespace(returncode=process.exitcode, stdout=said, stderr=said)
    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=forked))
    small = "--n-layer", "1", "--vocab-size", "280", "--seq-len", "32"
    monkeypatch.setattr(module, "PATHS", {
        "alone": (small, [None], None),
        "broken": ((*small, "--lr", "-1"), [None], "alone"),
        "other": ((*small, "--seed", "1"), [None], "alone")})
    with pytest.raises(SystemExit, match="2 of 3 paths failed"):
        selftest(("alone", "broken", "other"))
    first, second, third = capsys.readouterr().out.splitlines()[-3:]
    assert first.endswith("0e+00  ok")
    assert "FAILED: error: lr is -1.0" in second and third.endswith("FAILED: more than 0.0001")


def test_no_path_begins_when_the_time_is_over(capsys, monkeypatch):
    """Those that were not tried are named."""
    now = iter((0, 4, 8, 12))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(module, "attempt", lambda words: "error: no")
    with pytest.raises(SystemExit, match="2 of 2 paths failed"):
        selftest(("alone", "ddp", "zero1", "zero2"), seconds=10)
    assert capsys.readouterr().out.endswith("no time for zero1, zero2\n")
