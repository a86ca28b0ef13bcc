"""Tests of compare.py: the page of several runs."""

from compare import differing
from page import page
from test_page import Page, run_of


def test_differing():
    assert differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}]) == {"b": [2, 3]}
    assert differing([{"a": [1]}, {}]) == {"a": [[1], None]}
    assert differing([{}, {}]) == {}


def test_page_of_several_runs(tmp_path):
    run_of(tmp_path / "a")
    run_of(tmp_path / "b", n=20, done=False, lr=0.02)
    page([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html")
    found = Page(tmp_path / "page.html")
    assert found.tags.count("svg") == 5, "the curves of both runs are in the same pictures"
    for row in (["a", "b"], ["bits per byte", "1.250", "1.050 so far"], ["steps", "30", "20 of 30"],
                ["lr", "0.006", "0.02"], ["date", "a", "b"]):
        assert row in found.rows, f"{row} is missing"
    assert ["python", "3.11", "3.11"] not in found.rows, "what is the same is not listed"
    assert found.texts.count("written after 5") == 2
    assert "written after 20" in found.texts and "written after 30" in found.texts
