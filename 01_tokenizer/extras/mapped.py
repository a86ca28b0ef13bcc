"""Tokenizers with other ids: special tokens anywhere, bytes in another order or without an id, and
added tokens, which stand for their text wherever it occurs.

In bpe.py the bytes have the ids 0 to 255, and merge i makes 256 + i. Other tokenizers differ: in
GPT-2 the id 0 is byte 33, in others it is [PAD]. Here the merges still work on symbols, which are
numbered as in bpe.py, and a table gives each symbol its id.

    python 01_tokenizer/bpe.py train README.md --special "[PAD]=0" "[UNK]=1"

Reads and writes nothing by itself. Next: commands.py.
"""

import itertools
import os
import re
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from bpe import SPECIAL_TOKENS
from fast import FastTokenizer
from pieces import find_pattern, piece_finder

BEGIN_NAMES = {SPECIAL_TOKENS[0], "<|begin_of_text|>"}  # that open a text, as in data.py


def is_id(value):
    """Whether `value` is a whole number that can be an id; True and 1.0 are none."""
    return type(value) is int and value >= 0


def check_ids(names):
    """ValueError unless `names` is a dict from names to ids, {name: id}."""
    if type(names) is not dict:
        raise ValueError(f"expected names with their ids, not {names!r:.100}")
    for name, i in names.items():
        if not is_id(i):
            raise ValueError(f"the id of {name!r:.100} is {i!r:.100}, not a number from 0 on")


def check_pairs(pairs, kind):
    """ValueError unless `pairs` is a list of pairs whose parts are all of type `kind`."""
    if type(pairs) is not list:
        raise ValueError(f"the merges are {pairs!r:.100}, not a list")
    for pair in pairs:
        if type(pair) is not list or len(pair) != 2 or {*map(type, pair)} != {kind}:
            raise ValueError(f"a merge is {pair!r:.100}, not a pair")


def finder(names):
    """A function that finds the occurrences of `names` in a text, an iterator of matches: of names
    that begin at one place the longest, and none that begins inside another.
    """
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)").finditer


def cut_at(found, text, ids):
    """`text` cut at the names in `found`, matches of finder(), that have an id in `ids`: pairs
    (part, its id or None). A name without an id is plain text; nothing is found inside it.
    """
    start = 0
    for match in found:
        if (i := ids.get(match[0])) is not None:
            if start < match.start():
                yield text[start:match.start()], None
            yield match[0], i
            start = match.end()
    if start < len(text):
        yield text[start:], None


class MappedTokenizer(FastTokenizer):
    """A FastTokenizer with a table of ids.

    pattern: a name in PATTERNS, a regular expression, or a list of them, applied in turn.
    special_tokens: {name: id}, or names, which take the ids after all others.
    ids: the id of each symbol; by default, in order, the ids that special tokens don't take.
    encode() leaves out bytes whose id is None, as some other tokenizers do.
    added_tokens: a list of {name: id}, of ordinary text that is always one id, such as a run of
    spaces; in Hugging Face's files, the added tokens that are not special. The names of the first
    dict are searched together with the special tokens, those of the second in what is then left.
    begin: the ids before every text, if special tokens' names don't tell them; encode() doesn't add
    them, since only its caller knows where a text begins. ends: ids at which a text ends, besides
    those of known names.

    vocab: the bytes of each id, b"" for an unused id; vocab_size: the largest id plus 1.
    """

    def __init__(self, merges, pattern="gpt4", special_tokens=SPECIAL_TOKENS, ids=None,
                 added_tokens=(), begin=None, ends=()):
        plain = FastTokenizer(merges, "gpt2", special_tokens)  # checks merges and names
        self.merges, self.ranks, self.pattern = plain.merges, plain.ranks, find_pattern(pattern)
        symbols = plain.vocab[:256 + len(self.merges)]
        special = special_tokens if isinstance(special_tokens, dict) else plain.special
        check_ids(special)
        self.special = dict(sorted(special.items(), key=lambda item: item[1]))
        self.added = list(added_tokens)
        for names in self.added:
            check_ids(names)
        named = [item for names in (self.special, *self.added) for item in names.items()]
        if len({name for name, _ in named} - {""}) < len(named):
            raise ValueError(f"added tokens need a name, and names must differ: {named!r:.400}")
        self.finders = [finder({**self.special, **names} if n == 0 else names)
                        for n, names in enumerate(self.added)]
        taken = {i for _, i in named}
        free = (i for i in itertools.count() if i not in taken)
        self.ids = list(itertools.islice(free, len(symbols)) if ids is None else ids)

        used = [i for i in self.ids if i is not None] + [i for _, i in named]
        if not all(map(is_id, used)) or len(set(used)) < len(used):
            raise ValueError("ids must be whole numbers from 0 on, and differ, those of special "
                             f"and added tokens too: {named!r:.400}")
        if len(self.ids) != len(symbols) or None in self.ids[256:]:
            raise ValueError(f"{len(symbols)} symbols need an id each, not {len(self.ids)}")
        self.vocab_size = max(used) + 1
        if self.vocab_size > 2 * len(used) + 100_000:
            raise ValueError(f"the largest id is {max(used)}, far beyond the {len(used)} in use")
        self.vocab = [b""] * self.vocab_size
        for i, symbol in zip(self.ids, symbols):
            if i is not None:
                self.vocab[i] = symbol
        for name, i in named:
            self.vocab[i] = name.encode()
        self.find_pieces = piece_finder(self.pattern)
        self.set_ids(self.ids)
        if begin is not None:
            self.begins_with(begin)
        self.ends = list(ends)
        if not all(map(is_id, self.ends)):
            raise ValueError(f"no text ends at the ids {ends}")

    def begins_with(self, ids):
        """Let every text begin with these ids, a list that may be empty. ValueError if the
        vocabulary lacks one of them.
        """
        if not all(is_id(i) and i < self.vocab_size for i in ids):
            raise ValueError(f"no text begins with the ids {ids}")
        self.begin = list(ids)

    def __reduce__(self):
        return MappedTokenizer, (self.merges, self.pattern, self.special, self.ids, self.added,
                                 getattr(self, "begin", None), self.ends)

    def segments(self, text, allowed):
        """As FastTokenizer.segments(), cut also at the added tokens."""
        if not self.added:
            return super().segments(text, allowed)
        parts = [(text, None)]
        for find, ids in zip(self.finders, self.added):
            ids = ids | {name: self.special[name] for name in allowed}
            parts = [cut for part, i in parts for cut in (
                cut_at(find(part), part, ids) if i is None else [(part, i)])]
        return parts

    @classmethod
    def train(cls, texts, vocab_size, pattern="gpt4", special_tokens=SPECIAL_TOKENS, workers=1):
        if isinstance(special_tokens, dict) and any(i >= vocab_size
                                                    for i in special_tokens.values()):
            raise ValueError(f"special tokens need ids below {vocab_size}: {special_tokens}")
        return super().train(texts, vocab_size, pattern, special_tokens, workers)

    def content(self):
        n, more = len(self.ids), {"ends": self.ends} if self.ends else {}
        more |= {"added_tokens": self.added} if self.added else {}
        begin = getattr(self, "begin", None)  # not stored if None or [<|bos|>]: its name tells it
        if begin and begin != [self.special.get(SPECIAL_TOKENS[0])] or (
                begin == [] and self.special.keys() & BEGIN_NAMES):
            more["begin"] = begin
        if (not more and isinstance(self.pattern, str) and self.ids == list(range(n))
                and list(self.special.values()) == list(range(n, n + len(self.special)))):
            return super().content()  # the ids of a plain Tokenizer: the same file and hash
        return {"kind": "mapped", "pattern": self.pattern, "special_tokens": self.special,
                "ids": self.ids, "merges": self.merges, **more}
