"""Tests of validation.py: windows that count each target once, and scores against one window after
the other.
"""

import math

import numpy as np
import pytest
import torch

from data import Ids
from gpt import GPT, GPTConfig
from validation import evaluate, score, windows

SMALL = GPTConfig(vocab_size=61, seq_len=16, n_layer=2, n_head=2, n_kv_head=1, d_model=32, d_ff=64)


def random_model(config=SMALL, seed=0):
    model = GPT(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model


def random_ids(*shape, seed=0):
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


def test_windows():
    assert windows(10, 4, 4) == [(0, 0), (4, 0), (8, 0)], "side by side, the last one shorter"
    assert windows(10, 4, 2)[:2] == [(0, 0), (2, 2)], (
        "a window that begins 2 ids further on repeats the first 2 predictions")
    for n in range(2, 30):
        for stride in range(1, 6):
            scored = [i + 1 for start, skip in windows(n, 5, stride)
                      for i in range(start + skip, min(start + 5, n - 1))]
            assert scored == list(range(1, n)), (
                f"each target must be scored once; windows({n}, 5, {stride}) score {scored}")
            assert all(start < n - 1 for start, _ in windows(n, 5, stride)), (
                f"windows({n}, 5, {stride}): a window has nothing to predict")
    for stride in (0, 6):
        with pytest.raises(ValueError, match=f"stride is {stride}"):
            windows(10, 5, stride)


@pytest.mark.parametrize("n", [2, 16, 17, 18, 33, 50])
@pytest.mark.parametrize("stride", [None, 16, 5])
def test_score(n, stride):
    model, ids = random_model().eval(), random_ids(n)
    got = score(model, ids.numpy(), stride, batch_size=2)
    assert got.shape == (n - 1,) and got.dtype == np.float64
    for start, fresh in windows(n, 16, stride or 16):
        x, y = ids[start:start + 16], ids[start + 1:start + 17]
        losses = model.loss(x[None, :len(y)], y[None])[0, fresh:].detach().numpy()
        assert got[start + fresh:start + 16] == pytest.approx(losses, abs=1e-4)
    assert score(model, ids.numpy(), stride, batch_size=7) == pytest.approx(got, abs=1e-5), (
        "the size of the batches must not matter")


def test_evaluate_on_a_part():
    """Windows spread evenly: here every third of the seven, and what they score counts, alone."""
    model, ids, sizes = random_model().eval(), Ids(random_ids(7 * 16 + 1).numpy()), [1] * 61
    nats = score(model, ids.read(0, 113))
    part = np.concatenate([nats[0:16], nats[48:64], nats[96:112]])
    assert evaluate(model, ids, sizes, 40) == pytest.approx(part.mean() / math.log(2))
    assert evaluate(model, ids, sizes) == pytest.approx(nats.mean() / math.log(2))
