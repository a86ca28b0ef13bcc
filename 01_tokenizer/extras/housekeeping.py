"""A process of the course: whose files it runs, what it shows, and which folder it holds alone.

PYTHONPATH=mine python 04_train/train.py is to run a reader's own files where there are some, and
each file once; two processes must not train one run. console.py calls this, in every command.

Reads and writes .lock in the folders that are held. Next: 02_data/data.py.
"""

import argparse
import contextlib
import difflib
import functools
import importlib
import importlib.machinery
import os
import platform
import re
import shutil
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


# ---- whose files run ----
def readers_files():
    """{name: file} of the files of the spine that were loaded from elsewhere than their stage."""
    spine = {path.stem: path for path in ROOT.glob("0?_*/*.py")}
    loaded = {name: getattr(sys.modules.get(name), "__file__", None) for name in spine}
    return {name: file for name, file in loaded.items()
            if file and Path(file).resolve() != spine[name]}


def readers_code(*names):
    """A reader's files of these names, as one text: what they make must not pass for ours."""
    return "".join(Path(file).read_text(encoding="utf-8")
                   for name, file in readers_files().items() if name in names)


def misplaced(folder):
    """What is wrong with a mine/ that is not in the root; None for any other folder."""
    folder = Path(folder).absolute()
    if folder.name == "mine" and folder.resolve().parent != ROOT:
        return f"{folder} is not in the root of the course; your files belong in {ROOT / 'mine'}"


def script_file(name="__main__"):
    """The script that is being run, if it is of this course or in a mine/, otherwise None."""
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    folder = Path(file).resolve().parent
    ours = [*ROOT.glob("0?_*"), *ROOT.glob("0?_*/extras")]
    return file if file and (folder.name == "mine" or folder in ours) else None


def start():
    """While a script loads: end it, with one line and exit code 2, if there is a mine/ in the wrong
    place. Ctrl-C ends it at once, as nothing can be lost yet. A terminal says what is being loaded.

    The script is registered also as the module of its name, so that no file is loaded twice; unless
    PYTHONPATH has another file of that name, which loaded() will prefer.
    """
    for name in ("__main__", "__mp_main__"):  # the second in a process that was spawned
        if file := script_file(name):
            found = importlib.machinery.PathFinder.find_spec(Path(file).stem)
            if found and found.origin and os.path.samefile(found.origin, file):
                sys.modules.setdefault(Path(file).stem, sys.modules[name])
    if not script_file():
        return
    for folder in sys.path:
        if wrong := misplaced(folder):
            print(f"error: {wrong}", file=sys.stderr)
            sys.exit(2)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.stderr.isatty():
        print(f"loading {Path(script_file()).stem} ...\r", end="", file=sys.stderr, flush=True)


def loaded(main):
    """Undo what start() did, as everything is loaded now. Returns the function to be run for a
    script's `main`: that of the module named like the script, which with PYTHONPATH=mine is the
    reader's. Any other function is returned as it is.

    From here on what a terminal or a pipe can't show, by its encoding, is spelled out: no text ends
    a command.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr.isatty():
        print("\x1b[K", end="", file=sys.stderr, flush=True)
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    file, script = script_file(), sys.modules["__main__"]
    if (not file or main.__module__ != "__main__"
            or getattr(script, main.__name__, None) is not main):
        return main
    readers = importlib.import_module(Path(file).stem)
    if not hasattr(readers, main.__name__):
        raise ValueError(f"{readers.__file__} has no {main.__name__}(); tests/blank.py writes "
                         "files that do")
    return getattr(readers, main.__name__)


# ---- what is installed, what was read, and what went wrong ----
@functools.cache
def unicode_version():
    """The version of Unicode whose tables tell the module regex what a letter is. It gives that
    number only in its description; without one, its own version stands for it.
    """
    import importlib.metadata
    described = importlib.metadata.distribution("regex").read_text("METADATA") or ""
    found = re.search(r"Unicode (\d+(?:\.\d+)+)", described)
    return found[1] if found else "of regex " + importlib.metadata.version("regex")


@functools.cache  # so that it is said once, however often a file is read
def compare_unicode(path, version):
    """Say so, in a line, if `path` was written with other Unicode tables than are here."""
    if version != (installed := unicode_version()):
        print(f"note: {path!r} was written with Unicode {version!r:.40}, and here is {installed}: "
              "characters that are new in one of them may get other ids", file=sys.stderr)


def vet(content, path):
    """Check the content of `path`, a tokenizer.json of this course, before anything is made of it.
    ValueError for merges and special tokens that save() would not write.
    """
    kind, special = content["kind"], content["special_tokens"]
    if kind not in ("bpe", "mapped"):
        raise ValueError(f"its kind is {kind!r:.100}")
    if kind == "bpe" and type(special) is not list:
        raise ValueError(f"its special tokens are {special!r:.100}, not a list of names")
    sizes, total = [1] * 256, 0  # of the tokens, in bytes
    for pair in content["merges"]:
        if type(pair) is not list or [*map(type, pair)] != [int, int] or min(pair) < 0:
            raise ValueError(f"a merge is {pair!r:.100}, not a pair of ids")
        sizes.append(sizes[pair[0]] + sizes[pair[1]])
        total += sizes[-1]
        if total > 1 << 26:
            raise ValueError("its merges make tokens that would fill the memory")
    if content.get("unicode") is not None:
        compare_unicode(str(path), str(content["unicode"]))


def plain_words(error):
    """What a ValueError or OSError says, for one that Python words for programmers."""
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        around = error.object[max(0, error.start - 20):error.end + 20]
        return f"text that is not UTF-8, or holds half of a character: {around!r}"
    return error


# ---- what a terminal shows ----
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
    choice of one.
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
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}? " if near else ""


def duration(seconds):
    """Seconds as a person writes them: 0:09, 12:34, 3:00:00; from a hundred hours on, 5 days."""
    minutes, s = divmod(int(seconds + 0.5), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours / 24:,.0f} days"
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class Progress:
    """A line on stderr that redraws on a terminal, and is printed now and then in a pipe.

    Silent for its first `patience` seconds, so that quick work stays quiet.
    """

    def __init__(self, patience=2.0, stream=None):
        self.stream, self.start = stream or sys.stderr, time.monotonic()
        self.next_time, self.live, self.drawn = self.start + patience, self.stream.isatty(), False

    def show(self, text):
        """Show `text` if it is time to; `text` may be a function, called only when it is."""
        if (now := time.monotonic()) < self.next_time:
            return
        self.next_time, self.drawn = now + (0.1 if self.live else 10.0), True
        text = text() if callable(text) else text
        if self.live:
            text = f"\r{text[:shutil.get_terminal_size().columns - 1]}\x1b[K"
        print(text, end="" if self.live else "\n", file=self.stream, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):  # the line stays; what comes next is printed below it
        if self.live and self.drawn:
            print(file=self.stream, flush=True)


def track(items, label, total=None, size=lambda item: 1, unit=""):
    """Yield `items`, showing how much is done, how fast, and with a `total` the time left."""
    def line():
        seconds = time.monotonic() - progress.start
        of = f" of {total:,}" if total else ""
        left = f", {duration(seconds / done * (total - done))} left" if total and done else ""
        return f"{label}: {done:,.0f}{of}{unit}, {done / seconds:,.0f}{unit}/s{left}"

    done = 0
    with Progress() as progress:
        for item in items:
            yield item
            done += size(item)
            progress.show(line)


# ---- a folder for one process at a time ----
def check_writable(folder):
    """OSError unless `folder` could be made, or is there, and written into. It is not made yet."""
    there = next(p for p in (Path(folder), *Path(folder).absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is no folder, so that nothing can be kept in {folder}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"there is no right to write into {there}")


def lock(file, folder, what, wait):
    """Lock the open file folder/.lock. The lock ends with this process, however that ends. False
    if it can't be locked.
    """
    try:
        import fcntl
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        busy = f"{folder} {what} by {file.read(1000) or 'another process'}"
        if not wait:
            raise ValueError(f"{busy}; one at a time") from None
        print(f"{busy}; this one waits for it", file=sys.stderr)
        fcntl.lockf(file, fcntl.LOCK_EX)
    except (OSError, ImportError) as error:  # on a file system without locks, or on Windows
        why = getattr(error, "strerror", error)
        print(f"{folder} can't be locked ({why}): see that it {what} by this process only",
              file=sys.stderr)
        return False
    return True


def clear_away(folder, pattern=".*.tmp", alone=False):
    """Delete what a killed process has left half written in `folder`: files called .NAME.tmp that
    nobody has touched for a minute, and folders of that kind that nobody has for an hour, unless it
    is known that this process is `alone`; on other computers another one may be at work.
    """
    for left in Path(folder).glob(pattern):
        with contextlib.suppress(OSError):  # another process may be clearing away, too
            idle = time.time() - max(p.stat().st_mtime for p in (left, *left.rglob("*")))
            if not left.is_dir() and idle > 60:
                left.unlink()
            elif left.is_dir() and (alone or idle > 3600):
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def held(folder, what, wait=False):
    """A context in which this process alone works in `folder`.

    While another process works there: ValueError, which says `what` is done there and by whom, or
    with `wait` a line that says so. What a process that was killed left half written is deleted; at
    once, if that was on this computer, where locks can be relied on.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="utf-8", errors="replace") as file:
        locked = lock(file, folder, what, wait)
        if os.fstat(file.fileno()).st_nlink == 0:  # the folder was deleted in the meantime
            with held(folder, what, wait):
                yield
            return
        file.seek(0)
        alone = locked and file.read(1000).endswith(f" on {platform.node()}")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        clear_away(folder, alone=alone)
        yield
