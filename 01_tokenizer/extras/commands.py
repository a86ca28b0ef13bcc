"""More for the commands of bpe.py: further options of `train`, and `show` in colours.

    python 01_tokenizer/bpe.py train README.md --special "[PAD]=0" "[UNK]=1" --digits 1

bpe.py, if the extras are there, lets this file extend its parser. The plain Tokenizer trains,
unless an option needs the fast one: --digits, --special, --workers, or a pattern of pieces.py.
Reads text files; writes tokenizer.json. Next: foreign.py.
"""

import functools
import itertools
import os
import re
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import escaped, has_colours

import bpe
from bpe import SPECIAL_TOKENS, Tokenizer


def show(tokenizer, ids):
    """What bpe.show() prints; on a terminal in colours."""
    if not has_colours():
        return bpe.show(tokenizer, ids)
    shown, shades = [], itertools.cycle((153, 158, 223, 218, 189))
    for i, shade in zip(ids, shades):
        text = escaped(tokenizer.vocab[i].decode(errors="backslashreplace")).replace("\n", "\\n")
        shown.append(f"\x1b[30;48;5;{shade}m{text}\x1b[0m\x1b[2m{i}\x1b[0m")
    print(*shown)


def parse_special(words):
    """The special tokens named by `words`: a tuple, or {name: id} for words like NAME=ID."""
    with_ids = [re.fullmatch(r"(.+)=(\d+)", word) for word in words]
    if not any(with_ids):
        return tuple(words)
    if not all(with_ids) or len({match[1] for match in with_ids}) < len(words):
        raise ValueError(f"--special {' '.join(words)}: give an id (NAME=ID) to all or to none, "
                         "and no name twice")
    return {match[1]: int(match[2]) for match in with_ids}


def train_any(texts, vocab_size, pattern="gpt4", digits=None, special=SPECIAL_TOKENS, workers=1):
    """A FastTokenizer, or a MappedTokenizer if special tokens are given as {name: id}.

    digits: the most in a piece; None: as many as the pattern allows. workers: processes.
    """
    from mapped import FastTokenizer, MappedTokenizer
    from pieces import PATTERNS, group_digits
    if digits:
        pattern = group_digits(PATTERNS.get(pattern, pattern), digits)
    kind = MappedTokenizer if isinstance(special, dict) else FastTokenizer
    return kind.train(texts, vocab_size, pattern, special, workers)


def learn(texts, args):
    """A tokenizer learned with all options. ValueError, before learning, if it can't be written.
    Prints the bytes per id in the first 200,000 characters.
    """
    folder = Path(args.tokenizer).absolute().parent
    if not os.access(folder, os.W_OK) or Path(args.tokenizer).is_dir():
        raise ValueError(f"{args.tokenizer} can't be written: name a file in a folder that exists")
    options = {"digits": args.digits, "special": parse_special(args.special),
               "workers": args.workers}
    plain = {"digits": None, "special": SPECIAL_TOKENS, "workers": 1}
    train = (Tokenizer.train if args.pattern in bpe.PATTERNS and options == plain else
             functools.partial(train_any, **options))
    first = next(filter(None, texts), "")  # files are read once: they may be pipes
    tokenizer = train(itertools.chain([first], texts), args.vocab_size, args.pattern)
    n_ids, start = 256 + len(tokenizer.merges) + len(tokenizer.special), first[:200_000]
    print(f"{len(start.encode()) / len(tokenizer.encode(start)):.2f} bytes an id"
          + (f" (no pair is left for {args.vocab_size})" if n_ids < args.vocab_size else ""))
    return tokenizer


def extend(parser, train):
    """Add the options above to bpe.py's `parser`, and to `train`, the parser of that command."""
    add = train.add_argument
    add("--digits", type=int, choices=(1, 2, 3), help="the most digits in a piece")
    add("--special", nargs="*", metavar="NAME[=ID]", default=SPECIAL_TOKENS,
        help="special tokens, after all others or at an id (default: the nine of a chat)")
    add("--workers", type=int, default=1, help="processes (default: 1)")
    train.epilog = "--pattern may also be o200k or go, which are in extras/pieces.py."
    parser.set_defaults(learn=learn, show=show)
