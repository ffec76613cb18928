"""Runs the parts of gpu.sh, each in a process of its own and within its time, and keeps their records.

    python gpu.py OUT          settings by environment: gpu.sh

The limits add up to just under six minutes. A part that ends early leaves its time to the next ones.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gpu_tables
from gpu_record import PARTS, begin, join, read_all, record_of, update
from gpu_task import Task
from int8 import say

HERE = Path(__file__).parent
LIMITS = {"tests": 70, "agreement": 100, "int8": 80, "training": 60, "feeding": 20, "distillation": 20}  # seconds
EVERY = ("torch", "transformers", "numpy", "safetensors", "yaml")
COMMANDS = ("soundfile", "soxr", "jiwer", "rich")  # what training on recordings needs beside
NEEDS = {"tests": ("pytest", "rich", "typer"), "feeding": COMMANDS, "distillation": COMMANDS}
SAME = ("card", "commit", "size")  # one folder holds one of each
GRACE = 3  # seconds that a part has to end when it is told to
LOG_LINES = 20


@dataclass(frozen=True)
class Settings:
    """The environment's."""

    out: Path
    work: Path
    parts: tuple[str, ...]
    limits: dict[str, float]  # those that were given
    size: str | None
    compile: str | None

    @classmethod
    def read(cls, out: str) -> "Settings":
        """Exits for what makes no sense."""
        chosen = os.environ.get("PARTS", " ".join(PARTS)).split()
        given = dict(one.partition("=")[::2] for one in os.environ.get("LIMITS", "").split())
        if unknown := [name for name in (*chosen, *given) if name not in PARTS]:
            refuse(f"there is no part {unknown[0]}; there are {', '.join(PARTS)}")
        work = os.environ.get("WORK") or Path(tempfile.gettempdir()) / "whisperq-benchmark"
        parts = tuple(name for name in PARTS if name in chosen)
        limits = {name: seconds(name, text) for name, text in given.items()}
        return cls(
            Path(out).resolve(), Path(work).resolve(), parts, limits,
            one_of("SIZE", "full", "smallest"), one_of("COMPILE", "yes", "no"),
        )  # fmt: skip


def refuse(why: str) -> None:
    say(why)
    sys.exit(2)


def one_of(name: str, *known: str) -> str | None:
    if (value := os.environ.get(name) or None) not in (None, *known):
        refuse(f"{name} is {value}, but must be one of {', '.join(known)}")
    return value


def seconds(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        refuse(f"LIMITS gives {name} {text or 'nothing'}, which is no number of seconds")
        raise


def head(settings: Settings) -> dict[str, Any]:
    """The machine and the software; an earlier run's into the same folder. Exits where that was of something else."""
    asked = one_of("DEVICE", "auto", "cpu", "cuda") or "auto"
    done = subprocess.run([sys.executable, HERE / "gpu_head.py", asked], capture_output=True, text=True)
    if done.returncode:
        refuse(done.stderr.strip().splitlines()[-1])
    found = json.loads(done.stdout.splitlines()[-1])
    found["size"] = settings.size or ("full" if found["device"] == "cuda" else "smallest")
    earlier = read_all(settings.out)
    for key in SAME if earlier else ():
        if earlier[key] != found[key]:
            refuse(f"{settings.out} holds results of {key} {earlier[key]}, this is {found[key]}: name a new folder")
    return earlier or {"start": datetime.now(UTC).isoformat(timespec="seconds"), **found}


def missing(name: str) -> list[str]:
    return [module for module in (*EVERY, *NEEDS.get(name, ())) if find_spec(module) is None]


def run_part(name: str, head: dict[str, Any], settings: Settings, limit: float) -> None:
    """Leaves the part's record, whatever becomes of it."""
    if absent := missing(name):
        begin(settings.out, name, status="skipped", reason=f"not installed: {', '.join(absent)}")
        return
    compiled = (settings.compile or ("yes" if head["device"] == "cuda" else "no")) == "yes"
    task = Task(
        name, head["device"], head["size"] == "smallest", compiled, str(settings.out), str(settings.work),
        time.time() + limit,
    )  # fmt: skip
    started = datetime.now(UTC).isoformat(timespec="seconds")
    begin(settings.out, name, status="running", started=started, limit_s=limit)
    log = settings.work / "logs" / f"{name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    code = run_process([sys.executable, str(HERE / "gpu_part.py"), json.dumps(asdict(task))], log, limit)
    changes: dict[str, Any] = {"status": "done", "seconds": round(time.monotonic() - began, 1)}
    if code != 0:
        lines = log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]
        changes |= {"status": "timed out" if code is None else "failed", "log": lines}
        changes["reason"] = record_of(settings.out, name).get("reason") or reason_of(code, limit, lines)
    update(settings.out, name, **changes)


def reason_of(code: int | None, limit: float, lines: list[str]) -> str:
    """Why a part that says nothing of it has no end; lines: the last that it printed."""
    if code is None:
        return f"after {limit:g} s"
    if code < 0:
        return f"ended by signal {-code}"
    return lines[-1] if lines else f"exit status {code}"


def run_process(command: list[str], log: Path, limit: float) -> int | None:
    """The exit code; None where it took longer. It and all that it started are ended when this returns."""
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, process_group=0)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            end_group(process)


def end_group(process: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except (ProcessLookupError, PermissionError, subprocess.TimeoutExpired):
            continue


def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that a part ends with its script
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    settings = Settings.read(sys.argv[1])
    found = head(settings)
    join(settings.out, found)
    spare = 0.0
    for name in settings.parts:
        if record_of(settings.out, name).get("status") == "done":
            say(f"{name}: done before")
            continue
        limit = settings.limits.get(name) or round(LIMITS[name] + spare, 1)
        began = time.monotonic()
        run_part(name, found, settings, limit)
        spare = 0.0 if name in settings.limits else limit - (time.monotonic() - began)
        whole = join(settings.out, found)
        (settings.out / "gpu.md").write_text(gpu_tables.render(whole))
        say(gpu_tables.outcome(name, whole["parts"][name]))
    print((settings.out / "gpu.md").read_text())
    records = [record_of(settings.out, name) for name in settings.parts]
    return int(any(record["status"] in ("failed", "timed out") for record in records))


if __name__ == "__main__":
    sys.exit(main())
