"""Lines and files that are wrong in one way."""

from pathlib import Path

from conftest import sample_lines


def line(**changes) -> dict:
    return {**sample_lines("validation", 1)[0], **changes}


def corrupt(folder: Path) -> str:
    path = folder / "corrupt.wav"
    path.write_bytes(b"RIFF and nothing that could be decoded")
    return str(path)
