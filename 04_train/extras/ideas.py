"""Ideas that are said to make training faster, each in a few lines, and what each is worth here.

A preset is trained with one idea at a time. Each gets the time that the preset takes without it:
slower steps, fewer of them. Differences smaller than between seeds are not resolved.

    python 04_train/extras/ideas.py                       # lists them
    python 04_train/extras/ideas.py --ideas all --steps 250  # a table; half an hour
    python 04_train/extras/ideas.py --ideas NorMuon --preset speedrun --steps 60

Takes the options of train.py that change a run, but --seed. Prints a table, and keeps no run.
Next: ladder.py.
"""

import os
import statistics
import sys
import time
from dataclasses import replace

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import choose_device, run

import train  # before torch, for it says how threads wait

import torch
from torch import nn

from bigrams import begin
from data import prepare, token_bytes
from machine import keep_freed_memory
from optim import QUINTICS, make_optimizer, nesterov, orthogonalize_parts
from presets import ALL, FullConfig


class Idea:
    """The preset with other values of some options, or of none; subclasses change more."""

    def __init__(self, **options):
        self.options = options

    def model(self, model):
        """Change a new model. What it gets outside its blocks AdamW moves."""

    def optimizer(self, optimizer):
        """Change its optimizer."""

    def batch(self, share, batch, optimizer):
        """Before a step, when `share` of the run is done: the arrays to learn from."""
        return batch


# ---- the model ----
class ValueEmbeddings(Idea):
    """Every second block, the last among them, adds to the values of its attention the id's row of
    a table of its own: v becomes a v + b table[id], with learned a and b, at first 1 and 0
    (modded-nanogpt's record 14, after Zhou et al. 2024, "Value Residual Learning").
    """

    def model(self, model):
        config, read = model.config, []
        width = config.n_kv_head * config.head_dim
        model.embed.register_forward_pre_hook(lambda _, args: read.__setitem__(slice(None), args))
        model.value_embeds, model.shares = nn.ModuleList(), nn.ParameterList()
        for block in model.blocks[::-2]:
            table = nn.Embedding(config.vocab_size, width)
            share = nn.Parameter(torch.tensor([1.0, 0.0]))
            model.value_embeds.append(table)
            model.shares.append(share)

            def add(_, args, qkv, table=table, share=share):
                rest, v = qkv.split((qkv.shape[-1] - width, width), dim=-1)
                return torch.cat((rest, share[0] * v + share[1] * table(read[0])), dim=-1)
            block.attention.qkv.register_forward_hook(add)


class ResidualScalars(Idea):
    """Each block reads a x + b x0 instead of x, where x0 is what the first one reads; a and b are
    learned, at first 1 and 0 (modded-nanogpt's record 9).
    """

    def model(self, model):
        model.scalars, first = nn.Parameter(torch.tensor([[1.0, 0.0]] * len(model.blocks))), []
        for i, block in enumerate(model.blocks):
            def scaled(_, args, i=i):
                first[:] = args[:1] if i == 0 else first
                return model.scalars[i, 0] * args[0] + model.scalars[i, 1] * first[0], *args[1:]
            block.register_forward_pre_hook(scaled)


class TiedAtFirst(Idea):
    """Table and head are one matrix for two thirds of the run (modded-nanogpt's record 53).
    The head's small initial values do no harm to the table: a norm follows it.
    """

    def model(self, model):
        self.one = model
        model.embed.weight = model.head.weight

    def batch(self, share, batch, optimizer):
        head, embed = self.one.head, self.one.embed
        if share >= 2 / 3 and embed.weight is head.weight:
            embed.weight = nn.Parameter(head.weight.detach().clone())
            optimizer.param_groups[1]["params"].append(embed.weight)
            optimizer.state[embed.weight] = {name: value.clone() for name, value in
                                             optimizer.state[head.weight].items()}
        return batch


class LargeTable(Idea):
    """The embedding table, when bigrams have filled it, is made ten times as large, about as
    nanochat's is at first, so that a step turns its rows a tenth as far.
    """

    def model(self, model):
        model.embed.weight.data.mul_(10)


class BlocksLater(Idea):
    """For a fifth of the steps the model has no blocks, only table and head; then they join one by
    one, the last before half of the steps (after Gong et al. 2019, "Progressively stacking"). As a
    new block adds 0 at first, the loss doesn't jump.
    """

    def model(self, model):
        self.one, self.blocks = model, model.blocks

    def batch(self, share, batch, optimizer):
        n = 1 + int(len(self.blocks) * (share - 0.2) / 0.3 + 1e-6) if share >= 0.2 else 0
        self.one.blocks = self.blocks[:n]
        return batch


# ---- the batches ----
class SmallBatchesFirst(Idea):
    """Half as many windows a batch for the first half of the run: more steps in the same time."""

    def batch(self, share, batch, optimizer):
        return [array[:len(array) // 2] if share < 0.5 else array for array in batch]


class ShortWindowsFirst(Idea):
    """Each window is four short ones for the first half of the run: attention is cheaper."""

    def batch(self, share, batch, optimizer):
        return [array.reshape(4 * len(array), -1) if share < 0.5 else array for array in batch]


# ---- the optimizer ----
class MomentumWarmup(Idea):
    """Muon's momentum rises from 0.85 in the first three tenths (modded-nanogpt's record 9)."""

    def optimizer(self, optimizer):
        self.last = optimizer.param_groups[0]["momentum"]

    def batch(self, share, batch, optimizer):
        optimizer.param_groups[0]["momentum"] = 0.85 + (self.last - 0.85) * min(1, share / 0.3)
        return batch


def directions(optimizer, params, group, quintics=QUINTICS):
    """Of each matrix what Optimizer.muon() subtracts from it, but for the learning rate."""
    averages = [optimizer.state[p].setdefault("average", torch.zeros_like(p)) for p in params]
    found = [nesterov(p.grad, m, group["momentum"]) for p, m in zip(params, averages)]
    orthogonalize_parts(found, [optimizer.parts.get(p, [len(p)]) for p in params], quintics)
    return found


class CautiousDecay(Idea):
    """A number decays only if the step makes it smaller, too (Chen et al. 2025)."""

    def optimizer(self, optimizer):
        def muon(params, group):
            for p, d in zip(params, directions(optimizer, params, group)):
                p.sub_(d + group["weight_decay"] * p * (p * d > 0), alpha=group["lr"])
        optimizer.muon = muon


class NorMuon(Idea):
    """Each row of a direction is divided by a running root mean square of its numbers, and the
    whole is as long as before (Li et al. 2025, "NorMuon", algorithm 1).
    """

    def optimizer(self, optimizer):
        def muon(params, group):
            for p, d in zip(params, directions(optimizer, params, group)):
                squares = optimizer.state[p].setdefault("squares", p.new_zeros(len(p), 1))
                squares.lerp_(d.square().mean(dim=1, keepdim=True), 0.05)
                even = d / (squares.sqrt() + 1e-10)
                d = even * (d.norm() / (even.norm() + 1e-10))
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(d, alpha=group["lr"])
        optimizer.muon = muon


class JordansSteps(Idea):
    """Muon as published: five steps with the same coefficients, not three with QUINTICS."""

    def optimizer(self, optimizer):
        def muon(params, group):
            five = ((3.4445, -4.7750, 2.0315),) * 5
            for p, d in zip(params, directions(optimizer, params, group, five)):
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(d, alpha=group["lr"])
        optimizer.muon = muon


IDEAS = {
    "value embeddings": ValueEmbeddings(), "residual scalars": ResidualScalars(),
    "no bigrams": Idea(bigrams=0), "large table": LargeTable(),
    "table and head tied at first": TiedAtFirst(bigrams=0),
    "blocks later": BlocksLater(),
    "small batches first": SmallBatchesFirst(), "short windows first": ShortWindowsFirst(),
    "documents in order": Idea(sampling="stream"), "momentum warm-up": MomentumWarmup(),
    "cautious decay": CautiousDecay(), "NorMuon": NorMuon(), "Jordan's five steps": JordansSteps()}


# ---- trying them ----
class Trial:
    """A run of a config with one idea, step by step."""

    def __init__(self, config, idea, data):
        self.idea, self.config = idea, replace(config, **idea.options)
        self.model = self.config.make_model(data.tokenizer.vocab_size)
        self.seconds = (begin(self.model, self.config, data, say=lambda line: None)
                        if self.config.bigrams else 0.0)
        idea.model(self.model)
        self.model.to(choose_device(config.device))
        self.mover = make_optimizer(self.model, self.config)
        idea.optimizer(self.mover)
        self.loader, self.loss = self.config.batches(data, self.model), self.model.loss
        if hasattr(self.loader, "objective"):  # of batches whose documents don't see each other
            self.loss = self.loader.objective(self.loss)

    def step(self, i, steps):
        """Step i of some steps."""
        batch = self.idea.batch(i / steps, next(self.loader), self.mover)
        train.train_step(self.model, self.mover, batch, i, self.config, self.loss)


def cost(config, idea, data, n=50):
    """(a step's mean time with an idea over that without, the number of steps that it has time
    for). The means are of n steps in turns that stand for a whole run, the medians of its tenths,
    since some steps meet a busy machine.
    """
    trials, times = (Trial(config, Idea(), data), Trial(config, idea, data)), ([], [])
    for i in range(-2, n):  # two to warm up
        for trial, found in zip(trials, times):
            start = time.perf_counter()
            trial.step(max(0, i), n)
            found.append(time.perf_counter() - start)
    own, other = (sum(statistics.median(found[2:][k * n // 10:(k + 1) * n // 10])
                      for k in range(10)) / 10 for found in times)
    seconds = config.steps * own
    if "bigrams" in idea.options:
        seconds += trials[0].seconds - trials[1].seconds
    return other / own, max(1, round(seconds / other))


def bits_after(config, idea, data):
    """Bits per byte of the validation text after a run."""
    trial = Trial(config, idea, data)
    for i in range(config.steps):
        trial.step(i, config.steps)
    return train.evaluate(trial.model, data.val, token_bytes(data.tokenizer), trial.config)


def main(argv=None):
    parser = train.make_parser(FullConfig, ALL)
    parser.description, parser.epilog = __doc__.splitlines()[0], None
    parser.add_argument("--ideas", nargs="+", metavar="IDEA", choices=("all", *IDEAS), default=[],
                        help="to be tried; all: every one")
    parser.add_argument("--seeds", type=int, default=3, help="runs with each (default: 3)")
    words = parser.parse_args(argv)
    if not words.ideas:
        for name, idea in IDEAS.items():
            text = "" if type(idea) is Idea else " ".join(idea.__doc__.split())
            options = ", ".join(f"{option} {value}" for option, value in idea.options.items())
            print(f"{name}: {text}{' With ' * bool(text and options)}{options}")
        return
    config = FullConfig(**ALL[words.preset or "tiny"] | {
        name: value for name, value in vars(words).items() if hasattr(FullConfig, name)})
    if config.optimizer != "muon" or not config.steps:
        raise ValueError(f"the optimizer is {config.optimizer} and steps are {config.steps}: ideas "
                         "are tried with --optimizer muon and some --steps")
    choose_device(config.device), keep_freed_memory()
    data = prepare(config.data, config.vocab_size, config.data_dir)
    seeds = [replace(config, seed=seed) for seed in range(words.seeds)]
    plain = [bits_after(config, Idea(), data) for config in seeds]
    print("| idea | time of a step | steps | bits per byte | less than without, by seed |\n"
          f"|---|---|---|---|---|\n| none | 1 | {config.steps} | {statistics.mean(plain):.3f} | |",
          flush=True)
    for name in IDEAS if "all" in words.ideas else words.ideas:
        ratio, steps = cost(config, IDEAS[name], data)
        found = [bits_after(replace(config, steps=steps), IDEAS[name], data) for config in seeds]
        less = ", ".join(f"{a - b:.3f}" for a, b in zip(plain, found))
        print(f"| {name} | {ratio:.2f} | {steps} | {statistics.mean(found):.3f} | {less} |",
              flush=True)


if __name__ == "__main__":
    run(main)
