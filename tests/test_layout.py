"""What holds for all files: who may import whom, what every file carries, what README promises."""

import ast
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from blank import exercises
from presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(ROOT.glob("0?_*/*.py"))
STAGE = {path.stem: path.parent.name for path in FILES}
CORE = {"torch", "numpy", "regex", "pytest", "matplotlib"}
README = (ROOT / "README.md").read_text(encoding="utf-8")
HEADER = '''
# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages
'''
WITH_COMMANDS = ("01_tokenizer/bpe.py", "01_tokenizer/formats.py", "04_train/runs.py",
                 "tests/bench.py")
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)


def imports(path):
    """Every module that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


def test_names_are_unique():
    assert len(STAGE) == len(FILES), "stages import by file name, so no name may come twice"
    assert not set(STAGE) & set(sys.stdlib_module_names)


@every_file
def test_imports(path):
    """Earlier stages, the standard library and the five packages; tests may ask for an oracle."""
    for name in imports(path):
        if name in STAGE:
            assert STAGE[name] <= path.parent.name, f"{path.name} imports the later {name}"
        else:
            assert name in CORE or name in sys.stdlib_module_names, f"{path.name} imports {name}"


@every_file
def test_form(path):
    text = path.read_text(encoding="utf-8")
    if set(imports(path)) & set(STAGE) and not path.name.startswith("test_"):
        assert HEADER in text, f"{path.name} needs the lines that let stages find each other"
    assert ast.get_docstring(ast.parse(text)), f"{path.name} does not say what it is"
    wide = [i for i, line in enumerate(text.splitlines(), 1) if len(line) > 100]
    assert not wide, f"{path.name}: lines {wide} have more than 100 columns"


def test_every_file_is_tested():
    for name, stage in STAGE.items():
        if not name.startswith("test_"):
            assert f"test_{name}" in STAGE, f"{stage}/{name}.py has no tests"


def commands():
    """Every line of README's code blocks that runs something here, and of its tables."""
    blocks = re.findall(r"```(?:sh|bash)\n(.*?)```", README, re.S)
    lines = [part.strip() for block in blocks for line in block.splitlines()
             for part in re.split("&&", line.split("  #")[0])]
    return [line for line in lines + re.findall(r"`([^`\n]*\.py[^`\n]*)`", README)
            if re.search(r"(?<!\S)\S+\.py\b", line)]


HELP = {}


def help_of(fork, script, *command):
    """What it prints, asked once, by a process that finds the stages by itself."""
    def ask():
        sys.argv = [script, *command, "--help"]
        sys.path.insert(0, str((ROOT / script).parent))
        runpy.run_path(str(ROOT / script), run_name="__main__")
    if (script, command) not in HELP:
        process = fork(ask, fresh=True)
        process.join()
        HELP[script, command] = process.log.read_text()
    return HELP[script, command]


def test_readme_has_commands():
    assert len(commands()) >= 10


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_commands_of_the_readme_are_understood(line, fork):
    """The script is there, and its --help knows every option and named value."""
    words = shlex.split(line)
    script = next(word for word in words if word.endswith(".py"))
    assert (ROOT / script).exists(), f"{script} is not there"
    options = [w.split("=")[0] for w in words[words.index(script) + 1:] if w.startswith("--")]
    if options:
        after = words[words.index(script) + 1:][:1]
        command = after if script in WITH_COMMANDS else []
        for option in options:
            assert re.search(rf"{option}\b", help_of(fork, script, *command)), (
                f"{script} has no {option}")
    for preset in re.findall(r"--preset ([\w-]+)", line):
        assert preset in PRESETS


def test_links_of_the_readme():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), f"README links to {target}, which is not there"
    for path in FILES:
        if not path.name.startswith("test_"):
            assert f"{path.parent.name}/{path.name}" in README, f"README leaves out {path.name}"


def test_requirements_are_the_five_pinned():
    lines = (ROOT / "requirements.txt").read_text().split()
    assert {line.split("==")[0] for line in lines} == CORE and all("==" in line for line in lines)


def test_the_numbers_of_the_readme():
    """What the README counts is counted here; its measurements name the command they come from."""
    marked = sum(len(exercises(path.read_text())) for path in FILES
                 if not path.name.startswith("test_"))
    assert f"{marked} exercises" in README, f"there are {marked} exercises"
