"""Data parallel: many processes, one model, each with its part of the batch.

Every process (rank) holds all the weights. Each runs its own windows forward and backward; the
gradients are summed over the ranks; then every optimizer makes the same step. If the weights are
equal at the start and the summed gradients are equal, they stay equal: nothing else is exchanged.
First the naive way, which waits for the whole backward pass and then sends one gradient after
the other; then buckets, which are sent while the backward pass is still at work on the layers
below (Li et al. 2020, PyTorch Distributed, section 3.2).
Left out: sharding the optimizer (zero.py), mixed precision (precision.py).

The sums need no division: the loss of every rank is already divided by the number of targets in
the whole batch (train.accumulate). Used by scale.py, which runs it under torchrun. Next: zero.py.
"""

import torch
import torch.distributed as dist

BUCKET_BYTES = 4 << 20  # of 1 MB they were as quick here


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


class InTurn:
    """Calls send(i) during a backward pass for the buckets i = 0, 1, 2, ..., each as soon as it has
    all its gradients and those before it have been sent.

    Ranks must agree on what they add up, so the order is that of `buckets` on every rank, however
    the gradients come. Set `active` before the backward pass that is to send, and call finish()
    after it. AssertionError if a parameter got no gradient: its rank would have nothing to send,
    and the others would wait.
    """

    def __init__(self, buckets, send):
        self.buckets, self.send = buckets, send
        for i, bucket in enumerate(buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(lambda p, i=i: self.arrived(i, p))
        self.reset()

    def reset(self):
        self.active, self.n_sent = False, 0
        self.missing = [set(bucket) for bucket in self.buckets]

    def arrived(self, i, parameter):
        """A gradient of bucket i is ready. Send all buckets that are complete and in turn."""
        if not self.active:
            return
        self.missing[i].remove(parameter)  # KeyError: a second backward pass before finish()
        while self.n_sent < len(self.buckets) and not self.missing[self.n_sent]:
            self.send(self.n_sent)
            self.n_sent += 1

    def finish(self):
        without = [tuple(p.shape) for missing in self.missing for p in missing]
        assert not without, f"parameters of these shapes got no gradient: {without}"
        self.reset()


class BucketedSum(InTurn):
    """Sums gradients over the ranks during the backward pass that completes a step: set `active`
    before it, call finish() after it. Gradients of the micro-batches before just add up at home.
    """

    def __init__(self, parameters, bucket_bytes=BUCKET_BYTES):
        super().__init__(make_buckets(parameters, bucket_bytes), self.send)
        self.works = []

    def send(self, i):
        """A gradient is copied once, into a message; from then on its part of that is .grad, so
        that sums need not be copied back.
        """
        bucket = self.buckets[i]
        flat = torch.cat([p.grad.flatten() for p in bucket])
        for parameter, part in zip(bucket, flat.split([p.numel() for p in bucket])):
            parameter.grad = part.view_as(parameter)
        self.works.append(dist.all_reduce(flat, async_op=True))

    def finish(self):
        """Wait until every .grad is the sum."""
        super().finish()
        for work in self.works:
            work.wait()
        self.works = []
