"""Train on many processes: data parallel, written by hand.

Every process (rank) holds all the weights and runs its own windows of a batch forward and backward;
the gradients are summed over the ranks; then every rank makes the same step. If the weights are
equal at the start and the summed gradients are equal, they stay equal: nothing else is exchanged.
First sums the naive way, one gradient after the other when the backward pass is over; then in
buckets, which are sent while it is still at work on the layers below (Li et al. 2020, PyTorch
Distributed, section 3.2). Then a step, and the loop of 04_train/train.py, for many.

    torchrun --nproc-per-node 2 07_scale/scale.py --preset tiny
    torchrun --nproc-per-node 2 07_scale/scale.py --preset tiny --engine zero2 --recompute hand
    python 07_scale/scale.py --selftest

Gradients travel over NCCL between GPUs, over gloo between CPUs: so all of it can be tried on a
laptop (on a Mac: --device cpu). On several machines the same line on each, HOST being one of them:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-id 1 \\
        --rdzv-endpoint HOST:29500 07_scale/scale.py --preset 1b --engine zero1

Takes the options of train.py, too, and reads and writes what it does: what one engine or process
began any other goes on with. Never tried here: GPUs, two machines with a network between them.
Next: zero.py, which divides what every rank keeps here.
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
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

from console import Parser, Progress, StopSignal, choose_device, run

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # noqa: F401, before there is a group: its functions would
# keep that as a default, and the first optimizer imports them. A group that is never freed has
# threads that outlive Python, and now and then one aborts the process at its very end.

from data import make_batches, reopen, token_bytes
from optim import clip, describe, learning_rate, make_optimizer
from runs import restore_state, restore_weights, save_checkpoint, tensors
from train import conclude, evaluate, extra, opened, pace

BUCKET_BYTES = 4 << 20  # of 1 MB they were as quick here
ENGINES = ("ddp", "zero1", "zero2", "torch-ddp", "fsdp2")


# ---- sums of gradients ----

@torch.no_grad()
def broadcast_weights(model):  # exercise
    """Give every rank the weights of rank 0: dist.broadcast(tensor, src=0) overwrites the others'.

    All parameters, in one order on all ranks; buffers, if a model has any, too.
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor, src=0)


def sum_gradients_naive(parameters):  # exercise
    """Replace each parameter's .grad by its sum over all ranks: dist.all_reduce(tensor), in place.

    One message for each parameter, all after the backward pass: simple, right, and slow.
    """
    for parameter in parameters:
        dist.all_reduce(parameter.grad)


def make_buckets(parameters, bucket_bytes):  # exercise
    """Group parameters into buckets: a list of lists, in the order in which gradients get ready.

    That is the reverse of `parameters`, since the backward pass begins at the end of the model. A
    bucket is closed as soon as its gradients have at least `bucket_bytes` bytes together
    (p.numel() * p.element_size() each): few large messages, not many small ones, but not one
    that has to wait for all. The last may be smaller; none is empty.
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
    all its gradients and those before it have been sent.

    Ranks must agree on what they add up, so the order is that of `buckets` on every rank, however
    the gradients come. Set `active` before the backward pass that is to send, and call finish()
    after it. AssertionError if a parameter got no gradient: its rank would have nothing to send,
    and the others would wait.
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
    """Sums gradients over the ranks during the backward pass that completes a step: set `active`
    before it, call finish() after it. Gradients of the micro-batches before just add up at home.
    """

    def __init__(self, parameters, bucket_bytes=BUCKET_BYTES):
        super().__init__(make_buckets(parameters, bucket_bytes), self.send)
        self.works = []

    def send(self, i):
        """A gradient is copied once, into a message; from then on its part of that is .grad, so
        that sums need not be copied back.
        """
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
    """Every rank has all. zero.py and extras/fsdp.py have engines with the same methods, of which
    each rank keeps a part; all ranks call them in the same order.

    loss(inputs, targets): (b, T) nats. param_groups: where the loop sets "lr".
    """

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
        """optim.clip() of all gradients; where each rank has some, by a sum over the ranks."""
        return clip(self.gradients(), largest)

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


def train_step(engine, batch, step, config, scaler=None, stop=False):  # exercise
    """This rank's part of a step. Returns (loss over the whole batch, norm, asked to stop).

    As train.train_step(), but batch holds this rank's windows, and a loss is divided by the targets
    (>= 0) of *all* ranks' windows: then gradients, and losses, need only be summed, total(). A
    micro-batch's loss goes to engine.backward(), with last=True for the last one only; gradients
    are clipped by engine.clip(). The sum of the losses also tells whether any rank has `stop`.

    With a scaler, which float16 needs (extras/precision.py), the loss is multiplied by
    scaler.factor before its backward pass, and before clipping scaler.unscale_() divides
    engine.gradients(). Is the loss finite, then scaler.update(whether the norm is not) is told; if
    it is not, there is no step, only engine.zero_grad(). Otherwise that is a ValueError.
    """
    device, dtype = engine.model.embed.weight.device, getattr(torch, config.dtype)
    inputs, targets = (torch.from_numpy(rows).to(device) for rows in batch)
    [n_targets] = total(np.array([(batch[1] >= 0).sum()], np.float64)).clip(1)
    micro_batches = list(zip(inputs.split(config.micro_batch), targets.split(config.micro_batch)))
    mean = 0.0
    for i, (x, y) in enumerate(micro_batches, 1):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            nats = engine.loss(x, y).sum() / n_targets
        engine.backward(nats * scaler.factor if scaler else nats, last=i == len(micro_batches))
        mean += nats.detach()
    mean, stopped = map(float, total(np.array([float(mean), stop])))
    if scaler:
        scaler.unscale_(engine.gradients())
    norm = engine.clip(config.grad_clip)
    if scaler and math.isfinite(mean):
        scaler.update(not math.isfinite(norm))
        if not math.isfinite(norm):
            engine.zero_grad()
            return mean, norm, stopped > 0
    if not math.isfinite(mean + norm):
        watch = extra("watch")
        where = watch.first_bad(engine.whole(), inputs, targets, config) if watch else "unknown"
        raise ValueError(f"step {step + 1}: loss {mean}, gradient norm {norm}; first to go bad: "
                         f"{where}. Stopped before it could spoil a checkpoint. A new run with a "
                         "lower --lr may help")
    for group in engine.param_groups:
        group["lr"] = group["scale"] * learning_rate(step, config)
    engine.step()
    engine.zero_grad()
    return mean, norm, stopped > 0


# ---- the loop ----

def train(config, folder, data, options, group):
    """train.train() on all ranks of a group."""
    rank, world, device = dist.get_rank(), dist.get_world_size(), choose_device(config.device)
    sizes, say = token_bytes(data.tokenizer), print if rank == 0 else lambda *words, **how: None
    model = config.make_model(data.tokenizer.vocab_size)
    state = restore_weights(folder, config, data, model.to(device))
    if options.recompute != "none":
        from recompute import recompute_blocks
        recompute_blocks(model, options.recompute)
    engine = make_engine(options.engine, model, config)
    scaler = None
    if config.dtype == "float16":
        from precision import LossScaler
        scaler = LossScaler()
    loader = make_batches(data, config.batch_size, config.seq_len, config.seed, config.sampling,
                          rank, world)
    torch.manual_seed(config.seed)
    scalers = {"scaler": scaler} if "scaler" in state and scaler else {}
    restore_state(state, optimizer=engine, loader=loader, **scalers)
    first, earlier = step, seconds = state["step"], state["seconds"]
    say(*describe(engine), f"run        {folder}: steps {step} to {config.steps} of "
        f"{config.batch_size} x {config.seq_len} tokens, {options.engine} on {world} processes, "
        f"{device} {config.dtype}", sep="\n")
    beside, stopped = extra("beside"), False
    beside = beside and beside.Beside(config, folder, data, loader, step, engine.whole,
                                      engine.tensors, rank)
    with beside or contextlib.nullcontext(), StopSignal() as stop, Progress(patience=0) as line:
        while step < config.steps and not stopped:
            # 1. a step
            if beside:
                beside.before(step)
            start, batch = time.perf_counter(), next(loader)
            mean, norm, stopped = train_step(engine, batch, step, config, scaler, stop.asked)
            step, seconds = step + 1, seconds + time.perf_counter() - start

            # 2. what came of it
            if rank == 0:
                line.show(lambda: pace(step, step - first, seconds - earlier, mean, loader, config))
            saves, bits = step % config.save_every == 0 or step == config.steps, None
            if saves or step % config.eval_every == 0:
                bits = evaluate(model, data.val, sizes, config.eval_tokens, rank, world, total)
            if beside:
                beside.after(step, seconds, mean, norm, engine.param_groups, bits, batch)
            if saves or stopped:
                save(group, folder, step, engine, config, bits, {
                    "step": step, "seconds": seconds, "optimizer": engine.state_dict(),
                    "loader": loader.state_dict(), "data": data.hash, "rng": torch.get_rng_state(),
                    **({"scaler": scaler.state_dict()} if scaler else {})})
        if step < config.steps:
            say(f"stopped after step {step}, which is saved; --resume goes on")
            return None
        bits, whole = evaluate(model, data.val, sizes, None, rank, world, total), engine.whole()
        if beside:
            beside.finished(step, bits)
    if rank == 0:
        conclude(folder, data, whole, bits)
    return bits


def save(group, folder, step, engine, config, bits, state):
    """Rank 0 writes a checkpoint. Where weights are divided all put them together, one by one."""
    weights = engine.tensors()
    first(group, lambda: save_checkpoint(folder, step, weights, state, config.keep, bits),
          meanwhile=lambda: collections.deque(weights, 0))


# ---- from the command line to a group ----

def join():
    """Join the group that torchrun has started; without torchrun, one of one process. In a step a
    rank that doesn't answer is given up after two minutes. Returns a second group, for first().
    """
    # Each tensor by its own way.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if "RANK" not in os.environ:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    else:
        rank, ranks = (int(os.environ[f"LOCAL_{name}"]) for name in ("RANK", "WORLD_SIZE"))
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
        if rank < torch.cuda.device_count():  # with fewer only --device cpu will do
            torch.cuda.set_device(rank)
        dist.init_process_group(backend, timeout=timedelta(minutes=2))
    return dist.new_group(backend="gloo", timeout=timedelta(days=1))


def first(group, work, meanwhile=lambda: None):
    """The result of work(), which may write files and take long: rank 0 does it, all get the
    result, or end as rank 0 does, in silence. It travels as a pickle, which is safe, since only our
    own processes send.
    """
    box, trouble = [None, None], None  # the result, or the exit code of the others
    try:
        box[0] = work() if dist.get_rank() == 0 else meanwhile()
    except (ValueError, OSError, SystemExit) as error:  # SystemExit: --help, with code 0
        trouble, box[1] = error, getattr(error, "code", 2) or 0
    dist.broadcast_object_list(box, src=0, group=group)
    if box[1] is not None:
        raise trouble or SystemExit(box[1])
    return box[0]


def agree(words):
    """ValueError, on all ranks, unless all were started with the same words."""
    everyones = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, words)
    for rank, others in enumerate(everyones):
        if others != everyones[0]:
            raise ValueError(f"rank {rank} was started with {' '.join(others)}, rank 0 with "
                             f"{' '.join(everyones[0])}. Give all machines the same command and "
                             "the same PyTorch")


def check(options, world, config):
    """ValueError if these processes can't train a config."""
    name, device, here = options.engine, choose_device(config.device), torch.cuda.device_count()
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device == "mps":
        raise ValueError("processes can't talk from a Mac's GPU: give --device cpu")
    if device == "cuda" and here < neighbours:
        raise ValueError(f"{neighbours} processes on a machine with {here} GPUs: give torchrun "
                         "--nproc-per-node gpu, or --device cpu")
    if name not in ("ddp", "zero1") and config.batch_size % world:  # they talk in each micro-batch
        raise ValueError(f"batch_size {config.batch_size} can't be dealt evenly to {world} "
                         f"processes, as {name} needs")
    if name == "fsdp2" and config.optimizer == "muon":
        raise ValueError("Muon needs whole matrices, which --engine fsdp2 doesn't have: give "
                         "--optimizer adamw, or --engine zero2")


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0], add_help=False,
                    usage="scale.py [options], and all of train.py's, which follow")
    parser.add_argument("--engine", default="ddp", choices=ENGINES, help="what is divided: nothing "
                        "(ddp), the optimizer's state (zero1), and the gradients (zero2), by hand; "
                        "PyTorch's: torch-ddp, fsdp2 (all)")
    parser.add_argument("--recompute", default="none", choices=("none", "hand", "torch"), help=
                        "compute a block's activations again in the backward pass, not keep them")
    parser.add_argument("--selftest", action="store_true", help="try all of this, and end")
    argv = sys.argv[1:] if argv is None else argv
    options, rest = parser.parse_known_args(argv)
    if options.selftest:
        from selftest import selftest
        return selftest()
    group, world = join(), dist.get_world_size()
    with contextlib.ExitStack() as held:
        held.callback(dist.destroy_process_group)
        agree([*argv, f"PyTorch {torch.__version__}"])
        if dist.get_rank() == 0 and {"-h", "--help"} & {*rest}:
            parser.print_help()
        plan = extra("plan")

        def open_run():
            found = held.enter_context(opened(
                rest, world, functools.partial(check, options, world),
                plan and plan.memory_of_a_rank(options.engine, options.recompute, world)))
            return found and (*found[:2], [(share, part.folder) for share, part in found[2].parts])
        if found := first(group, open_run):
            config, folder, parts = found
            train(config, folder, reopen(parts, config.by_hand), options, group)


if __name__ == "__main__":
    run(main)
