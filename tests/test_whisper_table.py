"""examples/whisper/table.py over run folders whose numbers are known; shellcheck finds nothing in its script."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import run_command
from safetensors.torch import save_file
from support.reported import Transcribed, create, write_evaluation, write_sensitivity

from whisperq import artifact

WHISPER = Path(__file__).parents[1] / "examples" / "whisper"
PARAMETERS = 3 * 1000 + 500
SYSTEMS = {"float": ("float", 6), "dynamic": ("int8", 6), "before": ("int8", 24), "after": ("int8", 7)}


def python(script: str, *arguments: object) -> str:
    command = [sys.executable, WHISPER / script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(WHISPER.parents[1])})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """runs/toy as table.sh leaves it, of 2,400 words in two sets, and results/ as table.py does."""
    folder = tmp_path_factory.mktemp("table")
    run, source = folder / "runs" / "toy", folder / "whisper"
    source.mkdir()
    save_file({"a": torch.zeros(3, 1000), "b": torch.zeros(500, dtype=torch.float16)}, source / "model.safetensors")
    (source / "config.json").write_text("{}")
    (data := folder / "data.jsonl").write_text("{}\n")
    with create(run / "distilled", "distilled", "distill", {"teacher": source}) as draft:
        shutil.copy(source / "model.safetensors", draft.folder)
    for name, (runtime, wrong) in SYSTEMS.items():
        add(run, source if name == "float" else None, name, runtime, wrong, 400)
        if name != "float":
            write_sensitivity(run, run / "quantized" / name, data, kl=0.0042, snr=30.0)
    add(run, None, "paper-all-attention", "emulated", 30, 40)
    for a, b in (*(("float", n) for n in (*SYSTEMS, "paper-all-attention")), ("dynamic", "after")):
        against(run, a, b)
    for name, wrong in (("int8", 7), ("emulated", 6), ("emulated-avx2", 9)):
        sets = [Transcribed("librispeech", wrong, utterances=50)]
        made = write_evaluation(folder / "beside", run / "quantized/after", name, sets, name[:8], limit=50)
        shutil.copytree(made, run / "agreement" / name)
    rounds = {"after": [12.0, 10.0, 11.0], "faster-whisper": [4.0, 5.0, 5.5]}
    timed = {name: [{"rtfx": x, "busy_cores_of_others": 0.1} for x in values] for name, values in rounds.items()}
    machine = {"cpu": "A cpu", "cores": 2, "memory_bytes": 2**33, "flags": {"avx2": True}, "packages": {"torch": "2"}}
    results = {"date": "today", "machine": machine, "threads": 2, "recordings": 3, "audio_seconds": 20.0}
    (run / "speed.json").write_text(json.dumps(results | {"rounds": timed, "wer": {"after": 0.0456}}))
    python("table.py", folder / "runs", "--out", folder / "results")
    return folder


def add(run: Path, source: Path | None, name: str, runtime: str, wrong: int, utterances: int) -> None:
    """A system whose every set has `wrong` of its words wrong; `source`: the model itself, where it is float."""
    model = source or run / "quantized" / name
    if source is None:
        with create(model, "quantized", "quantize", {"model": run / "distilled"}) as draft:
            (draft.folder / "model.safetensors").write_bytes(bytes(10))
            draft.results |= {"recipe": "gemm", "bytes": 3500, "float_bytes": 7000}
    sets = [Transcribed(n, wrong, utterances=utterances) for n in ("librispeech", "ljspeech")]
    write_evaluation(run, model, name, sets, runtime, limit=utterances)
    python("pooled.py", run / "eval" / name, run / "pooled" / f"{name}.jsonl")


def against(run: Path, a: str, b: str) -> None:
    pair = run / "comparisons" / f"{b}-vs-{a}"
    for margin in ("0.3", "0.2"):
        files = (run / "pooled" / f"{name}.jsonl" for name in (a, b))
        flags = ("--margin", margin, "--common", "--normalizer", "basic", "--resamples", 500)
        assert run_command("compare", *files, *flags, "--out", f"{pair}-{margin}").exit_code == 0


@pytest.mark.slow
def test_pooling_keeps_every_word_of_every_set(made):
    lines = [json.loads(x) for x in (made / "runs/toy/pooled/before.jsonl").read_text().splitlines()]
    assert [lines[i]["id"] for i in (0, 799)] == ["librispeech/librispeech-0", "ljspeech/ljspeech-399"]
    assert sum(x["text"] != x["pred_text"] for x in lines) == 2 * 24
    assert all(x["duration"] == 2.0 and "audio_filepath" not in x for x in lines)


def test_numbers_are_those_of_the_manifests(made):
    found = json.loads((made / "results" / "toy.json").read_text())
    assert found["float32_bytes"] == 4 * PARAMETERS, "however many bytes the file takes for one"
    before = found["systems"]["before"]
    assert before["against float"]["0.3"]["difference"] == pytest.approx(100 * 2 * (24 - 6) / 2400)
    assert before["against float"]["0.3"]["verdict"] == before["against float"]["0.2"]["verdict"] == "worse"
    sealed = artifact.load(made / "runs/toy/comparisons/before-vs-float-0.3").results["sets"]
    assert before["against float"]["0.3"]["interval_95"] == next(iter(sealed.values()))["interval_95"]
    assert before["sets"]["ljspeech"]["wer"] == pytest.approx(24 / 1200) and before["rtfx"] == pytest.approx(20.0)
    assert found["systems"]["paper-all-attention"]["limit"] == 40


def test_the_table_says_what_the_numbers_say(made):
    text = (made / "results" / "table.md").read_text()
    rows = {cells[0]: cells for line in text.splitlines() if (cells := line.strip("| ").split(" | "))[1:]}
    before, floats, paper = (rows[n] for n in ("INT8, static, nothing eased", "float32", "paper-all-attention"))
    assert before[2].startswith("2.00 (") and before[4].startswith("+1.50 (") and before[6].startswith("worse")
    assert before[8:] == ["4.2", "0.0", "0.250"] and floats[9:11] == ["0.0", "1.000"]
    assert rows["INT8, dynamic"][4] == "+0.00 (+0.00 to +0.00)" and "non-inferior" in rows["INT8, dynamic"][6]
    after = [r for r in text.splitlines() if r.startswith("| INT8, static, as by default |")]
    assert "+0.08 (" in after[0] and after[1].split(" | ")[1:] == ["11.0 (10.0-12.0)", "2.00 (2.00-3.00)", "4.56 |"]
    assert paper[1:4] == ["240", "5.00", "25.00"], "float's rate is that of the same utterances"
    assert "as by default: at 0.3: non-inferior" in text and "A cpu (avx2), 2 threads of 2 cores" in text
    assert (made / "results" / "wer.png").read_bytes()[:4] == b"\x89PNG"


def test_equal_transcripts_are_counted(made):
    """Of 50 utterances as many differ as have a wrong word in one of two runtimes and not in the other."""
    found = json.loads((made / "results" / "toy.json").read_text())["agreement"]
    assert found["utterances"] == 50
    assert found["equal"] == {"int8 / emulated": 49, "int8 / emulated-avx2": 48, "emulated / emulated-avx2": 47}
    assert "| int8 / emulated | 49 of 50 (98%) |" in (made / "results" / "table.md").read_text()


def test_a_changed_manifest_is_no_source(made, tmp_path):
    runs = Path(shutil.copytree(made / "runs", tmp_path / "runs"))
    (runs / "toy/eval/after/hypotheses/ljspeech.jsonl").write_text("")
    with pytest.raises(AssertionError, match="has changed since it was written"):
        python("table.py", runs, "--out", tmp_path / "results")


SCRIPTS = ("whisper/table.sh", "robustness/robustness.sh", "padding/padding.sh", "whispers.sh")


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_script_is_sound(script):
    tool = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([tool, "-e", "SC1091", WHISPER.parent / script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def first(text: str, row: str) -> list[str]:
    """The cells of the first row of a name, without the brackets behind their numbers."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
    return [cell.split(" (")[0] for cell in line.strip("| ").split(" | ")][1:]


def test_the_readme_says_what_was_measured():
    """Its rows and figures on real Whispers are those of the results, to the last digit."""
    root = Path(__file__).parents[1]
    readme, results = ((root / n).read_text() for n in ("README.md", "examples/whisper/results/table.md"))
    section = readme.split("## INT8 on a real Whisper")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) == 12 and set(rows) <= set(results.splitlines())
    for name in ("whisper-base", "whisper-tiny.en"):
        model = json.loads((root / f"examples/whisper/results/{name}.json").read_text())
        words = sum(s["reference_words"] for s in model["systems"]["after"]["sets"].values())
        assert f"{words:,} words" in section
        assert model["systems"]["after"]["against float"]["0.3"]["verdict"] == "non-inferior"
        timed = results.split(f"| {name}, batch 1 |")[1]
        speed, times, _ = first(timed, "INT8, static, as by default")
        assert speed in section and f"{times} times as many" in section
    base, limits = results.split("\n## whisper-tiny.en")[0], readme.split("\n## Limits")[1]
    for pair in ("int8 / emulated", "emulated / emulated-avx2"):
        assert first(base, pair)[0] in limits
