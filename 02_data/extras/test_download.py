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
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=taken.append))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    return taken


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
    assert list(path.parent.iterdir()) == [path], "nothing else is left behind"


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
    assert list(tmp_path.iterdir()) == []


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
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


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
    assert list(tmp_path.iterdir()) == [], "nothing false is kept"


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
    until = time.monotonic() + 10
    while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    child.send_signal(how)
    child.wait()
    have = part.stat().st_size
    assert have and not (tmp_path / "file").exists(), "half a file must not have the file's name"
    assert fetch(server.url, tmp_path / "file").read_bytes() == BODY
    assert server.seen == [None, f"bytes={have}-"], "the next start goes on"


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
