"""Fill in the middle: documents rearranged so that a model learns to complete code at a cursor.

An editor knows what stands before the cursor and after it. Bavarian et al. 2022 cut documents
into prefix, middle and suffix, and move the middle to the end: an ordinary model, trained left
to right on such documents, then writes the middle. Two orders are mixed: PSM (prefix, suffix,
middle) and SPM, in their second variant (suffix first; what is to be continued, the prefix, comes
directly before its continuation).
Left out: cuts at the borders of tokens or lines.

Used by shards.py (--fim 0.5). Next: shards.py.
"""

import hashlib

import numpy as np

TOKENS = PREFIX, MIDDLE, SUFFIX = "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"


def rearrange(prefix, middle, suffix, suffix_first):  # exercise
    """A document in three parts, in the order to be learned: pairs (special token, text after it).

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

    The two cuts are between any characters, all equally likely. Chance is drawn from the text's
    own hash: the same text is always treated alike, whichever process meets it.
    """
    rng = np.random.default_rng(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32))
    if rng.random() >= rate:
        return [(None, text)]
    first, second = np.sort(rng.integers(0, len(text) + 1, 2))
    return rearrange(text[:first], text[first:second], text[second:], rng.random() < 0.5)
