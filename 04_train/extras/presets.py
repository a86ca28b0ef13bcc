"""More presets than train.py's, and more options: other families of models, other objectives.

train.py looks here for unknown presets and options. A preset is a dict of FullConfig's fields.

    python 04_train/extras/presets.py                # lists both
    python 04_train/train.py --preset speedrun

Reads and writes nothing. Next: length.py.
"""

import dataclasses
import functools
import os
import sys
from dataclasses import dataclass

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, option, run

import torch

from family import FAMILIES, MODERN, MODELS, FamilyConfig, dimensions
from gpt import make_model
from losses import smoothed_loss
from train import PRESETS, Config


@dataclass(frozen=True)
class FullConfig(FamilyConfig, Config):
    """A Config with options that few runs need. `family` follows from FamilyConfig's fields."""

    label_smoothing: float = option(0.0, "share of the loss spread evenly over all ids",
                                    least=0, most=0.9999)
    z_loss: float = option(0.0, "weight of log(Z)^2 in the loss, which keeps logits small",
                           least=0)
    init_std: float = option(0.0, "std of new matrices and tables; 0: by their size", least=0)
    beta: float = option(0.1, "pairs: the larger, the nearer the model stays to the reference",
                         least=1e-9)
    wandb: bool = option(False, "send metrics to Weights & Biases, too")
    snapshots: int = option(0, "steps whose weights are kept, evenly spaced in log(tokens)",
                            least=0)
    lora: int = option(0, "rank of adapters, which AdamW trains instead of all that --init brings; "
                       "0: none", least=0)
    lora_alpha: float = option(0.0, "adapters are scaled by alpha / rank; 0: twice the rank",
                               least=0)

    def __post_init__(self):
        family = FamilyConfig(**{field.name: getattr(self, field.name)
                                 for field in dataclasses.fields(FamilyConfig)})
        object.__setattr__(self, "family", None if family == MODERN else family)
        Config.__post_init__(self)
        family.check(self)
        if self.bigrams and not self.init and self.positions != "rope":
            raise ValueError(f"bigrams is {self.bigrams}, but {self.positions} positions change "
                             "what the blocks see of an id: give --bigrams 0")
        if self.lora and not self.init:
            raise ValueError(f"lora is {self.lora}, but adapters are for a model that is trained "
                             "already: give --init FOLDER")
        if self.lora > self.d_model:  # also of a damaged config, which may ask for any size
            raise ValueError(f"lora is {self.lora}, but the rank of adapters must be at most "
                             f"d_model, {self.d_model}")
        if self.lora:  # Muon is for the steps of whole matrices
            object.__setattr__(self, "optimizer", "adamw")

    def make_model(self, vocab_size):
        model = make_model(self.gpt(vocab_size), self.seed, self.init_std)
        if self.lora:
            from lora import add_adapters
            add_adapters(model, self.lora, self.lora_alpha, self.seed)
        return model

    def objective(self, model):
        """Config's, with label smoothing and z-loss."""
        loss = Config.objective(self, model)
        if not (self.label_smoothing or self.z_loss):
            return loss
        loss = functools.partial(smoothed_loss, model, label_smoothing=self.label_smoothing,
                                 z_loss=self.z_loss)
        return torch.compile(loss) if self.compile else loss


# ---- the presets ----
# Every model of family.py can be trained. For these presets, choose steps and batch yourself; the
# learning rate falls with the width, about as over GPT-3's sizes (Brown et al. 2020, table 2.1).
ALL = PRESETS | {name: {"lr": round(0.5 / fields["d_model"], 5)} | fields
                 for name, fields in MODELS.items()}

# Characters of Shakespeare. classic: nanoGPT's recipe for a laptop (train_shakespeare_char.py and
# its README), 0.8 million parameters in 4 layers. speedrun: ours for the same loss. Tables of
# n-grams (ngrams.py), 4.2 million numbers without matrix products, do the work of the first layers;
# one layer, 0.13 million, does the rest, with Muon, in 90 steps. What each part is worth:
# tests/bench.py train --ablations.
BYTES = dict(data=("shakespeare",), vocab_size=265, seq_len=64, eval_tokens=20_000)
ALL["classic"] = FAMILIES["gpt2"] | dimensions(4, 128, 4) | BYTES | dict(
    bias=False, init_std=0.02, lr=1e-3, beta2=0.99, schedule="cosine", min_lr_share=0.1, warmup=100,
    batch_size=12, micro_batch=12, steps=2000, eval_every=250, save_every=1000)
ALL["speedrun"] = dimensions(1, 128, 4, d_ff=256) | BYTES | dict(
    ngrams=5, optimizer="muon", lr=0.03, muon_lr=0.02, warmup=5, cooldown=0.7, weight_decay=0.0,
    batch_size=16, micro_batch=16, steps=90, eval_every=45, save_every=90)

# The first transformer's recipe (Vaswani et al. 2017, section 5) for a decoder: its schedule, its
# AdamW without decay, its label smoothing. Documents follow one another, each behind a <|bos|>.
ALL["scratch"] |= dict(
    data=("wikitext-2",), sampling="stream", schedule="inverse-sqrt", warmup=4000,
    lr=(512 * 4000) ** -0.5, beta2=0.98, label_smoothing=0.1, weight_decay=0.0, batch_size=32,
    micro_batch=32, steps=20_000, eval_every=500, save_every=1000)
ALL["pile"] = ALL["gpt2"] | dict(
    data=("the-pile,num_shards=4",), lr=6e-4, schedule="cosine", min_lr_share=0.1, warmup=700,
    batch_size=512, micro_batch=4, dtype="bfloat16", steps=0, tokens_per_param=20.0,
    eval_every=500, eval_tokens=1_000_000, save_every=1000)
ALL["go"] = PRESETS["small"] | dict(data=("the-stack,language=go,fim=0.5",))
# These continue from the model given by --init. Some Go that we think is good, after `go`:
ALL["good-go"] = dict(
    init="", data=("folder:04_train/extras/good_go",), sampling="stream", lr=1e-4, warmup=5,
    seq_len=1024, batch_size=4, micro_batch=4, steps=40, eval_every=10, save_every=40)
# A text of yours, after a GPT-2 or a Llama:
ALL["continue"] = dict(
    init="", sampling="stream", lr=5e-5, warmup=10, seq_len=256, batch_size=8, micro_batch=8,
    steps=200, eval_every=50, save_every=100)
# From a model that continues texts to one that answers (sft.py), at the size of a real one:
ALL["mid"] = dict(
    init="", data=("fineweb-edu:0.7", "smoltalk,loss=all:0.3"), seq_len=1024, batch_size=512,
    micro_batch=8, optimizer="muon", lr=0.003, muon_lr=0.01, warmup=100, cooldown=0.8, steps=1000,
    dtype="bfloat16", eval_every=100, eval_tokens=1_000_000, save_every=200)
ALL["sft"] = dict(
    init="", data=("smoltalk",), sampling="conversations", seq_len=1024, batch_size=128,
    micro_batch=8, lr=3e-4, weight_decay=0.0, warmup=50, cooldown=0.8, steps=2000, eval_every=50,
    eval_tokens=50_000, save_every=200)
ALL["rl"] = dict(
    init="", data=("gsm8k",), sampling="answers", seq_len=1024, batch_size=128, micro_batch=8,
    group=8, answer_tokens=256, lr=1e-5, weight_decay=0.0, warmup=10, cooldown=0.8, steps=400,
    eval_every=20, eval_tokens=400_000, last_eval_tokens=2_000_000, save_every=20)
# From pairs of answers (dpo.py). Rate, warm-up, beta and 64 pairs in a batch are those of the paper
# (Rafailov et al. 2023, appendix B), which used RMSprop; real pairs are --data jsonl:FILE.
ALL["dpo"] = dict(
    init="", data=("tasks,form=pairs",), sampling="pairs", seq_len=1024, batch_size=128,
    micro_batch=8, lr=1e-6, weight_decay=0.0, warmup=150, cooldown=0.8, steps=1000, eval_every=50,
    eval_tokens=50_000, save_every=200)


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    for name, fields in ALL.items():
        c = FullConfig(**fields)
        print(f"{name:13} {c.n_layer:3} layers of width {c.d_model:5,}, {c.vocab_size:6,} ids, "
              f"window {c.seq_len:5,}; {c.optimizer}, {', '.join(c.data)}")
    print("\nOptions of train.py beside its own:")
    own = {field.name for field in dataclasses.fields(Config)}
    for field in dataclasses.fields(FullConfig):
        if field.name not in own:
            choices = field.metadata["choices"]
            print(f"--{field.name.replace('_', '-'):17} {field.metadata['help']}"
                  + (f": {', '.join(choices)}" if choices else "")
                  + f" (default: {field.default})")


if __name__ == "__main__":
    run(main)
