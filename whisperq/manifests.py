"""What a manifest.json holds: what all have, and the results of its kind, as `whisperq.kinds` declares them.

Results that are null are those that no finite number was found for.
"""

from typing import Any

from whisperq.kinds import RESULTS
from whisperq.kinds.pattern import check_of
from whisperq.schema import (
    Wrong,
    anything,
    count,
    digest,
    each,
    either,
    items,
    maybe,
    number,
    record,
    switch,
    text,
)

COUNT, TEXT = maybe(count()), maybe(text)
SETTING = either(text, maybe(number()), switch)
CONFIG = record({}, {
    "seed": COUNT, "exclude": items(text), "normalizers": either(maybe(each(text)), items(text)),
    **dict.fromkeys("normalizer scorer language task layer runtime".split(), TEXT),
})  # fmt: skip


def inside(value: Any, place: str) -> None:
    """A file's name: relative, and within its artifact."""
    text(value, place)
    if value.startswith("/") or ".." in value.split("/"):
        raise Wrong(f"{place} lies outside the artifact")


NAMED = record({"path": text, "sha256": digest})
MANIFEST = record({
    "kind": text, "schema": count(1), "command": text, "config": CONFIG, "inputs": each(NAMED),
    "files": each(digest, inside), "results": record({}),
})  # fmt: skip


def manifest(value: Any, place: str) -> None:
    """A whole manifest: what all have, then the results of its kind."""
    MANIFEST(value, place)
    each(either(SETTING, items(SETTING), each(SETTING)))(value["config"], "config")
    record({}, {"figures": items(text)})(value["results"], "results")
    if value["kind"] in RESULTS:
        check_of(RESULTS[value["kind"]])(value["results"], "results")
    anything(value, place)
