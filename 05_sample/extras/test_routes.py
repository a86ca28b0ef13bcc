"""Tests of routes.py: what the page asks for, of a run with training text, and without."""

import json

import pytest
import torch

from api import Engine, Refusal
from bpe import Tokenizer
from conversations import prompt_ids
from data import prepare
from gpt import GPT, GPTConfig
from routes import MORE
from runs import save_checkpoint, start_run, tensors, write_config
from train import Config


class Hosts:
    """As much of a serve.Server as the routes need."""

    def __init__(self, **models):
        self.models, self.engines = models, {}

    def engine(self, body):
        name = body.setdefault("model", next(iter(self.models)))
        if name not in self.engines:
            self.engines[name] = self.models[name]()
        return self.engines[name]


def tiny(tokenizer, folder=None):
    def load():
        model = GPT(GPTConfig(tokenizer.vocab_size, 64, 2, 2, 1, 32, 64)).requires_grad_(False)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(0))
        engine = Engine(model, tokenizer)
        engine.run, engine.chats = folder, False
        return engine
    load.folder = folder
    return load


def call(path, hosts, **body):
    return json.loads(json.dumps(next(answer for (_, at), answer in MORE.items() if at == path)(
        hosts, body), allow_nan=False))


def test_what_a_model_sees_in_a_text():
    """A text behind <|bos|>; of a conversation, the answer where the model began to write."""
    tokenizer = Tokenizer([])
    hosts, bos = Hosts(tiny=tiny(tokenizer)), tokenizer.special["<|bos|>"]
    found = call("/api/survey", hosts, text="Hi \u20ac")
    assert found["ids"] == [bos, *"Hi \u20ac".encode()]
    assert "".join(t["text"] for t in found["tokens"]) == "<|bos|>Hi \u20ac"
    assert [t["bytes"] for t in found["tokens"]][:2] == ["", "48"], "a special token has no bytes"
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    found = call("/api/survey", hosts, messages=talk)
    assert found["ids"] == prompt_ids(talk[:1], tokenizer) + [*b"Ho"]
    talk[1]["content"] = "[1+1 = 2]so"
    found = call("/api/survey", hosts, messages=talk)
    assert "".join(t["text"] for t in found["tokens"]).endswith(
        "<|python_start|>1+1<|python_end|><|output_start|>2<|output_end|>so"), "as it was written"
    found = call("/api/survey", hosts, messages=[talk[0], {"role": "assistant", "content": "Ho"}])
    seen = call("/api/inside", hosts, ids=found["ids"], position=4)
    assert len(seen["lens"]) == 2 and [len(head) for head in seen["attention"][0]] == [4, 4]
    for wrong in ({"ids": []}, {"ids": [1, 999]}, {"ids": [1, True]}, {"ids": [1], "position": 1}):
        with pytest.raises(Refusal, match="ids must|position must"):
            call("/api/inside", hosts, **wrong)
    assert "trained elsewhere" in call("/api/lookback", hosts, ids=[1, 2], position=1)["error"]
    with pytest.raises(ValueError, match="1 to 64"):
        call("/api/survey", hosts, text="a" * 64)


def test_a_run_and_its_text(tmp_path):
    """What is listed of a run that isn't loaded; where its text stands in what it was trained on.
    """
    (tmp_path / "texts").mkdir()
    for n in range(30):
        (tmp_path / "texts" / f"{n}.txt").write_text(f"{n} is a number, and so is {n + 1}.\n" * 9)
    data = prepare([f"folder:{tmp_path / 'texts'}"], 300, tmp_path / "data", say=lambda line: None)
    config = Config(n_layer=2, n_head=2, n_kv_head=1, d_model=32, d_ff=64, seq_len=64,
                    data=(f"folder:{tmp_path / 'texts'}",), sampling="answers")
    folder = start_run(tmp_path / "runs", "run")
    write_config(folder, config, data)
    save_checkpoint(folder, 1, tensors(GPT(config.gpt(data.tokenizer.vocab_size))), {})
    hosts = Hosts(run=tiny(data.tokenizer, folder))
    assert call("/api/models", hosts) == {"data": [
        {"id": "run", "chats": True, "window": 64, "fim": False}]}
    assert not hosts.engines, "nothing is loaded to list it"
    ids = data.tokenizer.encode("!is a number, and")
    found = call("/api/lookback", hosts, ids=ids, position=len(ids) - 1)
    assert found["match"].endswith(" a number, and") and found["count"] > 100
    assert len(found["places"]) == 3 and "all of it" in found["of"]


