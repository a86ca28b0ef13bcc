"""Tests of twins.py: the difference between a score and that of the twins, and the command."""

import json

import numpy as np

from renaming import renamed
from renumbering import renumbered
from test_renaming import ROW
from test_renumbering import ITEM
from twins import main, memorised


# ---- the difference ----
def test_memorised():
    gain, side = memorised([[1], [1], [0], [1]], [[1], [0], [0], [0]])
    assert gain == 0.5, "the originals minus the twins"
    assert abs(side - 1.96 * np.sqrt(1 / 3 / 4)) < 1e-12, (
        "1.96 standard errors of the mean of the paired differences, with N - 1")
    assert memorised([[1], [0], [1]], [[1], [0], [1]]) == (0, 0), "no item differs from its twin"
    gain, side = memorised([[1, 0], [1, 1], [0, 0]], [[0, 0], [1, 0], [0, 0]])
    assert abs(gain - 1 / 3) < 1e-12 and abs(side - 1.96 / 6) < 1e-12, (
        "several samples of an item count as their mean")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_compare(tmp_path, capsys, fails):
    def answered(*texts):
        return [{"question": f"{i}?", "reference": "#### 4", "answers": [text],
                 "right": ["#### 4" in text]} for i, text in enumerate(texts)]
    a = write(tmp_path / "a.jsonl", answered("#### 4", "#### 4", "it is 4", "no"))
    b = write(tmp_path / "b.jsonl", answered("#### 4", "", "it is 4", "no"))
    main(["compare", a, b])
    assert capsys.readouterr().out.splitlines() == [
        "4 items", "originals   50.0%, 95% interval 15.0% to 85.0%",
        "twins       25.0%, 95% interval 4.6% to 69.9%",
        "difference  +25.0%, 95% interval -24.0% to +74.0%",
        "4 items, by the last number of each answer",
        "originals   75.0%, 95% interval 30.1% to 95.4%",
        "twins       50.0%, 95% interval 15.0% to 85.0%",
        "difference  +25.0%, 95% interval -24.0% to +74.0%"]
    judged = [{"task_id": f"Go/{i % 2}", "passed": i < 3, "verdict": "x"} for i in range(4)]
    c, d = write(tmp_path / "c.jsonl", judged), write(tmp_path / "d.jsonl", judged[::-1])
    main(["compare", c, c])
    assert "2 items\noriginals   75.0%" in capsys.readouterr().out, "two samples of each problem"
    for other in (write(tmp_path / "e.jsonl", judged[:2]), d, a):
        assert "hold verdicts on other items" in fails(main, "compare", c, other)


def test_command_line(tmp_path, capsys):
    """GSM8K's form comes in and goes out; problems, compressed or not, as HumanEval-X has them."""
    items = [ITEM, {"question": "How many?", "answer": "None.\n#### 0"}]
    source = f"jsonl:{write(tmp_path / 'items.jsonl', items)},val=1"
    out, same = tmp_path / "out.jsonl", tmp_path / "same.jsonl"
    main(["gsm8k", "--data", source, "--out", str(out), "--originals", str(same), "--seed", "5"])
    assert json.loads(same.read_text()) == items[0], "the one that has a twin"
    assert json.loads(out.read_text()) == renumbered(**items[0], seed=5)
    assert "1 twins of 2 items" in capsys.readouterr().out
    main(["humaneval", write(tmp_path / "rows.jsonl", [ROW]), "--out", str(out)])
    assert json.loads(out.read_text()) == renamed(ROW)
