"""What can happen to a run. bench.py calls it.

Kills: a run of train.py, sft.py or rl.py is ended again and again at any moment, and resumed,
beside one that nothing ends: is a checkpoint ever damaged, is the result ever another? Flips: of
one bit in a checkpoint's files: is what has changed ever taken for what was written? Races: of two
that start, resume, prepare, or train and evaluate, at once: does any end badly, or spoil what the
other does?

Processes are forked from one that has loaded torch, as loading takes seconds and writes nothing.
Left out: the power going, which can't be tried from here.
"""

import collections
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import matplotlib.figure  # noqa: F401, this and torch._dynamo: loaded once, not in every fork
import numpy as np
import torch
import torch._dynamo  # noqa: F401, which every optimizer asks for

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import read_text, run

import data
import evals
import rl
import sft
import train
from metrics import read_metrics
from housekeeping import Progress
from runs import (all_checkpoints, best_checkpoint, damage, load_run, load_state,
                  newest_checkpoint, run_data, step_of, val_of)

NANO = "--preset nano --vocab-size 300 --n-layer 1 --device cpu "
OFTEN = "--batch-size 16 --save-every 2 --eval-every 2 "
TEXT = NANO + OFTEN + "--seq-len 32 --steps 60 --eval-tokens 200 --data folder:{folder}/text "
TASKS = "--data tasks,form=chat,only=counting,n=300 "
BASE = NANO + TASKS + "--seq-len 64 --steps 150 --lr 0.02 --name base"  # right one time in four
CHAT = TASKS + OFTEN + ("--init {folder}/base --seq-len 64 --steps 40 --warmup 2 --lr 0.003 "
                        "--device cpu ")
SETTINGS = {"pretraining": [TEXT + "--sampling random --optimizer adamw",
                            TEXT + "--sampling stream --optimizer muon",
                            TEXT + "--sampling bestfit --optimizer adamw --schedule cosine"],
            "sft": [CHAT + "--eval-tokens 500"],
            "rl": [CHAT + "--eval-tokens 500 --group 4 --answer-tokens 8"]}
MAINS = {"pretraining": train.main, "sft": sft.main, "rl": rl.main}
SIGNALS = {"SIGKILL": 8, "SIGTERM": 1, "SIGINT": 1}  # and how often, of 10


def command_line(folder, setting, runs_dir):
    """Of a run over several epochs of a few data, saved and evaluated at every second step: of a
    new one, or, where one was begun, of that. Its data it makes itself.
    """
    return [*setting.format(folder=folder).split(), "--data-dir", str(runs_dir / "data"),
            "--runs-dir", str(runs_dir), *(["--resume"] if run_in(runs_dir) else [])]


def write_text(folder, rng):
    folder.mkdir()
    for i in range(8):
        lines = (f"line {j} of {i}: {'spam ' * rng.randrange(5)}eggs\n" for j in range(100))
        (folder / f"{i}.txt").write_text("".join(lines), encoding="utf-8")


def start(arguments, log, main=train.main):
    """A process that does what `main` does with these arguments, as from the command line, and
    writes its output to the file `log`.
    """
    def work():
        for name in ("SIGINT", "SIGTERM"):  # which a shell's background jobs may ignore
            signal.signal(getattr(signal, name), signal.SIG_DFL if name == "SIGTERM" else
                          signal.default_int_handler)
        with open(log, "w", encoding="utf-8") as file:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(file.fileno(), stream.fileno())
        run(lambda: main(arguments))
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def wait(process, seconds, test=lambda: False):
    """Until so long has passed, test() is true, or the process has ended. Returns whether it has
    not.
    """
    end = time.monotonic() + seconds
    while process.is_alive() and time.monotonic() < end and not test():
        time.sleep(0.0005)
    return process.is_alive()


def wait_for_the_moment(process, rng, runs_dir, seconds):
    """Until a random moment of a run that takes so many seconds, or, three times in four, one
    within the first save after it. Returns whether the process is alive.
    """
    aimed = rng.random() < 0.75
    alive = wait(process, rng.uniform(0, seconds / 3 if aimed else seconds))
    if aimed:
        wait(process, 60, lambda: any(runs_dir.glob("*/.checkpoint.*.tmp")))
        alive = wait(process, rng.expovariate(200))  # a save takes about a hundredth of a second
    return alive


def run_in(runs_dir):
    """The folder of the only run there that was begun, or None: it may have been ended before."""
    return next((path.parent for path in runs_dir.glob("*/config.json")), None)


def weights(checkpoint):
    return {path.name: torch.from_numpy(np.load(path))
            for path in (checkpoint / "weights").iterdir()}


def outcome(folder):
    """All that a finished run has come to, as text and tensors, but for how long it took."""
    found = {"metrics": [row | {"seconds": 0} for row in read_metrics(folder / "metrics.jsonl")
                         if "environment" not in row]}  # there is one for each start
    for which, path in (("newest", newest_checkpoint(folder)), ("best", best_checkpoint(folder))):
        found[which] = {"step": step_of(path), "val": val_of(path),
                        "weights": weights(path),
                        "state": load_state(path) | {"seconds": 0}}
    return found


def same(a, b):
    """Whether two trees of dicts and lists are equal, their tensors bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def finish(process, log):
    """Wait for a process that nobody interrupts. ValueError if it does not end well."""
    process.join()
    if process.exitcode:
        raise ValueError(f"a run ended with {process.exitcode}: {read_text(log)[-500:]}")


def interrupt(process, rng, runs_dir, seconds, log, counts):
    """Signal the process at a random moment, and look at what it leaves. Returns False if it ended
    by itself before.
    """
    folder = run_in(runs_dir)
    before = newest_checkpoint(folder) if folder else None
    if not wait_for_the_moment(process, rng, runs_dir, seconds):
        return False
    name = rng.choices(list(SIGNALS), SIGNALS.values())[0]
    os.kill(process.pid, getattr(signal, name))
    process.join()
    counts[name] += 1
    # 0: it had come to its end. 130, 143: it was asked to stop, and has saved if it had begun.
    if process.exitcode not in (0, *{"SIGKILL": [-9], "SIGTERM": [-15, 143],
                                     "SIGINT": [130]}[name]):
        raise ValueError(f"{name} made it end with {process.exitcode}: {read_text(log)[-500:]}")
    if folder := run_in(runs_dir):
        counts["while saving"] += any(folder.glob(".checkpoint.*.tmp"))
        counts["while deleting"] += any(folder.glob(".step-*.tmp"))
        for checkpoint in all_checkpoints(folder):
            counts["damaged"] += bool(damage(checkpoint))
            load_state(checkpoint)
        after = newest_checkpoint(folder)
        counts["lost"] += before is not None and (not after or step_of(after) < step_of(before))
    return True


def bench_kills(kills, rng, folder, kind="pretraining"):
    """Prints a row, and returns how much is not as it should be. kind: one of SETTINGS."""
    counts, finished, n, log = collections.Counter(), 0, 0, folder / "log"
    settings, main = SETTINGS[kind], MAINS[kind]
    with Progress() as progress:
        while (n := sum(counts[name] for name in SIGNALS)) < kills:
            setting, runs_dir = settings[finished % len(settings)], folder / f"{kind}-{finished}"
            whole = folder / f"whole-{kind}-{settings.index(setting)}"
            if not whole.exists():
                began = time.monotonic()
                finish(start(command_line(folder, setting, whole), log, main), log)
                seconds = time.monotonic() - began
            process = start(command_line(folder, setting, runs_dir), log, main)
            while n < kills and interrupt(process, rng, runs_dir, seconds, log, counts):
                n += 1
                progress.show(f"{kind}: ended {n} of {kills} times")
                process = start(command_line(folder, setting, runs_dir), log, main)
            finish(process, log)
            finished += 1
            counts["different"] += not same(outcome(run_in(runs_dir)), outcome(run_in(whole)))
    rows = {"ended": n, "while a checkpoint was written": counts["while saving"],
            "while one was deleted": counts["while deleting"], "damaged": counts["damaged"],
            "lost": counts["lost"], "runs finished": finished,
            "with another result": counts["different"]}
    print_table(f"{kind}: " + ", ".join(f"{counts[name]} {name}" for name in SIGNALS), [rows])
    return counts["damaged"] + counts["lost"] + counts["different"]


def print_table(title, rows):
    """rows: dicts with the same keys."""
    print(f"\n{title}\n")
    for row in (rows[0], ["---"] * len(rows[0]), *(map(str, row.values()) for row in rows)):
        print(f"| {' | '.join(row)} |")


# ---- flips ----
def read_all(folder):
    """All that a reader of a run gets to see of its newest checkpoint, and which is the best."""
    model, _, _, step = load_run(folder)
    return {"weights": dict(model.state_dict()), "state": load_state(newest_checkpoint(folder)),
            "step": step, "best": step_of(best_checkpoint(folder) or newest_checkpoint(folder)),
            "vals": [val_of(path) for path in all_checkpoints(folder)]}


def bench_flips(flips, rng, folder):
    """Every file of a checkpoint is chosen as often, and of its bits any. A flip may be refused, in
    a line that names the checkpoint before; or only the value of an evaluation is forgotten; or it
    changes nothing of what is read. All else is accepted, and bad.
    """
    log, runs_dir, counts = folder / "log", folder / "flips", collections.Counter()
    line = command_line(folder, SETTINGS["pretraining"][0], runs_dir)
    finish(start([*line, "--steps", "6"], log), log)
    run_folder = run_in(runs_dir)
    newest, before = newest_checkpoint(run_folder), read_all(run_folder)
    names = sorted(path for path in newest.rglob("*") if path.is_file())
    with Progress() as progress:
        for n in range(flips):
            path, kind = names[n % len(names)], "accepted"
            whole = path.read_bytes()
            bit, flipped = rng.randrange(8 * len(whole)), bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            try:
                found = read_all(run_folder)
                if same(found, before):
                    kind = "harmless"
                elif same({k: found[k] for k in ("weights", "state", "step")},
                          {k: before[k] for k in ("weights", "state", "step")}) and all(
                              a in (b, float("inf")) for a, b in zip(found["vals"],
                                                                     before["vals"])):
                    kind = "evaluation forgotten"
            except ValueError as error:
                good = "is damaged" in str(error) and "before it, is whole" in str(error)
                kind = "refused, the one before named" if good else "accepted"
            except Exception as error:
                kind = f"traceback ({type(error).__name__})"
            counts[kind] += 1
            path.write_bytes(whole)
            progress.show(lambda: f"flipped {n + 1} of {flips} bits")
    kinds = ("refused, the one before named", "evaluation forgotten", "harmless", "accepted")
    others = {kind: counts[kind] for kind in counts if kind not in kinds}
    print_table(f"flips, over {len(names)} files",
                [{kind: counts[kind] for kind in kinds} | others])
    return counts["accepted"] + sum(others.values())


# ---- races ----
def ends(processes, logs, others=()):
    """The exit codes of processes, and how many ended badly: neither 0 nor, with one line that is
    one of the `others`, 2.
    """
    bad, codes = 0, []
    for process, log in zip(processes, logs):
        process.join()
        codes.append(process.exitcode)
        text = log.read_text(errors="replace", encoding="utf-8")
        *_, last = text.strip().splitlines() or [""]
        fine = process.exitcode == 0 or (process.exitcode == 2 and last.startswith("error: ")
                                         and any(words in last for words in others))
        if not fine or "Traceback" in text:
            bad += 1
            print(f"ended with {process.exitcode}: {text[-600:]}")
    return codes, bad


def race(kind, i, rng, folder, whole):
    """One race in a folder of its own. Returns (exit codes, how much of it is bad)."""
    place = folder / f"{kind.replace(' ', '-')}-{i}"
    place.mkdir()
    logs = [place / "log-0", place / "log-1"]
    runs_dir, setting = place / "runs", SETTINGS["pretraining"][0]
    line = command_line(folder, setting, runs_dir)
    short = [*line, "--steps", "6"]

    def both(*arguments, main=train.main):
        first = start(arguments[0], logs[0], main)
        time.sleep(rng.uniform(0, 0.3) * rng.randrange(2))
        return [first, start(arguments[1], logs[1], main)]
    if kind == "new and new":
        codes, bad = ends(both(short, short), logs)
        runs = sorted(path.parent for path in runs_dir.glob("*/config.json"))
        bad += len(runs) != 2 or not same(*map(outcome, runs))
    elif kind == "resume and resume":
        finish(start(short, place / "log"), place / "log")
        longer = [*line, "--resume"]
        codes, bad = ends(both(longer, longer), logs, others=["is being trained by"])
        bad += not same(outcome(run_in(runs_dir)), outcome(run_in(whole)))
    elif kind == "prepare and prepare":
        arguments = [f"folder:{folder / 'text'}", "--vocab-size", "300", "--data-dir",
                     str(runs_dir / "data"), *(["--workers", "2"] * (i % 2))]
        codes, bad = ends(both(arguments, arguments, main=data.main), logs)
        bad += len(list((runs_dir / "data").glob("*/index.json"))) != 1
    else:
        finish(start(short, place / "log"), place / "log")
        training = start([*line, "--resume", "--keep", "1"], logs[0])
        codes, bad = [], 0
        while training.is_alive():
            which = ("newest", "best")[len(codes) % 2]
            one = start(["--runs-dir", str(runs_dir), "--by-hand", "--checkpoint", which], logs[1],
                        evals.main)
            more, worse = ends([one], logs[1:])
            codes, bad = codes + more, bad + worse
        code, worse = ends([training], logs[:1])
        codes, bad = codes + code, bad + worse
    if kind != "prepare and prepare":
        for found in runs_dir.glob("*/config.json"):
            run_data(found.parent)
            bad += sum(bool(damage(path)) for path in all_checkpoints(found.parent))
    return codes, bad


RACES = ("new and new", "resume and resume", "prepare and prepare", "train and evaluate")


def bench_races(races, rng, folder):
    log, rows, whole = folder / "log", [], folder / "whole-races"
    line = command_line(folder, SETTINGS["pretraining"][0], whole)
    # As those that "resume and resume" disturbs.
    for arguments in ([*line, "--steps", "6"], [*line, "--resume"]):
        finish(start(arguments, log), log)
    with Progress() as progress:
        for kind in RACES:
            codes, bad = [], 0
            for i in range(races):
                more, worse = race(kind, i, rng, folder, whole)
                codes, bad = codes + more, bad + worse
                progress.show(lambda: f"{kind}: {i + 1} of {races}")
            rows.append({"race": kind, "times": races, "processes": len(codes),
                         "turned away": codes.count(2), "bad": bad})
    print_table("races", rows)
    return sum(row["bad"] for row in rows)


def bench_crash(kills, flips, races, seed, of=("pretraining",)):
    torch.set_num_threads(1)  # a fork does not get its parent's threads
    print(f"seed {seed}")
    with tempfile.TemporaryDirectory() as folder:
        folder, bad = Path(folder), 0
        write_text(folder / "text", random.Random(seed))
        if {*of} - {"pretraining"}:  # which go on from a model
            log = folder / "log"
            finish(start([*BASE.split(), "--data-dir", str(folder / "data"), "--runs-dir",
                          str(folder)], log), log)
        for kind in of if kills else ():
            bad += bench_kills(kills, random.Random(seed), folder, kind)
        for n, bench in ((flips, bench_flips), (races, bench_races)):
            if n:
                bad += bench(n, random.Random(seed), folder)
    if bad:
        raise ValueError(f"{bad} checkpoints, runs or processes are not what they should be")
