"""Tests of charts.py: pictures show the numbers they are given. How they look is not tested."""

import numpy as np
from matplotlib.figure import Figure

from charts import draw_growth, draw_positions, draw_scores


def test_pictures(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, save=Figure.savefig, **how:
                        drawn.append(self) or save(self, path, **how))
    draw_positions(np.array([4.0, 3.0, 2.5, 2.0]), tmp_path / "a.png")
    [axes] = drawn[-1].axes
    assert axes.lines[1].get_ydata().tolist() == [4.0, 2.75, 2.0], "means of 1, 2 and 3, and 4"
    row = {"accuracy": 0.5, "interval": [0.4, 0.6], "baseline": 25.0, "majority": 0.3}
    draw_scores({"one": row, "two": row | {"shuffled": 0.2}}, tmp_path / "b.png", "title")
    [axes] = drawn[-1].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["two", "one"], "from below"
    assert [patch.get_width() for patch in axes.patches] == [0.5, 0.5]
    points = {step: {"one": {"centred": 0.1 * step, "loss": 3.0}} for step in (1, 4)}
    draw_growth(points, [(0.1, 0.02), (0.4, 0.03)], {1: 100, 4: 400}, tmp_path / "c.png", "run")
    left, right = drawn[-1].axes
    assert [*left.lines[0].get_xdata()] == [100, 400]
    assert [*right.lines[0].get_ydata()] == [3.0, 3.0]
    assert all((tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in "abc")
