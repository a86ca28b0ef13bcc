"""Direct preference optimisation: learn from pairs of answers, of which one was preferred.

The loop is train.py's, or 07_scale/scale.py's; only the batches and the loss are others. No model
of rewards is needed: an answer's reward is beta * log(p / p_ref), p_ref being its probability in
the reference, the model as it was when the run began. A step makes the reward of the chosen answer
larger than that of the rejected one (Rafailov et al. 2023, equation 7). The reference is a second
model in the memory of each process. "Best" is the checkpoint with the fewest bits per byte of the
chosen answers; for the highest val_accuracy of metrics.jsonl: --keep 1000, then --checkpoint STEP.

    python 04_train/extras/dpo.py --init runs/sft --data jsonl:FILE    # see records.as_record()
    python 04_train/extras/dpo.py --init runs/sft --data tasks,form=pairs --lr 1e-5 --steps 100

Takes train.py's options and --beta; reads pairs; writes what train.py does. Next: compiling.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import run
import hashlib

import numpy as np
import torch
import torch.nn.functional as F

import sft
import starting
import train
from lora import is_adapter
from runs import tensors

STARTS = "<|assistant_start|>", "<|im_start|>"  # the last answer stands behind the last of these
MEASURES = "margin", "accuracy", "chosen", "rejected"


# ---- the loss ----
def log_ratios(loss, x, y, reference):  # exercise
    """How much likelier each answer is to the model than to the reference: log(p / p_ref), (B,).

    loss(x, y): the model's, (B, T) nats, -log p of each target; 0 where a target is negative, as in
    prompts and padding. p of an answer is the product of its ids' probabilities, not their mean.
    reference: log p_ref of each whole answer, (B,), or a number.
    An answer of three ids that cost 1.0, 2.0 and 0.5 nats, with reference -4.0, has 0.5.
    """
    return -loss(x, y).sum(1) - reference


def dpo_loss(chosen, rejected, beta):  # exercise
    """What a step minimises for each pair, (P,): -log sigmoid(beta * (chosen - rejected)).

    chosen, rejected: log_ratios() of a pair's two answers, (P,) each. If both are 0, as at the
    beginning of a run, the loss is ln 2. It has to stay finite where they differ by thousands. The
    larger beta is, the less a pair moves the model away from the reference.
    Of chosen 2.0, rejected -8.0 and beta 0.1 it is -log sigmoid(1.0) = 0.3133.
    """
    return -F.logsigmoid(beta * (chosen - rejected))


def sums(ratios, beta):
    """(5,) float64: sums of MEASURES over some pairs, and how many there are. ratios: log_ratios()
    of chosen, rejected, chosen ...; margin: beta * (chosen - rejected); accuracy: is it above 0?
    """
    chosen, rejected = ratios.cpu().double().numpy().reshape(-1, 2).T
    margin = beta * (chosen - rejected)
    return np.array([margin.sum(), (margin > 0).sum(), chosen.sum(), rejected.sum(), len(margin)])


# ---- pairs ----
class Pairs(sft.Packed):
    """The pairs in some Ids: each two documents are conversations that differ in the last answer
    alone, chosen and rejected. One longer than a window of seq_len ids is cut; pairs of which this
    leaves no answer, or no difference, are dropped; both are counted. ValueError if documents are
    no pairs, or none is left. conversations: pairs of (where it begins, ids read, ids of prompt).
    """

    def __init__(self, ids, tokenizer, seq_len):
        self.ids, self.seq_len, self.cut, self.dropped = ids, seq_len, 0, 0
        self.conversations, starts = [], ids.starts.tolist()
        marks = [tokenizer.special[name] for name in STARTS if name in tokenizer.special]
        spans = [*zip(starts, [*starts[1:], len(ids)])]
        for i in range(0, len(spans), 2):
            texts = [ids.read(start, end - start).tolist() for start, end in spans[i:i + 2]]
            begins = [max(np.flatnonzero(np.isin(text, marks)), default=-1) + 1 for text in texts]
            if begins != 2 * begins[:1] or not begins[0] or (
                    texts[0][:begins[0]] != texts[1][:begins[0]]):
                raise ValueError(f"documents {i + 1} and {i + 2} are not two answers to a question:"
                                 " give a source of pairs, chosen and rejected (see records.py)")
            pair = [(start, min(end - start, seq_len + 1), int(begins[0]))
                    for start, end in spans[i:i + 2]]
            if (texts[0][:seq_len + 1] != texts[1][:seq_len + 1]
                    and ((self.read([pair])[1] >= 0).any(1)).all()):
                self.conversations.append(pair)
                self.cut += any(end - start > seq_len + 1 for start, end in spans[i:i + 2])
            else:
                self.dropped += 1
        if not self.conversations:
            raise ValueError(f"of {self.dropped:,} pairs none has two different answers in its "
                             f"first {seq_len:,} ids; is the window, seq_len, too short?")

    def windows(self, order):
        return [self.conversations[i] for i in order]

    def read(self, pairs):
        """(inputs, targets), (B, T) as long as the longest: in row 2i the chosen answer of pair i,
        in row 2i + 1 the rejected one. Targets are -1 but in the last answer, its end included.
        """
        rows = [row for pair in pairs for row in pair]
        inputs, targets, _ = super().read([[(start, n)] for start, n, _ in rows])
        for b, (_, _, begin) in enumerate(rows):
            targets[b, :begin - 1] = -1
        longest = max(n for _, n, _ in rows) - 1
        return inputs[:, :longest], targets[:, :longest]


# ---- what the loops need ----
class Batches(sft.Batches):
    """Endless batches (inputs, counted, targets, reference) of batch_size / 2 pairs, in another
    order in each epoch; rows as in Pairs.read(). counted: a target for each pair, else -1, as
    train_step() divides by the number of these. reference: log p_ref of each answer, (B,).
    """

    def __init__(self, config, data, model=None, rank=0, world=1):
        if config.batch_size % 2 or config.micro_batch % 2 or config.batch_size < 2 * world:
            raise ValueError(f"batch_size {config.batch_size} and micro_batch {config.micro_batch} "
                             "must be even, as a pair is two windows, with a pair or more for each "
                             f"of {world} processes")
        if not config.init or config.label_smoothing or config.z_loss:
            raise ValueError("pairs need the model to begin with, --init FOLDER, and a loss that "
                             "is -log p: no label_smoothing, no z_loss")
        super().__init__(config, data, None, rank, world)
        chosen = {*data.val.starts[::2].tolist()}
        self.val.conversations = [one for one in self.val.conversations if one[0] in chosen]
        self.packed, self.held_out = (Pairs(ids, data.tokenizer, config.seq_len)
                                      for ids in (data.train, data.val))
        self.begin(0)
        self.ratios, self.tested, self.tokens = [], {}, 0  # tokens: read so far, by all ranks
        if model is not None:
            self.reference = config.make_model(data.tokenizer.vocab_size).requires_grad_(False)
            starting.begin(self.reference.to(model.embed.weight.device), config.init)
            self.loss, digest = config.objective(self.reference), hashlib.sha256()
            for _, tensor in ((n, t) for n, t in tensors(self.reference) if not is_adapter(n)):
                digest.update(tensor.cpu().numpy().tobytes())
            self.hash = digest.hexdigest()[:16]
        if model is not None and rank == 0:
            print(self)

    def __str__(self):
        return (f"pairs      {len(self.order):,}, {self.packed.cut:,} of them too long and cut; "
                f"{self.packed.dropped:,} dropped: nothing to tell apart")

    @torch.no_grad()
    def log_p(self, loss, inputs, targets):
        """log p of each answer, (B,), in the micro-batches of a step: so the same to the last bit.
        """
        device, dtype = self.reference.embed.weight.device, getattr(torch, self.config.dtype)
        parts = [torch.tensor(a, device=device).split(self.config.micro_batch)
                 for a in (inputs, targets)]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return torch.cat([log_ratios(loss, x, y, 0.0) for x, y in zip(*parts)])

    def __next__(self):
        n_pairs = self.config.batch_size // 2
        pairs = [self.window(n) for n in range(self.n, self.n + n_pairs)]
        self.n, self.ratios = self.n + n_pairs, []
        self.tokens += sum(n - 1 for pair in pairs for _, n, _ in pair)
        inputs, targets = self.packed.read(pairs[self.rank::self.world])
        counted = np.full_like(targets, -1)
        counted[::2, 0] = 0
        return inputs, counted, targets, self.log_p(self.loss, inputs, targets).cpu().numpy()

    def objective(self, loss):
        """dpo_loss() of a micro-batch. loss: a model's."""
        def objective(x, counted, y, reference):
            ratios = log_ratios(loss, x, y, reference)
            self.ratios.append(ratios.detach())
            return dpo_loss(ratios[::2], ratios[1::2], self.config.beta)
        return objective

    @property
    def measures(self):
        """The means of MEASURES over this rank's pairs of the last step, before its update."""
        *found, n = sums(torch.cat(self.ratios), self.config.beta)
        return {name: value / n for name, value in zip(MEASURES, found)}

    def evaluate(self, model, ids, sizes, config, max_tokens=None, rank=0, world=1,
                 total=lambda sums: sums):
        """As sft.py's, of the chosen answers. self.tested gets MEASURES of held-out pairs."""
        pairs, found = self.held_out.conversations, np.zeros(5)
        if max_tokens:  # spread evenly
            pairs = pairs[::-(-sum(n for pair in pairs for _, n, _ in pair) // max_tokens)]
        b = max(1, min(config.micro_batch, config.batch_size // world) // 2)
        for i in range(rank, rank + len(pairs), b * world):  # all ranks compute equally often
            some = pairs[i:i + b * world:world]
            batch = self.held_out.read(some or pairs[:1])
            ratios = self.log_p(model.loss, *batch) - self.log_p(self.loss, *batch)
            found += sums(ratios, config.beta) if some else 0
        *found, n = np.asarray(total(found))
        self.tested = {f"val_{name}": float(value / n) for name, value in zip(MEASURES, found)}
        return super().evaluate(model, ids, sizes, config, max_tokens, rank, world, total)

    def state_dict(self):
        return {"n": self.n, "tokens": self.tokens, "reference": self.hash}

    def load_state_dict(self, state):
        if state["reference"] != self.hash:
            raise ValueError(f"{self.config.init} is not the model with which the run began")
        self.n, self.tokens = int(state["n"]), int(state["tokens"])


def main(argv=None):
    given = sys.argv[1:] if argv is None else argv
    train.main(["--preset", "dpo", *given, "--sampling", "pairs"])


if __name__ == "__main__":
    run(main)
