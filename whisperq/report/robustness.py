"""What quantizing breaks beside words, as a printed table and as a report's section."""

from typing import Any, Literal

from rich.table import Table

from whisperq.kinds.comparisons import Robustness, Symptom
from whisperq.kinds.scores import RangeEnds
from whisperq.report.gathering import Entry, Gathered
from whisperq.report.report_tables import Cell, Grid, grid
from whisperq.results.cells import in_brackets, table, with_interval
from whisperq.results.comparisons import p_value

TITLES = {
    "words": "words where nobody speaks",
    "empty": "no word in speech",
    "loops": "loops",
    "backwards": "times that go backwards",
}


def robustness_tables(results: Robustness) -> list[Table]:
    """One table; A is the float model."""
    a, b = results["a"]["runtime"], results["b"]["runtime"]
    title = f"Beside word errors, A {a}, B {b}, normalizer {results['normalizer']}"
    columns = ("recordings", "#A", "#B", "#only A", "#only B", "#B - A (points)", "#95 % interval", "#p", "#words")
    found = table(title, "symptom", *columns)
    for row in results["symptoms"]:
        counts = [f"{count} of {row['total']}" for count in (row["count_a"], row["count_b"])]
        only = [str(row["pairs"][key]) for key in ("first", "second")]
        cells = (*counts, *only, *points(row), p_value(row["p"]))
        found.add_row(TITLES.get(row["symptom"], row["symptom"]), row["recordings"], *cells, words(row))
    return [found]


def points(row: Symptom) -> tuple[str, str]:
    """How much more often it happened with B, in points, and the interval."""
    low, high = row["difference_interval_95"]
    return with_interval(100 * row["difference"], (100 * low, 100 * high), digits=1)


def words(row: Symptom) -> str:
    """Words of A and of B, and how many more or fewer B has in a recording, with the interval."""
    if "words_a" not in row:
        return ""
    change = in_brackets(row["words_change"], row["words_interval_95"])
    return f"{row['words_a']:,} and {row['words_b']:,}; {change} each"


CAPTION = (
    "Recordings to which it happened, in percent of all with Wilson's 95 % interval; the difference in points with "
    "Newcombe's for pairs, and McNemar's exact p. Silence, noise (also voices played backwards) and music are made by "
    "whisperq; a test set's recording whose reference has no word is one without speech, too. Float and quantized "
    "model transcribed the same recordings greedily; that times do not fall is a rule of the decoding, counted here to "
    "see that it holds. Words: all in the transcripts, and the difference in a recording."
)


def robustness_grids(gathered: Gathered) -> list[Grid]:
    """One for all models; none where nobody ran `robustness`."""
    rows, records = [], []
    for entry in gathered.of_kind("robustness"):
        for found in entry.results["symptoms"]:
            rows.append(_row(entry, found))
            records.append(_record(entry, found))
    if not rows:
        return []
    columns = ("model", "symptom", "recordings", "#number", "#float", "#quantized", "#difference", "#p", "#words")
    return [grid("robustness", ("Beside word errors", CAPTION), columns, rows, 1, records=tuple(records))]


def _row(entry: Entry[Robustness], found: Symptom) -> tuple[Cell, ...]:
    low, high = found["difference_interval_95"]
    title = (_name(entry), TITLES.get(found["symptom"], found["symptom"]), found["recordings"], f"{found['total']:,}")
    change = Cell(*points(found), bold=low > 0 or high < 0)
    return (
        *map(Cell, title),
        _rate(entry, found["count_a"] / found["total"], found["interval_95_a"]),
        _rate(entry, found["count_b"] / found["total"], found["interval_95_b"]),
        change,
        Cell(p_value(found["p"])),
        Cell(words(found)),
    )


def _rate(entry: Entry, rate: float, interval: RangeEnds) -> Cell:
    low, high = (100 * end for end in interval)
    return Cell(f"{100 * rate:.1f}", f"{low:.1f}\u2013{high:.1f}", (entry,))


def _name(entry: Entry[Robustness]) -> str:
    return f"{entry.name}, {entry.results['b']['runtime']}"


def _record(entry: Entry[Robustness], found: Symptom) -> dict[str, Any]:
    plain = {key: value for key, value in found.items() if not isinstance(value, list | dict)}
    keys: tuple[Literal["interval_95_a", "interval_95_b", "difference_interval_95"], ...]
    keys = ("interval_95_a", "interval_95_b", "difference_interval_95")
    ends = {key: found[key] for key in keys}
    flat = {
        f"{key}_{end}": value for key, pair in ends.items() for end, value in zip(("low", "high"), pair, strict=True)
    }
    return {"model": _name(entry), **plain, **flat, "manifest": entry.name}
