"""A folder for one process at a time: what console.holding() does.

Reads and writes .lock in that folder. Next: 02_data/data.py.
"""

import contextlib
import os
import platform
import shutil
import sys
import time
from pathlib import Path


def lock(file, folder, what, wait):
    """Lock the open file folder/.lock. The lock ends with this process, however that ends."""
    try:
        import fcntl
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        busy = f"{folder} {what} by {file.read() or 'another process'}"
        if not wait:
            raise ValueError(f"{busy}; one at a time") from None
        print(f"{busy}; this one waits for it", file=sys.stderr)
        fcntl.lockf(file, fcntl.LOCK_EX)
    except (OSError, ImportError) as error:  # on a file system without locks, or on Windows
        why = getattr(error, "strerror", error)
        print(f"{folder} can't be locked ({why}): see that it {what} by this process only",
              file=sys.stderr)


@contextlib.contextmanager
def held(folder, what, wait=False):
    """A context in which this process alone works in `folder`, which is made.

    While another process works there: ValueError, which says `what` is done there and by whom, or
    with `wait` a line that says so. What a process that was killed left half written is deleted:
    folders called .NAME.tmp, and files of that kind that nobody has touched for a minute.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+") as file:
        lock(file, folder, what, wait)
        if os.fstat(file.fileno()).st_nlink == 0:  # the folder was deleted in the meantime
            with held(folder, what, wait):
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
