"""The tables and figures of atlas.sh: atlas.md and MODEL-atlas.png of what `whisperq outliers --massive` has found.

python atlas.py ARTIFACT... --out RESULTS
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from figures import copy
from rich.table import Table

from whisperq import artifact
from whisperq.report.outlier_summary import massive_table
from whisperq.results.cells import figure, markdown, table

KINDS = ("out_proj", "fc2:input", "mlp_sum")  # where the paper looks; where massive values are made; where they stay
NOTE = (
    "Made by atlas.sh; the artifacts' outliers.json holds every site and its eight largest channels by role of rows. "
    "Massive: magnitude above 100 and at least 1,000 times the median of the utterance's tensor (-: that is zero). The "
    "largest value of each site that has one above 100; in how many utterances its channel is massive in rows of that "
    "role, and in how many it holds the site's largest value."
)


def by_role(title: str, statistics: dict[str, Any]) -> Table:
    """Kurtosis and infinity norm, mean over the sites of a kind in encoder or decoder, self-attention's alone."""
    result = table(f"By rows, {title}", "sites", "rows", "#kurtosis", "#infinity norm", "#six-sigma per million")
    for part in ("enc", "dec"):
        for kind in KINDS:
            sites = [s for a, s in statistics.items() if a.startswith(f"{part}.") and a.split(".")[2:] == [kind]]
            for role in ("all", *sites[0]["roles"]):
                some = [s if role == "all" else s["roles"][role] for s in sites]
                means = [sum(s[key] for s in some) / len(some) for key in ("kurtosis", "inf_norm")]
                rate = 1e6 * sum(s["outliers"] for s in some) / sum(s["values"] for s in some)
                result.add_row(f"{part}.*.{kind}", role, *(figure(m, 1) for m in means), figure(rate, 1))
    return result


def tables(found: artifact.Artifact) -> Iterator[Table]:
    statistics = json.loads((found.path / "outliers.json").read_text())["model"]["statistics"]
    for title, massive in found.results["massive"].items():
        yield massive_table(title, massive, found.results["utterances"])
        yield by_role(title, statistics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("atlases", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    parts = ["# Where Whisper's massive values are", NOTE]
    for found in map(artifact.load, args.atlases):
        title = next(iter(found.results["massive"]))
        copy(found.path, args.out / f"{title}-atlas.png", "massive")
        count = f"{found.results['utterances']} utterances; {found.results['padding']}"
        parts += [f"## {title}: {count}", markdown(list(tables(found)))]
    (args.out / "atlas.md").write_text("\n\n".join(parts).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
