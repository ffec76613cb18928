"""Recordings read a window at a time: the same samples as in one go, and no more of them in memory."""

import io
import tracemalloc

import numpy as np
import pytest
import soundfile
import soxr
from support.audio_files import encoded, tone, utterance

from whisperq.data.audio import load_audio
from whisperq.data.recording import Recording
from whisperq.errors import InputError

RATE = 16000
SECONDS = 20


def stereo(rate: int) -> np.ndarray:
    """Two channels of sliding pitch with noise."""
    noise = np.random.default_rng(0).normal(0, 0.01, (SECONDS * rate, 2))
    return noise + np.stack([tone(300, SECONDS, rate), tone(700, SECONDS, rate, 0.2)], axis=1)


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("step, count", [(7001, 48000), (80_000, 80_000), (100_000, 999)])
def test_windows_are_what_the_whole_resampled_at_once_holds(tmp_path, rate, step, count):
    soundfile.write(tmp_path / "a.wav", stereo(rate), rate, subtype="FLOAT")
    samples = soundfile.read(tmp_path / "a.wav", dtype="float32")[0].mean(axis=1)
    whole = soxr.resample(samples, rate, RATE) if rate != RATE else samples
    with Recording(utterance(str(tmp_path / "a.wav")), RATE) as recording:
        assert (recording.rate, recording.seconds) == (RATE, SECONDS)
        for start in range(0, len(whole) + step, step):
            np.testing.assert_array_equal(recording.window(start, count), whole[start : start + count])
        assert not len(recording.window(len(whole) + step, count))
        with pytest.raises(ValueError, match="gone"):
            recording.window(0, count)


@pytest.mark.parametrize("format, subtype", [("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_windows_of_every_format_are_what_an_utterance_holds(format, subtype):
    part = utterance(encoded(stereo(48000), 48000, format, subtype), duration=9.5, offset=3.25)
    whole = load_audio(part, RATE)
    with Recording(part, RATE) as recording:
        windows = [recording.window(start, 30_000) for start in range(0, len(whole), 30_000)]
    np.testing.assert_array_equal(np.concatenate(windows), whole)
    assert len(whole) == 9.5 * RATE


CANNOT_SEEK = [("WAV", "GSM610"), ("W64", "GSM610"), ("AIFF", "GSM610"), ("WAV", "NMS_ADPCM_16"), ("AU", "G721_32")]


@pytest.mark.parametrize("format, subtype", CANNOT_SEEK)
def test_what_cannot_seek_is_read_from_its_beginning(format, subtype):
    audio = encoded(stereo(8000)[:, 0], 8000, format, subtype)
    expected = soundfile.SoundFile(io.BytesIO(audio)).read(SECONDS * 8000, dtype="float32")
    whole, part = load_audio(utterance(audio), 8000), load_audio(utterance(audio, duration=9.5, offset=3.25), 8000)
    np.testing.assert_array_equal(whole[: len(expected)], expected)
    np.testing.assert_array_equal(part, whole[26_000:102_000])
    with Recording(utterance(audio), 8000) as recording:
        np.testing.assert_array_equal(recording.window(0, len(whole) + 1), whole)
    with pytest.raises(InputError, match="truncated"):
        load_audio(utterance(audio[: len(audio) // 2]), 8000)


def test_a_flac_stream_whose_length_nobody_wrote_down_is_read_to_its_end():
    audio = bytearray(encoded(stereo(16000), format="FLAC"))
    whole = load_audio(utterance(bytes(audio)), RATE)
    audio[21] &= 0xF0  # the 36 bits of the number of samples, as an encoder that writes into a pipe leaves them
    audio[22:26] = bytes(4)
    for wanted, part in ((whole, {}), (whole[4000:20_000], {"offset": 0.25, "duration": 1.0})):
        piped = utterance(bytes(audio), **part)
        np.testing.assert_array_equal(load_audio(piped, RATE), wanted)
        with Recording(piped, RATE) as recording:
            assert recording.seconds == len(wanted) / RATE
            np.testing.assert_array_equal(recording.window(0, len(whole)), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("read", ["recording", "utterance"])
def test_memory_does_not_grow_with_the_file(tmp_path, read):
    minutes, rate = 10, 48000
    block = stereo(rate)
    with soundfile.SoundFile(tmp_path / "long.wav", "w", rate, 2, "PCM_16") as file:
        for _ in range(minutes * 3):
            file.write(block)
    samples_read, window = 0, 30 * RATE
    tracemalloc.start()
    if read == "recording":
        with Recording(utterance(str(tmp_path / "long.wav")), RATE) as recording:
            while len(samples := recording.window(samples_read, window)):
                samples_read += len(samples)
        bound = 20
    else:
        samples_read = len(load_audio(utterance(str(tmp_path / "long.wav")), RATE))
        bound = 2 * 4 * samples_read / 1e6 + 20  # its parts, and the whole
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert samples_read == minutes * 60 * RATE
    assert peak < bound  # megabytes; decoded at once the file has 230


def test_what_is_bad_is_said_before_anything_is_read(tmp_path):
    samples = stereo(RATE)
    samples[-1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        Recording(utterance(encoded(samples, subtype="FLOAT")), RATE)
    with pytest.raises(InputError, match="does not exist"):
        Recording(utterance(str(tmp_path / "gone.wav")), RATE)
