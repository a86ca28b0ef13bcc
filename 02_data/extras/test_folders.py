"""Tests of folders.py: what of a folder is read, and that data.py reads the same."""

import os

import pytest

import data
import folders as module
from corpus import SOURCES, find_source, main
from folders import list_files, objection, one_line, texts, told

CONTENT = {"a.txt": b"a", "sub/b.txt": b"b", ".git/c": b"c", "sub/.d.txt": b"d", "empty": b"",
           "bom": b"\xef\xbb\xbf", "picture.png": b"\x89PNG\0\0", "latin1": b"caf\xe9",
           "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"}


@pytest.fixture
def real(tmp_path):
    """A folder as people have them, beside one with a private file."""
    for name, content in CONTENT.items():
        (path := tmp_path / "real" / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("secret")
    for name, target in (("out", "../private/key"), ("folder", "../private"), ("broken", "nowhere"),
                         ("loop", "loop"), ("inside", "a.txt"), ("here", "."),
                         ("hidden", ".git/c")):
        (tmp_path / "real" / name).symlink_to(target)
    os.mkfifo(tmp_path / "real" / "pipe")
    return tmp_path / "real"


def names(paths, top):
    return [path.relative_to(top).as_posix() for path in paths]


def test_list_files(real):
    files, left_out = list_files(real)
    assert names(files, real) == ["a.txt", "bom", "latin1", "picture.png", "pointer", "sub/b.txt"]
    assert names(left_out, real) == ["broken", "folder", "hidden", "loop", "out"], (
        "but not a link to what is read anyhow")


def test_links_are_followed_if_asked_for_and_each_file_is_read_once(real):
    files, left_out = list_files(real, links=True)
    assert names(files, real) == ["a.txt", "bom", "folder/key", "hidden", "latin1", "picture.png",
                                  "pointer", "sub/b.txt"] and not left_out
    (real / "sub" / "up").symlink_to("../..")
    assert len(list_files(real, links=True)[0]) == len(files)


def test_both_layers_read_the_same(real, monkeypatch, capsys):
    found = [(split, record["text"]) for split, record in find_source(f"folder:{real}").documents()]
    said = capsys.readouterr().err
    assert data.find_files(f"folder:{real}") is None, "extras say what is left out"
    for path in real.iterdir():
        if path.is_symlink() or path.name in ("latin1", "picture.png", "pointer", "pipe"):
            path.unlink()
    files = data.find_files(f"folder:{real}")
    assert names(files, real) == ["a.txt", "bom", "sub/b.txt"]
    assert list(data.documents(f"folder:{real}", files)) == found
    assert "files left out: 2 not UTF-8 text (latin1, picture.png); 1 only a Git LFS" in said
    assert "5 linked from elsewhere, read with links=1 (broken, folder, hidden, ...)" in said
    assert said.count("\n") == 1 and "secret" not in str(found)


def test_strict_and_links(real, fails):
    assert "latin1" in (error := fails(main, f"folder:{real},strict=1")) and "strict=1" in error
    for options in ("include=*.txt,strict=1", "include=*.txt,strict=1,links=1"):
        assert len([*find_source(f"folder:{real},{options}").records()]) == 2
    texts = [r["text"] for r in find_source(f"folder:{real},links=1").records()]
    assert texts.count("a") == texts.count("secret") == 1
    assert "links is 'yes', but must be 0 or 1" in fails(main, f"folder:{real},links=yes")


@pytest.mark.parametrize("kind, ending", [("jsonl", ".jsonl"), ("parquet", ".parquet")])
def test_one_rule_for_rows(tmp_path, monkeypatch, capsys, fails, kind, ending):
    """Hidden files, links and pipes are no data; a folder that is named like a file is a folder."""
    top, read = tmp_path / f"top{ending}", lambda path, field: [{"text": path.name}]
    for name in ("b", "days" + ending + "/part-0", ".ipynb_checkpoints/a", ".cache/x/a", "._a",
                 "_temporary/a", "a.txt"):
        (path := top / f"{name}{ending}").parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / f"private{ending}").write_text("x")
    (top / f"link{ending}").symlink_to(f"../private{ending}")
    (top / "note").symlink_to(tmp_path / "elsewhere.txt")
    os.mkfifo(top / f"pipe{ending}")
    (top / "_SUCCESS").touch()
    open = SOURCES[f"{kind}:PATH"].open
    found = [r["text"] for r in open.func(kind, read, *open.args[2:], str(top)).records()]
    spark = ["a"] if kind == "jsonl" else []  # Spark's _temporary holds what was not finished
    assert found == [f"{name}{ending}" for name in (*spark, "a.txt", "b", "part-0")]
    assert f"files left out: 1 linked from elsewhere, read with links=1 (link{ending})" in (
        capsys.readouterr().err)
    assert "is neither a file nor a folder" in fails(main, f"{kind}:{top}/pipe{ending}")


def test_a_document_has_a_limit(tmp_path, monkeypatch, capsys, fails):
    (tmp_path / "a").write_text("text")
    with open(tmp_path / "huge", "wb") as file:
        file.truncate(3 << 30)  # which takes no room on the disk
    texts = [record["text"] for record in find_source(f"folder:{tmp_path}").records()]
    assert texts == ["text"] and "1 larger than 134 MB (huge)" in capsys.readouterr().err
    assert data.find_files(f"folder:{tmp_path}") is None
    assert data.find_files(f"folder:{tmp_path}/huge") is None
    assert "huge is larger than 134 MB" in (error := fails(main, f"folder:{tmp_path}/huge"))
    assert "split -C 100M" in error


def test_names_are_printed_on_one_line_and_escaped(tmp_path):
    (path := tmp_path / "a\x1b[2J\nb").write_bytes(b"\xff")
    found, objections = texts([path])
    assert not found and r"(a\x1b[2J\nb)" in told("folder:x", tmp_path, objections)
    assert one_line("a\nb" * 200) == r"a\nb" * 75 + "..." and objection(tmp_path / "none")


def test_a_file_that_goes_is_one_line(tmp_path, monkeypatch, fails):
    (tmp_path / "a").write_text("text")
    real = module.texts

    def gone(*args):
        found = real(*args)
        (tmp_path / "a").unlink()
        return found

    monkeypatch.setattr("corpus.texts", gone)
    assert "No such file or directory" in fails(main, f"folder:{tmp_path}")


def test_what_this_course_has_made_is_no_document(tmp_path, capsys):
    """`folder:.` where models were trained must not learn from what was written there."""
    (tmp_path / "a.txt").write_text("a")
    for made in ("data/a-1234/train.npy", "data/a-1234/index.json", "runs/tiny/.lock",
                 "runs/tiny/config.json", "data/clean/chunk-00000.jsonl", "data/clean/report.txt"):
        (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / made).write_text("{}")
    source = find_source(f"folder:{tmp_path}")
    assert [record["path"] for record in source.records()] == ["a.txt"]
    assert "3 made by this course (data/a-1234, data/clean, runs/tiny)" in capsys.readouterr().err
    assert names(list_files(tmp_path / "runs" / "tiny")[0], tmp_path) == ["runs/tiny/config.json"]


def test_a_file_is_looked_into_once(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(module, "read_text", lambda path: looked.append(path))
    (tmp_path / "a").write_text("a")
    for content in ("a", "a", "bc"):
        if content != "a":
            (tmp_path / "a").write_text(content)
        assert objection(tmp_path / "a") is None
    assert len(looked) == 2


@pytest.mark.parametrize("name", ["e.jsonl.gz", "e.jsonl.zst", "e.parquet"])
def test_a_file_that_was_cut_to_nothing(tmp_path, name):
    """No such format is empty, so an empty file is a damaged one, in a folder too."""
    pytest.importorskip({"zst": "zstandard", "parquet": "pyarrow"}.get(name.split(".")[-1], "gzip"))
    kind = "parquet" if name.endswith("parquet") else "jsonl"
    (tmp_path / name).touch()
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(ValueError, match=name):
            list(find_source(f"{kind}:{path}").records())


def test_options_are_checked_also_where_they_change_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    for name in (f"folder:{tmp_path},strict=yes", f"folder:{tmp_path / 'a.txt'},links=yes"):
        with pytest.raises(ValueError, match="is 'yes', but must be 0 or 1"):
            find_source(name)
