"""A teacher's labels: their texts, their figures against transformers and eval, and what a kill leaves of them."""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
from conftest import DIGITS, sample_lines, write_lines
from support.processes import Job
from support.scripted_runtime import Scripted, few_words, until_end
from support.several_processes import processes
from support.tiny import features, gated_model, processor

from whisperq.batch.pseudo_labels import TOO_LONG, UNFINISHED, UNREADABLE, label_batch
from whisperq.config import Source
from whisperq.data.audio import load_audio
from whisperq.data.features import log_mel
from whisperq.data.lists import read
from whisperq.data.tokens import make_codec
from whisperq.data.utterance import Utterance
from whisperq.runtime.decoding import Rules, greedy, make_rules
from whisperq.runtime.pytorch import PyTorchRuntime

pytestmark = pytest.mark.slow

TEACHER = DIGITS / "teacher"
COMMAND = ("pseudo-label", "--data", "words.jsonl", "--model", str(TEACHER), "--normalizer", "basic", "--batch-size")
COUNT = 48


@cache
def real_digits() -> Path:
    """Strings of human digits, joined from the recordings that WHISPERQ_SPEECH names, until the tests end."""
    speech = os.environ.get("WHISPERQ_SPEECH", "")
    if not Path(speech, "digits.jsonl").is_file():
        pytest.skip("WHISPERQ_SPEECH names no folder with digits.jsonl")
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    command = [sys.executable, DIGITS / "join_digits.py", "--speech", speech, "--out", folder]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return Path(folder)


def real_lines(name: str, count: int) -> list[dict]:
    """The first lines of a list of human digits, audio paths absolute."""
    folder = real_digits()
    lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()[:count]]
    return [{**line, "audio_filepath": str(folder / line["audio_filepath"])} for line in lines]


def entries(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]


def results(invoke, *arguments: str) -> dict:
    done = invoke(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["results"]


# --- what a label is


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_log_probabilities_are_those_of_generate(seed):
    model = gated_model(seed=seed)
    few_words(model, seed)
    rules = make_rules(make_codec(processor, model, "en", "transcribe"), model.generation_config)
    sums = torch.zeros(5, dtype=torch.float64)
    rows = greedy(PyTorchRuntime(model), features(5, seed), rules, sums)
    assert rows == greedy(PyTorchRuntime(model), features(5, seed), rules)
    theirs = model.generate(
        features(5, seed), num_beams=1, do_sample=False, return_dict_in_generate=True, output_scores=True
    )
    scores = model.compute_transition_scores(theirs.sequences, theirs.scores, normalize_logits=True)
    for row, total, ids, logs in zip(rows, sums, theirs.sequences.tolist(), scores, strict=True):
        new = until_end(ids[-len(logs) :])
        assert row == new
        assert float(total) == pytest.approx(float(logs[: len(new) + 1].double().sum()), rel=1e-5)


def scripted_loader(audio: dict[str, int]):
    """Recordings of so many samples; None cannot be read. A window of 1000."""
    extractor = SimpleNamespace(
        n_samples=1000, sampling_rate=100, n_fft=16, hop_length=10, mel_filters=np.ones((9, 4), dtype=np.float32)
    )

    class Extractor(SimpleNamespace):
        __hash__ = object.__hash__

    extractor = Extractor(**vars(extractor))
    return SimpleNamespace(
        extractor=extractor,
        features=lambda waveforms: log_mel(waveforms, extractor),
        device="cpu",
        codec=SimpleNamespace(decode=lambda ids: " ".join(map(str, ids))),
        audio=lambda utterance: None if audio[utterance.id] is None else np.ones(audio[utterance.id], np.float32),
    )


def test_labels_of_a_written_down_runtime():
    loader = scripted_loader({"a": 100, "bad": None, "long": 1001, "b": 1000, "endless": 50})
    runtime = Scripted([[1, 2, 9, 5], [9, 5, 5, 5], [3, 3, 3, 3]])
    utterances = [Utterance(id_, id_, None, None) for id_ in ("a", "bad", "long", "b", "endless")]
    labels = label_batch(runtime, loader, Rules(prompt=(8,), end=9, max_tokens=5), utterances, 20)
    found = {label.number: label for label in labels}
    assert {n: (label.text, label.left_out) for n, label in found.items()} == {
        20: ("1 2", None), 21: ("", UNREADABLE), 22: ("", TOO_LONG), 23: ("", None), 24: ("3 3 3 3", UNFINISHED),
    }  # fmt: skip
    # ten logits: the written-down one 2, the seventh 1, eight of 0
    one = float(np.log(np.exp(2) / (np.exp(2) + np.exp(1) + 8)))
    assert found[20].avg_logprob == pytest.approx(3 * one / 3) and found[23].avg_logprob == pytest.approx(one)
    assert (found[20].seconds, found[22].seconds) == (1.0, 10.01)


# --- the command


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Path:
    """300 utterances of human digits."""
    return write_lines(tmp_path_factory.mktemp("words") / "words.jsonl", real_lines("test_speaker", 300))


def test_labels_are_as_right_as_the_teachers_evaluation(words, tmp_path, monkeypatch, invoke):
    monkeypatch.chdir(tmp_path)
    common = ("--model", str(TEACHER), "--normalizer", "basic", "--batch-size", "16")
    labels = results(invoke, "pseudo-label", "--data", str(words), *common)
    evaluation = results(invoke, "eval", "--test", f"words={words}", *common)["sets"]["words"]
    for key in ("wer", "reference_words", "substitutions", "deletions", "insertions", "audio_seconds"):
        assert labels[key] == evaluation[key]
    assert labels["reference_words"] > 1000 and 0 < labels["wer"] < 0.1

    folder = tmp_path / "run" / "pseudo-labels" / "words"
    found = entries(folder)
    hypotheses = (tmp_path / "run" / "eval" / "teacher-float" / "hypotheses" / "words.jsonl").read_text()
    assert [e["text"] for e in found] == [json.loads(line)["pred_text"] for line in hypotheses.splitlines()]
    references = [line["text"] for line in real_lines("test_speaker", 300)]
    assert [e["reference"] for e in found] == references
    errors = sum(e["label_wer"] * len(r.split()) for e, r in zip(found, references, strict=True))
    assert errors / labels["reference_words"] == pytest.approx(labels["wer"])
    assert labels["label_wer_above"]["20"] == sum(e["label_wer"] > 0.2 for e in found) > 0
    assert labels["words"] == sum(len(e["text"].split()) for e in found)
    assert all(e["avg_logprob"] < 0 for e in found)


def test_the_list_is_one_to_train_on(words, tmp_path, monkeypatch, invoke):
    monkeypatch.chdir(tmp_path)
    assert invoke("pseudo-label", "--data", str(words), "--model", str(TEACHER), "--out", "new/labels").exit_code == 0
    ours = read(Source(path=str(tmp_path / "new" / "labels" / "utterances.jsonl"))).utterances
    before = read(Source(path=str(words))).utterances
    for a, b in zip(ours, before, strict=True):
        assert (a.id, a.speaker, a.offset, a.duration) == (b.id, b.speaker, b.offset, b.duration)
    np.testing.assert_array_equal(load_audio(ours[7], 16000), load_audio(before[7], 16000))
    assert [u.text for u in ours] == [e["text"] for e in entries(tmp_path / "new" / "labels")]


def test_distill_takes_the_list(workspace, invoke):
    for command in ("init-student", "pseudo-label", "distill --train run/pseudo-labels/train/utterances.jsonl"):
        done = invoke(*command.split())
        assert done.exit_code == 0, done.stderr
    reported = invoke("report", "run", "--json")
    assert reported.exit_code == 0 and not json.loads(reported.stdout)["results"]["unreadable"], reported.stderr
    lineage = json.loads(Path("report/lineage.json").read_text())
    line = next(e["command"] for e in lineage if e["kind"] == "pseudo-labels")
    assert line.startswith("whisperq pseudo-label --model ") and line.endswith("--normalizer basic")
    # the tiny teacher says nothing: all words are missing
    refused = invoke(*command.split(), "--max-label-wer", "99", "--force")
    assert refused.exit_code == 3, refused.stderr


def test_by_default_the_teacher_labels_the_training_data(workspace, digits, invoke):
    done = invoke("pseudo-label")
    assert done.exit_code == 0 and "mean log-probability" in done.stdout
    found = entries(workspace / "run" / "pseudo-labels" / "train")
    assert [e["id"] for e in found] == [line["id"] for line in sample_lines("train", 12)]
    assert invoke("pseudo-label", "--data", str(digits / "test.jsonl")).exit_code == 0
    assert (workspace / "run" / "pseudo-labels" / "test").is_dir()


def test_segments_without_references_in_lists_that_share_an_id(workspace, invoke):
    first = {key: value for key, value in sample_lines("train", 1)[0].items() if key not in ("text", "duration")}
    write_lines(workspace / "a.jsonl", [{**first, "offset": 0.25}])
    write_lines(workspace / "b.jsonl", [{**first, "duration": 1.0}, {**first, "id": "x", "text": "..."}])
    found = results(invoke, "pseudo-label", "--data", "a.jsonl", "--data", "b.jsonl")
    assert (found["utterances"], found["scored"], found["wer"], found["normalizers"]) == (3, 0, None, ["basic"])
    whole = len(load_audio(Utterance("x", first["audio_filepath"], None, None), 16000)) / 16000
    labels = entries(workspace / "run" / "pseudo-labels" / "a+b")
    assert [(e["id"], e.get("offset"), e["duration"], e["reference"], e["label_wer"]) for e in labels] == [
        (first["id"], 0.25, pytest.approx(whole - 0.25, abs=1e-3), None, None),
        (f"{first['id']}-2", None, 1.0, None, None),
        ("x", None, pytest.approx(whole), "...", None),
    ]


def test_embedded_recordings_get_files(workspace, invoke):
    content = Path(sample_lines("train", 1)[0]["audio_filepath"]).read_bytes()
    table = pyarrow.table({"audio": [{"bytes": content, "path": "x"}] * 2, "text": ["one", None]})
    pyarrow.parquet.write_table(table, workspace / "corpus.parquet")
    assert invoke("pseudo-label", "--data", "corpus.parquet").exit_code == 0
    folder = workspace / "run" / "pseudo-labels" / "corpus"
    assert [e["reference"] for e in entries(folder)] == ["one", None]
    for utterance in read(Source(path=str(folder / "utterances.jsonl"))).utterances:
        assert Path(utterance.audio).parent == folder / "audio" and Path(utterance.audio).read_bytes() == content
        assert load_audio(utterance, 16000).size


def test_what_no_window_holds_is_left_out_and_counted(workspace, invoke):
    soundfile.write(workspace / "long.wav", np.full(16000 * 5, 0.01), 16000)
    lines = sample_lines("train", 2)
    long = {"id": "long", "audio_filepath": "long.wav", "text": "one"}
    write_lines(workspace / "mixed.jsonl", [lines[0], long, lines[1]])
    done = invoke("pseudo-label", "--data", "mixed.jsonl", "--json")
    assert "left out: 1 longer than the window" in done.stderr
    found = json.loads(done.stdout)["results"]
    assert (found["utterances"], found["longer_than_window"], found["skipped"], found["unfinished"]) == (2, 1, 0, 0)
    write_lines(workspace / "none.jsonl", [long])
    done = invoke("pseudo-label", "--data", "none.jsonl")
    assert done.exit_code == 3 and "no recording could be labelled" in done.stderr


# --- killed, told to stop, and going on


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, invoke) -> Path:
    """A working folder with its labels made at once."""
    folder = tmp_path_factory.mktemp("labels")
    write_lines(folder / "words.jsonl", real_lines("test_takes", COUNT))
    job = Job(folder, *COMMAND, "2")
    assert job.exit_code() == 0, job.said
    return folder


@pytest.fixture
def fresh(uninterrupted, tmp_path) -> Path:
    (tmp_path / "words.jsonl").write_bytes((uninterrupted / "words.jsonl").read_bytes())
    return tmp_path


def place(folder: Path) -> Path:
    return folder / "run" / "pseudo-labels" / "words"


def partial(folder: Path) -> Path:
    return place(folder).with_name("words-partial")


def count(folder: Path) -> int:
    """Whole lines so far."""
    return sum(path.read_bytes().count(b"\n") for path in partial(folder).glob("labels-*.jsonl"))


def check_same(folder: Path, uninterrupted: Path) -> None:
    """The list to the byte; the manifest but for the place of the list that was labelled."""
    ours, theirs = (place(f) / "utterances.jsonl" for f in (folder, uninterrupted))
    assert ours.read_bytes() == theirs.read_bytes()
    ours, theirs = (json.loads((place(f) / "manifest.json").read_text()) for f in (folder, uninterrupted))
    assert all(ours[key] == theirs[key] for key in ("results", "config", "files"))
    assert not partial(folder).exists() and not list(place(folder).parent.glob(".*"))


def start(folder: Path, world: int, *arguments: str) -> list[Job]:
    return processes(folder, world, *arguments) if world > 1 else [Job(folder, *arguments)]


def finish(folder: Path, world: int, *arguments: str) -> list[Job]:
    jobs = start(folder, world, *arguments)
    assert [job.exit_code() for job in jobs] == [0] * world, [job.said for job in jobs]
    return jobs


@pytest.mark.parametrize("before, after", [(1, 1), (1, 2), (2, 1), (2, 3)])
def test_a_killed_labelling_goes_on_and_ends_with_the_same_bytes(before, after, fresh, uninterrupted):
    jobs = start(fresh, before, *COMMAND, "2")
    jobs[0].until(lambda: count(fresh) >= 10)
    jobs[-1].signal(signal.SIGKILL)
    assert jobs[-1].exit_code() == -signal.SIGKILL
    if before > 1:  # the other one finds out
        assert jobs[0].exit_code() == 1 and "another process of this task ended" in jobs[0].said
    assert 10 <= count(fresh) < COUNT
    torn = sorted(partial(fresh).glob("labels-*.jsonl"))[-1]
    torn.write_bytes(torn.read_bytes()[:-9])  # within its last line
    jobs = finish(fresh, after, *COMMAND, "2")
    assert "going on after" in jobs[0].said
    check_same(fresh, uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_told_to_stop_it_ends_its_batch(number, fresh, uninterrupted):
    job = Job(fresh, *COMMAND, "2")
    job.until(lambda: count(fresh) >= 4)
    job.signal(number)
    assert job.exit_code() == 75 and "the same command does the rest" in job.said
    done = count(fresh)
    assert done % 2 == 0 and f"{done} of {COUNT} utterances are done" in job.said
    finish(fresh, 1, *COMMAND, "2")
    check_same(fresh, uninterrupted)


def test_of_two_processes_one_receives_it_and_both_stop(fresh, uninterrupted):
    jobs = start(fresh, 2, *COMMAND, "2")
    jobs[1].until(lambda: count(fresh) >= 4)
    jobs[1].signal(signal.SIGUSR1)
    assert [job.exit_code() for job in jobs] == [75, 75], [job.said for job in jobs]
    finish(fresh, 2, *COMMAND, "2")
    check_same(fresh, uninterrupted)


@pytest.fixture
def stopped(fresh) -> Path:
    job = Job(fresh, *COMMAND, "2")
    job.until(lambda: count(fresh) >= 4)
    job.signal(signal.SIGKILL)
    job.exit_code()
    return fresh


def test_another_command_does_not_go_on_with_it(stopped):
    before = {path: path.read_bytes() for path in partial(stopped).iterdir()}
    with open(stopped / "words.jsonl", "a") as file:
        file.write(json.dumps({**real_lines("validation", 1)[0], "id": "new"}) + "\n")
    job = Job(stopped, *COMMAND, "2", "--loop-limit", "6")
    assert job.exit_code() == 2
    assert "it differs in input data, loop_limit" in job.said and "--force" in job.said
    assert before == {path: path.read_bytes() for path in partial(stopped).iterdir()}
    jobs = finish(stopped, 1, *COMMAND, "2", "--loop-limit", "6", "--force")
    assert "going on" not in jobs[0].said and len(entries(place(stopped))) == COUNT + 1


def test_a_smaller_batch_goes_on_where_a_greater_one_took_too_much_memory(stopped, uninterrupted):
    done = count(stopped)
    assert f"going on after {done} of" in finish(stopped, 1, *COMMAND, "1")[0].said
    ours, theirs = entries(place(stopped)), entries(place(uninterrupted))
    assert [e["text"] for e in ours] == [e["text"] for e in theirs]
    assert json.loads((place(stopped) / "manifest.json").read_text())["config"]["batch_size"] == 1


def test_windows_decoded_again_are_counted_across_kills(stopped, uninterrupted):
    path = partial(stopped) / "labels-0.jsonl"
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(json.dumps({**json.loads(first), "again": 3}) + "\n" + "".join(rest))
    assert "3 windows were decoded again in full" in finish(stopped, 1, *COMMAND, "2")[0].said
    found = json.loads((place(stopped) / "manifest.json").read_text())["results"]
    plain = json.loads((place(uninterrupted) / "manifest.json").read_text())["results"]
    assert found["decoded_again"] == 3 and plain["decoded_again"] == 0


def test_force_goes_on_with_the_same_command(stopped, uninterrupted):
    assert "going on after" in finish(stopped, 1, *COMMAND, "2", "--force")[0].said
    check_same(stopped, uninterrupted)


def test_labels_whose_settings_are_lost_are_nobodys(stopped, uninterrupted):
    (partial(stopped) / "settings.json").write_text("{")
    job = Job(stopped, *COMMAND, "2")
    assert job.exit_code() == 3 and "settings.json cannot be read" in job.said
    finish(stopped, 1, *COMMAND, "2", "--force")
    check_same(stopped, uninterrupted)


def test_a_line_that_a_failing_machine_damaged_is_done_again(stopped, uninterrupted):
    path = partial(stopped) / "labels-0.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], bytes(40), *lines[3:]]))
    finish(stopped, 1, *COMMAND, "2")
    check_same(stopped, uninterrupted)


def test_killed_when_all_was_written_it_leaves_nothing_behind(stopped, uninterrupted):
    leftover = (partial(stopped) / "settings.json").read_bytes()
    finish(stopped, 1, *COMMAND, "2")
    partial(stopped).mkdir()
    (partial(stopped) / "settings.json").write_bytes(leftover)
    assert "is finished already" in finish(stopped, 1, *COMMAND, "2")[0].said
    check_same(stopped, uninterrupted)


def test_skip_bad_can_be_added_on_the_way(fresh):
    lines = [json.loads(line) for line in (fresh / "words.jsonl").read_text().splitlines()[:8]]
    (fresh / "broken.wav").write_bytes(b"RIFF and nothing that could be decoded")
    lines[5]["audio_filepath"] = "broken.wav"
    write_lines(fresh / "words.jsonl", lines)
    job = Job(fresh, *COMMAND, "2")
    assert job.exit_code() == 3 and "broken.wav cannot be decoded" in job.said
    assert count(fresh) == 4
    finish(fresh, 1, *COMMAND, "2", "--skip-bad")
    finish(fresh, 1, *COMMAND, "2", "--skip-bad", "--out", "run/pseudo-labels/anew")
    anew = place(fresh).with_name("anew")
    assert (place(fresh) / "utterances.jsonl").read_bytes() == (anew / "utterances.jsonl").read_bytes()
    assert (place(fresh) / "manifest.json").read_bytes() == (anew / "manifest.json").read_bytes()
    assert json.loads((anew / "manifest.json").read_text())["results"]["skipped"] == 1
