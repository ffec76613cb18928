"""whisperq show: an artifact's files, its key results, and the tree of what it was made from."""

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from support.damage import Case, change_json, check_refused, refusal, reseal

from whisperq import artifact
from whisperq.report.lineage_tree import lineage_tree

MODEL = "run/quantized/gemm-w8a8"


def tree(path: str | Path) -> str:
    console = Console(width=400)
    with console.capture() as captured:
        console.print(lineage_tree(artifact.load(Path(path), verify=False)))
    return captured.get()


def branches(path: str | Path) -> list[tuple[int, str]]:
    """Depth and text of each line."""
    lines = [line.rstrip() for line in tree(path).splitlines()]
    return [((len(line) - len(line.lstrip("│├└─ "))) // 4, line.lstrip("│├└─ ")) for line in lines]


def test_the_chain_is_followed_down_to_its_teacher(copied_run, teacher):
    found = branches(MODEL)
    assert found[0] == (0, f"quantized {MODEL} by whisperq quantize")
    expected = [
        (1, "model: distilled"),
        (2, "student: student"),
        (3, f"teacher: {teacher}"),
        (1, "calibration: calibra"),
    ]
    rest = iter(found)
    for depth, beginning in expected:
        assert any(d == depth and text.startswith(beginning) for d, text in rest), (beginning, found)
    assert "broken" not in tree(MODEL)


def test_a_run_folder_that_moved_is_followed_where_it_lies(finished_run, tmp_path):
    moved = Path(shutil.copytree(finished_run, tmp_path / "moved"))
    assert str(moved / "student") in tree(moved / "quantized/gemm-w8a8")
    assert str(finished_run / "student") not in tree(moved / "quantized/gemm-w8a8")


def test_outside_of_its_run_folder_the_recorded_path_counts_not_a_copy(finished_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for configured in (True, False):  # the run folders have a configuration of their own, or that above alone
        for name in ("a_copy", "run", "run_backup"):
            shutil.rmtree(name, ignore_errors=True)
            shutil.copytree(finished_run, name)
            if not configured:
                Path(name, "whisperq.yaml").unlink()
        Path("whisperq.yaml").write_text("teacher: x\n")
        shutil.rmtree("full", ignore_errors=True)
        shutil.copytree("run/quantized/gemm-w8a8", "full")
        manifest = Path("full/manifest.json")
        manifest.write_text(manifest.read_text().replace(str(finished_run), str(tmp_path / "run")))
        found = [text for _, text in branches("full")]
        assert any(text.startswith(f"model: distilled {tmp_path / 'run/distilled'}") for text in found), found
        shutil.rmtree("run")  # and where it is gone a copy serves
        assert "model: distilled" in tree("full") and "broken" not in tree("full")


def damaged_student(run: Path) -> None:
    manifest = json.loads((run / "student/manifest.json").read_text())
    (run / "student/manifest.json").write_text(json.dumps(manifest))  # the same, written otherwise


def lost_teacher(run: Path) -> None:
    manifest = run / "student/manifest.json"
    content = json.loads(manifest.read_text())
    content["inputs"]["teacher"]["path"] = "/nowhere/teacher"
    manifest.write_text(json.dumps(content, indent=2) + "\n")


def changed_teacher(run: Path) -> None:
    manifest = run / "student/manifest.json"
    content = json.loads(manifest.read_text())
    content["inputs"]["teacher"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(content, indent=2) + "\n")


@pytest.mark.parametrize(
    "damage, shown, said",
    [
        (lost_teacher, "run/student", "teacher: /nowhere/teacher broken: it is gone"),
        (changed_teacher, "run/student", "broken: it has changed since"),
    ],
)
def test_a_broken_link_is_shown_as_such(damage, shown, said, copied_run, invoke):
    damage(copied_run)
    assert said in tree(shown)
    result = invoke("show", shown)
    assert result.exit_code == 0 and said.split("broken: ")[1] in result.stdout


def test_an_input_that_was_made_anew_is_a_broken_link(finished_run, copied_run):
    damaged_student(copied_run)
    manifest = copied_run / "distilled/manifest.json"
    manifest.write_text(manifest.read_text().replace(str(finished_run), str(copied_run)))
    (line,) = (text for _, text in branches("run/distilled") if text.startswith("student: "))
    assert line == f"student: {copied_run / 'student'} broken: it has changed since"


def test_key_results_files_and_lineage_are_printed(copied_run, invoke):
    result = invoke("show", MODEL)
    files = artifact.load(Path(MODEL)).manifest["files"]
    assert result.exit_code == 0 and f"{len(files)} files are as they were written" in result.stdout
    assert "model: distilled" in result.stdout and result.stdout.endswith(f"quantized: {MODEL}\n")


def test_as_json_it_is_the_manifest(copied_run, invoke):
    result = invoke("show", MODEL, "--json")
    assert json.loads(result.stdout) == {"path": MODEL, **json.loads(Path(MODEL, "manifest.json").read_text())}


def test_a_calibration_of_an_earlier_version_is_shown_and_not_quantized(copied_run, workspace, invoke):
    """It knew one observer, each of whose ranges stood under its site alone."""
    folder = copied_run / "calibration"
    sites = json.loads((folder / "ranges.json").read_text())["sites"]
    old = {a: {"min": min(s["minima"]), "max": max(s["maxima"])} for a, s in sites.items()}
    (folder / "ranges.json").write_text(json.dumps({"observer": "minmax", "sites": old}))
    manifest = json.loads((folder / "manifest.json").read_text())
    results = manifest["results"] | {"observer": "minmax"}
    manifest["results"] = {k: v for k, v in results.items() if k not in ("observers", "stablequant")}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    reseal(folder)
    shown = invoke("show", "run/calibration")
    assert shown.exit_code == 0, shown.output
    assert "minmax" in shown.stdout and "Widest ranges" in shown.stdout
    words = ("run/calibration is of an earlier version", "run whisperq calibrate --force first")
    check_refused(Case("quantize --out new", 3, words), invoke, workspace)


@pytest.mark.parametrize("place", ("calibration", "distilled", "student", "quantized/gemm-w8a8"))
def test_results_that_lack_a_key_are_one_sentence(place, copied_run, invoke):
    change_json(copied_run / place / "manifest.json", results={})
    result = invoke("show", f"run/{place}")
    assert result.exit_code == 3 and f"run/{place}/manifest.json is damaged: results." in refusal(result)


def test_also_deep_inside(copied_run, invoke):
    manifest = copied_run / "student/manifest.json"
    results = json.loads(manifest.read_text())["results"] | {"parameters": {}}
    change_json(manifest, results=results)
    assert "results.parameters.total is missing" in refusal(invoke("show", "run/student"))


def test_a_file_that_changed_is_refused(copied_run, invoke):
    (copied_run / "quantized/gemm-w8a8/qparams.json").write_text("{}")
    result = invoke("show", MODEL)
    assert result.exit_code == 3 and "qparams.json has changed" in result.stderr and not result.stdout


def test_a_name_that_is_nearly_right_is_suggested(copied_run, invoke):
    result = invoke("calibrate", "--model", "distiled", "--out", "new")
    assert result.exit_code == 3 and "did you mean distilled?" in result.stderr
    result = invoke("quantize", "--calibration", "run/calibratoin", "--out", "new")
    assert result.exit_code == 3 and "did you mean run/calibration?" in result.stderr
    (copied_run / "eval/gemm-w8a8-int8").mkdir(parents=True)
    result = invoke("compare", "gemm-w8a8-int", "gemm-w8a8-int8")
    assert result.exit_code == 3 and "did you mean gemm-w8a8-int8?" in result.stderr


NEARLY = {
    "option": (("calibrate", "--bathces", "3"), "--batches"),
    "command": (("calibrat",), "'calibrate'"),
    "site": (("outliers", "--layer", "dec.1.outproj", "--out", "new"), "dec.1.out_proj"),
}


@pytest.mark.parametrize("words, near", NEARLY.values(), ids=NEARLY)
def test_typos_on_the_command_line_are_answered_with_what_is_near(words, near, copied_run, invoke):
    result = invoke(*words)
    assert result.exit_code == 2 and near in result.stderr


def test_a_path_that_is_no_artifact_names_what_is_in_it_or_near(copied_run, invoke):
    for path, said in (("run", "run/student"), ("run/studnet", "did you mean run/student?")):
        result = invoke("show", path)
        assert result.exit_code == 3 and said in result.stderr


def test_what_lies_deeper_in_a_run_folder_is_named_too_and_many_are_counted(copied_run, invoke):
    (site := Path("run/outliers/distilled/all")).mkdir(parents=True)
    shutil.copy("run/student/manifest.json", site)
    for i in range(7):
        shutil.copytree("run/student", f"run/eval/model-{i}")
    said = " ".join(invoke("show", "run").stderr.split())
    for name in ("run/quantized/gemm-w8a8, run/quantized/paper-w8a8", str(site), "run/eval/ (7 artifacts)"):
        assert name in said, said
    assert "checkpoints" not in said
