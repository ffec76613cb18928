"""Training data for the tests of what feeds the training: short noises with words, lists and parquet of them."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile
import torch

from support.tiny import END, PROMPT, TEXTS, processor
from whisperq.config import Source
from whisperq.data.batches import Batch, Loader
from whisperq.data.sources import read_all
from whisperq.data.tokens import Codec
from whisperq.training.feed import Feed, TrainingStep
from whisperq.training_options import DistillConfig

RATE = 16000
WINDOW = 1.0  # seconds, of tiny.processor
TIMES = range(PROMPT[-1] + 1, len(processor.tokenizer))
CODEC = Codec(processor.tokenizer, PROMPT, END, 64, TIMES)
SECONDS = (0.3, 0.45, 0.2, 0.7, 0.35)  # of one utterance after the other, again and again


def noise(number: int, seconds: float) -> np.ndarray:
    return np.random.default_rng(number).uniform(-0.5, 0.5, round(RATE * seconds)).astype(np.float32)


def write_noises(folder: Path, count: int, name: str = "train", **extra: list) -> Path:
    """A list of `count` recordings of four speakers, lengths stated; `extra` gives other fields a value each."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(count):
        soundfile.write(folder / f"{name}{i}.wav", noise(i, SECONDS[i % 5]), RATE, subtype="FLOAT")
        line = {"audio_filepath": f"{name}{i}.wav", "duration": SECONDS[i % 5], "text": TEXTS[i % 4]}
        lines.append({**line, "speaker": f"s{i % 4}", **{key: values[i] for key, values in extra.items()}})
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def change_lines(path: Path, **changes: dict[int, object]) -> Path:
    """change_lines(path, text={3: "other"}): another value in the fourth line."""
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    for key, values in changes.items():
        for number, value in values.items():
            lines[number][key] = value
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_parquet(folder: Path, count: int, shards: int = 2, **extra: list) -> Path:
    """The same recordings as rows of parquet files."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        numbers = range(count * shard // shards, count * (shard + 1) // shards)
        audio = []
        for i in numbers:
            file = io.BytesIO()
            soundfile.write(file, noise(i, SECONDS[i % 5]), RATE, format="WAV", subtype="FLOAT")
            audio.append({"bytes": file.getvalue(), "path": f"{i}.wav"})
        columns = {"audio": audio, "text": [TEXTS[i % 4] for i in numbers], "speaker": [f"s{i % 4}" for i in numbers]}
        columns |= {key: [values[i] for i in numbers] for key, values in extra.items()}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / f"train-{shard:05d}.parquet")
    return folder


def make_feed(*sources: Source | str | Path, seed: int = 0, **settings: object) -> Feed:
    """A feed over lists or sources, on the CPU."""
    config = DistillConfig(**{"batch_size": 4, **settings})
    made = [s if isinstance(s, Source) else Source(path=str(s)) for s in sources]
    loader = Loader(processor.feature_extractor, CODEC, "cpu", config.skip_bad)
    return Feed(read_all(made, config.skip_bad), loader, config, seed)


def run(feed: Feed, count: int, position: dict | None = None, first: int = 0, rank: int = 0, world: int = 1):
    """All the steps."""
    position = json.loads(json.dumps(position))  # as a checkpoint has it
    return list(feed.steps(position, count, rank, world, first))


def ids(steps: list[TrainingStep]) -> list[list[str]]:
    return [[u.id for b in s.batches for u in b.utterances] for s in steps]


def texts(batch: Batch) -> list[str]:
    """The labels, read by the tokenizer."""
    rows = [[t for t in row.tolist() if t >= 0] for row in batch.tokens.labels]
    return [processor.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]


def same_batch(one: Batch, other: Batch) -> bool:
    """To the last bit."""
    return (
        torch.equal(one.features, other.features)
        and torch.equal(one.tokens.labels, other.tokens.labels)
        and torch.equal(one.tokens.inputs, other.tokens.inputs)
        and one.utterances == other.utterances
        and one.seconds == other.seconds
    )


def same_steps(some: list[TrainingStep], others: list[TrainingStep]) -> bool:
    return len(some) == len(others) and all(
        a.position == b.position and all(map(same_batch, a.batches, b.batches))
        for a, b in zip(some, others, strict=True)
    )
