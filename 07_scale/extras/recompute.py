"""Activation checkpointing by hand: keep only a block's input, and compute the rest again.

The backward pass needs the inputs of every operation of the forward pass, and for a GPT these soon
take more memory than all else. A recomputed block keeps its input, (B, T, C), and none of the
dozens of tensors inside. When its gradient arrives, the block runs again, this time keeping all
activations, and the gradient goes through; then they are freed. A step costs one more forward pass
of the blocks: four passes instead of three, as a backward pass is worth two (Chen et al. 2016,
section 4, with every block a segment). PyTorch's version stops before the last matrix product,
whose result is not needed, and costs two thirds of that. The second run must be the same as the
first: dropout must drop the same numbers, autocast round the same way.
Left out: choosing what to keep inside a block, the random state of a Mac's GPU.

    python 07_scale/extras/recompute.py      # memory and time of a step, with and without

Reads and writes nothing; scale.py trains with it. Next: plan.py.
"""

import contextlib
import functools
import os
import sys
import time

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run

import torch
from torch.utils.checkpoint import checkpoint

from gpt import GPT, GPTConfig

HOW = ("none", "hand", "torch")


# ---- the same numbers again ----
def random_state(device):
    """The state of the random generators that a block on `device` may use: the processor's, and
    the GPU's if it is on one.
    """
    on_gpu = device.type == "cuda"
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if on_gpu else None


@contextlib.contextmanager
def restored(state, device):
    """A context with the random numbers of `state`; afterwards they continue as if it never was."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], device)
        yield


def same_autocast(device):
    """A function that makes a context in which autocast is as it is now.

    Except for its cache of rounded weights, which saves work if a weight is used twice. A block
    uses each once, and the cache would hold all weights at once, 2 bytes a parameter.
    """
    return functools.partial(torch.autocast, device.type, torch.get_autocast_dtype(device.type),
                             torch.is_autocast_enabled(device.type), cache_enabled=False)


# ---- the idea ----
class Recompute(torch.autograd.Function):
    """block(x, *others) as one operation for autograd, which keeps only x.

    For autograd the block's parameters are inputs, like x: so it computes gradients even if x needs
    none, adds theirs to .grad itself, once, and then calls the hooks that wait for them (scale.py).
    At first torch.utils.checkpoint did this differently: a backward pass inside the backward pass
    wrote to .grad.
    """

    @staticmethod
    def forward(ctx, block, others, x, *parameters):  # exercise
        """block(x, *others), computed without a graph (autograd calls this under no_grad).

        block: a function; x: a tensor; others: a tuple of its other arguments, which get no
        gradients (angles, a mask, None); parameters: the tensors inside it that do.
        Returns a tensor. Set on ctx, for backward(): ctx.block, ctx.others, ctx.random =
        random_state(x.device), from before the block runs, and ctx.autocast =
        same_autocast(x.device), a function that makes the context in which to run it. x and the
        parameters, which get gradients, go through ctx.save_for_backward().
        """
        ctx.save_for_backward(x, *parameters)
        ctx.block, ctx.others = block, others
        ctx.random, ctx.autocast = random_state(x.device), same_autocast(x.device)
        with ctx.autocast():
            return block(x, *others)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # exercise
        """The gradients of forward()'s inputs, one for each, from the result's gradient: None for
        block and others, and for inputs that need none (ctx.needs_input_grad, a bool for each).

        Run the block again, under torch.enable_grad(), with the random numbers of the first run,
        restored(ctx.random, device), and its autocast, ctx.autocast(), on x.detach(), so that this
        graph ends there; the detached x requires a gradient if x needs one. The gradients of it and
        the parameters are torch.autograd.grad(result, those that need one, gradient,
        allow_unused=True).
        """
        x, *parameters = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        with torch.enable_grad(), restored(ctx.random, x.device), ctx.autocast():
            x = x.detach().requires_grad_(needed[0])
            result = ctx.block(x, *ctx.others)
        wanted = [t for t, wants in zip((x, *parameters), needed) if wants]
        found = iter(torch.autograd.grad(result, wanted, gradient, allow_unused=True))
        return None, None, *(next(found) if wants else None for wants in needed)


# ---- the blocks of a GPT ----
def by_hand(block, forward, x, angles, mask=None, cache=None):
    """The new forward() of a block. `forward` is its old one.

    Without gradients nothing is kept anyway; and with a cache, a second run would append twice.
    """
    if cache is not None or not torch.is_grad_enabled():
        return forward(x, angles, mask, cache)
    return Recompute.apply(forward, (angles, mask, cache), x, *block.parameters())


def by_torch(block, forward, x, angles, mask=None, cache=None):
    """by_hand() with torch.utils.checkpoint, which recomputes what autograd would have saved."""
    if cache is not None or not torch.is_grad_enabled():
        return forward(x, angles, mask, cache)
    return checkpoint(forward, x, angles, mask, cache, use_reentrant=False)


def recompute_blocks(model, how):
    """Recompute a GPT's blocks from now on, by_hand() or by_torch(), as `how` is "hand" or "torch";
    with "none", no longer.

    Only the attribute `forward` of each block changes, which then hides its class's: weights,
    names, hooks of the block and copy.deepcopy(model) work as before. Hooks of modules inside a
    block are called twice in a step. ValueError if `how` is not in HOW.
    """
    if how not in HOW:
        raise ValueError(f"recompute is {how!r}, but must be one of {', '.join(HOW)}")
    for block in model.blocks:
        if isinstance(block.forward, functools.partial):  # of an earlier call
            block.forward = block.forward.args[1]
        if how != "none":
            wrapped = by_hand if how == "hand" else by_torch
            block.forward = functools.partial(wrapped, block, block.forward)


# ---- what it saves, and what it costs ----
def saved_bytes(work, model):
    """Bytes that autograd keeps for the backward pass of work()'s result, without the model's
    parameters, each piece of memory counted once.
    """
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    del result  # until here all kept memory is alive, so that no address is reused
    return sum(kept.values())


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="steps timed each (default: 3)")
    parser.add_argument("--d-model", type=int, default=256, help="width (default: 256)")
    args = parser.parse_args(argv)
    C = args.d_model
    config = GPTConfig(vocab_size=512, seq_len=256, n_layer=6, n_head=4, n_kv_head=4, d_model=C,
                       d_ff=4 * C)
    model, ids, seconds = GPT(config), torch.randint(512, (4, 256)), {how: [] for how in HOW}
    print(f"{config.n_layer} blocks; between two of them {4 * 256 * C * 4 / 1e6:.1f} MB")
    for _ in range(args.repeats + 1):  # in turn, as the machine's speed varies; a warm-up first
        for how in HOW:
            recompute_blocks(model, how)
            start = time.process_time()  # of all threads, without other processes
            model.loss(ids, ids).mean().backward()
            seconds[how].append(time.process_time() - start)
    print(f"{'recomputed':12}{'kept, MB':>12}{'a step, s':>12}{'ratio':>8}")
    for how in HOW:
        recompute_blocks(model, how)
        kept, best = saved_bytes(lambda: model.loss(ids, ids), model), min(seconds[how][1:])
        print(f"{how:12}{kept / 1e6:12.1f}{best:12.2f}{best / min(seconds['none'][1:]):8.2f}")


if __name__ == "__main__":
    run(main)
