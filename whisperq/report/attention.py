"""One attention block as pictures: probabilities P, values V and their product P V (the paper's Figure 1).

    P  (queries, keys)       V  (keys, d_head)       P V  (queries, d_head)

Queries run downwards from the first. Panels are placed in inches, because tokens need room for their text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from whisperq.report.figures import new_figure, save, shorten, style

FONT = 6.5  # points, of tick labels
LINE = 0.105  # inches that one label needs across its direction
CHARACTER = 0.057  # inches that one of its characters needs along it
LONGEST_LABEL = 26  # characters; Whisper's longest special token has 21
BAR = 0.12  # inches, thickness of a colour bar


@dataclass(frozen=True)
class Axis:
    """One axis of the pictures: its name, and a label for each position, or the seconds of one position."""

    name: str
    labels: tuple[str, ...] | None
    step_seconds: float | None = None


@dataclass(frozen=True)
class AttentionPicture:
    """What one block (`dec.1`, `dec.1.cross`, `enc.3`) did with one utterance of `seconds` length."""

    block: str
    probs: np.ndarray  # (heads, queries, keys)
    values: np.ndarray  # (heads, keys, d_head)
    queries: Axis
    keys: Axis
    utterance: str
    seconds: float


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
    queries, keys = picture.queries, picture.keys
    height = max(_inches(queries, probs.shape[0]), _inches(keys, probs.shape[1]))
    across, columns = _inches(keys, probs.shape[1]), min(max(0.035 * values.shape[1], 1.4), 3.0)
    canvas = _Canvas(_label_inches(queries) + 0.3, height, 0.75)
    dimension = Axis("head dimension", None)
    limit = float(np.abs(np.concatenate([values, product])).max()) or 1.0

    axes = canvas.panel(across)
    image = _draw(axes, probs, queries, keys, "viridis", (0, _top(probs)), picture.seconds)
    _name(axes, "probabilities P", _named("queries", queries), _named("keys", keys))
    canvas.colour_bar(image, "probability")
    canvas.skip(_label_inches(keys) + 0.35)
    axes = canvas.panel(columns)
    _draw(axes, values, keys, dimension, "RdBu_r", (-limit, limit), picture.seconds)
    _name(axes, "values V", _named("keys", keys), dimension.name)
    canvas.skip(_label_inches(queries) + 0.45)
    axes = canvas.panel(columns)
    image = _draw(axes, product, queries, dimension, "RdBu_r", (-limit, limit), picture.seconds)
    _name(axes, "product P V", _named("queries", queries), dimension.name)
    canvas.colour_bar(image, "value, of V and of P V")
    canvas.title(f"{picture.block}, head {head}", _caption(picture))
    return canvas.figure


@style()
def grid_figure(picture: AttentionPicture) -> Figure:
    """Every head's P on one scale; labels stand at the left and under the lowest panel of each column."""
    heads, queries, keys = picture.probs.shape
    columns = min(heads, next((c for c in (5, 4, 3) if heads % c == 0), 4))
    rows = -(-heads // columns)
    width, height = (_inches(a, n, 0.4) for a, n in ((picture.keys, keys), (picture.queries, queries)))
    canvas = _Canvas(_label_inches(picture.queries) + 0.3, rows * (height + 0.3) - 0.3, 0.75)
    top = _top(picture.probs)
    for head in range(heads):
        row, column = divmod(head, columns)
        axes = canvas.at(column * (width + 0.15), row * (height + 0.3), width, height)
        image = _draw(axes, picture.probs[head], picture.queries, picture.keys, "viridis", (0, top), picture.seconds)
        lowest = head + columns >= heads
        names = _named("queries", picture.queries), _named("keys", picture.keys)
        _name(axes, f"head {head}", names[0] if column == 0 else "", names[1] if lowest else "")
        axes.tick_params(labelleft=column == 0, labelbottom=lowest)
    canvas.skip(columns * (width + 0.15) - 0.15)
    canvas.colour_bar(image, "probability", min(canvas.height, 4.0))
    canvas.title(f"{picture.block}, all {heads} heads", _caption(picture))
    return canvas.figure
