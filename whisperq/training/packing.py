"""Utterances joined until the model's window is full: which of them share a window.

Three stages, each a partition of the one before it:

    runs      neighbouring segments of a recording, in order, while they fit
    bins      runs of one speaker, the longest first into the fullest bin that still holds them (best fit)
    windows   what is left, bins of different speakers, in the same way

Which of two alike comes first is drawn from (seed, epoch), so that every epoch joins others. Lengths are counted
in 3000ths of the window, rounded up: what is said to fit does fit, to a few samples.
"""

from dataclasses import dataclass

import numpy as np

from whisperq.data.index import Index

PARTS = 3000  # of a window: hundredths of a second of Whisper's 30
JITTER = 0.3  # how much longer than it is an utterance may pass for when the longest come first


@dataclass(frozen=True)
class Windows:
    """Which utterances each window holds: those of window w are members[starts[w] : starts[w + 1]]."""

    members: np.ndarray  # int64, numbers of utterances
    starts: np.ndarray  # int64, (windows + 1,)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, window: int) -> np.ndarray:
        return self.members[self.starts[window] : self.starts[window + 1]]

    def shuffled(self, generator: np.random.Generator) -> "Windows":
        order = generator.permutation(len(self))
        lengths = np.diff(self.starts)[order]
        starts = np.concatenate([[0], np.cumsum(lengths)])
        within = np.arange(len(self.members)) - np.repeat(starts[:-1], lengths)
        return Windows(self.members[np.repeat(self.starts[:-1][order], lengths) + within], starts)


def alone(members: np.ndarray) -> Windows:
    """Every utterance in a window of its own."""
    return Windows(members, np.arange(len(members) + 1))


def in_parts(seconds: np.ndarray, window_seconds: float) -> np.ndarray:
    """Lengths in 3000ths of the window; what is as long as the window, or nearly, has it for itself.

    A length that nobody knows, NaN, is of what is not packed: its place in the result holds the least.
    """
    return np.clip(np.ceil(np.nan_to_num(seconds) * (PARTS / window_seconds) - 1e-3), 1, PARTS).astype(np.int64)


def pack(members: np.ndarray, facts: Index, parts: np.ndarray, generator: np.random.Generator) -> Windows:
    """Windows over `members`, numbers of utterances into `facts` and `parts` (of a window), in random order.

    A member that is there twice, as a source of weight 2 has it, is packed as two, in different passes.
    """
    passes = _pass(members)
    recording, offset = facts.recording[members], facts.offset[members]
    speaker = np.where(facts.speaker[members] < 0, -1 - recording, facts.speaker[members])
    # Recordings in random order, their segments in that of time.
    shuffled = generator.random(int(recording.max(initial=-1)) + 1)[recording]
    order = np.lexsort((offset, recording, shuffled, speaker, passes))
    sizes = parts[members[order]]
    group = _numbers(passes[order], speaker[order])
    run = _runs(sizes, _numbers(passes[order], recording[order]))
    run_group = group[np.searchsorted(run, np.arange(run[-1] + 1))]
    bin_of_run = _best_fit(np.bincount(run, sizes).astype(np.int64), run_group, generator)
    item_bin = bin_of_run[run]
    fill = np.bincount(item_bin, sizes).astype(np.int64)
    window = _best_fit(fill, np.zeros(len(fill), np.int64), generator)[item_bin]
    final = np.lexsort((np.arange(len(order)), item_bin, window))
    counts = np.bincount(window[final])
    windows = Windows(members[order][final], np.concatenate([[0], np.cumsum(counts)]))
    return windows.shuffled(generator)


def _pass(members: np.ndarray) -> np.ndarray:
    """0 where a member is there for the first time, 1 for the second."""
    order = np.argsort(members, kind="stable")
    ordered = members[order]
    first = np.searchsorted(ordered, ordered)
    passes = np.empty(len(members), np.int64)
    passes[order] = np.arange(len(members)) - first
    return passes


def _numbers(*keys: np.ndarray) -> np.ndarray:
    """0, 1, ... along rows that are sorted: a new number where any of the keys changes."""
    changes = np.zeros(len(keys[0]), bool)
    for key in keys:
        changes[1:] |= key[1:] != key[:-1]
    return np.cumsum(changes)


def _runs(sizes: np.ndarray, recording: np.ndarray) -> np.ndarray:
    """The run of every segment: a new one at each recording, and where the window would overflow."""
    run, filled, before = -1, 0, -1
    runs = []
    for size, current in zip(sizes.tolist(), recording.tolist(), strict=True):
        if current != before or filled + size > PARTS:
            run, filled, before = run + 1, 0, current
        filled += size
        runs.append(run)
    return np.array(runs, np.int64)


def _best_fit(sizes: np.ndarray, group: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The bin of every item, bins of one group each; longest first, as far as JITTER lets them."""
    jittered = sizes * (1 + JITTER * generator.random(len(sizes)))
    order = np.lexsort((-jittered, group))
    bins = np.empty(len(sizes), np.int64)
    rooms: dict[int, list[int]] = {}
    mask, made, before = 0, 0, -1
    for item, size, owner in zip(order.tolist(), sizes[order].tolist(), group[order].tolist(), strict=True):
        if owner != before:
            rooms, mask, before = {}, 0, owner  # room -> bins with it; mask: bit r is set where there are any
        fitting = mask >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            chosen = rooms[room].pop()
            if not rooms[room]:
                mask ^= 1 << room
        else:
            room, chosen, made = PARTS, made, made + 1
        bins[item] = chosen
        if left := room - size:
            rooms.setdefault(left, []).append(chosen)
            mask |= 1 << left
    return bins
