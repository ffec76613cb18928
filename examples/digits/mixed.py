"""Prints the table of mixed.sh from what it left.

python mixed.py RUNS [--markdown] [--copy FILE]
"""

import json
from pathlib import Path

from printing import print_table

MODELS = {"whisper": "Whisper student", "wav2vec2": "wav2vec 2.0"}
MODES = ("one-stage", "two-stage", "uniform")
SETS = ("takes", "speaker")


def results(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["results"]


def summary(runs: Path) -> list[dict]:
    """One entry for each model and mode: figures, not yet formatted."""
    found = []
    for name, title in MODELS.items():
        for mode in MODES:
            if not (runs / name / "comparisons" / mode / "manifest.json").exists():
                continue
            made = results(runs / name / "quantized" / f"mixed-{mode}-3.5bit")
            compared = results(runs / name / "comparisons" / mode)["sets"]
            keys = ("average_bits", "quantized_ratio", "ratio", "training_seconds", "steps", "best_step")
            sets = {s: {k: compared[s][k] for k in ("wer_a", "wer_b", "difference", "interval_95", "verdict",
                                                    "reference_words")} for s in SETS}  # fmt: skip
            found.append({"model": title, "mode": mode, **{k: made[k] for k in keys}, "sets": sets})
    return found


def row(entry: dict) -> list[str]:
    cells = [entry["model"], entry["mode"], f"{entry['average_bits']:.3f}"]
    cells += [f"{entry['quantized_ratio']:.2f} / {entry['ratio']:.2f}", f"{entry['training_seconds']:.0f}"]
    for name in SETS:
        one = entry["sets"][name]
        low, high = one["interval_95"]
        rates = f"{100 * one['wer_a']:.2f} → {100 * one['wer_b']:.2f}"
        cells.append(f"{rates} ({low:+.2f} to {high:+.2f}): {one['verdict']}")
    return cells


def columns(entries: list[dict]) -> list[str]:
    words = [f"WER % {name}, float → mixed, {entries[0]['sets'][name]['reference_words']:,} words" for name in SETS]
    return ["model", "mode", "average bits", "smaller: quantized part / file", "seconds", *words]


if __name__ == "__main__":
    print_table("Mixed precision (WER with paired 95 % intervals)", summary, columns, row)
