"""Size and speed of every system: megabytes of weights, and RTFx, audio seconds per wall second, of each runtime.

    RTFx = sum_i a_i / sum_i t_i        a_i: seconds of audio, t_i: wall seconds of features and decoding of utterance i

The interval resamples utterances of one evaluation, scaled to its RTFx, as several processes transcribe at once; it
cannot show what a machine does differently from hour to hour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from whisperq.errors import InputError
from whisperq.kinds.scores import Evaluation
from whisperq.report.gathering import Entry, Gathered
from whisperq.report.report_tables import Cell, Grid
from whisperq.report.system_labels import FLOAT, Subjects, as_columns, execution
from whisperq.report.word_errors import System
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
    entries: dict[System, dict[int | None, tuple[Entry[Evaluation], float]]] = {}
    for entry in gathered.of_kind("evaluation"):
        if subject := subjects.of_input(entry):
            system = System(subject.model, execution(entry), entry.results["device"])
            size = sum(f.stat().st_size for f in subject.folder.rglob("*") if f.suffix in WEIGHTS) / 1e6
            entries.setdefault(system, {})[subject.seed] = entry, size
    return {s: _speed(entries[s], seed) for s in sorted(entries, key=System.order)}


WEIGHTS = (".safetensors", ".onnx", ".data")


def _speed(found: Mapping[int | None, tuple[Entry[Evaluation], float]], seed: int) -> Speed:
    sources = tuple(entry for entry, _ in found.values())
    resampled = [r for r in (_resampled(entry, seed) for entry in sources) if r is not None]
    ends = interval_95(np.mean(resampled, axis=0)) if len(resampled) == len(sources) else None
    sizes = [size for _, size in found.values()]
    return Speed(fmean(sizes) if all(sizes) else None, fmean(map(rtfx, sources)), ends, sources)


def rtfx(entry: Entry[Evaluation]) -> float:
    """RTFx of an evaluation over all sets together."""
    sets = entry.results["sets"].values()
    return sum(r["audio_seconds"] for r in sets) / sum(r["wall_seconds"] for r in sets)


def _resampled(entry: Entry[Evaluation], seed: int) -> np.ndarray | None:
    """RTFx of resampled utterances, (resamples,); None where not every hypothesis has its time.

    Scaled to the evaluation's RTFx, since several processes share a wall time.
    """
    try:
        files = sorted((entry.path / "hypotheses").glob("*.jsonl"))
        lines = [line for file in files for line in read_hypotheses(file)]
    except InputError:
        return None
    if not lines or any(not line.time or not line.duration for line in lines):
        return None
    audio, times = np.array([[line.duration for line in lines]]), np.array([line.time for line in lines])
    return resample_blocks(audio, times, seed)[:, 0] / 100 * rtfx(entry) / (audio.sum() / times.sum())


def speed_table(found: Mapping[System, Speed]) -> list[Grid]:
    if not found:
        return []
    floats = {_but_precision(s): v.megabytes for s, v in found.items() if s.model.numbers == FLOAT}
    rows, records = [], []
    for system, speed in found.items():
        whole = floats.get(_but_precision(system))
        smaller = whole and speed.megabytes and system.model.numbers != FLOAT and whole / speed.megabytes
        ratio = f"{smaller:.2f} times smaller" if smaller else ""
        note = f"{speed.interval[0]:.0f}\u2013{speed.interval[1]:.0f}" if speed.interval else ""
        m = system.model
        words = (m.origin, m.layers, m.gate, m.numbers, system.execution, system.device)
        weight = f"{speed.megabytes:.2f} MB" if speed.megabytes else "-"
        size = Cell(weight, ratio, speed.sources[:1])
        rows.append((*map(Cell, words), size, Cell(f"{speed.rtfx:,.0f}", note, speed.sources)))
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
