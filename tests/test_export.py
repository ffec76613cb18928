"""`whisperq export`: the layout that others load, integers stored once, and what cannot be exported."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from support.exported import CPU, exported, float_folder, opened, pytorch_logits, quantized_folder, step_logits
from support.tiny import gated_model
from transformers import AutoConfig, GenerationConfig, WhisperConfig, WhisperFeatureExtractor, WhisperTokenizer

from whisperq import artifact
from whisperq.errors import InputError, UsageError
from whisperq.graphs.graph import Graph
from whisperq.graphs.whisper import write_graph
from whisperq.models.loading import load_config
from whisperq.options import ExportConfig
from whisperq.ptq.arrays import open_stored
from whisperq.steps.export import export

GRAPHS = ("encoder_model", "decoder_model", "decoder_with_past_model")
BATCH, NEW, PAST = "batch_size", "decoder_sequence_length", "past_decoder_sequence_length"
VOCABULARY = gated_model().config.vocab_size


def values(entries) -> dict[str, tuple]:
    return {e.name: (e.type.removeprefix("tensor(").removesuffix(")"), *e.shape) for e in entries}


def cache(prefix: str, *parts: tuple[str, str | int]) -> dict[str, tuple]:
    """Two layers of two heads of 16."""
    kinds = ("key", "value")
    return {f"{prefix}.{i}.{p}.{k}": ("float", BATCH, 2, n, 16) for i in (0, 1) for p, n in parts for k in kinds}


# What optimum calls the inputs and outputs of a Whisper's three graphs, in its order.
LAYOUT = {
    "encoder_model": (
        {"input_features": ("float", BATCH, 80, 100)},
        {"last_hidden_state": ("float", BATCH, 50, 32)},
    ),
    "decoder_model": (
        {"input_ids": ("int64", BATCH, NEW), "encoder_hidden_states": ("float", BATCH, 50, 32)},
        {"logits": ("float", BATCH, NEW, VOCABULARY)} | cache("present", ("decoder", NEW), ("encoder", 50)),
    ),
    "decoder_with_past_model": (
        {"input_ids": ("int64", BATCH, NEW)} | cache("past_key_values", ("decoder", PAST), ("encoder", 50)),
        {"logits": ("float", BATCH, NEW, VOCABULARY)} | cache("present", ("decoder", f"{PAST} + {NEW}")),
    ),
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return quantized_folder(gated_model(), tmp_path_factory.mktemp("models") / "model")


@pytest.fixture(scope="module")
def folder(model_folder):
    return exported(model_folder)


@pytest.mark.parametrize("graph", GRAPHS)
def test_inputs_and_outputs_are_optimums(graph, folder):
    path = folder / "onnx" / f"{graph}.onnx"
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs, outputs = values(session.get_inputs()), values(session.get_outputs())
    assert (inputs, outputs) == LAYOUT[graph]
    assert [list(inputs), list(outputs)] == [list(side) for side in LAYOUT[graph]]


def test_the_folder_describes_a_stock_whisper(folder, model_folder):
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is WhisperConfig and config.architectures == ["WhisperForConditionalGeneration"]
    content = json.loads((folder / "config.json").read_text())
    assert not content.keys() & {"gate", "gate_init", "cross_gate", "auto_map", "custom_pipelines"}
    assert load_config(folder).gate == "none"
    assert (folder / "preprocessor_config.json").is_file()
    assert WhisperFeatureExtractor.from_pretrained(folder).n_samples == 16_000
    assert WhisperTokenizer.from_pretrained(folder).encode("seven")
    theirs = GenerationConfig.from_pretrained(model_folder).to_dict()
    assert GenerationConfig.from_pretrained(folder).to_dict() == theirs
    assert not list(folder.rglob("*.safetensors")) and not list(folder.rglob("*.py"))


@pytest.mark.parametrize("graph", GRAPHS)
def test_quantized_weights_are_stored_as_integers(graph, folder):
    model = onnx.load(folder / "onnx" / f"{graph}.onnx").graph
    kinds = {t.name: (t.data_type, int(np.prod(t.dims))) for t in model.initializer}
    weights = {name for name, (_, size) in kinds.items() if name.endswith("weight") and size > 32}
    floats = {name for name in weights if kinds[name][0] != TensorProto.INT8}
    part = "encoder" if graph == "encoder_model" else "decoder"
    assert floats == {f"model.{part}.embed_positions.weight"}
    if part == "decoder":  # of the tied table one copy, for both its uses
        users = [n.op_type for n in model.node if "proj_out.weight" in n.input]
        assert sorted(users) == ["DequantizeLinear", "Gather"]
        assert sum(size == VOCABULARY * 32 for _, size in kinds.values()) == 1


def test_q_k_v_and_gate_share_one_quantization(folder):
    nodes = onnx.load(folder / "onnx" / "encoder_model.onnx").graph.node
    sources = {n.name: n.input[0] for n in nodes}
    shared = {sources[f"enc.0.{layer}"] for layer in ("q_proj", "k_proj", "v_proj", "gate")}
    assert shared == {"enc.0.attn_norm/dequantize"}
    quantized = [n.input[0] for n in nodes if n.op_type == "QuantizeLinear"]
    assert len(quantized) == len(set(quantized)) == 10  # four a layer, and two convolutions


def test_grids_are_the_quantized_models(folder, model_folder):
    sites = json.loads((model_folder / "qparams.json").read_text())["activations"]
    found = {}
    for graph in GRAPHS:
        for tensor in onnx.load(folder / "onnx" / f"{graph}.onnx").graph.initializer:
            site, _, kind = tensor.name.rpartition(".")
            if site in sites:
                found.setdefault(site, {})[kind] = numpy_helper.to_array(tensor)
    assert found.keys() == sites.keys()
    for site, entry in sites.items():
        assert found[site]["scale"] == np.float32(entry["scale"])
        assert found[site]["zero_point"] == entry["zero_point"] and found[site]["zero_point"].dtype == np.uint8


def test_the_same_model_gives_the_same_bytes(folder, model_folder, tmp_path):
    again = exported(model_folder, tmp_path / "again")
    assert artifact.load(again).manifest["files"] == artifact.load(folder).manifest["files"]


def test_large_graphs_keep_their_weights_outside(model_folder, tmp_path):
    small = 20_000
    for form in ("one", "two"):
        (tmp_path / form).mkdir()
    stored = open_stored(model_folder)
    for name in GRAPHS:
        graph, _ = write_graph(name, stored)
        graph.save(tmp_path / "one" / f"{name}.onnx")
        graph.save(tmp_path / "two" / f"{name}.onnx", limit=small)
        assert not (tmp_path / "one" / f"{name}.onnx_data").exists()
        assert (tmp_path / "two" / f"{name}.onnx_data").stat().st_size > small
        onnx.checker.check_model(tmp_path / "two" / f"{name}.onnx", full_check=True)
    features = np.random.default_rng(0).standard_normal((2, 80, 100)).astype(np.float32)
    found = [
        onnxruntime.InferenceSession(tmp_path / form / "encoder_model.onnx").run(None, {"input_features": features})[0]
        for form in ("one", "two")
    ]
    assert np.array_equal(*found)


def test_a_graph_numbers_names_that_are_taken():
    graph = Graph("g")
    x = graph.input("x", np.float32, ("n",))
    names = [graph.op("Relu", x, name="relu"), graph.op("Relu", x, name="relu"), graph.once("Abs", x, name="abs")]
    assert names == ["relu", "relu/1", "abs"] and graph.once("Abs", x, name="other") == "abs"


def test_sharded_half_precision_weights_are_read(tmp_path):
    model = gated_model("none").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    for file in float_folder(gated_model("none"), tmp_path / "other").glob("*.json"):
        if file.name not in ("config.json", "model.safetensors.index.json"):
            (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    out = exported(tmp_path / "model")
    torch.testing.assert_close(
        step_logits(opened(out, "onnx")), pytorch_logits(tmp_path / "model"), atol=1e-4, rtol=1e-4
    )


def test_the_paper_recipe_is_refused(tmp_path):
    folder = quantized_folder(gated_model(), tmp_path / "model", recipe="paper")
    with pytest.raises(UsageError, match=r"paper.*no form in integers.*quantize --recipe gemm"):
        exported(folder)
    assert not (tmp_path / "model-onnx").exists()


def test_what_else_cannot_be_exported(folder, model_folder, tmp_path):
    with pytest.raises(UsageError, match="exported already"):
        exported(folder, tmp_path / "a")
    with pytest.raises(UsageError, match="name the one it was made from"):
        exported(model_folder, tmp_path / "b", float=True)
    odd = float_folder(gated_model(activation_function="silu"), tmp_path / "odd")
    with pytest.raises(UsageError, match="activation function silu"):
        exported(odd)


@pytest.mark.parametrize("damage, message", [
    ("no weights", "has no safetensors"), ("cut", "cannot be read"), ("missing", "do not fit"), ("other", "bert"),
])  # fmt: skip
def test_unusable_models_are_refused(damage, message, tmp_path):
    folder = float_folder(gated_model(), tmp_path / "model")
    weights, config = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        change = {"encoder_layers": 3} if damage == "missing" else {"model_type": "bert"}
        (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message):
        exported(folder)


def test_without_onnx_one_sentence_says_what_to_install(model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r'^whisperq export needs ONNX: pip install "whisperq\[onnx\]"$'):
        export(model_folder, tmp_path / "out", ExportConfig(), CPU)


def test_the_command_exports_the_one_quantized_model(copied_run, invoke):
    refused = invoke("export", "--run", copied_run)  # there are two
    assert refused.exit_code != 0 and "paper-w8a8" in refused.stderr
    assert invoke("export", "--run", copied_run, "--model", "paper-w8a8").exit_code == 2
    result = invoke("export", "--run", copied_run, "--model", "gemm-w8a8")
    assert result.exit_code == 0, result.output
    assert "decoder_with_past_model.onnx" in result.output and "41 of 53 in integers" in result.output.replace(
        "\n", " "
    )
    again = invoke("export", "--run", copied_run, "--model", "gemm-w8a8")
    assert again.exit_code == 0 and "already" in again.output
    sealed = artifact.load(copied_run / "onnx" / "gemm-w8a8", "onnx")
    assert sealed.inputs["model"]["path"] == str((copied_run / "quantized" / "gemm-w8a8").resolve())


@pytest.mark.parametrize("model", [(), ("--model", "gemm-w8a8"), ("--model", "paper-w8a8"), ("--model", "distilled")])
def test_float_exports_the_model_that_was_quantized(model, copied_run, invoke):
    result = invoke("export", "--run", copied_run, "--float", *model)
    assert result.exit_code == 0, result.output
    sealed = artifact.load(copied_run / "onnx" / "distilled", "onnx")
    assert sealed.results["integer_products"] == [] and sealed.config == {"float": True}
    assert sealed.inputs["model"]["path"] == str((copied_run / "distilled").resolve())
    assert "Exported: floats" in result.output


def test_per_tensor_weights_are_exported(copied_run, invoke):
    out = copied_run / "quantized" / "coarse"
    assert invoke("quantize", "--run", copied_run, "--per-tensor", "--out", out).exit_code == 0
    result = invoke("export", "--run", copied_run, "--model", "coarse")
    assert result.exit_code == 0, result.output
    runtime = opened(copied_run / "onnx" / "coarse", "onnx")
    assert len(runtime.products().integer) == 41
