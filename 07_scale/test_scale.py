"""Tests of scale.py: sums over ranks, a step, then whole runs: what one process trains."""

import functools
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rl
import sample
import scale
import train
from gpt import GPT, GPTConfig
from ranks import on_ranks
from runs import newest_checkpoint
from scale import (BucketedSum, DataParallel, broadcast_weights, main, make_buckets,
                   sum_gradients_naive, total, train_step)
from snapshots import weights_of
from train import Config

# ---- sums of gradients: two processes each, forked, that talk over gloo ----
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
    assert first == second == {n: t.tolist() for n, t in small_model(0).state_dict().items()}, (
        "every rank must have the parameters and the buffers of rank 0")


def test_sum_gradients_naive():
    def work(rank):
        parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(3))]
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.full_like(parameter, 10.0 * i + rank + 1)
        frozen = torch.nn.Parameter(torch.zeros(4), requires_grad=False)
        sum_gradients_naive([*parameters, frozen])
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
        assert found == expected, (
            f"buckets of {limit} bytes: from the last parameter to the first, each closed as soon "
            "as it has so many bytes, and none lost")
    half = [torch.nn.Parameter(torch.zeros(4, dtype=torch.bfloat16)) for _ in range(2)]
    assert len(make_buckets(half, 16)) == 1, "these have two bytes each: see nbytes"
    assert make_buckets([], 10) == []
    parameters[1].requires_grad_(False)
    found = [[p.numel() for p in bucket] for bucket in make_buckets(parameters, 24)]
    assert found == [[5, 4], [3, 1]], "a frozen parameter gets no gradient, so nothing to send"


@pytest.mark.parametrize("values", [np.array([1.0, 2.0]), torch.tensor(3.0).double()])
def test_total(values):
    def work(rank):
        return total(values + rank).tolist()
    assert on_ranks(work) == [(2 * values + 1).tolist()] * 2


def test_in_turn():
    sent = []
    last, middle, first = parameters = [torch.nn.Parameter(torch.ones(n)) for n in (1, 2, 3)]
    buckets = [[first], [middle], [last]]
    turns = BucketedSum(buckets)
    turns.send = lambda bucket: sent.append([b is bucket for b in buckets].index(True))
    sum(p.sum() for p in parameters).backward()
    assert sent == [], "not active"
    for _ in range(2):
        sent.clear()
        turns.start()
        for parameter, expected in ((middle, []), (first, [0, 1]), (last, [0, 1, 2])):
            parameter.sum().backward()
            assert sent == expected, "ranks must agree on the order"
        turns.finish()
    turns.start()
    (first.sum() + last.sum()).backward()
    with pytest.raises(AssertionError, match=r"no gradient: \[\(2,\)\]"):
        turns.finish()
    with pytest.raises(KeyError):
        first.sum().backward()  # would be added to what is on its way


def test_send():
    """One message for the bucket, of which .grad are parts; nothing waits until finish()."""
    def work(rank):
        one, other = bucket = [torch.nn.Parameter(torch.ones(2, 3)),
                               torch.nn.Parameter(torch.ones(4))]
        summed, messages, wait = BucketedSum([bucket]), [], []

        def all_reduce(flat, async_op=False):
            messages.append((len(flat), async_op))
            return Message(sum_up(flat, async_op=True), wait)
        sum_up, scale.dist.all_reduce = scale.dist.all_reduce, all_reduce
        summed.start()
        for p, size in zip(bucket, (1.0, 10.0)):
            p.grad = torch.full_like(p, size * (rank + 1))
        summed.send(bucket)
        assert messages == [(10, True)], "all gradients go in one message, with async_op=True"
        assert not wait and len(summed.on_their_way) == 1, (
            "sending must not wait: the wait() of the message joins self.on_their_way")
        summed.missing = []
        summed.finish()
        assert (one.grad == 3).all() and (other.grad == 30).all(), (
            "after finish() .grad must be the sum over the ranks: a part of the message")
        assert one.grad.shape == (2, 3) and other.grad.shape == (4,), "parts have their shapes"
    on_ranks(work)


class Message:
    """A message on its way, which notes that someone has waited for it."""

    def __init__(self, work, waited):
        self.work, self.waited = work, waited

    def wait(self):
        self.waited.append(self.work.wait())


@pytest.mark.parametrize("bucket_bytes", [1, 40, 1 << 20])
def test_bucketed_equals_naive(bucket_bytes, explains):
    """Over an accumulation of three micro-batches, of which only the last sends anything."""
    def work(rank):
        torch.manual_seed(rank)
        batches = torch.randn(2, 3, 4, 3)  # steps, micro-batches
        models = [small_model(0), small_model(0)]
        summed = BucketedSum(make_buckets(models[1].parameters(), bucket_bytes))
        for step in batches:
            for i, x in enumerate(step):
                if i == 2:
                    summed.start()
                with explains("arrived() does nothing unless the sum is active"):
                    for model in models:
                        model(x).square().sum().backward()
            sum_gradients_naive(models[0].parameters())
            summed.finish()
            for a, b in zip(models[0].parameters(), models[1].parameters()):
                torch.testing.assert_close(a.grad, b.grad, msg=(
                    "after finish() each .grad must be the sum over all ranks"))
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
        summed = BucketedSum([parameters])
        summed.start()
        sum((rank + 1) * p.sum() for p in parameters).backward()
        summed.finish()
        one, other = (p.grad for p in parameters)
        assert one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
        assert (one == 3).all() and (other == 3).all() and one.shape == (2, 3)
    on_ranks(work)


# ---- a step ----
SMALL = dict(vocab_size=61, seq_len=8, n_layer=1, n_head=2, n_kv_head=2, d_model=16, d_ff=32)


@pytest.mark.parametrize("by_hand", [False, True])
def test_backward(by_hand):
    """Three micro-batches, of which the last one completes the step."""
    def work(rank):
        engine = DataParallel(GPT(GPTConfig(**SMALL)), Config(**SMALL, by_hand=by_hand))
        p, seen, messages = engine.model.head.weight, [], []
        sum_up = scale.dist.all_reduce
        scale.dist.all_reduce = lambda *how, **more: messages.append(1) or sum_up(*how, **more)
        p.register_hook(lambda gradient: seen.append(bool(engine.sums and engine.sums.active)))
        for last in (False, False, True):
            assert not messages, "before the last micro-batch of a step nothing is sent"
            engine.backward((rank + 1) * sum(p.sum() for p in engine.model.parameters()), last)
        assert seen == [False, False, not by_hand], (
            "buckets are sent during the last backward pass: start() comes before it")
        assert all((p.grad == 9).all() for p in engine.model.parameters()), (
            "after the last micro-batch .grad must be the sum over all of them and all ranks")
    on_ranks(work)


def windows(n, seed=0):
    ids = np.random.default_rng(seed).integers(0, 61, (n, 9))
    return ids[:, :-1], ids[:, 1:].copy()


@pytest.mark.parametrize("by_hand", [False, True])
def test_train_step(by_hand, explains):
    """Two ranks, 3 windows and 2, of which some are not to be learned: as one process with all."""
    config = Config(**SMALL, micro_batch=2, by_hand=by_hand)
    inputs, targets = windows(5)
    targets[0, :7] = targets[3] = -1
    alone = GPT(config.gpt(61))
    from optim import make_optimizer
    optimizer = make_optimizer(alone, config)
    expected = [train.train_step(alone, optimizer, (inputs, targets), step, config)
                for step in range(3)]

    def work(rank):
        model = GPT(config.gpt(61), seed=rank)
        engine = DataParallel(model, config)
        batch = inputs[rank::2], targets[rank::2]
        with explains("only the last micro-batch completes a step: last=True is for that one"):
            found = [train_step(engine, batch, step, config) for step in range(3)]
        return found, [p.tolist() for p in model.parameters()]
    for found, weights in on_ranks(work):
        for (loss, norm, stopped), (same_loss, same_norm) in zip(found, expected):
            assert loss == pytest.approx(same_loss, rel=1e-5), (
                "divide by the targets of all ranks' windows")
            assert norm == pytest.approx(same_norm, rel=1e-5) and stopped is False
        for a, b in zip(weights, alone.parameters()):
            torch.testing.assert_close(torch.tensor(a), b.detach(), rtol=1e-4, atol=1e-5)


def test_train_step_waits_for_the_device_once(host_reads):
    def work(rank):
        config = Config(**SMALL, micro_batch=1)
        engine = DataParallel(GPT(config.gpt(61)), config)
        with host_reads() as reads:
            train_step(engine, windows(3, rank), 0, config)
        return reads.n
    assert on_ranks(work) == [1, 1], "read the loss and the norm together"


def test_buckets_on_gpus(monkeypatch):
    """They are as large as those of torch's DistributedDataParallel."""
    spec = importlib.util.spec_from_file_location("scale_on_gpus", scale.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    spec.loader.exec_module(module)
    assert module.BUCKET_BYTES == 25 << 20 and scale.BUCKET_BYTES == 4 << 20
    assert module.make_buckets.__defaults__ == (25 << 20,)


def test_train_step_copies_batches_from_pinned_memory(monkeypatch):
    """Where the device is a GPU, and without waiting."""
    class OnGPU(Exception):
        pass

    def tensor(rows, pin_memory=False):
        class Copy:
            def to(self, device, non_blocking=False):
                raise OnGPU(pin_memory, device.type, non_blocking)
        return Copy()
    weight, batch = SimpleNamespace(device=torch.device("cuda")), windows(2)
    model = SimpleNamespace(embed=SimpleNamespace(weight=weight))
    monkeypatch.setattr(torch, "tensor", tensor)
    with pytest.raises(OnGPU) as found:
        train_step(SimpleNamespace(model=model), batch, 0, Config())
    assert found.value.args == (True, "cuda", True)


def test_train_step_with_no_target_and_with_one():
    """The loss is 0, not nan; and what the one target costs, which rank 1 has."""
    def work(rank):
        config = Config(**SMALL)
        engine, (inputs, targets) = DataParallel(GPT(config.gpt(61)), config), windows(2, rank)
        targets[:] = -1
        assert train_step(engine, (inputs, targets), 0, config)[:2] == (0, 0)
        targets[1, 2] = 5 if rank else -1
        expected = engine.loss(*map(torch.from_numpy, (inputs, targets))).sum().item()
        return train_step(engine, (inputs, targets), 0, config)[0], expected
    (found, _), (same, expected) = on_ranks(work)
    assert found == same == pytest.approx(expected, rel=1e-5)


def test_train_step_adds_up_losses_in_float64():
    def work(rank):
        engine, config = DataParallel(GPT(GPTConfig(**SMALL)), Config(**SMALL)), Config(**SMALL)
        loss, costs = engine.loss, 2.0**-40 if rank else 1.0
        engine.loss = lambda x, y: 0 * loss(x, y) + costs  # of two windows on each of two ranks
        return train_step(engine, windows(2, rank), 0, config)[0]
    assert on_ranks(work) == [(1 + 2**-40) / 2] * 2


def test_train_step_in_the_dtype_and_at_the_rates_that_were_asked_for():
    def work(rank):
        for dtype in ("float32", "bfloat16"):
            config, seen = Config(**SMALL, dtype=dtype, optimizer="muon", warmup=10), []
            engine = DataParallel(GPT(config.gpt(61)), config)
            loss = engine.loss

            def looking(x, y):
                seen.append(engine.model.head(torch.ones(1, 16)).dtype)
                return loss(x, y)
            engine.loss = looking
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # autocast to float32 does nothing, and warns
                train_step(engine, windows(2), 3, config)
            assert seen == [getattr(torch, dtype)]
            rates = [group["lr"] for group in engine.param_groups]
            assert rates == pytest.approx([0.4 * config.muon_lr, 0.4 * config.lr])
    on_ranks(work, 1)


def test_all_ranks_hear_of_a_stop():
    def work(rank):
        engine, config = DataParallel(GPT(GPTConfig(**SMALL)), Config(**SMALL)), Config(**SMALL)
        return [train_step(engine, windows(2, rank), step, config, stop=rank == 1 and step == 1)[2]
                for step in range(3)]
    assert on_ranks(work) == [[False, True, False]] * 2, (
        "when one rank is asked to stop, all must return that they are, in the same step")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_train_step_stops_at_what_is_not_finite(what):
    """All ranks, of which one has a loss or a gradient that is, before the weights are touched."""
    def work(rank):
        engine, config = DataParallel(GPT(GPTConfig(**SMALL)), Config(**SMALL)), Config(**SMALL)
        before = engine.model.head.weight.detach().clone()
        says, loss = "step 8: loss [0-9.]*, gradient norm (inf|nan)", engine.loss
        if what == "loss":
            says = "step 8: loss nan, gradient norm [0-9]"
            engine.loss = lambda x, y: loss(x, y) + (float("nan") if rank else 0)
        elif rank == 1:
            engine.model.head.weight.register_hook(lambda gradient: gradient * float("inf"))
        inputs, targets = windows(2, rank)
        targets[0, 3] = -1
        with pytest.raises(ValueError, match=says) as error:
            train_step(engine, (inputs, targets), 7, config)
        assert "unknown" not in str(error.value), "it says where that began"
        assert torch.equal(engine.model.head.weight, before)
    on_ranks(work)


# ---- whole runs ----
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture
def arguments(tmp_path):
    (tmp_path / "text").write_text("".join(f"{i} spam {i % 7} eggs\n" for i in range(2000)))
    return ["--preset", "nano", "--data", f"folder:{tmp_path / 'text'}", "--vocab-size", 300,
            "--steps", 20, "--save-every", 10, "--eval-every", 20, "--seq-len", 32,
            "--data-dir", tmp_path / "data", "--runs-dir", tmp_path / "runs", "--device", "cpu"]


def metrics(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if row.keys() & {"loss", "val_bits_per_byte"}]


@pytest.fixture
def ranks(fork, tmp_path, monkeypatch, quick_runs):
    """ranks(work): two processes that call work() as those that torchrun starts, when both have
    ended.
    """
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # a fork has one thread
    meet = torch.distributed.init_process_group

    numbers = itertools.count()

    def rank(i, number, work):
        os.environ |= {"RANK": str(i), "WORLD_SIZE": "2", "LOCAL_RANK": str(i),
                       "LOCAL_WORLD_SIZE": "2"}
        torch.distributed.init_process_group = lambda backend, timeout: meet(
            backend, init_method=f"file://{tmp_path}/store-{number}", rank=i, world_size=2)
        work()

    def start(work):
        number = next(numbers)
        both = [fork(functools.partial(rank, i, number, work)) for i in range(2)]
        for process in both:
            process.join(60)
            process.kill()
        return both
    return start


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2", "torch-ddp", "fsdp2"])
def test_two_ranks_fine_tune_as_one(engine, arguments, tmp_path, ranks):
    """Packed conversations: windows that differ in how much of them is to be learned, 5 of them for
    2 ranks where an engine can deal 5.
    """
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps({"turns": [f"{i} spam?", "eggs" * (i % 3 + 1)]}) + "\n"
                             for i in range(300)))
    given = [*map(str, arguments), "--batch-size", "5" if engine == "ddp" else "4", "--steps",
             "6", "--micro-batch", "1", "--sampling", "conversations", "--seq-len", "64",
             "--data", f"jsonl:{chats}"]
    train.main([*given, "--name", "one"])
    for rank in ranks(lambda: main([*given, "--name", "two", "--engine", engine])):
        assert rank.exitcode == 0, rank.log.read_text()
    one, two = (metrics(tmp_path / "runs" / name) for name in ("one", "two"))
    assert len(one) == len(two) > 6
    for a, b in zip(one, two):
        for key in a.keys() & {"loss", "grad_norm", "val_bits_per_byte"}:
            assert a[key] == pytest.approx(b[key], abs=1e-5), f"step {a['step']}, {key}"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "zero2", "fsdp2"])
def test_two_ranks_learn_from_rewards_as_one(engine, arguments, tmp_path, ranks, monkeypatch):
    """Each process writes the answers to its own questions: those that one process would write.
    An odd sum of ids is right here, so that there is something to learn.
    """
    sums = tmp_path / "sums.jsonl"
    sums.write_text("".join(json.dumps({"turns": [f"{i}+1", f"#### {i + 1}"]}) + "\n"
                            for i in range(300)))
    write = rl.Batches.answers

    def judged(self, questions, seeds):
        groups, _ = write(self, questions, seeds)
        return groups, np.array([[float(sum(one.ids) % 2) for one in group] for group in groups])
    monkeypatch.setattr(rl.Batches, "answers", judged)
    given = [*map(str, arguments), "--batch-size", "8", "--group", "4", "--answer-tokens", "9",
             "--micro-batch", "2", "--steps", "4", "--sampling", "answers", "--seq-len", "32",
             "--eval-every", "2", "--eval-tokens", "200", "--last-eval-tokens", "200",
             "--data", f"jsonl:{sums}"]
    if engine == "ddp":
        given += ["--by-hand"]
    train.main([*given, "--name", "one"])
    both = ranks(lambda: main([*given, "--name", "two", "--engine", engine]))
    if engine == "fsdp2":
        assert "fsdp2 can't do" in both[0].log.read_text()
        return
    assert [rank.exitcode for rank in both] == [0, 0], both[0].log.read_text()
    one, two = (metrics(tmp_path / "runs" / name) for name in ("one", "two"))
    assert len(one) == len(two) > 4
    for a, b in zip(one, two):
        for key in a.keys() & {"loss", "grad_norm", "val_bits_per_byte", "pass@1", "pass@4"}:
            assert a[key] == pytest.approx(b[key], abs=1e-5), f"step {a['step']}, {key}"
    assert any(row.get("loss") for row in one), "something was learned"


@pytest.mark.slow
def test_two_ranks_equal_one_process(arguments, tmp_path, command, ranks):
    """Over 20 steps, to 1e-5: with 5 windows for 2 ranks (3 and 2), micro-batches of 2, and
    conversations in between, of which not all is to be learned; matrices by Muon, all else by
    AdamW.
    """
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps({"turns": [f"{i} spam?", "eggs"]}) + "\n"
                             for i in range(300)))
    batch = ["--batch-size", 5, "--micro-batch", 2, "--sampling", "bestfit",
             "--optimizer", "muon", "--data", f"folder:{tmp_path / 'text'}", f"jsonl:{chats}"]
    arguments = [str(a) for a in (*arguments, *batch)]
    train.main([*arguments, "--name", "one"])
    done = command("scale", *arguments, "--name", "two", launcher=TORCHRUN)
    assert done.stdout.count("this model") == 1, "only rank 0 prints"
    one, two = (metrics(tmp_path / "runs" / name) for name in ("one", "two"))
    assert len(one) == len(two) == 23
    for a, b in zip(one, two):
        for key in a.keys() & {"loss", "grad_norm", "val_bits_per_byte"}:
            assert a[key] == pytest.approx(b[key], abs=1e-5), f"step {a['step']}, {key}"

    # a run of two ranks goes on in one process, and the other way round
    resumed = [*arguments, "--resume", "--steps", "22"]
    train.main([*resumed, "--name", "two"])
    for rank in ranks(lambda: main([*resumed, "--name", "one"])):
        assert rank.exitcode == 0, rank.log.read_text()
    one, two = ([m["loss"] for m in metrics(tmp_path / "runs" / name) if "loss" in m][-1]
                for name in ("one", "two"))
    assert one == pytest.approx(two, abs=1e-5)


@pytest.mark.slow
def test_wrong_input_ends_all_ranks(arguments, ranks):
    both = ranks(lambda: main([*map(str, arguments), "--data", "nowhere"]))
    said = "".join(rank.log.read_text() for rank in both)
    assert [rank.exitcode for rank in both] == [2, 2], said
    assert said.count("error: there is no source 'nowhere'") == 1, said


@pytest.mark.slow
def test_the_group_is_gone_at_the_end(arguments):
    """With its threads: one that is left over may abort the process while Python shuts down."""
    program = f"""
import os, sys
sys.path[:0] = {[p for p in sys.path if p]!r}
import beside
from scale import main
beside.Beside.redraw = lambda self: None
beside.page = lambda *what: None
main(sys.argv[1:])
tasks = "/proc/self/task"
print(*(open(f"{{tasks}}/{{task}}/comm").read().strip() for task in os.listdir(tasks)), sep=",")
"""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    environment = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
                   "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", program, *map(str, arguments), "--steps", "1"],
                          capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "gloo" not in done.stdout.splitlines()[-1], done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_without_torchrun_one_process_trains(arguments, tmp_path, fork):
    process = fork(lambda: main(["--recompute", "hand", *map(str, arguments), "--steps", "2"]))
    process.join()
    assert process.exitcode == 0, process.log.read_text()
    assert metrics(tmp_path / "runs" / "nano")[-1]["step"] == 2


# ---- the other engines ----
@pytest.fixture(scope="module")
def alone(tmp_path_factory, quick_runs):
    """alone(optimizer): (the options of a run, its folder), made by one process. Steps have 16
    windows, micro-batches 2, so that all engines accumulate; the schedule has no end.
    """
    folder, found = tmp_path_factory.mktemp("alone"), {}
    (folder / "text").write_text("".join(f"{i} spam {i % 7} eggs\n" for i in range(1000)))

    def made(optimizer):
        words = ["--preset", "nano", "--data", f"folder:{folder / 'text'}", "--vocab-size", "300",
                 "--seq-len", "32", "--batch-size", "16", "--micro-batch", "2", "--eval-every",
                 "100", "--schedule", "inverse-sqrt", "--warmup", "3", "--optimizer", optimizer,
                 "--bigrams", "5",
                 "--data-dir", str(folder / "data"), "--runs-dir", str(folder), "--device", "cpu"]
        if optimizer not in found:
            found[optimizer] = folder / optimizer
            train.main([*words, "--steps", "8", "--name", optimizer])
        return words, found[optimizer]
    return made


def assert_same_curve(one, two, tolerance=1e-5):
    one, two = ({(row["step"], key): row[key] for row in metrics(folder)
                 for key in row.keys() & {"loss", "grad_norm", "val_bits_per_byte"}}
                for folder in (one, two))
    assert one.keys() == two.keys()
    for step, key in one:
        assert two[step, key] == pytest.approx(one[step, key], abs=tolerance), f"{key}, {step}"


@pytest.mark.slow
@pytest.mark.parametrize("optimizer, engine, recompute", [
    ("muon", "zero1", "hand"), ("muon", "zero2", "none"), ("adamw", "zero2", "none"),
    ("muon", "torch-ddp", "none"), ("adamw", "fsdp2", "torch")])
def test_engines_train_what_one_process_trains(alone, ranks, optimizer, engine, recompute):
    """Four steps on two ranks, then four in one process, which are as eight of one process."""
    words, whole = alone(optimizer)
    words = [*words, "--name", f"{optimizer}-{engine}"]
    for rank in ranks(lambda: main(["--engine", engine, "--recompute", recompute, *words,
                                      "--steps", "4", "--save-every", "4"])):
        assert rank.exitcode == 0, rank.log.read_text()
    train.main([*words, "--steps", "8", "--resume"])
    folder = whole.with_name(f"{optimizer}-{engine}")
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    halfway = [row for row in rows if '"step": 4,' in row and "bits_per_byte" in row]
    kept = [row for row in rows if row not in halfway]
    (folder / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    assert_same_curve(whole, folder)


@pytest.mark.slow
@pytest.mark.parametrize("engine, more", [
    ("ddp", ["--by-hand"]), ("ddp", ["--no-by-hand"]), ("zero2", ["--recompute", "hand"]),
    ("torch-ddp", []), ("fsdp2", ["--no-by-hand"])], ids=str)
def test_two_ranks_train_adapters(alone, ranks, tmp_path, engine, more):
    """As one process does; of frozen weights no engine expects gradients."""
    words, base = alone("adamw")
    given = [*words, "--init", str(base), "--lora", "4", "--lr", "0.01", "--runs-dir",
             str(tmp_path), "--steps", "3"]
    train.main([*given, "--name", "one", *(w for w in more if "by-hand" in w)])
    for rank in ranks(lambda: main([*given, "--name", "two", "--engine", engine, *more])):
        assert rank.exitcode == 0, rank.log.read_text()
    assert_same_curve(tmp_path / "one", tmp_path / "two")
    before, one, two = ({path.name: np.load(path) for path in sorted(newest_checkpoint(
        folder).glob("weights/*.npy"))} for folder in (base, tmp_path / "one", tmp_path / "two"))
    assert one.keys() == two.keys() > before.keys()
    for name in two:
        assert np.allclose(two[name], one[name], atol=1e-5), name
        assert name not in before or np.array_equal(two[name], before[name]), f"{name} is frozen"
    train.main([*given, "--name", "two", "--resume", "--steps", "4"])
    assert newest_checkpoint(tmp_path / "two").name == "step-000004"


@pytest.mark.slow
def test_one_checkpoint_for_all_engines(alone, ranks, capsys):
    """Begun by one process, gone on with by two, whose ranks divide all; sample.py reads it. Both
    keep snapshots.
    """
    words, whole = alone("adamw")
    words = [*words, "--snapshots", "3"]
    train.main([*words, "--name", "begun", "--steps", "4", "--save-every", "4"])
    for rank in ranks(lambda: main(["--engine", "fsdp2", *words, "--name", "begun", "--steps",
                                      "8", "--resume"])):
        assert rank.exitcode == 0, rank.log.read_text()
    one, two = (metrics(folder)[-1] for folder in (whole, whole.with_name("begun")))
    assert two["val_bits_per_byte"] == pytest.approx(one["val_bits_per_byte"], abs=1e-5)
    assert two["sample"], "all ranks have written it together"
    kept, newest = weights_of(folder := whole.with_name("begun")), newest_checkpoint(folder)
    assert [*kept] == [1, 2, 4, 8] and kept[8] != newest
    files, others = ([file.read_bytes() for file in sorted((path / "weights").iterdir())]
                     for path in (kept[8], newest))
    assert files == others, "a snapshot has the weights of the checkpoint of its step"
    capsys.readouterr()
    sample.main(["--run", "begun", "--runs-dir", str(whole.parent), "--tokens", "5",
                 "--prompt", "7 spam", "--temperature", "0"])
    assert "7 spam" in capsys.readouterr().out


@pytest.mark.slow
def test_float16_with_a_scaled_loss(alone, ranks):
    words, whole = alone("muon")
    words = [*words, "--name", "half", "--steps", "8", "--dtype", "float16"]
    for rank in ranks(lambda: main(["--engine", "zero2", *words])):
        assert rank.exitcode == 0, rank.log.read_text()
    assert_same_curve(whole, whole.with_name("half"), tolerance=0.05)
    state = torch.load(newest_checkpoint(whole.with_name("half")) / "state.pt", weights_only=True)
    assert state["scaler"]["good"] > 0, "what the scaler has learned is remembered"


@pytest.mark.slow
def test_what_an_engine_can_not_do(alone, ranks):
    words, _ = alone("muon")
    for changes, expected in ((["--engine", "fsdp2"], "Muon needs whole matrices"),
                              (["--engine", "zero2", "--batch-size", "15"], "dealt evenly"),
                              (["--batch-size", "1"], "too few windows for 2 processes")):
        both = ranks(lambda: main([*words, *changes]))
        said = "".join(rank.log.read_text() for rank in both)
        assert [rank.exitcode for rank in both] == [2, 2] and said.count(expected) == 1, said


# ---- what can happen ----
@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others(alone, ranks, tmp_path, monkeypatch):
    """Within seconds; and a restart ends as if nothing had happened."""
    words, whole = alone("muon")
    words = [*words, "--name", "killed", "--steps", "8", "--save-every", "2"]
    step_of_all = scale.train_step

    def die(engine, batch, step, *rest):
        if step == 5 and torch.distributed.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step_of_all(engine, batch, step, *rest)
    monkeypatch.setattr(scale, "train_step", die)
    start = time.monotonic()
    first, second = ranks(lambda: main(words))
    assert time.monotonic() - start < 60
    assert second.exitcode == -signal.SIGKILL and first.exitcode != 0
    monkeypatch.setattr(scale, "train_step", step_of_all)
    folder = whole.with_name("killed")
    assert newest_checkpoint(folder).name == "step-000004"
    for rank in ranks(lambda: main([*words, "--resume"])):
        assert rank.exitcode == 0, rank.log.read_text()
    losses = [{row["step"]: row["loss"] for row in metrics(f) if "loss" in row}
              for f in (whole, folder)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


@pytest.mark.slow
def test_ranks_that_were_started_otherwise(alone, ranks):
    """Noticed at once, before anything is made, and before options are understood; all end, and the
    first says in a line what differs.
    """
    words, whole = alone("muon")
    words = [*words, "--name", "mixed"]
    for options, differ in (((["--engine", "ddp"], ["--engine", "zero9"]), "ddp, zero9"),
                            ((["--seed", "1"], []), "--seed, 1")):
        start = time.monotonic()
        both = ranks(lambda: main([*options[int(os.environ["RANK"])], *words]))
        said = "".join(rank.log.read_text() for rank in both)
        assert [rank.exitcode for rank in both] == [2, 2] and time.monotonic() - start < 60, said
        assert said == ("error: give all ranks the same command and PyTorch; they differ in "
                        f"{differ}\n"), said
    assert not whole.with_name("mixed").exists()
