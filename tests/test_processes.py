"""Several processes at one command: what they write is what one writes, and the failure of one ends them all."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import configuration, run_command, sample_lines, write_configuration, write_lines
from support.several_processes import all_at_once, processes

from whisperq.jobs.distributed import Processes

pytestmark = pytest.mark.slow

TRAIN = sample_lines("train", 12)
TIMES = ("wall_seconds", "features_seconds", "decoding_seconds", "warm_up_seconds", "rtfx", "peak_memory_gib")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, teacher, digits) -> Path:
    """A working folder whose run holds a student, calibrated and quantized; bad.jsonl's third recording is none."""
    folder = tmp_path_factory.mktemp("prepared")
    write_configuration(folder, configuration(teacher, digits))
    common = ("--config", folder / "whisperq.yaml", "--run", folder / "run")
    for command in ("init-student", "calibrate", "quantize"):
        assert run_command(command, *common).exit_code == 0
    lines = sample_lines("validation", 6)
    (folder / "broken.wav").write_bytes(b"RIFF and nothing that could be decoded")
    broken = {**lines[2], "id": "broken", "audio_filepath": "broken.wav"}
    write_lines(folder / "bad.jsonl", [*lines[:2], broken, *lines[3:]])
    texts = [{key: value for key, value in line.items() if key != "text"} for line in lines[:5]]
    write_lines(folder / "silent.jsonl", texts)
    return folder


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch) -> Path:
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHISPERQ_RUN", raising=False)
    return tmp_path


def timeless(value):
    """A manifest's results without what differs from run to run."""
    if isinstance(value, dict):
        return {key: timeless(v) for key, v in value.items() if key not in TIMES}
    return value


def hypotheses(folder: Path) -> list[dict]:
    lines = [line for path in sorted(folder.glob("hypotheses/*.jsonl")) for line in path.read_text().splitlines()]
    return [{key: value for key, value in json.loads(line).items() if key != "time"} for line in lines]


COMMANDS = {
    "calibrate": ("calibrate --batches 3 --batch-size 3", 2, ("ranges.json",)),
    "calibrate, histograms": ("calibrate --batches 4 --batch-size 2 --observer percentile", 3, ("ranges.json",)),
    "calibrate, unlabelled": (
        "calibrate --batches 5 --batch-size 1 --observer mse --data silent.jsonl", 2, ("ranges.json",)
    ),
    "calibrate, stablequant": (
        "calibrate --observer stablequant,mse --metric snr --batches 2 --batch-size 2 --sites enc.0.* --dev-limit 6", 2,
        ("ranges.json", "decisions.jsonl"),
    ),
    "calibrate, one batch": ("calibrate --batches 1 --batch-size 8", 3, ("ranges.json",)),
    "eval": ("eval --model student --batch-size 3", 2, ()),
    "eval, one batch": ("eval --model student --batch-size 8", 2, ()),
    "eval, integers": ("eval --model gemm-w8a8 --runtime int8 --batch-size 3", 2, ()),
    "eval, bad recording": ("eval --model student --batch-size 1 --test bad=bad.jsonl --skip-bad", 2, ()),
    "outliers": ("outliers --batch-size 3", 2, ("outliers.json",)),
    "outliers, two models": (
        "outliers --massive --batch-size 3 --compare student --layer dec.*.fc1", 2, ("outliers.json",)
    ),
    "outliers, bad recording": (
        "outliers --batch-size 2 --test bad=bad.jsonl --skip-bad", 2, ("outliers.json",)
    ),
    "pseudo-label": ("pseudo-label --batch-size 5", 2, ("utterances.jsonl",)),
    "pseudo-label, one batch": ("pseudo-label --batch-size 32", 3, ("utterances.jsonl",)),
    "pseudo-label, bad recording": (
        "pseudo-label --data bad.jsonl --skip-bad --batch-size 1", 2, ("utterances.jsonl",)
    ),
}  # fmt: skip


@pytest.mark.parametrize("command, world, files", COMMANDS.values(), ids=COMMANDS)
def test_several_processes_write_what_one_writes(command, world, files, folder, invoke):
    alone = invoke(*command.split(), "--out", "one", "--json")
    assert alone.exit_code == 0, alone.stderr
    jobs = all_at_once(folder, world, *command.split(), "--out", "several")
    one, several = (json.loads((folder / name / "manifest.json").read_text()) for name in ("one", "several"))
    for key in ("kind", "config", "inputs"):
        assert one[key] == several[key]
    assert timeless(one["results"]) == timeless(several["results"])
    assert one["files"].keys() == several["files"].keys()
    assert [one["files"][name] for name in files] == [several["files"][name] for name in files]
    assert hypotheses(folder / "one") == hypotheses(folder / "several")
    printed = [": several\n" in job.said for job in jobs]
    assert printed == [True, *[False] * (world - 1)]  # one prints the result
    assert not list(folder.glob(".several*")) + list(folder.glob("several-*"))


def test_what_any_process_left_out_of_a_training_is_counted(folder, invoke):
    """One recording is bad, so that of two processes one alone meets it, whichever that is."""
    lines = sample_lines("train", 4)
    for bad in range(4):
        text = [{**one, "audio_filepath": "broken.wav"} if i == bad else one for i, one in enumerate(lines)]
        write_lines(folder / "some.jsonl", text)
        command = ("distill", "--train", "some.jsonl", "--max-steps", "1", "--skip-bad", "--out", f"run/of-{bad}")
        jobs = all_at_once(folder, 2, *command)
        results = json.loads((folder / "run" / f"of-{bad}" / "manifest.json").read_text())["results"]
        assert results["skipped"] == 1 and f"some.jsonl line {bad + 1}" in jobs[0].said, jobs[0].said


def test_one_processs_bad_recording_loses_no_step_of_a_training(folder):
    """It is drawn in the third step of four; no checkpoint was due before it."""
    bad = np.random.default_rng([0, 1, 0]).permutation(12)[-1]  # of the first epoch, as epochs.py draws it
    lines = [{**one, "audio_filepath": "broken.wav"} if i == bad else one for i, one in enumerate(TRAIN)]
    write_lines(folder / "some.jsonl", lines)
    command = ("distill", "--train", "some.jsonl", "--max-steps", "4", "--eval-every", "4")
    jobs = processes(folder, 2, *command)
    codes = [job.exit_code() for job in jobs]
    assert sorted(codes) == [1, 3], [job.said for job in jobs]
    assert "broken.wav cannot be decoded" in jobs[codes.index(3)].said
    assert "another process of this task ended" in jobs[codes.index(1)].said and "step 2 is saved" in jobs[0].said
    jobs = all_at_once(folder, 2, *command, "--skip-bad")
    assert "going on from run/checkpoints/step-00000002" in jobs[0].said, jobs[0].said


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("count, size", [(10, 3), (12, 4), (2, 5), (0, 4)])
def test_batches_are_dealt_out_whole(count, size, world):
    shares = [list(Processes(rank, world).batches(range(count), size)) for rank in range(world)]
    assert all(number % world == rank for rank, share in enumerate(shares) for number, _ in share)
    dealt = sorted(pair for share in shares for pair in share)
    assert [number for number, _ in dealt] == list(range(len(dealt)))
    assert [batch for _, batch in dealt] == [list(range(count))[i : i + size] for i in range(0, count, size)]


def test_every_process_finds_the_work_done(folder):
    for _ in range(2):
        jobs = all_at_once(folder, 2, "calibrate", "--batches", "2")
    assert "is finished already" in jobs[0].said


# A command, and which of two processes meets the bad recording, the third of six.
FAILURES = {
    "calibrate": ("calibrate --batches 6 --batch-size 1 --data bad.jsonl", None),  # drawn in an order of its own
    "eval": ("eval --model student --batch-size 2 --test bad=bad.jsonl", None),
    "eval, first process": ("eval --model student --batch-size 1 --test bad=bad.jsonl", None),
    "outliers": ("outliers --batch-size 2 --test bad=bad.jsonl", 1),
    "pseudo-label": ("pseudo-label --batch-size 2 --data bad.jsonl", 1),
    "pseudo-label, first process": ("pseudo-label --batch-size 1 --data bad.jsonl", 0),
}


@pytest.mark.parametrize("command, who", FAILURES.values(), ids=FAILURES)
def test_one_processs_bad_recording_ends_them_all(command, who, folder):
    jobs = processes(folder, 2, *command.split(), "--out", "new")
    codes = [job.exit_code() for job in jobs]
    assert sorted(codes) == [1, 3], [job.said for job in jobs]
    erring = codes.index(3)
    assert who in (erring, None)
    assert "broken.wav cannot be decoded" in jobs[erring].said
    assert "another process of this task ended" in jobs[1 - erring].said
    assert not any("Traceback" in job.said for job in jobs)
    assert not (folder / "new").exists() and not list(folder.glob(".new*"))


def test_several_processes_do_not_export_on_the_way(folder):
    jobs = processes(folder, 2, "eval", "--model", "student", "--runtime", "onnx")
    assert [job.exit_code() for job in jobs] == [2, 2]
    assert all("run whisperq export first" in job.said for job in jobs)


def test_torchrun_starts_them(folder, invoke):
    command = ("calibrate", "--batches", "3", "--batch-size", "2")
    assert invoke(*command, "--out", "one").exit_code == 0
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = subprocess.run(
        [*torchrun, "-m", "whisperq", *command, "--out", "several", "--json"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"]["batches"] == 3  # one object, of one process
    assert (folder / "one" / "ranges.json").read_bytes() == (folder / "several" / "ranges.json").read_bytes()
