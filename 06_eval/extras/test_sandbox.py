"""Tests of sandbox.py: how programs end, what hostile ones cost, and that nothing stays of them."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sandbox
from sandbox import PYTHON, Limits, Outcome, main, run, trouble

ROOT = Path(__file__).resolve().parents[2]
WHY = trouble()
needs_sandbox = pytest.mark.skipif(bool(WHY), reason=f"programs can't be run safely: {WHY}")
MARK = f"hostile-{os.getpid()}-"  # an argument of each program, by which it is found


def python(code, folder=None, **limits):
    """The Outcome of Python code, in a folder of its own."""
    limits = {"seconds": 5.0, "memory": 256 << 20, **limits}
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        return run([PYTHON, "-I", "-S", "-c", code, MARK], folder or work,
                   readable=[sys.base_prefix], limits=Limits(**limits))


def running(mark=MARK):
    """The ids of all processes that have an argument that begins with the mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(mark.encode()) for word in words):
            found.append(int(path.parent.name))
    return found


def children():
    return {number for path in Path("/proc/self/task").glob("*/children")
            for number in path.read_text().split()}


def kept():
    """What a program could leave: mounts, segments of shared memory, megabytes of it."""
    shared = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines()
                  if line.startswith("Shmem:")) // 1024
    return (len(Path("/proc/self/mountinfo").read_text().splitlines()),
            len(Path("/proc/sysvipc/shm").read_text().splitlines()), shared)


@pytest.fixture
def leaves_nothing(tmp_path, monkeypatch):
    """What is tested leaves no process, no mount, no file and no memory behind."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before, known = kept(), children()
    yield
    assert not running() and not children() - known, "a process goes on"
    assert not list(folder.iterdir()), "a file has stayed"
    mounts, segments, shared = kept()
    assert (mounts, segments) == before[:2]
    assert shared < before[2] + 200, "memory is still in use"


# ---- how programs end ----
@needs_sandbox
def test_outcome(tmp_path, leaves_nothing):
    tmp_path.chmod(0o777)
    found = run(["/bin/sh", "-c", "cat; echo error >&2; echo $A $HOME; printf said >&3; exit 3"],
                tmp_path, stdin="given é\ud800\n", env={"A": "b"})
    assert found == Outcome("ended", 3, found.seconds, b"said", "given é?\nerror\nb /tmp\n")
    assert 0 < found.seconds < 5
    assert run(["/bin/cat"], tmp_path).output == "", "without stdin there is nothing to read"
    large = "x" * (3 << 20)
    assert run(["/usr/bin/wc", "-c"], tmp_path, large).output == f"{3 << 20}\n"
    assert run(["/bin/true"], tmp_path, large).code == 0, "a program need not read"
    assert run(["/bin/sh", "-c", "kill -9 $$"], tmp_path).code == -9
    found = run(["/nowhere/at/all"], tmp_path)
    assert found.code == 127 and "can't be started" in found.output
    assert run(["/bin/sh", "-c", "printf '\\377é'"], tmp_path).output == "\\xffé"


@needs_sandbox
def test_said():
    """What comes first counts: nobody can take it back, or read it and add to it."""
    assert python("import os; os.write(3, b'first'); os.write(3, b'second')").said == b"first"
    assert python("import os; os.write(3, b'x' * 9999)").said == b"x" * 4096
    assert python("import os; os.close(3)").said == b""
    assert python("""
import os
os.write(3, b"wrong")
for attempt in (lambda: os.read(3, 9), lambda: os.lseek(3, 0, 0), lambda: os.ftruncate(3, 0),
                lambda: os.pwrite(3, b"right", 0), lambda: os.open("/proc/self/fd/3", os.O_RDWR)):
    try:
        print(attempt())
    except OSError:
        pass
os.write(3, b"right")
""").said == b"wrong"
    assert python("""
import os
while True:
    os.write(3, b"passed")
""", seconds=0.3).kind == "timeout"


@needs_sandbox
def test_folders(tmp_path, leaves_nothing):
    """A folder may be written to, and others be seen, only where that is asked for."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("seen")
    for path in (tmp_path, other):
        path.chmod(0o777)
    script = f"cat {other}/file && touch new; touch {other}/new; mkdir /tmp/a && ls /tmp | wc -w"
    argv = ["/bin/sh", "-c", script]
    found = run(argv, tmp_path)
    assert not (tmp_path / "new").exists() and "seen" not in found.output
    found = run(argv, tmp_path, readable=[other])
    assert found.output.startswith("seentouch: ") and not (other / "new").exists()
    run(argv, tmp_path, writable=[other], keep=True)
    assert (tmp_path / "new").exists() and (other / "new").exists()
    assert not Path("/tmp/a").exists()


# ---- hostile programs ----
FORK = "import os, time\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        "
HOSTILE = {  # how it ends ("?": by itself or by a limit), and its code
    "a loop": ("timeout", "while True: pass"),
    "it sleeps": ("timeout", "import time; time.sleep(99)"),
    "it stops itself": ("timeout", "import os; os.kill(os.getpid(), 19)"),
    "it ignores signals": ("timeout", """
import signal
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass"""),
    "processes": ("timeout", FORK + "pass"),
    "processes that end": ("ended", FORK + "break"),
    "threads": ("timeout", """
import _thread, time
while True:
    try: _thread.start_new_thread(time.sleep, (99,))
    except RuntimeError: pass"""),
    "memory": ("memory", "a = []\nwhile True: a.append(b'x' * (1 << 20))"),
    "10 GB at once": ("memory", "a = b'x' * (10 << 30)"),
    "memory of many": ("memory", """
import os, time
for _ in range(30): os.fork() or (b"x" * (20 << 20), time.sleep(99))
time.sleep(99)"""),
    "page tables": ("?", """
import mmap
for _ in range(9):
    a = mmap.mmap(-1, 1 << 32, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for i in range(0, 1 << 32, 1 << 21): a[i]"""),
    "memory in files": ("ended", "open('/tmp/a', 'wb').write(b'x' * (100 << 20))"),
    "memory in many files": ("ended", """
for i in range(99999): open(f'/tmp/{i}', 'wb').write(b'x' * (1 << 20))"""),
    "files without names": ("ended", """
import os
all = [os.memfd_create("a") for _ in range(100)]
for file in all: os.write(file, b'x' * (60 << 20))"""),
    "shared memory": ("ended", "import mmap; mmap.mmap(-1, 10 << 30)"),
    "segments": ("ended", """
import ctypes
number = ctypes.CDLL(None).shmget(0, ctypes.c_size_t(1 << 30), 0o1666)
assert number >= 0"""),
    "sockets full of data": ("ended", """
import socket
all = []
while True:
    all.append(socket.socketpair())
    all[-1][0].setblocking(False)
    try:
        while True: all[-1][0].send(b'x' * (1 << 16))
    except BlockingIOError: pass"""),
    "output": ("ended", "import os\nwhile True: os.write(1, b'x' * (1 << 20))"),
    "output on both": ("ended", "import os\nwhile True: os.write(2, b'x\\n' * 999999)"),
    "grandchildren": ("ended", """
import os, time
for _ in range(5):
    if not os.fork():
        os.setsid()
        if not os.fork():
            while True: time.sleep(1)
        os._exit(0)"""),
    "a grandchild that works": ("ended", """
import os
if not os.fork():
    os.setsid()
    while True: os.fork() if os.getpid() % 2 else 0"""),
    "zombies": ("ended", "import os\nfor _ in range(30): os.fork() or os._exit(0)"),
    "kill all": ("ended", "import os; os.kill(-1, 9)"),
    "no descriptors": ("ended", "import os; os.closerange(0, 300); os.fork()"),
    "a fault": ("ended", "import ctypes; ctypes.string_at(0)"),
    "recursion": ("ended", "def f(): f()\nf()"),
}


def check_hostile(name, found):
    kind, code = HOSTILE[name]
    if name != "a grandchild that works":
        assert found.kind == kind or kind == "?", f"{name}: {found.kind}, {found.output[-300:]}"
    assert found.seconds < 30, f"{name} took {found.seconds} s"
    assert len(found.output) <= 1 << 16 and found.said == b"", name


@needs_sandbox
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program(name, leaves_nothing):
    kind, code = HOSTILE[name]
    found = python(code, seconds=0.5)
    if found.kind == "timeout" != kind:  # on a machine that has much else to do
        found = python(code, seconds=20.0)
    check_hostile(name, found)


@needs_sandbox
def test_the_processors_time(leaves_nothing):
    """Threads of one process can use up more of it than the clock shows."""
    found = python("""
import hashlib, threading
for _ in range(4):
    threading.Thread(target=lambda: [hashlib.sha512(bytes(1 << 25)) for _ in range(999)]).start()
""", seconds=1.9)
    assert found.kind == "timeout"


@needs_sandbox
@pytest.mark.slow
def test_200_hostile_programs(leaves_nothing):
    """In a row, by four threads."""
    names = [name for name in HOSTILE for _ in range(8)][:200]
    names = names[::2] + names[1::2]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda name: python(HOSTILE[name][1], seconds=0.1), names))
    assert len(found) == 200
    for name, one in zip(names, found):
        assert one.seconds < 30 and one.kind in ("ended", "timeout", "memory"), name


@needs_sandbox
def test_neighbours():
    """What one program uses is not put down to another."""
    with ThreadPoolExecutor(3) as pool:
        bad = [pool.submit(python, HOSTILE[name][1], seconds=1.0) for name in
               ("memory", "memory in files")]
        good = [python("print(sum(range(10**6)))", memory=32 << 20) for _ in range(10)]
        for future in bad:
            future.result()
    assert {(one.kind, one.code) for one in good} == {("ended", 0)}


# ---- the end of whoever runs them ----
def start(tmp_path, mark, script, *arguments, **how):
    """A command that runs sleeping programs with that mark, when they run."""
    folder = tmp_path / "own"
    folder.mkdir()
    process = subprocess.Popen([sys.executable, ROOT / script, *arguments], cwd=tmp_path, **how,
                               env={**os.environ, "TMPDIR": str(folder)}, start_new_session=True)
    wait_until(lambda: len(running(mark)) > 1)  # the command, and the program
    return process, folder


def wait_until(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


@needs_sandbox
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("unsafe", [[], ["--unsafe"]], ids=["sandbox", "unsafe"])
def test_the_end_of_the_judge(tmp_path, number, unsafe):
    mark = f"{MARK}{number}"
    process, folder = start(tmp_path, mark, "06_eval/extras/sandbox.py", "--seconds", "60", *unsafe,
                            "python3", "-c", "import time; time.sleep(60)", mark,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert b"Traceback" not in errors
    wait_until(lambda: not running(mark))
    if number == signal.SIGINT:
        assert process.returncode == 130 and not list(folder.iterdir())


@needs_sandbox
def test_stop():
    """After Ctrl-C nobody waits for what other threads run."""
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(python, "import time; time.sleep(60)", seconds=60.0) for _ in range(2)]
        wait_until(lambda: len(running()) == 2)
        sandbox.stop()
        for future in found:
            assert future.result(timeout=60).code == -9
    wait_until(lambda: not running())


# ---- other users, other systems ----
@needs_sandbox
def test_another_user(tmp_path):
    """Without root's rights it is the same: that user's files can't be seen, either."""
    python3 = shutil.which("python3", path="/usr/local/bin:/usr/bin")
    if os.getuid() or not python3 or subprocess.run(
            [python3, "-c", "import sys; open(sys.argv[1]); assert sys.version_info >= (3, 11)",
             sandbox.__file__], user=1000, group=1000, extra_groups=[],
            capture_output=True).returncode:
        pytest.skip("needs root's rights, and a Python and these files that others can read")
    folder = tmp_path / "own"
    folder.mkdir()
    os.chown(folder, 1000, 1000)
    for path in tmp_path.parents[:3]:
        if path.stat().st_uid == 0 and path != Path("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)
    code = f"""
import os, resource, subprocess, time
print(os.getuid(), os.listdir(), os.path.exists({str(folder)!r}), os.path.exists("/etc/passwd"))
for number in (2, 9, 15, 19):
    os.kill(1, number)
open("/tmp/a", "w").write("b")
try: open("a", "w")
except OSError as error: print(error.strerror)
resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))
print(subprocess.run(["echo", "b"], capture_output=True).stdout)
"""
    done = subprocess.run([python3, sandbox.__file__, "python3", "-c", code], user=1000, group=1000,
                          extra_groups=[], capture_output=True, encoding="utf-8", cwd=folder,
                          env={"TMPDIR": str(folder)})
    assert done.stdout.splitlines()[:3] == [
        "65534 [] False False", "Read-only file system", "b'b\\n'"], done
    assert "--- exit code 0" in done.stdout and not list(folder.iterdir())
    done = subprocess.run([python3, sandbox.__file__, "python3", "-c", """
import resource, time
resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))
time.sleep(1)
"""], user=1000, group=1000, extra_groups=[], capture_output=True, encoding="utf-8", cwd=folder,
                          env={"TMPDIR": str(folder)})
    assert done.stdout.strip().startswith("--- ended by SIGKILL"), done


@needs_sandbox
def test_a_system_without_namespaces(tmp_path):
    """Such as the inside of a sandbox: one line says so."""
    tmp_path.chmod(0o755)
    found = run([PYTHON, "-S", sandbox.__file__, "echo", "done"], tmp_path, readable=[
        sys.base_prefix, ROOT / "01_tokenizer", ROOT / "06_eval"])
    assert (found.code, found.output) == (
        2, "error: programs that are not trusted can't be run here: "
           "[Errno 1] unshare: Operation not permitted\n")


def test_trouble(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "which aren't here" in trouble()
    monkeypatch.undo()
    monkeypatch.setattr(sandbox, "KEPT", [])
    monkeypatch.setattr(sandbox, "PYTHON", "/bin/false")
    assert trouble() == "programs that are not trusted can't be run here: no report"
    monkeypatch.setattr(sandbox, "PYTHON", "/nowhere/python")
    assert "No such file" in trouble()


def test_unsafe(tmp_path):
    """With limits on time and files alone."""
    found = run(["/bin/sh", "-c", "cat; pwd; echo $HOME; echo a > b; printf said >&3"], tmp_path,
                stdin="given\n", unsafe=True)
    assert found == Outcome("ended", 0, found.seconds, b"said", f"given\n{tmp_path}\n{tmp_path}\n")
    assert (tmp_path / "b").read_text() == "a\n"
    found = run(["/bin/sh", "-c", "sleep 60 & sleep 60"], tmp_path, limits=Limits(seconds=0.2),
                unsafe=True)
    assert found.kind == "timeout" and found.seconds < 30


@needs_sandbox
def test_the_command(capsys, fails):
    main(["--seconds", "3", "sh", "-c", "printf '\\033[31mred'; exit 3"])
    out = capsys.readouterr().out
    assert out.startswith("\\x1b[31mred\n--- exit code 3, after 0.")
    main(["sh", "-c", "kill -9 $$"])
    assert "--- ended by SIGKILL" in capsys.readouterr().out
    main(["--seconds", "0.1", "python3", "-c", "while True: pass"])
    assert "--- timeout" in capsys.readouterr().out
    assert "name a program" in fails(main)
    assert "there is no program 'nothing-of-this-name'" in fails(main, "nothing-of-this-name")


@needs_sandbox
def test_another_inner_process(tmp_path):
    """The one that starts programs is made again where it has been ended, and in a fork."""
    tmp_path.chmod(0o755)
    first = sandbox.inner()
    assert sandbox.inner() is first
    first.process.kill()
    first.process.wait()
    assert run(["/bin/echo", "again"], tmp_path).output == "again\n"
    child = os.fork()
    if not child:
        os._exit(run(["/bin/echo", "forked"], tmp_path).output != "forked\n"
                 or sandbox.inner().of != os.getpid())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert run(["/bin/echo", "here"], tmp_path).output == "here\n"


@needs_sandbox
def test_the_end_of_the_inner_process():
    """Is no verdict on the programs that it has started."""
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(python, "import time; time.sleep(60)", seconds=60.0)
        wait_until(running)
        sandbox.inner().process.kill()
        with pytest.raises(ValueError, match="what starts programs has been ended"):
            found.result(timeout=60)
    wait_until(lambda: not running())
