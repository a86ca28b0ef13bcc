"""What a user is told who made a mistake: which name or option may be meant, and in which words.

housekeeping.py has all of this, too, and loads it when something is wrong: most runs need none.

Reads and writes nothing. Next: 02_data/data.py.
"""

import argparse
import difflib
import functools
import re
import sys


def plain_words(error):
    """What a ValueError or OSError says, for one that Python words for programmers."""
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        around = error.object[max(0, error.start - 20):error.end + 20]
        return f"text that is not UTF-8, or holds half of a character: {around!r}"
    return error


def refuse_pointer(where, beginning=None):
    """ValueError if a file is one of those that stand for a large file in a git repository. where:
    its path; or, with the bytes of its `beginning`, what to call it.
    """
    if beginning is None:
        with open(where, "rb") as file:
            beginning = file.read(23)
    if beginning.startswith(b"version https://git-lfs"):
        raise ValueError(f"{where} is a Git LFS pointer, not the file: run git lfs pull")


@functools.cache  # so that it is said once, however often a file is read
def note_unicode(path, version, installed):
    """Say, in a line, that `path` was written with other Unicode tables than are installed."""
    print(f"note: {path!r} was written with Unicode {version!r:.40}, and here is {installed}: "
          "characters that are new in one of them may get other ids", file=sys.stderr)


def nearest(word, known):
    """What to tell a user whose `word` is none of the `known` names: which is near, which there
    are; "" if there are none.
    """
    near = difflib.get_close_matches(word or "", known, n=1, cutoff=0.5)
    meant = "".join(f"did you mean {name!r}? " for name in near)
    names = ", ".join(map(repr, sorted(known)[:20])) + ", ..." * (len(known) > 20)
    return f"{meant}there are {names}; " if known else ""


def nearest_option(parser, message):
    """A hint for the user whose mistake argparse describes so: the option that may be meant, or the
    choice of one. ValueError for a choice, whose hint stands before the names that there are.
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
