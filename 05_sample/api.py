"""OpenAI's API without the network: from what a client says to what it gets, JSON both.

There are three addresses: the models there are, the answer to a conversation, and how a text goes
on. An answer is a dict; or, if the client wants to see the text as it is written, a generator of
small ones, one for each part. What is asked is checked before anything is computed, and what is
wrong refused with a sentence, and a status by which programs know whether to try again. Text never
becomes a special token, but for calls of the calculator that a client sends back. The engine here
writes one text at a time; serve.py takes extras/batching.py's, for many, except by hand.

Used by serve.py. Next: serve.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found
import codecs
import math
import secrets
import threading
import time
from collections import deque
from contextlib import closing
from dataclasses import dataclass

import torch

from chat import Memory, Shown, as_written
from conversations import end_ids, prompt_ids
from sample import Sampling, start_of, stream


MOST_TEXTS = 32  # that a request may ask for: prompts times n


class Refusal(Exception):
    """What is wrong with a request: a sentence, the status, the field, and a word for programs."""

    def __init__(self, message, status=400, param=None, code=None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self):
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": dict(message=str(self), type=kind, param=self.param, code=self.code)}


# ---- writing ----
@dataclass
class Request:
    """A text to be written. prompt: ids; tops: with how many alternatives to each id."""

    prompt: list
    n_tokens: int
    sampling: Sampling
    stops: tuple = ()
    tops: int = 0


def alternatives(logits, n):
    """The n likeliest ids of one row of logits, (V,): [(id, log-probability), ...]."""
    values, ids = logits.log_softmax(-1).topk(min(n, len(logits)))
    return [*zip(ids.tolist(), values.tolist())]


class Engine:
    """A model that writes one text at a time. Its cache keeps the last one: a request that goes on
    from there, as the next turn of a conversation does, costs only its new ids.
    """

    together = False

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.memory, self.free = Memory(model, tokenizer), threading.Lock()

    def write(self, request):
        """Yield (the next part of the text, a TextStream), as sample.stream() does. The TextStream
        has `tops`, too: alternatives() to each of its ids, if request.tops. Others wait until the
        text is written, or this generator closed.
        """
        tops = []

        def generate(model, prompts, n_tokens, pick, n_samples):
            def listening(logits):
                if request.tops:
                    tops.append(alternatives(logits[0], request.tops))
                return pick(logits)
            for ids in self.memory.generate(model, prompts, n_tokens, listening, n_samples):
                if not self.memory.answer.own[-1]:  # the calculator's: it was certain
                    pick.logprobs, tops[-1:] = torch.zeros(1), [[]] * bool(request.tops)
                yield ids
        with self.free:
            for _, part, row in stream(self.model, Shown(self.tokenizer), [request.prompt],
                                       request.n_tokens, request.sampling, request.stops,
                                       generate=generate):
                row.tops = tops
                yield part, row

    @torch.inference_mode()
    def score(self, ids, tops):
        """For each id of a text but the first: (its log-probability, alternatives() if tops)."""
        with self.free:
            device, found = self.model.embed.weight.device, []
            x = self.model.hidden(torch.tensor([ids], device=device))[0, :-1]
            for start in range(0, len(x), 256):  # as logits of all may not fit into the memory
                logits = self.model.logits(x[start:start + 256])
                wanted = torch.tensor(ids[start + 1:start + 1 + len(logits)], device=device)
                chosen = logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0].tolist()
                if not math.isfinite(sum(chosen)):
                    raise ValueError("the model predicts nan or infinity: its weights must be "
                                     "damaged")
                found += [(logprob, alternatives(row, tops) if tops else [])
                          for logprob, row in zip(chosen, logits)]
        return found


# ---- what a request says ----
def field(body, name, kind, default=None, least=None, most=None):  # exercise
    """A field of a request's body: the default if it is missing or null. Refusal, which names it
    as its param, if its value isn't of the type `kind` (to float also an int; to nothing but bool a
    bool), or is a number not from `least` to `most` (nan never is).
    """
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, (int, float) if kind is float else kind) or (
            isinstance(value, bool) != (kind is bool)):
        raise Refusal(f"{name} must be of type {kind.__name__}", param=name)
    if least is not None and not least <= value <= most:
        raise Refusal(f"{name} must be from {least:g} to {most:g}", param=name)
    return value


def plain_text(ids, tokenizer):
    """The text of some ids, of which special tokens have none."""
    special = {*tokenizer.special.values()}
    return tokenizer.decode([i for i in ids if i not in special])


def prompts_of(body, tokenizer, size):
    """The prompts of a completion, [(text, ids)]: "prompt" is a string, a list of ids, or a list of
    either. With a "suffix", the text behind the gap that is to be filled (02_data/extras/fim.py).
    """
    given, suffix = body.get("prompt", ""), field(body, "suffix", str, "")
    if isinstance(given, str) or given and isinstance(given, list) and isinstance(given[0], int):
        given = [given]
    if not isinstance(given, list) or not 0 < len(given) <= MOST_TEXTS:
        raise Refusal(f"prompt must be a string, a list of ids, or up to {MOST_TEXTS} of them",
                      param="prompt")
    if suffix and body.get("echo"):
        raise Refusal("a suffix can't be echoed", param="echo")
    if suffix:
        from fim import encode_gap
        if len(given) > 1 or not isinstance(given[0], str):
            raise Refusal("with a suffix, prompt must be a single string", param="prompt")
        return [(given[0], encode_gap(given[0], suffix, tokenizer))]
    prompts = []
    for one in given:
        if not isinstance(one, str) and not (isinstance(one, list) and one and all(
                type(i) is int and 0 <= i < size for i in one)):
            raise Refusal(f"prompt must hold strings, or lists of ids below {size:,}",
                          param="prompt")
        prompts.append((one, start_of(one, tokenizer)) if isinstance(one, str) else
                       (plain_text(one, tokenizer), one))
    return prompts


def stops_of(body):
    """The strings before which a text ends: a tuple, of "stop", which is one or a list."""
    stops = body.get("stop")
    stops = [stops] if isinstance(stops, str) else [] if stops is None else stops
    if not isinstance(stops, list) or len(stops) > 16 or not all(
            isinstance(stop, str) and 0 < len(stop) <= 1000 for stop in stops):
        raise Refusal("stop must be a string or up to 16 of them, none empty", param="stop")
    return tuple(stops)


def messages_of(body, last="user"):
    """The messages of a chat as conversations.py takes them, their contents as strings. Refusal if
    one is none, or if the role of the last is another than `last`.
    """
    messages = field(body, "messages", list, [])
    found = []
    for n, message in enumerate(messages):
        name = f"messages[{n}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refusal(f"{name} must be an object with a role and a content", param="messages")
        content = message.get("content")
        if isinstance(content, list) and all(isinstance(part, dict) and isinstance(
                part.get("text"), str) for part in content):
            content = "".join(part["text"] for part in content)
        if not isinstance(content, str):
            raise Refusal(f"{name}: content must be a string, or a list of parts with a text",
                          param="messages")
        role = {"developer": "system"}.get(message["role"], message["role"])
        if role not in ("system", "user", "assistant"):
            raise Refusal(f"{name}: there is no role {role!r} here", param="messages")
        found.append({"role": role, "content": content})
    if not found or found[-1]["role"] != last:
        raise Refusal(f"messages must end with one of the role {last}", param="messages")
    return found


def requests_of(body, prompts, window, default, tops):
    """n Requests for each prompt, a list of ids: what "n", "seed" and the rest of a body say."""
    n, seed = (field(body, "n", int, 1, 1, 16),
               field(body, "seed", int, secrets.randbelow(2**31), -2**63, 2**63))
    if len(prompts) * n > MOST_TEXTS:
        raise Refusal(f"{len(prompts)} prompts with n = {n} make more than {MOST_TEXTS} texts",
                      param="n")
    stops, how = stops_of(body), {
        "temperature": field(body, "temperature", float, 1.0, 0, 100),
        "top_p": max(1e-30, field(body, "top_p", float, 1.0, 0, 1)),
        "top_k": field(body, "top_k", int, 0, 0, 2**31 - 1),
        "min_p": field(body, "min_p", float, 0.0, 0, 1),
        "repetition_penalty": field(body, "repetition_penalty", float, 1.0, 0.01, 100)}
    asked = field(body, "max_completion_tokens", int, field(body, "max_tokens", int, None, 0,
                                                            2**31), 0, 2**31)
    made = []
    for prompt in prompts:
        room = window - len(prompt)
        if room < (1 if asked is None else min(1, asked)):
            raise Refusal(f"the prompt has {len(prompt):,} ids, too many for the model's window of "
                          f"{window:,}", code="context_length_exceeded")
        n_tokens = min(room, default or room) if asked is None else min(asked, room)
        made += [Request(prompt, n_tokens, Sampling(seed=(seed + i) % 2**59, **how), stops, tops)
                 for i in range(n)]
    return made


# ---- what is answered ----
def token_text(i, tokenizer):
    """An id as a text of its own; "bytes:\\xe2\\x82" if it isn't made of whole characters."""
    data = tokenizer.decode_bytes([i])
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(tokenizer, row, start):
    """Of the ids written from number `start` on, as chat completions have it."""
    def entry(i, logprob):
        return {"token": token_text(i, tokenizer), "logprob": logprob,
                "bytes": [*tokenizer.decode_bytes([i])]}
    ends, tops = end_ids(tokenizer), row.tops or [[]] * len(row.ids)
    return {"content": [entry(i, logprob) | {"top_logprobs": [entry(*pair) for pair in top]}
                        for i, logprob, top in [*zip(row.ids, row.logprobs, tops)][start:]
                        if i not in ends]}


def text_logprobs(tokenizer, ids, logprobs, tops, offset):
    """Of some ids, as completions have it. offset: of the first in the text, in characters."""
    texts, offsets = [token_text(i, tokenizer) for i in ids], []
    decoder, special = codecs.getincrementaldecoder("utf-8")("replace"), tokenizer.special.values()
    for i in ids:
        offsets.append(offset)
        offset += len(decoder.decode(b"" if i in special else tokenizer.decode_bytes([i])))
    named = [{token_text(i, tokenizer): value for i, value in top} if top else None for top in tops]
    return {"tokens": texts, "token_logprobs": [*logprobs], "top_logprobs": named,
            "text_offset": offsets}


def usage_of(requests, rows, n_prompts=1):
    """How many ids were read and written; a prompt counts once, whatever n is."""
    prompts = sum(len(request.prompt) for request in requests[::len(requests) // n_prompts])
    wrote = sum(len(row.ids) for row in rows.values())
    return {"prompt_tokens": prompts, "completion_tokens": wrote, "total_tokens": prompts + wrote}


def written(engine, requests):
    """Yield (number of the request, part of the text, TextStream, how many of its ids earlier parts
    had) until all are written: one text after another, or, if the engine writes them together, a
    part of each in turn.
    """
    writings, shown = deque(), [0] * len(requests)
    try:
        for n, request in enumerate(requests):
            writings.append((n, engine.write(request)))
        while writings:
            n, writing = writings[0]
            for part, row in writing:
                yield n, part, row, shown[n]
                shown[n] = len(row.ids)
                if engine.together:
                    break
            if row.finish:
                writings.popleft()
            else:
                writings.rotate(-1)
    finally:
        for _, writing in writings:
            writing.close()


def choices_of(engine, requests, streamed, make):
    """Yield lists of choices of an answer, each {"index": ..., "finish_reason": ...} | make(n,
    part, row, shown). If streamed, one list for each part of a text, and a last one without text
    that says how it ended. Else None for each part, then one list, of the whole texts. In the end
    the rows, {n: TextStream}.
    """
    rows = {}
    for n, part, row, shown in written(engine, requests):
        rows[n] = row
        if not streamed:
            yield None
        if streamed and (part or not shown):
            yield [{"index": n, **make(n, part, row, shown), "finish_reason": None}]
            shown = len(row.ids)
        if streamed and row.finish:
            yield [{"index": n, **make(n, "", row, shown), "finish_reason": row.finish}]
    if not streamed:
        yield [{"index": n, **make(n, row.text, row, 0), "finish_reason": row.finish}
               for n, row in sorted(rows.items())]
    yield rows


def answer_with(body, engine, requests, kind, head, make, n_prompts=1):
    """Yield the parts of an answer, dicts, if it is to be streamed. Else None as long as the texts
    are being written, so that the caller may give up, then the answer.
    """
    streamed = field(body, "stream", bool, False)
    with_usage = field(field(body, "stream_options", dict, {}), "include_usage", bool, False)
    head = {"id": f"{head}-{secrets.token_hex(12)}", "created": int(time.time()),
            "model": body["model"], "object": kind + ".chunk" * (streamed and "chat" in kind)}
    with closing(choices_of(engine, requests, streamed, make)) as found:
        for choices in found:
            if not isinstance(choices, dict):
                last = choices
                if streamed or choices is None:
                    yield choices and head | {"choices": choices}
                continue
            usage = usage_of(requests, choices, n_prompts)
            if not streamed:
                yield head | {"choices": last, "usage": usage}
            elif with_usage:
                yield head | {"choices": [], "usage": usage}


def chat(server, body):
    """POST /v1/chat/completions: the answer to a conversation."""
    engine, streamed, begun = server.engine(body), field(body, "stream", bool, False), set()
    tokenizer, with_logprobs = engine.tokenizer, field(body, "logprobs", bool, False)
    tops = field(body, "top_logprobs", int, 0, 0, 20) if with_logprobs else 0
    prompt = prompt_ids(as_written(messages_of(body), tokenizer), tokenizer)
    requests = requests_of(body, [prompt], engine.model.config.seq_len, None, tops)

    def make(n, part, row, shown):
        said = {} if n in begun and not part else {"content": part}
        if n not in begun:
            said = {"role": "assistant"} | said
        if streamed:
            begun.add(n)
        return {"delta" if streamed else "message": said, "logprobs": chat_logprobs(
            tokenizer, row, shown) if with_logprobs else None}
    return answer_with(body, engine, requests, "chat.completion", "chatcmpl", make)


def complete(server, body):
    """POST /v1/completions: how texts go on. "echo" returns the prompts, too; with "logprobs", also
    the log-probabilities of their ids.
    """
    engine, n = server.engine(body), field(body, "n", int, 1, 1, 16)
    tokenizer, tops = engine.tokenizer, field(body, "logprobs", int, None, 0, 20)
    echo, config = field(body, "echo", bool, False), engine.model.config
    texts, prompts = zip(*prompts_of(body, tokenizer, config.vocab_size))
    requests = requests_of(body, prompts, config.seq_len, 16, tops or 0)
    scores = [[(None, []), *engine.score(prompt, tops)] if echo and tops is not None else []
              for prompt in prompts]  # before anything is written
    begun = {}

    def make(i, part, row, shown):
        prompt = requests[i].prompt if echo and i not in begun else []
        before = texts[i // n] if prompt else ""
        offset = begun.setdefault(i, 0)
        begun[i] = offset + len(before) + len(part)
        if tops is None:
            return {"text": before + part, "logprobs": None}
        scored = scores[i // n] if prompt else []
        scored = scored + [*zip(row.logprobs, row.tops or [[]] * len(row.ids))][shown:]
        return {"text": before + part, "logprobs": text_logprobs(
            tokenizer, prompt + row.ids[shown:], *zip(*scored), offset) if scored else None}
    return answer_with(body, engine, requests, "text_completion", "cmpl", make, len(prompts))


def list_models(server, body):
    """GET /v1/models."""
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0,
                                        "owned_by": "local"} for name in server.models]}


ROUTES = {("GET", "/v1/models"): list_models, ("POST", "/v1/chat/completions"): chat,
          ("POST", "/v1/completions"): complete}
