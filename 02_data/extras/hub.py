"""Data sets on the Hugging Face Hub: listed once, fetched whole.

A data set is a repository of files. They are listed at one commit, so that they fit together. The
listing is kept, so that every start sees the same files without the network. The Hub knows the
checksums of large files, which are checked after the download.
Left out: the Hub's other ways to serve a data set (converted, row by row).

Used by corpus.py. Reads the Hub's public API (huggingface.co/docs/hub/api), writes files and
listings where its caller says. Next: corpus.py.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import holding, read_text, write_safely
from download import BUSY, check, connect, fetch, retry, origin, part_of, shown, size_of

HUB = "https://huggingface.co"
MOST_PAGES, MOST_LISTED = 50, 20_000_000  # limits of a listing: pages of 1,000 files, and bytes


class HubFile(NamedTuple):
    path: str  # within the set
    size: int
    sha256: str | None  # known of the large files, those in Git LFS
    url: str


def hub_token():
    """The user's access token for the Hub, from where Hugging Face's tools keep it, or None.
    ValueError if it can't be a token.
    """
    token = os.environ.get("HF_TOKEN", "").split()
    if not token:
        home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
        path = Path(os.environ.get("HF_TOKEN_PATH") or home / "token").expanduser()
        token = read_text(path).split() if path.exists() else []
    token = "".join(token)  # with a line break in it, an error would print it
    if not re.fullmatch(r"[!-~]*", token):
        raise ValueError("the access token for the Hub has characters that no token has: see the "
                         "environment variable HF_TOKEN and the file ~/.cache/huggingface/token")
    return token or None


def ask(url, token, most=MOST_LISTED):
    """(an answer of the Hub's API, the address of its next page or None, the answer's size in
    bytes). ValueError if it is no JSON, or larger than `most` bytes. OSError if there is no answer.
    """
    def attempt():
        with connect(url, most, token) as response:
            data = response.read(most + 1)
            if len(data) <= most and response.length:
                raise ConnectionError("it broke off")
            return data, response.headers.get("Link", "")

    data, link = retry(attempt, url, token, tries=5, wait=0.5)
    if len(data) > most:
        raise ValueError(f"more than {most:,} bytes, which no listing has")
    following = re.search(r'<([!-=?-~]*)>;\s*rel="next"', link)
    try:
        page = urljoin(url, following[1]) if following else None
        if page and (page == url or origin(page) != origin(url)):
            raise ValueError(f"it says that it goes on at {shown(page)}, which can't be")
        return json.loads(data), page, len(data)
    except RecursionError:
        raise ValueError("it is nested thousands of levels deep") from None


def checked(listing):
    """A listing, {"commit": sha, "files": [[path, size, sha256 or None], ...]}, with its files
    sorted. ValueError if it is invalid: it comes from the network or from a file.
    """
    def good(path, size, sha256):
        parts = path.split("/")
        return (path.isprintable() and len(path) < 1000  # so it has no half of a surrogate pair
                and not {"", ".", ".."} & set(parts) and "\\" not in path
                and type(size) is int and 0 <= size < 1 << 60
                and (sha256 is None or re.fullmatch("[0-9a-f]{64}", sha256)))

    try:
        if not re.fullmatch("[0-9a-f]{40}", listing["commit"]):
            raise ValueError(f"it has commit {shown(listing['commit'])!r}")
        for file in listing["files"]:
            if not good(*file):
                raise ValueError(f"it has a file {shown(file[0])!r}, whose path, size or checksum "
                                 "is invalid")
    except (LookupError, TypeError, AttributeError):
        raise ValueError("a field is missing, or has the wrong type") from None
    return listing | {"files": sorted(listing["files"], key=lambda file: file[0])}


def list_files(api, folder, revision, token):
    """{"commit": what `revision` stands for now, "files": [[path, size, sha256 or None], ...]}."""
    left = MOST_LISTED
    try:
        commit = ask(f"{api}/revision/{quote(revision, safe='')}", token)[0]["sha"]
        checked({"commit": commit, "files": []})
        entries, page = [], f"{api}/tree/{commit}/{quote(folder)}?recursive=true"
        for _ in range(MOST_PAGES):
            more, page, n_bytes = ask(page, token, left)
            left -= n_bytes
            entries += more
            if not page:
                break
        else:
            raise ValueError(f"it does not end after {MOST_PAGES} pages")
        files = [[entry["path"], entry["size"], (entry.get("lfs") or {}).get("oid")]
                 for entry in entries if entry["type"] == "file"]
        return checked({"commit": commit, "files": files})
    except (LookupError, TypeError, AttributeError):
        raise ValueError(f"{api} does not answer as the Hub does (a login page?)") from None
    except ValueError as error:
        raise ValueError(f"{api} does not answer as the Hub does (a login page?): "
                         f"{shown(error)}") from None


def hub_files(repo, folder, revision="main", host=HUB, *, cache, token=None):
    """The HubFiles below `folder` of the data set `repo` ("owner/name"), sorted by path.

    They are listed once, at the commit that `revision` then stands for, and the listing is kept in
    the file `cache`: until that is deleted, later calls need no network and see the same files.
    OSError if the listing can't be fetched, ValueError if it is invalid or empty.
    """
    cache, what = Path(cache), {"repo": repo, "folder": folder, "revision": revision}
    if not cache.exists():
        with holding(cache.parent, BUSY, wait=True):
            if not cache.exists():  # another process may have been faster
                found = list_files(f"{host}/api/datasets/{repo}", folder, revision, token)
                if not found["files"]:
                    raise ValueError(f"{host}/datasets/{repo} has no files below {folder!r}")
                write_safely(cache, json.dumps(what | found, indent=1))
    try:
        listing = checked(json.loads(read_text(cache)))
        mistaken = not what.items() <= listing.items()
    except (ValueError, RecursionError):
        mistaken = True
    if mistaken:
        raise ValueError(f"{cache} is not a listing of {folder!r} in {repo} ({revision}); "
                         "delete it, and it is made anew")
    where = f"{host}/datasets/{repo}/resolve/{listing['commit']}/"  # not kept: a token goes there
    return [HubFile(path, size, sha256, where + quote(path))
            for path, size, sha256 in listing["files"]]


def fetch_all(files, folder, token=None):
    """The paths of these HubFiles below `folder`, once all of them are there.

    Call it before the work that needs the files begins. Checksums are compared once, after the
    download; later only sizes, as hashing takes minutes. Before anything is fetched: ValueError if
    a path leaves the folder or holds a file of another size, OSError if the disk is too small.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    todo, needed = [], 0
    for file in files:
        path = folder / file.path
        if Path(file.path).is_absolute() or ".." in Path(file.path).parts:
            raise ValueError(f"{file.path!r} would be outside {folder}; it is not fetched")
        if path.exists():
            check(path, file.size, None, path, "move it away to download the right one")
        else:
            todo.append(file)
            needed += max(0, file.size - size_of(part_of(path)))
    if needed > (free := shutil.disk_usage(folder).free):
        raise OSError(f"{len(todo)} files for {folder} need {needed:,} bytes, and its disk has "
                      f"{free:,} free; make room or choose another disk")
    for i, file in enumerate(todo, 1):
        fetch(file.url, folder / file.path, file.sha256, file.size, token,
              label=f"{i} of {len(todo)}, {file.path}")
    return [folder / file.path for file in files]
