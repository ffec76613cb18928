"""examples/slurm under SLURM itself, where it is installed: what its stand-in may have got wrong."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import configuration, write_configuration
from support.real_slurm import Cluster, missing, running
from support.slurm_jobs import (
    ROOT,
    check_table,
    job,
    keep_journal,
    log,
    preloaded,
    states,
    submit,
    submit_distill,
)

from whisperq import artifact

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"of SLURM there is no {', '.join(missing())}"),
]
PAPER = ROOT / "examples" / "paper" / "whisperq.yaml"


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    with running(tmp_path / "slurm") as found:
        yield found


@pytest.fixture
def journal(tmp_path, cluster) -> Path:
    return keep_journal(cluster, tmp_path)


def test_from_teacher_to_table(workspace, cluster) -> None:
    with preloaded(cluster):
        runs = submit(cluster, workspace / "whisperq.yaml", "2-none", "2-headwise")
        cluster.run()
    assert len(cluster.jobs()) == 15  # seven steps of two students, and the table
    for each in cluster.jobs():
        assert each.state == "COMPLETED", log(each)
    check_table(runs)


def test_a_distill_near_its_time_limit_is_requeued_and_nothing_starts_before_its_end(cluster, journal) -> None:
    """Two processes, in the array's last element, whose own id is also the array's."""
    submit(cluster, PAPER, "8-none", "16-headwise", JOURNAL=journal, INTERRUPT="16-headwise distill", GPUS="2")
    cluster.near_limit["distill", 1] = Path(f"{journal}.1")  # both processes are listening
    cluster.run()
    assert set(states(cluster, 0).values()) | set(states(cluster, 1).values()) == {"COMPLETED"}
    assert [(j.name, j.index) for j in cluster.jobs() if j.restarts] == [("distill", 1)]
    ours = [line.split()[1:] for line in journal.read_text().splitlines() if line.startswith("16-headwise")]
    assert ours[0] == ["init-student", "0/1"]
    assert sorted(ours[1:3]) == sorted(ours[3:5]) == [["distill", "0/2"], ["distill", "1/2"]]
    assert [name for name, _ in ours[5:]].count("distill") == 0
    text = log(job(cluster, "distill", 1))
    assert "start 1 of 16-headwise" in text and "start 2 of 16-headwise" in text


def test_a_cancelled_distill_does_not_put_itself_back_on_the_queue(cluster, journal) -> None:
    submit(cluster, PAPER, "8-none", JOURNAL=journal, INTERRUPT="8-none distill")
    cluster.cancelled["distill", None] = Path(f"{journal}.0")
    cluster.run()
    assert (job(cluster, "distill").state, job(cluster, "distill").restarts) == ("CANCELLED", 0)
    assert states(cluster)["calibrate"] == states(cluster)["table"] == "CANCELLED"


def test_a_failing_step_stops_its_own_student_alone(cluster, journal) -> None:
    submit(cluster, PAPER, "8-none", "16-none", JOURNAL=journal, FAIL="8-none calibrate 3")
    cluster.run()
    failed = job(cluster, "calibrate", 0)
    assert (failed.state, failed.exit_code) == ("FAILED", 3)
    assert {name for name, state in states(cluster, 0).items() if state == "CANCELLED"} == {"quantize", "eval"}
    assert set(states(cluster, 1).values()) == {"COMPLETED"}
    assert states(cluster) == {"table": "CANCELLED"}


def test_the_real_distill_saves_at_the_signal_and_goes_on(workspace, cluster, invoke, teacher, digits) -> None:
    """Two processes, both told to stop; calibrate waits for their second start, which ends at the last step."""
    content = configuration(teacher, digits)
    content["defaults"]["distill"] |= {"max_steps": 100, "eval_every": 100}
    write_configuration(workspace, content)
    runs = workspace / "runs"
    run = runs / "2-headwise"
    assert invoke("init-student", "--run", run).exit_code == 0
    submit_distill(cluster, runs)
    cluster.told["distill", None] = run / "checkpoints" / "metrics.jsonl"
    cluster.run()
    distill, calibrate = job(cluster, "distill"), job(cluster, "calibrate")
    assert (distill.restarts, distill.state, calibrate.state) == (1, "COMPLETED", "COMPLETED"), log(distill)
    assert artifact.load(run / "calibration").inputs["model"]["path"] == str(run / "distilled")
