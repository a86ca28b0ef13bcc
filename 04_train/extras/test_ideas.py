"""Tests of ideas.py: each changes what it says, and is tried for as long as nothing is."""

from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch

import ideas
from data import prepare
from gpt import GPT, GPTConfig
from ideas import (IDEAS, BlocksLater, CautiousDecay, Idea, JordansSteps, NorMuon, TiedAtFirst,
                   Trial, ValueEmbeddings, bits_after, cost)
from optim import QUINTICS, make_optimizer, nesterov, orthogonalize_parts
from presets import PRESETS, FullConfig

SMALL = GPTConfig(50, 16, 4, 4, 2, 32, 64)


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """(config, data) of a small run."""
    folder = tmp_path_factory.mktemp("ideas")
    (folder / "text").write_text("".join(f"{i} spam {i % 7} eggs\n" for i in range(1000)))
    config = FullConfig(**PRESETS["nano"] | dict(
        data=(f"folder:{folder / 'text'}",), vocab_size=300, n_layer=2, d_model=16, d_ff=32,
        seq_len=16, batch_size=4, micro_batch=4, optimizer="muon", steps=8, warmup=2, bigrams=3,
        data_dir=str(folder / "data")))
    return config, prepare(config.data, config.vocab_size, config.data_dir)


def gradients(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("name", IDEAS)
def test_every_idea_changes_a_run(tried, name):
    """It trains, what it adds is learned, and the result is another."""
    config, data = tried
    plain, trial = Trial(config, Idea(), data), Trial(config, IDEAS[name], data)
    start = {key: p.detach().clone() for key, p in trial.model.named_parameters()}
    for i in range(config.steps):
        plain.step(i, config.steps)
        trial.step(i, config.steps)
    unmoved = [key for key, p in trial.model.named_parameters()
               if key in start and torch.equal(p, start[key])]
    assert not unmoved, "weights that no step has moved"
    texts = torch.tensor([[1, 2, 3, 4]])
    a, b = plain.model(texts), trial.model(texts)
    assert b.isfinite().all() and not torch.equal(a, b)


def test_blocks_come_later(tried):
    """One after another; in the end all are there, and have learned."""
    config, data = tried
    trial, seen = Trial(replace(config, n_layer=3), BlocksLater(), data), []
    for i in range(10):
        trial.step(i, 10)
        seen.append(len(trial.model.blocks))
    assert seen == [0, 0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert all(p.detach().any() for p in trial.model.blocks[2].parameters()), "the last has learned"


@pytest.mark.parametrize("name", ["value embeddings", "residual scalars"])
def test_what_is_added_begins_as_nothing(name):
    plain, model, ids = GPT(SMALL), GPT(SMALL), torch.randint(50, (2, 16))
    for one in (plain, model):
        torch.nn.init.normal_(one.blocks[3].attention.out.weight,
                              generator=torch.Generator().manual_seed(1))
    IDEAS[name].model(model)
    torch.testing.assert_close(model(ids), plain(ids))


def test_value_embeddings():
    """Of 4 blocks the second and the last; keys and queries stay as they are."""
    model, ids = GPT(SMALL), torch.randint(50, (2, 16))
    ValueEmbeddings().model(model)
    table, share = model.value_embeds[0], model.shares[0]
    assert len(model.value_embeds) == 2 and table.weight.shape == (50, 2 * 8)
    with torch.no_grad():
        share.copy_(torch.tensor([0.5, 2.0]))
    said = []
    model.blocks[3].attention.qkv.register_forward_hook(lambda _, args, y: said.extend((*args, y)))
    model(ids)
    x, y = said
    qkv = x @ model.blocks[3].attention.qkv.weight.T
    torch.testing.assert_close(y[..., :48], qkv[..., :48])
    torch.testing.assert_close(y[..., 48:], 0.5 * qkv[..., 48:] + 2 * table(ids))


def test_table_and_head_part(tried):
    config, data = tried
    trial = Trial(config, TiedAtFirst(), data)
    for i in range(9):
        before = trial.model.head.weight.detach().clone()
        trial.step(i, 9)
        tied = trial.model.embed.weight is trial.model.head.weight
        assert tied == (i < 6)
        if i == 6:
            assert (trial.model.embed.weight - before).abs().max() < 0.1, "it goes on from there"


def directions_of(idea, decay=0.0, quintics=QUINTICS):
    """A model's matrices, their changes in a first step, at rate 1, and Muon's directions."""
    config = FullConfig(optimizer="muon", weight_decay=decay, muon_lr=1.0)
    model = GPT(SMALL)
    optimizer = make_optimizer(model, config)
    idea.optimizer(optimizer)
    gradients(model)
    params = optimizer.param_groups[0]["params"]
    old = [p.detach().clone() for p in params]
    plain = [nesterov(p.grad, torch.zeros_like(p), config.momentum) for p in params]
    orthogonalize_parts(plain, [optimizer.parts.get(p, [len(p)]) for p in params], quintics)
    optimizer.step()
    return old, [a - p.detach() for a, p in zip(old, params)], plain


def test_cautious_decay():
    for old, change, plain in zip(*directions_of(CautiousDecay(), decay=0.5)):
        expected = plain + torch.where(old * plain > 0, 0.5 * old, 0.0)
        torch.testing.assert_close(change, expected)


def test_normuon():
    """In a first step all rows of a matrix become equally long, and the whole stays as long."""
    for _, change, plain in zip(*directions_of(NorMuon())):
        assert float(change.norm()) == pytest.approx(float(plain.norm()), rel=1e-4)
        rows = change.norm(dim=1)
        assert rows.max() / rows.min() < 1.01 < plain.norm(dim=1).max() / plain.norm(dim=1).min()


def test_jordans_steps():
    for _, change, plain in zip(*directions_of(JordansSteps(), 0, [(3.4445, -4.7750, 2.0315)] * 5)):
        torch.testing.assert_close(change, plain)


def test_momentum_warmup():
    """To what the optimizer has."""
    optimizer = make_optimizer(GPT(SMALL), FullConfig(optimizer="muon"))
    for share, momentum in ((0, 0.85), (0.15, 0.9), (0.3, 0.95), (0.9, 0.95)):
        IDEAS["momentum warm-up"].batch(share, [], optimizer)
        assert optimizer.param_groups[0]["momentum"] == pytest.approx(momentum)


def test_batches_at_first():
    batch = [torch.arange(32).view(4, 8), -torch.arange(32).view(4, 8)]
    small, short = IDEAS["small batches first"], IDEAS["short windows first"]
    assert [array.shape for array in small.batch(0.4, batch, None)] == [(2, 8)] * 2
    assert [array.shape for array in short.batch(0.4, batch, None)] == [(16, 2)] * 2
    assert short.batch(0.4, batch, None)[0][1].tolist() == [2, 3]
    for idea in (small, short):
        assert [array.shape for array in idea.batch(0.5, batch, None)] == [(4, 8)] * 2


def test_cost(monkeypatch):
    """Of the whole run, not of its beginning; a step that meets a busy machine doesn't count."""
    clock, slow = [0.0], Idea()

    class Steps:
        def __init__(self, config, idea, data):
            self.slow, self.seconds = idea is slow, 6.0 if "bigrams" in idea.options else 12.0

        def step(self, i, n):
            clock[0] += 100 if i == 7 else (2 if i < n / 2 else 4) if self.slow else 1
    monkeypatch.setattr(ideas, "Trial", Steps)
    monkeypatch.setattr(ideas.time, "perf_counter", lambda: clock[0])
    config = Mock(steps=60)
    assert cost(config, slow, None) == (3, 20) and cost(config, Idea(), None) == (1, 60)
    assert cost(config, Idea(bigrams=0), None) == (1, 66), "6 seconds less before the first step"


def test_main(tried, capsys, monkeypatch):
    config, _ = tried
    for options in (["--preset", "classic"], ["--preset", "d4"]):
        with pytest.raises(ValueError, match="with --optimizer muon and some --steps"):
            ideas.main(["--ideas", "NorMuon", *options])
    ideas.main([])
    assert capsys.readouterr().out.count(": ") >= len(IDEAS)
    monkeypatch.setattr(ideas, "cost", lambda *what: (2.0, 4))
    asked = []
    monkeypatch.setattr(ideas, "bits_after", lambda config, idea, data: asked.append(
        (config.seed, config.steps)) or 2.0 - config.seed)
    ideas.main(["--ideas", "NorMuon", "--seeds", "2", "--preset", "nano", "--steps", "8", "--data",
                *config.data, "--data-dir", config.data_dir, "--vocab-size", "300",
                "--optimizer", "muon"])
    assert asked == [(0, 8), (1, 8), (0, 4), (1, 4)]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "| none | 1 | 8 | 1.500 | |", "| NorMuon | 2.00 | 4 | 1.500 | 0.000, 0.000 |"]


def test_bits(tried):
    config, data = tried
    assert bits_after(config, Idea(), data) == bits_after(config, Idea(), data) < 8
    assert bits_after(replace(config, seed=1), Idea(), data) != bits_after(config, Idea(), data)
