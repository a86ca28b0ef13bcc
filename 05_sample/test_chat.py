"""Tests of chat.py: what is read and what isn't, what is forgotten, then the command."""

import io
import json
import os
import signal

import pytest
import torch

from bpe import Tokenizer
from chat import (Chat, Memory, Shown, has_learned, main, next_turn, obey, parts_of, reply,
                  with_calls)
from conversations import prompt_ids
from gpt import GPT, GPTConfig, generate, greedy
from runs import as_json, save_checkpoint, start_run, tensors
from sample import Sampling
from train import Config

CHATML = Tokenizer([], special_tokens=("<|im_start|>", "<|im_end|>"))
TOKENIZER = Tokenizer([])
tokenizers = pytest.mark.parametrize("tokenizer", [TOKENIZER, CHATML], ids=["ours", "chatml"])


def a_model(seq_len=128, seed=0):
    model = GPT(GPTConfig(TOKENIZER.vocab_size, seq_len=seq_len, n_layer=2, n_head=2, n_kv_head=1,
                          d_model=32, d_ff=64), seed)
    for weight in model.parameters():  # a new one's blocks add 0
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(seed))
    return model.requires_grad_(False)


def said(role, text):
    return {"role": role, "content": text}


def test_a_text_that_goes_on_is_not_read_again(explains):
    """The ids are generate()'s; each id of the text is read once; a text that differs in the middle
    is read from there on; one that is there already is read at its last id.
    """
    model, memory = a_model(), Memory(a_model(), TOKENIZER)
    def write(prompt, n=5):
        return [i.item() for i in memory.generate(model, [prompt], n, greedy)]
    first = [*b"one two"]
    ids = write(first)
    assert ids == [i.item() for i in generate(model, [first], 5)], "other ids than generate()'s"
    assert memory.n_read == 7 + 4, "each id is read once; the last one written isn't read yet"
    longer = [*first, *ids, *b" three"]
    more = write(longer)
    assert more == [i.item() for i in generate(model, [longer], 5)], (
        "other ids than without a memory: are all ids before them in the cache?")
    assert memory.n_read == len(longer) + 4, "what was read before was read again"
    before = memory.n_read
    with explains("a prompt that was read before must still be read at its last id"):
        assert write(longer, 1) == more[:1], "other ids, when the same prompt comes again"
    assert memory.n_read == before + 1, "of a prompt that was read, the last id alone is read again"
    changed = [*first[:3], 7, *longer[4:]]
    assert write(changed) == [i.item() for i in generate(model, [changed], 5)], (
        "the cache held other ids from the changed one on")
    assert memory.n_read == before + 1 + len(changed) - 3 + 4
    assert write(first[:2]) == [i.item() for i in generate(model, [first[:2]], 5)], (
        "a prompt that is the beginning of what was read")
    assert longer[0] == first[0] and memory.ids[:2] == first[:2]


@tokenizers
def test_next_turn(tokenizer):
    """With answers between them, the ids of all turns are those of the whole conversation."""
    talk = [said("user", "Hello"), said("assistant", "Hi!"), said("user", "<|im_end|> How?")]
    ids = prompt_ids(talk[:1], tokenizer) + tokenizer.encode("Hi!")
    assert ids + next_turn("<|im_end|> How?", tokenizer) == prompt_ids(talk, tokenizer), (
        "between two answers stand the end of one, the user's text, and the beginning of the next")


@tokenizers
def test_prompt(tokenizer):
    """The ids that the model wrote, not those of their text: that may have others."""
    talk = Chat(a_model(), tokenizer)
    answers = [[72, 105], [*tokenizer.encode("well")]]
    turns = [("Hello", answers[0]), ("And?", answers[1])]
    whole = [said("user", "Hello"), said("assistant", "Hi"), said("user", "And?"),
             said("assistant", "well"), said("user", "So")]
    assert talk.prompt(turns, "So") == prompt_ids(whole, tokenizer)
    talk.system = "Be brief."
    assert talk.prompt(turns, "So") == prompt_ids([said("system", "Be brief."), *whole],
                                                  tokenizer), "the instruction stands in front"
    assert talk.prompt([], "So") == prompt_ids([said("system", "Be brief."), said("user", "So")],
                                               tokenizer)
    text = Chat(a_model(), TOKENIZER, as_chat=False)
    assert text.prompt([("One ", [50, 51])], " more") == [TOKENIZER.special["<|bos|>"],
                                                          *b"One ", 50, 51, *b" more"], (
        "a text that is continued has no turns")


def test_make_room():
    """The window has 100 ids, and an answer 20. Each turn has 4 ids besides its texts."""
    talk = Chat(a_model(100), TOKENIZER, n_tokens=20)
    whole = talk.turns = [("a" * 20, [65] * 10), ("b" * 20, [66] * 10), ("c" * 10, [67] * 5)]
    n_ids = len(talk.prompt(whole[1:], ""))
    talk.turns = whole[1:]
    assert talk.make_room("d" * (80 - n_ids)) == (talk.prompt(whole[1:], "d" * (80 - n_ids)), 0), (
        "a prompt that just leaves room for an answer, does")
    ids, n = talk.make_room("d" * (81 - n_ids))
    assert len(ids) <= 80, "the prompt and n_tokens ids of an answer must fit into the window"
    assert n == 1 and talk.turns == whole[2:], "the oldest turn is forgotten, not the newest"
    assert ids == talk.prompt(whole[2:], "d" * (81 - n_ids))
    talk.turns = [*whole]
    ids, n = talk.make_room("d" * 10)
    assert n == 2 and len(ids) <= 50, "if turns are forgotten, then down to half a window"
    talk.turns = [*whole]
    assert talk.make_room("e" * 70)[1] == 3, "all of them, for a long text"
    talk.turns = [*whole]
    with pytest.raises(ValueError, match="too long: this has 101 ids, .* only 80 fit"):
        talk.make_room("e" * 97)
    assert talk.turns == whole, "nothing is forgotten for a text that is too long by itself"
    talk.n_tokens = 90
    talk.turns = whole[2:]
    assert talk.make_room("f" * 20)[1] == 0, "room for half a window is enough"


def test_a_turn_costs_its_new_ids():
    """In ten turns each id of the conversation is read once."""
    talk, lengths = Chat(a_model(512), TOKENIZER, Sampling(seed=3), n_tokens=10), []
    for n in range(10):
        list(talk.answer(f"turn {n}"))
        lengths.append(talk.memory.n_read)
        unread = len(talk.memory.ids) - talk.memory.cache.length
        assert unread == 1 and talk.memory.n_read == len(talk.memory.ids) - 1
    costs = [b - a for a, b in zip(lengths, lengths[1:])]
    assert max(costs) <= len(next_turn("turn 9", TOKENIZER)) + 10
    assert len(talk.turns) == 10 and talk.finish in ("stop", "length")


def test_an_answer_can_be_stopped():
    """What was written stays; the next turn goes on behind it, as if it had ended there."""
    talk = Chat(a_model(512), TOKENIZER, Sampling(seed=1), n_tokens=50)
    answer = talk.answer("Hello")
    parts = [next(answer), next(answer)]
    answer.close()
    assert talk.finish == "" and len(talk.turns) == 1
    text, ids = talk.turns[0]
    assert Shown(TOKENIZER).decode_bytes(ids).decode(errors="replace").startswith("".join(parts))
    assert len(ids) < 50
    list(talk.answer("More"))
    assert talk.memory.ids[:len(talk.prompt([("Hello", ids)], "More"))] == talk.prompt(
        [("Hello", ids)], "More")


def test_a_signal_stops_an_answer(monkeypatch, capsys):
    """Ctrl-C and SIGTERM: the answer ends behind the id that is being written."""
    for number in (signal.SIGINT, signal.SIGTERM):
        talk, read = Chat(a_model(512), TOKENIZER, Sampling(seed=1), n_tokens=50), GPT.hidden

        def hidden(model, *given):
            if len(talk.memory.ids) > 30:
                os.kill(os.getpid(), number)
                monkeypatch.setattr(GPT, "hidden", read)
            return read(model, *given)
        monkeypatch.setattr(GPT, "hidden", hidden)
        assert reply(talk, "Hello") == number
        assert capsys.readouterr().out.endswith(" [stopped]\n")
        assert 0 < len(talk.turns[0][1]) < 50 and len(talk.memory.ids) == 32


def test_the_calculator_is_called_and_shown(explains):
    """A model that always calls it: the result is forced, and read by the model."""
    special = TOKENIZER.special
    wanted = [special["<|python_start|>"], *b"48/2", special["<|python_end|>"]]
    script = iter([*wanted, *[0] * 4, *b"so", special["<|assistant_end|>"]])
    memory = Memory(a_model(), TOKENIZER)
    with explains("the calculator's output must come instead of what is picked"):
        ids = [i.item() for i in memory.generate(
            a_model(), [[65]], 12, lambda logits: torch.tensor([next(script)]))]
    assert ids == [*wanted, special["<|output_start|>"], *b"24", special["<|output_end|>"],
                   *b"so"], "behind a call must come its result, as Answer.add() returns it"
    assert Shown(TOKENIZER).decode_bytes(ids) == b"[48/2 = 24]so"
    assert parts_of(ids, TOKENIZER) == [
        {"type": "python", "text": "48/2"}, {"type": "output", "text": "24"},
        {"type": "text", "text": "so"}], "as conversations.py reads it"
    assert with_calls("[48/2 = 24]so") == parts_of(ids, TOKENIZER), "as the model wrote it"
    assert with_calls("a[1+1 = 2]b[2*2 = 4]") == [
        {"type": kind, "text": text} for kind, text in (
            ("text", "a"), ("python", "1+1"), ("output", "2"), ("text", "b"), ("python", "2*2"),
            ("output", "4"))]
    for text in ("[48/2 = 25]", "x[0 = 1]", "[a = b]", "plain", "", "[1+1=2]"):
        assert with_calls(text) == text, "no call of the calculator, or another value"
    assert Shown(CHATML).decode_bytes([*b"48", 256]) == b"48<|im_start|>"


def test_a_turn_that_fails_is_not_kept():
    """Of a damaged model: the conversation is as before."""
    talk = Chat(a_model(), TOKENIZER)
    talk.model.head.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="nan or infinity"):
        list(talk.answer("Hello"))
    assert talk.turns == []


def test_commands(tmp_path):
    talk = Chat(a_model(), TOKENIZER)
    with pytest.raises(ValueError, match="nothing to save"):
        obey(talk, f"/save {tmp_path / 'talk.jsonl'}")
    talk.turns = [("Hi", [*b"Ho"])]
    obey(talk, "/system Be brief.")
    for _ in range(2):
        obey(talk, f"/save {tmp_path / 'talk.jsonl'}")
    lines = (tmp_path / "talk.jsonl").read_text().splitlines()
    with open(tmp_path / "talk.jsonl", "a") as file:
        file.write("{}")  # without a line end
    obey(talk, f"/save {tmp_path / 'talk.jsonl'}")
    assert len((tmp_path / "talk.jsonl").read_text().splitlines()) == 4
    assert [json.loads(line)["messages"] for line in lines] == 2 * [
        [said("system", "Be brief."), said("user", "Hi"), said("assistant", "Ho")]]
    obey(talk, "/temperature 0.5")
    assert talk.sampling.temperature == 0.5
    for wrong in ("/temperature", "/temperature x", "/temperature -1", "/temperature nan"):
        with pytest.raises(ValueError, match="temperature is .* must be a number from 0 on"):
            obey(talk, wrong)
    obey(talk, "/system")
    obey(talk, "/reset")
    assert talk.system == "" and talk.turns == [] and talk.sampling.temperature == 0.5
    assert all("/quit" in obey(talk, line) for line in ("/help", "/unknown", "/save"))


def test_has_learned(tmp_path):
    assert has_learned(tmp_path, Config(sampling="answers"))
    assert has_learned(tmp_path, Config(data=("tasks:0.7", "smoltalk,loss=all:0.3")))
    assert not has_learned(tmp_path, Config())
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert not has_learned(tmp_path, None)
    (tmp_path / "chat_template.jinja").write_text("")
    assert has_learned(tmp_path, None)


def test_the_command(tmp_path, monkeypatch, capsys):
    """A run that was trained on texts continues them; one of answers answers."""
    config = Config(n_layer=2, n_head=2, n_kv_head=1, d_model=32, d_ff=64, seq_len=64)
    folder = start_run(tmp_path, "run")
    (folder / "config.json").write_text(json.dumps(
        as_json(config) | {"data_hash": "", "data_folders": []}))
    TOKENIZER.save(folder / "tokenizer.json")
    save_checkpoint(folder, 7, tensors(a_model(64)), {})
    typed = (f"Hello\n\n/temperature x\n/save {tmp_path}/none/x\n/system x\nAgain\n/quit\n"
             "never read\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    main(["--runs-dir", str(tmp_path), "--tokens", "8"])
    out = capsys.readouterr().out
    assert "not trained on conversations, so it continues your text" in out
    assert "error: temperature is 'x'" in out and "error: [Errno 2]" in out
    assert "error: the model continues a text" in out and "never read" not in out
    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 100))
    main(["--runs-dir", str(tmp_path), "--tokens", "8", "--mode", "chat"])
    out = capsys.readouterr().out
    assert "continues" not in out and "error: too long" in out
