"""Tests of streams.py: reading across shards, and folders that are not what they were."""

import json
import pickle
import shutil

import numpy as np
import pytest

from batches import Batches
from bpe import Tokenizer
from corpus import find_source
from shards import write_shards
from streams import Mixture, Shards, Stream


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


def test_stream_labels():
    ids = np.arange(10)
    stream = Stream([ids[:4], ids[4:]], [np.array([0, 1, 1, 0]), np.ones(6)])
    assert stream.labels(0, 10).tolist() == [-1, 1, 2, -1, *range(4, 10)]
    assert stream.labels(3, 2).tolist() == [-1, 4], "also across shards"
    assert stream.read(0, 10).tolist() == ids.tolist(), "a mask hides targets, not inputs"
    assert Stream([ids]).labels(2, 3).tolist() == [2, 3, 4], "without masks all is learned"


@pytest.fixture
def out(tmp_path):
    (tmp_path / "text").write_text("the cat sat on the mat\n" * 50)
    tokenizer = Tokenizer.train(["the cat sat on the mat\n"], 280)
    write_shards(find_source(f"folder:{tmp_path / 'text'}"), tokenizer, tmp_path / "out", 200)
    return tmp_path / "out"


def test_verify(out):
    assert len(Shards(out).verify().train) > 200
    name = out / "train-00001.npy"
    ids = np.load(name)
    ids[7] += 1
    np.save(name, ids)
    with pytest.raises(ValueError, match="train-00001.npy has changed since it was written"):
        Shards(out).verify()


def test_truncated_shards_are_refused(out):
    path = out / "train-00000.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a folder of shards"):
        Shards(out)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="not a folder of shards"):
        Shards(out)
    np.save(path, np.empty(0, np.uint16))
    with pytest.raises(ValueError, match=r"holds uint16 \(0,\)"):
        Shards(out)


def test_ids_beyond_the_vocabulary_are_refused(out):
    """Checksums that fit don't help: someone else's program may have written the folder."""
    shards = Shards(out)
    shards.index["vocab_size"] = 100
    with pytest.raises(ValueError, match="holds id .*, but the vocabulary has 100"):
        shards.verify()


def test_what_travels_to_another_process_is_the_folder(out):
    shards = Shards(out)
    batches = Batches(Mixture([(1, shards)]), 2, 8, sampling="stream")
    data = pickle.dumps(batches)
    assert len(data) < 3000, "not the ids"
    again = pickle.loads(data)
    assert all((a == b).all() for a, b in zip(next(again), next(batches)))


def test_an_index_that_lacks_something(out):
    index = json.loads((out / "index.json").read_text())
    for key in index.keys() - {"source", "split", "fim"}:
        (out / "index.json").write_text(json.dumps({k: v for k, v in index.items() if k != key}))
        with pytest.raises(ValueError, match="is not a folder of shards"):
            Shards(out)


def test_mixture(out, tmp_path):
    shutil.copytree(out, tmp_path / "other")
    a, b = Shards(out), Shards(tmp_path / "other")
    mixture = Mixture([(3, a), (1.0, b)])
    assert mixture.weights == [0.75, 0.25]
    assert mixture.val.read(0, len(mixture.val)).tolist() == 2 * a.val.read(0, len(a.val)).tolist()
    assert mixture.index["val"]["zlib"] == 2 * a.index["val"]["zlib"]
    assert mixture.hash != Mixture([(1, a), (1, b)]).hash
    Tokenizer.train(["xyz"], 270).save(tmp_path / "other" / "tokenizer.json")
    index = json.loads((out / "index.json").read_text())
    index |= {"tokenizer": Tokenizer.load(tmp_path / "other" / "tokenizer.json").hash}
    (tmp_path / "other" / "index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="has tokenizer"):
        Mixture([(1, a), (1, Shards(tmp_path / "other"))])
