"""Tests of mapped.py: other ids, the same pieces."""

import json
import pickle
import random

import pytest

from bpe import Tokenizer, apply_merges
from fast import FastTokenizer
from mapped import MappedTokenizer, check_ids, check_pairs
from pieces import DIGITS, PATTERNS, piece_finder

TEXTS = ["the cat sat on the mat; the cat's hat isn't flat\n\n",
         "def f(x):\n    return x + 1\n" * 3,
         "naïve café 東京 🙂🙂 123456 \t\r\n  x", ""]


def test_special_tokens_at_chosen_ids(tmp_path):
    """[PAD] and [UNK] first, no others: the pieces take the ids that are left."""
    tokenizer = MappedTokenizer.train(TEXTS, 300, special_tokens={"[PAD]": 0, "[UNK]": 1})
    assert tokenizer.vocab[:3] == [b"[PAD]", b"[UNK]", b"\0"] and tokenizer.vocab_size == 300
    ids = tokenizer.encode(TEXTS[0])
    assert min(ids) > 1 and tokenizer.decode([0] + ids) == "[PAD]" + TEXTS[0]
    assert tokenizer.encode("a[PAD]", "all") == [ord("a") + 2, 0]
    tokenizer.save(tmp_path / "t.json")
    assert Tokenizer.load(tmp_path / "t.json").encode(TEXTS[0]) == ids
    for wrong in ({"[PAD]": 0, "[UNK]": 0}, {"[PAD]": -1}, {"[PAD]": 300}, {"": 0}, ["a", "a"]):
        with pytest.raises(ValueError, match="special tokens|special and added|the id of"):
            MappedTokenizer.train(TEXTS, 300, special_tokens=wrong)


def test_special_tokens_anywhere_leave_room_for_merges():
    special = {"[PAD]": 0, "<|bos|>": 299, "<|b|>": 7}
    tokenizer = MappedTokenizer.train(TEXTS, 300, special_tokens=special)
    assert tokenizer.vocab_size == 300 and b"" not in tokenizer.vocab
    assert tokenizer.merges == FastTokenizer.train(TEXTS, 300, special_tokens=[*"abc"]).merges


def test_in_order_it_has_the_hash_of_a_plain_tokenizer(tmp_path):
    ours, plain = MappedTokenizer.train(TEXTS, 300), Tokenizer.train(TEXTS, 300)
    assert ours.vocab == plain.vocab and ours.special == plain.special and ours.hash == plain.hash
    ours.save(tmp_path / "t.json")
    assert type(Tokenizer.load(tmp_path / "t.json")) is Tokenizer
    assert type(MappedTokenizer.load(tmp_path / "t.json")) is MappedTokenizer
    swapped = dict(zip(ours.special, reversed(ours.special.values())))
    assert MappedTokenizer(ours.merges, "gpt4", swapped).hash != plain.hash
    moved = {name: i + 1 for name, i in ours.special.items()}
    assert MappedTokenizer(ours.merges, "gpt4", moved).hash != plain.hash
    assert MappedTokenizer(ours.merges, [ours.pattern]).hash != plain.hash


def test_ids_of_the_symbols():
    """Other people's tokenizers number the bytes differently, and leave some of them out."""
    ids = [255 - byte for byte in range(256)] + [256]
    tokenizer = MappedTokenizer([(97, 98)], "gpt2", {}, ids)
    assert tokenizer.encode("abz") == [256, 255 - 122] and tokenizer.decode([256]) == "ab"
    ids[0] = ids[122] = None
    assert MappedTokenizer([(97, 98)], "gpt2", {}, ids).encode("azb") == [256], (
        "z can't be written")
    for wrong in (ids[:-1], ids[:-1] + [None], ids[:-1] + [ids[1]], ids[:-1] + [10**9]):
        with pytest.raises(ValueError):
            MappedTokenizer([(97, 98)], "gpt2", {}, wrong)


def test_ids_that_stand_for_nothing():
    tokenizer = MappedTokenizer([], "gpt2", {"<|end|>": 300})
    assert tokenizer.vocab_size == 301 and tokenizer.vocab[299] == b""
    assert tokenizer.decode_bytes([299, 300, 301]) == "\ufffd<|end|>\ufffd".encode()


@pytest.mark.parametrize("pattern", [[DIGITS["apart"], PATTERNS["gpt2"]], [r"\s|\S+", r"\w+|,"],
                                     [PATTERNS["go"]]], ids=str)
def test_lists_of_patterns(pattern, random_text):
    """Cut, cached and packed, the ids are those of piece_finder() and apply_merges()."""
    seed = 4
    rng = random.Random(seed)
    tokenizer = MappedTokenizer.train(TEXTS, 320, pattern)
    find_pieces = piece_finder(pattern)
    texts = TEXTS + [random_text(rng, rng.randint(1, 200)) for _ in range(50)]
    expected = [[i for piece in find_pieces(text)
                 for i in apply_merges(list(piece.encode()), tokenizer.ranks)] for text in texts]
    for what in ("cold", "warm"):
        assert list(map(tokenizer.encode, texts)) == expected, f"seed {seed}, {what} cache"
    assert all(tokenizer.decode(ids) == text for ids, text in zip(expected, texts))
    for wrong in ([], [["a"]], ["(a)"], None):
        with pytest.raises(ValueError, match="pattern"):
            MappedTokenizer.train(["ab"], 300, wrong)


def test_many_processes():
    how = {"vocab_size": 300, "pattern": [r"\s|\S+", r"\w+"], "special_tokens": {"[PAD]": 3}}
    tokenizer = MappedTokenizer.train(TEXTS, workers=2, **how)
    assert tokenizer.hash == MappedTokenizer.train(TEXTS[::-1], **how).hash
    again = pickle.loads(pickle.dumps(tokenizer))
    assert type(again) is MappedTokenizer and again.hash == tokenizer.hash
    assert [ids.tolist() for ids in tokenizer.encode_many(TEXTS * 3, workers=2)] == [
        tokenizer.encode(text) for text in TEXTS * 3]


def test_save_and_load(tmp_path):
    path = tmp_path / "tokenizer.json"
    ours = MappedTokenizer([(97, 98)], [r"\s|\S+", r"\w+"], {"[PAD]": 3}, [*range(10, 266), 4])
    ours.save(path)
    for cls in (Tokenizer, FastTokenizer, MappedTokenizer):
        again = cls.load(path)
        assert type(again) is MappedTokenizer and again.hash == ours.hash
        assert again.encode("ab", "all") == [4] and again.pattern == ours.pattern
    content = json.loads(path.read_text())
    for bad, what in ((content | {"ids": [3]}, "is not a"),
                      (content | {"kind": "wordpiece"}, "is not a"),
                      (content | {"special_tokens": {"[PAD]": 2}}, "changed"),
                      (content | {"special_tokens": {"[PAD]": 1e99}}, "is not a")):
        path.write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=f"tokenizer.json .*{what}"):
            Tokenizer.load(path)


def test_added_tokens(tmp_path):
    """They are ordinary text: always found, with bytes of their own, and kept in the file."""
    added = [{"  ": 300, "    ": 301, "<call>": 302}, {"ab": 303}]
    ours = MappedTokenizer([], "gpt2", {"<|end|>": 256, "<call": 257}, added_tokens=added)
    assert ours.encode("a    b<call>x  <|end|>") == [
        97, 301, 98, 302, 120, 300, *b"<|end|>"], "the longest of those that begin at a place"
    assert ours.encode("ab    <|end|><call", "all") == [303, 301, 256, 257]
    assert ours.encode("ab<|end|>", ["<|end|>"]) == [303, 256]
    assert ours.decode(ours.encode("  ab<call>    ")) == "  ab<call>    "
    assert ours.special == {"<|end|>": 256, "<call": 257} and ours.vocab[302] == b"<call>"
    texts = ["ab  ab", "", "<|end|>", "x    y" * 9]
    for workers in (1, 2):
        assert [list(ids) for ids in ours.encode_many(texts, workers)] == list(
            map(ours.encode, texts))
    path = tmp_path / "t.json"
    ours.save(path)
    again = Tokenizer.load(path)
    assert again.added == added and again.hash == ours.hash
    assert again.encode("ab    <call>") == ours.encode("ab    <call>")
    without = MappedTokenizer([], "gpt2", ours.special, added_tokens=added[:1])
    assert without.hash != ours.hash
    assert MappedTokenizer([], "gpt2", ("a",)).hash == Tokenizer([], "gpt2", ("a",)).hash
    for wrong in ([{"": 300}], [{"<|end|>": 300}], [{"ab": 256}], [{"ab": -1}], [{"ab": True}],
                  [{"ab": 3.0}], [{"ab": None}], [{"ab": 10**12}], ["ab"]):
        with pytest.raises(ValueError):
            MappedTokenizer([], "gpt2", ours.special, added_tokens=wrong)


def test_check_ids_and_pairs():
    check_ids({"a": 0, "b": 10**9})
    check_pairs([["a", "b"]], str)
    for wrong in ([], None, {"a": None}, {"a": True}, {"a": 0.0}, {"a": -1}, {"a": "0"}):
        with pytest.raises(ValueError):
            check_ids(wrong)
    for wrong in (None, "ab", [3], [["a"]], [["a", 1]], ["ab"]):
        with pytest.raises(ValueError):
            check_pairs(wrong, str)


def test_damaged_files_are_refused(tmp_path):
    """A seed's random damage: bits, values of another type, entries that are gone."""
    rng, path = random.Random(4), tmp_path / "t.json"
    special = {"<|bos|>": 0, "<|end|>": 300}
    MappedTokenizer([(97, 98), (256, 97)], ["a+b|b+", r"\s+"], special,
                    added_tokens=[{"  ": 301}]).save(path)
    whole, content = path.read_bytes(), json.loads(path.read_text())
    reference = Tokenizer.load(path)
    for _ in range(150):
        damaged, changed = bytearray(whole), json.loads(path.read_text())
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        key = rng.choice([*content])
        changed[key] = rng.choice([None, True, 3, -1.5, "x", [], {}, [[]], [{}], 10**400])
        gone = {k: v for k, v in content.items() if k != key}
        for data in (bytes(damaged), json.dumps(changed).encode(), json.dumps(gone).encode()):
            (tmp_path / "bad.json").write_bytes(data)
            try:
                assert Tokenizer.load(tmp_path / "bad.json").hash == reference.hash
            except ValueError as error:
                assert "bad.json" in str(error) and "\n" not in str(error)


def test_where_texts_begin_and_end(tmp_path):
    """It is kept in the file and is part of the hash, where the names alone don't say so."""
    names = {"<s>": 256, "</s>": 257, "<|bos|>": 258}
    plain = MappedTokenizer([], "gpt2", names)
    assert not hasattr(plain, "begin") and plain.ends == []
    for begin, ends in (([256], []), ([256, 257], []), (None, [257]), ([256], [257, 3000]),
                        ([], []), ([], [257])):
        tokenizer = MappedTokenizer([], "gpt2", names, begin=begin, ends=ends)
        tokenizer.save(tmp_path / "t.json")
        for again in (Tokenizer.load(tmp_path / "t.json"), pickle.loads(pickle.dumps(tokenizer))):
            assert getattr(again, "begin", None) == begin and again.ends == ends
        assert tokenizer.hash != plain.hash
    assert MappedTokenizer([], "gpt2", names, begin=[258]).hash == plain.hash, "as by its name"
    for wrong in ({"begin": [259]}, {"begin": ["<s>"]}, {"begin": [-1]}, {"begin": [True]},
                  {"ends": [-1]}, {"ends": ["</s>"]}, {"ends": [2.0]}):
        with pytest.raises(ValueError, match="no text (begins|ends)"):
            MappedTokenizer([], "gpt2", names, **wrong)
