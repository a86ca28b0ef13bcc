"""Text -> pieces, as in bpe.py, with more patterns and in less time.

Finding the pieces is the slow part of counting and encoding. So patterns are translated for
Python's own regex engine, the faster of the two, where that is safe, and texts are first cut at
spaces where the pattern allows it.

Reads and writes nothing. Next: dialects.py.
"""

import functools
import os
import re
import sys
from collections import Counter

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import bpe

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
# With these patterns a space that follows a non-space always begins a new piece, and none of them
# looks behind. So a text may be cut at such spaces, by str.split(), which is faster still.

CUTTABLE = {group_digits(PATTERNS[name], n) for name in ("gpt2", "gpt4", "o200k")
            for n in (1, 2, 3)} | {PATTERNS["gpt2"]}
SAFE_SPACE = re.compile(r" (?<=\S )")
WHITESPACE = "\t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200b)))


def is_cuttable(pattern):
    """Whether texts may be cut at spaces that follow a non-space."""
    *before, last = [pattern] if isinstance(pattern, str) else pattern
    return last in CUTTABLE and set(before) <= set(DIGITS.values())


def blocks(text, pattern, size=1 << 15):
    """`text` in blocks of little more than `size` characters, to be cut into pieces block by block,
    which keeps short-lived strings in the processor's cache; one block if `pattern` forbids it.
    """
    start, cuttable = 0, is_cuttable(pattern)
    while start < len(text):
        found = SAFE_SPACE.search(text, start + size) if cuttable else None
        end = found.start() if found else len(text)
        yield text[start:end]
        start = end


def cut(text):
    """(beginning, chunks, end) of `text`, cut at every space after a non-space.

    Only a space after a non-space is a safe cut, so all other spaces are first replaced by \\0, and
    then str.split() cuts. Chunks lack the spaces at which they were cut. The beginning has none
    before it, and the end may end in white space, so both are returned as plain text.
    A text with \\0 in it is returned as the beginning.
    cut("a bc  d\\n e f") == ("a", ["bc", "\\0d\\n\\0e"], " f")
    """
    if "\0" in text:
        return text, [], ""
    text = text.replace("  ", " \0").replace("\0 ", "\0\0")  # of a run only the first may cut
    for space in WHITESPACE:
        if space in text:
            text = text.replace(space + " ", space + "\0")
    first, *chunks = text.split(" ")
    return uncut([first])[1:], chunks[:-1], uncut(chunks[-1:])


def uncut(chunks):
    """The text that `chunks` were cut from, with the space in front of each."""
    return "".join([" " + chunk for chunk in chunks]).replace("\0", " ")


def count_pieces(texts, pattern):
    """{piece: how often it occurs} over all `texts`, a Counter.

    ValueError if `pattern` loses or reorders text.
    """
    find_pieces, counts = piece_finder(pattern), Counter()
    for text in each_text(texts):
        for block in blocks(text, pattern):
            pieces = find_pieces(block)
            if "".join(pieces) != block:
                raise ValueError(f"the pattern {pattern!r} loses or reorders text")
            counts.update(pieces)
    return counts
