"""Byte-pair encoding: text <-> ids.

A language model reads and writes ids, small whole numbers. Bytes would do (256 ids, any text), but
sequences would be long. Byte-pair encoding makes them shorter, those of this course two to three
times: start from bytes, find the pair of neighbours that occurs most often, give it a new id, and
repeat. Common words end up as one id, rare ones as a few, and no text is ever unknown.

    python 01_tokenizer/bpe.py                 # learns 20 merges from the text you are reading
    python 01_tokenizer/bpe.py train README.md 01_tokenizer/bpe.py --vocab-size 700
    python 01_tokenizer/bpe.py show "def tokenize(text): return text.split()"
    python 01_tokenizer/bpe.py encode "hello world"
    python 01_tokenizer/bpe.py decode 104 105

Reads text; writes tokenizer.json, plain JSON. Left to extras/: the same ids in less time (fast.py),
more options (commands.py), tokenizers from elsewhere (formats.py). Next: 02_data/data.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, escaped, housekeeping, read_text, run, track, write_safely
import hashlib
import json
from collections import Counter, defaultdict

import regex

# A text is first cut into pieces, roughly words ("pre-tokens" elsewhere), and merges never cross
# from one to the next: otherwise "dog." and "dog!" would each become a token. The pattern says what
# a piece is; \p{L} is any letter, \p{N} any digit. A space belongs to the word after it.
PATTERNS = {
    # GPT-2 (Radford et al. 2019, section 2.2).
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # GPT-4: at most three digits; a tab or a bracket goes with its word, newlines with a "}".
    "gpt4": r"(?:'(?i:[sdmt]|ll|ve|re))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}

# Names that become ids only if the caller allows it. <|bos|> opens each document (GPT-2 has
# <|endoftext|>); the others mark turns of a chat and tool calls, for any model to learn later.
SPECIAL_TOKENS = ("<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>",
                  "<|assistant_end|>", "<|python_start|>", "<|python_end|>",
                  "<|output_start|>", "<|output_end|>")


def count_pairs(ids, counts, weight=1):  # exercise
    """Add `weight` to counts[a, b] for every two neighbours a, b in `ids`. Returns `counts`,
    a dict that is changed in place. count_pairs([1, 1, 1, 2], {}) == {(1, 1): 2, (1, 2): 1}
    """
    for pair in zip(ids, ids[1:]):
        counts[pair] = counts.get(pair, 0) + weight
    return counts


def merge(ids, pair, new_id):  # exercise
    """A new list in which every occurrence of `pair` in `ids` is replaced by `new_id`, from left to
    right and without overlaps. merge([1, 1, 1, 2], (1, 1), 9) == [9, 1, 2]
    """
    merged, i = [], 0
    while i < len(ids):
        found = i + 1 < len(ids) and (ids[i], ids[i + 1]) == pair
        merged.append(new_id if found else ids[i])
        i += 2 if found else 1
    return merged


def train_naive(words, n_merges):  # exercise
    """Byte-pair encoding by its definition (Sennrich et al. 2016, algorithm 1), on bytes.

    words: {bytes: how often that word occurs}. Returns the merges, a list of pairs; merge i makes
    the id 256 + i. Each takes the pair that is most frequent by then; of equally frequent pairs the
    smallest, (97, 98) before (97, 99), so that the order of the text never matters. Stops early
    when no pair is left. train_naive({b"aab": 2, b"ab": 1}, 2) == [(97, 98), (97, 256)]
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
    """The same merges as train_naive(), without counting all words again for each merge.

    A merge changes only the words that contain its pair. So keep the count of every pair, and the
    set of words in which it has been seen (some may no longer contain it). For each merge visit
    only these words: take their old pairs out of the counts (count_pairs with a negative weight),
    and add their new pairs. A pair whose count has fallen to 0 must never be merged.
    """
    rows, weights = [list(word) for word in words], list(words.values())
    counts, rows_with = {}, defaultdict(set)  # {pair: the rows in which it has been seen}
    merges, changed = [], range(len(rows))  # changed: rows to be counted; at first all of them
    for new_id in track(range(256, 256 + n_merges), "merging", n_merges, unit=" pairs"):
        for i in changed:
            count_pairs(rows[i], counts, weights[i])
            for pair in zip(rows[i], rows[i][1:]):
                rows_with[pair].add(i)
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if not counts.get(best):
            break
        changed = rows_with.pop(best)
        for i in changed:
            count_pairs(rows[i], counts, -weights[i])
            rows[i] = merge(rows[i], best, new_id)
        merges.append(best)
    return merges


def apply_merges(ids, ranks):  # exercise
    """The ids of one piece: its bytes, merged in the order in which the merges were learned.

    ranks: {pair: the id it becomes}; a lower id was learned earlier. While any two neighbours are
    a pair in `ranks`, take the pair that becomes the lowest id, and merge it wherever it occurs.
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

    Where several names match, the longest wins. Names are plain strings, not patterns; without
    names the text is one part. split_special("hi<|a|>you", ["<|a|>"]) == ["hi", "<|a|>", "you"]
    """
    if not names:  # the usual case, which needs no search
        return [text] if text else []
    pattern = "|".join(map(regex.escape, sorted(names, key=len, reverse=True)))
    return [part for part in regex.split(f"({pattern})", text) if part]


class Tokenizer:
    """Text to ids and back. Ids 0 to 255 are the bytes, then come the merges, then special tokens.

    merges: as train() returns them. pattern: a name in PATTERNS or a regular expression; each
    character that it skips is a piece. Attributes: vocab, the bytes of each id; special, {name:
    id}; ranks, {pair: the id it becomes}; find_pieces, a function that cuts a text into pieces.
    """

    def __init__(self, merges, pattern="gpt4", special_tokens=SPECIAL_TOKENS):
        self.merges = [tuple(pair) for pair in merges]
        self.ranks = {pair: 256 + i for i, pair in enumerate(self.merges)}
        self.vocab = [bytes([byte]) for byte in range(256)]
        for a, b in self.merges:
            self.vocab.append(self.vocab[a] + self.vocab[b])
        self.special = {name: len(self.vocab) + i for i, name in enumerate(special_tokens)}
        if "" in self.special or len(self.special) < len(special_tokens):
            raise ValueError(f"special tokens need a name, and names must differ: {special_tokens}")
        self.vocab += [name.encode() for name in self.special]
        self.vocab_size = len(self.vocab)
        self.pattern, self.known = PATTERNS.get(pattern, pattern), {}
        if self.pattern in PATTERNS.values():
            self.find_pieces = regex.compile(self.pattern).findall
        else:  # a pattern that might be invalid, lose text or never end
            from pieces import find_pattern, piece_finder
            self.pattern = find_pattern(pattern)
            self.find_pieces = piece_finder(self.pattern)

    @classmethod
    def train(cls, texts, vocab_size, pattern="gpt4", special_tokens=SPECIAL_TOKENS):
        """Learn from strings a vocabulary of `vocab_size` ids, special tokens included, or fewer if
        the texts are too small. ValueError if they are empty, or if `vocab_size` is too small.
        """
        if vocab_size < (least := 256 + len(special_tokens)):
            raise ValueError(f"vocab_size is {vocab_size}; bytes and special tokens take {least}")
        if isinstance(texts, (str, bytes)) or isinstance(special_tokens, str):
            raise ValueError("texts and special tokens are several: put a single one into a list")
        find_pieces, words = cls([], pattern, special_tokens).find_pieces, Counter()
        for text in track(texts, "counting", size=lambda text: len(text) / 1e6, unit=" MB"):
            words.update(piece.encode() for piece in find_pieces(text))
        if not words:
            raise ValueError("there is no text to train a tokenizer on")
        return cls(train(words, vocab_size - least), pattern, special_tokens)

    def encode(self, text, allowed_special=()):  # exercise
        """The ids of `text`, a list of ints. ValueError, naming it, for a name of no special token.

        A special token written in the text is plain text, unless its name is in `allowed_special`
        ("all" allows every one): what a user types must never open a turn. So cut the text with
        split_special() at the names that are allowed. The id of a name is self.special[name]. Cut
        all other parts into pieces by self.find_pieces(part). A piece's ids are
        apply_merges(list(its bytes), self.ranks); the dict self.known may cache them.
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

        self.vocab holds the bytes of each id. An id without bytes, because its entry is b"" or
        beyond the end of the vocabulary (models pad theirs to a round number), gives U+FFFD, in
        UTF-8. ValueError, naming it, for a negative id (Python would count from the list's end).
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

    def content(self):  # everything that determines the ids
        return {"kind": "bpe", "pattern": self.pattern, "special_tokens": list(self.special),
                "merges": self.merges}

    @property
    def hash(self):
        """16 hex digits that differ if anything that determines the ids differs."""
        return hashlib.sha256(json.dumps(self.content()).encode()).hexdigest()[:16]

    def save(self, path):
        """Write tokenizer.json: kind, pattern, special tokens, merges, hash, Unicode's version."""
        unicode = housekeeping and housekeeping.unicode_version()  # None where extras/ is missing
        write_safely(path, json.dumps({"hash": self.hash, "unicode": unicode, **self.content()}))

    @classmethod
    def load(cls, path):
        """Read what save() wrote. ValueError, naming the file, if it is anything else."""
        if not os.path.exists(path):
            raise ValueError(f"there is no tokenizer {path}; 01_tokenizer/bpe.py train makes one")
        try:
            content = json.loads(read_text(path))
            if housekeeping:
                housekeeping.vet(content, path)
            stored, _ = content.pop("hash"), content.pop("unicode", None)
            if content.pop("kind") == "mapped":  # one with other ids
                from mapped import MappedTokenizer as cls
            tokenizer = cls(**content)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is not a tokenizer.json of this course: {error!r}") from None
        if stored != tokenizer.hash:
            raise ValueError(f"{path} was changed: its hash is {tokenizer.hash}, not {stored}")
        return tokenizer


def tokenizer_class(by_hand):
    """Tokenizer, or the faster class in extras/fast.py that gives the same ids."""
    if by_hand:
        return Tokenizer
    from fast import FastTokenizer
    return FastTokenizer


def show(tokenizer, ids):
    """Print each token's text, in brackets, and its id. Control characters are escaped."""
    texts = [escaped(tokenizer.vocab[i].decode(errors="backslashreplace")) for i in ids]
    print(*(f"[{text}]{i}".replace("\n", "\\n") for text, i in zip(texts, ids)))


def show_merges(n_merges=20):
    """Learn merges from the docstring of this file, and print how much each shortens it."""
    words = Counter(piece.encode() for piece in Tokenizer([]).find_pieces(__doc__))
    merges = train_naive(words, n_merges)
    print(f"{len(__doc__.encode())} bytes of text")
    for i, pair in enumerate(merges, 256):
        tokenizer = Tokenizer(merges[:i - 255])
        a, b, made = (tokenizer.vocab[j].decode() for j in (*pair, i))
        print(f"id {i}: {a!r:>8} + {b!r:8} = {made!r:10}  {len(tokenizer.encode(__doc__))} ids")
    print("\nIts first line:")
    show(tokenizer, tokenizer.encode(__doc__.splitlines()[0]))


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    train = commands.add_parser("train", help="learn a vocabulary from text files")
    train.add_argument("files", nargs="+", help="UTF-8 text files")
    train.add_argument("--vocab-size", type=int, default=2048, help="how many ids (default: 2048)")
    train.add_argument("--pattern", default="gpt4", help="gpt2, gpt4 (default) or a regex")
    commands.add_parser("decode", help="ids to text").add_argument("ids", nargs="+", type=int)
    for name, what in (("encode", "text to ids"), ("show", "the tokens of a text and their ids")):
        commands.add_parser(name, help=what).add_argument("text", help="- reads standard input")
    for command in commands.choices.values():
        command.add_argument("--tokenizer", default="tokenizer.json", metavar="FILE",
                             help="the tokenizer to write or to use (default: tokenizer.json)")
    parser.set_defaults(show=show, learn=lambda texts, args: Tokenizer.train(
        texts, args.vocab_size, args.pattern))
    if housekeeping:  # the extras are there: more options, and colours
        from commands import extend
        extend(parser, train)
    args = parser.parse_args(argv)
    if args.command is None:
        show_merges()
    elif args.command == "train":
        tokenizer = args.learn(map(read_text, args.files), args)
        tokenizer.save(args.tokenizer)
        print(f"{args.tokenizer}: {256 + len(tokenizer.merges) + len(tokenizer.special)} ids")
    elif args.command == "decode":
        print(Tokenizer.load(args.tokenizer).decode(args.ids))
    else:
        tokenizer = Tokenizer.load(args.tokenizer)
        ids = tokenizer.encode(sys.stdin.read() if args.text == "-" else args.text)
        print(*ids) if args.command == "encode" else args.show(tokenizer, ids)


if __name__ == "__main__":
    run(main)
