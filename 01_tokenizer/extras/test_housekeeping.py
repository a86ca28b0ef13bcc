"""Tests of housekeeping.py, and of console.py: locks, progress, and when a process stops."""

import fcntl
import io
import os
import pty
import shutil
import signal
import struct
import termios
import time

import pytest

from console import StopSignal, holding
from housekeeping import Output, Progress, cells, duration, fit, pace, track


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
        while not waiting.log.exists() or "waits for it" not in waiting.log.read_text():
            time.sleep(0.001)
        assert f"run is held by process {os.getpid()} on" in waiting.log.read_text()
        shutil.rmtree(folder)
    waiting.join()
    assert waiting.exitcode == 0
    assert (folder / ".lock").exists(), "a folder that was deleted is made, and held, once more"


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def refuse(file, how):
        raise OSError(37, "No locks available")
    monkeypatch.setattr(fcntl, "lockf", refuse)
    with holding(tmp_path / "run", "is being trained"):
        assert "can't be locked (No locks available)" in capsys.readouterr().err


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


def test_after_its_release_a_signal_acts_as_ever():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked == signal.SIGTERM
            stop.release()
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        with StopSignal() as stop:
            assert not stop.asked, "another one begins anew"
    finally:
        signal.signal(signal.SIGTERM, before)


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


@pytest.mark.parametrize("text, shown", [
    ("漢字かな", "漢字"), ("a\nb\x1b[2J", r"a\nb"), ("e\u0301" * 9, "e\u0301" * 5),
    ("\tab", r"\tab")])
def test_progress_is_one_line_of_any_text(text, shown):
    """Wide letters take two columns, and what a file holds is spelled out."""
    assert fit(text, 5)[:len(shown)] == shown and cells(fit(text, 5)) <= 5


def test_progress_asks_its_own_terminal(monkeypatch):
    """And not that of the standard output; one that doesn't know its size has 80 columns."""
    here, there = pty.openpty()
    with open(there, "w", closefd=True) as stream:
        monkeypatch.delenv("COLUMNS", raising=False)
        for size, columns in ((30, 30), (0, 80), (20, 20), (500, 80)):
            fcntl.ioctl(stream, termios.TIOCSWINSZ, struct.pack("HHHH", 24, size, 0, 0))
            assert Progress(stream=stream).columns() == columns
    os.close(here)


def test_what_others_print_takes_the_place_of_the_line():
    terminal = Terminal()
    output = Output(terminal, "standard output")
    with Progress(patience=0, stream=output) as progress:
        progress.show("one of two")
        print("a file \x1b[31mis\x1b[0m\tred\x1b[2J\x07\r", file=output)
    assert terminal.getvalue() == ("\rone of two\x1b[K\r\x1b[Ka file \x1b[31mis\x1b[0m\tred"
                                   "\\x1b[2J\\x07\\r\n")
    pipe = io.StringIO()
    print("\x1b[2J", end="", file=Output(pipe, "standard output"))
    assert pipe.getvalue() == "\x1b[2J", "a file gets what was written"


def test_pace():
    assert [pace(*what) for what in ((30, 2, " MB"), (3, 2, ""), (1, 3, " batches"), (1, 4, " MB"),
                                     (0, 3, ""))] == [
        "15 MB/s", "1.5/s", "3.0 s each", "4.0 s/MB", "0.0/s"]


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
