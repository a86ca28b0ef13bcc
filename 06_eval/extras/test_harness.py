"""Tests of harness.py: the numbers of a run are those of its exported folder in lm-eval itself."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

import harness
from bpe import Tokenizer
from conversations import end_ids
from gpt import GPT, GPTConfig, generate
from harness import Harness, adapter, how_to_write, main, rows_of
from runs import as_json, save_checkpoint, start_run, tensors
from sample import Sampling
from train import Config
from weights import export, open_tokenizer, read_model

ORACLE = "an oracle of tests/requirements.txt"
WORDS = "spam and eggs, ham or bacon; the café is cheap: ein Ei für 2 €\n"
LONG = " ".join(f"{i} eggs and {i * i} spam" for i in range(40))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([WORDS * 9], 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    """It has read WORDS and LONG a few times, so that what it predicts and writes is of them."""
    config = GPTConfig(tokenizer.vocab_size, 32, n_layer=2, n_kv_head=1, d_model=32, d_ff=64)
    model, bos = GPT(config), [tokenizer.special["<|bos|>"]]
    ids = torch.tensor((bos + tokenizer.encode(WORDS)) * 8 + bos + tokenizer.encode(LONG))
    rows = ids[:len(ids) // 33 * 33].view(-1, 33)
    for step in range(40):
        model.loss(rows[:, :-1], rows[:, 1:]).mean().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * (1 - step / 40) * parameter.grad.sign()
                parameter.grad = None
    return model.eval()


@pytest.fixture
def ours(model, tokenizer):
    return Harness(model, tokenizer, batch_size=3)


def requests(*arguments):
    return [SimpleNamespace(args=args) for args in arguments]


# ---- texts as ids ----
def test_pair(ours, tokenizer):
    bos, encode = tokenizer.special["<|bos|>"], tokenizer.encode
    assert ours.pair("spam", " and") == ([bos, *encode("spam")], encode(" and"))
    spaces = ours.pair("spam \n ", "and")
    assert spaces[0] == [bos, *encode("spam")], "spaces at the end of a context are not of it"
    assert spaces[0] + spaces[1] == [bos, *encode("spam \n and")], "they begin the continuation"
    whole = ours.pair("spa", "m and")
    assert whole[1] == encode("spam and")[len(encode("spa")):], "text is cut into ids as a whole"
    assert ours.pair("", "eggs") == ([bos], encode("eggs")), "without a context, the prefix is it"
    assert ours.pair(" ", "eggs") == ([bos], encode(" eggs"))
    assert ours.pair("", "<|bos|>eggs") == ([bos], encode("eggs")), "and not twice"
    assert ours.pair("<|bos|>spam", " and")[0] == [bos, *encode("spam")], "nor before a context"
    assert ours.pair("a<|user_end|>", "b")[0][-1] == tokenizer.special["<|user_end|>"]
    gpt2 = Harness(ours.model, Tokenizer([], special_tokens=["<|endoftext|>"]))
    [end] = gpt2.prefix
    assert gpt2.pair("a", "b") == ([97], [98]), "nothing begins its texts"
    assert gpt2.pair("", "b") == gpt2.pair("", "<|endoftext|>b") == ([end], [98])
    assert gpt2.pair(" ", "b") == ([end], [32, 98]), "something must stand before a continuation"


def test_windows(ours, tokenizer):
    for text in ("", "spam", LONG[:90], LONG):
        ids, windows = ours.prefix + ours.encode(text), list(ours.windows(text))
        assert sum((b for _, b in windows), []) == ids[1:], "each id is predicted once, in order"
        for context, continuation in windows[:-1]:
            assert (len(context), len(continuation)) == (1, 32), "windows lie side by side"
        assert all(context for context, _ in windows)
        if len(windows) > 1:
            assert len(sum(windows[-1], [])) == 33, "the last window's context fills it up"
            assert sum(windows[-1], []) == ids[-33:]


# ---- answers ----
def test_score(ours, model):
    """Alone, in any batch and in any order: what model.loss() says of the continuation."""
    seed = 0
    rng = torch.Generator().manual_seed(seed)

    def ids(n):
        return torch.randint(300, (n,), generator=rng).tolist()
    pairs = [(ids(n), ids(m)) for n in (1, 5, 31, 60) for m in (1, 2, 32)]
    shared = ids(7)
    pairs += [(shared[:4], shared[4:] + [i]) for i in (1, 2)] + [(shared, [i]) for i in (1, 2, 3)]
    with torch.inference_mode():
        for context, continuation in pairs[::2]:  # then half of them are greedy
            steps = list(generate(model, [context], len(continuation)))
            if len(context) + len(continuation) <= 33:
                continuation[:] = [int(i) for i in steps]
        pairs.append((pairs[2][0], pairs[2][1][:-1] + [299]))  # greedy but for its last id
        expected = []
        for context, continuation in pairs:
            whole = torch.tensor([context + continuation])[:, -33:]
            nats = model.loss(whole[:, :-1], whole[:, 1:])[0, -len(continuation):]
            likeliest = model(whole[:, :-1])[0, -len(continuation):].argmax(-1)
            expected.append((-nats.sum().item(), likeliest.tolist() == continuation))
    assert {greedy for _, greedy in expected} == {True, False}
    for batch_size in (1, 3, 100):
        ours.batch_size = batch_size
        for (total, greedy), (right, likeliest) in zip(ours.score(pairs), expected, strict=True):
            assert total == pytest.approx(right, abs=1e-4) and greedy == likeliest, f"seed {seed}"
    assert ours.score([]) == []
    for wrong in ([], [1] * 33):
        with pytest.raises(ValueError, match=f"has {len(wrong)} ids, but must have 1 to 32"):
            ours.score([([1], wrong)])


def test_only_continuations_go_through_the_head(ours, monkeypatch):
    """And requests that read the same ids are read once."""
    reads, heads = [], []
    monkeypatch.setattr(ours.model, "hidden", lambda ids, f=ours.model.hidden: (
        reads.append(ids.shape), f(ids))[1])
    monkeypatch.setattr(ours.model, "logits", lambda x, f=ours.model.logits: (
        heads.append(len(x)), f(x))[1])
    ours.score([([1] * 20, [2]), ([1] * 20, [3]), ([1] * 20, [4]), ([5] * 9, [6, 7])])
    assert reads == [(2, 20)] and heads == [5]


def test_how_to_write():
    assert how_to_write({}) == ((), 256, Sampling(temperature=0.0))
    assert how_to_write({"until": "\n", "max_new_tokens": 7, "do_sample": False, "top_p": None,
                         "temperature": 0.5}) == (("\n",), 7, Sampling(temperature=0.0))
    assert how_to_write({"until": ["a", ""], "max_tokens": 3, "max_gen_toks": 5, "do_sample": True,
                         "temperature": 0.5, "top_p": 0.9}) == (
        ("a",), 5, Sampling(temperature=0.5, top_p=0.9))
    assert how_to_write({"temperature": 1.0})[2].temperature == 1.0
    with pytest.raises(ValueError, match="a task sets num_beams .* there are until, do_sample"):
        how_to_write({"num_beams": 4})


def test_texts_are_those_of_generate(ours, model, tokenizer, monkeypatch):
    asked = [("spam", {"max_gen_toks": 9}), (LONG, {"max_gen_toks": 5}), ("", {"max_gen_toks": 9}),
             ("spam and", {"max_gen_toks": 9})]
    found = ours.generate_until(requests(*asked))
    for (context, how), text in zip(asked, found, strict=True):
        n = how["max_gen_toks"]
        prompt = ours.encode(context)[-(32 - n):]
        ids = [int(i) for i in generate(model, [prompt], n)]
        end = next((i for i, one in enumerate(ids) if one in end_ids(tokenizer)), n)
        plain = [i for i in ids[:end] if i not in tokenizer.special.values()]
        assert text == tokenizer.decode(plain), "as if it were alone, in the order of requests"
    stop = found[0][3:6]
    assert len(stop) == 3
    stopped = ours.generate_until(requests(("spam", {"max_gen_toks": 9, "until": [stop, "@@"]})))
    assert stopped == [found[0].split(stop)[0]] and stopped != [found[0]]
    [again, twice] = ours.generate_until(requests(*[("spam", {"temperature": 3.0,
                                                               "max_gen_toks": 9})] * 2))
    assert again != twice, "a task that asks for several texts wants different ones"
    with pytest.raises(ValueError, match="texts of 32 ids, but the model has a window of 32"):
        ours.generate_until(requests(("spam", {"max_gen_toks": 32})))
    special, read = tokenizer.special, []
    script = iter([[special["<|user_end|>"], 97], [97, special["<|bos|>"]], [98, 99],
                   [special["<|bos|>"], 99], [7, 7]])
    monkeypatch.setattr(harness, "generate", lambda model, prompts, n, pick: (
        read.extend(prompts), (torch.tensor(ids) for ids in script))[1])
    assert ours.generate_until(requests(*[(LONG, {"max_gen_toks": 20})] * 2)) == ["ab", "a"], (
        "special tokens are not part of a text, and an end token ends it")
    assert next(script) == [7, 7], "nothing is written that nobody asked for"
    assert read == [ours.encode(LONG)[-12:]] * 2, "the end of a context, as far as there is room"


# ---- lm-evaluation-harness itself ----
TASKS = {
    "choices": """
        output_type: multiple_choice
        doc_to_text: "{{question}}"
        doc_to_choice: choices
        doc_to_target: gold
        metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_mutual_info}]
        """,
    "words": """
        output_type: loglikelihood
        target_delimiter: ""
        doc_to_text: "{{question}}"
        doc_to_target: "{{choices[0]}}"
        metric_list: [{metric: perplexity, aggregation: perplexity}, {metric: acc}]
        """,
    "texts": """
        output_type: loglikelihood_rolling
        doc_to_text: ""
        doc_to_target: "{{text}}"
        metric_list: [{metric: word_perplexity}, {metric: byte_perplexity},
                      {metric: bits_per_byte}]
        """,
    "answers": """
        output_type: generate_until
        doc_to_text: "{{question}}"
        doc_to_target: "{{answer}}"
        generation_kwargs: {until: ["an", "x"], max_gen_toks: 12, do_sample: false}
        metric_list: [{metric: exact_match}]
        """,
}
CHOICES = [" bacon", "eggs €", "a", "b"]
QUESTIONS = ["spam and", "", "the café ", "two eggs,  \n", LONG, "ein Ei für 2 €", "<|bos|>ham or",
             "a<|user_end|> b"]


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A folder of tasks in lm-eval's format, of items in a .jsonl file."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "DISABLE_MULTIPROC"):
        monkeypatch.setenv(name, "1")  # the last: of lm-eval, for its standard errors
    pytest.importorskip("lm_eval", reason=ORACLE)
    pytest.importorskip("datasets").utils.logging.disable_progress_bar()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # it starts pip
    items, folder = tmp_path / "items.jsonl", tmp_path / "tasks"
    # No two texts have a whole window of ids in common that they cut differently: of those, lm-eval
    # 0.4.13 adds up the log-probabilities at wrong positions.
    items.write_text("".join(json.dumps({
        "question": question, "choices": CHOICES, "gold": i % 4,
        "text": question + "".join(f"{i} {j} {WORDS}" for j in range(i)), "answer": "spam"}) + "\n"
        for i, question in enumerate(QUESTIONS)))
    folder.mkdir()
    for name, how in TASKS.items():
        lines = "".join(line.strip(" ").rstrip() + " " if line.endswith(",") else line[8:] + "\n"
                        for line in how.splitlines())
        (folder / f"{name}.yaml").write_text(
            f"task: {name}\ndataset_path: json\ntest_split: test\nnum_fewshot: 0\n"
            f"dataset_kwargs: {{data_files: {{test: {items}}}, cache_dir: {tmp_path / 'cache'}}}\n"
            + lines)
    return folder


def test_numbers_are_those_of_the_exported_folder(model, tokenizer, tasks, tmp_path):
    for needed in ("safetensors", "transformers", "accelerate"):
        pytest.importorskip(needed, reason=ORACLE)
    evaluator, manage, hugging_face = map(pytest.importorskip, (
        "lm_eval.evaluator", "lm_eval.tasks", "lm_eval.models.huggingface"))
    export(model, tokenizer, tmp_path / "out")
    imported = read_model(tmp_path / "out"), open_tokenizer(tmp_path / "out")
    theirs, *found = (
        evaluator.simple_evaluate(
            lm, tasks=list(TASKS), bootstrap_iters=100, log_samples=True,
            task_manager=manage.TaskManager(include_path=tasks, include_defaults=False))
        for lm in (hugging_face.HFLM(str(tmp_path / "out"), device="cpu", batch_size=3),
                   adapter(model, tokenizer, 3), adapter(*imported, 1)))
    for ours in found:
        assert ours["results"].keys() == theirs["results"].keys() == TASKS.keys()
        for task, right in theirs["results"].items():
            for name, value in right.items():
                value = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
                assert ours["results"][task][name] == value, f"{name} of {task}"
        for task, right in theirs["samples"].items():
            for a, b in zip(ours["samples"][task], right, strict=True):
                assert a["arguments"] == b["arguments"]
                for x, y in zip(sum(a["resps"], []), sum(b["resps"], []), strict=True):
                    if task == "answers":
                        assert x == y, f"another text after {b['arguments']}"
                    else:
                        x, y = (r if isinstance(r, tuple) else (r, None) for r in (x, y))
                        assert x[0] == pytest.approx(y[0], abs=1e-4) and x[1] == y[1], (task, b)
    assert any(len(s["resps"][0][0]) > 5 for s in theirs["samples"]["answers"])
    assert len({r for s in theirs["samples"]["choices"] for r, _ in sum(s["resps"], [])}) > 20


def test_rows_of():
    results = {"results": {"a": {"alias": "a", "sample_len": 3, "acc,none": 0.25,
                                 "acc_stderr,none": 0.125, "exact_match,strict": 1.0,
                                 "exact_match_stderr,strict": "N/A"}}}
    assert list(rows_of(results)) == [("a", "acc", "0.2500", "0.1250"),
                                      ("a", "exact_match, strict", "1.0000", "")]


def test_command_line(model, tokenizer, tasks, tmp_path, capsys, fails, monkeypatch):
    class Few(pytest.importorskip("lm_eval.tasks").TaskManager):
        """One that does not read the thousands of tasks of lm-eval itself."""

        def __init__(self, include_path=None, include_defaults=True):
            super().__init__(include_path=include_path, include_defaults=False)

        def load(self, names):
            loads.append(names)
            return super().load(names)
    loads = []
    monkeypatch.setattr("lm_eval.tasks.TaskManager", Few)
    shape = model.config
    config = Config(n_layer=2, n_head=2, n_kv_head=1, d_model=32, d_ff=64, seq_len=shape.seq_len)
    folder = start_run(tmp_path / "runs", "one")
    (folder / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []}))
    tokenizer.save(folder / "tokenizer.json")
    save_checkpoint(folder, 5, tensors(model), {})
    there = ["--runs-dir", str(tmp_path / "runs"), "--device", "cpu", "--include-path", str(tasks)]
    main([*there, "--tasks", "answers", "choices", "--limit", "5", "--batch-size", "2"])
    lines = capsys.readouterr().out.splitlines()
    start = lines.index(f"{folder}, step 5, cpu, 5 items of each task")
    table = [line.split() for line in lines[start + 1:]]
    assert loads == [["answers", "choices"]], "tasks are loaded once"
    assert table[0] == ["task", "metric", "value", "standard", "error"]
    right = Harness(model, tokenizer).loglikelihood(requests(*[
        (question, f" {choice}") for question in QUESTIONS[:5] for choice in CHOICES]))
    best = [max(range(4), key=lambda i: right[n + i][0]) for n in range(0, 20, 4)]
    accuracy = sum(found == n % 4 for n, found in enumerate(best)) / 5
    assert f"choices acc {accuracy:.4f}" in [" ".join(row[:3]) for row in table]
    assert {row[0] for row in table[1:]} == {"answers", "choices"}

    assert "say which --tasks" in fails(main, *there)
    assert "no run 'x'" in fails(main, *there, "--tasks", "words", "--run", "x")
    assert "no task 'word'; did you mean 'words'" in fails(main, *there, "--tasks", "word")
    assert "there is no folder /none" in fails(main, *there[:-1], "/none", "--tasks", "words")
    (tasks / "far.yaml").write_text((tasks / "choices.yaml").read_text().replace(
        "json\n", "nobody/nothing\n", 1).replace("task: choices", "task: far"))
    wrong = fails(main, *there, "--tasks", "far")
    assert "far can't be loaded (" in wrong and wrong.endswith("a task downloads them")
    (tasks / "far.yaml").write_text("task: far\noutput_type: multiple_choice\n")
    assert "far can't be loaded (" in fails(main, *there, "--tasks", "far")


def test_it_says_what_to_install(fails, monkeypatch):
    for name in ("lm_eval", "lm_eval.evaluator", "lm_eval.api.model"):
        monkeypatch.setitem(sys.modules, name, None)
    what = "a task of lm-evaluation-harness needs lm_eval: pip install lm_eval"  # or lm-eval
    assert what in fails(main, "--tasks", "arc_easy")
    with pytest.raises(ValueError, match=what):
        adapter(None, None)
