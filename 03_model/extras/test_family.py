"""Tests of family.py: the layers, then FamilyGPT, which is gpt.GPT where both apply; the models
have the sizes that were published, and the tables tell them.
"""

import dataclasses
import math

import pytest
import torch

from family import (ACTIVATIONS, FAMILIES, MODELS, MODERN, FamilyBlock, FamilyConfig,
                    FamilyGPT, FamilyMLP, Norm, dimensions, family_of, main, model_config,
                    n_parameters, sinusoids, word)
from gpt import GPT, GPTConfig, KVCache, generate, make_model, rms_norm, rope_angles, causal_mask
from ragged import RowsCache

SMALL = dict(vocab_size=61, seq_len=16, n_layer=3, n_head=4, n_kv_head=2, d_model=32, d_ff=48)
KINDS = FAMILIES | {"n-grams": {"ngrams": 3, "ngram_rows": 40},
                    "gpt2, shared heads, no softcap": FAMILIES["gpt2"] | {"n_kv_head": 1},
                    "llama, tied, with all norms": FAMILIES["llama"] | {
                        "tied": True, "bias": True, "embed_norm": True, "qk_norm": True}}
every_family = pytest.mark.parametrize("family", FAMILIES)
every_kind = pytest.mark.parametrize("kind", KINDS)
FIELDS = [field.name for kind in (GPTConfig, FamilyConfig) for field in dataclasses.fields(kind)]
PUBLISHED = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080,
             "gpt2-xl": 1_557_611_200, "stories-15m": 15_191_712, "smollm2-135m": 134_515_008,
             "tinyllama-1b": 1_100_048_384, "llama-7b": 6_738_415_616}


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_ids(*shape, seed=0):
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(seed))


def config_of(kind="modern", **changes):
    return model_config(**SMALL | KINDS[kind] | changes)


def random_model(kind="modern", **changes):
    """A FamilyGPT whose parameters are all random: a new one's zeros would hide mistakes."""
    model = FamilyGPT(config_of(kind, **changes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model.eval()


def same(found, expected, wrong, tolerance=1e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance,
                               msg=lambda details: f"{wrong}\n{details}")


# ---- the config ----
def test_model_config():
    config = config_of("gpt2", by_hand=True)
    assert config.family == FamilyConfig(**FAMILIES["gpt2"]) == family_of(config)
    assert config.n_layer == 3 and config.by_hand
    assert config_of("modern").family is None, "gpt.py's recipe is no family: gpt.GPT runs it"
    assert model_config(**SMALL | vars(MODERN)) == GPTConfig(**SMALL)
    assert family_of(GPTConfig(**SMALL)) == FamilyConfig() == MODERN


def test_configs_that_cannot_be():
    for change, words in (({"softcap": -1}, "softcap"), ({"norm_eps": float("nan")}, "norm_eps"),
                          ({"activation": "tanh"}, "relu, gelu"), ({"softcap": math.inf}, "is inf"),
                          ({"rope_base": 10**400}, "be a number"), ({"ngrams": 1}, "ngrams is 1"),
                          ({"ngrams": True}, "of type int"), ({"norm": "none"}, "layernorm"),
                          ({"d_model": 33, "positions": "learned"}, "33 must be a multiple of")):
        with pytest.raises(ValueError, match=words):
            config_of(**change)
    for change, words in (({"d_model": 36, "tied": True}, "odd size 9"),
                          ({"positions": "sinusoidal", "d_model": 9, "n_head": 3, "n_kv_head": 1},
                           "d_model 9 is odd")):
        with pytest.raises(ValueError, match=words):
            make_model(config_of(**change))
    make_model(config_of("gpt2", d_model=36))  # heads of 9, but nothing rotates them


# ---- the layers ----
def test_sinusoids():
    found = sinusoids(torch.tensor([0, 3]), 4)
    turned = [3.0, 0.03]  # 10000^0 and 10000^(-2/4)
    same(found[0], torch.tensor([0.0, 1.0, 0.0, 1.0]), "sines and cosines take turns")
    same(found[1], torch.tensor([f(a) for a in turned for f in (math.sin, math.cos)]),
         "the angles are those of rope_angles()")
    assert sinusoids(torch.zeros(2, 5, dtype=torch.long), 6).shape == (2, 5, 6)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_norm(norm):
    config = config_of(norm=norm, gains=True, bias=True, norm_eps=1e-2)
    x, layer = 0.3 + 0.1 * randn(5, 32), Norm(config)
    torch.nn.init.normal_(layer.weight)
    centred = x - x.mean(-1, keepdim=True) if norm == "layernorm" else x
    expected = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-2).sqrt() * layer.weight
    if norm == "layernorm":
        torch.nn.init.normal_(layer.bias)
        expected = expected + layer.bias
    same(layer(x), expected, f"{norm} of the paper, with gains and eps")
    assert not [*Norm(config_of(norm=norm, bias=True)).parameters()], "no gains, no parameters"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp(activation):
    mlp, x = FamilyMLP(config_of(activation=activation)), randn(2, 3, 32)
    h = mlp.up(x)
    hidden = {"relu": h.clamp(min=0), "relu2": h.clamp(min=0) ** 2,
              "gelu": h / 2 * (1 + torch.tanh((2 / math.pi)**0.5 * (h + 0.044715 * h**3)))}
    if activation == "swiglu":
        gate = mlp.gate(x)
        hidden["swiglu"] = gate / (1 + (-gate).exp()) * h
    same(mlp(x), hidden[activation] @ mlp.down.weight.T, (
        f"down(activation(up(x))), or, for swiglu, down(silu(gate(x)) * up(x)): here {activation}"))


def test_block():
    block, x = FamilyBlock(config_of(gains=True), 0), randn(2, 5, 32)
    for i, norm in enumerate((block.attention_norm, block.mlp_norm)):
        torch.nn.init.constant_(norm.weight, 2.0 + i)
    angles = rope_angles(torch.arange(5), 8)
    y = x + block.attention(2 * rms_norm(x), angles)
    same(block(x, angles), y + block.mlp(3 * rms_norm(y)), "each layer has a norm of its own")


# ---- the model ----
def test_make_model_chooses():
    assert type(make_model(config_of())) is GPT
    assert type(make_model(config_of("gpt2"))) is FamilyGPT
    assert type(make_model(config_of(), std=0.1)) is FamilyGPT, "the spine knows no std"


@pytest.mark.parametrize("by_hand", [True, False])
def test_todays_recipe_is_gpt_py(by_hand):
    """Same weights from the same seed; with any weights the same logits, cached or not, and loss.
    """
    config = config_of(by_hand=by_hand)
    for name, weight in FamilyGPT(config, seed=5).state_dict().items():
        assert torch.equal(weight, GPT(config, seed=5).state_dict()[name]), name
    family, spine = random_model(by_hand=by_hand), GPT(config)
    spine.load_state_dict(family.state_dict())
    ids, targets = random_ids(2, 16), random_ids(2, 16, seed=1)
    assert torch.equal(family(ids), spine(ids)), "the logits differ"
    assert torch.equal(family.loss(ids, targets), spine.loss(ids, targets)), "the losses differ"
    for model in (family, spine):
        cache = KVCache(config, 2)
        model.cached = torch.cat([model(part, cache) for part in ids.split((5, 1, 1, 9), 1)], 1)
    assert torch.equal(family.cached, spine.cached), "with a cache the logits differ"
    for a, b in zip(generate(family, ids.tolist(), 20), generate(spine, ids.tolist(), 20)):
        assert torch.equal(a, b), "they write differently"


@every_kind
def test_by_hand_is_the_same(kind):
    fast, by_hand, ids = random_model(kind), random_model(kind, by_hand=True), random_ids(2, 16)
    same(by_hand(ids), fast(ids), "by hand the logits are others")


@every_kind
def test_cached_equals_uncached(kind):
    """However the ids come, and whatever tells the model where they stand."""
    model, ids = random_model(kind), random_ids(2, 16)
    expected = model(ids)
    with torch.inference_mode():
        for first in range(1, 17):  # every length of prompt, then one by one to the last position
            cache = KVCache(model.config, batch_size=2)
            got = [model(ids[:, :first], cache)]
            got += [model(ids[:, t:t + 1], cache) for t in range(first, 16)]
            same(torch.cat(got, 1), expected, f"a prompt of {first}")
        for sizes in ((3, 5, 8), (1, 7, 8), (15, 1)):  # prompts that come in chunks
            cache = RowsCache(model.config, batch_size=2)
            got = torch.cat([model(part, cache) for part in ids.split(sizes, 1)], 1)
            same(got, expected, f"chunks of {sizes}")
        cache.length = 5
        taken = cache.take([1, 1])
        same(model(ids[[1, 1], 5:], taken), expected[[1, 1], 5:], "rows taken, with 5 positions")
    same(model(ids), expected, "a generation must leave nothing behind in the model")
    with pytest.raises(ValueError, match="16 \\+ 1 positions don't fit into 16"):
        model(ids[:, :1], taken)


@every_kind
def test_positions_and_masks(kind):
    """Two documents in a window, each at positions of its own."""
    model, ids = random_model(kind), random_ids(2, 11)
    document = torch.tensor([0] * 6 + [1] * 5)
    positions = torch.tensor([*range(6), *range(5)])
    mask = causal_mask(torch.arange(11), 11) & (document[:, None] == document)
    if kind == "n-grams":
        with pytest.raises(ValueError, match="n-gram tables look across"):
            model(ids, None, positions, mask)
        return
    alone = torch.cat([model(ids[:, :6]), model(ids[:, 6:])], 1)
    same(model(ids, None, positions, mask), alone, "a document sees the other one")
    rows = positions.expand(2, 11), mask.expand(2, 1, 11, 11)
    same(model(ids, None, *rows), alone, "positions and a mask for each row")


@every_kind
def test_initial_loss_is_that_of_a_guess(kind):
    losses = make_model(config_of(kind)).loss(random_ids(4, 16), random_ids(4, 16, seed=1))
    assert losses.shape == (4, 16)
    same(losses.mean(), torch.tensor(math.log(61)), "all ids should be as likely", 0.02)


@every_family
def test_weights_of_a_given_size(family):
    """As GPT-2 begins: all alike, but for those that write to the stream, which share it."""
    config = config_of(family, d_model=128, d_ff=512)
    for name, weight in make_model(config, std=0.02).named_parameters():
        if weight.dim() == 2:
            writes = name.endswith(("attention.out.weight", "mlp.down.weight"))
            expected = 0.02 / math.sqrt(2 * config.n_layer) if writes else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.1), name


def test_new_weights():
    """Untied, writers are zero; tied, they write, each a share."""
    for tied in (False, True):
        model = FamilyGPT(config_of(tied=tied, bias=True))
        for block in model.blocks:
            for out in (block.attention.out, block.mlp.down):
                expected = (out.in_features * 2 * 3) ** -0.5 if tied else 0
                assert out.weight.std().item() == pytest.approx(expected, rel=0.1), (
                    "matrices that write to the residual stream begin as zeros, unless the head is "
                    "the table: then they must write something")
                assert not out.bias.any()
        expected = 0.02 if tied else 0.1
        assert model.embed.weight.std().item() == pytest.approx(expected, rel=0.1)


def test_softcap():
    x = 50 * randn(3, 32)
    for cap in (0.0, 5.0):
        model = random_model(softcap=cap)
        scores = x @ model.head.weight.T
        same(model.logits(x), cap * torch.tanh(scores / cap) if cap else scores, f"softcap {cap}",
             1e-4)


@every_kind
def test_a_later_token_changes_no_earlier_logit(kind):
    model, ids = random_model(kind), random_ids(1, 16)
    before = model(ids)
    for t in range(16):
        changed = ids.clone()
        changed[0, t] = (ids[0, t] + 1) % 61
        after = model(changed)
        assert (after[0, :t] == before[0, :t]).all(), f"id {t} changed a logit before it"
        assert not torch.equal(after[0, t], before[0, t])


@every_kind
def test_one_batch_can_be_learned_by_heart(kind):
    model, ids = make_model(config_of(kind)), random_ids(4, 17)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = model.loss(ids[:, :-1], ids[:, 1:]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1, f"after 60 steps on one batch the loss is still {loss:.2f}"


def test_no_rows_are_no_problem():
    """A process may have no window of a batch; it must still take part, with gradients of zero."""
    for kind in ("gpt2", "llama"):
        model = random_model(kind)
        model.loss(random_ids(0, 16), random_ids(0, 16)).sum().backward()
        assert all((p.grad == 0).all() for p in model.parameters()), kind


def test_tied_head():
    model = make_model(config_of(tied=True))
    assert model.head.weight is model.embed.weight
    model.load_state_dict(random_model(tied=True).state_dict())
    assert model.head.weight is model.embed.weight, "one table, also after loading"


# ---- what changed ----
def test_a_family_says_all_that_sets_it_apart():
    """Or the table would leave out a row; the modern one is what a config is by itself."""
    assert FAMILIES["modern"] == {}
    for name, family in FAMILIES.items():
        assert set(family) <= set(FIELDS), f"{name} has fields that no config has"
        left_out = set(FAMILIES["scratch"]) - set(family)
        assert name == "modern" or not left_out, f"{name} does not choose {left_out}"


def test_shape():
    assert dimensions(3, 64, 4) == {"n_layer": 3, "d_model": 64, "n_head": 4, "n_kv_head": 4,
                               "d_ff": 256}
    assert dimensions(3, 64, 4, 2, 100, seq_len=8) == {"n_layer": 3, "d_model": 64, "n_head": 4,
                                                  "n_kv_head": 2, "d_ff": 100, "seq_len": 8}


@pytest.mark.parametrize("name", ["scratch", "stories-15m"])
def test_n_parameters(name):
    """Without making any it counts those that a model really has."""
    config = model_config(**MODELS[name])
    assert n_parameters(config) == sum(p.numel() for p in make_model(config).parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    assert n_parameters(model_config(**MODELS[name])) == PUBLISHED[name]



def test_scratch():
    c = model_config(**MODELS["scratch"])
    assert (c.n_layer, c.d_model, c.d_ff, c.seq_len) == (4, 512, 1024, 256)
    f = family_of(c)
    assert (f.activation, f.positions, f.norm) == ("relu", "sinusoidal", "layernorm")


@pytest.mark.parametrize("name", MODELS)
def test_heads(name):
    """Heads of 64, or of 128 in the largest, but for those that are small as a whole."""
    config = model_config(**MODELS[name])
    assert config.head_dim in ((64, 128) if config.d_model >= 512 else (32, 48, 64))


def test_word():
    assert [word(value) for value in (True, False, 0.0, 15.0, "rope")] == ["yes", "no", "no",
                                                                           "15.0", "rope"]


def test_command_line(capsys):
    main([])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["scratch", "gpt2", "llama", "modern"] in lines
    assert ["positions", "sinusoidal", "learned", "rope", '"'] in lines
    assert ["tied", "no", "yes", "no", '"'] in lines
    assert ["llama-7b", "32", "4,096", "32/32", "11,008", "32,000", "2,048",
            "6,738,415,616"] in lines
    assert set(MODELS) <= {line[0] for line in lines if line}
