"""The same merges and the same ids as bpe.py, fast: training with numpy, encoding with a cache.

Training visits only the places where a pair occurs, all of them in one numpy operation. Encoding
caches the ids of each word, since texts repeat their words, and looks up all words of a text, and
merges all new ones, side by side. pieces.py finds the pieces, and workers.py shares the work
between processes. Every function returns the same as its plain version in bpe.py; tests compare
them.

Reads and writes nothing. Next: longwords.py.
"""

import functools
import itertools
import os
import sys
import threading
from array import array

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import track

import numpy as np

from bpe import SPECIAL_TOKENS, Tokenizer, split_special
from pieces import (PATTERNS, Chunks, blocks, count_pieces, each_text, in_batches, is_cuttable,
                    piece_finder)


def ranges(starts, sizes):
    """start, start + 1, ... of each of `starts`, one after the other, `sizes` of them."""
    ends = np.cumsum(sizes)
    found = np.repeat(starts - ends + sizes, sizes)
    found += np.arange(len(found))
    return found


# ---- training ----
class Symbols:
    """All words in one row of symbols, a FENCE between them, and the places of every pair.

    A place is an index into the row; `left` and `right` link a symbol to its neighbours, because
    merging (a, b) writes the new symbol in a's place and unlinks b. Pairs are numbered as they
    appear. All places of a pair appear at once, when the newer of its two symbols is made, and from
    then on a pair only loses places. So its places are stored once, and `pair_at`, the number of
    the pair that now begins at each place, or 0, tells which are still valid.
    """

    FENCE = -1

    def __init__(self, words):
        sizes = np.array([len(word) + 1 for word in words], dtype=np.int64)
        row = b"\0".join([b"", *words, b""])
        n = len(row)
        self.symbols = np.frombuffer(row, np.uint8).astype(np.int64)
        self.symbols[np.cumsum(np.append(0, sizes))] = self.FENCE
        counts = np.array(list(words.values()), dtype=np.int64)
        self.weights = np.append(np.repeat(counts, sizes), 0)
        self.left, self.right = np.arange(-1, n - 1), np.arange(1, n + 1)
        # A merge removes a symbol and stores at most two places, so 3n is room for them all.
        self.places, self.starts = np.empty(3 * n, np.int64), np.zeros(3 * n, np.int64)
        self.keys, self.counts = np.empty(3 * n, np.int64), np.zeros(3 * n, np.int64)
        self.pair_at = np.zeros(n, np.int64)
        self.n_pairs, self.n_places = 1, 0  # number 0 is "no pair"
        self.frequent, self.n_seen = np.empty(0, np.int64), 1  # of the first n_seen pairs
        self.add_pairs(np.flatnonzero((self.symbols[:-1] >= 0) & (self.symbols[1:] >= 0)))
        self.threshold = max(1, int(self.counts.max()))

    def add_pairs(self, places):
        """Number, count and store the pairs, all of them new, that begin at `places`."""
        if not len(places):
            return
        a, b = self.symbols[places], self.symbols[self.right[places]]
        narrow = self.n_pairs == 1  # at first all are bytes, and 16 bits are soon sorted
        order = np.argsort((a << 8 | b).astype(np.uint16) if narrow else a << 32 | b, kind="stable")
        places, keys = places[order], (a << 32 | b)[order]
        first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        pairs = np.arange(self.n_pairs, self.n_pairs + len(first))
        self.keys[pairs] = keys[first]
        self.counts[pairs] = np.add.reduceat(self.weights[places], first)
        self.starts[pairs] = self.n_places + first
        self.pair_at[places] = np.repeat(pairs, np.diff(first, append=len(places)))
        self.places[self.n_places:self.n_places + len(places)] = places
        self.n_pairs, self.n_places = self.n_pairs + len(pairs), self.n_places + len(places)
        self.starts[self.n_pairs] = self.n_places

    def most_frequent(self, limit):
        """The pairs to be merged next, in order, and their numbers: as many as can be merged in
        one go, at most `limit`. None if none is left.

        Say (e, space) occurs 90 times, (t, h) 80, (i, n) 70, (h, e) 60. The first three never
        overlap in the text, so they are merged together; merging (t, h) takes places from (h, e),
        so the list ends before (h, e). More precisely:
        (a, b) and (c, d) touch if b = c or a = d. The list ends before the first pair that touches
        an earlier one, so its pairs take no places from each other. Nor do they make a pair that
        would have to come before the last of them: a new (x, ab) is at most as frequent as (x, a)
        was, which touches (a, b) and so comes after the end of the list; and of equally frequent
        pairs the one with the older symbols comes first. Only (a, a) can make a pair of its own
        product, (aa, aa), which may be frequent; so (a, a) ends the list.
        """
        self.frequent = np.append(self.frequent, np.arange(self.n_seen, self.n_pairs))
        self.n_seen = self.n_pairs
        while not len(best := self.frequent[self.counts[self.frequent] >= self.threshold]):
            if self.threshold == 1:
                return [], best
            self.threshold -= max(1, self.threshold // 8)  # a few pairs at a time: they are sorted
            self.frequent = np.arange(1, self.n_pairs)
        self.frequent = best
        best = best[np.lexsort((self.keys[best], -self.counts[best]))][:limit]
        pairs, firsts, seconds = [], set(), set()
        for key in self.keys[best].tolist():
            a, b = key >> 32, key & 0xffffffff
            if a in seconds or b in firsts:
                break
            pairs.append((a, b))
            firsts.add(a)
            seconds.add(b)
            if a == b:
                break
        return pairs, best[:len(pairs)]

    def merge(self, numbers, new_id):
        """Merge the pairs of these numbers wherever they occur, into new_id, new_id + 1, ..."""
        starts, sizes = self.starts[numbers], self.starts[numbers + 1] - self.starts[numbers]
        i = self.places[ranges(starts, sizes)]
        valid = self.pair_at[i] == np.repeat(numbers, sizes)
        i, made = i[valid], np.repeat(np.arange(new_id, new_id + len(numbers)), sizes)[valid]
        overlaps = np.append(False, self.right[i[:-1]] == i[1:])  # "aaa" holds (a, a) twice
        if overlaps.any():  # from left to right: of a run, every other place
            n = np.arange(len(i))
            nth = n - np.maximum.accumulate(np.where(overlaps, 0, n))
            i, made = i[nth % 2 == 0], made[nth % 2 == 0]
        j = self.right[i]
        after = self.right[j]
        self.symbols[i], self.symbols[j] = made, self.FENCE  # j is out of the row
        self.right[i], self.left[after] = after, i
        before = self.left[i]
        self.pair_at[i] = 0  # x a b y became x new y: (a, b) at i is gone, and so are two others
        for at in (j, before):
            np.subtract.at(self.counts, self.pair_at[at], self.weights[i])
            self.pair_at[at] = 0
        self.counts[numbers] = self.counts[0] = 0
        x, y = self.symbols[before], self.symbols[after]
        self.add_pairs(np.concatenate([  # (new, y) and (x, new); (new, new) is a (new, y)
            i[y != self.FENCE], before[(x != self.FENCE) & (x < new_id)]]))


def train_fast(words, n_merges):
    """The same merges as train_naive, touching only what a merge changes, many places at a time.

    The time grows with the number of places merged, however long the words are.
    """
    def batches():
        row, done = Symbols(words), 0
        while done < n_merges:
            pairs, numbers = row.most_frequent(n_merges - done)
            if not pairs:
                break
            row.merge(numbers, 256 + done)
            done += len(pairs)
            yield pairs

    progress = track(batches(), "merging", n_merges, size=len, unit=" pairs")
    return [pair for pairs in progress for pair in pairs]


# ---- encoding ----
def apply_merges_fast(ids, ranks):
    """The same ids as apply_merges: each merge's rank is looked up once, not in every round."""
    if len(ids) > 100:
        from longwords import apply_merges_long
        return apply_merges_long(ids, ranks)
    ids, rank, never = list(ids), ranks.get, 1 << 62
    todo = [rank(pair, never) for pair in zip(ids, ids[1:])]
    while todo and (new_id := min(todo)) < never:
        i = todo.index(new_id)
        ids[i:i + 2] = [new_id]
        del todo[i]
        if i > 0:
            todo[i - 1] = rank((ids[i - 1], new_id), never)
        if i < len(todo):
            todo[i] = rank((new_id, ids[i + 1]), never)
    return ids


class Pieces(dict):
    """{piece: its ids} for every piece met so far: texts repeat their words, so most are known.

    The ids are stored as the bytes of a uint32 array, which is cheaper than lists to join, copy and
    keep.
    """

    def __init__(self, ranks, ids, limit=1 << 20):
        self.ranks, self.ids, self.limit = ranks, ids, limit
        self.left_out = bytes(byte for byte in range(256) if ids[byte] is None)

    def __missing__(self, piece):
        if len(self) >= self.limit:  # endless new words must not fill the memory
            self.clear()
        symbols = apply_merges_fast(piece.encode().translate(None, self.left_out), self.ranks)
        self[piece] = ids = array("I", [self.ids[symbol] for symbol in symbols]).tobytes()
        return ids


class Merger:
    """apply_merges() for many pieces side by side: each round merges one pair of every piece."""

    NEVER = 1 << 30  # the id of a pair that is none, and of the fence between two pieces

    def __init__(self, ranks):
        keys = np.array([*ranks], np.int64).reshape(-1, 2) @ (1 << 32, 1)
        order = np.argsort(keys)
        self.ranks, self.keys = ranks, np.append(keys[order], (1 << 63) - 1)
        self.ids = np.append(np.array([*ranks.values()], np.int64)[order], self.NEVER)
        every = np.arange(256)
        self.of_bytes = self.look_up(np.repeat(every, 256), np.tile(every, 256))

    def look_up(self, a, b):
        """The ids that the pairs (a, b) become, for two arrays."""
        keys = a << 32 | b
        found = np.searchsorted(self.keys, keys)
        return np.where(self.keys[found] == keys, self.ids[found], self.NEVER)

    def merge(self, pieces):
        """(the symbols of all `pieces`, which are bytes, in one row; how many each piece has)."""
        row = np.frombuffer(b"\0".join([b"", *pieces, b""]), np.uint8).astype(np.int64)
        ends = np.cumsum([len(piece) + 1 for piece in pieces])
        start, places = np.append(0, ends[:-1]), np.arange(len(row))
        new = np.append(self.of_bytes[row[:-1] << 8 | row[1:]], self.NEVER)
        new[start] = new[ends - 1] = row[start] = row[-1] = self.NEVER
        todo = new << 32 | places  # of each pair its id and its place: the least is merged first
        left, right, unfinished = places - 1, places + 1, start
        while len(unfinished):
            first = np.minimum.reduceat(todo, unfinished)
            some = first < self.NEVER << 32
            unfinished, first = unfinished[some], first[some]
            if len(unfinished) < 20 + len(row) // 1000:  # too few for numpy
                break
            i, new = first & 0xffffffff, first >> 32
            j, before = right[i], left[i]
            after = right[j]
            row[i], row[j], todo[j] = new, self.NEVER, self.NEVER << 32
            right[i], left[after] = after, i
            todo[i] = self.look_up(new, row[after]) << 32 | i
            todo[before] = self.look_up(row[before], new) << 32 | before
        for i, j in zip(unfinished, ends[np.searchsorted(start, unfinished)]):
            ids = apply_merges_fast([k for k in row[i:j].tolist() if k < self.NEVER], self.ranks)
            row[i:j] = ids + [self.NEVER] * (j - i - len(ids))
        merged = row < self.NEVER
        return row[merged], np.add.reduceat(merged, start, dtype=np.int64)


class Encoded(Chunks):
    """The ids of all chunks met so far, in one row. A chunk's number tells where its ids begin, and
    in its lower 32 bits how many there are.
    """

    def __init__(self, pattern, find_pieces, pieces, limit=1 << 23):
        super().__init__(pattern, limit)
        self.find_pieces, self.pieces, self.merger = find_pieces, pieces, Merger(pieces.ranks)
        self.ids = np.array([0 if i is None else i for i in pieces.ids], np.uint32)
        self.row, self.lock = array("I"), threading.Lock()  # a server encodes in several threads

    def forget(self):
        super().forget()
        self.row = array("I")

    def learn(self, chunks):
        pieces = [self.find_pieces(chunk.decode()) for chunk in chunks]
        each = [piece.encode().translate(None, self.pieces.left_out)
                for many in pieces for piece in many]
        some = [self.merger.merge(part) for part in in_batches(each, 1 << 20)]  # memory is bounded
        row, sizes = map(np.concatenate, zip(*some))
        ends = np.cumsum(sizes)[np.cumsum([len(many) for many in pieces]) - 1]
        sizes = np.diff(ends, prepend=0)
        numbers = len(self.row) + ends - sizes << 32 | sizes
        self.row.frombytes(self.ids[row].tobytes())
        self.update(zip(chunks, numbers.tolist()))

    def encode(self, texts):
        """The ids of each of `texts`, arrays."""
        with self.lock:
            numbers, n = self.numbers(texts)
            sizes = numbers & 0xffffffff
            ids = np.frombuffer(self.row, np.uint32)[ranges(numbers >> 32, sizes)]
            return np.split(ids, np.append(0, np.cumsum(sizes))[n[:-1]])


# ---- both in one ----
class FastTokenizer(Tokenizer):
    """A Tokenizer that gives the same ids in less time: it caches the ids of pieces, and can share
    work between processes. It knows all patterns of pieces.py.
    """

    def __init__(self, merges, pattern="gpt4", special_tokens=SPECIAL_TOKENS):
        pattern = PATTERNS.get(pattern, pattern)
        find_pieces = piece_finder(pattern)  # first: its message about a bad pattern is clearest
        super().__init__(merges, pattern, special_tokens)
        self.find_pieces = find_pieces
        self.set_ids(range(256 + len(self.merges)))

    def set_ids(self, ids):
        """Set the id of each byte and of each merge's result, and empty the caches."""
        self.ids = list(ids)
        self._pieces = Pieces(self.ranks, self.ids)
        self.__dict__.pop("_chunks", None)

    @functools.cached_property
    def _chunks(self):
        return Encoded(self.pattern, self.find_pieces, self._pieces)

    def __reduce__(self):  # pickled without its caches
        return type(self), (self.merges, self.pattern, list(self.special))

    @classmethod
    def train(cls, texts, vocab_size, pattern="gpt4", special_tokens=SPECIAL_TOKENS, workers=1):
        """As Tokenizer.train(), by `workers` processes. Memory grows with distinct pieces."""
        if vocab_size < (least := 256 + len(special_tokens)):
            raise ValueError(f"vocab_size is {vocab_size}, but 256 bytes and {len(special_tokens)} "
                             f"special tokens need {least}")
        if isinstance(special_tokens, str):
            raise ValueError(f"special tokens are several; put {special_tokens!r:.40} into a list")
        pattern = cls([], pattern, special_tokens).pattern
        parts = (part for text in each_text(texts) for part in blocks(text, pattern, 1 << 20))
        parts = track(parts, "counting", size=lambda part: len(part) / 1e6, unit=" MB")
        words = count_pieces(parts, pattern, workers)
        if not words:
            raise ValueError("there is no text to train a tokenizer on")
        words = {word.encode(): count for word, count in words.items()}
        return cls(train_fast(words, vocab_size - least), pattern, special_tokens)

    def encode(self, text, allowed_special=()):
        return self.encode_array(text, allowed_special).tolist()

    def encode_array(self, text, allowed_special=()):
        """The ids as a read-only array (n,) uint32, in a quarter of the memory."""
        return self.encode_batch([text], allowed_special)[0]

    def encode_batch(self, texts, allowed_special=()):
        """The ids of each of `texts`, as encode_array() gives them, in less time."""
        allowed = set(self.special if allowed_special == "all" else allowed_special)
        if unknown := allowed - set(self.special):
            raise ValueError(f"not special tokens of this tokenizer: {sorted(unknown)}")
        parts = [[(block, i) for part, i in self.segments(text, allowed)
                  for block in ([part] if i is not None else blocks(part, self.pattern))]
                 for text in texts]
        ids = self.encode_blocks([block for many in parts for block, i in many if i is None])
        return [np.frombuffer(b"".join([next(ids) if i is None else array("I", [i])
                                        for _, i in many]), np.uint32) for many in parts]

    def encode_blocks(self, texts):
        """Yield the ids of each of `texts`, without special tokens, as bytes or an array."""
        if is_cuttable(self.pattern) and sum(map(len, texts)) > 2000:  # fewer are not worth it
            for batch in in_batches(texts, 1 << 17):
                yield from self._chunks.encode(batch)
        else:
            for text in texts:
                yield b"".join([self._pieces[piece] for piece in self.find_pieces(text)])

    def segments(self, text, allowed):
        """`text` cut at the special tokens that are allowed: pairs (part, its id or None)."""
        parts = split_special(text, allowed)
        return [(part, self.special[part] if part in allowed else None) for part in parts]

    def encode_many(self, texts, workers=1):
        """Yield the ids of each text, as encode_array() gives them; `workers` processes share the
        work. Texts are read lazily, a few megabytes ahead.
        """
        from workers import parallel
        batches = parallel(self.encode_batch, in_batches(each_text(texts), 1 << 20), workers)
        return itertools.chain.from_iterable(batches)
