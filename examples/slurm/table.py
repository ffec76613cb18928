"""Prints a markdown table from the run folders that submit.sh filled: a row for each student and test set.

python table.py RUNS

Needs nothing but Python 3.7: whisperq may be in a container. What is not there (yet) is a dash.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

COLUMNS = (
    "encoder layers", "gate", "test set", "words", "WER % float", "WER % INT8 paper", "WER % INT8 gemm",
    "average kurtosis", "max inf norm", "MB float / paper / gemm",
)  # fmt: skip
RECIPES = ("paper", "gemm")
EVALUATIONS = ("distilled-float", *(f"{recipe}-w8a8-emulated" for recipe in RECIPES))
MISSING = "-"


def manifest(folder: Path) -> dict:
    """A finished step's manifest; empty where there is none."""
    path = folder / "manifest.json"
    return json.loads(path.read_text()) if path.is_file() else {"config": {}, "results": {}}


def results(folder: Path) -> dict:
    return manifest(folder)["results"]


def percent(result: dict | None) -> str:
    """The word error rate with its 95 % interval, which one utterance does not have."""
    if result is None:
        return MISSING
    if None in result["wer_interval_95"]:
        return f"{100 * result['wer']:.2f}"
    low, high = (100 * end for end in result["wer_interval_95"])
    return f"{100 * result['wer']:.2f} ({low:.1f}-{high:.1f})"


def statistics(run: Path) -> list[str]:
    """Kurtosis and infinity norm over all attention outputs of the float student."""
    found = results(run / "outliers" / "distilled" / "attention-outputs").get("model", {})
    return [MISSING if found.get(key) is None else f"{found[key]:.2f}" for key in ("kurtosis", "max_inf_norm")]


def megabytes(run: Path) -> str:
    models = [results(run / "quantized" / f"{recipe}-w8a8") for recipe in RECIPES]
    float_bytes = next((model["float_bytes"] for model in models if model), None)
    sizes = [float_bytes, *(model.get("bytes") for model in models)]
    return " / ".join(MISSING if size is None else f"{size / 1e6:.1f}" for size in sizes)


def rows(run: Path) -> list[list[str]]:
    """One student's, a row for each test set."""
    student = manifest(run / "student")["results"]
    name = [str(len(student["layer_map"]["encoder"])), student["gate"]]
    evaluations = [results(run / "eval" / e).get("sets", {}) for e in EVALUATIONS]
    tests = list(dict.fromkeys(test for sets in evaluations for test in sets)) or [MISSING]
    found = []
    for test in tests:
        measured = [sets.get(test) for sets in evaluations]
        words = next((f"{m['reference_words']:,}" for m in measured if m), MISSING)
        found.append([*name, test, words, *map(percent, measured), *statistics(run), megabytes(run)])
    return found


def table(runs: Path) -> list[list[str]]:
    """Deepest students first, the plain one before the gated one."""
    found = [rows(path.parent.parent) for path in runs.glob("*/student/manifest.json")]
    return sum(sorted(found, key=lambda student: (-int(student[0][0]), student[0][1] != "none", student[0][1])), [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, metavar="RUNS")
    lines = [COLUMNS, ["---"] * len(COLUMNS), *table(parser.parse_args().runs)]
    print("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
