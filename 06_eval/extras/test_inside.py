"""Tests of inside.py: what a program in the sandbox can see, reach and use, tried by programs."""

import os
import platform
import sys

import pytest

from inside import REFUSED
from sandbox import PYTHON, Limits, run, trouble

pytestmark = pytest.mark.skipif(bool(trouble()), reason=f"no sandbox here: {trouble()}")

# A program prints what it could do: attempt(what, function) prints nothing where that is an error.
START = """
import ctypes, errno, mmap, os, resource, signal, socket, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(what, function, *args):
    try:
        found = function(*args)
    except Exception as error:
        return error
    print(what, repr(found)[:200], flush=True)
def call(name, *args):
    if getattr(libc, name)(*args) == -1:
        raise OSError(ctypes.get_errno(), name)
"""


@pytest.fixture
def program(tmp_path):
    """program(code, ...): the Outcome of Python code that begins with START."""
    def start(code, **limits):
        limits = Limits(**{"seconds": 5.0, **limits})
        tmp_path.chmod(0o755)
        return run([PYTHON, "-I", "-S", "-c", START + code], tmp_path, readable=[sys.base_prefix],
                   limits=limits)
    return start


def check_nothing(outcome):
    assert (outcome.kind, outcome.code, outcome.output) == ("ended", 0, "")


def test_what_it_sees(program, tmp_path):
    (tmp_path / "file").write_text("given")
    (tmp_path / "file").chmod(0o644)
    found = program("""
print(os.getcwd(), os.listdir("."), open("file").read(), os.getuid(), os.getgid(), os.getgroups())
print(sorted(os.listdir("/")), os.listdir("/tmp"), sorted(os.listdir("/dev")), os.listdir("/etc"))
print(sorted(os.environ), os.getpid(), os.getppid(), socket.if_nameindex is not None)
""").output.splitlines()
    assert found[0].startswith("/sandbox ['file'] given 65534 65534 [")
    assert "'proc'" not in found[1] and "'sys'" not in found[1] and "'run'" not in found[1]
    assert "[] ['full', 'null', 'random', 'urandom'] ['ld.so.cache']" in found[1]
    assert found[2] == "['HOME', 'LANG', 'LC_CTYPE', 'PATH', 'TMPDIR'] 2 1 True" or (
        found[2] == "['HOME', 'LANG', 'PATH', 'TMPDIR'] 2 1 True")


def test_files_of_others(program):
    ours = [__file__, os.path.dirname(__file__), os.path.expanduser("~/.profile"), "/etc/passwd",
            "/etc/shadow", "/proc/self/environ", "/proc/1/mem", "/sys/kernel", "/run", "/var/log",
            "/home", "/dev/mem", "/dev/sda", "/dev/shm", "/dev/kmsg", "/dev/pts", "/dev/tty"]
    check_nothing(program(f"""
for path in {ours}:
    attempt(path, os.stat, path)
    attempt(path, open, path)
"""))


def test_it_writes_to_tmp_alone(program):
    check_nothing(program("""
for path in ("/", "/usr", "/bin", "/etc", "/dev", "/sandbox", "/lib", sys.prefix, "/tmp/.."):
    attempt(path, open, path + "/new", "w")
    attempt(path, os.mkdir, path + "/new")
    attempt(path, os.chmod, path, 0o777)
    attempt(path, os.rename, path, "/tmp/other")
    attempt(path, os.rmdir, path)
import shutil
shutil.rmtree("/sandbox", ignore_errors=True)
attempt("utime", os.utime, sys.executable)
attempt("mknod", os.mknod, "/tmp/device", 0o20666, os.makedev(1, 1))
attempt("link", os.link, "/bin/true", "/tmp/true")
with open("/tmp/file", "w") as file:
    file.write("a")
os.stat("/sandbox"), os.stat("/tmp/file")
"""))


def test_no_way_out(program):
    """Namespaces, mounts, roots, users, and the processes around it."""
    check_nothing(program("""
os.symlink("/proc", "/tmp/link")
for name, *args in (
        ("unshare", 0x10000000), ("unshare", 0x20000), ("unshare", 0x20000000), ("chroot", b"/tmp"),
        ("mount", b"proc", b"/tmp", b"proc", 0, None), ("mount", b"/", b"/tmp", None, 4096, None),
        ("mount", None, b"/", None, 32 | 4096, None), ("umount2", b"/usr", 2), ("setuid", 0),
        ("umount2", b"/", 2), ("pivot_root", b"/tmp", b"/tmp"), ("setgid", 0), ("seteuid", 0),
        ("setgroups", 0, None), ("setns", 0, 0), ("sethostname", b"a", 1), ("acct", b"/tmp/a"),
        ("nice", -5), ("swapon", b"/tmp/a", 0)):
    attempt(name, call, name, *args)
attempt("fsopen", call, "syscall", 430, b"tmpfs", 0)
attempt("open_tree", call, "syscall", 428, -100, b"/", 1)
attempt("limit", resource.setrlimit, resource.RLIMIT_NPROC, (9999, 9999))
attempt("priority", os.setpriority, os.PRIO_PROCESS, 0, -5)
attempt("real time", os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))
for path in ("/bin/su", "/bin/mount", "/usr/bin/passwd", "/usr/bin/newuidmap"):
    if os.path.exists(path):
        done = subprocess.run([path], capture_output=True, stdin=subprocess.DEVNULL)
        assert done.returncode, path
os.chdir("/tmp")
for _ in range(99):
    os.chdir("..")
assert os.listdir(".") == os.listdir("/") and "proc" not in os.listdir(".")
"""))


def test_its_parent_can_not_be_harmed(program):
    """Signals to number 1 of its namespace, limits on it, to all at once: at most its own end."""
    for code in ("os.kill(1, 9)", "os.kill(1, 19)", "os.kill(1, 2)", "os.kill(1, 15)",
                 "os.kill(-1, 9)", "os.kill(0, 9)",
                 "resource.prlimit(1, resource.RLIMIT_CPU, (0, 0)); time.sleep(1)",
                 "resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0)); time.sleep(1)"):
        found = program(f"attempt('', lambda: exec({code!r}))")
        assert found.kind == "ended" and found.said == b"", code
        assert found.code in (0, -9), code


def test_no_network(program):
    check_nothing(program("""
for family in range(64):
    for kind in (1, 2, 3, 5):
        attempt((family, kind), socket.socket, family, kind)
attempt("bash", lambda: subprocess.run(["bash", "-c", "echo > /dev/tcp/127.0.0.1/22"], check=True,
                                       stderr=subprocess.DEVNULL))
socket.socketpair()
"""))


def test_refused_calls(program):
    """Each with arguments for which the kernel would say something else than EPERM."""
    numbers = REFUSED[platform.machine()][2]
    found = program(f"""
for number in {numbers}:
    assert libc.syscall(number, -1, 0, 0, 0, 0) == -1
    print(errno.errorcode[ctypes.get_errno()])
attempt("shared memory", mmap.mmap, -1, 4096)
attempt("shared memory", mmap.mmap, -1, 4096, 0x20 | 3)
mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
with open("/tmp/file", "wb+") as file:
    file.truncate(4096)
    mmap.mmap(file.fileno(), 4096)
attempt("zero", open, "/dev/zero")
""")
    assert (found.code, found.output.split()) == (0, ["EPERM"] * len(numbers))


def test_calls_of_other_machines(program, tmp_path):
    """32 bits: their calls have other numbers, so none is let through."""
    if platform.machine() != "x86_64":
        pytest.skip("int 0x80 is x86's")
    found = program("""
code = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)
code.write(bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3]))  # mov eax, 20 (getpid); int 0x80; ret
address = ctypes.addressof((ctypes.c_char * 8).from_buffer(code))
print(ctypes.CFUNCTYPE(ctypes.c_int)(address)())
""")
    assert (found.code, found.output) == (-31, ""), "SIGSYS"
    assert "EPERM" in program("""
assert libc.syscall(1 << 30 | 39) == -1
print(errno.errorcode[ctypes.get_errno()])
""").output, "numbers of x32"


def test_limits(program):
    """What can't be measured in time is refused by itself."""
    check_nothing(program("""
def fill(path, size):
    with open(path, "wb") as file:
        while True:
            file.write(bytes(size))
            file.flush()
def grow(path):
    with open(path, "wb") as file:
        file.truncate(1 << 40)
def many():
    for i in range(20_000):
        os.mkdir(f"/tmp/{i}")
def descriptors():
    return [os.pipe() for _ in range(1000)]
attempt("a large file", fill, "/tmp/a", 1 << 20)
attempt("another one", fill, "/tmp/b", 1 << 20)
attempt("a file with holes", grow, "/tmp/c")
attempt("many files", many)
attempt("descriptors", descriptors)
attempt("addresses", lambda: mmap.mmap(-1, 1 << 36, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
""", disk=8 << 20))


def test_processes(program):
    found = program("""
n = 0
try:
    while n < 1000:
        if not os.fork():
            time.sleep(60)
        n += 1
except OSError as error:
    print(errno.errorcode[error.errno], n)
""", processes=20)
    assert found.output == "EAGAIN 19\n"
    found = program("""
import threading
n = 0
try:
    while n < 1000:
        threading.Thread(target=time.sleep, args=[60], daemon=True).start()
        n += 1
except RuntimeError:
    print(n, flush=True)
os._exit(0)
""", processes=20)
    assert found.output == "19\n"
