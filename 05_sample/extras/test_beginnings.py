"""Tests of where texts begin and end: with --weights, and after --init, as in transformers."""

import json

import pytest
import torch

from bpe import Tokenizer
from conversations import begin_ids, end_ids
from data import document_start
from family import FAMILIES, model_config
from gpt import generate, make_model
from presets import FullConfig
from sample import Options, Sampling, main, start_of, stream
from starting import adopted_tokenizer
from weights import export, open_model, open_tokenizer, read_model

ORACLE = "an oracle of tests/requirements.txt"
SMALL = dict(vocab_size=301, seq_len=64, n_layer=2, n_head=6, n_kv_head=2, d_model=36, d_ff=52)
PAIRS = [("<s>", "</s>"), ("<|begin_of_text|>", "<|end_of_text|>"), ("<bos>", "<eos>"),
         ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"), ("<|startoftext|>", "<|endoftext|>"),
         ("[CLS]", "[SEP]"), ("<|im_start|>", "<|im_end|>"), ("<|bos|>", "<|end|>"),
         ("[gMASK]", "<|user|>"), ("▁start", "▁end")]
# What the post-processor makes of a text $A; None: there is none.
WAYS = ["{b} $A", "$A", "{b} $A {e}", "bytes, {b} $A", "{b} {e} $A", "bert", "$A {e}", "roberta",
        None]
# What eos_token_id is, of the id 257 and of i, one that the model writes.
ENDS = [lambda i: i, lambda i: [i], lambda i: [257, i], lambda i: [i, 257, i], lambda i: None,
        lambda i: 257, lambda i: []]


@pytest.fixture
def transformers():
    transformers = pytest.importorskip("transformers", reason=ORACLE)
    transformers.utils.logging.disable_progress_bar()
    pytest.importorskip("safetensors", reason=ORACLE)
    return transformers


def change(path, **settings):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | settings))


def foreign(folder, names, way):
    """A folder of a random model with a tokenizer whose ids are bytes and two names, 256 and 257,
    and no word of where a text ends.
    """
    tokenizers = pytest.importorskip("tokenizers", reason=ORACLE)
    processors, known = tokenizers.processors, list(zip(names, (256, 257)))
    model = make_model(model_config(**SMALL | FAMILIES["llama"]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    export(model, Tokenizer([], "gpt2", [name for name, _ in known]), folder)
    (folder / "tokenizer_config.json").unlink()
    for file in ("config.json", "generation_config.json"):
        change(folder / file, bos_token_id=256, eos_token_id=None)
    change(folder / "tokenizer.json", post_processor=None)
    there = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    if way in ("bert", "roberta"):
        kind = {"bert": processors.BertProcessing, "roberta": processors.RobertaProcessing}[way]
        there.post_processor = kind(known[1], known[0])
    elif way:
        single = way.removeprefix("bytes, ").format(b=names[0], e=names[1])
        template = processors.TemplateProcessing(single=single, special_tokens=known)
        steps = [processors.ByteLevel(trim_offsets=False), template]
        there.post_processor = processors.Sequence(steps) if "bytes" in way else template
    there.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("n", range(len(PAIRS)))
def test_texts_begin_and_end_as_in_transformers(n, tmp_path, transformers):
    """The ids of prompts, and those written greedily until the model's settings name an end."""
    way, eos = WAYS[n % len(WAYS)], ENDS[n % len(ENDS)]
    foreign(tmp_path, PAIRS[n], way)
    if n % 3:  # it has no say beside a tokenizer.json
        b, e = PAIRS[n]
        change(tmp_path / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast",
               bos_token=b, eos_token=e, add_bos_token=n % 3 == 1, add_eos_token=n % 3 == 2)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    _, model, tokenizer, *_ = open_model(Options(weights=str(tmp_path)))
    adds_an_end = way in ("bert", "roberta") or way and way.endswith("{e}")
    for text in ("the cat", "a", "é 🙂"):
        ids = theirs(text).input_ids
        assert start_of(text, tokenizer) == (ids[:-1] if adds_an_end else ids), way

    ids = start_of("the cat", tokenizer)
    written = [i.item() for i in generate(model, [ids], 40)]
    end = next(i for i in written[5:] if i not in written[:5])  # one that it does write
    for file in (("config.json", "generation_config.json"), ("generation_config.json",))[n % 2]:
        change(tmp_path / file, eos_token_id=eos(end))
    _, model, tokenizer, *_ = open_model(Options(weights=str(tmp_path)))
    there = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = there.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False,
                              pad_token_id=0)[0, len(ids):].tolist()
    *_, (_, _, row) = stream(model, tokenizer, [ids], 40, Sampling(0))
    assert row.ids == expected, eos(end)
    assert (len(row.ids) < 40) == (end in end_ids(tokenizer)), "this says nothing"


def test_ends_of_older_folders_and_of_both_files(tmp_path, transformers):
    """config.json alone; where both name some, an end of either is one."""
    foreign(tmp_path, PAIRS[0], WAYS[0])
    change(tmp_path / "config.json", eos_token_id=[9, -1])  # some have -1 for none
    change(tmp_path / "generation_config.json", eos_token_id=[257, 8])
    assert end_ids(open_tokenizer(tmp_path)) == {8, 9, 257}
    (tmp_path / "generation_config.json").unlink()
    assert end_ids(open_tokenizer(tmp_path)) == {9}


def test_ends_that_the_model_or_the_tokenizer_has_not(tmp_path):
    """A model may have more ids than its tokenizer: texts end there, but no data begin so."""
    pytest.importorskip("safetensors", reason=ORACLE)
    export(make_model(model_config(**SMALL | FAMILIES["llama"])),
           Tokenizer([], "gpt2", ["<s>"]), tmp_path)
    config = FullConfig(init=str(tmp_path), vocab_size=301)
    for end, said in ((999_999, "ends at the id 999999, but has a model of 301 ids"),
                      (301, "ends at the id 301, but has a model of 301 ids"), (300, None)):
        change(tmp_path / "generation_config.json", eos_token_id=end)
        if said:
            with pytest.raises(ValueError, match=said):
                open_model(Options(weights=str(tmp_path)))
    assert end_ids(open_model(Options(weights=str(tmp_path)))[2]) == {300}
    with pytest.raises(ValueError, match="would begin with 300, .* its tokenizer has 257 ids"):
        adopted_tokenizer(None, config)
    change(tmp_path / "generation_config.json", eos_token_id=[256, 999_999])
    with pytest.raises(ValueError, match="ends at the id 999999, but has a model of 301 ids"):
        adopted_tokenizer(None, config)
    change(tmp_path / "generation_config.json", eos_token_id=[256, 300])
    assert document_start(adopted_tokenizer(None, config)) == [256]


@pytest.mark.parametrize("eos", ["</s>", 2.0, True, [[2]], [None], {"id": 2}])
def test_ends_that_are_no_ids(eos, tmp_path, transformers):
    foreign(tmp_path, PAIRS[0], WAYS[0])
    change(tmp_path / "generation_config.json", eos_token_id=eos)
    with pytest.raises(ValueError, match="generation_config.json: eos_token_id is .* an id or"):
        open_tokenizer(tmp_path)


def test_names_that_nobody_knows(tmp_path, transformers, capsys):
    """They are enough to write with, to train on, to export, and after that to write with again."""
    foreign(tmp_path / "a", ("<x>", "</x>"), WAYS[0])
    change(tmp_path / "a" / "config.json", eos_token_id=257)
    main(["--weights", str(tmp_path / "a"), "--prompt", "a", "", "--tokens", "3",
          "--device", "cpu"])
    assert "1 of 2, " in capsys.readouterr().out
    assert document_start(open_tokenizer(tmp_path / "a")) == [256]

    run = tmp_path / "run"
    run.mkdir()
    config = FullConfig(init=str(tmp_path / "a"), vocab_size=301)
    adopted_tokenizer(None, config).save(run / "tokenizer.json")
    kept = adopted_tokenizer(run, config)
    assert begin_ids(kept) == document_start(kept) == [256] and end_ids(kept) == {256, 257}, (
        "a document of a run ends where the next one begins")
    export(read_model(tmp_path / "a"), kept, tmp_path / "b")
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "b")("a").input_ids == [256, 97]
    again = open_tokenizer(tmp_path / "b")
    assert begin_ids(again) == [256] and end_ids(again) == {256, 257}


def test_what_opens_a_document_where_no_text_has_a_beginning(tmp_path, transformers):
    foreign(tmp_path, ("<x>", "</x>"), None)
    with pytest.raises(ValueError, match="to open a document"):
        document_start(open_tokenizer(tmp_path))
    change(tmp_path / "config.json", eos_token_id=257)
    tokenizer = open_tokenizer(tmp_path)
    assert document_start(tokenizer) == start_of("", tokenizer) == [257], "what ends the last one"
    assert start_of("a", tokenizer) == [97]
