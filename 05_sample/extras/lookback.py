"""Where in the training text may this come from? The longest matches of a text, by a suffix array.

A model may have learned what it writes by heart, or put it together itself. So look, at each id of
a text, for the longest run of ids that ends there and also stands in the training text. An index
makes that quick: the places of the training text, sorted by the ids that they end with. In that
order equal endings stand together, and a binary search finds them. Sorting takes a while; the order
is kept beside the data. (Infini-gram, Liu et al. 2024, does this with trillions of ids.)
Left out: near matches; the texts with which the model began, if the run has an --init; whether a
place was drawn during the run, which may have read only a part of its data.

    python 05_sample/extras/lookback.py --run tiny --prompt "def main("
    python 05_sample/sample.py --run tiny | python 05_sample/extras/lookback.py --prompt -

Reads the newest run in runs/ and its data, or --run; writes lookback-KEY.npy into the data's
folder; prints matches. Next: routes.py.
"""

import io
import os
import shutil
import sys
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import (Parser, add_options, by_hand, check_options, escaped, has_colours, holding,
                     option, run, write_safely)

import numpy as np

from data import hash_of
from housekeeping import readers_code
from runs import newest_run, run_data
from sample import start_of

FORMAT = 1  # version of lookback-KEY.npy
MOST = 20_000_000  # ids that are indexed, sorted in 10 s and 1.3 GB; of more, a sample
PIECES = 1000  # that a sample consists of


# ---- the idea ----
def suffix_array(ids):  # exercise
    """All suffixes of `ids`, (N,), sorted: order[0] is where the least of them begins, order[1] the
    next ... (N,) int32. Two suffixes are compared id by id, as Python compares lists: where one
    ends, and the other goes on, the shorter comes first. suffix_array(np.array([2, 1, 2, 1])) is
    [3, 1, 2, 0], since [1] < [1, 2, 1] < [2, 1] < [2, 1, 2, 1].

    Texts repeat themselves, so that comparing two suffixes may take long. Prefix doubling (Manber
    and Myers 1993) compares numbers only: once the suffixes are sorted by their first k ids, give
    each a rank, the same to those that are still equal. Sorted by the pair (rank[i], rank[i + k])
    they are sorted by 2k ids. What no other suffix equals has found its place, and need not be
    sorted again (Larsson and Sadakane 1999).
    """
    N, k = len(ids), 1
    order = np.argsort(ids, kind="stable").astype(np.int32)
    differs = np.ones(N + 1, bool)  # in its first k ids, from the suffix before it in `order`
    differs[1:N] = ids[order[1:]] != ids[order[:-1]]
    rank = np.zeros(N + 1, np.int32)  # from 1; what begins behind the end has 0
    at = np.arange(N)  # places in `order`: those that were just sorted, then those still to sort
    while len(at):
        rank[order[at]] = np.maximum.accumulate(at * differs[at]) + 1  # that of the first equal
        at = np.flatnonzero(~(differs[:-1] & differs[1:]))
        i = order[at]
        pair = rank[i] * np.int64(N + 1) + rank[np.minimum(i + k, N)]
        by_pair = np.argsort(pair)
        order[at], pair = i[by_pair], pair[by_pair]
        differs[at[1:]] |= pair[1:] != pair[:-1]
        k *= 2
    return order


def longest_match(ids, order, pattern):  # exercise
    """How much of `pattern`, a list of ids, stands in a text: (length, first, count).

    ids: (N,), the text; order: suffix_array(ids). length: of the longest beginning of `pattern`
    that the text has. order[first:first + count]: all places where that stands; as suffixes that
    begin alike are neighbours, two binary searches find them. The length is found by another: where
    `pattern` would be inserted into the order, no suffix shares more with it than the one before
    that place or the one behind it. If not even its first id stands in the text: (0, 0, N).
    ids [2, 1, 2, 1] in the order [3, 1, 2, 0] have two of [2, 1, 1], twice: (2, 2, 2).
    """
    def beginning(i):
        return ids[i:i + len(pattern)].tolist()

    def shared(i):
        same = [a == b for a, b in zip(beginning(i), pattern)]
        return [*same, False].index(False)

    at = bisect_left(order, pattern, key=beginning)
    length = max(map(shared, order[max(at - 1, 0):at + 1]), default=0)
    pattern = pattern[:length]  # from here on beginning() cuts suffixes to this length
    first = bisect_left(order, pattern, key=beginning)
    return length, first, bisect_right(order, pattern, key=beginning) - first


# ---- a training text ----
def spans(n, most, n_pieces=PIECES):
    """Which of n ids are indexed: [(start, size)]. All, or of more than `most`, evenly spread
    pieces, which have `most` ids together, or a few less.
    """
    if n <= most:
        return [(0, n)]
    n_pieces = min(n_pieces, most)
    size = most // n_pieces
    return [(k * (n - size) // max(1, n_pieces - 1), size) for k in range(n_pieces)]


class Lookback:
    """The training text of a Dataset or Mixture, or a sample of it, in which matches() looks.

    ids: (N,) its ids; behind each document, and each piece of a sample, stands an id that no text
    has, so that no match goes on beyond it. order: (N,) the suffix array of the reversed ids, in
    which places are sorted by the ids that end there. share: of the data, that which is indexed.
    """

    def __init__(self, data, most=MOST):
        self.tokenizer, self.starts = data.tokenizer, data.train.starts
        pieces, end = spans(len(data.train), most), self.tokenizer.vocab_size
        self.share = sum(size for _, size in pieces) / len(data.train)
        texts, begins = [], []
        for start, size in pieces:
            first, last = np.searchsorted(self.starts, [start + 1, start + size])
            inner = self.starts[first:last]  # documents that begin within the piece
            texts += [np.insert(data.train.read(start, size), inner - start, end), [end]]
            begins += [[start], inner]
        self.ids = np.concatenate(texts).astype(np.min_scalar_type(end))
        self.stops = np.flatnonzero(self.ids == end)  # where documents end, or pieces of them,
        self.begins = np.concatenate(begins)  # and where in the data each of these begins
        parts = [part for _, part in data.parts]
        self.sources = [part.index["source"] for part in parts]  # and their first documents
        self.firsts = np.cumsum([0, *(len(part.train.starts) for part in parts[:-1])])
        key = hash_of(FORMAT, pieces, [part.hash for part in parts], readers_code("lookback"))
        self.order = self._order(parts[0].folder / f"lookback-{key[:16]}.npy")

    @classmethod
    def of_run(cls, folder, by_hand=False, most=MOST):
        """Of a run's data. ValueError if these are gone, and can't be prepared again."""
        try:
            data = run_data(folder, by_hand)
        except (ValueError, OSError) as error:
            raise ValueError(f"the training text of {folder} can't be read ({error}); if it was "
                             "deleted, put back what it was made of: then it is prepared again, "
                             "here and by evals.py") from None
        return cls(data, most)

    def _order(self, path):
        """The order in the file `path`, which is made unless it is there. OSError, before the work,
        if the disk is too small.
        """
        if (order := self._kept(path)) is not None:
            return order
        with holding(path.parent, "is being indexed", wait=True):
            if (order := self._kept(path)) is not None:  # another process has just made it
                return order
            needed, free = 4 * len(self.ids) + 1000, shutil.disk_usage(path.parent).free
            if needed > free:
                raise OSError(f"{path} needs {needed:,} bytes, and its disk has {free:,} free; "
                              "make room, or move data and run to another disk")
            if len(self.ids) > 5_000_000:
                print(f"sorting {len(self.ids):,} ids of training text, once: about "
                      f"{len(self.ids) / 2e6:.0f} s", file=sys.stderr)
            np.save(content := io.BytesIO(), suffix_array(self.ids[::-1]))
            write_safely(path, content.getbuffer())
        return self._kept(path)

    def _kept(self, path):
        """The array in a file, memory-mapped; None if it is not there, or can't be of self.ids."""
        try:
            order = np.load(path, mmap_mode="r").view(np.ndarray)
            fits = (order.dtype, order.shape) == (np.int32, self.ids.shape)
            return order if fits and order.min() >= 0 and order.max() < len(order) else None
        except Exception:  # numpy raises many kinds for a damaged file
            return None

    def __str__(self):
        text = len(self.ids) - len(self.stops)
        return f"{text:,} ids of training text, " + (
            "all of it" if self.share == 1 else f"a sample, {self.share:.2%} of it")

    def matches(self, ids, n_places=3, around=16, first=0):
        """For each of a list of ids, from number `first` on, the longest match that ends there: a
        dict {"length", "count": how often it occurs, "places"}; 0, 0 and [] for an id that the
        training text lacks.
        places: up to n_places, evenly spread over all: {"source", "document": its number in that
        source, from 0, "offset": the id of it at which the match begins, "before", "after": the
        text of up to `around` ids on either side}.
        """
        assert all(0 <= i < self.tokenizer.vocab_size for i in ids), "ids of another tokenizer"
        found, length = [], first
        for t in range(first, len(ids)):
            # A match is at most by one id longer than that of the id before.
            pattern = [int(i) for i in ids[t - length:t + 1]]
            length, begin, count = longest_match(self.ids[::-1], self.order, pattern[::-1])
            count = count if length else 0
            n = min(count, n_places)
            few = [begin + k * count // n for k in range(n)]
            found.append({"length": length, "count": count, "places": [
                self._place(len(self.ids) - int(self.order[k]), length, around) for k in few]})
        return found

    def _place(self, end, length, around):
        """What matches() says of the match self.ids[end - length:end]."""
        k, start = np.searchsorted(self.stops, end - 1), end - length
        first, stop = (self.stops[k - 1] + 1 if k else 0), self.stops[k]
        place = self.begins[k] + start - first  # in the data
        document = np.searchsorted(self.starts, place, side="right") - 1
        source = np.searchsorted(self.firsts, document, side="right") - 1
        before, after = self.ids[max(first, start - around):start], self.ids[end:stop][:around]
        return {"source": self.sources[source], "document": int(document - self.firsts[source]),
                "offset": int(place - self.starts[document]),
                "before": self.tokenizer.decode(before.tolist()),
                "after": self.tokenizer.decode(after.tolist())}


# ---- the command ----
def longest(matches):
    """At which ids the matches end that no longer one goes on from, the longest first."""
    ends = [t for t, match in enumerate(matches) if match["length"] and not (
        t + 1 < len(matches) and matches[t + 1]["length"] > match["length"])]
    return sorted(ends, key=lambda t: -matches[t]["length"])


def in_a_line(text, most=200):
    text = escaped(text).replace("\n", "\\n")
    return text if len(text) <= most else f"{text[:most // 2]} ... {text[-most // 2:]}"


@dataclass
class Options:
    run: str = option("", "a run's name; without one, the run that saved last")
    runs_dir: str = option("runs", "where runs are kept")
    prompt: str = option("def main(", "the text to look for; - is the standard input")
    matches: int = option(10, "how many to print, the longest", least=1)
    places: int = option(3, "how many places of a match to print", least=1)
    __post_init__ = check_options


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    folder = newest_run(options.runs_dir, options.run)
    lookback = Lookback.of_run(folder, by_hand())
    text = sys.stdin.read() if options.prompt == "-" else options.prompt
    ids = start_of(text, lookback.tokenizer)
    matches = lookback.matches(ids, options.places)
    green, plain = ("\x1b[32m", "\x1b[0m") if has_colours() else ("[", "]")
    print(f"{folder}: {lookback}")
    for t in longest(matches)[:options.matches]:
        length, count, places = matches[t].values()
        found = in_a_line(lookback.tokenizer.decode(ids[t + 1 - length:t + 1]))
        found = f"{green}{found}{plain}"
        print(f"\n{found}  ids: {length}, times: {count:,}")
        for place in places:
            before, after = in_a_line(place["before"]), in_a_line(place["after"])
            print(f"  {in_a_line(place['source'])}, document {place['document']}, from id "
                  f"{place['offset']}:\n    {before}{found}{after}")


if __name__ == "__main__":
    run(main)
