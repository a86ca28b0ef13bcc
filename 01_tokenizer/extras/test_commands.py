"""Tests of commands.py: what a user types behind bpe.py, in the whole course."""

import io
import os
import re

import pytest

from bpe import SPECIAL_TOKENS, Tokenizer, main
from commands import parse_special, train_any
from fast import FastTokenizer
from pieces import PATTERNS

TEXTS = ["the cat sat on the mat; the cat's hat isn't flat\n\n",
         "def f(x):\n    return x + 1\n" * 3]


def test_command_line(tmp_path, capsys, fails, monkeypatch):
    text, made = tmp_path / "text", tmp_path / "t.json"
    text.write_text("\ufeff" + "hello hello world, " + TEXTS[0], encoding="utf-8")
    main(["train", str(text), "--vocab-size", "9999", "--tokenizer", str(made)])
    assert "no pair is left for 9999" in capsys.readouterr().out
    main(["train", str(text), "--vocab-size", "280", "--tokenizer", str(made)])
    assert re.search(r"\d\.\d\d bytes an id\n.*: 280 ids\n$", capsys.readouterr().out)
    assert type(Tokenizer.load(made)) is Tokenizer
    main(["encode", "hello world", "--tokenizer", str(made)])
    ids = capsys.readouterr().out.split()
    monkeypatch.setattr("sys.stdin", io.StringIO("hello world"))
    main(["encode", "-", "--tokenizer", str(made)])
    assert capsys.readouterr().out.split() == ids, "- is the standard input"
    main(["decode", *ids, "--tokenizer", str(made)])
    assert capsys.readouterr().out == "hello world\n"
    (tmp_path / "empty").write_text("")
    main(["train", str(text), "--vocab-size", "280", "--tokenizer", str(made)])
    alone = capsys.readouterr().out
    main(["train", str(tmp_path / "empty"), str(text), "--vocab-size", "280", "--tokenizer",
          str(made)])
    assert capsys.readouterr().out == alone, "an empty file in front changes nothing"
    reading, writing = os.pipe()
    os.write(writing, text.read_bytes())
    os.close(writing)
    main(["train", f"/dev/fd/{reading}", "--vocab-size", "280", "--tokenizer", str(made)])
    os.close(reading)
    assert capsys.readouterr().out == alone, "a pipe can be read only once"

    text.write_bytes(b"caf\xe9")
    assert "not UTF-8" in fails(main, "train", text, "--tokenizer", made)
    text.write_bytes(b"a\0b")
    assert "binary" in fails(main, "train", text, "--tokenizer", made)
    assert "No such file" in fails(main, "train", tmp_path / "none", "--tokenizer", made)
    assert "-5" in fails(main, "decode", "--tokenizer", made, "--", "-5")
    for command, argument in (("encode", "x"), ("show", "x"), ("decode", "7")):
        said = fails(main, command, argument, "--tokenizer", tmp_path / "none")
        assert f"there is no tokenizer {tmp_path / 'none'}" in said and "train makes one" in said
    assert "train" in fails(main, "trian")
    text.write_text("some text")
    for place in (tmp_path / "no" / "t.json", tmp_path):
        assert "can't be written" in fails(main, "train", text, "--tokenizer", place)
    assert "pattern 'gtp4'" in fails(main, "train", text, "--tokenizer", made, "--pattern", "gtp4")


def test_text_that_is_no_text(tmp_path, fails, monkeypatch):
    """Bytes that are not UTF-8 come from a command line and a pipe as halves of characters."""
    made = tmp_path / "t.json"
    Tokenizer([]).save(made)
    for text in ("caf\udce9", "\ud83d"):
        said = fails(main, "encode", text, "--tokenizer", made)
        assert "not UTF-8" in said and ascii(text[-1])[1:-1] in said
    monkeypatch.setattr("sys.stdin", io.StringIO("\udcff"))
    assert "not UTF-8" in fails(main, "show", "-", "--tokenizer", made)


def test_a_pattern_that_never_ends(tmp_path, fails, monkeypatch):
    monkeypatch.setattr("dialects.PATIENCE", 0.1)
    text, made = tmp_path / "text", tmp_path / "t.json"
    text.write_text("a" * 40)
    for options in ([], ["--workers", 2]):
        said = fails(main, "train", text, "--tokenizer", made, "--pattern", "(?:a|a)+b", *options)
        assert "'(?:a|a)+b' did not cut a text of 40 characters" in said
    Tokenizer([], "(?:a|a)+b").save(made)
    for command in ("encode", "show"):
        assert "did not cut" in fails(main, command, "a" * 40, "--tokenizer", made)


def test_colours_only_on_a_terminal(tmp_path, capsys, monkeypatch):
    made = str(tmp_path / "t.json")
    Tokenizer([(104, 105)]).save(made)
    main(["show", "hi\n\x1b[2J\u202e\\", "--tokenizer", made])
    shown = capsys.readouterr().out
    assert shown.startswith(r"[hi]256 [\n]10 [\x1b]27 [[]91 [2]50 [J]74"), (
        "no colours in a pipe, and no control character is printed as it is")
    assert "\u202e" not in shown and "[\\]92" in shown
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    main(["show", "hi", "--tokenizer", made])
    assert capsys.readouterr().out == "\x1b[30;48;5;153mhi\x1b[0m\x1b[2m256\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "")
    main(["show", "hi", "--tokenizer", made])
    assert "\x1b" in capsys.readouterr().out, "an empty value asks for nothing"
    monkeypatch.setenv("NO_COLOR", "1")
    main(["show", "hi", "--tokenizer", made])
    assert capsys.readouterr().out == "[hi]256\n"


def test_parse_special():
    assert parse_special([]) == () and parse_special(["a", "b"]) == ("a", "b")
    assert parse_special(["a=0", "b=c=12"]) == {"a": 0, "b=c": 12}
    for wrong in (["a=0", "b"], ["a=0", "a=1"]):
        with pytest.raises(ValueError, match="--special"):
            parse_special(wrong)


def test_train_any():
    assert type(train_any(TEXTS, 300)) is FastTokenizer
    assert train_any(TEXTS, 300).hash == Tokenizer.train(TEXTS, 300).hash
    assert train_any(TEXTS, 300, "go").pattern == PATTERNS["go"]
    pairs = train_any(["1234 " * 9], 300, digits=2)
    assert pairs.find_pieces("1234") == ["12", "34"] and list(pairs.special) == list(SPECIAL_TOKENS)


def test_options_of_train(tmp_path, capsys, fails):
    text, made = tmp_path / "text", tmp_path / "t.json"
    text.write_text("hello hello world, " + TEXTS[0], encoding="utf-8")
    train = ("train", str(text), "--tokenizer", str(made))
    main([*train, "--vocab-size", "9999", "--digits", "1", "--special", "[PAD]=0", "[UNK]=1"])
    assert "no pair is left for 9999" in capsys.readouterr().out
    assert Tokenizer.load(made).special == {"[PAD]": 0, "[UNK]": 1}
    main([*train, "--vocab-size", "280"])
    plain = made.read_bytes()
    main([*train, "--vocab-size", "280", "--workers", "2"])
    assert re.search(r"\d\.\d\d bytes an id\n.*: 280 ids\n$", capsys.readouterr().out)
    assert made.read_bytes() == plain, "many processes learn the same, to the byte"
    for pattern in ("go", "o200k"):
        main([*train, "--vocab-size", "280", "--pattern", pattern])
        assert Tokenizer.load(made).pattern == PATTERNS[pattern]
    main([*train, "--vocab-size", "280", "--special"])
    assert Tokenizer.load(made).special == {}
    assert "to none" in fails(main, *train, "--special", "a=0", "b")
    assert "twice" in fails(main, *train, "--special", "a=0", "a=1")
    assert "-3" in fails(main, *train, "--workers", -3)
    assert "must be 1 or more" in fails(main, *train, "--workers", 0)
    assert "below 300" in fails(main, *train, "--vocab-size", 300, "--special", "a=300")
    assert "digits are grouped" in fails(main, *train, "--pattern", r"\w+", "--digits", 1)
    assert "not a regular expression" in fails(main, *train, "--pattern", "[")
    assert "did you mean --vocab-size?" in fails(main, *train, "--vocabsize", "300")
    main(["train", "--digits", "1", str(text), "--tokenizer", str(made)])
    assert Tokenizer.load(made).find_pieces("12") == ["1", "2"], "options may come first"
