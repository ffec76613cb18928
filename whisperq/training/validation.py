"""How good a student is so far, and what its attention does: between two steps, by all processes together."""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from whisperq.data.batches import Loader, teacher_forced
from whisperq.data.utterance import Utterance
from whisperq.jobs.distributed import Processes
from whisperq.models.sites import Site, Watcher, model_sites, watch
from whisperq.runtime.pipeline import output_of
from whisperq.runtime.transcription import AnyRules, transcribe
from whisperq.scoring.normalizers import Normalizer
from whisperq.scoring.outliers import TensorStatistics, summarize
from whisperq.scoring.words import count_errors

BATCH = 32  # utterances decoded together
OBSERVED = 8  # utterances whose attention is looked at, always the same


class Validation:
    """Greedy WER in float32 over fixed utterances, dealt out batch by batch."""

    def __init__(
        self,
        loader: Loader,
        rules: AnyRules,
        normalizer: Normalizer,
        utterances: Sequence[Utterance],
        processes: Processes,
    ) -> None:
        self.loader, self.rules, self.normalizer, self.processes = loader, rules, normalizer, processes
        self.utterances = utterances
        self.observed = fitting(utterances, loader)

    @torch.inference_mode()
    def measure(self, student: PreTrainedModel, stopping: Callable[[], bool]) -> dict[str, Any] | None:
        """WER, reference words, and what `attention` says; None where it was told to stop before the end."""
        student.eval()
        pairs: list[tuple[str, str]] = []
        runtime = output_of(student.config).pytorch(student, "float")
        batches = self.processes.batches(self.utterances, BATCH)
        for _ in range(0, len(self.utterances), BATCH * self.processes.world):
            if self.processes.any(stopping()):  # by all after each batch: who waits at the end hears too late
                return None
            for _, batch in islice(batches, 1):
                found = transcribe(runtime, self.loader, self.rules, batch, BATCH)
                pairs += [(h.utterance.text or "", h.text) for h in found]
        pairs = [pair for share in self.processes.gather(pairs) for pair in share]
        errors = count_errors([r for r, _ in pairs], [h for _, h in pairs], self.normalizer)
        wer = {"validation_wer": errors.wer, "reference_words": errors.reference_words}
        return wer | self.attention(student)

    def attention(self, student: PreTrainedModel) -> dict[str, Any]:
        """Kurtosis and infinity norm of attention outputs, and the mean of each gate and its heads, on a fixed batch.

        Their growth over the steps shows outliers appear. A gate's mean is relative to its start, which is one.
        """
        batch = self.loader.labelled(self.observed)
        if batch is None:
            return {}
        sites = model_sites(student)
        outputs = {a: TensorStatistics() for a, s in sites.items() if s.component == "out_proj"}
        gates: dict[str, list[float]] = {}
        watchers: dict[str, Watcher] = {a: _statistics(s, sites[a], batch.lengths) for a, s in outputs.items()}
        for address in (a for a, s in sites.items() if s.component == "gate"):
            watchers[address] = _means(gates, address, sites[address], batch.lengths)
        with watch(student, sites, watchers):
            teacher_forced(student, batch, self.loader.device)
        statistics = {a: s.as_dict() for a, s in outputs.items()}
        summary = summarize(statistics)
        found = {key: summary[key] for key in ("kurtosis", "max_inf_norm")}
        found["kurtosis_by_site"] = {a: s["kurtosis"] for a, s in statistics.items()}
        means = {address: float(np.mean(heads)) for address, heads in gates.items()}
        return {**found, "gates": means, "gates_by_head": gates} if gates else found


def fitting(utterances: Sequence[Utterance], loader: Loader) -> list[Utterance]:
    """The first few that the model's window and decoder hold: validation cuts longer ones, teacher forcing cannot."""
    lenient = copy.copy(loader)
    lenient.skip_bad, lenient.skipped = True, set()
    return list(islice((u for u in utterances if lenient.labelled([u]) is not None), OBSERVED))


def _statistics(statistics: TensorStatistics, site: Site, lengths: Mapping[str, Sequence[int]]) -> Watcher:
    def see(x: Tensor) -> None:
        for tensor in site.utterances(x, lengths):
            statistics.update(tensor)

    return see


def _means(means: dict[str, list[float]], address: str, site: Site, lengths: Mapping[str, Sequence[int]]) -> Watcher:
    def see(x: Tensor) -> None:
        means[address] = _averages(site.utterances(x, lengths))

    return see


def _averages(tensors: Iterable[Tensor]) -> list[float]:
    """Of each head, over utterances' gates (length, heads, 1 or d_head)."""
    return torch.cat([t.double().mean(dim=-1) for t in tensors]).mean(dim=0).tolist()
