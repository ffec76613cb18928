"""What `quantize` did about outliers, as tables: sites scaled, and massive channels on 16 bits."""

import math

from rich.table import Table

from whisperq.kinds.models import Massive, Quantized, Scaled
from whisperq.results.cells import figure, table

SHOWN = 8  # sites of a table; all are in the manifest


def eased_tables(results: Quantized) -> list[Table]:
    """Tables of scaled sites and of massive channels; empty where nothing was searched or found."""
    scaled, massive = results["scaled"], results["massive"]
    return [*([_scaled(scaled)] if scaled else []), *([_massive(massive, results)] if massive else [])]


def _scaled(scaled: dict[str, Scaled]) -> Table:
    """Table of scaled sites, those first whose layers' output improves most."""
    best = sorted(scaled, key=lambda site: scaled[site]["error"] / scaled[site]["error_before"])
    title = f"Channels scaled at {len(scaled)} sites, with the relative squared error of what their layers give out"
    result = table(title, "site", "#alpha", "#before", "#after")
    for site in best[:SHOWN]:
        one = scaled[site]
        result.add_row(site, f"{one['alpha']:g}", f"{one['error_before']:.2g}", f"{one['error']:.2g}")
    return result


def _massive(massive: dict[str, Massive], results: Quantized) -> Table:
    """Table of sites with massive channels.

    For the emulated recipe only the ratio of the greatest channel to the median one is known.
    """
    if (cost := results["extra_products"]) is None:
        result = table("Sites with massive channels, on 16 bits", "site", "#greatest over median channel")
        for site in sorted(massive, key=lambda s: -(massive[s]["ratio"] or math.inf))[:SHOWN]:
            result.add_row(site, figure(massive[site]["ratio"], 0))
        return result
    title = f"Massive channels on 16 bits at {len(massive)} sites, {100 * cost:.1f} % more integer products"
    result = table(title, "site", "#channels", "#% products", "#error saved")
    for site in sorted(massive, key=lambda s: -massive[s]["error_saved"])[:SHOWN]:
        one = massive[site]
        result.add_row(site, str(one["channels"]), f"{100 * one['products']:.2f}", f"{one['error_saved']:.2g}")
    return result
