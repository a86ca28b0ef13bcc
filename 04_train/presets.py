"""What a run is: the shape of its model and how it is trained, and the presets that fill it in.

Every field is an option of train.py. Left out: where a run is kept (runs.py). Next: runs.py.
"""

import dataclasses
import math
import sys
from dataclasses import dataclass
from pathlib import Path

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import option
from family import MODELS
from gpt import GPTConfig


OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("wsd", "linear", "cosine", "inverse-sqrt")


@dataclass(frozen=True)
class Config(GPTConfig):
    """A run, whole: the shape of the model and how it is trained. The same config on the same
    machine gives the same weights, bit for bit.
    """

    data: tuple = option(("python",), "sources (02_data/corpus.py lists them) or shards:FOLDER; "
                                      "of several, NAME:0.3 gives each its share of the windows")
    sampling: str = option("random", "windows from random places, the text cut every seq_len ids "
                           "(stream), or windows that begin with a document (bestfit)",
                           ("random", "stream", "bestfit"))
    batch_size: int = option(8, "windows in a step, over all micro-batches and processes")
    micro_batch: int = option(8, "windows at once; less takes less memory, gradients are the same")
    steps: int = option(700, "optimizer steps")
    optimizer: str = option("adamw", "of the matrices inside the blocks; AdamW moves the others",
                            OPTIMIZERS)
    lr: float = option(6e-3, "peak learning rate of what AdamW moves")
    muon_lr: float = option(0.02, "peak learning rate of the matrices that Muon moves")
    momentum: float = option(0.95, "Muon's: how much of the average of the gradients stays")
    schedule: str = option("wsd", "how the learning rate falls after its warm-up: level and then "
                           "straight down, straight or curved all the way, or for ever slower",
                           SCHEDULES)
    warmup: int = option(100, "steps over which the learning rate rises from 0")
    cooldown: float = option(0.5, "wsd: share of the steps over which it falls again")
    min_lr_share: float = option(0.0, "share of the peak to which it falls; inverse-sqrt has none")
    weight_decay: float = option(0.1, "of the matrices inside the blocks; the others have none")
    grad_clip: float = option(1.0, "largest norm of the gradients")
    eval_every: int = option(100, "steps between evaluations on eval_tokens tokens")
    eval_tokens: int = option(10_000, "validation tokens in an evaluation; the last one takes all")
    save_every: int = option(200, "steps between checkpoints")
    seed: int = option(0, "of the weights and of the order of the data")
    device: str = option("auto", "where to compute", ("auto", "cpu", "cuda", "mps"))
    dtype: str = option("float32", "of matrix products; bfloat16 keeps float32 weights",
                        ("float32", "bfloat16"))
    data_dir: str = option("data", "where downloads and shards are kept")

    def __post_init__(self):
        super().__post_init__()
        names = (self.data,) if isinstance(self.data, str) else tuple(self.data)
        object.__setattr__(self, "data", names)
        least = {"batch_size": 1, "micro_batch": 1, "steps": 1, "eval_every": 1, "save_every": 1,
                 "eval_tokens": 2, "warmup": 0, "weight_decay": 0, "seed": 0, "cooldown": 0,
                 "min_lr_share": 0, "momentum": 0}
        for name, value in least.items():
            if not getattr(self, name) >= value:  # not "<", which would let nan pass
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {value}")
        for name in ("lr", "muon_lr", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be a number above 0")
        for name in ("cooldown", "min_lr_share"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be a share of at most "
                                 "1")
        if self.momentum >= 1:
            raise ValueError(f"momentum is {self.momentum}, but must be below 1")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of "
                                 f"{', '.join(known)}")

    def gpt(self, vocab_size):
        """The shape of the model, with the vocabulary that the tokenizer really has."""
        shape = {field.name: getattr(self, field.name) for field in dataclasses.fields(GPTConfig)}
        return GPTConfig(**shape | {"vocab_size": vocab_size})


# Every model of family.py; its steps and batch are yours to say. The learning rate falls with the
# width, about as it did over GPT-3's sizes (Brown et al. 2020, table 2.1).
PRESETS = {name: {"lr": round(0.5 / shape.get("d_model", 128), 5)} | shape
           for name, shape in MODELS.items()}
PRESETS["nano"] |= dict(steps=100, warmup=10, lr=6e-3, eval_every=20, eval_tokens=5_000,
                        save_every=20)  # seconds: to see it work
PRESETS["tiny"] = dict()  # two minutes on two cores: Config's own defaults

# What may change when a run goes on: how long it is (which moves the cool-down), how often it
# reports, how much memory it takes, and where; never what it is.
MAY_CHANGE = {"steps", "micro_batch", "eval_every", "save_every", "device", "data_dir"}
