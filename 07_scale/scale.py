"""The trainer of stage 4 on many processes: the same loop, another engine.

torchrun starts the processes and tells each its rank. Rank 0 leads: it prints, and writes files.
Gradients travel over NCCL between GPUs and over gloo between CPUs; the latter is how you can try
all of it on a laptop (no faster: one process uses all cores already; on a Mac, --device cpu).
ddp, zero1 and zero2 are written out in this folder, torch-ddp and fsdp2 are PyTorch's own. What one
engine began any other goes on with, on any number of processes.
Left out: pipelines, tensor parallel. Never tried here: GPUs, two machines with a network between.

    torchrun --nproc-per-node 2 07_scale/scale.py --preset tiny
    torchrun --nproc-per-node 2 07_scale/scale.py --preset tiny --engine zero2 --recompute hand
    python 07_scale/scale.py --preset 1b --dtype float32 --recompute hand --steps 3
    python 07_scale/scale.py --selftest

On two machines the same line on both, HOST being one of them; or train.slurm:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-id 1 \\
        --rdzv-endpoint HOST:29500 07_scale/scale.py --preset 1b --engine zero1

Takes the options of 04_train/train.py, too, and reads and writes what it does. After a mistake
torchrun adds words of its own to our one line, and ends with exit code 1. Next: selftest.py.
"""

import os
import sys
from datetime import timedelta
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

from console import Parser, run

import torch
import torch.distributed as dist

from engines import ENGINES
from fsdp import TORCH_ENGINES
from recompute import HOW
from train import main

# For a rank that doesn't answer, as behind a broken cable; one that has ended is seen at once.
PATIENCE = timedelta(minutes=2)
BACKEND = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"  # to each tensor its own


def join(patience=PATIENCE):
    """Join the group that torchrun has started; without torchrun, one of one process. Returns this
    process's rank. ValueError if the others can't be reached.
    """
    environment = os.environ
    if "RANK" not in environment:
        dist.init_process_group(BACKEND, store=dist.HashStore(), rank=0, world_size=1)
        return 0
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if missing := [name for name in names if name not in environment]:
        raise ValueError(f"RANK is set, but not {', '.join(missing)}: start me with torchrun")
    rank, world, local_rank, local_world = (int(environment[name]) for name in names)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_world))
    if local_rank < torch.cuda.device_count():  # with fewer only --device cpu will do
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group(BACKEND, timeout=patience)
    except (dist.DistError, RuntimeError) as error:
        raise ValueError(
            f"rank {rank} of {world} could not reach the others within {patience.seconds} s, by "
            f"way of {environment.get('MASTER_ADDR')}:{environment.get('MASTER_PORT')}: "
            f"{str(error).splitlines()[0]}") from None
    return rank


def agree(words):
    """ValueError, in all processes, unless all were started with the same words."""
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, words)
    for rank, others in enumerate(everyones):
        if others != everyones[0]:
            ours, theirs = (" ".join(w for w in one if w not in other) or "nothing else"
                            for one, other in ((everyones[0], others), (others, everyones[0])))
            raise ValueError(f"rank {rank} was started otherwise than rank 0: with {theirs}, not "
                             f"{ours}. Give all machines the same command and the same PyTorch")


def lost(error):
    """Whether an error means that another process is gone, or doesn't answer."""
    words = str(error)
    return isinstance(error, dist.DistError) or "gloo" in words and (
        "onnection" in words or "imed out" in words)


def launch(argv=None):
    """Join the group, agree, then train."""
    argv = sys.argv[1:] if argv is None else argv
    parser = Parser(description=__doc__.splitlines()[0], add_help=False, allow_abbrev=False,
                    usage="scale.py [options], and all of train.py's, which follow")
    parser.add_argument("--engine", default="ddp", choices=ENGINES | TORCH_ENGINES,
                        help="what is divided: nothing (ddp), the optimizer's state (zero1), and "
                        "the gradients (zero2), by hand; PyTorch's: torch-ddp, fsdp2 (all)")
    parser.add_argument("--recompute", default="none", choices=HOW, help="compute a block's "
                        "activations again in the backward pass, by hand or as torch does")
    parser.add_argument("--selftest", action="store_true", help="try all of this on what the "
                        "machine has, and end")
    args, rest = parser.parse_known_args(argv)
    if args.selftest:
        from selftest import selftest  # which is built on this file
        return selftest()
    rank = join()
    try:
        agree([*argv, f"PyTorch {torch.__version__}"])
        if rank == 0 and {"-h", "--help"} & set(rest):
            parser.print_help()
        engine = (ENGINES | TORCH_ENGINES)[args.engine](recompute=args.recompute)
        main(rest, engine)
    except RuntimeError as error:
        if not lost(error):
            raise
        raise ValueError(f"rank {rank} has lost another process, so this one ends, too; start all "
                         "again with --resume: the checkpoints are whole "
                         f"({str(error).splitlines()[0]})") from None


if __name__ == "__main__":
    run(launch)
