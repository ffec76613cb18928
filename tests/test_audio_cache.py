"""Decoded recordings kept on disk: the same bits as decoding gives, whatever is changed, killed, full or shared."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import run_command
from support.feeding import RATE, make_feed, noise, write_noises

from whisperq import artifact
from whisperq.data import audio_cache
from whisperq.data.audio import load_audio
from whisperq.data.audio_cache import AudioCache, packed, unpacked
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, UsageError

KINDS = {  # file name -> how it is written
    "a.flac": {"format": "FLAC", "subtype": "PCM_16"},
    "a.wav": {"format": "WAV", "subtype": "FLOAT"},
    "a24.wav": {"format": "WAV", "subtype": "PCM_24"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
}


def recording(folder: Path, name: str = "a.flac", seed: int = 1, rate: int = RATE, channels: int = 1) -> Utterance:
    samples = noise(seed, 1.3 * rate / RATE)
    soundfile.write(folder / name, np.stack([samples] * channels, axis=1), rate, **KINDS[name])
    return Utterance("a", str(folder / name), "one", None)


def cache_in(folder: Path, limit: float = 1e9) -> AudioCache:
    return AudioCache(folder / "cache", limit)


def no_decoder(*_):
    raise AssertionError("decoded again")


def entries(folder: Path) -> list[Path]:
    return list((folder / "cache").glob("*/*.pcm"))


@pytest.mark.parametrize("channels, rate", [(1, RATE), (2, RATE), (1, 48000)])
@pytest.mark.parametrize("name", KINDS)
def test_what_comes_back_is_what_decoding_gives(tmp_path, monkeypatch, name, channels, rate):
    whole = recording(tmp_path, name, rate=rate, channels=channels)
    for part in (whole, Utterance("b", whole.audio, "two", 0.4, offset=0.2), Utterance("c", b"", "three", None)):
        if part.audio == b"":
            part = Utterance("c", Path(whole.audio).read_bytes(), "three", None)
        expected = load_audio(part, RATE)
        assert np.array_equal(cache_in(tmp_path).load(part, RATE), expected)
        with monkeypatch.context() as patched:
            patched.setattr(audio_cache, "load_audio", no_decoder)
            found = cache_in(tmp_path).load(part, RATE)
        assert found.dtype == np.float32 and np.array_equal(found, expected)
    assert len(entries(tmp_path)) == 2  # embedded or in a file, it is the same recording


def test_what_sixteen_bits_say_takes_two_bytes(tmp_path):
    for name, size in (("a.flac", 2), ("a.wav", 4)):
        folder = tmp_path / name
        folder.mkdir()
        cache_in(folder).load(recording(folder, name), RATE)
        (entry,) = entries(folder)
        assert entry.stat().st_size == 64 + 1 + size * len(load_audio(recording(folder, name), RATE))


def test_both_ends_of_the_range_are_kept():
    ends = np.array([-1.0, 32767 / 32768, 0.0, -0.0, 1.0], np.float32)
    assert packed(ends[:4])[:1] == b"i" and packed(ends)[:1] == b"f"
    assert np.array_equal(unpacked(packed(ends[:4])), ends[:4]) and np.array_equal(unpacked(packed(ends)), ends)
    assert unpacked(b"") is None and unpacked(b"x12") is None and unpacked(b"i123") is None


def test_a_changed_recording_is_decoded_and_a_moved_one_is_not(tmp_path, monkeypatch):
    cache, first = cache_in(tmp_path), recording(tmp_path, seed=1)
    before = cache.load(first, RATE)
    os.utime(recording(tmp_path, seed=2).audio, ns=(0, 1))  # as long as the first, of another content and time
    after = cache.load(first, RATE)
    assert not np.array_equal(before, after) and np.array_equal(after, load_audio(first, RATE))
    shutil.move(first.audio, tmp_path / "moved.flac")
    monkeypatch.setattr(audio_cache, "load_audio", no_decoder)
    assert np.array_equal(cache.load(Utterance("a", str(tmp_path / "moved.flac"), "one", None), RATE), after)


def test_a_recording_that_is_replaced_while_it_is_decoded_is_not_kept(tmp_path, monkeypatch):
    first = recording(tmp_path, seed=1)

    def replaced(utterance, rate):
        found = load_audio(utterance, rate)
        os.utime(recording(tmp_path, seed=2).audio, ns=(0, 2))
        return found

    monkeypatch.setattr(audio_cache, "load_audio", replaced)
    cache_in(tmp_path).load(first, RATE)
    assert not entries(tmp_path)


@pytest.mark.parametrize("damage", [lambda c: c[:-7], lambda c: b"", lambda c: c[:-3] + bytes([c[-3] ^ 4]) + c[-2:]])
def test_a_broken_entry_is_made_again(tmp_path, damage):
    one = recording(tmp_path)
    cache_in(tmp_path).load(one, RATE)
    (entry,) = entries(tmp_path)
    entry.write_bytes(damage(entry.read_bytes()))
    assert np.array_equal(cache_in(tmp_path).load(one, RATE), load_audio(one, RATE))
    assert unpacked(entry.read_bytes()[64:]) is not None


@pytest.mark.parametrize("content", [None, b"no sound"])
def test_what_cannot_be_decoded_says_so_each_time(tmp_path, content):
    file = tmp_path / "a.flac"
    if content:
        file.write_bytes(content)
    for _ in range(2):
        with pytest.raises(InputError, match="a.flac"):
            cache_in(tmp_path).load(Utterance("a", str(file), "one", None), RATE)
    assert not entries(tmp_path)


def test_a_folder_without_room_is_said_once_and_gives_right_audio(tmp_path):
    one, cache = recording(tmp_path), cache_in(tmp_path, limit=100)
    with pytest.warns(UserWarning, match="found no room for all recordings") as said:
        found = [cache.load(one, RATE) for _ in range(3)]
    assert len(said) == 1 and not entries(tmp_path)
    assert all(np.array_equal(audio, load_audio(one, RATE)) for audio in found)


def test_a_folder_that_takes_no_file_is_refused(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(UsageError, match="--audio-cache"):
        cache_in(tmp_path)


def on_a_full_disk(folder: Path) -> None:
    """The system's limit on a file's size stands in for a full disk: the write itself fails."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    one, cache = Utterance("a", str(folder / "a.flac"), "one", None), cache_in(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    with pytest.warns(UserWarning, match="found no room"):
        audio = cache.load(one, RATE)
    os._exit(0 if np.array_equal(audio, load_audio(one, RATE)) else 3)


def test_on_a_full_disk_audio_is_right_and_nothing_is_half_written(tmp_path):
    recording(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=on_a_full_disk, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == ["size"]


def fill(folder: Path, start: int, count: int) -> None:
    cache = cache_in(folder)
    for number in range(start, start + count):
        content = (folder / f"train{number % 40}.wav").read_bytes()
        cache.load(Utterance(str(number), content, "one", None), RATE)


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_fill_one_folder_and_a_kill_breaks_nothing(tmp_path, killed):
    write_noises(tmp_path, 40)
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=fill, args=(tmp_path, start, 400 if killed else 40)) for start in (0, 20)]
    for process in both:
        process.start()
    if killed:
        time.sleep(0.1)
        os.kill(both[0].pid, signal.SIGKILL)
    for process in both:
        process.join()
    assert both[1].exitcode == 0
    fill(tmp_path, 0, 40)
    held = entries(tmp_path)
    assert len(held) == 40 and not list((tmp_path / "cache").glob("*/.*"))
    assert int((tmp_path / "cache" / "size").read_text()) == sum(path.stat().st_size for path in held)
    for number in range(40):
        one = Utterance("a", str(tmp_path / f"train{number}.wav"), "one", None)
        assert np.array_equal(cache_in(tmp_path).load(one, RATE), load_audio(one, RATE))


@pytest.mark.parametrize("workers", [0, 2])
def test_windows_are_the_same_bits_with_it(tmp_path, workers):
    path = write_noises(tmp_path, 8)

    def windows(cache: Path | None) -> list[torch.Tensor]:
        feed = make_feed(path, batch_size=4, workers=workers)
        if cache:
            feed.loader.decode = AudioCache(cache, 1e9).load
        return [batch.features for step in feed.steps(None, 4, 0, 1) for batch in step.batches]

    expected = windows(None)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(windows(tmp_path / "cache"), expected, strict=True))
    assert len(entries(tmp_path)) == 8


def test_distill_keeps_recordings_and_its_result_does_not_depend_on_it(workspace):
    assert run_command("init-student").exit_code == 0
    weights = []
    for flags in ((), ("--audio-cache", "cache"), ("--audio-cache", "cache")):
        done = run_command("distill", *flags, "--out", f"d{len(weights)}", "--max-steps", 2)
        assert done.exit_code == 0, done.output
        weights.append(Path(f"d{len(weights)}", "model.safetensors").read_bytes())
    assert weights[0] == weights[1] == weights[2] and entries(workspace)
    assert "audio_cache" not in artifact.load("d1").config


def test_waiting_for_recordings_is_said_with_what_helps(workspace, monkeypatch):
    """Slow decoding: each recording takes as long as a step."""

    def slow(utterance, rate):
        time.sleep(0.5)
        return load_audio(utterance, rate)

    monkeypatch.setattr("whisperq.data.batches.load_audio", slow)
    assert run_command("init-student").exit_code == 0
    done = run_command("distill", "--max-steps", 4, "--log-every", 1, "--eval-every", 4)
    assert done.exit_code == 0 and done.output.count("spent waiting for recordings; more --workers") == 1, done.output
    log = [json.loads(line) for line in Path("run/distilled/metrics.jsonl").read_text().splitlines()]
    assert max(entry.get("data_wait", 0) for entry in log) > 0.05
