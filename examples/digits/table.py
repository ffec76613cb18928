"""Prints the table of chain.sh from the manifests that it left, and names the figures and artifacts.

python table.py RUNS [--markdown]
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

GATES = ("none", "headwise")
EVALUATIONS = ("distilled-float", "gemm-w8a8-emulated", "paper-w8a8-emulated")
COLUMNS = (
    "model", "test set", "words", "WER % float", "WER % INT8 gemm", "WER % INT8 paper",
    "average kurtosis", "max inf norm", "MB float / gemm / paper",
)  # fmt: skip


def results(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["results"]


def wer(evaluation: Path, test: str) -> str:
    """Percent, with the 95 % interval."""
    result = results(evaluation)["sets"][test]
    low, high = (100 * end for end in result["wer_interval_95"])
    return f"{100 * result['wer']:.2f} ({low:.1f}-{high:.1f})"


def student_row(runs: Path, gate: str, test: str, statistics: dict) -> list[str]:
    run = runs / gate
    sizes = [results(run / "quantized" / f"{recipe}-w8a8") for recipe in ("gemm", "paper")]
    megabytes = [sizes[0]["float_bytes"], *(s["bytes"] for s in sizes)]
    return [
        f"student, gate {gate}",
        *(wer(run / "eval" / name, test) for name in EVALUATIONS),
        f"{statistics['kurtosis']:.2f}",
        f"{statistics['max_inf_norm']:.2f}",
        " / ".join(f"{size / 1e6:.1f}" for size in megabytes),
    ]


def rows(runs: Path) -> list[list[str]]:
    """Teacher, plain and gated student for each test set."""
    teacher = runs / "teacher" / "eval" / "teacher-float"
    compared = results(next((runs / "headwise" / "outliers").glob("*/attention-outputs")))
    statistics = {"headwise": compared["model"], "none": compared["compare"]}
    found = []
    for test, result in results(teacher)["sets"].items():
        lines = [["teacher", wer(teacher, test), *["-"] * 5]]
        lines += [student_row(runs, gate, test, statistics[gate]) for gate in GATES]
        found += [[line[0], test, f"{result['reference_words']:,}", *line[1:]] for line in lines]
    return found


def print_table(lines: list[list[str]]) -> None:
    table = Table(*COLUMNS, title="Teacher and students (WER with 95 % intervals)", title_justify="left")
    for line in lines:
        table.add_row(*line)
    Console(width=175).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--markdown", action="store_true", help="the table alone, for a document")
    args = parser.parse_args()
    if args.markdown:
        lines = [COLUMNS, ["---"] * len(COLUMNS), *rows(args.runs)]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return
    print_table(rows(args.runs))
    print("Kurtosis (Gaussian: 3) and infinity norm over all attention outputs of the float students,")
    print("decoder padding masked.\n")
    for kind, pattern in (("figure", "**/*.png"), ("artifact", "**/manifest.json")):
        for path in sorted(args.runs.glob(pattern)):
            print(f"{kind}: {path if kind == 'figure' else path.parent}")


if __name__ == "__main__":
    main()
