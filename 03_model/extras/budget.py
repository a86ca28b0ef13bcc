"""What a model costs: parameters, arithmetic and memory, before it is built.

Every number here is a short formula for all families, and test_budget.py compares it with the real
module: parameters counted, FLOPs counted by PyTorch, activations as autograd saves them, memory as
PyTorch takes it (Muon's: beside length.py). Left out: time and money.

    python 03_model/extras/budget.py --model gpt2-xl llama-7b smollm2-135m
    python 03_model/extras/budget.py --model gpt2 --n-kv-head 1 --batch-size 4

Prints costs.py's table. Next: costs.py.
"""

import dataclasses
import os
import sys
from collections import Counter
from types import SimpleNamespace

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import run

# What a FamilyConfig says of gpt.py's recipe: a run of it needs nothing else of family.py.
MODERN = SimpleNamespace(positions="rope", norm="rmsnorm", gains=False, embed_norm=True,
                         qk_norm=True, activation="relu2", bias=False, tied=False, softcap=15.0,
                         ngrams=0, ngram_rows=8192)


def family_of(config):
    """The FamilyConfig of a GPTConfig, or, of gpt.py's recipe, as much of it as is asked here."""
    return config.family or MODERN


def count_parameters(config):  # exercise
    """{"embedding": n, "positions": n, "attention": n, "mlp": n, "norms": n, "head": n}: numbers
    of parameters, 0 where there are none.

    V is vocab_size, C d_model, D head_dim. The embedding is V x C, to which `ngrams` of 2 or more
    add (ngrams - 1) * ngram_rows rows; learned positions are seq_len x C. Each block has two
    matrices of attention (qkv: C to H D + 2 G D channels; out: H D to C) and two of the MLP (C to
    d_ff, and back), three if the activation is swiglu (C to d_ff twice); with `bias` each also adds
    a vector, as long as its output. With `gains` each norm (two a block, the last one, and with
    `embed_norm` the first) has C gains, and, if it is a LayerNorm and there is `bias`, C shifts.
    The head is V x C; a tied head has no parameters of its own.
    A block with bias, swiglu, C = H D = G D = 4 and d_ff = 8: 80 in attention, 116 in the MLP.
    """
    V, C, F, L = config.vocab_size, config.d_model, config.d_ff, config.n_layer
    family, keys = family_of(config), config.n_kv_head * config.head_dim
    bias = family.bias
    attention = (C + bias) * (C + 2 * keys) + (C + bias) * C
    mlp = (1 + (family.activation == "swiglu")) * (C + bias) * F + (F + bias) * C
    norm = family.gains * (C + C * (bias and family.norm == "layernorm"))
    tables = max(0, family.ngrams - 1) * family.ngram_rows
    return {"embedding": (V + tables) * C,
            "positions": config.seq_len * C if family.positions == "learned" else 0,
            "attention": L * attention,
            "mlp": L * mlp,
            "norms": (2 * L + 1 + family.embed_norm) * norm,
            "head": 0 if family.tied else V * C}


def count_adapters(config, rank):
    """How many parameters adapters of that rank have, of 04_train/extras/lora.py: rank * (in + out)
    for each matrix of the blocks.
    """
    C, F, keys = config.d_model, config.d_ff, config.n_kv_head * config.head_dim
    gated = family_of(config).activation == "swiglu"
    return rank * config.n_layer * (C + (C + 2 * keys) + 2 * C + (2 + gated) * (C + F))


def multiplied_by(config):
    """{"attention": n, "mlp": n, "head": n}: numbers in the matrices of matrix products. A tied
    head counts, too.
    """
    if config.family:
        family = dataclasses.replace(config.family, bias=False, tied=False)
        config = dataclasses.replace(config, family=family)
    counts = count_parameters(config)
    return {name: counts[name] for name in ("attention", "mlp", "head")}


def flops_per_token(config):  # exercise
    """FLOPs of a training step per token, forward and backward (Chowdhery et al. 2022,
    appendix B).

    6 for each number in the matrices of matrix products, multiplied_by(config): one multiply and
    one add forward, twice that backward. Tables in which rows are looked up, biases and gains don't
    count. And in each layer 12 C T for the scores and the weighted sum over all T = seq_len
    positions of the window, masked ones included.
    """
    numbers = sum(multiplied_by(config).values())
    return 6 * numbers + 12 * config.n_layer * config.d_model * config.seq_len


def holds_scores(config, dtype="float32"):
    """Whether attention() itself runs, with a number for each pair of positions: by hand, and on a
    CPU in short windows of float32 (gpt.attention_fused). For GPUs that is too much.
    """
    return config.by_hand or dtype == "float32" and config.seq_len <= 256


def activation_bytes(config, batch_size, dtype="float32", recompute=False):
    """Bytes that the forward pass keeps for the backward pass on a CPU, per micro-batch: mostly the
    inputs of matrix products and other operations with parameters.

    With "bfloat16" products are computed, and their inputs kept, in 2 bytes a number; the residual
    stream, norms and logits stay in 4. Attention's weights are kept if holds_scores(), otherwise
    recomputed (Dao et al. 2022). By hand the result is up to a fifth too large. With `recompute`
    only a block's input is kept (Chen et al. 2016).
    """
    C, H, G, family = config.d_model, config.n_head, config.n_kv_head, family_of(config)
    rms, rope, qk_norm = family.norm == "rmsnorm", family.positions == "rope", family.qk_norm
    keys, low = G * config.head_dim, dtype != "float32"
    short = 2 if low else 4

    # 1) bytes per token and block
    norm = (4 * (C + (1 + family.gains * C if rms else 2))  # the stream, 1/rms and what gains
            # multiply; or mean and 1/std
            + short * C)  # the stream normalised
    qkv = short * (C + 2 * keys)  # queries, keys, values: one tensor
    turned = short * rope * (C + keys)  # queries and keys turned, as (B, heads, T, D)
    if qk_norm:  # what it reads, which norms turn into 4 bytes, and 1/rms of each
        turned = (4 * (C + keys) if rope or low else 0) + 4 * (H + G)
    plain = holds_scores(config, dtype)
    if plain:  # queries scaled, keys and values once for each head, weights, what the heads found
        attention = short * (4 * C + H * config.seq_len) + qk_norm * (turned + qkv * (not rope))
    else:
        attention = (qkv + turned + qk_norm * short * (C + keys)  # queries and keys normalised
                     + short * C + 4 * H  # what the heads found, and their log-sum-exp
                     + short * C * (rope or qk_norm or low))  # copied: (B, T, C), or 2 bytes, again
    mlp = short * config.d_ff * {"relu": 1,  # its result, which also tells its slope
                                 "gelu": 2,  # what goes in, and what comes out
                                 "relu2": 2,  # ReLU, and its square
                                 "swiglu": 4}[family.activation]  # gate, silu(gate), up, product
    if low and family.activation == "swiglu":
        mlp += short * C  # gate and up make a copy each of what they read
    block = 2 * norm + attention + mlp

    # 2) and per token once: the last norm, the first, log-softmax, the soft cap's tanh
    once = (norm + family.embed_norm * (norm - short * C)
            + 4 * (1 + (family.softcap > 0)) * config.vocab_size)
    block = 4 * C if recompute else block
    masks = 0 if recompute or not plain else config.n_layer * config.seq_len**2
    return batch_size * config.seq_len * (config.n_layer * block + once) + masks


def recomputed_bytes(config, batch_size, dtype="float32"):
    """Bytes that a block takes during its recomputation and backward pass, besides its input: its
    activations, and three gradients of its MLP (fewer unless the activation is ReLU^2).
    """
    whole, kept = (activation_bytes(config, batch_size, dtype, again) for again in (False, True))
    short = 2 if dtype != "float32" else 4
    return ((whole - kept) // config.n_layer
            + 3 * short * config.d_ff * batch_size * config.seq_len)


def muon_groups(config):
    """{(m, n): how many numbers the blocks' matrices of that shape have together}, with Q, K and V
    as matrices of their own. Muon orthogonalises all matrices of one shape together.
    """
    C, F, keys = config.d_model, config.d_ff, config.n_kv_head * config.head_dim
    numbers = Counter()
    for shape, count in (((C, C), 2),  # queries, and what attention puts out
                         ((keys, C), 2),  # keys, values
                         ((F, C), 1 + (family_of(config).activation == "swiglu")), ((C, F), 1)):
        numbers[shape] += config.n_layer * count * shape[0] * shape[1]
    return numbers


def muon_bytes(config):
    """Temporary bytes of a step of Muon, in float32: the look-ahead gradient of every matrix, and,
    for one group at a time, three copies and two products (m, m) of the short side m.
    """
    groups = muon_groups(config)
    return 4 * (groups.total() + max(3 * k + 2 * k * min(shape) // max(shape)
                                     for shape, k in groups.items()))


def training_memory(config, batch_size, optimizer="adamw", dtype="float32", recompute=False,
                    rank=0):
    """{"weights": bytes, ...} of a training step with this micro-batch: the most that tensors take.

    Weights and gradients take 4 bytes a parameter; AdamW's two moments 8; Muon's one average, of
    the matrices inside the blocks, 4. "copies": with dtype "bfloat16" the matrices, in 2 bytes.
    "workspace" is temporary, the largest of: the logits' gradient twice, when the backward pass
    starts; a recomputed block, when the logits are freed; Muon's step, when activations and copies
    are freed. If a micro-batch is the whole batch, gradients appear while activations are freed,
    and the sum is less, by at most the gradients. With a `rank` only adapters of that rank have
    gradients and averages (AdamW's); the few activations that they add are left out.
    """
    parameters, numbers = count_parameters(config), multiplied_by(config)
    n, inside = sum(parameters.values()), parameters["attention"] + parameters["mlp"]
    matrices = numbers["attention"] + numbers["mlp"]
    muon, low = optimizer == "muon", dtype != "float32"
    copies = 2 * low * (inside + numbers["head"])
    activations = activation_bytes(config, batch_size, dtype, recompute)
    logits = 4 * batch_size * config.seq_len * config.vocab_size
    workspace = 2 * logits
    if recompute:
        kept = (1 + (family_of(config).softcap > 0)) * logits
        workspace = max(workspace, recomputed_bytes(config, batch_size, dtype) - kept)
    if muon:
        workspace = max(workspace, muon_bytes(config) - activations - copies)
    adapters = count_adapters(config, rank)
    trained = adapters or n
    return {"weights": 4 * (n + adapters), "copies": copies + 2 * low * adapters,
            "gradients": 4 * trained, "optimizer": 8 * trained - 4 * muon * matrices,
            "activations": activations, "workspace": workspace}


# ---- output ----
def readable(n_bytes):
    """Bytes in readable units: 12.3 MB (of 10^6)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            break
        n_bytes /= 1000
    else:
        unit = "TB"
    return f"{n_bytes:.3g} {unit}"


def main(argv=None):
    from costs import table  # which is built on this file
    table(argv)


if __name__ == "__main__":
    run(main)
