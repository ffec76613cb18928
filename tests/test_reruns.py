"""What makes a command's finished output its own, and what later commands may rely on."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import configuration, sample_lines, write_configuration, write_lines
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

EVAL = "eval --model distilled --out e"


def line(index: int = 0) -> dict:
    return sample_lines("validation", index + 1)[index]


def edit_configuration(workspace: Path, edit) -> None:
    path = workspace / "whisperq.yaml"
    content = yaml.safe_load(path.read_text())
    edit(content)
    path.write_text(yaml.safe_dump(content))


def as_mapping(content: dict, role: str, **changes) -> None:
    source = content[role]["digits"] if role == "test" else content[role][0]
    entry = {"path": source, **changes}
    content[role] = {"digits": entry} if role == "test" else [entry]


CHANGES = {
    "normaliser": (EVAL, lambda c: c.update(normalizer="english"), "normalizers"),
    "set's normaliser": (
        EVAL, lambda c: as_mapping(c, "test", normalizer="none"), "normalizers",
    ),
    "limited test set": (EVAL, lambda c: as_mapping(c, "test", limit=3), "input test digits"),
    "weighted training": ("distill", lambda c: as_mapping(c, "train", weight=2.0), "input train"),
    "limited validation": ("calibrate", lambda c: as_mapping(c, "validation", limit=5), "input data"),
}  # fmt: skip


@pytest.mark.parametrize("command, edit, words", CHANGES.values(), ids=CHANGES)
def test_a_configuration_that_decides_otherwise_is_another_command(command, edit, words, copied_run, workspace, invoke):
    first = invoke(*command.split())
    assert first.exit_code == 0, first.stderr
    edit_configuration(workspace, edit)
    again = invoke(*command.split())
    assert again.exit_code == 2 and words in again.stderr, again.stderr


def test_another_part_of_the_recording_is_another_picture(copied_run, workspace, invoke):
    entry = line()
    parts = [
        {**entry, "id": name, "offset": o, "duration": 0.5, "text": "one"} for name, o in (("s1", 0.0), ("s2", 0.5))
    ]
    write_lines(workspace / "parts.jsonl", parts)
    command = "plot-attention --layer dec.0 --test p=parts.jsonl --out picture --utterance"
    assert invoke(*command.split(), "s1").exit_code == 0
    assert invoke(*command.split(), "s2").exit_code == 2


def test_calibration_without_references_uses_hypotheses(copied_run, workspace, invoke):
    lines = [{k: v for k, v in line(i).items() if k != "text"} for i in range(4)]
    write_lines(workspace / "silent.jsonl", lines)
    done = invoke("calibrate", "--data", "silent.jsonl", "--out", "c", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["results"]["utterances"] == 4
    assert "dec.1.fc1" in json.loads((workspace / "c" / "ranges.json").read_text())["sites"]


def test_audio_is_counted_without_durations(copied_run, workspace, invoke):
    lines = [{k: v for k, v in line(i).items() if k != "duration"} for i in range(4)]
    write_lines(workspace / "bare.jsonl", lines)
    done = invoke("calibrate", "--data", "bare.jsonl", "--out", "c", "--json")
    expected = sum(line(i)["duration"] for i in range(4))
    assert json.loads(done.stdout)["results"]["audio_seconds"] == pytest.approx(expected, abs=0.1)


def test_a_copy_of_the_test_list_is_no_calibration_data(copied_run, workspace, digits, invoke):
    shutil.copy(digits / "test.jsonl", workspace / "innocent.jsonl")
    done = invoke("calibrate", "--data", "innocent.jsonl", "--out", "c")
    assert done.exit_code == 2 and "test set 'digits'" in done.stderr


def test_skipped_recordings_are_counted_in_their_set(copied_run, workspace, invoke):
    (workspace / "broken.wav").write_bytes(b"RIFF no audio")
    bad = {"id": "bad", "audio_filepath": "broken.wav", "text": "one"}
    write_lines(workspace / "a.jsonl", [line(0), bad])
    write_lines(workspace / "b.jsonl", [line(1)])
    tests = ("--test", "a=a.jsonl", "--test", "b=b.jsonl")
    done = invoke("eval", "--model", "distilled", *tests, "--skip-bad", "--out", "e", "--json")
    sets = json.loads(done.stdout)["results"]["sets"]
    assert (sets["a"]["skipped"], sets["b"]["skipped"]) == (1, 0)
    done = invoke("outliers", *tests, "--skip-bad", "--out", "o", "--json")
    assert json.loads(done.stdout)["results"]["skipped"] == 1


@pytest.mark.slow
def test_two_runs_models_keep_their_names_apart(copied_run, workspace, invoke):
    for name in ("A", "B"):
        shutil.copytree(workspace / "run", workspace / name / "run")
    command = "outliers --model A/run/distilled --compare B/run/distilled --limit 2 --out o --json"
    titles = json.loads(invoke(*command.split()).stdout)["results"]["titles"]
    assert titles == {"model": "A/run/distilled", "compare": "B/run/distilled"}


def test_the_spelling_map_goes_with_the_student(teacher, workspace, invoke, tmp_path):
    shutil.copytree(teacher, workspace / "t")
    (workspace / "t" / "normalizer.json").write_text(json.dumps({"colour": "color"}))
    assert invoke("init-student", "--teacher", "t").exit_code == 0
    assert json.loads((workspace / "run" / "student" / "normalizer.json").read_text()) == {"colour": "color"}


def test_a_random_gate_obeys_the_seed(workspace, invoke):
    hashes = []
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        done = invoke("init-student", "--gate", "mlp", "--seed", seed, "--out", out, "--json")
        hashes.append(json.loads(done.stdout)["files"]["model.safetensors"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_an_interrupted_distillation_left_is_kept(copied_run, workspace, invoke):
    left = workspace / "run" / "checkpoints"
    left.mkdir(exist_ok=True)
    (left / "best.safetensors").write_bytes(b"weights of hours")
    assert invoke("distill", "--seed", "5", "--force").exit_code == 0
    assert (workspace / "run" / "checkpoints.1" / "best.safetensors").read_bytes() == b"weights of hours"
    assert (left / "step-00000002" / "COMPLETE").exists()  # the new training's, which --max-steps may prolong


def test_a_changed_configuration_says_how_later_jobs_get_it(copied_run, workspace, digits, invoke):
    """The copy in the run folder is what jobs in other folders read."""
    copy, test = copied_run / "whisperq.yaml", {"more": str(digits / "validation.jsonl")}
    edit_configuration(workspace, lambda c: c.update(test=test))
    said = " ".join(invoke("init-student").stderr.split())
    assert f"whisperq.yaml differs from {Path('run') / 'whisperq.yaml'}" in said and "remove the copy" in said
    assert "more" not in copy.read_text()
    copy.unlink()
    assert "differs" not in invoke("init-student").stderr and "more" in copy.read_text()


def test_a_student_is_taken_for_another_before_its_training_has_ended_with_a_warning(copied_run, workspace, invoke):
    shutil.rmtree(copied_run / "distilled")
    warning = "warning: the training in run/checkpoints has not ended; this is the student as it was before it"
    shown = [" ".join(invoke(*words.split()).stderr.split()) for words in
             ("calibrate --dry-run", "outliers --dry-run", "calibrate --dry-run --model student")]  # fmt: skip
    assert [warning in text for text in shown] == [True, True, False]


def test_a_failed_command_does_not_pin_the_configuration(workspace, invoke):
    assert invoke("calibrate", "--run", "new").exit_code == 3
    assert not (workspace / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("share, knows", [("0.5", True), ("0", None)])
def test_a_student_that_learnt_times_says_so_wherever_it_goes(share, knows, workspace, invoke):
    for command in ("init-student", f"distill --timestamp-prob {share}", "calibrate", "quantize", "export"):
        result = invoke(*command.split())
        assert result.exit_code == 0, result.stderr
    for place in ("distilled", "quantized/gemm-w8a8", "onnx/gemm-w8a8"):
        content = json.loads((workspace / "run" / place / "generation_config.json").read_text())
        assert content.get("trained_with_times") is knows, place


@pytest.mark.slow
def test_each_validation_list_has_the_normaliser_that_it_names(workspace, teacher, digits, invoke):
    """As a test set has: under the other one "one two three" is a single word, right or wrong as a whole.

    Of a reference in a script without spaces each character is a word.
    """
    lines = sample_lines("validation", 8)
    lines[0]["text"] = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002"
    write_lines(workspace / "words.jsonl", lines[:4]), write_lines(workspace / "numbers.jsonl", lines[4:])
    named = [{"path": "words.jsonl", "normalizer": "basic"}, {"path": "numbers.jsonl"}]
    content = configuration(teacher, digits) | {"normalizer": "english", "validation": named}
    write_configuration(workspace, content)
    assert invoke("init-student").exit_code == 0 and invoke("distill", "--eval-limit", "8").exit_code == 0
    found = json.loads((workspace / "run" / "distilled" / "manifest.json").read_text())
    assert found["config"]["normalizer"] == found["results"]["normalizer"] == "basic, english"
    log = (workspace / "run" / "distilled" / "metrics.jsonl").read_text().splitlines()
    words = {entry["reference_words"] for entry in map(json.loads, log) if "reference_words" in entry}
    english = EnglishTextNormalizer({})
    counts = [len(one["text"].split()) for one in lines[1:4]] + [len(english(one["text"]).split()) for one in lines[4:]]
    assert words == {6 + sum(counts)} and sum(counts) < sum(len(one["text"].split()) for one in lines[1:])
