"""The same merges and the same ids as bpe.py, fast: training with numpy, encoding with a cache.

Training visits only the places where a pair occurs, all of them in one numpy operation. Encoding
caches the ids of each word, since texts repeat their words. pieces.py finds the pieces, and
workers.py shares the work between processes. Every function returns the same as its plain version
in bpe.py; tests compare them.

Reads and writes nothing. Next: longwords.py.
"""

import os
import sys
from array import array

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import track

import numpy as np

from bpe import SPECIAL_TOKENS, Tokenizer, split_special
from pieces import (PATTERNS, blocks, count_pieces, cut, each_text, is_cuttable, piece_finder,
                    uncut)

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
        row = b"".join(b"\0" + word for word in words) + b"\0"
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
        self.add_pairs(np.flatnonzero((self.symbols[:-1] >= 0) & (self.symbols[1:] >= 0)))
        self.threshold = max(1, int(self.counts.max()))

    def add_pairs(self, places):
        """Number, count and store the pairs, all of them new, that begin at `places`."""
        if not len(places):
            return
        keys = self.symbols[places] << 32 | self.symbols[self.right[places]]
        order = np.argsort(keys, kind="stable")
        places, keys = places[order], keys[order]
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
        while not len(best := np.flatnonzero(self.counts[:self.n_pairs] >= self.threshold)):
            if self.threshold == 1:
                return [], best
            self.threshold -= max(1, self.threshold // 8)  # a few pairs at a time: they are sorted
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
        places = [self.places[self.starts[p]:self.starts[p + 1]] for p in numbers]
        places = [at[self.pair_at[at] == p] for at, p in zip(places, numbers)]
        made = np.repeat(np.arange(new_id, new_id + len(places)), [len(at) for at in places])
        i = np.concatenate(places)
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


class Chunks(dict):
    """{chunk: its ids} for the chunks that cut() makes of a text, mostly a word and its comma.

    The first `limit` chunks stay; most frequent ones are among them. Others are encoded by pieces.
    """

    def __init__(self, find_pieces, pieces, limit=1 << 20):
        self.find_pieces, self.pieces, self.limit = find_pieces, pieces, limit

    def encode(self, text):
        """The ids of `text`, as bytes."""
        first, chunks, last = cut(text)
        ids = list(map(self.get, chunks))
        if None in ids:
            new = [i for i, known in enumerate(ids) if known is None]
            for i, learned in zip(new, self.learn([chunks[i] for i in new])):
                ids[i] = learned
        return b"".join([*map(self.pieces.__getitem__, self.find_pieces(first)), *ids,
                         *map(self.pieces.__getitem__, self.find_pieces(last))])

    def learn(self, chunks):
        """The ids of each of `chunks`, with one call of find_pieces()."""
        pieces = self.find_pieces(uncut(chunks))
        ids = [self.pieces[piece] for piece in pieces]
        # A chunk's last piece ends where the chunk does: its length plus a space after the last.
        ends = np.cumsum([len(piece) for piece in pieces])
        stops = np.searchsorted(ends, np.cumsum([len(chunk) + 1 for chunk in chunks])) + 1
        stops = stops.tolist()
        learned = [b"".join(ids[start:stop]) for start, stop in zip([0, *stops], stops)]
        if len(self) < self.limit:
            self.update(zip(chunks, learned))
        return learned


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
        self._chunks = Chunks(self.find_pieces, self._pieces)

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
        if workers == 1:
            words = count_pieces(parts, pattern)
        else:
            from workers import count_together
            words = count_together(count_pieces, parts, pattern, workers)
        if not words:
            raise ValueError("there is no text to train a tokenizer on")
        words = {word.encode(): count for word, count in words.items()}
        return cls(train_fast(words, vocab_size - least), pattern, special_tokens)

    def encode(self, text, allowed_special=()):
        return self.encode_array(text, allowed_special).tolist()

    def encode_array(self, text, allowed_special=()):
        """The ids as a read-only array (n,) uint32, in a quarter of the memory.

        Where the pattern allows it, a text is first cut at spaces: the same ids, in less time.
        """
        allowed = set(self.special if allowed_special == "all" else allowed_special)
        if unknown := allowed - set(self.special):
            raise ValueError(f"not special tokens of this tokenizer: {sorted(unknown)}")
        ids = []
        for part, i in self.segments(text, allowed):
            if i is not None:
                ids.append(array("I", [i]).tobytes())
            elif is_cuttable(self.pattern):
                ids += [self._chunks.encode(block) for block in blocks(part, self.pattern)]
            else:
                ids += [self._pieces[piece] for piece in self.find_pieces(part)]
        return np.frombuffer(b"".join(ids), dtype=np.uint32)

    def segments(self, text, allowed):
        """`text` cut at the special tokens that are allowed: pairs (part, its id or None)."""
        parts = split_special(text, allowed)
        return [(part, self.special[part] if part in allowed else None) for part in parts]

    def encode_many(self, texts, workers=1):
        """Yield the ids of each text, as encode_array() gives them; `workers` processes share the
        work. Texts are read lazily, a few megabytes ahead.
        """
        from workers import map_in_batches
        return map_in_batches(self.encode_array, each_text(texts), workers)
