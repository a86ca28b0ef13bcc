"""Tests of presets.py."""

import dataclasses
import json

import pytest

from family import FamilyConfig, n_parameters
from gpt import GPTConfig
from presets import MAY_CHANGE, PRESETS, Config


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_built(name):
    config = Config(**PRESETS[name])
    shape = config.gpt(300)
    assert type(shape) is GPTConfig and shape.vocab_size == 300
    assert shape == dataclasses.replace(shape, n_layer=config.n_layer, d_model=config.d_model)
    assert n_parameters(shape) > 0
    written = json.loads(json.dumps(config.to_json()))
    assert Config.from_json(written) == config, "config.json must say all of it"


def test_what_may_change_are_fields_that_are_not_of_the_model():
    names = {field.name for field in dataclasses.fields(Config)}
    for kind in (GPTConfig, FamilyConfig):
        names -= {field.name for field in dataclasses.fields(kind)}
    assert MAY_CHANGE <= names | {"by_hand"}, "by hand the same model is computed, more slowly"


@pytest.mark.parametrize("name, value", [("lr", float("nan")), ("lr", float("inf")), ("steps", 0),
                                         ("cooldown", -0.1), ("cooldown", 1.1), ("n_layer", 0),
                                         ("muon_lr", 0.0), ("min_lr_share", 1.1), ("momentum", 1.0),
                                         ("momentum", float("nan")), ("optimizer", "adam"),
                                         ("schedule", "inverse_sqrt"), ("flops", float("inf")),
                                         ("flops", float("nan")), ("tokens_per_param", -1.0),
                                         ("beta2", 1.0), ("label_smoothing", -0.1), ("keep", 0)])
def test_configs_that_cannot_be(name, value):
    with pytest.raises(ValueError, match=f"^{name} is"):
        Config(**{name: value})


def test_a_run_has_a_length():
    assert Config(steps=0, flops=1e12).steps == Config(steps=0, tokens_per_param=20.0).steps == 0
