"""The names that transformers has for our models: GPT-2, Llama and nanochat.

They are the same model here with other choices (family.py), so their checkpoints are ours under
other names. The tables below give the names of config.json's settings and of tensors, and how a
tensor differs; weights.py uses them in both directions. A setting that can't be expressed exactly
is refused, and the message names it.
Left out: the tensors themselves (weights.py), other architectures.

Used by weights.py. Next: shards.py.
"""

import os
import sys
from dataclasses import dataclass, fields

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from family import FAMILIES, FamilyConfig, family_of, model_config
from gpt import GPTConfig

# ---- the names ----
@dataclass(frozen=True)
class Architecture:
    """A model_type of transformers."""

    name: str  # of its class
    family: str  # of family.py
    settings: dict  # {name in config.json: (our field, the default)}
    demands: dict  # {name in config.json: the only value that is expressible here}
    prefix: str  # of all tensors' names but the head's; some files leave it out
    tensors: dict  # {our name: (their name, how the tensor differs)}


SETTINGS = {"vocab_size": ("vocab_size", 32000), "max_position_embeddings": ("seq_len", 2048),
            "num_hidden_layers": ("n_layer", 32), "hidden_size": ("d_model", 4096),
            "num_attention_heads": ("n_head", 32), "num_key_value_heads": ("n_kv_head", None),
            "intermediate_size": ("d_ff", 11008), "rope_theta": ("rope_base", 10000.0),
            "tie_word_embeddings": ("tied", False)}
TENSORS = {"embed": ("embed_tokens", ""),
           "blocks.N.attention_norm": ("layers.N.input_layernorm", ""),
           "blocks.N.attention.qkv": ("layers.N.self_attn.{}_proj", "turned, divided"),
           "blocks.N.attention.out": ("layers.N.self_attn.o_proj", ""),
           "blocks.N.mlp_norm": ("layers.N.post_attention_layernorm", ""),
           "blocks.N.mlp.gate": ("layers.N.mlp.gate_proj", ""),
           "blocks.N.mlp.up": ("layers.N.mlp.up_proj", ""),
           "blocks.N.mlp.down": ("layers.N.mlp.down_proj", ""),
           "norm": ("norm", ""),
           "head": ("lm_head", "")}

ARCHITECTURES = {
    "gpt2": Architecture(
        "GPT2LMHeadModel", "gpt2",
        {"vocab_size": ("vocab_size", 50257), "n_positions": ("seq_len", 1024),
         "n_layer": ("n_layer", 12), "n_embd": ("d_model", 768), "n_head": ("n_head", 12),
         "n_inner": ("d_ff", None), "layer_norm_epsilon": ("norm_eps", 1e-5),
         "tie_word_embeddings": ("tied", True)},
        {"activation_function": "gelu_new", "scale_attn_weights": True,
         "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False,
         "add_cross_attention": False},
        "transformer.",
        {"embed": ("wte", ""),
         "position_embed": ("wpe", ""),
         "blocks.N.attention_norm": ("h.N.ln_1", ""),
         "blocks.N.attention.qkv": ("h.N.attn.c_attn", "transposed"),
         "blocks.N.attention.out": ("h.N.attn.c_proj", "transposed"),
         "blocks.N.mlp_norm": ("h.N.ln_2", ""),
         "blocks.N.mlp.up": ("h.N.mlp.c_fc", "transposed"),
         "blocks.N.mlp.down": ("h.N.mlp.c_proj", "transposed"),
         "norm": ("ln_f", ""),
         "head": ("lm_head", "")}),
    "llama": Architecture(
        "LlamaForCausalLM", "llama",
        SETTINGS | {"rms_norm_eps": ("norm_eps", 1e-6), "attention_bias": ("bias", False),
                    "mlp_bias": ("bias", False)},
        {"hidden_act": "silu", "pretraining_tp": 1},
        "model.", TENSORS),
    "nanochat": Architecture(
        "NanoChatForCausalLM", "modern",
        SETTINGS | {"vocab_size": ("vocab_size", 50304), "num_hidden_layers": ("n_layer", 12),
                    "hidden_size": ("d_model", 768), "num_attention_heads": ("n_head", 6),
                    "intermediate_size": ("d_ff", 8192),
                    "rms_norm_eps": ("norm_eps", 1e-6),
                    "final_logit_softcapping": ("softcap", 15.0)},
        {"hidden_act": "relu2", "attention_bias": False},
        "model.",
        TENSORS | {"blocks.N.attention.qkv": ("layers.N.self_attn.{}_proj", "divided"),
                   "blocks.N.mlp.up": ("layers.N.mlp.fc1", ""),
                   "blocks.N.mlp.down": ("layers.N.mlp.fc2", "")}),
}
# Settings of any architecture that change what a model computes, and the only value known here.
ANYWHERE = {"is_causal": True, "partial_rotary_factor": 1, "sliding_window": None,
            "layer_types": None, "quantization_config": None}


# ---- the config ----
def rope_theta(settings):
    """{"rope_theta": base}, wherever a file has it: newer ones have it in rope_parameters."""
    rope = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    if (not isinstance(rope, dict) or rope.keys() - {"rope_theta", "rope_type", "type"}
            or rope.get("rope_type", rope.get("type", "default")) != "default"):
        raise ValueError(f"rope_scaling or rope_parameters is {rope}, which is not expressible "
                         "here: only rope_theta is")
    return {"rope_theta": each["rope_theta"] for each in (settings, rope)
            if each.get("rope_theta") is not None}


def flat(config):
    """The fields of a GPTConfig and of its family side by side, as model_config() takes them."""
    return {**{field.name: getattr(config, field.name) for field in fields(GPTConfig)
               if field.name not in ("by_hand", "family")}, **vars(family_of(config))}


def our_fields(settings):
    """The fields of flat(), from the settings of a config.json."""
    kind, ours, known = settings.get("model_type"), {}, {}
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise ValueError(f"model_type is {kind!r}; only {', '.join(ARCHITECTURES)} are known here")
    architecture = ARCHITECTURES[kind]
    for name, only in (architecture.demands | ANYWHERE).items():
        if settings.get(name) not in (None, only):
            raise ValueError(f"{name} is {settings[name]!r}, which is not expressible here: only "
                             f"{only!r} is")
    if "rope_theta" in architecture.settings:
        settings = {k: v for k, v in settings.items() if k != "rope_theta"} | rope_theta(settings)

    types = {field.name: field.type for kind in (GPTConfig, FamilyConfig) for field in fields(kind)}
    for name, (field, default) in architecture.settings.items():
        value = settings.get(name, default)
        if value is None and field in ("n_kv_head", "d_ff", "softcap"):
            continue
        if type(value) not in {float: (int, float)}.get(types[field], (types[field],)):
            raise ValueError(f"{name} is {value!r}, but must be of type {types[field].__name__}")
        if ours.setdefault(field, value) != value:
            raise ValueError(f"{known[field]} is {ours[field]} and {name} is {value}, which is not "
                             f"expressible here: {field} is one for both")
        known[field] = name
    size = settings.get("head_dim")
    if size and (type(size) is not int or size * ours["n_head"] != ours["d_model"]):
        raise ValueError(f"head_dim is {size!r}, which is not expressible here: "
                         f"{ours['d_model']} channels are shared by {ours['n_head']} heads")
    absent = {"n_kv_head": ours["n_head"], "d_ff": 4 * ours["d_model"], "softcap": 0.0}
    return flat(model_config(**FAMILIES[architecture.family])) | absent | ours


def from_huggingface(settings):
    """The GPTConfig that a config.json, read as a dict, stands for. It has no family if it is just
    gpt.py's recipe.

    ValueError, naming a setting and its value, if it is not expressible here: another model_type,
    scaled rotary positions, ... Settings that don't change what a model computes are ignored.
    """
    return model_config(**our_fields(settings))


def to_huggingface(config):
    """The config.json, as a dict, from which from_huggingface() makes this GPTConfig.

    ValueError, naming the fields that don't fit the closest architecture, if there is none.
    """
    ours, misfits = flat(config), {}
    for kind, architecture in ARCHITECTURES.items():
        settings = {"architectures": [architecture.name], "model_type": kind}
        settings |= architecture.demands | {name: ours[field] for name, (field, _)
                                            in architecture.settings.items()}
        if "rope_theta" in settings:  # for older programs; for newer ones:
            settings["rope_parameters"] = {"rope_type": "default", "rope_theta": ours["rope_base"]}
        if "final_logit_softcapping" in settings:
            settings["final_logit_softcapping"] = ours["softcap"] or None
        misfits[kind] = [f"{field} {ours[field]} (there {value})"
                         for field, value in our_fields(settings).items() if ours[field] != value
                         and (field != "rope_base" or ours["positions"] == "rope")]
        if not misfits[kind]:
            return settings
    closest = min(misfits, key=lambda kind: len(misfits[kind]))
    raise ValueError(f"no architecture of transformers expresses this model; {closest} is closest, "
                     f"but not in {', '.join(misfits[closest])}")
