"""Tests of formats.py: the same ids there and here, and what can't be expressed is refused."""

import base64
import inspect
import json
import random
import re

import pytest

from bpe import Tokenizer
from fast import FastTokenizer
from formats import (byte_letters, compare, from_vocabulary, load, main, read_gpt2,
                     read_huggingface, read_tiktoken, recover_merges, strange_token,
                     write_huggingface, write_tiktoken)
from mapped import MappedTokenizer
from pieces import PATTERNS

TEXTS = ["the cat sat on the mat; the cat's hat isn't flat\n\n", "aaaa aaa aaaaaaa " * 3,
         "def f(x):\n    return x + 1\n" * 3, "naïve café 東京 🙂🙂 123456 \t\r\n  x"]
ORACLE = "an oracle of tests/requirements.txt"


def trained(pattern="gpt4", **how):
    mapped = isinstance(pattern, list) or isinstance(how.get("special_tokens"), dict)
    return (MappedTokenizer if mapped else FastTokenizer).train(TEXTS, 340, pattern, **how)


def samples(random_text, seed=1):
    rng = random.Random(seed)
    return TEXTS + [random_text(rng, rng.randint(1, 150), assigned=True) for _ in range(150)]


def same_ids(ours, encode, random_text):
    for text in samples(random_text):
        assert ours.encode(text) == list(encode(text)), f"seed 1: {text!r}"


def test_byte_letters():
    letters = byte_letters()
    assert len(set(letters.values())) == 256 and list(letters) == list(range(256))
    assert letters[ord("a")] == "a" and letters[32] == "Ġ" and letters[10] == "Ċ"
    assert letters[0xAD] == "\u0143", "the soft hyphen is the last of those that can't be seen"


def test_byte_letters_are_those_of_tokenizers():
    pre_tokenizers = pytest.importorskip("tokenizers", reason=ORACLE).pre_tokenizers
    assert set(byte_letters().values()) == set(pre_tokenizers.ByteLevel.alphabet())
    for byte, letter in byte_letters().items():
        text = chr(byte) if byte < 128 else None
        if text and text.isprintable() and text != " ":
            assert letter == text


def test_recover_merges():
    tokenizer = trained()
    tokens = [tokenizer.vocab[i] for i in range(256, 256 + len(tokenizer.merges))]
    assert recover_merges(tokens) == tokenizer.merges
    with pytest.raises(ValueError, match="abc"):
        recover_merges([b"abc", b"ab"])


def test_strange_token():
    assert strange_token(trained()) is None
    merges = [(98, 99), (97, 98), (257, 99)]  # bc, ab, abc: but "abc" becomes a bc
    assert strange_token(Tokenizer(merges)) == b"abc"


# ---- Hugging Face ----
@pytest.mark.parametrize("pattern", [*PATTERNS, r"\p{L}+|\s", [r"\p{N}|\P{N}+", PATTERNS["gpt2"]]],
                         ids=str)
def test_export_to_huggingface(pattern, tmp_path, random_text):
    theirs = pytest.importorskip("tokenizers", reason=ORACLE)
    special = {"[PAD]": 0, "<|bos|>": 339, "<|b|>": 7}
    ours = trained(pattern, special_tokens=special)
    write_huggingface(ours, tmp_path / "tokenizer.json")
    theirs = theirs.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert max(theirs.get_vocab().values()) + 1 == ours.vocab_size
    same_ids(ours, lambda text: theirs.encode(text).ids, random_text)
    text = "<|bos|>hi[PAD]<|b|> there"
    ids = theirs.encode(text).ids
    assert ids == ours.encode(text, "all") and theirs.decode(ids, skip_special_tokens=False) == text

    again = read_huggingface(tmp_path / "tokenizer.json")
    assert again.special == ours.special and again.merges == ours.merges
    same_ids(again, ours.encode, random_text)


def test_export_is_read_by_transformers(tmp_path):
    transformers = pytest.importorskip("transformers", reason=ORACLE)
    ours = trained()
    write_huggingface(ours, tmp_path / "tokenizer.json")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert theirs.encode(TEXTS[3]) == ours.encode(TEXTS[3])
    assert theirs.decode(ours.encode(TEXTS[3])) == TEXTS[3]


def test_export_with_a_beginning(tmp_path):
    """bos stands before every text there; the file is read again as if it were not."""
    theirs = pytest.importorskip("tokenizers", reason=ORACLE)
    ours, path = trained(), tmp_path / "tokenizer.json"
    write_huggingface(ours, path, bos="<|bos|>")
    tokenizer, bos = theirs.Tokenizer.from_file(str(path)), ours.special["<|bos|>"]
    for text in (*TEXTS, "", "<|bos|>"):
        assert tokenizer.encode(text).ids == [bos, *ours.encode(text, "all")]
    pair = tokenizer.encode("a", "b")
    assert pair.ids == [bos, *ours.encode("a"), bos, *ours.encode("b")]
    assert pair.type_ids == [0, 0, 1, 1]
    assert tokenizer.encode("a", add_special_tokens=False).ids == ours.encode("a")
    assert load(path).hash == ours.hash
    with pytest.raises(ValueError, match="can begin with 'the'.*<.bos.>"):
        write_huggingface(ours, path, bos="the")


def test_import_of_what_tokenizers_trained(tmp_path, random_text):
    """Their own training, with too few letters: bytes that it never saw are left out."""
    theirs = pytest.importorskip("tokenizers", reason=ORACLE)
    pre = theirs.pre_tokenizers
    for digits in (True, False):
        tokenizer = theirs.Tokenizer(theirs.models.BPE())
        tokenizer.pre_tokenizer = pre.Sequence([pre.Digits(individual_digits=digits),
                                                pre.ByteLevel(add_prefix_space=False)])
        tokenizer.train_from_iterator(TEXTS, theirs.trainers.BpeTrainer(
            vocab_size=300, special_tokens=["<|end|>", "<x>"], show_progress=False))
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        ours = load(tmp_path)
        assert None in ours.ids and ours.special == {"<|end|>": 0, "<x>": 1}
        same_ids(ours, lambda text: tokenizer.encode(text).ids, random_text)
        ours.save(tmp_path / "ours.json")
        assert Tokenizer.load(tmp_path / "ours.json").ids == ours.ids


def huggingface(tmp_path, change=lambda content: None):
    path = tmp_path / "tokenizer.json"
    write_huggingface(trained("gpt4"), path)
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_import_with_several_merges_for_a_token(tmp_path, random_text):
    """As converted from tiktoken (Llama 3): every way of making a token is listed."""
    theirs = pytest.importorskip("tokenizers", reason=ORACLE)

    def list_every_way(content):
        vocabulary, model = content["model"]["vocab"], content["model"]
        model["merges"] = [[token[:i], token[i:]] for token in vocabulary
                           for i in range(1, len(token)) if not token.startswith("<|")
                           and token[:i] in vocabulary and token[i:] in vocabulary]
        model["ignore_merges"] = True

    path = huggingface(tmp_path, list_every_way)
    ours = load(path)
    assert len(json.loads(path.read_text())["model"]["merges"]) > len(ours.merges)
    same_ids(ours, lambda text: theirs.Tokenizer.from_file(str(path)).encode(text).ids, random_text)


def test_import_with_an_unknown_split(tmp_path, random_text):
    """What the pattern skips is one piece there, however long."""
    theirs = pytest.importorskip("tokenizers", reason=ORACLE)
    path = huggingface(tmp_path, lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(
        pattern={"Regex": r"\p{L}+"}))
    same_ids(load(path), lambda text: theirs.Tokenizer.from_file(str(path)).encode(text).ids,
             random_text)


@pytest.mark.parametrize("what, change", [
    ("normalizer NFC", lambda c: c.update(normalizer={"type": "NFC"})),
    ("type WordPiece", lambda c: c["model"].update(type="WordPiece")),
    ("byte_fallback", lambda c: c["model"].update(byte_fallback=True)),
    ("dropout", lambda c: c["model"].update(dropout=0.1)),
    ("lstrip", lambda c: c["added_tokens"][0].update(lstrip=True)),
    ("pre-tokenizer Metaspace", lambda c: c.update(pre_tokenizer={"type": "Metaspace"})),
    ("no ByteLevel", lambda c: c["pre_tokenizer"]["pretokenizers"].pop()),
    ("prefix space", lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(
        add_prefix_space=True)),
    ("MergedWithPrevious", lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(
        behavior="MergedWithPrevious")),
    ("truncation", lambda c: c.update(truncation={"max_length": 3})),
    ("ByteLevel", lambda c: c["pre_tokenizer"]["pretokenizers"].append({"type": "ByteLevel"})),
    ("normalized", lambda c: c["added_tokens"][0].update(normalized=True)),
    ("single_word", lambda c: c["added_tokens"][0].update(special=False, single_word=True)),
    ("rstrip", lambda c: c["added_tokens"][0].update(special=False, rstrip=True)),
    ("other than true", lambda c: c["added_tokens"][0].update(special="no")),
    ("'at' is None", lambda c: c["model"]["vocab"].update(at=None)),
    ("'a' is None", lambda c: c["model"]["vocab"].update(a=None)),
    ("'at' is 300.0", lambda c: c["model"]["vocab"].update(at=300.0)),
    ("'at' is True", lambda c: c["model"]["vocab"].update(at=True)),
    ("'at' is nan", lambda c: c["model"]["vocab"].update(at=float("nan"))),
    ("'at' is -1", lambda c: c["model"]["vocab"].update(at=-1)),
    ("'at' is '3'", lambda c: c["model"]["vocab"].update(at="3")),
    ("differ", lambda c: c["model"]["vocab"].update(at=3)),
    ("far beyond", lambda c: c["model"]["vocab"].update(at=10**15)),
    ("is a list|names with their ids", lambda c: c["model"].update(vocab=[])),
    ("not a pair", lambda c: c["model"]["merges"].append(["a", "b", "c"])),
    ("not a pair", lambda c: c["model"]["merges"].append(["a", 3])),
    ("not a pair", lambda c: c["model"]["merges"].append("a")),
    ("not a list|not iter", lambda c: c["model"].update(merges=3)),
    ("twice", lambda c: c["added_tokens"].append(c["added_tokens"][0])),
    ("not a regular|differently", lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(
        pattern={"Regex": "(?:" * 5000 + "a" + ")" * 5000})),
    (r"Meta\\x1b\[2J", lambda c: c.update(pre_tokenizer={"type": "Meta\x1b[2J"})),
    ("it would not get", lambda c: c["added_tokens"][0].update(id=3)),
    ("it would not get", lambda c: c["added_tokens"].append(
        dict(c["added_tokens"][0], content="new", id=5000))),
    ("piece of text", lambda c: c["added_tokens"].append(
        dict(c["added_tokens"][0], content="at", id=c["model"]["vocab"]["at"]))),
    ("not in order", lambda c: c["model"].update(
        merges=[["a", "b"], ["b", "c"], ["a", "bc"], ["c", "d"], ["ab", "c"]],
        vocab=c["model"]["vocab"] | {"ab": 900, "bc": 901, "abc": 902, "cd": 903})),
    ("engines read differently", lambda c: c["pre_tokenizer"]["pretokenizers"][0].update(
        pattern={"Regex": r"\p{L}++"})),
    ("not there", lambda c: c["model"]["merges"].append(["q", "§"])),
    ("nor is it a special one", lambda c: c["model"]["vocab"].update(unheard=999)),
    ("it has no 'merges'", lambda c: c["model"].pop("merges")),
])
def test_what_huggingface_can_say_and_we_cannot(what, change, tmp_path):
    with pytest.raises(ValueError, match=what) as error:
        load(huggingface(tmp_path, change))
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).isprintable() and len(str(error.value)) <= 1000


# ---- tiktoken ----
def test_a_pointer_to_ranks(tmp_path):
    path = tmp_path / "cl100k_base.tiktoken"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match="base.tiktoken is a Git LFS pointer, not the file: run"):
        load(path)


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\p{L}+"])
def test_export_to_tiktoken(pattern, tmp_path, random_text):
    tiktoken = pytest.importorskip("tiktoken", reason=ORACLE)
    ours = trained(pattern, special_tokens={"<|end|>": 3})
    path = tmp_path / "ours.tiktoken"
    pat_str = write_tiktoken(ours, path)
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1])
             for line in path.read_bytes().splitlines()}
    theirs = tiktoken.Encoding("ours", pat_str=pat_str, mergeable_ranks=ranks,
                               special_tokens=ours.special)
    same_ids(ours, theirs.encode_ordinary, random_text)
    again = read_tiktoken(path, pattern, ours.special)
    assert again.hash == ours.hash
    with pytest.raises(ValueError, match="pattern"):
        load(path)


def test_patterns_are_those_of_tiktoken(random_text):
    public = pytest.importorskip("tiktoken_ext.openai_public", reason=ORACLE)
    tiktoken = pytest.importorskip("tiktoken", reason=ORACLE)
    cl100k = re.search(r'"pat_str": r"""(.*?)"""', inspect.getsource(public.cl100k_base))
    o200k = re.findall(r'r"""(.*?)"""', inspect.getsource(public.o200k_base))
    theirs = {"gpt2": public.r50k_pat_str, "gpt4": cl100k[1], "o200k": "|".join(o200k)}
    for name, pattern in theirs.items():
        ours = trained(name, special_tokens=())
        encoding = tiktoken.Encoding(name, pat_str=pattern, special_tokens={}, mergeable_ranks={
            token: i for i, token in enumerate(ours.vocab)})
        same_ids(ours, encoding.encode_ordinary, random_text)


def test_what_ranks_cannot_say(tmp_path):
    path = tmp_path / "x.tiktoken"
    every_byte = list(range(256))
    for what, tokenizer in {
            "in turn": MappedTokenizer([], ["a+", "b+"], {}),
            "0x07": MappedTokenizer([], "gpt2", {}, [None if b == 7 else b for b in every_byte]),
            "order": MappedTokenizer([(97, 98), (98, 99)], "gpt2", {}, every_byte + [300, 299]),
            "b'abc'": Tokenizer([(98, 99), (97, 98), (257, 99)], "gpt2", ()),
            "engines": Tokenizer([], r"a+$", ())}.items():
        with pytest.raises(ValueError, match=what):
            write_tiktoken(tokenizer, path)
    assert not path.exists()
    with pytest.raises(ValueError, match="both be written"):
        write_huggingface(MappedTokenizer([], "gpt2", {"a": 300}), path)


def test_damaged_ranks(tmp_path):
    path = tmp_path / "x.tiktoken"
    good = b"".join(base64.b64encode(bytes([b])) + b" %d\n" % b for b in range(256))
    path.write_bytes(good)
    assert load(path, "gpt4").vocab_size == 256
    for wrong in (b"YWI=", b"YWI= 256 3", b"YWI= 2.5", b"YWI= -1", b"YW\x1b= 256", b"YWI= 1_0",
                  b"YQ== 256", b"YWJj 300", b"YWI= 99999999", b"YWI= " + b"9" * 5000, b"\xff\xff"):
        path.write_bytes(good + wrong)
        with pytest.raises(ValueError, match="x.tiktoken") as error:
            load(path, "gpt4")
        assert str(error.value).isprintable()


# ---- GPT-2 ----
def test_read_gpt2(tmp_path, random_text):
    """The two files, written from a tokenizer whose bytes are numbered as GPT-2's are."""
    tokenizer = trained("gpt2", special_tokens=())
    letters = byte_letters()
    order = sorted(letters, key=letters.get)
    tokens = [letters[b] for b in order] + ["".join(letters[b] for b in t)
                                            for t in tokenizer.vocab[256:]]
    vocabulary = {token: i for i, token in enumerate(tokens)} | {"<|endoftext|>": len(tokens)}
    merges = [[tokens[order.index(x) if x < 256 else x] for x in pair] for pair in tokenizer.merges]
    for names in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
        (tmp_path / names[0]).write_text(json.dumps(vocabulary))
        lines = ["#version: 0.2", *map(" ".join, merges), ""]
        (tmp_path / names[1]).write_text("\n".join(lines), encoding="utf-8")
        ours = read_gpt2(*(tmp_path / name for name in names))
        assert load(tmp_path, "gpt2").hash == load(tmp_path / names[0], "gpt2").hash == ours.hash
        assert ours.encode("!<|endoftext|>", "all") == [0, len(tokens)]
        ids = {i: vocabulary[tokens[order.index(i) if i < 256 else i]] for i in range(len(tokens))}
        same_ids(ours, lambda text: [ids[i] for i in tokenizer.encode(text)], random_text)
        for wrong in ("[]", '{"a": null}', '{"a": 1.5}', "[" * 100_000, '"', "null"):
            (tmp_path / names[0]).write_text(wrong)
            with pytest.raises(ValueError, match=names[0]):
                load(tmp_path, "gpt2")
        (tmp_path / names[0]).write_text("\ufeff" + json.dumps(vocabulary), encoding="utf-8")
        assert load(tmp_path, "gpt2").hash == ours.hash, "with a byte-order mark"
        (tmp_path / names[1]).write_text("a b c\n")
        with pytest.raises(ValueError, match="not a pair"):
            load(tmp_path, "gpt2")
        (tmp_path / "added_tokens.json").write_text('{"<tool_call>": 3}')
        with pytest.raises(ValueError, match="added_tokens.json holds more tokens"):
            load(tmp_path, "gpt2")
        for name in (*names, "added_tokens.json"):
            (tmp_path / name).unlink()


def test_from_vocabulary_by_hand():
    vocabulary = {"a": 5, "b": 3, "ab": 9, "Ġ": 0}
    tokenizer = from_vocabulary(vocabulary, [["a", "b"]], "gpt2", {"<x>": 2})
    assert tokenizer.encode("ab ba") == [9, 0, 3, 5] and tokenizer.decode([9, 2, 0]) == "ab<x> "


# ---- the command line ----
def test_compare():
    with pytest.raises(ValueError, match="several texts"):
        compare("ab ab", Tokenizer([]))
    for kind in (Tokenizer, FastTokenizer, MappedTokenizer):
        density, words, single = compare(["ab ab"], kind([(97, 98)], "gpt2", ()))
        assert (density, words, single) == (5 / 3, 3 / 2, 1 / 5), "three ids: ab, a space, ab"


def test_a_plain_tokenizer_is_written_as_a_fast_one(tmp_path):
    for pattern in ("gpt2", "gpt4"):
        plain, fast = Tokenizer.train(TEXTS, 340, pattern), FastTokenizer.train(TEXTS, 340, pattern)
        for write, end in ((write_huggingface, "json"), (write_tiktoken, "tiktoken")):
            write(plain, tmp_path / f"plain.{end}")
            write(fast, tmp_path / f"fast.{end}")
            written = [(tmp_path / f"{name}.{end}").read_bytes() for name in ("plain", "fast")]
            assert written[0] == written[1]


def test_command_line(tmp_path, capsys, fails, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours = trained()
    ours.save("tokenizer.json")
    for name in ("hf.json", "ours.tiktoken"):
        main(["export", name])
        assert ("pat_str" in capsys.readouterr().out) == (name == "ours.tiktoken")
        main(["import", name, "--tokenizer", "again.json",
              *(["--pattern", "gpt4"] if name == "ours.tiktoken" else [])])
        assert Tokenizer.load("again.json").encode(TEXTS[0]) == ours.encode(TEXTS[0])
    capsys.readouterr()
    (tmp_path / "text").write_text(TEXTS[0])
    main(["compare", "text", "--tokenizer", "tokenizer.json", "--tokenizer", "hf.json"])
    header, *rows = capsys.readouterr().out.splitlines()
    assert "bytes/token" in header and len(rows) == 2 and rows[0].split()[1:] == rows[1].split()[1:]

    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "bad.tiktoken").write_text("not base64!")
    assert "none of" in fails(main, "import", "empty")
    assert "neither" in fails(main, "import", "bad.json")
    assert "bad.tiktoken" in fails(main, "import", "bad.tiktoken", "--pattern", "gpt4")
    assert "no pattern" in fails(main, "import", "bad.tiktoken")
    assert "no such file" in fails(main, "import", "nowhere.json")
    assert "overwrite itself" in fails(main, "export", "tokenizer.json")
    assert "of its own" in fails(main, "import", "hf.json", "--pattern", "gpt4")
    (tmp_path / "vocab.json").write_text("{}")
    assert "no pattern" in fails(main, "import", "vocab.json")
    assert "ends in .json" in fails(main, "export", "tokenizer.txt")
    (tmp_path / "text").write_text("")
    assert "no words" in fails(main, "compare", "text", "--tokenizer", "tokenizer.json")


def test_merges_of_a_byte_without_an_id(tmp_path):
    ids = [None if byte == 97 else byte for byte in range(257)]
    tokenizer = MappedTokenizer([(97, 98)], "gpt2", (), ids)
    with pytest.raises(ValueError, match="the merges need the byte 97, which has no id"):
        write_huggingface(tokenizer, tmp_path / "t.json")
