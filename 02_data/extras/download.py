"""Download files: complete, with the right checksum, and only once.

A transfer of gigabytes breaks sooner or later. So a file grows as PATH.part, which the next try
continues, and gets its name once its size and checksum are right.
Left out: several connections at once, and two processes that fetch the same file.

Used by corpus.py and hub.py. Reads the network; writes PATH, which its caller chooses, and for a
while PATH.part and PATH.part.etag. Next: hub.py.
"""

import errno
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

if "console" not in sys.modules:  # which is found first, and puts all folders on the path
    sys.path[1:1] = [str(folder / "01_tokenizer") for folder in Path(__file__).resolve().parents]

from console import file_hash, read_text, track, write_safely


# ---- asking, and asking again ----
def origin(url):
    return urlsplit(url)[:2]  # scheme, and host with port


class Redirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects; the token stays behind when one leads to another host."""

    def redirect_request(self, request, *answer):
        following = super().redirect_request(request, *answer)
        token = request.unredirected_hdrs.get("Authorization")
        if following and token and origin(following.full_url) == origin(request.full_url):
            following.add_unredirected_header("Authorization", token)
        return following


def connect(url, token=None, headers={}, timeout=30):
    """The opened response. `timeout`: seconds of silence after which the server counts as gone."""
    request = urllib.request.Request(url, headers=headers)
    if token:  # urllib hands on other headers to whatever host it is sent to
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return urllib.request.build_opener(Redirect).open(request, timeout=timeout)


def refusal(url, error, token):
    """What to tell a user whom the server turned away with an HTTPError."""
    said = f"{error.code} {error.reason}"
    hub = re.match(r"(\w+://[^/]+)/(?:api/)?datasets/(.+?)/(?:resolve|revision|tree)/", error.url)
    if not hub or error.code not in (401, 403):
        return f"{url} can't be had: the server answers {said}"
    host, repo = hub.groups()
    return (f"{repo} is not open to everyone ({said}, {'with your' if token else 'without a'} "
            f"token): accept its terms at {host}/datasets/{repo}, make a read token at "
            f"{host}/settings/tokens, and put it into the environment variable HF_TOKEN or the "
            "file ~/.cache/huggingface/token (a set that does not exist looks the same)")


def insist(attempt, url, token, tries, wait, path=None, done=lambda: 0):
    """What attempt() returns; it is called again while the network or the server fails.

    The pauses are wait, 2 wait, 4 wait, ... seconds, or what the server asks for, up to a minute.
    OSError once `tries` calls in a row failed without done(), a number of bytes, growing.
    """
    failed, most = 0, done()
    while True:
        asked = ""
        try:
            return attempt()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in (408, 429):
                raise OSError(" ".join(refusal(url, error, token).split())) from None
            reason = f"the server answers {error.code} {error.reason}"
            asked = error.headers.get("Retry-After", "")
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(f"the disk is full, {path} does not fit: make room and start again; "
                              "what has arrived is kept") from None
            if getattr(error, "filename", None):
                raise  # a file's name: the trouble is here
            reason = getattr(error, "reason", error)
        failed, most = (1, done()) if done() > most else (failed + 1, most)
        if failed >= tries:
            by_hand = f", or put the file at {path}" if path else ""
            raise OSError(f"can't download {url} ({reason}); check the network and start "
                          f"again{by_hand}")
        time.sleep(min(int(asked), 60) if asked.isdecimal() else wait * 2 ** (failed - 1))


# ---- one file ----
def size_of(path):
    return path.stat().st_size if path.exists() else 0


def part_of(path):
    return path.with_name(path.name + ".part")


def etag_of(part):
    """The file that holds the server's ETag, its name for the version that `part` belongs to."""
    return part.with_name(part.name + ".etag")


def forget(part):
    etag_of(part).unlink(missing_ok=True)  # first: a tag must never meet another version's bytes
    part.unlink(missing_ok=True)


def check(path, size, sha256, name, advice):
    """ValueError, about `name`, if size or checksum (None: unknown) of the file are others."""
    complaint = f"{name} is not the file that was expected"
    if size not in (None, found := size_of(path)):
        raise ValueError(f"{complaint}: {found:,} bytes, not {size:,}; {advice}")
    if sha256 and (found := file_hash(path)) != sha256:
        raise ValueError(f"{complaint}: sha256 {found[:16]}..., not {sha256[:16]}...; {advice}")


def span(response):
    """(start, total): where in the file a response begins, and the file's size; None if unsaid."""
    if response.status != 206:
        return 0, response.length
    said = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    return (int(said[1]), int(said[2])) if said else (None, None)


def receive(url, part, size, sha256, token, timeout, label):
    """One try: add to `part` what is missing of `url`, or all of it, if what is there can't be
    trusted to be of the same version (RFC 9110, sections 13.1.5 and 14).

    OSError, HTTPException when the transfer breaks; ValueError if the size can't be right.
    """
    have, known = size_of(part), read_text(etag_of(part)) if etag_of(part).exists() else ""
    if not (known or sha256):
        have = 0  # it could be the start of another version, and nothing would tell
    if have and have == size:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and known:
        headers["If-Range"] = known  # a server with another version sends all of that
    try:
        response = connect(url, token, headers, timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        whole = f"bytes */{have}"
        if error.headers.get("Content-Range", sha256 and whole) == whole:
            return  # nothing is missing; unless it says so, the checksum will tell
        forget(part)
        raise ConnectionError("it has nothing that continues what is here") from None
    with response:
        start, total = span(response)
        tag = response.headers.get("ETag", "")
        if start not in (0, have) or start and known and tag not in ("", known):
            forget(part)
            raise ConnectionError("it sent another part than was asked for")
        if None not in (size, total) and size != total:
            raise ValueError(f"{url} has {total:,} bytes, not {size:,} as expected; it has changed,"
                             " or something in between answers in its place (a login page?)")
        total = size if total is None else total
        if not start:
            forget(part)
            if tag and not tag.startswith("W/"):  # a weak one allows for other bytes
                write_safely(etag_of(part), tag)
        label += f", after {start / 1e6:,.0f} MB" if start else ""
        with open(part, "ab") as file:
            for block in track(iter(lambda: response.read1(1 << 20), b""), label,
                               round((total - start) / 1e6) if total else None,
                               size=lambda block: len(block) / 1e6, unit=" MB"):
                file.write(block)
                if total is not None and file.tell() > total:
                    break
    if total is not None and size_of(part) < total:
        raise ConnectionError(f"it broke after {size_of(part):,} of {total:,} bytes")
    if total is not None and size_of(part) > total:
        forget(part)
        raise ValueError(f"{url} sends more than its {total:,} bytes; nothing of it is kept")


def fetch(url, path, sha256=None, size=None, token=None, tries=5, wait=0.5, timeout=30, label=None):
    """`path`, once it holds what `url` does, as far as size and sha256 (None: unknown) can tell.

    A file that is there already is checked and kept; a wrong one is refused, but never touched.
    A broken transfer goes on where it stopped, now or at the next start, after `tries` failures in
    a row. The token goes to the url's own host only. ValueError if the content is not what was
    expected, OSError if it can't be had.
    """
    path = Path(path)
    if path.exists():
        check(path, size, sha256, path, "move it away to download the right one")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    insist(lambda: receive(url, part, size, sha256, token, timeout, label or path.name),
           url, token, tries, wait, path, lambda: size_of(part))
    try:
        check(part, size, sha256, url, "it has changed, or was damaged on its way; start again")
    except ValueError:
        forget(part)
        raise
    with open(part, "r+b") as file:
        os.fsync(file.fileno())  # before it gets the name that vouches for its content
    part.replace(path)
    forget(part)
    return path
