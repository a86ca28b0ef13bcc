"""Tests of report.py."""

import json

import pytest

from report import draw, main, read_metrics, smooth, table


def test_smooth():
    assert smooth([3, 3, 3]) == pytest.approx([3, 3, 3]), "right from the first value on"
    assert smooth([1, 2], 0.5) == pytest.approx([1, (0.25 * 1 + 0.5 * 2) / 0.75])
    assert len(smooth([])) == 0


def test_read_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.5}], "a line that a kill cut short"
    path.write_text("5\n")
    with pytest.raises(ValueError, match="no metric"):
        read_metrics(path)
    path.write_text("nonsense\n")
    with pytest.raises(ValueError, match="no JSON"):
        read_metrics(path)


def test_table():
    lines = table({"zlib -9": 2.0, "this model": 1.5, "uniform": 3.25}).splitlines()
    assert [line.split() for line in lines] == [["uniform", "3.250"], ["zlib", "-9", "2.000"],
                                                ["this", "model", "1.500", "<--"]]


def test_draw(tmp_path, capsys, fails):
    rows = [{"step": i, "loss": 5 / i} for i in range(1, 30)] + [{"step": 9,
                                                                  "val_bits_per_byte": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    main([str(tmp_path)])
    picture = (tmp_path / "loss.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    rows[-1]["baselines"] = {"zlib -9": 2.1}
    draw(rows, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes() != picture
    assert "not a run" in fails(main, tmp_path / "nowhere")
    (tmp_path / "metrics.jsonl").write_text("")
    assert "nothing to draw" in fails(main, tmp_path)
