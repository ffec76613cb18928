"""Scales folded into a model: the same function in float, in every family and with every gate, and on disk."""

from pathlib import Path

import pytest
import torch
from support.quantizing import quantization_of, saved
from support.tiny import gated_model, logits_of
from support.tiny_ctc import VARIANTS, stock_model

from whisperq.models.gated_whisper import GATES
from whisperq.models.loading import load_model
from whisperq.models.sites import model_sites, watch
from whisperq.ptq.checkpoint import Quantization, apply_weights, load_quantized, save_quantization
from whisperq.ptq.folding import SCALES, TABLE, fold, foldable, read_scales, table_divisor, write_scales


def random_scales(model, seed: int = 0) -> dict[str, torch.Tensor]:
    """A scale for every channel of all that can be scaled; heads have them in common where their gate asks for it."""
    sites, widths, scales = model_sites(model), {}, {}
    for site, one in foldable(model).items():
        weight = model.get_parameter(one.readers[0])
        convolution = weight.dim() == 3 and site.endswith(":input")
        widths[site] = weight.shape[1] if convolution else len(model.get_parameter(one.makers[0]))
        period = one.period or widths[site]
        draw = torch.rand(period, generator=torch.Generator().manual_seed(seed + len(scales))) * 4 - 2
        scales[site] = draw.exp().repeat(widths[site] // period)
        assert sites[site].address == site
    return scales


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


def test_scales_on_disk_are_those_that_were_written(tmp_path: Path) -> None:
    write_scales({"enc.norm": torch.tensor([0.5, 3.0])}, tmp_path)
    assert read_scales(tmp_path)["enc.norm"].tolist() == [0.5, 3.0]
    write_scales({}, empty := tmp_path / "empty")
    assert read_scales(empty) == {}
