"""What of a model's folder gets into an artifact that is made of it: known files, and none from outside."""

import json
import shutil
from pathlib import Path

import pytest
from support.damage import refusal

STRAY = ("qparams.json", "notes.txt", "secret.json", "smoothing.json", "alphabet.json", "modeling_evil.py")


@pytest.fixture
def foreign(workspace, teacher) -> Path:
    """A float model's folder that no command of ours made, with a calibration of it."""
    return Path(shutil.copytree(teacher, workspace / "model"))


def quantized(invoke, *more: str):
    result = invoke("calibrate", "--model", "./model", "--batches", "1")
    assert result.exit_code == 0, result.output
    return invoke("quantize", "--model", "./model", "--out", "new", *more)


def test_stray_files_stay_where_they_are(foreign, workspace, invoke):
    assert quantized(invoke).exit_code == 0
    expected = {p.name for p in (workspace / "new").iterdir()}
    grids = json.loads((workspace / "new/qparams.json").read_text())
    for name in STRAY:
        (foreign / name).write_text('{"weights": {}, "activations": {}}')
    (foreign / "deep").mkdir()
    (foreign / "link.json").symlink_to("/etc/hostname")
    assert invoke("calibrate", "--model", "./model", "--batches", "1", "--force").exit_code == 0
    result = invoke("quantize", "--model", "./model", "--out", "new", "--force")
    assert result.exit_code == 0, result.output
    assert {p.name for p in (workspace / "new").iterdir()} == expected
    assert json.loads((workspace / "new/qparams.json").read_text()) == grids and len(grids["weights"]) > 30


COMMANDS = {
    "quantize": "quantize --model ./model --activations dynamic --out new",
    "export": "export --model ./model --float --out new",
    "init-student": "init-student --teacher ./model --layers 2 --out new",
    "distill": "distill --model ./model --teacher ./model --max-steps 1 --out new",
}
LINKED = ("normalizer.json", "generation_config.json", "config.json", "tokenizer_config.json")


def test_a_template_of_chats_is_no_part_of_a_model_of_speech(foreign, workspace, invoke):
    (foreign / "chat_template.jinja").write_text("whatever lies here")
    for command in COMMANDS.values():
        result = invoke(*command.split())
        assert result.exit_code == 0, result.output
        assert not list((workspace / "new").rglob("chat*"))
        shutil.rmtree(workspace / "new")


@pytest.mark.parametrize("name", LINKED)
@pytest.mark.parametrize("command", COMMANDS)
def test_links_out_of_the_folder_are_refused(command, name, foreign, workspace, invoke):
    outside = workspace / "elsewhere.json"
    outside.write_text((foreign / name).read_text() if (foreign / name).exists() else "{}")
    (foreign / name).unlink(missing_ok=True)
    (foreign / name).symlink_to(outside)
    result = invoke(*COMMANDS[command].split())
    assert result.exit_code == 3 and not (workspace / "new").exists()
    assert f"{name} is a link out of the model's folder, to {outside}" in refusal(result)


def test_links_inside_the_folder_and_of_the_hubs_cache_are_followed(workspace, teacher, invoke):
    """huggingface_hub keeps models--OWNER--NAME/snapshots/COMMIT/FILE -> ../../blobs/HASH."""
    snapshot, blobs = (workspace / "models--a--b" / part for part in ("snapshots/abc", "blobs"))
    snapshot.mkdir(parents=True), blobs.mkdir()
    for i, file in enumerate(sorted(teacher.iterdir())):
        shutil.copy(file, blobs / f"{i:064x}")
        (snapshot / file.name).symlink_to(Path("../../blobs") / f"{i:064x}")
    (workspace / "model").symlink_to(snapshot)
    assert quantized(invoke).exit_code == 0
    config = workspace / "new/config.json"
    assert not config.is_symlink() and config.read_text() == (teacher / "config.json").read_text()
