"""Tests of ddp.py: two processes each, forked, that talk over gloo."""

import pytest
import torch

from ddp import BucketedSum, InTurn, broadcast_weights, make_buckets, sum_gradients_naive
from ranks import on_ranks


def small_model(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5),
                               torch.nn.Tanh(), torch.nn.Linear(5, 2))


def test_broadcast_weights():
    def work(rank):
        model = small_model(seed=rank)
        model[1].running_mean += rank
        broadcast_weights(model)
        return {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    first, second = on_ranks(work)
    assert first == second == {n: t.tolist() for n, t in small_model(0).state_dict().items()}


def test_sum_gradients_naive():
    def work(rank):
        parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.full_like(parameter, 10.0 * i + rank + 1)
        sum_gradients_naive(parameters)
        return [p.grad.tolist() for p in parameters]
    for result in on_ranks(work):
        assert result == [[3.0] * 2, [23.0] * 3], "a sum over ranks, not a mean"


def test_make_buckets():
    sizes = [1, 2, 3, 4, 5]
    parameters = [torch.nn.Parameter(torch.zeros(n)) for n in sizes]  # 4 bytes each
    for limit, expected in ((1, [[5], [4], [3], [2], [1]]), (24, [[5, 4], [3, 2, 1]]),
                            (36, [[5, 4], [3, 2, 1]]), (37, [[5, 4, 3], [2, 1]]),
                            (20, [[5], [4, 3], [2, 1]]), (999, [[5, 4, 3, 2, 1]])):
        found = [[p.numel() for p in bucket] for bucket in make_buckets(parameters, limit)]
        assert found == expected, f"buckets of {limit} bytes"
    half = [torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16)) for _ in range(2)]
    assert len(make_buckets(half, 16)) == 1, "two bytes each"
    assert make_buckets([], 10) == []


def test_in_turn():
    sent = []
    last, middle, first = parameters = [torch.nn.Parameter(torch.ones(n)) for n in (1, 2, 3)]
    turns = InTurn([[first], [middle], [last]], sent.append)
    sum(p.sum() for p in parameters).backward()
    assert sent == [], "not active"
    for _ in range(2):
        sent.clear()
        turns.active = True
        for parameter, expected in ((middle, []), (first, [0, 1]), (last, [0, 1, 2])):
            parameter.sum().backward()
            assert sent == expected, "ranks must agree on the order"
        turns.finish()
    turns.active = True
    (first.sum() + last.sum()).backward()
    with pytest.raises(AssertionError, match=r"no gradient: \[\(2,\)\]"):
        turns.finish()
    with pytest.raises(KeyError):
        first.sum().backward()  # would be added to what is on its way


@pytest.mark.parametrize("bucket_bytes", [1, 40, 1 << 20])
def test_bucketed_equals_naive(bucket_bytes):
    """Over an accumulation of three micro-batches, of which only the last sends anything."""
    def work(rank):
        torch.manual_seed(rank)
        batches = torch.randn(2, 3, 4, 3)  # steps, micro-batches
        models = [small_model(0), small_model(0)]
        summed = BucketedSum(models[1].parameters(), bucket_bytes)
        for step in batches:
            for i, x in enumerate(step):
                summed.active = i == 2
                for model in models:
                    model(x).square().sum().backward()
            sum_gradients_naive(models[0].parameters())
            summed.finish()
            for a, b in zip(models[0].parameters(), models[1].parameters()):
                torch.testing.assert_close(a.grad, b.grad)
            result = [p.grad.tolist() for p in models[1].parameters()]
            for model in models:
                model.zero_grad()
        return result
    first, second = on_ranks(work)
    assert first == second, "all ranks end with the same gradients"


def test_gradients_are_in_the_messages():
    """A bucket's sums are where the optimizer looks for them: nothing is copied back."""
    def work(rank):
        parameters = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
        summed = BucketedSum(parameters)
        summed.active = True
        sum((rank + 1) * p.sum() for p in parameters).backward()
        summed.finish()
        one, other = (p.grad for p in parameters)
        assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        assert (one == 3).all() and (other == 3).all() and one.shape == (2, 3)
    on_ranks(work)
