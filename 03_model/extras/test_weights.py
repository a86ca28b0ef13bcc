"""Tests of weights.py: the same logits there and here, and what can't be expressed is refused."""

import json
import os

import pytest
import torch

import weights
from bpe import Tokenizer
from conversations import end_ids
from family import FAMILIES, FamilyGPT, family_of, model_config
from gpt import GPT, GPTConfig, generate, make_model, rope_angles, rotate
from huggingface import to_huggingface
from records import library
from weights import (dictionary, divided, export, in_their_terms, main, read_model, to_ours,
                     to_theirs, turned, write_model)

ORACLE = "an oracle of tests/requirements.txt"
SMALL = dict(vocab_size=301, seq_len=48, n_layer=2, n_head=6, n_kv_head=2, d_model=36, d_ff=52)
KINDS = {
    "gpt2": FAMILIES["gpt2"] | {"n_kv_head": 6},
    "gpt2 untied": FAMILIES["gpt2"] | {"n_kv_head": 6, "tied": False, "norm_eps": 1e-3},
    "llama": FAMILIES["llama"] | {"rope_base": 500.0},
    "llama tied, biases": FAMILIES["llama"] | {"tied": True, "bias": True, "n_kv_head": 6},
    "llama multi-query": FAMILIES["llama"] | {"n_kv_head": 1, "norm_eps": 1e-2},
    "gpt.py's recipe": {},
    "modern": {"norm_eps": 1e-3},
    "modern multi-head": {"n_kv_head": 6, "softcap": 3.0, "tied": True},
    "modern multi-query": {"n_kv_head": 1, "softcap": 0.0, "rope_base": 77.0},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def randomise(model, seed=0):
    """Every parameter random, gains and biases too: zeros and ones would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def random_model(kind, **changes):
    return randomise(make_model(model_config(**SMALL | KINDS[kind] | changes)))


def random_ids(*shape, n=301):
    return torch.randint(n, shape, generator=torch.Generator().manual_seed(1))


def same_parameters(a, b):
    a, b = dict(a.named_parameters()), dict(b.named_parameters())
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


@pytest.fixture
def safetensors():
    return pytest.importorskip("safetensors.torch", reason="what a Hugging Face folder needs")


@pytest.fixture
def transformers():
    transformers = pytest.importorskip("transformers", reason=ORACLE)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.enable_propagation()
    return transformers


# ---- a tensor ----
def heads_of(n_head, n_kv_head, head_dim):
    return GPTConfig(n_head=n_head, n_kv_head=n_kv_head, d_model=n_head * head_dim)


def test_turned(explains):
    rows = torch.arange(1.0, 7.0)
    wrong = "the second half of each query's and each key's rows is negated, and of no value's"
    with explains(wrong):
        assert turned(rows, heads_of(1, 1, 2)).tolist() == [1, -2, 3, -4, 5, 6], wrong
    assert rows[1] == 2, "the rows given have changed"
    mirrored = turned(torch.arange(1.0, 17.0), heads_of(2, 1, 4)).tolist()
    assert mirrored == [1, 2, -3, -4, 5, 6, -7, -8, 9, 10, -11, -12, 13, 14, 15, 16], \
        "two queries, a key and a value, of 4 each"
    config, weight = heads_of(4, 2, 6), torch.randn(48, 24)
    assert turned(weight, config).shape == (48, 24)
    assert torch.equal(turned(weight, config)[:, 5], turned(weight[:, 5], config)), "a column"
    assert torch.equal(turned(turned(weight, config), config), weight), "the way back"


def test_turned_is_llamas_way():
    """The products of queries and keys, at all distances, by Llama's formula on its own rows."""
    config, T = heads_of(1, 1, 8), 9
    q, k = torch.randn(2, T, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cos, sin = rope_angles(torch.arange(T), 8)

    def llamas(x):
        x1, x2 = x.chunk(2, dim=-1)
        return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)

    rows = turned(torch.cat((q, k, q), dim=1).T.contiguous(), config).T  # (T, 24)
    ours = [rotate(x[None, None], cos, sin)[0, 0] for x in rows.split(8, dim=1)[:2]]
    assert torch.allclose(ours[0] @ ours[1].T, llamas(q) @ llamas(k).T)


def test_divided(explains):
    wrong = "n_head heads of queries, then n_kv_head of keys and of values, of head_dim rows each"
    with explains(wrong):
        parts = divided(torch.arange(1, 9), heads_of(2, 1, 2))
        assert [part.tolist() for part in parts] == [[1, 2, 3, 4], [5, 6], [7, 8]], wrong
    parts = divided(torch.zeros(48, 24), heads_of(4, 2, 6))
    assert [tuple(part.shape) for part in parts] == [(24, 24), (12, 24), (12, 24)]


def test_to_theirs_and_back():
    config = heads_of(4, 2, 6)
    for how in ("", "transposed", "turned", "divided", "turned, divided", "transposed, turned"):
        weight = torch.randn(48, 24)
        theirs = to_theirs(weight, how, config)
        assert len(theirs) == (3 if "divided" in how else 1)
        assert torch.equal(to_ours(theirs, how, config), weight), how


@every_kind
def test_dictionary_names_every_tensor_once(kind):
    model = random_model(kind)
    family = to_huggingface(model.config)["model_type"]
    ours, theirs = [], []
    for name, others, _ in dictionary(model, family):
        ours, theirs = ours + [name], theirs + others
    assert ours == [name for name, _ in model.named_parameters()]
    assert len(set(theirs)) == len(theirs) and not any("N" in n or "{" in n for n in theirs)
    assert list(in_their_terms(model, family)) == theirs
    assert sum(t.numel() for t in in_their_terms(model, family).values()) == sum(
        p.numel() for p in model.parameters())


# ---- in ----
def theirs(transformers, kind):
    """A random model of transformers, with odd sizes."""
    settings = to_huggingface(model_config(**SMALL | KINDS[kind]))
    config = transformers.AutoConfig.for_model(**settings)
    return randomise(transformers.AutoModelForCausalLM.from_config(config))


def agree(ours, theirs):
    ids = random_ids(3, 48)
    with torch.no_grad():
        expected = theirs(ids).logits
    assert (ours(ids) - expected).abs().max() < 1e-4
    assert expected.std() > 0.1, "these logits say nothing"


@every_kind
def test_read_what_transformers_wrote(kind, tmp_path, transformers):
    model = theirs(transformers, kind)
    model.save_pretrained(tmp_path)
    ours = read_model(tmp_path)
    assert not ours.training and ours.config == model_config(**SMALL | KINDS[kind])
    assert type(ours) is (GPT if kind == "gpt.py's recipe" else FamilyGPT)
    assert (ours.head.weight is ours.embed.weight) == family_of(ours.config).tied
    agree(ours, model)


def test_read_shards(tmp_path, transformers):
    model = theirs(transformers, "llama")
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    agree(read_model(tmp_path), model)
    lost = min(tmp_path.glob("model-*.safetensors"))
    lost.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"holds no {lost.name}, which its index names"):
        read_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../y"}}')
    with pytest.raises(ValueError, match="index.json is damaged"):
        read_model(tmp_path)


def change_tensors(safetensors, folder, change):
    tensors = safetensors.load_file(folder / "model.safetensors")
    safetensors.save_file(change(tensors), folder / "model.safetensors")


def test_old_names_constants_and_twice_stored_heads(tmp_path, safetensors):
    for kind, prefix, constants in (
            ("gpt2", "transformer.", {"h.0.attn.bias": (1, 1, 48, 48), "h.1.attn.masked_bias": ()}),
            ("llama tied, biases", "model.", {"layers.0.self_attn.rotary_emb.inv_freq": (3,)})):
        model = random_model(kind)
        write_model(model, tmp_path)

        def as_it_was(tensors):
            old = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
            old["lm_head.weight"] = model.embed.weight.detach().clone()
            return old | {name: torch.ones(shape) for name, shape in constants.items()}

        change_tensors(safetensors, tmp_path, as_it_was)
        same_parameters(read_model(tmp_path), model)
    change_tensors(safetensors, tmp_path, lambda t: t | {"lm_head.weight": 2 * t["lm_head.weight"]})
    with pytest.raises(ValueError, match=r"unexpected: lm_head.weight \(301, 36\)"):
        read_model(tmp_path)


def test_dtypes(tmp_path, safetensors):
    model = random_model("llama").to(torch.bfloat16)
    write_model(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    same_parameters(read_model(tmp_path, dtype=torch.bfloat16), model)
    again = read_model(tmp_path)
    same_parameters(again, model.float())
    assert all(p.requires_grad and p.is_leaf and p.is_contiguous() for p in again.parameters())


def test_tensors_that_do_not_fit(tmp_path, safetensors):
    write_model(random_model("llama"), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def complaint(change):
        (tmp_path / "model.safetensors").write_bytes(before)
        change_tensors(safetensors, tmp_path, change)
        with pytest.raises(ValueError) as error:
            read_model(tmp_path)
        assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
        return str(error.value)

    q = "model.layers.0.self_attn.q_proj.weight"
    assert f"missing: {q} (36, 36)" in complaint(
        lambda t: {name: x for name, x in t.items() if name != q})
    assert "unexpected: model.new (2, 3)" in complaint(lambda t: t | {"new": torch.ones(2, 3)})
    assert f"of another shape: {q} (36, 5), expected (36, 36)" in complaint(
        lambda t: t | {q: torch.ones(36, 5)})
    assert f"not floats: {q} (36, 36) int8" in complaint(lambda t: t | {q: t[q].to(torch.int8)})
    both = complaint(lambda t: {name.replace("layers", "blocks"): x for name, x in t.items()})
    assert "; unexpected: model.blocks.0" in both and both.count("and 15 more") == 2, both


def test_folders_that_cannot_be_read(tmp_path, safetensors):
    def complaint(folder=tmp_path):
        with pytest.raises(ValueError) as error:
            read_model(folder)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "holds no config.json" in complaint(tmp_path / "nowhere")
    write_model(random_model("llama"), tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = weights.read_bytes()
    for damaged in (whole[:-100], whole[:50], b"", b"\xff" * 100, b"x" + whole):
        weights.write_bytes(damaged)
        assert "model.safetensors is damaged" in complaint()
    weights.unlink()
    assert complaint().endswith("holds no model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "only a pickle, pytorch_model.bin" in complaint()
    for damaged in ("", "{", "[]", "\udcff" * 2, "[" * 100000):
        config.write_bytes(damaged.encode("utf-8", "surrogateescape"))
        what = "not UTF-8 text" if "\udcff" in damaged else "damaged"
        assert f"config.json is {what}" in complaint()
    config.write_text('{"model_type": "opt"}')
    assert "config.json: model_type is 'opt'" in complaint()


# ---- out ----
@every_kind
def test_there_and_back_bit_by_bit(kind, tmp_path, safetensors):
    model = random_model(kind)
    write_model(model, tmp_path / "a")
    again = read_model(tmp_path / "a")
    assert again.config == model.config
    same_parameters(again, model)
    write_model(again, tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    ids = random_ids(2, 20)
    assert torch.equal(again(ids), model(ids))


TEXTS = ["the cat sat on the mat; the cat's hat isn't flat .\n\n",
         "naïve café 東京 🙂🙂 12345"]


def trained():
    return Tokenizer.train(TEXTS, 301)


@every_kind
def test_transformers_reads_an_export_and_goes_on_alike(kind, tmp_path, caplog, transformers):
    model, tokenizer = random_model(kind), trained()
    export(model, tokenizer, tmp_path)
    there, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    agree(model, there)

    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    bos = tokenizer.special["<|bos|>"]
    for text in TEXTS:
        prompt = their_tokenizer(text, return_tensors="pt")
        ids = [bos, *tokenizer.encode(text)]
        assert prompt.input_ids.tolist() == [ids]
        assert their_tokenizer.decode(ids, skip_special_tokens=True) == text
    ids = [bos, *tokenizer.encode("the cat")]
    prompt = their_tokenizer("the cat", return_tensors="pt")
    written = there.generate(**prompt, max_new_tokens=30)[0].tolist()
    ours = list(ids)
    for next_ids in generate(model, [ids], 30):
        ours.append(next_ids.item())
        if ours[-1] in end_ids(tokenizer):
            break
    assert written == ours and len(ours) > len(ids) + 1
    assert their_tokenizer.decode(written) == tokenizer.decode(ours)
    assert not [r.getMessage() for r in caplog.records], "transformers has something to say"


def test_transformers_stops_where_a_text_ends(tmp_path, transformers):
    tokenizer, model = trained(), random_model("llama")
    for name in ("<|bos|>", "<|assistant_end|>"):
        with torch.no_grad():
            model.head.weight.zero_()
            last = model.hidden(torch.tensor([[tokenizer.special["<|bos|>"]]]))[0, -1]
            model.head.weight[tokenizer.special[name]] = last  # it says nothing else
        export(model, tokenizer, tmp_path)
        there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
        prompt = transformers.AutoTokenizer.from_pretrained(tmp_path)("", return_tensors="pt")
        assert there.generate(**prompt, max_new_tokens=9).tolist() == [
            [tokenizer.special["<|bos|>"], tokenizer.special[name]]]


def test_transformers_continues_a_batch(tmp_path, transformers):
    """Rows of different lengths are filled up in front, where no row looks."""
    tokenizer, model = trained(), random_model("modern")
    export(model, tokenizer, tmp_path)
    there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    prompts = transformers.AutoTokenizer.from_pretrained(tmp_path)(
        ["the", TEXTS[1]], return_tensors="pt", padding=True)
    width = prompts.input_ids.shape[1]
    written = there.generate(**prompts, max_new_tokens=5)[:, width:].tolist()
    ids = [[tokenizer.special["<|bos|>"], *tokenizer.encode(text)] for text in ("the", TEXTS[1])]
    ours = torch.stack(list(generate(model, ids, 5)), dim=1).tolist()
    assert written == ours and not end_ids(tokenizer) & set(sum(ours, []))


def test_export_without_special_tokens(tmp_path, safetensors):
    export(random_model("llama"), Tokenizer([], "gpt4", {}), tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] is None
    assert json.loads((tmp_path / "tokenizer.json").read_text())["post_processor"] is None
    with pytest.raises(ValueError, match="the tokenizer has 301 ids, the model 300"):
        export(random_model("llama", vocab_size=300), trained(), tmp_path)


def test_write_model_all_or_nothing(tmp_path, monkeypatch, safetensors):
    folder = tmp_path / "model"
    export(random_model("llama"), trained(), folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors, path, *rest):
        path.write_bytes(b"half")
        raise library("safetensors", "this test").SafetensorError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors, "save_file", full)
        with pytest.raises(OSError, match="can't be written .No space left"):
            export(random_model("modern"), trained(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(ValueError, match="holds generation_config.json, which is not of this"):
        write_model(random_model("modern"), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder], "something was left beside it"

    with pytest.raises(KeyError), weights.all_or_nothing(folder) as one:
        with weights.all_or_nothing(folder) as other:
            assert one != other, "two processes may write the same model at once"
            raise KeyError
    assert list(tmp_path.iterdir()) == [folder]

    moves = []

    def stopped(source, target):
        moves.extend([target.name] if target.parent == folder else [])
        if len(moves) == 2:
            raise OSError("pulled the plug")
        real(source, target)

    real = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(weights.os, "replace", stopped)
        with pytest.raises(OSError, match="plug"):
            export(random_model("modern"), trained(), folder)
    assert len(moves) == 2 and "config.json" not in moves
    with pytest.raises(ValueError, match="holds no config.json"):
        read_model(folder)


# ---- the command line ----
def test_command_line(tmp_path, capsys, fails, safetensors):
    write_model(random_model("llama"), tmp_path)
    main([str(tmp_path)])
    out = capsys.readouterr().out
    assert out.startswith("llama: vocab_size 301, seq_len 48") and "36 channels" not in out
    rows = [line.split() for line in out.splitlines()]
    q = "model.layers.0.self_attn.q_proj.weight"
    assert ["blocks.0.attention.qkv.weight", "(60,", "36)", q, "(36,", "36)", "turned,",
            "divided"] in rows
    assert ["model.layers.0.self_attn.k_proj.weight", "(12,", "36)"] in rows
    assert ["norm.weight", "(36,)", "model.norm.weight", "(36,)"] in rows
    assert "blocks.1" not in out and "17 tensors here, 21 there" in out
    assert f"{sum(p.numel() for p in random_model('llama').parameters()):,} parameters" in out
    assert "holds no config.json" in fails(main, tmp_path / "nowhere")
