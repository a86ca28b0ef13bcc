"""Tests of console.py: what every command relies on."""

import dataclasses
import functools
import os
import shutil
import signal
import subprocess
import sys
import types
import venv

import pytest
import regex

import console
from console import (Parser, add_options, check_options, choose_device, option, read_text, run,
                     write_safely)

HEADER = (console.ROOT / "01_tokenizer" / "bpe.py").read_text(encoding="utf-8")
HEADER = (HEADER[HEADER.index("import os"):HEADER.index("import regex")]
          + "from pathlib import Path\n")


# ---- how a script starts ----
@pytest.fixture
def course(tmp_path):
    """course(*command, mine=...) runs python in a copy of this stage, and returns what it printed.

    course.write(path, code) adds a file, with the header that all files have.
    """
    folder = tmp_path / "course"
    (folder / "01_tokenizer" / "extras").mkdir(parents=True)
    for name in ("bpe.py", "console.py", "extras/housekeeping.py", "extras/mistakes.py",
                 "extras/commands.py"):
        shutil.copy(console.ROOT / "01_tokenizer" / name, folder / "01_tokenizer" / name)

    def start(*command, mine="", code=0, python=sys.executable, **how):
        done = subprocess.run([python, *map(str, command)], capture_output=True, text=True,
                              cwd=folder, timeout=60, env={**os.environ, "PYTHONPATH": mine}, **how)
        assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout if code == 0 else done.stderr

    def write(path, code):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(HEADER + code)

    start.folder, start.write = folder, write
    return start


@pytest.mark.parametrize("launcher", ["", "-X dev", "-m pdb -c continue -c quit"])
def test_the_readers_file_runs(launcher, course):
    """PYTHONPATH=mine python 01_tokenizer/bpe.py runs mine/bpe.py, by hand."""
    script = course.folder / "01_tokenizer" / "bpe.py"
    source = script.read_text(encoding="utf-8").replace(
        "def show_merges(n_merges=20):\n", "def show_merges(n_merges=20):\n"
        "    import console\n    print(f'this is {__file__}', console.by_hand())\n")
    script.write_text(source, encoding="utf-8")
    assert f"this is {script} False" in course(*launcher.split(), script)
    (course.folder / "mine").mkdir()
    shutil.copy(script, course.folder / "mine")
    assert f"this is {course.folder / 'mine' / 'bpe.py'} True" in course(
        *launcher.split(), script, mine="mine")


def test_the_readers_file_runs_in_spawned_processes(course):
    code = """
import multiprocessing

def work():
    print(f"work in {__file__}", flush=True)

def main():
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()

if __name__ == "__main__":
    run(main)
"""
    for name in ("01_tokenizer/spawning.py", "mine/spawning.py"):
        course.write(name, code)
        script, mine = "01_tokenizer/spawning.py", "mine" if name.startswith("mine") else ""
        assert course(script, mine=mine) == f"work in {course.folder / name}\n"


def test_other_functions_are_called_as_they_are(course):
    course.write("01_tokenizer/other.py", """
from bpe import show_merges
def main():
    print("main of the script")
if __name__ == "__main__":
    run(lambda: print("a lambda"))
    run(show_merges)
    run(main)
""")
    course.write("mine/other.py", "def main():\n    print('main of the reader')\n")
    first, *_, last = course("01_tokenizer/other.py", mine="mine").splitlines()
    assert (first, last) == ("a lambda", "main of the reader")


def test_no_file_is_loaded_twice(course):
    """A script that imports what imports the script: one module, one class of each name."""
    course.write("01_tokenizer/one.py", """
print("loading one")
class Thing: pass
def main():
    import two
    print(two.Thing is Thing, sys.modules["one"] is sys.modules["__main__"])
if __name__ == "__main__":
    run(main)
""")
    course.write("01_tokenizer/extras/two.py", "from one import Thing\n")
    assert course("01_tokenizer/one.py") == "loading one\nTrue True\n"


def test_who_wins_where_names_are_alike(course):
    """PYTHONPATH over the course, the course over what is installed."""
    course.write("02_data/data.py", "")
    course.write("02_data/alike.py", """
import bpe, console, data
def main():
    for module in (bpe, console, data):
        print(Path(module.__file__).parent.name)
if __name__ == "__main__":
    run(main)
""")
    venv.create(course.folder / "env", symlinks=True)
    installed = next((course.folder / "env" / "lib").glob("*/site-packages"))
    for name in ("console", "data", "bpe"):
        (installed / f"{name}.py").write_text("raise SystemExit('the installed one')")
    packages = os.path.dirname(os.path.dirname(regex.__file__))
    (installed / "packages.pth").write_text(packages)
    python = course.folder / "env" / "bin" / "python"
    assert course("-c", "import data", python=python, code=1) == "the installed one\n"
    assert course("02_data/alike.py", python=python).split() == [
        "01_tokenizer", "01_tokenizer", "02_data"]
    shutil.copytree(course.folder / "01_tokenizer", course.folder / "mine")
    assert course("02_data/alike.py", python=python, mine="mine").split() == [
        "mine", "01_tokenizer", "02_data"], "all but console.py, which has nothing to write"


def test_by_hand_in_a_copy_without_the_course(course):
    """A few files in a folder of their own: they run, by hand."""
    code = "import bpe, console\nrun(lambda: print(console.by_hand(), bpe.__file__))\n"
    course.write("01_tokenizer/copied.py", code)
    assert course("01_tokenizer/copied.py").startswith("False "), "here they are not copies"
    (course.folder / "01_tokenizer").rename(course.folder / "copies")
    assert course("copies/copied.py") == f"True {course.folder / 'copies' / 'bpe.py'}\n"
    assert "bytes of text" in course("copies/bpe.py"), "also without extras/ beside it"
    course.write("copies/one.py", """
def main():
    import two
    print(two.main is main)
if __name__ == "__main__":
    run(main)
""")
    course.write("copies/two.py", "from one import main\n")
    assert course("copies/one.py") == "True\n", "nor is a file loaded twice there"
    (course.folder / "copies").rename(course.folder / "01_tokenizer")
    shutil.rmtree(course.folder / "01_tokenizer" / "extras")
    assert course("01_tokenizer/copied.py").startswith("True "), "a course without its extras"


def test_mine_anywhere_else_is_refused(course):
    course.write("elsewhere/mine/bpe.py", "")
    shutil.copytree(course.folder / "elsewhere" / "mine", course.folder / "01_tokenizer" / "mine")
    for script, mine in (("01_tokenizer/bpe.py", "elsewhere/mine"),
                         ("01_tokenizer/mine/bpe.py", "")):
        (line,) = course(script, mine=mine, code=2).splitlines()
        assert line.startswith("error: ") and "not in the root" in line
        assert line.endswith(str(course.folder / "mine"))


def test_ctrl_c_while_loading(course, monkeypatch):
    """It ends at once and says nothing. Once main() runs, what it does last is done."""
    monkeypatch.setattr(subprocess, "Popen", functools.partial(  # a shell's `&` ignores Ctrl-C
        subprocess.Popen, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)))
    course.write("01_tokenizer/slow.py", """
import time
def main():
    class Swallows:  # Python only reports an exception that comes in here, and goes on
        def __del__(self):
            print("working", flush=True)
            time.sleep(30)
    try:
        if "swallowed" in sys.argv:
            Swallows()
        print("working", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        if "converted" in sys.argv:
            raise ImportError("as what is written in C makes of it")
        raise
    finally:
        print("cleared away")
if "loading" in sys.argv:
    print("loading", flush=True)
    time.sleep(30)
run(main)
""")
    for moment, number, code, out, err in (
            ("loading", signal.SIGINT, -signal.SIGINT, b"", b""),  # which is 130 in a shell
            ("working", signal.SIGINT, 130, b"cleared away\n", b"stopped: "),
            ("working", signal.SIGTERM, 143, b"cleared away\n", b"stopped: "),
            ("converted", signal.SIGTERM, 143, b"cleared away\n", b"stopped: "),
            ("swallowed", signal.SIGINT, 130, b"", b"")):
        process = subprocess.Popen([sys.executable, "01_tokenizer/slow.py", moment],
                                   cwd=course.folder, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        assert process.stdout.readline() in (b"loading\n", b"working\n")
        process.send_signal(number)
        said, wrong = process.communicate(timeout=60)
        assert (process.returncode, said, wrong[:9]) == (code, out, err), f"{moment}: {wrong}"
        assert wrong.count(b"\n") <= 1


def test_what_is_wrong_with_the_surroundings(course):
    """A full disk, a closed output, a folder that isn't there, an argument: one line each."""
    script = course.folder / "01_tokenizer" / "bpe.py"
    course(script, "train", script, "--vocab-size", "300")
    encode = f"{sys.executable} {script} encode"
    for command, code, line in (
            (f"{encode} hello > /dev/full", 2, "error: [Errno 28] No space left on device: "
             "'standard output'"),
            (f"{encode} --help > /dev/full", 2, "error: [Errno 28] No space left on device: "
             "'standard output'"),
            (f"{encode} hello >&-", 2, "error: the standard output is closed"),
            (f"{encode} $'hell\\xff'", 2, r"error: the argument 'hell\udcff' is not UTF-8"),
            (f"PYTHONPATH=/none:{course.folder} {encode} hello > /dev/null", 0,
             "PYTHONPATH names '/none', which does not exist"),
            (f"{encode} hello --tokenizer $'a\\e[31m\\nb'", 2,
             r"error: there is no tokenizer a\x1b[31m b;")):
        done = subprocess.run(["bash", "-c", command], cwd=course.folder, capture_output=True,
                              text=True)
        assert done.returncode == code and done.stderr.startswith(line), f"{command}: {done}"
        assert done.stderr.count("\n") == 1 and not done.stdout


def ends(error, capsys):
    """The exit code with which a command ends whose main() raises `error`, and what it prints."""
    def main():
        raise error
    with pytest.raises(SystemExit) as stop:
        run(main)
    return stop.value.code, capsys.readouterr().err


def test_run_ends_with_a_code(capsys):
    assert ends(ValueError("no"), capsys) == (2, "error: no\n")
    assert ends(OSError("no"), capsys) == (2, "error: no\n")
    assert ends(ValueError("a key \x1b[31m\nof a file"), capsys) == (
        2, "error: a key \\x1b[31m of a file\n"), "one line, that a terminal shows as it is"
    assert ends(KeyboardInterrupt(), capsys) == (130, "")
    assert ends(NotImplementedError("exercise: merge"), capsys) == (
        2, "error: exercise: merge is still to be written\n")
    for error in (MemoryError("5 GiB"), RuntimeError("CUDA out of memory. Tried 5 GiB\nmore"),
                  RuntimeError("[x] DefaultCPUAllocator: can't allocate memory: 5 GiB\nmore")):
        code, line = ends(error, capsys)
        assert code == 2 and line.startswith("error: out of memory. ") and line.endswith("5 GiB\n")


@pytest.mark.parametrize("error", [ZeroDivisionError, RuntimeError("shapes differ"),
                                   NotImplementedError("on this device")], ids=repr)
def test_run_lets_mistakes_of_ours_through(error):
    def main():
        raise error
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        run(main)


def test_a_reader_that_has_enough(course):
    """`bpe.py encode ... | head` ends without a word about the pipe."""
    course.write("01_tokenizer/talk.py", "run(lambda: print('word ' * 100_000))\n")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "01_tokenizer/talk.py"], cwd=course.folder, text=True,
                          stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("there", ["cuda", "mps", "cpu"])
def test_choose_device(there, monkeypatch):
    def torch(name):
        return types.SimpleNamespace(is_available=lambda: name == there)
    precisions, fast = [], []
    monkeypatch.setitem(sys.modules, "machine", types.SimpleNamespace(
        __spec__=True, fast_products=lambda: fast.append(1)))
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(
        cuda=torch("cuda"), backends=types.SimpleNamespace(mps=torch("mps")),
        set_float32_matmul_precision=precisions.append))
    assert choose_device("cpu") == "cpu" and not precisions and fast == [1]
    assert choose_device() == choose_device("auto") == choose_device(there) == there
    assert precisions == (["high"] * 3 if there == "cuda" else []), "TF32, on NVIDIA's GPUs alone"
    for other in {"cuda", "mps", "tpu"} - {there}:
        with pytest.raises(ValueError, match=f"{other} is not available here.*cpu"):
            choose_device(other)


# ---- the rest ----
def test_options_come_from_the_fields():
    @dataclasses.dataclass
    class Options:
        n_layer: int = option(3, "blocks")
        fast: bool = option(False, "hurry")
        device: str = option("cpu", "where", ("cpu", "cuda"))
    parser = Parser()
    add_options(parser, Options)
    assert vars(parser.parse_args([])) == {}, "only what was given, so that presets can differ"
    given = vars(parser.parse_args(["--n-layer", "5", "--fast"]))
    assert Options(**given) == Options(5, True, "cpu")
    assert "blocks (default: 3)" in parser.format_help()
    for wrong in (["--n-layer", "x"], ["--device", "tpu"], ["--unknown"]):
        with pytest.raises(ValueError, match="--help"):
            parser.parse_args(wrong)


def test_check_options():
    @dataclasses.dataclass
    class Options:
        share: float = option(0.5, "of all", least=0, most=1)
        steps: int = option(3, "how many", least=1)
        names: tuple = option((), "several")
        fast: bool = option(None, "hurry (default: as it comes)")
        other: object = 7
    for good in ({}, {"share": 1}, {"names": ["a"]}, {"names": ("a",)}, {"fast": True}):
        check_options(Options(**good))
    for wrong, said in (({"share": 1.1}, "from 0 to 1"), ({"share": float("nan")}, "from 0 to 1"),
                        ({"share": "1"}, "type float"), ({"steps": 0}, "from 1"),
                        ({"steps": True}, "type int"), ({"names": "a"}, "type tuple"),
                        ({"fast": 1}, "type bool")):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*{said}"):
            check_options(Options(**wrong))


def test_unknown_options_name_the_nearest():
    parser = Parser()
    command = parser.add_subparsers().add_parser("train")
    command.add_argument("--vocab-size")
    for wrong in ("--vocab", "--vocabsize=3", "--vocab_size"):
        with pytest.raises(ValueError, match="did you mean --vocab-size"):
            parser.parse_args(["train", wrong])
            pytest.fail("there are no abbreviations of options")


def test_escaped():
    assert console.escaped("a\x1b[31mb\x07\nc\u202e") == "a\\x1b[31mb\\x07\nc\\u202e"


def test_read_text_names_the_byte(tmp_path):
    for start, at in ((b"", 2), (b"\xef\xbb\xbf", 5)):  # a byte-order mark is counted
        (tmp_path / "a").write_bytes(start + b"ab\xff")
        with pytest.raises(ValueError, match=rf"byte {at}: 0xff"):
            console.read_text(tmp_path / "a")


def test_write_safely_names_the_users_file(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder", tmp_path / "none" / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError) as stop:
            write_safely(path, "text")
        assert str(stop.value).endswith(f": '{path}'"), "not the name of a temporary file"


def test_a_readers_file_without_main_is_named(course):
    (course.folder / "mine").mkdir(exist_ok=True)
    (course.folder / "mine" / "bpe.py").write_text("")
    assert "has no main()" in course("01_tokenizer/bpe.py", mine="mine", code=2)


def test_write_safely(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_safely(path, "naïve")
    assert path.read_text(encoding="utf-8") == "naïve"

    def power_cut(*arguments):
        raise OSError("no space left")
    monkeypatch.setattr(console.os, "fsync", power_cut)
    with pytest.raises(OSError):
        write_safely(path, b"half")
    assert path.read_text(encoding="utf-8") == "naïve", "the old stays until the new is safe"
    assert list(tmp_path.iterdir()) == [path]


def test_file_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")  # the first example of FIPS 180-4
    assert console.file_hash(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_what_an_error_quotes_is_escaped_and_on_one_line(capsys):
    def fail():
        raise ValueError("bad name a\x1b[2Jb\n  second line")

    with pytest.raises(SystemExit):
        run(fail)
    assert capsys.readouterr().err == "error: bad name a\\x1b[2Jb second line\n"


def test_a_pointer_of_git_lfs_is_no_text(tmp_path):
    (tmp_path / "a").write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n")
    with pytest.raises(ValueError, match="a is a Git LFS pointer, not the file: run git lfs pull"):
        read_text(tmp_path / "a")
