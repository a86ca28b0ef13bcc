"""Tests of selftest.py: it sees what works, and what doesn't."""

import pytest

import selftest as module
from selftest import PATHS, selftest


def test_paths_refer_to_those_before():
    names = list(PATHS)
    for name, (_, legs, reference) in PATHS.items():
        assert legs and (reference is None or names.index(reference) < names.index(name))


@pytest.mark.slow
def test_selftest(capsys, monkeypatch):
    """Of three paths: one that works, one whose command fails, one that learns something else."""
    monkeypatch.setattr(module, "PATHS", {
        "alone": ((), [None], None),
        "broken": (("--lr", "-1"), [None], "alone"),
        "other": (("--seed", "1"), [None], "alone")})
    with pytest.raises(SystemExit, match="2 of 3 paths failed"):
        selftest(("alone", "broken", "other"))
    first, second, third = capsys.readouterr().out.splitlines()[-3:]
    assert first.endswith("0e+00  ok")
    assert "FAILED: error: lr is -1.0" in second and third.endswith("FAILED: more than 0.0001")
