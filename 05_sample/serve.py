"""A model behind an address: for a browser, and for every program that speaks OpenAI's API.

A request is a POST with a body of JSON; so is the answer, or, with "stream": true, a sequence of
server-sent events, each a line `data: {json}` and an empty line, one for each part of a text, as
it is written. Here requests wait for each other; extras/batching.py writes many at the same time.
What a client sends is checked before anything is computed: what is wrong gets a status that says so
(400 to 431: don't try again; 429: come back later) and a sentence. Text never becomes a special
token. Nothing that was sent is executed, and nobody beyond this machine is answered, unless asked.

    python 05_sample/serve.py --run sft                  # then open http://127.0.0.1:8000
    python 05_sample/serve.py --weights FOLDER --weights-as int8 --port 8001

Reads the newest run, --run or --weights, and page.html; writes a line for each request. Left to
extras/: many texts at once (batching.py), what is inside (microscope.py). Next: 06_eval/evals.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, escaped, option, run
import hmac
import json
import secrets
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from chat import Memory, Shown, has_learned
from conversations import end_ids, prompt_ids
from runs import newest_checkpoint, newest_run
from sample import RunOptions, Sampling, start_of, stream

MOST_BYTES = 2_000_000  # of a request's body
MOST_WAITING, MOST_CONNECTIONS = 32, 128
SLOW = 30  # seconds after which a client that neither sends nor reads is given up
HERE = ("localhost", "127.0.0.1", "[::1]")


class Refusal(Exception):
    """What is wrong with a request: a sentence, the status, the field, and a word for programs."""

    def __init__(self, message, status=400, param=None, code=None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self):
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param,
                          "code": self.code}}


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
            return self.memory.generate(model, prompts, n_tokens, listening, n_samples)
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
    wrong = not isinstance(value, (int, float) if kind is float else kind) or (
        isinstance(value, bool) != (kind is bool))
    if wrong:
        raise Refusal(f"{name} must be of type {kind.__name__}", param=name)
    if least is not None and not least <= value <= most:
        raise Refusal(f"{name} must be from {least:g} to {most:g}", param=name)
    return value


def stops_of(body):
    """The strings before which a text ends: a tuple, of "stop", which is one or a list."""
    stops = body.get("stop")
    stops = [stops] if isinstance(stops, str) else [] if stops is None else stops
    if not isinstance(stops, list) or len(stops) > 16 or not all(
            isinstance(stop, str) and 0 < len(stop) <= 1000 for stop in stops):
        raise Refusal("stop must be a string or up to 16 of them, none empty", param="stop")
    return tuple(stops)


def messages_of(body):
    """The messages of a chat as conversations.py takes them, their contents as strings."""
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
    if not found or found[-1]["role"] != "user":
        raise Refusal("messages must end with a user's", param="messages")
    return found


def requests_of(body, prompts, window, default, tops):
    """n Requests for each prompt, a list of ids: what "n", "seed" and the rest of a body say."""
    n, seed = (field(body, "n", int, 1, 1, 16),
               field(body, "seed", int, secrets.randbelow(2**31), -2**63, 2**63))
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
    for i in ids:
        offsets.append(offset)
        offset += len(tokenizer.decode([i]))
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
    had) until all are written. An engine that can writes all at the same time.
    """
    writings = [engine.write(request) for request in requests]
    try:
        for n, writing in enumerate(writings):
            shown = 0
            for part, row in writing:
                yield n, part, row, shown
                shown = len(row.ids)
    finally:
        for writing in writings:
            writing.close()


def choices_of(engine, requests, streamed, make):
    """Yield lists of choices of an answer, each {"index": ..., "finish_reason": ...} | make(n,
    part, row, shown): if streamed, one for each part of a text, then an empty one, which alone has
    a finish_reason; else one list, of the whole texts. Then the rows, {n: TextStream}.
    """
    rows = {}
    for n, part, row, shown in written(engine, requests):
        rows[n] = row
        if streamed and (part or not shown):
            yield [{"index": n, **make(n, part, row, shown), "finish_reason": None}]
            shown = len(row.ids)
        if streamed and row.finish:
            yield [{"index": n, **make(n, "", row, shown), "finish_reason": row.finish}]
    if not streamed:
        yield [{"index": n, **make(n, row.text, row, 0), "finish_reason": row.finish}
               for n, row in rows.items()]
    yield rows


def answer_with(body, engine, requests, kind, head, make, n_prompts=1):
    """An answer, a dict; or, if it is to be streamed, a generator of such, one for each event."""
    streamed = field(body, "stream", bool, False)
    with_usage = field(field(body, "stream_options", dict, {}), "include_usage", bool, False)
    head = {"id": f"{head}-{secrets.token_hex(12)}", "created": int(time.time()),
            "model": body["model"], "object": kind + ".chunk" * (streamed and "chat" in kind)}
    found = choices_of(engine, requests, streamed, make)
    if not streamed:
        choices, rows = found
        return head | {"choices": choices, "usage": usage_of(requests, rows, n_prompts)}

    def events():
        for choices in found:
            if isinstance(choices, list):
                yield head | {"choices": choices}
            elif with_usage:
                yield head | {"choices": [], "usage": usage_of(requests, choices, n_prompts)}
    return events()


def chat(server, body):
    """POST /v1/chat/completions: the answer to a conversation."""
    engine, streamed, begun = server.engine(body), field(body, "stream", bool, False), set()
    tokenizer, with_logprobs = engine.tokenizer, field(body, "logprobs", bool, False)
    tops = field(body, "top_logprobs", int, 0, 0, 20) if with_logprobs else 0
    prompt = prompt_ids(messages_of(body), tokenizer)
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
    """POST /v1/completions: how a text goes on. prompt: a string, a list of ids, or a list of
    either. "echo" returns the prompt, too; with "logprobs", also its ids' log-probabilities.
    """
    engine, n = server.engine(body), field(body, "n", int, 1, 1, 16)
    tokenizer, tops = engine.tokenizer, field(body, "logprobs", int, None, 0, 20)
    echo, size = field(body, "echo", bool, False), engine.model.config.vocab_size
    given = body.get("prompt", "")
    if isinstance(given, str) or given and isinstance(given, list) and isinstance(given[0], int):
        given = [given]
    if not isinstance(given, list) or not 0 < len(given) <= 128:
        raise Refusal("prompt must be a string, a list of ids, or up to 128 of them",
                      param="prompt")
    prompts = []
    for one in given:
        if not isinstance(one, str) and not (isinstance(one, list) and one and all(
                type(i) is int and 0 <= i < size for i in one)):
            raise Refusal(f"prompt must hold strings, or lists of ids below {size:,}",
                          param="prompt")
        prompts.append(start_of(one, tokenizer) if isinstance(one, str) else one)
    requests = requests_of(body, prompts, engine.model.config.seq_len, 16, tops or 0)
    scores = [[(None, []), *engine.score(prompt, tops)] if echo and tops is not None else []
              for prompt in prompts]  # before anything is written
    begun = {}

    def make(i, part, row, shown):
        prompt = requests[i].prompt if echo and i not in begun else []
        before = tokenizer.decode(prompt)
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


# ---- HTTP ----
class Handler(BaseHTTPRequestHandler):
    """One connection. Its requests are answered one after another."""

    protocol_version, timeout, server_version, sys_version = "HTTP/1.1", SLOW, "serve.py", ""

    def do_GET(self):
        self.handle_request("GET")

    def do_POST(self):
        self.handle_request("POST")

    def handle_request(self, method):
        self.begun, start, self.status = False, time.perf_counter(), 0
        try:
            self.check_sender()
            path = self.path.partition("?")[0]
            if (method, path) == ("GET", "/"):
                return self.send_page()
            if (method, path) not in ROUTES:
                there = [m for m, p in ROUTES if p == path]
                raise Refusal(f"{path} takes {', '.join(there)}" if there else
                              f"there is nothing at {path}", 405 if there else 404)
            body = self.read_body() if method == "POST" else {}
            with self.server.place():
                answer = ROUTES[method, path](self.server, body)
                if isinstance(answer, dict):
                    self.send_json(200, answer)
                else:
                    self.send_events(answer)
        except Refusal as refusal:
            self.refuse(refusal)
        except (ConnectionError, TimeoutError):  # the client is gone
            self.close_connection = True
        except ValueError as error:  # what the model's own code refuses
            self.refuse(Refusal(str(error)))
        except Exception as error:
            self.refuse(Refusal(f"{type(error).__name__}: {error}", 500))
        finally:
            took = time.perf_counter() - start
            self.server.say(f"{method} {self.path[:80]} {self.status} {took * 1000:,.0f} ms")

    def check_sender(self):
        """Refusal unless the request comes from a program, or a page of this server: any web page
        can send one here, and make a name of its own point here (DNS rebinding).
        """
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        if self.server.here and host.rpartition(":")[0] not in HERE and host not in HERE:
            raise Refusal(f"Host is {host[:80]!r}, but this server answers only to localhost", 403)
        if origin is not None and origin.partition("://")[2] != host:
            raise Refusal(f"a page from {origin[:80]!r} may not use this server", 403)
        sent = self.headers.get("Authorization", "")
        if self.server.api_key and self.path.startswith(("/v1/", "/api/")) and (
                not hmac.compare_digest(sent.encode(), f"Bearer {self.server.api_key}".encode())):
            raise Refusal("wrong API key, or none", 401, code="invalid_api_key")

    def read_body(self):
        """The JSON object that was sent. Refusal if it is none."""
        if self.headers.get_content_type() != "application/json":
            raise Refusal("Content-Type must be application/json", 415)
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise Refusal("a Content-Length is missing", 411)
        if int(length[:20]) > MOST_BYTES:
            raise Refusal(f"the body has more than {MOST_BYTES:,} bytes", 413)
        data = self.rfile.read(int(length))
        self.read = True
        try:
            body = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Refusal(f"the body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise Refusal("the body must be a JSON object")
        return body

    def send_head(self, status, kind, length=None, **more):
        self.begun, self.status = True, status
        self.send_response(status)
        for name, value in {"Content-Type": kind, "X-Content-Type-Options": "nosniff",
                            "Cache-Control": "no-store", "Content-Length": length, **more}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        if length is None:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()

    def send_json(self, status, answer, **more):
        data = json.dumps(answer).encode()
        self.send_head(status, "application/json", len(data), **more)
        self.wfile.write(data)

    def send_events(self, events):
        """Server-sent events. The client may go at any time: then nothing more is computed."""
        with closing(events):
            first = next(events)  # what is wrong shows here, while there is still a status to send
            self.send_head(200, "text/event-stream")
            self.wfile.write(event(first))
            for answer in events:
                self.wfile.write(event(answer))
            self.wfile.write(b"data: [DONE]\n\n")

    def send_page(self):
        """page.html, whose own script and style alone may run (Content-Security-Policy)."""
        nonce = secrets.token_urlsafe(16)
        data = self.server.page.replace("{{nonce}}", nonce).encode()
        self.send_head(200, "text/html; charset=utf-8", len(data), Content_Security_Policy=(
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"))
        self.wfile.write(data)

    def refuse(self, refusal):
        """Send what is wrong: as an answer, or, if a stream has begun, as its last event."""
        self.close_connection = True  # a body may be left unread
        with suppress(OSError):
            if self.begun:
                self.wfile.write(event(refusal.body()))
            else:
                self.send_json(refusal.status, refusal.body(), Connection="close",
                               Retry_After=1 if refusal.status in (429, 503) else None)

    def log_message(self, *args):
        pass  # handle_request() does


def event(answer):  # exercise
    """A server-sent event, as bytes: "data: ", the answer as JSON, and two line ends. In JSON a line
    end is spelled \\n, so that no text can end an event.
    """
    return b"data: " + json.dumps(answer).encode() + b"\n\n"


class Server(ThreadingHTTPServer):
    """Answers on one address, with a thread for each connection, up to MOST_CONNECTIONS.

    models: {name: a function that loads it as an Engine}; the first is the default.
    """

    daemon_threads, allow_reuse_address, request_queue_size = True, True, 128

    def __init__(self, address, models, api_key="", page="", say=print):
        self.models, self.api_key, self.page, self.say = models, api_key, page, say
        self.here, self.loading, self.engines = address[0] in HERE, threading.Lock(), {}
        self.places = threading.BoundedSemaphore(MOST_WAITING)
        self.connections = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__(address, Handler)

    def engine(self, body):
        """The Engine of the model that a body names, by default the first; loaded if need be. At
        most two are kept: an older one goes.
        """
        name = body.setdefault("model", next(iter(self.models)))
        if name not in self.models:
            raise Refusal(f"there is no model {str(name)[:80]!r} here; there is "
                          f"{', '.join(self.models)}", 404, "model", "model_not_found")
        with self.loading:
            if name not in self.engines:
                while len(self.engines) > 1:
                    del self.engines[next(iter(self.engines))]
                self.engines[name] = self.models[name]()
            self.engines[name] = self.engines.pop(name)  # the newest is last
            return self.engines[name]

    @contextmanager
    def place(self):
        """A place among those that are served or wait."""
        if not self.places.acquire(blocking=False):
            raise Refusal(f"{MOST_WAITING} requests wait already", 429)
        try:
            yield
        finally:
            self.places.release()

    def process_request(self, request, address):
        if not self.connections.acquire(blocking=False):
            with suppress(OSError):
                request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n"
                                b"Content-Length: 0\r\nConnection: close\r\n\r\n")
            return self.shutdown_request(request)
        super().process_request(request, address)

    def process_request_thread(self, request, address):
        try:
            super().process_request_thread(request, address)
        finally:
            self.connections.release()

    def handle_error(self, request, address):
        """A connection that broke ends; the server doesn't."""


@dataclass
class Options(RunOptions):
    weights: str = option("", "a Hugging Face folder, served instead of runs")
    weights_as: str = option("float32", "large models are fastest in int8, and a little less exact",
                             ("float32", "bfloat16", "int8"))
    host: str = option("127.0.0.1", "the address to listen on; any but this needs --api-key")
    port: int = option(8000, "0: any that is free", least=0, most=65535)
    api_key: str = option("", "a secret without which nothing is answered")


def loaders(options):
    """{name: a function that loads an Engine}: of --weights; else of all runs, --run's first."""
    def loader(**chosen):
        def load():
            folder, model, tokenizer, config, _ = replace(options, **chosen).load()
            if options.weights_as != "float32" or not model.config.by_hand:
                from quant import pack
                model = pack(model, options.weights_as)
            engine = Engine(model.eval(), tokenizer)
            engine.chats = has_learned(folder, config)
            return engine
        return load
    if options.weights:
        return {Path(options.weights).resolve().name: loader()}
    first = newest_run(options.runs_dir, options.run)
    others = sorted(folder.name for folder in Path(options.runs_dir).glob("*")
                    if newest_checkpoint(folder) and folder.name != first.name)
    return {first.name: loader(run=first.name)} | {
        name: loader(run=name, checkpoint="newest") for name in others}


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    if options.host not in HERE and not options.api_key:
        raise ValueError(f"--host {options.host} may be reached from other machines: give an "
                         "--api-key, which their programs must send")
    models = loaders(options)
    page = Path(__file__).with_name("page.html")
    with Server((options.host, options.port), models, options.api_key,
                page.read_text(encoding="utf-8") if page.exists() else "",
                lambda line: print(escaped(line))) as server:
        server.engine({})  # what can't be loaded shows at once
        print(f"http://{options.host}:{server.server_port} serves {', '.join(models)}; Ctrl-C ends",
              flush=True)
        server.serve_forever()


if __name__ == "__main__":
    run(main)
