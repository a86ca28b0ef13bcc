"""Runs -> one page to look at and to pass on: results, curves, samples over time, configs.

The page needs no other file: pictures are inside, and no script runs. For one run it shows all; for
several their curves in one picture, and tables of their results and differences.
Left out: any choice of what is shown.

    python 04_train/extras/report.py runs/tiny
    python 04_train/extras/report.py runs/tiny runs/tiny-2 --output compare.html

Reads metrics.jsonl and config.json of each run; writes the page. Next: compare.py.
"""

import html
import json
import os
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import escaped, read_text, write_safely
from metrics import read_metrics
from housekeeping import duration
from report import BITS, column, evenly, known_rows, numbers, picture, smooth

STYLE = """
:root { color-scheme: light dark; --soft: #8883; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1em; margin: 2.2em 0 .6em; }
p { margin: .2em 0; opacity: .7; }
svg { width: 100%; height: auto; } svg text { fill: currentColor; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .15em 1.5em .15em 0;
         border-bottom: 1px solid var(--soft); overflow-wrap: anywhere; }
th { font-weight: normal; opacity: .7; white-space: nowrap; }
thead th { font-weight: bold; opacity: 1; }
pre { margin: .2em 0 1em; padding: .7em .9em; background: var(--soft); border-radius: 6px;
      white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; line-height: 1.4; }
.wide, .columns, .bars { overflow-x: auto; }
.cards, .curves { display: grid; gap: 1em; margin: 1.5em 0;
                  grid-template-columns: repeat(auto-fit, minmax(7.5em, 1fr)); }
.curves { grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)); }
.cards b { display: block; font-size: 1.5em; font-weight: 600; }
.cards span, small { opacity: .7; font-size: .85em; }
.samples { display: grid; gap: 1em;
           grid-template-columns: repeat(auto-fit, minmax(min(320px, 100%), 1fr)); }
.columns { columns: 3 280px; column-gap: 2em; } .columns table { width: 100%; }
.bar { background: #8886; height: .8em; } .own .bar { background: #1f77b4; }
.own { font-weight: 600; } .bars table { width: 100%; } .bars td:last-child { width: 75%; }
.bars th, .bars td { vertical-align: middle; white-space: nowrap; border: 0; }
i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em; }
"""


# ---- results ----
def results(metrics, config):
    """The results of a run, {name: text}; for an unfinished run, those so far."""
    found = {}
    scores = [row for row in metrics if row.get(BITS) is not None]
    if scores:
        so_far = "" if "baselines" in scores[-1] else " so far"
        found["bits per byte"] = f"{scores[-1][BITS]:.3f}{so_far}"
    losses, tokens, seconds, parameters = (
        column(metrics, key)[0] for key in ("loss", "tokens", "seconds", "parameters"))
    if len(losses):
        found["training loss"] = f"{smooth(losses)[-1]:.3f}"
    step = max((row["step"] for row in metrics), default=0)
    found["steps"] = f"{step:,}" + (f" of {config['steps']}"
                                    if config.get("steps", step) != step else "")
    if len(tokens):
        found["tokens"] = f"{tokens[-1]:,.0f}"
    if len(seconds):
        found["time in steps"] = duration(seconds[-1])
    if len(tokens) and len(seconds) and seconds[-1]:
        found["tokens a second"] = f"{tokens[-1] / seconds[-1]:,.0f}"
    if len(parameters):
        found["parameters"] = f"{parameters[-1]:,.0f}"
    return found


# ---- HTML: data go through text() ----
def text(value):
    """Any value as harmless HTML: markup and control characters are escaped."""
    return html.escape("-" if value is None else escaped(str(value)))


def section(title, content, kind="wide"):
    """A section of the page; "" if it has no content."""
    return f'<h2>{title}</h2><div class="{kind}">{content}</div>' if content else ""


def table(rows, head=()):
    """A table of {name: [values]}, its columns under a `head` of HTML."""
    lines = "".join(f"<tr><th>{text(name)}</th>{''.join(f'<td>{text(v)}</td>' for v in values)}"
                    "</tr>" for name, values in rows.items())
    heads = "".join(f"<th>{each}</th>" for each in ("", *head))
    top = f"<thead><tr>{heads}</tr></thead>" if head else ""
    return lines and f"<table>{top}<tbody>{lines}</tbody></table>"


def bars(rows):
    """A table of {name: bits per byte}, the best last, each with a bar, the model's own marked."""
    most = max(rows.values(), default=0) or 1
    lines = (f"<tr{' class=own' if name == 'this model' else ''}><th>{text(name)}</th>"
             f"<td>{bits:.3f}</td><td><div class=bar style='width:{100 * bits / most:.1f}%'></div>"
             "</td></tr>" for name, bits in sorted(rows.items(), key=lambda row: -row[1]))
    return f"<table>{''.join(lines)}</table>" if rows else ""


def curves(runs):
    """The curves of all runs, an SVG for each panel, so that a small screen shows them one below
    the other; text and axes have the page's colour.
    """
    svgs = [picture(runs, "svg", [(2.6, 0, [draw])], width=5).decode()
            for *_, panels in known_rows(runs) for draw in panels]
    svgs = [svg[svg.index("<svg"):].replace("#000000", "currentColor") for svg in svgs]
    return f"<div class=curves>{''.join(svgs)}</div>"


def samples(metrics, most):
    """At most `most` of the model's samples, from early to late; of one step only the last."""
    last = {row["step"]: row["sample"] for row in metrics if row.get("sample")}
    return "".join(f"<div><small>step {step:,}</small><pre>{text(sample)}</pre></div>"
                   for step, sample in evenly([*last.items()], most))


# ---- the page ----
def one(metrics, config):
    """The HTML, beneath the title, of a page on a single run."""
    ends = [row for row in metrics if row.get("baselines") is not None]
    others = numbers(ends[-1]["baselines"] | {"this model": ends[-1].get(BITS)}) if ends else {}
    where = next((row["environment"] for row in metrics[::-1] if row.get("environment")), {})
    cards = "".join(f"<div><b>{text(value)}</b><span>{name}</span></div>"
                    for name, value in results(metrics, config).items())
    return (f"<div class=cards>{cards}</div>{curves([metrics])}"
            + section("Bits per byte of the validation text", bars(others), "bars")
            + section("What it wrote", samples(metrics, 6), "samples")
            + section("Config", table({k: [v] for k, v in config.items()}), "columns")
            + section("Where it ran", table({k: [v] for k, v in where.items()})))


def page(folders, path):
    """Write the page of the runs in `folders`. ValueError if one is no run, or none has rows."""
    folders = [Path(folder) for folder in folders]
    names = [folder.resolve().name for folder in folders]
    names = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    runs = {}
    for name, folder in zip(names, folders):
        if not (folder / "metrics.jsonl").exists():
            raise ValueError(f"{folder} is not a run: it has no metrics.jsonl")
        path_of_config = folder / "config.json"  # of any version, or none: it is only shown
        try:
            config = dict(json.loads(read_text(path_of_config)) if path_of_config.exists() else {})
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path_of_config} is not the config of a run: {error}") from None
        runs[name] = read_metrics(folder / "metrics.jsonl"), config
    title = text(", ".join(runs))
    if len(runs) > 1:
        from compare import several
    body = one(*runs[names[0]]) if len(runs) == 1 else several(runs)
    write_safely(path, (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title>"
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>{body}</body></html>\n"
        ).encode("utf-8", "replace"))  # half a surrogate pair has no UTF-8
