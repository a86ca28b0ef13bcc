"""Engines for many processes, by hand: what ddp.py, zero.py, precision.py and recompute.py have,
behind the loop of stage 4.

Gradients are sums: the loss of every rank is divided by the targets of the whole batch before its
backward pass. Checkpoints are those of one process, whatever wrote them.
Left out: how processes find each other (scale.py), PyTorch's own engines (fsdp.py).

Used by scale.py; reads and writes nothing. Next: fsdp.py.
"""

import functools
import os
import sys
from datetime import timedelta
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

from console import choose_device

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # noqa: F401, before there is a group: its functions would
# keep that as a default, and the first optimizer imports them. A group that is never freed has
# threads that outlive Python, and now and then one aborts the process at its very end.

from ddp import BucketedSum, broadcast_weights
from engine import Engine
from length import holes, windows_at_once
from plan import fullest, moments
from precision import Scaled
from recompute import recompute_blocks
from zero import ShardedOptimizer


def deal(rows, rank, world):  # exercise
    """The rows of rank `rank` of `world`: rank, rank + world, rank + 2 world, ...

    rows: anything that can be sliced. Every row goes to exactly one rank, and the ranks
    differ by at most one row: deal([0, 1, 2, 3, 4], 1, 2) == [1, 3]
    """
    return rows[rank::world]


class Processes(Scaled, Engine):
    """What all engines share, for every process of a torch.distributed group that exists already.
    recompute: as in recompute_blocks().
    """

    name = "plain"  # in memory.py
    even = False  # all ranks need as many micro-batches, since they talk in each

    def __init__(self, recompute="none"):
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.leads, self.recompute = self.rank == 0, recompute
        self.rehearses = self.rehearses and recompute == "none"
        self.neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        self.slow = dist.new_group(backend="gloo", timeout=timedelta(days=1))  # for first()

    def check(self, config):
        device = choose_device(config.device)
        if device == "mps":
            raise ValueError("processes can't talk from a Mac's GPU: give --device cpu")
        if device == "cuda" and torch.cuda.device_count() < self.neighbours:
            raise ValueError(f"{self.neighbours} processes on a machine with "
                             f"{torch.cuda.device_count()} GPUs: give torchrun --nproc-per-node "
                             "gpu, or --device cpu")
        short = config.batch_size < self.world  # a rank without a window would send nothing
        if short or self.even and config.batch_size % self.world:
            raise ValueError(f"batch_size {config.batch_size} can't be dealt "
                             f"{'out' if short else 'evenly'} to {self.world} processes, as "
                             f"{self.name} needs")

    def memory(self, config, shape, world):
        windows = windows_at_once(config, world)
        name = self.name if world > 1 else "plain"
        return fullest(moments(config, shape, name, world, windows, self.recompute != "none")) | (
            holes(config, shape, windows))

    def prepare(self, model, config):
        broadcast_weights(model)
        recompute_blocks(model, self.recompute)
        return super().prepare(model, config)

    def first(self, work):
        """Rank 0 works, however long; the others get its result, or end as it does, in silence. It
        travels as a pickle, which is safe, since only our own processes send.
        """
        box, trouble = [None, None], None  # the result, or the exit code of the others
        if self.leads:
            try:
                box[0] = work()
            except (ValueError, OSError, SystemExit) as error:  # SystemExit: --help, with code 0
                trouble, box[1] = error, getattr(error, "code", 2) or 0
        dist.broadcast_object_list(box, src=0, group=self.slow)
        if box[1] is not None:
            raise trouble or SystemExit(box[1])
        return box[0]

    def share(self, rows):
        return deal(rows, self.rank, self.world)

    def sum(self, values):
        total = torch.from_numpy(values)
        dist.all_reduce(total)
        return total.numpy()

    def close(self):
        dist.destroy_process_group()


class DataParallel(Processes):
    """Every rank has all; gradients are summed while the backward pass is at work (ddp.py)."""

    name = "ddp"

    def prepare(self, model, config):
        self.summed = BucketedSum(model.parameters())
        return super().prepare(model, config)

    def begin(self, last):
        self.summed.active = last

    def backward(self, loss):
        super().backward(loss)
        if self.summed.active:
            self.summed.finish()


class Zero(Processes):
    """Every rank has a part of the optimizer's state; at stage 2, of the gradients too: zero.py."""

    rehearses = False  # by itself a process would need the whole

    def __init__(self, stage, recompute="none"):
        super().__init__(recompute)
        self.name, self.stage, self.even = f"zero{stage}", stage, stage == 2

    def prepare(self, model, config):
        self.optimizer = ShardedOptimizer(model, super().prepare(model, config), self.stage)
        return self.optimizer

    def begin(self, last):
        self.optimizer.begin(last)

    def backward(self, loss):
        super().backward(loss)
        self.optimizer.finish()

    def gradients(self, model):
        return [piece.grad for piece in self.optimizer.pieces]

    def clip(self, model, largest):
        self.unscale(model)
        return self.optimizer.clip(largest)


ENGINES = {"ddp": DataParallel,
           "zero1": functools.partial(Zero, 1),
           "zero2": functools.partial(Zero, 2)}
