"""Tests of engines.py; that they train what one process trains is test_scale.py's."""

import numpy as np

from engines import deal


def test_deal():
    assert deal([0, 1, 2, 3, 4], 1, 2) == [1, 3] and deal([0, 1, 2, 3, 4], 0, 2) == [0, 2, 4]
    rows = np.arange(22).reshape(11, 2)
    for world in (1, 2, 3, 5, 12):
        hands = [deal(rows, rank, world) for rank in range(world)]
        assert sorted(np.concatenate(hands)[:, 0].tolist()) == list(range(0, 22, 2))
        sizes = [len(hand) for hand in hands]
        assert max(sizes) - min(sizes) <= 1, "no rank gets two more than another"
