"""Recordings whose end is missing, whose length nobody wrote down, and whose samples are not what they should be."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import DIGITS
from support.audio_files import encoded, rms, tone, utterance

from whisperq.data import decoder
from whisperq.data.audio import audio_seconds, load_audio
from whisperq.data.containers import checked_head
from whisperq.data.recording import Recording
from whisperq.errors import InputError

RATE = 16000
SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * RATE)
STATED = [  # containers that state a length in bytes
    *[("WAV", s) for s in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM")],
    *[(f, "PCM_16") for f in ("WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "NIST")],
    ("AIFF", "FLOAT"),
]
COMPRESSED = [("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]


def refused(audio: bytes | str, words: str) -> None:
    for read in (load_audio, Recording):
        with pytest.raises(InputError, match=f"line 3.*{words}"):
            read(utterance(audio), RATE)


@pytest.mark.parametrize("format, subtype", STATED + COMPRESSED)
def test_a_whole_file_is_no_truncated_one(format, subtype, recwarn):
    audio = encoded(SOUND, format=format, subtype=subtype)
    assert len(load_audio(utterance(audio), RATE)) == pytest.approx(len(SOUND), abs=1000)  # a block of ADPCM
    assert checked_head(io.BytesIO(audio), "it") is None
    assert not recwarn.list


@pytest.mark.parametrize("kept", [0.3, 0.95])
@pytest.mark.parametrize("format, subtype", STATED + COMPRESSED)
def test_a_file_that_ends_before_its_header_says_is_refused(tmp_path, format, subtype, kept):
    whole = encoded(SOUND, format=format, subtype=subtype)
    audio = whole[: int(kept * len(whole))]
    words = "truncated|lost sync" if format == "FLAC" else "is truncated"
    refused(audio, words)
    (tmp_path / "a.wav").write_bytes(audio)
    refused(str(tmp_path / "a.wav"), words)
    if (format, subtype) in STATED:
        with pytest.raises(InputError, match=words):
            audio_seconds(utterance(audio))


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_streams_one_behind_the_other_are_refused(tmp_path, subtype):
    """What is behind the first one was left out, and nobody was told."""
    audio = 2 * encoded(SOUND, format="OGG", subtype=subtype)
    refused(audio, "several streams one behind the other.*ffmpeg")
    (tmp_path / "a.ogg").write_bytes(audio)
    refused(str(tmp_path / "a.ogg"), "several streams")


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_file_cut_between_its_pages_or_filled_up_with_zeros_is_refused(subtype):
    audio = encoded(SOUND, format="OGG", subtype=subtype)
    refused(audio[: audio.rindex(b"OggS")], "truncated: its last Ogg page does not end the stream")
    refused(audio[: audio.rindex(b"OggS") + 20], "truncated: it ends within an Ogg page")
    refused(audio[: len(audio) // 2] + bytes(70_000), "no Ogg page at its end")


def wav(samples: np.ndarray, riff: int, data: int, subtype: str = "PCM_16", format: str = "WAV") -> bytes:
    """With these lengths in its header."""
    audio = bytearray(encoded(samples, format=format, subtype=subtype))
    order = ">" if audio[:4] == b"RIFX" else "<"
    struct.pack_into(f"{order}I", audio, 4, riff)
    struct.pack_into(f"{order}I", audio, audio.index(b"data") + 4, data)
    return bytes(audio)


NOBODY_KNEW = [(0, 0), (36, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFFFFF), (0x7FFFF024, 0x7FFFF000)]
NOBODY_KNEW += [(0x80000024, 0x80000000), (0xFFFFFFFF, 0xFFFFFFDB), (0, 0xFFFFFFFF)]


@pytest.mark.parametrize("riff, data", NOBODY_KNEW)
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "ULAW"])
def test_a_wav_whose_length_nobody_wrote_down_is_read_to_its_end(riff, data, subtype):
    expected = load_audio(utterance(encoded(SOUND, subtype=subtype)), RATE)
    audio = wav(SOUND, riff, data, subtype)
    np.testing.assert_array_equal(load_audio(utterance(audio), RATE), expected)
    assert audio_seconds(utterance(audio)) == 3.0
    with Recording(utterance(audio[:-8000]), RATE) as recording:  # killed earlier
        assert recording.seconds == 3.0 - 8000 / RATE / {"PCM_16": 2, "FLOAT": 4, "ULAW": 1}[subtype]


# Where the length stands, from the start or behind a name, and the values that stand for none.
OTHERS = {
    "AU": (8, "", (0, 0xFFFFFFFF), ">I"),
    "AIFF": (4, "SSND", (0, 0xFFFFFFFF, 0x7FFFFFFF), ">I"),
    "CAF": (4, "data", (0, (1 << 64) - 1), ">Q"),
    "W64": (16, "data", (0, (1 << 64) - 1), "<Q"),
    "RF64": (28, "", (0, (1 << 64) - 1), "<Q"),
}


@pytest.mark.parametrize("format", OTHERS)
def test_other_headers_without_a_length_are_read_to_the_end_too(format):
    place, name, values, packed = OTHERS[format]
    audio = bytearray(encoded(SOUND, format=format, subtype="PCM_16"))
    expected = load_audio(utterance(bytes(audio)), RATE)
    for value in values:
        struct.pack_into(packed, audio, place + (audio.index(name.encode()) if name else 0), value)
        np.testing.assert_array_equal(load_audio(utterance(bytes(audio)), RATE), expected)


def test_a_wav_of_unknown_length_over_4_gib(tmp_path):
    """A sparse file: 5 GiB of silence, of which only the header is looked at."""
    with open(tmp_path / "long.wav", "wb") as file:
        file.write(wav(np.zeros(10), 0xFFFFFFFF, 0xFFFFFFFF)[:44])
        file.truncate(44 + 5 * (1 << 30))
    assert audio_seconds(utterance(str(tmp_path / "long.wav"))) == 5 * (1 << 30) / 2 / RATE


def test_an_empty_wav_is_still_empty_and_what_follows_the_sound_is_none_of_it():
    information = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf60.16.100\0"
    empty = encoded(np.zeros(0), subtype="PCM_16")
    empty = empty[:4] + struct.pack("<I", len(empty) - 8 + len(information)) + empty[8:] + information
    refused(empty, "holds no sample")
    tagged = encoded(SOUND, subtype="PCM_16") + information
    assert len(load_audio(utterance(tagged), RATE)) == len(SOUND)


@pytest.mark.parametrize("rate", [1, 100, 999, 768_001, 2_000_000_000])
def test_an_absurd_rate_is_refused_before_anything_is_allocated(rate):
    refused(encoded(SOUND, rate), f"sampling rate of {rate} Hz; from 1000 to 768000 Hz")
    with pytest.raises(InputError, match="sampling rate"):
        audio_seconds(utterance(encoded(SOUND, rate)))


@pytest.mark.parametrize("rate", [1_000, 768_000])
def test_the_outermost_rates_are_read(rate):
    assert len(load_audio(utterance(encoded(SOUND[:rate], rate)), RATE)) == pytest.approx(
        RATE * min(1, len(SOUND) / rate), abs=1
    )


def test_a_length_that_is_a_lie_is_never_allocated(monkeypatch):
    """36 bits of a FLAC's sample count, and what is asked of libsndfile at once."""
    audio, asked = bytearray(encoded(SOUND, format="FLAC")), []
    audio[21] = audio[21] & 0xF0 | 0x03  # some 13 thousand million samples
    read = soundfile.SoundFile.read

    def watched(self, frames=-1, **settings):
        asked.append(frames)
        return read(self, frames, **settings)

    monkeypatch.setattr(soundfile.SoundFile, "read", watched)
    refused(bytes(audio), "truncated|cannot be decoded")
    assert 0 < max(asked) <= decoder.BLOCK


def two(left: np.ndarray, right: np.ndarray, subtype: str = "PCM_16") -> bytes:
    return encoded(np.stack([left, right], axis=1), subtype=subtype)


@pytest.mark.parametrize("gain, offset", [(1.0, 0.0), (0.9, 0.0), (1.1, 0.0), (1.0, 0.05)])
@pytest.mark.parametrize("read", ["utterance", "recording"])
def test_of_channels_that_cancel_the_louder_one_is_used(gain, offset, read):
    voice = 0.5 * tone(440, 1.0)
    channels = two(voice + offset, offset - gain * voice)
    with pytest.warns(UserWarning, match=r"line 3.*its channels cancel each other.*channel [12] alone"):
        if read == "utterance":
            samples = load_audio(utterance(channels), RATE)
        else:
            with Recording(utterance(channels), RATE) as recording:
                samples = recording.window(0, RATE)
    assert rms(samples - offset) == pytest.approx(max(1.0, gain) * rms(voice), rel=1e-3)


def test_channels_that_lose_less_are_mixed_as_ever(recwarn):
    voice, other = tone(440, 1.0), 0.5 * np.random.default_rng(0).uniform(-1, 1, RATE)
    for left, right in ((voice, other), (voice, 0 * voice), (voice, -0.5 * voice), (0 * voice, 0 * voice)):
        samples = load_audio(utterance(two(left, right, "FLOAT")), RATE)
        np.testing.assert_allclose(samples, (left + right) / 2, atol=1e-6)
    assert not recwarn.list


@pytest.mark.parametrize("bits, peak", [(16, 9_000), (16, 33_000), (24, 8_000_000), (32, 2_000_000_000)])
def test_integers_written_as_floats_are_scaled_back(bits, peak):
    """As numpy's `astype(float32)` leaves them."""
    audio = encoded(peak / 0.4 * tone(440, 1.0), subtype="FLOAT")
    with pytest.warns(UserWarning, match=f"line 3.*taken for integers of {bits} bits"):
        samples = load_audio(utterance(audio), RATE)
    assert np.abs(samples).max() == pytest.approx(peak / 2 ** (bits - 1), rel=1e-3)


@pytest.mark.parametrize("peak", [1e11, 1e30, 3e38])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_samples_that_are_no_sound_are_refused(peak, subtype):
    samples = SOUND.copy()
    samples[1000] = peak
    refused(encoded(samples, subtype=subtype), "that is no sound")


def test_floats_somewhat_over_full_scale_are_left_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        samples = load_audio(utterance(encoded(10 * tone(440, 1.0), subtype="FLOAT")), RATE)
    assert np.abs(samples).max() == pytest.approx(4.0, rel=1e-3)


def test_commands_refuse_what_is_cut_off(tmp_path, invoke):
    (tmp_path / "cut.wav").write_bytes(encoded(SOUND)[:50_000])
    (tmp_path / "cut.jsonl").write_text('{"audio_filepath": "cut.wav", "text": "one"}\n')
    teacher = str(DIGITS / "teacher")
    for call in (
        ("transcribe", "--model", teacher, tmp_path / "cut.wav"),
        ("eval", "--model", teacher, "--test", f"a={tmp_path / 'cut.jsonl'}", "--out", tmp_path / "eval"),
    ):
        done = invoke(*call)
        assert done.exit_code == 3 and "cut.wav is truncated: its header promises 96000 bytes" in done.stderr
    assert not (tmp_path / "eval").exists()


def test_nothing_of_a_refused_file_stays_open(tmp_path):
    path = Path(tmp_path / "a.wav")
    path.write_bytes(encoded(SOUND)[:5000])
    refused(str(path), "truncated")
    assert not [link for link in Path("/proc/self/fd").iterdir() if str(path) in str(link.resolve())]
