"""pytest reads this first: where the stages are, in which order to test them, what tests share."""

import importlib.util
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[0].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages
sys.path.append(str(Path(__file__).resolve().parent / "tests"))

import console  # noqa: E402


READING_ORDER = ["corpus", "records", "download", "hub", "chats", "duplicates", "filters",
                 "clean", "fim", "streams", "yardsticks", "shards", "batches", "packing", "gpt",
                 "decode", "family", "ngrams", "budget", "heads", "huggingface", "weights",
                 "optim", "presets", "length", "engine", "validation", "train", "runs", "metrics",
                 "watch", "report", "page", "timing", "curves", "ladder", "good_go",
                 "sample", "writer", "lookup", "quant", "figures"]


def pytest_collection_modifyitems(items):
    """What is built on comes first: stages in turn, files as they are read, else alphabetically."""
    places = {f"test_{name}": i for i, name in enumerate(READING_ORDER)}
    items.sort(key=lambda item: (item.path.parent.name, places.get(item.path.stem, -1)))


def pytest_make_parametrize_id(val, argname):
    return f"{argname}={val}" if isinstance(val, (int, str)) else None


@pytest.fixture
def fails(capsys):
    """fails(main, *arguments): the one line with which that command ends, after exit code 2."""
    def check(main, *arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            console.run(lambda: main([str(a) for a in arguments]))
        lines = capsys.readouterr().err.strip().splitlines()
        assert stop.value.code == 2, f"exit code {stop.value.code}, expected 2"
        assert len(lines) == 1 and lines[0].startswith("error: "), f"not one line: {lines}"
        return lines[0]
    return check


@pytest.fixture
def command():
    """command("train", ...) runs that stage's file as a user would; yours, if mine/ is in front."""
    def start(name, *arguments, code=0, launcher=(), env={}, **how):
        script = importlib.util.find_spec(name).origin
        path = os.pathsep.join(os.path.abspath(p) for p in
                               os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)
        done = subprocess.run([sys.executable, *launcher, script, *map(str, arguments)],
                              capture_output=True, text=True, timeout=300,
                              env={**os.environ, "PYTHONFAULTHANDLER": "1",
                                   "PYTHONPATH": path, **env}, **how)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done
    return start


@pytest.fixture(scope="session")
def random_text():
    """random_text(rng, n): n characters of what tokenizers trip over: all of Unicode, runs of
    spaces, controls, newlines. With assigned=True only characters that Python knows, for
    comparisons with programs that may know another version of Unicode.
    """
    kinds = ["abcDEF'sTll ", " \t\n\r\u00a0\u2003\x1c", "0123456789²٣", "\0\x1b\x7f.,;!?/_=:",
             "éüñßøÅǅʰまé\u0301ſ"]

    def any_character(rng, assigned):
        while True:
            c = chr(rng.choice([rng.randrange(0x20, 0xD800), rng.randrange(0xE000, 0x110000)]))
            if not assigned or unicodedata.category(c) != "Cn":
                return c

    def make(rng, n, assigned=False):
        return "".join(any_character(rng, assigned) if rng.random() < 0.1 else
                       rng.choice(rng.choice(kinds)) for _ in range(n))
    return make
