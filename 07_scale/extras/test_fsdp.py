"""Tests of fsdp.py: what a rank holds, and what it computes with it. Whole runs: test_scale.py."""

import contextlib
import dataclasses
import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

import snapshots
from family import FAMILIES
from fsdp import DividedOptimizer, full, sharded_model, sharded_run
from gpt import GPT, GPTConfig, generate
from nonfinite import first_bad
from optim import make_optimizer
from plan import moments, peak
from presets import FullConfig
from ranks import on_ranks
from runs import newest_checkpoint, restore_state, restore_weights, save_checkpoint
from scale import make_engine, total, train_step
from snapshots import save_snapshot, weights_of
from train import Config, score
from watch import activation_scales

SMALL = dict(vocab_size=61, seq_len=16, n_layer=1, n_head=2, n_kv_head=2, d_model=32, d_ff=64)


def engine_of(config, name="fsdp2"):
    model = (sharded_model(config, 61, "cpu") if name == "fsdp2" else config.make_model(61))
    return make_engine(name, model, config)


def windows(rank, n=4):
    ids = np.random.default_rng(rank).integers(0, 61, (n, 17))
    return ids[:, :-1], ids[:, 1:].copy()


def test_full():
    def work(rank):
        model = GPT(GPTConfig(**SMALL))
        whole = model.head.weight.detach().clone()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        part = model.head.weight.to_local()
        return part.numel() / whole.numel(), torch.equal(full(model.head.weight), whole)
    assert on_ranks(work) == [(31 / 61, True), (30 / 61, True)]
    assert full(7) == 7


# ---- the beginning ----
def test_weights_are_those_of_one_process():
    """Bit for bit, for the same seed, in each family; and steps are as those of ddp."""
    families = [{}, FAMILIES["gpt2"], FAMILIES["llama"] | dict(tied=True),
                FAMILIES["scratch"] | dict(ngrams=2, ngram_rows=50)]

    def work(rank):
        for family in families:
            config = FullConfig(**SMALL | family | dict(seed=3, device="cpu"))
            engines = [engine_of(config, name) for name in ("fsdp2", "ddp")]
            shares, whole = (dict(engine.tensors()) for engine in engines)
            assert shares.keys() == whole.keys()
            for name in whole:
                assert torch.equal(shares[name], whole[name]), (family, name)
            own = sum(p.to_local().numel() for p in engines[0].model.parameters())
            assert own < 0.51 * sum(p.numel() for p in engines[1].model.parameters())
            for step in range(2):
                ours, theirs = (train_step(engine, windows(rank), step, config)
                                for engine in engines)
                assert ours == pytest.approx(theirs, abs=1e-5), (family, step)
    on_ranks(work)


def test_gradients_are_divided_after_every_micro_batch():
    def work(rank):
        engine, ids = engine_of(Config(**SMALL)), torch.arange(32).view(2, 16)
        n = sum(p.numel() for p in engine.model.parameters())
        for last in (False, True):
            engine.backward(engine.loss(ids, ids).mean(), last)
            assert sum(g.numel() for g in engine.gradients()) < 0.51 * n
    on_ranks(work)


@pytest.mark.parametrize("name", ["gpt2", "nanochat"])
def test_bfloat16_is_that_of_autocast(name):
    """Matrices of blocks are gathered in bfloat16; gains of norms, the residual stream and sums
    stay in float32; also where nobody else says so, in a sample.
    """
    config = FullConfig(**SMALL | FAMILIES.get(name, {}), dtype="bfloat16", device="cpu")

    def work(rank):
        sharded, plain = engine_of(config), engine_of(config, "ddp")
        ids, seen = torch.arange(32).view(2, 16), []
        sharded.model.blocks[0].mlp.register_forward_pre_hook(lambda mlp, x: seen.append(
            (mlp.up.weight.dtype, x[0].dtype)))
        for step in range(2):
            ours, theirs = (train_step(engine, windows(rank), step, config)
                            for engine in (sharded, plain))
            assert ours == pytest.approx(theirs, rel=1e-3), step
        assert {g.dtype for g in sharded.gradients()} <= {torch.float32}
        with torch.no_grad():
            sharded.model(ids)
        assert seen == [(torch.bfloat16, torch.float32)] * 3
    on_ranks(work)


# ---- what looks at the model ----
def test_evaluation_on_shares():
    """Of one window for two ranks, and of three, of which the head takes a part at a time: the
    second rank calls the model, and the head, as often.
    """
    def work(rank):
        for T, n in ((16, 10), (16, 40), (600, 1300)):
            config = Config(**SMALL | {"seq_len": T}, device="cpu")
            model, plain = engine_of(config).model, config.make_model(61)
            ids = np.random.default_rng(0).integers(0, 61, n)
            found = total(score(model, ids, rank=rank, world=2))
            np.testing.assert_allclose(found, score(plain, ids), rtol=1e-6)
            own = [module for module in model.modules() if hasattr(module, "reshard")]
            assert own and all(hasattr(p, "to_local") for m in own if m is not model
                               for p in m.parameters()), "nothing stays whole"
    on_ranks(work)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "nanochat"])
def test_compiled_blocks_of_shares(name, monkeypatch):
    """They compute the same, are still gathered one by one, and write samples."""
    def work(rank):
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
        config = FullConfig(**SMALL | FAMILIES.get(name, {}), device="cpu")
        engines = engine_of(config), engine_of(dataclasses.replace(config, compile=True))
        for step in range(2):
            plain, ours = (train_step(engine, windows(rank), step, config) for engine in engines)
            assert ours == pytest.approx(plain, rel=1e-6)
        model = engines[1].model
        assert all(hasattr(p, "to_local") for block in model.blocks for p in block.parameters())
        texts = [torch.stack([*generate(e.model, [[1, 2]], 9)]).tolist() for e in engines]
        assert texts[0] == texts[1]
    on_ranks(work)


def test_samples_and_activations_on_shares():
    def work(rank):
        config = Config(**SMALL, device="cpu")
        engine, plain = engine_of(config), engine_of(config, "ddp")
        for step in range(2):
            ids = torch.from_numpy(windows(0)[0])
            for each in (engine, plain):
                train_step(each, windows(rank), step, config)
            looks = [(activation_scales(each.model, ids), torch.stack([*generate(
                each.model, [[1, 2]], 18)]).tolist()) for each in (engine, plain)]
            assert looks[0][0] == pytest.approx(looks[1][0], rel=1e-4)
            assert looks[0][1] == looks[1][1]
    on_ranks(work)


def test_the_first_that_is_not_finite():
    """Found on shares, though only one rank has a bad one, and the other computes as often."""
    def work(rank):
        config = Config(**SMALL | dict(micro_batch=1), device="cpu")
        engine = engine_of(config)
        with torch.no_grad():
            engine.model.blocks[0].mlp.up.weight.to_local()[0, 0] = math.inf if rank else 0.5
        arrays = [*map(torch.from_numpy, windows(rank, 2))]
        return first_bad(engine.model, arrays, config)
    first, second = on_ranks(work)
    assert second.startswith("the weight blocks.0.mlp.up.weight: 0 nan and 1 inf")
    assert first.startswith("what comes out of blocks.0.mlp.up")


# ---- checkpoints ----
def save(engine, step, folder):
    """As scale.train() does."""
    state = dict(step=step, seconds=1.0, data="hash", rng=torch.get_rng_state(), loader={},
                 optimizer=engine.state_dict())
    weights = engine.tensors()
    for _ in weights if dist.get_rank() else ():
        pass
    if dist.get_rank() == 0:
        save_checkpoint(folder, step, weights, state)
    dist.barrier()


def restored(name, folder, config):
    data = SimpleNamespace(hash="hash", tokenizer=SimpleNamespace(vocab_size=61))
    if name == "fsdp2":
        model, state = sharded_run(folder, config, data, "cpu")
    else:
        model = config.make_model(61)
        state = restore_weights(folder, config, data, model)
    engine = make_engine(name, model, config, folder)
    restore_state(state, optimizer=engine)
    return engine


def test_a_checkpoint_is_for_every_engine(tmp_path):
    """Two steps with one engine and two with another are as four of ddp."""
    config = Config(**SMALL, device="cpu", warmup=1)

    def work(rank):
        steady = engine_of(config, "ddp")
        expected = [train_step(steady, windows(rank + 2 * i), i, config) for i in range(4)]
        for writer, readers in (("fsdp2", ("ddp", "zero2", "fsdp2")), ("ddp", ("fsdp2",))):
            folder = tmp_path / writer
            folder.mkdir(exist_ok=True)
            first = restored(writer, folder, config)
            begun = [train_step(first, windows(rank + 2 * i), i, config) for i in range(2)]
            save(first, 2, folder)
            assert [path.name for path in folder.iterdir()] == ["checkpoints"]
            for reader in readers:
                engine = restored(reader, folder, config)
                ended = [train_step(engine, windows(rank + 2 * i), i, config) for i in (2, 3)]
                for one, other in zip(begun + ended, expected):
                    assert one == pytest.approx(other, abs=1e-5), (writer, reader)
    on_ranks(work)
    states = [torch.load(newest_checkpoint(tmp_path / writer) / "state.pt", weights_only=True)[
        "optimizer"]["state"] for writer in ("fsdp2", "ddp")]
    assert states[0].keys() == states[1].keys()
    for i, state in states[1].items():
        for name, value in state.items():
            torch.testing.assert_close(states[0][i][name], value)


def test_snapshots_of_shares(tmp_path):
    """Whole tensors, as those of ddp, which all ranks gather together; if rank 0 can't write one,
    the ranks train on together.
    """
    def work(rank):
        config = FullConfig(**SMALL, steps=2, snapshots=2, device="cpu")
        engines = [engine_of(config, name) for name in ("fsdp2", "ddp")]
        with pytest.MonkeyPatch.context() as monkeypatch:
            def full(folder, step, weights, *rest):
                next(weights)
                raise OSError("No space left on device")
            monkeypatch.setattr(snapshots, "save_checkpoint", full)
            with contextlib.nullcontext() if rank else pytest.raises(OSError, match="No space"):
                save_snapshot(config, tmp_path, 1, engines[0].tensors, None, rank == 0)
        for engine in engines:
            train_step(engine, windows(rank), 1, config)
        save_snapshot(config, tmp_path, 2, engines[0].tensors, None, rank == 0)
        shares, whole = (dict(engine.tensors()) for engine in engines)
        if rank == 0:
            [path] = weights_of(tmp_path).values()
            files = {file.stem: np.load(file) for file in (path / "weights").iterdir()}
            assert files.keys() == whole.keys()
            for name, file in files.items():
                assert np.array_equal(file, shares[name]), name
                np.testing.assert_allclose(file, whole[name], atol=1e-5, err_msg=name)
    on_ranks(work)


def test_divided_optimizer():
    """What it remembers is whole, loads into a plain one, and comes back."""
    def work(rank):
        config, model = Config(**SMALL), GPT(GPTConfig(**SMALL))
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        register_fsdp_forward_method(model, "loss")
        optimizer = DividedOptimizer(make_optimizer(model, config).param_groups, {})
        ids = torch.arange(32).view(2, 16)
        model.loss(ids, ids).mean().backward()
        optimizer.step()
        said = [optimizer.state_dict()]
        assert bool(said[0]["state"]) == (rank == 0), "the others keep nothing"
        dist.broadcast_object_list(said, src=0)  # as a file that both read

        plain = make_optimizer(GPT(GPTConfig(**SMALL)), config)
        plain.load_state_dict(said[0])
        for group in plain.param_groups:
            for p in group["params"]:
                assert plain.state[p]["exp_avg"].shape == p.shape
        again = DividedOptimizer(make_optimizer(model, config).param_groups, {})
        again.load_state_dict(plain.state_dict())
        for p, state in optimizer.state.items():
            for name, value in state.items():
                assert torch.equal(full(again.state[p][name]), full(value)), name
            assert again.state[p]["exp_avg"].placements == p.placements
    on_ranks(work)


# ---- memory ----
@contextlib.contextmanager
def most_allocated(found):
    """Append to `found` by how many bytes tensors on the CPU were more, at most, than before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU],
                                profile_memory=True) as profile:
        yield
    events = [event for event in profile.profiler.kineto_results.events()
              if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    found.append(int(max(np.cumsum([event.nbytes() for event in events]), default=0)))


def test_no_rank_holds_more_than_its_share_and_a_block(tmp_path):
    """At any time: neither when it is built, nor in a step, an evaluation, a sample, when it is
    saved or read.
    """
    config = Config(vocab_size=61, seq_len=16, n_layer=8, n_head=2, n_kv_head=2, d_model=64,
                    d_ff=256, device="cpu", batch_size=2, micro_batch=1)
    n = sum(p.numel() for p in config.make_model(61).parameters())
    share, block = 4 * n / 2, 4 * 12 * 64**2  # bytes; the table is smaller

    def work(rank):
        found = []
        with most_allocated(found):
            engine = engine_of(config)
        assert share <= found[0] < share + 2 * block, "weights, and one that is drawn"
        with most_allocated(found):
            for step in range(2):
                train_step(engine, windows(rank, 1), step, config)
        assert share + found[1] < 1.1 * peak(moments(config, config, "fsdp2", 2)), "the plan's"
        for look in (lambda: score(engine.model, np.zeros(40, int), rank=rank, world=2),
                     lambda: list(generate(engine.model, [[1]], 2)),
                     lambda: save(engine, 2, tmp_path)):
            with most_allocated(found):
                look()
            assert found[-1] < 7 * block, "nothing but what is gathered"
        with most_allocated(found):
            engine = restored("fsdp2", tmp_path, config)
        mapped = (newest_checkpoint(tmp_path) / "state.pt").stat().st_size  # counted, not read
        assert found[-1] < 3 * share + 2 * block + mapped, "weights and two moments"
    on_ranks(work)
