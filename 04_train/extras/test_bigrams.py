"""Tests of bigrams.py: counts are those of a loop, and a model that has learned them knows them."""

import math
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import bigrams
import train
from bigrams import begin, count_bigrams, count_text, learn_bigrams
from data import Ids, prepare
from family import FAMILIES
from gpt import GPT, GPTConfig
from metrics import read_metrics
from presets import PRESETS, FullConfig
from runs import load_run

SMALL = GPTConfig(5, 8, 1, 2, 2, 16, 32)


def ids_of(n, vocab_size=5, mask=False, seed=0):
    rng = np.random.default_rng(seed)
    return Ids(rng.integers(0, vocab_size, n).astype(np.uint16),
               mask=rng.integers(0, 2, n).astype(np.uint8) if mask else None)


def counts_naive(ids, vocab_size):
    counts = torch.zeros(vocab_size, vocab_size)
    for i in range(len(ids) - 1):
        if ids.mask is None or ids.mask[i + 1]:
            counts[ids.ids[i], ids.ids[i + 1]] += 1
    return counts


@torch.no_grad()
def mean_nats(model, counts):
    """By definition, id by id."""
    nats = 0.0
    for a, row in enumerate(counts):
        logits = model(torch.tensor([[a]]))[0, 0]
        nats -= float((row * logits.log_softmax(0)).sum())
    return nats / float(counts.sum())


def test_count_bigrams():
    found = count_bigrams([0, 2, 2, 2], [2, 2, 2, 1], 3)
    assert found.dtype == torch.float32 and found.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 2]], (
        "0 comes before 2 once, 2 before 2 twice; the id has the row, the next id the column")
    assert count_bigrams([0, 1, 1], [1, 0, -1], 2).tolist() == [[0, 1], [1, 0]], (
        "what follows the last is not to be learned, and so not to be counted")
    assert count_bigrams([0], [0], 3).shape == (3, 3), "all ids have a row, also those not seen"


@pytest.mark.parametrize("mask", [False, True], ids=["all", "some"])
@pytest.mark.parametrize("part", [1, 7, 1000])
def test_count_text(mask, part):
    """Whatever the parts, each pair is counted once; of what is not learned, none."""
    ids = ids_of(16 * part + 1 if part < 1000 else 60, mask=mask)
    assert torch.equal(count_text(ids, 5, part), counts_naive(ids, 5))
    assert torch.equal(count_text(ids_of(1), 5, part), torch.zeros(5, 5)), "one id is no pair"


def test_a_long_text_is_counted_in_parts_of_it():
    ids = Ids(np.arange(1000, dtype=np.uint16))
    counts = count_text(ids, 1000, part=10)
    found = counts.diagonal(1).nonzero().flatten()
    assert counts.sum() == len(found) == 160, "16 parts of 10, none of them twice"
    assert found[0] == 0 and found.diff().max() <= 1000 / 15 and found[-1] > 999 - 20, "evenly"


def test_learn_bigrams():
    """As near to the counts as it can come; each row weighs as often as its id occurs."""
    counts = torch.tensor([[8.0, 1, 1, 0, 0], [0, 5, 5, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 90],
                           [0, 0, 0, 0, 0]])
    p = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    least = float(-(counts * p.clamp(min=1e-9).log()).sum() / counts.sum())
    model = GPT(SMALL)
    blocks = [p.clone() for p in model.blocks.parameters()]
    loss = learn_bigrams(model, counts, 200)
    assert loss == pytest.approx(mean_nats(model, counts), abs=1e-3), (
        "the loss is the mean over all pairs that were counted")
    assert type(loss) is float and not torch.equal(model.embed.weight, GPT(SMALL).embed.weight), (
        "the table is to learn as well as the head")
    assert least < mean_nats(model, counts) < least + 0.02, (
        "after 200 steps the model is nearly as good as the counts themselves")
    assert all(torch.equal(*pair) for pair in zip(blocks, model.blocks.parameters()))


def test_learn_bigrams_returns_the_loss_before_the_last_step():
    counts = counts_naive(ids_of(100), 5)
    model = GPT(SMALL)
    assert learn_bigrams(GPT(SMALL), counts, 1) == pytest.approx(mean_nats(model, counts), abs=1e-6)
    assert learn_bigrams(model, counts, 1) == pytest.approx(math.log(5), abs=1e-3)
    assert learn_bigrams(GPT(SMALL), counts, 2) == pytest.approx(mean_nats(model, counts), abs=1e-6)


def test_rates_fall_from_the_middle_on(monkeypatch):
    seen = []

    class Noting(bigrams.Optimizer):
        def step(self):
            seen.append(self.param_groups[0]["lr"])
            super().step()
    monkeypatch.setattr(bigrams, "Optimizer", Noting)
    learn_bigrams(GPT(SMALL), torch.ones(5, 5), 4, lr=1.0)
    assert seen == [1, 1, 1, 0.5], "the rate falls from the middle of the steps on"


def test_rows_at_a_time_make_no_difference(monkeypatch):
    counts = counts_naive(ids_of(100), 5)
    whole, parts = GPT(SMALL), GPT(SMALL)
    loss = learn_bigrams(whole, counts, 3)
    forward, sizes = GPT.forward, []
    monkeypatch.setattr(GPT, "forward",
                        lambda self, ids: sizes.append(len(ids)) or forward(self, ids))
    monkeypatch.setattr(bigrams, "LOGITS", 10)
    assert learn_bigrams(parts, counts, 3) == pytest.approx(loss), "the loss over all rows"
    assert sizes == [2, 2, 1] * 3
    for a, b in zip(whole.parameters(), parts.parameters()):
        torch.testing.assert_close(a, b)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """(config, data): after a letter of the first eight comes always the same of the last."""
    folder = tmp_path_factory.mktemp("bigrams")
    rng = np.random.default_rng(0)
    (folder / "text").write_text("".join("abcdefgh"[i] + "stuvwxyz"[i] for i in
                                         rng.integers(0, 8, 4000)))
    config = FullConfig(**PRESETS["nano"] | dict(
        data=(f"folder:{folder / 'text'}",), vocab_size=265, n_layer=2, d_model=16, d_ff=32,
        seq_len=16, batch_size=4, micro_batch=4, steps=2, bigrams=30, by_hand=False,
        data_dir=str(folder / "data"), device="cpu"))
    return config, prepare(config.data, config.vocab_size, config.data_dir)


def test_begin(text, capsys):
    """A new model, whose blocks add nothing yet, knows what follows; its blocks are untouched."""
    config, data = text
    model, plain = config.make_model(265), config.make_model(265)
    assert 0 < begin(model, config, data) < 600
    assert capsys.readouterr().out.startswith(f"bigrams    {len(data.train) - 1:,} counted and ")
    p = model(torch.tensor([list(b"abc")]))[0].softmax(dim=-1)
    assert p.argmax(dim=-1).tolist() == [*b"stu"] and p.max(dim=-1).values.min() > 0.7
    for (name, a), b in zip(model.named_parameters(), plain.parameters()):
        assert torch.equal(a, b) == (name not in ("embed.weight", "head.weight")), name


def test_shares_of_a_mixture(text):
    """Each source counts as much as its share says, however long it is."""
    config, _ = text
    once, often = ids_of(40, 2, seed=1), Ids(np.zeros(4000, np.uint16))
    data = Mock(parts=[(0.75, Mock(train=once)), (0.25, Mock(train=often))],
                tokenizer=Mock(vocab_size=2))
    model = config.make_model(2)
    begin(model, replace(config, bigrams=200), data)
    expected = 0.75 * counts_naive(once, 2) / 39 + 0.25 * torch.tensor([[1.0, 0], [0, 0]])
    found = model(torch.tensor([[0], [1]]))[:, 0].softmax(dim=-1)
    torch.testing.assert_close(found, expected / expected.sum(dim=1, keepdim=True), atol=0.02,
                               rtol=0)


@pytest.mark.parametrize("changes", [dict(tied=True, d_model=64), dict(ngrams=2),
                                     dict(norm="layernorm"), dict(by_hand=True), FAMILIES["llama"]])
def test_other_families_begin_so_too(text, changes, capsys):
    """The model then does about as well as was said when its bigrams were learned."""
    config, data = text
    config = replace(config, **changes)
    model = config.make_model(265)
    begin(model, config, data)
    said = float(capsys.readouterr().out.split()[-4])
    with torch.no_grad():
        ids = torch.from_numpy(data.train.read(0, 17))[None]
        found = float(model.loss(ids[:, :-1], ids[:, 1:]).mean())
    assert found == pytest.approx(said, abs=0.5) and found < 4


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_positions_that_are_added_are_refused(text, positions):
    """The table alone isn't what the blocks see."""
    with pytest.raises(ValueError, match=f"bigrams is 30, but {positions} .* give --bigrams 0"):
        replace(text[0], positions=positions)
    replace(text[0], positions=positions, bigrams=0)
    replace(text[0], positions=positions, init="x")


def test_nothing_to_learn(text):
    """Where a mask leaves nothing, the model stays as it is."""
    config, _ = text
    ids = Ids(np.zeros(40, np.uint16), mask=np.zeros(40, np.uint8))
    model, plain = config.make_model(2), config.make_model(2)
    begin(model, config, Mock(parts=[(1.0, Mock(train=ids))], tokenizer=Mock(vocab_size=2)))
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), plain.parameters()))


def test_the_trainer_begins_so(text, tmp_path, quick_runs, monkeypatch):
    """Its clock counts the time, and a run that goes on doesn't begin again."""
    config, _ = text
    command = ["--preset", "nano", "--name", "a", "--data", *config.data, "--data-dir",
               config.data_dir, "--vocab-size", "265", "--steps", "1", "--runs-dir", str(tmp_path)]
    taken = []
    monkeypatch.setattr(bigrams, "begin", lambda *what: taken.append(begin(*what)) or 1000.0)
    train.main([*command, "--bigrams", "30"])
    model = load_run(tmp_path / "a")[0]
    p = model(torch.tensor([list(b"abc")]))[0].softmax(dim=-1)
    assert p.argmax(dim=-1).tolist() == [*b"stu"]
    train.main([*command, "--steps", "2", "--resume"])
    seconds = [row["seconds"] for row in read_metrics(tmp_path / "a" / "metrics.jsonl")
               if "seconds" in row]
    assert len(taken) == 1 and len(seconds) == 2 and min(seconds) > 1000


def test_too_many_ids_are_refused():
    with pytest.raises(ValueError, match="bigrams is 9, but of 4097 ids .*too many.* --bigrams 0"):
        FullConfig(vocab_size=4097, bigrams=9)
    FullConfig(vocab_size=4096, bigrams=9)
    FullConfig(**PRESETS["tiny"] | dict(vocab_size=50257, init="a model from elsewhere"))


def test_main(capsys):
    bigrams.main([])
    lines = capsys.readouterr().out.splitlines()
    bits = [float(line.split(": ")[1].split()[0]) for line in lines]
    assert bits[0] > bits[1] and bits[2] == 8, "what came before is worth something"
    assert bits[2] > bits[3] > bits[4] > bits[5] > bits[1], "learned, it comes near"
