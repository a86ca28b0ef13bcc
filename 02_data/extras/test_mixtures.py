"""Tests of mixtures.py: several splits read as one, and sources by name."""

import json
import subprocess
import sys

import numpy as np
import pytest

from bpe import Tokenizer
from console import file_hash
from corpus import find_source
from data import (Dataset, Ids, baselines, hash_of, make_batches, prepare, reopen,
                  token_bytes)
from fim import MIDDLE
from mixtures import Joined, Mixture, open_name, prepare_any, split_share
from pieces import PATTERNS
from writing import write_folder

CHAT = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]


def quiet(text):
    pass


# ---- several splits as one ----
def three():
    """Ids 0 .. 11 in three parts, the second with a mask."""
    return Joined([Ids(np.arange(0, 5, dtype=np.uint16)),
                   Ids(np.arange(5, 7, dtype=np.uint16), None, np.array([0, 1], np.uint8)),
                   Ids(np.arange(7, 12, dtype=np.uint32))])


def test_pieces(explains):
    joined = three()
    a, b, c = joined.parts
    assert joined.spans(1, 3) == [(a, 1, 3)], "ids of one part are one piece"
    with explains("a piece ends where its part ends, and the next one starts at 0 in its part"):
        assert joined.spans(4, 5) == [(a, 4, 1), (b, 0, 2), (c, 0, 2)], (
            "after the first piece, a piece starts at 0 in its part")
    assert joined.spans(5, 2) == [(b, 0, 2)], "the id at the end of a part is not in that part"
    assert joined.spans(0, 12) == [(a, 0, 5), (b, 0, 2), (c, 0, 5)]
    assert joined.spans(3, 0) == joined.spans(12, 0) == [], "no ids, no pieces"
    for start in range(12):
        for n in range(12 - start + 1):
            spans = joined.spans(start, n)
            found = [i for ids, offset, k in spans for i in ids[offset:offset + k].tolist()]
            assert found == list(range(start, start + n)), f"pieces({start}, {n}) are {found}"
            assert all(0 < k <= len(ids) - offset for ids, offset, k in spans), (
                f"pieces({start}, {n}): a piece is empty, or longer than its part")
    for start, n in ((0, 13), (12, 1), (-1, 2)):
        with pytest.raises(ValueError, match="12"):
            joined.spans(start, n)


def test_joined_reads_like_one():
    joined, whole = three(), Ids(np.arange(12), None, np.array([1] * 5 + [0] + [1] * 6))
    assert len(joined) == 12
    for start in range(12):
        for n in range(12 - start + 1):
            assert joined.read(start, n).tolist() == whole.read(start, n).tolist()
            assert joined.labels(start, n).tolist() == whole.labels(start, n).tolist()
            assert joined.read(start, n).dtype == joined.labels(start, n).dtype == np.int64
        assert joined[start:start + 5].tolist() == whole[start:start + 5].tolist(), (
            "a slice ends where the ids end")
    assert joined.counts(15).tolist() == [1] * 12 + [0] * 3
    with pytest.raises(ValueError, match="are not among 12"):
        joined.read(0, 13)


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


def test_mixture(source, tmp_path):
    tokenizer = Tokenizer.train(["the cat sat on the mat\n"], 280)
    for name in ("a", "b"):
        write_folder(source, tokenizer, tmp_path / name)
    write_folder(source, Tokenizer.train(["xyz"], 270), tmp_path / "other")
    a, b, other = (Dataset(tmp_path / name) for name in ("a", "b", "other"))
    mixture = Mixture([(3, a), (1.0, b)])
    assert [share for share, _ in mixture.parts] == [0.75, 0.25]
    assert mixture.val.read(0, len(mixture.val)).tolist() == 2 * a.val.read(0, len(a.val)).tolist()
    assert mixture.index["val"]["zlib"] == 2 * a.index["val"]["zlib"]
    assert mixture.hash != Mixture([(1, a), (1, b)]).hash
    for name, bits in baselines(mixture).items():
        assert bits == pytest.approx(baselines(a)[name], rel=0.03), "twice the same text"
    with pytest.raises(ValueError, match=f"{tokenizer.hash}, .*other has {other.tokenizer.hash}"):
        Mixture([(1, a), (1, other)])
    again = reopen([(share, part.folder) for share, part in mixture.parts])
    assert isinstance(again, Mixture) and again.hash == mixture.hash


# ---- by name ----
def test_split_share():
    assert split_share("gsm8k:0.3") == ("gsm8k", 0.3)
    assert split_share("folder:a:2") == ("folder:a", 2.0)
    assert split_share("folder:2024") == ("folder:2024", None), "a folder's name"
    assert split_share("prepared:2024") == ("prepared:2024", None)
    assert split_share("jsonl:x,language=go:.5") == ("jsonl:x,language=go", 0.5)
    with pytest.raises(ValueError, match="share of gsm8k is 0"):
        split_share("gsm8k:0")


def test_options_make_other_data(tmp_path):
    words = " ".join(map(chr, range(1040, 1100)))  # so that the rules find it long enough
    rows = [json.dumps({"text": f"a{i} " + words[i:], "other": f"b{i} " + words[i:]})
            for i in range(90)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    name, folders = f"jsonl:{tmp_path / 'a.jsonl'}", set()
    for options in ("", ",field=other", ",near=2,min_bytes=9", ",field=other,near=2,min_bytes=9"):
        data = prepare([name + options], 280, tmp_path / "data", say=quiet)
        folders.add(data.folder)
        text = data.tokenizer.decode(data.train.read(1, 3))
        assert ("b" in text) == ("other" in options), text
    assert len(folders) == 4
    with pytest.raises(ValueError, match="takes field, links, val; not nonsense"):
        prepare([f"{name},nonsense=1"], 280, tmp_path / "data")


def test_pattern(source, tmp_path):
    """A source may say how a tokenizer trained on it cuts texts, which makes other data."""
    plain, ours = (prepare([source.name + more], 300, tmp_path / "data", say=quiet)
                   for more in ("", ",pattern=go"))
    assert ours.tokenizer.pattern == PATTERNS["go"] != plain.tokenizer.pattern == PATTERNS["gpt4"]
    assert ours.folder != plain.folder
    with pytest.raises(ValueError, match="a tokenizer has one pattern, not go and gpt2"):
        prepare([f"{source.name},pattern=go", f"{source.name},pattern=gpt2"], 300,
                tmp_path / "data", say=quiet)
    with pytest.raises(ValueError, match="pattern is 'rust', but must be gpt2, gpt4, "):
        open_name(f"{source.name},pattern=rust")


def test_fim_is_for_training_only(source, tmp_path):
    data = prepare([f"{source.name},fim=1"], 290, tmp_path / "data", say=quiet)
    middle = data.tokenizer.special[MIDDLE]
    train, val = (ids.read(0, len(ids)).tolist() for ids in (data.train, data.val))
    assert train.count(middle) == data.index["train"]["documents"] and middle not in val
    plain = prepare([source.name], 290, tmp_path / "data", say=quiet)
    assert MIDDLE not in plain.tokenizer.special and plain.folder != data.folder
    half = prepare([f"{source.name},fim=0.5"], 290, tmp_path / "data", say=quiet)
    assert half.folder != data.folder
    assert prepare([f"{source.name},fim=0"], 290, tmp_path / "data", say=quiet).hash == plain.hash
    with pytest.raises(ValueError, match="has no <.fim_prefix.>, which fill-in-the-middle needs"):
        prepare([f"{source.name},fim=0.5"], None, tmp_path / "data", plain.tokenizer)
    for wrong in ("2", "-1", "half"):
        with pytest.raises(ValueError, match="fim is"):
            open_name(f"{source.name},fim={wrong}")


def test_loss_on_all_of_a_conversation(source, chats, tmp_path):
    """Its mask is 1 everywhere, and what is counted in bytes is what bits per byte divides by."""
    made = {loss: prepare([chats.name + loss], 290, tmp_path / "data", say=quiet)
            for loss in ("", ",loss=answers", ",loss=all")}
    assert made[""].folder == made[",loss=answers"].folder != made[",loss=all"].folder
    for loss, text in (("", "sat"), (",loss=all", "the cat 12sat")):
        data = made[loss]
        sizes = token_bytes(data.tokenizer)
        for split, ids in (("train", data.train), ("val", data.val)):
            labels, entry = ids.labels(0, len(ids)), data.index[split]
            assert (labels >= 0).all() == bool(loss) and ids.mask is not None
            assert sizes[labels[labels >= 0]].sum() == entry["bytes"]
            assert entry["bytes"] == pytest.approx(len(text) * entry["documents"], rel=0.05)
        assert 0 < baselines(data)["unigram"] < 8
    assert made[",loss=all"].index["val"]["zlib"] > made[""].index["val"]["zlib"]
    texts = [prepare([source.name + loss], 290, tmp_path / "data", say=quiet)
             for loss in ("", ",loss=all")]
    assert texts[0].train[:].tolist() == texts[1].train[:].tolist(), "of texts all is learned"
    mixed = [(share, one.train) for share, one in prepare(
        [f"{chats.name},loss=all:0.3", f"{source.name}:0.7"], 290, tmp_path / "data",
        say=quiet).parts]
    assert mixed[0][0] == 0.3 and mixed[0][1].mask.all()
    for wrong in ("none", "", "All"):
        with pytest.raises(ValueError, match=f"loss is '{wrong}', but must be answers or all"):
            open_name(f"{chats.name},loss={wrong}")


def test_prepare_a_mixture(source, chats, tmp_path):
    names = [f"{source.name}:0.7", f"{chats.name}:0.3"]
    mixture = prepare(names, 290, tmp_path / "data", say=quiet)
    assert [share for share, _ in mixture.parts] == [0.7, 0.3]
    assert len({data.tokenizer.hash for _, data in mixture.parts}) == 1
    said = []
    again = prepare(names, 290, tmp_path / "data", say=said.append)
    assert again.hash == mixture.hash and all("made earlier" in line for line in said)
    first = mixture.parts[0][1].folder
    more = prepare([f"prepared:{first}", chats.name], None, tmp_path / "data", say=quiet)
    assert more.tokenizer.hash == mixture.tokenizer.hash
    assert [share for share, _ in more.parts] == [0.5, 0.5], "without shares, equal parts"
    with pytest.raises(ValueError, match="some have shares"):
        prepare([names[0], chats.name], 290, tmp_path / "data")
    inputs, targets = next(make_batches(mixture, 10, 16))
    assert inputs.shape == (10, 16) and (targets == -1).any(), "a part of each row is the user's"


@pytest.mark.parametrize("workers", [1, 2])
def test_json_lines_of_any_form(tmp_path, workers):
    """By every door: other fields, blank lines, half a surrogate pair."""
    rows = [{"content": f"row {i}", "stars": i} for i in range(60)]
    lines = [*map(json.dumps, rows), "", '{"text": "half \\ud83d pair"}',
             json.dumps({"messages": CHAT})]
    (tmp_path / "a.jsonl").write_text("\n".join(lines * 2))
    name = f"jsonl:{tmp_path / 'a.jsonl'}"
    data = prepare([name], 280, tmp_path / "data", None, workers == 1, workers, quiet)
    found = [data.tokenizer.decode(part[:]) for part in (data.train, data.val)]
    assert sum(text.count("<|bos|>") for text in found) == 2 * 62
    assert any("half \ufffd pair" in text for text in found)
    assert any("<|assistant_start|>sat<|assistant_end|>" in text for text in found)
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"nothing": 1}\n')
    with pytest.raises(ValueError, match="a.jsonl, line 2, has no text under"):
        prepare([name], 280, tmp_path / "data", None, workers == 1, workers, quiet)


def test_prepared_data_is_read_by_name(source, tmp_path):
    first = prepare([source.name], 270, tmp_path / "data", say=quiet)
    name = f"prepared:{first.folder}"
    for vocab_size in (None, first.tokenizer.vocab_size):
        assert prepare([name], vocab_size).index == first.index
    assert prepare([name], tokenizer=first.tokenizer).hash == first.hash
    with pytest.raises(ValueError, match=f"vocab_size is 999, .*{first.tokenizer.vocab_size}"):
        prepare([name], 999)
    with pytest.raises(ValueError, match="has a tokenizer of its own"):
        prepare([name], tokenizer=Tokenizer([]))
    with pytest.raises(ValueError, match="takes no options"):
        prepare([f"{name},fim=0.5"])
    with pytest.raises(ValueError, match="nowhere is not a folder of prepared data"):
        prepare(["prepared:nowhere"])
    other = prepare([source.name], 280, tmp_path / "data", say=quiet)
    with pytest.raises(ValueError, match="has a tokenizer of its own"):
        prepare([name, f"prepared:{other.folder}"])


def test_prepared_data_of_another_program(source, tmp_path):
    """Checksums that fit don't help where another program has written the folder."""
    folder = prepare([source.name], 270, tmp_path / "data", say=quiet).folder
    index = json.loads((folder / "index.json").read_text())
    del index["hash"]

    def refused(said):
        (folder / "index.json").write_text(json.dumps(index | {"hash": hash_of(index)}))
        with pytest.raises(ValueError, match=said):
            prepare([f"prepared:{folder}"])

    for values in (np.zeros(index["val"]["tokens"], np.float32), np.zeros((2, 3), np.uint16)):
        np.save(folder / "val.npy", values)
        index["val"]["sha256"]["val.npy"] = file_hash(folder / "val.npy")
        refused("the arrays of val in prepared:.* are not those")
    index["val"]["sha256"] = {}
    refused("the arrays of val in prepared:.* are not those")
    for key in ("documents", "tokens"):
        for value in (0, None):
            index["val"][key], kept = value, index["val"][key]
            refused("the arrays of val in prepared:.* are not those")
            index["val"][key] = kept
    small = Tokenizer([], special_tokens=["<|bos|>"])
    small.save(folder / "tokenizer.json")
    index["tokenizer"] = small.hash
    refused("holds id 261, but its tokenizer has 257 ids")


def test_the_tokenizer_never_sees_validation_text(tmp_path):
    (tmp_path / "one").write_text("ab " * 300 + "yz " * 30)
    for by_hand in (False, True):
        data = prepare_any([f"folder:{tmp_path / 'one'}"], 280, tmp_path / f"{by_hand}", None,
                           by_hand, 2, quiet)
        assert any(b"ab" in token for token in data.tokenizer.vocab)
        assert not any(b"yz" in token for token in data.tokenizer.vocab)


def test_a_plain_mixture_needs_no_filters():
    """What cleans, rearranges and compares documents is loaded only where options ask for it."""
    program = (f"import sys; sys.path[:0] = {[p for p in sys.path if p]!r}; import mixtures; "
               "print(*{'clean', 'filters', 'duplicates', 'fim', 'batches'} & {*sys.modules})")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stdout + done.stderr
