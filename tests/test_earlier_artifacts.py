"""What an earlier version wrote stays readable: a run folder with an artifact of every kind, made by its commands.

earlier/whisperq-0.1.0.tar.xz: two-layer models of random weights and the digits sample, as whisperq 0.1.0 left them.
"""

import json
import tarfile
from pathlib import Path

import pytest

from whisperq.manifests import RESULTS

ARCHIVE = Path(__file__).parent / "earlier" / "whisperq-0.1.0.tar.xz"
with tarfile.open(ARCHIVE) as _archive:
    ARTIFACTS = sorted(str(Path(name).parent) for name in _archive.getnames() if name.endswith("/manifest.json"))


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(ARCHIVE) as archive:
        # Python 3.11 has filters from its fourth patch on.
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return folder


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def hypotheses(folder: Path) -> list[tuple[str, str]]:
    lines = (folder / "hypotheses" / "digits.jsonl").read_text().splitlines()
    return [(line["text"], line["pred_text"]) for line in map(json.loads, lines)]


def test_every_kind_but_reports_is_there(earlier):
    kinds = {manifest(earlier / name)["kind"] for name in ARTIFACTS}
    assert kinds == set(RESULTS) - {"report"}  # no command reads a report


@pytest.mark.parametrize("name", ARTIFACTS)
def test_show_reads_it(name, earlier, invoke):
    shown = invoke("show", earlier / name)
    assert shown.exit_code == 0, shown.output
    assert manifest(earlier / name)["kind"] in shown.stdout
    assert json.loads(invoke("show", earlier / name, "--json").stdout)["results"] == manifest(earlier / name)["results"]


@pytest.mark.parametrize(
    "model, runtime, evaluation",
    [
        ("distilled", "float", "distilled-float"),
        ("quantized/gemm-w8a8", "int8", "gemm-w8a8-int8"),
        ("quantized/gemm-w8a8", "emulated", None),
        ("quantized/paper-w8a8", "emulated", None),
        ("quantized/mixed-one-stage-4bit", "emulated", None),
        ("onnx/gemm-w8a8", "onnx", "gemm-w8a8-int8"),  # the same integers
    ],
)
def test_eval_writes_what_it_wrote(model, runtime, evaluation, earlier, digits, workspace, invoke):
    run = earlier / "run"
    done = invoke("eval", "--model", run / model, "--runtime", runtime, "--out", "again")
    assert done.exit_code == 0, done.output
    if evaluation:
        assert hypotheses(Path("again")) == hypotheses(run / "eval" / evaluation)


@pytest.mark.slow
def test_report_gathers_it(earlier, workspace, invoke):
    done = invoke("report", earlier / "run", "--out", "report")
    assert done.exit_code == 0, done.output
    results = manifest(Path("report"))["results"]
    assert results["artifacts"] == len(ARTIFACTS) and not results["unreadable"]
    # Its teacher and recordings were never in the archive. What was made in the run folder is found, though it moved.
    assert not [link for link in results["broken"] if " /tmp/before/run/" in link]


def test_later_steps_go_on_from_it(earlier, workspace, invoke):
    made = invoke("quantize", "--calibration", earlier / "run" / "calibration", "--out", "quantized")
    assert made.exit_code == 0, made.output
    new, old = (json.loads((folder / "qparams.json").read_text()) for folder in (
        Path("quantized"), earlier / "run" / "quantized" / "gemm-w8a8"))  # fmt: skip
    assert new["activations"].keys() == old["activations"].keys()
    pair = [earlier / "run" / "eval" / name for name in ("distilled-float", "gemm-w8a8-int8")]
    assert invoke("compare", *pair, "--out", "pair").exit_code == 0
