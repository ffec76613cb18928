"""The kinds of artifacts, and of each the type of its results: what its manifest is checked by, and what readers get.

    results = artifact.load(path, "evaluation").results      # an `Evaluation`: a misspelt key is a type checker's error

An earlier version wrote fewer keys: `in_todays_form` adds what stands for them, so that no reader asks.
"""

from collections.abc import Callable
from typing import Any

from whisperq.kinds.comparisons import Comparison, Robustness
from whisperq.kinds.models import Distilled, MixedPrecision, Onnx, Student, todays_weight_observer
from whisperq.kinds.observations import (
    Attention,
    Calibration,
    Outliers,
    PseudoLabels,
    Report,
    Sensitivity,
    one_observer,
)
from whisperq.kinds.pattern import completed
from whisperq.kinds.scores import Evaluation, Scores, single_averages

RESULTS: dict[str, Any] = {
    "student": Student,
    "distilled": Distilled,
    "calibration": Calibration,
    "quantized": MixedPrecision,  # has all keys of a model that `quantize` made
    "evaluation": Evaluation,
    "scores": Scores,
    "comparison": Comparison,
    "sensitivity": Sensitivity,
    "outliers": Outliers,
    "attention": Attention,
    "onnx": Onnx,
    "pseudo-labels": PseudoLabels,
    "robustness": Robustness,
    "report": Report,
}
# How a sentence names what a folder of this kind holds.
NOUNS = {
    "student": "a student",
    "distilled": "a distilled model",
    "calibration": "a calibration",
    "quantized": "a quantized model",
    "evaluation": "an evaluation",
    "scores": "scores",
    "comparison": "a comparison",
    "sensitivity": "a sensitivity analysis",
    "outliers": "outlier statistics",
    "attention": "attention pictures",
    "onnx": "an exported model",
    "pseudo-labels": "pseudo-labels",
    "robustness": "a robustness comparison",
    "report": "a report",
}
# What one key of an earlier version says by another today.
EARLIER: dict[str, Callable[[Any], None]] = {
    "quantized": todays_weight_observer,
    "calibration": one_observer,
    "evaluation": single_averages,
    "scores": single_averages,
}


def noun(kind: str) -> str:
    """The kind with its article, also of one that only another version knows."""
    return NOUNS.get(kind, f"an artifact of the kind {kind}")


def in_todays_form(kind: str, results: dict[str, Any]) -> Any:
    """Checked results with all keys that today's version reads; they themselves are left as they are."""
    if kind not in RESULTS:
        return results
    found = completed(RESULTS[kind], results)
    if kind in EARLIER:
        EARLIER[kind](found)
    return found
