"""Which files of a folder are its documents: one rule for all sources that read folders.

A folder of a person's own holds more than texts: pictures, hidden files, links, pipes. What can't
be a document is left out, and a line says how many files that were and which few; with strict=1
behind the source's name it is refused instead. Symbolic links are not followed, since they may lead
to what nobody meant to show to a model; with links=1 they are, and every file is read once.

Used by corpus.py; data.find_files() takes the same files. Next: corpus.py.
"""

import functools
import os
import sys
from collections import deque
from pathlib import Path

if "console" not in sys.modules:  # which is found first, and puts all folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import escaped, read_text, track

from data import LARGEST
from housekeeping import MADE

MEGABYTES = f"{LARGEST / 1e6:.0f} MB"


def one_line(text, most=300):
    """Text that a file holds, or a file's name, as a line that is safe to print."""
    text = escaped(str(text)).replace("\n", "\\n")
    return text if len(text) <= most else text[:most] + "..."


def is_own(folder):
    """Whether a folder holds what this course has made: a run, prepared data, downloads."""
    return any((folder / name).exists() for name in MADE)


def holds_something(file):
    """Whether a file is not empty, or of a format that has a beginning and an end, so that the one
    who reads it has to say that it was cut off.
    """
    return file.stat().st_size > 0 or file.suffix in (".gz", ".zst", ".parquet")


def list_files(top, endings=("",), hidden=(".",), links=False):
    """(files, left_out) of the folder `top`, two sorted lists of paths. files: regular, not empty,
    and with one of `endings`. left_out: links to what isn't read anyhow, folders that can't be
    opened, and those that is_own() knows. What has a part of its path below `top` that begins with
    one of `hidden` is in neither.
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
            elif path.is_dir():  # own names first: where a link leads may have been seen then
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
    """Why a file can't be a document, in a few words; None if it can. A file is read once, until it
    changes.
    """
    try:
        found = file.stat()
        return objection_of(file, found.st_size, found.st_mtime_ns)
    except OSError:
        return "not readable"


@functools.cache
def objection_of(file, size, changed):
    """objection() to a file of this size that was changed then."""
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
    """A line about what a source leaves out: how many files, why, and which few."""
    groups = {}
    for path, why in objections.items():
        groups.setdefault(why, []).append(str(path.relative_to(top)))
    said = "; ".join(f"{len(names):,} {why} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"
                     for why, names in groups.items())
    return one_line(f"{name}: files left out: {said}", 600)


def texts(files, left_out=()):
    """(found, objections): those of `files` that can be documents; and, for the others and for
    what list_files() has left out, {path: why}.
    """
    objections = {path: objection(path) for path in track(files, "looking into files")}
    found = [path for path, why in objections.items() if not why]
    for path in left_out:
        objections[path] = ("linked from elsewhere, read with links=1" if path.is_symlink() else
                            "not readable" if not os.access(path, os.R_OK | os.X_OK) else
                            "made by this course")
    return found, {path: why for path, why in objections.items() if why}
