"""Which documents are worth keeping: small filters, each with a name and a reason.

Much of a crawl of public code teaches a model nothing: copies of other projects, files that a
program wrote, tables of numbers, files that are one long line. Each filter below looks at one
record and gives a reason to drop it, or none. The table FILTERS lists them from cheap to costly; a
document is counted at the first filter that drops it. The filters follow Codex (Chen et al. 2021,
section 3.1), The Stack (Kocetkov et al. 2022), StarCoder (Li et al. 2023, section 3) and StarCoder
2 (Lozhkov et al. 2024, section 2.1); a comment says where a filter differs from these.
Left out: languages other than Go, classifiers of quality, and repair: StarCoder blanks out secrets,
here the whole file is dropped.

Used by clean.py, which counts what they drop. Next: clean.py.
"""

import os
import re
import sys
from dataclasses import dataclass

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import option
from duplicates import ExactDuplicates, NearDuplicates, Overlap

# Permissive licences, by SPDX id; Expat is Debian's name for MIT. No copyleft, not even that of
# MPL-2.0, which ends with the file: as The Stack since its version 1.1.
PERMISSIVE = ("0BSD Apache-2.0 BlueOak-1.0.0 BSD-2-Clause BSD-3-Clause BSL-1.0 CC0-1.0 Expat ISC "
              "MIT MIT-0 PostgreSQL Python-2.0 Unlicense Zlib")
VENDORED = r"(^|/)(vendor|third[-_]?party|node_modules|Godeps)/"

# Only patterns with few false alarms: the first line of a key file with a key behind it, and keys
# with a prefix that names the service.
SECRETS = {name: re.compile(pattern, re.ASCII) for name, pattern in {
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----"  # quotes, headers, base64
                   r"(\s|\\n|[\"'`+]|[\w-]+: [^\n]*\n)*[\w+/]{40}",
    "AWS key": r"A[KS]IA(?!\w{0,9}EXAMPLE)[A-Z2-7]{16}\b",
    "GitHub token": r"g(h[opsur]|ithub_pat)_\w{36}",
    "Google key": r"AIza[\w-]{35}\b",
    "Slack token": r"xox[abeoprs]-\d{8,}-[\w-]{10,}",
}.items()}


@dataclass(frozen=True)
class Language:
    """Patterns that recognise a language's files; a pattern that is not given matches nothing."""

    path: str = ""  # found in the path of each of its files
    test: str = "(?!)"  # found in the path of a test
    comment: str = "(?!)"  # a comment; adjacent // lines are one
    header: str = ""  # everything before the first code
    generated_path: str = "(?!)"  # names that generators give
    generated_notice: str = "(?!)"  # what generators say of themselves, on a line of the header


COMMENTS = r"\ufeff?(\s+|//[^\n]*|/\*(?s:.*?)\*/)*"  # Go's, and blanks, in a row
GO = Language(
    path=r"\.go$",
    test=r"_test\.go$",
    comment=r"(//[^\n]*\n?)+|/\*(?s:.*?)\*/",
    header=rf"{COMMENTS}(package\s+\w+)?{COMMENTS}",
    generated_path="|".join((
        r"\.pb(\.\w+)?\.go$", r"(^|/)zz_generated\.", r"[._]generated\.go$", r"\.gen\.go$",
        r"(^|/)(bindata|statik|rice-box)\.go$", r"_(easyjson|ffjson|vfsdata)\.go$")),
    generated_notice="|".join((
        r"^(?!//go:).*\b(?i:do not|don't) ((?i:hand-edit|edit)\b|(?i:modify)[^\w\n]*$)",
        r"^[^\w\n]*(Code|This (code|file) (is|was|has been)( auto-?| automatically)?) ?generated\b",
        r"^[^\w\n]*(Generated|Auto-?[Gg]enerated|Automatically generated) "
        r"(automatically|by|from)\b",
        r"^//line \S+\.(?!go:)\w+:\d+")),  # what ragel and yacc write: the line of their input
)
LANGUAGES = {"": Language(), "go": GO}  # "" is any text


@dataclass(frozen=True)
class Rules:
    """What to keep. Every field is an option of clean.py, and is written to the manifest."""

    language: str = option("", "follow this language's rules; '': those for any text",
                           tuple(LANGUAGES))
    min_stars: int = option(0, "stars of the repository, if the record says how many")
    licenses: str = option(PERMISSIVE, "SPDX ids, one of which a record must have if it has any; "
                                       "'' for all")
    tests: bool = option(True, "keep tests")
    min_bytes: int = option(100, "of a document, without its licence")
    max_bytes: int = option(1_000_000, "of a document, without its licence")
    max_line: int = option(1000, "characters in the longest line of code")
    mean_line: int = option(100, "characters in a line of code on average")
    # StarCoder has 0.25, to drop tables, too; here max_numbers finds these, and spares formulas.
    min_alphabetic: float = option(0.2, "share of letters in the characters")
    max_numbers: float = option(0.5, "share of numbers in the characters other than spaces")
    near: float = option(0.7, "resemblance from which a document is a copy; above 1 for never")

    def __post_init__(self):
        if (self.language or "") not in LANGUAGES:
            raise ValueError(f"there are no rules for language {self.language!r}; there are for "
                             f"{', '.join(filter(None, LANGUAGES))}, and '' for any text")

    @property
    def code(self):
        return LANGUAGES[self.language or ""]


def n_bytes(text):
    return len(text.encode("utf-8", "surrogatepass"))


# ---- filters: (record, rules) -> the reason to drop the record, or something false ----
def other_language(record, rules):
    return "path" in record and not re.search(rules.code.path, record["path"]) and "by its name"


def few_stars(record, rules):
    stars = record.get("stars", rules.min_stars)
    return stars < rules.min_stars and f"{stars} stars"


def not_permitted(record, rules):
    """One permitted licence of several is enough. A record without the field is kept, so that a
    folder can be cleaned: its user has to know whether it may be used.
    """
    if "license" not in record or not rules.licenses:
        return None
    found = record["license"] if isinstance(record["license"], list) else [record["license"]]
    permitted = rules.licenses.lower().split()
    return not any(name.lower() in permitted for name in found) and (", ".join(found) or "none")


def vendored(record, rules):
    """Copies of other projects, whose originals are in the crawl, too, and newer."""
    found = re.search(VENDORED, record.get("path", ""))
    return found and found[0]


def a_test(record, rules):
    found = not rules.tests and re.search(rules.code.test, record.get("path", ""))
    return found and found[0]


def body(record, rules):
    """The text without comments at its top that begin with copyright or licence: all files of a
    project have the same, which would make its short files look like copies of each other.
    """
    def unless_legal(comment):
        legal = re.search("copyright|licen[cs]e", comment[0][:80], re.IGNORECASE)
        return "" if legal else comment[0]

    header = re.match(rules.code.header, record["text"])[0]
    return re.sub(rules.code.comment, unless_legal, header) + record["text"][len(header):]


def size(record, rules):
    """Codex took no file above 1 MB."""
    n = n_bytes(body(record, rules))
    return not rules.min_bytes <= n <= rules.max_bytes and f"{n:,} bytes"


def not_text(record, rules):
    """A NUL, half a surrogate pair, or U+FFFD, which replaces bytes that were not UTF-8. One U+FFFD
    may be intended, and in long documents one in a thousand characters.
    """
    text = record["text"]
    found, lost = re.search("[\0\ud800-\udfff]", text), text.count("\ufffd")
    return (found and repr(found[0])
            or lost > max(1, len(text) / 1000) and f"{lost} characters lost")


def long_lines(record, rules):
    """Minified code and data, by Codex's limits. Prose, with a line a paragraph, is spared."""
    lengths = [len(line) for line in record["text"].splitlines()] or [0]
    mean = sum(lengths) / len(lengths)
    return rules.language and (
        max(lengths) > rules.max_line and f"a line of {max(lengths):,} characters"
        or mean > rules.mean_line and f"{mean:.0f} characters a line")


def is_generated(text):  # exercise
    r"""Whether a Go file says that a program wrote it, by the convention (go.dev/s/generatedcode).

    A generated file has a line that matches "^// Code generated .* DO NOT EDIT\.$" before the
    first text that is neither comment nor blank. COMMENTS matches all that comes before that text.
    Lines may end in \r\n, and a byte-order mark, "\ufeff", may stand before the first.
    is_generated("/* MIT */\n// Code generated by x. DO NOT EDIT.\npackage y\n") is True; with a
    space before the //, or below the package line, it is False.
    """
    leading = re.match(COMMENTS, text)[0].removeprefix("\ufeff")
    return bool(re.search(r"^// Code generated .* DO NOT EDIT\.\r?$", leading, re.MULTILINE))


def generated(record, rules):
    return rules.language == "go" and is_generated(record["text"]) and "by Go's convention"


def looks_generated(record, rules):
    """Generated files that don't follow the convention: by name, or by the comments at the top."""
    header = re.match(rules.code.header, record["text"])[0]
    found = (re.search(rules.code.generated_path, record.get("path", ""))
             or re.search(rules.code.generated_notice, header, re.MULTILINE))
    return found and repr(found[0].strip())


def few_letters(record, rules):
    """Letters of any alphabet (StarCoder)."""
    text = record["text"]
    share = sum(map(str.isalpha, text)) / max(1, len(text))
    return share < rules.min_alphabetic and f"{share:.0%} letters"


def number_share(text):  # exercise
    """The share of a text's characters, without space, that are in numbers. 0 for an empty text.

    A number is a digit 0-9 and all letters a-z, A-Z, digits and _ that follow it: 0x1F, 10_000 and
    2, the 2 of y2, and the 3 of 3月. number_share("x := 0x1F + y2") is 5 / 10.
    """
    n = len("".join(text.split()))
    return sum(map(len, re.findall(r"[0-9]\w*", text, re.ASCII))) / n if n else 0.0


def numbers(record, rules):
    """Tables. StarCoder 2 looks for runs of bytes like 0x1f,0x8b instead, which misses gofmt's
    output, with a space behind the comma, and numbers of more than two digits.
    """
    share = number_share(record["text"])
    return share > rules.max_numbers and f"{share:.0%} numbers"


def secret(record, rules):
    """A model may reveal any key that it has seen."""
    return next((name for name, pattern in SECRETS.items() if pattern.search(record["text"])), None)


FILTERS = {
    "other language": other_language, "few stars": few_stars, "license": not_permitted,
    "vendored": vendored, "test": a_test, "size": size, "not text": not_text,
    "generated": generated, "looks generated": looks_generated, "long lines": long_lines,
    "few letters": few_letters, "numbers": numbers, "secret": secret,
}


def title(record):
    """A name for a document: its repository and path, or how it begins."""
    place = "/".join(record[key] for key in ("repo", "path") if record.get(key))
    return ascii(record["text"][:40]) if not place else place.encode(
        "utf-8", "backslashreplace").decode()  # a file's name may hold what is no UTF-8


def all_filters(rules, against=()):
    """FILTERS, and three that remember earlier documents, or the texts in `against`.

    Near copies come last, so that the document that they copy has passed all other filters.
    """
    exact, overlap, near = ExactDuplicates(), Overlap(against), NearDuplicates(rules.near)

    def same(record, rules):
        earlier = exact.add(title(record), record["text"])
        return earlier is not None and f"the same as {earlier}"

    def evaluation(record, rules):
        """GPT-3 (Brown et al. 2020, appendix C) looked for 13 words in a row."""
        found = overlap.find(record["text"])
        return found is not None and f"shares {found!r}"

    def similar(record, rules):
        earlier = near.add(title(record), body(record, rules))
        return earlier is not None and f"much like {earlier}"

    return FILTERS | {"duplicate": same, "evaluation": evaluation, "near duplicate": similar}
