"""Tests of certify.py: decisions that differ are found, wherever they come from."""

import json

import pytest

import certify
import core
import train
from core import Options, main
from evals import span_losses
from test_bundle import make_bundle

pytest.importorskip("yaml", reason="an oracle of tests/requirements.txt")


@pytest.fixture(scope="module")
def course(tmp_path_factory, quick_runs):
    base = tmp_path_factory.mktemp("certify")
    make_bundle(base / "bundle")
    (base / "text").write_text("".join(f"{i} + 1 = {i + 1}\n" for i in range(900)))
    train.main(["--preset", "nano", "--data", f"folder:{base / 'text'}", "--vocab-size", "280",
                "--steps", "5", "--device", "cpu", "--data-dir", str(base / "data"),
                "--runs-dir", str(base / "runs")])
    return base


def arguments(course, *more):
    return ["--runs-dir", str(course / "runs"), "--bundle", str(course / "bundle"), "--device",
            "cpu", "--certify", *map(str, more)]


def test_no_decision_depends_on_how(course, capsys, tmp_path, monkeypatch):
    path = tmp_path / "kept.json"
    main(arguments(course, "--json", path))
    out = capsys.readouterr().out
    assert "20 decisions of 3 tasks, in batches of 8, with a cache" in out
    for way in ("batch 1, no cache", "batch 32, cache", "batch 1, cache", "batch 32, no cache"):
        [line] = [line for line in out.splitlines() if line.startswith(f"{way} ")]
        decisions, gap = line.split()[-2:]
        assert decisions == "0" and 0 <= float(gap) < 1e-4, line
    for way in ("bfloat16, batch 1, no cache", "bfloat16, batch 32, cache"):
        [line] = [line for line in out.splitlines() if line.startswith(way)]
        gap = float(line.removeprefix(way).split()[1])
        assert 1e-5 < gap < 0.1, "bfloat16 has 8 bits"
    content = json.loads(path.read_text())
    assert len(content["certificate"]) == 3 * 6 and len(content["tasks"]) == 3, "in six ways"
    for module in (certify, core):
        monkeypatch.setattr(module, "score_items", lambda *how: pytest.fail("computed again"))
    main(arguments(course, "--json", path))
    assert capsys.readouterr().out == out


def test_where_nothing_is_shared_a_cache_changes_nothing(course, tmp_path, monkeypatch):
    monkeypatch.setattr(certify, "groups_of", lambda items: [])
    main(arguments(course, "--json", path := tmp_path / "kept.json"))
    assert len(json.loads(path.read_text())["certificate"]) == 3 * 4, "and is not computed twice"


def test_the_first_way_is_that_of_the_spine(course):
    _, model, tokenizer, config, _ = Options(runs_dir=str(course / "runs")).load()
    dtype, batch_size, cached = certify.WAYS["batch 1, no cache"]
    task = core.read_bundle(course / "bundle")[0]
    items, _ = core.prepare(task, tokenizer, config.seq_len)
    found = certify.score_items(model, items, batch_size, dtype, cached)
    for rows, losses in zip(items, found):
        for (row, start), (nats, _) in zip(rows, losses):
            assert nats.tolist() == pytest.approx(span_losses(model, row, start)[0].tolist(),
                                                  abs=1e-5)


def test_a_decision_that_depends_is_told(course, capsys, monkeypatch, fails):
    """A cache that is wrong, and a half precision that is: only the first is an error."""
    def damaged(in_which):
        def score(model, items, batch_size, dtype, cached, label, score=certify.score_items):
            found = score(model, items, batch_size, dtype, cached, label)
            if in_which(dtype, cached) and "sums" in label:
                found[0] = [(nats.flip(0) * (9 if n == 0 else 0.1), hits)
                            for n, (nats, hits) in enumerate(found[0])]
                found[1] = [(nats * (0.1 if n == 0 else 9), hits)
                            for n, (nats, hits) in enumerate(found[1])]
            return found
        return score
    original = certify.score_items
    monkeypatch.setattr(certify, "score_items", damaged(lambda dtype, cached: cached))
    assert "decisions in float32 depend on how they are computed" in fails(
        main, *arguments(course))
    monkeypatch.setattr(certify, "score_items", original)
    monkeypatch.setattr(certify, "score_items", damaged(lambda dtype, cached: dtype != "float32"))
    main(arguments(course))
    out = capsys.readouterr().out
    assert any(line.startswith("bfloat16") and "of sums" in line for line in out.splitlines())


@pytest.mark.slow
def test_beside_the_harness(course, capsys, tmp_path):
    """lm-evaluation-harness's own model of transformers, on an exported run: the same decisions."""
    pytest.importorskip("lm_eval", reason="an oracle of tests/requirements.txt")
    from weights import export
    _, model, tokenizer, _, _ = Options(runs_dir=str(course / "runs")).load()
    export(model, tokenizer, tmp_path / "exported")
    main(["--weights", str(tmp_path / "exported"), "--bundle", str(course / "bundle"), "--device",
          "cpu", "--certify"])
    [line] = [line for line in capsys.readouterr().out.splitlines()
              if line.startswith(certify.HARNESS)]
    decisions, gap = line.removeprefix(certify.HARNESS).split()
    assert decisions == "0" and float(gap) < 1e-4
