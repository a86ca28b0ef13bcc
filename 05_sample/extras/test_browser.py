"""page.html in a browser: Chromium, which these tests drive through its driver's own protocol (W3C
WebDriver: JSON over HTTP), against a serve.Server with tiny random models.

They need chromium and chromedriver, and are skipped without; the one that checks how accessible the
page is also needs `npm install --no-save axe-core`.
"""

import json
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import serve
from api import Engine
from bpe import Tokenizer
from gpt import GPT, GPTConfig
from routes import MORE

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(
    not (CHROMIUM and shutil.which("chromedriver")), reason="needs chromium and chromedriver")]
PAGE = Path(serve.__file__).with_name("page.html").read_text(encoding="utf-8")
AXE = Path(__file__).resolve().parents[2] / "node_modules" / "axe-core" / "axe.min.js"
TOKENIZER = Tokenizer([])  # every byte is an id of its own
ENTER, ESCAPE, TAB, SHIFT, CONTROL = "\ue007", "\ue00c", "\ue004", "\ue008", "\ue009"
LEFT, RIGHT = "\ue012", "\ue014"
WILD = "<img src=x onerror=\"document.title='bad'\"> & <|assistant_end|>"


# ---- a browser ----
def send(url, body=None, method=None):
    """The JSON that an address answers; that of an error, too."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


class Browser:
    """One tab. at: the address of its session at the driver."""

    def __init__(self, driver):
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu",
                     "--disable-background-networking", "--window-size=1280,800"]
        self.at = f"{driver}/session"
        self.at += "/" + self.call("", capabilities={"alwaysMatch": {
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments}}})["sessionId"]

    def call(self, path, **body):
        value = send(self.at + path, body)["value"]
        assert not isinstance(value, dict) or "error" not in value, value
        return value

    def js(self, code, *arguments):
        return self.call("/execute/sync", script=code, args=arguments)

    def wait(self, condition):
        """Until a JavaScript expression is true; its value."""
        for _ in range(600):
            if value := self.js(f"return {condition}"):
                return value
            time.sleep(0.02)
        raise AssertionError(f"never true: {condition}; the page shows\n"
                             + self.js("return document.body.innerText"))

    def press(self, keys, held=None):
        """Press keys one after another, on what has the focus."""
        def strokes(key, *kinds):
            return [{"type": kind, "value": key} for kind in kinds]
        actions = [stroke for key in keys for stroke in strokes(key, "keyDown", "keyUp")]
        if held:
            actions = strokes(held, "keyDown") + actions + strokes(held, "keyUp")
        self.call("/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def write(self, selector, text):
        self.js("document.querySelector(arguments[0]).focus()", selector)
        self.press(text)

    def click(self, selector, text=""):
        """The last element that is shown, fits a selector, and has this text."""
        assert self.js("""const found = [...document.querySelectorAll(arguments[0])].filter((e) =>
            e.checkVisibility() && e.textContent.startsWith(arguments[1]));
            found.at(-1)?.click(); return found.length""", selector, text), f"no {selector} {text}"

    def texts(self, selector):
        return self.js("return [...document.querySelectorAll(arguments[0])].filter((e) => "
                       "e.checkVisibility()).map((e) => e.textContent)", selector)

    def dial(self, **values):
        for name, value in values.items():
            self.js("const dial = document.getElementById(arguments[0]); "
                    "dial.value = arguments[1]; dial.oninput?.(); dial.onchange?.()", name, value)


# ---- a server ----
class Slow(Engine):
    """An engine that takes its time, so that one can see it write."""

    def write(self, request):
        for part in super().write(request):
            time.sleep(0.01)
            yield part


def engine(seed, chats):
    model = GPT(GPTConfig(TOKENIZER.vocab_size, seq_len=512, n_layer=2, n_head=2, n_kv_head=1,
                          d_model=32, d_ff=64), seed).requires_grad_(False)
    for weight in model.parameters():  # a new one's blocks add 0
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(seed))
    made = Slow(model, TOKENIZER)
    made.chats, made.run = chats, None
    return made


def found(server, body):
    """Instead of routes.look_back(), as these models have no training text."""
    return {"length": 2, "count": 1, "of": "the text it was trained on", "match": "b",
            "places": [{"source": WILD, "document": 3, "before": "a", "after": "c"}]}


@contextmanager
def serving(**more):
    models = {"talks": lambda: engine(0, True), "base": lambda: engine(1, False)}
    with serve.Server(("127.0.0.1", 0), models, page=PAGE, say=lambda line: None, **more) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server():
    with pytest.MonkeyPatch.context() as patch:
        for route, answer in {**MORE, ("POST", "/api/lookback"): found}.items():
            patch.setitem(serve.ROUTES, route, answer)
        with serving() as server:
            yield server


@pytest.fixture(scope="module")
def tab():
    process = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        line = next(line for line in process.stdout if "started successfully on port" in line)
        browser = Browser(f"http://127.0.0.1:{line.split()[-1].rstrip('.')}")
        yield browser
        send(browser.at, method="DELETE")
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def page(tab, server):
    """The page as it is when it is opened. Nothing may go wrong in it, nor be asked elsewhere."""
    open_page(tab, server)
    yield tab
    for entry in tab.call("/se/log", type="browser"):
        refused = entry["source"] == "network" and ("/v1/" in entry["message"]
                                                    or "/api/" in entry["message"])
        assert entry["level"] != "SEVERE" or refused, entry
    events = [json.loads(entry["message"])["message"]
              for entry in tab.call("/se/log", type="performance")]
    asked = {event["params"]["request"]["url"] for event in events
             if event["method"] == "Network.requestWillBeSent"}
    assert f"{server.url}/" in asked
    assert not [url for url in asked if not url.startswith(("http://127.0.0.1:", "data:"))]
    assert tab.js("return document.title") == "Token by token", "a text was read as HTML"


def open_page(tab, server):
    tab.call("/url", url=f"{server.url}/")
    tab.js("sessionStorage.clear()")
    tab.call("/url", url="about:blank")
    tab.call("/url", url=f"{server.url}/")


def opened(page, **dials):
    page.wait("document.querySelectorAll('#model option').length === 2")
    page.dial(seed=1, max_tokens=12, **dials)


def talk(page, text):
    """Send a message, and wait for the answer: the texts of all answers."""
    n = len(page.texts(".answer"))
    page.write("#question", text + ENTER)
    page.wait(f"document.querySelectorAll('.answer').length > {n} && !running")
    return page.texts(".answer .said")


# ---- what is tested ----
def test_a_conversation(page, server):
    """It is streamed, and is what the server answers to the same conversation."""
    opened(page, system="Be short.")
    [first] = talk(page, "Hi")
    said = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    dials = {"max_tokens": 12, "seed": 1, "temperature": 0.8}
    assert first == send(f"{server.url}/v1/chat/completions", {"messages": said, **dials})[
        "choices"][0]["message"]["content"]
    _, second = talk(page, "And?")
    said += [{"role": "assistant", "content": first}, {"role": "user", "content": "And?"}]
    assert second == send(f"{server.url}/v1/chat/completions", {"messages": said, **dials})[
        "choices"][0]["message"]["content"]
    assert page.texts(".question p") == ["Hi", "And?"]
    assert "a second" in page.texts(".answer .soft")[1]
    page.click("#new")
    assert not page.texts(".answer") and page.texts("#empty")


def test_keys_of_the_chat(page):
    """Shift and Enter begin a new line; Escape, or the button, stops; what is there stays."""
    opened(page)
    page.dial(max_tokens=400)
    page.write("#question", "one")
    page.press(ENTER, held=SHIFT)
    page.press("two" + ENTER)
    page.wait("document.querySelector('.answer .said').textContent")
    page.press(ESCAPE)
    page.wait("!running")
    assert page.texts(".question p") == ["one\ntwo"] and page.texts(".answer .soft") == ["Stopped."]
    assert page.texts(".answer .said")[0]
    page.write("#question", "again" + ENTER)
    page.wait("turns.length === 2 && turns[1].answers[0].text")
    page.click("#send", "Stop")
    page.wait("!running")
    assert page.texts(".answer .soft") == ["Stopped."] * 2
    assert page.js("return document.activeElement.id") == "question"


def test_edit_and_regenerate(page):
    opened(page)
    first, _, last = [talk(page, text) for text in ("one", "two", "three")][-1]
    page.click(".answer button", "Regenerate")
    page.wait("!running")
    assert page.texts(".answer .said")[2] == last, "the same seed writes the same text"
    page.js("document.querySelectorAll('.question button')[1].click()")
    page.js("document.querySelector('.question textarea').select()")
    page.press("zwei")
    page.click(".question form button", "Ask again")
    page.wait("!running && turns.length === 2")
    assert page.texts(".question p") == ["one", "zwei"] and page.texts(".answer .said")[0] == first


def test_two_models(page):
    """They answer at the same time; the page says which was not made for it."""
    opened(page)
    assert not page.texts("#notice")
    page.dial(compare="base", max_tokens=200)
    assert page.texts("#notice b") == ["base"]
    page.write("#question", "Hi" + ENTER)
    page.wait("running && turns[0].answers.length === 2 && turns[0].answers.every((a) => a.text)")
    page.wait("!running")
    assert page.texts(".answer h2") == ["talks", "base"] and len(set(page.texts(".said"))) == 3
    page.click("#to-text")
    page.wait("document.querySelector('#text').checkVisibility()")


def test_text_stays_text(page):
    opened(page)
    talk(page, WILD)
    assert page.texts(".question p") == [WILD]
    page.click(".answer button", "Microscope")
    page.wait("document.querySelector('#source h3, #source p')")
    assert "onerror" in "".join(page.texts(".token")), "the prompt's tokens are shown, too"
    assert page.js("return survey.chosen") >= len(WILD), "a token of the answer is chosen first"
    assert not page.js("return document.querySelector('main img, main script')")


def test_errors_are_sentences(page):
    opened(page)
    page.js("askModels(0, 'x'.repeat(600))")
    page.wait("!running && turns.length")
    [error] = page.texts(".answer .wrong")
    assert error.startswith("The prompt has 6") and error.endswith("window of 512.")


def test_a_text_goes_on(page):
    """The new text is marked until Tab accepts it; Escape drops it."""
    opened(page)
    page.click(".tab", "Text")
    page.write("#draft", "Once")
    page.press(ENTER, held=CONTROL)
    page.wait("offer && !running")
    [new] = page.texts("#shadow mark")
    assert new and page.js("return draft.value") == f"Once{new}"
    page.press(TAB)
    assert page.js("return draft.value") == f"Once{new}" and not page.texts("#shadow mark")
    page.press(ENTER, held=CONTROL)
    page.wait("offer && !running")
    page.press(ESCAPE)
    assert page.js("return draft.value") == f"Once{new}"
    assert page.js("return document.activeElement.id") == "draft"
    assert "Fill" not in "".join(page.texts("#text button")), "this model can't"


def test_fill_in_at_the_cursor(page, server, monkeypatch):
    bodies, complete = [], serve.ROUTES["POST", "/v1/completions"]
    monkeypatch.setitem(serve.ROUTES, ("GET", "/api/models"), lambda server, body: {"data": [
        {"id": "base", "chats": False, "window": 512, "fim": True, "loaded": True}]})
    monkeypatch.setitem(serve.ROUTES, ("POST", "/v1/completions"), lambda server, body: (
        bodies.append({**body}), body.pop("suffix"), complete(server, body))[2])
    open_page(page, server)
    page.wait("document.querySelectorAll('#model option').length === 1")
    page.dial(seed=1, max_tokens=5)
    page.click(".tab", "Text")
    page.write("#draft", "ac" + LEFT)
    page.click("#fill")
    page.wait("offer && !running")
    assert (bodies[0]["prompt"], bodies[0]["suffix"]) == ("a", "c")
    [new] = page.texts("#shadow mark")
    assert page.js("return draft.value") == f"a{new}c"


def test_the_microscope(page):
    """Every token can be chosen by keys, half a character too; and so can every head."""
    opened(page)
    page.click(".tab", "Microscope")
    page.write("#sample", "é<b>")
    page.click("#look button")
    page.wait("document.querySelector('#source h3, #source p')")
    n = page.js("return document.querySelectorAll('.token').length")
    assert n >= 5 and page.js("return document.activeElement.className").startswith("token")
    page.press(LEFT * n)
    assert "nothing predicts" in page.texts("#facts")[0] and not page.texts("#top tr")
    seen = []
    for _ in range(n - 1):
        page.press(RIGHT)
        seen += page.texts("#facts h2")
        assert page.texts("#facts dt") == ["probability", "surprise", "rank"]
    assert seen[-3:] == ["<", "b", ">"] and "c3" in seen, "half of é is shown in hex"
    page.wait("document.querySelectorAll('#layers tbody tr').length === 2")
    assert 2 <= len(page.texts("#top tr")) <= 10 and len(page.texts("#layers tbody tr")) == 2
    page.js("document.querySelector('.head').focus()")
    page.press(RIGHT)
    assert page.js("return document.querySelectorAll('.head').length") == 4
    looks = page.js("return [...document.querySelectorAll('.token')].map((token) => "
                    "Number(token.style.getPropertyValue('--look')))")
    assert len(looks) == n and sum(look * look for look in looks) == pytest.approx(1, abs=1e-3)
    assert looks[-1] == 0, "a token doesn't look at itself to be predicted"
    page.click("#gaze button", "Back")
    assert not page.js("return document.querySelector('.gazed')")


def test_a_telephone(page, server):
    """Nothing is wider than a small screen, and what is pressed is large enough for a finger."""
    page.call("/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride", params={
        "width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})
    try:
        open_page(page, server)
        opened(page)
        talk(page, "Hi")
        for view in ("Chat", "Text", "Microscope"):
            page.click(".tab", view)
            assert page.js("return document.documentElement.scrollWidth") <= 390, view
            low = page.js("return [...document.querySelectorAll('button')].filter((b) => "
                          "b.checkVisibility() && b.getBoundingClientRect().height < 24)"
                          ".map((b) => b.textContent)")
            assert not low, view
    finally:
        page.call("/goog/cdp/execute", cmd="Emulation.clearDeviceMetricsOverride", params={})


def test_a_key(page, server):
    """A server with --api-key: the page asks for it, again after a wrong one."""
    with serving(api_key="secret") as locked:
        page.call("/url", url=f"{locked.url}/")
        page.wait("document.querySelector('#locked').open")
        page.write("#key", "wrong" + ENTER)
        page.wait("document.querySelector('#locked').open && "
                  "document.querySelector('#locked-note').textContent.includes('wrong')")
        page.js("key.value = ''")
        page.write("#key", "secret" + ENTER)
        opened(page)
        assert len(talk(page, "Hi")) == 1 and not page.texts(".wrong")


@pytest.mark.skipif(not AXE.exists(), reason="needs npm install --no-save axe-core")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(page, scheme):
    """axe-core finds nothing in any view."""
    opened(page, compare="base")
    page.js("document.documentElement.style.colorScheme = arguments[0]", scheme)
    page.js(AXE.read_text(encoding="utf-8"))

    def check(view):
        found = page.call("/execute/async", args=[], script="""const done = arguments[0];
            axe.run().then(({violations}) => done(violations.map(({id, nodes}) =>
                [id, nodes[0].html, nodes[0].failureSummary])), (error) => done([`${error}`]))""")
        assert not found, f"{view}: {found}"
    check("an empty chat")
    talk(page, "Hi")
    check("a chat")
    page.click(".answer button", "Microscope")
    page.wait("document.querySelector('#source h3, #source p')")
    check("the microscope")
    page.click(".tab", "Text")
    page.write("#draft", "Once")
    page.press(ENTER, held=CONTROL)
    page.wait("offer && !running")
    check("a text")
