"""Tests of machine.py."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import machine
from machine import fast_products, free_memory, main, matmul_peak


def test_matmul_peak():
    """Between what a pocket calculator and what a room full of machines could do."""
    assert 1e8 < matmul_peak(seconds=0.05) < 1e15


GB = 2**30
STAT = {"memory.stat": f"inactive_file {GB}\ntotal_inactive_file {2 * GB}\n"}


def system(root, available, groups="0::/", files={}):
    """A Linux system's files under `root`: meminfo, the process's groups, and files of groups."""
    wanted = {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {available // 1024} kB\n",
              "proc/self/cgroup": groups}
    for name, text in {**wanted, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(str(text).strip() + "\n")
    return root


def test_free_memory_of_a_machine(tmp_path):
    assert free_memory("cpu", system(tmp_path, 8 * GB)) == 8 * GB
    (tmp_path / "proc/self/cgroup").unlink()
    assert free_memory("cpu", tmp_path) == 8 * GB, "a kernel without groups"
    assert 10**6 < free_memory() < 10**15, "this machine's"


def test_free_memory_of_a_container(tmp_path):
    """Version 2: every group above counts, too, files read once don't, and it is never below 0."""
    job = {"a/b/memory.max": "max", "a/memory.max": 6 * GB, "a/memory.current": 5 * GB,
           "a/memory.stat": STAT["memory.stat"]}
    found = free_memory("cpu", system(tmp_path, 8 * GB, "0::/a/b", job))
    assert found == 2 * GB, "6 GB, 5 used, one of them by files that nobody looks at"
    system(tmp_path, 1 * GB, "0::/a/b", job)
    assert free_memory("cpu", tmp_path) == GB, "the machine has less than the group"
    system(tmp_path, 8 * GB, "0::/a/b", job | {"a/memory.current": 9 * GB})
    assert free_memory("cpu", tmp_path) == 0
    top = {"memory.max": 3 * GB, "memory.current": 2 * GB, **STAT}
    found = free_memory("cpu", system(tmp_path / "other", 8 * GB, "0::/not/shown/here", top))
    assert found == 2 * GB, "a container that shows its own group as the top"


def test_free_memory_of_an_older_container(tmp_path):
    files = {"memory.limit_in_bytes": 6 * GB, "memory.usage_in_bytes": 5 * GB, **STAT}
    groups = "5:cpu,cpuacct:/x\n4:memory:/job\n0::/"
    root = system(tmp_path, 8 * GB, groups, {f"memory/job/{k}": v for k, v in files.items()})
    assert free_memory("cpu", root) == 3 * GB
    unlimited = {"memory/memory.limit_in_bytes": 2**63 - 4096, "memory/memory.usage_in_bytes": 0,
                 "memory/memory.stat": STAT["memory.stat"], "memory/job/memory.limit_in_bytes":
                 2**63 - 4096}
    assert free_memory("cpu", system(tmp_path, 8 * GB, groups, unlimited)) == 8 * GB


def test_free_memory_never_raises(tmp_path, monkeypatch):
    (system(tmp_path, GB) / "proc/meminfo").write_text("what is this")
    assert free_memory("cpu", tmp_path) is None
    monkeypatch.setattr(machine.os, "sysconf", lambda name: {"SC_PHYS_PAGES": 10,
                                                             "SC_PAGE_SIZE": 4096}[name])
    assert free_memory("cpu", tmp_path / "mac") == 40960, "a Mac has no /proc"
    monkeypatch.delattr(machine.os, "sysconf")
    assert free_memory("cpu", tmp_path / "windows") is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7, 9))
    assert free_memory("cuda") == 7


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
    out = capsys.readouterr().out
    assert "GFLOP/s" in out and "GB of memory are free" in out


@pytest.mark.parametrize("cpu, allowed", [
    ({"avx512_f": True, "cpu_name": "AMD EPYC"}, "medium"), ({"cpu_name": "AMD EPYC"}, "highest"),
    ({"avx512_f": True, "cpu_name": "Intel Xeon"}, "highest"), ({}, "highest"),
    ({"avx512_f": True, "amx_tile": True, "cpu_name": "AMD"}, "highest")])
def test_fast_products(monkeypatch, cpu, allowed):
    """Another library may be as exact only, whatever the processor says of itself."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu)
    a, b = torch.randn(2, 300, 200, generator=torch.Generator().manual_seed(0)).double()
    try:
        fast_products.__wrapped__()
        assert torch.get_float32_matmul_precision() in (allowed, "highest")
        for x, y in ((a, b.T), (b.T, a), (a[None], b.T[None])):
            off = (x.float() @ y.float() - x @ y).abs().max()
            assert off < 1e-4, f"a product is off by {off}"
        monkeypatch.setattr(torch.Tensor, "__matmul__", lambda x, y: torch.matmul(
            x.bfloat16(), y.bfloat16()).float() if x.dtype == torch.float else torch.matmul(x, y))
        fast_products.__wrapped__()
        assert torch.get_float32_matmul_precision() == "highest", "bfloat16 has shown"
    finally:
        torch.set_float32_matmul_precision(before)
