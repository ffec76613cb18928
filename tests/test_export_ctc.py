"""Exported wav2vec 2.0 and HuBERT graphs: optimum's layout, the emulated logits, and integers where they say so."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from support.cpu import needs_vnni
from support.quantizing_ctc import difference, emulated_logits, float_folder, quantized_folder, waveforms
from support.tiny_ctc import SIZES, VARIANTS, stock_model
from transformers import AutoConfig, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

from whisperq.errors import InputError, UsageError
from whisperq.models.loading import load_config
from whisperq.native import processor
from whisperq.options import ExportConfig
from whisperq.ptq.checkpoint import Fit
from whisperq.runtime.onnx.ctc import GraphCtc
from whisperq.runtime.onnx.whisper import open_graphs
from whisperq.settings import Context
from whisperq.steps.export import export

ENGINES = ("onnx", "openvino")
AROUND = ("cnn.0", "cnn.1", "cnn.2", "feature_proj", "pos_conv", "ctc_head")
LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
PRODUCTS = {*AROUND, *(f"enc.{i}.{name}" for i in (0, 1) for name in LAYERS)}


def exported(folder: Path, **options) -> Path:
    return export(folder, folder.with_name(f"{folder.name}-onnx"), ExportConfig(**options), Context(device="cpu")).path


def opened(folder: Path, name: str, attention_dtype: str = "float32") -> GraphCtc:
    return open_graphs(folder, name, load_config(folder), attention_dtype)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return quantized_folder(float_folder(tmp_path_factory.mktemp("models") / "model", "wav2vec2-base"))


@pytest.fixture(scope="module")
def folder(model_folder) -> Path:
    return exported(model_folder)


@pytest.mark.parametrize("variant", VARIANTS)
def test_float_graphs_compute_transformers_logits(variant, tmp_path):
    out, recordings = exported(float_folder(tmp_path / "model", variant)), waveforms()
    with torch.inference_mode():
        expected = [stock_model(variant)(x[None]).logits[0] for x in recordings]
    for name in ENGINES:
        for found, theirs in zip(opened(out, name).logits(recordings), expected, strict=True):
            torch.testing.assert_close(found, theirs, atol=1e-4, rtol=1e-4)


def test_weights_as_older_checkpoints_name_them(tmp_path):
    """g and v of the positional convolution's weight norm: `weight_g`, `weight_v`."""
    from safetensors.torch import load_file, save_file

    folder, recordings = float_folder(tmp_path / "model", "wav2vec2-base"), waveforms()
    tensors, new = load_file(folder / "model.safetensors"), ".parametrizations.weight.original"
    renamed = {n.replace(f"{new}0", ".weight_g").replace(f"{new}1", ".weight_v"): t for n, t in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with torch.inference_mode():
        expected = [stock_model("wav2vec2-base")(x[None]).logits[0] for x in recordings]
    for found, theirs in zip(opened(exported(folder), "onnx").logits(recordings), expected, strict=True):
        torch.testing.assert_close(found, theirs, atol=1e-4, rtol=1e-4)


QUANTIZED = [
    *({"variant": variant} for variant in VARIANTS),
    {"changes": {"conv_bias": True, "num_conv_pos_embeddings": 5, "num_conv_pos_embedding_groups": 1}},
    {"changes": {"do_stable_layer_norm": True, "layer_norm_eps": 1e-2, "num_conv_pos_embedding_groups": 32}},
    {"bits": 6},
    {"exclude": ["cnn.0", "pos_conv:weight", "enc.0.q_proj:weight", "enc.1.fc2:input", "ctc_head"]},
    {"exclude": ["cnn.1:input", "pos_conv:input", "feature_proj"], "variant": "hubert-other"},
    {"fit": Fit(group=16)},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", QUANTIZED, ids=lambda o: str(next(iter(o.values()))))
def test_quantized_graphs_compute_the_emulated_logits(options, tmp_path):
    options = {"variant": "wav2vec2-base", "changes": {}} | options
    variant = options.pop("variant")
    source = float_folder(tmp_path / "model", variant, **options.pop("changes"))
    folder = quantized_folder(source, **options)
    recordings = [x for seed in range(3) for x in waveforms(seed=seed)]
    expected, out = emulated_logits(folder, recordings), exported(folder)
    rounded = variant == "hubert-other" and "pos_conv:input" not in options.get("exclude", ())
    for name in ENGINES:
        if name == "openvino" and rounded and processor.saturates():
            with pytest.raises(UsageError, match="batch norm wrongly; run this model with --runtime onnx"):
                opened(out, name)
            continue
        found = opened(out, name).logits(recordings)
        # A code on a tie moves the logits of one utterance by percents; a wrong grid would move those of all.
        apart = sorted(difference([a], [b]) for a, b in zip(found, expected, strict=True))
        assert apart[len(apart) // 2] < 1e-3 and apart[-1] < 6e-2, name


def test_the_graph_is_optimums(folder):
    path = folder / "onnx" / "model.onnx"
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (taken,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.type, taken.shape) == ("input_values", "tensor(float)", ["batch_size", "sequence_length"])
    assert (logits.name, logits.shape) == ("logits", ["batch_size", "frames", SIZES["vocab_size"]])
    assert [p.name for p in (folder / "onnx").iterdir()] == ["model.onnx"]


def test_a_batch_of_one_length_is_each_utterance_alone(folder):
    needs_vnni()  # this session is not the runtime's, which multiplies otherwise where sums saturate
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    recordings = waveforms((4000, 4000))
    (together,) = session.run(None, {"input_values": torch.stack(recordings).numpy()})
    alone = opened(folder, "onnx").logits(recordings)
    np.testing.assert_allclose(together, torch.stack(alone).numpy(), atol=1e-4)


def test_the_folder_describes_a_stock_network(folder, model_folder):
    config = AutoConfig.from_pretrained(folder)
    assert config.model_type == "wav2vec2" and config.architectures == ["Wav2Vec2ForCTC"]
    assert Wav2Vec2FeatureExtractor.from_pretrained(folder).do_normalize
    theirs = Wav2Vec2CTCTokenizer.from_pretrained(model_folder).get_vocab()
    assert Wav2Vec2CTCTokenizer.from_pretrained(folder).get_vocab() == theirs
    assert not list(folder.rglob("*.safetensors")) and not (folder / "generation_config.json").exists()


def test_weights_and_grids_are_the_quantized_models(folder, model_folder):
    initializers = onnx.load(folder / "onnx" / "model.onnx").graph.initializer
    kinds = {t.name: t.data_type for t in initializers}
    quantized = json.loads((model_folder / "qparams.json").read_text())
    positional = "wav2vec2.encoder.pos_conv_embed.conv.weight"
    expected = {*quantized["weights"], *(f"{positional}/{i}" for i in range(4))} - {positional}
    assert {name for name, kind in kinds.items() if kind == TensorProto.INT8} == expected
    assert {f"{site}.zero_point" for site in quantized["activations"]} == {
        name for name, kind in kinds.items() if kind == TensorProto.UINT8
    }


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("exclude", [(), ("cnn.0:input", "pos_conv", "enc.0.fc1:weight", "enc.1.attn_norm")], ids=len)
def test_products_are_integers_in_the_executed_graph(name, exclude, tmp_path):
    source = float_folder(tmp_path / "model", "wav2vec2-large")
    products = opened(exported(quantized_folder(source, exclude=exclude)), name).products()
    floats = {"cnn.0", "pos_conv", "enc.0.fc1", "enc.1.q_proj", "enc.1.k_proj", "enc.1.v_proj"} if exclude else set()
    attention = {f"enc.{i}.{product}" for i in (0, 1) for product in ("scores", "context")}
    assert set(products.integer) == PRODUCTS - floats
    assert products.floating == dict.fromkeys(floats, "--exclude") | dict.fromkeys(
        attention, "attention's products are float"
    )


@pytest.mark.parametrize("name", ENGINES)
def test_an_output_keeps_its_name_where_a_bias_of_zeros_falls_away(name, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = float_folder(tmp_path / "model", "wav2vec2-base")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.bias"].zero_()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    out = exported(quantized_folder(folder))
    assert "ctc_head" in opened(out, name).products().integer
    assert opened(out, name).logits(waveforms())[0].shape == (50, SIZES["vocab_size"])


def test_openvinos_bf16_stays_near(folder, model_folder):
    recordings = waveforms()
    found = opened(folder, "openvino", "bfloat16").logits(recordings)
    assert difference(found, emulated_logits(model_folder, recordings)) < 8e-2


@pytest.mark.parametrize("name", ENGINES)
def test_what_is_too_short_for_a_frame_has_none(name, folder):
    one, none = opened(folder, name).logits([torch.zeros(40), torch.zeros(39)])
    assert one.shape == (1, SIZES["vocab_size"]) and none.shape == (0, SIZES["vocab_size"])


def test_every_site_is_quantized_once(folder):
    """Whoever reads it: 3 convolutions, the projection, positions, head, 4 a layer."""
    nodes = onnx.load(folder / "onnx" / "model.onnx").graph.node
    quantized = [node.input[0] for node in nodes if node.op_type == "QuantizeLinear"]
    assert len(quantized) == len(set(quantized)) == 3 + 1 + 1 + 1 + 2 * 4


def test_another_activation_function_is_refused(tmp_path):
    with pytest.raises(UsageError, match="gelu_new; export knows gelu and relu"):
        exported(float_folder(tmp_path / "model", "wav2vec2-base", hidden_act="gelu_new"))


def test_relu_is_exported(tmp_path):
    changes = {"hidden_act": "relu", "feat_extract_activation": "relu"}
    out, recordings = exported(float_folder(tmp_path / "model", "wav2vec2-base", **changes)), waveforms()
    with torch.inference_mode():
        expected = stock_model("wav2vec2-base", **changes)(recordings[0][None]).logits[0]
    torch.testing.assert_close(opened(out, "onnx").logits(recordings)[0], expected, atol=1e-4, rtol=1e-4)


def test_a_folder_without_its_graph_is_no_exported_model(tmp_path):
    out = exported(float_folder(tmp_path / "model", "wav2vec2-base"))
    (out / "onnx" / "model.onnx").unlink()
    with pytest.raises(InputError, match="lacks onnx/model.onnx"):
        opened(out, "onnx")
