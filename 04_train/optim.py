"""How gradients become steps: learning-rate schedules, AdamW, and Muon for matrices.

The length of a step follows a schedule over the run. Its direction is AdamW's, which scales every
number by itself, or Muon's, which makes all singular values of a matrix's step about equal. First
each idea as its paper has it, then the trainer's Optimizer.

    python 04_train/optim.py      # draws the schedules, and what Muon does to a gradient

Next: runs.py.
"""

import math
import os
import sys
from types import SimpleNamespace

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run

import torch
from torch.optim.adamw import adamw as fused_adamw

SCHEDULES = ("wsd", "linear", "cosine", "inverse-sqrt")


def learning_rate(step, config):  # exercise
    """The learning rate of step 0, 1, ... config.steps - 1: lr * min(1, rise, fall).

    rise = (step + 1) / warmup, or 1 without a warm-up; fall = low + (1 - low) * left. `low` is
    min_lr_share. `left` would be 0 at step config.steps, one after the last; by config.schedule:
    - "wsd", constant, then linear (Hägele et al. 2024): left = (steps - step) / (cooldown * steps),
      above 1 before the last `cooldown` share of the steps; always 1 if cooldown is 0.
    - "linear", from the end of the warm-up: left = (steps - step) / (steps - warmup) from step
      `warmup` on, 1 before it, also where the warm-up is longer than the run.
    - "cosine" (Loshchilov & Hutter 2016): (1 + cos(pi * (1 - x))) / 2, where x is linear's left.
    "inverse-sqrt" (Vaswani et al. 2017, section 5.3) has no end, and no `low`:
    fall = sqrt(max(1, warmup) / (step + 1)). With lr = (d_model * warmup)^-0.5 it is the paper's.
    With lr 1, warmup 2, steps 6: "linear" is 0.5, 1, 1, 0.75, 0.5, 0.25.
    """
    warmup, steps, low = config.warmup, config.steps, config.min_lr_share
    rise = (step + 1) / warmup if warmup else 1.0
    if config.schedule == "inverse-sqrt":
        return config.lr * min(1.0, rise, math.sqrt(max(1, warmup) / (step + 1)))
    if config.schedule == "wsd":
        left = (steps - step) / (config.cooldown * steps) if config.cooldown else 1.0
    else:
        left = min(1.0, (steps - step) / max(1, steps - warmup))
    if config.schedule == "cosine":
        left = (1 + math.cos(math.pi * (1 - left))) / 2
    return config.lr * min(1.0, rise, low + (1 - low) * left)


def clip(gradients, largest, add=None):  # exercise
    """Scale gradients in place so that their norm, the root of the sum of the squares of all their
    numbers, is at most `largest` (Pascanu et al. 2012, section 3.2). Returns the norm before that.

    If it was larger, every gradient is multiplied by largest / norm; otherwise, nan included, none
    changes. Where each process has only some of the gradients, add(tensor) sums a tensor over all
    processes: call it with the sum of the squares, in float64.
    Gradients [3] and [0, 4] with largest 1 become [0.6] and [0, 0.8]; 5 is returned.
    """
    norm = torch.nn.utils.get_total_norm(gradients)
    norm = float(add(norm.double() ** 2) ** 0.5 if add else norm)
    if norm > largest:
        torch._foreach_mul_(gradients, largest / norm)
    return norm


def adamw_by_hand(p, gradient, m, v, t, lr, betas, eps, decay):  # exercise
    """One step of AdamW (Loshchilov & Hutter 2017, algorithm 2), t = 1 being the first. Returns
    (p, m, v) after it, and changes none of the tensors given: p, gradient, m, v, of one shape.

    m and v are running averages of the gradient and of its square: m = b1 m + (1 - b1) gradient,
    with betas (b1, b2). As they begin at 0, they are too small at first, so m / (1 - b1^t) and
    v / (1 - b2^t) replace them when p changes by -lr * (m / (sqrt(v) + eps) + decay * p). The decay
    is not added to the gradient, where it would be divided by sqrt(v).
    p = 1, gradient = 0.3, m = v = 0, t = 1, lr = 0.1, decay = 0.5: 1 - 0.1 * (1 + 0.5) = 0.85.
    """
    b1, b2 = betas
    m = b1 * m + (1 - b1) * gradient
    v = b2 * v + (1 - b2) * gradient**2
    m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
    return p - lr * (m_hat / (v_hat.sqrt() + eps) + decay * p), m, v


def nesterov(gradient, average, momentum):  # exercise
    """The average of the gradients as it would be after one more gradient like this one (Nesterov
    1983, as Dozat 2016 writes it). First, in place, average = momentum * average + (1 - momentum) *
    gradient. Then the same formula, applied to the new average, gives the new tensor returned.
    With gradient 1, average 0, momentum 0.9: average becomes 0.1, and 0.19 is returned.
    """
    average.lerp_(gradient, 1 - momentum)
    return gradient.lerp(average, momentum)


# a, b, c of three steps, the best for all values from 0.01 to 1 (Amsel et al. 2025, algorithm 1).
QUINTICS = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))


def orthogonalize(G, quintics=QUINTICS):  # exercise
    """Roughly the nearest matrix whose singular values are all 1: of G = U S V', about U V'.

    G: (..., m, n), each matrix for itself; returned in its type. Muon's iteration (Jordan et al.
    2024): from X = G / (|G| + 1e-7), with |G| the root of the sum of the squares, for each a, b, c

        A = X X'        X = a X + (b A + c A A) X

    maps every singular value s to a s + b s^3 + c s^5 and leaves U and V alone. After QUINTICS
    those above 0.01 |G| are between 0.73 and 1.27, and smaller ones have grown up to 78 times.
    A is (m, m), so a tall G is transposed, and back at the end. On GPUs in bfloat16, else float32;
    there X is divided by 1.01 before each step, as rounding may lift values above the step's range.
    """
    X = (G.bfloat16() if G.is_cuda else G.float()).reshape(-1, *G.shape[-2:])
    tall = X.shape[1] > X.shape[2]
    X = X.mT if tall else X
    X = X / (X.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for a, b, c in quintics:
        X = X / 1.01 if G.is_cuda else X
        A = X @ X.mT
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)  # b A + c A A, in one go
        X = torch.baddbmm(X, B, X, beta=a)
    return (X.mT if tall else X).reshape(G.shape).to(G.dtype)


def orthogonalize_parts(matrices, parts, quintics=QUINTICS):
    """Orthogonalise in place each part of matrices[i], of parts[i] rows; parts of equal shape in
    one call. Tall parts are scaled, to change outputs as much as square ones (Jordan et al. 2024).
    """
    shapes = {}
    for matrix, rows in zip(matrices, parts):
        for part in matrix.split(rows):
            shapes.setdefault(part.shape, []).append(part)
    for (rows, columns), same in shapes.items():
        results = orthogonalize(torch.stack(same), quintics) * max(1, rows / columns)**0.5
        torch._foreach_copy_(same, list(results))


class Optimizer(torch.optim.Optimizer):
    """Groups of two kinds in one state_dict: dicts of "params", "kind", "lr", "scale" (lr over the
    schedule's), "weight_decay"; "adamw": "betas", "eps"; "muon": "momentum". parts: {matrix: how
    many rows each of its parts has}, for those that stack several matrices, such as Q, K and V.
    """

    def __init__(self, groups, parts, by_hand=False):
        super().__init__(groups, {})
        self.parts, self.by_hand = parts, by_hand

    def load_state_dict(self, state_dict):
        """Load the state of every parameter. The groups stay as the config has made them."""
        groups = self.param_groups  # keep these objects: callers set "lr" in them
        super().load_state_dict(state_dict)
        self.param_groups = groups
        for p, state in self.state.items():  # torch checks no shape, and doesn't move "step"
            for name in {"average"} & {*state} or ("step", "exp_avg", "exp_avg_sq"):
                state[name] = state[name].to(p.device).view(p.shape if name != "step" else ())

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            (self.muon if group["kind"] == "muon" else self.adamw)(params, group)

    def muon(self, params, group):  # exercise
        """Muon (Jordan et al. 2024). For each p, nesterov() with p.grad, group["momentum"], and
        self.state[p]["average"], made in the first step, of zeros. orthogonalize_parts() makes of
        all results, in place, directions; p's parts are self.parts.get(p, [len(p)]). With group's
        "lr" and "weight_decay", in place, p becomes p * (1 - lr * weight_decay) - lr * direction.
        """
        for p in [p for p in params if not self.state[p]]:  # in the first step
            self.state[p]["average"] = torch.zeros_like(p)
        ahead = [nesterov(p.grad, self.state[p]["average"], group["momentum"]) for p in params]
        orthogonalize_parts(ahead, [self.parts.get(p, [len(p)]) for p in params])
        for p, direction in zip(params, ahead):
            p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])

    def adamw(self, params, group):
        """adamw_by_hand() for each parameter, or one fused kernel for all."""
        for p in params:
            if not self.state[p]:  # named as torch.optim.AdamW does
                self.state[p] |= {"step": torch.zeros((), device=p.device),
                                  "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        steps, m, v = ([self.state[p][key] for p in params]
                       for key in ("step", "exp_avg", "exp_avg_sq"))
        if self.by_hand:
            for p, m_p, v_p, step in zip(params, m, v, steps):
                new = adamw_by_hand(p, p.grad, m_p, v_p, float(step.add_(1)), group["lr"],
                                    group["betas"], group["eps"], group["weight_decay"])
                torch._foreach_copy_([p, m_p, v_p], new)
            return
        fused_adamw(params, [p.grad for p in params], m, v, [], steps, fused=True, amsgrad=False,
                    beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"],
                    weight_decay=group["weight_decay"], eps=group["eps"], maximize=False)


def make_optimizer(model, config):
    """config.optimizer, with decay, for the blocks' matrices; AdamW, without, for all others."""
    matrices = [p for p in model.blocks.parameters() if p.dim() == 2 and p.requires_grad]
    others = [p for p in model.parameters() if p.requires_grad and p not in {*matrices}]
    adamw = dict(kind="adamw", lr=config.lr, scale=1.0, eps=1e-8, betas=(0.9, config.beta2))
    muon = dict(kind="muon", lr=config.muon_lr, scale=config.muon_lr / config.lr,
                momentum=config.momentum)
    chosen = muon if config.optimizer == "muon" else adamw
    parts = {a.qkv.weight: [n * a.config.head_dim for n in a.heads]  # queries, keys, values
             for a in (block.attention for block in model.blocks)}
    return Optimizer([chosen | {"params": matrices, "weight_decay": config.weight_decay},
                      adamw | {"params": others, "weight_decay": 0.0}], parts, config.by_hand)


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    print("The learning rate over a run of 64 steps, 8 of them its warm-up:")
    for name in SCHEDULES:
        how = SimpleNamespace(schedule=name, lr=1, warmup=8, steps=64, cooldown=0.5, min_lr_share=0)
        rates = [learning_rate(step, how) for step in range(64)]
        print(f"  {name:13}" + "".join(" ▁▂▃▄▅▆▇█"[round(8 * rate)] for rate in rates))
    print("\nSingular values of a gradient of 64 x 64, one in nine, and after each step of Muon's:")
    U, V = torch.linalg.qr(torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))).Q
    gradient = U * torch.logspace(-2, 0, 64) @ V.T  # some directions push 100 times as hard
    for n in range(len(QUINTICS) + 1):
        values = torch.linalg.svdvals(orthogonalize(gradient, QUINTICS[:n]))
        print(f"  after {n}  " + " ".join(f"{value:5.3f}" for value in values[::9]))


if __name__ == "__main__":
    run(main)
