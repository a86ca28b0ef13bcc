"""PyTorch's own engines behind scale.py's loop: DistributedDataParallel, where each rank has the
whole model, and fully_shard, where each has a share, for models too large for one GPU.

They take means over ranks where we take sums, so the loss is multiplied by the number of ranks, and
they communicate after every micro-batch, so all ranks need equally many.

With fully_shard no rank ever holds more than its share and the block at work, from the first weight
to the last checkpoint: the model is built without numbers, which are then drawn or read one tensor
at a time; evaluations and samples run on the shares; checkpoints are gathered one tensor at a time,
in the form that every engine reads.
Left out: parameters on the CPU (offloading), 16-bit gradients in messages, Muon, which needs whole
matrices.

Used by scale.py; reads checkpoints. Next: selftest.py.
"""

import mmap
import os
import sys
import tempfile

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (MixedPrecisionPolicy, fully_shard,
                                    register_fsdp_forward_method)
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication
from torch.overrides import TorchFunctionMode

from family import family_of
from optim import Optimizer, make_optimizer
from runs import restore_weights, tensors
from scale import DataParallel, broadcast_weights


class Loss(nn.Module):
    """The loss as a module, since DistributedDataParallel wraps a module's forward()."""

    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, *batch):
        return self.loss(*batch)


class TorchDDP(DataParallel):
    """DistributedDataParallel (Li et al. 2020)."""

    def __init__(self, model, config, folder=None):
        broadcast_weights(model)
        self.model, self.optimizer = model, make_optimizer(model, config)
        self.loss = nn.parallel.DistributedDataParallel(Loss(model, config.objective(model)))

    def backward(self, loss, last):
        (loss * dist.get_world_size()).backward()


# ---- a model of which each rank has a share, from the beginning ----
class WithoutNumbers(TorchFunctionMode):
    """Within it nn.Linear and nn.Embedding get parameters on the "meta" device, which have a shape
    and no numbers. `fills` notes how each would have been filled last: {parameter: (function,
    arguments)}, in that order. Gains, and all else that is not made by torch.empty(), are real.
    """

    def __init__(self):
        super().__init__()
        self.fills = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is torch.empty:
            kwargs["device"] = "meta"
        elif function.__name__.endswith(("uniform_", "normal_", "zero_")):
            tensor, *args = args or [kwargs.pop("tensor")]
            self.fills.pop(tensor, None)
            self.fills[tensor] = function, args, kwargs
            return tensor
        return function(*args, **kwargs)


def shard(model, config, device):
    """fully_shard() a model (Zhao et al. 2023): embedding, blocks and head are gathered one after
    the other; a tied table, and what stands beside these, for the whole forward pass.

    A block is gathered in the run's dtype, as autocast would round it, and its gradients are summed
    in float32; activations keep the types that autocast gives them, in evaluations and samples too.
    """
    kind, dtype = torch.device(device).type, getattr(torch, config.dtype)
    mesh, low = init_device_mesh(kind, (dist.get_world_size(),)), dtype != torch.float32
    plain = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    rounded = MixedPrecisionPolicy(dtype if low else None, torch.float32, cast_forward_inputs=False)
    tied = family_of(model.config).tied
    for block in model.blocks:  # gains of norms, which autocast doesn't round
        if norms := [m for m in block.children() if [*m.parameters(recurse=False)]]:
            fully_shard(norms, mesh=mesh, mp_policy=plain)
    for module in [*model.blocks, *([] if tied else [model.head])]:
        fully_shard(module, mesh=mesh, mp_policy=rounded)
    for module in [*([] if tied else [model.embed]), model]:  # a table is read in float32
        fully_shard(module, mesh=mesh, mp_policy=plain)
    model.hidden = torch.autocast(kind, dtype, enabled=low)(model.hidden)
    model.logits = torch.autocast(kind, dtype, enabled=low)(model.logits)
    register_fsdp_forward_method(model, "hidden")  # which generate() calls


@torch.no_grad()
def sharded_model(config, vocab_size, device):
    """A new model on `device`, of which each rank has its share: of the very weights that
    config.make_model() draws. Each rank draws them all, in the same order, and keeps its rows.
    """
    with WithoutNumbers() as noted:
        model = config.make_model(vocab_size)
    assert not [*model.buffers()], "to_empty() would lose what is in them"
    names = {parameter: name for name, parameter in model.named_parameters()}
    real = {name: p.detach().clone() for p, name in names.items() if not p.is_meta}
    fills = {names[p]: fill for p, fill in noted.fills.items() if p in names}
    shard(model, config, device)
    model.to_empty(device=device)
    shares = dict(model.named_parameters())
    with implicit_replication():
        for name, (function, args, kwargs) in fills.items():
            whole = torch.empty(shares[name].shape)
            function(whole, *args, **kwargs)
            shares[name].copy_(whole)
        for name, whole in real.items():
            shares[name].copy_(whole)
    return model


def sharded_run(folder, config, data, device):
    """(the run's sharded_model() with its newest weights, the state to go on from), as
    runs.restore_weights() fills a whole one.
    """
    model = sharded_model(config, data.tokenizer.vocab_size, device)
    with implicit_replication():  # of a whole tensor that is copied each rank takes its share
        return model, restore_weights(folder, config, data, model)


# ---- its engine ----
def full(tensor):
    """A tensor of which each rank has a share, whole, on each; any other as it is."""
    tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    if getattr(tensor, "is_cuda", False):  # else a rank runs ahead of rank 0, which writes
        torch.cuda.current_stream().synchronize()
    return tensor


class DividedOptimizer(Optimizer):
    """An Optimizer of sharded parameters, whose state_dict() is that of whole ones."""

    folder = None  # where a file may lie while it is saved; None: the system's for such files

    def state_dict(self):
        """On rank 0 that of a single process; the others help to gather it, tensor by tensor.

        Rank 0 has no room for it, either: its tensors lie in a file that has no name and is gone
        with the last of them. OSError if the disk is full.
        """
        found, is_rank0, spans = super().state_dict(), dist.get_rank() == 0, []
        with tempfile.TemporaryFile(dir=self.folder if is_rank0 else None) as file:
            for i, state in found["state"].items():
                for name, value in state.items():
                    value = full(value)
                    if is_rank0:
                        spans.append((i, name, value.dtype, value.shape, file.tell()))
                        value.cpu().numpy().tofile(file)
            found["state"] = {i: {} for i in found["state"] if is_rank0}
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE) if spans else None
        for i, name, dtype, shape, start in spans:
            found["state"][i][name] = torch.frombuffer(
                mapped, dtype=dtype, count=shape.numel(), offset=start).view(shape)
        return found

    @torch.no_grad()
    def load_state_dict(self, state_dict):
        """Each rank takes its share of what state_dict() or a plain Optimizer's returned."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        with implicit_replication():
            for i, state in state_dict["state"].items():
                p = parameters[i]
                self.state[p] = {"step": state["step"].to(p.device).view(())}
                for name in ("exp_avg", "exp_avg_sq"):
                    self.state[p][name] = torch.zeros_like(p).copy_(state[name].view(p.shape))


class FSDP2(DataParallel):
    """The engine of a sharded_model(). folder: where a file may lie while a checkpoint is saved."""

    divided = True

    def __init__(self, model, config, folder=None):
        self.model, self.loss = model, config.objective(model)
        self.optimizer = DividedOptimizer(make_optimizer(model, config).param_groups, {})
        self.optimizer.folder = folder

    def backward(self, loss, last):
        (loss * dist.get_world_size()).backward()

    def gradients(self):
        return [p.grad.to_local() for p in self.model.parameters() if p.grad is not None]

    def tensors(self):
        """One by one: (name, whole tensor)."""
        self.model.reshard()  # an evaluation leaves a tied table whole, as if it were plain
        for name, tensor in tensors(self.model):
            yield name, full(tensor)


TORCH_ENGINES = {"torch-ddp": TorchDDP, "fsdp2": FSDP2}
