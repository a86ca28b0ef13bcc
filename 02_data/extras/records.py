"""Read the formats of other data sets as records: one dict a document.

A record has "text", or "messages" (a conversation: dicts with role and content, user and assistant
in turn), and path, repo, license and stars if they are known. One of a pair has "rejected" beside
"messages": the same conversation with a worse last answer. The table FIELDS lists the names that
other data sets use for these fields.
Left out: which files there are (corpus.py), formats that are not lines or rows.

Parquet files need pyarrow, and .zst files zstandard, which are imported when one is read.
Used by corpus.py. Next: download.py.
"""

import gzip
import importlib
import io
import itertools
import json
import lzma
import os
import re
import struct
import sys
import zipfile
import zlib
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import read_text

from conversations import in_turns
from data import LARGEST
from folders import MEGABYTES, one_line
from housekeeping import regular
from mistakes import refuse_pointer

FIELDS = {  # our field name, and the names that other data sets use for it
    "text": ("text", "content"),
    "messages": ("messages",),
    "path": ("path", "max_stars_repo_path"),
    "repo": ("repo", "max_stars_repo_name"),
    "license": ("license", "max_stars_repo_licenses"),
    "stars": ("stars", "max_stars_count"),
}
LARGEST_MEMBER = 200_000_000  # bytes of a file in a .zip file
NULLABLE = ("messages", "rejected", "turns", "question", "answer", "canonical_solution")
OTHER_FORMS = {"chosen", "rejected", "turns", "question", "answer", "prompt", "canonical_solution",
               "test", "query", "choices", "context", "context_options", "continuation"}


def as_utf8(text):
    """The text, with U+FFFD for half a surrogate pair, which JSON can hold and UTF-8 can't."""
    if not isinstance(text, str):
        raise TypeError(f"{str(text)[:40]} is not a text")
    if len(text) > LARGEST:
        raise ValueError(f"a text is longer than {MEGABYTES}, the most that one may have")
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def with_calculator(answer):  # exercise
    """The parts of an answer of GSM8K, in which <<48/2=24>> stands for the use of a calculator.

    Inside << >>, the text before the last "=" becomes a python part, the text after it an output
    part; the text around becomes text parts, none of them empty.
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
    def checked(content):
        if isinstance(content, list):
            return [{"type": part["type"], "text": as_utf8(part["text"])} for part in content]
        return as_utf8(content)

    return in_turns([{"role": m["role"], "content": checked(m["content"])} for m in messages])


def pair(row):
    """The record of two answers, "chosen" and "rejected": texts that answer "prompt", a text or
    messages; or whole conversations. ValueError unless these differ in their last answer alone.
    """
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, str):
        prompt = row["prompt"]
        prompt = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]
        chosen, rejected = ([*prompt, {"role": "assistant", "content": text}]
                            for text in (chosen, rejected))
    chosen, rejected = conversation(chosen), conversation(rejected)
    if chosen[:-1] != rejected[:-1] or len(chosen) % 2:
        raise ValueError("chosen and rejected must be the same but for the last message, an answer")
    return {"messages": chosen, "rejected": rejected}


def about(found):
    """The known ones of path, repo, license and stars; a value of the wrong type is unknown."""
    if isinstance(found.get("license"), str):
        found["license"] = [found["license"]]
    types = {"path": str, "repo": str, "license": list, "stars": (int, float)}
    about = {key: found[key] for key, kind in types.items() if isinstance(found.get(key), kind)}
    if "license" in about:
        about["license"] = [name for name in about["license"] if isinstance(name, str) and name]
    return {key: value for key, value in about.items() if value != []}


def as_record(row, where, field=None):
    """A row of a data set as a record. ValueError, which begins with `where`, if it can't be one.

    field: the name of the text's field, if not in FIELDS. Without it these forms are known, in this
    order: a pair() of answers; messages; a text, under the first name of FIELDS that the row has;
    turns (strings of two speakers in turn); GSM8K's question and answer; HumanEval's prompt,
    solution and test (one text); CORE's questions with all answers (one text). A text that is null
    counts as empty.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not a JSON object")
    known = {"text": (field,)} if field else FIELDS
    found = {ours: row[name] for ours, names in (FIELDS | known).items()
             for name in reversed(names) if row.get(name) is not None}
    record = about(found)
    try:
        if not field and None not in (row.get("chosen"), row.get("rejected")):
            return record | pair(row)
        if not field and (found.get("messages") or "text" not in found and "messages" in found):
            return record | {"messages": conversation(found["messages"])}
        if "text" in found:
            return record | {"text": as_utf8(found["text"])}
        if not field and row.get("turns") is not None:
            return record | {"messages": conversation(
                {"role": ("user", "assistant")[i % 2], "content": text}
                for i, text in enumerate(row["turns"]))}
        if not field and None not in (row.get("question"), row.get("answer")):
            return record | {"messages": conversation([
                {"role": "user", "content": row["question"]},
                {"role": "assistant", "content": with_calculator(as_utf8(row["answer"]))}])}
        if not field and row.get("canonical_solution") is not None:
            parts = [row["prompt"], row["canonical_solution"], row["test"]]
            return record | {"text": "".join(map(as_utf8, parts))}
        if not field and ("choices" in row or "continuation" in row):
            parts = [row.get("query"), *row.get("choices", ()), row.get("context"),
                     *row.get("context_options", ()), row.get("continuation")]
            return record | {"text": "\n".join(as_utf8(part) for part in parts if part)}
    except (TypeError, LookupError, ValueError, RecursionError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"{where} can't be read: {one_line(what)}") from None
    if not row.keys().isdisjoint([*known["text"], *([] if field else NULLABLE)]):
        return record | {"text": ""}  # there, but null
    raise ValueError(f"{where} has no text under {' or '.join(map(repr, known['text']))}, only "
                     f"{one_line(', '.join(row))}; ,field=NAME says which field holds it")


class ZstdFrames(io.RawIOBase):
    """The content of a .zst file, of one frame or several. EOFError if the file ends within a
    frame, which zstandard's own readers take for its regular end.
    """

    def __init__(self, file):
        self.file, self.rest, self.content, self.place = file, b"", b"", 0
        self.zstandard = library("zstandard", "a .zst file")
        self.frame = None

    def readable(self):
        return True

    def readinto(self, buffer):
        while self.place == len(self.content):
            # 4 bytes can decompress to 128 kB: 512 at a time give at most 16 MB
            data = self.rest or self.file.read(1 << 9)
            if not data:
                if self.frame:
                    raise EOFError("its last frame does not end")
                return 0
            self.frame = self.frame or self.zstandard.ZstdDecompressor().decompressobj()
            self.content, self.place, self.rest = self.frame.decompress(data), 0, b""
            if self.frame.eof:
                self.rest, self.frame = self.frame.unused_data, None
        part = self.content[self.place:self.place + len(buffer)]
        buffer[:len(part)] = part
        self.place += len(part)
        return len(part)


def damage():
    """The exceptions by which the libraries report that a file's content is invalid."""
    loaded = [(sys.modules.get(name), error) for name, error in (
        ("zstandard", "ZstdError"), ("pyarrow.lib", "ArrowException"))]
    return (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
            NotImplementedError, RuntimeError, LookupError, OverflowError, struct.error,
            *(getattr(module, error) for module, error in loaded if module))


def lines_of(file, where):
    """Yield (number, line) for each line of a binary file, called `where` in messages. ValueError
    if a line has more than LARGEST bytes, or the file can't be decompressed up to its end.
    """
    for number in itertools.count(1):
        try:
            line = file.readline(LARGEST + 1)
        except damage() as error:
            raise ValueError(f"{where} is damaged after line {number - 1} ({error})") from None
        if not line:
            return
        if len(line) > LARGEST:
            raise ValueError(f"{where}, line {number}, is longer than {MEGABYTES}, the most that "
                             "one document may have")
        if number == 1:
            refuse_pointer(where, line)
        yield number, line


def read_rows(path):
    """(where, value) of each line of a file of JSON Lines, plain or compressed (.gz, .zst). where:
    the file and the line, for messages. ValueError if it is damaged, or a line is not JSON.
    """
    path = Path(path)
    with open(path, "rb") as raw:
        file = raw
        if path.suffix in (".gz", ".zst") and not raw.peek(1).startswith(b"version"):
            if not raw.peek(1):
                raise ValueError(f"{path} is empty, not even compressed: it was cut off")
            file = gzip.open(raw) if path.suffix == ".gz" else io.BufferedReader(
                ZstdFrames(raw), 1 << 16)
        for number, line in lines_of(file, path):
            if line.strip():
                where = f"{path}, line {number},"
                yield where, parsed(line, where)


def read_jsonl(path, field=None):
    """The records of such a file, one line at a time."""
    return (as_record(value, where, field) for where, value in read_rows(path))


def parsed(line, where):
    """A line of UTF-8 JSON; a byte-order mark may stand before it."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({one_line(error)})") from None


def read_parquet(path, field=None):
    """The records of a parquet file; only the columns that as_record() knows are read."""
    parquet = library("pyarrow.parquet", "a parquet file")
    wanted = {name for names in FIELDS.values() for name in names} | {field} | OTHER_FORMS
    refuse_pointer(path)
    try:
        file = parquet.ParquetFile(path, page_checksum_verification=True)
        columns = [name for name in file.schema_arrow.names if name in wanted]
        parts = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        size = max([part.total_byte_size // max(1, part.num_rows) for part in parts], default=0)
        batches = file.iter_batches(min(1000, LARGEST // max(1, size) + 1), columns=columns)
    except damage() as error:
        raise ValueError(f"{path} is not a parquet file ({one_line(error)})") from None
    number = 0
    while True:
        try:
            rows = next(batches).to_pylist()
        except StopIteration:
            return
        except damage() as error:
            raise ValueError(f"{path} is damaged after row {number} ({one_line(error)})") from None
        for number, row in enumerate(rows, number + 1):
            yield as_record(row, f"{path}, row {number},", field)


def library(name, purpose, package=""):
    """Import a library that only some formats need. ValueError with the pip command if missing.
    package: its name for pip, if that is not the library's own.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        package = package or name.split(".")[0]
        raise ValueError(f"{purpose} needs {package}: pip install {package}") from None


def read_wikitext(path, field=None):
    """Wikitext's rows are lines; an article begins at a heading of the first level: " = Title = ".
    """
    lines = []
    for record in read_parquet(path):
        line = record.get("text", "")
        if re.fullmatch(r" = [^=].* = \n", line) and lines:
            yield {"text": "".join(lines)}
            lines = []
        lines.append(line)
    yield {"text": "".join(lines)}


def read_core(path, field=None):
    """The items of the CORE bundle, a .zip file that is not unpacked onto the disk."""
    found = 0
    try:
        refuse_pointer(regular(path))
        with zipfile.ZipFile(path) as bundle:
            bundle.fp.seek(-22, os.SEEK_END)  # its last part, which counts the files
            end = bundle.fp.read()
            if end[:2] == b"PK" and int.from_bytes(end[10:12], "little") != len(bundle.infolist()):
                raise zipfile.BadZipFile("the list of its files is damaged")
            for member in sorted(bundle.infolist(), key=lambda member: member.filename):
                inside = f"{path}, {one_line(member.filename)}"
                if member.file_size > LARGEST_MEMBER:
                    raise ValueError(f"{inside} would be {member.file_size:,} bytes, more than the "
                                     f"{LARGEST_MEMBER:,} that are read")
                with bundle.open(member) as file:  # checks the name in the file's own header, too
                    if re.fullmatch(r"[^_].*eval_data/.*\.jsonl", member.filename):
                        for found, line in lines_of(file, inside):
                            if line.strip():
                                where = f"{inside}, line {found},"
                                yield as_record(parsed(line, where), where)
    except damage() as error:
        if type(error) is ValueError:  # our own message, which names the place
            raise
        raise ValueError(f"{path} is no .zip file, or damaged ({one_line(error)}); delete it to "
                         "fetch it anew") from None
    if not found:
        raise ValueError(f"{path} holds no eval_data/; delete it to fetch it anew")


def read_any(path, field=None):
    """The records of a file, in the format that its name tells."""
    if path.suffix == ".parquet":
        return read_parquet(path, field)
    if re.search(r"\.jsonl?(\.gz|\.zst)?$", path.name):
        return read_jsonl(path, field)
    return iter([{"text": read_text(path), "path": path.name}])
