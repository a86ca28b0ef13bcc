"""Tests of hosted.py: servers that misbehave, what a request costs, our own server, and the
conversations to tune on.
"""

import http.server
import json
import threading
import time
from types import SimpleNamespace

import pytest

import hosted
from console import Parser, add_options
from hosted import Hosted, Spent, functions_of, hosted_of, main, tuning_rows
from replies import completion_of, instruction
from test_clients import address, alone, TOKENIZER  # noqa: F401, a fixture
from test_replies import BODY, GO, WHOLE, fenced

# ---- servers ----
class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request by the next of server.plan: (status, headers, JSON or bytes), or a
    function of this; and writes down what was asked.
    """

    def do_POST(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Authorization"),
                             json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        step = server.plan.pop(0)
        if callable(step):
            return step(self)
        status, headers, body = step
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(data)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *words):
        pass


@pytest.fixture
def start_server():
    servers = []

    def start():
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.plan, server.asked, server.done = [], [], threading.Event()
        server.handle_error = lambda *what: None
        server.url = f"http://127.0.0.1:{server.server_port}/v1"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server
    yield start
    for server in servers:
        server.done.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(start_server):
    return start_server()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """How long was waited, by nobody; a key; a proxy which nothing must go to."""
    taken = []
    monkeypatch.setattr(hosted, "time", SimpleNamespace(sleep=taken.append))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-the-secret")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return taken


def chat_answer(*texts, usage=(7, 5)):
    return 200, {}, {"choices": [{"message": {"role": "assistant", "content": text}}
                                 for text in texts],
                     "usage": dict(zip(("prompt_tokens", "completion_tokens"), usage))}


def text_answer(*texts, **more):
    return 200, {}, {"choices": [{"text": text} for text in texts], **more}


def texts_of(model, *what, **how):
    return [*model.texts(*what, **how)]


def at(server, **how):
    said = []
    model = Hosted(server.url, "m", **{"say": said.append, **how})
    model.said = said
    return model


def test_a_chat_model_is_asked(server):
    """The instruction alone, with what is given and nothing else; no stops. The code comes back."""
    server.plan = [chat_answer(fenced(WHOLE), None)]
    model = at(server)
    assert texts_of(model, GO, 2, temperature=0.2, top_p=0.95, max_tokens=99, stops=("\nfunc",),
                       seed=3) == [BODY, ""]
    [(path, key, body)] = server.asked
    assert (path, key) == ("/v1/chat/completions", "Bearer sk-the-secret")
    assert body == {"model": "m", "n": 2, "temperature": 0.2, "top_p": 0.95, "max_tokens": 99,
                    "seed": 3, "messages": [{"role": "user", "content": instruction(GO)}]}
    assert (model.prompt_tokens, model.completion_tokens, model.n_requests) == (7, 5, 1)
    assert model.said == [] and "sk-the" not in repr(model)


def test_a_completion_model_is_asked(server, monkeypatch):
    """The prompt alone, at most four stops; the text is left as it is."""
    monkeypatch.delenv("OPENAI_API_KEY")
    server.plan = [text_answer(fenced(WHOLE) + "\ud83d")]
    assert texts_of(at(server, chat=False), "a", stops=[*"abcde"]) == [fenced(WHOLE) + "?"]
    assert server.asked == [("/v1/completions", None,
                             {"model": "m", "prompt": "a", "stop": [*"abcd"]})]


def test_many_texts(server):
    """Several requests, whatever number of texts a server gives; each with a seed of its own."""
    server.plan = [text_answer("a"), text_answer("b", "c", "too many"), text_answer("d")]
    texts = at(server, chat=False, at_once=2).texts("x", 4, seed=5)
    assert next(texts) == "a" and len(server.asked) == 1, "each when it is there"
    assert [*texts] == ["b", "c", "d"]
    asked = [(body.get("n"), body["seed"]) for *_, body in server.asked]
    assert asked == [(2, 5), (2, 6), (None, 8)]


def test_tries_again(server, pauses):
    """What may pass: as long as the server asks, up to a minute; else 1 s, 2 s, 4 s and so on."""
    error = {"error": {"message": "too\x1b[2J fast"}}
    server.plan = [(429, {"Retry-After": 0}, error), (500, {}, b""),
                   (503, {"Retry-After": 9000}, b""),
                   (409, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, b""),
                   lambda handler: handler.connection.close(), text_answer("a")]
    model = at(server, chat=False)
    assert texts_of(model, "x") == ["a"] and pauses == [0, 2, 60, 8, 16]
    assert model.said[0].endswith("answers 429: too\\x1b[2J fast; again in 0 s")
    assert "can't be reached" in model.said[4] and model.n_requests == 1
    server.plan = [(408, {}, b"")] * 3
    with pytest.raises(OSError, match="answers 408: ; given up after 3 tries"):
        texts_of(at(server, tries=3), GO)
    server.shutdown()
    server.server_close()
    with pytest.raises(OSError, match="can't be reached .*refused.*; given up after 2 tries"):
        texts_of(at(server, tries=2), GO)


def test_a_model_with_a_temperature_of_its_own(server, pauses):
    """What it refuses is left out, also of the next requests, and that is said."""
    says = {"error": {"message": "Unsupported value: 'temperature' does not support 0.8 with this "
                                 "model. Only the default (1) value is supported."}}
    server.plan = [(400, {}, says), text_answer("a"), text_answer("b"), (400, {}, says)]
    model = at(server, chat=False)
    assert texts_of(model, "x", temperature=0.8, top_p=0.5) == ["a"]
    assert texts_of(model, "x", temperature=0.8, top_p=0.5) == ["b"] and not pauses
    assert [(body.get("temperature"), body["top_p"]) for *_, body in server.asked] == [
        (0.8, 0.5), (None, 0.5), (None, 0.5)]
    assert model.said == ["m takes no temperature; it uses its own"]
    with pytest.raises(ValueError, match="answers 400: Unsupported"):
        texts_of(model, "x", temperature=0.8)


def test_slow_answers(server, pauses):
    server.plan = [lambda handler: server.done.wait(60)] * 2
    start = time.monotonic()
    with pytest.raises(OSError, match=r"can't be reached \(timed out\); given up after 2 tries"):
        texts_of(at(server, timeout=0.2, tries=2), GO)
    assert time.monotonic() - start < 50 and pauses == [1]
    server.plan = [(200, {"Content-Length": 99}, b"{"), text_answer("a")]
    assert texts_of(at(server, chat=False), "x") == ["a"], "an answer that breaks off comes again"


def test_refusals(server, pauses):
    """One line, with what the server says and without the key; no second try."""
    for status, body, words in (
            (401, {"error": {"message": "no sk-the-secret\nhere"}},
             "answers 401: no *** here; the key is to be in the environment variable OPENAI_API"),
            (404, {"error": "gone"}, "404: gone; is there a model m, and does the address end in"),
            (403, {"detail": "\x07no"}, "403: \\x07no"), (400, {"message": ["n"]}, '400: ["n"]'),
            (400, b"<html>", "400: <html>"), (400, b"[" * 50_000, "400: [[["),
            (400, b"x" * 3_000_000, "400: xxx")):
        server.plan = [(status, {}, body)]
        with pytest.raises(ValueError) as error:
            texts_of(at(server), GO)
        assert words in str(error.value) and "\n" not in str(error.value)
        assert len(str(error.value)) < 500
    assert pauses == []


def test_a_redirect_is_not_followed(server, start_server):
    other = start_server()
    for status in (301, 302, 303, 307, 308):
        server.plan = [(status, {"Location": other.url}, b"")]
        with pytest.raises(ValueError, match=f"{status}: go to {other.url}; if you trust it"):
            texts_of(at(server), GO)
    assert other.asked == [] and len(server.asked) == 5


def test_what_is_no_answer(server, monkeypatch):
    for body, words in ((b"{", "not in JSON"), (b"[" * 100_000, "not in JSON"), (b"[]", "without"),
                        (b"\xff", "not in JSON"), (b"1" * 9999, "not in JSON"),
                        ({"error": {"message": "busy"}}, "without choices: busy"),
                        ({"choices": []}, "without choices"), ({"choices": "a"}, "without choices"),
                        ({"choices": [1]}, "no text"), ({"choices": [{"text": "a"}]}, "no text"),
                        ({"choices": [{"message": {"content": 1}}]}, "no text"),
                        ({"choices": [{"message": {}}]}, "no text")):
        server.plan = [(200, {}, body)]
        with pytest.raises(ValueError, match=words) as error:
            texts_of(at(server), GO)
        assert len(str(error.value)) < 400
    monkeypatch.setattr(hosted, "MOST_BYTES", 1000)
    server.plan = [(200, {}, b"x" * 1001)]
    with pytest.raises(ValueError, match="more than 1,000 bytes"):
        texts_of(at(server), GO)

    def endless(handler):
        handler.send_response(200)
        while True:
            handler.wfile.write(b"x: y\r\n" * 9999)
    server.plan = [endless] * 2
    with pytest.raises(OSError, match="too slowly, or without an end|can't be reached"):
        texts_of(at(server, tries=2), GO)


def test_the_newer_name_of_the_limit(server):
    """OpenAI's newer models refuse max_tokens; it is renamed once and for all."""
    server.plan = [(400, {}, {"error": {"message": "Use 'max_completion_tokens' instead."}}),
                   chat_answer("a"), chat_answer("b")]
    model = at(server)
    texts_of(model, GO, max_tokens=5), texts_of(model, GO, max_tokens=6)
    limits = [{k: v for k, v in body.items() if "tokens" in k} for *_, body in server.asked]
    assert limits == [{"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_completion_tokens": 6}]
    server.plan = [(400, {}, b"max_completion_tokens")]
    with pytest.raises(ValueError, match="answers 400"):
        texts_of(model, GO, max_tokens=7)


def test_cost(server):
    """Both prices; no request once the limit is reached, or if nobody knows what they cost."""
    how = dict(prompt_price=2, completion_price=10.0)
    server.plan = [chat_answer("a", usage=(100_000, 50_000)), chat_answer("b", usage=(50_000, 0))]
    model = at(server, max_cost=0.75, at_once=1, **how)
    texts = model.texts(GO, 3)
    assert next(texts) and model.cost == pytest.approx(0.7)
    assert next(texts) and model.cost == pytest.approx(0.8)
    with pytest.raises(Spent, match="--max-cost 0.75 is reached: m: 2 requests, 150,000 tokens "
                                    r"read, 50,000 written, \$0.8000"):
        next(texts)
    assert len(server.asked) == 2
    for usage in (None, {}, {"prompt_tokens": 1}, {"prompt_tokens": True, "completion_tokens": 1},
                  {"prompt_tokens": -1, "completion_tokens": 1}):
        server.plan = [text_answer("a", usage=usage)] * 2
        model = at(server, chat=False)
        assert texts_of(model, "x", 2, seed=1) and model.uncounted == 2 and model.cost == 0
        assert model.summary() == ("m: 2 requests, 0 tokens read, 0 written (2 requests more, "
                                   "unknown)")
    server.plan = [text_answer("a")]
    model = at(server, chat=False, max_cost=1, **how)
    assert texts_of(model, "x") == ["a"]
    with pytest.raises(Spent, match="does not tell how many tokens"):
        texts_of(model, "x")


def test_addresses_and_keys(monkeypatch):
    """http to this machine only; nothing secret in an address; a key that is one."""
    for url in ("https://api.openai.com/v1", "http://localhost:8000/v1/", "http://[::1]:1/v1"):
        assert Hosted(url, "m").endpoint == url
    for url in ("http://api.openai.com/v1", "http://192.168.0.9/v1", "ftp://localhost", "",
                "https://", "https://me:secret@host/v1", "https://host/v1?key=secret",
                "https://host:x/v1",
                "http://localhost@evil.org/v1", "https://ho st/v1", "http://localhost\\@evil.org",
                "file:///etc/passwd", "http://127.0.0.1.evil.org/v1", "https://[::1/v1"):
        with pytest.raises(ValueError, match="is no address to ask") as error:
            Hosted(url, "m")
        assert "me:secret" not in str(error.value)
    with pytest.raises(ValueError, match="--model NAME"):
        Hosted("https://host/v1")
    with pytest.raises(ValueError, match="needs to know --prompt-price"):
        Hosted("https://host/v1", "m", max_cost=1.0)
    with pytest.raises(ValueError, match="max_cost is nan"):
        Hosted("https://host/v1", "m", max_cost=float("nan"))
    for key in ("two words", "line\nend", "é"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(ValueError, match="has characters that no key has") as error:
            Hosted("https://host/v1", "m")
        assert key not in str(error.value)


def test_hosted_of():
    """Of the options of another command those of Hosted, as add_options() reads them."""
    parser = Parser()
    add_options(parser, Hosted)
    line = ["--endpoint", "https://host/v1", "--model", "m", "--no-chat"]
    given = vars(parser.parse_args(line)) | {"timeout": 3, "other": 1}
    model = hosted_of(given)
    assert (model.model, model.chat, model.timeout) == ("m", False, 300)
    assert given == {"timeout": 3, "other": 1} and hosted_of(given) is None
    with pytest.raises(ValueError, match="--max-cost needs --endpoint"):
        hosted_of({"max_cost": 3.0})


def test_our_own_server(address, monkeypatch):  # noqa: F811
    """The texts that the model itself writes, of both kinds of question, and how many tokens."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    model = Hosted(address, "tiny", chat=False, at_once=2)
    prompt = [TOKENIZER.special["<|bos|>"], *TOKENIZER.encode("a dog")]
    wanted = [alone(prompt, 5, 3 + i) for i in range(3)]
    texts = texts_of(model, "a dog", 3, temperature=1.0, max_tokens=5, seed=3)
    assert texts == [row.text for row in wanted]
    assert model.completion_tokens == sum(len(row.ids) for row in wanted) and not model.uncounted
    assert model.prompt_tokens == 2 * len(prompt), "once in each request"
    with pytest.raises(ValueError, match="answers 404: there is no model 'x' here; there is tiny"):
        texts_of(Hosted(address, "x"), GO)
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    with pytest.raises(ValueError, match="answers 401: wrong API key, or none"):
        texts_of(model, "a dog")


# ---- conversations to tune on ----
FILE = ("package good\n\n// A is 1.\nfunc A(\n) int {\n\treturn 1\n}\n\nfunc b() {\n}\n\n// C.\n\n"
        "func c() {\n}\n\n// T is.\ntype T struct{}\n\n// D is.\nfunc (t T) D() T { return t }\n\n"
        "// F is.\nfunc F() T {\n\treturn T{}.E()\n}\n\n"
        "// E is.\nfunc (t T) E() T {\n\treturn t // }\n}\n")


def test_functions_of():
    """With a comment right above, and, unlike F, which uses E, nothing from below."""
    found = [*functions_of(FILE)]
    assert [learned for *_, learned in found] == [True, False, False, False, True]
    assert [solution for _, solution, _ in found] == [
        "\treturn 1\n}\n", "}\n", "}\n", "\treturn T{}.E()\n}\n", "\treturn t // }\n}\n"]
    assert all(FILE.startswith(prompt + solution) for prompt, solution, _ in found)
    assert found[0][0].endswith("func A(\n) int {\n") and found[4][0].endswith("E() T {\n")
    assert [*functions_of("func f() {\n}\n")] == [("func f() {\n", "}\n", False)]


def test_good_go_is_there():
    """Each solution comes back out of the answer that teaches it, by which it will be judged."""
    rows = tuning_rows()
    assert len(rows) > 90
    pairs = hosted.pairs_of("good_go")
    solved = {(instruction(prompt), solution) for prompt, solution in pairs}
    prompts = {instruction(prompt): prompt for prompt, _ in pairs}
    for row in rows:
        asked, answer = (message["content"] for message in row["messages"])
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        assert (asked, completion_of(prompts[asked], answer)) in solved


def test_command_line(tmp_path, monkeypatch, capsys, fails):
    """Solutions of problems are in no other file; with the problems comes a warning."""
    for name, text in (("good_go/a.go", FILE), ("problems/01_a.go", FILE[:FILE.index("func c")]),
                       ("problems/01_a_test.go", "func TestB() {\n}\n")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        monkeypatch.setitem(hosted.FOLDERS, name.split("/")[0], (tmp_path / name).parent)
    path = tmp_path / "out.jsonl"
    main(["--tuning", str(path)])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["messages"][1]["content"] + "\n" for row in rows] == [
        fenced("func A(\n) int {\n\treturn 1\n}"), fenced("func (t T) E() T {\n\treturn t // }\n}")]
    out = capsys.readouterr().out
    assert out.startswith(f"{path}: 2 conversations from good_go, ") and out.count("\n") == 1
    (tmp_path / "problems" / "02_e.go").write_text(FILE)
    (tmp_path / "problems" / "02_e_test.go").write_text("func TestE() {\n}\n")
    main(["--tuning", str(path), "--from", "good_go", "--from", "problems"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["messages"][1]["content"].split("(")[0] for row in rows] == [
        "```go\nfunc A", "```go\nfunc b", "```go\nfunc "], "E is a problem's"
    assert "no test any more" in capsys.readouterr().out
    assert "--tuning" in fails(main, "--from", "good_go")
    assert "invalid choice" in fails(main, "--tuning", path, "--from", "x")
    monkeypatch.setitem(hosted.FOLDERS, "problems", tmp_path)
    assert "holds no problems" in fails(main, "--tuning", path, "--from", "problems")
