"""Size and speed of every system: megabytes of weights, and RTFx, audio seconds per wall second, of each runtime.

    RTFx = sum_i a_i / sum_i t_i        a_i: seconds of audio, t_i: wall seconds of features and decoding of utterance i

The interval resamples utterances of one evaluation, scaled to its RTFx, as several processes transcribe at once; it
cannot show what a machine does differently from hour to hour.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from whisperq.errors import InputError
from whisperq.kinds.scores import Evaluation
from whisperq.models.weight_files import weights_size
from whisperq.report.gathering import Entry, Gathered
from whisperq.report.report_tables import Cell, Grid
from whisperq.report.system_labels import FLOAT, Subjects, as_columns, execution
from whisperq.report.word_errors import System
from whisperq.results.evaluations import open_evaluation
from whisperq.results.hypotheses import read_hypotheses
from whisperq.scoring.two_way_bootstrap import interval_95, resample_blocks


@dataclass(frozen=True)
class Speed:
    """A system's size and RTFx, the mean of its seeds."""

    megabytes: float | None  # None where the weights are gone
    rtfx: float
    interval: tuple[float, float] | None
    sources: tuple[Entry, ...]


def speeds(gathered: Gathered, seed: int) -> dict[System, Speed]:
    subjects = Subjects(gathered)
    seeds: dict[System, dict[int | None, Heard]] = {}
    sizes: dict[System, dict[int | None, float]] = {}
    for entry in gathered.of_kind("evaluation"):
        if subject := subjects.of_input(entry):
            system = System(subject.model, execution(entry), entry.results["device"])
            size = weights_size(subject.folder) / 1e6
            sizes.setdefault(system, {})[subject.seed] = size
            heard = seeds.setdefault(system, {}).setdefault(subject.seed, {})
            heard |= dict.fromkeys(entry.results["sets"], entry)
    return {s: _speed([*seeds[s].values()], [*sizes[s].values()], seed) for s in sorted(seeds, key=System.order)}


Heard = dict[str, Entry[Evaluation]]  # set -> the evaluation that has it, of one system and seed; of several the last


def _speed(found: Sequence[Heard], sizes: Sequence[float], seed: int) -> Speed:
    sources = tuple(dict.fromkeys(entry for heard in found for entry in heard.values()))
    resampled = [r for r in (_resampled(heard, seed) for heard in found) if r is not None]
    ends = interval_95(np.mean(resampled, axis=0)) if len(resampled) == len(found) else None
    return Speed(fmean(sizes) if all(sizes) else None, fmean(map(rtfx, found)), ends, sources)


def rtfx(heard: Heard) -> float:
    """RTFx over all sets together, of one seed."""
    sets = [entry.results["sets"][name] for name, entry in heard.items()]
    return sum(r["audio_seconds"] for r in sets) / sum(r["wall_seconds"] for r in sets)


def _resampled(heard: Heard, seed: int) -> np.ndarray | None:
    """RTFx of resampled utterances, (resamples,); None where not every hypothesis has its time.

    Scaled to the evaluations' RTFx, since several processes share a wall time.
    """
    try:
        files = [open_evaluation(entry.path).files[name] for name, entry in heard.items()]
        lines = [line for file in files for line in read_hypotheses(file)]
    except InputError:
        return None
    if not lines or any(not line.time or not line.duration for line in lines):
        return None
    audio, times = np.array([[line.duration for line in lines]]), np.array([line.time for line in lines])
    return resample_blocks(audio, times, seed)[:, 0] / 100 * rtfx(heard) / (audio.sum() / times.sum())


def times_real(rtfx: float) -> str:
    """RTFx in whole numbers, below ten with two figures: a slow runtime's is not zero."""
    return f"{rtfx:,.0f}" if rtfx >= 9.95 else f"{rtfx:.2g}"


def speed_table(found: Mapping[System, Speed]) -> list[Grid]:
    if not found:
        return []
    floats = {(*_but_precision(s), s.runtime): v.megabytes for s, v in found.items() if s.model.numbers == FLOAT}
    rows, records = [], []
    for system, speed in found.items():
        # The same runtime's float model: graphs are larger than the folder that they were made from.
        alike = [(*_but_precision(system), runtime) for runtime in (system.runtime, FLOAT)]
        whole = next((floats[key] for key in alike if key in floats), None)
        smaller = whole and speed.megabytes and system.model.numbers != FLOAT and whole / speed.megabytes
        ratio = f"{smaller:.2f} times smaller" if smaller else ""
        note = "\u2013".join(map(times_real, speed.interval)) if speed.interval else ""
        m = system.model
        words = (m.origin, m.layers, m.gate, m.numbers, system.execution, system.device)
        weight = f"{speed.megabytes:.2f} MB" if speed.megabytes else "-"
        size = Cell(weight, ratio, speed.sources[:1])
        rows.append((*map(Cell, words), size, Cell(times_real(speed.rtfx), note, speed.sources)))
        low, high = speed.interval or ("", "")
        measures = {"megabytes": speed.megabytes, "rtfx": speed.rtfx, "rtfx_low_95": low, "rtfx_high_95": high}
        where = {"runtime": system.execution, "device": system.device}
        records.append(as_columns(m) | where | measures | {"manifests": " ".join(e.name for e in speed.sources)})
    caption = (
        "Weights on disk, and seconds of audio transcribed in a second of wall time, features included, over all sets "
        "together, with the 95 % interval over utterances. The runtimes emulated and float compute in floats: the "
        "former is for accuracy and is slow by nature. Runs of different machines or hours are not to be compared."
    )
    columns = ("model", "layers", "gate", "quantized", "runtime", "device", "#size", "#RTFx")
    return [Grid("speed", "Size and speed", caption, columns, tuple(rows), tuple(records))]


def _but_precision(system: System) -> tuple:
    return system.model.origin, system.model.depth, system.model.gate
