"""serve.py beside itself, one request after another, and beside `transformers serve`; what a turn
of a long conversation costs; and what 10,000 requests leave behind. bench.py calls it.
"""

import contextlib
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import ROOT


from api import Request
from batching import Batching
from bpe import Tokenizer
from conversations import prompt_ids
from core import Options
from gpt import GPT
from quant import pack
from runs import as_json, save_checkpoint, start_run, tensors
from sample import Sampling
from train import Config

TOPICS = ("a lighthouse", "two brothers", "a lost key", "the first snow", "an old map", "a garden",
          "a night train", "the deep sea")


@contextlib.contextmanager
def running(*command, ready, where=None):
    """A server's (address, process id), once a line of its output matches `ready`, or its address,
    `where`, answers.
    """
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True)
    try:
        address = where
        while not where:
            line = process.stdout.readline()
            if found := re.search(ready, line):
                address = found[1]
                break
            if not line:
                raise ValueError(f"{command[0]} ended before it was ready")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        for _ in range(600 if where else 1):
            if process.poll() is not None:
                raise ValueError(f"{command[0]} ended before it was ready")
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/v1/models", timeout=5).read()
                break
            time.sleep(0.2)
        yield address, process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def ours(weights, kind="float32", extra=()):
    return running(sys.executable, "-u", ROOT / "05_sample" / "serve.py", "--weights", weights,
                   "--weights-as", kind, "--port", 0, *extra, ready=r"(http://[\d.:]+) serves")


def theirs(weights):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return running(Path(sys.executable).with_name("transformers"), "serve", weights, "--port",
                   port, "--device", "cpu", "--dtype", "float32", "--log-level", "error",
                   "--continuous-batching", ready="", where=f"http://127.0.0.1:{port}")


def chat(address, model, messages, n_tokens):
    """(seconds to the first text, seconds in all, ids written, text) of a streamed answer."""
    body = {"model": str(model), "messages": messages, "max_tokens": n_tokens, "temperature": 0,
            "stream": True, "stream_options": {"include_usage": True}}
    request = urllib.request.Request(f"{address}/v1/chat/completions", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    start, first, text, n = time.perf_counter(), None, "", 0
    with urllib.request.urlopen(request, timeout=600) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            part = event["choices"] and event["choices"][0]["delta"].get("content")
            if part:
                first, text = first or time.perf_counter() - start, text + part
            if event.get("usage"):
                n = event["usage"]["completion_tokens"]
    return first, time.perf_counter() - start, n, text


def story(topic, n=0):
    return [{"role": "user", "content": f"Write chapter {n} of a long story about {topic}."}]


def at_once(address, model, n_tokens, n, chapter):
    """(seconds until n stories are written, all asked for at the same moment, ids written)."""
    start = time.perf_counter()
    with ThreadPoolExecutor(n) as pool:
        found = [*pool.map(lambda topic: chat(address, model, story(topic, chapter), n_tokens),
                           TOPICS[:n])]
    return time.perf_counter() - start, sum(row[2] for row in found)


def one_by_one(address, model, n_tokens, chapter):
    start = time.perf_counter()
    for topic in TOPICS:
        chat(address, model, story(topic, chapter), n_tokens)
    return time.perf_counter() - start


def outside(weights, tokens):
    """The share of the engine's time for eight texts outside model.hidden() and logits()."""
    _, model, tokenizer, _, _ = Options(weights=str(weights), device="cpu").load()
    engine, inside = Batching(pack(model, "float32", rows=8), tokenizer), []
    for name in ("hidden", "logits"):
        def timed(*given, compute=getattr(model, name)):
            start = time.perf_counter()
            found = compute(*given)
            inside.append(time.perf_counter() - start)
            return found
        setattr(model, name, timed)
    requests = [Request(prompt_ids(story(topic), tokenizer), tokens, Sampling(0.8, seed=1))
                for topic in TOPICS]
    start = time.perf_counter()
    for writing in [engine.write(request) for request in requests]:
        for _ in writing:
            pass
    share = 1 - sum(inside) / (time.perf_counter() - start)
    engine.end()
    return share


def turns(address, model, n_turns=10, n_tokens=40):
    """[(characters of the conversation so far, seconds to the first text)] of each turn."""
    messages, rows = [], []
    for n in range(n_turns):
        messages += story(TOPICS[n % 8], n)
        length = sum(len(message["content"]) for message in messages)
        first, _, _, text = chat(address, model, messages, n_tokens)
        messages += [{"role": "assistant", "content": text}]
        rows.append((length, first))
    return rows


def memory(pid):
    """Bytes of a process that are in memory."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"VmRSS:\s+(\d+)", text)[1])


def many(n):
    """[(requests so far, bytes of memory)] of a server with a tiny model; some clients go away."""
    tokenizer, config = Tokenizer([]), Config(n_layer=1, d_model=16, n_head=1, n_kv_head=1, d_ff=16,
                                              seq_len=64)
    with tempfile.TemporaryDirectory() as top:
        folder = start_run(top, "tiny")
        (folder / "config.json").write_text(json.dumps(
            as_json(config) | {"data_hash": "", "data_folders": []}), encoding="utf-8")
        tokenizer.save(folder / "tokenizer.json")
        save_checkpoint(folder, 1, tensors(GPT(config.gpt(tokenizer.vocab_size))), {})
        rows = []
        with running(sys.executable, "-u", ROOT / "05_sample" / "serve.py", "--runs-dir", top,
                     "--port", 0, ready=r"(http://[\d.:]+) serves") as (address, pid):
            def ask(i):
                body = {"prompt": f"text {i}", "max_tokens": 4, "stream": i % 2 == 0, "seed": i}
                body["max_tokens"] = 4 if i % 10 else 50
                with urllib.request.urlopen(urllib.request.Request(
                        f"{address}/v1/completions", json.dumps(body).encode(),
                        {"Content-Type": "application/json"}), timeout=60) as answer:
                    if i % 10:  # every tenth goes away at once
                        assert b"text_completion" in answer.read()
            with ThreadPoolExecutor(8) as pool:
                for step in range(10):
                    list(pool.map(ask, range(step * n // 10, (step + 1) * n // 10)))
                    rows.append(((step + 1) * n // 10, memory(pid)))
    return rows


def bench_serve(weights, tokens, rounds, requests):
    """Print all comparisons."""
    weights = Path(weights).resolve()
    found = {}
    with ours(weights) as (here, _), theirs(weights) as (there, _):
        for address, model in ((here, weights.name), (there, weights)):
            chat(address, model, story("nothing"), 4)  # both have loaded it
        for chapter in range(rounds):
            for name, address, model in (("ours", here, weights.name), ("theirs", there, weights)):
                for n in (1, 8):
                    found.setdefault((name, n), []).append(
                        at_once(address, model, tokens, n, 3 * chapter + n // 8))
            found.setdefault("one by one", []).append(
                one_by_one(here, weights.name, tokens, 3 * chapter + 2))
    print(f"{weights.name}, float32, {tokens} ids each, medians of {rounds} rounds\n\n"
          "| | one, tokens/s | eight at once, tokens/s |\n|---|---|---|")
    rates = {key: statistics.median(n / seconds for seconds, n in rows)
             for key, rows in found.items() if key != "one by one"}
    for name, title in (("ours", "serve.py"), ("theirs", "transformers serve")):
        print(f"| {title} | {rates[name, 1]:.1f} | {rates[name, 8]:.1f} |")
    print(f"| times | {rates['ours', 1] / rates['theirs', 1]:.2f} | "
          f"{rates['ours', 8] / rates['theirs', 8]:.2f} |\n")
    together = statistics.median(seconds for seconds, _ in found["ours", 8])
    print(f"eight at once are done {statistics.median(found['one by one']) / together:.2f} times "
          f"sooner than one by one; {outside(weights, tokens):.1%} of the time is outside the "
          "model\n")
    with ours(weights) as (here, _):
        rows = turns(here, weights.name)
    print("| turn | characters so far | first text after, s |\n|---|---|---|")
    for n in (0, 1, 4, 9):
        print(f"| {n + 1} | {rows[n][0]:,} | {rows[n][1]:.2f} |")
    rows = many(requests)
    print("\n| requests | memory, MB |\n|---|---|")
    for n, size in rows:
        print(f"| {n:,} | {size / 1e6:.1f} |")
