"""Scaling beyond this machine: the time of a step on 1 to 1,024 GPUs, by simulation.

A step is a list of tasks: computing pieces of the model, forward and backward, and messages with
their gradients or weights. Computing is one lane, the network another; each does its tasks in turn,
and a task begins when its lane is free and the tasks it needs are done. An engine determines the
list: which messages there are, what they contain, and which tasks need them. Efficiency is the time
of computing alone, divided by the time of the step.
Left out: all that assumptions() lists. To test these, --check measures computing and gloo on this
machine, predicts a step of two ranks from them, and makes that step.

    python 07_scale/extras/simulate.py
    python 07_scale/extras/simulate.py --preset small --cluster pcie
    python 07_scale/extras/simulate.py --check

Writes scaling.png into --out. Next: timeline.py.
"""

import os
import statistics
import sys
import time
from collections import namedtuple
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run

import torch
import torch.distributed as dist

from curves import COLOURS, INK, label, picture
from scale import BucketedSum, make_buckets, sum_gradients_naive
from gpt import GPT, GPTConfig, make_model
from plan import CLUSTERS, TRAFFIC, VOLUME
from presets import ALL as PRESETS, FullConfig as Config
from ranks import on_ranks

ENGINES = ["naive", "ddp", "zero1", "zero2", "fsdp2"]
WORLDS = [2**i for i in range(11)]


# ---- messages ----
def ring_seconds(n_bytes, ranks, bandwidth, latency):  # exercise
    """Seconds of an all-reduce of n_bytes round a ring of ranks (Patarasuk & Yuan 2009).

    The message is cut into as many parts as there are ranks. In every round all ranks send one part
    each to their neighbours, in latency + the part's bytes / bandwidth. After ranks - 1 rounds the
    sum of each part is complete on one rank (a reduce-scatter); ranks - 1 more rounds take the sums
    to all (an all-gather). One rank alone takes no time.
    ring_seconds(1000, 4, 100, 1) is 21.0: 6 rounds of 1 + 250 / 100 seconds.
    """
    return 2 * (ranks - 1) * (latency + n_bytes / ranks / bandwidth)


def message_seconds(kind, n_bytes, world, cluster):
    """Seconds of an "all-reduce", or of its halves, "reduce-scatter" and "all-gather", of n_bytes
    over `world` GPUs: a ring in every node, then rings across nodes, one for each GPU's part of the
    message. The latter share the node's network, so together they take as long as one ring of nodes
    for the whole message. (Thakur et al. 2005 compare such algorithms.)
    """
    inside = min(world, cluster.node)
    if world % inside:
        raise ValueError(f"{world} GPUs do not fill nodes of {cluster.node}")
    seconds = (ring_seconds(n_bytes, inside, cluster.bus * 1e9, cluster.latency)
               + ring_seconds(n_bytes, world // inside, cluster.network * 1e9, cluster.latency))
    return seconds * VOLUME[kind] / VOLUME["all-reduce"]


# ---- tasks ----
Layer = namedtuple("Piece", "flops tensors")  # forward, of one window; bytes of each parameter
Task = namedtuple("Task", "lane seconds needs")  # needs: places in the list of tasks, all before


def layers(config, value_bytes=4):
    """The model in the order of its forward pass: all before the blocks, each block, and the head.
    A list of Layers. Only matrix products count, as in flops_per_token().
    """
    with torch.device("meta"):
        model = make_model(config)
    C, T, L = config.d_model, config.seq_len, config.n_layer
    flops, tensors = [0] * (L + 2), [[] for _ in range(L + 2)]
    for name, parameter in model.named_parameters():
        in_block = name.startswith("blocks.")
        i = int(name.split(".")[1]) + 1 if in_block else (-1 if name[:4] in ("norm", "head") else 0)
        tensors[i].append(parameter.numel() * value_bytes)
        flops[i] += in_block and parameter.dim() == 2 and 2 * T * parameter.numel()
    flops[1:-1] = [n + 4 * C * T * T for n in flops[1:-1]]  # and attention's two products
    flops[-1] = 2 * T * C * config.vocab_size
    return list(map(Layer, flops, tensors))


def schedule(tasks):  # exercise
    """When each task runs: a list of (start, end) in seconds.

    A task has a lane (there may be any number of lanes), its seconds, and `needs`, the indices of
    the tasks that must have ended before. A lane does its tasks in the order of the list, one at a
    time. So a task starts as soon as the one before it on its lane and all that it needs have
    ended, the first ones at 0.
    schedule([Task("a", 3, ()), Task("b", 2, (0,)), Task("a", 4, ()), Task("b", 1, (2,))]) is
    [(0, 3), (3, 5), (3, 7), (7, 8)]
    """
    free, times = {}, []
    for lane, seconds, needs in tasks:
        start = max([free.get(lane, 0), *(times[i][1] for i in needs)])
        free[lane] = start + seconds
        times.append((start, free[lane]))
    return times


def step_tasks(engine, model, window_seconds, message, micro_batches, network="network"):
    """The tasks of one step on one GPU; all GPUs do the same at the same time.

    model: Layers; window_seconds(flops) and message(kind, n_bytes): the seconds of each;
    micro_batches: how many windows each has; network: the lane of messages. Backward takes twice as
    long as forward. What is sent is plan.py's TRAFFIC: a layer's gradients after its last backward
    pass, or after that of every micro-batch; its weights at the end, or, with fsdp2, before forward
    and backward reach it, while the piece before computes, so that never more than two are
    gathered. naive sends what ddp does, but a message for each parameter, at the end.
    """
    once, often = TRAFFIC["ddp" if engine == "naive" else engine]
    kind = "all-reduce" if "all-reduce" in once else "reduce-scatter"
    gathering, tasks = "all-gather" in often, []

    def add(lane, seconds, *needs):
        tasks.append(Task(lane, seconds, needs))
        return len(tasks) - 1

    def send(kind, n_bytes, *needs):
        return add(network, message(kind, n_bytes), *needs)

    def gather(visit):
        """[the task that gathers the weights for a visit]; [] at the turn, which still has them."""
        return [] if visit in (len(model), len(path)) else [
            send("all-gather", sum(model[path[visit]].tensors), *computed[-1:] or ended)]

    path = [*range(len(model)), *reversed(range(len(model)))]  # forward, backward
    computed = ended = []
    for n, windows in enumerate(micro_batches):
        last = n == len(micro_batches) - 1
        ended, computed = computed[-1:], []
        there = gather(0) if gathering else []
        for visit, i in enumerate(path):
            needs, backward = there, visit >= len(model)
            there = gather(visit + 1) if gathering else []
            seconds = windows * window_seconds(model[i].flops)
            computed.append(add("compute", seconds * (1 + backward), *needs))
            if backward and engine != "naive" and (last or kind in often):
                send(kind, sum(model[i].tensors), computed[-1])
    for layer in model[::-1] if engine == "naive" else []:
        for n_bytes in layer.tensors:
            send(kind, n_bytes, computed[-1])
    for layer in model if "all-gather" in once else []:
        send("all-gather", sum(layer.tensors), len(tasks) - 1)
    return tasks


def step_seconds(*arguments, **how):
    """The seconds of the step whose tasks step_tasks() lists."""
    return max(end for _, end in schedule(step_tasks(*arguments, **how)))


def efficiency(engine, model, windows, world, cluster, utilisation, micro_batch):
    """Time of computing alone / time of the step, if `windows` windows are dealt to `world` GPUs.
    If they can't be dealt evenly, all GPUs wait for those with one more.
    """
    def window_seconds(flops):
        return flops / (cluster.gpu.tflops * 1e12 * utilisation)

    def message(kind, n_bytes):
        return message_seconds(kind, n_bytes, world, cluster)

    mine = -(-windows // world)
    full, rest = divmod(mine, micro_batch)
    sizes = [micro_batch] * full + [rest] * (rest > 0)
    alone = 3 * sum(window_seconds(layer.flops) for layer in model) * windows / world
    return alone / step_seconds(engine, model, window_seconds, message, sizes)


# ---- the curves ----
def scaling(model, batch_size, cluster, utilisation, micro_batch):
    """{"weak": {engine: [efficiency on 1, 2, 4 ... GPUs]}, "strong": {...}}. weak: a micro-batch
    for each GPU, however many there are; strong: batch_size windows dealt to them.
    """
    return {kind: {engine: [efficiency(engine, model, windows(world), world, cluster, utilisation,
                                       micro_batch) for world in WORLDS] for engine in ENGINES}
            for kind, windows in (("weak", lambda world: micro_batch * world),
                                  ("strong", lambda world: batch_size))}


def assumptions(cluster, utilisation, micro_batch):
    """The simulation's assumptions, a line each."""
    return [
        f"a GPU computes at {utilisation:.0%} of {cluster.gpu.tflops:,.0f} TFLOP/s, whatever the "
        "shape; backward takes twice as long as forward",
        f"{cluster.node} GPUs a node: {cluster.bus:g} GB/s out of each to its node, "
        f"{cluster.network:g} GB/s out of a node, shared; {cluster.latency * 1e6:g} us until "
        "a message arrives, near or far",
        "messages are rings inside nodes, then across; nobody else uses the network",
        "a GPU sends one message at a time, and sending does not slow its computing",
        "all that is sent is float32; a message holds the gradients or weights of one block, of "
        "the embedding, or of the head (naive: of one parameter)",
        f"a micro-batch has at most {micro_batch} windows a GPU, and fits into its memory",
        "all GPUs are equally fast all the time: nobody waits for a straggler",
        "the optimizer's arithmetic, the loader, evaluation and checkpoints take no time",
    ]


def print_scaling(curves):
    for kind, of in (("weak", "a micro-batch a GPU"), ("strong", "the preset's batch")):
        print(f"\n{kind + ' scaling: ' + of:43}" + "".join(f"{engine:>8}" for engine in ENGINES))
        for i, world in enumerate(WORLDS):
            print(f"{f'{world:,} GPUs':43}"
                  + "".join(f"{curves[kind][engine][i]:>8.1%}" for engine in ENGINES))


def draw_scaling(curves, marks, title, path):
    """A line for each engine, weak scaling and strong; zero2's, which covers others, is dashed.
    marks: {"weak": {words: how many GPUs}, "strong": {...}}.
    """
    figure, panels = picture(11, 4.4, 2, sharey=True)
    titles = {"weak": "more GPUs, more windows", "strong": "more GPUs, the same batch"}
    for axes, (kind, lines) in zip(panels, curves.items()):
        for engine, colour in zip(ENGINES, [INK, *COLOURS]):
            axes.plot(WORLDS, lines[engine], color=colour, lw=1.8, label=engine,
                      ls="--" if engine == "zero2" else "-")
        for words, world in marks[kind].items():
            axes.axvline(world, color="0.6", lw=0.8, ls=":")
            label(axes, world, 0.04, f" {words} ", "0.5", ha="right")
        axes.set_xscale("log", base=2)
        axes.set(xlim=(1, WORLDS[-1]), ylim=(0, 1.02), xlabel="GPUs",
                 xticks=WORLDS[::2], yticks=[0, 0.25, 0.5, 0.75, 1])
        axes.set_xticklabels([f"{world:,}" for world in WORLDS[::2]])
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
        axes.grid(axis="y", color="0.92")
        axes.set_title(titles[kind], loc="left", fontsize=11)
    panels[0].legend(loc="center left", frameon=False)
    panels[0].set_ylabel("time computing / time of a step")
    panels[1].spines["left"].set_visible(False)
    panels[1].tick_params(axis="y", length=0)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=120)


# ---- a check on this machine ----
LARGE = 16_000_000  # bytes
CHECKED = GPTConfig(vocab_size=4096, seq_len=64, n_layer=4, n_head=4, n_kv_head=4, d_model=256,
                    d_ff=1024)


def measure(shape, rounds):
    """On each of two ranks: {what: median of seconds} of computing, messages and whole steps. These
    take turns, so that other work of the machine slows all of them alike.
    """
    model, large = GPT(shape), torch.zeros(LARGE // 4)
    ids = torch.zeros(1, shape.seq_len, dtype=torch.long)
    of_block = sum(p.numel() * p.element_size() for p in model.blocks[0].parameters())
    summed = BucketedSum(make_buckets(model.parameters(), of_block))

    def compute():
        model.zero_grad()
        model.loss(ids, ids).mean().backward()

    def naive():
        compute()
        sum_gradients_naive(model.parameters())

    def bucketed():
        summed.start()
        compute()
        summed.finish()

    works = {"nothing": lambda: None, "computing": compute, "naive": naive, "ddp": bucketed,
             "small": lambda: dist.all_reduce(large[:1]),
             "large": lambda: dist.all_reduce(large)}
    seconds = {what: [] for what in works}
    for _ in range(rounds + 1):
        for what, work in works.items():
            dist.barrier()
            start = time.perf_counter()
            work()
            dist.barrier()
            seconds[what].append(time.perf_counter() - start)
    return {what: statistics.median(all_[1:]) for what, all_ in seconds.items()}


def predict(seconds, shape):
    """Results of measure() -> (bandwidth, latency, {engine: [seconds if messages have a lane of
    their own, seconds if the processors that compute must move them]}).
    """
    model = layers(shape)
    computing, small, large = (seconds[k] - seconds["nothing"]
                               for k in ("computing", "small", "large"))
    latency, bandwidth = small / 2, LARGE / (large - small)  # of a ring of two: two rounds
    rate = 3 * sum(layer.flops for layer in model) / computing

    def message(kind, n_bytes):
        return ring_seconds(n_bytes, 2, bandwidth, latency)

    return bandwidth, latency, {engine: [
        seconds["nothing"] + step_seconds(engine, model, lambda flops: flops / rate, message, [1],
                                          network=lane) for lane in ("network", "compute")]
        for engine in ("naive", "ddp")}


def check(shape=CHECKED, rounds=5):
    """Print predicted and measured steps of two ranks on this machine."""
    seconds = on_ranks(lambda rank: measure(shape, rounds))[0]
    bandwidth, latency, predicted = predict(seconds, shape)
    n = sum(sum(layer.tensors) for layer in layers(shape)) / 4
    print(f"two ranks here, {n / 1e6:.1f} million parameters, {shape.seq_len} tokens each: "
          f"{seconds['computing']:.3f} s of computing,\nmessages at {bandwidth / 1e9:.2f} GB/s "
          f"after {latency * 1e6:.0f} us")
    print(f"{'':8}{'measured':>12}{'predicted':>12}{'error':>9}{'one lane':>12}{'error':>9}")
    for engine, guesses in predicted.items():
        real = seconds[engine]
        print(f"{engine:8}{real:>10.3f} s"
              + "".join(f"{guess:>10.3f} s{guess / real - 1:>+9.0%}" for guess in guesses))
    print("one lane: the processors that compute also move the messages, as with gloo here")


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="1b", choices=PRESETS, help="a row of PRESETS")
    parser.add_argument("--cluster", default="a100", choices=CLUSTERS, help="which GPUs, and what "
                        "is between them (default: a100)")
    parser.add_argument("--utilisation", type=float, default=0.4,
                        help="share of its peak at which a GPU computes (default: 0.4)")
    parser.add_argument("--micro-batch", type=int, default=4,
                        help="windows that a GPU computes at once, at most (default: 4)")
    parser.add_argument("--check", action="store_true",
                        help="predict a step of two ranks on this machine, and take it")
    parser.add_argument("--out", default=".", help="the folder for the picture (default: .)")
    args = parser.parse_args(argv)
    if args.check:
        return check()
    if not 0 < args.utilisation <= 1:
        raise ValueError(f"utilisation is {args.utilisation}, but must be a share above 0")
    if args.micro_batch < 1:
        raise ValueError(f"micro_batch is {args.micro_batch}, but must be at least 1")
    if not Path(args.out).is_dir():
        raise ValueError(f"there is no folder {args.out} to draw into")
    config, cluster = Config(**PRESETS[args.preset]), CLUSTERS[args.cluster]
    curves = scaling(layers(config), config.batch_size, cluster, args.utilisation, args.micro_batch)
    print(f"{args.preset} on {cluster.words}; it is assumed that")
    print(*(f"- {line}" for line in assumptions(cluster, args.utilisation, args.micro_batch)),
          sep="\n")
    print_scaling(curves)
    path = Path(args.out) / "scaling.png"
    marks = {"weak": {"a node": cluster.node}, "strong": {"a window each": config.batch_size}}
    draw_scaling(curves, marks, f"{args.preset} on {cluster.words}: how much of a "
                 "step is computing?", path)
    print(f"\n{path}")


if __name__ == "__main__":
    run(main)
