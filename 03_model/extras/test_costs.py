"""Tests of costs.py: the table that budget.py prints, and memory that is handed back."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from budget import main
from costs import column, evaluation_memory
from family import MODELS, model_config
from gpt import GPTConfig


def test_column():
    """The table of GPT-2, checked with a pencil."""
    parameters, training, cache = column(model_config(**MODELS["gpt2"]), 8, 1e12).values()
    assert parameters["all"] == "124,439,808  100%"
    assert parameters["positions"].split() == ["786,432", "1%"] and parameters["head"] == ""
    assert training["weights"] == training["gradients"] == "498 MB"
    # weights 4 x 124,439,808, moments twice that; the stream twice, 8 x 8192 x 768; and the logits
    # of 512 positions twice, 8 x 512 x 50257, which is more than the MLP's 8 x 8192 x 3072
    assert training["evaluation"] == "1.75 GB"
    # 12 x 12 x 768^2 in the blocks and 768 x 50257 in the head, 6 FLOPs each; 12 x 12 x 768 x 1024
    assert training["a token"] == "854.4 MFLOP" and training["at best"] == "1,170.4 tokens/s"
    assert cache == {"a token": "73.7 kB", "a window": "75.5 MB"}


def test_evaluation_memory():
    """12 C^2 numbers in the block, V C in each table; C = 4, V = 9, 3 positions; with a pencil."""
    config = GPTConfig(vocab_size=9, seq_len=3, n_layer=1, n_head=1, n_kv_head=1, d_model=4,
                       d_ff=16)
    assert evaluation_memory(config, 2) == {
        "weights": 4 * 264, "copies": 0, "optimizer": 8 * 264, "activations": 6 * 2 * 16,
        "workspace": 6 * 4 * 41}, ("of each position 12 for q, k and v, 8 for q and k turned, 12 "
                                   "for the result, and 3 times 3 scores")
    low = evaluation_memory(config, 400, "muon", "bfloat16")
    assert low["copies"] == 2 * 228 and low["optimizer"] == 4 * 192 + 8 * 72
    assert low["workspace"] == 1200 * 2 * 32


def test_command_line(capsys, fails):
    main(["--n-layer", "2", "--n-kv-head", "1"])
    out = capsys.readouterr().out
    assert "KV cache" in out and "positions" not in out and "norms" not in out
    main(["--model", "gpt2-xl", "llama-7b", "--batch-size", "1"])
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["gpt2-xl", "llama-7b"]
    for n in ("1,557,611,200", "6,738,415,616", "1,638,400"):
        assert n in out
    main(["--model", "llama-7b", "--n-layer", "1"])
    assert "6,738,415,616" not in capsys.readouterr().out, "an option goes before the model's field"
    assert "n_layer is 0" in fails(main, "--n-layer", 0)
    assert "invalid int value" in fails(main, "--n-layer", "two")
    assert "batch_size is 0" in fails(main, "--batch-size", 0)
    assert "invalid choice: 'gpt3'" in fails(main, "--model", "gpt3")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_return_freed_memory():
    """Blocks above the size go back when they are freed, also after keep_freed_memory()."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("glibc's")
    program = f"""
import sys
sys.path[:0] = {[p for p in sys.path if p]!r}
import torch
from costs import return_freed_memory
from machine import keep_freed_memory
def kept():
    def used():
        return int(open("/proc/self/statm").read().split()[1]) * 4096
    before = used()
    x = [torch.zeros(10**6) for _ in range(50)]
    del x
    return used() - before
keep_freed_memory()
print(kept() > 150e6)
return_freed_memory(2**20)
print(kept() < 20e6)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "True"], done.stdout + done.stderr
