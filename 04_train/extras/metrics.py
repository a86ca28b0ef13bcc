"""A run's metrics.jsonl: records written during the run, and reading them again.

One JSON object a line, each with its "step":
  {"loss", "grad_norm", "lr", "tokens", "seconds"}   a step; tokens and seconds count all so far,
                                                     "spike": true if its loss stood out
  {"val_bits_per_byte"}                              an evaluation; the last one, on all of the
                                                     text, has {"baselines": {name: bits}} too
  {"sample": text}, {"update_ratio": {part: x}}, {"activation_scale": {part: x}}
  {"environment": {...}, "parameters": n}            whenever the run starts or goes on
A step's loss is the one that training minimises, with label smoothing and z-loss; evaluations have
neither.

Reads and writes runs/NAME/metrics.jsonl. Next: wandb_log.py.
"""

import contextlib
import datetime
import json
import math
import os
import platform
import shutil
import sys
from pathlib import Path

if "console" not in sys.modules:  # it is found here, and puts all other folders on the path
    sys.path[1:1] = [os.path.realpath(__file__ + "/.." * n + "/01_tokenizer") for n in (1, 2, 3)]

from console import escaped, read_text, write_safely


# ---- reading ----
KINDS = {"environment": dict, "baselines": dict, "update_ratio": dict, "activation_scale": dict,
         "sample": str}  # types of other values than numbers


def number(digits):
    """The int or float of a JSON number's digits; None if it is too large for a float."""
    value = float(digits)
    return None if math.isinf(value) else int(digits) if digits.lstrip("-").isdigit() else value


def read_metrics(path):
    """The objects in a .jsonl file; a last line that a kill cut short is left out, NaN is None.
    ValueError if it holds anything else.
    """
    try:
        rows = [json.loads(line, parse_constant=lambda name: None, parse_int=number,
                           parse_float=number) for line in read_text(path).split("\n")[:-1]]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} holds a line that is no JSON: {error}") from None
    if not all(isinstance(row, dict) and type(row.get("step")) is int and all(
            isinstance(row.get(name), (kind, type(None))) for name, kind in KINDS.items())
               for row in rows):
        raise ValueError(f"{path} holds a line that is no metric of a step")
    return rows


def table(rows):
    """Lines that show {name: bits per byte}, the best last, the model's own marked."""
    return "\n".join(f"{name:12} {bits:6.3f}{'  <--' if name == 'this model' else ''}"
                     for name, bits in sorted(rows.items(), key=lambda row: -row[1]))


def forget_unbegun(folder):
    """Delete the folder of a run that has ended before it recorded or saved anything."""
    if not any((folder / name).exists() for name in ("metrics.jsonl", "checkpoints", "snapshots")):
        shutil.rmtree(folder, ignore_errors=True)


# ---- writing ----
def finite(value):
    """`value` with None for each number in it that is not finite: JSON has no NaN."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Hints:
    """Calls functions that a run can do without: pictures, records, messages to services. If one
    fails, a line on stderr says so, the first time, and the run goes on.
    """

    def __init__(self):
        self.failed = set()

    def __call__(self, what, work, *given, **named):
        """work(*given, **named), or None if that fails. `what` completes "could not ..."."""
        try:
            return work(*given, **named)
        except Exception as error:
            if what not in self.failed:
                why = " ".join(escaped(str(error) or type(error).__name__).split())[:300]
                print(f"could not {what}; the run goes on ({why})", file=sys.stderr)
            self.failed.add(what)


class Log:
    """Appends a run's rows to metrics.jsonl in its folder, each on the disk at once.

    step: the one after which the run goes on. Rows of later steps, and a final result, are deleted:
    the run will write them again. A damaged file is renamed.
    """

    def __init__(self, folder, step=0):
        self.path, rows = Path(folder) / "metrics.jsonl", []
        try:
            rows = read_metrics(self.path) if self.path.exists() else []
        except ValueError as error:
            aside = self.path.with_suffix(".jsonl.damaged")
            os.replace(self.path, aside)
            print(f"{error}; it is {aside.name} now, and a new one begins", file=sys.stderr)
        rows = [row for row in rows if row["step"] <= step and "baselines" not in row]
        write_safely(self.path, "".join(json.dumps(row) + "\n" for row in rows))
        self.file = open(self.path, "a", encoding="utf-8")

    def record(self, step, **values):
        """Append the row {"step": step, **values}, and return it."""
        row = finite({"step": step} | values)
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()  # if this fails, the buffer keeps the row for the next flush
        return row

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with contextlib.suppress(OSError):  # of a disk that is full
            self.file.close()


def environment(device="cpu"):
    """A run's environment: versions, processor, device, cores ... {name: text or int}."""
    import torch  # here, since it takes a second, and drawing doesn't need it

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a processor without a name
        cpu = platform.processor() or platform.machine()
    device = torch.device(device)
    return {"date": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
            "python": platform.python_version(), "torch": torch.__version__,
            "system": platform.platform(), "cpu": cpu, "cores": os.cpu_count(),
            "threads": torch.get_num_threads(), "device":
            torch.cuda.get_device_name(device) if device.type == "cuda" else device.type}
