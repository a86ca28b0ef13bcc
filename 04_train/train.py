"""Train a model: from a text and nothing else to a model that writes.

First what a run is, a Config, and presets that fill it in; then a training step, an evaluation, and
the loop that calls both. All in one process; 07_scale/scale.py has the loop for many.

    python 04_train/train.py --preset tiny
    python 04_train/train.py --preset tiny --resume
    python 04_train/train.py --preset tiny --data folder:PATH gsm8k --steps 200
    python 04_train/train.py --preset 1b --plan

Reads a source of 02_data; writes data/ and runs/NAME/ (see runs.py). Next: sft.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import (Parser, StopSignal, add_options, by_hand, choose_device, holding, option, run,
                     track)
import contextlib
import dataclasses
import importlib.util
import math
import time

if "OMP_WAIT_POLICY" not in os.environ:  # read by torch: idle threads sleep after microseconds
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000"}

import numpy as np
import torch
import torch.nn.functional as F

from data import bits_per_byte, make_batches, prepare, token_bytes
from gpt import GPTConfig, make_model
from optim import SCHEDULES, clip, learning_rate, make_optimizer
from runs import (WAYS, choose_run, newest_checkpoint, restore_state, restore_weights, run_data,
                  save_checkpoint, start_run, step_of, tensors, write_config)


CHAT = {"conversations": "sft", "answers": "rl", "pairs": "dpo"}  # sampling: the file that has it


@dataclasses.dataclass(frozen=True)
class Config(GPTConfig):
    """All options of a run. The same config gives the same weights bit for bit on one machine."""

    data: tuple = option(("python",), "sources; of several, NAME:0.3 gives each its share")
    sampling: str = option("random", "windows: from random places, in order (stream), from where "
                           "documents begin (bestfit), of whole conversations (sft.py), of "
                           "answers that the model writes (rl.py), of pairs (extras/dpo.py)",
                           ("random", "stream", "bestfit", "conversations", "answers", "pairs"))
    batch_size: int = option(8, "windows in a step, over all micro-batches and processes", least=1)
    micro_batch: int = option(8, "windows at once: fewer take less memory", least=1)
    steps: int = option(350, "optimizer steps; 0: from flops or tokens_per_param", least=0)
    flops: float = option(0.0, "instead of steps: spend so many FLOPs", least=0, most=1e60)
    tokens_per_param: float = option(0.0, "instead of steps; 20 is Chinchilla's ratio", least=0)
    optimizer: str = option("adamw", "of the matrices inside the blocks", ("adamw", "muon"))
    lr: float = option(6e-3, "peak learning rate of what AdamW moves", least=1e-15)
    muon_lr: float = option(0.02, "peak learning rate of the matrices that Muon moves", least=1e-15)
    momentum: float = option(0.95, "Muon: weight of the past average", least=0, most=0.9999)
    beta2: float = option(0.95, "AdamW: weight of past squares", least=0, most=0.9999)
    schedule: str = option("wsd", "how the learning rate falls after its warm-up", SCHEDULES)
    warmup: int = option(100, "steps over which the learning rate rises from 0", least=0)
    cooldown: float = option(0.5, "wsd: share of the steps over which it falls", least=0, most=1)
    min_lr_share: float = option(0.0, "share of the peak to which it falls", least=0, most=1)
    weight_decay: float = option(0.1, "of the matrices inside the blocks alone", least=0)
    grad_clip: float = option(1.0, "largest norm of the gradients", least=1e-15)
    init: str = option("", "a run's folder, or a Hugging Face folder: begin with its shape, "
                       "weights and tokenizer")
    bigrams: int = option(0, "steps of a new model on counts of bigrams, before batches", least=0)
    group: int = option(8, "answers: how many to each question", least=2)
    temperature: float = option(1.0, "answers: of their drawing, and of the step", least=0.01)
    answer_tokens: int = option(64, "answers: longer ones are cut off, and wrong", least=1)
    eval_every: int = option(100, "steps between evaluations on eval_tokens tokens", least=1)
    eval_tokens: int = option(10_000, "tokens of an evaluation while it trains", least=2)
    last_eval_tokens: int = option(0, "tokens of the last evaluation; 0: all", least=0)
    save_every: int = option(200, "steps between checkpoints; each is evaluated, too", least=1)
    keep: int = option(2, "newest checkpoints kept, beside the best one", least=1)
    seed: int = option(0, "of the weights and of the order of the data", least=0)
    device: str = option("auto", "where to compute", ("auto", "cpu", "cuda", "mps"))
    dtype: str = option("float32", "of matrix products; on GPUs float32 is TF32",
                        ("float32", "bfloat16", "float16"))
    compile: bool = option(False, "with torch.compile: minutes to start, then quicker steps")
    data_dir: str = option("data", "where downloads and prepared data are kept")

    def __post_init__(self):
        names = (self.data,) if isinstance(self.data, str) else tuple(self.data)
        object.__setattr__(self, "data", names)
        super().__post_init__()
        if not names or not all(isinstance(name, str) for name in names):
            raise ValueError(f"data is {names}, but must be names of sources")
        if not any(getattr(self, way) for way in WAYS):
            raise ValueError("steps is 0: say how many, or give flops or tokens_per_param")
        if self.bigrams and not self.init and self.vocab_size > 4096:
            raise ValueError(f"bigrams is {self.bigrams}, but of {self.vocab_size} ids there are "
                             "too many: give --bigrams 0, or a vocab_size of at most 4096")

    def gpt(self, vocab_size):
        """The model's shape, with the tokenizer's vocabulary; with --init, the model's own."""
        shape = {field.name: getattr(self, field.name) for field in dataclasses.fields(GPTConfig)}
        return GPTConfig(**shape | ({} if self.init else {"vocab_size": vocab_size}))

    def make_model(self, vocab_size):
        return make_model(self.gpt(vocab_size), self.seed)

    def objective(self, model):
        """The loss to minimise: a function of (inputs, targets) that gives (B, T) nats."""
        if self.compile:
            importlib.import_module("compiling").compile_blocks(model)
        return torch.compile(model.loss) if self.compile else model.loss

    def batches(self, data, model=None, rank=0, world=1):
        """The batches of a run. Those of sft.py, rl.py and dpo.py also have objective(loss), the
        loss that train_step() is to call, and evaluate(), for what evaluate() does here.
        """
        if self.sampling in CHAT:
            stage = importlib.import_module(CHAT[self.sampling])
            return stage.Batches(self, data, model, rank, world)
        return make_batches(data, self.batch_size, self.seq_len, self.seed, self.sampling, rank,
                            world)


def depth_preset(depth):
    """Config's fields of gpt.py's recipe at a depth, the one dial that sets all others.

    Width is 64 a layer, in heads of 64 below depth 8, of 128 from there (depth is even then).
    Vocabulary and window double with each layer from 2,048 and 128 at depth 3 to 32,768 and 1,024.
    Muon's rate is the same at every width (Jordan et al. 2024); AdamW's, for embeddings and head,
    falls with width^0.5, as nanochat's does. Tokens in a batch grow from 2,048 as depth^3, a guess,
    to half a million. A micro-batch halves as depth doubles. Nothing above tiny is tuned.
    """
    width = 64 * depth
    heads = depth if depth < 8 else depth // 2
    doubled = 2 ** max(0, depth - 3)
    seq_len = min(1024, 128 * doubled)
    tokens = 2 ** round(math.log2(2048 * (depth / 3) ** 3))
    batch_size = min(2**19, tokens) // seq_len
    return dict(n_layer=depth, d_model=width, n_head=heads, n_kv_head=heads, d_ff=4 * width,
                vocab_size=min(32768, 2048 * doubled), seq_len=seq_len, optimizer="muon",
                lr=round(0.012 * (192 / width) ** 0.5, 5), batch_size=batch_size,
                micro_batch=min(batch_size, 2 ** int(math.log2(48 / depth))), steps=0,
                tokens_per_param=20.0, cooldown=0.6,  # 20: Hoffmann et al. 2022
                dtype="bfloat16" if depth >= 12 else "float32")  # from depth 12 on it is for GPUs


LADDER = {"tiny": 3, "d4": 4, "d5": 5, "d6": 6, "d8": 8, "small": 12, "medium": 16,
          "461m": 20, "1b": 26}
PRESETS = {name: depth_preset(depth) for name, depth in LADDER.items()}
PRESETS["tiny"] |= dict(steps=500, tokens_per_param=0.0, warmup=20,  # a minute on two cores
                        bigrams=20, lr=0.006, momentum=0.9)  # tried for this length
PRESETS["461m"] |= dict(vocab_size=53248)  # 461M besides embeddings, 20 tokens each: 9.2 billion
PRESETS["1b"] |= dict(vocab_size=49152)  # a billion parameters in all
PRESETS["nano"] = dict(  # small enough for the plain versions
    n_layer=2, d_model=64, n_head=2, n_kv_head=2, d_ff=256, vocab_size=512, seq_len=64,
    by_hand=True, steps=100, warmup=10, eval_every=20, eval_tokens=5_000, save_every=20)


def train_step(model, optimizer, batch, step, config, loss=None):  # exercise
    """One step of training. Returns (the loss over the batch, the norm of its gradients), floats.

    batch: (inputs, targets), numpy, (B, T) each, and perhaps more arrays, with B rows. loss(x, y),
    given a micro-batch's part of each array, is (b, T) nats, 0 where a target is negative; by
    default config.objective(model).

    1. Forward and backward, config.micro_batch windows at a time, so that memory is a micro-batch's
       and gradients are the batch's. Each sum of nats is divided by the number of targets (>= 0) in
       the *whole* batch, at least 1, so that every token weighs the same. The forward pass runs
       under torch.autocast(device.type, dtype), which is off if dtype is float32.
    2. optim.clip() the .grad of all parameters that have one to config.grad_clip.
    3. If either is not finite, end here: ValueError "step {step + 1}: loss ..., gradient norm ...".
    4. Each of optimizer.param_groups gets "lr": its "scale" times learning_rate(step, config).
       Then optimizer.step(), and optimizer.zero_grad().
    """
    loss = loss or config.objective(model)
    device, dtype = model.embed.weight.device, getattr(torch, config.dtype)
    gpu = device.type == "cuda"  # which copies from pinned memory while the program goes on
    arrays = [torch.tensor(a, pin_memory=gpu).to(device, non_blocking=gpu) for a in batch]
    n_targets, mean = max(1, int((batch[1] >= 0).sum())), 0.0
    for parts in zip(*(array.split(config.micro_batch) for array in arrays)):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            nats = loss(*parts).sum() / n_targets
        nats.backward()
        mean += nats.detach()  # on the device, so that nothing waits for it yet
    mean = mean.to("cpu", non_blocking=True)  # is there when clip() has waited for the norm
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm, mean = clip(gradients, config.grad_clip), float(mean)
    if not math.isfinite(mean + norm):
        where = extra("nonfinite") and extra("nonfinite").first_bad(model, arrays, config, loss)
        raise ValueError(f"step {step + 1}: loss {mean}, gradient norm {norm}; first to go bad: "
                         f"{where or 'unknown'}. Stopped before it is saved; is --lr too high?")
    for group in optimizer.param_groups:
        group["lr"] = group["scale"] * learning_rate(step, config)
    optimizer.step()
    optimizer.zero_grad()
    return mean, norm


@torch.no_grad()
def score(model, ids, spans=None, batch_size=8, dtype="float32", rank=0, world=1):  # exercise
    """The model's loss on each id, given those before it in a window: (N - 1,) nats, float64, of
    ids 1, 2, ... N - 1; 0 where no window scores an id.

    ids: (N,), an array or Ids: only slices of it are read. spans: [(start, skip), ...], one for
    each window, which reads T = seq_len ids from `start` on and predicts the id after each; the
    first `skip` predictions are left out. A window beyond the end of the text is padded with any
    id. By default windows lie side by side: (0, 0), (T, 0) ..., the last with something to predict.
    model.loss() gets `batch_size` of them at once, under autocast to `dtype` as in train_step().
    Process `rank` of `world` scores spans rank, rank + world ...: results add up. A model may be
    divided over processes, and gets as many windows from each: one with too few repeats the first.
    """
    T, device, dtype = model.config.seq_len, model.embed.weight.device, getattr(torch, dtype)
    nats = np.zeros(len(ids) - 1)
    spans = spans or [(start, 0) for start in range(0, len(nats), T)]
    mine, most = spans[rank::world], len(spans[::world])  # rank 0 has the most
    mine, n = mine + [(spans[0][0], T)] * (most - len(mine)), -(-most // batch_size)
    for i in range(n) if rank else track(range(n), "evaluating", n, unit=" batches"):
        batch = mine[i * batch_size:(i + 1) * batch_size]
        rows = [torch.tensor(np.asarray(ids[start:start + T + 1], np.int64)) for start, _ in batch]
        rows = torch.stack([F.pad(row, (0, T + 1 - len(row))) for row in rows]).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            losses = model.loss(rows[:, :-1], rows[:, 1:]).cpu().numpy()  # (b, T)
        for (start, skip), row in zip(batch, losses):
            nats[start + skip:start + T] = row[skip:len(nats) - start]  # ends where the text ends
    return nats


def evaluate(model, ids, sizes, config, max_tokens=None, rank=0, world=1, total=lambda nats: nats):
    """Bits per byte of Ids, or of about max_tokens of them, in windows that are spread evenly.
    sizes: token_bytes(). total(array): its sum over all processes. ValueError if not finite.
    """
    n, T, share = len(ids) - 1, model.config.seq_len, config.batch_size // world
    starts = range(0, n, T * -(-(n + 1) // max_tokens) if max_tokens else T)
    nats = total(score(model, ids, [(start, 0) for start in starts],
                       min(config.micro_batch, share), config.dtype, rank, world))
    targets = np.concatenate([ids.labels(i + 1, min(T, n - i)) for i in starts])
    if max_tokens and not (targets >= 0).any():  # nothing in these windows is to be learned
        return evaluate(model, ids, sizes, config, None, rank, world, total)
    bits = bits_per_byte(np.concatenate([nats[i:i + T] for i in starts]), targets, sizes)
    if not math.isfinite(bits):
        raise ValueError(f"the validation text costs {bits} bits per byte: the weights are spoiled")
    return bits


# Extras, by name; a copy of the spine alone trains without them. Always used: beside.py (rows and
# pictures of a run, by metrics, watch, report, page) and length.py (the plan, and whether it fits),
# which call budget and machine; console.py calls housekeeping; bpe.py fast and pieces; runs.py, for
# tiny, bigrams. When asked for: compiling, starting (--init), lora, dpo, timing (--profile),
# presets, snapshots, nonfinite.
def extra(name):
    """A module of extras/, or None where that was not copied."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def train(config, folder, data):
    """Train the run in `folder` on `data`, a Dataset or a Mixture, to its end, from its newest
    checkpoint if it has one. Returns the bits per byte of all validation text, or None if stopped.
    """
    device, sizes = choose_device(config.device), token_bytes(data.tokenizer)
    model = config.make_model(data.tokenizer.vocab_size).to(device)
    start = restore_weights(folder, config, data, model)
    optimizer, loss = make_optimizer(model, config), config.objective(model)
    loader, judge = config.batches(data, model), evaluate
    if hasattr(loader, "objective"):
        loss, judge = loader.objective(loss), loader.evaluate
    torch.manual_seed(config.seed)
    restore_state(start, optimizer=optimizer, loader=loader)
    step, seconds, stopped = start["step"], start["seconds"], 0
    beside = extra("beside") and extra("beside").Beside(
        config, folder, data, loader, start, model, lambda: tensors(model))
    with beside or contextlib.nullcontext(), StopSignal() as stop:  # Ctrl-C sets stop.asked
        while step < config.steps and not stopped:
            # 1. a step
            began, batch = time.perf_counter(), next(loader)
            mean, norm = train_step(model, optimizer, batch, step, config, loss)
            step, stopped = step + 1, stop.asked
            seconds += time.perf_counter() - began
            # 2. evaluate, report, save
            bits, saves = None, step % config.save_every == 0 or step == config.steps
            if saves or step % config.eval_every == 0:  # every checkpoint is evaluated
                bits = judge(model, data.val, sizes, config, config.eval_tokens)
            if beside:
                beside.after(step, seconds, mean, norm, optimizer.param_groups, bits, batch)
            elif bits is not None:
                print(f"step {step}  loss {mean:.3f}  {bits:.3f} bits per byte")
            if saves or stopped:
                state = dict(step=step, seconds=seconds, optimizer=optimizer.state_dict(),
                             loader=loader.state_dict(), data=data.hash, rng=torch.get_rng_state())
                save_checkpoint(folder, step, tensors(model), state, config.keep, bits)
        stop.release()  # from here on nothing is lost
        if stop.asked:
            print(f"stopped after step {step}, which is saved; --resume goes on")
            return None
        print(f"step {step}, the last, is saved; evaluating on the validation text")
        bits = judge(model, data.val, sizes, config, config.last_eval_tokens)
        if beside:
            beside.finished(step, bits)
    chat = ' --chat --prompt "What is 2 + 3?"' * (config.sampling in CHAT)
    print(f"{bits:.3f} bits per byte of validation text\n"
          f"next: python 05_sample/sample.py --run {folder.name}{chat}")
    return bits


def make_parser(kind, presets=None):
    """A parser of a run's options: those below, and the fields of `kind`, a Config class."""
    parser = Parser(description=__doc__.splitlines()[0],
                    epilog="python 04_train/extras/presets.py lists more presets and options")
    add = parser.add_argument
    add("--preset", choices=presets, help="values for options not given (default: tiny)")
    add("--name", "--run", help="the run's name (default: the preset's)")
    add("--runs-dir", default="runs", help="where runs are kept (default: runs)")
    add("--resume", action="store_true", help="go on with the run of that name, or the last")
    add("--plan", action="store_true", help="say what it would take, and end")
    add("--profile", action="store_true", help="say what a step spends where, and end")
    add_options(parser, kind)
    return parser


def read_command_line(argv):
    """(all options, those of them that are fields of Config, the preset's fields, Config). For
    unknown presets and options, extras/presets.py has more presets, and a Config with more fields.
    """
    kind, presets = Config, PRESETS
    words, others = make_parser(kind).parse_known_args(argv)
    if others or words.preset not in (None, *presets) or hasattr(words, "init"):
        from presets import ALL as presets, FullConfig as kind
        words = make_parser(kind, presets).parse_args(argv)
    given = {"by_hand": True} if by_hand() else {}  # so that a reader's code runs
    given |= {name: value for name, value in vars(words).items() if hasattr(kind, name)}
    return words, given, presets[words.preset or "tiny"], kind


def check(config):
    """ValueError if a single process can't train with this config."""
    choose_device(config.device)
    if config.dtype == "float16":
        raise ValueError("dtype float16 needs its loss scaled, which only 07_scale/scale.py does")


@contextlib.contextmanager
def opened(argv, world=1, check=check, memory=None):
    """A context with (config, folder, data) of the run that a command line means, locked; None if
    there is nothing to train. All errors that can be known come before a new run's folder is made.
    memory(config, model_config): {part: bytes} of each of `world` processes that share the work.
    """
    words, *meant = read_command_line(argv)
    folder, config = choose_run(words, *meant)
    check(config)
    if words.plan or words.profile or extra("length"):
        from length import answered
        if answered(words, folder, config, world, memory):
            yield None
            return
    with contextlib.ExitStack() as held:
        if folder:
            held.enter_context(holding(folder, "is being trained"))
        newest = folder and newest_checkpoint(folder)
        tokenizer = extra("starting").adopted_tokenizer(folder, config) if config.init else None
        data = (run_data(folder, config.by_hand, getattr(words, "data_dir", None)) if folder else
                prepare(config.data, config.vocab_size, config.data_dir, tokenizer, config.by_hand))
        if extra("length") or not config.steps:
            from length import announce
            config = announce(config, data, world, memory, folder or "micro_batch" in meant[0])
        config.batches(data, None, 0, world)  # ValueError if they don't fit the data
        if not folder:
            folder = start_run(words.runs_dir, words.name or words.preset or "tiny")
            if extra("metrics"):
                held.callback(extra("metrics").forget_unbegun, folder)
            held.enter_context(holding(folder, "is being trained"))
        write_config(folder, config, data)
        print(f"run        {folder}: steps {step_of(newest) if newest else 0} to {config.steps} of "
              f"{config.batch_size} x {config.seq_len} tokens, {choose_device(config.device)} "
              f"{config.dtype}")
        yield config, folder, data


def main(argv=None):
    with opened(argv) as found:
        if found:
            train(*found)


if __name__ == "__main__":
    run(main)
