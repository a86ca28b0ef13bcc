"""Tests of sample.py: choosing, then showing, then the command."""

import dataclasses
import io
import json
import time

import pytest
import torch

from bpe import Tokenizer
from gpt import GPT, GPTConfig
from presets import Config
from runs import save_checkpoint, start_run
from sample import TextStream, main, make_pick, stream_text, top_k, top_p

INF = float("inf")


def logs(*rows):
    return torch.tensor(rows).log()


def test_top_k():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0], [5.0, 1.0, 4.0, 6.0]])
    assert top_k(logits, 2).tolist() == [[-INF, 3.0, 2.0, -INF], [5.0, -INF, -INF, 6.0]]
    assert top_k(torch.zeros(1, 5), 2).isfinite().sum() == 2, "ties: still exactly k"
    assert torch.equal(top_k(logits, 4), logits) and torch.equal(top_k(logits, 99), logits)


def test_top_p():
    logits = logs([0.2, 0.5, 0.3], [0.9, 0.05, 0.05])
    kept = [top_p(logits, p).isfinite().tolist() for p in (0.5, 0.6, 0.95, 1.0)]
    assert kept[0] == [[False, True, False], [True, False, False]], "the one that reaches p is kept"
    assert kept[1] == [[False, True, True], [True, False, False]], "the one that crosses p too"
    assert kept[2] == [[True] * 3, [True, True, False]]
    assert kept[3] == [[True] * 3, [True] * 3]
    assert top_p(logits, 0.6)[0, 1] == logits[0, 1], "what is kept stays as it was"
    assert top_p(logits, 1e-9).isfinite().sum(-1).tolist() == [1, 1], "one at least"


def shares(pick, logits, n=20_000):
    return (torch.bincount(pick(logits.repeat(n, 1)), minlength=logits.shape[1]) / n).tolist()


def test_make_pick():
    logits = logs([0.5, 0.3, 0.15, 0.05])
    assert make_pick(temperature=0)(logits).tolist() == [0] == make_pick(1e-40)(logits).tolist()
    near = pytest.approx
    assert shares(make_pick(seed=1), logits) == near([0.5, 0.3, 0.15, 0.05], abs=0.02)
    sharp = torch.tensor([0.5, 0.3, 0.15, 0.05]) ** 2
    assert shares(make_pick(0.5, seed=1), logits) == near((sharp / sharp.sum()).tolist(), abs=0.02)
    assert shares(make_pick(k=2, seed=1), logits) == near([0.625, 0.375, 0, 0], abs=0.02)
    assert shares(make_pick(p=0.7, seed=1), logits) == near([0.625, 0.375, 0, 0], abs=0.02)
    both = shares(make_pick(k=2, p=0.6, seed=1), logits)
    assert both == [1, 0, 0, 0], "top-p looks at what top-k has left: .625 reaches .6"
    hot = shares(make_pick(4.0, p=0.5, seed=1), logits)
    assert hot[2] == 0 and hot[1] > 0.4, "top-p looks at what the temperature has made"


def test_make_pick_follows_its_seed():
    logits = torch.zeros(50, 10)
    first = make_pick(seed=1)
    assert torch.equal(first(logits), make_pick(seed=1)(logits))
    assert not torch.equal(first(logits), make_pick(seed=1)(logits)), "the draws go on"
    assert not torch.equal(make_pick(seed=2)(logits), make_pick(seed=1)(logits))


def test_text_stream():
    text = TextStream(bytes)  # ids are bytes here
    euro = "€".encode()
    assert text.push([104, *euro[:1]]) == "h"
    assert text.push(euro[1:2]) == ""
    assert text.push([*euro[2:], 33]) == "€!"
    assert text.push(euro[:2]) == "" and text.end() == "\ufffd"
    assert TextStream(bytes).push([0xFF, 65]) == "\ufffdA", "what can't be a character is not held"
    whole = "naïve 東京 🙂" * 3
    text = TextStream(bytes)
    assert "".join(text.push([b]) for b in whole.encode()) + text.end() == whole


class Parrot:
    """A model that says `ids`, one after the other, whatever it hears."""

    def __init__(self, ids, vocab_size):
        self.ids, self.config = list(ids), GPTConfig(vocab_size, 64, 1, 1, 1, 4, 4)
        self.head = torch.nn.Linear(1, 1)
        self.vocab_size = vocab_size

    def __call__(self, ids, cache):
        cache.length += ids.shape[1]
        return torch.nn.functional.one_hot(torch.tensor([[self.ids.pop(0)]]), self.vocab_size) * 1.0


def test_stream_text():
    tokenizer = Tokenizer([])
    ids = tokenizer.encode("caf€!") + [tokenizer.special["<|bos|>"]] + tokenizer.encode("more")
    pieces = list(stream_text(Parrot(ids, tokenizer.vocab_size), tokenizer, "x", 50,
                              make_pick(0)))
    assert "".join(pieces) == "caf€!", "it stops where the document ends"
    assert all("\ufffd" not in piece for piece in pieces)


@pytest.fixture
def runs(tmp_path):
    """Two runs that were never trained: `old`, and `new`, which saved last."""
    tokenizer, config = Tokenizer.train(["spam and eggs " * 9], 280), Config(
        n_layer=1, d_model=16, n_head=1, n_kv_head=1, d_ff=16, seq_len=32)
    for name in ("old", "new"):
        folder = start_run(tmp_path, name)
        (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
        tokenizer.save(folder / "tokenizer.json")
        save_checkpoint(folder, 7, GPT(config.gpt(tokenizer.vocab_size)), {})
        time.sleep(0.01)
    return tmp_path


def test_command_line(runs, capsys, fails, monkeypatch):
    options = ["--runs-dir", str(runs), "--prompt", "spam", "--tokens", "60", "--device", "cpu"]
    main(options)
    first = capsys.readouterr()
    assert first.out.startswith("spam") and "new, step 7" in first.err
    main(options)
    assert capsys.readouterr().out == first.out, "the same seed says the same"
    main([*options, "--seed", "1", "--run", "old"])
    other = capsys.readouterr()
    assert other.out != first.out and "old, step 7" in other.err
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    main([*options, "--temperature", "0", "--prompt", "-"])
    assert capsys.readouterr().out.startswith("from a pipe")
    main([*options, "--top-k", "3", "--top-p", "0.9", "--prompt", ""])
    assert "no run 'x'" in fails(main, "--runs-dir", runs, "--run", "x")
    assert "no run with a checkpoint" in fails(main, "--runs-dir", runs / "nowhere")
    assert "top_p" in fails(main, "--runs-dir", runs, "--top-p", 0)
    for temperature in (-1, "nan", "inf"):
        assert "temperature" in fails(main, "--runs-dir", runs, "--temperature", temperature)
    (runs / "new" / "tokenizer.json").write_text("{}")
    assert "tokenizer.json" in fails(main, "--runs-dir", runs)
