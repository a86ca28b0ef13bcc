"""Would the tests notice? Every exercise's body is changed in one place at a time, by machine, and
the quick tests of its folder are run. bench.py calls it.

A change is small: a comparison turned round, a number off by one, a term dropped, two arguments
swapped, a root or a detach() lost, a statement left out. A mutant is caught if a test fails, or
does not end. One that survives shows either a missing test, or a change that changes nothing: those
are listed in equal_mutants.py, with the reason. Texts of messages are not changed.

Tests are collected once; each mutant then has a process of its own, forked from that one, in which
the function gets the changed body. (DeMillo, Lipton and Sayward 1978: "Hints on test data
selection".)
"""

import ast
import collections
import contextlib
import copy
import inspect
import io
import operator
import os
import resource
import signal
import sys
import types
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import ROOT

from blank import exercises
from equal_mutants import EQUAL
from housekeeping import Progress

OPPOSITE = {ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt),
            ast.GtE: (ast.Gt, ast.LtE), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,),
            ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
            ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
            ast.FloorDiv: (ast.Div,), ast.Mod: (ast.FloorDiv,), ast.Pow: (ast.Mult,),
            ast.And: (ast.Or,), ast.Or: (ast.And,)}
DIMS = {"dim", "axis"}
SYMMETRIC = {"max", "maximum", "min", "minimum", "transpose"}
PATIENCE = 10  # seconds of a processor for a test, and 20 times as many by the clock
MEMORY = 8 << 30  # bytes for a mutant


# ---- the changes ----
def changed(node):
    """Yield all syntax trees that differ from this expression or statement in one small thing."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in OPPOSITE[type(op)]:
                yield ast.Compare(node.left, [*node.ops[:i], other(), *node.ops[i + 1:]],
                                  node.comparators)
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)):
        for other in OPPOSITE.get(type(node.op), ()):
            yield replaced(node, op=other())
    if isinstance(node, ast.BinOp):
        yield node.left
        yield node.right
    if isinstance(node, ast.BoolOp):
        yield from node.values
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    if isinstance(node, ast.IfExp):
        yield node.body
        yield node.orelse
    if isinstance(node, ast.Constant):
        yield from (ast.Constant(value) for value in other_values(node.value))
    if isinstance(node, ast.Call):
        yield from changed_calls(node)
    if isinstance(node, (ast.If, ast.While)):
        yield replaced(node, test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, (ast.Assign, ast.AugAssign, ast.Expr, ast.If, ast.For, ast.While,
                         ast.With, ast.Raise, ast.Continue, ast.Break)):
        yield ast.Pass()


def replaced(node, **fields):
    node = copy.copy(node)
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def other_values(value):
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    return [value * 2, value / 2] if isinstance(value, float) else []


def changed_calls(node):
    """A call with two arguments swapped, one left out, another dim; or not made at all: of a method
    what it is called on, of a function its first argument.
    """
    arguments = node.args
    symmetric = getattr(node.func, "attr", getattr(node.func, "id", "")) in SYMMETRIC
    for i in range(0 if symmetric else len(arguments) - 1):
        yield replaced(node, args=[*arguments[:i], arguments[i + 1], arguments[i],
                                   *arguments[i + 2:]])
    for i, keyword in enumerate(node.keywords):
        others = [*node.keywords[:i], *node.keywords[i + 1:]]
        yield replaced(node, keywords=others)
        with contextlib.suppress(ValueError):
            if keyword.arg in DIMS and isinstance(dim := ast.literal_eval(keyword.value), int):
                yield replaced(node, keywords=[*others, ast.keyword(
                    keyword.arg, ast.Constant(0 if dim else -1))])
    if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
        yield node.func.value
    elif isinstance(node.func, ast.Attribute) and not arguments:
        yield node.func.value  # x.detach(), x.clone()
    if len(arguments) == 1 and not node.keywords and not isinstance(arguments[0], ast.Starred):
        yield arguments[0]  # sqrt(x), float(x)


def slots(node):
    """(where, key, child) for every place below a node that holds an expression or a statement: a
    list of the tree and an index, or the attributes of a node, as a dict, and a name.
    """
    for name, value in ast.iter_fields(node):
        places = enumerate(value) if isinstance(value, list) else [(name, value)]
        for key, child in places:
            if isinstance(child, (ast.expr, ast.stmt)):
                yield value if isinstance(value, list) else vars(node), key, child
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):  # a message
                yield from slots(child)


def mutants(path):
    """Yield (exercise, the change in words, its line, code object of the changed exercise) of a
    file. Of changes with the same words the second ends with (2), and so on.
    """
    source = path.read_text(encoding="utf-8")
    for exercise in exercises(source):
        tree = ast.parse(source)
        node = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)
                    and n.lineno == exercise.lineno)
        free = code_of(tree, path, exercise.title).co_freevars
        node.body.pop(0)  # the docstring
        seen, times = {ast.dump(node)}, collections.Counter()
        for where, key, child in list(slots(ast.Module(node.body, []))):
            for other in changed(child):
                where[key] = other
                if (text := ast.dump(node)) not in seen:
                    seen.add(text)
                    code = code_of(tree, path, exercise.title)
                    if code.co_freevars == free:  # else Python refuses to exchange it
                        words = f"{ast.unparse(child)} -> {ast.unparse(other)}"
                        words = " ".join(words.split())
                        times[words] += 1
                        words += f" ({times[words]})" if times[words] > 1 else ""
                        yield exercise.title, words, child.lineno, code
                where[key] = child


def code_of(tree, path, title):
    """The code object of the function of that title in a module's syntax tree."""
    found = [compile(ast.fix_missing_locations(tree), str(path), "exec")]
    for code in found:
        found += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
    return next(code for code in found if code.co_qualname == title)


def function_of(path, title):
    """The function of that title, below its decorators, in a module that tests have imported."""
    found = operator.attrgetter(title)(sys.modules[path.stem])
    found = inspect.unwrap(getattr(found, "fget", getattr(found, "__func__", found)))
    assert found.__code__.co_filename == str(path), f"{path}: {title}"
    return found


# ---- the tests ----
class Mutating:
    """A pytest plugin that runs the tests collected once for each of [(path, exercise, change,
    line, code)]. Prints those that no test notices on `out`, and counts them.
    """

    def __init__(self, todo, progress, out):
        self.todo, self.progress, self.out, self.missed = todo, progress, out, 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session):
        running, free = {}, os.cpu_count() or 1
        found, self.failing = os.pipe()
        self.start(session)
        ended_badly = os.wait()[1]
        os.close(self.failing)
        with open(found, encoding="utf-8") as file:  # some measure what a fork has otherwise
            for item in [session.items[int(line)] for line in file]:
                print(f"left out, as it fails without any change: {item.nodeid}", file=self.out)
                session.items.remove(item)
        session.testsfailed = ended_badly or not session.items
        if session.testsfailed:
            return True
        for n, mutant in enumerate([*self.todo, *[None] * free]):
            if len(running) == free or not mutant and running:
                pid, status = os.wait()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)  # what its tests have left
                found, title, change, line, _ = running.pop(pid)
                if status == 0:
                    self.missed += 1
                    print(f"missed: {found.name}:{line}, {title}: {change}", file=self.out,
                          flush=True)
            if mutant:
                running[self.start(session, *mutant)] = mutant
            self.progress.show(lambda: f"{n} of {len(self.todo)} mutants begun")
        return True

    def start(self, session, path=None, title="", change="", line=0, code=None):
        """The id of a process that runs the tests, those named like the exercise first, until one
        fails, does not end, or takes all memory; then it does not end with 0. Without a mutant it
        runs all, and writes into a pipe which of them fail.
        """
        function = code and function_of(path, title)
        if pid := os.fork():
            return pid
        os.setsid()  # so that it can be killed with all that it starts
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            items = session.items
            if code:
                function.__code__ = code
                name = title.split(".")[-1].strip("_")
                items = sorted(items, key=lambda item: (
                    item.path.stem != f"test_{path.stem}", name not in item.name))
            for item, after in zip(items, [*items[1:], None]):
                signal.setitimer(signal.ITIMER_PROF, PATIENCE)  # each ends this process
                signal.alarm(round(20 * PATIENCE))
                if any(report.failed for report in
                       runtestprotocol(item, log=False, nextitem=after)):
                    if code:
                        break
                    os.write(self.failing, f"{session.items.index(item)}\n".encode())
            else:
                status = 0
        finally:
            os._exit(status)


def left_over(todo):
    """[(file, change)] that equal_mutants.py names of these files, and that are no longer made."""
    made = {(path.name, (title, change)) for path, title, change, *_ in todo}
    files = {path.name for path, *_ in todo}
    return [(file, change) for file in files for change in EQUAL.get(file, ())
            if (file, change) not in made]


def bench_mutants(folders, share=1, only=""):
    """Prints, for each folder, how many of its mutants were caught, and those that were not. Takes
    every `share`-th, of the exercises whose "file.py:name" holds `only`. Returns the share of the
    caught, of those that change what an exercise does.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch
    torch.set_num_threads(1)  # of a process that is forked only one thread lives
    torch.ones(1, device="meta").add(1)  # loads for seconds what every process would load
    total = collections.Counter()
    with Progress(patience=0) as progress:
        for folder in map(Path, folders or sorted(ROOT.glob("0?_*/")) + sorted(
                ROOT.glob("0?_*/extras/"))):
            tests = [str(path) for path in sorted((ROOT / folder).glob("test_*.py"))]
            todo = [(path, *mutant) for path in sorted((ROOT / folder).glob("*.py"))
                    for mutant in mutants(path) if only in f"{path.name}:{mutant[0]}"][::share]
            equal = [mutant for mutant in todo if mutant[1:3] in EQUAL.get(mutant[0].name, ())]
            plugin = Mutating([mutant for mutant in todo if mutant not in equal], progress,
                              sys.stdout)
            for file, change in left_over(todo) if share == 1 and not only else ():
                print(f"equal_mutants.py, {file}: no such change: {change}")
            with contextlib.redirect_stdout(io.StringIO()):
                code = pytest.main([*tests, "-s", "--assert=plain", "-p", "no:cacheprovider", "-p",
                                    "no:unraisableexception", "-m", "not slow"],
                                   plugins=[plugin])
            if code:
                raise ValueError(f"{folder}: tests fail without any change (pytest: {code})")
            counts = {"caught": len(plugin.todo) - plugin.missed, "missed": plugin.missed,
                      "equal": len(equal)}
            print(f"{folder}: {counts}", flush=True)
            total.update(counts)
    share = total["caught"] / max(1, total["caught"] + total["missed"])
    print(f"{total['caught']:,} caught, {total['missed']:,} missed: {share:.1%}; "
          f"{total['equal']:,} change nothing")
    return share
