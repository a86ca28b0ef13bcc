"""Tests of huggingface.py: what is the same under other names, and what is refused."""

import json

import pytest

from family import FAMILIES, MODELS, FamilyConfig, family_of, model_config
from huggingface import ARCHITECTURES, from_huggingface, to_huggingface

SMALL = dict(vocab_size=301, seq_len=48, n_layer=2, n_head=6, n_kv_head=2, d_model=36, d_ff=52)


def test_names_there():
    assert to_huggingface(model_config(**SMALL | {"rope_base": 500.0})) == {
        "architectures": ["NanoChatForCausalLM"], "model_type": "nanochat", "hidden_act": "relu2",
        "attention_bias": False, "vocab_size": 301, "max_position_embeddings": 48,
        "num_hidden_layers": 2, "hidden_size": 36, "num_attention_heads": 6,
        "num_key_value_heads": 2, "intermediate_size": 52, "rope_theta": 500.0,
        "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "final_logit_softcapping": 15.0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}


@pytest.mark.parametrize("kind, changes", [
    ("gpt2", {"n_kv_head": 6}), ("gpt2", {"n_kv_head": 6, "tied": False, "norm_eps": 1e-3}),
    ("llama", {"rope_base": 500.0}), ("llama", {"tied": True, "bias": True, "n_kv_head": 6}),
    ("llama", {"n_kv_head": 1, "norm_eps": 1e-2}), ("modern", {"norm_eps": 1e-3}),
    ("modern", {"n_kv_head": 6, "softcap": 3.0, "tied": True}),
    ("modern", {"n_kv_head": 1, "softcap": 0.0, "rope_base": 77.0})])
def test_config_there_and_back(kind, changes):
    config = model_config(**SMALL | FAMILIES[kind] | changes)
    settings = json.loads(json.dumps(to_huggingface(config)))
    assert from_huggingface(settings) == config
    assert settings["model_type"] == ("nanochat" if kind == "modern" else kind)


def test_every_preset_that_is_one_of_theirs_can_be_written():
    for name, model in MODELS.items():
        if name == "scratch":
            continue
        config = model_config(**model)
        assert from_huggingface(to_huggingface(config)) == config, name


def test_todays_recipe_has_no_family():
    """So that gpt.GPT runs it; any difference makes it a family."""
    settings = to_huggingface(model_config(**SMALL, by_hand=True))
    assert from_huggingface(settings).family is None and not from_huggingface(settings).by_hand
    assert from_huggingface(settings | {"final_logit_softcapping": 15}).family is None
    other = from_huggingface(settings | {"rms_norm_eps": 1e-5})
    assert other.family == FamilyConfig(norm_eps=1e-5)


def test_what_is_left_out_is_as_in_transformers():
    transformers = pytest.importorskip("transformers",
                                       reason="an oracle of tests/requirements.txt")
    for kind in ARCHITECTURES:
        full = transformers.AutoConfig.for_model(kind).to_dict()
        assert from_huggingface({"model_type": kind}) == from_huggingface(full), kind


def test_where_rope_theta_stands():
    for how in ({"rope_theta": 5e5}, {"rope_theta": 500000, "rope_scaling": None},
                {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
                {"rope_theta": 1.0, "rope_parameters": {"rope_theta": 5e5}},
                {"rope_theta": 5e5, "rope_scaling": {"type": "default"}}):
        for kind in ("llama", "nanochat"):
            assert family_of(from_huggingface({"model_type": kind} | how)).rope_base == 5e5, how
    assert family_of(from_huggingface({"model_type": "llama", "rope_theta": None})).rope_base == 1e4


@pytest.mark.parametrize("kind, setting, value", [
    ("bert", "model_type", "bert"), (None, "model_type", None),
    ("gpt2", "activation_function", "relu"),
    ("gpt2", "scale_attn_by_inverse_layer_idx", True), ("gpt2", "reorder_and_upcast_attn", True),
    ("gpt2", "scale_attn_weights", False), ("gpt2", "add_cross_attention", True),
    ("gpt2", "n_layer", "12"), ("gpt2", "n_embd", None), ("gpt2", "n_head", True),
    ("gpt2", "tie_word_embeddings", 1),
    ("llama", "rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
    ("llama", "rope_scaling", {"type": "linear", "factor": 2.0}),
    ("llama", "rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
    ("llama", "rope_parameters", {"full_attention": {"rope_theta": 1e4}}),
    ("llama", "rope_parameters", "yarn"),
    ("llama", "partial_rotary_factor", 0.5), ("llama", "attention_bias", True),
    ("llama", "mlp_bias", True), ("llama", "head_dim", 64), ("llama", "hidden_act", "gelu"),
    ("llama", "pretraining_tp", 2), ("llama", "sliding_window", 4096),
    ("llama", "is_causal", False), ("llama", "quantization_config", {"bits": 4}),
    ("llama", "layer_types", ["sliding_attention"]), ("llama", "rms_norm_eps", -1.0),
    ("nanochat", "hidden_act", "silu"), ("nanochat", "attention_bias", True),
    ("nanochat", "head_dim", 64),
    ("nanochat", "rope_scaling", {"rope_type": "dynamic", "factor": 2.0}),
])
def test_settings_that_are_refused(kind, setting, value):
    with pytest.raises(ValueError) as error:
        from_huggingface({"model_type": kind, setting: value})
    message = str(error.value)
    name = "norm_eps" if value == -1.0 else setting  # the family's own complaint
    assert name in message and str(value) in message and "\n" not in message, message


def test_settings_that_make_no_difference():
    ignored = {"attn_pdrop": 0.1, "use_cache": False, "torch_dtype": "float16", "n_ctx": 1024,
               "initializer_range": 1.0, "attention_dropout": 0.5, "is_llama_config": True}
    for kind in ARCHITECTURES:
        assert from_huggingface({"model_type": kind} | ignored) == from_huggingface(
            {"model_type": kind})
    assert from_huggingface({"model_type": "llama", "head_dim": 128}).head_dim == 128


@pytest.mark.parametrize("family, changes, named", [
    ("scratch", {}, {"gpt2", "positions sinusoidal", "activation relu"}),
    ("modern", {"positions": "sinusoidal"}, {"nanochat", "positions sinusoidal (there rope)"}),
    ("modern", {"qk_norm": False, "bias": True}, {"nanochat", "qk_norm False", "bias True"}),
    ("llama", {"norm": "layernorm"}, {"llama", "norm layernorm"}),
    ("llama", {"softcap": 15.0}, {"llama", "softcap 15.0"}),
    ("llama", {"positions": "learned"}, {"llama", "positions learned"}),
    ("modern", {"ngrams": 3}, {"nanochat", "ngrams 3 (there 0)"}),
    ("gpt2", {"n_kv_head": 2}, {"gpt2", "n_kv_head 2 (there 6)"}),
    ("gpt2", {"bias": False}, {"gpt2", "bias False (there True)"}),
])
def test_models_that_are_refused(family, changes, named):
    with pytest.raises(ValueError) as error:
        to_huggingface(model_config(**SMALL | {"n_kv_head": 6} | FAMILIES[family] | changes))
    assert all(name in str(error.value) for name in named), error.value
    assert "\n" not in str(error.value)
