"""Train on many processes: data parallel, written by hand.

Every process (rank) holds all the weights and runs its own windows of a batch forward and backward;
the gradients are summed over the ranks; then every rank makes the same step, so weights that were
equal stay equal. First the sums: one by one after the backward pass, then in buckets that are sent
while it is still at work on the layers below (Li et al. 2020, PyTorch Distributed, section 3.2).
Then a step, and the loop of 04_train/train.py.

    torchrun --nproc-per-node 2 07_scale/scale.py --preset tiny
    torchrun --nproc-per-node 2 07_scale/scale.py --preset tiny --engine zero2 --recompute hand

Gradients travel over NCCL between GPUs and over gloo between CPUs: a laptop can try it all (a Mac
with --device cpu). On each of two machines, HOST being one of them, torchrun also takes --nnodes 2
--rdzv-backend c10d --rdzv-id 1 --rdzv-endpoint HOST:29500. Never tried here: GPUs, a network.
Takes train.py's options, too, reads and writes what it does. Next: zero.py, extras/selftest.py.
"""

import collections
import contextlib
import functools
import math
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
if "console" not in sys.modules:
    sys.path[1:1] = [str(folder / "01_tokenizer") for folder in Path(__file__).resolve().parents]

from console import Parser, StopSignal, choose_device, run

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # noqa: F401, before there is a group, which it would keep:
# a group that is never freed has threads that outlive Python, and may abort it at its end

from data import make_batches, reopen, token_bytes
from optim import clip, describe, learning_rate, make_optimizer
from runs import restore_state, restore_weights, save_checkpoint, tensors
from train import evaluate, extra, opened

BUCKET_BYTES = 4 << 20  # of 1 MB they were as quick here
ENGINES = ("ddp", "zero1", "zero2", "torch-ddp", "fsdp2")


# ---- sums of gradients ----

@torch.no_grad()
def broadcast_weights(model):  # exercise
    """Give every rank the weights of rank 0, all parameters and buffers, in one order on all ranks:
    dist.broadcast(tensor, src=0) overwrites the others'.
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor, src=0)


def sum_gradients_naive(parameters):  # exercise
    """Replace each parameter's .grad by its sum over all ranks: dist.all_reduce(tensor), in place.
    A message for each parameter, after the backward pass: simple, right, and slow.
    """
    for parameter in parameters:
        dist.all_reduce(parameter.grad)


def make_buckets(parameters, bucket_bytes):  # exercise
    """Group parameters into buckets: a list of lists, in the order in which gradients get ready.

    That is the reverse of `parameters`, since the backward pass begins at the end of the model. A
    bucket is closed as soon as its gradients have at least `bucket_bytes` bytes together
    (p.numel() * p.element_size() each). The last may be smaller; none is empty.
    """
    buckets, current, n_bytes = [], [], 0
    for parameter in reversed(list(parameters)):
        current.append(parameter)
        n_bytes += parameter.numel() * parameter.element_size()
        if n_bytes >= bucket_bytes:
            buckets.append(current)
            current, n_bytes = [], 0
    return buckets + [current] if current else buckets


class InTurn:
    """Calls send(i) during a backward pass for the buckets i = 0, 1, 2, ..., each as soon as it has
    all its gradients and those before it have been sent: in one order on all ranks, which must
    agree on what they add up. Set `active` before the backward pass that is to send, and call
    finish() after it. AssertionError if a parameter got no gradient, since the others would wait.
    """

    def __init__(self, buckets, send):
        self.buckets, self.send = buckets, send
        for i, bucket in enumerate(buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(lambda p, i=i: self.arrived(i, p))
        self.reset()

    def reset(self):
        self.active, self.n_sent = False, 0
        self.missing = [set(bucket) for bucket in self.buckets]

    def arrived(self, i, parameter):  # exercise
        """The gradient of `parameter`, of bucket i, is ready: nothing happens unless self.active.

        It is taken out of the set self.missing[i]. Then, as long as the bucket whose turn it is,
        number self.n_sent, is there and misses nothing, it is sent and self.n_sent moves on.
        """
        if not self.active:
            return
        self.missing[i].remove(parameter)  # KeyError: a second backward pass before finish()
        while self.n_sent < len(self.buckets) and not self.missing[self.n_sent]:
            self.send(self.n_sent)
            self.n_sent += 1

    def finish(self):
        without = [tuple(p.shape) for missing in self.missing for p in missing]
        assert not without, f"parameters of these shapes got no gradient: {without}"
        self.reset()


class BucketedSum(InTurn):
    """Sums gradients over the ranks during the backward pass that completes a step. Those of the
    micro-batches before it just add up on each rank.
    """

    def __init__(self, parameters, bucket_bytes=BUCKET_BYTES):
        super().__init__(make_buckets(parameters, bucket_bytes), self.send)
        self.works = []

    def send(self, i):
        """Copy gradients into one message, whose parts are .grad from now on."""
        bucket = self.buckets[i]
        flat = torch.cat([p.grad.flatten() for p in bucket])
        for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket])):
            parameter.grad = part.view_as(parameter)
        self.works.append(dist.all_reduce(flat, async_op=True))

    def finish(self):
        """Wait until every .grad is the sum."""
        super().finish()
        for work in self.works:
            work.wait()
        self.works = []


# ---- engines: what the loop talks to ----

class DataParallel:
    """Every rank has everything. The subclasses in zero.py and extras/fsdp.py divide some of it.
    loss(inputs, targets): (b, T) nats. param_groups: where the loop sets "lr". All ranks call all
    methods in the same order.
    """

    divided = False  # whether each rank has only a share of the gradients
    skips = False  # whether step() skips gradients that are not finite: extras/precision.py

    def __init__(self, model, config):
        broadcast_weights(model)
        self.model, self.loss = model, config.objective(model)
        self.optimizer = make_optimizer(model, config)
        self.param_groups = self.optimizer.param_groups
        self.buckets = None if config.by_hand else BucketedSum(model.parameters())

    def backward(self, loss, last):
        """Add the gradients of a micro-batch. last: it completes the step; then they are summed."""
        if self.buckets:
            self.buckets.active = last
        loss.backward()
        if last and self.buckets:
            self.buckets.finish()
        elif last:
            sum_gradients_naive(self.model.parameters())

    def gradients(self):
        """What this rank's optimizer will read."""
        return [p.grad for p in self.model.parameters() if p.grad is not None]

    def clip(self, largest):
        """optim.clip() of all gradients; where they are divided, by a sum over the ranks."""
        def add(square):
            square = square.to(self.model.embed.weight.device)  # without gradients it is on the CPU
            dist.all_reduce(square)
            return square
        return clip(self.gradients(), largest, add if self.divided else None)

    def step(self):
        self.optimizer.step()

    def zero_grad(self):
        self.optimizer.zero_grad()

    def tensors(self):
        """(name, whole tensor) of the model, one by one."""
        return tensors(self.model)

    def whole(self):
        """A model that has all its weights in this process, to look at and to evaluate."""
        return self.model

    def state_dict(self):
        """On rank 0 what an Optimizer of a single process would say."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state)


def make_engine(name, model, config):
    """The engine of that name, around a model whose weights are in place."""
    if name == "ddp":
        return DataParallel(model, config)
    if name in ("zero1", "zero2"):
        from zero import Zero
        return Zero(model, config, stage=int(name[-1]))
    from fsdp import TORCH_ENGINES
    return TORCH_ENGINES[name](model, config)


# ---- a step ----

def total(values):
    """The sum of a float64 array over all ranks."""
    tensor = torch.from_numpy(values)
    dist.all_reduce(tensor)
    return tensor.numpy()


def train_step(engine, batch, step, config, stop=False):  # exercise
    """This rank's part of a step. Returns (loss over the whole batch, norm, asked to stop).

    As train.train_step(), but batch holds this rank's windows, and a loss is divided by the targets
    (>= 0) of *all* ranks' windows, total(): then gradients, and losses, need only be summed. A
    micro-batch's loss goes to engine.backward(), with last=True for the last one only; gradients
    are clipped by engine.clip(). The sum of the losses also tells whether any rank has `stop`.
    A loss that is not finite is a ValueError, and so is a norm, unless engine.skips.
    """
    device, dtype = engine.model.embed.weight.device, getattr(torch, config.dtype)
    inputs, targets = (torch.from_numpy(rows).to(device) for rows in batch)
    [n_targets] = total(np.array([(batch[1] >= 0).sum()], np.float64)).clip(1)
    micro_batches = list(zip(inputs.split(config.micro_batch), targets.split(config.micro_batch)))
    mean = 0.0
    for i, (x, y) in enumerate(micro_batches, 1):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            nats = engine.loss(x, y).sum() / n_targets
        engine.backward(nats, last=i == len(micro_batches))
        mean += nats.detach()
    mean, stopped = map(float, total(np.array([float(mean), stop])))
    norm = engine.clip(config.grad_clip)
    if not math.isfinite(mean) or not (math.isfinite(norm) or engine.skips):
        seek = extra("nonfinite")
        where = seek.first_bad(engine.whole(), inputs, targets, config) if seek else "unknown"
        raise ValueError(f"step {step + 1}: loss {mean}, gradient norm {norm}; first to go bad: "
                         f"{where}. Stopped before it is saved; perhaps --lr is too high")
    for group in engine.param_groups:
        group["lr"] = group["scale"] * learning_rate(step, config)
    engine.step()
    engine.zero_grad()
    return mean, norm, stopped > 0


# ---- the loop ----

def train(config, folder, data, options, group):
    """train.train() on all ranks. options: engine and recompute; group: for first()."""
    rank, world, device = dist.get_rank(), dist.get_world_size(), choose_device(config.device)
    model = config.make_model(data.tokenizer.vocab_size).to(device)
    start = restore_weights(folder, config, data, model)
    if options.recompute != "none":
        from recompute import recompute_blocks
        recompute_blocks(model, options.recompute)
    engine = make_engine(options.engine, model, config)
    loader = make_batches(data, config.batch_size, config.seq_len, config.seed, config.sampling,
                          rank, world)
    parts = {"optimizer": engine, "loader": loader}
    if config.dtype == "float16":
        from precision import Scaled
        engine = Scaled(engine)
        parts["scaler"] = engine.scaler
    torch.manual_seed(config.seed)
    restore_state(start, **parts)
    step, seconds, stopped = start["step"], start["seconds"], False
    sizes = token_bytes(data.tokenizer)
    if rank == 0:
        print(*describe(engine), f"run        {folder}: steps {step} to {config.steps} of "
              f"{config.batch_size} x {config.seq_len} tokens, {options.engine} on {world} "
              f"processes, {device} {config.dtype}", sep="\n")
    beside = extra("beside") and extra("beside").Beside(
        config, folder, data, loader, start, engine.whole, engine.tensors, rank)
    with beside or contextlib.nullcontext(), StopSignal() as stop:
        while step < config.steps and not stopped:
            # 1. a step
            began = time.perf_counter()
            batch = next(loader)
            mean, norm, stopped = train_step(engine, batch, step, config, stop.asked)
            step += 1
            seconds += time.perf_counter() - began

            # 2. what came of it
            bits, saves = None, step % config.save_every == 0 or step == config.steps
            if saves or step % config.eval_every == 0:
                bits = evaluate(model, data.val, sizes, config.eval_tokens, rank, world, total)
            if beside:
                beside.after(step, seconds, mean, norm, engine.param_groups, bits, batch)
            elif rank == 0 and bits is not None:
                print(f"step {step}  loss {mean:.3f}  {bits:.3f} bits per byte")
            if saves or stopped:
                state = {name: part.state_dict() for name, part in parts.items()} | {
                    "step": step, "seconds": seconds, "data": data.hash,
                    "rng": torch.get_rng_state()}
                weights = engine.tensors()  # which all ranks put together, one by one
                first(group,
                      lambda: save_checkpoint(folder, step, weights, state, config.keep, bits),
                      meanwhile=lambda: collections.deque(weights, 0))  # takes all, keeps none
        if step == config.steps:
            bits = evaluate(model, data.val, sizes, None, rank, world, total)
            if beside:
                beside.finished(step, bits)
    if rank == 0 and step == config.steps:
        print(f"{bits:.3f} bits per byte of all validation text\n"
              f"next: python 05_sample/sample.py --run {folder.name}")
    elif rank == 0:
        print(f"stopped after step {step}, which is saved; --resume goes on")


# ---- from the command line to a group ----

def join():
    """Join the group that torchrun has started, or without it one of one process; a rank that does
    not answer is given up after two minutes. Returns another group, more patient, for first().
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" not in os.environ:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    else:
        rank, ranks_here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks_here))
        if rank < torch.cuda.device_count():  # with fewer only --device cpu will do
            torch.cuda.set_device(rank)
        dist.init_process_group(backend, timeout=timedelta(minutes=2))
    return dist.new_group(backend="gloo", timeout=timedelta(days=1))


def first(group, work, meanwhile=lambda: None):
    """The result of work(), which may write files and take long: rank 0 does it, all get the
    result. If it fails, all end: rank 0 with the error, the others without a word.
    """
    result, code, trouble = None, None, None
    try:
        result = work() if dist.get_rank() == 0 else meanwhile()
    except (ValueError, OSError, SystemExit) as error:
        trouble, code = error, getattr(error, "code", 2) or 0  # --help is a SystemExit of code 0
    sent = [result, code]  # by pickle, which is safe: only our own processes send
    dist.broadcast_object_list(sent, src=0, group=group)
    result, code = sent
    if code is not None:
        raise trouble or SystemExit(code)
    return result


def agree(words):
    """ValueError, on all ranks, unless all were started with the same words."""
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, words)
    if any(others != everyones[0] for others in everyones):
        raise ValueError(f"give all ranks the same command and PyTorch, not {everyones}")


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0], add_help=False,
                    usage="scale.py [options], and all of train.py's, which follow")
    parser.add_argument("--engine", default="ddp", choices=ENGINES, help="zero1 divides the "
                        "optimizer's state, zero2 gradients too, fsdp2 (PyTorch's) also weights")
    parser.add_argument("--recompute", default="none", choices=("none", "hand", "torch"), help=
                        "compute a block's activations again in the backward pass, not keep them")
    argv = sys.argv[1:] if argv is None else argv
    options, rest = parser.parse_known_args(argv)
    group, world = join(), dist.get_world_size()
    with contextlib.ExitStack() as held:
        held.callback(dist.destroy_process_group)
        agree([*argv, f"PyTorch {torch.__version__}"])
        if dist.get_rank() == 0 and {"-h", "--help"} & {*rest}:
            parser.print_help()

        def open_run():
            plan = extra("plan")
            check = functools.partial(plan.check, options, world) if plan else lambda config: None
            memory = plan and plan.memory_of_a_rank(options.engine, options.recompute, world)
            found = held.enter_context(opened(rest, world, check, memory))
            if found:
                config, folder, data = found
                return config, folder, [(share, part.folder) for share, part in data.parts]
        if found := first(group, open_run):
            config, folder, parts = found
            train(config, folder, reopen(parts, config.by_hand), options, group)


if __name__ == "__main__":
    run(main)
