"""StableQuant's trials measured: a model of either family on the development list, any of its layers in integers."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from whisperq.calibration.prefix_cache import Prefix
from whisperq.calibration.search import Ask, Trial, TrialJournal
from whisperq.data.batches import Batch, teacher_forced
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError, Interrupted
from whisperq.jobs.journal import appending
from whisperq.models.layer_weights import Weight
from whisperq.models.sites import canonical
from whisperq.ptq.checkpoint import Quantization, quantize_weight
from whisperq.ptq.partial import Part, PartiallyQuantized
from whisperq.ptq.plan import make_plan
from whisperq.quant.grid import range_qparams
from whisperq.quant.ranges import RangeEnds
from whisperq.runtime.open import OpenedModel
from whisperq.runtime.transcription import transcribe
from whisperq.scoring.distortion import Distortion
from whisperq.scoring.normalizers import Normalizer
from whisperq.scoring.words import count_errors

WEIGHT_BITS = 8
EXACT_LIMIT = 2**30  # bytes of float logits that are kept; those of batches beyond are computed each time

Sums = tuple[float, float]  # of a batch: errors and reference words, or noise and signal


class Together(Protocol):
    """The processes that share the batches: `jobs.distributed.Processes`."""

    @property
    def main(self) -> bool: ...
    def gather(self, value: Any) -> list[Any]: ...
    def any(self, flag: bool) -> bool: ...
    def batches(self, items: Sequence[Any], size: int) -> Iterator[tuple[int, list[Any]]]: ...
    def collect(self, found: Iterable[tuple[int, Any]]) -> list[Any]: ...


def layers_of(model: PreTrainedModel, observed: Iterable[str]) -> dict[str, list[Weight]]:
    """Observed sites that integer products take in, in the order of computation, and the weights that read them."""
    plan, observed = make_plan(model, "gemm"), set(observed)
    found: dict[str, list[Weight]] = {a: [] for a in plan.activations if a in observed}
    for weight in plan.weights:
        if (address := canonical(f"{weight.address}:input")) in found:
            found[address].append(weight)
    return found


class Development:
    """The model on the development list, batch by batch, with any of its layers in integers."""

    def __init__(
        self,
        opened: OpenedModel,
        layers: Mapping[str, list[Weight]],
        metric: str,
        words: Normalizer,
        processes: Together,
        stopping: Callable[[], bool],
    ) -> None:
        self.opened, self.layers, self.metric, self.words = opened, layers, metric, words
        self.processes, self.stopping = processes, stopping
        weights = [w for found in layers.values() for w in found]
        codes = {w.parameter: quantize_weight(opened.model, w, WEIGHT_BITS, True, True) for w in weights}
        self.partial, self.prefix = PartiallyQuantized(opened.model, Quantization(codes, {})), Prefix(opened.model)
        self.exact: dict[int, Tensor] = {}

    @contextmanager
    def answering(
        self, utterances: Sequence[Utterance], size: int, book: TrialJournal, say: Callable[[str], None]
    ) -> Iterator[Ask]:
        """Context that gives the function which answers the search.

        It takes trials from the journal, or measures them with all processes, each on a share of the batches.
        """
        if self.processes.main:
            book.prepare()
        known = self.processes.gather(book.trials() if self.processes.main else None)[0]
        if known:
            say(f"going on after {len(known)} trials")

        def ask(trials: list[Trial], before: Mapping[str, RangeEnds]) -> list[Trial]:
            if all(trial.key in known for trial in trials):
                return [known[trial.key] for trial in trials]
            if self.processes.any(self.stopping()):
                raise Interrupted("told to stop: all trials so far are kept, the same command does the rest")
            own = self.processes.batches(utterances, size)
            sums = self.processes.collect((n, self.measure(trials, before, n, part)) for n, part in own)
            found = [measured(trial, self.metric, [s[i] for s in sums]) for i, trial in enumerate(trials)]
            keep(found)
            return found

        with appending(book.path, Trial) if self.processes.main else nullcontext(lambda _: None) as keep:
            yield ask

    @torch.inference_mode()
    def measure(
        self, trials: Sequence[Trial], before: Mapping[str, RangeEnds], number: int, part: Sequence[Utterance]
    ) -> list[Sums]:
        """Contribution of batch `number` to the figures of each trial; all trials are of one layer."""
        if self.metric == "wer":
            return [self._word_errors(trial, before, number, part) for trial in trials]
        if (batch := self.opened.loader.labelled(part)) is None:
            return [(0.0, 0.0) for _ in trials]
        exact = self._exact(number, batch)
        return [self._distortion(trial, before, number, batch, exact) for trial in trials]

    def _word_errors(
        self, trial: Trial, before: Mapping[str, RangeEnds], number: int, part: Sequence[Utterance]
    ) -> Sums:
        o = self.opened
        with self._in_integers(trial, before, number):
            found = list(transcribe(o.runtime, o.loader, o.rules, part, len(part)))
        errors = count_errors([h.utterance.text or "" for h in found], [h.text for h in found], self.words)
        return errors.substitutions + errors.deletions + errors.insertions, errors.reference_words

    def _distortion(
        self, trial: Trial, before: Mapping[str, RangeEnds], number: int, batch: Batch, exact: Tensor
    ) -> Sums:
        distortion = Distortion()
        with self._in_integers(trial, before, number):
            distortion.update(exact, self._logits(batch))
        return distortion.noise, distortion.signal

    def _exact(self, number: int, batch: Batch) -> Tensor:
        if number in self.exact:
            return self.exact[number]
        with self.partial.quantized(Part("")):
            logits = self._logits(batch)
        if sum(z.nbytes for z in self.exact.values()) + logits.nbytes <= EXACT_LIMIT:
            self.exact[number] = logits
        return logits

    def _logits(self, batch: Batch) -> Tensor:
        return batch.counted(teacher_forced(self.opened.model, batch, self.opened.loader.device))

    @contextmanager
    def _in_integers(self, trial: Trial, before: Mapping[str, RangeEnds], number: int) -> Iterator[None]:
        """Context in which the trial's layer and the layers before it are quantized.

        Reuses what the last run of this batch computed before that layer.
        """
        ranges = {**before, **({} if trial.layer is None else {trial.layer: trial.ends})}
        grids = self.partial.quantization.activations
        grids.clear()
        grids.update({a: range_qparams(*ends, trial.bits) for a, ends in ranges.items()})
        part = Part("", {w.parameter for a in ranges for w in self.layers[a]}, set(ranges))
        state = {a: (trial.bits, ends) for a, ends in ranges.items()}
        with self.prefix.running(number, trial.layer, state), self.partial.quantized(part):
            yield


def measured(trial: Trial, metric: str, sums: Iterable[Sums]) -> Trial:
    """The trial with what all batches, in the order of the list, gave. Raises InputError where there was nothing."""
    above, below = (sum(column) for column in zip(*sums, strict=True))
    if not below:
        raise InputError("no usable utterance of the development list is left to measure with")
    if metric == "wer":
        return replace(trial, wer=above / below)
    return replace(trial, snr_db=Distortion(signal=below, noise=above, tokens=1).snr_db)
