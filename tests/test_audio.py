from pathlib import Path

import numpy as np
import pytest
from support.audio_files import RATE, encoded, rms, tone, utterance

from whisperq.data.audio import load_audio, split_at_silence
from whisperq.errors import InputError, UsageError


def peak_frequency(audio: np.ndarray, rate: int) -> float:
    """Hz of the largest component, by numpy's Fourier transform."""
    return float(np.abs(np.fft.rfft(audio * np.hanning(len(audio)))).argmax() * rate / len(audio))


LOSSLESS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", None)]
LOSSY = [("WAV", "ULAW"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
FORMATS = LOSSLESS + LOSSY


@pytest.mark.parametrize("format, subtype", FORMATS)
@pytest.mark.parametrize("embedded", [True, False])
def test_every_format_keeps_length_loudness_and_pitch(tmp_path, format, subtype, embedded):
    samples = tone(1000, 1.0)
    audio = encoded(samples, format=format, subtype=subtype)
    path = tmp_path / "a.audio"  # the content tells the format, not the name
    path.write_bytes(audio)
    loaded = load_audio(utterance(audio if embedded else str(path)), RATE)
    assert loaded.dtype == np.float32 and loaded.shape == (RATE,)
    tolerance = 1e-3 if (format, subtype) in LOSSLESS else 0.1
    assert rms(loaded[1000:-1000]) == pytest.approx(0.4 / np.sqrt(2), rel=tolerance)
    assert peak_frequency(loaded, RATE) == pytest.approx(1000, abs=2)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_other_rates_and_two_channels(rate):
    left, right = tone(440, 1.0, rate, 0.4), tone(440, 1.0, rate, 0.2)
    loaded = load_audio(utterance(encoded(np.stack([left, right], axis=1), rate)), RATE)
    assert loaded.shape == (RATE,)
    np.testing.assert_allclose(loaded[800:-800], tone(440, 1.0, amplitude=0.3)[800:-800], atol=2e-3)


def test_resampling_does_not_fold_what_lies_above_half_the_rate():
    loaded = load_audio(utterance(encoded(tone(15000, 1.0, 44100), 44100)), RATE)
    assert rms(loaded[800:-800]) < 1e-3  # an alias would sound at 1 kHz with rms 0.28


@pytest.mark.parametrize("format, subtype", FORMATS)
def test_offset_and_duration_select_a_segment(format, subtype):
    samples = np.concatenate([tone(500, 1.0), tone(2000, 1.0), tone(500, 1.0)])
    audio = encoded(samples, format=format, subtype=subtype)
    loaded = load_audio(utterance(audio, duration=0.8, offset=1.1), RATE)
    assert len(loaded) == round(0.8 * RATE)
    assert peak_frequency(loaded, RATE) == pytest.approx(2000, abs=2)
    whole = load_audio(utterance(audio), RATE)
    np.testing.assert_allclose(loaded, whole[round(1.1 * RATE) :][: len(loaded)], atol=1e-5)


def test_a_rounded_duration_does_not_cut_the_end():
    audio = encoded(tone(500, 1.04))
    assert len(load_audio(utterance(audio, duration=1.0), RATE)) == round(1.04 * RATE)
    assert len(load_audio(utterance(audio, duration=0.9), RATE)) == round(0.9 * RATE)
    assert len(load_audio(utterance(audio, duration=0.6, offset=0.5), RATE)) == round(0.54 * RATE)


def test_a_file_much_shorter_than_listed_is_a_warning():
    with pytest.warns(UserWarning, match=r"line 3.* holds 1\.00 s of the 9\.00 s listed"):
        assert len(load_audio(utterance(encoded(tone(500, 1.0)), duration=9.0), RATE)) == RATE


def unusable(folder: Path) -> dict[str, str | bytes]:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE)
    silence_with_nan = np.zeros(100)
    silence_with_nan[50] = np.nan
    flac = encoded(noise, format="FLAC")
    return {
        "missing": str(folder / "gone.wav"),
        "nothing": b"",
        "text": b"this is not audio at all" * 10,
        "broken": flac[: len(flac) // 2],
        "cut": encoded(noise, format="MP3")[:4000],
        "empty": encoded(np.zeros(0)),
        "nan": encoded(silence_with_nan, subtype="FLOAT"),
    }


SENTENCES = {
    "missing": "does not exist",
    "nothing": "cannot be decoded (Format not recognised)",
    "text": "cannot be decoded (Format not recognised)",
    "broken": "cannot be decoded",
    "cut": "is truncated",
    "empty": "holds no sample",
    "nan": "not finite",
}


@pytest.mark.parametrize("case", SENTENCES)
@pytest.mark.parametrize("embedded", [True, False])
def test_unusable_audio_is_one_sentence(tmp_path, case, embedded):
    audio = unusable(tmp_path)[case]
    name = "the embedded audio"
    if not embedded or isinstance(audio, str):
        name = str(tmp_path / "gone.wav") if isinstance(audio, str) else str(tmp_path / "a.wav")
        if isinstance(audio, bytes):
            Path(name).write_bytes(audio)
        audio = name
    with pytest.raises(InputError) as error:
        load_audio(utterance(audio), RATE)
    message = str(error.value)
    assert message.startswith("dev.jsonl line 3") and name in message and SENTENCES[case] in message
    assert "\n" not in message


def test_headerless_audio_and_an_offset_behind_the_end(tmp_path):
    (tmp_path / "a.raw").write_bytes(bytes(1000))
    with pytest.raises(InputError, match=r"a\.raw cannot be decoded"):
        load_audio(utterance(str(tmp_path / "a.raw")), RATE)
    with pytest.raises(InputError, match=r"ends at 1\.00 s, before the offset 2\.00 s"):
        load_audio(utterance(encoded(tone(500, 1.0)), offset=2.0), RATE)


def speech_like(seconds: float, pauses: list[tuple[float, float]]) -> np.ndarray:
    """Noise with pauses (from, to) in seconds at a hundredth of its amplitude."""
    audio = np.random.default_rng(1).normal(0, 0.2, round(seconds * RATE))
    for start, end in pauses:
        audio[round(start * RATE) : round(end * RATE)] *= 0.01
    return audio.astype(np.float32)


def test_cuts_fall_into_the_pauses():
    pauses = [(1.0, 1.4), (6.1, 6.4), (14.0, 14.3), (20.5, 20.9)]
    audio = speech_like(25, pauses)
    audio[round(8.9 * RATE) : round(8.95 * RATE)] = 0  # a plosive's closure: quieter than any pause
    cuts = [start / RATE for start, _ in split_at_silence(audio, RATE, max_seconds=10.0)[1:]]
    # The pause at 1.2 s lies in the first half of its window: a piece would be short.
    assert [next((p for p in pauses if p[0] <= cut <= p[1]), None) for cut in cuts] == [
        (6.1, 6.4),
        (14.0, 14.3),
        (20.5, 20.9),
    ]


def test_the_end_of_a_recording_is_no_pause():
    audio = speech_like(10.03, [])
    audio[7 * RATE : round(7.3 * RATE)] *= 0.9
    ((_, cut), _) = split_at_silence(audio, RATE, max_seconds=10.0)
    assert 7.0 <= cut / RATE <= 7.3


@pytest.mark.parametrize("seconds, longest", [(0.1, 1.0), (1.0, 1.0), (7.3, 1.0), (61.0, 30.0), (3.0, 0.04)])
@pytest.mark.parametrize("rate", [8000, 11025, 16000])
@pytest.mark.parametrize("silent", [True, False])
def test_pieces_cover_everything_once_and_none_is_too_long(seconds, longest, rate, silent):
    audio = np.zeros(round(seconds * rate), np.float32)
    if not silent:
        audio += np.random.default_rng(2).normal(0, 0.1, len(audio)).astype(np.float32)
    ranges = split_at_silence(audio, rate, longest)
    np.testing.assert_array_equal(np.concatenate([audio[a:b] for a, b in ranges]), audio)
    assert all(0 < end - start <= longest * rate for start, end in ranges)
    assert all(end - start >= longest * rate / 2 - 1 for start, end in ranges[:-1])


def test_nothing_to_split_and_pieces_too_short_to_choose():
    assert split_at_silence(np.zeros(0, np.float32), RATE, 30.0) == []
    with pytest.raises(UsageError, match="too short"):
        split_at_silence(np.zeros(RATE, np.float32), RATE, 0.0)


@pytest.mark.parametrize("floor", [0.0, 1e-3])
def test_a_pause_is_cut_in_its_middle(floor):
    rng = np.random.default_rng(0)
    audio = rng.standard_normal(12 * RATE) * 0.1
    audio[6 * RATE : 8 * RATE] = rng.standard_normal(2 * RATE) * floor
    ((_, cut), _) = split_at_silence(audio.astype(np.float32), RATE, max_seconds=10.0)
    assert 6.6 < cut / RATE < 7.4
