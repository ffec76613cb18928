"""Two processes under torch.distributed."""

import socket
from pathlib import Path

from support.processes import Job


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def pair(folder: Path, *arguments: str, world: int = 2) -> list[Job]:
    """The environment that torchrun sets, and its exit codes, which torchrun would hide."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world)}
    return [Job(folder, *arguments, environment={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(world)]


def ended(jobs: list[Job]) -> list[int]:
    codes = [job.exit_code() for job in jobs]
    assert not any("Traceback" in job.said for job in jobs), [job.said for job in jobs]
    return codes
