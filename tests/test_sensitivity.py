"""What each part costs: the mixture against models made without it, the command's figures against numpy and scipy."""

import json
import math
import shlex
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import sample_lines, write_lines
from scipy.special import rel_entr, softmax
from support.quantizing import emulated, quantization_of
from support.tiny import GATED, decoder_ids, features, gated_model, logits_of

from whisperq import artifact
from whisperq.config import source
from whisperq.data.batches import Batch, teacher_forced
from whisperq.data.lists import read
from whisperq.data.tokens import IGNORED, Tokens
from whisperq.models.sites import model_sites, watch
from whisperq.ptq.checkpoint import apply_weights, quantizers
from whisperq.ptq.partial import Part, PartiallyQuantized, divide, smooth_alike
from whisperq.ptq.plan import make_plan
from whisperq.ptq.smoothing import norm_readers, smooth
from whisperq.report.sensitivity import columns, heat_map, place, plot_sensitivity, rows
from whisperq.report.tables import BUILDERS
from whisperq.runtime.open import open_model
from whisperq.scoring.normalizers import get_normalizer
from whisperq.settings import Context
from whisperq.steps.sensitivity import Measure, describe, summary


def batch_of(seed: int = 0) -> Batch:
    """What `logits_of` feeds, with the second utterance's last two tokens unlabelled."""
    inputs = decoder_ids(seed=seed)
    labels = inputs.clone()
    labels[1, -2:] = IGNORED
    return Batch(features(seed=seed), Tokens(inputs, labels, (9, 7)), ())


def labelled(logits: torch.Tensor) -> torch.Tensor:
    return torch.cat([logits[0], logits[1, :-2]])


@pytest.fixture(params=["gemm", "paper"])
def mixture(request) -> PartiallyQuantized:
    model = gated_model()
    return PartiallyQuantized(model, quantization_of(model, request.param, bits=5)[0])


def plainly(quantization, part: Part) -> torch.Tensor:
    """The same state of a fresh model, in one forward pass."""
    model = gated_model()
    apply_weights(model, {n: w for n, w in quantization.weights.items() if n in part.weights})
    grids = {a: q for a, q in quantization.activations.items() if a in part.activations}
    with watch(model, model_sites(model), quantizers(grids)):
        return labelled(logits_of(model))


def test_every_state_is_what_a_fresh_model_computes(mixture):
    parts, whole, batch = divide(mixture, "block"), mixture.whole(), batch_of()
    rest = [Part("", whole.weights - p.weights, whole.activations - p.activations) for p in parts.values()]
    for part in (Part(""), *parts.values(), whole, *rest, Part("")):
        with mixture.quantized(part), torch.no_grad():
            found = mixture.logits(part, batch)
        torch.testing.assert_close(found, plainly(mixture.quantization, part), atol=1e-5, rtol=1e-5)
    model = gated_model()
    assert all(torch.equal(p, model.get_parameter(n)) for n, p in mixture.model.named_parameters())


def test_a_new_batch_is_encoded_anew(mixture):
    for seed in (0, 1):
        with mixture.quantized(Part("")), torch.no_grad():
            found = mixture.logits(Part(""), batch_of(seed))
        torch.testing.assert_close(found, labelled(logits_of(gated_model(), seed=seed)), atol=1e-5, rtol=1e-5)


def test_the_whole_is_the_emulated_model(mixture):
    with mixture.quantized(mixture.whole()), torch.no_grad():
        found = mixture.logits(mixture.whole(), batch_of())
    model = gated_model()
    apply_weights(model, mixture.quantization.weights)
    torch.testing.assert_close(found, labelled(emulated(model, mixture.quantization)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("by", ["block", "site"])
def test_parts_are_all_there_is_each_once(mixture, by):
    parts, whole = divide(mixture, by), mixture.whole()
    assert sorted(n for p in parts.values() for n in p.weights) == sorted(whole.weights)
    assert sorted(a for p in parts.values() for a in p.activations) == sorted(whole.activations)


def test_blocks_are_named_as_sites_are(mixture):
    names = [f"{part}.{i}{kind}" for part in ("enc", "dec") for i in (0, 1) for kind in ("", ".mlp")]
    names += ["dec.0.cross", "dec.1.cross"]
    gemm = "proj_out.weight" in mixture.quantization.weights
    around = ["enc.conv1", "enc.conv2", "enc.norm", "dec.norm", "proj_out"] if gemm else []
    assert sorted(divide(mixture, "block")) == sorted(names + around)


@pytest.mark.parametrize("by", ["block", "site"])
def test_what_a_part_is_excluded_by_names_it(mixture, by):
    """quantize may leave more in float: what no integer product takes in any more."""
    recipe = "gemm" if "proj_out.weight" in mixture.quantization.weights else "paper"
    whole = mixture.whole()
    for name, part in divide(mixture, by).items():
        plan = make_plan(mixture.model, recipe, [part.exclude])
        weights = whole.weights - {w.parameter for w in plan.weights}
        activations = whole.activations - set(plan.activations)
        assert part.weights <= weights and part.activations <= activations, name
        if by == "block" and name != "proj_out":  # that takes dec.norm along
            assert (part.weights, part.activations) == (weights, activations), name


NAMES = ["enc.norm", "enc.1.mlp", "dec.10", "dec.2.cross", "proj_out", "enc.1", "dec.2", "enc.conv1", "dec.norm"]


def test_the_map_runs_as_the_model_computes():
    assert rows(NAMES) == ["enc", "enc.1", "dec", "dec.2", "dec.10"]
    assert columns(NAMES) == ["conv1", "attention", "cross.attention", "mlp", "norm", "proj_out"]
    sites = ["enc.0.fc2", "enc.0.fc2:weight", "enc.0.fc2:input", "dec.0.cross.gate", "dec.0.context", "proj_out:weight"]
    expected = ["context", "cross.gate", "fc2:input", "fc2", "fc2:weight", "proj_out:weight"]
    assert columns(sites) == expected


def test_cells_are_the_ratios_and_nothing_else_is_drawn():
    ratios = {name: 20.0 + 3 * i for i, name in enumerate(NAMES)} | {"dec.norm": math.inf}
    axes = heat_map(ratios, "title").axes[0]
    cells = axes.images[0].get_array().filled(np.nan)
    down, across = rows(NAMES), columns(NAMES)
    assert np.isfinite(cells).sum() == len(NAMES) == len(axes.texts)
    for name, ratio in ratios.items():
        row, column = place(name)
        drawn = cells[down.index(row), across.index(column)]
        assert drawn == (ratio if math.isfinite(ratio) else 41.0)  # the best of the finite ones
    assert {t.get_text() for t in axes.texts} >= {"20", "23", "\u221e"}


def test_figures_hold_their_labels_as_text(tmp_path):
    parts = {name: {state: {"snr_db": 30.0 + i} for state in ("alone", "all_but")} for i, name in enumerate(NAMES)}
    names = plot_sensitivity(parts, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names) and len(names) == 4
    svg = ElementTree.parse(tmp_path / "sensitivity-alone.svg").iter("{http://www.w3.org/2000/svg}text")
    texts = {e.text for e in svg}
    assert {"only this part quantized", "layer", "component", "SNR of the logits (dB)", "dec.10", "mlp"} <= texts


@pytest.fixture(scope="module")
def measured(finished_run, tmp_path_factory, invoke) -> tuple[dict, Path]:
    """The command's results on four utterances, and its folder."""
    out = tmp_path_factory.mktemp("sensitivity") / "out"
    flags = ("--limit", "4", "--worst", "1", "--wer", "--out", out, "--json")
    result = invoke("sensitivity", "--run", finished_run, "--model", "gemm-w8a8", *flags)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["results"], out


@pytest.fixture(scope="module")
def smoothed(finished_run, tmp_path_factory, invoke) -> tuple[dict, Path]:
    """The command's results for a smoothed model, and that model's folder."""
    folder = tmp_path_factory.mktemp("smoothed")
    common = ("--run", finished_run)
    for flags in (
        ("calibrate", "--channel-maxima", "--out", folder / "calibration"),
        ("quantize", "--smooth", "0.5", "--calibration", folder / "calibration", "--out", folder / "model"),
    ):
        result = invoke(*flags, *common)
        assert result.exit_code == 0, result.output
    flags = ("--model", folder / "model", "--limit", "4", "--out", folder / "out", "--json")
    result = invoke("sensitivity", *flags, *common)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["results"], folder / "model"


@torch.inference_mode()
def logits(folder: Path, data: Path) -> np.ndarray:
    """Of the list's first four utterances, (tokens, vocabulary)."""
    with open_model(folder, Context(device="cpu")) as opened:
        batch = opened.loader.labelled(list(read(source(str(data), data, "validation")).utterances[:4]))
        found = teacher_forced(opened.model, batch, "cpu").double()
    return np.concatenate([row[:n] for row, n in zip(found, batch.tokens.lengths, strict=True)])


def check(state: dict, exact: np.ndarray, found: np.ndarray) -> None:
    assert state["snr_db"] == pytest.approx(
        20 * np.log10(np.linalg.norm(exact) / np.linalg.norm(exact - found)), abs=0.1
    )
    kl = rel_entr(softmax(exact, axis=1), softmax(found, axis=1)).sum() / len(exact)
    assert state["kl"] == pytest.approx(kl, rel=0.02)


def test_everything_is_the_quantized_model_against_the_float_one(measured, finished_run, digits):
    results, data = measured[0], digits / "validation.jsonl"
    exact = logits(finished_run / "distilled", data)
    assert results["tokens"] == len(exact)
    check(results["everything"], exact, logits(finished_run / "quantized" / "gemm-w8a8", data))


def test_of_a_smoothed_model_too(smoothed, finished_run, digits):
    (results, model), data = smoothed, digits / "validation.jsonl"
    check(results["everything"], logits(finished_run / "distilled", data), logits(model, data))


@pytest.mark.parametrize("gate", GATED)
def test_smoothing_is_found_in_the_norms(gate):
    model, quantized, plain, untouched = (gated_model(gate) for _ in range(4))
    maxima = {s: torch.rand(32, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(norm_readers(model))}
    smooth(quantized, maxima, alpha=0.5)
    smooth_alike(model, quantized)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, quantized.get_parameter(name), atol=0, rtol=1e-6, msg=name)
    smooth_alike(plain, untouched)
    assert all(torch.equal(p, untouched.get_parameter(n)) for n, p in plain.named_parameters())


def test_all_but_the_worst_is_what_quantize_makes_of_its_line(measured, finished_run, digits, tmp_path, invoke):
    results, data = measured[0], digits / "validation.jsonl"
    (worst, part), *_ = results["worst"].items()
    assert worst != "proj_out"  # that would take dec.norm along
    flags = (*shlex.split(results["exclude"]), "--out", tmp_path / "mixed")
    assert invoke("quantize", "--run", finished_run, *flags).exit_code == 0
    check(part["all_but"], logits(finished_run / "distilled", data), logits(tmp_path / "mixed", data))


def test_keep_worst_keeps_what_the_line_names(copied_run, invoke):
    assert invoke("sensitivity", "--model", "gemm-w8a8", "--limit", "2", "--worst", "2").exit_code == 0
    line = artifact.load(Path("run/sensitivity/gemm-w8a8"), "sensitivity").results["exclude"]
    assert invoke("quantize", "--keep-worst", 2).exit_code == 0
    assert invoke("quantize", *shlex.split(line), "--out", "by-hand").exit_code == 0
    kept, by_hand = artifact.load(Path("run/quantized/gemm-w8a8-keep2")), artifact.load(Path("by-hand"))
    assert kept.results["float_weights"] == by_hand.results["float_weights"] != {}
    assert kept.results["float_activations"] == by_hand.results["float_activations"]
    assert kept.manifest["files"]["quantized.safetensors"] == by_hand.manifest["files"]["quantized.safetensors"]
    assert ",".join(kept.results["kept_worst"]) in line
    assert kept.inputs["sensitivity"]["path"].endswith("sensitivity/gemm-w8a8")


def test_the_printed_line_makes_the_same_model_with_its_worst_parts_in_float(copied_run, invoke):
    settings = ("--weight-bits", 5, "--group", 16, "--weights", "mse", "--exclude", "enc.0.fc1")
    assert invoke("quantize", *settings, "--out", "run/quantized/odd").exit_code == 0
    done = invoke("sensitivity", "--model", "odd", "--limit", 2, "--worst", 2)
    words = shlex.split(done.stderr.splitlines()[-1].partition("with: whisperq ")[2])
    assert words[:1] == ["quantize"], done.stderr
    made = invoke(*words)
    assert made.exit_code == 0, made.output
    odd, kept = (artifact.load(Path(f"run/quantized/odd{end}")) for end in ("", "-keep2"))
    assert kept.config == odd.config | {"keep_worst": 2}
    assert set(kept.results["float_weights"]) > set(odd.results["float_weights"]) != set()


def test_the_whole_alone_is_the_same_without_parts(measured, finished_run, digits, tmp_path, invoke):
    flags = ("--model", "gemm-w8a8", "--by", "model", "--data", digits / "validation.jsonl", "--limit", 4)
    done = invoke("sensitivity", "--run", finished_run, *flags, "--wer", "--out", tmp_path / "whole")
    assert done.exit_code == 0, done.output
    found = artifact.load(tmp_path / "whole").results
    assert found["everything"] == measured[0]["everything"] and found["float_wer"] == measured[0]["float_wer"]
    assert found["parts"] == 0 and found["figures"] == [] and "Worst parts" not in done.stdout


def test_keep_worst_needs_a_sensitivity_of_this_model(copied_run, invoke):
    nothing = invoke("quantize", "--keep-worst", 1)
    assert nothing.exit_code == 3 and "run whisperq quantize, then whisperq sensitivity" in nothing.stderr
    for model in ("gemm-w8a8", "paper-w8a8"):
        assert invoke("sensitivity", "--model", model, "--limit", "1").exit_code == 0
    assert invoke("quantize", "--keep-worst", 1, "--weight-bits", 4).exit_code == 2, "which of the two?"
    flags = ("quantize", "--keep-worst", 999, "--sensitivity", "run/sensitivity/gemm-w8a8")
    too_many = invoke(*flags)
    assert too_many.exit_code == 2 and "--keep-worst 999 is more than the" in too_many.stderr
    others = invoke(*flags[:2], 1, *flags[3:], "--model", "student", "--activations", "none")
    assert others.exit_code == 3 and "measured of another model" in others.stderr


def test_every_part_is_in_the_file_the_worst_first(measured):
    results, out = measured
    content = json.loads((out / "sensitivity.json").read_text())
    divergences = [part["alone"]["kl"] for part in content["parts"].values()]
    assert len(divergences) == results["parts"] and divergences == sorted(divergences, reverse=True)
    assert list(results["worst"]) == list(content["parts"])[:10]
    assert content["everything"] == results["everything"]
    assert all((out / name).is_file() for name in results["figures"])


@pytest.mark.parametrize("first", ["harmless", "broken", "noisy"])
def test_a_part_that_breaks_the_logits_is_the_worst_and_its_ratio_no_infinity(first):
    """NaN is neither greater nor less than anything, and in JSON the same as what stands for infinity."""
    z = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    found = {"harmless": z, "broken": torch.full_like(z, torch.nan), "noisy": z + 0.1 * torch.eye(3, 5)}
    names = [first, *(name for name in ("noisy", "broken", "harmless") if name != first)]
    measures = {"nothing": Measure(), "everything": Measure()} | {
        f"{state} {name}": Measure() for name in names for state in ("alone", "all but")
    }
    for name in names:
        measures[f"alone {name}"].distortion.update(z, found[name])
    parts, words = {name: Part(name) for name in names}, get_normalizer("none")
    costs = describe(parts, {name: measure.as_dict(words) for name, measure in measures.items()})
    assert list(costs["parts"]) == ["broken", "noisy", "harmless"]
    results = {"recipe": "gemm", "tokens": 3, **artifact.plain(summary(costs, parts, 0))}
    _, table = BUILDERS["sensitivity"](results)
    snr, kl = ([*map(str, column.cells)] for column in table.columns[1:3])
    assert (snr[0], snr[2], kl[0], kl[2]) == ("-", "infinite", "-", "0.00e+00")


def test_its_word_error_rates_are_those_of_eval(measured, finished_run, digits, tmp_path, invoke):
    for model, expected in (("distilled", measured[0]["float_wer"]), ("gemm-w8a8", measured[0]["everything"]["wer"])):
        flags = ("--test", f"v={digits / 'validation.jsonl'}", "--limit", "4", "--out", tmp_path / model, "--json")
        done = invoke("eval", "--run", finished_run, "--model", model, *flags, "--normalizer", "basic")
        assert json.loads(done.stdout)["results"]["sets"]["v"]["wer"] == expected


def test_the_summary_names_the_flag_and_a_requeued_job_finds_it_done(copied_run, invoke):
    flags = ("sensitivity", "--model", "gemm-w8a8", "--limit", "2", "--by", "site")
    first, second = invoke(*flags), invoke(*flags)
    assert first.exit_code == second.exit_code == 0, first.output
    line = artifact.load(Path("run/sensitivity/gemm-w8a8")).results["exclude"]
    assert line.startswith("--exclude ") and line in first.stdout and "Worst parts, of" in first.stdout
    assert "is finished already" in second.stderr
    assert first.stdout.endswith("sensitivity: run/sensitivity/gemm-w8a8\n")


def test_what_it_cannot_measure_is_one_sentence(copied_run, invoke, monkeypatch):
    float_one = invoke("sensitivity", "--model", "distilled")
    assert float_one.exit_code == 3 and "holds a distilled model, but a quantized model is needed" in float_one.stderr
    several = invoke("sensitivity")
    assert several.exit_code == 2 and "choose one: --model gemm-w8a8" in several.stderr
    silent = write_lines(Path("silent.jsonl"), [line | {"text": None} for line in sample_lines("validation", 2)])
    textless = invoke("sensitivity", "--model", "gemm-w8a8", "--data", silent)
    assert textless.exit_code == 3 and "has no text" in textless.stderr
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    together = invoke("sensitivity", "--model", "gemm-w8a8")
    assert together.exit_code == 2 and "works in one process" in together.stderr
