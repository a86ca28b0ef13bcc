"""Download files: complete, with the right checksum, and only once.

A transfer of gigabytes breaks sooner or later. So a file is received as PATH.part, which the next
try continues, and renamed to PATH once its size and checksum are right. Of two processes that want
the same file one waits. A server is not trusted: how much it may send, how slowly, and where it may
redirect to are bounded.
Left out: several connections at once.

Used by corpus.py and hub.py. Reads the network; writes PATH, which its caller chooses, .lock beside
it, and for a while PATH.part and PATH.part.etag. Next: hub.py.
"""

import contextlib
import errno
import http.client
import io
import os
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import file_hash, holding, track, write_safely
from folders import one_line
from housekeeping import regular

PATIENCE = 300  # seconds that a megabyte may take; a telephone line needs 200
LARGEST = 10**9  # bytes of a file whose size is not known beforehand
HOSTS = {"huggingface.co": ("hf.co",)}  # other hosts on which a host keeps its files
BUSY = "is being downloaded to"  # said of a folder to another process that has to wait
THIS_MACHINE = {"127.0.0.1", "localhost", "::1"}


class Refused(OSError):
    """An error for which trying again is useless."""


def shown(text):
    """Text from a server, shortened to one line that is safe on a terminal."""
    return one_line(" ".join(str(text).split()), 200)


# ---- where to, and how fast ----
def origin(url):
    return urlsplit(url)[:2]  # scheme, and host with port


def allowed(url, start):
    """Whether the address `start` may redirect to `url`: by https, to the same host, to a subdomain
    of it or to one of HOSTS. By http only from this machine to itself, as the tests do.
    """
    try:
        scheme, host, _ = urlsplit(url).scheme, urlsplit(url).hostname, urlsplit(url).port
    except ValueError:  # an invalid port
        return False
    home = urlsplit(start).hostname
    if urlsplit(start).scheme == "http":
        return scheme == "http" and {home, host} <= THIS_MACHINE
    return scheme == "https" and bool(home) and any(
        f".{host}".endswith(f".{name}") for name in (home, *HOSTS.get(home, ())))


class Redirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects to the source's own hosts only; the token is not sent to another host.
    """

    def http_error_302(self, request, answer, code, message, headers):
        answer.close()  # else urllib reads the rest of the answer, however long
        try:
            return super().http_error_302(request, answer, code, message, headers)
        except ValueError as error:  # an invalid address
            raise Refused(f"it redirects to an invalid address ({shown(error)})") from None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, request, *answer):
        if not allowed(answer[-1], request.origin_url):
            raise Refused(f"it leads to {shown(answer[-1])}, which is not https or not one of its "
                          "hosts; nothing is fetched from there")
        following = super().redirect_request(request, *answer)
        following.origin_url = request.origin_url
        token = request.unredirected_hdrs.get("Authorization")
        if following and token and origin(following.full_url) == origin(request.full_url):
            following.add_unredirected_header("Authorization", token)
        return following


class Paced(io.RawIOBase):
    """What a socket receives, status and headers included. Refused if a megabyte takes longer than
    PATIENCE (only waiting for the socket counts), or if more than `left` bytes come.
    """

    def __init__(self, raw):
        self.raw, self.bytes, self.waited = raw, 0, 0.0
        self.left = 1_000_000  # until connect() knows that the status is good

    def readable(self):
        return True

    def readinto(self, buffer):
        start = time.monotonic()
        n = self.raw.readinto(buffer)
        self.bytes, self.waited = self.bytes + n, self.waited + time.monotonic() - start
        self.left -= n
        if self.left < 0:
            raise Refused("the server's answer does not end where it should")
        if self.waited > PATIENCE:
            raise Refused(f"the server sent {self.bytes:,} bytes in {self.waited:.0f} s, which is "
                          "too slow; what has arrived is kept, try again later")
        if self.bytes >= 1_000_000:
            self.bytes, self.waited = 0, 0.0
        return n

    def close(self):
        self.raw.close()
        super().close()


class Response(http.client.HTTPResponse):
    def __init__(self, *how, **more):
        super().__init__(*how, **more)
        self.paced = Paced(self.fp.detach())
        self.fp = io.BufferedReader(self.paced)


class Connection(http.client.HTTPConnection):
    response_class = Response


class SecureConnection(http.client.HTTPSConnection):
    response_class = Response


class Open(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(Connection, request)


class OpenSecurely(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(SecureConnection, request)


# ---- asking, and asking again ----
def connect(url, most, token=None, headers={}, timeout=30):
    """The opened response, which may send at most about twice `most` bytes. `timeout`: seconds of
    silence after which the server counts as gone.
    """
    if not allowed(url, url):
        raise Refused("it is not an https address")
    request = urllib.request.Request(url, headers=headers)
    request.origin_url = url
    if token:  # an ordinary header would be sent to redirected hosts, too
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(Redirect, Open, OpenSecurely)
    response = opener.open(request, timeout=timeout)
    if response.status not in (200, 206):  # such as 204, No Content
        response.close()
        raise Refused(f"the server answers {response.status} {shown(response.reason)}")
    response.paced.left = 1_000_000 + 2 * most  # framing may double small chunks
    return response


def refusal(url, error, token):
    """The message for an HTTPError by which the server refuses a request."""
    reason = shown(f"{error.code} {error.reason}")  # which the server chose
    hub = re.match(r"(\w+://[^/]+)/(?:api/)?datasets/(.+?)/(?:resolve|revision|tree)/", error.url)
    if not hub or error.code not in (401, 403):
        return f"{url} can't be had: the server answers {reason}"
    host, repo = map(shown, hub.groups())
    return (f"{repo} is not open to everyone ({reason}, {'with your' if token else 'without a'} "
            f"token): accept its terms at {host}/datasets/{repo}, make a read token at "
            f"{host}/settings/tokens, and put it into the environment variable HF_TOKEN or the "
            "file ~/.cache/huggingface/token (a set that does not exist looks the same)")


def retry(attempt, url, token, tries, wait, path=None, done=lambda: 0):
    """Call attempt() until the network and the server don't fail, and return its result.

    The pauses are wait, 2 wait, 4 wait, ... seconds, or what the server asks for, up to a minute.
    OSError once `tries` calls in a row failed without done(), bytes received, growing by 64 KiB.
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
        except Refused as error:
            raise Refused(f"{url} can't be had: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise OSError(f"the disk is full, {path} does not fit: make room and start again; "
                              "what has arrived is kept") from None
            if getattr(error, "filename", None):
                raise  # about a local file, not the network
            reason = getattr(error, "reason", error)
        failed, most = (1, done()) if done() >= most + (1 << 16) else (failed + 1, most)
        if failed >= tries:
            by_hand = f", or put the file at {path}" if path else ""
            raise OSError(f"can't download {url} ({shown(reason)}); check the network and start "
                          f"again{by_hand}")
        time.sleep(min(int(asked[:9]), 60) if asked.isdecimal() else wait * 2 ** (failed - 1))


# ---- one file ----
def size_of(path):
    return path.stat().st_size if path.exists() else 0


def part_of(path):
    return path.with_name(path.name + ".part")


def etag_of(part):
    """The file that holds the server's ETag, its name for the version that `part` belongs to."""
    return part.with_name(part.name + ".etag")


def known_tag(part):
    """The server's ETag for `part`, or "". It only saves time, so an invalid one counts as none."""
    with contextlib.suppress(OSError, ValueError):
        return usable(regular(etag_of(part)).read_text(encoding="ascii"))
    return ""


def usable(tag):
    """`tag`, or "" if it is weak (bytes may differ), or has characters that no header may have."""
    return tag if re.fullmatch('(?!W/)[ -~]{,200}', tag) else ""


def forget(part):
    etag_of(part).unlink(missing_ok=True)  # first: a tag must never meet another version's bytes
    part.unlink(missing_ok=True)


def check(path, size, sha256, name, advice):
    """ValueError, about `name`, if the file's size or checksum differs (None: unknown)."""
    complaint = f"{name} is not the file that was expected"
    if size not in (None, found := size_of(path)):
        raise ValueError(f"{complaint}: {found:,} bytes, not {size:,}; {advice}")
    if sha256 and (found := file_hash(path)) != sha256:
        raise ValueError(f"{complaint}: sha256 {found[:16]}..., not {sha256[:16]}...; {advice}")


def span(response):
    """(start, total): where in the file a response begins, and the file's size; None if unsaid."""
    if response.status != 206:
        return 0, response.length
    content_range = response.headers.get("Content-Range", "")
    content_range = re.fullmatch(r"bytes (\d{1,18})-\d+/(\d{1,18})", content_range)
    return (int(content_range[1]), int(content_range[2])) if content_range else (None, None)


def receive(url, part, size, sha256, token, timeout, label):
    """One try: append to `part` what is missing of `url`; or fetch all of it anew, if the bytes in
    `part` might be of another version (RFC 9110, sections 13.1.5 and 14).

    OSError, HTTPException when the transfer breaks; ValueError if the size can't be right.
    """
    have, known = size_of(part), known_tag(part)
    if not (known or sha256):
        have = 0  # `part` could be of another version, and nothing would reveal it
    if have and have == size:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and known:
        headers["If-Range"] = known  # a server with another version sends all of that
    try:
        response = connect(url, size or LARGEST, token, headers, timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        error.close()
        whole = f"bytes */{have}"
        if error.headers.get("Content-Range", sha256 and whole) == whole:
            return  # nothing is missing, or the checksum will reveal it
        forget(part)
        raise ConnectionError("it has nothing that continues what is here") from None
    with response:
        start, total = span(response)
        tag = response.headers.get("ETag", "")
        if start not in (0, have) or start and known and tag not in ("", known):
            forget(part)
            raise ConnectionError("it sent another part than was asked for")
        check_size(url, response, total, size, sha256)
        total = size if total is None else total
        if not start:
            forget(part)
            if usable(tag):
                with contextlib.suppress(OSError):
                    write_safely(etag_of(part), tag)
        label += f", after {start / 1e6:,.0f} MB" if start else ""
        blocks = track(iter(lambda: response.read1(1 << 20), b""), label,
                       round((total - start) / 1e6) if total else None,
                       size=lambda block: len(block) / 1e6, unit=" MB")
        append(blocks, part, start, LARGEST if total is None else total)
    if total is not None and size_of(part) < total:
        raise ConnectionError(f"it broke after {size_of(part):,} of {total:,} bytes")
    if size_of(part) > (LARGEST if total is None else total):
        forget(part)
        most = f"{LARGEST:,} bytes" if total is None else f"its {total:,} bytes"
        raise ValueError(f"{url} sends more than {most}; nothing of it is kept")


def check_size(url, response, total, size, sha256):
    """ValueError unless the response's size is as expected and bounded, and its end is marked."""
    if None not in (size, total) and size != total:
        raise ValueError(f"{url} has {total:,} bytes, not {size:,} as expected; it has changed,"
                         " or something in between answers in its place (a login page?)")
    if size is None and (total or 0) > LARGEST:
        raise ValueError(f"{url} has {total:,} bytes, but at most {LARGEST:,} are accepted of a "
                         "file whose size is not known")
    if size is None and total is None and not sha256 and not response.chunked:
        raise ValueError(f"{url} does not say how long it is, so nothing would tell a part of it "
                         "from the whole")


def append(blocks, part, start, most):
    """Write blocks behind the `start` bytes of the file, until it has more than `most` bytes."""
    with open(part, "ab") as file:
        for block in blocks:
            if os.fstat(file.fileno()).st_size != start:  # where locks don't work
                raise Refused(f"another process writes to {part}; one at a time")
            file.write(block)
            file.flush()
            start += len(block)
            if start > most:
                break


def fetch(url, path, sha256=None, size=None, token=None, tries=5, wait=0.5, timeout=30, label=None):
    """Download `url` to `path`, check size and sha256 (None: unknown), and return `path`.

    A file that is there already is checked and kept; a wrong one is refused, but never touched.
    A broken transfer continues where it stopped; after `tries` failures in a row, at the next
    start. The token goes to the url's own host only. ValueError if the content is not what was
    expected, OSError if it can't be downloaded.
    """
    path = Path(path)
    if not path.exists():
        with holding(path.parent, BUSY, wait=True):
            if not path.exists():  # another process may have been faster
                fetch_part(url, path, sha256, size, token, tries, wait, timeout, label)
                return path
    check(path, size, sha256, path, "move it away to download the right one")
    return path


def fetch_part(url, path, sha256, size, token, tries, wait, timeout, label):
    part = part_of(path)
    retry(lambda: receive(url, part, size, sha256, token, timeout, label or path.name),
           url, token, tries, wait, path, lambda: size_of(part))
    try:
        check(part, size, sha256, url, "it has changed, or was damaged on its way; start again")
    except ValueError:
        forget(part)
        raise
    with open(part, "r+b") as file:
        os.fsync(file.fileno())  # before the rename, after which it counts as complete
    part.replace(path)
    forget(part)
