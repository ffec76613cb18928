"""Two systems on the same test sets: the verdicts as tables."""

from rich.table import Table

from whisperq.kinds.comparisons import Comparison, Verdict, rates_of, reference_units
from whisperq.kinds.scores import Measure
from whisperq.results.cells import figure, percent, table, with_interval
from whisperq.scoring.measures import UNITS, rule_of


def comparison(results: Comparison) -> list[Table]:
    """One table for each normaliser, scorer and measure, and one of matched pairs."""
    names = list(results["sets"])
    rules = dict.fromkeys(map(rule_of, results["sets"].values()))
    found = [_differences(results, rule) for rule in rules]
    pairs = table("Matched pairs sentence segment errors", "set", "#segments", "#mean B - A", "#z", "#p")
    for name in names:
        m = results["sets"][name]["matched_pairs"]
        few = m["p"] is not None and not m.get("enough_segments", True)  # for z to be a normal distribution's
        p = p_value(m["p"]) + ("; few segments" if few else "")
        pairs.add_row(name, figure(m["segments"]), figure(m["mean"], 3), figure(m["z"]), p)
    return [*found, pairs]


def _differences(results: Comparison, rule: tuple[str, str, Measure]) -> Table:
    normalizer, scorer, measure = rule
    rate, unit = measure.upper(), UNITS[measure]
    title = f"A {results['a']}, B {results['b']}, normalizer {normalizer}, scorer {scorer}"
    columns = (f"#{rate} A", f"#{rate} B", "#B - A", "#95 % interval", "#p", f"#{unit}s", "resampled by", "verdict")
    result = table(title, "set", *columns)
    for name, r in results["sets"].items():
        if rule_of(r) == rule:
            blocks = f"{r['blocks']:,} {r['blocked_by']}s"
            words = figure(reference_units(r))
            result.add_row(name, *_figures(r), words, blocks, sentence(r, results["margin"]))
    for mean in results["means"]:
        if rule_of(mean) == rule:
            verdict = sentence(mean, results["margin"])
            result.add_row("mean over sets", *_figures(mean), figure(reference_units(mean)), "each set's own", verdict)
    return result


def _figures(r: Verdict) -> list[str]:
    return [*map(percent, rates_of(r)), *with_interval(r["difference"], r["interval_95"]), p_value(r["p"])]


def sentence(r: Verdict, margin: float) -> str:
    """The verdict in words; differences are percentage points of WER or CER."""
    unit = UNITS[r["measure"]]
    words, blocks = f"{reference_units(r):,} {unit}s", f"{r.get('blocks', 0):,} {r.get('blocked_by', 'block')}s"
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
