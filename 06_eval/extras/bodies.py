"""Bodies of Go functions: heads to write them after, how far a compiler gets, what they do.

A head is the comment and signature of a function; a model writes the body. Heads come from real Go
files: functions that compile by themselves, so that a solution exists. All bodies to be judged are
compiled together, as packages of one module, in a sandbox: thousands a minute.

Used by compiler_rl.py. Next: compiler_rl.py.
"""

import dataclasses
import os
import re
import secrets
import sys
import tempfile
from pathlib import PurePosixPath

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import track

from corpus import find_source
from data import is_validation
from humaneval import cut_go, tokens
from programs import BUILDING, LIBRARY, go, go_program, packages, work_in
from rl import Answer
from sample import start_of
from samples import behind, opening

LEVELS = ("parses", "compiles", "vets")  # each implies those before it
FACTS = (*LEVELS, "trivial", "ignores", "honest")  # what is known of each body
AT_ONCE = 500  # programs in one call of the compiler
LONGEST = 96  # ids in a body
ALL_SAID = dataclasses.replace(BUILDING, output=1 << 26)  # of all programs together
HEAD = re.compile(r"^(?://(?: [^\n]*)?\n)+func [A-Za-z_]\w*[(\[][^\n]*\{\n", re.MULTILINE)
GIVEN = {*"bool byte complex64 complex128 error float32 float64 int int8 int16 int32 int64 rune "
         "string uint uint8 uint16 uint32 uint64 uintptr any comparable map chan struct interface "
         "true false nil iota make new func".split()}  # names with the same value in every program


# ---- heads of functions ----
def functions(text):
    """Yield (head, body) of functions in Go source that have a comment and no receiver: the head
    ends behind the line of its "{", the body behind that of its "}".
    """
    for found in HEAD.finditer(text):
        end = text.find("\n}\n", found.end() - 1) + 3
        body = text[found.end():end]
        if end > 2 and cut_go(body) + "\n" == body:  # so its "}" is no part of a string
            yield found[0], body


def problem_of(head, body, group):
    """A function as a row of the form that humaneval.py reads; it has no test."""
    return {"task_id": f"{group}: {head.splitlines()[-1]}", "prompt": "package p\n\n" + head,
            "canonical_solution": body, "test": "package p\n"}


def stands_alone(head, body):
    """Whether a function may compile by itself: False if a glance shows that it can't."""
    words = [text for kind, text in tokens(head.splitlines()[-1]) if kind != "space"]
    foreign = any(word[0].isupper() and before != "." for before, word in zip(words[1:], words[2:]))
    return not foreign and packages(head + body) <= LIBRARY.keys()


def find_heads(names, data_dir, tokenizer, room, compiler):
    """(rows to practise on, rows held out) of functions whose own body compiles and fits. A
    signature is taken once. Held out are whole repositories, or folders.
    """
    found, kept = {}, ([], [])
    for name in names:
        records = find_source(name, data_dir).records()
        for record in track(records, "looking for functions", unit=" files"):
            path = PurePosixPath(record.get("path", ""))
            group = record.get("repo") or str(path.parent)
            for head, body in functions(record["text"]) if "_test" not in path.stem else ():
                if stands_alone(head, body):
                    found.setdefault(head.splitlines()[-1], problem_of(head, body, group))
    rows = [row for row in found.values() if fits(row, tokenizer, room)]
    levels = compiler([program_of(row, row["canonical_solution"]) for row in rows])
    for row, level in zip(rows, levels):
        if level == 3:
            kept[is_validation(row["task_id"].partition(": func ")[0], 0.2)].append(row)
    if not all(kept):
        raise ValueError(f"of {len(found)} functions in {' '.join(names)} that have a comment, "
                         f"{len(kept[0])} are to practise on and {len(kept[1])} are held out: too "
                         "few; give more --data")
    return kept


def fits(row, tokenizer, room):
    """Whether a body has at most LONGEST ids, and its head no more than the window's rest."""
    return (len(tokenizer.encode(row["canonical_solution"])) <= LONGEST
            and len(asked(row, tokenizer)) + LONGEST <= room)


def asked(row, tokenizer):
    """The ids that a body is to follow, as in samples.py."""
    return start_of(opening(row, tokenizer), tokenizer)


# ---- what the compiler says ----
def program_of(row, completion):
    """The Go file of a completion, cut as humaneval.py cuts it, with the imports that it needs."""
    return go_program(row, cut_go(completion))[1]


def checked(programs, data_dir="data", unsafe=False, limits=ALL_SAID):
    """How far each of some Go files gets: 0, it doesn't parse; 1, it parses; 2, it compiles; 3, vet
    finds nothing in it, either. Each is a package of one module, and each command is run once for
    all that have come so far. What it says of a package begins with the name of the package's
    folder, which no program can know; so none can put its errors down to another one. Where a
    program takes all the time or memory, halves are tried, and it goes no further.
    """
    if not programs:
        return []
    name, levels, alive = "p" + secrets.token_hex(8), [0] * len(programs), {*range(len(programs))}
    about = re.compile(rf"^(?:# |vet: )?\[?(?:\./|all/)?{name}x(\d+)\b(?!/p\.go$)", re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        work = work_in(folder)
        (work / "go.mod").write_text("module all\n\ngo 1.21\n", encoding="utf-8")  # as go_judge's
        files = [work / f"{name}x{i}" / "p.go" for i in range(len(programs))]
        for file, program in zip(files, programs):
            file.parent.mkdir()
            file.write_text(program, encoding="utf-8", errors="replace")
        for words in (["gofmt", "-e", "-l", "."], ["go", "build", "./..."], ["go", "vet", "./..."]):
            ended = go(words, work, data_dir, unsafe, limits) if alive else None
            if ended and ended.kind != "ended" and len(programs) > 1:
                half = len(programs) // 2
                return [level for some in (programs[:half], programs[half:])
                        for level in checked(some, data_dir, unsafe, limits)]
            bad = {int(i) for i in about.findall(ended.output)} if ended else set()
            if ended and ended.kind == "ended" and ended.code and not bad:
                raise ValueError(f"{' '.join(words)} says: {ended.output[:500]}")
            alive = alive - bad if ended and ended.kind == "ended" else set()
            for i in alive:
                levels[i] += 1
            for i in bad:
                files[i].unlink()
    return levels


class Compiler:
    """checked(), for any number of programs; what it has said of a program is kept."""

    def __init__(self, data_dir="data", unsafe=False, check=checked):
        self.how, self.check, self.known = (data_dir, unsafe), check, {}

    def __call__(self, programs):
        new = [program for program in dict.fromkeys(programs) if program not in self.known]
        for i in range(0, len(new), AT_ONCE):
            some = new[i:i + AT_ONCE]
            self.known.update(zip(some, self.check(some, *self.how)))
        return [self.known[program] for program in programs]


# ---- what a body does ----
def statements(body):
    """The statements of a function's body, each a list of words; nested ones belong to theirs."""
    depth, found = 0, [[]]
    for kind, text in tokens(body):
        if not depth and (text == ";" or kind == "space" and "\n" in text):
            found.append([])
        elif kind not in ("comment", "space"):
            depth += (text in ("(", "[", "{")) - (text in (")", "]", "}"))
            if depth < 0:
                break
            found[-1].append(text)
    return [words for words in found if words]


def trivial(body):
    """Whether a body does nothing: it is empty, or panics, or is a `return` of constants only.
    trivial("return 0, nil }"), but not trivial("return n }").
    """
    found = statements(body)
    return not found or len(found) == 1 and (found[0][0] == "panic" or found[0][0] == "return" and (
        {word for word in found[0][1:] if word.isidentifier()} <= GIVEN))


def parameters(head):
    """The names of the parameters of the function whose head this is, of its receiver, too; types
    of its own package whose names begin with a small letter are among them.
    """
    depth, named, names, before = 0, False, set(), ""
    for kind, text in tokens(head.rstrip().splitlines()[-1].removeprefix("func")):
        depth += (text in ("(", "[", "{")) - (text in (")", "]", "}"))
        named |= kind == "name" and not depth
        if kind == "name" and depth and before != "." and text[0].islower():
            names.add(text)
        elif text == ".":
            names.discard(before)
        if named and text == ")" and not depth:
            break
        before = text
    return names - GIVEN


def ignores(head, body):
    """Whether a function has parameters and its body uses none of them."""
    names = parameters(head)
    return bool(names) and not names & {word for words in statements(body) for word in words}


class Body(Answer):
    """The body of a function, as a base model writes it: it ends with the id that completes a line
    "}", which gofmt puts at the end of a function and nowhere else in it, or with a document.
    """

    def __init__(self, tokenizer):
        super().__init__(tokenizer)
        self.text = b""

    def add(self, i, logp, entropy):
        """An id was drawn; no calculator is called."""
        for values, value in ((self.ids, i), (self.own, 1), (self.logps, logp),
                              (self.entropies, entropy)):
            values.append(value)
        self.text += self.tokenizer.decode_bytes([i]) if i not in self.ends else b""
        self.ended = i in self.ends or b"\n}\n" in self.text
        return i

    def completion(self, row):
        return behind(row["prompt"], opening(row, self.tokenizer),
                      self.text.decode("utf-8", errors="replace"))


def facts_of(row, text, level):
    """{fact: whether it holds} of a body that gets so far. honest: it compiles, and is neither
    trivial nor ignores the parameters.
    """
    found = {name: level > n for n, name in enumerate(LEVELS)}
    found |= {"trivial": trivial(text), "ignores": ignores(row["prompt"], text)}
    return found | {"honest": level > 1 and not (found["trivial"] or found["ignores"])}


def facts(rows, groups, compiler):
    """facts_of() each Body in each row's group, a list of lists; those that were cut off at their
    greatest length get nowhere.
    """
    programs = [program_of(row, body.completion(row)) for row, group in zip(rows, groups)
                for body in group if body.ended]
    levels = iter(compiler(programs))
    return [[facts_of(row, cut_go(body.completion(row)), next(levels) if body.ended else 0)
             for body in group] for row, group in zip(rows, groups)]
