"""Settings that had another name in an earlier version: flags, YAML, Python's arguments and manifests keep the old one.

`todays_settings("quantize", {"weights": "rtn"})` gives `{"weight_observer": "minmax"}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from whisperq.errors import UsageError


@dataclass(frozen=True)
class Former:
    """A setting's name today, and those of its values that had another name, too."""

    name: str
    values: Mapping[Any, Any] = field(default_factory=dict)

    def value(self, old: Any) -> Any:
        return self.values.get(old, old) if isinstance(old, str) else old


WEIGHT_OBSERVER = Former("weight_observer", {"rtn": "minmax"})
FORMER: dict[str, dict[str, Former]] = {"quantize": {"weights": WEIGHT_OBSERVER}}


def todays_settings(command: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """A command's settings by today's names and values; one that is None counts as not given.

    Raises UsageError for a setting that is given by both names.
    """
    former, found = FORMER.get(command, {}), dict(given)
    for old in former.keys() & found.keys():
        value, today = found.pop(old), former[old]
        if value is None:
            continue
        if found.get(today.name) is not None:
            raise UsageError(f"{old} is the earlier name of {today.name}; give one of the two")
        found[today.name] = today.value(value)
    return found
