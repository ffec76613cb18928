"""Every mistake of a user: its exit code, one sentence that names the culprit, nothing half-written."""

import shutil
from pathlib import Path

import pytest
import torch
from support.damage import (
    Case,
    change_configuration,
    change_json,
    change_weights,
    check_refused,
    cut_in_half,
    flip_last_byte,
    put_nan,
    reseal,
)

Q_PROJ = "model.encoder.layers.0.self_attn.q_proj.weight"


TEACHERS = {
    "no model": (lambda f: (f / "config.json").unlink(), "bad is no model: it has no readable config.json"),
    "another model": (lambda f: change_json(f / "config.json", model_type="bert"), "bad holds a bert model"),
    "cut weights": (lambda f: cut_in_half(f / "model.safetensors"), "the weights of bad cannot be read"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "the weights of bad cannot be read"),
    "a weight missing": (lambda f: change_weights(f, lambda t: t.pop(Q_PROJ)), Q_PROJ),
    "a weight too many": (lambda f: change_weights(f, lambda t: t.update(odd=torch.ones(1))), "odd"),
    "NaN": (lambda f: change_weights(f, put_nan(Q_PROJ)), "not finite"),
    "no extractor": (lambda f: [p.unlink() for p in f.glob("*processor*")], "feature extractor"),
    "a wrong type": (lambda f: change_json(f / "config.json", d_model="wide"), "d_model"),
    "no tokenizer": (lambda f: [p.unlink() for p in f.glob("*token*")], "bad lacks a usable Whisper tokenizer"),
}


@pytest.mark.parametrize("change, words", TEACHERS.values(), ids=TEACHERS)
def test_teachers_that_cannot_be_used(change, words, workspace, teacher, invoke):
    change(Path(shutil.copytree(teacher, workspace / "bad")))
    check_refused(Case("init-student --teacher bad", 3, (words,)), invoke, workspace)


EMPTY_RUN = {
    "Hub id without network": Case("init-student --teacher nobody/none", 3, ("nobody/none", "Hugging Face Hub")),
    "no such folder": Case("init-student --teacher ./gone", 3, ("./gone",)),
    "too many layers": Case("init-student --layers 5", 2, ("5 encoder layers", "has 4")),
    "no layers": Case("init-student --layers 0", 2, ("0 encoder layers",)),
    "too many decoder layers": Case("init-student --decoder-layers 4", 2, ("4 decoder layers", "has 3")),
    "index too large": Case("init-student --encoder-indices 0,4", 2, ("--encoder-indices", "layer 4", "has 4")),
    "index no number": Case("init-student --decoder-indices 0,x", 2, ("--decoder-indices", "'0,x'")),
    "gate-init 0": Case("init-student --gate-init 0", 2, ("--gate-init", "0.0")),
    "gate-init 1.5": Case("init-student --gate-init 1.5", 2, ("--gate-init", "1.5")),
    "gate-init next to 0": Case("init-student --gate-init 1e-300", 2, ("--gate-init", "1e-300")),
    "gate-init nan": Case("init-student --gate-init nan", 2, ("--gate-init", "nan")),
    "no student": Case("distill", 3, ("run/student", "run whisperq init-student first")),
    "no model": Case("calibrate", 3, ("run holds no distilled/ and no student/",)),
    "no model to draw": Case("plot-attention", 3, ("run whisperq init-student first",)),
    "no calibration": Case("quantize", 3, ("run/calibration", "run whisperq calibrate first")),
    "nothing quantized": Case("eval", 3, ("run whisperq quantize first",)),
    "unknown model": Case(
        "calibrate --model studnet", 3, ("studnet", "nor is there a run folder run", "--run or WHISP")
    ),
    "a Whisper by its short name": Case("calibrate --model base", 3, ("base (did you mean openai/whisper-base?)",)),
    "and by another": Case("transcribe a.wav --model whisper-turbo", 3, ("mean openai/whisper-large-v3-turbo?)",)),
    "a teacher's short name": Case("init-student --teacher large-v2", 3, ("(did you mean openai/whisper-large-v2?)",)),
    "openai/whisper's weights": Case(
        "transcribe a.wav --model base.pt",
        3,
        ("base.pt is a file", "as transformers saves it"),
        lambda w: (w / "base.pt").write_bytes(b"PK"),
    ),
    "no run folder here": Case("compare a b", 3, ("file a;", "nor is there a run folder run", "WHISPERQ_RUN")),
    "nothing to show": Case("show run/distilled", 3, ("run/distilled is not a finished", "nothing is there")),
    "no configuration": Case("calibrate --config gone.yaml", 3, ("gone.yaml",)),
    "no artifact": Case("show .", 3, (". is not a finished whisperq artifact",)),
    "invalid YAML": Case(
        "init-student", 3, ("whisperq.yaml is not valid YAML",), lambda w: (w / "whisperq.yaml").write_text("a: [")
    ),
    "unknown key": Case(
        "init-student", 3, ("whisperq.yaml", "'techer'"), lambda w: change_configuration(w, techer="x")
    ),
    "wrong type": Case(
        "init-student",
        3,
        ("whisperq.yaml: defaults: distill: max_steps is 'many'",),
        lambda w: change_configuration(w, defaults={"distill": {"max_steps": "many"}}),
    ),
    "unset variable": Case(
        "init-student", 3, ("NOWHERE_SET is not set",), lambda w: change_configuration(w, train="${NOWHERE_SET}/a")
    ),
    "a file in the way": Case("init-student --out file/x", 3, ("file",), lambda w: (w / "file").write_text("mine")),
    "a file as run folder": Case("init-student --run file", 3, ("file",), lambda w: (w / "file").write_text("mine")),
    "a foreign folder": Case(
        "init-student --out thesis",
        2,
        ("thesis exists and was not finished by whisperq",),
        lambda w: ((w / "thesis").mkdir(), (w / "thesis" / "chapter").write_text("mine")),
    ),
}


@pytest.mark.parametrize("case", EMPTY_RUN.values(), ids=EMPTY_RUN)
def test_mistakes_before_anything_is_there(case, workspace, invoke):
    if case.prepare:
        case.prepare(workspace)
    check_refused(case, invoke, workspace)


FINISHED = {
    "other settings": Case("calibrate --batches 1", 2, ("run/calibration", "differs in batches", "--force")),
    "test data": Case("calibrate --out new --data {digits}/test.jsonl", 2, ("test.jsonl", "'digits'")),
    "test data, respelt": Case("calibrate --out new --data {digits}/../{digits.name}/test.jsonl", 2, ("'digits'",)),
    "quantized already": Case("calibrate --model gemm-w8a8 --out new", 3, ("gemm-w8a8 is quantized already",)),
    "no such site": Case("calibrate --sites enc.0.fc3 --out new", 2, ("'enc.0.fc3'", "enc.0.fc1")),
    "zero batches": Case("calibrate --batches 0", 2, ("--batches must be at least 1",)),
    "another model's": Case("quantize --model student", 3, ("run/calibration was made from another model", "--force")),
    "1 bit": Case("quantize --weight-bits 1", 2, ("--weight-bits", "not 1")),
    "exclude nothing": Case("quantize --exclude enc.7 --out new", 2, ("--exclude enc.7",)),
    "wrong kind": Case("quantize --calibration run/student", 3, ("run/student holds a student", "calibration")),
    "student of a wrong kind": Case("distill --model run/calibration", 3, ("run/calibration holds a calibration",)),
    "model of a wrong kind": Case("eval --model calibration", 3, ("run/calibration holds a calibration", "a model")),
    "a model's file": Case("eval --model run/distilled/model.safetensors", 3, ("is a file", "name run/distilled")),
    "a file in one of two places": Case("eval --model ./whisperq.yaml", 3, ("is a file, but a model is a folder",)),
    "a misspelt place": Case("eval --model run/distiled", 3, ("run/distiled (did you mean distilled?)", "run holds")),
    "a run folder": Case("calibrate --model run", 3, ("no model, but holds run/distilled, run/student, run/q",)),
    "a folder of models": Case("eval --model run/quantized", 3, ("holds run/quantized/gemm-w8a8, run/quantized/p",)),
    "quantized already, over ranges": Case("calibrate --model gemm-w8a8", 3, ("gemm-w8a8 is quantized already",)),
    "a float model in integers": Case(
        "transcribe a.wav --model distilled --runtime int8", 2, ("calibrate --model run/distilled and whisperq quant",)
    ),
    "an evaluation to come": Case(
        "compare distilled-float gemm-w8a8-int8", 3, ("whisperq eval --model distilled --runtime float makes it",)
    ),
    "a misspelt test set": Case("eval --model distilled --test digist", 3, ("--test digist", "(did you mean digits?)")),
    "compared with no model": Case("outliers --compare calibration", 3, ("run/calibration holds a calibration",)),
    "two models": Case("eval", 2, ("--model gemm-w8a8", "--model paper-w8a8")),
    "one name twice": Case(
        "eval --model distilled --test a={digits}/test.jsonl --test a={digits}/train.jsonl", 2, ("named a;",)
    ),
    "unknown site": Case("outliers --layer dec.1.out_porj", 2, ("'dec.1.out_porj'", "dec.1.out_proj")),
    "site without dimensions": Case("outliers --layer dec.1.probs", 2, ("dec.1.probs", "dec.1.probs has no hidden")),
    "unknown head": Case("plot-attention --head 9", 2, ("--head must be 0 to 1 or all, not '9'",)),
    "head in superscript": Case("plot-attention --head \u00b2", 2, ("--head must be 0 to 1", "\u00b2")),
    "unknown block": Case("plot-attention --layer enc.9", 2, ("'enc.9'", "enc.0, enc.1")),
    "unknown utterance": Case("plot-attention --utterance nobody", 3, ("nobody is neither a recording",)),
    "uneven micro-batch": Case("distill --out new --micro-batch 3", 2, ("--micro-batch 3", "--batch-size 4")),
    "no CUDA": Case("calibrate --device cuda --out new", 2, ("--device cuda",)),
    "no CUDA for a student": Case("init-student --layers 2 --device cuda --out new", 2, ("no usable CUDA",)),
    "no CUDA to quantize": Case("quantize --device cuda --out new", 2, ("no usable CUDA",)),
    "no CUDA to export": Case("export --model gemm-w8a8 --device cuda --out new", 2, ("no usable CUDA",)),
    "unknown language": Case(
        "calibrate --out new", 3, ("<|xx|>", "language"), lambda w: change_configuration(w, language="xx")
    ),
    "no data": Case(
        "distill --out new", 3, ("whisperq.yaml under validation", "--validation"),
        lambda w: change_configuration(w, validation=[]),
    ),
    "changed model": Case(
        "calibrate --out new", 3, ("run/distilled/model.safetensors has changed", "--force"),
        lambda w: flip_last_byte(w / "run" / "distilled" / "model.safetensors"),
    ),
    "changed model to quantize": Case(
        "quantize --out new", 3, ("distilled/model.safetensors has changed",),
        lambda w: flip_last_byte(w / "run" / "distilled" / "model.safetensors"),
    ),
    "changed student": Case(
        "distill --out new", 3, ("run/student/model.safetensors has changed",),
        lambda w: flip_last_byte(w / "run" / "student" / "model.safetensors"),
    ),
    "changed ranges": Case(
        "quantize --out new", 3, ("run/calibration/ranges.json has changed",),
        lambda w: flip_last_byte(w / "run" / "calibration" / "ranges.json"),
    ),
    "damaged manifest": Case(
        "show run/calibration", 3, ("run/calibration/manifest.json is damaged",),
        lambda w: cut_in_half(w / "run" / "calibration" / "manifest.json"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FINISHED.values(), ids=FINISHED)
def test_mistakes_in_a_run_folder_with_results(case, copied_run, workspace, digits, invoke, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if case.prepare:
        case.prepare(workspace)
    check_refused(case, invoke, workspace, digits=digits)


CALIBRATIONS = {
    "for other bits": ("--observer mse", "--activation-bits 6", ("for 8 bits, not 6", "--activation-bits 6 --force")),
    "of few sites": ("--sites enc.0.fc1", "", ("has no range for", "without --sites")),
}


@pytest.mark.parametrize("observing, quantizing, words", CALIBRATIONS.values(), ids=CALIBRATIONS)
def test_calibrations_that_do_not_fit_the_quantization(observing, quantizing, words, copied_run, workspace, invoke):
    made = invoke("calibrate", *observing.split(), "--batches", 1, "--out", "cal")
    assert made.exit_code == 0, made.output
    check_refused(Case(f"quantize --calibration cal {quantizing} --out new", 3, words), invoke, workspace)


def test_a_loss_that_is_not_finite_stops_with_step_and_utterances(copied_run, workspace, invoke):
    """The weights are finite, and what they make of any input is not."""
    change_weights(copied_run / "student", lambda tensors: tensors[Q_PROJ].fill_(1e38))
    reseal(copied_run / "student")
    check_refused(Case("distill --out new", 1, ("step 1: the loss is nan", "train-0")), invoke, workspace)


USAGE = {
    "unknown gate": ("init-student --gate sideways", "sideways"),
    "no number": ("calibrate --batches many", "--batches"),
    "unknown flag": ("eval --sped", "--sped"),
    "unknown command": ("evaluate", "evaluate"),
    "a word too many": ("quantize gemm", "gemm"),
    "beams without end": ("eval --beams 33", "--beams must be at most 32"),
    "processes without end": ("distill --workers 100000", "--workers must be at most 256"),
    "a buffer without end": ("distill --shuffle-buffer 1000000000", "--shuffle-buffer must be at most"),
    "sounds without end": ("robustness --sounds 1000000000", "--sounds must be at most 500"),
}


@pytest.mark.parametrize("command, culprit", USAGE.values(), ids=USAGE)
def test_the_command_line_itself_is_checked(command, culprit, workspace, invoke):
    result = invoke(*command.split())
    assert result.exit_code == 2 and culprit in result.stderr and "Traceback" not in result.stderr
    assert [p.name for p in workspace.iterdir()] == ["whisperq.yaml"]
