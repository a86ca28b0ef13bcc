"""Two pictures of byte-pair encoding, drawn from a tokenizer's own merges.

Left, how a word becomes tokens: its bytes at the bottom, and above them each merge in the order in
which it is made. Right, how the number of bytes per token grows with the vocabulary: merges are
learned in order, so the first n of them are a tokenizer of that size, and one training is enough
for the whole curve.

    python 01_tokenizer/bpe.py train README.md 01_tokenizer/*.py --vocab-size 4096
    python 01_tokenizer/extras/picture.py README.md --word " tokenizers"

Reads tokenizer.json and text files; writes tokenizer.png. Next: 02_data/data.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, read_text, run, write_safely
from bpe import merge
from fast import FastTokenizer
from mapped import MappedTokenizer


def steps(tokenizer, word):
    """How `word` is merged: the rows of symbols, from its bytes to its tokens."""
    row = list(word.encode())
    rows = [row]
    for new_id, pair in enumerate(tokenizer.merges, 256):
        if pair in zip(row, row[1:]):
            row = merge(row, pair, new_id)
            rows.append(row)
    return rows


def density(tokenizer, texts, sizes):
    """Bytes per token of `texts` for the first n merges, for each n in `sizes`."""
    n_bytes = sum(len(text.encode()) for text in texts)
    smaller = (MappedTokenizer(tokenizer.merges[:n], tokenizer.pattern) for n in sizes)
    return [n_bytes / sum(len(ids) for ids in each.encode_many(texts)) for each in smaller]


def draw(tokenizer, texts, word, path):
    """Draw both pictures into one PNG."""
    import io
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    texts_of = FastTokenizer(tokenizer.merges).vocab
    rows = steps(tokenizer, word)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 0.35 * max(len(rows), 8) + 1.2),
                                         layout="constrained")
    colours = plt.get_cmap("tab20").colors
    for y, row in enumerate(rows):
        x = 0
        for symbol in row:
            width = len(texts_of[symbol])
            shown = texts_of[symbol].decode("utf-8", "backslashreplace").replace(" ", "␣")
            new = y > 0 and symbol == max(row) and symbol not in rows[y - 1]
            left.barh(y, width - 0.08, left=x + 0.04, height=0.8, edgecolor="black",
                      color=colours[symbol % 20] if symbol >= 256 else "white",
                      linewidth=2 if new else 0.5)
            left.text(x + width / 2, y, shown, ha="center", va="center", fontfamily="monospace")
            x += width
    made = ["bytes"] + [f"merge {max(set(row) - set(before)) - 255:,}"
                        for before, row in zip(rows, rows[1:])]
    left.set(yticks=range(len(rows)), yticklabels=made, xticks=[], title=f"how {word!r} becomes "
             f"{len(rows[-1])} token{'s' * (len(rows[-1]) != 1)}")
    left.spines[:].set_visible(False)
    left.margins(y=0.01)

    sizes = sorted({len(tokenizer.merges)} | {
        2 ** k for k in range(5, 20) if 2 ** k < len(tokenizer.merges)} | {0})
    right.plot([256 + n for n in sizes], density(tokenizer, texts, sizes), "o-")
    right.set(xscale="log", xlabel="ids (256 bytes and the merges)", ylabel="bytes per token",
              title="what a larger vocabulary buys", ylim=0)
    right.grid(alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    plt.close(figure)
    write_safely(path, picture.getvalue())


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", help="UTF-8 text files for the right picture")
    parser.add_argument("--word", default=" tokenizers", help="the word for the left one")
    parser.add_argument("--tokenizer", default="tokenizer.json", metavar="FILE",
                        help="(default: tokenizer.json)")
    parser.add_argument("--out", default="tokenizer.png", metavar="FILE",
                        help="(default: tokenizer.png)")
    args = parser.parse_args(argv)
    texts = [read_text(path) for path in args.files]
    if not any(texts) or not args.word:
        raise ValueError("there is no text to draw")
    draw(FastTokenizer.load(args.tokenizer), texts, args.word, args.out)
    print(args.out)


if __name__ == "__main__":
    run(main)
