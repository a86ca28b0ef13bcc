"""What a text costs a model: nats for each id, bits for each byte.

The validation text is read in windows that lie side by side, each target counted once, so the
result depends neither on the batch nor on how many processes share the work.
Left out: tasks with answers, error bars (06_eval).

Used by the trainer, by 05_sample/quant.py and by 06_eval. Next: optim.py.
"""

import os
import sys
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

from console import track

import numpy as np
import torch
import torch.nn.functional as F

from engine import Engine
from data import bits_per_byte


def windows(n_tokens, seq_len, stride):  # exercise
    """Windows that score every token of a text but the first exactly once: [(start, skip), ...].

    A window reads ids start .. start + seq_len - 1, the last window perhaps fewer, and predicts the
    id after each. Windows start every `stride` ids until the last id has been predicted. `skip` is
    how many of a window's first predictions an earlier window has made already; they are not
    counted again. With stride = seq_len that is 0; with less, all targets after the first window
    have a past of more than seq_len - stride ids. ValueError, naming the stride, unless
    0 < stride <= seq_len.
    windows(10, 4, 4) == [(0, 0), (4, 0), (8, 0)]; windows(10, 4, 2)[:2] == [(0, 0), (2, 2)]
    """
    if not 0 < stride <= seq_len:
        raise ValueError(f"stride is {stride}, but must be between 1 and seq_len ({seq_len})")
    last = max(0, n_tokens - 1 - seq_len)  # a window from here on predicts the last id
    count = 1 + -(-last // stride)
    return [(i * stride, 0 if i == 0 else seq_len - stride) for i in range(count)]


@torch.inference_mode()
def score(model, ids, stride=None, every=1, batch_size=32, engine=Engine()):  # exercise
    """What each id of a text costs the model, given those before it: (N - 1,) nats, float64.

    ids: (N,) ints, N >= 2, an array, or a Stream: only slices of it are read. Entry i of the result
    is the loss of ids[i + 1]. Uses windows(N, seq_len, stride) (default:
    side by side, stride = seq_len), each target counted once, `batch_size` windows at a time; the
    last may stick out over the end, and is filled up with any id. With
    `every` = n only windows 0, n, 2n ... are used; what they don't score stays 0. Windows are
    dealt out by engine.share(list), and the parts put together by engine.sum(array).
    """
    T, device = model.config.seq_len, model.embed.weight.device
    nats = np.zeros(len(ids) - 1)
    todo = engine.share(windows(len(ids), T, stride or T)[::every])
    batches = range(0, len(todo), batch_size)
    if engine.leads:
        batches = track(batches, "evaluating", len(batches), unit=" batches")
    for i in batches:
        batch = todo[i:i + batch_size]
        rows = [torch.tensor(np.asarray(ids[start:start + T + 1], np.int64)) for start, _ in batch]
        rows = torch.stack([F.pad(row, (0, T + 1 - len(row))) for row in rows]).to(device)
        losses = model.loss(rows[:, :-1], rows[:, 1:]).cpu().numpy()  # (b, T)
        for (start, skip), row in zip(batch, losses):
            part = nats[start + skip:start + T]  # ends where the text ends
            part[:] = row[skip:skip + len(part)]
    return engine.sum(nats)


def evaluate(model, stream, sizes, max_tokens=None, engine=Engine()):
    """Bits per byte of a stream of ids; with max_tokens, on windows spread evenly over it that
    have about so many targets.
    """
    n, T = len(stream), model.config.seq_len
    every = -(-n // max_tokens) if max_tokens else 1
    nats = score(model, stream, every=every, engine=engine)
    # score(every=...) takes windows 0, every, 2 every ...
    spans = [(start, min(start + T, n - 1)) for start in range(0, n - 1, T * every)]
    targets = np.concatenate([stream.labels(start + 1, end - start) for start, end in spans])
    if every > 1 and not (targets >= 0).any():  # of conversations too little was taken
        return evaluate(model, stream, sizes, engine=engine)
    return bits_per_byte(np.concatenate([nats[start:end] for start, end in spans]), targets, sizes)
