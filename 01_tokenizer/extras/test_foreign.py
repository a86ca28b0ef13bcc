"""Tests of foreign.py: added tokens are found as Hugging Face's tokenizers finds them."""

import random

import pytest

from bpe import SPECIAL_TOKENS, Tokenizer
from fast import FastTokenizer
from foreign import added_tokens, find_patterns
from formats import load, write_huggingface, write_tiktoken
from pieces import DIGITS, PATTERNS, WHOLE

TEXTS = ["the cat sat on the mat; the cat's hat isn't flat\n\n", "a    b\t\tc  d " * 9]
ORACLE = "an oracle of tests/requirements.txt"


def refuse(what):
    raise ValueError(what)


def added(*tokens):
    """What added_tokens() makes of tokens (name, special, normalized) after two other ids."""
    return added_tokens({"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [
        {"content": name, "id": i, "special": special, "normalized": normalized}
        for i, (name, special, normalized) in enumerate(tokens, 2)]}, refuse)


def test_added_tokens():
    assert added() == ({}, [])
    assert added(("<x>", True, False)) == ({"<x>": 2}, [])
    assert added(("<x>", True, False), ("  ", False, False)) == ({"<x>": 2}, [{"  ": 3}])
    assert added(("<x>", True, False), ("  ", False, True)) == ({"<x>": 2}, [{}, {"  ": 3}])
    assert added(("<x>", True, True), ("  ", False, True)) == ({"<x>": 2}, [{"  ": 3}])
    for wrong in ([("<x>", True, True), ("  ", False, False)], [("<x>", True, "no")],
                  [("<x>", None, False)], [("<x>", 2, False)]):
        with pytest.raises(ValueError, match="<x>"):
            added(*wrong)


def test_find_patterns():
    level, digits = {"type": "ByteLevel"}, {"type": "Digits", "individual_digits": True}
    split = {"type": "Split", "behavior": "Isolated", "pattern": {"Regex": PATTERNS["gpt4"].replace(
        r"(?:'(?i:[sdmt]|ll|ve|re))", "(?i:'s|'t|'re|'ve|'m|'ll|'d)").replace("{1,3}", "")}}
    assert find_patterns(level, refuse) == [PATTERNS["gpt2"]]
    assert find_patterns(level | {"use_regex": False}, refuse) == [WHOLE]
    assert find_patterns({"pretokenizers": [digits, level]}, refuse) == [
        DIGITS["apart"], PATTERNS["gpt2"]]
    assert find_patterns({"pretokenizers": [split, level | {"use_regex": False}]}, refuse) == [
        PATTERNS["gpt4"].replace("{1,3}", "")], "Qwen 2's pattern, which covers every text"


def with_added(tmp_path, tokens):
    """The path of a tokenizer.json of theirs with added tokens: (name, special, normalized)."""
    theirs = pytest.importorskip("tokenizers", reason=ORACLE)
    write_huggingface(FastTokenizer.train(TEXTS, 320, "gpt2"), tmp_path / "tokenizer.json")
    tokenizer = theirs.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for name, special, normalized in tokens:
        token = theirs.AddedToken(name, normalized=normalized, special=special)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tokenizer, tmp_path / "tokenizer.json"


SPACES = [(" " * n, False, True) for n in range(24, 1, -1)]


@pytest.mark.parametrize("tokens", [
    [("<tool_call>", False, False), ("\n\n", False, False)],
    SPACES,
    [*SPACES, ("<tool_call>", False, False), ("\t", False, True), ("tool", False, False)],
    [("<|a", False, False), ("a|>", False, False), ("<|a|>", True, False), ("|>", False, False)],
    [("bb", False, True), ("bbb", False, False), ("b.*", False, True), ("é🙂", False, True)]],
    ids=["call", "spaces", "both", "inside a special one", "steps"])
def test_added_tokens_are_found_as_there(tokens, tmp_path, random_text):
    theirs, path = with_added(tmp_path, tokens)
    ours, rng = load(path), random.Random(5)
    assert [*ours.special] == [*SPECIAL_TOKENS, *(name for name, special, _ in tokens if special)]
    names = [name for name, *_ in tokens] + ["<|bos|>", "a", " ", "\n", "<", "|>", "bbbb", "b."]
    texts = ["".join(rng.choice(names) if rng.random() < 0.7 else random_text(
        rng, 4, assigned=True) for _ in range(rng.randint(1, 12))) for _ in range(300)]
    for text in texts:
        theirs.encode_special_tokens = False
        ids = theirs.encode(text).ids
        assert ours.encode(text, "all") == ids, f"seed 5: {text!r}"
        assert ours.decode(ids) == text
        theirs.encode_special_tokens = True
        ids = theirs.encode(text).ids
        assert ours.encode(text) == ids, f"seed 5: {text!r}"
        assert not set(ids) & set(ours.special.values())
    added = {theirs.token_to_id(name) for name, special, _ in tokens if not special}
    assert added <= {i for text in texts for i in ours.encode(text)}, "each was found"

    ours.save(tmp_path / "ours.json")
    write_huggingface(ours, tmp_path / "again.json")
    for again in (Tokenizer.load(tmp_path / "ours.json"), load(tmp_path / "again.json")):
        assert again.hash == ours.hash and again.encode(texts[0]) == ours.encode(texts[0])
    exported = type(theirs).from_file(str(tmp_path / "again.json"))
    for text in texts[:100]:
        assert exported.encode(text).ids == ours.encode(text, "all")
    with pytest.raises(ValueError, match="tiktoken knows no added tokens"):
        write_tiktoken(ours, tmp_path / "x.tiktoken")
