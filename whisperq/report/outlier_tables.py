"""The paper's Table 1: average kurtosis and infinity norm by layers and gate."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from whisperq.jobs.progress import say
from whisperq.kinds.observations import ObservedOutliers, Outliers, of_roles
from whisperq.report.gathering import Entry, Gathered
from whisperq.report.report_tables import Cell, Grid
from whisperq.report.seed_statistics import seeds_cell
from whisperq.report.system_labels import Model, Subjects, as_columns, observed_sites, plain_last, told

Figure = Literal["kurtosis", "max_inf_norm"]
FIGURES: dict[Figure, str] = {"kurtosis": "average kurtosis", "max_inf_norm": "infinity norm"}
RECORDED = ("kurtosis", "max_inf_norm", "peak", "outliers", "values")


@dataclass(frozen=True)
class Condition:
    """What the figures depend on beside the model: only equal ones are compared."""

    sites: str  # the pattern; the sites themselves differ with the depth
    data: str  # its hash: one list may lie in several places
    padding: str
    utterances: int
    told: str  # number format, language and task, where they are not the usual ones


@dataclass(frozen=True)
class Observed:
    model: Model
    seed: int | None
    entry: Entry
    figures: ObservedOutliers


def outlier_tables(gathered: Gathered) -> list[Grid]:
    """One table for each condition."""
    conditions: dict[Condition, dict[tuple[Model, int | None], Observed]] = {}
    subjects = Subjects(gathered)
    for entry in gathered.of_kind("outliers"):
        for one in observed(entry, subjects):
            alike = conditions.setdefault(_condition(entry), {})
            if (other := alike.get((one.model, one.seed))) and other.figures != one.figures:
                say(f"notice: the outliers of {other.entry.name} are left out: {entry.name} is the same again")
            alike[one.model, one.seed] = one
    found = sorted(conditions.items(), key=lambda item: item[0].sites != "attention outputs")
    return [_grid(c, list(o.values()), f"table1{f'-{n + 1}' if n else ''}") for n, (c, o) in enumerate(found)]


def observed(entry: Entry[Outliers], subjects: Subjects) -> Iterable[Observed]:
    """The model and the one it was compared with."""
    for role, figures in of_roles(entry.results).items():
        if subject := subjects.of_input(entry, role):
            yield Observed(subject.model, subject.seed, entry, figures)


def _condition(entry: Entry[Outliers]) -> Condition:
    data, results = entry.artifact.inputs["data"]["sha256"], entry.results
    return Condition(observed_sites(entry), data, results["padding"], results["utterances"], ", ".join(told(entry)))


def _grid(condition: Condition, found: Sequence[Observed], stem: str) -> Grid:
    models = sorted({o.model for o in found}, key=lambda m: (*m.order(), plain_last(m.gate)))
    of = {model: sorted((o for o in found if o.model == model), key=lambda o: o.seed or 0) for model in models}
    rows, records = [], []
    for model, some in of.items():
        rivals = [other for m, other in of.items() if m != model and _but_gate(m) == _but_gate(model)]
        sources = [o.entry for o in some]
        cells = [seeds_cell(_values(key, some), [_values(key, r) for r in rivals], sources) for key in FIGURES]
        count = Cell(f"{len(some[0].figures['sites'])}")
        rows.append((Cell(model.origin), Cell(model.layers), Cell(model.gate), Cell(model.numbers), *cells, count))
        records += [_record(condition, o) for o in some]
    heard = (f"Sites: {condition.sites}", condition.padding, f"{condition.utterances:,} utterances", condition.told)
    caption = (
        f"{'; '.join(filter(None, heard))}. Kurtosis is 3 for a Gaussian, averaged over utterances, then sites; the "
        "infinity norm is averaged over utterances, the largest of the sites is printed. The interval (95 %, Student's "
        "t) is over seeds; one seed has none, and nothing is bold then. Bold: the lower figure of rows that differ in "
        "their gate alone, where the paired interval of the difference over seeds leaves out zero."
    )
    columns = ("model", "layers", "gate", "quantized", *(f"#{title}" for title in FIGURES.values()), "#sites")
    first = "Table 1. " if condition.sites == "attention outputs" else ""
    title = f"{first}Outliers by layers and gate, {condition.sites}"
    return Grid(stem, title, caption, columns, tuple(rows), tuple(records))


def _but_gate(model: Model) -> tuple:
    return model.origin, model.depth, model.numbers


def _values(key: Figure, some: Sequence[Observed]) -> dict[int | None, float]:
    return {o.seed: value for o in some if (value := o.figures[key]) is not None}


def _record(condition: Condition, one: Observed) -> dict[str, Any]:
    return {
        "sites": condition.sites,
        "data": one.entry.artifact.inputs["data"]["path"],
        "utterances": condition.utterances,
        **as_columns(one.model),
        "seed": one.seed,
        **{name: value for name, value in one.figures.items() if name in RECORDED},
        "manifests": one.entry.name,
    }
