"""How far massive values are spread: the share of rows of the encoder's last residual sum with a magnitude above 100.

python spread.py MODEL LIST... --limit 24 --out spread.json

Above 100 a value may be massive (Sun et al. 2024, arXiv 2402.17762, section 2). Kurtosis falls where large values
shrink, and also where many rows get one; this tells the two apart. The standard deviation is that of all values of a
role.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from whisperq.config import Source
from whisperq.data.batches import Batch, Loader, teacher_forced
from whisperq.data.sources import read_all
from whisperq.disk import replace
from whisperq.models.sites import Site, model_sites, resolve, watch
from whisperq.runtime.open import open_model
from whisperq.scoring.massive import MAGNITUDE
from whisperq.settings import Context

SITE, BATCH = "enc.-1.mlp_sum", 8


def parts(model: Path, lists: Sequence[str], limit: int) -> Iterator[tuple[str, Tensor]]:
    """Role, and the rows (rows, width) of it, of one utterance after the other."""
    utterances = [u for one in read_all([Source(path=name) for name in lists]).lists for u in one.utterances[:limit]]
    with open_model(model, Context()) as opened, torch.inference_mode():
        sites = model_sites(opened.model)
        (address,) = resolve(SITE, sites)
        for start in range(0, len(utterances), BATCH):
            batch = opened.loader.labelled(utterances[start : start + BATCH])
            seen: list[Tensor] = []
            with watch(opened.model, sites, {address: seen.append}):
                teacher_forced(opened.model, batch, opened.loader.device)
            yield from by_role(seen[0], sites[address], batch, opened.loader)


def by_role(x: Tensor, site: Site, batch: Batch, loader: Loader) -> Iterator[tuple[str, Tensor]]:
    for number, rows in enumerate(site.utterances(x, batch.lengths)):
        for role, which in loader.roles(batch, number, site.axis, len(rows)).items():
            yield role, rows[which.start : which.stop].cpu().double()


def spread(found: Iterator[tuple[str, Tensor]]) -> dict[str, dict[str, float]]:
    """By role: rows, the share of them with a magnitude above 100, and the standard deviation of all values."""
    sums: dict[str, Tensor] = {}
    for role, x in found:
        large = (x.abs() > MAGNITUDE).any(dim=1).sum()
        one = torch.stack([torch.tensor(len(x)), large, torch.tensor(x.numel()), x.sum(), x.square().sum()])
        sums[role] = sums.get(role, torch.zeros(5, dtype=torch.float64)) + one
    figures = {}
    for role, (rows, large, count, total, squares) in ((r, s.tolist()) for r, s in sums.items()):
        if rows:
            deviation = max(0.0, squares / count - (total / count) ** 2) ** 0.5
            figures[role] = {"rows": int(rows), "share": large / rows, "deviation": deviation}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("lists", nargs="+", help="utterance lists")
    parser.add_argument("--limit", type=int, default=24, help="first N utterances of each")
    parser.add_argument("--out", type=Path, required=True, help="file of the figures; one that is there stays")
    options = parser.parse_args()
    if not options.out.exists():
        figures = spread(parts(options.model, options.lists, options.limit))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        replace(options.out, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
