"""Prints the table of chain.sh from the manifests that it left, and names the figures and artifacts.

    python table.py RUNS
"""

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

GATES = ("none", "headwise")
MODELS = {"distilled-float": "float", "gemm-w8a8-emulated": "gemm", "paper-w8a8-emulated": "paper"}


def results(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["results"]


def row(runs: Path, gate: str, test: str, statistics: dict) -> list[str]:
    """WER in percent with its words, outlier figures, bytes of the weights."""
    run = runs / gate
    sets = {name: results(run / "eval" / folder)["sets"][test] for folder, name in MODELS.items()}
    sizes = {r: results(run / "quantized" / f"{r}-w8a8") for r in ("gemm", "paper")}
    size = [sizes["gemm"]["float_bytes"], sizes["gemm"]["bytes"], sizes["paper"]["bytes"]]
    return [
        gate,
        test,
        f"{sets['float']['reference_words']:,}",
        *(f"{100 * s['wer']:.2f} ({s['wer_interval_95'][0] * 100:.1f}-{s['wer_interval_95'][1] * 100:.1f})"
          for s in sets.values()),
        f"{statistics['kurtosis']:.2f}",
        f"{statistics['max_inf_norm']:.2f}",
        " / ".join(f"{b / 1e6:.1f}" for b in size),
    ]  # fmt: skip


def main() -> None:
    runs = Path(sys.argv[1])
    console = Console(width=None if sys.stdout.isatty() else 170)
    table = Table(
        "gate", "test set", "words", "WER % float", "WER % INT8 gemm", "WER % INT8 paper",
        "average kurtosis", "max inf norm", "MB float / gemm / paper",
        title="Students of one teacher (95 % intervals)", title_justify="left",
    )  # fmt: skip
    compared = next((runs / "headwise" / "outliers").glob("*/attention-outputs"))
    statistics = results(compared)
    by_gate = {"headwise": statistics["model"], "none": statistics["compare"]}
    for test in results(runs / GATES[0] / "eval" / "distilled-float")["sets"]:
        for gate in GATES:
            table.add_row(*row(runs, gate, test, by_gate[gate]))
    console.print(table)
    console.print(
        f"Kurtosis (Gaussian: 3) and infinity norm over {len(statistics['model']['sites'])} attention outputs "
        f"(gated) and {len(statistics['compare']['sites'])} (plain), float models, {statistics['padding']}.\n"
    )
    for figure in sorted(runs.glob("**/*.png")):
        print(f"figure:   {figure}")
    for manifest in sorted(runs.glob("**/manifest.json")):
        print(f"artifact: {manifest.parent}")


if __name__ == "__main__":
    main()
