"""Outlier statistics of a site, taken while a model runs."""

from torch import Tensor

from whisperq.data.batches import Batch, Loader
from whisperq.errors import InputError
from whisperq.models.sites import Site, Watcher
from whisperq.scoring.by_role import SiteStatistics


def watcher(statistics: SiteStatistics, site: Site, batch: Batch, loader: Loader) -> Watcher:
    """Watcher for `models.sites.watch` that adds the rows of each utterance to `statistics`.

    Raises InputError, which names site and utterance, for values that are not finite.
    """

    def see(x: Tensor) -> None:
        for number, one in enumerate(site.utterances(x, batch.lengths)):
            rows = one.movedim(site.time, 0)  # a dimension is a channel, also of a convolution
            roles = loader.roles(batch, number, site.axis, len(rows))
            tokens = loader.token_labels(batch, number) if statistics.largest and site.axis == "tokens" else ()
            utterance = batch.utterances[number].id
            try:
                statistics.update(rows, roles, utterance, tokens)
            except ValueError as error:
                raise InputError(f"{site.address}, utterance {utterance}: {error}") from error

    return see
