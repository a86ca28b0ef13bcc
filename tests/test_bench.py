"""bench.py runs, on little text: what it prints is measured by hand, that it can fail is not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bpe import Tokenizer
from formats import write_tiktoken

BENCH = Path(__file__).with_name("bench.py")
ORACLES = ("tiktoken", "tokenizers")


def bench(*arguments, code=0):
    done = subprocess.run([sys.executable, BENCH, *arguments], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_parity(tmp_path):
    for name in ORACLES:
        pytest.importorskip(name, reason="an oracle of tests/requirements.txt")
    text = "The cat's hat, 12345 of them!\n\nnaïve 🙂  x\n" * 20
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": [text, "more"]}) + "\n")
    write_tiktoken(Tokenizer.train([text], 300, "gpt4", ()), tmp_path / "cl100k_base.tiktoken")
    found = bench("parity", "--data", str(tmp_path))
    assert found.count("all equal") == 2 and "DIFFERENT" not in found
    # The same ranks under a name that stands for another pattern: now something must differ.
    (tmp_path / "cl100k_base.tiktoken").rename(tmp_path / "unknown.tiktoken")
    assert "no split pattern" in bench("parity", "--data", str(tmp_path), code=2)


@pytest.mark.slow
def test_tokenizer(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat and so did the dog\n" * 2000)
    found = bench("tokenizer", "--text", str(tmp_path / "a.txt"), "--sizes", "280", "--runs", "1",
                  "--encode", str(tmp_path / "a.txt"))
    assert found.count("| ours, 2 workers |") == 1 and found.count("| ours, 1 process, warm |") == 2


@pytest.mark.slow
def test_data(tmp_path):
    rows = [{"text": " ".join(f"w{(i * j) % 97}" for j in range(150))} for i in range(1, 120)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = bench("data", "--source", f"jsonl:{tmp_path / 'a.jsonl'}", "--runs", "1",
                  "--vocab-size", "280", "--data-dir", str(tmp_path / "data"))
    assert all(f"\n| {name} |" in found for name in ("random", "stream", "bestfit", "ours",
                                                     "tokenizer alone", "text to shards"))
