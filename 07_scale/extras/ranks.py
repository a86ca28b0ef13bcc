"""Several processes that communicate over gloo, for tests and figures: like torchrun, in one call.

A rank is a process's number, the world size the number of processes. They communicate by
collectives, which all must call, in the same order, or all wait for ever; gloo carries them between
CPUs, NCCL between GPUs. With [1, 2] on rank 0 and [3, 4] on rank 1:

    broadcast from 0     [1, 2]    [1, 2]
    all-reduce           [4, 6]    [4, 6]
    reduce-scatter       [4]       [6]       the first half of an all-reduce,
    all-gather           [4, 6]    [4, 6]    and from there the second

Left out: anything to train with; that is scale.py, which torchrun starts. Reads and writes nothing.
Next: fsdp.py.
"""

import multiprocessing
import tempfile
import traceback

import torch
import torch._dynamo  # noqa: F401, optimizers import it, for seconds: once, before processes fork
import torch.distributed as dist


def child(rank, world, work, folder, results):
    torch.set_num_threads(1)  # threads do not survive a fork
    try:
        dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
        results.put((rank, work(rank), None))
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, None, traceback.format_exc()))


def on_ranks(work, world=2, patience=60):
    """[work(0), work(1), ...], each in a forked process of its own, in one group. AssertionError,
    with the traceback, if a call fails. patience: seconds.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        results = context.Queue()
        processes = [context.Process(target=child, args=(rank, world, work, folder, results))
                     for rank in range(world)]
        for process in processes:
            process.start()
        found = {}
        try:
            for _ in range(world):
                rank, result, error = results.get(timeout=patience)
                assert error is None, f"rank {rank}: {error}"
                found[rank] = result
        finally:
            for process in processes:
                process.kill()
                process.join()
    return [found[rank] for rank in range(world)]
