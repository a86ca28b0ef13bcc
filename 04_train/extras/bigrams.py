"""--bigrams N: a model begins with what counting can teach it, which id follows which.

The blocks of gpt.py add 0 at first, so a new model sees only the last id. What is best guessed from
that needs no batches: how often each id follows each (their bigrams) can be counted, in all of the
text, or in 16 million ids of it. N steps on these counts, each of which learns from every pair at
once, fill the embedding table and the head, for `tiny` in a second; the batches are left for what
takes more than one id. Of 4,096 ids, the most, the counts take 70 MB, and counting them 200 more.

    python 04_train/train.py --preset tiny              # has --bigrams 20
    python 04_train/extras/bigrams.py                   # bytes of gpt.py: counted, then learned

runs.py calls begin() for a new run. Reads its data; writes nothing. Next: lora.py.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, choose_device, run

import numpy as np
import torch
from torch import nn

import gpt
from gpt import GPT, GPTConfig
from optim import Optimizer
from runs import tensors

TRAINED = ("embed.weight", "head.weight")
LOGITS = 2**22  # computed at a time


def count_bigrams(ids, targets, vocab_size):  # exercise
    """How often each id follows each: a tensor, (V, V) float32, of a row for each id and a column
    for each next one. ids: (N,) ints, a list or an array; targets: (N,), the id after each, or
    negative where it is not to be learned, nor counted. V may be 4,096, and N a million.
    count_bigrams([0, 1, 0], [1, 0, -1], 2) is tensor([[0., 1.], [1., 0.]]).
    """
    pairs = (np.asarray(ids) * vocab_size + targets)[np.asarray(targets) >= 0]
    counts = np.bincount(pairs, minlength=vocab_size**2)
    return torch.from_numpy(counts.astype(np.float32)).view(vocab_size, vocab_size)


def count_text(ids, vocab_size, part=2**20):
    """count_bigrams() of Ids, a part at a time; of a long text of 16 parts, spread evenly."""
    n = len(ids) - 1
    starts = range(0, n, part) if n <= 16 * part else range(0, n - part + 1, (n - part) // 15)
    counts = torch.zeros(vocab_size, vocab_size)
    for start in starts:
        size = min(part, n - start)
        counts += count_bigrams(ids.read(start, size), ids.labels(start + 1, size), vocab_size)
    return counts


def learn_bigrams(model, counts, steps, lr=0.02):  # exercise
    """Train the parameters TRAINED of a model, which may be one, on counts, (V, V), of bigrams.
    Returns the loss before the last step, a float: the mean of -log p(next | id) over all pairs.

    Their Optimizer has one group, of kind "adamw", betas (0.9, 0.95), eps 1e-8, weight_decay 0. In
    each of `steps` steps: of LOGITS // V rows of `counts` at a time, at least one, model() gives
    logits for their ids, each alone in a window of 1. -log p of every next id, weighed by its share
    of all counts, is summed and goes backward. The gradients of all rows together make a step of
    the Optimizer, with "lr" lr * min(1, 2 * (steps - step) / steps); in the first, `step` is 0.
    """
    weights = [p for name, p in model.named_parameters() if name in TRAINED]
    optimizer = Optimizer([dict(kind="adamw", params=weights, betas=(0.9, 0.95), eps=1e-8,
                                weight_decay=0.0)], {})
    rows, shares = max(1, LOGITS // len(counts)), counts / counts.sum()
    ids = torch.arange(len(counts), device=counts.device)[:, None]  # V windows of 1
    for step in range(steps):
        loss = 0.0
        for window, share in zip(ids.split(rows), shares.split(rows)):
            nats = -(share * model(window)[:, 0].log_softmax(dim=-1)).sum()
            nats.backward()
            loss += nats.detach()
        optimizer.param_groups[0]["lr"] = lr * min(1, 2 * (steps - step) / steps)
        optimizer.step()
        optimizer.zero_grad()
    return float(loss)


def begin(model, config, data, say=print):
    """Fill the table and the head of `model`, new and perhaps divided over processes, each of which
    calls this, by config.bigrams steps on the bigrams of `data`, a Dataset or a Mixture. Where
    nothing is to be learned they stay as they are. say: where rank 0 says so. Returns the seconds.
    """
    start, V, device = time.perf_counter(), data.tokenizer.vocab_size, choose_device(config.device)
    counts = [(share, count_text(part.train, V)) for share, part in data.parts]
    n = sum(int(count.sum()) for _, count in counts)
    if not n:
        return 0.0
    counts = sum(share / max(1, count.sum()) * count for share, count in counts)
    simple = replace(config, n_layer=1).make_model(V).to(device)  # whole, on every process
    simple.blocks = nn.ModuleList()
    loss, learned = learn_bigrams(simple, counts.to(device), config.bigrams), dict(tensors(simple))
    with torch.no_grad():
        for name, tensor in tensors(model):
            if name in TRAINED:
                tensor.copy_(learned[name])
    seconds = time.perf_counter() - start
    if os.environ.get("RANK", "0") == "0":
        say(f"bigrams    {n:,} counted and learned in {seconds:.1f} s: {loss:.3f} nats a token")
    return seconds


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    text = np.frombuffer(Path(gpt.__file__).read_bytes(), np.uint8).astype(np.int64)
    counts = count_bigrams(text[:-1], text[1:], 256)
    for name, table in (("each byte alone", counts.sum(dim=0)), ("each after the last", counts)):
        p = table / table.sum(dim=-1, keepdim=True).clamp(min=1)
        bits = -(counts * p.clamp(min=1e-9).log2()).sum() / counts.sum()
        print(f"counted, {name}: {bits:.2f} bits a byte")
    for steps in (1, 5, 20, 60):
        model = GPT(GPTConfig(256, seq_len=64, n_layer=1, n_head=2, d_model=64, d_ff=256))
        print(f"after {steps - 1} steps: {learn_bigrams(model, counts, steps) / np.log(2):.2f}")


if __name__ == "__main__":
    run(main)
