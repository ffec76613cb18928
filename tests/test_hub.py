import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from whisperq.config import Source
from whisperq.data.audio import load_audio
from whisperq.data.lists import read
from whisperq.errors import InputError

datasets = pytest.importorskip("datasets")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def noise(path: Path, seed: int = 0) -> Path:
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.5, 0.5, 4000), 8000)
    return path


def parquet(path: Path, texts: list[str | None], column: str = "sentence", seed: int = 0) -> Path:
    """A parquet file as the Hub has them: audio as bytes and a bare file name."""
    content = noise(path.parent / "source.wav", seed).read_bytes()
    audio = [{"bytes": content if text != "lost" else None, "path": f"{text}.flac"} for text in texts]
    people = list(range(len(texts)))
    table = pyarrow.table({"audio": audio, column: texts, "id": [5] * len(texts), "speaker_id": people})
    pyarrow.parquet.write_table(table, path)
    return path


def test_a_parquet_file_keeps_its_audio_encoded(tmp_path, cache):
    path = parquet(tmp_path / "dev.parquet", ["one", "two", None])
    result = read(Source(path=str(path)))
    assert [u.text for u in result.utterances] == ["one", "two", None]
    assert [u.id for u in result.utterances] == ["000000", "000001", "000002"]
    assert [u.speaker for u in result.utterances] == ["0", "1", "2"]
    assert result.utterances[1].audio == (tmp_path / "source.wav").read_bytes()
    expected, _ = soundfile.read(tmp_path / "source.wav", dtype="float32")
    np.testing.assert_array_equal(load_audio(result.utterances[1], 8000), expected)


def test_the_hash_of_a_data_set_follows_its_content_not_its_place(tmp_path, cache):
    def digest(name: str, texts: list[str | None], seed: int = 0) -> str:
        (tmp_path / name).mkdir()
        return read(Source(path=str(parquet(tmp_path / name / "dev.parquet", texts, seed=seed)))).sha256

    here = digest("a", ["one", "two"])
    assert digest("b", ["one", "two"]) == here
    assert digest("other-text", ["one", "too"]) != here
    assert digest("other-audio", ["one", "two"], seed=1) != here


def test_rows_without_audio_and_repeated_ids_are_bad(tmp_path, cache):
    path = str(parquet(tmp_path / "dev.parquet", ["one", "lost", "two"]))
    with pytest.raises(InputError, match=r"dev\.parquet row 1 \(lost\.flac\) has no audio"):
        read(Source(path=path))
    result = read(Source(path=path), skip_bad=True)
    assert ([u.text for u in result.utterances], result.bad) == (["one", "two"], 1)
    with pytest.raises(InputError, match=r"row 1 \(b\.flac\): the id 5 is already that of .* row 0"):
        read(Source(path=str(parquet(tmp_path / "twice.parquet", ["a", "b"])), id_column="id"))


@pytest.mark.parametrize("as_dataset", [False, True])
def test_splits_of_a_folder_of_parquet_files(tmp_path, cache, as_dataset):
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    parquet(folder / "train-00000.parquet", ["one"])
    parquet(folder / "test-00000.parquet", ["two", "three"])
    (folder / "source.wav").unlink()
    place = {"dataset" if as_dataset else "path": str(tmp_path / "set")}
    assert [u.text for u in read(Source(**place, split="test", limit=1)).utterances] == ["two"]
    with pytest.raises(InputError, match="needs a split, one of"):
        read(Source(**place))
    with pytest.raises(InputError, match=r"set cannot be loaded \(Unknown split .dev"):
        read(Source(**place, split="dev"))


def test_columns_that_a_data_set_lacks(tmp_path, cache):
    path = str(parquet(tmp_path / "dev.parquet", ["one"], column="words"))
    assert read(Source(path=path)).utterances[0].text is None
    assert read(Source(path=path, text_column="words")).utterances[0].text == "one"
    with pytest.raises(InputError, match="no column wav, only audio, words"):
        read(Source(path=path, audio_column="wav"))
    with pytest.raises(InputError, match="column id of .* holds no audio"):
        read(Source(path=path, audio_column="id"))


def test_a_folder_that_save_to_disk_wrote(tmp_path, cache):
    columns = {"audio": [{"bytes": noise(tmp_path / "a.wav").read_bytes(), "path": None}], "text": ["one"]}
    datasets.DatasetDict(train=datasets.Dataset.from_dict(columns)).save_to_disk(tmp_path / "saved")
    for place in ({"path": str(tmp_path / "saved")}, {"dataset": str(tmp_path / "saved")}):
        assert read(Source(**place)).utterances[0].text == "one"
        with pytest.raises(InputError, match="needs a split, one of train"):
            read(Source(**place, split="test"))


def test_an_unreachable_hub_says_what_to_do(cache, monkeypatch):
    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Couldn't reach 'nobody/nothing' on the Hub\nand more lines.")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError) as error:
        read(Source(dataset="nobody/nothing", split="test"), skip_bad=True)
    assert "nobody/nothing cannot be loaded (Couldn't reach" in str(error.value)
    assert "local folder" in str(error.value) and "log in" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="says: CC0; the terms must be accepted"):
        read(Source(dataset="nobody/nothing", split="test", licence="CC0; the terms must be accepted"))


def test_rows_are_read_one_by_one(tmp_path, cache):
    soundfile.write(tmp_path / "source.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 200_000), 8000)
    content = (tmp_path / "source.wav").read_bytes()  # 400 kB
    columns = {"audio": [{"bytes": content, "path": None}] * 100, "text": [f"t{i}" for i in range(100)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "long.parquet", row_group_size=10)
    read(Source(path=str(tmp_path / "long.parquet"), limit=1))  # imports, and the cache
    tracemalloc.start()
    rows = read(Source(path=str(tmp_path / "long.parquet"))).utterances
    texts = [u.text for u in rows]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == columns["text"] and rows[-1].audio == content
    assert peak < 10 * len(content)
    assert rows.facts.duration.tolist() == [25.0] * 100 and rows[0].duration is None
    assert rows.index(rows[1]) == 1  # a sequence like any other
    assert [u.id for u in pickle.loads(pickle.dumps(rows))] == [u.id for u in rows]
