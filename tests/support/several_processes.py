"""Several processes at one task."""

import socket
from pathlib import Path

from support.processes import Job


def processes(folder: Path, world: int, *arguments: str) -> list[Job]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [Job(folder, *arguments, environment={**common, "RANK": str(rank)}) for rank in range(world)]


def all_at_once(folder: Path, world: int, *arguments: str) -> list[Job]:
    jobs = processes(folder, world, *arguments)
    assert [job.exit_code() for job in jobs] == [0] * world, "\n".join(job.said for job in jobs)
    return jobs
