"""Bits learned with the weights, the two baselines, and the model that comes of them."""

import json
import signal
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import write_configuration
from safetensors.torch import load_file
from support.feeding import write_noises
from support.learned_step_size import lsq
from support.process_pairs import ended, pair
from support.processes import Job
from support.tiny import gated_model, processor
from support.tiny_ctc import save_checkpoint
from support.training_batch import batch
from torch.distributions import Categorical, kl_divergence
from torch.func import functional_call

from whisperq import artifact
from whisperq.config import source
from whisperq.data.batches import teacher_forced
from whisperq.data.sources import read_all
from whisperq.data.tokens import IGNORED, Tokens
from whisperq.data.waveforms import WaveformBatch, Waveforms
from whisperq.errors import Interrupted, UsageError
from whisperq.jobs.distributed import ALONE
from whisperq.jobs.signals import Stopping
from whisperq.models.ctc import frame_counts
from whisperq.models.loading import load_model, save_model
from whisperq.ptq.checkpoint import Quantization, load_quantized
from whisperq.ptq.partial import trained_floats
from whisperq.ptq.plan import make_plan
from whisperq.quant.grid import dequantize, fake_quantize
from whisperq.quant.learned import symmetric_qparams
from whisperq.quant.packing import packed_size
from whisperq.report.bits import bits_figure
from whisperq.runtime.open import open_model
from whisperq.settings import Context
from whisperq.training import bit_search as search
from whisperq.training.bit_search import (
    SearchBook,
    added_up,
    check_search,
    check_target,
    costs_of,
    sensitive_choice,
    uniform_choice,
)
from whisperq.training.mixed import LOGITS, SCALES, MixedLearner, MixedWeights
from whisperq.training.student_teacher import make_pair
from whisperq.training_options import MixedPrecisionConfig

pytestmark = pytest.mark.slow

WIDTHS = [2, 3, 4, 6, 8]
SETTINGS = {"max_grad_norm": 0.0, "warmup_steps": 0, "max_steps": 10, "kl_weight": 0.7, "temperature": 2.0}


def whisper(seed: int = 1, **changes):
    return gated_model(seed=seed, encoder_layers=1, decoder_layers=1, **changes)


def learner(model=whisper, target: float = 3.5, **changes) -> MixedLearner:
    config = MixedPrecisionConfig(**SETTINGS | changes)
    student, floats = model(), model()
    weights = MixedWeights(student, make_plan(student, "gemm").weights, WIDTHS, target)
    return MixedLearner(make_pair(student, floats, config, torch.float32), weights, config, torch.float32, 0)


def test_a_searching_step_has_autograds_gradients():
    """Against one graph over everything, with LSQ's own pseudo-code, and a price solved by Newton's method."""
    ours = learner(learning_rate=1e-12, scale_rate=0, bits_rate=0)
    mixed, data = ours.mixed, batch()
    mixed.logits.data += torch.randn(mixed.logits.shape, generator=torch.Generator().manual_seed(5))
    for layer in mixed.layers:
        layer.log_scales.data += 0.01  # no value on a grid's very end, where the pseudo-code and autograd part
    metrics = ours.step(3, [data]).read()

    leaves = {n: p.detach().clone().requires_grad_() for n, p in ours.trained.items()}
    tau, bits = 10 ** (-3 / 7), torch.tensor(WIDTHS, dtype=torch.float64)
    share = torch.tensor(mixed.sizes, dtype=torch.float64) / sum(mixed.sizes)
    cost = len(share) * share[:, None] * bits
    price = torch.zeros((), dtype=torch.float64)
    for _ in range(50):  # differentiable throughout

        def mean(price):
            return share @ (torch.softmax((leaves[LOGITS].double() - price * cost) / tau, -1) @ bits)

        at = price.detach().requires_grad_()
        (slope,) = torch.autograd.grad(mean(at), at)
        price = price - (mean(price) - 3.5) / slope.clamp(max=-0.3)
    drawn = torch.softmax((leaves[LOGITS].double() - price * cost + ours.noise) / tau, -1).float()
    state = {n: p for n, p in leaves.items() if not n.endswith(SCALES) and n != LOGITS}
    for row, site in zip(drawn, mixed.sites, strict=True):
        scales = leaves[site.parameter + SCALES].exp()
        state[site.parameter] = sum(
            p * lsq(leaves[site.parameter], s, b) for p, s, b in zip(row, scales, WIDTHS, strict=True)
        )
    used = data.tokens.labels != IGNORED
    given = {"input_features": data.features, "decoder_input_ids": data.tokens.inputs}
    logits = functional_call(ours.student, state, kwargs=given).logits[used]
    taught = ours.pair.teacher(**given).logits[used]
    ce = F.cross_entropy(logits, data.tokens.labels[used])
    kl = 4 * kl_divergence(Categorical(logits=taught / 2), Categorical(logits=logits / 2)).mean()
    (ce + 0.7 * kl).backward()

    assert (metrics.ce, metrics.kl) == pytest.approx((ce.item(), kl.item()), rel=1e-4)
    assert metrics.as_dict()["bit_price"] == pytest.approx(price.item(), rel=1e-4)
    assert metrics.as_dict()["mean_bits"] == pytest.approx((share @ (drawn.double() @ bits)).item(), rel=1e-4)
    for name, parameter in ours.trained.items():
        scale = leaves[name].grad.abs().max().clamp(min=1e-6)
        torch.testing.assert_close(parameter.grad / scale, leaves[name].grad / scale, atol=2e-3, rtol=1e-2, msg=name)


def test_micro_batches_change_nothing():
    whole, parts = learner(), learner()
    one = whole.step(0, [batch()]).read()
    many = parts.step(0, [batch(0, 2), batch(2, 4)]).read()
    assert many.as_dict() == pytest.approx(one.as_dict(), rel=1e-4)
    for name, parameter in parts.trained.items():
        torch.testing.assert_close(parameter.grad, whole.trained[name].grad, atol=1e-4, rtol=2e-3, msg=name)


def test_every_weight_learns_in_every_step_though_its_config_drops_layers():
    dropping = learner(partial(whisper, encoder_layerdrop=0.9, decoder_layerdrop=0.9))
    dropping.step(0, [batch()])
    assert all(parameter.grad is not None for parameter in dropping.trained.values())


def test_the_target_is_met_whatever_is_learned():
    """From logits that say eight bits nearly everywhere."""
    ours = learner(max_steps=30, bits_rate=0.2, finetune_steps=5, max_grad_norm=1.0)
    ours.mixed.logits.data = torch.randn(ours.mixed.logits.shape, generator=torch.Generator().manual_seed(0))
    ours.mixed.logits.data[:, -1] += 4
    sizes, bits = (torch.tensor(x, dtype=torch.float32) for x in (ours.mixed.sizes, WIDTHS))
    for i in range(25):
        ours.step(i, [batch()])
        mean = (sizes @ (ours.mixed.probabilities(ours.tau(i)) @ bits)) / sizes.sum()
        assert mean.item() == pytest.approx(3.5, abs=1e-3)
    last = [ours.step(i, [batch()]).read().extra["mean_bits"] for i in range(25, 30)]
    assert len({*last}) == 1 and 3.45 <= last[0] <= 3.5
    assert ours.may_be_result(25) and not ours.may_be_result(24)


@pytest.mark.parametrize("steps", [2, 5])  # in the search; in the tail
def test_a_training_taken_up_goes_on_with_equal_bits(steps):
    one, other = (learner(max_steps=8, finetune_steps=4) for _ in range(2))
    for i in range(steps):
        one.step(i, [batch()])
    other.load_weights({k: v.clone() for k, v in one.weights().items()})
    other.load_optimizer_state({k: v.clone() for k, v in one.optimizer_state().items()})
    for each in (one, other):
        each.ready()  # a validation in between changes nothing
        for i in range(steps, 7):
            each.step(i, [batch()])
    assert all(torch.equal(t, other.weights()[n]) for n, t in one.weights().items())
    assert one.mixed.choice == other.mixed.choice and None not in (one.mixed.choice, other.mixed.choice)
    with pytest.raises(KeyError):
        other.load_weights({})


def test_what_is_judged_is_what_is_quantized():
    """Not the parameters that are learned, nor the mixture of the last step."""
    ours = learner()
    ours.step(0, [batch()])
    ours.ready()
    choice = ours.mixed.settled()
    for layer, width in zip(ours.mixed.layers, ours.mixed.bits(choice), strict=True):
        grid = symmetric_qparams(layer.log_scales.exp()[WIDTHS.index(width)], width)
        found = ours.student.get_parameter(layer.site.parameter)
        assert torch.equal(found, fake_quantize(layer.latent, grid)) and not torch.equal(found, layer.latent)
        assert torch.equal(found, dequantize(*vars(ours.mixed.quantized(choice)[layer.site.parameter]).values()))
    assert torch.equal(ours.student.proj_out.weight, ours.student.model.decoder.embed_tokens.weight)


def test_a_tied_table_counts_once():
    weights = learner().mixed
    assert sum(weights.sizes) < sum(p.numel() for p in whisper().parameters())
    assert sum(site.address == "proj_out" for site in weights.sites) == 1


def book(folder: Path) -> SearchBook:
    return SearchBook(folder / "made", {"mode": "two-stage"}, {})


def test_sensitivity_is_the_divergence_that_a_weight_causes_alone(tmp_path):
    ours = learner(mode="two-stage")
    network, mixed, data = ours.student, ours.mixed, batch()
    before = {n: p.clone() for n, p in network.named_parameters()}
    costs = added_up(costs_of(network, mixed, enumerate([data, batch(1, 3)])), mixed)
    assert all(torch.equal(p, before[n]) for n, p in network.named_parameters())
    place, width = 4, 1
    site, grid = mixed.sites[place], symmetric_qparams(mixed.layers[place].log_scales.exp()[width], WIDTHS[width])
    expected = 0.0
    for each in (data, batch(1, 3)):
        given = {"input_features": each.features, "decoder_input_ids": each.tokens.inputs}
        state = {site.parameter: fake_quantize(before[site.parameter], grid)}
        used = each.tokens.labels != IGNORED
        taught, found = network(**given).logits[used], functional_call(network, state, kwargs=given).logits[used]
        expected += kl_divergence(Categorical(logits=taught), Categorical(logits=found)).sum().item()
    assert costs[place, width] == pytest.approx(expected, rel=1e-3)
    assert (costs[:, 0] > costs[:, -1]).mean() > 0.9  # two bits cost more than eight
    choice = sensitive_choice(network, mixed, [data, batch(1, 3)], ALONE, lambda: False, book(tmp_path))
    rows = range(len(choice))
    others = [uniform_choice(mixed), np.roll(choice, 1)]
    assert 3.45 <= mixed.mean_bits(choice) <= 3.5
    assert costs[rows, choice].sum() < costs[rows, others[0]].sum()


REFUSED = {
    "beyond": ({"target_bits": 8.0, "bits": "2,4,6"}, "lies outside of --bits 2,4,6"),
    "below": ({"target_bits": 2.0, "bits": "3,4"}, "lies outside"),
    "no widths": ({"bits": "2,x"}, "numbers joined by commas"),
    "too wide": ({"bits": "2,16"}, "bit-widths of 2 to 8"),
    "no search": ({"finetune_steps": 5, "max_steps": 5}, "leaves no step"),
    "nothing to choose": ({"finetune_steps": 5, "mode": "uniform"}, "is for --mode one-stage"),
    "warmer": ({"gumbel_first": 0.1, "gumbel_last": 1.0}, "must not exceed"),
}


@pytest.mark.parametrize("changes, words", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_met_is_refused(changes, words):
    with pytest.raises(UsageError, match=words):
        check_search(MixedPrecisionConfig(**changes))


def test_layers_too_unlike_for_the_target_are_refused():
    model = whisper()
    weights = MixedWeights(model, make_plan(model, "gemm").weights[:1], [2, 8], 5.0)
    with pytest.raises(UsageError, match="no choice of .2, 8. bits for this model's 1 weights"):
        check_target(weights)


FLAGS = ("--max-steps", 3, "--batch-size", 4, "--eval-limit", 1, "--log-every", 1, "--save-every", 1)


@pytest.fixture
def run_mixed(tmp_path, monkeypatch, invoke):
    """run_mixed("--mode", "uniform") -> a result, in a folder with a configuration, of a tiny Whisper and noises."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WHISPERQ_RUN", raising=False)
    data = str(write_noises(tmp_path / "data", 6))
    content = {"normalizer": "basic", "train": [data], "validation": [data], "test": {"noises": data}}
    write_configuration(tmp_path, content)
    (tmp_path / "tiny").mkdir()
    save_model(whisper(), processor, tmp_path / "tiny")
    return lambda *flags: invoke("mixed-precision", "--model", "tiny", *FLAGS, *flags)


@pytest.mark.parametrize("mode", ["one-stage", "two-stage", "uniform"])
def test_a_model_of_mixed_bits(mode, run_mixed):
    done = run_mixed("--mode", mode, "--search-batches", 1)
    assert done.exit_code == 0 and "Bits of each weight" in done.stdout, done.output
    folder = Path("run/quantized") / f"mixed-{mode}-3.5bit"
    found = artifact.load(folder).results
    entries = json.loads((folder / "bits.json").read_text())["layers"]
    sizes, bits = ([e[key] for e in entries] for key in ("parameters", "bits"))
    mean = sum(n * b for n, b in zip(sizes, bits, strict=True)) / sum(sizes)
    assert 3.45 <= mean <= 3.5 and found["average_bits"] == pytest.approx(mean)
    assert set(bits) <= ({3, 4} if mode == "uniform" else {2, 3, 4, 6, 8})

    stored = load_file(folder / "quantized.safetensors")
    names = [e["parameter"] for e in entries]
    packed = sum(
        packed_size(n, b) + 4 * stored[f"{name}.scale"].numel() for n, b, name in zip(sizes, bits, names, strict=True)
    )
    assert found["quantized_bytes"] == packed and found["quantized_ratio"] == 4 * sum(sizes) / packed
    assert found["bytes"] == (folder / "quantized.safetensors").stat().st_size

    trained = load_file(next(folder.parent.glob(f"{folder.name}-checkpoints/best-*")))
    model, quantization = load_quantized(folder, torch.float32, "cpu")
    for entry in entries:
        name, k = entry["parameter"], WIDTHS.index(entry["bits"])
        grid = symmetric_qparams(trained[name + SCALES][k].exp(), entry["bits"])
        assert torch.equal(model.get_parameter(name), fake_quantize(trained[name], grid))
    floats = {n: p for n, p in model.named_parameters() if not any(p is model.get_parameter(m) for m in names)}
    assert floats and all(torch.equal(p, trained[n]) for n, p in floats.items())
    assert not quantization.activations


def test_what_takes_the_model(run_mixed, invoke):
    assert run_mixed().exit_code == 0
    model = "run/quantized/mixed-one-stage-3.5bit"
    for command in (
        "eval --limit 2",
        "eval --limit 2 --runtime int8",
        "sensitivity --limit 1",
        "export",
        f"show {model}",
    ):
        done = invoke(*command.split())
        assert done.exit_code == 0, done.output
    again = run_mixed()
    assert again.exit_code == 0 and "is finished already" in again.stderr
    metrics = [json.loads(line) for line in Path(model, "metrics.jsonl").open()]
    assert {"ce", "kl", "mean_bits", "bit_price", "gumbel_temperature", "validation_wer"} <= set().union(*metrics)


def test_sensitivity_of_all_is_the_trained_models_own(run_mixed, invoke):
    """Its norms and biases were trained too: with the float model's it would be another one."""
    assert run_mixed("--learning-rate", 0.05, "--warmup-steps", 0).exit_code == 0
    done = invoke("sensitivity", "--limit", 2)
    assert "stay float with" not in done.stderr and "--exclude" not in done.stdout, "quantize does not make it"
    assert done.exit_code == 0, done.output
    found = artifact.load(Path("run/sensitivity/mixed-one-stage-3.5bit")).results["everything"]
    logits = []
    for model in ("tiny", "run/quantized/mixed-one-stage-3.5bit"):
        with open_model(Path(model), Context()) as opened, torch.inference_mode():
            utterances = read_all([source("data/train.jsonl", Path.cwd(), "x")], False).utterances[:2]
            batch = opened.loader.labelled(list(utterances))
            logits.append(batch.counted(teacher_forced(opened.model, batch, "cpu")).double())
    noise = (logits[0] - logits[1]).square().sum()
    assert found["snr_db"] == pytest.approx(10 * float(torch.log10(logits[0].square().sum() / noise)), abs=0.01)


def test_a_tied_table_that_is_quantized_is_no_float_that_was_trained():
    """The plan names it proj_out, the network the decoder's embedding; loaded like that it would stay on the grid."""
    floats, quantized = whisper(), whisper()
    assert quantized.proj_out.weight is quantized.model.decoder.embed_tokens.weight
    weights = dict.fromkeys(w.parameter for w in make_plan(quantized, "gemm").weights)
    biased = "model.decoder.layers.0.fc1.bias"
    with torch.no_grad():
        for name in (*weights, biased):
            quantized.get_parameter(name).add_(0.5)
    assert "proj_out.weight" in weights
    found = trained_floats(floats, quantized, Quantization(weights, {}))
    assert set(found) == {biased} and torch.equal(found[biased], floats.get_parameter(biased) + 0.5)


@pytest.mark.parametrize(
    "flags, stops", [(("--finetune-steps", 1), 2), (("--mode", "two-stage", "--search-batches", 1), 1)]
)
def test_told_to_stop_it_ends_in_the_same_bits(flags, stops, run_mixed, monkeypatch):
    """In the search, at its end and in the tail; a baseline's widths are not searched for again."""
    assert run_mixed(*flags, "--out", "whole").exit_code == 0
    with monkeypatch.context() as patched:
        patched.setattr(Stopping, "__call__", lambda self: Path("parts-checkpoints").exists())  # once it trains
        codes = [run_mixed(*flags, "--out", "parts").exit_code for _ in range(stops)]
    assert codes == [75] * stops
    done = run_mixed(*flags, "--out", "parts")
    assert done.exit_code == 0 and "measuring" not in done.stderr, done.output
    for name in ("quantized.safetensors", "bits.json"):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()
    refused = run_mixed(*flags, "--out", "parts", "--target-bits", "4")
    assert refused.exit_code == 2 and "--force" in refused.stderr


def test_a_search_for_widths_heeds_a_signal_and_goes_on_where_it_was(tmp_path):
    """It begins no further weight, and none again: a job that is always too short comes to an end."""
    ours = learner(mode="two-stage")
    batches = [batch(), batch(1, 3)]
    expected = sensitive_choice(ours.student, ours.mixed, batches, ALONE, lambda: False, book(tmp_path / "whole"))
    before = {n: p.clone() for n, p in ours.student.named_parameters()}
    measurements, jobs, choice = len(batches) * len(ours.mixed.layers), 0, None
    while choice is None and jobs <= measurements // 7:
        try:
            told = partial(lambda asked: next(asked) >= 7, count())
            choice = sensitive_choice(ours.student, ours.mixed, batches, ALONE, told, book(tmp_path))
        except Interrupted as error:
            assert "measurements are left, the same command goes on with them" in str(error)
        jobs += 1
        assert all(torch.equal(p, before[n]) for n, p in ours.student.named_parameters())
    assert choice == expected


def test_a_search_for_widths_heeds_the_time_that_it_has(run_mixed):
    """A job without any measures once, and leaves the rest to the next."""
    flags = ("--mode", "two-stage", "--search-batches", 1)
    assert run_mixed(*flags, "--out", "whole").exit_code == 0
    for jobs in (1, 2):
        stopped = run_mixed(*flags, "--out", "parts", "--max-time", "0:00")
        assert stopped.exit_code == 75 and "measurements are left" in stopped.stderr, stopped.output
        assert len(measured()) == jobs
    assert run_mixed(*flags, "--out", "parts", "--max-time", "1-00:00:00").exit_code == 0
    for name in ("quantized.safetensors", "bits.json"):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()


@pytest.mark.parametrize("flags, code", [((), 2), (("--mode", "uniform"), 0)])
def test_more_steps_go_on_only_where_they_move_no_search(flags, code, run_mixed):
    assert run_mixed(*flags).exit_code == 0
    grown = run_mixed(*flags, "--max-steps", "9")
    assert grown.exit_code == code, grown.output
    assert code == 0 or ("search_steps" in grown.stderr and "--force" in grown.stderr)


def test_the_figure_draws_every_weight_at_its_bits():
    names = [f"cnn.{i}" for i in range(7)] + [f"enc.{i}.{c}" for i in range(20) for c in ("q_proj", "fc1", "fc2", "v")]
    layers = [{"address": name, "bits": WIDTHS[i % 5]} for i, name in enumerate(names)]
    figure = bits_figure(layers, 3.48)
    drawn = [(label.get_text(), bar.get_height()) for axes in figure.axes
             for label, bar in zip(axes.get_xticklabels(), axes.patches, strict=True)]  # fmt: skip
    assert drawn == [(layer["address"], layer["bits"]) for layer in layers]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["around the blocks", "encoder", "encoder"]


def test_two_processes_search_and_train_as_one(run_mixed, tmp_path):
    """What is random comes of the seed, so that both draw the same."""
    flags = ("--dtype", "float32", "--micro-batch", "1")
    assert run_mixed(*flags, "--out", "alone").exit_code == 0
    jobs = pair(tmp_path, "mixed-precision", "--model", "tiny", *map(str, FLAGS), *flags, "--out", "both")
    assert ended(jobs) == [0, 0], [j.said for j in jobs]
    one, two = ([json.loads(line) for line in Path(place, "metrics.jsonl").open()] for place in ("alone", "both"))
    for ours, theirs in zip(two, one, strict=True):
        for key in {"ce", "kl", "gradient_norm", "mean_bits", "validation_wer"} & theirs.keys():
            assert ours[key] == pytest.approx(theirs[key], rel=1e-2), (theirs["step"], key)
    assert artifact.load(Path("alone")).results["bits"] == artifact.load(Path("both")).results["bits"]


# CTC models


@pytest.fixture(params=["wav2vec2-base", "hubert-large"])
def tiny_ctc(request, tmp_path) -> Path:
    save_checkpoint(tmp_path / "tiny", request.param)
    return tmp_path / "tiny"


def sounds(model) -> WaveformBatch:
    """Two noises with labels of different lengths."""
    counts, generator = (9000, 6400), torch.Generator().manual_seed(0)
    values = torch.randn(2, 9000, generator=generator)
    values[1, 6400:] = 0
    labels = torch.tensor([[7, 8, 9, 4, 5], [9, 9, 4, IGNORED, IGNORED]])
    lengths = frame_counts(model.config, counts)
    return WaveformBatch(
        Waveforms(values, counts), Tokens(labels, labels, (5, 3)), batch(0, 2).utterances, 1.0, counts=lengths
    )


def test_ctc_and_kl_are_those_of_each_utterance_alone(tiny_ctc):
    model, floats = (load_model(tiny_ctc, torch.float32, "cpu") for _ in range(2))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    config = MixedPrecisionConfig(**SETTINGS)
    loss, sums = make_pair(model, floats, config, torch.float32)(sounds(model))
    ctc = kl = 0.0
    for waveform, labels in zip(sounds(model).features.rows(), ([7, 8, 9, 4, 5], [9, 9, 4]), strict=True):
        logits, taught = (m(waveform[None]).logits[0] for m in (model, floats))
        log_p = torch.log_softmax(logits, -1)[:, None]
        ctc += F.ctc_loss(log_p, torch.tensor([labels]), (len(logits),), (len(labels),), reduction="sum").item()
        kl += 4 * kl_divergence(Categorical(logits=taught / 2), Categorical(logits=logits / 2)).sum().item()
    assert sums.tolist() == pytest.approx([ctc, kl], rel=2e-3)
    assert loss.item() == pytest.approx(ctc + 0.7 * kl, rel=2e-3)


def test_a_ctc_model_of_mixed_bits(tiny_ctc, monkeypatch, invoke):
    """Trained, taken up after each step, and refused what is for windows."""
    monkeypatch.chdir(tiny_ctc.parent)
    noises = str(write_noises(tiny_ctc.parent / "data", 6))
    Path("whisperq.yaml").write_text("normalizer: basic\n")
    command = ("mixed-precision", "--model", "tiny", *FLAGS, "--train", noises, "--validation", noises)
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    found = artifact.load(Path("run/quantized/mixed-one-stage-3.5bit"))
    assert 3.45 <= found.results["average_bits"] <= 3.5 and "ctc" in found.results["final"]
    assert {"cnn.0", "feature_proj", "pos_conv", "enc.1.fc2", "ctc_head"} <= found.results["bits"].keys()
    assert invoke("eval", "--test", f"t={noises}", "--limit", 2).exit_code == 0
    limits = ("0:00", "0:00", "9:00:00")
    assert [invoke(*command, "--out", "parts", "--max-time", limit).exit_code for limit in limits] == [75, 75, 0]
    assert Path("parts/quantized.safetensors").read_bytes() == (found.path / "quantized.safetensors").read_bytes()
    for flag in ("--pack", "--recompute", "--compile", "--micro-batch auto"):
        refused = invoke(*command, *flag.split(), "--out", "other")
        assert refused.exit_code == 2 and f"{flag} is for Whisper, not for a wav2vec2 model" in " ".join(
            refused.stderr.replace("hubert", "wav2vec2").split()
        )


def test_two_processes_train_a_ctc_model(tmp_path):
    save_checkpoint(tmp_path / "tiny")
    (tmp_path / "whisperq.yaml").write_text("normalizer: basic\n")
    noises = str(write_noises(tmp_path / "data", 6))
    command = ("mixed-precision", "--model", "tiny", *map(str, FLAGS), "--train", noises, "--validation", noises)
    command = (*command, "--micro-batch", "1", "--dtype", "float32")
    jobs = [Job(tmp_path, *command, "--out", "alone"), *pair(tmp_path, *command, "--out", "both")]
    assert ended(jobs) == [0, 0, 0], [j.said for j in jobs]
    alone, both = (artifact.load(tmp_path / place).results["final"] for place in ("alone", "both"))
    assert both == {key: pytest.approx(value, rel=1e-2) for key, value in alone.items()}


def test_a_search_that_is_killed_goes_on(tmp_path, run_mixed, monkeypatch):
    """A real process, at some moment of its search; what it had measured is not measured again."""
    flags, asked, cost = ("--mode", "two-stage", "--search-batches", "2"), [], search._cost
    monkeypatch.setattr(search, "_cost", lambda *given: asked.append(given) or cost(*given))
    assert run_mixed(*flags, "--out", "whole").exit_code == 0
    whole = len(asked)
    job = Job(tmp_path, "mixed-precision", "--model", "tiny", *map(str, FLAGS), *flags, "--out", "parts")
    job.until(lambda: len(measured()) >= 3)
    job.signal(signal.SIGKILL)
    assert job.exit_code() == -signal.SIGKILL
    kept = len(measured())
    done = run_mixed(*flags, "--out", "parts")
    assert done.exit_code == 0 and len(asked) - whole == whole - kept, done.output
    for name in ("quantized.safetensors", "bits.json"):
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()
    assert not Path("parts-partial").exists()


def measured() -> list[bytes]:
    """The whole lines."""
    return [
        line for path in Path("parts-partial").glob("search-*.jsonl") for line in path.read_bytes().split(b"\n")[:-1]
    ]
