"""PyTorch's own engines behind scale.py's loop: DistributedDataParallel, with all on each rank, and
fully_shard, which divides all, for models too large for one GPU.

They take means over ranks where we take sums, so the loss is multiplied by the number of ranks, and
they talk after every micro-batch, so all ranks need equally many. The rest is what theirs need: a
forward pass they can watch, whole tensors for checkpoints.
Left out: parameters on the CPU (offloading), 16-bit messages.

Used by scale.py; reads and writes nothing. Next: selftest.py.
"""

import copy
import os
import sys

if "console" not in sys.modules:  # which is found first, and puts all folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first: it makes the others be found

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from family import family_of
from gpt import make_model
from optim import Optimizer, make_optimizer
from runs import tensors
from scale import DataParallel, broadcast_weights


class Loss(nn.Module):
    """The loss as a module, since that is what DistributedDataParallel watches."""

    def __init__(self, model, loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, inputs, targets):
        return self.loss(inputs, targets)


class TorchDDP(DataParallel):
    """DistributedDataParallel (Li et al. 2020)."""

    def __init__(self, model, config):
        self.model, self.optimizer = model, make_optimizer(model, config)
        self.loss = nn.parallel.DistributedDataParallel(Loss(model, config.objective(model)))

    def backward(self, loss, last):
        (loss * dist.get_world_size()).backward()


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


class FSDP2(DataParallel):
    """fully_shard (Zhao et al. 2023): every rank has a part of each weight, gradient and state, and
    puts a block together when it is to compute.

    To write a sample the model is put together in each process: 4 bytes a parameter more, for that
    while.
    """

    divided = True

    def __init__(self, model, config):
        broadcast_weights(model)
        mesh = init_device_mesh(model.embed.weight.device.type, (dist.get_world_size(),))
        for part in [*model.blocks, model]:
            fully_shard(part, mesh=mesh)
        register_fsdp_forward_method(model, "loss")  # which doesn't go through forward()
        self.model, self.loss = model, config.objective(model)
        self.optimizer = DividedOptimizer(make_optimizer(model, config).param_groups, {})

    def backward(self, loss, last):
        (loss * dist.get_world_size()).backward()

    def gradients(self):
        return [p.grad.to_local() for p in self.model.parameters() if p.grad is not None]

    def tensors(self):
        """One by one: (name, whole tensor)."""
        self.model.reshard()  # an evaluation leaves some of them whole, as if they were plain
        for name, tensor in tensors(self.model):
            yield name, full(tensor)

    def whole(self):
        with torch.device("meta"):  # shapes, to be filled
            whole = make_model(self.model.config)
        whole.load_state_dict({name: full(value) for name, value in
                               self.model.state_dict().items()}, assign=True)
        if family_of(self.model.config).tied:
            whole.head.weight = whole.embed.weight
        return whole


TORCH_ENGINES = {"torch-ddp": TorchDDP, "fsdp2": FSDP2}
