"""Tests of lookup.py: guesses, and that they change nothing but the time."""

import collections

import numpy as np
import pytest
import torch

import lookup
from family import FAMILIES, model_config
from gpt import GPT, generate, make_model, random_pick
from lookup import generate_by_lookup, guess

SMALL = dict(vocab_size=11, seq_len=32, n_layer=2, n_head=4, n_kv_head=2, d_model=32, d_ff=48)


@torch.no_grad()
def random_model(seed=0, std=0.2, **changes):
    model = make_model(model_config(**SMALL | changes))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.normal_(std=std, generator=generator)
    return model.eval()


def test_guess():
    def of(*ids, n=3, longest=3):
        return guess(np.array(ids), n, longest)
    assert of(1, 2, 3, 9, 1, 2) == [3, 9, 1], "it may run on into the end"
    assert of(1, 2, 3, 9, 1, 2, n=1) == [3] and of(1, 2, 3, 9, 1, 2, n=0) == []
    assert of(5, 1, 2, 7, 8, 1, 2, 6, 6, 1, 2) == [6, 6, 1], (
        "the latest place where the ids stood counts")
    assert of(4, 1, 2, 7, 8, 1, 2, 6, 4, 1, 2) == [7, 8, 1], "but a longer match comes first"
    assert of(4, 1, 2, 7, 8, 1, 2, 6, 4, 1, 2, longest=2) == [6, 4, 1]
    assert of(7, 7, 7, 7) == [7] and of(1, 2, 3) == [] and of(1) == [] and of() == []
    assert of(7, 7) == [7] and of(1, 5, 1) == [5, 1], "a single id may match"
    assert of(1, 2, 7, 9, 2, 8, 1, 2) == [7, 9, 2], "two before one"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_tokens", [1, 2, 40])
def test_the_text_is_the_same(family, n_tokens):
    """As without guesses, also beyond the window, greedy or drawn with a seed."""
    model = random_model(**FAMILIES[family])
    for n_guesses in (1, 3, 8):
        for prompt in ([1, 2, 3, 1, 2], [4], [5] * 32, [1, 2] * 30):
            for pick in (None, lambda: random_pick(0.7, seed=3)):
                options = {"pick": pick()} if pick else {}
                expected = torch.cat(list(generate(model, [prompt], n_tokens, **options)))
                options = {"pick": pick()} if pick else {}
                found = torch.cat(list(generate_by_lookup(model, prompt, n_tokens,
                                                          n_guesses=n_guesses, **options)))
                assert found.tolist() == expected.tolist(), f"{n_guesses} guesses after {prompt}"


@torch.no_grad()
def test_the_distribution_is_the_same():
    """Over thousands of seeds: the frequency of every triple of ids that follows the prompt is as
    the model says, computed without cache or guesses.
    """
    model, prompt, n = random_model(std=0.15, vocab_size=3, n_layer=1), [0, 1, 2, 0, 1], 1200
    shares = {(): 1.0}
    for _ in range(3):
        shares = {(*ids, i): share * float(p) for ids, share in shares.items() for i, p in
                  enumerate(model(torch.tensor([[*prompt, *ids]]))[0, -1].softmax(-1))}
    counts = collections.Counter(
        tuple(int(i) for i in generate_by_lookup(model, prompt, 3, random_pick(seed=seed)))
        for seed in range(n))
    chi2 = sum((counts[ids] - n * share)**2 / (n * share) for ids, share in shares.items())
    assert chi2 < 54.1, f"chi-squared {chi2:.1f} over 26 degrees of freedom: p < 0.001"


def test_right_guesses_save_steps():
    """A model that always repeats itself needs a step for many ids."""
    model, shapes, hidden = random_model(), [], GPT.hidden
    model.hidden = lambda ids, cache: shapes.append(ids.shape[1]) or hidden(model, ids, cache)
    ids = torch.cat(list(generate_by_lookup(model, [1], 27))).tolist()
    plain = len(shapes)
    assert len(set(zip(ids, ids[1:]))) < 20, "this model repeats itself"
    shapes.clear()
    list(generate_by_lookup(model, [1] + ids, 5, n_guesses=4))
    assert plain < 27 and len(shapes) < 5 and max(shapes[1:]) > 1


@pytest.mark.parametrize("window, right, wrong", [
    (32, [1] + [4] * 6 + [3], [1] + [4] * 24 + [3, 2, 1]),
    (15, [1, 4, 4, 4, 2, 8, 4, 3, 8, 4],
     [1] + [4] * 11 + [3, 2, 1, 8] + [4] * 4 + [3, 2, 1, 8, 4, 3, 2, 1])])
def test_steps_counted(window, right, wrong, monkeypatch, explains):
    """Guesses that are always right: one step reads them all; always wrong: one id a step. Never
    more than the window has room for; then its newer half is read again.
    """
    model, shapes, hidden = random_model(seq_len=window), [], GPT.hidden
    truth = [int(i) for i in generate(model, [[1]], 28)]

    def count(guessed):
        monkeypatch.setattr(lookup, "guess", lambda ids, n: guessed(len(ids))[:n])
        shapes.clear()
        model.hidden = lambda ids, cache: shapes.append(ids.shape[1]) or hidden(model, ids, cache)
        with explains("what was guessed wrongly must be taken back: cache.length"):
            found = [int(i) for i in generate_by_lookup(model, [1], 28, n_guesses=3)]
        del model.hidden
        assert found == truth, "the ids behind a wrong guess must not be chosen"
        return shapes
    assert list(generate_by_lookup(model, [1], 0)) == []
    assert count(lambda n: truth[n - 1:]) == right
    assert count(lambda n: [(i + 1) % 11 for i in truth[n - 1:]]) == wrong
