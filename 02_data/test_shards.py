"""Tests of shards.py, from primitive to composite."""

import json
import lzma
import math
import zlib

import numpy as np
import pytest

import shards as module
from bpe import Tokenizer
from corpus import find_source
from shards import (RandomWindows, Shards, Stream, baselines, bits_per_byte, main, prepare,
                    token_bytes, unigram_bits, windows, write_shards)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the cat sat on the mat, naïve and sure\n" * 3], 280)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(7):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"the cat {i} sat on the mat, naïve\n" * 20)
    return find_source(f"folder:{tmp_path / 'texts'}")


def test_token_bytes(tokenizer):
    sizes = token_bytes(tokenizer)
    assert sizes.shape == (280,) and sizes.dtype == np.int64
    assert sizes[:256].tolist() == [1] * 256
    assert sizes[tokenizer.encode("the")].sum() == 3
    assert sizes[tokenizer.special["<|bos|>"]] == 0, "special tokens stand for no text"


def test_bits_per_byte():
    ln2 = math.log(2)
    assert bits_per_byte([ln2, 9.0, 9.0], [0, 1, -1], [2, 0]) == pytest.approx(0.5)
    assert bits_per_byte([[2 * ln2], [4 * ln2]], [[0], [1]], [1, 2]) == pytest.approx(2.0), (
        "sums over all targets, then one division: not a mean of ratios")
    n = 1 << 20
    nats = np.full(n, 0.1, dtype=np.float32)
    exact = float(nats[0]) / ln2
    assert bits_per_byte(nats, np.zeros(n, int), [1]) == pytest.approx(exact, rel=1e-12), "float64"


def test_stream_read():
    stream = Stream([np.arange(0, 5, dtype=np.uint16), np.arange(5, 6, dtype=np.uint16),
                     np.arange(6, 12, dtype=np.uint16)])
    assert len(stream) == 12
    for start in range(12):
        for n in range(12 - start + 1):
            got = stream.read(start, n)
            assert got.tolist() == list(range(start, start + n)), f"read({start}, {n})"
            assert got.dtype == np.int64
    for start, n in ((0, 13), (12, 1), (-1, 2)):
        with pytest.raises(ValueError, match="12"):
            stream.read(start, n)


def test_random_windows_batch():
    stream = Stream([np.arange(100, dtype=np.uint16)])
    inputs, targets = RandomWindows(stream, 4, 10, seed=7).batch(3)
    starts = np.random.default_rng((7, 3)).integers(0, 90, 4)
    assert inputs.shape == targets.shape == (4, 10)
    assert inputs[:, 0].tolist() == starts.tolist()
    assert (np.diff(inputs) == 1).all() and (targets == inputs + 1).all()
    tight = RandomWindows(Stream([np.arange(12)]), 200, 10).batch(0)[0][:, 0]
    assert set(tight.tolist()) == {0, 1}, "every window that fits may come, the last one too"


def test_random_windows_state():
    stream = Stream([np.arange(1000)])
    loader = RandomWindows(stream, 2, 8, seed=1)
    first = [next(loader)[0] for _ in range(3)]
    state = json.loads(json.dumps(loader.state_dict()))
    rest = [next(loader)[0] for _ in range(3)]
    other = RandomWindows(stream, 2, 8, seed=99)
    other.load_state_dict(state)
    for batch in rest:
        assert (next(other)[0] == batch).all(), "a resumed loader must see what would have come"
    assert not (first[0] == first[1]).all()
    with pytest.raises(ValueError, match="8 tokens are too few"):
        RandomWindows(Stream([np.arange(8)]), 2, 8)


def test_windows():
    assert windows(10, 4, 4) == [(0, 0), (4, 0), (8, 0)]
    assert windows(10, 4, 2)[:2] == [(0, 0), (2, 2)]
    for n in range(2, 30):
        for stride in range(1, 6):
            scored = [i + 1 for start, fresh in windows(n, 5, stride)
                      for i in range(start + fresh, min(start + 5, n - 1))]
            assert scored == list(range(1, n)), f"each target once: windows({n}, 5, {stride})"
            assert all(start < n - 1 for start, _ in windows(n, 5, stride)), "no empty window"
    for stride in (0, 6):
        with pytest.raises(ValueError, match="stride"):
            windows(10, 5, stride)


def test_unigram_bits():
    assert unigram_bits([3, 1], [0, 1]) == pytest.approx([math.log2(6 / 4), math.log2(6 / 2)])
    assert unigram_bits([0, 0, 0, 0], [2]) == pytest.approx([2.0]), "never seen, not impossible"


@pytest.mark.parametrize("shard_tokens", [50, 1 << 20])
def test_write_shards(source, tokenizer, tmp_path, shard_tokens):
    write_shards(source, tokenizer, tmp_path / "out", shard_tokens)
    shards = Shards(tmp_path / "out")
    bos, parts = tokenizer.special["<|bos|>"], list(source.parts())
    for split, stream in (("train", shards.train), ("val", shards.val)):
        texts, entry = [text for part, text in parts if part == split], shards.index[split]
        expected = [i for text in texts for i in [bos] + tokenizer.encode(text)]
        assert stream.read(0, len(stream)).tolist() == expected
        assert entry["tokens"] == len(expected) and entry["documents"] == len(texts)
        assert entry["bytes"] == sum(len(text.encode()) for text in texts)
        assert all(entry["tokens"] <= shard_tokens for entry in entry["shards"])
        starts = np.load(tmp_path / "out" / f"{split}-documents.npy")
        assert [expected[i] for i in starts] == [bos] * len(texts)
        data = "".join(texts).encode()
    assert shards.index["val"]["zlib"] == len(zlib.compress(data, 9))
    assert shards.index["val"]["lzma"] == len(lzma.compress(data, preset=9))


def test_two_may_write_at_once(source, tokenizer, tmp_path):
    """Whoever comes second finds the folder there, and lets it be."""
    write_shards(source, tokenizer, tmp_path / "out")
    before = (tmp_path / "out" / "index.json").stat().st_mtime_ns
    write_shards(source, tokenizer, tmp_path / "out")
    assert (tmp_path / "out" / "index.json").stat().st_mtime_ns == before
    assert {p.name for p in tmp_path.iterdir()} == {"texts", "out"}


def test_a_tokenizer_without_bos_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="no <|bos|>"):
        write_shards(source, Tokenizer([], special_tokens=[]), tmp_path / "out")


def test_large_vocabularies_take_four_bytes(source, tmp_path):
    names = [f"<|{i}|>" for i in range(65_300)]
    write_shards(source, Tokenizer([], special_tokens=["<|bos|>", *names]), tmp_path / "out")
    assert Shards(tmp_path / "out").train.arrays[0].dtype == np.uint32


def test_baselines(source, tokenizer, tmp_path):
    write_shards(source, tokenizer, tmp_path / "out")
    shards = Shards(tmp_path / "out")
    text = "".join(text for part, text in source.parts() if part == "val")
    ids, n = tokenizer.encode(text), len(text.encode())
    rows = baselines(shards)
    assert list(rows) == ["uniform", "unigram", "zlib -9", "lzma -9"]
    assert rows["uniform"] == pytest.approx(len(ids) * math.log2(280) / n, rel=0.02)
    assert rows["unigram"] < rows["uniform"]
    assert rows["lzma -9"] == pytest.approx(8 * len(lzma.compress(text.encode(), preset=9)) / n)
    assert rows["zlib -9"] == pytest.approx(8 * len(zlib.compress(text.encode(), 9)) / n)


def test_prepare_reuses_and_follows_changes(source, tmp_path):
    said = []
    first = prepare(source.name, 270, tmp_path / "data", say=said.append)
    again = prepare(source.name, 270, tmp_path / "data", say=said.append)
    assert again.folder == first.folder and "made earlier" in said[-1]
    assert prepare(f"shards:{first.folder}", 270).index == first.index
    assert prepare(source.name, 280, tmp_path / "data", say=said.append).folder != first.folder
    (tmp_path / "texts" / "0.txt").write_text("something else " * 30)
    changed = prepare(source.name, 270, tmp_path / "data", say=said.append)
    assert changed.folder != first.folder
    assert not [p for p in (tmp_path / "data").iterdir() if p.name.startswith(".")]


def test_tokenizer_never_sees_validation_text(tmp_path):
    (tmp_path / "one").write_text("ab " * 300 + "yz " * 30)
    shards = prepare(f"folder:{tmp_path / 'one'}", 280, tmp_path / "data", say=lambda text: None)
    assert any(b"ab" in token for token in shards.tokenizer.vocab)
    assert not any(b"yz" in token for token in shards.tokenizer.vocab)


def test_interrupted_writing_leaves_nothing(source, tokenizer, tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(module.np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_shards(source, tokenizer, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["texts"]


def test_nothing_left_for_one_side(tokenizer, tmp_path):
    (tmp_path / "short").write_text("a")
    with pytest.raises(ValueError, match="leaves nothing for train"):
        write_shards(find_source(f"folder:{tmp_path / 'short'}"), tokenizer, tmp_path / "out")


def test_mismatches_are_refused_with_both_values(source, tokenizer, tmp_path):
    out = tmp_path / "out"
    write_shards(source, tokenizer, out)
    with pytest.raises(ValueError, match="vocab_size is 999.*280"):
        prepare(f"shards:{out}", 999)
    index = (out / "index.json").read_text()
    for bad in ("{}", "[]", "", "x"):
        (out / "index.json").write_text(bad)
        with pytest.raises(ValueError, match="not a folder of shards"):
            Shards(out)
    (out / "index.json").write_text(index)
    with pytest.raises(ValueError, match="has a tokenizer of its own"):
        prepare(f"shards:{out}", tokenizer=tokenizer)
    np.save(out / "train-00000.npy", np.arange(3, dtype=np.uint16))
    with pytest.raises(ValueError, match=r"uint16 \(3,\)"):
        Shards(out)
    (out / "train-00000.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="not a folder of shards"):
        Shards(out)
    write_shards(find_source(source.name), tokenizer, tmp_path / "again")
    for path in (tmp_path / "again").glob("*.npy"):
        (out / path.name).write_bytes(path.read_bytes())
    other = Tokenizer.train(["xyz " * 9], 270)
    other.save(out / "tokenizer.json")
    with pytest.raises(ValueError, match=f"{tokenizer.hash}.*{other.hash}"):
        Shards(out)
    with pytest.raises(ValueError, match="not a folder of shards"):
        Shards(tmp_path)


def test_command_line(source, tmp_path, capsys, fails):
    main([source.name, "--vocab-size", "270", "--data-dir", str(tmp_path / "data")])
    assert "lzma -9" in capsys.readouterr().out
    (tmp_path / "short").write_text("a")
    assert "no text to train" in fails(main, f"folder:{tmp_path / 'short'}",
                                               "--data-dir", tmp_path / "data")
    assert "vocab_size is 9" in fails(main, source.name, "--vocab-size", 9,
                                      "--data-dir", tmp_path / "data")
