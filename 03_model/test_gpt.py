"""Tests of gpt.py, from primitive to composite: the first that fails is the next exercise."""

import dataclasses
import math

import pytest
import torch

from family import FAMILIES
from gpt import (ACTIVATIONS, GPT, MLP, Attention, Block, GPTConfig, Linear, Norm, attention,
                 attention_by_hand, attention_weights, rms_norm, rope_angles, rotate, sinusoids,
                 visible)

SMALL = GPTConfig(vocab_size=61, seq_len=16, n_layer=3, n_head=4, n_kv_head=2, d_model=32, d_ff=48)
every_family = pytest.mark.parametrize("family", FAMILIES)
HEADS = [(4, 4), (4, 2), (4, 1)]  # (H, G): multi-head, grouped-query, multi-query


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_model(config=SMALL, seed=0, **changes):
    """A model whose matrices are all random: a new one's zeros would hide mistakes."""
    model = GPT(dataclasses.replace(config, **changes))
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
    rows = rope_angles(torch.tensor([[0, 1, 5], [2, 3, 4]]), 4, base=100.0)
    assert rows[0].shape == (2, 3, 2) and close(rows[1][0], angles.sin())


def test_rotate():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)  # the pairs are (1, 3) and (2, 4)
    quarter, none = (torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    assert rotate(x, quarter, none).flatten().tolist() == [3.0, 2.0, -1.0, 4.0]
    assert rotate(x.bfloat16(), quarter, none).dtype == torch.bfloat16


def test_rotate_is_relative():
    """q . k after turning depends on how far apart they stand, not on where."""
    q, k = randn(1, 1, 1, 8, seed=1), randn(1, 1, 1, 8, seed=2)

    def dot(i, j):
        at = [rope_angles(torch.tensor([p]), 8) for p in (i, j)]
        return (rotate(q, *at[0]) * rotate(k, *at[1])).sum()
    assert close(dot(3, 1), dot(103, 101), 1e-4) and close(dot(7, 7), (q * k).sum())
    assert not torch.allclose(dot(3, 1), dot(3, 2))


def test_sinusoids():
    found = sinusoids(torch.tensor([0, 3]), 4)
    turned = [3.0, 0.03]  # 10000^0 and 10000^(-2/4)
    assert close(found[0], torch.tensor([0.0, 1.0, 0.0, 1.0]))
    assert close(found[1], torch.tensor([f(a) for a in turned for f in (math.sin, math.cos)]))
    assert sinusoids(torch.zeros(2, 5, dtype=torch.long), 6).shape == (2, 5, 6)


def test_visible():
    assert visible(torch.tensor([1, 2]), 3).tolist() == [[True, True, False], [True, True, True]]
    assert visible(torch.tensor([3]), 4).tolist() == [[True] * 4], "the newest position sees all"
    rows = visible(torch.tensor([[0, 1], [2, 3]]), 3)
    assert rows.tolist() == [[[True, False, False], [True, True, False]], [[True] * 3] * 2]


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


def test_attention_weights():
    q, k = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[1.0, 5.0], [0.0, 3.0], [9.0, 9.0]]]])
    found = attention_weights(q, k, torch.tensor([[True, True, False]]))
    share = math.exp(2 / math.sqrt(2))
    assert close(found.flatten(), torch.tensor([share, 1, 0]) / (share + 1))
    q, k, mask = randn(2, 4, 3, 8), randn(2, 2, 5, 8, seed=1), visible(torch.arange(2, 5), 5)
    assert close(attention_weights(q, k, mask).sum(-1), torch.ones(2, 4, 3))
    assert close(attention_weights(q, k, mask)[:, 2:], attention_weights(q[:, 2:], k[:, 1:], mask))


@pytest.mark.parametrize("H, G", HEADS)
@pytest.mark.parametrize("T, S", [(5, 5), (3, 7), (1, 6), (1, 1)])
def test_attention_by_hand(H, G, T, S):
    q, k, v = randn(2, H, T, 8, seed=1), randn(2, G, S, 8, seed=2), randn(2, G, S, 8, seed=3)
    mask = visible(torch.arange(S - T, S), S)
    assert close(attention_by_hand(q, k, v, mask), attention_by_loops(q, k, v))


@pytest.mark.parametrize("H, G", HEADS)
@pytest.mark.parametrize("T, S", [(5, 5), (3, 7), (1, 6), (1, 1)])
def test_attention_fused(H, G, T, S):
    q, k, v = randn(2, H, T, 8, seed=1), randn(2, G, S, 8, seed=2), randn(2, G, S, 8, seed=3)
    mask = visible(torch.arange(S - T, S), S)
    expected = attention_by_hand(q, k, v, mask)
    assert close(attention(q, k, v, mask), expected)
    if T in (1, S):
        assert close(attention(q, k, v), expected), "no mask: causal"
    rows = visible(torch.tensor([range(S - T, S), range(T)]), S).unsqueeze(1)  # (B, 1, T, S)
    assert close(attention(q, k, v, rows), attention_by_hand(q, k, v, rows))


@pytest.mark.parametrize("rows", [1, 3, 8, 33])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_with_few_rows(rows, bias):
    """Decoding multiplies the other way round; the numbers are the same."""
    linear, x = Linear(24, 40, bias=bias), randn(rows, 1, 24)
    expected = torch.nn.functional.linear(x, linear.weight, linear.bias)
    with torch.inference_mode():
        found = linear(x)
    assert found.is_contiguous() and close(found, expected) and close(linear(x), expected)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_norm(norm):
    config = dataclasses.replace(SMALL, norm=norm, gains=True, bias=True, norm_eps=1e-2)
    x, layer = 0.3 + 0.1 * randn(5, 32), Norm(config)
    torch.nn.init.normal_(layer.weight)
    centred = x - x.mean(-1, keepdim=True) if norm == "layernorm" else x
    expected = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-2).sqrt() * layer.weight
    if norm == "layernorm":
        torch.nn.init.normal_(layer.bias)
        expected = expected + layer.bias
    assert close(layer(x), expected)
    assert not [*Norm(dataclasses.replace(config, gains=False)).parameters()]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp(activation):
    mlp, x = MLP(dataclasses.replace(SMALL, activation=activation)), randn(2, 3, 32)
    h = mlp.up(x)
    hidden = {"relu": h.clamp(min=0), "relu2": h.clamp(min=0) ** 2,
              "gelu": h / 2 * (1 + torch.tanh((2 / math.pi)**0.5 * (h + 0.044715 * h**3)))}
    if activation == "swiglu":
        gate = mlp.gate(x)
        hidden["swiglu"] = gate / (1 + (-gate).exp()) * h
    assert close(mlp(x), hidden[activation] @ mlp.down.weight.T)


def test_block():
    block, x = Block(dataclasses.replace(SMALL, gains=True), 0), randn(2, 5, 32)
    for i, norm in enumerate((block.attention_norm, block.mlp_norm)):
        torch.nn.init.constant_(norm.weight, 2.0 + i)
    turn = rope_angles(torch.arange(5), SMALL.head_dim)
    y = x + block.attention(2 * rms_norm(x), turn, None, None)
    assert close(block(x, turn, None, None), y + block.mlp(3 * rms_norm(y)))


@every_family
def test_initial_loss_is_that_of_a_guess(family):
    model = GPT(dataclasses.replace(SMALL, **FAMILIES[family]))
    losses = model.loss(random_ids(4, 16), random_ids(4, 16, seed=1))
    assert losses.shape == (4, 16)
    assert close(losses.mean(), torch.tensor(math.log(61)), 0.02)


def test_a_new_model_does_nothing_yet():
    """Each block adds zero to the stream; queries, keys, values and features are there, though."""
    for block in GPT(SMALL).blocks:
        assert (block.attention.out.weight == 0).all() and (block.mlp.down.weight == 0).all()
        for linear in (block.attention.qkv, block.mlp.up):
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


def test_loss_smoothed_and_with_z():
    """From their papers, one position at a time; a masked one adds nothing."""
    model, ids, targets = random_model(), random_ids(2, 5), random_ids(2, 5, seed=1)
    targets[0, 2] = -100
    logits, losses = model(ids), model.loss(ids, targets, label_smoothing=0.1, z_loss=0.01)
    for b in range(2):
        for t in range(5):
            shares = [math.exp(x) for x in logits[b, t].tolist()]
            nats = [-math.log(share / sum(shares)) for share in shares]
            expected = (0.9 * nats[targets[b, t]] + 0.1 * sum(nats) / 61
                        + 0.01 * math.log(sum(shares))**2) if (b, t) != (0, 2) else 0
            assert losses[b, t].item() == pytest.approx(expected, abs=1e-4), f"position {b, t}"


@every_family
def test_weights_of_a_given_size(family):
    """As GPT-2 begins: all alike, but for those that write to the stream, which share it."""
    config = dataclasses.replace(SMALL, **FAMILIES[family], d_model=128, d_ff=512)
    for name, weight in GPT(config, std=0.02).named_parameters():
        if weight.dim() == 2:
            writes = name.endswith(("attention.out.weight", "mlp.down.weight"))
            expected = 0.02 / math.sqrt(2 * config.n_layer) if writes else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.1), name


def test_logits_are_capped():
    model = random_model()
    with torch.no_grad():
        model.head.weight *= 1000
    logits = model(random_ids(1, 4))
    assert logits.abs().max() <= 15 and logits.dtype == torch.float32


@every_family
def test_a_later_token_changes_no_earlier_logit(family):
    model, ids = random_model(**FAMILIES[family]), random_ids(1, 16)
    before = model(ids)
    for t in range(16):
        changed = ids.clone()
        changed[0, t] = (ids[0, t] + 1) % 61
        after = model(changed)
        assert (after[0, :t] == before[0, :t]).all(), f"id {t} changed a logit before it"
        assert not torch.equal(after[0, t], before[0, t])


@every_family
def test_one_batch_can_be_learned_by_heart(family):
    model, ids = GPT(dataclasses.replace(SMALL, **FAMILIES[family])), random_ids(4, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model.loss(ids[:, :-1], ids[:, 1:]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1, f"after 60 steps on one batch the loss is still {loss:.2f}"


def test_multi_query_is_multi_head_with_equal_heads():
    """G = 1 computes what G = H does when all key/value heads have the same weights."""
    one = random_model(dataclasses.replace(SMALL, n_kv_head=1))
    many = random_model(dataclasses.replace(SMALL, n_kv_head=4))
    weights = {}
    for name, tensor in one.state_dict().items():
        if name.endswith("qkv.weight"):
            q, k, v = tensor.split([32, 8, 8])  # four heads of 8, then one, then one
            tensor = torch.cat((q, k.repeat(4, 1), v.repeat(4, 1)))
        weights[name] = tensor
    many.load_state_dict(weights)
    ids = random_ids(2, 9)
    assert close(many(ids), one(ids))


def test_configs_that_cannot_be():
    for change, word in (({"n_kv_head": 3}, "multiple"), ({"d_model": 30}, "heads"),
                         ({"n_layer": 0}, "n_layer"), ({"d_model": 36, "n_head": 4}, "even"),
                         ({"d_model": 33, "positions": "learned"}, "33 can't be divided into 4"),
                         ({"softcap": -1}, "softcap"), ({"norm_eps": float("nan")}, "norm_eps"),
                         ({"activation": "tanh"}, "relu, gelu"), ({"n_layer": 2.5}, "of type int"),
                         ({"softcap": math.inf}, "softcap"), ({"rope_base": 10**400}, "huge"),
                         ({"ngrams": 1}, "ngrams is 1"),
                         ({"d_model": True}, "of type int"), ({"norm": "none"}, "layernorm"),
                         ({"positions": "sinusoidal", "d_model": 9, "n_head": 3, "n_kv_head": 1},
                          "odd")):
        with pytest.raises(ValueError, match=word):
            dataclasses.replace(SMALL, **change)


def test_attention_module_shares_heads():
    shapes = {n: tuple(p.shape) for n, p in Attention(SMALL, 0).named_parameters()}
    assert shapes == {"qkv.weight": (32 + 16 + 16, 32), "out.weight": (32, 32)}


def test_tied_head():
    model = GPT(dataclasses.replace(SMALL, tied=True))
    assert model.head.weight is model.embed.weight
    model.load_state_dict(random_model(tied=True).state_dict())
    assert model.head.weight is model.embed.weight, "one table, also after loading"
