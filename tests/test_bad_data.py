"""Lists and recordings that cannot be used, and what --skip-bad makes of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import sample_lines, write_lines
from support.corrupted_lists import corrupt, line
from support.damage import Case, change_configuration, check_refused

WINDOW_S = 4


def recording(path: Path, seconds: float) -> str:
    soundfile.write(path, np.zeros(int(16000 * seconds)) + 0.01, 16000)
    return str(path)


def cut_off(folder: Path) -> str:
    path = folder / "cut.wav"
    path.write_bytes(Path(recording(path, 1)).read_bytes()[:20_000])
    return str(path)


# A bad line in the folder that it is given, and words of the refusal beside "bad.jsonl line 2".
BAD_LINES = {
    "no JSON": (lambda f: '{"audio_filepath": ', ("is not JSON",)),
    "no object": (lambda f: "[1, 2]", ("is not a JSON object",)),
    "no audio named": (lambda f: {"text": "one"}, ("audio_filepath",)),
    "audio missing": (lambda f: line(id="x", audio_filepath="gone.wav"), ("gone.wav does not exist",)),
    "odd duration": (lambda f: line(id="x", duration="long"), ("the duration 'long'",)),
    "id used twice": (lambda f: line(), ("validation-000", "line 1")),
    "corrupt audio": (lambda f: line(id="x", audio_filepath=corrupt(f)), ("corrupt.wav cannot be decoded",)),
    "audio cut off": (
        lambda f: line(id="x", audio_filepath=cut_off(f), duration=1), ("cut.wav is truncated", "promises 32000 bytes")
    ),
    "no sample": (
        lambda f: line(id="x", audio_filepath=recording(f / "none.wav", 0), duration=1), ("holds no sample",)
    ),
    "beyond the window": (
        lambda f: line(id="x", audio_filepath=recording(f / "long.wav", WINDOW_S + 1), duration=WINDOW_S + 1),
        ("5.00 s of audio", "window is 4 s"),
    ),
}  # fmt: skip
COMMANDS = ("calibrate --out new --data {bad}", "distill --out new --train {bad}")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=("calibrate", "distill"))
@pytest.mark.parametrize("make, words", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_refused_with_its_file_and_number(command, make, words, copied_run, workspace, invoke):
    bad = write_lines(workspace / "bad.jsonl", [line(), make(workspace)])
    case = Case(command, 3, ("bad.jsonl line 2", *words))
    check_refused(case, invoke, workspace, bad=bad)


@pytest.mark.parametrize("make, words", BAD_LINES.values(), ids=BAD_LINES)
def test_skip_bad_counts_it_and_goes_on(make, words, copied_run, workspace, invoke):
    good = sample_lines("validation", 3)
    bad = write_lines(workspace / "bad.jsonl", [good[0], make(workspace), *good[1:]])
    result = invoke("calibrate", "--out", "new", "--data", bad, "--skip-bad", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["results"]
    assert (found["utterances"], found["skipped"]) == (3, 1)


LONG_TEXT = line(id="x", text="seven " * 20)  # 120 bytes with the space before, 4 tokens of prompt, the end


@pytest.mark.parametrize("command", COMMANDS, ids=("calibrate", "distill"))
def test_a_text_longer_than_the_decoder_takes_is_never_cut(command, copied_run, workspace, invoke):
    bad = write_lines(workspace / "bad.jsonl", [line(), LONG_TEXT])
    check_refused(Case(command, 3, ("bad.jsonl line 2", "125 tokens", "takes 65")), invoke, workspace, bad=bad)


def test_skip_bad_counts_a_long_text_too(copied_run, workspace, invoke):
    bad = write_lines(workspace / "bad.jsonl", [line(), LONG_TEXT])
    result = invoke("calibrate", "--out", "new", "--data", bad, "--skip-bad", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["results"]["skipped"] == 1


WITHOUT_TEXT = {
    "train": "distill --out new --train {bad}",
    "validation": "distill --out new --validation {bad}",
    "outliers": "outliers --test {bad}",
    "eval": "eval --model distilled --test {bad}",
}


@pytest.mark.parametrize("command", WITHOUT_TEXT.values(), ids=WITHOUT_TEXT)
def test_where_a_reference_is_needed_its_absence_is_told(command, copied_run, workspace, invoke):
    bad = write_lines(workspace / "bad.jsonl", [line(), line(id="x", text=None)])
    check_refused(Case(command, 3, ("bad.jsonl line 2 ", "has no text")), invoke, workspace, bad=bad)


LISTS = {
    "absent": (lambda p: None, "bad does not exist"),
    "empty": (lambda p: p.write_text("\n"), "bad has no usable line"),
    "a folder of nothing": (lambda p: p.mkdir(), "bad holds neither metadata.jsonl"),
    "not text": (lambda p: p.write_bytes(b"\xff\xfe\xfa"), "bad, line 1, is not UTF-8"),
    "a folder of recordings": (lambda p: folder_of(p, "a.WAV", "b.mp3"), "of its 2 recordings make a list: a file"),
    "a folder of lists": (lambda p: folder_of(p, "a.jsonl", "b.wav"), "bad/a.jsonl"),
}


def folder_of(folder: Path, *names: str) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(b"RIFF")


@pytest.mark.parametrize("make, words", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("command", [*COMMANDS, "eval --model distilled --test {bad}"], ids=("cal", "distill", "eval"))
def test_lists_that_cannot_be_used(command, make, words, copied_run, workspace, invoke):
    make(workspace / "bad")
    check_refused(Case(command, 3, (words,)), invoke, workspace, bad=workspace / "bad")


def test_a_recording_is_no_list_and_a_list_no_recording(copied_run, workspace, digits, invoke):
    talk = sample_lines("test", 1)[0]["audio_filepath"]
    for command in ("calibrate --out new --data {bad}", "eval --model distilled --test a={bad}"):
        check_refused(Case(command, 3, ("test-000.opus is a recording, but a list",)), invoke, workspace, bad=talk)
    given = Case("transcribe --model gemm-w8a8 {bad}", 3, ("test.jsonl is a list; name the recordings in it",))
    check_refused(given, invoke, workspace, bad=digits / "test.jsonl")


def test_nothing_left_after_skipping_is_an_error(copied_run, workspace, invoke):
    bad = write_lines(workspace / "bad.jsonl", [line(audio_filepath=corrupt(workspace))])
    check_refused(Case("calibrate --out new --skip-bad --data {bad}", 3, ("no usable",)), invoke, workspace, bad=bad)
    check_refused(
        Case("eval --model distilled --skip-bad --test a={bad}", 3, ("test set a", "no usable")),
        invoke, workspace, bad=bad,
    )  # fmt: skip


def test_a_test_set_under_another_name_is_no_calibration_data(copied_run, workspace, digits, invoke):
    (workspace / "alias.jsonl").symlink_to(digits / "test.jsonl")
    check_refused(Case("calibrate --out new --data alias.jsonl", 2, ("test set 'digits'",)), invoke, workspace)
    shutil.copy(digits / "test.jsonl", workspace / "mine.jsonl")
    change_configuration(workspace, test={"mine": "mine.jsonl"})
    check_refused(Case("calibrate --out new --data ./mine.jsonl", 2, ("test set 'mine'",)), invoke, workspace)


def long(folder: Path) -> str:
    return recording(folder / "long.wav", WINDOW_S + 1)


@pytest.mark.slow
@pytest.mark.parametrize("make", [corrupt, cut_off, long], ids=["corrupt", "cut off", "beyond the window"])
def test_who_meets_a_bad_recording_late_goes_on_without_it(make, workspace, invoke):
    """Another list would be another training: --skip-bad is all that can help, and ends as if given from the start.

    No checkpoint is due before the bad recording: the steps that came before it are saved all the same.
    """
    last = np.random.default_rng([0, 1, 0]).permutation(12)[-1]  # of the first epoch, as epochs.py draws it
    lines = [{k: v for k, v in one.items() if k != "duration"} for one in sample_lines("train", 12)]
    lines[last]["audio_filepath"] = make(workspace)
    steps = ("--max-steps", "4", "--eval-every", "4")
    command = ("distill", "--train", write_lines(workspace / "bad.jsonl", lines), *steps)
    assert invoke("init-student").exit_code == 0
    for _ in range(2):  # again and again
        stopped = invoke(*command)
        assert stopped.exit_code == 3 and f"line {last + 1}:" in stopped.stderr, stopped.stderr
    done = invoke(*command, "--skip-bad")
    assert done.exit_code == 0 and "going on from run/checkpoints/step-00000002" in done.stderr, done.stderr
    assert invoke(*command, "--skip-bad", "--out", "anew/distilled").exit_code == 0
    models = [workspace / f / "distilled" for f in ("run", "anew")]
    assert len({(model / "model.safetensors").read_bytes() for model in models}) == 1
    assert [json.loads((m / "manifest.json").read_text())["results"]["skipped"] for m in models] == [1, 1]
    refused = invoke(*command, "--max-steps", "6")  # what was left out cannot come back
    assert refused.exit_code == 2, refused.stderr


@pytest.mark.slow
def test_words_that_no_usable_recording_holds_validate_nothing(workspace, invoke):
    assert invoke("init-student").exit_code == 0
    lines = [line(), line(id="x", text=" "), line(id="y")]
    lines[0]["audio_filepath"] = lines[2]["audio_filepath"] = corrupt(workspace)
    bad = write_lines(workspace / "bad.jsonl", lines)
    words = ("no reference words in the 1 of 3 usable",)
    command = "distill --out new --eval-limit 3 --skip-bad --validation {bad}"
    check_refused(Case(command, 3, words), invoke, workspace, bad=bad)


@pytest.mark.slow
def test_half_a_character_is_text_that_can_be_learned(workspace, invoke):
    assert invoke("init-student").exit_code == 0
    lines = [one | {"text": "one \ud83d two"} for one in sample_lines("train", 4)]
    done = invoke("distill", "--train", write_lines(workspace / "half.jsonl", lines))
    assert done.exit_code == 0, done.stderr
