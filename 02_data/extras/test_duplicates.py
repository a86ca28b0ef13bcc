"""Tests of duplicates.py: hashes against their formulas, estimates against exact resemblance."""

import itertools
import os
import random
import subprocess
import sys
import time
import unicodedata

import numpy as np
import pytest
import regex

import duplicates
from duplicates import (BASE, ExactDuplicates, NearDuplicates, Overlap, chance, distinct, jaccard,
                        mix, ngrams, overlap, shingles, signature, signature_naive, words)

VOCABULARY = [f"w{i}" for i in range(5000)]


def text_of(rng, n=400):
    """n words drawn at random: texts that share words, but hardly ever five in a row."""
    return " ".join(rng.choices(VOCABULARY, k=n))


def changed(rng, text, resemblance):
    """The text with so many words replaced, one by one, that jaccard() falls to `resemblance`."""
    copy, original = text.split(), shingles(text)
    places = rng.sample(range(len(copy)), len(copy))
    while jaccard(original, shingles(" ".join(copy))) > resemblance:
        copy[places.pop()] = "new" + rng.choice(VOCABULARY)
    return " ".join(copy)


def slow_ngrams(text, n):
    """All runs of n words, or the one of all words if they are fewer: lists of strings."""
    text = regex.sub(r"\p{DI}", "", unicodedata.normalize("NFKC", text).casefold())
    alone, marks = rf"[{duplicates.NO_SPACES}--\p{{P}}]", rf"[{duplicates.NO_SPACES}&&\p{{M}}]*"
    found = regex.findall(rf"(?:{alone}|[\p{{L}}\p{{N}}\p{{M}}_--{alone}]+){marks}", text,
                          regex.VERSION1)
    n = min(n, len(found))
    return [" ".join(found[i:i + n]) for i in range(len(found) - n + 1)] if found else []


def random_sets(rng, union, common):
    """Two sorted arrays of shingles with `common` ones in both and `union` in all."""
    numbers = rng.integers(0, 2**64, union, dtype=np.uint64)
    middle = (common + union) // 2
    return np.sort(numbers[:middle]), np.sort(np.append(numbers[:common], numbers[middle:]))


# ---- hashing words ----
def test_words():
    assert words("if (a_1 == B)") == ["if", "a_1", "b"]
    assert words("naïve—ÉTÉ, 2₂") == ["naïve", "été", "22"] and words(" ...\n") == []
    assert words("用Go写，コーヒー") == ["用", "go", "写", *"コーヒー"], "scripts without spaces"
    assert words("หนู น้ำ ภาษา") == ["ห", "นู", "น้ํ", "า", *"ภาษา"], "a mark stays with its letter"
    assert words("བོད་སྐད ភាសា မြန်မာ") == ["བོད", "སྐད", "ភា", "សា", "မြ", "န်", "မာ"]
    assert words("हिन्दी भाषा 한국어 бо́льший") == ["हिन्दी", "भाषा", "한국어", "бо́льший"]


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_the_same_characters_in_other_forms(form):
    text = "Straße, ÉTÉ, ﬁn, ﾊﾟﾝ, ＡＢ, 각, ệ, soft\u00adhyphen, 葛\U000e0100"
    expected = ["strasse", "été", "fin", "パ", "ン", "ab", "각", "ệ", "softhyphen", "葛"]
    assert words(unicodedata.normalize(form, text)) == expected
    assert (ngrams(unicodedata.normalize(form, text), 2) == ngrams(text.upper(), 2)).all()


def test_many_marks_take_no_long_time():
    """To normalise them all at once would take a time that grows with the square of their number.
    """
    assert words("é") == ["é"]  # which makes the table
    text = "x a" + "\u0301\u0316" * 40_000 + " y"
    start = time.perf_counter()
    first, middle, last = words(text)
    assert time.perf_counter() - start < 1
    assert (first, last) == ("x", "y") and middle[0] == "á" and len(middle) == 80_000
    for n in (29, 30, 31, 100):  # of marks that are in order, nothing changes
        assert words("b" + "\u0301" * n) == ["b" + "\u0301" * n]


def test_ngrams_are_the_formula():
    """Worked out with Python's whole numbers: the words ab and c are the bytes of "ab c "."""
    total = sum(byte * BASE**i for i, byte in enumerate(b"ab c "))
    for text, n in (("ab c", 2), ("  AB...c\n", 2), ("x ab c", 2), ("ab c", 9)):
        assert ngrams(text, n)[-1] == total % 2**64, (
            f"the last n-gram of {text!r}, n = {n}: bytes times powers of BASE, which begin "
            "anew with each n-gram, wherever it stands in the text")


def test_ngrams_tell_runs_of_words_apart(random_text):
    """Equal hashes for equal runs, different ones for others, whatever characters there are."""
    rng = random.Random(1)
    texts = [random_text(rng, rng.randint(0, 300)) for _ in range(200)] + [
        "", " ", "a", "ab c", "a bc", "abc", "a b c", "c b a", "İstanbul\u2028x",
        "“a” — b…", "\ud800a", "用Go写 用 go写用", "ก็ก", "\u0e31a\u0e31b", text_of(rng, 3000)]
    for n in (1, 2, 5):
        hash_of = {}
        for text in texts:
            runs = slow_ngrams(text, n)
            hashes = ngrams(text, n).tolist()
            assert len(hashes) == len(runs), f"{text!r} has {len(runs)} runs"
            for run, number in zip(runs, hashes):
                assert hash_of.setdefault(run, number) == number, f"{run!r} has two hashes"
        assert len(set(hash_of.values())) == len(hash_of), "two runs have the same hash"


def test_distinct():
    for numbers in ([], [5], [3, 1, 3, 2, 1]):
        numbers = np.array(numbers, np.uint64)
        assert distinct(numbers).tolist() == np.unique(numbers).tolist()


# ---- resemblance ----
def test_mix():
    numbers = mix(np.arange(100_000, dtype=np.uint64))
    assert len(set(numbers.tolist())) == len(numbers), "one to one"
    for bit in range(64):
        assert abs((numbers >> bit & 1).mean() - 0.5) < 0.01, f"bit {bit} is not random"


def test_shingles():
    assert shingles("a b a b a", 2).tolist() == sorted(ngrams("a b b a", 2)[[0, 2]].tolist()), (
        "the n-grams a b and b a, each once, however often it comes")
    assert shingles("").tolist() == [] and len(shingles("one two")) == 1, (
        "a text shorter than n words has one shingle, a text without words none")
    text = "one two three four five six one two three four five"
    assert len(shingles(text)) == 6, "n is 5, and what comes twice counts once"
    found = shingles(text_of(random.Random(2), 5000))
    assert found.dtype == np.uint64 and (found[1:] > found[:-1]).all(), "sorted"


def test_jaccard():
    def of(a, b):
        return jaccard(np.array(a, np.uint64), np.array(b, np.uint64))
    assert of([1, 2, 3], [2, 3, 4]) == 0.5 and of([1], [1]) == of([1, 2], [1, 2]) == 1, (
        "what both have, divided by what at least one has, where what both have counts once")
    assert of([1], [2]) == 0 and of([1, 2, 3, 4], [4]) == 0.25, (
        "what both have, divided by what at least one has")
    assert of([], [1]) == 0 and of([], []) == 0, "nothing resembles nothing"


def test_signature_naive():
    numbers, seeds = np.array([5, 6, 7], np.uint64), np.array([1, 2, 3, 4], np.uint64)
    expected = [min(mix(np.array([x ^ seed], np.uint64))[0] for x in (5, 6, 7))
                for seed in (1, 2, 3, 4)]
    assert signature_naive(numbers, seeds).tolist() == expected, (
        "one entry for each seed: the smallest mix(shingle ^ seed) over all shingles")
    rng = np.random.default_rng(1)
    a, b = random_sets(rng, 100, 60)
    seeds = rng.integers(0, 2**64, 4000, dtype=np.uint64)
    estimate = (signature_naive(a, seeds) == signature_naive(b, seeds)).mean()
    assert abs(estimate - jaccard(a, b)) < 4 * (0.6 * 0.4 / 4000)**0.5, "not an estimate of 0.6"


def test_signature_step_by_step():
    """For each bin: throw until something falls in; the smallest is the entry."""
    def throw(x, i, k):
        number = int(mix(np.array([(x + i * BASE) % 2**64], np.uint64))[0])
        return number * k >> 64, number % 2**32
    k = 8
    for n in (1, 3, 10, 100, 2000):
        numbers = mix(np.arange(1, n + 1, dtype=np.uint64) << 7)
        expected = [None] * k
        for i in itertools.count(1):
            thrown = sorted(throw(x, i, k) for x in numbers.tolist())
            for j in range(k):
                if expected[j] is None:
                    expected[j] = next((small for bin, small in thrown if bin == j), None)
            if None not in expected:
                break
        assert signature(np.sort(numbers), k).tolist() == expected, (
            f"{n} shingles: a bin takes the smallest of the first round in which anything falls in")
    assert signature(numbers).shape == (120,) and signature(numbers).dtype == np.uint32
    assert signature(numbers[:0]).shape == (0,), "no shingles, no signature"


def test_signature_estimates_as_well_as_the_naive_one():
    """Over many random pairs: the mean is right, the spread no larger, for few shingles, too."""
    rng, k, pairs = np.random.default_rng(3), 120, 1000
    seeds = rng.integers(0, 2**64, k, dtype=np.uint64)
    for union, common in ((2, 1), (20, 10), (20, 16), (100, 80), (200, 60), (600, 480)):
        J = common / union
        estimates = []
        for _ in range(pairs):
            a, b = random_sets(rng, union, common)
            estimates.append(((signature(a, k) == signature(b, k)).mean(),
                              (signature_naive(a, seeds) == signature_naive(b, seeds)).mean()))
        (mean, _), (fast, naive) = np.mean(estimates, axis=0), np.std(estimates, axis=0)
        assert abs(mean - J) < 4 * fast / pairs**0.5, f"{union}: {mean:.4f} instead of {J}"
        assert fast < naive, f"{union} shingles: spread {fast:.4f}, naively {naive:.4f}"


# ---- finding duplicates ----
def test_caught():
    assert chance(0.5, 2, 1) == 0.75 and chance(1, 20, 6) == 1 and chance(0, 20, 6) == 0, (
        "a band matches if all its rows do, s^rows; caught is who matches in at least one band")
    assert abs(chance(0.8, 20, 6) - 0.9977) < 1e-4 and abs(chance(0.3, 20, 6) - 0.0145) < 1e-4
    rng = random.Random(4)
    agreed = sum(any(all(rng.random() < 0.7 for _ in range(4)) for _ in range(5))
                 for _ in range(20_000)) / 20_000
    assert abs(chance(0.7, 5, 4) - agreed) < 0.015, "throwing dice says otherwise"


def share_found(resemblance, pairs, seed):
    rng, seen, found = random.Random(seed), NearDuplicates(), 0
    for i in range(pairs):
        text = text_of(rng)
        assert seen.add(i, text) is None, "texts drawn apart are no duplicates"
        answer = seen.add("copy", changed(rng, text, resemblance))
        assert answer in (i, None), f"found {answer}, a text that has nothing to do with it"
        found += answer == i
    return found / pairs


def test_near_duplicates_are_found():
    assert share_found(0.95, 50, seed=5) == 1
    share = share_found(0.8, 300, seed=6)
    assert share >= 0.97, f"only {share:.1%} of the pairs of resemblance 0.8 were found"


COPIES = {  # a text, a word of it, and another word; the Wikipedia of nowhere
    "Chinese": ("长江从青藏高原流出经过许多省份最后在上海附近进入东海。沿岸的城市很多人口密集工业发达。"
                "船只每天运送煤炭粮食和机器。春天雨水多夏天常有洪水。人们修建了大坝来控制水位并且发电。",
                "煤炭", "矿石"),
    "Japanese": ("日本の川は短くて急なので、雨が降るとすぐに水が増えます。昔の人は堤防を作り、田を守りました。"
                 "今では大きなダムがあり、電気も作られています。", "昔の人", "昔の村"),
    "Thai": ("แม่น้ำเจ้าพระยาไหลผ่านกรุงเทพมหานครและลงสู่อ่าวไทยผู้คนใช้เรือขนส่งสินค้าทุกวัน",
             "ทุกวัน", "บ่อยๆ"),
    "French": ("Le café près de la forêt est fermé été comme hiver, une âme égarée espère être "
               "aimée après tout, et le garçon naïf a été très gêné hier à Noël", "hier", "lundi"),
}


@pytest.mark.parametrize("language", COPIES)
def test_copies_in_other_scripts(language):
    """One word changed, decomposed accents: a near copy; a text inside another: found."""
    text, word, other = COPIES[language]
    seen = NearDuplicates()
    assert seen.add(0, text) is None and seen.add(1, COPIES["Chinese"][0][::-1]) is None
    assert seen.add(2, unicodedata.normalize("NFD", text.replace(word, other))) == 0
    overlap = Overlap([text])
    assert overlap.too_short == 0
    assert overlap.find("。 " + unicodedata.normalize("NFD", text)[9:]), "inside another text"
    assert overlap.find(COPIES["Chinese"][0][::-1]) is None


def test_what_is_not_similar_stays():
    assert share_found(0.3, 150, seed=7) == 0, "dropped at a resemblance of 0.3"
    assert share_found(0.5, 100, seed=8) <= 0.01


def test_near_duplicates_against_all_pairs():
    """What is dropped resembles a kept one, nearly 0.7 or more; what is kept hardly resembles any.
    Families of copies of copies, 200 texts in all, every pair compared exactly.
    """
    rng, texts = random.Random(9), []
    for _ in range(40):
        texts.append(text_of(rng, rng.choice([30, 100, 400])))
        for _ in range(4):
            texts.append(changed(rng, rng.choice(texts[-3:]), rng.choice([0.9, 0.8, 0.5, 0.2])))
    rng.shuffle(texts)
    sets, seen, kept = [shingles(text) for text in texts], NearDuplicates(), []
    dropped = 0
    for i, text in enumerate(texts):
        answer = seen.add(i, text)
        exact = {j: jaccard(sets[i], sets[j]) for j in kept}
        if answer is None:
            assert max(exact.values(), default=0) < 0.85, f"{i} repeats {max(exact, key=exact.get)}"
            kept.append(i)
        else:
            assert answer in exact, "what is named must have been kept"
            assert exact[answer] > 0.55, f"{i} and {answer} resemble each other {exact[answer]:.2f}"
            dropped += 1
    assert seen.keys == kept and 40 <= dropped <= 160, f"{dropped} dropped"


def test_the_most_similar_is_named():
    rng = random.Random(10)
    text = text_of(rng)
    far, near = changed(rng, text, 0.75), changed(rng, text, 0.95)
    seen = NearDuplicates(threshold=0.9)
    assert seen.add("far", far) is None and seen.add("near", near) is None
    seen.threshold = 0.5
    assert seen.add("text", text) == "near", "of two that are similar enough the more similar"


def test_the_order_decides_who_stays():
    """a ~ b ~ c, where a and c are too far apart."""
    rng = random.Random(11)
    b = text_of(rng).split()
    a, c = b[30:], b[:-30]  # each resembles b by 0.92, and each other by 0.85
    for order, expected in (("abc", "ac"), ("bac", "b")):
        seen = NearDuplicates(threshold=0.89)
        texts = {"a": " ".join(a), "b": " ".join(b), "c": " ".join(c)}
        assert "".join(k for k in order if seen.add(k, texts[k]) is None) == expected


def test_short_texts():
    seen = NearDuplicates()
    assert seen.add(0, "Hello, world!") is None and seen.add(1, "hello world") == 0
    assert seen.add(2, "hello") is None and seen.add(3, "world hello") is None
    for i, text in enumerate(["", "...", "", " \n"]):
        assert seen.add(4 + i, text) is None, "texts without words are nobody's duplicates"
    assert seen.keys == [0, 2, 3]


def test_signatures_may_be_made_elsewhere():
    rng = random.Random(12)
    one, other = NearDuplicates(bands=10, rows=3), NearDuplicates(bands=10, rows=3)
    texts = [text_of(rng, 50) for _ in range(100)]  # more than there was room for at first
    for i, text in enumerate(texts + texts + [""]):
        expected = i - 100 if 100 <= i < 200 else None
        assert one.add(i, text) == other.add(i, signature(shingles(text), 30)) == expected


def test_the_same_in_every_process():
    """Python's own hash() of strings differs from process to process; nothing here does."""
    code = ("from duplicates import *; print(shingles('Größe, one two three four five'),"
            "signature(shingles('a b c d e f g h'), 9), NearDuplicates().band_hashes("
            "signature(shingles('x'))))")
    folder = os.path.dirname(duplicates.__file__)
    outputs = {subprocess.run([sys.executable, "-c", code], check=True, capture_output=True,
                              text=True, cwd=folder, env={**os.environ, "PYTHONHASHSEED": seed}
                              ).stdout for seed in "01"}
    assert len(outputs) == 1 and "[" in outputs.pop()
    assert ngrams("the same on every machine", 5).tolist() == [0x4e22ebc2b048086c]


def test_exact_duplicates():
    seen = ExactDuplicates()
    assert seen.add("a", "text") is None and seen.add("b", "text ") is None, "a space counts"
    assert seen.add("c", "text") == "a" and seen.add("d", "text ") == "b"
    assert seen.add("a", "text") == "a" and seen.add("e", "") is None and seen.add("f", "") == "e"


def test_overlap():
    overlap = Overlap(["one two three four", "five", "six seven"], n=3)
    assert overlap.find("Zero: ONE, two -- three... and four!") == "one two three"
    assert overlap.find("zero two three FOUR, five") == "two three four"
    assert overlap.find("one two three four") == "one two three", "the first of two runs"
    assert overlap.find("one two four three") is None and overlap.find("one two") is None
    assert overlap.find("") is None and Overlap([""]).find("") is None
    assert Overlap([]).find("one two three") is None
    for wrong in ("one two three", b"one two three", ["one", 2]):
        with pytest.raises(ValueError, match="texts are needed|must be a str"):
            Overlap(wrong)
    assert overlap.too_short == 2, "of three texts two have fewer than 3 words"
    assert overlap.find("Five!") == "five" and overlap.find("it was five o'clock") is None
    assert Overlap([text_of(random.Random(0), 12)]).too_short == 1, "13 words by default"


def test_overlap_against_sets_of_strings():
    rng = random.Random(13)
    letters = ["a", "b", "C", "é", "d_1"]

    def short(n):
        return "".join(rng.choice(letters) + rng.choice([" ", ", ", "—", "\n"]) for _ in range(n))
    for n, _ in itertools.product((1, 3, 5), range(60)):
        evaluation = [short(rng.randint(0, 12)) for _ in range(3)]
        text = short(rng.randint(n, 40))
        known = {run for other in evaluation for run in slow_ngrams(other, n)}
        expected = next((run for run in slow_ngrams(text, n) if run in known), None)
        assert Overlap(evaluation, n).find(text) == expected, f"{evaluation} in {text!r}, n={n}"


def test_overlap_by_evaluation_text():
    """The same runs of words that Overlap finds, told of the evaluation texts."""
    texts = ["a b c d e f", "A, b; C d!", "x y z", "p q r s t", "e f g h"]
    documents = ["0 a B c d 1", "r s", "t e f g i", "p q r", "s t"]
    assert overlap(texts, iter(documents), 4) == [True, True, None, False, False]
    assert overlap(texts, [], 4) == [False, False, None, False, False]
    assert overlap(texts, documents, 2) == [True, True, False, True, True]
    for text, found in zip(texts, overlap(texts, documents, 3)):
        assert found == any(Overlap([text], 3).find(document) for document in documents), text
