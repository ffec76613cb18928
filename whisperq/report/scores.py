"""Test sets' scores as tables, and the files that lie beside them."""

import re
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from whisperq.report.cells import figure, percent, table
from whisperq.runtimes import tells_products
from whisperq.scoring.measures import UNITS

ERRORS = ("substitutions", "deletions", "insertions", "hits")
COLUMNS = ("#sub", "#del", "#ins", "#hits")
RATES = {"wer": ("wer", "cer"), "cer": ("cer", "wer")}  # the measure, whose errors are counted, first


def evaluation(results: dict[str, Any]) -> list[Table]:
    """What eval prints."""
    where = f"{results['runtime']} on {results['device']}"
    found = [*scores(results, where), *speed(results, where)]
    return [*found, products(results)] if tells_products(results["runtime"]) else found


def scores(results: dict[str, Any], of: str = "") -> list[Table]:
    """One table for each normaliser, scorer and measure: their figures are never put together."""
    found = [_table(results["sets"], average, of) for average in results.get("averages") or _single(results["sets"])]
    if any(r.get("loops") for r in results["sets"].values()):
        found.append(_loops(results["sets"]))
    return found


def _single(sets: dict[str, Any]) -> list[dict[str, Any]]:
    """Each set by itself, of an evaluation from before there were averages."""
    return [{"normalizer": r["normalizer"], "scorer": "jiwer", "sets": [name]} for name, r in sets.items()]


def _table(sets: dict[str, Any], average: dict[str, Any], of: str) -> Table:
    measure = average.get("measure", "wer")
    first, second = RATES[measure]
    title = f"{UNITS[measure].capitalize()} errors"
    title = ", ".join(part for part in (title, of, f"normalizer {average['normalizer']}") if part)
    more = ("skipped",) if any("skipped" in sets[name] for name in average["sets"]) else ()
    rates = f"#{first.upper()}", "#95 % interval", f"#{second.upper()}"
    counted = *COLUMNS, f"#{UNITS[measure]}s", "#utterances", "#no reference", *(f"#{key}" for key in more), "#loops"
    result = table(f"{title}, scorer {average['scorer']}", "set", "group", *rates, *counted)
    for name in average["sets"]:
        r = sets[name]
        found = [r["character_errors"][key] for key in ERRORS] if measure == "cer" else [r.get(key) for key in ERRORS]
        keys = f"reference_{UNITS[measure]}s", "utterances", "empty_references", *more, "loops"
        counts = map(figure, [*found, *(r.get(key) for key in keys)])
        numbers = percent(r[first]), _interval(r, measure), percent(r.get(second))
        result.add_row(name, r.get("group") or "", *numbers, *counts)
    if len(average["sets"]) > 1:
        groups = [(f"mean over {group}", group, mean) for group, mean in average["groups"].items()]
        for title, group, mean in (("mean over sets", "", average), *groups):
            numbers = percent(mean[f"mean_{first}"]), "", percent(mean[f"mean_{second}"])
            result.add_row(title, group, *numbers)
    return result


def _interval(r: dict[str, Any], measure: str) -> str:
    low, high = r[f"{measure}_interval_95"]
    return "-" if low is None else f"{100 * low:.2f}-{100 * high:.2f}"


def _loops(sets: dict[str, Any]) -> Table:
    result = table("Hypotheses that run in circles", "set", "utterance", "said again and again", "#times")
    for name, r in sets.items():
        for one in r["looping"]:
            result.add_row(name, one["id"], one["ngram"], figure(one["times"]))
        if (more := r["loops"] - len(r["looping"])) > 0:
            result.add_row(name, f"and {more:,} more")
    return result


def speed(results: dict[str, Any], where: str) -> list[Table]:
    """RTFx over features, decoding and what lies between; where it was measured in parts, these too."""
    warm_up, peak = results.get("warm_up_seconds"), results.get("peak_memory_gib")
    title = f"Speed, {where}" + (f", after {warm_up:.1f} s of warming up" if warm_up is not None else "")
    title += f", at most {peak:.2f} GiB held" if peak is not None else ""
    result = table(title, "set", "#audio (s)", "#wall (s)", "#features (s)", "#decoding (s)", "#RTFx")
    for name, r in results["sets"].items():
        keys = ("audio_seconds", "wall_seconds", "features_seconds", "decoding_seconds", "rtfx")
        result.add_row(name, *(figure(r.get(key), 1) for key in keys))
    return [result]


def products(results: dict[str, Any]) -> Table:
    """How many matrix products ran in integers, and which did not: alike ones of all layers together."""
    integer, floating = results["integer_products"], results["float_products"]
    result = table(f"Matrix products: {integer} of {integer + len(floating)} in integers", "in float", "#", "why")
    groups: dict[tuple[str, str], int] = {}
    for address, why in floating.items():
        name = re.sub(r"\.\d+\.", ".*.", address)
        groups[name, why] = groups.get((name, why), 0) + 1
    for (name, why), count in groups.items():
        result.add_row(name, figure(count), why)
    return result


def confusion_tables(results: dict[str, Any]) -> list[Table]:
    """What was taken for what, of each set."""
    found = []
    for name, r in results["sets"].items():
        kinds = r["confusions"]
        rows = max(map(len, kinds.values()))
        one = table(f"Top confusions, {name}", "substituted", "#", "deleted", "#", "inserted", "#")
        for i in range(min(rows, 10)):
            one.add_row(
                *(cell for kind in ("substitutions", "deletions", "insertions") for cell in _cells(kinds[kind], i))
            )
        found += [one] if rows else []
    return found


def _cells(rows: Sequence[Sequence[Any]], i: int) -> list[str]:
    return [" -> ".join(rows[i][:-1]), figure(rows[i][-1])] if i < len(rows) else ["", ""]
