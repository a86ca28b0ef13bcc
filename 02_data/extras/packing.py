"""What each sampler of batches.py wastes, measured and drawn.

Windows from random places miss 37% (1/e) of the text in an epoch, and most of them begin in the
middle of a document. A stream of windows misses nothing, but most of its windows begin in the
middle of a document, too. Bestfit windows always begin with a document, and lose the ends of
documents that don't fit: little of short documents, nearly all of long ones.

    python 02_data/extras/packing.py python --seq-len 256  # long documents
    python 02_data/extras/packing.py gsm8k --seq-len 512   # short ones, after a download

Reads prepared data, which is made if need be; writes packing.png into its folder.
Next: 03_model/gpt.py.
"""

import itertools
import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, run, track

import numpy as np

from batches import SAMPLERS
from data import Ids, prepare

MOST = 10_000_000  # tokens that are looked at


def in_documents(row, starts):  # exercise
    """A row's spans, cut where documents begin: [(document, offset in it, number of ids), ...].

    row: spans (start, n) of a split's ids; starts: (D,) where each document starts in them,
    ascending, the first at 0. np.searchsorted finds the document of a place; take care with the
    first place of a document.
    in_documents([(1, 9)], [0, 3, 4, 10]) == [(0, 1, 2), (1, 0, 1), (2, 0, 6)]
    """
    pieces = []
    for start, n in row:
        first, last = np.searchsorted(starts, [start, start + n - 1], side="right") - 1
        for document in range(first, last + 1):
            begin = max(start, starts[document])
            end = start + n if document == last else starts[document + 1]
            pieces.append((document, begin - starts[document], end - begin))
    return pieces


def first_documents(ids, limit):
    """Ids of the same lengths as the first documents of `ids`, together at least `limit` ids, but
    all zero: samplers look at lengths only.
    """
    i = int(np.searchsorted(ids.starts, limit))
    n = int(ids.starts[i]) if i < len(ids.starts) else len(ids)
    return Ids(np.broadcast_to(np.uint8(0), n), ids.starts[:i])


def waste(name, ids, seq_len):
    """The waste of an epoch, as shares: {"never a target", "beginning unseen", "padding"}.

    never a target: share of all ids; beginning unseen: share of the targets whose document begins
    before their window; padding: share of the places for targets.
    """
    sampler, whole = SAMPLERS[name](ids, seq_len), -(-len(ids) // seq_len)
    targets, padding, headless = np.zeros(len(ids), bool), 0, 0
    for rows in track(itertools.count(1), f"packing {name}", unit=" windows"):
        place = 0  # in the window
        for document, offset, n in in_documents(sampler.row(), ids.starts):
            start = int(ids.starts[document]) + offset
            targets[start + (place == 0):start + n] = True  # a window's first id is no target
            headless += (n - (place == 0)) if offset else 0
            place += n
        padding += seq_len + 1 - place
        if rows == whole and name == "random" or sampler.epochs >= 1 and name != "random":
            break
    n_targets = rows * seq_len - padding
    return {"never a target": 1 - targets.mean(), "beginning unseen": headless / n_targets,
            "padding": padding / (rows * seq_len)}


def draw(ids, seq_len, wastes, path, n_rows=14):
    """Draw some windows of every sampler: a colour for each document, grey if its beginning is not
    in the window, hatched the part cut off behind the window (at most half a window of it).
    """
    from matplotlib.figure import Figure

    colours = ["#4c72b0", "#dd8452", "#55a868", "#8172b3", "#937860", "#da8bc3", "#64b5cd"]
    figure = Figure(figsize=(8, 7.2), layout="constrained")
    for axes, (name, shares) in zip(figure.subplots(len(wastes), 1, sharex=True), wastes.items()):
        sampler = SAMPLERS[name](ids, seq_len)
        for y in range(n_rows):
            x = 0
            for document, offset, n in in_documents(sampler.row(), ids.starts):
                axes.barh(y, n, left=x, height=0.8, edgecolor="white", linewidth=0.6,
                          color="0.8" if offset else colours[document % len(colours)])
                x += n
            ends = [*ids.starts[1:], len(ids)]
            cut = ends[document] - int(ids.starts[document]) - offset - n
            if name == "bestfit" and cut:
                axes.barh(y, min(cut, seq_len // 2), left=x, height=0.8, fill=False, hatch="////",
                          edgecolor="0.75", linewidth=0)
        axes.axvline(seq_len + 1, color="black", linewidth=1)
        axes.set(yticks=[], xlim=(0, 1.5 * seq_len), ylim=(n_rows - 0.4, -0.6))
        axes.set_title(f"{name}: " + ", ".join(f"{share:.0%} {what}"
                                               for what, share in shares.items()), loc="left")
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.supxlabel(f"{n_rows} windows of each; a colour is a document, grey one whose beginning\n"
                     "is not in the window, hatched what is cut off", fontsize=10)
    figure.savefig(path, dpi=120)


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="python",
                        help="see corpus.py for a list, or prepared:FOLDER (default: python)")
    parser.add_argument("--seq-len", type=int, default=256, help="T (default: 256)")
    parser.add_argument("--vocab-size", type=int, help="of the tokenizer (default: 2048)")
    parser.add_argument("--data-dir", default="data", help="where data is kept (default: data)")
    args = parser.parse_args(argv)
    if args.seq_len < 1:
        raise ValueError(f"--seq-len is {args.seq_len}, but must be 1 or more")
    data = prepare([args.source], args.vocab_size, args.data_dir, workers=os.cpu_count() or 1)
    ids = first_documents(data.train, MOST)
    if len(ids) < len(data.train):
        print(f"of the first {len(ids):,} tokens:")
    lengths = np.diff(ids.starts, append=len(ids))
    print(f"a document has {lengths.mean():,.0f} tokens on average, {np.median(lengths):,.0f} in "
          f"the median; {np.mean(lengths > args.seq_len + 1):.0%} are longer than a window")
    wastes = {name: waste(name, ids, args.seq_len) for name in SAMPLERS}
    print(" " * 10 + "".join(f"{what:>18}" for what in wastes["random"]))
    for name, shares in wastes.items():
        print(f"{name:10}" + "".join(f"{share:18.1%}" for share in shares.values()))
    draw(ids, args.seq_len, wastes, data.folder / "packing.png")
    print(f"{data.folder}/packing.png shows some windows of each")


if __name__ == "__main__":
    run(main)
