"""What `eval` leaves: the same files as `score`, the lines' speakers, times apart, and its place after a kill."""

import json
import os
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from conftest import Invoke, sample_lines, write_lines

import whisperq.steps.eval as step
from whisperq.batch.evaluation import batches_by_length
from whisperq.data.utterance import Utterance
from whisperq.runtime.pytorch import PyTorchRuntime

FILES = {"results.json", "results.md", "errors/digits.txt", "digits.ref.trn", "digits.hyp.trn"}


def evaluate(invoke: Invoke, teacher: Path, *arguments: str) -> dict:
    done = invoke("eval", "--model", teacher, "--batch-size", "3", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def hypotheses(folder: Path, name: str = "digits") -> list[dict]:
    lines = [json.loads(line) for line in (folder / "hypotheses" / f"{name}.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def test_eval_writes_what_score_writes(workspace: Path, teacher: Path, invoke: Invoke) -> None:
    made = evaluate(invoke, teacher, "--out", "e")
    assert set(made["files"]) == FILES | {"hypotheses/digits.jsonl"}
    done = invoke("score", "e", "--out", "s", "--json")
    again = json.loads(done.stdout)
    alike = FILES - {"results.json", "results.md"}
    assert {n: made["files"][n] for n in alike} == {n: again["files"][n] for n in alike}
    assert hypotheses(workspace / "e") == hypotheses(workspace / "s")
    figures, scored = made["results"]["sets"]["digits"], again["results"]["sets"]["digits"]
    assert {key: figures[key] for key in scored} == scored
    assert made["results"]["averages"] == again["results"]["averages"]
    compared = json.loads(invoke("compare", "e", "s", "--json").stdout)["results"]["sets"]["digits"]
    assert (compared["difference"], compared["p"], compared["wer_a"]) == (0, 1, figures["wer"])


def test_lines_keep_the_lists_order_and_say_who_speaks(workspace: Path, teacher: Path, invoke: Invoke) -> None:
    lines = sample_lines("test", 8)
    cut = [{**lines[0], "id": "late", "offset": 0.5, "duration": 0.5}]
    write_lines(workspace / "some.jsonl", [*cut, *lines])
    evaluate(invoke, teacher, "--test", "some=some.jsonl", "--out", "e")
    found = hypotheses(workspace / "e", "some")
    assert [line["id"] for line in found] == ["late", *(line["id"] for line in lines)]
    assert [line["speaker"] for line in found] == [line["speaker"] for line in [*cut, *lines]]
    assert [line.get("offset") for line in found] == [0.5, *[None] * 8]


def test_batches_are_of_like_length() -> None:
    seconds = [1.0, 3.0, None, 2.0, 3.0]
    utterances = [Utterance(str(i), "x", "a", s) for i, s in enumerate(seconds)]
    assert batches_by_length(utterances, 2) == [(2, 1), (4, 3), (0,)]


def test_times_stand_apart(workspace: Path, teacher: Path, invoke: Invoke) -> None:
    results = evaluate(invoke, teacher, "--out", "e")["results"]
    figures = results["sets"]["digits"]
    parts = figures["features_seconds"], figures["decoding_seconds"]
    assert all(part > 0 for part in parts) and sum(parts) <= figures["wall_seconds"]
    assert figures["rtfx"] == pytest.approx(figures["audio_seconds"] / figures["wall_seconds"])
    assert results["warm_up_seconds"] > 0 and results["peak_memory_gib"] > 0
    lines = (workspace / "e" / "hypotheses" / "digits.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["time"] for line in lines) == pytest.approx(figures["wall_seconds"])


class Killed(BaseException):
    """As if the process had gone: no handler of ours catches it."""


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch):
    """batches.done: the batches transcribed so far; batches.last: the process dies after so many of them."""
    real = step.transcribe_loaded

    class Batches:
        done: list[tuple[int, ...]] = []
        last: int | None = None

    def transcribe_loaded(opened, name, loaded, size):
        if Batches.last is not None and len(Batches.done) == Batches.last:
            raise Killed
        Batches.done.append(loaded[0])
        return real(opened, name, loaded, size)

    Batches.done = []
    monkeypatch.setattr(step, "transcribe_loaded", transcribe_loaded)
    return Batches


def test_a_killed_evaluation_goes_on_by_utterance(workspace, teacher, invoke, batches) -> None:
    evaluate(invoke, teacher, "--out", "whole")
    warm_up, *whole = batches.done
    assert warm_up == whole[0] and sorted(n for batch in whole for n in batch) == list(range(8))
    batches.done, batches.last = [], 3  # warming up, and two of three batches
    with pytest.raises(Killed):
        invoke("eval", "--model", teacher, "--batch-size", "3", "--out", "e")
    assert not (workspace / "e").exists() and (workspace / "e-partial").is_dir()
    lines = workspace / "e-partial" / "heard-0.jsonl"
    lines.write_bytes(lines.read_bytes()[:-5])  # the last line is torn
    batches.done, batches.last = [], None
    evaluate(invoke, teacher, "--out", "e")
    assert batches.done == [whole[1], whole[1], whole[2]]  # warming up, and the batch with the torn line anew
    assert hypotheses(workspace / "e") == hypotheses(workspace / "whole")
    assert not (workspace / "e-partial").exists()


def test_another_evaluations_leftovers_are_not_mixed_in(workspace, teacher, invoke, batches) -> None:
    command = ("eval", "--model", teacher, "--batch-size", "3", "--out", "e")
    batches.last = 2
    with pytest.raises(Killed):
        invoke(*command)
    batches.last = None
    done = invoke(*command, "--limit", "4")
    assert done.exit_code == 2 and "unfinished hypotheses of another command (it differs in limit)" in done.stderr
    assert invoke(*command, "--limit", "4", "--force").exit_code == 0
    assert len(hypotheses(workspace / "e")) == 4 and not (workspace / "e-partial").exists()


def test_being_told_to_stop_is_75(workspace, teacher, invoke, monkeypatch) -> None:
    @contextmanager
    def told():
        yield lambda: True

    with monkeypatch.context() as patched:
        patched.setattr(step, "stop_requested", told)
        for left in (5, 2):
            done = invoke("eval", "--model", teacher, "--batch-size", "3", "--out", "e")
            assert done.exit_code == 75 and f"{left} utterances are left" in done.stderr
    assert evaluate(invoke, teacher, "--out", "e")["results"]["sets"]["digits"]["utterances"] == 8


def test_unreadable_recordings_are_counted_once(workspace, teacher, invoke, batches) -> None:
    (workspace / "broken.wav").write_bytes(b"RIFF no audio")
    bad = {"id": "bad", "audio_filepath": "broken.wav", "text": "one", "duration": 9.0}
    write_lines(workspace / "some.jsonl", [bad, *sample_lines("test", 4)])
    arguments = ("--test", "some=some.jsonl", "--skip-bad", "--out", "e")
    batches.last = 2
    with pytest.raises(Killed):
        invoke("eval", "--model", teacher, "--batch-size", "3", *arguments)
    batches.last = None
    figures = evaluate(invoke, teacher, *arguments)["results"]["sets"]["some"]
    assert (figures["skipped"], figures["utterances"]) == (1, 4)


def test_what_could_be_read_must_have_words(workspace, teacher, invoke) -> None:
    """The one utterance with words is the one that cannot be read: no rate, and one sentence."""
    (workspace / "broken.wav").write_bytes(b"RIFF no audio")
    bad = {"id": "bad", "audio_filepath": "broken.wav", "text": "one"}
    write_lines(workspace / "some.jsonl", [bad, {**sample_lines("test", 1)[0], "text": "?!"}])
    done = invoke("eval", "--model", teacher, "--test", "some=some.jsonl", "--skip-bad", "--normalizer", "basic")
    assert done.exit_code == 3 and "some has no reference words left" in done.stderr


def test_the_spelling_map_stays_with_the_hypotheses(workspace, teacher, invoke) -> None:
    shutil.copytree(teacher, "t")
    Path("t", "normalizer.json").write_text(json.dumps({"colour": "color"}))
    lines = [{**line, "text": "the colour red"} for line in sample_lines("test", 2)]
    write_lines(workspace / "some.jsonl", lines)
    made = evaluate(invoke, Path("t"), "--test", "some=some.jsonl", "--normalizer", "english", "--out", "e")
    assert made["results"]["sets"]["some"]["normalizer"] == "english"
    assert json.loads(Path("e", "normalizer.json").read_text()) == {"colour": "color"}
    assert "the color red" in Path("e", "some.ref.trn").read_text()
    assert invoke("compare", "e", "e").exit_code == 0
    Path("e", "normalizer.json").unlink()
    manifest = json.loads(Path("e", "manifest.json").read_text())
    del manifest["files"]["normalizer.json"]
    Path("e", "manifest.json").write_text(json.dumps(manifest))
    done = invoke("compare", "e", "e", "--out", "c")
    assert done.exit_code == 3 and "--spelling" in done.stderr
    assert invoke("compare", "e", "e", "--out", "c", "--spelling", "t").exit_code == 0


def test_a_language_without_spaces_is_measured_by_characters(workspace, teacher, invoke) -> None:
    lines = [{**line, "text": "\u4f60\u597d\u4e16\u754c"} for line in sample_lines("test", 2)]
    write_lines(workspace / "some.jsonl", lines)
    done = invoke("eval", "--model", teacher, "--test", "some=some.jsonl", "--normalizer", "basic", "--out", "e")
    assert done.exit_code == 0 and "Character errors" in done.stdout, done.stderr
    found = json.loads(Path("e", "results.json").read_text())["sets"]["some"]
    assert (found["measure"], found["reference_characters"], found["reference_words"]) == ("cer", 8, 2)


def test_groups_and_normalisers_of_the_configuration(workspace, teacher, invoke) -> None:
    content = yaml.safe_load(Path("whisperq.yaml").read_text())
    path = content["test"]["digits"]
    content["test"] = {
        "near": {"path": path, "group": "id"}, "far": {"path": path, "group": "ood"},
        "english": {"path": path, "group": "ood", "normalizer": "english"},
    }  # fmt: skip
    Path("whisperq.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    results = evaluate(invoke, teacher, "--limit", "4", "--out", "e")["results"]
    basic, english = results["averages"]
    assert basic["sets"] == ["near", "far"] and list(basic["groups"]) == ["id", "ood"]
    assert english["sets"] == ["english"] and english["normalizer"] == "english"
    assert results["mean_wer"] is None


def test_a_signal_stops_at_the_next_token(workspace: Path, teacher: Path, invoke: Invoke, monkeypatch, capfd) -> None:
    """In the middle of the second batch: it is said at once, nothing more is computed, and the first batch stays."""
    real, calls = PyTorchRuntime.decode_step, []

    def decode_step(self, tokens, state):
        calls.append(len(tokens))
        if len(calls) == 3:  # the warm-up, and a step for each batch
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, tokens, state)

    with monkeypatch.context() as patched:
        patched.setattr(PyTorchRuntime, "decode_step", decode_step)
        done = invoke("eval", "--model", teacher, "--batch-size", "3", "--out", "e")
    assert done.exit_code == 75 and "are left" in done.stderr and len(calls) == 3
    assert "SIGINT: stopping" in capfd.readouterr().err
    assert invoke("eval", "--model", teacher, "--batch-size", "3", "--out", "e").exit_code == 0
    whole = evaluate(invoke, teacher, "--out", "w")
    assert hypotheses(workspace / "e") == hypotheses(workspace / "w")
    assert whole["results"]["sets"]["digits"]["utterances"] == 8
