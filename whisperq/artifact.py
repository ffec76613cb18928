"""A folder sealed by its manifest.json.

    with create(out, kind, command, config, inputs) as draft:
        (draft.folder / "ranges.json").write_text(...)
        draft.results["sites"] = 12

The payload is written into a hidden sibling, hashed, synced and renamed: a folder with a manifest
is complete, a folder without one is never read. The same command over its own finished output
raises `Finished`; a different one is refused unless `force`. Of several processes at one task the first writes.
"""

import hashlib
import json
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whisperq import __version__, manifests
from whisperq.disk import first_process, sync
from whisperq.errors import InputError, UsageError
from whisperq.hashing import file_sha256
from whisperq.schema import Fields, count, read_json, record, text

MANIFEST = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Artifact:
    """A finished folder and what its manifest says."""

    path: Path
    manifest: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.manifest["kind"]

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]

    @property
    def inputs(self) -> dict[str, dict[str, str]]:
        return self.manifest["inputs"]

    @property
    def results(self) -> dict[str, Any]:
        return self.manifest["results"]


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


def is_artifact(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def load(path: Path, kind: str | None = None, verify: bool = True) -> Artifact:
    """Read and check an artifact.

    Raises InputError: no manifest, one that is not as whisperq.manifests says, a newer schema, another kind, a file
    that is missing or whose sha256 differs (`verify`).
    """
    if not is_artifact(path):
        raise InputError(f"{path} is not a finished whisperq artifact: it has no {MANIFEST}")
    manifest = Fields(read_json(path / MANIFEST, _this_version), path / MANIFEST)
    found, schema = manifest["kind"], manifest["schema"]
    if schema > SCHEMA:
        raise InputError(f"{path} was written by a newer whisperq (schema {schema}, this one reads {SCHEMA})")
    if kind is not None and found != kind:
        raise InputError(f"{path} holds a {found}, but a {kind} is needed here")
    if verify:
        _verify(path, manifest["files"])
    return Artifact(path, manifest)


def _this_version(manifest: Any, place: str) -> None:
    """What this version can judge: of a newer one's manifest the schema alone."""
    record({"schema": count(1)})(manifest, place)
    (manifests.manifest if manifest["schema"] <= SCHEMA else record({"kind": text}))(manifest, place)


def _verify(path: Path, files: Mapping[str, str]) -> None:
    for name, digest in files.items():
        file = path / name
        if not file.is_file():
            raise InputError(f"{path} lacks its file {name}; run the command that made it again with --force")
        if file_sha256(file) != digest:
            raise InputError(
                f"{file} has changed since it was written (its sha256 differs from the manifest); "
                "run the command that made it again with --force"
            )


def reference(path: Path) -> dict[str, str]:
    """How a manifest names an input: its path and the sha256 of its manifest, or of its content.

    Raises InputError for an artifact whose files are not what its manifest says.
    """
    if is_artifact(path):
        load(path)
        return {"path": str(path.resolve()), "sha256": file_sha256(path / MANIFEST)}
    if path.is_file():
        return {"path": str(path.resolve()), "sha256": file_sha256(path)}
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file() and p.suffix in (".json", ".safetensors", ".txt")):
        digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return {"path": str(path.resolve()), "sha256": digest.hexdigest()}


@contextmanager
def create(
    out: Path, kind: str, command: str, config: Mapping[str, Any], inputs: Mapping[str, Any], force: bool = False
) -> Iterator[Draft]:
    """Write an artifact; it appears at `out` whole or not at all.

    Raises Finished when `out` already is this very result, UsageError when it is something else.
    What processes other than the first put into their drafts is thrown away.
    """
    out = Path(out)
    refuse_overwrite(out, command, config, inputs, force)
    if not first_process():
        with tempfile.TemporaryDirectory() as folder:
            yield Draft(Path(folder))
        return
    new_parents = [folder for folder in out.parents if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    _clear_killed(out)
    folder = _sibling(out, "partial")
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier process with our number, as in containers
    folder.mkdir()
    try:
        draft = Draft(folder)
        yield draft
        _seal(draft, kind, command, json.loads(json.dumps(config)), inputs)
        _publish(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a refusal leaves no empty folder
            for parent in new_parents:
                parent.rmdir()


def _sibling(out: Path, purpose: str) -> Path:
    """A hidden neighbour of this process alone: jobs on several nodes share the file system, not the numbers."""
    return out.parent / f".{out.name}.{purpose}-{socket.gethostname()}-{os.getpid()}"


def _clear_killed(out: Path) -> None:
    """Remove what killed processes of this machine left half-written: of a large model that is gigabytes."""
    for folder in out.parent.glob(f".{out.name}.partial-{socket.gethostname()}-*"):
        try:
            os.kill(int(folder.name.rsplit("-", 1)[1]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (PermissionError, ValueError):
            continue  # somebody else's, and alive


def refuse_overwrite(
    out: Path, command: str, config: Mapping[str, Any], inputs: Mapping[str, Any], force: bool
) -> None:
    """Raises as `create` does, before long work begins. A setting that an older version did not know is None."""
    config = json.loads(json.dumps(config))  # as it will be read back: tuples become lists
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


def _seal(draft: Draft, kind: str, command: str, config: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    files = sorted(p for p in draft.folder.rglob("*") if p.is_file())
    manifest = {
        "kind": kind,
        "schema": SCHEMA,
        "whisperq": __version__,
        "command": command,
        "status": "complete",
        "config": config,
        "inputs": inputs,
        "results": plain(draft.results),
        "files": {str(p.relative_to(draft.folder)): file_sha256(p) for p in files},
    }
    text = json.dumps(manifest, indent=2, allow_nan=False) + "\n"
    for file in files:
        sync(file)
    (draft.folder / MANIFEST).write_text(text)
    sync(draft.folder / MANIFEST)
    for file in files:  # safetensors writes for the owner alone; a run folder's group reads along
        file.chmod((draft.folder / MANIFEST).stat().st_mode)


def plain(value: Any) -> Any:
    """NaN and infinity as null: strict JSON has neither, and one odd figure must not cost a day's result."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _publish(folder: Path, out: Path) -> None:
    """Rename into place; an older artifact steps aside first, so that no moment shows a mixture."""
    old = _sibling(out, "replaced")
    if out.exists():
        out.rename(old)
    folder.rename(out)
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)
