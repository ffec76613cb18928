"""Activation ranges of every site, from a few batches of validation data, teacher-forced.

Every channel's ends and sample rows of what products take in are kept too: quantize searches with them.
One pass serves all observers that are asked for. StableQuant goes on from there: it measures on a development list.

Several processes each observe every world-th batch; what is written is what one would have found alone.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from whisperq import artifact
from whisperq.calibration.evaluator import Development, layers_of
from whisperq.calibration.search import Criterion, Desk, Trial, TrialJournal, search, summary, write_log
from whisperq.config import Source, one_normalizer
from whisperq.data.batches import epoch_order, require_texts, teacher_forced
from whisperq.data.lazy import Joined
from whisperq.data.sources import identity, read_all
from whisperq.data.speech_check import without_speech
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, UsageError
from whisperq.jobs.distributed import Processes, alone, joined
from whisperq.jobs.progress import say, say_left_out, track
from whisperq.jobs.signals import stop_requested
from whisperq.kinds.observations import Calibration, Used
from whisperq.models.loading import compute_device
from whisperq.models.sites import model_sites, resolve, watch
from whisperq.options import CalibrateConfig
from whisperq.preconditions import check_calibrated
from whisperq.ptq.cross_cache import cache_sites
from whisperq.ptq.ranges_file import known_range, write_ranges
from whisperq.ptq.statistics import channel_sites, product_inputs, row_sample, watcher, write_statistics
from whisperq.quant.merging import merged
from whisperq.quant.ranges import Estimation, RangeEnds, SiteRange
from whisperq.quant.reading import Later
from whisperq.quant.row_sample import ROWS, RowSample
from whisperq.quant.smoothing import ChannelExtrema
from whisperq.runtime.open import OpenedModel, open_model, with_hypotheses
from whisperq.runtime.transcription import Hypothesis, transcribe
from whisperq.scoring.normalizers import normalizer_of
from whisperq.settings import Context, NormalizerName


@dataclass(frozen=True)
class CalibrationData:
    """Sources: to observe, to try stablequant's ranges on (none where nobody asks for it), and what neither may be."""

    observed: Sequence[Source]
    development: Sequence[Source]
    test: Sequence[Source]
    normalizer: NormalizerName  # of development sources that name none


def calibrate(
    model: Path, data: CalibrationData, out: Path, config: CalibrateConfig, context: Context
) -> artifact.Artifact:
    """Observe each site in `config.batches` batches and estimate its ranges, one for each observer.

    Decoder sites see the references (greedy hypotheses where there are none), padding masked; the encoder sees
    whole windows, silence kept, as in use.
    Raises UsageError where data is also named as test data or trials so far belong to another command, Interrupted
    where it was told to stop during these, InputError for data that cannot be used.
    """
    check_calibrated(model)
    refuse_test_data([*data.observed, *data.development], data.test)
    data_list, development = read_all(data.observed, config.skip_bad), development_list(data, config)
    inputs = {"model": artifact.reference(model), "data": data_list.reference}
    inputs |= {"dev": development.reference} if development else {}
    settings = context.settings(config, **({"normalizer": development.normalizer} if development else {}))
    sealed = (out, "calibration", "calibrate", settings, inputs, context.force)
    book = TrialJournal(out, settings, inputs)
    how = Estimation(config.observer, config.momentum, config.percentile, config.activation_bits)
    book.refuse_finished("calibrate", context.force)
    with joined(compute_device(context.device)) as processes, ExitStack() as held:
        if development:  # trials are kept
            held.enter_context(alone(out, "calibrate", processes))
        book.look("calibrate", context.force)
        with artifact.create(*sealed) as draft, open_model(model, context, config.skip_bad) as opened:
            drawn = draw(data_list.utterances, opened, config, context.seed, processes)
            ranges, channels, rows, used = observe(opened, drawn, config, how, processes)
            found, log = stable_ranges(opened, ranges, development, book, config, processes)
            final = write_ranges(ranges, how, draft.folder, found)
            if log:
                write_log(log, draft.folder)
            if channels:
                write_statistics(channels, rows, draft.folder)
            widest = sorted(final, key=lambda a: final[a][0] - final[a][1])
            skipped = set().union(*processes.gather(opened.loader.skipped))
            results: Calibration = {
                **used,
                "sites": len(ranges),
                "channel_maxima": len(rows),
                "observers": list(config.observer),
                "decoder_padding": "masked",
                "skipped": len(skipped) + data_list.bad,
                "widest": [(a, *final[a]) for a in widest[:5]],
                "metric": config.metric,
                "stablequant": summary(log),
            }
            draft.results |= results
        if processes.main:
            say_left_out([*data_list.skipped, *sorted(skipped)])
            book.remove()
        return processes.result(out)


@dataclass(frozen=True)
class DevelopmentList:
    """The development list that stablequant measures on."""

    reference: dict[str, str]
    utterances: Sequence[Utterance]
    normalizer: str


def development_list(data: CalibrationData, config: CalibrateConfig) -> DevelopmentList | None:
    """The list that stablequant measures on; None without it.

    Raises InputError for an utterance without text, UsageError for lists of several normalisers.
    """
    if "stablequant" not in config.observer:
        return None
    group = read_all(data.development, config.skip_bad)
    utterances = Joined([one.utterances[: config.dev_limit] for one in group.lists])
    require_texts(utterances, "stablequant's development list")
    counted = data.development if config.metric == "wer" else ()
    normalizer = one_normalizer(counted, data.normalizer, "stablequant")
    return DevelopmentList(group.reference, utterances, normalizer)


def stable_ranges(
    opened: OpenedModel,
    ranges: dict[str, SiteRange],
    data: DevelopmentList | None,
    book: TrialJournal,
    config: CalibrateConfig,
    processes: Processes,
) -> tuple[dict[int, dict[str, RangeEnds]], list[Trial]]:
    """Bits -> ranges of the sites that stablequant searched, and all of its trials.

    Raises UsageError where --sites names no input of an integer product.
    """
    if data is None:
        return {}, []
    if not (layers := layers_of(opened.model, ranges)):
        raise UsageError("--sites names nothing that an integer product takes in, so that stablequant has no layer")
    words = normalizer_of(data.normalizer, opened.processor.tokenizer)
    criterion = Criterion(config.metric, config.threshold, config.snr_threshold)
    found, log = {}, []
    with stop_requested() as stopping:
        development = Development(opened, layers, config.metric, words, processes, stopping)
        with development.answering(data.utterances, config.batch_size, book, say) as ask:
            for bits in config.activation_bits:
                found[bits], trials = search(list(layers), ranges, bits, criterion, Desk(ask, say, track))
                log += trials
    return found, log


def draw(
    utterances: Sequence[Utterance], opened: OpenedModel, config: CalibrateConfig, seed: int, processes: Processes
) -> list[Utterance]:
    """The random sample of utterances to calibrate on, each with a text. Raises InputError where none has a word.

    Drawn from all sources: the first batches of the first list would be one speaker or corpus.
    """

    def listen(silent: Sequence[Utterance]) -> list[Hypothesis]:
        """Transcribe with all processes, each taking every world-th batch."""
        pipeline = (opened.runtime, opened.loader, opened.rules)
        own = processes.batches(silent, config.batch_size)
        return processes.collect(
            (n, h.without_sound()) for n, part in own for h in transcribe(*pipeline, part, config.batch_size)
        )

    order = epoch_order(len(utterances), seed, epoch=0)[: config.batches * config.batch_size]
    given = [utterances[i] for i in order]
    drawn = with_hypotheses(opened, given, config.batch_size, listen)
    if drawn and (warning := without_speech(opened.loader, given, drawn)):
        say(f"warning: {warning}")
    return drawn


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
    opened: OpenedModel,
    utterances: Sequence[Utterance],
    config: CalibrateConfig,
    how: Estimation,
    processes: Processes,
) -> tuple[dict[str, SiteRange], dict[str, ChannelExtrema], dict[str, RowSample], Used]:
    """Run the model over the batches and let each chosen site's range grow; counts what was used.

    The ends of every channel too of what decoding keeps of the encoder's output, and, unless they are not asked for, of
    what products take in, with a sample of rows.
    """
    sites = model_sites(opened.model)
    chosen = resolve(config.sites, sites) if config.sites else list(sites)
    ranges = {a: how.site(known_range(opened.model, sites[a], opened.loader.feature_range)) for a in chosen}
    unseen = [a for a in chosen if sites[a].component == "probs"]  # large, and their range is known
    products = set(product_inputs(opened.model)) & set(chosen) if config.channel_maxima else set()
    kept = {*(channel_sites(opened.model) if config.channel_maxima else ()), *cache_sites(opened.model)}
    each = -(-ROWS // len(utterances)) if utterances else 0
    channels = {a: ChannelExtrema() for a in chosen if a in kept}
    rows = {a: row_sample(opened.model, a, each) for a in chosen if a in products}
    seen: list[tuple[int, tuple[int, float]]] = []
    total = len(processes.share(range(-(-len(utterances) // config.batch_size))))
    for number, part in track(processes.batches(utterances, config.batch_size), total, "calibrate", "batches"):
        batch = opened.loader.labelled(part)
        if batch is None:
            continue
        batch_ids = ", ".join(u.id for u in batch.utterances)
        seeing = {a: [o[a] for o in (ranges, channels, rows) if a in o] for a in chosen if a not in unseen}
        later = Later()
        watchers = {a: watcher(found, sites[a], batch.lengths, batch_ids, number, later) for a, found in seeing.items()}
        with watch(opened.model, sites, watchers):
            teacher_forced(opened.model, batch, opened.loader.device)
        later.read()
        for a in unseen:
            ranges[a].assume(number)
        seen.append((number, (len(batch.utterances), batch.seconds)))
    all_ranges, all_channels = merged(processes.gather(ranges)), merged(processes.gather(channels))
    return all_ranges, all_channels, merged(processes.gather(rows)), counts(processes.collect(seen), config)


def counts(seen: Sequence[tuple[int, float]], config: CalibrateConfig) -> Used:
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
