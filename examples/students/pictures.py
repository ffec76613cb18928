"""The paper's Figures 1 and 2 of each depth of run.sh, before and after training, a row for each gate.

    outliers-<depth>.png    six-sigma outliers of the last decoder layer's attention output, by hidden dimension
    attention-<depth>.png   what each head of that layer looks at, in one utterance

Of the first seed; copies of the figures that `whisperq outliers` and `whisperq plot-attention` drew.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from measured import GATES, Student

matplotlib.use("Agg")
from matplotlib import pyplot

WHEN = ("before", "after")


def last_output(run: Path, when: str) -> Path | None:
    """Figure of the last decoder layer's attention output."""
    found = sorted(run.glob(f"outliers/{when}/attention/outliers-dec.*.out_proj.png"))
    layers = [path for path in found if "cross" not in path.name]
    return layers[-1] if layers else None


def attention(run: Path, when: str) -> Path | None:
    return next(iter(sorted(run.glob(f"attention/{when}/*.png"))), None)


def compose(rows: Sequence[tuple[str, list[Path]]], place: Path) -> None:
    figure, axes = pyplot.subplots(len(rows), len(WHEN), figsize=(14, 5 * len(rows)), squeeze=False, dpi=90)
    for line, (gate, pictures) in zip(axes, rows, strict=True):
        for axis, when, picture in zip(line, WHEN, pictures, strict=True):
            axis.imshow(pyplot.imread(picture))
            axis.set_title(f"{gate}, {when} training")
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(place, pil_kwargs={"optimize": True})
    pyplot.close(figure)


def draw_pictures(found: Sequence[Student], out: Path) -> None:
    firsts: dict[tuple[str, str], Student] = {}
    for student in found:
        if student.gate in GATES and student.way is None:
            firsts.setdefault((student.depth, student.gate), student)
    for depth in dict.fromkeys(depth for depth, _ in firsts):
        for name, find in (("outliers", last_output), ("attention", attention)):
            rows = [
                (f"gate {gate}", [picture for when in WHEN if (picture := find(firsts[depth, gate].run, when))])
                for gate in GATES
                if (depth, gate) in firsts
            ]
            whole = [row for row in rows if len(row[1]) == len(WHEN)]
            if whole:
                compose(whole, out / f"{name}-{depth}.png")
