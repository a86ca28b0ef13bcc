"""Read the formats of other data sets as records: one dict a document.

A record has "text", or "messages" (a conversation: dicts with role and content, user and assistant
in turn), and of path, repo, license and stars what is known. Other data sets have other names for
these fields; the table FIELDS lists them.
Left out: which files there are (corpus.py), formats that are not lines or rows.

Parquet files need pyarrow, and .zst files zstandard, which are imported when one is read.
Used by corpus.py. Next: download.py.
"""

import gzip
import importlib
import json
import lzma
import os
import re
import struct
import sys
import zipfile
import zlib
from pathlib import Path

if "console" not in sys.modules:  # which is found first, and puts all folders on the path
    sys.path[1:1] = [str(folder / "01_tokenizer") for folder in Path(__file__).resolve().parents]

from console import escaped, read_text

from conversations import in_turns

FIELDS = {  # our field name, and the names that other data sets use for it
    "text": ("text", "content"),
    "messages": ("messages",),
    "path": ("path", "max_stars_repo_path"),
    "repo": ("repo", "max_stars_repo_name"),
    "license": ("license", "max_stars_repo_licenses"),
    "stars": ("stars", "max_stars_count"),
}
LARGEST_MEMBER = 200_000_000  # bytes of a file in a .zip file
DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeDecodeError,
               struct.error, OverflowError, RuntimeError)  # the last: encrypted, of another method
OTHER_FORMS = {"turns", "question", "answer", "prompt", "canonical_solution", "test", "query",
               "choices", "context", "context_options", "continuation"}


def mended(text):
    """The text, with U+FFFD for half a surrogate pair, which JSON can hold and UTF-8 can't."""
    if not isinstance(text, str):
        raise TypeError(f"{str(text)[:40]} stands where text should")
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def with_calculator(answer):  # exercise
    """The parts of an answer of GSM8K, in which <<48/2=24>> stands for the use of a calculator.

    What is before the last "=" becomes a python part, what is after it an output part; the text
    around them text parts, none of them empty.
    with_calculator("6 * 7 = <<6*7=42>>42") == [{"type": "text", "text": "6 * 7 = "},
    {"type": "python", "text": "6*7"}, {"type": "output", "text": "42"},
    {"type": "text", "text": "42"}]
    """
    parts = []
    for i, piece in enumerate(re.split(r"<<(.*?)>>", answer)):
        if i % 2:
            call, _, result = piece.rpartition("=")
            parts += [{"type": "python", "text": call}, {"type": "output", "text": result}]
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts


def conversation(messages):
    """in_turns() of messages from a file. TypeError or LookupError if they are no messages."""
    def said(content):
        if isinstance(content, list):
            return [{"type": part["type"], "text": mended(part["text"])} for part in content]
        return mended(content)

    return in_turns([{"role": m["role"], "content": said(m["content"])} for m in messages])


def about(found):
    """What is known about a document; a value of the wrong type counts as unknown."""
    if isinstance(found.get("license"), str):
        found["license"] = [found["license"]]
    types = {"path": str, "repo": str, "license": list, "stars": (int, float)}
    about = {key: found[key] for key, kind in types.items() if isinstance(found.get(key), kind)}
    if "license" in about:
        about["license"] = [name for name in about["license"] if isinstance(name, str) and name]
    return {key: value for key, value in about.items() if value != []}


def as_record(row, where, field=None):
    """A row of a data set as a record. ValueError, naming `where` it is, if it can't be one.

    field: the name of the text, if it is none of FIELDS. Without it, these forms are known, in this
    order: a text; messages; turns (strings of two speakers in turn); GSM8K's question and answer;
    HumanEval's prompt, solution and test (one text); CORE's questions with all answers (one text).
    """
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not a JSON object")
    known = {"text": (field,)} if field else FIELDS
    found = {ours: row[name] for ours, names in (FIELDS | known).items()
             for name in names if row.get(name) is not None}
    record = about(found)
    try:
        if "text" in found:
            return record | {"text": mended(found["text"])}
        if not field and "messages" in found:
            return record | {"messages": conversation(found["messages"])}
        if not field and "turns" in row:
            return record | {"messages": conversation(
                {"role": ("user", "assistant")[i % 2], "content": text}
                for i, text in enumerate(row["turns"]))}
        if not field and {"question", "answer"} <= row.keys():
            return record | {"messages": conversation([
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": with_calculator(mended(row["answer"]))}])}
        if not field and "canonical_solution" in row:
            parts = [row["prompt"], row["canonical_solution"], row["test"]]
            return record | {"text": "".join(map(mended, parts))}
        if not field and ("choices" in row or "continuation" in row):
            parts = [row.get("query"), *row.get("choices", ()), row.get("context"),
                     *row.get("context_options", ()), row.get("continuation")]
            return record | {"text": "\n".join(mended(part) for part in parts if part)}
    except (TypeError, LookupError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{where} can't be read: {what}") from None
    raise ValueError(f"{where} has no text under {' or '.join(map(repr, known['text']))}, only "
                     f"{', '.join(row)}; ,field=NAME says which field holds it")


def read_jsonl(path, field=None):
    """The records of a .jsonl file, plain or compressed (.gz, .zst), one line at a time."""
    opener, damage = open, (EOFError, UnicodeDecodeError, zlib.error, gzip.BadGzipFile)
    if path.suffix == ".zst":
        zstandard = library("zstandard", "a .zst file")
        opener, damage = zstandard.open, (*damage, zstandard.ZstdError)
    elif path.suffix == ".gz":
        opener = gzip.open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    where = f"{path}, line {number},"
                    yield as_record(parsed(line, where), where, field)
    except damage as error:
        raise ValueError(f"{path} is damaged after line {number} ({error})") from None


def parsed(line, where):
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error})") from None


def read_parquet(path, field=None):
    """The records of a parquet file; only the columns that a record has a use for are read."""
    parquet = library("pyarrow.parquet", "a parquet file")
    wanted = {name for names in FIELDS.values() for name in names} | {field} | OTHER_FORMS
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a parquet file ({error})") from None
    columns = [name for name in file.schema_arrow.names if name in wanted]
    for batch in file.iter_batches(batch_size=1000, columns=columns):
        for row in batch.to_pylist():
            yield as_record(row, str(path), field)


def library(name, purpose):
    """Import what only some formats need. ValueError with the pip command if it isn't there."""
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.split(".")[0]
        raise ValueError(f"{purpose} needs {package}: pip install {package}") from None


def read_wikitext(path, field=None):
    """Wikitext's rows are lines; an article begins at a heading of the first level: " = Title = ".
    """
    lines = []
    for record in read_parquet(path):
        if re.fullmatch(r" = [^=].* = \n", record["text"]) and lines:
            yield {"text": "".join(lines)}
            lines = []
        lines.append(record["text"])
    yield {"text": "".join(lines)}


def read_core(path, field=None):
    """The items of the CORE bundle, a .zip file; nothing of it is unpacked onto the disk."""
    found = 0
    try:
        with zipfile.ZipFile(path) as bundle:
            bundle.fp.seek(-22, os.SEEK_END)  # its last part, which counts the files
            end = bundle.fp.read()
            if end[:2] == b"PK" and int.from_bytes(end[10:12], "little") != len(bundle.infolist()):
                raise zipfile.BadZipFile("the list of its files is damaged")
            for member in sorted(bundle.infolist(), key=lambda member: member.filename):
                name = f"{path}, {escaped(member.filename)}"
                if member.file_size > LARGEST_MEMBER:
                    raise ValueError(f"{name} would be {member.file_size:,} bytes, more than the "
                                     f"{LARGEST_MEMBER:,} that are read")
                with bundle.open(member) as file:  # which compares its two names
                    if re.fullmatch(r"[^_].*eval_data/.*\.jsonl", member.filename):
                        for found, line in enumerate(file, 1):
                            if line.strip():
                                where = f"{name}, line {found},"
                                yield as_record(parsed(line.decode(), where), where)
    except DAMAGED_ZIP as error:
        raise ValueError(f"{path} is no .zip file, or damaged ({escaped(str(error))}); delete it "
                         "to fetch it anew") from None
    if not found:
        raise ValueError(f"{path} holds no eval_data/; delete it to fetch it anew")


def read_any(path, field=None):
    """The records of a file, whose name says which format it has."""
    if path.suffix == ".parquet":
        return read_parquet(path, field)
    if re.search(r"\.jsonl?(\.gz|\.zst)?$", path.name):
        return read_jsonl(path, field)
    return iter([{"text": read_text(path), "path": path.name}])
