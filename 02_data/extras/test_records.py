"""Tests of records.py: other people's rows, files and damages."""

import gzip
import json
import zipfile

import pytest

from records import as_record, read_any, read_core, read_jsonl, read_wikitext, with_calculator

USER, ASSISTANT = ({"role": role, "content": text} for role, text in
                   (("user", "Hi"), ("assistant", "Ho")))


def test_with_calculator():
    assert with_calculator("6 * 7 = <<6*7=42>>42") == [
        {"type": "text", "text": "6 * 7 = "}, {"type": "python", "text": "6*7"},
        {"type": "output", "text": "42"}, {"type": "text", "text": "42"}]
    assert with_calculator("<<1=1=1>>") == [{"type": "python", "text": "1=1"},
                                            {"type": "output", "text": "1"}]
    assert with_calculator("no sums") == [{"type": "text", "text": "no sums"}]


def test_as_record():
    assert as_record({"content": "x", "max_stars_count": 3, "max_stars_repo_path": "a.go",
                      "max_stars_repo_licenses": ["MIT"], "lang": "Go"}, "") == {
        "text": "x", "stars": 3, "path": "a.go", "license": ["MIT"]}
    assert as_record({"text": "x", "stars": None}, "") == {"text": "x"}, "unknown is not there"
    assert as_record({"body": "x", "text": "y"}, "", field="body") == {"text": "x"}
    assert as_record({"turns": ["Hi", "Ho"]}, "")["messages"] == [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    humaneval = {"prompt": "func f() {\n", "canonical_solution": "}\n", "test": "f()"}
    assert as_record(humaneval, "")["text"] == "func f() {\n}\nf()"
    core = {"query": "Why?", "choices": ["a", "b"], "gold": 0}
    assert as_record(core, "")["text"] == "Why?\na\nb"
    with pytest.raises(ValueError, match="line 7 has no text under 'text' or 'content', only a, b"):
        as_record({"a": 1, "b": 2}, "line 7")
    with pytest.raises(ValueError, match="no text under 'body'"):
        as_record({"text": "x"}, "line 7", field="body")


def test_an_explicit_text_comes_first():
    assert as_record({"text": "x", "choices": ["a"], "messages": []}, "") == {"text": "x"}
    row = {"prompt": "P", "canonical_solution": "S", "test": "T"}
    assert as_record(row, "", field="prompt") == {"text": "P"}


@pytest.mark.parametrize("row", [
    {"text": 5}, {"text": 5, "messages": [USER]}, {"messages": 5}, {"messages": ["Hi"]},
    {"messages": []}, {"messages": [{"content": "Hi"}]}, {"messages": [{"role": "user"}]},
    {"messages": [USER | {"content": None}]}, {"messages": [USER | {"content": 5}]},
    {"messages": [USER, USER]}, {"messages": [USER | {"content": ["Hi"]}]},
    {"messages": [USER | {"content": [{"type": "text"}]}]}, {"turns": 5}, {"turns": [1, 2]},
    {"question": "?", "answer": {"value": 1}}, {"canonical_solution": "x"}, {"choices": 5},
    {"choices": [1, 2]}, {"messages": [{"role": "system", "content": "x"},
                                       USER | {"content": [{"type": "text", "text": "Hi"}]}]},
], ids=json.dumps)
def test_rows_that_are_no_record(row):
    with pytest.raises(ValueError, match="^line 7 can't be read: |^line 7 has no text"):
        as_record(row, "line 7")


def test_what_is_known_is_of_the_right_type_or_left_out():
    row = {"text": "x", "path": 5, "repo": ["r"], "license": [None, "MIT"], "stars": "12"}
    assert as_record(row, "") == {"text": "x", "license": ["MIT"]}
    assert as_record({"text": "x", "license": "MIT"}, "")["license"] == ["MIT"]
    for license in ("", [], [None], 5):
        assert as_record({"text": "x", "license": license}, "") == {"text": "x"}


def test_half_a_character_is_replaced():
    text = json.loads('"a\\ud83d b \\ud83d\\ude00"')
    assert as_record({"text": text}, "")["text"] == "a\ufffd b \U0001f600"
    messages = [USER | {"content": text}]
    assert as_record({"messages": messages}, "")["messages"][0]["content"][1] == "\ufffd"


def test_read_jsonl(tmp_path):
    rows = [{"text": f"ligne {i} é"} for i in range(5)]
    data = "\n".join(map(json.dumps, rows)).encode() + b"\n\n"
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
    for name in ("a.jsonl", "a.jsonl.gz"):
        assert list(read_jsonl(tmp_path / name)) == rows
        assert list(read_any(tmp_path / name)) == rows


def test_zst(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "x"}\n'))
    assert list(read_any(tmp_path / "a.jsonl.zst")) == [{"text": "x"}]


@pytest.mark.parametrize("name, data, error", [
    ("a.jsonl", b'{"text": "x"}\n{"text": ', "a.jsonl, line 2, is not JSON"),
    ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl is damaged after line 0"),
    ("a.jsonl", b'[1]\n', "a.jsonl, line 1, is not a JSON object"),
    ("a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 9, mtime=0)[:-9], "a.jsonl.gz is damaged"),
    ("a.jsonl.gz", b"plain", "a.jsonl.gz is damaged"),
    ("a.jsonl.gz", gzip.compress(bytes(range(256)) * 9, mtime=0)[:30] + b"junk" * 9, "a.jsonl.gz"),
    ("a.jsonl", b"[" * 100_000, "line 1, is not JSON"),
    ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", "line 1, is not JSON"),
])
def test_damaged_lines(tmp_path, name, data, error):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=error):
        list(read_jsonl(tmp_path / name))


def test_read_parquet(tmp_path):
    pyarrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    rows = [{"content": f"package p{i}", "max_stars_count": i, "junk": b"x"} for i in range(2500)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert list(read_any(tmp_path / "a.parquet")) == [
        {"text": row["content"], "stars": row["max_stars_count"]} for row in rows]
    (tmp_path / "b.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ValueError, match="b.parquet is not a parquet file"):
        list(read_any(tmp_path / "b.parquet"))


def test_read_wikitext(tmp_path):
    pyarrow, parquet = map(pytest.importorskip, ("pyarrow", "pyarrow.parquet"))
    lines = ["", " = One = \n", "", " a \n", " = = Part = = \n", " b \n", " = Two = \n",
             " c = d \n"]
    parquet.write_table(pyarrow.table({"text": lines}), tmp_path / "a.parquet")
    texts = [record["text"] for record in read_wikitext(tmp_path / "a.parquet")]
    assert texts == ["", " = One = \n a \n = = Part = = \n b \n", " = Two = \n c = d \n"]


def test_read_core(tmp_path):
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as bundle:
        bundle.writestr("eval_bundle/core.yaml", "icl_tasks: []")
        bundle.writestr("eval_bundle/eval_data/world/arc.jsonl",
                        json.dumps({"query": "Why?", "choices": ["a", "b"], "gold": 0}))
        bundle.writestr("eval_bundle/eval_data/world/lambada.jsonl",
                        json.dumps({"context": "It was", "continuation": "so"}))
        bundle.writestr("__MACOSX/eval_bundle/eval_data/._arc.jsonl", "junk")
    assert [record["text"] for record in read_core(tmp_path / "bundle.zip")] == [
        "Why?\na\nb", "It was\nso"]


@pytest.mark.parametrize("change, said", [
    (lambda data: b"<html>please log in", "is no .zip file"),
    (lambda data: data[:-30], "is no .zip file"),
    (lambda data: data.replace(b"Why", b"Who"), "is no .zip file, or damaged .Bad CRC-32"),
    (lambda data: data[:-60] + data[-60:].replace(b"arc.json", b"arc.jsox"), "damaged .File"),
    (lambda data: data.replace(b"eval_data", b"eval_dat4"), "holds no eval_data/"),
    (lambda data: data[:-12] + b"\2" + data[-11:], "damaged .the list of its files"),
    (lambda data: data.replace(b"\x14\0\0\0\0\0", b"\x14\0\1\0\0\0"), "damaged .*encrypted"),
    (lambda data: data.replace(b"\x14\0\0\0\0\0", b"\x14\0\0\0\x63\0"), "damaged .*compression"),
])
def test_a_damaged_bundle(tmp_path, change, said):
    path = tmp_path / "bundle.zip"
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("a/eval_data/arc.jsonl", json.dumps({"query": "Why?", "choices": []}))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=said) as error:
        list(read_core(path))
    assert "\n" not in str(error.value)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("records.LARGEST_MEMBER", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as bundle:
        bundle.writestr("a/eval_data/\x1b[2J.jsonl", " " * 1001)
    with pytest.raises(ValueError, match=r"\\x1b\[2J.jsonl would be 1,001 bytes, more than the"):
        list(read_core(tmp_path / "a.zip"))
