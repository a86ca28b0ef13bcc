"""Judge a Python program from outside of it: two processes in one sandbox.

A completion that runs in the same process as its test can change anything there: what `assert`
does, what `check` is, what is printed, how the process ends. So the completion gets a process of
its own, which never sees the test. The test runs here; where it calls the function, its arguments
go to the other process, and a value comes back as JSON, of which only plain values are made again:
numbers, strings, bytes, lists, tuples, sets, dicts, ranges, None, and iterators, whose values are
asked for one by one. Any other value is equal to nothing. An exception comes back by its name. What
the function does to its arguments stays in the other process.

programs.py runs this file in a sandbox, as a script without any of our other files:

    standard input: the length of the program and a line end, the program, and a JSON object of
    prompt, test, entry_point and secret
    descriptor 3: the secret, and a verdict behind it

Next: programs.py.
"""

import builtins
import itertools
import json
import os
import resource
import sys
import types

LARGEST = 64 << 20  # bytes of a message
KINDS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
NUMBERS = {"Fraction": "fractions", "Decimal": "decimal"}  # numbers that JSON has not, by module


# ---- values ----
def pack(value, lend):
    """A value as JSON can hold it: numbers, strings and None as they are, others as {kind: ...}.
    lend(iterator) is what stands for an iterator.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    for kind, base in KINDS.items():
        if isinstance(value, base):
            return {kind: [pack(one, lend) for one in base.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[pack(key, lend), pack(one, lend)] for key, one in dict.items(value)]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    kind = type(value).__name__
    if NUMBERS.get(kind) == type(value).__module__:
        return {kind: str(value)}
    if kind in ("dict_keys", "dict_items"):
        return {"set": [pack(one, lend) for one in value]}
    if hasattr(type(value), "__iter__"):
        return {"iterator": lend(iter(value))}
    return {"other": kind}


def unpack(value, borrow):
    """The value that pack() was given, or an equal one; borrow() makes an iterator of what lend()
    has returned. ValueError, or another error, if the value is none of pack()'s.
    """
    if not isinstance(value, (dict, list)):
        return value
    (kind, content), = value.items() if isinstance(value, dict) else ((None, None),)
    if kind in KINDS:
        return KINDS[kind](unpack(one, borrow) for one in content)
    if kind == "dict":
        return {unpack(key, borrow): unpack(one, borrow) for key, one in content}
    if kind == "bytes":
        return content.encode("latin-1")
    if kind == "complex":
        return complex(*content)
    if kind == "range":
        return range(*content)
    if kind in NUMBERS:
        return getattr(__import__(NUMBERS[kind]), kind)(content)
    if kind == "iterator":
        return borrow(content)
    if kind == "other":
        return object()
    raise ValueError(f"no value: {kind}")


# ---- messages ----
def send(file, value):
    data = json.dumps(value).encode()
    file.write(len(data).to_bytes(8, "little") + data)
    file.flush()


def receive(file):
    """The next message; EOFError if there is none, ValueError if it isn't as send() writes it."""
    size = int.from_bytes(head := file.read(8), "little")
    if len(head) < 8:
        raise EOFError
    if size > LARGEST:
        raise ValueError("a message is too large")
    return json.loads(file.read(size))


# ---- the process of the completion ----
def answer(program, reading, writing):
    """Run the program, and answer calls of its function until there are no more."""
    module = types.ModuleType("completion")
    sys.modules["completion"] = module
    lent = []

    def lend(iterator):
        lent.append(iterator)
        return len(lent) - 1

    try:
        code = compile(program, "completion.py", "exec")
    except BaseException:
        return send(writing, {"error": "compile error"})
    try:
        exec(code, module.__dict__)
        send(writing, {})
    except BaseException as error:
        return send(writing, {"error": type(error).__name__})
    while True:
        name, args, named = unpack(receive(reading), lambda values: iter(unpack(values, None)))
        try:
            value = (getattr(module, name)(*args, **named) if name else
                     list(itertools.islice(lent[args[0]], 1)))
            send(writing, {"value": pack(value, lend)})
        except BaseException as error:
            send(writing, {"error": type(error).__name__})


# ---- the process of the test ----
class Trouble(BaseException):
    """The completion gives no values any more. Its argument is the verdict."""


class Raised(Exception):
    """The function has raised an exception, for the test to expect or not."""


class Judged:
    """The function `name` of a program that process `child` runs, as a test may call it."""

    def __init__(self, name, child, reading, writing):
        self.name, self.child, self.reading, self.writing = name, child, reading, writing
        self.reply()  # the program has been run

    def __call__(self, *args, **named):
        return self.ask(self.name, args, named)

    def ask(self, name, args, named):
        try:
            send(self.writing, pack((name, args, named), lambda values: pack(list(values), None)))
        except BrokenPipeError:
            raise Trouble(self.how_it_ended()) from None
        message = self.reply()
        try:
            return unpack(message["value"], self.borrow)
        except Exception:  # it has written here itself
            raise Trouble("wrong answer") from None

    def borrow(self, number):
        while found := self.ask(None, (number,), {}):
            yield found[0]

    def reply(self):
        try:
            message = receive(self.reading)
            error = message.get("error")
            kind = {"SystemExit": "ended early", "MemoryError": "memory",
                    "compile error": "compile error"}.get(error)
        except EOFError:
            kind = self.how_it_ended()
        except Exception:  # as above
            kind = "wrong answer"
        if kind:
            raise Trouble(kind)
        if error is not None:
            base = getattr(builtins, str(error), None)
            if not isinstance(base, type) or not issubclass(base, Exception) or issubclass(
                    base, (StopIteration, StopAsyncIteration)):  # a test may be iterating
                base = Exception
            raise type("Raised", (Raised, base), {})
        return message

    def how_it_ended(self):
        _, status, used = os.wait4(self.child, 0)
        if 0 <= 0.75 * resource.getrlimit(resource.RLIMIT_CPU)[0] <= used.ru_utime + used.ru_stime:
            return "timeout"
        return "crash" if status else "ended early"


def verdict(problem, child, reading, writing):
    """Run the test of a problem on the function: a word."""
    names = {"__name__": "test"}
    name = problem["entry_point"]
    try:
        exec(problem["prompt"] + "\n    pass\n", names)  # a test may use what stands in the prompt
    except Exception:  # not a prompt that ends in the head of a function
        pass
    try:
        names[name] = Judged(name, child, reading, writing)
        exec(problem["test"], names)
        names["check"](names[name])
    except Trouble as trouble:
        return str(trouble)
    except Raised:
        return "crash"
    except Exception:  # an AssertionError, or a comparison of values that have no order
        return "wrong answer"
    return "passed"


def start():
    sys.set_int_max_str_digits(0)
    size = 0
    while (digit := os.read(0, 1)) != b"\n":  # not a byte more: the rest is not for the fork
        size = 10 * size + int(digit)
    program = b""
    while len(program) < size:
        program += os.read(0, size - len(program))
    (to_it, from_us), (to_us, from_it) = os.pipe(), os.pipe()
    if not (child := os.fork()):
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        for file in (3, from_us, to_us):
            os.close(file)
        try:
            answer(program, os.fdopen(to_it, "rb"), os.fdopen(from_it, "wb"))
        finally:
            os._exit(0)
    for file in (to_it, from_it):
        os.close(file)
    with open(0, "rb", closefd=False) as file:
        problem = json.load(file)
    word = verdict(problem, child, os.fdopen(to_us, "rb"), os.fdopen(from_us, "wb"))
    os.write(3, (problem["secret"] + word).encode())
    os._exit(0)


if __name__ == "__main__":
    start()
