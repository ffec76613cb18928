"""The tables of RESULTS.md from the CSV files of grid.sh's report.

python grid.py REPORT [--copy FOLDER]
"""

import argparse
import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from whisperq.results.cells import in_brackets
from whisperq.scoring.two_way_bootstrap import t_interval

FILES = ("table1", "table2", "costs", "distortion")
LOCAL = ("data", "manifests")  # columns that name places on one machine
SETS = ("takes", "speaker")
GATES = ("none", "headwise", "shared", "per-head", "mlp", "elementwise")
Record = Mapping[str, str]


def read(folder: Path) -> dict[str, list[Record]]:
    tables = {}
    for name in FILES:
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            tables[name] = [{k: v for k, v in record.items() if k not in LOCAL} for record in csv.DictReader(file)]
    return tables


def write(tables: Mapping[str, Sequence[Record]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(records[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(records)


def some(records: Iterable[Record], **wanted: str) -> list[Record]:
    return [r for r in records if all(r[k] == v for k, v in wanted.items())]


def models(records: Iterable[Record], training: str, **wanted: str) -> list[dict[str, str]]:
    """Depth and gate of the students of one training, the deepest first."""
    found = {(int(r["encoder_layers"]), GATES.index(r["gate"])) for r in some(records, training=training, **wanted)}
    ordered = sorted(found, key=lambda pair: (-pair[0], pair[1]))
    return [{"training": training, "encoder_layers": str(n), "gate": GATES[g]} for n, g in ordered]


def rate(tables: Mapping, test: str, **model: str) -> str:
    """WER in percent with its 95 % interval."""
    found = [r for r in some(tables["table2"], **model) if r["set"].startswith(f"{test} (")]
    if not found:
        return "-"
    (one,) = found
    return f"{float(one['wer_percent']):.2f} ({float(one['low_95']):.1f}-{float(one['high_95']):.1f})"


def cost(tables: Mapping, test: str, **model: str) -> str:
    """What it loses against float, in points, with the paired 95 % interval."""
    found = [r for r in some(tables["costs"], **model) if r["set"].startswith(f"{test} (")]
    if not found:
        return "-"
    (one,) = found
    low, high = float(one["difference_low_95"]), float(one["difference_high_95"])
    return in_brackets(float(one["difference"]), (low, high))


def over_seeds(values: Sequence[float], written: Callable[[float], str]) -> str:
    ends = t_interval(values)
    return written(fmean(values)) + (f" ({written(ends[0])}-{written(ends[1])})" if ends else "")


def kl(tables: Mapping, **model: str) -> str:
    """Thousandths of a nat per token: the geometric mean of the seeds, with its 95 % interval."""
    found = [math.log(float(r["kl_nats"])) for r in some(tables["distortion"], **model)]
    return over_seeds(found, lambda x: f"{1000 * math.exp(x):.3g}") if found else "-"


def outliers(tables: Mapping, key: str, **model: str) -> str:
    found = [float(r[key]) for r in some(tables["table1"], **model)]
    return over_seeds(found, "{:.2f}".format) if found else "-"


def seeds(tables: Mapping, **model: str) -> str:
    return str(len(some(tables["table1"], **model)))


def markdown(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines), ""])


def rates_table(tables: Mapping) -> str:
    rows = []
    for model in models(tables["table2"], "students"):
        if model["gate"] in GATES[:2]:
            numbers = ("float", "gemm W8A8", "paper W8A8")
            cells = [rate(tables, test, numbers=n, **model) for test in SETS for n in numbers]
            rows.append([f"{model['encoder_layers']} + 2", model["gate"], *cells])
    kinds = [f"{test}, {numbers}" for test in SETS for numbers in ("float", "gemm W8A8", "paper W8A8")]
    return markdown("Word error rates in percent", ["layers", "gate", *kinds], rows)


def costs_table(tables: Mapping) -> str:
    rows = []
    for model in models(tables["costs"], "students", numbers="gemm W8A8"):
        if model["gate"] in GATES[:2]:
            cells = [cost(tables, test, numbers=f"{r} W8A8", **model) for test in SETS for r in ("gemm", "paper")]
            divergences = [kl(tables, numbers=f"{recipe} W8A8", **model) for recipe in ("gemm", "paper")]
            rows.append([f"{model['encoder_layers']} + 2", model["gate"], *cells, *divergences])
    kinds = [f"{test}, {recipe}" for test in SETS for recipe in ("gemm", "paper")]
    columns = ["layers", "gate", *kinds, "KL gemm", "KL paper"]
    return markdown("What W8A8 costs: points of WER, and KL in thousandths of a nat per token", columns, rows)


def outliers_table(tables: Mapping) -> str:
    rows = []
    for training in sorted({r["training"] for r in tables["table1"]}, key=lambda t: (t != "students", t)):
        for model in models(tables["table1"], training, name="student"):
            figures = [outliers(tables, key, **model) for key in ("kurtosis", "max_inf_norm")]
            floats = [rate(tables, test, numbers="float", **model) for test in SETS]
            divergence = kl(tables, numbers="paper W8A8", **model)
            layers = f"{model['encoder_layers']} + 2"
            rows.append([training, layers, model["gate"], seeds(tables, **model), *figures, *floats, divergence])
    columns = ["training", "layers", "gate", "seeds", "average kurtosis", "infinity norm"]
    columns += [*(f"float WER {test}" for test in SETS), "KL paper W8A8"]
    return markdown("Outliers of the attention outputs, by gate and by training", columns, rows)


def bits_table(tables: Mapping) -> str:
    rows = []
    for scheme in ("gemm W8A8", "gemm W8A6", "gemm W8A5", "paper W8A8", "paper W8A6", "paper W8A5"):
        for model in models(tables["costs"], "students", numbers=scheme, encoder_layers="3"):
            cells = [cost(tables, test, numbers=scheme, **model) for test in SETS]
            rows.append([scheme, model["gate"], kl(tables, numbers=scheme, **model), *cells])
    columns = ["numbers", "gate", "KL", *(f"points of WER, {test}" for test in SETS)]
    return markdown("Fewer bits and all gates, 3 + 2 layers", columns, rows)


def planted_table(tables: Mapping) -> str:
    rows = []
    for name in sorted(
        {r["name"] for r in tables["costs"] if r["name"].startswith("planted-")}, key=lambda n: (len(n), n)
    ):
        for numbers in dict.fromkeys(r["numbers"] for r in some(tables["costs"], name=name)):
            for gate in GATES[:2]:
                model = {"name": name, "gate": gate, "numbers": numbers}
                cells = [rate(tables, test, **model) for test in SETS]
                rows.append([name.removeprefix("planted-"), numbers, gate, kl(tables, **model), *cells])
    columns = ["factor", "numbers", "gate", "KL", *(f"WER {test}" for test in SETS)]
    return markdown("Planted outliers, W8A8", columns, rows)


TABLES = (rates_table, costs_table, outliers_table, bits_table, planted_table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--copy", type=Path, help="also leave the CSV files there, without this machine's paths")
    args = parser.parse_args()
    tables = read(args.report)
    if args.copy:
        write(tables, args.copy)
    print("\n".join(table(tables) for table in TABLES))


if __name__ == "__main__":
    main()
