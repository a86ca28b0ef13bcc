"""Tests of compare.py: the page of several runs, and their list."""

import json

from compare import differing
from page import page
from report import main
from runs import as_json, save_checkpoint
from test_page import Page, run_of
from train import Config


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


def test_listing(tmp_path, capsys):
    """Where every run stands; one of an earlier version is in nobody's way."""
    for name, steps in (("one", 5), ("two", 7), ("unfinished", 0)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text(json.dumps(
            as_json(Config(n_layer=1, d_model=16)) | {"data_hash": "", "data_folders": []}))
        if steps:
            save_checkpoint(tmp_path / "runs" / name, steps, [], {}, val=2.0)
    (tmp_path / "runs" / "two" / "config.json").write_text("{}")
    main(["--runs-dir", str(tmp_path / "runs")])
    one, two = capsys.readouterr().out.splitlines()
    assert one == ("one                  step 5 of 350, 2.000 bits per byte of 10,000 "
                   "tokens, python, 1 layers of "
                   "width 16")
    assert two.startswith("two                  can't be read: ")
