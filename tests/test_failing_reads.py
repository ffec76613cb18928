"""Disks and networks that fail for a moment, or for good: never taken for a recording that is bad."""

import builtins
import errno
import json
import os
import time
from pathlib import Path

import pytest
import soundfile
from conftest import sample_lines, write_lines
from support.audio_files import encoded, tone, utterance
from support.corrupted_lists import corrupt, line

from whisperq.data import retries as patience
from whisperq.data.audio import audio_seconds, load_audio
from whisperq.data.lists import Source, read
from whisperq.data.recording import Recording
from whisperq.errors import InputError, ReadError

RATE = 16000
FAULTS = [OSError(number, os.strerror(number)) for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE)]
FAULTS += [BlockingIOError(errno.EAGAIN, "busy"), MemoryError()]


@pytest.fixture(autouse=True)
def waits(monkeypatch) -> list[float]:
    """Seconds that were waited for, in no time."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


class Failing:
    """A file whose chosen reads fail, counted from 1 over all files."""

    def __init__(self, file, count: list[int], chosen, fault: BaseException) -> None:
        self.file, self.count, self.chosen, self.fault = file, count, chosen, fault

    def read(self, size: int = -1) -> bytes:
        self.count[0] += 1
        if self.chosen(self.count[0]):
            raise self.fault
        return self.file.read(size)

    def __getattr__(self, name):
        return getattr(self.file, name)


def fail(monkeypatch, where: str, chosen, fault: BaseException) -> None:
    """The chosen calls raise, counted from 1: of `open` and of libsndfile for recordings, of reading an open file."""
    calls, original, sound_file = [0], builtins.open, soundfile.SoundFile

    def opening(file, *arguments, **settings):
        if not str(file).endswith((".wav", ".opus", ".flac")):
            return original(file, *arguments, **settings)
        if where == "read":
            return Failing(original(file, *arguments, **settings), calls, chosen, fault)
        return counted(original, file, *arguments, **settings)

    def counted(function, *arguments, **settings):
        calls[0] += 1
        if chosen(calls[0]):
            raise fault
        return function(*arguments, **settings)

    if where == "libsndfile":
        monkeypatch.setattr(soundfile, "SoundFile", lambda *a, **s: counted(sound_file, *a, **s))
    elif where == "stat":
        stat = os.stat
        monkeypatch.setattr(
            os, "stat", lambda p, **s: counted(stat, p, **s) if str(p).endswith("wav") else stat(p, **s)
        )
    else:
        monkeypatch.setattr(builtins, "open", opening)


@pytest.fixture
def path(tmp_path) -> str:
    (tmp_path / "a.wav").write_bytes(encoded(tone(500, 20.0)))
    return str(tmp_path / "a.wav")


WHERE = ("open", "read", "libsndfile", "stat")


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f"{type(f).__name__}-{getattr(f, 'errno', '')}")
@pytest.mark.parametrize("where", WHERE)
def test_what_fails_now_and_then_is_read_in_the_end(monkeypatch, path, where, fault, waits):
    expected = load_audio(utterance(path), RATE)
    fail(monkeypatch, where, lambda call: call % 3 == 1, fault)
    assert (load_audio(utterance(path), RATE) == expected).all()
    assert audio_seconds(utterance(path)) == 20.0
    with Recording(utterance(path), RATE) as recording:
        for start in range(0, len(expected), 50_000):
            assert (recording.window(start, 50_000) == expected[start : start + 50_000]).all()
    assert waits


@pytest.mark.parametrize("fault", [*FAULTS, PermissionError(errno.EACCES, "Permission denied")])
@pytest.mark.parametrize("where", WHERE)
def test_what_fails_for_good_is_an_error_of_its_own(monkeypatch, path, where, fault, waits):
    fail(monkeypatch, where, lambda call: True, fault)
    for reader in (audio_seconds, lambda u: load_audio(u, RATE), lambda u: Recording(u, RATE)):
        waits.clear()
        with pytest.raises(
            ReadError, match=r"line 3: the audio file .*a\.wav could not be read|the file .*a\.wav could"
        ):
            reader(utterance(path))
        assert waits == ([] if isinstance(fault, PermissionError) else list(patience.WAITS))


def test_a_name_that_no_file_has_is_bad_at_once(tmp_path, waits):
    for name in ("gone.wav", "a.wav/b.wav", "x" * 300, "a\0b.wav"):
        with pytest.raises(InputError, match="does not exist"):
            load_audio(utterance(str(tmp_path / name)), RATE)
    assert not waits


def test_ctrl_c_while_libsndfile_reads_is_not_lost(monkeypatch, path):
    fail(monkeypatch, "read", lambda call: call > 5, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        load_audio(utterance(path), RATE)


COMMANDS = {
    "eval": ("eval", "--model", "distilled", "--test", "a={}"),
    "calibrate": ("calibrate", "--out", "new", "--data", "{}"),
    "pseudo-label": ("pseudo-label", "--model", "distilled", "--data", "{}", "--out", "new"),
    "distill": ("distill", "--out", "new", "--train", "{}", "--max-steps", "2", "--workers", "0"),
}


def some(workspace: Path, bad: int = 0) -> Path:
    """A list of recordings with files of their own, the second and further ones bad."""
    lines = []
    for number, entry in enumerate(sample_lines("validation", 6)):
        soundfile.write(workspace / f"{number}.wav", *soundfile.read(entry["audio_filepath"]))
        lines.append({**entry, "audio_filepath": f"{number}.wav"})
    for number in range(1, 1 + bad):
        lines[number] = line(id=f"bad-{number}", audio_filepath=corrupt(workspace))
    return write_lines(workspace / "some.jsonl", lines)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_skip_bad_does_not_skip_what_could_not_be_read(command, copied_run, workspace, invoke, monkeypatch):
    call = [word.format(some(workspace)) for word in COMMANDS[command]]
    with monkeypatch.context() as patch:
        fail(patch, "open", lambda n: n > 2, OSError(errno.EIO, "Input/output error"))
        failed = invoke(*call, "--skip-bad")
    assert failed.exit_code == 3 and "could not be read (Input/output error)" in failed.stderr
    fail(monkeypatch, "open", lambda n: n % 3 == 0, OSError(errno.EIO, "Input/output error"))
    done = invoke(*call, "--skip-bad", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["results"]
    assert (found["sets"]["a"] if command == "eval" else found)["skipped"] == 0
    assert "left out" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_what_was_skipped_is_named_at_the_end(command, copied_run, workspace, invoke):
    call = [word.format(some(workspace, bad=2)) for word in COMMANDS[command]]
    done = invoke(*call, "--skip-bad")
    assert done.exit_code == 0, done.stderr
    named = next(text for text in done.stderr.splitlines() if text.startswith("left out as unusable, 2: "))
    assert "some.jsonl line 2; " in named and named.endswith("some.jsonl line 3")


def test_a_line_that_could_not_be_read_again_is_read_once_more(workspace, monkeypatch):
    """The list itself lies on the disk that fails."""
    lines, pread, calls = read(Source(path=str(some(workspace)))).utterances, os.pread, [0]

    def failing(*arguments):
        calls[0] += 1
        if calls[0] % 2:
            raise OSError(errno.EIO, "Input/output error")
        return pread(*arguments)

    monkeypatch.setattr(os, "pread", failing)
    assert [Path(u.audio).name for u in lines] == [f"{number}.wav" for number in range(6)]

    def failed(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", failed)
    with pytest.raises(ReadError, match=r"some\.jsonl could not be read"):
        lines[0]
