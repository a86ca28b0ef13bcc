"""CORE's bundle of tasks, as it is downloaded: a folder or a .zip file.

    core.yaml             of each task its label, kind, examples and file
    eval_meta_data.csv    of each task what guessing solves, in percent
    eval_data/.../*.jsonl the items, one in a line

core.yaml is read by PyYAML, its safe loader, which makes plain values only. Items are read by
evals.read_items(). Left out: the bundle's other task lists.

Reads a bundle, or downloads the public one to data/downloads/core/. Next: kept.py.
"""

import csv
import io
import os
import re
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import escaped, read_text

from corpus import SOURCES
from data import document_start, hash_of
from download import fetch
from evals import KINDS, alternatives, read_items, shots, spans
from records import LARGEST_MEMBER, damage, library

CORE = ("hellaswag_zeroshot hellaswag arc_easy arc_challenge copa commonsense_qa piqa openbook_qa "
        "agi_eval_lsat_ar boolq bigbench_language_identification winograd winogrande jeopardy "
        "bigbench_qa_wikidata bigbench_dyck_languages bigbench_cs_algorithms bigbench_operators "
        "bigbench_repeat_copy_logic squad lambada_openai coqa").split()  # its 22 tasks


@dataclass(frozen=True)
class Task:
    """Items of one kind. baseline: what guessing solves, in percent; delimiter: as in
    evals.alternatives(); shots_from: the items from which shots are drawn, if not these (those of
    swapped() are altered, their shots are not).
    """

    label: str
    kind: str
    items: list
    n_shots: int = 0
    delimiter: str = " "
    baseline: float = 0.0
    shots_from: list = None

    @property
    def hash(self):
        """It changes with the items, their order, and what stands before and between them."""
        return hash_of(self.kind, self.items, self.n_shots, self.delimiter)[:16]

    def texts(self, i):
        """evals.alternatives() of item i, behind its shots."""
        before = shots(self.shots_from or self.items, i, self.n_shots)
        return alternatives(self.kind, self.items[i], before, self.delimiter)

    def in_full(self, i):
        """The text of item i with its right answer, and no shots."""
        texts = alternatives(self.kind, self.items[i], [], self.delimiter)
        return texts[-1 if self.kind == "language_modeling" else self.items[i]["gold"]]

    def spans(self, i, tokenizer, seq_len):
        """(evals.spans() of item i, whether a text was too long for the window and is cropped)."""
        rows = spans(self.kind, self.texts(i), tokenizer, seq_len)
        start = document_start(tokenizer)
        return rows, any(row[:len(start)] != start for row, _ in rows)

    def answers(self):
        """The right answer of each item, as a text."""
        return [item["choices"][item["gold"]] if self.kind == "multiple_choice" else
                item["context_options"][item["gold"]] if self.kind == "schema" else
                item["continuation"] for item in self.items]

    def cut(self, n):
        """The task of its first n items, from which the shots are drawn, too. ValueError if they
        are too few for that.
        """
        task = replace(self, items=self.items[:n])
        try:
            shots(task.items, 0, self.n_shots)
        except ValueError as error:
            raise ValueError(f"{self.label}: {error}") from None
        return task

    def swapped(self):
        """The same items, each with the stem of the next one that is not among its shots, and after
        the last the first: what is solved now is solved by the choices alone. The stem is what is
        not chosen between: a query, a context, in a schema the continuation.
        """
        stem = {"multiple_choice": "query", "schema": "continuation",
                "language_modeling": "context"}[self.kind]
        items = []
        for i, item in enumerate(self.items):
            before = shots(self.items, i, self.n_shots)
            others = self.items[i + 1:] + self.items[:i]
            other = next((each for each in others if each not in before), item)
            items.append(item | {stem: other[stem]})
        return replace(self, items=items, shots_from=self.items)


def open_bundle(path):
    """A function that reads a file of the bundle, name -> text. It is a folder or a .zip file, in
    which core.yaml lies at the top or in one folder. ValueError if there is no bundle.
    """
    path = Path(path)
    if path.is_dir():
        found = [*path.glob("core.yaml"), *path.glob("*/core.yaml")]
        if not found:
            raise ValueError(f"{path} holds no core.yaml: it is no bundle of tasks")
        return lambda name: read_text(found[0].parent / name)

    def read(name):
        try:
            with zipfile.ZipFile(path) as bundle:
                top = next((PurePosixPath(each).parent for each in bundle.namelist()
                            if PurePosixPath(each).name == "core.yaml" and each[:1] != "_"), "")
                info = bundle.getinfo((PurePosixPath(top) / name).as_posix())
                if info.file_size > LARGEST_MEMBER:
                    raise ValueError(f"{name} would have {info.file_size:,} bytes")
                return bundle.read(info).decode("utf-8").removeprefix("\ufeff")
        except damage() as error:
            raise ValueError(f"{path} is no bundle of tasks, or damaged: {name} can't be read "
                             f"({error or type(error).__name__})") from None
    return read


def find_bundle(name, data_dir="data"):
    """The path of a bundle: `name`, or for "core" the public one, which is downloaded first."""
    if name != "core" or Path(name).exists():
        return Path(name)
    [(_, address, sha256)] = SOURCES["core"].files
    return fetch(address, Path(data_dir) / "downloads" / "core" / address.rpartition("/")[2],
                 sha256)


def read_bundle(path, labels=(), most=0):
    """The tasks of a bundle, in its order; of each at most `most` items, if that is not 0, from
    which the shots are drawn, too. labels: of those wanted; without them all. ValueError, which
    names the place, for what is damaged, for an unknown label, and for items too few for the shots.
    """
    read = open_bundle(path)
    yaml = library("yaml", "a bundle's core.yaml", "pyyaml")
    settings, table = read("core.yaml"), csv.DictReader(io.StringIO(read("eval_meta_data.csv")))
    try:
        rows = yaml.safe_load(settings)["icl_tasks"]
        baselines = {row["Eval Task"]: float(row["Random baseline"]) for row in table}
        found = [(row["label"], row["icl_task_type"], PurePosixPath(row["dataset_uri"]),
                  int(row["num_fewshot"][0]), row.get("continuation_delimiter", " "))
                 for row in rows]
        for label, *_, delimiter in found:
            if not re.fullmatch(r"[\w.-]+", label) or type(delimiter) is not str:
                raise ValueError(f"{label!r} is no label, or has no text as a delimiter")
        if not found or len({label for label, *_ in found}) < len(found):
            raise ValueError("there is no task, or two have the same label")
    except (TypeError, LookupError, AttributeError, ValueError, OverflowError, RecursionError,
            yaml.YAMLError) as error:
        reason = " ".join(escaped(str(error)).split())
        raise ValueError(f"{path}: core.yaml or eval_meta_data.csv can't be read: {reason}"
                         ) from None
    if unknown := {*labels} - {label for label, *_ in found}:
        raise ValueError(f"{path} has no task {min(unknown)!r}; there are "
                         + ", ".join(label for label, *_ in found))
    tasks = []
    for label, kind, uri, k, delimiter in found:
        if labels and label not in labels:
            continue
        if uri.is_absolute() or ".." in uri.parts:
            raise ValueError(f"{path}: task {label} is to be read from {uri}, outside the bundle")
        there, items = read_items(read(f"eval_data/{uri}"), f"{path}, {uri.name}")
        if there != kind or kind not in KINDS:
            raise ValueError(f"{path}: task {label} is of the kind {kind}, its items {there}")
        if label not in baselines or not 0 <= baselines[label] < 100:
            raise ValueError(f"{path}: eval_meta_data.csv has no random baseline for {label}, or "
                             "one that is no percentage below 100")
        tasks.append(Task(label, kind, items, k, delimiter, baselines[label]).cut(
            most or len(items)))
    return tasks
