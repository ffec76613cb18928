"""The lines that say how to make an artifact again: a report's, and sensitivity's."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import run_command
from support.reported import (
    Transcribed,
    create,
    write_evaluation,
    write_grid,
    write_quantized,
    write_teacher,
    write_training,
)

from whisperq import artifact
from whisperq.report.gathering import gather
from whisperq.report.lineage import Lineage
from whisperq.report.lineage_commands import command_line, flags
from whisperq.report.lineage_page import IN_ITS_RUN, lineage_markdown
from whisperq.steps.sensitivity import keeping_line


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """One training with its calibration and gemm-w8a8; it is the usual run folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHISPERQ_RUN", raising=False)
    write_training(Path("run"), write_teacher(tmp_path / "teacher"), 3, "none")
    return Path("run")


def lines(*folders: Path) -> dict[str, str]:
    gathered = gather(folders, False)
    return {e.name: command_line(e, gathered) for e in gathered.entries}


def test_inputs_are_named_as_the_run_folder_has_them(run, tmp_path):
    write_evaluation(run, run / "quantized/gemm-w8a8", "gemm-w8a8-int8", [Transcribed("clean", 3)], "int8")
    write_quantized(run, "a5", activation_bits=5, exclude=("enc.0.*", "dec.1.fc1"), per_channel=False)
    teacher, found = tmp_path / "teacher", lines(run)
    assert found["run/student"] == f"whisperq init-student --teacher {teacher} --gate none"
    assert found["run/distilled"] == f"whisperq distill --model student --teacher {teacher}"
    assert found["run/calibration"] == "whisperq calibrate --model distilled"
    assert found["run/quantized/gemm-w8a8"] == "whisperq quantize --model distilled"
    flags = "--activation-bits 5 --per-tensor --exclude 'enc.0.*' --exclude dec.1.fc1"
    assert found["run/quantized/a5"] == f"whisperq quantize --model distilled {flags}"
    assert found["run/eval/gemm-w8a8-int8"] == "whisperq eval --model gemm-w8a8 --runtime int8"


def test_test_sets_have_their_names_and_lists_their_paths(run, tmp_path):
    (data := tmp_path / "a list.jsonl").write_text("")
    inputs = {"model": run / "distilled", "test clean": data}
    with create(run / "eval/e", "evaluation", "eval", inputs):
        pass
    inputs = {"model": run / "distilled", "data": data}
    for folder, kind, command in (("outliers/e/all", "outliers", "outliers"), ("c", "calibration", "calibrate")):
        with create(run / folder, kind, command, inputs):
            pass
    found = lines(run)
    assert shlex.split(found["run/eval/e"])[2:] == ["--model", "distilled", "--test", f"clean={data}"]
    assert shlex.split(found["run/outliers/e/all"])[2:] == ["--model", "distilled", "--test", str(data)]
    expected = ["--model", str(run.resolve() / "distilled"), "--data", str(data), "--out", str(run.resolve() / "c")]
    assert shlex.split(found["run/c"])[2:] == expected, "it is in no usual place, so that no name counts"


def test_a_comparison_names_its_two_and_no_flag_that_was_not_given(run, tmp_path):
    for name, wrong in (("one", 1), ("two", 2)):
        write_evaluation(run, run / "distilled", name, [Transcribed("clean", wrong)], "float")
    assert run_command("compare", "one", "two", "--common").exit_code == 0
    assert run_command("compare", "one", "two", "--scorer", "sclite", "--out", "run/comparisons/other").exit_code == 0
    file = (run / "eval/one/hypotheses/clean.jsonl").resolve()
    assert run_command("compare", file, "two").exit_code == 0
    found = lines(run)
    assert found["run/comparisons/one-vs-two"] == "whisperq compare one two --common"
    assert found["run/comparisons/other"] == "whisperq compare one two --scorer sclite"
    assert found["run/comparisons/clean-vs-two"] == f"whisperq compare {file} two"


def test_a_score_names_its_files_and_a_normaliser_that_the_configuration_gave(run, tmp_path):
    line = json.dumps({"text": "a b", "pred_text": "a c"})
    (file := tmp_path / "hyp.jsonl").write_text(f"{line}\n")
    (tmp_path / "whisperq.yaml").write_text("normalizer: basic\n")
    assert run_command("score", "hyp.jsonl", "noisy=hyp.jsonl").exit_code == 0
    found = lines(run)["run/scores/hyp+hyp"] if (run / "scores/hyp+hyp").exists() else lines(run)["run/scores/hyp"]
    assert found == f"whisperq score hyp={file} noisy={file} --normalizer basic"


def test_what_no_flag_says_is_a_comment(run, tmp_path):
    settings = {"normalizers": {"a": "basic", "b": "english"}}
    config = {"layer": "dec.-1"}
    hub = {"path": "owner/name:test", "sha256": "0" * 64}
    model = artifact.reference(run / "distilled")
    for name, kind, command, inputs, said in (
        ("eval/e", "evaluation", "eval", {"model": model, "test a": hub}, settings),
        ("attention/e/x", "attention", "plot-attention", {"model": model, "data": hub}, config),
    ):
        with artifact.create(run / name, kind, command, said, inputs):
            pass
    found = lines(run)
    words = "whisperq eval --model distilled  # test a: owner/name:test, which no flag names; normalizers: a basic, b"
    assert found["run/eval/e"].startswith(words) and shlex.split(found["run/eval/e"], comments=True)[-1] == "distilled"
    assert "data: owner/name:test, which no flag names" in found["run/attention/e/x"]


def test_of_copies_the_one_at_the_recorded_path_counts(tmp_path):
    runs = write_grid(tmp_path)
    shutil.copytree(runs / "none-0", runs / "a-copy")
    gathered = gather([runs], True)
    names = {e.name for e in gathered.entries if e.path.name == "distilled"}
    assert names == {"runs/none-0/distilled", "runs/headwise-0/distilled"}


def test_a_report_says_where_its_names_count(run, tmp_path):
    gathered = gather([run], True)
    text = lineage_markdown(gathered, Lineage(gathered), tmp_path / "report")
    assert IN_ITS_RUN in text and "| `whisperq calibrate --model distilled` |" in text


LINE = "whisperq quantize"
PLACES = "--sensitivity run/sensitivity/{0} --model run/distilled"


def test_the_usual_model_needs_no_more_than_its_sensitivity(run):
    sealed = artifact.load(run / "quantized/gemm-w8a8")
    line = keeping_line(sealed, run / "distilled", run / "sensitivity/gemm-w8a8", 3)
    assert line == f"{LINE} --keep-worst 3 {PLACES.format('gemm-w8a8')} --out run/quantized/gemm-w8a8-keep3"


def test_all_else_that_made_the_model_is_in_the_line(run, tmp_path):
    settings = {"weight_bits": 4, "group": 8, "observer": "mse", "smooth": 0.5, "exclude": ("enc.0.*",)}
    path = write_quantized(run, "w4", {"kept_worst": ["dec.1.fc1,dec.1.fc2"]}, keep_worst=1, **settings)
    shutil.move(run, "moved")
    path = Path("moved") / path.relative_to("run")
    words = shlex.split(keeping_line(artifact.load(path), Path("moved/distilled"), Path("s"), 2))
    said = ["--weight-bits", "4", "--group", "8", "--observer", "mse", "--exclude", "enc.0.*"]
    said += ["--exclude", "dec.1.fc1,dec.1.fc2", "--keep-worst", "2", "--smooth", "0.5"]
    places = ["--sensitivity", "s", "--model", "moved/distilled", "--calibration", "moved/calibration"]
    assert words == [*LINE.split(), *said, *places, "--out", "moved/quantized/w4-keep2"]


def test_a_calibration_from_elsewhere_is_named(run):
    shutil.copytree(run / "calibration", "other")
    manifest = Path("other/manifest.json")
    manifest.write_text(manifest.read_text() + "\n")
    inputs = {"model": run / "distilled", "calibration": Path("other")}
    with create(run / "quantized/x", "quantized", "quantize", inputs):
        pass
    words = shlex.split(keeping_line(artifact.load(run / "quantized/x"), run / "distilled", Path("s"), 1))
    assert words[words.index("--calibration") + 1] == str(Path("other").resolve())


def test_what_no_flag_turns_off_is_off_where_it_is_not_named():
    assert flags("outliers", {"massive": False}) == []
    assert flags("quantize", {"per_channel": False}) == ["--per-tensor"]
