"""Mixed precision by hand: what 16 bits can represent, and how to train with them.

A product of 16-bit numbers takes a GPU half the time or less, and half the memory. There are two
formats: bfloat16 has the range of float32, but only 8 significant bits; float16 has 11, but numbers
above 65,504 become inf, and those below 6e-8 become 0. So weights, moments and gradients stay in
float32, only products are computed in 16 bits (autocast), and with float16 the loss is scaled, so
that small gradients don't underflow (Micikevicius et al. 2018). First the formats, then autocast
for one layer, then the loss scaler.
Left out: weights in 16 bits, 8-bit formats, scales that differ from tensor to tensor.

    python 07_scale/extras/precision.py      # a table of what each format makes of some numbers

Reads and writes nothing; scale.py trains with it. Next: recompute.py.
"""

import math
import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run

import torch

FORMATS = {  # bits of the exponent, bits of the fraction; one more is the sign
    torch.float32: (8, 23),
    torch.bfloat16: (8, 7),
    torch.float16: (5, 10),
}


# ---- what a format can represent ----
def limits(exponent, fraction):  # exercise
    """The limits of a floating-point format (IEEE 754) with this many bits of each kind.

    A number is (1 + f / 2^fraction) * 2^e, with f from 0 to 2^fraction - 1 and e from 1 - bias to
    bias, where bias = 2^(exponent - 1) - 1. Below the smallest of these "normal" numbers are the
    "subnormal" ones, f / 2^fraction * 2^(1 - bias): the smaller, the fewer significant bits.
    Returns a dict of floats: "largest", "normal" and "subnormal", the smallest above 0 of each
    kind, and "spacing", from 1 to the next number.
    limits(5, 10), which is float16: 65504, 6.1e-5, 6.0e-8, 0.00098
    """
    bias = 2 ** (exponent - 1) - 1
    spacing = 2.0**-fraction
    return {"largest": (2 - spacing) * 2.0**bias, "normal": 2.0 ** (1 - bias),
            "subnormal": spacing * 2.0 ** (1 - bias), "spacing": spacing}


def add_up(start, step, times, dtype):
    """start + step + step + ..., rounded to `dtype` after every addition, as a float."""
    total, step = torch.tensor(start, dtype=dtype), torch.tensor(step, dtype=dtype)
    for _ in range(times):
        total = total + step
    return float(total)


def experiments(dtype):
    """Yield (what, its result if computed in `dtype`), for main() and the tests."""
    def rounded(x):
        return torch.tensor(x, dtype=torch.float64).to(dtype)

    # A weight and its updates: an update of half a spacing is rounded away, however often it is
    # added. So weights stay in float32, and moments, which change by (1 - beta) of a new value.
    yield "1 + 1,000 times 0.001", add_up(1.0, 1e-3, 1000, dtype)
    yield "1 + 10,000 times 0.0001", add_up(1.0, 1e-4, 10000, dtype)
    yield "4,096 ones, one by one", add_up(0.0, 1.0, 4096, dtype)
    yield "0.00001 squared (AdamW)", float(rounded(1e-5).square())
    yield "300 squared (ReLU^2)", float(rounded(300.0).square())
    # The gradient of a new model's logit: its probability, 1 / 8,192 ids, by 65,536 targets.
    gradient = 2.0**-13 / 2**16
    yield "gradient of a logit", float(rounded(gradient))
    yield "... by way of a scaled loss", float(rounded(gradient * 2**16).float() / 2**16)


# ---- autocast, for one layer ----
def autocast_linear(x, weight, bias, dtype):  # exercise
    """What nn.Linear does under torch.autocast(device, dtype): x W' + b in `dtype`.

    x: (..., in); weight: (out, in); bias: (out,). All may be float32: they are first rounded to
    `dtype`. Products and sums are computed in float32, which is exact for the products (8 or 11
    bits times as many) and nearly so for the sums, and the result is rounded to `dtype` once. Sums
    in 16 bits would stop growing: see "4,096 ones" in main()'s table.
    The gradient of rounding is taken to be 1: weight.grad is in float32, since the weight is.
    """
    x, weight, bias = (t.to(dtype).float() for t in (x, weight, bias))
    return (x @ weight.t() + bias).to(dtype)


# ---- float16's loss scale ----
FLOOR = 2.0**-14  # float16's smallest normal number: 1 times a smaller factor is subnormal


class LossScaler:
    """Finds by trial a factor for the loss with which no gradient is inf and few are 0
    (Micikevicius et al. 2018, section 3.2).

    A step: (loss * factor).backward() for every micro-batch, with the loss in float32, since it
    would overflow 16 bits; sum over the ranks; unscale_() the gradients that the optimizer will
    read; clip; bad = not isfinite(norm); update(bad), and a step unless bad: see Scaled, below. A
    power of two changes only a float's exponent, so unscaled gradients are the same as without a
    factor, except those that would have underflowed.

    The factor begins at 65,536, too high for most models: each skipped step halves it, so the right
    one is found in a few steps, whereas gradients lost under too low a factor would go unnoticed.
    65,536 is also about the number of targets in a step, by which our losses are divided.
    """

    def __init__(self, factor=2.0**16, growth_interval=2000):
        self.factor, self.growth_interval = factor, growth_interval
        self.good = self.skipped = 0  # in a row
        self.steps = 0

    def unscale_(self, gradients):  # exercise
        """Divide gradients, float32 tensors, by self.factor, in place.

        Once a step, when gradients are complete, and before they are clipped, since the limit in
        clip() is for unscaled gradients.
        """
        for gradient in gradients:
            gradient.div_(self.factor)

    def update(self, overflowed):  # exercise
        """Adjust the factor after a step. overflowed: its gradients were not finite; it is skipped.

        self.steps counts all steps. If it overflowed, self.factor halves, self.skipped is one more
        and self.good is 0. If not, self.good is one more and self.skipped is 0; and with the
        growth_interval-th good step in a row self.factor doubles, and self.good begins at 0 again.
        ValueError if the factor has fallen below FLOOR: no scale helps, the model has diverged.

        factor 8, growth_interval 2, steps bad, good, good, good: factors 4, 4, 8, 8.
        """
        self.steps += 1
        if overflowed:
            self.factor, self.good, self.skipped = self.factor / 2, 0, self.skipped + 1
        else:
            self.good, self.skipped = self.good + 1, 0
        if self.good == self.growth_interval:
            self.factor, self.good = self.factor * 2, 0
        if self.factor < FLOOR:
            raise ValueError(f"step {self.steps}: the gradients are not finite, whatever the loss "
                             f"scale, for {self.skipped} steps in a row (tried down to "
                             f"{self.factor:.0e}). The model has diverged. Go on from an earlier "
                             "checkpoint with a lower --lr, or try --dtype bfloat16, without scale")

    def state_dict(self):
        return {name: getattr(self, name) for name in ("factor", "good", "skipped", "steps")}

    def load_state_dict(self, state):
        vars(self).update({name: state[name] for name in self.state_dict()})


class Scaled:
    """An engine of scale.py with a LossScaler; attributes not defined here are the engine's. A step
    with gradients that are not finite is skipped, on all ranks, since all have the same norm.
    """

    skips = True

    def __init__(self, engine, scaler=None):
        self.engine, self.scaler = engine, scaler or LossScaler()

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def backward(self, loss, last):
        self.engine.backward(loss * self.scaler.factor, last)

    def clip(self, largest):
        self.scaler.unscale_(self.engine.gradients())
        self.norm = self.engine.clip(largest)
        return self.norm

    def step(self):
        self.scaler.update(not math.isfinite(self.norm))
        if math.isfinite(self.norm):
            self.engine.step()


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    columns = [limits(*bits) | dict(experiments(dtype)) for dtype, bits in FORMATS.items()]
    print(" " * 28 + "".join(f"{str(dtype).removeprefix('torch.'):>12}" for dtype in FORMATS))
    print(f"{'bits':28}" + "".join(f"{f'1 + {e} + {f}':>12}" for e, f in FORMATS.values()))
    for what in columns[0]:
        print(f"{what:28}" + "".join(f"{column[what]:12.5g}" for column in columns))


if __name__ == "__main__":
    run(main)
