"""Tests of gpt.py: each exercise by itself, in the order of the file, then the model as a whole.
The first test that fails is the next exercise.
"""

import dataclasses
import math
import types

import pytest
import torch
from torch import nn

import gpt
from gpt import (GPT, MLP, Attention, Block, GPTConfig, KVCache, attention, attention_fused,
                 attention_weights, generate, greedy, main, make_model, random_pick, rms_norm,
                 rms_norm_fused, rope_angles, rotate, causal_mask)

SMALL = GPTConfig(vocab_size=61, seq_len=16, n_layer=3, n_head=4, n_kv_head=2, d_model=32, d_ff=48)
HEADS = [(4, 4), (4, 2), (4, 1)]  # (H, G): multi-head, grouped-query, multi-query


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_ids(*shape, seed=0):
    return torch.randint(SMALL.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def randomise(module, seed=0):
    """Every parameter random: a new model's zeros would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return module.eval()


def random_model(config=SMALL, **changes):
    return randomise(GPT(dataclasses.replace(config, **changes)))


def same(found, expected, wrong, tolerance=1e-5):
    """Fails with the sentence `wrong` unless two tensors are of one shape and type, and equal."""
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance,
                               msg=lambda details: f"{wrong}\n{details}")


def angles_of(positions):
    """What a block takes for positions, (T,): cos and sin, each (1, T, D/2)."""
    return [a.unsqueeze(-3) for a in rope_angles(positions, SMALL.head_dim)]


# ---- the mathematics ----
def test_rms_norm():
    same(rms_norm(torch.tensor([3.0, 4.0])), torch.tensor([0.848528, 1.131371]),
         "the worked example of the docstring is not met")
    x = randn(2, 5, 64)
    same(rms_norm(x).pow(2).mean(-1), torch.ones(2, 5), "the mean square of each row must be 1")
    same(rms_norm(1000 * x), rms_norm(x), "the scale of x must not matter")
    assert rms_norm(torch.zeros(4)).tolist() == [0, 0, 0, 0], "eps must keep zeros finite"
    small = torch.full((4,), 1e-3)
    same(rms_norm(small), small / math.sqrt(2e-6), "eps, 1e-6, stands inside the root")
    same(rms_norm(small, 3e-6), small / math.sqrt(4e-6), "eps must be the one that is given")
    half = torch.full((8,), 300.0, dtype=torch.float16)  # whose square is too large for float16
    same(rms_norm(half), torch.ones(8, dtype=torch.float16),
         "compute in float32, and return x's type")
    rough = x.bfloat16()
    assert torch.equal(rms_norm(rough), rms_norm(rough.float()).bfloat16()), \
        "compute in float32 also what is given in bfloat16, and round once, at the end"


def test_rope_angles(explains):
    cos, sin = rope_angles(torch.tensor([0, 1, 5]), 4, base=100.0)
    angles = torch.tensor([[0.0, 0.0], [1.0, 0.1], [5.0, 0.5]])  # 100^0 and 100^(-2/4)
    same(cos, angles.cos(), "pair i turns by position * base^(-2i/D); cosines come first")
    same(sin, angles.sin(), "the second result are the sines of the same angles")
    same(rope_angles(torch.tensor([1]), 4)[0], torch.tensor([[1.0, 0.01]]).cos(),
         "the base is 10,000 unless given")
    rows = rope_angles(torch.tensor([[0, 1, 5], [2, 3, 4]]), 4, base=100.0)
    assert rows[0].shape == (2, 3, 2), "positions (B, T) must give (B, T, D/2)"
    same(rows[1][0], angles.sin(), "each row of positions has its own angles")
    with explains(where := "cosines and sines are on the device of the positions"):
        assert rope_angles(torch.tensor([1], device="meta"), 4)[0].device.type == "meta", where


def test_rotate():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)  # the pairs are (1, 3) and (2, 4)
    quarter, none = (torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
    assert rotate(x, quarter, none).flatten().tolist() == [3, 2, -1, 4], \
        "the pair (1, 3), turned by a quarter, is (3, -1); the pair (2, 4) must stay"
    slanted = rotate(x, torch.tensor([[0.6, 1.0]]), torch.tensor([[0.8, 0.0]])).flatten()
    same(slanted, torch.tensor([3.0, 2.0, 1.0, 4.0]), "(x1 cos + x2 sin, x2 cos - x1 sin)")
    assert rotate(x.bfloat16(), quarter, none).dtype == torch.bfloat16, "x's type must stay"
    cos, sin = rope_angles(torch.tensor([[3, 4], [0, 7]]), 8)
    rows, x = (cos.unsqueeze(1), sin.unsqueeze(1)), randn(2, 3, 2, 8)  # (B, 1, T, D/2)
    same(rotate(x, *rows)[1], rotate(x[1:], cos[1], sin[1])[0],
         "rows may stand at different positions, and all heads of a row turn alike")


def test_rotated_products_are_relative():
    q, k = randn(1, 1, 1, 8, seed=1), randn(1, 1, 1, 8, seed=2)

    def dot(i, j):
        at = [rope_angles(torch.tensor([p]), 8) for p in (i, j)]
        return (rotate(q, *at[0]) * rotate(k, *at[1])).sum()
    same(dot(3, 1), dot(103, 101), "q . k must depend only on how far apart they stand", 1e-4)
    same(dot(7, 7), (q * k).sum(), "at one position, rotating must not change q . k")
    assert not torch.allclose(dot(3, 1), dot(3, 2)), "the distance must make a difference"


def test_causal_mask(explains):
    assert causal_mask(torch.tensor([1, 2]), 3).tolist() == [
        [True, True, False], [True, True, True]], \
        "a query looks at its own position and those before it, at no later one"
    assert causal_mask(torch.tensor([3]), 4).tolist() == [[True] * 4], "the newest sees all"
    rows = causal_mask(torch.tensor([[0, 1], [2, 3]]), 3)
    assert rows.tolist() == [[[True, False, False], [True, True, False]], [[True] * 3] * 2], \
        "each row of positions has a mask of its own: (B, T) -> (B, T, S)"
    with explains(where := "the mask is on the device of the positions"):
        assert causal_mask(torch.tensor([1], device="meta"), 3).device.type == "meta", where


def test_attention_weights():
    q, k = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[1.0, 5.0], [0.0, 3.0], [9.0, 9.0]]]])
    found = attention_weights(q, k, torch.tensor([[True, True, False]]))
    share = math.exp(2 / math.sqrt(2))
    same(found.flatten(), torch.tensor([share, 1, 0]) / (share + 1),
         "softmax of q k' / sqrt(D), where a key that may not be seen weighs 0")
    q, k, mask = randn(2, 4, 3, 8), randn(2, 2, 5, 8, seed=1), causal_mask(torch.arange(2, 5), 5)
    found = attention_weights(q, k, mask)
    same(found.sum(-1), torch.ones(2, 4, 3), "the weights of each query add up to 1")
    same(found[:, 2:], attention_weights(q[:, 2:], k[:, 1:], mask),
         "of 4 query heads and 2 key heads, the last two query heads read the second key head")
    rows = torch.stack((mask, causal_mask(torch.arange(3), 5))).unsqueeze(1)  # (B, 1, T, S)
    same(attention_weights(q, k, rows)[1], attention_weights(q[1:], k[1:], rows[1])[0],
         "the rows of a batch may have different masks")


def attention_by_loops(q, k, v, mask):
    """The definition, one query at a time."""
    out = torch.zeros_like(q)
    for b, h, t in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        g, seen = h // (q.shape[1] // k.shape[1]), mask[t]
        weights = (k[b, g, seen] @ q[b, h, t] / q.shape[-1]**0.5).exp()
        out[b, h, t] = (weights / weights.sum()) @ v[b, g, seen]
    return out


every_shape = pytest.mark.parametrize("T, S", [(5, 5), (3, 7), (1, 6), (1, 1)])


@every_shape
@pytest.mark.parametrize("H, G", HEADS)
def test_attention(H, G, T, S, explains):
    q, k, v = randn(2, H, T, 8, seed=1), randn(2, G, S, 8, seed=2), randn(2, G, S, 8, seed=3)
    causal = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    same(attention(q, k, v), attention_by_loops(q, k, v, causal),
         "without a mask, the queries are the last T of the S positions")
    mask = torch.arange(S) % 2 == 0  # every second key
    same(attention(q, k, v, mask.expand(T, S)), attention_by_loops(q, k, v, mask.expand(T, S)),
         "each query takes values by its weights, where the mask lets it look")
    with explains(where := "the mask is made on the device of q"):
        assert attention(*(t.to("meta") for t in (q, k, v))).device.type == "meta", where


@every_shape
@pytest.mark.parametrize("H, G", HEADS)
def test_fused_attention_is_the_same(H, G, T, S, monkeypatch):
    """In float64, as short windows of float32 go through attention() itself on a CPU."""
    q, k, v = (randn(2, heads, n, 8, seed=seed).double()
               for seed, (heads, n) in enumerate(((H, T), (G, S), (G, S)), 1))
    used = []
    monkeypatch.setattr(gpt, "attention", lambda *what: used.append(1) or attention(*what))
    same(attention_fused(q, k, v), attention(q, k, v), "they differ without a mask")
    mask = causal_mask(torch.arange(S - T, S), S)
    same(attention_fused(q, k, v, mask), attention(q, k, v, mask), "they differ with a mask")
    rows = causal_mask(torch.tensor([range(S - T, S), range(T)]), S).unsqueeze(1)  # (B, 1, T, S)
    same(attention_fused(q, k, v, rows), attention(q, k, v, rows), "they differ, a mask a row")
    assert not used, "it was compared with itself"
    attention_fused(q.float(), k.float(), v.float())
    assert len(used) == (T > 1), "one position, as in decoding, goes through the kernel"
    long = (x.float().repeat(1, 1, 300, 1) for x in (q, k, v))
    attention_fused(*(x[:, :, -257:] for x in long))
    assert len(used) == (T > 1), "long windows go through the kernel"


def test_attention_fused_whatever_the_kernels_memory_order(monkeypatch):
    """A GPU's kernels return heads and positions in another order in memory than a CPU's."""
    kernel = torch.nn.functional.scaled_dot_product_attention

    def other_order(*args, **how):
        y = kernel(*args, **how)
        return y.transpose(1, 2).contiguous().transpose(1, 2)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", other_order)
    q, k, v = (torch.randn(2, heads, n, 8) for heads, n in ((4, 1), (2, 5), (2, 5)))
    torch.testing.assert_close(attention_fused(q, k, v), attention(q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fused_norm_is_the_same(dtype):
    x = (30 * randn(3, 7, 16)).to(dtype)
    for eps in (1e-6, 0.5):
        same(rms_norm_fused(x, eps), rms_norm(x, eps), "fused and plain rms_norm differ")


# ---- the layers ----
class Recorder(nn.Module):
    """Stands for a layer or a cache: remembers what it is given, and returns what it is told."""

    def __init__(self, result):
        super().__init__()
        self.result, self.seen = result, []

    def forward(self, *arguments):
        self.seen.append(arguments)
        return self.result

    append = forward


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("H, G", HEADS)
def test_attention_forward(H, G, by_hand):
    config = dataclasses.replace(SMALL, n_head=H, n_kv_head=G, by_hand=by_hand)
    layer, x, angles = randomise(Attention(config, 2)), randn(2, 5, 32), angles_of(torch.arange(5))
    rows = layer.qkv.weight.split([H * 8, G * 8, G * 8])
    q, k, v = (torch.stack([x @ head.T for head in part.split(8)], 1) for part in rows)
    q, k = rms_norm(rotate(q, *angles)), rms_norm(rotate(k, *angles))

    def merged(y):  # (B, H, T, D) -> (B, T, C)
        return torch.cat(y.unbind(1), dim=-1) @ layer.out.weight.T
    same(layer(x, angles), merged(attention(q, k, v)),
         "divide qkv(x) into heads, rotate and normalise q and k, attend, put heads side by side")
    mask = torch.eye(5, dtype=torch.bool)
    same(layer(x, angles, mask), merged(attention(q, k, v, mask)), "the mask given is not used")

    longer = [torch.cat((randn(2, G, 3, 8, seed=i), t), 2) for i, t in ((1, k), (2, v))]
    cache = Recorder(longer)
    same(layer(x, angles, None, cache), merged(attention(q, *longer)),
         "with a cache, attention goes over all that append() returns")
    [(number, k_stored, v_stored)] = cache.seen
    assert number == 2, "the cache must be told which layer this is"
    same(k_stored, k, "the cache gets keys that are rotated and normalised")
    same(v_stored, v, "the cache gets values as they are, neither rotated nor normalised")
    found = layer(x, angles, None, Recorder([t.bfloat16() for t in longer]))
    same(found, merged(attention(q, *longer)), "q must take the type of a cache in bfloat16, and "
         "the result that of x", 0.05)


def test_no_two_modules_for_queries_and_keys():
    shapes = {n: tuple(p.shape) for n, p in Attention(SMALL, 0).named_parameters()}
    assert shapes == {"qkv.weight": (32 + 16 + 16, 32), "out.weight": (32, 32)}, \
        "checkpoints have the queries, keys and values of a layer in one matrix"


def test_mlp():
    mlp, x = MLP(SMALL), randn(2, 3, 32)
    h = x @ mlp.up.weight.T
    same(mlp(x), (h * h * (h > 0)) @ mlp.down.weight.T,
         "it must be down(relu(up(x))^2): ReLU, then the square")


def test_block():
    block, x = Block(SMALL, 0), randn(2, 5, 32)
    block.attention = Recorder(randn(2, 5, 32, seed=1))
    block.mlp = Recorder(randn(2, 5, 32, seed=2))
    found = block(x, "angles", "mask", "cache")
    y = x + block.attention.result
    same(found, y + block.mlp.result, "both layers add to the stream, and neither replaces it")
    [(read, *others)], [(read_later,)] = block.attention.seen, block.mlp.seen
    same(read, rms_norm(x), "attention reads the stream normalised")
    same(read_later, rms_norm(y), "the MLP reads what attention has added to, normalised")
    assert others == ["angles", "mask", "cache"], "attention also needs angles, mask and cache"


# ---- the cache ----
def test_cache_positions():
    cache = KVCache(SMALL, batch_size=3)
    assert cache.positions(2).tolist() == [0, 1], "the first ids stand at 0, 1, ..."
    cache.length = 4
    assert cache.positions(3).tolist() == [4, 5, 6], "further ids stand behind those that are there"
    assert KVCache(SMALL, 1, device="meta").positions(1).device.type == "meta", \
        "positions are on the device of the keys"


def test_cache_append():
    cache = KVCache(SMALL, batch_size=2)
    k, v = randn(2, 2, 3, 8, seed=1), randn(2, 2, 3, 8, seed=2)
    keys, values = cache.append(1, k, v)
    same(keys, k, "the first keys are all that there are")
    same(values, v, "the first values are all that there are")
    assert cache.length == 0, "only the model moves the length: the next layer writes there, too"
    cache.length = 3
    k2, v2 = randn(2, 2, 2, 8, seed=3), randn(2, 2, 2, 8, seed=4)
    keys, values = cache.append(1, k2, v2)
    same(keys, torch.cat((k, k2), 2), "new keys stand behind the old ones, and all are returned")
    same(values, torch.cat((v, v2), 2), "new values stand behind the old ones")
    assert keys.data_ptr() == cache.keys[1].data_ptr(), "return the cache's own memory, no copy"
    assert not cache.keys[[0, 2]].any() and not cache.values[[0, 2]].any(), \
        "other layers must stay as they are"


# ---- the model ----
def test_hidden():
    model, ids = random_model(), random_ids(2, 5)

    def slowly(ids, angles, mask=None):
        x = rms_norm(model.embed.weight[ids])
        for block in model.blocks:
            x = block(x, angles, mask)
        return rms_norm(x)
    expected = slowly(ids, angles_of(torch.arange(5)))
    same(model.hidden(ids), expected, "embedded, normalised, through all blocks, normalised")
    positions, mask = torch.tensor([0, 1, 0, 1, 2]), torch.eye(5, dtype=torch.bool)
    same(model.hidden(ids, None, positions, mask), slowly(ids, angles_of(positions), mask),
         "positions and mask, where they are given, are those that the blocks get")
    rows = torch.stack((positions, torch.arange(5)))
    found = model.hidden(ids, positions=rows)
    same(found[1], expected[1], "the rows of a batch may stand at different positions")
    same(found[0], slowly(ids, angles_of(positions))[0], "each row at its own positions")
    assert model.to("meta").hidden(ids.to("meta")).device.type == "meta", \
        "the positions are made on the device of the ids"


def test_hidden_with_a_cache():
    model, ids, told = random_model(), random_ids(2, 5), []
    expected = model.hidden(ids)
    block = Recorder(randn(2, 2, 32))
    block.register_forward_hook(lambda *_: told.append(cache.length))
    model.blocks = nn.ModuleList([block])
    cache = types.SimpleNamespace(length=3, size=5, positions=lambda T: torch.tensor([3, 4])[:T])
    same(model.hidden(ids[:, 3:], cache, mask="mask"), rms_norm(block.result),
         "the blocks' result, normalised")
    x, angles, mask, given = block.seen[0]
    same(torch.stack(list(angles)), torch.stack(angles_of(torch.tensor([3, 4]))),
         "with a cache, ids stand where the cache says")
    assert mask == "mask" and given is cache, "mask and cache go to all blocks"
    assert told == [3] and cache.length == 5, "when all blocks are done, the cache's length grows"

    model, cache = random_model(), KVCache(SMALL, batch_size=2)
    parts = [model.hidden(part, cache) for part in ids.split((2, 1, 2), 1)]
    same(torch.cat(parts, 1), expected, "read in parts, it must be as read in one")


def test_what_does_not_fit_is_refused():
    model, cache = random_model(), KVCache(SMALL, batch_size=1, size=4)
    with pytest.raises(ValueError, match="0 \\+ 17 positions don't fit into 16"):
        model.hidden(random_ids(1, 17))
    model.hidden(random_ids(1, 3), cache)
    with pytest.raises(ValueError, match="3 \\+ 2 positions don't fit into 4"):
        model.hidden(random_ids(1, 2), cache)
    assert cache.length == 3, "what was refused must leave the cache as it was"
    model.hidden(random_ids(1, 1), cache)


def test_loss():
    model, ids, targets = random_model(), random_ids(2, 5), random_ids(2, 5, seed=1)
    targets[0, 2], targets[1, 4] = -100, -1
    logits, losses = model(ids), model.loss(ids, targets)
    assert losses.shape == (2, 5), "one loss for every target, in its place"
    for b in range(2):
        for t in range(5):
            masked, target = targets[b, t] < 0, targets[b, t]
            expected = 0 if masked else -logits[b, t].log_softmax(0)[target].item()
            assert losses[b, t].item() == pytest.approx(expected, abs=1e-4), (
                f"at {b, t} the target is {target}: {'0' if masked else '-log p(target)'} expected")
    assert (model.loss(ids, torch.full_like(ids, -1)) == 0).all(), "nothing to learn is no NaN"
    mask = torch.eye(5, dtype=torch.bool)
    positions = torch.full((5,), 3)
    expected = torch.stack([model.loss(ids[:, t:t + 1], targets[:, t:t + 1]) for t in range(5)], 1)
    same(model.loss(ids, targets, positions, mask), expected.squeeze(-1),
         "positions and mask must go to hidden()")


def test_loss_without_gradients_takes_logits_in_slices():
    """In an evaluation the logits of a long window are never all there at once."""
    model, ids = random_model(dataclasses.replace(SMALL, seq_len=600)), random_ids(2, 600)
    seen, targets = [], ids.roll(1)
    model.head.register_forward_hook(lambda head, x, y: seen.append(y.numel() // 61))
    expected = model.loss(ids, targets)
    assert seen == [1200], "with gradients slices would save nothing, since all logits are kept"
    with torch.no_grad():
        same(model.loss(ids, targets), expected, "the losses of slices are others")
    assert max(seen[1:]) <= 512 and sum(seen[1:]) == 1200, f"logits of {seen[1:]} positions at once"


@pytest.mark.parametrize("by_hand", [False, True])
def test_loss_with_a_mask_takes_logits_of_targets_alone(by_hand):
    """Of packed conversations only answers are learned, and the head is the largest matrix."""
    model = random_model(dataclasses.replace(SMALL, by_hand=by_hand))
    ids, targets, seen = random_ids(2, 8), random_ids(2, 8, seed=1), []
    targets[0, :5], targets[1, 2] = -1, -100
    grads = []
    for mask in (None, torch.ones(8, 8, dtype=torch.bool).tril()):
        handle = model.head.register_forward_hook(lambda head, x, y: seen.append(y.numel() // 61))
        losses = model.loss(ids, targets, None, mask)
        handle.remove()
        grads.append(torch.autograd.grad(losses.sum(), [*model.parameters()]))
        same(losses, model.loss(ids, targets), "where logits are left out, losses stay as they are")
    assert seen == [16, 10], f"logits of {seen} positions, where 16 and, with a mask, 10 are needed"
    for one, other in zip(*grads):
        same(one, other, "the gradients are those of all logits")
    assert (model.loss(ids, torch.full_like(ids, -1), None, mask) == 0).all(), (
        "nothing to learn, with a mask, is no error")


# ---- writing ----
def columns(steps):
    return torch.stack(list(steps), dim=1).tolist()


def slowly(model, prompt, n_tokens):
    """What generate() should say after one prompt, without a cache: everything again each time. A
    window that is full starts again from its newer half.
    """
    window = model.config.seq_len
    row, start = list(prompt), max(0, len(prompt) - window)
    for _ in range(n_tokens):
        if len(row) - start > window:
            start = len(row) - (window + 1) // 2
        row.append(model(torch.tensor([row[start:]]))[0, -1].argmax().item())
    return row[len(prompt):]


def spied(model):
    """A list to which the shape of all ids that the model reads is appended."""
    seen, hidden = [], model.hidden
    model.hidden = lambda ids, *others: seen.append(tuple(ids.shape)) or hidden(ids, *others)
    return seen


def test_generate():
    model, prompts = random_model(), random_ids(2, 5).tolist()
    seen, before = spied(model), [list(prompt) for prompt in prompts]
    found = columns(generate(model, prompts, 9))
    assert seen[0] == (2, 5), "both prompts are read in one pass"
    assert seen[1:] == [(2, 1)] * 8, "then one id of each at a time; after the last none is read"
    assert found == [slowly(model, prompt, 9) for prompt in prompts], \
        "each id is the likeliest after the prompt and all ids before it"
    assert prompts == before, "the prompts given must not be changed"
    assert not list(generate(model, [[1]], 0)), "no ids were asked for"
    with pytest.raises(ValueError, match="empty"):
        next(generate(model, [[1], []], 1))


@pytest.mark.parametrize("window", [1, 2, 5, 16])
def test_generate_beyond_the_window(window, explains):
    model, n = random_model(seq_len=window, n_layer=2), window + 9
    for prompts in (random_ids(2, 1).tolist(), random_ids(2, window).tolist(),
                    random_ids(2, 30).tolist()):
        expected = [slowly(model, prompt, n) for prompt in prompts]
        wrong = (f"prompts of {len(prompts[0])} ids and a window of {window}: of a long prompt the "
                 "end is read, and a full window goes on from its newer half, in an empty cache")
        with explains(wrong):
            assert columns(generate(model, prompts, n)) == expected, wrong


def test_generate_reads_a_full_window_once():
    model = random_model()
    seen = spied(model)
    columns(generate(model, random_ids(2, 15).tolist(), 13))
    assert seen == [(2, 15), (2, 1), (2, 8)] + [(2, 1)] * 8 + [(2, 8), (2, 1)], (
        "up to 16 ids one at a time; then the newer 8 of 17 in one pass, and again one at a time")


def test_memory_is_for_what_is_written(monkeypatch):
    made = []

    class Noted(KVCache):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)
    monkeypatch.setattr(gpt, "KVCache", Noted)
    model = random_model()
    for prompts, n, size in (([[1, 2, 3]] * 2, 5, 8), ([[1, 2, 3]], 50, 16)):
        columns(generate(model, prompts, n))
        assert made[-1].keys.shape == (3, len(prompts), 2, size, 8), \
            "room for prompt and text, but no more than the window"
    columns(generate(model.bfloat16(), [[1]], 1))
    assert made[-1].keys.dtype == torch.bfloat16, "the weights' type"
    [ids] = generate(model.to("meta"), [[1]], 1)
    assert ids.device.type == made[-1].keys.device.type == "meta", "the weights' device"


def test_what_is_for_the_extras():
    """Prompts that differ in length, several texts from one, and a cache: ragged.py's work."""
    model, prompts = random_model(), [[1, 2, 3], [4]]
    alone = [slowly(model, prompt, 5) for prompt in prompts]
    assert columns(generate(model, prompts, 5)) == alone, "as if each prompt stood alone"
    assert columns(generate(model, prompts[:1], 5, n_samples=2)) == alone[:1] * 2
    from ragged import make_cache
    cache = make_cache(model, prompts[:1], 5)
    assert columns(generate(model, prompts[:1], 5, cache=cache)) == alone[:1] and cache.length == 7


def test_picks():
    logits = torch.tensor([[1.0, 2.0, 0.0]]).repeat(30_000, 1)
    assert greedy(logits[:2]).tolist() == [1, 1]
    for temperature in (1.0, 0.5):
        counts = torch.bincount(random_pick(temperature, seed=1)(logits), minlength=3) / 30_000
        same(counts, (logits[0] / temperature).softmax(0), "drawn as often as softmax says", 0.02)
    for cold in (1e-40, 0, 0.0):
        assert random_pick(cold)(logits[:5]).tolist() == [1] * 5, f"{cold} is greedy, not NaN"
    assert torch.equal(random_pick(seed=2)(logits), random_pick(seed=2)(logits)), "a seed repeats"
    assert not torch.equal(random_pick(seed=2)(logits), random_pick(seed=3)(logits))


# ---- the whole ----
KINDS = {"multi-head": {"n_kv_head": 4}, "grouped-query": {}, "multi-query": {"n_kv_head": 1}}
every_kind = pytest.mark.parametrize("kind", KINDS)


@every_kind
def test_by_hand_is_the_same(kind):
    fast, by_hand = (random_model(by_hand=how, **KINDS[kind]) for how in (False, True))
    ids, targets = random_ids(2, 16), random_ids(2, 16, seed=1)
    expected = fast(ids)
    same(by_hand(ids), expected, "by hand the logits are others")
    same(by_hand.loss(ids, targets), fast.loss(ids, targets), "by hand the loss is another")
    for model in (fast, by_hand):
        cache = KVCache(model.config, batch_size=2)
        parts = [model(part, cache) for part in ids.split((4, 1, 1, 10), 1)]
        same(torch.cat(parts, 1), expected, "with a cache the logits are others")
    prompts = ids.tolist()
    assert columns(generate(by_hand, prompts, 20)) == columns(generate(fast, prompts, 20))


@every_kind
def test_cached_equals_uncached(kind):
    model, ids = random_model(**KINDS[kind]), random_ids(2, 16)
    expected = model(ids)
    with torch.inference_mode():
        for first in range(1, 17):  # every length of prompt, then one by one to the last position
            cache = KVCache(model.config, batch_size=2)
            got = [model(ids[:, :first], cache)]
            got += [model(ids[:, t:t + 1], cache) for t in range(first, 16)]
            same(torch.cat(got, 1), expected, f"a prompt of {first}, then one by one")
            assert cache.length == 16, "all positions are filled"
        for sizes in ((3, 5, 8), (1, 7, 8), (15, 1)):
            cache = KVCache(model.config, batch_size=2)
            got = torch.cat([model(part, cache) for part in ids.split(sizes, 1)], 1)
            same(got, expected, f"a prompt that comes in chunks of {sizes}")
        cache.length = 5  # what is behind is taken back
        same(model(ids[:, 5:], cache), expected[:, 5:], "positions taken back and read again")
    same(model(ids), expected, "a generation must leave nothing behind in the model")


def test_what_a_used_cache_held_is_never_seen():
    model, cache = random_model(), KVCache(SMALL, batch_size=2)
    cache.keys.fill_(1e30)
    cache.values.fill_(1e30)
    rows = [[1, 2, 3], [4, 5, 6]]
    same(model.hidden(torch.tensor(rows), cache), model.hidden(torch.tensor(rows)),
         "what stands behind the last position is looked at")


def test_documents_in_one_window_are_strangers():
    """A mask that divides a window: each part is as if it were alone. As RoPE is relative, its
    positions may start again, or not.
    """
    model, ids = random_model(), random_ids(2, 12)
    document = torch.tensor([0] * 5 + [1] * 4 + [2] * 3)
    positions = torch.tensor([*range(5), *range(4), *range(3)])
    mask = causal_mask(torch.arange(12), 12) & (document[:, None] == document)
    alone = torch.cat([model(part) for part in ids.split((5, 4, 3), 1)], 1)
    same(model(ids, positions=positions, mask=mask), alone, "a document sees another one")
    same(model(ids, mask=mask), alone, "where a document begins makes a difference", 1e-4)
    same(model(ids, mask=mask.expand(2, 1, 12, 12)), alone, "a mask for every row", 1e-4)
    assert not torch.allclose(model(ids)[:, 5:], alone[:, 5:], atol=0.1), "this tests nothing"


def test_half_precision():
    """Weights and cache in bfloat16: half the memory, and logits that are a little off."""
    model, ids = random_model(), random_ids(2, 16)
    expected = model(ids)
    for weights, kept in ((torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16)):
        small = random_model().to(weights)
        cache = KVCache(model.config, batch_size=2, dtype=kept)
        got = torch.cat([small(part, cache) for part in ids.split((5, 1, 10), 1)], 1)
        assert got.dtype == torch.float32 and cache.keys.dtype == kept, "logits are float32"
        assert 0 < (got - expected).abs().max() < 0.3, "rounded, but no more than that"


def test_initial_loss_is_that_of_a_guess():
    losses = GPT(SMALL).loss(random_ids(4, 16), random_ids(4, 16, seed=1))
    same(losses.mean(), torch.tensor(math.log(61)), "to a new model all ids are as likely", 0.02)


def test_a_new_model_does_nothing_yet():
    """Each block adds zero to the stream; queries, keys, values and features are there, though."""
    model = GPT(SMALL)
    for block in model.blocks:
        assert not block.attention.out.weight.any() and not block.mlp.down.weight.any(), \
            "matrices that write to the residual stream begin as zeros"
        for linear in (block.attention.qkv, block.mlp.up):
            assert linear.weight.std().item() == pytest.approx(SMALL.d_model**-0.5, rel=0.1), \
                "variance 1 / fan-in"
    assert model.embed.weight.std().item() == pytest.approx(0.1, rel=0.1), "small, to turn fast"
    assert torch.equal(GPT(SMALL).embed.weight, model.embed.weight), "a seed repeats"
    assert not torch.equal(GPT(SMALL, seed=1).embed.weight, model.embed.weight)


def test_no_rows_are_no_problem():
    """A process may have no window of a batch; it must still take part, with gradients of zero."""
    for by_hand in (True, False):
        model = random_model(by_hand=by_hand)
        model.loss(random_ids(0, 16), random_ids(0, 16)).sum().backward()
        assert all((p.grad == 0).all() for p in model.parameters()), "gradients from nothing"


def test_logits_are_capped():
    model = random_model()
    x, weight = randn(3, 32), model.head.weight
    same(model.logits(x), 15 * torch.tanh(x @ weight.T / 15), "15 tanh(logit / 15)")
    with torch.no_grad():
        weight *= 1000
    logits = model(random_ids(1, 4))
    assert logits.abs().max() <= 15 and logits.dtype == torch.float32


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_later_token_changes_no_earlier_logit(by_hand):
    model, ids = random_model(by_hand=by_hand), random_ids(1, 16)
    before = model(ids)
    for t in range(16):
        changed = ids.clone()
        changed[0, t] = (ids[0, t] + 1) % 61
        after = model(changed)
        assert (after[0, :t] == before[0, :t]).all(), f"id {t} changed a logit before it"
        assert not torch.equal(after[0, t], before[0, t]), f"id {t} changed nothing"


def test_one_batch_can_be_learned_by_heart():
    model, ids = GPT(dataclasses.replace(SMALL, n_layer=2)), random_ids(2, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = model.loss(ids[:, :-1], ids[:, 1:]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1, f"after 40 steps on one batch the loss is still {loss:.2f}"


def test_multi_query_is_multi_head_with_equal_heads():
    """G = 1 computes what G = H does when all key/value heads have the same weights."""
    one, many = random_model(n_kv_head=1), random_model(n_kv_head=4)
    weights = {}
    for name, tensor in one.state_dict().items():
        if name.endswith("qkv.weight"):
            q, k, v = tensor.split([32, 8, 8])  # four heads of 8, then one, then one
            tensor = torch.cat((q, k.repeat(4, 1), v.repeat(4, 1)))
        weights[name] = tensor
    many.load_state_dict(weights)
    ids = random_ids(2, 9)
    same(many(ids), one(ids), "heads that share keys must be as heads with equal keys")


def test_configs_that_cannot_be():
    for change, words in (({"n_kv_head": 3}, "n_head 4, and that of n_kv_head 3"),
                          ({"d_model": 30}, "d_model 30 must be a multiple of n_head 4"),
                          ({"n_layer": 0}, "n_layer is 0"), ({"seq_len": -1}, "seq_len is -1"),
                          ({"d_model": 36, "n_head": 4}, "heads have 9 channels"),
                          ({"n_layer": 2.5}, "n_layer is 2.5"), ({"d_ff": 10**400}, "a number"),
                          ({"d_model": True}, "d_model is True"), ({"n_head": "4"}, "is '4'")):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(SMALL, **change)


def test_make_model():
    model = make_model(SMALL, seed=3)
    assert type(model) is GPT and torch.equal(model.embed.weight, GPT(SMALL, 3).embed.weight), \
        "without a family it is the GPT of this file"


def test_command_line(capsys):
    main([])
    out = capsys.readouterr().out
    assert "it writes: A model that has read one sentence can write one sentence.\n" in out
    assert "step  0  loss 5.54" in out
