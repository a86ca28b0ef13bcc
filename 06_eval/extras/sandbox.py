"""Run a program that is not trusted so that it can harm nothing: in namespaces of its own.

What a model writes is hostile until proved otherwise. Here it runs without a network, in a process
namespace that is killed as a whole, as a user without rights, on a read-only view of the system
with one writable folder, /tmp, in memory; its time, memory, processes and files are bounded. It
can't see the files of this user, and leaves nothing behind. Linux alone has this (5.12 or newer,
with user namespaces, on x86-64 or ARM); elsewhere run() refuses, unless it is told to be unsafe.

    python 06_eval/extras/sandbox.py ls -l / /tmp
    python 06_eval/extras/sandbox.py --seconds 2 python3 -c "while True: print('again')"

Prints what the program printed, and how it ended. How it is made: inside.py. Next: proxy.py.
"""

import contextlib
import marshal
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, escaped, option, run as run_command

INSIDE = (f"import sys; sys.path.append({os.path.dirname(os.path.realpath(__file__))!r}); "
          "import inside; inside.serve()")  # its bytecode is kept, unlike a script's
PYTHON = os.path.realpath(sys.executable)
PATH = "/usr/local/bin:/usr/bin:/bin"
RUNNING = set()  # ends of sockets, on whose other ends programs are watched
KEPT, LOCK = [], threading.Lock()  # of inner()


@dataclass(frozen=True)
class Limits:
    """What a program may use. Time is wall time; each process has as much of the CPU's, too."""

    seconds: float = option(10.0, "that it may take", least=0.01)
    memory: int = option(1 << 30, "bytes in use by all of its processes together", least=1 << 20)
    processes: int = option(64, "that there may be at once, threads included", least=1)
    disk: int = option(64 << 20, "bytes in /tmp, and in a file", least=1 << 16)
    output: int = option(1 << 16, "bytes of its output that are kept", least=1)


@dataclass(frozen=True)
class Outcome:
    """How a program ended. kind: "ended" by itself, or by its limit of "timeout" or "memory"; code:
    its exit code, or minus the number of the signal that ended it; seconds: of wall time; said:
    what its first write to descriptor 3 was, at most 4 KB; output: what it printed, both streams
    as they came.
    """

    kind: str
    code: int
    seconds: float
    said: bytes
    output: str


class Inner:
    """The interpreter of inside.py that starts programs; one for this process, and for all of its
    threads.
    """

    def __init__(self):
        self.of, (self.control, theirs) = os.getpid(), socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [PYTHON, "-I", "-S", "-c", INSIDE], stdin=theirs, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True, cwd="/")

    def start(self, *files):
        """Start a program. files: what it is, what becomes of it, and errors."""
        socket.send_fds(self.control, [b"."], [file.fileno() for file in files])

    def lives(self):
        return self.of == os.getpid() and self.process.poll() is None


def inner():
    """The Inner of this process. It is made when it is needed."""
    with LOCK:
        if not (KEPT and KEPT[0].lives()):
            KEPT[:] = [Inner()]
        return KEPT[0]


def run(argv, folder, stdin="", readable=(), writable=(), keep=False, env={}, limits=Limits(),
        unsafe=False):
    """Run argv, whose first word is an absolute path, and wait for it: an Outcome.

    The program starts in `folder`, which it sees as /sandbox; keep: it may write there, else only
    to /tmp, which is gone afterwards. readable, writable: other paths that it sees. stdin: text for
    its standard input. unsafe: with limits on time and files alone, as this user, with all of the
    user's files and the network. ValueError where the system has no namespaces.
    """
    tmp = "/tmp" if not unsafe else str(folder)
    spec = {**limits.__dict__, "argv": [str(word) for word in argv], "keep": keep,
            "stdin": stdin.encode("utf-8", "replace"),
            "folder": os.path.realpath(folder), "unsafe": unsafe,
            "readable": [str(path) for path in readable],
            "writable": [str(path) for path in writable],
            "env": {"PATH": PATH, "HOME": tmp, "TMPDIR": tmp, "LANG": "C.UTF-8", **env}}
    begun, report, ours, theirs = time.monotonic(), b"", *socket.socketpair()
    with ours, tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
        RUNNING.add(ours)
        try:
            given.write(marshal.dumps(spec))
            given.seek(0)
            with theirs, contextlib.suppress(ConnectionError):  # then there is no report
                starter = inner()
                starter.start(given, theirs, errors)
            ours.settimeout(limits.seconds + 20)
            while part := ours.recv(1 << 20):
                report += part
        except TimeoutError:  # the machine, not the program, has stood still
            return Outcome("timeout", -signal.SIGKILL, time.monotonic() - begun, b"", "")
        finally:  # also after Ctrl-C: what runs there ends when this end is closed
            RUNNING.remove(ours)
        if not report:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").split("\n")
            raise ValueError("programs that are not trusted can't be run here: "
                             f"{next(filter(None, reversed(lines)), 'no report')}")
    if report == b"." and not starter.lives():
        raise ValueError("what starts programs has been ended, and with it all that ran")
    if report == b".":  # the process that watched the program was ended, by it or by stop()
        return Outcome("ended", -signal.SIGKILL, time.monotonic() - begun, b"", "")
    found = marshal.loads(report[1:])
    return Outcome(**found | {"output": found["output"].decode("utf-8", "backslashreplace")})


def stop():
    """End all programs that other threads run now."""
    for end in list(RUNNING):
        with contextlib.suppress(OSError):  # it has just been closed
            end.shutdown(socket.SHUT_RDWR)


def trouble():
    """Why this system can't run a program safely; "" if it can."""
    if sys.platform != "linux":
        return "programs that are not trusted are run by Linux's namespaces, which aren't here"
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            found = run([PYTHON, "-I", "-S", "-c", ""], folder, readable=[sys.base_prefix])
            return found.output.strip() if found.code else ""
    except (OSError, ValueError) as error:
        return str(error)


@dataclass(frozen=True)
class Options(Limits):
    unsafe: bool = option(False, "run it as this user, with all files and the network")


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    parser.add_argument("program", nargs="...", help="and its options; python3 is this one")
    words = vars(parser.parse_args(argv))
    program, options = words.pop("program"), Options(**words)
    if not program:
        raise ValueError("name a program, such as: ls -l /")
    path = PYTHON if program[0] == "python3" else shutil.which(program[0], path=PATH)
    if not path:
        raise ValueError(f"there is no program {program[0]!r} in {PATH}")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        found = run([path, *program[1:]], folder, readable=[sys.base_prefix],
                    limits=options, unsafe=options.unsafe)
    print(escaped(found.output), end="" if found.output.endswith("\n") else "\n")
    how = {"ended": f"exit code {found.code}" if found.code >= 0 else
           f"ended by {signal.Signals(-found.code).name}"}.get(found.kind, found.kind)
    print(f"--- {how}, after {found.seconds:.2f} s")


if __name__ == "__main__":
    run_command(main)
