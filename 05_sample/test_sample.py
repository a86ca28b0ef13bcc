"""Tests of sample.py: choosing, then writing, then the command."""

import io
import json
import math
import random
import time

import pytest
import torch

from bpe import Tokenizer
from gpt import GPT, GPTConfig
from runs import as_json, save_checkpoint, start_run, tensors
from sample import (Picker, Sampling, TextStream, distribution, draw, held_back, main, min_p,
                    penalise, start_of, stream, top_k, top_p)
from train import Config

INF = float("inf")
NEVER = torch.tensor([[False] * 4])


def logs(*rows):
    return torch.tensor(rows).log()


def near(*values):
    return pytest.approx(list(values), abs=1e-6)


def test_penalise():
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalise(logits, seen, 2.0).tolist() == [[1.0, -4.0, 2.0, -2.0]], (
        "where an id was seen, a positive logit is divided, a negative one multiplied")
    assert penalise(0.5 * logits.sign(), ~seen, 2.0).tolist() == [[0.5, -0.5, 0.25, -1.0]], (
        "positive is what is above 0, not above 1")
    assert torch.equal(penalise(logits, seen, 1.0), logits)


def test_top_k():
    logits = torch.tensor([[1.0, 3.0, 2.0, 0.0], [5.0, 1.0, 4.0, 6.0]])
    assert top_k(logits, 2).tolist() == [[-INF, 3.0, 2.0, -INF], [5.0, -INF, -INF, 6.0]]
    assert top_k(torch.zeros(1, 5), 2).isfinite().sum() == 2, "of ties still exactly k are kept"
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


def test_min_p():
    logits = logs([0.2, 0.5, 0.3], [0.9, 0.05, 0.05])
    assert min_p(logits, 0.5).isfinite().tolist() == [[False, True, True], [True, False, False]], (
        "kept is what has at least p times the probability of the likeliest of its row")
    assert torch.equal(min_p(logits, 0.0), logits)
    assert min_p(logits, 1.0).isfinite().sum(-1).tolist() == [1, 1]
    assert min_p(logits, 0.5)[0, 1] == logits[0, 1], "what is kept stays as it was"


def test_distribution():
    logits = logs([0.5, 0.3, 0.15, 0.05])

    def of(seen=NEVER, **sampling):
        return distribution(logits, seen, Sampling(**{"temperature": 1.0, **sampling}))[0].tolist()
    assert of() == near(0.5, 0.3, 0.15, 0.05), "at temperature 1 the model as it is"
    assert of(temperature=0) == [1, 0, 0, 0] == of(temperature=1e-29), (
        "at temperature 0 the likeliest has probability 1; logits are divided by a small one, and "
        "not probabilities")
    squares = [p * p / 0.365 for p in (0.5, 0.3, 0.15, 0.05)]
    assert of(temperature=0.5) == near(*squares), (
        "the temperature divides the logits, once, before anything is cut off")
    assert of(top_k=2) == near(0.625, 0.375, 0, 0) == of(top_p=0.7) == of(min_p=0.5)
    assert of(top_k=2, top_p=0.6) == near(1, 0, 0, 0), "top-p sees what top-k left: .625 is .6"
    hot = of(temperature=4.0, top_p=0.5)
    assert hot[2] == 0 and hot[1] > 0.4, "top-p looks at what the temperature has made"
    assert of(top_p=0.81, min_p=0.55) == near(0.625, 0.375, 0, 0)
    seen = torch.tensor([[True, False, False, False]])
    weaker = [0.25, 0.3, 0.15, 0.05]  # ln .5 is negative: twice that is ln .25
    assert of(seen, repetition_penalty=2.0) == near(*(p / 0.75 for p in weaker))
    assert of(seen, temperature=0, repetition_penalty=2.0) == [0, 1, 0, 0]
    rare = distribution(logs([1.0, 1e-9, 1e-9]), NEVER[:, :3], Sampling(1.0))
    assert (rare > 0).all(), "top-p of 1 is skipped: in float32 the first id has it all"


@pytest.mark.parametrize("temperature", [0, 1e-29, 1.0])
def test_distribution_of_many_rows(temperature):
    """Each by itself, however large: 2e10 / 1e-29 is more than float32 holds."""
    logits = torch.tensor([[0.0, 10.0, 0.0, 1.0], [2e10, 0.0, 1e10, 0.0], [3.0, 4.0, 5.0, 30.0]])
    found = distribution(logits, NEVER.expand(3, 4), Sampling(temperature)).argmax(-1)
    assert found.tolist() == [1, 0, 3]
    for cut in (dict(top_k=1), dict(top_p=0.1), dict(min_p=1.0)):
        found = distribution(logits, NEVER.expand(3, 4), Sampling(temperature, **cut))
        assert found.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], f"{cut}"


def test_draw():
    shares = torch.tensor([[0.5, 0.3, 0.0, 0.2]])
    numbers = [0.0, 0.49, 0.5, 0.79, 0.81, 0.9999999]
    assert draw(shares.repeat(6, 1), numbers).tolist() == [0, 0, 1, 1, 3, 3]
    assert draw(torch.tensor([[0.0, 0.0, 1.0]]), [0.0]).tolist() == [2], (
        "an id of probability 0 must never be drawn: the sum must exceed the number, not reach it")
    assert draw(torch.tensor([[0.5, 0.5]]), [0.5 - 1e-12]).tolist() == [0], (
        "the numbers are taken in float64")
    assert draw(torch.tensor([[1.0, 1e-9]]), [1 - 1e-12]).tolist() == [1], (
        "probabilities are added up in float64: in float32 a small one vanishes")
    assert draw(0.9 * shares, [0.9999999]).tolist() == [3], (
        "a number is a share of what its row adds up to, which may not quite be 1")

    class Elsewhere(torch.Tensor):  # as if on a device that has no float64
        device = torch.device("meta")
        double = None

        def cpu(self):
            return self.as_subclass(torch.Tensor)
    assert draw(shares.as_subclass(Elsewhere), [0.5]).device.type == "meta", "back where it was"
    rng = random.Random(1)
    counts = torch.bincount(draw(shares.repeat(20_000, 1), [rng.random() for _ in range(20_000)]))
    assert (counts / 20_000).tolist() == pytest.approx(shares[0].tolist(), abs=0.02)


def test_picker():
    """Each row has its own sampling, seed and memory, whoever stands beside it."""
    rows = [Sampling(1.0, seed=1), Sampling(0.0), Sampling(1.0, seed=1), Sampling(2.0, seed=5),
            Sampling(0.0, repetition_penalty=1e9)]
    prompts = [[0], [0], [0], [1], [2, 3]]
    together = Picker(rows, prompts)
    alone = [Picker([row], [prompt]) for row, prompt in zip(rows, prompts)]
    generator, picked = torch.Generator().manual_seed(0), []
    for _ in range(20):
        logits = torch.randn(1, 30, generator=generator).repeat(5, 1)
        ids = together(logits)
        assert [int(pick(logits[:1])) for pick in alone] == ids.tolist()
        expected = logits[0].log_softmax(0)[ids]
        torch.testing.assert_close(together.logprobs, expected, rtol=1e-5, atol=1e-5)
        picked.append(ids.tolist())
    first, greedy, same, other, new = zip(*picked)
    assert first == same != other and len(set(first)) > 5
    assert len(set(new) | {2, 3}) == 22, "what was there, in the prompt too, comes no more"


def test_a_temperature_that_float32_takes_for_0():
    logits, unseen = torch.tensor([[1.0, 3.0, 2.0]]), torch.zeros(1, 3, dtype=torch.bool)
    for temperature in (0, 1e-46, 1e-30, 1e-9):
        probs = distribution(logits, unseen, Sampling(temperature=temperature))
        assert probs.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"temperature": INF}, {"top_k": -1},
                                   {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1},
                                   {"top_p": 1e-46}, {"seed": -1}, {"min_p": -0.1},
                                   {"repetition_penalty": 0}])
def test_sampling_that_cannot_be(wrong):
    says = f"{next(iter(wrong))} is .*, but must be a number from [0-9]"
    with pytest.raises(ValueError, match=says):
        Sampling(**wrong)


def test_held_back():
    stops = ["\n\n", "END"]
    found = [held_back(text, stops) for text in ("a\n", "THE EN", "E", "", "EN ", "xEEN")]
    assert found == [1, 2, 1, 0, 0, 2], (
        "held back is the longest end that may still become a stop string, which is not whole yet")
    assert held_back("abc", []) == 0


class Bytes:
    """A tokenizer whose ids are bytes."""

    decode_bytes = bytes


def test_text_stream():
    row = TextStream(Bytes)
    euro = "€".encode()
    assert row.push([104, *euro[:1]]) == "h", (
        "half a character must not be shown: the decoder keeps its bytes until it is whole")
    assert row.push(euro[1:2]) == ""
    assert row.push([*euro[2:], 33]) == "€!"
    assert row.push(euro[:2]) == "" and row.push([], final=True) == "\ufffd", (
        "at the end half a character that was kept becomes U+FFFD")
    assert TextStream(Bytes).push([104, *euro[:2]], final=True) == "h\ufffd", "nothing is to follow"
    assert TextStream(Bytes).push([0xFF, 65]) == "\ufffdA", "what can't be a character is not held"
    whole = "naïve 東京 🙂" * 3
    row = TextStream(Bytes)
    assert "".join(row.push([b]) for b in whole.encode()) + row.push([], final=True) == whole


def test_add():
    row = TextStream(Bytes, end_ids={0}, stops=["!?", "end"])
    shown = [row.add(i, -0.5) for i in b"an!d"]
    assert shown == ["a", "n", "", "!d"], (
        "what may become a stop string is held back, and shown once it can't any more")
    assert row.ids == [*b"an!d"] and row.logprobs == [-0.5] * 4, "every id and logprob is kept"
    assert [row.add(i, 0.0) for i in b"!?"] == ["", ""] and row.finish == "stop", (
        "a text ends before a stop string, which is never shown")
    assert row.text == "an!d", "row.text is all that was shown"

    class Words:
        decode_bytes = staticmethod(lambda ids: b"one end, two!?" * len(ids))
    row = TextStream(Words, stops=["!?", "end"])
    assert row.add(1, 0.0) == "one ", "of several stop strings the one that comes first in the text"
    row = TextStream(Bytes, end_ids={0}, stops=["!?"])
    assert [row.add(i, 0.0) for i in b"a!"] == ["a", ""] and row.add(0, 0.0) == "!", (
        "at one of the end_ids the text ends, and what was held back is shown")
    assert row.finish == "stop" and len(row.ids) == 3, "the text has ended, and the id is kept"


def test_text_stream_drops_what_follows_a_stop_string():
    class Pieces:
        @staticmethod
        def decode_bytes(ids):
            return b"".join([b"a", b"bc\xe2", b"xbcy"][i] for i in ids)

    row = TextStream(Pieces, stops=["c", "bc"])
    assert [row.add(0, 0.0), row.add(1, 0.0)] == ["a", ""], "the earlier one counts"
    assert row.text == "a" and row.finish == "stop"
    row = TextStream(Pieces, stops=["c", "bc"])
    assert row.add(2, 0.0) == "x"


def test_text_stream_holds_back_what_may_be_a_stop_string():
    row = TextStream(Bytes, end_ids={0}, stops=["\n\n"])
    shown = [row.add(i, -0.5) for i in "aé\nb\n".encode()]
    assert shown == ["a", "", "é", "", "\nb", ""]
    assert row.text == "aé\nb" and row.finish == ""
    assert row.add(10, -1.0) == "" and row.finish == "stop"
    assert row.logprobs == [-0.5] * 6 + [-1.0] and row.text == "aé\nb"
    row = TextStream(Bytes, end_ids={0}, stops=["\n\n"])
    assert [row.add(i, 0.0) for i in (10, 0xC3, 0)] == ["", "", "\n\ufffd"]


class Parrot:
    """A model that says what is in its scripts, one for each row, whatever it hears."""

    def __init__(self, *scripts, vocab_size=300, seq_len=64):
        self.steps = iter(zip(*scripts))
        self.config = GPTConfig(vocab_size, seq_len, 1, 1, 1, 4, 4)
        self.embed = torch.nn.Embedding(1, 1)

    def hidden(self, ids, cache, mask=None):
        cache.length += ids.shape[1]
        return torch.zeros(*ids.shape, 1)

    def logits(self, x):
        return 50.0 * torch.nn.functional.one_hot(torch.tensor(next(self.steps)),
                                                  self.config.vocab_size)


def said(scripts, stops=(), n_tokens=50, **options):
    """The pieces in which a parrot's rows are shown, and their TextStreams."""
    tokenizer = Tokenizer([])
    bos = tokenizer.special["<|bos|>"]
    ids = [[*tokenizer.encode(text), bos, *tokenizer.encode("and more" * 9)] for text in scripts]
    pieces, done = [[] for _ in scripts], [None] * len(scripts)
    for b, text, row in stream(Parrot(*ids), tokenizer, [[1]] * len(scripts), n_tokens,
                               Sampling(0), stops, **options):
        pieces[b].append(text)
        done[b] = row
    assert [row.text for row in done] == ["".join(row) for row in pieces]
    return pieces, done


def test_stream_ends_with_the_document():
    (row,), (done,) = said(["caf€!"])
    assert "".join(row) == "caf€!" and done.finish == "stop" and len(done.ids) == 8
    assert all("\ufffd" not in piece for piece in row), "no half characters"
    (row,), (done,) = said(["€"], n_tokens=2)
    assert row == ["\ufffd"] and done.finish == "length" and len(done.ids) == 2
    (row,), (done,) = said(["abc"], n_tokens=0)
    assert row == [""] and done.finish == "length"


def test_stream_stops_before_a_stop_string():
    (row,), (done,) = said(["one\ntwo\n\nthree"], ["\n\n", "xyz"])
    assert "".join(row) == "one\ntwo" and done.finish == "stop"
    assert "" not in row[:-1] and "\n\n" not in done.text
    (row,), (done,) = said(["a\nb\n"], ["\n\n"], n_tokens=4)
    assert "".join(row) == "a\nb\n" and done.finish == "length", "held back, shown in the end"
    assert said(["abc€"], ["bc", "b"])[1][0].text == "a"
    assert said(["stop"], ["st"])[1][0].text == ""


def test_rows_end_one_by_one():
    rows, done = said(["a", "bcd", "ef.gh"], ["."])
    assert [row.text for row in done] == ["a", "bcd", "ef"]
    assert [len(row.ids) for row in done] == [2, 4, 3]
    assert all(math.isclose(p, 0, abs_tol=1e-6) for p in done[0].logprobs), "a parrot is certain"


def complete(*arguments, **options):
    """stream(), all at once: the TextStream of each row."""
    done = {b: row for b, _, row in stream(*arguments, **options)}
    return [done[b] for b in sorted(done)]


@pytest.fixture(scope="module")
def model():
    model = GPT(GPTConfig(vocab_size=265, seq_len=64, n_layer=2, d_model=32, n_head=4, n_kv_head=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    return model.eval()


def test_a_batch_says_what_each_says_alone(model):
    """Whatever their sampling, and beyond the window; the same prompt twice with other seeds."""
    tokenizer = Tokenizer([])
    prompts = [tokenizer.encode(text) for text in ("a", "Once upon a time", "xyz" * 9, "a")]
    samplings = [Sampling(1.0, top_p=0.9, seed=3), Sampling(0), Sampling(0.7, top_k=4, seed=1),
                 Sampling(1.0, min_p=0.01, repetition_penalty=1.2, seed=9)]
    together = complete(model, tokenizer, prompts, 90, samplings)
    for prompt, sampling, found in zip(prompts, samplings, together):
        alone, = complete(model, tokenizer, [prompt], 90, sampling)
        assert found.ids == alone.ids and found.text == alone.text
        assert found.logprobs == pytest.approx(alone.logprobs, abs=1e-4)
    both = complete(model, tokenizer, prompts[:2], 20, Sampling(1.0, seed=3), n_samples=2)
    seeds = [complete(model, tokenizer, [prompts[i // 2]], 20, Sampling(1.0, seed=3 + i))[0].ids
             for i in range(4)]
    assert [found.ids for found in both] == seeds and seeds[0] != seeds[1]


@torch.no_grad()
def test_logprobs_are_the_models_own(model):
    found, = complete(model, Tokenizer([]), [[5, 6]], 12, Sampling(0.5, top_k=3, seed=1))
    logits = model(torch.tensor([[5, 6, *found.ids]]))[0].log_softmax(-1)
    expected = [float(logits[1 + t, i]) for t, i in enumerate(found.ids)]
    assert found.logprobs == pytest.approx(expected, abs=1e-4)


def test_guesses_change_nothing(model):
    from lookup import guessing
    plain, = complete(model, Tokenizer([]), [[5, 6, 5, 6]], 50, Sampling(0.3, seed=4))
    quick, = complete(model, Tokenizer([]), [[5, 6, 5, 6]], 50, Sampling(0.3, seed=4),
                      generate=guessing(4))
    assert plain.ids == quick.ids and plain.text == quick.text
    for prompts, n_samples in (([[5], [6]], 1), ([[5]], 2)):
        with pytest.raises(ValueError, match="a single text, not for 2"):
            complete(model, Tokenizer([]), prompts, 5, n_samples=n_samples, generate=guessing(4))


def test_what_cannot_be_written(model):
    with pytest.raises(ValueError, match="a stop string is empty"):
        complete(model, Tokenizer([]), [[5]], 5, stops=["x", ""])
    with pytest.raises(ValueError, match="nan"):
        Picker([Sampling()], [[1]])(torch.tensor([[0.0, float("nan")]]))


def test_beyond_the_window(model):
    tokenizer, prompt = Tokenizer([]), [[7] * 40]
    assert len(complete(model, tokenizer, prompt, 200, Sampling(0))[0].ids) == 200


def test_start_of():
    assert start_of("ab", Tokenizer([])) == [256, 97, 98] and start_of("", Tokenizer([])) == [256]
    other = Tokenizer([], "gpt2", {"<|endoftext|>": 256})
    assert start_of("ab", other) == [97, 98] and start_of("", other) == [256]
    with pytest.raises(ValueError, match="to open a document"):
        start_of("", Tokenizer([], "gpt2", {}))


@pytest.fixture
def runs(tmp_path):
    """Two runs that were never trained: `old`, and `new`, which saved last."""
    tokenizer, config = Tokenizer.train(["spam and eggs " * 9], 280), Config(
        n_layer=1, d_model=16, n_head=1, n_kv_head=1, d_ff=16, seq_len=32)
    for name in ("old", "new"):
        folder = start_run(tmp_path, name)
        (folder / "config.json").write_text(json.dumps(
            as_json(config) | {"data_hash": "", "data_folders": []}))
        tokenizer.save(folder / "tokenizer.json")
        save_checkpoint(folder, 7, tensors(GPT(config.gpt(tokenizer.vocab_size))), {})
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
    main([*options, "--top-k", "3", "--top-p", "0.9", "--min-p", "0.01", "--prompt", ""])
    capsys.readouterr()
    main([*options, "--guesses", "4"])
    assert capsys.readouterr().out == first.out, "guesses change nothing"
    main([*options[:2], "--prompt", "spam", "eggs", "--samples", "2", "--tokens", "3"])
    out = capsys.readouterr().out
    assert out.count("---- ") == 4 and out.count("\nspam") == 2 == out.count("\neggs")
    main([*options[:2], "--prompt", "spam", "eggs", "--tokens", "3", "--logprobs"])
    lines = capsys.readouterr().out.splitlines()
    places = [n for n, line in enumerate(lines) if line.startswith(("---- 1 of 2", "---- 2 of 2"))]
    assert places[0] == 0 and len(lines) - places[1] >= 4 and lines[1].startswith("spam"), (
        "in the order of the prompts, each text, then its ids")
    main([*options[:2], "--chat", "--prompt", "spam", "--tokens", "2", "--logprobs"])
    assert "spam" not in capsys.readouterr().out
    assert "no run 'x'" in fails(main, "--runs-dir", runs, "--run", "x")
    assert "no run with a checkpoint" in fails(main, "--runs-dir", runs / "nowhere")
    assert "top_p" in fails(main, "--runs-dir", runs, "--top-p", 0)
    assert "temperature" in fails(main, "--runs-dir", runs, "--temperature", "nan")
    assert "samples is 0, but must be" in fails(main, "--runs-dir", runs, "--samples", 0)
    assert "nowhere" in fails(main, "--weights", runs / "nowhere")
    assert "give one of them" in fails(main, "--weights", runs / "nowhere", "--run", "old")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xff"), encoding="utf-8"))
    assert "can't decode byte 0xff" in fails(main, "--run", "none", "--prompt", "-"), "not the run"
    (runs / "new" / "tokenizer.json").write_text("{}")
    assert "tokenizer.json" in fails(main, "--runs-dir", runs)
