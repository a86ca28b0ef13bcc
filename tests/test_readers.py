"""What a reader is promised: what is taught is what runs, a blank is noticed by whatever needs it,
and the spine can be copied.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import sys

import pytest
import torch  # noqa: F401, once, not in every process that is forked

from blank import ROOT, blank, exercises
from bpe import Tokenizer
from console import by_hand
from gpt import make_model
from train import Config
from runs import as_json, save_checkpoint, start_run, tensors

# Each file of the spine, and a command of its own that needs its exercises.
SPINE = {"bpe": ("01_tokenizer", ["show", "spam"]), "data": ("02_data", ["folder:texts"]),
         "conversations": ("02_data", []), "gpt": ("03_model", []),
         "sample": ("05_sample", ["--run", "tiny", "--tokens", "9", "--top-p", "0.9"])}
QUICK = ["-p", "no:cacheprovider", "-p", "no:unraisableexception"]  # which collects garbage
LEFT_OUT = ("--weights FOLDER", "conversations.py jsonl:FILE", "import", "--prompt \"def main(\"")
FILLED_IN = {"folder:PATH": "folder:texts", "jsonl:FILE.jsonl": "jsonl:texts.jsonl"}


@pytest.fixture
def course(tmp_path):
    """A copy of the course, with some texts, a tokenizer, and a run that was never trained."""
    course = tmp_path / "course"
    shutil.copytree(ROOT, course, ignore=shutil.ignore_patterns(
        ".*", "data", "runs", "mine", "__pycache__", "*.png"))
    (course / "texts").mkdir()
    for i in range(3):
        (course / "texts" / f"{i}.txt").write_text(f"spam {i} and eggs, spam and eggs\n" * 30)
    rows = [json.dumps({"text": f"spam {i} and eggs"}) + "\n" for i in range(99)]
    (course / "texts.jsonl").write_text("".join(rows))
    tokenizer, config = Tokenizer.train(["spam and eggs " * 9], 280), Config(
        n_layer=1, d_model=16, n_head=2, n_kv_head=1, d_ff=16, seq_len=32)
    tokenizer.save(course / "tokenizer.json")
    run = start_run(course / "runs", "tiny")
    (run / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []}))
    tokenizer.save(run / "tokenizer.json")
    save_checkpoint(run, 7, tensors(make_model(config.gpt(tokenizer.vocab_size))), {})
    return course


def as_script(course, script, arguments, mine=()):
    """For fork(): what `python script arguments` does in the course; mine: PYTHONPATH's folders."""
    def work():
        os.chdir(course)
        os.environ["PYTHONPATH"] = os.pathsep.join(mine)
        sys.path[:0] = [str((course / script).parent), *(str(course / folder) for folder in mine)]
        sys.argv = [str(course / script), *arguments]
        runpy.run_path(str(course / script), run_name="__main__")
    return work


def commands(path):
    """The command lines in a file's docstring, as lists of arguments."""
    lines = re.findall(r"^    python (\S+\.py.*)$", path.read_text().split('"""')[1], re.M)
    lines = [re.split(r"\s{2,}#", line)[0] for line in lines]
    lines = [line for line in lines if not any(words in line for words in LEFT_OUT)
             and not line.endswith("data.py")]  # all of Python's library: too long, traced
    for what, filled in FILLED_IN.items():
        lines = [line.replace(what, filled) for line in lines]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("name", SPINE)
def test_what_is_taught_is_what_runs(name, course, fork):
    """Every exercise of a file runs in one of the commands that its docstring lists."""
    path = course / SPINE[name][0] / f"{name}.py"
    todo = {node.lineno: node.name for node in exercises(path.read_text())}
    found = set()
    for n, arguments in enumerate(commands(path)):
        def traced(n=n, arguments=arguments):
            seen = set()

            def note(frame, event, _):
                if event == "call" and frame.f_code.co_filename == str(path):
                    seen.add(frame.f_code.co_firstlineno)
            sys.setprofile(note)
            try:
                as_script(course, path.relative_to(course), arguments)()
            finally:
                sys.setprofile(None)
                (course / f"seen-{n}.json").write_text(json.dumps(sorted(seen)))
        process = fork(traced, fresh=True)
        process.join()
        assert process.exitcode == 0, f"{arguments}: {process.log.read_text()[-3000:]}"
        found |= set(json.loads((course / f"seen-{n}.json").read_text()))
    # a decorated function begins at its decorator
    never = {name for line, name in todo.items() if not {line, line - 1} & found}
    assert not never, f"no command of {name}.py runs {', '.join(sorted(never))}"


def stops_at_an_exercise(process):
    process.join()
    out = process.log.read_text()
    assert process.exitcode == 2 and "error: exercise: " in out, out[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpe", "data", "gpt", "optim", "sample"])
def test_a_blank_is_noticed(name, course, fork, torchrun, tmp_path):
    """By its own command, python mine/X.py, pytest from any folder, and by what builds on it."""
    stage, arguments = SPINE.get(name, ("04_train", []))
    texts = ["--preset", "nano", "--data", "folder:texts", "--device", "cpu"]
    earlier = fork(as_script(course, "02_data/data.py", [
        "folder:texts", "--vocab-size", "512", "--by-hand"]), fresh=True)
    earlier.join()  # what the course has prepared must not hide that a reader's file can't
    assert earlier.exitcode == 0, earlier.log.read_text()
    (course / "mine").mkdir()
    (course / "mine" / f"{name}.py").write_text(blank((course / stage / f"{name}.py").read_text()))
    stops_at_an_exercise(fork(as_script(course, f"{stage}/{name}.py", arguments, ["mine"]),
                              fresh=True))
    stops_at_an_exercise(fork(as_script(course, f"mine/{name}.py", arguments), fresh=True))

    def pytest_from_elsewhere():
        os.chdir(tmp_path)
        os.environ["PYTHONPATH"] = str(course / "mine")
        sys.path[:0] = [str(course), str(course / "mine")]
        sys.exit(pytest.main([str(course / stage / f"test_{name}.py"), "-x", *QUICK]))
    process = fork(pytest_from_elsewhere, fresh=True)
    process.join()
    out = process.log.read_text()
    assert process.exitcode == 1 and "NotImplementedError: exercise: " in out, out[-3000:]
    assert f"graded: {course / 'mine' / f'{name}.py'}" in out
    if name == "sample":
        return
    stops_at_an_exercise(fork(as_script(course, "04_train/train.py", texts, ["mine"]), fresh=True))

    def under_torchrun():
        os.chdir(course)
        os.environ["PYTHONPATH"] = "mine"
        sys.path.insert(0, str(course / "mine"))
        torchrun("--nproc-per-node", "1", "07_scale/scale.py", *texts)()
    process = fork(under_torchrun, fresh=True)
    process.join()
    out = process.log.read_text()
    assert process.exitcode and "error: exercise: " in out, out[-3000:]


@pytest.mark.slow
def test_the_spine_can_be_copied(course, fork, tmp_path):
    """With console.py into an empty folder: stages 1 to 3 run there, by hand."""
    folder = tmp_path / "empty"
    folder.mkdir()
    names = ["console", "bpe", "data", "conversations", "gpt"]
    for path in ROOT.glob("0?_*/*.py"):
        if path.stem in names:
            shutil.copy(path, folder)
    shutil.copytree(course / "texts", folder / "texts")
    shutil.copy(course / "texts.jsonl", folder)
    shutil.copy(course / "tokenizer.json", folder)
    def said(name, *arguments, code=0):
        process = fork(as_script(folder, f"{name}.py", arguments), fresh=True)
        process.join()
        out = process.log.read_text()
        assert process.exitcode == code, f"{name} {arguments}: {out[-3000:]}"
        return out
    for name in names[1:]:
        said(name, *SPINE[name][1])
    said("data", "jsonl:texts.jsonl")
    assert "bytes of text" in said("bpe")
    made = ["--tokenizer", "new.json"]
    train = ["train", "texts/0.txt", *made, "--vocab-size", "270"]
    assert said("bpe", *train) == "new.json: 270 ids\n"
    ids = said("bpe", "encode", "spam\x1b", *made).split()
    assert said("bpe", "decode", *ids, *made) == "spam\x1b\n"
    assert said("bpe", "show", "spam\x1b", *made).endswith(r"[\x1b]27" + "\n")
    for option, value, what in (("--digits", "1", "1"), ("--pattern", "go", "the whole course")):
        assert re.fullmatch(f"error: .*{what}.*\n", said("bpe", *train, option, value, code=2))


def test_what_is_ours_is_fast():
    assert not by_hand(), "no file of the spine is a reader's"
