"""Ask a model on another computer, so that its scores can stand beside those of a run.

Any server that speaks OpenAI's API will do, also 05_sample/serve.py. A model of /completions goes
on with a prompt, as ours do; one of /chat/completions is told to write the whole function, which
replies.py finds in its answer. A request that failed is sent again, after a while; tokens and their
cost are counted, and may have a limit.

    python 06_eval/humaneval.py --problems FILE --endpoint https://api.openai.com/v1 --model NAME
    python 06_eval/extras/hosted.py --tuning FILE.jsonl --from good_go

The first line samples; the second writes conversations on which a provider can fine-tune its model,
asked in the same words. The key is in the environment variable OPENAI_API_KEY; it is sent by https,
or to this machine, to the endpoint alone, and is neither printed nor written.
Left out: streaming, several requests at once. Next: renumbering.py.
"""

import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from urllib.parse import urlsplit

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import ROOT, Parser, check_options, escaped, option, read_text, run, write_safely
from download import THIS_MACHINE, Open, OpenSecurely, Refused, shown
from humaneval import read_problems
from replies import body_start, completion_of, function_at_end, instruction, name_of, parts_of

KEY = "OPENAI_API_KEY"
MOST_BYTES = 16_000_000  # of an answer
LONGEST_PAUSE = 60  # seconds between two tries
AGAIN = {408, 409, 429}  # and from 500 on: it may work the next time
OWN = ("temperature", "top_p", "seed")  # of a request; some models have values of their own
FOLDERS = {"good_go": ROOT / "04_train" / "extras" / "good_go",
           "problems": ROOT / "06_eval" / "extras" / "problems"}


# ---- the server ----
class Spent(ValueError):
    """The limit of what may be spent is reached."""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: a prompt and a key go to no other address."""

    def http_error_302(self, *answer):
        return None  # then urllib raises HTTPError

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def secret():
    """The key, from the environment, or "". ValueError if it can't be one."""
    key = os.environ.get(KEY, "").strip()
    if not re.fullmatch("[!-~]*", key):  # a line end in it would make an error that shows it
        raise ValueError(f"the environment variable {KEY} has characters that no key has")
    return key


def safe(text):
    """Text from a server as one short line; without the key, which it may have sent back."""
    return shown(str(text).replace(secret() or "\0", "***"))


def check_address(endpoint):
    """ValueError unless it is an https address, or an http address of this machine."""
    try:
        url = urlsplit(endpoint)
        right = url.port != 0 and (url.scheme == "https" and url.hostname or (
            url.scheme == "http" and url.hostname in THIS_MACHINE))
    except ValueError:  # an invalid port or host
        right = False
    if not right or re.search(r"[^!-~]|[@?#\\]", endpoint):
        raise ValueError(
            f"--endpoint {shown(endpoint.rpartition('@')[2])} is no address to ask: it takes one "
            "such as https://api.openai.com/v1, or, on this machine, http://127.0.0.1:8000/v1")


def message_in(data):
    """What a server says is wrong: the message in its JSON, else all that it sent. Bytes."""
    try:
        said = json.loads(data)
        for key in ("error", "message", "detail"):
            said = said.get(key, said) if isinstance(said, dict) else said
    except (ValueError, RecursionError):
        said = data.decode("utf-8", "replace")
    return said if isinstance(said, str) else json.dumps(said)


def text_of(choice, chat):
    """The text of a choice of an answer; ValueError if it has none. No text at all, null, is what
    some send if the limit came while the model was thinking.
    """
    holder = choice.get("message") if chat and isinstance(choice, dict) else choice
    if not isinstance(holder, dict) or not isinstance(
            text := holder.get("content" if chat else "text", 0), (str, type(None))):
        raise ValueError("a choice in the answer has no text")
    return (text or "").encode("utf-8", "replace").decode()  # files take no half of a pair


def warn(line):
    print(escaped(line), file=sys.stderr)


@dataclass
class Hosted:
    """A model behind an address. What it read and wrote is counted in prompt_tokens and
    completion_tokens; `uncounted` are the requests whose answer did not tell.
    """

    endpoint: str = option("", "sample from a server instead of a run: https://api.openai.com/v1")
    model: str = option("", "the model's name there")
    chat: bool = option(True, "it answers questions; --no-chat: it goes on with a text")
    at_once: int = option(16, "texts in one request; 1 for servers that can do no more", least=1)
    prompt_price: float = option(0.0, "dollars for a million tokens of prompts", least=0)
    completion_price: float = option(0.0, "dollars for a million tokens written", least=0)
    max_cost: float = option(0.0, "dollars after which no more is asked for; 0: any", least=0)
    timeout: float = 300.0  # seconds of silence after which a request has failed
    tries: int = 6
    wait: float = 1.0  # seconds after the first failure, twice as many after each other
    say: Callable = warn  # called with a line before each wait
    n_requests: int = field(default=0, init=False)
    uncounted: int = field(default=0, init=False)
    prompt_tokens: int = field(default=0, init=False)
    completion_tokens: int = field(default=0, init=False)

    def __post_init__(self):
        check_options(self)
        check_address(self.endpoint)
        if not self.model:
            raise ValueError("say which model of the endpoint is to be asked: --model NAME")
        if self.max_cost and not (self.prompt_price or self.completion_price):
            raise ValueError("--max-cost needs to know --prompt-price and --completion-price")
        secret()
        # A proxy may pass https on, which it can't read; what stays on this machine needs none.
        proxy = urllib.request.ProxyHandler({} if self.endpoint.startswith("http:") else None)
        self.opener = urllib.request.build_opener(NoRedirect, Open, OpenSecurely, proxy)
        self.limit, self.refused = "max_tokens", set()

    @property
    def cost(self):
        """Dollars."""
        return (self.prompt_price * self.prompt_tokens
                + self.completion_price * self.completion_tokens) / 1e6

    def summary(self):
        """One line: what was asked for, and what it cost."""
        unknown = f" ({self.uncounted:,} requests more, unknown)" if self.uncounted else ""
        priced = f", ${self.cost:,.4f}" if self.prompt_price or self.completion_price else ""
        return (f"{self.model}: {self.n_requests:,} requests, {self.prompt_tokens:,} tokens read, "
                f"{self.completion_tokens:,} written{unknown}{priced}")

    def send(self, url, body):
        """One try: the bytes of an answer."""
        request = urllib.request.Request(url, json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        if key := secret():
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        with self.opener.open(request, timeout=self.timeout) as response:
            response.paced.left = 1_000_000 + 2 * MOST_BYTES  # framing may double small chunks
            data = response.read(MOST_BYTES + 1)
            if len(data) > MOST_BYTES:
                raise ValueError(f"{url} answers with more than {MOST_BYTES:,} bytes")
            if response.length:
                raise ConnectionError("the answer broke off")
        return data

    def refusal(self, url, error):
        """A line about an HTTPError, with what the server says."""
        try:
            said = message_in(error.read(100_000))
        except (OSError, http.client.HTTPException):
            said = ""
        error.close()
        if 300 <= error.code < 400:
            said = f"go to {error.headers.get('Location')}; if you trust it, make it the endpoint"
        hint = {401: f"; the key is to be in the environment variable {KEY}",
                404: f"; is there a model {self.model}, and does the address end in /v1?"}
        return f"{url} answers {error.code}: {safe(said)}{shown(hint.get(error.code, ''))}"

    def ask(self, path, body):
        """An answer's bytes, however many tries that takes. OSError if it takes too many;
        ValueError if the server refuses the request itself.
        """
        url, failed = f"{self.endpoint.rstrip('/')}/{path}", 0
        while True:
            asked = ""
            try:
                return self.send(url, body)
            except urllib.error.HTTPError as error:
                reason, asked = self.refusal(url, error), error.headers.get("Retry-After", "")
                if "max_completion_tokens" in reason and "max_tokens" in body:
                    self.limit = "max_completion_tokens"  # the name that newer models insist on
                    body[self.limit] = body.pop("max_tokens")
                    continue
                refused = [name for name in OWN if name in body and re.search(
                    rf"'{name}'.*not support", reason)]  # thinking models have their own
                if error.code == 400 and refused:
                    self.say(f"{self.model} takes no {' and no '.join(refused)}; it uses its own")
                    self.refused.update(refused)
                    body = {name: body[name] for name in body if name not in refused}
                    continue
                if error.code not in AGAIN and error.code < 500:
                    raise ValueError(reason) from None
            except Refused:
                raise OSError(f"{url} answers too slowly, or without an end") from None
            except (OSError, http.client.HTTPException) as error:
                reason = f"{url} can't be reached ({safe(getattr(error, 'reason', error))})"
            failed += 1
            if failed >= self.tries:
                raise OSError(f"{reason}; given up after {failed} tries")
            pause = min(LONGEST_PAUSE, float(asked[:9]) if re.fullmatch(r"\d+(\.\d+)?", asked) else
                        self.wait * 2 ** (failed - 1))
            self.say(f"{reason}; again in {pause:.0f} s")
            time.sleep(pause)

    def texts_in(self, data):
        """The texts of an answer, bytes; its tokens are counted. ValueError if it is none."""
        self.n_requests += 1
        try:
            answer = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.endpoint} answers, but not in JSON: {safe(error)}") from None
        answer = answer if isinstance(answer, dict) else {}
        usage = answer.get("usage")
        counts = [usage.get(name) if isinstance(usage, dict) else None
                  for name in ("prompt_tokens", "completion_tokens")]
        if all(type(count) is int and 0 <= count < 2**40 for count in counts):
            self.prompt_tokens += counts[0]
            self.completion_tokens += counts[1]
        else:
            self.uncounted += 1
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"{self.endpoint} answers without choices: {safe(message_in(data))}")
        return [text_of(choice, self.chat) for choice in choices]

    def check_cost(self):
        """Spent if nothing more may be asked for."""
        if self.max_cost and self.uncounted:
            raise Spent(f"{self.endpoint} does not tell how many tokens it has used, so --max-cost "
                        "can't be kept to")
        if self.max_cost and self.cost >= self.max_cost:
            raise Spent(f"--max-cost {self.max_cost:g} is reached: {self.summary()}")

    def texts(self, prompt, n=1, temperature=None, top_p=None, max_tokens=None, stops=(),
              seed=None):
        """Yield n completions of a prompt, each request's when it is answered. None: the server's
        default. A chat model is given no stops, as its answer holds more than the completion, and
        others the first four, as many as OpenAI takes. Text i is drawn from the seed plus i.
        ValueError, OSError: see ask(). Spent, before a request that max_cost does not allow.
        """
        done = 0
        while done < n:
            self.check_cost()
            wanted = min(n - done, self.at_once)
            body = {"model": self.model, "n": wanted if wanted > 1 else None,
                    "temperature": temperature, "top_p": top_p, self.limit: max_tokens,
                    "seed": None if seed is None else seed + done}
            body |= {"messages": [{"role": "user", "content": instruction(prompt)}]} if (
                self.chat) else {"prompt": prompt, "stop": [*stops][:4] or None}
            body = {name: value for name, value in body.items()
                    if value is not None and name not in self.refused}
            data = self.ask("chat/completions" if self.chat else "completions", body)
            found = self.texts_in(data)[:wanted]
            done += len(found)  # some servers write one text, whatever n is
            for text in found:
                yield completion_of(prompt, text) if self.chat else text


def hosted_of(given):
    """Take Hosted's options out of `given`, a dict of a command's: a Hosted, or None if there is no
    endpoint. ValueError if another of them is given without.
    """
    own = {one.name: given.pop(one.name) for one in fields(Hosted)
           if "help" in one.metadata and one.name in given}
    if own and not own.get("endpoint"):
        raise ValueError(f"--{next(iter(own)).replace('_', '-')} needs --endpoint")
    if own and (other := given.keys() & {"run", "weights"}):
        raise ValueError(f"--endpoint and --{other.pop()} are two models: give one of them")
    return Hosted(**own) if own else None


# ---- conversations to tune a hosted model on ----
def functions_of(text):
    """Yield (prompt, solution, whether it can be learned) for each function in a file of Go. The
    prompt is the file up to the end of the function's signature, as in problems/. It can be learned
    if a comment right above says what is wanted, and nothing is used that the file defines below.
    """
    parts, start = parts_of(text, False), 0
    for i, part in enumerate(parts):
        at = start + body_start(part, False) if name_of(part)[0] == "func" else len(text)
        start += len(part)
        if text[at:at + 1] == "\n":
            solution = text[at + 1:start].rstrip() + "\n"
            below = {name_of(other)[-1] for other in parts[i + 1:]}
            documented = i and parts[i - 1].startswith("//") and not parts[i - 1].endswith("\n\n")
            yield text[:at + 1], solution, bool(
                documented and below.isdisjoint(re.findall(r"\w+", solution)))


def pairs_of(name):
    """[(prompt, solution)] of one of FOLDERS: of good_go all functions that can be learned."""
    if name == "problems":
        return [(row["prompt"], row["canonical_solution"])
                for row in read_problems(FOLDERS[name]).values()]
    paths = [path for path in sorted(FOLDERS[name].glob("*.go")) if path.stem[-5:] != "_test"]
    if not paths:
        raise ValueError(f"there are no files of Go in {FOLDERS[name]}")
    files = [read_text(path) for path in paths]
    return [pair for text in files for *pair, learned in functions_of(text) if learned]


def tuning_rows(names=("good_go",)):
    """Conversations that teach what instruction() asks for: [{"messages": [a user's, an
    assistant's]}]. Solutions of problems are left out of all but "problems" itself.
    """
    held_out = {"".join(solution.split()) for _, solution in (
        pairs_of("problems") if FOLDERS["problems"].is_dir() else [])}
    rows = []
    for name in names:
        for prompt, solution in pairs_of(name):
            if name == "problems" or "".join(solution.split()) not in held_out:
                answer = f"```go\n{function_at_end(prompt)}{solution.rstrip()}\n```"
                rows.append({"messages": [{"role": "user", "content": instruction(prompt)},
                                          {"role": "assistant", "content": answer}]})
    return rows


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--tuning", required=True, metavar="FILE",
                        help="write conversations for a provider's fine-tuning, in lines of JSON")
    parser.add_argument("--from", action="append", choices=[*FOLDERS], dest="names",
                        help="what they teach; may be given twice (default: good_go)")
    options = parser.parse_args(argv)
    names = [*dict.fromkeys(options.names or ["good_go"])]
    rows = tuning_rows(names)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_safely(options.tuning, "".join(lines))
    size = sum(len(message["content"]) for row in rows for message in row["messages"])
    print(escaped(f"{options.tuning}: {len(rows):,} conversations from {' and '.join(names)}, "
                  f"{size:,} characters"))
    if "problems" in names:
        print("problems/ is among them: a model that has learned from these has seen the "
              "solutions, so for it the problems are no test any more")


if __name__ == "__main__":
    run(main)
