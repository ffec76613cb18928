"""How good a student is so far, and what its outliers and gates do: between two steps, by all processes together."""

import copy
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from whisperq.data.batches import Loader, teacher_forced
from whisperq.data.utterance import Utterance
from whisperq.errors import InputError
from whisperq.jobs.distributed import Processes
from whisperq.models.sites import Site, Watcher, model_sites, watch
from whisperq.quant.reading import Later
from whisperq.runtime.interruptible import Stoppable, Stopped
from whisperq.runtime.pipeline import output_of
from whisperq.runtime.site_statistics import watcher
from whisperq.runtime.transcription import AnyRules, Hypothesis, transcribe
from whisperq.scoring.alignment import align
from whisperq.scoring.by_role import SiteStatistics, summarize_roles
from whisperq.scoring.loops import find_loop
from whisperq.scoring.measures import countable
from whisperq.scoring.normalizers import Normalizer
from whisperq.scoring.outliers import summarize
from whisperq.scoring.words import tally

BATCH = 32  # utterances decoded together
OBSERVED = 8  # utterances whose activations are looked at, always the same
OBSERVED_SITES = "out_proj", "fc2:input", "mlp_sum"
GROWTH = "kurtosis", "max_inf_norm", "outliers", "values"


class Validation:
    """Greedy WER in float32 over fixed utterances, dealt out batch by batch."""

    def __init__(
        self,
        loader: Loader,
        rules: AnyRules,
        normalizers: Sequence[Normalizer],
        utterances: Sequence[Utterance],
        processes: Processes,
    ) -> None:
        """normalizers: each utterance's, since each list may name its own."""
        self.loader, self.rules, self.processes, self.utterances = loader, rules, processes, utterances
        self.normalizers = {u.origin: n for u, n in zip(utterances, normalizers, strict=True)}
        self.observed = fitting(utterances, loader)

    @torch.inference_mode()
    def measure(
        self, student: PreTrainedModel, stopping: Callable[[], bool], over: Callable[[], bool] | None = None
    ) -> dict[str, Any] | None:
        """WER, reference words, and what `observe` says; None where it was told to stop before the end.

        stopping: as `stop_requested` gives it, whose signals are heard in the middle of a batch; over: what is asked
        between batches in its place.
        """
        student.eval()
        pairs: list[tuple[str, str, bool]] = []
        runtime = Stoppable(output_of(student.config).pytorch(student, "float"), stopping)
        batches, lost = self.processes.batches(self.utterances, BATCH), False
        for _ in range(0, len(self.utterances), BATCH * self.processes.world):
            if self.processes.any(lost or (over or stopping)()):  # by all: at the end it would be too late
                return None
            for _, batch in islice(batches, 1):
                try:
                    found = transcribe(runtime, self.loader, self.rules, batch, BATCH)
                    pairs += [(*self._normalized(h), h.cut_short) for h in found]
                except Stopped:
                    lost = True
        if self.processes.any(lost):
            return None
        pairs = [pair for share in self.processes.gather(pairs) for pair in share]
        references = [r for r, _, _ in pairs]
        errors = tally(references, align(references, [h for _, h, _ in pairs]))
        loops = sum(find_loop(h.split(), r.split()) is not None for r, h, _ in pairs)
        wer = {"validation_wer": errors.wer, "reference_words": errors.reference_words, "loops": loops}
        if getattr(self.rules, "tokens_per_second", None) is not None:
            wer["cut_short"] = sum(cut for _, _, cut in pairs)
        return wer | self.observe(student)

    def _normalized(self, found: Hypothesis) -> tuple[str, str]:
        """Reference and hypothesis."""
        normalizer = self.normalizers[found.utterance.origin]
        return countable(normalizer(found.utterance.text or ""), normalizer(found.text))

    @torch.inference_mode()
    def observe(self, student: PreTrainedModel) -> dict[str, Any]:
        """Outliers at attention outputs, MLPs and residual sums, and the mean of each gate and its heads.

        Always on the same batch, so that the steps' figures show how outliers grow. Kurtosis and infinity norm are
        those of the attention outputs; `outliers` has figures of each group of sites, of all rows and of the rows of
        each role (data/roles.py). A gate's mean is relative to its start, which is one. Empty where
        values are not finite, or no utterance fits.
        """
        batch = self.loader.labelled(self.observed)
        if batch is None:
            return {}
        student.eval()
        sites = model_sites(student)
        statistics = {a: SiteStatistics() for a, s in sites.items() if s.component in OBSERVED_SITES}
        gates: dict[str, list[float]] = {}
        later = Later()
        watchers = {a: watcher(s, sites[a], batch, self.loader, later) for a, s in statistics.items()}
        for address in (a for a, s in sites.items() if s.component == "gate"):
            watchers[address] = _means(gates, address, sites[address], batch.lengths)
        try:
            with watch(student, sites, watchers):
                teacher_forced(student, batch, self.loader.device)
            later.read()
        except InputError:  # activations that are not finite have no figures; the next loss names step and utterances
            return {}
        figures = {a: s.as_dict() for a, s in statistics.items()}
        outputs = {a: s for a, s in figures.items() if sites[a].component == "out_proj"}
        found = {key: summarize(outputs)[key] for key in ("kurtosis", "max_inf_norm")}
        found["kurtosis_by_site"] = {a: s["kurtosis"] for a, s in outputs.items()}
        found["outliers"] = _by_group(figures)
        means = {address: float(np.mean(heads)) for address, heads in gates.items()}
        return {**found, "gates": means, "gates_by_head": gates} if gates else found


def fitting(utterances: Sequence[Utterance], loader: Loader) -> list[Utterance]:
    """The first few that the model's window and decoder hold: validation cuts longer ones, teacher forcing cannot."""
    lenient = copy.copy(loader)
    lenient.skip_bad, lenient.skipped = True, set()
    return list(islice((u for u in utterances if lenient.labelled([u]) is not None), OBSERVED))


def _by_group(sites: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Group of sites, such as enc.*.fc2:input -> "all" or a role -> kurtosis, infinity norm, outliers and values."""
    groups: dict[str, dict[str, Any]] = {}
    for address, figures in sites.items():
        groups.setdefault(re.sub(r"\.\d+\.", ".*.", address), {})[address] = figures
    found = {group: {"all": summarize(members), **summarize_roles(members)} for group, members in groups.items()}
    return {g: {r: {key: s[key] for key in GROWTH} for r, s in roles.items()} for g, roles in found.items()}


def _means(means: dict[str, list[float]], address: str, site: Site, lengths: Mapping[str, Sequence[int]]) -> Watcher:
    def see(x: Tensor) -> None:
        means[address] = _averages(site.utterances(x, lengths))

    return see


def _averages(tensors: Iterable[Tensor]) -> list[float]:
    """Mean gate of each head over all utterances; tensors (length, heads, 1 or d_head)."""
    return torch.cat([t.double().mean(dim=-1) for t in tensors]).mean(dim=0).tolist()
