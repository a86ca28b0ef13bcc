"""Tests of proxy.py: values that come back as they were, messages of any kind, verdicts."""

import io
import json
import os
from decimal import Decimal
from fractions import Fraction

import pytest

import proxy
from proxy import Judged, Raised, Trouble, answer, pack, receive, send, unpack, verdict


def there_and_back(value):
    return unpack(json.loads(json.dumps(pack(value, lambda values: pack(list(values), None)))),
                  lambda values: iter(unpack(values, None)))


def test_values():
    for value in (None, True, 3, -0.5, 1 << 99, float("inf"), "é\0\ud800", b"\xff\0", (1, (2, [])),
                  {1, (2,)}, frozenset("ab"), {"a": {2: b""}, (1,): None, "list": []}, 2 - 3j,
                  range(9, 1, -2), Fraction(-1, 3), Decimal("1.10"), [[[]], {"list": ["dict"]}]):
        found = there_and_back(value)
        assert found == value and type(found) is type(value)
    assert there_and_back(bytearray(b"a")) == b"a"
    assert there_and_back({1: 2}.keys()) == {1} and there_and_back({1: 2}.items()) == {(1, 2)}
    assert list(there_and_back(iter([1, (2,)]))) == [1, (2,)]
    assert list(there_and_back({1: 2}.values())) == [2]


def test_values_that_lie():
    """Of a value that has methods of its own only the plain value is left."""
    class Number(int):
        __eq__ = __ne__ = lambda self, other: True
        __repr__ = __str__ = lambda self: "5"
        __hash__ = int.__hash__

    class All(list):
        __eq__ = __len__ = lambda self, *other: True
        __iter__ = lambda self: iter([Number(5)])

    class Nothing:
        __eq__ = lambda self, other: True

    assert there_and_back(Number(3)) == 3 and there_and_back(Number(3)) != 5
    assert there_and_back(All([1, 2])) == [1, 2] and len(there_and_back(All([1, 2]))) == 2
    assert there_and_back([Nothing()]) != [1] and there_and_back(print) != print
    assert json.dumps(pack(Nothing, None)) == '{"other": "type"}'


@pytest.mark.parametrize("value", [
    {}, [], [1], {"no": 1}, {"list": [], "set": []}, {"set": [{"list": []}]}, {"list": 3},
    {"dict": [[1]]}, {"dict": [[{"set": []}, 1]]}, {"bytes": "\u0100"}, {"complex": ["a", "b"]},
    {"range": [1, 2, 0]}, {"Fraction": "1/0"}, {"Decimal": "x"}, {"list": None}], ids=str)
def test_values_that_are_none(value):
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        unpack(value, None)


def test_messages():
    file = io.BytesIO()
    send(file, ["é", 1])
    data = file.getvalue()
    file.seek(0)
    assert receive(file) == ["é", 1]
    for cut in (b"", data[:3]):
        with pytest.raises(EOFError):
            receive(io.BytesIO(cut))
    for damaged in (data[:-1], data[:-1] + b"\xff", b"\xff" * 8, b"\xff" * 99):
        with pytest.raises(ValueError):
            receive(io.BytesIO(damaged))


PROBLEM = {"entry_point": "f", "prompt": "def g(x):\n    return x\n\ndef f(x):\n",
           "test": "def check(candidate):\n    assert candidate(g(2)) == 4\n"}


def judged(program, problem=PROBLEM, child=answer):
    """The verdict on a program whose process calls child()."""
    (to_it, from_us), (to_us, from_it) = os.pipe(), os.pipe()
    if not (number := os.fork()):
        try:
            os.close(from_us)
            os.close(to_us)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            child(program, os.fdopen(to_it, "rb"), os.fdopen(from_it, "wb"))
        finally:
            os._exit(0)
    os.close(to_it)
    os.close(from_it)
    try:
        with os.fdopen(to_us, "rb") as reading, os.fdopen(from_us, "wb") as writing:
            word = verdict(problem, number, reading, writing)
    except BrokenPipeError:  # what nobody will read, when the file is closed
        pass
    return word


@pytest.mark.parametrize("program, word", [
    ("f = lambda x: 2 * x", "passed"), ("f = lambda x: x", "wrong answer"), ("f = 1", "crash"),
    ("", "crash"), ("f = lambda x: x +", "compile error"), ("\0", "compile error"),
    ("f = lambda x: 1 / 0", "crash"), ("1 / 0", "crash"), ("raise SystemExit", "ended early"),
    ("f = lambda x: exec('raise SystemExit')", "ended early"),
    ("import os\nf = lambda x: os._exit(0)", "ended early"),
    ("import os\nf = lambda x: os._exit(1)", "crash"),
    ("import os\nf = lambda x: os.kill(os.getpid(), 9)", "crash"),
    ("def f(x): raise MemoryError", "memory"), ("def f(x): raise StopIteration", "crash"),
    ("def f(x): raise AssertionError", "crash"), ("def f(x): raise KeyboardInterrupt", "crash")])
def test_verdicts(program, word):
    assert judged(program) == word


def test_a_test_may_expect_an_exception():
    test = ("def check(candidate):\n    try:\n        candidate(0)\n    except {}:\n"
            "        return\n    assert False\n")
    program = "def f(x): raise KeyError"
    for name, word in (("KeyError", "passed"), ("Exception", "passed"), ("ValueError", "crash")):
        assert judged(program, PROBLEM | {"test": test.format(name)}) == word
    assert judged("def f(x): raise SystemExit",
                  PROBLEM | {"test": test.format("Exception")}) == "ended early"


def test_iterators():
    """Values are made when the test asks for them, and not before."""
    program = ("def f(x):\n    for i in range(3):\n        yield i, seen\n        seen.append(i)\n"
               "seen = []")
    test = ("def check(candidate):\n    a, b = candidate(0), candidate(1)\n"
            "    assert next(a) == (0, []) and next(b) == (0, []) and next(a) == (1, [0])\n"
            "    assert list(a) == [(2, [0, 1])] and next(a, None) is None\n")
    assert judged(program, PROBLEM | {"test": test}) == "passed"
    failing = "def f(x):\n    yield 1\n    raise KeyError"
    test = "def check(candidate):\n    list(candidate(0))\n"
    assert judged(failing, PROBLEM | {"test": test}) == "crash"


def test_what_another_process_could_write():
    """Anything is a verdict: no error, no answer before its question."""
    def lies(program, reading, writing):
        send(writing, {})
        writing.write(program)
        writing.flush()
        receive(reading)
    for reply in (b"", b"\0", b"\xff" * 8, *(len(one).to_bytes(8, "little") + one for one in (
            b"", b"null", b"[]", b"3", b"{}", b'"value"', b'{"value": {}}', b'{"value": [4]}',
            b'{"error": []}', b'{"error": {"a": []}}', b'{"value": {"other": 1}}', b"[" * 9999,
            b'{"error": "StopIteration"}', b'{"error": "Exception", "value": 4}'))):
        assert judged(reply, child=lies) in ("wrong answer", "crash", "ended early"), reply


def test_a_process_of_which_nothing_is_left(monkeypatch):
    """Its end is a verdict; the processor's time being used up is another."""
    def dies(program, reading, writing):
        send(writing, {})
        reading.close()
    assert judged("", child=dies) == "ended early"
    monkeypatch.setattr(proxy.resource, "getrlimit", lambda kind: (0, 0))
    assert judged("", child=dies) == "timeout"
    assert issubclass(Raised, Exception) and not issubclass(Trouble, Exception)
    assert callable(Judged.__call__)
