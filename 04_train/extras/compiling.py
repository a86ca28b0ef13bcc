"""--compile: torch.compile for each block by itself, and for the head together with the loss.

What is compiled as one piece is one operation for autograd, too, whose gradients all arrive at its
end. If that were the whole loss, scale.py could send nothing while the backward pass is at work. So
the backward pass stays in pieces: the head's gradient arrives first, then those of one block after
the other, down to the embedding. All blocks are the same code, which is compiled only once.

    python 04_train/train.py --preset tiny --compile

Reads and writes nothing: Config.objective() calls it. Next: snapshots.py.
"""

import functools
import os
import sys
from types import MethodType

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import torch


def compile_blocks(model):
    """Let the blocks of a GPT be compiled from now on, one by one, except in inference mode: a text
    that is being written has another length at every step.

    Only attributes of the blocks and of the model change, which hide methods of their classes:
    weights, names, hooks of the blocks and copy.deepcopy(model) stay as they are. What compiles the
    loss too stops at model.hidden(), in which the blocks are called. recompute.recompute_blocks()
    comes after this, so that what runs again is compiled.
    """
    plain = type(model.blocks[0]).forward
    compiled = torch.compile(plain)

    @functools.wraps(plain)
    def forward(*given):
        return (plain if torch.is_inference_mode_enabled() else compiled)(*given)

    for block in model.blocks:
        block.forward = MethodType(forward, block)
    own = vars(model).get("hidden")  # which fsdp.shard() has made
    model.hidden = torch.compiler.disable(own) if own else MethodType(
        torch.compiler.disable(type(model).hidden), model)
