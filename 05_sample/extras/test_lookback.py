"""Tests of lookback.py: the order, the search, and where in the data a match is said to be."""

import json
import math
import random
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest

import lookback
from bpe import Tokenizer
from console import has_colours
from data import Dataset, Ids, prepare
from gpt import GPT, GPTConfig
from lookback import Lookback, longest, longest_match, main, spans, suffix_array
from mixtures import Mixture
from runs import newest_run, save_checkpoint, start_run, tensors, write_config
from train import Config


def order_by_hand(ids):
    return sorted(range(len(ids)), key=lambda i: ids[i:].tolist())


def match_by_hand(ids, pattern):
    """(length, where it begins) of the longest beginning of `pattern`, by looking everywhere."""
    for n in range(len(pattern), 0, -1):
        places = [i for i in range(len(ids) - n + 1) if ids[i:i + n].tolist() == pattern[:n]]
        if places:
            return n, places
    return 0, list(range(len(ids)))


def random_ids(rng, most=60):
    """Few different ids, so that much repeats itself; some have more than a byte."""
    alphabet = rng.sample([0, 1, 2, 255, 256, 258, 512, 2047], rng.choice([1, 2, 2, 3, 8]))
    return np.array(rng.choices(alphabet, k=rng.randrange(most)), np.uint16)


# ---- the idea ----
def test_suffix_array(explains):
    def order(*ids):
        with explains(f"the suffixes of {ids} are to be sorted"):
            return suffix_array(np.array(ids, np.uint16)).tolist()
    assert order(2, 1, 2, 1) == [3, 1, 2, 0], "the example of the docstring is sorted otherwise"
    assert order(3, 1, 2) == [1, 2, 0], "suffixes that differ in the first id go by this id"
    assert order(7, 7, 7) == [2, 1, 0], "where a suffix ends and another goes on, it comes first"
    assert order(0, 0, 0) == [2, 1, 0], "the end of the text comes before id 0, too"
    assert order(5, 0, 5, 0, 0) == [4, 3, 1, 2, 0], "the end of the text comes before id 0, too"
    assert order(256, 1, 2) == [1, 2, 0], "ids are compared as numbers, not by their bytes"
    assert order() == [] and order(9) == [0], "no id has no suffix, and one has one"
    assert order(*[1, 2] * 20) == [*range(38, -1, -2), *range(39, 0, -2)], (
        "two suffixes may be equal for many ids before they differ")


def test_suffix_array_of_any_ids(explains):
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    for _ in range(200):
        ids = random_ids(rng)
        with explains(f"seed {seed}: the suffixes of {ids.tolist()} are to be sorted"):
            found = suffix_array(ids)
        assert found.dtype == np.int32, "the order is one of int32, half as large as int64"
        assert found.tolist() == order_by_hand(ids), (
            f"seed {seed}: the suffixes of {ids.tolist()} are not in their order")
    ids = np.random.default_rng(seed).integers(0, 3, 60_000)  # whose square is more than 2^31
    assert suffix_array(ids).tolist() == order_by_hand_in_blocks(ids), (
        f"seed {seed}: the suffixes of a longer text are not in their order")


def test_suffix_array_of_equal_ids():
    """Comparing suffixes, or ranks one id after the other, takes some seconds."""
    ids, start = np.zeros(12_000, np.uint16), time.perf_counter()
    assert suffix_array(ids).tolist() == [*range(11_999, -1, -1)], "the shortest comes first"
    seconds = time.perf_counter() - start
    assert seconds < 1, f"{seconds:.1f} s for 12,000 equal ids: the ids that are known must double"


def order_by_hand_in_blocks(ids):
    """The order of suffixes that are all different within 60 ids."""
    return sorted(range(len(ids)), key=lambda i: ids[i:i + 60].tolist())


def test_longest_match(explains):
    ids = np.array([2, 1, 2, 1], np.uint16)

    def found(*pattern, ids=ids):
        with explains(f"{pattern} is to be looked for in {ids.tolist()}"):
            return longest_match(ids, np.array(order_by_hand(ids), np.int32), list(pattern))
    assert found(2, 1, 1) == (2, 2, 2), "the example of the docstring is not found"
    assert found(1, 2, 1) == (3, 1, 1), "the whole pattern stands in the text, once"
    assert found(1) == (1, 0, 2), "the text begins and ends with other ids than it has twice of 1"
    assert found(2, 1, 2, 1, 2) == (4, 3, 1), "a pattern may be longer than the text"
    assert found(2, 1, 9) == (2, 2, 2), "a pattern that would come last matches the one before it"
    assert found(1, 1) == (1, 0, 2), "the length is that of the better of two neighbours"
    assert found(0) == found(9) == found() == (0, 0, 4), "without a first id nothing is shared"
    wide = np.array([256, 1, 258], np.uint16)
    assert found(256, 1, ids=wide) == (2, 1, 1), "ids are compared as numbers, not by their bytes"
    assert found(3, ids=np.array([], np.uint16)) == (0, 0, 0), "an empty text has nothing to match"


def test_longest_match_of_any_ids(explains):
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    for _ in range(300):
        ids = random_ids(rng)
        order, pattern = np.array(order_by_hand(ids), np.int32), random_ids(rng, 12).tolist()
        with explains(f"seed {seed}: {pattern} is to be looked for in {ids.tolist()}"):
            length, first, count = longest_match(ids, order, pattern)
        assert (length, sorted(order[first:first + count].tolist())) == match_by_hand(
            ids, pattern), (f"seed {seed}: {pattern} in {ids.tolist()} was found otherwise than "
                            "by looking at every place")


def test_a_search_looks_at_few_places():
    class Counted:
        reads = 0

        def __getitem__(self, span):
            Counted.reads += 1
            return ids[span]

        def __len__(self):
            return len(ids)
    ids = np.random.default_rng(0).integers(0, 3, 10_000)
    order = np.array(order_by_hand_in_blocks(ids), np.int32)
    assert longest_match(Counted(), order, [0, 1, 2, 2])[0] == 4, "all of it is in the text"
    assert Counted.reads < 4 * math.log2(10_000), (
        f"a binary search needs no {Counted.reads} looks at a text of 10,000 ids")


# ---- a training text ----
def test_spans():
    assert spans(5, 5) == [(0, 5)] and spans(3, 20) == [(0, 3)]
    for n, most, n_pieces in ((1001, 1000, 10), (1000, 99, 10), (10**9, 2 * 10**7, 1000),
                              (50, 7, 3), (10, 1, 4), (9, 4, 10)):
        found = spans(n, most, n_pieces)
        assert found[0][0] == 0 and (len(found) == 1 or sum(found[-1]) == n), "from end to end"
        assert most - n_pieces < sum(size for _, size in found) <= most
        assert all(size > 0 and start + size <= after for (start, size), (after, _) in
                   zip(found, [*found[1:], (n, 0)])), "in their order, and apart"


TOKENIZER = Tokenizer([])  # an id is a byte


def folder_of(path, texts):
    """The Dataset of a folder of texts, one for each training document."""
    path.mkdir(parents=True)
    for i, text in enumerate(texts):  # the last tenth of each is for validation
        (path / f"{i:03}.txt").write_text(text + "~" * math.ceil(len(text) / 9), encoding="utf-8")
    return prepare([f"folder:{path}"], data_dir=path.parent / ".data", tokenizer=TOKENIZER,
                   by_hand=True, say=lambda text: None)


def documents_of(data):
    """[(source, number, ids)] of all training documents."""
    return [(part.index["source"], d, part.train.ids[start:stop].tolist())
            for _, part in data.parts for d, (start, stop) in enumerate(zip(
                part.train.starts, [*part.train.starts[1:], len(part.train)]))]


def by_hand(documents, ids, t):
    """(length, {(source, document, offset)}) of the longest match that ends at ids[t]."""
    for length in range(t + 1, 0, -1):
        wanted = ids[t + 1 - length:t + 1]
        places = {(source, d, i) for source, d, text in documents
                  for i in range(len(text) - length + 1) if text[i:i + length] == wanted}
        if places:
            return length, places
    return 0, set()


def places_of(match):
    return {(place["source"], place["document"], place["offset"]) for place in match["places"]}


@pytest.fixture
def texts():
    seed = random.randrange(1 << 30)
    print(f"texts of seed {seed}")  # which pytest shows where a test fails
    rng = random.Random(seed)
    return ["".join(rng.choices("abc", k=rng.randrange(9, 60))) for _ in range(12)]


def test_matches(tmp_path, texts):
    """What is said of every id is what looking at every place of every document finds."""
    data = folder_of(tmp_path / "a", texts)
    documents, bos = documents_of(data), data.tokenizer.special["<|bos|>"]
    assert len(documents) == 12 and all(ids[0] == bos for _, _, ids in documents)
    for text in ("abcabcbbca", "a", texts[3], texts[1] + texts[2], "abxba", "é"):
        ids = [bos, *data.tokenizer.encode(text)]
        found = Lookback(data).matches(ids, n_places=10**6)
        assert len(found) == len(ids), "each id has a match"
        for t, match in enumerate(found):
            length, places = by_hand(documents, ids, t)
            assert match["length"] == length, (
                f"the longest match that ends at id {t} of {text!r} in {texts}")
            assert match["count"] == len(places), f"every occurrence counts, once: {text!r}"
            assert places_of(match) == places, f"where the matches of {text!r} are in {texts}"
        assert json.loads(json.dumps(found)) == found, "a page can have it as JSON"
        t = len(ids) // 2
        assert Lookback(data).matches(ids, 10**6, first=t) == found[t:], "from the middle on"
    assert Lookback(data).matches([]) == [], "an empty text has no ids"
    with pytest.raises(AssertionError, match="another tokenizer"):
        Lookback(data).matches([data.tokenizer.vocab_size])


def test_no_match_goes_beyond_its_document(tmp_path):
    """Also where no <|bos|> stands between two of them."""
    data = folder_of(tmp_path / "pair", ["one two", "three four"])
    text = data.tokenizer.encode("one two")
    for ids in (text + [data.tokenizer.special["<|bos|>"]], text + data.tokenizer.encode("three")):
        lengths = [match["length"] for match in Lookback(data).matches(ids)]
        assert lengths[6] == 7 and lengths[7] == 1, (
            "a match has to begin and end within one document")
    cut = Ids(data.train.ids, np.array([0, 3]))  # a document ends behind "on"
    parts = [(1.0, SimpleNamespace(index=data.index, train=cut, folder=data.folder, hash="cut"))]
    found = Lookback(SimpleNamespace(tokenizer=data.tokenizer, train=cut, parts=parts))
    assert [match["length"] for match in found.matches(text)] == [1, 2, 1, 2, 3, 4, 5], (
        "documents begin where starts says, also without an id that opens them")


def test_the_text_around(tmp_path):
    data = folder_of(tmp_path / "a", ["left of the spam and right", "spam"])
    match = Lookback(data).matches(data.tokenizer.encode("spam"), n_places=9, around=5)[-1]
    assert {(place["before"], place["after"]) for place in match["places"]} == {
        (" the ", " and "), ("<|bos|>", "")}, "the text around a match ends with its document"


def test_few_places_of_many(tmp_path):
    """Evenly spread over all, none of them twice."""
    data = folder_of(tmp_path / "a", ["spam " * 40, "eggs"])
    found = Lookback(data)
    [*_, match] = found.matches(data.tokenizer.encode("am"), n_places=7)
    assert match["count"] == 40 and len(places_of(match)) == 7 == len(match["places"])
    [*_, match] = found.matches(data.tokenizer.encode("eggs"), n_places=7)
    assert match["count"] == 1 == len(match["places"])


def test_a_mixture_names_the_source(tmp_path, texts):
    parts = [folder_of(tmp_path / "a", texts[:5]), folder_of(tmp_path / "b", texts[5:])]
    data = Mixture([(0.3, parts[0]), (0.7, parts[1])])
    documents = documents_of(data)
    assert {source for source, _, _ in documents} == {f"folder:{tmp_path / n}" for n in "ab"}
    for text in (texts[2], texts[7], texts[4] + texts[5]):
        ids = data.tokenizer.encode(text)
        for t, match in enumerate(Lookback(data).matches(ids, n_places=10**6)):
            assert (match["length"], places_of(match)) == by_hand(documents, ids, t), (
                "a document's number is that within its own source")


def test_a_sample(tmp_path, texts, monkeypatch):
    """Pieces of the data, in which documents are cut; where a match is, is said of the whole."""
    data = folder_of(tmp_path / "a", texts)
    monkeypatch.setattr(lookback, "spans", lambda n, most: spans(n, most, 5))
    n, documents = len(data.train), documents_of(data)
    most = n // 2
    found = Lookback(data, most)
    size = 5 * (most // 5)
    assert str(found) == f"{size:,} ids of training text, a sample, {size / n:.2%} of it"
    assert str(Lookback(data)) == f"{n:,} ids of training text, all of it"
    assert found.ids.size - found.stops.size == size, "no id is lost, none added"
    ids = data.tokenizer.encode(texts[0] + texts[6] + texts[11])
    for t, match in enumerate(found.matches(ids, n_places=10**6)):
        length, _ = by_hand(documents, ids, t)
        assert match["length"] <= length, "a sample has no more than the whole"
        for source, document, offset in places_of(match):
            assert documents[document][2][offset:offset + match["length"]] == ids[
                t + 1 - match["length"]:t + 1], "what is found in a piece is there in the whole"


# ---- the file ----
def test_the_order_is_made_once(tmp_path, texts, monkeypatch):
    data, made = folder_of(tmp_path / "a", texts), []
    monkeypatch.setattr(lookback, "suffix_array", lambda ids: made.append(1) or suffix_array(ids))
    order = Lookback(data).order.copy()  # not the mapped file, which is changed below
    assert (Lookback(Dataset(data.folder, by_hand=True)).order == order).all()
    assert len(made) == 1, "the order is kept, and used again"
    [path] = data.folder.glob("lookback-*")
    assert np.array_equal(np.load(path), order) and not [*data.folder.glob(".*.tmp")]
    damaged = [b"", b"x", path.read_bytes()[:-4], *(npy(values, tmp_path) for values in (
        order.astype(np.int64), order[1:], order + 1, order - 1, order.astype(object)))]
    for content in damaged:
        path.write_bytes(content)
        assert (Lookback(data).order == order).all(), "what can't be of this text is not used"
    assert len(made) == 1 + len(damaged), "it is made anew where the file is damaged"
    Lookback(data, most=40)
    other = folder_of(tmp_path / "b", texts[1:])
    shutil.copy(path, other.folder / path.name)
    Lookback(other)
    assert len(made) == 3 + len(damaged), "a part of the text, or another text, has its own order"


def npy(values, folder):
    np.save(folder / "values.npy", values)
    return (folder / "values.npy").read_bytes()


def test_too_little_disk(tmp_path, texts, monkeypatch):
    data = folder_of(tmp_path / "a", texts)
    monkeypatch.setattr(lookback.shutil, "disk_usage", lambda path: SimpleNamespace(free=1200))
    monkeypatch.setattr(lookback, "suffix_array", None)  # it does not come to that
    with pytest.raises(OSError, match=r"needs [\d,]+ bytes, and its disk has 1,200 free; make"):
        Lookback(data)
    assert not [*data.folder.glob("*lookback*")]


# ---- the command ----
def test_longest():
    matches = [{"length": length} for length in (1, 2, 2, 0, 1, 2, 3)]
    assert longest(matches) == [6, 1, 2], "what a longer match goes on from is left out"
    assert longest([]) == [] and longest(matches[:1]) == [0]


@pytest.fixture
def runs(tmp_path):
    """The folder with a run on the data of the folder texts/."""
    data = folder_of(tmp_path / "texts", [f"line {i}\nof spam {i % 7}\n" * 3 for i in range(30)])
    folder = start_run(tmp_path / "runs", "small")
    write_config(folder, Config(data=(f"folder:{tmp_path / 'texts'}",)), data)
    model = GPT(GPTConfig(data.tokenizer.vocab_size, 16, n_layer=1, d_model=16, d_ff=16))
    save_checkpoint(folder, 1, tensors(model), {})
    return folder.parent


def test_command(runs, tmp_path, capsys, fails, monkeypatch):
    assert not has_colours()
    main(["--runs-dir", str(runs), "--run", "small", "--prompt", "a line 17\nof jam", "--places",
          "2", "--matches", "2"])
    n = len(Lookback.of_run(newest_run(runs), by_hand=True).ids) - 30
    head, _, found, where, text, *rest = capsys.readouterr().out.splitlines()
    assert head == f"{runs / 'small'}: {n:,} ids of training text, all of it"
    assert found == "[line 17\\nof ]  ids: 11, times: 3"
    source = f"folder:{tmp_path / 'texts'}, document 17, from id "
    assert where.startswith(f"  {source}") and "[line 17\\nof ]spam 3\\n" in text
    assert len(rest) == 2 + 1 + 1 + 4, "two places, an empty line, another match, two places"
    monkeypatch.setattr("sys.stdin", SimpleNamespace(read=lambda: "spam 6"))
    main(["--runs-dir", str(runs), "--prompt", "-", "--matches", "1"])
    assert "[spam 6]  ids: 6, times: 12" in capsys.readouterr().out
    assert "no run 'x'" in fails(main, "--runs-dir", runs, "--run", "x")
    shutil.rmtree(tmp_path / ".data")
    main(["--runs-dir", str(runs), "--prompt", "spam"])  # prepared anew
    assert "spam" in capsys.readouterr().out
    shutil.rmtree(tmp_path / ".data")
    shutil.rmtree(tmp_path / "texts")
    said = fails(main, "--runs-dir", runs, "--prompt", "spam")
    assert "texts does not exist" in said and "put back what it was made of" in said
