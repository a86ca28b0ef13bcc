"""How near each main job is to its peers, and to what the machine can do at most: one table.

In every row ours and the peer take turns, with all cores, and medians are compared. What training
can do at most is what a large matrix product reaches; what decoding can, to read all weights at the
memory's speed as float32. bench.py calls it.
"""

import contextlib
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import ROOT, choose_device

import bench
import bench_model
from bench_train import race_larger
from budget import flops_per_token
from fast import FastTokenizer
from family import MODELS, model_config
from gpt import KVCache, generate
from machine import matmul_peak
from presets import ALL as PRESETS
from runs import load_run

HELP = ("01_tokenizer/bpe.py", "02_data/data.py", "04_train/train.py", "05_sample/sample.py",
        "06_eval/evals.py")


class NotHere(dict):
    """Of a peer that isn't installed nothing is known."""

    def __missing__(self, key):
        return math.nan


def median_ratio(ours, theirs):
    """Of times in turns: how many times sooner ours was."""
    return statistics.median(b / a for a, b in zip(ours, theirs))


# ---- the tokenizer ----
def encoding(go, text, runs):
    """Rows of encoding texts that the tokenizer, of 32,768 ids, wasn't trained on."""
    for name, files, other, limit in (("Go", go, text, 26e6), ("English", text, go, 10e6)):
        if not files or not other:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/tokenizer.json"
            parts = [bench.documents(files, 2 * limit), bench.documents(other, limit)]
            unseen = {*bench.documents(files, limit)}
            FastTokenizer.train([t for part in parts for t in part if t not in unseen], 32768,
                                "gpt4", ()).save(path)
            n = sum(len(t.encode()) for t in unseen) / 1e6
            found = bench.race({name: bench.ENCODERS[name] for name in ("ours", "tiktoken")}, runs,
                               kind="encode", text=files, limit=limit, tokenizer=path)
        rates = NotHere({label: n / seconds for label, (seconds, *_) in found.items()})
        for how, ours, peer, aim in (
                ("cold, 2 workers", "ours, 2 workers, cold", "tiktoken, 2 threads",
                 0.8 if name == "Go" else 0.6),
                ("warm, 1 process", "ours, 1 process, warm", "tiktoken, 1 thread", 1.0)):
            yield (f"encode {n:.0f} MB of {name}, {how}", f"{rates[ours]:.1f} MB/s",
                   f"{peer}, {rates[peer]:.1f}", rates[ours] / rates[peer], aim, "")


def tokenizer_training(go, text, runs):
    for size in (8192, 32768) if text else ():
        n = sum(len(t.encode()) for t in bench.documents(text, 10e6)) / 1e6
        found = bench.race({name: bench.TRAINERS[name] for name in ("ours, 2 workers", "rustbpe")},
                           runs, kind="train", text=text, limit=10e6, size=size)
        ours, theirs = (n / found.get(name, [math.nan])[0] for name in ("ours, 2 workers",
                                                                        "rustbpe"))
        yield (f"train a tokenizer of {size:,} ids on {n:.0f} MB", f"{ours:.1f} MB/s",
               f"rustbpe, {theirs:.1f}", ours / theirs, 1.0, "")


# ---- training ----
@contextlib.contextmanager
def busy():
    """A machine whose cores are all in use by other programs."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"])
              for _ in range(os.cpu_count())]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def peak():
    choose_device("cpu")
    return max(matmul_peak() for _ in range(3))


def steps(go, text, runs):
    """A step of GPT-2's shape beside transformers', and of classic's beside nanoGPT's."""
    times, _ = bench_model.step_seconds(bench_model.TRAINERS, runs, compiled=True)
    flops = 8 * 256 * flops_per_token(model_config(**bench_model.SHAPE))
    for c, aim in ((False, 1.25), (True, 1.1)):
        ours, theirs = times["ours", c], times.get(("transformers", c), [math.nan] * runs)
        yield (f"a step of 6 x 384, 8 x 256 tokens{', compiled' if c else ''}",
               f"{1000 * statistics.median(ours):.0f} ms",
               f"transformers, {1000 * statistics.median(theirs):.0f}", median_ratio(ours, theirs),
               aim, f"{flops / statistics.median(ours) / peak():.0%} of products'")
    for where, n, how in (("", 60, contextlib.nullcontext), (", all cores busy", 9, busy)):
        with how():
            times, _ = bench_model.step_seconds(bench_model.NANO, runs, batch=12, steps=n,
                                                shape=PRESETS["classic"])
        ours, theirs = times["classic", False], times.get(("nanoGPT", False), [math.nan] * runs)
        yield (f"a step of 4 x 128, 12 x 64 characters{where}",
               f"{1000 * statistics.median(ours):.1f} ms",
               f"nanoGPT, {1000 * statistics.median(theirs):.1f}", median_ratio(ours, theirs), 1.2,
               "")


def train_tiny(folder, *options):
    """(what train.py says, the numbers of bits per byte of the model, and of lzma, in it)."""
    command = [sys.executable, ROOT / "04_train/train.py", "--preset", "tiny", *options]
    said = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True).stdout  # rates are on stderr
    return said, *(float(re.findall(rf"{name} +(\S+)", said)[-1])
                   for name in ("this model", "lzma -9"))


def tiny(go, text, runs):
    """The README's second command, as a whole."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        said, bits, lzma = train_tiny(folder)
        seconds = time.perf_counter() - start
    flops = float(re.search(r"(\S+) FLOP in all", said)[1])
    rate = float(re.findall(r"([\d,]+) tokens/s", said)[-1].replace(",", ""))
    tokens = float(re.search(r"tokens: ([\d,]+) tokens", said)[1].replace(",", ""))
    yield (f"--preset tiny, bits per byte after {seconds:.0f} s", f"{bits:.3f}",
           f"lzma, {lzma:.3f}", lzma / bits, 1.0, f"{flops * rate / tokens / peak():.0%} of "
           "products'")


def heads(go, text, runs):
    """What it costs that all query heads share one key/value head, and what it saves."""
    found = {}
    for G in (3, 1):
        bits, rates = [], []
        for seed in range(runs):
            with tempfile.TemporaryDirectory() as folder:
                bits.append(train_tiny(folder, "--n-kv-head", str(G), "--seed", str(seed))[1])
                model = load_run(Path(folder) / "runs/tiny")[0]
            rates.append(bench_model.rate(generate(model, [[0] * 16] * 8, 100), 8))
        cache = KVCache(model.config, 1)
        found[G] = statistics.mean(bits), statistics.median(rates)
        yield (f"tiny with key/value heads: {G}", f"{found[G][0]:.3f} bits per byte",
               f"with 3 of them, {found[3][0]:.3f}", found[3][0] / found[G][0], 0,
               f"{2 * cache.keys.nbytes / 1000:.0f} kB of cache a text, {found[G][1]:,.0f} tokens/s"
               " of 8 texts")


def larger(go, text, runs):
    """How soon nanoGPT's loss is reached at a larger shape, by what transformers can load."""
    kind, races = "jsonl" if text and Path(text[0]).is_file() else "folder", []
    for seed in range(runs if text else 0):
        with tempfile.TemporaryDirectory() as folder:
            races.append(race_larger(f"{kind}:{text[0]}", Path(folder), 150, seed))
    if not races:
        return
    times, _ = bench_model.step_seconds({"nanoGPT": bench_model.NANO["nanoGPT"]}, runs)
    peers = {"nanoGPT's recipe in this trainer": [one["classic"]["seconds"] for one in races]}
    if times:
        peers["150 steps of its own code"] = [150 * s for s in times["nanoGPT", False]]
    for name, how in (("muon", ""), ("bigrams", ", bigrams counted")):
        ours = [one[name]["seconds"] for one in races]
        for peer, theirs in peers.items():
            yield (f"nanoGPT's loss after 150 steps of 6 x 384{how}",
                   f"{statistics.median(ours):.0f} s", f"{peer}, {statistics.median(theirs):.0f} s",
                   statistics.median(theirs) / statistics.median(ours), 4.0, "")


# ---- the rest ----
def decoding(go, text, runs):
    config = model_config(**MODELS["gpt2"])
    for rows in (1, 8):
        rates, limits = bench_model.decoding_rates(config, rows, runs, 40)
        for kind in ("int8", "int4"):
            ours, theirs = rates[f"ours, {kind}"], rates.get("transformers", [math.nan] * runs)
            share = statistics.median(a / b for a, b in zip(ours, limits))
            yield (f"decode 124M, {rows} text{'s' * (rows > 1)}, {kind}",
                   f"{statistics.median(ours):.0f} tokens/s",
                   f"transformers, float32, {statistics.median(theirs):.0f}",
                   median_ratio(theirs, ours), 3.5, f"{share:.1f} times float32 at memory's speed")


def first_output(command, folder):
    """Seconds until a command prints anything to its standard output."""
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as process:
        process.stdout.read(1)
        seconds = time.perf_counter() - start
        process.stdout.read()
    if process.returncode:
        raise ValueError(f"{command} ends with {process.returncode}")
    return seconds


def starting(go, text, runs):
    """How long commands take to say anything; aims are seconds."""
    for name in HELP:
        found = [first_output([sys.executable, ROOT / name, "--help"], ROOT) for _ in range(runs)]
        aim = 0.3 if name in HELP[:2] else 3.0
        yield (f"{Path(name).name} --help", f"{statistics.median(found):.2f} s", "", aim /
               statistics.median(found), 1.0, "")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, ROOT / "04_train/train.py", "--preset", "nano", "--steps",
                        "2", "--data", f"folder:{ROOT / '01_tokenizer'}"], cwd=folder, check=True,
                       capture_output=True)
        found = [first_output([sys.executable, ROOT / "05_sample/sample.py", "--run", "nano"],
                              folder) for _ in range(runs)]
    yield ("the first token of sample.py", f"{statistics.median(found):.2f} s", "",
           3.0 / statistics.median(found), 1.0, "")


JOBS = {"encoding": encoding, "tokenizer": tokenizer_training, "steps": steps, "tiny": tiny,
        "heads": heads, "larger": larger, "decoding": decoding, "starting": starting}


def bench_light(go, text, runs, only):
    print("| job | here | beside | times | aim | of what the machine can |\n|---|---|---|---|---|"
          "---|")
    for name in only or JOBS:
        for job, ours, peer, ratio, aim, limit in JOBS[name](go, text, runs):
            print(f"| {job} | {ours} | {peer} | {ratio:.2f} | {f'{aim:g}' * (aim > 0)} | {limit} |",
                  flush=True)
