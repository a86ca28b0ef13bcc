"""Turn a stage into an exercise: its files, with the bodies to be written taken out.

    python tests/blank.py 03_model
    PYTHONPATH=mine pytest 03_model -x

The first line writes mine/gpt.py: the stage's file, in which a function marked "# exercise" keeps
its name and its docstring, which is the task, and raises NotImplementedError. The second grades:
the first red test is the next exercise. With PYTHONPATH=mine the trainer and everything else use
your file, too. What is in mine/ is never overwritten; delete it to start again. mine/ stands in the
root of the course, wherever this is called from. Extras have exercises as well: 03_model/extras.
"""

import ast
import functools
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MINE = ROOT / "mine"

# The spine as it is read, then extras, in the order in which they build on each other.
READING_ORDER = ["bpe", "console", "data", "conversations", "gpt", "optim", "runs", "train", "sft",
                 "rl", "sample", "chat", "api", "serve", "evals", "humaneval", "scale", "zero",
                 "pieces", "dialects", "workers", "fast", "longwords", "mapped", "commands",
                 "formats", "foreign", "picture", "housekeeping", "mistakes", "chatml", "records",
                 "download", "hub", "folders", "corpus", "tasks", "duplicates", "filters", "clean",
                 "fim", "writing", "mixtures", "batches", "packing", "family", "ngrams", "ragged",
                 "losses", "machine", "budget", "costs", "heads", "huggingface", "shards",
                 "weights", "presets", "length", "planned", "resuming", "beside", "metrics",
                 "wandb_log", "watch", "nonfinite", "report", "page", "compare", "timing",
                 "starting", "bigrams", "lora", "blocked", "rollouts", "dpo", "compiling",
                 "snapshots", "curves", "ideas", "ladder", "abilities", "good_go", "export",
                 "lookup", "batching", "quant", "figures", "microscope", "lookback", "routes",
                 "scoring", "bundle", "kept", "core", "charts", "growth", "certify", "harness",
                 "answers", "inside", "sandbox", "proxy", "programs", "samples", "replies",
                 "hosted", "problems", "renumbering", "renaming", "twins", "bodies", "compiler_rl",
                 "ranks", "precision", "recompute", "plan", "simulate", "timeline", "fsdp",
                 "selftest", "launch"]


@functools.cache
def exercises(source):
    """The functions in `source` marked "# exercise" on their def line, as syntax tree nodes, each
    with a title: its name, behind that of its class if it has one.
    """
    if "# exercise" not in source:
        return []
    lines, tree = source.splitlines(), ast.parse(source)
    owners = {child: f"{node.name}." for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
              for child in node.body}
    marked = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
              and lines[node.lineno - 1].rstrip().endswith("# exercise")]
    for node in marked:
        node.title = owners.get(node, "") + node.name
    return sorted(marked, key=lambda node: node.lineno)


def blank(source):
    """`source` with the body of every exercise, after its docstring, replaced by a raise."""
    lines = source.splitlines(keepends=True)
    for node in sorted(exercises(source), key=lambda node: -node.lineno):
        docstring, first = node.body[0], node.body[1]
        indent = " " * docstring.col_offset
        lines[docstring.end_lineno:node.end_lineno] = [
            f'{indent}raise NotImplementedError("exercise: {node.title}")\n']
        assert ast.get_docstring(node) and first.lineno > docstring.end_lineno, node.title
    return "".join(lines)


def main(folders):
    known = sorted([*ROOT.glob("0?_*"), *ROOT.glob("0?_*/extras")])
    if not folders:
        print("error: say which stage, for example 03_model", file=sys.stderr)
        sys.exit(2)
    for name in folders:
        folder = (ROOT / name).resolve()
        if folder not in known:
            names = ", ".join(p.relative_to(ROOT).as_posix() for p in known)
            print(f"error: {name!r} is not a stage; there are {names}", file=sys.stderr)
            sys.exit(2)
        for path in sorted(folder.glob("*.py")):
            source = path.read_text(encoding="utf-8")
            marked = [] if path.name.startswith("test_") else exercises(source)
            if not marked:
                continue
            MINE.mkdir(exist_ok=True)
            try:
                with open(MINE / path.name, "x", encoding="utf-8") as file:
                    file.write(blank(source))
                print(f"mine/{path.name}: {', '.join(node.title for node in marked)}")
            except FileExistsError:
                print(f"mine/{path.name} exists and stays as it is")


if __name__ == "__main__":
    main(sys.argv[1:])
