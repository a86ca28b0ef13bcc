"""Talk to a model in the terminal.

A model remembers nothing: with each question it is given the whole conversation so far. But of that
it has read all but the last question before, or written it itself, and the keys and values of these
ids are still in the KV cache. So a turn costs no more than its new ids, however long it goes on.
When the window is full, the oldest turns are forgotten, and what stays is read again, as it stands
at other positions. A base model, which has never seen a conversation, continues your text instead.

    python 05_sample/chat.py --run sft
    python 05_sample/chat.py --weights FOLDER --system "Answer in one sentence."

Reads the newest run, or --run, or --weights, and what you type; /help lists commands. Ctrl-C ends
an answer. /save appends to a file that --data jsonl:FILE reads. Next: api.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import (Parser, StopSignal, add_options, escaped, option, read_text, run,
                     write_safely)
import contextlib
import itertools
import json
import re
import signal
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from conversations import calculate, end_ids, prompt_ids
from gpt import KVCache
from rl import Answer
from sample import RunOptions, Sampling, start_of, stream

TOOL = {"<|python_start|>": "[", "<|python_end|>": "", "<|output_start|>": " = ",
        "<|output_end|>": "]"}  # how a call of the calculator is shown: [48/2 = 24]
COMMANDS = """/reset          forget the conversation
/system TEXT    an instruction before the conversation; without TEXT, none
/temperature T  0: always the likeliest id
/save FILE      append the conversation to a file, as a line of JSON
/quit           or Ctrl-D
Ctrl-C ends an answer once its prompt is read; a second one ends the program"""


class Shown:
    """A tokenizer that only turns ids into the text that a reader sees, with tool calls in []."""

    def __init__(self, tokenizer):
        self.tokenizer, self.special, self.ends = tokenizer, tokenizer.special, end_ids(tokenizer)
        self.marks = {self.special[name]: mark.encode() for name, mark in TOOL.items()
                      if name in self.special}

    def decode_bytes(self, ids):
        return b"".join(self.marks[i] if i in self.marks else self.tokenizer.decode_bytes([i])
                        for i in ids)


class Memory:
    """What a model has read of a text that goes on: its ids, and a KVCache that holds the first
    cache.length of them. n_read: how many ids were read, in all.
    """

    def __init__(self, model, tokenizer):
        self.tokenizer, self.ids, self.n_read, weight = tokenizer, [], 0, model.embed.weight
        self.cache = KVCache(model.config, 1, None, weight.dtype, weight.device)

    @torch.inference_mode()
    def generate(self, model, prompts, n_tokens, pick, n_samples=1):  # exercise
        """gpt.generate() for one prompt, a list of ids, of which only what is new is read.

        1. Lower cache.length to the number of ids that the prompt has in common with those in the
           cache, from the first on, and to less than the prompt's length: the last is always read.
           self.ids becomes a copy of the prompt.
        2. n_tokens times: read those of self.ids that are not in the cache, (1, new), by
           model.hidden(), and add their number to self.n_read; pick() from the last logits, (1, V);
           give the id, 0.0 and 0.0 to self.answer, a new rl.Answer: add() calls the calculator;
           append what that returns to self.ids, then yield it, (1,).
        """
        prompt, held = prompts[0], self.ids[:self.cache.length]
        same = next((n for n, (a, b) in enumerate(zip(held, prompt)) if a != b), len(held))
        self.cache.length, self.ids = min(same, len(prompt) - 1), [*prompt]
        answer = self.answer = Answer(self.tokenizer)
        for _ in range(n_tokens):
            new = torch.tensor([self.ids[self.cache.length:]], device=self.cache.keys.device)
            x = model.hidden(new, self.cache)[:, -1]
            self.n_read += new.shape[1]
            i = answer.add(pick(model.logits(x)).item(), 0.0, 0.0)
            self.ids.append(i)
            yield torch.tensor([i])


def next_turn(text, tokenizer):  # exercise
    """The ids between the last word of an answer and the first of the next, if a user says `text`.

    First comes the id that ends an answer. They are a part of prompt_ids() of three messages, of
    which the first two are empty: what is behind the ids of prompt_ids() of the first alone. So
    this holds for every format. In nanochat's they are <|assistant_end|> <|user_start|> text
    <|user_end|> <|assistant_start|>.
    """
    empty = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}]
    whole = prompt_ids([*empty, {"role": "user", "content": text}], tokenizer)
    return whole[len(prompt_ids(empty[:1], tokenizer)):]


class Chat:
    """A conversation. turns: [(what was said, the ids of the answer, without an end id), ...], the
    oldest first. as_chat: False if the model continues what is said, as one text.
    """

    def __init__(self, model, tokenizer, sampling=Sampling(), n_tokens=500, as_chat=True):
        self.model, self.tokenizer, self.sampling = model, tokenizer, sampling
        self.n_tokens, self.as_chat, self.system, self.turns = n_tokens, as_chat, "", []
        self.memory, self.n_answers = Memory(model, tokenizer), 0
        self.finish, self.forgotten = "", 0  # of the last answer

    def prompt(self, turns, text):  # exercise
        """The ids of some turns, and of `text`, up to where the model begins to answer it.

        In a chat prompt_ids() of the first text as a user's message, behind self.system as a
        system's (if that isn't empty); then each answer, and next_turn() of the text behind it.
        Else start_of(the first text), then each answer, and the tokenizer's ids of the text behind.
        """
        first, *later = [*(said for said, _ in turns), text]
        if self.as_chat:
            system = [{"role": "system", "content": self.system}] if self.system else []
            ids = prompt_ids([*system, {"role": "user", "content": first}], self.tokenizer)
        else:
            ids = start_of(first, self.tokenizer)
        for (_, answer), said in zip(turns, later):
            ids = ids + answer + (next_turn(said, self.tokenizer) if self.as_chat else
                                  self.tokenizer.encode(said))
        return ids

    def make_room(self, text):  # exercise
        """Forget the oldest turns, if the prompt for `text` doesn't leave room in the window for
        n_tokens ids, or for half a window if that is less. Then as many as bring it down to half a
        window, if that can be: not every turn after is to be read from the beginning. Returns (the
        prompt, how many turns were forgotten). ValueError "too long" if `text` alone leaves no
        room; then no turn is forgotten.
        """
        window = self.model.config.seq_len
        most = window - min(self.n_tokens, window // 2)
        prompts = [self.prompt(self.turns[n:], text) for n in range(len(self.turns) + 1)]
        if len(prompts[-1]) > most:
            raise ValueError(f"too long: this has {len(prompts[-1]):,} ids, and with room for an "
                             f"answer only {most:,} fit into the model's window of {window:,}")
        most = most if len(prompts[0]) <= most else max(window // 2, len(prompts[-1]))
        n = next(n for n, ids in enumerate(prompts) if len(ids) <= most)
        self.turns = self.turns[n:]
        return prompts[n], n

    def answer(self, text, stopped=lambda: False):
        """Yield the answer in parts, as it is written, until stopped() is true after an id. What
        was written stays in the conversation, also if the caller ends this early. Sets
        self.forgotten, a number of turns, and at the end self.finish, "stop" or "length".
        """
        prompt, self.forgotten = self.make_room(text)
        sampling = replace(self.sampling, seed=self.sampling.seed + self.n_answers)
        most = min(self.n_tokens, self.model.config.seq_len - len(prompt))
        ends, self.finish, self.n_answers = end_ids(self.tokenizer), "", self.n_answers + 1

        def generate(*given):
            for ids in self.memory.generate(*given):
                yield ids
                if stopped():
                    return
        try:
            for _, part, row in stream(self.model, Shown(self.tokenizer), [prompt], most, sampling,
                                       generate=generate):
                self.finish = row.finish
                yield part
        except ValueError:  # the model is damaged
            text = None
            raise
        finally:
            written = [i for i in self.memory.ids[len(prompt):] if i not in ends]
            self.turns += [(text, written)] if text is not None else []

    def messages(self):
        """The conversation as messages, as conversations.py reads them."""
        said = [{"role": "system", "content": self.system}] if self.system else []
        for text, answer in self.turns:
            said += [{"role": "user", "content": text},
                     {"role": "assistant", "content": parts_of(answer, self.tokenizer)}]
        return said


def parts_of(ids, tokenizer):
    """What the ids of an answer say: a string; if it calls the calculator, a list of parts."""
    names = {tokenizer.special[name]: name for name in TOOL if name in tokenizer.special}
    parts, kind = [], "text"
    for name, span in itertools.groupby(ids, key=names.get):
        if name:
            kind = name[2:].partition("_start")[0] if "_start" in name else "text"
        else:
            parts.append({"type": kind, "text": tokenizer.decode([*span])})
    return parts if len(parts) > 1 else "".join(part["text"] for part in parts)


def with_calls(text):
    """What parts_of() returned, from the text that Shown made of it: a call that has the value that
    stands behind it becomes parts again, so that the model reads what it wrote.
    """
    parts = []
    for i, piece in enumerate(re.split(r"\[([^][=]+) = ([^][]+)\]", text)):
        parts.append({"type": ("text", "python", "output")[i % 3], "text": piece})
    for call, value in zip(parts[1::3], parts[2::3]):
        if calculate(call["text"]) != value["text"]:
            return text
    return [part for part in parts if part["text"]] if len(parts) > 1 else text


def as_written(messages, tokenizer):
    """Messages in which calls of the calculator are again what the model wrote: with_calls()."""
    if "<|python_start|>" not in tokenizer.special:
        return messages
    return [message | {"content": with_calls(message["content"])}
            if message["role"] == "assistant" else message for message in messages]


def has_learned(folder, config):
    """Whether a model was trained on conversations: a run, as its config says, or one from
    elsewhere whose folder brings a format for them.
    """
    if (path := Path(folder) / "tokenizer_config.json").exists():
        return "chat_template" in read_text(path) or path.with_name("chat_template.jinja").exists()
    return (config.sampling in ("conversations", "answers", "pairs")
            or any("loss=all" in name for name in config.data))


# ---- the terminal ----
def obey(chat, line):
    """Do what a line that begins with / says; returns what to print. ValueError if it can't."""
    command, _, rest = line.strip().partition(" ")
    if command == "/reset":
        chat.turns = []
        return "forgotten"
    if command == "/system":
        if not chat.as_chat:
            raise ValueError("the model continues a text, which has no instruction before it")
        chat.system = rest
        return "from now on this stands before the conversation" if rest else "no instruction"
    if command == "/temperature":
        try:
            chat.sampling = replace(chat.sampling, temperature=float(rest))
        except ValueError:
            raise ValueError(f"temperature is {rest!r}, but must be a number from 0 on") from None
        return f"temperature {chat.sampling.temperature:g}"
    if command == "/save" and rest:
        if not chat.turns:
            raise ValueError("there is nothing to save yet")
        before = read_text(rest) if os.path.exists(rest) else ""
        before += "\n" * bool(before and not before.endswith("\n"))
        write_safely(rest, before + json.dumps({"messages": chat.messages()}) + "\n")
        return f"appended to {rest}"
    return COMMANDS


def reply(chat, text):
    """Print the answer to a text, until Ctrl-C. Returns the signal that stopped it, or 0."""
    with StopSignal() as stop:
        for part in chat.answer(text, lambda: stop.asked):
            if chat.forgotten:
                print(f"[the window is full; forgotten: {chat.forgotten} of the oldest turns]")
                chat.forgotten = 0
            print("\t".join(map(escaped, part.split("\t"))), end="", flush=True)
    print(" [stopped]" if stop.asked else " [cut off]" if chat.finish == "length" else "")
    return stop.asked


@dataclass
class Options(Sampling, RunOptions):
    weights: str = option("", "a Hugging Face folder, read instead of a run")
    mode: str = option("auto", "chat: it answers; text: it continues what you type; auto: by what "
                       "it was trained on", ("auto", "chat", "text"))
    system: str = option("", "an instruction that stands before the conversation")
    tokens: int = option(500, "the most ids of an answer", least=1)
    weights_as: str = option("float32", "large models are fastest in int8 or int4, but less exact",
                             ("float32", "bfloat16", "int8", "int4"))


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    folder, model, tokenizer, config, step = options.load()
    if options.weights_as != "float32" or not model.config.by_hand:
        from quant import pack
        model = pack(model, options.weights_as, rows=1)
    as_chat = options.mode == "chat" or options.mode == "auto" and has_learned(folder, config)
    sampling = Sampling(**{f.name: getattr(options, f.name) for f in fields(Sampling)})
    chat = Chat(model, tokenizer, sampling, options.tokens, as_chat)
    chat.system, typed = options.system, sys.stdin.isatty()
    print(escaped(f"{folder}{'' if step is None else f', step {step}'}: " + (
        "" if as_chat else "it was not trained on conversations, so it continues your text; ")
        + "/help lists commands, Ctrl-C ends an answer"))
    if typed:
        with contextlib.suppress(ImportError):  # not on every system
            import readline  # noqa: F401, with which input() has a history
    with contextlib.suppress(EOFError):
        while True:
            with StopSignal() as stop:  # one Ctrl-C at the prompt does nothing, two end this
                line = input("\n> " if typed else "")
            if line.strip() == "/quit" or stop.asked == signal.SIGTERM:
                return
            try:
                if line.startswith("/"):
                    print(escaped(obey(chat, line)))
                elif (line.strip() or not as_chat) and reply(chat, line) == signal.SIGTERM:
                    return
            except (ValueError, OSError) as error:
                print(escaped(f"error: {error}"))


if __name__ == "__main__":
    run(main)
