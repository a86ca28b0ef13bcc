"""Patterns from elsewhere: which may never end, and which other regex engines read differently.

Used by pieces.py for such patterns, and by formats.py and foreign.py for tokenizers' files.

Reads and writes nothing. Next: workers.py.
"""

import functools
import math
import os
import re
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import regex

from pieces import PATTERNS, portable_parts

LARGEST = 10**6  # parts of a pattern once its counts {n} are unrolled: 0.2 GB of memory
PATIENCE, CHARACTERS_PER_SECOND = 2, 100_000  # processor time that a pattern may take, in s


def parts_when_unrolled(pattern):
    """An upper bound on the parts of a compiled pattern, as the engine copies what a count repeats:
    the product of all counts {n} and {n,m}, times the pattern's length.
    """
    def counts(pattern):
        found = re.findall(r"\{(\d*),?(\d*)\}", re.sub(r"\s", "", pattern))
        return math.prod(max(1.0, *(float(n or 1) for n in pair)) for pair in found)
    without_comments = re.sub("#.*", "", pattern)  # with (?x) a pattern may have comments
    return len(pattern) * max(counts(pattern), counts(without_comments))


def patient_finder(pattern):
    """piece_finder() for a pattern from elsewhere, which may try exponentially many ways to match,
    as (?:a|a)+b does: then the returned function raises ValueError after some seconds.
    """
    if pattern.isalnum():
        raise ValueError(f"there is no pattern {pattern!r:.100}; there are {', '.join(PATTERNS)}")
    if parts_when_unrolled(pattern) > max(LARGEST, len(pattern)):
        raise ValueError(f"the pattern {pattern!r:.100} repeats too much: its counts {{n}}, "
                         "multiplied, would fill the memory")
    try:
        compiled = regex.compile(f"(?:{pattern})|[\\s\\S]")
    except (regex.error, RecursionError) as error:
        raise ValueError(f"the pattern {pattern!r:.100} is not a regular expression: {error}")
    find_pieces = functools.partial(find_patiently, compiled, pattern)
    if compiled.groups or "" in find_pieces("") or re.search(r"\(\?[a-zA-Z]*r|\\K", pattern):
        raise ValueError(f"the pattern {pattern!r:.100} must not capture groups, match the empty "
                         "text, nor lose any with (?r) or \\K")
    return find_pieces


def find_patiently(compiled, pattern, text):
    """compiled.findall(text). ValueError, which names `pattern`, if that takes too long."""
    limit = PATIENCE + len(text) / CHARACTERS_PER_SECOND
    try:
        return compiled.findall(text, timeout=limit)
    except TimeoutError:
        raise ValueError(f"the pattern {pattern!r:.100} did not cut a text of {len(text):,} "
                         f"characters within {limit:.0f} s: it can match in too many ways; use a "
                         "simpler one") from None


def check_dialect(pattern):
    """ValueError if `pattern` might mean something else to another regular expression engine."""
    if portable_parts(pattern) is None:
        raise ValueError(f"the pattern {pattern!r} holds something that regular expression engines "
                         "read differently")
