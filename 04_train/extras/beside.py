"""Records, samples and pictures of a run, made beside its steps.

The loops of train.py and 07_scale/scale.py call a Beside after each step. Nothing here changes what
is learned: a run without Beside has the same weights, bit for bit.

Writes metrics.jsonl, loss.png and report.html in a run's folder. Next: metrics.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import choose_device, escaped

import torch

from budget import count_parameters
from data import baselines, document_start
from gpt import generate, random_pick
from housekeeping import Progress, duration
from machine import keep_freed_memory
from metrics import Hints, Log, environment, read_metrics, table
from page import page
from report import column, draw
from runs import as_json
from watch import Spikes, activation_scales, sampled, update_ratios


def describe(groups, lr):
    """Yield a line for each group of make_optimizer(): which optimizer updates which parameters, at
    which learning rate and decay. lr: config.lr, the peak of a group whose scale is 1.
    """
    names = "the matrices of the blocks", "all else, tables and head"
    for group, which in zip(groups, names if groups[1]["params"] else ("the adapters",)):
        sizes = [p.numel() for p in group["params"]]
        yield (f"{group['kind']:10} moves {which}, {sum(sizes):,} parameters in {len(sizes)} "
               f"tensors: learning rate {group['scale'] * lr:g}, decay {group['weight_decay']:g}")


def sample(model, data, n_tokens=64):
    """A document, of Python a function, as the model writes it with the same random numbers."""
    tokenizer, prompt = data.tokenizer, "def main(" * (data.index.get("source") == "python")
    start = document_start(tokenizer) + tokenizer.encode(prompt)
    pick = random_pick(0.8, 0, model.embed.weight.device)  # there: no id is waited for
    ids = [*generate(model, [start], n_tokens, pick)]
    return prompt + tokenizer.decode(torch.cat(ids).tolist())


class Beside:
    """Of a run in `folder`. As context it closes its files. start: the "step" with which the run
    begins or goes on, and the "seconds" before it. tensors(): the (name, tensor) pairs of the
    model. Each process has one, as a divided model computes only where all call it; rank 0 writes.
    """

    def __init__(self, config, folder, data, loader, start, model, tensors, rank=0):
        self.config, self.folder, self.data, self.loader = config, folder, data, loader
        self.model, self.tensors, self.is_rank0 = model, tensors, rank == 0
        self.spikes, self.line, self.hint = Spikes(), Progress(patience=0), Hints()
        self.first_step, self.before = start["step"], start["seconds"]
        self.tokens_before = self.tokens(start["step"])
        keep_freed_memory()  # in each process: steps wait for the slowest
        self.look_ahead(self.first_step)
        if not self.is_rank0:
            return
        self.log = self.hint(f"write {folder}/metrics.jsonl", self.open_log, self.first_step)
        self.hint("read the losses so far", self.remember)
        self.record(self.first_step, environment=self.hint(
            "tell the environment", environment, choose_device(config.device)), parameters=sum(
            count_parameters(config.gpt(data.tokenizer.vocab_size)).values()))
        self.say_what_is_cut_off()

    def tokens(self, step):
        """How many have been read after a step; batches of any width count theirs themselves."""
        return getattr(self.loader, "tokens", step * self.config.batch_size * self.config.seq_len)

    def open_log(self, step):
        if getattr(self.config, "wandb", False):
            from wandb_log import WandbLog
            return WandbLog(self.folder, step, as_json(self.config))
        return Log(self.folder, step)

    def remember(self):
        """Read the losses recorded before, with which new losses are compared to find spikes."""
        for loss in column(read_metrics(self.folder / "metrics.jsonl"), "loss")[0].tolist():
            self.spikes.seen(loss)

    def record(self, step, **values):
        """A row of the log, if there is one."""
        if self.log:
            self.hint(f"write {self.log.path}", self.log.record, step, **values)

    def look_ahead(self, step):
        """After `step`, keep a copy of the weights if the next step's update will be measured."""
        self.earlier = {}
        if (step + 1) % self.config.eval_every == 0:
            self.earlier = {name: sampled(p) for name, p in self.tensors() if self.is_rank0}

    def after(self, step, seconds, loss, norm, groups, bits, batch):
        """Record a step. seconds: since the run began; groups: the optimizer's; bits: bits per byte
        of an evaluation after the step, or None.
        """
        if self.is_rank0 and step == self.first_step + 1:
            print(*describe(groups, self.config.lr), sep="\n")
        if self.is_rank0:
            self.line.show(lambda: self.pace(step, seconds, loss))
            flag = {"spike": True} if self.spikes.seen(loss) else {}
            self.record(step, tokens=self.tokens(step), loss=loss, grad_norm=norm, **flag,
                        lr=groups[-1]["lr"], seconds=round(seconds, 3),
                        **getattr(self.loader, "measures", {}))
        if bits is not None and self.is_rank0:
            self.record(step, val_bits_per_byte=bits, **getattr(self.loader, "tested", {}))
        if step % self.config.eval_every == 0:
            model, ratios = self.model, update_ratios(self.earlier, self.tensors())
            ids = torch.from_numpy(batch[0][:1]).to(model.embed.weight.device)
            scales = self.hint("measure activations", activation_scales, model, ids)
            wrote = self.hint("write a sample", sample, model, self.data)
            if self.is_rank0:
                self.record(step, update_ratio=ratios, activation_scale=scales, sample=wrote)
                self.redraw()
        if getattr(self.config, "snapshots", 0):  # a FullConfig has them
            from snapshots import save_snapshot
            self.hint(f"save a snapshot in {self.folder}", save_snapshot, self.config, self.folder,
                      step, self.tensors, bits, self.is_rank0)
        self.look_ahead(step)

    def pace(self, step, seconds, loss):
        """The progress line: step, loss, epochs, speed and time left."""
        steps, rate = self.config.steps, (step - self.first_step) / (seconds - self.before)
        tokens = (self.tokens(step) - self.tokens_before) / (seconds - self.before)  # a second
        epochs = ", ".join(f"{n:.2f}" for n in self.loader.epochs())
        return (f"step {step}/{steps}  loss {loss:.3f}  epoch {epochs}  {tokens:,.0f} tokens/s  "
                f"{duration((steps - step) / rate)} left")

    def finished(self, step, bits):
        """The run has ended, with `bits` bits per byte of the validation text: write the last
        records and the page, and print a sample and the baselines.
        """
        wrote = self.hint("write a sample", sample, self.model, self.data, 200) or ""
        if self.is_rank0:
            others = self.hint("compute the baselines", baselines, self.data) or {}
            self.record(step, val_bits_per_byte=bits, baselines=others, sample=wrote,
                        **getattr(self.loader, "tested", {}))
            self.redraw()
            self.hint(f"write {self.folder}/report.html", page, [self.folder],
                      self.folder / "report.html")
            self.say_what_is_cut_off()
            part = self.config.last_eval_tokens
            print(f"\n---- a sample ----\n{escaped(wrote)}\n\n"
                  f"---- bits per byte of {self.data.index['val']['bytes']:,} bytes of validation "
                  f"text{f', this model: of about {part:,} tokens of it' * bool(part)} ----\n"
                  f"{table(others | {'this model': bits})}")

    def say_what_is_cut_off(self):
        if samplers := getattr(self.loader, "samplers", []):
            from batches import cut_off
            for line in cut_off(self.config, samplers):
                print(line)

    def redraw(self):
        """The picture of the run so far."""
        self.hint(f"draw {self.folder}/loss.png", lambda: draw(
            read_metrics(self.folder / "metrics.jsonl"), self.folder / "loss.png"))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.line.__exit__(*error)
        if self.is_rank0 and self.log:
            self.log.__exit__(*error)
