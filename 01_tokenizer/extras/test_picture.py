"""Tests of picture.py: what is drawn is what the tokenizer does."""

from bpe import Tokenizer
from fast import FastTokenizer
from picture import density, main, steps

TEXT = "tokenizers tokenize tokens; a token is a token " * 20


def test_steps_end_in_what_encode_says():
    tokenizer = Tokenizer.train([TEXT], 320, "gpt2")
    for word in (" tokenizers", " a", "x", " tokenize"):
        rows = steps(tokenizer, word)
        assert rows[0] == list(word.encode()) and rows[-1] == tokenizer.encode(word)
        assert all(len(row) < len(before) for before, row in zip(rows, rows[1:]))


def test_density_is_that_of_a_smaller_training():
    tokenizer = FastTokenizer.train([TEXT], 320, "gpt2")
    for n, found in zip((0, 5, 20), density(tokenizer, [TEXT], (0, 5, 20))):
        smaller = Tokenizer.train([TEXT], 256 + n, "gpt2", ())
        assert found == len(TEXT) / len(smaller.encode(TEXT))


def test_command_line(tmp_path, capsys, fails):
    (tmp_path / "text").write_text(TEXT, encoding="utf-8")
    Tokenizer.train([TEXT], 320).save(tmp_path / "t.json")
    main([str(tmp_path / "text"), "--tokenizer", str(tmp_path / "t.json"), "--out",
          str(tmp_path / "p.png"), "--word", " naïve tokenizers"])
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "text").write_text("", encoding="utf-8")
    assert "no text" in fails(main, tmp_path / "text", "--tokenizer", tmp_path / "t.json")
