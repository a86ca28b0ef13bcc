"""Tests of lora.py: a layer, a model, then runs with adapters, which are merged at the end."""

import json
import signal
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch import nn

import beside
import train as trainer
import weights
from budget import count_adapters, count_parameters
from family import FAMILIES
from gpt import make_model
from length import memory_needed
from lora import LoRA, is_adapter, main, merge
from optim import make_optimizer
from presets import FullConfig
from rl import main as rl
from runs import load_run, load_state, newest_checkpoint, read_config, read_run, tensors
from sft import main as sft
from watch import activation_scales


# ---- a layer ----
def layer(bias=True, rank=2, alpha=8.0, seed=0, size=(4, 3)):
    linear = nn.Linear(*size, bias=bias)
    return linear, LoRA(linear, rank, alpha, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [True, False])
def test_adapt(bias):
    linear, lora = layer(bias)
    assert lora.weight is linear.weight and lora.bias is linear.bias, "they keep their names"
    assert not lora.weight.requires_grad and not (bias and lora.bias.requires_grad), (
        "W and b are frozen: they must require no gradients")
    assert lora.lora_a.shape == (2, 4) and lora.lora_b.shape == (3, 2), "A: (rank, in), B: (out, r)"
    trained = {name for name, p in lora.named_parameters() if p.requires_grad}
    assert trained == {"lora_a", "lora_b"}, "both must be parameters that are trained"
    assert (lora.lora_b == 0).all(), "B must be 0, so that at first nothing changes"
    expected = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)) / 2
    assert torch.allclose(lora.lora_a, expected), (
        "A must be normal numbers of std in^-0.5, drawn with the generator")
    assert lora.scale == 4, "the scale must be alpha divided by the rank"
    assert torch.equal(layer(size=(64, 3), rank=1)[1].lora_a, 0.125 * torch.randn(
        1, 64, generator=torch.Generator().manual_seed(0))), "std: by the width of the input"


def test_forward():
    lora = layer(False, 1, 2.0, size=(2, 1))[1]
    with torch.no_grad():
        for p, numbers in ((lora.weight, [[1, 2]]), (lora.lora_a, [[1, 1]]), (lora.lora_b, [[3]])):
            p.copy_(torch.tensor(numbers))
        assert lora(torch.ones(2)).item() == 15, "W x + scale B A x must be 3 + 2 * 3 * 2"
        lora = layer()[1]
        nn.init.normal_(lora.lora_b)
        x = torch.randn(5, 2, 4)
        whole = lora.weight + 4 * lora.lora_b @ lora.lora_a
        assert torch.allclose(lora(x), x @ whole.T + lora.bias, atol=1e-5), (
            "(..., in) becomes (..., out): W x + b + scale B A x")


def test_merged():
    linear, lora = layer()
    nn.init.normal_(lora.lora_b)
    x, place = torch.randn(5, 4), lora.weight.data_ptr()
    expected, random = lora(x), torch.get_rng_state()
    merged = lora.merged()
    assert type(merged) is nn.Linear and (merged.in_features, merged.out_features) == (4, 3), (
        "the result must be a plain Linear of the same size")
    assert torch.allclose(merged(x), expected, atol=1e-5), (
        "it must compute what the layer computed with its adapter: W + scale B A, and b")
    assert merged.weight.data_ptr() == place, "W is changed in place, not copied"
    assert torch.equal(random, torch.get_rng_state()), "no random numbers are drawn for a new W"


# ---- a model ----
SHAPE = dict(vocab_size=61, seq_len=16, n_layer=2, n_head=2, n_kv_head=1, d_model=16, d_ff=24)
KINDS = [{}, {"by_hand": True}, FAMILIES["gpt2"], FAMILIES["llama"], {"ngrams": 2}]


def config_of(**more):
    return FullConfig(**SHAPE | dict(init="x", lora=3, device="cpu", batch_size=4, micro_batch=2,
                                     steps=9) | more)


def adapted(config):
    """A model with adapters that change something."""
    model, generator = config.make_model(61), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(std=0.2, generator=generator)
    return model


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: ",".join(kind))
def test_a_model_with_adapters(kind):
    config = config_of(**kind)
    plain, model = make_model(config.gpt(61), config.seed), config.make_model(61)
    ids = torch.randint(61, (2, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(ids), model(ids)), "at first it must be the model without adapters"
    theirs = dict(plain.named_parameters())
    assert {n for n, _ in model.named_parameters() if not is_adapter(n)} == theirs.keys()
    linears = [name for name, m in plain.blocks.named_modules() if isinstance(m, nn.Linear)]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {f"blocks.{name}.lora_{x}" for name in linears for x in "ab"}
    n = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert n == count_adapters(config.gpt(61), 3)
    a_layer = model.blocks[0].mlp.up
    assert a_layer.scale == 2 and config_of(lora_alpha=6.0, **kind).make_model(
        61).blocks[1].mlp.up.scale == 2 and not torch.equal(a_layer.lora_a,
                                                            model.blocks[1].mlp.up.lora_a)

    model = adapted(config)
    before, logits = {n: p.clone() for n, p in model.named_parameters()}, model(ids).detach()
    optimizer = make_optimizer(model, config)
    batch = np.random.default_rng(0).integers(61, size=(2, 4, 16))
    trainer.train_step(model, optimizer, batch, 0, config)
    assert {n for n, p in model.named_parameters() if not torch.equal(p, before[n])} == trained
    assert len(optimizer.state) == len(trained), "no state of frozen weights"
    assert all(p.grad is None for p in model.parameters())
    assert activation_scales(model, ids)["logits"] > 0, "frozen weights have no gradients to watch"

    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(before[name])
    merge(model)
    assert [*dict(model.named_parameters())] == [*theirs], "and in the same order"
    assert torch.allclose(model(ids), logits, atol=1e-5)
    assert merge(model) is model and torch.allclose(model(ids), logits, atol=1e-5)


def test_adapters_are_moved_by_adamw():
    config = config_of(optimizer="muon", lr=0.01)
    groups = make_optimizer(config.make_model(61), config).param_groups
    assert {group["kind"] for group in groups} == {"adamw"}
    n = count_adapters(config.gpt(61), 3)
    assert [*beside.describe(groups, 0.01)] == [
        f"adamw      moves the adapters, {n:,} parameters in 16 tensors: learning rate 0.01, "
        "decay 0.1"]


@pytest.mark.parametrize("fields, says", [
    ({"init": ""}, "lora is 3, but adapters are for a model that is trained already: give --init"),
    ({"lora": 17}, "lora is 17, but the rank of adapters must be at most d_model, 16"),
    ({"lora": -1}, "lora is -1, but must be a number from 0")])
def test_configs_that_cannot_be(fields, says):
    with pytest.raises(ValueError, match=says):
        config_of(**fields)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory(dtype):
    """Of frozen weights there are no gradients and no averages."""
    config = config_of(dtype=dtype)
    plain, shape = FullConfig(**SHAPE | {"batch_size": 4, "micro_batch": 2}), config.gpt(61)
    n, k = sum(count_parameters(shape).values()), count_adapters(shape, 3)
    found, whole = memory_needed(config, shape), memory_needed(plain, shape)
    assert whole["gradients"] == 4 * n and whole["optimizer"] == 8 * n
    assert (found["weights"], found["gradients"], found["optimizer"]) == (4 * (n + k), 4 * k, 8 * k)
    model = config.make_model(61)
    optimizer = make_optimizer(model, config)
    trainer.train_step(model, optimizer, np.zeros((2, 4, 16), np.int64), 0, config)
    moments = [state[f"exp_avg{end}"] for state in optimizer.state.values() for end in ("", "_sq")]
    assert sum(p.nbytes for p in model.parameters()) == found["weights"]
    assert sum(moment.nbytes for moment in moments) == found["optimizer"]


# ---- whole runs ----
@pytest.fixture(scope="module")
def world(tmp_path_factory, quick_runs):
    """A folder with conversations, and a run to begin with, trained for two steps."""
    folder = tmp_path_factory.mktemp("lora")
    with open(folder / "talks.jsonl", "w", encoding="utf-8") as file:
        for n in range(60):
            talk = [{"role": "user", "content": f"What is {n}?"},
                    {"role": "assistant", "content": f"It is {n}."}]
            file.write(json.dumps({"messages": talk}) + "\n")
    (folder / "a.txt").write_text("spam and eggs " * 300)
    (folder / "b.txt").write_text("spam or eggs " * 300)
    trainer.main(["--preset", "nano", "--vocab-size", "280", "--seq-len", "48", "--steps", "2",
                  "--data", f"folder:{folder}", "--data-dir", str(folder / "data"), "--runs-dir",
                  str(folder / "runs"), "--name", "base", "--device", "cpu", "--no-by-hand"])
    return folder


def options(world, name, *more, init="base"):
    return ["--init", str(world / "runs" / init), "--data", f"jsonl:{world}/talks.jsonl",
            "--data-dir", str(world / "data"), "--runs-dir", str(world / "runs"), "--batch-size",
            "4", "--micro-batch", "2", "--steps", "4", "--warmup", "1", "--eval-every", "2",
            "--save-every", "2", "--lr", "0.01", "--device", "cpu", "--name", name, *more]


def saved(folder):
    """The tensors in a run's newest checkpoint."""
    paths = (newest_checkpoint(folder) / "weights").glob("*.npy")
    return {path.name.removesuffix(".npy"): np.load(path) for path in paths}


@pytest.fixture(scope="module")
def tuned(world):
    """A run with adapters; of these tests most read it."""
    sft(options(world, "tuned", "--lora", "4"))
    return world / "runs" / "tuned"


def test_a_run_trains_adapters_alone(world, tuned, capsys):
    sft(options(world, "again", "--lora", "4"))
    said = capsys.readouterr().out
    config = read_config(tuned)
    shape, before, after = config.gpt(280), saved(world / "runs" / "base"), saved(tuned)
    n = count_adapters(shape, 4)
    every = n + sum(count_parameters(shape).values())
    assert (f"adapters   of rank 4: {n:,} of {every:,} parameters are trained, {n / every:.2%}; "
            "the others are frozen") in said
    assert "moves the adapters" in said and "could not" not in said
    assert {name for name in after if not is_adapter(name)} == before.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before), "frozen"
    assert all(after[name].any() for name in after.keys() - before.keys()), "no B is 0 any more"
    state = load_state(newest_checkpoint(tuned))["optimizer"]["state"]
    assert len(state) == len(after) - len(before)
    again = saved(world / "runs" / "again")
    assert all(np.array_equal(after[name], again[name]) for name in after), "the same again"


def test_stopped_and_resumed_bit_for_bit(world, tuned, monkeypatch):
    step, n = trainer.train_step, iter(range(9))

    def stopping(*given):
        if next(n) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(*given)
    monkeypatch.setattr(trainer, "train_step", stopping)
    sft(options(world, "halved", "--lora", "4", "--snapshots", "2"))
    halved = world / "runs" / "halved"
    assert newest_checkpoint(halved).name == "step-000003"
    trainer.main(["--name", "halved", "--resume", "--runs-dir", str(world / "runs")])
    one, other = saved(tuned), saved(halved)
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert load_run(halved, which="1")[3] == 1, "snapshots have adapters, too"


def logits(folder, by_hand=False):
    return load_run(folder, by_hand=by_hand)[0](torch.arange(40)[None]).detach()


def test_merge(world, tuned, capsys, fails):
    runs = ["--runs-dir", str(world / "runs")]
    main(["merge", "--run", "tuned", "--name", "whole", *runs])
    said, whole = capsys.readouterr().out, world / "runs" / "whole"
    assert "whole" in said and read_config(whole).lora == 0
    assert asdict(read_config(whole)) | {"lora": 4} == asdict(read_config(tuned))
    assert read_run(whole)[1] == read_run(tuned)[1]
    assert [p.resolve() for _, p in read_run(whole)[2]] == [
        p.resolve() for _, p in read_run(tuned)[2]], "the data are where they were"
    assert saved(whole).keys() == saved(world / "runs" / "base").keys()
    for by_hand in (False, True):
        assert torch.allclose(logits(whole, by_hand), logits(tuned, by_hand), atol=1e-5)
    assert not torch.allclose(logits(tuned), logits(world / "runs" / "base"), atol=1e-3)
    assert "runs/whole has no adapters that could be merged" in fails(
        main, "merge", "--run", "whole", *runs)
    trainer.main(["--name", "whole", "--resume", "--steps", "5", *runs])
    assert len(load_state(newest_checkpoint(whole))["optimizer"]["state"]) == len(saved(whole)), (
        "it goes on as a run in which all is trained")


def test_a_run_begins_with_a_run_that_has_adapters(world, tuned):
    """They are merged; with --lora it has adapters of its own, which are new."""
    model = load_run(tuned)[0]
    expected = dict(tensors(merge(model)))
    for more in ((), ("--lora", "2")):
        sft(options(world, "third", *more, "--lr", "1e-12", "--steps", "1", init="tuned"))
        [third] = [p for p in (world / "runs").glob("third*") if read_config(p).lora == (
            2 if more else 0)]
        found = {name: p for name, p in saved(third).items() if not is_adapter(name)}
        assert found.keys() == expected.keys()
        for name in found:
            assert np.allclose(found[name], expected[name].numpy(), atol=1e-7), name


def test_reinforcement_learning(world, tuned):
    """Of adapters alone, beside a model in which other adapters have been merged."""
    with open(world / "sums.jsonl", "w", encoding="utf-8") as file:
        for n in range(40):
            talk = [{"role": "user", "content": f"{n} + 1?"},
                    {"role": "assistant", "content": f"#### {n + 1}"}]
            file.write(json.dumps({"messages": talk}) + "\n")
    rl(options(world, "rewarded", "--lora", "2", "--data", f"jsonl:{world}/sums.jsonl", "--steps",
               "2", "--group", "2", "--answer-tokens", "4", "--last-eval-tokens", "40",
               init="tuned"))
    rows = (world / "runs" / "rewarded" / "metrics.jsonl").read_text().splitlines()
    assert len([row for row in map(json.loads, rows) if "reward" in row]) == 2


def test_adapters_beside_a_model_from_elsewhere(world, tuned):
    """In Hugging Face's form, which has no tensors of adapters."""
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    model, tokenizer, *_ = load_run(tuned)
    weights.export(merge(model), tokenizer, world / "out")
    sft(options(world, "theirs", "--lora", "2", "--lr", "1e-12", "--steps", "1", init="../out"))
    frozen = saved(world / "runs" / "theirs")
    for name, tensor in tensors(model):
        assert np.array_equal(frozen[name], tensor.numpy()), name
