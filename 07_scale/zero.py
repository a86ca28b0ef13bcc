"""ZeRO: each rank keeps only a share of what data parallel keeps whole on every rank.

In data parallel every rank holds the same AdamW averages and computes the same step. It is enough
that each rank does so for its own section of the weights and sends it to the others (Rajbhandari et
al. 2019, sections 3 and 5). Gradients are reduce-scattered, so that each rank has the sums of its
section; its own optim.Optimizer updates it; an all-gather puts the sections together.
AdamW treats each number by itself: its buckets are cut anywhere. Muon's matrices are dealt whole.

Bytes a parameter on each of N ranks, in float32 with AdamW (with Muon a matrix has 4, not 8):

                       weights   gradients   optimizer
    data parallel            4           4           8
    ZeRO-1                   4           4         8/N      gradients are sent once a step
    ZeRO-2                   4         4/N         8/N      ... and after every micro-batch

A step sends as many bytes as an all-reduce, which is a reduce-scatter and an all-gather, too;
ZeRO-2 adds half of that for each further micro-batch. Left out: ZeRO-3 (--engine fsdp2).
scale.py trains with it. Next: extras/precision.py.
"""

import itertools
import os
import sys
from functools import partial

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import torch
import torch.distributed as dist

from optim import Optimizer, make_optimizer
from scale import BUCKET_BYTES, BucketedSum, DataParallel, broadcast_weights, make_buckets


def cut_anywhere(sizes, world):  # exercise
    """Lay tensors of these sizes (numbers of elements) one after the other, and cut the row into
    `world` sections of equal length, the shortest possible; any excess stays empty, at the end.
    Returns (starts, length): where each tensor begins, and the length of a section. Section r goes
    from r * length to (r + 1) * length; a border may lie inside a tensor.
    cut_anywhere([3, 4, 2], 2) is ([0, 3, 7], 5): the second tensor lies in both sections.
    """
    return list(itertools.accumulate(sizes, initial=0))[:-1], -(-sum(sizes) // world)


def deal_whole(sizes, world):  # exercise
    """Like cut_anywhere(), but no tensor is cut: each lies in one section, whose end may be empty.
    Tensors are dealt out one by one, the largest first (of equal ones the earlier), each to the
    end of the section that has least so far (of equal ones the lower). The length is that of the
    fullest section, at most 4/3 of the shortest possible (Graham 1969).
    deal_whole([3, 5, 4], 2) is ([11, 0, 7], 7): 5 to section 0, 4 to section 1, then 3 behind it.
    """
    filled, positions = [0] * world, [None] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        section = filled.index(min(filled))
        positions[i] = section, filled[section]
        filled[section] += sizes[i]
    return [section * max(filled) + before for section, before in positions], max(filled)


def sum_sections(flat):  # exercise
    """Start to sum `flat`, (world * length,), over the ranks, in place. Returns a work: after its
    wait() this rank's section, flat.chunk(world)[rank], holds the sum; the rest is undefined.

    dist.reduce_scatter_single(output, input, async_op=True), whose output may be that section of
    the input, sends half as much as an all-reduce. Gloo, which is used for tensors not on a GPU,
    makes it an all-reduce of a copy: there dist.all_reduce(flat, async_op=True) is quicker.
    """
    if not flat.is_cuda:
        return dist.all_reduce(flat, async_op=True)
    own = flat.chunk(dist.get_world_size())[dist.get_rank()]
    return dist.reduce_scatter_single(own, flat, async_op=True)


class Bucket(list):
    """Parameters of a kind, "adamw" or "muon", whose weights lie in one flat tensor, of which each
    rank has a section. `shards`: {shard, a part of a parameter in this section: the parameter}. A
    shard has its parameter's shape if it is the whole parameter, else it is flat.
    """

    def __init__(self, parameters, kind):
        super().__init__(parameters)
        rank, self.world, self.kind = dist.get_rank(), dist.get_world_size(), kind
        self.averages = ("average",) if kind == "muon" else ("exp_avg", "exp_avg_sq")  # Optimizer's
        lay_out = deal_whole if kind == "muon" else cut_anywhere
        self.starts, self.length = lay_out([p.numel() for p in self], self.world)
        self.section = slice(rank * self.length, (rank + 1) * self.length)
        self.spans = []  # (parameter, where its shard begins and ends)
        for p, start in zip(self, self.starts):
            begin, end = max(start, self.section.start), min(start + p.numel(), self.section.stop)
            if begin < end:
                self.spans.append((p, begin, end))
        self.weights = self.flat([p.detach() for p in self])
        for parameter, view in zip(self, self.views(self.weights)):
            parameter.data = view
        self.shards = dict(zip(self.own(self.weights), (p for p, _, _ in self.spans)))

    def flat(self, tensors):
        """A new flat tensor with `tensors` in the places of the parameters, and zeros between."""
        flat = self[0].new_zeros(self.world * self.length)
        torch._foreach_copy_(self.views(flat), tensors)
        return flat

    def views(self, flat):
        """Views of a flat tensor, one for each parameter."""
        return [flat[start:start + p.numel()].view_as(p) for p, start in zip(self, self.starts)]

    def own(self, flat):
        """Views of a flat tensor, one for each shard."""
        return [flat[begin:end].view_as(p) if end - begin == p.numel() else flat[begin:end]
                for p, begin, end in self.spans]

    def gather(self, flat):
        """Start an all-gather of a flat tensor of which each rank has its section."""
        return dist.all_gather_single(flat, flat[self.section], async_op=True)


class SectionSum(BucketedSum):
    """Sums each Bucket's gradients over the ranks; a rank keeps only the sums of its shards."""

    def send(self, bucket):
        """Copy a bucket's gradients into one tensor, free them, and start its sum."""
        if len(self.on_their_way) == 2:  # more would take as much memory as all gradients
            self.on_their_way.pop(0)()
        flat = bucket.flat([p.grad for p in bucket])
        for parameter in bucket:
            parameter.grad = None
        self.on_their_way.append(partial(self.receive, bucket, flat, sum_sections(flat)))

    def receive(self, bucket, flat, work):
        """Add the sums of this rank's shards to their .grad; drop the rest."""
        work.wait()
        for shard, total in zip(bucket.shards, bucket.own(flat)):
            shard.grad = total.clone() if shard.grad is None else shard.grad.add_(total)


class Zero(DataParallel):
    """Every rank has a share of the optimizer's state, and at stage 2 of the gradients. self.plain,
    the optimizer of a single process, defines the groups; self.optimizer updates this rank's
    shards. After a step's last backward() only the shards have .grad, summed over the ranks.
    """

    divided = True

    def __init__(self, model, config, stage, bucket_bytes=BUCKET_BYTES):
        broadcast_weights(model)
        self.model, self.loss, self.stage = model, config.objective(model), stage
        self.plain, self.steps = make_optimizer(model, config), 0.0
        self.param_groups = self.plain.param_groups
        self.buckets, groups = [], []
        for group in self.param_groups:
            params, least = group["params"], bucket_bytes
            if group["kind"] == "muon":  # few matrices can't be dealt out evenly
                least = max(least, 2 * dist.get_world_size() * max(p.nbytes for p in params))
            buckets = [Bucket(b, group["kind"]) for b in make_buckets(params, least)]
            groups.append(group | {"params": [shard for b in buckets for shard in b.shards]})
            self.buckets += buckets
        # A bucket is complete with the gradient of its parameter that is nearest to the input.
        order = {p: i for i, p in enumerate(model.parameters())}
        self.buckets.sort(key=lambda bucket: -order[bucket[-1]])
        self.shards = {shard: p for b in self.buckets for shard, p in b.shards.items()}
        parts = {shard: self.plain.parts[p] for shard, p in self.shards.items()
                 if p in self.plain.parts}
        self.optimizer = Optimizer(groups, parts, self.plain.by_hand)
        self.sums = SectionSum(self.buckets)

    def backward(self, loss, last):
        """At stage 2 every micro-batch is sent, so all ranks need equally many."""
        super().backward(loss, last or self.stage == 2)

    def gradients(self):
        return [shard.grad for shard in self.shards]

    def step(self):  # exercise
        """Each group of self.optimizer gets the "lr" of its twin in self.param_groups; it steps;
        self.steps grows by 1. Then gather() each bucket's weights: start all, then wait() for each.
        """
        for own, group in zip(self.optimizer.param_groups, self.param_groups):
            own["lr"] = group["lr"]
        self.optimizer.step()
        self.steps += 1
        for work in [bucket.gather(bucket.weights) for bucket in self.buckets]:
            work.wait()

    def averages(self):
        """Yield (bucket, name of an average, its parameters' numbers in state_dict())."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        numbers = {p: i for i, p in enumerate(parameters)}
        for bucket in self.buckets if self.steps else []:
            for name in bucket.averages:
                yield bucket, name, [numbers[p] for p in bucket]

    def state_dict(self):
        """On rank 0 the state of a single process, on the CPU; others only help to gather it."""
        whole = self.plain.state_dict()
        for bucket, name, numbers in self.averages():
            flat = torch.zeros_like(bucket.weights)
            for shard, average in zip(bucket.shards, bucket.own(flat)):
                average.copy_(self.optimizer.state[shard][name])
            bucket.gather(flat).wait()
            for i, average in zip(numbers, bucket.views(flat) if dist.get_rank() == 0 else []):
                state = whole["state"].setdefault(i, {})
                state[name] = average.to("cpu", copy=True)
                if bucket.kind == "adamw":
                    state["step"] = torch.tensor(self.steps)
        return whole

    def load_state_dict(self, whole):
        """Every rank takes its share of a state_dict() of Zero or of an Optimizer."""
        steps = {float(state["step"]) for state in whole["state"].values() if "step" in state}
        assert len(steps) < 2, f"the parameters of this checkpoint have made {steps} steps"
        self.steps = max(steps, default=0.0)
        for bucket, name, numbers in self.averages():
            flat = bucket.flat([whole["state"][i][name] for i in numbers])
            for shard, average in zip(bucket.shards, bucket.own(flat)):
                self.optimizer.state[shard][name] = average.clone()
                if bucket.kind == "adamw":
                    self.optimizer.state[shard]["step"] = average.new_tensor(self.steps)
