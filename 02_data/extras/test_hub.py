"""Tests of hub.py, against a Hub on this machine."""

import json
from types import SimpleNamespace

import pytest

import hub
from hub import HubFile, fetch_all, hub_files, hub_token
from test_download import (  # noqa: F401
    BODY, DIGEST, OTHER, left_in, line_of, pauses, server, start_server)


def test_hub_token(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub_token() is None
    home = tmp_path / ".cache" / "huggingface"
    home.mkdir(parents=True)
    (home / "token").write_text("hf_home\n", encoding="utf-8")
    assert hub_token() == "hf_home"
    (tmp_path / "token").write_text(" hf_moved\r\n", encoding="utf-8")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert hub_token() == "hf_moved"
    (tmp_path / "secret").write_text("hf_path", encoding="utf-8")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "secret"))
    assert hub_token() == "hf_path"
    monkeypatch.setenv("HF_TOKEN", " \n")
    assert hub_token() == "hf_path", "an empty variable is none"
    monkeypatch.setenv("HF_TOKEN", "hf_\nenv\n")
    assert hub_token() == "hf_env"


def make_hub(server):
    """A data set in two pages, with LFS files, a small file, and folders; returns the listing."""
    sha = "c0ffee" * 6 + "1234"
    api = "/api/datasets/some/set"
    first = [{"type": "directory", "path": "data/go", "size": 0, "oid": "1"},
             {"type": "file", "path": "data/go/b 2.bin", "size": len(BODY), "oid": "2",
              "lfs": {"oid": DIGEST, "size": len(BODY), "pointerSize": 134}}]
    second = [{"type": "file", "path": "data/go/a.txt", "size": 3, "oid": "3"}]
    tree = f"{api}/tree/{sha}/data/go?recursive=true"
    link = f'<{server.host}{tree}&cursor=x>; rel="next"'
    files = f"/datasets/some/set/resolve/{sha}/data/go/"
    server.pages = {f"{api}/revision/main": (json.dumps({"sha": sha}).encode(), {}),
                    tree: (json.dumps(first).encode(), {"Link": link}),
                    tree + "&cursor=x": (json.dumps(second).encode(), {}),
                    files + "a.txt": (b"abc", {}), files + "b%202.bin": (BODY, {})}
    return [HubFile("data/go/a.txt", 3, None, f"{server.host}{files}a.txt"),
            HubFile("data/go/b 2.bin", len(BODY), DIGEST, f"{server.host}{files}b%202.bin")]


def test_hub_files(server, tmp_path):
    cache = tmp_path / "new" / "files.json"
    expected = make_hub(server)
    server.plan = [500]
    listed = hub_files("some/set", "data/go", host=server.host, cache=cache, token="hf_secret")
    assert listed == expected, "both pages, sorted, at the commit"
    assert all(h["Authorization"] == "Bearer hf_secret" for _, h in server.requests)
    assert "hf_secret" not in cache.read_text(encoding="utf-8")
    server.shutdown()
    server.server_close()
    again = hub_files("some/set", "data/go", host=server.host, cache=cache)
    assert again == listed, "a second start needs no network"
    with pytest.raises(ValueError, match="is not a listing of 'data/c' in some/set .main.; delete"):
        hub_files("some/set", "data/c", host=server.host, cache=cache)
    cache.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a listing"):
        hub_files("some/set", "data/go", host=server.host, cache=cache)


def test_what_is_no_listing(server, tmp_path):
    def listing():
        return hub_files("some/set", "data/go", host=server.host, cache=tmp_path / "files.json")
    make_hub(server)
    tree = next(path for path in server.pages if path.endswith("recursive=true"))
    for link in (f"<http://127.0.0.1:9{tree}&cursor=x>", f"<{tree}>"):
        server.pages[tree] = (b"[]", {"Link": f'{link}; rel="next"'})
        with pytest.raises(ValueError, match="goes on at"):
            listing()
    for nonsense in (b"<html>please log in", b"{}", b'[{"type": "file"}]', b"\xff", b'["x"]', b"7",
                     b"[" * 10**5, b'"\\ud800"', b"[" + b"9" * 5000 + b"]", b'[{"type": []}]'):
        server.pages[tree] = (nonsense, {})
        with pytest.raises(ValueError, match="data/go'|does not answer as the Hub does") as error:
            listing()
        assert line_of(error)
    server.pages[tree] = (b"[]", {})
    with pytest.raises(ValueError, match="has no files below 'data/go'"):
        listing()
    assert left_in(tmp_path) == [], "only a good listing is kept"


@pytest.mark.parametrize("wrong", [
    {"path": path} for path in ("../x", "/etc/x", "a//b", "a/./b", "a\\b", "\x1b[2J", "a\0",
                                "\ud800", "", "x" * 1000, None, 7, ["a"])] + [
    {"size": size} for size in (-1, 1.5, float("nan"), float("inf"), True, None, "3", 10**30)] + [
    {"lfs": {"oid": oid}} for oid in ("c0ffee", "x" * 64, 7)] + [{"lfs": "x"}, {"lfs": [1]}])
def test_a_listing_with_a_wrong_entry(server, tmp_path, wrong):
    """Refused in one line, from the network and from the file where a listing is kept."""
    make_hub(server)
    cache, listing = tmp_path / "files.json", [{"type": "file", "path": "a.txt", "size": 3} | wrong]
    for tree in (path for path in server.pages if "recursive=true" in path):
        server.pages[tree] = (json.dumps(listing).encode(), {})
    with pytest.raises(ValueError, match="does not answer as the Hub does") as error:
        hub_files("some/set", "data/go", host=server.host, cache=cache)
    line = line_of(error)
    assert line.isprintable() and len(line) < 500 and not cache.exists()
    if "lfs" not in wrong:
        entry = {"path": "a.txt", "size": 3} | wrong
        cache.write_text(json.dumps({
            "repo": "some/set", "folder": "data/go", "revision": "main", "commit": "c0ffee12" * 5,
            "files": [[entry["path"], entry["size"], None]]}), encoding="utf-8")
        with pytest.raises(ValueError, match="files.json is not a listing") as error:
            hub_files("some/set", "data/go", host=server.host, cache=cache)
        assert line_of(error)


@pytest.mark.parametrize("commit", ["main", "../../x", "c0ffee12" * 5 + "\n", 7, None])
def test_a_commit_that_is_none(server, tmp_path, commit):
    make_hub(server)
    server.pages["/api/datasets/some/set/revision/main"] = (
        json.dumps({"sha": commit}).encode(), {})
    with pytest.raises(ValueError, match="does not answer as the Hub does") as error:
        hub_files("some/set", "data/go", host=server.host, cache=tmp_path / "files.json")
    assert line_of(error).isprintable() and len(server.seen) == 1


def test_an_endless_listing(server, tmp_path, monkeypatch):
    """Page after page, or a page without end."""
    def listing():
        return hub_files("some/set", "data/go", host=server.host, cache=tmp_path / "files.json")

    class Pages(dict):
        def __missing__(self, path):
            link = f'<{server.host}/tree/{len(server.seen)}>; rel="next"'
            return b'[{"type": "file", "path": "a", "size": 3}]', {"Link": link}

    revision = "/api/datasets/some/set/revision/main"
    make_hub(server)
    server.pages = Pages({revision: server.pages[revision]})
    monkeypatch.setattr(hub, "MOST_PAGES", 7)
    with pytest.raises(ValueError, match="does not end after 7 pages"):
        listing()
    assert len(server.seen) == 1 + 7
    monkeypatch.setattr(hub, "MOST_LISTED", 100)
    with pytest.raises(ValueError, match="more than 16 bytes, which no listing has"):
        listing()


def test_a_token_that_is_none(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_\u201csecret\u201d")
    with pytest.raises(ValueError, match="characters that no token has") as error:
        hub_token()
    assert "secret" not in line_of(error)


@pytest.mark.parametrize("token, said", [(None, "without a token"),
                                         ("hf_secret", "with your token")])
def test_a_gated_set(server, tmp_path, token, said):
    files = make_hub(server)
    for code, attempt in (
            (401, lambda: hub_files("some/set", "data/go", host=server.host, token=token,
                                    cache=tmp_path / "files.json")),
            (403, lambda: fetch_all(files, tmp_path, token))):
        server.plan = [code]
        with pytest.raises(OSError, match=said) as error:
            attempt()
        line = line_of(error)
        assert f"accept its terms at {server.host}/datasets/some/set, " in line
        assert f"make a read token at {server.host}/settings/tokens" in line and "HF_TOKEN" in line
        assert "hf_secret" not in line, "a token is never shown"


def test_fetch_all(server, tmp_path):
    files = make_hub(server)
    paths = fetch_all(files, tmp_path / "set", token="hf_secret")
    assert [path.read_bytes() for path in paths] == [b"abc", BODY]
    assert paths[0] == tmp_path / "set" / "data" / "go" / "a.txt"
    assert len(server.seen) == 2
    paths[1].write_bytes(OTHER)
    assert fetch_all(files, tmp_path / "set") == paths and len(server.seen) == 2, (
        "what is there with the right size is not asked for, and not hashed at every start")
    paths[0].unlink()
    paths[1].write_bytes(b"half")
    with pytest.raises(ValueError, match="4 bytes, not 256,000; move it away"):
        fetch_all(files, tmp_path / "set")
    assert len(server.seen) == 2, "known before anything is fetched"


def test_fetch_all_stays_in_its_folder(server, tmp_path):
    for path in ("../x", "a/../../x", str(tmp_path / "x")):
        with pytest.raises(ValueError, match="would be outside"):
            fetch_all([HubFile(path, 3, None, server.url)], tmp_path / "set")
    assert server.seen == []


def test_fetch_all_needs_room(server, tmp_path, monkeypatch):
    files = make_hub(server)
    free = SimpleNamespace(free=len(BODY) + 2)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda path: free)
    with pytest.raises(OSError, match="2 files .* need 256,003 bytes, .* 256,002 free") as error:
        fetch_all(files, tmp_path)
    assert line_of(error) and server.seen == []
    (tmp_path / "data" / "go").mkdir(parents=True)
    (tmp_path / "data" / "go" / "a.txt.part").write_bytes(b"a")
    assert len(fetch_all(files, tmp_path)) == 2, "what has arrived takes no room again"
