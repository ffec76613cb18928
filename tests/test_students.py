"""examples/students/run.sh in its smallest form, on a tiny teacher; run again, it does nothing twice."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import sample_lines, write_lines

from whisperq import artifact

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "examples" / "students" / "run.sh"
SETTINGS = {
    "STUDENTS": "2+1-headwise-3 2+2-none-3-range", "STEPS": "2", "KEPT_STEPS": "1", "EVAL_EVERY": "2", "WARMUP": "1",
    "SYSTEMS": "gemm dynamic", "LEFT": "sums", "MICRO": "8", "KEPT_OUT": "2", "VALIDATION": "2", "LIMIT": "4",
    "TEST_LIMIT": "2", "KL_LIMIT": "1", "OUTLIER_LIMIT": "1", "BATCHES": "1", "WHISPERQ_VENV": "", "ITSELF": "yes",
}  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory, teacher) -> dict[str, str]:
    """Where the script finds weights and speech, and where it shall write."""
    folder = tmp_path_factory.mktemp("students")
    (folder / "whisper").mkdir()
    (folder / "whisper" / "whisper-tiny.en").symlink_to(teacher)
    (folder / "speech").mkdir()
    for name, start, count in (("librispeech_train", 0, 6), ("librispeech_dev", 6, 2), ("ljspeech_train", 0, 4)):
        kind = "validation" if name.startswith("lj") else "train"
        write_lines(folder / "speech" / f"{name}.jsonl", sample_lines(kind, start + count)[start:])
    unlabelled = [{k: v for k, v in line.items() if k != "text"} for line in sample_lines("test", 3)]
    write_lines(folder / "speech" / "librispeech_unlabelled.jsonl", unlabelled)
    places = {"WHISPERQ_WHISPER": folder / "whisper", "WHISPERQ_SPEECH": folder / "speech", "RUNS": folder / "runs",
              "RESULTS": folder / "results", "PYTHONPATH": SCRIPT.parents[2]}  # fmt: skip
    return {**os.environ, **SETTINGS, **{name: str(place) for name, place in places.items()}}


def run(environment: dict[str, str]) -> str:
    done = subprocess.run(["bash", SCRIPT], env=environment, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def check_results(results: Path, student: Path) -> None:
    """The tables' numbers are those of the artifacts that they came from, and the figure is one."""
    everything = json.loads((results / "students.json").read_text())["models"]
    (found,) = [one for one in everything if one["depth"] == "2+1"]
    sets = artifact.load(student / "eval" / "float", "evaluation").results["sets"].values()
    words = [one["reference_words"] for one in sets]
    wer = 100 * sum(one["wer"] * n for one, n in zip(sets, words, strict=True)) / sum(words)
    assert found["wer"]["points"] == pytest.approx(wer) and found["seeds"] == [3] and found["gate"] == "headwise"
    sites = json.loads((student / "outliers" / "after" / "mlp" / "outliers.json").read_text())["model"]["statistics"]
    norms = [s["roles"]["padding"]["inf_norm"] for a, s in sites.items() if a.endswith("fc2:input") and a[0] == "e"]
    assert len(norms) == 2
    assert found["outliers"]["after"]["enc.*.fc2:input"]["padding"]["max_inf_norm"] == pytest.approx(max(norms))
    kl = artifact.load(student / "sensitivity" / "without-sums").results["everything"]["kl"]
    assert found["left"] == {"attention": {}, "fc2": {}, "sums": {"kl": pytest.approx(kl)}}
    quantized = artifact.load(student / "quantized" / "without-sums")
    assert quantized.config["recipe"] == "paper" and quantized.results["float_activations_by_reason"]["--exclude"] > 0
    spread = json.loads((student / "outliers" / "after" / "spread.json").read_text())
    assert found["spread"]["after"]["padding"]["deviation"] == spread["padding"]["deviation"] > 0
    said = f"{1000 * kl:.3g}" if kl < 0.1 else f"{1000 * kl:,.0f}"
    assert f"| 2+1 | headwise | 3 | - | - | - | {said} |" in (results / "table.md").read_text()
    assert [one["depth"] for one in everything if one["gate"] == "teacher"] == ["4+4"]
    assert f"| {wer:.2f} (" in (results / "table.md").read_text()
    kept = [json.loads(line) for line in (results / "trainings.jsonl").read_text().splitlines()]
    (mine,) = [one for one in kept if one["depth"] == "2+1"]
    assert len(kept) == 3 and (mine["gate"], mine["seed"], mine["growth"][-1]["step"]) == ("headwise", 3, 2)
    assert sum(mine["reference_words"]) == sum(words) and list(mine["word_errors"]) == ["float", "gemm", "dynamic"]
    assert 100 * sum(mine["word_errors"]["float"]) / sum(words) == pytest.approx(wer)
    shares = artifact.load(student / "attention" / "after").results["shares"]
    assert mine["prompt"]["after"] == [head["tokens"]["prompt"] for head in shares.values()]
    assert len(mine["prompt"]["before"]) == len(shares) and all(0 < share < 1 for share in mine["prompt"]["after"])
    logged = [json.loads(line) for line in (student / "distilled" / "metrics.jsonl").read_text().splitlines()]
    assert mine["kl"] == [[line["step"], line["kl"]] for line in logged if "kl" in line] and mine["kl"]
    for name in ("growth", "outliers-2+1", "attention-2+1"):
        assert (results / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_smallest_form_ends_in_a_report_and_is_not_done_twice(environment):
    run(environment)
    runs = Path(environment["RUNS"])
    student = runs / "students" / "2+1-headwise" / "seed-3"
    trained = artifact.load(student / "distilled")
    assert trained.results["steps"] == 2
    kept = artifact.load(runs / "students" / "2+2-none-range" / "seed-3" / "distilled")
    assert (kept.results["steps"], kept.config["ce_weight"], kept.config["range_weight"]) == (1, 0, 0.01)
    labels = [json.loads(line) for line in (runs / "labels" / "utterances.jsonl").read_text().splitlines()]
    kept = [json.loads(line) for line in (runs / "lists" / "ljspeech_kept_out.jsonl").read_text().splitlines()]
    assert len(kept) == 2 and not {x["id"] for x in labels} & {x["id"] for x in kept}
    assert list((runs / "teacher-cache").glob("*/*.taught"))
    for name in ("eval/float", "eval/gemm", "comparisons/gemm-vs-float", "sensitivity/gemm", "outliers/after/mlp"):
        assert artifact.is_artifact(student / name), name
    page = artifact.load(runs / "report")
    check_results(Path(environment["RESULTS"]), student)
    made = {path: path.stat().st_mtime_ns for path in runs.rglob("manifest.json")}
    run(environment)
    again = {path for path, when in made.items() if path.stat().st_mtime_ns != when}
    assert again <= {runs / "report" / "manifest.json"} and artifact.load(runs / "report").kind == page.kind
