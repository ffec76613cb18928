"""Jobs of examples/slurm under any cluster: how they are submitted, and what is read of them afterwards."""

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from whisperq import artifact

ROOT = Path(__file__).parents[2]
SLURM = ROOT / "examples" / "slurm"
PATH = f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"

# A whisperq that only keeps a journal. FAIL="STUDENT COMMAND CODE" makes one command exit with that code, and
# INTERRUPT="STUDENT COMMAND" makes that student's first such command go on until a signal; its first process, the one
# that saves, is the last to end.
FAKE = """#!/usr/bin/env bash
student=$(basename "$WHISPERQ_RUN")
echo "$student $1 $RANK/$WORLD_SIZE" >>"$JOURNAL"
[ "$student $1" != "${FAIL% *}" ] || exit "${FAIL##* }"
if [ "$student $1 ${SLURM_RESTART_COUNT:-0}" = "$INTERRUPT 0" ]; then
    trap '[ "$RANK" != 0 ] || sleep 0.3; exit 75' USR2 TERM
    until [ "$RANK" = 0 ] || [ -e "$JOURNAL.0" ]; do sleep 0.02; done
    touch "$JOURNAL.$RANK"
    while :; do sleep 0.02; done
fi
"""


class Job(Protocol):
    name: str
    index: int | None
    state: str
    reason: str
    exit_code: int | None
    restarts: int
    output: Path


class Cluster(Protocol):
    """SLURM, or what stands in for it; its programs are in `bin`."""

    folder: Path
    bin: Path

    def jobs(self) -> list[Any]: ...

    def run(self) -> None: ...


def keep_journal(cluster: Cluster, place: Path) -> Path:
    """Puts the fake whisperq on the PATH; returns where it says what it was asked to do."""
    (cluster.bin / "whisperq").write_text(FAKE)
    (cluster.bin / "whisperq").chmod(0o755)
    return place / "journal"


def program(path: Path, *command: str | Path) -> Path:
    """An executable that runs the command with whatever arguments follow."""
    path.write_text(f'#!/bin/sh\nexec {" ".join(map(str, command))} "$@"\n')
    path.chmod(0o755)
    return path


@contextmanager
def preloaded(cluster: Cluster) -> Iterator[None]:
    """The real whisperq on the PATH, without four seconds of imports for each of many commands."""
    socket, script = cluster.folder / "socket", ROOT / "examples" / "preloaded.py"
    program(cluster.bin / "whisperq", sys.executable, "-S", script, "call", socket)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, script, "serve", socket], env=environment, stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"ready\n"
        yield
        server.kill()


def submit(cluster: Cluster, config: Path, *students: str, runs: Path | None = None, **environment: str | Path) -> Path:
    """submit.sh from another folder; returns RUNS. Jobs wait until cluster.run()."""
    runs = runs or cluster.folder.parent / "runs"
    subprocess.run(
        ["bash", SLURM / "submit.sh", config, runs, *students],
        cwd=cluster.folder, env=variables(cluster, **environment), check=True, capture_output=True, text=True,
    )  # fmt: skip
    return runs


def submit_distill(cluster: Cluster, runs: Path) -> None:
    """The real distill of 2-headwise in two processes, and calibrate, which waits for it."""
    environment = variables(cluster, RUNS=runs, STUDENTS="2-headwise", SCRIPTS=SLURM, OMP_NUM_THREADS="1")
    first = subprocess.check_output(
        [cluster.bin / "sbatch", "--parsable", "--ntasks-per-node=2", f"--chdir={runs}", SLURM / "distill.sh"],
        env=environment, text=True,
    )  # fmt: skip
    subprocess.run(
        [cluster.bin / "sbatch", f"--dependency=afterok:{first.strip()}", f"--chdir={runs}", SLURM / "calibrate.sh"],
        env=environment, check=True,
    )  # fmt: skip


def variables(cluster: Cluster, **more: str | Path) -> dict[str, str]:
    default = {"FAIL": "", "INTERRUPT": "", "PATH": f"{cluster.bin}:{PATH}"}
    return {**os.environ, **default, **{key: str(value) for key, value in more.items()}}


def job(cluster: Cluster, name: str, index: int | None = None) -> Any:
    return next(j for j in cluster.jobs() if (j.name, j.index) == (name, index))


def states(cluster: Cluster, index: int | None = None) -> dict[str, str]:
    return {j.name: j.state for j in cluster.jobs() if j.index == index}


def log(job: Job) -> str:
    return job.output.read_text()


def check_table(runs: Path) -> None:
    """Of the students 2-none and 2-headwise."""
    lines = (runs / "table.md").read_text().splitlines()
    for line, gate in zip(lines[2:], ("none", "headwise"), strict=True):
        check_row([cell.strip() for cell in line.strip("|").split("|")], runs / f"2-{gate}", gate)


def check_row(cells: list[str], run: Path, gate: str) -> None:
    """A row of the table says what the run folder's artifacts say."""
    assert cells[:3] == ["2", gate, "digits"]
    student = artifact.load(run / "student").config
    assert (student["layers"], student["gate"]) == (2, gate)
    for cell, name in zip(cells[4:7], ("distilled-float", "paper-w8a8-emulated", "gemm-w8a8-emulated"), strict=True):
        result = artifact.load(run / "eval" / name).results["sets"]["digits"]
        assert float(cell.split()[0]) == pytest.approx(100 * result["wer"], abs=0.005)
        assert cells[3] == str(result["reference_words"])
    statistics = artifact.load(run / "outliers" / "distilled" / "attention-outputs").results["model"]
    assert float(cells[7]) == pytest.approx(statistics["kurtosis"], abs=0.005)
    assert float(cells[8]) == pytest.approx(statistics["max_inf_norm"], abs=0.005)
    size = artifact.load(run / "quantized" / "gemm-w8a8").results["bytes"] / 1e6
    assert float(cells[9].split(" / ")[2]) == pytest.approx(size, abs=0.05)
