"""Tests of ladder.py: a law that was put in comes out again, and no run is made twice."""

import json
import math

import pytest
import torch

import ladder
from bpe import Tokenizer
from family import n_parameters
from ladder import (LEAST, RUNGS, Law, Point, best_split, bootstrap, descend, draw, fit,
                    main, middle, misfit, predicted, read_point, report, residuals, same_text)
from runs import as_json
from train import PRESETS, Config

PAPER = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
PAPERS_RANGE = [(n, flops / (6 * n)) for n in (7e7, 3e8, 1e9, 3e9, 1e10)
                for flops in (1e19, 1e20, 1e21)]
TOKENIZER = Tokenizer.train(["spam and eggs " * 9], 270)


def points_of(law, noise=0.0):
    generator = torch.Generator().manual_seed(0)
    return [(n, d, predicted(n, d, law) * math.exp(noise * torch.randn((), generator=generator)))
            for n, d in PAPERS_RANGE]


# ---- the law ----
def test_predicted():
    assert predicted(70e9, 1.4e12, PAPER) == pytest.approx(1.937, abs=1e-3), (
        "the loss of Chinchilla: E + A / n^alpha + B / d^beta, with n parameters and d tokens")
    assert predicted(16, 81, Law(1, 8, 27, 0.5, 0.25)) == pytest.approx(1 + 8 / 4 + 27 / 3)
    n = torch.tensor([1e6, 1e9], dtype=torch.float64)
    assert predicted(n, 1e9, PAPER).tolist() == [predicted(x, 1e9, PAPER) for x in (1e6, 1e9)]


@pytest.mark.parametrize("law", [PAPER, Law(1, 30, 900, 0.5, 0.3), Law(2, 5, 5, 0.3, 0.3)])
def test_best_split(law):
    """Against all splits, a thousandth apart."""
    for flops in (6e12, 1e18, 5.76e23):
        n, d = best_split(flops, law)
        assert 6 * n * d == pytest.approx(flops), "the whole budget, and no more"
        candidates = [n * 1.001**i for i in range(-3000, 3000)]
        losses = [predicted(x, flops / (6 * x), law) for x in candidates]
        assert min(losses) >= predicted(n, d, law) - 1e-12, "another split has a smaller loss"
    n, d = best_split(6e12, Law(2, 5, 5, 0.3, 0.3))
    assert n == pytest.approx(1e6) and d == pytest.approx(1e6), "where both count the same"


# ---- fitting it ----
def test_residuals():
    """Their derivatives are those that autograd finds."""
    points = torch.tensor(points_of(PAPER, noise=0.1), dtype=torch.float64)
    theta = torch.tensor([[5.0, 6.0, 0.5, 0.3, 0.25], [10.0, 2.0, -1.0, 0.5, 0.1]],
                         dtype=torch.float64)
    errors, slopes = residuals(theta, points)
    for i, row in enumerate(theta):
        law = ladder.as_law(row)
        assert errors[i].tolist() == pytest.approx(
            [math.log(predicted(n, d, law) / loss) for n, d, loss in points.tolist()])
        expected = torch.autograd.functional.jacobian(
            lambda t: residuals(t[None], points)[0][0], row)
        torch.testing.assert_close(slopes[i], expected)


def test_misfit():
    """Squares within DELTA, straight lines outside."""
    errors = torch.tensor([[0.5e-3, -0.5e-3, 0.0], [1.0, 0.0, -2.0]])
    found = misfit(errors, torch.ones(3)).tolist()
    assert found == pytest.approx([0.5e-3**2, 1e-3 * (3 - 1e-3)])
    assert misfit(errors, torch.tensor([2, 0, 0])).tolist() == pytest.approx(
        [0.5e-3**2, 2e-3 * (1 - 0.5e-3)]), "a point that counts twice, two that don't"


def test_descend():
    """Never up; and where the slopes are 0, nowhere."""
    points = torch.tensor(points_of(PAPER, noise=0.01), dtype=torch.float64)
    theta, once = ladder.starts()[::450], torch.ones(len(points))
    before = misfit(residuals(theta, points)[0], once)
    after = misfit(residuals(descend(theta, points, once, 20), points)[0], once)
    assert (after <= before).all() and after.min() < before.min() / 2
    assert torch.equal(descend(theta, points, 0 * once, 2), theta), "no point counts"


def test_fit():
    """The paper's law comes out of its own points, also if one of them is far off."""
    points = points_of(PAPER)
    assert fit(points) == pytest.approx(PAPER, rel=1e-5)
    n, d, loss = points[7]
    outlier = fit([*points[:7], (n, d, 1.3 * loss), *points[8:]])
    assert outlier == pytest.approx(PAPER, rel=0.1), "a point that is 30% off pulls too hard"
    assert [outlier.alpha, outlier.beta] == pytest.approx([0.34, 0.28], rel=0.03)
    with pytest.raises(ValueError, match="5 points are too few"):
        fit(points[:5])
    assert LEAST == 6


def test_bootstrap():
    law = Law(*PAPER)
    laws = bootstrap(points_of(PAPER, noise=2e-3), law, rounds=50)
    low, high = middle([other.alpha for other in laws])
    assert low < 0.34 < high and 0.005 < high - low < 0.1, f"{low} to {high}"
    assert laws == bootstrap(points_of(PAPER, noise=2e-3), law, rounds=50), "the same seed"
    exact = bootstrap(points_of(PAPER), law, rounds=5)
    assert all(other == pytest.approx(PAPER, rel=1e-6) for other in exact), "nothing is luck"


def test_middle():
    assert middle(list(map(float, range(101)))) == pytest.approx([10, 90])


# ---- what came of it ----
def some_points():
    return {(f"d{i}", c): Point(n, int(c / (7 * n)), predicted(n, c / (7 * n), PAPER), c)
            for c in (1e12, 1e13) for i, n in enumerate((1e5, 3e5, 1e6, 3e6), 1)}


def test_report():
    points, ranges = some_points(), {"alpha": (0.3, 0.4), "beta": (0.2, 0.3)}
    lines = "\n".join(report(points, PAPER, ranges)).splitlines()
    assert lines[1].split() == ["d1", "1e+05", "1.43e+06", "1e+12", "8.6e+11", "17.5639", "17.5639"]
    assert "L = 1.690 + 406 / N^0.34 + 411 / D^0.28 bits per byte" in lines
    assert any(line.endswith("alpha 0.3 to 0.4, beta 0.2 to 0.3") for line in lines)
    assert lines[-1] == "the best N grows as the budget to the 0.45"
    n, d = best_split(1e12, PAPER)
    row = next(line for line in lines if line.startswith("1e+12"))
    assert row.split()[1:3] == [f"{n:.3g}", f"{d:.3g}"] and "outside" not in row
    far = "\n".join(report(points, PAPER._replace(A=4e4), ranges))
    assert "outside the rungs: a guess" in far


def test_draw(tmp_path):
    draw(some_points(), PAPER, {"alpha": (0.3, 0.4), "beta": (0.2, 0.3)}, tmp_path / "ladder.png")
    picture = (tmp_path / "ladder.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000


# ---- the points, and the command ----
@pytest.fixture
def fake_training(monkeypatch):
    """train.main that only leaves behind what a run does; the list of what it was called with."""
    calls = []

    def train(words):
        options = dict(zip(words[::2], words[1::2]))
        name, folder = options["--name"], (ladder.Path(options["--runs-dir"]) / options["--name"])
        calls.append((name, "--resume" in words))
        folder.mkdir(parents=True, exist_ok=True)
        config = Config(**PRESETS[options["--preset"]] | {
            key[2:].replace("-", "_"): json.loads(value) for key, value in options.items()
            if key in ladder.SHARED} | {
            "data": (options["--data"],), "steps": round(float(options["--flops"]) / 1e10)})
        (folder / "config.json").write_text(json.dumps(
            as_json(config) | {"data_hash": "", "data_folders": []}))
        TOKENIZER.save(folder / "tokenizer.json")
        n = n_parameters(config.gpt(TOKENIZER.vocab_size))
        bits = predicted(n, config.steps * config.batch_size * config.seq_len, PAPER)
        rows = [{"step": config.steps, "loss": 1.0}]
        if len(calls) != 3:  # which is asked to stop
            rows += [{"step": config.steps, "val_bits_per_byte": bits, "baselines": {}},
                     {"step": config.steps, "sample": "spam"}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(ladder.train, "main", train)
    return calls


def test_read_point(fake_training, tmp_path):
    ladder.train.main(["--preset", RUNGS[1], "--flops", "5e11", "--name", "a", "--runs-dir",
                       str(tmp_path), "--data", "x"])
    config = Config(**PRESETS[RUNGS[1]] | {"steps": 50})
    shape = config.gpt(TOKENIZER.vocab_size)
    point, tokens = read_point(tmp_path / "a"), 50 * config.batch_size * config.seq_len
    assert point.n == n_parameters(shape) - TOKENIZER.vocab_size * config.d_model, (
        "all but the embedding table")
    assert point.d == tokens
    assert point.loss == predicted(n_parameters(shape), tokens, PAPER)
    assert point.flops == tokens * ladder.flops_per_token(shape)
    (tmp_path / "a" / "metrics.jsonl").write_text('{"step": 50, "val_bits_per_byte": 2.0}\n')
    assert read_point(tmp_path / "a") is None, "not the evaluation that ends a run"
    (tmp_path / "a" / "metrics.jsonl").unlink()
    assert read_point(tmp_path / "a") is None


def test_same_text(fake_training, tmp_path):
    for name, data in (("a", "x"), ("b", "x"), ("c", "y")):
        ladder.train.main(["--preset", RUNGS[0], "--flops", "5e11", "--name", name, "--runs-dir",
                           str(tmp_path), "--data", data])
    same_text([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(ValueError, match="b and .*c had different data, or"):
        same_text([tmp_path / "a", tmp_path / "b", tmp_path / "c"])


@pytest.mark.slow
def test_it_goes_on_where_it_was_stopped(fake_training, tmp_path, capsys, fails, monkeypatch):
    arguments = ["--data", "x", "--flops", "3e12", "1e12", "--runs-dir", str(tmp_path)]
    main(arguments)
    assert "stopped; the same command goes on" in capsys.readouterr().out
    names = [f"ladder-{rung}-{budget}" for budget in ("1e12", "3e12") for rung in RUNGS]
    assert len(names) == 8 and fake_training == [(name, False) for name in names[:3]]
    main(arguments)
    assert fake_training[3:] == [(names[2], True), *((name, False) for name in names[3:])]
    out = capsys.readouterr().out
    assert "L = " in out and all(rung in out for rung in RUNGS)
    assert (tmp_path / "ladder.png").stat().st_size > 10_000
    main(arguments)
    assert len(fake_training) == 9, "nothing is left to train"
    assert "data ('x',), not ('y',)" in fails(main, "--data", "y", *arguments[2:])
    for alpha in (-0.1, 6.0):
        monkeypatch.setattr(ladder, "fit", lambda rows: PAPER._replace(alpha=alpha))
        assert "no law fits these 8 points" in fails(main, *arguments)


def test_wrong_input_gets_one_line(fake_training, tmp_path, fails):
    assert "at least two budgets" in fails(main, "--flops", "1e12", "1e12")
    assert "-1 FLOPs is none" in fails(main, "--flops", "1e12", "-1")
    assert "unrecognized arguments: --stepz" in fails(main, "--flops", "1e12", "1e13", "--stepz", 1,
                                                      "--runs-dir", tmp_path)
    assert not fake_training and not list(tmp_path.iterdir()), "nothing was trained"
