"""The inner half of sandbox.py: build the sandbox, run one program in it, watch it, report.

sandbox.py calls serve() in a small interpreter that knows nothing else of ours; for each program it
makes a copy of itself, which is far quicker than a new interpreter. Behind it are four processes,
each the parent of the next: the first gives the second its user ids; the second has left the
system's namespaces; the third is number 1 of the new process namespace, builds the view of the file
system, and watches; the fourth becomes the program. When number 1 ends, the kernel kills all that
is left in the namespace, grandchildren and all. The one that serves never reads about a program.

The standard input of the first three is what run() of sandbox.py puts together; their standard
output is a byte as soon as the program is to start, and then what an Outcome is made of; both as
marshal has it. When run() has closed the other end of that output, the program is ended.
Next: sandbox.py.
"""

import _thread
import ctypes
import marshal
import os
import resource
import select
import socket
import sys
import time

USER, NAMESPACES = 0x10000000, 0x6E020000  # CLONE_NEW: USER; NS, CGROUP, UTS, IPC, PID, NET
BIND, RECURSIVE, PRIVATE = 4096, 16384, 1 << 18  # MS_
NO_SETUID, NO_DEVICES = 2, 4  # MS_NOSUID, MS_NODEV; MOUNT_ATTR_ has the same values
DEATH_SIGNAL, SECCOMP, NO_NEW_PRIVILEGES = 1, 22, 38  # PR_SET_
SIGINT, SIGKILL, SIGPIPE, SIGXFSZ = 2, 9, 13, 25  # to import signal would take 5 ms
NOBODY = 65534
BASE = "/sys"  # where the program's root is put together: in a mount namespace that nobody shares
SYSTEM = ("/bin", "/lib", "/lib32", "/lib64", "/libx32", "/sbin", "/usr")
DEVICES = ("null", "full", "random", "urandom")  # zero would give memory that two may share
EVERY = 0.01  # seconds between two looks at the memory in use
ADDRESSES = 1 << 34  # bytes of them that a process may have: page tables are memory, too
# Calls that no program in here needs, but with which it could have memory that memory_in_use() does
# not see, another process's memory, or a socket: shmget, memfd_create, memfd_secret, ptrace,
# process_vm_readv, process_vm_writev, pidfd_getfd, socket, io_uring_setup. For each machine: its
# number in the kernel, that of mmap, and those of these calls.
REFUSED = {"x86_64": (0xC000003E, 9, (29, 319, 447, 101, 310, 311, 438, 41, 425)),
           "aarch64": (0xC00000B7, 222, (194, 279, 447, 117, 270, 271, 438, 198, 425))}

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *args):
    """A function of the C library that returns -1 where it fails: OSError with its name."""
    args = [arg.encode() if isinstance(arg, str) else arg for arg in args]
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


# ---- the view of the file system ----
def mount(source, target, kind=None, flags=0, options=None):
    call("mount", source, target, kind, ctypes.c_ulong(flags), options)


def read_only(path, recursive=True):
    """Forbid writing through all mounts at and below a path (mount_setattr of Linux 5.12)."""
    attributes = (ctypes.c_uint64 * 4)(1 | NO_SETUID | NO_DEVICES)  # set; clear; two unused
    call("syscall", ctypes.c_long(442), ctypes.c_int(-100), path,
         ctypes.c_uint(0x8000 if recursive else 0), attributes, ctypes.c_size_t(32))


def show(path, writable=False, at=None):
    """Let the program see a file or a folder, at its own path or at another one."""
    target = BASE + (at or path)
    if not os.path.isdir(path):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        open(target, "xb").close()
    else:
        os.makedirs(target, exist_ok=True)
    mount(path, target, flags=BIND | RECURSIVE)
    if not writable:
        read_only(target)


def build(spec):
    """The program's root: the system, read-only; what spec names; and /tmp, in memory."""
    mount("none", "/", flags=RECURSIVE | PRIVATE)
    mount("tmpfs", BASE, "tmpfs", NO_SETUID | NO_DEVICES, "mode=755,size=1m")
    os.mkdir(BASE + "/tmp")
    mount("tmpfs", BASE + "/tmp", "tmpfs", NO_SETUID | NO_DEVICES,
          f"mode=1777,size={spec['disk']},nr_inodes=10000")
    for path in SYSTEM:
        if os.path.islink(path):
            os.symlink(os.readlink(path), BASE + path)
        elif os.path.isdir(path):
            show(path)
    for path in (*spec["readable"], "/etc/ld.so.cache"):
        if os.path.exists(path) and not os.path.exists(BASE + path):
            show(path)
    for path in spec["writable"]:
        show(path, writable=True)
    show(spec["folder"], spec["keep"], at="/sandbox")
    for name in DEVICES:
        show(f"/dev/{name}", writable=True, at=f"/dev/{name}")
    read_only(BASE, recursive=False)
    mount("proc", "/proc", "proc")  # ours alone: the program has no /proc


# ---- the program ----
def refuse_calls():
    """From here on the kernel refuses some calls to this process and those that it starts: REFUSED,
    and mmap where it would share memory without a file. The filter is a program for seccomp(2).
    """
    machine, mmap, numbers = REFUSED[os.uname().machine]
    load, equal, at_least, both, end = 0x20, 0x15, 0x35, 0x54, 0x06  # operations of classic BPF
    no, yes, kill = 0x50001, 0x7FFF0000, 0x80000000  # EPERM; as usual; for calls of other machines
    code = [(load, 0, 0, 4), (equal, 1, 0, machine), (end, 0, 0, kill),
            (load, 0, 0, 0), (at_least, 0, 1, 1 << 30), (end, 0, 0, no)]
    for number in numbers:
        code += [(equal, 0, 1, number), (end, 0, 0, no)]
    code += [(equal, 0, 4, mmap), (load, 0, 0, 40), (both, 0, 0, 0x21), (equal, 0, 1, 0x21),
             (end, 0, 0, no), (end, 0, 0, yes)]  # 40: its flags; 0x21: shared, and no file
    words = (ctypes.c_uint64 * len(code))(
        *(what | then << 16 | other << 24 | value << 32 for what, then, other, value in code))
    call("prctl", SECCOMP, 2, (ctypes.c_uint64 * 2)(len(code), ctypes.addressof(words)), 0, 0)


def become(spec, files, isolated):
    """Turn this process into the program. files: what becomes its descriptors 0, 1, 2 and 3."""
    os.setsid()
    files = [os.dup(file) for file in files]  # none of them is overwritten by another one
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    for number in (SIGPIPE, SIGXFSZ):  # which Python ignores
        libc.signal(number, None)
    for name, value in (("CORE", 0), ("FSIZE", spec["disk"]), ("NOFILE", 256), ("AS", ADDRESSES),
                        ("NPROC", spec["processes"]), ("CPU", int(spec["seconds"]) + 1)):
        if isolated or name not in ("AS", "NPROC"):  # NPROC would count the user's other processes
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    if isolated:
        with open("/proc/self/oom_score_adj", "wb") as file:
            file.write(b"1000")  # should all the memory be used up, end this program first
        os.chroot(BASE)
        if os.getuid() == 0:  # root is exempt from some limits
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        call("prctl", NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        refuse_calls()
    call("prctl", DEATH_SIGNAL, SIGKILL, 0, 0, 0)
    os.chdir("/sandbox" if isolated else spec["folder"])
    os.execve(spec["argv"][0], spec["argv"], spec["env"])  # from here on without capabilities


def memory_in_use():
    """Bytes of all processes but this one, without what files hold: those of the system are not the
    program's, and what it may write to is limited by itself.
    """
    pages = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                with open(f"/proc/{name}/statm", "rb") as file:
                    _, resident, of_files, *_ = file.read().split()
                pages += int(resident) - int(of_files)
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                pass
    return pages * resource.getpagesize()


def watch(program, spec, isolated):
    """Wait for the program's end or for the end of its time or memory: why it ended."""
    deadline, waiting = time.monotonic() + spec["seconds"], select.poll()
    waiting.register(os.pidfd_open(program), select.POLLIN)
    waiting.register(1, 0)  # hung up by run()
    while not waiting.poll(1000 * EVERY):
        if time.monotonic() > deadline:
            return "timeout"
        if isolated and memory_in_use() > spec["memory"]:
            return "memory"
    return "ended"


def give(file, data):
    with open(file, "wb") as pipe:
        pipe.write(data)


def supervise(spec, isolated=True):
    """Run the program to its end and print what became of it. Number 1 of its namespace, unless it
    is not isolated.
    """
    if isolated:
        call("prctl", DEATH_SIGNAL, SIGKILL, 0, 0, 0)
        build(spec)
    given, giver = os.pipe()
    # Each read gets what one write has put in, and whoever holds the other end can't read it.
    said, sayer = os.pipe2(os.O_DIRECT)
    output = os.memfd_create("output")
    os.write(1, b".")
    begun = time.monotonic()
    program = os.fork()
    if not program:
        try:
            become(spec, (given, output, output, sayer), isolated)
        except BaseException as error:
            os.write(2, f"the program can't be started: {error}\n".encode())
        os._exit(127)
    _thread.start_new_thread(give, (giver, spec["stdin"]))
    kind = watch(program, spec, isolated)
    if isolated:
        os.kill(-1, SIGKILL)  # all in this namespace but number 1
    else:
        try:
            os.killpg(program, SIGKILL)
        except ProcessLookupError:
            pass
    _, status, used = os.wait4(program, 0)
    code = os.waitstatus_to_exitcode(status)
    most = int(spec["seconds"]) + 1
    if kind == "ended" and code == -SIGKILL and used.ru_utime + used.ru_stime > 0.75 * most:
        kind = "timeout"  # the processor's; the kernel counts it in two ways, which differ
    os.close(sayer)
    first = os.read(said, 4096) if select.select([said], [], [], 0)[0] else b""
    marshal.dump({"kind": kind, "code": code, "seconds": time.monotonic() - begun, "said": first,
                  "output": os.pread(output, spec["output"], 0)}, sys.stdout.buffer)


# ---- the processes before it ----
def leave(spec, ready, mapped):
    """Leave the system's namespaces, and be the parent of a new one's number 1."""
    call("unshare", USER | NAMESPACES)
    call("prctl", DEATH_SIGNAL, SIGKILL, 0, 0, 0)
    os.write(ready, b".")
    if not os.read(mapped, 1):  # until the parent has written this process's user ids
        os._exit(3)
    child = os.fork()
    if not child:
        supervise(spec)
        sys.stdout.flush()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def give_ids(process):
    """Name this user, and for root also nobody, in a process's new user namespace."""
    root = os.geteuid() == 0
    for kind, own in (("uid", os.geteuid()), ("gid", os.getegid())):
        ids = f"0 0 1\n{NOBODY} {NOBODY} 1\n" if root else f"{NOBODY} {own} 1\n"
        if kind == "gid" and not root:
            with open(f"/proc/{process}/setgroups", "wb") as file:
                file.write(b"deny")
        with open(f"/proc/{process}/{kind}_map", "wb") as file:
            file.write(ids.encode())


def start():
    """Run the program that the standard input tells of: an exit code."""
    call("prctl", DEATH_SIGNAL, SIGKILL, 0, 0, 0)
    spec = marshal.load(sys.stdin.buffer)
    if spec["unsafe"]:
        supervise(spec, isolated=False)
        return 0
    (ready, is_ready), (mapped, is_mapped) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(ready)
            os.close(is_mapped)
            os._exit(leave(spec, is_ready, mapped))
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(3)
    os.close(is_ready)
    if os.read(ready, 1):
        give_ids(child)
        os.write(is_mapped, b".")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def serve():
    """For each message on the socket that is descriptor 0, call start() in a copy of this process,
    whose first three descriptors come with it; until nobody holds the other end, or the process
    that has made this one is gone. All copies end with this process.
    """
    libc.signal(SIGINT, None)  # Python has a handler; without one, number 1 gets no signals
    control, maker, waiting = socket.socket(fileno=0), os.pidfd_open(os.getppid()), select.poll()
    for file in (control, maker):
        waiting.register(file, select.POLLIN)
    while maker not in dict(waiting.poll()):
        _, files, _, _ = socket.recv_fds(control, 1, 3)
        if not files:
            return
        try:
            child = os.fork()
        except OSError as error:  # no more processes: this program's trouble, not the others'
            os.write(files[-1], f"{error}\n".encode())
            child = -1
        if not child:
            control.detach()  # descriptor 0 is another one's now
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            code = 3
            try:
                code = start()
            except BaseException as error:
                print(error, file=sys.stderr)
            sys.stdout.flush()
            os._exit(code)
        for file in files:
            os.close(file)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:  # those that have ended since
                pass
        except ChildProcessError:
            pass
