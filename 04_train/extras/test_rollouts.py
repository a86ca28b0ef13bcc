"""Tests of rollouts.py: what the fast twin does by itself; test_rl.py holds it equal to rl.py."""

import rollouts
from rl import write_answers
from test_rl import QUESTIONS, TOKENIZER, random_model, talkative


def test_answers_that_have_ended_leave_the_batch(monkeypatch):
    monkeypatch.setattr(rollouts, "CHUNK", 4)
    model, rows = talkative(), []
    hidden = model.hidden
    model.hidden = lambda ids, *given, **named: rows.append(len(ids)) or hidden(
        ids, *given, **named)
    groups = write_answers(model, QUESTIONS, TOKENIZER, 6, 30, range(3))
    ended = [len(one.ids) for group in groups for one in group if one.ended]
    assert rows[1] == 18 and rows[1:] == sorted(rows[1:], reverse=True) and ended
    for step, n in enumerate(rows[1:]):
        assert n == 18 - sum(length <= step // 4 * 4 for length in ended)


def test_a_long_answer_slides_over_the_window():
    """As generate() does: then the plain version writes."""
    plain, fast = ([[one.ids for one in group] for group in write_answers(
        random_model(**twin), QUESTIONS, TOKENIZER, 2, 70, range(3))]
        for twin in ({"by_hand": True}, {}))
    assert plain == fast and max(len(ids) for group in fast for ids in group) > 48
