"""Files of other people's formats -> records: one dict a document.

A record has "text", or "messages" (a conversation, as chats.py has them), and whatever of path,
repo, license and stars is known. Others give these other names; here is who calls what how.
Left out: which files there are (corpus.py), formats that are not lines or rows.

Parquet needs pyarrow and .zst needs zstandard; they are asked for when one is to be read.
Used by corpus.py. Next: download.py.
"""

import gzip
import importlib
import json
import re
import sys
import zipfile
from pathlib import Path

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from chats import with_calculator
from console import read_text

FIELDS = {  # what others call what we call
    "text": ("text", "content"),
    "messages": ("messages",),
    "path": ("path", "max_stars_repo_path"),
    "repo": ("repo", "max_stars_repo_name"),
    "license": ("license", "max_stars_repo_licenses"),
    "stars": ("stars", "max_stars_count"),
}
OTHER_FORMS = {"question", "answer", "prompt", "canonical_solution", "test", "turns"}


def as_record(row, where, field=None):
    """A row of someone's data set as a record. ValueError, saying `where`, if it holds no text.

    field: the name of the text, if it is none of FIELDS. Knows GSM8K's question and answer,
    HumanEval's prompt, solution and test (one text), CORE's questions with all that may follow
    them (one text), and turns, strings by two who alternate.
    """
    if not isinstance(row, dict):
        raise ValueError(f"{where} is not a JSON object")
    known = FIELDS | ({"text": (field,)} if field else {})
    record = {ours: row[name] for ours, names in known.items()
              for name in names if row.get(name) is not None}
    if "turns" in row:
        record["messages"] = [{"role": ("user", "assistant")[i % 2], "content": text}
                              for i, text in enumerate(row["turns"])]
    elif "question" in row and "answer" in row:
        record["messages"] = [{"role": "user", "content": row["question"]},
                              {"role": "assistant", "content": with_calculator(row["answer"])}]
    elif "canonical_solution" in row:
        record["text"] = row["prompt"] + row["canonical_solution"] + row["test"]
    elif "choices" in row or "continuation" in row:
        parts = [row.get("query"), *row.get("choices", ()), row.get("context"),
                 *row.get("context_options", ()), row.get("continuation")]
        record["text"] = "\n".join(part for part in parts if part)
    if isinstance(record.get("text"), str):
        record.pop("messages", None)
        try:
            record["text"].encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold and UTF-8 can't
            record["text"] = record["text"].encode("utf-16", "surrogatepass").decode("utf-16",
                                                                                     "replace")
    elif not isinstance(record.get("messages"), list):
        raise ValueError(f"{where} has no text under {' or '.join(map(repr, known['text']))}, only "
                         f"{', '.join(row)}; ,field=NAME says which field holds it")
    return record


def read_jsonl(path, field=None):
    """The records of a .jsonl file, plain or compressed (.gz, .zst), one line at a time."""
    if path.suffix == ".zst":
        opener = library("zstandard", "a .zst file").open
    else:
        opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield as_record(json.loads(line), f"{path}, line {number},", field)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {number}, is not JSON ({error})") from None
    except (EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged after line {number} ({error})") from None


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
    """The items of the CORE bundle, a .zip file."""
    with zipfile.ZipFile(path) as bundle:
        names = sorted(n for n in bundle.namelist() if re.match(r"[^_].*eval_data/.*\.jsonl$", n))
        for name in names:
            for number, line in enumerate(bundle.read(name).decode().splitlines(), 1):
                yield as_record(json.loads(line), f"{name}, line {number},")


def read_any(path, field=None):
    """A file of records, by its name."""
    if path.suffix == ".parquet":
        return read_parquet(path, field)
    if re.search(r"\.jsonl?(\.gz|\.zst)?$", path.name):
        return read_jsonl(path, field)
    return iter([{"text": read_text(path), "path": path.name}])
