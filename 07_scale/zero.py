"""ZeRO: what data parallel keeps whole on every rank, each rank keeps a share of.

In data parallel every rank holds the same AdamW averages and computes the same step. It is enough
that each does so for its own section of the weights and then tells the others (Rajbhandari et al.
2019, sections 3 and 5). The weights of a bucket lie in one flat tensor, cut into a section for each
rank. Its gradients are reduce-scattered, so that each rank has the sums of its section; the rank's
own optimizer, that of stage 4, moves it; an all-gather puts the sections together again.
AdamW treats each number by itself, so its buckets are cut anywhere. Muon treats a matrix as a
matrix, so matrices are dealt out whole.

Bytes a parameter on each of N ranks, in float32 with AdamW (with Muon a matrix has 4, not 8):

                       weights   gradients   optimizer
    data parallel            4           4           8
    ZeRO-1                   4           4         8/N      gradients are sent once a step
    ZeRO-2                   4         4/N         8/N      ... and after every micro-batch

A step sends as much as an all-reduce of the gradients, which is also a reduce-scatter and an
all-gather; ZeRO-2 sends half of that again for each further micro-batch.
Left out: sharding the weights, which is ZeRO-3 (scale.py --engine fsdp2).
Reads and writes nothing: scale.py trains with it. Next: extras/precision.py.
"""

import itertools
import sys
from collections import deque
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
if "console" not in sys.modules:
    sys.path[1:1] = [str(folder / "01_tokenizer") for folder in Path(__file__).resolve().parents]

import console  # noqa: F401, first: it makes the others be found

import torch
import torch.distributed as dist

from optim import Optimizer, make_optimizer
from scale import BUCKET_BYTES, DataParallel, InTurn, broadcast_weights, make_buckets

AVERAGES = {"adamw": ("exp_avg", "exp_avg_sq"), "muon": ("average",)}  # what Optimizer remembers


# ---- who has what ----

def cut_anywhere(sizes, world):  # exercise
    """Lay tensors of so many elements one after the other and cut that into `world` sections of one
    length, the shortest that is enough; what is too much stays empty, at the end.

    Returns (starts, length): where each tensor begins, and the length of a section. Section r goes
    from r * length to (r + 1) * length, through tensors if need be.
    cut_anywhere([3, 4, 2], 2) is ([0, 3, 7], 5): the second tensor lies in both sections.
    """
    return list(itertools.accumulate(sizes, initial=0))[:-1], -(-sum(sizes) // world)


def deal_whole(sizes, world):  # exercise
    """The same for tensors that must not be cut: each lies in one section, whose end may be empty.

    They are dealt out one by one, the largest first (of equal ones the earlier), each to the
    section that has least so far (of equal ones the lower), behind what it has. The length is that
    of the fullest section, at most 4/3 of the best there is (Graham 1969).
    deal_whole([3, 5, 4], 2) is ([11, 0, 7], 7): 5 to section 0, 4 to section 1, then 3 behind it.
    """
    filled, places = [0] * world, [None] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        section = filled.index(min(filled))
        places[i] = section, filled[section]
        filled[section] += sizes[i]
    return [section * max(filled) + before for section, before in places], max(filled)


def sum_sections(flat):  # exercise
    """Start to add up `flat`, (world * length,), in place. Returns a work: after its wait() the
    section of this rank, flat.chunk(world)[rank], is the sum of all ranks'; the rest is anything.

    dist.reduce_scatter_single(output, input, async_op=True), whose output may be that part of its
    input, sends half of what an all-reduce does. Gloo, which tensors not on a GPU travel by, makes
    it an all-reduce of a copy: there dist.all_reduce(flat, async_op=True) is quicker.
    """
    if not flat.is_cuda:
        return dist.all_reduce(flat, async_op=True)
    own = flat.chunk(dist.get_world_size())[dist.get_rank()]
    return dist.reduce_scatter_single(own, flat, async_op=True)


class Bucket:
    """Parameters of a kind, "adamw" or "muon", whose weights lie in one flat tensor, of which each
    rank has a section. `pieces` is what lies in this rank's: {piece of the weights: parameter}. A
    piece has its parameter's shape if it is all of it, else it is flat.
    """

    def __init__(self, parameters, kind):
        rank, self.world = dist.get_rank(), dist.get_world_size()
        self.parameters, self.kind = parameters, kind
        lay_out = deal_whole if kind == "muon" else cut_anywhere
        self.starts, self.length = lay_out([p.numel() for p in parameters], self.world)
        self.section = slice(rank * self.length, (rank + 1) * self.length)
        self.spans = []  # (parameter, where its piece begins and ends)
        for parameter, start in zip(parameters, self.starts):
            begin = max(start, self.section.start)
            end = min(start + parameter.numel(), self.section.stop)
            if begin < end:
                self.spans.append((parameter, begin, end))
        self.weights = self.flat([p.detach() for p in parameters])
        for parameter, view in zip(parameters, self.views(self.weights)):
            parameter.data = view
        self.pieces = dict(zip(self.own(self.weights), (p for p, _, _ in self.spans)))

    def flat(self, tensors):
        """A new flat tensor with these in the places of the parameters, and zeros between."""
        flat = self.parameters[0].new_zeros(self.world * self.length)
        torch._foreach_copy_(self.views(flat), tensors)
        return flat

    def views(self, flat):
        """What of a flat tensor is each parameter's."""
        return [flat[start:start + p.numel()].view_as(p)
                for p, start in zip(self.parameters, self.starts)]

    def own(self, flat):
        """What of a flat tensor is each piece's."""
        return [flat[begin:end].view_as(p) if end - begin == p.numel() else flat[begin:end]
                for p, begin, end in self.spans]

    def gather(self, flat):
        """Start to make a flat tensor whole, of which each rank has its section."""
        return dist.all_gather_single(flat, flat[self.section], async_op=True)


# ---- the engine ----

class Zero(DataParallel):
    """Every rank has a share of the optimizer's state, and at stage 2 of the gradients.

    The weights become views of the buckets' flat tensors. self.optimizer moves this rank's pieces
    of them, {piece: parameter}; self.plain, that of a single process, says which groups there are.
    After the last backward() of a step no parameter has a .grad; a piece's is the sum over ranks.
    """

    divided = True

    def __init__(self, model, config, stage, bucket_bytes=BUCKET_BYTES):
        broadcast_weights(model)
        self.model, self.loss, self.stage = model, config.objective(model), stage
        self.plain = make_optimizer(model, config)
        self.param_groups = self.plain.param_groups
        order = {p: i for i, p in enumerate(model.parameters())}
        self.buckets, groups = [], []
        for group in self.param_groups:
            ordered, least = sorted(group["params"], key=order.get), bucket_bytes
            if group["kind"] == "muon":  # few matrices can't be dealt out evenly
                largest = max(p.numel() * p.element_size() for p in ordered)
                least = max(least, 2 * dist.get_world_size() * largest)
            buckets = [Bucket(bucket, group["kind"]) for bucket in make_buckets(ordered, least)]
            groups.append(group | {"params": [piece for b in buckets for piece in b.pieces]})
            self.buckets += buckets
        # A bucket is complete with the gradient of its parameter that is nearest to the input.
        self.buckets.sort(key=lambda bucket: -min(map(order.get, bucket.parameters)))
        self.pieces = {piece: p for b in self.buckets for piece, p in b.pieces.items()}
        parts = {piece: self.plain.parts[p] for piece, p in self.pieces.items()
                 if p in self.plain.parts}
        self.optimizer = Optimizer(groups, parts, self.plain.by_hand)
        self.turns = InTurn([bucket.parameters for bucket in self.buckets], self.send)
        self.on_their_way, self.steps = deque(), 0.0

    # 1) gradients: whole ones become sums of the own section

    def backward(self, loss, last):
        """At stage 2 all ranks need as many micro-batches, since each sends something."""
        self.turns.active = last or self.stage == 2
        loss.backward()
        if self.turns.active:
            self.turns.finish()
            while self.on_their_way:
                self.receive()

    def send(self, i):
        """A bucket's gradients become a message, and are gone."""
        if len(self.on_their_way) == 2:  # more would take as much memory as all gradients
            self.receive()
        bucket = self.buckets[i]
        flat = bucket.flat([p.grad for p in bucket.parameters])
        for parameter in bucket.parameters:
            parameter.grad = None
        self.on_their_way.append((bucket, flat, sum_sections(flat)))

    def receive(self):
        """Add up this rank's section of the message that was sent first; the rest is dropped."""
        bucket, flat, work = self.on_their_way.popleft()
        work.wait()
        for piece, total in zip(bucket.pieces, bucket.own(flat)):
            piece.grad = total.clone() if piece.grad is None else piece.grad.add_(total)

    def gradients(self):
        return [piece.grad for piece in self.pieces]

    # 2) weights: each rank moves its section, and tells the others

    def step(self):
        for own, group in zip(self.optimizer.param_groups, self.param_groups):
            own["lr"] = group["lr"]
        self.optimizer.step()
        self.steps += 1
        for work in [bucket.gather(bucket.weights) for bucket in self.buckets]:
            work.wait()

    # 3) checkpoints, which don't know how many ranks there were

    def numbered(self):
        """(bucket, name of an average, the numbers that state_dict() has for the parameters)."""
        parameters = [p for group in self.param_groups for p in group["params"]]
        numbers = {p: i for i, p in enumerate(parameters)}
        for bucket in self.buckets if self.steps else []:
            for name in AVERAGES[bucket.kind]:
                yield bucket, name, [numbers[p] for p in bucket.parameters]

    def state_dict(self):
        """On rank 0 that of a single process, on the CPU; the others only take part in it."""
        whole = self.plain.state_dict()
        for bucket, name, numbers in self.numbered():
            flat = torch.zeros_like(bucket.weights)
            for piece, average in zip(bucket.pieces, bucket.own(flat)):
                average.copy_(self.optimizer.state[piece][name])
            bucket.gather(flat).wait()
            for i, average in zip(numbers, bucket.views(flat) if dist.get_rank() == 0 else []):
                state = whole["state"].setdefault(i, {})
                state[name] = average.to("cpu", copy=True)
                if bucket.kind == "adamw":
                    state["step"] = torch.tensor(self.steps)
        return whole

    def load_state_dict(self, whole):
        """Every rank takes its share of what state_dict() or an Optimizer has said."""
        steps = {float(state["step"]) for state in whole["state"].values() if "step" in state}
        assert len(steps) < 2, f"the parameters of this checkpoint have made {steps} steps"
        self.steps = max(steps, default=float(len(whole["state"]) > 0))
        for bucket, name, numbers in self.numbered():
            flat = bucket.flat([whole["state"][i][name] for i in numbers])
            for piece, average in zip(bucket.pieces, bucket.own(flat)):
                state = self.optimizer.state[piece]
                state[name] = average.clone()
                if bucket.kind == "adamw":
                    state["step"] = torch.tensor(self.steps, device=piece.device)
