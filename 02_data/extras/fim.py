"""Fill in the middle: documents rearranged so that a model learns to complete code at a cursor.

An editor knows the text before the cursor and after it. Bavarian et al. 2022 cut documents into
prefix, middle and suffix, and move the middle to the end. An ordinary model, trained left to right
on such documents, learns to write the middle. Two orders are mixed: PSM (prefix, suffix, middle),
and the paper's second variant of SPM (suffix first, so that the prefix comes directly before the
middle that continues it).
Left out: cuts only at the borders of tokens or lines.

Used by writing.py, for an option behind a source's name: folder:PATH,fim=0.5. Next: writing.py.
"""

import hashlib
import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import numpy as np

from data import document_start

TOKENS = PREFIX, MIDDLE, SUFFIX = "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"


def rearrange(prefix, middle, suffix, suffix_first):  # exercise
    """A document's three parts in the order to be learned: pairs (special token, text after it).

    PSM: [(PREFIX, prefix), (SUFFIX, suffix), (MIDDLE, middle)]
    SPM: [(PREFIX, ""), (SUFFIX, suffix), (MIDDLE, prefix + middle)]
    PREFIX, MIDDLE and SUFFIX are the tokens' names; `suffix_first` chooses SPM, in which prefix
    and middle are one text (Bavarian et al. 2022, section 3 and appendix D).
    """
    if suffix_first:
        return [(PREFIX, ""), (SUFFIX, suffix), (MIDDLE, prefix + middle)]
    return [(PREFIX, prefix), (SUFFIX, suffix), (MIDDLE, middle)]


def fill_in_the_middle(text, rate):
    """[(None, text)], or, with probability `rate`, the text rearranged; half of those in SPM.

    The two cuts fall between any two characters, all places equally likely. The random generator is
    seeded with the text's hash, so that any process treats the same text alike.
    """
    rng = np.random.default_rng(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32))
    if rng.random() >= rate:
        return [(None, text)]
    first, second = np.sort(rng.integers(0, len(text) + 1, 2))
    return rearrange(text[:first], text[first:second], text[second:], rng.random() < 0.5)


def encode_fim(text, tokenizer, rate):
    """The ids of fill_in_the_middle(text, rate), after those that open every document."""
    ids = document_start(tokenizer)
    for token, part in fill_in_the_middle(text, rate):
        ids += ([tokenizer.special[token]] if token else []) + tokenizer.encode(part)
    return ids


def encode_gap(prefix, suffix, tokenizer):
    """The ids after which a model writes what stands between two texts: PSM, with an empty middle.
    ValueError if the tokenizer has no tokens for it.
    """
    if not {*TOKENS} <= {*tokenizer.special}:
        raise ValueError("this model can't fill a gap: it was not trained with fim, so leave out "
                         "the suffix")
    ids = document_start(tokenizer)
    for token, part in rearrange(prefix, "", suffix, False):
        ids += [tokenizer.special[token], *tokenizer.encode(part)]
    return ids
