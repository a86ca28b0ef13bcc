"""Tests of report.py."""

import io
import json
import math
from xml.etree import ElementTree

import pytest

from report import column, draw, evenly, main, numbers, picture, smooth, throughput


def rows(n, evaluate=10):
    """What a run of n steps records, everything that is drawn."""
    found = []
    for i in range(1, n + 1):
        found.append({"step": i, "tokens": 64 * i, "loss": 2 + 5 / i, "grad_norm": 1 + math.sin(i),
                      "lr": 0.01, "seconds": 0.5 * i})
        if i % evaluate == 0:
            found.append({"step": i, "val_bits_per_byte": 1 + 1 / i})
            found.append({"step": i, "update_ratio": {"embed": 1e-3, "head": 2e-3},
                          "activation_scale": {"embed": 1.0, "logits": i / 10}})
    found[n // 2]["spike"] = True
    return [*found, {"step": n, "val_bits_per_byte": 1.1, "baselines": {"uniform": 3.0}}]


def words(svg):
    """The texts in a picture."""
    return [e.text for e in ElementTree.parse(io.BytesIO(svg)).iter() if e.tag.endswith("}text")]


# ---- numbers ----
def test_smooth():
    assert smooth([3, 3, 3]) == pytest.approx([3, 3, 3]), "right from the first value on"
    assert smooth([1, 2], 0.5) == pytest.approx([1, (0.25 * 1 + 0.5 * 2) / 0.75])
    assert smooth([]).shape == (0,)


def test_throughput():
    steps, rates = throughput([1, 2, 3], [10, 20, 30], [1, 2, 4], most=1)
    assert (steps.tolist(), rates.tolist()) == ([3], [20 / 3]), "a slow step weighs as it took"
    steps, rates = throughput([1, 2, 3], [10, 20, 30], [1, 2, 4])
    assert (steps.tolist(), rates.tolist()) == ([2, 3], [10, 5])
    n = 12
    steps, rates = throughput(range(1, n + 1), [7 * i for i in range(n)],
                              [0.1 * i**2 for i in range(n)], most=4)
    assert steps.tolist() == [4, 7, 10, 12], "stretches of 3 steps, the last is shorter"
    assert rates == pytest.approx([7 * 3 / (0.1 * (b * b - a * a)) * (b - a) / 3
                                   for a, b in ((0, 3), (3, 6), (6, 9), (9, 11))])
    steps, rates = throughput([1, 2, 3, 4], [10, 20, 30, 40], [5, 10, 0, 2])
    assert (steps.tolist(), rates.tolist()) == ([2, 4], [2, 5]), "a clock that began anew"
    steps, rates = throughput([1, 2], [10, 20], [1, 1.5])
    assert (steps.tolist(), rates.tolist()) == ([2], [20]), "two rows are enough"
    steps, rates = throughput([1, 2, 3], [10, 20, 30], [1, 1, 2])
    assert (steps.tolist(), rates.tolist()) == ([3], [10]), "no time: no rate"
    for n in (0, 1):
        assert [len(each) for each in throughput(*[[1] * n] * 3)] == [0, 0]


def test_column():
    metrics = [{"step": 1, "loss": 2.0}, {"step": 1, "lr": 1}, {"step": 2, "loss": None},
               {"step": 3, "loss": 1}]
    assert column(metrics, "step", "loss").tolist() == [[1, 3], [2, 1]]
    assert column(metrics, "nothing").shape == (1, 0)


def test_evenly():
    assert evenly(list(range(11)), 3) == [0, 5, 10] and evenly([1, 2], 3) == [1, 2]
    assert evenly([], 3) == []


def test_numbers():
    assert numbers({"a": 1, "b": None, "c": 0.5, "d": "x"}) == {"a": 1, "c": 0.5}
    assert numbers(None) == {}


# ---- pictures ----
def test_picture_shows_what_there_is():
    everything = words(picture([rows(40)], "svg"))
    for title in ("training loss, nats a token; spikes: 1", "validation, bits a byte",
                  "learning rate", "gradient norm", "tokens a second",
                  "training loss over seconds", "update ratio", "activation scale",
                  "uniform", "head", "logits"):
        assert title in everything, f"{title!r} is missing"
    first = words(picture([[{"step": 1, "loss": 7.0}]], "svg"))
    assert "training loss, nats a token" in first, "a run in its first step"
    assert not {"validation, bits a byte", "learning rate", "update ratio"} & set(first)
    both = words(picture([rows(40), rows(20)], "svg"))
    assert "learning rate" in both and not {"update ratio", "uniform"} & set(both), (
        "parts and yardsticks are one run's")
    with pytest.raises(ValueError, match="nothing to draw"):
        picture([[], [{"step": 0, "environment": {}}]], "svg")


@pytest.mark.filterwarnings("ignore:Data has no positive values")
def test_picture_of_rewards():
    """Of rl.py: four panels more, for one run or several; pass@1 and pass@8 beside the reward."""
    metrics = [*rows(20), *({"step": i, "reward": i / 20, "entropy": 0.5, "answer_length": 12.0,
                             "groups_equal": 0.25} for i in range(1, 21)),
               *({"step": i, "pass@1": i / 40, "pass@8": i / 20} for i in (10, 20))]
    titles = {"reward; held out: pass@k", "entropy, nats an id", "ids in an answer",
              "share of groups that teach nothing"}
    assert {*titles, "pass@1", "pass@8"} <= {*words(picture([metrics], "svg"))}
    assert titles <= {*words(picture([metrics, metrics[::-1]], "svg"))}
    assert not titles & {*words(picture([rows(20)], "svg"))}


def test_picture_of_pairs():
    """Of dpo.py: four panels more, for one run or several."""
    metrics = [*rows(20), *({"step": i, "accuracy": i / 20, "margin": i - 3.0, "chosen": -1.0 * i,
                             "rejected": -2.0 * i} for i in range(1, 21)),
               *({"step": i, "val_accuracy": 0.5, "val_margin": 0.1} for i in (10, 20))]
    titles = {"pairs: accuracy", "pairs: margin of rewards", "chosen: log(p / p_ref)",
              "rejected: log(p / p_ref)"}
    assert titles <= {*words(picture([metrics], "svg"))}
    assert titles <= {*words(picture([metrics, metrics[::-1]], "svg"))}
    assert not titles & {*words(picture([rows(20)], "svg"))}


@pytest.mark.parametrize("values", [
    {"loss": None, "grad_norm": None, "lr": None, "tokens": None, "seconds": None,
     "val_bits_per_byte": None, "update_ratio": None, "activation_scale": {"embed": None}},
    {"loss": 0.0, "grad_norm": 0.0, "lr": 0.0, "tokens": 0, "seconds": 0.0,
     "update_ratio": {"embed": 0.0}, "activation_scale": {"$a_b$": 0.0, "<b>": 1e9}}],
    ids=["nothing", "zeros"])
def test_picture_of_odd_values(values):
    """A picture is there whatever was recorded: a trainer draws while it trains."""
    for runs in ([[{"step": 1} | values]], [[{"step": i} | values for i in range(3)]] * 2):
        assert picture(runs, "png").startswith(b"\x89PNG")


def test_picture_of_a_long_run_is_small():
    assert len(picture([rows(10_000, evaluate=50)], "svg")) < 300_000


def test_the_same_metrics_give_the_same_picture():
    few = [row for row in rows(20) if "loss" in row and "lr" in row]
    assert picture([few], "svg") == picture([few], "svg")


def test_draw(tmp_path):
    draw(rows(20), tmp_path / "loss.png")
    whole = (tmp_path / "loss.png").read_bytes()
    assert whole.startswith(b"\x89PNG") and len(whole) > 10_000
    with pytest.raises(ValueError, match="nothing to draw"):
        draw([], tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes() == whole, "a good picture is not spoiled"


def test_main(tmp_path, monkeypatch, capsys, fails):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows(20)))
    main(["a"])
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"metrics.jsonl", "loss.png",
                                                           "report.html"}
    main(["a", "b", "--output", "compare.html"])
    assert capsys.readouterr().out.split() == ["a/report.html", "a/loss.png", "compare.html"]
    assert (tmp_path / "compare.html").exists() and len(list((tmp_path / "b").iterdir())) == 1
    assert "not a run" in fails(main, tmp_path / "nowhere")
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    assert "nothing to draw" in fails(main, "a")
