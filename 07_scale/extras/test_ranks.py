"""Tests of ranks.py: processes that find each other, and failures that are heard of."""

import os

import pytest
import torch
import torch.distributed as dist

from ranks import on_ranks


def test_on_ranks():
    def work(rank):
        total = torch.tensor([float(rank + 1)])
        dist.all_reduce(total)
        return rank, dist.get_world_size(), total.item(), os.getpid()
    found = on_ranks(work, 3)
    assert [row[:3] for row in found] == [(0, 3, 6.0), (1, 3, 6.0), (2, 3, 6.0)]
    assert len({os.getpid(), *(row[3] for row in found)}) == 4, "each in a process of its own"


def test_a_failure_on_a_rank_is_a_failure():
    def work(rank):
        assert rank == 0, "spam"
    with pytest.raises(AssertionError, match="rank 1: (.|\n)*spam"):
        on_ranks(work)
