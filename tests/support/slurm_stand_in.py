"""A stand-in for SLURM, which few machines have: sbatch, srun and scontrol as examples/slurm uses them.

    cluster = Cluster(folder)            # puts the four programs into folder/bin
    subprocess.run(["sbatch", ...], env={..., "PATH": f"{cluster.bin}:..."})
    cluster.run()                        # until nothing more can start

It is written from SLURM's manual pages and sources; test_real_slurm.py asks SLURM itself the most important of what is
asked here. Jobs are real processes, one at a time, and the newest that may start goes first: one that does not wait for
what it needs shows it at once.
Imitated: #SBATCH lines and flags, the script copied away from its folder, arrays (whose own id is that of their last
element), afterok and aftercorr, exit codes, requeueing, the signal before the time limit, SLURM_* variables, output
files. Not imitated: time limits themselves, several nodes, resources, accounting; what else sbatch knows is refused.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

HOST = "localhost"
FLAGS = ("job-name", "output", "open-mode", "signal", "time", "nodes", "ntasks-per-node", "gpus-per-node",
         "cpus-per-task", "mem", "array", "dependency", "export", "chdir", "kill-on-invalid-dep")  # fmt: skip
POLL = 0.02  # seconds
PATIENCE = 120  # seconds for any job: none waits for ever


@dataclass
class Job:
    """A job, or one element of an array."""

    id: int
    script: str
    flags: dict[str, str | None]
    environment: dict[str, str]
    array: int | None = None  # the array's own id
    index: int | None = None
    state: str = "PENDING"
    reason: str = ""
    exit_code: int | None = None
    restarts: int = 0
    started: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.flags["job_name"] or "script"

    @property
    def family(self) -> int:
        """What a dependency names it by."""
        return self.array or self.id

    @property
    def output(self) -> Path:
        index = 2**32 - 2 if self.array is None else self.index  # what SLURM calls "no element"
        values = {"%x": self.name, "%j": self.id, "%A": self.family, "%a": index, "%u": "user", "%%": "%"}
        text = self.flags["output"] or "slurm-%j.out"
        text = re.sub("%.", lambda found: str(values.get(found[0], found[0])), text)
        return Path(self.flags["chdir"]) / text

    def variables(self) -> dict[str, str]:
        """SLURM_* in the batch script."""
        tasks = int(self.flags["nodes"] or 1) * int(self.flags["ntasks_per_node"] or 1)
        values = {
            "JOB_ID": self.id,
            "JOB_NAME": self.name,
            "JOB_NODELIST": HOST,
            "NTASKS": tasks,
            "SUBMIT_DIR": self.flags["chdir"],
            "CPUS_PER_TASK": self.flags["cpus_per_task"],
            "ARRAY_JOB_ID": self.array,
            "ARRAY_TASK_ID": self.index,
            "RESTART_COUNT": self.restarts or None,
        }
        return {f"SLURM_{key}": str(value) for key, value in values.items() if value is not None}


class Cluster:
    """The queue, as one file for each job in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.queue = folder, folder / "bin", folder / "jobs"
        # Job name -> what happens to it, once, when this file is there: its time is nearly over, or scancel.
        self.near_limit: dict[str, Path] = {}
        self.cancelled: dict[str, Path] = {}
        if not self.bin.exists():
            self.install()

    def install(self) -> None:
        for place in (self.bin, self.queue):
            place.mkdir(parents=True)
        for name in PROGRAMS:
            program = self.bin / name
            program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {self.folder} {name} "$@"\n')
            program.chmod(0o755)

    def jobs(self) -> list[Job]:
        return [Job(**json.loads(path.read_text())) for path in sorted(self.queue.glob("*.json"))]

    def save(self, job: Job) -> None:
        (self.queue / f"{job.id:06}.json").write_text(json.dumps(asdict(job)))

    def requeue_mark(self, job: Job) -> Path:
        return self.folder / f"{job.id}.requeue"

    def tasks(self, job: int) -> Path:
        """The process ids of the job's running step."""
        return self.folder / f"{job}.tasks"

    def run(self) -> None:
        while job := self.next_job():
            self.execute(job)

    def next_job(self) -> Job | None:
        """The newest job whose dependencies are fulfilled; those that never can be are cancelled."""
        again = True
        while again:
            jobs, again = self.jobs(), False
            for job in (j for j in jobs if j.state == "PENDING"):
                states = dependency_states(job, jobs)
                if states & {"FAILED", "CANCELLED"} and job.reason != "DependencyNeverSatisfied":
                    job.reason, again = "DependencyNeverSatisfied", True
                    job.state = "CANCELLED" if job.flags["kill_on_invalid_dep"] == "yes" else "PENDING"
                    self.save(job)
        ready = [j for j in jobs if j.state == "PENDING" and dependency_states(j, jobs) <= {"COMPLETED"}]
        return max(ready, key=lambda j: j.id, default=None)

    def execute(self, job: Job) -> None:
        mode = "a" if job.flags["open_mode"] == "append" else "w"
        job.state, job.started = "RUNNING", [*job.started, time.time()]
        self.save(job)
        with job.output.open(mode) as output:
            process = subprocess.Popen(
                [job.script], cwd=job.flags["chdir"], env={**job.environment, **job.variables()},
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            cancelled = self.accompany(process, job)
        job.exit_code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        job.state = "CANCELLED" if cancelled else "FAILED" if job.exit_code else "COMPLETED"
        if self.requeue_mark(job).exists():
            self.requeue_mark(job).unlink()
            job.state, job.restarts = "PENDING", job.restarts + 1
        self.save(job)

    def accompany(self, batch: subprocess.Popen, job: Job) -> bool:
        """Until the batch script's end; says whether the job was cancelled."""
        cancelled = False
        while batch.poll() is None:
            if self.happens(self.near_limit, job):
                self.warn(job)
            if self.happens(self.cancelled, job):
                cancelled = True
                self.signal_tasks(job, signal.SIGTERM)
                batch.terminate()
            if self.requeue_mark(job).exists():  # SLURM ends what is left of the job
                os.killpg(batch.pid, signal.SIGKILL)
                batch.wait()
            elif time.time() - job.started[-1] > PATIENCE:
                self.signal_tasks(job, signal.SIGKILL)
                os.killpg(batch.pid, signal.SIGKILL)
                raise TimeoutError(job.output.read_text())
            time.sleep(POLL)
        return cancelled

    def happens(self, events: dict[str, Path], job: Job) -> bool:
        if job.name in events and events[job.name].exists() and self.tasks(job.id).exists():
            del events[job.name]
            return True
        return False

    def warn(self, job: Job) -> None:
        """What --signal asks for: USR2@120 is for the step's processes, and not for the batch shell."""
        name = (job.flags["signal"] or "").split("@")[0]
        self.signal_tasks(job, signal.Signals[f"SIG{name}"])

    def signal_tasks(self, job: Job, number: signal.Signals) -> None:
        """To the tasks' own processes, not their children, as SLURM does where cgroups hold a job together."""
        processes = self.tasks(job.id).read_text().split() if self.tasks(job.id).exists() else ()
        for process in processes:
            os.kill(int(process), number)


def dependency_states(job: Job, jobs: list[Job]) -> set[str]:
    """The states of all that the job waits for."""
    if not job.flags["dependency"]:
        return set()
    kind, *families = job.flags["dependency"].split(":")
    needed = [j for j in jobs if str(j.family) in families]
    return {j.state for j in needed if kind == "afterok" or j.index == job.index}


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("sbatch", allow_abbrev=False)
    for name in FLAGS:
        parser.add_argument(f"--{name}")
    parser.add_argument("--requeue", action="store_true")
    parser.add_argument("--parsable", action="store_true")
    parser.add_argument("script", nargs="?", type=Path)
    return parser.parse_args(arguments)


def directives(script: Path) -> list[str]:
    """The script's #SBATCH lines; they end at its first command."""
    found = []
    for line in script.read_text().splitlines():
        if line.startswith("#SBATCH"):
            found += shlex.split(line.removeprefix("#SBATCH"), comments=True)
        elif line.strip() and not line.startswith("#"):
            break
    return found


def sbatch(cluster: Cluster, arguments: list[str]) -> int:
    script = parse(arguments).script
    options = parse([*directives(script), *arguments])  # the command line wins
    flags = {key: value for key, value in vars(options).items() if key != "script"}
    flags["chdir"] = flags["chdir"] or os.getcwd()
    jobs = cluster.jobs()
    kind, *families = (flags["dependency"] or "afterok").split(":")
    if kind not in ("afterok", "aftercorr") or set(families) - {str(j.family) for j in jobs}:
        print("sbatch: error: Batch job submission failed: Job dependency problem", file=sys.stderr)
        return 1
    first = max((j.id for j in jobs), default=100) + 1
    copy = cluster.folder / "spool" / str(first) / "slurm_script"
    copy.parent.mkdir(parents=True)
    shutil.copy(script, copy)
    copy.chmod(0o755)
    environment = dict(os.environ) if flags["export"] in (None, "ALL") else {"PATH": os.environ["PATH"]}
    if flags["array"] is None:
        cluster.save(Job(first, str(copy), flags, environment))
    else:
        low, high = (int(number) for number in flags["array"].split("-"))
        for index in range(low, high + 1):
            number = first if index == high else first + 1 + index - low
            cluster.save(Job(number, str(copy), flags, environment, first, index))
    print(first if flags["parsable"] else f"Submitted batch job {first}")
    return 0


def scontrol(cluster: Cluster, arguments: list[str]) -> int:
    if arguments[:2] == ["show", "hostnames"]:
        print("\n".join(arguments[2].split(",")))
        return 0
    verb, target = arguments
    assert verb == "requeue"
    jobs = [j for j in cluster.jobs() if target in (str(j.family), str(j.id), f"{j.array}_{j.index}")]
    if not jobs or not all(j.flags["requeue"] for j in jobs):
        print("scontrol: error: Requested operation is presently disabled", file=sys.stderr)
        return 1
    for job in jobs:
        if job.state == "RUNNING":
            cluster.requeue_mark(job).touch()
        else:
            job.state, job.restarts = "PENDING", job.restarts + 1
            cluster.save(job)
    return 0


def scancel(cluster: Cluster, arguments: list[str]) -> int:
    for job in cluster.jobs():
        if {str(job.family), str(job.id)} & set(arguments):
            job.state = "CANCELLED"
            cluster.save(job)
    return 0


def srun(cluster: Cluster, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("srun", allow_abbrev=False)
    parser.add_argument("--wait", type=float, default=float("inf"))
    parser.add_argument("--kill-on-bad-exit", type=int, default=1)  # as clusters with KillOnBadExit=1 have it
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    own = [{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(int(os.environ["SLURM_NTASKS"]))]
    tasks = [subprocess.Popen(options.command, env={**os.environ, **o}, start_new_session=True) for o in own]
    place = cluster.tasks(int(os.environ["SLURM_JOB_ID"]))
    place.with_suffix(".new").write_text(" ".join(str(task.pid) for task in tasks))
    place.with_suffix(".new").rename(place)
    wait_for(tasks, options.wait, bool(options.kill_on_bad_exit))
    place.unlink()
    return max(code if code >= 0 else 128 - code for code in (task.returncode for task in tasks))


def wait_for(tasks: list[subprocess.Popen], patience: float, at_once: bool) -> None:
    """All of them; the others are killed when the first has ended so many seconds ago, or at once if it failed."""
    ended = None
    while None in (states := [task.poll() for task in tasks]):
        if ended is None and any(state is not None for state in states):
            ended = time.monotonic()
        if ended is not None and (time.monotonic() - ended > patience or (at_once and any(states))):
            for task in tasks:
                task.kill()
        time.sleep(POLL)


PROGRAMS = {"sbatch": sbatch, "scancel": scancel, "scontrol": scontrol, "srun": srun}

if __name__ == "__main__":
    folder, program, *rest = sys.argv[1:]
    sys.exit(PROGRAMS[program](Cluster(Path(folder)), rest))
