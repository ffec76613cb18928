"""Activation ranges of every site, from a few batches of validation data, teacher-forced; and of channels, to smooth.

Several processes each observe every world-th batch; what is written is what one would have found alone.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from whisperq import artifact
from whisperq.config import Source
from whisperq.data.batches import Batch, epoch_order, teacher_forced
from whisperq.data.groups import identity, read_all
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, UsageError
from whisperq.flags import Context
from whisperq.models.loading import compute_device
from whisperq.models.norms import norm_readers, write_channels
from whisperq.models.sites import Site, Watcher, model_sites, resolve, watch
from whisperq.options import CalibrateConfig
from whisperq.quant.ranges import SiteRange
from whisperq.quant.smoothing import ChannelExtrema
from whisperq.report.progress import say, track
from whisperq.runtime.opening import OpenedModel, open_model, with_hypotheses
from whisperq.runtime.transcription import Hypothesis, transcribe
from whisperq.training.distributed import Processes, joined

RANGES = "ranges.json"
Merging = TypeVar("Merging", SiteRange, ChannelExtrema)


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
    settings = context.settings(config)
    with joined(compute_device(context.device)) as processes:
        with (
            artifact.create(out, "calibration", "calibrate", settings, inputs, context.force) as draft,
            open_model(model, context, config.skip_bad) as opened,
        ):
            if opened.runtime.name != "float":
                raise InputError(f"{model} is quantized already; calibrate the float model that it was made from")
            drawn = draw(data_list.utterances, opened, config, context.seed, processes)
            ranges, channels, used = observe(opened, drawn, config, processes)
            final = write_ranges(ranges, config, draft.folder)
            if channels:
                write_channels(channels, draft.folder)
            widest = sorted(final, key=lambda a: final[a][0] - final[a][1])
            skipped = set().union(*processes.gather(opened.loader.skipped))
            draft.results |= {
                **used,
                "sites": len(ranges),
                "channel_maxima": len(channels),
                "observer": config.observer,
                "decoder_padding": "masked",
                "skipped": len(skipped) + data_list.bad,
                "widest": [[a, *final[a]] for a in widest[:5]],
            }
        return processes.result(out)


def draw(
    utterances: Sequence[Utterance], opened: OpenedModel, config: CalibrateConfig, seed: int, processes: Processes
) -> list[Utterance]:
    """As many as are asked for, each with a text.

    Drawn from all sources: the first batches of the first list would be one speaker or corpus.
    """

    def listen(silent: Sequence[Utterance]) -> list[Hypothesis]:
        """By all processes, a batch each in turn."""
        heard = (opened.runtime, opened.loader, opened.rules)
        own = processes.batches(silent, config.batch_size)
        return processes.collect(
            (n, h.without_sound()) for n, part in own for h in transcribe(*heard, part, config.batch_size)
        )

    order = epoch_order(len(utterances), seed, epoch=0)[: config.batches * config.batch_size]
    return with_hypotheses(opened, [utterances[i] for i in order], config.batch_size, listen)


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
def observe(
    opened: OpenedModel, utterances: Sequence[Utterance], config: CalibrateConfig, processes: Processes
) -> tuple[dict[str, SiteRange], dict[str, ChannelExtrema], dict[str, Any]]:
    """Run the model over the batches and let each chosen site's range grow; counts what was used.

    Of the norms that smoothing folds into the ends of every channel too, where they are asked for.
    """
    sites = model_sites(opened.model)
    chosen = resolve(config.sites, sites) if config.sites else list(sites)
    ranges = {a: SiteRange(config.observer) for a in chosen}
    smoothable = norm_readers(opened.model) if config.channel_maxima else {}
    channels = {a: ChannelExtrema() for a in chosen if a in smoothable}
    seen: list[tuple[int, tuple[int, float]]] = []
    total = len(processes.share(range(-(-len(utterances) // config.batch_size))))
    for number, part in track(processes.batches(utterances, config.batch_size), total, "calibrate", "batches"):
        batch = opened.loader.labelled(part)
        if batch is None:
            continue
        watchers = {a: watcher([o[a] for o in (ranges, channels) if a in o], sites[a], batch, number) for a in ranges}
        with watch(opened.model, sites, watchers):
            teacher_forced(opened.model, batch, opened.loader.device)
        seen.append((number, (len(batch.utterances), batch.seconds)))
    shards = processes.gather(ranges), processes.gather(channels)
    return *map(merged, shards), counts(processes.collect(seen), config)


def merged(shards: Sequence[dict[str, Merging]]) -> dict[str, Merging]:
    """What all processes observed as one would have."""
    first, *others = shards
    for other in others:
        for address, observed in other.items():
            first[address].merge(observed)
    return first


def counts(seen: Sequence[tuple[int, float]], config: CalibrateConfig) -> dict[str, Any]:
    """seen: utterances and seconds of each batch. Raises InputError where there is none."""
    if not seen:
        raise InputError("no usable calibration utterance is left")
    if len(seen) < config.batches:
        say(f"warning: the data holds {len(seen)} batches of the {config.batches} asked for")
    return {
        "batches": len(seen),
        "utterances": sum(utterances for utterances, _ in seen),
        "audio_seconds": sum(seconds for _, seconds in seen),
        "batches_asked": config.batches,
    }


def watcher(observers: Sequence[SiteRange | ChannelExtrema], site: Site, batch: Batch, number: int) -> Watcher:
    def see(x: torch.Tensor) -> None:
        try:
            for observer in observers:
                observer.observe(site.utterances(x, batch.lengths), number)
        except ValueError as error:
            ids = ", ".join(u.id for u in batch.utterances)
            raise InputError(f"{site.address} holds {error} in the batch of {ids}") from error

    return see
