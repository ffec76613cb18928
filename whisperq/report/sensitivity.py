"""What each part of a quantized model costs, as heat maps: layers downwards, components to the right.

A cell is the signal-to-noise ratio in dB of the logits with only this part quantized, or with all but this part.
Darker is worse, alike for the colour-blind and in grey. An empty cell is no part; one where nothing differs, whose
ratio is infinite, shows the sign.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from whisperq.report.figures import new_figure, save, style

COLOURS = "cividis"
EMPTY = "#E8E8E8"
CELL = 0.34, 0.2  # inches, width and height
TITLES = {"alone": "only this part quantized", "all_but": "all but this part quantized"}
# Columns of what lies around the blocks; `conv` is a convolution of the feature extractor, each a row.
FIRST, LAST = ("conv", "conv1", "conv2", "feature_proj", "pos_conv"), ("norm", "proj_out", "ctc_head")
PARTS = ("cnn", "enc", "dec")


def plot_sensitivity(parts: Mapping[str, Mapping[str, Any]], folder: Path) -> list[str]:
    """parts: name -> {"alone": {"snr_db": dB}, "all_but": ...}; the names of the PNG and SVG files."""
    names = []
    for state, title in TITLES.items():
        ratios = {name: part[state]["snr_db"] for name, part in parts.items()}
        names += save(heat_map(ratios, title), folder, f"sensitivity-{state.replace('_', '-')}")
    return names


def place(name: str) -> tuple[str, str]:
    """A part's row and column: `dec.0.cross.context` -> (dec.0, cross.context), `enc.norm` -> (enc, norm)."""
    if match := re.fullmatch(r"(cnn\.\d+)(:.+)?", name):
        return match[1], f"conv{match[2] or ''}"
    if match := re.fullmatch(r"((?:enc|dec)\.\d+)(?:\.(.+))?", name):
        column = match[2] or "attention"
        return match[1], "cross.attention" if column == "cross" else column
    if "." not in name:
        return ("dec" if name.startswith("proj_out") else "enc"), name
    row, column = name.split(".", 1)
    return row, column


def rows(names: Iterable[str]) -> list[str]:
    """Convolutions, encoder, decoder; of each first what lies around its blocks, then the layers in order."""
    found = {place(name)[0] for name in names}
    return sorted(found, key=lambda row: (PARTS.index(row[:3]), int(row[4:] or -1)))


def columns(names: Iterable[str]) -> list[str]:
    """Attention, cross-attention, feed-forward as computed; what lies around the blocks at either side."""

    def group(column: str) -> int:
        base = re.split("[.:]", column)[0]
        if base in (*FIRST, *LAST):
            return 0 if base in FIRST else 9
        return 1 + (2 if base in ("mlp", "mlp_norm", "fc1", "fc2", "mlp_sum") else base == "cross")

    found = dict.fromkeys(place(name)[1] for name in names)
    within = {c: i for i, c in enumerate(_ORDER)}
    return sorted(found, key=lambda c: (group(c), within.get(_component(c), 0), _KINDS.index(c.partition(":")[2])))


_KINDS = ("input", "", "weight")
_ORDER = (*FIRST, "attn_norm", "q_proj", "k_proj", "v_proj", "scores", "probs", "gate", "context", "out_proj",
         "attn_sum", "mlp_norm", "fc1", "fc2", "mlp_sum", *LAST)  # fmt: skip


def _component(column: str) -> str:
    return column.removeprefix("cross.").split(":")[0]


@style()
def heat_map(ratios: Mapping[str, float], title: str) -> Figure:
    """ratios: part -> SNR in dB, infinite where nothing differs."""
    down, across = rows(ratios), columns(ratios)
    grid = np.full((len(down), len(across)), np.nan)
    for name, ratio in ratios.items():
        row, column = place(name)
        grid[down.index(row), across.index(column)] = ratio
    finite = grid[np.isfinite(grid)]
    limits = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    size = CELL[0] * len(across) + 1.9, CELL[1] * len(down) + 1.5
    figure = new_figure(max(4.2, size[0]), size[1], layout="constrained")
    axes = figure.subplots()
    colours = axes.imshow(
        np.where(np.isinf(grid), limits[1], grid), COLOURS, vmin=limits[0], vmax=limits[1], aspect="auto"
    )
    axes.set_facecolor(EMPTY)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("component")
    axes.set_ylabel("layer")
    _labels(axes, down, across)
    _numbers(axes, grid, sum(limits) / 2)
    figure.colorbar(colours, ax=axes, label="SNR of the logits (dB)", shrink=0.9)
    return figure


def _labels(axes: Axes, down: Sequence[str], across: Sequence[str]) -> None:
    axes.set_yticks(range(len(down)), [row if "." in row else f"{row}, around" for row in down], fontsize=7)
    axes.set_xticks(range(len(across)), across, rotation=90, fontsize=7)
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(across) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(down) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)


def _numbers(axes: Axes, grid: np.ndarray, middle: float) -> None:
    """Write whole decibels into each cell, white on the dark half."""
    for (row, column), ratio in np.ndenumerate(grid):
        if not math.isnan(ratio):
            text = "\u221e" if math.isinf(ratio) else f"{ratio:.0f}"
            colour = "white" if ratio < middle else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
