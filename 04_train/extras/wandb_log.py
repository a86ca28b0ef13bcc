"""Rows of metrics.jsonl go to Weights & Biases, too: train.py --wandb.

A resumed run stays one run there: its id is kept in a row, {"step": 0, "wandb": id}. WANDB_PROJECT
and WANDB_MODE=offline work as everywhere. If wandb fails, one line says so and the run goes on
without it.
Left out: the content of the rows (metrics.py).

Needs the package wandb. Next: watch.py.
"""

import importlib
import os
import secrets
import sys

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

import console  # noqa: F401, first, so that the others are found

from metrics import Hints, Log, read_metrics


class WandbLog(Log):
    """A Log of the run in `folder` that also sends its rows to wandb. config: a dict."""

    def __init__(self, folder, step=0, config=None):
        super().__init__(folder, step)
        self.hints, self.wandb = Hints(), None
        known = [row["wandb"] for row in read_metrics(self.path) if "wandb" in row]
        name = known[0] if known else secrets.token_hex(4)
        self.wandb = self.hints("send metrics to wandb (pip install wandb, wandb login, or "
                                "WANDB_MODE=offline)", self.begin, name, config)
        if self.wandb and not known:
            super().record(0, wandb=name)

    def begin(self, name, config):
        """The wandb run with the id `name`. Fails without the package, a key, a network ..."""
        run = importlib.import_module("wandb").init(
            project=os.environ.get("WANDB_PROJECT", "text-to-text"), dir=self.path.parent,
            name=self.path.parent.name, id=name, resume="allow", config=config)
        run.define_metric("*", step_metric="step")  # rows of one step come apart
        return run

    def record(self, step, **values):
        row = super().record(step, **values)
        self.send("log", row)
        return row

    def send(self, method, *values, **named):
        """Call a method of the wandb run; if it fails, nothing more is sent."""
        def call():
            run, self.wandb = self.wandb, None
            getattr(run, method)(*values, **named)
            self.wandb = run
        if self.wandb:
            self.hints("send metrics to wandb any longer", call)

    def __exit__(self, *error):
        super().__exit__(*error)
        self.send("finish", exit_code=int(error[0] is not None))
