"""The command line: what it loads, what it says of itself, what it prints, and running a command again."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import typer.rich_utils
from conftest import sample_lines

import whisperq
from whisperq.checks import listed
from whisperq.cli.commands import COMMANDS
from whisperq.declared import SETTINGS

PACKAGE = Path(whisperq.__file__).parent
NO_STEPS = {"show", "doctor", "init-config"}
NAMES = [command.name for command in COMMANDS]

# What arXiv 2406.11022 states, as flags. Without a configuration a command does this.
PAPER = {
    "init-student": {"layers": "16", "decoder-layers": "2"},
    "distill": {
        "ce-weight": "1.0", "kl-weight": "0.8", "temperature": "1.0", "max-steps": "200000", "batch-size": "64",
        "learning-rate": "0.0001", "beta1": "0.99", "weight-decay": "0.0001",
    },
    "calibrate": {"observer": "ema", "momentum": "0.9"},
    "quantize": {"weight-bits": "8", "activation-bits": "8"},
}  # fmt: skip


def python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


def help_text(invoke, *command: str) -> str:
    """A help page as one line of words, without its frames."""
    result = invoke(*command, "--help")
    assert result.exit_code == 0, result.output
    return " ".join(re.sub(r"[\u2500-\u257f]", " ", result.stdout).split())


def test_importing_the_command_line_loads_nothing_heavy():
    done = python("-c", "import sys, whisperq.cli.app; print(*{name.split('.')[0] for name in sys.modules})")
    heavy = {"torch", "transformers", "datasets", "matplotlib", "numpy", "safetensors"}
    assert done.returncode == 0 and not heavy & set(done.stdout.split())


def test_the_version_is_the_packages():
    done = python("-m", "whisperq", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{whisperq.__version__}\n", "")


def test_a_shell_can_complete_the_commands(invoke):
    assert "--install-completion" in help_text(invoke)
    asked = {"_WHISPERQ_COMPLETE": "complete_bash", "COMP_WORDS": "whisperq cal", "COMP_CWORD": "1"}
    code = "from whisperq.cli.app import app; app(prog_name='whisperq')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **asked}, timeout=120
    )
    assert done.stdout.split() == ["calibrate"]


def test_the_steps_folder_and_the_help_page_agree(invoke):
    result = invoke("--help")
    listed = set(re.findall(r"^\W+([a-z][a-z-]+)  ", result.stdout.split("Commands")[1], re.MULTILINE))
    steps = {p.stem.replace("_", "-") for p in (PACKAGE / "steps").glob("*.py")} - {"--init--"}
    assert listed - NO_STEPS == steps == set(SETTINGS)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_one_public_function_of_its_files_name(name):
    from whisperq.cli.resolve import step

    function = step(name.replace("-", "_"))
    assert {"out", "config", "context"} <= set(inspect.signature(function).parameters)
    assert inspect.getdoc(function)


@pytest.mark.parametrize("command", COMMANDS, ids=NAMES)
def test_what_is_declared_of_a_step_is_there(command):
    from whisperq.cli.resolve import step

    settings = {f.name for f in fields(command.settings)}
    assert set(command.named) <= set(inspect.signature(step(command.step)).parameters)
    assert {*(command.compared or ()), *command.left_to_inputs} <= settings
    assert not command.checkpoints or "max_steps" in settings


@pytest.mark.parametrize("name", [*NAMES, "show"])
def test_every_command_explains_itself_with_an_example(name, invoke):
    text = help_text(invoke, name)
    assert re.search(rf"Example: whisperq {name}\b", text)
    assert "--json" in text


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_a_flag_with_a_help_line(name, invoke, monkeypatch):
    monkeypatch.setattr(typer.rich_utils, "MAX_WIDTH", 160)  # however wide the terminal: no name is cut short
    text = help_text(invoke, name)
    for field in fields(SETTINGS[name]):
        assert f"--{field.name.replace('_', '-')} " in text.replace("/--", " --")
        assert field.metadata["help"].split()[0] in text


@pytest.mark.parametrize("name, flag, value", [(n, f, v) for n, flags in PAPER.items() for f, v in flags.items()])
def test_the_documented_defaults_are_the_papers(name, flag, value, invoke):
    options = help_text(invoke, name).split(" Options ")[1]
    entry = options.split(f" --{flag} ")[1].split(" --")[0]
    assert f"(Default: {value}.)" in entry
    assert ", ".join(map(str, listed(getattr(SETTINGS[name](), flag.replace("-", "_"))))) == value


def test_examples_are_command_lines_that_parse(invoke):
    for command in COMMANDS:
        words = command.example.split()
        assert words[:2] == ["whisperq", command.name]
        flags = {w for w in words if w.startswith("--")}
        assert flags <= set(re.findall(r"--[a-z-]+", help_text(invoke, command.name)))


def test_json_is_one_object_on_standard_output(copied_run, invoke):
    result = invoke("calibrate", "--out", "new", "--batches", "1", "--json")
    assert result.exit_code == 0 and result.stdout.count("\n") == 1
    content = json.loads(result.stdout)
    manifest = json.loads(Path("new/manifest.json").read_text())
    assert content == {"path": "new", **manifest} and content["results"]["batches"] == 1
    assert "configuration: whisperq.yaml" in result.stderr


def test_a_summary_is_tables_and_the_artifacts_place(copied_run, invoke):
    result = invoke("calibrate")
    assert result.exit_code == 0
    assert "2 of 2 asked for" in result.stdout and result.stdout.endswith("calibration: run/calibration\n")


@pytest.mark.parametrize("command", ["init-student", "distill", "calibrate", "quantize", "quantize --recipe paper"])
def test_a_requeued_command_finds_its_work_done(command, copied_run, invoke):
    before = {p: p.stat().st_mtime_ns for p in copied_run.rglob("*")}
    result = invoke(*command.split())
    assert result.exit_code == 0 and "is finished already, by this very command; nothing was done" in result.stderr
    assert {p: p.stat().st_mtime_ns for p in copied_run.rglob("*")} == before


@pytest.mark.slow
def test_the_readmes_chain_runs_as_it_is_written(copied_run, invoke):
    """Each command finds what it reads where the ones above it left that; only sizes are those of the tiny model."""
    shutil.rmtree(copied_run / "quantized" / "paper-w8a8")  # which the chain does not make
    text = (Path(__file__).parents[1] / "README.md").read_text().split("## The chain")[1].split("```")[1]
    talk = sample_lines("test", 1)[0]["audio_filepath"]
    for wide, tiny in (("--layers 16", "--layers 2"), ("--head 11", "--head 1"), ("talk.wav", talk)):
        assert text.count(wide) == 1
        text = text.replace(wide, tiny)
    lines = text.replace("--batches 16", "--batches 2").strip().splitlines()
    done = {line: invoke(*line.split("#")[0].split()[1:]) for line in lines}
    assert len(done) > 10 and {line: r.output for line, r in done.items() if r.exit_code} == {}


def test_force_makes_another_result(copied_run, invoke):
    result = invoke("calibrate", "--batches", "1", "--force", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["config"]["batches"] == 1


def test_a_copied_run_folder_uses_its_own_models(copied_run, invoke, finished_run):
    result = invoke("quantize")
    assert f"model: {Path('run') / 'distilled'}" in result.stderr and str(finished_run) not in result.stderr


def test_the_environment_names_the_run_folder(finished_run, tmp_path, monkeypatch, invoke):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHISPERQ_RUN", str(finished_run))
    result = invoke("calibrate")
    assert result.exit_code == 0 and f"calibration: {finished_run / 'calibration'}" in result.stdout
    assert list(tmp_path.iterdir()) == []
    assert invoke("calibrate", "--run", "empty").exit_code == 3  # a flag wins over the environment


def test_a_flag_wins_over_the_configuration(copied_run, invoke):
    for flags, batches in (((), 2), (("--batches", "1"), 1)):
        result = invoke("calibrate", *flags, "--out", f"new{batches}", "--json")
        assert json.loads(result.stdout)["config"]["batches"] == batches


def test_show_prints_an_artifact_that_is_whole(copied_run, invoke):
    result = invoke("show", copied_run / "student", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["kind"] == "student"


UNEXPECTED = {
    "bug": (RuntimeError("two\nlines"), 1, "unexpected RuntimeError: two lines (WHISPERQ_DEBUG=1 shows where)"),
    "disk": (OSError(28, "No space left on device", "run/student"), 1, "No space left on device: run/student"),
    "GPU's memory": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"),
        1, "out of memory, where 2.00 GiB were asked for",
    ),
    "GPU's memory, elsewhere": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when"), 1, "out of memory"),
    "Python's memory": (MemoryError(), 1, "out of memory"),
    "rights": (PermissionError(13, "Permission denied", "run"), 3, "Permission denied: run"),
    "interrupt": (KeyboardInterrupt(), 130, "interrupted; no half-written artifact is left"),
}  # fmt: skip


@pytest.mark.parametrize("error, code, sentence", UNEXPECTED.values(), ids=UNEXPECTED)
def test_what_nobody_expects_is_one_sentence_too(error, code, sentence, workspace, invoke, monkeypatch):
    def fail(**inputs):
        raise error

    monkeypatch.setattr("whisperq.cli.commands.step", lambda name: fail)
    result = invoke("init-student")
    assert result.exit_code == code and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1] == f"whisperq: {sentence}"
    monkeypatch.setenv("WHISPERQ_DEBUG", "1")
    assert ("Traceback" in invoke("init-student").stderr) == (code != 130)


TOO_MUCH = {
    "PyTorch's": lambda **inputs: torch.empty(1 << 46),
    "NumPy's": lambda **inputs: np.empty(1 << 60, np.uint8),
}
LESS = {
    "quantize": "were asked for",
    "calibrate": "were asked for; a smaller --batch-size needs less",
    "distill": "the same command with a smaller --micro-batch, or with --recompute, goes on from its checkpoint",
}


@pytest.mark.parametrize("command", LESS)
@pytest.mark.parametrize("allocate", TOO_MUCH.values(), ids=TOO_MUCH)
def test_out_of_memory_is_said_with_what_needs_less(allocate, command, copied_run, invoke, monkeypatch):
    monkeypatch.setattr("whisperq.cli.commands.step", lambda name: allocate)
    result = invoke(command, "--out", "new")
    assert result.exit_code == 1 and result.stderr.splitlines()[-1].startswith("whisperq: out of memory, where ")
    assert result.stderr.endswith(f"{LESS[command]}\n")
