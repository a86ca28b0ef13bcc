"""Find documents that a corpus holds twice, exactly or nearly, and those of an evaluation set.

Copies waste training, are learned by heart, and make a validation set look easy (Lee et al. 2022,
Deduplicating Training Data Makes Language Models Better). Equal texts have equal digests. Nearly
equal ones share most of their runs of five words: MinHash turns the set of these runs into 120
numbers, and locality-sensitive hashing finds documents that share numbers, without comparing each
document with all others. Evaluation texts are found by runs of 13 words.
All hashes are arithmetic modulo 2^64, so all machines find the same, if their Python and module
regex have the same Unicode tables, which define what a letter is. Chinese, Japanese, Thai and
others put no spaces between words: there every character counts as a word.
Left out: which of two copies is the better one (the first is kept); passages shared by documents
that otherwise differ (suffix arrays find them); more documents than fit into memory.

    seen = NearDuplicates()
    kept = [text for i, text in enumerate(texts) if seen.add(i, text) is None]

Reads and writes nothing. Next: filters.py.
"""

import functools
import hashlib
import os
import re
import sys
import unicodedata

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

import numpy as np
import regex

from pieces import each_text

BASE = 0x9e3779b97f4a7c15  # of the hashes; any large odd number would do
# How ASCII is normalised: letters become lower case, and bytes outside words spaces.
SMALL = bytes(c if re.match(rb"\w", bytes([c])) else 32 for c in range(256)).lower()
# Scripts whose words are not separated. (Tibetan separates its syllables, which count as words.)
NO_SPACES = "".join(rf"\p{{{script}}}" for script in (
    "Han Hiragana Katakana Bopomofo Thai Lao Khmer Myanmar Yi Javanese Balinese "
    "Tai_Le New_Tai_Lue Tai_Tham Tai_Viet").split())
# Normalising sorts the marks on a letter, in a time that grows with the square of their number. So
# an invisible joiner follows every 30 (Unicode's Stream-Safe Text Format, UAX 15, section 13).
MARKS, JOINED = regex.compile(r"\P{ccc=0}{30}"), "\\g<0>\u034f"
BETWEEN, WORD, ALONE, ALONE_MARK, IGNORED = range(5)  # kinds of characters


# ---- hashing words ----
@functools.cache
def kinds():
    """The kind of every character, (0x110000,) uint8: WORD, part of a word; ALONE, a word by
    itself, with the marks after it; BETWEEN words; IGNORED, invisible (soft hyphens, joiners ...).
    """
    kinds = np.full(0x110000, BETWEEN, np.uint8)
    characters = "".join(map(chr, range(0x110000)))
    for kind, pattern in ((WORD, r"[\p{L}\p{N}\p{M}_]+"), (ALONE, rf"[{NO_SPACES}--\p{{P}}]+"),
                          (ALONE_MARK, rf"[{NO_SPACES}&&\p{{M}}]+"), (IGNORED, r"\p{DI}+")):
        for found in regex.finditer(pattern, characters, regex.VERSION1):
            kinds[found.start():found.end()] = kind
    return kinds


def characters(text):
    """The words of a text, a space after each, as an array of characters, uint8 or uint32.

    Copies, of code above all, often differ in punctuation, spaces and case, but not in words. Nor
    should the encoding of a character matter: NFKC makes e + accent and é equal, ﬁ and fi, and wide
    and narrow forms in Chinese and Japanese. The documents themselves are not changed.
    """
    if text.isascii():
        row = np.frombuffer(b" " + text.encode().translate(SMALL) + b" ", np.uint8)
        in_word = row != 32
        return row[1:].compress(in_word[1:] | in_word[:-1])
    text = unicodedata.normalize("NFKC", MARKS.sub(JOINED, text)).casefold()
    row = np.frombuffer(f" {text} ".encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    kind = kinds()[row]
    seen = kind != IGNORED
    row, kind = row.compress(seen), kind.compress(seen)
    after, alone = kind[1:], kind >= ALONE
    ends = (after == BETWEEN) | (after == ALONE) | (after == WORD) & alone[:-1]
    spaced = np.stack([row[:-1], np.full_like(row[:-1], 32)], axis=1)
    in_word = kind[:-1] != BETWEEN
    return spaced[np.stack([in_word, in_word & ends], axis=1)]


def words(text):
    """A list: "if (a_1 == B)" has the words if, a_1, b, and "用Go写" the words 用, go, 写."""
    return characters(text).astype("<u4").tobytes().decode("utf-32-le").split(" ")[:-1]


@functools.cache
def powers(size):
    """(1, M, M^2, ...) and (1, M^-1, M^-2, ...), (size,) uint64 each, for M = BASE.

    Modulo 2^64 every odd number has an inverse, so multiplying by M can be undone.
    """
    both = np.array([[BASE], [pow(BASE, -1, 1 << 64)]], dtype=np.uint64).repeat(size, axis=1)
    both[:, 0] = 1
    return np.cumprod(both, axis=1)


def ngrams(text, n):
    """A hash of every n consecutive words of the text, in their order: uint64.

    A text of fewer words has one hash, of all its words; a text without words has none.
    A run of words, with a space after each, is a row of characters c_0, c_1, ..., and has the hash
    c_0 + c_1 M + c_2 M^2 + ... modulo 2^64, after Karp and Rabin (1987). With the sums
    S_i = c_0 + c_1 M + ... + c_{i-1} M^(i-1) over the whole text, the characters from i up to j
    have the hash (S_j - S_i) M^-i: two look-ups, however long the run, and all runs at once.
    The powers stay in memory: at most 64 bytes for each character of the longest text so far.
    """
    row = characters(text)
    edges = np.append(0, np.flatnonzero(row == 32) + 1)  # where words begin, and the end
    power, inverse = powers(1 << len(row).bit_length())  # few sizes, so they can be kept
    sums = np.zeros(len(row) + 1, np.uint64)
    np.cumsum(row * power[:len(row)], out=sums[1:])
    sums, n = sums[edges], max(1, min(n, len(edges) - 1))
    return (sums[n:] - sums[:-n]) * inverse[edges[:-n]]


def distinct(numbers):
    """What np.unique(numbers) returns, in a fraction of the time."""
    numbers = np.sort(numbers)
    return numbers[np.append(True, numbers[1:] != numbers[:-1])[:len(numbers)]]


# ---- resemblance ----
def mix(x):
    """Shuffle uint64 numbers, one to one, so that every bit of the result depends on every bit
    of x: the last step of splitmix64 (Steele, Lea and Flood 2014).
    """
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb
    return x ^ (x >> 31)


def shingles(text, n=5):
    """The text as a set: the hashes of its n-grams, sorted, each once. uint64.

    "a b a b a" has 2 shingles for n=2, those of "a b" and "b a".
    """
    return distinct(ngrams(text, n))


def jaccard(a, b):  # exercise
    """The resemblance of two sets, |A and B| / |A or B| (Broder 1997): 1 if equal, 0 if disjoint.

    a, b: sorted arrays without repetition. jaccard([1, 2, 3], [2, 3, 4]) is 2/4. Two empty sets
    have 0 in common: texts without words don't resemble each other.
    """
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / max(1, len(a) + len(b) - both)


def signature_naive(shingles, seeds):  # exercise
    """MinHash (Broder 1997): the smallest mix(x ^ seed) of all shingles x, for each seed.

    shingles: (N,) uint64, N > 0; seeds: (K,) uint64. Returns (K,) uint64.
    Each seed puts all possible shingles in another random order. Every shingle of A or B is equally
    likely to come first, and the two minima are equal if and only if the first is in both A and B.
    So entries are equal with probability J = jaccard(A, B), and the share of equal entries among K
    estimates J, with a standard deviation of sqrt(J (1 - J) / K).
    """
    return mix(shingles ^ seeds[:, None]).min(axis=1)


def signature(shingles, k=120):
    """MinHash with few hash functions: (k,) uint32, k <= 4096; (0,) if there are none.

    One hash function throws the shingles into k bins, and the smallest hash in each bin is an entry
    (one permutation hashing; Li, Owen and Zhang 2012). While any bin is empty, all shingles are
    thrown again, by another function; each bin keeps its first round (Dahlgaard, Knudsen and Thorup
    2017, Fast Similarity Sketching). So an entry is the smallest hash of the first round in which A
    or B has a shingle in its bin. Each of these shingles is equally likely to be the smallest, and
    the entries are equal if and only if that one is in both: with probability jaccard(A, B), as in
    signature_naive(). That costs about 8 k throws, or one for each shingle if there are many, and a
    sort; the naive way costs k throws for each shingle.
    The standard deviation is that of the naive signature for thousands of shingles, and 0.7 times
    that for few, as bins draw without repetition (measured, see the tests); if empty bins borrowed
    from others (Shrivastava 2017), it would be 1.2 times that for 20 shingles. Two disadvantages:
    the minimum, entry by entry, of two signatures is not the signature of the union; and 32 bits of
    different numbers agree once in 4 billion.
    """
    thrown, rounds = np.zeros(0, np.uint64), np.zeros(1, np.uint64)
    edges = np.arange(k + 1, dtype=np.uint64) << 48
    while len(shingles):
        rounds = rounds[-1] + np.arange(1, 2 + 8 * k // len(shingles), dtype=np.uint64)
        x = mix(shingles + rounds[:, None] * BASE)  # what splitmix64 gives for them as seeds
        bins = (x >> 32) * k >> 32  # from 0 to k - 1
        x = bins << 48 | rounds[:, None] << 32 | x & 0xffffffff  # by bin, then round, then size
        thrown = np.sort(np.append(thrown, x))
        first = np.searchsorted(thrown, edges)
        if (first[1:] > first[:-1]).all():
            return thrown[first[:-1]].astype(np.uint32)
    return np.zeros(0, np.uint32)


# ---- finding duplicates ----
def chance(s, bands, rows):
    """The probability that two documents of resemblance s are compared at all.

    They are compared if all `rows` entries agree in at least one of `bands` bands; each entry
    agrees with probability s: 1 - (1 - s^rows)^bands, an S-curve. chance(0.5, 2, 1) is 0.75.
    """
    return 1 - (1 - s**rows)**bands


class NearDuplicates:
    """Documents, none of which nearly repeats an earlier one: what add() has kept.

    Signatures are cut in bands, and documents are compared if they agree in a band (Indyk and
    Motwani 1998; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3). 20 bands
    of 6 catch 99.8% of the pairs with a resemblance of 0.8, and 1.4% of those with 0.3; 120 entries
    tell 0.8 from the threshold of 0.7 in 99.7% of cases, as their standard deviation is 0.036.
    (At 0.75, the 14 bands of 8 of FineWeb, Penedo et al. 2024, catch 77%, and 20 of 6 catch 98%.)
    Every document that is dropped resembles one that is kept. Which ones are kept depends on the
    order: in a chain a ~ b ~ c, where a and c differ, "a, b, c" keeps a and c, "b, a, c" only b.
    """

    def __init__(self, threshold=0.7, bands=20, rows=6):
        self.threshold, self.bands, self.rows = threshold, bands, rows
        self.keys, self.buckets = [], {}  # of kept documents; a band's hash -> their numbers
        self.signatures = np.zeros((64, bands * rows), np.uint32)

    def band_hashes(self, entries):
        """A hash of each band's place and entries: a list of `bands` ints."""
        power = powers(self.rows + 1)[0][1:]
        rows = (entries.reshape(self.bands, self.rows) * power).sum(axis=1)
        return (rows + np.arange(self.bands, dtype=np.uint64)).tolist()

    def add(self, key, document):
        """The key of the kept document that this one repeats; or None, and this one is kept.

        document: a text, or its signature() of bands * rows entries, which other processes may
        compute. If it repeats several, the key is that of the most similar, the first of equally
        similar ones. A text without words repeats none, and none repeats it.
        """
        size = self.bands * self.rows
        entries = signature(shingles(document), size) if isinstance(document, str) else document
        if not len(entries):
            return None
        assert entries.shape == (size,), f"{entries.shape} is no signature of {size} entries"
        hashes, n = self.band_hashes(entries), len(self.keys)
        candidates = sorted({i for h in hashes for i in self.buckets.get(h, ())})
        if candidates:
            shares = (self.signatures[candidates] == entries).mean(axis=1)
            if shares.max() >= self.threshold:
                return self.keys[candidates[shares.argmax()]]
        for h in hashes:
            self.buckets.setdefault(h, []).append(n)
        if n == len(self.signatures):
            self.signatures = np.concatenate([self.signatures, np.zeros_like(self.signatures)])
        self.signatures[n] = entries
        self.keys.append(key)
        return None


class ExactDuplicates:
    """Texts seen so far, as 16 bytes of blake2b, which differ for different texts in practice."""

    def __init__(self):
        self.first = {}

    def add(self, key, text):
        """The key of the first text equal to this one; None if there was none."""
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        if digest in self.first:
            return self.first[digest]
        self.first[digest] = key
        return None


class Overlap:
    """Finds documents that share n words in a row with an evaluation text (n = 13 in GPT-3, Brown
    et al. 2020, appendix C).

    An evaluation text of fewer than n words (`too_short` counts these) has a single n-gram, of all
    its words, so it is found only in a document that has no other words. ValueError if `texts` is a
    single string.
    """

    def __init__(self, texts, n=13):
        texts, self.n = list(each_text(texts)), n
        self.too_short = sum(len(ngrams(text, 1)) < n for text in texts)
        last = np.array([2**64 - 1], np.uint64)  # so that searchsorted() never gives the end
        self.grams = distinct(np.concatenate([*(ngrams(text, n) for text in texts), last]))

    def find(self, text):
        """The first run of n words() of `text` that an evaluation text has, too, joined by spaces;
        or None.
        """
        grams = ngrams(text, self.n)
        found = np.flatnonzero(self.grams[np.searchsorted(self.grams, grams)] == grams)
        return " ".join(words(text)[found[0]:][:self.n]) if len(found) else None


def overlap(texts, documents, n=13):
    """Which evaluation texts share n words in a row with training documents: a list of booleans,
    but None for a text of fewer than n words, of which nobody can tell.

    The same n-grams as in Overlap, looked at from the other side: there documents are dropped, here
    a score is judged. documents: texts, read once.
    """
    evaluated = Overlap(texts, n)
    seen = np.zeros(len(evaluated.grams), bool)
    for document in documents:
        grams = ngrams(document, n)
        at = np.searchsorted(evaluated.grams, grams)
        seen[at[evaluated.grams[at] == grams]] = True
    found = evaluated.grams[seen]
    return [bool(np.isin(ngrams(text, n), found).any()) if len(ngrams(text, 1)) >= n else None
            for text in texts]
