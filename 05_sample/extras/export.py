"""A run's model as a Hugging Face folder, which transformers loads, and so do many others.

    python 05_sample/extras/export.py FOLDER --run tiny

Left out: the format (03_model/extras/weights.py). Reads a run; writes FOLDER. Next: lookup.py.
"""

import os
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import Parser, add_options, run

from lora import merge
from sample import RunOptions
from weights import all_or_nothing, export


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="to write to; transformers loads it, and so does --weights")
    add_options(parser, RunOptions)
    given = vars(parser.parse_args(argv))
    if not (target := given.pop("folder")):
        raise ValueError("say where to export to")
    options = RunOptions(**given)
    with all_or_nothing(target) as aside:  # first, as it refuses a folder with other files
        folder, model, tokenizer, _, step = options.load()
        export(merge(model), tokenizer, aside)  # nothing else knows adapters
    print(f"wrote {target}: {folder}, step {step}")


if __name__ == "__main__":
    run(main)
