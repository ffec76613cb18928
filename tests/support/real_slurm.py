"""SLURM itself on this machine alone, with the interface of slurm_stand_in: its daemons as processes of the test.

Debian has it as packages slurmctld, slurmd, slurm-client and munge. The one node claims more cores, memory and GPUs
than the machine has, so that the scripts' #SBATCH lines need no edit.
"""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "scancel", "scontrol", "srun")
SYSTEM = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
PATIENCE = 900  # seconds: none waits for ever
CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
GresTypes=gpu
MinJobAge=3600
KillOnBadExit=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=64 RealMemory=1000000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> list[str]:
    """Which of its programs are not installed."""
    return [name for name in (*DAEMONS, *CLIENTS) if shutil.which(name, path=SYSTEM) is None]


@dataclass(frozen=True)
class Job:
    """A job, or one element of an array, as `scontrol show job` has it."""

    id: str  # ARRAY_INDEX of an element: an array's own id is also that of one of them, and means them all
    name: str
    index: int | None
    state: str
    reason: str
    exit_code: int
    restarts: int
    dependency: str
    output: Path


class Cluster:
    """A queue and its one node; `bin` has SLURM's programs, told of this cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.configuration = folder, folder / "bin", folder / "slurm.conf"
        # Name and index of a job -> what happens to it once this file is there: its time is nearly over, which SLURM
        # sees within a minute; it is told so at once; or scancel.
        self.near_limit: dict[tuple[str, int | None], Path] = {}
        self.told: dict[tuple[str, int | None], Path] = {}
        self.cancelled: dict[tuple[str, int | None], Path] = {}
        self._restarted: set[str] = set()
        for place in (self.bin, folder / "state", folder / "spool"):
            place.mkdir(parents=True)
        for name in CLIENTS:
            program = self.bin / name
            program.write_text(f'#!/bin/sh\nSLURM_CONF={self.configuration} exec {path_of(name)} "$@"\n')
            program.chmod(0o755)

    def jobs(self) -> list[Job]:
        lines = self._call("scontrol", "--oneliner", "show", "job").splitlines()
        return [job_of(line) for line in lines if line.startswith("JobId=")]

    def run(self) -> None:
        """Until nothing more can start."""
        until = time.monotonic() + PATIENCE
        while unended := [job for job in self.jobs() if job.state not in ENDED]:
            for job in unended:
                self._events(job)
            if time.monotonic() > until:
                raise TimeoutError(self._call("scontrol", "show", "job"))
            time.sleep(0.3)

    def _events(self, job: Job) -> None:
        for events, command in (
            (self.near_limit, ("scontrol", "update", f"JobId={job.id}", "TimeLimit=2")),  # minutes: USR2@120 is due
            (self.told, ("scancel", "--signal=USR2", job.id)),  # to tasks, not to the batch shell, as USR2@120 is
            (self.cancelled, ("scancel", job.id)),
        ):
            if (file := events.get((job.name, job.index))) and file.exists():
                del events[job.name, job.index]
                self._call(*command)
        if job.restarts and job.id not in self._restarted:
            # SLURM lets it wait two minutes until then, and not in vain: slurmd launches none that it is still ending.
            self._restarted.add(job.id)
            self._call("scontrol", "update", f"JobId={job.id}", "TimeLimit=60")

    def _call(self, *command: str) -> str:
        program = [str(self.bin / command[0]), *command[1:]]
        return subprocess.run(program, check=True, capture_output=True, text=True).stdout


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """A cluster whose daemons end with the context."""
    cluster, host = Cluster(folder), socket.gethostname().partition(".")[0]
    ports = {"controller": free_port(), "node": free_port()}
    text = CONFIGURATION.format(folder=folder, host=host, user=getpass.getuser(), **ports)
    cluster.configuration.write_text(text)
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={place}\n" for place in ("/dev/null", "/dev/zero")))
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "seed", "log")]
    commands = (
        [path_of("munged"), "--foreground", "--force", f"--socket={folder}/munge.socket", *munge],
        [path_of("slurmctld"), "-D", "-f", str(cluster.configuration)],
        [path_of("slurmd"), "-D", "-f", str(cluster.configuration)],
    )
    daemons = []
    try:
        for name, command in zip(DAEMONS, commands, strict=True):
            with (folder / f"{name}.txt").open("w") as output:
                environment = {**os.environ, "SLURM_CONF": str(cluster.configuration)}
                daemons.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment))
            time.sleep(0.5)
        wait_until(lambda: "State=IDLE" in cluster._call("scontrol", "--oneliner", "show", "node"), folder)
        yield cluster
    finally:
        with suppress(subprocess.CalledProcessError):
            cluster._call("scancel", f"--user={getpass.getuser()}")
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def wait_until(true: Callable[[], bool], folder: Path) -> None:
    for _ in range(100):
        with suppress(subprocess.CalledProcessError):
            if true():
                return
        time.sleep(0.2)
    raise TimeoutError("\n".join(file.read_text()[-2000:] for file in folder.glob("*.txt")))


def path_of(name: str) -> str:
    path = shutil.which(name, path=SYSTEM)
    assert path, name
    return path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def value_of(line: str, name: str) -> str:
    """Of a line of `scontrol --oneliner`; values may hold spaces, names never."""
    rest = f" {line}".partition(f" {name}=")[2]
    words = rest.split(" ")
    end = next((i for i, word in enumerate(words) if i and "=" in word), len(words))
    return " ".join(words[:end]).strip()


def job_of(line: str) -> Job:
    index = value_of(line, "ArrayTaskId")
    single = not index.isdigit()
    return Job(
        id=value_of(line, "JobId") if single else f"{value_of(line, 'ArrayJobId')}_{index}",
        name=value_of(line, "JobName"),
        index=None if single else int(index),
        state=value_of(line, "JobState"),
        reason=value_of(line, "Reason"),
        exit_code=int(value_of(line, "ExitCode").split(":")[0]),
        restarts=int(value_of(line, "Restarts")),
        dependency=value_of(line, "Dependency"),
        output=Path(value_of(line, "StdOut")),
    )
