"""The trainer of stage 4 on many processes: the same loop, another engine.

torchrun starts the processes and tells each its rank. Rank 0 leads: it prints, and writes files.
Gradients travel over NCCL between GPUs and over gloo between CPUs; the latter is how you can try
all of it on a laptop (no faster: one process uses all cores already; on a Mac, --device cpu).
Left out: sharded optimizers. Not tried yet: several machines, GPUs.

    torchrun --nproc-per-node 2 07_scale/scale.py --preset tiny

Takes the options of 04_train/train.py, and reads and writes what it does. After a mistake torchrun
adds words of its own to our one line, and ends with exit code 1. The path ends here.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # noqa: F401, before there is a group: its functions would
# keep that as a default, and the first optimizer imports them. A group that is never freed has
# threads that outlive Python, and now and then one aborts the process at its very end.

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import run
from ddp import BucketedSum, broadcast_weights
from engine import Engine
from optim import make_optimizer
from train import main


def deal(rows, rank, world):  # exercise
    """The rows of rank `rank` of `world`: rank, rank + world, rank + 2 world, ...

    rows: anything that can be sliced. Every row goes to exactly one rank, and the ranks
    differ by at most one row: deal([0, 1, 2, 3, 4], 1, 2) == [1, 3]
    """
    return rows[rank::world]


class DataParallel(Engine):
    """An Engine for every process of a torch.distributed group that exists already."""

    def __init__(self):
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.leads = self.rank == 0

    def prepare(self, model, config):
        broadcast_weights(model)
        self.gradients = BucketedSum(model.parameters())
        return make_optimizer(model, config)

    def first(self, work):
        """Rank 0 works; the others get its result, or end as it does. It travels as a pickle,
        which is safe, since only our own processes send.
        """
        box = [None, None]
        if self.leads:
            try:
                box[0] = work()
            except (ValueError, OSError, SystemExit) as error:  # SystemExit: --help
                box[1] = error
        dist.broadcast_object_list(box, src=0)
        if box[1] is not None:
            raise box[1] if self.leads else SystemExit(2)
        return box[0]

    def share(self, rows):
        return deal(rows, self.rank, self.world)

    def sum(self, values):
        total = torch.from_numpy(values)
        dist.all_reduce(total)
        return total.numpy()

    def begin(self, last):
        self.gradients.active = last

    def backward(self, loss):
        loss.backward()
        if self.gradients.active:
            self.gradients.finish()

    def close(self):
        dist.destroy_process_group()


def launch(argv=None):
    """Join the group that torchrun has started, then train."""
    if "RANK" not in os.environ:
        raise ValueError("start me with torchrun --nproc-per-node 2 07_scale/scale.py, or train "
                         "in one process with 04_train/train.py")
    local_rank, local_world = (int(os.environ[k]) for k in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        dist.init_process_group("cpu:gloo,cuda:nccl")  # each kind of tensor its own way
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_world))
        dist.init_process_group("gloo")
    main(argv, DataParallel())


if __name__ == "__main__":
    run(launch)
