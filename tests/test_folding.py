"""Scales folded into a model: the same function in float, in every family and with every gate, and on disk."""

from pathlib import Path

import pytest
import torch
from support.exported import pytorch_logits, step_logits
from support.int8_folders import distance, opened
from support.low_bit_folders import folder_of
from support.quantizing import quantization_of, saved
from support.smoothed_models import random_scales
from support.tiny import gated_model, logits_of
from support.tiny_ctc import VARIANTS, stock_model

from whisperq.models.gated_whisper import GATES
from whisperq.models.loading import load_model
from whisperq.models.sites import model_sites, watch
from whisperq.ptq.checkpoint import Fit, Quantization, apply_weights, load_quantized, save_quantization
from whisperq.ptq.folding import SCALES, TABLE, fold, read_scales, table_divisor, write_scales


@pytest.mark.parametrize("cross_gate", [True, False])
@pytest.mark.parametrize("gate", GATES)
def test_whispers_function_stays_the_same(gate: str, cross_gate: bool) -> None:
    model = gated_model(gate, cross_gate=cross_gate)
    before, scales = logits_of(model), random_scales(model)
    assert len(scales) == 1 + 2 * 3 + 1 + 2 * 5 + 1  # conv2, encoder layers, enc.norm, decoder layers, dec.norm
    fold(model, scales)
    torch.testing.assert_close(logits_of(model), before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))


def test_an_untied_vocabulary_is_scaled_alone() -> None:
    model = gated_model("none", tie_word_embeddings=False)
    with torch.no_grad():
        model.proj_out.weight = torch.nn.Parameter(torch.randn_like(model.proj_out.weight))
    before, table = logits_of(model), model.get_submodule(TABLE).weight.clone()
    scales = random_scales(model)
    fold(model, scales)
    torch.testing.assert_close(logits_of(model), before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
    assert torch.equal(model.get_submodule(TABLE).weight, table) and table_divisor(model.config, scales) is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_speech_encoders_function_stays_the_same(variant: str, tmp_path: Path) -> None:
    stock_model(variant).save_pretrained(tmp_path)
    model, waveform = load_model(tmp_path, torch.float32, "cpu"), torch.randn(1, 4000)
    scales = random_scales(model)
    assert {"cnn.1:input", "cnn.2:input", "enc.0.context", "enc.1.context"} <= scales.keys()
    assert ("enc.0.attn_norm" in scales) == VARIANTS[variant]["do_stable_layer_norm"]  # else sums read the norms too
    with torch.inference_mode():
        before = model(waveform).logits
        fold(model, scales)
        after = model(waveform).logits
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))


@pytest.mark.parametrize("gate", ["headwise", "shared", "none"])
def test_every_scaled_site_is_divided_by_its_scales(gate: str) -> None:
    model, found = gated_model(gate), {}
    scales = random_scales(model)

    def seen(when: str) -> None:
        keep = {a: lambda x, a=a: found.__setitem__((when, a), x.detach().clone()) for a in scales}
        with watch(model, model_sites(model), keep):
            logits_of(model)

    seen("before")
    fold(model, scales)
    seen("after")
    for address, s in scales.items():
        s = s[:, None] if "conv" in address else s
        expected = found["before", address] / s
        torch.testing.assert_close(
            found["after", address], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
        )


def test_a_saved_model_is_divided_when_it_is_loaded(tmp_path: Path) -> None:
    model = gated_model()
    saved(model, tmp_path, "gemm")
    scales = random_scales(model)
    fold(model, scales)
    quantization, ranges = quantization_of(model, "gemm")
    save_quantization(model, Quantization(quantization.weights, quantization.activations, scales), ranges, tmp_path)
    loaded, found = load_quantized(tmp_path, torch.float32, "cpu")
    assert found.scales.keys() == scales.keys() and (tmp_path / SCALES).exists()
    apply_weights(model, quantization.weights)
    torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("gate, group", [("headwise", 8), ("shared", 7), ("none", 1000)])
def test_integers_divide_a_convolution_whose_weights_are_in_groups(gate: str, group: int, tmp_path: Path) -> None:
    model = gated_model(gate)
    scales = random_scales(model)
    fold(model, scales)
    folder, _ = folder_of(model, tmp_path / "model", fit=Fit(group=group))
    write_scales(scales, folder)
    assert distance(step_logits(opened(folder), batch=7), pytorch_logits(folder, batch=7)) < 1e-3


def test_scales_on_disk_are_those_that_were_written(tmp_path: Path) -> None:
    write_scales({"enc.norm": torch.tensor([0.5, 3.0])}, tmp_path)
    assert read_scales(tmp_path)["enc.norm"].tolist() == [0.5, 3.0]
    write_scales({}, empty := tmp_path / "empty")
    assert read_scales(empty) == {}
