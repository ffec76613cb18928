"""One attention block as pictures: probabilities P, values V and their product P V (the paper's Figure 1).

    P  (queries, keys)       V  (keys, d_head)       P V  (queries, d_head)

Queries run downwards from the first. Panels are placed in inches, because tokens need room for their text.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis as TickAxis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.textpath import text_to_path

from whisperq.report.attention_picture import AttentionPicture, Axis, visible
from whisperq.report.figures import DPI, new_figure, save, shorten, style

FONT, SMALLEST_FONT = 6.5, 5.0  # points, of a token
LINE = 0.0162  # inches from one token to the next, for each point of its font
LONGEST_TOKEN = 26  # characters; Whisper's special tokens have up to 21
BAR = 0.12  # inches, thickness of a colour bar
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"


def plot_head(picture: AttentionPicture, head: int, folder: Path) -> list[str]:
    """P, V and P V of one head as PNG and SVG; the file names."""
    return save(head_figure(picture, head), folder, f"attention-{picture.block}-head{head}")


def plot_grid(picture: AttentionPicture, folder: Path) -> list[str]:
    """All heads' probabilities as PNG and SVG; the file names."""
    return save(grid_figure(picture), folder, f"attention-{picture.block}-all-heads")


@style()
def head_figure(picture: AttentionPicture, head: int) -> Figure:
    """Three panels side by side; V and P V share a scale that is symmetric around zero."""
    probs, values = picture.probs[head], picture.values[head]
    product = probs @ values
    queries, keys, dimension = *_roles(picture), Axis("head dimension", None)
    limit = float(max(np.abs(values).max(), np.abs(product).max())) or 1.0
    positive, signed = _positive(probs), {"cmap": DIVERGING, "vmin": -limit, "vmax": limit}
    width, narrow = _inches(keys, probs.shape[1]), min(max(0.035 * values.shape[1], 1.4), 3.0)
    canvas = _Canvas(max(_inches(queries, probs.shape[0]), width))

    image = _draw(canvas.panel(width, "probabilities P"), probs, queries, keys, picture.seconds, **positive)
    canvas.colour_bar(image, "probability")
    canvas.skip(_text_inches(keys) + 0.35)
    _draw(canvas.panel(narrow, "values V"), values, keys, dimension, picture.seconds, **signed)
    canvas.skip(_text_inches(queries) + 0.45)
    image = _draw(canvas.panel(narrow, "product P V"), product, queries, dimension, picture.seconds, **signed)
    canvas.colour_bar(image, "value (in V and P V)")
    return canvas.finish(f"{picture.block}, head {head}", picture, picture.caption(probs))


@style()
def grid_figure(picture: AttentionPicture) -> Figure:
    """Every head's P on one scale; tokens stand at the left and under the lowest panel of each column."""
    heads, rows, columns = picture.probs.shape
    queries, keys = _roles(picture)
    across = next((c for c in (5, 4, 3) if heads % c == 0), min(heads, 4))
    width, height = _inches(keys, columns, small=True), _inches(queries, rows, small=True)
    right, down = width + 0.15, height + 0.3  # from one panel to the next
    canvas = _Canvas(-(-heads // across) * down - 0.3)
    look = _positive(picture.probs)
    for head in range(heads):
        row, column = divmod(head, across)
        axes = canvas.panel_at(column * right, row * down, width, height, f"head {head}")
        image = _draw(axes, picture.probs[head], queries, keys, picture.seconds, **look)
        first, lowest = column == 0, head + across >= heads
        axes.tick_params(left=first, labelleft=first, bottom=lowest, labelbottom=lowest)
        axes.set(ylabel=queries.name if first else "", xlabel=keys.name if lowest else "")
    canvas.colour_bar(image, "probability")
    return canvas.finish(f"{picture.block}, all {heads} heads", picture, picture.caption(picture.probs))


class _Canvas:
    """Panels side by side; until `finish` the figure is one inch square, so that its fractions are inches."""

    def __init__(self, height: float) -> None:
        self.figure = new_figure(1, 1)
        self.height = height
        self.x = 0.0  # the right end of what is drawn

    def panel(self, width: float, title: str) -> Axes:
        return self.panel_at(self.x, 0, width, self.height, title)

    def panel_at(self, x: float, y: float, width: float, height: float, title: str = "") -> Axes:
        """`y` counts downwards from the top of all panels."""
        self.x = max(self.x, x + width)
        axes = self.figure.add_axes((x, -y - height, width, height))
        axes.set_title(title, loc="left")
        return axes

    def skip(self, width: float) -> None:
        self.x += width

    def colour_bar(self, image: AxesImage, name: str) -> None:
        """At the right of what is drawn, with room for its numbers and its name."""
        bar = self.figure.colorbar(image, cax=self.panel_at(self.x + 0.1, 0, BAR, min(self.height, 4.0)))
        bar.set_label(name)
        bar.outline.set_linewidth(0.6)
        self.skip(0.6)

    def finish(self, title: str, picture: AttentionPicture, caption: str) -> Figure:
        """Give the figure its size, with margins for tokens and titles."""
        left, bottom = _text_inches(picture.queries) + 0.4, _text_inches(picture.keys) + 0.4
        width, height = left + self.x, bottom + self.height + 0.8 + 0.15 * caption.count("\n")
        self.figure.set_size_inches(width, height)
        for axes in self.figure.axes:
            box = axes.get_position()
            place = ((left + box.x0) / width, (bottom + self.height + box.y0) / height)
            axes.set_position((*place, box.width / width, box.height / height))
        self.figure.text(0.1 / width, 1 - 0.1 / height, title, va="top", fontsize=10, fontweight="bold")
        self.figure.text(0.1 / width, 1 - 0.32 / height, caption, va="top")
        return self.figure


def _draw(axes: Axes, matrix: np.ndarray, rows: Axis, columns: Axis, seconds: float, **look: Any) -> AxesImage:
    """One panel; its axes count positions, or seconds where a position has a length."""
    size = axes.get_position()  # inches
    image = _image(axes, matrix, rows, columns, **look)
    axes.set(xlabel=columns.name, ylabel=rows.name)
    axes.tick_params(length=2, pad=2, labelsize=FONT)
    if columns.labels:
        _write_tokens(axes.xaxis, columns.labels, size.width, rotation=90)
    if rows.labels:
        _write_tokens(axes.yaxis, rows.labels, size.height)
    line: dict[str, Any] = {
        "color": "white" if look["cmap"] == SEQUENTIAL else "black",
        "linewidth": 0.9,
        "dashes": (4, 2),
    }
    if (end := columns.boundary(matrix.shape[1], seconds)) is not None:
        axes.axvline(end, **line)
    if (end := rows.boundary(matrix.shape[0], seconds)) is not None:
        axes.axhline(end, **line)
    return image


def _image(axes: Axes, matrix: np.ndarray, rows: Axis, columns: Axis, **look: Any) -> AxesImage:
    """Draw the matrix; where values share a printed dot, the largest is shown: a mean would hide short peaks."""
    size = axes.get_position()
    down, across = _crowd(matrix.shape[0], size.height), _crowd(matrix.shape[1], size.width)
    shown = _peaks(_peaks(matrix, down, 0), across, 1)
    top, bottom = _extent(rows, down * shown.shape[0])
    left, right = _extent(columns, across * shown.shape[1])
    extent = (left, right, bottom, top)
    image = axes.imshow(shown, aspect="auto", interpolation="nearest", extent=extent, **look)
    axes.set(xlim=_extent(columns, matrix.shape[1]), ylim=_extent(rows, matrix.shape[0])[::-1])
    return image


def _crowd(count: int, inches: float) -> int:
    """How many positions share one printed dot."""
    return int(np.ceil(count / (inches * DPI)))


def _peaks(matrix: np.ndarray, crowd: int, axis: int) -> np.ndarray:
    """The value of largest magnitude among every `crowd` neighbours along `axis` (the last group may be smaller)."""
    starts = range(0, matrix.shape[axis], crowd)
    high, low = (f.reduceat(matrix, starts, axis=axis) for f in (np.maximum, np.minimum))
    return np.where(high >= -low, high, low)


def _extent(axis: Axis, count: int) -> tuple[float, float]:
    """Ends of an axis: seconds, or positions whose centres are whole numbers."""
    return (0, count * axis.step_seconds) if axis.step_seconds else (-0.5, count - 0.5)


def _write_tokens(axis: TickAxis, labels: tuple[str, ...], inches: float, **text: Any) -> None:
    """Label an axis of `inches` with as many evenly spaced tokens as can be read, in a font that fits."""
    pitch = inches / len(labels)
    every = int(np.ceil(SMALLEST_FONT * LINE / pitch))
    places = range(0, len(labels), every)
    font = min(FONT, every * pitch / LINE)
    axis.set_ticks(places, [_visible(labels[i]) for i in places], fontsize=font, **text)


def _visible(token: str) -> str:
    """The token as it is shown, shortened where it is long."""
    return shorten(visible(token), LONGEST_TOKEN)


def _text_inches(axis: Axis) -> float:
    """The space that an axis' longest tick label takes."""
    font = FontProperties(size=FONT)
    texts = [_visible(label) for label in axis.labels or ()]
    widths = (text_to_path.get_text_width_height_descent(t, font, ismath=False)[0] for t in texts)
    return max(0.25, max(widths, default=0) / 72 + 0.05)


def _inches(axis: Axis, count: int, small: bool = False) -> float:
    """A panel's length along this axis; seconds need no room for text."""
    if axis.labels is None:
        return 2.0 if small else 4.0
    return min(max(0.06 * count, 1.2), 2.4) if small else min(max(0.11 * count, 2.4), 8.2)


def _roles(picture: AttentionPicture) -> tuple[Axis, Axis]:
    """The axes of queries and keys, labelled as such."""
    queries, keys = picture.queries, picture.keys
    return replace(queries, name=f"query: {queries.name}"), replace(keys, name=f"key: {keys.name}")


def _positive(probs: np.ndarray) -> dict[str, Any]:
    """Colours from zero to one, or to the maximum where attention is spread thin."""
    highest = float(probs.max())
    return {"cmap": SEQUENTIAL, "vmin": 0, "vmax": highest if 0 < highest < 0.5 else 1}
