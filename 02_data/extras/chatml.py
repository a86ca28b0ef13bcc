"""Conversations in ChatML, the format of SmolLM2 and Qwen: each message between two special tokens.

ChatML has no special tokens for tools. A tool call is text here, written as GSM8K writes it.

    python 02_data/extras/chatml.py               # the example of conversations.py

Used by conversations.py, for tokenizers that have these tokens. Next: records.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run

from bpe import Tokenizer
from conversations import EXAMPLE


PARTS = {"text": "{}", "python": "<<{}=", "output": "{}>>"}  # how a part is written as text


def as_text(content):
    """A message's content, a string or a list of parts, as one text: what records.with_calculator()
    takes apart. A tool call and its output become <<48/2=24>>; one that has no output yet, <<48/2=.
    ValueError "type 'x'" for a part of another type.
    """
    if isinstance(content, str):
        return content
    for part in content:
        if part["type"] not in PARTS:
            raise ValueError(f"part of type {part['type']!r} in a message: not {', '.join(PARTS)}")
    return "".join(PARTS[part["type"]].format(part["text"]) for part in content)


def marks(tokenizer):
    """The ids of <|im_start|> and <|im_end|>. ValueError if the tokenizer lacks one of them."""
    if not {"<|im_start|>", "<|im_end|>"} <= tokenizer.special.keys():
        raise ValueError("this tokenizer has no special tokens for a conversation, neither the "
                         "nine of conversations.py nor ChatML's two; give it plain text")
    return tokenizer.special["<|im_start|>"], tokenizer.special["<|im_end|>"]


def render_chatml(messages, tokenizer):  # exercise
    """A conversation in ChatML as (ids, mask), two lists of one length; mask 1: it is learned.

    Every message, a system message too, is <|im_start|>role\\ncontent<|im_end|>\\n. The ids of the
    two special tokens are marks(tokenizer); all else is text, the content as as_text() writes it,
    and goes through tokenizer.encode(). Of a user or system, role, newline and content are encoded
    together. Of the assistant "assistant\\n" is encoded alone, since generation begins after it;
    then the content. The last newline is always encoded alone. Mask 1 is on the assistant's content
    and on the <|im_end|> behind it, and on nothing else.
    (SmolLM2 was trained with a system message in front; adding it is left to the caller.)
    """
    start, end = marks(tokenizer)
    ids, mask = [], []

    def say(more, learned):
        ids.extend(more)
        mask.extend([learned] * len(more))

    for message in messages:
        header, text = f"{message['role']}\n", as_text(message["content"])
        if message["role"] == "assistant":
            say([start, *tokenizer.encode(header)], 0)
            say([*tokenizer.encode(text), end], 1)
        else:
            say([start, *tokenizer.encode(header + text), end], 0)
        say(tokenizer.encode("\n"), 0)
    return ids, mask


def chatml_prompt(messages, tokenizer):
    """The ids of a conversation so far and of the beginning of an answer."""
    start, _ = marks(tokenizer)
    return render_chatml(messages, tokenizer)[0] + [start, *tokenizer.encode("assistant\n")]


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    tokenizer = Tokenizer([], special_tokens=("<|im_start|>", "<|im_end|>"))
    print(tokenizer.decode(render_chatml(EXAMPLE, tokenizer)[0]), end="")


if __name__ == "__main__":
    run(main)
