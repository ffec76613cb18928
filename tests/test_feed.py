"""From lists to micro-batches: the order, the share of each process, and going on from a position."""

import json
import re
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import soundfile
import torch
from support.feeding import (
    CODEC,
    RATE,
    SECONDS,
    TIMES,
    change_lines,
    ids,
    make_feed,
    noise,
    run,
    same_batch,
    same_steps,
    texts,
    write_noises,
    write_parquet,
)
from support.tiny import TEXTS, processor
from transformers import WhisperFeatureExtractor

from whisperq.config import Source
from whisperq.data.tokens import IGNORED
from whisperq.errors import InputError, UsageError

EVERYTHING = {"pack": True, "timestamp_prob": 0.5, "spec_augment": True}


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    return write_noises(tmp_path_factory.mktemp("noises"), 20)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory) -> Source:
    folder = write_parquet(tmp_path_factory.mktemp("parquet") / "set", 20)
    return Source(path=str(folder), streaming=True)


def test_each_epoch_shows_every_utterance_once_in_another_order(noises):
    feed = make_feed(noises)
    assert feed.epoch_size == 20
    steps = ids(run(feed, 15))
    epochs = [list(chain(*steps[i : i + 5])) for i in (0, 5, 10)]
    assert all(sorted(e) == sorted(f"train{i}" for i in range(20)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert ids(run(make_feed(noises, seed=1), 5)) != steps[:5]


def test_weights_repeat_and_halve_sources(tmp_path):
    lists = [write_noises(tmp_path, n, name) for n, name in ((6, "a"), (8, "b"), (4, "c"))]
    sources = [Source(path=str(p), weight=w) for p, w in zip(lists, (2.0, 0.5, 1.5), strict=True)]
    feed = make_feed(*sources, batch_size=2)
    assert feed.epoch_size == 12 + 4 + 6
    steps, halves = ids(run(feed, 11 * 6)), set()
    for epoch in (list(chain(*steps[i : i + 11])) for i in range(0, 66, 11)):
        assert all(epoch.count(f"a{i}") == 2 for i in range(6))
        half = frozenset(i for i in epoch if i[0] == "b")
        assert len(half) == sum(i[0] == "b" for i in epoch) == 4  # none of the half twice
        halves.add(half)
        assert sorted(epoch.count(f"c{i}") for i in range(4)) == [1, 1, 2, 2]
    assert len(halves) > 1


def test_a_window_has_the_features_of_transformers_and_its_label_the_text(noises):
    step = run(make_feed(noises, micro_batch=2), 1)[0]
    assert [len(b.features) for b in step.batches] == [2, 2]
    extractor = WhisperFeatureExtractor(chunk_length=1)
    for batch in step.batches:
        numbers = [int(u.id.removeprefix("train")) for u in batch.utterances]
        audio = [noise(n, SECONDS[n % 5]) for n in numbers]
        expected = extractor(audio, sampling_rate=RATE, return_tensors="pt").input_features
        torch.testing.assert_close(batch.features, expected, atol=1e-4, rtol=0)
        assert texts(batch) == [TEXTS[n % 4] for n in numbers]
    assert (step.windows, step.utterances, step.window_seconds) == (4, 4, 4.0)
    assert step.audio_seconds == pytest.approx(sum(SECONDS[int(u[5:]) % 5] for u in ids([step])[0]))
    assert step.waited > 0


@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
def test_two_processes_share_what_one_alone_trains_on(noises, settings):
    alone = run(make_feed(noises, micro_batch=1, **settings), 6)
    shares = [run(make_feed(noises, micro_batch=1, **settings), 6, rank=r, world=2) for r in (0, 1)]
    for one, *halves in zip(alone, *shares, strict=True):
        assert all(map(same_batch, one.batches, [b for half in halves for b in half.batches]))
        assert [half.position for half in halves] == [one.position] * 2
        assert sum(half.utterances for half in halves) == one.utterances
        assert {half.windows for half in halves} == {one.windows} == {4}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
@pytest.mark.parametrize("stream", [False, True], ids=["list", "stream"])
def test_a_position_goes_on_with_equal_bits(noises, streamed, stream, settings, workers):
    def feed():
        return make_feed(streamed if stream else noises, micro_batch=2, shuffle_buffer=7, **settings)

    through = run(feed(), 12)
    for start in (1, 4, 9):
        again = make_feed(streamed if stream else noises, micro_batch=2, shuffle_buffer=7, workers=workers, **settings)
        assert same_steps(run(again, 12 - start, through[start - 1].position, first=start), through[start:])


def test_a_packed_window_holds_the_recordings_one_after_another(noises):
    for step in run(make_feed(noises, pack=True), 4):
        batch, extractor = step.batches[0], WhisperFeatureExtractor(chunk_length=1)
        numbers = iter(int(u.id.removeprefix("train")) for u in batch.utterances)
        for features, text in zip(batch.features, texts(batch), strict=True):
            inside, words = [], ""
            while words != text:  # texts tell where a window ends
                inside.append(next(numbers))
                words = f"{words} {TEXTS[inside[-1] % 4]}".strip()
            audio = np.concatenate([noise(n, SECONDS[n % 5]) for n in inside])
            assert len(audio) <= RATE
            expected = extractor([audio], sampling_rate=RATE, return_tensors="pt").input_features[0]
            torch.testing.assert_close(features, expected, atol=1e-4, rtol=0)


def test_times_stand_where_the_recordings_begin_and_end(noises):
    found = 0
    for step in run(make_feed(noises, pack=True, timestamp_prob=1.0), 4):
        batch = step.batches[0]
        numbers = iter(int(u.id.removeprefix("train")) for u in batch.utterances)
        for row in batch.tokens.labels.tolist():
            end = 0.0
            for segment in CODEC.segments([t for t in row[2:] if t not in (IGNORED, CODEC.end)], 0.0, 1.0):
                number = next(numbers)
                assert segment.start == pytest.approx(end, abs=0.0101)
                end += SECONDS[number % 5]
                assert segment.end == pytest.approx(end, abs=0.0101)
                assert segment.text == TEXTS[number % 4]
                found += 1
    assert found > 16 and next(numbers, None) is None


def test_the_share_of_windows_with_times_is_as_asked(noises):
    no_times = processor.tokenizer.convert_tokens_to_ids("<|notimestamps|>")
    steps = run(make_feed(noises, timestamp_prob=0.3, batch_size=20), 20)
    rows = torch.cat([b.tokens.inputs[:, 3] for s in steps for b in s.batches])
    share = float((rows != no_times).float().mean())
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / 400) ** 0.5
    assert no_times not in torch.cat(
        [b.tokens.inputs[:, 3] for b in run(make_feed(noises, timestamp_prob=1), 1)[0].batches]
    )


def test_a_label_too_long_for_the_decoder_is_divided_never_cut(noises, tmp_path):
    long = {i: "eleven " * 4 + f"{i + 10}" for i in range(20)}  # 30 bytes: two of them are over 64
    path = change_lines(write_noises(tmp_path, 20), text=long)
    feed = make_feed(path, pack=True, timestamp_prob=0.5, batch_size=2)
    assert feed.epoch_size < 10
    steps = run(feed, 10)
    assert any(step.position["taken"] for step in steps)
    assert steps[-1].position == {"epoch": 0, "window": feed.epoch_size, "taken": 0}
    for batch in (b for step in steps for b in step.batches):
        assert batch.tokens.inputs.shape[1] <= CODEC.max_tokens
        said = [re.sub(r"<.*?>", "", text).strip() for text in texts(batch)]
        assert said == [u.text for u in batch.utterances]
    assert sorted(chain(*ids(steps))) == sorted(f"train{i}" for i in range(20))
    for start in (i for i, step in enumerate(steps[:-1], 1) if step.position["taken"]):
        assert same_steps(run(feed, 1, steps[start - 1].position, first=start), [steps[start]])


@pytest.mark.parametrize("pack", [False, True])
def test_pseudo_labels_above_the_threshold_are_left_out(tmp_path, pack):
    wers = [0.0, 0.1, 0.11, 0.5, None] * 4
    feed = make_feed(write_noises(tmp_path, 20, label_wer=wers), max_label_wer=10.0, pack=pack, batch_size=2)
    assert feed.dropped == {"label WER above 10 %": 8}
    seen = {u for step in ids(run(feed, feed.epoch_size)) for u in step}
    assert seen == {f"train{i}" for i in range(20) if i % 5 in (0, 1, 4)}
    with pytest.raises(InputError, match=r"nothing is left of the training data \(label WER above 10 %: 8\)") as error:
        make_feed(write_noises(tmp_path, 8, label_wer=[0.2] * 8), max_label_wer=10.0)
    assert "\n" not in str(error.value)


def test_a_label_at_the_threshold_stays(tmp_path):
    for percent in (7, 14, 28, 29, 55, 56, 57):
        path = write_noises(tmp_path, 4, label_wer=[percent / 100, 0.0, percent / 100, percent / 100 + 0.001])
        assert make_feed(path, max_label_wer=float(percent)).dropped == {f"label WER above {percent} %": 1}


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "unknown"])
@pytest.mark.parametrize("pack", [False, True])
def test_what_the_window_cannot_hold_is_refused_or_counted(tmp_path, pack, stated):
    path = write_noises(tmp_path, 5)
    soundfile.write(tmp_path / "train3.wav", noise(3, 1.5), RATE)
    change_lines(path, duration={3: 1.5 if stated else None})
    with pytest.raises(InputError, match=r"train\.jsonl line 4: 1\.50 s of audio, but the model's window is 1 s"):
        run(make_feed(path, batch_size=1, pack=pack), 5)
    feed = make_feed(path, batch_size=1, pack=pack, skip_bad=True)
    assert "train3" not in {u for step in ids(run(feed, 5)) for u in step}
    if stated or pack:
        assert feed.dropped == {"longer than the window": 1} and not feed.loader.skipped
    else:
        assert feed.loader.skipped == {f"{path} line 4"}


def test_a_list_that_overstates_a_length_drops_nothing(tmp_path):
    path = change_lines(write_noises(tmp_path, 5), duration={2: 1.2})
    with pytest.warns(UserWarning, match=r"holds 0\.20 s of the 1\.20 s listed"):
        feed = make_feed(path, batch_size=5, skip_bad=True)
        assert len(ids(run(feed, 1))[0]) == 5
    assert feed.dropped == {}


@pytest.mark.parametrize("rate", [RATE, 8000])
def test_a_window_fits_though_its_files_pass_their_rounded_lengths(tmp_path, rate):
    path, extractor = write_noises(tmp_path, 2), WhisperFeatureExtractor(chunk_length=1)
    files = [noise(i, 0.53)[:: RATE // rate] for i in range(2)]
    for i, samples in enumerate(files):
        soundfile.write(tmp_path / f"train{i}.wav", samples, rate, subtype="FLOAT")
    change_lines(path, duration={0: 0.5, 1: 0.5}, speaker={1: "s0"})
    batch = run(make_feed(path, batch_size=1, pack=True), 1)[0].batches[0]
    assert len(batch.utterances) == 2 and 0.999 < batch.seconds <= 1.0
    if rate == RATE:
        audio = np.concatenate([files[int(u.id[5:])][: RATE // 2 - 2] for u in batch.utterances])
        expected = extractor([audio], sampling_rate=RATE, return_tensors="pt").input_features
        torch.testing.assert_close(batch.features, expected, atol=1e-4, rtol=0)


def test_a_recording_longer_than_its_header_said_is_refused(tmp_path, monkeypatch):
    path = change_lines(write_noises(tmp_path, 2), duration={0: None, 1: None}, speaker={1: "s0"})
    feed = make_feed(path, batch_size=1, pack=True)
    assert feed.epoch_size == 1  # 0.3 s and 0.45 s
    for i in range(2):
        soundfile.write(tmp_path / f"train{i}.wav", noise(i, 0.6), RATE)
    with pytest.raises(InputError, match=r"line . holds 0\.60 s of audio, more than was stated before"):
        run(feed, 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_micro_batch_of_nothing_is_silence_without_labels(tmp_path, workers):
    path = write_noises(tmp_path, 6)
    for i in range(5):
        (tmp_path / f"train{i}.wav").write_bytes(b"RIFF and nothing that could be decoded")
    feed = make_feed(path, batch_size=6, micro_batch=2, skip_bad=True, workers=workers, spec_augment=True)
    step = run(feed, 1)[0]
    assert sorted(len(b.utterances) for b in step.batches) == [0, 0, 1]
    assert (step.windows, step.utterances, len(feed.loader.skipped)) == (6, 1, 5)
    for batch in step.batches:
        assert batch.features.shape == (1, 80, 100) and len(batch.tokens.lengths) == 1
        assert bool((batch.tokens.labels != IGNORED).any()) == bool(batch.utterances)
        if not batch.utterances:
            silent = processor.feature_extractor([np.zeros(RATE)], sampling_rate=RATE, return_tensors="pt")
            torch.testing.assert_close(batch.features, silent.input_features)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unusable_recording_is_one_sentence_that_names_its_line(tmp_path, workers):
    path = write_noises(tmp_path, 4)
    (tmp_path / "train2.wav").write_bytes(b"no sound")
    with pytest.raises(
        InputError, match=r"train\.jsonl line 3: the audio file .*train2\.wav cannot be decoded"
    ) as error:
        run(make_feed(path, workers=workers), 1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("times", [range(0), range(TIMES.start, TIMES.start + 50)], ids=["none", "to 0.98 s"])
def test_times_need_a_vocabulary_that_has_them(noises, monkeypatch, times):
    monkeypatch.setattr("support.feeding.CODEC", replace(CODEC, times=times))
    with pytest.raises(UsageError, match="--timestamp-prob is for models whose vocabulary has times"):
        make_feed(noises, timestamp_prob=0.1)


def test_a_position_behind_the_data_is_refused(noises):
    with pytest.raises(InputError, match="ends before window 99"):
        run(make_feed(noises), 1, {"epoch": 0, "window": 99, "taken": 0})


def test_a_position_is_small_and_plain(noises, streamed):
    for source in (noises, streamed):
        position = run(make_feed(source, **EVERYTHING), 3)[-1].position
        assert json.loads(json.dumps(position)) == position
        assert len(json.dumps(position)) < 200
