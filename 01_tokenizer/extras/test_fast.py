"""Tests of fast.py: the same as the definitions in bpe.py, on everything random."""

import pickle
import random
from array import array

import pytest

from bpe import Tokenizer, apply_merges, tokenizer_class, train_naive
from fast import Encoded, FastTokenizer, Merger, Pieces, Symbols, apply_merges_fast, train_fast
from pieces import PATTERNS, piece_finder

TEXTS = ["the cat sat on the mat; the cat's hat isn't flat\n\n",
         "def f(x):\n    return x + 1\n" * 3,
         "naïve café 東京 🙂🙂 123456 \t\r\n  x", ""]


def random_words(rng, letters=b"abcd", longest=14):
    letters = letters[:rng.randint(1, len(letters))]
    return {bytes(rng.choices(letters, k=rng.randint(1, longest))): rng.randint(1, 3)
            for _ in range(rng.randint(0, 20))}


def test_train_fast_equals_naive():
    seed = 1
    rng = random.Random(seed)
    for i in range(300):
        words = random_words(rng)
        assert train_fast(words, 40) == train_naive(words, 40), f"seed {seed}, case {i}: {words}"
    for words in ({}, {b"a": 1}, {b"a" * 1001: 1}, {b"ab" * 500 + b"a": 1}, {b"a\0\xff\0\xff": 2}):
        assert train_fast(words, 30) == train_naive(words, 30), words


def test_train_fast_with_large_vocabularies():
    """Words of many letters: batches of many pairs, and ties by the hundred."""
    seed = 2
    rng = random.Random(seed)
    words = {bytes(rng.choices(range(97, 123), weights=range(26, 0, -1), k=rng.randint(2, 12))):
             rng.randint(1, 50) for _ in range(400)}
    assert train_fast(words, 600) == train_naive(words, 600), f"seed {seed}"


def test_counts_do_not_overflow():
    assert train_fast({b"abab": 1 << 40, b"cd": (1 << 41) + 1}, 2) == [(99, 100), (97, 98)]


def test_a_batch_ends_where_pairs_touch():
    row = Symbols({b"ab": 9, b"cd": 8, b"be": 7, b"fg": 6})
    row.threshold = 1
    assert row.most_frequent(9)[0] == [(97, 98), (99, 100)], "(b, e) begins with what (a, b) ends"
    assert row.most_frequent(1)[0] == [(97, 98)]
    row = Symbols({b"aa": 9, b"cd": 8})
    row.threshold = 1
    assert row.most_frequent(9)[0] == [(97, 97)], "(a, a) can make a frequent pair: (aa, aa)"


def assert_equals_slow(function):
    seed = 3
    rng = random.Random(seed)
    for i in range(400):
        ranks = {pair: 256 + n for n, pair in enumerate(train_naive(random_words(rng), 25))}
        while i % 2 and len(ranks) < 25:  # merges that no training would give
            symbols = [*b"abcd", *ranks.values()]
            ranks.setdefault((rng.choice(symbols), rng.choice(symbols)), 256 + len(ranks))
        ids = rng.choices(b"abcd", k=rng.randint(0, 150))
        expected = apply_merges(ids, ranks)
        assert function(ids, ranks) == expected, f"seed {seed}, case {i}"


def test_apply_merges_equals_slow():
    assert_equals_slow(apply_merges_fast)


def unpack(ids):
    return array("I", ids).tolist()


def test_pieces_forget_when_they_are_many():
    pieces = Pieces({(97, 98): 256}, [*range(256), 300], limit=3)
    for word, ids in (("ab", [300]), ("b", [98]), ("abc", [300, 99]), ("ab", [300]), ("c", [99]),
                      ("abab", [300, 300]), ("ab", [300])):
        assert unpack(pieces[word]) == ids and len(pieces) <= 3


def test_many_pieces_merged_side_by_side():
    seed = 4
    rng = random.Random(seed)
    for i in range(60):
        ranks = {pair: 256 + n for n, pair in enumerate(train_naive(random_words(rng), 25))}
        longest = rng.choice((4, 15, 200))
        pieces = [bytes(rng.choices(b"abcd\0\xff", k=rng.randint(0, longest))) for _ in range(99)]
        row, sizes = Merger(ranks).merge(pieces)
        expected = [apply_merges(list(piece), ranks) for piece in pieces]
        assert row.tolist() == sum(expected, []), f"seed {seed}, case {i}"
        assert sizes.tolist() == [len(ids) for ids in expected], f"seed {seed}, case {i}"


def test_chunks_forget_when_they_are_many():
    find_pieces = piece_finder(PATTERNS["gpt2"])
    pieces = Pieces({(32, 97): 256}, [*range(255), None, 300])
    for limit in (0, 5, 1 << 20):
        chunks = Encoded(PATTERNS["gpt2"], find_pieces, pieces, limit)
        texts = ["a a b, a\n c  d a b, e a ", "\0 a\0", " a a", "b" * 20, "a" * 15, "\xff"]
        for some in (texts[:1], texts, texts[:0:-1], ["a"], texts):
            expected = [[i for piece in find_pieces(text) for i in unpack(pieces[piece])]
                        for text in some]
            assert [ids.tolist() for ids in chunks.encode(some)] == expected, f"limit {limit}"


# ---- the tokenizer ----
@pytest.mark.parametrize("pattern", [*PATTERNS, r"\w+"])
def test_equal_to_the_plain_tokenizer(pattern, random_text, tmp_path):
    """The same merges from the same texts, the same ids before and after they are cached."""
    seed = 5
    rng = random.Random(seed)
    texts = TEXTS + [random_text(rng, rng.randint(1, 200)) for _ in range(50)]
    plain = Tokenizer.train(texts, 330, PATTERNS.get(pattern, pattern))
    fast = FastTokenizer.train(texts, 330, pattern)
    assert fast.hash == plain.hash and fast.vocab == plain.vocab and fast.special == plain.special
    texts += [random_text(rng, rng.randint(1, 300)) + " a<|bos|>b <|user_end|>" for _ in range(50)]
    for allowed in ((), ["<|bos|>"], "all"):
        expected = [plain.encode(text, allowed) for text in texts]
        for cache in ("cold", "warm"):
            found = [fast.encode(text, allowed) for text in texts]
            assert found == expected, f"seed {seed}, {cache} cache"
            assert [fast.encode_array(text, allowed).tolist() for text in texts] == expected
    assert [fast.decode(ids) for ids in expected] == texts, f"seed {seed}"
    fast.save(tmp_path / "t.json")
    assert Tokenizer.load(tmp_path / "t.json").hash == plain.hash
    assert FastTokenizer.load(tmp_path / "t.json").encode(texts[-1]) == plain.encode(texts[-1])
    with pytest.raises(ValueError, match="nobody"):
        fast.encode("a", ["nobody"])


def test_what_it_refuses():
    for wrong, what in (((["ab"], 264), "265"), (([], 300), "no text"),
                        ((["ab"], 300, "gtp4"), "pattern"), ((["ab"], 300, r"(?r)\w+"), "pattern"),
                        ((["ab"], 300, "gpt4", ["a", "a"]), "special tokens"),
                        ((["ab"], 300, "gpt4", [""]), "special tokens")):
        with pytest.raises(ValueError, match=what):
            FastTokenizer.train(*wrong)


def test_encode_array():
    ids = FastTokenizer([(97, 98)]).encode_array("ab c")
    assert ids.dtype == "uint32" and ids.tolist() == [256, 32, 99] and not ids.flags.writeable
    assert FastTokenizer([]).encode_array("").shape == (0,)


def test_many_texts_and_many_processes():
    tokenizer = FastTokenizer.train(TEXTS, 300)
    texts = TEXTS * 5 + ["x" * 2_000_000] + TEXTS
    expected = [tokenizer.encode(text) for text in texts]
    for workers in (1, 3):
        assert [ids.tolist() for ids in tokenizer.encode_many(texts, workers)] == expected
        assert FastTokenizer.train(texts, 300, workers=workers).hash == FastTokenizer.train(
            texts[::-1], 300).hash


def test_long_pieces():
    """A run of one letter is one piece; its time must not grow with its square."""
    for text in ("a" * 200_000, "".join(random.Random(5).choices("abcdefgh", k=100_000))):
        tokenizer = FastTokenizer.train([text], 280)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_what_travels_to_another_process():
    tokenizer = FastTokenizer.train(TEXTS, 300)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert type(again) is FastTokenizer and again.hash == tokenizer.hash
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_hash_seed_does_not_matter(command, tmp_path):
    (tmp_path / "text").write_text("the cat sat on the mat " + TEXTS[2] * 9, newline="")
    for seed in ("1", "2"):
        command("bpe", "train", "text", "--vocab-size", 320, "--tokenizer", f"{seed}.json",
                "--workers", 2, env={"PYTHONHASHSEED": seed}, cwd=tmp_path)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()


def test_tokenizer_class():
    assert tokenizer_class(by_hand=True) is Tokenizer
    assert tokenizer_class(by_hand=False) is FastTokenizer


def test_a_single_text_is_not_taken_for_its_letters():
    for kind in (Tokenizer, FastTokenizer):
        for wrong in ("hello hello", b"hello hello"):
            with pytest.raises(ValueError, match="several"):
                kind.train(wrong, 300)
        with pytest.raises(ValueError, match="several"):
            kind.train(["hello"], 300, "gpt4", "<|bos|>")
    with pytest.raises(ValueError, match="must be a str"):
        FastTokenizer.train([b"hello"], 300)
    for workers in (1, 2):
        with pytest.raises(ValueError, match="several"):
            FastTokenizer([]).encode_many("hello", workers)
        with pytest.raises(ValueError, match="must be a str"):
            list(FastTokenizer([]).encode_many(["a", 3], workers))


@pytest.mark.parametrize("kind", [Tokenizer, FastTokenizer])
def test_half_a_character_is_refused(kind):
    """A lone surrogate has no UTF-8; decoding never makes one."""
    for text in ("\ud83d", "a \udcff b", "🙂\ud83d", "the " * 9 + "\ude00"):
        with pytest.raises(ValueError, match="surrogates"):
            kind([]).encode(text)
        with pytest.raises(ValueError, match="surrogates"):
            kind.train([text], 300)
    assert kind([]).decode([0xed, 0xa0, 0xbd]) == "\ufffd" * 3
