"""How soon a loss is reached: the presets classic and speedrun on characters of Shakespeare, what
each ingredient of the latter is worth, and both recipes at a larger shape. bench.py calls it.

Every run is the trainer's own, in a process of its own, one after the other. The clock is that of
metrics.jsonl: batches and steps, all of them, and the learning of bigrams, without evaluations and
without what else comes before the first step. A loss is the mean over the validation text, in nats
a character.
"""

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import train
from family import FAMILIES, dimensions
from metrics import read_metrics
from presets import ALL as PRESETS

NEVER = 10_000  # an eval_every that no run reaches

# What the speedrun does otherwise than classic; each is taken back alone.
INGREDIENTS = {
    "no n-gram tables": dict(ngrams=0),
    "AdamW instead of Muon": dict(optimizer="adamw"),
    "4 layers": dict(n_layer=4),
    "batches of 12": dict(batch_size=12, micro_batch=12),
    "a twentieth of the rates": dict(lr=1.5e-3, muon_lr=1e-3),
    "no cool-down": dict(cooldown=0.0),
    "GPT-2's initialisation": dict(init_std=0.02),
    "learned positions": dict(positions="learned"),
    "GELU": dict(activation="gelu"),
    "head tied to the table": dict(tied=True),
    "all of GPT-2's architecture": FAMILIES["gpt2"] | dict(bias=False),
}

# Six layers of a GPT-2 that a laptop can train, by nanoGPT's recipe; by that of our ladder; and by
# the latter from bigrams that were counted. With each, shares of classic's steps that are tried.
LARGER = dimensions(6, 384, 6, vocab_size=4096, seq_len=256) | dict(batch_size=8, micro_batch=8)
RECIPES = {
    "classic": {key: value for key, value in PRESETS["classic"].items() if key != "data"} | LARGER,
    "muon": LARGER | dict(optimizer="muon", lr=0.0085, muon_lr=0.02, cooldown=0.7, warmup=5),
}
RECIPES["bigrams"] = RECIPES["muon"] | dict(bigrams=20, lr=0.003, momentum=0.9)
SHARES = {"muon": (0.16, 0.18, 0.2, 0.22, 0.24, 0.27, 0.3, 0.33, 0.36, 0.4, 0.45, 0.5),
          "bigrams": (0.02, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)}


# ---- a run ----
def options(changes):
    """{"n_layer": 4, "tied": True} as options of train.py."""
    for name, value in changes.items():
        name = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{name}" if value else f"--no-{name}"
        elif name != "data":
            yield from (f"--{name}", str(value))


def trained(preset, source, folder, **changes):
    """Train with train.py in a process of its own. Returns its Result."""
    done = subprocess.run([sys.executable, train.__file__, "--preset", preset, "--name", "run",
                           "--runs-dir", str(folder / "runs"), "--data-dir", str(folder / "data"),
                           "--data", source, *options(changes)], capture_output=True, text=True,
                          encoding="utf-8")
    if done.returncode:
        raise ValueError(f"training failed: {done.stderr.strip().splitlines()[-1:]}")
    runs = (folder / "runs").glob("run*")
    return result(max(runs, key=lambda run: (run / "config.json").stat().st_mtime))


def result(folder):
    """{"seconds", "steps", "loss", "curve": [[seconds, step, loss], ...]} of a finished run."""
    rows = read_metrics(folder / "metrics.jsonl")
    seconds = {row["step"]: row["seconds"] for row in rows if "seconds" in row}
    nats = {row["step"]: row["val_bits_per_byte"] * math.log(2)
            for row in rows if "val_bits_per_byte" in row}  # of each step the last: on all the text
    return {"seconds": seconds[max(seconds)], "steps": max(seconds), "loss": nats[max(nats)],
            "curve": [[seconds[step], step, loss] for step, loss in nats.items()]}


def until(target, source, folder, steps, most, **changes):
    """The shortest of runs with `steps`, half as many again, ... up to `most` that ends at the
    target or below: the result, or that of the longest, with "seconds" None.
    """
    while True:
        found = trained("speedrun", source, folder, steps=steps, eval_every=NEVER, **changes)
        if found["loss"] <= target:
            return found
        if steps * 1.5 > most:
            return found | {"seconds": None}
        steps = math.ceil(steps * 1.5)


# ---- the tables ----
def print_rows(rows):
    """A line for each (name, seconds, steps, loss), and how much sooner than the first it was."""
    print("| | seconds | steps | nats a character | sooner |\n|---|---|---|---|---|")
    for name, seconds, steps, loss in rows:
        ends = seconds and seconds < math.inf
        time = f"{seconds:.1f}" if ends else ""
        ratio = f"{rows[0][1] / seconds:.1f}" if ends else "never"
        print(f"| {name} | {time} | {steps} | {loss:.4f} | {ratio} |", flush=True)


def race(contenders, source, folder, seeds):
    """{name: [result of each seed]}, taking turns. contenders: {name: (preset, changes)}."""
    results = {name: [] for name in contenders}
    for seed in range(seeds):
        for name, (preset, changes) in contenders.items():
            found = trained(preset, source, folder, seed=seed, **changes)
            results[name].append(found | {"name": name, "seed": seed})
            print(f"(seed {seed}, {name}: {found['loss']:.4f} nats after {found['seconds']:.1f} s)",
                  flush=True)
    return results


def medians(results):
    """Rows for print_rows() of what race() returns."""
    return [(name, *(statistics.median(one[key] for one in found)
                     for key in ("seconds", "steps", "loss"))) for name, found in results.items()]


def race_larger(source, folder, steps, seed=0):
    """{"classic": result, others of RECIPES: that of the shortest run tried that ends at classic's
    loss or below, on 100,000 tokens of the validation text; of none, "seconds" is infinite}.
    """
    often = dict(eval_every=NEVER, save_every=steps, seed=seed, last_eval_tokens=100_000)
    found = {"classic": trained("classic", source, folder, **RECIPES["classic"] | often | dict(
        steps=steps))}
    for name, shares in SHARES.items():
        for share in shares:
            found[name] = trained("speedrun", source, folder, **{"ngrams": 0} | RECIPES[name]
                                  | often | dict(steps=math.ceil(share * steps)))
            if found[name]["loss"] <= found["classic"]["loss"]:
                break
        else:
            found[name]["seconds"] = math.inf
    return found


def bench_train(data, folder, seeds, ablations, larger, larger_steps, output):
    folder = Path(folder)
    print(f"\ncharacters of Shakespeare, windows of 64, median of {seeds} seeds\n")
    results = race({"classic": ("classic", dict(eval_every=200)),
                    "speedrun": ("speedrun", dict(eval_every=15))}, data, folder, seeds)
    print_rows(medians(results))
    target = statistics.median(one["loss"] for one in results["classic"])
    late = [one for one, other in zip(results["speedrun"], results["classic"])
            if one["loss"] > other["loss"]]
    if late:
        print(f"in {len(late)} of {seeds} seeds the speedrun did not reach the classic's loss")
    picture = {"target": target, "runs": [
        one | {"seconds_to_target": one["seconds"]} for found in results.values()
        for one in found]}
    if ablations:
        steps = PRESETS["speedrun"]["steps"]
        print(f"\nseconds until {target:.4f} nats, seed 0, lengths tried from {steps} steps, half "
              "as many again each time\n")
        rows = []
        for name, changes in ({"speedrun": {}} | INGREDIENTS).items():
            found = until(target, data, folder, steps, 8 * steps, **changes)
            rows.append((name, found["seconds"], found["steps"], found["loss"]))
            print(f"({name}: {found['steps']} steps, {found['loss']:.4f})", flush=True)
        print_rows(rows)
        picture["ablations"] = [dict(zip(("name", "seconds_to_target", "steps_to_target",
                                          "loss_at_end"), row)) for row in rows]
    if output:
        Path(output).write_text(json.dumps(picture), encoding="utf-8")
    if larger:
        print(f"\n{larger}: 6 layers of width 384, windows of 256, BPE, one seed\n")
        found = race_larger(larger, folder, larger_steps)
        print_rows([(name, one["seconds"], one["steps"], one["loss"])
                    for name, one in found.items()])
