"""Reinforcement learning on answers that can be checked: a simple GRPO, group-relative policy
optimisation (Shao et al. 2024).

The loop is train.py's; what is new is where its batches come from: the model writes them. It writes
several answers to each question, and a function rewards those that are right. Then a step makes
answers with more reward than the mean of their group, all answers to one question, more likely, and
those with less reward less likely. This is right only for answers drawn from the model as it is now
(on policy; the policy is the model), so each batch serves a single step. The paper's ratio of
probabilities and its clipping, for batches that serve several steps, are left out, and so is its KL
penalty. Watch the reward, not the loss, which says nothing: a group's advantages sum to 0.
The model may call a calculator (conversations.calculate), in our own format, not in ChatML. Nothing
that it writes is executed. An answer that doesn't end by itself is wrong: ending is learned, too.

    python 04_train/rl.py --init runs/sft --data tasks,form=chat --answer-tokens 48 --steps 20

Takes train.py's options; reads a source of conversations, each a question and its answer; writes
what train.py does; loss.png shows the rewards. "Best" is the checkpoint with the fewest bits per
byte of the right answers; for the highest pass@1 of metrics.jsonl: --keep 1000, then --checkpoint
STEP. Next: 05_sample/sample.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import run
import math
import re
from decimal import Decimal

import numpy as np
import torch
import torch.nn.functional as F

import sft
import train
from conversations import calculate, end_ids
from gpt import generate

NUMBER = re.compile(r"-?\$?-?(\d{1,3}(,\d{3})+|\d+|(?=\.\d))(\.\d+)?")


# ---- what is right ----
def number_at(text):  # exercise
    """The number that a text begins with, behind spaces, as a Decimal, or None: what NUMBER matches
    there, without dollar sign and commas. "18", "18.", "$18" and "18.0 a day" give 18, "-$1,800"
    and "$-1800" -1800, ".5" 0.5; "ten" gives None.
    """
    found = NUMBER.match(text.strip())
    return Decimal(re.sub("[$,]", "", found[0])) if found else None


def answer_of(text):  # exercise
    """What stands behind the first "####" of a text, up to the end of the line, without spaces
    around it; None if there is no "####". The first, so that a second guess is worth nothing:
    answer_of("6 + 2 = 8\\n#### 8\\n#### 9") == "8"
    """
    found = re.search(r"####(.*)", text)
    return found[1].strip() if found else None


def reward(text, reference):  # exercise
    """1.0 if a text has the same answer_of() as the reference, else 0.0, also if it has none.

    If all of the reference's is a number (NUMBER, perhaps with a point at its end), number_at() of
    both are compared, so that "18 dollars" is "18"; else the strings are. ValueError "no answer
    behind ####" if the reference has none, or an empty one: nothing may be equal to that.
    """
    found, expected = answer_of(text), answer_of(reference)
    if not expected:
        raise ValueError(f"{reference[-40:]!r} has no answer behind ####, so none can be checked")
    if NUMBER.fullmatch(expected.rstrip(".")) and found is not None:
        found, expected = number_at(found), number_at(expected)
    return float(found == expected)


def pass_at_k(n, c, k):  # exercise
    """The probability that among k answers, drawn from n of which c are right, one or more is
    right: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, section 2.1). pass_at_k(8, 2, 1) == 0.25
    """
    return 1 - math.comb(n - c, k) / math.comb(n, k)


# ---- writing answers ----
class Answer:
    """An answer that is being written. Of each of its ids: own, 1 if the model wrote it, 0 if the
    calculator did; logps, its log-probability, and entropies, of what it was drawn from, or 0.0.
    ended: by itself, not by the limit of its length.
    """

    def __init__(self, tokenizer):
        self.tokenizer, self.ends, self.ended = tokenizer, end_ids(tokenizer), False
        self.ids, self.own, self.logps, self.entropies = [], [], [], []
        self.call, self.forced = None, []  # the ids of an open call; ids that come next

    def add(self, i, logp, entropy):  # exercise
        """An id was drawn. Append what comes, with its own, logp and entropy, and return it: the
        first of self.forced, if there are any (own 0, numbers 0.0), and what was drawn is lost;
        else the id drawn, which ends the answer if it is in self.ends.

        <|python_start|> opens a call, self.call = [], to which the ids behind it are appended.
        <|python_end|> closes it, self.call = None. If calculate() finds the value of the call's
        text, self.forced becomes <|output_start|>, the ids of the value, <|output_end|>. Their ids
        are in tokenizer.special; a tokenizer for another format may have none of them.
        """
        special, own = self.tokenizer.special, not self.forced
        if not own:
            i, logp, entropy = self.forced.pop(0), 0.0, 0.0
        for values, value in ((self.ids, i), (self.own, int(own)), (self.logps, logp),
                              (self.entropies, entropy)):
            values.append(value)
        self.ended = own and i in self.ends
        if i == special.get("<|python_start|>"):
            self.call = []
        elif i == special.get("<|python_end|>") and self.call is not None:
            if (result := calculate(self.tokenizer.decode(self.call))) is not None:
                self.forced = [special["<|output_start|>"], *self.tokenizer.encode(result),
                               special["<|output_end|>"]]
            self.call = None
        elif self.call is not None:
            self.call.append(i)
        return i


def draw(logits, temperature, uniforms):  # exercise
    """Draw an id for each row from p = softmax(logits / temperature): three lists, the ids, their
    log-probabilities, and the entropies -sum(p log p), in nats.

    logits: (B, V); uniforms: (B,), from [0, 1). An id is the first at which the sum of p up to it,
    divided by the sum of all p, exceeds the row's number. Of all ids, not of the likeliest alone:
    others have a probability in the training step, too.
    """
    logits = logits / temperature
    p = logits.softmax(-1)
    upto = p.cumsum(-1)
    wanted = uniforms.to(p.device)[:, None] * upto[:, -1:]
    ids = torch.searchsorted(upto, wanted, right=True).clamp(max=p.shape[-1] - 1)
    logps = p.gather(-1, ids).log()
    log_sum = (logits.gather(-1, ids) - logps)[:, 0]  # of any id, logits - log p
    entropies = log_sum - torch.linalg.vecdot(p, logits)  # -sum(p log p), without V logarithms
    return ids[:, 0].tolist(), logps[:, 0].tolist(), entropies.tolist()


def uniforms(seeds, n_samples, n_tokens):
    """Random numbers from [0, 1) for n_samples answers to each of len(seeds) prompts."""
    return torch.from_numpy(np.concatenate([np.random.default_rng(seed).random(
        (n_samples, n_tokens), np.float32) for seed in seeds]))


def write_answers(model, prompts, tokenizer, n_samples, n_tokens, seeds, temperature=1.0,
                  kind=Answer):
    """n_samples Answers, of at most n_tokens ids, to each prompt: a list of lists. seeds: of each
    prompt's random numbers, whichever prompts are beside it. Unless by_hand: by extras/rollouts.py.
    """
    if not model.config.by_hand and max(map(len, prompts)) + n_tokens <= model.config.seq_len:
        from rollouts import write_fast
        return write_fast(model, prompts, tokenizer, n_samples, n_tokens, seeds, temperature, kind)
    answers = [kind(tokenizer) for _ in prompts for _ in range(n_samples)]
    columns = iter(uniforms(seeds, n_samples, n_tokens).T)

    def pick(logits):
        drawn = zip(answers, *draw(logits, temperature, next(columns)))
        ids = [i if answer.ended else answer.add(i, *numbers) for answer, i, *numbers in drawn]
        return torch.tensor(ids, device=logits.device)
    for _ in generate(model, prompts, n_tokens, pick, n_samples):
        if all(answer.ended for answer in answers):
            break
    return [answers[i:i + n_samples] for i in range(0, len(answers), n_samples)]


# ---- the step ----
# The mean reward is the sum of p(answer) * reward over all answers. As dp = p * d(log p), its
# gradient is the mean of reward * d(log p) over answers drawn from p. So a step needs no more than
# -reward * log p of answers that the model has drawn (REINFORCE, Williams 1992).

def advantages(rewards):  # exercise
    """How much better each answer is than its group: rewards, an array (questions, answers), less
    the mean of each row. [[1, 0, 0, 1], [0, 0, 0, 0]] gives [[.5, -.5, -.5, .5], [0, 0, 0, 0]].

    What is taken from all rewards of a question changes the mean gradient only by a factor, 1 - 1/G
    for G answers, but makes it less noisy: without it no wrong answer would become less likely. A
    group whose rewards are equal teaches nothing. (GRPO also divides by the standard deviation,
    which favours questions that are nearly always, or never, solved: Liu et al. 2025, section 3.1.)
    """
    return rewards - rewards.mean(axis=1, keepdims=True)


def policy_loss(logits, targets, advantage, temperature):  # exercise
    """For each id what a step minimises, (b, T): the advantage of its answer, times -log p.

    logits: (b, T, V); targets: (b, T), negative where nothing is to be learned, and the loss is 0;
    advantage: (b, T). p is the probability with which it was drawn, softmax(logits / temperature).
    train_step() divides the sum by the number of targets in the whole step, as DAPO does (Yu et al.
    2025, section 3.3): an id of a long answer weighs as much as one of a short answer.
    """
    nats = F.cross_entropy((logits / temperature).flatten(0, 1), targets.flatten().clamp(min=-1),
                           ignore_index=-1, reduction="none").view_as(targets)
    return advantage * nats


def as_arrays(rows):  # exercise
    """(inputs, targets, advantage, logps), numpy (B, T), of rows [(prompt, Answer, advantage), ...]
    for the longest of which T ids are just enough: all of prompt and answer but the last.

    Inputs are these ids, targets the ids that follow them, where the model wrote them itself, its
    end included; else -1, as for prompts and the calculator's output. The other two have, at each
    id of the answer as a target, the answer's advantage and the id's log-probability. All else is
    0. With prompt [5, 6], answer [7, 8] and advantage .5 a row has inputs [5, 6, 7], targets
    [-1, 7, 8] and advantage [0, .5, .5].
    """
    shape = len(rows), max(len(prompt) + len(answer.ids) for prompt, answer, _ in rows) - 1
    inputs, targets = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
    advantage, logps = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for b, (prompt, answer, value) in enumerate(rows):
        here = slice(len(prompt) - 1, len(prompt) + len(answer.ids) - 1)
        inputs[b, :here.stop] = (prompt + answer.ids)[:-1]
        targets[b, here] = np.where(answer.own, answer.ids, -1)
        advantage[b, here], logps[b, here] = value, answer.logps
    return inputs, targets, advantage, logps


# ---- what the loops need ----
class Batches(sft.Batches):
    """Endless batches, as_arrays(), that the model writes: `group` answers to each of batch_size /
    group questions, in another order in each epoch. reward(text, reference): a number; an answer
    cut off at answer_tokens gets 0.0. measures: of a rank's last batch; tested: what is held out.
    """

    def __init__(self, config, data, model=None, rank=0, world=1, reward=reward):
        super().__init__(config, data, None, rank, world)
        if config.batch_size % (config.group * world):
            raise ValueError(f"batch_size is {config.batch_size}, but must be a multiple of group "
                             f"{config.group}, times {world} processes")
        self.model, self.tokenizer, self.reward = model, data.tokenizer, reward
        self.ends = end_ids(data.tokenizer)
        self.questions, self.held_out = map(self.questions_of, (self.packed, self.val))
        self.measures, self.tested, self.tokens = {}, {}, 0  # tokens: ids learned from, by all
        if model is not None and rank == 0:
            n, m = len(self.questions), len(self.held_out)
            out = sum(p.dropped + len(p.conversations) for p in (self.packed, self.val)) - n - m
            print(f"questions  {n:,} to train on, {m:,} to test; {out:,} left out: too long, or "
                  "several answers")

    def questions_of(self, packed):
        """[(prompt, the reference's text), ...]: what is before the first learned id, and what is
        learned. Conversations are left out that have more than one answer, or one that a window
        cuts off, or whose prompt leaves no room there for answer_tokens.
        """
        found, config = [], self.config
        for start, n in packed.conversations:
            learned = packed.ids.labels(start, n) >= 0
            ids, begin = packed.ids.read(start, n), int(learned.argmax())
            answer = ids[learned].tolist()
            whole = answer[-1] in self.ends and not self.ends.intersection(answer[:-1])
            if whole and begin + config.answer_tokens <= config.seq_len:
                found.append((ids[:begin].tolist(), self.said(answer)))
                self.reward(found[-1][1], found[-1][1])  # ValueError if it can't be checked
        if not found:
            raise ValueError(f"no question leaves room for {config.answer_tokens} ids in a window "
                             f"of {config.seq_len}: lower --answer-tokens")
        return found

    def said(self, ids):
        """The text of an answer, without the id that ends it."""
        return self.tokenizer.decode([i for i in ids if i not in self.ends])

    def answers(self, questions, seeds):
        """(groups of Answers, their rewards, an array (questions, answers))."""
        config = self.config
        groups = write_answers(self.model, [prompt for prompt, _ in questions], self.tokenizer,
                               config.group, config.answer_tokens, seeds, config.temperature)
        rewards = [[self.reward(self.said(answer.ids), text) if answer.ended else 0.0
                    for answer in group] for group, (_, text) in zip(groups, questions)]
        return groups, np.array(rewards)

    def __next__(self):
        first, seed = self.n, self.config.seed
        self.n += self.config.batch_size // self.config.group
        numbers, chosen = range(first + self.rank, self.n, self.world), []
        for n in numbers:
            epoch, place = divmod(n, len(self.questions))
            order = np.random.default_rng((seed, epoch, 1)).permutation(len(self.questions))
            chosen.append(self.questions[order[place]])
        groups, rewards = self.answers(chosen, [(seed, n) for n in numbers])
        rows = [(prompt, answer, value) for (prompt, _), group, values in zip(
            chosen, groups, advantages(rewards)) for answer, value in zip(group, values)]
        rows.sort(key=lambda row: (row[2] == 0, len(row[0] + row[1].ids)))  # less padding is read
        self.tokens += self.world * sum(len(row[0] + row[1].ids) for row in rows if row[2])
        entropies = [h for _, answer, _ in rows for h, own in zip(answer.entropies, answer.own)
                     if own]
        self.measures = {
            "reward": float(rewards.mean()), "entropy": float(np.mean(entropies)),
            "answer_length": float(np.mean([len(answer.ids) for _, answer, _ in rows])),
            "groups_equal": float((rewards.min(1) == rewards.max(1)).mean()), "gap": 0.0}
        return as_arrays(rows)

    def objective(self, loss):
        """policy_loss() of a micro-batch, of its N targets with an advantage that is not 0: others
        have no gradient. ValueError if the probabilities are not those with which the answers were
        drawn, up to 1e-4 (over the temperature, if that is below 1): the gradient would be that of
        another model. In bfloat16 they differ by more: watch the largest, "gap" of the measures.
        """
        exact = self.config.dtype == "float32" and not self.model.embed.weight.is_cuda  # no TF32

        def objective(x, y, advantage, logps):
            taught, n = advantage.any(1), int((y >= 0).any(0).nonzero().max()) + 1
            x, y, advantage, logps = (a[taught, :n] for a in (x, y, advantage, logps))
            own = y >= 0  # N ids that the model wrote: of no others are logits needed
            logits = self.model.logits(self.model.hidden(x)[own])[None]  # (1, N, V)
            y, one = y[own][None], torch.ones_like(logps[own])[None]  # (1, N)
            nats = policy_loss(logits, y, one, self.config.temperature)[0]  # (N,)
            gap = max((nats.detach() + logps[own]).abs().tolist(), default=0.0)
            self.measures["gap"] = max(gap, self.measures["gap"])
            if exact and not gap * min(1.0, self.config.temperature) < 1e-4:
                raise ValueError(f"a log-probability was {gap:.2g} different when it was drawn")
            return advantage[own] * nats
        return objective

    def evaluate(self, model, ids, sizes, config, max_tokens=None, rank=0, world=1,
                 total=lambda sums: sums):
        """Bits per byte, as sft.py's, of the right answers. self.tested gets pass@1, and pass@k
        with k = group, of about max_tokens ids of answers to held-out questions.
        """
        n, sums, at_once = config.group, np.zeros(3), config.batch_size // config.group // world
        most = max_tokens and max(1, max_tokens // (n * config.answer_tokens))
        numbers = range(len(self.held_out[:most or None]))[rank::world]
        for i in range(0, len(numbers), at_once):
            some = numbers[i:i + at_once]
            _, rewards = self.answers([self.held_out[j] for j in some], some)
            for c in (rewards == 1).sum(axis=1).tolist():
                sums += pass_at_k(n, c, 1), pass_at_k(n, c, n), 1
        one, several, count = np.asarray(total(sums)).tolist()
        self.tested = {"pass@1": one / count, f"pass@{n}": several / count}
        return super().evaluate(model, ids, sizes, config, max_tokens, rank, world, total)

    def epochs(self):
        return [self.n / len(self.questions)]

    def state_dict(self):
        return {"n": self.n, "tokens": self.tokens}

    def load_state_dict(self, state):
        self.n, self.tokens = int(state["n"]), int(state["tokens"])


def main(argv=None):
    given = sys.argv[1:] if argv is None else argv
    train.main(["--preset", "rl", *given, "--sampling", "answers"])


if __name__ == "__main__":
    run(main)
