"""Tests of writing.py: what is written, and that it is what data.py writes where both can."""

import dataclasses
import hashlib
import json
import lzma
import resource
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

import data
import writing as module
from bpe import SPECIAL_TOKENS, Tokenizer, tokenizer_class
from chatml import render_chatml
from console import holding
from conversations import render
from corpus import find_source
from data import Dataset, find_files
from fast import FastTokenizer
from fim import MIDDLE, TOKENS
from mapped import MappedTokenizer
from writing import (Compressors, NpyWriter, encode, encode_batch, encode_conversation,
                     write_folder)

CHAT = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]


@pytest.fixture(scope="module", params=[Tokenizer, FastTokenizer], ids=["by hand", "fast"])
def tokenizer(request):
    return request.param.train(["the cat sat on the mat, naïve and sure\n" * 3], 280)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(7):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"the cat {i} sat on the mat, naïve\n" * 20,
                                                     encoding="utf-8")
    return find_source(f"folder:{tmp_path / 'texts'}")


@pytest.fixture
def chats(tmp_path):
    lines = [json.dumps({"messages": [{"role": "user", "content": f"the cat {i}"}, CHAT[1]]})
             for i in range(90)]
    (tmp_path / "chats.jsonl").write_text("\n".join(lines))
    return find_source(f"jsonl:{tmp_path / 'chats.jsonl'}")


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_added_tokens_count_as_the_text_they_are(source, tmp_path):
    """Bits per byte are of all bytes of the text, whatever stands for them."""
    names = {"    ": 257, "<tool_call>": 258, " sat": 259}
    tokenizer = MappedTokenizer([], "gpt2", {"<|bos|>": 256}, added_tokens=[names])
    sizes = data.token_bytes(tokenizer)
    assert {name: sizes[i] for name, i in names.items()} == {n: len(n) for n in names}
    text = "a    b<tool_call>c <|bos|>"
    assert sizes[data.encode(text, tokenizer)].sum() == len(text)
    write_folder(source, tokenizer, tmp_path / "data")
    written = Dataset(tmp_path / "data")
    for part, split in ((written.train, "train"), (written.val, "val")):
        assert 259 in part.ids and sizes[part.ids].sum() == written.index[split]["bytes"]


# ---- the same as data.py ----
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("n", [3, data.FEW])
def test_plain_files_are_written_as_data_writes_them(tokenizer, tmp_path, n, workers):
    (tmp_path / "texts").mkdir()
    for i in range(n):
        (tmp_path / "texts" / f"{i}").write_text(f"the cat {i} sat, naïve\n" * 9, encoding="utf-8")
    name = f"folder:{tmp_path / 'texts'}"
    data.write_folder(name, find_files(name), tokenizer, tmp_path / "plain")
    write_folder(find_source(name), tokenizer, tmp_path / "fast", workers)
    assert files(tmp_path / "fast") == files(tmp_path / "plain")


def test_both_doors_lead_to_the_same_folder(source, tmp_path):
    """Whatever the number of workers, and with the plain tokenizer or the fast one."""
    found = []
    for by_hand in (True, False):
        for workers in (1, 2):
            made = data.prepare([source.name], 280, tmp_path / f"{by_hand}{workers}", None, by_hand,
                                workers, say=lambda text: None)
            found.append((made.folder.name, files(made.folder)))
    assert all(one == found[0] for one in found)


def test_the_python_source_is_the_same_by_both_doors(tmp_path, monkeypatch):
    few = [p for p in find_files("python") if p.parent.name in ("json", "email")]
    monkeypatch.setattr(data, "find_files", lambda name: few)
    monkeypatch.setattr("corpus.find_files", lambda name: few)
    tokenizer = FastTokenizer([])
    made = [data.prepare(["python"], None, tmp_path / f"{workers}", tokenizer, False, workers,
                         say=lambda text: None) for workers in (1, 2)]
    assert made[0].folder.name == made[1].folder.name
    assert files(made[0].folder) == files(made[1].folder)


def test_a_full_disk_names_the_file(tmp_path):
    """As far as a file may grow here, which is what a full disk looks like to a writer."""
    writer, before = NpyWriter(tmp_path / "train.npy", np.dtype(np.uint16)), resource.getrlimit(
        resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large: .*train.npy"):
            writer.append(np.zeros(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# ---- one document ----
def test_encode(tokenizer):
    bos = tokenizer.special["<|bos|>"]
    ids, mask, text = encode({"text": "the mat"}, tokenizer)
    assert list(ids) == [bos, *tokenizer.encode("the mat")] and mask is None
    assert text == b"the mat"
    ids, mask, text = encode({"messages": CHAT}, tokenizer)
    assert (list(ids), mask) == render(CHAT, tokenizer)
    assert text == b"sat", "what is to be learned of a conversation, without special tokens"


def test_encode_conversation():
    tokenizer = Tokenizer([])
    ids, mask, text = encode_conversation(CHAT, tokenizer)
    assert (ids, mask) == render(CHAT, tokenizer)
    assert text == b"sat", "what is to be learned, without special tokens"
    with pytest.raises(ValueError, match="no special tokens for a conversation"):
        encode_conversation(CHAT[:1], Tokenizer([], special_tokens=["<|bos|>"]))


def test_encode_conversation_with_loss_on_all():
    tokenizer = Tokenizer([])
    ids, mask, text = encode_conversation(CHAT, tokenizer, "all")
    assert ids == render(CHAT, tokenizer)[0] and mask == [1] * len(ids)
    assert text == b"the catsat", "all text counts, the user's too, without special tokens"
    assert encode({"messages": CHAT}, tokenizer, loss="all") == (ids, mask, text)
    assert encode({"text": "the mat"}, tokenizer, loss="all") == (
        encode({"text": "the mat"}, tokenizer)), "of texts all is learned anyway"


def test_encode_conversation_in_chatml():
    tokenizer = Tokenizer([], special_tokens=["<|im_start|>", "<|im_end|>"])
    ids, mask, text = encode_conversation(CHAT, tokenizer)
    assert (ids, mask) == render_chatml(CHAT, tokenizer) and text == b"sat"
    *_, text = encode_conversation(CHAT, tokenizer, "all")
    assert text == b"user\nthe cat\nassistant\nsat\n", "in ChatML roles are text"


def test_encode_fills_in_the_middle():
    tokenizer = Tokenizer([], special_tokens=(*SPECIAL_TOKENS, *TOKENS))
    text = "<|fim_prefix|> is only text, where a user writes it"
    ids, _, learned = encode({"text": text}, tokenizer, fim=1.0)
    assert learned == text.encode() and ids[0] == tokenizer.special["<|bos|>"]
    assert [name for name in TOKENS if list(ids).count(tokenizer.special[name]) == 1] == [*TOKENS]
    assert sorted(i for i in ids if i < 256) == sorted(learned), "all of the text is there"


def test_encode_batch():
    """Validation documents are never rearranged, and their text is returned, to be compressed."""
    tokenizer = Tokenizer([], special_tokens=(*SPECIAL_TOKENS, *TOKENS))
    record = {"text": "the cat"}
    (_, train, *_, none), (split, val, mask, n, text) = encode_batch(
        [("train", record), ("val", record)], tokenizer, fim=1.0)
    assert train.dtype == val.dtype == np.uint16 and none == b""
    assert tokenizer.special[MIDDLE] in train and tokenizer.special[MIDDLE] not in val, (
        "training documents are rearranged, validation documents never")
    assert (split, mask, n, text) == ("val", None, 7, b"the cat")


# ---- files that grow ----
@pytest.mark.parametrize("lengths", [[], [0], [3, 0, 4], [9_999, 1], [100_000]])
def test_a_growing_file_is_what_numpy_writes(tmp_path, lengths):
    values = np.arange(sum(lengths)).astype(np.uint16)
    writer, start = NpyWriter(tmp_path / "a.npy", values.dtype), 0
    for n in lengths:
        writer.append(values[start:start + n].tolist())
        start += n
    sha256 = writer.close()
    np.save(tmp_path / "b.npy", values)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert sha256 == hashlib.sha256((tmp_path / "b.npy").read_bytes()).hexdigest()


def test_compressors():
    text = b"the cat sat on the mat\n" * 500
    pieces = Compressors(text[:7])
    pieces.add(text[7:5000])
    pieces.add(b"")
    pieces.add(text[5000:])
    whole = {"zlib": len(zlib.compress(text, 9)), "lzma": len(lzma.compress(text, preset=9))}
    assert pieces.sizes() == whole, "the same in pieces as in one piece"


# ---- a folder ----
def test_masks_lie_beside_the_ids(chats, tokenizer, tmp_path):
    write_folder(chats, tokenizer, tmp_path / "out")
    made, expected = Dataset(tmp_path / "out"), {"train": [], "val": []}
    for split, record in chats.documents():
        ids, mask = render(record["messages"], tokenizer)
        expected[split] += [i if learned else -1 for i, learned in zip(ids, mask)]
    for split, ids in (("train", made.train), ("val", made.val)):
        assert ids.labels(0, len(ids)).tolist() == expected[split]
        assert (ids[:] >= 0).all(), "a mask hides labels, not ids"
    n = made.index["val"]["documents"]
    assert n and made.index["val"]["bytes"] == 3 * n, "sat, and nothing that the user says"
    assert made.index["val"]["zlib"] == len(zlib.compress(b"sat" * n, 9))


def test_texts_among_conversations_are_learned(tokenizer, tmp_path):
    rows = [{"text": f"only text {i}"} for i in range(60)] + [{"messages": CHAT}] * 60
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows + rows[:60]))
    write_folder(find_source(f"jsonl:{tmp_path / 'a.jsonl'}"), tokenizer, tmp_path / "out")
    ids = Dataset(tmp_path / "out").train
    labels, ends = ids.labels(0, len(ids)), [*ids.starts[1:], len(ids)]
    for start, end in zip(ids.starts, ends):
        text = tokenizer.decode(ids[start:end])
        assert (labels[start:end] >= 0).all() == ("only text" in text), text


def test_nothing_to_learn(tokenizer, tmp_path):
    lines = [json.dumps({"messages": [{"role": "user", "content": f"{i}"}]}) for i in range(90)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="has nothing to learn in train"):
        write_folder(find_source(f"jsonl:{tmp_path / 'a.jsonl'}"), tokenizer, tmp_path / "out")
    with pytest.raises(ValueError, match="no special tokens for a conversation"):
        encode({"messages": CHAT}, Tokenizer([], special_tokens=["<|bos|>"]))


def test_nothing_left_for_one_side(tokenizer, tmp_path):
    (tmp_path / "short").write_text("a")
    with pytest.raises(ValueError, match="leaves nothing for train"):
        write_folder(find_source(f"folder:{tmp_path / 'short'}"), tokenizer, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_workers_write_the_same(source, chats, tokenizer, tmp_path):
    for one in (source, chats):
        for workers in (1, 2):
            write_folder(one, tokenizer, tmp_path / f"{one.name[:4]}{workers}", workers)
        assert files(tmp_path / f"{one.name[:4]}1") == files(tmp_path / f"{one.name[:4]}2")


def test_what_a_killed_process_left_is_no_obstacle(source, tokenizer, tmp_path):
    write_folder(source, tokenizer, tmp_path / "whole")
    with holding(tmp_path / "out", "is being prepared"):
        (tmp_path / "out" / ".writing.89abcdef.tmp").mkdir(parents=True)
        for half in ("train.npy", ".writing.89abcdef.tmp/val.npy"):
            (tmp_path / "out" / half).write_bytes(b"half")
    with holding(tmp_path / "out", "is being prepared"):
        write_folder(source, tokenizer, tmp_path / "out")
    (tmp_path / "out" / ".lock").unlink()
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_two_processes_that_write_the_same(source, tokenizer, tmp_path):
    """As on file systems without locks: neither takes the other's half for its own."""
    def documents():
        yield from source.documents()
        write_folder(source, tokenizer, tmp_path / "out")

    write_folder(source, tokenizer, tmp_path / "one")
    both = SimpleNamespace(name=source.name, split_by=source.split_by, fim=source.fim,
                           loss=source.loss, documents=documents)
    write_folder(both, tokenizer, tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "one")


def test_interrupted_writing_leaves_nothing(source, tokenizer, tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(module.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_folder(source, tokenizer, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_tokenizer_that_lacks_a_token_is_refused(source, tmp_path):
    with pytest.raises(ValueError, match="has none of <.bos.>"):
        write_folder(source, Tokenizer([], special_tokens=[]), tmp_path / "out")
    with pytest.raises(ValueError, match="has no <.fim_prefix.>, which fill-in-the-middle needs"):
        write_folder(dataclasses.replace(source, fim=0.5), Tokenizer([]), tmp_path / "out")


def test_large_vocabularies_take_four_bytes(source, tmp_path):
    names = [f"<|{i}|>" for i in range(65_300)]
    tokenizer = tokenizer_class(False)([], special_tokens=["<|bos|>", *names])
    write_folder(source, tokenizer, tmp_path / "out")
    assert Dataset(tmp_path / "out").train.ids.dtype == np.uint32
