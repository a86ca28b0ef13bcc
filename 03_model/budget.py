"""What a model costs: parameters, arithmetic and memory, before it is built.

Every number here is a short formula, and test_budget.py holds each but one estimate against the
real module: parameters counted, FLOPs counted by PyTorch, activations caught as autograd saves
them. Left out: time and money.

    python 03_model/budget.py --n-layer 12 --d-model 768 --n-head 6 --n-kv-head 6 --d-ff 3072 \\
        --seq-len 1024 --vocab-size 50304 --batch-size 8

Prints a table. Next: 04_train/train.py.
"""

import sys
from pathlib import Path

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import Parser, add_options, run
from gpt import GPTConfig
from machine import matmul_peak


def count_parameters(config):  # exercise
    """{"embedding": n, "attention": n, "mlp": n, "head": n}: numbers of parameters.

    C is d_model, D = head_dim, and every matrix is without bias. A block has four attention
    matrices (q: C x H D, k and v: C x G D, out: H D x C) and two of the MLP (C x d_ff and back);
    embedding and head are V x C each. Norms have no parameters.
    """
    C, D = config.d_model, config.head_dim
    attention = C * D * (2 * config.n_head + 2 * config.n_kv_head)
    return {"embedding": config.vocab_size * C,
            "attention": config.n_layer * attention,
            "mlp": config.n_layer * 2 * C * config.d_ff,
            "head": config.vocab_size * C}


def flops_per_token(config):  # exercise
    """FLOPs of a training step per token, forward and backward (Chowdhery et al. 2022,
    appendix B).

    6 for each parameter that is multiplied by (all but the embedding, which is looked up): one
    multiply and one add forward, twice that backward. And in each layer 12 H D T for the scores
    and the weighted sum over all T positions of the window, masked ones included (H D = C).
    """
    parameters = count_parameters(config)
    multiplied = sum(parameters.values()) - parameters["embedding"]
    return 6 * multiplied + 12 * config.n_layer * config.d_model * config.seq_len


def cache_bytes(config, n_tokens=1, value_bytes=4):  # exercise
    """Bytes that the KV cache takes for n_tokens positions of one sequence.

    A key and a value of D numbers, `value_bytes` bytes each, for every one of the G key/value
    heads, in every layer: with
    multi-query attention (G = 1) that is n_head times less than with multi-head.
    """
    return 2 * config.n_layer * config.n_kv_head * config.head_dim * value_bytes * n_tokens


def activation_bytes(config, batch_size):
    """Bytes that the forward pass keeps for the backward pass, in float32, per micro-batch.

    Per token and block: the stream where it enters and after attention, each also normalised
    (4 C); queries rotated, and those normalised (2 C), keys likewise (2 G D), values (G D);
    attention's output by heads and joined (2 C) and its log-sum-exp (H); the MLP's ReLU and its
    square (2 d_ff); and a number for each row that was normalised (2 + H + G). Per token once:
    the embedding, the last stream and its norm (3 C + 2), the soft cap's tanh and the log-softmax
    (2 V). Attention's scores are never kept, but computed again (Dao et al. 2022).
    """
    C, H, G = config.d_model, config.n_head, config.n_kv_head
    block = 8 * C + 3 * G * config.head_dim + 2 * config.d_ff + 2 * H + G + 2
    once = 3 * C + 2 + 2 * config.vocab_size
    return 4 * batch_size * config.seq_len * (config.n_layer * block + once)


def training_memory(config, batch_size):
    """{"weights": bytes, ...} of a training step in float32 with AdamW and this micro-batch.

    Weights and gradients take 4 bytes a parameter, AdamW's two moments 8. "workspace" is an
    estimate, not a law: the logits on their way, three times over, when the backward pass starts.
    """
    n = sum(count_parameters(config).values())
    return {"weights": 4 * n, "gradients": 4 * n, "optimizer": 8 * n,
            "activations": activation_bytes(config, batch_size),
            "workspace": 3 * 4 * batch_size * config.seq_len * config.vocab_size}


def size(n_bytes):
    """Bytes as a person reads them: 12.3 MB (of 10^6)."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            break
        n_bytes /= 1000
    else:
        unit = "TB"
    return f"{n_bytes:.3g} {unit}"


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=8,
                        help="windows in a micro-batch (default: 8)")
    add_options(parser, GPTConfig)
    given = vars(parser.parse_args(argv))
    batch_size = given.pop("batch_size")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, but must be at least 1")
    config = GPTConfig(**given)
    parameters = count_parameters(config)
    print("parameters")
    for name, n in parameters.items():
        print(f"  {name:12} {n:15,}  {n / sum(parameters.values()):4.0%}")
    print(f"  {'all':12} {sum(parameters.values()):15,}")
    print(f"\ntraining, float32, AdamW, {batch_size} windows of {config.seq_len} tokens")
    memory = training_memory(config, batch_size)
    for name, n in memory.items():
        print(f"  {name:12} {size(n):>15}")
    print(f"  {'all':12} {size(sum(memory.values())):>15}")
    print(f"  {'a token':12} {flops_per_token(config) / 1e6:11,.1f} MFLOP")
    peak = matmul_peak()
    print(f"  {'at best':12} {peak / flops_per_token(config):7,.0f} tokens/s here "
          f"(a matrix product reaches {peak / 1e9:.0f} GFLOP/s)")
    print(f"\nKV cache       {size(cache_bytes(config)):>15} a token, "
          f"{size(cache_bytes(config, config.seq_len))} a window")


if __name__ == "__main__":
    run(main)
