"""Tests of serve.py: fields of a request, the three addresses, what is refused, and who is."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

import api
import serve
from api import Engine, Request
from conversations import end_ids, prompt_ids
from gpt import GPT
from runs import as_json, save_checkpoint, start_run, tensors
from sample import Sampling, stream
from serve import Server, event, main
from test_chat import TOKENIZER, a_model
from train import Config


@pytest.fixture(scope="module")
def server():
    models = {"tiny": lambda: Engine(a_model(), TOKENIZER),
              "other": lambda: Engine(a_model(seed=1), TOKENIZER)}
    with Server(("127.0.0.1", 0), models, page="<p nonce={{nonce}}>", say=lambda line: None) as s:
        thread = threading.Thread(target=s.serve_forever, args=(0.01,))
        thread.start()
        yield s
        s.shutdown()
        thread.join()


def ask(server, path, body=None, method=None, raw=None, **headers):
    """(status, headers, content): the JSON of an answer, or a list of that of its events."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    data = raw if raw is not None else None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if data is None else "POST"), path, data, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    if answer.getheader("Content-Type") == "text/event-stream":
        events = text.split("\n\n")
        assert events[-2:] == ["data: [DONE]", ""]
        assert all(e.startswith("data: ") for e in events[:-1])
        return answer.status, answer.headers, [json.loads(e[6:]) for e in events[:-2]]
    return answer.status, answer.headers, json.loads(text) if text.startswith("{") else text


def talk(text, **more):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 12, "seed": 1, **more}


def test_event():
    assert event({"a": "\n\n"}) == b'data: {"a": "\\n\\n"}\n\n', (
        "an event is data: , JSON in one line, and two line ends")


def test_models(server):
    status, _, answer = ask(server, "/v1/models")
    assert status == 200 and [m["id"] for m in answer["data"]] == ["tiny", "other"]
    assert answer["object"] == "list" and {m["object"] for m in answer["data"]} == {"model"}


def alone(prompt, n_tokens, sampling, stops=(), seed=0):
    """A text as stream() writes it: (text, TextStream)."""
    rows = [row for _, _, row in stream(a_model(seed=seed), TOKENIZER, [prompt], n_tokens,
                                        sampling, stops)]
    return rows[-1]


def test_a_chat(server):
    """Whole and streamed, the text that stream() writes."""
    row = alone(prompt_ids(talk("Hi")["messages"], TOKENIZER), 12, Sampling(1.0, seed=1))
    status, _, answer = ask(server, "/v1/chat/completions", talk("Hi"))
    assert status == 200 and answer["object"] == "chat.completion" and answer["model"] == "tiny"
    assert answer["choices"] == [{"index": 0, "logprobs": None, "finish_reason": row.finish,
                                  "message": {"role": "assistant", "content": row.text}}]
    n = len(prompt_ids(talk("Hi")["messages"], TOKENIZER))
    assert answer["usage"] == {"prompt_tokens": n, "completion_tokens": len(row.ids),
                               "total_tokens": n + len(row.ids)}
    _, headers, events = ask(server, "/v1/chat/completions", talk(
        "Hi", stream=True, stream_options={"include_usage": True}))
    assert {e["id"] for e in events} == {events[0]["id"]} and events[0]["id"] != answer["id"]
    assert {(e["object"], e["model"]) for e in events} == {("chat.completion.chunk", "tiny")}
    *parts, last, usage = events
    assert usage["choices"] == [] and usage["usage"] == answer["usage"]
    deltas = [e["choices"][0]["delta"] for e in parts]
    assert deltas[0]["role"] == "assistant" and not any("role" in d for d in deltas[1:])
    assert "".join(d["content"] for d in deltas) == row.text
    assert {e["choices"][0]["finish_reason"] for e in parts} == {None}, (
        "only the last chunk says how the text ended")
    assert last["choices"][0] == {"index": 0, "delta": {}, "logprobs": None,
                                  "finish_reason": row.finish}


def test_parts_roles_and_stops(server):
    """Content as parts; developer is system; stops as a string or a list; unknown fields."""
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    parts = [{"role": "developer", "content": "Be brief."},
             {"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text",
                                                                          "text": "i"}]}]
    texts = [ask(server, "/v1/chat/completions", talk("", messages=m, user="x", tools=None))[2][
        "choices"][0]["message"]["content"] for m in (plain, parts)]
    row = alone(prompt_ids(plain, TOKENIZER), 12, Sampling(1.0, seed=1))
    assert texts[0] == texts[1] == row.text
    stop = texts[0][3]
    for stops in (stop, [stop, "never"]):
        choice = ask(server, "/v1/chat/completions", talk("", messages=plain, stop=stops))[2][
            "choices"][0]
        assert choice["message"]["content"] == texts[0].partition(stop)[0]
        assert choice["finish_reason"] == "stop"
    length = ask(server, "/v1/chat/completions", talk("Hi", max_completion_tokens=3))[2]
    assert length["usage"]["completion_tokens"] == 3, "it counts instead of max_tokens"
    assert length["choices"][0]["finish_reason"] == "length"


def test_several_texts(server):
    """n with a seed: different texts, each that of seed + i, and the same when asked again."""
    answers = [ask(server, "/v1/completions", {"prompt": ["ab", [99]], "n": 2, "seed": 5,
                                               "max_tokens": 8})[2] for _ in range(2)]
    texts = [[c["text"] for c in answer["choices"]] for answer in answers]
    bos = [TOKENIZER.special["<|bos|>"]]
    assert texts[0] == texts[1] == [alone(prompt, 8, Sampling(1.0, seed=seed)).text for prompt in (
        [*bos, *b"ab"], [99]) for seed in (5, 6)]
    assert [c["index"] for c in answers[0]["choices"]] == [0, 1, 2, 3]
    assert answers[0]["usage"]["prompt_tokens"] == 3 + 1, "a prompt counts once"
    _, _, events = ask(server, "/v1/completions", {"prompt": ["ab", [99]], "n": 2, "seed": 5,
                                                   "max_tokens": 8, "stream": True})
    for i in range(4):
        mine = [e["choices"][0] for e in events if e["choices"][0]["index"] == i]
        assert "".join(c["text"] for c in mine) == texts[0][i]
        assert [c["finish_reason"] is None for c in mine] == [True] * (len(mine) - 1) + [False]


def test_logprobs(server):
    """Of the prompt, by echo, those of the model, one pass; of what is written, the same."""
    ids, model = [*b"Hello you"], a_model()
    body = {"prompt": ids, "max_tokens": 3, "logprobs": 2, "echo": True, "temperature": 0}
    answer = ask(server, "/v1/completions", body)[2]
    choice, row = answer["choices"][0], alone(ids, 3, Sampling(0.0))
    found = choice["logprobs"]
    assert choice["text"] == "Hello you" + row.text and found["token_logprobs"][0] is None
    whole = torch.tensor([[*ids, *row.ids]])
    logprobs = model(whole[:, :-1]).log_softmax(-1)[0]
    assert found["token_logprobs"][1:] == pytest.approx(
        logprobs.gather(1, whole[0, 1:, None])[:, 0].tolist(), abs=1e-4)
    assert len(found["tokens"]) == len(ids) + 3 == len(found["text_offset"])
    assert found["tokens"][:9] == list("Hello you") and found["text_offset"][:9] == [*range(9)]
    best = logprobs.argmax(-1).tolist()
    for top, i in zip(found["top_logprobs"][1:], best):
        assert len(top) == 2 and max(top, key=top.get) == api.token_text(i, TOKENIZER)
    text = ask(server, "/v1/completions", body | {"prompt": "Hello"})[2]["choices"][0]["text"]
    assert text.startswith("Hello") and len(text) > 5, "echo repeats what was sent, without <|bos|>"
    scored = ask(server, "/v1/completions", body | {"max_tokens": 1, "logprobs": 0})[2]
    assert scored["choices"][0]["logprobs"]["token_logprobs"][:9] == found["token_logprobs"][:9]
    _, _, events = ask(server, "/v1/completions", body | {"stream": True})
    parts = [e["choices"][0]["logprobs"]["token_logprobs"] for e in events
             if e["choices"][0]["logprobs"]]
    assert sum(parts, [])[1:] == pytest.approx(found["token_logprobs"][1:], abs=1e-4)
    answer = ask(server, "/v1/chat/completions", talk("Hi", logprobs=True, top_logprobs=3))[2]
    row = alone(prompt_ids(talk("Hi")["messages"], TOKENIZER), 12, Sampling(1.0, seed=1))
    content = answer["choices"][0]["logprobs"]["content"]
    own = [(i, p) for i, p in zip(row.ids, row.logprobs) if i not in end_ids(TOKENIZER)]
    assert [c["bytes"] for c in content] == [[*TOKENIZER.decode_bytes([i])] for i, _ in own]
    assert [c["logprob"] for c in content] == pytest.approx([p for _, p in own], abs=1e-4)
    assert all(len(c["top_logprobs"]) == 3 for c in content)


def test_a_conversation_is_read_once(server):
    """The next turn costs its new ids only."""
    engine = server.engine({})
    messages = talk("Tell me something")["messages"]
    prompt = prompt_ids(messages, TOKENIZER)
    list(engine.write(Request(prompt, 5, Sampling())))
    before = engine.memory.n_read
    list(engine.write(Request(engine.memory.ids + [65, 66], 1, Sampling())))
    assert engine.memory.n_read == before + 1 + 2


@pytest.mark.parametrize("path,body,status,words", [
    ("/v1/nothing", {}, 404, "there is nothing at /v1/nothing"),
    ("/v1/models", {}, 405, "/v1/models takes GET"),
    ("/v1/chat/completions", {"messages": []}, 400, "must end with one of the role user"),
    ("/v1/chat/completions", {"messages": "hi"}, 400, "messages must be of type list"),
    ("/v1/chat/completions", {"messages": [{"role": "user"}]}, 400, "content must be a string"),
    ("/v1/chat/completions", {"messages": [{"role": "x", "content": ""}]}, 400, "no role 'x'"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}] * 2}, 400,
     "turn 2 of a conversation is by 'user'"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a" * 200}]}, 400,
     "too many for the model's window of 128"),
    ("/v1/chat/completions", talk("a", model="x"), 404, "no model 'x' here; there is tiny, other"),
    ("/v1/chat/completions", talk("a", model=["x"]), 400, "model must be of type str"),
    ("/v1/chat/completions", talk("a", temperature=-1), 400, "temperature must be from 0 to 100"),
    ("/v1/chat/completions", talk("a", temperature="1"), 400, "temperature must be of type float"),
    ("/v1/chat/completions", talk("a", n=17), 400, "n must be from 1 to 16"),
    ("/v1/chat/completions", talk("a", seed=2**64), 400, "seed must be from"),
    ("/v1/chat/completions", talk("a", stop=[""]), 400, "stop must be a string"),
    ("/v1/chat/completions", talk("a", stream=1), 400, "stream must be of type bool"),
    ("/v1/chat/completions", talk("\ud800"), 400, "surrogates not allowed"),
    ("/v1/completions", {"prompt": [[0, 265]]}, 400, "lists of ids below 265"),
    ("/v1/completions", {"prompt": {"a": 1}}, 400, "prompt must be a string"),
    ("/v1/completions", {"prompt": []}, 400, "prompt must be a string"),
    ("/v1/completions", {"prompt": [[]]}, 400, "prompt must hold strings"),
    ("/v1/completions", {"prompt": "a", "logprobs": 21}, 400, "logprobs must be from 0 to 20"),
])
def test_what_is_wrong_gets_a_sentence(server, path, body, status, words):
    found, _, answer = ask(server, path, body)
    assert found == status and words in answer["error"]["message"], answer
    assert answer["error"].keys() == {"message", "type", "param", "code"}
    assert answer["error"]["type"] == "invalid_request_error"
    status, _, answer = ask(server, path, body | {"stream": True}) if status == 400 and (
        "stream" not in body) else (status, None, None)
    assert status != 200, "what is wrong is said by the status also if the answer is streamed"


@pytest.mark.parametrize("raw,status,words", [
    ("{", 400, "not JSON"), ("[1]", 400, "must be a JSON object"), ("", 400, "not JSON"),
    ("[" * 100_000, 400, "not JSON"), ('{"n": ' + "9" * 5000 + "}", 400, "not JSON"),
    (b"\xff\xfe", 400, "not JSON")])
def test_bodies(server, raw, status, words):
    found, _, answer = ask(server, "/v1/completions", raw=raw)
    assert found == status and words in answer["error"]["message"]


def raw_request(server, data):
    """The status line of what is answered to these bytes; "" if nothing is."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=30) as connection:
        connection.sendall(data)
        return connection.makefile("rb").readline().decode().strip()


def test_who_may_ask(server):
    assert ask(server, "/v1/models", Host="evil.com")[0] == 403
    assert ask(server, "/v1/models", Host="localhost:80")[0] == 200
    assert ask(server, "/v1/models", Origin="http://evil.com")[0] == 403
    here = f"127.0.0.1:{server.server_port}"
    assert ask(server, "/v1/models", Origin=f"http://{here}", Host=here)[0] == 200
    assert ask(server, "/v1/completions", {"prompt": "a"}, Content_Type="text/plain")[0] == 415
    status, _, answer = ask(server, "/v1/models", method="PUT")
    assert status == 405 and "GET and POST" in answer["error"]["message"]
    assert "411" in raw_request(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                                        b"Content-Type: application/json\r\nContent-Length: 2\r\n"
                                        b"Transfer-Encoding: chunked\r\n\r\n{}")
    assert "413" in raw_request(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                                        b"Content-Type: application/json\r\nContent-Length: "
                                        + b"0" * 20 + b"4000000\r\n\r\n")
    assert "411" in raw_request(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                                        b"Content-Type: application/json\r\n\r\n")
    assert "413" in raw_request(server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
                                        b"Content-Type: application/json\r\n"
                                        b"Content-Length: 99999999999999999999999\r\n\r\n")
    status, _, answer = ask(server, "/v1/completions", raw=b" " * 8_000_000)
    assert status == 413, "a client that sends a large body gets to read the answer"
    server.api_key = "secret"
    try:
        status, _, answer = ask(server, "/v1/models")
        assert status == 401 and answer["error"]["code"] == "invalid_api_key"
        assert ask(server, "/v1/models", Authorization="Bearer secret")[0] == 200
        wrong = "Bearer s\u00e9cret".encode("latin-1")
        assert ask(server, "/v1/models", Authorization=wrong)[0] == 401
    finally:
        server.api_key = ""
    with pytest.raises(ValueError, match="--host 0.0.0.0 may be reached .* give an --api-key"):
        main(["--host", "0.0.0.0"])


def test_the_page(server):
    status, headers, text = ask(server, "/")
    nonce = text.split("nonce=")[1].rstrip(">")
    policy = headers["Content-Security-Policy"]
    assert status == 200 and f"script-src 'nonce-{nonce}'" in policy
    assert "default-src 'none'" in policy
    assert ask(server, "/")[2] != text, "each page has its own nonce"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_goes_away(server, monkeypatch, streamed):
    """Its text isn't written to the end, whether it was streamed or not."""
    started, closed, write = threading.Event(), threading.Event(), Engine.write

    def slow(engine, request):
        try:
            for n, part in enumerate(write(engine, request)):
                started.set()
                time.sleep(0.02)
                yield part
        except GeneratorExit:
            closed.set()
            raise
    monkeypatch.setattr(Engine, "write", slow)
    body = json.dumps({"prompt": "a", "max_tokens": 120, "stream": streamed}).encode()
    with socket.create_connection(("127.0.0.1", server.server_port)) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                           b"application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert started.wait(10)
    assert closed.wait(1.5), "a text for nobody was written to its end"
    monkeypatch.undo()
    assert ask(server, "/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200


def test_the_queue_is_bounded(server, monkeypatch):
    """Whoever finds it full gets 429, and is told to come back; connections are bounded, too."""
    taken = [server.places.acquire(timeout=5) for _ in range(serve.MOST_WAITING)]
    try:
        status, headers, answer = ask(server, "/v1/models")
        assert all(taken) and status == 429 and headers["Retry-After"] == "1"
        assert answer["error"]["type"] == "rate_limit_error"
    finally:
        for _ in filter(None, taken):
            server.places.release()
    idle = [socket.create_connection(("127.0.0.1", server.server_port))
            for _ in range(serve.MOST_CONNECTIONS)]
    for _ in range(100):  # until all of them are accepted
        line = raw_request(server, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if "503" in line:
            break
        time.sleep(0.05)
    assert "503" in line
    for connection in idle:
        connection.close()
    for _ in range(100):
        if (answer := raw_request(server, b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\n\r\n")):
            if "200" in answer:
                break
        time.sleep(0.05)
    assert "200" in answer


def test_a_slow_client_is_given_up(server, monkeypatch):
    """Not a single byte's pause counts, but the time for the whole request."""
    monkeypatch.setattr(serve, "SLOW", 0.5)
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=60) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\n")
        start = time.monotonic()
        with contextlib.suppress(OSError):  # reset, as it still sends
            while time.monotonic() - start < 60:
                connection.sendall(b"a: b\r\n")
                time.sleep(0.1)
        assert time.monotonic() - start < 50, "it still keeps its connection"


def test_a_hundred_at_once(server):
    """Each gets its own text, or is told to come back; then the server is as before."""
    texts = {seed: alone([97], 5, Sampling(1.0, seed=seed)).text for seed in range(5)}

    def one(i):
        body = {"prompt": [97], "max_tokens": 5, "seed": i % 5, "stream": i % 2 == 0}
        try:
            status, _, answer = ask(server, "/v1/completions", body)
        except OSError:  # the connections are used up, and this one was reset
            return 503
        if status == 200:
            parts = answer if isinstance(answer, list) else [answer]
            assert "".join(p["choices"][0]["text"] for p in parts) == texts[i % 5]
        return status
    with ThreadPoolExecutor(100) as pool:
        found = [*pool.map(one, range(100))]
    assert set(found) <= {200, 429, 503} and found.count(200) >= serve.MOST_WAITING, found
    assert one(0) == 200


def test_a_failure_in_the_model_is_500(server, monkeypatch):
    def broken(self, request):
        raise RuntimeError("boom")
        yield
    monkeypatch.setattr(Engine, "write", broken)
    status, _, answer = ask(server, "/v1/completions", {"prompt": "a"})
    assert status == 500 and answer["error"]["type"] == "server_error"


def test_models_are_loaded_when_they_are_asked_for(server):
    texts = [ask(server, "/v1/completions", {"prompt": "a", "seed": 1, "model": name})[2][
        "choices"][0]["text"] for name in ("tiny", "other", "tiny")]
    assert texts[0] == texts[2] != texts[1]


def test_the_command(tmp_path):
    """A run is served until a signal comes; the page is there, and all runs are listed."""
    config = Config(n_layer=1, n_head=2, n_kv_head=1, d_model=32, d_ff=64, seq_len=64)
    for name in ("one", "two"):
        folder = start_run(tmp_path, name)
        (folder / "config.json").write_text(json.dumps(
            as_json(config) | {"data_hash": "", "data_folders": []}))
        TOKENIZER.save(folder / "tokenizer.json")
        save_checkpoint(folder, 7, tensors(GPT(config.gpt(TOKENIZER.vocab_size))), {})
    process = subprocess.Popen(
        [sys.executable, serve.__file__, "--runs-dir", str(tmp_path), "--run", "one", "--port",
         "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        port = re.search(r":(\d+) serves one, one:int8, two;", line)[1]
        where = SimpleNamespace(server_port=int(port))
        assert "Token by token" in ask(where, "/")[2]
        assert [m["id"] for m in ask(where, "/api/models")[2]["data"]] == [
            "one", "one:int8", "two"]
        for name in ("one", "one:int8", "two"):
            body = {"model": name, "prompt": "a", "max_tokens": 3}
            assert ask(where, "/v1/completions", body)[2]["usage"]["completion_tokens"] == 3
        assert ask(where, "/api/survey", {"text": "ab"})[2]["ids"][1:] == [97, 98]
    finally:
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in error, error
    assert "POST /v1/completions 200" in out
