"""Train on many processes: data parallel, written by hand.

Every process (rank) holds all the weights and runs its own windows of a batch forward and backward;
the gradients are summed over the ranks; then every rank makes the same step, so weights that were
equal stay equal. First the sums: one by one after the backward pass, then in buckets, sent during
the backward pass of earlier layers (Li et al. 2020, section 3.2). Then a step, and the loop.

    torchrun --nproc-per-node 2 07_scale/scale.py --preset tiny --engine zero2 --recompute hand

Gradients travel over NCCL between GPUs (never tried here), over gloo between CPUs (on a Mac with
--device cpu). Takes train.py's options, writes what it does. Next: zero.py, extras/selftest.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, StopSignal, choose_device, run
import contextlib
import math
import time
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # noqa: F401, before any group, or it would keep it alive

from data import reopen, token_bytes
from optim import clip, learning_rate, make_optimizer
from runs import restore_state, restore_weights, save_checkpoint, tensors
from train import evaluate, extra, opened

BUCKET_BYTES = (25 if torch.cuda.is_available() else 4) << 20  # as torch's; 1 MB was as quick here


def total(values):
    """The sum over all ranks of an array or a tensor in float64: a tensor on the CPU."""
    values = torch.as_tensor(values, device="cpu")
    dist.all_reduce(values)
    return values


@torch.no_grad()
def broadcast_weights(model):
    """Give every rank the parameters and buffers of rank 0, in one order on all ranks."""
    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor, src=0)


def sum_gradients_naive(parameters):
    """Make each .grad its sum over all ranks, in place, one by one."""
    for parameter in (p for p in parameters if p.requires_grad):
        dist.all_reduce(parameter.grad)


def make_buckets(parameters, bucket_bytes=BUCKET_BYTES):  # exercise
    """Group the parameters that require gradients into buckets: a list of lists, in the order in
    which these get ready. That order is the reverse of `parameters`, as the backward pass begins at
    the end of the model. A bucket is full as soon as its gradients have at least `bucket_bytes`
    bytes together (p.nbytes each). The last may be smaller; none is empty.
    """
    buckets = [[]]
    for parameter in (p for p in reversed(list(parameters)) if p.requires_grad):
        if sum(p.nbytes for p in buckets[-1]) >= bucket_bytes:
            buckets.append([])
        buckets[-1].append(parameter)
    return [bucket for bucket in buckets if bucket]


class BucketedSum:
    """Sums gradients over the ranks during the backward pass between start() and finish(). A bucket
    is sent as soon as it has all its gradients and the buckets before it have been sent: so all
    ranks send in the same order, which an all-reduce requires.
    """

    def __init__(self, buckets):
        self.buckets, self.active = buckets, False
        for i, bucket in enumerate(buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(lambda p, i=i: self.arrived(i, p))

    def start(self):
        self.active, self.n_sent, self.on_their_way = True, 0, []
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
            self.send(self.buckets[self.n_sent])
            self.n_sent += 1

    def send(self, bucket):  # exercise
        """Start to sum a bucket's gradients by dist.all_reduce(flat, async_op=True): one flat copy,
        whose parts are .grad from now on. Append its result's wait, uncalled, to self.on_their_way.
        """
        flat = torch.cat([p.grad.flatten() for p in bucket])
        for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket])):
            parameter.grad = part.view_as(parameter)
        self.on_their_way.append(dist.all_reduce(flat, async_op=True).wait)

    def finish(self):
        """Wait for all sums. AssertionError if a parameter has no gradient: a bucket is unsent."""
        without = [tuple(p.shape) for missing in self.missing for p in missing]
        assert not without, f"parameters of these shapes got no gradient: {without}"
        while self.on_their_way:
            self.on_their_way.pop(0)()
        self.active = False


class DataParallel:
    """An engine that holds everything on every rank. Those of zero.py, extras/fsdp.py divide some.
    loss(inputs, targets): (b, T) nats. All ranks call all methods in the same order. Other
    attributes are the optimizer's: param_groups, step, zero_grad, state_dict, load_state_dict.
    """

    divided = False  # whether each rank has only a share of the gradients
    skips = False  # whether step() skips gradients that are not finite: extras/precision.py

    def __init__(self, model, config):
        broadcast_weights(model)
        self.model, self.loss = model, config.objective(model)
        self.optimizer = make_optimizer(model, config)
        self.sums = None if config.by_hand else BucketedSum(make_buckets(model.parameters()))

    def __getattr__(self, name):
        return getattr(vars(self)["optimizer"], name)

    def backward(self, loss, last):  # exercise
        """Add the gradients of a micro-batch. With the last one all are summed over the ranks: by
        self.sums, with start() before and finish() after, or, if None, by sum_gradients_naive().
        """
        if last and self.sums:
            self.sums.start()
        loss.backward()
        if last and self.sums:
            self.sums.finish()
        elif last:
            sum_gradients_naive(self.model.parameters())

    def gradients(self):
        """The gradients that this rank's optimizer will read."""
        return [p.grad for p in self.model.parameters() if p.grad is not None]

    def clip(self, largest):
        """optim.clip() of all gradients; where they are divided, by a sum over the ranks."""
        return clip(self.gradients(), largest, total if self.divided else None)

    def tensors(self):
        """(name, whole tensor) of the model, one by one."""
        return tensors(self.model)


def make_engine(name, model, config, folder=None):
    """The engine of that name, around a model whose weights are in place; folder: of the run."""
    if name == "ddp":
        return DataParallel(model, config)
    if name in ("zero1", "zero2"):
        from zero import Zero
        return Zero(model, config, stage=int(name[-1]))
    from fsdp import TORCH_ENGINES
    return TORCH_ENGINES[name](model, config, folder)


def train_step(engine, batch, step, config, stop=False):  # exercise
    """This rank's part of a step. Returns (loss over the whole batch, norm, asked to stop).

    As train.train_step(), but batch holds this rank's windows, and a loss is divided by the targets
    (>= 0) of *all* ranks' windows, total(): then gradients, and losses, need only be summed. A
    micro-batch's loss goes to engine.backward(), with last=True for the last one only; gradients
    are clipped by engine.clip(). The message that sums the losses also sums `stop` of all ranks.
    ValueError if the loss is not finite, or the norm, unless engine.skips.
    """
    device, dtype = engine.model.embed.weight.device, getattr(torch, config.dtype)
    gpu = device.type == "cuda"
    arrays = [torch.tensor(a, pin_memory=gpu).to(device, non_blocking=gpu) for a in batch]
    n_targets, mean = max(1.0, float(total((batch[1] >= 0).sum(dtype=float)))), 0.0
    micro_batches = [*zip(*(array.split(config.micro_batch) for array in arrays))]
    for i, parts in enumerate(micro_batches, 1):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            nats = engine.loss(*parts).sum() / n_targets
        engine.backward(nats, last=i == len(micro_batches))
        mean += nats.detach()
    mean = mean.to("cpu", non_blocking=True)  # is there when clip() has waited for the norm
    norm = engine.clip(config.grad_clip)
    mean, stopped = total(torch.tensor([float(mean), stop], dtype=torch.double)).tolist()
    if not math.isfinite(mean) or not (math.isfinite(norm) or engine.skips):
        where = extra("nonfinite") and extra("nonfinite").first_bad(
            engine.model, arrays[:2], config)
        raise ValueError(f"step {step + 1}: loss {mean}, gradient norm {norm}; first to go bad: "
                         f"{where or 'unknown'}. Stopped before it is saved; is --lr too high?")
    for group in engine.param_groups:
        group["lr"] = group["scale"] * learning_rate(step, config)
    engine.step()
    engine.zero_grad()
    return mean, norm, stopped > 0


def train(config, folder, data, options, group):
    """train.train() on all ranks. options: engine and recompute; group: for on_rank0()."""
    rank, world, device = dist.get_rank(), dist.get_world_size(), choose_device(config.device)
    sizes, ranks = token_bytes(data.tokenizer), (rank, world, total)
    if options.engine == "fsdp2":  # no process ever has more of the model than its share
        from fsdp import sharded_run
        model, start = sharded_run(folder, config, data, device)
    else:
        model = config.make_model(data.tokenizer.vocab_size).to(device)
        start = restore_weights(folder, config, data, model)
    engine = make_engine(options.engine, model, config, folder)
    if options.recompute != "none":  # after --compile, so that what runs again is compiled
        from recompute import recompute_blocks
        recompute_blocks(model, options.recompute)
    loader, judge = config.batches(data, model, rank, world), evaluate
    if hasattr(loader, "objective"):
        engine.loss, judge = loader.objective(engine.loss), loader.evaluate
    parts = {"optimizer": engine, "loader": loader}
    if config.dtype == "float16":
        from precision import Scaled
        engine = Scaled(engine)
        parts["scaler"] = engine.scaler
    torch.manual_seed(config.seed)
    restore_state(start, **parts)
    step, seconds, stopped = start["step"], start["seconds"], False
    beside = extra("beside") and extra("beside").Beside(
        config, folder, data, loader, start, model, engine.tensors, rank)
    with beside or contextlib.nullcontext(), StopSignal() as stop:
        while step < config.steps and not stopped:
            # 1. a step
            began, batch = time.perf_counter(), next(loader)
            mean, norm, stopped = train_step(engine, batch, step, config, stop.asked)
            step, seconds = step + 1, seconds + time.perf_counter() - began
            # 2. what came of it
            bits, saves = None, step % config.save_every == 0 or step == config.steps
            if saves or step % config.eval_every == 0:
                bits = judge(model, data.val, sizes, config, config.eval_tokens, *ranks)
            if beside:
                beside.after(step, seconds, mean, norm, engine.param_groups, bits, batch)
            elif rank == 0 and bits is not None:
                print(f"step {step}  loss {mean:.3f}  {bits:.3f} bits per byte")
            if saves or stopped:
                state = {name: part.state_dict() for name, part in parts.items()} | dict(
                    step=step, seconds=seconds, data=data.hash, rng=torch.get_rng_state())
                weights = engine.tensors()
                for _ in weights if rank else ():  # all ranks take part in gathering each
                    pass
                on_rank0(group, save_checkpoint, folder, step, weights, state, config.keep, bits)
        stop.release()  # from here on nothing is lost
        if not (stopped := bool(total(torch.tensor(float(stop.asked))))):  # on any rank
            bits = judge(model, data.val, sizes, config, config.last_eval_tokens, *ranks)
            if beside:
                beside.finished(step, bits)
    if rank == 0:
        print(f"stopped after step {step}, which is saved; --resume goes on"
              if stopped else f"{bits:.3f} bits per byte of validation text\n"
              f"next: python 05_sample/sample.py --run {folder.name}")


def join():
    """Join torchrun's group, or a group of one. Returns a more patient one, for on_rank0()."""
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    how = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
    if "RANK" in os.environ:
        rank, ranks_here = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks_here))
        if rank < torch.cuda.device_count():  # with fewer only --device cpu will do
            torch.cuda.set_device(rank)
        how = {"timeout": timedelta(minutes=2)}  # a silent rank is an error
    try:
        dist.init_process_group(backend, **how)
    except dist.DistError as error:
        raise ValueError(f"the ranks did not meet: {str(error).splitlines()[0]}") from None
    return dist.new_group(backend="gloo", timeout=timedelta(days=1))


def on_rank0(group, work, *what):
    """Rank 0 calls work(*what), which may write files and take long; all ranks return its result.
    If it fails, all ranks end: rank 0 with the error, the others without a message.
    """
    sent, trouble = [None, None], None  # the result, the code to end with
    try:
        sent[0] = work(*what) if dist.get_rank() == 0 else None
    except (ValueError, OSError, SystemExit) as error:
        trouble, sent[1] = error, getattr(error, "code", 2) or 0  # --help is a SystemExit: code 0
    dist.broadcast_object_list(sent, src=0, group=group)  # by pickle: only our processes send
    if sent[1] is not None:
        raise trouble or SystemExit(sent[1])
    return sent[0]


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0], add_help=False,
                    usage="scale.py [options], and all of train.py's, which follow")
    parser.add_argument("--engine", default="ddp", help="zero1 divides the optimizer's state, "
                        "zero2 gradients too, fsdp2 (PyTorch's) also weights",
                        choices=("ddp", "zero1", "zero2", "torch-ddp", "fsdp2"))
    parser.add_argument("--recompute", default="none", choices=("none", "hand", "torch"), help=
                        "compute a block's activations again in the backward pass, not keep them")
    group, world = join(), dist.get_world_size()
    with contextlib.ExitStack() as held:
        held.callback(dist.destroy_process_group)
        started = [None] * world
        dist.all_gather_object(started, [*(argv or sys.argv[1:]), torch.__version__])

        def open_run():
            if started.count(started[0]) < world:
                words = set().union(*started) - {*started[0]}.intersection(*started)
                raise ValueError("give all ranks the same command and PyTorch; they differ in "
                                 f"{', '.join(sorted(words)) or 'the order of options'}")
            options, rest = parser.parse_known_args(argv)
            if {"-h", "--help"} & {*rest}:
                parser.print_help()
            how = extra("plan").of_ranks(options, world) if extra("plan") else {}
            config, folder, data = held.enter_context(opened(rest, world, **how)) or sys.exit()
            print(f"engine     {options.engine} on {world} processes")
            return options, config, folder, [(share, part.folder) for share, part in data.parts]
        options, config, folder, parts = on_rank0(group, open_run)
        train(config, folder, reopen(parts, config.by_hand), options, group)


if __name__ == "__main__":
    run(main)
