"""Tests of machine.py."""

import pytest
import torch

from machine import choose_device, keep_freed_memory, main, matmul_peak


def test_choose_device():
    assert choose_device("cpu") == "cpu" and choose_device() in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cuda is not available here; there is"):
            choose_device("cuda")


def test_matmul_peak():
    """Between what a pocket calculator and what a room full of machines could do."""
    assert 1e8 < matmul_peak(seconds=0.05) < 1e15


def test_keep_freed_memory():
    """It changes where memory comes from, and nothing that is computed with it."""
    before = torch.ones(3_000_000).sum()
    keep_freed_memory()
    assert torch.ones(3_000_000).sum() == before


def test_command_line(capsys):
    main()
    assert "GFLOP/s" in capsys.readouterr().out
