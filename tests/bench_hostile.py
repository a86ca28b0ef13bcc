"""Damaged and hostile files, thousands of them: is each refused in one line, or read right?
bench.py calls it.

A try takes a good example of one kind of file (hostile_files.py), makes one change to it
(mutations.py), and reads it as the commands do, in a process of its own that is forked from one
that has loaded everything. Try N of a seed is always the same: --seed S --only N repeats it.

Wrong are: a traceback; an error that takes several lines, holds what a terminal would obey, or goes
on for ever; death by a signal; more than 5 seconds of work (or 20 of waiting: machines are busy);
more than a gigabyte, of memory or written; and what was accepted though it had to be noticed.
What has to be noticed, that is, refused or read as if nothing had happened:
- any change to a file of which a checksum is written down: in its folder (checkpoints, prepared
  and cleaned data), in the file itself (our tokenizers) or in a listing of the Hub. In half of the
  tries the checksum is then made to fit, so that the reader behind it has its turn;
- any change to checksums.json itself, to .gz, .zst and .zip, which hold checksums, and to the
  header of .safetensors. Left out: what a .zip's directory no longer lists;
- a missing end of a .parquet, .npy, .pt or .safetensors file, or of what a server said would come;
- a line of a .jsonl source that is no JSON, as after a cut within it.
Anything else may be read as what it says now. A validation result may be forgotten. A file may also
be missing, or a folder, a pipe or a broken link be in its place. Needs Linux.
"""

import collections
import dataclasses
import faulthandler
import fnmatch
import gc
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Callable

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import ROOT, escaped, run

import numpy as np
import torch

import hostile_files as files
from housekeeping import Progress
from mutations import UNPACK, brief, change, is_covered, seal

SECONDS, WAIT = 5, 20  # of work, and of the clock
MEMORY, WRITTEN = 1 << 30, 100 << 20  # bytes


@dataclasses.dataclass(frozen=True)
class Kind:
    name: str
    make: Callable  # (folder): an example, in a new folder
    read: Callable  # (folder) -> {name: what was read}
    files: str  # globs: which of the example's files are changed


KINDS = (
    *(Kind(f"tokenizer, {name}", files.make_tokenizers, files.read_tokenizer(what.split()[0]), what)
      for name, what in (
          ("ours", "tokenizer.json"), ("ours, other ids", "mapped.json"),
          ("Hugging Face's", "huggingface.json"), ("ranks", "r50k_base.tiktoken"),
          ("GPT-2's", "encoder.json vocab.bpe"))),
    *(Kind(name, files.make_sources, files.read_source(source), what) for name, source, what in (
        ("texts .jsonl", "jsonl:x.jsonl", "x.jsonl"),
        ("texts .jsonl.gz", "jsonl:x.jsonl.gz", "x.jsonl.gz"),
        ("texts .jsonl.zst", "jsonl:x.jsonl.zst", "x.jsonl.zst"),
        ("conversations .jsonl", "jsonl:chats.jsonl", "chats.jsonl"),
        ("rows .parquet", "parquet:x.parquet", "x.parquet"),
        ("folder of texts", "folder:texts", "texts/*"))),
    Kind("tasks .zip", files.make_sources, files.read_zip, "core.zip"),
    Kind("texts to batches", files.make_sources, files.read_batches, "x.jsonl"),
    Kind("prepared data", files.make_data, files.read_data, "data/*"),
    Kind("cleaned data", files.make_data, files.read_cleaned, "cleaned/*.json* cleaned/*.txt"),
    Kind("run, config", files.make_run, files.read_run, "run/config.json"),
    Kind("run, tokenizer", files.make_run, files.read_run, "run/tokenizer.json"),
    Kind("run, weights", files.make_run, files.read_run, "run/*4/weights/*"),
    Kind("run, state", files.make_run, files.read_state, "run/*4/*.json run/*4/*.pt"),
    Kind("run, evaluated", files.make_run, files.read_evals, "run/* data/*"),
    Kind("run, its report", files.make_run, files.read_report, "run/metrics.jsonl run/config.json"),
    Kind("weights, config", files.make_weights, files.read_weights("whole"), "whole/config.json"),
    Kind("weights, settings", files.make_weights, files.read_weights("whole"), "whole/*_*.json"),
    Kind("weights, tokenizer", files.make_weights, files.read_weights("whole"), "whole/*r.json"),
    Kind("weights, tensors", files.make_weights, files.read_weights("whole"), "whole/model*"),
    Kind("weights, shards", files.make_weights, files.read_weights("shards"), "shards/model*"),
    Kind("Hub, listings", files.make_answers, files.read_hub,
         "revision.http first.http second.http"),
    Kind("Hub, files", files.make_answers, files.read_hub, "redirect.http body.http small.http"),
    Kind("Hub, kept listing", files.make_answers, files.read_listing, "listing.json"),
    Kind("download, its rest", files.make_answers, files.read_rest, "part.http body.http x.part*"),
)


# ---- what was read, and what has to be noticed ----
def fingerprint(value):
    """A hash of a tree of plain values, arrays and tensors."""
    sha256 = hashlib.sha256()

    def add(value):
        if dataclasses.is_dataclass(value):
            value = vars(value)
        if isinstance(value, dict):
            value = [item for pair in value.items() for item in pair]
        if isinstance(value, torch.Tensor):
            add((str(value.dtype), tuple(value.shape)))
            value = value.detach().reshape(-1).contiguous().view(torch.uint8).numpy()
        if isinstance(value, np.ndarray):
            add((value.dtype.str, value.shape))
            sha256.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, (list, tuple)):
            sha256.update(b"[")
            for each in value:
                add(each)
            sha256.update(b"]")
        else:
            sha256.update(ascii(value).encode() + b",")
    add(value)
    return sha256.hexdigest()


def no_json(name, data):
    """Whether a line of a .jsonl file, perhaps packed, is no JSON."""
    for line in UNPACK.get(Path(name).suffix, bytes)(data).split(b"\n"):
        try:
            line.strip() and json.loads(line.decode().removeprefix("\ufeff"))
        except (ValueError, RecursionError):
            return True
    return False


def must_be_noticed(name, old, made, covered, sealed):
    """By the rules at the top. made: the Change."""
    suffix = Path(name).suffix
    if covered and not sealed or name.endswith("checksums.json"):
        return True
    if suffix == ".safetensors":
        return made.cut or made.inside or made.at < 8 + struct.unpack("<Q", old[:8])[0]
    if suffix in (".gz", ".zst", ".zip") and not made.inside:
        return True
    if ".jsonl" in name:
        return "metrics" not in name and no_json(name, made.data)
    return made.cut and suffix in (".parquet", ".npy", ".pt", ".http")


# ---- a try ----
OTHERS = {"missing": lambda path: None, "a folder": Path.mkdir, "a pipe": os.mkfifo,
          "a link to nothing": lambda path: path.symlink_to("nothing"),
          "a link to itself": lambda path: path.symlink_to(path.name)}


def mutate(folder, globs, rng):
    """Change one file of an example. Returns (in words what was done, whether it must be noticed).
    """
    there = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    name = rng.choice(sorted(name for name in there
                             if any(fnmatch.fnmatch(name, glob) for glob in globs.split())))
    old = (folder / name).read_bytes()
    covered = is_covered(folder, name, old)
    if rng.random() < 0.03 and not name.endswith(".http"):
        (folder / name).unlink()
        way = rng.choice(tuple(OTHERS))
        OTHERS[way](folder / name)
        return f"{name} is {way}", covered
    made = change(rng, name, old)
    (folder / name).write_bytes(made.data)
    sealed = covered and rng.random() < 0.5 and seal(folder, name, old, made.data)
    words = f"{name}: {made.words}" + ", checksum made to fit" * sealed
    return words, must_be_noticed(name, old, made, covered, sealed)


def verdict(work, out, err):
    """("read", fingerprints), ("refused", the line) or ("wrong", why): what becomes of work() when
    it is run as a command is. out, err: the files to which its output goes.
    """
    found, code = {}, None
    try:
        run(lambda: found.update(work()))
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        traceback.print_exc()
        frames = traceback.extract_tb(error.__traceback__)
        ours = [each for each in frames if each.filename.startswith(f"{ROOT}/0")] or frames
        return "wrong", (f"traceback in {Path(ours[-1].filename).name}:{ours[-1].lineno}, "
                         f"{type(error).__name__}: {brief(str(error), 150)}")
    sys.stdout.flush()
    sys.stderr.flush()
    said, errors = (path.read_text(errors="replace") for path in (out, err))
    if bad := next((c for c in said + errors if not (c.isprintable() or c in "\n\t")), None):
        return "wrong", f"it prints {bad!r}: {brief((errors or said)[-500:], 200)}"
    if code is None:
        return "read", {str(name): fingerprint(value) for name, value in found.items()}
    _, mark, line = ("\n" + errors).rstrip("\n").rpartition("\nerror: ")
    if not mark or code != 2:
        return "wrong", f"exit code {code} after {brief(errors, 100)}"
    if "\n" in line or len(line) > 2000 or "weights_only" in line:
        return "wrong", f"no line for a user: {brief(line, 200)}"
    if "out of memory" in line or "File too large" in line:
        return "wrong", f"it takes more than such a file may: {brief(line, 200)}"
    return "refused", line


class Try:
    """A process that changes and reads a copy of a kind's example, in `place`; beside that it
    leaves what it did and what came of it. rng: None to change nothing.
    """

    def __init__(self, kind, example, place, rng):
        self.place, self.began = place, time.monotonic()
        self.process = os.fork()
        if not self.process:
            try:
                before = self.limit()
                shutil.copytree(example, place)
                what = mutate(place, kind.files, rng) if rng else ("nothing", True)
                self.beside("what").write_text(json.dumps([*what, before]))
                os.chdir(place)
                result = verdict(lambda: kind.read(place), self.beside("out"), self.beside("err"))
                self.beside("result").write_text(json.dumps(result))
            finally:
                sys.stderr.flush()
                os._exit(0)

    def beside(self, what):
        return self.place.with_suffix(f".{what}")

    def limit(self):
        """How long this process may work, what it may take, and where its output goes. Returns the
        bytes of memory that it has already.
        """
        now, resident, *_ = (int(n) * resource.getpagesize()
                             for n in Path("/proc/self/statm").read_text().split())
        for what, most in ((resource.RLIMIT_CPU, SECONDS), (resource.RLIMIT_FSIZE, WRITTEN),
                           (resource.RLIMIT_AS, now + 4 * MEMORY), (resource.RLIMIT_CORE, 0)):
            resource.setrlimit(what, (most, most + 1))
        faulthandler.register(signal.SIGXCPU, open(self.beside("where"), "w"), chain=True)
        sys.stdout = open(self.beside("out"), "w", encoding="utf-8")
        sys.stderr = open(self.beside("err"), "w", encoding="utf-8", errors="backslashreplace")
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            os.dup2(stream.fileno(), number)
        return resident

    def ended(self):
        """Whether it has ended. One that has had its time is ended."""
        if late := time.monotonic() - self.began > WAIT:
            os.kill(self.process, signal.SIGXCPU)  # as if it had used it up
        done, self.status, self.used = os.wait4(self.process, 0 if late else os.WNOHANG)
        return done

    def result(self, good):
        """(what was done, "read", "refused" or "wrong", why). good: the example's fingerprints."""
        found = self.beside("what")
        words, noticed, before = json.loads(found.read_text()) if found.exists() else ("?", True, 0)
        code = os.waitstatus_to_exitcode(self.status)
        taken = self.used.ru_maxrss * 1024 - before
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            ours = rf'File "{ROOT}/0.*/(\S+)", line (\d+)'
            at = re.search(ours, self.beside("where").read_text())
            kind, why = "wrong", f"it hangs in {at[1]}:{at[2]}" if at else "it hangs"
        elif code or not self.beside("result").exists():
            kind, why = "wrong", f"it ends with {code}"
        elif taken > MEMORY:
            kind, why = "wrong", f"it takes {taken / 1e9:.1f} GB"
        else:
            kind, why = json.loads(self.beside("result").read_text())
            if kind == "read" and good is not None:
                other = [name for name in why if good.get(name) != why[name]]
                if noticed and other:
                    kind, why = "wrong", f"accepted though changed: {brief(other)}"
        return words, kind, why

    def printed(self):
        return "".join(self.beside(what).read_text(errors="replace") for what in ("out", "err"))

    def forget(self):
        for path in self.place.parent.glob(f"{self.place.name}.*"):
            path.unlink()
        shutil.rmtree(self.place, ignore_errors=True)


# ---- all tries ----
def examples(folder, kinds):
    """Make one for each kind, read it as it is, and return {kind: its fingerprints}."""
    for make in dict.fromkeys(kind.make for kind in kinds):
        (folder / make.__name__).mkdir()
        # This process must have no threads, which libraries start when they are used.
        maker = multiprocessing.get_context("fork").Process(
            target=make, args=(folder / make.__name__,))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise ValueError(f"{make.__name__}() ended with {maker.exitcode}")
    good = {}
    for kind, _, (_, what, why), _ in done(folder, ((kind, None, None) for kind in kinds)):
        if what != "read":
            raise ValueError(f"{kind.name}: the example, unchanged, is {what}: {why}")
        good[kind] = why
    return good


def done(folder, jobs, good={}, processes=2):
    """Do jobs, (kind, number, rng), some at a time. Yield (kind, number, result(), printed())."""
    running, names, jobs = {}, itertools.count(), iter(jobs)
    try:
        while True:
            while len(running) < processes and (job := next(jobs, None)):
                kind, number, rng = job
                one = Try(kind, folder / kind.make.__name__, folder / f"{next(names)}", rng)
                running[one] = kind, number
            if not running:
                return
            for one in [one for one in running if one.ended()]:
                kind, number = running.pop(one)
                yield kind, number, one.result(good.get(kind)), one.printed()
                one.forget()
            time.sleep(0.001)
    finally:
        for one in running:
            os.kill(one.process, signal.SIGKILL)
            os.waitpid(one.process, 0)


def bench_hostile(seconds, tries, seed, only=None, kinds=KINDS):
    """Print a table of so many tries, or of what so many seconds allow (None: 60, or as many as the
    tries take), and all that was wrong. ValueError if anything was.
    """
    seconds = seconds or (None if tries else 60)
    torch.set_num_threads(1)  # a fork does not get its parent's threads
    numbers, every = range(tries) if tries else itertools.count(), kinds
    if only is not None:
        numbers, kinds = [only], [every[only % len(every)]]
    counts, wrong = collections.defaultdict(collections.Counter), []
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        good = examples(folder := Path(folder).resolve(), kinds)
        gc.freeze()  # a fork shares what is not looked at
        began = time.monotonic()
        jobs = ((every[n % len(every)], n, random.Random(f"{seed}-{n}")) for n in numbers)
        if seconds:
            jobs = itertools.takewhile(lambda job: time.monotonic() < began + seconds, jobs)
        for kind, number, (words, what, why), printed in done(folder, jobs, good):
            counts[kind][what] += 1
            if what == "wrong":
                wrong.append((kind.name, why, number, words))
            if only is not None:
                print(f"{kind.name}, try {number}: {words}\n{escaped(printed)}{what}"
                      + f": {why}" * (what != "read"))
            progress.show(lambda: f"{sum(c.total() for c in counts.values())} tries, "
                          f"{len(wrong)} wrong")
        gc.unfreeze()
        n = sum(each.total() for each in counts.values())
        rate = n / (time.monotonic() - began)
    print(f"\nseed {seed}: {n:,} tries, {rate:.1f} a second\n\n"
          f"| file | tries | refused | right | wrong |\n|---|---|---|---|---|")
    for kind in kinds:
        found = counts[kind]
        print(f"| {kind.name} | {found.total()} | {found['refused']} | {found['read']} | "
              f"{found['wrong']} |")
    for name, why, number, words in sorted(wrong):
        print(f"\n{name}: {why}\n    --seed {seed} --only {number}: {words}")
    if wrong:
        raise ValueError(f"{len(wrong)} of {n:,} tries were wrong")
