"""What several processes observed of a model's sites, as one process would have."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar


class Mergeable(Protocol):
    """What was observed of a site, by one of several processes."""

    def merge(self, other: Any) -> None:
        """Add what another of the same kind has observed."""


Merging = TypeVar("Merging", bound=Mergeable)


def merged(shards: Sequence[dict[str, Merging]]) -> dict[str, Merging]:
    """Observers by address, those of all shards merged; modifies the first shard in place."""
    first, *others = shards
    for other in others:
        for address, observed in other.items():
            first[address].merge(observed)
    return first
