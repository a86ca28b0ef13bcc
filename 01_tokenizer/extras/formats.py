"""Import and export tokenizers: GPT-2's files, tiktoken's, Hugging Face's.

All of them are byte-pair encodings, so all become a MappedTokenizer; they differ in how they store
the bytes, the merges and the special tokens. An imported tokenizer gives exactly the ids of the
original, or it is refused, and the message names what can't be expressed; likewise for exports.
Left out: tokenizers that are not BPE on bytes (WordPiece, Unigram), normalizers, and what a
post-processor adds behind a text; what it puts before one, such as a <|bos|>, is kept.

    python 01_tokenizer/extras/formats.py import cl100k_base.tiktoken --tokenizer c.json
    python 01_tokenizer/extras/formats.py export huggingface/tokenizer.json
    python 01_tokenizer/extras/formats.py compare README.md --tokenizer c.json --tokenizer d.json

Reads and writes tokenizer files. Next: picture.py.
"""

import base64
import json
import os
import re
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, escaped, read_text, run, track, write_safely

import numpy as np

from dialects import check_dialect
from fast import FastTokenizer, apply_merges_fast
from foreign import added_tokens, find_patterns, opening
from housekeeping import regular
from mapped import MappedTokenizer, check_ids, check_pairs
from mistakes import refuse_pointer
from pieces import each_text, ours

# tiktoken's patterns and special tokens, which a file of ranks doesn't contain.
RANKS = {"cl100k_base": ("gpt4", {"<|endoftext|>": 100257, "<|fim_prefix|>": 100258,
                                  "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260,
                                  "<|endofprompt|>": 100276}),
         "o200k_base": ("o200k", {"<|endoftext|>": 199999, "<|endofprompt|>": 200018}),
         "r50k_base": ("gpt2", {"<|endoftext|>": 50256}),
         "p50k_base": ("gpt2", {"<|endoftext|>": 50256})}


def byte_letters():  # exercise
    """The character that stands for each byte in GPT-2's files: {byte: character}, all 256.

    A vocabulary file should hold no spaces or control characters. So a byte that Latin-1 can print
    (33 to 126, 161 to 172, 174 to 255) becomes chr(byte); the other 68, in ascending order, become
    chr(256), chr(257) and so on. A space, byte 32, is chr(288).
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte if byte in printable else 256 + others.index(byte))
            for byte in range(256)}


def recover_merges(tokens):
    """The merges behind `tokens`, byte strings in the order in which they were learned.

    Such a list leaves out the pairs, but applying the earlier merges to a token's bytes always
    gives two parts, which are its pair: with merges for th and in, b"thin" becomes th in.
    ValueError, naming the token, if its bytes don't become two parts.
    """
    ranks = {}
    for n, token in enumerate(track(tokens, "recovering merges", len(tokens))):
        pair = tuple(apply_merges_fast(list(token), ranks))
        if len(pair) != 2:
            raise ValueError(f"the token {token!r} is not made of two earlier ones, so these are "
                             "not the ranks of a byte-pair encoding")
        ranks[pair] = 256 + n
    return list(ranks)


def ids_of(tokenizer):
    """The id of each symbol (a byte, or what a merge makes); in a plain Tokenizer its number."""
    return getattr(tokenizer, "ids", list(range(256 + len(tokenizer.merges))))


def strange_token(tokenizer):
    """The bytes of a token to which its own text is not encoded, or None if there is none.

    For example abc, made of a and bc, where ab was learned first: the text abc becomes ab c.
    Training never makes such a token. Without them, looking up merges by pair, as here, and by the
    bytes they make, as in tiktoken, gives the same ids: a token that can arise at all is always
    made of the same two parts.
    """
    ids = ids_of(tokenizer)
    for i in track(range(256, len(ids)), "checking", len(tokenizer.merges)):
        token = tokenizer.vocab[ids[i]]
        if apply_merges_fast(list(token), tokenizer.ranks) != [i]:
            return token
    return None


# ---- in ----
def from_vocabulary(vocabulary, merges, pattern, special, added=()):
    """A MappedTokenizer from {token: id} and pairs of tokens, written in byte_letters().

    If several merges make the same token, the one by which its bytes are merged is kept.
    """
    check_ids(vocabulary)
    check_pairs(merges, str)
    byte_of = {letter: byte for byte, letter in byte_letters().items()}
    symbols = byte_of | {token: 256 + i for i, token in enumerate(
        dict.fromkeys(left + right for left, right in merges))}
    for left, right in merges:
        if left not in symbols or right not in symbols or left + right not in vocabulary:
            raise ValueError(f"the merge of {left!r} and {right!r} uses or makes a token that is "
                             "not there")
    if len(symbols) < 256 + len(merges):
        names, listed = list(symbols), {tuple(pair): i for i, pair in enumerate(merges)}
        pairs = recover_merges([bytes(byte_of[letter] for letter in token)
                                for token in names[256:]])
        places = [listed.get((names[a], names[b]), -1) for a, b in pairs]
        if -1 in places or places != sorted(places):
            raise ValueError("several merges make the same token, and the ones that its bytes lead "
                             "to are not in order")
    else:
        pairs = [(symbols[left], symbols[right]) for left, right in merges]
    named = special.keys() | {name for names in added for name in names}
    if twice := named & symbols.keys() & vocabulary.keys():
        raise ValueError(f"{min(twice)!r} is an added token and a piece of text")
    if unused := vocabulary.keys() - symbols.keys() - named:
        raise ValueError(f"no merge makes the token {min(unused)!r}, nor is it a special one")
    ids = [vocabulary.get(token) for token in symbols]
    return MappedTokenizer(pairs, pattern, special, ids, added)


def read_gpt2(vocabulary, merges, pattern="gpt2"):
    """From two files, as GPT-2's: encoder.json or vocab.json, and vocab.bpe or merges.txt."""
    if (added := Path(vocabulary).with_name("added_tokens.json")).exists():
        raise ValueError(f"{added} holds more tokens, and not how they are found in a text; import "
                         "the tokenizer.json of this tokenizer instead")
    ids, lines = json.loads(read_text(vocabulary)), read_text(merges).split("\n")
    check_ids(ids)
    pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    special = {token: ids[token] for token in ("<|endoftext|>",) if token in ids}
    return from_vocabulary(ids, pairs, pattern, special)


def read_tiktoken(path, pattern=None, special=None):
    """From a file of ranks: on each line a token in base64 and its id.

    pattern and special tokens are known for the names in RANKS, otherwise they must be given.
    """
    known = RANKS.get(Path(path).stem, (None, {}))
    if not (pattern or known[0]):
        raise ValueError(f"{path} holds no pattern; give one (known: {', '.join(RANKS)})")
    ranks, data = {}, regular(path).read_bytes()
    refuse_pointer(path, data)
    for n, line in enumerate(data.splitlines(), 1):
        if not line:
            continue
        if not (found := re.fullmatch(rb"([A-Za-z0-9+/]+=*) (\d{1,9})", line)):
            raise ValueError(f"line {n} of {path} is no token in base64 and its rank: {line!r:.60}")
        token = base64.b64decode(found[1], validate=True)
        if token in ranks:
            raise ValueError(f"line {n} of {path} holds the token {token!r:.60} again")
        ranks[token] = int(found[2])
    tokens = sorted((token for token in ranks if len(token) > 1), key=ranks.get)
    symbols = [bytes([byte]) for byte in range(256)] + tokens
    if missing := [token for token in symbols if token not in ranks]:
        raise ValueError(f"{path} has no rank for the byte {missing[0]!r}")
    return MappedTokenizer(recover_merges(tokens), pattern or known[0],
                           known[1] if special is None else special, [ranks[s] for s in symbols])


def read_huggingface(path):
    """From a tokenizer.json that holds a byte-level BPE: GPT-2, SmolLM2, Llama 3, Qwen 2, ...

    Hugging Face recognises special tokens in any text; here that takes allowed_special="all". Its
    other added tokens are ordinary text, and are recognised in any text here, too.
    """
    content = json.loads(read_text(path))
    model = content["model"]

    def refuse(what):
        raise ValueError(f"{path} has {what}, which is not expressible here")

    if model.get("type", "BPE") != "BPE":
        refuse(f"a model of type {model['type']}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            refuse(f"{key}={model[key]!r}")
    for key in ("truncation", "padding"):
        if content.get(key):
            refuse(f"{key}: {content[key]}")
    if (normalizer := content.get("normalizer")) and normalizer.get("normalizers") != []:
        refuse(f"the normalizer {normalizer['type']}")

    check_ids(model["vocab"])
    special, added = added_tokens(content, refuse)
    patterns = find_patterns(content.get("pre_tokenizer") or {}, refuse)
    merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    tokenizer = from_vocabulary(model["vocab"], merges, patterns[0] if len(patterns) == 1
                                else patterns, special, added)
    tokenizer.begins_with(opening(content.get("post_processor") or {}, refuse))
    if model.get("unk_token") and None in tokenizer.ids:
        refuse(f"the unknown token {model['unk_token']!r} for bytes without a token")
    if model.get("ignore_merges") and (token := strange_token(tokenizer)):
        refuse(f"ignore_merges and the token {token!r}, which merges would not make")
    return tokenizer


def load(path, pattern=None):
    """The Tokenizer in a file or folder of any format known here. ValueError if there is none."""
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: there is no such file (01_tokenizer/bpe.py train makes a "
                         "tokenizer.json)")
    if path.is_dir():
        names = ("tokenizer.json", "encoder.json", "vocab.json")
        if not (found := [path / name for name in names if (path / name).exists()]):
            raise ValueError(f"{path} holds none of {', '.join(names)}")
        path = found[0]
    try:
        if path.suffix != ".json":
            return read_tiktoken(path, pattern)
        content = json.loads(read_text(path))
        for name, other in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
            if path.name.endswith(name):
                if name == "vocab.json" and not pattern:
                    raise ValueError("it holds no pattern; give one (gpt2 for GPT-2)")
                return read_gpt2(path, path.with_name(path.name.removesuffix(name) + other),
                                 pattern or "gpt2")
        if pattern:
            raise ValueError("it has a pattern of its own; leave the other one out")
        if isinstance(content.get("model"), dict):
            return read_huggingface(path)
        if isinstance(content.get("hash"), str):
            return FastTokenizer.load(path)
        raise ValueError("it is neither Hugging Face's, nor GPT-2's, nor of this course")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else (
            str(error) if isinstance(error, ValueError) else repr(error))
        what = what if str(path) in what else f"{path}: {what}"
        raise ValueError(f"{escaped(what):.1000}".replace("\n", "\\n")) from None


# ---- out ----
def covering(pattern):
    """`pattern`, or any single character that it skips: other libraries might lose that one."""
    return pattern if pattern in ours() else rf"(?:{pattern})|[^\n]|\n"


def write_huggingface(tokenizer, path, bos=None):
    """Write a tokenizer.json for Hugging Face's tokenizers and transformers.

    Those recognise special tokens in any text. bos: the special token that they are to put before
    every text. ValueError for an unknown bos, for a pattern that means something else to them, and
    for tokens that would be written alike.
    """
    if bos is not None and bos not in tokenizer.special:
        raise ValueError(f"no text can begin with {bos!r}: it is no special token of this "
                         f"tokenizer, which has {[*tokenizer.special] or 'none'}")
    letters, ids = byte_letters(), ids_of(tokenizer)
    if missing := {symbol for pair in tokenizer.merges for symbol in pair if ids[symbol] is None}:
        raise ValueError(f"the merges need the byte {min(missing)}, which has no id: there is no "
                         "way to express that there")

    def written(symbol):
        return "".join(letters[byte] for byte in tokenizer.vocab[ids[symbol]])

    patterns = tokenizer.pattern if isinstance(tokenizer.pattern, list) else [tokenizer.pattern]
    for pattern in patterns:
        check_dialect(pattern)
    tokens = [(written(symbol), i) for symbol, i in enumerate(ids) if i is not None]
    vocabulary = {}
    stages = getattr(tokenizer, "added", [])
    if len(stages) > 2:
        raise ValueError(f"added tokens are searched in {len(stages)} steps; there are two there")
    named = [(name, i, True, False) for name, i in tokenizer.special.items()]  # normalized: False
    for n, names in enumerate(stages):
        named += [(name, i, False, n > 0) for name, i in names.items()]
    for name, i in tokens + [(name, i) for name, i, *_ in named]:
        if name in vocabulary:
            raise ValueError(f"ids {vocabulary[name]} and {i} would both be written {name!r}")
        vocabulary[name] = i
    splits = [{"type": "Split", "behavior": "Isolated", "invert": False,
               "pattern": {"Regex": covering(pattern)}} for pattern in patterns]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                  "use_regex": False}
    begin = None if bos is None else {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"SpecialToken": {"id": bos, "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": bos, "type_id": 1}},
                 {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [tokenizer.special[bos]], "tokens": [bos]}}}
    content = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": name, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": normalized, "special": special}
                         for name, i, special, normalized in named],
        "normalizer": None, "post_processor": begin, "decoder": byte_level,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])),
                  "merges": [[written(a), written(b)] for a, b in tokenizer.merges]}}
    write_safely(path, json.dumps(content, ensure_ascii=False))


def write_tiktoken(tokenizer, path):
    """Write a file of ranks, and return the other half, pat_str, for tiktoken.Encoding(name,
    pat_str=pat_str, mergeable_ranks=tiktoken.load.load_tiktoken_bpe(path),
    special_tokens=tokenizer.special). (Beware: tiktoken caches files by their names, local ones
    too, unless TIKTOKEN_CACHE_DIR is set to nothing.)

    ValueError for what ranks can't express: a list of patterns, bytes without an id, ids that don't
    follow the order of the merges, a strange_token(), added tokens.
    """
    if getattr(tokenizer, "added", []):
        raise ValueError("tiktoken knows no added tokens that are ordinary text; this tokenizer "
                         "has some")
    if isinstance(tokenizer.pattern, list):
        raise ValueError("tiktoken takes a single pattern; this tokenizer applies "
                         f"{len(tokenizer.pattern)} in turn")
    check_dialect(tokenizer.pattern)
    ids = ids_of(tokenizer)
    if None in ids:
        raise ValueError(f"tiktoken needs an id for every byte; {ids.index(None):#04x} has none")
    if ids[256:] != sorted(ids[256:]):
        raise ValueError("tiktoken merges in the order of the ids; these are in another order")
    if token := strange_token(tokenizer):
        raise ValueError(f"tiktoken would encode {token!r} differently: its own merges don't make "
                         "that token")
    lines = [base64.b64encode(tokenizer.vocab[i]) + f" {i}\n".encode() for i in sorted(ids)]
    write_safely(path, b"".join(lines))
    return covering(tokenizer.pattern)


# ---- side by side ----
def compare(texts, tokenizer):
    """(bytes per token, tokens per word, share of bytes in one-byte tokens) of `texts`, encoded by
    `tokenizer`. Words are separated by white space.
    """
    texts, sizes = list(each_text(texts)), np.array([len(token) for token in tokenizer.vocab])
    used = np.concatenate([sizes[tokenizer.encode(text)] for text in texts])
    words = sum(len(text.split()) for text in texts)
    return used.sum() / len(used), len(used) / words, (used == 1).sum() / used.sum()


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("import", "make a tokenizer.json of this project from another format"),
                       ("export", "write one for Hugging Face (.json) or tiktoken (.tiktoken)"),
                       ("compare", "how well tokenizers compress your files")):
        command = commands.add_parser(name, help=what, description=what)
        if name == "compare":
            command.add_argument("files", nargs="+", help="UTF-8 text files")
            command.add_argument("--tokenizer", action="append", required=True, metavar="PATH",
                                 help="a tokenizer in any format; may be given several times")
            continue
        command.add_argument("path", help="the other format's file" + " or folder" *
                             (name == "import"))
        command.add_argument("--tokenizer", default="tokenizer.json", metavar="FILE",
                             help="this project's file (default: tokenizer.json)")
        if name == "import":
            command.add_argument("--pattern", help="the pattern of pieces, for a file that holds "
                                 f"none and is not called {', '.join(RANKS)}")
    args = parser.parse_args(argv)
    if args.command != "compare" and Path(args.path).resolve() == Path(args.tokenizer).resolve():
        raise ValueError(f"{args.path} would overwrite itself; name another --tokenizer")

    if args.command == "import":
        tokenizer = load(args.path, args.pattern)
        tokenizer.save(args.tokenizer)
        n_added = sum(map(len, getattr(tokenizer, "added", [])))
        print(f"{args.tokenizer}: {len(tokenizer.merges):,} merges, {len(tokenizer.special)} "
              f"special and {n_added} other added tokens, ids up to {tokenizer.vocab_size - 1:,}")
    elif args.command == "export":
        tokenizer = load(args.tokenizer)
        if args.path.endswith(".json"):
            write_huggingface(tokenizer, args.path)
        elif args.path.endswith(".tiktoken"):
            pattern = write_tiktoken(tokenizer, args.path)
            print(f"tiktoken also needs\npat_str = {pattern!r}\n"
                  f"special_tokens = {tokenizer.special}")
        else:
            raise ValueError(f"{args.path}: a name that ends in .json is written for Hugging Face, "
                             "one in .tiktoken for tiktoken")
    else:
        texts = [read_text(path) for path in args.files]
        if not any(text.split() for text in texts):
            raise ValueError("there are no words in these files")
        width = max(len(name) for name in args.tokenizer)
        print(f"{'':{width}}      ids  bytes/token  tokens/word  bytes in 1-byte tokens")
        for name in args.tokenizer:
            tokenizer = load(name)
            density, words, single = compare(texts, tokenizer)
            print(f"{name:{width}}  {tokenizer.vocab_size:7,}  {density:11.3f}  {words:11.3f}  "
                  f"{single:22.1%}")


if __name__ == "__main__":
    run(main)
