"""Windows side by side, as a model takes them: padded, on the device, log-mel computed there.

A window's digest is that of all that its features and labels are made of: samples, tokens, log-mel settings.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from whisperq.data.batches import Batch, Loader
from whisperq.data.tokens import IGNORED
from whisperq.training.augment import spec_augment
from whisperq.training.windows import Window

MASKS = 6  # what a generator is for, beside those of epochs.py, blocks.py and feed.py


class Collator:
    """Makes micro-batches. To be made by the thread that trains: each thread has a present GPU of its own."""

    def __init__(self, loader: Loader, masked: bool, seed: int, digests: bool = False) -> None:
        self.loader, self.masked, self.seed = loader, masked, seed
        self.front_end = front_end(loader.extractor) if digests else None
        self.device = torch.device(loader.device)
        if self.device.type == "cuda":
            self.device = torch.device("cuda", torch.cuda.current_device())

    def enter_thread(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def batch(self, windows: Sequence[Window], step: int, first: int) -> Batch:
        """One micro-batch; `first` is its first window's index in the effective batch."""
        used = [(first + i, window) for i, window in enumerate(windows) if window.utterances]
        if not used:
            return self._silence()
        samples = [window.samples for _, window in used]
        features = self.loader.features(samples, self.device)
        if self.masked:
            frames = [len(s) // self.loader.extractor.hop_length for s in samples]
            features = spec_augment(features, frames, [(self.seed, MASKS, step, index) for index, _ in used])
        tokens = self.loader.codec.pad([window.sequence for _, window in used])
        seconds = sum(map(len, samples)) / self.loader.extractor.sampling_rate
        utterances = tuple(u for _, window in used for u in window.utterances)
        batch = self.loader.batch(features, tokens, utterances, seconds)
        if self.front_end is None:
            return batch
        return replace(batch, digests=tuple(digest(window, self.front_end) for _, window in used))

    def _silence(self) -> Batch:
        """A batch of one silent window without labels, so that processes stay in step where nothing is usable."""
        codec = self.loader.codec
        tokens = codec.pad([codec.encode("")])
        silent = replace(tokens, labels=torch.full_like(tokens.labels, IGNORED))
        return self.loader.batch(self.loader.features([np.zeros(0, np.float32)], self.device), silent, (), 0.0)


def front_end(extractor: Any) -> bytes:
    """Bytes that identify the feature extraction: settings and mel filters."""
    names = ("sampling_rate", "n_fft", "hop_length", "n_samples")
    filters = np.asarray(extractor.mel_filters, np.float32)
    settings = json.dumps([*(getattr(extractor, name) for name in names), filters.shape])
    return settings.encode() + filters.tobytes()


def digest(window: Window, front_end: bytes) -> str:
    """SHA-256 of a window's features and tokens, as hexadecimal text."""
    found = hashlib.sha256(front_end)
    found.update(np.asarray(window.sequence, np.int64).tobytes())
    found.update(b"\n")
    found.update(np.ascontiguousarray(window.samples, np.float32).tobytes())
    return found.hexdigest()
