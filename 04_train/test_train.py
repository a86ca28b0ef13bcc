"""Tests of train.py: the parts of a step, then whole runs, interrupted in every way."""

import json
import math
import os
import resource
import shutil
import signal
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import beside
import length
import train as module
from bpe import Tokenizer
from budget import flops_per_token, training_memory
from console import holding, run
from data import Ids, prepare, token_bytes
from gpt import GPT, GPTConfig
from optim import learning_rate, make_optimizer
from runs import (best_checkpoint, load_run, load_state, newest_checkpoint, read_config,
                  read_run, run_data, save_checkpoint, start_run, step_of, tensors, write_config)
from train import (PRESETS, Config, evaluate, main, read_command_line, score, train,
                   train_step)
from weights import export

SMALL = GPTConfig(vocab_size=61, seq_len=16, n_layer=2, n_head=2, n_kv_head=1, d_model=32, d_ff=64)


def random_model(config=SMALL, seed=0):
    model = GPT(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model


def random_ids(*shape, seed=0):
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


# ---- a step ----
class Recorder:
    """Stands for an optimizer, and keeps the gradients that it was to step by."""

    def __init__(self, model):
        self.model, self.param_groups = model, []

    def step(self):
        self.gradients = [p.grad.clone() for p in self.model.parameters()]

    def zero_grad(self):
        self.model.zero_grad()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 6])
def test_micro_batches_give_the_gradients_of_one_big_batch(micro_batch, masked):
    """Also when they hold different numbers of targets."""
    model, ids, targets = random_model(), random_ids(6, 16), random_ids(6, 16, seed=1)
    if masked:
        targets[0, :15] = targets[1] = targets[4, 3] = -1
    expected = model.loss(ids, targets).sum() / (targets >= 0).sum()
    expected.backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    config, recorder = Config(micro_batch=micro_batch, grad_clip=1e9), Recorder(model)
    mean, norm = train_step(model, recorder, (ids.numpy(), targets.numpy()), 0, config)
    assert mean == pytest.approx(expected.item(), rel=1e-5), (
        "divide each micro-batch's sum by the targets of the whole batch")
    for a, b in zip(recorder.gradients, gradients):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    whole = torch.cat([gradient.flatten() for gradient in gradients])
    assert norm == pytest.approx(whole.norm().item(), rel=1e-5)
    assert all(p.grad is None for p in model.parameters()), "call zero_grad() in the end"


def test_a_batch_without_targets_changes_nothing_into_nan(explains):
    model, ids = random_model(), random_ids(2, 16).numpy()
    targets = np.full_like(ids, -1)
    with explains("without a target the sum is divided by 1, not by 0"):
        mean, norm = train_step(model, Recorder(model), (ids, targets), 0, Config())
        assert mean == norm == 0, "without a target there is no loss, and no gradient"
    assert type(mean) is type(norm) is float, "the loss and the norm are floats, not tensors"
    targets[1, 2] = 5
    mean, _ = train_step(model, Recorder(model), (ids, targets), 0, Config())
    nats = model.loss(torch.from_numpy(ids), torch.from_numpy(targets))
    assert mean == pytest.approx(nats[1, 2].item(), rel=1e-5), "one target is divided by 1"


def test_train_step():
    """The rate of the schedule, the gradients clipped, one AdamW step, gradients cleared."""
    config = Config(lr=0.01, warmup=10, grad_clip=0.05, micro_batch=2, weight_decay=0.0)
    model, twin = random_model(), random_model()
    ids = random_ids(4, 17).numpy()
    batch = ids[:, :-1], ids[:, 1:]
    loss, norm = train_step(model, make_optimizer(model, config), batch, 3, config)
    x, y = (torch.from_numpy(rows) for rows in batch)
    expected = twin.loss(x, y).mean()
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    whole = torch.cat([p.grad.flatten() for p in twin.parameters()])
    assert norm == pytest.approx(whole.norm().item(), rel=1e-4) and norm > 0.05
    for a, b in zip(model.parameters(), twin.parameters()):
        clipped = b.grad * 0.05 / norm
        step = -0.004 * clipped / (clipped.abs() + 1e-8)  # AdamW's first step; rate 0.01 * 4 / 10
        torch.testing.assert_close(a - b, step, rtol=1e-2, atol=1e-5, msg=(
            "after one step the weights are not where they should be: are gradients clipped, is "
            "each group's lr set by the schedule, and is the step taken?"))


def test_train_step_gives_each_group_its_rate():
    """One schedule, and each group's own peak."""
    config = Config(optimizer="muon", lr=0.01, muon_lr=0.5, warmup=10, steps=100)
    model, ids = random_model(), random_ids(2, 16).numpy()
    optimizer = make_optimizer(model, config)
    for step, share in ((3, 0.4), (20, 1.0), (75, 0.5)):
        train_step(model, optimizer, (ids, ids), step, config)
        found = [group["lr"] for group in optimizer.param_groups]
        assert found == pytest.approx([0.5 * share, 0.01 * share]), (
            f"step {step}: each group's lr is its own scale times learning_rate(step, config)")


def test_train_step_computes_in_the_dtype_that_was_asked_for():
    for dtype in ("float32", "bfloat16"):
        seen, model, ids = [], random_model(), random_ids(1, 16).numpy()

        def loss(x, y):
            seen.append(model.head(torch.ones(1, 32)).dtype)
            return model.loss(x, y)
        config = Config(dtype=dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # autocast to float32 does nothing, and warns
            train_step(model, make_optimizer(model, config), (ids, ids), 0, config, loss)
        assert seen == [getattr(torch, dtype)], (
            f"the forward pass must run under torch.autocast in config.dtype, here {dtype}")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_train_step_waits_for_the_device_once(optimizer, host_reads):
    """However many micro-batches there are: a GPU has work to do while the next are prepared."""
    config, model = Config(optimizer=optimizer, micro_batch=1), random_model()
    moved_by, ids = make_optimizer(model, config), random_ids(5, 16).numpy()
    for step in range(2):
        with host_reads() as reads:
            train_step(model, moved_by, (ids, ids), step, config)
        assert reads.n == 1, "read the loss and the norm together, after the last micro-batch"


def test_train_step_copies_batches_from_pinned_memory(monkeypatch):
    """Where the device is a GPU, and without waiting."""
    class OnGPU(Exception):
        pass

    def tensor(rows, pin_memory):
        class Copy:
            def to(self, device, non_blocking):
                raise OnGPU(pin_memory, device.type, non_blocking)
        return Copy()
    ids, weight = random_ids(2, 16).numpy(), SimpleNamespace(device=torch.device("cuda"))
    model = SimpleNamespace(embed=SimpleNamespace(weight=weight))
    monkeypatch.setattr(torch, "tensor", tensor)
    with pytest.raises(OnGPU) as found:
        train_step(model, None, (ids, ids), 0, Config(), loss=torch.add)
    assert found.value.args == (True, "cuda", True)


def test_train_step_stops_at_what_is_not_finite():
    """Before the weights are touched."""
    model, ids = random_model(), random_ids(2, 16).numpy()
    with torch.no_grad():
        model.blocks[1].mlp.up.weight[3, 4] = math.inf
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="^step 8: loss nan"):
        train_step(model, make_optimizer(model, Config()), (ids, ids), 7, Config())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before))

    model, targets = random_model(), ids.copy()
    targets[0, 3] = -1
    batch, optimizer = (ids, targets), make_optimizer(model, Config())
    before = model.head.weight.detach().clone()
    with pytest.raises(ValueError, match="^step 8: loss nan, gradient norm [0-9]"):
        train_step(model, optimizer, batch, 7, Config(),
                   lambda x, y: model.loss(x, y) + math.nan)  # whose gradients are as they were
    model.zero_grad()
    model.head.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(ValueError, match="^step 8: loss [0-9.]*, gradient norm (inf|nan)"):
        train_step(model, optimizer, batch, 7, Config())
    assert torch.equal(model.head.weight, before)


# ---- evaluation ----
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("n", [2, 9, 16, 17, 18, 100])
def test_score(n, world):
    """As one window after the other; a sum over processes that call the model equally often."""
    model, ids = random_model().eval(), random_ids(n).numpy().astype(np.uint16)  # as in a file
    expected = []
    for start in range(0, n - 1, 16):
        window = torch.tensor(ids[start:start + 17].astype(np.int64))[None]
        expected += model.loss(window[:, :-1], window[:, 1:]).flatten().tolist()
    calls, loss, found = [], model.loss, 0
    for rank in range(world):
        calls.append(0)

        def count(inputs, targets):
            calls[-1] += len(inputs)
            assert len(inputs) <= 2, "that many windows at a time"
            return loss(inputs, targets)
        model.loss = count
        found = found + score(model, ids, batch_size=2, rank=rank, world=world)
    assert found == pytest.approx(np.array(expected), rel=1e-5), (
        "every id but the first is scored once, and by one process")
    least = math.ceil((n - 1) / 16 / world)
    assert calls == [least] * world, (
        "a model that is divided over processes needs as many windows from each")


def test_score_of_spans(explains):
    """Some windows only, of which the first predictions may be left out."""
    model, ids = random_model().eval(), random_ids(60).numpy()
    with explains("what a window predicts belongs at start + skip and behind, to the text's end"):
        found = score(model, ids, [(0, 0), (8, 8), (40, 3)])
    window = torch.from_numpy(ids[8:25])[None]
    expected = model.loss(window[:, :-1], window[:, 1:])[0].detach().numpy()
    assert found[16:24] == pytest.approx(expected[8:], rel=1e-5), (
        "what a window predicts after its first `skip` ids belongs at start + skip and behind")
    assert (found[24:43] == 0).all() and (found[43:56] > 0).all() and (found[56:] == 0).all(), (
        "an id that no window scores must have 0, and no other id")


def test_evaluate_spoiled_weights():
    """The last step before an evaluation can spoil them: then they are not saved."""
    model = random_model().eval()
    with torch.no_grad():
        model.head.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="costs nan bits per byte: the weights are spoiled"):
        evaluate(model, Ids(random_ids(50).numpy()), [1] * 61, Config())


def test_evaluate_on_a_part():
    """Windows spread evenly: here every third of the seven, and what they score counts, alone."""
    model, ids, sizes = random_model().eval(), Ids(random_ids(7 * 16 + 1).numpy()), [1] * 61
    nats = score(model, ids.read(0, 113))
    part = np.concatenate([nats[0:16], nats[48:64], nats[96:112]])
    whole, config = nats.mean() / math.log(2), Config()
    assert evaluate(model, ids, sizes, config, 40) == pytest.approx(part.mean() / math.log(2))
    assert evaluate(model, ids, sizes, config) == pytest.approx(whole)


@pytest.mark.parametrize("micro_batch, batch_size, world, expected", [
    (3, 8, 1, 3), (8, 2, 1, 2), (8, 8, 4, 2)])
def test_evaluate_takes_no_more_windows_than_a_step(micro_batch, batch_size, world, expected):
    """And the result is the same however many they are, up to the rounding of float32."""
    model, ids, sizes = random_model().eval(), Ids(random_ids(7 * 16 + 1).numpy()), [1] * 61
    whole, loss, seen = evaluate(model, ids, sizes, Config()), model.loss, []

    def count(x, y):
        seen.append(len(x))
        return loss(x, y)
    model.loss = count
    config = Config(micro_batch=micro_batch, batch_size=batch_size)
    found = [score(model, ids, None, expected, "float32", rank, world) for rank in range(1, world)]
    bits = evaluate(model, ids, sizes, config, world=world,
                    total=lambda nats: sum(found, start=nats))
    assert max(seen) == expected and bits == pytest.approx(whole, rel=1e-5)


def test_score_computes_in_the_dtype_that_was_asked_for():
    for dtype in ("float32", "bfloat16"):
        model, seen, config = random_model().eval(), [], Config(dtype=dtype)
        model.head.register_forward_hook(lambda head, x, y: seen.append(y.dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of an autocast to float32
            nats = score(model, random_ids(40).numpy(), dtype=dtype)
            evaluate(model, Ids(random_ids(40).numpy()), [1] * 61, config)
        assert {*seen} == {getattr(torch, dtype)} and nats.dtype == np.float64, (
            f"the forward pass of {dtype} belongs under torch.autocast, as in train_step()")


@pytest.mark.parametrize("most", [40, None])
def test_evaluate_on_many_processes(most):
    """Each scores its share of the windows that one process would score; the sum is the same."""
    model, ids, sizes = random_model().eval(), Ids(random_ids(7 * 16 + 1).numpy()), [1] * 61
    alone, shares = evaluate(model, ids, sizes, Config(), most), []
    for rank in range(3):  # what each gives to total()
        evaluate(model, ids, sizes, Config(), most, rank, 3,
                 lambda nats: shares.append(nats) or nats)
    found = evaluate(model, ids, sizes, Config(), most, 1, 3, lambda nats: sum(shares))
    assert found == pytest.approx(alone), (
        "the windows are chosen first, then divided, and what they cost is added up")


# ---- whole runs ----
@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(4):
        lines = (f"line {j} of {i}: {'spam ' * (j % 5)}eggs\n" for j in range(300))
        (folder / f"{i}.txt").write_text("".join(lines))
    return folder


def command_line(text, runs_dir):
    """Of a run that takes a second; its data are made once."""
    return ["--preset", "nano", "--data", f"folder:{text}", "--vocab-size", "300", "--steps", "12",
            "--n-layer", "1", "--seq-len", "32", "--batch-size", "4", "--save-every", "4",
            "--eval-every", "6", "--eval-tokens", "200", "--data-dir", str(text.parent / "data"),
            "--runs-dir", str(runs_dir), "--device", "cpu"]


@pytest.fixture
def arguments(text, tmp_path):
    return command_line(text, tmp_path / "runs")


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_times(rows):
    """All that is the same when a run is done again."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows
            if "environment" not in row]


def losses(rows):
    return [row["loss"] for row in rows if "loss" in row]


def same(a, b):
    """Whether two trees of dicts and lists are equal, their tensors bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def same_files(a, b):
    """Whether two checkpoints hold the same: weights, optimizer, loader, random numbers, but not
    how long it took.
    """
    weights = [{p.name: p.read_bytes() for p in (c / "weights").iterdir()} for c in (a, b)]
    assert weights[0] == weights[1], "the weights differ"
    states = [load_state(c) | {"seconds": 0} for c in (a, b)]
    for key in states[0] | states[1]:
        assert same(*(state[key] for state in states)), f"the state of the {key} differs"
    return (a / "val.json").read_text() == (b / "val.json").read_text()


def leave_out(monkeypatch):
    """Pictures take a second each, and how fast the machine is half of one; where they are not what
    is tested, they are left out.
    """
    monkeypatch.setattr(beside.Beside, "redraw", lambda self: None)
    monkeypatch.setattr(beside, "page", lambda folders, path: None)
    monkeypatch.setattr(length, "matmul_peak", lambda device, dtype: 1e11)


@pytest.fixture
def quick(monkeypatch):
    leave_out(monkeypatch)


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """The runs_dir of a run that has come to its end."""
    runs_dir = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out(monkeypatch)
        main(command_line(text, runs_dir))
    return runs_dir


@pytest.fixture
def nano(finished, tmp_path):
    """The folder of a copy of it, where `arguments` find it."""
    return shutil.copytree(finished, tmp_path / "runs") / "nano"


@pytest.mark.slow
def test_a_run_leaves_everything_behind(arguments, tmp_path, capsys, monkeypatch):
    main(arguments)
    out, folder = capsys.readouterr().out, tmp_path / "runs" / "nano"
    for word in ("a sample", "this model", "uniform", "unigram", "zlib -9", "lzma -9"):
        assert word in out
    assert {p.name for p in folder.iterdir()} == {
        ".lock", ".name", "config.json", "tokenizer.json", "checkpoints", "metrics.jsonl",
        "loss.png", "report.html"}
    rows = metrics(folder)
    assert [m["step"] for m in rows if "loss" in m] == list(range(1, 13))
    first, last = losses(rows)[0], losses(rows)[-1]
    assert first == pytest.approx(math.log(300), rel=0.01)
    assert last < 0.9 * first, "it learned something"
    config = read_config(folder)
    assert out.count(" moves ") == 2, "what moves what"
    assert [m["lr"] for m in rows if "loss" in m] == [learning_rate(s, config) for s in range(12)]
    data = prepare(config.data, config.vocab_size, config.data_dir, by_hand=config.by_hand)
    expected = evaluate(load_run(folder)[0], data.val, token_bytes(data.tokenizer), config)
    assert rows[-1]["val_bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    model, tokenizer, config, step = load_run(folder)
    assert step == 12 and model.config.vocab_size == tokenizer.vocab_size == 300
    printed = float(out.split("this model")[1].split()[0])
    assert printed == pytest.approx(rows[-1]["val_bits_per_byte"], abs=1e-3)

    leave_out(monkeypatch)
    main(arguments)  # again: another run, the same data, the same numbers
    assert "made earlier" in capsys.readouterr().out
    again = tmp_path / "runs" / "nano-2"
    assert without_times(metrics(again)) == without_times(rows)
    assert same_files(newest_checkpoint(folder), newest_checkpoint(again))


ACROSS_AN_EPOCH = ["--sampling", "stream", "--batch-size", "32", "--seq-len", "64"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("optimizer, sampling", [("adamw", []), ("muon", ACROSS_AN_EPOCH)])
def test_stopping_and_resuming_is_as_if_nothing_had_happened(arguments, tmp_path, optimizer,
                                                             sampling, monkeypatch):
    """6 + 6 steps = 12 steps, bit for bit: weights, moments, loader, random numbers, metrics. Of a
    model that draws as it trains, as one with dropout would.
    """
    loss = GPT.loss
    monkeypatch.setattr(GPT, "loss", lambda self, ids, targets, **how: loss(
        self, ids, targets, **how) * (0.5 + torch.rand(()) if torch.is_grad_enabled() else 1))
    arguments += ["--optimizer", optimizer, "--schedule", "cosine", *sampling]
    main(arguments)
    whole = tmp_path / "runs" / "nano"

    config, calls = read_config(whole), []
    halves = start_run(tmp_path / "runs", "halves")
    data = prepare(config.data, config.vocab_size, config.data_dir, by_hand=config.by_hand)
    write_config(halves, config, data)

    def interrupted(*arguments):  # by Ctrl-C, in the sixth step
        calls.append(1)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGINT)
        return train_step(*arguments)
    monkeypatch.setattr(module, "train_step", interrupted)
    assert train(config, halves, data) is None
    monkeypatch.setattr(module, "train_step", train_step)
    assert newest_checkpoint(halves).name == "step-000006"
    if sampling:
        first, last = (load_state(newest_checkpoint(run))["loader"]["samplers"][0]
                       for run in (halves, whole))
        assert first["epoch"] < last["epoch"], "no epoch began on the way"
    main([*arguments, "--name", "halves", "--resume"])
    assert same_files(newest_checkpoint(whole), newest_checkpoint(halves))
    assert without_times(metrics(whole)) == without_times(metrics(halves))
    main([*arguments, "--name", "halves", "--resume"])  # finished: the result once more
    assert without_times(metrics(whole)) == without_times(metrics(halves))


@pytest.fixture(scope="module")
def long_run(text, tmp_path_factory):
    """(its command line, its folder), of a run over several epochs that nothing interrupted. From
    here on with one thread: a fork does not get the others.
    """
    runs_dir, threads = tmp_path_factory.mktemp("long"), torch.get_num_threads()
    arguments = [*command_line(text, runs_dir), *ACROSS_AN_EPOCH, "--batch-size", "16", "--steps",
                 "40", "--eval-every", "20", "--optimizer", "muon"]
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as monkeypatch:
        leave_out(monkeypatch)
        main([*arguments, "--name", "whole"])
    yield arguments, runs_dir / "whole"
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("quick")
@pytest.mark.slow
@pytest.mark.parametrize("signal_name, moment", [("SIGKILL", "early"), ("SIGKILL", "late"),
                                                 ("SIGTERM", "late"), ("SIGINT", "late")])
def test_kill_and_resume(long_run, signal_name, moment, fork):
    """However it is ended, wherever it is, --resume ends as a run that nothing has interrupted."""
    arguments, whole = long_run
    folder = whole.parent / f"{signal_name}-{moment}"
    arguments = [*arguments, "--name", folder.name]
    def slow_steps():  # so that there is time to end it
        module.train_step = lambda *args: (time.sleep(0.05), train_step(*args))[1]
        main(arguments)
    process = fork(slow_steps)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if moment == "early" and (folder / "config.json").exists() or (
                moment == "late" and newest_checkpoint(folder)):
            break
        time.sleep(0.01)
    os.kill(process.pid, getattr(signal, signal_name))
    process.join(30)
    process.kill()
    newest = newest_checkpoint(folder)
    assert newest is None or step_of(newest) < 40, "it was to be ended on its way"
    assert newest is not None or moment == "early"
    if signal_name != "SIGKILL":
        last = metrics(folder)[-1]["step"]
        assert f"stopped after step {last}, which is saved" in process.log.read_text()
        assert newest.name == f"step-{last:06}" and (
            process.exitcode == 128 + getattr(signal, signal_name))
    main([*arguments, "--resume"])
    assert without_times(metrics(folder)) == without_times(metrics(whole))
    assert same_files(newest_checkpoint(folder), newest_checkpoint(whole))
    assert same_files(best_checkpoint(folder), best_checkpoint(whole))


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_best_checkpoint_is_kept(arguments, tmp_path, monkeypatch):
    """Of those that are saved: a better value at a step that isn't saved is only reported."""
    values = {2: 3.0, 4: 1.0, 5: 0.5, 6: 2.0, 8: 1.5, 10: 1.5, 12: 2.0}
    coming = iter([*values.values(), 9.0])
    monkeypatch.setattr(module, "evaluate", lambda *args: next(coming))
    main([*arguments, "--save-every", "2", "--eval-every", "5", "--keep", "1"])
    folder = tmp_path / "runs" / "nano"
    seen = {m["step"]: m["val_bits_per_byte"] for m in metrics(folder)[:-1]
            if "val_bits_per_byte" in m}
    assert seen == values, "evaluated every 5 steps, and with every checkpoint"
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"step-000004", "step-000012"}
    assert best_checkpoint(folder).name == "step-000004"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_file_that_cannot_grow_spoils_nothing(arguments, nano, capsys):
    """A limit for the size of files, as if the disk were full: one line, and nothing is lost."""
    newest, limits = newest_checkpoint(nano), resource.getrlimit(resource.RLIMIT_FSIZE)
    before = {path: path.read_bytes() for path in newest.parent.rglob("*.*")}
    room = (newest / "state.pt").stat().st_size - 1
    assert max(p.stat().st_size for p in (newest / "weights").iterdir()) < room, (
        "this is about the state")
    capsys.readouterr()
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(SystemExit) as stop:
            run(lambda: main([*arguments, "--resume", "--steps", "24"]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    *progress, last = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert last.startswith("error: could not write") and "step-000016" in last, last
    assert "File too large" in last and all(line.startswith("step ") for line in progress)
    assert {path: path.read_bytes() for path in newest.parent.rglob("*.*")} == before
    main([*arguments, "--resume", "--steps", "24"])  # with room again
    assert [m["step"] for m in metrics(nano) if "loss" in m] == list(range(1, 25))
    assert newest_checkpoint(nano).name == "step-000024"


@pytest.mark.usefixtures("quick")
def test_a_nan_stops_the_run_before_it_is_saved(arguments, tmp_path, monkeypatch):
    calls, loss = [], GPT.loss

    def poisoned(self, ids, targets, **how):
        calls.extend([1] * torch.is_grad_enabled())  # in training, not in an evaluation
        bad = len(calls) == 7
        return loss(self, ids, targets, **how) * (float("nan") if bad else 1)
    monkeypatch.setattr(GPT, "loss", poisoned)
    quiet = [*arguments, "--eval-every", "100", "--save-every", "1"]
    with pytest.raises(ValueError, match="step 7: loss nan"):
        main(quiet)
    newest = newest_checkpoint(tmp_path / "runs" / "nano")
    assert newest.name == "step-000006"
    assert all(np.isfinite(np.load(path)).all() for path in (newest / "weights").iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_model_from_elsewhere_goes_on(arguments, tmp_path, fails):
    """--init: its shape, weights and tokenizer; and the run needs the folder only once."""
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    main([*arguments, "--lr", "0.02", "--steps", "30"])
    model, tokenizer, _, _ = load_run(tmp_path / "runs" / "nano")
    export(model, tokenizer, tmp_path / "elsewhere")
    options = ["--preset", "continue", *arguments[2:4], *arguments[-6:], "--init",
               str(tmp_path / "elsewhere")]
    assert "64, not 32" in fails(main, *options, "--d-model", 32)
    assert "but the model in" in fails(main, *options, "--seq-len", 64)
    main([*options, "--steps", "2", "--lr", "1e-9", "--batch-size", "4", "--micro-batch", "4"])
    folder = tmp_path / "runs" / "continue"
    found, same_tokenizer, config, _ = load_run(folder)
    assert same_tokenizer.hash == tokenizer.hash and config.seq_len == 32
    for (name, a), b in zip(found.state_dict().items(), model.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    (tmp_path / "elsewhere").rename(tmp_path / "gone")
    main([*options[:2], *arguments[-6:], "--resume", "--steps", "3"])
    assert metrics(folder)[-1]["step"] == 3


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_what_would_be_done(arguments, tmp_path, capsys, monkeypatch):
    """--plan and --profile say it, and start no run; --compile compiles the blocks and the loss."""
    monkeypatch.chdir(tmp_path)
    main(["--preset", "small", "--plan", "--micro-batch", "1", "--device", "cpu"])
    out = capsys.readouterr().out
    assert "135,266,304 parameters, 110,100,480 outside" in out and "16,800 steps" in out
    main([*arguments[:6], *arguments[8:], "--flops", "2e9", "--profile"])  # the steps are unknown
    assert "matrix products" in capsys.readouterr().out
    assert (tmp_path / "profile" / "trace.json.gz").exists()
    assert not (tmp_path / "runs").exists()
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda work: compiled.append(work) or work)
    main([*arguments, "--compile", "--steps", "1"])
    assert {work.__qualname__ for work in compiled} == {"Block.forward", "GPT.loss"}


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_flops_say_how_long(arguments, tmp_path):
    main([*arguments[:6], *arguments[8:], "--flops", "2e9"])
    folder = tmp_path / "runs" / "nano"
    config = read_config(folder)
    per_step = 4 * 32 * flops_per_token(config.gpt(300))
    assert 0 <= config.steps * per_step - 2e9 < per_step and config.flops == 0
    main([*arguments[:6], *arguments[8:], "--flops", "2.5e9", "--resume"])
    assert read_config(folder).steps > config.steps > 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_compute_in_bfloat16(arguments, tmp_path):
    main([*arguments, "--dtype", "bfloat16"])
    weights = newest_checkpoint(tmp_path / "runs" / "nano") / "weights"
    assert {np.load(path).dtype.name for path in weights.iterdir()} == {"float32"}
    main([*arguments, "--name", "float32"])
    half, full = (metrics(tmp_path / "runs" / name) for name in ("nano", "float32"))
    assert losses(half) != losses(full)
    assert losses(half) == pytest.approx(losses(full), rel=0.05)


def test_wrong_input_gets_one_line(arguments, text, tmp_path, fails):
    assert "invalid choice: 'huge'" in fails(main, *arguments, "--preset", "huge")
    assert "unrecognized arguments: --stepz" in fails(main, *arguments, "--stepz", 3)
    assert "there is no source 'x'" in fails(main, *arguments, "--data", "x")
    for name, value in (("batch-size", 0), ("steps", 0), ("eval-tokens", 1), ("lr", -1),
                        ("seed", -1), ("grad-clip", "nan"), ("rope-base", "nan"), ("cooldown", 2)):
        assert f"{name.replace('-', '_')} is {value}" in fails(main, *arguments, f"--{name}", value)
    assert "the name 'a/b'" in fails(main, *arguments, "--name", "a/b")
    assert "give --init FOLDER" in fails(main, "--preset", "good-go")
    assert "no run 'typo'" in fails(main, *arguments, "--name", "typo", "--resume")
    assert "n_kv_head" in fails(main, *arguments, "--n-kv-head", 3)
    (tmp_path / "empty").mkdir()
    assert "holds no text" in fails(main, *arguments, "--data", f"folder:{tmp_path / 'empty'}")
    (tmp_path / "empty" / "x").write_text("one sentence")
    assert "are to train on" in fails(main, *arguments, "--data", f"folder:{tmp_path / 'empty'}")
    folder = prepare([f"folder:{text}"], 300, text.parent / "data", say=lambda words: None).folder
    assert "vocab_size is 400" in fails(main, *arguments, "--data", f"prepared:{folder}",
                                        "--vocab-size", 400)
    if not torch.cuda.is_available():
        assert "cuda is not available" in fails(main, *arguments, "--device", "cuda")
    assert not (tmp_path / "runs").exists(), "what is refused leaves no run behind"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_what_a_run_is_cannot_change_when_it_goes_on(arguments, nano, text, tmp_path, fails):
    assert "n_layer 1, not 2" in fails(main, *arguments, "--resume", "--n-layer", 2)
    assert "optimizer adamw, not muon" in fails(main, *arguments, "--resume", "--optimizer", "muon")
    main([*arguments, "--name", "nano-wide"])  # another's name, not nano's second
    main([*arguments, "--resume", "--steps", "13"])
    assert newest_checkpoint(nano).name == "step-000013"
    main([*arguments[:6], *arguments[8:], "--resume"])  # 13 steps are what it is now
    assert read_config(nano).steps == 13 == metrics(nano)[-1]["step"]
    other = prepare([f"folder:{tmp_path / 'runs'}/nano/metrics.jsonl"], 270, tmp_path / "data",
                    say=lambda words: None)
    other.tokenizer.save(nano / "tokenizer.json")
    assert "step-000013 is beyond the 12 steps" in fails(main, *arguments, "--resume")
    data = prepare([f"folder:{text}"], 300, text.parent / "data", say=lambda words: None)
    main([*arguments, "--resume", "--steps", "14"])
    assert Tokenizer.load(nano / "tokenizer.json").hash == data.tokenizer.hash, "its data have it"
    data.hash = "another"
    with pytest.raises(ValueError, match="step-000014 was trained on data .*, not another"):
        train(read_config(nano), nano, data)
    (nano / "config.json").write_text("{}x")
    assert "not the config of a run" in fails(main, *arguments, "--resume")


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_run_is_trained_by_one_process_at_a_time(arguments, nano, fork, fails):
    """And an evaluation, which only reads, may go on beside it."""
    held = nano / "held"

    def other():
        with holding(nano, "is being trained"):
            held.touch()
            time.sleep(60)
    process = fork(other)
    while not held.exists():
        time.sleep(0.001)
    before = {path: path.read_bytes() for path in nano.rglob("*.*") if path.is_file()}
    assert (f"runs/nano is being trained by process {process.pid} on " in
            fails(main, *arguments, "--resume", "--steps", 20))
    assert {p: p.read_bytes() for p in nano.rglob("*.*") if p.is_file()} == before
    assert load_run(nano)[3] == 12 and len(run_data(nano).val) > 0
    process.kill()
    process.join()
    main([*arguments, "--resume", "--steps", "13"])
    assert newest_checkpoint(nano).name == "step-000013"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_data_of_a_run_are_found_from_anywhere(arguments, tmp_path, monkeypatch):
    """From the run's folder. If they are gone, they are made anew, unless the text is another."""
    main([*arguments, "--steps", "1"])
    nano = tmp_path / "runs" / "nano"
    [(_, folder)] = read_run(nano)[2]
    monkeypatch.chdir(tmp_path)
    assert not (tmp_path / "data").exists()
    found = run_data(nano)
    assert found.folder.samefile(folder) and not os.path.isabs(
        json.loads((nano / "config.json").read_text())["data_folders"][0][1])
    content = json.loads((nano / "config.json").read_text())
    (nano / "config.json").write_text(json.dumps(
        content | {"data_folders": [[1.0, "../../elsewhere/x"]]}))
    assert run_data(nano).hash == found.hash and (tmp_path / "elsewhere").exists()
    (nano / "config.json").write_text(json.dumps(content | {"data_hash": "of another text"}))
    with pytest.raises(ValueError, match="trained on data of another text, but its data are now"):
        run_data(nano)
    (nano / "config.json").write_text(json.dumps(content | {"data": ["folder:gone"]}))
    main(["--preset", "nano", "--runs-dir", str(tmp_path / "runs"), "--resume", "--steps", "2"])
    assert newest_checkpoint(nano).name == "step-000002", "--resume finds them, too"
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_nothing_is_made_in_the_working_directory(arguments, nano, tmp_path, monkeypatch):
    """What belongs to a run that is elsewhere stays there, also data that are to be made anew."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    content = json.loads((nano / "config.json").read_text())
    (nano / "config.json").write_text(json.dumps(
        content | {"data_folders": [[1.0, "../../made anew/x"]], "data_dir": "data"}))
    main(["--runs-dir", str(nano.parent), "--run", "nano", "--resume", "--steps", "13"])
    assert newest_checkpoint(nano).name == "step-000013" and (tmp_path / "made anew").exists()
    main([*arguments, "--name", "second", "--steps", "1"])
    assert not [*(tmp_path / "here").iterdir()]
    assert sorted(path.name for path in nano.parent.iterdir()) == ["nano", "second"]


@pytest.mark.usefixtures("quick")
def test_a_start_that_fails_leaves_no_folder(arguments, tmp_path, monkeypatch, fails):
    def broken(*what):
        raise ValueError("no room for it")
    monkeypatch.setattr(module, "make_optimizer", broken)
    assert "no room for it" in fails(main, *arguments)
    assert not [*(tmp_path / "runs").iterdir()]
    (tmp_path / "file").touch()
    assert "file is no folder" in fails(main, "--runs-dir", tmp_path / "file/runs", "--data", "x")


def test_resume_without_a_run_is_refused(arguments, nano, tmp_path, fails, capsys):
    """With the names of those that are there; a bare --resume says which it takes, a finished run
    that it is finished, before its data are read.
    """
    elsewhere = [*arguments[:-4], "--runs-dir", tmp_path / "other", "--device", "cpu"]
    assert "no run 'nano' in" in fails(main, *elsewhere, "--resume")
    assert not (tmp_path / "other").exists()
    where = ["--runs-dir", str(tmp_path / "runs")]
    meant = fails(main, *where, "--run", "nan", "--resume")
    assert "did you mean 'nano'? there are 'nano'" in meant
    (nano / "config.json").write_text((nano / "config.json").read_text().replace("../", "gone/"))
    before = sorted(nano.rglob("*"))
    main([*where, "--resume"])
    said = capsys.readouterr().out
    assert f"resume     {nano}, the run that saved last\n{nano} is finished: 12 steps" in said
    assert sorted(nano.rglob("*")) == before


@pytest.mark.usefixtures("quick")
def test_checkpoint_of_another_shape_is_refused(nano):
    save_checkpoint(nano, 13, tensors(GPT(SMALL)), {})
    with pytest.raises(ValueError, match="doesn't fit the config"):
        load_run(nano)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer, micro_batch", [("adamw", 2), ("muon", 2), ("muon", 1)])
def test_training_memory_is_what_a_step_takes(optimizer, micro_batch, dtype):
    """The trainer's own step, in two micro-batches; PyTorch says what was in use at most. Muon's
    work takes the most where there are few activations.
    """
    config = Config(optimizer=optimizer, dtype=dtype, micro_batch=micro_batch,
                    batch_size=2 * micro_batch, seq_len=32, n_layer=2, d_model=128, d_ff=512)
    ids = np.random.default_rng(0).integers(0, 2000, (2 * micro_batch, 33))

    with torch.profiler.profile(profile_memory=True) as profile:
        model = GPT(config.gpt(2000))
        moved_by = make_optimizer(model, config)
        for step in range(2):
            train_step(model, moved_by, (ids[:, :-1], ids[:, 1:]), step, config)
    used = np.cumsum([event.nbytes() for event in profile.profiler.kineto_results.events()
                      if event.name() == "[memory]"])
    expected = training_memory(model.config, micro_batch, optimizer, dtype)
    assert sum(expected.values()) == pytest.approx(max(used), rel=0.03)


# ---- the command line ----
def test_a_readers_file_runs_by_hand(monkeypatch):
    monkeypatch.setattr(module, "by_hand", lambda: True)
    assert read_command_line([])[1] == {"by_hand": True}
    assert read_command_line(["--no-by-hand", "--lr", "1"])[1] == {"by_hand": False, "lr": 1.0}


def test_what_is_not_known_here_extras_know():
    words, given, preset, kind = read_command_line(["--steps", "7"])
    assert (given.get("steps"), preset, kind) == (7, PRESETS["tiny"], Config)
    words, given, preset, kind = read_command_line(["--preset", "gpt2", "--keep", "9"])
    assert kind is not Config and preset["norm"] == "layernorm" and given["keep"] == 9
    words, given, preset, kind = read_command_line(["--z-loss", "0.1"])
    assert kind(**preset | given).z_loss == 0.1 and preset == PRESETS["tiny"]
