"""Tests of evals.py."""

import json
import math
import random

import numpy as np
import pytest
import torch

import evals
import train
from bpe import Tokenizer
from evals import (alternatives, by_position, centred, common_prefix, common_suffix, is_right,
                   main, perplexity, read_items, shots, span_losses, spans, standard_error, windows)
from gpt import GPT, GPTConfig
from metrics import read_metrics
from sample import RunOptions


def test_windows():
    assert windows(10, 4, 4) == [(0, 0), (4, 0), (8, 0)], "side by side, the last one shorter"
    assert windows(10, 4, 2)[:2] == [(0, 0), (2, 2)], (
        "a window that begins 2 ids further on repeats the first 2 predictions")
    for n in range(2, 30):
        for stride in range(1, 6):
            scored = [i + 1 for start, skip in windows(n, 5, stride)
                      for i in range(start + skip, min(start + 5, n - 1))]
            assert scored == list(range(1, n)), (
                f"each target must be scored once; windows({n}, 5, {stride}) score {scored}")
            assert all(start < n - 1 for start, _ in windows(n, 5, stride)), (
                f"windows({n}, 5, {stride}): a window has nothing to predict")
    for stride in (0, 6):
        with pytest.raises(ValueError, match=f"stride is {stride}"):
            windows(10, 5, stride)


def test_perplexity():
    assert perplexity([math.log(4)] * 3) == pytest.approx(4.0)
    assert isinstance(perplexity(np.zeros(1, np.float32)), float), "JSON holds no float32"
    assert perplexity([math.log(2), math.log(8)]) == pytest.approx(4.0), (
        "exp of the mean, not the mean of exps (which is 5)")


def test_by_position():
    assert by_position(np.array([4.0, 2.0, 6.0, 2.0, 8.0]), 2).tolist() == [6.0, 2.0], (
        "the mean over windows at each position, the last window, which is shorter, included")
    assert by_position(np.arange(6.0), 6).tolist() == list(range(6)), "of one window, its losses"


def test_standard_error():
    """One byte a token: it is that of a mean over documents; and it is what a bootstrap finds."""
    values = np.array([1.0, 2.0, 4.0, 5.0])
    plain = values.std(ddof=1) / 2
    assert standard_error(values, np.ones(4), np.arange(4)) == pytest.approx(plain)
    doubled = np.repeat(values, 2)
    twice = standard_error(doubled, np.ones(8), np.repeat(np.arange(4), 2))
    assert twice == pytest.approx(plain), (
        "more tokens of the same documents are no more evidence")
    seed = 0
    rng = np.random.default_rng(seed)
    documents = np.repeat(np.arange(200), rng.integers(5, 50, 200))
    sizes = rng.integers(1, 6, len(documents))
    bits = sizes * (2 + rng.normal(size=200)[documents] / 4) + rng.normal(size=len(documents))
    B, S = np.bincount(documents, bits), np.bincount(documents, sizes)
    draws = rng.integers(0, 200, (4000, 200))
    bootstrap = (B[draws].sum(1) / S[draws].sum(1)).std()
    assert standard_error(bits, sizes, documents) == pytest.approx(bootstrap, rel=0.1), f"{seed}"


@pytest.fixture(scope="module")
def run(tmp_path_factory, quick_runs):
    base = tmp_path_factory.mktemp("evals")
    for i in range(3):
        (base / f"{i}.txt").write_text("".join(f"{i} spam {j} eggs\n" for j in range(400)))
    arguments = ["--data", f"folder:{base}", "--vocab-size", "300", "--steps", "40", "--device",
                 "cpu", "--data-dir", str(base / ".data"), "--runs-dir", str(base / ".runs")]
    train.main(["--preset", "nano", *arguments])
    return base / ".runs"


def figure(out):
    return float(out.split("bits per byte ")[1].split()[0])


def test_command_line(run, tmp_path, capsys, fails):
    main(["--runs-dir", str(run), "--device", "cpu"])
    out = capsys.readouterr().out
    final = read_metrics(run / "nano" / "metrics.jsonl")[-1]
    assert figure(out) == pytest.approx(final["val_bits_per_byte"], abs=1e-4), "as when it trained"
    for name in ("uniform", "unigram", "zlib -9", "lzma -9", "this model", "perplexity",
                 "over 3 documents"):
        assert name in out
    assert (run / "nano" / "context.png").read_bytes().startswith(b"\x89PNG")

    picture = (run / "nano" / "context.png").read_bytes()
    text = tmp_path / "text"
    text.write_text("0 spam 1 eggs\n" * 30)
    main(["--runs-dir", str(run), "--file", str(text)])
    on_file = capsys.readouterr().out
    assert f"{text}: {14 * 30} bytes" in on_file
    main(["--runs-dir", str(run), "--file", str(text), "--stride", "8"])
    assert figure(capsys.readouterr().out) != figure(on_file)

    assert "no run 'x'" in fails(main, "--runs-dir", run, "--run", "x")
    assert "stride is 65" in fails(main, "--runs-dir", run, "--stride", 65)
    nowhere = ["--runs-dir", tmp_path / "nowhere"]  # what is quick to find is found first
    assert "No such file" in fails(main, *nowhere, "--file", tmp_path / "none")
    assert "stride is -1, but must be a number from 0" in fails(main, *nowhere, "--stride", -1)
    assert (run / "nano" / "context.png").read_bytes() == picture, "that of the validation set"
    text.write_text("")
    assert "is empty" in fails(main, *nowhere, "--file", text)
    trained_with = (run / "nano" / "tokenizer.json").read_bytes()
    Tokenizer.train(["abc " * 9], 300).save(run / "nano" / "tokenizer.json")
    assert "fit the config" in fails(main, "--runs-dir", run)
    (run / "nano" / "tokenizer.json").write_bytes(trained_with)
    text.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in fails(main, *nowhere, "--file", text)


# ---- tasks ----
CHOICE = [{"query": f"{i} + 1 =", "choices": [f"{i + 1}", f"{i + 2}", "0"], "gold": i % 2}
          for i in range(11)]
CHOICE.append(CHOICE[3])  # an equal one, which is another item
SCHEMA = [{"context_options": ["The cat sat, as the cat", "The cat sat, as the mat"],
           "continuation": "was tired.", "gold": 0},
          {"context_options": ["It fell, as the ice", "It fell, as the ax"],
           "continuation": "was thin.", "gold": 1}]
LANGUAGE = [{"context": " One, two, ", "continuation": "three "},
            {"context": "Four, five,", "continuation": "six"}]


def lines(items):
    return "\n".join(map(json.dumps, items)) + "\n"


def test_read_items():
    kind, items = read_items(lines(CHOICE) + "\n", "FILE")
    assert kind == "multiple_choice"
    expected = CHOICE.copy()
    random.Random(1337).shuffle(expected)
    assert items == expected, "items are shuffled by random.Random(1337)"
    assert read_items(lines(SCHEMA), "FILE")[0] == "schema"
    assert read_items(lines(LANGUAGE), "FILE")[0] == "language_modeling"
    odd = [LANGUAGE[0] | {"gold": "b", "choices": 5, "context_options": [1]}]
    assert read_items(lines(odd), "FILE") == ("language_modeling", odd), "other fields are ignored"
    for text, message in (("", "FILE holds no item"), ("{", "FILE, line 1: "),
                          ("\n[1]", "FILE, line 2: no item"), ("[" * 10**5, "FILE, line 1: "),
                          (lines([CHOICE[0] | {"gold": 3}]), "line 1: no item of a task"),
                          (lines([CHOICE[0] | {"gold": -1}]), "line 1: no item of a task"),
                          (lines([CHOICE[0] | {"gold": True}]), "line 1: no item of a task"),
                          (lines([CHOICE[0] | {"choices": ["1"]}]), "line 1: no item of a task"),
                          (lines([CHOICE[0] | {"choices": []}]), "line 1: no item of a task"),
                          (lines([CHOICE[0] | {"choices": ["a", 1]}]), "line 1: no item"),
                          (lines([{"context": "a"}]), "which needs query, choices, gold; or con"),
                          (lines([CHOICE[0] | {"choices": 5}]), "line 1: no item of a task"),
                          (lines([CHOICE[0] | {"gold": "0"}]), "line 1: no item of a task"),
                          (lines([CHOICE[0] | {"gold": 0.0}]), "line 1: no item of a task"),
                          (lines([SCHEMA[0] | {"context_options": ["a"], "gold": 1}]), "line 1: "),
                          (lines([CHOICE[0], LANGUAGE[0]]),
                           "FILE holds language_modeling and multiple_choice")):
        with pytest.raises(ValueError) as error:
            read_items(text, "FILE")
        assert message in str(error.value), f"{text[:99]}: {error.value}"


def test_shots():
    for i in range(12):
        before = CHOICE.copy()
        found = shots(CHOICE, i, 5)
        assert i in (3, 11) or CHOICE[i] not in found, (
            "an item must not stand among its own solved examples")
        others = [j for j in range(12) if j != i]
        expected = [CHOICE[j] for j in random.Random(1234 + i).sample(others, 5)]
        assert found == expected, "the sample must be that of random.Random(1234 + i)"
        assert CHOICE == before, "the list of items must stay as it is"
    assert shots(CHOICE, 3, 0) == [], "without shots there are none"
    assert len(shots(CHOICE, 3, 11)) == 11, "all others can be drawn"
    with pytest.raises(ValueError) as error:
        shots(CHOICE, 3, 12)
    assert str(error.value) == "12 examples beside the item itself can't be drawn from 12", (
        f"the message is to be that of the docstring, not {error.value}")


def test_alternatives():
    assert alternatives("multiple_choice", CHOICE[2], [CHOICE[1]]) == [
        "1 + 1 = 3\n\n2 + 1 = 3", "1 + 1 = 3\n\n2 + 1 = 4", "1 + 1 = 3\n\n2 + 1 = 0"], (
        "a shot is solved by its gold choice, ends in a blank line, and stands before every text")
    assert alternatives("multiple_choice", CHOICE[0], [], "\nAnswer: ")[0] == (
        "0 + 1 =\nAnswer: 1"), "the delimiter stands before every answer"
    assert alternatives("schema", SCHEMA[0], [SCHEMA[1]], ", ") == [
        "It fell, as the ax, was thin.\n\nThe cat sat, as the cat, was tired.",
        "It fell, as the ax, was thin.\n\nThe cat sat, as the mat, was tired."], (
        "in a schema the options are contexts, and the continuation is the same for all")
    assert alternatives("language_modeling", LANGUAGE[1], [LANGUAGE[0]]) == [
        "One, two, three \n\nFour, five,", "One, two, three \n\nFour, five, six"], (
        "contexts are stripped, continuations are not, and the text without the continuation comes "
        "first, stripped")
    assert alternatives("language_modeling", LANGUAGE[0], [], "\nAnswer: ") == [
        "One, two,\nAnswer:", "One, two,\nAnswer: three "], "continuations keep their spaces"


def test_common_prefix():
    assert common_prefix([[1, 2, 3], [1, 2, 4, 3]]) == 2
    assert common_prefix([[1, 2], [1, 2, 3], [1, 2, 4]]) == 2, "a row may be where all others begin"
    assert common_prefix([[1, 2], [1, 2]]) == 2, "equal rows have all ids in common"
    assert common_prefix([[1, 2], [3, 2]]) == 0, "rows that begin differently have none"
    assert common_prefix([[1, 2], [1, 2], [1, 3]]) == 1, "all rows count, not the first two alone"
    assert common_prefix([[1, 2, 3, 4], [1, 0, 3, 4]]) == 1, "what follows a difference is not it"


def test_common_suffix():
    assert common_suffix([[1, 2, 3], [1, 2, 4, 3]]) == 1, "counted from the ends of the rows"
    assert common_suffix([[5, 1, 2], [1, 2], [6, 7, 1, 2]]) == 2, "rows may differ in length"
    assert common_suffix([[1, 2], [1, 3]]) == 0, "rows that end differently have none"
    rows = [[1, 2], [3, 2]]
    common_suffix(rows)
    assert rows == [[1, 2], [3, 2]], "the rows must stay as they are"


LETTERS = Tokenizer([])  # an id for each byte
BOS = LETTERS.special["<|bos|>"]


def test_spans():
    def ids(text):
        return [BOS, *text.encode()]

    found = spans("multiple_choice", ["q ab", "q acb"], LETTERS, 100)
    assert [row for row, _ in found] == [ids("q ab"), ids("q acb")], "a row begins with <|bos|>"
    assert found == [(ids("q ab"), 4), (ids("q acb"), 4)], (
        "scored is what is behind the common prefix: not the question, nor what choices share")
    found = spans("schema", ["a cat is", "a dog is"], LETTERS, 100)
    assert found == [(ids("a cat is"), 6), (ids("a dog is"), 6)], (
        "in a schema the common suffix is scored, not what is behind the common prefix")
    found = spans("schema", ["a is", "an is"], LETTERS, 100)
    assert found == [(ids("a is"), 2), (ids("an is"), 3)], "its place differs from row to row"
    found = spans("language_modeling", ["ab", "ab c"], LETTERS, 100)
    assert found == [(ids("ab c"), 3)], "of language modelling, the continuation in the last text"
    merging = Tokenizer([(97, 98)])  # "ab" has one id, so that of "a" comes in the prompt alone
    found = spans("language_modeling", ["xa", "xab c"], merging, 100)
    assert found == [([BOS + 1, *b"x", 256, *b" c"], 2)], (
        "an id that holds the end of the prompt and the beginning of the continuation is scored")


def test_spans_in_a_small_window():
    a, b, c = b"abc"
    assert spans("multiple_choice", ["ab", "acb"], LETTERS, 3) == [
        ([BOS, a, b], 2), ([a, c, b], 1)], "cropped on the left, and the start moves along"
    found = spans("language_modeling", ["a", "abc"], LETTERS, 2)
    assert found == [([b, c], 1)], "the first id of a row can't be scored, whatever is cropped"
    assert spans("multiple_choice", ["ab", "ab"], LETTERS, 9) == [([BOS, a, b], 2)] * 2, (
        "of equal choices the last id is scored")
    assert spans("multiple_choice", ["a", "ab"], LETTERS, 9) == [
        ([BOS, a], 1), ([BOS, a, b], 2)], "at least one id of each row is scored"
    for texts, seq_len in ((["", "a"], 9), (["ab", "ac"], 1)):
        with pytest.raises(ValueError, match="has no id to be predicted"):
            spans("multiple_choice", texts, LETTERS, seq_len)
    assert spans("schema", ["ab", "ab"], LETTERS, 9) == [([BOS, a, b], 1)] * 2, (
        "equal rows have all in common, but nothing stands before the first id")


@pytest.fixture(scope="module")
def model():
    model = GPT(GPTConfig(vocab_size=300, seq_len=32, n_layer=2, n_head=2, n_kv_head=1, d_model=32,
                          d_ff=64), seed=1)
    torch.nn.init.normal_(model.head.weight, std=2.0)  # so that ids differ in likelihood
    for block in model.blocks:
        torch.nn.init.normal_(block.attention.out.weight, std=0.5)
    return model.eval()


def test_span_losses(model, explains, monkeypatch):
    row = torch.randint(0, 300, (20,), generator=torch.Generator().manual_seed(3)).tolist()
    with torch.no_grad():
        for i in range(4, 20):  # the likeliest ids of a text are hits, some of them
            row[i] = int(model(torch.tensor([row[:i]]))[0, -1].argmax()) if i % 2 else row[i]
        logits = model(torch.tensor([row]))[0]
    read, scored = [], []
    monkeypatch.setattr(model, "hidden", lambda ids, *more, hidden=model.hidden:
                        read.append(ids.shape) or hidden(ids, *more))
    monkeypatch.setattr(model, "logits", lambda x, logits=model.logits:
                        scored.append(x.numel() // 32) or logits(x))
    for start in (1, 5, 19):
        with explains("one pass over the row, without its last id, gives all losses"):
            nats, hits = span_losses(model, row, start)
        expected = -logits.log_softmax(-1)[range(start - 1, 19), row[start:]]
        assert nats.shape == hits.shape == (20 - start,), "a loss for row[start] and each id after"
        assert torch.allclose(nats, expected, atol=1e-5), (
            "the loss of an id comes from the logits of the position before it")
        assert hits.tolist() == (logits.argmax(-1)[start - 1:-1] == torch.tensor(
            row[start:])).tolist(), "a hit is an id that is the likeliest of all"
        assert read.pop() == (1, 19) and not read, "one pass over the row without its last id"
        assert scored.pop() == 20 - start and not scored, "logits of the span alone"
    assert not nats.requires_grad, "nothing is to be learned here"


def test_is_right():
    def scored(*rows):
        return [(torch.tensor(nats), torch.tensor(hits)) for nats, hits in rows]
    item = {"gold": 1}
    losses = scored(([2.0], [True]), ([1.0, 1.5], [False, False]))
    assert is_right("multiple_choice", item, losses), "the mean decides, not the sum"
    assert not is_right("schema", {"gold": 0}, losses), "the row with the lowest mean is chosen"
    assert not is_right("schema", {"gold": 2}, [losses[1], losses[0], losses[0]]), (
        "the lowest loss is chosen, not the highest")
    assert is_right("language_modeling", {}, scored(([9.0, 1.0], [True, True]))), (
        "whatever the loss, if all ids are the likeliest")
    for hits in ([True, False], [False, True]):
        assert not is_right("language_modeling", {}, scored(([0.1, 0.1], hits))), (
            "every id must be the likeliest, not the first or the last alone")
    equal = scored(([1.0, 1.0], [False, True]), ([1.0], [False]))
    assert is_right("schema", {"gold": 0}, equal) and not is_right("schema", {"gold": 1}, equal), (
        "of equal means the first row's is chosen")
    for kind in ("schema", "language_modeling"):
        with pytest.raises(ValueError, match="nan or infinite"):
            is_right(kind, {"gold": 0}, scored(([math.nan], [True]), ([1.0], [True])))
    assert isinstance(is_right("language_modeling", {}, scored(([0.1], [True]))), bool), (
        "a Python bool, which JSON can hold")


def test_centred():
    assert centred(0.625, 25) == 0.5, "the baseline is in percent: 25 is 0.25"
    assert centred(0.25, 25) == 0, "guessing is 0"
    assert centred(1, 9.1) == pytest.approx(1), "all solved is 1"
    assert centred(0, 50) == -1, "worse than guessing is below 0"
    assert centred(0.3, 0) == 0.3, "without a baseline it is the accuracy"


def test_task(run, tmp_path, capsys, fails):
    """The command: an item, the losses of which its accuracy is made, and the accuracy."""
    path = tmp_path / "task.jsonl"
    path.write_text(lines(CHOICE))
    main(["--runs-dir", str(run), "--task", str(path), "--item", "2", "--shots", "1",
          "--delimiter", "\\n"])
    out = capsys.readouterr().out
    kind, items = read_items(lines(CHOICE), "")
    assert f"{items[2]['query']}\n" in out.replace("\\n", "\n"), "the item, with the delimiter"
    assert out.count("nats an id: ") == 3 and out.count("gold ") == 1
    assert out.count("\nchosen ") == 1 and "the lowest mean is chosen" in out
    folder, trained, tokenizer, config, step = RunOptions(runs_dir=str(run)).load()
    right = []
    for i, item in enumerate(items):
        texts = alternatives(kind, item, shots(items, i, 1), "\n")
        scored = spans(kind, texts, tokenizer, config.seq_len)
        losses = [span_losses(trained, row, start) for row, start in scored]
        right.append(is_right(kind, item, losses))
        if i == 2:
            assert all(f"{nats.mean():6.3f} nats an id" in out for nats, _ in losses)
    guessing = 100 / 3
    assert f"{sum(right)} of 12 solved" in out and (
        f"centred accuracy {centred(np.mean(right), guessing):.3f}" in out)
    path.write_text(lines(LANGUAGE))
    main(["--runs-dir", str(run), "--task", str(path)])
    out = capsys.readouterr().out
    assert "of 2 solved" in out and "all must be" in out and "chosen" not in out
    path.write_text(lines(SCHEMA))
    main(["--runs-dir", str(run), "--task", str(path)])
    rows = [line.split("nats an id: ")[1].split("'")[0].strip()
            for line in capsys.readouterr().out.splitlines() if "nats an id" in line]
    options = read_items(lines(SCHEMA), "")[1][0]["context_options"]
    assert rows[0] != rows[1] and all(row in option for row, option in zip(rows, options)), (
        f"of each context what differs must be shown: {rows}")
    assert "(cropped)" not in out
    path.write_text(lines(CHOICE))
    main(["--runs-dir", str(run), "--task", str(path), "--shots", "11"])
    assert "(cropped) ..." in capsys.readouterr().out, "the window is 64 ids long"
    path.write_text(lines(LANGUAGE))

    nowhere = ["--runs-dir", tmp_path / "nowhere", "--task", path]  # found before a model is read
    assert "leave out --file or --task" in fails(main, *nowhere, "--file", path)
    assert "item is 2, but the last is 1" in fails(main, *nowhere, "--item", 2)
    assert "2 examples beside the item" in fails(main, *nowhere, "--shots", 2)
    path.write_text("{}")
    assert "line 1: no item of a task" in fails(main, *nowhere)


def test_an_item_is_shown_before_the_others_are_scored(run, tmp_path, capsys, monkeypatch):
    """A large model takes hours for a task: nobody waits for them to see its first item."""
    path, calls = tmp_path / "task.jsonl", []
    path.write_text(lines(CHOICE))

    def stopped(*how, score=span_losses):
        calls.append(how)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return score(*how)
    monkeypatch.setattr(evals, "span_losses", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(["--runs-dir", str(run), "--task", str(path)])
    assert capsys.readouterr().out.count("nats an id: ") == 3


def test_a_model_from_elsewhere(run, tmp_path, capsys, fails):
    """Bits per byte of a Hugging Face folder are those of the run that it was exported from."""
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    from weights import export
    folder, trained, tokenizer, config, step = RunOptions(runs_dir=str(run)).load()
    export(trained, tokenizer, tmp_path / "exported")
    text = tmp_path / "text"
    text.write_text("0 spam 1 eggs\n" * 30)
    main(["--runs-dir", str(run), "--file", str(text)])
    of_the_run = figure(capsys.readouterr().out)
    main(["--weights", str(tmp_path / "exported"), "--file", str(text)])
    out = capsys.readouterr().out
    assert figure(out) == pytest.approx(of_the_run, abs=2e-4) and "lzma -9" in out
    assert "no validation set: give --file or --task" in fails(
        main, "--weights", tmp_path / "exported")
