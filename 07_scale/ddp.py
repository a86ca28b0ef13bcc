"""Data parallel: many processes, one model, each with its part of the batch.

Every process (rank) holds all the weights. Each runs its own windows forward and backward; the
gradients are summed over the ranks; then every optimizer makes the same step. If the weights are
equal at the start and the summed gradients are equal, they stay equal: nothing else is exchanged.
First the naive way, which waits for the whole backward pass and then sends one gradient after
the other; then buckets, which are sent while the backward pass is still at work on the layers
below (Li et al. 2020, PyTorch Distributed, section 3.2).
Left out: sharding the optimizer, mixed precision.

The sums need no division: the loss of every rank is already divided by the number of targets in
the whole batch (train.accumulate). Used by scale.py, which runs it under torchrun. Next: scale.py.
"""

import torch
import torch.distributed as dist


@torch.no_grad()
def broadcast_weights(model):  # exercise
    """Give every rank the weights of rank 0: dist.broadcast(tensor, src=0) overwrites the others'.

    All parameters, in one order on all ranks; buffers, if a model has any, too.
    """
    for tensor in [*model.parameters(), *model.buffers()]:
        dist.broadcast(tensor, src=0)


def sum_gradients_naive(parameters):  # exercise
    """Replace each parameter's .grad by its sum over all ranks: dist.all_reduce(tensor), in place.

    One message for each parameter, all after the backward pass: simple, right, and slow.
    """
    for parameter in parameters:
        dist.all_reduce(parameter.grad)


def make_buckets(parameters, bucket_bytes):  # exercise
    """Group parameters into buckets: a list of lists, in the order in which gradients get ready.

    That is the reverse of `parameters`, since the backward pass begins at the end of the model. A
    bucket is closed as soon as its gradients have at least `bucket_bytes` bytes together
    (p.numel() * p.element_size() each): few large messages, not many small ones, but not one
    that has to wait for all. The last may be smaller; none is empty.
    """
    buckets, current, n_bytes = [], [], 0
    for parameter in reversed(list(parameters)):
        current.append(parameter)
        n_bytes += parameter.numel() * parameter.element_size()
        if n_bytes >= bucket_bytes:
            buckets.append(current)
            current, n_bytes = [], 0
    return buckets + [current] if current else buckets


class BucketedSum:
    """Sums gradients over the ranks during the backward pass.

    Set `active` before the backward pass of the micro-batch that completes a step (gradients of
    the ones before just add up at home), and call finish() after it. Buckets are sent in one
    order on every rank, however the gradients come, since ranks must agree on what they add up.
    """

    def __init__(self, parameters, bucket_bytes=4 << 20):
        self.buckets = make_buckets(parameters, bucket_bytes)
        self.active = False
        for i, bucket in enumerate(self.buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(lambda p, i=i: self.arrived(i))
        self.reset()

    def reset(self):
        self.missing = [len(bucket) for bucket in self.buckets]
        self.sent = []  # (flat gradients of a bucket, what to wait for)

    def arrived(self, i):
        """A gradient of bucket i is ready. Send all buckets that are complete and in turn."""
        if not self.active:
            return
        self.missing[i] -= 1
        while len(self.sent) < len(self.buckets) and self.missing[len(self.sent)] == 0:
            flat = torch.cat([p.grad.flatten() for p in self.buckets[len(self.sent)]])
            self.sent.append((flat, dist.all_reduce(flat, async_op=True)))

    def finish(self):
        """Wait for every sum and put it where the optimizer looks for it."""
        assert len(self.sent) == len(self.buckets), "a parameter got no gradient"
        for bucket, (flat, work) in zip(self.buckets, self.sent):
            work.wait()
            for parameter, total in zip(bucket, flat.split([p.numel() for p in bucket])):
                parameter.grad.copy_(total.view_as(parameter))
        self.reset()
