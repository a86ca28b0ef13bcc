"""What every command needs: which files run, how it ends, what it shows, locks on folders.

PYTHONPATH=mine python 04_train/train.py runs a reader's own files where there are some, and loads
each file once; two processes must not train one run. console.py calls this, in every command.

Reads and writes .lock in the folders that are held. Next: mistakes.py.
"""

import importlib
import importlib.machinery
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MADE = (".lock", "train.npy", "chunk-00000.jsonl")  # files that mark a folder made by this course
console = sys.modules["console"]  # which is loading this file, and is not complete yet


# ---- whose files run ----
def readers_files():
    """{name: file} of the spine's files that were loaded from another folder than their stage."""
    spine = {path.stem: path for path in ROOT.glob("0?_*/*.py")}
    loaded = {name: getattr(sys.modules.get(name), "__file__", None) for name in spine}
    return {name: file for name, file in loaded.items()
            if file and Path(file).resolve() != spine[name]}


def readers_code(*names):
    """A reader's files of these names, as one text, part of the key of what they make."""
    return "".join(Path(file).read_text(encoding="utf-8")
                   for name, file in readers_files().items() if name in names)


def misplaced(folder):
    """A message about a folder mine/ that is not in the root; None for any other folder."""
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
    """Called before a script's slow imports. Ends it, with one line and exit code 2, if a mine/ is
    in the wrong place or the standard output is closed. Prints, on a terminal, what is being
    loaded, and which part of PYTHONPATH does not exist.

    Registers the script as the module of its name, too, so that no file is loaded twice; unless
    PYTHONPATH has another file of that name, which loaded() will prefer.
    """
    for name in ("__main__", "__mp_main__"):  # the second in a process that was spawned
        if file := script_file(name):
            found = importlib.machinery.PathFinder.find_spec(Path(file).stem)
            if found and found.origin and os.path.samefile(found.origin, file):
                sys.modules.setdefault(Path(file).stem, sys.modules[name])
    if not script_file():
        return
    if sys.stderr is None:  # closed: 2>&-
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    wrong = [*filter(None, map(misplaced, sys.path))]
    if sys.stdout is None:
        wrong.append("the standard output is closed; > /dev/null is for what nobody wants to see")
    if wrong:
        print(f"error: {wrong[0]}", file=sys.stderr)
        sys.exit(2)
    for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if folder and not os.path.exists(folder):
            print(f"PYTHONPATH names {folder!r}, which does not exist", file=sys.stderr)
    if sys.stderr.isatty():
        print(f"loading {Path(script_file()).stem} ...\r", end="", file=sys.stderr, flush=True)


start()  # before the slow imports

import contextlib
import functools
import itertools
import platform
import re
import shutil
import time
import unicodedata


def loaded(main):
    """Called when everything is loaded: clear start()'s line, set up signals and output. Returns
    the function to run for a script's `main`, wrapped in stopping(): main of the module named like
    the script, which with PYTHONPATH=mine is the reader's; any other function itself.
    """
    for stream in (sys.stdout, sys.stderr):  # characters that their encoding lacks are escaped, and
        if hasattr(stream, "reconfigure"):  # lines appear at once, in a pipe, too
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    file, script = script_file(), sys.modules["__main__"]
    if file:
        if sys.stderr.isatty():
            print("\x1b[K", end="", file=sys.stderr, flush=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is signal.SIG_DFL:  # else ignored, or a debugger's own
                signal.signal(number, stop)
        if not isinstance(sys.stdout, Output):
            sys.stdout = Output(sys.stdout, OUTPUT)
            sys.stderr = Output(sys.stderr, "standard error")
        sys.unraisablehook = unraisable
    if (not file or main.__module__ != "__main__"
            or getattr(script, main.__name__, None) is not main):
        return functools.partial(stopping, main)
    readers = importlib.import_module(Path(file).stem)
    if not hasattr(readers, main.__name__):
        raise ValueError(f"{readers.__file__} has no {main.__name__}(); tests/blank.py writes "
                         "files that do")
    return functools.partial(stopping, getattr(readers, main.__name__))


# ---- how a command ends ----
OUTPUT = "standard output"
stopped = 0  # the exit code, once a signal has asked for the end: 128 + its number


def stop_at_once():
    """From here on Ctrl-C and SIGTERM end the process at once, without cleaning up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is stop:
            signal.signal(number, signal.SIG_DFL)


def stop(number, frame):
    """The first Ctrl-C or SIGTERM raises an exception in main(), so that half-written files are
    deleted. The second ends the process at once.
    """
    global stopped
    stopped = 128 + number
    stop_at_once()
    raise KeyboardInterrupt


def unraisable(error):
    """Python only reports an exception that nothing can catch, as in a destructor, and goes on. An
    exception of stop() must end the process there, too.
    """
    if stopped and isinstance(error.exc_value, KeyboardInterrupt):
        os._exit(stopped)
    if not stopped:
        sys.__unraisablehook__(error)


def stopping(main):
    """Call main(). If a signal stopped it, exit with code 130 or 143, whatever exception that
    caused, and also if a StopSignal let it end cleanly. ValueError if an argument is not UTF-8.
    """
    console.StopSignal.asked = 0
    try:
        try:
            main()
        finally:
            stop_at_once()  # what follows is quick, and leaves nothing half written
            print(end="", flush=True)
        if asked := console.StopSignal.asked:
            sys.exit(128 + asked)
        if stopped:  # some code has swallowed the exception
            sys.exit(stopped)
    except BaseException as error:
        if stopped:
            print("stopped: what was finished or saved is kept, nothing is half written",
                  file=sys.stderr)
            sys.exit(stopped)
        for word in sys.argv[1:] if isinstance(error, UnicodeEncodeError) else ():
            if re.search("[\ud800-\udfff]", word):  # how Python represents bytes that are not UTF-8
                raise ValueError(f"the argument {word!r} is not UTF-8") from None
        if getattr(error, "filename", None) == OUTPUT:  # Python would try again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise


# ---- what was read, and what went wrong ----
@functools.cache
def unicode_version():
    """The version of Unicode whose tables tell the module regex what a letter is. It is stated only
    in the package's description; if it isn't there, the version of regex stands for it.
    """
    import importlib.metadata
    described = importlib.metadata.distribution("regex").read_text("METADATA") or ""
    found = re.search(r"Unicode (\d+(?:\.\d+)+)", described)
    return found[1] if found else "of regex " + importlib.metadata.version("regex")


def vet(content, path):
    """Check the content of `path`, a tokenizer.json of this course, before a Tokenizer is built.
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
    if content.get("unicode") not in (None, unicode_version()):
        mistakes = importlib.import_module("mistakes")
        mistakes.note_unicode(str(path), str(content["unicode"]), unicode_version())


def regular(path):
    """The Path of a file. ValueError for a named pipe, which might block for ever; pipes of a
    shell, as in `<(zcat a.gz)`, are in /dev or /proc, and allowed.
    """
    path = Path(path)
    if path.is_fifo() and path.parts[1:2] not in (("dev",), ("proc",)):
        raise ValueError(f"{path} is a pipe, where a file should be")
    return path


def are_texts(top, files, largest):
    """Whether `files` are all texts of at most `largest` bytes. False also where folders.py has to
    decide: if below `top` are links, unreadable folders or folders made by this course.
    """
    def is_odd(path):
        return path.is_symlink() or path.name in MADE or (
            path.is_dir() and not os.access(path, os.R_OK | os.X_OK))
    try:
        return not any(map(is_odd, top.rglob("*"))) and all(
            file.stat().st_size <= largest and console.read_text(file) is not None
            for file in files)
    except (OSError, ValueError):
        return False


def __getattr__(name):
    """Names of mistakes.py, which is loaded only when something is wrong."""
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(importlib.import_module("mistakes"), name)


# ---- what a terminal shows ----
def duration(seconds):
    """Seconds as a person writes them: 0:09, 12:34, 3:00:00; from a hundred hours on, 5 days."""
    minutes, s = divmod(int(seconds + 0.5), 60)
    hours, m = divmod(minutes, 60)
    if hours >= 100:
        return f"{hours / 24:,.0f} days"
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


def cells(text):
    """How many columns of a terminal a text takes: combining marks none, wide letters two."""
    return sum((unicodedata.east_asian_width(c) in "WF") + (not unicodedata.combining(c))
               for c in text)


def fit(text, columns):
    """`text`, with control characters escaped, cut to this many `columns`."""
    text = console.escaped(text).replace("\n", "\\n")
    widths = itertools.accumulate(cells(c) for c in text)
    return "".join(c for c, width in zip(text, widths) if width <= columns)


class Output:
    """stdout or stderr. On a terminal, writing first clears a Progress line, which is drawn again
    below; and control characters, which may come from names, files and models, are escaped, except
    line ends, tabs and colours. The OSError of a full disk gets the stream's name.
    """

    control = re.compile(r"(?!\x1b\[[\d;]*m)[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

    def __init__(self, stream, name):
        self.stream, self.name, self.terminal = stream, name, stream.isatty()

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        if self.terminal:
            Progress.clear()
            text = self.control.sub(lambda found: repr(found[0])[1:-1], text)
        return self.named(self.stream.write, text)

    def flush(self):
        self.named(self.stream.flush)

    def named(self, work, *what):
        try:
            return work(*what)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None


class Progress:
    """A line on stderr: redrawn in place on a terminal, printed now and then in a pipe.

    Silent for its first `patience` seconds, so that quick work stays quiet.
    """

    drawn = None  # the stream on which an unfinished line stands

    def __init__(self, patience=2.0, stream=None):
        stream = stream or sys.stderr
        self.stream, self.start = getattr(stream, "stream", stream), time.monotonic()  # not Output
        self.next_time, self.live = self.start + patience, self.stream.isatty()

    def columns(self):
        """The terminal's width now: the least of stderr's terminal, stdout's (or COLUMNS)."""
        known = [shutil.get_terminal_size().columns]
        with contextlib.suppress(OSError):  # or it says 0
            known.append(os.get_terminal_size(self.stream.fileno()).columns)
        return min(filter(None, known))

    def show(self, text):
        """Show `text` if it is time for an update; `text` may be a function, called only then."""
        if (now := time.monotonic()) < self.next_time:
            return
        self.next_time = now + (0.1 if self.live else 10.0)
        text = text() if callable(text) else text
        if self.live:
            Progress.drawn = self.stream
            text = f"\r{fit(text, self.columns() - 1)}\x1b[K"
        print(text, end="" if self.live else "\n", file=self.stream, flush=True)

    @classmethod
    def clear(cls):
        """Erase the line, so that other output can take its place."""
        if cls.drawn:
            print("\r\x1b[K", end="", file=cls.drawn, flush=True)
            cls.drawn = None

    def __enter__(self):
        return self

    def __exit__(self, *error):  # the line stays; what comes next is printed below it
        if self.live and Progress.drawn:
            print(file=self.stream, flush=True)
            Progress.drawn = None


def pace(done, seconds, unit):
    """The speed, as a number above 1: units per second, or seconds per unit: 12 MB/s, 3.4 s/MB."""
    if done >= seconds or not done:
        return f"{done / seconds:,.{0 if done >= 10 * seconds else 1}f}{unit}/s"
    return f"{seconds / done:,.1f} s{'/MB' if unit == ' MB' else ' each'}"


def track(items, label, total=None, size=lambda item: 1, unit=""):
    """Yield `items`, showing how much is done, how fast, and with a `total` the time left."""
    def line():
        seconds = time.monotonic() - progress.start
        of = f" of {total:,}" if total else ""
        left = f", {duration(seconds / done * (total - done))} left" if total and done else ""
        return f"{label}: {done:,.0f}{of}{unit}, {pace(done, seconds, unit)}{left}"

    done = 0
    with Progress() as progress:
        for item in items:
            yield item
            done += size(item)
            progress.show(line)


# ---- a folder for one process at a time ----
def check_writable(folder):
    """OSError unless files can be written into `folder`, which need not exist, and is not made."""
    there = next(p for p in (Path(folder), *Path(folder).absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is no folder, so that nothing can be kept in {folder}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"there is no right to write into {there}")


def lock(file, folder, what, wait):
    """Lock the open file folder/.lock. The lock ends with this process, even if it is killed. False
    if the file system has no locks.
    """
    try:
        import fcntl
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        busy = console.escaped(f"{folder} {what} by {file.read(1000) or 'another process'}")
        if not wait:
            raise ValueError(f"{busy}; one at a time") from None
        print(f"{busy}; this one waits for it", file=sys.stderr)
        fcntl.lockf(file, fcntl.LOCK_EX)
    except (OSError, ImportError) as error:  # on a file system without locks, or on Windows
        why = getattr(error, "strerror", error)
        print(console.escaped(f"{folder} can't be locked ({why}): see that it {what} by this "
                              "process only"), file=sys.stderr)
        return False
    return True


def clear_away(folder, pattern=".*.tmp", alone=False):
    """Delete what a killed process has left half written in `folder`: files called .NAME.tmp that
    have not changed for a minute, and such folders after an hour, or at once if this process is
    known to be `alone`: a process on another computer may still be writing.
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
    with `wait` a line that says so. Files that a killed process left half written are deleted; at
    once, if that process was on this computer, where locks can be relied on.
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
