"""examples/slurm under a stand-in for SLURM: what starts when, what exit codes do, and the table at the end."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import configuration, write_configuration
from support.slurm_jobs import (
    PATH,
    ROOT,
    SLURM,
    check_table,
    job,
    keep_journal,
    log,
    preloaded,
    states,
    submit,
    submit_distill,
    variables,
)
from support.slurm_stand_in import Cluster

from whisperq import artifact

pytestmark = pytest.mark.slow

SCRIPTS = sorted(SLURM.glob("*.sh"))


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path / "slurm")


@pytest.fixture
def journal(tmp_path, cluster) -> Path:
    """What the fake whisperq, which this puts on the PATH, was asked to do."""
    return keep_journal(cluster, tmp_path)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck_finds_nothing(script: Path) -> None:
    found = subprocess.run([tool("shellcheck"), script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert subprocess.run(["bash", "-n", script]).returncode == 0


def tool(name: str) -> str:
    """A program that the test extra installs."""
    path = shutil.which(name, path=PATH)
    assert path, f'{name} is missing; pip install ".[test]"'
    return path


def test_from_teacher_to_table(workspace, cluster) -> None:
    """Real commands for two students; the element of one waits for nothing of the other's."""
    with preloaded(cluster):
        runs = submit(cluster, workspace / "whisperq.yaml", "2-none", "2-headwise")
        cluster.run()
    for each in cluster.jobs():
        assert each.state == "COMPLETED", log(each)
    last = max(j.started[0] for j in cluster.jobs() if j.index == 0)
    assert last < min(j.started[0] for j in cluster.jobs() if j.index == 1)
    check_table(runs)
    assert list(runs.glob("2-headwise/attention/distilled/*/*.png"))


def test_the_table_of_unfinished_runs_has_dashes(finished_run, tmp_path) -> None:
    shutil.copytree(finished_run, tmp_path / "2-headwise")
    command = [sys.executable, "-S", SLURM / "table.py", tmp_path]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[2].startswith("| 2 | headwise | - | - | - | - | - | - | - |") and len(lines) == 3


def test_one_student_is_a_chain_of_plain_jobs(cluster, journal) -> None:
    submit(cluster, ROOT / "examples/paper/whisperq.yaml", "16-per-head", JOURNAL=journal)
    cluster.run()
    assert set(states(cluster).values()) == {"COMPLETED"}
    assert all(j.flags["dependency"].startswith("afterok:") for j in cluster.jobs() if j.name != "init-student")
    assert "--layers 16 --gate per-head" in log(job(cluster, "init-student"))


def test_without_names_they_are_the_papers_six(cluster) -> None:
    submit(cluster, ROOT / "examples/paper/whisperq.yaml")
    arrays = [j for j in cluster.jobs() if j.name == "distill"]
    assert sorted(j.index for j in arrays) == list(range(6))
    students = [f"{layers}-{gate}" for layers in (24, 16, 8) for gate in ("none", "headwise")]
    assert arrays[0].environment["STUDENTS"].split() == students


def test_an_interrupted_distill_is_requeued_and_nothing_starts_before_its_end(cluster, journal) -> None:
    """Two processes. The interrupted element is the last, whose own id is also the array's."""
    students = ("8-none", "16-headwise")
    submit(
        cluster, ROOT / "examples/paper/whisperq.yaml", *students,
        JOURNAL=journal, INTERRUPT="16-headwise distill", GPUS="2",
    )  # fmt: skip
    cluster.near_limit["distill"] = Path(f"{journal}.1")  # both processes are listening
    cluster.run()
    assert set(states(cluster, 0).values()) | set(states(cluster, 1).values()) == {"COMPLETED"}
    assert [j.name for j in cluster.jobs() if j.restarts] == ["distill"]
    ours = [line.split()[1:] for line in journal.read_text().splitlines() if line.startswith("16-headwise")]
    assert ours[0] == ["init-student", "0/1"]
    assert sorted(ours[1:3]) == sorted(ours[3:5]) == [["distill", "0/2"], ["distill", "1/2"]]
    assert [name for name, _ in ours[5:]].count("distill") == 0
    text = log(job(cluster, "distill", 1))
    assert "start 1 of 16-headwise" in text and "start 2 of 16-headwise" in text
    assert len([line for line in journal.read_text().splitlines() if line.startswith("8-none distill")]) == 2


def test_an_evaluation_that_takes_longer_than_its_job_goes_on_in_the_next(cluster, journal) -> None:
    config = ROOT / "examples/paper/whisperq.yaml"
    submit(cluster, config, "8-none", JOURNAL=journal, INTERRUPT="8-none eval")
    cluster.near_limit["eval"] = Path(f"{journal}.0")
    cluster.run()
    assert set(states(cluster).values()) == {"COMPLETED"} and job(cluster, "eval").restarts == 1
    assert journal.read_text().splitlines().count("8-none eval 0/1") == 1 + 3  # begun again with the first of three


@pytest.mark.parametrize("students", [["16"], ["16-none", "headwise"], ["none-16"], ["16-none 8-none"]], ids=" ".join)
def test_students_that_cannot_be_are_refused_before_anything_is_queued(students, tmp_path, cluster) -> None:
    command = ["bash", SLURM / "submit.sh", ROOT / "examples/paper/whisperq.yaml", tmp_path / "runs", *students]
    done = subprocess.run(command, env=variables(cluster), capture_output=True, text=True)
    assert done.returncode == 2 and f"such as 16-headwise, not '{students[-1]}'" in done.stderr
    assert not cluster.jobs() and not (tmp_path / "runs").exists()


def test_a_cancelled_distill_does_not_put_itself_back_on_the_queue(cluster, journal) -> None:
    """Its processes checkpoint and exit with 75 all the same."""
    config = ROOT / "examples/paper/whisperq.yaml"
    submit(cluster, config, "8-none", JOURNAL=journal, INTERRUPT="8-none distill")
    cluster.cancelled["distill"] = Path(f"{journal}.0")
    cluster.run()
    assert (job(cluster, "distill").state, job(cluster, "distill").restarts) == ("CANCELLED", 0)
    assert states(cluster)["calibrate"] == states(cluster)["table"] == "CANCELLED"


def test_a_failing_step_stops_its_own_student_alone(cluster, journal) -> None:
    config = ROOT / "examples/paper/whisperq.yaml"
    submit(cluster, config, "8-none", "16-none", JOURNAL=journal, FAIL="8-none calibrate 3")
    cluster.run()
    failed = job(cluster, "calibrate", 0)
    assert (failed.state, failed.exit_code) == ("FAILED", 3)
    cancelled = {name for name, state in states(cluster, 0).items() if state == "CANCELLED"}
    assert cancelled == {"quantize", "eval"}
    assert job(cluster, "eval", 0).reason == "DependencyNeverSatisfied"
    assert set(states(cluster, 1).values()) == {"COMPLETED"}
    assert states(cluster) == {"table": "CANCELLED"}
    assert not {"8-none quantize 0/1", "8-none eval 0/1"} & set(journal.read_text().splitlines())


def test_where_requeueing_is_not_allowed_75_still_stops_the_chain(cluster, journal) -> None:
    submit(
        cluster, ROOT / "examples/paper/whisperq.yaml", "8-none", JOURNAL=journal, FAIL="8-none quantize 75",
    )  # fmt: skip
    cluster.run()
    assert (job(cluster, "quantize").state, job(cluster, "quantize").exit_code) == ("FAILED", 75)
    assert "submit.sh goes on from the checkpoint" in log(job(cluster, "quantize"))
    assert states(cluster)["eval"] == states(cluster)["table"] == "CANCELLED"


def test_the_real_distill_saves_at_the_signal_and_goes_on(workspace, cluster, invoke, teacher, digits) -> None:
    """Two processes, both told to stop; calibrate waits for their second start, which ends at the last step."""
    content = configuration(teacher, digits)
    content["defaults"]["distill"] |= {"max_steps": 10, "eval_every": 10}
    write_configuration(workspace, content)
    runs = workspace / "runs"
    run = runs / "2-headwise"
    assert invoke("init-student", "--run", run).exit_code == 0
    submit_distill(cluster, runs)
    cluster.near_limit["distill"] = run / "checkpoints" / "metrics.jsonl"
    cluster.run()
    distill, calibrate = job(cluster, "distill"), job(cluster, "calibrate")
    assert (distill.restarts, distill.state, calibrate.state) == (1, "COMPLETED", "COMPLETED"), log(distill)
    assert len(distill.started) == 2 and calibrate.started[0] > distill.started[1]
    assert artifact.load(run / "calibration").inputs["model"]["path"] == str(run / "distilled")


def test_what_was_queued_before_a_failing_submission_is_taken_back(cluster, journal) -> None:
    own = cluster.bin / "sbatch"
    own.rename(cluster.bin / "real-sbatch")
    own.write_text('#!/bin/sh\ncase "$*" in *quantize.sh) exit 4 ;; esac\nexec real-sbatch "$@"\n')
    own.chmod(0o755)
    with pytest.raises(subprocess.CalledProcessError) as failed:
        submit(cluster, ROOT / "examples/paper/whisperq.yaml", "8-none", "16-none", JOURNAL=journal)
    assert failed.value.returncode == 4 and "taking back" in failed.value.stderr
    assert {j.name for j in cluster.jobs()} == {"init-student", "distill", "calibrate"}
    assert {j.state for j in cluster.jobs()} == {"CANCELLED"}
    cluster.run()
    assert not journal.exists()


@pytest.mark.parametrize("name", ["100 %u of it", "%x %j %%"])
def test_a_folder_of_runs_may_have_any_name(name: str, tmp_path, cluster, journal) -> None:
    """The logs lie in it; SLURM takes a path for a pattern."""
    submit(cluster, ROOT / "examples/paper/whisperq.yaml", "8-none", runs=tmp_path / name, JOURNAL=journal)
    cluster.run()
    assert set(states(cluster).values()) == {"COMPLETED"}
    assert {p.name.partition("-")[0] for p in (tmp_path / name / "logs").iterdir()} >= {"init", "distill", "table"}


# WHISPERQ, with FOLDER for one that has a space in its name, and what is started.
STARTED = {
    "a path": ("FOLDER/whisperq", ["FOLDER/whisperq"]),
    "a path and words": ("'FOLDER/whisperq' --nv --bind '/a b'", ["FOLDER/whisperq", "--nv", "--bind", "/a b"]),
    "nothing is expanded": ('env "$HOME" $(touch x) *', ["env", "$HOME", "$(touch", "x)", "*"]),
    "on the PATH": ("whisperq", ["whisperq"]),
    "not given": (None, ["whisperq"]),
}


@pytest.mark.parametrize("command, words", STARTED.values(), ids=STARTED)
def test_the_command_may_hold_spaces(command: str | None, words: list[str], tmp_path, cluster, journal) -> None:
    (folder := tmp_path / "my programs").mkdir()
    shutil.copy(cluster.bin / "whisperq", folder)
    given = {} if command is None else {"WHISPERQ": command.replace("FOLDER", str(folder))}
    of_a_job = {"STUDENTS": "8-none", "RUNS": tmp_path, "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": 1}
    script = 'set -euo pipefail; source "$1"; printf "%s\\n" "${whisperq[@]}"'
    done = subprocess.run(
        ["bash", "-c", script, "job", SLURM / "common.sh"],
        cwd=tmp_path, env=variables(cluster, **of_a_job, **given), check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [word.replace("FOLDER", str(folder)) for word in words]


def test_an_open_quote_starts_nothing(tmp_path, cluster) -> None:
    of_a_job = {"STUDENTS": "8-none", "RUNS": tmp_path, "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": 1}
    script = 'set -euo pipefail; source "$1"; echo started'
    environment = variables(cluster, **of_a_job, WHISPERQ="env 'whisperq")
    done = subprocess.run(["bash", "-c", script, "job", SLURM / "common.sh"], env=environment, capture_output=True)
    assert done.returncode != 0 and not done.stdout and b"quote" in done.stderr


# Cores that a task sees on a node of four tasks with eight each, and how many tasks share them.
CORES = {"bound": (8, 1), "unbound": (32, 4)}


@pytest.mark.parametrize("seen, sharing", CORES.values(), ids=CORES)
def test_who_is_bound_to_cores_of_its_own_divides_them_by_nobody(seen: int, sharing: int, tmp_path, cluster) -> None:
    """A quarter of a quarter of the node's cores would decode for each GPU."""
    programs = {
        "srun": 'shift 2; SLURM_PROCID=0 SLURM_LOCALID=0 exec "$@"',
        "nproc": f'echo "${{OMP_NUM_THREADS:-{seen}}}"',
        "whisperq": 'echo "$LOCAL_WORLD_SIZE"',
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    of_a_job = {
        "STUDENTS": "8-none", "RUNS": tmp_path, "SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_ID": 1,
        "SLURM_NTASKS": 4, "SLURM_NTASKS_PER_NODE": 4, "SLURM_CPUS_PER_TASK": 8,
    }  # fmt: skip
    environment = variables(cluster, **of_a_job)
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    script = 'set -euo pipefail; source "$1"; run distill'
    done = subprocess.run(
        ["bash", "-c", script, "job", SLURM / "common.sh"], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == str(sharing)
