"""`whisperq transcribe`: 95 seconds of joined digits, formats, files, errors; and the rules of Whisper's own times."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import DIGITS, sample_lines
from support.tiny import END, PROMPT, gated_model, processor, token_id
from transformers import GenerationConfig
from transformers.generation.logits_process import WhisperTimeStampLogitsProcessor

from whisperq.data.audio import load_audio
from whisperq.data.timed_words import Segment, Transcript
from whisperq.data.tokens import make_codec
from whisperq.data.utterance import Utterance
from whisperq.options import Execution
from whisperq.results.subtitles import as_srt, as_text, as_vtt
from whisperq.runtime.decoding import Rules, greedy, make_rules, with_times
from whisperq.runtime.open import open_runtime
from whisperq.runtime.pytorch import PyTorchRuntime
from whisperq.runtime.timestamps import restrict_times
from whisperq.runtime.transcription import Piece, transcribe_pieces
from whisperq.settings import Context
from whisperq.steps.transcribe import chosen_language

RATE = 16_000
TEACHER = DIGITS / "teacher"
SPEECH = os.environ.get("WHISPERQ_SPEECH")
PAUSE = 0.5  # seconds; beyond one, this model transcribes digits in them
SIDES = ((0.1, 0.1), (0.1, 0.4), (0.4, 0.1), (0.4, 0.4), (0.25, 0.25))  # of a string, when its pauses are cut somewhere
Spoken = tuple[np.ndarray, str]


def quiet(seconds: float, seed: int = 0) -> np.ndarray:
    """Softer than any recording's gap between words, so that a pause is the place to cut."""
    return 1e-6 * np.random.default_rng(seed).standard_normal(round(seconds * RATE), dtype=np.float32)


def sample_strings() -> list[Spoken]:
    strings = []
    for line in sample_lines("test", 100):
        audio = load_audio(Utterance("s", line["audio_filepath"], None, None), RATE)
        strings.append((audio[round(line["digits"][0][0] * RATE) : round(line["digits"][-1][1] * RATE)], line["text"]))
    return strings


def human_strings() -> list[Spoken]:
    if not SPEECH or not Path(SPEECH, "digits.jsonl").is_file():
        pytest.skip("WHISPERQ_SPEECH names no folder with digits.jsonl")
    sys.path.insert(0, str(DIGITS))
    try:
        from join_digits import Part, draw_clips, join, load_bank
    finally:
        sys.path.remove(str(DIGITS))
    bank, rng = load_bank(Path(SPEECH), Part("test", range(5), False, 120)), np.random.default_rng(0)
    speakers = [bank[name] for name in sorted(bank)]
    joined = [join(draw_clips(speakers[i % len(speakers)], int(rng.integers(2, 8)), rng), rng) for i in range(120)]
    return [(j.samples[j.spans[0][0] : j.spans[-1][1]], j.text) for j in joined]


def understood_alone(strings: list[Spoken]) -> list[Spoken]:
    """Those that the model gets right each by itself, however much of its pauses it keeps.

    Of 1.9 to 3.1 seconds: then each window that starts in a pause ends in reach of the next one.
    """
    fitting = [s for s in strings if 1.9 <= len(s[0]) / RATE <= 3.1]
    variants = [np.concatenate([quiet(a, 1), s, quiet(b, 2)]) for s, _ in fitting for a, b in SIDES]
    pieces = [Piece(i, 0.0, len(v) / RATE, v) for i, v in enumerate(variants)]
    with open_runtime(TEACHER, Execution(), Context(device="cpu")) as o:
        found = [
            " ".join(s.text for s in some) for _, some in transcribe_pieces(o.runtime, o.loader, o.rules, pieces, 16)
        ]
    groups = [set(found[i : i + len(SIDES)]) for i in range(0, len(found), len(SIDES))]
    return [s for s, group in zip(fitting, groups, strict=True) if group == {s[1]}]


@pytest.fixture(scope="module", params=[sample_strings, human_strings], ids=["sample", "human"])
def long_recording(request, tmp_path_factory) -> tuple[Path, list[str]]:
    """At least 95 seconds: the first strings that the model understands alone, half a second between them."""
    chosen, seconds = [], 0.0
    for samples, text in understood_alone(request.param()):
        if seconds < 95:
            chosen.append((np.concatenate([samples, quiet(PAUSE, seed=len(chosen))]), text))
            seconds += len(chosen[-1][0]) / RATE
    assert seconds >= 95
    path = tmp_path_factory.mktemp("long") / "long.wav"
    soundfile.write(path, np.concatenate([s for s, _ in chosen]), RATE, subtype="FLOAT")
    return path, [text for _, text in chosen]


def stamp(hours: str, minutes: str, seconds: str, thousandths: str) -> float:
    return 3600 * int(hours) + 60 * int(minutes) + int(seconds) + int(thousandths) / 1000


def read_cues(text: str, mark: str) -> list[tuple[float, float, str]]:
    """Cues of srt (mark ,) or vtt (mark .), each a span and one line of text."""
    time = rf"(\d\d+):(\d\d):(\d\d){re.escape(mark)}(\d\d\d)"
    found = re.findall(rf"^{time} --> {time}\n(.+)\n(?:\n|\Z)", text, re.MULTILINE)
    assert len(found) == text.count(" --> ")
    return [(stamp(*f[:4]), stamp(*f[4:8]), f[8]) for f in found]


@pytest.mark.slow
def test_long_audio_gives_every_string_once(long_recording, invoke, tmp_path, monkeypatch):
    path, texts = long_recording
    monkeypatch.chdir(tmp_path)
    results = {f: invoke("transcribe", path, "--model", TEACHER, "--format", f) for f in ("text", "json", "srt")}
    assert all(r.exit_code == 0 for r in results.values()), results["text"].stderr
    assert results["text"].stdout == " ".join(texts) + "\n"
    (file,) = json.loads(results["json"].stdout)["files"]
    assert [s["text"] for s in file["segments"]] == texts and file["text"] == " ".join(texts)
    cues = read_cues(results["srt"].stdout, ",")
    assert [text for _, _, text in cues] == texts
    assert [(s["start"], s["end"]) for s in file["segments"]] == [(a, b) for a, b, _ in cues]
    ends = [0.0, *(b for _, b, _ in cues)]
    assert all(a == end and 0 < b - a <= 4 for (a, b, _), end in zip(cues, ends, strict=False))
    assert list(tmp_path.iterdir()) == []  # no run folder, no configuration


@pytest.fixture
def clips(tmp_path, monkeypatch) -> list[str]:
    """Two recordings beside each other in the working folder: Ogg, and a stereo WAV of 48 kHz."""
    monkeypatch.chdir(tmp_path)
    lines = sample_lines("test", 2)
    Path("a.ogg").write_bytes(Path(lines[0]["audio_filepath"]).read_bytes())
    audio = load_audio(Utterance("b", lines[1]["audio_filepath"], None, None), 48_000)
    soundfile.write("b.wav", np.stack([audio, audio], axis=1), 48_000)
    return ["a.ogg", "b.wav"]


def test_several_files_are_lines_with_names(clips, invoke):
    result = invoke("transcribe", *clips, "--model", TEACHER)
    assert result.stdout == "a.ogg\tzero zero\nb.wav\tone zero six zero\n"


def test_json_and_its_flag(clips, invoke):
    result = invoke("transcribe", *clips, "--model", TEACHER, "--json")
    content = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1 and list(content) == ["model", "runtime", "timestamps", "files"]
    assert (content["runtime"], content["timestamps"]) == ("float", "pieces")
    assert [f["audio_filepath"] for f in content["files"]] == clips
    segment = {"start": 0.0, "end": 1.671, "text": "zero zero"}
    assert content["files"][0] == {
        "audio_filepath": "a.ogg", "duration": 1.671, "text": "zero zero", "segments": [segment],
    }  # fmt: skip
    assert invoke("transcribe", *clips, "--model", TEACHER, "--json", "--format", "srt").exit_code == 2


@pytest.mark.slow
def test_standard_input(clips):
    done = subprocess.run(
        [sys.executable, "-m", "whisperq", "transcribe", "-", "--model", TEACHER],
        input=Path("b.wav").read_bytes(), capture_output=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(DIGITS.parents[1])},
    )  # fmt: skip
    assert (done.returncode, done.stdout.decode()) == (0, "one zero six zero\n"), done.stderr
    assert sorted(p.name for p in Path().iterdir()) == clips


def test_out_takes_one_file_or_a_folder_of_them(clips, invoke):
    command = ("transcribe", *clips, "--model", TEACHER, "--out")
    assert invoke(*command, "t.txt").stdout == ""
    assert Path("t.txt").read_text().startswith("a.ogg\tzero zero\n")
    refused = invoke(*command, "t.txt")
    assert refused.exit_code == 2 and "--force" in refused.stderr
    assert invoke(*command, "t.txt", "--force", "--format", "json").exit_code == 0
    assert len(json.loads(Path("t.txt").read_text())["files"]) == 2
    assert invoke(*command, "subtitles", "--format", "vtt").exit_code == 0
    assert sorted(p.name for p in Path("subtitles").iterdir()) == ["a.vtt", "b.vtt"]
    assert [text for _, _, text in read_cues(Path("subtitles/b.vtt").read_text(), ".")] == ["one zero six zero"]


ERRORS = {
    "missing": (["no.wav"], 3, "the audio file no.wav does not exist"),
    "corrupt": (["bad.wav", "no.wav"], 3, "the audio file bad.wav cannot be decoded"),
    "empty": (["empty.wav"], 3, "the audio file empty.wav holds no sample"),
    "folder": (["."], 3, ". is a folder; name the recordings in it"),
    "subtitles of two": (["a.ogg", "b.wav", "--format", "srt"], 2, "name a folder for them with --out"),
    "into one file": (["a.ogg", "b.wav", "--format", "srt", "--out", "a.ogg"], 2, "a.ogg is no folder"),
    "under a file": (["a.ogg", "--out", "b.wav/t.txt"], 3, "b.wav/t.txt cannot be written"),
    "no language": (["a.ogg", "--language", "frensh"], 2, "unknown language 'frensh' (did you mean french?)"),
    "same names": (["a.ogg", "./a.ogg", "--format", "srt", "--out", "s"], 2, "both be written to s/a.srt"),
    "nothing on standard input": (["-"], 3, "whisperq: standard input cannot be decoded"),
    "standard input twice": (["-", "-"], 2, "standard input can be read once"),
}


@pytest.mark.parametrize("arguments, code, words", ERRORS.values(), ids=ERRORS)
def test_errors_are_one_sentence_before_the_model_is_loaded(arguments, code, words, clips, invoke, monkeypatch):
    Path("bad.wav").write_bytes(b"RIFF nothing")
    soundfile.write("empty.wav", np.zeros(0), RATE)
    monkeypatch.setattr("whisperq.steps.transcribe.open_runtime", lambda *_: pytest.fail("the model was loaded"))
    before = sorted(Path().iterdir())
    result = invoke("transcribe", *arguments, "--model", TEACHER)
    assert result.exit_code == code and words in result.stderr and result.stdout == ""
    assert sorted(Path().iterdir()) == before


def test_times_cannot_be_had_from_a_vocabulary_without(clips, invoke, monkeypatch):
    monkeypatch.setattr("whisperq.runtime.pipeline.make_codec", lambda p, m, *a: without_times(make_codec(p, m, *a)))
    result = invoke("transcribe", "a.ogg", "--model", TEACHER, "--timestamps")
    assert result.exit_code == 2 and "no times" in result.stderr


def without_times(codec):
    return replace(codec, times=range(0))


def test_a_sample_and_silence_are_no_trouble(clips, invoke):
    soundfile.write("short.wav", np.full(3, 0.1), RATE)
    assert invoke("transcribe", "short.wav", "--model", TEACHER, "--format", "vtt").stdout.startswith("WEBVTT\n")


def test_what_runs_a_quantized_model_by_default(copied_run, invoke, monkeypatch):
    seen = []
    monkeypatch.setattr("whisperq.cli.resolve.step", lambda name: lambda **k: seen.append(k["config"].runtime) or "")
    for model in ("gemm-w8a8", "paper-w8a8", "distilled"):
        assert invoke("transcribe", "x.wav", "--model", model).exit_code == 0
    assert seen == ["int8", "emulated", "float"]


SPOKEN = {
    "nothing said": ("", (), (None, "transcribe")),
    "a configuration that says nothing of it": ("teacher: x", (), (None, "transcribe")),
    "its task alone": ("task: translate", (), (None, "translate")),
    "its language": ("language: fr", (), ("fr", "transcribe")),
    "its language, that is auto": ("language: auto", (), (None, "transcribe")),
    "both": ("{language: fr, task: translate}", (), ("fr", "translate")),
    "flags over it": ("{language: fr, task: translate}", ("--task", "transcribe", "--language", "de"), ("de", None)),
    "the flag alone": ("", ("--task", "translate"), (None, "translate")),
}


@pytest.mark.parametrize("content, flags, expected", SPOKEN.values(), ids=SPOKEN)
def test_the_language_is_found_out_unless_somebody_says_it(content, flags, expected, clips, invoke, monkeypatch):
    seen = []
    monkeypatch.setattr("whisperq.cli.resolve.step", lambda name: lambda **k: seen.append(k) or "")
    if content:
        Path("whisperq.yaml").write_text(content)
    assert invoke("transcribe", "a.ogg", "--model", TEACHER, *flags).exit_code == 0
    language = chosen_language(seen[0]["config"], seen[0]["context"])
    assert (language, seen[0]["context"].task) == (expected[0], expected[1] or "transcribe")


AWKWARD = (Segment(0, 1.2345, "a & b <i> --> c"), Segment(3599.9996, 3661.5, "two\n\nlines"))


def test_subtitles_of_awkward_texts():
    assert read_cues(as_srt(AWKWARD), ",") == [(0, 1.234, "a & b <i> -> c"), (3600, 3661.5, "two lines")]
    assert re.findall(r"^\d+$", as_srt(AWKWARD), re.MULTILINE) == ["1", "2"]
    vtt = as_vtt(AWKWARD)
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.234\n")
    assert read_cues(vtt, ".")[0] == (0, 1.234, "a &amp; b &lt;i&gt; --&gt; c")
    assert (as_srt(()), as_vtt(()), as_text([Transcript("a", 1.0, ())])) == ("", "WEBVTT\n", "\n")


def test_text_has_a_line_for_each_recording_whatever_a_model_writes():
    transcript = Transcript("a", 1.0, (Segment(0.0, 1.0, "two\nlines"), Segment(1.0, 2.0, "and a third")))
    assert as_text([transcript]) == "two lines and a third\n"


@pytest.mark.parametrize("added", [0, 1, 7])
@pytest.mark.parametrize("seed", range(6))
def test_time_rules_are_transformers(seed, added):
    """Random logits, the likelihood of times varied; every step of several texts. Words added behind are others."""
    first = PROMPT[-1] + 1
    size = first + 201
    settings = GenerationConfig(eos_token_id=END, no_timestamps_token_id=first - 1, max_initial_timestamp_index=50)
    theirs = WhisperTimeStampLogitsProcessor(settings, begin_index=3)
    generator = torch.Generator().manual_seed(seed)
    written: list[torch.Tensor] = []
    ids = torch.tensor([PROMPT[:3]] * 8)
    for _ in range(40):
        logits = 3 * torch.randn(8, size, generator=generator)
        logits[:, first:] += 4 * torch.rand(8, 1, generator=generator) - 5
        logits[:, END] -= 5
        expected = theirs(ids, logits)
        more = torch.full((8, added), -20.0)  # behind the times, and unlikely
        logits = torch.cat([logits, more], dim=1)
        restrict_times(logits, written, range(first, size), END)
        torch.testing.assert_close(logits[:, :size], expected, rtol=0, atol=0)
        closed = torch.isinf(expected[:, :END]).all(dim=-1)  # where no word may follow
        assert torch.equal(torch.isinf(logits[:, size:]), closed[:, None].expand(-1, added))
        written.append(logits.argmax(dim=-1))
        ids = torch.cat([ids, written[-1][:, None]], dim=1)
    assert (ids[:, 3:] >= first).any() and (ids[:, 3:] < first).any()


class Stubborn:
    """A runtime that wants one token for ever; words 0 to 3, the end 4, <|notimestamps|> 5, times from 6."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.prompts = wanted, []

    def encode(self, features: torch.Tensor) -> None:
        return None

    def decode_step(self, tokens: torch.Tensor, state: None) -> torch.Tensor:
        self.prompts.append(tokens.tolist())
        logits = torch.zeros(1, 12)
        logits[0, self.wanted] = 9.0
        return logits


@pytest.mark.parametrize("wanted", [0, 4, 5, 6, 11])
def test_a_model_that_loops_comes_to_an_end(wanted):
    rules = Rules((8,), end=4, max_tokens=30, times=range(6, 12))
    (ids,) = greedy(Stubborn(wanted), torch.zeros(1, 80, 4), rules)
    times = [i for i in ids if i >= 6]
    assert len(ids) < 30 and times == sorted(times) and ids[0] >= 6 and 5 not in ids
    assert all(times.count(t) <= 2 for t in times)


def test_written_times_become_segments():
    codec = make_codec(processor, gated_model(), "en", "transcribe")
    t, (a, b) = codec.times.start, (token_id("a"), token_id("b"))
    assert codec.decode([t]) == "" and token_id("<|0.50|>") == t + 25
    two = [t, a, t + 25, t + 30, b]
    assert codec.segments(two, 10.0, 0.9) == [Segment(10.0, 10.5, "a"), Segment(10.6, 10.9, "b")]
    assert codec.segments([t + 5, a, t + 50], 0.0, 0.7) == [Segment(0.1, 0.7, "a")]  # a time behind the piece
    assert codec.segments([t, a, t + 50, t + 50, b], 0.0, 0.7) == [Segment(0.0, 0.7, "a b")]
    assert codec.segments([t + 45, a], 0.0, 0.5) == [Segment(0.0, 0.5, "a")]
    assert codec.segments([t, t + 3], 0.0, 0.5) == []


def test_who_knows_times():
    """OpenAI's checkpoints name alignment heads; a student has lost them, but may have learnt times."""
    model = gated_model()
    codec = make_codec(processor, model, "en", "transcribe")
    assert not make_rules(codec, model.generation_config).knows_times
    model.generation_config.alignment_heads = [[1, 0]]
    rules = make_rules(codec, model.generation_config)
    assert rules.knows_times and not rules.times  # evaluation goes on without
    assert (with_times(rules, codec).prompt, with_times(rules, codec).times) == (PROMPT[:-1], codec.times)
    del model.generation_config.alignment_heads
    model.generation_config.trained_with_times = True
    assert make_rules(codec, model.generation_config).knows_times


def test_a_checkpoint_that_knows_times_writes_them(clips, invoke, tmp_path):
    model = Path(shutil.copytree(TEACHER, tmp_path / "stock"))
    path = model / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "alignment_heads": [[2, 0]]}))
    contents = {}
    for flag in ("--timestamps", "--no-timestamps", None):
        result = invoke("transcribe", "a.ogg", "--model", model, "--json", *([flag] if flag else []))
        contents[flag] = json.loads(result.stdout)
    assert contents[None] == contents["--timestamps"] and contents[None]["timestamps"] == "model"
    assert contents["--no-timestamps"]["timestamps"] == "pieces"
    for segment in contents[None]["files"][0]["segments"]:
        assert 0 <= segment["start"] < segment["end"] <= 1.671
    assert invoke("transcribe", "a.ogg", "--model", model).stdout == f"{contents[None]['files'][0]['text']}\n"
    assert invoke("transcribe", "a.ogg", "--model", model, "--no-timestamps").stdout == "zero zero\n"


BEHIND = {
    "none": (["a.ogg", "bad.wav", "b.wav"], 3),
    "--skip-bad": (["a.ogg", "bad.wav", "b.wav", "--skip-bad"], 0),
    "missing": (["no.wav", "a.ogg", "b.wav"], 3),
    "cut off": (["a.ogg", "cut.ogg", "b.wav"], 3),
    "whose header is good": (["a.ogg", "hurt.flac", "b.wav"], 3),
    "a folder": (["sub", "a.ogg", "b.wav"], 3),
    "a folder, --skip-bad": (["a.ogg", "sub", "b.wav", "--skip-bad"], 0),
    "a list": (["a.ogg", "b.wav", "list.jsonl"], 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("arguments, code", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("place", ["stdout", "joint", "folder", "srt"])
def test_good_recordings_are_kept_beside_bad_ones(arguments, code, place, clips, invoke, monkeypatch):
    Path("bad.wav").write_bytes(b"RIFF nothing")
    content = Path("a.ogg").read_bytes()
    Path("cut.ogg").write_bytes(content[: len(content) // 2])
    Path("sub").mkdir()
    Path("list.jsonl").write_text("{}")
    soundfile.write("whole.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 16_000), 16_000)
    Path("hurt.flac").write_bytes(Path("whole.flac").read_bytes()[:-10_000])
    wanted = {"stdout": (), "joint": ("--out", "t.txt"), "srt": ("--out", "s", "--format", "srt"),
              "folder": ("--out", "s", "--format", "srt")}[place]  # fmt: skip
    if place == "folder":
        Path("s").mkdir()
    result = invoke("transcribe", *arguments, "--model", TEACHER, *wanted)
    assert result.exit_code == code, result.stderr
    bad = next(name for name in arguments if name not in ("a.ogg", "b.wav"))
    assert re.search(rf"left out: (the audio file )?{bad} ", result.stderr)
    if place in ("stdout", "joint"):
        text = result.stdout if place == "stdout" else Path("t.txt").read_text()
        assert text == "a.ogg\tzero zero\nb.wav\tone zero six zero\n"
    else:
        assert sorted(p.name for p in Path("s").iterdir()) == ["a.srt", "b.srt"]
    if code:
        assert "1 of 3 recordings could not be used" in result.stderr


@pytest.mark.parametrize("flags", [(), ("--force",)], ids=["", "forced"])
@pytest.mark.parametrize("format", ["text", "json", "srt"])
def test_a_pipe_takes_the_transcript_once_and_is_never_replaced(flags, format, clips, invoke):
    """So does a device, such as /dev/null and /dev/stdout."""
    os.mkfifo("pipe")
    files = clips[:1] if format == "srt" else clips
    command = ("transcribe", *files, "--model", TEACHER, "--format", format, "--batch-size", "1")
    expected = invoke(*command).stdout
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, text=True) as reader:
        try:
            assert invoke(*command, "--out", "pipe", *flags).exit_code == 0
            assert reader.communicate(timeout=10)[0] == expected
        finally:
            reader.kill()
    assert Path("pipe").is_fifo() and sorted(p.name for p in Path().iterdir()) == ["a.ogg", "b.wav", "pipe"]
    planned = invoke(*command, "--out", "pipe", "--dry-run")
    assert planned.exit_code == 0 and "a pipe or a device" in planned.stdout


@pytest.mark.parametrize("format", ["text", "json", "srt"])
def test_what_was_done_stays_when_it_is_stopped(format, clips, invoke, monkeypatch):
    """A signal in the second recording: the first one is there, whole."""
    real, calls = PyTorchRuntime.encode, []

    def encode(self, features):
        calls.append(len(features))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return real(self, features)

    monkeypatch.setattr(PyTorchRuntime, "encode", encode)
    out = ("--out", "s" if format == "srt" else "t")
    result = invoke("transcribe", *clips, "--model", TEACHER, "--batch-size", "1", "--format", format, *out)
    assert result.exit_code == 75 and "1 of 2 recordings are transcribed" in result.stderr
    found = Path("s/a.srt" if format == "srt" else "t").read_text()
    assert "zero zero" in found and "six" not in found
    assert not list(Path().rglob("*partial*"))


def test_lines_come_as_they_are_done(clips, invoke, monkeypatch):
    """Whoever is killed has printed what was done before."""
    seen, real = [], PyTorchRuntime.encode

    def encode(self, features):
        seen.append(sys.stdout.getvalue() if hasattr(sys.stdout, "getvalue") else "")
        return real(self, features)

    monkeypatch.setattr(PyTorchRuntime, "encode", encode)
    printed = []
    monkeypatch.setattr("builtins.print", lambda *a, **k: printed.append((len(seen), a[0])))
    invoke("transcribe", *clips, "--model", TEACHER, "--batch-size", "1")
    assert printed[:2] == [(1, "a.ogg\tzero zero\n"), (2, "b.wav\tone zero six zero\n")]


SILENCES = {
    "zeros": np.zeros(3 * RATE),
    "a sample": np.full(1, 0.1),
    "a hundredth": np.full(160, 0.1),
    "room": 0.003 * np.random.default_rng(0).standard_normal(5 * RATE),
    "noise": 0.1 * np.random.default_rng(1).standard_normal(5 * RATE),
    "offset": np.full(3 * RATE, 0.2),
}


@pytest.mark.parametrize("samples", SILENCES.values(), ids=SILENCES)
def test_where_nobody_speaks_nothing_is_written(samples, clips, invoke):
    soundfile.write("still.wav", samples, RATE)
    result = invoke("transcribe", "still.wav", "--model", TEACHER, "--json")
    (file,) = json.loads(result.stdout)["files"]
    assert (file["text"], file["segments"]) == ("", []) and file["duration"] == round(len(samples) / RATE, 3)
