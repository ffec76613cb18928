"""What a training learns from and is judged by, whatever it trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from whisperq.bounded_folder import GIB
from whisperq.data.audio_cache import AudioCache
from whisperq.data.batches import Loader, epoch_order
from whisperq.data.sources import UtteranceGroup
from whisperq.errors import UsageError
from whisperq.jobs.distributed import Processes
from whisperq.kinds.models import LastStep, Trained
from whisperq.runtime.beams import with_loop_limit, with_tokens_per_second
from whisperq.runtime.pipeline import make_loader
from whisperq.scoring.normalizers import normalizer_of
from whisperq.settings import Context
from whisperq.training.checkpoints import Progress
from whisperq.training.feed import Feed
from whisperq.training.job import check_validation
from whisperq.training.validation import Validation
from whisperq.training_options import TrainingConfig


@dataclass(frozen=True)
class Material:
    loader: Loader
    normalizers: str  # of the validation, ids
    validation: Validation
    feed: Feed
    bad_lines: Sequence[str]

    def notices(self) -> list[str]:
        dropped = self.feed.dropped.items()
        return [f"left out of the training data, {reason}: {count:,} utterances" for reason, count in dropped]

    def left_out(self) -> list[str]:
        """Origins of lines and recordings that could not be used."""
        return [*self.bad_lines, *sorted(self.loader.skipped)]

    def results(self, reached: Progress, autocast: torch.dtype) -> Trained:
        """Results that every training writes to its manifest."""
        return {  # the best step and the last one's log are those of a training that has ended
            "best_step": cast(int, reached.best_step),
            "validation_wer": reached.best_wer,
            "normalizer": self.normalizers,
            "steps": reached.step,
            "final": cast(LastStep, reached.last),
            "training_seconds": reached.seconds,
            "device": self.loader.device,
            "autocast": str(autocast).removeprefix("torch."),
            "skipped": len(self.loader.skipped) + len(self.bad_lines),
            "dropped": self.feed.dropped if reached.dropped is None else reached.dropped,
            "micro_batch": self.feed.micro_batch,
        }


def prepare(
    network: PreTrainedModel,
    processor: Any,
    data: tuple[UtteranceGroup, UtteranceGroup, str],
    config: TrainingConfig,
    context: Context,
    processes: Processes,
) -> Material:
    """data: to train on, to validate on, and the normaliser of the validation lists that name none.

    Raises InputError, and UsageError where nobody says which language is spoken. Every recording that validates is
    decoded once, and of more than `eval_limit` the seed draws.
    """
    train, validation, normalizer_name = data
    device = next(network.parameters()).device.type
    loader, rules = make_loader(processor, network, context, device, config.skip_bad)
    if getattr(loader.codec, "open_language", False):  # the student would learn a prompt that nobody gives it later
        raise UsageError("the language is auto, which no training finds out: set it in whisperq.yaml, as language: en")
    if config.audio_cache is not None:
        loader.decode = AudioCache(Path(config.audio_cache).absolute(), config.audio_cache_gib * GIB).load
    rules = with_tokens_per_second(with_loop_limit(rules, config.loop_limit), config.tokens_per_second)
    named = []
    for one in validation.lists:
        named += [normalizer_of(one.source.normalizer or normalizer_name, processor.tokenizer)] * len(one.utterances)
    drawn = sorted(epoch_order(len(validation.utterances), context.seed, epoch=0)[: config.eval_limit])
    utterances, normalizers = [validation.utterances[i] for i in drawn], [named[i] for i in drawn]
    check_validation(loader, normalizers, utterances)
    judged = Validation(loader, rules, normalizers, utterances, processes)
    feed = Feed(train, loader, config, context.seed)
    ids = ", ".join(dict.fromkeys(normalizer.id for normalizer in normalizers))
    return Material(loader, ids, judged, feed, [*train.skipped, *validation.skipped])
