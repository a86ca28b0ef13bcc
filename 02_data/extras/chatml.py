"""Conversations in ChatML, the format of SmolLM2 and Qwen: each message between two special tokens.

    python 02_data/conversations.py --format chatml

Used by conversations.py, for tokenizers that have these tokens. Next: records.py.
"""

import os
import sys
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
here = Path(__file__).resolve().parent
root = next((p for p in here.parents if (p / "01_tokenizer").is_dir()), here)
sys.path.insert(sys.path.index(os.path.dirname(os.__file__)) + 1, str(root / "01_tokenizer"))

import console  # noqa: F401, first: it makes the others be found

from bpe import Tokenizer


def render_chatml(messages, tokenizer):  # exercise
    """The ids of a conversation in ChatML.

    Every message, a system message too, is <|im_start|>role\\ncontent<|im_end|>\\n. The two marks
    are special tokens; the rest is text: role, newline and content encoded together, the last
    newline by itself. ValueError if a content is not a string but a list of parts.
    (SmolLM2 was trained with a system message in front; adding it is left to the caller.)
    """
    start, end = (tokenizer.special[f"<|im_{name}|>"] for name in ("start", "end"))
    ids = []
    for message in messages:
        if not isinstance(message["content"], str):
            raise ValueError("in ChatML, messages are texts only here, without tool calls or parts")
        text = tokenizer.encode(f"{message['role']}\n{message['content']}")
        ids += [start, *text, end, *tokenizer.encode("\n")]
    return ids


def as_text(messages):
    """The text of a conversation in ChatML."""
    tokenizer = Tokenizer([], special_tokens=("<|im_start|>", "<|im_end|>"))
    return tokenizer.decode(render_chatml(messages, tokenizer))
