"""How many bits each weight got, as bars: one panel for each part of the network, components side by side by layer.

A bar's height is the weight's bits, its colour too, from light (few) to dark (many): told apart by the colour-blind
and in grey. The line is the mean over all parameters.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from whisperq.report.figures import HIGHLIGHT, new_figure, save, style

COLOURS = "cividis_r"
WIDTH = 0.13  # inches of one bar
PANEL = 1.25  # inches of height
MOST = 75  # bars in a panel; longer parts are continued in the next


def plot_bits(layers: Sequence[Mapping[str, Any]], mean: float, folder: Path) -> list[str]:
    """layers: address, bits and parameters of each weight, in order; the names of the PNG and SVG files."""
    return save(bits_figure(layers, mean), folder, "bits")


def part(address: str) -> str:
    """enc.3.fc1 -> encoder; cnn.0, pos_conv, proj_out -> around the blocks."""
    match = re.match(r"(enc|dec)\.\d+\.", address)
    return {"enc": "encoder", "dec": "decoder"}[match[1]] if match else "around the blocks"


def panels(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Parts in the order of computation, none with more than MOST bars."""
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for layer in layers:
        parts.setdefault(part(layer["address"]), []).append(layer)
    return [(name, found[i : i + MOST]) for name, found in parts.items() for i in range(0, len(found), MOST)]


@style()
def bits_figure(layers: Sequence[Mapping[str, Any]], mean: float) -> Figure:
    """One row of bars for each panel, on a common scale."""
    rows = panels(layers)
    longest = max(len(found) for _, found in rows)
    figure = new_figure(max(4.5, WIDTH * longest + 1), PANEL * len(rows) + 1.2 * len(rows), layout="constrained")
    top = max(layer["bits"] for layer in layers)
    for axes, (name, found) in zip(figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True):
        _panel(axes, found, mean, top)
        axes.set_title(name, loc="left", fontweight="bold")
        axes.set_xlim(-1, longest)
    figure.suptitle(f"Bits of each weight, {mean:.2f} on average over parameters", x=0.01, ha="left", fontsize=10)
    return figure


def _panel(axes: Axes, layers: Sequence[Mapping[str, Any]], mean: float, top: int) -> None:
    colours = matplotlib.colormaps[COLOURS]
    bits = [layer["bits"] for layer in layers]
    axes.bar(range(len(bits)), bits, width=0.8, color=[colours(0.15 + 0.85 * (b - 2) / 6) for b in bits])
    axes.axhline(mean, color=HIGHLIGHT, linewidth=0.9, linestyle="--")
    for place, value in enumerate(bits):
        axes.annotate(str(value), (place, value), (0, 1), textcoords="offset points", ha="center", fontsize=5)
    axes.set_xticks(range(len(bits)), [layer["address"] for layer in layers], rotation=90, fontsize=5)
    axes.set_yticks(range(0, top + 1, 2))
    axes.set_ylim(0, top + 1)
    axes.set_ylabel("bits")
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right"]].set_visible(False)
