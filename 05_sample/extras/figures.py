"""Two pictures of a trained model at work: what its heads attend to, and which ids each way of
choosing the next one keeps.

attention.png: the causal mask, and the attention weights of all heads, one of them large, with the
tokens. The weights are computed from the queries and keys that the model passes to its attention
function while it reads the prompt.
choosing.png: the predicted distribution, and how temperature, top-k, top-p and min-p change it.
Left out: what a head is for. A picture may suggest it, only experiments can show it.

    python 05_sample/extras/figures.py --run tiny
    python 05_sample/extras/figures.py --prompt "for i in range(10):\\n    print("

Reads the newest run in runs/, or --run; writes both pictures into its folder, or --out.
Next: lookback.py.
"""

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, option, run

import numpy as np
import torch

from gpt import attention_weights, causal_mask
from sample import RunOptions, min_p, start_of, top_k, top_p

MOST = 40  # tokens that a picture can name
N_BARS = 30

WAYS = {  # of choosing: logits (B, V) -> logits (B, V)
    "as it is": lambda logits: logits,
    "top-k 5": lambda logits: top_k(logits, 5),
    "temperature 0.5": lambda logits: logits / 0.5,
    "top-p 0.8": lambda logits: top_p(logits, 0.8),
    "temperature 1.5": lambda logits: logits / 1.5,
    "min-p 0.1": lambda logits: min_p(logits, 0.1),
}


# ---- what is drawn ----
@contextlib.contextmanager
def recorded(model):
    """A context that gives a list of each layer's attention inputs and output: (q, k, v, output),
    in the order of the layers. Afterwards, whatever happens, the model is as it was.
    """
    calls, layers = [], [block.attention for block in model.blocks]
    functions = [layer.attend for layer in layers]

    def listen(attend):
        def listening(q, k, v, mask=None):
            y = attend(q, k, v, mask)
            calls.append((q, k, v, y))
            return y
        return listening
    try:
        for layer in layers:
            layer.attend = listen(layer.attend)
        yield calls
    finally:
        for layer, function in zip(layers, functions):
            layer.attend = function


@torch.no_grad()
def read(model, ids):
    """Read a text, a list of T ids. Returns the attention weights of all heads, (L, H, T, T) with L
    layers, and the logits of the next id, (V,).
    """
    with recorded(model) as calls:
        logits = model(torch.tensor([ids], device=model.embed.weight.device))  # (1, T, V)
    mask = causal_mask(torch.arange(len(ids), device=logits.device), len(ids))
    weights = torch.cat([attention_weights(q.float(), k.float(), mask) for q, k, *_ in calls])
    return weights.cpu(), logits[0, -1].cpu()


def entropies(weights):
    """How far heads spread their attention: the entropy of a row in nats, averaged over rows.

    weights: (..., T, T) -> (...). exp of it: as spread out as that many tokens of equal weight.
    """
    return torch.special.entr(weights).sum(dim=-1).mean(dim=-1)


def look_around(weights):
    """Which heads give, on average over rows, at most half of their weight to any one column, and
    at most half to the row's own token. weights: (L, H, T, T) -> (L, H), True or False.
    """
    free = weights[..., 1:, :]  # the first token can attend only to itself
    one_token = free.mean(dim=-2).amax(dim=-1)  # mostly an early token: an attention sink
    itself = free.diagonal(offset=1, dim1=-2, dim2=-1).mean(dim=-1)
    return (one_token <= 0.5) & (itself <= 0.5)


def sharpest(weights):
    """(layer, head) of the lowest entropy among heads that look_around(); if none does, of all.

    weights: (L, H, T, T).
    """
    scores, allowed = entropies(weights), look_around(weights)
    if allowed.any():
        scores = scores.masked_fill(~allowed, float("inf"))
    return divmod(int(scores.argmin()), weights.shape[1])


def choices(logits, ways=WAYS):
    """{way: the probabilities, (V,), after it}, with the same order of ids for all."""
    return {name: way(logits[None])[0].softmax(dim=-1) for name, way in ways.items()}


def escaped(text):
    """Text that fonts can show: line ends become \\n, and characters that are neither ASCII nor
    Latin, Greek or Cyrillic letters are escaped, too.
    """
    def plain(c):
        return c.isprintable() and (ord(c) < 0x250 or 0x386 <= ord(c) < 0x482)
    return "".join(c if plain(c) else c.encode("unicode_escape").decode() for c in text)


def label(tokenizer, i):
    """A token as a tick label: escaped(), with ␣ for a space, at most 12 characters."""
    text = escaped(tokenizer.decode_bytes([i]).decode("utf-8", errors="backslashreplace"))
    return (text if len(text) <= 12 else text[:11] + "…").replace(" ", "␣")


# ---- drawing ----
BLUE, PALE, INK = "#4c72b0", "0.85", "0.3"
NAMES = dict(fontfamily=["monospace", "sans-serif"], fontsize=8, color=INK, parse_math=False)


def draw_weights(axes, weights):
    """A (T, T) matrix, a row for each query, white where it is 0 and grey where it is masked.
    Colours follow the square root, so that small weights are visible.
    """
    from matplotlib.colors import PowerNorm

    axes.set(xticks=[], yticks=[], facecolor="0.95")
    axes.spines[:].set_visible(False)
    T = len(weights)
    shown = weights.double().masked_fill(~causal_mask(torch.arange(T), T), float("nan"))
    return axes.imshow(shown.numpy(), norm=PowerNorm(0.5, 0, 1), cmap="Blues")


def draw_attention(weights, labels, path):
    """The mask, all heads, and the sharpest() one large. weights: (L, H, T, T); labels: T texts."""
    from matplotlib.figure import Figure

    (L, H, T, _), (layer, head) = weights.shape, sharpest(weights)
    figure = Figure(figsize=(9, 6.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    left, right = figure.subfigures(1, 2, width_ratios=(2.1, 1))

    # 1) one head, with the tokens
    axes, shown = left.subplots(), weights[layer, head]
    picture = draw_weights(axes, shown)
    axes.set_xticks(range(T), labels, rotation=90, **NAMES)
    axes.set_yticks(range(T), labels, **NAMES)
    axes.tick_params(length=0)
    which = "that looks around" if look_around(weights).any() else "of all"
    axes.set_title(f"layer {layer + 1} of {L}, head {head + 1} of {H}, the sharpest {which}:\na "
                   f"token (row) takes from {entropies(shown).exp():.1f} tokens (columns) on "
                   "average", loc="left", fontsize=10.5)
    bar = left.colorbar(picture, ax=axes, location="bottom", shrink=0.5, aspect=40,
                        ticks=[0, 0.05, 0.25, 0.5, 1], format="{x:.0%}")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=INK)

    # 2) the mask, and all heads
    above, below = right.subfigures(2, 1, height_ratios=(1, 2))
    axes = above.subplots()
    draw_weights(axes, torch.full((T, T), 0.1))
    axes.set_title("mask: blue may be seen", fontsize=10.5)
    grid = below.subplots(L, H, squeeze=False)
    for (y, x), axes in np.ndenumerate(grid):
        draw_weights(axes, weights[y, x])
        if (y, x) == (layer, head):
            axes.spines[:].set(visible=True, color="#dd8452", linewidth=2)
    for y in range(L):
        grid[y, 0].set_ylabel(y + 1, fontsize=8, color=INK, rotation=0, ha="right", va="center")
    for x in range(H):
        grid[0, x].set_title(x + 1, fontsize=8, color=INK)
    below.suptitle("head", fontsize=10)
    below.supylabel("layer", fontsize=10)
    figure.savefig(path, dpi=120)


def draw_choices(logits, labels, prompt, path):
    """The N_BARS likeliest ids, for each of WAYS: grey the model's probabilities, blue those after
    the way of choosing. logits: (V,); labels: V texts.
    """
    from matplotlib.figure import Figure

    shares = {name: share.numpy() for name, share in choices(logits).items()}
    plain = shares["as it is"]
    ids = np.argsort(-plain, kind="stable")[:N_BARS]
    bars, n_ids = np.arange(len(ids)), len(plain)
    figure = Figure(figsize=(9, 7), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)
    for axes, (name, made) in zip(figure.subplots(3, 2, sharex=True, sharey=True).flat,
                                  shares.items()):
        axes.bar(bars, plain[ids], color=PALE)
        axes.bar(bars, made[ids], color=BLUE)
        hidden = bars[made[ids] > plain[ids] + 0.005]  # where blue hides what the model says
        axes.hlines(plain[ids[hidden]], hidden - 0.4, hidden + 0.4, color="white", linewidth=1)
        kept = made > 0
        text = (f"{kept.sum():,} ids, which had {plain[kept].sum():.1%}" if not kept.all() else
                f"all {n_ids:,} ids; the {len(ids)} shown have {made[ids].sum():.1%}")
        axes.set_title(name, loc="left", fontsize=11)
        axes.set_title(text, loc="right", fontsize=9.5, color=INK)
        axes.set_xticks(bars, [labels[i] for i in ids], rotation=90, **NAMES)
        axes.set(xlim=(-0.8, len(ids) - 0.2))
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
        axes.tick_params(length=0, labelcolor=INK)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    end = "…" * (len(prompt) > 50) + escaped(prompt[-50:])
    figure.supxlabel(f"the {len(ids)} likeliest ids after '{end}'\ngrey, and the white "
                     "lines: what the model says; blue: what is drawn from", fontsize=9.5,
                     parse_math=False)
    figure.savefig(path, dpi=120)


@dataclass
class Options(RunOptions):
    weights: str = option("", "a Hugging Face folder, read instead of a run")
    prompt: str = option("def add(self, item):\\n    self.items.append(item)\\n    if "
                         "len(self.items)",
                         "what the model reads; \\n is a new line")
    out: str = option("", "the folder for the pictures; without one, the run's")


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    if options.out and not Path(options.out).is_dir():
        raise ValueError(f"there is no folder {options.out} to draw into")
    folder, model, tokenizer, *_ = options.load()
    out = Path(options.out or folder)
    prompt = options.prompt.replace("\\n", "\n")
    ids = start_of(prompt, tokenizer)
    most = min(MOST, model.config.seq_len)
    if not 2 <= len(ids) <= most:
        raise ValueError(f"the prompt has {len(ids)} tokens, but 2 to {most} can be drawn")
    weights, logits = read(model, ids)
    labels = [label(tokenizer, i) for i in range(len(logits))]
    draw_attention(weights, [labels[i] for i in ids], out / "attention.png")
    draw_choices(logits, labels, prompt, out / "choosing.png")
    print(f"{folder}: {out / 'attention.png'}, {out / 'choosing.png'}")


if __name__ == "__main__":
    run(main)
