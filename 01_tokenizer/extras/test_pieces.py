"""Tests of pieces.py: every fast way of finding pieces against the plain regular expression."""

import random
import re
from collections import Counter

import pytest
import regex

from bpe import Tokenizer
from pieces import (DIGITS, PATTERNS, Chunks, PieceCounter, blocks, characters, count_pieces,
                    each_text, find_pattern, group_digits, in_batches, is_cuttable, piece_finder,
                    safe_cuts, spell_out)

ALL = {**PATTERNS, **DIGITS, "gpt4, digits by 1": group_digits(PATTERNS["gpt4"], 1),
       "gpt2, digits by 2": group_digits(PATTERNS["gpt2"], 2),
       "digits, then gpt2": [DIGITS["apart"], PATTERNS["gpt2"]]}
every_pattern = pytest.mark.parametrize("pattern", ALL.values(), ids=ALL)


def plain(pattern, text):
    """The oracle: regex.findall, pattern after pattern."""
    pieces = [text]
    for step in [pattern] if isinstance(pattern, str) else pattern:
        pieces = [p for piece in pieces for p in regex.findall(f"(?:{step})|[\\s\\S]", piece)]
    return pieces


def texts(random_text, seed, n=300):
    rng = random.Random(seed)
    yield from ("", " ", "  ", "a", " a", "a ", "a  b", "a \n b", "\n\n", "\r\n a", "a\0b c d",
                "x.\n/ y", "it's IT'S 'tis a's", "12345 678", "f(x) != nil {\n\t\treturn err\n\t}")
    for _ in range(n):
        text = random_text(rng, rng.randint(1, 150))
        yield text
        yield "".join(c for c in text if c <= "\uffff")
        yield re.sub("[^ -~\n\t]", " ", text)


@every_pattern
def test_piece_finder(pattern, random_text):
    find_pieces = piece_finder(pattern)
    for text in texts(random_text, 1):
        assert find_pieces(text) == plain(pattern, text), f"seed 1: {text!r}"


def test_find_pattern():
    for bad in ([], [["a"]], None):
        with pytest.raises(ValueError, match="a list of them"):
            find_pattern(bad)
    assert find_pattern("go") == PATTERNS["go"] and find_pattern([r"\s+"]) == [r"\s+"]


def test_what_the_patterns_are_for():
    def pieces(name, text):
        return piece_finder(PATTERNS[name])(text)
    assert pieces("gpt2", "it's 12345 cats!!\n\nYes") == [
        "it", "'s", " 12345", " cats", "!!", "\n", "\n", "Yes"]
    assert pieces("gpt4", "it'S 12345 cats!!\n\nYes") == [
        "it", "'S", " ", "123", "45", " cats", "!!\n\n", "Yes"]
    assert pieces("o200k", "getName it's") == ["get", "Name", " it's"]
    assert pieces("go", "if err != nil {\n\t\treturn HTTPServer.my_name\n\t}\n") == [
        "if err", " != nil", " {\n\t\t", "return HTTP", "Server", ".my", "_name", "\n\t", "}\n"]


def test_the_plain_tokenizer_knows_them_too():
    assert Tokenizer([], "go").pattern == PATTERNS["go"]
    assert Tokenizer([], "go").find_pieces("if err") == ["if err"]


def test_group_digits():
    for n, expected in ((1, ["1", "2", "3", "4"]), (2, ["12", "34"]), (3, ["123", "4"])):
        for name in ("gpt2", "gpt4", "o200k", "go"):
            assert piece_finder(group_digits(PATTERNS[name], n))("1234") == expected
    with pytest.raises(ValueError, match="digits"):
        group_digits(r"\p{L}+|[\p{N}+]+", 2)


def test_the_bytes_of_white_space():
    """In safe_cuts(): ASCII's white space, and the first bytes of all others."""
    everything = "".join(map(chr, range(0x110000)))
    spaces = regex.findall(r"\s", everything)
    assert {space for space in spaces if space < "\x80"} == {*" \t\n\v\f\r"}
    assert {space.encode()[0] for space in spaces if space >= "\x80"} == {0xc2, 0xe1, 0xe2, 0xe3}
    table, digits = everything[:1 << 16], characters(r"\p{N}")
    assert re.findall(f"[{digits}]", table) == regex.findall(r"\p{N}", table)


def test_spell_out_refuses_what_it_does_not_know():
    for pattern in (r"\w+", r"\d", r"\X", r"(?i)a", r"(?i:\p{Lu})", r"[a-z&&[b]]", r"[\S]",
                    r"[\P{L}]", r"(?<=a)b", r"(?P<x>a)", r"(?r)a", "[[:alpha:]]",
                    r"[]\p{L}]+", r"[^]\p{L}]", r"[+-\p{L}]", r"[\p{L}-z]", r"(?i:i)", r"a{e<=1}",
                    r"\p{Gothic}+", "a++", "a{1,3}+", "^a", "a$", r"\b", r"\pL", r"\h"):
        assert spell_out(pattern) is None, pattern
    assert spell_out(r"\.[^\]a]|(?i:[sd]|ll)\n?(?!b)") == r"\.[^\]a]|(?i:[sd]|ll)\n?(?!b)"


@every_pattern
def test_the_pieces_of_blocks_may_be_found_one_by_one(pattern, random_text):
    find_pieces = piece_finder(pattern)
    for text in texts(random_text, 2):
        parts = list(blocks(text, pattern, size=10))
        assert "".join(parts) == text and (is_cuttable(pattern) or len(parts) <= 1)
        found = [piece for part in parts for piece in find_pieces(part)]
        assert found == plain(pattern, text), f"seed 2: {text!r}"


def chunks_of(chunks, texts):
    """The chunks of each of `texts`, as strings."""
    numbers, ends = chunks.numbers(texts)
    every = [*map(bytes.decode, chunks)]
    found = [every[number] for number in numbers]
    return [found[i:j] for i, j in zip([0, *ends], ends)]


@every_pattern
def test_chunks_keep_to_the_pieces(pattern, random_text):
    if not is_cuttable(pattern):
        assert pattern in (PATTERNS["go"], *DIGITS.values()), "their pieces have spaces inside"
        return
    find_pieces, chunks, most = piece_finder(pattern), Chunks(pattern), 0
    some = [*texts(random_text, 3)]
    for batch in ([text] for text in some), (some[i:i + 9] for i in range(0, len(some), 9)):
        for now in batch:
            for text, found in zip(now, chunks_of(chunks, now), strict=True):
                assert "".join(found) == text, f"seed 3: {text!r}"
                pieces = [piece for chunk in found for piece in find_pieces(chunk)]
                assert pieces == plain(pattern, text), f"seed 3: {text!r}, chunks {found}"
                most = max(most, len(found))
    assert most > 20


@every_pattern
def test_chunks_of_every_two_characters(pattern):
    """With each kind of neighbours around them: no cut that safe_cuts() allows changes pieces."""
    if not is_cuttable(pattern):
        return
    find_pieces, chunks = piece_finder(pattern), Chunks(pattern)
    kinds = "a1 .'/\t\n\r\0é٣\xa0\u2003。\u0301ǅ"
    every = [a + b + c + d for a in ("", *kinds) for b in kinds for c in kinds for d in kinds]
    for text, found in zip(every, chunks_of(chunks, every), strict=True):
        assert [piece for chunk in found for piece in find_pieces(chunk)] == plain(pattern, text), (
            f"{text!r} was cut into {found}")


def test_where_chunks_end():
    text = 'The cat\'s "hat"  isn\'t (2x) flat\n\tfn(a[1],  b)'
    assert chunks_of(Chunks(PATTERNS["gpt4"]), [text])[0] == [
        "The", " cat's", ' "hat', '"', " ", " isn't", " (", "2", "x", ")", " flat", "\n", "\tfn",
        "(a", "[", "1", "],", " ", " b", ")"]
    assert safe_cuts(None)[ord(" ") << 8 | ord("a")] == 0, "digits are cut off first"


def test_chunks_share_rows():
    """Of two rows only: nearly every chunk is looked for in the dictionary."""
    class Few(Chunks):
        ROWS = 1
    some = ["a bc def ghij " * 9, "a" * 15 + " " + "a" * 16 + " " + "a" * 17, "a\0 a\0\0 a", "a bc"]
    few, many = Few(PATTERNS["gpt2"]), Chunks(PATTERNS["gpt2"])
    for _ in range(2):
        assert chunks_of(few, some) == chunks_of(many, some)
    few.forget()
    assert not few and chunks_of(few, some) == chunks_of(many, some)


@every_pattern
def test_count_pieces(pattern, random_text):
    some = list(texts(random_text, 4, n=20)) + ["word " * 20_000]
    expected = sum((Counter(plain(pattern, text)) for text in some), Counter())
    assert count_pieces(some, pattern) == expected
    counter = PieceCounter(pattern, limit=10)
    for text in some:
        counter([text])
    assert counter(None) == expected, "it forgets chunks, not their counts"


def test_count_pieces_in_several_processes():
    some = ["ab " * 300_000, "", "bc", "c" * (1 << 20), "a"]
    for pattern in (PATTERNS["gpt4"], r"\w+| "):
        for workers in (2, 3, 9):  # some get no text
            assert count_pieces(some, pattern, workers) == count_pieces(some, pattern)
    with pytest.raises(ValueError, match="must be a str"):
        count_pieces([*some, b"a"], PATTERNS["gpt4"], workers=2)


def test_in_batches():
    assert list(in_batches(["ab", "c", "d", "efgh", "i"], 3)) == [["ab", "c"], ["d", "efgh"], ["i"]]
    assert list(in_batches([], 3)) == []


def test_each_text():
    assert list(each_text(iter(["a", ""]))) == ["a", ""]
    for wrong in ("hello", b"hello"):
        with pytest.raises(ValueError, match="several texts"):
            each_text(wrong)
    with pytest.raises(ValueError, match="must be a str"):
        list(each_text(["a", b"hello"]))
    with pytest.raises(ValueError, match="several texts"):
        count_pieces("hello", PATTERNS["gpt2"])
