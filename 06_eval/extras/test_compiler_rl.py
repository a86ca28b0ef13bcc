"""Tests of compiler_rl.py: the reward, its step, the rival, and the whole way of a small model.

The compiler is one that the test makes up; test_bodies.py has the real one.
"""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import bodies
import compiler_rl
import train as trainer
from abilities import spent
from bodies import FACTS, Body, Compiler, asked, problem_of
from compiler_rl import (PRACTICE, Batches, Kept, main, practised, reward, right_bodies, share,
                         with_batches)
from core import interval
from gpt import make_model
from metrics import read_metrics
from rl import policy_loss
from runs import load_run, read_config
from train import Config, train_step

HEADS = [(f"// F{n} adds {n}.\nfunc F{n}(a int) int {{\n", f"\treturn a + {n}\n}}\n")
         for n in range(30)]
ROWS = [problem_of(*head, f"me/{n}") for n, head in enumerate(HEADS)]
SMALL = dict(batch_size=12, micro_batch=6, group=4, answer_tokens=20, warmup=1, save_every=1)


def made_up(programs, *how):
    """Levels that depend on the program alone; what people wrote has the highest."""
    return [3 if "return a +" in program else sum(program.encode()) % 4 for program in programs]


class Short(Body):
    """A body that ends by itself early, as those of a model that has learned nothing don't."""

    def add(self, i, logp, entropy):
        super().add(i, logp, entropy)
        self.ended = len(self.ids) > 2 + i % 8
        return i


@pytest.fixture(scope="module")
def world(tmp_path_factory, quick_runs):
    """A folder with a run, Go files and a problem."""
    folder = tmp_path_factory.mktemp("compiler")
    with open(folder / "go.jsonl", "w", encoding="utf-8") as file:
        for n, (head, body) in enumerate(HEADS):
            file.write(json.dumps({"repo": f"me/{n}", "path": "a.go",
                                   "content": f"package a\n\n{head}{body}"}) + "\n")
    (folder / "problems.jsonl").write_text(json.dumps({
        "task_id": "one", "prompt": "package a\n\n// F is.\nfunc F() int {\n", "canonical_solution":
        "\treturn 1\n}\n", "test": "package a\n\nfunc TestF(t *testing.T) {}\n"}), encoding="utf-8")
    trainer.main(["--preset", "nano", "--vocab-size", "280", "--seq-len", "128", "--steps", "2",
                  "--data", f"folder:{folder},include=*.jsonl", "--data-dir", str(folder / "data"),
                  "--runs-dir", str(folder / "runs"), "--name", "base", "--device", "cpu",
                  "--no-by-hand"])
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(compiler_rl, "Body", Short)
    for module in (bodies, compiler_rl):
        monkeypatch.setattr(module, "LONGEST", 20)
    monkeypatch.setattr(bodies, "ignores", lambda head, body: len(body) % 2 == 0)
    monkeypatch.setattr(compiler_rl, "trouble", lambda: "")
    monkeypatch.setattr(compiler_rl, "Compiler", lambda *how: Compiler(check=made_up))
    monkeypatch.setattr(compiler_rl, "judge_all", lambda pairs, options: (
        (True, "") for _ in pairs))
    for name, value in SMALL.items():
        monkeypatch.setitem(PRACTICE, name, value)


def test_reward():
    """No body that doesn't compile earns as much as one that does; strict: not without work."""
    def fact(level, *more):
        return dict.fromkeys(FACTS, False) | {name: True for name in (*FACTS[:level], *more)}
    found = [reward(fact(level)) for level in range(4)]
    assert found == sorted(found) and found[0] == 0 and found[3] == 1 and found[1] < found[2]
    for level, idle in itertools.product(range(4), (["trivial"], ["ignores"], FACTS[3:5])):
        assert reward(fact(level, *idle)) == found[level], "the plain reward can be had for nothing"
        assert reward(fact(level, *idle), strict=True) == 0
        assert reward(fact(level), strict=True) == found[level]


def batches_of(world, check=made_up, strict=False, **changes):
    model, tokenizer, config, _ = load_run(world / "runs/base")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(len(parameter)))
    config = with_batches(config, None, **PRACTICE | changes)
    data = SimpleNamespace(tokenizer=tokenizer)
    return Batches(config, data, model, ROWS, Compiler(check=check), strict)


def test_the_step_is_that_of_rl(world):
    """All ids that the model wrote, of the bodies with an advantage; each weighs the same."""
    loader = batches_of(world)
    batch = next(loader)
    x, y, advantage, logps = map(torch.tensor, batch)
    assert x.shape[0] == 12 and 0 < advantage.abs().sum() and loader.measures["reward"] > 0
    expected = policy_loss(loader.model.logits(loader.model.hidden(x)), y, advantage, 1.0)
    parts = [loader.objective(None)(*(a[i:i + 6] for a in (x, y, advantage, logps)))
             for i in (0, 6)]
    assert torch.allclose(sum(part.sum() for part in parts), expected.sum(), atol=1e-5)
    assert loader.measures["gap"] < 1e-4, "drawn from the model as it is"
    lengths = (y >= 0).sum(1)
    assert loader.measures["answer_length"] == pytest.approx(float(lengths.float().mean()))
    assert loader.measures.keys() >= {*FACTS, "judging", "entropy", "groups_equal"}


def test_what_compiles_becomes_likelier(world):
    """Of bodies whose compiler likes a letter."""
    loader = batches_of(world, lambda programs, *how: [3 * ("e" in p.partition("{\n")[2])
                                                       for p in programs], lr=3e-3, steps=1000)
    optimizer, rewards = trainer.make_optimizer(loader.model, loader.config), []
    for step in range(15):
        train_step(loader.model, optimizer, next(loader), 20, loader.config,
                   loader.objective(None))
        rewards.append(loader.measures["reward"])
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.2, rewards


def test_bodies_that_were_cut_off_earn_nothing(world, monkeypatch):
    class Endless(Body):
        def add(self, i, logp, entropy):
            super().add(i, logp, entropy)
            self.ended = False
            return i
    monkeypatch.setattr(compiler_rl, "Body", Endless)
    loader = batches_of(world, lambda programs, *how: [3] * len(programs))
    next(loader)
    assert loader.measures["reward"] == 0 == loader.measures["compiles"]


def test_the_rival_learns_what_earned_all(world):
    """Bodies with the full reward, as often as they were written, until as many ids are written."""
    model, tokenizer, config, _ = load_run(world / "runs/base")
    config = with_batches(config, None, **PRACTICE)
    found = right_bodies(world / "runs/base", config, ROWS, Compiler(check=made_up), False, 400)
    assert 400 <= found["written"] < 400 + 20, "equal up to a body"
    loader = Batches(config, SimpleNamespace(tokenizer=tokenizer), model, ROWS,
                     Compiler(check=made_up))
    prompts, written, expected = [asked(row, tokenizer) for row in ROWS], 0, []
    seen, whole = [], compiler_rl.facts
    compiler_rl.facts = lambda rows, groups, compiler: seen.append(
        (rows, groups, whole(rows, groups, compiler))) or seen[-1][2]
    try:
        for _ in range(8):
            next(loader)
    finally:
        compiler_rl.facts = whole
    for rows, groups, each in seen:
        for row, group, facts in zip(rows, groups, each):
            for body, fact in zip(group, facts):
                if written < 400:
                    written += len(body.ids)
                    expected += [[prompts[ROWS.index(row)], body.ids]] * fact["vets"]
    assert [[*pair] for pair in found["rows"]] == expected and expected
    with pytest.raises(ValueError, match="nothing to learn from; --stages"):
        right_bodies(world / "runs/base", config, ROWS,
                     Compiler(check=lambda programs, *how: [2] * len(programs)), False, 100)


def test_kept_bodies_are_read_evenly():
    """As many ids as are asked for, in so many steps; a state goes on where it was."""
    rows = [([1] * (n % 5 + 1), [n + 2] * (n % 3 + 1)) for n in range(11)]
    config = SimpleNamespace(steps=7, seed=3)
    kept, batches = Kept(config, rows, 200), []
    for step in range(7):
        batches.append(next(kept))
        assert 0 <= kept.tokens - 200 * (step + 1) / 7 < 8, "equal up to a body"
        if step == 3:
            again = Kept(config, rows, 200)
            again.load_state_dict(json.loads(json.dumps(kept.state_dict())))
    assert kept.tokens == sum(int((y >= 0).sum() + (x == 1).sum()) for x, y in batches) and (
        kept.epochs()[0] > 2)
    for batch in batches[4:]:
        assert all(map(np.array_equal, batch, next(again)))
    x, y = next(Kept(config, rows[:1], 1))
    assert (x.tolist(), y.tolist()) == ([[1]], [[2]]), "the head is not learned"
    learned = [int(i) for _, y in batches for i in y[y >= 0]]
    assert {*learned} == {*range(2, 13)}


def test_with_batches(tmp_path):
    """Another config, which is saved as any other is."""
    config = with_batches(Config(steps=5), lambda *given: given, steps=7)
    assert config.steps == 7 and isinstance(config, Config)
    assert config.batches("data", "model") == (config, "data", "model")


def test_intervals():
    """Each head is one draw, however many bodies it has."""
    low, high = interval(3, 12)
    assert share([0.5] * 4 + [1, 0] + [0] * 6) == f"25.0 ({100 * low:.1f}-{100 * high:.1f})"
    assert share([0.0] * 10) == "0.0 (0.0-27.8)", "none is not certain"


@pytest.mark.slow
def test_the_whole_way(world, tmp_path, monkeypatch, capsys):
    """A table, costs that are alike, a picture; what is there is not made again."""
    top = tmp_path / "made"
    words = ["--run", "base", "--runs-dir", str(world / "runs"), "--data",
             f"jsonl:{world}/go.jsonl", "--problems", str(world / "problems.jsonl"), "--folder",
             str(top), "--steps", "3", "--samples", "4", "--data-dir", str(tmp_path / "data"),
             "--bits-tokens", "500"]
    main([*words, "--stages", "base", "rl"])
    said = capsys.readouterr().out
    assert "======== rl-0" in said and "rival" not in said
    main(words)
    said = capsys.readouterr().out
    assert "======== rl-0" not in said and "======== strict-rival-0" in said
    for text in ("5 heads held out", "1 problems", "passes, %", "people", "  more than base",
                 "one of them honest, %", "ids written", "the commonest bodies"):
        assert text in said, text
    results = json.loads((top / "results-0.json").read_text())
    cost = {stage: row.get("spent") for stage, row in results.items()}
    assert [*results] == [*compiler_rl.STAGES] and cost["base"] is None
    for stage, rival in (("rl", "rival"), ("strict", "strict-rival")):
        assert cost[stage] == spent(top / f"{stage}-0") and cost[stage]["written"] > 0
        assert 0 <= cost[rival]["written"] - cost[stage]["written"] < 20, "equal up to a body"
        assert 0 <= cost[rival]["read"] - cost[stage]["read"] < 140
        assert cost[rival]["flops"] == pytest.approx(cost[stage]["flops"], rel=0.2)
        assert {"compiles", "judging"} <= read_metrics(top / f"{stage}-0/metrics.jsonl")[3].keys()
    assert read_config(top / "rl-0").init == str(world / "runs/base")
    assert (top / "compiler.png").stat().st_size > 10_000
    model, _, _, step = load_run(top / "strict-0")
    assert step == 3 and isinstance(model, type(make_model(model.config)))
    rows = json.loads((top / "heads.json").read_text())["rows"]
    assert not {row["task_id"] for row in rows[0]} & {row["task_id"] for row in rows[1]}
    n = len(rows[1])
    assert all(len(row["facts"]) == n + 1 for row in results.values())
    for row in results.values():
        assert row["facts"][n]["passes"] == row["facts"][n]["compiles"], "no other one is tried"
    assert not any(one["passes"] for row in results.values() for one in row["facts"][:n])
    for row in results.values():
        assert all(one["parses"] >= one["compiles"] >= one["vets"] for one in row["facts"])
    with pytest.raises(ValueError, match="another steps and lr: give another --folder"):
        main([*words, "--lr", "1", "--steps", "9"])
    with pytest.raises(ValueError, match="stages are base, rl, rival, .*; not all"):
        main([*words, "--stages", "all"])
    monkeypatch.setattr(compiler_rl, "train", lambda *given: None)
    options = compiler_rl.Options(folder=str(top), seed=1)
    assert practised("rl", Path(world / "runs/base"), rows[0], None, options) is None, "stopped"
