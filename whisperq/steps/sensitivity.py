"""What each part of a quantized model costs: quantized alone, and float while all else is quantized.

ptq/partial.py says what a part is. Batches come first, parts second: what does not depend on the part, a batch's
features, its float logits and the output of an encoder without that part, is computed once. Of a model that was trained
while it was quantized (mixed precision), the norms and biases are its own wherever more than one part is quantized.
"""

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from whisperq import artifact
from whisperq.config import Source, one_normalizer
from whisperq.data.batches import Batch, require_texts
from whisperq.data.lazy import Joined
from whisperq.data.sources import read_all
from whisperq.errors import InputError, UsageError
from whisperq.hashing import file_sha256
from whisperq.jobs.progress import say, say_left_out, track
from whisperq.kinds.models import Quantized, is_mixed
from whisperq.kinds.observations import Costs, CostSummary, PartCost, Sensitivity, State
from whisperq.models.loading import compute_device
from whisperq.options import SensitivityConfig
from whisperq.ptq.checkpoint import load_quantized
from whisperq.ptq.folding import fold
from whisperq.ptq.partial import Part, PartiallyQuantized, divide, smooth_alike, trained_floats
from whisperq.report.lineage_commands import flags, run_root
from whisperq.report.sensitivity import plot_sensitivity
from whisperq.runtime.open import OpenedModel, open_model
from whisperq.scoring.distortion import Distortion
from whisperq.scoring.normalizers import normalizer_of
from whisperq.scoring.words import count_errors
from whisperq.settings import Context, NormalizerName

SENSITIVITY = "sensitivity.json"
EVERYTHING, NOTHING = "everything", "nothing"
BATCH = 8  # utterances
TOP = 10  # parts in the summary; all are in the file


def sensitivity(
    model: Path,
    floats: Path,
    data: Sequence[Source],
    normalizer: NormalizerName,
    out: Path,
    config: SensitivityConfig,
    context: Context,
) -> artifact.Artifact:
    """Signal-to-noise ratio and KL of teacher-forced logits for each part, as JSON and as heat maps.

    model: the quantized one; floats: the one that it was made from; `normalizer` serves data that names none.
    Raises UsageError in a task of several processes, and with `wer` for data of several normalisers; InputError for
    models that do not belong together.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("whisperq sensitivity works in one process; start it without torchrun, or as one task")
    group = read_all(data, config.skip_bad)
    utterances = Joined([one.utterances[: config.limit] for one in group.lists])
    inputs = {"model": artifact.reference(model), "float": artifact.reference(floats), "data": group.reference}
    check_pair(sealed := artifact.load(model, "quantized"), inputs["float"])
    normalizer = one_normalizer(data, normalizer, "whisperq sensitivity --wer") if config.wer else normalizer
    settings = context.settings(config, **({"normalizer": normalizer} if config.wer else {}))
    with artifact.create(out, "sensitivity", "sensitivity", settings, inputs, context.force) as draft:
        with open_model(floats, context, config.skip_bad) as opened:
            if config.wer or opened.loader.needs_text:
                require_texts(utterances, "sensitivity (the decoder sees the references)")
            quantized, quantization = load_quantized(model, opened.model.dtype, compute_device(context.device))
            if quantization.scales:
                fold(opened.model, quantization.scales)
            elif sealed.results["smooth"] is not None:  # of an earlier version, which kept no scales
                smooth_alike(opened.model, quantized)
            trained = trained_floats(opened.model, quantized, quantization) if is_mixed(sealed.results) else {}
            del quantized  # a large model's second copy
            partial = PartiallyQuantized(opened.model, quantization, trained)
            parts = {} if config.by == "model" else divide(partial, config.by)
            measures = {name: Measure() for name in states(parts)}
            run(opened, partial, parts, measures, utterances, config)
            words = normalizer_of(normalizer, opened.processor.tokenizer)
            report = describe(parts, {name: measure.as_dict(words) for name, measure in measures.items()})
        (draft.folder / SENSITIVITY).write_text(json.dumps(artifact.plain(report), indent=1, allow_nan=False) + "\n")
        results: Sensitivity = {
            "recipe": sealed.results["recipe"],
            "by": config.by,
            "tokens": measures[NOTHING].distortion.tokens,
            "skipped": group.bad + len(opened.loader.skipped),
            **summary(report, parts, 0 if is_mixed(sealed.results) else config.worst),
            "figures": plot_sensitivity(report["parts"], draft.folder) if parts else [],
        }
        draft.results |= results
    if parts and not is_mixed(sealed.results):
        say(f"the worst parts stay float with: {keeping_line(sealed, floats, out, min(config.worst, len(parts)))}")
    say_left_out([*group.skipped, *sorted(opened.loader.skipped)])
    return artifact.load(out)


def check_pair(quantized: artifact.Artifact[Quantized], floats: Mapping[str, str]) -> None:
    if quantized.inputs["model"]["sha256"] != floats["sha256"]:
        raise InputError(f"{quantized.path} was made from another model than {floats['path']}")


@dataclass
class Measure:
    """Measurements of one state of the model."""

    distortion: Distortion = field(default_factory=Distortion)
    references: list[str] = field(default_factory=list)
    hypotheses: list[str] = field(default_factory=list)

    def as_dict(self, normalizer: Any) -> State:
        """snr_db is infinite where nothing differs; wer is None where nothing was decoded."""
        wer = count_errors(self.references, self.hypotheses, normalizer).wer if self.hypotheses else None
        return {"snr_db": self.distortion.snr_db, "kl": self.distortion.kl, "wer": wer}


def states(parts: Mapping[str, Part]) -> list[str]:
    """States to measure: float, each part alone, all, all but each part. Neighbours differ in few weights."""
    return [NOTHING, *(f"alone {n}" for n in parts), EVERYTHING, *(f"all but {n}" for n in parts)]


def quantized_in(state: str, parts: Mapping[str, Part], whole: Part) -> Part:
    if state in (NOTHING, EVERYTHING):
        return whole if state == EVERYTHING else Part("")
    part = parts[state.removeprefix("alone ").removeprefix("all but ")]
    if state.startswith("alone "):
        return part
    return Part("", whole.weights - part.weights, whole.activations - part.activations, whole.trained)


@torch.inference_mode()
def run(
    opened: OpenedModel,
    partial: PartiallyQuantized,
    parts: Mapping[str, Part],
    measures: Mapping[str, Measure],
    utterances: Sequence[Any],
    config: SensitivityConfig,
) -> None:
    """Let every measure see all utterances. Raises InputError where none can be used."""
    whole, total = partial.whole(), -(-len(utterances) // BATCH) * len(measures)
    exact: torch.Tensor | None = None
    passes = ((batch, state) for batch in opened.loader.labelled_batches(utterances, BATCH) for state in measures)
    for batch, state in track(passes, total, "sensitivity", "passes"):
        part = quantized_in(state, parts, whole)
        with partial.quantized(part):
            logits = partial.logits(part, batch)
            exact = logits if state == NOTHING or exact is None else exact  # each batch begins with it
            measures[state].distortion.update(exact, logits)
            if config.wer:
                decode(opened, batch, measures[state])
    if not measures[NOTHING].distortion.tokens:
        raise InputError("no usable utterance is left to measure with")


def decode(opened: OpenedModel, batch: Batch, measure: Measure) -> None:
    found = opened.rules.read(opened.runtime, batch.features)
    measure.references += [u.text or "" for u in batch.utterances]
    measure.hypotheses += [opened.loader.codec.decode(ids) for ids in found]


def describe(parts: Mapping[str, Part], entries: Mapping[str, State]) -> Costs:
    """All figures, the parts worst first: of the greatest KL alone.

    Not of the lowest SNR, which counts what moves all logits of a token alike: on the embedded teacher dec.norm has
    the second lowest, and to keep it in float gains nothing, while KL alone and what float gains agree.
    """

    def entry(name: str) -> PartCost:
        part = parts[name]
        return {
            "alone": entries[f"alone {name}"],
            "all_but": entries[f"all but {name}"],
            "weights": sorted(part.weights),
            "activations": sorted(part.activations),
            "exclude": part.exclude,
        }

    def gain(name: str) -> tuple[float, float]:
        alone = entries[f"alone {name}"]
        kl, snr = alone["kl"] or 0.0, alone["snr_db"] or 0.0
        return (-math.inf, -math.inf) if math.isnan(kl) else (-kl, snr)  # it broke the logits

    # JSON knows no infinity: null stands for it, where a part's grids change nothing at all.
    return {
        "float_wer": entries[NOTHING]["wer"],
        "everything": entries[EVERYTHING],
        "parts": {name: entry(name) for name in sorted(parts, key=gain)},
    }


def summary(report: Costs, parts: Mapping[str, Part], worst: int) -> CostSummary:
    """Summary for the results; the `worst` parts are named as quantize's --exclude takes them.

    None of a mixed-precision model, which quantize cannot make.
    """
    excluded = ",".join(parts[name].exclude for name in list(report["parts"])[:worst])
    found: CostSummary = {
        "float_wer": report["float_wer"],
        "everything": report["everything"],
        "parts": len(parts),
        "worst": {name: report["parts"][name] for name in list(report["parts"])[:TOP]},
    }
    if worst:
        found["exclude"] = f"--exclude {shlex.quote(excluded)}"
    return found


def keeping_line(quantized: artifact.Artifact[Quantized], floats: Path, out: Path, worst: int) -> str:
    """The command that makes the same model with the `worst` parts in float, whatever it was made with.

    out: this sensitivity's folder. What --keep-worst had kept of it already stays float by name: here it would count
    this sensitivity's parts.
    """
    config, path = dict(quantized.config), quantized.path
    config["exclude"] = [*config.get("exclude", ()), *quantized.results["kept_worst"]]
    words = ["whisperq", "quantize", *flags("quantize", {**config, "keep_worst": worst})]
    words += ["--sensitivity", str(out), "--model", str(floats)]
    if calibration := quantized.inputs.get("calibration"):
        words += calibration_words(calibration, run_root(path))
    return shlex.join([*words, "--out", f"{path}-keep{worst}"])


def calibration_words(named: Mapping[str, str], run: Path | None) -> list[str]:
    """The words --calibration PATH; none for quantize's default. In a run folder that moved it is beside the model."""
    beside = run / "calibration" if run else Path(named["path"])
    there = artifact.is_artifact(beside) and file_sha256(beside / artifact.MANIFEST) == named["sha256"]
    place = beside if there else Path(named["path"])
    usual = Path(os.environ.get("WHISPERQ_RUN", "run"), "calibration")
    return [] if place == usual else ["--calibration", str(place)]
