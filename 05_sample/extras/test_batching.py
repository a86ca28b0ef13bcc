"""Tests of batching.py: the pool, who takes part in a step, then texts that come and go."""

import gc
import random
import threading
import time
import weakref
from contextlib import closing

import pytest
import torch

from api import Engine, Request
from batching import Batching, Pool, Scheduler, Table, Text
from bpe import Tokenizer
from family import FAMILIES, model_config
from gpt import GPT, GPTConfig, make_model
from sample import Sampling

TOKENIZER = Tokenizer([])
SPECIAL = TOKENIZER.special
SMALL = dict(vocab_size=265, seq_len=64, n_layer=2, n_head=4, n_kv_head=2, d_model=32, d_ff=48)
CONFIG = model_config(**SMALL)
KINDS = {**FAMILIES, "n-grams": {"ngrams": 3, "ngram_rows": 40}, "by hand": {"by_hand": True}}


@torch.no_grad()
def random_model(**changes):
    """In float64, so that the last bits of a sum decide nothing."""
    model = make_model(model_config(**SMALL | changes))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(std=0.2, generator=generator)
    return model.double().eval()


def text(ids, n_tokens=50):
    return Text(Request(ids, n_tokens, Sampling()), TOKENIZER)


def in_pool(pool, ids):
    """A text of which all ids are computed."""
    made = text(ids)
    pool.share(made)
    assert pool.extend(made)
    pool.computed(made, made.unread)
    return made


def whole(writing):
    """All that write() says, when it is done."""
    parts, row = [], None
    for part, row in writing:
        parts.append(part)
    assert "".join(parts) == row.text, "the parts are the text"
    return as_tuple(row)


def as_tuple(row):
    return row.text, row.ids, row.tops, row.logprobs, row.finish


def alone(model, request):
    return whole(Engine(model, TOKENIZER).write(request))


@pytest.fixture
def batching():
    """Makes engines, and ends them after the test."""
    made = []

    def make(*args, **named):
        made.append(Batching(*args, **named))
        return made[-1]
    yield make
    for engine in made:
        engine.end()


class ByHand:
    """Stands for the thread: its tasks are run when a test says so."""

    def __init__(self, engine):
        self.tasks, engine.worker = [], self

    def submit(self, task, *args):
        self.tasks.append((task, args))

    def run(self, n=None):
        """n tasks; else all."""
        while self.tasks and n != 0:
            task, args = self.tasks.pop(0)
            task(*args)
            n = n and n - 1


def spied(model):
    """A list to which the shape of all ids that the model reads is appended."""
    seen, hidden = [], model.hidden
    model.hidden = lambda ids, *others, **named: (
        seen.append(tuple(ids.shape)) or hidden(ids, *others, **named))
    return seen


# ---- the pool ----
def test_find():
    pool = Pool(CONFIG, 20)
    assert pool.find([1, 2, 3]) == [], "of a text that begins unlike all others nothing is there"
    pool.named = {(None, 5): 2, (2, 6): 0, (0, 8): 3, (None, 6): 1, (1, 8): 4, (4, 9): 5}
    assert pool.find([5, 6, 7]) == [2, 0], "what two texts begin with is shared, not what follows"
    assert pool.find([5, 6]) == [2], "the last id of a text must be computed, though it is there"
    assert pool.find([5]) == [], "the only id of a text must be computed, though it is there"
    assert pool.find([5, 6, 8, 9, 1]) == [2, 0, 3], (
        "9 stands behind another 8: a slot is named by the slot before it, not by its id alone")
    assert pool.find([7, 6, 8]) == [], (
        "a text is shared from its beginning on: keys depend on all ids before")
    assert pool.find([6, 8, 9, 9, 9]) == [1, 4, 5] and pool.find([6, 9, 8]) == [1]


def test_what_is_free_is_found_until_it_is_taken():
    pool = Pool(CONFIG, 8)
    first = in_pool(pool, [1, 2, 3, 4])
    second = in_pool(pool, [1, 2, 9])
    assert first.slots[:2] == second.slots[:2] and len({*first.slots, *second.slots}) == 5, (
        "two ids are the same in both texts, and lie in the same slots")
    assert len(pool.free) == 3
    slots = first.slots
    pool.release(first)
    assert (first.slots, first.n_read, len(pool.free)) == ([], 0, 5), (
        "what the other text uses, too, isn't free")
    assert pool.find([1, 2, 3, 4, 5]) == slots, "what is free can still be found"
    pool.release(second)
    third = in_pool(pool, [7, 7, 7, 7])
    assert pool.find([1, 2, 3, 4, 5]) == slots[:3], (
        "three slots were never used, then a text's last is taken first")
    pool.release(third)
    again = in_pool(pool, [1, 2, 3])
    pool.release(again)  # used last, so it goes last
    in_pool(pool, [8] * 5)
    assert pool.find([1, 2, 3, 4]) == slots[:3] and pool.find([7, 7]) == [], (
        "what was used last must be kept, what wasn't used for longest goes")


def test_a_text_that_does_not_fit_gets_nothing():
    pool = Pool(CONFIG, 5)
    in_pool(pool, [1, 2])
    late = text([1, 2, 3, 4, 5, 6])
    pool.share(late)
    assert not pool.extend(late) and len(late.slots) == 2 and len(pool.free) == 3
    late.ids.pop()
    assert pool.extend(late) and len(late.slots) == 5 and not pool.free


def test_append():
    pool = Pool(CONFIG, 12)
    texts = [in_pool(pool, [1, 2, 3]), in_pool(pool, [4])]
    pool.keys.normal_(generator=torch.Generator().manual_seed(0))
    pool.values.normal_(generator=torch.Generator().manual_seed(1))
    before = pool.keys.clone(), pool.values.clone()
    for one in texts:
        one.ids += [5, 6]
        pool.extend(one)
    k, v = torch.randn(2, 2, 2, 2, 8, generator=torch.Generator().manual_seed(2))
    table = Table(pool, texts, 2)
    assert table.positions(2).tolist() == [[3, 4], [1, 2]], (
        "positions go on behind what is computed already")
    for got, new, old, stored in zip(table.append(1, k, v), (k, v), before,
                                     (pool.keys, pool.values)):
        assert got.shape == (2, 2, 5, 8), "as many as the longest row has"
        for b, (one, n) in enumerate(zip(texts, (3, 1))):
            assert torch.equal(got[b, :, :n], old[1, one.slots[:n]].transpose(0, 1)), (
                "first what is in the pool already, in the order of the text")
            assert torch.equal(got[b, :, n:n + 2], new[b]), "behind it what is new"
            assert torch.equal(stored[1, one.slots[n:]], new[b].transpose(0, 1)), (
                "what is new must be stored in the text's own slots")
        others = [slot for slot in range(12) if slot not in texts[0].slots[3:] + texts[1].slots[1:]]
        assert torch.equal(stored[1, others], old[1, others]), "and nothing else be changed"
        assert torch.equal(stored[0], old[0]), "nor another layer"


# ---- who takes part ----
def scheduled(scheduler, write=9):
    """What a step computes, [(numbers of ids that the texts had, n)]; each that writes gets an id.
    """
    found = []
    for texts, n in scheduler.step():
        found.append((texts[:], n))
        for one in texts:
            scheduler.pool.computed(one, n)
            if not one.unread:
                one.ids.append(write)
    return found


def test_step():
    """A first prompt of 7 ids, a second of 4, with at most 5 ids of prompts in a step."""
    scheduler, a, b = Scheduler(Pool(CONFIG, 40), 5), text([1] * 7), text([2] * 4)
    scheduler.waiting = [a, b]
    assert scheduled(scheduler) == [([a], 5)], (
        "no more ids of prompts may be read in a step than most_read, here 5")
    assert scheduler.running == [a] and scheduler.waiting == [b], "so nobody else enters"
    assert scheduled(scheduler) == [([a], 1), ([b], 3), ([a, b], 1)], (
        "all ids of a prompt but the last are read, then the last together with those that write")
    assert scheduled(scheduler) == [([a, b], 1)], "who has read its prompt writes an id a step"
    c = text([3] * 12)
    scheduler.waiting = [c]
    for n in (5, 5):
        assert scheduled(scheduler) == [([c], n), ([a, b], 1)], (
            "those that write go on while a long prompt is read")
    assert scheduled(scheduler) == [([c], 1), ([a, b, c], 1)]
    b.gone = True
    assert scheduled(scheduler) == [([a, c], 1)] and scheduler.running == [a, c], (
        "who has ended must leave at the next step")
    assert b.slots == [] and len(scheduler.pool.free) == 40 - len(a.slots) - len(c.slots), (
        "what an ended text had must be released")
    d = text([4])
    scheduler.waiting = [d, text([5])]
    scheduler.waiting[1].gone = True
    assert scheduled(scheduler) == [([a, c, d], 1)] and scheduler.waiting == [], (
        "a prompt of one id needs no reading, and who has ended while it waited never enters")
    for one in (a, c, d):
        one.gone = True
    assert scheduled(scheduler) == [] and len(scheduler.pool.free) == 40


def test_step_without_memory():
    """12 slots: texts of 4, 4, 6 and 1 ids, which grow until they don't fit."""
    scheduler, a, b = Scheduler(Pool(CONFIG, 12), 100), text([1] * 4), text([2] * 4)
    c, last = text([3] * 6), text([3])
    scheduler.waiting = [a, b, c, last]
    scheduled(scheduler)
    assert scheduler.running == [a, b] and scheduler.waiting == [c, last], (
        "a text must wait until all of its ids fit into the pool")
    assert c.slots == [] and c.n_read == 0
    scheduled(scheduler)
    assert scheduled(scheduler) == [([a, b], 1)] and len(a.slots) == len(b.slots) == 6
    assert scheduled(scheduler) == [([a], 1)] and scheduler.running == [a], (
        "without memory the newest text must give its own back, and not the oldest")
    assert scheduler.waiting == [b, c, last], (
        "who has given its memory back is the first that waits")
    a.gone = True
    assert scheduled(scheduler) == [([b], 1)] * 2 and scheduler.running == [b], (
        "with memory it goes on; of what it had computed, only the slot that was taken is lost")
    d, e = text([4] * 4), text([5] * 2)
    scheduler = Scheduler(Pool(CONFIG, 8), 100)
    scheduler.waiting = [d, e]
    for n in range(2):
        assert scheduled(scheduler)[-1] == ([d, e], 1)
    assert scheduled(scheduler) == [([d], 1)] and scheduler.waiting == [e], (
        "the newest waits, also if it is the one for which there is no memory")
    for n in range(2):
        scheduled(scheduler)
    assert len(d.ids) == 9 and len(d.slots) == 8, "and the oldest has all of it"


def test_step_of_texts_that_begin_alike():
    """At the same time, and one after the other."""
    scheduler = Scheduler(Pool(CONFIG, 40), 100)
    a, b, c = (text([1, 2, 3, 4, i]) for i in (5, 5, 6))
    scheduler.waiting = [a, b, c]
    assert scheduled(scheduler) == [([a], 4), ([a, b, c], 1)], (
        "what texts begin with must be computed once, also if they come at the same time")
    assert a.slots == b.slots != c.slots, "what two have computed at the same time is kept once"
    a.gone = True
    d = text([1, 2, 3, 4, 5, 9, 8, 7])  # the answer to a was 9
    scheduler.waiting = [d]
    assert scheduled(scheduler) == [([d], 2), ([b, c, d], 1)], (
        "of the next turn only what is new must be computed, and the last id")
    assert len({*d.slots, *c.slots}) == 8 + 2, "c has [6, 9] for itself"


# ---- texts ----
@pytest.mark.parametrize("kind", KINDS)
def test_each_text_is_as_if_it_were_alone(kind, batching):
    """Of any family; they begin alike, are read in pieces, and the memory may be for one alone."""
    model = random_model(**KINDS[kind])
    start = [256, *range(60, 80)]
    requests = [Request(start[:n] + [100 + i % 3] * i, 12, Sampling(temperature=i % 2, seed=i), (),
                        i % 3) for i, n in enumerate((5, 21, 21, 1, 12, 21, 21))]
    expected = [alone(model, request) for request in requests]
    for size, most_read in ((500, 100), (45, 7)):
        engine = batching(model, TOKENIZER, size, most_read)
        found = [whole(writing) for writing in [*map(engine.write, requests)]]
        assert found == expected, "a text is another one than it would be alone"


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16(kind, batching):
    engine = batching(random_model(**KINDS[kind]).bfloat16(), TOKENIZER)
    assert engine.pool.keys.dtype == torch.bfloat16, "the cache is in the weights' type"
    for writing in [engine.write(Request([256, *range(n)], 5, Sampling(0))) for n in (3, 9)]:
        assert 0 < len(whole(writing)[1]) <= 5


def random_request(numbers, starts):
    """A request like many others, and the number of parts after which it is given up, or None."""
    prompt = starts[numbers.randrange(4)][:numbers.randint(1, 30)]
    prompt = prompt + [numbers.randrange(265) for _ in range(numbers.randrange(8))]
    sampling = Sampling(temperature=numbers.choice((0, 0.7, 1.5)), seed=numbers.randrange(99),
                        top_k=numbers.choice((0, 5)), top_p=numbers.choice((1, 0.9)),
                        repetition_penalty=numbers.choice((1, 1.3)))
    stops = numbers.choice(((), ("a", "e", "\x05", "=", "Q!")))
    request = Request(prompt, numbers.randrange(26), sampling, stops, numbers.choice((0, 0, 2)))
    return request, numbers.choice((None, None, None, None, numbers.randrange(8)))


def test_500_random_texts(batching):
    """With memory for about three of up to eight at a time; a fifth is given up at any moment."""
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    numbers, model = random.Random(seed), random_model()
    starts = [[256, *(numbers.randrange(256) for _ in range(29))] for _ in range(4)]
    jobs = [random_request(numbers, starts) for _ in range(500)]
    single = Engine(model, TOKENIZER)
    expected = [whole(single.write(request)) for request, _ in jobs]
    engine, coming, writing = batching(model, TOKENIZER, 100, 16), [*range(500)], {}
    preempted, release = [], engine.pool.release

    def watched(one):
        preempted.extend([one] * (not one.ended and len(one.ids) > len(one.request.prompt)))
        release(one)
    engine.pool.release = watched
    while coming or writing:
        for _ in range(numbers.randrange(4)):
            if coming and len(writing) < 8:
                n = coming.pop(0)
                writing[n] = engine.write(jobs[n][0]), [], []
        for n in numbers.sample([*writing], numbers.randrange(len(writing) + 1)):
            parts, seen, rows = writing[n]
            if len(seen) == jobs[n][1]:
                parts.close()
                assert expected[n][0].startswith("".join(seen)), f"given-up text {n}, seed {seed}"
                del writing[n]
            elif (found := next(parts, None)) is None:
                assert as_tuple(rows[-1]) == expected[n], (
                    f"text {n} is another one than it would be alone, seed {seed}")
                del writing[n]
            else:
                seen.append(found[0])
                rows.append(found[1])
                assert "".join(seen) == rows[-1].text, f"the parts are the text, seed {seed}"
    assert preempted, "the memory was never too small, so the test has not tested that"
    assert_nothing_is_lost(engine)


def assert_nothing_is_lost(engine):
    """When all have ended, each slot is free, and the names are those of texts' beginnings."""
    pool = engine.pool
    engine.end()
    assert not [*engine.scheduler.step()] and not engine.scheduler.texts()
    assert sorted(pool.free) == [*range(pool.size)] and pool.users == [0] * pool.size
    assert pool.named == {name: slot for slot, name in pool.names.items()}
    order = {slot: n for n, slot in enumerate(pool.free)}
    for (before, _), slot in pool.named.items():
        assert before is None or order[slot] < order[before], "the last slots are taken first"


def test_what_texts_begin_with_is_computed_once(batching):
    """The answers to one request at the same time, then the next turn of one of them."""
    model = random_model()
    shapes, engine = spied(model), batching(model, TOKENIZER)
    thread, hand = engine.worker, ByHand(engine)
    prompt = [256, *range(40)]
    writings = [engine.write(Request(prompt, 4, Sampling(1.5, seed=i))) for i in range(5)]
    hand.run()
    assert shapes == [(1, 40)] + [(5, 1)] * 4, (
        "five answers to one question must read it once, then its last id side by side")
    answers = [whole(writing)[1] for writing in writings]
    assert len({tuple(ids) for ids in answers}) == 5, "and every one draws for itself"
    del shapes[:]
    later = engine.write(Request(prompt + answers[2] + [5, 6, 7], 2, Sampling(0)))
    hand.run()
    assert shapes == [(1, 3)] + [(1, 1)] * 2, (
        "of the next turn only the answer's last id, which nobody has read, and what is new")
    engine.worker = thread
    assert whole(later) == alone(random_model(), Request(prompt + answers[2] + [5, 6, 7], 2,
                                                         Sampling(0)))


def test_a_text_begins_when_it_is_asked_for_and_ends_when_it_is_closed(batching):
    engine = batching(random_model(), TOKENIZER)
    thread, hand = engine.worker, ByHand(engine)
    writings = [engine.write(Request([256, i], 20, Sampling(0))) for i in range(3)]
    hand.run(6)
    a, b, c = engine.scheduler.running
    assert len(a.ids) > 2, "a text must begin before its first part is asked for"
    writings[0].close()
    next(writings[1])
    writings[1].close()
    hand.run(1)
    assert engine.scheduler.running == [c], "a text that is closed must leave, whenever it is"
    del writings[2]
    gc.collect()
    hand.run()
    assert len(c.ids) < 22 and not engine.stepping, "nor is one written that nobody can ask for"
    engine.worker = thread


@torch.no_grad()
def bigrams(pairs):
    """A model that writes one id behind each: pairs[id]."""
    model = GPT(GPTConfig(265, 64, n_layer=1, n_head=1, n_kv_head=1, d_model=266, d_ff=8))
    model.embed.weight.copy_(torch.eye(265, 266))
    model.head.weight.zero_()
    for i, following in pairs.items():
        model.head.weight[following, i] = 10.0
    return model.eval()


def test_calls_of_the_calculator(batching):
    said = [SPECIAL["<|python_start|>"], *b"6*7", SPECIAL["<|python_end|>"]]
    after = [SPECIAL["<|output_end|>"], *b"so.", SPECIAL["<|assistant_end|>"]]
    chain = [*b"Q", *said, 0]
    model = bigrams({a: b for part in (chain, after) for a, b in zip(part, part[1:])})
    request = Request([256, *b"Q"], 40, Sampling(0), tops=1)
    expected = alone(model, request)
    assert expected[0] == "[6*7 = 42]so." and expected[4] == "stop"
    assert whole(batching(model, TOKENIZER).write(request)) == expected


def test_no_ids_are_wanted(batching):
    request = Request([256, 1], 0, Sampling())
    engine = batching(random_model(), TOKENIZER)
    assert whole(engine.write(request)) == alone(engine.model, request)
    assert not engine.stepping and engine.scheduler.texts() == []


def test_what_can_never_fit_is_refused(batching):
    engine = batching(random_model(), TOKENIZER, 20)
    assert len(whole(engine.write(Request([1] * 11, 10, Sampling(0))))[1]) == 10
    with pytest.raises(ValueError, match="11 ids and 11 more don't fit into 20 positions"):
        engine.write(Request([1] * 11, 11, Sampling()))
    with pytest.raises(ValueError, match="a prompt is empty"):
        engine.write(Request([], 3, Sampling()))
    engine = batching(random_model(), TOKENIZER)
    assert engine.pool.size == 8192, "by default"
    with pytest.raises(ValueError, match="60 ids and 6 more don't fit into 64 positions"):
        engine.write(Request([1] * 60, 6, Sampling()))
    assert len(whole(engine.write(Request([1] * 60, 5, Sampling(0))))[1]) == 5, "the whole window"


def test_no_more_texts_run_than_is_allowed():
    """Also if all of them share their memory."""
    pool = Pool(CONFIG, 20)
    scheduler = Scheduler(pool, 100, most_running=2)
    first = text([1, 2, 3])
    pool.extend(first)
    pool.computed(first, 3)
    pool.release(first)
    scheduler.waiting = [text([1, 2, 3]) for _ in range(3)]
    assert [len(texts) for texts, _ in scheduler.step()] == [2] and len(scheduler.waiting) == 1


# ---- the thread ----
def test_an_error_ends_only_those_that_it_concerns(batching):
    model = random_model()
    with torch.no_grad():
        model.embed.weight[7] = float("nan")
    engine, good = batching(model, TOKENIZER), Request([256, 1, 2], 30, Sampling(0))
    expected = alone(model, good)
    assert expected[4] == "length"
    for bad, error, says in (([256, 7, 1], ValueError, "nan"),
                             ([256, 1, 999, 4], IndexError, "index out of range")):
        writings = [engine.write(r) for r in (good, Request(bad, 9, Sampling(0)), good)]
        with pytest.raises(error, match=says):
            whole(writings[1])
        assert whole(writings[0]) == whole(writings[2]) == expected, (
            "an error of one text must not change another")
    assert whole(engine.write(good)) == expected


def test_an_error_of_the_scheduler_reaches_all(batching):
    """So that nobody waits for ever; and then all goes on."""
    engine, request = batching(random_model(), TOKENIZER), Request([256, 1], 3, Sampling(0))
    step, engine.scheduler.step = engine.scheduler.step, lambda: 1 / 0
    for writing in [engine.write(request) for _ in range(2)]:
        with pytest.raises(ZeroDivisionError):
            whole(writing)
    engine.scheduler.step = step
    assert whole(engine.write(request)) == alone(engine.model, request)


def slow_model():
    model = random_model()
    logits = model.logits
    model.logits = lambda x: time.sleep(0.01) or logits(x)
    return model


def test_scores_are_computed_between_steps(batching):
    engine = batching(slow_model(), TOKENIZER)
    request = Request([256, 1], 60, Sampling(0))
    with closing(engine.write(request)) as writing:
        first, _ = next(writing)
        ids = [256, *range(30)]
        assert engine.score(ids, 2) == Engine(engine.model, TOKENIZER).score(ids, 2)
        assert engine.stepping, "a text is still being written"
        with pytest.raises(IndexError):
            engine.score([1, 999], 0)
        rest = [part for part, row in writing]
        assert first + "".join(rest) == alone(random_model(), request)[0]


def test_without_texts_the_thread_sleeps(batching):
    engine, steps = batching(random_model(), TOKENIZER), []
    step, engine.step = engine.step, lambda: steps.append(1) or step()
    whole(engine.write(Request([256, 1], 5, Sampling(0))))
    engine.worker.submit(lambda: None).result()
    n = len(steps)
    time.sleep(0.05)
    assert n == len(steps) <= 6 and not engine.stepping


def test_the_end(batching):
    """Whoever waits is told; without an end(), an engine that nobody needs ends its thread."""
    engine = batching(slow_model(), TOKENIZER, 64)
    writings = [engine.write(Request([256, i], 60, Sampling(0))) for i in range(3)]
    next(writings[0])
    engine.end()
    for writing in writings:
        with pytest.raises(ValueError, match="the model is no longer served"):
            whole(writing)
    with pytest.raises(RuntimeError):
        engine.write(Request([256], 1, Sampling()))
    before = {*threading.enumerate()}
    engine = Batching(random_model(), TOKENIZER)
    whole(engine.write(Request([256, 1], 5, Sampling(0))))
    engine.worker.submit(lambda: None).result()
    gone, (thread,) = weakref.ref(engine), {*threading.enumerate()} - before
    del engine
    gc.collect()
    thread.join(timeout=10)
    assert gone() is None and not thread.is_alive()
