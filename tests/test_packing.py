"""Which utterances share a window."""

import os

import numpy as np
import pytest

from whisperq.config import Source
from whisperq.data.index import Index, index_of
from whisperq.data.lists import read
from whisperq.data.utterance import Utterance
from whisperq.training.packing import PARTS, Windows, alone, in_parts, pack

WINDOW = 30.0
SPEECH = os.environ.get("WHISPERQ_SPEECH")


def made(*rows: tuple[str, float, float, str | None]) -> tuple[Index, np.ndarray]:
    """(file, offset, duration, speaker) of each utterance -> its facts and seconds."""
    facts = index_of([Utterance(f"{i}", f, "a", d, o, s) for i, (f, o, d, s) in enumerate(rows)])
    return facts, facts.duration.astype(float)


def corpus(count: int, seed: int = 0) -> tuple[Index, np.ndarray]:
    """Utterances of ten speakers, one file each, of 1 to 20 s."""
    seconds = np.random.default_rng(seed).uniform(1, 20, count)
    return made(*((f"{i}.wav", 0.0, float(s), f"s{i % 10}") for i, s in enumerate(seconds)))


def packed(facts: Index, seconds: np.ndarray, members: np.ndarray | None = None, epoch: int = 0) -> list[list[int]]:
    members = np.arange(len(facts)) if members is None else members
    windows = pack(members, facts, in_parts(seconds, WINDOW), np.random.default_rng([0, epoch]))
    return [windows[w].tolist() for w in range(len(windows))]


def test_every_utterance_is_in_one_window_and_no_window_overflows():
    facts, seconds = corpus(500)
    windows = packed(facts, seconds)
    assert sorted(sum(windows, [])) == list(range(500))
    assert max(seconds[w].sum() for w in windows) <= WINDOW


def test_little_of_a_window_stays_empty():
    facts, seconds = corpus(500)
    needed = seconds.sum() / WINDOW  # nobody can do with fewer
    assert needed <= len(packed(facts, seconds)) < 1.03 * needed + 1


def test_a_speaker_keeps_to_itself_and_only_tails_are_merged():
    facts, seconds = corpus(500)
    windows = packed(facts, seconds)
    mixed = [w for w in windows if len(set(facts.speaker[w])) > 1]
    assert 0 < len(mixed) < 0.1 * len(windows)
    for window in mixed:  # each speaker's utterances side by side
        speakers = facts.speaker[window]
        assert np.count_nonzero(np.diff(speakers)) == len(set(speakers.tolist())) - 1


def test_segments_of_a_recording_stay_in_order():
    rows = [(f"r{r}.wav", 5.0 * s, 5.0, f"s{r % 3}") for r in range(9) for s in (3, 0, 2, 1, 5, 4, 6)]
    facts, seconds = made(*rows)
    for window in packed(facts, seconds):
        moments = [(facts.recording[i], facts.offset[i]) for i in window]
        first = [offset for recording, offset in moments if recording == moments[0][0]]
        assert first == sorted(first)
    full = [w for w in packed(facts, seconds) if len(set(facts.recording[w])) == 1 and len(w) == 6]
    assert len(full) == 9  # of seven segments of 5 s six neighbours share a window
    assert all(facts.offset[w].tolist() == [0.0, 5.0, 10.0, 15.0, 20.0, 25.0] for w in full)


def test_without_speakers_a_recording_is_one():
    facts, seconds = made(*((f"r{i // 2}.wav", 15.0 * (i % 2), 15.0, None) for i in range(40)))
    assert sorted(packed(facts, seconds)) == [[i, i + 1] for i in range(0, 40, 2)]


def test_equal_seeds_join_the_same_and_another_epoch_others():
    facts, seconds = corpus(300)
    assert packed(facts, seconds) == packed(facts, seconds)
    joined = [{tuple(sorted(w)) for w in packed(facts, seconds, epoch=e) if len(w) > 1} for e in (0, 1)]
    assert len(joined[0] & joined[1]) < 0.5 * len(joined[0])


def test_an_utterance_that_comes_twice_is_no_neighbour_of_itself():
    facts, seconds = corpus(200)
    windows = packed(facts, seconds, np.tile(np.arange(200), 2))
    assert sorted(sum(windows, [])) == sorted([*range(200)] * 2)
    assert sum(len(set(w)) < len(w) for w in windows) <= 1  # where the tails of both passes meet


@pytest.mark.parametrize("length, each", [(10.0, 3), (15.0, 2), (30.0, 1), (7.5, 4)])
def test_whole_parts_fill_a_window_to_the_last_sample(length, each):
    facts, seconds = made(*((f"{i}.wav", 0.0, length, "s") for i in range(12)))
    assert {len(w) for w in packed(facts, seconds)} == {each}


def test_lengths_are_rounded_up():
    assert in_parts(np.array([0.0, 0.001, 29.991, 30.0, 30.2]), WINDOW).tolist() == [1, 1, PARTS, PARTS, PARTS]
    assert in_parts(np.array([30.0 * 512.01 / PARTS]), WINDOW).tolist() == [513]


def test_shuffling_moves_windows_whole():
    windows = Windows(np.array([5, 6, 7, 8, 9, 1]), np.array([0, 2, 3, 6]))
    shuffled = windows.shuffled(np.random.default_rng(1))
    assert sorted(shuffled[i].tolist() for i in range(3)) == [[5, 6], [7], [8, 9, 1]]
    assert [alone(np.array([4, 2]))[i].tolist() for i in (0, 1)] == [[4], [2]]


def test_joined_lists_keep_their_speakers_and_recordings_apart():
    one, two = (
        index_of([Utterance("a", "a.wav", "x", 1.0, speaker=s) for s in names]) for names in ("pq", ["p", None])
    )
    joined = Index.joined([one, two])
    assert joined.speaker.tolist() == [0, 1, 2, -1] and joined.recording.tolist() == [0, 0, 1, 1]
    assert Index.joined([one]) is one


@pytest.mark.skipif(not SPEECH, reason="WHISPERQ_SPEECH does not name a folder of real speech")
def test_real_speech_fills_its_windows():
    facts = read(Source(path=os.path.join(SPEECH, "librispeech_train.jsonl"))).utterances.facts
    seconds = facts.duration.astype(float)
    windows = packed(facts, seconds)
    assert 1 - seconds.mean() / WINDOW > 0.55  # padding, unpacked
    assert 1 - seconds.sum() / (WINDOW * len(windows)) < 0.05
    assert np.mean([len(set(facts.speaker[w])) == 1 for w in windows]) > 0.95


@pytest.mark.filterwarnings("error")
def test_a_length_that_nobody_knows_is_no_number_of_parts():
    assert in_parts(np.array([np.nan, 30.0, 15.0]), 30.0).tolist() == [1, PARTS, PARTS // 2]
