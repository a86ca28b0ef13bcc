"""Tests of page.py: what a browser would find in a page."""

import json
from html.parser import HTMLParser

import pytest

from page import differing, page, results, text

EVIL = "<script>alert('1')</script>&amp;\"'\u001b\ud800"


def run_of(folder, n=30, done=True, **config):
    """A run's folder with n steps."""
    rows = [{"step": 0, "environment": {"python": "3.11", "date": folder.name}}]
    for i in range(1, n + 1):
        rows.append({"step": i, "tokens": 64 * i, "loss": 2 + 5 / i, "lr": 0.01, "seconds": 2 * i})
        if i % 5 == 0:
            rows.append({"step": i, "val_bits_per_byte": 1 + 1 / i})
            rows.append({"step": i, "sample": f"written after {i}"})
    if done:
        rows.append({"step": n, "val_bits_per_byte": 1.25, "baselines": {"zlib -9": 2.5}})
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows),
                                          encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"steps": 30, "lr": 0.006} | config),
                                        encoding="utf-8")
    return rows


class Page(HTMLParser):
    """Reads a page: its tags, its texts, the rows of its tables; and that tags are closed."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.rows, self.open = [], [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            assert name != "src" and not name.startswith("on"), f"{tag} has {name}"
            assert name not in ("href", "xlink:href") or value.startswith("#"), "needs the network"
        if tag != "meta":
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closed too early"

    def handle_data(self, data):
        self.texts.append(data)
        if set(self.open) & {"th", "td"}:
            self.rows[-1].append(data)


# ---- what there is to say ----
def test_results():
    rows = [{"step": 3, "tokens": 3000, "loss": 2.0, "seconds": 60.0},
            {"step": 3, "val_bits_per_byte": 2.0}]
    assert results(rows, {"steps": 10}) == {
        "bits per byte": "2.000 so far", "training loss": "2.000", "steps": "3 of 10",
        "tokens": "3,000", "time in steps": "1:00", "tokens a second": "50"}
    found = results([*rows, {"step": 3, "val_bits_per_byte": 1.5, "baselines": {}},
                     {"step": 0, "parameters": 1_234}], {"steps": 3})
    assert (found["bits per byte"], found["steps"], found["parameters"]) == ("1.500", "3", "1,234")
    assert results([{"step": 1, "loss": None, "seconds": 0, "tokens": 0}], {})["steps"] == "1"


def test_differing():
    assert differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}]) == {"b": [2, 3]}
    assert differing([{"a": [1]}, {}]) == {"a": [[1], None]}
    assert differing([{}, {}]) == {}


def test_text():
    assert text(EVIL).startswith("&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;&amp;amp;&quot;")
    assert [text(v) for v in (1e-6, 0.006, 12345678, "<b>", None, True)] == [
        "1e-06", "0.006", "12345678", "&lt;b&gt;", "-", "True"]


# ---- the page ----
def test_page_of_one_run(tmp_path):
    run_of(tmp_path / "tiny", data=["python", "gsm8k"])
    page([tmp_path / "tiny"], tmp_path / "page.html")
    found = Page(tmp_path / "page.html")
    assert found.tags.count("svg") == 1 and "script" not in found.tags
    for word in ("tiny", "1.250", "1,920", "1:00", "written after 5", "written after 30",
                 "validation, bits a byte", "learning rate", "tokens a second"):
        assert word in found.texts, f"{word!r} is missing"
    for row in (["zlib -9", "2.500"], ["this model", "1.250"], ["lr", "0.006"],
                ["data", "['python', 'gsm8k']"], ["python", "3.11"]):
        assert row in found.rows, f"{row} is missing"
    assert found.rows.index(["zlib -9", "2.500"]) < found.rows.index(["this model", "1.250"])


def test_page_of_several_runs(tmp_path):
    run_of(tmp_path / "a")
    run_of(tmp_path / "b", n=20, done=False, lr=0.02)
    page([tmp_path / "a", tmp_path / "b"], tmp_path / "page.html")
    found = Page(tmp_path / "page.html")
    assert found.tags.count("svg") == 1, "the curves are in one picture"
    for row in (["a", "b"], ["bits per byte", "1.250", "1.050 so far"], ["steps", "30", "20 of 30"],
                ["lr", "0.006", "0.02"], ["date", "a", "b"]):
        assert row in found.rows, f"{row} is missing"
    assert ["python", "3.11", "3.11"] not in found.rows, "what is the same is not listed"
    assert found.texts.count("written after 5") == 2
    assert "written after 20" in found.texts and "written after 30" in found.texts


def test_runs_of_one_name_are_told_apart(tmp_path):
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        run_of(tmp_path / place / "tiny")
    page([tmp_path / "x" / "tiny", tmp_path / "y" / "tiny"], tmp_path / "page.html")
    assert [str(tmp_path / "x" / "tiny"), str(tmp_path / "y" / "tiny")] in Page(
        tmp_path / "page.html").rows


def test_what_a_run_says_is_only_shown(tmp_path):
    """Names, samples and configs are text: nothing in them becomes a tag."""
    rows = run_of(tmp_path / "<b>&x", **{EVIL: EVIL})
    rows[0]["environment"][EVIL] = EVIL
    rows += [{"step": 30, "sample": EVIL}, {"step": 30, "activation_scale": {EVIL[:-2]: 1.0}},
             {"step": 30, "val_bits_per_byte": 1.0, "baselines": {EVIL[:-2]: 2.0, "no": None}}]
    (tmp_path / "<b>&x" / "metrics.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run_of(tmp_path / "other")
    for folders in (["<b>&x"], ["<b>&x", "other"]):
        page([tmp_path / name for name in folders], tmp_path / "page.html")
        found = Page(tmp_path / "page.html")
        assert "script" not in found.tags and "b>&x" not in found.tags
        assert any("<script>alert" in each for each in found.texts), "it is shown as it is"


def test_page_of_a_run_that_has_just_begun(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "metrics.jsonl").write_text('{"step": 1, "loss": 7.6}\n{"step": 2, "l',
                                                    encoding="utf-8")
    page([tmp_path / "new"], tmp_path / "page.html")
    assert {"7.600", "1"} <= set(Page(tmp_path / "page.html").texts)
    run_of(tmp_path / "old")
    page([tmp_path / "old", tmp_path / "new"], tmp_path / "page.html")
    assert ["bits per byte", "1.250", "-"] in Page(tmp_path / "page.html").rows
    (tmp_path / "new" / "metrics.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="nothing to draw"):
        page([tmp_path / "new"], tmp_path / "none.html")
    with pytest.raises(ValueError, match="not a run"):
        page([tmp_path], tmp_path / "none.html")
    assert not (tmp_path / "none.html").exists()


@pytest.mark.parametrize("content", ["{", "[1]", "7"])
def test_a_config_that_is_none(tmp_path, content):
    folder = tmp_path / "a"
    run_of(folder)
    (folder / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="a/config.json is not the config of a run"):
        page([folder], tmp_path / "page.html")
