"""Tests of bundle.py: the public layout, as a folder and as a .zip file, and what is refused."""

import json
import random
import zipfile
from dataclasses import replace

import pytest

from bpe import Tokenizer
from bundle import CORE, Task, find_bundle, read_bundle
from evals import alternatives, shots

pytest.importorskip("yaml", reason="an oracle of tests/requirements.txt")

YAML = """icl_tasks:
- label: sums
  dataset_uri: maths/sums.jsonl
  num_fewshot: [3]
  icl_task_type: multiple_choice
  continuation_delimiter: "\\nAnswer: "
  has_categories: false
- label: cats
  dataset_uri: cats.jsonl
  num_fewshot: [0]
  icl_task_type: schema
- label: count
  dataset_uri: count.jsonl
  num_fewshot: [1]
  icl_task_type: language_modeling
"""
CSV = ("Eval Task,Task Category,#shots,Random baseline,Centered Metric?\n"
       'sums,"maths, easy",3,50,\ncats,,0,50,\ncount,,1,0,\n')
SUMS = [{"query": f"Question: {i} + 1?", "choices": [str(i + 1), str(i)], "gold": 0}
        for i in range(9)]
CATS = [{"context_options": [f"{n} cats see as the cats", f"{n} cats see as the dogs"],
         "continuation": f"{n * 'are '}tired", "gold": n % 2} for n in range(4)]
COUNT = [{"context": " ".join(map(str, range(n))) + " ", "continuation": str(n)}
         for n in range(2, 9)]


def make_bundle(folder):
    """A bundle of three tasks, of the three kinds."""
    (folder / "eval_data" / "maths").mkdir(parents=True)
    (folder / "core.yaml").write_text(YAML)
    (folder / "eval_meta_data.csv").write_text(CSV)
    for name, items in (("maths/sums", SUMS), ("cats", CATS), ("count", COUNT)):
        (folder / "eval_data" / f"{name}.jsonl").write_text("\n".join(map(json.dumps, items)))
    return folder


@pytest.fixture
def folder(tmp_path):
    return make_bundle(tmp_path / "eval_bundle")


def pack(folder, path):
    with zipfile.ZipFile(path, "w") as bundle:
        bundle.writestr("__MACOSX/eval_bundle/core.yaml", b"\0 junk")
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                bundle.write(file, f"eval_bundle/{file.relative_to(folder)}")
    return path


def test_a_folder_and_a_zip_file(folder, tmp_path):
    tasks = read_bundle(folder)
    assert [task.label for task in tasks] == ["sums", "cats", "count"]
    sums, cats, count = tasks
    assert (sums.kind, sums.n_shots, sums.delimiter, sums.baseline) == (
        "multiple_choice", 3, "\nAnswer: ", 50.0)
    assert (cats.delimiter, count.kind, count.baseline) == (" ", "language_modeling", 0.0)
    expected = SUMS.copy()
    random.Random(1337).shuffle(expected)
    assert sums.items == expected
    assert sums.texts(4) == alternatives("multiple_choice", expected[4], shots(expected, 4, 3),
                                         "\nAnswer: ")
    assert sums.in_full(4) == expected[4]["query"] + "\nAnswer: " + expected[4]["choices"][0]
    assert count.in_full(0).endswith(count.items[0]["continuation"])
    odd = replace(count, items=[item | {"gold": 0} for item in count.items])
    assert odd.in_full(0) == count.in_full(0), "gold means nothing in language modelling"
    assert read_bundle(folder.parent) == tasks, "the folder into which a bundle was unpacked"
    assert read_bundle(pack(folder, tmp_path / "bundle.zip")) == tasks
    assert [task.label for task in read_bundle(folder, ["count", "sums"])] == ["sums", "count"]


def test_cut_after_the_shuffle(folder):
    whole, cut = read_bundle(folder), read_bundle(folder, most=4)
    assert cut[0].items == whole[0].items[:4], "shuffled, then cut"
    assert cut[0].texts(0) != whole[0].texts(0), "examples are drawn from the items that are left"
    assert len({task.hash for task in whole + cut}) == 5, (
        "a hash for each task, another one if it is cut: cats has no more than 4")
    others = [replace(whole[0], **change) for change in (
        {"n_shots": 2}, {"delimiter": " "}, {"kind": "schema"}, {"items": SUMS})]
    assert len({task.hash for task in (whole[0], *others)}) == 5, "all that changes texts counts"
    with pytest.raises(ValueError, match="sums: 3 examples beside the item itself can't be drawn "
                                         "from 3"):
        read_bundle(folder, most=3)


def test_swapped(folder):
    for task in read_bundle(folder):
        swapped, n = task.swapped(), len(task.items)
        stem = {"sums": "query", "cats": "continuation", "count": "context"}[task.label]
        for i, item in enumerate(swapped.items):
            before = shots(task.items, i, task.n_shots)
            others = [task.items[(i + j) % n] for j in range(1, n)]
            assert item[stem] == next(each for each in others if each not in before)[stem]
            assert item | {stem: None} == task.items[i] | {stem: None}, "all else stays"
        before = shots(task.items, 1, task.n_shots)
        assert swapped.texts(1) == alternatives(task.kind, swapped.items[1], before, task.delimiter
                                                ), "examples stay as they are"


def test_spans_tell_what_is_cropped(folder):
    sums = read_bundle(folder, ["sums"])[0]
    tokenizer = Tokenizer([])
    whole, cropped = sums.spans(0, tokenizer, 1000)
    assert not cropped and whole[0][0][0] == tokenizer.special["<|bos|>"]
    short, cropped = sums.spans(0, tokenizer, 20)
    assert cropped and all(len(row) == 20 for row, _ in short)
    assert [row[start:] for row, start in short] == [row[start:] for row, start in whole]


def test_answers(folder):
    sums, cats, count = read_bundle(folder)
    assert sums.answers()[0] == str(int(sums.items[0]["choices"][1]) + 1)
    assert cats.answers()[0] == cats.items[0]["context_options"][cats.items[0]["gold"]]
    assert count.answers() == [item["continuation"] for item in count.items]


@pytest.mark.parametrize("file, old, new, message", [
    ("core.yaml", "icl_tasks", "other", "core.yaml or eval_meta_data.csv can't be read: 'icl_ta"),
    ("core.yaml", "- label", "- : [", "core.yaml or eval_meta_data.csv can't be read"),
    ("core.yaml", "icl_tasks:\n", "icl_tasks: !!python/object/apply:os.getcwd []\nx:\n",
     "could not determine a constructor"),
    ("core.yaml", "maths/sums.jsonl", "../../secret.jsonl", "outside the bundle"),
    ("core.yaml", "maths/sums.jsonl", "/etc/passwd", "outside the bundle"),
    ("core.yaml", "label: cats", "label: 'a $b'", "'a $b' is no label"),
    ("core.yaml", "label: cats", "label: [1]", "core.yaml or eval_meta_data.csv can't be read"),
    ("core.yaml", "label: cats", "label: count", "two have the same label"),
    ("core.yaml", '"\\nAnswer: "', "", "'sums' is no label, or has no text as a delimiter"),
    ("core.yaml", "[3]", "[.inf]", "can't be read: cannot convert float infinity"),
    ("core.yaml", YAML, "icl_tasks: []", "there is no task"),
    ("core.yaml", "[3]", "[many]", "can't be read: invalid literal"),
    ("core.yaml", "[3]", "[9]", "sums: 9 examples beside the item itself"),
    ("core.yaml", "type: schema", "type: language_modeling", "is of the kind language_modeling, i"),
    ("eval_meta_data.csv", "cats,,0,50", "cats,,0,100", "no random baseline for cats"),
    ("eval_meta_data.csv", "cats", "dogs", "no random baseline for cats"),
    ("eval_meta_data.csv", "Random baseline", "Baseline", "can't be read: 'Random baseline'"),
    ("eval_data/cats.jsonl", '"gold": 1', '"gold": 2', "cats.jsonl, line 2: no item of a task"),
])
def test_damage(folder, tmp_path, file, old, new, message):
    """In one line, with the place; the same from a folder and from a .zip file."""
    path = folder / file
    path.write_text(path.read_text().replace(old, new))
    for bundle in (folder, pack(folder, tmp_path / "bundle.zip")):
        with pytest.raises(ValueError) as error:
            read_bundle(bundle)
        assert message in str(error.value) and "\n" not in str(error.value), error.value


def test_what_is_no_bundle(folder, tmp_path):
    for make, message in ((lambda path: path.mkdir(), "holds no core.yaml"),
                          (lambda path: path.write_text("x"), "is no bundle of tasks, or damaged")):
        make(path := tmp_path / "other")
        with pytest.raises(ValueError, match=message):
            read_bundle(path)
        path.rmdir() if path.is_dir() else path.unlink()
    with pytest.raises(ValueError, match="has no task 'dogs'; there are sums, cats, count"):
        read_bundle(folder, ["sums", "dogs"])
    (folder / "eval_data" / "cats.jsonl").unlink()
    with pytest.raises((ValueError, OSError), match="cats.jsonl"):
        read_bundle(folder)


def test_the_public_bundle(tmp_path, monkeypatch):
    """The bundle "core" is the corpus' source of that name, and is kept where that keeps it."""
    asked = []
    monkeypatch.setattr("bundle.fetch", lambda *how: asked.append(how) or how[1])
    path = find_bundle("core", tmp_path)
    assert path == tmp_path / "downloads" / "core" / "eval_bundle.zip"
    assert asked[0][0].startswith("https://") and asked[0][0].endswith("/eval_bundle.zip")
    assert find_bundle(str(tmp_path)) == tmp_path and len(asked) == 1
    assert len(CORE) == 22 and len({*CORE}) == 22
    assert Task("x", "schema", []).baseline == 0
