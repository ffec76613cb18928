"""Activation ranges of every site, from a few batches of validation data, teacher-forced."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from whisperq import artifact
from whisperq.config import Source
from whisperq.data.batches import Batch, epoch_order, teacher_forced
from whisperq.data.groups import identity, read_all
from whisperq.errors import InputError, UsageError
from whisperq.models.sites import Watcher, model_sites, resolve, watch
from whisperq.options import CalibrateConfig, Context
from whisperq.quant.ranges import SiteRange
from whisperq.report.progress import say, track
from whisperq.runtime.opening import OpenedModel, open_model, with_hypotheses

RANGES = "ranges.json"


def calibrate(
    model: Path, data: Sequence[Source], test: Sequence[Source], out: Path, config: CalibrateConfig, context: Context
) -> artifact.Artifact:
    """Observe each site in `config.batches` batches and estimate its range.

    Decoder sites see the references (greedy hypotheses where there are none), padding masked; the encoder sees
    whole windows, silence kept, as in use.
    Raises UsageError where `data` is also named as test data, InputError for data that cannot be used.
    """
    refuse_test_data(data, test)
    data_list = read_all(data, config.skip_bad)
    inputs = {"model": artifact.reference(model), "data": data_list.reference}
    with (
        artifact.create(out, "calibration", "calibrate", context.settings(config), inputs, context.force) as draft,
        open_model(model, context, config.skip_bad) as opened,
    ):
        if opened.runtime.name != "float":
            raise InputError(f"{model} is quantized already; calibrate the float model that it was made from")
        sites = model_sites(opened.model)
        chosen = resolve(config.sites, sites) if config.sites else list(sites)
        ranges = {a: SiteRange(config.observer) for a in chosen}
        # Drawn from all sources: the first batches of the first list would be one speaker or corpus.
        drawn = [data_list.utterances[i] for i in epoch_order(len(data_list.utterances), context.seed, epoch=0)]
        drawn = with_hypotheses(opened, drawn[: config.batches * config.batch_size], config.batch_size)
        used = observe(opened, drawn, ranges, config)
        final = write_ranges(ranges, config, draft.folder)
        widest = sorted(final, key=lambda a: final[a][0] - final[a][1])
        draft.results |= {
            **used,
            "sites": len(ranges),
            "observer": config.observer,
            "decoder_padding": "masked",
            "skipped": len(opened.loader.skipped) + data_list.bad,
            "widest": [[a, *final[a]] for a in widest[:5]],
        }
    return artifact.load(out)


def write_ranges(ranges: dict[str, SiteRange], config: CalibrateConfig, folder: Path) -> dict[str, list[float]]:
    """ranges.json: every batch's minimum and maximum, and the range that the observer makes of them; returns those."""
    bits = config.activation_bits or 8
    content = {
        "observer": config.observer,
        "momentum": config.momentum,
        "percentile": config.percentile,
        "activation_bits": bits if config.observer == "mse" else None,
        "sites": {a: r.as_dict(config.momentum, config.percentile, bits) for a, r in ranges.items()},
    }
    (folder / RANGES).write_text(json.dumps(content) + "\n")
    return {a: entry["range"] for a, entry in content["sites"].items()}


def refuse_test_data(data: Sequence[Source], test: Sequence[Source]) -> None:
    """Ranges that have seen the test set make its word error rate worthless."""
    forbidden = {identity(s): s.name for s in test}
    for source in data:
        if name := forbidden.get(identity(source)):
            raise UsageError(
                f"{source.title} is the test set {name!r} of the configuration: calibrate on validation data"
            )


@torch.inference_mode()
def observe(opened: OpenedModel, utterances: Sequence, ranges: dict[str, SiteRange], config: CalibrateConfig) -> dict:
    """Run the model over the batches and let each site's range grow; counts what was used."""
    seen = {"batches": 0, "utterances": 0, "audio_seconds": 0.0}
    sites = model_sites(opened.model)
    batches = opened.loader.labelled_batches(utterances, config.batch_size)
    for batch in track(batches, -(-len(utterances) // config.batch_size), "calibrate", "batches"):
        watchers = {a: watcher(ranges[a], sites[a], batch) for a in ranges}
        with watch(opened.model, sites, watchers):
            teacher_forced(opened.model, batch, opened.loader.device)
        seen["batches"] += 1
        seen["utterances"] += len(batch.utterances)
        seen["audio_seconds"] += batch.seconds
    if not seen["batches"]:
        raise InputError("no usable calibration utterance is left")
    if seen["batches"] < config.batches:
        say(f"warning: the data holds {seen['batches']} batches of the {config.batches} asked for")
    return {**seen, "batches_asked": config.batches}


def watcher(site_range: SiteRange, site, batch: Batch) -> Watcher:
    def see(x: torch.Tensor) -> None:
        try:
            site_range.observe(site.utterances(x, batch.tokens.lengths))
        except ValueError as error:
            ids = ", ".join(u.id for u in batch.utterances)
            raise InputError(f"{site.address} holds {error} in the batch of {ids}") from error

    return see
