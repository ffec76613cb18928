"""Test sets' scores as tables, and the files that lie beside them."""

import re
from collections.abc import Sequence
from typing import Literal

from rich.table import Table

from whisperq.kinds.scores import (
    Average,
    CharacterErrors,
    Evaluation,
    Means,
    Measure,
    Products,
    Scores,
    SetScores,
    ranked,
)
from whisperq.results.cells import figure, percent, table
from whisperq.runtimes import tells_products
from whisperq.scoring.measures import UNITS

ERRORS: tuple[Literal["substitutions", "deletions", "insertions", "hits"], ...]
ERRORS = ("substitutions", "deletions", "insertions", "hits")
COLUMNS = ("#sub", "#del", "#ins", "#hits")
MORE: tuple[Literal["skipped", "cut_short"], ...] = ("skipped", "cut_short")  # where they were counted
# The measure, whose errors are counted, first.
RATES: dict[Measure, tuple[Measure, Measure]] = {"wer": ("wer", "cer"), "cer": ("cer", "wer")}
MEANS: dict[Measure, Literal["mean_wer", "mean_cer"]] = {"wer": "mean_wer", "cer": "mean_cer"}


def evaluation(results: Evaluation) -> list[Table]:
    """Tables that eval prints."""
    where = f"{results['runtime']} on {results['device']}"
    found = [*scores(results, where), *speed(results, where)]
    return [*found, products(results)] if tells_products(results["runtime"]) else found


def scores(results: Scores, of: str = "") -> list[Table]:
    """One table for each normaliser, scorer and measure: their figures are never put together."""
    found = [_table(results["sets"], average, of) for average in results["averages"]]
    if any(r["loops"] for r in results["sets"].values()):
        found.append(_loops(results["sets"]))
    if any(r.get("cut_short") for r in results["sets"].values()):
        found.append(_cut_short(results["sets"]))
    return found


def _table(sets: dict[str, SetScores], average: Average, of: str) -> Table:
    measure = average["measure"]
    first, second = RATES[measure]
    title = f"{UNITS[measure].capitalize()} errors"
    title = ", ".join(part for part in (title, of, f"normalizer {average['normalizer']}") if part)
    more = [key for key in MORE if any(key in sets[name] for name in average["sets"])]
    rates = f"#{first.upper()}", "#95 % interval", f"#{second.upper()}"
    counted = (
        *COLUMNS,
        f"#{UNITS[measure]}s",
        "#utterances",
        "#no reference",
        *(f"#{key.replace('_', ' ')}" for key in more),
        "#loops",
    )
    result = table(f"{title}, scorer {average['scorer']}", "set", "group", *rates, *counted)
    for name in average["sets"]:
        r = sets[name]
        errors: SetScores | CharacterErrors = r["character_errors"] if measure == "cer" else r
        units = r["reference_characters"] if measure == "cer" else r["reference_words"]
        more_counts = [r.get(key) for key in more]
        counts = [*(errors[key] for key in ERRORS), units, r["utterances"], r["empty_references"], *more_counts]
        numbers = percent(r[first]), _interval(r, measure), percent(r.get(second))
        result.add_row(name, r["group"] or "", *numbers, *map(figure, [*counts, r["loops"]]))
    if len(average["sets"]) > 1:
        means: list[tuple[str, str, Means]] = [("mean over sets", "", average)]
        means += [(f"mean over {group}", group, mean) for group, mean in average["groups"].items()]
        for title, group, mean in means:
            result.add_row(title, group, percent(mean[MEANS[first]]), "", percent(mean[MEANS[second]]))
    return result


def _interval(r: SetScores, measure: Measure) -> str:
    low, high = r["wer_interval_95"] if measure == "wer" else r["cer_interval_95"]
    return "-" if low is None or high is None else f"{100 * low:.2f}-{100 * high:.2f}"


def _loops(sets: dict[str, SetScores]) -> Table:
    result = table("Hypotheses that run in circles", "set", "utterance", "said again and again", "#times")
    for name, r in sets.items():
        for one in r["looping"]:
            result.add_row(name, one["id"], one["ngram"], figure(one["times"]))
        if (more := (r["loops"] or 0) - len(r["looping"])) > 0:
            result.add_row(name, f"and {more:,} more")
    return result


def _cut_short(sets: dict[str, SetScores]) -> Table:
    result = table("Hypotheses cut short", "set", "utterance")
    for name, r in sets.items():
        for one in r.get("cut", []):
            result.add_row(name, one)
        if (more := r.get("cut_short", 0) - len(r.get("cut", []))) > 0:
            result.add_row(name, f"and {more:,} more")
    return result


def speed(results: Evaluation, where: str) -> list[Table]:
    """RTFx over features, decoding and what lies between; where it was measured in parts, these too."""
    warm_up, peak = results["warm_up_seconds"], results["peak_memory_gib"]
    title = f"Speed, {where}" + (f", after {warm_up:.1f} s of warming up" if warm_up is not None else "")
    title += f", at most {peak:.2f} GiB held" if peak is not None else ""
    result = table(title, "set", "#audio (s)", "#wall (s)", "#features (s)", "#decoding (s)", "#RTFx")
    for name, r in results["sets"].items():
        keys = ("audio_seconds", "wall_seconds", "features_seconds", "decoding_seconds", "rtfx")
        result.add_row(name, *(figure(r.get(key), 1) for key in keys))
    return [result]


def products(results: Products) -> Table:
    """Table of matrix products that ran in float, with reasons, those alike of all layers in one line."""
    integer, floating = results["integer_products"], results["float_products"]
    result = table(f"Matrix products: {integer} of {integer + len(floating)} in integers", "in float", "#", "why")
    groups: dict[tuple[str, str], int] = {}
    for address, why in floating.items():
        name = re.sub(r"\.\d+\.", ".*.", address)
        groups[name, why] = groups.get((name, why), 0) + 1
    for (name, why), count in groups.items():
        result.add_row(name, figure(count), why)
    return result


def confusion_tables(results: Scores) -> list[Table]:
    """Tables of the most frequent confusions of each set."""
    found = []
    for name, r in results["sets"].items():
        kinds = ranked(r["confusions"])
        rows = max(map(len, kinds.values()))
        one = table(f"Top confusions, {name}", "substituted", "#", "deleted", "#", "inserted", "#")
        for i in range(min(rows, 10)):
            one.add_row(*(cell for found_of_kind in kinds.values() for cell in _cells(found_of_kind, i)))
        found += [one] if rows else []
    return found


def _cells(rows: Sequence[tuple[list[str], int]], i: int) -> list[str]:
    return [" -> ".join(rows[i][0]), figure(rows[i][1])] if i < len(rows) else ["", ""]
