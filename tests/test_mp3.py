"""MP3s that do not say how long they are, or not all of it, are read to their end."""

import struct

import numpy as np
import pytest
from support.audio_files import encoded, tone, utterance

from whisperq.data.audio import audio_seconds, load_audio
from whisperq.data.recording import Recording
from whisperq.errors import InputError

RATE = 16000
FRAME = 1152  # samples, at most; what lies around the sound where no information says how much
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, 2 * RATE)
SIGNALS = {  # of varying bit rate, so that the first frame's says little of the others
    "loud at first": np.concatenate([NOISE, tone(1000, 3, amplitude=0.05)]),
    "still at first": np.concatenate([np.zeros(2 * RATE), NOISE, tone(1000, 1)]),
    "even": tone(1000, 5),
}


def mp3(samples: np.ndarray) -> bytes:
    return encoded(samples, format="MP3")


def bare(samples: np.ndarray) -> bytes:
    """Without the frame of information at its beginning, as in a stream."""
    content = mp3(samples)
    assert b"Xing" in content[:200] or b"Info" in content[:200]
    return content[content.index(content[:2], 2) :]


def unsaid(samples: np.ndarray) -> bytes:
    """The information holds nothing, as where ffmpeg writes into a pipe."""
    content = mp3(samples)
    place = max(content.find(name) for name in (b"Xing", b"Info"))
    return content[: place + 4] + bytes(116) + content[place + 120 :]


def read(audio: bytes) -> np.ndarray:
    """(samples,), the same by each of the ways in which commands read."""
    whole = load_audio(utterance(audio), RATE)
    with Recording(utterance(audio), RATE) as recording:
        np.testing.assert_allclose(recording.window(0, len(whole) + RATE), whole, atol=1e-3)
    assert audio_seconds(utterance(audio)) == pytest.approx(len(whole) / RATE, abs=0.01)
    return whole


def pitch(samples: np.ndarray) -> float:
    """Hz."""
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * RATE / len(samples))


@pytest.mark.parametrize("made", [bare, unsaid])
@pytest.mark.parametrize("samples", SIGNALS.values(), ids=SIGNALS)
def test_what_no_header_counts_is_read_to_its_end(samples, made):
    whole = read(made(samples))
    assert 0 <= len(whole) - len(samples) <= 3 * FRAME
    end = whole[-RATE // 2 - 2 * FRAME : -2 * FRAME]
    assert pitch(end) == pytest.approx(1000, abs=5) and np.abs(end).max() > 0.04


@pytest.mark.parametrize("names", [b"", b"ID3\x04\0\0" + bytes([0, 0, 40, 1]) + b"\xff\xfbInfo".ljust(40 * 128 + 1)])
def test_files_that_were_put_behind_one_another_are_all_read(names):
    """The first one's information counts the first one alone."""
    parts = [tone(hertz, seconds) for hertz, seconds in ((500, 4), (1000, 3), (2000, 5))]
    whole = read(names + b"".join(map(mp3, parts)))
    assert 0 <= len(whole) - sum(map(len, parts)) <= 3 * 4 * FRAME
    assert [pitch(whole[at : at + RATE]) for at in (2 * RATE, 5 * RATE + RATE // 2, 10 * RATE)] == pytest.approx(
        [500, 1000, 2000], abs=5
    )


@pytest.mark.parametrize("made", [bare, mp3])
@pytest.mark.parametrize("samples", SIGNALS.values(), ids=SIGNALS)
def test_an_mp3_in_a_wav_is_read_to_its_end(samples, made):
    """And one that ends before the WAV's header says is refused."""
    content = made(samples)
    header = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 8000, 1, 0, 12, 1, 2, 1152, 1, 1105)
    chunks = ((b"fmt ", header), (b"data", content + b"\0" * (len(content) % 2)), (b"LIST", b"INFOISFT\x02\0\0\0ab"))
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(chunk)) + chunk for name, chunk in chunks)
    audio = b"RIFF" + struct.pack("<I", len(body)) + body
    whole = read(audio)
    assert 0 <= len(whole) - len(samples) <= 3 * FRAME
    assert pitch(whole[-RATE // 2 - 2 * FRAME : -2 * FRAME]) == pytest.approx(1000, abs=5)
    with pytest.raises(InputError, match="is truncated"):
        load_audio(utterance(audio[: len(audio) * 3 // 4]), RATE)


@pytest.mark.parametrize("behind", [b"", b"TAG".ljust(128), b"APETAGEX".ljust(3000)])
@pytest.mark.parametrize("samples", SIGNALS.values(), ids=SIGNALS)
def test_a_length_that_is_right_is_kept_to_the_sample(samples, behind):
    assert len(read(mp3(samples) + behind)) == len(samples)
