"""Where utterances come from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """Where utterances come from: an utterance list, a folder, or a data set."""

    path: str | None = None  # utterance list, folder with metadata.csv or .jsonl, parquet file or folder
    dataset: str | None = None  # Hub id or local folder for `datasets.load_dataset`
    config: str | None = None
    split: str | None = None
    text_column: str | None = None
    audio_column: str = "audio"
    id_column: str | None = None
    speaker_column: str | None = None
    name: str = ""  # the test set's name
    normalizer: str | None = None
    group: str | None = None  # e.g. in-distribution / out-of-distribution
    weight: float = 1.0
    limit: int | None = None  # first N utterances only
