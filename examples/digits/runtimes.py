"""Prints the table of runtimes.sh from the evaluations that it left.

python runtimes.py RUNS [--markdown] [--copy FOLDER]
"""

import json
from pathlib import Path

from printing import print_table

REFERENCE = "gemm-w8a8-emulated"
ROWS = {
    "distilled-float": "float model",
    REFERENCE: "INT8 emulated",
    "gemm-w8a8-int8": "INT8 int8",
    "gemm-w8a8-int8-float32": "INT8 int8, float32 attention",
    "gemm-w8a8-onnx": "INT8 onnx",
    "gemm-w8a8-openvino": "INT8 openvino",
}
COLUMNS = ("runtime", "test set", "words", "WER %", "transcripts as emulated %", "RTFx", "products in integers")


def transcripts(evaluation: Path, test: str) -> dict[str, str]:
    lines = (evaluation / "hypotheses" / f"{test}.jsonl").read_text().splitlines()
    return {(entry := json.loads(line))["id"]: entry["pred_text"] for line in lines}


def summary(evaluations: Path) -> list[dict]:
    """One entry for each test set and runtime: counts and rates, not yet formatted."""
    found = []
    manifests = {name: json.loads((evaluations / name / "manifest.json").read_text())["results"] for name in ROWS}
    for test in manifests[REFERENCE]["sets"]:
        expected = transcripts(evaluations / REFERENCE, test)
        for name, results in manifests.items():
            texts = transcripts(evaluations / name, test)
            integer = results["integer_products"]
            found.append({
                "runtime": ROWS[name], "set": test, "words": results["sets"][test]["reference_words"],
                "wer": results["sets"][test]["wer"], "rtfx": results["sets"][test]["rtfx"],
                "equal": sum(texts[i] == expected[i] for i in expected) / len(expected),
                "integer": integer, "products": integer + len(results["float_products"]),
            })  # fmt: skip
    return found


def row(entry: dict) -> list[str]:
    return [
        entry["runtime"], entry["set"], f"{entry['words']:,}", f"{100 * entry['wer']:.2f}",
        f"{100 * entry['equal']:.1f}", f"{entry['rtfx']:.0f}", f"{entry['integer']} of {entry['products']}",
    ]  # fmt: skip


if __name__ == "__main__":
    title = "The gated student under every runtime"
    print_table(title, lambda runs: summary(runs / "headwise" / "eval"), lambda _: COLUMNS, row)
