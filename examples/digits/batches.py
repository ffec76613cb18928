"""Training batches: drawn strings as features, tokens and frame labels."""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from augment import augment
from mixing import Sources, draw, frame_labels
from recipe import Settings
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperProcessor

from whisperq.data.features import log_mel

IGNORED = -100  # cross-entropy's own mark for padding
Made = TypeVar("Made")


@dataclass(frozen=True)
class Batch:
    """What one step sees."""

    features: torch.Tensor  # (batch, mel bins, frames)
    inputs: torch.Tensor  # (batch, tokens), padded with the end token
    targets: torch.Tensor  # (batch, tokens), padded with IGNORED
    frames: torch.Tensor  # (batch, encoder frames), classes


def make_batch(sources: Sources, processor: WhisperProcessor, settings: Settings, step: int) -> Batch:
    """Batch number `step`: a function of seed and step alone, so that runs can be repeated."""
    rng = np.random.default_rng([settings.seed, step])
    most = 3 if step < settings.short_steps else 7
    drawn = [draw(sources, rng, most, settings.real_share) for _ in range(settings.batch)]
    features = log_mel([joined.samples for joined in drawn], processor.feature_extractor)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    # Whisper writes a space before its first word.
    tokens = [torch.tensor(processor.tokenizer(" " + joined.text).input_ids) for joined in drawn]
    padded = pad_sequence(tokens, batch_first=True, padding_value=IGNORED)
    end = processor.tokenizer.eos_token_id
    frames = np.stack([frame_labels(joined, features.shape[-1] // 2) for joined in drawn])
    return Batch(
        augment(features, generator),
        padded[:, :-1].masked_fill(padded[:, :-1] == IGNORED, end),
        padded[:, 1:],
        torch.from_numpy(frames),
    )


def prefetched(batches: Iterable[Made]) -> Iterator[Made]:
    """The same batches, made by one thread, four ahead."""
    ready: queue.Queue[Made | None] = queue.Queue(maxsize=4)

    def produce() -> None:
        for batch in batches:
            ready.put(batch)
        ready.put(None)

    threading.Thread(target=produce, daemon=True).start()
    while (batch := ready.get()) is not None:
        yield batch
