"""Tests of bpe.py, in the order in which it is read: the first that fails is the next exercise."""

import json
import random

import pytest

import bpe
from bpe import (PATTERNS, SPECIAL_TOKENS, Tokenizer, apply_merges, count_pairs, main, merge,
                 split_special, train, train_naive)

TEXTS = ["the cat sat on the mat; the cat's hat isn't flat\n\n",
         "def f(x):\n    return x + 1\n" * 3,
         "naïve café 東京 🙂🙂 123456 \t\r\n  x", ""]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 300)


# ---- one exercise each ----
def test_count_pairs():
    assert count_pairs([1, 1, 1, 2], {}) == {(1, 1): 2, (1, 2): 1}, (
        "two neighbours are a pair, also where pairs overlap: 1 1 1 holds (1, 1) twice")
    assert count_pairs([5], {}) == {}, "a single id has no neighbour"
    assert count_pairs([], {}) == {}, "no ids, no pairs"
    counts = {(1, 2): 10}
    assert count_pairs([1, 2, 3], counts, weight=4) is counts, (
        "counts must be changed in place, and returned")
    assert counts == {(1, 2): 14, (2, 3): 4}, (
        "every pair adds `weight`, not 1, to what counts held before")
    assert count_pairs([1, 2], {(1, 2): 3}, -3) == {(1, 2): 0}, "a weight may be negative"


def test_merge():
    assert merge([1, 1, 1, 2], (1, 1), 9) == [9, 1, 2], (
        "from left to right, and an id that was merged is not used again")
    assert merge([1, 2, 3, 1, 2], (1, 2), 9) == [9, 3, 9], "a pair at the very end is merged, too"
    assert merge([1, 2, 1, 2, 3], (1, 2), 9) == [9, 9, 3], "every occurrence is merged"
    assert merge([2, 1], (1, 2), 9) == [2, 1], "(2, 1) is not the pair (1, 2)"
    assert merge([1, 1], (1, 2), 9) == [1, 1] and merge([2, 2], (1, 2), 9) == [2, 2], (
        "both ids of a pair must match")
    assert merge([], (1, 2), 9) == [] and merge([1], (1, 2), 9) == [1], "nothing to merge here"
    row = [1, 2]
    merge(row, (1, 2), 9)
    assert row == [1, 2], "the list that was given must stay as it was"


def test_train_naive():
    assert train_naive({b"aab": 2, b"ab": 1}, 2) == [(97, 98), (97, 256)], (
        "the first merge makes the id 256, which the second may use")
    assert train_naive({b"ab": 1, b"cd": 5}, 1) == [(99, 100)], (
        "a pair counts as often as its word occurs")
    assert train_naive({b"ab": 2, b"cdc": 1, b"dc": 1}, 1) == [(97, 98)], (
        "of equally frequent pairs the smallest is merged, whatever stands first in the text")
    assert train_naive({b"xy": 1, b"ab": 1, b"ac": 1}, 1) == [(97, 98)], (
        "of equally frequent pairs the smallest is merged")
    assert train_naive({b"ab": 1}, 50) == [(97, 98)], "it stops when no pair is left"
    assert train_naive({b"ab": 1}, 0) == [] and train_naive({}, 5) == [], "nothing to merge"


def random_words(rng, letters=b"abcd"):
    letters = letters[:rng.randint(1, len(letters))]
    return {bytes(rng.choices(letters, k=rng.randint(1, 12))): rng.randint(1, 3)
            for _ in range(rng.randint(0, 15))}


def test_train(monkeypatch, explains):
    assert train({b"aab": 2, b"ab": 1}, 2) == [(97, 98), (97, 256)], (
        "after a merge, the pairs with the new id must be counted")
    assert train({b"ab": 1, b"cd": 5}, 1) == [(99, 100)], (
        "a pair counts as often as its word occurs")
    assert train({b"xy": 1, b"ab": 1, b"ac": 1}, 1) == [(97, 98)], (
        "of equally frequent pairs the smallest is merged")
    with explains("a pair whose count is down to 0 must not be merged"):
        assert train({b"ab": 1}, 50) == [(97, 98)], (
            "a pair whose count is down to 0 must not be merged: it stops when no pair is left")
    seed = 1
    rng = random.Random(seed)
    for case in range(150):
        words = random_words(rng)
        with explains("after a merge, the counts and places of the pairs that have changed are "
                      f"wrong, a word counts as often as it occurs; words = {words}"):
            assert train(words, 30) == train_naive(words, 30), (
                f"it differs from train_naive(words, 30), seed {seed}, case {case}: {words = }")

    calls = []
    monkeypatch.setattr(bpe, "merge", lambda *how: calls.append(how) or merge(*how))
    train({bytes([65 + i % 26, 97 + i // 26]): 1 for i in range(200)}, 100)
    assert len(calls) < 1000, ("100 merges, each of a pair that is in one word, must not visit all "
                               f"200 words: merge() was called {len(calls):,} times")


def test_apply_merges():
    ranks = {(97, 98): 256, (97, 256): 257, (98, 99): 258}
    assert apply_merges([97, 97, 98], ranks) == [257], "what a merge makes may be merged again"
    assert apply_merges([97, 98, 99], ranks) == [256, 99], (
        "the merge that was learned first goes first: the one with the lower id")
    assert apply_merges([98, 99, 97, 98], ranks) == [258, 256], (
        "a merge that was learned later is applied where no earlier one is in its way")
    assert apply_merges([97, 98, 97, 98], ranks) == [256, 256], "a merge is applied everywhere"
    assert apply_merges([99], ranks) == [99] and apply_merges([], ranks) == [], "nothing to merge"
    assert apply_merges([99, 97], ranks) == [99, 97], "(99, 97) is no pair in ranks"
    ids = [97, 98]
    apply_merges(ids, ranks)
    assert ids == [97, 98], "the list that was given must stay as it was"


def test_split_special():
    names = ["<|a|>", "<|a|>b", "[PAD]", "x+"]
    assert split_special("hi<|end|>you", ["<|end|>"]) == ["hi", "<|end|>", "you"], (
        "the special tokens must not be lost where the text is cut")
    assert split_special("1<|a|>b2", names) == ["1", "<|a|>b", "2"], (
        "where two names match, the longest one wins")
    assert split_special("<|a|><|a|>[PAD]", names) == ["<|a|>", "<|a|>", "[PAD]"], (
        "there must be no empty parts")
    assert split_special("aDxx+", names) == ["aDx", "x+"], "names are not regular expressions"
    assert split_special("<|a|>", []) == ["<|a|>"], "without names nothing is special"
    assert split_special("", names) == [] and split_special("", []) == [], (
        "an empty text has no parts")


def test_encode():
    tokenizer = Tokenizer([(97, 98), (256, 99)], "gpt2", ["<|a|>", "<|b|>"])
    assert tokenizer.encode("abc ab x") == [257, 32, 256, 32, 120], (
        "each piece is merged by itself, and the ids of all pieces joined")
    assert tokenizer.encode("") == [], "an empty text has no ids"
    assert tokenizer.encode("é") == [0xC3, 0xA9], "merges work on the bytes of UTF-8"
    other = Tokenizer([(97, 32), (32, 98)], "gpt2", [])
    assert other.encode("a b") == [97, 257], "merges must not cross from one piece to the next"
    text = "ab<|a|>c<|b|>"
    plain = [i for part in ("ab", "<|a|>", "c", "<|b|>") for i in tokenizer.encode(part)]
    assert max(plain) < 258, "text of a user must never become a special token"
    assert tokenizer.encode(text) == plain, "special tokens are plain text unless they are allowed"
    assert tokenizer.encode(text, ["<|a|>"]) == [256, 258, 99, *tokenizer.encode("<|b|>")], (
        "only those special tokens are taken that are allowed")
    assert tokenizer.encode(text, "all") == [256, 258, 99, 259], '"all" allows every special token'
    with pytest.raises(ValueError, match="nobody"):
        tokenizer.encode("text", ["<|a|>", "nobody"])
        pytest.fail("allowing a token that this tokenizer doesn't have is a mistake")


def test_decode_bytes(explains):
    tokenizer = Tokenizer([(97, 98)], "gpt2", ["<|a|>"])
    assert tokenizer.decode_bytes([104, 256, 0]) == b"hab\0", "the bytes of each id, joined"
    assert tokenizer.decode_bytes([]) == b"", "no ids, no bytes"
    assert tokenizer.decode_bytes([0xE2, 0x82]) == b"\xe2\x82", "half a character stays half"
    assert tokenizer.decode_bytes([257]) == b"<|a|>", "a special token stands for its name"
    nothing = "\ufffd".encode()
    beyond = "ids beyond the end, which pad a vocabulary, must not crash a decode, nor vanish"
    with explains(beyond):
        assert tokenizer.decode_bytes([104, 258, 10**6]) == b"h" + nothing * 2, beyond
    tokenizer.vocab[256] = b""  # as in tokenizers from elsewhere, whose ids have holes
    assert tokenizer.decode_bytes([256, 257]) == nothing + b"<|a|>", (
        "an id that stands for nothing must not vanish")
    with pytest.raises(ValueError, match="-1"):
        tokenizer.decode_bytes([104, -1])
        pytest.fail("a negative id is a mistake; Python counts it from the end of a list")


# ---- the whole ----
def test_what_the_patterns_are_for():
    def pieces(name, text):
        return Tokenizer([], name).find_pieces(text)
    assert pieces("gpt2", "it's 12345 cats!!\n\nYes") == [
        "it", "'s", " 12345", " cats", "!!", "\n", "\n", "Yes"]
    assert pieces("gpt4", "it'S 12345 cats!!\n\nYes") == [
        "it", "'S", " ", "123", "45", " cats", "!!\n\n", "Yes"]
    assert pieces(r"\w+", "a, b") == ["a", ",", " ", "b"], "what a pattern skips must not be lost"


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+"])
def test_round_trip(pattern, random_text):
    """Whatever goes in comes out, also with a pattern that skips most characters."""
    seed = 3
    rng = random.Random(seed)
    tokenizer = Tokenizer.train(TEXTS, 300, pattern)
    for n in range(0, 400, 7):
        text = random_text(rng, n)
        assert tokenizer.decode(tokenizer.encode(text)) == text, f"seed {seed}, length {n}"


def test_vocabulary(tokenizer):
    assert tokenizer.vocab_size == len(tokenizer.vocab) == 300
    assert tokenizer.vocab[:256] == [bytes([b]) for b in range(256)], "the bytes come first"
    for i, (a, b) in enumerate(tokenizer.merges):
        assert tokenizer.vocab[256 + i] == tokenizer.vocab[a] + tokenizer.vocab[b]
    assert list(tokenizer.special) == list(SPECIAL_TOKENS)
    assert list(tokenizer.special.values()) == list(range(291, 300)), "special tokens come last"


def test_special_tokens_only_when_allowed(tokenizer):
    bos, text = tokenizer.special["<|bos|>"], "a<|bos|>b<|user_end|>"
    assert max(tokenizer.encode(text)) < 291, "text of a user must never become a special token"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    only_bos = tokenizer.encode(text, allowed_special=["<|bos|>"])
    assert only_bos == [97, bos] + tokenizer.encode("b<|user_end|>")
    assert tokenizer.encode(text, "all") == [97, bos, 98, tokenizer.special["<|user_end|>"]]
    with pytest.raises(ValueError, match="nobody"):
        tokenizer.encode(text, allowed_special=["nobody"])


def test_order_of_texts_does_not_matter(random_text):
    texts = [random_text(random.Random(i), 100) for i in range(10)]
    assert Tokenizer.train(texts, 330).hash == Tokenizer.train(reversed(texts), 330).hash


def test_hash_seed_does_not_matter(command, tmp_path):
    (tmp_path / "text").write_text("the cat sat on the mat " + TEXTS[2] * 9, newline="")
    for seed in ("1", "2"):
        command("bpe", "train", "text", "--vocab-size", 320, "--tokenizer", f"{seed}.json",
                env={"PYTHONHASHSEED": seed}, cwd=tmp_path)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_small_and_impossible_texts():
    assert Tokenizer.train(["ab"], 400).vocab_size == 256 + 1 + 9, "no more merges than pairs"
    with pytest.raises(ValueError, match="no text"):
        Tokenizer.train([], 300)
    with pytest.raises(ValueError, match="265"):
        Tokenizer.train(["ab"], 264)
    for pattern in ("(a)", "a*", "", "gtp4"):
        with pytest.raises(ValueError, match="pattern"):
            Tokenizer.train(["ab"], 300, pattern)


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    again = Tokenizer.load(path)
    assert again.hash == tokenizer.hash and again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]
    for other in (Tokenizer(tokenizer.merges[:-1]), Tokenizer(tokenizer.merges, "gpt2"),
                  Tokenizer(tokenizer.merges, special_tokens=SPECIAL_TOKENS[::-1])):
        assert other.hash != tokenizer.hash, "the hash changes with anything that changes the ids"

    content = json.loads(path.read_text())
    content["merges"][0] = [120, 121]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was changed"):
        Tokenizer.load(path)

    def wrong(**changes):
        return json.dumps({"hash": "", "kind": "bpe", "pattern": "gpt2", "special_tokens": [],
                           "merges": []} | changes)
    for bad in ("", "[]", "{}", "[" * 200_000, "null", '{"hash": ""}', wrong(special_tokens=[1]),
                wrong(merges=[[1, 999]]), wrong(merges=[[-1, 1]]), wrong(merges=[[1, 2, 3]]),
                wrong(merges=[[float("inf"), 2]]), wrong(pattern=3), wrong(colour="red"),
                wrong(merges=[[97, 97]] + [[i, i] for i in range(256, 300)])):
        path.write_text(bad)
        with pytest.raises(ValueError, match="tokenizer.json is not"):
            Tokenizer.load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="tokenizer.json is not"):
        Tokenizer.load(path)


def test_ids_equal_tiktoken(tokenizer, random_text):
    tiktoken = pytest.importorskip("tiktoken", reason="an oracle of tests/requirements.txt")
    theirs = tiktoken.Encoding("ours", pat_str=tokenizer.pattern, special_tokens=tokenizer.special,
                               mergeable_ranks={t: i for i, t in enumerate(tokenizer.vocab[:291])})
    seed = 6
    rng = random.Random(seed)
    for n in range(1, 300, 3):
        text = random_text(rng, n, assigned=True) + rng.choice(TEXTS)
        assert tokenizer.encode(text) == theirs.encode_ordinary(text), f"seed {seed}, length {n}"
        text = f"a<|bos|>{text}<|user_end|>"
        assert tokenizer.encode(text, "all") == theirs.encode(text, allowed_special="all")


# ---- the command line ----
def test_without_arguments_it_learns_from_its_own_text(capsys):
    main([])
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == f"{len(bpe.__doc__.encode())} bytes of text"
    lengths = [int(line.split()[-2]) for line in lines if line.startswith("id ")]
    assert len(lengths) == 20 and lengths == sorted(set(lengths), reverse=True), (
        "each of 20 merges makes the text shorter")
    assert lines[0].startswith("id 256:") and lengths[0] < len(bpe.__doc__.encode())
    assert lines[-1].startswith("[B]66 [y]121 ")


@pytest.mark.parametrize("exercise, command", [
    ("count_pairs", ""), ("merge", ""), ("train_naive", ""), ("apply_merges", ""),
    ("split_special", ""), ("encode", ""), ("count_pairs", "train"), ("merge", "train"),
    ("train", "train"), ("encode", "train"), ("apply_merges", "show"), ("split_special", "show"),
    ("encode", "encode"), ("decode_bytes", "decode")])
def test_what_is_taught_is_what_runs(exercise, command, tmp_path, fails, monkeypatch):
    """A command whose exercise is not written yet stops there."""
    made = tmp_path / "t.json"
    Tokenizer([(97, 98)]).save(made)
    (tmp_path / "text").write_text("ab ab")

    def blank(*_):
        raise NotImplementedError(f"exercise: {exercise}")
    monkeypatch.setattr(bpe if hasattr(bpe, exercise) else Tokenizer, exercise, blank)
    arguments = {"": [], "decode": [97], "train": [tmp_path / "text"]}.get(command, ["ab"])
    options = ["--tokenizer", made] if command else []
    assert f"exercise: {exercise}" in fails(main, *filter(None, [command]), *arguments, *options)
