"""Tests of presets.py, and of the Config and the presets that train.py has."""

import dataclasses
import json

import pytest

from family import FamilyConfig, n_parameters
from gpt import GPTConfig
from presets import ALL, FullConfig, main
from resuming import MAY_CHANGE
from runs import as_json
from train import LADDER, PRESETS, Config, depth_preset


@pytest.mark.parametrize("name", ALL)
def test_presets_can_be_built(name):
    kind = Config if name in PRESETS else FullConfig
    config = kind(**ALL[name])
    shape = config.gpt(300)
    assert type(shape) is GPTConfig
    assert shape == dataclasses.replace(shape, n_layer=config.n_layer, d_model=config.d_model)
    assert n_parameters(shape) > 0
    json.dumps(as_json(config))


def test_ladder():
    """One dial, from minutes on a laptop to a billion parameters."""
    presets = {depth: depth_preset(depth) for depth in (3, 8, 12)}
    shapes = {depth: Config(**p).gpt(p["vocab_size"]) for depth, p in presets.items()}
    assert [(s.d_model, s.n_head, s.d_ff, s.vocab_size, s.seq_len) for s in shapes.values()] == [
        (192, 3, 768, 2048, 128), (512, 4, 2048, 32768, 1024), (768, 6, 3072, 32768, 1024)]
    sizes = [n_parameters(Config(**PRESETS[name]).gpt(PRESETS[name]["vocab_size"]))
             for name in LADDER]
    assert sizes == [2_113_536, 5_242_880, 11_386_880, 23_199_744, 58_720_256, 135_266_304,
                     268_435_456, 529_530_880, 1_027_473_408]
    assert depth_preset(12)["batch_size"] * 1024 == 2**17
    assert depth_preset(26)["batch_size"] * 1024 == 2**19


def test_what_may_change_are_fields_that_are_not_of_the_model():
    names = {field.name for field in dataclasses.fields(FullConfig)}
    for kind in (GPTConfig, FamilyConfig):
        names -= {field.name for field in dataclasses.fields(kind)}
    assert MAY_CHANGE <= names | {"by_hand"}, "by hand the same model is computed, more slowly"


def test_main(capsys):
    main([])
    out = capsys.readouterr().out
    assert all(name in out for name in ALL) and "--label-smoothing" in out and "--norm " in out


@pytest.mark.parametrize("name, value", [("lr", float("nan")), ("lr", float("inf")), ("steps", 0),
                                         ("cooldown", -0.1), ("cooldown", 1.1), ("n_layer", 0),
                                         ("muon_lr", 0.0), ("min_lr_share", 1.1), ("momentum", 1.0),
                                         ("momentum", float("nan")), ("optimizer", "adam"),
                                         ("schedule", "inverse_sqrt"), ("flops", float("inf")),
                                         ("flops", float("nan")), ("tokens_per_param", -1.0),
                                         ("beta2", 1.0), ("label_smoothing", -0.1), ("keep", 0),
                                         ("snapshots", -1)])
def test_configs_that_cannot_be(name, value):
    with pytest.raises(ValueError, match=f"^{name} is"):
        FullConfig(**{name: value})


def test_a_run_has_a_length():
    assert Config(steps=0, flops=1e12).steps == Config(steps=0, tokens_per_param=20.0).steps == 0
