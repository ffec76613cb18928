"""How outliers grow while students are trained: kurtosis and infinity norm over the steps, from their logs."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from matplotlib.ticker import LogLocator, NullLocator
from measured import GROUPS, Student, logged

from whisperq.report.figures import DPI, HIGHLIGHT, MODEL_COLOURS, new_figure, style

PANELS = (
    ("enc.*.out_proj", "all"),
    ("enc.*.fc2:input", "padding"),
    ("enc.*.mlp_sum", "speech"),
    ("enc.*.mlp_sum", "padding"),
    ("dec.*.out_proj", "all"),
    ("dec.*.mlp_sum", "prompt"),
)
FIGURES = {"kurtosis": "kurtosis, mean of the sites", "max_inf_norm": "infinity norm, largest of the sites"}
COLOURS = {"none": HIGHLIGHT, "headwise": MODEL_COLOURS[0], "elementwise": MODEL_COLOURS[2]}
LINES = ("-", "--", ":", "-.")  # of the depths and ways of training


@style()
def draw_growth(found: Sequence[Student], file: Path) -> None:
    """A column for each group of sites, a row for each figure, a line for each student."""
    trained = {s: log for s in found if (log := list(logged(s, "outliers")))}
    shapes = list(dict.fromkeys((s.depth, s.way) for s in trained))
    figure = new_figure(2.3 * len(PANELS), 2.2 * len(FIGURES) + 0.5, layout="constrained")
    grid = figure.subplots(len(FIGURES), len(PANELS), sharex=True, squeeze=False)
    for row, (key, label) in zip(grid, FIGURES.items(), strict=True):
        for axes, (group, role) in zip(row, PANELS, strict=True):
            for student, log in trained.items():
                points = [(e["step"], e["outliers"][group][role][key]) for e in log if role in e["outliers"][group]]
                shape = LINES[shapes.index((student.depth, student.way)) % len(LINES)]
                title = f"{student.depth} {student.title}"
                axes.plot(*zip(*points, strict=True), shape, color=COLOURS[student.gate], linewidth=1, label=title)
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            axes.set_ylim(low / 2, 2 * high)  # at least one labelled number on each axis
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.yaxis.set_major_formatter("{x:,g}")  # the usual one writes powers as formulas
            axes.yaxis.set_minor_locator(NullLocator())
            axes.spines[["top", "right"]].set_visible(False)
            if axes in grid[0]:
                axes.set_title(f"{GROUPS[group]}\nrows: {role}", loc="left", fontsize=8)
        row[0].set_ylabel(label)
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    named = dict(zip(*reversed(grid[0][0].get_legend_handles_labels()), strict=True))  # once for all seeds
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named) or 1, frameon=False)
    figure.savefig(file, dpi=DPI)
