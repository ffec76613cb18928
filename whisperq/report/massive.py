"""The atlas of a model: the largest magnitude at each site, in the order of computation, and its massive channels.

A panel for each of encoder and decoder, one below the other, on one logarithmic scale. Each kind of rows (speech,
padding, prompt, tokens) has its colour and its marker, which is filled where a value is massive. Channel numbers stand
at magnitudes above 100, or above half of a panel's largest, and sites' names below. The line is the median magnitude.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from whisperq.report.figures import HIGHLIGHT, MODEL_COLOURS, OTHERS, new_figure, save, shorten, style
from whisperq.scoring.massive import MAGNITUDE

Sites = Mapping[str, Mapping[str, Any]]  # address -> statistics with `massive`, as scoring.by_role makes them

ROLES = {"speech": (MODEL_COLOURS[0], "o"), "padding": (HIGHLIGHT, "^"),
         "prompt": (MODEL_COLOURS[2], "s"), "tokens": (MODEL_COLOURS[3], "D")}  # fmt: skip
PARTS = {"enc": "encoder", "dec": "decoder"}
PITCH, WIDEST = 0.076, 24.0  # inches: from one site to the next; of a panel
HEIGHT = 2.5  # inches, of a panel with its labels
LETTER, LINE, SITE_NAME = 0.058, 0.105, 0.072  # inches, of a channel's number, and of a site's name on its side
# where a number may go, in lines above its marker and its own widths to the right, nearest first
OFFSETS = [(up, across) for up in (1, 2, -1, *range(3, 14)) for across in (0, 0.55, -0.55, 1.1, -1.1)]


def plot_massive(models: Mapping[str, Sites], folder: Path) -> list[str]:
    """PNG and SVG of all models (title -> sites); the file names."""
    return save(massive_figure(models), folder, "massive")


@style()
def massive_figure(models: Mapping[str, Sites]) -> Figure:
    panels = [(title, part, of) for title, sites in models.items() for part, of in _parts(sites).items()]
    across = min(max(5.0, PITCH * max(len(of) for *_, of in panels)), WIDEST)
    figure = new_figure(across + 0.9, HEIGHT * len(panels) + 0.5, layout="constrained")
    rows = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    ends = _ends([site for *_, of in panels for site in of.values()])
    for axes, (title, part, of) in zip(rows, panels, strict=True):
        heading = PARTS[part] if len(models) == 1 else f"{shorten(title, 50)}, {PARTS[part]}"
        _panel(axes, of, ends, across / len(of))
        axes.set_title(heading, loc="left", pad=12, fontweight="bold")
    title = f"Largest values, {shorten(next(iter(models)), 50)}" if len(models) == 1 else "Largest values"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    roles = [r for r in ROLES if any(r in _by_role(site) for *_, of in panels for site in of.values())]
    figure.legend(handles=_keys(roles), loc="outside lower left", frameon=False, ncols=len(roles) + 2)
    return figure


def _parts(sites: Sites) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Encoder's sites, with those in front of it, and decoder's with the output."""
    part = {a: "dec" if a.startswith(("dec.", "proj_out")) else "enc" for a in sites}
    return {p: of for p in PARTS if (of := {a: s["massive"] for a, s in sites.items() if part[a] == p})}


def _by_role(site: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Role -> its largest peak."""
    return {peak["role"]: peak for peak in reversed(site["peaks"])}


def _ends(sites: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Ends of the common scale: from below the medians to above the largest value, with room for labels."""
    largest = [abs(site["peaks"][0]["value"]) for site in sites]
    medians = [site["median"] for site in sites if site["median"] > 0]
    return min(medians, default=0.1) / 1.6, 9 * max(max(largest), 1.0)


def _panel(axes: Axes, sites: Mapping[str, Mapping[str, Any]], ends: tuple[float, float], pitch: float) -> None:
    axes.set_yscale("log")
    axes.set(ylim=ends, xlim=(-1, len(sites)), ylabel="magnitude")
    axes.yaxis.set_major_locator(LogLocator(numticks=12))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    medians = [site["median"] or np.nan for site in sites.values()]
    axes.plot(range(len(sites)), medians, color=OTHERS, linewidth=1, drawstyle="steps-mid", zorder=2)
    points = [Point(x, **_drawn(peak)) for x, site in enumerate(sites.values()) for peak in _by_role(site).values()]
    for role, massive in product(ROLES, (False, True)):
        some = [p for p in points if (p.role, p.massive) == (role, massive)]
        colour, marker = ROLES[role]
        look: dict[str, Any] = {"s": 26, "facecolor": colour} if massive else {"s": 11, "facecolor": "white"}
        look |= {"marker": marker, "edgecolor": colour, "linewidth": 0.7, "zorder": 3 + massive}
        axes.scatter([p.x for p in some], [p.size for p in some], **look)
    _layers(axes, list(sites))
    large = [p for p in points if p.size > min(MAGNITUDE, max(q.size for q in points) / 2)]
    _ticks(axes, list(sites), sorted({p.x for p in large}), pitch)
    _label(axes, large, points, pitch, ends)


@dataclass(frozen=True)
class Point:
    """The largest value at site x, in rows of a role."""

    x: int
    size: float
    role: str
    channel: int
    massive: bool


def _drawn(peak: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": abs(peak["value"]), **{key: peak[key] for key in ("role", "channel", "massive")}}


def _layers(axes: Axes, addresses: Sequence[str]) -> None:
    """Shade every other layer, and write the layers' numbers on top."""
    start = 0
    for number, (name, of) in enumerate(groupby(addresses, _layer)):
        count = len(list(of))
        if number % 2:
            axes.axvspan(start - 0.5, start + count - 0.5, color="#F1F1F1", linewidth=0, zorder=0)
        middle, across = start + (count - 1) / 2, axes.get_xaxis_transform()
        axes.text(middle, 1.01, name, transform=across, ha="center", va="bottom", fontsize=7)
        start += count


def _layer(address: str) -> str:
    """Number of a site's layer: enc.3.fc1 -> 3; empty for sites outside of the blocks."""
    found = re.match(r"(?:enc|dec)\.(\d+)\.", address)
    return found[1] if found else ""


def _ticks(axes: Axes, addresses: Sequence[str], large: Sequence[int], pitch: float) -> None:
    """Names of the sites with large values, as far as they can be told apart."""
    places = _apart(large, int(np.ceil(SITE_NAME / pitch)))
    names = [re.sub(r"^(enc|dec)\.\d+\.", "", addresses[x]) for x in places]
    axes.set_xticks(places, names, rotation=90, fontsize=5.5)
    axes.tick_params(axis="x", length=2, pad=1)


def _apart(places: Sequence[int], least: int) -> list[int]:
    """`places` without those nearer than `least` to the last one kept."""
    kept: list[int] = []
    for place in places:
        if not kept or place - kept[-1] >= least:
            kept.append(place)
    return kept


def _label(
    axes: Axes, large: Sequence[Point], points: Sequence[Point], pitch: float, ends: tuple[float, float]
) -> None:
    """Numbers of channels with large values, once a site, where nothing else stands; a line leads to one that moved."""
    line = {"arrowstyle": "-", "linewidth": 0.4, "color": "#777777", "shrinkA": 0, "shrinkB": 2}
    per_line = (ends[1] / ends[0]) ** (LINE / (HEIGHT - 0.95))  # the factor that a line of text takes on the scale
    taken: list[tuple[float, float, float, float]] = [
        (p.x, p.size, 0.07 / pitch, per_line**0.6) for p in points
    ]  # x, y, width, height as a factor
    for p in _numbered(large):
        width = LETTER * len(str(p.channel)) / pitch
        for up, across in OFFSETS:
            place = p.x + across * width, p.size * per_line**up
            box = (*place, width, per_line)
            left, right = place[0] - width / 2, place[0] + width / 2
            inside = axes.get_xlim()[0] < left and right < axes.get_xlim()[1] + 0.7 and place[1] * per_line < ends[1]
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                axes.annotate(
                    str(p.channel), (p.x, p.size), place, ha="center", va="center", fontsize=6.5, zorder=5,
                    color=ROLES[p.role][0], arrowprops=None if (up, across) in ((1, 0), (-1, 0)) else line,
                )  # fmt: skip
                break


def _numbered(points: Sequence[Point]) -> list[Point]:
    """One point for each site and channel: the massive ones first, then the largest."""
    first: dict[tuple[int, int], Point] = {}
    for point in sorted(points, key=lambda p: (-p.massive, -p.size)):
        first.setdefault((point.x, point.channel), point)
    return list(first.values())


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    near = abs(one[0] - other[0]) < (one[2] + other[2]) / 2
    return near and abs(np.log(one[1] / other[1])) < (np.log(one[3]) + np.log(other[3])) / 2


def _keys(roles: Sequence[str]) -> list[Line2D]:
    points = [
        Line2D([], [], linestyle="", marker=ROLES[r][1], color=ROLES[r][0], markersize=4.5, label=r) for r in roles
    ]
    hollow = Line2D(
        [], [], linestyle="", marker="o", markerfacecolor="white", color="#555555", markersize=3.5, label="not massive"
    )
    return [*points, hollow, Line2D([], [], color=OTHERS, linewidth=1, label="median magnitude")]
