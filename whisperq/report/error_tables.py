"""The paper's Table 2: word error rates by set, numbers, gate and layers; and what each quantization costs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from whisperq.report.report_tables import Cell, Grid, grid
from whisperq.report.system_labels import FLOAT, as_columns, plain_last
from whisperq.report.word_errors import MeasuredSet, Rate, Rates, System, mean_rate
from whisperq.results.cells import signed, with_interval
from whisperq.scoring.measures import UNITS

Measured = Mapping[MeasuredSet, Rates]
NAMED = 3  # sets that a mean names
GROUPS = {"id": "in-distribution (ID)", "ood": "out-of-distribution (OOD)", None: ""}


def error_tables(measured: Measured) -> list[Grid]:
    """A table of rates and one of costs for each normaliser, scorer and measure, whose results are never mixed."""
    grids = []
    for number, rule in enumerate(dict.fromkeys(s.rule for s in measured)):
        some = {s: rates for s, rates in measured.items() if s.rule == rule}
        suffix = f"-{number + 1}" if number else ""
        grids += [rate_table(some, rule, f"table2{suffix}"), *cost_table(some, rule, f"costs{suffix}")]
    return grids


Line = tuple[str, str, int, Rates]  # group, set, reference words, rates


def lines(measured: Measured) -> Iterator[Line]:
    """Each set, then the means over each group's sets and over all of them."""
    for one, rates in measured.items():
        yield GROUPS.get(one.group, one.group or ""), one.title, one.words, rates
    groups = dict.fromkeys(s.group for s in measured)
    for group in groups if len(groups) > 1 else ():
        some = {s: rates for s, rates in measured.items() if s.group == group}
        yield from means(some, GROUPS.get(group, group or "") or "no group")
    yield from means(measured, "all")


def means(measured: Measured, group: str) -> Iterator[Line]:
    """Unweighted means over two or more test sets, of the systems that transcribed all of them."""
    for sets, rates in shared_sets(measured):
        names = [s.name for s in sets]
        if len(sets) > 1:
            title = f"mean of {', '.join(names)}" if len(sets) <= NAMED else f"mean of {len(sets)} sets"
            yield group, title, sum(s.words for s in sets), rates


def shared_sets(measured: Measured) -> Iterator[tuple[list[MeasuredSet], Rates]]:
    """Each collection of sets that is exactly what some system transcribed, with rates of all systems that have it.

    With the same seeds on every set: a mean of a set's three seeds and another's first one is a figure of neither.
    """
    transcribed: dict[System, list[MeasuredSet]] = {}
    for one, rates in measured.items():
        for system in rates:
            transcribed.setdefault(system, []).append(one)
    # Without systems that have two versions of one list.
    apart = (sets for sets in transcribed.values() if len({s.name for s in sets}) == len(sets))
    collections = {tuple(sets): sets for sets in apart}
    least = 1 if len(collections) == 1 else 2  # a system that alone has more sets is compared with none
    for sets in collections.values():
        heard_all = [system for system, heard in transcribed.items() if set(sets) <= set(heard)]
        systems = [s for s in heard_all if len({measured[one][s].seeds for one in sets}) == 1]
        if len(systems) >= least:
            yield sets, {system: mean_rate([measured[s][system] for s in sets]) for system in systems}


def rate_table(measured: Measured, rule: Sequence[str], stem: str) -> Grid:
    """Set x quantized x gate downwards, layers to the right; of sets with one measure."""
    measure = next(iter(measured)).measure
    systems = [system for rates in measured.values() for system in rates]
    depths = sorted({s.model.depth: s.model.layers for s in systems}.items(), reverse=True)
    rows, records = [], []
    for group, title, words, rates in lines(measured):
        best = distinguished(rates)
        for key in dict.fromkeys(_row(system) for system in rates):
            origin, _, numbers, gate, _ = key
            here = {s.model.depth: s for s in rates if _row(s) == key}
            cells = [_rate_cell(here.get(depth), rates, best) for depth, _ in depths]
            where = next(iter(here.values())).where(systems)
            rows.append((*map(Cell, (group, title, origin, numbers, where, gate)), *cells))
            records += [record(group, title, words, s, rates[s], measure) for s in here.values()]
    caption = (
        f"{measure.upper()} in %, normaliser {rule[0]}, scorer {rule[1]}, {_decoding(systems)}; below each its 95 % "
        "interval, over utterances (or the blocks they were recorded in) and seeds. Columns: encoder + decoder layers. "
        "Bold: of the gates in otherwise equal rows the best, where the paired interval of its difference from every "
        "other leaves out zero; of two seeds, or of fewer than 20 utterances or blocks, nothing is bold. Of one seed "
        "the interval is over utterances alone and does not know how another training would have come out; of several "
        "it is widened as Student's t is. A mean over sets is of systems that have the same seeds on each. Small "
        "numbers lead to the other seeds."
    )
    columns = ("group", "set", "model", "quantized", "device", "gate", *(f"#{layers} layers" for _, layers in depths))
    title = f"Table 2. {UNITS[measure].capitalize()} error rates, normaliser {rule[0]}"
    return grid(stem, (title, caption), columns, rows, 2, records=tuple(records))


def _decoding(systems: Iterable[System]) -> str:
    beams = any(s.startswith("beams") for system in systems for s in system.settings)
    return "greedy decoding but where beams are named" if beams else "greedy decoding"


def _row(system: System) -> tuple[str, bool, str, str, str]:
    return system.model.origin, system.model.numbers != FLOAT, system.numbers, system.model.gate, system.device


def _rate_cell(system: System | None, rates: Rates, best: set[System]) -> Cell:
    if system is None:
        return Cell("")
    rate = rates[system]
    note = "{:.2f}\u2013{:.2f}".format(*rate.interval) if rate.interval else ""
    return Cell(f"{rate.points:.2f}", note, rate.sources, system in best)


def distinguished(rates: Rates) -> set[System]:
    """The systems that are surely better than every other system that differs in its gate alone."""
    found = set()
    for system, rate in rates.items():
        rivals = [r for other, r in rates.items() if other != system and _but_gate(other) == _but_gate(system)]
        if rivals and all(rate.surely_below(rival) for rival in rivals):
            found.add(system)
    return found


def _but_gate(system: System) -> tuple:
    model = system.model
    return model.origin, model.depth, model.numbers, system.execution, system.device


def record(group: str, title: str, words: int, system: System, rate: Rate, measure: str) -> dict:
    low, high = rate.interval or ("", "")
    return {
        "group": group,
        "set": title,
        f"reference_{UNITS[measure]}s": words,
        **as_columns(system.model),
        "runtime": system.execution,
        "device": system.device,
        f"{measure}_percent": rate.points,
        "low_95": low,
        "high_95": high,
        "seeds": " ".join(map(str, rate.seeds)),
        "blocked_by": rate.blocked_by,
        "manifests": " ".join(e.name for e in rate.sources),
    }


def cost_table(measured: Measured, rule: Sequence[str], stem: str) -> list[Grid]:
    """Each quantized system against the float model of the same origin; none where there is no such pair."""
    measure = next(iter(measured)).measure
    systems = [system for rates in measured.values() for system in rates]
    rows, records = [], []
    for group, title, words, rates in lines(measured):
        for system, base in pairs(rates):
            rate, reference = rates[system], rates[base]
            points, low, high = rate.minus(reference)
            sure = rate.comparable(reference) and (low > 0 or high < 0)
            cells = (
                Cell(f"{reference.points:.2f}", sources=reference.sources),
                Cell(f"{rate.points:.2f}", sources=rate.sources),
                Cell(*with_interval(points, (low, high)), bold=sure) if rate.interval else Cell(signed(points)),
            )
            m = system.model
            words_of = group, title, m.origin, m.layers, m.gate, system.numbers, system.where(systems)
            rows.append((*map(Cell, words_of), *cells))
            ends = (low, high) if rate.interval else ("", "")
            difference = {"difference": points, "difference_low_95": ends[0], "difference_high_95": ends[1]}
            known = {f"float_{measure}_percent": reference.points} | difference
            records.append(record(group, title, words, system, rate, measure) | known)
    if not rows:
        return []
    caption = (
        f"{measure.upper()} in %, normaliser {rule[0]}, and the difference from the float model on the same "
        "utterances in points with its paired 95 % interval; bold where that leaves out zero, but never with two "
        "seeds, or fewer than 20 utterances or blocks. Both were decoded alike and on the same kind of device. An "
        "interval that includes zero does not prove equality: its upper end is what the integers may cost."
    )
    numbers = "#float", f"#quantized {measure.upper()}", "#difference"
    columns = ("group", "set", "model", "layers", "gate", "quantized", "device", *numbers)
    title = f"What quantization costs, normaliser {rule[0]}"
    return [grid(stem, (title, caption), columns, rows, 2, records=tuple(records))]


def pairs(rates: Rates) -> Iterable[tuple[System, System]]:
    """Quantized systems, and those of other runtimes, with their float ones, where both have the same seeds."""
    plain_at_last = sorted(filter(_is_float, rates), key=lambda s: -len(s.execution))
    floats = {_but_precision(s): s for s in plain_at_last}
    ordered = sorted(rates, key=lambda s: (*s.model.order()[:3], plain_last(s.model.gate), s.numbers))
    for system in ordered:
        base = floats.get(_but_precision(system))
        if base and not _is_float(system) and rates[base].seeds == rates[system].seeds:
            yield system, base


def _is_float(system: System) -> bool:
    return system.model.numbers == FLOAT and system.runtime == FLOAT


def _but_precision(system: System) -> tuple:
    """Key that a quantized system shares with its float one; beams and device belong to it, so they add no costs."""
    model = system.model
    return model.origin, model.depth, model.gate, system.settings, system.device
