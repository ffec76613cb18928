"""Stock Whisper as OpenVINO models in static INT8 by NNCF with its default settings.

Encoder, and a decoder that keeps its keys and values as state, in the layout that optimum-intel exports:
self-attention's past is reordered by `beam_idx` and grows; cross-attention's keys and values are computed
once, when the state is empty. (optimum-intel itself does not install beside this transformers.)
"""

from collections.abc import Sequence
from pathlib import Path

import nncf
import numpy as np
import openvino as ov
import torch
from nncf.definitions import NNCF_DATASET_RESET_STATE_KEY as RESET
from openvino import opset13
from openvino._offline_transformations import apply_make_stateful_transformation
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import WhisperForConditionalGeneration

ENCODER, DECODER = "openvino_encoder_model.xml", "openvino_decoder_model.xml"


class Encoder(nn.Module):
    def __init__(self, model: WhisperForConditionalGeneration) -> None:
        super().__init__()
        self.encoder = model.model.encoder

    def forward(self, features: Tensor) -> Tensor:
        """(batch, mel bins, frames) -> (batch, frames / 2, d_model)."""
        return self.encoder(features).last_hidden_state


class DecoderStep(nn.Module):
    """Stock Whisper's decoder with every key and value in the open, so that a trace shows them."""

    def __init__(self, model: WhisperForConditionalGeneration) -> None:
        super().__init__()
        self.decoder, self.proj_out = model.model.decoder, model.proj_out

    def forward(self, tokens: Tensor, encoded: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """tokens (batch, new), encoded (batch, frames, d_model), past keys and values (batch, heads, length, d_head)
        of each layer -> logits, then each layer's keys and values, then each layer's of cross-attention."""
        before, new = past[0].shape[2], tokens.shape[1]
        rows = torch.arange(before, before + new)
        mask = torch.arange(before + new)[None] <= rows[:, None]
        x = self.decoder.embed_tokens(tokens) + self.decoder.embed_positions.weight[rows]
        present, cross = [], []
        for index, layer in enumerate(self.decoder.layers):
            normed = layer.self_attn_layer_norm(x)
            made = keys_and_values(layer.self_attn, normed)
            kept = [torch.cat(pair, dim=2) for pair in zip(past[2 * index : 2 * index + 2], made, strict=True)]
            x = x + attend(layer.self_attn, normed, *kept, mask)
            of_encoder = keys_and_values(layer.encoder_attn, encoded)
            x = x + attend(layer.encoder_attn, layer.encoder_attn_layer_norm(x), *of_encoder, None)
            x = x + layer.fc2(layer.activation_fn(layer.fc1(layer.final_layer_norm(x))))
            present += kept
            cross += of_encoder
        return self.proj_out(self.decoder.layer_norm(x)), *present, *cross


def split_heads(attention: nn.Module, x: Tensor) -> Tensor:
    """(batch, length, d_model) -> (batch, heads, length, d_head)."""
    return x.view(x.shape[0], -1, attention.num_heads, attention.head_dim).transpose(1, 2)


def keys_and_values(attention: nn.Module, x: Tensor) -> list[Tensor]:
    return [split_heads(attention, attention.k_proj(x)), split_heads(attention, attention.v_proj(x))]


def attend(attention: nn.Module, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    query = split_heads(attention, attention.q_proj(x))
    context = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return attention.out_proj(context.transpose(1, 2).reshape(x.shape))


@torch.inference_mode()
def convert(stock: Path, folder: Path, features: Sequence[Tensor], prompt: Sequence[int]) -> None:
    """Write both INT8 models; `features` (1, mel bins, frames) each are the calibration's inputs."""
    model = WhisperForConditionalGeneration.from_pretrained(stock, attn_implementation="sdpa").eval()
    encoded = [model.model.encoder(x).last_hidden_state.numpy() for x in features]
    encoder = ov.convert_model(Encoder(model), example_input=features[0])
    encoder.inputs[0].get_tensor().set_names({"input_features"})
    quantize(encoder, [x.numpy() for x in features], folder / ENCODER)
    del encoder
    decoder = stateful_decoder(model, features[0])
    quantize(decoder, decoder_inputs(encoded, prompt), folder / DECODER)


def quantize(model: ov.Model, inputs: list, path: Path) -> None:
    data = nncf.Dataset(inputs)
    quantized = nncf.quantize(model, data, subset_size=len(inputs), model_type=nncf.ModelType.TRANSFORMER)
    ov.save_model(quantized, path, compress_to_fp16=False)


def decoder_inputs(encoded: Sequence[np.ndarray], prompt: Sequence[int], steps: int = 3) -> list[dict]:
    """A prompt and a few single tokens for each encoder output, the state emptied before each prompt."""
    found = []
    for one in encoded:
        for tokens in (list(prompt), *([1000 * (i + 1)] for i in range(steps))):
            ids = np.array([tokens], dtype=np.int64)
            shared = {"encoder_hidden_states": one, "beam_idx": np.zeros(1, dtype=np.int32)}
            found.append({"input_ids": ids, **shared, RESET: len(tokens) > 1})
    return found


def stateful_decoder(model: WhisperForConditionalGeneration, features: Tensor) -> ov.Model:
    config = model.config
    heads, layers = config.decoder_attention_heads, config.decoder_layers
    d_head = config.d_model // heads
    past = [torch.zeros(1, heads, 5, d_head) for _ in range(2 * layers)]
    encoded = torch.zeros(1, features.shape[2] // 2, config.d_model)
    step = DecoderStep(model).eval()
    check(step, model, encoded + 0.1)
    graph = ov.convert_model(step, example_input=(torch.zeros(1, 3, dtype=torch.long), encoded, *past))
    pairs = name_ports(graph, 2 * layers)
    shapes = {"input_ids": [-1, -1], "encoder_hidden_states": [-1, -1, config.d_model]}
    graph.reshape(shapes | dict.fromkeys(pairs, [-1, heads, -1, d_head]))
    reorder(graph, list(pairs))
    apply_make_stateful_transformation(graph, pairs)
    start_empty(graph)
    keep_cross(graph)
    return graph


def check(step: DecoderStep, model: WhisperForConditionalGeneration, encoded: Tensor) -> None:
    """Raises AssertionError where the step in the open is not the stock decoder."""
    tokens = torch.arange(1, 5)[None]
    past = torch.zeros(1, model.config.decoder_attention_heads, 0, step.decoder.layers[0].self_attn.head_dim)
    expected = model.proj_out(model.model.decoder(tokens, encoder_hidden_states=encoded).last_hidden_state)
    torch.testing.assert_close(step(tokens, encoded, *[past] * (2 * len(step.decoder.layers)))[0], expected)


def name_ports(graph: ov.Model, caches: int) -> dict[str, str]:
    """Names for the traced inputs and outputs; returns past -> present."""
    pairs = {f"past.{i}": f"present.{i}" for i in range(caches)}
    inputs = ["input_ids", "encoder_hidden_states", *pairs]
    outputs = ["logits", *pairs.values(), *(f"cross.{i}" for i in range(caches))]
    for ports, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
    return pairs


def reorder(graph: ov.Model, names: Sequence[str]) -> None:
    """Beam search picks rows of the past by `beam_idx`."""
    beams = opset13.parameter([-1], ov.Type.i32, name="beam_idx")
    beams.output(0).get_tensor().set_names({"beam_idx"})
    graph.add_parameters([beams])
    for name in names:
        port = graph.input(name)
        consumers = port.get_target_inputs()
        picked = opset13.gather(port, beams, opset13.constant(0))
        for consumer in consumers:
            consumer.replace_source_output(picked.output(0))
    graph.validate_nodes_and_infer_types()


def start_empty(graph: ov.Model) -> None:
    """An empty state holds no positions, for as many rows as the tokens have."""
    shape_of = opset13.shape_of(graph.input("input_ids"), output_type="i64")
    batch = opset13.gather(shape_of, opset13.constant([0]), opset13.constant(0))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            heads, d_head = (node.get_output_partial_shape(0)[i].get_length() for i in (1, 3))
            rest = opset13.constant(np.array([heads, 0, d_head], dtype=np.int64))
            zero = opset13.constant(np.float32(0))
            node.set_arguments([opset13.broadcast(zero, opset13.concat([batch, rest], axis=0))])
    graph.validate_nodes_and_infer_types()


def keep_cross(graph: ov.Model) -> None:
    """Cross-attention's keys and values become state that is computed where it is empty."""
    for port in [p for p in graph.outputs if p.get_any_name().startswith("cross.")]:
        result, name = port.get_node(), port.get_any_name()
        source = result.input_value(0)
        consumers = [c for c in source.get_target_inputs() if c.get_node() != result]
        kept = opset13.read_value(source, name)
        for consumer in consumers:
            consumer.replace_source_output(kept.output(0))
        graph.remove_result(result)
        graph.add_sinks([opset13.assign(kept, name)])
