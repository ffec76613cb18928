"""What ships beside the package: the sample, the teacher, the configurations and the scripts."""

import json
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from whisperq.config import read_config, resolve
from whisperq.declared import SETTINGS
from whisperq.options import CalibrateConfig
from whisperq.training_options import DistillConfig

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "examples" / "digits"
DOCUMENTS = (ROOT / "README.md", *(ROOT / "examples").glob("*/*.md"))  # the guide's pages among them
WORDS = set("zero one two three four five six seven eight nine".split())


def lines(name: str) -> list[dict]:
    return [json.loads(line) for line in (DIGITS / "sample" / f"{name}.jsonl").read_text().splitlines()]


def documents() -> str:
    return "\n".join(path.read_text() for path in DOCUMENTS)


def test_lists_share_no_voice() -> None:
    voices = [{line["speaker"] for line in lines(name)} for name in ("train", "validation", "test")]
    assert all(len(v) >= 5 for v in voices)
    assert not voices[0] & voices[1] and not voices[0] & voices[2] and not voices[1] & voices[2]


def test_sample_is_small_and_within_the_window() -> None:
    files = list((DIGITS / "sample").rglob("*.*"))
    assert sum(f.stat().st_size for f in files) < 5e6
    for line in lines("test"):
        audio = soundfile.info(DIGITS / "sample" / line["audio_filepath"])
        assert audio.samplerate == 16000 and audio.frames / 16000 == pytest.approx(line["duration"], abs=0.01)
        assert line["duration"] <= 4.0 and set(line["text"].split()) <= WORDS


def test_teacher_is_a_few_megabytes_and_says_how_it_was_measured() -> None:
    assert (DIGITS / "teacher" / "model.safetensors").stat().st_size < 8e6
    record = json.loads((DIGITS / "teacher" / "training.json").read_text())["results"]
    assert record["test_takes"]["wer"] < 1.74 and record["test_speaker"]["wer"] < 8.37
    assert min(record[name]["reference_words"] for name in ("test_takes", "test_speaker")) >= 2000


def test_the_papers_configuration_fits_the_schema() -> None:
    paper = read_config(ROOT / "examples" / "paper" / "whisperq.yaml")
    assert paper.teacher == "openai/whisper-large-v2" and paper.normalizer == "english"
    corpora = {source.dataset.split("/")[1] for source in paper.train}
    assert corpora == {"peoples_speech", "common_voice_16_1", "librispeech_asr", "voxpopuli"}
    groups = [source.group for source in paper.test]
    assert groups.count("id") == 5 and groups.count("ood") == 3  # the paper's Table 2
    assert all(source.licence and source.text_column and source.split for source in paper.test)
    assert resolve(CalibrateConfig, "calibrate", paper, {}) == CalibrateConfig(batches=16, momentum=0.9)
    distill = resolve(DistillConfig, "distill", paper, {})
    assert (distill.max_steps, distill.batch_size, distill.learning_rate) == (200_000, 64, 1e-4)
    assert (distill.beta1, distill.beta2, distill.weight_decay, distill.warmup_steps) == (0.99, 0.999, 1e-4, 1000)
    assert (distill.ce_weight, distill.kl_weight, distill.temperature) == (1.0, 0.8, 1.0)


@pytest.mark.parametrize("name", ["quickstart.yaml", "whisperq.yaml"])
def test_digit_configurations_are_read(name: str) -> None:
    config = read_config(DIGITS / name)
    assert config.normalizer == "basic" and Path(config.teacher) == DIGITS / "teacher"
    for command, kind in SETTINGS.items():
        resolve(kind, command, config, {})


@pytest.mark.parametrize(
    "script", sorted(ROOT.glob("examples/**/*.sh")) + [ROOT / "tests" / "run.sh"], ids=lambda p: p.name
)
def test_scripts_parse(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0
    text = script.read_text()
    assert "set -e" in text or text.startswith("# Sourced")


@pytest.mark.parametrize("name", ["real", "quickstart"])
def test_the_documents_numbers_are_those_of_the_results(name: str) -> None:
    readme = documents()
    folder = DIGITS / "results" / name
    evaluations = [json.loads(file.read_text()) for file in folder.glob("*-*.json")]
    assert len(evaluations) == 7
    for result in (r for e in evaluations for r in e["sets"].values()):
        low, high = (100 * end for end in result["wer_interval_95"])
        assert f"| {100 * result['wer']:.2f} ({low:.1f}-{high:.1f}) |" in readme
        assert f"| {result['reference_words']:,} |" in readme
    statistics = json.loads((folder / "outliers.json").read_text())
    for role in ("model", "compare"):
        kurtosis, norm = statistics[role]["kurtosis"], statistics[role]["max_inf_norm"]
        assert f"| {kurtosis:.2f} | {norm:.2f} |" in readme


@pytest.mark.parametrize("name", ["quickstart", "real"])
def test_the_documents_table_of_runtimes_is_that_of_the_results(name: str) -> None:
    readme = documents()
    entries = json.loads((DIGITS / "results" / f"runtimes-{name}.json").read_text())
    assert {e["runtime"].split()[1].rstrip(",") for e in entries} >= {"emulated", "int8", "onnx", "openvino"}
    for e in entries:
        cells = (e["runtime"], e["set"], f"{e['words']:,}", f"{100 * e['wer']:.2f}", f"{100 * e['equal']:.1f}")
        products = f"{e['integer']} of {e['products']}"
        assert f"| {' | '.join(cells)} | {e['rtfx']:.0f} | {products} |" in readme


def test_the_documents_packed_student_is_that_of_the_results() -> None:
    readme = documents()
    for result in json.loads((DIGITS / "results" / "packed.json").read_text())["sets"].values():
        low, high = (100 * end for end in result["wer_interval_95"])
        assert f"{100 * result['wer']:.2f} % ({low:.1f}-{high:.1f})" in readme


def test_the_documents_benchmark_is_that_of_the_results() -> None:
    readme, folder = documents(), ROOT / "examples" / "benchmarks" / "results"
    sections = [part for name in ("batch1", "batch8") for part in (folder / f"{name}.md").read_text().split("\n## ")]
    shown = [s for s in sections if "batch 1," in s[:30] or s.startswith("large-16-2, memory")][:3]
    shown.append(next(s for s in sections if s.startswith("large-16-2, batch 8")).split("Times faster")[0])
    lines = [line for section in shown for line in section.splitlines() if line.startswith("|")]
    assert len(lines) > 50 and all(line in readme for line in lines)


@pytest.mark.parametrize("name", ["ranges", "mixed"])
def test_the_documents_tables_of_fewer_bits_are_those_of_the_results(name: str) -> None:
    readme = documents()
    script = runpy.run_path(str(DIGITS / f"{name}.py"))
    entries = json.loads((DIGITS / "results" / f"{name}.json").read_text())
    assert {e["model"] for e in entries} == {"Whisper student", "wav2vec 2.0"} and len(entries) >= 6
    assert all(e["sets"][test]["reference_words"] >= 2000 for e in entries for test in ("takes", "speaker"))
    for line in (script["columns"](entries), *map(script["row"], entries)):
        assert f"| {' | '.join(line)} |" in readme


def test_the_documents_grid_is_that_of_the_results() -> None:
    script = runpy.run_path(str(DIGITS / "grid.py"))
    tables, results = script["read"](DIGITS / "results" / "grid"), (DIGITS / "RESULTS.md").read_text()
    made = [table(tables) for table in script["TABLES"]]
    assert all(table in results for table in made)
    students = script["some"](tables["table1"], training="students")
    for layers in "234":
        for gate in ("none", "headwise"):
            seeds = {r["seed"] for r in script["some"](students, encoder_layers=layers, gate=gate)}
            assert seeds == set("01234")


def test_the_documents_wav2vec_2_benchmark_is_that_of_the_results() -> None:
    readme, report = documents(), (ROOT / "examples/benchmarks/results/wav2vec2.md").read_text()
    rows = [line for line in report.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(rows) == 16 and all(row in readme for row in rows)


def test_the_wav2vec_2_is_small_and_says_how_it_was_measured() -> None:
    readme, record = documents(), (DIGITS / "wav2vec2" / "training.json").read_text()
    assert (DIGITS / "wav2vec2" / "model.safetensors").stat().st_size < 8e6
    found = json.loads(record)["results"]
    assert f"WER {found['test_takes']['wer']:.2f} % on held-out takes" in readme
    assert f"{found['test_speaker']['wer']:.2f} % on the unseen speaker" in readme


def test_versions_are_pinned() -> None:
    pinned = (ROOT / "examples" / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in pinned and "transformers==5.23.0" in pinned
    assert all("==" in line for line in pinned if not line.startswith("#"))


def test_the_documents_training_benchmark_is_that_of_the_results() -> None:
    readme, report = documents(), (ROOT / "examples/benchmarks/results/distill.md").read_text()
    for size in ("small", "digits"):
        section = next(part for part in report.split("\n## ") if part.startswith(f"{size}\n"))
        rows = [line for line in section.splitlines() if line.startswith(("| whisperq", "| trainer"))]
        assert len(rows) == 3 and all(f"| {size} {row[2:]}" in readme for row in rows)


def test_the_guide_s_measurements_are_those_of_the_results() -> None:
    guide = ROOT / "examples" / "guide"
    results = (ROOT / "examples/robustness/results/robustness.md").read_text().splitlines()
    rows = [line for line in (guide / "robustness.md").read_text().splitlines() if line.startswith("| whisper-")]
    assert len(rows) > 20 and set(rows) <= set(results)
    shown = " ".join((guide / "runtimes.md").read_text().split())
    padding = (ROOT / "examples/padding/results/padding.md").read_text().splitlines()
    lines = [line.strip("| ").split(" | ") for line in padding if "| int8, both lists |" in line]
    assert [cells[0] for cells in lines] == ["whisper-base", "whisper-tiny.en"]
    for _, _, words, _, _, difference, interval, *_ in lines:
        assert f"{words} words" in shown and f"{difference} ({interval})" in shown
    assert f"{lines[0][4]} % instead of {lines[0][3]} %" in shown


def test_the_guides_atlas_is_that_of_the_results() -> None:
    guide, made = ((ROOT / "examples" / name).read_text() for name in ("guide/atlas.md", "whisper/results/atlas.md"))
    base = made.split("## whisper-tiny.en")[0].replace("\\*", "*")
    cells = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in guide.splitlines() if line[:1] == "|"
    ]
    rows, site = [row for row in cells if len(row) == 4 and row[1] in ("speech", "padding", "prompt", "tokens")], ""
    assert len(rows) == 12
    for name, role, *figures in rows:
        site = name or site
        found = next(line for line in base.splitlines() if line.startswith(f"| {site} | {role} |"))
        for said, exact in zip(figures, found.strip("| ").split(" | ")[2:4], strict=True):
            digits = len(said.partition(".")[2])
            assert float(said.replace(",", "")) == pytest.approx(float(exact), abs=0.51 * 10**-digits + 0.05)


def test_a_call_whose_server_was_stopped_says_that_it_can_be_run_again(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        command = [sys.executable, "-S", ROOT / "examples" / "preloaded.py", "call", tmp_path / "socket", "show", "run"]
        caller = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 17)
        said, _ = caller.communicate(timeout=60)
    assert said == b"the process that runs the commands has ended; run the script again\n" and caller.returncode == 75
