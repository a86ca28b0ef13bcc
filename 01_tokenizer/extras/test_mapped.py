"""Tests of mapped.py: other ids, the same pieces."""

import json
import pickle
import random

import pytest

from bpe import Tokenizer, apply_merges
from fast import FastTokenizer
from mapped import MappedTokenizer
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
        with pytest.raises(ValueError, match="special tokens"):
            MappedTokenizer.train(TEXTS, 300, special_tokens=wrong)


def test_special_tokens_anywhere_leave_room_for_merges():
    special = {"[PAD]": 0, "<|bos|>": 299, "<|b|>": 7}
    tokenizer = MappedTokenizer.train(TEXTS, 300, special_tokens=special)
    assert tokenizer.vocab_size == 300 and b"" not in tokenizer.vocab
    assert tokenizer.merges == FastTokenizer.train(TEXTS, 300, special_tokens="abc").merges


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
    content = json.loads(path.read_text(encoding="utf-8"))
    for bad, what in ((content | {"ids": [3]}, "is not a"),
                      (content | {"kind": "wordpiece"}, "is not a"),
                      (content | {"special_tokens": {"[PAD]": 2}}, "changed"),
                      (content | {"special_tokens": {"[PAD]": 1e99}}, "is not a")):
        path.write_text(json.dumps(bad), encoding="utf-8")
        with pytest.raises(ValueError, match=f"tokenizer.json .*{what}"):
            Tokenizer.load(path)
