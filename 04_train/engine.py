"""How one process trains: the seam between the loop and the many processes of 07_scale.

The loop in train.py never mentions processes; it asks an Engine. This one is for a process that is
alone, so most of it is as good as nothing; 07_scale/scale.py has the others.

Reads and writes nothing. Next: validation.py.
"""

import os
import sys
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

import console  # noqa: F401, first: it makes the others be found

from length import memory_needed
from optim import clip, make_optimizer


class Engine:
    """How one process trains. The loop knows nothing else. Of many processes all must call prepare,
    begin, backward, clip, first, sum and whole, in the same order; so too what prepare returns.
    """

    rank, world = 0, 1  # which process of how many this is
    neighbours = 1  # processes that share this machine's memory, this one counted
    leads = True  # this one prints and writes
    rehearses = True  # the loop may time a step of this process alone, before it starts

    # ---- before the first step ----

    def check(self, config):
        """ValueError if this engine can't train that config."""
        if config.dtype == "float16":
            raise ValueError("dtype float16 needs its loss scaled, which only 07_scale/scale.py "
                             "does; bfloat16 needs no such thing")

    def memory(self, config, shape, world):
        """{"weights": bytes, ...}: what a process of `world` takes for a step, by part."""
        return memory_needed(config, shape, world)

    def prepare(self, model, config):
        """Called once, when the weights are in place: the optimizer that moves them."""
        return make_optimizer(model, config)

    def wrap(self, model, loss):
        """The function that accumulate() calls, given the one that it would call by itself."""
        return loss

    # ---- a step: begin, loss, backward for each micro-batch; then clip, overflowed ----

    def begin(self, last):
        """A micro-batch begins. `last`: it completes the step's gradients."""

    def backward(self, loss):
        """Add the gradients of `loss`."""
        loss.backward()

    def clip(self, model, largest):
        """optim.clip(), of the gradients of all processes."""
        return clip(model.parameters(), largest)

    def overflowed(self, norm):
        """Whether this step is to be skipped, since its gradients were too large for their type. To
        be called once a step: a scale of the loss learns from it.
        """
        return False

    # ---- between processes ----

    def first(self, work):
        """The result of work(), which may write files: one process does it, all get the result."""
        return work()

    def share(self, rows):
        """The part of the rows of a batch (a tensor, an array, a list) that is this process's."""
        return rows

    def sum(self, values):
        """Sum a float64 array over all processes, element by element."""
        return values

    def whole(self, model):
        """The model with all its weights, to look at, to evaluate, to save."""
        return model

    # ---- what a checkpoint has to remember ----

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass

    def close(self):
        """Called at the end."""
