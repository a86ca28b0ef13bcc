"""Tests of gpt.py, from primitive to composite: the first that fails is the next exercise."""

import dataclasses
import math

import pytest
import torch

from gpt import (GPT, MLP, Attention, Block, GPTConfig, KVCache, attention, attention_by_hand,
                 generate, greedy, random_pick, rms_norm, rope_angles, rotate, visible)

SMALL = GPTConfig(vocab_size=61, seq_len=16, n_layer=3, n_head=4, n_kv_head=2, d_model=32, d_ff=48)
HEADS = [(4, 4), (4, 2), (4, 1)]  # (H, G): multi-head, grouped-query, multi-query


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_model(config=SMALL, seed=0):
    """A model whose matrices are all random: a new one's zeros would hide mistakes."""
    model = GPT(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model.eval()


def random_ids(*shape, seed=0, high=SMALL.vocab_size):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    return True


def test_rms_norm():
    assert close(rms_norm(torch.tensor([3.0, 4.0])), torch.tensor([0.848528, 1.131371]))
    x = randn(2, 5, 64)
    assert close(rms_norm(x).pow(2).mean(-1), torch.ones(2, 5)), "the mean square must be 1"
    assert close(rms_norm(1000 * x), rms_norm(x)), "the scale of x must not matter"
    assert rms_norm(torch.zeros(4)).tolist() == [0, 0, 0, 0], "eps keeps zeros finite"
    small = torch.full((4,), 1e-3)
    assert close(rms_norm(small), small / math.sqrt(2e-6)), "eps stands inside the root"
    half = rms_norm(torch.full((8,), 300.0, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16 and close(half.float(), torch.ones(8))


def test_rope_angles():
    cos, sin = rope_angles(torch.tensor([0, 1, 5]), 4, base=100.0)
    angles = torch.tensor([[0.0, 0.0], [1.0, 0.1], [5.0, 0.5]])  # 100^0 and 100^(-2/4)
    assert close(cos, angles.cos()) and close(sin, angles.sin())
    assert cos.dtype == torch.float32


def test_rotate():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)  # the pairs are (1, 3) and (2, 4)
    quarter, none = (torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    assert rotate(x, quarter, none).flatten().tolist() == [3.0, 2.0, -1.0, 4.0]


def test_rotate_is_relative():
    """q . k after turning depends on how far apart they stand, not on where."""
    q, k = randn(1, 1, 1, 8, seed=1), randn(1, 1, 1, 8, seed=2)

    def dot(i, j):
        at = [rope_angles(torch.tensor([p]), 8) for p in (i, j)]
        return (rotate(q, *at[0]) * rotate(k, *at[1])).sum()
    assert close(dot(3, 1), dot(103, 101), 1e-4) and close(dot(7, 7), (q * k).sum())
    assert not torch.allclose(dot(3, 1), dot(3, 2))


def test_visible():
    assert visible(2, 3).tolist() == [[True, True, False], [True, True, True]]
    assert visible(1, 4).tolist() == [[True] * 4], "the newest position sees all"
    assert visible(3, 3).tolist() == [[True, False, False], [True, True, False], [True] * 3]


def attention_by_loops(q, k, v):
    """The definition, three loops and no masks."""
    B, H, T, D = q.shape
    G, S = k.shape[1:3]
    out = torch.zeros_like(q)
    for b in range(B):
        for h in range(H):
            g = h // (H // G)
            for t in range(T):
                past = slice(0, S - T + t + 1)
                weights = torch.stack([q[b, h, t] @ key / D**0.5 for key in k[b, g, past]]).exp()
                out[b, h, t] = (weights / weights.sum()) @ v[b, g, past]
    return out


@pytest.mark.parametrize("H, G", HEADS)
@pytest.mark.parametrize("T, S", [(5, 5), (3, 7), (1, 6), (1, 1)])
def test_attention_by_hand(H, G, T, S):
    q, k, v = randn(2, H, T, 8, seed=1), randn(2, G, S, 8, seed=2), randn(2, G, S, 8, seed=3)
    assert close(attention_by_hand(q, k, v), attention_by_loops(q, k, v))


@pytest.mark.parametrize("H, G", HEADS)
@pytest.mark.parametrize("T, S", [(5, 5), (3, 7), (1, 6), (1, 1)])
def test_attention_fused(H, G, T, S):
    q, k, v = randn(2, H, T, 8, seed=1), randn(2, G, S, 8, seed=2), randn(2, G, S, 8, seed=3)
    assert close(attention(q, k, v), attention_by_hand(q, k, v))


def test_cache_append():
    cache = KVCache(SMALL, batch_size=2)
    k, v = randn(2, 2, 3, 8, seed=1), randn(2, 2, 3, 8, seed=2)
    keys, values = cache.append(1, k, v)
    assert close(keys, k) and close(values, v)
    assert cache.length == 0, "only the model moves `length`: the next layer writes there too"
    cache.length = 3
    k2, v2 = randn(2, 2, 2, 8, seed=3), randn(2, 2, 2, 8, seed=4)
    keys, values = cache.append(1, k2, v2)
    assert close(keys, torch.cat((k, k2), 2)) and close(values, torch.cat((v, v2), 2))
    assert keys.data_ptr() == cache.keys[1].data_ptr(), "the memory is the cache's own, no copy"


def test_mlp():
    mlp, x = MLP(SMALL), randn(2, 3, 32)
    expected = (mlp.up(x).clamp(min=0) ** 2) @ mlp.down.weight.T
    assert close(mlp(x), expected)
    assert not close_enough(mlp(2 * x), 2 * mlp(x)), "without the square it would be homogeneous"


def close_enough(a, b):
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_block():
    block, x = Block(SMALL, 0), randn(2, 5, 32)
    cos, sin = rope_angles(torch.arange(5), SMALL.head_dim)
    y = x + block.attention(rms_norm(x), cos, sin, None)
    assert close(block(x, cos, sin, None), y + block.mlp(rms_norm(y)))


def test_initial_loss_is_that_of_a_guess():
    losses = GPT(SMALL).loss(random_ids(4, 16), random_ids(4, 16, seed=1))
    assert losses.shape == (4, 16)
    assert close(losses, torch.full((4, 16), math.log(61)), 0.02)


def test_a_new_model_does_nothing_yet():
    """Each block adds zero to the stream; queries, keys, values and features are there, though."""
    for block in GPT(SMALL).blocks:
        assert (block.attention.out.weight == 0).all() and (block.mlp.down.weight == 0).all()
        for linear in (block.attention.q, block.attention.k, block.attention.v, block.mlp.up):
            assert linear.weight.std().item() == pytest.approx(SMALL.d_model**-0.5, rel=0.1)


def test_no_rows_are_no_problem():
    """A process may have no window of a batch; it must still take part, with gradients of zero."""
    model = random_model()
    model.loss(random_ids(0, 16), random_ids(0, 16)).sum().backward()
    assert all((p.grad == 0).all() for p in model.parameters())


def test_loss():
    model, ids, targets = random_model(), random_ids(2, 5), random_ids(2, 5, seed=1)
    targets[0, 2] = -100
    logits, losses = model(ids), model.loss(ids, targets)
    for b in range(2):
        for t in range(5):
            masked, target = (b, t) == (0, 2), targets[b, t]
            expected = 0 if masked else -logits[b, t].log_softmax(0)[target].item()
            assert losses[b, t].item() == pytest.approx(expected, abs=1e-4), f"position {b, t}"
    assert (model.loss(ids, torch.full_like(ids, -1)) == 0).all(), "nothing to learn is no NaN"


def test_logits_are_capped():
    model = random_model()
    with torch.no_grad():
        model.head.weight *= 1000
    logits = model(random_ids(1, 4))
    assert logits.abs().max() <= 15 and logits.dtype == torch.float32


def test_a_later_token_changes_no_earlier_logit():
    model, ids = random_model(), random_ids(1, 16)
    before = model(ids)
    for t in range(16):
        changed = ids.clone()
        changed[0, t] = (ids[0, t] + 1) % 61
        after = model(changed)
        assert (after[0, :t] == before[0, :t]).all(), f"id {t} changed a logit before it"
        assert not torch.equal(after[0, t], before[0, t])


def test_one_batch_can_be_learned_by_heart():
    model, ids = GPT(SMALL), random_ids(4, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model.loss(ids[:, :-1], ids[:, 1:]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1, f"after 60 steps on one batch the loss is still {loss:.2f}"


@pytest.mark.parametrize("H, G", HEADS)
def test_cached_equals_uncached(H, G):
    model = random_model(dataclasses.replace(SMALL, n_head=H, n_kv_head=G))
    ids = random_ids(2, 16)
    expected = model(ids)
    for first in range(1, 17):  # every length of prompt, then one position at a time to the last
        cache = KVCache(model.config, batch_size=2)
        got = [model(ids[:, :first], cache)]
        got += [model(ids[:, t:t + 1], cache) for t in range(first, 16)]
        assert close(torch.cat(got, 1), expected), f"a prompt of {first}"
        assert cache.length == 16
    for sizes in ((3, 5, 8), (1, 7, 8), (15, 1)):  # prompts that come in chunks
        cache = KVCache(model.config, batch_size=2)
        assert close(torch.cat([model(part, cache) for part in ids.split(sizes, 1)], 1), expected)
    assert close(model(ids), expected), "a generation must leave nothing behind in the model"


def test_what_does_not_fit_is_refused():
    model, cache = random_model(), KVCache(SMALL, batch_size=1, size=4)
    with pytest.raises(ValueError, match="0 \\+ 17 positions don't fit into 16"):
        model(random_ids(1, 17))
    model(random_ids(1, 3), cache)
    with pytest.raises(ValueError, match="3 \\+ 2 positions don't fit into 4"):
        model(random_ids(1, 2), cache)
    assert cache.length == 3


def test_multi_query_is_multi_head_with_equal_heads():
    """G = 1 computes what G = H does when all key/value heads have the same weights."""
    one = random_model(dataclasses.replace(SMALL, n_kv_head=1))
    many = random_model(dataclasses.replace(SMALL, n_kv_head=4))
    weights = {name: tensor.repeat(4, 1) if name.endswith(("attention.k.weight",
                                                           "attention.v.weight")) else tensor
               for name, tensor in one.state_dict().items()}
    many.load_state_dict(weights)
    ids = random_ids(2, 9)
    assert close(many(ids), one(ids))


def test_generate_takes_the_likeliest():
    model, ids = random_model(), random_ids(3, 4)
    got = torch.stack(list(generate(model, ids, 12)), dim=1)
    for _ in range(12):
        ids = torch.cat((ids, model(ids)[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(got, ids[:, 4:])


def test_generate_beyond_the_window():
    """A full window starts again from its newer half: 16 ids, then from the last 8 of them on."""
    model, ids = random_model(), random_ids(1, 5)
    got = torch.stack(list(generate(model, ids, 40)), dim=1)
    assert got.shape == (1, 40)
    row, start = ids, 0
    for n in range(40):
        if row.shape[1] - start > 16:
            start = row.shape[1] - 8
        row = torch.cat((row, model(row[:, start:])[:, -1].argmax(-1, keepdim=True)), dim=1)
    assert torch.equal(got, row[:, 5:])
    long = random_ids(1, 30)
    assert torch.equal(next(generate(model, long, 1)), greedy(model(long[:, -16:])[:, -1]))
    with pytest.raises(ValueError, match="empty"):
        next(generate(model, long[:, :0], 1))


def test_random_pick():
    logits = torch.tensor([[1.0, 2.0, 0.0]]).repeat(30_000, 1)
    for temperature in (1.0, 0.5):
        counts = torch.bincount(random_pick(temperature, seed=1)(logits), minlength=3) / 30_000
        assert close(counts, (logits[0] / temperature).softmax(0), 0.02)
    assert random_pick(1e-40)(logits[:5]).tolist() == [1] * 5
    assert torch.equal(random_pick(seed=2)(logits), random_pick(seed=2)(logits))
    assert not torch.equal(random_pick(seed=2)(logits), random_pick(seed=3)(logits))


def test_configs_that_cannot_be():
    for change, word in (({"n_kv_head": 3}, "multiple"), ({"d_model": 30}, "heads"),
                         ({"n_layer": 0}, "n_layer"), ({"d_model": 36, "n_head": 4}, "even")):
        with pytest.raises(ValueError, match=word):
            dataclasses.replace(SMALL, **change)


@pytest.mark.parametrize("G", [4, 2, 1])
def test_logits_equal_transformers(G):
    transformers = pytest.importorskip("transformers",
                                       reason="an oracle of tests/requirements.txt")
    config = dataclasses.replace(SMALL, n_kv_head=G)
    ours = random_model(config)
    theirs = transformers.NanoChatForCausalLM(transformers.NanoChatConfig(
        vocab_size=config.vocab_size, hidden_size=config.d_model, intermediate_size=config.d_ff,
        num_hidden_layers=config.n_layer, num_attention_heads=config.n_head,
        num_key_value_heads=G, max_position_embeddings=config.seq_len,
        pad_token_id=None)).eval()
    names = {"embed.weight": "model.embed_tokens.weight", "head.weight": "lm_head.weight"}
    parts = {"attention.q": "self_attn.q_proj", "attention.k": "self_attn.k_proj",
             "attention.v": "self_attn.v_proj", "attention.out": "self_attn.o_proj",
             "mlp.up": "mlp.fc1", "mlp.down": "mlp.fc2"}
    for i in range(config.n_layer):
        names |= {f"blocks.{i}.{a}.weight": f"model.layers.{i}.{b}.weight"
                  for a, b in parts.items()}
    theirs.load_state_dict({names[n]: t for n, t in ours.state_dict().items()}, strict=True)
    ids = random_ids(2, 16)
    with torch.no_grad():
        assert close(ours(ids), theirs(ids).logits, 1e-4)


def test_attention_module_shares_heads():
    shapes = {n: tuple(p.shape) for n, p in Attention(SMALL, 0).named_parameters()}
    assert shapes == {"q.weight": (32, 32), "k.weight": (16, 32), "v.weight": (16, 32),
                      "out.weight": (32, 32)}
