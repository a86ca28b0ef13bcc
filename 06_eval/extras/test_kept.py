"""Tests of kept.py: what is in a file is what was put there; anything else is refused."""

import json

import pytest

from kept import Kept


def test_rows_come_back(tmp_path):
    path = tmp_path / "a.json"
    kept = Kept(path, "tasks", "key", "runs/a, step 3", ("hash",))
    assert kept.rows == {} and not path.exists(), "nothing is written before there is a result"
    row = {"correct": [True, False], "hash": "h"}
    kept.put("one", row)
    kept.put("two", row)
    assert json.loads(path.read_text()) == {"what": "runs/a, step 3", "of": "key",
                                            "tasks": {"one": row, "two": row}}
    again = Kept(str(path), "tasks", "key", "", ("hash",))
    assert again.rows == {"one": row, "two": row}
    assert Kept(path, "tasks").rows == again.rows, "without a key, of any model"
    with pytest.raises(ValueError, match="holds results of 'runs/a, step 3', of other weights"):
        Kept(path, "tasks", "other")
    assert Kept(None, "tasks", "key").rows == {}, "without a path, in memory alone"
    other = Kept(path, "certificate", "key")
    assert other.rows == {}, "a file may hold several kinds of the same model"
    other.put("three", {"correct": [False]})
    assert Kept(path, "tasks", "key").rows == again.rows
    assert json.loads(path.read_text())["what"] == "runs/a, step 3"


@pytest.mark.parametrize("content", [
    "", "[]", "{", "null", "{}", '{"what": "a", "tasks": []}', '{"what": "a", "tasks": {"a": 1}}',
    '{"name": "something else"}',
    '{"what": "a", "tasks": {"a": {"correct": [true]}}}',
    '{"what": "a", "tasks": {"a": {"correct": [], "hash": "h"}}}',
    '{"what": "a", "tasks": {"a": {"correct": [1], "hash": "h"}}}',
    '{"what": "a", "tasks": {"a": {"correct": null, "hash": 1}}}',
    "[" * 100_000], ids=range(13))
def test_anything_else_is_refused(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no tasks that this command has written"):
        Kept(path, "tasks", "key", "", ("hash",))
    assert path.read_text() == content
