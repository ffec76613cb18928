"""All figures of a report, drawn anew or copied from the artifacts that hold them, with captions and sources."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from whisperq.jobs.progress import say
from whisperq.report.activations import range_figures, spans
from whisperq.report.distortion_tables import Distorted, by_condition
from whisperq.report.divergence_by_bits import narrowing_figure, narrowings
from whisperq.report.error_tables import Measured
from whisperq.report.figures import save
from whisperq.report.foreign_figures import is_drawing
from whisperq.report.gathering import Entry, Gathered
from whisperq.report.pareto import pareto_figure, points
from whisperq.report.speed_tables import Speed
from whisperq.report.system_labels import Model, Subject, Subjects, plain_last
from whisperq.report.training_curves import gate_growth, gate_series, kurtosis_growth, kurtosis_series
from whisperq.report.word_errors import System

FOLDER = "figures"
PAIRS = 4  # of calibrations side by side
SECTIONS = {
    "pareto": "Accuracy, size and speed",
    "distortion": "Fewer bits",
    "outliers": "Outliers",
    "growth": "Through training",
    "ranges": "Activation ranges",
    "attention": "Attention",
    "sensitivity": "Sensitivity",
    "bits": "Bits per layer",
}
COPIED = {
    "outliers": ("outliers", "Share of each hidden dimension in a tensor's outliers, kurtosis by site, massive values"),
    "attention": ("attention", "What attention heads look at"),
    "sensitivity": ("sensitivity", "What each part costs in integers"),
    "quantized": ("bits", "Bits that mixed precision gave to each weight"),
}


@dataclass(frozen=True)
class ReportFigure:
    """One figure: its files, relative to the report's folder, the vector one last."""

    section: str
    caption: str
    files: tuple[str, ...]
    sources: tuple[Entry, ...]


def draw(
    gathered: Gathered,
    measured: Measured,
    speeds: Mapping[System, Speed],
    outputs: Sequence[Distorted],
    out: Path,
    rendered: bool = True,
) -> list[ReportFigure]:
    """Writes PNG and SVG of each figure below `out`. Not `rendered`: tries them all, which is quick, and has none."""
    folder = out / FOLDER
    folder.mkdir()
    made = [*_pareto(measured, speeds), *_narrowing(outputs)]
    made += [*_kurtosis(gathered), *_gates(gathered), *_ranges(gathered)]
    drawn, copied = [], [*_copied(gathered, folder)]
    if not rendered:
        return []
    for section, stem, caption, figure, sources in made:
        names = save(figure, folder, stem)
        drawn.append(ReportFigure(section, caption, tuple(f"{FOLDER}/{n}" for n in names), tuple(sources)))
    return sorted([*drawn, *copied], key=lambda d: list(SECTIONS).index(d.section))


Made = tuple[str, str, str, Figure, Sequence[Entry]]  # section, file's stem, caption, figure, sources


def _pareto(measured: Measured, speeds: Mapping[System, Speed]) -> Iterator[Made]:
    """One for each normaliser and each collection of sets."""
    rules = dict.fromkeys(s.rule for s in measured)
    ruled = {rule: {s: rates for s, rates in measured.items() if s.rule == rule} for rule in rules}
    every = [(rule, *one) for rule, some in ruled.items() for one in points(some, speeds)]
    for number, (rule, title, some) in enumerate(every):
        caption = (
            f"{rule[2].upper()} ({title}, normaliser {rule[0]}) against the weights' size and against RTFx, with 95 % "
            "intervals. Colour: numbers; marker: model, filled where it is gated; dashed: the Pareto front."
        )
        sources = list(dict.fromkeys(e for p in some for e in speeds[p.system].sources))
        yield "pareto", f"pareto-{number + 1}", caption, pareto_figure(title, some, rule[2].upper()), sources


def _narrowing(outputs: Sequence[Distorted]) -> Iterator[Made]:
    every = [(some[0].heard, *one) for some in by_condition(outputs) for one in narrowings(some).items()]
    for number, (heard, title, panels) in enumerate(every):
        caption = (
            f"Divergence of the quantized outputs from the float ones as activations get fewer bits, {title}, over "
            f"{heard}: geometric means of the seeds (lines) and each seed (dashes). Filled: gated."
        )
        sources = [d.entry for lines in panels.values() for line in lines.values() for d in line]
        yield "distortion", f"distortion-{number + 1}", caption, narrowing_figure(title, panels), sources


def logs(gathered: Gathered) -> Iterator[tuple[Entry, Subject, list[dict[str, Any]]]]:
    """The trained models with what was measured while they learned; of several seeds the first."""
    subjects, seen = Subjects(gathered), set()
    for entry in gathered.of_kind("distilled"):
        subject = subjects.of_model(entry)
        if subject and subject.model not in seen and (entry.path / "metrics.jsonl").is_file():
            seen.add(subject.model)
            text = (entry.path / "metrics.jsonl").read_text()
            yield entry, subject, [json.loads(line) for line in text.splitlines()]


def _kurtosis(gathered: Gathered) -> Iterator[Made]:
    ordered = sorted(logs(gathered), key=lambda one: (*one[1].model.order(), plain_last(one[1].model.gate)))
    found = [(e, s.model.title, kurtosis_series(log)) for e, s, log in ordered]
    found = [one for one in found if one[2]]
    for number in range(0, len(found), 4):
        some = found[number : number + 4]
        caption = "Kurtosis of attention outputs through training, on the same few utterances of the validation data."
        figure = kurtosis_growth({title: panels for _, title, panels in some})
        yield "growth", f"kurtosis-training-{number // 4 + 1}", caption, figure, [e for e, *_ in some]


def _gates(gathered: Gathered) -> Iterator[Made]:
    for number, (entry, subject, log) in enumerate(logs(gathered)):
        if panels := gate_series(log):
            caption = (
                f"Mean gate through training, by head where the log has it: {subject.model.title}; 1 at the start."
            )
            yield "growth", f"gates-{number + 1}", caption, gate_growth(subject.model.title, panels), [entry]


def _ranges(gathered: Gathered) -> Iterator[Made]:
    """Pairs of equal depth that differ in their gate; else the first two."""
    for number, pair in enumerate(calibrated_pairs(gathered)):
        titles = [subject.model.title for _, subject in pair]
        if len(set(titles)) < len(titles):
            titles = [f"{title}, {entry.name}" for title, (entry, _) in zip(titles, pair, strict=True)]
        models = {title: spans(e.json("ranges.json")) for title, (e, _) in zip(titles, pair, strict=True)}
        for block, figure in range_figures(models).items():
            caption = "Calibrated activation ranges by site and layer (bars), extremes of all batches (lines)."
            yield "ranges", f"ranges-{number + 1}-{block}", caption, figure, [e for e, _ in pair]


def calibrated_pairs(gathered: Gathered) -> list[list[tuple[Entry, Subject]]]:
    subjects = Subjects(gathered)
    found: dict[Model, tuple[Entry, Subject]] = {}
    for entry in gathered.of_kind("calibration"):
        subject = subjects.of_input(entry)
        if subject and (entry.path / "ranges.json").is_file():
            found.setdefault(subject.model, (entry, subject))
    models = list(found)
    alike = [
        sorted(two, key=lambda m: m.gate != "none")
        for two in combinations(models, 2)
        if (two[0].origin, two[0].depth) == (two[1].origin, two[1].depth)
    ]
    chosen = alike[:PAIRS] or [models[:2]]
    return [[found[m] for m in two] for two in chosen if two]


def _copied(gathered: Gathered, folder: Path) -> Iterator[ReportFigure]:
    """Each artifact's own figures, PNG and SVG together; of several seeds the first one's."""
    subjects, seen = Subjects(gathered), set()
    for entry in gathered.of_kind(*COPIED):
        subject = subjects.of_model(entry) if entry.kind == "quantized" else subjects.of_input(entry)
        what = (
            entry.kind,
            subject.model if subject else entry.sha256,
            entry.config.get("layer"),
            entry.config.get("massive"),
            entry.config.get("head"),
        )
        if what in seen:
            continue
        seen.add(what)
        section, caption = COPIED[entry.kind]
        present = [n for n in entry.results.get("figures", ()) if is_drawing(entry.path, n)]
        if missing := [str(n) for n in entry.results.get("figures", ()) if n not in present]:
            say(f"warning: {entry.name}: {', '.join(missing)} left out: not there, or more than a drawing")
        for stem in dict.fromkeys(Path(name).with_suffix("") for name in present):
            names = [n for n in present if Path(n).with_suffix("") == stem]
            content = tuple(entry.artifact.manifest["files"].get(n) for n in names)
            if content in seen:  # several site patterns may hold one site
                continue
            seen.add(content)
            copies = [f"{entry.anchor[2:10]}-{Path(n).name}" for n in names]
            for name, copy in zip(names, copies, strict=True):
                shutil.copyfile(entry.path / name, folder / copy)
            yield ReportFigure(section, f"{caption}: {stem.name}.", tuple(f"{FOLDER}/{c}" for c in copies), (entry,))
