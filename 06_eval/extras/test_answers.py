"""Tests of answers.py: what is asked, what counts as right, and the whole command."""

import json

import numpy as np
import pytest

import answers
from answers import (answer_all, last_number_is_right, main, pairs_of, summary,
                     with_examples)
from bpe import Tokenizer
from corpus import find_source
from gpt import GPT, GPTConfig
from rl import Answer
from runs import as_json, save_checkpoint, start_run, tensors
from train import Config

TOKENIZER = Tokenizer([])


def test_pairs_of(tmp_path):
    """Conversations of one question; the first of a split; each with an answer."""
    source = find_source("tasks,form=chat,only=calculator,n=200")
    held_out, more = pairs_of(source, "val", 5), pairs_of(source, "val", 0)
    assert len(held_out) == 5 and held_out == more[:5] and len(more) > 10
    assert not {*more} & {*pairs_of(source, "train", 0)}
    assert all("<<" in reference and "####" in reference for _, reference in more)
    path = tmp_path / "talks.jsonl"
    talk = [{"role": role, "content": text} for role, text in (("user", "1+1?"),
                                                               ("assistant", "2"))]
    path.write_text("".join(json.dumps({"messages": talk[:1] + [
        {"role": "assistant", "content": f"{n}"}]}) + "\n" for n in range(100)))
    with pytest.raises(ValueError, match="no answer behind ####"):
        pairs_of(find_source(f"jsonl:{path}"), "train", 0)
    path.write_text("".join(json.dumps({"messages": 2 * talk, "n": n}) + "\n" for n in range(100)))
    with pytest.raises(ValueError, match="no conversations of one question .* held out"):
        pairs_of(find_source(f"jsonl:{path}"), "val", 0)


def test_with_examples():
    assert with_examples("2+2?", [("1+1?", "#### 2"), ("0?", "#### 0")]) == (
        "Question: 1+1?\nAnswer: #### 2\n\nQuestion: 0?\nAnswer: #### 0\n\nQuestion: 2+2?\nAnswer:")


def options_of(**more):
    return answers.Options(**dict(tokens=8, samples=2) | more)


def test_a_chat_model_is_asked(monkeypatch):
    """Texts of answers that end, without the end; None for others; drawn by question and seed."""
    seen = []

    def written(model, prompts, tokenizer, n, tokens, seeds, temperature):
        asked = [tokenizer.decode(prompt) for prompt in prompts]
        seen.append((asked, n, tokens, seeds, temperature))
        groups = [[Answer(tokenizer) for _ in range(n)] for _ in prompts]
        for group in groups:
            for one, end in zip(group, (b"", [tokenizer.special["<|assistant_end|>"]])):
                for i in [*b"4", *end]:
                    one.add(i, 0.0, 0.0)
        return groups
    monkeypatch.setattr(answers, "write_answers", written)
    texts = answer_all(None, TOKENIZER, ["2+2?", "3+1?"], [], options_of(seed=3), first=7)
    assert texts == [[None, "4"]] * 2
    prompts = [f"<|bos|><|user_start|>{q}<|user_end|><|assistant_start|>" for q in ("2+2?", "3+1?")]
    assert seen == [(prompts, 2, 8, [(3, 7), (3, 8)], 1e-4)], "at temperature 0 nearly 0"


def test_a_base_model_continues():
    """Each question behind the examples, several texts to each, cut at a blank line."""
    model = GPT(GPTConfig(TOKENIZER.vocab_size, 128, n_layer=1, n_head=2, n_kv_head=2, d_model=16,
                          d_ff=32)).eval()
    examples, how = [("1+1?", "#### 2")], options_of(temperature=1.0)
    texts = answer_all(model, TOKENIZER, ["2+2?", "3+1?"], examples, how)
    assert [len(group) for group in texts] == [2, 2] and texts[0][0] != texts[0][1]
    assert all("\n\n" not in text for group in texts for text in group)
    assert answer_all(model, TOKENIZER, ["3+1?"], examples, how, first=1) == texts[1:], (
        "the same, whatever else is asked at once")
    same = answer_all(model, TOKENIZER, ["3+1?"], examples, options_of(temperature=0.0))[0]
    assert same[0] == same[1], "at temperature 0 the likeliest id"


def test_summary():
    right = np.array([[True, False, False, True], [False] * 4])
    assert [*summary(right)] == ["pass@1   25.0%, 95% interval 0.0% to 59.6%", "pass@2   41.7%",
                                 "pass@4   50.0%"]
    assert [*summary(np.array([[True], [False]] * 5))] == [
        "pass@1   50.0%, 95% interval 23.7% to 76.3%"], "Wilson's"


def test_last_number_is_right():
    for text, right in (("So it is 1,800 dollars.", True), ("#### 1800", True), ("", False),
                        ("1800 of 2", False), ("none", False), ("it costs $1800.00", True)):
        assert last_number_is_right(text, "1000 + 800\n#### 1,800") == right, text
    assert not last_number_is_right("abc 3", "#### abc"), "an answer that is no number"


def test_command_line(tmp_path, capsys, fails):
    """A run that has learned nothing answers; all is in the file."""
    config = Config(n_layer=1, n_head=2, n_kv_head=2, d_model=16, d_ff=32, seq_len=64,
                    vocab_size=TOKENIZER.vocab_size, data=("tasks",), device="cpu", micro_batch=2)
    folder = start_run(tmp_path / "runs", "small")
    (folder / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []}))
    TOKENIZER.save(folder / "tokenizer.json")
    save_checkpoint(folder, 1, tensors(GPT(config.gpt(TOKENIZER.vocab_size))), {})
    words = ["--run", "small", "--runs-dir", str(tmp_path / "runs"), "--device", "cpu", "--data",
             "tasks,form=chat,only=addition,n=100", "--questions", "3", "--tokens", "6"]
    main([*words, "--json", str(tmp_path / "rows.jsonl")])
    said = capsys.readouterr().out
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and "3 questions of tasks" in said and "pass@1" in said
    assert "by the last number of the answer" in said
    assert all(row.keys() == {"question", "reference", "answers", "right"} for row in rows)
    assert "no conversations of one question" in fails(main, *words, "--data", "tasks,n=100")
