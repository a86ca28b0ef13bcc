"""Tests of engine.py: for a process that is alone nothing is shared, and nothing is lost."""

import numpy as np
import pytest
import torch

from engine import Engine
from presets import Config


def test_engine():
    engine, weight = Engine(), torch.nn.Parameter(torch.ones(2))
    assert engine.leads and engine.first(lambda: 7) == 7
    assert engine.share([1, 2, 3]) == [1, 2, 3]
    assert engine.sum(np.array([1.5, 2.0])).tolist() == [1.5, 2.0]
    for last in (False, True):
        engine.begin(last)
        engine.backward((3 * weight).sum())
    assert weight.grad.tolist() == [6, 6], "gradients of micro-batches add up"


def test_engine_refuses_what_it_can_not_train():
    Engine().check(Config(dtype="bfloat16"))
    with pytest.raises(ValueError, match="loss scaled"):
        Engine().check(Config(dtype="float16"))
