"""Tests of resuming.py: the run that is meant goes on, and no other."""

import json
import os
import shutil

import pytest

from presets import FullConfig
from resuming import check_changes, find_run, finished, resumed, started_as
from runs import as_json, choose_run, save_checkpoint, start_run, tensors
from train import Config
from bpe import Tokenizer
from gpt import GPT

SMALL = dict(n_layer=1, d_model=16, d_ff=16, seq_len=32)


class Words:
    """The options that name a run."""

    def __init__(self, runs_dir, name=None, preset=None):
        self.runs_dir, self.name, self.preset, self.resume = runs_dir, name, preset, True


def begun(folder, **fields):
    """`folder`, with the config.json of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(
        as_json(Config(**SMALL | fields)) | {"data_hash": "", "data_folders": []}))
    return folder


def test_the_exact_name_wins(tmp_path):
    """lr-3 is a run that a user named so; it isn't lr's third, whenever it was written."""
    assert find_run(tmp_path, "lr") is None
    for name in ("lr", "lr-3", "tiny", "tiny"):
        begun(start_run(tmp_path, name))
    os.utime(tmp_path / "lr-3" / "config.json", (2e9, 2e9))
    assert find_run(tmp_path, "lr").name == find_run(tmp_path, "lr", last=True).name == "lr"
    assert find_run(tmp_path, "lr-3").name == find_run(tmp_path, "lr-3", last=True).name == "lr-3"
    os.utime(tmp_path / "tiny-2" / "config.json", (1, 1))
    assert find_run(tmp_path, "tiny").name == "tiny"
    assert find_run(tmp_path, "tiny", last=True).name == "tiny-2", "the last one of that name"
    assert find_run(tmp_path, "lr-[3]") is None and find_run(tmp_path, "l") is None


def test_numbered_runs_are_known_by_what_was_written_down(tmp_path):
    """Not by their spelling: the first may be gone; and the tenth comes after the second."""
    for _ in range(10):
        begun(start_run(tmp_path, "a"))
    assert [started_as(tmp_path / "a-2", name) for name in ("a", "a-2")] == [True, False]
    (tmp_path / "a" / "config.json").unlink()
    assert find_run(tmp_path, "a").name == "a-10"
    begun(start_run(tmp_path, "a-11"))
    assert find_run(tmp_path, "a", last=True).name == "a-10", "another's own name"
    begun(tmp_path / "a-12")  # by an earlier version, which wrote no .name
    assert find_run(tmp_path, "a", last=True).name == "a-12"
    assert find_run(tmp_path, "a-12", last=True).name == "a-12"
    begun(tmp_path / "a-next")
    assert find_run(tmp_path, "a", last=True).name == "a-12"


def test_a_copy_and_a_new_name_are_other_runs(tmp_path):
    """Though they keep the .name that start_run() wrote into the first."""
    run = begun(start_run(tmp_path, "nano"))
    for name in ("nano-backup", "zz", "nano-2-backup"):
        shutil.copytree(run, tmp_path / name)
        assert find_run(tmp_path, "nano", last=True).name == "nano"
        assert find_run(tmp_path, name).name == find_run(tmp_path, name, last=True).name == name
    run.rename(tmp_path / "kept")
    assert find_run(tmp_path, "nano") is find_run(tmp_path, "nano", last=True) is None
    assert find_run(tmp_path, "kept").name == "kept"


def test_a_name_that_is_no_text(tmp_path):
    name = os.fsdecode(b"\xff\x1b[31m")
    assert find_run(tmp_path, name) is None
    begun(start_run(tmp_path, name))
    assert find_run(tmp_path, name, last=True).name == name


def test_which_run_is_meant(tmp_path, capsys):
    for name in ("nano", "nano", "nanp"):
        begun(start_run(tmp_path, name))
    assert resumed(Words(tmp_path, preset="nano"), {})[0].name == "nano-2"
    assert resumed(Words(tmp_path, "nano", "nano"), {})[0].name == "nano"
    assert capsys.readouterr().out == ""
    for words in (Words(tmp_path, "nann"), Words(tmp_path, preset="nann")):
        with pytest.raises(ValueError, match="no run 'nann' in .* to resume; did you mean 'nan[op]'"
                                             r"\? there are 'nano', 'nano-2', 'nanp'"):
            choose_run(words, {}, {}, Config)
    with pytest.raises(ValueError, match="no run 'a' in .*/none/ to resume; without --resume"):
        resumed(Words(tmp_path / "none", "a"), {})


def test_a_bare_resume_says_which_run_it_takes(tmp_path, capsys):
    with pytest.raises(ValueError, match="there is no run with a checkpoint in"):
        resumed(Words(tmp_path), {})
    for name in ("b", "a"):
        save_checkpoint(begun(tmp_path / name), 1, [], {})
    begun(tmp_path / "c")
    os.utime(tmp_path / "b" / "checkpoints", (1, 1))
    assert resumed(Words(tmp_path), {"steps": 9}) == (tmp_path / "a", Config(**SMALL, steps=9))
    assert capsys.readouterr().out == f"resume     {tmp_path}/a, the run that saved last\n"
    (tmp_path / "a").rename(tmp_path / "a\nb")
    resumed(Words(tmp_path), {})
    assert capsys.readouterr().out == f"resume     {tmp_path}/a\\nb, the run that saved last\n"


def test_what_may_change(tmp_path):
    begun(tmp_path / "a", steps=5)
    words = Words(tmp_path, "a")
    new = Config(**SMALL, steps=9, keep=3)
    assert choose_run(words, {"steps": 9, "keep": 3}, {}, Config) == (tmp_path / "a", new)
    assert choose_run(words, {"flops": 1e9}, {}, Config)[1] == Config(**SMALL, steps=0, flops=1e9)
    with pytest.raises(ValueError, match="a was started with lr 0.006, not 0.1; that is another"):
        check_changes(tmp_path / "a", {"lr": 0.1})


def test_an_option_that_the_run_was_begun_without(tmp_path):
    """One that only a FullConfig has."""
    folder = begun(tmp_path / "a", steps=5)
    assert check_changes(folder, {"snapshots": 3}) == FullConfig(**SMALL, steps=5, snapshots=3)
    with pytest.raises(ValueError, match="a was started with label_smoothing 0.0, not 0.1"):
        check_changes(folder, {"label_smoothing": 0.1, "wandb": True})


def test_a_finished_run_says_so(tmp_path, capsys):
    """Not before it has its result; not if it is to become longer; never if it is too long."""
    folder, config = begun(tmp_path / "a", steps=3), Config(**SMALL, steps=3)
    tokenizer = Tokenizer([])
    tokenizer.save(folder / "tokenizer.json")
    assert not finished(folder, config)
    save_checkpoint(folder, 3, tensors(GPT(config.gpt(tokenizer.vocab_size))), {})
    assert not finished(folder, config), "its last evaluation is still to come"
    rows = [{"step": 3, "loss": 1.0}, {"step": 3, "val_bits_per_byte": 1.25, "baselines": {}}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not finished(folder, Config(**SMALL, steps=4)) and capsys.readouterr().out == ""
    assert finished(folder, config)
    said = capsys.readouterr().out
    assert "a is finished: 3 steps, 1.250 bits per byte. --name a --resume --steps 6 would" in said
    with pytest.raises(ValueError, match="step-000003 is beyond the 2 steps asked for"):
        finished(folder, Config(**SMALL, steps=2))
    with pytest.raises(ValueError, match="doesn't fit the config of its run"):
        finished(folder, Config(**SMALL | {"n_layer": 2**31 - 1}))
    for damaged in ("x\n", '{"step": 3, "baselines": {}}\n', "[" * 100_000 + "\n"):
        (folder / "metrics.jsonl").write_text(damaged)
        assert not finished(folder, config), "then it is made again"
