"""What `outliers` prints: statistics by rows of each role, top dimensions, and the largest values where asked for."""

from rich.table import Table

from whisperq.kinds.observations import MassiveValues, OutlierFigures, Outliers, of_roles
from whisperq.results.cells import figure, table

TOP_SITES = 12


def outliers(results: Outliers) -> list[Table]:
    top = table("Top dimensions", "model", "site", "dimension: share of the site's outliers")
    for title, sites in results["top_dimensions"].items():
        for address, dimensions in list(sites.items())[:TOP_SITES]:
            shares = ", ".join(f"{d}: {100 * s:.1f} %" for d, _, s in dimensions[:5])
            top.add_row(title, address, shares or "none")
    listed = table("Sites", "these figures depend on this list")
    listed.add_row(", ".join(results["model"]["sites"]))
    massive = [massive_table(title, found, results["utterances"]) for title, found in results["massive"].items()]
    return [_summary(results), top, *massive, listed]


def _summary(results: Outliers) -> Table:
    """Table of outliers over all rows, and over the rows of each role."""
    summary = table(
        f"Outliers beyond six standard deviations ({results['padding']})",
        "model", "rows", "#average kurtosis", "#max inf norm", "#peak", "#outliers", "#per million", "#sites",
    )  # fmt: skip
    for role, found in of_roles(results).items():
        every: dict[str, OutlierFigures] = {"all": found, **found["roles"]}
        for rows, r in every.items():
            rate = 1e6 * r["outliers"] / r["values"]
            cells = [r["kurtosis"], r["max_inf_norm"], r["peak"], r["outliers"], rate, len(r["sites"])]
            summary.add_row(results["titles"][role], rows, *map(figure, cells))
    return summary


def massive_table(title: str, found: MassiveValues, utterances: int) -> Table:
    """The largest values, of the sites that `scoring.by_role.largest_values` has chosen."""
    many = f"{found['massive_channels']} channels at {found['massive_sites']} of {found['sites']} sites"
    counted = many if found["massive_sites"] else f"none at {found['sites']} sites"
    result = table(
        f"Massive values of {title}: {counted}",
        "site", "#channel", "#value", "rows", "#position", "token", "#x median", "#x deviation", "massive", "largest",
    )  # fmt: skip
    for peak in found["largest"]:
        result.add_row(
            peak["site"], str(peak["channel"]), figure(peak["value"], 1), peak["role"], str(peak["position"]),
            peak["token"] or "", _times(peak["times_median"]), _times(peak["times_deviation"]),
            f"{peak['massive_in']} of {utterances}", f"{peak['largest_in']} of {utterances}",
        )  # fmt: skip
    least = found["definition"]
    result.caption = (
        f"Massive: magnitude above {least['magnitude']} and at least {least['times_median']:,} times the median of the "
        "utterance's tensor (-: that is zero). Of each site that has a value of that magnitude the largest massive one "
        "or, where none is massive, the largest; in how many utterances its channel is massive in rows of that role, "
        "and in how many it holds the site's largest."
    )
    result.caption_justify = "left"
    return result


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:,.0f}"
