"""What holds for all files: who may import whom, what every file carries, which comes next."""

import argparse
import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

import console
from blank import READING_ORDER

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("0?_*/*.py"), *ROOT.glob("0?_*/extras/*.py")])
CODE = [path for path in FILES if not path.name.startswith("test_")]
STAGE = {path.stem: path.relative_to(ROOT).parts[0] for path in FILES}
CORE = {"torch", "numpy", "regex", "pytest", "matplotlib"}
HEADER = """
if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]
"""
SPINE = {"bpe", "data", "conversations", "gpt", "train", "runs", "optim", "sft", "rl", "sample",
         "chat", "api", "serve", "evals", "humaneval", "scale", "zero"}
COMMANDS = {"bpe", "data", "train", "sft", "rl", "sample", "chat", "serve", "evals",
            "humaneval", "scale"}  # may run for long
# The spine of the stages that have two layers: each file, and the most lines that it may have.
LIMITS = {"01_tokenizer": {"bpe": 325, "console": 211},
          "02_data": {"data": 374, "conversations": 202},
          "03_model": {"gpt": 334},
          "04_train": {"optim": 227, "runs": 355, "train": 385, "sft": 240, "rl": 354},
          "05_sample": {"sample": 307, "chat": 322, "api": 400, "serve": 360},
          "06_eval": {"evals": 350, "humaneval": 250},
          "07_scale": {"scale": 328, "zero": 220}}
MOST_TOGETHER = 4950  # lines of these files, but for those of 06_eval
MOST = 60  # lines of a function of the spine
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
every_spine = pytest.mark.parametrize("path", [ROOT / stage / f"{name}.py" for stage, names in
                                               LIMITS.items() for name in names],
                                      ids=lambda path: path.name)


def imported(nodes):
    """The modules that some syntax tree nodes import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@functools.cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Every module that a file imports, at its top or inside a function."""
    return imported(ast.walk(tree(path)))


def test_no_link_is_committed():
    """Such as data, where a reader's own lies elsewhere: in a clone it would lead nowhere."""
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True)
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []  # a copy without git
    assert not [line for line in lines if line.startswith("120000")]
    assert not [line for line in lines if line.split("\t")[1].startswith(("data", "runs", "mine"))]


def test_names_are_unique():
    assert len(STAGE) == len(FILES), "stages import by file name, so no name may come twice"
    assert not set(STAGE) & set(sys.stdlib_module_names)


def test_the_reading_order_has_every_file():
    """Once; and by name the three tests that are of folders and of scripts."""
    assert sorted(READING_ORDER) == sorted([*(path.stem for path in CODE), "good_go", "problems",
                                            "launch"])


@pytest.mark.parametrize("stage", LIMITS)
def test_a_stage_shows_its_spine(stage):
    """One or two files, their tests, extras/: what `ls` shows a reader."""
    shown = {path.name for path in (ROOT / stage).iterdir() if path.name != "__pycache__"}
    expected = {f"{test}{name}.py" for name in LIMITS[stage] for test in ("", "test_")}
    expected |= {"page.html"} if stage == "05_sample" else set()
    assert shown - {"extras"} == expected
    assert not [p.name for p in ROOT.glob(f"{stage}/extras/*.py") if p.stem in SPINE]


@every_spine
def test_a_spine_file_is_small(path):
    limit = LIMITS[path.parent.name][path.stem]
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= limit, f"{path.name} has {n_lines} lines; at most {limit}"
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            n_lines = node.end_lineno - node.lineno + 1
            assert n_lines <= MOST, f"{path.name}: {node.name} has {n_lines} lines; at most {MOST}"


def test_the_spine_is_small_together():
    counts = {path.stem: len(path.read_text(encoding="utf-8").splitlines())
              for path in CODE if path.stem in {*SPINE, "console"} - {"evals", "humaneval"}}
    assert len(counts) == 16 and sum(counts.values()) <= MOST_TOGETHER, counts


@every_spine
def test_a_spine_file_needs_no_extras(path):
    """At its top it imports the standard library, the five packages, console and the spine."""
    for name in imported(tree(path).body):
        assert name in {*sys.stdlib_module_names, *CORE, "console", *SPINE}, (
            f"{path.name} imports {name} at its top")
        assert STAGE.get(name, "") <= path.parent.name


@every_file
def test_imports(path):
    """Earlier stages, the standard library and the five packages; tests may ask for an oracle."""
    stage = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        if name in STAGE:
            assert STAGE[name] <= stage, f"{path.name} imports the later {name}"
        else:
            assert name in CORE or name in sys.stdlib_module_names, f"{path.name} imports {name}"


@every_file
def test_form(path):
    text = path.read_text(encoding="utf-8")
    needs_others = set(imports(path)) & set(STAGE) and path.name != "console.py"
    if needs_others and not path.name.startswith("test_"):
        assert HEADER in text, f"{path.name} needs the lines that let stages find each other"
        top, rest = text.split(HEADER)
        assert not set(imported(ast.parse(top).body)) & CORE, f"{path.name}: the header comes first"
        if path.stem in COMMANDS:  # until then Ctrl-C has a traceback
            assert set(imported(ast.parse(top).body)) == {"os", "sys"}, f"{path.name}: first"
        first = [*imported(ast.parse(rest).body)]
        assert first[0] == "console", f"{path.name}: console is first, which makes others be found"
    assert ast.get_docstring(tree(path)), f"{path.name} does not say what it is"


def following(path):
    """The files that the docstring of `path` names as its last words, behind "Next:"."""
    found = re.search(r"\sNext:\s+([^:]+)\.\Z", ast.get_docstring(tree(path)))
    assert found, f"{path.name} does not end by saying which file comes next"
    names = re.findall(r"[\w/]+\.(?:py|slurm)|Dockerfile", found[1])
    files = [folder / name for name in names for folder in (path.parent, ROOT)
             if (folder / name).is_file()]
    assert files and len(files) == len(names), f"{path.name}: Next: {found[1]}"
    return files


@pytest.mark.parametrize("path", CODE, ids=lambda path: path.name)
def test_each_file_says_which_comes_next(path):
    assert path not in following(path)


def test_the_spine_is_read_in_one_order():
    """From bpe.py to zero.py by "Next:"; console.py may be left out."""
    names = ["bpe"]
    while names[-1] != "zero":
        [path] = [path for path in CODE if path.stem == names[-1]]
        names.append(following(path)[0].stem)
    assert names == [name for name in READING_ORDER if name in SPINE]


def test_lines_are_not_too_long():
    for path in [*FILES, *ROOT.glob("tests/*.py"), ROOT / "conftest.py"]:
        lines = path.read_text(encoding="utf-8").splitlines()
        wide = [i for i, line in enumerate(lines, 1) if len(line) > 100]
        assert not wide, f"{path.name}: lines {wide} have more than 100 columns"


class Found(Exception):
    """A parser, at the moment when it is to read a command line."""


def test_no_command_takes_abbreviations(monkeypatch):
    """--run NAME must never mean --runs-dir NAME; where there is a --run, it names a run."""
    def stop(parser, argv=None, namespace=None):
        raise Found(parser)
    monkeypatch.setattr(console.Parser, "parse_known_args", stop)
    monkeypatch.setattr("scale.join", lambda: None)
    monkeypatch.setattr("scale.dist", MagicMock(get_world_size=lambda: 1))
    monkeypatch.setattr("scale.on_rank0", lambda group, work: work())
    named = set()
    for path in [*CODE, ROOT / "tests" / "bench.py"]:
        if "\ndef main(" in path.read_text(encoding="utf-8"):
            main = importlib.import_module(path.stem).main
            with pytest.raises(Found) as found:
                main(*[[]][:len(inspect.signature(main).parameters)])
            [parser] = found.value.args
            parsers = [parser, *(command for action in parser._actions
                                 if action.nargs == argparse.PARSER
                                 for command in action.choices.values())]
            for one in parsers:
                assert isinstance(one, console.Parser) and not one.allow_abbrev, path.name
                if run := one._option_string_actions.get("--run"):
                    named.add((path.name, run.dest))
    assert {name for name, dest in named} >= {"train.py", "sample.py", "evals.py"}
    assert {dest for name, dest in named} <= {"run", "name"}


def opens_text(call):
    """Whether a call reads or writes text in the encoding of the machine's locale."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    module = getattr(getattr(call.func, "value", None), "id", "")
    known = {keyword.arg for keyword in call.keywords}
    if "encoding" in known or module == "os":
        return False
    if name in ("read_text", "write_text"):  # console.read_text(), a function, decodes UTF-8
        of_a_package = "distribution" in ast.unparse(call.func)
        return (isinstance(call.func, ast.Attribute) and module != "console" and not of_a_package
                and len(call.args) < (1 if name == "read_text" else 2))
    if name == "open":
        at = 0 if isinstance(call.func, ast.Attribute) and module not in ("gzip", "io") else 1
        mode = ([*call.args[at:at + 1], *(k.value for k in call.keywords if k.arg == "mode")]
                or [ast.Constant("r" if module != "gzip" else "rb")])[0]
        return isinstance(mode, ast.Constant) and "b" not in str(mode.value)
    return name in ("run", "Popen", "check_output") and "text" in known


def test_text_is_utf_8_on_every_machine():
    for code, found in (("open(p)", True), ("open(p, 'rb')", False), ("p.open('w')", True),
                        ("p.read_text()", True), ("p.write_text(x)", True), ("gzip.open(p)", False),
                        ("p.read_text('latin-1')", False), ("p.write_text(x, 'latin-1')", False),
                        ("read_text(p)", False), ("run(x, text=True)", True),
                        ("p.read_text(encoding='utf-8')", False), ("os.open(p, 0)", False)):
        assert opens_text(ast.parse(code).body[0].value) == found, code
    for path in CODE:  # what a test or a bench writes, it reads itself
        lines = [node.lineno for node in ast.walk(tree(path))
                 if isinstance(node, ast.Call) and opens_text(node)]
        assert not lines, f"{path.name}: lines {lines} open text without encoding=\"utf-8\""


def test_every_file_is_tested():
    for path in CODE:
        assert path.with_name(f"test_{path.name}").exists(), f"{path.name} has no tests"


def test_requirements_are_the_five_pinned():
    lines = (ROOT / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in lines} == CORE and all("==" in line for line in lines)
