"""Tests of housekeeping.py, and of console.py: locks, progress, and when a process stops."""

import fcntl
import io
import os
import platform
import shutil
import signal
import sys
import time

import pytest

import console
from console import StopSignal, holding
from housekeeping import Progress, duration, track


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path, fork, capsys):
    folder = tmp_path / "run"

    def hold(seconds):
        with holding(folder, "is being trained"):
            (folder / ".half.tmp").mkdir()
            (folder / ".half.tmp" / "file").touch()
            (folder / ".config.json.1.tmp").touch()
            os.utime(folder / ".config.json.1.tmp", (0, 0))
            (folder / ".new.json.1.tmp").touch()
            time.sleep(seconds)

    holder = fork(lambda: hold(60))
    while not (folder / ".new.json.1.tmp").exists():
        time.sleep(0.001)
    with pytest.raises(ValueError, match=f"run is being trained by process {holder.pid} on .*"):
        with holding(folder, "is being trained"):
            pass
    holder.kill()
    holder.join()
    with holding(folder, "is being trained"):
        assert sorted(p.name for p in folder.iterdir()) == [".lock", ".new.json.1.tmp"], (
            "the half-written is cleared away, but what another may be writing")
        waiting = fork(lambda: holding(folder, "is held", wait=True).__enter__())
        while not waiting.log.exists() or b"waits for it" not in waiting.log.read_bytes():
            time.sleep(0.001)
        assert f"run is held by process {os.getpid()} on" in waiting.log.read_text(encoding="utf-8")
        shutil.rmtree(folder)
    waiting.join()
    assert waiting.exitcode == 0
    assert (folder / ".lock").exists(), "a folder that was deleted is made, and held, once more"


def refuse(file, how):
    raise OSError(37, "No locks available")


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with holding(tmp_path / "run", "is being trained"):
        assert "can't be locked (No locks available)" in capsys.readouterr().err


@pytest.mark.parametrize("before, locks", [("process 7 on elsewhere", True), ("", True),
                                           (f"process 7 on {platform.node()}", False)])
def test_what_another_computer_may_be_writing_stays(tmp_path, monkeypatch, before, locks):
    """A lock may not reach other computers: a folder that was touched within the hour stays."""
    if not locks:
        monkeypatch.setattr(fcntl, "lockf", refuse)
    for name, age in ((".new.a.tmp", 600), (".old.b.tmp", 4000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
        for path in (tmp_path / name / "file", tmp_path / name):
            os.utime(path, (0, time.time() - age))
    (tmp_path / ".lock").write_text(before, encoding="utf-8")
    with holding(tmp_path, "is being trained"):
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", ".new.a.tmp"]


@pytest.mark.parametrize("encoding, shown", [("ascii", b"na\\xefve \\u6f22 \\udcff"),
                                             ("latin-1", b"na\xefve \\u6f22 \\udcff"),
                                             ("utf-8", "naïve 漢 \\udcff".encode())])
def test_text_that_a_terminal_can_not_show(monkeypatch, encoding, shown):
    """Also half a surrogate pair, which stands for a byte in the name of a file."""
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, name, stream)
        console.run(lambda: print("naïve 漢 \udcff", file=stream, end=""))
        stream.flush()
        assert stream.buffer.getvalue() == shown


def test_stop_signal():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignal() as stop:
            assert not stop.asked
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.asked
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_duration():
    assert [duration(s) for s in (0, 9.4, 59.6, 754, 10800, 432000)] == [
        "0:00", "0:09", "1:00", "12:34", "3:00:00", "5 days"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_cut_to_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    terminal = Terminal()
    with Progress(patience=0, stream=terminal) as progress:
        progress.show("123456789 " * 3)
    assert terminal.getvalue() == "\r123456789 123456789\x1b[K\n"


def test_progress():
    quiet, pipe, terminal = io.StringIO(), io.StringIO(), Terminal()
    with Progress(stream=quiet) as progress:
        progress.show("too early")
    assert quiet.getvalue() == "", "quick work stays quiet"
    for stream in (pipe, terminal):
        with Progress(patience=0, stream=stream) as progress:
            progress.show(lambda: "one")
            progress.show("too soon after the other")
    assert pipe.getvalue() == "one\n", "plain lines in a pipe"
    assert terminal.getvalue() == "\rone\x1b[K\n", "one line that redraws on a terminal"


def test_track(capsys):
    assert list(track(iter("abc"), "letters")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
