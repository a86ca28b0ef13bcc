"""Tests of evals.py."""

import math

import numpy as np
import pytest

import train
from bpe import Tokenizer
from evals import by_position, main, perplexity, standard_error, windows
from metrics import read_metrics


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
def run(tmp_path_factory):
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
