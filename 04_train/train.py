"""Train a model: the main job. From nothing to a model that writes.

Makes tokenizer and shards if they aren't there, trains, saves as it goes, evaluates, and ends
with a sample and a table. The loop is train(), below; what comes before it are its parts.
It never mentions processes: it talks to an Engine, and 07_scale brings engines for many.
Left out: other ways to choose the length.

    python 04_train/train.py --preset tiny
    python 04_train/train.py --preset tiny --resume
    python 04_train/train.py --preset tiny --data folder:PATH gsm8k --steps 200

Reads a source of 02_data; writes data/ and runs/NAME/: config.json, tokenizer.json,
metrics.jsonl, checkpoints/step-000500/, loss.png. Its options and presets are in presets.py.
Next: optim.py, presets.py, runs.py and report.py.
"""

import dataclasses
import json
import math
import os
import sys
import time
from pathlib import Path

# Before torch is loaded: threads with nothing to do sleep. Spinning, as they otherwise would, they
# fight with whatever else runs for the cores, and a step may take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import torch.nn.functional as F

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from batches import Batches
from bpe import Tokenizer
from budget import count_parameters, flops_per_token
from console import Parser, Progress, StopSignal, add_options, duration, run, track, write_safely
from decode import generate, random_pick
from gpt import GPT
from machine import choose_device, keep_freed_memory, matmul_peak
from optim import describe, learning_rate, make_optimizer
from presets import PRESETS, Config
from report import draw, read_metrics, table
from runs import (load, load_model, newest_checkpoint, resume_run, same_tokenizer, save_checkpoint,
                  start_run)
from shards import prepare_mixture
from streams import Mixture, Shards
from yardsticks import baselines, bits_per_byte, token_bytes, windows


# ---- the parts of a step ----

def accumulate(model, inputs, targets, micro_batch, n_targets, engine):  # exercise
    """Add the gradients of the mean loss over a batch to .grad, `micro_batch` windows at a time.

    inputs, targets: (B, T), split along B. model.loss gives (b, T) nats, 0 where masked. Each
    micro-batch's sum is divided by `n_targets`, how many targets the *whole* batch has, so that
    a token weighs the same wherever it stands: averaging the micro-batches' means would weigh
    the tokens of a half-masked one double. Each goes to engine.backward(loss, last), with
    last=True for the last micro-batch only.
    Returns the sum of all nats as a float.
    """
    total = 0.0
    pieces = list(zip(inputs.split(micro_batch), targets.split(micro_batch)))
    for i, (x, y) in enumerate(pieces):
        nats = model.loss(x, y).sum()
        engine.backward(nats / n_targets, last=i == len(pieces) - 1)
        total += nats.item()
    return total


class Engine:
    """How one process trains. The loop knows nothing else; 07_scale/scale.py has others."""

    rank, world = 0, 1  # which process of how many this is
    leads = True  # this one prints and writes

    def prepare(self, model):
        """Called once, before the first step, when the weights are in place."""

    def first(self, work):
        """The result of work(), which may write files: one process does it, all get the result."""
        return work()

    def share(self, rows):
        """The part of the rows of a batch (a tensor, an array, a list) that is this process's."""
        return rows

    def sum(self, values):
        """Sum a float64 array over all processes, element by element."""
        return values

    def backward(self, loss, last):
        """Add the gradients of `loss`. `last`: the micro-batch that completes the step."""
        loss.backward()

    def close(self):
        """Called at the end."""


# ---- evaluation ----

@torch.inference_mode()
def score(model, ids, stride=None, every=1, batch_size=32, engine=Engine()):  # exercise
    """What each id of a text costs the model, given those before it: (N - 1,) nats, float64.

    ids: (N,) ints, N >= 2, an array, or a Stream: only slices of it are read. Entry i of the result
    is the loss of ids[i + 1]. Uses the windows of yardsticks.windows(N, seq_len, stride) (default:
    side by side, stride = seq_len), each target counted once, `batch_size` windows at a time; the
    last may stick out over the end, and is filled up with any id. With
    `every` = n only windows 0, n, 2n ... are used; what they don't score stays 0. Windows are
    dealt out by engine.share(list), and the parts put together by engine.sum(array).
    """
    T, device = model.config.seq_len, model.embed.weight.device
    nats = np.zeros(len(ids) - 1)
    todo = engine.share(windows(len(ids), T, stride or T)[::every])
    batches = range(0, len(todo), batch_size)
    if engine.leads:
        batches = track(batches, "evaluating", len(batches), unit=" batches")
    for i in batches:
        batch = todo[i:i + batch_size]
        rows = [torch.tensor(np.asarray(ids[start:start + T + 1], np.int64)) for start, _ in batch]
        rows = torch.stack([F.pad(row, (0, T + 1 - len(row))) for row in rows]).to(device)
        losses = model.loss(rows[:, :-1], rows[:, 1:]).cpu().numpy()  # (b, T)
        for (start, skip), row in zip(batch, losses):
            part = nats[start + skip:start + T]  # ends where the text ends
            part[:] = row[skip:skip + len(part)]
    return engine.sum(nats)


def evaluate(model, stream, sizes, max_tokens=None, engine=Engine()):
    """Bits per byte of a stream of ids; with max_tokens, on windows spread evenly over it that
    have about so many targets.
    """
    n, T = len(stream), model.config.seq_len
    every = -(-n // max_tokens) if max_tokens else 1
    nats = score(model, stream, every=every, engine=engine)
    # score(every=...) takes windows 0, every, 2 every ...
    spans = [(start, min(start + T, n - 1)) for start in range(0, n - 1, T * every)]
    targets = np.concatenate([stream.labels(start + 1, end - start) for start, end in spans])
    if every > 1 and not (targets >= 0).any():  # of conversations too little was taken
        return evaluate(model, stream, sizes, engine=engine)
    return bits_per_byte(np.concatenate([nats[start:end] for start, end in spans]), targets, sizes)


# ---- the loop ----

def take_step(model, optimizer, batch, step, config, engine, stop):
    """One step on this process's part of a batch, (b, T) inputs and targets. Returns (loss over
    the whole batch, gradient norm, stopped).

    ValueError, before the weights are touched, if the loss or a gradient is not finite.
    """
    device = model.embed.weight.device
    n_targets = max(1.0, float(engine.sum(np.array([(batch[1] >= 0).sum()], np.float64))[0]))
    inputs, targets = (torch.from_numpy(rows).to(device) for rows in batch)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        nats = accumulate(model, inputs, targets, config.micro_batch, n_targets, engine)
    nats, stopped = engine.sum(np.array([nats, stop.asked]))  # has any process been asked to stop?
    loss = nats / n_targets
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip))
    if not math.isfinite(loss + norm):
        raise ValueError(f"step {step + 1}: loss {loss}, gradient norm {norm}; stopped before it "
                         "could spoil a checkpoint. A lower --lr may help")
    for group in optimizer.param_groups:
        group["lr"] = group["scale"] * learning_rate(step, config)
    optimizer.step()
    optimizer.zero_grad()
    return loss, norm, bool(stopped)


def train(config, folder, shards, engine=Engine()):
    """Train the run in `folder` on `shards`, a Mixture, to its end, from its newest checkpoint if
    there is one.

    Returns the bits per byte of the whole validation set, or None if it was asked to stop.
    """
    # 1. model, optimizer, loader; then, over them, what a checkpoint remembers
    say = print if engine.leads else lambda *words: None
    keep_freed_memory()
    device = choose_device(config.device)
    sizes, shape = token_bytes(shards.tokenizer), config.gpt(shards.tokenizer.vocab_size)
    model = GPT(shape, config.seed).to(device)
    optimizer = make_optimizer(model, config)
    loader = Batches(shards, config.batch_size, config.seq_len, config.seed, config.sampling,
                     engine.rank, engine.world)
    state = restore(folder, shards, model, optimizer, loader, device, engine)
    step, seconds = state["step"], state["seconds"]
    engine.prepare(model)
    peak = float(engine.sum(np.array([matmul_peak(device, getattr(torch, config.dtype))]))[0])
    say(f"model      {shape}\n           " + ", ".join(
        f"{name} {n:,}" for name, n in count_parameters(shape).items() if n) + " parameters")
    say(f"run        {folder}: steps {step} to {config.steps} of {config.batch_size} x "
        f"{config.seq_len} tokens, {device} {config.dtype}, peak {peak / 1e9:.0f} GFLOP/s")

    for line in [*describe(optimizer), *cut_off(config, loader)]:
        say(line)

    def record(**values):
        if engine.leads:
            log.write(json.dumps(values) + "\n")
            log.flush()

    def status():
        rate = step_tokens * (step - state["step"]) / (seconds - state["seconds"])
        epochs = ", ".join(f"{epochs:.2f}" for epochs in loader.epochs())
        return (f"step {step}/{config.steps}  loss {loss:.3f}  epoch {epochs}  {rate:,.0f} tokens/s"
                f"  {rate * flops_per_token(shape) / peak:.0%} of peak  "
                f"{duration((config.steps - step) * step_tokens / rate)} left")

    step_tokens, stopped = config.batch_size * config.seq_len, False
    with (open(folder / "metrics.jsonl", "a") as log, StopSignal() as stop,
          Progress(patience=0) as progress):
        while step < config.steps and not stopped:
            # 2. a step
            start = time.perf_counter()
            loss, norm, stopped = take_step(model, optimizer, next(loader), step, config, engine,
                                            stop)
            step, seconds = step + 1, seconds + time.perf_counter() - start

            # 3. what came of it
            record(step=step, tokens=step * step_tokens, loss=loss, grad_norm=norm,
                   lr=optimizer.param_groups[-1]["lr"], seconds=round(seconds, 3))
            if engine.leads:
                progress.show(status)
            if step % config.eval_every == 0:
                bits = evaluate(model, shards.val, sizes, config.eval_tokens, engine)
                record(step=step, val_bits_per_byte=bits)
            if engine.leads and (step % config.save_every == 0 or step == config.steps or stopped):
                save_checkpoint(folder, step, model, {
                    "step": step, "seconds": seconds, "optimizer": optimizer.state_dict(),
                    "loader": loader.state_dict(), "shards": shards.hash,
                    "rng": torch.get_rng_state()})
        # 4. the result
        if not stopped:
            bits = evaluate(model, shards.val, sizes, engine=engine)
            record(step=step, val_bits_per_byte=bits, baselines=baselines(shards))
    for line in cut_off(config, loader):
        say(line)
    if stopped:
        say(f"stopped after step {step}, which is saved; --resume goes on")
        return None
    if engine.leads:
        summarise(model, shards, folder)
    return bits


def cut_off(config, loader):
    """A line for each source that loses ids at the ends of windows: how many so far, or, before
    any came, how many it will never show.
    """
    for source, plan in zip(config.data, loader.plans):
        if plan.cropped:
            yield (f"bestfit    has cut off {plan.cropped / plan.tokens:.0%} of the tokens of "
                   f"{source} that came")
        elif plan.lost > 0.01:
            yield (f"bestfit    will never show {plan.lost:.0%} of {source}: what is behind the "
                   f"first {config.seq_len + 1} tokens of a document")


def restore(folder, shards, model, optimizer, loader, device, engine):
    """Bring everything to where the run's newest checkpoint left it. Returns its state.

    A new run's folder gets its tokenizer.json; metrics of steps that will come again are cut off.
    ValueError if the data are not what the run was trained on.
    """
    if (folder / "tokenizer.json").exists():
        same_tokenizer(folder, Tokenizer.load(folder / "tokenizer.json"), shards)
    elif engine.leads:
        shards.tokenizer.save(folder / "tokenizer.json")
    state = {"step": 0, "seconds": 0.0}
    if checkpoint := newest_checkpoint(folder):
        load_model(model, checkpoint, device)
        state = load(checkpoint / "state.pt", device)
        if state["shards"] != shards.hash:
            raise ValueError(f"{folder} was trained on shards {state['shards']}, but its data are "
                             f"now {shards.hash}: the source has changed")
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["loader"])
        torch.set_rng_state(state["rng"].cpu())
    if engine.leads and (folder / "metrics.jsonl").exists():  # forget what will come again
        kept = [m for m in read_metrics(folder / "metrics.jsonl")
                if m["step"] <= state["step"] and "baselines" not in m]
        write_safely(folder / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in kept))
    return state


def summarise(model, shards, folder):
    """Draw the curves, print a sample, and the table: what this model and others make of the
    validation text.
    """
    metrics = read_metrics(folder / "metrics.jsonl")
    draw(metrics, folder / "loss.png")
    bos = shards.tokenizer.special["<|bos|>"]
    ids = [int(i) for i in generate(model, [[bos]], 200, random_pick(temperature=0.8, seed=0))]
    print(f"\n---- a sample ----\n{shards.tokenizer.decode(ids)}\n")
    print(f"---- bits per byte of {shards.index['val']['bytes']:,} bytes of validation text ----")
    print(table(metrics[-1]["baselines"] | {"this model": metrics[-1]["val_bits_per_byte"]}))
    print(f"\n{folder}/loss.png shows the curves; next: python 05_sample/sample.py")


# ---- the command line ----

def main(argv=None, engine=Engine()):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny", choices=PRESETS, help="a row of PRESETS")
    parser.add_argument("--name", help="the run's name (default: the preset's)")
    parser.add_argument("--runs-dir", default="runs", help="where runs are kept (default: runs)")
    parser.add_argument("--resume", action="store_true", help="go on with the run of that name")
    add_options(parser, Config)

    def open_run():
        """What can be refused before a new run's folder is made is refused."""
        given = vars(parser.parse_args(argv))
        preset, name, runs_dir, resume = (given.pop(k) for k in
                                          ("preset", "name", "runs_dir", "resume"))
        if name and Path(name).name != name:
            raise ValueError(f"the name {name!r} is not one of a folder; --runs-dir says where")
        found = resume_run(given, runs_dir, name or preset) if resume else None
        if resume and name and not found:
            raise ValueError(f"there is no run {name!r} in {runs_dir}/ to resume")
        if resume and not found:
            print("nothing to resume: a new run")
        folder, config = found or (None, Config(**PRESETS[preset] | given))
        choose_device(config.device)  # this, and Batches below: only for what they refuse
        shards = prepare_mixture(config.data, config.vocab_size, config.data_dir)
        Batches(shards, config.batch_size, config.seq_len, 0, config.sampling, 0, engine.world)
        folder = folder or start_run(runs_dir, name or preset)
        write_safely(folder / "config.json", json.dumps(dataclasses.asdict(config), indent=1))
        return folder, config, [(w, s.folder) for w, s in zip(shards.weights, shards.shards)]

    folder, config, parts = engine.first(open_run)
    try:
        train(config, folder, Mixture([(weight, Shards(part)) for weight, part in parts]), engine)
    finally:
        engine.close()


if __name__ == "__main__":
    run(main)
