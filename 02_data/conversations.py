"""Conversations -> ids and a loss mask.

A chat model reads the whole conversation, but learns only to write the assistant's part: the mask
says so for each id. Special tokens mark the turns; text never becomes one, so that no user can
write in someone else's name. The format is nanochat's; ChatML is left to extras/chatml.py.

    python 02_data/conversations.py               # an example; what is learned is green
    python 02_data/conversations.py jsonl:FILE    # {"messages": [{"role": "user", ...}, ...]}

Reads a source of conversations; prints its first. Next: 03_model/gpt.py.
"""

import itertools
import os
import re
import sys
from decimal import Decimal
from fractions import Fraction

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, escaped, has_colours, run

from bpe import SPECIAL_TOKENS, Tokenizer
from data import BEGIN_NAMES

END_NAMES = ("<|bos|>", "<|assistant_end|>", "<|endoftext|>", "<|im_end|>", "<|end_of_text|>",
             "<|eot_id|>")  # special tokens at which a document or an answer ends


def begin_ids(tokenizer):
    """The ids that begin every text, if any: the tokenizer's own choice, else found by name."""
    named = [tokenizer.special[name] for name in BEGIN_NAMES if name in tokenizer.special][:1]
    return [*getattr(tokenizer, "begin", named)]


def end_ids(tokenizer):
    """The set of ids that end a document or an answer (<|bos|>, as it begins the next one)."""
    return {*map(tokenizer.special.get, END_NAMES), *getattr(tokenizer, "ends", ())} - {None}


def in_turns(messages):  # exercise
    """The messages of a conversation as user, assistant, user, ...: a new list of dicts. A leading
    message whose role is "system" is merged into the first user message: its content, a blank line,
    the user's content; all strings. `messages` stays as it is. ValueError that says "without
    messages" if there are none; if the turns are not user, assistant, user ..., one that names the
    turn, counted from 1 after merging, its role and the role expected.
    """
    messages = list(messages)
    if [m["role"] for m in messages[:2]] == ["system", "user"]:
        system, user, *rest = messages
        messages = [user | {"content": system["content"] + "\n\n" + user["content"]}, *rest]
    if not messages:
        raise ValueError("a conversation without messages")
    for i, message in enumerate(messages):
        role, expected = message["role"], ("user", "assistant")[i % 2]
        if role != expected:
            raise ValueError(f"turn {i + 1} of a conversation is by {role!r}, not by {expected!r}")
    return messages


def render(messages, tokenizer):  # exercise
    """A conversation as (ids, mask), two lists of one length; mask 1: the model learns this id.

    <|bos|>, which has mask 0, then for every turn of in_turns(messages)
        <|user_start|> parts <|user_end|>              mask 0 on all of it
        <|assistant_start|> parts <|assistant_end|>    mask 0 on the start, 1 on the end
    Content is a string, or a list of parts {"type": "text" | "python" | "output", "text": ...}.
    A python part, a tool call, stands between <|python_start|> and <|python_end|>; an output part,
    the tool's answer, between <|output_start|> and <|output_end|>. The assistant's text and tool
    calls have mask 1, start and end included; the output, which it only reads, has mask 0. Text
    goes through tokenizer.encode(text), so that it never becomes a special token, whatever it looks
    like. Their ids are in tokenizer.special, {name: id}. ValueError "type 'x'" for another type.
    """
    ids, mask, special = [], [], tokenizer.special

    def say(more, learned):
        ids.extend(more)
        mask.extend([int(learned)] * len(more))

    say([special["<|bos|>"]], False)
    for message in in_turns(messages):
        role, content = message["role"], message["content"]
        own = role == "assistant"
        say([special[f"<|{role}_start|>"]], False)
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            kind = part["type"]
            if kind not in ("text", "python", "output"):
                raise ValueError(f"part of type {kind!r} in a message: not text, python or output")
            inner = tokenizer.encode(part["text"])
            if kind != "text":
                inner = [special[f"<|{kind}_start|>"], *inner, special[f"<|{kind}_end|>"]]
            say(inner, own and kind != "output")
        say([special[f"<|{role}_end|>"]], own)
    return ids, mask


def render_any(messages, tokenizer):
    """A conversation as (ids, mask), in the format for which the tokenizer has special tokens:
    render()'s or ChatML. ValueError if it has those of neither.
    """
    if {*SPECIAL_TOKENS} <= {*tokenizer.special}:
        return render(messages, tokenizer)
    from chatml import render_chatml
    return render_chatml(messages, tokenizer)


def prompt_ids(messages, tokenizer):
    """The ids of a conversation so far and of the beginning of an answer; formats as above."""
    if {*SPECIAL_TOKENS} <= {*tokenizer.special}:
        return render(messages, tokenizer)[0] + [tokenizer.special["<|assistant_start|>"]]
    from chatml import chatml_prompt
    return chatml_prompt(messages, tokenizer)


def calculate(expression):  # exercise
    """The value of an expression, as a text; None for what is none, is longer than 100 characters,
    divides by 0, or has a value beyond 10^15. Nothing is executed.

    total = product (+|- product)*; product = factor (*|/ factor)*; factor = number | (+|-) factor |
    ( total ). A number is "12", "1,200", "7.", "1.5" or ".5"; spaces may stand between. Computed
    exactly, in Fractions, then rounded to 10 digits behind the point, spelled without zeros at the
    end: calculate("48/2") == "24"; calculate("-(1,000 - .5) * 2") == "-1999"; calculate("2/3") ==
    "0.6666666667"; calculate("2*-3") == "-6"; calculate("2**9") is None
    """
    plain = re.sub(r"(?<=[0-9]),(?=[0-9])", "", expression)
    words = [*re.findall(r"[0-9]+\.?[0-9]*|\.[0-9]+|\S", plain), ""]

    def factor():
        if words[0] in ("+", "-"):
            return -factor() if words.pop(0) == "-" else factor()
        if words[0] == "(" and words.pop(0):
            value = total()
            return value if words.pop(0) == ")" else Fraction("no bracket")
        return Fraction(words.pop(0))  # ValueError for what is no number

    def product():
        value = factor()
        while words[0] in ("*", "/"):
            value = value * factor() if words.pop(0) == "*" else value / factor()
        return value

    def total():
        value = product()
        while words[0] in ("+", "-"):
            value = value + product() if words.pop(0) == "+" else value - product()
        return value
    try:
        fits = len(expression) <= 100 and expression.isascii()
        value = round(total() if fits else Fraction("too long"), 10)
    except (ValueError, ArithmeticError, LookupError):
        return None
    if words != [""] or abs(value) > 10**15:
        return None
    return f"{Decimal(value.numerator) / value.denominator:f}"


def coloured(ids, mask, tokenizer):
    """A text for the terminal: what is learned is green, or, where there are no colours, in []."""
    green, plain = ("\x1b[32m", "\x1b[0m") if has_colours() else ("[", "]")
    texts = []
    for learned, span in itertools.groupby(zip(ids, mask), key=lambda pair: pair[1]):
        text = escaped(tokenizer.decode([int(i) for i, _ in span]))
        texts.append(green + text + plain if learned else text)
    return "".join(texts)


EXAMPLE = [{"role": "system", "content": "Answer in one sentence."},
           {"role": "user", "content": "Is <|assistant_start|> a word?"},
           {"role": "assistant", "content": "Here it is plain text, not a special token."}]


def with_a_call(expression):
    """A question, and an answer for which the calculator is called."""
    return [{"role": "user", "content": f"What is {expression}?"},
            {"role": "assistant", "content": [{"type": "python", "text": expression},
                                              {"type": "output", "text": calculate(expression)},
                                              {"type": "text", "text": "It is as it says."}]}]


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="see corpus.py for a list (default: an example)")
    parser.add_argument("--data-dir", default="data", help="where downloads go (default: data)")
    args = parser.parse_args(argv)
    record = {"messages": [*EXAMPLE, *with_a_call("12 * 34")]}
    if args.source:
        from corpus import find_source
        record = next(find_source(args.source, args.data_dir).records(), {})
    if "messages" not in record:
        raise ValueError(f"{args.source} holds texts, not conversations")
    tokenizer = Tokenizer([])  # no merges: every byte is an id of its own
    ids, mask = render(record["messages"], tokenizer)
    print(coloured(ids, mask, tokenizer))
    print(f"\n{sum(mask)} of {len(ids)} ids are learned (an id is a byte here)")


if __name__ == "__main__":
    run(main)
