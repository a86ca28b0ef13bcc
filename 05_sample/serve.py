"""A model behind an address: for a browser, and for every program that speaks OpenAI's API.

A request is a POST whose body is JSON, and so is the answer; or, with "stream": true, it is a
sequence of server-sent events: a line `data: {json}` and an empty line for each part of a text, as
it is written. api.py says what they mean; here is HTTP, on Python's own server: who may ask, how
much is read, how long is waited, and what happens when a client goes away. Nobody beyond this
machine is answered, unless you ask for it.

    python 05_sample/serve.py --run sft                  # then open http://127.0.0.1:8000
    python 05_sample/serve.py --weights FOLDER --weights-as int8 --port 8001

Reads the newest run, --run or --weights, and page.html; writes a line for each request. From
extras/ come many texts at once (batching.py), except by hand, and what the page asks for besides
(routes.py). Next: 06_eval/evals.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, by_hand, escaped, option, run
import hmac
import json
import secrets
import select
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from api import ROUTES, Engine, Refusal, field
from chat import has_learned
from runs import newest_checkpoint, newest_run
from sample import RunOptions

MOST_BYTES, MOST_DRAINED = 2_000_000, 16_000_000  # of a request's body; of one that is refused
MOST_WAITING, MOST_CONNECTIONS = 32, 128
SLOW = 30  # seconds in which a request must have come, or a part of an answer been read
HERE = ("localhost", "127.0.0.1")


# ---- HTTP ----
class Handler(BaseHTTPRequestHandler):
    """One connection. Its requests are answered one after another."""

    protocol_version, timeout, server_version, sys_version = "HTTP/1.1", SLOW, "serve.py", ""

    def handle_one_request(self):
        self.late = threading.Timer(SLOW, self.give_up)
        self.late.daemon = True
        self.late.start()
        try:
            super().handle_one_request()
        finally:
            self.late.cancel()

    def give_up(self):
        """The client has not sent its request in time."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self):
        self.close_connection |= "Content-Length" in self.headers  # which nobody reads
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
            self.late.cancel()
            with self.server.place():
                answer = ROUTES[method, path](self.server, body)
                if isinstance(answer, dict):
                    self.send_json(200, answer)
                elif body.get("stream"):
                    self.send_events(answer)
                else:
                    self.send_json(200, self.last_of(answer))
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
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            raise Refusal("send a Content-Length, and no Transfer-Encoding", 411)
        if (n := int(length.lstrip("0")[:20] or 0)) > MOST_BYTES:
            raise Refusal(f"the body has more than {MOST_BYTES:,} bytes", 413)
        data = self.rfile.read(n)
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

    def parts_of(self, answer):
        """Yield what an answer's generator does, as long as the client is there; then close it."""
        with closing(answer):
            for part in answer:
                ready, _, _ = select.select([self.connection], [], [], 0)
                if ready and not self.connection.recv(1, socket.MSG_PEEK):
                    raise ConnectionAbortedError("the client is gone")
                yield part

    def last_of(self, answer):
        with closing(self.parts_of(answer)) as parts:
            *_, last = parts
        return last

    def send_events(self, answer):
        """Server-sent events. What is wrong shows before the first, while there is still a status.
        """
        with closing(self.parts_of(answer)) as parts:
            for part in parts:
                if not self.begun:
                    self.send_head(200, "text/event-stream")
                self.wfile.write(event(part))
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
            if refusal.status == 413:  # a client reads no answer while it still sends
                self.connection.settimeout(1)
                for _ in range(MOST_DRAINED // 65536):
                    self.rfile.read(65536)

    def send_error(self, code, message=None, explain=None):
        """What Python's server refuses by itself, such as another method, as JSON, too."""
        self.begun = False
        self.refuse(Refusal("only GET and POST are used here", 405) if code == 501 else
                    Refusal(message or "this is no HTTP request", code))

    def log_message(self, *args):
        pass  # handle_request() does


def event(answer):  # exercise
    """A server-sent event, bytes: "data: ", the answer as JSON, two line ends. In JSON a line end
    is spelled \\n, so that no text can end an event.
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
        most two are kept: the one that was loaded first goes.
        """
        name = body["model"] = field(body, "model", str, next(iter(self.models)))
        if name not in self.models:
            raise Refusal(f"there is no model {name[:80]!r} here; there is "
                          f"{', '.join(self.models)}", 404, "model", "model_not_found")
        if engine := self.engines.get(name):
            return engine
        with self.loading:
            if name not in self.engines:
                try:
                    engine = self.models[name]()
                except (ValueError, OSError) as error:
                    raise Refusal(f"{name} can't be loaded: {error}", 500) from None
                while len(self.engines) > 1:
                    del self.engines[next(iter(self.engines))]
                self.engines[name] = engine
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
    weights_as: str = option("float32", "large models are fastest in int8 or int4, but less exact",
                             ("float32", "bfloat16", "int8", "int4"))
    host: str = option("127.0.0.1", "the address to listen on; any but this needs --api-key")
    port: int = option(8000, "0: any that is free", least=0, most=65535)
    api_key: str = option("", "a secret without which nothing is answered")


class Loader:
    """Called, loads a model as an Engine: the run `folder`, or --weights if there is none."""

    def __init__(self, options, folder=None, checkpoint="newest"):
        self.options, self.folder = options, folder
        if folder:
            self.options = replace(options, run=folder.name, checkpoint=checkpoint)

    def __call__(self):
        options = self.options
        folder, model, tokenizer, config, _ = options.load()
        kind = Engine
        if not model.config.by_hand:
            from batching import Batching as kind
        if options.weights_as != "float32" or not model.config.by_hand:
            from quant import pack
            model = pack(model, options.weights_as, rows=8)
        engine = kind(model.eval(), tokenizer)
        engine.run, engine.chats = self.folder, has_learned(folder, config)
        return engine


def loaders(options):
    """{name: Loader}: of --weights; or of all runs, of which --run, or the newest, is first. That
    model is there as int8, too, to be seen beside itself.
    """
    int8, others = replace(options, weights_as="int8"), {}
    if options.weights:
        name, how = Path(options.weights).resolve().name, ()
    else:
        first = newest_run(options.runs_dir, options.run)
        name, how = first.name, (first, options.checkpoint)
        others = {folder.name: Loader(options, folder)
                  for folder in sorted(Path(options.runs_dir).glob("*"))
                  if newest_checkpoint(folder) and folder != first}
    twin = {f"{name}:int8": Loader(int8, *how)} if options.weights_as == "float32" else {}
    return {name: Loader(options, *how)} | twin | others


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    if not options.api_key.isascii():
        raise ValueError("--api-key must be ASCII, as it is sent in a header")
    if options.host not in HERE and not options.api_key:
        raise ValueError(f"--host {options.host} may be reached from other machines: give an "
                         "--api-key, which their programs must send")
    models = loaders(options)
    if not by_hand():  # what the page asks for besides: extras/routes.py
        from routes import MORE
        ROUTES.update(MORE)
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    with Server((options.host, options.port), models, options.api_key, page,
                lambda line: print(escaped(line))) as server:
        try:
            server.engine({})
        except Refusal as refusal:
            raise ValueError(str(refusal)) from None
        print(f"http://{options.host}:{server.server_port} serves {', '.join(models)}; Ctrl-C ends",
              flush=True)
        server.serve_forever()


if __name__ == "__main__":
    run(main)
