"""Calls of steps whose inputs are chosen in a way of their own, from a session's flags to inputs and a place.

All others are called as they are declared (`commands.usual`).
"""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from whisperq import artifact
from whisperq import options as o
from whisperq.artifact import Artifact
from whisperq.cli.commands import Command, CommandCall, label, model_label, part, run_step, step, usual
from whisperq.cli.session import Session
from whisperq.config import Source
from whisperq.errors import InputError, UsageError
from whisperq.jobs.progress import say
from whisperq.kinds import noun
from whisperq.names import set_file
from whisperq.preconditions import (
    check_calibrated,
    check_export,
    check_runtime,
    check_set_names,
    check_training,
    kind_of,
    seconds_of,
)
from whisperq.run_folder import scheme
from whisperq.runtimes import RUNTIMES, running
from whisperq.training_options import DistillConfig, MixedPrecisionConfig, PseudoLabelConfig, TrainingConfig

Listening = TypeVar("Listening", o.CalibrateConfig, o.SensitivityConfig)


def pseudo_label(s: Session, config: PseudoLabelConfig) -> Artifact:
    model = s.model() if s.flags.get("model") else s.teacher()
    data = s.sources("train", "data")
    name = label("+".join(source.name for source in data)) if s.flags.get("data") else "train"
    place = s.out(f"pseudo-labels/{name}")
    return run_step(s, "pseudo_label", place, config, model=model, data=data, normalizer=s.experiment.normalizer)


def training_data(s: Session, name: str, config: TrainingConfig) -> Any:
    """Training and validation data in the form that step `name` takes.

    Raises UsageError for settings that no training can have.
    """
    check_training(config, world=1)  # what does not divide the whole divides no share of it
    seconds_of(config.max_time)
    return part(name, "TrainingData")(
        s.sources("train", "train"), s.sources("validation", "validation"), s.experiment.normalizer
    )


def distill(s: Session, config: DistillConfig) -> Artifact:
    student, data = s.student(), training_data(s, "distill", config)
    teacher = s.teacher(student)
    return run_step(s, "distill", s.out("distilled"), config, student=student, teacher=teacher, data=data)


def listened_to(s: Session, config: Listening) -> tuple[tuple[Source, ...], Listening]:
    """--data, else the configuration's validation data, else the embedded speech, and how it is read.

    Of the embedded speech what does not fit into a short window or decoder is left out.
    """
    shipped = not (s.flags.get("data") or s.experiment.validation)
    return s.speech(), replace(config, skip_bad=True) if shipped else config


def calibrate(s: Session, config: o.CalibrateConfig) -> Artifact:
    stable, dev = "stablequant" in config.observer, bool(s.flags.get("dev"))
    if dev and not stable:
        raise UsageError("--dev is for --observer stablequant, which tries its ranges there")
    check_calibrated(model := s.model())
    data, config = listened_to(s, config)
    development = s.sources("validation", "dev") if dev else data if stable else ()
    lists = part("calibrate", "CalibrationData")(data, development, s.experiment.test, s.experiment.normalizer)
    return run_step(s, "calibrate", s.out("calibration"), config, model=model, data=lists)


def quantize(s: Session, config: o.QuantizeConfig) -> Artifact:
    reads_ranges = config.activations == "static" or config.smooth not in ("auto", "none")
    calibration = s.calibration() if reads_ranges or s.has_calibration() else None
    model = s.calibrated_model(calibration) if calibration else s.model()
    if not reads_ranges:
        calibration = None  # it named the model, no more
    worst = s.sensitivity(scheme(replace(config, keep_worst=None))) if config.keep_worst else None
    place = s.out(f"quantized/{scheme(config)}")
    return run_step(s, "quantize", place, config, model=model, calibration=calibration, sensitivity=worst)


def mixed_precision(s: Session, config: MixedPrecisionConfig) -> Artifact:
    model, data = s.unquantized_model(), training_data(s, "mixed_precision", config)
    place = s.out(f"quantized/mixed-{config.mode}-{config.target_bits:g}bit")
    return run_step(s, "mixed_precision", place, config, model=model, data=data)


def sensitivity(s: Session, config: o.SensitivityConfig) -> Artifact:
    s = replace(s, flags={**s.flags, "model": s.flags.get("model") or str(s.run.only_quantized())})
    floats, model = s.unquantized_model(), Path(s.run.named_model(s.flags["model"]))
    artifact.load(model, "quantized", verify=False)
    (data, config), place = listened_to(s, config), s.out(f"sensitivity/{model_label(s, model)}")
    inputs = {"model": model, "floats": floats, "data": data, "normalizer": s.experiment.normalizer}
    return run_step(s, "sensitivity", place, config, **inputs)


def export(s: Session, config: o.ExportConfig) -> Artifact:
    model = s.unquantized_model() if config.float else s.model(s.run.only_quantized)
    check_export(model, config.float)
    name = label(model.name) if config.float else model_label(s, model)
    return run_step(s, "export", s.out(f"onnx/{name}"), config, model=model)


def runnable(s: Session, config: o.Execution, default: o.RuntimeName) -> tuple[Path, o.RuntimeName]:
    """The model's folder and the runtime's name; what ONNX Runtime and OpenVINO run is exported first.

    Raises UsageError for a runtime that the model has none for.
    """
    model = s.model(s.run.only_quantized)
    sealed = artifact.load(model, verify=False) if artifact.is_artifact(model) else None
    kind = kind_of(model)
    if sealed and sealed.results.get("recipe") == "paper":
        default = "emulated"  # no integer kernel here computes it
    runtime = config.runtime or (default if kind == "quantized" else running(kind)[0])
    exports = RUNTIMES[runtime].runs == "onnx" and kind != "onnx"
    if model.is_dir():  # under --dry-run a model of the Hub is not fetched, and nobody knows what it is
        check_runtime(model, "onnx" if exports else kind, replace(config, runtime=runtime), s.context())
    if not exports:
        return model, runtime
    check_export(model, as_float=False)
    place = s.run / f"onnx/{model_label(s, model)}"
    if os.environ.get("WORLD_SIZE", "1") != "1" and not artifact.is_artifact(place):
        raise UsageError(f"several processes cannot export {model} on the way; run whisperq export first")
    try:
        made = run_step(s, "export", place, o.ExportConfig(), model=model)
    except artifact.Finished as finished:
        made = finished.artifact
    say(f"exported: {made.path}")
    return made.path, runtime


def eval(s: Session, config: o.EvalConfig) -> Artifact:
    model, runtime = runnable(s, config, "emulated")
    config = replace(config, runtime=runtime)
    place, test = f"eval/{model_label(s, model)}-{runtime}", s.sources("test", "test")
    check_set_names([source.name for source in test], "--test NAME=LIST")
    return run_step(s, "eval", s.out(place), config, model=model, test=test, normalizer=s.experiment.normalizer)


def hypotheses(s: Session) -> tuple[list[Source], str]:
    """Each set's file, with what the configuration says of a test set of that name; and a name for them all."""
    configured = {source.name: source for source in s.experiment.test}
    files: list[tuple[str, Path]] = []
    names = []
    for text in s.flags["hypotheses"]:
        name, _, path = text.partition("=")
        named = bool(path) and not os.path.exists(text)  # unlike Path's it bears names of any length
        place = s.run.evaluation(path if named else text)
        sealed = artifact.load(place) if place.is_dir() else None
        if sealed and sealed.kind not in ("evaluation", "scores"):
            raise InputError(f"{place} holds {noun(sealed.kind)}, but an evaluation or score is needed here")
        sets = sealed.results.get("sets") or {} if sealed else {place.stem: None}
        found = [(n, set_file(place / "hypotheses", n, ".jsonl") if sealed else place) for n in sets]
        files += [(name if named else own, file) for own, file in found]
        inside = place.resolve().parent
        names.append(place.name if sealed else inside.parent.name if inside.name == "hypotheses" else place.stem)
    check_set_names([name for name, _ in files], "NAME=FILE")
    sources = [replace(configured.get(name, Source()), name=name, path=str(file)) for name, file in files]
    return sources, label("+".join(dict.fromkeys(names)))


def score(s: Session, config: o.ScoreConfig) -> Artifact:
    sources, name = hypotheses(s)
    chosen = [choice for choice in (config.normalizer, config.measure) if choice]
    place = "-".join([name, *chosen, *(["sclite"] if config.scorer == "sclite" else [])])
    return run_step(s, "score", s.out(f"scores/{place}"), config, files=sources, normalizer=s.experiment.normalizer)


def compare(s: Session, config: o.CompareConfig) -> Artifact:
    a, b = (s.run.evaluation(s.flags[name]) for name in ("a", "b"))
    place = f"comparisons/{label(a.stem if a.is_file() else a.name)}-vs-{label(b.stem if b.is_file() else b.name)}"
    return run_step(s, "compare", s.out(place), config, a=a, b=b, normalizer=s.experiment.normalizer)


def robustness(s: Session, config: o.RobustnessConfig) -> Artifact:
    s = replace(s, flags={**s.flags, "model": s.flags.get("model") or str(s.run.only_quantized())})
    floats, (model, runtime) = s.unquantized_model(), runnable(s, config, "int8")
    artifact.load(model, "quantized", verify=False)
    config, test = replace(config, runtime=runtime), s.sources("test", "test")
    check_set_names([source.name for source in test], "--test NAME=LIST")
    place = s.out(f"robustness/{model_label(s, model)}-{runtime}")
    inputs = {"model": model, "floats": floats, "test": test, "normalizer": s.experiment.normalizer}
    return run_step(s, "robustness", place, config, **inputs)


def transcribe(s: Session, config: o.TranscribeConfig) -> str:
    if s.common.json:
        if s.flags["format"] not in (None, "json"):
            raise UsageError(f"--json and --format {s.flags['format']} contradict each other; give one of them")
        config = replace(config, format="json")
    model, runtime = runnable(s, config, "int8")
    out, context = Path(s.common.out) if s.common.out else None, s.context()
    context = replace(context, task=config.task or context.task)
    if config.language is None and not s.experiment.says_language:  # nobody has said which
        context = replace(context, language=None)
    config = replace(config, runtime=runtime)
    return step("transcribe")(
        model=model, files=s.flags["files"], out=out, config=config, context=context, output=s.output
    )


def outliers(s: Session, config: o.OutliersConfig) -> Artifact:
    model, compare = s.model(), s.compare()
    name = model_label(s, model) + (f"-vs-{label(Path(s.flags['compare']).name)}" if compare else "")
    place = f"outliers/{name}/{label(config.layer or ('blocks' if config.massive else 'attention-outputs'))}"
    test = s.sources("test", "test")
    return run_step(s, "outliers", s.out(place), config, model=model, compare=compare, data=test)


def plot_attention(s: Session, config: o.PlotAttentionConfig) -> Artifact:
    model, utterance = s.model(), s.flags.get("utterance")
    named_file = utterance is not None and os.path.isfile(utterance)  # unlike Path's it bears ids of any length
    data = () if named_file else s.sources("test", "test")
    place = f"attention/{model_label(s, model)}/{label(config.layer)}-head-{label(config.head)}"
    return run_step(s, "plot_attention", s.out(place), config, model=model, data=data, utterance=utterance)


def report(s: Session, config: o.ReportConfig) -> Artifact:
    """Run the report step. A report belongs to no single run: without --out it is written to the working folder."""
    out = Path(s.common.out or "report")
    runs = [Path(run) for run in s.flags["runs"]]
    return run_step(s, "report", out, config, runs=runs)


OWN: dict[str, CommandCall] = {
    call.__name__: call
    for call in (
        pseudo_label, distill, calibrate, quantize, mixed_precision, sensitivity, export, eval, score, compare,
        robustness, transcribe, outliers, plot_attention, report,
    )
}  # fmt: skip


def call_of(command: Command) -> CommandCall:
    """The function that makes the step's call from a session and settings."""
    return OWN.get(command.step) or partial(usual, command)
