"""Byte-pair encoding: text <-> ids.

A language model reads and writes ids, small whole numbers. Bytes would do (256 ids, any text), but
sequences would be long. Byte-pair encoding makes them about four times shorter: start from bytes,
find the pair of neighbours that occurs most often, give it a new id, and repeat. Common words end
up as one id, rare ones as a few, and no text is ever unknown.

    python 01_tokenizer/bpe.py                 # learns 20 merges from the text you are reading
    python 01_tokenizer/bpe.py train README.md 01_tokenizer/bpe.py --vocab-size 700
    python 01_tokenizer/bpe.py show "def tokenize(text): return text.split()"
    python 01_tokenizer/bpe.py encode "hello world"
    python 01_tokenizer/bpe.py decode 104 105

Reads text; writes tokenizer.json, plain JSON. Left to extras/: these commands (commands.py), the
same ids in less time (fast.py), tokenizers from elsewhere (formats.py). Next: 02_data/data.py.
"""

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
if "console" not in sys.modules:
    sys.path[1:1] = [str(folder / "01_tokenizer") for folder in Path(__file__).resolve().parents]

from console import read_text, run, track, write_safely

import regex

# A text is first cut into pieces, roughly words ("pre-tokens" elsewhere), and merges never cross
# from one to the next: otherwise "dog." and "dog!" would each become a token. The pattern says what
# a piece is; \p{L} is any letter, \p{N} any digit. A space belongs to the word after it.
PATTERNS = {
    # GPT-2 (Radford et al. 2019, section 2.2).
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # GPT-4: at most three digits in a piece, 'S as well as 's, a tab or a bracket goes with its
    # word, and a run of punctuation keeps the newlines after it.
    "gpt4": r"(?:'(?i:[sdmt]|ll|ve|re))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}

# Ids that a text gives only if the caller allows it. <|bos|> opens every document; the others mark
# the turns of a chat and the calls of a tool, reserved now so that any model can learn them later.
SPECIAL_TOKENS = ("<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>",
                  "<|assistant_end|>", "<|python_start|>", "<|python_end|>",
                  "<|output_start|>", "<|output_end|>")


# ---- training ----

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


def train(words, n_merges):  # exercise
    """The same merges as train_naive(), without counting all words again for each of them.

    A merge changes only the words that contain its pair. So keep the count of every pair, and for
    every pair the set of words in which it has been seen (some may no longer hold it). For a merge
    visit only these: take their old pairs out of the counts (count_pairs with a negative weight),
    and add their new pairs. Delete a pair whose count reaches 0: it must never be merged.
    """
    weights = list(words.values())
    rows, counts, places = {}, {}, {}  # places: {pair: the rows in which it has been seen}

    def add(i, ids):
        rows[i] = ids
        count_pairs(ids, counts, weights[i])
        for pair in zip(ids, ids[1:]):
            places.setdefault(pair, set()).add(i)

    for i, word in enumerate(words):
        add(i, list(word))
    merges = []
    for new_id in track(range(256, 256 + n_merges), "merging", n_merges, unit=" pairs"):
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        for i in places.pop(best):
            count_pairs(rows[i], counts, -weights[i])
            for pair in zip(rows[i], rows[i][1:]):
                if counts.get(pair) == 0:
                    del counts[pair]
            add(i, merge(rows[i], best, new_id))
        merges.append(best)
    return merges


# ---- encoding ----

def apply_merges(ids, ranks):  # exercise
    """The ids of one piece: its bytes, merged in the order in which the merges were learned.

    ids: a list of ints; ranks: {pair: the id it becomes}, where a lower id was learned earlier.
    Repeat as long as there is a neighbouring pair in `ranks`: take the pair with the lowest id, and
    merge it wherever it stands.
    apply_merges([97, 97, 98], {(97, 98): 256, (97, 256): 257}) == [257]
    """
    while len(ids) > 1:
        pair = min(zip(ids, ids[1:]), key=lambda pair: ranks.get(pair, float("inf")))
        if pair not in ranks:
            break
        ids = merge(ids, pair, ranks[pair])
    return ids


def split_special(text, names):  # exercise
    """`text` cut at the special tokens in `names`: a list of plain texts and names, none empty.

    Where several names match, the longest one wins. Names may contain any character, also those
    that mean something in a regular expression. Without names, the text is a single part.
    split_special("hi<|end|>you", ["<|end|>"]) == ["hi", "<|end|>", "you"]
    """
    if not names:  # no search: this is the usual case
        return [text] if text else []
    longest_first = sorted(names, key=len, reverse=True)
    pattern = "|".join(map(regex.escape, longest_first))
    return [part for part in regex.split(f"({pattern})", text) if part]


class Tokenizer:
    """Text to ids and back. Ids 0 to 255 are the bytes, then come the merges, then special tokens.

    merges: pairs of ids, as train() returns them. pattern: a name in PATTERNS or a regular
    expression; a character that it skips is a piece by itself. special_tokens: names. Attributes:
    vocab, the bytes of each id; vocab_size, the number of ids; special, {name: id}; ranks,
    {pair: the id it becomes}; find_pieces, a function from a text to the list of its pieces.
    """

    kind = "bpe"  # in tokenizer.json

    def __init__(self, merges, pattern="gpt4", special_tokens=SPECIAL_TOKENS):
        self.merges = [tuple(pair) for pair in merges]
        self.ranks = {pair: 256 + i for i, pair in enumerate(self.merges)}
        self.vocab, n_bytes = [bytes([byte]) for byte in range(256)], 0
        for a, b in self.merges:
            self.vocab.append(self.vocab[a] + self.vocab[b])
            n_bytes += len(self.vocab[-1])
            if min(a, b) < 0 or n_bytes > 1 << 26:  # a hostile file's could fill the memory
                raise ValueError(f"the merge of {a} and {b} is none that train() would return")
        self.special = {name: len(self.vocab) + i for i, name in enumerate(special_tokens)}
        if "" in self.special or len(self.special) < len(special_tokens):
            raise ValueError(f"special tokens need a name, and names must differ: {special_tokens}")
        self.vocab += [name.encode() for name in self.special]
        self.vocab_size = len(self.vocab)
        self.known = {}
        self.pattern = PATTERNS.get(pattern, pattern)
        compiled = regex.compile(f"(?:{self.pattern})|[\\s\\S]")
        if self.pattern.isalnum() or compiled.groups or compiled.match(""):
            raise ValueError(f"the pattern {pattern!r} is none of {', '.join(PATTERNS)}, and your "
                             "own must match at least a character and capture no groups")
        self.find_pieces = compiled.findall

    @classmethod
    def train(cls, texts, vocab_size, pattern="gpt4", special_tokens=SPECIAL_TOKENS):
        """Learn from strings a vocabulary of `vocab_size` ids, special tokens included, or fewer if
        the texts are too small. ValueError if they are empty, or if `vocab_size` is too small.
        """
        if vocab_size < (least := 256 + len(special_tokens)):
            raise ValueError(f"vocab_size is {vocab_size}, but 256 bytes and {len(special_tokens)} "
                             f"special tokens need {least}")
        find_pieces, words = cls([], pattern, special_tokens).find_pieces, Counter()
        for text in track(texts, "counting", size=lambda text: len(text) / 1e6, unit=" MB"):
            words.update(find_pieces(text))
        if not words:
            raise ValueError("there is no text to train a tokenizer on")
        words = {word.encode(): count for word, count in words.items()}
        return cls(train(words, vocab_size - least), pattern, special_tokens)

    def encode(self, text, allowed_special=()):  # exercise
        """The ids of `text`, a list of ints.

        A special token written in the text is plain text, unless its name is in `allowed_special`
        ("all" allows every one): what a user types must never open a turn. So cut the text with
        split_special() at the names that are allowed. The id of a name is self.special[name]. Cut
        all other parts into pieces, self.find_pieces(part), and each piece's bytes into ids,
        apply_merges(list(...), self.ranks); texts repeat their words, so the dict self.known may
        remember the ids of each piece. ValueError for a name that is no special token.
        """
        allowed = set(self.special if allowed_special == "all" else allowed_special)
        if unknown := allowed - set(self.special):
            raise ValueError(f"not special tokens of this tokenizer: {sorted(unknown)}")
        ids = []
        for part in split_special(text, allowed):
            if part in allowed:
                ids.append(self.special[part])
            else:
                for piece in self.find_pieces(part):
                    if piece not in self.known:
                        self.known[piece] = apply_merges(list(piece.encode()), self.ranks)
                    ids += self.known[piece]
        return ids

    def decode_bytes(self, ids):  # exercise
        """The bytes that `ids` stand for, which need not be whole characters.

        self.vocab holds the bytes of each id. An id that stands for nothing, because it is b"" in
        the vocabulary or beyond its end (models pad it to a round number), gives U+FFFD, in UTF-8.
        ValueError for a negative id (beware: Python counts those from the end of a list).
        """
        vocab, tokens = self.vocab, []
        for i in ids:
            if i < 0:
                raise ValueError(f"id {i} is negative")
            tokens.append((vocab[i] if i < len(vocab) else b"") or "\ufffd".encode())
        return b"".join(tokens)

    def decode(self, ids):
        """The text that `ids` stand for. Bytes that form no character become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def content(self):  # all that the ids depend on
        return {"kind": self.kind, "pattern": self.pattern, "special_tokens": list(self.special),
                "merges": self.merges}

    @property
    def hash(self):
        """16 hex digits that change with anything that changes the ids."""
        return hashlib.sha256(json.dumps(self.content()).encode()).hexdigest()[:16]

    def save(self, path):
        """Write tokenizer.json: kind, pattern, special tokens, merges, hash."""
        write_safely(path, json.dumps({"hash": self.hash, **self.content()}))

    @classmethod
    def load(cls, path):
        """Read what save() wrote. ValueError, naming the file, if it is anything else."""
        try:
            content = json.loads(read_text(path))
            stored, kind = content.pop("hash"), content.pop("kind")
            if kind == "mapped":  # one with other ids
                from mapped import MappedTokenizer as cls
            elif kind != "bpe":
                raise ValueError(f"its kind is {kind!r}")
            tokenizer = cls(**content)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError,
                regex.error) as error:
            raise ValueError(f"{path} is not a tokenizer.json that this version of the course "
                             f"reads ({error!r})") from None
        if stored != tokenizer.hash:
            raise ValueError(f"{path} was changed: its hash is {tokenizer.hash}, not {stored}")
        return tokenizer


def tokenizer_class(by_hand):
    """Tokenizer itself, or the class in extras/ that gives the same ids in less time."""
    if by_hand:
        return Tokenizer
    from fast import FastTokenizer
    return FastTokenizer


def show_merges(n_merges=20):
    """Learn merges from the text at the top of this file, and print how each makes it shorter."""
    words = Counter(piece.encode() for piece in Tokenizer([]).find_pieces(__doc__))
    merges = train_naive(words, n_merges)
    print(f"{len(__doc__.encode())} bytes of text")
    for n, pair in enumerate(merges, 1):
        tokenizer = Tokenizer(merges[:n])
        a, b, made = (repr(tokenizer.vocab[i].decode()) for i in (*pair, 255 + n))
        print(f"id {255 + n}: {a:>8} + {b:8} = {made:10}  {len(tokenizer.encode(__doc__))} ids")
    ids = tokenizer.encode(__doc__.splitlines()[0])
    print("\nIts first line:\n" + " ".join(f"[{tokenizer.decode([i])}]{i}" for i in ids))


def main(argv=None):
    arguments = sys.argv[1:] if argv is None else argv
    if arguments:
        from commands import obey
        obey(arguments)
    else:
        show_merges()


if __name__ == "__main__":
    run(main)
