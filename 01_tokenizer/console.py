"""What every command of this course shares: how a script starts and ends, options from a dataclass,
progress, files that are never half written.

No stage is about any of this, so it is kept out of their way; a first reading may skip it.
Start with bpe.py.
"""

import argparse
import contextlib
import dataclasses
import difflib
import hashlib
import importlib
import importlib.machinery
import os
import platform
import re
import secrets
import shutil
import signal
import sys
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows, where nothing is locked
    fcntl = None

ROOT = Path(__file__).resolve().parents[1]

# The folders of the stages: PYTHONPATH=mine wins over them, they over installed packages.
stages = [str(p) for p in [*ROOT.glob("0?_*"), *ROOT.glob("0?_*/extras")]]
path = [p for p in sys.path if p not in stages]
at = path.index(os.path.dirname(os.__file__)) + 1  # behind the standard library
sys.path[:] = path[:at] + stages + path[at:]


# ---- how a script starts ----

def readers_files():
    """{name: file} of the loaded files of the spine that are a reader's own: not the ones in their
    stages' folders.
    """
    spine = {path.stem: path for path in ROOT.glob("0?_*/*.py")}
    loaded = ((name, getattr(sys.modules.get(name), "__file__", None)) for name in spine)
    return {name: file for name, file in loaded if file and Path(file).resolve() != spine[name]}


def by_hand():
    """Whether the plain versions are to run: some are a reader's own, or there are no stages here,
    only copies of some files.
    """
    return not list(ROOT.glob("0?_*")) or bool(readers_files())


def readers_code(*names):
    """What a reader has written instead of these files of the spine, as one text. What they make
    must never pass for what the course's own files make.
    """
    return "".join(Path(file).read_text(encoding="utf-8")
                   for name, file in readers_files().items() if name in names)


def is_ours(file):
    """Whether a file is of this course: in a stage, its extras/, mine/, or beside this one."""
    folders = *ROOT.glob("0?_*"), *ROOT.glob("0?_*/extras"), ROOT / "mine", Path(__file__).parent
    return file and Path(file).resolve().parent in map(Path.resolve, folders)


def fail(message):
    """End with one line on stderr and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def misplaced(folder):
    """What is wrong with a mine/ that is not in the root; None for any other folder."""
    folder = os.path.abspath(folder)
    if os.path.basename(folder) == "mine" and Path(folder).resolve().parent != ROOT:
        return f"{folder} is not in the root of the course; your files belong in {ROOT / 'mine'}"
    return None


def leave(*_):
    """Ctrl-C while a script is still loading: nothing is lost yet, so end at once."""
    os._exit(130)


def adopt_script():
    """Register the script that is being run also as the module of its name, so that no file is
    loaded twice; unless PYTHONPATH has another file of that name, which run() will prefer.

    In a process that multiprocessing started with "spawn", the script is called __mp_main__.
    """
    for name in ("__main__", "__mp_main__"):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and name == "__main__" and (wrong := misplaced(os.path.dirname(file) or ".")):
            fail(wrong)
        if not is_ours(file):
            continue
        stem = Path(file).stem
        found = importlib.machinery.PathFinder.find_spec(stem)
        if found and found.origin and os.path.samefile(found.origin, file):
            sys.modules.setdefault(stem, sys.modules[name])
        if name == "__main__":
            for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
                if wrong := misplaced(folder):
                    fail(wrong)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, leave)
            if sys.stderr.isatty():
                print(f"loading {stem} ...\r", end="", file=sys.stderr, flush=True)


def the_readers(main):
    """The function to be run for a script's `main`: that of the module named like the script, which
    with PYTHONPATH=mine is the reader's. Any other function is returned as it is.
    """
    script = sys.modules["__main__"]
    file = getattr(script, "__file__", None)
    if (getattr(main, "__module__", None) != "__main__" or not is_ours(file)
            or getattr(script, main.__name__, None) is not main):
        return main
    readers = importlib.import_module(Path(file).stem)
    if not hasattr(readers, main.__name__):
        fail(f"{readers.__file__} has no {main.__name__}(); tests/blank.py writes files that do")
    return getattr(readers, main.__name__)


def run(main):
    """Call main(), or the reader's own. A user's mistake (ValueError, OSError), an exercise that is
    not written yet, or too little memory for what was asked, ends as one line and exit code 2.
    """
    try:
        main = the_readers(main)
        if sys.stderr.isatty():
            print("\x1b[K", end="", file=sys.stderr, flush=True)
        if signal.getsignal(signal.SIGINT) is leave:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
        if sys.stdout:  # None if it was closed
            sys.stdout.flush()
    except BrokenPipeError:  # `... | head` has read enough; 141 is 128 + SIGPIPE, as in a shell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError) as error:
        fail(error)
    except ModuleNotFoundError as error:
        if (ROOT / "01_tokenizer").is_dir():
            raise
        fail(f"{error}: this takes the whole course, not a copy of some of its files")
    except (MemoryError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        if isinstance(error, NotImplementedError) and first.startswith("exercise: "):
            fail(f"{first} is still to be written")
        if isinstance(error, MemoryError) or re.search(  # torch's, on a CPU and on a GPU
                "can't allocate memory|out of memory", str(error)):
            fail(f"out of memory. {first}")
        raise


def choose_device(name="auto"):
    """"cuda", "mps" or "cpu": what was asked for, or the first of them that is there."""
    import torch
    works = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
             "cpu": True}
    there = [device for device in works if works[device]]
    if name == "auto":
        return there[0]
    if name not in there:
        raise ValueError(f"device {name} is not available here; there is {', '.join(there)}")
    return name


# ---- options ----

class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations, and whose errors are one line."""

    def __init__(self, **how):
        super().__init__(**{"allow_abbrev": False, **how})

    def error(self, message):
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        parsers = [self, *(command for action in self._actions for command in
                           (action.choices.values() if action.nargs == argparse.PARSER else ()))]
        known = [option for parser in parsers for option in parser._option_string_actions]
        near = difflib.get_close_matches(unknown[1], known, n=1, cutoff=0.5) if unknown else ()
        raise ValueError(f"{message} ({''.join(f'did you mean {option}? ' for option in near)}"
                         "--help lists the options)")


def option(default, help, choices=None):
    """A dataclass field that is also a command-line option: its default and help, stated once."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def add_options(parser, config_class):
    """Give `parser` one --flag for each field of `config_class`.

    parse_args() then returns only those that were given.
    """
    for field in dataclasses.fields(config_class):
        if "help" not in field.metadata:  # not an option
            continue
        default = " ".join(field.default) if field.type is tuple else field.default
        shown = "" if default is None else f" (default: {default})"
        how = {"help": f"{field.metadata['help']}{shown}"}
        if field.type is bool:
            how["action"] = argparse.BooleanOptionalAction
        elif field.type is tuple:  # of strings
            how["nargs"] = "+"
        else:
            how |= {"type": field.type, "choices": field.metadata["choices"]}
        parser.add_argument("--" + field.name.replace("_", "-"), default=argparse.SUPPRESS, **how)


# ---- what a terminal shows ----

def escaped(text):
    """`text` with its control characters spelled out, line ends excepted: safe on a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def has_colours():
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


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
        self.live = self.stream.isatty()
        self.next_time, self.drawn = self.start + patience, False

    def show(self, text):
        """Show `text` if it is time to; `text` may be a function, called only when it is."""
        now = time.monotonic()
        if now >= self.next_time:
            self.next_time, self.drawn = now + (0.1 if self.live else 10.0), True
            text = text() if callable(text) else text
            if self.live:
                text = f"\r{text[:shutil.get_terminal_size().columns - 1]}\x1b[K"
            print(text, end="" if self.live else "\n", file=self.stream, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Leave the line as it stands; what comes next is printed below it."""
        if self.live and self.drawn:
            print(file=self.stream, flush=True)
        self.drawn = False


def track(items, label, total=None, size=lambda item: 1, unit=""):
    """Yield `items`, showing how much is done, how fast, and with a `total` the time left."""
    done = 0

    def line():
        seconds = time.monotonic() - progress.start
        of = f" of {total:,}" if total else ""
        left = f", {duration(seconds / done * (total - done))} left" if total and done else ""
        return f"{label}: {done:,.0f}{of}{unit}, {done / seconds:,.0f}{unit}/s{left}"

    with Progress() as progress:
        for item in items:
            yield item
            done += size(item)
            progress.show(line)


# ---- files ----

def read_text(path):
    """The text of a UTF-8 file, without a byte-order mark. ValueError if it is no text."""
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + len(data) - len(error.object)  # a byte-order mark is not counted
        raise ValueError(f"{path} is not UTF-8 text (byte {at}: {data[at]:#04x}); convert it or "
                         "leave it out") from None
    if "\0" in text:
        raise ValueError(f"{path} is a binary file (it holds NUL bytes); leave it out")
    return text


def write_safely(path, data):
    """Write bytes or text so that `path` holds the old content or all of the new, never a part."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:  # a full disk doesn't say what it was that didn't fit
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def file_hash(path):
    """The sha256 of a file's content, as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def holding(folder, what, wait=False):
    """Hold `folder`, which is made, for this process alone. While another one holds it: ValueError,
    which says `what` is done there and by whom, or with `wait` a line that says so.

    The lock ends with its process, however that ends, so a kill leaves none behind. What it was
    writing, folders called .NAME.tmp and files of that kind that nobody has touched for a minute,
    is cleared away by the next holder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            busy = f"{folder} {what} by {file.read() or 'another process'}"
            if not wait:
                raise ValueError(f"{busy}; one at a time") from None
            print(f"{busy}; this one waits for it", file=sys.stderr)
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:  # of a file system without locks
            print(f"{folder} can't be locked ({error.strerror}): see that it {what} by this "
                  "process only", file=sys.stderr)
        try:
            current = os.stat(folder / ".lock")
        except FileNotFoundError:
            current = None
        if not current or not os.path.samestat(current, os.fstat(file.fileno())):
            with holding(folder, what, wait):  # the folder was deleted in the meantime: once more
                yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        for left in folder.glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                elif time.time() - left.stat().st_mtime > 60:  # else write_safely() may be at work
                    left.unlink()
        yield


class StopSignal:
    """Turns the first Ctrl-C or SIGTERM into `asked`, so that a step can end. A second one acts as
    it always does.
    """

    asked = False

    def __enter__(self):
        self.before = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, number, frame):
        self.asked = True
        signal.signal(number, self.before[number])

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)


adopt_script()
