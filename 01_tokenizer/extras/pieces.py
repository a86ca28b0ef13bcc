"""Text -> pieces, as in bpe.py, with more patterns and in less time.

Finding the pieces is the slow part of counting and encoding. So patterns are translated for
Python's own regex engine, the faster of the two, where that is safe. Where the pattern allows it,
texts are first cut into chunks by numpy, and only new chunks are cut into pieces.

Reads and writes nothing. Next: dialects.py.
"""

import functools
import itertools
import os
import re
import string
import sys
from collections import Counter

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import bpe

import numpy as np
import regex

# Lu and Ll are upper and lower case.
WORD = r"(?:\p{Lu}+(?!\p{Ll})|\p{Lu}?\p{Ll}+|\p{L}+)"  # HTTP|Server, get|Name
CONTRACTION = r"(?:'(?i:[sdmt]|ll|ve|re))"
PATTERNS = bpe.PATTERNS | {  # which has gpt2 and gpt4 (cl100k_base in tiktoken)
    # GPT-4o (o200k_base in tiktoken): words end where upper case begins, 's stays with its word.
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
             + CONTRACTION +
             r"?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
             + CONTRACTION + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # Go: parts of camelCase and snake_case; a keyword or an operator takes the next word along
    # (" != nil", "if err", ":= range"); punctuation takes newline and indentation (" {\n\t\t").
    "go": r" ?(?:(?:func|if|for|return|var|type|case|range|[-+*/<>=!:&|]+) )?"
          r"[^\s\p{L}\p{N}]{0,2}" + WORD + r"|\p{N}{1,3}"
          r"| ?[^\s\p{L}\p{N}]+(?:\r?\n[\t ]*)*|\s*[\r\n][\t ]*|\s+(?!\S)|\s+",
}
DIGITS = {"apart": r"\p{N}|\P{N}+", "together": r"\p{N}+|\P{N}+"}  # for a list of patterns
WHOLE = r"(?:[^\n]|\n)+"  # the whole text is one piece


def find_pattern(pattern):
    """The pattern of that name in PATTERNS; any other regular expression, or list, unchanged."""
    if isinstance(pattern, str):
        return PATTERNS.get(pattern, pattern)
    if not pattern or not all(isinstance(step, str) for step in pattern):
        raise ValueError(f"a pattern is a string or a list of them, not {pattern!r}")
    return list(pattern)


def group_digits(pattern, n):
    """One of PATTERNS, changed to cut numbers into groups of at most n digits."""
    if pattern not in PATTERNS.values():
        raise ValueError(f"digits are grouped only in the patterns {', '.join(PATTERNS)}; in your "
                         "own pattern write \\p{N}{1,3}")
    return re.sub(r"\\p\{N\}(?:\+|\{1,3\})", rf"\\p{{N}}{{1,{n}}}", pattern)


def each_text(texts):
    """An iterator over `texts`. ValueError if `texts` is a single text, whose letters would be
    taken for texts, or when an item is no text.
    """
    if isinstance(texts, (str, bytes)):
        raise ValueError(f"several texts are needed, such as a list of one, not {texts!r:.40}")

    def checked(text):
        if not isinstance(text, str):
            raise ValueError(f"a text must be a str, not {text!r:.40}")
        return text
    return map(checked, texts)


@functools.cache
def ours():
    """The patterns of this file. Their matching time is linear in the text."""
    grouped = {group_digits(each, n) for each in PATTERNS.values() for n in (1, 2, 3)}
    grouped |= {each.replace("{1,1}", "") for each in grouped}  # as Qwen 2 writes it
    return grouped | {*PATTERNS.values(), *DIGITS.values(), WHOLE}


def piece_finder(pattern):
    """A function that cuts a text into pieces: the matches of `pattern`, and each character that it
    skips, so that nothing is lost.

    A list of patterns is applied in turn, each to the pieces of the one before. ValueError if a
    pattern is no regular expression, captures groups or matches the empty text.
    """
    if not isinstance(pattern, str):
        steps = [piece_finder(step) for step in pattern]
        return lambda text: functools.reduce(
            lambda pieces, step: [part for piece in pieces for part in step(piece)], steps, [text])
    if pattern not in ours():
        from dialects import patient_finder
        return patient_finder(pattern)
    compiled, faster = regex.compile(pattern), re.compile(spell_out(pattern))

    def find_pieces(text):
        plain = text.isascii() or len(text.encode("utf-16", "surrogatepass")) == 2 * len(text) + 2
        return (faster if plain else compiled).findall(text)
    return find_pieces


@functools.cache
def characters(kind):
    """What matches `kind`, such as \\p{L}, up to U+FFFF: ranges, for use inside [...]."""
    runs = regex.findall(f"{kind}+", "".join(map(chr, range(1 << 16))))
    return "".join(f"{re.escape(run[0])}-{re.escape(run[-1])}" for run in runs)


PART = re.compile(r"""
      \\[pP]\{\w+\} | \\[sSrnt] | \\[^\w]          # kinds of characters, and single ones
    | \[\^(?!\]) | \[(?![\]^]) | \]                # classes, not beginning with a ]
    | \(\?[:=!] | \((?!\?) | [)|.]                 # groups and alternatives
    | \(\?i:['sdmtlvre|\[\]]+\)                    # letters with two cases everywhere
    | [*+?](?!\+) | \{\d+(?:,\d*)?\}(?!\+)         # quantifiers, none possessive
    | [^\\\[\](){}*+?^$|.]                          # any other character is itself
    """, re.X)


def portable_parts(pattern):
    """`pattern` in parts, if it is made only of what all engines read alike; otherwise None.

    Engines differ about anchors, possessive quantifiers, nested sets, case, and rarer syntax.
    """
    parts, inside, at = [], False, 0
    while at < len(pattern):
        before = parts[-1] if parts else ""
        if inside and pattern[at] in "(){}*+?^$|.":
            part = pattern[at]
        elif found := PART.match(pattern, at):
            part = found[0]
        else:
            return None
        if inside and (part[0] == "[" or re.match(r"\\[PS]", part)  # a set in a set
                       or part == before and part in "&|~-"  # an operation on sets
                       or "-" in (part, before) and re.search(r"\\[ps]", before + part)):
            return None
        inside = part != "]" and (inside or part[0] == "[")
        parts.append(part)
        at += len(part)
    return parts


def spell_out(pattern):
    """`pattern` for Python's own engine, which has no \\p{L} but is two to three times as fast:
    kinds of characters become ranges up to U+FFFF, for which that engine uses a fast table.

    None if portable_parts() is None.
    """
    if (parts := portable_parts(pattern)) is None:
        return None
    spelled, inside = [], False
    for part in parts:
        if re.match(r"\\[pPsS]", part):
            ranges = characters(part.replace("\\P", "\\p").replace("\\S", "\\s"))
            if not ranges:
                return None
            negated = "^" if part[1] in "PS" else ""
            part = ranges if inside else f"[{negated}{ranges}]"
        elif part[0] in "[]":
            inside = part != "]"
        spelled.append(part)
    return "".join(spelled)


# ---- cutting without a regular expression ----
#
# With these patterns a piece always ends between certain neighbours, such as a letter and a comma,
# whatever stands around them, and none of the patterns looks behind. So numpy may cut texts there,
# at all of these places at once. Most of the chunks are a single piece, and most have been met.

CUTTABLE = {group_digits(PATTERNS[name], n) for name in ("gpt2", "gpt4", "o200k")
            for n in (1, 2, 3)} | {PATTERNS["gpt2"]}
SAFE_SPACE = re.compile(r" (?<=\S )")


def is_cuttable(pattern):
    """Whether texts may be cut between these neighbours."""
    *before, last = [pattern] if isinstance(pattern, str) else pattern
    return last in CUTTABLE and set(before) <= set(DIGITS.values())


def blocks(text, pattern, size=1 << 17):
    """`text` in blocks of little more than `size` characters, to be cut into pieces block by block,
    which keeps what is made of them in the processor's cache; one block if `pattern` forbids it.
    """
    start, cuttable = 0, is_cuttable(pattern)
    while start < len(text):
        found = SAFE_SPACE.search(text, start + size) if cuttable else None
        end = found.start() if found else len(text)
        yield text[start:end]
        start = end


@functools.cache
def safe_cuts(pattern):
    """For bytes a, b at 256a + b: 1 if a text may be cut between them, 2 if it may before a."""
    def among(characters):
        return np.isin(np.arange(256), list(characters))
    letter, digit = among(string.ascii_letters.encode()), among(string.digits.encode())
    space, other = among(b" \t\n\v\f\r"), among(range(128, 256))  # other: not ASCII, any kind
    between = (np.outer(letter, ~letter & ~other & ~among(b"'")) | np.outer(digit, ~digit & ~other)
               | np.outer(~space & ~digit & ~other, digit) | np.outer(~space & ~other, among(b" ")))
    if not isinstance(pattern, str):  # digits are cut off first, and then spaces stay together
        return between.astype(np.uint8).ravel()
    # The last of some spaces goes with what follows. Spaces beyond ASCII begin with these bytes.
    nonspace = ~space & ~among((*range(128, 0xc3), 0xe1, 0xe2, 0xe3))
    return (between + 2 * np.outer(among(b" \t"), nonspace)).astype(np.uint8).ravel()


class Chunks(dict):
    """{chunk: a number} for the chunks of texts, as UTF-8; the method learn() gives the numbers.

    A dictionary finds one chunk at a time. So chunks of at most 15 bytes, which with their length
    are two words of 8, are first looked for in a table, those of a whole text at once. A chunk's
    hash tells its row, and the chunk that was met last has it. Once chunks of `limit` bytes are
    known, all are forgotten: endless new words must not fill the memory.
    """

    ROWS = 18  # 2 ** 18 of them
    LOW = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(17)], np.uint64)
    HIGH = np.array([(1 << 8 * min(max(n - 8, 0), 7)) - 1 for n in range(17)], np.uint64)
    LENGTH = np.arange(17, dtype=np.uint64) << 56

    def __init__(self, pattern, limit=1 << 23):
        self.safe = safe_cuts(pattern if isinstance(pattern, str) else None)
        self.low, self.high = np.zeros((2, 1 << self.ROWS), np.uint64)
        self.number = np.zeros(1 << self.ROWS, np.int64)
        self.limit, self.n_bytes = limit, 0

    def numbers(self, texts):
        """(the numbers of all chunks of `texts`, how many there are up to the end of each text)."""
        if self.n_bytes > self.limit:
            self.forget()
        texts = [text.encode() for text in texts]
        ends, data = np.cumsum([len(text) for text in texts]), b"".join([*texts, bytes(16)])
        n = len(data) - 16
        row = np.frombuffer(data, np.uint8, n)
        safe = self.safe[row[:-1].astype(np.uint16) << 8 | row[1:]]
        safe[ends[(0 < ends) & (ends < n)] - 1] = 0  # the next text is no neighbour
        cuts = np.ones(n + 1, bool)
        cuts[1:n] = safe & 1
        cuts[1:n - 1] |= safe[1:] > 1
        cuts[ends] = True
        places = np.flatnonzero(cuts)

        start, size = places[:-1], np.minimum(np.diff(places), 16)
        words = np.ndarray(n + 9, "<u8", data, strides=1)  # at each byte, the 8 from there on
        low = words[start] & self.LOW[size]
        high = words[start + 8] & self.HIGH[size] | self.LENGTH[size]
        slot = (low ^ high * np.uint64(0xc2b2ae3d27d4eb4f)) * np.uint64(0x9e3779b97f4a7c15)
        slot >>= np.uint64(64 - self.ROWS)
        numbers = self.number[slot]
        rest = np.flatnonzero((self.low[slot] != low) | (self.high[slot] != high) | (size > 15))
        chunks = [data[i:j] for i, j in zip(start[rest].tolist(), places[rest + 1].tolist())]
        if new := [chunk for chunk in dict.fromkeys(chunks) if chunk not in self]:
            self.learn(new)
            self.n_bytes += sum(map(len, new))
        numbers[rest] = [self[chunk] for chunk in chunks]
        rest = rest[size[rest] < 16]
        slot = slot[rest]
        self.high[slot] = 0  # a row is valid only once it is complete
        self.number[slot], self.low[slot] = numbers[rest], low[rest]
        self.high[slot] = high[rest]
        return numbers, np.searchsorted(places, ends)

    def learn(self, chunks):
        """Number `chunks`, which are new, in order."""
        self.update(zip(chunks, range(len(self), len(self) + len(chunks))))

    def forget(self):
        self.high[:] = 0
        self.clear()
        self.n_bytes = 0


class PieceCounter(Chunks):
    """Counts pieces. A call with texts counts theirs; one with None returns {piece: how often it
    occurred in all of them}, a Counter. So each of several processes answers once.
    """

    def __init__(self, pattern, limit=1 << 23):
        super().__init__(pattern, limit)
        self.pattern, self.find_pieces = pattern, piece_finder(pattern)
        self.total, self.times = Counter(), np.zeros(0, np.int64)  # of pieces, and of chunks

    def __reduce__(self):  # sent to another process
        return type(self), (self.pattern, self.limit)

    def __call__(self, texts):
        if texts is None:
            self.forget()
            return self.total
        if is_cuttable(self.pattern):
            times = np.bincount(self.numbers(texts)[0], minlength=len(self))
            times[:len(self.times)] += self.times
            self.times = times
            return
        for text in texts:
            pieces = self.find_pieces(text)
            if "".join(pieces) != text:
                raise ValueError(f"the pattern {self.pattern!r} loses or reorders text")
            self.total.update(pieces)

    def forget(self):
        """Count the pieces of all chunks, and forget the chunks."""
        total = self.total
        for chunk, n in zip(self, self.times.tolist()):
            for piece in self.find_pieces(chunk.decode()):
                total[piece] = total.get(piece, 0) + n
        self.times = self.times[:0]
        super().forget()


def in_batches(items, limit, size=len):
    """Lists of consecutive `items`, each full as soon as the sizes in it reach `limit`."""
    batch, total = [], 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= limit:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def count_pieces(texts, pattern, workers=1):
    """{piece: how often it occurs} over all `texts`, a Counter, by `workers` processes.

    ValueError if `pattern` loses or reorders text.
    """
    parts = (block for text in each_text(texts) for block in blocks(text, pattern))
    asked = itertools.chain(in_batches(parts, 1 << 17), [None] * workers)  # the last: one for each
    if workers == 1:
        return [*map(PieceCounter(pattern), asked)][-1]
    from workers import parallel
    total = Counter()
    for counts in filter(None, parallel(PieceCounter(pattern), asked, workers)):
        total.update(counts)
    return total
