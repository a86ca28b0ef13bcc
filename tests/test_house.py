"""What holds for the course as a program: a copy of the spine runs alone, a run loads few files,
the trainer calls what it says that it calls, and no file is loaded twice.
"""

import json
import os
import re
import shutil
import sys
import threading
import types
from collections import defaultdict
from itertools import takewhile
from pathlib import Path

import pytest
import torch  # noqa: F401, once, not in every process that is forked

from blank import ROOT

SPINE = ["bpe", "console", "data", "conversations", "gpt", "optim", "runs", "train", "sft",
         "rl", "sample", "scale", "zero"]
EXTRAS = {path.stem for path in ROOT.glob("0[1-4]_*/extras/*.py")}  # that train.py may import
MOST_FILES, MOST_LINES = 19, 4970  # of ours in a run

# python -c RUNNER script ... runs a script as python does, as __main__; at its end it prints which
# modules are loaded.
RUNNER = """
import json, os, sys
sys.argv.pop(0)
__file__, sys.path[0] = sys.argv[0], os.path.dirname(sys.argv[0])
with open(__file__, encoding="utf-8") as file:
    exec(compile(file.read(), __file__, "exec"))
print()
print(json.dumps([[name, os.path.realpath(module.__file__), id(module)] for name, module
                  in sys.modules.items() if getattr(module, "__file__", None)]))
"""


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """The first optimizer loads this, for seconds: here once, not in every process that is forked.
    """
    import torch._dynamo  # noqa: F401


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.txt").write_text("".join(
            f"{n} times spam {n % 7 + i} and eggs\n" for n in range(200)))
    return folder


@pytest.fixture
def options(texts, tmp_path):
    """What makes a run short, and keeps it in tmp_path."""
    return ["--data", f"folder:{texts}", "--device", "cpu", "--eval-every", "2",
            "--data-dir", str(tmp_path / "data"), "--runs-dir", str(tmp_path / "runs")]


SMALL = ["--preset", "nano", "--vocab-size", "280", "--seq-len", "16"]


def as_script(script, arguments):
    """For fork(): what RUNNER does."""
    def work():
        sys.argv = ["-c", str(script), *map(str, arguments)]
        sys.path.insert(0, "")
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(RUNNER, vars(sys.modules["__main__"]))
    return work


def ours(said):
    """The files of the course that RUNNER found: {path: {id of module: [its names]}}."""
    found = defaultdict(lambda: defaultdict(list))
    for module, file, number in json.loads(said.splitlines()[-1]):
        if re.match(r"0\d_", os.path.relpath(file, ROOT)):
            found[Path(file)][number].append(module)
    return found


# ---- a copy of the spine ----
@pytest.fixture
def copied(tmp_path, texts, fork):
    """copied("train", ...) runs a file of the spine in a folder that has the spine and some texts,
    and nothing else. Returns what it printed.
    """
    folder = tmp_path / "copied"
    shutil.copytree(texts, folder / "texts")
    for path in ROOT.glob("0?_*/*.py"):
        if path.stem in SPINE:
            shutil.copy(path, folder)

    def start(name, *arguments, code=0):
        def work():
            os.chdir(folder)
            as_script(folder / f"{name}.py", arguments)()
        process = fork(work, fresh=True)
        process.join()
        said = process.log.read_text()
        assert process.exitcode == code and "Traceback" not in said, f"{name}: {said[-3000:]}"
        assert code or not ours(said), f"files that are no copies were loaded: {[*ours(said)]}"
        return said
    start.folder = folder
    return start


@pytest.mark.slow
def test_a_copy_of_the_spine_trains(copied):
    """With one process or several, and goes on, and writes; without the pictures and the plan."""
    options = [*SMALL, "--data", "folder:texts", "--device", "cpu", "--eval-every", "2"]
    runs = copied.folder / "runs"
    said = copied("train", *options, "--steps", 4)
    assert "steps 0 to 4" in said and "next: python" in said and "step 2  loss" in said, said
    config = json.loads((runs / "nano" / "config.json").read_text())
    assert config["by_hand"] and config["steps"] == 4
    assert [p.name for p in (runs / "nano" / "checkpoints").iterdir()] == ["step-000004"]

    assert "steps 4 to 6" in copied("train", *options, "--resume", "--steps", 6)
    assert (runs / "nano" / "checkpoints" / "step-000006").exists()
    assert "runs/nano, step 6" in copied("sample", "--tokens", 5)

    two = [*options, "--name", "two"]
    said = copied("scale", *two, "--steps", 2)
    assert "steps 0 to 2" in said and "ddp on 1 processes" in said and "next: python" in said, said
    assert "steps 2 to 3" in copied("scale", *two, "--engine", "zero1", "--resume", "--steps", 3)
    assert (runs / "two" / "checkpoints" / "step-000003").exists()
    assert not [*copied.folder.rglob("metrics.jsonl")], "that is beside.py's, which is not there"


@pytest.mark.slow
@pytest.mark.parametrize("name, arguments", [
    ("train", ["--z-loss", "0.1"]), ("train", ["--plan"]), ("train", ["--data", "a", "b"]),
    ("scale", ["--recompute", "hand"]), ("sample", ["--weights", "texts"])], ids=str)
def test_what_takes_the_whole_course(name, arguments, copied):
    """What needs an extra ends with one line, where there are none."""
    run = [] if name == "sample" else [*SMALL, "--data", "folder:texts", "--device", "cpu"]
    lines = copied(name, *run, *arguments, code=2).splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], lines
    assert "this takes the whole course" in lines[-1], lines


# ---- what a run loads, and calls ----
def named_extras():
    """The extras that the comment in train.py above extra() names, those for what a user asks for
    left out.
    """
    text = (ROOT / "04_train" / "train.py").read_text(encoding="utf-8")
    before = text.partition("\ndef extra(")[0].rstrip().splitlines()
    comment = "\n".join(reversed([*takewhile(lambda line: line.startswith("#"), before[::-1])]))
    always, when_asked, _ = comment.replace("\n# ", " ").partition("When asked for")
    assert when_asked, f"not the comment that was expected: {comment}"
    return EXTRAS & set(re.findall(r"\w+", always))


def assert_loaded_once(name, found):
    """found: as ours() returns it, of a process that has run that script."""
    twice = {path.name: names for path, names in found.items() if len(names) > 1}
    assert not twice, f"{name} has loaded as several modules: {twice}"
    [names] = [names for names in found.values() for names in names.values() if name in names]
    assert "__main__" in names, f"python {name}.py and import {name} are two modules"


@pytest.mark.slow
def test_what_a_run_loads(fork, options):
    """Few files; and those that are extras are named where the trainer calls them."""
    smaller = "--n-layer 1 --d-model 96 --d-ff 96 --vocab-size 280 --seq-len 32".split()
    process = fork(as_script(ROOT / "04_train" / "train.py", [
        "--preset", "tiny", "--steps", 2, *smaller, *options]), fresh=True)
    process.join()
    assert process.exitcode == 0, process.log.read_text()[-3000:]
    found = ours(process.log.read_text())
    assert_loaded_once("train", found)
    lines = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in found}
    print(len(lines), "files,", sum(lines.values()), "lines:", lines)
    assert len(lines) <= MOST_FILES, f"{len(lines)} files: {', '.join(sorted(lines))}"
    assert sum(lines.values()) <= MOST_LINES, f"{sum(lines.values())} lines: {lines}"
    assert named_extras() == lines.keys() & EXTRAS, "the comment above train.extra()"


@pytest.mark.slow
def test_what_is_called_before_the_first_step(fork, options, tmp_path):
    """Of our files, from main() to optimizer.step(): the spine, and the extras that are named."""
    seen = tmp_path / "seen.json"

    def work():
        called = []

        def note(frame, event, _):
            code = frame.f_code
            if event != "call" or not code.co_filename.startswith(f"{ROOT}/0"):
                return
            function = Path(code.co_filename).stem, code.co_qualname
            if called or function == ("train", "main"):
                called.append(function)
            if function == ("optim", "Optimizer.step"):
                seen.write_text(json.dumps(sorted({*called})))
                os._exit(0)  # what comes then takes seconds
        sys.setprofile(note)
        threading.setprofile(note)
        as_script(ROOT / "04_train" / "train.py", [*SMALL, "--steps", "1", *options])()
    process = fork(work, fresh=True)
    process.join()
    assert process.exitcode == 0 and seen.exists(), process.log.read_text()[-3000:]
    functions = defaultdict(list)
    for file, function in json.loads(seen.read_text()):
        functions[file].append(function)
    assert "train_step" in functions["train"] and "attention" in functions["gpt"], functions
    known = {"train", "data", "gpt", "runs", "optim", "bpe", "console"} | named_extras()
    others = {file: names for file, names in functions.items() if file not in known}
    assert not others, f"neither spine nor named in the comment above train.extra(): {others}"


@pytest.mark.slow
def test_no_file_is_loaded_twice(fork, options):
    """Scripts that are imported by what they import; train.py's is above."""
    for name, arguments, importer in (
            ("scale", ["--engine", "zero1", *SMALL, "--steps", 1, *options], "zero"),
            ("scale", ["--engine", "fsdp2", *SMALL, "--steps", 1, *options], "fsdp")):
        [script] = ROOT.glob(f"0?_*/{name}.py")
        process = fork(as_script(script, arguments), fresh=True)
        process.join()
        said = process.log.read_text()
        assert process.exitcode == 0, said[-3000:]
        assert importer in {path.stem for path in ours(said)}
        assert_loaded_once(name, ours(said))
