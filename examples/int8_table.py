"""Prints the table of int8.sh from the artifacts that it left.

python int8_table.py RUN
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from whisperq.scoring.normalizers import get_normalizer

COLUMNS = ("model", "MB float -> INT8", "words", "WER % float", "WER % INT8", "equal texts", "RTFx float -> INT8")
NOTE = (
    "A smoke check on {count} synthesised sentences that calibration has not used: it shows that the model works.\n"
    "How good it is, your own recordings tell: whisperq eval --test NAME=LIST"
)


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def hypotheses(evaluation: Path) -> list[str]:
    """Words of all hypotheses, without case and punctuation."""
    normalize = get_normalizer("basic")
    lines = (evaluation / "hypotheses" / "check.jsonl").read_text().splitlines()
    return [normalize(json.loads(line)["pred_text"]) for line in lines]


def row(run: Path) -> list[str]:
    quantized = manifest(next((run / "quantized").glob("*/manifest.json")).parent)
    size, name = quantized["results"], Path(quantized["inputs"]["model"]["path"]).name
    places = [run / "eval" / kind for kind in ("float", "int8")]
    results = [manifest(place)["results"]["sets"]["check"] for place in places]
    pairs = list(zip(*map(hypotheses, places), strict=True))
    return [
        name,
        f"{size['float_bytes'] / 1e6:.1f} -> {size['bytes'] / 1e6:.1f}",
        f"{results[0]['reference_words']:,}",
        *(f"{100 * result['wer']:.2f}" for result in results),
        f"{sum(a == b for a, b in pairs)} of {len(pairs)}",
        " -> ".join(f"{result['rtfx']:.1f}" for result in results),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    table = Table(*COLUMNS)
    table.add_row(*row(run))
    console = Console(width=130)
    console.print()
    console.print(table)
    count = len(hypotheses(run / "eval" / "int8"))
    console.print(NOTE.format(count=count), highlight=False)


if __name__ == "__main__":
    main()
