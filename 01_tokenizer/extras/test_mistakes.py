"""Tests of mistakes.py: what is near, and which words a user reads."""

import json
import sys

import pytest

from bpe import Tokenizer, main
from console import Parser, housekeeping
from housekeeping import unicode_version
from mistakes import nearest, plain_words


def test_housekeeping_has_it_when_it_is_needed(monkeypatch):
    monkeypatch.delitem(sys.modules, "mistakes")
    assert housekeeping.nearest("a", ["ab"]) == nearest("a", ["ab"])
    assert housekeeping.nearest_option is sys.modules["mistakes"].nearest_option
    with pytest.raises(AttributeError, match="nothing_of_that_name"):
        housekeeping.nothing_of_that_name
    assert not hasattr(housekeeping, "__path__")


def test_plain_words():
    for text in ("caf\udce9", "x" * 100 + "\ud83d" + "y" * 100):
        with pytest.raises(UnicodeEncodeError) as error:
            text.encode()
        said = plain_words(error.value)
        assert said.startswith("text that is not UTF-8, or holds half") and len(said) < 120
    error = ValueError("as it is")
    assert plain_words(error) is error


def test_another_unicode_version_is_said_once(tmp_path, capsys, monkeypatch):
    path = tmp_path / "t.json"
    Tokenizer([(97, 98)]).save(path)
    content = json.loads(path.read_text())
    assert content["unicode"] == unicode_version()
    Tokenizer.load(path)
    assert capsys.readouterr().err == "", "nothing to say where the tables are the same"
    for version in ("9.0.0", "9\x1b[2J", 3):
        path.write_text(json.dumps(content | {"unicode": version}))
        for _ in range(2):
            main(["encode", "ab", "--tokenizer", str(path)])
        out, said = capsys.readouterr()
        assert out == "256\n256\n" and said.count("\n") == 1 and said[:-1].isprintable()
        assert f"written with Unicode {str(version)!r}, and here is {unicode_version()}:" in said


def test_what_is_near():
    assert nearest("tinny", []) == "" and nearest(None, ["a"]) == "there are 'a'; "
    assert nearest("tinny", ["tiny", "b"]) == "did you mean 'tiny'? there are 'b', 'tiny'; "
    many = nearest("x", [f"run {i}" for i in range(99)])
    assert many.count("run") == 20 and many.endswith(", ...; ")


def test_a_choice_that_is_not_there_gets_the_nearest():
    parser = Parser()
    parser.add_argument("--preset", "--like", choices=("tiny", "nano"))
    command = parser.add_subparsers(dest="command").add_parser("train")
    command.add_argument("--engine", choices=("ddp", "zero1"))
    for words, meant in ((["--preset", "tinny"], "tiny"), (["--like", "nan"], "nano"),
                         (["tran"], "train"), (["train", "--engine", "dpd"], "ddp")):
        with pytest.raises(ValueError, match=f"invalid choice: .*did you mean '{meant}'"):
            parser.parse_args(words)
    with pytest.raises(ValueError) as error:
        parser.parse_args(["--preset", "xyz"])
    assert "did you mean" not in str(error.value)
