"""Tests of records.py: other people's rows, files and damages."""

import gzip
import json
import tracemalloc
import zipfile

import pytest

import records as module
from records import as_record, read_any, read_core, read_jsonl, read_wikitext, with_calculator

USER, ASSISTANT = ({"role": role, "content": text} for role, text in
                   (("user", "Hi"), ("assistant", "Ho")))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 9\n"


def test_with_calculator():
    assert with_calculator("6 * 7 = <<6*7=42>>42") == [
        {"type": "text", "text": "6 * 7 = "}, {"type": "python", "text": "6*7"},
        {"type": "output", "text": "42"}, {"type": "text", "text": "42"}], (
        "<<6*7=42>> is a call of the calculator and its output; the text around it stays text")
    assert with_calculator("<<1=1=1>>") == [{"type": "python", "text": "1=1"},
                                            {"type": "output", "text": "1"}], (
        "the result stands behind the last =, and there are no empty parts")
    assert with_calculator("no sums") == [{"type": "text", "text": "no sums"}], (
        "without a call, all of it is text")


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


def test_pairs():
    """Of texts that answer a prompt, or of whole conversations; other columns may be there."""
    better, worse = ([USER, ASSISTANT | {"content": text}] for text in ("Ho", "Hm"))
    expected = {"messages": better, "rejected": worse}
    for row in ({"prompt": "Hi", "chosen": "Ho", "rejected": "Hm"},
                {"prompt": [USER], "chosen": "Ho", "rejected": "Hm"},
                {"chosen": better, "rejected": worse},
                {"prompt": "Hi", "chosen": better, "rejected": worse, "messages": better}):
        assert as_record(row, "") == expected, row
    assert as_record({"prompt": "Hi", "chosen": "Ho", "rejected": None}, "") == {"text": ""}
    longer = [*better, USER, ASSISTANT]
    for row, said in (
            ({"chosen": better, "rejected": longer}, "must be the same but for the last message"),
            ({"chosen": [USER], "rejected": [USER]}, "for the last message, an answer"),
            ({"chosen": "Ho", "rejected": "Hm"}, "'prompt' is missing"),
            ({"prompt": "Hi", "chosen": "Ho", "rejected": 5}, "5 is not a text"),
            ({"prompt": 5, "chosen": "Ho", "rejected": "Hm"}, "must be an iterable, not int"),
            ({"chosen": [], "rejected": []}, "without messages")):
        with pytest.raises(ValueError, match=f"^line 7 can't be read: .*{said}") as error:
            as_record(row, "line 7")
        assert "\n" not in str(error.value)


def test_an_explicit_text_comes_first():
    assert as_record({"text": "x", "choices": ["a"], "messages": []}, "") == {"text": "x"}
    row = {"prompt": "P", "canonical_solution": "S", "test": "T"}
    assert as_record(row, "", field="prompt") == {"text": "P"}


@pytest.mark.parametrize("row", [
    {"text": 5}, {"messages": 5}, {"messages": ["Hi"]},
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
    """One frame or several are read; a file that ends anywhere within one is refused."""
    zstandard, file = pytest.importorskip("zstandard"), tmp_path / "a.jsonl.zst"
    first, second = (b'{"text": "x"}\n' * 3, b'{"text": "y"}\n')
    for whole in ([zstandard.compress(first)], map(zstandard.compress, (first, second))):
        whole = [*whole]
        file.write_bytes(b"".join(whole))
        records = [*read_any(file)]
        assert [r["text"] for r in records] == [*"xxxy"][:2 + len(whole)]
    for n in range(sum(map(len, whole))):
        file.write_bytes(b"".join(whole)[:n])
        if n == len(whole[0]):
            continue  # a file that ends behind a frame is a whole one
        with pytest.raises(ValueError, match="a.jsonl.zst is (damaged after line|empty)"):
            list(read_jsonl(file))


def flushed(lines):
    """A frame with a block for each line, as writers make that flush: nothing in it tells a cut."""
    frame = pytest.importorskip("zstandard").ZstdCompressor().compressobj()
    return b"".join(frame.compress(line) + frame.flush(1) for line in lines) + frame.flush()


def test_a_cut_between_two_blocks_is_noticed(tmp_path):
    data = flushed([f'{{"text": "line {i}"}}\n'.encode() for i in range(40)])
    (tmp_path / "a.jsonl.zst").write_bytes(data)
    assert len(list(read_jsonl(tmp_path / "a.jsonl.zst"))) == 40
    (tmp_path / "a.jsonl.zst").write_bytes(data[:len(data) // 2])
    with pytest.raises(ValueError, match="its last frame does not end"):
        list(read_jsonl(tmp_path / "a.jsonl.zst"))


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_a_line_without_end(tmp_path, monkeypatch, ending):
    """Neither a line nor what a small file grows to when it is decompressed fills the memory."""
    monkeypatch.setattr(module, "LARGEST", 1 << 20)
    zeros, file = bytes(1 << 26), tmp_path / f"a.jsonl{ending}"
    compress = {"": bytes, ".gz": gzip.compress, ".zst": lambda data: pytest.importorskip(
        "zstandard").compress(data)}[ending]
    file.write_bytes(compress(b'{"text": "x"}\n' + zeros))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"a.jsonl{ending}, line 2, is longer than"):
            list(read_jsonl(file))
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_conversations_come_before_texts_and_text_before_content():
    chat = [USER, {"role": "assistant", "content": "yo"}]
    assert as_record({"text": "<user>hi", "messages": chat}, "") == {"messages": chat}
    assert as_record({"messages": chat, "content": "a summary"}, "") == {"messages": chat}
    assert as_record({"content": "b", "text": "a"}, "") == {"text": "a"}
    assert as_record({"text": None, "content": "b"}, "") == {"text": "b"}
    for none in (None, []):
        assert as_record({"text": "a", "messages": none}, "") == {"text": "a"}
    assert as_record({"text": "a", "messages": chat}, "", "text") == {"text": "a"}, "as asked for"


def test_null_is_an_empty_text():
    for row in ({"text": None}, {"messages": None}, {"content": None, "id": 3}):
        assert as_record(row, "") == {"text": ""}
    assert as_record({"x": None, "text": "a"}, "", "x") == {"text": ""}


def test_what_a_file_says_is_printed_on_one_line_and_escaped():
    with pytest.raises(ValueError) as error:
        as_record({"a\x1b[2J\nb": 1} | {f"key {i}": i for i in range(1000)}, "line 1")
    assert r"only a\x1b[2J\nb, key 0" in str(error.value) and len(str(error.value)) < 500


def test_a_byte_order_mark_is_no_part_of_json(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b'{"text": "x"}\n' * 2)
    assert list(read_jsonl(tmp_path / "a.jsonl")) == [{"text": "x"}] * 2


@pytest.mark.parametrize("name, data, error", [
    ("a.jsonl", b'{"text": "x"}\n{"text": ', "a.jsonl, line 2, is not JSON"),
    ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl, line 1, is not JSON"),
    ("a.jsonl", b'{"text": "x"}\n{"text": "y"', "a.jsonl, line 2, is not JSON"),
    ("a.jsonl.gz", b"", "a.jsonl.gz is empty, .* cut off"),
    ("a.jsonl", POINTER, "a.jsonl is a Git LFS pointer, not the file: run git lfs pull"),
    ("a.jsonl.gz", POINTER, "a.jsonl.gz is a Git LFS pointer"),
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
    (tmp_path / "b.parquet").write_bytes(POINTER)
    with pytest.raises(ValueError, match="b.parquet is a Git LFS pointer"):
        list(read_any(tmp_path / "b.parquet"))
    parquet.write_table(pyarrow.table({"text": ["x", None, "y"]}), tmp_path / "c.parquet")
    assert [record["text"] for record in read_any(tmp_path / "c.parquet")] == ["x", "", "y"]
    data = (tmp_path / "a.parquet").read_bytes()
    for n in range(0, len(data), len(data) // 9):
        (tmp_path / "c.parquet").write_bytes(data[:n])
        with pytest.raises(ValueError, match="c.parquet is (not a|damaged)"):
            list(read_any(tmp_path / "c.parquet"))
    parquet.write_table(pyarrow.table({"text": ["x", "y"], "messages": [[1], [2]]}),
                        tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="c.parquet, row 1, can't be read"):
        list(read_any(tmp_path / "c.parquet"))


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
    (lambda data: POINTER, "bundle.zip is a Git LFS pointer, not the file: run git lfs pull$"),
    (lambda data: data[:-30], "is no .zip file"),
    (lambda data: data.replace(b"Why", b"Who"), "damaged after line 0 .Bad CRC-32"),
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


@pytest.mark.parametrize("row", [{"question": None, "answer": None}, {"turns": None},
                                 {"question": "why?", "answer": None}, {"messages": None},
                                 {"turns": None, "text": None}, {"canonical_solution": None}])
def test_null_in_every_form(row):
    assert as_record(row, "row 1") == {"text": ""}


def test_a_text_of_a_row_has_a_limit(monkeypatch):
    monkeypatch.setattr("records.LARGEST", 10)
    assert as_record({"text": "x" * 10}, "row 1") == {"text": "x" * 10}
    for row in ({"text": "x" * 11}, {"messages": [{"role": "user", "content": "x" * 11}]}):
        with pytest.raises(ValueError, match="row 1 can't be read: a text is longer than"):
            as_record(row, "row 1")
