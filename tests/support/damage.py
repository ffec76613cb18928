"""Ways to damage what a command reads, and what every refusal has in common."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import Result

# What a refused command may leave: the resolved configuration and the log of a training that broke off.
LEFT = ("whisperq.yaml", "metrics.jsonl")


@dataclass(frozen=True)
class Case:
    """A command line, how it ends, what its one sentence names, and what to damage before."""

    command: str
    code: int
    words: tuple[str, ...]
    prepare: Callable[[Path], object] | None = None


def files(folder: Path) -> set[Path]:
    return {p for p in folder.rglob("*") if p.is_file()}


def refusal(result: Result) -> str:
    """The one sentence of a refused command: the last line on standard error, nothing on standard output."""
    lines = result.stderr.strip().splitlines()
    ours = [line for line in lines if line.startswith("whisperq: ")]
    assert len(ours) == 1 and ours[0] == lines[-1], result.stderr
    assert "Traceback" not in result.stderr and not result.stdout
    return ours[0]


def check_refused(case: Case, invoke, workspace: Path, **names: object) -> None:
    """Exit code, sentence, and nothing half-written."""
    before = files(workspace)
    result = invoke(*case.command.format(**names).split())
    assert result.exit_code == case.code, result.output
    message = refusal(result)
    for word in case.words:
        assert word in message, message
    assert {p.name for p in files(workspace) - before} <= set(LEFT)
    assert not [p for p in workspace.rglob(".*") if "partial" in p.name]


def change_configuration(folder: Path, **changes: object) -> None:
    path = folder / "whisperq.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def put_nan(name: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[name].view(-1)[:1].fill_(float("nan"))


def reseal(folder: Path) -> None:
    """Make the manifest true again: the damage shall be found by what it does."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"] = {name: sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
