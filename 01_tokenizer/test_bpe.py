"""Tests of bpe.py, from primitive to composite: the first that fails is the next exercise."""

import inspect
import json
import random

import pytest

from bpe import (PATTERNS, SPECIAL_TOKENS, Tokenizer, apply_merges, apply_merges_fast, count_pairs,
                 main, merge, read_text, split_function, train_fast, train_naive)

TEXTS = ["the cat sat on the mat; the cat's hat isn't flat\n\n",
         "def f(x):\n    return x + 1\n" * 3,
         "naïve café 東京 🙂🙂 123456 \t\r\n  x", ""]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 300)


def random_words(rng):
    return {bytes(rng.choices(b"abc", k=rng.randint(1, 12))): rng.randint(1, 3)
            for _ in range(rng.randint(1, 20))}


def random_text(rng, n):
    """Text with what tokenizers trip over: all of Unicode, runs of spaces, controls, newlines."""
    kinds = ["abcDEF'st ", " \t\n\r\u00a0\u2003", "0123456789", "\x00\x1b\x7f.,;!?", "éüñßøÅ"]
    letters = [rng.choice(rng.choice(kinds)) if rng.random() < 0.8 else
               chr(rng.choice([rng.randrange(0x20, 0xD800), rng.randrange(0xE000, 0x110000)]))
               for _ in range(n)]
    return "".join(letters)


def test_count_pairs():
    assert count_pairs([1, 1, 1, 2], {}) == {(1, 1): 2, (1, 2): 1}
    assert count_pairs([5], {}) == {} and count_pairs([], {}) == {}
    counts = {(1, 2): 10}
    assert count_pairs([1, 2, 3], counts, weight=4) is counts, "it must change `counts` in place"
    assert counts == {(1, 2): 14, (2, 3): 4}, "each pair weighs `weight`"


def test_merge():
    assert merge([1, 1, 1, 2], (1, 1), 9) == [9, 1, 2], "from left to right, each id used once"
    assert merge([1, 2, 3, 1, 2], (1, 2), 9) == [9, 3, 9], "a pair at the very end counts too"
    assert merge([2, 1], (1, 2), 9) == [2, 1] and merge([], (1, 2), 9) == []
    row = [1, 2]
    merge(row, (1, 2), 9)
    assert row == [1, 2], "the list that was given must stay as it was"


def test_train_naive():
    assert train_naive({b"aab": 2, b"ab": 1}, 2) == [(97, 98), (97, 256)]
    assert train_naive({b"ab": 1, b"cd": 5}, 1) == [(99, 100)], "words count as often as they occur"
    assert train_naive({b"xy": 1, b"ab": 1, b"ac": 1}, 1) == [(97, 98)], "ties: the smallest pair"
    assert train_naive({b"ab": 1}, 50) == [(97, 98)], "it stops when no pair is left"


def test_train_fast_equals_naive():
    seed = 1
    rng = random.Random(seed)
    for i in range(200):
        words = random_words(rng)
        assert train_fast(words, 30) == train_naive(words, 30), f"seed {seed}, case {i}: {words}"
    assert train_fast({b"a" * 1001: 1}, 20) == train_naive({b"a" * 1001: 1}, 20)


def test_apply_merges():
    ranks = {(97, 98): 256, (97, 256): 257, (98, 99): 258}
    assert apply_merges([97, 97, 98], ranks) == [257]
    assert apply_merges([97, 98, 99], ranks) == [256, 99], "the merge that was learned first wins"
    assert apply_merges([97, 98, 97, 98], ranks) == [256, 256], "everywhere"
    assert apply_merges([99], ranks) == [99] and apply_merges([], ranks) == []


def test_apply_merges_fast_equals_slow():
    seed = 2
    rng = random.Random(seed)
    for i in range(200):
        ranks = {pair: 256 + n for n, pair in enumerate(train_naive(random_words(rng), 25))}
        ids = rng.choices(b"abc", k=rng.randint(0, 30))
        assert apply_merges_fast(ids, ranks) == apply_merges(ids, ranks), f"seed {seed}, case {i}"


def test_decode_bytes(tokenizer):
    assert tokenizer.decode_bytes([104, 105]) == b"hi"
    assert tokenizer.decode_bytes([0xE2, 0x82]) == b"\xe2\x82", "half a character stays half"
    assert tokenizer.decode_bytes([tokenizer.special["<|bos|>"]]) == b"<|bos|>"
    for i in (-1, tokenizer.vocab_size):
        with pytest.raises(ValueError, match=f"{i}\\b"):
            tokenizer.decode_bytes([i])


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4", r"\w+"])
def test_round_trip(pattern):
    """Whatever goes in comes out, also with a pattern that skips most characters."""
    seed = 3
    rng = random.Random(seed)
    tokenizer = Tokenizer.train(TEXTS, 300, pattern)
    for n in range(0, 400, 7):
        text = random_text(rng, n)
        assert "".join(split_function(PATTERNS.get(pattern, pattern))(text)) == text, f"seed {seed}"
        assert tokenizer.decode(tokenizer.encode(text)) == text, f"seed {seed}, length {n}"


def test_encode_by_the_definition(tokenizer):
    ranks = {pair: 256 + i for i, pair in enumerate(tokenizer.merges)}
    for text in TEXTS:
        pieces = split_function(tokenizer.pattern)(text)
        expected = [i for piece in pieces for i in apply_merges(list(piece.encode()), ranks)]
        assert tokenizer.encode(text) == expected


def test_vocabulary(tokenizer):
    assert tokenizer.vocab_size == len(tokenizer.vocab) == 300
    assert tokenizer.vocab[:256] == [bytes([b]) for b in range(256)]
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


def test_order_of_texts_does_not_matter():
    texts = [random_text(random.Random(i), 100) for i in range(10)]
    assert Tokenizer.train(texts, 330).hash == Tokenizer.train(reversed(texts), 330).hash


def test_hash_seed_does_not_matter(command, tmp_path):
    (tmp_path / "text").write_text("the cat sat on the mat " + TEXTS[2] * 9, newline="")
    for seed in ("1", "2"):
        command("bpe", "train", "text", "--vocab-size", 320, "--tokenizer", f"{seed}.json",
                env={"PYTHONHASHSEED": seed}, cwd=tmp_path)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_small_and_impossible_texts():
    assert Tokenizer.train(["ab"], 400).vocab_size == 256 + 1 + 9, "no more pairs than there are"
    with pytest.raises(ValueError, match="no text"):
        Tokenizer.train([], 300)
    with pytest.raises(ValueError, match="265"):
        Tokenizer.train(["ab"], 264)
    with pytest.raises(ValueError, match="loses or reorders"):
        Tokenizer.train(["hello world"], 300, r"(?r)\w+")
    for pattern in ("(a)", "a*", "["):
        with pytest.raises(ValueError, match="pattern"):
            Tokenizer.train(["ab"], 300, pattern)


def test_long_pieces():
    """A run of one letter is one piece; its time must not grow with its square."""
    for text in ("a" * 200_000, "".join(random.Random(5).choices("abcdefgh", k=100_000))):
        tokenizer = Tokenizer.train([text], 280)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    again = Tokenizer.load(path)
    assert again.hash == tokenizer.hash and again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]

    content = json.loads(path.read_text())
    content["merges"][0] = [120, 121]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was changed"):
        Tokenizer.load(path)
    for bad in ("", "[]", "{}", '{"merges": [], "pattern": "gpt2", "special_tokens": [1]}',
                '{"merges": [[1e999, 2]], "pattern": "gpt2", "special_tokens": []}',
                '{"merges": [[1, 999]], "pattern": "gpt2", "special_tokens": []}'):
        path.write_text(bad)
        with pytest.raises(ValueError, match="tokenizer.json"):
            Tokenizer.load(path)


def test_ids_equal_tiktoken(tokenizer):
    tiktoken = pytest.importorskip("tiktoken", reason="an oracle of tests/requirements.txt")
    theirs = tiktoken.Encoding("ours", pat_str=tokenizer.pattern, special_tokens=tokenizer.special,
                               mergeable_ranks={t: i for i, t in enumerate(tokenizer.vocab[:291])})
    seed = 6
    rng = random.Random(seed)
    for n in range(1, 300, 3):
        text = random_text(rng, n) + rng.choice(TEXTS)
        assert tokenizer.encode(text) == theirs.encode_ordinary(text), f"seed {seed}, length {n}"
        text = f"a<|bos|>{text}<|user_end|>"
        assert tokenizer.encode(text, "all") == theirs.encode(text, allowed_special="all")


def test_pattern_is_that_of_tiktoken():
    public = pytest.importorskip("tiktoken_ext.openai_public",
                                 reason="an oracle of tests/requirements.txt")
    assert PATTERNS["gpt4"] in inspect.getsource(public.cl100k_base)


def test_command_line(tmp_path, capsys, fails):
    text, made = tmp_path / "text", tmp_path / "t.json"
    text.write_text("\ufeff" + "hello hello world, " + TEXTS[0], encoding="utf-8")
    assert not read_text(text).startswith("\ufeff")
    main(["train", str(text), "--vocab-size", "280", "--tokenizer", str(made)])
    assert "280 ids" in capsys.readouterr().out
    main(["encode", "hello world", "--tokenizer", str(made)])
    ids = capsys.readouterr().out.split()
    main(["decode", *ids, "--tokenizer", str(made)])
    assert capsys.readouterr().out == "hello world\n"
    main(["show", "hello\n", "--tokenizer", str(made)])
    shown = capsys.readouterr().out
    assert "hello" in shown and "\\n" in shown and "\x1b[" in shown

    text.write_bytes(b"caf\xe9")
    assert "not UTF-8" in fails(main, "train", text, "--tokenizer", made)
    text.write_bytes(b"a\0b")
    assert "binary" in fails(main, "train", text, "--tokenizer", made)
    assert "No such file" in fails(main, "train", tmp_path / "none", "--tokenizer", made)
    assert "99999" in fails(main, "decode", "99999", "--tokenizer", made)
    assert "No such file" in fails(main, "encode", "x", "--tokenizer", tmp_path / "none")
    assert "train" in fails(main, "trian")
