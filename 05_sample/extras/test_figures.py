"""Tests of figures.py: what is drawn is what the model did."""

import contextlib
import json
import warnings

import pytest
import torch

import figures
from bpe import Tokenizer
from figures import (choices, draw_attention, draw_choices, entropies, label, look_around, main,
                     read, recorded, sharpest)
from gpt import GPT, GPTConfig
from train import Config
from runs import as_json, save_checkpoint, start_run, tensors


def lively(config):
    """A model without a weight that is still zero."""
    model, generator = GPT(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=generator)
    return model.eval()


@pytest.fixture
def model():
    return lively(GPTConfig(300, 32, n_layer=3, n_head=4, n_kv_head=2, d_model=32, d_ff=64))


IDS = [3, 1, 4, 1, 5, 9, 2, 6]


def test_recorded_puts_attention_back(model):
    def functions():
        return [block.attention.attend for block in model.blocks]
    before = functions()
    with recorded(model) as calls:
        model(torch.tensor([IDS]))
    assert functions() == before and len(calls) == 3, "one call for each layer"
    with contextlib.suppress(ValueError), recorded(model) as calls:
        assert functions() != before
        model(torch.zeros(1, 33, dtype=torch.long))  # longer than the window
    assert functions() == before, "also after an error"
    with recorded(model) as outer, recorded(model) as inner:
        model(torch.tensor([IDS]))
    assert functions() == before and len(outer) == len(inner) == 3


def test_weights_are_the_live_ones(model):
    """Each layer's weights times its values are what that layer's attention gave back."""
    weights, logits = read(model, IDS)
    assert weights.shape == (3, 4, 8, 8)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4, 8), msg="rows add up to 1")
    assert (weights.triu(1) == 0).all(), "nothing is taken from what stands behind"
    with torch.no_grad(), recorded(model) as calls:
        expected = model(torch.tensor([IDS]))
    for layer, (q, k, v, y) in enumerate(calls):
        v = v.repeat_interleave(2, dim=1)  # two query heads read each value head
        torch.testing.assert_close(weights[layer] @ v[0], y[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, expected[0, -1])


def test_entropies():
    even, alone = torch.full((4, 4), 0.25), torch.eye(4)
    assert entropies(even).exp() == pytest.approx(4)
    assert entropies(torch.stack([alone, even])).tolist() == pytest.approx([0, 1.386294])


def test_sharpest():
    T = 6
    mask = torch.ones(T, T).tril()
    first, itself, wide = torch.zeros(T, T), torch.eye(T), mask / mask.sum(-1, keepdim=True)
    first[:, 0] = 1
    third = first.roll(2, dims=1).tril()
    third[:2, 0] = 1
    before = torch.eye(T).roll(-1, dims=1).tril()  # the token before
    before[0, 0] = 1
    weights = torch.stack([torch.stack(pair) for pair in ((first, itself), (wide, 0.9 * before +
                                                          0.1 * wide), (third, wide))])
    assert look_around(weights).tolist() == [[False, False], [True, True], [False, True]]
    assert sharpest(weights) == (1, 1), "the one that looks at the token before"
    assert sharpest(weights[[0, 2]]) == (1, 1), "else the one that looks everywhere"
    dull = torch.stack([0.9 * first + 0.1 * wide, itself])[None]
    assert sharpest(dull) == (0, 1), "if all are dull, the sharpest of all"


def test_choices():
    """What is left adds up to 1, and is what each way should leave."""
    logits = torch.tensor([0.02, 0.30, 0.01, 0.20, 0.15, 0.25, 0.07]).log()
    shares = choices(logits)
    for name, share in shares.items():
        assert share.shape == (7,) and share.sum() == pytest.approx(1, abs=1e-6), name
    ids = {name: share.nonzero().flatten().tolist() for name, share in shares.items()}
    everything = list(range(7))
    assert ids == {"as it is": everything, "temperature 0.5": everything,
                   "temperature 1.5": everything, "top-k 5": [1, 3, 4, 5, 6],
                   "top-p 0.8": [1, 3, 4, 5], "min-p 0.1": [1, 3, 4, 5, 6]}
    assert shares["top-p 0.8"][1] == pytest.approx(0.3 / 0.9)
    assert shares["as it is"].tolist() == pytest.approx(logits.exp().tolist())
    squares = logits.exp() ** 2
    assert shares["temperature 0.5"].tolist() == pytest.approx((squares / squares.sum()).tolist())


def test_label():
    tokenizer = Tokenizer.train(["    x = 1\n" * 9, "abcdefghijklmnop " * 9], 300)
    labels = {label(tokenizer, i) for i in range(tokenizer.vocab_size)}
    assert {"␣", "\\n", "\\t", "a", "$", "\\xff", "<|bos|>"} <= labels
    assert all(1 <= len(text) <= 12 and " " not in text for text in labels)
    assert any(text.endswith("…") and len(text) == 12 for text in labels), "a long one is cut"


def test_pictures_of_odd_tokens(tmp_path):
    """No warning of a letter that the font lacks, no formula where a token has dollars."""
    weights = torch.ones(2, 4, 4).tril().softmax(-1)[None]
    tokenizer = Tokenizer([])
    odd = ["$x^{$", "$$", "\\xff", "é␣"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_attention(weights, odd, tmp_path / "a.png")
        labels = odd + [label(tokenizer, i) for i in range(4, 256)]
        draw_choices(torch.arange(256).flip(0) / 9, labels, "$x$ " * 30, tmp_path / "c.png")
    for name in "ac":
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_command_line(tmp_path, capsys, fails, monkeypatch):
    tokenizer = Tokenizer.train(["def spam(eggs):\n    return eggs\n" * 9], 290)
    folder = start_run(tmp_path, "t")
    tokenizer.save(folder / "tokenizer.json")
    config = Config(tokenizer.vocab_size, 16, n_layer=2, d_model=32, d_ff=64)
    (folder / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []}), encoding="utf-8")
    save_checkpoint(folder, 1, tensors(lively(config.gpt(tokenizer.vocab_size))), {})
    where = ("--runs-dir", str(tmp_path), "--device", "cpu")
    main([*where, "--prompt", "def spam(eggs):\\n"])
    out = capsys.readouterr().out
    for name in ("attention.png", "choosing.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG") and name in out
    (tmp_path / "out").mkdir()
    drawn = []
    for name in ("draw_attention", "draw_choices"):
        monkeypatch.setattr(figures, name, lambda *arguments: drawn.append(arguments[-1]))
    main([*where, "--prompt", "spam", "--out", str(tmp_path / "out")])
    assert drawn == [tmp_path / "out" / "attention.png", tmp_path / "out" / "choosing.png"]

    assert "2 to 16 can be drawn" in fails(main, *where, "--prompt", "spam " * 99)
    assert "has 1 tokens" in fails(main, *where, "--prompt", "")
    assert "no folder" in fails(main, *where, "--prompt", "spam", "--out", tmp_path / "none")
    assert "no run 'x'" in fails(main, *where, "--run", "x")
