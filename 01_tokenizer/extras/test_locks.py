"""Tests of locks.py: who may work in a folder, and when a process stops."""

import fcntl
import os
import shutil
import signal
import time

import pytest

from console import StopSignal, holding


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
