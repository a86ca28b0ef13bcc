"""Conversations in ChatML, the format of SmolLM2 and Qwen: each message between two special tokens.

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


def render_chatml(messages, tokenizer):  # exercise
    """The ids of a conversation in ChatML.

    Every message, a system message too, is <|im_start|>role\\ncontent<|im_end|>\\n. The two marks
    are special tokens; all else is text: role, newline and content are encoded together, the last
    newline alone. ValueError if a content is not a string but a list of parts.
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


def chatml_prompt(messages, tokenizer):
    """The ids of a conversation so far and of the beginning of an answer."""
    if not {"<|im_start|>", "<|im_end|>"} <= tokenizer.special.keys():
        raise ValueError("this tokenizer has no special tokens for a conversation; give a plain "
                         "prompt")
    return render_chatml(messages, tokenizer) + [
        tokenizer.special["<|im_start|>"], *tokenizer.encode("assistant\n")]


def main(argv=None):
    Parser(description=__doc__.splitlines()[0]).parse_args(argv)
    tokenizer = Tokenizer([], special_tokens=("<|im_start|>", "<|im_end|>"))
    print(tokenizer.decode(render_chatml(EXAMPLE, tokenizer)), end="")


if __name__ == "__main__":
    run(main)
