"""Find the first tensor that was not finite, when a loss or a gradient is nan or inf.

A loss of nan says that something is wrong; the first layer whose output was not finite says where.
Left out: what to do about it. A lower --lr, more --warmup or a smaller --grad-clip often help.

Reads and writes nothing: train.py and scale.py call it before they stop. Next: report.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import torch

from watch import listening


def how_bad(tensor):
    """How much of a tensor is not finite, "3 nan and 0 inf of 4,096 numbers"; "" if nothing is."""
    n_nan, n_inf = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    if n_nan + n_inf:
        return f"{n_nan:,} nan and {n_inf:,} inf of {tensor.numel():,} numbers"
    return ""


def first_bad(model, arrays, config, loss=None):
    """A line that names the first tensor of a step that was not finite, and how much of it.

    arrays: inputs, targets, (B, T), and what else this process had in the step; loss: what gave the
    step its losses of them (default: model.loss). To be called before the weights have changed: all
    is computed once more, in the order of the step, micro-batch by micro-batch:
    the weights, as they are; what goes into every module and comes out of it; the loss; the
    gradients, from the last layer to the first; their norm, which can be too large for float32
    where they aren't.
    .grad is not read, and not touched: where the norm was inf, clipping has made nan of the infs
    and 0 of all else.
    A model that is divided over processes computes only where all of them call it, equally often:
    then every micro-batch is computed, and gradients are not looked at.
    """
    found = []

    def look(what, tensor):
        if not found and (bad := how_bad(tensor)):
            found.append(f"{what}: {bad}")

    names, weights = zip(*model.named_parameters())
    divided = hasattr(weights[0], "to_local")
    for name, weight in zip(names, weights):
        look(f"the weight {name}", weight.to_local() if divided else weight)
    n_targets = max(1, int((arrays[1] >= 0).sum()))
    dtype, micro_batch = getattr(torch, config.dtype), config.micro_batch
    with torch.compiler.set_stance("force_eager"), listening(model, look):
        for parts in zip(*(array.split(micro_batch) for array in arrays)):
            if divided or not found:
                with torch.autocast(parts[0].device.type, dtype, enabled=dtype != torch.float32):
                    nats = (loss or model.loss)(*parts)
                look("the loss", nats)
            if not divided and not found:
                trained = {n: w for n, w in zip(names, weights) if w.requires_grad}
                gradients = torch.autograd.grad(nats.sum() / n_targets, [*trained.values()])
                norms = torch.stack([gradient.norm() for gradient in gradients])
                look(f"the norm of all gradients, the largest that of {[*trained][norms.argmax()]}",
                     norms.norm())
    return found[0] if found else "nothing here: done again, all that this process does is finite"
