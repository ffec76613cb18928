"""Several observers in one pass: each finds what it finds alone, and quantize chooses among them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from whisperq import artifact
from whisperq.config import Experiment, read_config, resolve
from whisperq.errors import InputError, UsageError
from whisperq.options import CalibrateConfig
from whisperq.ptq.ranges_file import chosen_observer, site_ranges, write_ranges
from whisperq.quant.ranges import Estimation

EVERY = ("minmax", "percentile", "mse", "ema", "stablequant")


def observed(how: Estimation, batches: int = 4):
    site = how.site()
    for seed in range(batches):
        site.observe(torch.randn(3, 500, generator=torch.Generator().manual_seed(seed)) * (1 + seed))
    return site


def test_each_observer_finds_what_it_finds_alone():
    together = observed(how := Estimation(EVERY, percentile=99.0, bits=(8, 4))).as_dict(how)["ranges"]
    for observer in EVERY:
        one = Estimation((observer,), percentile=99.0, bits=(8, 4))
        assert observed(one).as_dict(one)["ranges"] == {observer: together[observer]}
    x = torch.cat(
        [torch.randn(3, 500, generator=torch.Generator().manual_seed(s)).flatten() * (1 + s) for s in range(4)]
    )
    assert together["minmax"] == (float(x.min()), float(x.max())) == together["stablequant"]["8"]
    assert together["percentile"] == pytest.approx(np.percentile(x.numpy(), [0.5, 99.5]), abs=0.1)
    (low, high), (lower, higher) = together["mse"]["4"], together["mse"]["8"]
    assert higher - lower > high - low > 0  # few steps are better spent on the middle


def test_only_who_needs_a_histogram_gets_one():
    assert Estimation(("ema", "minmax")).site().histogram is None
    for observer in ("percentile", "mse", "stablequant"):
        assert Estimation(("ema", observer)).site().histogram is not None


def test_the_first_is_the_calibrations_own_and_others_are_held(tmp_path):
    how = Estimation(("percentile", "mse", "minmax"), percentile=90.0, bits=(8, 4))
    own = write_ranges({"a": observed(how)}, how, tmp_path)
    assert chosen_observer(tmp_path, None) == "percentile"
    assert own == site_ranges(tmp_path, ["a"], "percentile", 5)  # for any number of bits
    assert site_ranges(tmp_path, ["a"], "mse", 4) != site_ranges(tmp_path, ["a"], "mse", 8)
    with pytest.raises(InputError, match="holds ranges of percentile, mse, minmax, not of ema; .*--observer ema"):
        chosen_observer(tmp_path, "ema")
    with pytest.raises(InputError, match="for 8, 4 bits, not 6; .*--observer mse --activation-bits 6"):
        site_ranges(tmp_path, ["a"], "mse", 6)


def settings(**flags) -> CalibrateConfig:
    return resolve(CalibrateConfig, "calibrate", Experiment(), flags)


def test_commas_and_repetition_name_several():
    assert settings().observer == ("ema",) and settings().activation_bits == (8,)
    for flag in (("minmax", "mse"), ("minmax,mse",), ("minmax, mse",)):
        assert settings(observer=flag).observer == ("minmax", "mse")
    assert settings(activation_bits=("8,4", "6")).activation_bits == (8, 4, 6)


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"observer": ("minmax,emma",)}, "'emma', but must be one of ema, minmax, percentile, mse, stablequant"),
        ({"activation_bits": ("8,four",)}, "'four', but must be of type int"),
        ({"activation_bits": ("8,3",)}, "--activation-bits must be at least 4, not 3"),
        ({"activation_bits": ("9",)}, "--activation-bits must be at most 8, not 9"),
    ],
)
def test_each_of_several_is_checked(flags, words):
    with pytest.raises(UsageError, match=words):
        settings(**flags)


@pytest.mark.parametrize("text", ["[minmax, mse]", "'minmax,mse'", "[minmax, 'mse']"])
def test_a_configuration_names_several_too(text, tmp_path):
    path = tmp_path / "whisperq.yaml"
    path.write_text(f"defaults: {{calibrate: {{observer: {text}, activation_bits: [8, 4]}}}}")
    experiment = read_config(path)
    assert resolve(CalibrateConfig, "calibrate", experiment, {}).observer == ("minmax", "mse")
    path.write_text(experiment.as_yaml())  # what later jobs of the run folder read
    again = resolve(CalibrateConfig, "calibrate", read_config(path), {})
    assert (again.observer, again.activation_bits) == (("minmax", "mse"), (8, 4))


@pytest.fixture(scope="module")
def calibrated(finished_run, tmp_path_factory, invoke) -> Path:
    """One calibration of the finished run with three observers for two numbers of bits."""
    out = tmp_path_factory.mktemp("several") / "calibration"
    flags = ("--observer", "minmax,percentile", "--observer", "mse", "--activation-bits", "8,4", "--out", out)
    result = invoke("calibrate", "--run", finished_run, *flags)
    assert result.exit_code == 0, result.output
    assert "minmax, percentile, mse" in result.stdout
    return out


def ranges(folder: Path) -> dict:
    return {a: entry["ranges"] for a, entry in json.loads((folder / "ranges.json").read_text())["sites"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_the_command_finds_what_a_pass_for_each_finds(observer, calibrated, finished_run, tmp_path, invoke):
    flags = ("--observer", observer, "--activation-bits", "8,4", "--out", tmp_path / "alone")
    assert invoke("calibrate", "--run", finished_run, *flags).exit_code == 0
    together = ranges(calibrated)
    assert ranges(tmp_path / "alone") == {a: {observer: of[observer]} for a, of in together.items()}


QUANTIZED = {
    "the first": ((), 8, lambda of: of["minmax"]),
    "another": (("--observer", "percentile"), 8, lambda of: of["percentile"]),
    "by bits": (("--observer", "mse"), 8, lambda of: of["mse"]["8"]),
    "by other bits": (("--observer", "mse", "--activation-bits", 4, "--weight-bits", 4), 4, lambda of: of["mse"]["4"]),
}


@pytest.mark.parametrize("flags, bits, expected", QUANTIZED.values(), ids=QUANTIZED)
def test_quantize_takes_the_ranges_of_the_one_that_is_named(
    flags, bits, expected, calibrated, finished_run, tmp_path, invoke
):
    result = invoke("quantize", "--run", finished_run, "--calibration", calibrated, "--out", tmp_path / "q", *flags,
                    "--smooth", "none", "--massive", "none")  # fmt: skip
    assert result.exit_code == 0, result.output
    grids = json.loads((tmp_path / "q" / "qparams.json").read_text())["activations"]
    held = ranges(calibrated)
    assert all(grid["range"] == expected(held[a]) and grid["quant_max"] == 2**bits - 1 for a, grid in grids.items())
    assert artifact.load(tmp_path / "q").results["observer"] == (flags[1] if flags else "minmax")


def test_each_observers_model_has_a_place_of_its_own(copied_run, calibrated, invoke):
    for observer in ("percentile", "mse"):
        assert invoke("quantize", "--calibration", calibrated, "--observer", observer).exit_code == 0
        assert artifact.is_artifact(copied_run / "quantized" / f"gemm-w8a8-by-{observer}")


REFUSED = {
    "not held": (("--observer", "ema"), 3, "holds ranges of minmax, percentile, mse, not of ema"),
    "not for these bits": (("--observer", "mse", "--activation-bits", 5), 3, "for 8, 4 bits, not 5"),
    "no ranges": (("--observer", "mse", "--activations", "dynamic"), 2, "none of which --activations dynamic reads"),
    "no observer": (("--observer", "emma"), 2, "emma"),
}


@pytest.mark.parametrize("flags, code, words", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_chosen_is_one_sentence(flags, code, words, calibrated, finished_run, tmp_path, invoke):
    flags = ("--calibration", calibrated, "--out", tmp_path / "q", *flags)
    result = invoke("quantize", "--run", finished_run, *flags)
    assert result.exit_code == code and words in " ".join(result.stderr.split()), result.stderr
    assert not (tmp_path / "q").exists()
