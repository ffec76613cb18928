"""Data sets that are read as a stream: blocks, proportions, and starting again."""

import json
from collections import Counter
from itertools import chain
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from conftest import write_configuration
from support.feeding import ids, make_feed, run, same_steps, write_noises, write_parquet

from whisperq.config import Source, read_config
from whisperq.data.batches import require_texts
from whisperq.data.sources import read_all
from whisperq.errors import InputError

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module", autouse=True)
def no_progress_bars():
    datasets.disable_progress_bars()


def stream(folder, **changes) -> Source:
    return Source(path=str(folder), streaming=True, **changes)


def numbers(steps) -> list[int]:
    return [int(u) for step in ids(steps) for u in step]


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("stream") / "set", 20, shards=3)


def test_blocks_are_shuffled_and_the_stream_starts_again(twenty):
    seen = numbers(run(make_feed(stream(twenty), batch_size=2, shuffle_buffer=5), 20))
    blocks = [seen[i : i + 5] for i in range(0, 40, 5)]
    assert [sorted(b) for b in blocks] == [list(range(5 * (i % 4), 5 * (i % 4) + 5)) for i in range(8)]
    assert blocks[0] != blocks[4] and any(b != sorted(b) for b in blocks)
    other = make_feed(stream(twenty), batch_size=2, shuffle_buffer=5, seed=1)
    assert numbers(run(other, 20)) != seen


def test_it_is_the_data_that_a_list_of_them_would_be(twenty, tmp_path):
    whole, streamed = (
        make_feed(s, batch_size=20, shuffle_buffer=20) for s in (Source(path=str(twenty)), stream(twenty))
    )
    assert whole.epoch_size == 20 and streamed.epoch_size is None
    audio = []
    for feed in (whole, streamed):
        batch = run(feed, 1)[0].batches[0]
        sums = [f.sum().item() for f in batch.features]
        audio.append({u.id: (s, u.text, u.speaker) for s, u in zip(sums, batch.utterances, strict=True)})
    assert audio[0] == audio[1]


def test_a_position_says_epoch_and_row_of_each_source(twenty, tmp_path):
    words = write_noises(tmp_path, 6, "w")
    feed = make_feed(stream(twenty), Source(path=str(words)), batch_size=3, shuffle_buffer=8)
    steps = run(feed, 24)
    assert steps[0].position == {"block": 0, "sources": [[0, 0], [0, 0]], "window": 3, "taken": 0}
    # Nine blocks of four rows each; the eighth is read to its end, so that its start is told.
    assert steps[-1].position == {"block": 8, "sources": [[1, 12], [5, 2]], "window": 8, "taken": 0}
    assert same_steps(run(feed, 6, steps[17].position, first=18), steps[18:])


def test_sources_are_drawn_in_proportion_to_their_weights(twenty, tmp_path):
    words = write_noises(tmp_path, 6, "w")
    sources = (stream(twenty, weight=0.5), Source(path=str(words), weight=1.5))
    seen = list(chain(*ids(run(make_feed(*sources, batch_size=8, shuffle_buffer=16), 20))))
    drawn = Counter(u[0] == "w" for u in seen)
    assert drawn == {True: 120, False: 40}
    assert set(Counter(u for u in seen if u[0] == "w").values()) == {20}  # whole epochs of the list
    assert set(Counter(u for u in seen if u[0] != "w").values()) == {2}


def test_a_stream_is_packed_within_its_blocks(twenty):
    feed = make_feed(stream(twenty), pack=True, batch_size=1, shuffle_buffer=10)
    steps = run(feed, 20)
    half = next(i for i, s in enumerate(steps) if s.position["block"])  # the first window of the next block
    assert sorted(numbers(steps[:half])) == list(range(10))
    assert half <= 5  # five noises last two seconds
    assert max(s.audio_seconds for s in steps) <= 1.0


def test_filters_and_bad_rows_of_a_stream(tmp_path):
    folder = write_parquet(tmp_path / "set", 10, label_wer=[0.0, 0.9] * 5)
    feed = make_feed(stream(folder), max_label_wer=50.0, shuffle_buffer=10, batch_size=5)
    assert sorted(numbers(run(feed, 1))) == [0, 2, 4, 6, 8]
    assert feed.dropped == {"label WER above 50 %": 5}
    with pytest.raises(InputError, match=r"nothing is left of the training data \(label WER above 50 %: \d+\)"):
        nothing = write_parquet(tmp_path / "nothing", 10, label_wer=[0.9] * 10)
        run(make_feed(stream(nothing), max_label_wer=50.0, shuffle_buffer=5), 1)


def test_texts_are_asked_for_when_they_are_read(tmp_path):
    folder = write_parquet(tmp_path / "set", 4, text=["one", None, "two", "three"])
    require_texts(read_all([stream(folder)]).utterances, "distillation")
    with pytest.raises(InputError, match=r"row 1 \(1\.wav\) has no text"):
        run(make_feed(stream(folder), shuffle_buffer=4), 1)
    feed = make_feed(stream(folder), skip_bad=True, shuffle_buffer=4)
    assert sorted(numbers(run(feed, 1))) == [0, 2, 3] and len(feed.loader.skipped) == 1


def test_rows_without_audio_are_refused_or_counted(tmp_path):
    folder = write_parquet(tmp_path / "set", 4, audio=[{"bytes": None, "path": None}] * 4)
    with pytest.raises(InputError, match="row 0 has no audio"):
        run(make_feed(stream(folder)), 1)
    with pytest.raises(InputError, match="nothing is left"):
        run(make_feed(stream(folder), skip_bad=True, shuffle_buffer=4), 1)


def test_limit_and_columns_hold_for_streams_too(twenty):
    seen = numbers(run(make_feed(stream(twenty, limit=6), batch_size=6, shuffle_buffer=6), 2))
    assert sorted(seen) == sorted([*range(6)] * 2)
    with pytest.raises(InputError, match="has no column words"):
        make_feed(stream(twenty, text_column="words"))


def test_a_stream_is_for_training_and_for_data_sets(twenty, tmp_path):
    utterances = read_all([stream(twenty)]).utterances
    for use in (len, list, lambda u: u[0]):
        with pytest.raises(InputError, match="is streamed, which is for training data alone"):
            use(utterances)
    with pytest.raises(InputError, match="`streaming` is for data sets and parquet"):
        read_all([stream(write_noises(tmp_path, 2))])
    for role in ("validation", "test"):
        (tmp_path / "whisperq.yaml").write_text(json.dumps({role: [{"path": "x", "streaming": True}]}))
        with pytest.raises(InputError, match="`streaming` is for training data"):
            read_config(tmp_path / "whisperq.yaml")
    (tmp_path / "whisperq.yaml").write_text(json.dumps({"train": [{"path": "x", "streaming": True}]}))
    assert read_config(tmp_path / "whisperq.yaml").train[0].streaming


def test_a_streams_hash_is_that_of_its_name_and_files(twenty, tmp_path):
    one, same = (read_all([stream(twenty)]).reference for _ in range(2))
    assert one == same
    other = write_parquet(tmp_path / "set", 20, shards=3, text=["long words"] * 20)
    assert read_all([stream(other)]).reference["sha256"] != one["sha256"]


def test_a_stream_that_breaks_off_is_one_sentence(twenty, monkeypatch):
    feed = make_feed(stream(twenty))

    def broken(first: int):
        raise ConnectionError("the Hub is gone\nand more")

    monkeypatch.setattr(type(feed.group.lists[0].utterances.data), "__iter__", lambda self: broken(0))
    with pytest.raises(InputError, match=r"set cannot be read \(the Hub is gone\)$"):
        run(feed, 1)


def test_what_save_to_disk_wrote_is_streamed_from_there(twenty, tmp_path):
    data = datasets.load_dataset("parquet", data_dir=str(twenty), split="train", cache_dir=str(tmp_path / "cache"))
    datasets.DatasetDict(train=data).save_to_disk(tmp_path / "saved")
    settings = {"batch_size": 5, "shuffle_buffer": 10}
    saved, plain = (run(make_feed(stream(place), **settings), 6) for place in (tmp_path / "saved", twenty))
    assert numbers(saved) == numbers(plain)


def test_what_filters_leave_out_is_counted_once_over_all_jobs(workspace, digits, invoke):
    """One after each step; each of their blocks, of eight rows and six windows, is read again where a job begins."""
    rows = [json.loads(line) for line in (digits / "train.jsonl").read_text().splitlines()]
    audio = [{"bytes": Path(row["audio_filepath"]).read_bytes(), "path": f"{i}.flac"} for i, row in enumerate(rows)]
    wers = [0.9 if i % 4 == 1 else 0.0 for i in range(len(rows))]
    table = pyarrow.table({"audio": audio, "text": [row["text"] for row in rows], "label_wer": wers})
    (workspace / "set").mkdir()
    pyarrow.parquet.write_table(table, workspace / "set" / "train.parquet")
    content = yaml.safe_load((workspace / "whisperq.yaml").read_text())
    write_configuration(workspace, content | {"train": [{"path": "set", "streaming": True}]})
    command = ("distill", "--max-steps", "5", "--eval-every", "5", "--shuffle-buffer", "8", "--max-label-wer", "50")
    assert invoke("init-student").exit_code == 0 and invoke(*command, "--out", "whole").exit_code == 0
    while (code := invoke(*command, "--out", "jobs", "--max-time", "0:00").exit_code) == 75:
        pass
    whole, jobs = (json.loads(Path(name, "manifest.json").read_text())["results"] for name in ("whole", "jobs"))
    assert code == 0 and whole["dropped"] == jobs["dropped"] == {"label WER above 50 %": 8}  # 20 windows: 4 blocks
