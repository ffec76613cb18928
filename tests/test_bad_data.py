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
}


@pytest.mark.parametrize("make, words", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("command", [*COMMANDS, "eval --model distilled --test {bad}"], ids=("cal", "distill", "eval"))
def test_lists_that_cannot_be_used(command, make, words, copied_run, workspace, invoke):
    make(workspace / "bad")
    check_refused(Case(command, 3, (words,)), invoke, workspace, bad=workspace / "bad")


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
