"""Shared by all commands of this course: their options, how they end, writing files safely.

A first reading may skip it. extras/housekeeping.py has locks and progress. Next: bpe.py.
"""

import _signal as signal  # loaded already; importing signal itself takes 10 ms
import os
import sys

script = os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or "-")
if (os.path.relpath(script, os.path.realpath(__file__ + "/../..")).startswith(("0", "mine"))
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end at once: no work has begun
import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Where modules are found: first in PYTHONPATH=mine, then in the stages, then among packages.
stages = [str(p) for p in [*ROOT.glob("0?_*"), *ROOT.glob("0?_*/extras")]]
path = [p for p in sys.path if p not in stages and Path(p).name != "01_tokenizer"]
at = path.index(os.path.dirname(os.__file__)) + 1  # behind the standard library
sys.path[:] = path[:at] + stages + path[at:]
there = (ROOT / "01_tokenizer" / "extras" / "housekeeping.py").exists()
housekeeping = importlib.import_module("housekeeping") if there else None  # no extras
if not housekeeping:  # which does the same, so that no import loads the script a second time
    sys.modules.setdefault(Path(script).stem, sys.modules["__main__"])

import argparse
import contextlib
import dataclasses
import hashlib
import re
import secrets


def by_hand():
    """Whether the plain versions run: if a reader wrote some, or the extras are not there."""
    return not housekeeping or bool(housekeeping.readers_files())


def holding(folder, what, wait=False):
    """housekeeping.held(), a lock on `folder`; without the extras, no lock."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return housekeeping.held(folder, what, wait) if housekeeping else contextlib.nullcontext()


def run(main):
    """Call main(), or the reader's own. A user's mistake ends as one line and exit code 2."""
    try:
        main = housekeeping.loaded(main) if housekeeping else main
        main()
        print(end="", flush=True)  # a closed pipe raises here, not when Python ends
    except BrokenPipeError:  # `... | head` has read enough; 141 is 128 + SIGPIPE, as in a shell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(housekeeping and housekeeping.stopped or 130)
    except Exception as error:
        if not (message := users_mistake(error)):
            raise
        print(f"error: {escaped(' '.join(str(message).split()))[:1500]}", file=sys.stderr)
        sys.exit(2)


def users_mistake(error):
    """One line about wrong input, a blank exercise or too little memory; None for other errors."""
    first = str(error).partition("\n")[0]
    if isinstance(error, (ValueError, OSError)):
        return housekeeping.plain_words(error) if housekeeping else error
    if isinstance(error, NotImplementedError) and first.startswith("exercise: "):
        return f"{first} is still to be written"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and re.search(
            "can't allocate memory|out of memory", str(error))):  # torch's, on a CPU and on a GPU
        return f"out of memory. {first}"
    if isinstance(error, ModuleNotFoundError) and not housekeeping:
        return f"{error}: this takes the whole course, not a copy of some of its files"


def choose_device(name="auto"):
    """"cuda", "mps" or "cpu": the one asked for; for "auto" the first that is available."""
    from torch import backends, cuda, set_float32_matmul_precision
    there = ["cuda"] * cuda.is_available() + ["mps"] * backends.mps.is_available() + ["cpu"]
    if name not in ("auto", *there):
        raise ValueError(f"device {name} is not available here; there is {', '.join(there)}")
    name = there[0] if name == "auto" else name
    if name == "cuda":
        set_float32_matmul_precision("high")  # TF32; NVIDIA_TF32_OVERRIDE=0, NVIDIA's, forbids it
    elif name == "cpu" and importlib.util.find_spec("machine"):
        importlib.import_module("machine").fast_products()
    return name


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations, and whose errors are one line."""

    def __init__(self, **how):
        super().__init__(**{"allow_abbrev": False, **how})

    def error(self, message):
        hint = housekeeping.nearest_option(self, message) if housekeeping else ""
        raise ValueError(f"{message} ({hint}--help lists the options)")


def option(default, help, choices=None, least=None, most=2**31 - 1):
    """A dataclass field that is also a command-line option, with its help and allowed values."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices,
                                                        "least": least, "most": most})


def check_options(options):
    """ValueError unless every option of a dataclass has the right type and an allowed value."""
    for field in dataclasses.fields(options):
        value, how, wrong = getattr(options, field.name), field.metadata, None
        if not how or value is field.default:  # not an option, or not given
            continue
        kind = {float: (int, float), tuple: (tuple, list)}.get(field.type, field.type)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            wrong = f"of type {field.type.__name__}"
        elif how["choices"] and value not in how["choices"]:
            wrong = f"one of {', '.join(how['choices'])}"
        elif how["least"] is not None and not how["least"] <= value <= how["most"]:  # or nan
            wrong = f"a number from {how['least']:g} to {how['most']:.10g}"
        if wrong:
            raise ValueError(f"{field.name} is {value!r}, but must be {wrong}")


def add_options(parser, config_class):
    """Add a flag for each option() of a dataclass; parse_args() returns only those given."""
    for field in (f for f in dataclasses.fields(config_class) if "help" in f.metadata):
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


def escaped(text):
    """`text` with its control characters spelled out, line ends excepted: safe on a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def has_colours():
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def track(items, label, total=None, size=lambda item: 1, unit=""):
    """Yield `items`, with the progress line of housekeeping.track(); without extras, with none."""
    return housekeeping.track(items, label, total, size, unit) if housekeeping else items


def read_text(path):
    """The text of a UTF-8 file, without a byte-order mark. ValueError if it is no text."""
    data = (housekeeping.regular(path) if housekeeping else Path(path)).read_bytes()
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte = f"byte {error.start}: {data[error.start]:#04x}"
        raise ValueError(f"{path} is not UTF-8 text ({byte}); convert it or leave it out") from None
    if text.startswith("version https://git-lfs"):
        raise ValueError(f"{path} is a Git LFS pointer, not the file: run git lfs pull")
    if "\0" in text:
        raise ValueError(f"{path} is a binary file (it holds NUL bytes); leave it out")
    return text


def write_safely(path, data):
    """Write bytes or text so that `path` holds the old content or all of the new, never a part."""
    aside = Path(path).with_name(f".{Path(path).name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:  # the error of a full disk doesn't name the file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def file_hash(path):
    """The sha256 of a file's content, as hex digits."""
    with open(housekeeping.regular(path) if housekeeping else path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class StopSignal:
    """Until release() the first Ctrl-C or SIGTERM only sets `asked`, so that a step can end."""

    asked = 0  # the signal's number; on the class, since the exit code depends on it later

    def __enter__(self):
        StopSignal.asked = 0
        self.before = {s: signal.signal(s, self.ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def ask(self, number, frame):
        StopSignal.asked = number
        signal.signal(number, self.before.pop(number))  # a second acts as usual

    def release(self, *error):
        while self.before:  # ask() has restored the handler of a signal that came
            signal.signal(*self.before.popitem())

    __exit__ = release
