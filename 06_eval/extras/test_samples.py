"""Tests of samples.py: what is drawn, what is kept, and the whole command."""

import json
import time

import pytest

import samples
from bpe import Tokenizer
from fast import FastTokenizer
from gpt import GPT, GPTConfig
from humaneval import Options, main
from runs import as_json, save_checkpoint, start_run, tensors
from sample import Sampling
from samples import Samples, complete, ended, opening, sampling_of, show
from test_humaneval import PROBLEM, needs_sandbox, write_rows
from train import Config

TOKENIZER = Tokenizer([])
GO = {"task_id": "go/0", "prompt": "func Two() int {\n", "test": ""}
ROW = {"task_id": "ours/0", "sample": 0, "completion": "x", "passed": False, "verdict": "crash"}


def test_sampling_of():
    assert sampling_of(Options()).temperature == 0, "one sample: the likeliest"
    assert sampling_of(Options(samples=2, seed=5)) == Sampling(0.8, top_p=0.95, seed=5)
    assert sampling_of(Options(temperature=0.2)).temperature == 0.2


def test_opening():
    """Each way of cutting text has an end of the prompt that it keeps."""
    python = {**PROBLEM, "prompt": 'def f():\n    """x."""\n'}
    for pattern, in_go, in_python in (("go", "func Two() int {\n\t", None),
                                      ("gpt4", "func Two() int {\n", 'def f():\n    """x."""\n'),
                                      ("gpt2", "func Two() int {", 'def f():\n    """x."""')):
        texts = [GO["prompt"] + "\treturn 2\n}\n", PROBLEM["prompt"] + "    return x\n"] * 9
        tokenizer = FastTokenizer.train(texts, 340, pattern)
        assert opening(GO, tokenizer) == in_go, (
            f"with the pattern {pattern} the ids end there where more text follows")
        if in_python:
            assert opening(python, tokenizer) == in_python, f"Python, cut by {pattern}"
    assert opening(GO, TOKENIZER) == "func Two() int {", "of bytes, any end will do: the first"


def test_ended():
    for start, text in (("func Two() int {", "\n\treturn 2"), ("func Two() int {\n", "\treturn 2"),
                        ("func Two() int {\n\t", "return 2")):
        assert ended(GO, start, text) == "\treturn 2\n}\n", "Go's texts stop before the end"
    assert ended(GO, "func Two() int {", " return 2 }") == " return 2 }\n}\n"
    assert ended(PROBLEM, PROBLEM["prompt"].rstrip("\n"), "\n    return 2") == "    return 2"
    assert ended(PROBLEM, PROBLEM["prompt"], "    return 2\nprint(") == "    return 2", "cut"


def test_complete(monkeypatch):
    """Prompts without their last line end, the last ids of them for which there is room; stops."""
    seen = {}

    def stream(model, tokenizer, prompts, n_tokens, samplings, stops):
        seen.update(prompts=[tokenizer.decode(ids) for ids in prompts], stops=stops, n=n_tokens,
                    samplings=samplings)
        yield from ((b, text, None) for b, text in ((0, "\n\tre"), (1, "\n"), (0, "turn 2")))

    monkeypatch.setattr(samples, "stream", stream)
    model = GPT(GPTConfig(vocab_size=TOKENIZER.vocab_size, seq_len=30, n_layer=1, n_head=2,
                          n_kv_head=2, d_model=8, d_ff=8))
    how = [Sampling(seed=n) for n in (3, 4)]
    long = GO | {"prompt": "// " + "x" * 40 + "\n" + GO["prompt"]}
    assert complete(model, TOKENIZER, [GO, long], how, 10) == ["\treturn 2\n}\n", "\n}\n"]
    assert seen["prompts"] == ["<|bos|>func Two() int {", "xxx\nfunc Two() int {"]
    assert seen["stops"] == ("\n}\n",) and seen["n"] == 10 and seen["samplings"] == how


def test_kept_samples(tmp_path):
    path, of = tmp_path / "new" / "a.jsonl", {"model": "x"}
    kept = Samples(path, of)
    kept.add([ROW])
    with open(path, "a") as file:
        file.write('{"task_id": "ours/0", "sam')  # a kill while it was written
    with pytest.raises(ValueError, match="a.jsonl is being written by another command"):
        Samples(path, of)
    kept.file.close()
    again = Samples(path, of)
    assert again.rows == {("ours/0", 0): ROW}
    again.add([ROW | {"sample": 1}])
    again.file.close()
    assert len(Samples(path, of).rows) == 2
    good = path.read_bytes()
    with pytest.raises(ValueError, match="not samples of .* give another --out"):
        Samples(path, {"model": "y"})
    assert path.read_bytes() == good
    (tmp_path / "mine.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="give another --out"):
        Samples(tmp_path / "mine.json", of)
    assert (tmp_path / "mine.json").read_text() == '{"a": 1}', "another file is left alone"
    path.write_text(json.dumps(of) + "\n" + json.dumps({"task_id": "x"}) + "\n")
    with pytest.raises(ValueError, match="line 2, is no sample"):
        Samples(path, of)
    path.write_text("")
    empty = Samples(path, of)
    assert path.read_text() == json.dumps(of) + "\n", "a kill before the first sample loses nothing"
    empty.file.close()
    assert Samples(path, of).rows == {}


def test_show(capsys, monkeypatch):
    """A completion never reaches the terminal as it is."""
    show(PROBLEM, ROW | {"completion": "\x1b[2Jx"})
    out = capsys.readouterr().out
    assert out.startswith("def double") and out.endswith("\\x1b[2Jx\n--- ours/0: crash\n\n")
    monkeypatch.setattr(samples, "has_colours", lambda: True)
    show(PROBLEM, ROW)
    assert "\x1b[31mx\x1b[0m" in capsys.readouterr().out


@pytest.fixture
def run(tmp_path):
    config = Config(n_layer=1, d_model=16, n_head=2, n_kv_head=2, d_ff=16, seq_len=128)
    folder = start_run(tmp_path / "runs", "x")
    (folder / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []}))
    TOKENIZER.save(folder / "tokenizer.json")
    save_checkpoint(folder, 7, tensors(GPT(config.gpt(TOKENIZER.vocab_size))), {})
    return folder


@needs_sandbox
def test_what_is_said_before_sampling(run, tmp_path, capsys, fails):
    long = PROBLEM | {"task_id": "long", "prompt": "# " + "x" * 200 + "\n" + PROBLEM["prompt"]}
    words = ["--problems", str(write_rows(tmp_path / "p.jsonl", PROBLEM, long)), "--runs-dir",
             str(run.parent), "--tokens", "4"]
    main(words)
    assert "1 of 2 prompts have more than the 124 ids" in capsys.readouterr().out
    assert "--json prints verdicts of --judge and --canonical" in fails(main, *words, "--json")
    assert "--endpoint and --run are two models" in fails(
        main, "--endpoint", "http://127.0.0.1:1/v1", "--model", "m", "--run", "x")


@needs_sandbox
def test_sample_and_judge(run, tmp_path, capsys, monkeypatch):
    """Samples depend on their numbers alone; a second call draws only what is missing."""
    problems = write_rows(tmp_path / "p.jsonl", PROBLEM, PROBLEM | {"task_id": "ours/1"})
    words = ["--problems", str(problems), "--runs-dir", str(run.parent), "--tokens", "12"]
    main([*words, "--demo"])
    out = capsys.readouterr().out
    assert "--- ours/1: " in out and "pass@1   0.0%\n95% interval 0.0% to 65.8%\n" in out
    assert "x, step 7: 2 problems of p, 1 samples of each, greedy; " in out
    monkeypatch.setattr(samples, "AT_ONCE", 3)
    words += ["--temperature", "2", "--out", str(tmp_path / "s.jsonl")]
    main([*words, "--samples", "3"])
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()[1:]]
    assert len({row["completion"] for row in rows}) == 6, "each is drawn by itself"
    monkeypatch.setattr(samples, "AT_ONCE", 1)
    (tmp_path / "s.jsonl").write_text("\n".join(
        (tmp_path / "s.jsonl").read_text().splitlines()[:3]) + "\n")
    main([*words, "--samples", "3"])
    assert [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()[1:]] == (
        rows), "the rest is drawn again as it was"
    assert "pass@1 " in capsys.readouterr().out


@needs_sandbox
@pytest.mark.slow
def test_it_may_be_killed(run, tmp_path, fork, monkeypatch):
    """kill -9 while it samples; what was kept is not drawn again, and the end is the same."""
    rows = [PROBLEM | {"task_id": f"ours/{n}"} for n in range(16)]
    problems = write_rows(tmp_path / "p.jsonl", *rows)
    monkeypatch.setattr(samples, "AT_ONCE", 4)
    path = tmp_path / "a.jsonl"

    def start(name):
        return fork(lambda: main([
            "--problems", str(problems), "--runs-dir", str(run.parent), "--tokens", "8",
            "--temperature", "1", "--out", str(tmp_path / f"{name}.jsonl")]))
    process, deadline = start("a"), time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < 2:
        assert time.monotonic() < deadline and process.is_alive()
        time.sleep(0.001)
    process.kill()
    process.join()
    kept = path.read_bytes()
    for name in ("a", "b"):
        process = start(name)
        process.join()
        assert process.exitcode == 0, process.log.read_text()
    assert path.read_bytes().startswith(kept.rpartition(b"\n")[0])
    assert path.read_text() == (tmp_path / "b.jsonl").read_text()


@needs_sandbox
def test_a_server_is_asked(tmp_path, monkeypatch, capsys):
    """All samples of a problem in one request; what it cost is told."""
    asked = []

    class Server:
        endpoint, model, chat, at_once = "http://127.0.0.1:1/v1", "m", False, 2

        def texts(self, prompt, n, temperature, top_p, most, stops, seed):
            asked.append((prompt, n, temperature, most, stops, seed))
            return iter(["\n    return 2 * n\n"] * n)

        def summary(self):
            return "m: 1 request"

    samples.sample_and_judge({"ours/0": PROBLEM}, Options(samples=2, tokens=9, seed=4, data_dir=str(
        tmp_path)), Server())
    assert [row[:-1] for row in asked] == [(PROBLEM["prompt"], 2, 0.8, 9, samples.STOPS)]
    out = capsys.readouterr().out
    assert "m: 1 request\n" in out and out.endswith("passed: 2\npass@1   100.0%\n")
    assert len([*tmp_path.glob("samples-problems-*.jsonl")]) == 1
