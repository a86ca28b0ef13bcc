"""bench.py hostile reads its examples, finds planted faults, and repeats a try."""

import functools
import json
import mmap
import os
import random
import re
import signal
import sys

import pytest

for needed in ("pyarrow", "safetensors", "zstandard"):
    pytest.importorskip(needed, reason="what some formats need, of tests/requirements.txt")

import bench_hostile
import bpe
import hostile_files
from bench_hostile import KINDS, Kind, bench_hostile as bench
from console import file_hash
from mutations import FORMATS, VALUES, change, change_tree, is_covered, seal, to_json

SIZE = 200
MUCH = 120 << 20  # bytes


def make(folder):
    """A file, and beside it its checksum."""
    (folder / "x").write_bytes(random.Random(0).randbytes(SIZE))
    (folder / "sums.json").write_text(json.dumps({"x": file_hash(folder / "x")}))


def careful(folder):
    """A reader without faults."""
    if json.loads((folder / "sums.json").read_text())["x"] != file_hash(folder / "x"):
        raise ValueError("x has changed")
    return {"x": (folder / "x").read_bytes()}


def after(fault):
    """A reader that has a fault where the file is another than the example."""
    def read(folder):
        data = (folder / "x").read_bytes()
        return fault(folder, data) if data != random.Random(0).randbytes(SIZE) else {"x": data}
    return read


def fail(error):
    raise error


FAULTS = {
    "traceback in": lambda folder, data: {}["x"],
    "it hangs": lambda folder, data: any(iter(int, 1)),  # zeros without end
    "it hangs in": lambda folder, data: os.mkfifo(folder / "f") or open(folder / "f"),
    # 0.13 GB in new pages, and what else is touched. What malloc gives may be older memory.
    "it takes 0.": lambda folder, data: {"x": mmap.mmap(-1, MUCH).write(bytes(MUCH))},
    "it takes more than": lambda folder, data: {"x": bytearray(1 << 50)},
    "accepted though changed": lambda folder, data: {"x": data},
    "no line for a user": lambda folder, data: fail(ValueError("see weights_only")),
    "it prints '\\x1b'": lambda folder, data: print("\x1b[2J", file=sys.stderr) or {},
    "it prints '\\x07'": lambda folder, data: print("\x07") or {},
    "it ends with -10": lambda folder, data: os.kill(os.getpid(), signal.SIGUSR1),
    "exit code 3": lambda folder, data: fail(SystemExit(3)),
}


def test_planted_faults_are_found(capsys, monkeypatch):
    for name, value in (("SECONDS", 1), ("WAIT", 2), ("MEMORY", 60 << 20),
                        ("done", functools.partial(bench_hostile.done, processes=4))):
        monkeypatch.setattr(bench_hostile, name, value)
    kinds = [Kind(f"fault {i}", make, after(fault), "x") for i, fault in
             enumerate(FAULTS.values())]
    with pytest.raises(ValueError, match=f" of {3 * len(kinds)} tries were wrong"):
        bench(None, 3 * len(kinds), 0, kinds=kinds)
    out = capsys.readouterr().out
    for i, what in enumerate(FAULTS):
        assert f"fault {i}: {what}" in out, out
        assert int(re.search(rf"\| fault {i} \|.* (\d) \|\n", out)[1]) > 0
    assert "--seed 0 --only" in out


def test_a_reader_without_faults_has_none(capsys):
    bench(None, 30, 0, kinds=[Kind("good", make, careful, "x")])
    tries, refused, right, wrong = map(int, re.search(
        r"\| good \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", capsys.readouterr().out).groups())
    assert refused + right == tries == 30 and not wrong
    assert right > 5, "a checksum that is made to fit lets the change through"


def test_a_try_can_be_repeated(capsys):
    kind = Kind("good", make, careful, "x")
    for _ in range(2):
        bench(None, None, 7, only=5, kinds=[kind])
    first, second = re.findall(r"good, try 5: (.*)", capsys.readouterr().out)
    assert first == second


@pytest.mark.slow
def test_every_kind_of_file(capsys):
    """Each example is made and read; what is wrong with changed ones is for the bench to say."""
    try:
        bench(None, len(KINDS), 3)
    except ValueError as error:
        assert "tries were wrong" in str(error)
    out = capsys.readouterr().out
    assert all(f"\n| {kind.name} | 1 |" in out for kind in KINDS)


def test_changes():
    """A changed tree is JSON for Python, or says so; every format makes a change in its inside."""
    rng, tree = random.Random(0), {"a": [1, "x", {"b": None}], "c": 0.5}
    found = {to_json(change_tree(rng, tree)[0]) for _ in range(300)}
    assert len(found) > 150 and tree == {"a": [1, "x", {"b": None}], "c": 0.5}
    assert any(VALUES[-2].encode() in data for data in found), "nested deeply"
    assert any(data.count(b'"c": ') == 2 for data in found), "a key twice"
    assert {change(rng, "x.json", b'{"a": 1}').inside for _ in range(20)} == {True, False}
    assert set(FORMATS) >= {".json", ".jsonl", ".npy", ".pt", ".safetensors", ".zip", ".http"}


def test_a_checksum_is_made_to_fit(tmp_path):
    """Ours in a tokenizer.json: else what is behind it would never be tried."""
    hostile_files.make_tokenizers(tmp_path)
    path = tmp_path / "tokenizer.json"
    assert is_covered(tmp_path, path.name, old := path.read_bytes())
    path.write_bytes(new := old.replace(b"<|bos|>", b"<|BOS|>"))
    with pytest.raises(ValueError, match="was changed"):
        bpe.Tokenizer.load(path)
    assert seal(tmp_path, path.name, old, new)
    assert "<|BOS|>" in bpe.Tokenizer.load(path).special
