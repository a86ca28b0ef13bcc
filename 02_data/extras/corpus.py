"""All sources of documents: folders, other people's formats, and data sets on the net.

data.py reads Python's own library and plain files. This file adds options behind a source's name,
compressed JSON lines, parquet, and downloads; conversations as well as texts; and official splits,
made by a data set's authors. The table SOURCES lists every source.
Left out: which documents are worth keeping (filters.py).

    python 02_data/extras/corpus.py list
    python 02_data/extras/corpus.py 'folder:.,include=*.py,exclude=tests/*'  # counts, and the first
    python 02_data/extras/corpus.py fineweb-edu --num-shards 2

Reads the source; downloads go to data/downloads/. Next: tasks.py.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Callable

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, escaped, read_text, run, track

from data import FEW, LARGEST, find_files, fingerprint, is_validation, slug
from download import fetch
from folders import MEGABYTES, holds_something, list_files, texts, told
from hub import fetch_all, hub_files, hub_token
from records import read_any, read_core, read_jsonl, read_parquet, read_wikitext


# ---- documents ----
def content(record):
    """A document as one text, from which its hash is computed."""
    return record["text"] if "text" in record else json.dumps(record["messages"], sort_keys=True)


def strings(record):
    """The texts in a record: one, or what was said in a conversation."""
    if "text" in record:
        yield record["text"]
    for message in record.get("messages", ()):
        if isinstance(message["content"], str):
            yield message["content"]
        else:
            yield from (part["text"] for part in message["content"])


@dataclass(frozen=True)
class Source:
    """Documents that can be read again and again, and the rule that splits them: by "hash" or by
    "tail", as in data.documents(); or "official", where each record says its "split", train or val.
    """

    name: str
    records: Callable  # () -> an iterator over the documents, records as records.py has them
    split_by: str
    fingerprint: str  # changes when the documents do
    share: float = 0.05  # of the documents that is validation, when split by hash
    fim: float = 0.0  # share of the training documents that fim.py rearranges
    pattern: str = ""  # a name in pieces.py: how a tokenizer trained on it cuts texts; "": gpt4
    loss: str = "answers"  # which ids of a conversation are learned: those of answers, or "all"

    @property
    def slug(self):
        return slug(self.name)

    def documents(self):
        """Yield ("train" or "val", record), without empty documents. A pair is two documents, first
        the conversation with the chosen answer, whose split is that of both.
        """
        for record in self.records():
            if self.split_by == "tail":
                text, cut = record["text"], int(len(record["text"]) * 0.9)
                for split, part in (("train", text[:cut]), ("val", text[cut:])):
                    if part:
                        yield split, record | {"text": part}
            elif content(record):
                split = (record["split"] if self.split_by == "official" else
                         "val" if is_validation(content(record), self.share) else "train")
                yield split, {key: record[key] for key in record if key != "rejected"}
                if "rejected" in record:
                    yield split, {"messages": record["rejected"], "rejected": True}


# ---- sources on this machine ----
def say(note):
    if note:
        print(note, file=sys.stderr)


def from_files(name, top, files):
    """The Source of some UTF-8 files below the folder `top`, each a document."""
    def records():
        for file in files:
            yield {"text": read_text(file), "path": file.relative_to(top).as_posix()}

    return Source(name, records, "tail" if len(files) < FEW else "hash", fingerprint(files))


def python(path):
    return from_files("python", Path(os.__file__).parent, find_files("python"))


def switch(values, key):
    """Whether an option behind a source's name is 1. ValueError if it is neither 0 nor 1."""
    if values[-1] not in ("0", "1"):
        raise ValueError(f"{key} is {values[-1]!r}, but must be 0 or 1")
    return values[-1] == "1"


def files_of(name, path, endings=("",), hidden=(".",), links=("0",)):
    """folders.list_files() of a path, which may also be a single file."""
    links = switch(links, "links")
    if not path.exists():
        raise ValueError(f"{name} does not exist")
    if not (path.is_file() or path.is_dir()):
        raise ValueError(f"{name} is neither a file nor a folder")
    if path.is_file():
        return [path] * holds_something(path), []
    return list_files(path, endings, hidden, links)


def folder(path, include=(), exclude=(), links=("0",), strict=("0",)):
    """Every text below `path` (or the file `path` itself), in the order of their names.

    include, exclude: globs for a file's path relative to `path`; a * matches slashes, too. Files
    that are not UTF-8 text, and symbolic links unless links=1, are left out, and a note says so;
    with strict=1 they are an error. ValueError if nothing is left.
    """
    top, name, strict = Path(path), f"folder:{path}", switch(strict, "strict")
    files, left_out = files_of(name, top, links=links)
    if top.is_file() and (include or exclude):
        raise ValueError(f"folder:{path} is a file; include and exclude are for folders")

    def wanted(file):
        name = file.relative_to(top).as_posix()
        return ((not include or any(fnmatch(name, glob) for glob in include))
                and not any(fnmatch(name, glob) for glob in exclude))

    if files == [top]:
        if top.stat().st_size > LARGEST:
            raise ValueError(f"{path} is larger than {MEGABYTES}, the most that one document may "
                             f"have; cut it into several: split -C 100M {path}")
        read_text(top)  # ValueError if it is no text
    files, objections = texts(filter(wanted, files), filter(wanted, left_out))
    note = told(name, top, objections) if objections else ""
    if objections and strict:
        raise ValueError(f"{note}; with strict=1 that is an error")
    if not files:
        raise ValueError(note or f"{name} holds no text" + " that the globs let through" * bool(
            include or exclude))
    say(note)
    return from_files(name, top, files)


def rows(kind, read, endings, hidden, path, field=(None,), links=("0",), val=("0.05",)):
    """The Source of what read() finds in the file `path`, or in all files below it whose names end
    in one of `endings`, except where a part of the path begins with one of `hidden`. val: the share
    that is validation; 1: all.
    """
    if not re.fullmatch(r"0?\.\d+|[01]", val[-1]):
        raise ValueError(f"val is {val[-1]!r}, but must be a share from 0 to 1")
    name = f"{kind}:{path}"
    files, left_out = files_of(name, Path(path), endings, hidden, links)
    note = told(name, path, texts((), left_out)[1]) if left_out else ""
    if not files:
        raise ValueError(note or f"{name} holds no file that ends in {' or '.join(endings)}")
    say(note)
    return Source(name, lambda: (record for file in files for record in read(file, field[-1])),
                  "hash", fingerprint(files), float(val[-1]))


def tasks(path, **options):
    from tasks import open_tasks
    return open_tasks(**options)


# ---- sources on the net ----
GITHUB = "https://raw.githubusercontent.com/"


@dataclass(frozen=True)
class Info:
    """A row of the table SOURCES. In files and hub, split is "train" or "val" if the set is split
    by its authors, else "".
    """

    about: str
    split_by: str
    between: str  # what separates its documents
    files: tuple = ()  # (split, address, sha256 or None), or ...
    hub: tuple = ()  # ... (split, repository, folder in it, glob for the files in that)
    num_shards: int | None = None  # default number of files from the Hub's folder; None: all
    share: float = 0.05  # of validation, when split by hash; less of a large set
    gated: bool = False  # its owner asks for agreement to terms, and for an access token
    read: Callable = read_any
    open: Callable | None = None  # for sources on this machine

    @property
    def address(self):
        return (self.files[0][1] if self.files else
                "huggingface.co/datasets/" + "/".join(self.hub[0][1:3]) if self.hub else "")


SOURCES = {
    "python": Info("the standard library of the Python that runs this", "hash", "files",
                  open=python),
    "folder:PATH": Info("the UTF-8 texts of a folder, or one; include=GLOB, exclude=GLOB, links=1 "
                       "(follow links), strict=1 (leave nothing out)",
                       "hash or tail", "files", open=folder),
    "jsonl:PATH": Info("JSON lines (.gz, .zst): messages, chosen and rejected, text, content, or "
                      "field=NAME; links=1; val=1 (all is validation)",
                      "hash", "lines", open=functools.partial(
                          rows, "jsonl", read_jsonl, (".jsonl", ".jsonl.gz", ".jsonl.zst"),
                          (".",))),
    "parquet:PATH": Info("parquet files, with the same fields; but for names that begin with _",
                        "hash", "rows", open=functools.partial(  # which are Spark's own
                            rows, "parquet", read_parquet, (".parquet",), (".", "_"))),
    "tasks": Info("small tasks with one right answer, made up here: n=DOCUMENTS, level=1, 2 or 3, "
                 "form=prose, chat or pairs, only=addition+dates, seed=0", "official", "tasks",
                 open=tasks),
    "shakespeare": Info("plays, 1.1 MB: small, and known to everyone", "tail", "none, it is one",
                       ((("", GITHUB + "karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                          "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed")),)),
    "wikitext-2": Info("720 good articles of Wikipedia, 12 MB", "official", "first headings",
                      hub=(("train", "Salesforce/wikitext", "wikitext-2-raw-v1", "*/train-*"),
                           ("val", "Salesforce/wikitext", "wikitext-2-raw-v1", "*/validation-*")),
                      read=read_wikitext),
    "wikitext-103": Info("28,595 of them, 540 MB", "official", "first headings",
                        hub=(("train", "Salesforce/wikitext", "wikitext-103-raw-v1", "*/train-*"),
                             ("val", "Salesforce/wikitext", "wikitext-103-raw-v1",
                              "*/validation-*")), read=read_wikitext),
    "fineweb-edu": Info("web pages that teach, 10 billion tokens", "hash", "rows", num_shards=1,
                       hub=(("", "HuggingFaceFW/fineweb-edu", "sample/10BT", "*.parquet"),),
                       share=0.002),
    "c4": Info("web pages in English, cleaned by rules, 305 GB", "hash", "lines", num_shards=1,
              hub=(("", "allenai/c4", "en", "*/c4-train.*"),), share=0.002),
    "the-pile": Info("22 collections in one, without the books", "hash", "lines", num_shards=1,
                    hub=(("", "monology/pile-uncopyrighted", "train", "*.jsonl.zst"),),
                    share=0.002),
    "the-stack": Info("Go files of public repositories, with their metadata", "hash", "files",
                     hub=(("", "bigcode/the-stack-dedup", "data/go", "*.parquet"),),
                     num_shards=1, share=0.01, gated=True),
    "smoltalk": Info("a million conversations", "official", "conversations",
                    hub=(("train", "HuggingFaceTB/smoltalk", "data/all", "*/train-*"),
                         ("val", "HuggingFaceTB/smoltalk", "data/all", "*/test-*"))),
    "gsm8k": Info("8,792 maths problems for children, solved step by step", "official", "lines", (
        ("train", GITHUB + "openai/grade-school-math/master/grade_school_math/data/train.jsonl",
         "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
        ("val", GITHUB + "openai/grade-school-math/master/grade_school_math/data/test.jsonl",
         "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"))),
    "humaneval-x": Info("164 problems in Go, with tests: to evaluate on", "hash", "lines", (
        ("", GITHUB + "THUDM/CodeGeeX/main/codegeex/benchmark/humaneval-x/go/data/"
         "humaneval_go.jsonl.gz",
         "09126ef64ac68f87296c5f3781186aedc5dec799b114d9df99d6de4a715a7830"),)),
    "core": Info("22 tasks in context: to evaluate on", "hash", "items", (
        ("", "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip", None),),
        read=read_core),
}


def open_remote(name, row, data_dir, num_shards=None):
    """The Source of a row of the table whose files are on the net, once all of them are fetched."""
    cache = Path(data_dir) / "downloads" / name
    token = hub_token() if row.gated else None
    if row.gated and not token:
        raise ValueError(f"{name} is open only to those who have agreed to its terms: do so at "
                         f"https://huggingface.co/datasets/{row.hub[0][1]}, then put an access "
                         "token (https://huggingface.co/settings/tokens) into HF_TOKEN")
    found = [(split, fetch(url, cache / url.rpartition("/")[2], sha256), sha256)
             for split, url, sha256 in row.files]
    if row.hub and num_shards is None:
        num_shards = row.num_shards
    wanted = []
    for split, repo, below, glob in row.hub:
        listing = hub_files(repo, below, cache=cache / f"{below.replace('/', '-')}.json",
                            token=token)
        wanted += [(split, file) for file in listing if fnmatch(file.path, glob)][:num_shards]
    paths = fetch_all([file for _, file in wanted], cache, token=token)
    found += [(split, path, file.sha256) for (split, file), path in zip(wanted, paths)]

    def records():
        for split, path, _ in found:
            for record in row.read(path):
                yield record | {"split": split}

    key = json.dumps([(path.name, sha256 or path.stat().st_size) for _, path, sha256 in found])
    return Source(name, records, row.split_by, hashlib.sha256(key.encode()).hexdigest(), row.share)


# ---- by name ----
def parse_name(name):
    """"folder:src,include=*.go" -> ("folder:src", {"include": ["*.go"]}). Keys may repeat."""
    base, *pairs = re.split(r",(?=[a-z_]+=)", name)
    options = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        options.setdefault(key, []).append(value)
    return base, options


def open_source(base, options, data_dir="data"):
    """The Source named `base`, a key of SOURCES with PATH filled in. Its files on the net are
    fetched and checked first. options: {key: [values]}. ValueError if there is no such source.
    """
    kind, colon, path = base.partition(":")
    row = SOURCES.get(f"{kind}:PATH" if colon else base)
    if row is None:
        hint = "; the number in NAME:0.3 is a share, and comes last" if colon else ""
        if os.path.exists(base):
            hint = f"; did you mean {'folder' if os.path.isdir(base) else 'jsonl'}:{base}?"
        raise ValueError(f"there is no source {base!r}; there are {', '.join(SOURCES)}{hint}")
    if colon and not path:
        raise ValueError(f"{base} needs a path behind it")
    known = ({"folder": {"include", "exclude", "links", "strict"},
              "jsonl": {"field", "links", "val"}, "parquet": {"field", "links", "val"},
              "tasks": {"form", "level", "n", "only", "seed"}}
             .get(kind, {"num_shards"} if row.hub else set()))
    if unknown := set(options) - known:
        raise ValueError(f"{base} takes {', '.join(sorted(known)) or 'no option'}; not "
                         f"{', '.join(sorted(unknown))}")
    name = ",".join([base, *(f"{key}={value}" for key in options for value in options[key])])
    if row.open:
        return dataclasses.replace(row.open(path, **options), name=name)
    number = options.get("num_shards", [None])[-1]
    if number is not None and not (number.isdecimal() and int(number) > 0):
        raise ValueError(f"num_shards is {number}, but must be 1 or more")
    source = open_remote(base, row, data_dir, number and int(number))
    return dataclasses.replace(source, name=name)


def find_source(name, data_dir="data"):
    """The Source of this name, which may have options behind it: NAME,key=value."""
    return open_source(*parse_name(name), data_dir)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="list",
                        help="the source to look into (default: list, a list of all)")
    parser.add_argument("--num-shards", type=int, metavar="N",
                        help="fetch N files of a data set that has many (default: 1)")
    parser.add_argument("--data-dir", default="data", help="where downloads go (default: data)")
    args = parser.parse_args(argv)
    if args.source == "list":
        for name, row in SOURCES.items():
            more = f"; {row.num_shards} file unless num_shards=N" if row.num_shards else ""
            more += "; needs an access token" if row.gated else ""
            rule = f"hash, {row.share:.1%}" if row.split_by == "hash" else row.split_by
            print(f"{name:14}{row.about}\n{'':14}split by {rule}; between documents: "
                  f"{row.between}{more}" + (f"\n{'':13}*{row.address}" if row.address else ""))
        print("* the address that its authors give; it has not been tried")
        return
    base, options = parse_name(args.source)
    if args.num_shards is not None:
        options["num_shards"] = [str(args.num_shards)]
    source = open_source(base, options, args.data_dir)
    counts = {split: [0, 0] for split in ("train", "val")}
    first = ""
    for split, record in track(source.documents(), "reading", unit=" documents"):
        first = first or content(record)
        counts[split][0] += 1
        counts[split][1] += len(content(record).encode())
    for split, (n, n_bytes) in counts.items():
        what = "documents" if source.split_by != "tail" else "parts of documents"
        print(f"{split:5} {n:9,} {what} {n_bytes:15,} bytes")
    print(f"split by {source.split_by}; the first document begins:\n\n{escaped(first[:300])}")


if __name__ == "__main__":
    run(main)
