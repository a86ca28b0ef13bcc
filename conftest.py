"""pytest reads this first: where the stages are, in which order to test them, what tests share."""

import contextlib
import gc
import importlib.util
import itertools
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # several processes share the cores
if "PYTEST_XDIST_WORKER" in os.environ:  # pytest -n 2: each a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where no bytecode is to be written beside the files, it is kept elsewhere until the end: else each
# of a thousand processes would compile the same files.
COMPILED = tempfile.mkdtemp() if sys.dont_write_bytecode else None
if COMPILED:
    sys.dont_write_bytecode, sys.pycache_prefix = False, COMPILED
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": COMPILED}

# As in each of the course's files: console.py, which is found first, finds the others.
ROOT = Path(__file__).resolve().parent
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(ROOT / "01_tokenizer"))
sys.path.append(str(ROOT / "tests"))

import console  # noqa: E402
from blank import READING_ORDER  # noqa: E402


# Files of PYTHONPATH that stand for one of the course's: a reader's own.
FOLDERS = [Path(p).absolute() for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
OURS = {p.name: p for p in [*ROOT.glob("0?_*/*.py"), *ROOT.glob("0?_*/extras/*.py")]}
THEIRS = [p for folder in FOLDERS for p in sorted(folder.glob("*.py"))
          if p.name in OURS and p.resolve() != OURS[p.name]]

def pytest_configure(config):
    for folder in FOLDERS:
        if not folder.is_dir():
            raise pytest.UsageError(f"PYTHONPATH names {folder}, which is no folder")
        if wrong := console.housekeeping.misplaced(folder):
            raise pytest.UsageError(wrong)
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist's, by the number of tests
        config.option.loadscopereorder = False


def pytest_unconfigure():
    if COMPILED:
        shutil.rmtree(COMPILED, ignore_errors=True)


def pytest_ignore_collect(collection_path, config):
    """A reader's own files of the spine are graded by the spine's tests alone, unless extras are
    asked for by name.
    """
    spine = any(OURS[p.name].parent.name != "extras" for p in THEIRS)
    asked = any("extras" in Path(argument).parts for argument in config.args)
    return True if spine and not asked and "extras" in collection_path.parts else None


def pytest_terminal_summary(terminalreporter):
    """Say which of a reader's files were graded: those that a test has loaded."""
    for p in THEIRS:
        if getattr(sys.modules.get(p.stem), "__file__", None) == str(p):
            terminalreporter.write_line(f"graded: {p}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """What is built on comes first: stages in turn, the spine before extras, files as they are
    read, else alphabetically. With pytest -n 2, files with slow tests come before that, so that
    neither process is left with one of them at the end; and test_programs.py before all, since it
    compiles Go's library for others.
    """
    order = {f"test_{name}": i for i, name in enumerate(READING_ORDER)}
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item):
        stage, *folders = item.path.relative_to(ROOT).parts[:-1]
        later = hasattr(config, "workerinput") and (
            item.path.stem != "test_programs") + (item.path not in slow)
        return later, stage, folders, order.get(item.path.stem, -1)
    items.sort(key=place)


def pytest_collection_finish():
    """What is loaded by now stays: garbage collection, above all in forks, need not look at it."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup():
    """Products are made as in every command, whatever tests have run before."""
    if "torch" in sys.modules and importlib.util.find_spec("machine"):
        importlib.import_module("machine").fast_products()


def pytest_make_parametrize_id(val, argname):
    return f"{argname}={val}" if isinstance(val, (int, str)) else None


@pytest.fixture
def host_reads():
    """with host_reads() as reads: ... counts in reads.n how often the program would wait for a GPU,
    to read numbers there. Here all is on the CPU, so that tensors count as the GPU's, except those
    that torch.tensor() or as_tensor() makes of numbers, and what is computed of these alone. What
    .to("cpu", non_blocking=True) copies is there with the next wait.
    """
    import torch
    reading = {"item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__", "__index__"}

    class Reads(torch.overrides.TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.n, self.here, self.coming = 0, {}, {}  # tensors by their ids

        def __torch_function__(self, function, types, given=(), named=None):
            named, name = named or {}, function.__name__
            result = function(*given, **named)
            tensors = [t for t in given if isinstance(t, torch.Tensor)]
            here = all(id(t) in self.here for t in tensors)
            fetched = "cpu" in [w for w in (*given, named.get("device")) if isinstance(w, str)]
            if fetched and named.get("non_blocking"):
                self.coming[id(result)] = result
            elif tensors and not here and (name in reading or fetched):
                self.n += 1
                self.here |= self.coming | {id(result): result}
                self.coming = {}
            elif name == "to" and not fetched:  # the device
                self.here.pop(id(result), None)
            elif isinstance(result, torch.Tensor) and here and (
                    tensors or name in ("tensor", "as_tensor")):
                self.here[id(result)] = result
            return result
    return Reads


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
def explains():
    """with explains(words): what is tested raises no error here; if it does, an IndexError say, the
    test fails with these words, since the error itself does not say what is wrong.
    """
    @contextlib.contextmanager
    def check(words):
        try:
            yield
        except (AssertionError, NotImplementedError):
            raise
        except Exception as error:
            raise AssertionError(f"{words}; it raised {error!r}") from error
    return check


@pytest.fixture
def command():
    """command("train", ...) runs that stage's file as a user would; yours, if mine/ is in front."""
    def start(name, *arguments, code=0, launcher=(), env={}, **how):
        script = importlib.util.find_spec(name).origin
        path = os.pathsep.join(os.path.abspath(p) for p in
                               os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)
        done = subprocess.run([sys.executable, *launcher, script, *map(str, arguments)],
                              capture_output=True, encoding="utf-8", timeout=300,
                              env={**os.environ, "PYTHONFAULTHANDLER": "1",
                                   "PYTHONPATH": path, **env}, **how)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done
    return start


def forget():
    """No module of this course is loaded any more, nor is any of its folders on the path."""
    def ours(path):
        path = os.path.abspath(path)
        return (f"{path}/".startswith(f"{ROOT}/")
                and not path.startswith(f"{sys.prefix}/"))  # .venv/ may be in the same folder
    sys.path[:] = [path for path in sys.path if not ours(path)]
    for name, module in list(sys.modules.items()):
        if ours(getattr(module, "__file__", None) or "/"):
            del sys.modules[name]


@pytest.fixture
def fork(tmp_path):
    """fork(work): a process that calls work(), as a command does its main(). What it prints goes to
    the file process.log. It is forked from this one, as loading torch takes seconds; but it has
    one thread, as others don't survive that, and if it is to be fresh, no stage is loaded in it.
    """
    numbers = itertools.count()

    def start(work, fresh=False):
        def child():
            sys.stdout = sys.stderr = open(log, "w", buffering=1, encoding="utf-8")
            os.dup2(sys.stdout.fileno(), 1)
            os.dup2(sys.stdout.fileno(), 2)
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
            if fresh:
                forget()
            console.run(work)
        log = tmp_path / f"log-{next(numbers)}"
        process = multiprocessing.get_context("fork").Process(target=child)
        process.log = log
        process.start()
        return process
    return start


@pytest.fixture
def torchrun():
    """For fork(): torchrun("--nproc-per-node", 2, script, ...) does what that command does, but its
    ranks are forked, too.
    """
    def work(*arguments):
        from torch.distributed import run as launcher
        launch = launcher.elastic_launch

        def rank(*words):
            sys.argv = [*words[words[0] == "-u":]]
            sys.path.insert(0, os.path.dirname(os.path.abspath(sys.argv[0])))
            runpy.run_path(sys.argv[0], run_name="__main__")

        def start(config, entrypoint):
            config.start_method = "fork"
            return launch(config, rank)
        launcher.elastic_launch = start
        launcher.main([*map(str, arguments)])
    return lambda *arguments: lambda: work(*arguments)


@pytest.fixture(scope="module")
def quick_runs():
    """Runs that this process trains, or forks, don't measure how fast the machine is, draw no
    pictures and write short samples: all that takes seconds. test_beside.py and test_train.py have
    tests of it.
    """
    import beside
    import length
    sample = beside.sample
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(beside.Beside, "redraw", lambda self: None)
        monkeypatch.setattr(beside, "page", lambda folders, path: None)
        monkeypatch.setattr(length, "matmul_peak", lambda device, dtype: 1e11)
        monkeypatch.setattr(beside, "sample", lambda model, data, n_tokens=64: sample(
            model, data, 8))
        yield


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
