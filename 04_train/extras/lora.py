"""Low-rank adapters (LoRA, Hu et al. 2021): fine-tune a model without gradients of its weights.

Each matrix W inside the blocks is frozen; beside it B A is trained, of so low a rank that B and A
have few numbers. Where all parameters are trained, gradients and AdamW's averages take three times
the memory of the weights; here next to none. At the end B A can be added to W, and the model has
its old shape again. A run has adapters if it is begun with --init and --lora RANK.

    python 04_train/sft.py --init FOLDER --data gsm8k --lora 8 --lr 1e-3 --name small
    python 04_train/extras/lora.py merge --run small --name whole

Embedding and head stay as they are; so a model that has never read a conversation can't learn to
end an answer: the special tokens look alike to it. Give it some first (--preset mid).
Left out: adapters of embedding and head, dropout, checkpoints without the frozen weights.
merge reads a run, and writes one of the plain shape. Next: blocked.py.
"""

import dataclasses
import json
import os
import shutil
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run, write_safely

import torch
import torch.nn.functional as F
from torch import nn

from length import rank_of
from optim import make_optimizer
from runs import (as_json, find_checkpoint, load_run, load_state, newest_run, read_run,
                  save_checkpoint, start_run, tensors, val_of)


class LoRA(nn.Linear):
    """A Linear's W and b, under the names that they had, and beside them the adapter B A."""

    def __init__(self, linear, rank, alpha, generator):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.adapt(rank, alpha, generator)

    def adapt(self, rank, alpha, generator):  # exercise
        """Freeze the weight, (out, in), and the bias, if there is one: they require no gradients.
        Add the adapter (Hu et al. 2021, section 4.1), two nn.Parameters in float32: self.lora_a,
        (rank, in), normal numbers of std in^-0.5, which nn.init.normal_() draws with the generator;
        and self.lora_b, (out, rank), of zeros, so that at first the layer computes what it did
        without. self.scale = alpha / rank: with another rank the same learning rate will do.
        """
        self.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.empty(rank, self.in_features))
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank))
        nn.init.normal_(self.lora_a, std=self.in_features ** -0.5, generator=generator)
        self.scale = alpha / rank

    def forward(self, x):  # exercise
        """W x + b + scale B (A x), (..., in) -> (..., out). A x comes first, as B A would be as
        large as W. With W = [[1, 2]], no b, A = [[1, 1]], B = [[3]] and scale 2, x = [1, 1] becomes
        3 + 2 * 3 * 2 = 15.
        """
        low = F.linear(x, self.lora_a)  # (..., rank)
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(low, self.lora_b)

    @torch.no_grad()
    def merged(self):  # exercise
        """A plain nn.Linear that computes the same, with this one's bias, and this one's weight, to
        which scale B A has been added in place. It is made on the device "meta", where it takes no
        memory, and draws no random numbers, for a weight of its own.
        """
        linear = nn.Linear(self.in_features, self.out_features, device="meta")
        self.weight += self.scale * self.lora_b @ self.lora_a
        linear.weight, linear.bias = self.weight, self.bias
        return linear


# ---- of a whole model ----
def replace_layers(model, kind, make):
    """Replace each layer of the blocks that is of this very class by make(layer), in place."""
    for parent in [*model.blocks.modules()]:
        for name, child in [*parent.named_children()]:
            if type(child) is kind:
                setattr(parent, name, make(child))
    return model


def add_adapters(model, rank, alpha=0.0, seed=0):
    """Freeze a GPT of any family, and add adapters to the Linears of its blocks, in place. Returns
    it. alpha 0: twice the rank, as in Biderman et al. 2024. seed: of the A's.
    """
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    return replace_layers(model, nn.Linear,
                          lambda linear: LoRA(linear, rank, alpha or 2 * rank, generator))


def merge(model):
    """Make a model plain again, in place, by LoRA.merged(). Returns it; it stays frozen. A model
    without adapters stays as it is.
    """
    return replace_layers(model, LoRA, LoRA.merged)


def is_adapter(name):
    """Whether a tensor of this name belongs to an adapter."""
    return name.endswith((".lora_a", ".lora_b"))


# ---- the command ----
def merged_run(folder, name):
    """A new run, called `name`, beside the one in `folder`: its newest checkpoint, with adapters
    merged, and its config, without. It goes on with all parameters trained, their averages new.
    Returns its folder. ValueError if there are no adapters.
    """
    config, data_hash, where = read_run(folder)
    if not rank_of(config):
        raise ValueError(f"{folder} has no adapters that could be merged")
    model, _, _, step = load_run(folder)
    checkpoint = find_checkpoint(folder, str(step))
    config = dataclasses.replace(config, lora=0, lora_alpha=0.0)
    optimizer = make_optimizer(merge(model).requires_grad_(True), config)
    state = load_state(checkpoint) | {"optimizer": optimizer.state_dict()}
    new, val = start_run(folder.parent, name), val_of(checkpoint)
    parts = [(share, os.path.relpath(part, new.resolve())) for share, part in where]
    content = as_json(config) | {"data_hash": data_hash, "data_folders": parts}
    write_safely(new / "config.json", json.dumps(content, indent=1))
    shutil.copy(folder / "tokenizer.json", new)
    save_checkpoint(new, step, tensors(model), state, val=val if val < float("inf") else None)
    return new


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("merge",), help="add adapters to what they adapt")
    parser.add_argument("--run", help="the run that has them (default: the one that saved last)")
    parser.add_argument("--name", help="of the new run (default: the run's, and -merged)")
    parser.add_argument("--runs-dir", default="runs", help="where runs are kept (default: runs)")
    given = parser.parse_args(argv)
    folder = newest_run(given.runs_dir, given.run)
    new = merged_run(folder, given.name or f"{folder.name}-merged")
    print(f"wrote {new}: {folder}, its adapters merged\n"
          f"next: python 05_sample/sample.py --run {new.name}")


if __name__ == "__main__":
    run(main)
