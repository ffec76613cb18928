"""What gpu.sh leaves: OUT/parts/NAME.json, the record of a part, and OUT/gpu.json, the machine and all records.

A record: status (running, done, failed, timed out, skipped), reason, started, limit_s, seconds, results, and where it
went wrong, log: the end of what the part printed. "running" is what a killed script leaves.
"""

import json
from pathlib import Path
from typing import Any

PARTS = ("tests", "agreement", "int8", "training", "feeding", "distillation")
Record = dict[str, Any]


def record_of(out: Path, name: str) -> Record:
    """Empty where the part was never begun."""
    return _read(out / "parts" / f"{name}.json")


def update(out: Path, name: str, **changes: Any) -> None:
    _write(out / "parts" / f"{name}.json", record_of(out, name) | changes)


def begin(out: Path, name: str, **record: Any) -> None:
    """A new record in the place of an earlier one."""
    _write(out / "parts" / f"{name}.json", record)


def read_all(out: Path) -> Record:
    return _read(out / "gpu.json")


def join(out: Path, head: Record) -> Record:
    """The machine's record `head` with those of all parts so far, as gpu.json holds it."""
    parts = {name: record for name in PARTS if (record := record_of(out, name))}
    _write(out / "gpu.json", whole := {**head, "parts": parts})
    return whole


def _read(path: Path) -> Record:
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, content: Record) -> None:
    """Whole or not at all: the writer may be killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".partial")
    draft.write_text(json.dumps(content, indent=1) + "\n")
    draft.replace(path)
