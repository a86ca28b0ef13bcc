"""Tests of sft.py: windows of conversations, their loss, then runs that go on from another run."""

import json
import math
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train as trainer
from bpe import Tokenizer
from conversations import render
from data import Ids, bits_per_byte, token_bytes
from gpt import make_model
from presets import FullConfig
from runs import load_run, newest_checkpoint, read_config, tensors
from sft import Batches, Packed, main, pack, packed_loss, packed_mask
from train import Config, train_step

TOKENIZER = Tokenizer([])  # every byte is an id of its own
SHAPE = dict(vocab_size=TOKENIZER.vocab_size, seq_len=48, n_layer=2, n_head=2, n_kv_head=1,
             d_model=32, d_ff=48)


def conversation(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def split_of(conversations):
    """Conversations as Ids."""
    rows = [render(messages, TOKENIZER) for messages in conversations]
    starts = np.cumsum([0, *(len(ids) for ids, _ in rows)])[:-1]
    return Ids(np.concatenate([ids for ids, _ in rows]), starts,
               np.concatenate([mask for _, mask in rows]).astype(np.uint8))


TALKS = [conversation("?" * n, "a" * (n % 5 + 1) + str(n)) for n in range(1, 24)]


def data_of(train=TALKS, val=TALKS[:7]):
    data = SimpleNamespace(train=split_of(train), val=split_of(val), tokenizer=TOKENIZER)
    data.parts = [(1.0, data)]
    return data


def random_model(seed=0, **fields):
    """A model whose output matrices are not 0, as those of a new one are."""
    config = FullConfig(**SHAPE | fields)
    model, generator = make_model(config.gpt(TOKENIZER.vocab_size)), torch.Generator()
    generator.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model


# ---- several conversations in a window ----
def test_pack():
    for lengths, room, expected in (
            ([1, 3, 2, 2, 3], 5, [[1, 2], [4, 3], [0]]), ([5, 5], 5, [[0], [1]]), ([], 5, []),
            ([3, 1, 1], 5, [[0, 1, 2]]), ([4, 3, 2, 1], 5, [[0, 3], [1, 2]]),
            ([5, 6, 2, 1, 1], 8, [[1, 2], [0, 3, 4]])):
        found = pack(lengths, room)
        assert found == expected, (
            f"lengths {lengths} in windows of {room}: the longest first, each where the least room "
            f"is left: {expected}, not {found}")


def test_pack_is_close_to_full():
    lengths = np.random.default_rng(0).integers(1, 60, 2000).tolist()
    windows = pack(lengths, 64)
    assert sorted(i for window in windows for i in window) == list(range(2000))
    assert max(sum(lengths[i] for i in window) for window in windows) <= 64
    assert sum(lengths) / (64 * len(windows)) > 0.98
    assert len(pack(lengths[::-1], 64)) == len(windows), "whatever the order"


def test_packed_mask():
    mask = packed_mask(torch.tensor([[0, 0, 2, 2], [0, 1, 2, 3]]))
    assert mask.shape == (2, 1, 4, 4), "the shape is (B, 1, T, T): one mask for all heads"
    first = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]
    assert mask[0, 0].int().tolist() == first, (
        "an id attends to itself and to earlier ids of its own conversation alone")
    assert torch.equal(mask[1, 0], torch.eye(4).bool()), "padding attends to itself alone"


@pytest.mark.parametrize("kind", [{}, {"by_hand": True}, {"positions": "learned"},
                                  {"positions": "sinusoidal"}], ids=str)
def test_packed_loss(kind):
    """The loss of each conversation is what it is when the conversation is alone."""
    model, generator = random_model(**kind), torch.Generator().manual_seed(1)
    x = torch.randint(SHAPE["vocab_size"], (2, 48), generator=generator)
    y = torch.randint(-1, SHAPE["vocab_size"], (2, 48), generator=generator)
    spans = [(0, 0, 17), (0, 17, 12), (0, 29, 9), (1, 0, 30), (1, 30, 18)]  # row, place, length
    starts = torch.arange(48).repeat(2, 1)
    for b, place, n in spans:
        starts[b, place:place + n] = place
    y[0, 38:] = -1  # padding
    nats = packed_loss(model.loss, x, y, starts)
    for b, place, n in spans:
        here = slice(place, place + n)
        alone = model.loss(x[b:b + 1, here], y[b:b + 1, here])[0]
        assert torch.allclose(nats[b, here], alone, atol=2e-5), (
            "a conversation must cost what it costs when it is alone in a window: it sees no "
            "other one, and its positions count from 0")
    assert (nats[0, 38:] == 0).all(), "padding costs nothing"


def test_read():
    packed = Packed(split_of([conversation("a", "b"), conversation("", "cd")]), 16)
    inputs, targets, starts = packed.read(packed.windows([0, 1]))
    special = TOKENIZER.special
    bos, user, ended = (special[f"<|{n}|>"] for n in ("bos", "user_start", "user_end"))
    begin, end = special["<|assistant_start|>"], special["<|assistant_end|>"]
    first, second = [bos, user, 97, ended, begin, 98], [bos, user, ended, begin, 99, 100]
    assert inputs.tolist() == [[*first, *second, 0, 0, 0, 0]], (
        "all ids of a conversation but its last are inputs, one conversation behind the other")
    off = -1
    assert targets.tolist() == [[off, off, off, off, 98, end, off, off, off, 99, 100, end,
                                 off, off, off, off]], (
        "the target of an id is the next one, where that is learned: the assistant's words and end")
    assert starts.tolist() == [[0] * 6 + [6] * 6 + [12, 13, 14, 15]], (
        "starts has where a conversation begins, and of padding its own place")


def test_what_is_learned_are_the_assistants_words_and_ends():
    """Also if a user types what looks like special tokens."""
    talk = [*conversation("<|assistant_start|>I am you", "one"), *conversation("x", "two")]
    _, targets, _ = (packed := Packed(split_of([talk]), 90)).read(packed.windows([0]))
    assert TOKENIZER.decode(targets[targets >= 0].tolist()) == (
        "one<|assistant_end|>two<|assistant_end|>")


def test_long_conversations_are_cut_or_dropped():
    talks = [conversation("?" * 5, "a" * 30), conversation("?" * 30, "a"), conversation("?", "a")]
    packed = Packed(split_of(talks), 16)
    assert (packed.cut, packed.dropped) == (1, 1)
    assert packed.conversations == [(0, 17), (76, 7)], "the window and one more id, as a target"
    with pytest.raises(ValueError, match="of 1 conversations none has anything to learn in its fir"
                       "st 16 ids; is the window, seq_len, too short"):
        Packed(split_of(talks[1:2]), 16)


# ---- batches ----
def config_of(**more):
    return Config(**SHAPE | dict(sampling="conversations", batch_size=4, micro_batch=2, steps=4,
                                 warmup=1, lr=1e-3, eval_every=2, save_every=2, device="cpu"),
                  **more)


def test_every_conversation_comes_once_in_an_epoch():
    config, data = config_of(), data_of()
    loader, orders = Batches(config, data), []
    for epoch in range(2):
        n = len(loader.order)
        windows = [loader.window(epoch * n + i) for i in range(n)]
        assert sorted(one for w in windows for one in w) == loader.packed.conversations
        orders.append(windows)
    assert orders[0] != orders[1], "in another order"
    assert [*map(sorted, orders[0])] != [*map(sorted, orders[1])], "and in other company"


def test_batches_do_not_depend_on_ranks_or_stops():
    config, data = config_of(), data_of()
    whole, ranks = Batches(config, data), [Batches(config, data, None, r, 2) for r in range(2)]
    for step in range(5):
        batch, parts = next(whole), [next(rank) for rank in ranks]
        for i in range(3):
            assert all(np.array_equal(batch[i][r::2], parts[r][i]) for r in range(2))
        ranks[0].load_state_dict(json.loads(json.dumps(ranks[1].state_dict())))
    assert whole.epochs() == [20 / len(whole.order)]


def test_what_batches_refuse():
    data = data_of()
    with pytest.raises(ValueError, match="batch_size is 4, too few windows for 5 processes"):
        Batches(config_of(), data, None, 0, 5)
    data.parts = [(0.7, data), (0.3, data)]
    with pytest.raises(ValueError, match="read once in an epoch: give no shares"):
        Batches(config_of(), data)
    data = data_of()
    data.index = {"pairs": True}
    with pytest.raises(ValueError, match="half of the answers in pairs are not to be learned"):
        Batches(config_of(), data)


def gradients(config, batch, loss, model):
    """What train_step() gives to an optimizer."""
    found = []
    optimizer = SimpleNamespace(param_groups=[], zero_grad=model.zero_grad, step=lambda: found.
                                extend(p.grad.clone() for p in model.parameters()))
    mean, _ = train_step(model, optimizer, batch, 0, config, loss)
    return mean, found


def test_the_loss_is_divided_by_the_learned_tokens_of_the_step():
    """Not by those of a micro-batch: two answers of one id beside one of thirty."""
    data = data_of([conversation("?", "a"), conversation("??", "b"), conversation("?", "c" * 38)])
    config, model = config_of(grad_clip=1e9), random_model()
    loader = Batches(config, data)
    batch = loader.packed.read([[one] for one in loader.packed.conversations])
    loss = loader.objective(model.loss)
    mean, found = gradients(config, batch, loss, model)
    x, y, starts = map(torch.tensor, batch)
    expected = packed_loss(model.loss, x, y, starts).sum() / (2 + 2 + 39)
    assert mean == pytest.approx(expected.item(), rel=1e-5), (
        "all nats of a step over all that it learns, not the mean of the micro-batches' means")
    for one, other in zip(found, torch.autograd.grad(expected, [*model.parameters()])):
        assert torch.allclose(one, other, atol=1e-6)


def test_nothing_to_learn_is_no_nan():
    model = random_model()
    batch = np.zeros((2, 48), np.int64), np.full((2, 48), -1), np.tile(np.arange(48), (2, 1))
    mean, found = gradients(config_of(), batch, Batches(config_of(), data_of()).objective(
        model.loss), model)
    assert mean == 0 and all((g == 0).all() for g in found)


@pytest.mark.parametrize("batch_size, micro_batch, world", [(4, 2, 1), (3, 3, 1), (4, 4, 2)])
def test_evaluate(batch_size, micro_batch, world):
    """Bits per byte of each conversation alone, whatever the batch and the number of ranks."""
    model, data, sizes = random_model(), data_of(), token_bytes(TOKENIZER)
    config = config_of()
    loader = Batches(config, data)
    nats, targets = [], []
    for start, n in loader.val.conversations:
        labels = data.val.labels(start, n)[1:]
        ids = torch.tensor(data.val.read(start, n - 1))[None]
        nats.append(model.loss(ids, torch.tensor(labels)[None])[0].detach().numpy())
        targets.append(labels)
    expected = bits_per_byte(np.concatenate(nats), np.concatenate(targets), sizes)
    config = replace(config, batch_size=batch_size, micro_batch=micro_batch)
    parts = []
    for rank in range(world):
        loader.evaluate(model, data.val, sizes, config, None, rank, world,
                        lambda sums: parts.append(sums) or np.ones(2))
    found = loader.evaluate(model, data.val, sizes, config, None, 0, world,
                            lambda sums: np.sum(parts, axis=0))
    assert found == pytest.approx(expected, rel=1e-5)


def test_spoiled_weights_are_noticed():
    model, data = random_model(), data_of()
    model.head.weight.data[:] = math.nan
    with pytest.raises(ValueError, match="validation costs nan bits per byte"):
        Batches(config_of(), data).evaluate(model, data.val, token_bytes(TOKENIZER), config_of())


# ---- whole runs ----
def with_a_run(folder):
    """The folder, once it has runs/base, trained for two steps."""
    for i in range(3):
        (folder / f"{i}.txt").write_text(f"spam and eggs {i} " * 200)
    trainer.main(["--preset", "nano", "--vocab-size", "280", "--seq-len", "48", "--steps", "2",
                  "--data", f"folder:{folder}", "--data-dir", str(folder / "data"), "--runs-dir",
                  str(folder / "runs"), "--name", "base", "--device", "cpu", "--no-by-hand"])
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory, quick_runs):
    """A folder with conversations, and a run to begin with, trained for two steps."""
    folder = tmp_path_factory.mktemp("sft")
    with open(folder / "talks.jsonl", "w", encoding="utf-8") as file:
        for n in range(150):
            talk = conversation(f"What is {n}?", f"It is {n}.")
            file.write(json.dumps({"messages": talk}) + "\n")
    return with_a_run(folder)


def options(world, *more):
    return ["--init", str(world / "runs" / "base"), "--data", f"jsonl:{world}/talks.jsonl",
            "--data-dir", str(world / "data"), "--runs-dir", str(world / "runs"), "--batch-size",
            "4", "--micro-batch", "2", "--steps", "6", "--warmup", "1", "--eval-every", "3",
            "--save-every", "3", "--device", "cpu", "--no-by-hand", *more]


def weights(folder):
    return {name: tensor.clone() for name, tensor in tensors(load_run(folder)[0])}


def test_a_run_from_a_run(world, capsys):
    """Shape, tokenizer and weights are the other run's; steps, optimizer and rate are new."""
    main(options(world, "--name", "whole"))
    said = capsys.readouterr().out
    assert "conversations in" in said and "0 too long and cut" in said
    base, ours = world / "runs" / "base", world / "runs" / "whole"
    assert (base / "tokenizer.json").read_bytes() == (ours / "tokenizer.json").read_bytes()
    assert read_config(ours).gpt(280) == read_config(base).gpt(280)
    rows = [json.loads(line) for line in (ours / "metrics.jsonl").read_text().splitlines()]
    losses = {row["step"]: row["loss"] for row in rows if "loss" in row}
    rates = [row["lr"] for row in rows if "lr" in row]
    assert [*losses] == [1, 2, 3, 4, 5, 6] and rates[0] == max(rates), "the rate is warmed up anew"
    data = trainer.run_data(ours)
    config, model = read_config(ours), load_run(base)[0]
    loader = Batches(config, data)
    x, y, starts = map(torch.tensor, next(loader))
    first = packed_loss(model.loss, x, y, starts).sum() / (y >= 0).sum()
    assert losses[1] == pytest.approx(first.item(), rel=1e-5), "it begins with the other's weights"


def test_stopped_and_resumed_bit_for_bit(world, monkeypatch):
    """By Ctrl-C after step 2, which a resumed run does not repeat."""
    main(options(world, "--name", "straight"))
    step, n = trainer.train_step, iter(range(9))

    def stopping(*given):
        if next(n) == 1:
            signal.raise_signal(signal.SIGINT)
        return step(*given)
    monkeypatch.setattr(trainer, "train_step", stopping)
    main(options(world, "--name", "halved"))
    assert newest_checkpoint(world / "runs" / "halved").name == "step-000002"
    trainer.main(["--name", "halved", "--resume", "--no-by-hand", "--runs-dir",
                  str(world / "runs")])
    one, other = (weights(world / "runs" / name) for name in ("straight", "halved"))
    assert all(torch.equal(one[name], other[name]) for name in one), "train.py resumes it as well"


@pytest.mark.slow
def test_profile(world, monkeypatch, capsys, tmp_path):
    """Of packed conversations, with the tokenizer of the other run; nothing is trained."""
    given = options(world, "--profile")
    monkeypatch.chdir(tmp_path)
    main(given)
    assert "without the profiler, a step takes" in capsys.readouterr().out


def test_show_mask(world, capsys):
    main(options(world, "--show-mask", "2", "--name", "shown"))
    said = capsys.readouterr().out
    assert said.count("<|assistant_start|>[It is") == 2 and said.count("<|assistant_end|>]") == 2
    assert not (world / "runs" / "shown").exists(), "nothing is trained"


def test_mistakes_of_users(world, fails, monkeypatch):
    said = fails(main, *options(world, "--init", world / "nowhere"))
    assert "nowhere" in said
    said = fails(main, "--data", f"jsonl:{world}/talks.jsonl")
    assert said == "error: preset sft goes on from a model: give --init FOLDER"
    said = fails(main, *options(world, "--data", "tasks,form=pairs,n=200"))
    assert "half of the answers in pairs are not to be learned: see dpo.py" in said
    said = fails(main, *options(world, "--n-layer", "3"))
    assert "has n_layer 2, not 3: leave out --n-layer" in said
    said = fails(main, *options(world, "--seq-len", "8"))
    assert "none has anything to learn in its first 8 ids" in said
    monkeypatch.chdir(world)
    assert fails(main, *options(world, "--init", "base")).endswith("did you mean runs/base?")
