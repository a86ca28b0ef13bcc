"""The decisions of evals.py for many items at once, and what they share read only once.

The choices of an item share its solved examples, its question, and often their own first words; and
items may share a text. What is shared is read first, into a KV cache, for several items side by
side. Then all alternatives of an item are read in one row, one behind the other: a mask lets each
see what is shared and itself, and its positions go on where the shared part ends. (SpecInfer, Miao
et al. 2024, section 4.2, reads a tree of guesses in this way.) The head computes only those logits
that are scored. The losses are those of evals.span_losses(), but for the last bits of a float.

Reads and writes nothing. Next: bundle.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import track

import torch
import torch.nn.functional as F

from evals import common_prefix
from gpt import KVCache, causal_mask

JOINED = 0.8  # rows are read together if that takes at most this share of the ids
SIMILAR = 0.85  # side by side if they have at least this share of the ids of the longest


class Group:
    """Rows of one item, or of several that begin alike, with `start` as from evals.spans().

    shared: one less than the number of ids that all rows begin with. The last common id is read
    with each row, as it predicts that row's next one. members: [(item, alternative, row, start)].
    """

    def __init__(self, members):
        self.members = members
        rows, starts = [m[2] for m in members], [m[3] for m in members]
        self.shared = max(0, min(common_prefix(rows), *starts) - 1)

    @property
    def tokens(self):
        """How many ids are read: the shared ones, and of each row the others, but the last."""
        return self.shared + sum(len(row) - 1 - self.shared for _, _, row, _ in self.members)


def groups_of(items):
    """Groups of a list of items, each a list of (row, start). The rows of an item form a group if
    they share enough to be worth it, as cropped ones don't; so do neighbours in the order of their
    ids, which share the most.
    """
    alone, groups = [], []
    for i, rows in enumerate(items):
        each = [Group([(i, a, row, start)]) for a, (row, start) in enumerate(rows)]
        whole = Group([member for group in each for member in group.members])
        worth = whole.tokens <= JOINED * sum(group.tokens for group in each)
        alone += [whole] if worth else each
    for group in sorted(alone, key=lambda group: group.members[0][2]):
        if groups:
            joined = Group(groups[-1].members + group.members)
            if joined.tokens <= JOINED * (groups[-1].tokens + group.tokens):
                groups[-1] = joined
                continue
        groups.append(group)
    return groups


def padded(rows, device):
    """(B, T) ids of B lists of ids; behind the end of a shorter one stand zeros."""
    T = max(map(len, rows))
    return torch.tensor([row + [0] * (T - len(row)) for row in rows], dtype=torch.long,
                        device=device)


def branch_mask(shared, branches, n_shared):  # exercise
    """What each id of B rows of branches may attend to: (B, 1, T, n_shared + T) booleans.

    shared: (B,) how many of the first n_shared positions are those that row b has read; the others
    are padding. branches: (B, T) ints, which branch each further id belongs to; padding is a branch
    like others. An id may attend to what row b has read, and to its own branch up to itself.
    """
    T = branches.shape[1]
    before = torch.arange(n_shared, device=shared.device) < shared[:, None, None]  # (B, 1, n)
    same = branches[:, :, None] == branches[:, None, :]  # (B, T, T)
    own = same & causal_mask(torch.arange(T, device=shared.device), T)
    return torch.cat((before.expand(-1, T, -1), own), dim=-1).unsqueeze(1)


def read_shared(model, groups, dtype):
    """The hidden states, (B, T, C), of what each of B groups does not share, read after what it
    shares; and for each member, in their order, where its first unshared id was read: in row b of
    the batch, at place t.
    """
    device = model.embed.weight.device
    shared = [group.shared for group in groups]
    tails, places = [], []
    for b, group in enumerate(groups):
        ids, positions, branches = [], [], []
        for n, (_, _, row, _) in enumerate(group.members):
            places.append((b, len(ids)))
            ids += row[group.shared:-1]
            positions += range(group.shared, len(row) - 1)
            branches += [n + 1] * (len(row) - 1 - group.shared)  # 0 is padding
        tails.append((ids, positions, branches))
    ids, positions, branches = (padded(column, device) for column in zip(*tails))
    n_shared = max(shared)
    cache = KVCache(model.config, len(groups), n_shared + ids.shape[1], dtype, device)
    if n_shared:  # a causal mask is enough: padding is behind all ids of its row
        model.hidden(padded([group.members[0][2][:group.shared] for group in groups], device),
                     cache)
    mask = branch_mask(torch.tensor(shared, device=device), branches, n_shared)
    return model.hidden(ids, cache, positions, mask), places


def read_alone(model, groups):
    """As read_shared(), but every row is read by itself, from its beginning."""
    rows = [row for group in groups for _, _, row, _ in group.members]
    shared = [group.shared for group in groups for _ in group.members]
    x = model.hidden(padded([row[:-1] for row in rows], model.embed.weight.device))
    return x, list(enumerate(shared))


def losses(model, groups, dtype, cached):
    """Yield (item, alternative, nats, hits) for all members of some groups, read side by side."""
    float_type = getattr(torch, dtype)
    with torch.autocast(model.embed.weight.device.type, float_type,
                        enabled=float_type != torch.float32):
        shared = cached and any(len(group.members) > 1 for group in groups)
        x, places = read_shared(model, groups, float_type) if shared else read_alone(model, groups)
        members = [(group.shared, *member) for group in groups for member in group.members]
        wanted = torch.cat([x[b, t + start - 1 - shared:t + len(row) - 1 - shared]
                            for (b, t), (shared, _, _, row, start) in zip(places, members)])
        targets = torch.tensor([i for _, _, _, row, start in members for i in row[start:]],
                               device=x.device)
        nats, hits = [], []
        for some, ids in zip(wanted.split(512), targets.split(512)):  # of the head's memory
            logits = model.logits(some)
            nats.append(F.cross_entropy(logits, ids, reduction="none"))
            hits.append(logits.argmax(-1) == ids)
    lengths = [len(row) - start for _, _, _, row, start in members]
    for (_, item, n, _, _), each, hit in zip(members, torch.cat(nats).cpu().split(lengths),
                                             torch.cat(hits).cpu().split(lengths)):
        yield item, n, each, hit


def batches_of(groups, batch_size):
    """Groups of about the same size, those with the most ids first, in lists of at most batch_size.
    Shorter rows of a batch are padded, so none is much shorter than the first.
    """
    batches = []
    for group in sorted(groups, key=lambda group: -group.tokens):
        if batches and len(batches[-1]) < batch_size and (
                group.tokens >= SIMILAR * batches[-1][0].tokens):
            batches[-1].append(group)
        else:
            batches.append([group])
    return batches


@torch.inference_mode()
def score_items(model, items, batch_size=8, dtype="float32", cached=True, label="scoring"):
    """[(nats, hits) of each alternative] of each item, as evals.span_losses() has them.

    items: a list of evals.spans(). batch_size: groups of items at once; without the cache, rows.
    The largest batch comes first, so that too little memory is noticed at once.
    """
    # The tables of ngrams.py look at the ids before a place in the cache, where other branches are.
    cached = cached and not getattr(model.config.family, "ngrams", 0)
    if cached:
        groups = groups_of(items)
    else:
        groups = [Group([(i, a, row, start)]) for i, rows in enumerate(items)
                  for a, (row, start) in enumerate(rows)]
    batches = batches_of(groups, batch_size)
    found = [[None] * len(rows) for rows in items]
    tokens = [sum(group.tokens for group in batch) for batch in batches]
    sizes = iter(tokens)
    for batch in track(batches, label, sum(tokens), size=lambda batch: next(sizes),
                       unit=" tokens"):
        for item, n, nats, hits in losses(model, batch, dtype, cached):
            found[item][n] = nats, hits
    return found
