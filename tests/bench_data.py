"""What data costs: batches beside a training step, bookkeeping beside the tokenizer, MinHash beside
datasketch. bench.py calls it.
"""

import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from importlib.util import find_spec
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from corpus import content, find_source
from duplicates import NearDuplicates, jaccard, shingles
from mixtures import prepare_any, train_tokenizer
from writing import write_folder


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ---- batches: beside the step that they are for ----
def bench_batches(source, data_dir, runs):
    from batches import SAMPLERS, Batches
    from gpt import GPT
    from machine import keep_freed_memory
    from optim import make_optimizer
    from train import PRESETS, Config, train_step

    config = Config(**PRESETS["tiny"], data=(source,))
    data = prepare_any(config.data, config.vocab_size, data_dir, workers=2)
    keep_freed_memory()
    model = GPT(config.gpt(data.tokenizer.vocab_size), config.seed)
    optimizer = make_optimizer(model, config)
    loaders = {name: Batches(data, config.batch_size, config.seq_len, 0, name) for name in SAMPLERS}
    costs = {name: [] for name in ("step", *loaders)}
    for step in range(10 * runs):
        for name, loader in loaders.items():
            start = time.perf_counter()
            batch = next(loader)
            costs[name].append(time.perf_counter() - start)
        costs["step"].append(seconds(
            lambda: train_step(model, optimizer, batch, step, config)))
    step = statistics.median(costs.pop("step"))
    print(f"\na batch of the tiny preset, {config.batch_size} x {config.seq_len}, beside its step "
          f"of {1000 * step:.1f} ms, medians of {10 * runs}\n\n| | ms | of a step |\n|---|---|---|")
    for name, times in costs.items():
        print(f"| {name} | {1000 * statistics.median(times):.3f} | "
              f"{statistics.median(times) / step:.2%} |")


# ---- prepared data: beside the tokenizer alone ----
def bench_writing(source, vocab_size, runs):
    """Encoding is timed from texts in memory; writing a folder from the source, everything in."""
    source = find_source(source)
    texts = [content(record) for record in source.records()]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = train_tokenizer([source], vocab_size, workers=2)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for run in range(runs):
            for workers in (1, 2):
                def fresh():  # a tokenizer remembers what it has encoded
                    return type(tokenizer)(*tokenizer.__reduce__()[1])

                jobs = {"tokenizer alone": lambda: sum(
                            len(ids) for ids in fresh().encode_many(texts, workers)),
                        "text to a folder": lambda: write_folder(
                            source, fresh(), Path(folder) / f"{run}-{workers}", workers=workers)}
                for name, job in jobs.items():
                    rows.setdefault((name, workers), []).append(seconds(job))
    print(f"\n{megabytes:.0f} MB of text to ids, {tokenizer.vocab_size:,} of them, median of {runs}"
          "\n\n| MB/s | 1 process | 2 workers |\n|---|---|---|")
    for name in ("tokenizer alone", "text to a folder"):
        print(f"| {name} | " + " | ".join(
            f"{megabytes / statistics.median(rows[name, w]):.1f}" for w in (1, 2)) + " |")


# ---- near duplicates: the same documents, 120 entries, 20 bands of 6, threshold 0.7 ----
K, BANDS, ROWS, THRESHOLD = 120, 20, 6, 0.7


def runs_of_words(text, n=5):
    """The shingles as most people make them, a set of strings: datasketch brings none."""
    found = re.findall(r"\w+", text.lower())
    n = min(n, len(found))
    return {" ".join(found[i:i + n]).encode() for i in range(len(found) - n + 1)} if found else ()


def search_ours(texts):
    seen = NearDuplicates(THRESHOLD, BANDS, ROWS)
    return [seen.add(i, text) for i, text in enumerate(texts)]


def search_datasketch(texts, sets=runs_of_words, hashfunc=zlib.crc32):
    """A document is asked about and, unless it is a copy, inserted; candidates are compared as ours
    are. Its permutations are made once, its hash function is a quick one.
    """
    from datasketch import MinHash, MinHashLSH
    empty = MinHash(num_perm=K, hashfunc=hashfunc)
    lsh = MinHashLSH(num_perm=K, params=(BANDS, ROWS))
    kept, answers = {}, []
    for i, text in enumerate(texts):
        entries, answer = empty.copy(), None
        entries.update_batch(list(sets(text)))
        if not entries.is_empty():
            near = {j: kept[j].jaccard(entries) for j in lsh.query(entries)}
            answer = max(near, key=near.get, default=None)
            if answer is None or near[answer] < THRESHOLD:
                answer = None
                lsh.insert(i, entries, check_duplication=False)
                kept[i] = entries
        answers.append(answer)
    return answers


def search_our_shingles(texts):
    """datasketch, given the upper halves of our shingles: all that is left to it is MinHash."""
    return search_datasketch(texts, lambda text: (shingles(text) >> 32).tolist(), lambda x: x)


SEARCHERS = {"ours": (search_ours, "duplicates"),
             "datasketch": (search_datasketch, "datasketch"),
             "datasketch on our shingles": (search_our_shingles, "datasketch")}


def read_texts(name):
    return [content(record) for record in find_source(name).records()]


def search(job):
    """In a process of its own: [seconds, what each document was a copy of], as JSON."""
    texts, work = read_texts(job["source"]), SEARCHERS[job["name"]][0]
    work(texts[:50])
    start = time.perf_counter()
    answers = work(texts)
    print(json.dumps([time.perf_counter() - start, answers]))


def plant(texts, resemblance, pairs, seed=1):
    """Documents, and then a copy of each with words replaced until jaccard() is `resemblance`."""
    rng, originals, copies = random.Random(seed), [], []
    for text in rng.sample(texts, len(texts)):
        original, found = shingles(text), re.findall(r"\w+", text)
        if len(original) < 100 or len(originals) == pairs or len(found) > 3000:
            continue
        parts = re.split(r"(\w+)", text)  # words at odd places
        places = rng.sample(range(1, len(parts), 2), len(parts) // 2)
        while (now := jaccard(original, shingles("".join(parts)))) > resemblance:
            parts[places.pop()] = f"new{rng.randrange(10**6)}"
        if now > resemblance - 0.01:
            originals.append(text)
            copies.append("".join(parts))
    return originals + copies


def bench_duplicates(source, runs):
    results = {name: [] for name, (_, package) in SEARCHERS.items() if find_spec(package)}
    for _ in range(runs):
        for name, rows in results.items():
            job = json.dumps({"kind": "search", "name": name, "source": source})
            done = subprocess.run([sys.executable, Path(__file__).with_name("bench.py"), "contend",
                                   job], stdout=subprocess.PIPE, text=True, check=True,
                                  encoding="utf-8")
            rows.append(json.loads(done.stdout))
    texts = read_texts(source)
    dropped = {name: {i for i, answer in enumerate(rows[0][1]) if answer is not None}
               for name, rows in results.items()}
    print(f"\nnear duplicates among {len(texts):,} documents, median of {runs}; ratios within "
          "rounds\n\n| | seconds | times ours | dropped | as ours |\n|---|---|---|---|---|")
    for name, rows in results.items():
        taken = statistics.median(row[0] for row in rows)
        ratio = statistics.median(row[0] / ours[0] for row, ours in zip(rows, results["ours"]))
        print(f"| {name} | {taken:.2f} | {ratio:.1f} | {len(dropped[name])} "
              f"| {len(dropped[name] & dropped['ours'])} |")
    # Documents of which none resembles another: what is found is what was planted.
    texts = list(dict.fromkeys(texts))
    texts = [text for text, answer in zip(texts, search_ours(texts)) if answer is None]
    print("\nshare found of copies that resemble their originals\n\n| Jaccard | pairs | "
          + " | ".join(results) + " |\n|---|---|" + "---|" * len(results))
    for resemblance in (0.9, 0.8, 0.7, 0.6, 0.5):
        both = plant(texts, resemblance, 200)
        if n := len(both) // 2:
            shares = [sum(answers[n + i] == i for i in range(n)) / n
                      for answers in (SEARCHERS[name][0](both) for name in results)]
            print(f"| {resemblance} | {n} | " + " | ".join(f"{s:.1%}" for s in shares) + " |")


def bench_data(source, vocab_size, runs, data_dir):
    bench_batches(source, data_dir, runs)
    bench_writing(source, vocab_size, runs)
    bench_duplicates(source, runs)
