"""Outlier statistics of a site, taken while a model runs."""

from functools import partial

from torch import Tensor

from whisperq.data.batches import Batch, Loader
from whisperq.errors import InputError
from whisperq.models.sites import Site, Watcher
from whisperq.quant.reading import Later, explained
from whisperq.scoring.by_role import SiteStatistics


def watcher(statistics: SiteStatistics, site: Site, batch: Batch, loader: Loader, later: Later) -> Watcher:
    """Watcher for `models.sites.watch` that adds the rows of each utterance to `statistics` when `later` is read.

    Then InputError, which names site and utterance, is raised for values that are not finite.
    """
    ids = [utterance.id for utterance in batch.utterances]
    told = statistics.largest and site.axis == "tokens"
    tokens = [loader.token_labels(batch, number) if told else () for number in range(len(ids))]

    def see(x: Tensor) -> None:
        for number, one in enumerate(site.utterances(x, batch.lengths)):
            rows = one.movedim(site.time, 0)  # a dimension is a channel, also of a convolution
            roles = loader.roles(batch, number, site.axis, len(rows))
            read = explained(later, partial(_told, site.address, ids[number]))
            statistics.update(rows, roles, ids[number], tokens[number], read)

    return see


def _told(address: str, utterance: str, error: ValueError) -> InputError:
    return InputError(f"{address}, utterance {utterance}: {error}")
