"""--dry-run: what a command would do, without doing it, and without torch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisperq.cli.commands import COMMANDS

RECOGNISED = "by this very command; nothing would be done"
CHAIN = ("init-student", "distill", "calibrate", "quantize", "quantize --recipe paper")
POSITIONAL = {"score": ("there.jsonl",), "compare": ("there.jsonl", "there.jsonl"), "transcribe": ("there.wav",)}
POSITIONAL |= {"report": ("run",)}
MODEL = {"sensitivity": ("--model", "gemm-w8a8"), "eval": ("--model", "gemm-w8a8"), "export": ("--model", "gemm-w8a8")}
MODEL |= {"transcribe": ("--model", "gemm-w8a8"), "robustness": ("--model", "gemm-w8a8")}


def listing(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def planned(invoke, *words: str) -> dict:
    result = invoke(*words, "--dry-run", "--json")
    assert result.stdout.count("\n") == 1, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_step_says_what_it_would_do_and_does_nothing(name, copied_run, invoke):
    Path("there.jsonl").write_text("")
    Path("there.wav").write_bytes(b"")
    before = listing(Path.cwd())
    words = (name, *POSITIONAL.get(name, ()), *MODEL.get(name, ()), "--out", "elsewhere")
    result = invoke(*words, "--dry-run")
    assert result.exit_code == 0, result.output
    assert f"whisperq {name} would run with" in result.stdout and "elsewhere" in result.stdout
    said = planned(invoke, *words)
    assert said["command"] == name and said["dry_run"] and said["reads"]
    assert {"what": "elsewhere", "state": "new", "refused": False} in said["writes"]
    assert listing(Path.cwd()) == before


def test_every_value_says_where_it_comes_from(copied_run, invoke, monkeypatch):
    monkeypatch.setenv("WHISPERQ_RUN", "run")
    settings = planned(invoke, "calibrate", "--momentum", "0.8", "--out", "new")["settings"]
    assert settings["momentum"] == {"value": 0.8, "origin": "flag"}
    assert settings["batches"] == {"value": 2, "origin": "configuration"}
    assert settings["percentile"] == {"value": 99.999, "origin": "default"}
    assert settings["normalizer"] == {"value": "basic", "origin": "configuration"}
    assert settings["run"] == {"value": "run", "origin": "environment"}
    assert planned(invoke, "eval", *MODEL["eval"])["settings"]["runtime"] == {"value": "emulated", "origin": "chosen"}


def test_what_is_read_is_what_the_command_announces(copied_run, digits, teacher, invoke):
    said = {(r["role"], r["what"]): r["state"] for r in planned(invoke, "distill", "--out", "new")["reads"]}
    assert said[("student", str(Path("run/student")))] == "finished: student"
    assert said[("teacher", str(teacher))] == "folder"
    assert said[("train", str(digits / "train.jsonl"))] == "file"
    assert said[("validation", str(digits / "validation.jsonl"))] == "file"


@pytest.mark.parametrize("command", CHAIN)
def test_finished_work_is_recognised(command, copied_run, invoke):
    result = invoke(*command.split(), "--dry-run")
    assert result.exit_code == 0 and RECOGNISED in " ".join(result.stdout.split())
    assert invoke(*command.split()).exit_code == 0  # and so the real run finds it


DIFFERENT = {
    "a setting": (("calibrate", "--batches", "1"), "differs in batches"),
    "another model": (("quantize", "--model", "student", "--calibration", "run/calibration"), "differs in input model"),
}


@pytest.mark.parametrize("words, reason", DIFFERENT.values(), ids=DIFFERENT)
def test_another_result_in_the_way_is_refused_as_in_the_real_run(words, reason, copied_run, invoke):
    result = invoke(*words, "--dry-run")
    assert result.exit_code == 2 and reason in result.stderr
    real = invoke(*words)
    assert real.exit_code in (2, 3) and not real.stdout  # another model is refused before its place is looked at
    forced = invoke(*words, "--dry-run", "--force")
    assert forced.exit_code == 0 and "replaced (--force)" in forced.stdout


def test_a_longer_training_goes_on(copied_run, invoke):
    result = invoke("distill", "--max-steps", "3", "--dry-run")
    assert result.exit_code == 0 and "goes on from step 2" in result.stdout
    shutil.rmtree(copied_run / "checkpoints")
    for flags in (("--dry-run",), ()):
        result = invoke("distill", "--max-steps", "3", *flags)
        assert result.exit_code == 2 and "checkpoints are gone" in result.stderr


def test_an_unfinished_training_is_named(copied_run, invoke):
    (copied_run / "distilled").rename("moved")
    result = planned(invoke, "distill")
    assert str(copied_run.relative_to(Path.cwd()) / "checkpoints") in result["writes"][0]["state"]


@pytest.mark.parametrize("command, out, folder", [
    ("distill", "new", "new-checkpoints"),
    ("mixed-precision", "new", "new-checkpoints"),
    ("distill", "new/distilled", "new/checkpoints"),
])  # fmt: skip
def test_a_trainings_checkpoints_are_written_too(command, out, folder, copied_run, invoke):
    written = {w["what"]: w["state"] for w in planned(invoke, command, "--out", out)["writes"]}
    assert written[folder].startswith("new")


GOES_ON = {"pseudo-label", "distill", "calibrate", "mixed-precision", "eval"}


@pytest.mark.parametrize("name", [command.name for command in COMMANDS if not command.text])
def test_work_left_over_is_named_by_those_that_go_on_with_it(name, copied_run, invoke):
    Path("there.jsonl").write_text("")
    Path("elsewhere-partial").mkdir()
    words = (*POSITIONAL.get(name, ()), *MODEL.get(name, ()), "--out", "elsewhere")
    assert ("elsewhere-partial" in planned(invoke, name, *words)["writes"][0]["state"]) == (name in GOES_ON)


def test_a_strange_folder_in_the_way_is_refused(copied_run, invoke):
    Path("strange").mkdir()
    Path("strange/file").write_text("")
    for flags in ((), ("--dry-run",)):
        assert invoke("calibrate", "--out", "strange", *flags).exit_code == 2


MISSING = {
    "no student": (("distill", "--run", "empty"), 3),
    "a missing list": (("distill", "--train", "nowhere.jsonl", "--out", "new"), 3),
    "no such model": (("quantize", "--model", "distiled"), 3),
    "a missing recording": (("transcribe", "nowhere.wav", "--model", "distilled"), 3),
    "one of a folder that is missing": (("transcribe", "run/nowhere.wav", "--model", "distilled"), 3),
    "a list in its place": (("transcribe", "list.jsonl", "--model", "distilled"), 3),
    "none to go on with": (("transcribe", "run", "no.wav", "--skip-bad", "--model", "distilled"), 3),
    "one beside a missing one": (("transcribe", "there.wav", "no.wav", "--model", "distilled"), 3),
    "which is left out": (("transcribe", "there.wav", "sub/no.wav", "run", "--skip-bad", "--model", "distilled"), 0),
    "a hub model that is not at hand": (("init-student", "--teacher", "nobody/nothing", "--out", "new"), 3),
    "a value outside its limits": (("calibrate", "--batches", "0"), 2),
    "no such option": (("calibrate", "--batchs", "1"), 2),
}


@pytest.mark.parametrize("words, code", MISSING.values(), ids=MISSING)
def test_what_stops_the_real_run_early_stops_this_one_alike(words, code, copied_run, invoke, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("list.jsonl").write_text("")
    soundfile.write("there.wav", np.zeros(8000), 16000)
    result = invoke(*words, "--dry-run")
    assert result.exit_code == code, result.output
    assert invoke(*words).exit_code == code


def test_the_first_command_would_leave_the_configuration(workspace, invoke):
    writes = planned(invoke, "init-student")["writes"]
    assert [write["what"] for write in writes] == [str(Path("run/student")), str(Path("run/whisperq.yaml"))]
    assert list(workspace.iterdir()) == [workspace / "whisperq.yaml"]


def test_an_export_on_the_way_is_a_place_too(copied_run, invoke):
    writes = planned(invoke, "eval", "--model", "gemm-w8a8", "--runtime", "onnx")["writes"]
    assert [Path(write["what"]) for write in writes] == [Path("run/onnx/gemm-w8a8"), Path("run/eval/gemm-w8a8-onnx")]


def test_no_torch_is_loaded(copied_run):
    code = (
        "import sys, whisperq.cli.app\n"
        "try: whisperq.cli.app.app(sys.argv[1:])\n"
        "except SystemExit as done: assert done.code == 0, done.code\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    words = ("distill", "--dry-run", "--json", "--out", "new")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stderr


OTHERS = (
    "eval --model distilled",
    "eval --model gemm-w8a8",
    "score distilled-float",
    "compare distilled-float gemm-w8a8-emulated",
    "outliers --limit 2",
    "plot-attention --layer dec.0",
    "export --model gemm-w8a8",
    "export --model distilled",
    "sensitivity --model gemm-w8a8 --by model --limit 2",
    "pseudo-label --model distilled",
)


@pytest.mark.slow
def test_finished_work_of_every_other_step_is_recognised(copied_run, invoke):
    for words in OTHERS:
        done = invoke(*words.split())
        assert done.exit_code == 0, done.output
        said = invoke(*words.split(), "--dry-run")
        assert said.exit_code == 0 and RECOGNISED in " ".join(said.stdout.split()), (words, said.output)
    assert invoke("eval", "--model", "distilled", "--limit", "1", "--dry-run").exit_code == 2


def test_what_a_dry_run_compares_and_what_it_leaves_to_the_run(copied_run, invoke):
    def state(*words: str) -> str:
        return planned(invoke, *words)["writes"][0]["state"]

    assert state("quantize") == "finished already, by this very command; nothing would be done"
    unread = "there, by this very command; nothing would be done unless one of these differs, which is not compared: "
    assert state("distill") == unread + "teacher, train, validation"
    assert invoke("plot-attention", "--layer", "dec.0").exit_code == 0
    assert state("plot-attention", "--layer", "dec.0", "--utterance", "another") == unread + "data"


@pytest.mark.slow
def test_a_report_is_finished_only_while_the_same_artifacts_are_there(copied_run, invoke):
    assert invoke("report", "run").exit_code == 0
    assert planned(invoke, "report", "run")["writes"][0]["state"].startswith("finished already")
    shutil.copytree(copied_run / "calibration", copied_run / "another")
    manifest = copied_run / "another" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    for flags in (("--dry-run",), ()):
        result = invoke("report", "run", *flags)
        assert result.exit_code == 2 and "differs in input run/another" in " ".join(result.stderr.split())


def test_an_utterance_that_is_not_looked_for_is_named(copied_run, invoke):
    Path("there.wav").write_bytes(b"")
    for name, state in {"nobody": "not looked for in the test data", "there.wav": "file"}.items():
        reads = planned(invoke, "plot-attention", "--utterance", name, "--out", "new")["reads"]
        assert {"role": "utterance", "what": name, "state": state, "missing": False} in reads


def test_the_last_line_says_what_is_not_tried(copied_run, invoke):
    result = invoke("calibrate", "--out", "new", "--dry-run")
    assert "Not tried" in result.stdout.strip().splitlines()[-1]
