"""What a run on GPUs takes, before any is paid for: memory, time, money, disks and CPU cores.

Memory is that of a step's fullest moment: when the backward pass begins, when a block is
recomputed, when the last gradients are sent, or when the optimizer works. (tests/bench.py scale
--memory compares it with real steps of one process, ddp, ZeRO and fsdp2 on CPUs; all else is
arithmetic.)
Step time = max(compute, communication); cost = GPU-hours x price.
Left out: holes in memory (04_train/extras/length.py), the time of evaluations and checkpoints,
power, a simulation of the network (simulate.py).

    python 07_scale/extras/plan.py --preset 1b --gpu rtx3090ti --gpus 2
    python 07_scale/extras/plan.py --preset 461m --gpu h100 --gpus 8 --price 2.5 --budget 100

Draws the picture --out, memory by engine. Also used by scale.py. Next: simulate.py.
"""

import dataclasses
import functools
import math
import os
import sys
from collections import namedtuple
from dataclasses import dataclass

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, choose_device, option, run

import torch

from budget import (activation_bytes, count_adapters, count_parameters, flops_per_token,
                    muon_groups, recomputed_bytes, readable, training_memory)
from costs import evaluation_memory
from curves import COLOURS, INK, picture
from family import family_of
from length import holes, outside_table, planned_steps, rank_of, windows_at_once
from presets import ALL as PRESETS, FullConfig as Config
from housekeeping import duration
from runs import WAYS
from scale import BUCKET_BYTES


# ---- tables: hardware, what engines divide and send, speed of CPU cores ----
# From the makers' data sheets: 10^12 FLOP/s in dense bfloat16 with float32 sums (GeForce: half of
# the number in bold; others: without sparsity); GB of memory (a card of "24 GB" has 24 * 2^30
# bytes, so counting 24 * 10^9 leaves 7% to the driver and to holes); GB/s each way to the other
# GPUs of a machine: PCIe 4.0 x16, or half of what NVLink does both ways together; and GB/s of its
# memory.
GPU = namedtuple("GPU", "tflops gigabytes link bandwidth")
GPUS = {"rtx3090": GPU(71, 24, 32, 936), "rtx3090ti": GPU(80, 24, 32, 1008),
        "rtx4090": GPU(165, 24, 32, 1008), "l4": GPU(121, 24, 32, 300),
        "a40": GPU(150, 48, 32, 696), "a6000": GPU(155, 48, 32, 768),
        "a100": GPU(312, 80, 300, 2039), "h100": GPU(989, 80, 450, 3350),
        "h200": GPU(989, 141, 450, 4800), "b200": GPU(2250, 180, 900, 8000)}

# Equal nodes of `node` equal GPUs: GB/s each way out of a GPU to the others of its node (bus), and
# out of a node, shared by its GPUs (network); seconds until a message's first byte arrives.
Cluster = namedtuple("Cluster", "words gpu node bus network latency")
CLUSTERS = {
    "a100": Cluster("A100, NVLink, 400 Gb/s a node", GPUS["a100"], 8, 300, 50, 10e-6),
    "pcie": Cluster("RTX 3090 Ti, PCIe 4.0 x8, 10 Gb/s a node", GPUS["rtx3090ti"], 2, 12, 1.25,
                    10e-6)}

# What each engine divides over the ranks (Rajbhandari et al. 2020, section 5).
DIVIDED = {"plain": (), "ddp": (), "torch-ddp": (), "zero1": ("optimizer",),
           "zero2": ("optimizer", "gradients"), "fsdp2": ("optimizer", "gradients", "weights")}
ITEMS = ("weights", "copies", "gradients", "optimizer", "activations", "logits", "buffers", "muon")

# What each engine sends, (once a step, for every micro-batch), each as large as the model; and how
# many bytes a rank sends for each byte of such a message, with many ranks (ibid., section 7).
TRAFFIC = {"plain": ((), ()), "ddp": (("all-reduce",), ()), "torch-ddp": (("all-reduce",), ()),
           "zero1": (("reduce-scatter", "all-gather"), ()),
           "zero2": (("all-gather",), ("reduce-scatter",)),
           "fsdp2": ((), ("all-gather", "all-gather", "reduce-scatter"))}
VOLUME = {"all-reduce": 2, "reduce-scatter": 1, "all-gather": 1}

# Tokens a second of a CPU core (an AMD EPYC's; Python's library, 49,152 ids). It tokenizes
# 2,689,437 tokens in 4.0 to 4.5 s, and reads 8 windows of 1,024 tokens from prepared data in memory
# in 0.39 to 0.55 ms. Measured, from the root, by lines 1 and 2 below, and by 1 and 3:
#   PYTHONPATH=02_data python -m timeit -p -s "import data; d = data.prepare(['python'], 49152)"
#       -n 1 -r 1 -s "text = d.tokenizer.decode(d.train.ids)" "d.tokenizer.encode(text)"
#       -s "batches = data.make_batches(d, 8, 1024)" "next(batches)"
TOKENIZED, SERVED = 6e5, 1.5e7


# ---- memory of a rank ----
def parameters(model_config):
    return sum(count_parameters(model_config).values())


def rank_states(n, matrices, engine, world, low=False):  # exercise
    """{"weights": bytes, "gradients": bytes, "optimizer": bytes} that one of `world` ranks keeps
    for a model of n parameters (Rajbhandari et al. 2020, section 3.1). Whole numbers, rounded up.

    In float32 a weight takes 4 bytes, its gradient 4, AdamW's two moments 8. Of the n parameters
    `matrices` are Muon's (0: none), which keeps one average instead of two moments. With `low`
    weights and gradients are bfloat16, 2 bytes each, and the optimizer also keeps a float32 copy of
    every weight, 4.
    An engine divides what DIVIDED[engine] names over the ranks; all else each rank has whole.

    n = 1000, all AdamW's, "zero1" on 2 ranks: 4000, 4000 and 8000 / 2 = 4000.
    """
    width = 2 if low else 4
    states = {"weights": width * n, "gradients": width * n,
              "optimizer": 8 * n - 4 * matrices + 4 * low * n}
    return {name: -(-k // (world if name in DIVIDED[engine] else 1))
            for name, k in states.items()}


def buffers(model_config, engine, world, muon, width):
    """Bytes that a rank needs to send and receive: (during the backward pass, at its end).

    scale.py puts a bucket's gradients into a message, part of which they then are. The embedding's
    comes last, and is there three times for a moment: what .grad was, what is added, and the
    message. torch's DDP keeps its buckets for good. ZeRO-2 has two buckets on their way while a
    third fills; Muon's are at least 2 `world` times the largest matrix. FSDP holds a block, or an
    embedding table, three times: its weights, its gradients, and these as a message; and the next
    block is on its way. A tied table, and what stands beside it, stay whole meanwhile.
    """
    n, table = parameters(model_config), model_config.d_model * model_config.vocab_size
    if engine == "fsdp2":
        counts = count_parameters(model_config)
        block = (counts["attention"] + counts["mlp"]) // model_config.n_layer
        tied = family_of(model_config).tied
        outside = (n - model_config.n_layer * block if tied
                   else max(counts["embedding"], counts["head"]))
        return (width * max(3 * outside + block, 4 * block + tied * outside),) * 2
    if engine == "zero2":
        matrices = muon * 2 * world * width * model_config.d_model * model_config.d_ff
        return (max(3 * BUCKET_BYTES, 3 * matrices, 2 * width * table),) * 2
    return {"plain": (0, 0), "torch-ddp": (width * n,) * 2}.get(
        engine, (BUCKET_BYTES, 2 * width * table))


def muon_work(model_config, ranks):
    """budget.muon_bytes() of one of the `ranks` to which matrices are dealt: it has its share of
    the look-ahead gradients, which may include all matrices of one shape.
    """
    groups = muon_groups(model_config)
    share = -(-groups.total() // ranks)
    mine = {size: min(k, share) for size, k in groups.items()}
    return 4 * (share + max(3 * k + 2 * k * min(size) // max(size) for size, k in mine.items()))


def moments(config, model_config, engine="plain", world=1, windows=1, recompute=False, low=False):
    """{moment: {item: bytes}}: what a rank holds at the fullest moments of a step, and while it
    evaluates between steps.

    windows: in a micro-batch; recompute: of a block only what it reads is kept; low: bfloat16
    weights with float32 masters, see rank_states().
    """
    dtype = "bfloat16" if low else config.dtype
    matrices = muon_groups(model_config).total() if config.optimizer == "muon" else 0
    n, rank = parameters(model_config), rank_of(config)
    trained = count_adapters(model_config, rank) or n
    states = rank_states(trained, matrices, engine, world, low)
    if rank:  # beside adapters there are weights, and nothing else of them
        states["weights"] = rank_states(n + trained, 0, engine, world, low)["weights"]
    rounded = low or engine == "fsdp2"  # which gathers blocks in 16 bits
    copies = {"copies": 0 if rounded else training_memory(
        model_config, windows, dtype=dtype, rank=rank)["copies"]}
    sending, sent = buffers(model_config, engine, world, matrices > 0, 2 if low else 4)
    ranks = world if "optimizer" in DIVIDED[engine] else 1
    if rank and engine != "fsdp2":  # gradients of tables are not sent
        sending, sent = (min(k, 12 * trained) for k in (sending, sent))
    own = {"gradients": states["gradients"] // ranks} if engine == "zero1" else {}  # when summed

    logits = 4 * windows * model_config.seq_len * model_config.vocab_size
    kept = (1 + (family_of(model_config).softcap > 0)) * logits
    block_inputs = activation_bytes(model_config, windows, dtype, recompute) - kept
    found = {"backward begins": states | copies | {"activations": block_inputs, "buffers": sending,
                                                   "logits": kept + 2 * logits},
             "backward ends": states | copies | {"buffers": sent},
             "optimizer": states | own | {"muon": muon_work(model_config, ranks) if matrices else 0,
                                          "buffers": sent if engine == "torch-ddp" else 0}}
    if recompute:
        again = block_inputs + recomputed_bytes(model_config, windows, dtype)
        found["a block again"] = states | copies | {"activations": again, "buffers": sending}
    reads = evaluation_memory(model_config, windows, dtype=dtype)
    found["evaluation"] = states | copies | {
        "gradients": 0, "activations": reads["activations"] + reads["workspace"],
        "buffers": sent if engine in ("torch-ddp", "fsdp2") else 0}
    return found


def fullest(found):
    """The items of the moment that needs the most, in the order of ITEMS."""
    most = max(found.values(), key=lambda items: sum(items.values()))
    return {name: most.get(name, 0) for name in ITEMS}


def peak(found):
    """Bytes that a rank needs. found: from moments()."""
    return sum(fullest(found).values())


# ---- time, money, disks ----
@dataclass(frozen=True)
class Job(Config):
    """A run on GPUs of one kind: a Config, and the options of this command."""

    gpu: str = option("rtx3090ti", "kind of GPU", tuple(GPUS))
    gpus: int = option(2, "how many of them")
    engine: str = option("auto", "auto: zero1, or plain on one GPU", ("auto", *DIVIDED))
    recompute: str = option("none", "compute blocks again in the backward pass",
                            ("none", "torch", "hand"))
    masters: bool = option(False, "bfloat16 weights and gradients, float32 masters in the "
                           "optimizer")
    utilisation: float = option(0.4, "share of the data sheet that steps reach: a guess")
    snapshots: int = option(0, "weights kept, as by train.py --snapshots", least=0)
    price: float = option(0.0, "dollars a GPU-hour")
    budget: float = option(0.0, "instead of steps: spend so many dollars")
    out: str = option("memory.png", "the picture")

    def __post_init__(self):
        super().__post_init__()
        if self.engine == "auto":
            object.__setattr__(self, "engine", "plain" if self.gpus == 1 else "zero1")
        if self.gpus < 1:
            raise ValueError(f"gpus is {self.gpus}, but must be at least 1")
        if self.engine not in self.engines():
            raise ValueError(f"engine {self.engine} is not for {self.gpus} of them; "
                             f"{', '.join(self.engines())} may be")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation is {self.utilisation}, but must be a share above 0")
        for name in ("price", "budget"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be 0 or more")
        if self.budget and not self.price:
            raise ValueError("--budget needs --price, dollars a GPU-hour")

    def engines(self):
        return ["plain"] if self.gpus == 1 else [name for name in DIVIDED if name != "plain"]

    @property
    def model_config(self):
        return self.gpt(self.vocab_size)

    @property
    def step_tokens(self):
        return self.batch_size * self.seq_len


# How an engine does a job on one kind of GPU. name: the engine's, and whether blocks are
# recomputed; windows: in the largest micro-batch that fits, 0 if not even one does; items: bytes of
# a rank by item, with that micro-batch, or with one window; seconds: of a step.
Offer = namedtuple("Offer", "name windows items seconds")


def largest_micro_batch(needs, room, most):  # exercise
    """The largest power of two, at most `most`, of windows that fit: needs(windows) <= room. 0 if
    not even one fits. needs grows with the windows.

    largest_micro_batch(lambda windows: 10 * windows, 50, 100) is 4.
    """
    fits, windows = 0, 1
    while windows <= most and needs(windows) <= room:
        fits, windows = windows, 2 * windows
    return fits


def accumulation(config, world, windows):
    """Micro-batches of `windows` in a step of one rank."""
    return math.ceil(config.batch_size / (world * windows))


def step_seconds(job, gpu, engine, windows, recompute):
    """Seconds of a step = max(compute, communication), since they go on at the same time.

    Recomputing is a forward pass more: 4/3 of the arithmetic. All that is sent counts as float32,
    though fsdp2 gathers blocks in the run's dtype. Muon's own arithmetic is left out.
    """
    flops = flops_per_token(job.model_config) * job.step_tokens / job.gpus
    flops *= 4 / 3 if recompute else 1
    once, often = (sum(VOLUME[kind] for kind in kinds) for kinds in TRAFFIC[engine])
    messages = once + often * accumulation(job, job.gpus, windows)  # each as long as the model
    sent = messages * 4 * parameters(job.model_config) * (job.gpus - 1) / job.gpus
    return max(flops / (job.utilisation * gpu.tflops * 1e12), sent / (gpu.link * 1e9))


def usable(config, engine):
    """The config, with AdamW for fsdp2, which divides matrices that Muon needs whole."""
    return dataclasses.replace(config, optimizer="adamw") if engine == "fsdp2" else config


def offer(job, gpu, engine, recompute):
    """The Offer of an engine, with the largest micro-batch that fits the GPU."""
    config = usable(job, engine)

    def found(windows):
        return moments(config, job.model_config, engine, job.gpus, windows, recompute, job.masters)

    windows = largest_micro_batch(lambda k: peak(found(k)), gpu.gigabytes * 1e9,
                                  accumulation(job, job.gpus, 1))
    return Offer(engine + ", recompute" * recompute, windows, fullest(found(max(1, windows))),
                 step_seconds(job, gpu, engine, max(1, windows), recompute))


def run_length(job, seconds):
    """(steps, why): the steps, of `seconds` each, that the budget buys, or the planned ones."""
    if not job.budget:
        way = next(way for way in WAYS if getattr(job, way))
        return planned_steps(job, job.model_config), f"{way} {getattr(job, way):g}"
    step = seconds * job.gpus / 3600 * job.price
    if job.budget < step:
        raise ValueError(f"--budget {job.budget:g} buys no step: one costs {step:.3g} dollars")
    return int(job.budget / step), f"{job.budget:g} dollars at {job.price:g} a GPU-hour"


def disk_bytes(job, steps):
    """(bytes of prepared data if every token is seen once, of a checkpoint, of a snapshot): ids are
    uint16 if the vocabulary allows it; weights and optimizer state, which a snapshot lacks, are
    whole, whatever is divided.
    """
    muon = usable(job, job.engine).optimizer == "muon"
    matrices = muon_groups(job.model_config).total() if muon else 0
    states = rank_states(parameters(job.model_config), matrices, "plain", 1, job.masters)
    width = 2 if job.vocab_size <= 1 << 16 else 4  # as in data.py
    weights = states["weights"]
    return steps * job.step_tokens * width, weights + states["optimizer"], weights


def memory_of_a_rank(engine, recompute, world):
    """A function of (config, model_config) that gives {part: bytes}, what a rank of `world` takes
    at most in a step on this machine, holes included, or in an evaluation. For length.announce().
    """
    def memory(config, model_config, evaluating=False):
        windows, name = windows_at_once(config, world), engine if world > 1 else "plain"
        found = moments(config, model_config, name, world, windows, recompute != "none")
        return (found["evaluation"] if evaluating
                else fullest(found) | holes(config, model_config, windows))
    return memory


def check(options, world, config):
    """ValueError if `world` processes can't train a config with scale.py's options."""
    name, device, gpus = options.engine, choose_device(config.device), torch.cuda.device_count()
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device == "mps":
        raise ValueError("processes can't communicate from a Mac's GPU: give --device cpu")
    if device == "cuda" and gpus < ranks_here:
        raise ValueError(f"{ranks_here} processes on a machine with {gpus} GPUs: give torchrun "
                         "--nproc-per-node gpu, or --device cpu")
    if name not in ("ddp", "zero1") and config.batch_size % world:  # they talk in each micro-batch
        raise ValueError(f"batch_size {config.batch_size} can't be dealt evenly to {world} "
                         f"processes, as {name} needs")
    if config.sampling == "answers" and name in ("torch-ddp", "fsdp2"):
        raise ValueError(f"the model writes answers of its own length on each process, which "
                         f"{name} can't do: give another --engine")
    if config.sampling == "pairs" and config.batch_size % (2 * world):
        raise ValueError(f"batch_size {config.batch_size} can't be dealt in pairs to {world} "
                         "processes")
    if name == "fsdp2" and config.optimizer == "muon":
        raise ValueError("Muon needs whole matrices, which --engine fsdp2 doesn't have: give "
                         "--optimizer adamw, or --engine zero2")


def of_ranks(options, world):
    """Arguments of train.opened() for `world` processes with scale.py's options."""
    return {"check": functools.partial(check, options, world),
            "memory": memory_of_a_rank(options.engine, options.recompute, world)}


# ---- output ----
def cost(job, seconds, steps):
    """Time and money of so many steps, in words."""
    days = seconds * steps / 86400
    hours = 24 * days * job.gpus
    return ((f"{days:,.1f} days" if days >= 1 else duration(86400 * days))
            + f", {hours:,.0f} GPU-hours"
            + (f", {hours * job.price:,.0f} dollars" if job.price else ""))


def report(job, chosen, offers, steps, origin):
    """Yield lines: the run; memory by offer; time, money and disks of the chosen one; other GPUs.
    origin: the `why` of run_length().
    """
    gpu, model_config, tokens = GPUS[job.gpu], job.model_config, steps * job.step_tokens
    evaluation = moments(usable(job, job.engine), model_config, job.engine, job.gpus,
                         max(1, chosen.windows), False, job.masters)["evaluation"]
    outside, flops = outside_table(model_config), flops_per_token(model_config)
    yield (f"{parameters(model_config):,} parameters, {outside:,} of them outside the embedding "
           f"table; {flops / 1e6:,.0f} MFLOP a token; {job.step_tokens:,} tokens a step\n"
           f"{usable(job, job.engine).optimizer}, {job.dtype}, windows of {model_config.seq_len}, "
           f"on {job.gpus} x {job.gpu}: {gpu.tflops:g} TFLOP/s, {gpu.gigabytes:g} GB each")
    yield (f"{steps:,} steps, {tokens / 1e9:,.3g}B tokens, {tokens * flops:.3g} FLOP: {origin}\n"
           f"{tokens / outside:.3g} tokens for each parameter outside the table, where 20 are the "
           "best use of FLOPs (Hoffmann et al. 2022)")

    used = [item for item in ITEMS if any(o.items[item] for o in offers)]
    yield "\nGB of a rank, with the largest micro-batch that fits"
    yield f"{'':22}{'windows':>8}" + "".join(f"{item:>12}" for item in [*used, "all"])
    for o in offers:
        row = [o.items[item] for item in used] + [sum(o.items.values())]
        yield (f"  {o.name:20}{o.windows or 'no':>8}"
               + "".join(f"{n_bytes / 1e9:>12.2f}" if n_bytes else f"{'-':>12}" for n_bytes in row)
               + ("" if o.windows else "  (of 1 window)"))

    memory = f"{readable(sum(chosen.items.values()))} of {gpu.gigabytes:g} GB"
    if not chosen.windows:
        yield f"\nNo: with {chosen.name} one window needs {memory}. " + (
            "The rows above say what fits." if any(o.windows for o in offers)
            else "Nothing here fits: take more GPUs, or a smaller model.")
        return
    yield (f"\nYes, with {chosen.name}: micro-batches of {chosen.windows}, "
           f"{accumulation(job, job.gpus, chosen.windows)} of them a step on each GPU, {memory}.\n"
           f"{cost(job, chosen.seconds, steps)}, if steps reach {job.utilisation:.0%} of the data "
           "sheet: an assumption.\n"
           f"An evaluation between steps takes {readable(sum(evaluation.values()))}.")
    data, checkpoint, snapshot = disk_bytes(job, steps)
    kept = f", {job.snapshots} snapshots, {readable(job.snapshots * snapshot)}"
    rate = job.step_tokens / chosen.seconds
    yield (f"Disks: {readable(data)} of prepared data, if every token is seen once; the newest "
           f"{job.keep} checkpoints and the best one,\n{readable((job.keep + 1) * checkpoint)}"
           f"{kept * (job.snapshots > 0)}, and {readable(checkpoint)} more while one is written.")
    yield (f"CPU cores: {rate:,.0f} tokens/s keep {rate / TOKENIZED:.3g} busy if text is tokenized "
           f"meanwhile, {rate / SERVED:.3g} if data is prepared.\n")
    yield f"{job.gpus} GPUs, {chosen.name}: windows in the largest micro-batch, time, money"
    for name, other in GPUS.items():
        o = offer(job, other, job.engine, job.recompute != "none")
        yield f"  {name:10}" + (f"{o.windows:>5}, {cost(job, o.seconds, steps)}" if o.windows
                                else "does not fit")


def draw(bars, gigabytes, title, path):
    """Stacked bars of bytes by item, {label: {item: bytes}}, beside the line of a card's memory."""
    figure, axes = picture(9.5, 1.9 + 0.42 * len(bars))
    axes.set_prop_cycle(color=[*COLOURS, "#a1b5d8", "#c9bfe0", "0.55", "#d9b64c"])
    left = [0.0] * len(bars)
    for item in ITEMS:
        widths = [items[item] / 1e9 for items in bars.values()]
        drawn = axes.barh(list(bars), widths, 0.66, left, label=item)
        left = [start + width for start, width in zip(left, widths)]
    axes.bar_label(drawn, [f" {total:.1f}" for total in left])
    axes.axvline(gigabytes, color=INK, ls="--", label=f"a card: {gigabytes:g} GB")
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("GB of a rank")
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=120)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="1b", choices=PRESETS, help="(default: 1b)")
    add_options(parser, Job)
    given = vars(parser.parse_args(argv))
    preset = given.pop("preset")
    ways = [f"--{way.replace('_', '-')}" for way in (*WAYS, "budget") if given.get(way)]
    if len(ways) > 1:
        raise ValueError(f"{' and '.join(ways)} contradict each other: give one length")
    if {*WAYS} & {*given}:
        given = dict.fromkeys(WAYS, 0) | given
    job = Job(**PRESETS[preset] | given)
    name = job.engine + ", recompute" * (job.recompute != "none")
    offers = [offer(job, GPUS[job.gpu], engine, again)
              for engine in job.engines() for again in (False, True)]
    chosen = next(o for o in offers if o.name == name)
    print(*report(job, chosen, offers, *run_length(job, chosen.seconds)), sep="\n")
    windows = max(1, chosen.windows)
    bars = {engine + ", recompute" * again: fullest(moments(
                usable(job, engine), job.model_config, engine, job.gpus, windows, again,
                job.masters))
            for engine in dict.fromkeys(["plain", *job.engines()]) for again in (False, True)}
    draw(bars, GPUS[job.gpu].gigabytes, f"where the memory goes: {preset}, {job.optimizer}, "
         f"{job.dtype}, {windows} x {job.seq_len} tokens at once, {job.gpus} x {job.gpu}", job.out)
    print(f"\n{job.out}: where the memory goes, by engine")


if __name__ == "__main__":
    run(main)
