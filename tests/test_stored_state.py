"""Checkpoints that somebody changed, with hashes to match: each steps aside as a damaged one does."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import configuration, run_command, write_configuration
from safetensors.torch import load_file, save_file

from whisperq.errors import InputError
from whisperq.training.checkpoints import read_checkpoint

Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory, teacher, digits) -> Path:
    """A working folder with a finished distillation of two steps and the checkpoints of both."""
    folder = tmp_path_factory.mktemp("stored")
    content = configuration(teacher, digits)
    content["defaults"]["distill"] |= {"save_every": 1}
    write_configuration(folder, content)
    for command in ("init-student", "distill"):
        run = ("--config", str(folder / "whisperq.yaml"), "--run", str(folder / "run"))
        assert run_command(command, *run).exit_code == 0
    return folder


@pytest.fixture
def interrupted(two_steps, tmp_path, monkeypatch) -> Path:
    """The same, killed before its last step was made an artifact; it is the working folder."""
    shutil.copytree(two_steps, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "run" / "distilled")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mark(step: Path) -> None:
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in step.iterdir() if p.name != "COMPLETE"}
    (step / "COMPLETE").write_text(json.dumps(hashes))


def state(**changes) -> Change:
    """Keys of state.json, or of its progress, replaced; ... takes one away."""

    def change(step: Path) -> None:
        content = json.loads((step / "state.json").read_text())
        for key, value in changes.items():
            place = content if key in content else content["progress"]
            place[key] = value
            if value is ...:
                del place[key]
        (step / "state.json").write_text(json.dumps(content))
        mark(step)

    return change


def whole(name: str, text: str) -> Change:
    def change(step: Path) -> None:
        (step / name).write_text(text)
        if name != "COMPLETE":
            mark(step)

    return change


def tensors(name: str, change: Callable[[dict, str], None]) -> Change:
    """One tensor of a file changed, the first that is a matrix."""

    def apply(step: Path) -> None:
        found = load_file(step / f"{name}.safetensors")
        change(found, next(k for k, t in sorted(found.items()) if t.dim() == 2 and t.is_floating_point()))
        save_file(found, step / f"{name}.safetensors")
        mark(step)

    return apply


def lost(found: dict, key: str) -> None:
    del found[key]


def surplus(found: dict, key: str) -> None:
    found["other"] = torch.zeros(3)


def shorter(found: dict, key: str) -> None:
    found[key] = found[key][:-1].contiguous()


def broadcast(found: dict, key: str) -> None:
    found[key] = found[key][:1].contiguous()


def halved(found: dict, key: str) -> None:
    found[key] = found[key].half()


CHANGES = {
    "a list for a state": whole("state.json", "[]"),
    "no JSON": whole("state.json", "{"),
    "nested without end": whole("state.json", "[" * 100_000),
    "no text": lambda step: ((step / "state.json").write_bytes(b"\xff\xfe\x00"), mark(step)),
    "no progress": state(progress=...),
    "progress a list": state(progress=[]),
    "settings a list": state(settings=[]),
    "inputs a text": state(inputs="student"),
    "an input without hash": state(inputs={"student": None}),
    "max_steps a text": state(settings={"max_steps": "2"}),
    "step a text": state(step="2"),
    "step true": state(step=True),
    "step of another": state(step=7),
    "step below zero": state(step=-1),
    "an unknown key": state(progress={"step": 2, "stride": 3}),
    "position a text": state(position="here"),
    "position without its window": state(position={"epoch": 0}),
    "position below zero": state(position={"epoch": -1, "window": 0, "taken": 0}),
    "best_step a list": state(best_step=[]),
    "best_wer a text": state(best_wer="low"),
    "best_wer lost": state(best_wer=None),
    "log_bytes a fraction": state(log_bytes=1.5),
    "seconds a text": state(seconds="long"),
    "skipped a text": state(skipped="all"),
    "skipped numbers": state(skipped=[1, 2]),
    "last a number": state(last=3),
    "the mark a list": whole("COMPLETE", "[]"),
    "the mark a number": whole("COMPLETE", "1"),
    "the mark empty": whole("COMPLETE", "{}"),
    "the mark of numbers": whole("COMPLETE", '{"student.safetensors": 1}'),
    "the mark nested": whole("COMPLETE", "[" * 100_000),
    "student no safetensors": whole("student.safetensors", "weights"),
    "optimizer no safetensors": whole("optimizer.safetensors", ""),
    **{
        f"{name} {change.__name__}": tensors(name, change)
        for name in ("student", "optimizer")
        for change in (lost, surplus, shorter, broadcast, halved)
    },
}


READABLE = [name for name in CHANGES if name.startswith(("student ", "optimizer ", "position "))]  # as files they are


@pytest.mark.parametrize("name", [name for name in CHANGES if name not in READABLE])
def test_a_checkpoint_that_is_none_is_not_read(name, interrupted):
    step = interrupted / "run" / "checkpoints" / "step-00000002"
    read_checkpoint(step)
    CHANGES[name](step)
    with pytest.raises(InputError, match="step-00000002 is damaged"):
        read_checkpoint(step)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*READABLE, "progress a list", "the mark a list"])
def test_a_checkpoint_that_is_none_steps_aside(name, interrupted, two_steps):
    CHANGES[name](interrupted / "run" / "checkpoints" / "step-00000002")
    result = run_command("distill", "--config", two_steps / "whisperq.yaml")
    assert result.exit_code == 0 and "step-00000002 is damaged" in result.stderr, result.stderr
    assert "going on from an older one" in result.stderr and "run/checkpoints.1" in result.stderr
    made, expected = (f / "run" / "distilled" / "model.safetensors" for f in (interrupted, two_steps))
    assert made.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("name", ["student shorter", "step a text", "the mark a list"])
def test_where_all_are_damaged_it_is_refused(name, interrupted, two_steps):
    for step in (interrupted / "run" / "checkpoints").glob("step-*"):
        CHANGES[name](step)
    result = run_command("distill", "--config", two_steps / "whisperq.yaml")
    assert result.exit_code == 3 and "--resume never" in result.stderr, result.stderr


def test_a_damaged_checkpoint_that_is_named_is_refused(interrupted, two_steps):
    step = interrupted / "run" / "checkpoints" / "step-00000002"
    CHANGES["optimizer lost"](step)
    result = run_command("distill", "--config", two_steps / "whisperq.yaml", "--resume", step)
    assert result.exit_code == 3 and "is damaged" in result.stderr and step.is_dir()


def test_an_older_one_that_is_damaged_hinders_no_later_save(interrupted, two_steps):
    checkpoints = interrupted / "run" / "checkpoints"
    shutil.rmtree(checkpoints / "step-00000002")
    shutil.copytree(checkpoints / "step-00000001", checkpoints / "step-00000000")
    whole("state.json", "[]")(checkpoints / "step-00000000")
    with pytest.raises(InputError, match="is damaged"):
        read_checkpoint(checkpoints / "step-00000000")
    result = run_command("distill", "--config", two_steps / "whisperq.yaml", "--keep", "3")
    assert result.exit_code == 0, result.stderr


def test_half_a_step_that_a_kill_left_while_it_was_removed_goes_when_nothing_more_is_saved(interrupted, two_steps):
    """Its mark goes first, and then its files: killed in between, it stayed for ever beside the same result."""
    checkpoints = interrupted / "run" / "checkpoints"
    (checkpoints / "step-00000001" / "COMPLETE").unlink()
    (checkpoints / "step-00000001" / "student.safetensors").unlink()
    result = run_command("distill", "--config", two_steps / "whisperq.yaml")
    assert result.exit_code == 0 and "going on from run/checkpoints/step-00000002" in result.stderr
    assert [p.name for p in checkpoints.glob("step-*")] == ["step-00000002"]
    made, expected = (f / "run" / "distilled" / "model.safetensors" for f in (interrupted, two_steps))
    assert made.read_bytes() == expected.read_bytes()


def test_what_a_user_keeps_beside_the_checkpoints_is_left_alone(interrupted, two_steps):
    """Copies and notes: neither taken for the newest, nor counted as kept, nor removed, nor in the way of a save."""
    folder = interrupted / "run" / "checkpoints"
    (best,) = folder.glob("best-*")
    shutil.copytree(folder / "step-00000002", folder / "step-00000002-good")
    (folder / "step-notes").mkdir()
    (folder / "step-notes" / "ideas.txt").write_text("mine")
    for name in ("best-paper", "best-00000001-copy", "best-1"):
        shutil.copy(best, folder / f"{name}.safetensors")
    mine = ("*-good/*", "*-notes/*", "best-paper.*", "best-*-copy.*", "best-1.*")
    before = {path: path.read_bytes() for pattern in mine for path in folder.glob(pattern)}
    result = run_command("distill", "--config", two_steps / "whisperq.yaml", "--max-steps", "4")
    assert result.exit_code == 0 and "going on from run/checkpoints/step-00000002\n" in result.stderr, result.stderr
    assert "damaged" not in result.stderr
    assert {path: path.read_bytes() for path in before if path.exists()} == before and len(before) == 8
    assert {p.name for p in folder.glob("step-*")} == {
        "step-00000003", "step-00000004", "step-00000002-good", "step-notes",
    }  # fmt: skip


def test_who_goes_back_keeps_the_best_weights_of_what_is_left_behind(interrupted, two_steps):
    folder = interrupted / "run" / "checkpoints"
    (best,) = folder.glob("best-*")
    weights = best.rename(folder / "best-00000002.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    state(best_step=2, best_sha256=digest)(folder / "step-00000002")
    state(best_step=None, best_wer=None, best_sha256=None)(folder / "step-00000001")
    first = folder / "step-00000001"
    result = run_command("distill", "--config", two_steps / "whisperq.yaml", "--resume", first)
    assert result.exit_code == 0, result.stderr
    aside = interrupted / "run" / "checkpoints.1"
    assert sorted(p.name for p in aside.iterdir()) == ["best-00000002.safetensors", "step-00000002"]
    assert (aside / "best-00000002.safetensors").read_bytes() == weights
