"""A setting that got another name is taken by its earlier one: on the command line, in YAML, in Python, on disk."""

import json
from dataclasses import asdict, fields

import pytest

import whisperq as wq
from whisperq import artifact
from whisperq.config import Experiment, read_config, resolve
from whisperq.declared import SETTINGS
from whisperq.errors import InputError, UsageError
from whisperq.former import FORMER, todays_settings
from whisperq.options import QuantizeConfig


def test_every_earlier_name_leads_to_a_setting_of_today():
    for command, former in FORMER.items():
        names = {f.name for f in fields(SETTINGS[command])}
        assert not former.keys() & names and {one.name for one in former.values()} <= names


def test_yaml_is_read_by_either_name(tmp_path):
    path = tmp_path / "whisperq.yaml"
    for text in ("weights: rtn", "weight-observer: minmax", "weights: null"):
        path.write_text(f"defaults: {{quantize: {{{text}}}}}")
        assert resolve(QuantizeConfig, "quantize", read_config(path), {}) == QuantizeConfig()
    path.write_text("defaults: {quantize: {weights: mse}}")
    assert resolve(QuantizeConfig, "quantize", read_config(path), {}).weight_observer == "mse"
    path.write_text("defaults: {quantize: {weights: mse, weight_observer: mse}}")
    with pytest.raises(InputError, match="weights is the earlier name of weight_observer; give one of the two"):
        read_config(path)


def test_a_flag_is_taken_by_either_name(copied_run, workspace, invoke):
    told = ("quantize", "--calibration", copied_run / "calibration", "--out", "q")
    assert invoke(*told, "--weights", "mse").exit_code == 0
    assert artifact.load("q", "quantized").manifest["config"]["weight_observer"] == "mse"
    again = invoke(*told, "--weight-observer", "mse")
    assert again.exit_code == 0, again.output
    refused = invoke(*told, "--weights", "rtn")
    assert refused.exit_code == 2 and "differs in weight_observer" in refused.stderr
    both = invoke(*told, "--weights", "mse", "--weight-observer", "mse")
    assert both.exit_code == 2 and "earlier name of weight_observer" in both.stderr
    assert "--weights" not in invoke("quantize", "--help").stdout


def test_python_takes_either_name(tmp_path):
    with pytest.raises(UsageError, match="is 'foo', but must be one of minmax, mse"):
        wq.quantize(tmp_path, tmp_path, weights="foo")
    with pytest.raises(UsageError, match="earlier name"):
        wq.quantize(tmp_path, tmp_path, weights="mse", weight_observer="mse")


def test_what_an_earlier_version_made_by_the_same_settings_is_the_same_result(tmp_path):
    old = {**asdict(QuantizeConfig()), "weights": "rtn"}
    del old["weight_observer"]
    with artifact.create(tmp_path / "q", "quantized", "quantize", json.loads(json.dumps(old)), {}) as draft:
        draft.results["recipe"] = "gemm"
    found = artifact.load(tmp_path / "q")
    assert found.config == json.loads(json.dumps(asdict(QuantizeConfig())))
    assert found.manifest["config"]["weights"] == "rtn"
    with pytest.raises(artifact.Finished):
        artifact.refuse_overwrite(tmp_path / "q", "quantize", asdict(QuantizeConfig()), {}, force=False)
    with pytest.raises(UsageError, match="differs in weight_observer"):
        artifact.refuse_overwrite(tmp_path / "q", "quantize", asdict(QuantizeConfig(weight_observer="mse")), {}, False)


def test_other_commands_keep_their_words():
    given = {"weights": 3}
    assert todays_settings("eval", given) == given
    assert resolve(QuantizeConfig, "quantize", Experiment(), {"weights": None}) == QuantizeConfig()
