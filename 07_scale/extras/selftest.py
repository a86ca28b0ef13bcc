"""Does all of stage 7 work here? Every path trains a small model, and must reach the same bits per
byte as a single process: on all GPUs there are, or on two processes of the CPU.

Most tests run without a GPU, so run this on yours before a run that matters. In float32 a path must
agree to 1e-4 bits per byte; in 16 bits to a hundredth; on GPUs, whose float32 products are not
exact to the last bit, to a thousandth.
Left out: more than one machine; speed (tests/bench.py scale).

    python 07_scale/extras/selftest.py

Trains on this folder's own text, in a folder that is removed. Next: plan.py.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run

import torch

from metrics import read_metrics

STAGE = Path(__file__).resolve().parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
STEPS = 12

# name: (options of train.py; for each leg of the run those of scale.py, or None for a single
# process; whose result it must reach). All accumulate: a rank has four micro-batches.
ADAMW = ("--optimizer", "adamw")
PATHS = {
    "alone": ((), [None], None),
    "alone, AdamW": (ADAMW, [None], None),
    "ddp": ((), [()], "alone"),
    "zero1": ((), [("--engine", "zero1")], "alone"),
    "zero2": ((), [("--engine", "zero2")], "alone"),
    "zero2, AdamW": (ADAMW, [("--engine", "zero2")], "alone, AdamW"),
    "torch-ddp": ((), [("--engine", "torch-ddp")], "alone"),
    "fsdp2": (ADAMW, [("--engine", "fsdp2")], "alone, AdamW"),
    "recompute by hand": ((), [("--recompute", "hand")], "alone"),
    "recompute, fsdp2": (ADAMW, [("--engine", "fsdp2", "--recompute", "torch")], "alone, AdamW"),
    "zero2, then alone": ((), [("--engine", "zero2"), None], "alone"),
    "fsdp2, then zero1": (ADAMW, [("--engine", "fsdp2"), ("--engine", "zero1")], "alone, AdamW"),
    "ddp, twice": (ADAMW, [(), ()], "alone, AdamW"),
    "bfloat16": (("--dtype", "bfloat16"), [()], "alone"),
    "float16, zero2": (("--dtype", "float16"), [("--engine", "zero2")], "alone"),
    "compile": (("--compile",), [()], "alone"),
}


def commands(folder, name, n_processes):
    """Yield the command of each leg of a path. The schedule doesn't depend on a leg's last step."""
    train, legs, _ = PATHS[name]
    for i, engine in enumerate(legs, 1):
        start = ([str(STAGE.parent / "04_train" / "train.py")] if engine is None else
                 [*TORCHRUN, str(n_processes), str(STAGE / "scale.py"), *engine])
        yield [sys.executable, *start, "--preset", "nano", "--optimizer", "muon",
               "--data", f"folder:{STAGE},include=*.py", "--schedule", "inverse-sqrt",
               "--warmup", "2", "--batch-size", str(8 * n_processes), "--micro-batch", "2",
               "--steps", str(STEPS * i // len(legs)), "--data-dir", str(folder / "data"),
               "--runs-dir", str(folder), "--name", name.replace(" ", "-"),
               *(["--resume"] if i > 1 else []), *train]


def attempt(words):
    """Run a command. Returns "" if it succeeds, else a line of its error."""
    done = subprocess.run(words, capture_output=True, text=True, encoding="utf-8")
    if not done.returncode:
        return ""
    errors = [line for line in done.stderr.splitlines() if "error:" in line.lower()]
    return (errors or done.stderr.splitlines() or ["it ended without a word"])[0].strip()


def selftest(names=tuple(PATHS), seconds=float("inf")):
    """Try paths, as long as they begin within so many seconds, and print a table. SystemExit if one
    fails.
    """
    end = time.monotonic() + seconds
    gpus = torch.cuda.device_count()
    n, near, reached = gpus or 2, 1e-3 if gpus else 1e-4, {}
    print(f"{n} processes, {'NCCL' if gpus else 'gloo'}, {STEPS} steps each\n\n"
          f"{'':20}{'seconds':>8}{'bits per byte':>16}{'off by':>10}")
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(names):
            if time.monotonic() > end:
                print(f"no time for {', '.join(names[i:])}")
                names = names[:i]
                break
            start = time.perf_counter()
            trouble = next(filter(None, map(attempt, commands(Path(folder), name, n))), "")
            print(f"{name:20}{time.perf_counter() - start:8.1f}", end="", flush=True)
            if not trouble:
                run = Path(folder) / name.replace(" ", "-")
                bits = reached[name] = read_metrics(run / "metrics.jsonl")[-1]["val_bits_per_byte"]
                off = abs(bits - reached.get(PATHS[name][2], bits))
                print(f"{bits:16.5f}{off:10.0e}", end="")
                limit = 1e-2 if "float16" in name else near  # bfloat16, too
                trouble = f"more than {limit:g}" if off > limit else ""
            print(f"  FAILED: {trouble}" if trouble else "  ok", flush=True)
            failed += bool(trouble)
    if failed:
        raise SystemExit(f"{failed} of {len(names)} paths failed")
    print(f"all {len(names)} paths work")


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    selftest()


if __name__ == "__main__":
    run(main)
