"""Conversations -> ids and a loss mask.

A chat model reads all of a conversation, but learns only to speak its own part: each id comes
with a mask that says whether it is the assistant's. Special tokens mark who speaks, so that no
text a user types can pretend to be someone else. The format is nanochat's; to talk to models from
elsewhere, ChatML is spoken too.
Left out: more formats, images.

    python 02_data/chats.py gsm8k
    python 02_data/chats.py jsonl:FILE   # {"messages": [{"role": "user", "content": "Hi!"}, ...]}

Reads a source of conversations; prints its first, what is learned in green. Next: duplicates.py.
"""

import itertools
import sys
from pathlib import Path

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from bpe import Tokenizer
from console import Parser, run
from corpus import find_source
from records import in_turns


# What the special tokens of tokenizers from here and elsewhere mean.
BEGIN_NAMES = ("<|bos|>", "<|begin_of_text|>")
END_NAMES = ("<|bos|>", "<|assistant_end|>", "<|endoftext|>", "<|im_end|>", "<|end_of_text|>",
             "<|eot_id|>")


def begin_ids(tokenizer):
    """The ids with which every document begins: one, or none."""
    return [tokenizer.special[name] for name in BEGIN_NAMES if name in tokenizer.special][:1]


def document_start(tokenizer):
    """The id that opens a document in training: where there is no other, GPT-2's <|endoftext|>,
    which stands between documents. ValueError if there is none.
    """
    for name in (*BEGIN_NAMES, "<|endoftext|>"):
        if name in tokenizer.special:
            return [tokenizer.special[name]]
    raise ValueError("the tokenizer has no id to open a document with: none of "
                     f"{', '.join(BEGIN_NAMES)}, <|endoftext|>")


def end_ids(tokenizer):
    """The ids, a set, where a document or an answer ends: there the next one would begin."""
    return {tokenizer.special[name] for name in END_NAMES if name in tokenizer.special}


def render(messages, tokenizer):  # exercise
    """A conversation as (ids, mask), two lists of one length; mask 1: the model learns to say it.

    <|bos|>, which has mask 0, then for every turn of in_turns(messages)
        <|user_start|> parts <|user_end|>              mask 0 on all of it
        <|assistant_start|> parts <|assistant_end|>    mask 0 on the start, 1 on the end
    Content is a string, or a list of parts {"type": "text" | "python" | "output", "text": ...}.
    A python part, a tool call, stands between <|python_start|> and <|python_end|>, an output part,
    what the tool answered, between <|output_start|> and <|output_end|>. The assistant's text and
    tool calls have mask 1, start and end included; the output, which it only reads, has mask 0.
    Text goes through tokenizer.encode(text), so that it never becomes a special token, whatever it
    looks like; tokenizer.special has the ids of those. ValueError for another type of part.
    (Target t is the id at t + 1, so the mask has to move along with it: see batches.py.)
    """
    ids, mask = [], []

    def say(more, learned):
        ids.extend(more)
        mask.extend([int(learned)] * len(more))

    def mark(name, learned):
        say([tokenizer.special[f"<|{name}|>"]], learned)

    mark("bos", False)
    for message in in_turns(messages):
        role, content = message["role"], message["content"]
        own = role == "assistant"
        mark(f"{role}_start", False)
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            kind = part["type"]
            if kind not in ("text", "python", "output"):
                raise ValueError(f"a message has a part of the type {kind!r}; there are text, "
                                 "python and output")
            learned = own and kind != "output"
            if kind != "text":
                mark(f"{kind}_start", learned)
            say(tokenizer.encode(part["text"]), learned)
            if kind != "text":
                mark(f"{kind}_end", learned)
        mark(f"{role}_end", own)
    return ids, mask


def render_chatml(messages, tokenizer):  # exercise
    """The ids of a conversation in ChatML, as SmolLM2 and Qwen know it.

    Every message, a system message too, is <|im_start|>role\\ncontent<|im_end|>\\n, where the two
    marks are special tokens, and the rest is text: role, newline and content encoded together, the
    last newline by itself. ValueError if a content is not a string but a list of parts.
    (SmolLM2 was taught with a system message in front, which is up to the caller here.)
    """
    start, end = (tokenizer.special[f"<|im_{name}|>"] for name in ("start", "end"))
    ids = []
    for message in messages:
        if not isinstance(message["content"], str):
            raise ValueError("ChatML here knows texts only, no tool calls or other parts")
        text = tokenizer.encode(f"{message['role']}\n{message['content']}")
        ids += [start, *text, end, *tokenizer.encode("\n")]
    return ids


def prompt_ids(messages, tokenizer):
    """A conversation so far, and the beginning of the answer, in the format that this tokenizer's
    special tokens speak. ValueError if it speaks neither.
    """
    if "<|assistant_start|>" in tokenizer.special:
        return render(messages, tokenizer)[0] + [tokenizer.special["<|assistant_start|>"]]
    if "<|im_start|>" in tokenizer.special:
        return render_chatml(messages, tokenizer) + [
            tokenizer.special["<|im_start|>"], *tokenizer.encode("assistant\n")]
    raise ValueError("this tokenizer has no special tokens for a conversation; give a plain prompt")


def coloured(ids, mask, tokenizer):
    """The text of a conversation for a terminal: what is learned in green."""
    runs = itertools.groupby(zip(ids, mask), key=lambda pair: pair[1])
    texts = ((learned, tokenizer.decode([i for i, _ in run])) for learned, run in runs)
    return "".join(f"\x1b[32m{text}\x1b[0m" if learned else text for learned, text in texts)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="a source of conversations; 02_data/corpus.py lists them")
    parser.add_argument("--data-dir", default="data", help="where downloads go (default: data)")
    args = parser.parse_args(argv)
    record = next(find_source(args.source, args.data_dir).records(), {})
    if "messages" not in record:
        raise ValueError(f"{args.source} holds texts, not conversations")
    tokenizer = Tokenizer([])  # no merges: every byte is an id of its own
    ids, mask = render(record["messages"], tokenizer)
    print(coloured(ids, mask, tokenizer))
    print(f"\n{sum(mask)} of {len(ids)} ids are learned (an id is a byte here)")


if __name__ == "__main__":
    run(main)
