"""Many texts at once, which come and go at every step: continuous batching.

A step of decoding reads every weight, whether it writes one id or eight; so texts are written side
by side. They neither begin together nor are equally long. So it is decided before each step who
takes part (Yu et al. 2022, "Orca"): who has ended leaves, and who waits enters, as long as there is
memory. A long prompt is read in pieces, and after each of them all others write an id.

The memory is a pool of cached positions. A text takes them one by one, wherever some are free, as a
program takes pages (Kwon et al. 2023, "PagedAttention"). Texts that begin alike, with the same
system prompt or the same turns, share what they have in common: it is computed once. What an ended
text leaves behind stays until the memory is needed; what was used last stays longest. If nothing is
free, the newest text gives its positions back and waits; what it loses is computed again.

Whoever comes and goes, a text has the ids that it would have alone (api.Engine), wherever the
margin between the two best logits exceeds 1e-4: a batch changes the last bits of a float32, which
decide only where it is that close (or a random number that close to the border between two ids).
Other weights than float32 are rounded more roughly, so that there this is not promised. Left out:
blocks of several positions, and a kernel that reads them where they lie (vLLM); here each step
copies the keys and values of those that write into one tensor.

Used by serve.py. Next: quant.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from queue import SimpleQueue

import torch
import torch.nn.functional as F

from api import Engine, alternatives
from chat import Shown
from conversations import end_ids
from ragged import RaggedCache
from rl import Answer
from sample import Picker, TextStream


class Text:
    """A request's text. ids: the prompt and what was written; slots: where in the Pool the keys and
    values of the ids lie; n_read: how many of them are computed. random, seen: what a Picker needs
    to know of it; parts: what write() passes on.
    """

    def __init__(self, request, tokenizer):
        self.request, self.ids, self.slots, self.n_read = request, [*request.prompt], [], 0
        self.random, self.seen = random.Random(request.sampling.seed), [*request.prompt]
        self.stream = TextStream(Shown(tokenizer), end_ids(tokenizer), request.stops)
        self.answer, self.tops, self.parts = Answer(tokenizer), [], SimpleQueue()
        self.gone = False  # nobody waits for it any more

    @property
    def unread(self):
        return len(self.ids) - self.n_read

    @property
    def ended(self):
        return self.gone or bool(self.stream.finish)

    def add(self, i, logprob, logits):
        """An id was picked, by logits, (V,). What follows is as in Engine.write()."""
        self.seen.append(i)
        if self.request.tops:
            self.tops.append(alternatives(logits, self.request.tops))
        i = self.answer.add(i, 0.0, 0.0)
        if not self.answer.own[-1]:  # the calculator's: it was certain
            logprob, self.tops[-1:] = 0.0, [[]] * bool(self.tops)
        self.ids.append(i)
        self.say(self.stream.add(i, logprob))
        if not self.ended and len(self.stream.ids) == self.request.n_tokens:
            self.say(self.stream.end("length"))

    def say(self, part):
        if part or self.stream.finish:
            self.parts.put((part, len(self.stream.ids), self.stream.finish))

    def fail(self, error):
        self.gone = True
        self.parts.put(error)


# ---- memory ----
class Pool:
    """Keys and values of `size` positions, the slots. A slot belongs to one id of a text, or of
    several texts that are the same up to this id.

    Keys depend on all ids before. So a slot's name is (the slot of the id before or None, its id),
    and the slots of any beginning are found from name to name. users: how many texts use a slot;
    free: the slots without users, in the order in which they will be taken. A free slot keeps its
    name, and can be found, until it is taken. A text's last slots are freed, and so taken, before
    those in front of them: so no name ever begins with a slot that is another text's by now.
    """

    def __init__(self, config, size, dtype=torch.float32, device=None):
        self.size, shape = size, (config.n_layer, size, config.n_kv_head, config.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.users, self.free = [0] * size, dict.fromkeys(range(size))
        self.named, self.names = {}, {}  # {name: slot}, {slot: name}

    def find(self, ids):  # exercise
        """The slots of the longest beginning of a text that is in the pool, but never of all ids:
        the last is always computed, as the next one is chosen by what comes of it.

        ids: a list -> a list of slots. The first is self.named[None, ids[0]], and behind slot s
        comes self.named[s, the next id], as long as there are such names. If self.named is {(None,
        5): 2, (2, 6): 0, (None, 6): 1}, then find([5, 6, 7]) is [2, 0], find([5, 6]) is [2], and
        find([7, 6, 7]) is [].
        """
        slots, last = [], None
        for i in ids[:-1]:
            last = self.named.get((last, i))
            if last is None:
                break
            slots.append(last)
        return slots

    def share(self, text):
        """Give a text that has no slots those that find() finds; their ids count as read."""
        text.slots = self.find(text.ids)
        text.n_read = len(text.slots)
        self.use(text.slots)

    def use(self, slots):
        """One user more."""
        for slot in slots:
            self.users[slot] += 1
            self.free.pop(slot, None)

    def extend(self, text):
        """Give a text slots for all of its ids. False, and nothing is done, if too few are free."""
        missing = len(text.ids) - len(text.slots)
        if missing > len(self.free):
            return False
        new = [*islice(self.free, missing)]
        for slot in new:  # now it is of another text
            self.named.pop(self.names.pop(slot, None), None)
        self.use(new)
        text.slots += new
        return True

    def computed(self, text, n):
        """The next n ids of a text have been computed: from now on their slots can be found."""
        for t in range(text.n_read, text.n_read + n):
            name, own = (text.slots[t - 1] if t else None, text.ids[t]), text.slots[t]
            slot = text.slots[t] = self.named.setdefault(name, own)
            self.names[slot] = name
            if slot != own:  # another text has computed the same: one of the two is enough
                self.use([slot])
                self.leave([own])
        text.n_read += n

    def leave(self, slots):
        """One user less."""
        for slot in slots:
            self.users[slot] -= 1
            if not self.users[slot]:
                self.free[slot] = None  # to be taken last

    def release(self, text):
        """Take back a text's slots."""
        self.leave(reversed(text.slots))
        text.slots, text.n_read = [], 0


class Table(RaggedCache):
    """A RaggedCache whose rows lie in slots of a Pool, for one call of model.hidden() that computes
    T ids of each text. slots: (B, S); shorter rows are filled up with their first slot.
    """

    def __init__(self, pool, texts, T):
        self.keys, self.values, self.size = pool.keys, pool.values, pool.size
        self.texts, self.lengths = texts, [text.n_read for text in texts]
        S, device = self.length + T, pool.keys.device
        self.slots = torch.tensor([(text.slots + text.slots[:1] * S)[:S] for text in texts],
                                  device=device)

    @property
    def ids(self):
        """What ngrams.remember() keeps in a cache, (B, S)."""
        S, device = self.slots.shape[1], self.slots.device
        return torch.tensor([(text.ids + [0] * S)[:S] for text in self.texts], device=device)

    def append(self, layer, k, v):  # exercise
        """Store k, v, (B, G, T, D), in the pool, and return [keys, values] of all self.slots, each
        (B, G, S, D). Those at self.positions(T)[b], (T,), of row b belong into the slots that stand
        there in self.slots[b]. self.keys[layer] and self.values[layer] are (size, G, D).
        """
        new, gathered = self.slots.gather(1, self.positions(k.shape[2])), []  # (B, T)
        for stored, x in ((self.keys[layer], k), (self.values[layer], v)):
            stored[new] = x.transpose(1, 2)
            rows = F.embedding(self.slots, stored.flatten(1))  # stored[self.slots], but faster
            gathered.append(rows.unflatten(2, stored.shape[1:]).transpose(1, 2))
        return gathered


# ---- who takes part in a step ----
class Scheduler:
    """waiting: texts that wait for memory, the first to enter first; running: those that have it,
    the oldest first. most_read: how many ids are read in a step, besides those of texts that write.
    most_running: how many texts run, also if they share all of their memory.
    """

    def __init__(self, pool, most_read, most_running=32):
        self.pool, self.most_read, self.waiting, self.running = pool, most_read, [], []
        self.most_running = most_running

    def texts(self):
        return [*self.running, *self.waiting]

    def enter(self):
        """Let the first that waits run, if there is memory for its ids. Returns whether."""
        if self.waiting and len(self.running) < self.most_running:
            text = self.waiting[0]
            self.pool.share(text)
            if self.pool.extend(text):
                self.running.append(self.waiting.pop(0))
                return True
            self.pool.release(text)
        return False

    def step(self):  # exercise
        """Yield (texts, n) for each call of the model in the next step: the next n ids of each of
        these texts are computed. The caller does so before it asks for more; then n_read and unread
        of the texts have changed, and whoever enters later shares what was read before.

        1. Texts that have `ended` leave both lists, and the pool releases those that were running.
        2. The pool extends the running texts, the oldest first. As long as it can't extend one, the
           newest of all, which may be the same one, stops running: the pool releases it, and it
           becomes the first that waits.
        3. Reading. For each running text, the oldest first, and then for each that can enter():
           ([text], n), where n is all unread ids but one; if n is 0, nothing. The sum of n over a
           step is at most most_read: a larger n is cut. When the sum is most_read, nobody enters.
        4. Writing. (texts, 1) for all running texts that have one unread id by now, if any.
        """
        for text in [text for text in self.running if text.ended]:
            self.running.remove(text)
            self.pool.release(text)
        self.waiting = [text for text in self.waiting if not text.ended]
        b, left = 0, self.most_read
        while b < len(self.running):
            if self.pool.extend(self.running[b]):
                b += 1
            else:
                newest = self.running.pop()
                self.pool.release(newest)
                self.waiting.insert(0, newest)
        b = 0
        while left and (b < len(self.running) or self.enter()):
            text, b = self.running[b], b + 1
            n = min(text.unread - 1, left)
            if n:
                left -= n
                yield [text], n
        if writing := [text for text in self.running if text.unread == 1]:
            yield writing, 1


# ---- writing ----
@contextmanager
def concerning(texts):
    """An error in this block ends these texts, and nothing else."""
    try:
        yield
    except Exception as error:
        for text in texts:
            text.fail(error)


def pick(texts, logits):
    """Add an id to each text, by logits, (B, V). All are picked together, which is faster, but each
    with the Sampling, the random numbers and the seen ids of its text.
    """
    picker = Picker([text.request.sampling for text in texts], [text.seen for text in texts])
    picker.uniforms = [text.random for text in texts]
    try:
        ids = picker(logits).tolist()
    except ValueError:  # not all are finite: whose are not?
        if len(texts) == 1:
            raise
        for b, text in enumerate(texts):
            with concerning([text]):
                pick([text], logits[b:b + 1])
        return
    for text, *picked in zip(texts, ids, picker.logprobs.tolist(), logits):
        with concerning([text]):
            text.add(*picked)


class Batching(Engine):
    """An Engine that writes all texts at the same time. size: how many positions are cached, by
    default 8,192, or a window if that is more; most_read: see Scheduler.

    A thread of its own does all that concerns the model, one task after the other: each step is a
    task, which submits the next one, as long as there are texts; between them, texts enter, and
    score() is computed. Without tasks the thread sleeps.
    """

    together = True

    def __init__(self, model, tokenizer, size=None, most_read=128):
        self.model, self.tokenizer, self.free = model, tokenizer, threading.Lock()
        weight, window = model.embed.weight, model.config.seq_len
        self.pool = Pool(model.config, size or max(8192, window), weight.dtype, weight.device)
        self.scheduler, self.worker = Scheduler(self.pool, most_read), ThreadPoolExecutor(1)
        self.stepping = False  # whether a step is submitted

    def write(self, request):
        """As Engine.write(), but the text is begun now, not when its first part is asked for.
        ValueError if it can never fit: into the window, or into all of the pool.
        """
        room = min(self.pool.size, self.model.config.seq_len)
        if not request.prompt:
            raise ValueError("a prompt is empty: give it at least <|bos|>")
        if len(request.prompt) + request.n_tokens - 1 > room:  # the last id is never read
            raise ValueError(f"{len(request.prompt):,} ids and {request.n_tokens:,} more don't fit "
                             f"into {room:,} positions")
        text = Text(request, self.tokenizer)
        if request.n_tokens:
            self.worker.submit(self.begin, text)
        else:
            text.say(text.stream.end("length"))
        parts = self.parts(text)
        next(parts)
        return parts

    def parts(self, text):
        """Yield (part, TextStream) as they come, the first time nothing: from then on, to close
        this generator ends the text. The TextStream has what was written up to this part.
        """
        seen = TextStream(text.stream.tokenizer)
        seen.tops = []
        try:
            yield
            while not seen.finish:
                found = text.parts.get()
                if isinstance(found, Exception):
                    raise type(found)(*found.args) from None  # others raise it in their threads
                part, n, seen.finish = found
                for mine, all_ids in ((seen.ids, text.stream.ids), (seen.tops, text.tops),
                                      (seen.logprobs, text.stream.logprobs)):
                    mine += all_ids[len(mine):n]
                seen.text += part
                yield part, seen
        finally:
            text.gone = True

    def begin(self, text):
        self.scheduler.waiting.append(text)
        if not self.stepping:
            self.stepping = True
            self.worker.submit(self.step)

    @torch.inference_mode()
    def step(self):
        """Compute a step, then submit the next one, if there are texts."""
        with self.free, concerning(self.scheduler.texts()):  # if it's unknown who takes part, all
            for texts, n in self.scheduler.step():
                with concerning(texts):
                    x = self.read(texts, n)
                    if not texts[0].unread:
                        pick(texts, self.model.logits(x))
        self.stepping = not all(text.ended for text in self.scheduler.texts())
        if self.stepping:
            self.worker.submit(self.step)

    def read(self, texts, n):
        """Compute the next n ids of each text. Returns model.hidden() at the last, (B, C)."""
        ids = [text.ids[text.n_read:text.n_read + n] for text in texts]
        ids = torch.tensor(ids, device=self.pool.keys.device)
        x = self.model.hidden(ids, Table(self.pool, texts, n))[:, -1]
        for text in texts:
            self.pool.computed(text, n)
        return x

    def score(self, ids, tops):
        return self.worker.submit(super().score, ids, tops).result()

    def end(self):
        """End the thread, after the step that it is in. Texts that aren't ended get an error."""
        self.worker.shutdown()
        for text in self.scheduler.texts():
            text.fail(ValueError("the model is no longer served"))
