"""What a chat model is asked when it is to write a function, and the code in its answer.

A chat model explains, writes several blocks of code, and a program around the function; what a
judge needs is what goes on with the prompt. Next: hosted.py.
"""

import os
import re
import sys
import textwrap

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from download import shown

# ---- code, by its lines and brackets: True is Python, False Go ----
QUOTED = r'''"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?'''
TRIPLE = r'"""(?s:(?:\\.|[^\\])*?)(?:"""|\Z)|' + r"'''(?s:(?:\\.|[^\\])*?)(?:'''|\Z)"
TOKEN = {python: re.compile(
    rf"(?P<line>^(?:@.*\n)*(?=\S))|{skipped}|{QUOTED}|(?P<open>[(\[{{])|(?P<close>[)\]}}])|:|\w+",
    re.MULTILINE) for python, skipped in (
        (True, rf"#.*|{TRIPLE}"), (False, r"//.*|/\*(?s:.*?)(?:\*/|\Z)|`[^`]*`?"))}
NAMED = re.compile(r"(?:@.*\n)*(?:async\s+)?(func|type|var|const|def|class)\b\s*"
                   r"(?:\(\s*(?:\w+\s+)?\*?\s*(\w+)[^)\n]*\)\s*)?(\w+)")
# What a function may need of the code around it; `X = ...` only where it stands before.
HELPER = {True: r"(?:@.*\n)*(?:async\s+)?(?:def|class)\b|import\b|from\b(?!.*(?:__future__|\*))",
          False: r"(?:func|type|var|const)\b(?!\s+(?:main|Test\w*|Benchmark\w*|Example\w*)\()"}
CONSTANT = r"\w+\s*(?::[^=\n]+)?=(?!=)"


def is_python(prompt):
    return bool(re.search(r"^(?:async +)?def ", prompt, re.MULTILINE))


def parts_of(code, python):
    """Cut code into its top-level parts, texts that make it up: a part begins with each line that
    is not indented, unless a bracket or a string is still open. Decorators belong to what follows.
    """
    starts, depth, end = [0], 0, -1
    for found in TOKEN[python].finditer(code):
        if found["line"] is not None:
            if not depth and found.start() != end:  # there it would be what decorators belong to
                starts.append(found.start())
            end = found.end()
        depth = max(0, depth + (found["open"] is not None) - (found["close"] is not None))
    return [code[a:b] for a, b in zip(starts, [*starts[1:], len(code)]) if a < b]


def name_of(part):
    """What a part defines: ("func", the type it is a method of or None, "Name"); of anything that
    has no name, its text.
    """
    found = NAMED.match(part)
    return found.groups() if found else (part.strip(),)


def body_start(part, python):
    """Where the body of a function begins: behind the { or the : that ends its signature."""
    depth, before = 0, ""
    for found in TOKEN[python].finditer(part, NAMED.match(part).end()):
        end = found[0] == (":" if python else "{") and before not in ("interface", "struct")
        if end and not depth:
            return found.end()
        depth += (found["open"] is not None) - (found["close"] is not None)
        before = found[0] or before
    return len(part)


def function_at_end(prompt):
    """The part of a prompt that is to be completed: its last function."""
    python = is_python(prompt)
    functions = [part for part in parts_of(prompt, python) if name_of(part)[0] in ("func", "def")]
    if not functions:
        raise ValueError(f"no function begins in the prompt {shown(prompt)!r}")
    return functions[-1]


def indented(body):
    """A body of Python, 4 spaces in, as far as it was not; also if only its first line was not."""
    first, *_ = lines = [line for line in body.splitlines() if line.strip()] or [""]
    widths = [len(line) - len(line.lstrip()) for line in lines]
    least = min(widths[1:], default=0)
    if not widths[0] and least and (widths[1] > least or not first.rstrip().endswith(":")):
        body = " " * least + body.lstrip()
    elif widths[0] == 4 and first[:4] == "    ":
        return body
    return textwrap.indent(textwrap.dedent(body), "    ")


# ---- what a chat model answers ----
def instruction(prompt):
    """What a chat model is asked; a model that is tuned on tuning_rows() has learned it."""
    language = "Python" if is_python(prompt) else "Go"
    return (f"Complete the last function of this {language} code. Answer with one block of code "
            "that holds this function, whole, and any imports and helper functions that it needs "
            "and that are not there yet. Write no tests, no examples and no explanations.\n\n"
            f"```{language.lower()}\n{prompt.rstrip()}\n```")


def blocks_of(answer):
    """The fenced blocks of a text in Markdown that are in Go, Python or an unnamed language."""
    blocks, fence, language = [], "", ""
    for line in answer.splitlines(keepends=True):
        found = re.match(r"\s*(```+|~~~+)\s*([\w+-]*)", line)
        if not fence and found:
            fence, language = found[1], found[2].lower()
            blocks.append((language, []))
        elif fence and line.strip() and not line.strip().strip(fence[0]) and fence in line:
            fence = ""
        elif fence:
            blocks[-1][1].append(line)
    return ["".join(lines) for language, lines in blocks
            if language in ("", "go", "golang", "python", "python3", "py")]


def code_of(prompt, answer):
    """The code in an answer that defines the function at the end of `prompt`: the first block that
    does, else the first, else all of the answer; what is thought aloud is left out. If it defines
    no such function, it counts as its body, and is put behind the signature. "" if there is none.
    """
    answer = re.sub(r"(?s)\A.*</think(?:ing)?>|<think(?:ing)?>.*", "", answer).replace("\r\n", "\n")
    python, function = is_python(prompt), function_at_end(prompt)
    blocks = [textwrap.dedent(block) if block[:1].isspace() else block
              for block in blocks_of(answer) or [answer]]
    for code in blocks:
        if name_of(function) in map(name_of, parts_of(code, python)):
            return code
    signature = function[:body_start(function, python)]
    body = blocks[0].rstrip().lstrip("\n")
    if not body or python:
        return body and f"{signature}\n{indented(body)}"
    code = f"{signature}\n{body}\n"
    n_open = sum((found["open"] is not None) - (found["close"] is not None)
                 for found in TOKEN[python].finditer(code))
    return code + "}\n" * (n_open > 0)


def completion_of(prompt, answer):  # exercise
    """What goes on with `prompt`, which ends in the signature of a function (in Python also its
    docstring), by a chat model's answer. code_of() finds the code in the answer, which holds the
    function, and parts_of() its parts. The completion is

    - the function's body, from the line after its signature (body_start()) to its end; Python's as
      indented() has it
    - what it needs besides: the parts that HELPER matches, or, before the function, in Python,
      CONSTANT, in their order, without those that the prompt defines (by name_of()). In Go they
      stand behind the body, after an empty line each. In Python the program would go on without
      them where samples are cut at the next "def": they stand before the body, 4 spaces in.

    Each of them ends in one line end; "" if there is no code.

    >>> completion_of("func Two() int {\\n",
    ...               "Sure:\\n```go\\nfunc Two() int {\\n\\treturn 2\\n}\\n```\\nIt returns 2.")
    "\\treturn 2\\n}\\n"
    """
    python, code = is_python(prompt), code_of(prompt, answer)
    if not code:
        return ""
    parts, known = parts_of(code, python), {*map(name_of, parts_of(prompt, python))}
    wanted = name_of(function_at_end(prompt))
    at = [*map(name_of, parts)].index(wanted)
    body = re.sub(r"\A[ \t]*\n", "", parts[at][body_start(parts[at], python):]).rstrip() + "\n"
    before = f"{HELPER[python]}|{CONSTANT}" if python else HELPER[python]
    needed = [part.rstrip() + "\n" for i, part in enumerate(parts) if name_of(part) not in known
              and re.match(before if i < at else HELPER[python], part)]
    if python:
        return textwrap.indent("".join(needed), "    ") + indented(body)
    return "\n".join([body, *needed])
