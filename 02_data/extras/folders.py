"""Which files of a folder are its documents: one rule for all sources that read folders.

A user's folder holds more than texts: pictures, hidden files, links, pipes. Files that can't be
documents are left out, and a line counts them and names a few; with strict=1 behind the source's
name they are an error instead. Symbolic links are not followed, since they may lead to files that
nobody meant to show to a model; with links=1 they are, and every file is read once.

Used by corpus.py; data.find_files() takes the same files. Next: corpus.py.
"""

import functools
import os
import sys
from collections import deque
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import escaped, read_text, track

from data import LARGEST
from housekeeping import MADE

MEGABYTES = f"{LARGEST / 1e6:.0f} MB"


def one_line(text, most=300):
    """Text from a file, or a file's name, as one line that is safe to print."""
    text = escaped(str(text)).replace("\n", "\\n")
    return text if len(text) <= most else text[:most] + "..."


def is_own(folder):
    """Whether this course has made a folder: a run, prepared data, downloads."""
    return any((folder / name).exists() for name in MADE)


def holds_something(file):
    """Whether a file is to be read: it is not empty, or of a format in which an empty file is
    damaged, which its reader will report.
    """
    return file.stat().st_size > 0 or file.suffix in (".gz", ".zst", ".parquet")


def list_files(top, endings=("",), hidden=(".",), links=False):
    """(files, left_out) of the folder `top`, two sorted lists of paths. files: regular, not empty,
    and with one of `endings`. left_out: links to files that are not in `files` by themselves,
    folders that can't be opened, and folders for which is_own() is true. A path of which a part
    below `top` begins with one of `hidden` is in neither.
    links: follow links, and read each file and folder once, by its own name if that is below `top`.
    """
    files, pointing, left_out = [], [], []
    folders, seen = deque([Path(top)]), set()
    while folders:
        folder = folders.popleft()
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(p for p in folder.iterdir() if not p.name.startswith(hidden))
        except PermissionError:
            left_out.append(folder)
            continue
        if folder != Path(top) and is_own(folder):
            left_out.append(folder)
            continue
        for path in entries:
            if path.is_symlink() and not links:
                pointing.append(path)
            elif path.is_dir():  # folders before links, which may lead to one seen already
                folders.append(path) if path.is_symlink() else folders.appendleft(path)
            elif path.name.endswith(endings) and path.is_file() and holds_something(path):
                files.append((path.is_symlink(), path))
    once = {os.path.realpath(path): path for _, path in sorted(files, reverse=True)}
    for path in pointing:
        real = os.path.realpath(path)
        relevant = os.path.isdir(real) or path.name.endswith(endings)
        left_out += [path] * (relevant and real not in once and real not in seen)
    return sorted(once.values()), sorted(left_out)


def objection(file):
    """Why a file can't be a document, in a few words; None if it can. The result is cached until
    the file changes.
    """
    try:
        found = file.stat()
        return objection_of(file, found.st_size, found.st_mtime_ns)
    except OSError:
        return "not readable"


@functools.cache
def objection_of(file, size, changed):
    """objection() to a file of this size, last changed at this time."""
    try:
        if size > LARGEST:
            return f"larger than {MEGABYTES}"
        read_text(file)
    except OSError:
        return "not readable"
    except ValueError as error:
        return ("only a Git LFS pointer, see git lfs pull" if "Git LFS" in str(error) else
                "not UTF-8 text")


def told(name, top, objections):
    """A line about the files that a source leaves out: how many, why, and a few names."""
    groups = {}
    for path, why in objections.items():
        groups.setdefault(why, []).append(str(path.relative_to(top)))
    summary = "; ".join(f"{len(names):,} {why} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
                     for why, names in groups.items())
    return one_line(f"{name}: files left out: {summary}", 600)


def texts(files, left_out=()):
    """(found, objections): those of `files` that can be documents; and {path: why} for the others
    and for `left_out`, from list_files().
    """
    objections = {path: objection(path) for path in track(files, "looking into files")}
    found = [path for path, why in objections.items() if not why]
    for path in left_out:
        objections[path] = ("linked from elsewhere, read with links=1" if path.is_symlink() else
                            "not readable" if not os.access(path, os.R_OK | os.X_OK) else
                            "made by this course")
    return found, {path: why for path, why in objections.items() if why}
