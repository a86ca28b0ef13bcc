"""Tests of corpus.py: the split, folders, and downloads from a server that misbehaves."""

import hashlib
import http.server
import threading

import pytest

from corpus import FEW, cut_tail, download, find_source, is_validation, main

BODY = bytes(range(256)) * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()


def test_is_validation():
    for text in ("", "a", "naïve", "document 7"):
        share = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64
        assert is_validation(text, share + 1e-9), "below share * 2^64 is validation"
        assert not is_validation(text, share - 1e-9)
    found = sum(is_validation(f"document {i}") for i in range(20_000)) / 20_000
    assert abs(found - 0.05) < 0.01, f"5% by default, not {found:.1%}"


def test_cut_tail():
    assert cut_tail("0123456789") == ("012345678", "9")
    assert cut_tail("0123456789", 0.25) == ("0123456", "789"), "int() rounds the cut down"
    assert cut_tail("") == ("", "")


def make_folder(path, n, text="document {}\n"):
    path.mkdir()
    for i in range(n):
        (path / f"{i:04}.txt").write_text(text.format(i))
    return f"folder:{path}"


def test_few_documents_are_split_by_their_tails(tmp_path):
    source = find_source(make_folder(tmp_path / "few", 2, "0123456789"))
    assert list(source.parts()) == [("train", "012345678"), ("val", "9")] * 2


def test_many_documents_are_split_by_their_hashes(tmp_path):
    name = make_folder(tmp_path / "many", FEW)
    before = dict((text, part) for part, text in find_source(name).parts())
    assert set(before.values()) == {"train", "val"}
    (tmp_path / "many" / "0000a.txt").write_text("another one")
    after = dict((text, part) for part, text in find_source(name).parts())
    assert after.items() > before.items(), "a new document must not move the others"


def test_fingerprint_follows_the_files(tmp_path):
    name = make_folder(tmp_path / "f", 3)
    before = find_source(name).fingerprint
    assert find_source(name).fingerprint == before
    (tmp_path / "f" / "0001.txt").write_text("changed")
    assert find_source(name).fingerprint != before


def test_python_source():
    texts = list(find_source("python").documents())
    assert len(texts) >= FEW and any("class Counter(dict)" in text for text in texts)
    assert not any("class TestCase_Counter" in text for text in texts)


def test_folders_that_hold_no_text(tmp_path, fails):
    assert "does not exist" in fails(main, f"folder:{tmp_path / 'none'}")
    (tmp_path / ".hidden").write_text("x")
    assert "holds no text" in fails(main, f"folder:{tmp_path}")
    (tmp_path / "empty").touch()
    assert "holds no text" in fails(main, f"folder:{tmp_path}")
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    assert "latin1 is not UTF-8" in fails(main, f"folder:{tmp_path}")
    (tmp_path / "latin1").write_bytes(b"\x7fELF\0\0")
    assert "latin1 is a binary file" in fails(main, f"folder:{tmp_path}")
    assert "there is no source 'wikipedia'" in fails(main, "wikipedia")


def test_command_line(tmp_path, capsys):
    main([])
    assert "folder:PATH" in capsys.readouterr().out
    main([make_folder(tmp_path / "f", 3)])
    assert "begins:\n\ndocument" in capsys.readouterr().out


@pytest.fixture
def server():
    """A server on 127.0.0.1; `server.plan` says what it does to each request in turn."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            what = self.server.plan.pop(0) if self.server.plan else "all"
            asked = self.headers.get("Range")
            self.server.seen.append(asked)
            if isinstance(what, int):
                return self.send_error(what)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if start and start >= len(BODY):
                return self.send_error(416)
            body = b"x" * len(BODY) if what == "corrupt" else BODY
            ranged = asked and what != "no ranges"
            self.send_response(206 if ranged else 200)
            rest = body[start:] if ranged else body
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[:100_000] if what == "drop" else rest)

        def log_message(self, *words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.plan, server.seen = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/file"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_download(server, tmp_path):
    path = tmp_path / "cache" / "file"
    assert download(server.url, path, DIGEST).read_bytes() == BODY
    download(server.url, path, DIGEST)
    assert len(server.seen) == 1, "what is there is not fetched again"
    assert list(path.parent.iterdir()) == [path]


def test_download_goes_on_where_it_broke(server, tmp_path):
    server.plan = ["drop", "drop", "all"]
    assert download(server.url, tmp_path / "file", DIGEST, wait=0).read_bytes() == BODY
    assert server.seen == [None, "bytes=100000-", "bytes=200000-"]


def test_download_from_a_server_without_ranges(server, tmp_path):
    (tmp_path / "file.part").write_bytes(b"an older try")
    server.plan = ["no ranges"]
    assert download(server.url, tmp_path / "file", DIGEST).read_bytes() == BODY


def test_download_that_was_complete(server, tmp_path):
    (tmp_path / "file.part").write_bytes(BODY)
    assert download(server.url, tmp_path / "file", DIGEST).read_bytes() == BODY
    assert server.seen == [f"bytes={len(BODY)}-"]


def test_a_file_put_there_by_hand_is_checked(tmp_path):
    (tmp_path / "file").write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not the file that was expected"):
        download("http://127.0.0.1:9/", tmp_path / "file", DIGEST)
    assert (tmp_path / "file").exists(), "it is the user's, and stays"


def test_download_refuses_other_content(server, tmp_path):
    server.plan = ["corrupt"]
    with pytest.raises(ValueError, match="sha256"):
        download(server.url, tmp_path / "file", DIGEST)
    assert list(tmp_path.iterdir()) == [], "nothing false is kept"


@pytest.mark.parametrize("plan, tries", [([404], 1), ([503, 429, 500], 3)])
def test_download_answered_with_an_error(server, tmp_path, plan, tries):
    server.plan = list(plan)
    with pytest.raises(OSError, match=str(plan[-1])):
        download(server.url, tmp_path / "file", DIGEST, tries=3, wait=0)
    assert len(server.seen) == tries


def test_download_without_a_network(tmp_path):
    with pytest.raises(OSError, match="connect to the network, or put the file at"):
        download("http://127.0.0.1:9/file", tmp_path / "file", DIGEST, tries=2, wait=0)
