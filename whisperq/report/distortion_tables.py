"""How far quantized models' teacher-forced outputs are from their float ones, where a word error rate sees nothing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whisperq.jobs.progress import say
from whisperq.kinds.observations import Sensitivity
from whisperq.report.gathering import Entry, Gathered
from whisperq.report.report_tables import Cell, Grid, grid
from whisperq.report.seed_statistics import seeds_cell
from whisperq.report.system_labels import Model, Subjects, as_columns, plain_last, told


@dataclass(frozen=True)
class Distorted:
    """One quantized model: of which seed, and its logits' distance from the float model's."""

    model: Model
    seed: int | None
    entry: Entry[Sensitivity]
    kl: float  # nats per token
    snr: float  # dB; infinite where nothing differs

    @property
    def condition(self) -> tuple[str, int, str]:
        """The data's hash, tokens, and what the command was told: only equal ones are compared."""
        entry = self.entry
        return entry.artifact.inputs["data"]["sha256"], entry.results["tokens"], ", ".join(told(entry))

    @property
    def heard(self) -> str:
        """Number of tokens, and what the command was told, in words."""
        _, tokens, how = self.condition
        return ", ".join(filter(None, (f"{tokens:,} tokens", how)))


def distorted(gathered: Gathered) -> list[Distorted]:
    """What `sensitivity` measured of whole models."""
    subjects = Subjects(gathered)
    found: dict[tuple, Distorted] = {}
    for entry in gathered.of_kind("sensitivity"):
        subject, whole = subjects.of_input(entry), entry.results["everything"]
        if subject and whole["kl"] is not None:
            snr = math.inf if whole["snr_db"] is None else whole["snr_db"]  # JSON knows no infinity
            one = Distorted(subject.model, subject.seed, entry, whole["kl"], snr)
            place = one.model, one.seed, one.condition
            if (other := found.get(place)) and (other.kl, other.snr) != (one.kl, one.snr):
                say(f"notice: the distortion of {other.entry.name} is left out: {entry.name} is the same again")
            found[place] = one
    return list(found.values())


def distortion_tables(found: Sequence[Distorted]) -> list[Grid]:
    """One for each condition."""
    return [_grid(some, f"distortion{f'-{n + 1}' if n else ''}") for n, some in enumerate(by_condition(found))]


def by_condition(found: Sequence[Distorted]) -> list[list[Distorted]]:
    """What can be compared with one another: results on the same tokens of the same data."""
    return [[d for d in found if d.condition == condition] for condition in dict.fromkeys(d.condition for d in found)]


def _grid(found: Sequence[Distorted], stem: str) -> Grid:
    models = sorted({d.model for d in found}, key=lambda m: (*m.order(), plain_last(m.gate)))
    rows = [_row(model, found) for model in models]
    caption = (
        f"Teacher-forced outputs of {found[0].heard}, quantized against float: KL divergence in thousandths of a nat "
        "per token, the geometric mean of the seeds, and signal-to-noise ratio of the logits in dB. The interval "
        "(95 %, Student's t, of KL in logarithms) is over seeds. Bold: the least KL of rows that differ in their gate "
        "alone, where the paired interval of the difference over seeds leaves out zero."
    )
    columns = ("model", "layers", "gate", "quantized", "#KL (mnat)", "#SNR (dB)")
    records = tuple(_record(d) for d in sorted(found, key=lambda d: (models.index(d.model), d.seed or 0)))
    title = "What quantization does to the outputs"
    return grid(stem, (title, caption), columns, rows, 0, records=records)


def _row(model: Model, found: Sequence[Distorted]) -> tuple[Cell, ...]:
    some = _of(model, found)
    gates = {d.model for d in found if d.model != model and _but_gate(d.model) == _but_gate(model)}
    sources = [d.entry for d in some]
    kl = seeds_cell(log_kl(some), [log_kl(_of(m, found)) for m in gates], sources, _millinats)
    snr = seeds_cell({d.seed: d.snr for d in some if math.isfinite(d.snr)}, (), sources, "{:.1f}".format)
    return Cell(model.origin), Cell(model.layers), Cell(model.gate), Cell(model.numbers), kl, snr


def _of(model: Model, found: Sequence[Distorted]) -> list[Distorted]:
    return sorted((d for d in found if d.model == model), key=lambda d: d.seed or 0)


def log_kl(some: Iterable[Distorted]) -> dict[int | None, float]:
    """Seed -> log KL, of the models whose outputs differ from the float model's at all."""
    return {d.seed: math.log(d.kl) for d in some if d.kl > 0}


def _millinats(log_kl: float) -> str:
    return f"{1000 * math.exp(log_kl):.3g}"


def _but_gate(model: Model) -> tuple:
    return model.origin, model.depth, model.numbers


def _record(one: Distorted) -> dict:
    return {
        "data": one.entry.artifact.inputs["data"]["path"],
        "tokens": one.condition[1],
        **as_columns(one.model),
        "seed": one.seed,
        "kl_nats": one.kl,
        "snr_db": one.snr,
        "manifests": one.entry.name,
    }
