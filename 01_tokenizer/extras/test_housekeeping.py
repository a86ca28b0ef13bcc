"""Tests of housekeeping.py, and of console.py: locks, progress, and when a process stops."""

import fcntl
import io
import os
import shutil
import signal
import time

import pytest

from console import Parser, StopSignal, holding
from housekeeping import Progress, check_writable, duration, nearest, track


def test_what_is_near():
    assert nearest("tinny", []) == "" and nearest(None, ["a"]) == "there are 'a'; "
    assert nearest("tinny", ["tiny", "b"]) == "did you mean 'tiny'? there are 'b', 'tiny'; "
    many = nearest("x", [f"run {i}" for i in range(99)])
    assert many.count("run") == 20 and many.endswith(", ...; ")


def test_a_choice_that_is_not_there_gets_the_nearest():
    parser = Parser()
    parser.add_argument("--preset", "--like", choices=("tiny", "nano"))
    command = parser.add_subparsers(dest="command").add_parser("train")
    command.add_argument("--engine", choices=("ddp", "zero1"))
    for words, meant in ((["--preset", "tinny"], "tiny"), (["--like", "nan"], "nano"),
                         (["tran"], "train"), (["train", "--engine", "dpd"], "ddp")):
        with pytest.raises(ValueError, match=f"invalid choice: .*did you mean {meant}"):
            parser.parse_args(words)
    with pytest.raises(ValueError) as error:
        parser.parse_args(["--preset", "xyz"])
    assert "did you mean" not in str(error.value)


def test_where_nothing_can_be_written(tmp_path, monkeypatch):
    """It is said before anything is made."""
    check_writable(tmp_path)
    check_writable(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name in ("file", "file/runs", "link", "link/runs"):
        with pytest.raises(NotADirectoryError, match="is no folder, so that nothing can be kept"):
            check_writable(tmp_path / name)
    monkeypatch.setattr(os, "access", lambda path, how: path != tmp_path)
    with pytest.raises(PermissionError, match=f"no right to write into {tmp_path}$"):
        check_writable(tmp_path / "runs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


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
