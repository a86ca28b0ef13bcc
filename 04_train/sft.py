"""Supervised fine-tuning: from a model that continues texts to one that answers.

The loop is train.py's, or 07_scale/scale.py's; only the batches and the loss are different. A
window holds several whole conversations, one after another, so that little of it is padding. An
attention mask keeps them from seeing each other: each is learned as if it were alone. And a loss
mask (02_data/conversations.py) leaves only what the assistant says to be learned; else the model
would also learn to write the user's questions, and to make up what a tool says.

    python 04_train/sft.py --init runs/tiny --data tasks,form=chat --steps 60 --lr 0.003
    python 04_train/sft.py --init runs/tiny --data tasks,form=chat --show-mask 3    # in green
    torchrun --nproc-per-node 2 07_scale/scale.py --preset sft --init runs/tiny --data gsm8k

Takes train.py's options; reads a source of conversations; writes what train.py does. Next: rl.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run
import math
from bisect import bisect_left, insort

import numpy as np
import torch

from conversations import coloured
from gpt import causal_mask
from train import opened, train


# ---- several conversations in a window ----
def pack(lengths, room):  # exercise
    """Which conversations share a window: a list of windows, each a list of indices of `lengths`.

    lengths: ints from 1 to `room`, which is a window's length. The longest conversation comes
    first, of equals the one with the lower index. Each goes into the window that has the least room
    left in which it fits, of equals the first that was opened; if it fits nowhere, into a new one
    (best fit decreasing, Johnson 1973). How many windows there are depends on the lengths alone,
    not on their order. pack([1, 3, 2, 2, 3], 5) == [[1, 2], [4, 3], [0]]
    """
    windows, left, least = [], [], min(lengths, default=0)  # left: [(room, window), ...], sorted
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect_left(left, (lengths[i],))
        space, window = left.pop(place) if place < len(left) else (room, len(windows))
        if window == len(windows):
            windows.append([])
        windows[window].append(i)
        if space - lengths[i] >= least:
            insort(left, (space - lengths[i], window))
    return windows


def packed_mask(starts):  # exercise
    """What each id of a window may attend to: (B, 1, T, T) booleans, the same for all heads.

    starts: (B, T) ints, the place in its window where the conversation of each id begins. An id may
    attend to itself and to earlier ids of its own conversation. For starts [[0, 0, 2]] the rows are
    [1, 0, 0], [1, 1, 0], [0, 0, 1].
    """
    T = starts.shape[1]
    same = starts[:, :, None] == starts[:, None, :]
    return (same & causal_mask(torch.arange(T, device=starts.device), T)).unsqueeze(1)


def packed_loss(loss, x, y, starts):  # exercise
    """The loss of each target, (B, T) nats, as if every conversation were alone in its window.

    loss(x, y, positions, mask): model.loss; x, y: (B, T), inputs and targets; starts: as for
    packed_mask(). Positions, (B, T), count from 0 in each conversation, as learned or sinusoidal
    ones need it; to RoPE only distances matter.
    """
    positions = torch.arange(x.shape[1], device=x.device) - starts
    return loss(x, y, positions, packed_mask(starts))


class Packed:
    """The conversations in some Ids, to be read in windows of T = seq_len ids. Longer ones are cut
    to a window; those with nothing to learn in it are dropped; both are counted. ValueError if none
    is left.
    """

    def __init__(self, ids, seq_len):
        self.ids, self.seq_len, self.cut, self.dropped = ids, seq_len, 0, 0
        self.conversations = []  # (where it begins, how many ids are read of it)
        for start, end in zip(ids.starts, [*ids.starts[1:], len(ids)]):
            n = min(int(end - start), seq_len + 1)  # the last one is a target only
            if (ids.labels(start, n)[1:] >= 0).any():
                self.conversations.append((int(start), n))
                self.cut += n < end - start
            else:
                self.dropped += 1
        if not self.conversations:
            raise ValueError(f"of {self.dropped:,} conversations none has anything to learn in its "
                             f"first {seq_len:,} ids; is the window, seq_len, too short?")

    def windows(self, order):
        """All conversations, each once: lists of those that share a window. order: a permutation of
        their numbers, which decides between conversations of one length.
        """
        chosen = [self.conversations[i] for i in order]
        return [[chosen[i] for i in window]
                for window in pack([n - 1 for _, n in chosen], self.seq_len)]

    def read(self, windows):  # exercise
        """(inputs, targets, starts) of some windows, numpy, (B, T) int64 each.

        A window is a list of conversations (start, n), n ids of self.ids from `start` on, which
        stand one after another from place 0 on: the first n - 1, by ids.read(), are inputs, the
        last n - 1, by ids.labels(), their targets. `starts` has, for each id, the place in the
        window where its conversation begins. The padding at the end has input 0, target -1, and its
        own place as start. Of conversations 1 2 3 and 4 5, of which only 3 and 5 are learned, and T
        = 4: inputs 1 2 4 0, targets -1 3 5 -1, starts 0 0 2 3.
        """
        shape = len(windows), self.seq_len
        inputs, targets = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        starts = np.tile(np.arange(self.seq_len), (len(windows), 1))
        for b, window in enumerate(windows):
            place = 0
            for start, n in window:
                here = slice(place, place + n - 1)
                inputs[b, here] = self.ids.read(start, n - 1)
                targets[b, here] = self.ids.labels(start + 1, n - 1)
                starts[b, here] = place
                place += n - 1
        return inputs, targets, starts


# ---- what the loops need ----
class Batches:
    """Endless batches (inputs, targets, starts) of packed conversations. Each epoch has all of
    them, packed anew, in another order. A batch is the same for any number of processes, `world`:
    number `rank` reads rows rank, rank + world ...
    """

    def __init__(self, config, data, model=None, rank=0, world=1):
        if config.batch_size < world:
            raise ValueError(f"batch_size is {config.batch_size}, too few windows for {world} "
                             "processes")
        if len({share for share, _ in data.parts}) > 1:
            raise ValueError("each conversation is read once in an epoch: give no shares")
        if config.sampling != "pairs" and any(getattr(part, "index", {}).get("pairs")
                                              for _, part in data.parts):
            raise ValueError("half of the answers in pairs are not to be learned: see dpo.py")
        if getattr(config.family, "ngrams", 0):
            raise ValueError("n-grams reach into the conversation before: leave --ngrams out")
        self.packed, self.val = (Packed(ids, config.seq_len) for ids in (data.train, data.val))
        self.config, self.rank, self.world = config, rank, world
        self.n, self.epoch = 0, None  # n: windows so far, of all ranks
        self.begin(0)
        if model is not None and rank == 0:
            print(self)

    def __str__(self):
        packed, n_ids = self.packed, sum(n - 1 for _, n in self.packed.conversations)
        return (f"packed     {len(packed.conversations):,} conversations in {len(self.order):,} "
                f"windows, {1 - n_ids / len(self.order) / self.config.seq_len:.1%} of them padding;"
                f" {packed.cut:,} too long and cut, {packed.dropped:,} dropped: nothing to learn")

    def begin(self, epoch):
        """Draw an epoch's windows, and their order. All epochs have as many."""
        rng = np.random.default_rng((self.config.seed, epoch))
        self.windows = self.packed.windows(rng.permutation(len(self.packed.conversations)))
        self.epoch, self.order = epoch, rng.permutation(len(self.windows))

    def window(self, n):
        """Number n, n = 0, 1, ... of the windows that are trained on."""
        epoch, i = divmod(n, len(self.order))
        if epoch != self.epoch:
            self.begin(epoch)
        return self.windows[self.order[i]]

    def __next__(self):
        rows = range(self.n + self.rank, self.n + self.config.batch_size, self.world)
        self.n += self.config.batch_size
        return self.packed.read([self.window(n) for n in rows])

    def objective(self, loss):
        """The loss that train_step() calls with a micro-batch. loss: a model's."""
        return lambda x, y, starts: packed_loss(loss, x, y, starts)

    @torch.no_grad()
    def evaluate(self, model, ids, sizes, config, max_tokens=None, rank=0, world=1,
                 total=lambda sums: sums):
        """As train.evaluate(), but of packed conversations, self.val. Of what is learned only text
        counts: special tokens have no bytes.
        """
        windows = self.val.windows(range(len(self.val.conversations)))
        if max_tokens:  # spread evenly
            windows = windows[::-(-len(windows) * config.seq_len // max_tokens)]
        b, loss, sums = min(config.micro_batch, config.batch_size // world), model.loss, np.zeros(2)
        device, dtype = model.embed.weight.device, getattr(torch, config.dtype)
        for i in range(rank, rank + len(windows), b * world):  # as a model divided over ranks needs
            some = windows[i:i + b * world:world]
            batch = self.val.read(some or windows[:1])
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                nats = packed_loss(loss, *(torch.tensor(a, device=device) for a in batch))
            n_bytes = np.where(batch[1] >= 0, sizes[batch[1]], 0)
            if some:
                sums += nats.cpu().double().numpy()[n_bytes > 0].sum(), n_bytes.sum()
        nats, n_bytes = np.asarray(total(sums))
        if not math.isfinite(bits := nats / (math.log(2) * n_bytes)):
            raise ValueError(f"validation costs {bits} bits per byte: the weights are spoiled, "
                             "or it has nothing to learn")
        return bits

    def epochs(self):
        return [self.n / len(self.order)]

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = int(state["n"])


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0], add_help=False,
                    usage="sft.py [options], and all of train.py's, which follow")
    parser.add_argument("--show-mask", type=int, default=0, metavar="N", help="print N "
                        "conversations, with what is learned of them in green, and end")
    own, rest = parser.parse_known_args(argv)
    if {"-h", "--help"} & {*rest}:
        parser.print_help()
    with opened(["--preset", "sft", *rest, "--sampling", "conversations"]) as found:
        if found and own.show_mask:
            config, _, data = found
            loader = Batches(config, data)
            for start, n in loader.packed.conversations[:own.show_mask]:
                labels = data.train.labels(start, n)
                print(coloured(data.train.read(start, n), labels >= 0, data.tokenizer) + "\n")
            print(loader)
        elif found:
            train(*found)


if __name__ == "__main__":
    run(main)
