"""The machine that does the work: which device, how fast, and how it hands out memory.

Nothing about models; a first reading may skip it.

    python 03_model/machine.py
"""

import ctypes
import sys
import time
from pathlib import Path

import torch

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import Parser, run


def choose_device(name="auto"):
    """"cuda", "mps" or "cpu": what was asked for, or the first of them that is there."""
    works = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
             "cpu": True}
    there = [device for device in works if works[device]]
    if name == "auto":
        return there[0]
    if name not in there:
        raise ValueError(f"device {name} is not available here; there is {', '.join(there)}")
    return name


def keep_freed_memory():
    """Ask glibc not to hand freed memory back: every step takes the same large blocks again, and
    each page that the system gives out anew costs a fault. No effect on other systems.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap too
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: and the heap keeps them
    except (OSError, AttributeError):
        pass


def matmul_peak(device="cpu", dtype=torch.float32, seconds=0.4):
    """FLOP/s of a large square matrix product here and now: what a perfect program would reach."""
    n = 1024 if device == "cpu" else 8192
    a = torch.randn(n, n, device=device, dtype=dtype)
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device, lambda: None)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        wait()
        start = time.perf_counter()
        a @ a
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    device = choose_device()
    print(f"{device}: {torch.get_num_threads()} threads, a matrix product reaches "
          f"{matmul_peak(device) / 1e9:,.0f} GFLOP/s")


if __name__ == "__main__":
    run(main)
