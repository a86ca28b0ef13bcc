"""Tests of family.py: the models have the sizes that were published, and the table tells them."""

import dataclasses

import pytest

from family import FAMILIES, LADDER, MODELS, main, n_parameters, rung, shape, word
from gpt import GPT, GPTConfig

FIELDS = [field.name for field in dataclasses.fields(GPTConfig)]
PUBLISHED = {"gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080,
             "gpt2-xl": 1_557_611_200, "stories-15m": 15_191_712, "smollm2-135m": 134_515_008,
             "tinyllama-1b": 1_100_048_384, "llama-7b": 6_738_415_616}


def test_a_family_says_all_that_sets_it_apart():
    """Or the table would leave out a row; the modern one is what a config is by itself."""
    assert FAMILIES["modern"] == {}
    for name, family in FAMILIES.items():
        assert set(family) <= set(FIELDS), f"{name} has fields that no config has"
        left_out = set(FAMILIES["scratch"]) - set(family)
        assert name == "modern" or not left_out, f"{name} does not choose {left_out}"


def test_shape():
    assert shape(3, 64, 4) == {"n_layer": 3, "d_model": 64, "n_head": 4, "n_kv_head": 4,
                               "d_ff": 256}
    assert shape(3, 64, 4, 2, 100, seq_len=8) == {"n_layer": 3, "d_model": 64, "n_head": 4,
                                                  "n_kv_head": 2, "d_ff": 100, "seq_len": 8}


def test_rung():
    assert rung(3) == shape(3, 192, 3, vocab_size=2048, seq_len=128)
    assert rung(4) == shape(4, 256, 4, vocab_size=4096, seq_len=256)
    assert rung(8) == shape(8, 512, 4, vocab_size=32768, seq_len=1024)
    assert rung(12) == shape(12, 768, 6, vocab_size=32768, seq_len=1024)


def test_the_ladder_only_rises():
    sizes = [n_parameters(GPTConfig(**MODELS[name])) for name in LADDER]
    assert sizes == sorted(sizes) and sizes[0] < 3e6 and sizes[-1] > 1e9


@pytest.mark.parametrize("name", ["nano", "tiny"])
def test_n_parameters(name):
    """Without making any it counts those that a model really has."""
    config = GPTConfig(**MODELS[name])
    assert n_parameters(config) == sum(p.numel() for p in GPT(config).parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    assert n_parameters(GPTConfig(**MODELS[name])) == PUBLISHED[name]


def test_sizes_of_ours():
    """That a config takes these fields is a test in itself: it refuses what can't be."""
    ours = [n_parameters(GPTConfig(**MODELS[name])) for name in MODELS if name not in PUBLISHED]
    assert ours == [12_606_464, 163_840, 2_113_536, 5_242_880, 11_386_880, 23_199_744, 58_720_256,
                    135_266_304, 268_435_456, 529_530_880, 1_027_473_408]


def test_scratch():
    c = GPTConfig(**MODELS["scratch"])
    assert (c.n_layer, c.d_model, c.d_ff, c.seq_len) == (4, 512, 1024, 256)
    assert (c.activation, c.positions, c.norm) == ("relu", "sinusoidal", "layernorm")


@pytest.mark.parametrize("name", MODELS)
def test_heads(name):
    """Heads of 64, or of 128 in the largest, but for those that are small as a whole."""
    config = GPTConfig(**MODELS[name])
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
