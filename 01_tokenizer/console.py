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
import re
import secrets
import shutil
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# The folders of the stages: PYTHONPATH=mine wins over them, they over installed packages.
stages = [str(p) for p in [*ROOT.glob("0?_*"), *ROOT.glob("0?_*/extras")]]
path = [p for p in sys.path if p not in stages and Path(p).name != "01_tokenizer"]
at = path.index(os.path.dirname(os.__file__)) + 1  # behind the standard library
sys.path[:] = path[:at] + stages + path[at:]


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


def by_hand():
    """Whether the plain versions run: some are a reader's own, or only copies are here."""
    return not stages or bool(readers_files())


def misplaced(folder):
    """What is wrong with a mine/ that is not in the root; None for any other folder."""
    folder = Path(folder).absolute()
    if folder.name == "mine" and folder.resolve().parent != ROOT:
        return f"{folder} is not in the root of the course; your files belong in {ROOT / 'mine'}"


def script_file(name="__main__"):
    """The script that is being run, if it is of this course or in a mine/, otherwise None."""
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    folder = Path(file).resolve().parent
    ours = folder.name == "mine" or folder in (*map(Path, stages), Path(__file__).resolve().parent)
    return file if file and ours else None


def adopt_script():
    """Register the script that is being run also as the module of its name, so that no file is
    loaded twice; unless PYTHONPATH has another file of that name, which run() will prefer.
    """
    for name in ("__main__", "__mp_main__"):  # the second in a process that was spawned
        if file := script_file(name):
            found = importlib.machinery.PathFinder.find_spec(Path(file).stem)
            if found and found.origin and os.path.samefile(found.origin, file):
                sys.modules.setdefault(Path(file).stem, sys.modules[name])


def the_readers(main):
    """The function to be run for a script's `main`: that of the module named like the script, which
    with PYTHONPATH=mine is the reader's. Any other function is returned as it is.
    """
    file, script = script_file(), sys.modules["__main__"]
    if (not file or main.__module__ != "__main__"
            or getattr(script, main.__name__, None) is not main):
        return main
    readers = importlib.import_module(Path(file).stem)
    if not hasattr(readers, main.__name__):
        fail(f"{readers.__file__} has no {main.__name__}(); tests/blank.py writes files that do")
    return getattr(readers, main.__name__)


# ---- how a script starts and ends ----

def fail(message):
    """End with one line on stderr and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def start(script):
    """Refuse a mine/ in the wrong place. While the script loads, Ctrl-C ends it at once, as nothing
    can be lost yet, and a terminal says what is being loaded.
    """
    for folder in sys.path:
        if wrong := misplaced(folder):
            fail(wrong)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.stderr.isatty():
        print(f"loading {Path(script).stem} ...\r", end="", file=sys.stderr, flush=True)


def run(main):
    """Call main(), or the reader's own. A user's mistake ends as one line and exit code 2."""
    try:
        main = the_readers(main)
        if sys.stderr.isatty():
            print("\x1b[K", end="", file=sys.stderr, flush=True)
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
        print(end="", flush=True)  # a pipe that is closed shows here, not when Python ends
    except BrokenPipeError:  # `... | head` has read enough; 141 is 128 + SIGPIPE, as in a shell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not (message := users_mistake(error)):
            raise
        fail(message)


def users_mistake(error):
    """One line about wrong input, a blank exercise or too little memory; None for other errors."""
    first = str(error).partition("\n")[0]
    if isinstance(error, (ValueError, OSError)):
        return error
    if isinstance(error, NotImplementedError) and first.startswith("exercise: "):
        return f"{first} is still to be written"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(
            "can't allocate memory|out of memory", str(error))):  # torch's, on a CPU and on a GPU
        return f"out of memory. {first}"
    if isinstance(error, ModuleNotFoundError) and not stages:
        return f"{error}: this takes the whole course, not a copy of some of its files"


def choose_device(name="auto"):
    """"cuda", "mps" or "cpu": what was asked for, or the first of them that is there."""
    import torch
    works = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
             "cpu": True}
    there = [device for device in works if works[device]]
    if name not in ("auto", *there):
        raise ValueError(f"device {name} is not available here; there is {', '.join(there)}")
    return there[0] if name == "auto" else name


# ---- options ----

class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations, and whose errors are one line."""

    def __init__(self, **how):
        super().__init__(**{"allow_abbrev": False, **how})

    def error(self, message):
        commands = [command for action in self._actions if action.nargs == argparse.PARSER
                    for command in action.choices.values()]
        known = [name for parser in (self, *commands) for name in parser._option_string_actions]
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = difflib.get_close_matches(unknown[1], known, n=1, cutoff=0.5) if unknown else []
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(f"{message} ({hint}--help lists the options)")


def option(default, help, choices=None, least=None, most=2**31 - 1):
    """A dataclass field that is also a command-line option: default, help and what it may be are
    stated once.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices,
                                                        "least": least, "most": most})


def check_options(options):
    """ValueError unless every option of a dataclass has a value of its type, and one that it may
    have.
    """
    for field in dataclasses.fields(options):
        value, how = getattr(options, field.name), field.metadata
        if not how or value is field.default:  # not an option, or not given
            continue
        kind = {float: (int, float), tuple: (tuple, list)}.get(field.type, field.type)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise ValueError(f"{field.name} is {value!r}, but must be of type "
                             f"{field.type.__name__}")
        if how["choices"] and value not in how["choices"]:
            raise ValueError(f"{field.name} is {value!r}, but must be one of "
                             f"{', '.join(how['choices'])}")
        if how["least"] is not None and not how["least"] <= value <= how["most"]:  # nor nan
            raise ValueError(f"{field.name} is {value}, but must be a number from "
                             f"{how['least']:g} to {how['most']:g}")


def add_options(parser, config_class):
    """Give `parser` a --flag for each field of `config_class` that is an option(). Its parse_args()
    then returns only those that were given.
    """
    for field in dataclasses.fields(config_class):
        if "help" not in field.metadata:
            continue
        default = " ".join(field.default) if field.type is tuple else field.default
        shown = "" if default is None else f" (default: {default})"
        how = {"help": field.metadata["help"] + shown, "default": argparse.SUPPRESS}
        if field.type is bool:
            how["action"] = argparse.BooleanOptionalAction
        elif field.type is tuple:  # of strings
            how["nargs"] = "+"
        else:
            how |= {"type": field.type, "choices": field.metadata["choices"]}
        parser.add_argument("--" + field.name.replace("_", "-"), **how)


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


# ---- files ----

def read_text(path):
    """The text of a UTF-8 file, without a byte-order mark. ValueError if it is no text."""
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        at = error.start
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


def holding(folder, what, wait=False):
    """What held() in extras/locks.py does; where there are only copies of some files, nothing."""
    if stages:
        from locks import held
        return held(folder, what, wait)
    Path(folder).mkdir(parents=True, exist_ok=True)
    return contextlib.nullcontext()


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
if script := script_file():
    start(script)
