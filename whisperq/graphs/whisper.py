"""The three graphs of an exported Whisper, with the names and shapes that optimum and transformers.js load.

encoder_model            input_features (batch, mel bins, frames) -> last_hidden_state (batch, frames / 2, d_model)
decoder_model            input_ids (batch, tokens), encoder_hidden_states -> logits (batch, tokens, vocabulary),
                         present.<i>.{decoder,encoder}.{key,value} (batch, heads, length, d_head)
decoder_with_past_model  input_ids, past_key_values.<i>.{decoder,encoder}.{key,value} -> logits,
                         present.<i>.decoder.{key,value}

The gates, with their factor 1/pi_init, are in the graphs: a consumer takes the model for a stock Whisper.
"""

import numpy as np

from whisperq.graphs.blocks import Attention, feed_forward
from whisperq.graphs.decoder import Decoder
from whisperq.graphs.graph import Graph
from whisperq.graphs.layers import Layers
from whisperq.ptq.arrays import Stored
from whisperq.runtime.onnx.whisper import ENCODER, WITH_PAST


def write_graph(name: str, stored: Stored) -> tuple[Graph, dict[str, list[str]]]:
    """One of the three graphs, and its products as `Layers` counts them."""
    layers = Layers(Graph(name), stored)
    if name == ENCODER:
        write_encoder(layers)
    else:
        Decoder(layers, name == WITH_PAST).write()
    return layers.graph, layers.products


def write_encoder(layers: Layers) -> None:
    """The window's length is the model's, as every frame has its position."""
    g, c = layers.graph, layers.config
    x = g.input("input_features", np.float32, ("batch_size", c.num_mel_bins, 2 * c.max_source_positions))
    x = g.op("Transpose", x, perm=(0, 2, 1), name="enc.frames")
    for i, stride in ((1, 1), (2, 2)):
        x = layers.convolution(f"model.encoder.conv{i}", x, f"enc.conv{i}", stride, side=1)
        x = g.op("Gelu", x, name=f"enc.conv{i}/gelu")  # whatever the configuration's function is
    x = g.op("Add", x, layers.tensor("model.encoder.embed_positions.weight"), name="enc.positions")
    for i in range(c.encoder_layers):
        module, address = f"model.encoder.layers.{i}", f"enc.{i}"
        attention = Attention(layers, f"{module}.self_attn", address, c.encoder_attention_heads)
        normed = layers.norm(f"{module}.self_attn_layer_norm", x, f"{address}.attn_norm")
        x = g.op("Add", x, attention.run(normed, attention.keys_and_values(normed)), name=f"{address}.attn_sum")
        x = feed_forward(layers, module, x, address)
    x = layers.norm("model.encoder.layer_norm", x, "enc.norm")
    g.output("last_hidden_state", x, np.float32, ("batch_size", c.max_source_positions, c.d_model))
