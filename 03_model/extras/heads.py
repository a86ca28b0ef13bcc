"""What sharing key/value heads buys: memory and time of decoding, measured, and drawn.

To write one id in every row, a model reads its weights once and every row's cache once. The cache
grows with each position and each row, until reading it takes most of the time. Query heads that
share keys and values make it smaller: grouped-query attention (Ainslie et al. 2023), here by four,
multi-query attention (Shazeer 2019) by the number of heads.
Left out: the cost of sharing. Models that share more have fewer parameters and learn a little less.

    python 03_model/extras/heads.py                          # 4 GB of memory, a minute or two
    python 03_model/extras/heads.py --n-layer 4 --seq-len 1024 --batch-sizes 4

Prints tables; writes heads.png, or --out. Next: huggingface.py.
"""

import os
import statistics
import sys
import time
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, choose_device, run, track

import torch

from gpt import GPT, GPTConfig, KVCache, greedy

COLOURS = {"MHA": "#dd8452", "GQA": "#4c72b0", "MQA": "#55a868"}


def kinds(n_layer, d_model, n_head, seq_len):
    """{"MHA": config, "GQA": config, "MQA": config} of one shape: one key/value head for each query
    head, for four, or for all.
    """
    if n_head < 8 or n_head % 4:
        raise ValueError(f"n_head is {n_head}, but must be a multiple of 4, and 8 or more: in GQA "
                         "four heads share one, and GQA must differ from MQA")
    groups = {"MHA": n_head, "GQA": n_head // 4, "MQA": 1}
    return {name: GPTConfig(vocab_size=512, seq_len=seq_len, n_layer=n_layer, n_head=n_head,
                            n_kv_head=n_kv_head, d_model=d_model, d_ff=4 * d_model)
            for name, n_kv_head in groups.items()}


def cache_bytes(config, n_tokens=1, value_bytes=4):  # exercise
    """Bytes that the KV cache takes for n_tokens positions of one sequence.

    A key and a value of D numbers, `value_bytes` bytes each, for every one of the G key/value
    heads, in every layer: with multi-query attention (G = 1) that is n_head times less than with
    multi-head.
    """
    return 2 * config.n_layer * config.n_kv_head * config.head_dim * value_bytes * n_tokens


# ---- measuring ----
def held_bytes(cache):
    """The bytes that a live cache holds: of its keys and of its values."""
    return cache.keys.nbytes + cache.values.nbytes


@torch.inference_mode()
def decode_seconds(model, cache, steps):
    """The seconds of each of `steps` steps, which write one id in every row: a list.

    All steps do the same work: each adds a position to the cache, and then removes it.
    """
    length, seconds = cache.length, []
    ids = torch.zeros(cache.keys.shape[1], 1, dtype=torch.long, device=cache.keys.device)
    for _ in range(steps):
        start = time.perf_counter()
        greedy(model(ids, cache)[:, -1]).tolist()  # tolist() waits for a GPU
        seconds.append(time.perf_counter() - start)
        cache.length = length
    return seconds


def measure(models, batch_size, positions, steps, device="cpu"):
    """{name: [seconds of a step, for each S of `positions`]}, medians, of steps that read S
    positions of every row, the new one included.

    Models and positions take turns, so that other work of the machine slows all alike. The first
    round is a warm-up.
    """
    # The time does not depend on a cache's content, so zeros will do.
    caches = {name: KVCache(m.config, batch_size, device=device) for name, m in models.items()}
    times = {name: [[] for _ in positions] for name in models}
    turns = [(i, S) for _ in range(steps + 1) for i, S in enumerate(positions)]
    for i, S in track(turns, f"batch {batch_size}", len(turns), unit=" turns"):
        for name, model in models.items():
            caches[name].length = S - 1
            times[name][i] += decode_seconds(model, caches[name], 1)
    return {name: [statistics.median(seconds[1:]) for seconds in row]
            for name, row in times.items()}


# ---- showing ----
def table(title, positions, rows, form):
    """Lines: a row for each number of positions, a column for each kind."""
    lines = [f"\n{title}", "positions" + "".join(f"{name:>9}" for name in rows)]
    for i, S in enumerate(positions):
        lines.append(f"{S:9,}" + "".join(f"{row[i]:9{form}}" for row in rows.values()))
    return "\n".join(lines)


def spread(heights, gap):
    """Heights of labels, ascending, moved up as little as needed to be `gap` apart."""
    placed = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    return placed


def draw_lines(axes, positions, rows, unit):
    """A line for each kind, with its name and last value at its end."""
    top = 1.1 * max(max(row) for row in rows.values())
    ordered = sorted(rows, key=lambda name: rows[name][-1])
    heights = spread([rows[name][-1] for name in ordered], 0.08 * top)
    for name, height in zip(ordered, heights):
        axes.plot(positions, rows[name], "o-", color=COLOURS[name], ms=4, clip_on=False)
        axes.annotate(f"{name} {rows[name][-1]:.3g} {unit}", (positions[-1], height), (8, 0),
                      textcoords="offset points", va="center", color=COLOURS[name], fontsize=9.5,
                      annotation_clip=False)
    axes.set(xlim=(0, positions[-1]), ylim=(0, top), xticks=[0, positions[-1] // 2, positions[-1]])
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)


def draw(positions, memory, seconds, path, subtitle):
    """Left the memory of one text's cache; beside it, for each batch size, the time of a step.

    memory: {name: [bytes]}; seconds: {batch size: {name: [seconds]}}
    """
    from matplotlib.figure import Figure

    def times_less(rows):
        return f"MQA {rows['MHA'][-1] / rows['MQA'][-1]:.1f} times".replace(".0 ", " ")
    figure = Figure(figsize=(3 + 3 * len(seconds), 3.7), layout="constrained")
    left, *others = figure.subplots(1, 1 + len(seconds))
    draw_lines(left, positions, {name: [n / 1e6 for n in row] for name, row in memory.items()},
               "MB")
    left.set_title(f"cache of one text:\n{times_less(memory)} smaller", loc="left", fontsize=11)
    for axes, (batch_size, rows) in zip(others, seconds.items()):
        draw_lines(axes, positions, {name: [1000 * s for s in row] for name, row in rows.items()},
                   "ms")
        texts = "1 text" if batch_size == 1 else f"{batch_size} texts at once"
        axes.set_title(f"next id of {texts}:\n{times_less(rows)} quicker", loc="left", fontsize=11)
    figure.supxlabel(f"positions in the cache  ({subtitle})", fontsize=10)
    figure.savefig(path, dpi=120)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    for name, default, what in (("n-layer", 12, "blocks"), ("d-model", 768, "width"),
                                ("n-head", 12, "query heads, a multiple of 4"),
                                ("seq-len", 4096, "positions in the longest cache"),
                                ("steps", 7, "steps of which the median is taken")):
        parser.add_argument(f"--{name}", type=int, default=default,
                            help=f"{what} (default: {default})")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8],
                        help="texts that are written side by side (default: 1 8)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"),
                        help="where to compute (default: auto)")
    parser.add_argument("--out", default="heads.png", metavar="FILE",
                        help="the picture (default: heads.png)")
    args = parser.parse_args(argv)
    for name, least in (("seq_len", 32), ("steps", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"{name} is {getattr(args, name)}, but must be at least {least}")
    if min(args.batch_sizes) < 1:
        raise ValueError(f"a batch of {min(args.batch_sizes)} is too small: give 1 or more")
    if not args.out.endswith(".png"):
        raise ValueError(f"{args.out} is not a .png file")
    if not Path(args.out).parent.is_dir():
        raise ValueError(f"there is no folder {Path(args.out).parent} to write {args.out} into")
    configs = kinds(args.n_layer, args.d_model, args.n_head, args.seq_len)
    device = choose_device(args.device)
    positions = [args.seq_len // n for n in (32, 8, 4, 2, 1)]

    n = torch.get_num_threads()
    threads = f", {n} thread{'s' * (n > 1)}" if device == "cpu" else ""
    subtitle = (f"{args.n_layer} layers, {args.n_head} heads of {configs['MHA'].head_dim}, "
                f"float32, {device}{threads}")
    print(f"{subtitle}; key/value heads: " + ", ".join(
        f"{name} {config.n_kv_head}" for name, config in configs.items()))
    memory = {name: [held_bytes(KVCache(config, 1, S)) for S in positions]
              for name, config in configs.items()}
    print(table("the cache of one text, MB", positions,
                {name: [n / 1e6 for n in row] for name, row in memory.items()}, ".2f"))
    models, seconds = {name: GPT(config).to(device) for name, config in configs.items()}, {}
    for batch_size in args.batch_sizes:
        seconds[batch_size] = measure(models, batch_size, positions, args.steps, device)
        speeds = {name: [batch_size / s for s in row] for name, row in seconds[batch_size].items()}
        milliseconds = {name: [1000 * s for s in row] for name, row in seconds[batch_size].items()}
        print(table(f"ms per step, batch {batch_size}", positions, milliseconds, ".2f"))
        print(table(f"tokens/s, batch {batch_size}", positions, speeds, ",.1f"))
    draw(positions, memory, seconds, args.out, subtitle)
    print(f"\n{args.out}")


if __name__ == "__main__":
    run(main)
