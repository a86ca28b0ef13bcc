"""Tests of api.py: fields of a request, then what is written; test_serve.py has whole answers."""

import contextlib
from types import SimpleNamespace

import pytest
import torch

from api import (Engine, Refusal, Request, alternatives, chat, field, messages_of, prompts_of,
                 requests_of, stops_of, text_logprobs, token_text)
from bpe import Tokenizer
from sample import Sampling, stream
from test_chat import TOKENIZER, a_model


@contextlib.contextmanager
def refused(message, why):
    """A context in which a Refusal with this message is raised; else the test fails and says why.
    """
    try:
        yield
    except Refusal as refusal:
        assert message in str(refusal) and refusal.param == message.split()[0], str(refusal)
    else:
        raise AssertionError(f"nothing was refused, though {why}")


def test_field():
    body = {"n": 3, "t": 0.5, "yes": True, "nothing": None, "nan": float("nan")}
    assert field(body, "n", int) == 3 and field(body, "n", float, 0.0, 1, 3) == 3
    assert field(body, "missing", int, 7) == field(body, "nothing", int, 7) == 7, (
        "a field that is missing or null has the default")
    assert field(body, "yes", bool) is True
    for name, kind in (("t", int), ("yes", int), ("yes", float), ("n", bool), ("n", str)):
        with refused(f"{name} must be of type {kind.__name__}", f"{body[name]!r} is no {kind}"):
            field(body, name, kind)
    for name in ("n", "nan"):
        with refused(f"{name} must be from 4 to 9", f"{body[name]} is not from 4 to 9, so it must "
                     "be refused"):
            field(body, name, float, None, 4, 9)


def test_stops_of():
    assert stops_of({}) == stops_of({"stop": None}) == ()
    assert stops_of({"stop": "a"}) == ("a",) and stops_of({"stop": ["a", "b"]}) == ("a", "b")
    for wrong in ("", ["a", ""], [1], 3, ["a"] * 17, "a" * 1001):
        with pytest.raises(Refusal, match="stop must be a string or up to 16"):
            stops_of({"stop": wrong})


def test_messages_of():
    """Parts are joined, developer is system; the last one's role is what is wanted."""
    user, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}
    parts = {"role": "developer", "content": [{"type": "text", "text": t} for t in ("a", "b")]}
    assert messages_of({"messages": [parts, user]}) == [{"role": "system", "content": "ab"}, user]
    assert messages_of({"messages": [user, answer]}, "assistant") == [user, answer]
    for wrong, words in (([user, answer], "must end with one of the role user"),
                         ([], "must end"), ([3], r"messages\[0\] must be an object"),
                         ([user, {"role": "tool", "content": ""}], "no role 'tool'"),
                         ([{"role": "user", "content": [{"image": 1}]}], "must be a string, or")):
        with pytest.raises(Refusal, match=words):
            messages_of({"messages": wrong})


def test_prompts_of():
    bos, special = TOKENIZER.special["<|bos|>"], ("<|fim_prefix|>", "<|fim_middle|>",
                                                  "<|fim_suffix|>")
    assert prompts_of({}, TOKENIZER, 265) == [("", [bos])]
    assert prompts_of({"prompt": "ab"}, TOKENIZER, 265) == [("ab", [bos, 97, 98])]
    assert prompts_of({"prompt": [bos, 98]}, TOKENIZER, 265) == [("b", [bos, 98])], (
        "ids are taken as given; special tokens have no text")
    assert prompts_of({"prompt": ["a", [98]]}, TOKENIZER, 265) == [("a", [bos, 97]), ("b", [98])]
    with pytest.raises(ValueError, match="can't fill a gap"):
        prompts_of({"prompt": "a", "suffix": "b"}, TOKENIZER, 265)
    filling = Tokenizer([], special_tokens=("<|bos|>", *special))
    prefix, middle, suffix = (filling.special[name] for name in special)
    assert prompts_of({"prompt": "a", "suffix": "b"}, filling, 265) == [
        ("a", [filling.special["<|bos|>"], prefix, 97, suffix, 98, middle])]
    with pytest.raises(Refusal, match="must be a single string"):
        prompts_of({"prompt": ["a", "c"], "suffix": "b"}, filling, 265)


def test_requests_of():
    """max_completion_tokens counts instead of max_tokens; without either, a default or the rest of
    the window. A prompt that leaves no room is refused.
    """
    def lengths(body, prompt=10, default=None):
        return [r.n_tokens for r in requests_of(body, [[1] * prompt], 64, default, 0)]
    assert lengths({}) == [54] and lengths({}, default=16) == [16]
    assert lengths({"max_tokens": 5}) == [5] and lengths({"max_tokens": 500}) == [54]
    assert lengths({"max_tokens": 5, "max_completion_tokens": 7, "n": 2}) == [7, 7]
    assert lengths({"max_tokens": 0}, prompt=64) == [0]
    for body, prompt in (({}, 64), ({"max_tokens": 1}, 64), ({"max_tokens": 0}, 65)):
        with pytest.raises(Refusal, match="too many for the model's window of 64") as refusal:
            lengths(body, prompt)
        assert refusal.value.code == "context_length_exceeded"
    with pytest.raises(Refusal, match="3 prompts with n = 11 make more than 32 texts"):
        requests_of({"n": 11}, [[1]] * 3, 64, None, 0)
    seeds = [r.sampling.seed for r in requests_of({"n": 3, "seed": 7}, [[1]], 64, None, 0)]
    assert seeds == [7, 8, 9], "each further text adds 1 to the seed"
    assert requests_of({}, [[1]], 64, None, 0) != requests_of({}, [[1]], 64, None, 0), (
        "without a seed each request draws another")


def test_logprobs_of_ids():
    assert token_text(97, TOKENIZER) == "a" and token_text(0xe2, TOKENIZER) == "bytes:\\xe2"
    assert text_logprobs(TOKENIZER, [97, 98], [None, -1.0], [[], [(98, -1.0)]], 5) == {
        "tokens": ["a", "b"], "token_logprobs": [None, -1.0], "top_logprobs": [None, {"b": -1.0}],
        "text_offset": [5, 6]}
    logits = torch.tensor([0.0, 2.0, 1.0])
    assert [i for i, _ in alternatives(logits, 2)] == [1, 2] and len(alternatives(logits, 9)) == 3


def test_parts_of_an_answer():
    """Of a streamed chat: the role first, then text, then how it ended, in the last part alone."""
    server = SimpleNamespace(engine=lambda body: body.setdefault("model", "tiny") and Engine(
        a_model(), TOKENIZER))
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "seed": 1, "n": 2}
    whole = [part for part in chat(server, dict(body)) if part][-1]["choices"]
    parts = [part["choices"][0] for part in chat(server, body | {"stream": True})]
    for n in range(2):
        mine = [part for part in parts if part["index"] == n]
        assert [part["finish_reason"] for part in mine[:-1]] == [None] * (len(mine) - 1), (
            "only the last part says how the text ended")
        assert mine[-1]["finish_reason"] == "length" and mine[-1]["delta"] == {}
        assert ["role" in part["delta"] for part in mine] == [True] + [False] * (len(mine) - 1), (
            "only the first part says who speaks")
        text = "".join(part["delta"].get("content", "") for part in mine)
        assert text == whole[n]["message"]["content"], "all parts together are the whole text"


def test_what_the_calculator_writes_was_certain(monkeypatch):
    """Its ids have the log-probability 0, and no alternatives. The client's copy of the answer, in
    the next turn, is read as what the model wrote.
    """
    special, engine = TOKENIZER.special, Engine(a_model(), TOKENIZER)
    script = [special["<|python_start|>"], *b"1+1", special["<|python_end|>"], 0, 0, 0, 65]
    script = iter(script)
    real = engine.memory.generate

    def generate(model, prompts, n_tokens, pick, n_samples):
        return real(model, prompts, n_tokens, lambda logits: pick(logits) * 0 + next(script),
                    n_samples)
    monkeypatch.setattr(engine.memory, "generate", generate)
    row = [row for _, row in engine.write(Request([97], 9, Sampling(), tops=2))][-1]
    forced = [special["<|output_start|>"], *b"2", special["<|output_end|>"]]
    assert row.text == "[1+1 = 2]A" and row.ids[5:8] == forced
    assert [p == 0 for p in row.logprobs] == [False] * 5 + [True] * 3 + [False]
    assert [len(top) for top in row.tops] == [2] * 5 + [0] * 3 + [2]
    asked = []
    server = SimpleNamespace(engine=lambda body: SimpleNamespace(
        tokenizer=TOKENIZER, model=engine.model, together=False,
        write=lambda request: asked.append(request.prompt) or iter(())))
    messages = [{"role": role, "content": text} for role, text in (
        ("user", "a"), ("assistant", row.text), ("user", "b"))]
    with contextlib.suppress(Exception):
        list(chat(server, {"model": "tiny", "messages": messages}))
    assert "<|python_start|>1+1<|python_end|><|output_start|>2<" in TOKENIZER.decode(asked[0])


def test_engine():
    """What it writes is what stream() writes; scores are the model's own."""
    engine, how = Engine(a_model(), TOKENIZER), Sampling(1.0, seed=4)
    row = [row for _, row in engine.write(Request([97, 98], 8, how, tops=2))][-1]
    alone = [row for *_, row in stream(a_model(), TOKENIZER, [[97, 98]], 8, how)][-1]
    assert (row.text, row.ids, row.finish) == (alone.text, alone.ids, alone.finish)
    assert len(row.tops) == len(row.ids) and all(len(top) == 2 for top in row.tops)
    ids = [*b"any text"]
    logps = a_model()(torch.tensor([ids]))[0].log_softmax(-1)
    scored = engine.score(ids, 1)
    assert [p for p, _ in scored] == pytest.approx(
        [logps[t, i].item() for t, i in enumerate(ids[1:])], abs=1e-4)
    assert [top[0][0] for _, top in scored] == logps[:-1].argmax(-1).tolist()
    waiting = engine.write(Request([97], 8, how))
    next(waiting)
    assert engine.free.locked()
    waiting.close()
    assert not engine.free.locked(), "a text that nobody waits for any more holds others up"
