"""Tests of packing.py: what is said to be wasted is counted by hand."""

import numpy as np
import pytest

from data import Ids
from packing import first_documents, in_documents, main, waste


def test_in_documents():
    starts = [0, 3, 4, 10]
    assert in_documents([(1, 9)], starts) == [(0, 1, 2), (1, 0, 1), (2, 0, 6)]
    assert in_documents([(10, 2), (4, 6)], starts) == [(3, 0, 2), (2, 0, 6)]


def test_in_documents_of_any_row():
    rng, starts = np.random.default_rng(0), np.array([0, 3, 4, 10, 17])
    which = np.repeat(np.arange(5), np.diff(starts, append=25))  # the document of every place
    for _ in range(200):
        start, end = sorted(rng.choice(26, 2, replace=False))
        pieces = in_documents([(start, end - start)], starts)
        places = [(d, starts[d] + offset + i) for d, offset, n in pieces for i in range(n)]
        assert places == [(which[place], place) for place in range(start, end)], (
            f"the ids {start} .. {end - 1} must each be given to the document that they are in: "
            "its first id is its own, not that of the document before")
        assert all(n > 0 for *_, n in pieces), (
            "a piece must not be empty: the row ends with its last id, not one id later")


def test_waste():
    """20 documents of 5 ids, windows of 10: two of them fit, and the one id after."""
    ids = Ids(np.arange(100), np.arange(0, 100, 5))
    assert waste("stream", ids, 10) == pytest.approx({
        "never a target": 1 / 100, "beginning unseen": 0.0, "padding": 1 / 100})
    cut = waste("bestfit", ids, 9)
    assert cut == pytest.approx({"never a target": 10 / 100, "beginning unseen": 0.0,
                                 "padding": 0.0}), "the first id of a window is no target"
    cut = waste("bestfit", ids, 3)
    assert cut == pytest.approx({"never a target": 40 / 100, "beginning unseen": 0.0,
                                 "padding": 0.0}), "the first id and the fifth"
    assert waste("stream", ids, 3)["beginning unseen"] > 0.3
    assert 0.2 < waste("random", ids, 10)["never a target"] < 0.5


def test_first_documents():
    ids = Ids(np.arange(100), np.arange(0, 100, 7))
    part = first_documents(ids, 20)
    assert len(part) == 21 and part.starts.tolist() == [0, 7, 14], "whole documents"
    assert len(first_documents(ids, 99)) == len(first_documents(ids, 1000)) == 100


def test_command_line(tmp_path, capsys):
    (tmp_path / "text").write_text("the cat sat on the mat\n" * 200)
    main([f"folder:{tmp_path / 'text'}", "--vocab-size", "280", "--seq-len", "16",
          "--data-dir", str(tmp_path / "data")])
    out = capsys.readouterr().out
    assert all(name in out for name in ("random", "stream", "bestfit", "beginning unseen"))
    assert list((tmp_path / "data").glob("*/packing.png"))[0].stat().st_size > 5000
