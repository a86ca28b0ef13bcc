"""Byte-pair encoding: text <-> ids.

A language model reads and writes ids, small whole numbers. Bytes would do (256 ids, any text),
but sequences would be long. Byte-pair encoding makes them about four times shorter: start from
bytes, find the pair of neighbours that occurs most often, give it a new id, and repeat. Common
words end up as one id, rare ones as a few, and nothing is ever "unknown".

Read in order: the two moves (count, merge), training, encoding, and the Tokenizer that wraps them.
Left out: how a text is cut into pieces first (pieces.py), the same training and encoding
made fast (fast.py), and other people's files (formats.py).

    python 01_tokenizer/bpe.py train README.md 01_tokenizer/*.py --vocab-size 1024
    python 01_tokenizer/bpe.py show "def tokenize(text): return text.split()"
    python 01_tokenizer/bpe.py encode "hello world"
    python 01_tokenizer/bpe.py decode 104 105

Reads text; writes tokenizer.json, plain JSON. Next: pieces.py.
"""

import functools
import hashlib
import itertools
import json
import re
import sys
from array import array
from collections import Counter
from pathlib import Path

import numpy as np

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import Parser, in_batches, parallel, read_text, run, track, write_safely
from fast import Chunks, Pieces, train_fast
from pieces import (PATTERNS, blocks, count_pieces, find_pattern, group_digits, is_cuttable,
                    split_function, split_special)

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


# ---- both in one ----

class Tokenizer:
    """Text to ids and back.

    Merges work on symbols, numbers of our own: 0..255 are the bytes, merge i makes 256 + i. Models
    see ids. Here the two are the same, until special tokens are given ids among them; elsewhere
    they are not: to GPT-2, byte 33 has the id 0.

    merges: pairs of symbols, as train_naive returns them. pattern: a name in PATTERNS, a regular
    expression or a list of them.
    special_tokens: {name: id}, or names that take the ids after all others.
    ids: the id of each symbol; without it they take the ids that special tokens leave, in order.
    A byte whose id is None can't be written and is left out, as some tokenizers elsewhere do.

    vocab: the bytes each id stands for, b"" for one that stands for nothing; special: {name: id};
    vocab_size: the number of ids from 0 to the largest.
    """

    def __init__(self, merges, pattern="gpt4", special_tokens=SPECIAL_TOKENS, ids=None):
        self.merges = [(int(a), int(b)) for a, b in merges]
        self.pattern = find_pattern(pattern)
        symbols, n_bytes = [bytes([b]) for b in range(256)], 0
        for a, b in self.merges:
            if not 0 <= min(a, b) <= max(a, b) < len(symbols):
                raise ValueError(f"merge {len(symbols) - 256} joins {a} and {b}, but only symbols "
                                 f"below {len(symbols)} exist by then")
            n_bytes += len(symbols[a]) + len(symbols[b])
            if n_bytes > 1 << 28:
                raise ValueError(f"the tokens up to merge {len(symbols) - 256} hold more than "
                                 f"{1 << 28:,} bytes")
            symbols.append(symbols[a] + symbols[b])

        if not isinstance(special_tokens, dict):
            if len(set(special_tokens)) < len(special_tokens):
                raise ValueError(f"special tokens must differ: {special_tokens}")
            special_tokens = {name: len(symbols) + i for i, name in enumerate(special_tokens)}
        self.special = dict(sorted(special_tokens.items(), key=lambda item: item[1]))
        taken = set(self.special.values())
        free = (i for i in itertools.count() if i not in taken)
        in_order = list(itertools.islice(free, len(symbols)))
        self.ids = in_order if ids is None else list(ids)
        self._in_order = self.ids == in_order

        used = [i for i in [*self.ids, *self.special.values()] if i is not None]
        if "" in self.special or len(set(used)) < len(used) or min(used) < 0:
            raise ValueError("special tokens need a name, and ids must differ and not be negative: "
                             f"{self.special}")
        if len(self.ids) != len(symbols) or None in self.ids[256:]:
            raise ValueError(f"{len(symbols)} symbols need an id each, not {len(self.ids)}")
        self.vocab_size = max(used) + 1
        if self.vocab_size > 2 * len(used) + 100_000:
            raise ValueError(f"the largest id is {max(used)}, far beyond the {len(used)} in use")
        self.vocab = [b""] * self.vocab_size
        for i, symbol in zip(self.ids, symbols):
            if i is not None:
                self.vocab[i] = symbol
        for name, i in self.special.items():
            self.vocab[i] = name.encode()

        self._split = split_function(self.pattern)
        self._pieces = Pieces({pair: 256 + i for i, pair in enumerate(self.merges)}, self.ids)
        self._chunks = Chunks(self._split, self._pieces)

    def __reduce__(self):  # what travels to another process: what it is made of
        return Tokenizer, (self.merges, self.pattern, self.special, self.ids)

    @classmethod
    def train(cls, texts, vocab_size, pattern="gpt4", special_tokens=SPECIAL_TOKENS, workers=1):
        """Learn a vocabulary of `vocab_size` ids, special tokens included, from strings.

        texts: any iterable of strings, read once; neither their order nor the number of worker
        processes that count their pieces matters. Memory grows with the pieces that differ, not
        with the texts. A text too small for that many merges gives a smaller vocabulary.
        ValueError if the 256 bytes and the special tokens don't fit into `vocab_size`, or if there
        is no text at all.
        """
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0:
            raise ValueError(f"vocab_size is {vocab_size}, but 256 bytes and {len(special_tokens)} "
                             f"special tokens need {vocab_size - n_merges}")
        if isinstance(special_tokens, dict) and any(i >= vocab_size
                                                    for i in special_tokens.values()):
            raise ValueError(f"special tokens need ids below {vocab_size}: {special_tokens}")
        pattern, words = find_pattern(pattern), Counter()
        parts = (part for text in texts for part in blocks(text, pattern, 1 << 20))
        parts = track(parts, "counting", size=lambda part: len(part) / 1e6, unit=" MB")
        for counts in parallel(functools.partial(count_pieces, pattern=pattern),
                               in_batches(parts, 1 << 20), workers):
            for piece, count in counts.items():
                words[piece] += count
        if not words:
            raise ValueError("there is no text to train a tokenizer on")
        words = {word.encode(): count for word, count in words.items()}
        return cls(train_fast(words, n_merges), pattern, special_tokens)

    def encode(self, text, allowed_special=()):
        """The ids of `text`, a list of ints.

        Special tokens written in the text are plain text, unless their names are in
        `allowed_special` ("all": every one): what a user types must never open a turn.
        """
        return self.encode_array(text, allowed_special).tolist()

    def encode_array(self, text, allowed_special=()):
        """The same ids as a read-only array (n,) uint32, in a quarter of the memory.

        By definition: split the text into pieces, apply the merges to each, and join the ids. Where
        the pattern allows it, a text is first cut at spaces, which gives the same ids, sooner.
        """
        allowed = set(self.special if allowed_special == "all" else allowed_special)
        if unknown := allowed - set(self.special):
            raise ValueError(f"not special tokens of this tokenizer: {sorted(unknown)}")
        ids = []
        for part in split_special(text, allowed):
            if part in allowed:
                ids.append(array("I", [self.special[part]]).tobytes())
            elif is_cuttable(self.pattern):
                ids += [self._chunks.encode(block) for block in blocks(part, self.pattern)]
            else:
                ids += [self._pieces[piece] for piece in self._split(part)]
        return np.frombuffer(b"".join(ids), dtype=np.uint32)

    def encode_many(self, texts, workers=1):
        """The ids of every text in turn, as encode_array() gives them; `workers` processes share
        the work. Texts are taken as they are needed, a few megabytes ahead.
        """
        for batch in parallel(self._encode_batch, in_batches(texts, 1 << 20), workers):
            yield from batch

    def _encode_batch(self, texts):
        return [self.encode_array(text) for text in texts]

    def decode_bytes(self, ids):  # exercise
        """The bytes that `ids` stand for, which need not be whole characters.

        self.vocab holds the bytes of each id. An id that stands for nothing, be it b"" in the
        vocabulary or beyond its end (models pad it to a round number), gives U+FFFD, as UTF-8.
        ValueError for a negative id (beware: Python counts those from the end of a list).
        """
        vocab = self.vocab
        tokens = []
        for i in ids:
            if i < 0:
                raise ValueError(f"id {i} is negative")
            tokens.append((vocab[i] if i < len(vocab) else b"") or "\ufffd".encode())
        return b"".join(tokens)

    def decode(self, ids):
        """The text that `ids` stand for; bytes that are no whole character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    # ---- on disk ----

    def _content(self):
        return {"pattern": self.pattern, "special_tokens": self.special,
                "ids": None if self._in_order else self.ids, "merges": self.merges}

    @property
    def hash(self):
        """16 hex digits that change with anything that changes the ids."""
        return hashlib.sha256(json.dumps(self._content()).encode()).hexdigest()[:16]

    def save(self, path):
        """Write tokenizer.json: pattern, special tokens, ids if not in order, merges, hash."""
        write_safely(path, json.dumps({"hash": self.hash, **self._content()}))

    @classmethod
    def load(cls, path):
        """Read what save() wrote. ValueError, naming the file, if it is anything else."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            tokenizer = cls(content["merges"], content["pattern"], content["special_tokens"],
                            content["ids"])
            stored = content["hash"]
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError,
                RecursionError) as error:
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
        text = re.sub(r"[\0-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)
        shown.append(f"\x1b[30;48;5;{shades[n % len(shades)]}m{text}\x1b[0m\x1b[2m{i}\x1b[0m")
    return " ".join(shown)


def special_tokens(words):
    """The special tokens that `words` name: a tuple, or {name: id} for words like NAME=ID."""
    with_ids = [re.fullmatch(r"(.+)=(\d+)", word) for word in words]
    if not any(with_ids):
        return tuple(words)
    if not all(with_ids) or len({match[1] for match in with_ids}) < len(words):
        raise ValueError(f"--special {' '.join(words)}: give an id (NAME=ID) to all or to none, "
                         "and no name twice")
    return {match[1]: int(match[2]) for match in with_ids}


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
            command.add_argument("--pattern", default="gpt4", help=f"{', '.join(PATTERNS)} or a "
                                 "regular expression (default: gpt4)")
            command.add_argument("--digits", type=int, choices=(1, 2, 3),
                                 help="numbers in groups of so many (default: the pattern's)")
            command.add_argument("--special", nargs="*", metavar="NAME[=ID]",
                                 help="special tokens, after all others or at an id (default: the "
                                 "nine of a chat)")
            command.add_argument("--workers", type=int, default=1,
                                 help="processes that count pieces (default: 1)")
        elif name == "decode":
            command.add_argument("ids", nargs="+", type=int)
        else:
            command.add_argument("text", help="the text; - reads it from the standard input")
    args = parser.parse_args(argv)

    if args.command == "train":
        if not Path(args.tokenizer).parent.is_dir():  # better now than after an hour
            raise ValueError(f"{args.tokenizer}: there is no such folder to write to")
        pattern = find_pattern(args.pattern)
        pattern = group_digits(pattern, args.digits) if args.digits else pattern
        special = SPECIAL_TOKENS if args.special is None else special_tokens(args.special)
        sample = {}

        def texts():
            for path in args.files:
                text = read_text(path)
                if text and not sample:
                    sample[path] = text[:1_000_000]
                yield text

        tokenizer = Tokenizer.train(texts(), args.vocab_size, pattern, special, args.workers)
        tokenizer.save(args.tokenizer)
        n_ids = 256 + len(tokenizer.merges) + len(special)
        (path, text), = sample.items()
        print(f"{args.tokenizer}: {n_ids} ids"
              + (f" (no pair is left for {args.vocab_size})" if n_ids < args.vocab_size else "")
              + f", {len(text.encode()) / len(tokenizer.encode(text)):.2f} bytes an id in {path}")
        return
    tokenizer = Tokenizer.load(args.tokenizer)
    if args.command == "decode":
        print(tokenizer.decode(args.ids))
        return
    ids = tokenizer.encode(sys.stdin.read() if args.text == "-" else args.text)
    print(colour(tokenizer, ids) if args.command == "show" else " ".join(map(str, ids)))


if __name__ == "__main__":
    run(main)
