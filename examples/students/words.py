"""Word errors of students on the same utterances, resampled together, so that all differences are paired."""

import sys
from collections.abc import Sequence

import numpy as np
from measured import Student, errors_of

from whisperq.scoring.two_way_bootstrap import resample_blocks

SEED = 0
Key = tuple[str, str, str | None]  # depth, gate and way of training


def key_of(student: Student) -> Key:
    return student.depth, student.gate, student.way


class Words:
    """Word errors of every student and system on the utterances that all of them were given."""

    def __init__(self, found: Sequence[Student], systems: Sequence[str]) -> None:
        self.systems = tuple(systems)
        self.columns: dict[tuple[Key, str], dict[int, int]] = {}  # seed -> column
        errors, self.words = [], np.zeros(0)
        for student in found:
            for system in systems:
                sets = errors_of(student.run, system)
                words = np.concatenate([words for words, _ in sets.values()])
                if errors and not np.array_equal(words, self.words):
                    sys.exit(f"{student.run / 'eval' / system} is of other utterances than the first student's")
                self.words = words
                self.columns.setdefault((key_of(student), system), {})[student.seed] = len(errors)
                errors.append(np.concatenate([wrong for _, wrong in sets.values()]))
        self.errors = np.stack(errors)
        self.rates = resample_blocks(self.errors, self.words, SEED)

    def seeds(self, *keys: Key) -> list[int]:
        """Those of all keys."""
        return [s for s in self.columns[keys[0], "float"] if all(s in self.columns[key, "float"] for key in keys)]

    def of(self, student: Student, system: str) -> np.ndarray:
        """Word errors of each utterance (utterances,)."""
        return self.errors[self.columns[key_of(student), system][student.seed]]

    def rate(self, key: Key, system: str, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """WER in percent: of each seed (seeds,), and resampled (resamples, seeds)."""
        chosen = [self.columns[key, system][seed] for seed in seeds]
        return 100 * self.errors[chosen].sum(axis=1) / self.words.sum(), self.rates[:, chosen]

    def cost(self, key: Key, system: str, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Points of WER that a system adds to float: of each seed (seeds,), and resampled (resamples, seeds)."""
        return less(self.rate(key, system, seeds), self.rate(key, "float", seeds))


def less(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """one - other, seed by seed."""
    return one[0] - other[0], one[1] - other[1]
