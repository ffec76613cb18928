"""Kurtosis, infinity norm and six-sigma outliers of a model's tensors.

Several processes each observe every world-th batch; the statistics are bit by bit those of one.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from whisperq import artifact
from whisperq.config import Source
from whisperq.data.batches import require_texts, teacher_forced
from whisperq.data.lazy import Joined
from whisperq.data.sources import read_all
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, UsageError
from whisperq.jobs.distributed import Processes, joined
from whisperq.jobs.progress import say, say_left_out, track
from whisperq.kinds.observations import Compared, MassiveOfModels, Outliers
from whisperq.models.loading import compute_device
from whisperq.models.sites import Site, block_sites, model_sites, resolve, watch
from whisperq.options import OutliersConfig
from whisperq.quant.reading import Later
from whisperq.report.figures import plot_outliers
from whisperq.report.massive import plot_massive
from whisperq.runtime.open import OpenedModel, open_model
from whisperq.runtime.site_statistics import watcher
from whisperq.scoring.by_role import SiteStatistics, largest_values, summarize_roles
from whisperq.scoring.outliers import summarize
from whisperq.settings import Context

STATISTICS = "outliers.json"
INNER = ("scores", "probs", "gate")  # of attention: they have no hidden dimension
LARGEST = 24  # sites in a summary


def outliers(
    model: Path, compare: Path | None, data: Sequence[Source], out: Path, config: OutliersConfig, context: Context
) -> artifact.Artifact:
    """Statistics of each site over the utterances, teacher-forced, as JSON and as the paper's Figure 2.

    With `compare`, a second model stands beside the first. Raises UsageError for a site that does not exist
    or has no hidden dimension.
    """
    group = read_all(data, config.skip_bad)
    utterances = Joined([one.utterances[: config.limit] for one in group.lists])
    inputs = {"model": artifact.reference(model), "data": group.reference}
    if compare:
        inputs["compare"] = artifact.reference(compare)
    settings, models = context.settings(config), {"model": model, **({"compare": compare} if compare else {})}
    with joined(compute_device(context.device)) as processes:
        with artifact.create(out, "outliers", "outliers", settings, inputs, context.force) as draft:
            found = {role: measure(path, utterances, config, context, processes) for role, path in models.items()}
            if processes.main:
                titles = dict(zip(models, distinct_titles([p.resolve() for p in models.values()]), strict=True))
                draft.results |= report(found, titles, group.bad, draft.folder)
                say_left_out(group.skipped)
        return processes.result(out)


def report(found: dict[str, dict[str, Any]], titles: dict[str, str], bad: int, folder: Path) -> Outliers:
    """outliers.json and the figures, written into `folder`, and what of them is worth a summary."""
    (folder / STATISTICS).write_text(json.dumps(found, indent=1) + "\n")
    models = {titles[r]: f["statistics"] for r, f in found.items()}
    figures, massive = plot_outliers(*side_by_side(models), folder), MassiveOfModels()
    if all("massive" in s for statistics in models.values() for s in statistics.values()):
        figures = [*plot_massive(models, folder), *figures]
        massive = {"massive": {title: largest_values(s, LARGEST) for title, s in models.items()}}
    compared: Compared = {"compare": found["compare"]["summary"]} if "compare" in found else {}
    return {
        "model": found["model"]["summary"],
        **compared,
        "titles": titles,
        "padding": found["model"]["padding"],
        "utterances": max(s["utterances"] for s in found["model"]["statistics"].values()),
        "top_dimensions": {
            title: {a: s["top_dimensions"] for a, s in statistics.items()} for title, statistics in models.items()
        },
        **massive,
        "skipped": bad + found["model"]["skipped"],
        "figures": figures,
    }


def side_by_side(models: Mapping[str, dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """What the figures show: each model's (title -> site -> statistics), and the sites that both have.

    Where they have none in common, as the last layers of models of different depth, their sites stand side by side in
    order, under both addresses.
    """
    common = [s for s in next(iter(models.values())) if all(s in statistics for statistics in models.values())]
    counts = [len(statistics) for statistics in models.values()]
    if not common and len(set(counts)) == 1:
        names = [", ".join(pair) for pair in zip(*models.values(), strict=True)]
        return {title: dict(zip(names, s.values(), strict=True)) for title, s in models.items()}, names
    if len(common) < max(counts):
        of_all = " and ".join(map(str, counts))
        say(f"notice: the figures show the sites that both models have, {len(common)} of {of_all}")
    return dict(models), common


def distinct_titles(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; one model named twice is numbered."""
    longest = max(len(path.parts) for path in paths)
    for length in range(1, longest + 1):
        titles = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(titles)) == len(titles):
            return titles
    return [f"{path.name} ({i})" for i, path in enumerate(paths, 1)]


def measure(
    model: Path, utterances: Sequence[Utterance], config: OutliersConfig, context: Context, processes: Processes
) -> dict[str, Any]:
    """Statistics by site, and their summary, of one model."""
    with open_model(model, context, config.skip_bad) as opened:
        if opened.loader.needs_text:
            require_texts(utterances, "outlier counting (the decoder sees the references)")
        chosen = choose_sites(config, model_sites(opened.model))
        own = {a: SiteStatistics(bool(config.massive)) for a in chosen}
        seen = run(opened, utterances, own, config.batch_size, processes)
        if not sum(processes.gather(seen)):
            raise InputError("no usable utterance is left to count outliers in")
        statistics, *others = processes.gather(own)
        for address, other in ((a, s) for shard in others for a, s in shard.items()):
            statistics[address].merge(other)
        skipped = set().union(*processes.gather(opened.loader.skipped))
        say_left_out(sorted(skipped))
        figures = {a: s.as_dict() for a, s in statistics.items()}
        return artifact.plain(
            {
                "summary": summarize(figures) | {"roles": summarize_roles(figures)},
                "statistics": figures,
                "skipped": len(skipped),
                "padding": opened.loader.padding,
            }
        )


def choose_sites(config: OutliersConfig, sites: dict[str, Site]) -> list[str]:
    """The named sites, or every attention output, or for massive values all of the blocks that have channels."""
    if config.layer is None and config.massive:
        return [a for a in block_sites(sites) if sites[a].component not in INNER]
    if config.layer is None:
        return [a for a, s in sites.items() if s.component == "out_proj"]
    addresses = resolve(config.layer, sites)
    if flat := [a for a in addresses if sites[a].component in INNER]:
        raise UsageError(f"{flat[0]} has no hidden dimension to count outliers in; name its out_proj or context")
    return addresses


@torch.inference_mode()
def run(
    opened: OpenedModel,
    utterances: Sequence[Utterance],
    statistics: dict[str, SiteStatistics],
    size: int,
    processes: Processes,
) -> int:
    """Let the statistics see this process's share; how many utterances that were."""
    sites = model_sites(opened.model)
    total = len(processes.share(range(-(-len(utterances) // size))))
    seen = 0
    for _, part in track(processes.batches(utterances, size), total, "outliers", "batches"):
        batch = opened.loader.labelled(part)
        if batch is None:
            continue
        later = Later()
        watchers = {a: watcher(s, sites[a], batch, opened.loader, later) for a, s in statistics.items()}
        with watch(opened.model, sites, watchers):
            teacher_forced(opened.model, batch, opened.loader.device)
        later.read()  # here, and nowhere else, a GPU is waited for
        seen += len(batch.utterances)
    return seen
