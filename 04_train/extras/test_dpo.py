"""Tests of dpo.py: the loss, what is read of pairs, batches, and whole runs beside a reference."""

import json
import math
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train as trainer
from data import bits_per_byte, token_bytes
from dpo import MEASURES, Batches, Pairs, dpo_loss, log_ratios, main, sums
from optim import make_optimizer
from presets import FullConfig
from runs import load_run, newest_checkpoint, tensors
from test_sft import (SHAPE, TOKENIZER, conversation, data_of, random_model, split_of,
                      with_a_run)
from train import train_step


# ---- the loss ----
def test_log_ratios():
    nats = torch.tensor([[7.0, 1.0, 2.0, 0.5], [0.25, 0.5, 9.0, 9.0]], dtype=torch.double)
    y = torch.tensor([[-1, 3, 0, 5], [2, 0, -1, -1]])

    def loss(x, y):
        return nats.where(y >= 0, torch.zeros_like(nats))
    found = log_ratios(loss, None, y, torch.tensor([-4.0, -0.25]))
    assert found.tolist() == [0.5, -0.5], (
        "the sum, not the mean, of the log-probabilities of the answer's ids alone, without prompt "
        f"and padding, less that of the reference: 0.5 and -0.5, not {found.tolist()}")
    assert log_ratios(loss, None, y, 0.0).tolist() == [-3.5, -0.75]


def test_dpo_loss():
    chosen, rejected = torch.tensor([2.0, 0.0, -1.0, 3.0]), torch.tensor([-8.0, 0.0, 4.0, 3.0])
    for beta in (0.1, 0.5):
        found = dpo_loss(chosen, rejected, beta)
        expected = torch.tensor([math.log(1 + math.exp(-beta * d)) for d in (10, 0, -5, 0)])
        assert found.shape == (4,) and torch.allclose(found, expected), (
            f"-log sigmoid(beta * (chosen - rejected)) for beta {beta}, which falls as chosen "
            f"rises: {expected.tolist()}, not {found.tolist()}")
    far = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = dpo_loss(far, torch.zeros(2), 1.0)
    loss.sum().backward()
    assert loss.tolist() == [1e4, 0.0] and far.grad.tolist() == [-1.0, 0.0], (
        "the loss must be finite, and have its gradient, where the difference is in thousands")


def test_sums():
    found = sums(torch.tensor([1.0, -2.0, 0.5, 0.5, -1.0, 0.0]), 0.5)
    assert found.tolist() == [1.5 + 0 - 0.5, 1, 0.5, -1.5, 3], "equal answers are not told apart"


# ---- pairs ----
def pair(question, chosen, rejected):
    return [conversation(question, chosen), conversation(question, rejected)]


TALKS = [talk for n in range(1, 12) for talk in pair("?" * n, f"yes {n}", "no" * (n % 4 + 1))]


def learned(targets):
    return [TOKENIZER.decode(row[row >= 0].tolist()) for row in targets]


def test_what_is_learned_is_the_last_answer_and_its_end():
    before = [*conversation("a", "first"), *conversation("b", "")[:1]]
    answers = "second", "other, longer"
    talks = [[*before, {"role": "assistant", "content": text}] for text in answers]
    pairs = Pairs(split_of([*talks, *TALKS[:2]]), TOKENIZER, 64)
    assert (len(pairs.conversations), pairs.cut, pairs.dropped) == (2, 0, 0)
    inputs, targets = pairs.read(pairs.conversations)
    assert learned(targets) == [f"{text}<|assistant_end|>" for text in
                                (*answers, "yes 1", "nono")], (
        "the last answer and its end are learned, chosen then rejected, and nothing before them")
    assert inputs.shape == targets.shape == (4, max(pairs.conversations[0])[1] - 1), (
        "as wide as the longest conversation, and no wider")
    for row, labels in zip(inputs, targets):
        own = np.flatnonzero(labels >= 0)
        assert row[own[1:]].tolist() == labels[own[:-1]].tolist(), "a target is the next input"


def test_answers_may_call_tools():
    """What the tool says is read, not learned, as in conversations.py."""
    parts = [{"type": "python", "text": "6*7"}, {"type": "output", "text": "42"}]
    talks = [[*conversation("?", "")[:1], {"role": "assistant", "content": [
        *parts, {"type": "text", "text": text}]}] for text in "ab"]
    pairs = Pairs(split_of(talks), TOKENIZER, 64)
    assert learned(pairs.read(pairs.conversations)[1]) == [
        f"<|python_start|>6*7<|python_end|>{text}<|assistant_end|>" for text in "ab"]


def test_long_pairs_are_cut_or_dropped():
    """With nothing of an answer, or no difference, there is nothing to compare."""
    talks = [*pair("?" * 5, "a" * 30, "b"), *pair("?" * 30, "a", "b"), *pair("?", "same", "same"),
             *pair("?", "a" * 30 + "b", "a" * 30 + "c"), *pair("?", "a", "b")]
    pairs = Pairs(split_of(talks), TOKENIZER, 16)
    assert (len(pairs.conversations), pairs.cut, pairs.dropped) == (2, 1, 3)
    assert pairs.conversations[0] == [(0, 17, 9), (40, 11, 9)], (
        "where it begins, how many ids are read, one more than the window, and those of the prompt")
    with pytest.raises(ValueError, match="of 1 pairs none has two different answers in its first "
                                         "16 ids; is the window, seq_len, too short"):
        Pairs(split_of(talks[2:4]), TOKENIZER, 16)


@pytest.mark.parametrize("talks, at", [
    (TALKS[:3], "3 and 4"), (TALKS[1:], "1 and 2"), ([*TALKS[:2], *TALKS[:4:2]], "3 and 4")])
def test_conversations_that_are_no_pairs(talks, at):
    with pytest.raises(ValueError, match=f"documents {at} are not two answers to a question"):
        Pairs(split_of(talks), TOKENIZER, 48)


# ---- batches ----
def config_of(**more):
    return FullConfig(**SHAPE | dict(sampling="pairs", batch_size=8, micro_batch=8, steps=4,
                                     beta=0.3, warmup=0, lr=1e-3, grad_clip=1e9, device="cpu",
                                     init="start") | more)


def beginning(monkeypatch):
    """The model with which runs begin, whatever --init says."""
    model = random_model()
    monkeypatch.setattr("starting.begin", lambda other, folder: other.load_state_dict(
        model.state_dict()))
    return model


@pytest.fixture
def start(monkeypatch):
    return beginning(monkeypatch)


def batches_of(model=None, rank=0, world=1, train=TALKS, val=TALKS[:10], **more):
    return Batches(config_of(**more), data_of(train, val), model or random_model(), rank, world)


def gradients(loader, batch, model, config):
    """(the loss, what train_step() gives to an optimizer)."""
    found = []
    optimizer = SimpleNamespace(param_groups=[], zero_grad=model.zero_grad, step=lambda: found.
                                extend(p.grad.clone() for p in model.parameters()))
    return train_step(model, optimizer, batch, 0, config, loader.objective(model.loss))[0], found


def log_p(model, ids, begin):
    """log p of an answer, id by id, from the logits of the conversation alone."""
    ids = torch.tensor(ids)[None]
    logps = model(ids[:, :-1]).double().log_softmax(-1)[0]
    return sum(logps[place - 1, ids[0, place]] for place in range(begin, ids.shape[1]))


def by_hand(model, reference, packed, pairs, beta):
    """(log(p / p_ref) of chosen and rejected, (P, 2); the mean loss by the paper's law)."""
    found = []
    for both in pairs:
        rows = [(packed.ids.read(start, n), begin) for start, n, begin in both]
        found.append([log_p(model, *row) - log_p(reference, *row).detach() for row in rows])
    loss = sum(torch.log(1 + torch.exp(-beta * (one - other))) for one, other in found)
    ratios = torch.stack([torch.stack(both) for both in found]).detach()
    return ratios, loss / len(pairs)


def test_the_law_with_two_models(monkeypatch):
    """Loss, gradients and measures are those of equation 7, computed pair by pair."""
    model, start = random_model(seed=1), beginning(monkeypatch)
    loader = batches_of(model)
    pairs = [loader.window(n) for n in range(4)]
    mean, found = gradients(loader, next(loader), model, loader.config)
    ratios, expected = by_hand(model, start, loader.packed, pairs, 0.3)
    assert mean == pytest.approx(expected.item(), rel=1e-5) and abs(mean - math.log(2)) > 0.1, (
        "the loss must be the mean over the step's pairs")
    for one, other in zip(found, torch.autograd.grad(expected, [*model.parameters()])):
        assert torch.allclose(one, other, atol=1e-4 * float(other.abs().max())), "gradients differ"
    chosen, rejected = ratios.T
    margin = 0.3 * (chosen - rejected)
    assert loader.measures == pytest.approx(dict(zip(MEASURES, (
        margin.mean().item(), (margin > 0).double().mean().item(), chosen.mean().item(),
        rejected.mean().item()))), rel=1e-4)


def test_the_first_loss_is_ln_2(start):
    """Both models give the same probabilities, to the last bit, in the micro-batches of a step."""
    many = {"batch_size": 64, "micro_batch": 64}  # more than the 512 logits of GPT.loss()
    for more in ({}, {"micro_batch": 2}, {"by_hand": True}, many):
        model = random_model(by_hand="by_hand" in more)
        loader = batches_of(model, **more)
        mean, _ = gradients(loader, next(loader), model, loader.config)
        assert mean == pytest.approx(math.log(2), abs=1e-7), "log(p / p_ref) is 0 at first"
        assert loader.measures == dict.fromkeys(MEASURES, 0.0)


def test_micro_batches_and_ranks_give_the_step_of_one(start):
    """Each loss is divided by the pairs of the whole step; a pair is never torn apart."""
    model = random_model(seed=1)
    whole = batches_of(model)
    expected, gradient = gradients(whole, next(whole), model, whole.config)
    small = batches_of(model, micro_batch=2)
    mean, found = gradients(small, next(small), model, small.config)
    assert mean == pytest.approx(expected, rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, gradient))
    assert small.measures == pytest.approx(whole.measures, rel=1e-4)
    total, n = 0.0, 0
    for rank in range(3):  # which have 2, 1 and 1 of the 4 pairs
        loader = batches_of(model, rank, 3)
        batch = next(loader)
        n += (batch[1] >= 0).sum()
        total += loader.objective(model.loss)(*map(torch.tensor, batch)).sum()
        assert (loader.n, loader.tokens) == (whole.n, whole.tokens), "all know what all have read"
    assert n == 4 and (total / n).item() == pytest.approx(expected, rel=1e-5)


def test_batches_follow_from_seed_and_number(start):
    whole, again = batches_of(start), batches_of(start)
    first, second = next(whole), next(whole)
    again.load_state_dict(json.loads(json.dumps(whole.state_dict() | {"n": 4})))
    assert all(np.array_equal(a, b) for a, b in zip(second, next(again)))
    assert whole.epochs() == [8 / 11] and not np.array_equal(first[2][:, :9], second[2][:, :9])
    seen = [whole.window(n) for n in range(22)]
    assert sorted(seen[:11]) == sorted(seen[11:]) == whole.packed.conversations != seen[:11]
    assert seen[:11] != seen[11:], "another order in each epoch"
    with pytest.raises(ValueError, match="start is not the model with which the run began"):
        again.load_state_dict(whole.state_dict() | {"reference": "other"})


def test_what_batches_refuse(start):
    for more in ({"batch_size": 7}, {"micro_batch": 1}, {"batch_size": 4, "world": 3}):
        with pytest.raises(ValueError, match="must be even, as a pair is two windows, with a pair "
                                             "or more for each of . processes"):
            batches_of(**more)
    for more in ({"init": ""}, {"label_smoothing": 0.1}, {"z_loss": 1e-4}):
        with pytest.raises(ValueError, match="pairs need the model to begin with, --init FOLDER, "
                                             "and a loss that is -log p"):
            batches_of(**more)


@pytest.mark.parametrize("batch_size, micro_batch, world", [(8, 2, 1), (8, 8, 1), (6, 4, 3)])
def test_evaluate(start, batch_size, micro_batch, world):
    """Of held-out pairs: bits per byte of the chosen answers, and what has been learned."""
    model, sizes, parts = random_model(seed=1), token_bytes(TOKENIZER), []
    loader = batches_of(model, batch_size=batch_size, micro_batch=micro_batch)
    pairs, ids = loader.held_out.conversations, loader.held_out.ids
    nats, targets = [], []
    for (start_, n, begin), _ in pairs:
        labels = ids.labels(start_, n)[1:]
        nats.append(model.loss(torch.tensor(ids.read(start_, n - 1))[None],
                               torch.tensor(labels)[None])[0].detach().numpy())
        targets.append(labels)
    expected = bits_per_byte(np.concatenate(nats), np.concatenate(targets), sizes)
    for rank in range(world):
        loader.evaluate(model, None, sizes, loader.config, None, rank, world,
                        lambda sums: parts.append(sums) or np.ones(len(sums)))
    whole = iter([sum(parts[0::2]), sum(parts[1::2])])
    bits = loader.evaluate(model, None, sizes, loader.config, None, 0, world,
                           lambda sums: next(whole))
    assert bits == pytest.approx(expected, rel=1e-5)
    ratios, _ = by_hand(model, start, loader.held_out, pairs, 0.3)
    chosen, rejected = ratios.T
    margin = 0.3 * (chosen - rejected)
    assert loader.tested == pytest.approx({
        "val_margin": margin.mean().item(), "val_accuracy": (margin > 0).double().mean().item(),
        "val_chosen": chosen.mean().item(), "val_rejected": rejected.mean().item()}, rel=1e-4)
    assert len(pairs) == 5 and 0 < loader.tested["val_accuracy"] < 1


def test_it_learns_to_prefer(start):
    """The chosen answers become likelier than the rejected ones, also to questions never seen."""
    train = [t for n in range(1, 30) if n % 5 for t in pair(f"{n}?", f"{n % 3} yes", f"{n % 3} no")]
    val = [t for n in range(5, 30, 5) for t in pair(f"{n}?", f"{n % 3} yes", f"{n % 3} no")]
    model = random_model()
    loader = batches_of(model, train=train, val=val, batch_size=16, micro_batch=16, beta=0.1,
                        lr=2e-3, steps=30)
    optimizer, loss = make_optimizer(model, loader.config), loader.objective(model.loss)
    for step in range(12):
        mean, _ = train_step(model, optimizer, next(loader), 0, loader.config, loss)
    loader.evaluate(model, None, token_bytes(TOKENIZER), loader.config)
    assert mean < 0.4 and loader.measures["accuracy"] == loader.tested["val_accuracy"] == 1, (
        mean, loader.measures, loader.tested)


# ---- whole runs ----
@pytest.fixture(scope="module")
def world(tmp_path_factory, quick_runs):
    """A folder with pairs, in two forms, and a run to begin with."""
    folder = tmp_path_factory.mktemp("dpo")
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as file:
        for n in range(200):
            texts = f"{n}?", f"It is {n}.", f"{n}, or not."
            row = pair(*texts) if n % 2 else texts[1:]
            row = dict(zip(("prompt", "chosen", "rejected"), (texts[0], *row)))
            file.write(json.dumps(row) + "\n")
    return with_a_run(folder)


def options(world, *more):
    return ["--init", str(world / "runs" / "base"), "--data", f"jsonl:{world}/pairs.jsonl",
            "--data-dir", str(world / "data"), "--runs-dir", str(world / "runs"), "--batch-size",
            "8", "--micro-batch", "4", "--steps", "4", "--warmup", "1", "--lr", "1e-3",
            "--eval-every", "2", "--save-every", "2", "--device", "cpu", *more]


def test_a_run_stopped_and_resumed_bit_for_bit(world, capsys, monkeypatch):
    """A resumed run compares with the model that it began with, not with what it has become."""
    main(options(world, "--name", "straight"))
    assert "0 of them too long and cut; 0 dropped" in capsys.readouterr().out
    rows = [json.loads(line) for line in
            (world / "runs" / "straight" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert len(steps) == 4 and all({*MEASURES} <= row.keys() for row in steps)
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=2e-7) and steps[3]["loss"] < 0.69
    assert [row["step"] for row in rows if "val_margin" in row] == [2, 4, 4]
    halved, step, n = world / "runs" / "halved", trainer.train_step, iter(range(9))

    def stopping(*given):  # by Ctrl-C in step 3
        if next(n) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(*given)
    monkeypatch.setattr(trainer, "train_step", stopping)
    main(options(world, "--name", "halved"))
    assert newest_checkpoint(halved).name == "step-000003"
    trainer.main(["--name", "halved", "--resume", "--runs-dir", str(world / "runs")])
    one, other = ({name: t.clone() for name, t in tensors(load_run(world / "runs" / name)[0])}
                  for name in ("straight", "halved"))
    assert newest_checkpoint(halved).name == "step-000004"
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_mistakes_of_users(world, fails):
    assert fails(main, "--data", f"jsonl:{world}/pairs.jsonl") == (
        "error: preset dpo goes on from a model: give --init FOLDER")
    assert "must be even, as a pair is two windows" in fails(
        main, *options(world, "--micro-batch", "3"))
    assert "pairs need the model to begin with" in fails(
        trainer.main, *options(world)[2:], "--preset", "nano", "--sampling", "pairs")
    (world / "talks.jsonl").write_text("".join(json.dumps({"turns": [f"{n}?", "Yes."]}) + "\n"
                                               for n in range(90)))
    assert "documents 1 and 2 are not two answers" in fails(
        main, *options(world, "--data", f"jsonl:{world}/talks.jsonl"))
    assert not (world / "runs" / "dpo").exists()
