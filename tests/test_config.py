"""whisperq.yaml, flags and the paper's values; the run folder's places."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from whisperq.config import Experiment, Source, find_config, one_normalizer, read_config, resolve
from whisperq.declared import SETTINGS
from whisperq.errors import InputError, UsageError
from whisperq.options import CalibrateConfig, QuantizeConfig
from whisperq.run_folder import RunFolder
from whisperq.training_options import DistillConfig, InitStudentConfig

FULL = """
teacher: models/teacher
language: de
task: translate
normalizer: basic
train: [lists/a.jsonl, {path: lists/b.jsonl, weight: 0.5, text_column: sentence}]
validation: lists/v.jsonl
test:
  clean: {path: clean.jsonl, normalizer: english, group: id}
  voices: {dataset: mozilla/voices, config: en, split: test, limit: 100}
defaults:
  distill: {learning-rate: 1e-5, max_steps: 1e3, skip_bad: true, micro_batch: null}
  quantize: {exclude: [enc.0.*, dec.1.fc1], per_channel: false}
"""


def written(folder: Path, text: str) -> Path:
    (folder / "whisperq.yaml").write_text(text)
    return folder / "whisperq.yaml"


def read(folder: Path, text: str) -> Experiment:
    return read_config(written(folder, text))


def test_a_flag_wins_over_the_configuration_which_wins_over_the_paper(tmp_path):
    experiment = read(tmp_path, "defaults: {distill: {max_steps: 10, kl_weight: 0.5}}")
    settings = resolve(DistillConfig, "distill", experiment, {"max_steps": 7, "kl_weight": None, "run": "elsewhere"})
    assert (settings.max_steps, settings.kl_weight, settings.batch_size) == (7, 0.5, 64)


def test_without_a_configuration_everything_is_the_papers():
    assert read_config(None) == Experiment() and Experiment().teacher == "openai/whisper-large-v2"
    for name, kind in SETTINGS.items():
        assert resolve(kind, name, Experiment(), {}) == kind()


def test_a_flag_can_say_no_where_the_configuration_says_yes(tmp_path):
    experiment = read(tmp_path, "defaults: {distill: {skip_bad: true}}")
    assert resolve(DistillConfig, "distill", experiment, {"skip_bad": False}).skip_bad is False


def test_values_have_the_types_of_their_settings(tmp_path):
    experiment = read(tmp_path, FULL)
    distill = resolve(DistillConfig, "distill", experiment, {})
    assert (distill.learning_rate, distill.max_steps, distill.skip_bad, distill.micro_batch) == (1e-5, 1000, True, None)
    assert isinstance(distill.learning_rate, float) and isinstance(distill.max_steps, int)  # YAML: a string, a float
    quantize = resolve(QuantizeConfig, "quantize", experiment, {})
    assert (quantize.exclude, quantize.per_channel) == (("enc.0.*", "dec.1.fc1"), False)


def test_relative_paths_count_from_the_files_own_folder(tmp_path, monkeypatch):
    (tmp_path / "there" / "models" / "teacher").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    experiment = read(Path("there"), FULL)
    there = tmp_path / "there"
    assert experiment.teacher == str(there / "models" / "teacher")
    assert [s.path for s in experiment.train] == [str(there / "lists" / "a.jsonl"), str(there / "lists" / "b.jsonl")]
    assert experiment.train[1].weight == 0.5 and experiment.train[1].text_column == "sentence"
    assert read(Path("there"), "test: {one: ../up.jsonl}").test[0].path == str(tmp_path / "up.jsonl")


def test_a_teacher_that_is_no_folder_is_a_hub_id(tmp_path):
    assert read(tmp_path, "teacher: openai/whisper-tiny").teacher == "openai/whisper-tiny"
    assert read(tmp_path, "teacher: ./not-yet").teacher == str(tmp_path / "not-yet")


def test_test_sets_have_names_from_the_mapping_or_the_file(tmp_path):
    experiment = read(tmp_path, FULL)
    assert [(s.name, s.normalizer, s.group) for s in experiment.test] == [
        ("clean", "english", "id"), ("voices", None, None)
    ]  # fmt: skip
    assert [s.name for s in read(tmp_path, "test: [a/clean.jsonl, noisy.jsonl]").test] == ["clean", "noisy"]


def test_the_environment_fills_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECH", "/data/speech")
    monkeypatch.setenv("HOME", "/home/someone")
    experiment = read(tmp_path, "{teacher: '${SPEECH}/teacher', train: ['$SPEECH/a.jsonl', ~/b.jsonl]}")
    assert experiment.teacher == "/data/speech/teacher"
    assert [s.path for s in experiment.train] == ["/data/speech/a.jsonl", "/home/someone/b.jsonl"]


def test_a_language_that_is_to_be_found_out(tmp_path):
    assert [read(tmp_path, f"language: {text}").language for text in ("null", "auto", "fr")] == [None, None, "fr"]


def test_what_is_there_as_it_is_written_keeps_its_dollars(tmp_path):
    (tmp_path / "$1 talk.jsonl").touch()
    assert read(tmp_path, "train: ['$1 talk.jsonl']").train[0].path == str(tmp_path / "$1 talk.jsonl")


@pytest.mark.parametrize("language", ["language: fr\n", "language: en\n", "language: auto\n", ""])
def test_the_configuration_written_for_later_jobs_says_the_same_from_anywhere(language, tmp_path):
    (tmp_path / "models" / "teacher").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    first = read(tmp_path, re.sub("language: .*\n", language, FULL))
    again = read(tmp_path / "run", first.as_yaml())
    assert again.says_language == bool(language)
    assert replace(again, path=None) == replace(first, path=None)
    paths = [s.path for s in (*again.train, *again.validation, again.test[0])]
    assert all(os.path.isabs(p) for p in paths)


WRONG = {
    "no YAML": ("train: [a.jsonl", "is not valid YAML"),
    "nesting without end": ("[" * 100_000, "is not valid YAML"),
    "no mapping": ("- a\n- b", "must hold a mapping"),
    "unknown key": ("techer: x", "unknown key 'techer'"),
    "a number as key": ("{5: x, a: y}", "unknown key '5'"),
    "no teacher": ("teacher:", "teacher is None"),
    "language no": ("language: no", "language is False"),  # YAML 1.1 reads Norwegian as a truth value
    "unknown task": ("task: sing", "'sing', but must be one of transcribe, translate"),
    "unknown normalizer": ("normalizer: englsh", "'englsh', but must be one of english, basic, none"),
    "normalizer of a set": ("test: {a: {path: a.jsonl, normalizer: x}}", "test: a: normalizer is 'x'"),
    "source a number": ("train: [3]", "train: a source is a path"),
    "source of two": ("train: {path: a, dataset: b}", "either path or dataset"),
    "source of none": ("validation: {split: dev}", "either path or dataset"),
    "source key": ("train: {path: a, colour: red}", "unknown key 'colour' in a source"),
    "source type": ("train: {path: a, limit: few}", "train: limit is 'few', but must be of type int"),
    "source list": ("train: {path: [a, b]}", "train: path is ['a', 'b'], but must be of type str"),
    "unset variable": ("train: ['${NOWHERE_SET}/a.jsonl']", "environment variable NOWHERE_SET is not set"),
    "defaults a list": ("defaults: [distill]", "defaults must map a command"),
    "defaults a word": ("defaults: {distill: fast}", "defaults must map a command"),
    "unknown command": ("defaults: {distil: {max_steps: 3}}", "unknown command 'distil'"),
    "unknown setting": ("defaults: {distill: {max_step: 3}}", "defaults: distill: unknown setting 'max_step'"),
    "setting a number": ("defaults: {distill: {3: 4}}", "unknown setting '3'"),
    "half a step": ("defaults: {distill: {max_steps: 1.5}}", "max_steps is 1.5, but must be of type int"),
    "infinite steps": ("defaults: {distill: {max_steps: .inf}}", "max_steps is inf, but must be of type int"),
    "true steps": ("defaults: {distill: {max_steps: true}}", "max_steps is True, but must be of type int"),
    "bool a number": ("defaults: {distill: {skip_bad: 1}}", "skip_bad is 1, but must be of type bool"),
    "no such observer": ("defaults: {calibrate: {observer: emma}}", "'emma', but must be one of ema, minmax"),
    "nothing": ("defaults: {calibrate: {batches: null}}", "batches is None, but must be of type int"),
}


@pytest.mark.parametrize("text, words", WRONG.values(), ids=WRONG)
def test_every_mistake_is_one_sentence_that_names_file_and_culprit(tmp_path, text, words):
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    assert words in str(error.value) and str(tmp_path / "whisperq.yaml") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind, command, flags, words",
    [
        (DistillConfig, "distill", {"batch_size": 0}, "--batch-size must be at least 1, not 0"),
        (DistillConfig, "distill", {"learning_rate": float("nan")}, "--learning-rate must be a finite number"),
        (CalibrateConfig, "calibrate", {"momentum": 1.5}, "--momentum must be at most 0.999999, not 1.5"),
        (CalibrateConfig, "calibrate", {"activation_bits": 3}, "--activation-bits must be at least 4, not 3"),
    ],
)
def test_values_outside_their_limits_are_refused(kind, command, flags, words):
    with pytest.raises(UsageError, match=words):
        resolve(kind, command, Experiment(), flags)


REFUSED = {
    "choice": (QuantizeConfig, {"recipe": "foo"}, "--recipe is 'foo', but must be one of gemm, paper"),
    "choice of some": (QuantizeConfig, {"sites": "every"}, "but must be one of linear, blocks, all"),
    "one of several": (CalibrateConfig, {"observer": ["ema", "emma"]}, "--observer is 'emma', but must be one of ema"),
    "most": (QuantizeConfig, {"weight_bits": 99}, "--weight-bits must be at most 8, not 99"),
    "least, of several": (CalibrateConfig, {"activation_bits": (8, 2)}, "--activation-bits must be at least 4, not 2"),
    "inherited": (DistillConfig, {"kl_weight": -1}, "--kl-weight must be at least 0, not -1"),
    "a fraction": (InitStudentConfig, {"layers": 2.5}, "--layers is 2.5, but must be of type int"),
    "nothing": (InitStudentConfig, {"layers": None}, "--layers is None, but must be of type int"),
    "a number as switch": (CalibrateConfig, {"skip_bad": 1}, "--skip-bad is 1, but must be of type bool"),
    "no number": (DistillConfig, {"learning_rate": float("inf")}, "--learning-rate must be a finite number"),
    "none in a list": (QuantizeConfig, {"exclude": [None]}, "--exclude is None, but must be of type str"),
}


@pytest.mark.parametrize("kind, settings, words", REFUSED.values(), ids=REFUSED)
def test_settings_are_checked_as_they_are_made(kind, settings, words):
    with pytest.raises(UsageError) as error:
        kind(**settings)
    assert words in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UsageError):
        replace(kind(), **settings)


def test_settings_made_in_python_are_those_that_flags_make():
    made = QuantizeConfig(exclude=["enc.0.*"], smooth=0.5, budget=3, weight_bits=np.int64(4), massive=Path("dec.1"))
    flags = {"exclude": ("enc.0.*",), "smooth": "0.5", "budget": 3.0, "weight_bits": 4, "massive": "dec.1"}
    assert made == resolve(QuantizeConfig, "quantize", Experiment(), flags)
    assert [type(v) for v in (made.exclude, made.smooth, made.budget, made.weight_bits)] == [tuple, str, float, int]
    assert CalibrateConfig(observer="mse, ema", activation_bits=4).observer == ("mse", "ema")


def test_which_file_is_read(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_config(None, run) is None
    written(run, "language: de")
    assert find_config(None, run) == run / "whisperq.yaml"
    written(tmp_path, "language: fr")
    assert read_config(find_config(None, run)).language == "fr"
    (tmp_path / "other.yaml").write_text("language: it")
    assert read_config(find_config("other.yaml", run)).language == "it"
    with pytest.raises(InputError, match="no configuration file nowhere.yaml"):
        find_config("nowhere.yaml", run)


def test_later_commands_find_the_run_folders_configuration(finished_run, invoke, monkeypatch, tmp_path):
    kept = yaml.safe_load((finished_run / "whisperq.yaml").read_text())
    assert kept["defaults"]["distill"]["max_steps"] == 2 and os.path.isabs(kept["test"]["digits"]["path"])
    monkeypatch.chdir(tmp_path)
    again = invoke("calibrate", "--run", finished_run)  # without it there would be no validation data
    assert again.exit_code == 0 and f"configuration: {finished_run / 'whisperq.yaml'}" in again.stderr
    assert "finished already" in again.stderr


def artifact_at(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    return path


def test_the_default_model_is_the_distilled_one_else_the_student(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match="run whisperq init-student first"):
        run.default_model()
    artifact_at(tmp_path / "student")
    (tmp_path / "distilled").mkdir()  # unfinished: no manifest
    assert run.default_model() == tmp_path / "student"
    (tmp_path / "distilled" / "manifest.json").write_text("{}")
    assert run.default_model() == tmp_path / "distilled"


def test_the_only_quantized_model_is_found_and_two_must_be_told_apart(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match="run whisperq quantize first"):
        run.only_quantized()
    gemm = artifact_at(tmp_path / "quantized" / "gemm-w8a8")
    artifact_at(tmp_path / "quantized" / ".gemm-w8a8.replaced-node-17")  # what a killed job left
    assert run.only_quantized() == gemm
    artifact_at(tmp_path / "quantized" / "paper-w8a8")
    with pytest.raises(UsageError, match="choose one: --model gemm-w8a8, --model paper-w8a8"):
        run.only_quantized()


def test_a_model_is_a_path_a_name_or_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "run")
    gemm, student = artifact_at(run / "quantized" / "gemm-w8a8"), artifact_at(run / "student")
    artifact_at(run / "calibration")  # no model
    for model in (gemm, student):
        (model / "config.json").write_text("{}")
    Path("mine").mkdir()
    assert run.named_model("gemm-w8a8") == gemm and run.named_model("student") == student
    assert run.named_model("mine") == Path("mine")
    assert run.named_model("openai/whisper-tiny") == "openai/whisper-tiny"
    near = f"no model studnet (did you mean student?); the run folder {run.root} holds student, gemm-w8a8"
    with pytest.raises(InputError, match=re.escape(near)):
        run.named_model("studnet")


def test_lists_of_several_normalisers_are_not_counted_by_the_first_ones():
    lists = [Source(path="a.jsonl"), Source(path="b.jsonl", name="digits", normalizer="basic")]
    assert (
        one_normalizer(lists[:1], "english", "x") == "english" and one_normalizer(lists[1:], "english", "x") == "basic"
    )
    assert one_normalizer(lists, "basic", "x") == "basic"
    with pytest.raises(UsageError, match=r"x counts .* \(a.jsonl: english, digits: basic\)"):
        one_normalizer(lists, "english", "x")
