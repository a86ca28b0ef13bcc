"""Tests of microscope.py: it shows what the model computed, and changes nothing of it."""

import copy
import json
import math

import pytest
import torch

import microscope
from bpe import Tokenizer
from family import FAMILIES, model_config
from figures import read
from gpt import make_model
from microscope import columns, inside, logit_lens, main, streams, survey
from runs import as_json, save_checkpoint, start_run, tensors
from train import Config

SMALL = dict(vocab_size=265, seq_len=160, n_layer=3, n_head=4, n_kv_head=2, d_model=32, d_ff=48)
KINDS = {**FAMILIES, "by hand": {"by_hand": True}, "n-grams": {"ngrams": 3, "ngram_rows": 40}}
TOKENIZER = Tokenizer([])  # 256 bytes and 9 special tokens
IDS = TOKENIZER.encode("A bee is no €, 😀.\n")
every_kind = pytest.mark.parametrize("kind", KINDS)


def random_model(kind="modern", **changes):
    return filled(make_model(model_config(**SMALL | KINDS[kind] | changes)))


def filled(model):
    """The model with only random weights: the zeros of a new one would hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def shorter(model, n_layer):
    """The same model without the blocks behind the first n_layer."""
    model = copy.deepcopy(model)
    model.blocks = model.blocks[:n_layer]
    return model


@torch.no_grad()
def log_probabilities(model, ids):
    return model(torch.tensor([ids]))[0].log_softmax(dim=-1)


@every_kind
def test_logit_lens(kind, explains):
    """Each layer's numbers are those of a model that ends there."""
    model, position = random_model(kind), 6
    with explains("what the blocks returned must become probabilities of ids"):
        best_ids, best, targets = logit_lens(model, IDS, position)
    assert [len(each) for each in (best_ids, best, targets)] == [3, 3, 3], (
        "each list has one entry for each of the blocks")
    for layer in range(3):
        probs = log_probabilities(shorter(model, layer + 1), IDS)[position - 1].exp()
        what = (f"of block {layer + 1}, what it returned at the last position that was read goes "
                "through the final norm and the head")
        assert best[layer] == pytest.approx(float(probs.max()), rel=1e-4), what
        assert best_ids[layer] == int(probs.argmax()), what
        assert targets[layer] == pytest.approx(float(probs[IDS[position]]), rel=1e-4), (
            "the third list has the probability of ids[position], which came")


@every_kind
def test_the_last_layer_is_the_model(kind):
    """As survey() says it, at every position."""
    model = random_model(kind)
    for position, token in [*enumerate(survey(model, TOKENIZER, IDS))][1:]:
        last = inside(model, TOKENIZER, IDS, position)["lens"][-1]
        assert last["target_probability"] == pytest.approx(token["probability"], rel=1e-4)
        assert last["id"] == token["top"][0]["id"] and last["text"] == token["top"][0]["text"]
        assert last["probability"] == pytest.approx(token["top"][0]["probability"], rel=1e-4)


@every_kind
@pytest.mark.parametrize("n", [1, 7, 64, 65, 66, 150])
def test_survey_says_what_the_model_says(kind, n):
    """Probability, surprise, rank and the likeliest, also where logits are cut into slices."""
    model, ids = random_model(kind), (IDS * 9)[:n]
    tokens, logps = survey(model, TOKENIZER, ids, top=4), log_probabilities(model, ids)
    assert [token["id"] for token in tokens] == ids
    assert all(not tokens[0][name] for name in ("probability", "surprise", "rank", "top"))
    for token, row in zip(tokens[1:], logps):
        logp = float(row[token["id"]])
        assert token["probability"] == pytest.approx(math.exp(logp), rel=1e-4)
        assert token["surprise"] == pytest.approx(-logp / math.log(2), rel=1e-4, abs=1e-5)
        likelier = [int((row > logp + d).sum()) for d in (1e-4, -1e-4)]  # itself is in the second
        assert likelier[0] < token["rank"] <= likelier[1]
        values, best = row.topk(4)
        assert [other["probability"] for other in token["top"]] == pytest.approx(
            values.exp().tolist(), rel=1e-4)
        assert [other["id"] for other in token["top"]] == best.tolist()
        assert token["rank"] > 4 or token["top"][token["rank"] - 1]["id"] == token["id"]


def test_surprise_adds_up_to_the_loss():
    model = random_model()
    bits = sum(token["surprise"] for token in survey(model, TOKENIZER, IDS)[1:])
    loss = model.loss(torch.tensor([IDS[:-1]]), torch.tensor([IDS[1:]])).sum()
    assert bits * math.log(2) == pytest.approx(loss.item(), rel=1e-4)


def test_no_more_logits_than_a_slice():
    model, sizes = random_model(), []
    logits = model.logits
    model.logits = lambda x: sizes.append(len(x)) or logits(x)
    survey(model, TOKENIZER, (IDS * 9)[:150])
    assert sizes == [64, 64, 21], "of 150 tokens, 149 are predicted"
    sizes.clear()
    inside(model, TOKENIZER, (IDS * 9)[:150], 140)
    assert sizes == [3], "one position of each layer"


def test_texts_join_to_the_whole():
    """A character stands at the id that completes it; what is no character becomes U+FFFD."""
    model, smile = random_model(), [*"😀".encode()]
    for ids in (IDS, IDS[:-4], smile[:2], smile[:3] + [65], smile[1:] + smile, [262, 65, 256]):
        tokens = survey(model, TOKENIZER, ids)
        assert "".join(token["text"] for token in tokens) == TOKENIZER.decode(ids)
        assert bytes.fromhex("".join(t["bytes"] for t in tokens)) == TOKENIZER.decode_bytes(ids)
    tokens = survey(model, TOKENIZER, [*"x😀".encode()], top=1000)
    assert [token["text"] for token in tokens] == ["x", "", "", "", "😀"]
    assert [token["bytes"] for token in tokens] == ["78", "f0", "9f", "98", "80"]
    texts = {other["id"]: other["text"] for other in tokens[1]["top"]}
    assert len(texts) == 265, "no more than all ids"
    assert texts[65] == "A" and texts[0x9f] == "\\x9f" and texts[256] == "<|bos|>"


@every_kind
def test_attention_is_the_models(kind):
    """As figures.py, tested against the output of attention, computes it for whole texts."""
    model = random_model(kind)
    for position in (1, 2, len(IDS) - 1):
        found = torch.tensor(inside(model, TOKENIZER, IDS, position)["attention"])
        assert found.shape == (3, 4, position), "layers, heads, keys"
        assert (found.sum(dim=-1) - 1).abs().max() < 1e-5, "each head's weights add up to 1"
        expected, _ = read(model, IDS)
        torch.testing.assert_close(found, expected[:, :, position - 1, :position],
                                   rtol=1e-4, atol=2e-6)


def test_all_of_it_is_json():
    """Also where a probability is too small for a float, as without a cap."""
    model = random_model("gpt2")
    with torch.no_grad():
        model.norm.weight.fill_(400)
    tokens, found = survey(model, TOKENIZER, IDS), inside(model, TOKENIZER, IDS, 5)
    assert 0.0 in [token["probability"] for token in tokens], "this model is very sure"
    for made in (tokens, found):
        assert json.loads(json.dumps(made, allow_nan=False)) == made
    with torch.no_grad():
        model.head.weight[3, 3] = float("nan")
    with pytest.raises(ValueError, match="its weights must be damaged"):
        survey(model, TOKENIZER, IDS)


def test_what_is_refused():
    model = random_model(seq_len=8)
    assert len(survey(model, TOKENIZER, IDS[:8])) == 8, "the window is full"
    assert inside(model, TOKENIZER, IDS[:8], 7)
    for n in (0, 9):
        with pytest.raises(ValueError, match=f"has {n} tokens, but must have 1 to 8, the model's"):
            survey(model, TOKENIZER, IDS[:n])
    for position in (-1, 0, 8):
        with pytest.raises(ValueError, match=f"position is {position}, but the text has 8 tokens"):
            inside(model, TOKENIZER, IDS[:8], position)
    with pytest.raises(ValueError, match="don't fit into 8"):
        inside(model, TOKENIZER, IDS, 10)


@every_kind
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_model_stays_as_it_was(kind, error):
    """After all went well, and after an error in the middle of a layer."""
    model = random_model(kind)

    def state():
        return ([block.attention.attend for block in model.blocks], model.config, model.training,
                [len(module._forward_hooks) for module in model.modules()])
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    if error:
        def broken(x):
            raise error("in the second layer")
        model.blocks[1].mlp.forward = broken
    before = state()
    for look in (lambda: survey(model, TOKENIZER, IDS), lambda: inside(model, TOKENIZER, IDS, 5),
                 lambda: logit_lens(model, IDS, 5)):
        if error:
            with pytest.raises(error):
                look()
        else:
            look()
        assert state() == before
    assert all(value.equal(weights[name]) for name, value in model.state_dict().items())
    with pytest.raises(KeyboardInterrupt), streams(model):
        raise KeyboardInterrupt
    assert state() == before


# ---- the command ----
@pytest.fixture
def runs(tmp_path):
    """A folder with a run that has learned nothing."""
    tokenizer = Tokenizer.train(["def spam(eggs):\n    return eggs\n" * 9], 290)
    folder = start_run(tmp_path, "t")
    config = Config(tokenizer.vocab_size, 16, n_layer=2, d_model=32, d_ff=64)
    tokenizer.save(folder / "tokenizer.json")
    (folder / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []}))
    model = filled(make_model(config.gpt(tokenizer.vocab_size)))
    save_checkpoint(folder, 1, tensors(model), {})
    return tmp_path


def test_command_line(runs, capsys, fails):
    where = ("--runs-dir", str(runs), "--device", "cpu")
    main([*where, "--prompt", "def €\x1b\\n"])
    out = capsys.readouterr().out
    assert "\x1b" not in out, "no colours in a pipe, and no control character as it is"
    table, token, lens, attention = out.split("\n\n")
    bits = [float(line.split()[2]) for line in table.splitlines()[2:]]
    assert f"token {bits.index(max(bits)) + 1}, " in token, "the most surprising one"
    assert "'<|bos|>'" in table and "(e2)" in table and "'€'" in table and "'\\n'" in table
    assert [len(part.splitlines()) for part in (token, lens, attention)] == [11, 3, 3]
    assert token.splitlines()[1].split()[0] in lens.splitlines()[-1], "the last layer is the model"
    assert "(0)" in attention and "'<|bos|>'" in attention
    main([*where, "--prompt", "spam", "--at", "1"])
    assert "\ntoken 1, " in capsys.readouterr().out

    assert "must have 1 to 16" in fails(main, *where, "--prompt", "spam " * 99)
    assert "of which the first, 0, is not" in fails(main, *where, "--prompt", "")
    assert "position is 99, but" in fails(main, *where, "--prompt", "spam", "--at", "99")
    assert "no run 'x'" in fails(main, *where, "--run", "x")


def test_colours(runs, capsys, monkeypatch):
    """On a terminal, unless NO_COLOR is set; the redder, the more surprising."""
    shown = ["--runs-dir", str(runs), "--device", "cpu", "--prompt", "a\\nb"]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    main(shown)
    text, legend, *_ = capsys.readouterr().out.split("\n\n")
    assert "\x1b[30;48;5;" in text and "↵\n" in text and "10+" in legend
    monkeypatch.setenv("NO_COLOR", "1")
    main(shown)
    assert "\x1b" not in capsys.readouterr().out
    tokens = [{"text": "x\ny", "surprise": bits} for bits in (None, 0.5, 1, 3, 6, 99)]
    plain, cream, yellow, orange, red = microscope.COLOURS
    for token, colour in zip(tokens, (plain, plain, cream, yellow, orange, red)):
        text = microscope.coloured([token]).split("\n\n")[0]
        assert text == f"{colour}x{plain}↵\n{colour}y{plain}", "no colour behind the end"


def test_a_hugging_face_folder(tmp_path, capsys):
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    from weights import export
    export(random_model("llama"), TOKENIZER, tmp_path / "model")
    main(["--weights", str(tmp_path / "model"), "--device", "cpu", "--prompt", "bee"])
    out = capsys.readouterr().out
    loaded = random_model("llama")
    assert columns(survey(loaded, TOKENIZER, [TOKENIZER.special["<|bos|>"], *b"bee"])) in out
