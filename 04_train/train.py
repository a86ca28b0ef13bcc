"""Train a model: the main job. From nothing to a model that writes.

Prepares tokenizer and data if they aren't there, says what it will take, trains, saves as it goes,
evaluates, and ends with a sample and a table. The loop is train(), below; what comes before it are
its parts. It never mentions processes: it talks to an Engine, and 07_scale brings engines for many.
Left out: what a run is (presets.py), how weights move (optim.py), what is kept (runs.py).

    python 04_train/train.py --preset tiny
    python 04_train/train.py --preset tiny --resume
    python 04_train/train.py --preset tiny --data folder:PATH gsm8k --steps 200
    python 04_train/train.py --preset 1b --plan
    python 04_train/train.py --preset continue --init SmolLM2 --data folder:PATH

Reads a source of 02_data; writes data/ and runs/NAME/: config.json, tokenizer.json,
metrics.jsonl, checkpoints/step-000500/, loss.png, report.html. Next: engine.py.
"""

import contextlib
import dataclasses
import functools
import math
import os
import sys
import time
from pathlib import Path

# Before torch is loaded: threads with nothing to do sleep. Spinning, as they otherwise would, they
# fight with whatever else runs for the cores, and a step may take ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

from console import Parser, Progress, add_options, choose_device, duration, holding, run

import numpy as np
import torch

from budget import count_parameters, flops_per_token
from data import baselines, document_start, make_batches, reopen, token_bytes
from engine import Engine
from gpt import generate, make_model, random_pick
from length import available, cut_off, plan, refuse, settled
from locks import StopSignal
from machine import keep_freed_memory, matmul_peak
from metrics import Log, environment, import_wandb, read_metrics
from optim import describe, learning_rate, make_optimizer
from page import page
from presets import PRESETS, Config
from report import draw, table
from runs import (newest_checkpoint, restore_state, restore_weights, run_data, save_checkpoint,
                  start_run, step_of, write_config)
from starting import choose_run, prepare_data
from timing import profile, step_seconds
from validation import evaluate
from watch import Spikes, activation_scales, first_bad, snapshot, update_ratios


# ---- the parts of a step ----

def objective(model, config):
    """What training makes small: a function of (inputs, targets) that gives (b, T) nats."""
    loss = model.loss
    if config.label_smoothing or config.z_loss:
        from losses import smoothed_loss
        loss = functools.partial(smoothed_loss, model, label_smoothing=config.label_smoothing,
                                 z_loss=config.z_loss)
    return torch.compile(loss) if config.compile else loss


def accumulate(loss, inputs, targets, micro_batch, n_targets, engine):  # exercise
    """Add the gradients of the mean loss over a batch to .grad, `micro_batch` windows at a time.

    inputs, targets: (B, T), split along B. loss(x, y) gives (b, T) nats, 0 where masked. Each
    micro-batch's sum is divided by `n_targets`, how many targets the *whole* batch has, so that
    a token weighs the same wherever it stands: averaging the micro-batches' means would weigh
    the tokens of a half-masked one double. Before each comes engine.begin(last), with last=True
    for the last micro-batch only; each goes to engine.backward(loss).
    Returns the sum of all nats as a float.
    """
    total = 0.0
    pieces = list(zip(inputs.split(micro_batch), targets.split(micro_batch)))
    for i, (x, y) in enumerate(pieces):
        engine.begin(last=i == len(pieces) - 1)
        nats = loss(x, y).sum()
        engine.backward(nats / n_targets)
        total += nats.item()
    return total


def take_step(model, optimizer, batch, step, config, engine, stop, loss=None):
    """One step on this process's part of a batch, (b, T) inputs and targets. Returns (loss over
    the whole batch, gradient norm, stopped). loss: objective(model, config), if it is there.

    ValueError, before the weights are touched, if the loss or a gradient is not finite. Where the
    engine takes that for an overflow, the step is skipped.
    """
    device, loss = model.embed.weight.device, loss or objective(model, config)
    n_targets = max(1.0, float(engine.sum(np.array([(batch[1] >= 0).sum()], np.float64))[0]))
    inputs, targets = (torch.from_numpy(rows).to(device) for rows in batch)
    dtype = getattr(torch, config.dtype)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        nats = accumulate(loss, inputs, targets, config.micro_batch, n_targets, engine)
        # In one message: the loss, and whether any process was asked to stop.
        nats, stopped = engine.sum(np.array([nats, stop.asked]))
        mean = float(nats) / n_targets
        norm = engine.clip(model, config.grad_clip)
        if math.isfinite(mean) and engine.overflowed(norm):
            optimizer.zero_grad()
            return mean, norm, bool(stopped)
        if not math.isfinite(mean + norm):
            where = first_bad(engine.whole(model), inputs, targets, config.micro_batch)
            raise ValueError(f"step {step + 1}: loss {mean}, gradient norm {norm}; first to go "
                             f"bad: {where}. Stopped before it could spoil a checkpoint. A new "
                             "run with a lower --lr may help")
    for group in optimizer.param_groups:
        group["lr"] = group["scale"] * learning_rate(step, config)
    optimizer.step()
    optimizer.zero_grad()
    return mean, norm, bool(stopped)


def rehearse(config, shape, device, batch):
    """A function that makes a step like those to come, on a model that will be thrown away; it
    hardly learns, so that it can't go bad.
    """
    config = dataclasses.replace(config, lr=1e-12, muon_lr=1e-12)
    model = make_model(shape, config.seed, config.init_std).to(device)
    optimizer, loss, stop = make_optimizer(model, config), objective(model, config), StopSignal()
    return lambda rows=None: take_step(model, optimizer, [part[:rows] for part in batch], 0, config,
                                       Engine(), stop, loss)


def announce(config, shape, device, batch, n_train_tokens, engine):
    """Lines that say what a run will be. A step is measured for them, if a process can make one by
    itself.
    """
    free, seconds = available(device, engine.neighbours), None
    if engine.rehearses:
        seconds = step_seconds(rehearse(config, shape, device, batch), len(batch[0]),
                               config.micro_batch)
    yield f"model      {shape}"
    yield "           " + ", ".join(f"{name} {n:,}" for name, n in count_parameters(shape).items()
                                    if n) + " parameters"
    yield from plan(config, shape, seconds, free, engine.world, n_train_tokens, engine.memory)


# ---- the loop ----

def train(config, folder, data, engine=Engine()):
    """Train the run in `folder` on `data`, a Dataset or a Mixture, to its end, from its newest
    checkpoint if there is one.

    Returns the bits per byte of the whole validation set, or None if it was asked to stop.
    """
    # 1. what the run will be
    say = print if engine.leads else lambda *words, **how: None
    keep_freed_memory()
    device = choose_device(config.device)
    sizes, shape = token_bytes(data.tokenizer), config.gpt(data.tokenizer.vocab_size)
    batches = functools.partial(make_batches, data, config.batch_size, config.seq_len, config.seed,
                                config.sampling, engine.rank, engine.world)
    peak = float(engine.sum(np.array([matmul_peak(device, getattr(torch, config.dtype))]))[0])
    n_tokens = len(data.train)
    say(*announce(config, shape, device, next(batches()), n_tokens, engine), sep="\n")

    # 2. model, optimizer; then what a checkpoint remembers: these, the loader, the losses seen last
    model = make_model(shape, config.seed, config.init_std).to(device)
    state = restore_weights(folder, config, data, model)
    optimizer = engine.prepare(model, config)
    loss = engine.wrap(model, objective(model, config))
    loader, spikes = batches(), Spikes()
    torch.manual_seed(config.seed)
    restore_state(state, optimizer=optimizer, loader=loader, spikes=spikes, engine=engine)
    first, earlier = state["step"], state["seconds"]
    step, seconds = first, earlier
    say("\n".join(describe(optimizer)))
    say(f"run        {folder}: steps {step} to {config.steps} of {config.batch_size} x "
        f"{config.seq_len} tokens, {device} {config.dtype}, peak {peak / 1e9:.0f} GFLOP/s")
    for line in cut_off(config, getattr(loader, "samplers", [])):
        say(line)

    def record(**values):
        if engine.leads:
            log.record(step, **values)

    def status():
        rate = step_tokens * (step - first) / (seconds - earlier)
        epochs = ", ".join(f"{n:.2f}" for n in loader.epochs())
        return (f"step {step}/{config.steps}  loss {mean:.3f}  epoch {epochs}  {rate:,.0f} tokens/s"
                f"  {rate * flops_per_token(shape) / peak:.0%} of peak  "
                f"{duration((config.steps - step) * step_tokens / rate)} left")

    step_tokens, stopped = config.batch_size * config.seq_len, False
    log = (Log(folder, step, dataclasses.asdict(config), config.wandb) if engine.leads
           else contextlib.nullcontext())
    with log, StopSignal() as stop, Progress(patience=0) as progress:
        record(environment=environment(device), parameters=sum(count_parameters(shape).values()))
        while step < config.steps and not stopped:
            # 3. a step
            looks = (step + 1) % config.eval_every == 0
            whole = engine.whole(model) if looks else None
            before, whole = snapshot(whole) if looks and engine.leads else None, None
            start = time.perf_counter()
            batch = next(loader)
            mean, norm, stopped = take_step(model, optimizer, batch, step, config, engine, stop,
                                            loss)
            step, seconds = step + 1, seconds + time.perf_counter() - start

            # 4. what came of it
            flag = {"spike": True} if spikes.seen(mean) else {}
            record(tokens=step * step_tokens, loss=mean, grad_norm=norm, **flag,
                   lr=optimizer.param_groups[-1]["lr"], seconds=round(seconds, 3))
            if engine.leads:
                progress.show(status)
            saves, bits = step % config.save_every == 0 or step == config.steps, None
            whole = engine.whole(model) if saves or looks or stopped else None
            if saves or looks:  # what is saved on time is also evaluated
                bits = evaluate(whole, data.val, sizes, config.eval_tokens, engine)
                record(val_bits_per_byte=bits)
            if looks and engine.leads:
                ids = torch.from_numpy(batch[0][:1]).to(device)
                record(update_ratio=update_ratios(before, whole),
                       activation_scale=activation_scales(whole, ids),
                       sample=sample(whole, data.tokenizer))
                redraw(folder)
            if saves or stopped:
                # on all processes: what they have divided is put together here
                state = {"step": step, "seconds": seconds, "optimizer": optimizer.state_dict(),
                         "loader": loader.state_dict(), "spikes": spikes.state_dict(),
                         "engine": engine.state_dict(), "data": data.hash,
                         "rng": torch.get_rng_state()}
                engine.first(functools.partial(save_checkpoint, folder, step, whole, state,
                                               config.keep, bits))
            whole = state = None  # put together from all processes, they are large
        # 5. the result
        if not stopped:
            whole = engine.whole(model)
            bits = evaluate(whole, data.val, sizes, engine=engine)
            record(val_bits_per_byte=bits, baselines=baselines(data))
    for line in cut_off(config, getattr(loader, "samplers", [])):
        say(line)
    if stopped:
        say(f"stopped after step {step}, which is saved; --resume goes on")
        return None
    if engine.leads:
        summarise(whole, data, folder)
    return bits


def sample(model, tokenizer, n_tokens=64):
    """What the model writes by itself, the same random numbers each time."""
    ids = generate(model, [document_start(tokenizer)], n_tokens, random_pick(0.8, seed=0))
    return tokenizer.decode([int(i) for i in ids])


def redraw(folder):
    """The picture of the run so far; a run doesn't stop because it can't be drawn."""
    try:
        draw(read_metrics(folder / "metrics.jsonl"), folder / "loss.png")
    except Exception as error:
        print(f"{folder}/loss.png could not be drawn: {error}", file=sys.stderr)


def summarise(model, data, folder):
    """Draw the curves, print a sample, and the table: what this model and others make of the
    validation text.
    """
    redraw(folder)
    page([folder], folder / "report.html")
    last = read_metrics(folder / "metrics.jsonl")[-1]
    print(f"\n---- a sample ----\n{sample(model, data.tokenizer, 200)}\n")
    print(f"---- bits per byte of {data.index['val']['bytes']:,} bytes of validation text ----")
    print(table(last["baselines"] | {"this model": last["val_bits_per_byte"]}))
    print(f"\n{folder}/report.html has the curves; next: python 05_sample/sample.py")


# ---- the command line ----

def main(argv=None, engine=Engine()):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="tiny", choices=PRESETS, help="a row of PRESETS")
    parser.add_argument("--name", help="the run's name (default: the preset's)")
    parser.add_argument("--runs-dir", default="runs", help="where runs are kept (default: runs)")
    parser.add_argument("--resume", action="store_true", help="go on with the run of that name")
    parser.add_argument("--plan", action="store_true", help="say what it would take, and end")
    parser.add_argument("--profile", action="store_true", help="say what a step spends where, "
                        "write profile/trace.json.gz, and end")
    add_options(parser, Config)

    def open_run():
        """What can be refused before a new run's folder is made is refused. None: nothing to do."""
        given = vars(parser.parse_args(argv))
        preset, name, runs_dir, resume, only_plan, only_profile = (
            given.pop(k) for k in ("preset", "name", "runs_dir", "resume", "plan", "profile"))
        folder, config = choose_run(given, preset, runs_dir, name, resume)
        if folder and not (only_plan or only_profile):
            held.enter_context(holding(folder, "is being trained"))
        device = choose_device(config.device)
        free = available(device, engine.neighbours)
        engine.check(config)
        if only_plan:
            shape = config.gpt(config.vocab_size)
            print(*plan(config, shape, None, free, engine.world, None, engine.memory), sep="\n")
            refuse(config, shape, free, engine.world, engine.memory)
            return None
        if config.wandb:
            import_wandb()
        data = (run_data(folder, config.by_hand, config.data_dir)
                if folder and newest_checkpoint(folder) else prepare_data(folder, config))
        shape = config.gpt(data.tokenizer.vocab_size)
        config = settled(config, shape)
        if folder and (newest := newest_checkpoint(folder)) and step_of(newest) > config.steps:
            raise ValueError(f"{newest} is beyond the {config.steps} steps asked for")
        refuse(config, shape, free, engine.world, engine.memory)
        batches = make_batches(data, config.batch_size, config.seq_len, 0, config.sampling, 0,
                          engine.world)
        if only_profile:
            Path("profile").mkdir(exist_ok=True)
            peak = matmul_peak(device, getattr(torch, config.dtype))
            print(profile(rehearse(config, shape, device, next(batches)), "profile", peak,
                          device=device))
            return None
        if not folder:
            folder = start_run(runs_dir, name or preset)
            held.enter_context(holding(folder, "is being trained"))
        write_config(folder, config, data)
        return folder, config, [(share, part.folder) for share, part in data.parts]

    with contextlib.closing(engine), contextlib.ExitStack() as held:
        if opened := engine.first(open_run):
            folder, config, parts = opened
            train(config, folder, reopen(parts, config.by_hand), engine)


if __name__ == "__main__":
    run(main)
