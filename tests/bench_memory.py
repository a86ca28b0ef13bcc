"""Memory of real training steps beside what 07_scale/extras/plan.py says. bench.py calls it.

Every rank is a process of its own. What it took is the most that it ever had in memory (VmHWM)
less what it had before the model was built, when a step of a tiny one had loaded all libraries.
Blocks of 1 MB or more go back to the system as soon as they are free (machine.py): what is measured
is then what tensors need, and not also what glibc's heap could not use again.
Left out: GPUs, other systems than Linux.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # noqa: F401, which every optimizer asks for
import torch.distributed as dist
import torch.distributed.nn.functional  # noqa: F401, before there is a group, as in scale.py

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import run

import optim
import scale
import train
from budget import readable
from costs import return_freed_memory
from fsdp import sharded_model
from machine import free_memory
from plan import moments, parameters, peak
from recompute import recompute_blocks
from train import Config, depth_preset

# depth of a rung, windows and tokens of a micro-batch; each step has two. The larger the model, the
# fewer tokens: a step must end.
SIZES = {6: (4, 128), 8: (4, 128), 12: (2, 128), 16: (1, 128), 26: (1, 128)}
VOCABULARY = {26: 49152}
TWO_RANKS = (8, 16)
LARGE = 26  # needs 20 GB, and more with Muon


def grid():
    """Every job of the table, the smallest first."""
    for depth, (windows, tokens) in SIZES.items():
        def job(optimizer, recompute=False, engine="plain", dtype="float32"):
            return dict(depth=depth, windows=windows, tokens=tokens, optimizer=optimizer,
                        engine=engine, recompute=recompute, dtype=dtype)
        for optimizer in ("adamw", "muon")[:2 - (depth == LARGE)]:
            yield job(optimizer)
            yield job(optimizer, recompute=True)
            for engine in ("ddp", "zero1", "zero2", "fsdp2") if depth in TWO_RANKS else ():
                if (optimizer, engine) != ("muon", "fsdp2"):
                    yield job(optimizer, engine=engine)
        if depth == 8:
            yield job("adamw", dtype="bfloat16")


def ranks_of(job):
    return 1 if job["engine"] == "plain" else 2


def config_of(job):
    """The Config of a job: a rung of our ladder, with two micro-batches for each rank."""
    fields = depth_preset(job["depth"])
    return Config(**fields | dict(
        vocab_size=VOCABULARY.get(job["depth"], fields["vocab_size"]), seq_len=job["tokens"],
        optimizer=job["optimizer"], dtype=job["dtype"], micro_batch=job["windows"], device="cpu",
        batch_size=2 * ranks_of(job) * job["windows"], steps=2))


# ---- in a process of its own ----
def status(field):
    """A field of /proc/self/status, in bytes: VmRSS is memory in use, VmHWM the most ever."""
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field))


def make_steps(config, job, steps):
    """Build a model and take steps of a trainer's, on ids that mean nothing."""
    model = (sharded_model(config, config.vocab_size, "cpu") if job["engine"] == "fsdp2" else
             config.make_model(config.vocab_size))
    recompute_blocks(model, "hand" if job["recompute"] else "none")
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (
        config.batch_size, config.seq_len + 1))[job["rank"]::ranks_of(job)]
    batch, alone = (ids[:, :-1], ids[:, 1:]), job["engine"] == "plain"
    made = (optim.make_optimizer(model, config) if alone else
            scale.make_engine(job["engine"], model, config))
    for step in range(steps):
        if alone:
            train.train_step(model, made, batch, step, config)
        else:
            scale.train_step(made, batch, step, config)


def one_rank(job):
    """What a rank does. Prints how many bytes a training step took."""
    torch.set_num_threads(1)
    return_freed_memory(2**20)
    optim.orthogonalize.__defaults__ = (optim.QUINTICS[:1],)  # one takes the memory of all
    dist.init_process_group("gloo", f"file://{job['store']}", rank=job["rank"],
                            world_size=ranks_of(job))
    config = config_of(job)
    tiny = Config(device="cpu", batch_size=2, micro_batch=1, seq_len=32,
                  optimizer=job["optimizer"], dtype=job["dtype"])
    make_steps(tiny, job, 1)
    Path("/proc/self/clear_refs").write_bytes(b"5")  # VmHWM starts again from what is in use
    before = status("VmRSS")
    make_steps(config, job, 2)  # the optimizer's state is there in the second
    print(status("VmHWM") - before)
    dist.destroy_process_group()


# ---- the table ----
def measured(job):
    """The most bytes that a rank of this job took, in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        ranks = [subprocess.Popen(
            [sys.executable, __file__,
             json.dumps(job | {"rank": rank, "store": f"{folder}/store"})],
            stdout=subprocess.PIPE, encoding="utf-8", env=os.environ | {"OMP_NUM_THREADS": "1"})
            for rank in range(ranks_of(job))]
        try:
            printed = [rank.communicate()[0] for rank in ranks]
        finally:
            for rank in ranks:
                rank.kill()
    if any(rank.returncode for rank in ranks):
        raise ValueError(f"a process of {job} failed with exit code "
                         f"{[rank.returncode for rank in ranks]}")
    return max(int(text.splitlines()[-1]) for text in printed)


def planned(job):
    """What plan.py says of the same step."""
    config = config_of(job)
    return peak(moments(config, config.gpt(config.vocab_size), job["engine"], ranks_of(job),
                        job["windows"], job["recompute"]))


def calibrate(jobs=None):
    """Print a row for each job of the grid: memory planned, measured, and how far off that is. All
    engines but "plain", which is one process, have two ranks.
    Returns [(parameters, job, planned, measured), ...].
    """
    rows = []
    print("| parameters | engine | optimizer | dtype | recompute | tokens at once | planned | "
          "measured | |\n|---|---|---|---|---|---|---|---|---|", flush=True)
    for job in jobs or grid():
        if job["depth"] == LARGE and (free_memory() or 0) < 19e9:
            print(f"(depth {LARGE} is left out: 19 GB of memory are not free)")
            continue
        config = config_of(job)
        n = parameters(config.gpt(config.vocab_size))
        took, expected = measured(job), planned(job)
        print(f"| {n / 1e6:.0f}M | {job['engine']} | {job['optimizer']} | {job['dtype']} | "
              f"{'yes' if job['recompute'] else 'no'} | {job['windows']} x {job['tokens']} | "
              f"{readable(expected)} | {readable(took)} | {took / expected - 1:+.1%} |", flush=True)
        rows.append((n, job, expected, took))
    return rows


if __name__ == "__main__":
    run(lambda: one_rank(json.loads(sys.argv[1])))
