"""Tests of losses.py: from the papers, one position at a time."""

import math

import pytest
import torch

from family import FAMILIES, model_config
from gpt import make_model
from losses import smoothed_loss

SMALL = dict(vocab_size=61, seq_len=16, n_layer=2, n_head=2, n_kv_head=1, d_model=32, d_ff=48)


@pytest.mark.parametrize("family", ["modern", "gpt2"])
@pytest.mark.parametrize("label_smoothing, z_loss", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01),
                                                     (0.1, 0.01)])
def test_smoothed_loss(family, label_smoothing, z_loss):
    generator = torch.Generator().manual_seed(0)
    model = make_model(model_config(**SMALL | FAMILIES[family]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    ids, targets = torch.randint(61, (2, 2, 5), generator=generator)
    targets[0, 1], targets[0, 2], targets[1, 4] = 0, -100, -1
    logits = model(ids)
    losses = smoothed_loss(model, ids, targets, label_smoothing=label_smoothing, z_loss=z_loss)
    if not label_smoothing and not z_loss:
        assert torch.equal(losses, model.loss(ids, targets)), "nothing added is the model's loss"
    for b in range(2):
        for t in range(5):
            shares = [math.exp(x) for x in logits[b, t].tolist()]
            nats = [-math.log(share / sum(shares)) for share in shares]
            mean, log_z = sum(nats) / 61, math.log(sum(shares))
            expected = ((1 - label_smoothing) * nats[targets[b, t]] + label_smoothing * mean
                        + z_loss * log_z**2) if targets[b, t] >= 0 else 0
            assert losses[b, t].item() == pytest.approx(expected, abs=1e-4), (
                f"at {b, t}: smoothing mixes in the mean over all ids, z_loss adds log(Z)^2, and "
                "where the target is negative nothing counts")
