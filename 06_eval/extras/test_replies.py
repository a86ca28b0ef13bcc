"""Tests of replies.py: what is taken out of a chat model's answer."""

import time

import pytest

from replies import (blocks_of, body_start, code_of, completion_of, function_at_end, indented,
                     instruction, name_of, parts_of)

GO = ('import (\n    "math"\n)\n\n// Half is a half of x.\nfunc Half(x float64) float64 {\n'
      '    return x / 2\n}\n\n// Root returns the root of the half of x.\n'
      'func Root(x float64) float64 {\n')
BODY = "\treturn math.Sqrt(Half(x))\n}\n"
WHOLE = "func Root(x float64) float64 {\n" + BODY
PYTHON = ('import math\nfrom typing import List\n\n\ndef half(x: float) -> float:\n'
          '    return x / 2\n\n\ndef roots(values: List[float] = [1], sep=":") -> List[float]:\n'
          '    """ The roots of halves.\n    >>> roots([2])\n    [1.0]\n    """\n')
LINES = "    for x in values:\n        pass\n    return [math.sqrt(half(x)) for x in values]\n"
DEF = 'def roots(values: List[float] = [1], sep=":") -> List[float]:\n'


def fenced(code, language="go"):
    return f"```{language}\n{code.rstrip()}\n```\n"


# ---- parts ----
def test_parts_of():
    """They make the code up; a line in a bracket, a string or a comment begins none."""
    go = ("package p\n\n// A func\nfunc A(\n\tx int,\n) {\n/*\nfunc no() {\n*/\ns := `\nfunc no(`\n"
          "c := '{' + \"}\\\"{\" // {\n}\n\ntype B struct {\n\tx int\n}\nvar (\n\ty = 1\n)\n")
    assert parts_of(go, False) == [
        "package p\n\n", "// A func\n", go[go.index("func A"):go.index("type B")],
        "type B struct {\n\tx int\n}\n", "var (\n\ty = 1\n)\n"]
    python = ('\nimport a\n@b\n@c(1)\nasync def d(e=")"):\n    """ {\nno\n"""\n\n    return {\n1}\n'
              "# don't (\nX = '''\nno'''\n")
    assert parts_of(python, True) == [
        "\n", "import a\n", python[python.index("@b"):python.index("# don't")], "# don't (\n",
        "X = '''\nno'''\n"]
    for code, kind in ((go, False), (python, True), (") }\nfunc F() {}\n", False), ("", True)):
        assert "".join(parts_of(code, kind)) == code
    assert len(parts_of(")\nfunc F() {}\n", False)) == 2, "a bracket too many opens nothing"


def test_name_of():
    for part, name in (("func F[T any](x T) {", ("func", None, "F")), ("var (\n\tx = 1\n)",) * 2,
                       ("func (s *Set[K]) Len() int {", ("func", "Set", "Len")),
                       ("func (Set) Len() int {", ("func", "Set", "Len")),
                       ("type T struct {\n}\n", ("type", None, "T")), ("fmt.Println()\n",
                                                                       "fmt.Println()"),
                       ("@a\nasync def f(x):\n", ("def", None, "f"))):
        assert name_of(part) == (name if isinstance(name, tuple) else (name,))


def test_body_start():
    for signature in ("func F(x interface{}, y struct{ a int }) map[string]struct{} {",
                      "func (s S) F(\n\tx func() int,\n) (n int, err error) {",
                      "func F[T interface{ ~int }]() interface {} {"):
        assert body_start(signature + " return {} }", False) == len(signature)
    for signature in ('def f(x: int = {1: 2}[1], y=":") -> Dict[str, int]:',
                      "@a(b=':')\ndef f(x):"):
        assert body_start(signature + " return x[1:]", True) == len(signature)
    assert body_start("func F(x int", False) == len("func F(x int")


def test_function_at_end():
    assert function_at_end(GO) == "func Root(x float64) float64 {\n"
    assert function_at_end(PYTHON).startswith(DEF)
    with pytest.raises(ValueError, match="no function begins in the prompt 'var x"):
        function_at_end("var x = 1\n")


def test_indented():
    wanted = "    if x:\n        y()\n    return z\n"
    for body in (wanted, "if x:\n    y()\nreturn z\n", "if x:\n        y()\n    return z\n",
                 "\t\tif x:\n\t\t    y()\n\t\treturn z\n", "  if x:\n      y()\n  return z\n"):
        assert indented(body) == wanted
    assert indented("if x:\n    y()\n") == "    if x:\n        y()\n"
    assert indented("y()\n    return z\n") == "    y()\n    return z\n"
    assert indented("    x = '''\nz'''\n") == "    x = '''\nz'''\n", "a string is left alone"
    assert indented("") == ""


def test_blocks_of():
    answer = ("First\n```go\na\n```\nthen\n~~~~\n```\nb\n~~~\n~~~~\n```sh\ngo run x\n```\n"
              " 1. c\n    ```Python\n    c\n    ```\n```\nd")
    assert blocks_of(answer) == ["a\n", "```\nb\n~~~\n", "    c\n", "d"]
    assert blocks_of("none ``` here") == []


# ---- the exercise ----
def test_the_function_is_found():
    """Whatever stands around it."""
    for answer, what in (
            (fenced(WHOLE), "a block"), (fenced(WHOLE, ""), "a block in no language"),
            (f"Sure! {{\n\n{fenced(WHOLE)}\nIt's right: (", "explanations"),
            (f"a = 2 works:\n\n{WHOLE}\nSo `Root` is done.\n", "no block"),
            (fenced("go mod init x\n", "sh") + fenced(WHOLE), "a block for the shell"),
            (fenced("x := Root(2)\n") + fenced(WHOLE), "a block that only calls the function"),
            (fenced(WHOLE) + fenced(WHOLE.replace("math.Sqrt", "slow")), "the first of two blocks"),
            (f"<think>\n{fenced('func Root() {}')}</think>\n{fenced(WHOLE)}", "thoughts"),
            (f"hm {fenced('func Root() {}')}</think>{fenced(WHOLE)}", "the end of thoughts"),
            (fenced(WHOLE)[:-5], "a block without an end"),
            (fenced(WHOLE).replace("\n", "\r\n"), "line ends of Windows"),
            (f"1. So:\n   {fenced(WHOLE)}".replace("\n", "\n   "), "a list"),
            (fenced(GO + BODY), "the prompt once more"),
            (fenced('package main\n\nimport (\n\t"fmt"\n\t"math"\n)\n\n' + WHOLE +
                    "\n// run it\nfunc main() {\n\tfmt.Println(Root(8))\n}\n"), "a program"),
            (fenced(WHOLE + "\nfunc TestRoot(t *testing.T) {\n}\n"), "a test"),
            (fenced(WHOLE + "\nfunc Root(x int) {\n}\n"), "the function twice")):
        assert completion_of(GO, answer) == BODY, f"the body is not what is left of {what}"
    line = "func Root(x float64) float64 { return 1 }"
    assert completion_of(GO, fenced(line)) == " return 1 }\n", "a function in one line has a body"


def test_helpers_of_go():
    """In front of the function or behind it, they stand behind its body, each once."""
    helper = "func twice(x int) int {\n\treturn 2 * x\n}\n"
    kind = "type pair struct {\n\ta int\n}\n"
    for code, wanted, what in (
            (WHOLE + "\n" + helper, f"{BODY}\n{helper}", "a helper behind the function"),
            (f"{helper}\n// Root is\n{WHOLE}", f"{BODY}\n{helper}", "a helper before the function"),
            (f"{kind}\n{WHOLE}\n{helper}\nvar n = 1", f"{BODY}\n{kind}\n{helper}\nvar n = 1\n",
             "types and variables"),
            (f"func Half(x float64) float64 {{\n\treturn 1\n}}\n{WHOLE}", BODY,
             "a function that the prompt has already"),
            (f"{WHOLE}\nfunc mainly() {{\n}}\n", f"{BODY}\nfunc mainly() {{\n}}\n",
             "a helper whose name begins with main")):
        assert completion_of(GO, fenced(code)) == wanted, f"{what}: not what the program needs"
    method = "type S struct{}\n\nfunc (s *S) Len() int {\n"
    assert completion_of(method, fenced("func (q Q) Len() int {\n\treturn 1\n}\n\nfunc (s *S) "
                                        "Len() int {\n\treturn 2\n}\n")) == (
        "\treturn 2\n}\n\nfunc (q Q) Len() int {\n\treturn 1\n}\n"), "a method of another type"


def test_a_body_alone():
    """The function's braces are closed, Python's lines indented."""
    for answer, what in ((fenced(BODY), "in a block"), (BODY, "as it is"),
                         (fenced(BODY[:-2]), "without its last brace"),
                         (f"{BODY}\nfunc main() {{\n}}\n", "with a main function")):
        assert completion_of(GO, answer).split() == BODY.split(), f"a body alone, {what}, is lost"
    bare = "\n".join(line[4:] for line in LINES.splitlines())
    for answer in (fenced(LINES, "python"), fenced(bare + "\n", "py"), LINES, LINES.strip()):
        assert completion_of(PYTHON, answer) == LINES, "a body of Python is not 4 spaces in"
    for prompt in (GO, PYTHON):
        for answer in ("", "\n", "```\n```", "<think>it is"):
            assert completion_of(prompt, answer) == "", "where there is no code there is a body"
    assert completion_of(GO, "I can't.") == "I can't.\n}\n"


def test_python():
    """Imports, helpers and constants go into the body, calls for show don't."""
    helper = "@cache\ndef twice(x):\n    return 2 * x\n"
    inside = "    @cache\n    def twice(x):\n        return 2 * x\n"
    document = PYTHON[PYTHON.index('    """'):]
    for code, wanted, what in (
            (DEF + LINES, LINES, "the function alone"), (PYTHON + LINES, document + LINES, "all"),
            (DEF + LINES.replace("    ", "  "), LINES.replace("        pass", "      pass"),
             "two spaces in"),
            (DEF + LINES.replace("    ", "\t"), LINES.replace("        pass", "    \tpass"),
             "a tab in"),
            (f"import math\nimport sys\n\n{helper}\nN: int = 2\nM = 3\n\n{DEF}{LINES}",
             f"    import sys\n{inside}    N: int = 2\n    M = 3\n{LINES}", "before the function"),
            (f"{DEF}{LINES}\n\n{helper}\nx = roots([2])\nprint(x)\nassert x == 1\n"
             'if __name__ == "__main__":\n    roots([])\n', inside + LINES, "behind the function"),
            (f"from __future__ import annotations\nfrom math import *\n{DEF}{LINES}", LINES,
             "what no function may import"),
            (f"def half(x):\n    return 0\n\n\n{DEF}{LINES}", LINES, "what the prompt has")):
        assert completion_of(PYTHON, fenced(code, "python")) == wanted, (
            f"{what}: not what the program of Python needs")


def test_code_of():
    """What the exercise begins with."""
    assert code_of(GO, f"a\n{fenced('x')}b\n{fenced(WHOLE)}") == WHOLE
    assert code_of(GO, fenced("return x")) == "func Root(x float64) float64 {\nreturn x\n}\n"
    assert code_of(PYTHON, "return x") == f"{DEF[:-1]}\n    return x"


def test_hostile_answers_take_no_time():
    start = time.process_time()
    for text in ("`" * 100_000, '"\\' * 50_000, "func(" * 20_000, "func (\n" * 20_000,
                 "/*" * 50_000, "<think>" * 20_000, "@a\n" * 30_000, "({[" * 30_000,
                 '"""' * 30_000 + '"', "```\n" * 30_000, " \t" * 50_000, "def f" * 20_000,
                 "type a = " * 10_000):
        for prompt in (GO, PYTHON):
            assert isinstance(completion_of(prompt, text), str)
            completion_of(prompt, f"{WHOLE}{DEF}{text}")
    assert time.process_time() - start < 20


def test_instruction():
    assert GO.rstrip() in instruction(GO) and "Go" in instruction(GO)
    assert "Python" in instruction(PYTHON) and "```python\n" in instruction(PYTHON)
