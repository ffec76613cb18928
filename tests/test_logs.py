"""What a training writes about itself beside metrics.jsonl."""

import json
import sys

import pytest
from conftest import run_command
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from whisperq.training.logs import MetricsLog


def scalars(folder) -> dict[str, dict[int, float]]:
    board = EventAccumulator(str(folder))
    board.Reload()
    return {name: {e.step: e.value for e in board.Scalars(name)} for name in board.Tags()["scalars"]}


def test_tensorboard_holds_what_the_lines_hold(workspace):
    assert run_command("init-student").exit_code == 0
    result = run_command("distill", "--report-to", "tensorboard", "--log-every", "1")
    assert result.exit_code == 0, result.stderr
    found = scalars(workspace / "run" / "checkpoints" / "tensorboard")
    lines = (workspace / "run" / "distilled" / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        for key in ("loss", "ce", "kl", "learning_rate", "gradient_norm", "validation_wer", "kurtosis", "data_wait"):
            if key in entry:
                assert found[key][entry["step"]] == pytest.approx(entry[key], rel=1e-6), key
    gates = next(e["gates"] for e in entries if "gates" in e)
    assert len(gates) == 6 and {f"gates/{address}" for address in gates} <= found.keys()


def test_without_tensorboard_one_sentence_says_what_to_install(workspace, monkeypatch):
    assert run_command("init-student").exit_code == 0
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = run_command("distill", "--report-to", "tensorboard")
    assert result.exit_code == 2 and 'pip install "whisperq[tensorboard]"' in result.stderr
    assert not (workspace / "run" / "distilled").exists()


def test_a_log_that_goes_on_forgets_what_lies_behind_its_step(tmp_path):
    log = MetricsLog(tmp_path, "none", length=0, step=0)
    log.write({"step": 1})
    length = log.sync()
    log.write({"step": 2})
    log.close()
    log = MetricsLog(tmp_path, "none", length=length, step=1)
    log.write({"step": 2, "again": True})
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2, "again": true}\n'
