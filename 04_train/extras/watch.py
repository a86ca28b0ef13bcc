"""Measurements while a model trains: spikes of the loss, sizes of updates, scales of activations.

A loss curve shows that something is wrong, these show where. Measuring changes no weight, gradient
or random number, so a run that is measured is the same run, bit for bit.

Reads and writes nothing: beside.py calls it, and metrics.jsonl holds its results. Next:
nonfinite.py.
"""

import contextlib
import functools
import math

import torch


# ---- the loss ----
class Spikes:
    """Which losses stand out from the ones before them.

    Of losses with normal noise two in 10,000 are 4 standard deviations above the mean of the last
    50: few false alarms. OLMo 2 (2024) uses 7 deviations, of the last 1,000.
    """

    window, least, far = 50, 10, 4.0  # losses to compare with, at most and at least; deviations

    def __init__(self):
        self.recent = []

    def seen(self, loss):  # exercise
        """Whether this loss, a finite float, is a spike. It is added to self.recent in any case.

        A spike is greater than limit = mean + self.far * deviation of the losses in self.recent,
        the deviation being sqrt(mean((x - mean)^2)); with fewer than self.least recent losses there
        are none. Afterwards self.recent is a list of the last self.window losses, this one
        included. A spike is added as `limit`, since its own value would hide those that follow; if
        it is a new level, the limit rises to it: 100 deviations in some 25 steps.

        After 1 and 3 ten times in turn, with mean 2 and deviation 1, 6 is no spike; after the same
        losses 9 is one, and is added as 6.
        """
        limit, n = math.inf, len(self.recent)
        if n >= self.least:
            mean = sum(self.recent) / n
            limit = mean + self.far * math.sqrt(sum((x - mean)**2 for x in self.recent) / n)
        self.recent = [*self.recent, min(loss, limit)][-self.window:]
        return loss > limit


# ---- the weights ----
def group_of(name):
    """The part of a model to which a parameter belongs: "embed", "blocks.0.attention", "head" ...

    All norms' gains are one part, "norms": they are about 1, and would dominate the matrices.
    """
    if "norm" in name:
        return "norms"
    parts = name.split(".")
    return ".".join(parts[:3] if parts[0] == "blocks" else parts[:1])


def sampled(tensor):
    """A copy of a tensor's numbers, (k,); of more than 65,536 so many, from random places that are
    the same each time. All numbers of a model would take as much memory again as its weights.
    """
    n, generator = tensor.numel(), torch.Generator().manual_seed(0)
    places = torch.randint(n, (65_536,), generator=generator) if n > 65_536 else torch.arange(n)
    return tensor.detach().flatten()[places.to(tensor.device)]


@torch.no_grad()
def update_ratios(before, named):  # exercise
    """How far the weights have moved, as a share of their size before: {group: |now - before| /
    |before|}, a float for each group_of() the names. before: {name: sampled(parameter)}.

    named: (name, parameter) pairs; a name that is not in `before` is left out. |x|^2 is a sum over
    the tensors of the group: the mean square of what is sampled() of each, times its numel(). A
    group that was all zeros is left out. If [3] and [4, 0], a group, move to [3] and [4, 0.5], it
    has 0.5 / 5 = 0.1. Of large tensors this is an estimate: its standard error is 0.4% if weights
    and updates are normal, 2% if only one row in 30 has moved. Karpathy's rule of thumb is 1e-3 a
    step (CS231n, "Ratio of weights:updates"); tiny's matrices move by 0.03 at its peak rate.
    """
    moved, size = {}, {}
    for name, p in named:
        if name in before:
            group, n, change = group_of(name), p.numel(), sampled(p) - before[name]
            moved[group] = moved.get(group, 0) + n * float(change.square().mean())
            size[group] = size.get(group, 0) + n * float(before[name].square().mean())
    return {group: (moved[group] / size[group])**0.5 for group in size if size[group]}


# ---- activations ----
@contextlib.contextmanager
def listening(model, hear):
    """A context in which hear(what, tensor) is called for all that the model computes, in order:
    the input and output of each module; in a backward pass the gradients of these and, when they
    are complete, of the weights. hear must return None, else its result replaces the tensor.
    The hooks are removed afterwards, whatever happens.

    what: "what goes into blocks.0.mlp.up", "the gradient of the weight head.weight" ...
    """
    def tell(what, tensor):
        hear(what, tensor)
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: hear(f"the gradient of {what}", gradient))

    def listen(name, module):
        yield module.register_forward_pre_hook(
            lambda module, inputs: tell(f"what goes into {name}", inputs[0]))
        yield module.register_forward_hook(
            lambda module, inputs, output: tell(f"what comes out of {name}", output))

    handles = []
    for name, module in model.named_modules():
        handles += listen(name or "the model", module)
    for name, weight in model.named_parameters():
        what = f"the gradient of the weight {name}"
        if weight.requires_grad:
            handles.append(weight.register_hook(functools.partial(hear, what)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def activation_scales(model, ids):
    """The scale of activations, {"embed", "blocks.0", "blocks.1", ..., "logits": root mean square}:
    of the residual stream before the first block and after each block, and of the logits.

    ids: (B, T). A stream far larger than the output of a block can hardly be changed by it any
    more: at the end of the tiny preset its scale is 1.5, at a learning rate of 0.1 it was 25,000.
    Logits that grow without end have diverged (Wortsman et al. 2023, section 3.1).
    """
    scales, names = {}, {"what goes into blocks.0": "embed"}
    names |= {f"what comes out of blocks.{i}": f"blocks.{i}" for i in range(len(model.blocks))}
    names["what comes out of the model"] = "logits"

    def hear(what, tensor):
        if what in names:
            scales[names[what]] = float(tensor.float().square().mean().sqrt())
    with listening(model, hear):
        model(ids)
    return scales
