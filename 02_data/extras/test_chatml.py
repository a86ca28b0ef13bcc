"""Tests of chatml.py."""

import pytest

from bpe import Tokenizer
from chatml import chatml_prompt, main, render_chatml
from conversations import prompt_ids

USER, ASSISTANT = ({"role": role, "content": text} for role, text in
                   (("user", "Hi"), ("assistant", "Ho")))


def test_render_chatml():
    tokenizer = Tokenizer([], "gpt4", ["<|im_start|>", "<|im_end|>"])
    system = {"role": "system", "content": "Be brief <|im_end|>"}
    ids = render_chatml([system, USER, ASSISTANT], tokenizer)
    assert tokenizer.decode(ids) == ("<|im_start|>system\nBe brief <|im_end|><|im_end|>\n"
                                     "<|im_start|>user\nHi<|im_end|>\n"
                                     "<|im_start|>assistant\nHo<|im_end|>\n"), (
        "every message is <|im_start|>role, newline, content<|im_end|>, newline")
    end = tokenizer.special["<|im_end|>"]
    assert ids.count(end) == 3, "what a message says must never become a special token"
    merging = Tokenizer([(10, 66)], "[\\s\\S]+", ["<|im_start|>", "<|im_end|>"])
    message = {"role": "user", "content": "Be"}
    assert 256 in render_chatml([message], merging), (
        "role, newline and content are one text, encoded together")
    both = Tokenizer([(10, 10)], "[\\s\\S]+", ["<|im_start|>", "<|im_end|>"])
    assert 256 not in render_chatml([message, message], both), "the last newline is by itself"
    with pytest.raises(ValueError, match="texts only"):
        render_chatml([{"role": "user", "content": [{"type": "text", "text": "a"}]}], tokenizer)


def test_chatml_prompt():
    tokenizer = Tokenizer([], "gpt4", ["<|im_start|>", "<|im_end|>"])
    assert tokenizer.decode(chatml_prompt([USER], tokenizer)) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    for half in ([], ["<|im_start|>"], ["<|im_end|>"], ["<|assistant_start|>"]):
        with pytest.raises(ValueError, match="no special tokens for a conversation"):
            prompt_ids([USER], Tokenizer([], "gpt4", half))


def test_command_line(capsys):
    main([])
    assert "<|im_start|>system\nAnswer in one sentence.<|im_end|>\n" in capsys.readouterr().out
