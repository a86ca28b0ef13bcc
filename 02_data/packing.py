"""What each way of cutting a text into windows wastes: measured, and drawn.

Nothing is free. Windows from random places miss 1/e, 37%, of the text in an epoch; and like a
plain cut, which misses nothing, they often don't show where a document began. Windows that begin
with a document always do, and lose the ends of those that don't fit: little of short ones, nearly
all of long ones.

    python 02_data/packing.py python --seq-len 256  # long documents
    python 02_data/packing.py gsm8k --seq-len 512   # short ones, after a download

Reads a source's shards (made if need be); writes packing.png into their folder.
Next: 03_model/gpt.py.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

# Stages import each other by file name, last on the path: PYTHONPATH=mine puts your files first.
stages = [str(p) for p in Path(__file__).resolve().parents[1].glob("0?_*")]
sys.path[:] = [p for p in sys.path if p not in stages] + stages

from batches import PLANS
from console import Parser, run, track
from shards import prepare
from streams import Stream

MOST = 10_000_000  # tokens that are looked at


def in_documents(row, starts):  # exercise
    """A row's spans, cut where documents begin: [(document, offset in it, number of ids), ...].

    row: spans (start, n) of a stream; starts: (D,) where in it each document starts, ascending,
    the first at 0. np.searchsorted finds the document that a place is in; beware of the place
    where one starts. in_documents([(1, 9)], [0, 3, 4, 10]) == [(0, 1, 2), (1, 0, 1), (2, 0, 6)]
    """
    pieces = []
    for start, n in row:
        first, last = np.searchsorted(starts, [start, start + n - 1], side="right") - 1
        for document in range(first, last + 1):
            begin = max(start, int(starts[document]))
            end = start + n if document == last else int(starts[document + 1])
            pieces.append((document, begin - int(starts[document]), end - begin))
    return pieces


def first_documents(stream, limit):
    """A stream with the lengths of its first documents, of at least `limit` ids: plans look at
    lengths only.
    """
    i = int(np.searchsorted(stream.starts, limit))
    n = int(stream.starts[i]) if i < len(stream.starts) else len(stream)
    return Stream([np.broadcast_to(np.uint8(0), n)], None, stream.starts[:i])


def waste(name, stream, seq_len):
    """What a plan does in an epoch, as shares: {"never a target", "beginning unseen", "padding"}.

    never a target: of the stream's ids; beginning unseen: of the targets, those whose document
    began before their window did; padding: of the places for targets.
    """
    plan, whole = PLANS[name](stream, seq_len), -(-len(stream) // seq_len)
    targets, padding, headless = np.zeros(len(stream), bool), 0, 0
    for rows in track(itertools.count(1), f"packing {name}", unit=" windows"):
        ids = 0
        for document, offset, n in in_documents(plan.row(), stream.starts):
            start = int(stream.starts[document]) + offset
            targets[start + (ids == 0):start + n] = True  # a window's first id is no target
            headless += (n - (ids == 0)) if offset else 0
            ids += n
        padding += seq_len + 1 - ids
        if rows == whole and name == "random" or plan.epochs >= 1 and name != "random":
            break
    n_targets = rows * seq_len - padding
    return {"never a target": 1 - targets.mean(), "beginning unseen": headless / n_targets,
            "padding": padding / (rows * seq_len)}


def draw(stream, seq_len, wastes, path, n_rows=14):
    """Some windows of every plan: a colour for each document, grey where its beginning is unseen,
    hatched what is cut off behind the window (as far as half a window).
    """
    from matplotlib.figure import Figure

    colours = ["#4c72b0", "#dd8452", "#55a868", "#8172b3", "#937860", "#da8bc3", "#64b5cd"]
    figure = Figure(figsize=(8, 7.2), layout="constrained")
    for axes, (name, shares) in zip(figure.subplots(len(wastes), 1, sharex=True), wastes.items()):
        plan = PLANS[name](stream, seq_len)
        for y in range(n_rows):
            x = 0
            for document, offset, n in in_documents(plan.row(), stream.starts):
                axes.barh(y, n, left=x, height=0.8, edgecolor="white", linewidth=0.6,
                          color="0.8" if offset else colours[document % len(colours)])
                x += n
            ends = [*stream.starts[1:], len(stream)]
            cut = ends[document] - int(stream.starts[document]) - offset - n
            if name == "bestfit" and cut:
                axes.barh(y, min(cut, seq_len // 2), left=x, height=0.8, fill=False, hatch="////",
                          edgecolor="0.75", linewidth=0)
        axes.axvline(seq_len + 1, color="black", linewidth=1)
        axes.set(yticks=[], xlim=(0, 1.5 * seq_len), ylim=(n_rows - 0.4, -0.6))
        axes.set_title(f"{name}: " + ", ".join(f"{share:.0%} {what}"
                                               for what, share in shares.items()), loc="left")
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.supxlabel(f"{n_rows} windows of each; a colour is a document, grey is one whose "
                     "beginning\nis not in the window, hatched what is cut off", fontsize=10)
    figure.savefig(path, dpi=120)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="python",
                        help="as 02_data/corpus.py lists them, or shards:FOLDER (default: python)")
    parser.add_argument("--seq-len", type=int, default=256, help="T (default: 256)")
    parser.add_argument("--vocab-size", type=int, help="of the tokenizer (default: 2048)")
    parser.add_argument("--data-dir", default="data", help="where data is kept (default: data)")
    args = parser.parse_args(argv)
    if args.seq_len < 1:
        raise ValueError(f"--seq-len is {args.seq_len}, but must be 1 or more")
    vocab_size = args.vocab_size or (None if args.source.startswith("shards:") else 2048)
    shards = prepare(args.source, vocab_size, args.data_dir)
    stream = first_documents(shards.train, MOST)
    if len(stream) < len(shards.train):
        print(f"what follows is about the first {len(stream):,} tokens")
    lengths = np.diff(stream.starts, append=len(stream))
    print(f"documents have {np.median(lengths):,.0f} tokens in the middle of their order, "
          f"{lengths.mean():,.0f} on average; {np.mean(lengths > args.seq_len + 1):.0%} are longer "
          "than a window")
    wastes = {name: waste(name, stream, args.seq_len) for name in PLANS}
    print(" " * 10 + "".join(f"{what:>18}" for what in wastes["random"]))
    for name, shares in wastes.items():
        print(f"{name:10}" + "".join(f"{share:18.1%}" for share in shares.values()))
    draw(stream, args.seq_len, wastes, shards.folder / "packing.png")
    print(f"{shards.folder}/packing.png shows some windows of each")


if __name__ == "__main__":
    run(main)
