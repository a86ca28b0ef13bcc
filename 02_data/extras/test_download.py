"""Tests of download.py, against servers on this machine that misbehave in every way we know of."""

import errno
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

import download
from download import fetch

BODY = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()
OTHER = BODY[::-1]


class Handler(http.server.BaseHTTPRequestHandler):
    """Does to each request in turn what server.plan says; "all" is what a good server does."""

    def do_GET(self):
        server, what = self.server, self.server.plan.pop(0) if self.server.plan else "all"
        server.seen.append(self.headers.get("Range"))
        server.requests.append((self.path, self.headers))
        if callable(what):
            what = what(self)
        if what is None:  # it has answered
            return None
        if isinstance(what, int):
            return self.answer(what, server.extra)
        if server.pages:
            body, headers = server.pages[self.path]
            return self.answer(200, headers, body)
        body, tag = {"changed": (OTHER, '"v2"'), "corrupt": (OTHER, server.tag)}.get(
            what, (BODY, server.tag))
        asked = int(self.headers["Range"][6:-1]) if "Range" in self.headers else 0
        if self.headers.get("If-Range", tag) != tag and what != "glue" or what == "no ranges":
            asked = 0
        if asked >= len(body):
            told = {} if what == "silent" else {"Content-Range": f"bytes */{len(body)}"}
            return self.answer(416, told)
        rest, headers = body[asked:], {"ETag": '"v3"' if what == "glue" else tag} if tag else {}
        if asked:
            start = asked + (what == "elsewhere")
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        length = len(rest) + {"too long": 1000, "too short": -1000}.get(what, 0)
        if what == "endless":
            return self.pour(body)
        self.answer(206 if asked else 200, headers, rest[:100_000] if what in ("drop", "stall")
                    else rest, length)
        if what == "stall":
            server.done.wait(10)

    def answer(self, code, headers={}, body=b"", length=None):
        self.send_response(code)
        if length is not None or not headers.get("Connection"):
            self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def pour(self, body):
        """Far more than anyone asked for, without saying how much it will be."""
        self.answer(200, {"Connection": "close"}, body)
        try:
            for self.server.poured in range(1, 101):
                self.wfile.write(body)
        except ConnectionError:
            pass  # the client has had enough

    def log_message(self, *words):
        pass


@pytest.fixture
def start_server():
    servers = []

    def start():
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.plan, server.seen, server.requests, server.extra = [], [], [], {}
        server.pages, server.tag, server.done = {}, '"v1"', threading.Event()
        server.poured = 0
        server.host = f"http://127.0.0.1:{server.server_port}"
        server.url = server.host + "/file"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.done.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(start_server):
    return start_server()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """How long was waited between tries; nobody really waits, and no proxy is asked."""
    taken = []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=taken.append,
                                                          monotonic=time.monotonic))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    return taken


def left_in(folder):
    return [path for path in folder.iterdir() if path.name != ".lock"]


def line_of(error):
    """The complaint, which has to be one line."""
    text = str(error.value)
    assert text and "\n" not in text
    return text


# ---- one file ----
def test_fetch(server, tmp_path):
    path = tmp_path / "cache" / "file"
    assert fetch(server.url, path, DIGEST, len(BODY)) == path and path.read_bytes() == BODY
    fetch(server.url, path, DIGEST)
    fetch(server.url, path)
    assert server.seen == [None], "what is there is not fetched again"
    assert left_in(path.parent) == [path], "nothing else is left behind"


def test_a_file_put_there_by_hand_is_checked(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"something else")
    for how, said in (({"sha256": DIGEST}, f"not {DIGEST[:16]}..."),
                      ({"size": 15}, "14 bytes, not 15; move it away")):
        with pytest.raises(ValueError, match="is not the file that was expected") as error:
            fetch("http://127.0.0.1:9/", path, **how)
        assert said in line_of(error)
    assert path.read_bytes() == b"something else", "it is the user's, and stays"


def test_it_goes_on_where_it_broke(server, tmp_path, pauses):
    server.plan = ["drop", "drop", "all"]
    assert fetch(server.url, tmp_path / "file", DIGEST, tries=2).read_bytes() == BODY
    assert server.seen == [None, "bytes=100000-", "bytes=200000-"]
    assert [headers["If-Range"] for _, headers in server.requests] == [None, '"v1"', '"v1"']
    assert pauses == [0.5, 0.5], "a try that brought something is not held against the next"


def test_pauses_grow(server, tmp_path, pauses):
    server.plan = [500, 502, 503, 504, 408]
    with pytest.raises(OSError, match="the server answers 408") as error:
        fetch(server.url, tmp_path / "file")
    assert "can't download" in line_of(error) and f"put the file at {tmp_path}" in line_of(error)
    assert pauses == [0.5, 1, 2, 4], "5 tries, with 4 pauses in between"
    server.plan = [500]
    assert fetch(server.url, tmp_path / "file", wait=0).read_bytes() == BODY


@pytest.mark.parametrize("asked, pause", [("7", 7), ("100000", 60), ("soon", 0.5)])
def test_the_server_says_when(server, tmp_path, pauses, asked, pause):
    server.plan, server.extra = [429], {"Retry-After": asked}
    assert fetch(server.url, tmp_path / "file").read_bytes() == BODY
    assert pauses == [pause]


@pytest.mark.parametrize("code", [401, 403, 404, 416])
def test_some_answers_are_final(server, tmp_path, code):
    server.plan = [code]
    with pytest.raises(OSError, match=f"the server answers {code}") as error:
        fetch(server.url, tmp_path / "file")
    assert server.url in line_of(error) and len(server.seen) == 1
    assert left_in(tmp_path) == []


def test_a_server_without_ranges(server, tmp_path):
    server.plan = ["drop", "no ranges"]
    assert fetch(server.url, tmp_path / "file", DIGEST).read_bytes() == BODY
    assert server.seen == [None, "bytes=100000-"]


def test_a_server_that_answers_another_range(server, tmp_path):
    server.plan = ["drop", "elsewhere"]
    assert fetch(server.url, tmp_path / "file").read_bytes() == BODY
    assert server.seen == [None, "bytes=100000-", None], "started again"


@pytest.mark.parametrize("answer", ["changed", "glue"])
def test_two_versions_are_not_glued_together(server, tmp_path, answer):
    """Whether the server honours If-Range, or goes on with another version's bytes."""
    server.plan = ["drop", answer]
    expected = OTHER if answer == "changed" else BODY
    assert fetch(server.url, tmp_path / "file").read_bytes() == expected
    assert len(server.seen) == (2 if answer == "changed" else 3)


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_tag_only_a_checksum_allows_to_go_on(server, tmp_path, tag):
    server.plan, server.tag = ["drop", "all", "drop", "all"], tag
    assert fetch(server.url, tmp_path / "a", size=len(BODY)).read_bytes() == BODY
    assert server.seen == [None, None], "nothing tells whether it is the same version"
    assert fetch(server.url, tmp_path / "b", DIGEST).read_bytes() == BODY
    assert server.seen[2:] == [None, "bytes=100000-"]


def test_it_was_complete(server, tmp_path):
    part = tmp_path / "file.part"
    for plan in ("all", "silent"):  # a 416 with and without the size
        part.write_bytes(BODY)
        server.plan = [plan]
        fetch(server.url, tmp_path / "file", DIGEST).unlink()
    assert server.seen == [f"bytes={len(BODY)}-"] * 2
    part.write_bytes(BODY)
    fetch(server.url, tmp_path / "file", DIGEST, len(BODY)).unlink()
    assert len(server.seen) == 2, "with the size known there is nothing to ask"
    part.write_bytes(BODY + b"more")
    assert fetch(server.url, tmp_path / "file", DIGEST).read_bytes() == BODY
    assert server.seen[2:] == [f"bytes={len(BODY) + 4}-", None], "too long: started again"


def test_a_length_that_is_not_the_files(server, tmp_path):
    server.plan = ["too long", "all"]
    assert fetch(server.url, tmp_path / "a").read_bytes() == BODY
    for answer, said in (("too long", "has 257,000 bytes, not 256,000"),
                         ("too short", "has 255,000 bytes, not 256,000"),
                         ("endless", "sends more than its 256,000 bytes")):
        server.plan = [answer]
        with pytest.raises(ValueError, match=said) as error:
            fetch(server.url, tmp_path / "b", size=len(BODY))
        assert server.url in line_of(error)
    assert server.poured < 100, "nobody has to listen to the end"
    server.plan = ["too short"]
    with pytest.raises(ValueError, match="sha256"):
        fetch(server.url, tmp_path / "b", DIGEST)
    assert left_in(tmp_path) == [tmp_path / "a"]


def test_a_login_page_does_not_cost_what_is_there(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY[:-5])
    server.pages = {"/file": (b"<html>Welcome to the station", {})}
    with pytest.raises(ValueError, match=r"has 28 bytes, not 256,000 .*\(a login page\?\)"):
        fetch(server.url, tmp_path / "file", DIGEST, len(BODY))
    assert (tmp_path / "file.part").read_bytes() == BODY[:-5]


def test_other_content_is_refused(server, tmp_path):
    server.plan = ["corrupt"]
    with pytest.raises(ValueError, match="damaged on its way") as error:
        fetch(server.url, tmp_path / "file", DIGEST, len(BODY))
    other = hashlib.sha256(OTHER).hexdigest()
    assert f"sha256 {other[:16]}..., not {DIGEST[:16]}..." in line_of(error)
    assert left_in(tmp_path) == [], "nothing false is kept"


def test_a_server_that_falls_silent(server, tmp_path):
    server.plan = ["stall"]
    assert fetch(server.url, tmp_path / "file", timeout=0.1).read_bytes() == BODY
    assert server.seen == [None, "bytes=100000-"]


def test_no_network(tmp_path, pauses):
    path = tmp_path / "file"
    with pytest.raises(OSError, match="refused.*check the network and start again, or") as error:
        fetch("http://127.0.0.1:9/file", path, tries=3)
    assert str(path) in line_of(error) and pauses == [0.5, 1]


def test_trouble_with_the_disk(server, tmp_path, monkeypatch, pauses):
    class Full:
        def __init__(self, path, mode):
            self.file = open(path, mode)
            self.fileno = self.file.fileno

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def write(self, block):
            self.file.write(block[:10])
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "open", Full, raising=False)
        with pytest.raises(OSError, match="the disk is full, .*file does not fit") as error:
            fetch(server.url, tmp_path / "file")
    assert line_of(error) and pauses == [] and len(server.seen) == 1, "asking again does not help"
    assert fetch(server.url, tmp_path / "file").read_bytes() == BODY
    assert server.seen == [None, "bytes=10-"]
    (tmp_path / "other.part").mkdir()
    with pytest.raises(OSError, match="other.part"):
        fetch(server.url, tmp_path / "other")
    assert pauses == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_killed_in_the_middle(server, tmp_path, how):
    server.plan = ["stall"]
    code = ("import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from download import fetch; fetch(*sys.argv[1:])")
    part = tmp_path / "file.part"
    child = subprocess.Popen([sys.executable, "-c", code, server.url, tmp_path / "file"],
                             env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                             stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    child.send_signal(how)
    child.wait()
    have = part.stat().st_size
    assert have and not (tmp_path / "file").exists(), "half a file must not have the file's name"
    assert fetch(server.url, tmp_path / "file").read_bytes() == BODY
    assert server.seen == [None, f"bytes={have}-"], "the next start goes on"


# ---- a server that means harm ----
@pytest.mark.parametrize("start, url, good", [
    ("https://huggingface.co/a", "https://huggingface.co/b", True),
    ("https://huggingface.co/a", "https://cas-bridge.xethub.hf.co/b", True),
    ("https://huggingface.co/a", "https://cdn-lfs.huggingface.co/b", True),
    ("https://huggingface.co/a", "https://huggingface.co.evil.org/b", False),
    ("https://huggingface.co/a", "https://evilhf.co/b", False),
    ("https://huggingface.co/a", "https://hf.co@evil.org/b", False),
    ("https://huggingface.co/a", "http://huggingface.co/b", False),
    ("https://huggingface.co/a", "https://127.0.0.1/b", False),
    ("https://raw.githubusercontent.com/a", "https://hf.co/b", False),
    ("http://127.0.0.1:1/a", "http://localhost:2/b", True),
    ("http://127.0.0.1:1/a", "http://127.0.0.1:99999/b", False),
    ("http://127.0.0.1:1/a", "https://huggingface.co/b", False),
    ("http://huggingface.co/a", "http://huggingface.co/a", False),
    ("ftp://huggingface.co/a", "ftp://huggingface.co/a", False),
    ("file:///etc/passwd", "file:///etc/passwd", False), ("https:///a", "https:///a", False)])
def test_where_an_address_may_lead(start, url, good):
    assert download.allowed(url, start) == good


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/x", "file:///etc/passwd", "https://127.0.0.1/x",
                                   "http://example.org/", "http://[", "http://127.0.0.1:99999/",
                                   "data:,x", "http://example.org/\x1b[2J" + "x" * 2000])
def test_a_redirect_to_elsewhere(server, tmp_path, where):
    server.plan = [lambda handler: redirect(handler, where)]
    with pytest.raises(OSError, match="leads to|redirects to an invalid|not allowed") as error:
        fetch(server.url, tmp_path / "file")
    line = line_of(error)
    assert server.url in line and line.isprintable() and len(line) < 500
    assert len(server.seen) == 1 and left_in(tmp_path) == []


def test_what_is_no_https_is_not_asked(tmp_path):
    for url in ("ftp://127.0.0.1/x", "file:///etc/passwd", "http://example.org/x"):
        with pytest.raises(OSError, match="not an https address") as error:
            fetch(url, tmp_path / "file")
        assert url in line_of(error)


def test_endless_redirects(server, tmp_path):
    server.plan = [lambda handler: redirect(handler, f"{server.url}?{len(server.seen)}")] * 99
    with pytest.raises(OSError, match="infinite loop") as error:
        fetch(server.url, tmp_path / "file")
    assert line_of(error) and len(server.seen) < 20


def raw(*pieces, pause=0):
    """A plan's step: send the first piece, then the others in turn, for as long as the client
    listens, at most a thousand times.
    """
    def answer(handler):
        try:
            handler.wfile.write(pieces[0])
            for handler.server.poured in range(1000):
                time.sleep(pause)
                handler.wfile.write(pieces[1 + handler.server.poured % (len(pieces) - 1)])
        except ConnectionError:
            pass
        handler.close_connection = True
    return answer


OK = b"HTTP/1.1 200 OK\r\n"
CHUNK = b"2710\r\n" + b"x" * 10_000 + b"\r\n"


@pytest.mark.parametrize("what, pieces, said", [
    ("headers", (OK, b"a: " + b"x" * 60_000 + b"\r\n"), "got more than 100 headers|does not end"),
    ("interim answers", (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000,) * 2, "does not end where it"),
    ("the end of chunks", (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 9999),
     "does not end where it should"),
    ("a body", (OK + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK), "sends more than 1,000,000 b"),
    ("a body without end", (OK + b"\r\n", CHUNK), "does not say how long it is"),
    ("a length", (OK + b"Content-Length: 1000000000000\r\n\r\n", CHUNK), "1,000,000,000,000 bytes"),
    ("what a redirect says", (b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\n\r\n", CHUNK), "leads"),
    ("an error", (b"HTTP/1.1 404 \x1b[2J\x07" + b"x" * 9999 + b"\r\n\r\n", CHUNK), r"404 \\x1b\[2"),
    ("a status", (b"HTTP/1.1 204 No Content\r\n\r\n", CHUNK), "204 No Content"),
])
def test_endless(server, tmp_path, monkeypatch, what, pieces, said):
    monkeypatch.setattr(download, "LARGEST", 1_000_000)
    server.plan = [raw(*pieces)] * 9
    with pytest.raises((OSError, ValueError), match=said) as error:
        fetch(server.url, tmp_path / "file", tries=2)
    line = line_of(error)
    assert server.url in line and line.isprintable() and len(line) < 500
    assert server.poured < 999, "nobody has to listen to the end"
    assert not any(path.stat().st_size for path in left_in(tmp_path)), "nothing of it is kept"


@pytest.mark.parametrize("first", [b"", OK + b"Content-Length: 99999\r\n\r\n"])
def test_two_bytes_a_second(server, tmp_path, monkeypatch, first):
    """In the headers, or in what comes after them: there is an end to patience."""
    monkeypatch.setattr(download, "PATIENCE", 0.1)
    server.plan = [raw(first, b"a", pause=0.01)]
    with pytest.raises(OSError, match="bytes in . s, which is too slow; what has") as error:
        fetch(server.url, tmp_path / "file")
    assert server.url in line_of(error) and len(server.seen) == 1
    assert bool(left_in(tmp_path)) == bool(first), "what has arrived is kept"


def test_a_few_bytes_at_every_try(server, tmp_path):
    """Each try goes on where the last one broke, but so little is no progress."""
    def drip(handler):
        start = int((handler.headers["Range"] or "bytes=0-")[6:-1])
        handler.answer(206, {"ETag": '"v"', "Content-Range": f"bytes {start}-99999/100000"},
                       b"xy", 100_000 - start)
        handler.close_connection = True
    server.plan = [drip] * 50
    with pytest.raises(OSError, match="it broke after 8 of 100,000 bytes"):
        fetch(server.url, tmp_path / "file", tries=4)
    assert server.seen == [None, "bytes=2-", "bytes=4-", "bytes=6-"]


@pytest.mark.parametrize("tag", [b"\xff\xfe", b'"v1"\r\nX: y', b"[" * 9999, b""])
def test_a_damaged_tag_is_no_tag(server, tmp_path, tag):
    (tmp_path / "file.part").write_bytes(b"other" * 10)
    (tmp_path / "file.part.etag").write_bytes(tag)
    assert fetch(server.url, tmp_path / "file").read_bytes() == BODY
    assert server.seen == [None]


def test_numbers_of_any_length(server, tmp_path, pauses):
    server.plan, server.extra = [429], {"Retry-After": "9" * 5000}
    fetch(server.url, tmp_path / "file", DIGEST).unlink()
    assert pauses == [60]
    (tmp_path / "file.part").write_bytes(BODY[:9])
    server.plan = [raw(OK.replace(b"200", b"206") + b"Content-Range: bytes 9-9/" + b"9" * 5000
                       + b"\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n", b"x")]
    assert fetch(server.url, tmp_path / "file", DIGEST).read_bytes() == BODY


# ---- two processes ----
def test_two_processes_want_the_same_file(server, tmp_path, fork):
    def until_the_other_waits(handler):
        until = time.monotonic() + 60
        while not any(b"waits for it" in log.read_bytes() for log in tmp_path.glob("log-*")):
            assert time.monotonic() < until
            time.sleep(0.01)
        return "all"

    server.plan = [until_the_other_waits]
    for process in [fork(lambda: fetch(server.url, tmp_path / "file")) for _ in range(2)]:
        process.join()
        assert process.exitcode == 0, process.log.read_text(encoding="utf-8")
    assert (tmp_path / "file").read_bytes() == BODY and server.seen == [None], "fetched once"


def test_where_locks_do_not_work(server, tmp_path, monkeypatch, capsys):
    """Another process that writes to the same .part is noticed, before it can do harm."""
    def no_lock(*how):
        raise OSError(errno.ENOLCK, "No locks available")

    def another(handler):
        (tmp_path / "file.part").write_bytes(BODY[:1000])
        return "all"

    monkeypatch.setattr("fcntl.lockf", no_lock)
    server.plan = ["all", another]
    assert fetch(server.url, tmp_path / "file").read_bytes() == BODY
    assert "can't be locked (No locks available)" in capsys.readouterr().err
    (tmp_path / "file").unlink()
    server.plan = [lambda handler: raw_then(handler, tmp_path / "file.part")]
    with pytest.raises(OSError, match="another process writes to .*file.part; one at a time"):
        fetch(server.url, tmp_path / "file")


def raw_then(handler, part):
    """Send half of a file; then something else is written to `part`; then send the rest."""
    handler.answer(200, {}, BODY[:1000], len(BODY))
    until = time.monotonic() + 60
    while not part.exists() or part.stat().st_size < 1000:
        assert time.monotonic() < until
        time.sleep(0.001)
    with open(part, "ab") as file:
        file.write(b"something else")
    handler.wfile.write(BODY[1000:])


# ---- the Hub ----
def test_the_token_stays_with_its_host(server, start_server, tmp_path):
    other = start_server()
    moved = server.host + "/moved"
    server.plan = [lambda handler: redirect(handler, moved),
                   lambda handler: redirect(handler, other.url)]
    fetch(server.url, tmp_path / "file", DIGEST, token="hf_secret")
    tokens = [headers["Authorization"] for _, headers in server.requests]
    assert tokens == ["Bearer hf_secret"] * 2, "it goes along as long as the host is the same"
    (path, headers), = other.requests
    assert "hf_secret" not in str(headers), "another host must never see it"


def redirect(handler, url):
    handler.server.extra = {"Location": url}
    return 302
