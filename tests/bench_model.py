"""What the model costs: a training step and decoding, beside transformers' GPT-2 of the same shape;
and that weights from elsewhere compute the same here as there. bench.py calls it.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import choose_device

from budget import count_parameters, flops_per_token
from family import MODELS, model_config
from gpt import generate, make_model
from lookup import generate_by_lookup
from machine import keep_freed_memory, matmul_peak
from optim import make_optimizer
from presets import FullConfig as Config
from quant import pack
from train import train_step
from sample import Options, start_of
from weights import read_model

SET_BY_TRAIN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # for itself, so that peers don't get it
# Six layers of a GPT-2 that a laptop can train.
SHAPE = MODELS["gpt2"] | dict(n_layer=6, n_head=6, n_kv_head=6, d_model=384, d_ff=1536, seq_len=256,
                              vocab_size=4096)


def theirs(config):
    """transformers' GPT-2 of a GPTConfig's shape, without dropout, with new weights."""
    import transformers
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=config.vocab_size, n_positions=config.seq_len, n_embd=config.d_model,
        n_layer=config.n_layer, n_head=config.n_head, n_inner=config.d_ff, attn_pdrop=0,
        embd_pdrop=0, resid_pdrop=0, bos_token_id=0, eos_token_id=0))


# ---- a training step ----
def step_ours(config, batch, compiled):
    choose_device("cpu"), keep_freed_memory()  # as train.py does
    model = make_model(config.gpt(config.vocab_size))
    optimizer = make_optimizer(model, config)
    if compiled:
        model.loss = torch.compile(model.loss)
    return lambda: train_step(model, optimizer, batch, 0, config)


def step_transformers(config, batch, compiled):
    model = theirs(config)
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.from_numpy(batch[0])

    def step():
        run(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return step


def step_nanogpt(config, batch, compiled):
    """nanoGPT's own model.py, found through PYTHONPATH, and its train.py's step on a CPU."""
    from model import GPT, GPTConfig
    model = GPT(GPTConfig(block_size=config.seq_len, vocab_size=config.vocab_size, bias=False,
                          n_layer=config.n_layer, n_head=config.n_head, n_embd=config.d_model,
                          dropout=0.0))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    x, y = map(torch.from_numpy, batch)

    def step():
        _, loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


TRAINERS = {"ours": (step_ours, "torch"), "transformers": (step_transformers, "transformers")}
NANO = {"classic": (step_ours, "torch"), "nanoGPT": (step_nanogpt, "model")}


def time_steps(job):
    """In a process of its own: seconds of each of some steps, bytes of memory at most."""
    config = Config(**job["shape"] | dict(batch_size=job["batch"], micro_batch=job["batch"]))
    ids = torch.randint(config.vocab_size, (job["batch"], config.seq_len + 1)).numpy()
    step = (TRAINERS | NANO)[job["name"]][0](config, (ids[:, :-1].copy(), ids[:, 1:].copy()),
                                             job["compiled"])
    times = []
    for _ in range(2 + job["steps"]):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    print(json.dumps([times[2:], 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))


def step_seconds(trainers, runs, compiled=False, batch=8, steps=6, shape=SHAPE):
    """({(name, whether compiled): [median seconds of a step, ...] of runs in turns}, {the same:
    bytes of memory}). shape: fields of a Config.
    """
    names = [n for n, (_, p) in trainers.items() if find_spec(p)]
    contenders = [(name, c) for c in ((False, True) if compiled else (False,)) for name in names]
    times, memory = {key: [] for key in contenders}, {}
    for _ in range(runs):
        for name, c in contenders:
            job = {"kind": "step", "name": name, "compiled": c, "batch": batch, "steps": steps,
                   "shape": dict(lr=1e-3) | shape}
            env = {key: value for key, value in os.environ.items()
                   if name in ("ours", "classic") or key not in SET_BY_TRAIN}
            done = subprocess.run([sys.executable, Path(__file__).with_name("bench.py"), "contend",
                                   json.dumps(job)], stdout=subprocess.PIPE, text=True, check=True,
                                  encoding="utf-8", env=env)
            taken, memory[name, c] = json.loads(done.stdout.splitlines()[-1])
            times[name, c].append(statistics.median(taken))
    return times, memory


def bench_model(runs, compiled, batch=8, steps=6):
    config = model_config(**SHAPE)
    tokens = batch * config.seq_len
    times, memory = step_seconds(TRAINERS, runs, compiled, batch, steps)
    choose_device("cpu")
    peak = matmul_peak()
    print(f"\na training step of GPT-2, {config.n_layer} layers of width {config.d_model}, {batch} "
          f"x {config.seq_len} tokens, vocabulary {config.vocab_size}: "
          f"{sum(count_parameters(config).values()):,} parameters, median of {runs} x {steps}; a "
          f"matrix product reaches {peak / 1e9:.0f} GFLOP/s\n\n"
          "| | tokens/s | GFLOP/s | times transformers | GB of memory |\n|---|---|---|---|---|")
    for name, c in times:
        rate = tokens / statistics.median(times[name, c])
        ratios = [other / own for own, other in
                  zip(times[name, c], times.get(("transformers", c), times[name, c]))]
        print(f"| {name}{', torch.compile' if c else ''} | {rate:,.0f} "
              f"| {rate * flops_per_token(config) / 1e9:.0f} | {statistics.median(ratios):.2f} "
              f"| {memory[name, c] / 1e9:.2f} |")


# ---- decoding ----
def rate(steps, rows):
    """Tokens per second of an iterator over steps, without the first two, which read the prompt."""
    times = [time.perf_counter() for _ in steps][1:]
    return rows * (len(times) - 1) / (times[-1] - times[0])


def decode_transformers(model, prompt, rows, n):
    import transformers
    ids, times = torch.tensor([prompt] * rows), []

    class Clock(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            times.append(time.perf_counter())
            return scores
    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False,
                   pad_token_id=0, eos_token_id=None, logits_processor=[Clock()])
    return rows * (len(times) - 2) / (times[-1] - times[1])


def bandwidth(n_bytes=500_000_000, device="cpu"):
    """Bytes per second at which memory is read here and now."""
    numbers = torch.ones(n_bytes // 4, device=device)
    wait, best = getattr(torch, device).synchronize, float("inf")
    for _ in range(5):
        wait()
        start = time.perf_counter()
        numbers.sum()
        wait()
        best = min(best, time.perf_counter() - start)
    return n_bytes / best


def bench_decoding(runs, n=40):
    """GPT-2's shape with new weights: how often each of several ways can read all of them."""
    config = model_config(**MODELS["gpt2"])
    for rows in (1, 8):
        rates, limits = decoding_rates(config, rows, runs, n)
        limit = statistics.median(limits)
        print(f"\ndecoding with GPT-2's shape, {rows} at a time, {n} tokens after 32, median of "
              f"{runs}; float32 weights can be read {limit / rows:.0f} times a second\n\n"
              "| | tokens/s | times transformers | of the memory's speed |\n|---|---|---|---|")
        for name, found in rates.items():
            ratio = statistics.median(
                a / b for a, b in zip(found, rates.get("transformers", found)))
            print(f"| {name} | {statistics.median(found):.1f} | {ratio:.2f} "
                  f"| {statistics.median(a / b for a, b in zip(found, limits)):.0%} |")


def decoding_rates(config, rows, runs, n):
    """({way: [tokens/s of each round]}, [tokens/s if float32 were read at the memory's speed])."""
    choose_device("cpu")
    prompt = torch.randint(config.vocab_size, (32,)).tolist()
    n_bytes = 4 * sum(n for name, n in count_parameters(config).items() if name != "positions")

    def new():
        return make_model(config).eval()
    ways = {"ours": new(), "ours, packed": pack(new(), "float32", rows),
            "ours, bfloat16": pack(new(), "bfloat16", rows),
            "ours, int8": pack(new(), "int8", rows), "ours, int4": pack(new(), "int4", rows)}
    peer = theirs(config).eval() if find_spec("transformers") else None
    rates = {name: [] for name in (*ways, *(["transformers"] if peer else ()))}
    limits = []
    for _ in range(runs):
        for name, model in ways.items():
            rates[name].append(rate(generate(model, [prompt] * rows, n), rows))
        if peer:
            allowed = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")  # as it is without choose_device()
            rates["transformers"].append(decode_transformers(peer, prompt, rows, n))
            torch.set_float32_matmul_precision(allowed)
        limits.append(rows * bandwidth() / n_bytes)
    return rates, limits


def bench_lookup(weights, files, runs, n=150):
    """A real model continues real text greedily: one id at a step, or several that were guessed."""
    def load():
        return Options(weights=weights).load()[1:3]
    models = {"float32": load()[0], "int8": pack(load()[0], "int8")}
    tokenizer = load()[1]
    prompts = []
    for file in files:
        ids = start_of(Path(file).read_text(encoding="utf-8"), tokenizer)
        prompts.append(ids[:len(ids) * 2 // 3][-600:])
    ways = {(kind, guesses): [] for kind in models for guesses in (0, 2, 4, 8, 16)}
    for _ in range(runs):
        for (kind, guesses), found in ways.items():
            seconds = 0.0
            for prompt in prompts:
                steps = (generate_by_lookup(models[kind], prompt, n, n_guesses=guesses) if guesses
                         else generate(models[kind], [prompt], n))
                next(steps)  # the prompt is read
                start = time.perf_counter()
                for _ in steps:
                    pass
                seconds += time.perf_counter() - start
            found.append(len(prompts) * (n - 1) / seconds)
    print(f"\ncontinuing {len(files)} texts by {n} tokens, greedily, with guesses from the text so "
          f"far, median of {runs}\n\n| | guesses | tokens/s | times plain |\n|---|---|---|---|")
    for (kind, guesses), found in ways.items():
        ratio = statistics.median(a / b for a, b in zip(found, ways[kind, 0]))
        print(f"| {kind} | {guesses} | {statistics.median(found):.1f} | {ratio:.2f} |")


def bench_sample(runs, weights, files):
    bench_decoding(runs)
    if weights:
        bench_lookup(weights, files, min(runs, 3))


# ---- parity: the same logits and the same text, from real weights ----
@torch.inference_mode()
def bench_weights(folders, n=100):
    """Every Hugging Face folder: the largest difference of a logit to transformers', and whether
    the n likeliest ids, one after the other, are theirs, and those in greedy_ids.json if there are.
    """
    import transformers
    transformers.utils.logging.disable_progress_bar()
    different = 0
    for folder in folders:
        ours = read_model(folder)
        peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        ids = torch.randint(ours.config.vocab_size, (2, min(256, ours.config.seq_len)),
                            generator=torch.Generator().manual_seed(0))
        off = (ours(ids) - peer(ids).logits).abs().max().item()
        n = min(n, ours.config.seq_len - 8)
        prompt = ids[:1, :8]
        expected = peer.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=n,
                                 do_sample=False, eos_token_id=None, pad_token_id=0)[0, 8:].tolist()
        found = [int(i) for i in generate(ours, prompt.tolist(), n)]
        wrong = (off > 1e-4) + (found != expected)
        report = f"logits differ by {off:.1e} at most, {n} greedy ids "
        report += "are equal" if found == expected else "DIFFER"
        golden = Path(folder) / "greedy_ids.json"
        if golden.exists():
            golden = json.loads(golden.read_text(encoding="utf-8"))
            found = [int(i) for i in generate(ours, [golden[:1]], len(golden) - 1)]
            wrong += found != golden[1:]
            report += f", the {len(golden)} golden ids "
            report += "are equal" if found == golden[1:] else "DIFFER"
        different += bool(wrong)
        print(f"{folder}: {report}", flush=True)
    if different:
        raise ValueError(f"{different} models differ")
