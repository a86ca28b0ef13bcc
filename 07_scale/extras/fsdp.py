"""PyTorch's own engines behind the same loop: DistributedDataParallel, with all on each rank, and
fully_shard, which divides all, for models too large for one GPU.

They take means over ranks where we take sums, so the loss is multiplied by the number of ranks. The
rest is what theirs need: a forward pass they can watch, whole tensors for checkpoints.
Left out: parameters on the CPU (offloading), 16-bit messages.

Used by scale.py; reads and writes nothing. Next: scale.py.
"""

import copy
import math
import os
import sys
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

import console  # noqa: F401, first: it makes the others be found

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from engines import Processes
from family import family_of
from gpt import make_model
from optim import Optimizer, make_optimizer


class Loss(nn.Module):
    """The loss as a module, since that is what DistributedDataParallel watches."""

    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, inputs, targets):
        return self.loss(inputs, targets)


class TorchDDP(Processes):
    """DistributedDataParallel (Li et al. 2020)."""

    name = "torch-ddp"

    def wrap(self, model, loss):
        self.parallel = nn.parallel.DistributedDataParallel(Loss(model, loss))
        return self.parallel

    def begin(self, last):
        self.parallel.require_backward_grad_sync = last  # which its no_sync() sets, too

    def backward(self, loss):
        super().backward(loss * self.world)


def full(tensor):
    """A tensor of which each rank has a part, whole, on each; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class DividedOptimizer(Optimizer):
    """An Optimizer of parameters that are divided, whose state_dict() is whole."""

    def state_dict(self):
        """On rank 0, on the CPU; the others only take part, tensor by tensor, and keep nothing."""
        found, leads = super().state_dict(), dist.get_rank() == 0
        for i, of_one in found["state"].items():
            whole = {}
            for name, value in of_one.items():
                value = full(value)
                whole |= {name: value.cpu()} if leads else {}
            found["state"][i] = whole
        return found

    def load_state_dict(self, state_dict):
        super().load_state_dict(copy.deepcopy(state_dict))  # what it is given it keeps and changes
        for parameter, of_one in self.state.items():
            for name, value in of_one.items():
                if value.shape == parameter.shape:
                    of_one[name] = distribute_tensor(value, parameter.device_mesh,
                                                     parameter.placements)


class FSDP2(Processes):
    """fully_shard (Zhao et al. 2023): every rank has a part of each weight, gradient and state, and
    puts a block together when it is to compute.

    To be evaluated or saved the model is put together in each process: 4 bytes a parameter more,
    for that while.
    """

    name, rehearses, even = "fsdp2", False, True

    def check(self, config):
        super().check(config)
        if config.optimizer == "muon":
            raise ValueError("Muon needs whole matrices, which --engine fsdp2 doesn't have: give "
                             "--optimizer adamw, or --engine zero2")

    def prepare(self, model, config):
        super().prepare(model, config)  # its optimizer, of whole weights, is not used
        mesh = init_device_mesh(model.embed.weight.device.type, (self.world,))
        for part in [*model.blocks, model]:
            fully_shard(part, mesh=mesh)
        return DividedOptimizer(make_optimizer(model, config).param_groups, {})

    def backward(self, loss):
        super().backward(loss * self.world)

    def gradients(self, model):
        return [p.grad.to_local() for p in model.parameters() if p.grad is not None]

    def clip(self, model, largest):
        """optim.clip(): of the sum of the squares each rank has a part."""
        self.unscale(model)
        gradients = self.gradients(model)
        square = sum(float(gradient.square().sum()) for gradient in gradients)
        norm = math.sqrt(self.sum(np.array([square]))[0])
        if norm > largest:
            torch._foreach_mul_(gradients, largest / norm)
        return norm

    def whole(self, model):
        with torch.device("meta"):  # shapes, to be filled
            whole = make_model(model.config)
        whole.load_state_dict({name: full(value) for name, value in model.state_dict().items()},
                              assign=True)
        if family_of(model.config).tied:
            whole.head.weight = whole.embed.weight
        return whole


TORCH_ENGINES = {"torch-ddp": TorchDDP, "fsdp2": FSDP2}
