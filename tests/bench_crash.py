"""A run that is ended again and again at any moment, and resumed, beside one that nothing ends: is
a checkpoint ever damaged, is the result ever another? bench.py calls it.

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

import matplotlib.figure  # noqa: F401, this and the next: loaded here, once, not in every fork
import torch
import torch._dynamo  # noqa: F401, which every optimizer asks for

# The other files of the course: PYTHONPATH=mine wins over them, they over installed packages.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
stages = [str(p) for p in [*root.glob("0?_*"), *root.glob("0?_*/extras")]]
path = [p for p in sys.path if p not in stages]
at = path.index(os.path.dirname(os.__file__)) + 1  # behind the standard library
sys.path[:] = path[:at] + stages + path[at:]

import train
from console import Progress, run
from metrics import read_metrics
from runs import (all_checkpoints, best_checkpoint, load, newest_checkpoint, step_of, val_of,
                  whole_checkpoints)

SETTINGS = ["--sampling random --optimizer adamw", "--sampling stream --optimizer muon",
            "--sampling bestfit --optimizer adamw --schedule cosine"]
SIGNALS = {"SIGKILL": 8, "SIGTERM": 1, "SIGINT": 1}  # and how often, of 10


def command_line(folder, setting, runs_dir):
    """Of a run over several epochs of a small text, saved and evaluated at every second step. Its
    data it makes itself.
    """
    return [*"--preset nano --vocab-size 300 --steps 60 --n-layer 1 --seq-len 32 --batch-size 16 "
            "--save-every 2 --eval-every 2 --eval-tokens 200 --device cpu --resume".split(),
            *setting.split(), "--data", f"folder:{folder / 'text'}", "--data-dir",
            str(runs_dir / "data"), "--runs-dir", str(runs_dir)]


def write_text(folder, rng):
    folder.mkdir()
    for i in range(8):
        lines = (f"line {j} of {i}: {'spam ' * rng.randrange(5)}eggs\n" for j in range(100))
        (folder / f"{i}.txt").write_text("".join(lines))


def start(arguments, log):
    """A process that trains as from the command line, and writes its output to the file `log`."""
    def work():
        for name in ("SIGINT", "SIGTERM"):  # which a shell's background jobs may ignore
            signal.signal(getattr(signal, name), signal.SIG_DFL if name == "SIGTERM" else
                          signal.default_int_handler)
        with open(log, "w") as file:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(file.fileno(), stream.fileno())
        run(lambda: train.main(arguments))
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
        wait(process, 60, lambda: any(runs_dir.glob("*/checkpoints/.writing")))
        alive = wait(process, rng.expovariate(200))  # a save takes about a hundredth of a second
    return alive


def run_in(runs_dir):
    """The folder of the only run there that was begun, or None: it may have been ended before."""
    return next((path.parent for path in runs_dir.glob("*/config.json")), None)


def damage(folder):
    """What of a run can't be read, of all that should be whole: a list of complaints."""
    complaints = []
    for checkpoint in whole_checkpoints(folder):
        try:
            load(checkpoint / "model.pt", "cpu")
            state = load(checkpoint / "state.pt", "cpu")
            if state["step"] != step_of(checkpoint):
                complaints.append(f"{checkpoint} is of step {state['step']}")
            val_of(checkpoint)
        except (ValueError, KeyError, OSError) as error:
            complaints.append(str(error))
    return complaints


def outcome(folder):
    """All that a finished run has come to, as text and tensors, but for how long it took."""
    found = {"metrics": [row | {"seconds": 0} for row in read_metrics(folder / "metrics.jsonl")
                         if "environment" not in row]}  # there is one for each start
    for which, path in (("newest", newest_checkpoint(folder)), ("best", best_checkpoint(folder))):
        found[which] = {"step": step_of(path), "val": val_of(path),
                        "model": load(path / "model.pt", "cpu"),
                        "state": load(path / "state.pt", "cpu") | {"seconds": 0}}
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
        raise ValueError(f"a run ended with {process.exitcode}: {log.read_text()[-500:]}")


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
    # 0: it was asked to stop and has saved, or had come to its end.
    if process.exitcode not in (0, {"SIGKILL": -9, "SIGTERM": -15, "SIGINT": 130}[name]):
        raise ValueError(f"{name} made it end with {process.exitcode}: {log.read_text()[-500:]}")
    if folder := run_in(runs_dir):
        counts["while saving"] += (folder / "checkpoints" / ".writing").exists()
        counts["while deleting"] += all_checkpoints(folder) != whole_checkpoints(folder)
        counts["damaged"] += len(damage(folder))
        after = newest_checkpoint(folder)
        counts["lost"] += before is not None and (not after or step_of(after) < step_of(before))
    return True


def bench_crash(kills, seed):
    torch.set_num_threads(1)  # a fork does not get its parent's threads
    rng, counts, finished = random.Random(seed), collections.Counter(), 0
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        folder = Path(folder)
        log = folder / "log"
        write_text(folder / "text", rng)
        while (n := sum(counts[name] for name in SIGNALS)) < kills:
            setting, runs_dir = SETTINGS[finished % len(SETTINGS)], folder / f"{finished}"
            whole = folder / f"whole-{SETTINGS.index(setting)}"
            if not whole.exists():
                began = time.monotonic()
                finish(start(command_line(folder, setting, whole), log), log)
                seconds = time.monotonic() - began
            process = start(command_line(folder, setting, runs_dir), log)
            while n < kills and interrupt(process, rng, runs_dir, seconds, log, counts):
                n += 1
                progress.show(f"ended {n} of {kills} times")
                process = start(command_line(folder, setting, runs_dir), log)
            finish(process, log)
            finished += 1
            counts["different"] += not same(outcome(run_in(runs_dir)), outcome(run_in(whole)))
    rows = {"ended": n, "while a checkpoint was written": counts["while saving"],
            "while one was deleted": counts["while deleting"], "damaged": counts["damaged"],
            "lost": counts["lost"], "runs finished": finished,
            "with another result": counts["different"]}
    print(f"\nseed {seed}: {', '.join(f'{counts[name]} {name}' for name in SIGNALS)}\n")
    for row in (rows, ["---"] * len(rows), map(str, rows.values())):
        print(f"| {' | '.join(row)} |")
    if bad := counts["damaged"] + counts["lost"] + counts["different"]:
        raise ValueError(f"{bad} checkpoints or runs are not what they should be")
