"""Ids that become characters on a screen, as soon as it is certain that they will stay.

Two things make that less simple than it sounds. An id may end in the middle of a character, so half
a character has to wait for its other half. And a text may have to end before a certain string,
which comes in pieces: what may be its beginning has to wait until it is, or is not.
Left out: choosing the ids (sample.py).

Used by sample.py. Next: lookup.py.
"""

import codecs
from dataclasses import dataclass, field


class TextStream:
    """Ids in, text out, piece by piece, never half a character: an id may end in the middle of one.

    decode_bytes: a tokenizer's method of that name.
    """

    def __init__(self, decode_bytes):
        self.decode_bytes = decode_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids):  # exercise
        """The text that is complete after these further ids, "" if none is; bytes that can't
        become a character come out as U+FFFD. self.decoder keeps the rest.
        """
        return self.decoder.decode(self.decode_bytes(ids))

    def end(self):
        """What is left over at the end: U+FFFD for a character that never became whole."""
        return self.decoder.decode(b"", final=True)


def held_back(text, stops):  # exercise
    """How many characters at the end of `text` may be the beginning of one of the strings `stops`.

    held_back("a\\n", ["\\n\\n", "END"]) is 1, held_back("THE EN", ["\\n\\n", "END"]) is 2.
    """
    return max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])),
               default=0)


@dataclass
class Completion:
    """A text as it is written."""

    prompt: list
    text: str = ""  # without the stop string
    ids: list = field(default_factory=list)  # all that were generated
    logprobs: list = field(default_factory=list)  # of each, under the model as it is
    finish: str = ""  # "stop" or "length", when it is done


class Writer:
    """What comes of one row: its Completion, and what of its text may be shown already."""

    def __init__(self, prompt, tokenizer, end_ids, stops):
        self.done, self.stream = Completion(prompt), TextStream(tokenizer.decode_bytes)
        self.end_ids, self.stops, self.pending = end_ids, stops, ""

    def push(self, i, logprob):
        """The text to show after another id: "" as long as it may become something else."""
        self.done.ids.append(i)
        self.done.logprobs.append(logprob)
        if i in self.end_ids:
            return self.end("stop")
        self.pending += self.stream.push([i])
        found = [at for stop in self.stops if (at := self.pending.find(stop)) >= 0]
        if found:
            self.pending = self.pending[:min(found)]
            self.stream.decoder.reset()  # half a character after the stop string is not wanted
            return self.end("stop")
        return self.show(len(self.pending) - held_back(self.pending, self.stops))

    def end(self, finish):
        """The text that is left to show at the end."""
        self.done.finish = finish
        self.pending += self.stream.end()
        return self.show(len(self.pending))

    def show(self, n):
        text, self.pending = self.pending[:n], self.pending[n:]
        self.done.text += text
        return text
