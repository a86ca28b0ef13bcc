"""The machine: its device, speed and free memory, and how glibc allocates memory.

Nothing about models; a first reading may skip it.

    python 03_model/extras/machine.py

Next: budget.py.
"""

import ctypes
import functools
import os
import sys
import time
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, choose_device, read_text, run

import torch


def keep_freed_memory():
    """Ask glibc not to return freed memory to the system: every step allocates the same large
    blocks again, and each page that the system maps anew costs a page fault. No effect elsewhere.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap too
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: and the heap keeps them
    except (OSError, AttributeError):
        pass


@functools.cache
def fast_products():
    """Let oneDNN make float32's matrix products on processors with AVX-512 that aren't Intel's, for
    which MKL, torch's choice, has slower kernels only: twice as fast on a Zen 5, and as exact.

    torch gives float32 to oneDNN only if a product may use bfloat16 inside. Without AMX no kernel
    does; products of several shapes that are less exact than float32 take the permission back.
    """
    cpu = getattr(torch.cpu, "get_capabilities", dict)()
    if cpu.get("avx512_f") and not cpu.get("amx_tile") and "Intel" not in cpu.get("cpu_name", ""):
        torch.set_float32_matmul_precision("medium")
        numbers = torch.linspace(-1, 1, 1 << 16)
        products = [(a, a.mT) for a in (numbers.view(256, 256), numbers.view(16, 4096),
                                        numbers.view(8, 64, 128), numbers[:4096].view(1, -1))]
        if any((a.double() @ b.double() - a @ b).abs().max() > 1e-3 * a.shape[-1] / 256
               for a, b in [*products, *((b, a) for a, b in products[:3])]):
            torch.set_float32_matmul_precision("highest")


def matmul_peak(device="cpu", dtype=torch.float32, seconds=0.1):
    """FLOP/s of a large square matrix product here and now: about the most a program can reach."""
    n = 1024 if device == "cpu" else 8192
    a = torch.randn(n, n, device=device, dtype=dtype)
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device, lambda: None)
    (a[:8] @ a).cpu()  # the first product loads libraries
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ a
        wait()
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def group_room(folder, limit, usage, stat, reclaimable):
    """Bytes left in a control group whose files have these names; inf if it has no limit.

    The system counts inactive pages of files as used, but frees them when memory is needed.
    """
    if not (folder / limit).exists() or (total := read_text(folder / limit).strip()) == "max":
        return float("inf")
    rows = dict(line.split() for line in read_text(folder / stat).splitlines())
    return int(total) - int(read_text(folder / usage)) + int(rows.get(reclaimable, 0))


def linux_memory(root):
    """Bytes that a process may still take: what is free on the machine, or, if less, in one of the
    control groups that the process is in. A container is such a group.

    root: the root of the file system, "/".
    """
    rows = dict(line.split(":") for line in read_text(root / "proc/meminfo").splitlines())
    free = int(rows["MemAvailable"].split()[0]) * 1024
    groups = root / "proc/self/cgroup"
    for line in read_text(groups).splitlines() if groups.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            top = root / "sys/fs/cgroup"
            names = "memory.max", "memory.current", "memory.stat", "inactive_file"
        elif "memory" in controllers.split(","):  # version 1
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat",
                     "total_inactive_file")
        else:
            continue
        folder = top / path.strip("/")  # not there if the container shows only its own: then top
        for group in [folder, *folder.parents][:len(folder.parts) - len(top.parts) + 1]:
            free = min(free, group_room(group, *names))
    return max(0, free)


def free_memory(device="cpu", root="/"):
    """Bytes that this process may still take on the device, or None if unknown. Never raises.

    On a Mac: for the CPU all memory, for the GPU what the system recommends.
    """
    try:
        if device == "cuda":
            return torch.cuda.mem_get_info()[0]
        if device == "mps":
            return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        if (Path(root) / "proc/meminfo").exists():
            return linux_memory(Path(root))
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except Exception:  # of any kind: a run can go on without this number
        return None


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    device = choose_device()
    print(f"{device}: {torch.get_num_threads()} threads, a matrix product reaches "
          f"{matmul_peak(device) / 1e9:,.0f} GFLOP/s, {(free_memory(device) or 0) / 1e9:,.1f} GB "
          "of memory are free")


if __name__ == "__main__":
    run(main)
