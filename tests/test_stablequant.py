"""StableQuant: its ranges against direct computations, its search against a table, its command killed and gone on."""

import json
import math
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import sample_lines, write_lines
from support.quantizing_ctc import waveforms
from support.tiny import decoder_ids, features, gated_model
from support.tiny_ctc import VARIANTS, save_checkpoint

from whisperq import artifact
from whisperq.calibration.evaluator import Development, layers_of
from whisperq.calibration.prefix_cache import Prefix, stages
from whisperq.calibration.search import CHOSEN, FULL, SEARCHED, Criterion, Desk, Trial, search, summary
from whisperq.config import source
from whisperq.data.batches import teacher_forced
from whisperq.data.lists import read
from whisperq.data.waveforms import Waveforms
from whisperq.errors import InputError
from whisperq.models.loading import load_model
from whisperq.models.sites import model_sites, watch
from whisperq.ptq.checkpoint import apply_weights, quantize_weight, quantizers
from whisperq.ptq.plan import make_plan
from whisperq.quant.grid import fake_quantize, range_qparams
from whisperq.quant.observers import Histogram
from whisperq.quant.ranges import Estimation
from whisperq.quant.stable import CUT_OFFS, best_cut_off, clipped, costly_by_snr, costly_by_wer, stable_range
from whisperq.report.tables import tables
from whisperq.runtime.open import open_model
from whisperq.settings import Context


def values(seed: int = 0) -> torch.Tensor:
    """A bulk with heavy tails and a few outliers, as activations have them."""
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(seed))
    return torch.cat([x * (1 + x.abs()), torch.tensor([90.0, 80.0, -40.0])])


def histogram_of(x: torch.Tensor) -> Histogram:
    histogram = Histogram()
    histogram.update(x)
    return histogram


@pytest.mark.parametrize("kept", [99.99, 99.5, 90.0])
def test_what_lies_beyond_a_cut_off_is_gone(kept):
    x = values()
    low, high = np.percentile(x.double().numpy(), [(100 - kept) / 2, (100 + kept) / 2])
    found, inside = clipped(histogram_of(x), kept), x[(x >= low) & (x <= high)]
    assert found.total == pytest.approx(len(inside), abs=3)
    assert (found.minimum, found.maximum) == pytest.approx((low, high), abs=0.1)
    assert not found.counts[found.edges()[:-1] > found.maximum].any()
    assert found.counts.sum() == found.total and histogram_of(x).total == len(x)


def test_nothing_is_cut_off_at_100():
    whole = histogram_of(values())
    assert torch.equal(clipped(whole, 100.0).counts, whole.counts)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("kept", [99.99, 99.0])
def test_the_scale_is_that_of_least_squared_error_inside(kept, bits):
    x = values()
    ends = np.percentile(x.double().numpy(), [(100 - kept) / 2, (100 + kept) / 2])
    inside = x[(x >= ends[0]) & (x <= ends[1])]

    def error(low: float, high: float) -> float:
        return float((inside - fake_quantize(inside, range_qparams(low, high, bits))).double().square().mean())

    fractions = np.geomspace(1, 0.2, 12)
    best = min(error(ends[0] * i, ends[1] * j) for i in fractions for j in fractions)
    low, high = stable_range(histogram_of(x), kept, bits)
    assert ends[0] - 0.1 <= low < 0 < high <= ends[1] + 0.1
    assert error(low, high) <= 1.02 * best


def test_layers_that_cost_more_points_than_the_threshold_are_searched():
    alone = {"a": 0.050, "b": 0.0526, "c": 0.0524, "d": 0.04}
    assert costly_by_wer(alone, 0.05, 0.25) == ["b"]
    assert costly_by_wer(alone, 0.05, 0.1) == ["b", "c"]


@pytest.mark.parametrize("words", [400, 1200, 2000, 8000])
def test_a_layer_that_costs_the_threshold_exactly_is_not_searched(words):
    """A quarter of a point is so many errors of so many words, whatever the rounding of both rates makes of it."""
    costs = [
        costly_by_wer({"a": (errors + words // 400) / words}, errors / words, 0.25) for errors in range(words // 4)
    ]
    assert not any(costs) and costly_by_wer({"a": (words // 400 + 1) / words}, 0.0, 0.25) == ["a"]


@pytest.mark.parametrize("decibels", [0.0, 0.5, 3.0])
def test_those_that_are_left_out_by_noise_could_win_no_more(decibels):
    ratios = np.random.default_rng(0).uniform(20, 60, 30)
    alone = {f"layer{i}": float(ratio) for i, ratio in enumerate(ratios)} | {"silent": math.inf}
    found = costly_by_snr(alone, decibels)
    noise = {layer: 10 ** (-ratio / 10) for layer, ratio in alone.items()}
    total, left = sum(noise.values()), [layer for layer in alone if layer not in found]

    def loss(layers: list[str]) -> float:
        return 10 * math.log10(total / (total - sum(noise[layer] for layer in layers)))

    assert found == [layer for layer in alone if layer in found] and "silent" not in found
    assert loss(left) <= decibels + 1e-9
    quietest = max(found, key=alone.__getitem__)
    if len(found) > 1:
        assert loss([*left, quietest]) > decibels
    assert all(alone[layer] >= alone[quietest] for layer in left)


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_a_layer_that_breaks_the_logits_is_searched_and_no_other_for_it(broken):
    sound = {"a": 20.0, "b": 40.0, "c": 41.0, "d": math.inf}
    assert costly_by_snr(sound, 0.5) == ["a"]  # noise 1e-2, 1e-4, 8e-5, 0: all but a leave 0.08 dB, a everything
    for alone in ({"x": broken} | sound, sound | {"x": broken}):
        assert costly_by_snr(alone, 0.5) == [layer for layer in alone if layer in ("a", "x")]
    assert costly_by_snr({"x": broken, "y": broken}, 3.0) == ["x", "y"]


def test_the_best_cut_off_cuts_off_no_more_than_it_must():
    assert best_cut_off({None: 0.2, 100.0: 0.1, 99.9: 0.1, 99.0: 0.3}, "wer") == 100.0
    assert best_cut_off({None: 0.1, 100.0: 0.1}, "wer") is None
    assert best_cut_off({None: 30.0, 100.0: 31.0, 99.9: 31.0}, "snr") == 100.0
    assert best_cut_off({None: math.nan, 99.0: -5.0}, "snr") == 99.0
    assert best_cut_off({None: math.nan, 99.0: 1.0}, "wer") == 99.0


def observed(seed: int):
    site = Estimation(("stablequant",)).site()
    site.observe([values(seed)])
    return site


def test_the_search_follows_its_four_steps():
    """b alone costs too much, and is best at 99.9; each question names what lies before it."""
    layers, asked = ["a", "b", "c", "d"], []
    wer = {"a": 0.1, "b": 0.2, "c": 0.1, "d": 0.15}

    def ask(trials, before):
        asked.append((trials, dict(before)))
        stage, layer = trials[0].stage, trials[0].layer
        if stage != "cut-off":
            return [Trial(8, stage, layer, None, trials[0].range, wer=0.1 if layer is None else wer[layer])]
        best = {"b": 99.9, "d": None}[layer]
        return [Trial(8, stage, layer, t.cut_off, t.range, wer=0.1 if t.cut_off == best else 0.2) for t in trials]

    sites = {layer: observed(seed) for seed, layer in enumerate(layers)}
    desk = Desk(ask, lambda text: None, lambda items, *_: items)
    found, log = search(layers, sites, 8, Criterion("wer", 0.25, 0.5), desk)
    full = {layer: (min(site.minima), max(site.maxima)) for layer, site in sites.items()}
    assert found == {"b": stable_range(sites["b"].histogram, 99.9, 8), "d": full["d"]}
    assert [(t.stage, t.layer, t.decision) for t in log[:5]] == [
        ("float", None, None), ("alone", "a", FULL), ("alone", "b", SEARCHED), ("alone", "c", FULL),
        ("alone", "d", SEARCHED),
    ]  # fmt: skip
    assert [(t.layer, t.cut_off) for t in log if t.decision == CHOSEN] == [("b", 99.9), ("d", None)]
    questions = [(trials[0].layer, before) for trials, before in asked if trials[0].stage == "cut-off"]
    assert questions == [("b", {"a": full["a"]}), ("d", {"a": full["a"], "b": found["b"], "c": full["c"]})]
    assert all(trials[0].range == full[trials[0].layer] and not before for trials, before in asked[1:5])
    assert [t.cut_off for t in asked[5][0]] == [None, *CUT_OFFS]


def test_a_range_that_mathematics_knows_is_tried_and_kept():
    """However much it costs: there is nothing to cut off, and what was seen of it is less than there can be."""
    layers, asked = ["enc.conv1:input", "b"], []
    sites = {"enc.conv1:input": Estimation(("stablequant",)).site((-1.5, 1.8)), "b": observed(0)}
    sites["enc.conv1:input"].observe([torch.tensor([-0.4, 0.9])])

    def ask(trials, before):
        asked.append((trials, dict(before)))
        return [replace(trial, snr_db=1.0) for trial in trials]

    desk = Desk(ask, lambda text: None, lambda items, *_: items)
    found, log = search(layers, sites, 8, Criterion("snr", 0.25, 0.0), desk)
    assert (log[0].layer, log[0].range, log[0].decision) == ("enc.conv1:input", (-1.5, 1.8), FULL)
    assert found.keys() == {"b"} and asked[-1][1] == {"enc.conv1:input": (-1.5, 1.8)}


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_a_layer_whose_full_range_breaks_the_logits_gets_one_that_does_not(broken):
    """The table says so, and no range at all is a refusal, for a model that is quantized so would break as well."""

    def ask(trials, before, best):
        return [replace(t, snr_db=best if t.cut_off == 99.0 else broken) for t in trials]

    def found(best):
        desk = Desk(partial(ask, best=best), lambda text: None, lambda items, *_: items)
        return search(["a"], {"a": observed(0)}, 8, Criterion("snr", 0.25, 0.5), desk)[1]

    results = {
        "sites": 1, "observers": ["stablequant"], "metric": "snr", "batches": 1, "batches_asked": 1, "utterances": 1,
        "audio_seconds": 1.0, "widest": [], "stablequant": artifact.plain(summary(found(12.0))),
    }  # fmt: skip
    *_, searched = tables(SimpleNamespace(kind="calibration", results=results))
    (row,) = zip(*(map(str, column.cells) for column in searched.columns), strict=True)
    assert row == ("a", "8", "logits broken", "99", "12.0 dB")
    with pytest.raises(InputError, match="a in 8 bits breaks the logits, to NaN or infinity, with every range"):
        found(broken)


def whisper(_: Path):
    model = gated_model()
    return model, lambda seed=0: model(input_features=features(2, seed), decoder_input_ids=decoder_ids()).logits


def ctc(variant: str, folder: Path):
    save_checkpoint(folder, variant)
    model = load_model(folder, torch.float32, "cpu")
    rows = waveforms()
    batch = Waveforms(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), tuple(map(len, rows)))
    return model, lambda seed=0: model(batch.values + seed, attention_mask=batch.mask()).logits


FAMILIES = {"whisper": whisper} | {variant: partial(ctc, variant) for variant in VARIANTS}


@pytest.mark.parametrize("make", FAMILIES.values(), ids=FAMILIES)
@torch.inference_mode()
def test_from_any_stage_on_the_same_comes_out_and_what_lies_before_rests(make, tmp_path):
    model, run = make(tmp_path)
    prefix, exact = Prefix(model), {0: run(0), 1: run(1)}
    worked: list[int] = []  # stages whose first part gave more than zeros
    for number, module in enumerate(prefix.modules):
        parts = [m for m in module.modules() if not list(m.children())]
        parts[0].register_forward_hook(lambda *a, number=number: worked.append(number) if a[-1].any() else None)
    for site, stage in prefix.stages.items():
        for batch in (0, 1):
            for again in (False, True):
                worked.clear()
                with prefix.running(batch, site, {}):
                    assert torch.equal(run(batch), exact[batch]), (site, again)
                assert not again or min(worked) == stage, (site, worked)
    assert {*prefix.stages.values()} == {*range(len(stages(model)))}
    assert torch.equal(run(), exact[0])


@torch.inference_mode()
def test_a_change_before_a_stage_is_seen(tmp_path):
    """Whatever is quantized before, and in whichever order states follow one another."""
    model, run = whisper(tmp_path)
    sites, prefix = model_sites(model), Prefix(model)
    grids = {
        a: range_qparams(-1.0, 1.0, 4) for a in ("enc.conv2:input", "enc.0.mlp_norm", "enc.1.attn_norm", "enc.norm")
    }
    states = [[*grids][:n] for n in (4, 2, 3, 1, 0, 4)] + [["enc.0.mlp_norm", "enc.norm"], ["enc.1.attn_norm"]]
    for state in states * 2:
        with watch(model, sites, quantizers({a: grids[a] for a in state})):
            expected = run()
        with prefix.running(0, state[-1] if state else None, dict.fromkeys(state, 4)):
            with watch(model, sites, quantizers({a: grids[a] for a in state})):
                assert torch.equal(run(), expected), state


@torch.inference_mode()
def test_what_passes_the_limit_is_computed_anew(tmp_path):
    model, run = whisper(tmp_path)
    prefix, exact = Prefix(model, limit=0), run()
    for _ in range(2):
        with prefix.running(0, "enc.1.fc2:input", {}):
            assert torch.equal(run(), exact)
        assert not prefix.kept


SNR = ("calibrate", "--observer", "stablequant,percentile", "--metric", "snr", "--batches", 1)


@pytest.fixture(scope="module")
def calibrated(finished_run, tmp_path_factory, invoke) -> Path:
    out = tmp_path_factory.mktemp("stable") / "calibration"
    result = invoke(*SNR, "--run", finished_run, "--dev-limit", 6, "--out", out, "--activation-bits", "8,4")
    assert result.exit_code == 0, result.output
    assert "Searched by stablequant" in result.stdout and "to be searched: " in result.stderr
    assert not list(out.parent.glob("*partial*"))
    return out


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]


def sites_of(folder: Path) -> dict:
    return json.loads((folder / "ranges.json").read_text())["sites"]


@pytest.mark.slow
def test_the_ranges_are_what_the_log_says_and_the_rest_is_full(calibrated):
    log, sites = log_of(calibrated), sites_of(calibrated)
    chosen = {(str(t["bits"]), t["layer"]): t["range"] for t in log if t["decision"] == CHOSEN}
    for address, entry in sites.items():
        for bits, ends in entry["ranges"]["stablequant"].items():
            full = entry.get("known") or [min(entry["minima"]), max(entry["maxima"])]
            assert ends == chosen.get((bits, address), full), address
    searched = {(str(t["bits"]), t["layer"]) for t in log if t["decision"] == SEARCHED}
    assert searched == chosen.keys() and {bits for bits, _ in searched} == {"8", "4"}
    summary = artifact.load(calibrated).results["stablequant"]
    assert {(str(one["bits"]), one["layer"]) for one in summary} == searched


def test_every_layer_is_tried_alone_and_searched_ones_at_every_cut_off(calibrated, finished_run):
    log, model = log_of(calibrated), load_model(finished_run / "distilled", torch.float32, "cpu")
    for bits in (8, 4):
        alone = [t["layer"] for t in log if t["stage"] == "alone" and t["bits"] == bits]
        assert alone == make_plan(model, "gemm").activations
        cut_offs: dict[str, list] = {}
        for t in (t for t in log if t["stage"] == "cut-off" and t["bits"] == bits):
            cut_offs.setdefault(t["layer"], []).append(t)
        for trials in cut_offs.values():
            assert trials[0]["cut_off"] is None and {t["cut_off"] for t in trials[1:]} <= {*CUT_OFFS}
            best = max(trials, key=lambda t: t["snr_db"])
            assert best["snr_db"] == next(t["snr_db"] for t in trials if t["decision"])


@torch.inference_mode()
def test_the_ratios_are_those_of_models_made_without_it(calibrated, finished_run, digits):
    """A layer alone, and the last that was searched with all before it as the log leaves them: fresh models."""
    log, folder = [t for t in log_of(calibrated) if t["bits"] == 4], finished_run / "distilled"
    final = {t["layer"]: t["range"] for t in log if t["decision"] in (FULL, CHOSEN)}
    last = [t for t in log if t["decision"] == CHOSEN][-1]
    order = make_plan(load_model(folder, torch.float32, "cpu"), "gemm").activations
    alone = (log[3], {log[3]["layer"]: log[3]["range"]})
    for trial, ranges in (alone, (last, {a: final[a] for a in order[: order.index(last["layer"]) + 1]})):
        with open_model(folder, Context(device="cpu")) as opened:
            utterances = read(source(str(digits / "validation.jsonl"), digits, "validation")).utterances[:6]
            batch = opened.loader.labelled(list(utterances))
            exact = batch.counted(teacher_forced(opened.model, batch, "cpu")).double()
            weights = [w for found in layers_of(opened.model, ranges).values() for w in found]
            codes = {w.parameter: quantize_weight(opened.model, w, 8, True, True) for w in weights}
            apply_weights(opened.model, codes)
            grids = quantizers({a: range_qparams(*ends, 4) for a, ends in ranges.items()})
            with watch(opened.model, model_sites(opened.model), grids):
                noise = batch.counted(teacher_forced(opened.model, batch, "cpu")).double() - exact
        assert trial["snr_db"] == pytest.approx(20 * float(torch.log10(exact.norm() / noise.norm())), abs=0.02)


def test_quantize_reads_it_as_any_other(calibrated, finished_run, tmp_path, invoke):
    for bits in (8, 4):
        flags = ("--calibration", calibrated, "--activation-bits", bits, "--out", tmp_path / str(bits))
        result = invoke("quantize", "--run", finished_run, *flags)
        assert result.exit_code == 0, result.output
        sites = sites_of(calibrated)
        for a, grid in json.loads((tmp_path / str(bits) / "qparams.json").read_text())["activations"].items():
            assert grid["range"] == sites[a]["ranges"]["stablequant"][str(bits)]
    other = invoke("quantize", "--run", finished_run, "--calibration", calibrated, "--activation-bits", 6)
    assert other.exit_code == 3 and "ranges of stablequant for 8, 4 bits, not 6" in " ".join(other.stderr.split())


class Killed(BaseException):
    """Nobody handles it: the files lie as after SIGKILL."""


@pytest.fixture
def stop_after(monkeypatch):
    """stop_after(n): the n-th measurement from now on never ends; returns a list that grows with each."""
    measure, seen = Development.measure, []

    def limited(count: float) -> list:
        seen.clear()

        def one(self, trials, before, number, part):
            if len(seen) >= count:
                raise Killed
            seen.append(trials)
            return measure(self, trials, before, number, part)

        monkeypatch.setattr(Development, "measure", one)
        return seen

    return limited


FEW = (*SNR, "--sites", "enc.0.*,dec.1.mlp_norm,dec.1.fc2:input", "--dev-limit", 2)


def test_after_a_kill_the_same_command_goes_on_and_ends_alike(copied_run, invoke, stop_after):
    seen = stop_after(math.inf)
    assert invoke(*FEW, "--out", "whole").exit_code == 0
    total = len(seen)
    for count in (0, 3, 3, 1):  # alone and in the search
        stop_after(count)
        with pytest.raises(Killed):
            invoke(*FEW, "--out", "killed")
        assert not Path("killed").exists()
    trials = Path("killed-partial/trials.jsonl")
    assert 3 + 3 + 1 <= len(trials.read_text().splitlines())
    with open(trials, "a") as file:
        file.write('{"bits": 8, "stage": "cut-')  # torn
    seen = stop_after(math.inf)
    done = invoke(*FEW, "--out", "killed")
    assert done.exit_code == 0 and "going on after" in done.stderr, done.output
    assert len(seen) == total - 7
    for name in ("ranges.json", "decisions.jsonl"):
        assert Path("killed", name).read_bytes() == Path("whole", name).read_bytes()
    assert not Path("killed-partial").exists()
    assert "is finished already" in invoke(*FEW, "--out", "killed").stderr


def test_another_commands_trials_are_left_alone(copied_run, invoke, stop_after):
    stop_after(2)
    with pytest.raises(Killed):
        invoke(*FEW, "--out", "killed")
    stop_after(math.inf)
    other = invoke(*FEW, "--out", "killed", "--snr-threshold", 3)
    assert other.exit_code == 2 and "unfinished trials of another command" in " ".join(other.stderr.split())
    assert "snr_threshold" in other.stderr and Path("killed-partial/trials.jsonl").exists()
    forced = invoke(*FEW, "--out", "killed", "--snr-threshold", 3, "--force")
    assert forced.exit_code == 0 and "going on" not in forced.stderr
    assert not Path("killed-partial").exists()


def test_told_to_stop_it_keeps_its_trials(copied_run, invoke, monkeypatch):
    @contextmanager
    def signalled():
        yield lambda: len(list(Path().glob("told-partial/trials.jsonl"))) > 0

    monkeypatch.setattr("whisperq.steps.calibrate.stop_requested", signalled)
    told = invoke(*FEW, "--out", "told")
    assert told.exit_code == 75 and "the same command does the rest" in " ".join(told.stderr.split()), told.output
    assert Path("told-partial/settings.json").exists() and not Path("told").exists()


def test_word_error_rates_are_those_of_eval(copied_run, digits, invoke):
    flags = ("--observer", "stablequant", "--sites", "enc.0.attn_norm", "--batches", 1, "--threshold", 1000)
    assert invoke("calibrate", *flags, "--dev-limit", 4, "--out", "c").exit_code == 0
    first, alone = log_of(Path("c"))
    sets = ("--test", f"v={digits / 'validation.jsonl'}", "--limit", 4, "--normalizer", "basic", "--out", "e", "--json")
    done = invoke("eval", "--model", "distilled", *sets)
    assert first["wer"] == json.loads(done.stdout)["results"]["sets"]["v"]["wer"]
    assert (alone["stage"], alone["decision"], alone["snr_db"]) == ("alone", FULL, None)
    entry = sites_of(Path("c"))["enc.0.attn_norm"]
    assert entry["ranges"]["stablequant"]["8"] == [min(entry["minima"]), max(entry["maxima"])]


def test_what_makes_no_sense_is_one_sentence(copied_run, digits, invoke):
    write_lines(Path("silent.jsonl"), [line | {"text": None} for line in sample_lines("validation", 2)])
    validation, test = digits / "validation.jsonl", digits / "test.jsonl"
    for flags, code, words in (
        (("--dev", validation), 2, "--dev is for --observer stablequant"),
        (("--observer", "stablequant", "--dev", test), 2, "is the test set 'digits'"),
        (
            ("--observer", "stablequant", "--dev", "silent.jsonl"),
            3,
            "has no text, which stablequant's development list",
        ),
        (("--observer", "stablequant", "--sites", "enc.0.scores"), 2, "nothing that an integer product takes in"),
    ):
        result = invoke("calibrate", "--out", "new", *flags)
        assert result.exit_code == code and words in " ".join(result.stderr.split()), result.stderr
        assert not Path("new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["wer", "snr"])
def test_it_knows_both_families(metric, tmp_path, invoke, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "model", "wav2vec2-large")
    data = write_lines(tmp_path / "data.jsonl", sample_lines("validation", 3))
    flags = ("--model", tmp_path / "model", "--data", data, "--dev", data, "--metric", metric, "--out", "c")
    result = invoke("calibrate", "--observer", "stablequant", "--batches", 1, "--threshold", 0, *flags)
    assert result.exit_code == 0, result.output
    log = log_of(Path("c"))
    assert {"cnn.0:input", "feature_proj:input", "pos_conv:input", "enc.0.attn_norm", "enc.norm"} <= {
        t["layer"] for t in log if t["stage"] == "alone"
    }
    assert invoke("quantize", "--calibration", "c", "--out", "q").exit_code == 0
