"""What a command prints when it is done: an artifact's results as tables."""

from collections.abc import Callable
from typing import Any

from rich.table import Table

from whisperq.artifact import Artifact
from whisperq.kinds.models import Distilled, MixedPrecision, Onnx, Quantized, Student, is_mixed
from whisperq.kinds.observations import Attention, Calibration, PseudoLabels, Report, Sensitivity, State
from whisperq.report import outlier_summary
from whisperq.report.outlier_treatment import eased_tables
from whisperq.report.robustness import robustness_tables
from whisperq.results import comparisons, scores
from whisperq.results.cells import figure, megabytes, percent, table
from whisperq.schemes import in_words


def tables(artifact: Artifact) -> list[Table]:
    """One or more tables for any kind of artifact. Raises InputError for a manifest that lacks some of its results."""
    return BUILDERS.get(artifact.kind, _plain)(artifact.results)


def _plain(results: dict[str, Any]) -> list[Table]:
    result = table("Results", "", "")
    for key, value in results.items():
        result.add_row(key, figure(value))
    return [result]


def _student(results: Student) -> list[Table]:
    layers, chosen = table("Layer map", "student layer", "copies the teacher's"), results["layer_map"]
    for part, indices in (("enc", chosen["encoder"]), ("dec", chosen["decoder"])):
        for i, source in enumerate(indices):
            layers.add_row(f"{part}.{i}", f"{part}.{source}")
    counts = table("Parameters", "", "#total", "#trainable")
    of_student = f"student, gate {results['gate']}", results["parameters"]
    for name, found in (("teacher", results["teacher_parameters"]), of_student):
        counts.add_row(name, f"{found['total']:,}", f"{found['trainable']:,}")
    return [layers, counts]


def _pseudo_labels(results: PseudoLabels) -> list[Table]:
    result = table("Pseudo-labels", "", "#")
    result.add_row("utterances", figure(results["utterances"]))
    result.add_row("words", figure(results["words"]))
    result.add_row("audio", f"{results['audio_seconds']:.0f} s")
    result.add_row("mean log-probability (nats per token)", figure(results["mean_logprob"], 4))
    result.add_row("skipped", figure(results["skipped"]))
    result.add_row("longer than window", figure(results["longer_than_window"]))
    result.add_row("unfinished", figure(results["unfinished"]))
    if results["wer"] is None:
        return [result]
    errors = table(f"Labels against {figure(results['reference_words'])} reference words", "", "#")
    errors.add_row(f"WER ({', '.join(results['normalizers'])})", percent(results["wer"]))
    for threshold, labels in results["label_wer_above"].items():
        errors.add_row(f"labels above {threshold} %", f"{labels:,} of {results['scored']:,}")
    return [result, errors]


def _distilled(results: Distilled) -> list[Table]:
    result = table("Distillation", "", "#")
    result.add_row("best step", f"{results['best_step']:,} of {results['steps']:,}")
    result.add_row(f"validation WER ({results['normalizer']})", percent(results["validation_wer"]))
    result.add_row("last CE (nats per token)", figure(results["final"]["ce"], 4))
    result.add_row("last KL (nats per token)", figure(results["final"]["kl"], 4))
    result.add_row("samples per second", figure(results["samples_per_second"], 1))
    result.add_row("skipped", figure(results["skipped"]))
    return [result]


def _calibration(results: Calibration) -> list[Table]:
    result = table("Calibration", "", "#")
    result.add_row("batches", f"{results['batches']} of {results['batches_asked']} asked for")
    result.add_row("utterances", figure(results["utterances"]))
    result.add_row("audio", f"{results['audio_seconds']:.0f} s")
    result.add_row("sites", figure(results["sites"]))
    result.add_row("observers", ", ".join(results["observers"]))
    widest = table("Widest ranges", "site", "#minimum", "#maximum")
    for address, low, high in results["widest"]:
        widest.add_row(address, figure(low), figure(high))
    if not results["stablequant"]:
        return [result, widest]
    title = "Searched by stablequant; all other layers keep their full range"
    searched = table(title, "layer", "#bits", "#alone", "#% kept", "#after those before")
    for one in results["stablequant"]:
        alone = _measured(results["metric"], one["alone"], "logits broken")
        then = _measured(results["metric"], one["chosen"], "infinite")
        kept = "full range" if one["cut_off"] is None else f"{one['cut_off']:g}"
        searched.add_row(one["layer"], figure(one["bits"]), alone, kept, then)
    return [result, widest, searched]


def _measured(metric: str | None, value: float | None, none: str) -> str:
    """A WER or a signal-to-noise ratio; none: what a missing one means."""
    if value is None:
        return none
    return percent(value) if metric == "wer" else f"{value:.1f} dB"


def _quantized(results: Quantized) -> list[Table]:
    result = table(f"Quantized: {in_words(results)}", "", "#integer", "#float", "why float")
    weights = "weights", results["weights"], results["float_weights_by_reason"]
    activations = "activations", results["activations"], results["float_activations_by_reason"]
    for kind, integer, reasons in (weights, activations):
        why = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
        result.add_row(kind, figure(integer), figure(sum(reasons.values())), why)
    size = table("Size of the weights on disk", "float", "quantized", "ratio")
    ratio = results["float_bytes"] / results["bytes"]
    size.add_row(megabytes(results["float_bytes"]), megabytes(results["bytes"]), f"{ratio:.2f}")
    return [result, size, *eased_tables(results), *(_mixed(results) if is_mixed(results) else [])]


def _mixed(results: MixedPrecision) -> list[Table]:
    """Tables of mixed precision: results of the training, and the bits of every weight, one line for each width."""
    result = table(f"Mixed precision, {results['mode']}", "", "#")
    result.add_row("average bits", f"{results['average_bits']:.3f} (target {results['target_bits']:g})")
    result.add_row("quantized weights, ratio to float32", figure(results["quantized_ratio"]))
    result.add_row("best step", f"{results['best_step']:,} of {results['steps']:,}")
    result.add_row(f"validation WER ({results['normalizer']})", percent(results["validation_wer"]))
    result.add_row("training, search included", f"{results['training_seconds']:.0f} s")
    widths = table("Bits of each weight", "#bits", "weights")
    for bits in sorted(set(results["bits"].values())):
        widths.add_row(str(bits), ", ".join(a for a, b in results["bits"].items() if b == bits))
    return [result, widths]


def _sensitivity(results: Sensitivity) -> list[Table]:
    """A ratio is null, JSON's infinity, where a part's grids change nothing, so that KL is zero; and with KL, where the
    logits are NaN. A word error rate stands only where it was measured.
    """

    def cells(state: State) -> list[str]:
        nothing = state["snr_db"] is None and state["kl"] is not None
        snr = "infinite" if nothing else figure(state["snr_db"], 1)
        kl = "-" if state["kl"] is None else f"{state['kl']:.2e}"
        return [snr, kl] + ([percent(state["wer"])] if state["wer"] is not None else [])

    words = results["float_wer"] is not None
    kinds = ("#SNR (dB)", "#KL (nats/token)") + (("#WER",) if words else ())
    title = f"Everything quantized by the recipe {results['recipe']}, over {results['tokens']:,} tokens"
    all_parts = table(title, *kinds, *(("#WER in float",) if words else ()))
    all_parts.add_row(*cells(results["everything"]), *([percent(results["float_wer"])] if words else []))
    if not results["parts"]:
        return [all_parts]
    title = f"Worst parts, of {results['parts']}, by their KL alone"
    columns = [f"{kind}, {state}" for state in ("alone", "all but it") for kind in kinds]
    parts = table(title, "part", *columns)
    for name, part in results["worst"].items():
        parts.add_row(name, *cells(part["alone"]), *cells(part["all_but"]))
    if "exclude" not in results:  # quantize makes no mixed-precision model
        return [all_parts, parts]
    line = table("To keep the worst in float", "flag of whisperq quantize, beside those that made the model")
    line.add_row(results["exclude"])
    return [all_parts, parts, line]


def _attention(results: Attention) -> list[Table]:
    result = table("Attention", "", "")
    result.add_row("block", results["block"])
    result.add_row("heads", ", ".join(map(str, results["heads"])))
    result.add_row("utterance", results["utterance"])
    result.add_row("text", results["text"])
    for head, shares in results["shares"].items():
        for role, goes in shares.items():
            result.add_row(f"head {head}, from {role}", ", ".join(f"{percent(s)} to {to}" for to, s in goes.items()))
    return [result]


def _report(results: Report) -> list[Table]:
    found = table(f"Report of {results['artifacts']:,} artifacts, {results['drawn']} figures", "table", "#rows")
    for title, rows in results["tables"].items():
        found.add_row(title, figure(rows))
    broken = table("Broken chains", "what")
    for line in (*results["broken"], *(f"{path}: {reason}" for path, reason in results["unreadable"])):
        broken.add_row(line)
    return [found, broken] if broken.rows else [found]


def _exported(results: Onnx) -> list[Table]:
    integer, floats = len(results["integer_products"]), results["float_products"]
    name = f"integers by the recipe {results['recipe']}" if integer else "floats"
    gate = f", gate {results['gate']}" if results["gate"] else ""  # none of a CTC model
    files = table(f"Exported: {name}{gate}", "file", "#size")
    for file, size in results["bytes"].items():
        files.add_row(file, megabytes(size))
    return [files, scores.products({"integer_products": integer, "float_products": floats})] if integer else [files]


BUILDERS: dict[str, Callable[[Any], list[Table]]] = {
    "student": _student,
    "pseudo-labels": _pseudo_labels,
    "distilled": _distilled,
    "calibration": _calibration,
    "quantized": _quantized,
    "sensitivity": _sensitivity,
    "onnx": _exported,
    "evaluation": scores.evaluation,
    "scores": scores.scores,
    "comparison": comparisons.comparison,
    "robustness": robustness_tables,
    "outliers": outlier_summary.outliers,
    "attention": _attention,
    "report": _report,
}
