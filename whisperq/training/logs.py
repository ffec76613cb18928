"""metrics.jsonl, and TensorBoard where it is asked for."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisperq.disk import sync
from whisperq.errors import UsageError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

METRICS = "metrics.jsonl"


class MetricsLog:
    """One JSON object a line. A training that goes on from a step forgets the lines behind it."""

    def __init__(self, folder: Path, report_to: str, length: int, step: int) -> None:
        """`length`: bytes of the file that belong to the steps so far; `step`: their number."""
        self.file = open(folder / METRICS, "ab")  # closed by `close`
        self.file.truncate(min(length, self.file.seek(0, 2)))  # never longer: that would fill it with zeros
        self.board = _board(folder / "tensorboard", step) if report_to == "tensorboard" else None

    def write(self, entry: dict[str, Any]) -> None:
        self.file.write((json.dumps(entry) + "\n").encode())
        self.file.flush()
        if self.board:
            for name, value in _scalars(entry):
                self.board.add_scalar(name, value, entry["step"])

    def sync(self) -> int:
        """Until all is on the disk; returns the file's length in bytes."""
        self.file.flush()
        sync(Path(self.file.name))
        return self.file.tell()

    def close(self) -> None:
        self.file.close()
        if self.board:
            self.board.close()


def _board(folder: Path, step: int) -> "SummaryWriter":
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError('--report-to tensorboard needs a package: pip install "whisperq[tensorboard]"') from None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _scalars(entry: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for key, value in entry.items():
        if isinstance(value, dict):
            found += _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and key != "step":
            found.append((prefix + key, value))
    return found
