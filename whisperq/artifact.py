"""A folder sealed by its manifest.json.

    with create(out, kind, command, config, inputs) as draft:
        (draft.folder / "ranges.json").write_text(...)
        draft.results["sites"] = 12

The payload is written into a hidden sibling, hashed, synced and renamed: a folder with a manifest
is complete, a folder without one is never read. The same command over its own finished output
raises `Finished`; a different one is refused unless `force`. Of several processes at one task the first writes.

An input is named by `reference` before anything of it is read. Where it is another when all is read, nothing is sealed.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from whisperq.disk import first_process, system_errors
from whisperq.errors import Interrupted, UsageError
from whisperq.hashing import file_sha256
from whisperq.publishing import PARTIAL, clear_killed, destination, publish, sibling
from whisperq.reading import ATTEMPTS, Artifact, is_artifact, load
from whisperq.references import MANIFEST, Reference, all_read, blaming, stamps
from whisperq.sealing import plain, seal

__all__ = [
    "MANIFEST", "Artifact", "Draft", "Finished", "all_read", "create", "is_artifact", "load", "plain", "reference",
    "refuse_overwrite",
]  # fmt: skip


class Finished(Exception):
    """The same command, settings and inputs have already written this artifact."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(str(artifact.path))
        self.artifact = artifact


@dataclass
class Draft:
    """An artifact being written: put payload files into `folder`, numbers into `results`."""

    folder: Path
    results: dict[str, Any] = field(default_factory=dict)


def reference(path: Path, verify: bool = True) -> Reference:
    """An input, before anything of it is read; without `verify` an artifact may be damaged.

    Raises InputError for an artifact whose files are not what its manifest says, Interrupted for one being replaced.
    """
    for _ in range(ATTEMPTS):
        found = Reference(path, stamps(path, _covered(path)), partial(_sha256, verify=verify))
        if found.files == stamps(path, _covered(path)):
            return found
    raise Interrupted(f"{path} is being written; run the same command again when it is there")


def _covered(path: Path) -> list[str]:
    """The names of what the hash of an input covers; "" for a file itself."""
    if is_artifact(path):
        return [MANIFEST, *load(path, verify=False).manifest["files"]]
    if path.is_file():
        return [""]
    return [p.name for p in sorted(path.iterdir()) if p.is_file() and p.suffix in (".json", ".safetensors", ".txt")]


def _sha256(path: Path, verify: bool) -> str:
    if is_artifact(path):
        load(path, verify=verify)
        return file_sha256(path / MANIFEST)
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    for name in _covered(path):
        digest.update(f"{name} {file_sha256(path / name)}\n".encode())
    return digest.hexdigest()


@contextmanager
def create(
    out: Path, kind: str, command: str, config: Mapping[str, Any], inputs: Mapping[str, Any], force: bool = False
) -> Iterator[Draft]:
    """Write an artifact; it appears at `out` whole or not at all.

    Raises Finished when `out` already is this very result, UsageError when it is something else, Interrupted when an
    input was replaced meanwhile. What processes other than the first put into their drafts is thrown away.
    """
    out = Path(out)
    refuse_overwrite(out, command, config, inputs, force)
    out = destination(out)
    if not first_process():
        with tempfile.TemporaryDirectory() as temporary, blaming(inputs):
            yield Draft(Path(temporary))
        return
    new_parents = [folder for folder in out.parents if not folder.exists()]
    folder = sibling(out, PARTIAL)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier process with our number, as in containers
        folder.mkdir()
        draft = Draft(folder)
        with system_errors(out):
            with blaming(inputs):
                yield draft
            seal(folder, kind, command, json.loads(json.dumps(config)), all_read(inputs), draft.results)
            if not publish(folder, out, replace=force):
                with suppress(Finished):  # another process was quicker; equal results are one
                    refuse_overwrite(out, command, config, inputs, force)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a refusal leaves no empty folder
            for parent in new_parents:
                parent.rmdir()


def refuse_overwrite(
    out: Path, command: str, config: Mapping[str, Any], inputs: Mapping[str, Any], force: bool
) -> None:
    """Raises as `create` does, before long work begins. A setting that an older version did not know is None."""
    config = json.loads(json.dumps(config))  # as it will be read back: tuples become lists
    place = destination(out)
    if first_process():
        clear_killed(place, MANIFEST)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not is_artifact(out):
        raise UsageError(f"{out} exists and was not finished by whisperq; remove it or choose another --out")
    if force:
        return
    old = load(out, verify=False)
    hashes, old_hashes = ({role: entry["sha256"] for role, entry in n.items()} for n in (inputs, old.inputs))
    keys = sorted(k for k in {*config, *old.config} if config.get(k) != old.config.get(k))
    if not keys and (old.manifest["command"], old_hashes) == (command, hashes):
        raise Finished(load(out))
    keys += sorted(f"input {r}" for r in {*hashes, *old_hashes} if hashes.get(r) != old_hashes.get(r))
    differing = ", ".join(keys) or "its command"
    remedy = "give --force to replace it or --out to write elsewhere"
    raise UsageError(f"{out} already holds another result (it differs in {differing}); {remedy}")
