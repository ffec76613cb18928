"""The paper recipe's scope from the command line on, and artifacts that do not outgrow their source."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.quantizing import quantization_of
from support.tiny import gated_model, logits_of, processor

from whisperq.models.loading import save_model
from whisperq.options import QuantizeConfig
from whisperq.ptq.arrays import open_stored
from whisperq.ptq.checkpoint import WEIGHTS, load_quantized, save_quantization, stored_dtypes
from whisperq.ptq.plan import PaperScope
from whisperq.run_folder import scheme as place
from whisperq.schemes import in_words
from whisperq.steps.quantize import scheme, warn_of_growth

NAMES = {
    ("blocks", "attention"): ("paper-w8a8", "paper W8A8"),
    (None, None): ("paper-w8a8", "paper W8A8"),
    ("linear", None): ("paper-w8a8-linear", "paper W8A8, linear sites"),
    ("all", "none"): ("paper-w8a8-all-except-none", "paper W8A8, all sites, exception none"),
    (None, "mlp"): ("paper-w8a8-except-mlp", "paper W8A8, exception mlp"),
}


@pytest.mark.parametrize("scope, names", NAMES.items(), ids=[n for n, _ in NAMES.values()])
def test_the_scope_is_said_where_it_is_unusual(scope, names):
    config = QuantizeConfig(recipe="paper", sites=scope[0], exception=scope[1])
    results = scheme(config)
    assert (results["sites"], results["exception"]) == (scope[0] or "blocks", scope[1] or "attention")
    assert (place(config), in_words({"smooth": None, "massive": {}, **results})) == names
    assert scheme(QuantizeConfig())["sites"] is None


def test_the_command_quantizes_what_it_is_told(copied_run, invoke):
    held = {}
    for flags in ((), ("--sites", "linear"), ("--sites", "all", "--exception", "none")):
        result = invoke("quantize", "--recipe", "paper", *flags)
        assert result.exit_code == 0, result.output
    for name in ("paper-w8a8", "paper-w8a8-linear", "paper-w8a8-all-except-none"):
        folder = copied_run / "quantized" / name
        held[name] = {*json.loads((folder / "qparams.json").read_text())["activations"]}
        shown = invoke("show", folder)
        assert ("linear sites" in shown.stdout) == name.endswith("linear"), shown.output
    blocks, linear, everything = held.values()
    assert linear < blocks < everything and "proj_out" in everything - blocks
    evaluated = invoke("eval", "--model", "paper-w8a8-all-except-none", "--limit", 2)
    assert evaluated.exit_code == 0, evaluated.output
    gemm = invoke("quantize", "--sites", "all", "--out", copied_run / "refused")
    assert gemm.exit_code == 2 and "--sites is for --recipe paper" in " ".join(gemm.stderr.split())


def test_what_an_older_version_made_is_still_finished(copied_run, invoke):
    """Its manifest lacks the settings that came later."""
    assert invoke("quantize", "--recipe", "paper").exit_code == 0
    path = copied_run / "quantized" / "paper-w8a8" / "manifest.json"
    manifest = json.loads(path.read_text())
    for setting in ("sites", "exception"):
        assert manifest["config"].pop(setting, "absent") is None
    path.write_text(json.dumps(manifest))
    again = invoke("quantize", "--recipe", "paper")
    assert again.exit_code == 0 and "finished already" in " ".join(again.output.split())
    other = invoke("quantize", "--recipe", "paper", "--sites", "linear", "--out", path.parent)
    assert other.exit_code == 2 and "differs in sites" in " ".join(other.stderr.split())


def half_precision(folder, dtype: torch.dtype = torch.float16):
    """A model whose checkpoint has this number format, as float32, and its quantization."""
    model = gated_model().to(dtype)
    save_model(model, processor, folder)
    return model.float()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scope", ["blocks", "all"])
def test_what_is_not_quantized_keeps_the_sources_number_format(scope, dtype, tmp_path):
    model = half_precision(tmp_path, dtype)
    quantization, ranges = quantization_of(model, "paper", scope=PaperScope(scope))
    changed = "model.encoder.layer_norm.weight"
    with torch.no_grad():
        model.get_parameter(changed).mul_(1 / 3)  # as smoothing does
    save_quantization(model, quantization, ranges, tmp_path, stored_dtypes(tmp_path))
    stored = load_file(tmp_path / WEIGHTS)
    formats = {n: t.dtype for n, t in stored.items() if not n.endswith((".scale", ".zero_point"))}
    assert {d for n, d in formats.items() if n not in quantization.weights and n != changed} == {dtype}
    assert formats[changed] == torch.float32
    loaded, _ = load_quantized(tmp_path, torch.float32, "cpu")
    arrays = open_stored(tmp_path)
    for name in formats.keys() - quantization.weights.keys():
        assert loaded.get_parameter(name).dtype == torch.float32
        assert torch.equal(loaded.state_dict()[name], model.state_dict()[name]), name
        assert torch.equal(torch.from_numpy(arrays.float(name)), model.state_dict()[name]), name
    assert (tmp_path / WEIGHTS).stat().st_size < (tmp_path / "model.safetensors").stat().st_size
    assert logits_of(loaded).isfinite().all()


def test_a_source_in_pieces_is_read_piece_by_piece(tmp_path):
    save_file({"a": torch.zeros(2).half(), "scalar": torch.tensor(1.0)}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({"b": torch.zeros(2, 3).bfloat16()}, tmp_path / "model-00002-of-00002.safetensors")
    assert stored_dtypes(tmp_path) == {"a": torch.float16, "b": torch.bfloat16}
    assert stored_dtypes(tmp_path / "nothing") == {}


@pytest.mark.parametrize("size, warned", [(158_310_000, True), (145_220_000, False), (74_000_000, False)])
def test_growing_is_said(size, warned, capsys):
    warn_of_growth(SimpleNamespace(results={"bytes": size, "float_bytes": 145_220_000}))
    line = capsys.readouterr().err
    assert ("warning: 158.31 MB of quantized weights are more than the 145.22 MB of their source" in line) == warned
