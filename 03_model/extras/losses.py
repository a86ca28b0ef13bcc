"""Two additions to the loss: label smoothing, and a penalty on large logits.

Used by the trainer, for --label-smoothing and --z-loss; without them it uses gpt.GPT.loss().
Reads and writes nothing. Next: machine.py.
"""

import torch.nn.functional as F


def smoothed_loss(model, ids, targets, *where, label_smoothing=0.0, z_loss=0.0):  # exercise
    """model.loss(ids, targets, *where), (B, T) nats, 0 where a target is negative, with two
    additions. where: nothing, or positions and a mask, as for model(ids, None, *where).

    label_smoothing: this share of the loss is the mean of -log p over all ids instead (Szegedy et
    al. 2015, section 7). z_loss * log(Z)^2 is added, with Z the sum of exp(logits), which keeps
    logits from growing (Chowdhery et al. 2022, section 5).
    """
    logits = model(ids, None, *where).flatten(0, 1)  # (B T, V)
    nats = F.cross_entropy(logits, targets.flatten().clamp(min=-1), ignore_index=-1,
                           reduction="none", label_smoothing=label_smoothing)
    if z_loss:
        nats = nats + z_loss * logits.logsumexp(dim=-1)**2 * (targets.flatten() >= 0)
    return nats.view_as(targets)
