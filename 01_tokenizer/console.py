"""What every command of this course shares: options from a dataclass, one-line errors, progress,
files that are never half written, work shared by processes.

No stage is about any of this, so it is kept out of their way; a first reading may skip it.
Start with bpe.py.
"""

import argparse
import dataclasses
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path


def run(main):
    """Call main(). A user's mistake (ValueError, OSError), or too little memory for what was asked,
    ends as one line and exit code 2.
    """
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # `... | head` has read enough; 141 is 128 + SIGPIPE, as in a shell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        no_memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)  # torch
        if isinstance(error, RuntimeError) and not no_memory:
            raise
        first = (str(error).splitlines() or [""])[0]
        print(f"error: {f'out of memory. {first}' if no_memory else error}", file=sys.stderr)
        sys.exit(2)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose complaints are one line, like everyone else's."""

    def error(self, message):
        raise ValueError(f"{message} (--help lists the options)")


def option(default, help, choices=None):
    """A dataclass field that is also a command-line option: its default and help, stated once."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def add_options(parser, config_class):
    """Give `parser` one --flag for each field of `config_class`.

    parse_args() then returns only those that were given.
    """
    for field in dataclasses.fields(config_class):
        default = " ".join(field.default) if field.type is tuple else field.default
        how = {"help": f"{field.metadata['help']} (default: {default})"}
        if field.type is bool:
            how["action"] = argparse.BooleanOptionalAction
        elif field.type is tuple:  # of strings
            how["nargs"] = "+"
        else:
            how |= {"type": field.type, "choices": field.metadata["choices"]}
        parser.add_argument("--" + field.name.replace("_", "-"), default=argparse.SUPPRESS, **how)


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
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.every = 0.1 if self.live else 10.0
        self.start = time.monotonic()
        self.next_time = self.start + patience
        self.drawn = False

    def show(self, text):
        """Show `text` if it is time to; `text` may be a function, called only when it is."""
        now = time.monotonic()
        if now < self.next_time:
            return
        self.next_time = now + self.every
        text = text() if callable(text) else text
        print(f"\r{text}\x1b[K" if self.live else text,
              end="" if self.live else "\n", file=self.stream, flush=True)
        self.drawn = True

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


def in_batches(items, limit, size=len):
    """Lists of consecutive `items`, each full as soon as the sizes in it reach `limit`."""
    batch, total = [], 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= limit:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def serve(function, pipe, others):
    """What a worker of parallel() does: an item in, a result out, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for end in others:
        end.close()
    try:
        while True:
            try:
                answer = function(pipe.recv()), None
            except ValueError as error:
                answer = None, error
            pipe.send(answer)
    except (EOFError, OSError):
        pass  # the parent has gone


def parallel(function, items, workers):
    """map(function, items), in order, on `workers` processes; each holds one item at a time.

    `function` and items must be picklable, as some systems start processes from nothing. A
    ValueError of `function` is raised here.
    """
    if workers < 1:
        raise ValueError(f"{workers} worker processes can't do anything; 1 or more can")
    if workers == 1:
        yield from map(function, items)
        return
    forked = multiprocessing.get_start_method() == "fork"
    idle, busy, processes = deque(), deque(), []

    def start():
        here, there = multiprocessing.Pipe()
        # A fork inherits our ends of all pipes; were they left open, it would not see us go.
        others = [here, *idle, *busy] if forked else []
        processes.append(multiprocessing.Process(target=serve, args=(function, there, others),
                                                 daemon=True))
        processes[-1].start()
        there.close()
        idle.append(here)

    def result():
        answer, error = busy[0].recv()
        idle.append(busy.popleft())
        if error:
            raise error
        return answer

    try:
        for item in items:
            if not idle and len(processes) < workers:
                start()
            if not idle:
                yield result()
            idle[0].send(item)
            busy.append(idle.popleft())
        while busy:
            yield result()
    except (EOFError, ConnectionError):
        raise ValueError("a worker process died (out of memory?); use fewer workers") from None
    finally:
        for process in processes:
            process.terminate()
            process.join()


def read_text(path):
    """The text of a UTF-8 file, without a byte-order mark. ValueError if it is no text."""
    data = Path(path).read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text (byte {error.start}: {data[error.start]:#04x});"
                         " convert it or leave it out") from None
    if "\0" in text:
        raise ValueError(f"{path} is a binary file (it holds NUL bytes); leave it out")
    return text


def write_safely(path, data):
    """Write bytes or text so that `path` holds the old content or all of the new, never a part."""
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:  # a full disk doesn't say what it was that didn't fit
        error.filename = error.filename or str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


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
