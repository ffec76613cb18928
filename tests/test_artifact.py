"""Artifacts: whole or absent, checked, never overwritten by accident."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from whisperq import artifact
from whisperq.errors import InputError, UsageError

INPUTS = {"data": {"path": "/lists/dev.jsonl", "sha256": "5" * 64}}


def write(out: Path, text: str = "payload", config: dict | None = None, inputs: dict = INPUTS, force: bool = False):
    with artifact.create(out, "student", "init-student", config or {"layers": 2}, inputs, force) as draft:
        (draft.folder / "deep").mkdir()
        (draft.folder / "deep" / "weights.bin").write_text(text)
        draft.results["count"] = 3
    return artifact.load(out)


def change_manifest(folder: Path, **changes) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_an_artifact_comes_back_as_it_was_written(tmp_path):
    found = write(tmp_path / "sub" / "student")
    manifest = json.loads((tmp_path / "sub" / "student" / "manifest.json").read_text())
    assert (found.kind, found.config, found.inputs, found.results) == (
        "student", {"layers": 2}, INPUTS, {"count": 3}
    )  # fmt: skip
    assert manifest["files"] == {"deep/weights.bin": hashlib.sha256(b"payload").hexdigest()}
    assert (manifest["command"], manifest["status"], manifest["schema"]) == ("init-student", "complete", 1)
    assert names(tmp_path / "sub") == ["student"]  # no hidden sibling


def test_an_input_artifact_is_named_by_its_manifest_and_a_list_by_its_content(tmp_path):
    write(tmp_path / "student")
    (tmp_path / "dev.jsonl").write_text("{}\n")
    for name, content in (("student", "student/manifest.json"), ("dev.jsonl", "dev.jsonl")):
        path, expected = tmp_path / name, hashlib.sha256((tmp_path / content).read_bytes()).hexdigest()
        assert artifact.reference(path) == {"path": str(path), "sha256": expected}


def test_a_foreign_models_hash_follows_its_weights_and_not_its_place(tmp_path):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_text("three" if name == "three" else "weights")
    one, two, three = (artifact.reference(tmp_path / n)["sha256"] for n in ("one", "two", "three"))
    assert one == two != three


def test_an_error_inside_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        with artifact.create(tmp_path / "runs" / "one" / "student", "student", "init-student", {}, {}) as draft:
            (draft.folder / "half").write_text("half")
            _ = 1 / 0
    assert names(tmp_path) == []


def test_an_error_leaves_folders_that_were_there(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(ZeroDivisionError):
        with artifact.create(tmp_path / "runs" / "one" / "student", "student", "init-student", {}, {}):
            (tmp_path / "runs" / "one" / "other").write_text("of somebody else")
            _ = 1 / 0
    with pytest.raises(ZeroDivisionError):
        with artifact.create(tmp_path / "runs" / "two" / "student", "student", "init-student", {}, {}):
            _ = 1 / 0
    assert names(tmp_path) == ["runs"] and names(tmp_path / "runs") == ["one"]
    assert names(tmp_path / "runs" / "one") == ["other"]


KILLED = """
import os, sys, time
from pathlib import Path
from whisperq import artifact
with artifact.create(Path(sys.argv[1]), "student", "init-student", {"layers": 2}, {}) as draft:
    (draft.folder / "half.bin").write_bytes(b"x" * 1000)
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_nothing_readable_and_a_rerun_works(tmp_path):
    out = tmp_path / "student"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(out)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists() and names(tmp_path)  # what it had begun lies there under a hidden name
    assert not any(artifact.is_artifact(p) for p in tmp_path.iterdir())
    assert write(out, inputs={}).results == {"count": 3}


def test_the_same_command_over_its_own_output_is_finished(tmp_path):
    write(tmp_path / "student", config={"indices": (0, 2)})  # a tuple comes back as a list
    before = (tmp_path / "student" / "manifest.json").stat().st_mtime_ns
    with pytest.raises(artifact.Finished) as finished:
        write(tmp_path / "student", "other", config={"indices": (0, 2)})
    assert finished.value.artifact.results == {"count": 3}
    assert (tmp_path / "student" / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change, named",
    [
        ({"config": {"layers": 3}}, "it differs in layers)"),
        ({"config": {"layers": 2, "gate": "none"}}, "it differs in gate)"),
        ({"inputs": {"data": {"path": "/lists/dev.jsonl", "sha256": "6" * 64}}}, "it differs in input data)"),
    ],
)
def test_another_result_is_refused_and_the_difference_named(tmp_path, change, named):
    write(tmp_path / "student")
    with pytest.raises(UsageError, match="--force") as refused:
        write(tmp_path / "student", **change)
    assert named in str(refused.value)


def test_force_replaces_the_whole_folder(tmp_path):
    write(tmp_path / "student")
    (tmp_path / "student" / "stray").write_text("from before")
    new = write(tmp_path / "student", "new", config={"layers": 3}, force=True)
    assert new.config == {"layers": 3} and names(tmp_path / "student") == ["deep", "manifest.json"]
    assert (tmp_path / "student" / "deep" / "weights.bin").read_text() == "new"
    assert names(tmp_path) == ["student"]


def test_a_failing_replacement_keeps_the_old_artifact(tmp_path):
    write(tmp_path / "student")
    with pytest.raises(OSError):
        with artifact.create(tmp_path / "student", "student", "init-student", {"layers": 3}, {}, force=True):
            raise OSError("disk full")
    assert artifact.load(tmp_path / "student").config == {"layers": 2}


@pytest.mark.parametrize("force", [False, True])
def test_what_is_not_ours_is_never_replaced(tmp_path, force):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for name in ("thesis", "file"):
        with pytest.raises(UsageError, match=f"{name} exists and was not finished by whisperq"):
            write(tmp_path / name, force=force)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "student").mkdir()
    assert write(tmp_path / "student").kind == "student"


def break_weights(folder: Path) -> None:
    (folder / "deep" / "weights.bin").write_text("payloaD")


DAMAGE = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "not a finished whisperq artifact"),
    "cut manifest": (lambda f: (f / "manifest.json").write_text('{"kind": "stu'), "damaged"),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), "damaged"),
    "not text": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"), "damaged"),
    "no inputs": (lambda f: change_manifest(f, inputs=None), "damaged"),
    "files a list": (lambda f: change_manifest(f, files=["deep/weights.bin"]), "damaged"),
    "schema a word": (lambda f: change_manifest(f, schema="one"), "damaged"),
    "newer": (lambda f: change_manifest(f, schema=99), "newer whisperq (schema 99"),
    "wrong kind": (lambda f: change_manifest(f, kind="calibration"), "holds a calibration, but a student"),
    "changed file": (break_weights, "weights.bin has changed"),
    "lost file": (lambda f: (f / "deep" / "weights.bin").unlink(), "lacks its file deep/weights.bin"),
}


@pytest.mark.parametrize("damage, words", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_told_with_the_place(tmp_path, damage, words):
    write(tmp_path / "student")
    damage(tmp_path / "student")
    with pytest.raises(InputError) as error:
        artifact.load(tmp_path / "student", "student")
    assert words in str(error.value) and str(tmp_path / "student") in str(error.value)


def test_a_damaged_artifact_is_no_input_and_force_repairs_it(tmp_path):
    write(tmp_path / "student")
    break_weights(tmp_path / "student")
    with pytest.raises(InputError, match="has changed"):
        artifact.reference(tmp_path / "student")
    with pytest.raises(InputError, match="--force"):
        write(tmp_path / "student")
    assert write(tmp_path / "student", force=True).kind == "student"


def test_results_that_are_no_numbers_become_null_in_strict_json(tmp_path):
    with artifact.create(tmp_path / "o", "outliers", "outliers", {}, {}) as draft:
        draft.results |= {"kurtosis": float("nan"), "sites": [["enc.0", float("inf"), 1.5]], "nested": {"x": (1, 2)}}

    def refuse(constant: str):
        raise AssertionError(f"{constant} is no JSON")

    text = (tmp_path / "o" / "manifest.json").read_text()
    results = json.loads(text, parse_constant=refuse)["results"]
    assert results == {"kurtosis": None, "sites": [["enc.0", None, 1.5]], "nested": {"x": [1, 2]}}
