"""pytest reads this first: where the stages are, in which order to test them, what tests share."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train.py

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[0].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages
sys.path.append(str(Path(__file__).resolve().parent / "tests"))

import console  # noqa: E402


def pytest_collection_modifyitems(items):
    """budget.py counts what gpt.py builds, so its tests come later; the rest is alphabetical."""
    items.sort(key=lambda item: (item.path.parent.name, item.path.stem == "test_budget"))


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
                              env={**os.environ, "PYTHONPATH": path, **env}, **how)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done
    return start
