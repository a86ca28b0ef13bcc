"""Where documents come from.

A source is a list of documents, a rule that says which of them are kept back for validation, and
a fingerprint that changes when they do. The rule belongs to the source: by a document's hash,
where there are many (then adding documents moves none from one side to the other), by its tail,
where there are few, or official, where its authors have split it. One table, SOURCES, has them all.
Left out: which documents are worth keeping (filters.py).

    python 02_data/corpus.py list
    python 02_data/corpus.py 'folder:.,include=*.py,exclude=tests/*'  # counts, shows the first
    python 02_data/corpus.py fineweb-edu --num-shards 2

Reads the source; downloads go to data/downloads/. Next: records.py, or
02_data/shards.py, if files and downloads are of no interest now.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
import sys
import sysconfig
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Callable, Iterator

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from console import Parser, read_text, run, track
from download import fetch
from hub import fetch_all, hub_files, hub_token
from records import read_any, read_core, read_jsonl, read_parquet, read_wikitext

FEW = 200  # with fewer documents than this a split by hash could leave one side all but empty


# ---- the split ----

def is_validation(text, share=0.05):  # exercise
    """Whether a document belongs to the validation set: decided by its content alone.

    The first 8 bytes of sha256(text as UTF-8), read as a big-endian number, lie between 0 and
    2^64; the document is validation if they are below share * 2^64. So equal documents
    always land on the same side, in any order, on any machine.
    """
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def cut_tail(text, share=0.1):  # exercise
    """(train, validation): all but the last `share` of the characters, and those.

    The first part has int(len(text) * (1 - share)) characters: cut_tail("0123456789") is
    ("012345678", "9").
    """
    cut = int(len(text) * (1 - share))
    return text[:cut], text[cut:]


def content(record):
    """What a document says, as one text: what its hash is taken of."""
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
    """A list of documents that can be gone through again and again."""

    name: str
    records: Callable[[], Iterator[dict]]  # the documents, as records.py has them
    split: str  # "hash", "tail", or "official": then every record says its "part", train or val
    fingerprint: str  # changes when the documents do
    share: float = 0.05  # of the documents that a hash keeps back

    @property
    def slug(self):
        """A name for its folders: jsonl:some/where/a.jsonl is a-jsonl."""
        return re.sub(r"[^A-Za-z0-9]+", "-", Path(self.name).name)[-40:].strip("-")

    def parts(self):
        """Yield ("train" or "val", record): each document on its side; or, split by tails, what
        stands before a document's tail, and the tail. Nothing empty is yielded.
        """
        for record in self.records():
            if self.split == "tail" and "text" in record:
                pairs = [(part, record | {"text": text})
                         for part, text in zip(("train", "val"), cut_tail(record["text"]))]
            elif self.split == "official":
                pairs = [(record["part"], record)]
            else:
                part = "val" if is_validation(content(record), self.share) else "train"
                pairs = [(part, record)]
            yield from ((part, one) for part, one in pairs if content(one))


# ---- sources on this machine ----

def fingerprint(files):
    """Changes when a file does, as far as its size and time tell: nothing is read."""
    seen = hashlib.sha256()
    for file in files:
        stat = file.stat()
        seen.update(os.fsencode(file) + f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return seen.hexdigest()


def python():
    """The source files of the Python that runs this: real code, on every machine, no download."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    return from_texts("python", root, [p for p in sorted(root.rglob("*.py"))
                                       if not left_out & set(p.relative_to(root).parts)])


def folder(path, include=(), exclude=()):
    """Every file below `path` (or the file `path` itself), in the order of their names.

    include, exclude: globs for what follows `path` in a file's name, in which * stands for
    slashes, too. Hidden and empty files and hidden folders are passed over. ValueError if nothing
    is left, and when the documents are read, if one is not UTF-8 text.
    """
    root = Path(path)
    if not root.exists():
        raise ValueError(f"folder:{path} does not exist")

    def wanted(file):
        name = file.relative_to(root)
        return (file.is_file() and not any(part.startswith(".") for part in name.parts)
                and (not include or any(fnmatch(name.as_posix(), glob) for glob in include))
                and not any(fnmatch(name.as_posix(), glob) for glob in exclude)
                and file.stat().st_size)

    if root.is_file():
        files = [root] if root.stat().st_size else []
        if include or exclude:
            raise ValueError(f"folder:{path} is a file; include and exclude are for folders")
    else:
        files = sorted(filter(wanted, root.rglob("*")))
    if not files:
        raise ValueError(f"folder:{path} holds no text" + (" that the globs let through" if include
                                                           or exclude else ""))
    return from_texts(f"folder:{path}", root, files)


def from_texts(name, root, files):
    def records():
        for file in files:
            yield {"text": read_text(file), "path": file.relative_to(root).as_posix()}

    return Source(name, records, "tail" if len(files) < FEW else "hash", fingerprint(files))


def rows(kind, read, suffixes, path, field=(None,)):
    """What read() finds in the file `path`, or in all below it that end in one of `suffixes`."""
    root = Path(path)
    if not root.exists():
        raise ValueError(f"{kind}:{path} does not exist")
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*")
                                                 if p.name.endswith(suffixes))
    if not files:
        raise ValueError(f"{kind}:{path} holds no file that ends in {' or '.join(suffixes)}")
    return Source(f"{kind}:{path}", lambda: (record for file in files
                                             for record in read(file, field[-1])),
                  "hash", fingerprint(files))


# ---- sources on the net ----

GITHUB = "https://raw.githubusercontent.com/"


@dataclass(frozen=True)
class Row:
    """A line of the table. A part is "train" or "val", or "" where the split comes later."""

    about: str
    split: str
    between: str  # what separates its documents
    files: tuple = ()  # (part, address, sha256 or None), or ...
    hub: tuple = ()  # ... (part, repository, folder in it, glob for the files in that)
    num_shards: int | None = None  # how many files of the Hub's folder, unless asked for more
    share: float = 0.05  # kept back by hash; less of what is large
    gated: bool = False  # given out to who has agreed to its terms
    read: Callable = read_any
    open: Callable | None = None  # for what is on this machine

    @property
    def address(self):
        return (self.files[0][1] if self.files else
                "huggingface.co/datasets/" + "/".join(self.hub[0][1:3]) if self.hub else "")


SOURCES = {
    "python": Row("the standard library of the Python that runs this", "hash", "files",
                  open=lambda path: python()),
    "folder:PATH": Row("the files of a folder of UTF-8 text, or one; include=GLOB, exclude=GLOB",
                       "hash or tail", "files", open=folder),
    "jsonl:PATH": Row("JSON lines (.gz, .zst): text, content, messages, or field=NAME", "hash",
                      "lines", open=functools.partial(
                          rows, "jsonl", read_jsonl, (".jsonl", ".jsonl.gz", ".jsonl.zst"))),
    "parquet:PATH": Row("parquet files, with the same fields", "hash", "rows",
                        open=functools.partial(rows, "parquet", read_parquet, (".parquet",))),
    "shakespeare": Row("plays, 1.1 MB: small, and known to everyone", "tail", "none, it is one",
                       ((("", GITHUB + "karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                          "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed")),)),
    "wikitext-2": Row("720 good articles of Wikipedia, 12 MB", "official", "first headings",
                      hub=(("train", "Salesforce/wikitext", "wikitext-2-raw-v1", "*/train-*"),
                           ("val", "Salesforce/wikitext", "wikitext-2-raw-v1", "*/validation-*")),
                      read=read_wikitext),
    "wikitext-103": Row("28,595 of them, 540 MB", "official", "first headings",
                        hub=(("train", "Salesforce/wikitext", "wikitext-103-raw-v1", "*/train-*"),
                             ("val", "Salesforce/wikitext", "wikitext-103-raw-v1",
                              "*/validation-*")), read=read_wikitext),
    "fineweb-edu": Row("web pages that teach, 10 billion tokens", "hash", "rows", num_shards=1,
                       hub=(("", "HuggingFaceFW/fineweb-edu", "sample/10BT", "*.parquet"),),
                       share=0.002),
    "c4": Row("web pages in English, cleaned by rules, 305 GB", "hash", "lines", num_shards=1,
              hub=(("", "allenai/c4", "en", "*/c4-train.*"),), share=0.002),
    "the-pile": Row("22 collections in one, without the books", "hash", "lines", num_shards=1,
                    hub=(("", "monology/pile-uncopyrighted", "train", "*.jsonl.zst"),),
                    share=0.002),
    "the-stack": Row("Go files of public repositories, with their metadata", "hash", "files",
                     hub=(("", "bigcode/the-stack-dedup", "data/go", "*.parquet"),),
                     num_shards=1, share=0.01, gated=True),
    "smoltalk": Row("a million conversations", "official", "conversations",
                    hub=(("train", "HuggingFaceTB/smoltalk", "data/all", "*/train-*"),
                         ("val", "HuggingFaceTB/smoltalk", "data/all", "*/test-*"))),
    "gsm8k": Row("8,792 maths problems for children, solved step by step", "official", "lines", (
        ("train", GITHUB + "openai/grade-school-math/master/grade_school_math/data/train.jsonl",
         "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465"),
        ("val", GITHUB + "openai/grade-school-math/master/grade_school_math/data/test.jsonl",
         "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"))),
    "humaneval-x": Row("164 problems in Go, with tests: to evaluate on", "hash", "lines", (
        ("", GITHUB + "THUDM/CodeGeeX/main/codegeex/benchmark/humaneval-x/go/data/"
         "humaneval_go.jsonl.gz",
         "09126ef64ac68f87296c5f3781186aedc5dec799b114d9df99d6de4a715a7830"),)),
    "core": Row("22 tasks in context: to evaluate on", "hash", "items", (
        ("", "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip", None),),
        read=read_core),
}


def open_remote(name, row, data_dir, num_shards=None):
    """Fetch what a row of the table names, all of it, and return it as a Source."""
    cache = Path(data_dir) / "downloads" / name
    token = hub_token() if row.gated else None
    if row.gated and not token:
        raise ValueError(f"{name} is given out to who has agreed to its terms: do so at "
                         f"https://huggingface.co/datasets/{row.hub[0][1]}, then put an access "
                         "token (https://huggingface.co/settings/tokens) into HF_TOKEN")
    found = [(part, fetch(url, cache / url.rpartition("/")[2], sha256), sha256)
             for part, url, sha256 in row.files]
    if row.hub and num_shards is None:
        num_shards = row.num_shards
    wanted = []
    for part, repo, below, glob in row.hub:
        listing = hub_files(repo, below, cache=cache / f"{below.replace('/', '-')}.json",
                            token=token)
        wanted += [(part, file) for file in listing if fnmatch(file.path, glob)][:num_shards]
    paths = fetch_all([file for _, file in wanted], cache, token=token)
    found += [(part, path, file.sha256) for (part, file), path in zip(wanted, paths)]

    def records():
        for part, path, _ in found:
            for record in row.read(path):
                yield record | {"part": part}

    key = json.dumps([(path.name, sha256 or path.stat().st_size) for _, path, sha256 in found])
    return Source(name, records, row.split, hashlib.sha256(key.encode()).hexdigest(), row.share)


# ---- by name ----

def parse_name(name):
    """"folder:src,include=*.go" -> ("folder:src", {"include": ["*.go"]}). Keys may repeat."""
    base, *pairs = re.split(r",(?=[a-z_]+=)", name)
    options = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        options.setdefault(key, []).append(value)
    return base, options


def find_source(name, data_dir="data"):
    """The Source that `name` stands for: a key of SOURCES, PATH filled in, and options behind
    it: NAME,key=value. What has to be fetched is fetched and checked. ValueError if there is none.
    """
    base, options = parse_name(name)
    kind, colon, path = base.partition(":")
    row = SOURCES.get(f"{kind}:PATH" if colon else base)
    if row is None:
        hint = "; the number in NAME:0.3 is a share, and comes last" if colon else ""
        raise ValueError(f"there is no source {base!r}; there are {', '.join(SOURCES)}{hint}")
    if colon and not path:
        raise ValueError(f"{base} needs a path behind it")
    known = ({"folder": {"include", "exclude"}, "jsonl": {"field"}, "parquet": {"field"}}
             .get(kind, {"num_shards"} if row.hub else set()))
    if unknown := set(options) - known:
        raise ValueError(f"{base} takes {' and '.join(sorted(known)) or 'no option'}, "
                         f"not {', '.join(sorted(unknown))}")
    if row.open:
        return dataclasses.replace(row.open(path, **options), name=name)
    number = options.get("num_shards", [None])[-1]
    if number is not None and not (number.isdecimal() and int(number) > 0):
        raise ValueError(f"num_shards is {number}, but must be 1 or more")
    source = open_remote(base, row, data_dir, number and int(number))
    return dataclasses.replace(source, name=name)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="list",
                        help="the source to look into (default: list, which lists them)")
    parser.add_argument("--num-shards", type=int, metavar="N",
                        help="fetch N files of a data set that has many (default: 1)")
    parser.add_argument("--data-dir", default="data", help="where downloads go (default: data)")
    args = parser.parse_args(argv)
    if args.source == "list":
        for name, row in SOURCES.items():
            more = f"; {row.num_shards} file unless num_shards=N" if row.num_shards else ""
            more += "; needs an access token" if row.gated else ""
            split = f"hash, {row.share:.1%}" if row.split == "hash" else row.split
            print(f"{name:14}{row.about}\n{'':14}split: {split}; between documents: "
                  f"{row.between}{more}" + (f"\n{'':13}*{row.address}" if row.address else ""))
        print("* written down from what its authors say; this address has not been tried")
        return
    shards = f",num_shards={args.num_shards}" if args.num_shards is not None else ""
    source = find_source(args.source + shards, args.data_dir)
    counts = {part: [0, 0] for part in ("train", "val")}
    first = ""
    for part, record in track(source.parts(), "reading", unit=" documents"):
        first = first or content(record)
        counts[part][0] += 1
        counts[part][1] += len(content(record).encode())
    for part, (documents, n_bytes) in counts.items():
        what = "documents" if source.split != "tail" else "parts of documents"
        print(f"{part:5} {documents:9,} {what} {n_bytes:15,} bytes")
    print(f"split by {source.split}; the first document begins:\n\n{first[:300]}")


if __name__ == "__main__":
    run(main)
