"""Where documents come from.

A source is a list of documents, each a text, and a rule that says which of them are kept back for
validation. The rule belongs to the source: by a document's hash, where there are many (then
adding documents moves none from one side to the other), by its tail, where there are few.
Left out: which documents are worth keeping, and data sets that need a library to be read.

    python 02_data/corpus.py                      # lists the sources
    python 02_data/corpus.py folder:01_tokenizer  # counts one's documents and shows the first

Reads the source; downloads go to data/downloads/. Next: 02_data/shards.py.
"""

import hashlib
import http.client
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages


from console import Parser, Progress, read_text, run

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


@dataclass(frozen=True)
class Source:
    """documents(): an iterator over texts; split: "hash" or "tail"; fingerprint: changes when the
    documents do.
    """

    name: str
    documents: Callable[[], Iterator[str]]
    split: str
    fingerprint: str

    def parts(self):
        """Yield ("train" or "val", text): each document on its side; or, split by tails, what
        stands before a document's tail, and the tail. Nothing empty is yielded.
        """
        for text in self.documents():
            if self.split == "hash":
                pairs = [("val" if is_validation(text) else "train", text)]
            else:
                pairs = zip(("train", "val"), cut_tail(text))
            yield from ((part, text) for part, text in pairs if text)


# ---- folders of text ----

def folder(path):
    """Every file below `path` (or the file `path` itself), in the order of their names.

    Hidden and empty files and hidden folders are passed over. ValueError if nothing is left, and
    when the documents are read, if one is not UTF-8 text.
    """
    root = Path(path)
    if not root.exists():
        raise ValueError(f"folder:{path} does not exist")
    files = [root] if root.is_file() else sorted(
        p for p in root.rglob("*")
        if p.is_file() and not any(s.startswith(".") for s in p.relative_to(root).parts))
    files = [p for p in files if p.stat().st_size]
    if not files:
        raise ValueError(f"folder:{path} holds no text")
    return from_files(f"folder:{path}", files)


def python():
    """The source files of the Python that runs this: real code, on every machine, no download."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    return from_files("python", [p for p in sorted(root.rglob("*.py"))
                                 if not left_out & set(p.relative_to(root).parts)])


def from_files(name, files):
    seen = hashlib.sha256()
    for file in files:
        stat = file.stat()
        seen.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return Source(name, lambda: map(read_text, files), "tail" if len(files) < FEW else "hash",
                  seen.hexdigest())


# ---- downloads ----

def download(url, path, sha256, tries=4, wait=0.5):
    """Fetch `url` to `path`, once: a file that is there already, and is the right one, is kept.

    Written to PATH.part and renamed when its checksum is right; a broken transfer goes on where it
    stopped. ValueError if the content is not what was expected, OSError if it can't be had.
    """
    if path.exists():
        check(path, sha256, f"{path} is not the file that was expected")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for attempt in range(tries):
        try:
            receive(url, part)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429 or attempt == tries - 1:
                raise OSError(f"{url} answers {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if attempt == tries - 1:
                reason = getattr(error, "reason", error)
                raise OSError(f"can't download {url} ({reason}); connect to the network, or put "
                              f"the file at {path}") from None
        time.sleep(wait * 2**attempt)
    try:
        check(part, sha256, f"{url} has changed")
    except ValueError:
        part.unlink()
        raise
    return part.replace(path)


def check(path, sha256, complaint):
    """ValueError, beginning with `complaint`, if the file's checksum is another one."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise ValueError(f"{complaint}: sha256 {found[:16]}..., not {sha256[:16]}...")


def receive(url, part):
    """One try: append to `part` what is missing of `url`. Raises when the connection breaks."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is missing; the checksum will tell
            return
        raise
    mode = "ab" if response.status == 206 else "wb"
    with response, open(part, mode) as file, Progress() as progress:
        have, left = file.tell(), response.headers["Content-Length"]
        total = have + int(left) if left else None
        while block := response.read(1 << 16):
            file.write(block)
            have += len(block)
            progress.show(f"{url}: {have:,} of {total or '?':,} bytes")
        if total is not None and have < total:
            raise ConnectionError(f"the connection broke after {have:,} of {total:,} bytes")


def shakespeare(data_dir):
    """The plays, 1.1 MB: a text small enough for quick experiments, and known to everyone."""
    url = ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
           "input.txt")
    sha256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    path = download(url, Path(data_dir) / "downloads" / "shakespeare.txt", sha256)
    return Source("shakespeare", lambda: iter([read_text(path)]), "tail", sha256)


SOURCES = {
    "python": "the standard library of the Python that runs this (no download)",
    "folder:PATH": "every file of a folder of UTF-8 text, or one file (no download)",
    "shakespeare": "Shakespeare's plays, 1.1 MB, the last 10% for validation (a download)",
}


def find_source(name, data_dir="data"):
    """The Source that `name` stands for: a key of SOURCES, PATH filled in. ValueError if none."""
    if name == "python":
        return python()
    if name == "shakespeare":
        return shakespeare(data_dir)
    if name.startswith("folder:"):
        return folder(name.removeprefix("folder:"))
    raise ValueError(f"there is no source {name!r}; there are {', '.join(SOURCES)}")


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="the source to look into (default: list them)")
    parser.add_argument("--data-dir", default="data", help="where downloads go (default: data)")
    args = parser.parse_args(argv)
    if args.source is None:
        for name, about in SOURCES.items():
            print(f"{name:14} {about}")
        return
    source = find_source(args.source, args.data_dir)
    counts = {part: [0, 0] for part in ("train", "val")}
    first = ""
    for part, text in source.parts():
        first = first or text
        counts[part][0] += 1
        counts[part][1] += len(text.encode())
    for part, (documents, n_bytes) in counts.items():
        print(f"{part:5} {documents:9,} documents {n_bytes:15,} bytes")
    print(f"split by {source.split}; the first document begins:\n\n{first[:300]}")


if __name__ == "__main__":
    run(main)
