"""Tests of renaming.py: which names change, and that nothing else does."""

import random
import re

import pytest

from humaneval import tokens
from renaming import OWN, in_comments, kept_names, new_names, renamed

PROMPT = '''import (
    "math/rand"
    "strings"
)

// Tally counts the parts of lst between n1 and n2, at most k; see Box.Size. Keep a sum.
// >>> Tally([]string{"k", "n1"}, 1, 2, 'k')
// 2 and sumUp(k) = k + 2
func Tally(lst []string, n1, n2 int, k rune) int {
'''
SOLUTION = '''    type pair struct{ first, k2 int }
    sum, box := 0, Box{Size: n1} // n1 is the least
    sumUp := func(n1 int) int { return n1 + rand.Intn(1) }
    for i, part := range lst {
        p := pair{first: i, k2: n2}
        if strings.Contains(part, "lst") && p.first >= n1 {
            sum = sumUp(sum) + box.size() - len(lst[n1:n2])
        }
    }
    return sum
}
'''
TEST = '''func TestTally(t *testing.T) {
    assert := assert.New(t)
    assert.Equal(2, Tally([]string{"a"}, 1, 2, 'k'))
}
'''
ROW = {"task_id": "Go/7", "prompt": PROMPT, "import": "", "canonical_solution": SOLUTION,
       "test_setup": 'package main\n\nimport (\n    "testing"\n    "x.org/testify/assert"\n)\n',
       "test": TEST}


def test_kept_names():
    """Those of others, and all that may be a field, a method, a type or a package."""
    for why, code, kept in (
            ("a variable is renamed", "func f(n int) { m := n }", ""),
            ("a method and a field stay", "func (p P) F(n int) { p.x = n + m }", "F x"),
            ("a method stays, a function's result does not", "func f(n int) (m int) { g(m) }", ""),
            ("a call in the next line is none of a method", "f(n)\n g(m)", ""),
            ("a part of a function may be renamed", "n } }\n func (p P) F() {} m", "F"),
            ("what a function returns is no method", "x := func(n int) y { z }", ""),
            ("what a function without a name calls may change", "x := func(n int) { g(n) }", ""),
            ("a type and a package stay", "package p; type T int; var x T = y", "p T"),
            ("fields and their types stay", "var x struct { a, b T; c struct { d int }; e int }; y",
             "a b T c d e"),
            ("an interface's methods stay", "type I interface { M(n int) T }; f(m)", "I M n T"),
            ("a struct without fields ends", "x := struct{}{}; y", ""),
            ("keys of a literal stay", "x := P{a: b, c: d}; e := x[f:g]; h, i := j", "a c"),
            ("a comment may stand anywhere", "x. /* y */ // z\n  w; type // v\n u", "w u"),
            ("a library's package stays", "sort.Ints(x); time := y; len(z)", "sort Ints"),
            ("imports stay", 'import m "math/bits"\nimport (\n "a/b"\n)\nm, b, c',
             "m math bits a b")):
        found = kept_names(code)
        assert found >= OWN and found - OWN == {*kept.split()} - OWN, (
            f"{why}: {code!r} keeps {found - OWN}")


def test_new_names():
    code = PROMPT + SOLUTION + TEST + ROW["test_setup"]
    new = new_names(code, random.Random(1))
    assert new.keys() == {"Tally", "TestTally", "lst", "n1", "n2", "k", "box", "sumUp", "i", "part",
                          "p"}, "sum, which may be English in the comment, stays"
    assert len({*new.values()}) == len(new) and not {*new.values()} & {*re.findall(r"\w+", code)}
    assert re.fullmatch("[A-Z][a-z]+[A-Z][a-z]+", new["Tally"]) and len(new["k"]) == 1
    assert new["TestTally"] == "Test" + new["Tally"]
    assert new["n1"][:-1] == new["n2"][:-1] and new["n1"][-1] + new["n2"][-1] == "12"
    assert new == new_names(code, random.Random(1)) != new_names(code, random.Random(2))
    snake = new_names("func all_words(big_parts []int) { X1 := 1; x2, x := big_parts }",
                      random.Random(1))
    assert snake["all_words"].count("_") == 1 and snake["big_parts"].endswith("s")
    assert snake["X1"].isupper() and snake["x2"] == snake["x"] + "2"
    crowded = " ".join("bcdefghijklmnopqrsuvwxyz")  # no letter is left
    lengths = [len(name) for name in new_names(crowded, random.Random(1)).values()]
    assert len(lengths) == 24 and lengths.count(1) <= 1, "a is left, and t stays"
    assert new_names("f(y, z) // 2y, but 1s and z", random.Random(1)).keys() == {"f", "z"}


def test_in_comments():
    """Words that mean the name, not those that only look like it."""
    pattern = in_comments({"Add", "lst", "k", "sumUp"})
    text = "// Add adds k's 2k of lst; Add two: Add(k) 'k' \"k\" don'k sumUp(k), Add\n// Add ones"
    assert pattern.sub("_", text) == (
        "// _ adds k's 2k of _; Add two: _(_) 'k' \"k\" don'k _(_), Add\n// _ ones")
    assert in_comments(set()).sub("_", "any text") == "any text"


def test_renamed():
    """The same program: with the names changed back, it is what it was."""
    twin = renamed(ROW)
    new = new_names("\n".join(ROW[key] for key in ROW if key != "task_id"),
                    random.Random("0: Go/7"))
    back = {to: name for name, to in new.items()}
    for key in ROW:
        assert "".join(text if kind == "text" else re.sub(
            r"\w+", lambda found: back.get(found[0], found[0]), text)
            for kind, text in tokens(twin[key])) == ROW[key]
    assert twin["test_setup"] == ROW["test_setup"] and twin.keys() == ROW.keys()
    tally, lst, k = new["Tally"], new["lst"], new["k"]
    assert twin["prompt"].splitlines()[5:] == [
        f"// {tally} counts the parts of {lst} between {new['n1']} and {new['n2']}, at most {k}; "
        "see Box.Size. Keep a sum.",
        f"// >>> {tally}([]string{{\"k\", \"{new['n1']}\"}}, 1, 2, 'k')",
        f"// 2 and sumUp({k}) = {k} + 2",
        f"func {tally}({lst} []string, {new['n1']}, {new['n2']} int, {k} rune) int {{"]
    assert f'strings.Contains({new["part"]}, "lst")' in twin["canonical_solution"]
    assert f"func Test{tally}(t *testing.T)" in twin["test"]
    assert renamed(ROW) == twin != renamed(ROW, 1)
    with pytest.raises(ValueError, match="Python/0 is no problem in Go"):
        renamed({"task_id": "Python/0", "entry_point": "f"})
