"""Tests of rl.py: what is right, how answers are written, what a step learns from them, runs."""

import itertools
import json
import math
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sft
import train as trainer
from bpe import Tokenizer
from conversations import prompt_ids
from data import token_bytes
from gpt import generate
from optim import make_optimizer
from rl import (Answer, Batches, advantages, answer_of, as_arrays, draw, main, number_at, pass_at_k,
                policy_loss, reward, write_answers)
from runs import load_run, newest_checkpoint, tensors
from test_sft import SHAPE, TOKENIZER, conversation, data_of, random_model, with_a_run
from train import Config, train_step

SPECIAL = TOKENIZER.special


# ---- what is right ----
@pytest.mark.parametrize("text, number", [
    ("18", 18), ("$18", 18), ("18.", 18), ("18.0", 18), ("18.50", 18.5), ("-3", -3), ("-$3", -3),
    ("$-3", -3), ("1,800 a day", 1800), ("$1,800.50", 1800.5), ("-0", 0), ("007", 7), ("0.0", 0),
    (" 5 ", 5), (".5", 0.5), ("12,34", 12), ("ten", None), ("", None), ("$", None), ("-", None),
    (",", None)])
def test_number_at(text, number):
    assert number_at(text) == number, f"the number at the beginning of {text!r} is {number}"


@pytest.mark.parametrize("text, answer", [
    ("6 + 2 = 8\n#### 8\n#### 9", "8"), ("####8", "8"), ("#### a b \nc", "a b"), ("no", None),
    ("####", ""), ("", None), ("## 8", None)])
def test_answer_of(text, answer):
    assert answer_of(text) == answer, f"what stands behind the first #### of {text!r}"


@pytest.mark.parametrize("text, reference, right", [
    ("so it is #### 18", "#### 18", 1), ("#### $18.00", "#### 18", 1), ("#### 19", "#### 18", 0),
    ("18", "#### 18", 0), ("####", "#### 18", 0), ("#### 1,800", "#### 1800", 1),
    ("#### 18 dollars", "#### 18", 1), ("#### olleh", "#### olleh", 1),
    ("#### hello", "#### olleh", 0), ("#### 3 5 9", "#### 3 5 9", 1),
    ("#### 3 9 5", "#### 3 5 9", 0), ("#### 7\n#### 18", "#### 18", 0),
    ("#### -18", "#### 18", 0), ("no number", "#### none", 0), ("#### 18", "#### 18.", 1),
    ("#### 3 9", "#### 3 5", 0), ("#### ten", "#### 10", 0)])
def test_reward(text, reference, right):
    assert reward(text, reference) == right, (
        f"{text!r} is {'right' if right else 'wrong'}, if the reference is {reference!r}")


@pytest.mark.parametrize("reference", ["18", "####", "#### \n18"])
def test_a_reference_that_can_not_be_read_is_an_error(reference, explains):
    def found():
        try:
            return reward(reference, reference)
        except ValueError as error:
            return str(error)
    with explains("a reference without an answer behind #### must be a ValueError that says so"):
        assert "no answer behind ####" in str(found()), (
            f"a reference without an answer, {reference!r}, must be an error: nothing equals it")


def test_pass_at_k():
    for n, k in itertools.product(range(1, 7), range(1, 7)):
        for c in range(n + 1):
            if k <= n:
                drawn = [*itertools.combinations([True] * c + [False] * (n - c), k)]
                expected = sum(map(any, drawn)) / len(drawn)
                assert pass_at_k(n, c, k) == pytest.approx(expected), (
                    f"of all ways to take {k} of {n} answers, {c} of them right: how many have one")
    assert 0 < pass_at_k(10_000, 1, 100) < 0.02, "finite for many"


# ---- answers ----
def written(ids):
    """An Answer to which these ids were drawn, and all that came: ids drawn while the calculator
    writes are not used.
    """
    answer = Answer(TOKENIZER)
    came = [answer.add(i, -1.0, 2.0) for i in ids]
    return answer, came


def test_an_answer():
    end = SPECIAL["<|assistant_end|>"]
    answer, came = written([97, 98, end])
    assert answer.ended and came == answer.ids == [97, 98, end], "the end is kept: it is learned"
    assert answer.own == [1, 1, 1] and answer.logps == [-1.0] * 3 and answer.entropies == [2.0] * 3
    assert not written([97])[0].ended


def test_the_calculator_answers():
    start, stop, out, done = (SPECIAL[f"<|{name}|>"] for name in (
        "python_start", "python_end", "output_start", "output_end"))
    answer, came = written([start, *b"6*7", stop, 1, 2, 3, 4, 97])
    assert came == [start, *b"6*7", stop, out, *b"42", done, 97], (
        "behind a call the next ids are its output, whatever the model would have drawn")
    assert answer.own == [1] * 5 + [0] * 4 + [1], "only what the model wrote is its own"
    assert answer.logps == [-1.0] * 5 + [0.0] * 4 + [-1.0], "what is forced has log-probability 0"
    assert answer.entropies == [2.0] * 5 + [0.0] * 4 + [2.0]
    for ids in ([start, *b"import os", stop, 97], [stop, 97], [start, *b"1/0", stop, 97],
                [start, *b"1/0", stop, *b"6*7", stop, 97]):
        assert written(ids)[1] == ids, "what can't be computed, or is no call, gets no output"
    end = SPECIAL["<|assistant_end|>"]
    answer, _ = written([start, *b"6*7", stop, end, end])
    assert not answer.ended, "an end that was drawn while the calculator writes counts for nothing"
    answer, came = written([start, *b"1+", start, *b"2+2", stop, 1, 1, 1])
    assert came[-3:] == [out, *b"4", done], "a second start begins anew"
    answer, came = written([start, *b"6*7", stop, 1, 2, 3, 4, *b"8*8", stop, 97])
    assert came[-5:] == [*b"8*8", stop, 97], "a call is closed when it has been answered"


def test_formats_without_calls():
    tokenizer = Tokenizer([], special_tokens=("<|im_start|>", "<|im_end|>"))
    answer = Answer(tokenizer)
    for i in (97, tokenizer.special["<|im_end|>"]):
        answer.add(i, 0.0, 0.0)
    assert answer.ended


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draw(temperature):
    """Each id as often as its probability says: those of even numbers from 0 to 1 that it gets."""
    logits = torch.tensor([[0.0, 1.0, -1e9, 2.0, -1.0]])
    p = (logits[0] / temperature).softmax(-1)
    uniforms = (torch.arange(10_000) + 0.5) / 10_000
    ids, logps, entropies = draw(logits.expand(10_000, -1), temperature, uniforms)
    shares = np.bincount(ids, minlength=5) / 10_000
    assert np.allclose(shares, p, atol=1e-3), (
        f"ids must be drawn by softmax(logits / temperature), of all ids: {shares}")
    assert np.allclose(logps, p[ids].log(), atol=1e-5), "of each its log-probability"
    expected = -(p * p.clamp(min=1e-30).log()).sum().item()
    assert np.allclose(entropies, expected, atol=1e-5), "the entropy is -sum(p log p)"
    edges = draw(torch.tensor([[-1e9, 0.0, 0.0]]).expand(3, -1), 1.0,
                 torch.tensor([0.0, 0.5, 1 - 2**-24]))[0]
    assert edges == [1, 2, 2], "an id of probability 0 must never be drawn, also by 0.0"


def talkative(*names, **fields):
    """A model that likes to write "a" and 7, to end, and these special tokens."""
    model, bias = random_model(**fields), torch.zeros(TOKENIZER.vocab_size)
    liked = [97, *b"7", *(SPECIAL[f"<|{name}|>"] for name in ("assistant_end", *names))]
    bias[liked] = 7.0 if names else 4.0
    logits = model.logits
    model.logits = lambda x: logits(x) + bias
    return model


QUESTIONS = [prompt_ids([{"role": "user", "content": "?" * n}], TOKENIZER) for n in (1, 4, 2)]
TWINS = [{"by_hand": True}, {}]  # the plain version, and the fast one of extras/rollouts.py


@pytest.mark.parametrize("twin", TWINS, ids=["plain", "fast"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_training_step(temperature, twin):
    """Prompts of several lengths, answers that end early, and outputs that were not drawn."""
    model = talkative("python_start", "python_end", **twin)
    groups = write_answers(model, QUESTIONS, TOKENIZER, 24, 24, range(3), temperature)
    answers = [(prompt, one) for prompt, group in zip(QUESTIONS, groups) for one in group]
    assert any(one.ended for _, one in answers) and not all(one.ended for _, one in answers)
    assert any(0 in one.own for _, one in answers), "the calculator was used"
    for prompt, one in answers:
        assert len(one.ids) == 24 or one.ended and len(one.ids) <= 24
        logps = (model(torch.tensor([prompt + one.ids]))[0] / temperature).log_softmax(-1)
        for place, (i, own, logp, entropy) in enumerate(
                zip(one.ids, one.own, one.logps, one.entropies), len(prompt) - 1):
            assert abs(logp - own * logps[place, i].item()) < 1e-4, (
                "log-probabilities must be those of softmax(logits / temperature), of all ids")
            expected = -own * (logps[place].exp() * logps[place]).sum().item()
            assert abs(entropy - expected) < 1e-3, "the entropy of what the id was drawn from"


def test_both_twins_write_the_same():
    """With the same random numbers; also of another seed, and of other neighbours."""
    def texts(twin, prompts, seed):
        model = talkative("python_start", "python_end", **twin)
        return [[one.ids for one in group] for group in write_answers(
            model, prompts, TOKENIZER, 4, 30, [(seed, n) for n in range(len(prompts))])]
    plain, fast = (texts(twin, QUESTIONS, 1) for twin in TWINS)
    assert plain == fast
    assert fast == texts({}, QUESTIONS, 1) != texts({}, QUESTIONS, 2)
    assert fast[:1] == texts({}, QUESTIONS[:1], 1), "an answer does not depend on its neighbours"


@pytest.mark.parametrize("twin", TWINS, ids=["plain", "fast"])
def test_answers_are_those_of_generate(twin):
    """At a temperature of nearly 0 they are what greedy() writes, each as if it were alone."""
    model = random_model(**twin)
    groups = write_answers(model, QUESTIONS, TOKENIZER, 2, 20, range(3), 1e-4)
    for prompt, group in zip(QUESTIONS, groups):
        alone = [int(i) for i in generate(model, [prompt], 20)]
        for one in group:
            assert one.ids == alone[:len(one.ids)], "an answer is not that of its prompt alone"


@pytest.mark.parametrize("twin", TWINS, ids=["plain", "fast"])
def test_prompts_are_read_once(twin):
    model, n = random_model(**twin), []
    hidden = model.hidden
    model.hidden = lambda ids, *given, **named: n.append(ids.numel()) or hidden(
        ids, *given, **named)
    write_answers(model, QUESTIONS, TOKENIZER, 5, 4, range(3))
    prompts = 3 * max(map(len, QUESTIONS))
    assert n[0] == prompts and sum(n[1:]) <= 15 * 4, "prompts once, then one id of each answer"


# ---- the step ----
def test_advantages():
    rewards = np.array([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0.5, 0, 0, 0]])
    expected = [[0.5, -0.5, -0.5, 0.5], [0] * 4, [0] * 4, [0.375, -0.125, -0.125, -0.125]]
    assert np.array_equal(advantages(rewards), expected), (
        "each reward less the mean of its own group, and nothing more")


def test_policy_loss():
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([[1, -1, 4], [0, 2, -1]])
    weights = torch.tensor([[0.5, 0.5, 0.5], [-0.25, -0.25, -0.25]])
    for temperature in (1.0, 0.5):
        found = policy_loss(logits, targets, weights, temperature)
        logps = (logits / temperature).log_softmax(-1)
        expected = -weights * logps.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        expected = expected.masked_fill(targets < 0, 0.0)
        assert found.shape == (2, 3) and torch.allclose(found, expected, atol=1e-6), (
            "the weight times -log softmax(logits / temperature) of the target; 0 without target")


def test_as_arrays(explains):
    """What the model wrote is a target, with its end, and nothing else; by its advantage."""
    start, stop, out, done = (SPECIAL[f"<|{name}|>"] for name in (
        "python_start", "python_end", "output_start", "output_end"))
    end = SPECIAL["<|assistant_end|>"]
    long, _ = written([start, *b"6*7", stop, 1, 2, 3, 4, 97, end])
    short, _ = written([98, end])
    with explains("each target stands at the place of the id before it: see the example"):
        inputs, targets, advantage, logps = as_arrays([([1, 2], short, 0.5), ([3], long, -0.25)])
    ids = [start, *b"6*7", stop, out, *b"42", done, 97, end]
    off = [-1] * 4
    assert inputs.tolist() == [[1, 2, 98] + [0] * 8, [3, *ids[:-1]]], (
        "inputs are prompt and answer, but for the last id; 0 behind a shorter one")
    assert targets.tolist() == [[-1, 98, end] + [-1] * 8, [*ids[:5], *off, *ids[9:]]], (
        "targets are the ids that the model wrote, its end included, each at the id before it: "
        "nothing of the question, or of what the calculator wrote")
    assert advantage.tolist() == [[0, 0.5, 0.5] + [0] * 8, [-0.25] * 11], (
        "each id of an answer has the answer's advantage")
    assert logps.tolist() == [[0, -1, -1] + [0] * 8, [-1.0] * 5 + [0.0] * 4 + [-1.0] * 2], (
        "at each target its log-probability when it was drawn")


def config_of(**more):
    return Config(**SHAPE | dict(sampling="answers", batch_size=8, micro_batch=4, group=4,
                                 answer_tokens=12, steps=4, warmup=0, lr=1e-3, device="cpu") | more)


SUMS = [conversation(f"{n}+1", f"#### {n + 1}") for n in range(9)]


def batches_of(model=None, judge=None, rank=0, world=1, **more):
    return Batches(config_of(**more), data_of(SUMS, SUMS[:4]), model or random_model(), rank, world,
                   *[judge] * (judge is not None))


def count_a(text, reference):
    """A reward that random answers get now and then."""
    return float("a" in text)


def test_a_batch():
    """Answers to questions of the data, and the advantage of each in its group."""
    model = talkative()
    loader = batches_of(model, count_a)
    inputs, targets, advantage, logps = next(loader)
    P = [prompt for prompt, _ in loader.questions]
    assert inputs.shape[0] == 8 and 0 < loader.measures["reward"] < 1
    lengths, rewards = [], []
    for b in range(8):
        begin = inputs[b].tolist().index(SPECIAL["<|assistant_start|>"])
        assert inputs[b, :begin + 1].tolist() in P, "a row begins with its question"
        ids = targets[b][targets[b] >= 0].tolist()
        lengths.append(len(ids))
        rewards.append(float(ids[-1:] == [SPECIAL["<|assistant_end|>"]] and 97 in ids))
    expected = advantages(np.array(rewards).reshape(2, 4)).ravel()
    for b in range(8):
        assert np.allclose(advantage[b][targets[b] >= 0], expected[b]), (
            "the advantage in the group; an answer that is cut off gets no reward")
        assert (logps[b][targets[b] >= 0] < 0).all()
    assert loader.measures["answer_length"] == np.mean(lengths)
    assert loader.measures["reward"] == np.mean(rewards)
    groups = np.array(rewards).reshape(2, 4)
    assert loader.measures["groups_equal"] == np.mean([len({*group}) == 1 for group in groups])
    assert 0 < loader.measures["entropy"] < math.log(TOKENIZER.vocab_size)
    read = [int((y >= 0).cumsum().argmax()) + 2 for y in targets]  # the last one is a target alone
    assert loader.tokens == sum(n for n, weights in zip(read, advantage) if weights.any()), (
        "what a step learns from is counted: all ids of answers that have an advantage")


def test_the_gradient_is_that_of_the_policy():
    """Over micro-batches: -sum(advantage * log p) / all ids that were written in the step."""
    model = talkative()
    loader = batches_of(model, count_a, temperature=0.8)
    batch, found = next(loader), []
    optimizer = SimpleNamespace(param_groups=[], zero_grad=model.zero_grad, step=lambda: found.
                                extend(p.grad.clone() for p in model.parameters()))
    train_step(model, optimizer, batch, 0, config_of(grad_clip=1e9, temperature=0.8),
               loader.objective(None))
    x, y, weights, _ = map(torch.tensor, batch)
    logps = (model(x) / 0.8).log_softmax(-1).gather(-1, y.clamp(min=0)[..., None])[..., 0]
    expected = -(weights * logps)[y >= 0].sum() / (y >= 0).sum()
    assert expected != 0
    for one, other in zip(found, torch.autograd.grad(expected, [*model.parameters()])):
        assert torch.allclose(one, other, atol=1e-6), (
            "each id of the step weighs the same, whatever the length of its answer")


def test_answers_that_teach_nothing_are_not_read(monkeypatch):
    """Those whose advantage is 0; and no column behind the longest answer."""
    model = talkative()
    loader, shapes, hidden = batches_of(model, count_a), [], model.hidden
    inputs, y, weights, logps = map(torch.tensor, next(loader))
    taught = weights.any(1).tolist()
    assert taught == sorted(taught, reverse=True), "in the last micro-batches nothing is to be done"
    lengths = (y >= 0).cumsum(1).argmax(1) + 1
    for some in (taught, [not one for one in taught]):
        assert lengths[some].tolist() == sorted(lengths[some].tolist()), "short answers come first"
    weights[2:] = 0
    monkeypatch.setattr(model, "hidden", lambda x: shapes.append(x.shape) or hidden(x))
    nats = loader.objective(None)(inputs, y, weights, logps)
    assert shapes == [(2, int(lengths.max()))], "two rows teach something"
    assert nats.shape == ((y[:2] >= 0).sum(),) and nats.sum() != 0
    nats = loader.objective(None)(inputs, y, 0 * weights, logps).sum()
    assert nats == 0 and all((one == 0).all() for one in torch.autograd.grad(
        nats, [*model.parameters()])), "nothing to learn is a gradient of 0"


@pytest.mark.parametrize("change", ["weights", "temperature"])
def test_other_probabilities_than_when_they_were_drawn_are_noticed(change):
    model = talkative()
    loader = batches_of(model, count_a)
    x, y, weights, logps = map(torch.tensor, next(loader))
    if change == "weights":
        model.head.weight.data *= 1.01
    else:
        loader.config = replace(loader.config, temperature=0.9)
    with pytest.raises(ValueError, match="a log-probability was .* different when it was drawn"):
        loader.objective(None)(x, y, weights, logps)


def test_batches_follow_from_seed_and_number():
    model = random_model()
    whole, again = batches_of(model, count_a), batches_of(model, count_a)
    first, second = next(whole), next(whole)
    again.load_state_dict({"n": 2, "tokens": 0})
    assert all(np.array_equal(a, b) for a, b in zip(second, next(again)))
    assert not np.array_equal(first[0], second[0]) and whole.epochs() == [4 / 9]
    seen = []
    loader = batches_of(model, count_a)
    loader.answers = lambda questions, seeds: seen.extend(text for _, text in questions) or (
        [[written([97])[0]] * 4] * 2, np.zeros((2, 4)))
    for _ in range(9):
        next(loader)
    assert sorted(seen[:9]) == sorted(text for _, text in loader.questions), (
        "an epoch has each question once")
    assert seen[:9] != seen[9:], "in another order each time"


def test_ranks_share_the_questions():
    """The answers are those that one process would write."""
    model = talkative()

    def rows(batch):
        """Each row as (what is read, its advantage, its log-probabilities); the order is free."""
        x, y, advantage, logps = batch
        return sorted((x[b, :n].tolist(), y[b, :n].tolist(), advantage[b, :n].tolist(),
                       logps[b, :n].round(4).tolist())
                      for b, n in enumerate((y >= 0).cumsum(1).argmax(1) + 1))
    whole = rows(next(batches_of(model, count_a)))
    parts = [rows(next(batches_of(model, count_a, rank, 2))) for rank in range(2)]
    assert any(any(row[2]) for row in whole), "some answers are better than others"
    assert sorted(parts[0] + parts[1]) == whole and len(parts[0]) == len(parts[1]) == 4


@pytest.mark.parametrize("seq_len, left", [(48, 2), (22, 1)])
def test_conversations_that_are_no_questions_are_left_out(seq_len, left):
    """Those with several answers, and those whose answer a window cuts off: else a part of a
    number would be taken for the right one.
    """
    talks = [conversation("1+1", "#### 2"), conversation("5", "#### 1234567890123"),
             conversation("1+1", "#### 2") + conversation("2+2", "#### 4")]
    loader = Batches(config_of(seq_len=seq_len, answer_tokens=9), data_of(talks, talks),
                     random_model())
    assert [text for _, text in loader.questions] == ["#### 2", "#### 1234567890123"][:left]


def test_what_batches_refuse():
    with pytest.raises(ValueError, match="batch_size is 6, but must be a multiple of group 4"):
        batches_of(batch_size=6)
    with pytest.raises(ValueError, match="a multiple of group 4, times 3 processes"):
        batches_of(world=3)
    with pytest.raises(ValueError, match="no question leaves room for 45 ids in a window of 48"):
        batches_of(answer_tokens=45)
    with pytest.raises(ValueError, match="group is 1, but must be a number from 2"):
        config_of(group=1)
    with pytest.raises(ValueError, match="'seven' has no answer behind ####"):
        Batches(config_of(), data_of([conversation("3+4", "seven")]), random_model())


def test_evaluate():
    """pass@1 and pass@4 of held-out questions, and bits per byte of their right answers."""
    model, sizes = random_model(), token_bytes(TOKENIZER)
    loader = batches_of(model)
    given = iter([[[1.0, 0, 0, 0], [0, 0, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0]]])
    loader.answers = lambda questions, seeds: (None, np.array(next(given)))
    bits = loader.evaluate(model, None, sizes, loader.config)
    assert loader.tested == {"pass@1": pytest.approx(5 / 16), "pass@4": pytest.approx(0.5)}
    assert bits > 0


def test_it_learns():
    """A model that answers 1, 2, 3 or 4 by chance learns, from rewards alone, which is right."""
    talks = [conversation("?", f"#### {n % 4 + 1}") for n in range(32)]  # which is by chance
    model = random_model(n_layer=1)
    config = config_of(batch_size=32, micro_batch=32, group=16, answer_tokens=8, lr=1e-2, steps=100)
    optimizer = make_optimizer(model, config)
    learned = sft.Batches(config, data_of(talks))
    batch = learned.packed.read(learned.packed.windows(range(32)))
    for step in range(60):
        train_step(model, optimizer, batch, 0, config, learned.objective(model.loss))
    loader = Batches(config, data_of([conversation("?", "#### 3")] * 4, talks), model)
    optimizer, loss, rewards = make_optimizer(model, config), loader.objective(None), []
    for step in range(12):
        train_step(model, optimizer, next(loader), 0, config, loss)
        rewards.append(loader.measures["reward"])
    assert 0.05 < rewards[0] < 0.5 and rewards[-1] > 0.9, rewards


# ---- whole runs ----
@pytest.fixture(scope="module")
def world(tmp_path_factory, quick_runs):
    """A folder with sums, and a run that has read some."""
    folder = tmp_path_factory.mktemp("rl")
    with open(folder / "sums.jsonl", "w", encoding="utf-8") as file:
        for n in range(200):
            file.write(json.dumps({"messages": conversation(f"{n}+1", f"#### {n + 1}")}) + "\n")
    return with_a_run(folder)


def options(world, *more):
    return ["--init", str(world / "runs" / "base"), "--data", f"jsonl:{world}/sums.jsonl",
            "--data-dir", str(world / "data"), "--runs-dir", str(world / "runs"), "--batch-size",
            "16", "--group", "4", "--micro-batch", "8", "--steps", "4", "--warmup", "1",
            "--answer-tokens", "12", "--eval-every", "2", "--eval-tokens", "200",
            "--last-eval-tokens", "200", "--save-every", "2", "--device", "cpu", "--no-by-hand",
            *more]


def test_a_run_stopped_and_resumed_bit_for_bit(world, monkeypatch):
    """By Ctrl-C in step 2. An odd sum of ids is right here, so that there is something to learn."""
    write, step, n = Batches.answers, trainer.train_step, iter(range(99))

    def judged(self, questions, seed):
        groups, _ = write(self, questions, seed)
        return groups, np.array([[float(sum(one.ids) % 2) for one in group] for group in groups])
    monkeypatch.setattr(Batches, "answers", judged)
    main(options(world, "--name", "straight"))
    rows = [json.loads(line) for line in
            (world / "runs" / "straight" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "loss" in row]
    assert len(steps) == 4 and all({"reward", "answer_length", "entropy", "groups_equal"} <=
                                   row.keys() for row in steps)
    assert [row["step"] for row in rows if "pass@1" in row and "pass@4" in row] == [2, 4, 4]
    tokens = [row["tokens"] for row in steps]
    assert tokens == sorted(tokens) and tokens[0] > 16

    def stopping(*given):
        if next(n) == 1:
            signal.raise_signal(signal.SIGINT)
        return step(*given)
    monkeypatch.setattr(trainer, "train_step", stopping)
    main(options(world, "--name", "halved"))
    halved = world / "runs" / "halved"
    assert newest_checkpoint(halved).name == "step-000002"
    trainer.main(["--name", "halved", "--resume", "--no-by-hand", "--runs-dir",
                  str(world / "runs")])
    one, other, start = ({n: t.clone() for n, t in tensors(load_run(world / "runs" / name)[0])}
                         for name in ("straight", "halved", "base"))
    assert newest_checkpoint(halved).name == "step-000004"
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not any(torch.equal(one[name], start[name]) for name in one), "all have learned"


def test_mistakes_of_users(world, fails):
    said = fails(main, "--data", f"jsonl:{world}/sums.jsonl")
    assert said == "error: preset rl goes on from a model: give --init FOLDER"
    assert "must be a multiple of group 4" in fails(main, *options(world, "--batch-size", "6"))
