"""Kurtosis, infinity norm and six-sigma outliers of a model's tensors."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from whisperq import artifact
from whisperq.config import Source
from whisperq.data.batches import Batch, require_texts, teacher_forced
from whisperq.data.groups import read_all
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, UsageError
from whisperq.models.sites import Site, Watcher, model_sites, resolve, watch
from whisperq.options import Context, OutliersConfig
from whisperq.report.figures import plot_outliers
from whisperq.report.progress import track
from whisperq.runtime.opening import OpenedModel, open_model
from whisperq.scoring.outliers import TensorStatistics, summarize

STATISTICS = "outliers.json"


def outliers(
    model: Path, compare: Path | None, data: Sequence[Source], out: Path, config: OutliersConfig, context: Context
) -> artifact.Artifact:
    """Statistics of each site over the utterances, teacher-forced, as JSON and as the paper's Figure 2.

    With `compare`, a second model stands beside the first. Raises UsageError for a site that does not exist
    or has no hidden dimension.
    """
    group = read_all(data, config.skip_bad)
    utterances = [u for one in group.lists for u in one.utterances[: config.limit]]
    require_texts(utterances, "outlier counting (the decoder sees the references)")
    inputs = {"model": artifact.reference(model), "data": group.reference}
    if compare:
        inputs["compare"] = artifact.reference(compare)
    with artifact.create(out, "outliers", "outliers", context.settings(config), inputs, context.force) as draft:
        models = {"model": model, **({"compare": compare} if compare else {})}
        found = {role: measure(path, utterances, config, context) for role, path in models.items()}
        (draft.folder / STATISTICS).write_text(json.dumps(found, indent=1) + "\n")
        titles = dict(zip(models, distinct_titles([p.resolve() for p in models.values()]), strict=True))
        sites = [s for s in found["model"]["statistics"] if all(s in f["statistics"] for f in found.values())]
        figures = plot_outliers({titles[r]: f["statistics"] for r, f in found.items()}, sites, draft.folder)
        draft.results |= {
            **{role: f["summary"] for role, f in found.items()},
            "titles": titles,
            "padding": "decoder padding masked",
            "utterances": max(s["utterances"] for s in found["model"]["statistics"].values()),
            "top_dimensions": {
                titles[r]: {a: s["top_dimensions"] for a, s in f["statistics"].items()} for r, f in found.items()
            },
            "skipped": group.bad + found["model"]["skipped"],
            "figures": figures,
        }
    return artifact.load(out)


def distinct_titles(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; one model named twice is numbered."""
    longest = max(len(path.parts) for path in paths)
    for length in range(1, longest + 1):
        titles = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(titles)) == len(titles):
            return titles
    return [f"{path.name} ({i})" for i, path in enumerate(paths, 1)]


def measure(model: Path, utterances: Sequence[Utterance], config: OutliersConfig, context: Context) -> dict[str, Any]:
    """Statistics by site, and their summary, of one model."""
    with open_model(model, context, config.skip_bad) as opened:
        sites = model_sites(opened.model)
        addresses = choose_sites(config.layer, sites)
        statistics = {a: TensorStatistics() for a in addresses}
        run(opened, utterances, statistics, config.batch_size)
        figures = {a: s.as_dict() for a, s in statistics.items()}
        summary = summarize(figures)
        return artifact.plain({"summary": summary, "statistics": figures, "skipped": len(opened.loader.skipped)})


def choose_sites(layer: str | None, sites: dict[str, Site]) -> list[str]:
    """The named sites, or every attention output."""
    if layer is None:
        return [a for a, s in sites.items() if s.component == "out_proj"]
    addresses = resolve(layer, sites)
    if flat := [a for a in addresses if sites[a].component in ("scores", "probs", "gate")]:
        raise UsageError(f"{flat[0]} has no hidden dimension to count outliers in; name its out_proj or context")
    return addresses


@torch.inference_mode()
def run(
    opened: OpenedModel, utterances: Sequence[Utterance], statistics: dict[str, TensorStatistics], size: int
) -> None:
    sites = model_sites(opened.model)
    batches = opened.loader.labelled_batches(utterances, size)
    seen = 0
    for batch in track(batches, -(-len(utterances) // size), "outliers", "batches"):
        watchers = {a: watcher(s, sites[a], batch) for a, s in statistics.items()}
        with watch(opened.model, sites, watchers):
            teacher_forced(opened.model, batch, opened.loader.device)
        seen += len(batch.utterances)
    if not seen:
        raise InputError("no usable utterance is left to count outliers in")


def watcher(statistics: TensorStatistics, site: Site, batch: Batch) -> Watcher:
    def see(x: torch.Tensor) -> None:
        for utterance, tensor in zip(batch.utterances, site.utterances(x, batch.tokens.lengths), strict=True):
            try:
                statistics.update(tensor)
            except ValueError as error:
                raise InputError(f"{site.address}, utterance {utterance.id}: {error}") from error

    return see
