"""Tests of clean.py: the report, the folder, and a clean source by name."""

import hashlib
import json
import os

import pytest

import clean as module
from clean import Report, clean, draw, main, open_clean, read_manifest, write_clean
from corpus import find_source
from filters import LANGUAGES, Rules, all_filters
from test_filters import CODE, FINE, JUNK, MIT, OTHER, record


def test_all_filters_remember():
    texts = [CODE, OTHER, CODE, CODE.replace("longest", "most"), CODE + OTHER]
    report = Report(all_filters(Rules(language="go")))
    evaluation = "// A question.\n" + OTHER[-200:]
    kept = list(clean([record(text, f"{i}.go") for i, text in enumerate(texts)],
                      Rules(language="go"), report, against=[evaluation]))
    assert [each["path"] for each in kept] == ["0.go"]
    counts = {name: row["documents"] for name, row in report.rows.items() if row["documents"]}
    assert counts == {"duplicate": 1, "evaluation": 2, "near duplicate": 1, "kept": 1}
    assert report.rows["duplicate"]["examples"] == [
        {"document": "2.go", "reason": "the same as 0.go"}]
    assert "open most" in report.rows["evaluation"]["examples"][0]["reason"], "13 words are named"
    twice = record()
    assert len(list(clean([twice, twice], Rules()))) == 1


def test_a_licence_makes_no_duplicates():
    stubs = [MIT * 5 + f"package a{i}\n\nfunc F{i}() string {{\n\treturn strings.Repeat(\"{word}\""
             f", {i} * len(os.Args), time.Now()) + {word}.{word}({word}, nil)\n}}\n"
             for i, word in enumerate(("fish", "fowl", "meat"))]
    assert len(list(clean(map(record, stubs), Rules(language="go")))) == 3


def everything():
    return [each for name in JUNK for each in JUNK[name] + FINE[name]] + [record(), record(OTHER)]


def test_report():
    rules, records = Rules(language="go", min_stars=10), everything()
    report = Report(all_filters(rules))
    kept = list(clean(records, rules, report))
    assert report.total("documents") == len(records) > len(kept) > 1
    sizes = [len(each["text"].encode("utf-8", "surrogatepass")) for each in records]
    assert report.total("bytes") == sum(sizes), "kept and dropped are all, in bytes too"
    assert report.rows["kept"]["documents"] == len(kept)
    assert report.rows["kept"]["bytes"] == sum(len(each["text"].encode()) for each in kept)
    assert all(len(row["examples"]) <= 3 for row in report.rows.values())
    lines = str(report).splitlines()
    assert [line[:16].strip() for line in lines[1:]] == [*all_filters(rules), "kept", "all"]
    assert lines[-1].split()[1] == f"{len(records):,}" and "100.00%" in lines[-1]
    assert {line.index("%") for line in lines[1:]} == {lines[1].index("%")}, "aligned"
    assert str(Report(["a"])).count("0.00%") == 6, "nothing at all is no division by zero"


def test_conversations_are_refused():
    with pytest.raises(ValueError, match="document 2 has no text"):
        list(clean([record(), {"messages": []}], Rules()))


def test_draw(tmp_path):
    report = Report(all_filters(Rules()))
    draw(report, tmp_path / "nothing.png")
    list(clean(everything(), Rules(language="go"), report))
    draw(report, tmp_path / "some.png")
    for name in ("nothing", "some"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "some.png").read_bytes()) > len((tmp_path / "nothing.png").read_bytes())


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_write_clean_is_repeatable_and_whole(tmp_path):
    rules, against = Rules(language="go"), {"exam": ["what no document says"]}
    words = " ".join(chr(97 + i) * 5 for i in range(26))
    more = [record(f"// naïve\u2028\npackage abc\n\n// {words}\n", "half\udcff.go", stars=7)]
    for name in ("one", "two"):
        write_clean("here", "f00d", iter(everything() + more), rules, tmp_path / name, against,
                    chunk_bytes=300)
    one = files(tmp_path / "one")
    assert one == files(tmp_path / "two"), "the same records and rules, the same bytes"
    manifest = json.loads(one["manifest.json"])
    write_clean("there", "cafe", iter(everything()), rules, tmp_path / "less", against)
    less = json.loads((tmp_path / "less" / "manifest.json").read_text())
    assert len(manifest["input"]) == 64 and less["input"] != manifest["input"]
    assert (manifest["source"], manifest["fingerprint"]) == ("here", "f00d")
    assert manifest["rules"]["language"] == "go" and manifest["rules"]["max_line"] == 1000
    assert manifest["against"]["exam"]["documents"] == 1 and len(manifest["code"]) == 64
    assert manifest["against"]["exam"]["too_short"] == 1
    assert "exam: 1 of 1 texts have fewer than 13 words" in one["report.txt"].decode()
    assert [chunk["file"] for chunk in manifest["chunks"]] == sorted(
        name for name in one if name.startswith("chunk")) and len(manifest["chunks"]) > 1
    kept = [json.loads(line) for chunk in manifest["chunks"]
            for line in one[chunk["file"]].decode().split("\n")[:-1]]
    assert kept == list(clean(everything() + more, rules)), "all of every record, in its order"
    assert kept[-1] == more[0] and "naïve".encode() in one[manifest["chunks"][-1]["file"]], (
        "UTF-8, not escaped")
    for chunk in manifest["chunks"]:
        assert hashlib.sha256(one[chunk["file"]]).hexdigest() == chunk["sha256"]
        assert chunk["documents"] == one[chunk["file"]].count(b"\n") > 0
    for unit in ("documents", "bytes"):
        total = sum(chunk[unit] for chunk in manifest["chunks"])
        assert total == manifest["filters"]["kept"][unit]
        assert manifest[unit] == sum(row[unit] for row in manifest["filters"].values())


def test_an_interrupted_writing_leaves_nothing(tmp_path):
    def records():
        yield record()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clean("here", "f00d", records(), Rules(), tmp_path / "new")
    with pytest.raises(ValueError, match="nothing of here is worth keeping.* fail at 'size'"):
        write_clean("here", "f00d", [record("")], Rules(), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "new").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        write_clean("here", "f00d", [record()], Rules(), tmp_path / "new")


def test_two_processes_that_clean_the_same(tmp_path):
    """Whoever is slower keeps what the other has made; an old half of a folder is cleared away."""
    half = tmp_path / ".both.89abcdef.tmp"
    half.mkdir()
    os.utime(half, (0, 0))

    def records():
        yield record()
        write_clean("here", "f00d", [record()], Rules(), tmp_path / "both")

    write_clean("here", "f00d", records(), Rules(), tmp_path / "both")
    write_clean("here", "f00d", [record()], Rules(), tmp_path / "one")
    assert files(tmp_path / "both") == files(tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["both", "one"]


def test_main(tmp_path, capsys, monkeypatch, fails):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "draw", lambda report, path: None)  # it takes a second
    (tmp_path / "src" / "vendor").mkdir(parents=True)
    for name, text in (("a.go", CODE), ("b.go", OTHER), ("a_test.go", CODE), ("c.md", CODE),
                       ("vendor/v.go", CODE)):
        (tmp_path / "src" / name).write_text(text)
    (tmp_path / "exam.go").write_text(OTHER)
    start = ["folder:src", "--language", "go"]
    main([*start, "--against", "folder:exam.go", "--out", "clean"])
    assert json.loads((tmp_path / "clean" / "chunk-00000.jsonl").read_text()) == {
        "text": CODE, "path": "a.go"}
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["evaluation", "1"] in rows and ["kept", "1"] in rows and ["vendored", "1"] in rows
    main(start)
    folder, = (tmp_path / "data").iterdir()
    assert folder.name.startswith("folder-src-clean-")
    first = capsys.readouterr().out
    main(start)
    assert capsys.readouterr().out == first, "made earlier, and not made again"
    main([*start, "--tests", "--no-tests", "--min-bytes", "1"])
    assert len(list((tmp_path / "data").iterdir())) == 2, "other rules, another folder"
    assert "is there already" in fails(main, *start, "--out", "clean")
    assert "go" in fails(main, "folder:src", "--language", "cobol")
    monkeypatch.setattr(module, "code_hash", lambda: "other filters")
    main(start)
    assert len(list((tmp_path / "data").iterdir())) == 3
    assert set(LANGUAGES) == {"", "go"}


def test_open_clean(tmp_path):
    """By name, with the rules behind it; what is official stays in its part."""
    lines = [record(f"package p{i}\n\n{CODE}{OTHER}" if i % 2 else f"// {i}", f"{i}.go")
             for i in range(6)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source, said = find_source(f"jsonl:{tmp_path / 'a.jsonl'}"), []
    found = open_clean(source, {"language": ["go"], "near": ["2"]}, tmp_path / "data", said.append)
    assert [each["path"] for each in found.records()] == ["1.go", "3.go", "5.go"]
    assert "kept" in said[0] and found.split_by == "hash" and found.name == source.name
    again = open_clean(source, {"language": ["go"], "near": ["2"]}, tmp_path / "data", said.append)
    assert again.fingerprint == found.fingerprint and said[:2] == said[2:]
    assert "no evaluation set was named" in said[1]
    other = open_clean(source, {"language": ["go"]}, tmp_path / "data", said.append)
    assert other.fingerprint != found.fingerprint and len(list(other.records())) == 1
    for chunk in (tmp_path / "data").glob("*/chunk-00000.jsonl"):
        chunk.write_text("")
    with pytest.raises(ValueError, match="has changed since it was written"):
        open_clean(source, {"language": ["go"]}, tmp_path / "data", said.append)
    for key, value, wrong in (("near", "x", "a number"), ("tests", "yes", "0 or 1")):
        with pytest.raises(ValueError, match=f"{key} is '{value}', but must be {wrong}"):
            open_clean(source, {key: [value]}, tmp_path / "data")


def test_a_damaged_folder_is_refused(tmp_path):
    for manifest, said in (
            ("false", "no cleaned documents"), ("{}", "no cleaned documents"),
            ('{"chunks": 3}', "no cleaned documents"), ("[" * 9999, "no cleaned documents"),
            ('{"chunks": [{"file": "../gone", "sha256": ""}]}', "No such file .*/gone"),
            ('{"chunks": [{"file": "manifest.json", "sha256": ""}]}', "manifest.json has changed")):
        (tmp_path / "manifest.json").write_text(manifest)
        with pytest.raises(ValueError, match=f"{said}.*delete .* to make it anew"):
            read_manifest(tmp_path)


def test_a_changed_chunk_whose_checksum_fits(tmp_path, monkeypatch):
    """What is then read are records all the same, or it is refused."""
    (tmp_path / "a.txt").write_text("package main\n" * 20)
    source = find_source(f"folder:{tmp_path / 'a.txt'}")
    for row in ('"text"', "3", "{}", '{"text": 3}', "[" * 9999, "x"):
        chunk = tmp_path / "c.jsonl"
        chunk.write_text(row + "\n")
        monkeypatch.setattr("clean.read_manifest", lambda folder: {chunk: ""})
        monkeypatch.setattr("clean.clean_folder", lambda *given, **named: tmp_path)
        with pytest.raises(ValueError, match="c.jsonl, line 1,"):
            list(open_clean(source, {}, say=lambda text: None).records())
