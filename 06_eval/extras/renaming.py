"""Problems in Go with other names: the same program, of which nobody has seen the text.

Every name is declared in the problem and means the same wherever it stands, unless it is Go's own,
a package, a type, a field or a method, or a literal's key: those stay. So one new name for each of
the others keeps the meaning, without types and scopes. Doubtful names stay. What a good name of a
function told about the task is lost. Next: twins.py.
"""

import os
import random
import re
import string
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from humaneval import tokens
from programs import LIBRARY

PACKAGES = {*LIBRARY, "testing"}
OWN = set("""break case chan const continue default defer else fallthrough for func go goto if
    import interface map package range return select struct switch type var
    any bool byte comparable complex64 complex128 error float32 float64 int int8 int16 int32 int64
    rune string uint uint8 uint16 uint32 uint64 uintptr true false iota nil append cap clear close
    complex copy delete imag len make max min new panic print println real recover
    _ init main t""".split())
TESTS = "Test", "Benchmark", "Example", "Fuzz"  # how Go's test functions begin
VERBS = ("apply arrange assess build carry check combine compose compute derive determine "
         "establish evaluate examine figure gather handle inspect obtain prepare process produce "
         "provide render resolve review settle study supply treat").split()
NOUNS = ("amount article aspect case content detail element extent feature figure fragment given "
         "instance item matter measure member object outcome part piece portion record subject "
         "substance thing unit").split()
ADJECTIVES = ("actual basic certain chosen current final former given initial inner latter local "
              "main outer present prior proper related second single usual").split()


def imported(code):
    """The names under which Go code may import packages: for "math/rand", math and rand."""
    found = set()
    for group in re.findall(r"(?m)^import\s*(\([^)]*\)|[^\n]*)", code):
        for name, path in re.findall(r'(\w*)\s*"([^"]+)"', group):
            found |= {name, *path.split("/")} - {""}
    return found


def kept_names(code):  # exercise
    """The names in Go code that a twin keeps: a set. It must hold all that are declared elsewhere,
    and all that may be a field, a method, a type or a package.

    Every other name is declared in this code, as a variable or a function, and is that wherever it
    stands; so without types and scopes it may get a new name, if it gets the same one everywhere.
    Kept are: OWN, Go's own; imported(code); a name of PACKAGES before a "."; a name behind ".",
    "type" or "package"; one anywhere in the braces of a "struct" or an "interface"; one between
    "func (...)" and "(", a method; and one between "{" or "," and ":", a field of a literal.
    tokens(code) gives [(kind, text)]; comments and spaces don't count. ":=" and "..." are tokens.
    The code may be a part of a function, which closes braces that it has not opened.
    kept_names("func (p P) F(n int) { p.x = n + m }") - OWN == {"F", "x"}
    """
    found = [token for token in tokens(code) if token[0] not in ("comment", "space")]
    texts = ["", *(text for _, text in found), ""]
    kept, inner, closed = OWN | imported(code), [], ""  # what stands before each open bracket
    for (kind, text), before, after in zip(found, texts, texts[2:]):
        if text in ("{", "("):
            inner.append(before)
        elif text in ("}", ")"):
            closed = inner.pop() if inner else ""
        elif kind == "name":
            method = closed == "func" and before == ")" and after == "("
            field = before in ("{", ",") and after == ":"
            package = after == "." and text in PACKAGES
            if (before in (".", "type", "package") or {"struct", "interface"} & {*inner}
                    or method or field or package):
                kept.add(text)
    return kept


def new_name(old, called, taken, rng):
    """A word or two in the style of an old name, none of those taken. called: of a function."""
    letters = string.ascii_uppercase if old[0].isupper() else string.ascii_lowercase
    free = [letter for letter in letters if letter not in taken]
    if len(old) == 1 and free:
        return rng.choice(free)
    plural = "s" * (len(old) > 2 and old.endswith("s") and not old.endswith("ss") and not called)
    while True:
        words = [rng.choice(VERBS if called else ADJECTIVES), rng.choice(NOUNS) + plural]
        words = words[not called and rng.random() < 0.5:]
        name = "_".join(words) if "_" in old else words[0] + "".join(map(str.title, words[1:]))
        name = name[0].upper() + name[1:] if old[0].isupper() else name
        if name not in taken and f"Test{name}" not in taken:
            return name


def functions_in(code):
    """The names of functions that Go code declares, those of variables included."""
    return {a or b for a, b in re.findall(r"\bfunc\s+(\w+)|\b(\w+)\s*:?=\s*func\b", code)}


def may_be_english(name):
    """Whether a comment that has this name may mean something else: "shift", "a", but not "lst"."""
    word = re.fullmatch("[A-Z]?[a-z]+", name) and re.search("[aeiouy]", name.lower())
    return name in ("a", "A", "I") or bool(word) and name not in ("arr", "num", "nums")


def new_names(code, rng):
    """{old: new} of the names in Go code that a twin changes; no new one occurs in it, not even in
    a comment. Names that differ in a number, s1 and s2, still do; a test is called after what it
    tests. A variable keeps its name if that occurs in a comment and may be English there: to guess
    what it means would make the twin harder.
    """
    names = [*dict.fromkeys(text for kind, text in tokens(code) if kind == "name")]
    comments = "".join(text for kind, text in tokens(code) if kind == "comment")
    words, functions = {*re.findall(r"\w+", comments)}, functions_in(code)
    kept = kept_names(code) | {name for name in words - functions if may_be_english(name)}
    kept |= {*re.findall(r"\d([a-z])\b", comments)}  # "2x", but "all 1s": which of them is a name?
    taken = {*words, *kept, *names, *(name.rstrip(string.digits) for name in names)}
    bases, new = {}, {}
    for name in names:
        base = name.rstrip(string.digits)
        if name not in kept and not name.startswith(TESTS):
            if base not in bases:
                bases[base] = new_name(base, name in functions, taken, rng)
                taken.add(bases[base])
            new[name] = bases[base] + name[len(base):]
    for name in names:
        prefix = next(filter(name.startswith, TESTS), "")
        if prefix and name.removeprefix(prefix) in new:
            new[name] = prefix + new[name.removeprefix(prefix)]
    return new


def in_comments(names):
    """A pattern for those of some names, all of which get new ones, that a comment means. One that
    may be English is a function's: it counts before "(", and as a first word, "Clamp returns". A
    letter counts unless it stands in quotes, as examples do.
    """
    ways = [rf"(?<![\w'’\"`]){name}(?![\w'\"`])" if len(name) == 1
            else rf"\b{name}(?=\()|(?<=// ){name}(?= \w+s\b)" if may_be_english(name)
            else rf"\b{name}\b" for name in sorted(names)]
    return re.compile("|".join(ways) or "(?!)")


def renamed(row, seed=0):
    """The twin of a problem in Go: the same program under other names, in all its fields.

    Comments change where they mean a name of the prompt. What the name of a function told about the
    task is lost, which is a part of the difference, too; types, fields and methods keep theirs.
    ValueError for a problem in Python.
    """
    if "entry_point" in row:
        raise ValueError(f"{row['task_id']} is no problem in Go, and has no twin")
    fields = [key for key in row if key != "task_id"]
    code = "\n".join(row[key] for key in fields)
    new = new_names(code, random.Random(f"{seed}: {row['task_id']}"))
    meant = in_comments({text for _, text in tokens(row["prompt"]) if text in new})

    def changed(kind, text):
        if kind == "comment":
            return meant.sub(lambda found: new[found[0]], text)
        return new.get(text, text) if kind == "name" else text
    return {"task_id": row["task_id"]} | {
        key: "".join(changed(*token) for token in tokens(row[key])) for key in fields}
