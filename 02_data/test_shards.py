"""Tests of shards.py: what is written, from what, and what is refused."""

import json
import lzma
import os
import zlib

import numpy as np
import pytest

import shards as module
from bpe import SPECIAL_TOKENS, Tokenizer
from chats import render
from corpus import find_source
from fim import MIDDLE, TOKENS
from shards import (encode, encode_batch, main, open_name, prepare, prepare_mixture, split_weight,
                    write_shards)
from streams import Shards


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the cat sat on the mat, naïve and sure\n" * 3], 280)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(7):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"the cat {i} sat on the mat, naïve\n" * 20)
    return find_source(f"folder:{tmp_path / 'texts'}")


@pytest.mark.parametrize("shard_tokens", [50, 1 << 20])
def test_write_shards(source, tokenizer, tmp_path, shard_tokens):
    write_shards(source, tokenizer, tmp_path / "out", shard_tokens)
    shards = Shards(tmp_path / "out")
    bos, parts = tokenizer.special["<|bos|>"], list(source.parts())
    for split, stream in (("train", shards.train), ("val", shards.val)):
        texts = [record["text"] for part, record in parts if part == split]
        entry = shards.index[split]
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


CHAT = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]


def test_encode(tokenizer):
    bos = tokenizer.special["<|bos|>"]
    ids, mask, text = encode({"text": "the mat"}, tokenizer)
    assert ids.tolist() == [bos, *tokenizer.encode("the mat")] and mask is None
    assert text == b"the mat"
    ids, mask, text = encode({"messages": CHAT}, tokenizer)
    assert (ids.tolist(), mask) == render(CHAT, tokenizer)
    assert text == b"sat", "what is to be learned of a conversation, without special tokens"


def test_encode_fills_in_the_middle():
    tokenizer = Tokenizer([], special_tokens=(*SPECIAL_TOKENS, *TOKENS))
    text = "<|fim_prefix|> is only text, where a user writes it"
    ids, _, data = encode({"text": text}, tokenizer, fim=1.0)
    assert data == text.encode() and ids[0] == tokenizer.special["<|bos|>"]
    assert [name for name in TOKENS if list(ids).count(tokenizer.special[name]) == 1] == [*TOKENS]
    assert sorted(i for i in ids if i < 256) == sorted(data), "all of the text is there"


def test_encode_batch():
    """What is validated is never rearranged, and its text is passed on to be compressed."""
    tokenizer = Tokenizer([], special_tokens=(*SPECIAL_TOKENS, *TOKENS))
    record = {"text": "the cat"}
    (_, train, *_, none), (part, val, mask, n, text) = encode_batch(
        [("train", record), ("val", record)], tokenizer, fim=1.0)
    assert train.dtype == val.dtype == np.uint16 and none == b""
    assert tokenizer.special[MIDDLE] in train and tokenizer.special[MIDDLE] not in val
    assert (part, mask, n, text) == ("val", None, 7, b"the cat")


@pytest.fixture
def chats(tmp_path):
    lines = [json.dumps({"messages": [{"role": "user", "content": f"the cat {i}"}, CHAT[1]]})
             for i in range(90)]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    return find_source(f"jsonl:{tmp_path / 'chats.jsonl'}")


@pytest.mark.parametrize("shard_tokens", [50, 1 << 20])
def test_masks_lie_beside_the_ids(chats, tokenizer, tmp_path, shard_tokens):
    write_shards(chats, tokenizer, tmp_path / "out", shard_tokens)
    shards, expected = Shards(tmp_path / "out").verify(), []
    for part, record in chats.parts():
        if part == "train":
            ids, mask = render(record["messages"], tokenizer)
            expected += [i if learned else -1 for i, learned in zip(ids, mask)]
    assert shards.train.labels(0, len(shards.train)).tolist() == expected
    n = shards.index["val"]["documents"]
    assert n and shards.index["val"]["bytes"] == 3 * n, "sat, and nothing that the user says"
    assert shards.index["val"]["zlib"] == len(zlib.compress(b"sat" * n, 9))


def test_nothing_to_learn(tokenizer, tmp_path):
    lines = [json.dumps({"messages": [{"role": "user", "content": f"{i}"}]}) for i in range(90)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="has nothing to learn in train"):
        write_shards(find_source(f"jsonl:{tmp_path / 'a.jsonl'}"), tokenizer, tmp_path / "out")
    with pytest.raises(ValueError, match="no <.assistant_end.>, which conversations need"):
        encode({"messages": CHAT}, Tokenizer([], special_tokens=["<|bos|>"]))


def test_options_make_other_shards(tmp_path):
    words = " ".join(map(chr, range(1040, 1100)))  # so that the rules find it long enough
    rows = [json.dumps({"text": f"a{i} " + words[i:], "other": f"b{i} " + words[i:]})
            for i in range(90)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    name, folders = f"jsonl:{tmp_path / 'a.jsonl'}", set()
    for options in ("", ",field=other", ",near=2,min_bytes=9", ",field=other,near=2,min_bytes=9"):
        shards = prepare(name + options, 280, tmp_path / "data", say=lambda text: None)
        folders.add(shards.folder)
        text = shards.tokenizer.decode(shards.train.read(1, 3))
        assert ("b" in text) == ("other" in options), text
    assert len(folders) == 4


def test_what_a_killed_process_left_is_no_obstacle(source, tokenizer, tmp_path):
    (tmp_path / f".out.{os.getpid()}.tmp").mkdir()
    write_shards(source, tokenizer, tmp_path / "out")
    (tmp_path / "out" / "index.json").unlink()
    with pytest.raises(ValueError, match="is there, but is not a folder of shards"):
        write_shards(source, tokenizer, tmp_path / "out")


def test_workers_write_the_same(source, chats, tokenizer, tmp_path):
    for one in (source, chats):
        for workers in (1, 2):
            write_shards(one, tokenizer, tmp_path / f"{one.name[:4]}{workers}", 100, 0.0, workers)
        names = sorted(p.name for p in (tmp_path / f"{one.name[:4]}1").iterdir())
        assert names == sorted(p.name for p in (tmp_path / f"{one.name[:4]}2").iterdir())
        for name in names:
            assert ((tmp_path / f"{one.name[:4]}1" / name).read_bytes()
                    == (tmp_path / f"{one.name[:4]}2" / name).read_bytes()), name


def test_fim_is_for_training_only(source, tmp_path):
    shards = prepare(f"{source.name},fim=1", 290, tmp_path / "data", say=lambda text: None)
    middle = shards.tokenizer.special[MIDDLE]
    train, val = (stream.read(0, len(stream)).tolist() for stream in (shards.train, shards.val))
    assert train.count(middle) == shards.index["train"]["documents"] and middle not in val
    plain = prepare(source.name, 290, tmp_path / "data", say=lambda text: None)
    assert MIDDLE not in plain.tokenizer.special and plain.folder != shards.folder
    with pytest.raises(ValueError, match="has no <.fim_prefix.>, which fill-in-the-middle needs"):
        prepare(f"{source.name},fim=0.5", None, tmp_path / "data", plain.tokenizer)
    for wrong in ("2", "-1", "half"):
        with pytest.raises(ValueError, match="fim is"):
            open_name(f"{source.name},fim={wrong}")


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


def test_split_weight():
    assert split_weight("gsm8k:0.3") == ("gsm8k", 0.3)
    assert split_weight("folder:a:2") == ("folder:a", 2.0)
    assert split_weight("folder:2024") == ("folder:2024", None), "a folder's name"
    assert split_weight("jsonl:x,language=go:.5") == ("jsonl:x,language=go", 0.5)
    with pytest.raises(ValueError, match="weight of gsm8k is 0"):
        split_weight("gsm8k:0")


def test_prepare_mixture(source, chats, tmp_path):
    names = [f"{source.name}:0.7", f"{chats.name}:0.3"]
    mixture = prepare_mixture(names, 290, tmp_path / "data", say=lambda text: None)
    assert mixture.weights == [0.7, 0.3] and len(mixture.shards) == 2
    assert len({shards.tokenizer.hash for shards in mixture.shards}) == 1
    said = []
    again = prepare_mixture(names, 290, tmp_path / "data", say=said.append)
    assert again.hash == mixture.hash and all("made earlier" in line for line in said)
    first = mixture.shards[0].folder
    more = prepare_mixture([f"shards:{first}", chats.name], None, tmp_path / "data",
                           say=lambda text: None)
    assert more.tokenizer.hash == mixture.tokenizer.hash and more.weights == [0.5, 0.5]
    with pytest.raises(ValueError, match="some have weights"):
        prepare_mixture([names[0], chats.name], 290, tmp_path / "data")


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
        prepare(f"shards:{out}", tokenizer=Tokenizer([]))
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
