"""Questions with one answer that can be checked: how often is a model right?

A question is put to the model as a user's, and its answer is right if rl.reward() says so: behind
"####". A model that has not learned this form may know the answer nevertheless; so it is also
counted how often the last number of the answer is right, whatever stands before it. A base model,
which has never been asked anything, is shown other questions and their answers first (--shots).
With several answers to each question (--samples) pass@k is the probability that one or more of k is
right.

    python 06_eval/extras/answers.py --run rl --data tasks,form=chat,level=2
    python 06_eval/extras/answers.py --weights FOLDER --data gsm8k --shots 5 --questions 200

Reads a run or a Hugging Face folder, and the held-out questions of a source of conversations;
--json FILE gets every answer. Next: inside.py.
"""

import itertools
import json
import math
import os
import sys
from dataclasses import dataclass

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, escaped, option, run, track, write_safely

import numpy as np

from chatml import as_text
from conversations import end_ids, prompt_ids
from core import CERTAIN, interval
from corpus import find_source
from harness import Harness, divided
from rl import NUMBER, answer_of, number_at, pass_at_k, reward, write_answers
from sample import RunOptions, Sampling, start_of


def pairs_of(source, split, n):
    """The first n (question, reference) of a split, texts: of conversations with one question.
    ValueError if there is none, or if a reference has no answer behind ####.
    """
    talks = (record["messages"] for found, record in source.documents()
             if found == split and len(record.get("messages", ())) == 2)
    pairs = [tuple(as_text(message["content"]) for message in talk)
             for talk in itertools.islice(talks, n or None)]
    if not pairs:
        raise ValueError(f"{source.name} has no conversations of one question and its answer that "
                         f"are {'held out' if split == 'val' else 'to train on'}")
    for _, reference in pairs:
        reward(reference, reference)
    return pairs


def with_examples(question, examples):
    """A question as a text that a base model continues: examples, then it, without an answer."""
    shown = [f"Question: {other}\nAnswer: {reference}\n\n" for other, reference in examples]
    return "".join(shown) + f"Question: {question}\nAnswer:"


def answer_all(model, tokenizer, questions, examples, options, first=0):
    """options.samples texts to each question; None instead of one that didn't end by itself. first:
    the number of the first question, by which, with the seed, answers are drawn.
    """
    samples, numbers = options.samples, range(first, first + len(questions))
    if not examples:
        prompts = [prompt_ids([{"role": "user", "content": text}], tokenizer)
                   for text in questions]
        ends = end_ids(tokenizer)
        groups = write_answers(model, prompts, tokenizer, samples, options.tokens,
                               [(options.seed, n) for n in numbers], options.temperature or 1e-4)
        return [[tokenizer.decode([i for i in one.ids if i not in ends]) if one.ended else None
                 for one in group] for group in groups]
    prompts = [start_of(with_examples(text, examples), tokenizer) for text in questions]
    rows = [prompt for prompt in prompts for _ in range(samples)]
    how = [Sampling(options.temperature, seed=int(number)) for n in numbers for number in
           np.random.default_rng((options.seed, n)).integers(2**31, size=samples)]
    texts = [*Harness(model, tokenizer).write(rows, options.tokens, how, ("\n\n",))]
    return divided(texts, samples)


def last_number_is_right(text, reference):
    """Whether the last number of a text is the reference's, in any form. False if there is none."""
    numbers = [number_at(found[0]) for found in NUMBER.finditer(text)]
    return bool(numbers) and numbers[-1] == number_at(answer_of(reference))


def share(right):
    """The share of (questions, samples) booleans that are true, with its interval: a text."""
    n_questions, n = right.shape
    mean = right.mean()
    low, high = interval(int(right.sum()), n_questions) if n == 1 else (
        mean + sign * CERTAIN * right.mean(1).std() / math.sqrt(n_questions) for sign in (-1, 1))
    return f"{mean:.1%}, 95% interval {max(0, low):.1%} to {min(1, high):.1%}"


def summary(right):
    """Lines on (questions, samples) booleans: pass@1, and of several samples pass@k."""
    n = right.shape[1]
    yield f"pass@1   {share(right)}"
    for k in (2**i for i in range(1, n.bit_length())):
        yield f"pass@{k:<4}{np.mean([pass_at_k(n, int(c), k) for c in right.sum(1)]):.1%}"


@dataclass
class Options(RunOptions):
    weights: str = option("", "a Hugging Face folder, read instead of a run")
    data: str = option("gsm8k", "a source of conversations, each a question and its answer")
    questions: int = option(200, "only the first so many of those held out; 0: all", least=0)
    samples: int = option(1, "answers to each", least=1)
    temperature: float = option(0.0, "0: always the likeliest id", least=0.0)
    tokens: int = option(256, "the most ids of an answer; one that is longer is wrong", least=1)
    shots: int = option(0, "examples shown first, to a model that was never asked", least=0)
    batch_size: int = option(16, "questions at once", least=1)
    seed: int = option(0, "another one draws other answers", least=0)
    json: str = option("", "a file for all answers")
    data_dir: str = option("data", "where downloads are kept")


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add_options(parser, Options)
    options = Options(**vars(parser.parse_args(argv)))
    source = find_source(options.data, options.data_dir)
    pairs = pairs_of(source, "val", options.questions)
    examples = pairs_of(source, "train", options.shots) if options.shots else []
    folder, model, tokenizer, _, step = options.load()
    model.eval()
    rows, many = [], divided(pairs, options.batch_size)
    for some in track(many, "answering", len(pairs), len, " questions"):
        texts = answer_all(model, tokenizer, [question for question, _ in some], examples, options,
                           len(rows))
        rows += [{"question": question, "reference": reference, "answers": group,
                  "right": [text is not None and reward(text, reference) == 1 for text in group]}
                 for (question, reference), group in zip(some, texts)]
        if options.json:
            write_safely(options.json, "".join(json.dumps(row) + "\n" for row in rows))
    ended = np.mean([text is not None for row in rows for text in row["answers"]])
    print(escaped(f"{folder}{'' if step is None else f', step {step}'}: {len(rows):,} questions of "
                  f"{source.name}, {options.samples} answers to each, {ended:.0%} of which end"))
    print(*summary(np.array([row["right"] for row in rows])), sep="\n")
    loosely = np.array([[last_number_is_right(text or "", row["reference"])
                         for text in row["answers"]] for row in rows])
    print(f"by the last number of the answer, in any form: {share(loosely)}")


if __name__ == "__main__":
    run(main)
