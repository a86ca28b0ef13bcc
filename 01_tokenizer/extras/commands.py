"""The commands of bpe.py: train, encode, decode and show, with all their options.

    python 01_tokenizer/bpe.py train README.md --special "[PAD]=0" "[UNK]=1" --digits 1

The plain Tokenizer trains, or a fast one where that has to: --digits, --special, --workers, and
patterns of pieces.py. Reads text files; writes tokenizer.json. Next: formats.py.
"""

import itertools
import os
import re
import sys
from pathlib import Path

# The other files of the course: console.py, which is found first, puts their folders on the path.
if "console" not in sys.modules:
    sys.path[1:1] = [str(folder / "01_tokenizer") for folder in Path(__file__).resolve().parents]

from console import Parser, escaped, has_colours, read_text

import bpe
from bpe import SPECIAL_TOKENS, Tokenizer


def colour(tokenizer, ids):
    """Each token's text, and its id; on a terminal in colours. Control characters are escaped."""
    coloured, shades, shown = has_colours(), (153, 158, 223, 218, 189), []
    for n, i in enumerate(ids):
        text = tokenizer.vocab[i].decode("utf-8", errors="backslashreplace")
        text = escaped(text).replace("\n", "\\n")
        shade = f"\x1b[30;48;5;{shades[n % len(shades)]}m"
        shown.append(f"{shade}{text}\x1b[0m\x1b[2m{i}\x1b[0m" if coloured else f"[{text}]{i}")
    return " ".join(shown)


def parse_special(words):
    """The special tokens that `words` name: a tuple, or {name: id} for words like NAME=ID."""
    with_ids = [re.fullmatch(r"(.+)=(\d+)", word) for word in words]
    if not any(with_ids):
        return tuple(words)
    if not all(with_ids) or len({match[1] for match in with_ids}) < len(words):
        raise ValueError(f"--special {' '.join(words)}: give an id (NAME=ID) to all or to none, "
                         "and no name twice")
    return {match[1]: int(match[2]) for match in with_ids}


def train_any(texts, vocab_size, pattern="gpt4", digits=None, special=SPECIAL_TOKENS, workers=1):
    """A FastTokenizer, or a MappedTokenizer if special tokens are given as {name: id}.

    digits: at most so many in a piece; None: as many as the pattern allows. workers: processes.
    """
    from mapped import FastTokenizer, MappedTokenizer
    from pieces import PATTERNS, group_digits
    if digits:
        pattern = group_digits(PATTERNS.get(pattern, pattern), digits)
    kind = MappedTokenizer if isinstance(special, dict) else FastTokenizer
    return kind.train(texts, vocab_size, pattern, special, workers)


def learn(args):
    """The command train: learn from files, save, and print how many bytes an id stands for, on the
    first 200,000 characters.
    """
    folder = Path(args.tokenizer).absolute().parent
    if not os.access(folder, os.W_OK) or Path(args.tokenizer).is_dir():
        raise ValueError(f"{args.tokenizer} can't be written: name a file in a folder that exists")
    texts = map(read_text, args.files)
    first = next(filter(None, texts), "")  # files are read once: they may be pipes
    how = itertools.chain([first], texts), args.vocab_size, args.pattern
    options = args.digits, args.special, args.workers
    if args.pattern in bpe.PATTERNS and options == (None, SPECIAL_TOKENS, 1):
        tokenizer = Tokenizer.train(*how)
    else:
        tokenizer = train_any(*how, args.digits, parse_special(args.special), args.workers)
    tokenizer.save(args.tokenizer)
    n_ids, start = 256 + len(tokenizer.merges) + len(tokenizer.special), first[:200_000]
    print(f"{args.tokenizer}: {n_ids} ids"
          + (f" (no pair is left for {args.vocab_size})" if n_ids < args.vocab_size else "")
          + f", {len(start.encode()) / len(tokenizer.encode(start)):.2f} bytes an id")


def obey(argv):
    """Do what the command line of bpe.py, a list of strings, asks for."""
    parser = Parser(description=bpe.__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="learn a vocabulary from text files")
    add = train.add_argument
    add("files", nargs="+", help="UTF-8 text files")
    add("--vocab-size", type=int, default=2048,
        help="number of ids, special tokens included (default: 2048)")
    add("--pattern", default="gpt4",
        help="gpt2, gpt4, o200k, go or a regular expression (default: gpt4)")
    add("--digits", type=int, choices=(1, 2, 3), help="at most so many digits in a piece")
    add("--special", nargs="*", metavar="NAME[=ID]", default=SPECIAL_TOKENS,
        help="special tokens, after all others or at an id (default: the nine of a chat)")
    add("--workers", type=int, default=1, help="processes (default: 1)")
    commands.add_parser("decode", help="ids to text").add_argument("ids", nargs="+", type=int)
    for name, what in (("encode", "text to ids"), ("show", "the tokens of a text and their ids")):
        commands.add_parser(name, help=what).add_argument("text", help="- is the standard input")
    for command in commands.choices.values():
        command.add_argument("--tokenizer", default="tokenizer.json", metavar="FILE",
                             help="the tokenizer to write or to use (default: tokenizer.json)")
    args = parser.parse_args(argv)
    if args.command == "train":
        learn(args)
    elif args.command == "decode":
        print(Tokenizer.load(args.tokenizer).decode(args.ids))
    else:
        tokenizer = Tokenizer.load(args.tokenizer)
        ids = tokenizer.encode(sys.stdin.read() if args.text == "-" else args.text)
        print(colour(tokenizer, ids) if args.command == "show" else " ".join(map(str, ids)))
