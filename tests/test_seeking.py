"""Pieces end at long pauses and hold all that sounds; the sliding seek comes to an end and misses nothing."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from support.tiny import gated_model, processor, token_id

from whisperq.data.audio import split_at_silence
from whisperq.data.long_audio import Piece, Whole, pieces_of
from whisperq.data.loudness import Levels
from whisperq.data.tokens import make_codec
from whisperq.runtime.seeking import Search

RATE = 16_000
WINDOW = 30 * RATE


def syllables(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise that rises and falls four times a second, as a voice does."""
    n = round(seconds * RATE)
    swell = 0.02 + np.abs(np.sin(2 * np.pi * 2 * np.arange(n) / RATE))
    return (0.1 * swell * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def still(seconds: float, decibels: float = -80) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(round(seconds * RATE))
    return (10 ** (decibels / 20) * noise).astype(np.float32)


class Forwards(Whole):
    """Refuses to be read backwards, and remembers the most that was asked for."""

    last, most = 0, 0

    def window(self, start: int, count: int) -> np.ndarray:
        assert start >= type(self).last
        type(self).last, type(self).most = start, max(type(self).most, count)
        return super().window(start, count)


def pieces(audio: np.ndarray, trim: bool = True) -> list[Piece]:
    Forwards.last = 0
    return list(pieces_of(0, Forwards(audio, RATE), WINDOW, trim))


@pytest.mark.parametrize("pause", [2, 4, 7, 12, 20, 45])
@pytest.mark.parametrize("lead", [0, 3])
def test_what_follows_a_long_pause_is_a_piece_of_its_own(pause, lead):
    parts = [still(lead), syllables(8, 1), still(pause), syllables(11, 2), still(pause), syllables(3, 3)]
    found = pieces(np.concatenate(parts))
    assert len(found) == 3 and Forwards.most < WINDOW + RATE
    starts = np.cumsum([0, *(len(p) / RATE for p in parts)])[[1, 3, 5]]
    for piece, start, seconds in zip(found, starts, (8, 11, 3), strict=True):
        assert start - 0.5 < piece.start <= start and start + seconds - 0.1 <= piece.start + piece.seconds
        assert piece.seconds < seconds + 1 and len(piece.samples) == round(piece.seconds * RATE)


def test_without_pauses_the_cuts_are_those_of_the_whole_array():
    audio = syllables(100)
    cuts = [(round(p.start * RATE), round((p.start + p.seconds) * RATE)) for p in pieces(audio)]
    assert cuts == split_at_silence(audio, RATE, 30)


@pytest.mark.parametrize("pause", [0.5, 1, 2, 2.5])
def test_an_utterance_that_the_window_holds_stays_as_it_is(pause):
    """Of `eval`, with its silences, unless the pause inside is long indeed."""
    audio = np.concatenate([still(2), syllables(5), still(pause), syllables(5), still(2)])
    (piece,) = pieces(audio, trim=False)
    assert piece.start == 0 and np.array_equal(piece.samples, audio)
    assert len(pieces(np.concatenate([syllables(5), still(4), syllables(5)]), trim=False)) == 2


@pytest.mark.parametrize("decibels", [-60, -40, -20, 0, 10])
def test_levels_are_relative(decibels):
    """A pause is a pause at any gain."""
    audio = 10 ** (decibels / 20) * np.concatenate([syllables(5), still(4, -60), syllables(5)])
    assert len(pieces(audio.astype(np.float32))) == 2
    assert not Levels.of(audio, RATE).silent


@pytest.fixture(scope="module")
def codec():
    """Times up to 30 s, as the real vocabulary has them."""
    made = make_codec(processor, gated_model(), "en", "transcribe")
    return replace(made, times=range(made.times.start, made.times.start + 1501))


def ids_of(codec, *parts: float | str) -> list[int]:
    return [token_id(p) if isinstance(p, str) else codec.times.start + round(p / 0.02) for p in parts]


def search(*parts: np.ndarray) -> Search:
    audio = np.concatenate(parts)
    return Search(Piece(0, 100.0, len(audio) / RATE, audio), RATE)


def test_sound_behind_the_last_time_is_taken_from_where_it_begins(codec):
    one = search(syllables(6), still(1.2, -50), syllables(5))
    one.take(ids_of(codec, 0.0, "a", 5.8), codec)
    assert one.open and 6.7 < one.at < 7.3 and one.window.start == 100 + one.at
    one.take(ids_of(codec, 0.2, "b", 5.0), codec)
    assert not one.open
    assert [(s.text, round(s.start)) for s in one.found] == [("a", 100), ("b", 107)]


def test_words_that_no_time_ends_are_transcribed_again(codec):
    one = search(syllables(12))
    one.take(ids_of(codec, 0.0, "a", 5.0, 5.0, "b"), codec)
    assert one.open and one.at == pytest.approx(5.0) and [s.text for s in one.found] == ["a"]
    one.take(ids_of(codec, 0.0, "b", 6.9), codec)
    assert not one.open and [s.text for s in one.found] == ["a", "b"]


NOTHING_LEFT = {
    "a time at the end": (0.0, "a", 11.8),
    "words alone": (0.0, "a"),
    "two stretches": (0.0, "a", 4.0, 5.0, "b", 12.0),
    "the tail of a word": (0.0, "a", 11.6),
}


@pytest.mark.parametrize("parts", NOTHING_LEFT.values(), ids=NOTHING_LEFT)
def test_a_window_transcribed_to_its_end_ends_the_piece(parts, codec):
    one = search(syllables(12))
    one.take(ids_of(codec, *parts), codec)
    assert not one.open and "".join(s.text for s in one.found) == "".join(p for p in parts if isinstance(p, str))


def test_a_window_without_words_is_left_for_the_next_sound(codec):
    """Music, say, and speech behind a breath."""
    one = search(syllables(6), still(1.2, -50), syllables(5))
    one.take(ids_of(codec, 0.0, 0.0), codec)
    assert one.open and 6.7 < one.at < 7.3
    one.take([], codec)
    assert not one.open and one.found == []


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_written_a_piece_comes_to_its_end(seed, codec):
    """Random tokens, words and times in any order: always forwards, in a bounded number of windows."""
    rng = np.random.default_rng(seed)
    one = search(*(part for i in range(5) for part in (syllables(4, i), still(1, -50))))
    places = []
    while one.open:
        places.append(one.at)
        rising = np.cumsum(rng.exponential(1.0, 6))
        parts = [codec.times.start + int(50 * t) if rng.random() < 0.6 else token_id("a") for t in rising]
        one.take(parts[: rng.integers(0, 6)], codec)
    assert all(b - a >= 0.5 for a, b in zip(places, places[1:], strict=False)) and len(places) <= 50


def room(seconds: int) -> np.ndarray:
    """Pink noise, the least of it at one turn of the whole recording: its slowest parts rise and fall by 10 dB."""
    spectrum = np.fft.rfft(np.random.default_rng(seconds).standard_normal(seconds * RATE))
    wave = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)))
    return (0.1 * wave / np.abs(wave).max()).astype(np.float32)


SAID: dict[str, Callable[[], np.ndarray]] = {
    "zeros": lambda: np.zeros(RATE, np.float32),
    "offset": lambda: np.full(RATE, 0.3, np.float32),
    "a click": lambda: np.concatenate([still(2), np.full(160, 0.5, np.float32), still(2)]),
    "loud noise": lambda: still(5, -10),
    "soft noise": lambda: still(5, -75),
    **{f"a room's noise of {seconds} s": lambda seconds=seconds: room(seconds) for seconds in (2, 10, 30)},
    "rumble": lambda: (room(6) + 0.1 * np.sin(2 * np.pi * 7 * np.arange(6 * RATE) / RATE)).astype(np.float32),
}


@pytest.mark.parametrize("make", SAID.values(), ids=SAID)
def test_stillness_and_steady_noise_are_silent(make):
    assert Levels.of(make(), RATE).silent


@pytest.mark.parametrize("noise", [-90, -60, -40, -25])
def test_a_voice_is_not(noise):
    assert not Levels.of(syllables(3) + still(3, noise), RATE).silent
    assert not Levels.of(syllables(0.4), RATE).silent
    assert not Levels.of(0.3 * syllables(3) + room(3), RATE).silent


def test_times_are_found_by_name(monkeypatch):
    """51 of the tiny vocabulary, whatever is added behind; 1501 where the tokenizer names none of them."""
    model = gated_model()
    model.config.vocab_size += 3
    times = make_codec(processor, model, "en", "transcribe").times
    assert (len(times), times.start) == (51, token_id("<|0.00|>"))
    bare = type("Bare", (), {"tokenizer": _Nameless(processor.tokenizer)})
    model.config.vocab_size = times.start + 1600
    assert make_codec(bare, model, "en", "transcribe").times == range(times.start, times.start + 1501)


class _Nameless:
    """A tokenizer that ends before the times, as that of whisper-tiny.en."""

    def __init__(self, whole) -> None:
        self.whole = whole

    def __getattr__(self, name: str):
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return token_id("<|0.00|>")
