"""Commands that are stopped at random moments. bench.py calls it.

Ctrl-C, or SIGTERM, at any moment of a command, its imports included, to it alone or, as a terminal
does, to all its processes: does it end soon, with the code that tells so, without a traceback, and
are no half-written files and no processes left? Left out: the first hundredths of a second, until
Python has started and console.py has seen to Ctrl-C. What happens then is counted, and not judged.
"""

import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import ROOT

from housekeeping import Progress

CODES = {signal.SIGINT: (130, -signal.SIGINT), signal.SIGTERM: (143, -signal.SIGTERM)}
TRAIN = ("04_train/train.py --preset nano --vocab-size 300 --steps 40 --seq-len 32 --batch-size 2 "
         "--save-every 10 --device cpu --data folder:texts --data-dir DATA --runs-dir RUNS")
COMMANDS = {  # DATA and RUNS: folders that are new each time
    "bpe": "01_tokenizer/bpe.py train texts/0.txt texts/1.txt --tokenizer DATA.json --workers 2",
    "data": "02_data/data.py folder:texts --data-dir DATA --workers 2",
    "train": TRAIN,
    "sample": "05_sample/sample.py --tokens 100 --device cpu",
    "evals": "06_eval/evals.py --device cpu"}


def start(command, folder, log):
    """The process of one of COMMANDS, in a group of its own, as a terminal starts it."""
    script, *words = command.split()
    return subprocess.Popen(
        [sys.executable, ROOT / script, *words], cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
        stderr=log, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # `&` ignores it


def group_of(process):
    """Whether any process of its group is left."""
    try:
        os.killpg(process.pid, 0)
        return True
    except ProcessLookupError:
        return False


def interrupt(command, folder, log, seconds, rng):
    """Start it and signal it once. Returns what became of it, in a few words."""
    number, send = rng.choice(list(CODES)), rng.choice((os.kill, os.killpg))
    process = start(command, folder, log)
    time.sleep(rng.uniform(0, seconds))
    if process.poll() is not None:
        return "ended by itself"
    send(process.pid, number)
    code, end = process.wait(timeout=60), time.monotonic() + 5
    while group_of(process) and time.monotonic() < end:
        time.sleep(0.01)
    printed = Path(log.name).read_text("utf-8", "replace")
    halves = [path for path in folder.rglob("*.tmp") if code in (130, 143)]
    if "Traceback" in printed or "Exception ignored" in printed:
        early = "console.py" not in printed  # whose first lines see to Ctrl-C
        return "while Python starts" if early else f"traceback: {printed[-1500:]}"
    if group_of(process):
        return "a process is left"
    if halves:
        return f"half-written: {halves[0]}"
    if code == 0:
        return "ended by itself"
    return f"code {code}" if code in CODES[number] else f"wrong code {code}: {printed[-1500:]}"


def bench_stop(times, seed):
    """Prints a line for each command. ValueError if one of them ended badly."""
    rng, bad = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        folder = Path(folder)
        (folder / "texts").mkdir()
        for i in range(8):
            (folder / "texts" / f"{i}.txt").write_text("".join(
                f"line {j} of {i}: {'spam ' * rng.randrange(5)}eggs\n" for j in range(1000)))
        for name, command in {"train": TRAIN, **COMMANDS}.items():
            counts, seconds = collections.Counter(), None
            for n in range(times + 1):
                where = {"DATA": f"data-{name}-{n}", "RUNS": f"runs-{name}-{n}"}
                words = " ".join(command.split())
                for what, path in where.items():
                    words = words.replace(what, path)
                if name in ("sample", "evals"):
                    words += " --runs-dir runs-train-0"
                with open(folder / "log", "w", encoding="utf-8") as log:
                    if n == 0:
                        began = time.monotonic()
                        if start(words, folder, log).wait():
                            raise ValueError((folder / "log").read_text("utf-8"))
                        seconds = time.monotonic() - began
                    else:
                        counts[interrupt(words, folder, log, seconds, rng)] += 1
                progress.show(lambda: f"{name}: {n} of {times}")
            print(f"{name:8} {seconds:6.1f} s:", ", ".join(
                f"{n} {what}" for what, n in sorted(counts.items())), flush=True)
            bad += sum(n for what, n in counts.items() if what.partition(" ")[0] not in (
                "code", "ended", "while"))
    if bad:
        raise ValueError(f"{bad} processes did not end as they should")
