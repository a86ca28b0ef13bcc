"""Matrices stored in the order in which oneDNN reads them, for models that read but don't learn.

On some processors (those of AMD, where torch's usual library, MKL, is slow) a model reads and
writes faster with them; for_reading() has a figure. They cost a copy of the model.

Used by rollouts.py, when answers are written, and by 05_sample and 06_eval. Reads and writes
nothing. Next: rollouts.py.
"""

import copy
import os
import sys
from functools import partial

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import torch
from torch import nn

from lora import merge


class Blocked(nn.Module):
    """A Linear whose weights are stored in the blocks in which oneDNN reads them for `rows` rows at
    once; any other number of rows works, too.
    """

    def __init__(self, linear, rows):
        super().__init__()
        self.register_buffer("weight", torch.ops.mkldnn._reorder_linear_weight(linear.weight, rows))
        self.register_buffer("bias", linear.bias)

    def forward(self, x):
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def with_form(model, form):
    """Replace each Linear of a model, merged with its adapter if it has one, by form(Linear), in
    place. Returns the model.
    """
    merge(model)
    # No list of all Linears: each is to be freed before the next is packed.
    for parent in [module for module in model.modules() if not isinstance(module, nn.Linear)]:
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, form(child))
    return model


@torch.no_grad()
def for_reading(model, rows=2048):
    """A copy of a float32 model that reads texts of many ids faster on a CPU, by oneDNN; elsewhere
    the model itself. rows: about how many ids it reads at once. Results differ in their last bits.
    SmolLM2 read 370 tokens a second instead of 292 on two cores of Zen 3, whose matrix products by
    MKL, torch's usual way, are slow; other processors were not tried.
    """
    if model.embed.weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return model
    return with_form(copy.deepcopy(model), partial(Blocked, rows=rows))
