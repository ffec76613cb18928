"""Activation ranges of two models side by side: a panel for each component, layers to the right.

A bar reaches from the range's lower to its upper end, as calibrated; the whiskers to the extremes of all batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from whisperq.report.figures import MODEL_COLOURS, new_figure, shorten, style

ACROSS = 4
PANEL = 1.75, 1.5  # inches, width and height
BLOCKS = {"enc": "encoder", "dec": "decoder", "dec.cross": "decoder's cross-attention"}


@dataclass(frozen=True)
class Span:
    """One site's calibrated range, and the least and greatest value of any batch."""

    low: float
    high: float
    minimum: float
    maximum: float


Spans = Mapping[str, Span]  # by site


def spans(ranges: Mapping[str, Any]) -> dict[str, Span]:
    """Ranges and extremes by site, from ranges.json: the calibration's own observer, and the first of several bits."""
    found = {}
    for address, site in ranges["sites"].items():
        ends = site.get("range") or next(iter(site["ranges"].values()))
        low, high = next(iter(ends.values())) if isinstance(ends, dict) else ends
        found[address] = Span(low, high, min(site["minima"]), max(site["maxima"]))
    return found


def place(address: str) -> tuple[str, int, str] | None:
    """dec.1.cross.out_proj -> (dec.cross, 1, out_proj); None around the blocks."""
    part, _, rest = address.partition(".")
    layer, _, component = rest.partition(".")
    if part not in ("enc", "dec") or not layer.isdigit():
        return None
    cross = component.startswith("cross.")
    return f"{part}.cross" if cross else part, int(layer), component.removeprefix("cross.")


def range_figures(models: Mapping[str, Spans]) -> dict[str, Figure]:
    """One figure for each of encoder, decoder and cross-attention that any model has."""
    places = {p for of in models.values() for a in of if (p := place(a))}
    return {block: range_figure(block, models) for block in BLOCKS if any(p[0] == block for p in places)}


@style()
def range_figure(block: str, models: Mapping[str, Spans]) -> Figure:
    components = list(dict.fromkeys(p[2] for of in models.values() for a in of if (p := place(a)) and p[0] == block))
    across = min(ACROSS, len(components))
    down = -(-len(components) // across)
    figure = new_figure(max(3.6, PANEL[0] * across + 0.3), PANEL[1] * down + 0.9, layout="constrained")
    grid = figure.subplots(down, across, sharex=True, squeeze=False)
    for axes in grid.flat[len(components) :]:
        axes.set_visible(False)
    for i, component in enumerate(components):
        axes = grid.flat[i]
        for number, of in enumerate(models.values()):
            mine = {p[1]: span for a, span in of.items() if (p := place(a)) and p[0] == block and p[2] == component}
            _bars(axes, mine, number, len(models))
        axes.set_title(component, loc="left")
        axes.set_xlabel("layer", fontsize=6, labelpad=1)
        axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel("activation")
    handles = [axes_patch for axes_patch in grid[0, 0].containers if axes_patch.get_label()[0] != "_"]
    figure.legend(handles, [shorten(t, 45) for t in models], loc="outside lower left", frameon=False, ncols=1)
    figure.suptitle(f"Activation ranges, {BLOCKS[block]}", x=0.01, ha="left", fontsize=9, fontweight="bold")
    return figure


def _bars(axes: Axes, mine: Mapping[int, Span], number: int, count: int) -> None:
    """Draw the bars of model `number` of `count`, beside those of the others in each layer."""
    width = 0.8 / count
    at = [layer + (number - (count - 1) / 2) * width for layer in mine]
    some, colour = list(mine.values()), MODEL_COLOURS[number % len(MODEL_COLOURS)]
    axes.vlines(at, [s.minimum for s in some], [s.maximum for s in some], color="#555555", linewidth=0.5)
    heights, bottoms = [s.high - s.low for s in some], [s.low for s in some]
    axes.bar(at, heights, 0.85 * width, bottoms, color=colour, linewidth=0, label=f"model {number}", zorder=3)
    axes.axhline(0, color="black", linewidth=0.4, zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
