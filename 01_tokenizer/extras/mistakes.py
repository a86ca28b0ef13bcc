"""Messages about a user's mistakes: the name or option that may be meant, errors in plain words.

housekeeping.py passes these names on, and loads this file only when something is wrong.

Reads and writes nothing. Next: 02_data/data.py.
"""

import argparse
import difflib
import functools
import re
import sys


def plain_words(error):
    """A ValueError or OSError, or a clearer message where Python's is worded for programmers."""
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        around = error.object[max(0, error.start - 20):error.end + 20]
        return f"text that is not UTF-8, or holds half of a character: {around!r}"
    return error


def refuse_pointer(where, beginning=None):
    """ValueError if a file is a pointer of Git LFS, which stands for a large file in a repository.
    where: the file's path; or, if the bytes of its `beginning` are given, its name in the message.
    """
    if beginning is None:
        with open(where, "rb") as file:
            beginning = file.read(23)
    if beginning.startswith(b"version https://git-lfs"):
        raise ValueError(f"{where} is a Git LFS pointer, not the file: run git lfs pull")


@functools.cache  # so that the note appears once, however often a file is read
def note_unicode(path, version, installed):
    """Print a note that `path` was written with other Unicode tables than are installed."""
    print(f"note: {path!r} was written with Unicode {version!r:.40}, and here is {installed}: "
          "characters that are new in one of them may get other ids", file=sys.stderr)


def nearest(word, known):
    """A hint for a user whose `word` is none of the `known` names: the nearest, and a list of all;
    "" if there are none.
    """
    near = difflib.get_close_matches(word or "", known, n=1, cutoff=0.5)
    meant = "".join(f"did you mean {name!r}? " for name in near)
    names = ", ".join(map(repr, sorted(known)[:20])) + ", ..." * (len(known) > 20)
    return f"{meant}there are {names}; " if known else ""


def nearest_option(parser, message):
    """A hint about `message`, an error of argparse's: the option that may be meant. For a wrong
    choice of an option, a ValueError with the nearest choice and a list of all.
    """
    commands = [command for action in parser._actions if action.nargs == argparse.PARSER
                for command in action.choices.values()]
    actions = [action for one in (parser, *commands) for action in one._actions]
    word, known = "", []
    if found := re.match(r"unrecognized arguments: (--[\w-]+)", message):
        word, known = found[1], [name for action in actions for name in action.option_strings]
    elif found := re.match(r"argument (\S+?)[:/].*?invalid choice: '(.*?)'", message):
        word, known = found[2], [str(choice) for action in actions
                                 if found[1] in (*action.option_strings, action.dest)
                                 for choice in action.choices or ()]
        raise ValueError(f"argument {found[1]}: invalid choice: {word!r}; {nearest(word, known)}"
                         "--help lists the options")
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}? " if near else ""
