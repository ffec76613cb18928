"""What a manifest names as an input is what was read, whoever replaces that meanwhile."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.processes import Job

from whisperq import artifact, reading
from whisperq.errors import InputError, Interrupted
from whisperq.training.run import Training


def write(out: Path, text: str, force: bool = False) -> artifact.Artifact:
    with artifact.create(out, "calibration", "calibrate", {"text": text}, {}, force) as draft:
        (draft.folder / "ranges.json").write_text(text)
    return artifact.load(out)


def replaced(place: Path) -> None:
    write(place, "second", force=True)


def replaced_and_replaced_back(place: Path) -> None:
    write(place, "second", force=True)
    write(place, "first", force=True)


def gone(place: Path) -> None:
    shutil.rmtree(place)


def tampered(place: Path) -> None:
    """As long as before, and as old."""
    file, stat = place / "ranges.json", (place / "ranges.json").stat()
    file.write_text("fIrst")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize("change", [replaced, replaced_and_replaced_back, gone, tampered])
def test_a_result_of_a_replaced_input_is_not_sealed(change, tmp_path):
    write(tmp_path / "calibration", "first")
    inputs = {"calibration": artifact.reference(tmp_path / "calibration")}
    with pytest.raises(
        Interrupted, match="calibration input .*/calibration was replaced .* run the same command again"
    ):
        with artifact.create(tmp_path / "out", "quantized", "quantize", {}, inputs):
            change(tmp_path / "calibration")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_link_that_comes_to_name_another_is_a_replacement(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, name)
    (tmp_path / "calibration").symlink_to("one")
    inputs = {"calibration": artifact.reference(tmp_path / "calibration")}
    with pytest.raises(Interrupted, match="was replaced"):
        with artifact.create(tmp_path / "out", "quantized", "quantize", {}, inputs):
            (tmp_path / "calibration").unlink()
            (tmp_path / "calibration").symlink_to("two")


def test_a_foreign_model_that_is_written_over_is_a_replacement(tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model" / name).write_text("{}")
    inputs = {"model": artifact.reference(tmp_path / "model")}
    with pytest.raises(Interrupted, match="model input"):
        with artifact.create(tmp_path / "out", "quantized", "quantize", {}, inputs):
            (tmp_path / "model" / "model.safetensors").write_text("[]")


def test_an_error_that_comes_of_a_replacement_says_so_and_others_stay_themselves(tmp_path):
    write(tmp_path / "calibration", "first")
    inputs = {"calibration": artifact.reference(tmp_path / "calibration")}
    with pytest.raises(InputError, match="of its own"):
        with artifact.create(tmp_path / "out", "quantized", "quantize", {}, inputs):
            raise InputError("of its own")
    with pytest.raises(Interrupted, match="was replaced"):
        with artifact.create(tmp_path / "out", "quantized", "quantize", {}, inputs):
            replaced(tmp_path / "calibration")
            raise KeyError("of a file that has vanished")


def test_what_changes_no_byte_is_no_replacement(tmp_path):
    write(tmp_path / "calibration", "first")
    inputs = {"calibration": artifact.reference(tmp_path / "calibration")}
    with artifact.create(tmp_path / "out", "quantized", "quantize", {}, inputs):
        (tmp_path / "calibration" / "ranges.json").chmod(0o600)
        (tmp_path / "calibration" / "stray").write_text("of somebody else")
    assert artifact.load(tmp_path / "out").inputs == {"calibration": artifact.reference(tmp_path / "calibration")}


def test_a_reader_beside_a_writer_sees_one_of_the_two(tmp_path, monkeypatch):
    """The folder is replaced between its manifest and its files."""
    write(tmp_path / "calibration", "first")
    verify = reading._verify

    def late(path: Path, files: dict) -> None:
        monkeypatch.setattr(reading, "_verify", verify)
        replaced(tmp_path / "calibration")
        verify(path, files)

    monkeypatch.setattr(reading, "_verify", late)
    assert artifact.load(tmp_path / "calibration").config == {"text": "second"}


def rewritten(folder: Path) -> None:
    """Another artifact with the same payload."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"whisperq": "0.0.0"}))


STEPS = {
    "distill": "run/student",
    "calibrate": "run/distilled",
    "quantize": "run/calibration",
    "quantize --recipe gemm --model distilled": "run/distilled",
    "eval --model gemm-w8a8": "run/quantized/gemm-w8a8",
    "outliers --compare student": "run/student",
    "plot-attention --layer dec.0": "run/distilled",
    "sensitivity --model gemm-w8a8": "run/distilled",
    "export --model gemm-w8a8": "run/quantized/gemm-w8a8",
    "pseudo-label --model student": "run/student",
    "robustness --model gemm-w8a8 --limit 1": "run/distilled",
    "mixed-precision --mode uniform --target-bits 4 --max-steps 1": "run/distilled",
    "report run": "run/calibration",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", STEPS)
def test_every_step_refuses_what_was_replaced_after_it_was_named(command, copied_run, invoke, monkeypatch):
    named = artifact.reference

    def racing(path: Path, verify: bool = True):
        found = named(path, verify)
        if Path(path).resolve() == Path(STEPS[command]).resolve():
            rewritten(Path(path))
        return found

    monkeypatch.setattr(artifact, "reference", racing)
    result = invoke(*command.split(), "--out", "out")
    assert result.exit_code == 75 and "was replaced while this command read it" in result.stderr, result.output
    assert not Path("out").exists() and not list(Path().glob(".out*"))


TRAININGS = {
    "distill": "run/student",
    "mixed-precision --mode uniform --target-bits 4 --max-steps 1": "run/distilled",
}


@pytest.mark.slow
@pytest.mark.parametrize("change", [rewritten, shutil.rmtree])
@pytest.mark.parametrize("command", TRAININGS)
def test_a_training_of_days_is_sealed_though_its_model_changes_meanwhile(
    command, change, copied_run, invoke, monkeypatch
):
    """It has read all of it before its first step; what it began with is what its manifest names."""
    model = Path(TRAININGS[command])
    before = hashlib.sha256((model / "manifest.json").read_bytes()).hexdigest()
    run = Training.run

    def meanwhile(self):
        change(model)
        return run(self)

    monkeypatch.setattr(Training, "run", meanwhile)
    result = invoke(*command.split(), "--out", "out")
    assert result.exit_code == 0, result.output
    role = "student" if command == "distill" else "model"
    assert json.loads(Path("out", "manifest.json").read_text())["inputs"][role]["sha256"] == before
    assert Path("out", "config.json").is_file() and Path("out", "tokenizer_config.json").is_file()


def swapped(one: Path, two: Path) -> Callable[[], None]:
    def swap() -> None:
        for source, target in ((one, "aside"), (two, one), (Path("aside"), two)):
            os.rename(source, target)

    return swap


def test_quantizing_beside_a_new_calibration(copied_run, invoke):
    """Real processes: whatever ends well has the ranges that it names."""
    assert invoke("calibrate", "--batches", "1", "--out", "run/other").exit_code == 0
    expected = {}
    for name in ("calibration", "other"):
        assert invoke("quantize", "--calibration", f"run/{name}", "--out", f"of-{name}").exit_code == 0
        expected[artifact.reference(Path("run", name))["sha256"]] = Path(f"of-{name}", "qparams.json").read_bytes()
    assert len(set(expected.values())) == 2
    swap, codes = swapped(Path("run/calibration"), Path("run/other")), []
    for number in range(3):
        out = Path(f"made-{number}")
        job = Job(Path(), "quantize", "--out", str(out))
        job.until(lambda out=out: list(Path().glob(f".{out}.partial*")) or out.exists())
        swap()
        codes.append(job.exit_code())
        if codes[-1] == 0:
            named = artifact.load(out).inputs["calibration"]["sha256"]
            assert (out / "qparams.json").read_bytes() == expected[named]
    assert set(codes) <= {0, 75} and 75 in codes, codes
