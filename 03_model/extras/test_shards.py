"""Tests of shards.py: what is damaged or made to do harm is refused in one line, at once."""

import json
import time
from pathlib import Path

import pytest
import torch

from bpe import Tokenizer
from family import FAMILIES, model_config
from gpt import make_model
from shards import read_json, read_tensors
from weights import export, open_folder, open_tokenizer

SMALL = dict(vocab_size=301, seq_len=48, n_layer=2, n_head=6, n_kv_head=6, d_model=36, d_ff=52)
KINDS = {"llama": FAMILIES["llama"], "gpt2": FAMILIES["gpt2"], "nanochat": {}}
Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def safetensors():
    return pytest.importorskip("safetensors.torch", reason="what a Hugging Face folder needs")


@pytest.fixture
def model(tmp_path, safetensors):
    """A function that writes a small model into a folder."""
    def write(kind="llama", name="model"):
        model = make_model(model_config(**SMALL | KINDS[kind]))
        export(model, Tokenizer([]), tmp_path / name)
        return tmp_path / name
    return write


def complaint(function, *arguments):
    """The one line with which it ends, soon."""
    start = time.perf_counter()
    with pytest.raises(ValueError) as error:
        function(*arguments)
    message = str(error.value)
    assert message.isprintable() and len(message) < 1000, message
    assert time.perf_counter() - start < 1
    return message


def open_weights(path):
    return read_tensors(path.parent)


def write(path, header, data=b"\0" * 64, length=None):
    """A file in safetensors' form: bytes of a header, and of tensors."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(header) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + header + data)


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


A = json.dumps(entry([4], 0, 16)).encode()


@pytest.mark.parametrize("what, header, data, length", [
    ("overlap", {"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, 24, None),
    ("twice the same bytes", {"a": entry([4], 0, 16), "b": entry([4], 0, 16)}, 16, None),
    ("a gap", {"a": entry([4], 0, 16), "b": entry([4], 20, 36)}, 36, None),
    ("more data than tensors", {"a": entry([4], 0, 16)}, 64, None),
    ("less data", {"a": entry([8], 0, 32)}, 16, None),
    ("an unknown type", {"a": entry([4], 0, 16, "F99")}, 16, None),
    ("another shape", {"a": entry([5], 0, 16)}, 16, None),
    ("a huge shape", {"a": entry([2**62, 8], 0, 16)}, 16, None),
    ("no shape", {"a": entry([4.0], 0, 16)}, 16, None),
    ("no JSON", b"xxxx", 16, None), ("a list", b"[]", 0, None),
    ("deep JSON", b"[" * 100_000, 16, None), ("deep objects", b'{"a":' * 100_000, 16, None),
    ("NaN", A.replace(b"[4]", b"[NaN]").join((b'{"a":', b"}")), 16, None),
    ("one name twice", b'{"a":%s,"a":%s}' % (A, A.replace(b"[4]", b"[2, 2]")), 16, None),
    ("a name of control characters", {"\x1b[31m\n": entry([5], 0, 16)}, 16, None),
    ("too long a header", b"{}", 16, 2**63), ("a longer header", b"{}", 16, 90_000_000),
    ("no header", b"", 0, None)])
def test_damaged_files(what, header, data, length, tmp_path, safetensors):
    write(tmp_path / "model.safetensors", header, b"\0" * data, length)
    assert f"{tmp_path / 'model.safetensors'}" in complaint(read_tensors, tmp_path), what


def test_files_that_are_none(tmp_path, safetensors, monkeypatch):
    (tmp_path / "model.safetensors").mkdir()
    assert "holds no model.safetensors" in complaint(read_tensors, tmp_path)
    assert "holds no model.safetensors" in complaint(read_tensors, tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    Path("m").mkdir()
    Path("m/config.json").write_text('{"model_type": "m"}')
    assert complaint(open_folder, "m").startswith("m/config.json: model_type"), "however short"
    Path("m/x\x1b[31m\n.bin").write_text("")
    assert "only a pickle, x\\x1b[31m .bin" in complaint(read_tensors, Path("m"))


def shards(folder, index, **files):
    """Shards of the tensors named, each (4,), and an index."""
    for file, names in files.items():
        write(folder / f"{file}.safetensors", {
            name: entry([4], 16 * i, 16 * i + 16) for i, name in enumerate(names)},
            b"\0" * 16 * len(names))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def test_shards_and_index_agree(tmp_path, safetensors):
    one, two = "one.safetensors", "two.safetensors"
    index = {"a": one, "b": one, "c": two}
    shards(tmp_path, index, one=["a", "b"], two=["c", "h.0.attn.bias"])
    assert sorted(read_tensors(tmp_path)) == ["a", "b", "c", "h.0.attn.bias"], (
        "a constant needs no place in the index")
    shards(tmp_path, index, one=["a", "b"], two=["c", "a"])
    assert f"{two}: a stands in another file, too" in complaint(read_tensors, tmp_path)
    shards(tmp_path, index, one=["a", "b"], two=["c", "d"])
    assert f"{two}: d is there, where the index" in complaint(read_tensors, tmp_path)
    shards(tmp_path, index, one=["a", "b", "c"], two=["c"])
    assert f"{one}: c is there, where the index" in complaint(read_tensors, tmp_path)
    shards(tmp_path, index, one=["a"], two=["c"])
    assert f"{one}: b is not there, where the index" in complaint(read_tensors, tmp_path)
    for wrong in ({"a": "../a"}, {"a": 1}, {"a": None}, {"a": ["one.safetensors"]}, [], None, "a"):
        shards(tmp_path, wrong)
        assert "index.json is damaged" in complaint(read_tensors, tmp_path)
    shards(tmp_path, {"a": "\x1b]0;x\x07.safetensors"})
    assert "which its index names" in complaint(read_tensors, tmp_path)


@pytest.mark.parametrize("name, read", [
    ("config.json", lambda path: read_json(path)), ("model.safetensors", open_weights),
    ("model.safetensors.index.json", open_weights)])
def test_pointers_of_a_clone_without_its_large_files(name, read, tmp_path, safetensors):
    path = tmp_path / name
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert complaint(read, path) == (
        f"{path} is a Git LFS pointer, not the file: run git lfs pull")


def test_json_that_programs_read_differently(tmp_path):
    path = tmp_path / "config.json"
    for text, what in (('{"a": NaN}', "NaN, which is no number"), ('{"a": -Infinity}', "Infinity"),
                       ('{"a": 1e999}', "1e999"), ('{"a": 1, "a": 2}', "'a' stands there twice"),
                       ("[" * 100_000, "nested too deeply"), ('{"a":' * 100_000, "too deeply"),
                       ("[]", "no JSON object"), ("null", "no JSON object"), ("", "Expecting"),
                       ('{"a": 1' + "0" * 9999 + "}", "limit")):
        path.write_text(text)
        assert what in complaint(read_json, path), text[:30]
    path.write_bytes(b"\xff\xfe{}")
    assert "config.json is not UTF-8 text (byte 0: 0xff)" in complaint(read_json, path)
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(path) == {"a": 1}, "a byte-order mark is none of the text"
    with open(path, "wb") as file:
        file.truncate(1 << 32)  # which takes no room
    assert "damaged (it has 4,294,967,296 bytes)" in complaint(read_json, path)


@pytest.mark.parametrize("kind, sizes", [
    ("llama", {"num_hidden_layers": 2**31 - 1}), ("llama", {"vocab_size": 2**31 - 1}),
    ("llama", {"hidden_size": 2**30, "num_attention_heads": 2**29, "num_key_value_heads": 1}),
    ("llama", {"intermediate_size": 2**31 - 1}), ("llama", {"num_hidden_layers": 7}),
    ("nanochat", {"num_hidden_layers": 2**31 - 1}), ("gpt2", {"n_layer": 2**31 - 1}),
    ("gpt2", {"n_positions": 2**31 - 1}), ("gpt2", {"n_inner": 2**31 - 1}),
    ("gpt2", {"n_embd": 2**31 - 4, "vocab_size": 2**31 - 1, "n_head": 2, "n_layer": 2**31 - 1})])
def test_sizes_that_the_weights_do_not_have(kind, sizes, model):
    folder = model(kind)
    settings = json.loads((folder / "config.json").read_text())
    assert not sizes.keys() - settings.keys()
    (folder / "config.json").write_text(json.dumps(settings | sizes))
    message = complaint(open_folder, folder)
    assert "more than" in message and "parameters; the weights are" in message


def test_a_window_that_nobody_has_takes_no_memory(model):
    folder = model()
    settings = json.loads((folder / "config.json").read_text())
    settings["max_position_embeddings"] = 2**31 - 1
    (folder / "config.json").write_text(json.dumps(settings))
    assert open_folder(folder)[0].config.seq_len == 2**31 - 1


def test_types_of_tensors(model, safetensors):
    folder = model()
    path = folder / "model.safetensors"
    tensors = safetensors.load_file(path)
    for dtype in (torch.float8_e4m3fn, torch.int8, torch.complex64, torch.bool):
        safetensors.save_file(tensors | {Q: tensors[Q].to(dtype)}, path)
        assert f"not floats: {Q} (36, 36)" in complaint(open_folder, folder)
    safetensors.save_file(tensors | {Q.removeprefix("model."): tensors[Q].clone()}, path)
    assert "a tensor is there twice, with and without model." in complaint(open_folder, folder)
    safetensors.save_file({name: tensor for name, tensor in tensors.items()
                           if name != "lm_head.weight"}, path)
    assert "missing: lm_head.weight" in complaint(open_folder, folder), "it is not said to be tied"


@pytest.mark.parametrize("name, value", [
    ("hidden_act", "\x1b[31m\n"), ("head_dim", "x" * 1000), ("head_dim", [6]),
    ("num_hidden_layers", "2\r"), ("rope_parameters", {"\x1b": "\n"}), ("vocab_size", 10**400),
    ("rms_norm_eps", -1), ("num_attention_heads", 0), ("tie_word_embeddings", None),
    ("model_type", ["llama"]), ("rms_norm_eps", True)])
def test_settings_of_other_kinds(name, value, model):
    folder = model()
    settings = json.loads((folder / "config.json").read_text()) | {name: value}
    (folder / "config.json").write_text(json.dumps(settings))
    assert f"{folder / 'config.json'}" in complaint(open_folder, folder)


@pytest.mark.parametrize("processor", [
    {"type": "TemplateProcessing", "single": [], "special_tokens": {}},
    {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}] * 2, "special_tokens": {}},
    {"type": "TemplateProcessing", "special_tokens": {},
     "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]},
    {"type": "BertProcessing", "cls": ["<s>", 10**9]}, {"type": "BertProcessing", "cls": 1},
    {"type": "Sequence", "processors": [{"type": "BertProcessing", "cls": ["a", 1]}] * 2},
    {"type": "Sequence"}, {"type": "\x1b[31m"}, {"type": ["x"]}, [1], "x",
    {"type": "BertProcessing", "cls": ["<s>", True]}])
def test_post_processors_that_are_refused(processor, model):
    folder = model()
    content = json.loads((folder / "tokenizer.json").read_text()) | {"post_processor": processor}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert "tokenizer.json" in complaint(open_tokenizer, folder)
