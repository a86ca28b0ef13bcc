"""Shards -> batches: which ids a model sees, in which order, to the byte.

A plan decides, a stream is read. A plan knows lengths only, so planning costs next to nothing:
every process plans all of the batches and reads its own part of each. That is why any number of
processes sees the same batches, and why a plan's state, a few numbers, is all it takes to go on
exactly where one was, with another number of processes too.
Three ways to cut a stream into windows of T ids and the one after: random places; stream, the
whole, cut every T ids, shuffled; bestfit, every window begins with a document. Several streams are
mixed row by row. Left out: shuffling documents on disk, windows of several lengths.

Used by the trainer. Next: packing.py, which shows what each way wastes.
"""

from bisect import bisect_right
from threading import Thread

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

# ---- plans: what comes next ----
# A row is a list of spans (start, n) of the stream, together T + 1 ids or, at an end, fewer.

class RandomWindows:
    """Windows from random places: row n depends on the seed and on n alone."""

    lost = cropped = 0  # nothing is cut off

    def __init__(self, stream, seq_len, seed=0):
        if len(stream) <= seq_len:
            raise ValueError(f"{len(stream)} tokens are too few for a window of {seq_len} and the "
                             "token after it; give more text, or a smaller seq_len")
        self.n_tokens, self.seq_len, self.seed, self.n = len(stream), seq_len, seed, 0

    def row(self):  # exercise
        """The next window, [(start, T + 1)], T = self.seq_len. Adds 1 to self.n, its number.

        start is drawn by np.random.default_rng((self.seed, self.n)).integers, where self.n is 0
        for the first window, from 0 to the last place at which T + 1 ids still fit into
        self.n_tokens, inclusive.
        """
        rng = np.random.default_rng((self.seed, self.n))
        self.n += 1
        return [(int(rng.integers(0, self.n_tokens - self.seq_len)), self.seq_len + 1)]

    @property
    def epochs(self):
        """How often the stream has been seen, on average."""
        return self.n * self.seq_len / self.n_tokens

    def state_dict(self):
        return {"n": self.n}

    def load_state_dict(self, state):
        self.n = state["n"]


class Shuffled:
    """Endless: the numbers below n, each once in an epoch, in another order each time."""

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

    def load_state_dict(self, state):  # exercise
        """Go on exactly where the Shuffled was whose state_dict() this is: self.epoch, self.place
        and self.order, which permutation() makes for the epoch, are as they were there.
        """
        self.epoch, self.place = state["epoch"], state["place"]
        self.order = self.permutation()


class StreamWindows:
    """All windows of the stream, cut every T ids, in a new order each epoch.

    In an epoch every id but the first is a target exactly once; the last window may be shorter.
    """

    lost = cropped = 0  # nothing is cut off

    def __init__(self, stream, seq_len, seed=0):
        if len(stream) < 2:
            raise ValueError(f"{len(stream)} tokens hold no input and target")
        self.n_tokens, self.seq_len = len(stream), seq_len
        self.windows = Shuffled(-(-(len(stream) - 1) // seq_len), seed)

    def row(self):  # exercise
        """The next window, [(start, n)]: window i = self.windows.next() starts at i * T.

        n is T + 1, T = self.seq_len, or what is left of self.n_tokens. Neighbours share an id:
        what is the last target of one is the first input of the next.
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
    """Which of some documents to put into `room` ids: its index in `lengths`, which ascend.

    The longest that fits whole, of equally long ones the last; if none fits, index 0, the shortest,
    since it is to be cut, and the least is lost of it. Use bisect: there may be many.
    best_fit([2, 3, 3, 9], 5) == 2; best_fit([2, 3, 3, 9], 1) == 0
    """
    return max(0, bisect_right(lengths, room) - 1)


class BestFit:
    """Windows that begin with a document, filled up with those that fit best.

    From a buffer of documents, taken in a new order each epoch, best_fit() chooses. What is cut
    off is not seen in this epoch; `cropped` counts it. Every document comes once in an epoch; of
    one longer than a window only the beginning, ever: `lost` is the share of all ids behind those.
    (Packing: Ding et al. 2024; with cropping in place of padding: nanochat.)
    """

    def __init__(self, stream, seq_len, seed=0, buffer=1000):
        if len(stream.starts) == 0:
            raise ValueError("a stream without documents")
        self.starts, self.n_tokens, self.room = stream.starts, len(stream), seq_len + 1
        self.documents, self.size = Shuffled(len(stream.starts), seed), buffer
        lengths = np.diff(self.starts, append=self.n_tokens)
        self.lost = 1 - float(np.minimum(lengths, self.room).sum() / self.n_tokens)
        self.lengths, self.buffer = [], []  # of documents, ascending; and their numbers
        self.tokens = self.cropped = 0

    def fill(self):
        """Take documents into the buffer, but none of the next epoch while one of this is left."""
        while len(self.buffer) < self.size:
            if self.documents.place == self.documents.n and self.buffer:
                return
            i = self.documents.next()
            end = self.starts[i + 1] if i + 1 < len(self.starts) else self.n_tokens
            length = int(end - self.starts[i])
            kept = min(length, self.room)  # more will never fit
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


PLANS = {"random": RandomWindows, "stream": StreamWindows, "bestfit": BestFit}


def next_source(taken, weights):  # exercise
    """Whose turn it is in a mixture: an index into `weights`, which sum to 1.

    taken: how many rows each source has given; k = sum(taken).
    1. Candidates are those behind their share: taken[i] < weights[i] * (k + 1) - 1e-9 (which keeps
       rounding from making one early).
    2. Of these, the one whose next row is due soonest: the smallest (taken[i] + 1) / weights[i], of
       equals the first. next_source([1, 0], [0.7, 0.3]) == 0
    Then after any number of rows every source has given its exact share, rounded up or down (the
    quota method, Balinski & Young 1975).
    """
    k = sum(taken)
    behind = [i for i, weight in enumerate(weights) if taken[i] < weight * (k + 1) - 1e-9]
    return min(behind, key=lambda i: (taken[i] + 1) / weights[i])


# ---- batches ----

class Batches(IterableDataset):
    """Endless batches (inputs, targets), both numpy (b, T) int64, of a Mixture of shards.

    Target t is the id after input t, or -1 where there is nothing to learn: where a conversation's
    mask says so, and behind the end of a short window. Batch n has the same `batch_size` rows
    whatever the number of ranks, the processes that train together: of `world` of them, rank r
    reads rows r, r + world, r + 2 world ... of each.
    Use it as an iterator, which state_dict() can resume exactly, also with another world; or give
    it to a DataLoader(batches, batch_size=None, num_workers=n), which yields the same as tensors.
    ValueError if there are fewer rows than ranks.
    """

    def __init__(self, mixture, batch_size, seq_len, seed=0, sampling="random", rank=0, world=1):
        if batch_size < world:
            raise ValueError(f"batch_size is {batch_size}, which leaves some of {world} processes "
                             "without a window; give at least one to each")
        self.mixture, self.weights = mixture, mixture.weights
        if seq_len < 1:
            raise ValueError(f"seq_len is {seq_len}, but must be 1 or more")
        self.plans = [PLANS[sampling](s, seq_len, seed + i) for i, s in enumerate(self.streams)]
        self.taken = [0] * len(self.plans)
        self.batch_size, self.seq_len, self.rank, self.world = batch_size, seq_len, rank, world

    @property
    def streams(self):
        return [shards.train for shards in self.mixture.shards]

    def plan(self):
        """The next batch: [(source, row), ...]."""
        batch = []
        for _ in range(self.batch_size):
            source = next_source(self.taken, self.weights)
            self.taken[source] += 1
            batch.append((source, self.plans[source].row()))
        return batch

    def read(self, batch):  # exercise
        """(inputs, targets) of [(source, row), ...], each a numpy (b, T) int64, T = self.seq_len.

        A row's ids are those of its spans, one after the other: with stream =
        self.streams[source], stream.read(start, n) and stream.labels(start, n), which is the same
        but -1 where nothing is to be learned. Inputs are all ids except the last; targets are all
        labels except the first. A row shorter than T + 1 ids is filled up with input 0, target -1.
        """
        inputs = np.zeros((len(batch), self.seq_len), np.int64)
        targets = np.full((len(batch), self.seq_len), -1, np.int64)
        for i, (source, row) in enumerate(batch):
            stream = self.streams[source]
            ids = np.concatenate([stream.read(start, n) for start, n in row])
            labels = ids if stream.mask is None else np.concatenate(
                [stream.labels(start, n) for start, n in row])
            inputs[i, :len(ids) - 1] = ids[:-1]
            targets[i, :len(ids) - 1] = labels[1:]
        return inputs, targets

    def __next__(self):
        return self.read(self.plan()[self.rank::self.world])

    def __iter__(self):
        """Of n DataLoader workers, worker w reads batches w, w + n, w + 2n ..."""
        worker = get_worker_info()
        if worker is None:
            return self
        return self.every(worker.id, worker.num_workers)

    def every(self, worker, workers):
        while True:
            for turn in range(workers):
                batch = self.plan()
                if turn == worker:
                    yield self.read(batch[self.rank::self.world])

    def epochs(self):
        """How often the training part of each source has been seen."""
        return [plan.epochs for plan in self.plans]

    def state_dict(self, ahead=0):
        """Where the next batch comes from; with `ahead`, where it will come from after so many
        more: a DataLoader's workers are ahead of what has been used, and only its user counts.
        """
        now = {"taken": list(self.taken), "plans": [plan.state_dict() for plan in self.plans]}
        if not ahead:
            return now
        for _ in range(ahead):
            self.plan()
        then = self.state_dict()
        self.load_state_dict(now)
        return then

    def load_state_dict(self, state):
        self.taken = list(state["taken"])
        for plan, saved in zip(self.plans, state["plans"], strict=True):
            plan.load_state_dict(saved)


class Prefetch:
    """The same batches in the same order, each read by a thread while its user is busy with the
    one before. state_dict(), epochs() and plans are those of the batches handed out so far.

    It hides what reading waits for, a disk or a network. Of shards in memory a batch is read in
    less than a hundredth of a step, and a thread saves nothing.
    Every batch has a thread of its own, which ends with it; an error in it is raised by next().
    """

    def __init__(self, batches):
        self.batches, self.thread = batches, None
        self.note()

    def note(self):
        """Remember how far the batches are, before the next one is read ahead."""
        self.state, self.seen = self.batches.state_dict(), self.batches.epochs()

    def read(self):
        try:
            self.batch, self.error = next(self.batches), None
        except BaseException as error:
            self.batch, self.error = None, error

    def start(self):
        self.thread = Thread(target=self.read, daemon=True)  # no exit waits for it
        self.thread.start()

    def close(self):
        """Wait until nothing is being read, and forget what was read ahead."""
        if self.thread:
            self.thread.join()
            self.thread = None

    def __next__(self):
        if not self.thread:
            self.start()
        self.thread.join()
        batch, error, self.thread = self.batch, self.error, None
        if error:
            raise error
        self.note()
        self.start()
        return batch

    def __iter__(self):
        return self

    def epochs(self):
        return self.seen

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.close()
        self.batches.load_state_dict(state)
        self.note()

    @property
    def plans(self):
        """As they were when the last batch was handed out; what is read ahead is read again."""
        self.load_state_dict(self.state)
        return self.batches.plans
