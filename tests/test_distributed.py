"""Distillation by two processes against one, and what happens when one of two dies."""

import json
import signal
from pathlib import Path

import pytest
from conftest import DIGITS, configuration, write_configuration
from safetensors.torch import load_file
from support.process_pairs import ended, pair
from support.processes import Job

pytestmark = pytest.mark.slow

STEPS = 12


@pytest.fixture
def folder(tmp_path, teacher, digits) -> Path:
    """Forty validation utterances, decoded 32 together: shares that differ."""
    content = configuration(teacher, digits)
    content["validation"] = [{"path": str(DIGITS / "sample" / "validation.jsonl"), "limit": 40}]
    content["defaults"]["distill"] |= {
        "max_steps": STEPS, "eval_every": 6, "log_every": 1, "micro_batch": 1, "eval_limit": 40, "pack": True,
    }  # fmt: skip
    write_configuration(tmp_path, content)
    assert Job(tmp_path, "init-student").exit_code() == 0
    return tmp_path


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "distilled" / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_as_one(folder):
    assert Job(folder, "distill", "--dtype", "float32", "--out", "alone/distilled").exit_code() == 0
    jobs = pair(folder, "distill", "--dtype", "float32", "--out", "both/distilled")
    assert ended(jobs) == [0, 0], [j.said for j in jobs]
    assert "validation WER" in jobs[0].said and jobs[1].said == ""
    one, two = metrics(folder / "alone"), metrics(folder / "both")
    assert len(one) == len(two) == STEPS + 3  # the start and two validations
    for ours, theirs in zip(two, one, strict=True):
        keys = ("step", "ce", "kl", "gradient_norm", "tokens", "validation_wer", "reference_words", "kurtosis")
        for key in (k for k in keys if k in theirs):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3), (theirs["step"], key)
    ours, theirs = (load_file(folder / f / "distilled" / "model.safetensors") for f in ("both", "alone"))
    for name, tensor in theirs.items():
        assert (ours[name] - tensor).abs().max() < 1e-3, name


def test_one_process_receives_a_signal_and_both_stop_and_go_on(folder):
    jobs = pair(folder, "distill", "--max-steps", "500", "--eval-every", "500")
    log = folder / "run" / "checkpoints" / "metrics.jsonl"
    jobs[0].until(lambda: log.exists() and log.read_text().count("\n") > 3)
    jobs[1].signal(signal.SIGUSR2)
    assert ended(jobs) == [75, 75]
    jobs = pair(folder, "distill", "--max-steps", "500", "--eval-every", "500", "--max-time", "0:00")
    assert ended(jobs) == [75, 75] and "going on from" in jobs[0].said
    # Another number of processes goes on at the same place.
    job = Job(folder, "distill", "--max-steps", "500", "--eval-every", "500", "--max-time", "0:00")
    assert job.exit_code() == 75 and "going on from" in job.said


def test_a_process_that_dies_ends_the_other_with_an_error(folder):
    jobs = pair(folder, "distill", "--max-steps", "500", "--eval-every", "500")
    log = folder / "run" / "checkpoints" / "metrics.jsonl"
    jobs[0].until(lambda: log.exists() and log.read_text().count("\n") > 3)
    jobs[1].signal(signal.SIGKILL)
    assert jobs[1].exit_code() == -signal.SIGKILL
    assert jobs[0].exit_code() == 1
    assert "another process" in jobs[0].said and "Traceback" not in jobs[0].said, jobs[0].said
    assert not (folder / "run" / "distilled").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--batch-size", "3"), "--batch-size 3 cannot be shared by 2 processes"),
        (("--micro-batch", "4"), "--micro-batch 4 does not divide --batch-size 4, 2 for each of 2 processes"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(flags, words, folder):
    jobs = pair(folder, "distill", *flags)
    assert ended(jobs) == [2, 2] and words in jobs[0].said


def test_an_environment_that_contradicts_itself(folder):
    job = Job(folder, "distill", environment={"WORLD_SIZE": "2", "RANK": "0"})
    assert job.exit_code() == 2 and "MASTER_ADDR is not set" in job.said
    job = Job(folder, "distill", environment={"WORLD_SIZE": "2", "RANK": "2"})
    assert job.exit_code() == 2 and "RANK is 2" in job.said
