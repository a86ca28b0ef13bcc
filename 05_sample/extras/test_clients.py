"""serve.py as other people's programs see it: the openai client, and lm-evaluation-harness, which
asks through /v1/completions.
"""

import logging
import threading

import pytest
import torch

from api import Engine
from batching import Batching
from bpe import Tokenizer
from conversations import prompt_ids
from gpt import GPT, GPTConfig
from sample import Sampling, stream
from serve import Server
from weights import export

TOKENIZER = Tokenizer.train(["a cat and a dog, and another cat " * 9], 300)


def a_model():
    model = GPT(GPTConfig(TOKENIZER.vocab_size, seq_len=128, n_layer=2, n_head=2, n_kv_head=1,
                          d_model=32, d_ff=64))
    for weight in model.parameters():  # a new one's blocks add 0
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return model.requires_grad_(False)


@pytest.fixture(scope="module", params=[Engine, Batching])
def address(request):
    with Server(("127.0.0.1", 0), {"tiny": lambda: request.param(a_model(), TOKENIZER)},
                api_key="secret", say=lambda line: None) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def alone(prompt, n_tokens, seed):
    return [row for *_, row in stream(a_model(), TOKENIZER, [prompt], n_tokens,
                                      Sampling(1.0, seed=seed))][-1]


def test_the_openai_client(address):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=address, api_key="secret", max_retries=0)
    assert [model.id for model in client.models.list()] == ["tiny"]
    messages = [{"role": "user", "content": "a cat"}]
    row = alone(prompt_ids(messages, TOKENIZER), 9, 3)
    how = {"model": "tiny", "messages": messages, "max_completion_tokens": 9, "seed": 3}
    answer = client.chat.completions.create(**how, logprobs=True, top_logprobs=2)
    choice = answer.choices[0]
    assert (choice.message.content, choice.finish_reason) == (row.text, row.finish)
    assert answer.usage.completion_tokens == len(row.ids)
    assert choice.logprobs.content[0].logprob == pytest.approx(row.logprobs[0], abs=1e-4)
    parts = [*client.chat.completions.create(**how, stream=True,
                                             stream_options={"include_usage": True})]
    assert "".join(part.choices[0].delta.content or "" for part in parts[:-1]) == row.text
    assert parts[-1].usage == answer.usage and not parts[-1].choices
    with client.chat.completions.stream(**how) as helper:  # puts the parts together itself
        whole = [event.delta for event in helper if event.type == "content.delta"]
    assert "".join(whole) == row.text
    texts = client.completions.create(model="tiny", prompt="a dog", n=2, seed=3, max_tokens=5)
    prompt = [TOKENIZER.special["<|bos|>"], *TOKENIZER.encode("a dog")]
    assert [c.text for c in texts.choices] == [alone(prompt, 5, 3 + i).text for i in range(2)]
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        client.completions.create(model="gpt", prompt="a")
    with pytest.raises(openai.BadRequestError, match="temperature must be from 0") as error:
        client.completions.create(model="tiny", prompt="a", temperature=-1)
    assert error.value.param == "temperature" and error.value.type == "invalid_request_error"
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=address, api_key="wrong", max_retries=0).models.list()


def test_the_harness(address, tmp_path, monkeypatch):
    """Log-likelihoods are the model's own, also of several in a request; texts are greedy."""
    for name in ("aiohttp", "tenacity", "transformers"):
        pytest.importorskip(name)
    completions = pytest.importorskip("lm_eval.models.openai_completions")
    Instance = pytest.importorskip("lm_eval.api.instance").Instance
    pytest.importorskip("safetensors")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr(logging.getLogger("lm_eval"), "disabled", True)
    export(a_model(), TOKENIZER, tmp_path / "model")
    theirs = completions.LocalCompletionsAPI(
        base_url=f"{address}/completions", model="tiny", tokenizer=str(tmp_path / "model"),
        tokenizer_backend="huggingface", batch_size=2, max_length=128)
    pairs = [("a cat and", " a dog"), ("a dog", ","), ("and another", " cat and a cat")]
    found = theirs.loglikelihood([Instance("loglikelihood", {}, pair, i)
                                  for i, pair in enumerate(pairs)], disable_tqdm=True)
    for (context, more), (nats, greedy) in zip(pairs, found):
        ids, n = TOKENIZER.encode(context + more), len(TOKENIZER.encode(context))
        assert ids[:n] == TOKENIZER.encode(context)
        logprobs = a_model()(torch.tensor([ids[:-1]]))[0].log_softmax(-1)[n - 1:]
        wanted = torch.tensor(ids[n:])
        assert nats == pytest.approx(logprobs.gather(1, wanted[:, None]).sum().item(), abs=1e-3)
        assert greedy == bool((logprobs.argmax(-1) == wanted).all())
    wanted = alone_greedy("a cat and", 6)
    text = theirs.generate_until([Instance("generate_until", {}, ("a cat and", {
        "until": ["zzz"], "max_gen_toks": 6, "temperature": 0}), 0)], disable_tqdm=True)
    assert text == [wanted]


def alone_greedy(text, n_tokens):
    return [row for *_, row in stream(a_model(), TOKENIZER, [TOKENIZER.encode(text)], n_tokens,
                                      Sampling(0.0))][-1].text
