"""Tests of fim.py."""

import data
from bpe import SPECIAL_TOKENS, Tokenizer
from fim import MIDDLE, PREFIX, SUFFIX, TOKENS, encode_fim, fill_in_the_middle, rearrange


def test_rearrange():
    assert rearrange("a", "b", "c", False) == [(PREFIX, "a"), (SUFFIX, "c"), (MIDDLE, "b")], (
        "PSM: the middle comes last, since it is what the model is to fill in")
    assert rearrange("a", "b", "c", True) == [(PREFIX, ""), (SUFFIX, "c"), (MIDDLE, "ab")], (
        "SPM: an empty prefix first, then the suffix, then prefix and middle as one text")


def test_fill_in_the_middle():
    texts = [f"func f{i}() {{ return {i} }} // é" for i in range(2000)]
    kinds = {"as it was": 0, "psm": 0, "spm": 0}
    for text in texts:
        pairs = fill_in_the_middle(text, 0.5)
        assert pairs == fill_in_the_middle(text, 0.5), "the same text is always treated alike"
        if pairs == [(None, text)]:
            kinds["as it was"] += 1
            continue
        (_, prefix), (_, suffix), (_, middle) = pairs
        assert prefix + middle + suffix == text, "nothing is lost, nothing is doubled"
        kinds["psm" if prefix else "spm"] += 1
    assert abs(kinds["as it was"] - 1000) < 100 and abs(kinds["psm"] - 500) < 80, kinds
    assert all(len(fill_in_the_middle(text, 0.0)) == 1 for text in texts)
    assert all(len(fill_in_the_middle(text, 1.0)) == 3 for text in texts)
    assert fill_in_the_middle("", 1.0)[-1] == (MIDDLE, "")


def test_cuts_fall_everywhere():
    """Every place in a text is equally likely: both ends, and the same place twice, included."""
    lengths = [len(fill_in_the_middle(f"{i:04}", 1.0)[1][1]) for i in range(4000)]  # the suffix
    shares = [lengths.count(n) / len(lengths) for n in range(5)]  # 4 minus the larger of two cuts
    assert all(abs(share - (9 - 2 * n) / 25) < 0.03 for n, share in enumerate(shares)), shares


def test_tokens_are_special():
    tokenizer = Tokenizer([], special_tokens=(*SPECIAL_TOKENS, *TOKENS))
    assert tokenizer.decode([tokenizer.special[name] for name in TOKENS]) == "".join(TOKENS)


def test_encode_fim():
    tokenizer = Tokenizer([], special_tokens=(*SPECIAL_TOKENS, *TOKENS))
    assert encode_fim("a text", tokenizer, 0.0) == data.encode("a text", tokenizer)
    for text in ("a text", "<|fim_prefix|> naïve", ""):
        ids, pairs = encode_fim(text, tokenizer, 1.0), fill_in_the_middle(text, 1.0)
        expected = data.encode("", tokenizer)
        for token, part in pairs:
            expected += [tokenizer.special[token], *tokenizer.encode(part)]
        assert ids == expected, "each part behind its token; what a text says is no token"
