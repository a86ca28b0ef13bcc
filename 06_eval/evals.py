"""How good is it? Bits per byte and perplexity of a run, on its validation set or on any text.

Compressors are measured in bits per byte, too: a model that gives the next id a probability of p
could code it in -log2 p bits. So the table compares the model with compression programs, which know
no language. Perplexity, the older measure, is per token, so it can only be compared between models
with the same tokenizer. Left out: tasks with right and wrong answers.

    python 06_eval/evals.py
    python 06_eval/evals.py --file README.md --stride 32

Reads the newest run in runs/, or --run, and the data it was trained on; writes context.png into
the run's folder. Next: 07_scale/scale.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, escaped, option, read_text, run
from dataclasses import dataclass

import numpy as np

from data import baselines, bits_per_byte, document_start, token_bytes
from runs import run_data
from sample import RunOptions
from train import score


def windows(n_tokens, seq_len, stride):  # exercise
    """Windows that score every token of a text but the first exactly once: [(start, skip), ...].

    A window reads ids start .. start + seq_len - 1, the last window perhaps fewer, and predicts the
    id after each. Windows start every `stride` ids until the last id has been predicted. `skip` is
    how many of a window's first predictions an earlier window has already made; they are not
    counted again. With stride = seq_len skip is 0; with a smaller stride, all targets after the
    first window are predicted from more than seq_len - stride ids. ValueError, naming the stride,
    unless 0 < stride <= seq_len.
    windows(10, 4, 4) == [(0, 0), (4, 0), (8, 0)]; windows(10, 4, 2)[:2] == [(0, 0), (2, 2)]
    """
    if not 0 < stride <= seq_len:
        raise ValueError(f"stride is {stride}, but must be between 1 and seq_len ({seq_len})")
    last = max(0, n_tokens - 1 - seq_len)  # a window from here on predicts the last id
    count = 1 + -(-last // stride)
    return [(i * stride, 0 if i == 0 else seq_len - stride) for i in range(count)]


def perplexity(nats):  # exercise
    """exp of the mean loss: as uncertain as a choice among that many equally likely ids.

    nats: (N,) losses. perplexity([ln 4, ln 4]) == 4.0
    """
    return float(np.exp(np.mean(nats)))


def by_position(nats, seq_len):  # exercise
    """The mean loss at each position of a window: does the model use a longer past?

    nats: (N,) losses of windows that lie side by side, N >= seq_len; entry i is at position
    i modulo seq_len. Returns (seq_len,); the last window may be incomplete.
    by_position([4., 2., 6., 2., 8.], 2) is [6., 2.]
    """
    return np.array([np.mean(nats[i::seq_len]) for i in range(seq_len)])


def standard_error(bits, sizes, documents):  # exercise
    """The standard error of bits per byte over the draw of documents.

    bits, sizes: (N,) the bits and the bytes of each target; documents: (N,) which document each
    is from, 0 .. D - 1, D >= 2. With B_d bits and S_d bytes in document d, and r = sum B / sum S,
    it is sqrt(D / (D - 1) * sum of (B_d - r S_d)^2) / sum S (Cochran 1977, section 6.4). Tokens of
    one document are not independent, so documents count as the draws, not tokens.
    """
    B, S = (np.bincount(documents, weights=x) for x in (bits, sizes))
    r, D = B.sum() / S.sum(), len(B)
    return float(np.sqrt(D / (D - 1) * np.sum((B - r * S) ** 2)) / S.sum())


def draw_positions(losses, path):
    """A picture of by_position(): the loss falls as the past grows longer."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    seen = np.arange(1, len(losses) + 1)
    axes.plot(seen, losses, ".", color="0.8")
    octaves = [(seen >= 2**i) & (seen < 2**(i + 1)) for i in range(int(np.log2(len(losses))) + 1)]
    axes.plot([seen[o].mean() for o in octaves], [losses[o].mean() for o in octaves], "o-")
    axes.set(xscale="log", xlabel="ids that the model sees", ylabel="nats per token",
             title="what context is worth")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    print(f"{path} shows what context is worth")


@dataclass
class Options(RunOptions):
    file: str = option("", "a UTF-8 text to evaluate on; without one, the run's validation set")
    stride: int = option(0, "tokens between windows: fewer give each a longer past; 0: seq_len",
                         least=0)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    text = read_text(options.file) if options.file else None  # first: the rest takes a while
    if text == "":
        raise ValueError(f"{options.file} is empty")
    folder, model, tokenizer, config, step = options.load()
    if options.stride > config.seq_len:
        raise ValueError(f"stride is {options.stride}, but must be at most {config.seq_len}")
    data = run_data(folder, config.by_hand)
    bos, sizes = document_start(tokenizer), token_bytes(tokenizer)
    if text:
        labels = ids = np.array(bos + tokenizer.encode(text))
        from writing import Compressors
        bars = baselines(data, ids, Compressors(text.encode()).sizes())
    else:
        ids, labels = (read(0, len(data.val)) for read in (data.val.read, data.val.labels))
        bars = baselines(data)
    spans = windows(len(ids), config.seq_len, options.stride or config.seq_len)
    nats = score(model, ids, spans, min(config.micro_batch, config.batch_size, 8), config.dtype)
    targets = labels[1:]
    what = options.file or f"the validation set of {', '.join(config.data)}"
    is_text = (targets >= 0) & (sizes[targets] > 0)
    bits = bits_per_byte(nats, targets, sizes)

    print(escaped(f"{folder}, step {step}, {model.embed.weight.device}, on {what}: "
                  f"{sizes[targets[is_text]].sum():,} bytes, {is_text.sum():,} tokens"))
    error = ""
    documents = np.cumsum(ids == bos[0])[1:][is_text] - 1
    if documents[-1] > 0:
        error = standard_error(nats[is_text] / np.log(2), sizes[targets[is_text]], documents)
        error = f" +- {error:.3f} (standard error over {documents[-1] + 1} documents)"
    print(f"perplexity {perplexity(nats[is_text]):.2f} per token; bits per byte {bits:.4f}{error}")
    from metrics import Hints, table
    print(table(bars | {"this model": bits}))
    if not text and not options.stride and len(nats) >= config.seq_len:
        Hints()("draw what context is worth", draw_positions, by_position(nats, config.seq_len),
                folder / "context.png")


if __name__ == "__main__":
    run(main)
