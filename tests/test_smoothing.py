"""SmoothQuant: the same function as before, scales by the paper's equation, and outliers that cost nothing any more."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from planted import plant, planted_folder
from safetensors.torch import load_file
from support.exported import difference
from support.several_processes import all_at_once
from support.smoothed_models import run, spoken_logits
from support.tiny import gated_model, logits_of
from torch import nn

from whisperq import artifact
from whisperq.errors import UsageError
from whisperq.models.gated_whisper import GATES, HeadLinear
from whisperq.models.loading import load_model, load_processor, save_model
from whisperq.models.sites import model_sites, watch
from whisperq.options import QuantizeConfig
from whisperq.ptq.checkpoint import QPARAMS
from whisperq.ptq.smoothing import norm_readers, smooth
from whisperq.ptq.statistics import CHANNELS
from whisperq.quant.scale_search import Observed
from whisperq.quant.smoothing import ChannelExtrema, magnitudes, smoothing_scales
from whisperq.steps.quantize import check_combination


def channel_maxima(model: nn.Module) -> dict[str, torch.Tensor]:
    """max|x_j| of every smoothable norm's output on random input."""
    extrema = {a: ChannelExtrema() for a in norm_readers(model)}
    with watch(model, model_sites(model), {a: lambda x, e=e: e.observe(x) for a, e in extrema.items()}):
        logits_of(model)
    return {a: magnitudes(torch.stack(e.minima), torch.stack(e.maxima)) for a, e in extrema.items()}


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.85, 1.0])
def test_scales_are_the_papers(alpha):
    generator = np.random.default_rng(0)
    x, w = generator.standard_normal((100, 12)) * np.logspace(-2, 2, 12), generator.standard_normal((30, 12))
    expected = np.abs(x).max(axis=0) ** alpha / np.abs(w).max(axis=0) ** (1 - alpha)
    maxima = [torch.from_numpy(t).abs().amax(dim=0).float() for t in (x, w)]
    np.testing.assert_allclose(smoothing_scales(*maxima, alpha).numpy(), expected, rtol=1e-5)


def test_a_half_makes_activations_and_weights_alike():
    x, w = torch.tensor([0.1, 4.0, 900.0]), torch.tensor([3.0, 0.5, 0.01])
    scales = smoothing_scales(x, w, 0.5)
    torch.testing.assert_close(x / scales, w * scales)


def test_a_channel_of_zeros_stays():
    assert smoothing_scales(torch.tensor([0.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, 3.0]), 0.5).tolist() == [1, 1, 1]


@pytest.mark.parametrize("cross_gate", [True, False])
@pytest.mark.parametrize("gate", GATES)
def test_readers_are_all_that_take_the_norm_in(gate, cross_gate):
    """Against the memory that each layer is handed in a forward pass."""
    model, norms, inputs = gated_model(gate, cross_gate=cross_gate), {}, {}

    def note(found, name):
        return lambda module, args, output=None: found.__setitem__(name, output if found is norms else args[0])

    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            module.register_forward_hook(note(norms, name))
        elif isinstance(module, nn.Linear | HeadLinear):
            module.register_forward_pre_hook(note(inputs, name))
    logits_of(model)
    expected = {
        norm: {f"{name}.weight" for name, x in inputs.items() if x.untyped_storage().data_ptr() == pointer}
        for norm, y in norms.items()
        if norm != "model.decoder.layer_norm" and (pointer := y.untyped_storage().data_ptr())
    }
    found = norm_readers(model)
    assert {entry.norm: set(entry.weights) for entry in found.values()} == expected
    assert len(found) == 2 * 2 + 2 * 3 + 1 and len(expected["model.encoder.layer_norm"]) == 4


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("gate", GATES)
def test_the_function_stays_the_same(gate, alpha):
    model = gated_model(gate)
    before, weights = logits_of(model), {n: p.clone() for n, p in model.state_dict().items()}
    scales = smooth(model, channel_maxima(model), alpha)
    torch.testing.assert_close(logits_of(model), before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
    for site, entry in norm_readers(model).items():
        assert 0.01 < scales[site].log().std() and not torch.equal(scales[site], torch.ones_like(scales[site]))
        assert all(not torch.equal(model.get_parameter(name), weights[name]) for name in entry.weights)
    assert torch.equal(model.proj_out.weight, weights["proj_out.weight"])  # it is the embedding too


@pytest.mark.parametrize("gate", ["headwise", "shared", "none"])
def test_activations_become_what_the_scales_say(gate):
    model = gated_model(gate)
    before = channel_maxima(model)
    scales = smooth(model, before, 0.5)
    for site, after in channel_maxima(model).items():
        torch.testing.assert_close(after, before[site] / scales[site], rtol=1e-4, atol=1e-5)


def test_the_planted_channel_is_found():
    model = gated_model()
    plant(model, 256.0, channel=7)
    scales = smooth(model, channel_maxima(model), 0.5)
    assert all(int(s.argmax()) == 7 and float(s[7] / s.median()) > 64 for s in scales.values())


def test_ranges_after_smoothing_are_exact():
    x, scales = torch.randn(4, 50, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 2, 3, 4, 5, 0.1])
    extrema = ChannelExtrema()
    for batch in x:
        extrema.observe(batch[None])
    minima, maxima = torch.stack(extrema.minima), torch.stack(extrema.maxima)
    scaled = Observed(minima, maxima, x[0]).scaled(scales)
    assert torch.equal(scaled.minima.amin(dim=1), (x / scales).amin(dim=(1, 2)))
    assert torch.equal(scaled.maxima.amax(dim=1), (x / scales).amax(dim=(1, 2)))
    assert torch.equal(magnitudes(minima, maxima), x.abs().amax(dim=(0, 1)))


def test_shards_make_the_same_channels():
    batches = [torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    alone, first, second = ChannelExtrema(), ChannelExtrema(), ChannelExtrema()
    for number, batch in enumerate(batches):
        alone.observe(batch)
        (second if number % 2 else first).observe(batch, number)
    second.merge(first)
    assert second.numbers == alone.numbers == [0, 1, 2, 3, 4]
    for name in ("minima", "maxima"):
        assert torch.equal(torch.stack(getattr(second, name)), torch.stack(getattr(alone, name)))


def quantized(invoke, folder: Path, model: Path, name: str, *flags, observer: str = "ema") -> Path:
    """A model calibrated with its channels and quantized."""
    calibration, out = folder / f"calibration-{observer}", folder / "quantized" / name
    if not calibration.exists():
        observing = ("--observer", observer, "--out", calibration)
        run(invoke, folder, "calibrate", "--model", model, *observing)
    flags = ("--massive", "none", *flags) if "static" in flags or "--activations" not in flags else flags
    flags = (*flags, "--observer", observer) if "dynamic" not in flags else flags
    run(invoke, folder, "quantize", "--model", model, "--calibration", calibration, *flags, "--out", out)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("activations", ["static", "dynamic"])
@pytest.mark.parametrize("observer", ["ema", "percentile"])
def test_planted_outliers_cost_nothing_after_smoothing(observer, activations, copied_run, digits, invoke):
    model = planted_folder(copied_run / "distilled", 256.0, copied_run / "planted")
    expected = spoken_logits(model, digits)
    errors = {}
    for name, flags in (("plain", ("--smooth", "none")), ("smooth", ("--smooth", 0.5))):
        flags = (*flags, "--activations", activations)
        folder = quantized(invoke, copied_run, model, name, *flags, observer=observer)
        errors[name] = difference(spoken_logits(folder, digits), expected)
    assert errors["smooth"] < 0.2 * errors["plain"]
    results, sites = artifact.load(folder).results, norm_readers(load_model(model, torch.float32, "cpu"))
    assert results["smooth"] == 0.5 and set(results["smoothed"]) == set(sites)
    static = {"ema": "ema", "percentile": "minmax"}[observer]
    assert results["smoothed_observer"] == (static if activations == "static" else None)
    shown = " ".join(invoke("show", folder).output.split())
    assert (f"smoothed by 0.5 with {static} ranges" if activations == "static" else "smoothed by 0.5, dynamic") in shown


@pytest.mark.parametrize("observer", ["ema", "minmax"])
def test_new_ranges_are_those_of_the_smoothed_model(observer, copied_run, invoke):
    """Its norms smoothed beforehand by the same scales, and calibrated on the same data."""
    model = copied_run / "distilled"
    folder = quantized(invoke, copied_run, model, "smooth", "--smooth", 0.5, observer=observer)
    smoothed = load_model(model, torch.float32, "cpu")
    channels = load_file(copied_run / f"calibration-{observer}" / CHANNELS)
    maxima = {a: magnitudes(channels[f"{a}.minima"], channels[f"{a}.maxima"]) for a in norm_readers(smoothed)}
    smooth(smoothed, maxima, 0.5)
    save_model(smoothed, load_processor(model), copied_run / "smoothed")
    observing = ("--observer", observer, "--out", copied_run / "again")
    run(invoke, copied_run, "calibrate", "--model", copied_run / "smoothed", *observing)
    expected = json.loads((copied_run / "again" / "ranges.json").read_text())["sites"]
    found = json.loads((folder / QPARAMS).read_text())["activations"]
    for address, entry in found.items():
        assert entry["range"] == pytest.approx(expected[address]["ranges"][observer], rel=1e-4, abs=1e-5), address


@pytest.mark.parametrize("observer", ["minmax", "mse"])
def test_an_observer_that_scaled_sites_cannot_keep_is_named(observer, copied_run, invoke):
    """Never in silence: a histogram that was counted before scaling tells nothing of what comes after."""
    run(invoke, copied_run, "calibrate", "--observer", observer, "--out", copied_run / "seen")
    flags = ("--calibration", copied_run / "seen", "--smooth", "0.5", "--out", copied_run / "eased")
    said = " ".join(invoke("quantize", "--run", copied_run, *flags).stderr.split())
    results = artifact.load(copied_run / "eased").results
    assert (results["observer"], results["smoothed_observer"]) == (observer, "minmax")
    notice = f"{len(results['smoothed'])} scaled sites take their ranges of minmax, not of {observer}"
    assert (notice in said) == (observer != "minmax") and results["smoothed"]


def test_a_smoothed_model_runs_in_integers(copied_run, digits, invoke):
    model = planted_folder(copied_run / "distilled", 256.0, copied_run / "planted")
    folder = quantized(invoke, copied_run, model, "smooth", "--smooth", 0.5)
    assert difference(spoken_logits(folder, digits, "int8"), spoken_logits(folder, digits)) < 1e-2


def test_several_processes_keep_the_same_channels(copied_run, workspace, invoke):
    command = ("calibrate", "--batches", "3", "--batch-size", "2")
    run(invoke, copied_run, *command, "--out", workspace / "one")
    all_at_once(workspace, 2, *command, "--out", "several")
    one, several = (artifact.load(workspace / name).manifest for name in ("one", "several"))
    assert one["files"] == several["files"] and CHANNELS in one["files"]
    assert one["results"]["channel_maxima"] == several["results"]["channel_maxima"] == 24


def test_a_calibration_without_channels_is_refused_with_the_remedy(copied_run, invoke):
    without = ("--no-channel-maxima", "--out", copied_run / "without")
    run(invoke, copied_run, "calibrate", *without)
    arguments = ("--smooth", "0.5", "--calibration", copied_run / "without", "--out", copied_run / "new")
    refused = invoke("quantize", "--run", copied_run, *arguments)
    assert refused.exit_code == 3 and "whisperq calibrate --channel-maxima --force" in refused.stderr
    few = ("--sites", "enc.0", "--out", copied_run / "few")
    run(invoke, copied_run, "calibrate", *few)
    arguments = ("--smooth", "0.5", "--activations", "dynamic", "--calibration", copied_run / "few")
    refused = invoke("quantize", "--run", copied_run, *arguments, "--out", copied_run / "new")
    assert refused.exit_code == 3 and "without --sites" in refused.stderr
    assert not (copied_run / "new").exists()


@pytest.mark.parametrize("settings", [{"recipe": "paper"}, {"activations": "none"}], ids=str)
def test_smoothing_that_eases_nothing_is_refused(settings):
    check_combination(QuantizeConfig(smooth="0.5"))
    with pytest.raises(UsageError, match="--smooth"):
        check_combination(QuantizeConfig(smooth="0.5", **settings))
