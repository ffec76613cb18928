"""Prints the table of ranges.sh from the evaluations that it left.

python ranges.py RUNS [--markdown] [--copy FILE]
"""

import json
from pathlib import Path

from printing import print_table

MODELS = {"whisper": "Whisper student", "wav2vec2": "wav2vec 2.0"}
SCHEMES = ("w8a8", "w4a8", "w4a4")
OBSERVERS = ("ema", "minmax", "percentile", "mse", "stablequant")
SETS = ("takes", "speaker")


def results(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["results"]


def summary(runs: Path) -> list[dict]:
    """One entry for each model, and scheme with its observer: rates with their intervals, not yet formatted."""
    found = []
    for name, title in MODELS.items():
        run = runs / name
        (floats,) = (run / "eval").glob("*-float")
        found.append({"model": title, "scheme": "float", "observer": "-", "snr_db": None, "sets": sets(floats)})
        for scheme in SCHEMES:
            for observer in OBSERVERS:
                quantized = f"{scheme}-{observer}"
                snr = results(run / "sensitivity" / quantized)["everything"]["snr_db"]
                rates = sets(run / "eval" / f"{quantized}-emulated")
                entry = {"model": title, "scheme": scheme.upper(), "observer": observer, "snr_db": snr, "sets": rates}
                found.append(entry)
    return found


def sets(evaluation: Path) -> dict[str, dict]:
    keys = ("wer", "wer_interval_95", "reference_words")
    return {name: {k: found[k] for k in keys} for name, found in results(evaluation)["sets"].items()}


def row(entry: dict) -> list[str]:
    cells = [entry["model"], entry["scheme"], entry["observer"]]
    for name in SETS:
        rate = entry["sets"][name]
        low, high = (100 * end for end in rate["wer_interval_95"])
        cells.append(f"{100 * rate['wer']:.2f} ({low:.1f}-{high:.1f})")
    return [*cells, "-" if entry["snr_db"] is None else f"{entry['snr_db']:.1f}"]


def columns(entries: list[dict]) -> list[str]:
    words = [f"WER % {name}, {entries[0]['sets'][name]['reference_words']:,} words" for name in SETS]
    return ["model", "bits", "observer", *words, "SNR of the logits (dB)"]


if __name__ == "__main__":
    print_table("Range estimators (WER with 95 % intervals)", summary, columns, row)
