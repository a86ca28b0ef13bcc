"""Reinforcement learning on answers that can be checked: a simple GRPO (Shao et al. 2024).

The loop is train.py's; what is new is where its batches come from: the model writes them. To each
question it writes several answers, and a function rewards those that are right. Then a step makes
what is better than the mean of its group likelier, and what is worse less likely.
The model may call a calculator: what it writes between <|python_start|> and <|python_end|> is
computed, and the result is put behind it. Nothing that it writes is executed.

    python 04_train/rl.py --init runs/sft --data gsm8k --steps 100

Takes train.py's options; reads a source of conversations, each a question and its answer; writes
what train.py does, and rl.png. Next: 05_sample/sample.py.
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
from conversations import calculate, end_ids
from gpt import generate
from train import opened, train

NUMBER = re.compile(r"-?[\d,]*\.?\d+")
CHUNK = 16  # ids that all answers grow by, before those that have ended are taken out


# ---- what is right ----
def number_at(text):  # exercise
    """The number that a text begins with, a Decimal, or None.

    A minus sign, a dollar sign in front, commas between digits and a point may be there: "18.",
    "$18" and "18.0 a day" are 18, "1,800" is 1800, ".5" is 0.5; "ten" is None. See NUMBER.
    """
    found = NUMBER.match(text.strip().replace("$", "", 1))
    return Decimal(found[0].replace(",", "")) if found else None


def answer_of(text):  # exercise
    """What stands behind the first "####" of a text, up to the end of the line, without spaces
    around it; None if there is no "####". answer_of("6 + 2 = 8\\n#### 8\\n#### 9") == "8"
    """
    found = re.search(r"####(.*)", text)
    return found[1].strip() if found else None


def reward(text, reference):  # exercise
    """1.0 if the answer_of() a text is that of the reference, else 0.0. If that of the reference is
    a number and nothing more, then number_at() both must be equal. ValueError if the reference has
    none, or an empty one: else a text without an answer would be right.
    """
    found, expected = answer_of(text), answer_of(reference)
    if not expected:
        raise ValueError(f"{reference[-40:]!r} has no answer behind ####, so none can be checked")
    if NUMBER.fullmatch(expected.replace("$", "", 1)) and found is not None:
        found, expected = number_at(found), number_at(expected)
    return float(found == expected)


def pass_at_k(n, c, k):  # exercise
    """The probability that of k answers, drawn from n of which c are right, one or more is right:
    1 - C(n - c, k) / C(n, k), as a product of factors below 1, which stays finite (Chen et al.
    2021, section 2.1). pass_at_k(8, 2, 1) == 0.25
    """
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1)) if n - c >= k else 1.0


# ---- answers ----
class Answer:
    """An answer that is being written. own: 1 where the model wrote an id, 0 where the calculator
    did; logps: the log-probabilities of what it wrote; ended: whether it has ended by itself.
    """

    def __init__(self, tokenizer):
        self.tokenizer, self.ids, self.own, self.logps = tokenizer, [], [], []
        self.call, self.forced, self.ended = None, [], False  # call: ids between start and end
        self.ends = end_ids(tokenizer)

    def add(self, i, logp):  # exercise
        """The next id was drawn, with this log-probability. Returns the id that comes next.

        That is the first of self.forced, if it holds any, with own 0 and log-probability 0.0; else
        the one drawn. After <|python_end|>, if a call was open, calculate() the text of self.call;
        unless it is None, self.forced becomes <|output_start|>, the ids of the result,
        <|output_end|>. The answer has ended with a drawn id of self.ends. Special tokens are in
        tokenizer.special; other formats have none for calls.
        """
        special, own = self.tokenizer.special, not self.forced
        if not own:
            i, logp = self.forced.pop(0), 0.0
        for values, value in ((self.ids, i), (self.own, int(own)), (self.logps, logp)):
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


def write_answers(model, prompts, tokenizer, n_samples, n_tokens, temperature=1.0, seed=0):
    """([n_samples Answers of at most n_tokens ids] of each prompt, mean entropy in nats).

    Drawn from the full softmax of logits / temperature: what top-k or top-p leave out would have
    another probability in the training step. A prompt is read once; an answer that has ended is
    taken out of the batch. Each answer has random numbers of its own, whoever is beside it.
    """
    from ragged import make_cache  # rows of any lengths
    answers = [Answer(tokenizer) for _ in prompts for _ in range(n_samples)]
    rows = [prompt for prompt in prompts for _ in range(n_samples)]
    rng = np.random.default_rng(seed)
    random = torch.from_numpy(rng.random((len(rows), n_tokens), dtype=np.float32))
    if not model.config.by_hand:
        from blocked import for_reading
        model = for_reading(model, len(rows))
    with torch.inference_mode():
        cache = make_cache(model, prompts, n_tokens)
        cache.read(model, prompts)
    alive, entropies = [i for i in range(len(rows))], []
    cache = cache.take([i // n_samples for i in alive])

    def pick(logits):
        z = logits / temperature
        p = z.softmax(-1)
        upto = p.cumsum(-1)  # the first id whose sum is above a random number is drawn
        wanted = random[alive, len(entropies)].to(p.device)[:, None] * upto[:, -1:]
        drawn = torch.searchsorted(upto, wanted, right=True).clamp(max=p.shape[-1] - 1)
        logps = p.gather(-1, drawn).log()
        log_total = z.gather(-1, drawn) - logps  # entropy: the mean of log_total - z
        entropies.append((log_total - (p.unsqueeze(1) @ z.unsqueeze(2))[..., 0])[:, 0])
        pairs = zip(alive, drawn[:, 0].tolist(), logps[:, 0].tolist())
        ids = [i if answers[n].ended else answers[n].add(i, logp) for n, i, logp in pairs]
        return torch.tensor(ids, device=logits.device)
    for start in range(0, n_tokens, CHUNK):
        for _ in generate(model, [rows[n] + answers[n].ids for n in alive],
                          min(CHUNK, n_tokens - start), pick, 1, cache):
            pass
        keep = [place for place, n in enumerate(alive) if not answers[n].ended]
        if not keep:
            break
        if len(keep) < len(alive):
            alive, cache = [alive[place] for place in keep], cache.take(keep)
    groups = [answers[i:i + n_samples] for i in range(0, len(answers), n_samples)]
    return groups, float(torch.cat(entropies).mean())


# ---- the step ----
def advantages(rewards):  # exercise
    """How much better each answer is than its group: rewards, (P, G), less each row's mean. A group
    whose rewards are all equal teaches nothing. [[1, 0, 0, 1], [0, 0, 0, 0]] gives
    [[.5, -.5, -.5, .5], [0, 0, 0, 0]]. (Not divided by the deviation, which would favour questions
    that are nearly always, or never, solved: Liu et al. 2025, section 3.1.)
    """
    return rewards - rewards.mean(axis=1, keepdims=True)


def policy_loss(logits, targets, weights, temperature):  # exercise
    """Of each id what a step minimises, (b, T): its weight, the answer's advantage, times -log p.

    logits: (b, T, V); targets: (b, T), negative where there is nothing to learn, and the loss 0;
    weights: (b, T). p is the probability by which it was drawn: softmax(logits / temperature).
    train_step() divides the sum by the number of targets in the whole step, as DAPO does (Yu et al.
    2025, section 3.3): an id of a long answer weighs as much as one of a short answer.
    """
    nats = F.cross_entropy((logits / temperature).flatten(0, 1), targets.flatten().clamp(min=-1),
                           ignore_index=-1, reduction="none").view_as(targets)
    return weights * nats


class Batches(sft.Batches):
    """Endless batches (inputs, targets, weights, logps) that the model writes: `group` answers to
    each of batch_size / group questions, in an order that differs between epochs. reward(text,
    reference): a number; an answer cut off at answer_tokens gets 0. measures: of the last batch.
    """

    def __init__(self, config, data, model=None, rank=0, world=1, reward=reward):
        super().__init__(config, data, None, rank, world)
        if config.batch_size % (config.group * world):
            raise ValueError(f"batch_size is {config.batch_size}, but must be a multiple of group "
                             f"{config.group}, times {world} processes")
        self.model, self.tokenizer, self.reward = model, data.tokenizer, reward
        self.ends = end_ids(data.tokenizer)
        self.questions, self.held_out = map(self.questions_of, (self.packed, self.val))
        self.measures, self.tested, self.tokens = {}, {}, 0  # tokens: read so far, by all ranks
        if model is not None and rank == 0:
            print(f"questions  {len(self.questions):,} to train on, {len(self.held_out):,} to test")

    def questions_of(self, packed):
        """[(prompt, the reference's text), ...]: what is before the first learned id, and what is
        learned. Those are left out whose prompt leaves no room for answer_tokens in a window.
        """
        found = []
        for start, n in packed.conversations:
            learned = packed.ids.labels(start, n) >= 0
            ids, begin = packed.ids.read(start, n), int(learned.argmax())
            text = self.said(ids[learned].tolist())
            self.reward(text, text)  # ValueError if it can't be checked
            if begin + self.config.answer_tokens <= self.config.seq_len:
                found.append((ids[:begin].tolist(), text))
        if not found:
            raise ValueError(f"no question leaves room for {self.config.answer_tokens} ids in a "
                             f"window of {self.config.seq_len}: lower --answer-tokens")
        return found

    def said(self, ids):
        """The text of an answer, without the id that ends it."""
        return self.tokenizer.decode([i for i in ids if i not in self.ends])

    def answers(self, questions, seed):
        """(groups of Answers, their rewards (P, G), their mean entropy)."""
        config = self.config
        groups, entropy = write_answers(self.model, [prompt for prompt, _ in questions],
                                        self.tokenizer, config.group, config.answer_tokens,
                                        config.temperature, seed)
        rewards = [[self.reward(self.said(one.ids), text) if one.ended else 0.0
                    for one in group] for group, (_, text) in zip(groups, questions)]
        return groups, np.array(rewards), entropy

    def __next__(self):
        P, n = self.config.batch_size // self.config.group, self.n
        chosen = []
        for i in range(n + self.rank, n + P, self.world):
            epoch, place = divmod(i, len(self.questions))
            rng = np.random.default_rng((self.config.seed, epoch))
            chosen.append(self.questions[rng.permutation(len(self.questions))[place]])
        self.n += P
        seed = int(np.random.default_rng((self.config.seed, n, self.rank)).integers(2**63))
        groups, rewards, entropy = self.answers(chosen, seed)
        lengths = [len(one.ids) for group in groups for one in group]
        self.tokens += self.world * sum(lengths) + self.world * self.config.group * sum(
            len(prompt) for prompt, _ in chosen)
        self.measures = {"reward": float(rewards.mean()), "answer_length": float(np.mean(lengths)),
                         "entropy": entropy,
                         "groups_equal": float((rewards.min(1) == rewards.max(1)).mean())}
        rows = [(prompt, one, weight) for (prompt, _), group, weights in
                zip(chosen, groups, advantages(rewards)) for one, weight in zip(group, weights)]
        shape = len(rows), max(len(prompt) + len(one.ids) for prompt, one, _ in rows) - 1
        inputs, targets = np.zeros(shape, np.int64), np.full(shape, -1, np.int64)
        weights, logps = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for b, (prompt, one, weight) in enumerate(rows):
            begin, end = len(prompt) - 1, len(prompt) + len(one.ids) - 1
            inputs[b, :end] = (prompt + one.ids)[:-1]
            targets[b, begin:end] = np.where(one.own, one.ids, -1)
            weights[b, begin:end], logps[b, begin:end] = weight, one.logps
        return inputs, targets, weights, logps

    def objective(self, loss):
        """policy_loss() of a micro-batch. ValueError if the probabilities are not those by which
        the answers were drawn: then the gradient would be that of another model. (With fewer
        digits than float32's, as TF32 has, they differ by more: that is not checked.)
        """
        exact = (self.config.dtype == "float32"
                 and torch.get_float32_matmul_precision() == "highest")

        def objective(x, y, weights, logps):
            logits = self.model.logits(self.model.hidden(x))
            nats = policy_loss(logits, y, torch.ones_like(weights), self.config.temperature)
            gap = ((nats.detach() + logps) * (y >= 0)).abs().max()
            if exact and not gap < 1e-4:
                raise ValueError(f"a log-probability was {gap:.2g} different when it was drawn")
            return weights * nats
        return objective

    def evaluate(self, model, ids, sizes, config, max_tokens=None, *ranks):
        """As sft.py's, of the right answers. self.tested gets pass@1, and pass@k with k = group, of
        about max_tokens ids of answers to held-out questions, by the same temperature.
        """
        most = max_tokens and max(1, max_tokens // (config.group * config.answer_tokens))
        chosen, right, G = self.held_out[:most or None], [], config.group
        for i in range(0, len(chosen), max(1, config.batch_size // G)):
            _, rewards, _ = self.answers(chosen[i:i + max(1, config.batch_size // G)], seed=i)
            right += (rewards == 1).sum(axis=1).tolist()
        self.tested = {f"pass@{k}": float(np.mean([pass_at_k(G, c, k) for c in right]))
                       for k in sorted({1, G})}
        return super().evaluate(model, ids, sizes, config, max_tokens, *ranks)

    def epochs(self):
        return [self.n / len(self.questions)]

    def state_dict(self):
        return {"n": self.n, "tokens": self.tokens}

    def load_state_dict(self, state):
        self.n, self.tokens = int(state["n"]), int(state["tokens"])


def main(argv=None):
    given = sys.argv[1:] if argv is None else argv
    with opened(["--preset", "rl", *given, "--sampling", "answers"]) as found:
        if found:
            train(*found)


if __name__ == "__main__":
    run(main)
