"""Tests of curves.py: what is drawn is what the stage's functions do."""

import json

import numpy as np
import pytest
import torch

import curves
from curves import (adamw_direction, draw_ablations, draw_packed, draw_race, learn, lifted, main,
                    packed_window, rates, read_race, singular_values, worth)
from optim import QUINTICS, orthogonalize
from optim import SCHEDULES

TEXT = b"the cat sat on the mat, and the dog on the log. " * 9


def test_rates():
    for schedule in SCHEDULES:
        line = rates(schedule)
        assert len(line) == 1000 and line.max() == 1 and line[99] == 1, "its own warm-up"
    assert rates("wsd")[499] == 1 > rates("wsd")[501]


@pytest.fixture(scope="module")
def learned():
    return learn(TEXT, steps=3)


def test_learn(learned):
    """Gradients are those of a batch that the optimizer has not seen; the same every time."""
    model, optimizer = learned
    matrix = model.blocks[0].mlp.up.weight
    assert matrix.shape == (256, 64) and float(optimizer.state[matrix]["step"]) == 3
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3 * 6e-3), "the third of its warm-up"
    again = learn(TEXT, steps=3)[0].blocks[0].mlp.up.weight
    assert torch.equal(again, matrix) and torch.equal(again.grad, matrix.grad)


def test_adamw_direction(learned):
    """It is where the optimizer's next step goes."""
    model, optimizer = learn(TEXT, steps=3)
    matrix, rate = model.blocks[0].mlp.up.weight, optimizer.param_groups[0]["lr"]
    expected, before = adamw_direction(matrix, optimizer), matrix.detach().clone()
    optimizer.param_groups[0]["weight_decay"] = 0.0
    optimizer.step()
    torch.testing.assert_close((matrix.detach() - before) / rate, expected, rtol=1e-3, atol=1e-3)


def test_singular_values():
    found = singular_values(torch.tensor([[0.0, 3.0], [-4.0, 0.0], [0.0, 0.0]]))
    assert found == pytest.approx([4, 3]), "the largest first"


def test_lifted():
    """The polynomial, again and again; and it is what happens to those of a large matrix."""
    s = expected = np.geomspace(1e-3, 0.99, 20)
    for n, (a, b, c) in enumerate((*QUINTICS, (0, 0, 0))):
        assert lifted(s, n) == pytest.approx(expected, rel=1e-3, abs=1e-5), f"{n} steps"
        expected = a * expected + b * expected**3 + c * expected**5
    matrix = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    values = singular_values(matrix) / float(matrix.norm())
    assert sorted(lifted(values, 2)) == pytest.approx(
        sorted(singular_values(orthogonalize(matrix, QUINTICS[:2]))), rel=1e-3)


def test_packed_window(tmp_path):
    """What sft.py trains on; and another window is another picture."""
    texts, mask, targets, starts = packed_window(curves.TALKS)
    (first, learned), (second, _) = texts
    assert "".join(first) == ("<|bos|><|user_start|>What is 2 + 3?<|user_end|><|assistant_start|>"
                              "It is 5.<|assistant_end|>"), "each token has its text"
    assert [text for text, own in zip(first, learned) if own][::5] == ["It", "<|assistant_end|>"]
    n = len(first) - 1  # the last one is a target only
    assert starts.tolist() == [0, n] and len(mask) == n + len(second) - 1 == len(targets)
    assert mask[:n, :n].sum() == n * (n + 1) / 2 and not mask[n:, :n].any(), "only its own"
    assert (targets[:n] >= 0).tolist() == [*map(bool, learned[1:])], "the next id is learned"
    for i, talks in enumerate((curves.TALKS, curves.TALKS[::-1])):
        draw_packed(tmp_path / f"{i}.png", talks)
    pictures = [(tmp_path / f"{i}.png").read_bytes() for i in range(2)]
    assert pictures[0] != pictures[1] and all(p.startswith(b"\x89PNG") for p in pictures)
    assert min(map(len, pictures)) > 10_000


RACE = {"target": 1.88,
        "runs": [{"name": name, "seed": seed, "seconds_to_target": reached,
                  "curve": [[i, 10 * i, 1.8 + 2 / i] for i in range(1, 40)]}
                 for name, reached in (("classic", None), ("modern", 25.0)) for seed in (0, 1)],
        "ablations": [
            {"name": "full recipe", "seconds_to_target": 10.0, "steps_to_target": 200,
             "loss_at_end": 1.8},
            {"name": "without a", "seconds_to_target": 15.0, "steps_to_target": 400,
             "loss_at_end": 1.85},
            {"name": "without b", "seconds_to_target": None, "steps_to_target": None,
             "loss_at_end": 1.93},
            {"name": "without c", "seconds_to_target": 30.0, "steps_to_target": 100,
             "loss_at_end": 1.85}]}


def test_worth():
    assert worth(RACE["ablations"]) == [("without b", None, None), ("without c", 3.0, 0.5),
                                        ("without a", 1.5, 2.0)], "the worst first"
    with pytest.raises(ValueError, match="'without b', the first of the ablations"):
        worth(RACE["ablations"][2:])


def test_pictures_of_a_race(tmp_path):
    never = RACE | {"target": 1.5, "ablations": RACE["ablations"][::2]}
    for i, race in enumerate((RACE, never)):
        for draw in (draw_race, draw_ablations):
            draw(race, tmp_path / f"{draw.__name__}{i}.png")
    pictures = [path.read_bytes() for path in tmp_path.iterdir()]
    assert len(set(pictures)) == 4 and all(p.startswith(b"\x89PNG") for p in pictures)


def test_read_race(tmp_path):
    path = tmp_path / "race.json"
    path.write_text(json.dumps(RACE))
    assert read_race(path) == RACE
    for wrong in ({}, {"target": 1.88}, RACE | {"runs": []}):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="race.json is no race"):
            read_race(path)


@pytest.mark.slow
def test_command_line(learned, tmp_path, capsys, fails, monkeypatch):
    monkeypatch.setattr(curves, "learn", lambda text: learned)
    main(["--out", str(tmp_path)])
    (tmp_path / "race.json").write_text(json.dumps(RACE))
    main(["--out", str(tmp_path), "--race", str(tmp_path / "race.json")])
    out = capsys.readouterr().out
    for name in ("schedules.png", "packed.png", "muon.png", "race.png", "ablations.png"):
        assert name in out and (tmp_path / name).stat().st_size > 10_000
    assert "no folder" in fails(main, "--out", tmp_path / "nowhere")
    assert "holds no race.json" in fails(main, "--out", tmp_path, "--race",
                                         tmp_path / "nowhere" / "race.json")
