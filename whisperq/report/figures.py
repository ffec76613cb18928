"""Which hidden dimensions hold a tensor's outliers (the paper's Figure 2), and how every figure is styled and saved.

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

Statistics = Mapping[str, Any]

MAX_INDIVIDUAL = 12  # sites; beyond it only the worst are drawn one by one
WORST = 4
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
_FALLBACK_FONTS = ("Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Devanagari")


@contextmanager
def style() -> Iterator[None]:
    """Our settings while a figure is built or saved; the caller's matplotlib stays as it was."""
    installed = set(font_manager.get_font_names())
    family = ["DejaVu Sans", *(f for f in _FALLBACK_FONTS if f in installed)]
    with matplotlib.rc_context({**_STYLE, "font.family": family}), warnings.catch_warnings():
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
    """At most `limit` characters, the middle left out."""
    head = (limit - 1) // 2
    return text if len(text) <= limit else f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def plot_outliers(
    models: Mapping[str, Mapping[str, Statistics]], sites: Sequence[str], folder: Path
) -> list[str]:
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
        axes.set_title(shorten(title, 50), loc="left", pad=26, fontweight="bold")
        axes.text(0, 1.02, _subtitle(statistics), transform=axes.transAxes, va="bottom", linespacing=1.3)
    rows[0].set_ylabel("share of all outliers (%)")
    rows[0].set_ylim(0, 1.17 * peak)  # room for the labels
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
    axes.bar(others, heights[others], width, color=OTHERS, linewidth=0, label="other dimensions")
    axes.bar(top, heights[top], width, color=HIGHLIGHT, linewidth=0, zorder=3, label="top dimensions")
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
    """Each top bar's index above it, moved aside where neighbours are close, with a line to its bar."""
    gap = 0.03 * (len(str(len(heights))) - 1) * len(heights)  # a label's width, in dimensions
    ordered = sorted(top)
    for dimension, x in zip(ordered, spread(ordered, gap, 0, len(heights) - 1), strict=True):
        under = heights[max(0, round(x - gap / 2)) : round(x + gap / 2) + 1]  # bars that the text would cover
        y = max(under.max(initial=0), heights[dimension]) + 0.03 * peak
        line = {"arrowstyle": "-", "linewidth": 0.5, "color": "#555555", "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            str(dimension), (dimension, heights[dimension]), (x, y), ha="center", va="bottom",
            fontsize=7, arrowprops=line, zorder=4,
        )  # fmt: skip


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """Sorted positions moved as little as needed to lie `gap` apart within low..high, their order kept.

    Pushing all to the right and pushing all to the left both satisfy it; so does their mean, which is unbiased.
    """
    steps = gap * np.arange(len(positions))
    wanted = np.asarray(positions, dtype=float) - steps
    wanted = np.clip(wanted, low, max(low, high - steps[-1]))
    right = np.maximum.accumulate(wanted)
    left = np.minimum.accumulate(wanted[::-1])[::-1]
    return (right + left) / 2 + steps


def _subtitle(statistics: Statistics) -> str:
    kurtosis = statistics["kurtosis"]
    first = "kurtosis undefined" if kurtosis is None else f"kurtosis {kurtosis:,.1f}"
    first += f", infinity norm {statistics['inf_norm']:.4g}"
    top = statistics["top_dimensions"]
    if not top:
        return f"{first}\nno outliers in {statistics['values']:,} values"
    share = 100 * sum(s for *_, s in top)
    where = f"top {len(top)} dimensions" if len(top) > 1 else "one dimension"
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
            texts = ["undefined" if np.isnan(k) else f"{k:,.1f}" for k in row]
            axes.bar_label(bars, texts, padding=2, fontsize=6)
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
