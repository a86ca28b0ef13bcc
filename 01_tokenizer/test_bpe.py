"""Tests of bpe.py, from primitive to composite: the first that fails is the next exercise."""

import json
import pickle
import random

import pytest

from bpe import (PATTERNS, SPECIAL_TOKENS, Tokenizer, apply_merges, count_pairs, main, merge,
                 split_function, train_naive)

TEXTS = ["the cat sat on the mat; the cat's hat isn't flat\n\n",
         "def f(x):\n    return x + 1\n" * 3,
         "naïve café 東京 🙂🙂 123456 \t\r\n  x", ""]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 300)


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


def test_apply_merges():
    ranks = {(97, 98): 256, (97, 256): 257, (98, 99): 258}
    assert apply_merges([97, 97, 98], ranks) == [257]
    assert apply_merges([97, 98, 99], ranks) == [256, 99], "the merge that was learned first wins"
    assert apply_merges([97, 98, 97, 98], ranks) == [256, 256], "everywhere"
    assert apply_merges([99], ranks) == [99] and apply_merges([], ranks) == []


def test_decode_bytes(tokenizer):
    assert tokenizer.decode_bytes([104, 105]) == b"hi"
    assert tokenizer.decode_bytes([0xE2, 0x82]) == b"\xe2\x82", "half a character stays half"
    assert tokenizer.decode_bytes([tokenizer.special["<|bos|>"]]) == b"<|bos|>"
    nothing = "\ufffd".encode()
    assert tokenizer.decode_bytes([104, tokenizer.vocab_size, 10**6]) == b"h" + nothing * 2, (
        "ids that pad a model's vocabulary must not crash a decode")
    with_a_hole = Tokenizer([], "gpt2", {"<|end|>": 300})
    assert with_a_hole.decode_bytes([299, 300]) == nothing + b"<|end|>"
    with pytest.raises(ValueError, match="-1"):
        tokenizer.decode_bytes([104, -1])


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+"])
def test_round_trip(pattern, random_text):
    """Whatever goes in comes out, also with a pattern that skips most characters."""
    seed = 3
    rng = random.Random(seed)
    tokenizer = Tokenizer.train(TEXTS, 300, pattern)
    for n in range(0, 400, 7):
        text = random_text(rng, n)
        assert tokenizer.decode(tokenizer.encode(text)) == text, f"seed {seed}, length {n}"


@pytest.mark.parametrize("pattern", [*PATTERNS, [r"\p{N}|\P{N}+", PATTERNS["gpt2"]]], ids=str)
def test_encode_by_the_definition(pattern, random_text):
    """Cut, cached and packed, the ids are those of split_function() and apply_merges()."""
    seed = 4
    rng = random.Random(seed)
    tokenizer = Tokenizer.train(TEXTS, 320, pattern)
    ranks = {pair: 256 + i for i, pair in enumerate(tokenizer.merges)}
    split = split_function(tokenizer.pattern)
    texts = TEXTS + [random_text(rng, rng.randint(1, 200)) for _ in range(50)]
    expected = [[i for piece in split(text) for i in apply_merges(list(piece.encode()), ranks)]
                for text in texts]
    for what in ("cold", "warm"):
        assert list(map(tokenizer.encode, texts)) == expected, f"seed {seed}, {what} cache"


def test_many_texts_and_many_processes(tokenizer):
    texts = TEXTS * 5 + ["x" * 2_000_000] + TEXTS
    expected = [tokenizer.encode(text) for text in texts]
    for workers in (1, 3):
        assert [ids.tolist() for ids in tokenizer.encode_many(texts, workers)] == expected
        assert Tokenizer.train(texts, 300, workers=workers).hash == Tokenizer.train(
            texts[::-1], 300).hash


def test_what_travels_to_another_process(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again.hash == tokenizer.hash and again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_vocabulary(tokenizer):
    assert tokenizer.vocab_size == len(tokenizer.vocab) == 300
    assert tokenizer.vocab[:256] == [bytes([b]) for b in range(256)]
    assert list(tokenizer.special) == list(SPECIAL_TOKENS)
    assert list(tokenizer.special.values()) == list(range(291, 300)), "special tokens come last"


def test_special_tokens_at_chosen_ids(tmp_path):
    """[PAD] and [UNK] first, no others: the pieces take the ids that are left."""
    tokenizer = Tokenizer.train(TEXTS, 300, special_tokens={"[PAD]": 0, "[UNK]": 1})
    assert tokenizer.vocab[:3] == [b"[PAD]", b"[UNK]", b"\0"] and tokenizer.vocab_size == 300
    ids = tokenizer.encode(TEXTS[0])
    assert min(ids) > 1 and tokenizer.decode([0] + ids) == "[PAD]" + TEXTS[0]
    tokenizer.save(tmp_path / "t.json")
    assert Tokenizer.load(tmp_path / "t.json").encode(TEXTS[0]) == ids
    for wrong in ({"[PAD]": 0, "[UNK]": 0}, {"[PAD]": -1}, {"[PAD]": 300}, {"": 0}):
        with pytest.raises(ValueError, match="special tokens"):
            Tokenizer.train(TEXTS, 300, special_tokens=wrong)


def test_ids_of_the_symbols():
    """Other people's tokenizers number the bytes differently, and leave some of them out."""
    ids = [255 - byte for byte in range(256)] + [256]
    tokenizer = Tokenizer([(97, 98)], "gpt2", {}, ids)
    assert tokenizer.encode("abz") == [256, 255 - 122] and tokenizer.decode([256]) == "ab"
    ids[0] = ids[122] = None
    assert Tokenizer([(97, 98)], "gpt2", {}, ids).encode("azb") == [256], "z can't be written"
    for wrong in (ids[:-1], ids[:-1] + [None], ids[:-1] + [ids[1]], ids[:-1] + [10**9]):
        with pytest.raises(ValueError):
            Tokenizer([(97, 98)], "gpt2", {}, wrong)


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
    assert Tokenizer.train(["ab"], 400).vocab_size == 256 + 1 + 9, "no more pairs than there are"
    with pytest.raises(ValueError, match="no text"):
        Tokenizer.train([], 300)
    with pytest.raises(ValueError, match="265"):
        Tokenizer.train(["ab"], 264)
    for pattern in ("(a)", "a*", "[", r"(?r)\w+", [], [["a"]]):
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
                '{"merges": [[1, 999]], "pattern": "gpt2", "special_tokens": []}', "[" * 200_000,
                json.dumps({"merges": [[97, 97]] + [[i, i] for i in range(256, 300)], "ids": None,
                            "pattern": "gpt2", "special_tokens": [], "hash": ""})):
        path.write_text(bad)
        with pytest.raises(ValueError, match="tokenizer.json"):
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


def test_command_line(tmp_path, capsys, fails):
    text, made = tmp_path / "text", tmp_path / "t.json"
    text.write_text("\ufeff" + "hello hello world, " + TEXTS[0], encoding="utf-8")
    main(["train", str(text), "--vocab-size", "9999", "--tokenizer", str(made), "--digits", "1",
          "--special", "[PAD]=0", "[UNK]=1"])
    assert "no pair is left for 9999" in capsys.readouterr().out
    assert Tokenizer.load(made).special == {"[PAD]": 0, "[UNK]": 1}
    main(["train", str(text), "--vocab-size", "280", "--tokenizer", str(made), "--workers", "2"])
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
    assert "-5" in fails(main, "decode", "--tokenizer", made, "--", "-5")
    assert "No such file" in fails(main, "encode", "x", "--tokenizer", tmp_path / "none")
    assert "train" in fails(main, "trian")
    text.write_text("some text")
    assert "to none" in fails(main, "train", text, "--tokenizer", made, "--special", "a=0", "b")
    assert "twice" in fails(main, "train", text, "--tokenizer", made, "--special", "a=0", "a=1")
    assert "-3" in fails(main, "train", text, "--tokenizer", made, "--workers", -3)
    assert "no such folder" in fails(main, "train", text, "--tokenizer", tmp_path / "no" / "t.json")
    (tmp_path / "empty").write_text("")
    main(["train", str(tmp_path / "empty"), str(text), "--tokenizer", str(made)])
    assert "bytes an id" in capsys.readouterr().out
    assert "below 300" in fails(main, "train", text, "--tokenizer", made, "--vocab-size", 300,
                                "--special", "a=300")
