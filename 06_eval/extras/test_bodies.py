"""Tests of bodies.py: heads of functions, how far a compiler gets, and what a body does.

What needs no Go is tested everywhere; the rest where there is Go, and a sandbox to run it in.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

import bodies
from bodies import (FACTS, Body, Compiler, asked, checked, facts, find_heads, functions, ignores,
                    parameters, problem_of, program_of, stands_alone, statements, trivial)
from bpe import Tokenizer
from programs import go_root
from sandbox import Outcome, trouble

TOKENIZER = Tokenizer([])
DATA = Path(__file__).resolve().parents[2] / "data"  # with Go's build cache


def go_is_missing():
    try:
        return go_root() and trouble()
    except ValueError as error:
        return str(error)


needs_go = pytest.mark.skipif(bool(go_is_missing()), reason=f"no Go here: {go_is_missing()}")


# ---- heads ----
def test_functions():
    text = ('package a\n\n// One is 1.\n// Always.\nfunc One() int {\n\treturn 1\n}\n\n'
            'func bare() int {\n\treturn 2\n}\n\n// M is a method.\nfunc (a A) M() int {\n'
            '\treturn 3\n}\n\n// Raw has a }.\nfunc Raw() string {\n\treturn `\n}\n`\n}\n'
            '\n//go:noinline\n// Two adds.\nfunc Two[T int](a, b T) T {\n\tif a > b {\n\t\ta = b\n'
            '\t}\n\treturn a + b // }\n}\n// Open is cut off.\nfunc Open() {\n\treturn')
    assert [*functions(text)] == [
        ("// One is 1.\n// Always.\nfunc One() int {\n", "\treturn 1\n}\n"),
        ("// Two adds.\nfunc Two[T int](a, b T) T {\n",
         "\tif a > b {\n\t\ta = b\n\t}\n\treturn a + b // }\n}\n")], (
        "functions with a comment, no receiver, and an end that the lexer finds, too")


@pytest.mark.parametrize("signature, body, alone", [
    ("func F(a int) string", "\treturn strings.Repeat(\"a\", a)\n}\n", True),
    ("func F(r io.Reader) error", "\treturn nil\n}\n", True),
    ("func F(n *Node) error", "\treturn nil\n}\n", False),
    ("func F(n ast.Node) error", "\treturn nil\n}\n", False),
    ("func F() error", "\treturn zap.New()\n}\n", False)])
def test_stands_alone(signature, body, alone):
    assert stands_alone(f"// F does.\n{signature} {{\n", body) == alone


def test_a_head_is_a_problem():
    """Its prompt, the indent and its own body are a program, with the imports that it needs."""
    row = problem_of("// F is a.\nfunc F(a string) string {\n",
                     "\treturn strings.ToUpper(a)\n}\n", "me/repo")
    program = program_of(row, row["canonical_solution"])
    assert program.startswith('package p\n\nimport (\n\tstrings "strings"\n)\n')
    assert program.endswith("// F is a.\nfunc F(a string) string {\n"
                            "\treturn strings.ToUpper(a)\n}\n")
    assert TOKENIZER.decode(asked(row, TOKENIZER)) == f"<|bos|>{row['prompt']}".rstrip("\n")
    assert program_of(row, "\treturn a\n}\nvar x = 1\n") == program_of(row, "\treturn a\n}\n"), (
        "what follows the function is cut off, as when its tests are run")


def test_find_heads(tmp_path):
    """Verified by the compiler, each signature once, and no repository on both sides."""
    with open(tmp_path / "go.jsonl", "w", encoding="utf-8") as file:
        for n in range(40):
            text = "".join(f"// F{i} is {n}.\nfunc F{i}() int {{\n\treturn {n}{'0' * (i == 3) * 99}"
                           "\n}\n\n" for i in (n, n + 1, 3))
            file.write(json.dumps({"repo": f"me/{n}", "path": "a.go", "content": text}) + "\n")
        file.write(json.dumps({"repo": "me/0", "path": "a_test.go", "content":
                               "// T is.\nfunc T() int {\n\treturn 1\n}\n"}) + "\n")
    asked = []

    def levels(programs):
        asked.extend(programs)
        return [2 if "F7()" in program else 3 for program in programs]
    practise, held_out = find_heads([f"jsonl:{tmp_path}/go.jsonl"], tmp_path, TOKENIZER, 200,
                                    levels)
    heads = [re.search(r"F\d+", row["task_id"])[0] for row in practise + held_out]
    assert len(heads) == len({*heads}) == 39, "F0 to F40, without F3, which is long, and F7"
    assert not {"F3", "F7"} & {*heads} and len(asked) == 40
    groups = [{row["task_id"].partition(":")[0] for row in rows} for rows in (practise, held_out)]
    assert not groups[0] & groups[1] and len(groups[0]) > len(groups[1]) > 1
    with pytest.raises(ValueError, match="too few; give more --data"):
        find_heads([f"jsonl:{tmp_path}/go.jsonl"], tmp_path, TOKENIZER, 100, levels)


# ---- what a body does ----
def test_statements():
    body = "\tx := []int{\n\t\t1, // one\n\t}; y()\n\n\tif x {\n\t\treturn\n\t}\n}\nfunc z() {}\n"
    assert statements(body) == [["x", ":=", "[", "]", "int", "{", "1", ",", "}"],
                                ["y", "(", ")"], ["if", "x", "{", "return", "}"]]


@pytest.mark.parametrize("body, nothing", [
    ("\n}\n", True), ("\t}\n", True), ("\t// later\n}\n", True), ("\treturn\n}\n", True),
    ('\tpanic("")\n}\n', True), ("\tpanic(x)\n}\n", True), ('\treturn "", nil\n}\n', True),
    ("\treturn map[string]int{}\n}\n", True), ("\treturn -1 }\n", True),
    ("\treturn []byte{1,\n\t\t2}\n}\n", True), ("\treturn x\n}\n", False),
    ('\treturn errors.New("")\n}\n', False), ("\tx()\n\treturn nil\n}\n", False),
    ("\tpanics(1)\n}\n", False)])
def test_trivial(body, nothing):
    assert trivial(body) == nothing


@pytest.mark.parametrize("head, names", [
    ("// F\nfunc F(a, b int, r io.Reader) (n int, err error) {\n", {"a", "b", "r"}),
    ("func F[T any](s []T, f func(x T) bool) T {\n", {"s", "f", "x"}),
    ("func (l *list) Len() int {\n", {"l", "list"}), ("func F() (n int) {\n", set()),
    ("func F(string, int) bool {\n", set())])
def test_parameters(head, names):
    assert parameters(head) == names


@pytest.mark.parametrize("body, unused", [
    ("\treturn a\n}\n", False), ("\treturn n, err\n}\n", True),
    ("\t// a\n\treturn 1, nil\n}\n", True),
    ('\treturn 1, fmt.Errorf("a")\n}\n', True),
    ("\tif x := a; x > 0 {\n\t}\n\treturn\n}\n", False)])
def test_ignores(body, unused):
    head = "// F does a.\nfunc F(a int) (n int, err error) {\n"
    assert ignores(head, body) == unused, "whether a is used, a parameter"
    assert not ignores("func F() int {\n", body), "there is nothing to ignore"


ROW = problem_of("// F is.\nfunc F(a int) int {\n", "", "me")


def written(text, end=()):
    """A body whose text follows the { of the head."""
    body = Body(TOKENIZER)
    for i in [*TOKENIZER.encode("\n\t" + text), *end]:
        if body.ended:
            break
        body.add(i, -1.0, 0.5)
    return body


def test_a_body_ends_where_the_function_does():
    text = 'if x {\n\t\treturn "}"\n\t}\n\treturn 2\n}\n'
    body = written(text + "\nfunc g() {\n}\n")
    assert body.ended and body.completion(ROW) == "\t" + text, "a line } ends it"
    assert body.ids == TOKENIZER.encode("\n\t" + text), "its end is one of its ids"
    assert body.own == [1] * len(body.ids) and body.logps == [-1.0] * len(body.ids)
    assert not written("return 1\n\t}\n").ended and not written("\treturn 1\n}").ended
    bos = TOKENIZER.special["<|bos|>"]
    body = written("return 1\n", [bos])
    assert body.ended and body.ids[-1] == bos
    assert body.completion(ROW) == "\treturn 1\n"
    assert not written("1", [TOKENIZER.special["<|python_start|>"]]).ended, "nothing is called"


def test_facts():
    """The compiler isn't asked of a body that was cut off; what compiles may still be idle."""
    asked = []
    groups = [[written("return 1\n}\n"), written("return a\n}\n"), written("return a +")]]
    found = facts([ROW], groups, lambda programs: asked.extend(programs) or [2, 3])
    assert asked == [program_of(ROW, "\treturn 1\n}\n"), program_of(ROW, "\treturn a\n}\n")]
    assert [[one[name] for name in FACTS] for one in found[0]] == [
        [True, True, False, True, True, False], [True, True, True, False, False, True],
        [False, False, False, False, False, False]]


# ---- the compiler ----
def test_what_is_known_is_not_asked_again(monkeypatch):
    monkeypatch.setattr(bodies, "AT_ONCE", 2)
    calls = []

    def check(programs, data_dir, unsafe):
        calls.append(programs)
        return [len(program) for program in programs]
    compiler = Compiler(check=check)
    assert compiler(["a", "bb", "a", "ccc"]) == [1, 2, 1, 3] and compiler(["ccc", "a"]) == [3, 1]
    assert calls == [["a", "bb"], ["ccc"]], "at most so many at once, and each once"
    assert compiler([]) == [] and checked([]) == []


def test_a_program_that_takes_all_the_time(monkeypatch):
    """Only that one is given up; others are tried without it."""
    def go(words, work, *how):
        slow = any("slow" in file.read_text() for file in work.glob("*/p.go"))
        return Outcome("timeout" if slow and words[1] == "build" else "ended", 0, 0.0, b"", "")
    monkeypatch.setattr(bodies, "go", go)
    assert checked(["a", "b", "slow", "c", "d"]) == [3, 3, 1, 3, 3]
    monkeypatch.setattr(bodies, "go", lambda *_: Outcome("ended", 1, 0.0, b"", "the disk is full"))
    with pytest.raises(ValueError, match="gofmt -e -l . says: the disk is full"):
        checked(["a"])


@needs_go
def test_how_far_go_gets():
    """Errors are put down to the package that has them, whatever the others say."""
    right = "package p\n\nfunc f() int {\n\treturn 1\n}\n"
    programs = [
        right, "package p\n\nfunc f() int {\n\treturn 1\n",  # it doesn't parse
        "package p\n\nfunc f() int {\n\treturn x\n}\n", right,  # it doesn't compile
        "package p\n\nfunc f() int {\n\tx := 1\n\treturn 2\n}\n",
        "package p\n\nfunc f() int {\n}\n", right,
        'package p\n\nimport "fmt"\n\nfunc f() {\n\tfmt.Printf("%d", "a")\n}\n',  # vet finds it
        "package p\nfunc f( ) int{return 1}\n",  # not as gofmt writes it
        "package p\n\nfunc f() {\n\tx := `\np0/p.go:1:1: bad\n# all/p3\nvet: ./p6/p.go:1: no`\n}\n"
    ]
    expected = [3, 0, 1, 3, 1, 1, 3, 2, 3, 1]
    assert checked(programs, DATA) == expected
    assert checked(programs[::-1], DATA) == expected[::-1]


@needs_go
def test_a_folder_that_is_guessed_is_not_blamed(monkeypatch):
    """A program may imitate what the compiler says, but it doesn't know the other's folder."""
    right, seen = "package p\n\nfunc f() int {\n\treturn 1\n}\n", []
    liar = 'package p\n\nfunc f() {\n\tvar x int = "\\np0x0/p.go:1:1: bad"\n}\n'
    whole = bodies.go

    def go(words, work, *how):
        seen.append(sorted(path.name for path in work.iterdir() if path.is_dir()))
        return whole(words, work, *how)
    monkeypatch.setattr(bodies, "go", go)
    assert checked([right, liar], DATA) == [3, 1] == checked([right, liar], DATA)
    assert all(len(name) > 16 for name in seen[0]) and not {*seen[0]} & {*seen[3]}, (
        "another name each time")


@needs_go
def test_a_head_of_a_real_file(tmp_path):
    (tmp_path / "a").mkdir()
    for n in range(12):
        (tmp_path / f"a{n}").mkdir()
        (tmp_path / f"a{n}/a.go").write_text(
            f"package a\n\n// F{n} adds.\nfunc F{n}(a int) int {{\n\treturn a + {n}\n}}\n\n"
            f"// G{n} is.\nfunc G{n}(a int) int {{\n\treturn other(a)\n}}\n", encoding="utf-8")
    found = find_heads([f"folder:{tmp_path}"], tmp_path / "data", TOKENIZER, 200,
                       Compiler(DATA))
    assert sorted(row["task_id"].split()[2][0] for rows in found for row in rows) == ["F"] * 12, (
        "G calls what isn't there")
    assert SimpleNamespace(**found[0][0]).canonical_solution.startswith("\treturn a + ")
