"""Fine-tuning beside trl's SFTTrainer, and answers beside transformers.generate(); the same model,
ids and prompts for both. bench.py calls it.
"""

import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import numpy as np
import torch

import rl
import sft
from core import Options
from data import prepare
from machine import keep_freed_memory
from optim import make_optimizer
from presets import FullConfig
from records import library
from starting import adopt
from train import train_step

SOURCE = "tasks,form=chat,level=2,n=4000"


def opened(weights, data_dir, **more):
    """(config, model, data, tokenizer) of a Hugging Face folder and some conversations."""
    fields = dict(init=str(weights), device="cpu", seq_len=256, batch_size=8, micro_batch=4,
                  lr=1e-5, warmup=0, steps=100, grad_clip=1.0) | more
    config = FullConfig(**adopt("sft", {}, fields) | fields)
    _, model, tokenizer, _, _ = Options(weights=str(weights), device="cpu").load()
    data = prepare([SOURCE], None, data_dir, tokenizer, say=lambda line: None)
    return config, model.train(), data, tokenizer


# ---- fine-tuning ----
def ours(weights, data_dir, steps):
    """[(seconds, ids that are no padding, loss)] of steps of sft.py."""
    config, model, data, _ = opened(weights, data_dir, sampling="conversations")
    loader, optimizer = sft.Batches(config, data), make_optimizer(model, config)
    loss, rows = loader.objective(model.loss), []
    for step in range(steps):
        batch = next(loader)
        start = time.perf_counter()
        mean, _ = train_step(model, optimizer, batch, step, config, loss)
        padding = (batch[2] == np.arange(config.seq_len)) & (batch[1] < 0) & (batch[0] == 0)
        rows.append((time.perf_counter() - start, int((~padding).sum()), mean))
    return rows


def theirs(weights, data_dir, steps):
    """The same of trl's SFTTrainer, which packs the same conversations."""
    trl, datasets = library("trl", "this comparison"), library("datasets", "this comparison")
    transformers = library("transformers", "this comparison")
    config, _, data, _ = opened(weights, data_dir, sampling="conversations")
    packed = sft.Packed(data.train, config.seq_len)
    rows = [{"input_ids": data.train.read(start, n).tolist(),
             "labels": np.where(data.train.labels(start, n) < 0, -100,
                                data.train.labels(start, n)).tolist()}
            for start, n in packed.conversations]
    found, n_ids = [], []

    class Clock(transformers.TrainerCallback):
        def on_step_begin(self, *given, **named):
            self.start = time.perf_counter()

        def on_step_end(self, *given, **named):
            found.append(time.perf_counter() - self.start)

    class Counted(trl.SFTTrainer):
        def training_step(self, model, inputs, *given, **named):
            n_ids.append(inputs["input_ids"].numel())
            return super().training_step(model, inputs, *given, **named)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Counted(
            model=transformers.AutoModelForCausalLM.from_pretrained(weights, dtype="float32"),
            args=trl.SFTConfig(
                output_dir=folder, packing=True, max_length=config.seq_len, max_steps=steps,
                per_device_train_batch_size=1, learning_rate=config.lr, use_cpu=True, bf16=False,
                gradient_accumulation_steps=config.batch_size, gradient_checkpointing=False,
                report_to=[], save_strategy="no", disable_tqdm=True, logging_steps=1),
            processing_class=transformers.AutoTokenizer.from_pretrained(weights),
            train_dataset=datasets.Dataset.from_list(rows), callbacks=[Clock()])
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    each = len(n_ids) // len(found)
    return [(seconds, sum(n_ids[i * each:(i + 1) * each]), loss)
            for i, (seconds, loss) in enumerate(zip(found, losses))]


def rate(rows):
    """Ids a second, of the median step; the first, which is slower, is left out."""
    return statistics.median(n / seconds for seconds, n, _ in rows[1:])


# ---- answers ----
def answers(weights, data_dir, n_prompts, samples, n_tokens):
    """(ours, theirs), seconds and ids of samples to prompts, and a step's seconds: to write, and to
    learn.
    """
    config, model, data, tokenizer = opened(
        weights, data_dir, sampling="answers", group=samples, batch_size=n_prompts * samples,
        micro_batch=8, answer_tokens=n_tokens)
    loader = rl.Batches(config, data, model)
    prompts = [prompt for prompt, _ in loader.questions[:n_prompts]]

    def by_us():
        groups = rl.write_answers(model, prompts, tokenizer, samples, n_tokens, range(n_prompts))
        return sum(len(one.ids) for group in groups for one in group)
    peer = library("transformers", "this comparison").AutoModelForCausalLM.from_pretrained(
        weights, dtype="float32").eval()
    longest, ends = max(map(len, prompts)), [*loader.ends]
    padded = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])

    def by_them():
        with torch.inference_mode():
            rows = peer.generate(padded, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0,
                                 num_return_sequences=samples, max_new_tokens=n_tokens,
                                 eos_token_id=ends, pad_token_id=0)[:, longest:]
        return sum(next((i + 1 for i, one in enumerate(row) if one in ends), len(row))
                   for row in rows.tolist())
    rates = {by_us: [], by_them: []}
    for _ in range(3):
        for way, seen in rates.items():
            start = time.perf_counter()
            n = way()
            seen.append(n / (time.perf_counter() - start))
    start = time.perf_counter()
    batch = next(loader)
    write = time.perf_counter() - start
    batch[2][:] = 1.0  # as if something was to be learned from each answer
    train_step(model, make_optimizer(model, config), batch, 0, replace(config, lr=1e-9),
               loader.objective(None))
    learn = time.perf_counter() - start - write
    return [statistics.median(seen) for seen in rates.values()], write, learn


def bench_stages(weights, steps, data_dir="data"):
    """Print both comparisons."""
    keep_freed_memory()  # as a run of ours does; here it serves both sides
    weights = Path(weights)
    mine, others = ours(weights, data_dir, steps), theirs(weights, data_dir, steps)
    print(f"{weights}, float32, windows of 256, 8 in a step, median of {steps - 1} steps\n\n"
          "| fine-tuning | ids/s | first loss |\n|---|---|---|")
    for name, rows in (("sft.py", mine), ("trl's SFTTrainer, packing", others)):
        print(f"| {name} | {rate(rows):,.0f} | {rows[0][2]:.3f} |")
    print(f"| times | {rate(mine) / rate(others):.2f} | |\n")
    (us, them), write, learn = answers(weights, data_dir, 8, 8, 64)
    print("| 8 answers to each of 8 prompts, at most 64 ids | ids/s |\n|---|---|\n"
          f"| rl.write_answers | {us:,.0f} |\n| transformers.generate | {them:,.0f} |\n"
          f"| times | {us / them:.2f} |\n\n"
          f"an RL step: {write:.1f} s to write, {learn:.1f} s to learn: "
          f"{write / (write + learn):.0%} of it is writing")
