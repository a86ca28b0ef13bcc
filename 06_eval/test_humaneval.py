"""Tests of humaneval.py: where completions end, what counts as a pass, whole judgements."""

import gzip
import json

import pytest

from humaneval import (OURS, Options, cut_go, cut_python, judge, judge_all, main, read_problems,
                       summary, tokens, verdict)
from sandbox import Outcome, trouble

WHY = trouble()
needs_sandbox = pytest.mark.skipif(bool(WHY), reason=f"programs can't be run safely: {WHY}")
PROBLEM = {"task_id": "ours/0", "prompt": 'def double(n):\n    """Twice n."""\n',
           "canonical_solution": "    return 2 * n\n", "entry_point": "double",
           "test": "def check(candidate):\n    assert candidate(2) == 4\n"
                   "    assert candidate(-3) == -6\n"}


# ---- Go ----
def test_tokens(explains):
    code = 'x := a.b("}\\"", `{\n`, \'{\') // {\n/* } */ y... 0x1F 1e-9 .5'
    with explains("every part of a text is some kind of token"):
        found = [*tokens(code)]
    assert "".join(text for _, text in found) == code, "tokens leave nothing out"
    kinds = [(kind, text) for kind, text in found if kind not in ("space", "other")]
    assert kinds == [("name", "x"), ("name", "a"), ("name", "b"), ("text", '"}\\""'),
                     ("text", "`{\n`"), ("text", "'{'"), ("comment", "// {"),
                     ("comment", "/* } */"), ("name", "y"), ("number", "0x1F"),
                     ("number", "1e-9"), ("number", ".5")]
    assert [text for kind, text in found if kind == "other"] == [
        ":=", ".", "(", ",", ",", ")", "..."]
    for odd in ('"never closed\n', "`never closed", "'", "/* never closed", "\0\ud800é"):
        assert "".join(text for _, text in tokens(odd)) == odd, "damaged text is text, too"


@pytest.mark.parametrize("completion, rest, what", [
    ("\treturn x\n}", "\nvar y = 1\n", "a completion ends with its function"),
    ("\tif x {\n\t\treturn 1\n\t}\n\treturn 2\n}", "\n\ntype T int\n",
     "a } that closes a { of the completion is not the end of the function"),
    ("\treturn \"}\" + `}` + string('}') // }\n}", "\nconst c = 1",
     "a brace in a string, a character or a comment is no brace"),
    ("\treturn T{1, []int{2}}.f(struct{}{})\n}", "\n// }\n", "literals have braces, too"),
    ("\treturn two(x)\n}\n\n// two is.\nfunc two(x int) int {\n\treturn 2\n}", "\nimport \"os\"\n",
     "functions that follow at once are kept, as the first may call them"),
    ("\treturn a(x)\n}\nfunc a(x interface{}) interface{ M() } {\n\treturn x\n}", "\ntype T int\n",
     "the braces of interface{} in the head of a function are not its body"),
    ("\treturn a(x)\n}\nfunc (s S[T]) a(x struct{ y int }) {\n}\nfunc b() {}",
     "\n```\nfunc c() {}\n", "what stands behind the functions ends the completion"),
    ("\treturn 1\n}", "\n\nfunc two(x int) int {\n\treturn",
     "a function without an end is cut off"),
    ("\treturn 1\n}", "\nfunc init", "the head of a function is no function"),
    ("\treturn 1\n", "", "a completion that never ends its function is kept as it is"),
    ("", "", "an empty completion is kept as it is")])
def test_cut_go(completion, rest, what, explains):
    with explains(what):
        found = cut_go(completion + rest)
    assert found == completion, what


# ---- Python ----
def test_cut_python():
    assert cut_python("    return 1\n\ndef f():\n    pass\n") == "    return 1\n", (
        "a completion ends where another function begins")
    for stop in ("\nclass A:", "\n# more", "\nif x:", "\nprint(1)"):
        assert cut_python(f"    return 1{stop}\n\ndef g(): pass") == "    return 1", (
            f"the first stop counts, here {stop!r}")
    whole = "    def inner():\n        if x: print(1)  # why\n    return inner()\n"
    assert cut_python(whole) == whole, "indented lines belong to the function"


# ---- the judge ----
def outcome(said=b"", code=0, kind="ended", output=""):
    return Outcome(kind, code, 0.1, said, output)


def test_verdict(explains):
    good = outcome()
    with explains("a program that isn't compiled has no Outcome of compiling"):
        assert verdict(None, outcome(b"KEYpassed"), "KEY") == "passed", (
            "the word behind the secret is the verdict")
    assert verdict(good, outcome(b"KEYwrong answer", 1), "KEY") == "wrong answer", (
        "the word behind the secret is the verdict, also when it is not passed")
    assert verdict(good, outcome(code=0, output="--- PASS: TestX\nPASS\nok"), "KEY") == (
        "ended early"), "exit code 0 without the secret is no pass, whatever was printed"
    assert verdict(good, outcome(b"passed"), "KEY") == "ended early", (
        "a verdict without the secret before it is not the test's")
    assert verdict(good, outcome(b"NOTpassed KEYpassed", 0), "KEY") == "ended early", (
        "the secret comes first: it is not searched for in what a program says")
    assert verdict(good, outcome(code=2), "KEY") == "crash", "an exit code without the secret"
    assert verdict(good, outcome(code=-11), "KEY") == "crash", "a signal without the secret"
    for kind in ("timeout", "memory"):
        assert verdict(good, outcome(b"KEYpassed", -9, kind), "KEY") == kind, (
            "what was ended by a limit has not passed, even if it said so before")
    for built in (outcome(code=1), outcome(kind="timeout"), outcome(kind="memory", code=-9)):
        assert verdict(built, None, "KEY") == "compile error", (
            "what can't be compiled to its end is a compile error")


def test_compiling_takes_no_time_of_the_program(monkeypatch):
    """Two limits: a program gets all of its seconds, however long its compiler took."""
    given = []
    fakes = {"go_files": lambda *rest: "work", "go_program": lambda *rest: (),
             "go_build": lambda *rest: Outcome("ended", 0, 60.0, b"", ""),
             "go_run": lambda work, secret, limits, unsafe: given.append(limits) or outcome(
                 (secret + "passed").encode())}
    for name, fake in fakes.items():
        monkeypatch.setattr(f"programs.{name}", fake)
    row = {key: "" for key in ("task_id", "prompt", "test")}
    assert judge(row, "", Options(seconds=2.0, memory=64)) == (True, "passed")
    assert given[0].seconds == 2.0, "the time of compiling is not counted as the program's"
    assert given[0].memory == 64 << 20


@needs_sandbox
def test_judge_python():
    good, options = PROBLEM["canonical_solution"], Options(seconds=5.0)
    cases = [(good, "passed"), ("    return n\n", "wrong answer"),
             ("    return n +\n", "compile error"), ("    raise ValueError\n", "crash"),
             ("    import sys; sys.exit(0)\n", "ended early"),
             ("    return n + n\nimport os; os._exit(0)\n", "ended early"),
             ("    return [0] * 10**9\n", "memory")]
    rows = [*judge_all([(PROBLEM, text) for text, _ in cases], options)]
    assert rows == [(word == "passed", word) for _, word in cases]
    assert judge(PROBLEM, "    while True: pass\n", Options(seconds=0.5)) == (False, "timeout")


def test_summary():
    rows = [{"task_id": task, "passed": word == "passed", "verdict": word} for task, word in (
        *[("a", "passed")] * 5, *[("b", "crash")] * 4, ("b", "passed"))]
    assert [*summary(rows)] == ["passed: 6, crash: 4", "pass@1   60.0%", "pass@5   100.0%"]
    assert [*summary(rows[:9])][1:] == ["pass@1   50.0%"], "b has fewer than 5"


# ---- the command ----
def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_read_problems(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", PROBLEM)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert read_problems(file) == read_problems(f"{file}.gz") == {"ours/0": PROBLEM}
    for wrong, words in (([PROBLEM, PROBLEM], "line 2, has the task_id ours/0, which is taken"),
                         ([[1]], "line 1, is no object of texts"),
                         ([PROBLEM | {"entry_point": 3}], "line 1, is no object of texts"),
                         ([{"task_id": "x", "prompt": ""}], "among them task_id, prompt and test"),
                         ([], "holds no problems")):
        with pytest.raises(ValueError, match=words):
            read_problems(write_rows(tmp_path / "b.jsonl", *wrong))
    file.write_text("{")
    with pytest.raises(ValueError, match="a.jsonl, line 1, is not JSON"):
        read_problems(file)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"x" * 100)[:-9])
    with pytest.raises(ValueError, match="a.jsonl.gz is damaged"):
        read_problems(tmp_path / "a.jsonl.gz")
    with pytest.raises(ValueError, match="holds no problems"):
        read_problems(tmp_path / "..")


def test_our_own_problems():
    """Prompt and solution are the file again; the last function is the one to be written."""
    problems = read_problems(OURS)
    assert len(problems) == 60
    for name, row in problems.items():
        assert row["prompt"] + row["canonical_solution"] == (OURS / f"{name}.go").read_text()
        assert row["prompt"].endswith("{\n") and "\nfunc " not in row["canonical_solution"]


@needs_sandbox
def test_judge_command(tmp_path, capsys, fails):
    problems = write_rows(tmp_path / "problems.jsonl", PROBLEM, PROBLEM | {"task_id": "ours/1"})
    asked = [("ours/1", "    return n + n\n"), ("ours/0", "    return 4\n"),
             ("ours/1", "    return n * 2")]
    file = write_rows(tmp_path / "rows.jsonl", *[
        {"task_id": task, "completion": text} for task, text in asked])
    main(["--problems", str(problems), "--judge", str(file), "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert rows == [{"task_id": task, "passed": word == "passed", "verdict": word} for task, word in
                    zip([task for task, _ in asked], ("passed", "wrong answer", "passed"))]
    main(["--problems", str(problems), "--judge", str(file)])
    assert capsys.readouterr().out.splitlines() == [
        "ours/1               passed", "ours/0               wrong answer",
        "ours/1               passed", "passed: 2, wrong answer: 1", "pass@1   50.0%"]
    main(["--canonical", str(problems)])
    assert capsys.readouterr().out.endswith("passed: 2\npass@1   100.0%\n")
    for row, words in (({"task_id": "x", "completion": ""}, "task_id x, which no problem has"),
                       ({"task_id": "ours/0"}, "is no object of a task_id and a completion"),
                       ({"task_id": [1], "completion": ""}, "is no object of a task_id"),
                       (3, "is no object of a task_id")):
        write_rows(file, row)
        assert words in fails(main, "--problems", problems, "--judge", file)
    assert "give one of them" in fails(main, "--canonical", problems, "--judge", file)
    file.write_text("")
    assert "rows.jsonl is empty" in fails(main, "--problems", problems, "--judge", file)


def test_without_a_sandbox(tmp_path, monkeypatch, fails, capsys):
    """Nothing is run where that isn't safe, unless the user insists."""
    problems = write_rows(tmp_path / "problems.jsonl", PROBLEM)
    monkeypatch.setattr("programs.trouble", lambda: "no namespaces here")
    assert fails(main, "--canonical", problems) == (
        "error: no namespaces here; --unsafe runs programs all the same, as this user")
    main(["--canonical", str(problems), "--unsafe"])
    assert "passed: 1" in capsys.readouterr().out
