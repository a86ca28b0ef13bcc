"""Tests of data.py, in the order in which it is read: the first that fails is the next exercise."""

import hashlib
import json
import lzma
import math
import os
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

import data as module
from bpe import Tokenizer
from data import (FEW, Batches, Dataset, Ids, baselines, bits_per_byte, document_start, documents,
                  encode, find_files, fingerprint, is_validation, json_texts, main, make_batches,
                  prepare, reopen, slug, token_bytes, unigram_nats, write_folder)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the cat sat on the mat, naïve and sure\n" * 3], 280)


def some_ids(n, mask=None):
    """What Batches reads of a Dataset: ids 0, 1, 2 ... are their own places."""
    return SimpleNamespace(train=Ids(np.arange(n, dtype=np.uint16), None, mask))


# ---- one exercise each ----
def test_is_validation():
    for text in ("", "a", "naïve", "document 7"):
        share = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64
        assert is_validation(text, share + 1e-9), (
            f"{text!r}: its number is {share:.6f} * 2^64, below share * 2^64, so it is validation. "
            "The number is the first 8 bytes of sha256, the first byte the most significant")
        assert not is_validation(text, share - 1e-9), (
            f"{text!r}: its number is {share:.6f} * 2^64, not below share * 2^64: it is training")
    assert not is_validation("a", 0) and is_validation("a", 1), (
        "with a share of 0 no document is validation, with a share of 1 every document is")
    found = sum(is_validation(f"document {i}") for i in range(4000)) / 4000
    assert abs(found - 0.05) < 0.02, f"5% of documents are validation by default, not {found:.1%}"


def test_encode(tokenizer):
    bos = tokenizer.special["<|bos|>"]
    ids = encode("the mat", tokenizer)
    assert isinstance(ids, list), "encode() must return a list"
    assert ids[:1] == [bos], "a document must begin with <|bos|>"
    assert ids == [bos, *tokenizer.encode("the mat")], "after <|bos|> come the ids of the text"
    assert encode("", tokenizer) == [bos], "an empty document is <|bos|> alone"
    assert encode("<|bos|><|user_start|>", tokenizer).count(bos) == 1, (
        "what a text says must never become a special token")
    gpt2 = Tokenizer([], special_tokens=["<|endoftext|>"])
    assert encode("a", gpt2) == [256, 97], (
        "document_start() says which id opens a document: not every tokenizer has <|bos|>")


def test_start():
    batches = Batches(some_ids(100), 4, 10, seed=7)
    for n in range(5):
        want = np.random.default_rng((7, n)).integers(0, 90)
        assert batches.start(n) == want, (
            f"window {n} of seed 7 must start at {want}: default_rng((seed, n)).integers(), from 0 "
            f"to the last place where 11 of 100 ids fit; not at {batches.start(n)}")
    assert type(batches.start(0)) is int, "start() must return an int"
    batches.n = 3
    assert batches.start(0) == np.random.default_rng((7, 0)).integers(0, 90), (
        "start(n) must depend on the seed and on n alone, not on self.n")
    tight = {Batches(some_ids(12), 4, 10).start(n) for n in range(100)}
    assert tight == {0, 1}, f"11 ids fit into 12 at 0 and at 1, and both must come; got {tight}"


def test_next():
    mask = (np.arange(100) % 3 > 0).astype(np.uint8)
    batches = Batches(some_ids(100, mask), 4, 10, seed=1)
    starts = [batches.start(n) for n in range(8)]
    inputs, targets = next(batches)
    assert inputs.shape == targets.shape == (4, 10), "inputs and targets must be (batch_size, T)"
    assert inputs.dtype == targets.dtype == np.int64, "inputs and targets must be int64"
    assert inputs.tolist() == [[*range(start, start + 10)] for start in starts[:4]], (
        "row i of the first batch must be window i: T ids from self.start(i) on. A mask hides "
        "targets, never inputs")
    want = [[i if mask[i] else -1 for i in range(start + 1, start + 11)] for start in starts[:4]]
    assert targets.tolist() == want, (
        "target t must be the id after input t, or -1 where that id, not the input, has mask 0")
    assert next(batches)[0][:, 0].tolist() == starts[4:], (
        "the second batch must be the next batch_size windows: self.n moves on by batch_size")
    assert batches.n == 8, f"after two batches of 4, self.n must be 8, not {batches.n}"
    for rank, rows in ((0, [0, 2, 4]), (1, [1, 3])):
        batches = Batches(some_ids(100), 5, 10, 1, rank, world=2)
        for first in (0, 5):
            want = [batches.start(first + row) for row in rows]
            assert next(batches)[0][:, 0].tolist() == want, (
                f"rank {rank} of 2 must read the rows {rows} of each batch of 5, here of the one "
                f"whose first window is {first}: self.n moves on by the whole batch")


def test_token_bytes(tokenizer):
    sizes = token_bytes(tokenizer)
    assert sizes.shape == (280,) and sizes.dtype == np.int64, "sizes must be (V,) int64"
    assert sizes[:256].tolist() == [1] * 256, "ids 0 to 255 stand for one byte each"
    assert sizes[tokenizer.encode("the mat")].sum() == 7, "the ids of 'the mat' stand for 7 bytes"
    assert token_bytes(Tokenizer([(195, 175)]))[256] == 2, (
        "sizes are bytes, not characters: bytes 195 and 175, merged, are the letter ï, of 2 bytes")
    special = list(tokenizer.special.values())
    assert not sizes[special].any(), "special tokens stand for no text: 0 bytes"
    assert (sizes[:min(special)] > 0).all(), "every other id stands for at least one byte"


def test_bits_per_byte():
    ln2 = math.log(2)
    assert bits_per_byte([ln2, 9.0, 9.0], [0, 1, -1], [2, 0]) == pytest.approx(0.5), (
        "ln 2 nats are one bit, on 2 bytes half a bit a byte. Targets that are masked (negative) "
        "or that stand for no byte count neither in the nats nor in the bytes")
    assert bits_per_byte([ln2, 9.0], [0, -1], [1, 5]) == pytest.approx(1.0), (
        "a masked target is -1, which is no index into sizes")
    assert bits_per_byte([[2 * ln2], [4 * ln2]], [[0], [1]], [1, 2]) == pytest.approx(2.0), (
        "6 bits on 3 bytes: sum over all targets, then divide once; not a mean of ratios")
    n = 1 << 18
    nats = np.full(n, 0.1, dtype=np.float32)
    assert bits_per_byte(nats, np.zeros(n, int), [1]) == pytest.approx(
        float(nats[0]) / ln2, rel=1e-12), "sum in float64, also where the nats are float32"
    assert type(bits_per_byte([1.0], [0], [1])) is float, "bits_per_byte() must return a float"


def test_unigram_nats():
    assert unigram_nats([3, 1], [0, 1]) == pytest.approx([math.log(6 / 4), math.log(6 / 2)]), (
        "with one added to every count, [4, 2] of 6: id 0 costs -ln(4/6), id 1 costs -ln(2/6)")
    assert unigram_nats([0, 0, 0, 0], [2]) == pytest.approx([math.log(4)]), (
        "an id that was never seen must cost a finite number of nats")
    assert unigram_nats([3, 1], [1, 1, 0]).shape == (3,), "a number for each target"


# ---- documents ----
def make_folder(path, n, text="document {0}\n"):
    path.mkdir()
    for i in range(n):
        (path / f"{i:04}.txt").write_text(text.format(i), encoding="utf-8")
    return f"folder:{path}"


def test_few_documents_are_split_by_their_tails(tmp_path):
    files = find_files(make_folder(tmp_path / "few", 2, "0123456789x"))
    assert list(documents("folder:few", files)) == [("train", "012345678"), ("val", "9x")] * 2, (
        "of each, the first int(0.9 * length) characters are for training")
    (tmp_path / "few" / "0000.txt").write_text("a")
    assert list(documents("folder:few", files))[0] == ("val", "a"), "no empty document is yielded"


def test_many_documents_are_split_by_their_hashes(tmp_path):
    name = make_folder(tmp_path / "many", FEW)
    before = {text: split for split, text in documents(name, find_files(name))}
    assert before == {text: "val" if is_validation(text) else "train" for text in before}
    assert len(before) == FEW and set(before.values()) == {"train", "val"}
    (tmp_path / "many" / "0000a.txt").write_text("another one")
    after = {text: split for split, text in documents(name, find_files(name))}
    assert len(after) == FEW + 1 and after.items() > before.items(), (
        "a new document must not move the others")


def test_what_is_no_text_is_for_corpus(tmp_path, monkeypatch, fails):
    """Extras leave it out, and say so; a copy of the spine alone reads folders of texts only."""
    (tmp_path / "a.txt").write_text("a")
    for name, content in (("b.png", b"\x89PNG\0"), ("c.txt", "café".encode("latin-1")),
                          ("d.bin", b"version https://git-lfs.github.com/spec/v1\noid ...")):
        (tmp_path / name).write_bytes(content)
        assert find_files(f"folder:{tmp_path}") is None, f"{name} is for extras/corpus.py"
        with monkeypatch.context() as patch:
            patch.setattr(module, "housekeeping", None)
            files = find_files(f"folder:{tmp_path}")
            with pytest.raises(ValueError, match=name):
                list(documents(f"folder:{tmp_path}", files))
        (tmp_path / name).unlink()
    assert find_files(f"folder:{tmp_path}") == [tmp_path / "a.txt"]
    (tmp_path / "link").symlink_to("/etc/hostname")
    assert find_files(f"folder:{tmp_path}") is None, "so is a link"
    (tmp_path / "link").unlink()
    (tmp_path / "data").mkdir()
    for made in ("tokenizer.json", "index.json", "train.npy"):
        (tmp_path / "data" / made).write_text("{}")
    assert find_files(f"folder:{tmp_path}") is None, "so is what this course has made of it"


def test_find_files(tmp_path):
    for name in ("b/2.go", "b/.git/3.go", ".hidden", "a.txt", "empty"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty" else name)
    found = find_files(f"folder:{tmp_path}")
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["a.txt", "b/2.go"], (
        "files are sorted; hidden and empty ones are left out")
    assert find_files(f"folder:{tmp_path / '.hidden'}") == [tmp_path / ".hidden"]
    assert find_files(f"folder:{tmp_path / 'empty'}") is None
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a"}\n')
    assert find_files(f"jsonl:{rows}") == [rows]
    rows.write_text('{"text": "a"}\n{"text": "a", "messages": [{"role": "user"}]}\n')
    assert find_files(f"jsonl:{rows}") is None, "a conversation is more than its text"
    rows.write_text('{"text": "a"}\n\n{"messages": []}\n')
    (tmp_path / "odd.jsonl").write_text('{"text": "\\ud800"}\n' + "[" * 100_000 + "\n1\n\n")
    assert [*json_texts(tmp_path / "odd.jsonl")] == [None] * 4
    for name in ("folder:", f"folder:{tmp_path}/none", "gsm8k", "jsonl:a.jsonl", "python:0.3",
                 f"jsonl:{rows}", f"jsonl:{tmp_path}", f"jsonl:{rows},field=x"):
        assert find_files(name) is None, f"{name} is for extras/corpus.py"


@pytest.mark.parametrize("workers", [1, 2])
def test_two_processes_prepare_once(tmp_path, fork, workers):
    """The second one waits, and takes what the first has made. (With workers, extras do it.)"""
    name, made = make_folder(tmp_path / "texts", 300), []
    both = [fork(lambda: prepare([name], 300, tmp_path / "data", workers=workers))
            for _ in range(2)]
    for process in both:
        process.join()
        assert process.exitcode == 0, process.log.read_text()
        made.append("made earlier" in process.log.read_text())
    [folder] = (tmp_path / "data").iterdir()
    Dataset(folder)
    assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")]
    texts = "".join(process.log.read_text() for process in both)
    assert any(made) or "waits for it" in texts, "both have made it"


def test_documents_of_json_lines(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "caf\\u00e9"}\n{"text": "b", "stars": 3}\n{"text": ""}\n')
    found = dict(map(reversed, documents(f"jsonl:{rows}", [rows])))
    assert found == {text: "val" if is_validation(text) else "train" for text in ("café", "b")}, (
        "lines are split by their hashes, however few there are; empty ones are left out")
    rows.write_text('{"text": "a"}\n{"tex')
    with pytest.raises(ValueError, match="rows.jsonl was changed while it was read"):
        list(documents(f"jsonl:{rows}", [rows]))
    rows.write_text('{"text": "a"}\n{"text": 3}\n')
    with pytest.raises(ValueError, match="rows.jsonl, line 2"):
        prepare([f"jsonl:{rows}"], 270, tmp_path / "data", by_hand=True)


def test_python_is_its_library_without_tests():
    files = find_files("python")
    assert len(files) >= FEW and files == sorted(files)
    names = {p.relative_to(os.path.dirname(os.__file__)).as_posix() for p in files}
    assert "collections/__init__.py" in names
    assert not any(name.startswith(("test/", "site-packages/")) for name in names)


def test_fingerprint_follows_the_files(tmp_path):
    files = find_files(make_folder(tmp_path / "f", 3))
    before = fingerprint(files)
    assert fingerprint(files) == before
    assert fingerprint(files[:2]) != before
    os.utime(files[1], ns=(0, 0))
    touched = fingerprint(files)
    assert touched != before, "a file with another time counts as changed"
    (tmp_path / "f" / "0001.txt").write_text("of another size")
    os.utime(files[1], ns=(0, 0))
    assert fingerprint(files) != touched


def test_slug():
    assert slug("jsonl:some/where/a.jsonl") == "a-jsonl" and slug("folder:.") == "folder"
    assert len(slug("folder:" + "x" * 300)) == 40


# ---- ids on disk ----
def test_document_start(tokenizer):
    assert document_start(tokenizer) == [tokenizer.special["<|bos|>"]]
    both = Tokenizer([], special_tokens=["<|endoftext|>", "<|begin_of_text|>"])
    assert document_start(both) == [257], "<|endoftext|> only where there is no other"
    both.begin = [65, 66]
    assert document_start(both) == [65, 66], "as its file says"
    both.begin, both.special, both.ends = [], {}, [67, 68]
    assert document_start(both) == [67], "what ends a document also stands between two"
    with pytest.raises(ValueError, match="has none of <.bos.>, .*to open a document"):
        document_start(Tokenizer([], special_tokens=["<|im_start|>"]))


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A folder of prepared data, and its source's name."""
    name = make_folder(tmp_path / "texts", 7, "the cat {0} sat on the mat, naïve\n" * 20)
    write_folder(name, find_files(name), tokenizer, tmp_path / "out")
    return tmp_path / "out", name


def test_write_folder(folder, tokenizer):
    folder, name = folder
    data, split_documents = Dataset(folder, by_hand=True), list(documents(name, find_files(name)))
    for split, ids in (("train", data.train), ("val", data.val)):
        texts = [text for side, text in split_documents if side == split]
        expected, starts = [], []
        for text in texts:
            starts.append(len(expected))
            expected += encode(text, tokenizer)
        assert ids[:].tolist() == expected, "the ids of all documents, one after the other"
        assert ids.starts.tolist() == starts, "where each of them begins"
        entry, text = data.index[split], "".join(texts).encode()
        assert (entry["documents"], entry["tokens"]) == (len(texts), len(expected))
        assert entry["bytes"] == len(text)
        for file, sha256 in entry["sha256"].items():
            assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == sha256
    assert data.index["val"]["zlib"] == len(zlib.compress(text, 9))
    assert data.index["val"]["lzma"] == len(lzma.compress(text, preset=9))
    assert data.tokenizer.hash == tokenizer.hash and data.index["vocab_size"] == 280
    assert np.load(folder / "train.npy").dtype == np.uint16


def test_large_vocabularies_take_four_bytes(folder, tmp_path):
    for n, dtype in (((1 << 16) - 256, np.uint16), ((1 << 16) - 255, np.uint32)):
        special = ["<|bos|>", *(f"<|{i}|>" for i in range(n - 1))]
        write_folder(folder[1], find_files(folder[1]), Tokenizer([], special_tokens=special),
                     tmp_path / f"{n}")
        assert np.load(tmp_path / f"{n}" / "train.npy").dtype == dtype, f"{256 + n} ids"


def test_a_side_without_documents_is_refused(tmp_path, tokenizer):
    (tmp_path / "short").write_text("a")
    with pytest.raises(ValueError, match="short leaves nothing for train; it needs more text"):
        write_folder("short", [tmp_path / "short"], tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_interrupted_writing_leaves_nothing_that_looks_whole(folder, tmp_path, monkeypatch):
    """Nor is what it leaves in the way of the next attempt."""
    _, name = folder
    write_safely, calls = module.write_safely, []
    prepare([name], 280, tmp_path / "good", by_hand=True, say=lambda text: None)
    good = next((tmp_path / "good").iterdir())

    def full_disk(path, content):
        calls.append(path.name)
        if len(calls) == stop:
            raise OSError(28, "No space left on device")
        write_safely(path, content)

    for stop in range(1, 6):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_safely", full_disk)
            with pytest.raises(OSError, match="No space left"):
                prepare([name], 280, tmp_path / "data", by_hand=True, say=lambda text: None)
        assert not list((tmp_path / "data").glob("*/index.json")), f"after {calls}"
    assert calls[-1] == "index.json", "index.json must be written last"
    prepare([name], 280, tmp_path / "data", by_hand=True, say=lambda text: None)
    for file in good.iterdir():
        assert file.read_bytes() == (tmp_path / "data" / good.name / file.name).read_bytes()


def test_ids():
    mask = np.array([0, 1, 1, 0, 1, 1, 1, 1, 1, 1], np.uint8)
    ids = Ids(np.arange(10, dtype=np.uint16), None, mask)
    assert len(ids) == 10 and ids.read(3, 4).tolist() == ids[3:7].tolist() == [3, 4, 5, 6]
    assert ids.read(0, 10).dtype == ids[:].dtype == np.int64 and len(ids.read(10, 0)) == 0
    assert ids.labels(0, 5).tolist() == [-1, 1, 2, -1, 4], "a mask hides labels, not ids"
    assert Ids(np.arange(10)).labels(2, 3).tolist() == [2, 3, 4], "without a mask all is learned"
    for start, n in ((0, 11), (10, 1), (-1, 2)):
        with pytest.raises(ValueError, match=f"{n} ids from {start} on are not among 10"):
            ids.read(start, n)
    assert Ids(np.array([1, 3, 1], np.uint16)).counts(5).tolist() == [0, 2, 0, 1, 0]


def test_an_open_dataset_takes_no_memory(folder):
    ids = Dataset(folder[0], by_hand=True).train.ids
    assert isinstance(ids, np.memmap), "ids are mapped from disk, not loaded"
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 0


def test_what_is_no_folder_of_prepared_data(folder, tmp_path):
    folder, _ = folder
    index = json.loads((folder / "index.json").read_text())

    def refused(said, index=None):
        if index is not None:
            (folder / "index.json").write_text(index)
        with pytest.raises(ValueError, match=f"out is not a folder of prepared data: .*{said}"):
            Dataset(folder, by_hand=True)

    for bad in ("[]", "", "x", "{}", '{"format": 2}'):
        refused("", bad)
    refused("another version wrote it, or it was changed", json.dumps(index | {"format": 2}))
    index["val"]["zlib"] += 1
    refused("another version wrote it, or it was changed", json.dumps(index))
    index["val"]["zlib"] -= 1
    refused("", "[" * 100_000)
    for key in ("format", "tokenizer", "train", "val"):
        refused("", json.dumps({k: v for k, v in index.items() if k != key}))
    (folder / "index.json").write_text(json.dumps(index))
    Dataset(folder, by_hand=True)
    other = Tokenizer.train(["xyz " * 9], 270)
    other.save(folder / "tokenizer.json")
    with pytest.raises(ValueError, match=f"out has tokenizer {other.hash}, not that of its ids"):
        Dataset(folder, by_hand=True)
    with pytest.raises(ValueError, match="not a folder of prepared data: .*No such file"):
        Dataset(tmp_path)
    (folder / "val.npy").unlink()
    os.mkfifo(folder / "val.npy")
    refused("val.npy is no regular file, and reading it may never end")


def test_a_changed_file_is_noticed(folder):
    folder, _ = folder
    before = Dataset(folder, by_hand=True).hash
    for name in ("train.npy", "val.npy", "val-starts.npy"):
        good = (folder / name).read_bytes()
        for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[:-100], b""):
            (folder / name).write_bytes(bad)
            with pytest.raises(ValueError, match=f"{name} has changed since it was written"):
                Dataset(folder, by_hand=True)
        (folder / name).write_bytes(good)
    assert Dataset(folder, by_hand=True).hash == before


# ---- batches ----
def test_batches_resume_with_any_number_of_ranks():
    def make(rank=0, world=1):
        return Batches(some_ids(500), 4, 16, 5, rank, world)

    whole = make()
    expected = [next(whole) for _ in range(20)]
    for stop in (0, 1, 7):
        before = make(1, 2)
        for _ in range(stop):
            next(before)
        state = json.loads(json.dumps(before.state_dict()))  # as a checkpoint holds it
        for world in (1, 3):
            for rank in range(world):
                after = make(rank, world)
                after.load_state_dict(state)
                for inputs, targets in expected[stop:stop + 10]:
                    x, y = next(after)
                    assert (x == inputs[rank::world]).all() and (y == targets[rank::world]).all()
    assert whole.epochs() == [pytest.approx(20 * 4 * 16 / 500)]
    assert not (expected[0][0] == expected[1][0]).all(), "batches differ"
    assert not (next(Batches(some_ids(500), 4, 16, 6))[0] == expected[0][0]).all(), "so do seeds"


def test_batches_that_cannot_be():
    with pytest.raises(ValueError, match="batch_size is 2, too few windows for 3 processes"):
        Batches(some_ids(100), 2, 8, rank=0, world=3)
    for seq_len in (-3, 0, 100):
        with pytest.raises(ValueError, match=f"seq_len is {seq_len}, but 100 tokens are"):
            Batches(some_ids(100), 2, seq_len)
    Batches(some_ids(100), 2, 99)


# ---- the measure ----
def test_baselines(folder):
    folder, name = folder
    data = Dataset(folder, by_hand=True)
    text = "".join(text for split, text in documents(name, find_files(name)) if split == "val")
    ids, n = data.tokenizer.encode(text), len(text.encode())
    rows = baselines(data)
    assert list(rows) == ["uniform", "unigram", "zlib -9", "lzma -9"]
    assert rows["uniform"] == pytest.approx(len(ids) * math.log2(280) / n, rel=0.02)
    assert rows["unigram"] < rows["uniform"]
    assert rows["lzma -9"] == pytest.approx(8 * len(lzma.compress(text.encode(), preset=9)) / n)
    assert rows["zlib -9"] == pytest.approx(8 * len(zlib.compress(text.encode(), 9)) / n)
    other = baselines(data, np.array(data.tokenizer.encode("cat")), {"zlib": 3, "lzma": 6})
    assert (other["zlib -9"], other["lzma -9"]) == (8.0, 16.0), "of a text that is given"


# ---- the door ----
def test_prepare_reuses_and_follows_changes(tmp_path):
    name, said = make_folder(tmp_path / "texts", 7, "the cat {0} sat on the mat\n" * 20), []

    def prepared(vocab_size=270, tokenizer=None):
        return prepare([name], vocab_size, tmp_path / "data", tokenizer, True, say=said.append)

    first = prepared()
    assert "made earlier" not in said[-1] and str(first.folder) in said[-1]
    assert prepared().folder == first.folder and "made earlier" in said[-1]
    assert prepared(280).folder != first.folder
    assert prepared(270, first.tokenizer).folder != first.folder
    assert prepared(999, first.tokenizer).folder == prepared(270, first.tokenizer).folder, (
        "with a tokenizer, vocab_size says nothing")
    (tmp_path / "texts" / "0000.txt").write_text("something else " * 30)
    assert prepared().folder != first.folder, "changed documents are prepared anew"


def test_the_tokenizer_never_sees_validation_text(tmp_path):
    (tmp_path / "one").write_text("ab " * 300 + "yz " * 30)
    data = prepare([f"folder:{tmp_path / 'one'}"], 280, tmp_path / "data", None, True,
                   say=lambda text: None)
    assert any(b"ab" in token for token in data.tokenizer.vocab)
    assert not any(b"yz" in token for token in data.tokenizer.vocab)


def test_what_a_readers_file_makes_is_kept_apart(tmp_path, monkeypatch):
    name = make_folder(tmp_path / "texts", 3, "the cat {0} sat\n" * 20)
    first = prepare([name], 270, tmp_path / "data", by_hand=True, say=lambda line: None)
    monkeypatch.setattr("data.housekeeping.readers_code", lambda *names: "another encode()")
    other = prepare([name], 270, tmp_path / "data", by_hand=True, say=lambda line: None)
    assert other.folder != first.folder, "it must not pass for what the course's own files make"


def test_other_sources_are_prepared_by_extras(tmp_path):
    """Here lines of another form; those of data.py's own become the same ids."""
    rows, texts, made = tmp_path / "rows.jsonl", ["", *(f"the cat {i}" for i in range(99))], []
    for key in ("content", "text"):
        rows.write_text("".join(json.dumps({key: text, "stars": 3}) + "\n" for text in texts))
        assert (find_files(f"jsonl:{rows}") is None) == (key == "content")
        made.append(prepare([f"jsonl:{rows}"], 270, tmp_path / "data", by_hand=True))
    n_val = sum(map(is_validation, texts[1:]))
    assert [made[0].index[split]["documents"] for split in ("train", "val")] == [99 - n_val, n_val]
    assert made[0].folder != made[1].folder and made[0].hash == made[1].hash


def test_reopen(folder):
    data = Dataset(folder[0], by_hand=True)
    again = reopen([(share, part.folder) for share, part in data.parts], by_hand=True)
    assert again.hash == data.hash and again.train[:].tolist() == data.train[:].tolist()
    assert isinstance(make_batches(again, 2, 8, 0, "random", 1, 2), Batches)


def test_command_line(folder, tmp_path, capsys, fails):
    _, name = folder
    main([name, "--vocab-size", "270", "--data-dir", str(tmp_path / "data"), "--by-hand"])
    out = capsys.readouterr().out
    assert "lzma -9" in out and out.count("inputs ") == out.count("targets") == 3
    inputs, targets = [line.split(" | ")[1:] for line in out.splitlines()[-2:]]
    assert len(inputs) == 12 and inputs[1:] == targets[:-1], "targets are one id further on"
    (tmp_path / "short").write_text("a")
    for source, wrong in ((f"folder:{tmp_path / 'short'}", "no text to train a tokenizer on"),
                          (name, "vocab_size is 9")):
        assert wrong in fails(main, source, "--vocab-size", 9 if source == name else 280,
                              "--data-dir", tmp_path / "data", "--by-hand")
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    assert "latin1 is not UTF-8" in fails(main, f"folder:{tmp_path / 'latin1'}", "--by-hand",
                                          "--data-dir", tmp_path / "data")
    assert "leave out --vocab-size" in fails(main, name, "--tokenizer", "t.json", "--vocab-size", 9)
