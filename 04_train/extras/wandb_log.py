"""Rows of metrics.jsonl go to Weights & Biases, too: train.py --wandb.

A run is one run there as well, also if it goes on: its id is kept in a row, {"step": 0, "wandb":
id}. WANDB_PROJECT and WANDB_MODE=offline work as everywhere. Should it fail later, one line says so
and the run goes on without it.
Left out: what is in the rows, which is metrics.py's.

Needs the package wandb. Next: watch.py.
"""

import importlib
import os
import secrets
import sys
from pathlib import Path

if "console" not in sys.modules:  # which is found first, and puts all folders on the path
    sys.path[1:1] = [str(folder / "01_tokenizer") for folder in Path(__file__).resolve().parents]

import console  # noqa: F401, first: it makes the others be found

from metrics import Log, read_metrics


def import_wandb():
    """The module of Weights & Biases. ValueError if there is none."""
    try:
        return importlib.import_module("wandb")
    except ImportError:
        raise ValueError("wandb is not installed: pip install wandb, or leave out --wandb"
                         ) from None


class WandbLog(Log):
    """A Log, of the run in `folder` with `config`, a dict. ValueError if wandb can't start."""

    def __init__(self, folder, step=0, config=None):
        module, path = import_wandb(), Path(folder) / "metrics.jsonl"
        rows = read_metrics(path) if path.exists() else []
        known = [row["wandb"] for row in rows if "wandb" in row]
        name = known[0] if known else secrets.token_hex(4)
        try:
            self.wandb = module.init(
                project=os.environ.get("WANDB_PROJECT", "text-to-text"), dir=folder,
                name=Path(folder).name, id=name, resume="allow", config=config)
            self.wandb.define_metric("*", step_metric="step")  # rows of one step come apart
        except Exception as error:  # of any kind: no key, no network ...
            raise ValueError(f"wandb can't start: {' '.join(str(error).split())[:200]}. "
                             "WANDB_MODE=offline needs neither key nor network") from None
        super().__init__(folder, step)
        if not known:
            super().record(0, wandb=name)

    def record(self, step, **values):
        self.send("log", super().record(step, **values))

    def send(self, method, *values, **named):
        """Call a method of the wandb run; if it can't, there is none any more."""
        try:
            if self.wandb:
                getattr(self.wandb, method)(*values, **named)
        except Exception as error:
            self.wandb = None
            print(f"wandb failed, the run goes on without it: {' '.join(str(error).split())[:200]}",
                  file=sys.stderr)

    def __exit__(self, *error):
        super().__exit__(*error)
        self.send("finish", exit_code=int(error[0] is not None))
