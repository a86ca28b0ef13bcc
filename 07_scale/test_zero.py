"""Tests of zero.py: several processes with a share each must do what one does with all."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist

from scale import DataParallel, train_step
from family import FAMILIES, model_config
from gpt import GPT, GPTConfig, make_model
from optim import make_optimizer
from precision import LossScaler, Scaled
from ranks import on_ranks
from train import Config
from zero import Bucket, Zero, cut_anywhere, deal_whole, sum_sections

SHAPE = dict(vocab_size=61, seq_len=8, n_layer=3, n_head=2, n_kv_head=1, d_model=16, d_ff=40)
SMALL = GPTConfig(**SHAPE)
OLDER = model_config(**SHAPE | FAMILIES["gpt2"] | {"n_kv_head": 2})  # tied, biases, gains, places
CLIP, BUCKET = 0.1, 4000  # bytes


# ---- who has what ----
def test_cut_anywhere():
    assert cut_anywhere([3, 4, 2], 2) == ([0, 3, 7], 5), (
        "each tensor begins where the one before ends; two sections of 5 hold all 9 elements")
    assert cut_anywhere([3, 4, 2], 3) == ([0, 3, 7], 3), "a section is no longer than it must be"
    assert cut_anywhere([3, 4, 2], 1) == ([0, 3, 7], 9)
    assert cut_anywhere([1], 4) == ([0], 1), "three sections are empty"


def test_deal_whole():
    assert deal_whole([3, 5, 4], 2) == ([11, 0, 7], 7), (
        "the largest first, each whole into the section that has least, all sections of one length")
    assert deal_whole([4, 4, 3, 1, 4, 4, 3, 1], 2)[1] == 12, "two blocks: as even as can be"
    assert deal_whole([2, 2, 2], 1) == ([0, 2, 4], 6)
    assert deal_whole([7], 3) == ([0], 7), "two sections are empty"
    sizes = torch.randint(1, 50, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    for world in (2, 3, 8):
        starts, length = deal_whole(sizes, world)
        taken = [x for start, size in zip(starts, sizes) for x in range(start, start + size)]
        assert len(set(taken)) == sum(sizes), "two tensors in one place"
        for start, size in zip(starts, sizes):
            assert start // length == (start + size - 1) // length < world, "a tensor was cut"
        assert length <= 1.05 * sum(sizes) / world, f"uneven: {length} of {sum(sizes)}"


def refusing(why):
    """A function that is not to be called."""
    def refused(*what, **how):
        raise AssertionError(why)
    return refused


@pytest.mark.parametrize("world", [1, 2, 3])
def test_sum_sections(world, monkeypatch):
    """What each rank ends with is its section of the sum."""
    def work(rank):
        monkeypatch.setattr(dist, "reduce_scatter_single", refusing("gloo's all-reduce is quicker"))
        flat = torch.arange(4.0 * world) * 10**rank
        sum_sections(flat).wait()
        return flat.chunk(world)[rank].tolist()
    total = torch.arange(4.0 * world) * sum(10**rank for rank in range(world))
    assert sum(on_ranks(work, world), []) == total.tolist(), (
        "after wait() each rank has the sum, not the mean, of its own section")


def test_sum_sections_on_a_gpu(monkeypatch):
    """As if `flat` were there: the message is a reduce-scatter's, which gloo can send, too."""
    class OnGPU(torch.Tensor):
        is_cuda = True

    def work(rank):
        monkeypatch.setattr(dist, "all_reduce", refusing("it sends twice what is needed"))
        flat = (torch.arange(6.0) * 10**rank).as_subclass(OnGPU)
        sum_sections(flat).wait()
        return flat.chunk(3)[rank].tolist()
    assert sum(on_ranks(work, 3), []) == [111.0 * i for i in range(6)], (
        "after the wait each rank's section of `flat` must hold the sum over all ranks")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("world", [1, 3])
def test_every_element_is_in_one_section(optimizer, world):
    def work(rank):
        model = GPT(SMALL)
        before = [p.tolist() for p in model.parameters()]
        sharded = sharded_optimizer(model, optimizer, 1)
        assert before == [p.tolist() for p in model.parameters()], "a weight has changed"
        for p in model.parameters():
            p.data.zero_()
        for shard, p in sharded.shards.items():
            shard += 1  # seen in the model, since it is the same memory
            if optimizer == "muon" and p in set(sharded.param_groups[0]["params"]):
                assert shard.shape == p.shape, "a matrix was cut"
        total = torch.cat([p.data.flatten() for p in model.parameters()])
        dist.all_reduce(total)
        return set(total.tolist()), sum(shard.numel() for shard in sharded.shards)
    found, shares = zip(*on_ranks(work, world))
    assert all(values == {1.0} for values in found)
    assert max(shares) < 1.25 * sum(shares) / world, f"uneven: {shares}"


# ---- training ----
def sharded_optimizer(model, optimizer, stage, bucket_bytes=BUCKET):
    return Zero(model, Config(optimizer=optimizer), stage, bucket_bytes)


def random_model(config):
    model, generator = make_model(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model


def batches(config, first=0, last=5):
    """(step, inputs, targets): 12 windows a step, of which not all is to be learned."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(config.vocab_size, (12, config.seq_len + 1), generator=generator)
        targets = ids[:, 1:].clone()
        targets[torch.rand(targets.shape, generator=generator) < 0.3] = -1
        yield step, ids[:, :-1], targets


def train(model, optimizer, steps, backward, clip, rank=0, world=1, micro_batch=2):
    """[(loss of this rank's windows, norm of the whole gradient)] of some steps, as train.py's."""
    curve = []
    for step, inputs, targets in steps:
        n_targets, total = (targets >= 0).sum(), 0.0
        mine = list(zip(inputs[rank::world].split(micro_batch),
                        targets[rank::world].split(micro_batch)))
        for x, y in mine:
            loss = model.loss(x, y).sum() / n_targets
            backward(loss, y is mine[-1][1])
            total += loss.item()
        norm = clip(CLIP)
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * 0.01 / (1 + step)
        optimizer.step()
        optimizer.zero_grad()
        curve.append((total, norm))
    return curve


def clip_by_hand(model, largest):
    gradients = [p.grad for p in model.parameters()]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    for gradient in gradients:
        gradient *= min(1.0, largest / norm)
    return norm


def train_alone(model, optimizer, steps, **how):
    return train(model, optimizer, steps, lambda loss, last: loss.backward(),
                 lambda largest: clip_by_hand(model, largest), **how)


def train_sharded(model, sharded, steps, rank, world, **how):
    curve = train(model, sharded, steps, sharded.backward, sharded.clip, rank, world, **how)
    losses = torch.tensor([loss for loss, _ in curve])
    dist.all_reduce(losses)
    return list(zip(losses.tolist(), (norm for _, norm in curve)))


def assert_close(found, expected, what, tolerance=1e-5):
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=tolerance,
                               atol=tolerance, msg=lambda text: f"{what}: {text}")


def test_step():
    """Of gradients of 1, by a plain AdamW: every number moves by lr."""
    def work(rank):
        model = GPT(SMALL)
        sharded = sharded_optimizer(model, "adamw", 1)
        for lr in (0.5, 0.25):
            before, started = [p.detach().clone() for p in model.parameters()], []
            for group in sharded.param_groups:
                group["lr"], group["weight_decay"] = lr, 0.0
            for own in sharded.optimizer.param_groups:
                own["weight_decay"] = 0.0
            for shard in sharded.shards:
                shard.grad = torch.ones_like(shard)
            for bucket in sharded.buckets:
                bucket.gather = partial(counted, bucket, started)
            sharded.step()
            for p, old in zip(model.parameters(), before):
                torch.testing.assert_close(p.detach(), old - lr, msg=(
                    "on every rank every weight must have moved, at the lr of self.param_groups"))
        assert sharded.steps == 2, "self.steps counts: a checkpoint needs it"
    on_ranks(work)


def counted(bucket, started, flat):
    """bucket.gather(flat), whose wait() fails before all buckets have started."""
    work = Bucket.gather(bucket, flat)
    started.append(work)

    class Work:
        def wait(self):
            assert len(started) > 1, "all buckets are sent before the first is waited for"
            work.wait()
    return Work()


CASES = [(1, "adamw", SMALL, 2), (2, "adamw", SMALL, 2), (1, "muon", SMALL, 2),
         (2, "muon", SMALL, 2), (1, "muon", SMALL, 1), (2, "adamw", OLDER, 1),
         (1, "adamw", OLDER, 2), (2, "muon", OLDER, 3)]


@pytest.mark.parametrize("stage, optimizer, config, world", CASES)
def test_equals_one_process(stage, optimizer, config, world):
    """Five steps of several micro-batches, with a clip that is at work."""
    def work(rank):
        torch.manual_seed(rank)
        model = random_model(config)
        if rank:
            model = make_model(config, seed=rank)
        sharded = sharded_optimizer(model, optimizer, stage)  # which all begin as rank 0 does
        curve = train_sharded(model, sharded, batches(config), rank, world)
        return curve, {k: v.tolist() for k, v in model.state_dict().items()}
    alone = random_model(config)
    plain = make_optimizer(alone, Config(optimizer=optimizer))
    expected = train_alone(alone, plain, batches(config))
    assert all(norm > CLIP for _, norm in expected), "nothing was clipped"
    results = on_ranks(work, world)
    for curve, weights in results:
        assert_close(curve, expected, "losses and norms")
        for name, tensor in alone.state_dict().items():
            # One number added to all keys changes nothing: what moves their biases is rounding.
            rows = slice(16) if name.endswith("qkv.bias") else slice(None)
            # And AdamW divides a gradient of almost nothing, rounding and all, by its own size.
            assert_close(weights[name][rows], tensor[rows].tolist(), name, 3e-5)
    assert all(result == results[0] for result in results), "the ranks differ"


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_equals_data_parallel_bit_for_bit(optimizer):
    """Two ranks add the same two numbers, in whatever order: ZeRO-1 is data parallel, to the last
    bit. The norms differ in what is rounded when, so nothing is clipped. (With fast_products() the
    last bits of a batch of products depend on its size, and for Muon that is another one.)
    """
    def work(rank):
        torch.set_float32_matmul_precision("highest")
        one, other = random_model(SMALL), random_model(SMALL)
        whole, sharded = (DataParallel(one, Config(optimizer=optimizer)),
                          sharded_optimizer(other, optimizer, 1))
        for model, engine in ((one, whole), (other, sharded)):
            train(model, engine, batches(SMALL), engine.backward, lambda largest: 0.0, rank, 2)
        for (name, a), b in zip(one.named_parameters(), other.parameters()):
            assert torch.equal(a, b), name
    on_ranks(work)


@pytest.mark.parametrize("stage", [1, 2])
def test_clip(stage):
    """The norm is of all sections together; below the limit nothing changes, at nan neither."""
    def work(rank):
        model = GPT(SMALL)
        sharded = sharded_optimizer(model, "muon", stage)
        sharded.backward(sum(p.sum() for p in model.parameters()), True)  # gradients of 1 a rank
        n = sum(p.numel() for p in model.parameters())
        assert sharded.clip(math.inf) == pytest.approx(2 * math.sqrt(n)), (
            "the norm must be that of all sections together")
        assert all((shard.grad == 2).all() for shard in sharded.shards)
        sharded.clip(math.sqrt(n))
        for shard in sharded.shards:
            torch.testing.assert_close(shard.grad, torch.ones_like(shard))
        if rank == 0:
            next(iter(sharded.shards)).grad.fill_(math.nan)
        assert math.isnan(sharded.clip(1.0)), "all ranks must know"
    on_ranks(work)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_step_that_overflows_is_skipped_by_all(stage):
    """A gradient of one rank is inf, so that other ranks' sections are finite: none moves."""
    def work(rank):
        config, scaler = Config(**SHAPE, warmup=0), LossScaler(factor=8.0)
        model = GPT(SMALL)
        engine = Scaled(Zero(model, config, stage, BUCKET), scaler)
        loss, ids = engine.loss, np.random.default_rng(rank).integers(0, 61, (2, 9))
        bad = rank == 1

        def overflows(x, y):
            nats = loss(x, y)
            if bad:
                nats.register_hook(lambda gradient: gradient * float("inf"))
            return nats
        for bad, factor in ((rank == 1, 4.0), (False, 4.0)):
            engine.engine.loss, before = overflows, model.head.weight.detach().clone()
            train_step(engine, (ids[:, :-1], ids[:, 1:]), 0, config)
            assert scaler.factor == factor
            assert torch.equal(before, model.head.weight) == (scaler.good == 0)
    on_ranks(work)


# ---- checkpoints ----
def same(found, expected):
    """Optimizer states, up to rounding."""
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for i, state in expected["state"].items():
        assert found["state"][i].keys() == state.keys(), f"parameter {i}"
        for name, value in state.items():
            torch.testing.assert_close(found["state"][i][name], value, rtol=1e-5, atol=1e-6, msg=(
                f"{name} of parameter {i} is not that of one process: it must be put together from "
                "the sections of all ranks"))


@pytest.mark.parametrize("optimizer, stage", [("adamw", 2), ("muon", 1)])
def test_a_checkpoint_does_not_know_how_many_ranks_wrote_it(optimizer, stage, tmp_path):
    """Two ranks save after step 3; 1, 3 and a plain optimizer go on as if nothing had been."""
    alone = random_model(SMALL)
    plain = make_optimizer(alone, Config(optimizer=optimizer))
    train_alone(alone, plain, batches(SMALL, 0, 3))

    def begin(rank):
        model = random_model(SMALL)
        sharded = sharded_optimizer(model, optimizer, stage)
        assert sharded.state_dict()["state"] == {}, "nothing to remember yet"
        train_sharded(model, sharded, batches(SMALL, 0, 3), rank, 2)
        state = sharded.state_dict()
        if rank == 0:
            torch.save([model.state_dict(), state], tmp_path / "checkpoint")
    on_ranks(begin)
    weights, state = torch.load(tmp_path / "checkpoint")
    same(state, plain.state_dict())

    def go_on(rank, world):
        model = GPT(SMALL)
        model.load_state_dict(weights)
        sharded = sharded_optimizer(model, optimizer, 3 - stage, bucket_bytes=9999)
        sharded.load_state_dict(state)
        again = sharded.state_dict()
        if rank == 0:
            for i, known in state["state"].items():
                assert all(torch.equal(again["state"][i][name], known[name]) for name in known)
        return train_sharded(model, sharded, batches(SMALL, 3, 6), rank, world)
    expected = train_alone(alone, plain, batches(SMALL, 3, 6))
    for world in (1, 3):
        for curve in on_ranks(lambda rank: go_on(rank, world), world):
            assert_close(curve, expected, f"{world} ranks")
    model = GPT(SMALL)
    model.load_state_dict(weights)
    resumed = make_optimizer(model, Config(optimizer=optimizer))
    resumed.load_state_dict(state)
    assert_close(train_alone(model, resumed, batches(SMALL, 3, 6)), expected, "a plain optimizer")


# ---- memory ----
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_each_rank_remembers_its_half(optimizer):
    alone = random_model(SMALL)
    plain = make_optimizer(alone, Config(optimizer=optimizer))
    train_alone(alone, plain, batches(SMALL, 0, 1))

    def n_bytes(states):
        return sum(value.nbytes for state in states.values() for value in state.values()
                   if value.dim())

    def work(rank):
        model = random_model(SMALL)
        sharded = sharded_optimizer(model, optimizer, 1)
        train_sharded(model, sharded, batches(SMALL, 0, 1), rank, 2)
        assert not sharded.plain.state
        return n_bytes(sharded.optimizer.state)
    found, whole = on_ranks(work), n_bytes(plain.state)
    assert sum(found) == whole, "something is remembered twice, or nowhere"
    assert max(found) < 0.55 * whole, f"{found} of {whole} bytes"


@pytest.mark.parametrize("stage", [1, 2])
def test_gradients_that_are_left(stage):
    """After a micro-batch that does not complete a step: ZeRO-1 has all, ZeRO-2 its half."""
    def work(rank):
        model = GPT(SMALL)
        sharded = sharded_optimizer(model, "adamw", stage)
        n = sum(p.numel() for p in model.parameters())
        for last in (False, False, True):
            loss = sum((p * p).sum() for p in model.parameters())
            sharded.backward(loss, last)
            whole = sum(p.grad.numel() for p in model.parameters() if p.grad is not None)
            own = sum(p.grad.numel() for p in sharded.shards if p.grad is not None)
            if last or stage == 2:
                assert whole == 0 and own == pytest.approx(n / 2, abs=99), (
                    f"of {n} gradients {own} are left as shards, which should be half, and {whole} "
                    "as gradients of parameters, but should be 0: what was sent is gone")
                storage = sum(p.grad.untyped_storage().nbytes() for p in sharded.shards)
                assert storage == 4 * own, "a view keeps the whole message in memory"
            else:
                assert (whole, own) == (n, 0)
        for shard in sharded.shards:
            torch.testing.assert_close(shard.grad, 12 * shard, msg=(  # 2 ranks, 3 times 2 p
                "a piece's gradient must be the sum over ranks and over all micro-batches"))
        sharded.zero_grad()
        assert all(shard.grad is None for shard in sharded.shards)
    on_ranks(work)


def test_messages_on_their_way():
    """Never more than two, however many buckets there are."""
    def work(rank):
        model = GPT(SMALL)
        sharded = sharded_optimizer(model, "adamw", 2, bucket_bytes=1)
        most, send = [], sharded.sums.send

        def counting(bucket):
            send(bucket)
            most.append(len(sharded.sums.on_their_way))
        sharded.sums.send = counting
        sharded.backward(sum(p.sum() for p in model.parameters()), False)
        assert len(most) == len(list(model.parameters())) and max(most) == 2, most
    on_ranks(work)


def test_buckets_follow_the_backward_pass():
    """Each is complete when the one behind it is not yet: none has to wait for those after it."""
    def work(rank):
        model = GPT(SMALL)
        sharded, arrived, sent = sharded_optimizer(model, "adamw", 1), set(), []
        send = sharded.sums.send

        def looking(bucket):
            assert set(bucket) <= arrived
            sent.append(len(arrived))
            send(bucket)
        sharded.sums.send = looking
        sharded.sums.start()
        for p in reversed(list(model.parameters())):  # hooks of before have been called already
            arrived.add(p)
            p.sum().backward()
        assert sent == sorted(set(sent)), f"buckets that had to wait for others: {sent}"
        sharded.sums.finish()
    on_ranks(work, 1)


@pytest.mark.parametrize("stage", [1, 2])
def test_train_step_waits_for_the_device_once(stage, host_reads):
    def work(rank):
        config = Config(vocab_size=61, seq_len=8, n_layer=1, n_head=2, n_kv_head=2, d_model=16,
                        d_ff=32, micro_batch=1)
        engine = Zero(GPT(config.gpt(61)), config, stage)
        ids = torch.randint(61, (3, 8), generator=torch.Generator().manual_seed(rank)).numpy()
        with host_reads() as reads:
            train_step(engine, (ids, ids), 0, config)
        return reads.n
    assert on_ranks(work) == [1, 1], "read the loss and the norm together"
