"""gpu.sh in its smallest form on a CPU: its records and tables are whole, whatever becomes of a part."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import pytest

from whisperq.runtime.int8.whisper import Int8Runtime

BENCHMARKS = Path(__file__).parents[1] / "examples" / "benchmarks"
sys.path.append(str(BENCHMARKS))

import gpu_tables  # noqa: E402
from building import random_features  # noqa: E402
from gpu_agreement import first_difference  # noqa: E402
from gpu_record import PARTS  # noqa: E402
from int8 import run_worker  # noqa: E402

pytestmark = pytest.mark.slow

PATIENT = " ".join(f"{name}=600" for name in PARTS)  # on a machine that does other work as well
LEFT_OUT = ("soundfile", "_soundfile", "soxr", "jiwer")


def run(out: Path, **settings: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    chosen = {"PYTHON": sys.executable, "DEVICE": "cpu", "WORK": str(out.parent / "work"), "WHISPERQ_COMMIT": "abc"}
    environment |= {**chosen, "OMP_NUM_THREADS": "1", **settings}
    return subprocess.run(["bash", BENCHMARKS / "gpu.sh", out], capture_output=True, text=True, env=environment)


def read(out: Path) -> dict:
    return json.loads((out / "gpu.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """All parts; the first one is given too little time."""
    out = tmp_path_factory.mktemp("gpu") / "out"
    done = run(out, LIMITS=f"{PATIENT} tests=1")
    assert done.returncode == 1, done.stderr
    return out


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """An interpreter with all that this one has but the libraries that read audio and count word errors."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (there,) = folder.glob("lib/python*/site-packages")
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.split("-")[0].split(".")[0].startswith(LEFT_OUT) and not (there / entry.name).exists():
            (there / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def test_every_part_leaves_its_record(finished: Path) -> None:
    whole = read(finished)
    assert tuple(whole["parts"]) == PARTS
    states = {name: record["status"] for name, record in whole["parts"].items()}
    assert states == {"tests": "timed out", **dict.fromkeys(PARTS[1:], "done")}, whole["parts"]
    assert whole["parts"]["tests"]["reason"] == "after 1 s" and whole["parts"]["tests"]["seconds"] < 10
    for name, record in whole["parts"].items():
        assert record == json.loads((finished / "parts" / f"{name}.json").read_text()) and record["seconds"] > 0
    assert (whole["device"], whole["card"], whole["commit"], whole["size"]) == ("cpu", None, "abc", "smallest")
    assert {"torch", "transformers"} <= whole["machine"]["packages"].keys() and whole["start"][:2] == "20"


def test_the_integers_are_near_the_float_model_and_not_it(finished: Path) -> None:
    rows = read(finished)["parts"]["agreement"]["results"]["runtimes"]
    assert set(rows) == {"int8", "float", "emulated"}
    assert rows["float"] == {"encoder": 0, "logits": 0}
    for name in ("int8", "emulated"):
        assert all(0 < rows[name][of] < 0.1 for of in ("encoder", "logits")), rows


def test_the_tables_hold_the_records_numbers(finished: Path) -> None:
    parts = {name: record.get("results") for name, record in read(finished)["parts"].items()}
    markdown = (finished / "gpu.md").read_text()
    assert markdown.startswith("# Run on a CPU (") and "target" not in markdown.lower()
    for name, row in parts["agreement"]["runtimes"].items():
        assert f"| {name} | {row['encoder']:.2g} | {row['logits']:.2g} |" in markdown
    for batch, entry in parts["int8"]["batches"].items():
        for key, digits in (("encoder_s", 1), ("step_s", 2)):
            assert all(len(seconds) == 2 for seconds in entry[key].values())
            ours, theirs = (1e3 * median(entry[key][name]) for name in ("int8", "bf16"))
            (row,) = (line for line in markdown.splitlines() if line.startswith(f"| {batch} | {ours:.{digits}f} ("))
            ratios = [b / a for a, b in zip(entry[key]["int8"], entry[key]["bf16"], strict=True)]
            assert f" | {theirs:.{digits}f} (" in row and f" | {median(ratios):.2f} (" in row
    contenders = parts["training"]["sizes"]["tiny"]["contenders"]
    assert list(contenders) == ["whisperq"] + ["trainer"] * bool(find_spec("accelerate"))
    for name, contender in contenders.items():
        (only,) = contender["rounds"]
        speed = f"{len(only['step_s']) / only['seconds']:#.3g}"
        assert f"| {name} | {speed.rstrip('.')} (" in markdown
    runs = {**parts["feeding"]["runs"], "3 steps": parts["distillation"]}
    assert list(runs) == ["no cache", "audio cache", "3 steps"]
    for name, one in runs.items():
        waiting = f"{100 * median(one['data_wait']):.1f} ("
        (row,) = (line for line in markdown.splitlines() if line.startswith(f"| {name} | "))
        assert 0 < min(one["steps_per_second"]) and f" | {waiting}" in row and f" | {one['memory_gib']:.2f} |" in row


def test_done_work_is_not_done_again_and_folders_are_not_mixed(finished: Path) -> None:
    before = (finished / "parts" / "int8.json").read_text()
    again = run(finished, PARTS="int8")
    assert again.returncode == 0 and "int8: done before" in again.stderr
    assert (finished / "parts" / "int8.json").read_text() == before
    other = run(finished, PARTS="int8", WHISPERQ_COMMIT="def")
    assert other.returncode == 2 and "holds results of commit abc, this is def: name a new folder" in other.stderr


def test_a_package_that_is_missing_is_named_and_costs_its_part_alone(bare: Path, tmp_path: Path) -> None:
    done = run(tmp_path / "out", PYTHON=str(bare), PARTS="tests distillation", LIMITS=PATIENT)
    assert done.returncode == 0, done.stderr
    tests, distillation = (read(tmp_path / "out")["parts"][name] for name in ("tests", "distillation"))
    assert distillation["status"] == "skipped"
    assert distillation["reason"] == "not installed: soundfile, soxr, jiwer"
    assert tests["status"] == "done" and not tests["results"]["failed"], tests
    assert "tests/test_cuda.py" in tests["results"]["files"]
    assert tests["results"]["passed"] + len(tests["results"]["skipped"]) >= 3
    assert "- skipped, " in (tmp_path / "out" / "gpu.md").read_text()


def test_a_part_that_fails_says_why_and_keeps_what_it_found(finished: Path, tmp_path: Path) -> None:
    models = shutil.copytree(finished.parent / "work" / "tiny", tmp_path / "work" / "tiny")
    (models / "quantized" / "qparams.json").write_text("{")
    done = run(tmp_path / "out", PARTS="agreement", LIMITS=PATIENT)
    record = read(tmp_path / "out")["parts"]["agreement"]
    assert done.returncode == 1 and record["status"] == "failed" and record["log"] is not None
    rows = record["results"]["runtimes"]
    assert rows["float"] == {"encoder": 0, "logits": 0} and rows["int8"]["error"].startswith("InputError: ")
    assert f"int8: {rows['int8']['error']}" in record["reason"]
    assert f"| int8 | {rows['int8']['error']} |" in (tmp_path / "out" / "gpu.md").read_text()


def test_the_first_layer_that_differs_is_named(finished: Path) -> None:
    folder, features = finished.parent / "work" / "tiny" / "quantized", random_features(1)
    found, reference = Int8Runtime.load(folder), Int8Runtime.load(folder)
    assert first_difference(found, reference, features, 0.01) is None
    found.decoder[1].feed_forward.norm.weight.mul_(-3)
    assert first_difference(found, reference, features, 0.01)["layer"] == "dec.1"
    found.encoder[1].attention.norm.weight.mul_(-3)
    wrong = first_difference(found, reference, features, 0.01)
    assert wrong["layer"] == "enc.1" and wrong["error"] > 0.01
    assert len(found.encoder) == len(reference.encoder) == 2


def test_a_killed_script_s_records_make_tables(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "out")
    record = tmp_path / "out" / "parts" / "int8.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "status": "running"}))
    subprocess.run([sys.executable, BENCHMARKS / "gpu_tables.py", tmp_path / "out"], check=True)
    assert read(tmp_path / "out")["parts"]["int8"]["status"] == "running"
    markdown, before = ((folder / "gpu.md").read_text() for folder in (tmp_path / "out", finished))
    assert "int8: running." in markdown and markdown.replace("running", "done") == before


def test_targets_are_shown_for_a_gpu_with_what_became_of_them(finished: Path) -> None:
    whole = read(finished) | {
        "device": "cuda", "card": "GPU", "memory_bytes": 2**36, "capability": "9.0", "driver": "1", "cuda": "13.0",
    }  # fmt: skip
    seconds = {"int8": [0.010, 0.011], "bf16": [0.030, 0.033]}
    encoder = {**seconds, "compiled": [0.012, 0.013]}
    whole["parts"]["int8"]["results"]["batches"] = {
        "8": {"encoder_s": encoder, "step_s": seconds},
        "32": {"encoder_s": seconds, "step_s": seconds, "not_compiled": "not done after 60 s"},
    }
    markdown = gpu_tables.render(whole)
    assert markdown.startswith("# Checks on one GPU\n\nGPU with 64 GiB; compute capability 9.0; driver 1; CUDA 13.0;")
    assert "| 1.19 (1.18-1.20) | 1.3 times compiled bf16: missed |" in markdown
    assert "| 3.00 (3.00-3.00) |  | 1.3 times compiled bf16: not measured |" in markdown
    assert markdown.count("| 3.00 (3.00-3.00) | 2 times transformers bf16: met |") == 2
    assert "- not compiled, batch 32: not done after 60 s" in markdown and "50 % of the matrix rate" in markdown


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"PARTS": "int8 speed"}, "there is no part speed; there are tests, agreement"),
        ({"LIMITS": "int8=long"}, "LIMITS gives int8 long, which is no number of seconds"),
        ({"SIZE": "large"}, "SIZE is large, but must be one of full, smallest"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(settings: dict[str, str], words: str, tmp_path: Path) -> None:
    done = run(tmp_path / "out", **settings)
    assert done.returncode == 2 and words in done.stderr and not (tmp_path / "out").exists()


def test_a_worker_that_takes_too_long_is_ended() -> None:
    task = {"measure": "matrix", "matrix": 128, "device": "cpu", "dtype": "float32", "threads": 1}
    with pytest.raises(RuntimeError, match="not done after 0 s"):
        run_worker("training_worker.py", task, 1, limit=0.1)


def test_shellcheck_finds_nothing() -> None:
    tool = Path(sys.executable).with_name("shellcheck")
    if not tool.exists():
        pytest.skip("shellcheck is not installed")
    found = subprocess.run([tool, BENCHMARKS / "gpu.sh"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
