"""Which hidden dimensions hold a tensor's outliers (the paper's Figure 2); how figures are styled and saved.

    share of dimension j = 100 * outliers in j / outliers of the tensor     (%)

A statistics dictionary is what `scoring.outliers.TensorStatistics.as_dict` returns, with None for NaN.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import AutoMinorLocator, LogLocator, NullLocator

from whisperq.names import printable

Statistics = Mapping[str, Any]

MAX_INDIVIDUAL = 12  # sites; beyond it only the worst are drawn one by one
WORST = 4
HEADROOM = 1.25  # of the highest bar, for the labels
LINE = 0.056  # of the highest bar: a label's height
LOG_ABOVE = 30  # kurtosis; outlier-ridden sites reach thousands and would flatten all others
DPI = 200

# Okabe and Ito's colours: told apart by the colour-blind, and in grey on paper
HIGHLIGHT, OTHERS = "#D55E00", "#9A9A9A"
MODEL_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")

_STYLE = {
    "svg.fonttype": "none",  # text stays text: searchable, and readable where the PNG lacks a glyph
    "svg.hashsalt": "whisperq",  # equal input, equal file
    "text.parse_math": False,  # tokens and model names may hold dollar signs
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
_FALLBACK_FONTS = ("Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari")
# where a label may go, in its own widths and heights, nearest first; it is 2.5 times as wide as high
_OFFSETS = sorted(
    ((0.55 * across, up) for across in range(-4, 5) for up in range(20)),
    key=lambda offset: (2.5 * offset[0]) ** 2 + offset[1] ** 2,
)


@contextmanager
def style() -> Iterator[None]:
    """Our settings while a figure is built or saved; the caller's matplotlib stays as it was."""
    installed = set(font_manager.get_font_names())
    family = ["DejaVu Sans", *(f for f in _FALLBACK_FONTS if f in installed)]
    settings: dict[Any, Any] = {**_STYLE, "font.family": family}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float, height: float, **settings: Any) -> Figure:
    """A figure of `width` x `height` inches that no window system and no pyplot knows of."""
    figure = Figure(figsize=(width, height), **settings)
    FigureCanvasAgg(figure)
    return figure


@style()
def save(figure: Figure, folder: Path, stem: str) -> list[str]:
    """Write PNG and SVG, grown where needed so that no label is cut off; the file names."""
    names = [f"{safe_name(stem)}.{kind}" for kind in ("png", "svg")]
    for name in names:
        metadata = {"Date": None} if name.endswith(".svg") else {}
        figure.savefig(folder / name, dpi=DPI, bbox_inches="tight", pad_inches=0.08, metadata=metadata)
    return names


def safe_name(stem: str) -> str:
    """The colon of `fc1:input`, and whatever else a file system or a shell may dislike, as a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, the middle left out; none that no SVG can hold."""
    text, head = printable(text), (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def plot_outliers(models: Mapping[str, Mapping[str, Statistics]], sites: Sequence[str], folder: Path) -> list[str]:
    """Draw each site, and the kurtosis of all if there are several; the file names, relative to `folder`.

    models: title -> site's address -> statistics. Of more than twelve sites only the four of highest kurtosis
    are drawn one by one.
    """
    chosen = list(sites)
    if len(sites) > MAX_INDIVIDUAL:
        chosen = sorted(sites, key=lambda s: -max(_kurtosis(m[s], -np.inf) for m in models.values()))[:WORST]
    names = []
    for site in chosen:
        figure = outlier_figure(site, {title: statistics[site] for title, statistics in models.items()})
        names += save(figure, folder, f"outliers-{site}")
    if len(sites) > 1:
        names += save(kurtosis_figure(models, sites), folder, "kurtosis")
    return names


@style()
def outlier_figure(site: str, models: Mapping[str, Statistics]) -> Figure:
    """One panel for each model (title -> statistics), on a common scale."""
    panels = len(models)
    figure = new_figure(6 if panels == 1 else 4.8 * panels, 3.9, layout="constrained")
    figure.suptitle(f"Outliers at {site}", x=0.01, ha="left", fontsize=10, fontweight="bold")
    rows = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    peak = max(shares(s).max(initial=0) for s in models.values()) or 1.0
    for axes, (title, statistics) in zip(rows, models.items(), strict=True):
        _outlier_panel(axes, statistics, peak)
        axes.set_title(shorten(title, 50), loc="left", pad=28, fontweight="bold")
        axes.text(0, 1.02, _subtitle(statistics), transform=axes.transAxes, va="bottom", linespacing=1.3)
    rows[0].set_ylabel("share of all outliers (%)")
    rows[0].set_ylim(0, HEADROOM * peak)
    rows[0].set_yticks([tick for tick in rows[0].get_yticks() if tick <= min(100, HEADROOM * peak)])
    return figure


def shares(statistics: Statistics) -> np.ndarray:
    """Each dimension's share of the outliers in percent (D,); zeros where there are none."""
    counts = np.asarray(statistics["outliers_per_dimension"], dtype=float)
    return 100 * counts / max(counts.sum(), 1)


def _outlier_panel(axes: Axes, statistics: Statistics, peak: float) -> None:
    heights = shares(statistics)
    width = max(0.8, len(heights) / 350)  # a bar thinner than a printer's dot would fade away
    top = [int(dimension) for dimension, *_ in statistics["top_dimensions"]]
    others = np.setdiff1d(np.flatnonzero(heights), top)
    axes.bar(others, heights[others], width, color=OTHERS, linewidth=0)
    axes.bar(top, heights[top], width, color=HIGHLIGHT, linewidth=0, zorder=3)
    axes.set_xlim(-0.02 * len(heights) - 0.5, 1.02 * len(heights) - 0.5)
    axes.set_xlabel(f"hidden dimension (of {len(heights):,})")
    axes.xaxis.set_minor_locator(AutoMinorLocator())
    axes.spines[["top", "right"]].set_visible(False)
    if top:
        _label_bars(axes, top, heights, peak)
    else:
        message = "no value beyond six standard deviations"
        axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", color="#555555", fontsize=9)


def _label_bars(axes: Axes, top: Sequence[int], heights: np.ndarray, peak: float) -> None:
    """Write each top bar's index at its tip, with a line to it where the index had to move away."""
    line = {"arrowstyle": "-", "linewidth": 0.5, "color": "#555555", "shrinkA": 0, "shrinkB": 0}
    size = (0.014 * len(str(max(top))) + 0.01) * len(heights), LINE * peak
    for dimension, (x, y) in place_labels(top, heights, size, HEADROOM * peak).items():
        tip = (dimension, heights[dimension])
        moved = y - tip[1] > size[1] or abs(x - dimension) > 0.6 * size[0]
        axes.annotate(
            str(dimension), tip, (x, y), ha="center", va="bottom", fontsize=7, zorder=4,
            arrowprops=line if moved else None,
        )  # fmt: skip


def place_labels(
    top: Sequence[int], heights: np.ndarray, size: tuple[float, float], ceiling: float
) -> dict[int, tuple[float, float]]:
    """The middle of each label's lower edge: near its bar's tip, on no bar, on no earlier label.

    size: width in dimensions, height in percent; ceiling in percent. The last labels are left out where no
    place is free.
    """
    width, height = size
    placed: dict[int, tuple[float, float]] = {}
    for dimension in top:
        for across, up in _OFFSETS:
            x, y = dimension + across * width, heights[dimension] + (up + 0.2) * height
            left, right = x - width / 2, x + width / 2
            covered = heights[max(0, int(np.ceil(left))) : max(0, int(right) + 1)].max(initial=0)
            inside = left > -0.06 * len(heights) and right < 1.06 * len(heights) and y + height < ceiling
            alone = all(abs(x - u) >= width or abs(y - v) >= height for u, v in placed.values())
            if inside and alone and covered < y:
                placed[dimension] = x, y
                break
    return placed


def _subtitle(statistics: Statistics) -> str:
    kurtosis = statistics["kurtosis"]
    first = "kurtosis undefined" if kurtosis is None else f"kurtosis {kurtosis:,.1f}"
    first += f", infinity norm {statistics['inf_norm']:.4g}"
    top = statistics["top_dimensions"]
    if not top:
        return f"{first}\nno outliers in {statistics['values']:,} values"
    share = 100 * sum(s for *_, s in top)
    where = f"the {len(top)} highlighted dimensions" if len(top) > 1 else "the highlighted dimension"
    return f"{first}\n{statistics['outliers']:,} outliers, {share:.1f} % of them in {where}"


def _kurtosis(statistics: Statistics, undefined: float) -> float:
    return undefined if statistics["kurtosis"] is None else statistics["kurtosis"]


@style()
def kurtosis_figure(models: Mapping[str, Mapping[str, Statistics]], sites: Sequence[str]) -> Figure:
    """Bars of each site's kurtosis, one colour for each model; a tensor that never varies has no bar."""
    height = min(max(0.14 * (len(models) + 0.7) * len(sites), 1.2), 16)  # inches of the axes
    figure = new_figure(6.5, height + 1.2, layout="constrained")
    axes = figure.subplots()
    values = {title: [_kurtosis(m[s], np.nan) for s in sites] for title, m in models.items()}
    thickness = 0.8 / len(models)
    for i, (title, row) in enumerate(values.items()):
        centres = np.arange(len(sites)) + (i - (len(models) - 1) / 2) * thickness
        colour = MODEL_COLOURS[i % len(MODEL_COLOURS)]
        bars = axes.barh(centres, row, thickness, color=colour, linewidth=0, label=shorten(title, 40))
        if height < 16:
            axes.bar_label(bars, fmt="{:,.1f}", padding=2, fontsize=6, bbox={"color": "white", "pad": 0.3})
            for y in centres[np.isnan(row)]:
                place: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center"}
                axes.text(0.005, y, "undefined", fontsize=6, **place)
    axes.axvline(3, color="black", linewidth=0.8, linestyle="--", label="Gaussian = 3")
    _kurtosis_axes(axes, sites, height, np.nanmax([3.0, *sum(values.values(), [])]))
    figure.legend(loc="outside upper left", ncols=min(3, len(models) + 1), frameon=False)
    return figure


def _kurtosis_axes(axes: Axes, sites: Sequence[str], height: float, largest: float) -> None:
    every = int(np.ceil(0.11 * len(sites) / height))  # a line of text needs 0.11 inches
    axes.set_yticks(range(0, len(sites), every), [shorten(s, 32) for s in sites[::every]], fontsize=7)
    axes.set_ylim(len(sites) - 0.4, -0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if largest > LOG_ABOVE:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:,g}")  # the usual one writes powers as formulas
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(1, 1.1 * largest**1.12)  # no tensor's kurtosis is below 1
        axes.set_xlabel("kurtosis (logarithmic)")
    else:
        axes.set_xlim(0, 1.12 * largest)
        axes.set_xlabel("kurtosis")
