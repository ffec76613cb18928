"""An artifact's results, read with a sentence for what they lack."""

from pathlib import Path
from typing import Any, NoReturn

from whisperq.artifact import MANIFEST
from whisperq.errors import InputError


class Results(dict[str, Any]):
    """A manifest's results, and every mapping in them: a key that is not there is bad input, no fault of ours."""

    def __init__(self, content: dict[str, Any], path: Path) -> None:
        super().__init__({key: _named(value, path) for key, value in content.items()})
        self._path = path

    def __missing__(self, key: str) -> NoReturn:
        raise InputError(
            f"{self._path / MANIFEST} lacks {key!r} in its results; run the command that made it again with --force"
        )


def _named(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return Results(value, path)
    return [_named(each, path) for each in value] if isinstance(value, list) else value
