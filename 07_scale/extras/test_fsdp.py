"""Tests of fsdp.py; that its engines train what one process trains is test_scale.py's."""

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from fsdp import FSDP2, DividedOptimizer, full
from gpt import GPT, GPTConfig
from optim import make_optimizer
from ranks import on_ranks
from train import Config

SMALL = dict(vocab_size=61, seq_len=16, n_layer=1, n_head=2, n_kv_head=2, d_model=32, d_ff=64)


def test_full():
    def work(rank):
        model = GPT(GPTConfig(**SMALL))
        whole = model.head.weight.detach().clone()
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
        part = model.head.weight.to_local()
        return part.numel() / whole.numel(), torch.equal(full(model.head.weight), whole)
    assert on_ranks(work) == [(31 / 61, True), (30 / 61, True)]
    assert full(7) == 7


def test_gradients_are_divided_after_every_micro_batch():
    def work(rank):
        model, ids = GPT(GPTConfig(**SMALL)), torch.arange(32).view(2, 16)
        n = sum(p.numel() for p in model.parameters())
        engine = FSDP2(model, Config(**SMALL))
        for last in (False, True):
            engine.backward(engine.loss(ids, ids).mean(), last)
            assert sum(g.numel() for g in engine.gradients()) < 0.51 * n
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
