"""Patterns that are not ours: which may take for ever, and which other engines read differently.

Used by pieces.py when it meets one, and where tokenizers of others are read or written.

Reads and writes nothing. Next: workers.py.
"""

import functools
import re
import sys
from pathlib import Path

if "console" not in sys.modules:  # which is found first, and puts all folders on the path
    sys.path[1:1] = [str(folder / "01_tokenizer") for folder in Path(__file__).resolve().parents]

import console  # noqa: F401, first: it makes the others be found

import regex

from pieces import PATTERNS, portable_parts

PATIENCE, CHARACTERS_PER_SECOND = 2, 100_000  # of a pattern that is not ours: processor time


def patient_finder(pattern):
    """piece_finder() for a pattern that is not ours, which may try more ways to match than there is
    time for, as (?:a|a)+b does: then the function raises ValueError after some seconds.
    """
    if pattern.isalnum():
        raise ValueError(f"there is no pattern {pattern!r:.100}; there are {', '.join(PATTERNS)}")
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
                         f"characters within {limit:.0f} s: it can match in too many ways, so use "
                         "a simpler one") from None


def check_dialect(pattern):
    """ValueError if `pattern` might mean something else to another regular expression engine."""
    if portable_parts(pattern) is None:
        raise ValueError(f"the pattern {pattern!r} holds something that regular expression engines "
                         "read differently")
