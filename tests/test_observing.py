"""What calibration records of a batch: the same values, however it is shown, and known ranges without looking."""

import json
from typing import get_args

import pytest
import torch
from support.tiny import decoder_ids, features, gated_model

from whisperq import options
from whisperq.errors import UsageError
from whisperq.models import gated_whisper
from whisperq.models.sites import model_sites, watch
from whisperq.ptq import activation_ranges
from whisperq.ptq.ranges_file import known_range, write_ranges
from whisperq.quant.ranges import OBSERVERS, Estimation
from whisperq.quant.smoothing import ChannelExtrema

LENGTHS = {"tokens": (4, 9)}


@pytest.fixture(scope="module")
def model():
    return gated_model(gate_init=0.25)


def looked_at(model, see) -> None:
    with watch(model, model_sites(model), see), torch.inference_mode():
        model(input_features=features(), decoder_input_ids=decoder_ids())


def test_a_batch_in_as_few_tensors_as_leave_padding_out(model):
    """Over every site the least and greatest value are those of the utterances one by one."""
    sites, seen = model_sites(model), {}
    looked_at(model, {a: lambda x, a=a: seen.update({a: x.clone()}) for a in sites})
    for address, x in seen.items():
        one_by_one = torch.cat([u.flatten() for u in sites[address].utterances(x, LENGTHS)])
        site = Estimation().site()
        site.observe(sites[address].parts(x, LENGTHS), 0)
        assert (site.minima, site.maxima) == ([float(one_by_one.min())], [float(one_by_one.max())]), address
        assert len(sites[address].parts(x, {"tokens": (9, 9)})) == 1
        padded = address.startswith(("dec.", "proj_out")) and not address.endswith(("cross.k_proj", "cross.v_proj"))
        assert len(sites[address].parts(x, LENGTHS)) == (2 if padded else 1), address


@pytest.mark.parametrize("observers", [("ema",), ("percentile", "mse")])
def test_scores_that_come_head_by_head_are_one_batch(model, observers, monkeypatch):
    how, found = Estimation(observers), []
    for part in (1, 2**30):
        monkeypatch.setattr(gated_whisper, "PART", part)
        site, calls = how.site(), []

        def see(x: torch.Tensor, site=site, calls=calls) -> None:
            calls.append(x.shape)
            site.observe([x], number=3)

        see.in_parts = site.in_parts
        looked_at(model, {"enc.0.scores": see})
        found.append((len(calls), site.numbers, site.as_dict(how)))
    (many, numbers, in_parts), (once, _, whole) = found
    assert many > once == 1 and numbers == [3]
    assert in_parts["minima"] == pytest.approx(whole["minima"], rel=1e-5)
    assert in_parts["ranges"][observers[0]] == pytest.approx(whole["ranges"][observers[0]], rel=1e-3)


def test_batches_without_numbers_are_batches_of_their_own():
    site = Estimation().site()
    for value in (1.0, 2.0, 2.0):
        site.observe([torch.tensor([-value, value])])
    assert site.minima == [-1.0, -2.0, -2.0] and site.numbers == [0, 1, 2]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_value_that_is_none_is_refused_in_any_utterance(bad):
    x = torch.zeros(3, 4)
    x[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        Estimation().site().observe(x)


def test_channels_of_a_whole_batch_are_those_of_its_utterances():
    x = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    whole, single = ChannelExtrema(), ChannelExtrema()
    whole.observe([x], 0)
    single.observe(x, 0)
    assert torch.equal(whole.minima[0], single.minima[0]) and torch.equal(whole.maxima[0], single.maxima[0])
    assert whole.maxima[0].tolist() == x.numpy().max(axis=(0, 1)).tolist()


def test_what_mathematics_knows_is_not_estimated(model, tmp_path):
    sites = model_sites(model)
    known = {a: known_range(model, s) for a, s in sites.items()}
    assert known["enc.0.probs"] == known["dec.1.cross.probs"] == (0.0, 1.0)
    assert known["enc.1.gate"] == (0.0, 4.0)  # sigmoid(x) / 0.25
    assert {a.split(".")[-1] for a, ends in known.items() if ends} == {"probs", "gate"}
    bounded = {a for a, s in sites.items() if known_range(model, s, (-1.5, 1.8)) == (-1.5, 1.8)}
    assert bounded == {"enc.conv1:input"}
    how = Estimation(("percentile", "mse", "ema"), bits=(8, 4))
    gate = how.site(known["enc.1.gate"])
    gate.observe([torch.tensor([0.9, 1.1])], 0)
    probs = how.site(known["enc.0.probs"])
    probs.assume(0)
    assert write_ranges({"gate": gate, "probs": probs}, how, tmp_path) == {"gate": (0.0, 4.0), "probs": (0.0, 1.0)}
    written = json.loads((tmp_path / "ranges.json").read_text())["sites"]["gate"]
    assert written["ranges"] == {"percentile": [0, 4], "mse": {"8": [0, 4], "4": [0, 4]}, "ema": [0, 4]}
    assert written["known"] == [0, 4] and written["maxima"] == pytest.approx([1.1])


def test_calibrate_takes_known_ranges_and_never_looks_at_probabilities(finished_run, tmp_path, invoke):
    result = invoke("calibrate", "--run", finished_run, "--out", tmp_path / "c")
    assert result.exit_code == 0, result.output
    sites = json.loads((tmp_path / "c" / "ranges.json").read_text())["sites"]
    for address, entry in sites.items():
        component = address.split(".")[-1]
        assert ("known" in entry) == (component in ("probs", "gate") or address == "enc.conv1:input"), address
        if component == "probs":
            assert {*entry["minima"]} == {0.0} and {*entry["maxima"]} == {1.0}
    spectrogram = sites["enc.conv1:input"]
    low, high = spectrogram["ranges"]["ema"]
    assert low == -1.5 < min(spectrogram["minima"]) and max(spectrogram["maxima"]) < high
    gate = sites["enc.0.gate"]
    assert gate["ranges"]["ema"] == [0.0, 2.0] and 0 < gate["minima"][0] <= gate["maxima"][0] < 2


def test_sites_without_scores_leave_attention_to_the_fused_kernel(finished_run, tmp_path, invoke, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("attention was made explicit")

    monkeypatch.setattr(gated_whisper, "explicit_attention", refuse)
    flags = ("--run", finished_run, "--out", tmp_path / "c", "--sites", "enc.*.probs,dec.*.cross.probs,enc.*.out_proj")
    assert invoke("calibrate", *flags).exit_code == 0
    assert "enc.0.probs" in json.loads((tmp_path / "c" / "ranges.json").read_text())["sites"]


@pytest.mark.parametrize("observers, words", [(("ema", "emma"), "no observer 'emma'"), ((), "needs an observer")])
def test_an_observer_that_there_is_not_is_an_error_before_anything_is_observed(observers, words):
    with pytest.raises(UsageError, match=f"{words}.*ema, minmax, percentile, mse, stablequant"):
        Estimation(observers)


def test_an_unknown_observer_has_no_range_by_mistake():
    """Not that of mse, nor under smoothing that of minmax, nor one that mathematics knows."""
    for site in (Estimation(("mse",)).site(), Estimation(("mse",)).site(known=(0.0, 1.0))):
        site.observe([torch.tensor([-1.0, 2.0])])
        with pytest.raises(UsageError, match="no observer 'median'"):
            site.estimate("median", Estimation(), 8)
    with pytest.raises(UsageError, match="no observer 'median'"):
        activation_ranges._scaled_observer("median")
    assert set(activation_ranges.SCALED) == set(OBSERVERS) == set(get_args(options.Observer))
