"""Byte-pair encoding: text <-> ids.

A language model reads and writes ids, small whole numbers. Bytes would do (256 ids, any text),
but sequences would be long. Byte-pair encoding makes them about four times shorter: start from
bytes, find the pair of neighbours that occurs most often, give it a new id, and repeat. Common
words end up as one id, rare ones as a few, and nothing is ever "unknown".

Read in order: the two moves (count, merge), training by the definition, training that computes
the same hundreds of times faster, encoding, and the Tokenizer that wraps them.
Left out: other people's tokenizer files.

    python 01_tokenizer/bpe.py train README.md 01_tokenizer/*.py --vocab-size 1024
    python 01_tokenizer/bpe.py show "def tokenize(text): return text.split()"
    python 01_tokenizer/bpe.py encode "hello world"
    python 01_tokenizer/bpe.py decode 104 105

Reads text; writes tokenizer.json, plain JSON. Next: 02_data/corpus.py.
"""

import hashlib
import heapq
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import regex

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import Parser, run, track, write_safely

# Text is first split into pieces, roughly words, and pairs never cross from one to the next:
# otherwise "dog." and "dog!" would each become a token. GPT-2's pattern (Radford et al. 2019),
# and GPT-4's (cl100k_base, as in tiktoken 0.14), which groups digits by three at most, ignores
# case in 's and 'll, and keeps a run of punctuation together with the newlines after it.
PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "gpt4": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
}

# Ids that no text can produce unless the caller says so. <|bos|> opens every document; the others
# mark the turns of a chat and the calls of a tool, reserved now so that any model can learn them.
SPECIAL_TOKENS = ("<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>",
                  "<|assistant_end|>", "<|python_start|>", "<|python_end|>",
                  "<|output_start|>", "<|output_end|>")


# ---- the two moves ----

def count_pairs(ids, counts, weight=1):  # exercise
    """Add `weight` to counts[a, b] for every two neighbours a, b in `ids`. Returns `counts`.

    counts: a dict, changed in place. Overlapping pairs all count:
    count_pairs([1, 1, 1, 2], {}) == {(1, 1): 2, (1, 2): 1}
    """
    for pair in zip(ids, ids[1:]):
        counts[pair] = counts.get(pair, 0) + weight
    return counts


def merge(ids, pair, new_id):  # exercise
    """A new list in which every occurrence of `pair` in `ids` is replaced by `new_id`.

    From left to right, so that an id is used once: merge([1, 1, 1, 2], (1, 1), 9) == [9, 1, 2]
    """
    merged, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair:
            merged.append(new_id)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


# ---- training ----

def train_naive(words, n_merges):  # exercise
    """Byte-pair encoding by its definition (Sennrich et al. 2016, algorithm 1), on bytes.

    words: {bytes: how often that word occurs}. Returns the merges, a list of pairs; merge i makes
    the id 256 + i. Each merges the most frequent pair of the moment; of equally frequent ones the
    smallest pair, (97, 98) before (97, 99), so that the order of the text never matters. Stops
    early when no pair is left. train_naive({b"aab": 2, b"ab": 1}, 2) == [(97, 98), (97, 256)]
    """
    rows = [(list(word), count) for word, count in words.items()]
    merges = []
    for new_id in range(256, 256 + n_merges):
        counts = {}
        for ids, weight in rows:
            count_pairs(ids, counts, weight)
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        rows = [(merge(ids, best, new_id), weight) for ids, weight in rows]
        merges.append(best)
    return merges


def train_fast(words, n_merges):
    """The same merges as train_naive, touching only what a merge changes.

    All words stand in one row of symbols with a fence after each. A symbol is at a position;
    `left` and `right` link it to its neighbours, because merging (a, b) writes the new symbol
    where a was and unlinks b. An index says at which positions a pair stood when it was made, and
    a heap which pair is the most frequent. Both are allowed to be out of date: a pair is counted
    once when it appears and afterwards only loses, so the heap never underestimates, and an entry
    is checked when it is used. The time grows with the occurrences merged, however long the words.
    """
    fence = -1
    symbols, weights = [fence], [0]
    for word, count in words.items():
        symbols += [*word, fence]
        weights += [count] * (len(word) + 1)
    left = list(range(-1, len(symbols) - 1))
    right = list(range(1, len(symbols) + 1))

    counts, places = defaultdict(int), defaultdict(list)
    for i, pair in enumerate(zip(symbols, symbols[1:])):
        if fence not in pair:
            counts[pair] += weights[i]
            places[pair].append(i)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)

    merges = []
    for new_id in track(range(256, 256 + n_merges), "merging", n_merges, unit=" pairs"):
        while heap and -heap[0][0] != counts[heap[0][1]]:  # out of date: put it where it belongs
            _, pair = heapq.heappop(heap)
            if counts[pair]:
                heapq.heappush(heap, (-counts[pair], pair))
        if not heap:
            break
        a, b = pair = heapq.heappop(heap)[1]
        merges.append(pair)
        fresh = set()
        for i in sorted(places.pop(pair)):  # from left to right, for pairs like (a, a)
            j = right[i]
            if symbols[i] != a or symbols[j] != b:
                continue  # an earlier merge took one of them
            weight, before, after = weights[i], left[i], right[j]
            symbols[i], symbols[j] = new_id, fence  # j is dead: nothing pairs with a fence
            right[i], left[after] = after, i
            x, y = symbols[before], symbols[after]  # x a b y is now x new_id y
            for place, old, new in ((before, (x, a), (x, new_id)), (i, (b, y), (new_id, y))):
                if fence not in new:
                    counts[old] -= weight
                    counts[new] += weight
                    places[new].append(place)
                    fresh.add(new)
        del counts[pair]
        for new in fresh:
            if counts[new]:  # it may be gone again: (a, a) in "aaaa" makes (aa, a), then (aa, aa)
                heapq.heappush(heap, (-counts[new], new))
    return merges


# ---- encoding ----

def apply_merges(ids, ranks):  # exercise
    """The ids of one piece: its bytes, merged in the order in which the merges were learned.

    ids: a list of ints; ranks: {pair: the id it makes}, in which a lower id was learned earlier.
    Repeat: of all neighbouring pairs in `ranks`, merge the one with the lowest id, everywhere.
    apply_merges([97, 97, 98], {(97, 98): 256, (97, 256): 257}) == [257]
    """
    while len(ids) > 1:
        pair = min(zip(ids, ids[1:]), key=lambda pair: ranks.get(pair, float("inf")))
        if pair not in ranks:
            break
        ids = merge(ids, pair, ranks[pair])
    return ids


def apply_merges_fast(ids, ranks):
    """The same ids as apply_merges, in about one step a merge, however long the piece.

    One linked row again, and the places at which each possible merge may be made. A merge makes
    only pairs that were learned later than itself, so each new id is taken up once, in order.
    """
    n = len(ids)
    ids, left, right = ids + [None], list(range(-1, n)), list(range(1, n + 2))
    places = {}
    for i, pair in enumerate(zip(ids, ids[1:])):
        if pair in ranks:
            places.setdefault(ranks[pair], []).append(i)
    todo = list(places)
    heapq.heapify(todo)
    while todo:
        new_id = heapq.heappop(todo)
        for i in sorted(places.pop(new_id)):
            j = right[i]
            if ranks.get((ids[i], ids[j])) != new_id:
                continue  # one of the two was merged in the meantime
            ids[i], ids[j] = new_id, None
            right[i] = right[j]
            left[right[j]] = i
            for k in (left[i], i):
                later = ranks.get((ids[k], ids[right[k]])) if k >= 0 else None
                if later in places:
                    places[later].append(k)
                elif later is not None:
                    places[later] = [k]
                    heapq.heappush(todo, later)
    return [i for i in ids if i is not None]


class Pieces(dict):
    """The ids of every piece met so far: texts repeat their words, so most look-ups are hits."""

    def __init__(self, ranks, limit=1_000_000):
        self.ranks, self.limit = ranks, limit

    def __missing__(self, piece):
        if len(self) >= self.limit:  # endless new words must not fill the memory
            self.clear()
        ids = self[piece] = apply_merges_fast(list(piece.encode()), self.ranks)
        return ids


def split_function(pattern):
    """A function that splits a text into pieces: what `pattern` finds, and what it skips, one
    character each, so that nothing is lost.
    """
    try:
        compiled = regex.compile(f"(?:{pattern})|[\\s\\S]")
    except regex.error as error:
        raise ValueError(f"the split pattern {pattern!r} is not a regular expression: {error}")
    if compiled.groups or compiled.match(""):
        raise ValueError(f"the split pattern {pattern!r} must not capture groups, nor "
                         "match the empty text")
    return compiled.findall


class Tokenizer:
    """Text to ids and back: bytes are 0..255, merge i is 256 + i, the special tokens come last.

    merges: pairs as train_naive returns them. pattern: a name in PATTERNS or a regular expression.
    vocab: the bytes each id stands for; special: {name: id}; vocab_size counts both kinds.
    """

    def __init__(self, merges, pattern="gpt4", special_tokens=SPECIAL_TOKENS):
        self.merges = [(int(a), int(b)) for a, b in merges]
        self.pattern = PATTERNS.get(pattern, pattern)
        self.special_tokens = tuple(special_tokens)
        self._split = split_function(self.pattern)
        self.vocab = [bytes([b]) for b in range(256)]
        for a, b in self.merges:
            if not 0 <= min(a, b) <= max(a, b) < len(self.vocab):
                raise ValueError(f"merge {len(self.vocab) - 256} joins {a} and {b}, but only ids "
                                 f"below {len(self.vocab)} exist by then")
            self.vocab.append(self.vocab[a] + self.vocab[b])
        if len(set(self.special_tokens)) != len(self.special_tokens) or "" in self.special_tokens:
            raise ValueError(f"special tokens must differ and not be empty: {self.special_tokens}")
        self.special = {name: len(self.vocab) + i for i, name in enumerate(self.special_tokens)}
        self.vocab += [name.encode() for name in self.special_tokens]
        self.vocab_size = len(self.vocab)
        self._ranks = {pair: 256 + i for i, pair in enumerate(self.merges)}
        self._pieces = Pieces(self._ranks)

    @classmethod
    def train(cls, texts, vocab_size, pattern="gpt4", special_tokens=SPECIAL_TOKENS):
        """Learn a vocabulary of `vocab_size` ids, special tokens included, from strings.

        texts: any iterable of strings, read once; their order does not matter. A text too small
        for that many merges gives a smaller vocabulary. ValueError if the 256 bytes and the
        special tokens don't fit into `vocab_size`, or if there is no text at all.
        """
        smallest = 256 + len(special_tokens)
        if vocab_size < smallest:
            raise ValueError(f"vocab_size is {vocab_size}, but 256 bytes and "
                             f"{len(special_tokens)} special tokens need {smallest}")
        split, words = split_function(PATTERNS.get(pattern, pattern)), Counter()
        for text in track(texts, "counting", size=len, unit=" characters"):
            pieces = split(text)
            if "".join(pieces) != text:
                raise ValueError(f"the split pattern {pattern!r} loses or reorders text")
            words.update(pieces)
        if not words:
            raise ValueError("there is no text to train a tokenizer on")
        words = {word.encode(): count for word, count in words.items()}
        return cls(train_fast(words, vocab_size - smallest), pattern, special_tokens)

    def encode(self, text, allowed_special=()):
        """The ids of `text`, a list of ints.

        Special tokens written in the text are plain text, unless their names are in
        `allowed_special` ("all": every one): what a user types must never open a turn.
        """
        if not allowed_special:
            pieces = self._pieces
            return [i for piece in self._split(text) for i in pieces[piece]]
        allowed = set(self.special if allowed_special == "all" else allowed_special)
        if unknown := allowed - set(self.special):
            raise ValueError(f"not special tokens of this tokenizer: {sorted(unknown)}")
        longest_first = sorted(allowed, key=len, reverse=True)
        parts = regex.split(f"({'|'.join(map(regex.escape, longest_first))})", text)
        return [i for part in parts
                for i in ([self.special[part]] if part in allowed else self.encode(part, ()))]

    def decode_bytes(self, ids):  # exercise
        """The bytes that `ids` stand for, which need not be whole characters.

        self.vocab holds the bytes of each id. ValueError for an id outside 0..vocab_size-1, which
        names that id (beware: a Python list takes negative ones).
        """
        ids = list(ids)
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise ValueError(f"id {i} is not in the vocabulary (0 to {self.vocab_size - 1})")
        return b"".join([self.vocab[i] for i in ids])

    def decode(self, ids):
        """The text that `ids` stand for; bytes that are no whole character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    # ---- on disk ----

    def _content(self):
        return {"pattern": self.pattern, "merges": self.merges,
                "special_tokens": list(self.special_tokens)}

    @property
    def hash(self):
        """16 hex digits that change with anything that changes the ids."""
        return hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()[:16]

    def save(self, path):
        """Write tokenizer.json (pattern, merges, special tokens, hash)."""
        write_safely(path, json.dumps({"hash": self.hash, **self._content()}))

    @classmethod
    def load(cls, path):
        """Read what save() wrote. ValueError, naming the file, if it is anything else."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            tokenizer = cls(content["merges"], content["pattern"], content["special_tokens"])
            stored = content["hash"]
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{path} is not a tokenizer.json of this project: {error!r}") from None
        if stored != tokenizer.hash:
            raise ValueError(f"{path} was changed: its hash says {stored}, its content "
                             f"{tokenizer.hash}")
        return tokenizer


# ---- the command line ----

def colour(tokenizer, ids):
    """`ids` as a line for a terminal: each token's text on a colour, its id faint behind it."""
    shades, shown = (153, 158, 223, 218, 189), []
    for n, i in enumerate(ids):
        text = tokenizer.vocab[i].decode("utf-8", errors="backslashreplace")
        text = text.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
        shown.append(f"\x1b[30;48;5;{shades[n % len(shades)]}m{text}\x1b[0m\x1b[2m{i}\x1b[0m")
    return " ".join(shown)


def read_text(path):
    """The text of a UTF-8 file, without a byte-order mark. ValueError if it is no text."""
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}: {data[error.start]:#04x});"
                         " convert it or leave it out") from None
    if "\0" in text:
        raise ValueError(f"{path} is a binary file (it holds NUL bytes); leave it out")
    return text


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("train", "learn a vocabulary from text files"),
                       ("encode", "text to ids"), ("decode", "ids to text"),
                       ("show", "print a text's pieces in colour with their ids")):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("--tokenizer", default="tokenizer.json", metavar="FILE",
                             help="the tokenizer to write or to use (default: tokenizer.json)")
        if name == "train":
            command.add_argument("files", nargs="+", help="UTF-8 text files")
            command.add_argument("--vocab-size", type=int, default=2048,
                                 help="how many ids, special tokens included (default: 2048)")
            command.add_argument("--pattern", default="gpt4",
                                 help="gpt2, gpt4 or a regular expression (default: gpt4)")
        elif name == "decode":
            command.add_argument("ids", nargs="+", type=int)
        else:
            command.add_argument("text", help="the text; - reads it from the standard input")
    args = parser.parse_args(argv)

    if args.command == "train":
        texts = [read_text(path) for path in args.files]
        tokenizer = Tokenizer.train(texts, args.vocab_size, args.pattern)
        tokenizer.save(args.tokenizer)
        n_bytes = sum(len(text.encode()) for text in texts)
        n_ids = sum(len(tokenizer.encode(text)) for text in texts)
        print(f"{args.tokenizer}: {tokenizer.vocab_size} ids, {n_bytes / n_ids:.2f} bytes an id")
        return
    tokenizer = Tokenizer.load(args.tokenizer)
    if args.command == "decode":
        print(tokenizer.decode(args.ids))
        return
    ids = tokenizer.encode(sys.stdin.read() if args.text == "-" else args.text)
    print(colour(tokenizer, ids) if args.command == "show" else " ".join(map(str, ids)))


if __name__ == "__main__":
    run(main)
