"""Tests of machine.py."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import machine
from machine import choose_device, main, matmul_peak


def test_choose_device():
    assert choose_device("cpu") == "cpu" and choose_device() in ("cpu", "cuda", "mps")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cuda is not available here; there is"):
            choose_device("cuda")


def test_matmul_peak():
    """Between what a pocket calculator and what a room full of machines could do."""
    assert 1e8 < matmul_peak(seconds=0.05) < 1e15


FAULTS = """
import resource, sys, torch
sys.path.append(sys.argv[1])
from machine import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(20_000_000)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
without = faults()
keep_freed_memory()
for _ in range(4):  # until there is a hole of this size
    faults()
print(without, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is for glibc only")
def test_keep_freed_memory():
    """Memory that was taken and freed once is taken again without new page faults."""
    done = subprocess.run([sys.executable, "-c", FAULTS, str(Path(machine.__file__).parent)],
                          capture_output=True, text=True)
    without, kept = map(int, done.stdout.split())
    assert kept < without / 10, f"{kept} page faults, {without} without it"


def test_command_line(capsys):
    main([])
    assert "GFLOP/s" in capsys.readouterr().out
