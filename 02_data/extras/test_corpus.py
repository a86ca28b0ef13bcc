"""Tests of corpus.py: the split, folders, and every row of the table, with a net made up here."""

import hashlib
import json

import pytest

import corpus as module
from corpus import SOURCES, content, find_source, main, parse_name
from data import FEW, documents, find_files, is_validation
from hub import HubFile


def make_folder(path, n, text="document {}\n"):
    path.mkdir()
    for i in range(n):
        (path / f"{i:04}.txt").write_text(text.format(i))
    return f"folder:{path}"


def test_few_documents_are_split_by_their_tails(tmp_path):
    source = find_source(make_folder(tmp_path / "few", 2, "0123456789"))
    found = [(split, record["text"]) for split, record in source.documents()]
    assert found == [("train", "012345678"), ("val", "9")] * 2
    assert found == list(documents(source.name, find_files(source.name))), "as in data.py"
    (tmp_path / "few" / "0000.txt").write_text("a")
    assert next(source.documents()) == ("val", {"text": "a", "path": "0000.txt"}), "nothing empty"


def test_many_documents_are_split_by_their_hashes(tmp_path):
    name = make_folder(tmp_path / "many", FEW)
    before = {content(record): split for split, record in find_source(name).documents()}
    assert set(before.values()) == {"train", "val"}
    assert before == {text: split for split, text in documents(name, find_files(name))}, (
        "as in data.py")
    (tmp_path / "many" / "0000a.txt").write_text("another one")
    after = {content(record): split for split, record in find_source(name).documents()}
    assert after.items() > before.items(), "a new document must not move the others"


def test_fingerprint_follows_the_files(tmp_path):
    name = make_folder(tmp_path / "f", 3)
    before = find_source(name).fingerprint
    assert find_source(name).fingerprint == before
    (tmp_path / "f" / "0001.txt").write_text("changed")
    assert find_source(name).fingerprint != before


def test_python_source():
    texts = [record["text"] for record in find_source("python").records()]
    assert len(texts) >= FEW and any("class Counter(dict)" in text for text in texts)
    assert not any("class TestCase_Counter" in text for text in texts)


def test_folders_that_hold_no_text(tmp_path, fails):
    assert "does not exist" in fails(main, f"folder:{tmp_path / 'none'}")
    (tmp_path / ".hidden").write_text("x")
    assert "holds no text" in fails(main, f"folder:{tmp_path}")
    (tmp_path / "empty").touch()
    assert "holds no text" in fails(main, f"folder:{tmp_path}")
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    assert "files left out: 1 not UTF-8 text (latin1)" in fails(main, f"folder:{tmp_path}")
    assert "latin1 is not UTF-8" in fails(main, f"folder:{tmp_path / 'latin1'}")
    (tmp_path / "latin1").write_bytes(b"\x7fELF\0\0")
    assert "latin1 is a binary file" in fails(main, f"folder:{tmp_path / 'latin1'}")
    assert "there is no source 'wikipedia'" in fails(main, "wikipedia")
    assert f"did you mean folder:{tmp_path}?" in fails(main, str(tmp_path))


def test_globs(tmp_path, fails):
    for name in ("a.go", "a_test.go", "vendor/b.go", "sub/c.go", "d.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)

    def paths(options):
        return [r["path"] for r in find_source(f"folder:{tmp_path}{options}").records()]

    assert paths("") == ["a.go", "a_test.go", "d.py", "sub/c.go", "vendor/b.go"]
    assert paths(",include=*.go,exclude=vendor/*,exclude=*_test.go") == ["a.go", "sub/c.go"]
    assert "holds no text that the globs let through" in fails(
        main, f"folder:{tmp_path},include=*.rs")
    assert "folder:" in (error := fails(main, f"folder:{tmp_path},num_shards=2"))
    assert "takes exclude, include, links, strict; not num_shards" in error


def test_parse_name():
    assert parse_name("folder:a,b,include=*.go,include=*.py") == (
        "folder:a,b", {"include": ["*.go", "*.py"]}), "a comma in a path is only a comma"
    assert parse_name("gsm8k") == ("gsm8k", {})


def test_rows_of_others(tmp_path, fails):
    (tmp_path / "b.jsonl").write_text(json.dumps({"content": "two"}))
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one"}))
    texts = [r["text"] for r in find_source(f"jsonl:{tmp_path}").records()]
    assert texts == ["one", "two"]
    assert "holds no file that ends in .parquet" in fails(main, f"parquet:{tmp_path}")
    assert "does not exist" in fails(main, f"jsonl:{tmp_path}/none")


def test_a_file_is_held_out_as_a_whole(tmp_path, fails):
    """As the texts of an evaluation are, none of which is for training."""
    path = tmp_path / "a.jsonl"
    texts = [f"{n}" for n in range(200)]
    path.write_bytes(lines(*({"text": text} for text in texts)))
    for option, share in ((",val=1", 1), (",val=0", 0), (",val=.5", 0.5), ("", 0.05)):
        source = find_source(f"jsonl:{path}{option}")
        held_out = [record["text"] for split, record in source.documents() if split == "val"]
        assert held_out == [text for text in texts if is_validation(text, share)]
        assert len(held_out) == 200 if share == 1 else len(held_out) < 150
    assert "val is '2', but must be a share from 0 to 1" in fails(main, f"jsonl:{path},val=2")


def test_a_pair_is_two_documents_in_a_row(tmp_path):
    """In one split, which the chosen answer decides."""
    with open(tmp_path / "a.jsonl", "w") as file:
        for n in range(300):
            answers = {"chosen": f"yes {n}", "rejected": f"no {n}"} if n % 3 else {"text": f"t{n}"}
            file.write(json.dumps({"prompt": f"{n}?"} | answers) + "\n")
    source, found = find_source(f"jsonl:{tmp_path}"), []
    for _ in range(2):  # it can be read again
        documents = iter(source.documents())
        for n in range(300):
            split, record = next(documents)
            if n % 3:
                other, rejected = next(documents)
                assert [one["messages"][1]["content"] for one in (record, rejected)] == [
                    f"yes {n}", f"no {n}"] and record.keys() == {"messages"}
                assert rejected.keys() == {"messages", "rejected"}, "by which writing.py knows it"
                assert record["messages"][0] == rejected["messages"][0] and split == other
                assert (split == "val") == is_validation(content(record), 0.05)
                found.append(split)
        assert next(documents, None) is None
    assert 2 < found.count("val") < 50


@pytest.fixture
def net(monkeypatch, tmp_path):
    """A net on which every file that is asked for holds what `net` says: {ending: bytes}."""
    asked, files = [], {}

    def fetch(url, path, sha256=None, **more):
        asked.append((url, sha256))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(next(data for end, data in files.items() if url.endswith(end)))
        return path

    def hub_files(repo, folder, **more):
        return [HubFile(f"{folder}/{name}", len(data), hashlib.sha256(data).hexdigest(),
                        f"hub/{repo}/{folder}/{name}") for name, data in sorted(files.items())]

    monkeypatch.setattr(module, "fetch", fetch)
    monkeypatch.setattr(module, "hub_files", hub_files)
    monkeypatch.setattr(module, "fetch_all", lambda files, folder, **more: [
        fetch(file.url, folder / file.path.replace("/", "-")) for file in files])
    monkeypatch.setattr(module, "hub_token", lambda: None)
    return files, asked


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_official_splits(net, tmp_path):
    files, asked = net
    files["train.jsonl"] = lines({"question": "1+1?", "answer": "It is <<1+1=2>>2"})
    files["test.jsonl"] = lines({"question": "2+2?", "answer": "4"})
    (split, first), (other, _) = find_source("gsm8k", tmp_path).documents()
    assert (split, other) == ("train", "val")
    assert first["messages"][0] == {"role": "user", "content": "1+1?"}
    assert [p["type"] for p in first["messages"][1]["content"]] == [
        "text", "python", "output", "text"]
    assert all(sha256 for _, sha256 in asked), "what can be checked is checked"


def test_hub_folders(net, tmp_path, fails):
    files, asked = net
    for i in range(3):
        files[f"0{i}.jsonl.zst"] = b""
    files["readme.md"] = b""
    find_source("the-pile", tmp_path)
    assert [url[-12:] for url, _ in asked] == ["00.jsonl.zst"], "one, if nothing is said"
    asked.clear()
    find_source("the-pile,num_shards=2", tmp_path)
    assert [url[-12:] for url, _ in asked] == ["00.jsonl.zst", "01.jsonl.zst"]
    assert "num_shards is 0" in fails(main, "the-pile", "--num-shards", 0)
    assert "the-stack is open only to those who" in (error := fails(main, "the-stack"))
    assert "HF_TOKEN" in error


def test_large_sets_keep_back_less(net, tmp_path, monkeypatch):
    files, _ = net
    monkeypatch.setattr(module, "fetch_all", lambda files, folder, **more: [
        tmp_path / "a.jsonl" for file in files])
    files["c4-train.0.json.gz"] = b""
    (tmp_path / "a.jsonl").write_bytes(lines(*({"text": f"{i}"} for i in range(5000))))
    splits = [split for split, _ in find_source("c4", tmp_path).documents()]
    assert 2 <= splits.count("val") <= 25, "0.2%, not 5%"


def test_the_fingerprint_of_a_download_is_that_of_its_content(net, tmp_path):
    files, _ = net
    files["00.jsonl.zst"] = b"a"
    first = find_source("the-pile", tmp_path / "1").fingerprint
    assert find_source("the-pile", tmp_path / "2").fingerprint == first
    files["00.jsonl.zst"] = b"b"
    assert find_source("the-pile", tmp_path / "3").fingerprint != first


def test_every_row_of_the_table_says_what_it_is():
    for name, row in SOURCES.items():
        assert row.about and row.between, name
        assert bool(row.open) + bool(row.files) + bool(row.hub) == 1, f"{name} comes from one place"
        assert row.split_by.split()[0] in ("hash", "tail", "official"), name
        splits, official = {entry[0] for entry in row.files + row.hub}, row.split_by == "official"
        assert not splits or splits == ({"train", "val"} if official else {""}), name


def test_command_line(tmp_path, capsys):
    main(["list"])
    out = capsys.readouterr().out
    assert all(name in out for name in SOURCES) and "has not been tried" in out
    main([make_folder(tmp_path / "f", 3)])
    assert "begins:\n\ndocument" in capsys.readouterr().out
