"""Tests of dialects.py: patterns of one's own, good ones, bad ones and endless ones."""

import time

import pytest

from dialects import check_dialect
from pieces import PATTERNS, ours, piece_finder
from test_pieces import plain, texts


def test_piece_finder_names_bad_patterns():
    for bad in ("(a)", "a*", "[", "(?i", r"(?r)\w+", r"h\Ke", "gtp4"):
        with pytest.raises(ValueError, match="pattern"):
            piece_finder(bad)


@pytest.mark.parametrize("pattern", [r"\p{L}+", r"[^\p{L}]", r"\p{Gothic}+", r"\w+|\d", "x|y{2,}",
                                     r"[-+*\p{N}.]+|\.", r"[]\p{L}]+", r"(?i:i|k)+", r"\S+|\s+?"])
def test_patterns_of_ones_own(pattern, random_text):
    find_pieces = piece_finder(pattern)
    for text in texts(random_text, 5, n=100):
        assert find_pieces(text) == plain(pattern, text), f"seed 5: {text!r}"


def test_patterns_that_try_too_many_ways(monkeypatch):
    """Each ends with one line; ours need no limit, because their time grows with the text only."""
    monkeypatch.setattr("dialects.PATIENCE", 0.1)
    for pattern in ("(?:a|a)+b", "(?:a|aa)+b", [r"\s|\S+", "(?:a|a)+b"]):
        with pytest.raises(ValueError, match="did not cut a text of 60 characters within"):
            piece_finder(pattern)("a" * 60)
    with pytest.raises(ValueError, match="did not cut"):  # one that Python's engine takes for ever
        piece_finder("(?:a+)+b|" + "a+" * 9 + "b")("a" * 3000)
    for pattern in ours():
        for text in ("a" * 100_000, " " * 100_000, "'" * 100_000, "A" * 100_000 + "🙂"):
            assert "".join(piece_finder(pattern)(text)) == text


def test_deep_and_endless_patterns_are_refused():
    for pattern in ("(?:" * 5000 + "a" + ")" * 5000, "a{1000000000000}", r"\p{Nonsense}",
                    "[" * 1000):
        with pytest.raises(ValueError, match="pattern") as error:
            piece_finder(pattern)
        assert len(str(error.value)) < 500


@pytest.mark.parametrize("pattern", [
    "(?:a{1000}){3000}", "(?:(?:(?:a{1000}){1000}){1000}){1000}", "(?:a{1000,}){3000}",
    "(?:a{,1000}b{3}){3000}", "(?x)(?: a{1 0 0 0}){30#}{\n00}", "#(?:a{1000}){3000}",
    "(?:" + "ab|" * 1000 + "c){1000}", "a{" + "9" * 5000 + "}"])
def test_counts_that_fill_the_memory(pattern):
    """The engine copies what is counted before there is a text, and no timeout ends that."""
    start = time.perf_counter()
    with pytest.raises(ValueError, match="its counts .n., multiplied, would fill the memory"):
        piece_finder(pattern)
    assert time.perf_counter() - start < 0.1


def test_counts_that_are_used():
    """By tokenizers elsewhere: also twice, as in foreign.py, and many."""
    for pattern in (r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|\p{L}+", r"\d{1,4}|\w{1,16}|[^\w]{1,8}",
                    "|".join(f"{c}{{1,3}}" for c in "abcdef"), "x{1000}", "a+" * 5000,
                    r"a\{1000\}b\{1\}"):
        assert piece_finder(pattern)("123") in (["123"], ["1", "2", "3"])


def test_check_dialect():
    for pattern in PATTERNS.values():
        check_dialect(pattern)
    for pattern in (r"\p{N}{1,3}+", "a?+", "^a", "(?<!a)b", r"\h+", "[a-z&&[^a]]", r"\pL", r"\K",
                    r"\b", r"(?m:.+)"):
        with pytest.raises(ValueError):
            check_dialect(pattern)
    check_dialect(r"\^[$^+]+\++\p{L}+")
