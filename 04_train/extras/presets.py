"""What a run is: the shape of its model and how it is trained, and the presets that fill it in.

Every field is an option of train.py. Left out: where a run is kept (runs.py). Next: length.py.
"""

import dataclasses
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

from console import option
from family import FAMILIES, LADDER, MODERN, MODELS, FamilyConfig, rung, shape
from gpt import GPTConfig
from optim import SCHEDULES


OPTIMIZERS = ("adamw", "muon")


@dataclass(frozen=True)
class Config(FamilyConfig, GPTConfig):
    """A run, whole: the shape of the model and how it is trained. The same config on the same
    machine gives the same weights, bit for bit. `family` follows from FamilyConfig's fields.
    """

    data: tuple = option(("python",), "sources (02_data/extras/corpus.py lists them); "
                                      "of several, NAME:0.3 gives each its share of the windows")
    sampling: str = option("random", "windows from random places, the text cut every seq_len ids "
                           "(stream), or windows that begin with a document (bestfit)",
                           ("random", "stream", "bestfit"))
    batch_size: int = option(8, "windows in a step, over all micro-batches and processes")
    micro_batch: int = option(8, "windows at once; less takes less memory, gradients are the same")
    steps: int = option(350, "optimizer steps; 0: let flops or tokens_per_param say")
    flops: float = option(0.0, "instead of steps: spend so many FLOPs")
    tokens_per_param: float = option(0.0, "instead of steps: so many tokens for each parameter "
                                     "outside the embedding table; 20 is Chinchilla's")
    optimizer: str = option("adamw", "of the matrices inside the blocks; AdamW moves the others",
                            OPTIMIZERS)
    lr: float = option(6e-3, "peak learning rate of what AdamW moves")
    muon_lr: float = option(0.02, "peak learning rate of the matrices that Muon moves")
    momentum: float = option(0.95, "Muon's: how much of the average of the gradients stays")
    beta2: float = option(0.95, "AdamW's: how much of the average of their squares stays")
    schedule: str = option("wsd", "how the learning rate falls after its warm-up: level and then "
                           "straight down, straight or curved all the way, or for ever slower",
                           SCHEDULES)
    warmup: int = option(100, "steps over which the learning rate rises from 0")
    cooldown: float = option(0.5, "wsd: share of the steps over which it falls again")
    min_lr_share: float = option(0.0, "share of the peak to which it falls; inverse-sqrt has none")
    weight_decay: float = option(0.1, "of the matrices inside the blocks; the others have none")
    grad_clip: float = option(1.0, "largest norm of the gradients")
    label_smoothing: float = option(0.0, "share of the loss that asks for all ids alike")
    z_loss: float = option(0.0, "weight of log(Z)^2 in the loss, which keeps logits small")
    init: str = option("", "a Hugging Face folder: begin with its shape, weights and tokenizer")
    init_std: float = option(0.0, "of new matrices and tables; 0: by their size, see gpt.py")
    eval_every: int = option(100, "steps between evaluations on eval_tokens tokens")
    eval_tokens: int = option(10_000, "validation tokens in an evaluation; the last one takes all")
    save_every: int = option(200, "steps between checkpoints; each is evaluated, too")
    keep: int = option(2, "newest checkpoints kept, beside the best one")
    seed: int = option(0, "of the weights and of the order of the data")
    device: str = option("auto", "where to compute", ("auto", "cpu", "cuda", "mps"))
    dtype: str = option("float32", "of matrix products; bfloat16 keeps float32 weights",
                        ("float32", "bfloat16", "float16"))
    compile: bool = option(False, "with torch.compile: minutes to start, then quicker steps")
    data_dir: str = option("data", "where downloads and prepared data are kept")
    wandb: bool = option(False, "send metrics to Weights & Biases, too")

    def __post_init__(self):
        FamilyConfig.__post_init__(self)
        family = FamilyConfig(**{field.name: getattr(self, field.name)
                                 for field in dataclasses.fields(FamilyConfig)})
        object.__setattr__(self, "family", None if family == MODERN else family)
        GPTConfig.__post_init__(self)
        family.check(self)
        names = (self.data,) if isinstance(self.data, str) else tuple(self.data)
        object.__setattr__(self, "data", names)
        least = {"batch_size": 1, "micro_batch": 1, "steps": 0, "eval_every": 1, "save_every": 1,
                 "keep": 1, "eval_tokens": 2, "warmup": 0, "weight_decay": 0, "seed": 0,
                 "cooldown": 0,
                 "min_lr_share": 0, "momentum": 0, "beta2": 0, "label_smoothing": 0, "z_loss": 0,
                 "init_std": 0}
        for name, value in least.items():
            if not getattr(self, name) >= value:  # not "<", which would let nan pass
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least {value}")
        for name in ("flops", "tokens_per_param"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be a number above 0, "
                                 "or 0 to leave it out")
        if not (self.steps or self.flops or self.tokens_per_param):
            raise ValueError("steps is 0, but must be at least 1, or flops or tokens_per_param say "
                             "how many")
        for name in ("lr", "muon_lr", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be a number above 0")
        for name in ("cooldown", "min_lr_share"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be a share of at most "
                                 "1")
        for name in ("momentum", "beta2", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be below 1")
        for field in dataclasses.fields(self):
            known, value = field.metadata.get("choices"), getattr(self, field.name)
            if known and value not in known:
                raise ValueError(f"{field.name} is {value!r}, but must be one of "
                                 f"{', '.join(known)}")

    def gpt(self, vocab_size):
        """The shape of the model, with the vocabulary that the tokenizer really has. A model from
        elsewhere keeps its own, which may be larger.
        """
        shape = {field.name: getattr(self, field.name) for field in dataclasses.fields(GPTConfig)}
        return GPTConfig(**shape | ({} if self.init else {"vocab_size": vocab_size}))

    def to_json(self):
        """What stands in config.json: FamilyConfig's fields together under `family`, or None."""
        ours = {field.name for field in dataclasses.fields(FamilyConfig)}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in ours}

    @classmethod
    def from_json(cls, content):
        """to_json() undone. TypeError, ValueError for what it did not write."""
        if "family" not in content:
            raise ValueError("it is of an earlier version; train it anew")
        kinds = {int: (int,), float: (int, float), bool: (bool,), str: (str,), tuple: (list,)}
        for field in dataclasses.fields(cls):
            value = (content | (content["family"] or {})).get(field.name)
            if value is not None and type(value) not in kinds.get(field.type, [type(value)]):
                raise ValueError(f"{field.name} is {value!r}")
        if not all(isinstance(name, str) for name in content.get("data", ())):
            raise ValueError(f"data is {content['data']!r}")
        return cls(**content | (content["family"] or {}))


# ---- the ladder: one rule for all sizes ----

def recipe(depth):
    """How the model rung(depth) of family.py is trained: Config's fields.

    Muon's rate is the same at every width: orthogonalised, an update is as large in a wide matrix
    as in a narrow one (Jordan et al. 2024; Bernstein & Newhouse 2024). AdamW's, for tables and
    head, falls with the root of the width, as nanochat's: 0.012 at width 192, one of two tried.
    Tokens in a batch: 2,048 at depth 3, then as depth^3, which is how the blocks' parameters grow,
    rounded to a power of two, half a million from depth 20 on. That larger models want larger
    batches is known, this exponent is a guess. A micro-batch halves as depth doubles, so that a
    block's activations fit. Length: 20 tokens a parameter outside the table (Hoffmann et al. 2022).
    Warm-up and cool-down are not tuned above tiny. From depth 12 on it is for GPUs, in bfloat16.
    """
    model = rung(depth)
    tokens = min(2**19, 2 ** round(math.log2(2048 * (depth / 3) ** 3)))
    batch = tokens // model["seq_len"]
    return dict(optimizer="muon", lr=round(0.012 * (192 / model["d_model"]) ** 0.5, 5),
                batch_size=batch, micro_batch=min(batch, 2 ** int(math.log2(48 / depth))),
                steps=0, tokens_per_param=20.0, cooldown=0.6, warmup=100,
                dtype="bfloat16" if depth >= 12 else "float32")


# ---- the presets ----

# Every model of family.py can be trained. Of those that others made steps and batch are yours to
# say; the rate falls with the width, about as it did over GPT-3's sizes (Brown et al. 2020, table
# 2.1).
PRESETS = {name: {"lr": round(0.5 / shape["d_model"], 5)} | shape
           for name, shape in MODELS.items()}
for name, depth in LADDER.items():
    PRESETS[name] |= recipe(depth)
PRESETS["nano"] |= dict(by_hand=True, steps=100, warmup=10, lr=6e-3, eval_every=20,
                        eval_tokens=5_000, save_every=20)  # to see it work, as it is written
PRESETS["tiny"] |= dict(steps=350, tokens_per_param=0.0, warmup=20)  # two minutes on two cores

# Characters of Shakespeare. classic: nanoGPT's recipe for a laptop (train_shakespeare_char.py and
# its README), 0.8 million parameters in 4 layers. speedrun: ours for the same loss. Tables of
# n-grams (ngrams.py), 4.2 million numbers that cost no products, say what the first layers would
# have to find out; one layer, 0.13 million, does the rest, with Muon, in 90 steps. What each part
# is worth: tests/bench.py train --ablations.
BYTES = dict(data=("shakespeare",), vocab_size=265, seq_len=64, eval_tokens=20_000)
PRESETS["classic"] = FAMILIES["gpt2"] | shape(4, 128, 4) | BYTES | dict(
    bias=False, init_std=0.02, lr=1e-3, beta2=0.99, schedule="cosine", min_lr_share=0.1, warmup=100,
    batch_size=12, micro_batch=12, steps=2000, eval_every=250, save_every=1000)
PRESETS["speedrun"] = shape(1, 128, 4, d_ff=256) | BYTES | dict(
    ngrams=5, optimizer="muon", lr=0.03, muon_lr=0.02, warmup=5, cooldown=0.7, weight_decay=0.0,
    batch_size=16, micro_batch=16, steps=90, eval_every=45, save_every=90)

# The first transformer's recipe (Vaswani et al. 2017, section 5) for a decoder: its schedule, its
# AdamW without decay, its label smoothing. Documents follow one another, each behind a <|bos|>.
PRESETS["scratch"] |= dict(
    data=("wikitext-2",), sampling="stream", schedule="inverse-sqrt", warmup=4000,
    lr=(512 * 4000) ** -0.5, beta2=0.98, label_smoothing=0.1, weight_decay=0.0, batch_size=32,
    micro_batch=32, steps=20_000, eval_every=500, save_every=1000)
PRESETS["pile"] = PRESETS["gpt2"] | dict(
    data=("the-pile,num_shards=4",), lr=6e-4, schedule="cosine", min_lr_share=0.1, warmup=700,
    batch_size=512, micro_batch=4, dtype="bfloat16", steps=0, tokens_per_param=20.0,
    eval_every=500, eval_tokens=1_000_000, save_every=1000)
PRESETS["go"] = PRESETS["small"] | dict(data=("the-stack,language=go,fim=0.5",))
# These go on from a model that --init names. A little of what we think good Go is, after `go`:
PRESETS["good-go"] = dict(data=("folder:04_train/extras/good_go",), sampling="stream", lr=1e-4,
                          warmup=5, seq_len=1024, batch_size=4, micro_batch=4, steps=40,
                          eval_every=10, save_every=40)
# A text of yours, after a GPT-2 or a Llama:
PRESETS["continue"] = dict(sampling="stream", lr=5e-5, warmup=10, seq_len=256, batch_size=8,
                           micro_batch=8, steps=200, eval_every=50, save_every=100)

GO_ON = {"good-go", "continue"}

# What may change when a run goes on: how long it is (which moves the cool-down), how often it
# reports, what it keeps, how much memory it takes, and where; never what it is.
MAY_CHANGE = {"steps", "flops", "tokens_per_param", "micro_batch", "eval_every", "save_every",
              "keep", "device", "compile", "data_dir", "wandb", "by_hand"}
