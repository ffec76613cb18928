"""wer.png: what each system costs in words against float32, with its interval, one panel a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from whisperq.results.cells import in_brackets

MARGIN = 0.3  # points: what may be lost
BEYOND = 4.0  # points: who loses more stands at the edge, with a number


def draw(models: Sequence[Mapping[str, Any]], titles: Mapping[str, str], place: Path) -> None:
    """Differences of pooled WER in points; emulated recipes in grey, they ran on fewer utterances."""
    shown = [(model, found) for model in models if (found := differences(model, titles))]
    heights = [len(found) for _, found in shown]
    figure, panels = plt.subplots(
        len(shown), 1, figsize=(7.5, 0.9 + 0.33 * sum(heights) + 0.6 * len(shown)), squeeze=False, sharex=True,
        gridspec_kw={"height_ratios": heights},
    )  # fmt: skip
    for (model, found), panel in zip(shown, panels[:, 0], strict=True):
        fill(panel, found)
        panel.set_title(model["model"], loc="left", fontsize=10)
    panels[-1, 0].set_xlabel("points of WER more than float32, 95 % interval\n(dotted: margin of 0.3 points)")
    figure.tight_layout()
    figure.savefig(place, dpi=110, metadata={"Software": None})
    plt.close(figure)


def differences(model: Mapping[str, Any], titles: Mapping[str, str]) -> list[tuple[str, dict[str, Any], bool]]:
    """Title, difference, and whether kernels transcribed all utterances; the main systems first."""
    systems = model["systems"]
    names = [n for n in titles if n in systems] + sorted(n for n in systems if n not in titles)
    pairs = [(n, systems[n].get("against float", {}).get("0.3")) for n in names]
    return [(titles.get(n, n), found, systems[n]["runtime"] != "emulated") for n, found in pairs if found]


def fill(panel: plt.Axes, found: Sequence[tuple[str, dict[str, Any], bool]]) -> None:
    for row, (_, one, main) in enumerate(found):
        colour = "tab:blue" if main else "tab:gray"
        low, high = one["interval_95"]
        if one["difference"] > BEYOND:
            panel.plot([BEYOND], [row], ">", color=colour)
            label = in_brackets(one["difference"], (low, high), digits=0)
            panel.annotate(label, (BEYOND, row), (-8, 0), textcoords="offset points", ha="right", va="center")
            continue
        panel.plot([max(low, -BEYOND), min(high, BEYOND)], [row, row], color=colour)
        panel.plot([one["difference"]], [row], "o", color=colour)
    panel.axvline(0, color="black", linewidth=0.8)
    panel.axvline(MARGIN, color="black", linewidth=0.8, linestyle=":")
    panel.set_yticks(range(len(found)), [title for title, _, _ in found], fontsize=8)
    panel.set_ylim(len(found) - 0.5, -0.5)
    panel.set_xlim(-BEYOND * 0.5, BEYOND * 1.05)
