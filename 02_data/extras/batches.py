"""Batches of one source or several, sampled in three ways, for any number of processes.

A sampler chooses the next windows. It needs only lengths, so it is cheap: every process samples all
rows of each batch and reads only its own. Therefore any number of processes sees the same batches,
and a checkpoint needs only the samplers' state, a few numbers, to continue with exactly the next
batch, also on another number of processes.
A window is T ids and the one after. There are three samplers: random, random places, as in data.py;
stream, all windows of the text, cut every T ids, shuffled; bestfit, where every window begins with
a document. Several sources are mixed row by row.
Left out: shuffling documents on disk, windows of several lengths.

Used by data.make_batches(). Next: packing.py, which shows what each sampler wastes.
"""

import os
import sys
from bisect import bisect_right

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from data import reopen

# ---- samplers: which windows come next ----
# A row is a list of spans (start, n) of a split's ids, together T + 1 ids or, at an end, fewer.

class RandomWindows:
    """Windows from random places, those of data.Batches."""

    lost = cropped = 0  # nothing is cut off

    def __init__(self, split, seq_len, seed=0):
        if len(split) <= seq_len:
            raise ValueError(f"{len(split)} tokens are too few for a window of {seq_len} and the "
                             "token after it; give more text, or a smaller seq_len")
        self.n_tokens, self.seq_len, self.seed, self.n = len(split), seq_len, seed, 0

    def row(self):
        """The next window, [(start, T + 1)]."""
        rng = np.random.default_rng((self.seed, self.n))
        self.n += 1
        return [(int(rng.integers(0, self.n_tokens - self.seq_len)), self.seq_len + 1)]

    @property
    def epochs(self):
        """How often the ids have been seen, on average."""
        return self.n * self.seq_len / self.n_tokens

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = int(state["n"])


class Shuffled:
    """The numbers below n, endlessly: each once in an epoch, in another order in each epoch."""

    def __init__(self, n, seed):
        self.n, self.seed, self.epoch, self.place = n, seed, 0, 0
        self.order = self.permutation()

    def permutation(self):
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.n)

    def next(self):
        if self.place == self.n:
            self.epoch, self.place = self.epoch + 1, 0
            self.order = self.permutation()
        self.place += 1
        return int(self.order[self.place - 1])

    def state_dict(self):
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state):
        self.epoch, self.place = int(state["epoch"]), int(state["place"])
        self.order = self.permutation()


class StreamWindows:
    """All windows of a split, cut every T ids, in another order in each epoch.

    In an epoch every id but the first is a target exactly once; the last window may be shorter.
    """

    lost = cropped = 0  # nothing is cut off

    def __init__(self, split, seq_len, seed=0):
        if len(split) < 2:
            raise ValueError(f"{len(split)} tokens are too few for an input and a target")
        self.n_tokens, self.seq_len = len(split), seq_len
        self.windows = Shuffled(-(-(len(split) - 1) // seq_len), seed)

    def row(self):  # exercise
        """The next window, [(start, n)]: window i = self.windows.next() starts at i * T.

        n is T + 1, T = self.seq_len, or fewer at the end of the self.n_tokens ids. Neighbours share
        an id: the last target of one is the first input of the next.
        """
        start = self.windows.next() * self.seq_len
        return [(start, min(self.seq_len + 1, self.n_tokens - start))]

    @property
    def epochs(self):
        return self.windows.epoch + self.windows.place / self.windows.n

    def state_dict(self):
        return self.windows.state_dict()

    def load_state_dict(self, state):
        self.windows.load_state_dict(state)


def best_fit(lengths, room):  # exercise
    """The document to put into the `room` ids that are left of a window: its index in `lengths`,
    which ascend.

    The longest that fits whole, and of equally long ones the last. If none fits, index 0, the
    shortest, which loses least when it is cut. Use bisect: there may be many documents.
    best_fit([2, 3, 3, 9], 5) == 2; best_fit([2, 3, 3, 9], 1) == 0
    """
    return max(0, bisect_right(lengths, room) - 1)


class BestFit:
    """Windows that begin with a document and are filled up with those that fit best.

    best_fit() chooses from a buffer of documents, each of which comes once an epoch, in another
    order each time. What is cut off a document is not seen in that epoch; `cropped` counts these
    ids. Of a document longer than a window only the beginning is ever seen; `lost` is the share of
    ids never seen. (Packing: Ding et al. 2024; with cropping in place of padding: nanochat.)
    """

    def __init__(self, split, seq_len, seed=0, buffer=1000):
        if len(split.starts) == 0:
            raise ValueError("a split without documents")
        self.starts, self.n_tokens, self.room = split.starts, len(split), seq_len + 1
        self.documents, self.size = Shuffled(len(split.starts), seed), buffer
        lengths = np.diff(self.starts, append=self.n_tokens)
        self.lost = 1 - float(np.minimum(lengths, self.room).sum() / self.n_tokens)
        self.lengths, self.buffer = [], []  # of documents, ascending; and their numbers
        self.tokens = self.cropped = 0

    def fill(self):
        """Fill the buffer, but not with documents of the next epoch while one of this is left."""
        while len(self.buffer) < self.size:
            if self.documents.place == self.documents.n and self.buffer:
                return
            i = self.documents.next()
            end = self.starts[i + 1] if i + 1 < len(self.starts) else self.n_tokens
            length = int(end - self.starts[i])
            kept = min(length, self.room)  # the rest never fits into a window
            self.tokens, self.cropped = self.tokens + length, self.cropped + length - kept
            place = bisect_right(self.lengths, kept)
            self.lengths.insert(place, kept)
            self.buffer.insert(place, i)

    def row(self):
        """The next window: spans of T + 1 ids together; fewer at the end of an epoch."""
        spans, room = [], self.room
        while room:
            if not self.buffer and self.documents.place == self.documents.n and spans:
                break
            self.fill()
            place = best_fit(self.lengths, room)
            length, i = self.lengths.pop(place), self.buffer.pop(place)
            used = min(length, room)
            self.cropped += length - used
            spans.append((int(self.starts[i]), used))
            room -= used
        return spans

    @property
    def epochs(self):
        return self.documents.epoch + (self.documents.place - len(self.buffer)) / self.documents.n

    def state_dict(self):
        return {**self.documents.state_dict(), "lengths": list(self.lengths),
                "buffer": list(self.buffer), "tokens": self.tokens, "cropped": self.cropped}

    def load_state_dict(self, state):
        self.documents.load_state_dict(state)
        self.lengths, self.buffer = list(state["lengths"]), list(state["buffer"])
        self.tokens, self.cropped = state["tokens"], state["cropped"]


SAMPLERS = {"random": RandomWindows, "stream": StreamWindows, "bestfit": BestFit}


def next_source(taken, shares):  # exercise
    """The source of a mixture's next row: an index into `shares`, which sum to 1.

    taken: how many rows each source has given; k = sum(taken).
    1. The candidates are the sources behind their share: taken[i] < shares[i] * (k + 1) - 1e-9.
       (The last term guards against rounding errors.)
    2. Of these, the one whose next row is due soonest: the smallest (taken[i] + 1) / shares[i], of
       equals the first. next_source([1, 0], [0.7, 0.3]) == 0
    So after any number of rows every source has given its exact share, rounded up or down (the
    quota method, Balinski & Young 1975).
    """
    k = sum(taken)
    behind = [i for i, share in enumerate(shares) if taken[i] < share * (k + 1) - 1e-9]
    return min(behind, key=lambda i: (taken[i] + 1) / shares[i])


# ---- batches ----
class Batches(IterableDataset):
    """Endless batches (inputs, targets), both numpy (b, T) int64, of a data.Dataset or a Mixture.

    Target t is the id after input t, or -1 where there is nothing to learn: where a conversation's
    mask is 0, and behind the end of a short window. Batch n has the same `batch_size` rows for any
    number `world` of ranks, the processes that train together: rank r reads its rows r, r + world,
    r + 2 world ...
    Use it as an iterator, which resumes exactly from its state_dict(), also with another world; or
    give it to a DataLoader(batches, batch_size=None, num_workers=n), which yields the same as
    tensors. ValueError if there are fewer rows than ranks.
    """

    def __init__(self, data, batch_size, seq_len, seed=0, sampling="random", rank=0, world=1):
        if batch_size < world:
            raise ValueError(f"batch_size is {batch_size}, which leaves some of {world} processes "
                             "without a window; give at least one to each")
        if seq_len < 1:
            raise ValueError(f"seq_len is {seq_len}, but must be 1 or more")
        self.data, self.shares = data, [share for share, _ in data.parts]
        self.samplers = [SAMPLERS[sampling](ids, seq_len, seed + i)
                         for i, ids in enumerate(self.sources)]
        self.taken = [0] * len(self.samplers)
        self.batch_size, self.seq_len, self.rank, self.world = batch_size, seq_len, rank, world

    @property
    def sources(self):
        """The training ids of each source."""
        return [dataset.train for _, dataset in self.data.parts]

    def __getstate__(self):
        """Pickle for another process: the folders of the data instead of the ids."""
        folders = [(share, dataset.folder) for share, dataset in self.data.parts]
        return self.__dict__ | {"data": folders}

    def __setstate__(self, state):
        self.__dict__.update(state, data=reopen(state["data"]))

    def rows(self):
        """The next batch: [(source, row), ...]."""
        batch = []
        for _ in range(self.batch_size):
            source = next_source(self.taken, self.shares)
            self.taken[source] += 1
            batch.append((source, self.samplers[source].row()))
        return batch

    def read(self, batch):  # exercise
        """(inputs, targets) of [(source, row), ...], each a numpy (b, T) int64, T = self.seq_len.

        A row is a list of spans (start, n), which follow each other. A span's ids are
        ids.read(start, n), where ids = self.sources[source]; its labels are ids.labels(start, n),
        the same but -1 where nothing is to be learned. Inputs are all ids of the row except the
        last; targets are all labels except the first. A row of fewer than T + 1 ids is filled up
        with input 0 and target -1.
        """
        inputs = np.zeros((len(batch), self.seq_len), np.int64)
        targets = np.full((len(batch), self.seq_len), -1, np.int64)
        for i, (source, row) in enumerate(batch):
            ids = np.concatenate([self.sources[source].read(start, n) for start, n in row])
            labels = np.concatenate([self.sources[source].labels(start, n) for start, n in row])
            inputs[i, :len(ids) - 1] = ids[:-1]
            targets[i, :len(ids) - 1] = labels[1:]
        return inputs, targets

    def __next__(self):
        return self.read(self.rows()[self.rank::self.world])

    def __iter__(self):
        """Of n DataLoader workers, worker w reads batches w, w + n, w + 2n ..."""
        worker = get_worker_info()
        if worker is None:
            return self
        return self.every(worker.id, worker.num_workers)

    def every(self, worker, workers):
        while True:
            for turn in range(workers):
                batch = self.rows()
                if turn == worker:
                    yield self.read(batch[self.rank::self.world])

    def epochs(self):
        """How often the training part of each source has been seen."""
        return [sampler.epochs for sampler in self.samplers]

    def state_dict(self, ahead=0):
        """The state before the next batch, or `ahead` batches later: a DataLoader's workers work on
        copies of this object, so its user counts the batches received and passes their number.
        """
        now = {"taken": list(self.taken),
               "samplers": [sampler.state_dict() for sampler in self.samplers]}
        if not ahead:
            return now
        for _ in range(ahead):
            self.rows()
        then = self.state_dict()
        self.load_state_dict(now)
        return then

    def load_state_dict(self, state):
        self.taken = [int(n) for n in state["taken"]]
        for sampler, saved in zip(self.samplers, state["samplers"], strict=True):
            sampler.load_state_dict(saved)


def cut_off(config, samplers):
    """Yield a line for each source that loses ids at the ends of windows: how many so far, or, if
    none yet, how many will never be seen.
    """
    for source, cut in zip(config.data, samplers):
        if cut.cropped:
            yield (f"bestfit    has cut off {cut.cropped / cut.tokens:.0%} of the tokens of "
                   f"{source} that came")
        elif cut.lost > 0.01:
            yield (f"bestfit    will never show {cut.lost:.0%} of {source}: what is behind the "
                   f"first {config.seq_len + 1} tokens of a document")
