"""Clean a source: keep the documents that no filter drops, and report what was dropped, and why.

Every document goes through the filters of filters.py. Those that none drops are written in chunks
of about 200 MB of text, with a manifest: the source, the rules, the evaluation sets, the counts and
the checksums, with which others can repeat the work and check that they got the same.
Left out: several processes (one reads 25 MB of code in four seconds).

    python 02_data/extras/clean.py "folder:PATH,include=*.go" --language go
    python 02_data/extras/clean.py jsonl:FILE --language go --against humaneval-x --out FOLDER

data.py, packing.py and train.py take the same rules as options behind a source's name:
jsonl:FILE,language=go,against=humaneval-x.
Reads sources; writes FOLDER/chunk-00000.jsonl and so on, manifest.json, report.txt, filters.png.
Next: fim.py.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import secrets
import shutil
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import (Parser, add_options, escaped, file_hash, read_text, run, track,
                     write_safely)
import corpus
import duplicates
import filters
import folders
import records
from corpus import find_source, strings
from duplicates import Overlap
from filters import Rules, all_filters, n_bytes, title
from housekeeping import clear_away
from records import as_record, lines_of, parsed


RULES = ("against", *(field.name for field in dataclasses.fields(Rules)))  # options of a source


# ---- the report ----
class Report:
    """Counts for each filter, and for "kept": documents, bytes, and the first examples."""

    def __init__(self, names):
        self.rows = {name: {"documents": 0, "bytes": 0, "examples": []}
                     for name in (*names, "kept")}

    def count(self, name, record, reason=None, examples=3):
        row = self.rows[name]
        row["documents"] += 1
        row["bytes"] += n_bytes(record["text"])
        if reason and len(row["examples"]) < examples:
            row["examples"].append({"document": title(record), "reason": reason})

    def total(self, unit):
        return sum(row[unit] for row in self.rows.values())

    def __str__(self):
        """A table, whose rows add up to its last."""
        rows = self.rows | {"all": {u: self.total(u) for u in ("documents", "bytes")}}
        lines = [f"{'':16}{'documents':>11}{'bytes':>24}   for example"]
        for name, row in rows.items():
            numbers = "".join(f"{row[unit]:{width},}{row[unit] / max(1, self.total(unit)):8.2%}"
                              for unit, width in (("documents", 11), ("bytes", 16)))
            example = row.get("examples") and "{document}: {reason}".format(**row["examples"][0])
            lines.append(f"{name:16}{numbers}   {example or ''}"[:140].rstrip())
        return "\n".join(lines)


def draw(report, path):
    """Draw a bar for each filter, from what it received down to what it left, in documents and in
    bytes; the last bar is what was kept.
    """
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(10, 0.28 * len(report.rows) + 1.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, unit in zip(panels, ("documents", "bytes")):
        left = total = report.total(unit)
        for y, (name, row) in enumerate(report.rows.items()):
            n, end = row[unit], left
            left = 0 if name == "kept" else left - n
            axes.barh(y, n, left=left, height=0.8, color="C0" if name == "kept" else "C3")
            axes.plot([left, left], [y - 0.4, y + 0.6], color="0.6", lw=0.8, zorder=0)
            label = f"{n:,}  ({n / max(1, total):.1%})" if n else "0"
            before = left > 0.4 * total  # where there is room
            axes.annotate(label, (left if before else end, y), (-4 if before else 4, 0),
                          textcoords="offset points", ha="right" if before else "left",
                          va="center", fontsize=8, color="0.2" if n else "0.6")
        axes.set(xlim=(0, max(1, total)), title=f"{total:,} {unit}", xlabel="what is left")
        axes.set_xticks([total * i / 4 for i in range(5)], [f"{i / 4:.0%}" for i in range(5)])
        axes.set_yticks(range(len(report.rows)), report.rows)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(len(report.rows) - 0.5, -0.5)
    figure.suptitle("What each filter dropped, and what was kept")
    figure.savefig(path, dpi=120)


# ---- a clean folder ----
def clean(records, rules, report=None, against=()):
    """Yield the records that no filter drops, in their order; count all of them in `report`.

    records: dicts with "text" and perhaps path, repo, license (one, or a list) and stars. A record
    that lacks a filter's field passes that filter. against: texts of evaluation sets; documents
    that share words with them are dropped. Of equal or similar documents the first is kept.
    ValueError if a record has no text.
    """
    pipeline = all_filters(rules, against)
    report = report or Report(pipeline)
    for number, record in enumerate(records, 1):
        if "text" not in record:
            raise ValueError(f"document {number} has no text; conversations can't be cleaned")
        for name, reason_to_drop in pipeline.items():
            if reason := reason_to_drop(record, rules):
                report.count(name, record, reason)
                break
        else:
            report.count("kept", record)
            yield record


def write_chunk(records, path, limit):
    """Write records, one JSON a line, until their texts reach `limit` bytes or there are no more.

    Returns the chunk's entry in the manifest.
    """
    n, documents = 0, 0
    with open(path, "w+b") as file:
        for record in records:
            line = json.dumps(record, ensure_ascii=False) + "\n"
            file.write(line.encode("utf-8", "backslashreplace"))  # half a surrogate in a path
            n, documents = n + n_bytes(record["text"]), documents + 1
            if n >= limit:
                break
        file.flush()
        os.fsync(file.fileno())
    return {"file": path.name, "documents": documents, "bytes": n, "sha256": file_hash(path)}


def write_clean(source_name, fingerprint, records, rules, folder, against={},
                chunk_bytes=200_000_000):
    """Clean `records` into a new `folder`, which appears only once it is whole. Returns the Report.

    against: {name of an evaluation set: its texts}; chunk_bytes: of text in a chunk. The same
    records and rules give the same folder, byte for byte; the manifest holds all that is needed to
    repeat it and to check the result. ValueError if the folder is there already, or if nothing is
    left.
    """
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} is there already; remove it, or choose another --out")
    clear_away(folder.parent, f".{folder.name}.*.tmp")
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    aside.mkdir(parents=True)
    try:
        texts = [text for name in against for text in against[name]]
        report, chunks, digest = Report(all_filters(rules)), [], hashlib.sha256()

        def watched():
            for record in records:
                digest.update(json.dumps(record, sort_keys=True).encode())
                yield record

        kept = clean(watched(), rules, report, texts)
        for record in kept:  # the first of a chunk; write_chunk() takes more
            path = aside / f"chunk-{len(chunks):05}.jsonl"
            chunks.append(write_chunk(itertools.chain([record], kept), path, chunk_bytes))
        if not chunks:
            most = max(report.rows, key=lambda name: report.rows[name]["documents"])
            raise ValueError(f"nothing of {source_name} is worth keeping by these rules; most of "
                             f"its {report.total('documents'):,} documents fail at {most!r}")
        manifest = {
            "source": source_name, "fingerprint": fingerprint, "code": code_hash(),
            "input": digest.hexdigest(),  # of all records: the same on every machine
            "rules": dataclasses.asdict(rules),
            "against": {name: {"documents": len(texts), "sha256": hash_of(texts),
                               "too_short": Overlap(texts).too_short}
                        for name, texts in against.items()},
            "documents": report.total("documents"), "bytes": report.total("bytes"),
            "filters": report.rows, "chunks": chunks}
        write_safely(aside / "manifest.json", json.dumps(manifest, indent=1))
        notes = [f"{name}: {one['too_short']:,} of {one['documents']:,} texts have fewer than 13 "
                 "words; such a text is only found in a document that has no other words\n"
                 for name, one in manifest["against"].items() if one["too_short"]]
        write_safely(aside / "report.txt", f"{report}\n{''.join(notes)}")
        draw(report, aside / "filters.png")
        try:
            os.replace(aside, folder)
        except OSError:
            if not folder.exists():  # else another process was faster, with the same result
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return report


def hash_of(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def code_hash():
    """A hash of the code that cleans, so that results of other filters are never reused."""
    return hash_of([Path(file).read_text(encoding="utf-8") for file in (
        __file__, filters.__file__, duplicates.__file__, records.__file__, corpus.__file__,
        folders.__file__)])


def clean_folder(source, rules, against=(), data_dir="data", out=None, say=print):
    """The folder of write_clean() for a Source, made unless it is there. say() gets its report.

    against: names of sources with evaluation texts. Without `out`, the folder's name has a hash of
    everything that determines its content.
    """
    sets = [find_source(name, data_dir) for name in against]
    key = hash_of([source.name, source.fingerprint, dataclasses.asdict(rules),
                   [[one.name, one.fingerprint] for one in sets], code_hash()])[:8]
    folder = Path(out or Path(data_dir) / f"{source.slug}-clean-{key}")
    if out and folder.exists():
        raise ValueError(f"{folder} is there already; remove it, or choose another --out")
    if out or not folder.exists():
        records = track(source.records(), "cleaning", unit=" MB",
                        size=lambda record: len(record.get("text", "")) / 1e6)
        texts = {one.name: ["\n".join(strings(record)) for record in one.records()]
                 for one in sets}
        write_clean(source.name, source.fingerprint, records, rules, folder, texts)
    say(escaped(read_text(folder / "report.txt")))
    if not against:
        say("no evaluation set was named (against=humaneval-x): its texts may be among these\n")
    return folder


def open_clean(source, options, data_dir="data", say=print):
    """The Source of the cleaned documents of `source`.

    options: {field of Rules: [text]} and {"against": [names]}, as given behind a source's name.
    ValueError if a text is no value of its field.
    """
    values = {}
    for field in dataclasses.fields(Rules):
        if field.name in options:
            text = options[field.name][-1]
            try:
                values[field.name] = (("0", "1").index(text) == 1 if field.type is bool
                                      else field.type(text))
            except ValueError:
                raise ValueError(f"{field.name} is {text!r}, but must be "
                                 f"{'0 or 1' if field.type is bool else 'a number'}") from None
    folder = clean_folder(source, Rules(**values), options.get("against", ()), data_dir, say=say)
    chunks = read_manifest(folder)

    def records():
        for file in chunks:
            with open(file, "rb") as lines:
                for number, line in lines_of(lines, file):
                    where = f"{file}, line {number},"
                    row = parsed(line, where)
                    record = as_record(row, where)
                    if source.split_by == "official" and row.get("split") not in ("train", "val"):
                        raise ValueError(f"{where} has no split")
                    yield record | ({"split": row["split"]} if "split" in row else {})

    return dataclasses.replace(source, records=records, fingerprint=hash_of(
        [(file.name, sha256) for file, sha256 in chunks.items()]))


def read_manifest(folder):
    """{file: sha256} of the chunks in a folder of cleaned documents. ValueError if a chunk is
    missing or doesn't have its checksum.
    """
    advice = f"delete {folder} to make it anew"
    try:
        rows = json.loads(read_text(folder / "manifest.json"))["chunks"]
        chunks = {folder / Path(row["file"]).name: row["sha256"] for row in rows}
        changed = [file for file, sha256 in chunks.items() if file_hash(file) != sha256]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder} holds no cleaned documents ({error}); {advice}") from None
    if changed:
        raise ValueError(f"{changed[0]} has changed since it was written (sha256); {advice}")
    return chunks


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a source, as 02_data/extras/corpus.py lists them")
    parser.add_argument("--against", nargs="+", default=[], metavar="SOURCE",
                        help="sources with evaluation texts, whose words no document may share")
    parser.add_argument("--out", help="a new folder to write to (default: one in the data folder)")
    parser.add_argument("--data-dir", default="data", help="where downloads go (default: data)")
    add_options(parser, Rules)
    args = vars(parser.parse_args(argv))
    source, against, out, data_dir = (args.pop(key) for key in
                                      ("source", "against", "out", "data_dir"))
    folder = clean_folder(find_source(source, data_dir), Rules(**args), against, data_dir, out)
    print(f"{folder} holds the documents, report.txt, filters.png and manifest.json")


if __name__ == "__main__":
    run(main)
