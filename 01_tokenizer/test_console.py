"""Tests of console.py: what every command relies on."""

import dataclasses
import io
import os
import signal
import subprocess
import sys

import pytest

import bpe
import console
from console import (Parser, Progress, StopSignal, add_options, duration, option, run, track,
                     write_safely)


@pytest.mark.parametrize("error, code", [(ValueError("no"), 2), (OSError("no"), 2),
                                         (KeyboardInterrupt(), 130)])
def test_run_ends_with_a_code(error, code, capsys):
    def main():
        raise error
    with pytest.raises(SystemExit) as stop:
        run(main)
    assert stop.value.code == code
    assert capsys.readouterr().err == ("error: no\n" if code == 2 else "")


def test_run_lets_mistakes_of_ours_through():
    def main():
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        run(main)


def test_a_reader_that_has_enough(tmp_path):
    """`bpe.py show ... | head` ends without a word about the pipe."""
    bpe.Tokenizer([]).save(tmp_path / "t")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, bpe.__file__, "encode", "--tokenizer", "t", "-"],
                          input="word " * 100_000, text=True, stdout=write,
                          stderr=subprocess.PIPE, cwd=tmp_path)
    os.close(write)
    assert done.returncode == 141 and done.stderr == ""


def test_options_come_from_the_fields():
    @dataclasses.dataclass
    class Options:
        n_layer: int = option(3, "blocks")
        fast: bool = option(False, "hurry")
        device: str = option("cpu", "where", ("cpu", "cuda"))
    parser = Parser()
    add_options(parser, Options)
    assert vars(parser.parse_args([])) == {}, "only what was given, so that presets can differ"
    given = vars(parser.parse_args(["--n-layer", "5", "--fast"]))
    assert Options(**given) == Options(5, True, "cpu")
    assert "blocks (default: 3)" in parser.format_help()
    for wrong in (["--n-layer", "x"], ["--device", "tpu"], ["--unknown"]):
        with pytest.raises(ValueError, match="--help"):
            parser.parse_args(wrong)


def test_duration():
    assert [duration(s) for s in (0, 9.4, 59.6, 754, 10800)] == ["0:00", "0:09", "1:00", "12:34",
                                                                 "3:00:00"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


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


def test_write_safely(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_safely(path, "naïve")
    assert path.read_text(encoding="utf-8") == "naïve"

    def power_cut(*arguments):
        raise OSError("no space left")
    monkeypatch.setattr(console.os, "fsync", power_cut)
    with pytest.raises(OSError):
        write_safely(path, b"half")
    assert path.read_text(encoding="utf-8") == "naïve", "the old stays until the new is safe"
    assert list(tmp_path.iterdir()) == [path]


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
