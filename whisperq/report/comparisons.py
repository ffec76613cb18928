"""Two systems on the same test sets: the verdicts as tables."""

from typing import Any

from rich.table import Table
from rich.text import Text

from whisperq.report.cells import figure, percent, table


def comparison(results: dict[str, Any]) -> list[Table]:
    """One table for each normaliser and scorer, and one of matched pairs."""
    names = list(results["sets"])
    kinds = dict.fromkeys((r["normalizer"], r["scorer"]) for r in results["sets"].values())
    found = [_differences(results, kind) for kind in kinds]
    pairs = table("Matched pairs sentence segment word errors", "set", "#segments", "#mean B - A", "#z", "#p")
    for name in names:
        m = results["sets"][name]["matched_pairs"]
        pairs.add_row(Text(name), figure(m["segments"]), figure(m["mean"], 3), figure(m["z"]), p_value(m["p"]))
    return [*found, pairs]


def _differences(results: dict[str, Any], kind: tuple[str, str]) -> Table:
    normalizer, scorer = kind
    title = f"A {results['a']}, B {results['b']}, normalizer {normalizer}, scorer {scorer}"
    columns = ("#WER A", "#WER B", "#B - A", "#95 % interval", "#p", "#words", "resampled by", "verdict")
    result = table(title, "set", *columns)
    for name, r in results["sets"].items():
        if (r["normalizer"], r["scorer"]) == kind:
            blocks = f"{r['blocks']:,} {r['blocked_by']}s"
            words = figure(r["reference_words"])
            result.add_row(Text(name), *_figures(r), words, blocks, Text(sentence(r, results["margin"])))
    for mean in results["means"]:
        if (mean["normalizer"], mean["scorer"]) == kind:
            verdict = Text(sentence(mean, results["margin"]))
            result.add_row(
                "mean over sets", *_figures(mean), figure(mean["reference_words"]), "each set's own", verdict
            )
    return result


def _figures(r: dict[str, Any]) -> list[str]:
    low, high = r["interval_95"]
    signed = f"{r['difference']:+.2f}"
    return [percent(r["wer_a"]), percent(r["wer_b"]), signed, f"{low:+.2f} to {high:+.2f}", p_value(r["p"])]


def sentence(r: dict[str, Any], margin: float) -> str:
    """The verdict in words; differences are percentage points of WER."""
    words, blocks = f"{r['reference_words']:,} words", f"{r.get('blocks', 0):,} {r.get('blocked_by', 'block')}s"
    few = "" if r["enough_blocks"] else "; too few blocks" if "blocks" not in r else f"; {blocks} are few"
    if r["verdict"] == "undecided":
        wanted = r["words_needed"]
        return f"undecided at {words}" + (f"; about {wanted:,} might tell" if wanted and not few else few)
    few = few or ("" if r["enough_words"] else f"; {words} are few")
    return (
        r["verdict"] + (f" within {margin:g} points" if r["within_margin"] and r["verdict"] != "better" else "") + few
    )


def p_value(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
