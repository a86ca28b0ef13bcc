"""How weights are stored for decoding: float32, bfloat16, int8, int4, and in which order.

A step of decoding reads every weight once and does little else, so with a large model it is as fast
as the memory: half the bytes could take half the time, if the kernel is as good, and weights stored
in the order in which the kernel reads them are fastest. int8, whole numbers, takes a quarter of the
bytes: a weight becomes one of 255 steps of its row, and the layer's input is rounded, too, as a
processor multiplies whole numbers fastest. int4 takes 5 bits a weight: one of 16 steps, of its own
32 neighbours' range. The loss of quality is measured, in bits per byte.
Left out: calibration on data (GPTQ, AWQ), training with rounded numbers.

    python 05_sample/extras/quant.py --run tiny
    python 05_sample/extras/quant.py --weights FOLDER --file TEXT --tokens 4000

Reads the newest run in runs/ and its validation set, or --run, or --weights and --file; prints a
table. Next: figures.py.
"""

import copy
import dataclasses
import os
import statistics
import sys
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, option, read_text, run

import numpy as np
import torch
from torch import nn

from blocked import Blocked, with_form
from conversations import begin_ids
from data import bits_per_byte, token_bytes
from gpt import generate
from heads import cache_bytes
from runs import run_data
from sample import RunOptions
from train import score

KINDS = ("float32", "bfloat16", "int8", "int4")
GROUP = 32  # weights of a row that share a scale in int4
TINY = torch.finfo(torch.float32).tiny  # instead of 0, to divide zeros by


# ---- the idea, by hand ----
def quantize_rows(w):  # exercise
    """Each row of a matrix as whole numbers from -127 to 127 and one scale: w ~ q * scale.

    w: (out, in) float32. The scale of a row is its largest absolute value / 127, and q is w / scale
    rounded to the nearest, so that no error exceeds half a scale. A row of zeros stays zeros, with
    the scale 1. Each row has its own scale, since with one for all a row of small numbers would be
    rounded to 0 (Dettmers et al. 2022, section 2.1).
    Returns (q (out, in) int8, scales (out,) float32). [[2.54, -1.28, 0.051]] becomes
    [[127, -64, 3]] with the scale 0.02.
    """
    scales = w.abs().amax(dim=1) / 127
    scales[scales == 0] = 1  # some kernels refuse 0
    return (w / scales[:, None]).round().to(torch.int8), scales


def quantize_tensor(x, top=255):  # exercise
    """A tensor as whole numbers from 0 to `top`, one scale, and the number that represents 0.0:
    x ~ (u - zero) * scale (Jacob et al. 2018, section 2.1).

    With lo the smallest and hi the largest of x and 0.0, the scale is (hi - lo) / top, but at least
    TINY; zero is -lo / scale, rounded; u is x / scale + zero, rounded and clamped to 0 ... `top`.
    The whole range is used, whatever the signs, and 0.0 is represented exactly.
    Returns (u uint8 in the shape of x, scale, zero), both tensors with one number, zero of int32.
    quantize_tensor([-1.0, 0.0, 4.1]) is [0, 50, 255], 0.02, 50.
    """
    lo, hi = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = ((hi - lo) / top).clamp(min=TINY)
    zero = (-lo / scale).round()
    return (x / scale + zero).round().clamp(0, top).to(torch.uint8), scale, zero.int()


def int8_linear_by_hand(x, q, scales, bias=None, top=255):  # exercise
    """x W' + b by a product of whole numbers: what Int8 computes, written out.

    x: (N, in) float32; q, scales: what quantize_rows(W) returned; bias: (out,), or None.
    1) Divide each row of x by its largest absolute value (at least TINY): in a trained model some
    rows are a thousand times larger than others, which one scale for all would round to 0.
    2) quantize_tensor(these rows, top). 3) Multiply as int32: (u - zero) times q transposed.
    4) Multiply by the scale of the tensor, the scales of W's rows, and the divisors of x's rows.
    Add the bias.
    Returns (N, out) float32.
    """
    largest = x.abs().amax(dim=1, keepdim=True).clamp(min=TINY)  # (N, 1)
    u, scale, zero = quantize_tensor(x / largest, top)
    whole = (u.int() - zero) @ q.int().t()  # (N, out); in < 2^16 can't overflow
    y = whole * scale * scales * largest
    return y if bias is None else y + bias


def quantize_groups(w, size=GROUP):  # exercise
    """Each row of a matrix in groups of `size`, each group as whole numbers from 0 to 15, a scale
    and an offset: w ~ (q - 8) * scale + offset. So few steps must not be wasted: a row's largest
    number takes them from its own group only, and they need not lie symmetrically around 0.

    w: (out, in) float32, `in` a multiple of `size`. A group's scale is (its largest - its smallest)
    / 15, but at least TINY; its offset, the value of q = 8, is its smallest + 8 * scale. Both are
    rounded to bfloat16 first; q is then what is nearest with them, clamped to 0 ... 15.
    Returns (q (out, in) int32, steps (in / size, out, 2) bfloat16: scale, offset), as torch's
    kernel reads them. [[0.0, 15.0, 3.2, 1.0]] in groups of 2 becomes [[0, 15, 15, 0]], with the
    steps [[[1.0, 8.0]], [[0.147, 2.17]]].
    """
    groups = w.unflatten(1, (-1, size))  # (out, in / size, size)
    smallest = groups.amin(dim=2, keepdim=True)
    scale = ((groups.amax(dim=2, keepdim=True) - smallest) / 15).clamp(min=TINY)
    steps = torch.cat([scale, smallest + 8 * scale], dim=2).bfloat16()  # (out, in / size, 2)
    scale, offset = steps.split(1, dim=2)
    q = ((groups - offset) / scale + 8).round().clamp(0, 15)
    return q.flatten(1).int(), steps.transpose(0, 1).contiguous()


# ---- forms of a Linear ----
class Transposed(nn.Module):
    """A Linear whose weights are stored as (in, out), which a CPU reads faster for a single row."""

    def __init__(self, linear):
        super().__init__()
        self.register_buffer("weight", linear.weight.t().contiguous())
        self.register_buffer("bias", linear.bias)

    def forward(self, x):
        y = x.reshape(-1, x.shape[-1])
        y = y @ self.weight if self.bias is None else torch.addmm(self.bias, y, self.weight)
        return y.view(*x.shape[:-1], -1)


class Int8(nn.Module):
    """A Linear with whole numbers: int8_linear_by_hand in one kernel of torch's.

    The kernel has one scale for all rows of x, computed in each call; so each row is divided by its
    largest number before, and multiplied by it after. With this, bits per byte of SmolLM2 (135M)
    rise by 1%, without it by 13%: the output of its MLPs at a text's first id is a thousand times
    larger than elsewhere. The scale still depends, a little, on all rows: how a text continues can
    change with its neighbours in a batch.
    """

    def __init__(self, linear):
        super().__init__()
        q, scales = quantize_rows(linear.weight)
        self.n_bytes = q.nbytes + scales.nbytes  # not in any parameter or buffer
        engine, self.halve = int8_engine()
        with quantized_engine(engine):
            zeros = torch.zeros(len(q), dtype=torch.int64)
            weight = torch._make_per_channel_quantized_tensor(q, scales, zeros, 0)
            self.packed = torch.ops.quantized.linear_prepack(weight, None)
        self.register_buffer("bias", linear.bias)

    def forward(self, x):
        product = partial(torch.ops.quantized.linear_dynamic, W_prepack=self.packed,
                          reduce_range=self.halve)
        if x.numel() == x.shape[-1]:  # a single row has the scale to itself
            y = product(x)
        else:
            largest = x.abs().amax(dim=-1, keepdim=True).clamp_(min=TINY)
            y = product(x / largest).mul_(largest)
        return y if self.bias is None else y.add_(self.bias)


class Int4(nn.Module):
    """A Linear with the 4-bit weights of quantize_groups(), and x in bfloat16, in a kernel of
    torch's. It is made for few rows: Int8 multiplies 64, as of a prompt, in a third of the time.
    """

    def __init__(self, linear):
        super().__init__()
        q, steps = quantize_groups(linear.weight)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1)
        self.register_buffer("packed", packed)
        self.register_buffer("steps", steps)
        self.register_buffer("bias", linear.bias)

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1]).bfloat16().contiguous()
        y = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, GROUP, self.steps)
        y = y.float().view(*x.shape[:-1], -1)
        return y if self.bias is None else y.add_(self.bias)


def int4_or_int8(linear):
    """Int4, or Int8 for shapes that Int4's kernel refuses, and on processors without AVX-512, where
    it gains nothing: with AVX2 one row took as long as in float32, with neither 15 times as long.
    """
    n_out, n_in = linear.weight.shape
    fits = n_out % 16 == 0 and n_in % GROUP == 0
    return (Int4 if fits and torch.backends.cpu.get_cpu_capability() == "AVX512" else Int8)(linear)


def int8_engine():
    """(the name of torch's int8 kernels on this machine, whether x may use 7 bits only).

    x86's kernels add two products of uint8 and int8 in 16 bits, which may overflow, unless the
    processor has instructions for 32 bits (VNNI); if x is at most 127, 16 bits are enough.
    ValueError if there are no kernels.
    """
    there = torch.backends.quantized.supported_engines
    for name in ("x86", "fbgemm", "qnnpack", "onednn"):
        if name in there:
            return name, name in ("x86", "fbgemm") and not torch.cpu._is_vnni_supported()
    raise ValueError("this torch has no int8 kernels; use float32 or bfloat16")


@contextmanager
def quantized_engine(name):
    """A context in which weights are packed for these kernels. The choice is a global of torch's;
    it is restored. torch's advice to use another library (torchao, for this form) is hidden.
    """
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor, torch.quantize_per_ch")
            yield
    finally:
        torch.backends.quantized.engine = before


# ---- a model ----
def choose_form(kind, rows, device):
    """The class that a Linear becomes, or None if it is not changed. ValueError for a wrong kind.

    The numbers of rows below were measured on a Xeon with the shapes of GPT-2.
    """
    if kind not in KINDS:
        raise ValueError(f"weights can't be packed as {kind!r}, only as {', '.join(KINDS)}")
    if kind in ("int8", "int4"):
        if device != "cpu":
            raise ValueError(f"{kind} is for the CPU, but the model is on {device}; use bfloat16")
        return Int8 if kind == "int8" else int4_or_int8
    if kind == "bfloat16" or device != "cpu":
        return None
    if rows == 1:
        return Transposed
    if 4 <= rows <= 32 and torch.backends.mkldnn.is_available():
        return partial(Blocked, rows=rows)
    return None


@torch.no_grad()
def pack(model, kind, rows=1):
    """Change how a float32 model's matrices are stored, in place, so that it decodes quickly.

    kind: one of KINDS; rows: how many texts are to be written at once (any number works). Each
    Linear becomes a module that holds its weights in the new form only; the embedding stays, so
    that a tied head takes memory of its own. With bfloat16 all is rounded, the cache included.
    With int4 the head is int8, which loses less, and in so large a matrix is as fast.
    A packed model can be used, not trained, saved or packed again. Returns it.
    ValueError if kind is unknown, or int8 or int4 and the model not on a CPU.
    """
    assert type(model.head) is nn.Linear, "it is packed already"
    form = choose_form(kind, rows, model.embed.weight.device.type)
    model.requires_grad_(False)
    if kind == "bfloat16":
        return model.bfloat16()
    if kind == "int4":
        model.head = Int8(model.head)
    return with_form(model, form) if form else model


def weight_bytes(model):
    """The bytes of all weights of a model, packed or not; a tied table counts once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(t.nbytes for t in tensors) + sum(getattr(m, "n_bytes", 0) for m in model.modules())


# ---- the table ----
def tokens_per_second(model, prompt, rows, steps=32):
    """Ids a second, of `rows` texts together, by the median of some steps."""
    times = [time.perf_counter() for _ in generate(model, [prompt] * rows, steps + 1)]
    return rows / statistics.median(np.diff(times))


def measure(model, kind, ids, labels, sizes):
    """The numbers of a line of the table, for a model packed as `kind`, one of KINDS, or "" for
    unchanged. The model itself is not changed. ids: (N,) a text; labels: the same, or -1 where an
    id is not to be counted; sizes: token_bytes() of its tokenizer.

    (bytes of the weights, bytes of a cached token, bits per byte, tokens/s for 1 row, for 8).
    """
    alone, batch = (pack(copy.deepcopy(model), kind, rows) if kind else model for rows in (1, 8))
    config = model.config
    nats = score(alone, ids, batch_size=max(1, 2048 // config.seq_len))
    prompt = [int(i) for i in ids[:config.seq_len // 4 + 1]]
    return (weight_bytes(alone), cache_bytes(config, value_bytes=alone.embed.weight.itemsize),
            bits_per_byte(nats, labels[1:], sizes), tokens_per_second(alone, prompt, 1),
            tokens_per_second(batch, prompt, 8))


def line(name, measured, plain_bits):
    """A line of the table; plain_bits: bits per byte of the model as it is."""
    weights, cache, bits, *speeds = measured
    return (f"{name:12}{weights / 1e6:12,.1f}{cache / 1e3:10,.1f}{bits:10.4f}"
            f"{bits / plain_bits - 1:+9.2%}" + "".join(f"{speed:10,.0f}" for speed in speeds))


@dataclass
class Options(RunOptions):
    weights: str = option("", "a Hugging Face folder, read instead of a run")
    file: str = option("", "a UTF-8 text to measure with; without one, the run's validation set")
    tokens: int = option(20_000, "the most tokens of that text", least=2)
    window: int = option(1024, "the most tokens that the model sees at once", least=8)

    def __post_init__(self):
        super().__post_init__()
        if self.weights and not self.file:
            raise ValueError(f"{self.weights} comes without a text to measure with: give one, "
                             "--file")


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    text = read_text(options.file) if options.file else ""
    folder, model, tokenizer, config, _ = options.load()
    if options.file:
        text = text[:16 * options.tokens]  # few tokens are longer than that
        labels = ids = np.array((begin_ids(tokenizer) + tokenizer.encode(text))[:options.tokens])
        if len(ids) < 2:
            raise ValueError(f"{options.file} is too short to measure anything with")
    else:
        data = run_data(folder, config.by_hand)
        n = min(options.tokens, len(data.val))
        ids, labels = data.val.read(0, n), data.val.labels(0, n)
    model.config = dataclasses.replace(model.config,
                                       seq_len=min(model.config.seq_len, options.window))
    print(f"{folder}, on {len(ids):,} tokens, {torch.get_num_threads()} threads\n"
          f"{'':12}{'weights':>12}{'cache a':>10}{'bits per':>10}{'':9}{'tokens/s':>10}\n"
          f"{'':12}{'MB':>12}{'token, kB':>10}{'byte':>10}{'lost':>9}{'1 row':>10}{'8 rows':>10}")
    for kind in ("", *KINDS):
        measured = measure(model, kind, ids, labels, token_bytes(tokenizer))
        plain_bits = measured[2] if not kind else plain_bits
        print(line(kind or "as it is", measured, plain_bits), flush=True)


if __name__ == "__main__":
    run(main)
