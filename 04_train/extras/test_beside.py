"""Tests of beside.py; that a run leaves all of it behind is test_train.py's."""

import gc
import json
from types import SimpleNamespace

import pytest
import torch

import beside
from beside import Beside
from data import Batches, prepare
from gpt import GPT, GPTConfig, generate, random_pick
from optim import make_optimizer
from runs import tensors
from train import Config, train_step


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(rank, step): (a Beside, its model, its loader, its config) in tmp_path."""
    monkeypatch.setattr(beside, "draw", lambda metrics, path: path.touch())
    (tmp_path / "text").write_text("".join(f"{i} spam {i % 7} eggs\n" for i in range(500)))
    data = prepare([f"folder:{tmp_path / 'text'}"], 280, tmp_path / "data", say=lambda words: None)
    config = Config(seq_len=16, n_layer=1, d_model=16, d_ff=16, eval_every=2, device="cpu")
    model = GPT(config.gpt(data.tokenizer.vocab_size))

    def start(rank=0, step=0):
        loader = Batches(data, config.batch_size, config.seq_len)
        begins = {"step": step, "seconds": 0.5 * step}
        return Beside(config, tmp_path, data, loader, begins, model,
                      lambda: tensors(model), rank), model, loader, config
    return start


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def steps(run, first, last, **how):
    told, model, loader, config = run(step=first, **how)
    optimizer = make_optimizer(model, config)
    with told:
        for step in range(first, last):
            batch = next(loader)
            loss, norm = train_step(model, optimizer, batch, step, config)
            told.after(step + 1, 0.5 * step + 0.5, loss, norm, optimizer.param_groups,
                       1.5 if step % 2 else None, batch)
    return told


def test_what_is_recorded(run, tmp_path):
    steps(run, 0, 4)
    found = rows(tmp_path)
    assert [row["step"] for row in found if "loss" in row] == [1, 2, 3, 4]
    first = next(row for row in found if "loss" in row)
    assert first["tokens"] == 8 * 16 and first["seconds"] == 0.5 and first["grad_norm"] > 0
    assert "environment" in found[0] and found[0]["parameters"] > 0
    assert [row["step"] for row in found if "val_bits_per_byte" in row] == [2, 4]
    [look] = [row for row in found if "update_ratio" in row and row["step"] == 4]
    assert look["update_ratio"]["embed"] > 0 and isinstance(look["sample"], str)
    assert set(look["activation_scale"]) == {"embed", "blocks.0", "logits"}
    assert (tmp_path / "loss.png").exists()


def test_a_sample_of_python_is_of_a_function(run, tmp_path):
    """A file's beginning is but a notice or a docstring; of other texts, nobody knows better."""
    told, model, *_ = run()
    with told:
        assert not beside.sample(model, told.data, 5).startswith("def main(")
        del told.data.index["source"]  # a mixture has none
        assert not beside.sample(model, told.data, 5).startswith("def main(")
        told.data.index["source"] = "python"
        wrote = beside.sample(model, told.data, 5)
        assert wrote.startswith("def main(") and wrote == beside.sample(model, told.data, 5)
        told.finished(1, 1.0)
    assert rows(tmp_path)[-1]["sample"].startswith("def main(")


def live_bytes():
    """Bytes of all tensors that anything refers to, each storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
                for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter)}
    return sum(storages.values())


def test_no_copy_of_the_weights_is_alive_during_a_step(run, tmp_path):
    """A step whose updates are measured takes a tenth of the weights more, at most, than another;
    of this model's one matrix that is larger than what is looked at, all others are tiny.
    """
    told, model, loader, config = run()
    model.embed = torch.nn.Embedding(50_000, 16)
    model.head = torch.nn.Linear(16, 50_000, bias=False)
    optimizer, seen = make_optimizer(model, config), []
    with told:
        for step in range(3):
            batch = next(loader)
            seen.append((live_bytes(), bool(told.earlier)))
            loss, norm = train_step(model, optimizer, batch, step, config)
            told.after(step + 1, 1.0 + step, loss, norm, optimizer.param_groups, None, batch)
    (_, first), (measured, second), (plain, third) = seen
    assert (first, second, third) == (False, True, False)
    weights = sum(p.nbytes for p in model.parameters())
    assert measured - plain < weights / 10, "the weights are copied"
    [look] = [row["update_ratio"] for row in rows(tmp_path) if "update_ratio" in row]
    assert look["head"] > 0


def test_other_ranks_write_nothing(run, tmp_path):
    told = steps(run, 0, 2, rank=1)
    assert not (tmp_path / "metrics.jsonl").exists() and told.earlier == {}
    told.finished(2, 1.0)
    assert not (tmp_path / "report.html").exists()


def test_spikes_are_known_after_a_break(run, tmp_path):
    """They stand out of the losses before them, also of those before the run went on."""
    steps(run, 0, 2)
    told, *_ = run(step=2)
    assert told.spikes.recent == [row["loss"] for row in rows(tmp_path) if "loss" in row]
    told.__exit__(None, None, None)


def test_the_end(run, tmp_path, capsys):
    told = steps(run, 0, 2)
    told.log = beside.Log(tmp_path, 2)
    told.finished(2, 1.25)
    last = rows(tmp_path)[-1]
    assert last["val_bits_per_byte"] == 1.25 and set(last["baselines"]) == {
        "uniform", "unigram", "zlib -9", "lzma -9"}
    assert "1.25" in (tmp_path / "report.html").read_text()


def test_a_picture_that_fails_stops_nothing(run, monkeypatch, capsys):
    def fails(metrics, path):
        raise torch.OutOfMemoryError("no room")
    monkeypatch.setattr(beside, "draw", fails)
    steps(run, 0, 2)
    assert "loss.png; the run goes on (no room)" in capsys.readouterr().err


def test_nothing_that_is_only_a_hint_ends_a_run(run, monkeypatch, tmp_path, capsys):
    """Each says so once, in a line; what can be done is done."""
    def fails(*what, **named):
        raise OSError("it rains")
    monkeypatch.setattr(beside.Log, "record", fails)
    hints = ("environment", "activation_scales", "sample", "baselines", "page", "draw")
    for name in hints:
        monkeypatch.setattr(beside, name, fails)
    steps(run, 0, 4).finished(4, 1.5)
    said, lines = capsys.readouterr(), []
    lines = [line for line in said.err.splitlines() if "it rains" in line]
    assert len(lines) == len(set(lines)) == 7 and "this model" in said.out
    assert all(line.startswith("could not ") for line in lines), lines


@pytest.mark.parametrize("spoil, said", [
    (lambda path: path.write_bytes(b"\xff\n"), "it is metrics.jsonl.damaged now"),
    (lambda path: path.mkdir(), "could not write ")], ids=["damaged", "a folder"])
def test_a_log_that_cannot_go_on(run, spoil, said, tmp_path, capsys):
    spoil(tmp_path / "metrics.jsonl")
    steps(run, 0, 2).finished(2, 1.5)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_describe(optimizer):
    config = Config(optimizer=optimizer, lr=0.001, seq_len=16, n_layer=2, d_model=16, d_ff=16)
    made = make_optimizer(GPT(config.gpt(300)), config)
    first, second = beside.describe(made.param_groups, config.lr)
    rate = "0.02" if optimizer == "muon" else "0.001"
    assert first == (f"{optimizer:10} moves the matrices of the blocks, 3,072 parameters in 8 "
                     f"tensors: learning rate {rate}, decay 0.1")
    assert second == ("adamw      moves all else, tables and head, 9,600 parameters in 2 tensors: "
                      "learning rate 0.001, decay 0")


def test_a_sample_waits_for_the_device_once(host_reads, monkeypatch):
    """When all its ids are chosen."""
    monkeypatch.setattr(beside, "document_start", lambda tokenizer: [1])
    model, read = GPT(GPTConfig(vocab_size=61, seq_len=16, n_head=2, d_model=16, d_ff=32)), []
    tokenizer = SimpleNamespace(decode=lambda ids: read.append(ids) or "text",
                                encode=lambda text: [])
    with host_reads() as reads:
        assert beside.sample(model, SimpleNamespace(tokenizer=tokenizer, index={}), 20) == "text"
    assert reads.n == 1 and len(read[0]) == 20 and all(type(i) is int for i in read[0])
    picks = generate(model, [[1]], 20, random_pick(0.8, seed=0))
    assert read[0] == [int(i) for i in picks], "the same numbers each time"
