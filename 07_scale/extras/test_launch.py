"""Tests of Dockerfile and train.slurm, as far as they go without Docker and Slurm: what the image
would hold is put into a folder, and its command runs there; the job script runs with a stand-in for
srun that starts two nodes on this machine.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from presets import ALL as PRESETS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCKERFILE, SLURM = HERE / "Dockerfile", HERE / "train.slurm"
SMALL = ["--preset", "nano", "--vocab-size", "300", "--seq-len", "32", "--batch-size", "4",
         "--device", "cpu"]


def instructions():
    """[(instruction, the rest of it)] of the Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def image(folder):
    """What COPY puts into the image's folder: all that .dockerignore lets through."""
    first, *allowed, last = (HERE / "Dockerfile.dockerignore").read_text().split()
    assert first == "*" and last == "**/__pycache__" and all(line[0] == "!" for line in allowed)
    for pattern in allowed:
        found = list(ROOT.glob(pattern[1:]))
        assert found, f"{pattern} lets nothing through"
        for path in found:
            if path.is_dir():
                shutil.copytree(path, folder / path.name,
                                ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, folder)


@pytest.fixture
def small(tmp_path):
    """Options of a run of seconds, which needs no network."""
    (tmp_path / "text").write_text("".join(f"{i} spam {i % 7} eggs\n" for i in range(2000)))
    return [*SMALL, "--data", f"folder:{tmp_path / 'text'}"]


@pytest.fixture
def bin_folder(tmp_path):
    """A folder to put first on the PATH, with a torchrun that is this Python's."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write_program(folder / "torchrun",
                  f'exec {shlex.quote(sys.executable)} -m torch.distributed.run "$@"')
    return folder


def write_program(path, lines):
    path.write_text(f"#!/bin/bash\n{lines}\n")
    path.chmod(0o755)


def environment(bin_folder, **more):
    return {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1", **more}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def steps_of(folder):
    """The steps that a run recorded, in order."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["step"] for row in rows if "loss" in row]


# ---- Dockerfile ----
def test_dockerfile():
    """Its copies have sources, its user is not root, its volumes are the user's, its command is
    one that there is."""
    found = instructions()
    names = [name for name, _ in found]
    assert names[0] == "FROM" and names[-1] == "CMD"
    rest = {name: value for name, value in found}
    assert rest["FROM"] == "python:3.11-slim"
    copies = [value.split() for name, value in found if name == "COPY"]
    assert copies == [["requirements.txt", "."], [".", "."]]
    assert (ROOT / "requirements.txt").exists()
    last_user = max(i for i, name in enumerate(names) if name == "USER")
    assert rest["USER"] not in ("root", "0") and "RUN" not in names[last_user:]
    useradd = next(value for name, value in found if "useradd" in value)
    assert f"--uid {rest['USER']} " in useradd
    volumes = [Path(v).relative_to(rest["WORKDIR"]) for v in json.loads(rest["VOLUME"])]
    for how in ("mkdir", "chown student"):
        assert f"{how} {' '.join(map(str, volumes))}" in useradd, "a volume is the user's"
    command = json.loads(rest["CMD"])
    assert command[0] == "torchrun" and (ROOT / command[4]).exists()
    assert command[command.index("--preset") + 1] in PRESETS


@pytest.mark.slow
def test_the_command_of_the_image(tmp_path, small, fork, torchrun):
    """In a folder that holds what the image would, and nothing else."""
    inside = tmp_path / "course"
    inside.mkdir()
    image(inside)

    def work():
        os.chdir(inside)
        os.environ["PYTHONPATH"] = ""
        command = json.loads(dict(instructions())["CMD"])
        torchrun(*command[1:], *small, "--name", "here", "--steps", "2")()
    process = fork(work, fresh=True)
    process.join(200)
    assert process.exitcode == 0, process.log.read_text()
    assert steps_of(inside / "runs/here") == [1, 2]
    assert sorted(path.name for path in inside.iterdir() if path.suffix != ".py") == sorted(
        [*(path.name for path in ROOT.glob("0?_*")), "data", "requirements.txt", "runs"])


# ---- several machines ----
@pytest.mark.slow
def test_two_machines_by_hand(tmp_path, small, fork, torchrun, monkeypatch, quick_runs):
    """The same torchrun line on both; here both are this machine."""
    line = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d",
            "--rdzv-id", "1", "--rdzv-endpoint", f"127.0.0.1:{free_port()}",
            ROOT / "07_scale/scale.py", *small, "--name", "both", "--steps", "3"]
    monkeypatch.chdir(tmp_path)
    machines = [fork(torchrun(*line)) for _ in range(2)]
    for machine in machines:
        machine.join(200)
        machine.kill()
    said = [machine.log.read_text() for machine in machines]
    assert [machine.exitcode for machine in machines] == [0, 0], "\n".join(said)
    assert steps_of(tmp_path / "runs/both") == [1, 2, 3]
    assert sum("this model" in text for text in said) == 1, "one rank leads, on one of the machines"


def test_slurm_script():
    """bash reads it; what Slurm must be told stands before the first command."""
    subprocess.run(["bash", "-n", SLURM], check=True)
    head = SLURM.read_text().split("set -euo pipefail")[0]
    told = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", head, re.M))
    assert told["ntasks-per-node"] == "1", "torchrun itself starts a process for each GPU"
    assert told["signal"].startswith("USR1@") and "requeue" in told
    assert "#SBATCH" not in SLURM.read_text().split("set -euo pipefail")[1]
    without = subprocess.run(["bash", SLURM], capture_output=True, text=True)
    assert without.returncode != 0 and "the name of the run" in without.stderr


@pytest.fixture
def cluster(tmp_path, bin_folder):
    """A folder with the stages, in which job(options) starts the script as Slurm would, with two
    nodes. Their shells' ids are in the file "nodes", what scontrol was asked in "asked".
    """
    for stage in ROOT.glob("0?_*"):
        (tmp_path / stage.name).symlink_to(stage)
    write_program(bin_folder / "scontrol", f"""
case $1 in
    show) printf '%s\\n' 127.0.0.1 127.0.0.1 ;;
    *) echo "$@" >> {tmp_path}/asked ;;
esac""")
    write_program(bin_folder / "srun", f"""
while [[ $1 = -* ]]; do shift; done
"$@" & one=$!
"$@" & two=$!
echo $one $two > {tmp_path}/nodes
wait $one; code=$?
wait $two; other=$?
exit $((code > other ? code : other))""")

    def job(*options):
        how = environment(bin_folder, SLURM_JOB_ID=str(free_port() % 10000),
                          SLURM_JOB_NUM_NODES="2", SLURM_JOB_NODELIST="here[1-2]")
        return subprocess.Popen(["bash", SLURM, *options], cwd=tmp_path, env=how, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                start_new_session=True)
    return job


def family(pid):
    """The ids of a process and of all that it started."""
    below = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [pid, *(other for child in map(int, below) for other in family(child))]


def finished(job):
    try:
        return job.communicate(timeout=200)[0]
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)


@pytest.mark.slow
def test_slurm_job(tmp_path, small, cluster, bin_folder):
    """Two nodes train; told that its time is up, the job saves and asks to be queued again. Then it
    goes on with that run, and when that ends, so does the job."""
    options = ["spam", *small, "--steps", "500", "--eval-every", "1000", "--save-every", "1000"]
    metrics = tmp_path / "runs/spam/metrics.jsonl"
    first = cluster(*options)
    end = time.monotonic() + 150
    while not (metrics.exists() and '"loss"' in metrics.read_text()):
        assert first.poll() is None and time.monotonic() < end, finished(first)
        time.sleep(0.02)
    nodes = map(int, (tmp_path / "nodes").read_text().split())
    for process in [process for node in nodes for process in family(node)]:
        os.kill(process, signal.SIGUSR1)  # Slurm may tell all of them
    said = finished(first)
    assert first.returncode == 0 and "is saved" in said, said
    stopped = steps_of(tmp_path / "runs/spam")[-1]
    assert stopped < 500 and (tmp_path / f"runs/spam/checkpoints/step-{stopped:06}").exists()
    assert (tmp_path / "asked").read_text().startswith("requeue "), "and so it runs again:"

    write_program(bin_folder / "torchrun", 'echo "$@"')
    second = cluster(*options)
    said = finished(second)
    assert second.returncode == 0 and said.count("--name spam --resume --preset nano") == 2, said
    assert len((tmp_path / "asked").read_text().splitlines()) == 1, "done: it is not queued again"


def test_slurm_job_that_fails(tmp_path, cluster, bin_folder):
    write_program(bin_folder / "torchrun", 'echo "$@"; exit 2')
    job = cluster("eggs", "--preset", "nano")
    said = finished(job)
    assert job.returncode == 2, said
    assert said.count("07_scale/scale.py --name eggs --preset nano") == 2, "a new run: no --resume"
    assert not (tmp_path / "asked").exists(), "what fails is not tried again"
