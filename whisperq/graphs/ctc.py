"""The graph of an exported wav2vec 2.0 or HuBERT with a CTC head, as optimum names its parts.

model    input_values (batch, samples), normalised as preprocessor_config.json says
         -> logits (batch, frames, vocabulary)

There is no mask: utterances of one batch have one length; utterances of different lengths are run one by one.
"""

from dataclasses import dataclass

import numpy as np

from whisperq.graphs.blocks import Attention
from whisperq.graphs.graph import Graph
from whisperq.graphs.layers import Layers
from whisperq.models.sites import canonical
from whisperq.ptq.arrays import Stored


def write_ctc_graph(name: str, stored: Stored) -> tuple[Graph, dict[str, list[str]]]:
    """The graph, and its products as `Layers` counts them."""
    layers = Layers(Graph(name), stored)
    Ctc(layers, stored.config.model_type).write()
    return layers.graph, layers.products


@dataclass(frozen=True)
class Ctc:
    layers: Layers
    base: str  # what the network's module names begin with

    def write(self) -> None:
        g, c = self.layers.graph, self.layers.config
        x = g.input("input_values", np.float32, ("batch_size", "sequence_length"))
        x = g.op("Unsqueeze", x, g.integers(2), name="cnn.frames")
        for i in range(len(c.conv_dim)):
            x = self.convolution(i, x)
        if getattr(c, "feat_proj_layer_norm", True):
            x = self.norm("feature_projection.layer_norm", x, "feature_proj/norm")
        x = self.layers.linear(f"{self.base}.feature_projection.projection", x, "feature_proj")
        x = g.op("Add", x, self.positions(x), name="enc.positions")
        if not c.do_stable_layer_norm:
            x = self.norm("encoder.layer_norm", x, "enc.first_norm")
        for i in range(c.num_hidden_layers):
            x = self.pre_norm_layer(i, x) if c.do_stable_layer_norm else self.post_norm_layer(i, x)
        if c.do_stable_layer_norm:
            x = self.norm("encoder.layer_norm", x, "enc.norm")
        x = self.layers.linear("lm_head", x, "ctc_head")
        g.output("logits", x, np.float32, ("batch_size", "frames", c.vocab_size))

    def norm(self, module: str, x: str, address: str) -> str:
        return self.layers.norm(f"{self.base}.{module}", x, address, self.layers.config.layer_norm_eps)

    def convolution(self, i: int, x: str) -> str:
        """x (batch, length, d_in) -> gelu(norm(convolved)), (batch, frames, d_out)."""
        module, address, c = f"{self.base}.feature_extractor.conv_layers.{i}", f"cnn.{i}", self.layers.config
        x = self.layers.convolution(f"{module}.conv", x, address, c.conv_stride[i])
        if c.feat_extract_norm == "layer":
            x = self.layers.norm(f"{module}.layer_norm", x, f"{address}/norm")
        elif i == 0:
            x = self.norm_over_time(f"{module}.layer_norm", x, f"{address}/norm")
        return self.layers.activate(x, address, c.feat_extract_activation)

    def norm_over_time(self, module: str, x: str, name: str) -> str:
        """A group norm with a channel a group; x (batch, frames, channels)."""
        g = self.layers.graph
        scale, bias = (self.layers.tensor(f"{module}.{part}") for part in ("weight", "bias"))
        x = g.op("Transpose", x, perm=(0, 2, 1), name=f"{name}/channels")
        x = g.op("InstanceNormalization", x, scale, bias, name=name, epsilon=1e-5)
        return g.op("Transpose", x, perm=(0, 2, 1), name=f"{name}/frames")

    def positions(self, x: str) -> str:
        """gelu of the grouped convolution; (batch, frames, hidden) in and out, an even kernel's last frame left out."""
        module, c, g = f"{self.base}.encoder.pos_conv_embed", self.layers.config, self.layers.graph
        if getattr(c, "conv_pos_batch_norm", False):
            x = self.batch_norm(f"{module}.batch_norm", x)
        address, weight = "pos_conv", f"{module}.conv.weight"
        width = c.num_conv_pos_embeddings
        left, right = width // 2, (width - 1) - width // 2
        if self.layers.count(address, weight):
            y = self.grouped(x, address, weight, (left, right))
        else:
            x = g.op("Transpose", self.layers.activation(x, address), perm=(0, 2, 1), name=f"{address}/channels")
            y = g.op("Conv", x, self.layers.tensor(weight), name=address, pads=[left, right],
                     group=c.num_conv_pos_embedding_groups)  # fmt: skip
            y = g.op("Transpose", y, perm=(0, 2, 1), name=f"{address}/frames")
        y = self.layers.biased(y, f"{module}.conv", address)
        return self.layers.activate(y, address, c.feat_extract_activation)

    def grouped(self, x: str, address: str, weight: str, sides: tuple[int, int]) -> str:
        """A product for each group of channels, over the codes of each frame beside those of its neighbours.

        codes (batch, frames, hidden) -> padded and by group (groups, batch, length, d_in), of which the frames
        t, t + 1, ... are gathered for each t: (groups, batch, frames, width, d_in).
        """
        g, layers, site = self.layers.graph, self.layers, canonical(f"{address}:input")
        kernel, groups = layers.stored.integers(weight), layers.config.num_conv_pos_embedding_groups
        _, d_in, width = kernel.codes.shape
        codes = layers.codes(x, site)
        places = self.places(codes, address, width)
        codes = layers.padded(codes, address, *sides)
        codes = layers.reshaped(codes, (0, 0, groups, d_in), f"{address}/split")
        codes = g.op("Transpose", codes, perm=(2, 0, 1, 3), name=f"{address}/groups")
        codes = g.op("Gather", codes, places, axis=2, name=f"{address}/neighbours")
        codes = layers.reshaped(codes, (0, 0, 0, width * d_in), f"{address}/windows")
        weights = np.split(kernel.codes, groups)
        scales = np.split(np.broadcast_to(kernel.scale.reshape(-1), (len(kernel.codes),)), groups)
        parts = []
        for i in range(groups):
            own = g.op("Gather", codes, g.integer(i), axis=0, name=f"{address}/{i}/codes")
            own = g.op("DequantizeLinear", own, *layers.grid(site), name=f"{address}/dequantize")
            columns = weights[i].transpose(2, 1, 0).reshape(width * d_in, -1)
            parts.append(layers.product(address, own, layers.dequantized(f"{weight}/{i}", columns, scales[i])))
        return g.op("Concat", *parts, axis=2, name=f"{address}/merged")

    def places(self, x: str, address: str, width: int) -> str:
        """Indices (frames, width) of the frames in the convolution window of each frame of x."""
        g = self.layers.graph
        frames = g.op("Shape", x, start=1, end=2, name=f"{address}/shape")
        frames = g.op("Squeeze", frames, g.integers(0), name=f"{address}/frames")
        firsts = g.op("Range", g.integer(0), frames, g.integer(1), name=f"{address}/range")
        firsts = g.op("Unsqueeze", firsts, g.integers(1), name=f"{address}/firsts")
        return g.op("Add", firsts, g.constant("offsets", np.arange(width, dtype=np.int64)), name=f"{address}/places")

    def batch_norm(self, module: str, x: str) -> str:
        stored, g = self.layers.stored, self.layers.graph
        weight, bias, mean, variance = (
            stored.float(f"{module}.{name}") for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / np.sqrt(variance + 1e-5)
        x = g.op("Mul", x, g.constant(f"{module}.scale", scale), name="pos_conv/norm")
        return g.op("Add", x, g.constant(f"{module}.shift", bias - mean * scale), name="pos_conv/shifted")

    def pre_norm_layer(self, i: int, x: str) -> str:
        address, g = f"enc.{i}", self.layers.graph
        normed = self.norm(f"encoder.layers.{i}.layer_norm", x, f"{address}.attn_norm")
        x = g.op("Add", x, self.attended(i, normed), name=f"{address}.attn_sum")
        normed = self.norm(f"encoder.layers.{i}.final_layer_norm", x, f"{address}.mlp_norm")
        return g.op("Add", x, self.fed_forward(i, normed), name=f"{address}.mlp_sum")

    def post_norm_layer(self, i: int, x: str) -> str:
        address, g = f"enc.{i}", self.layers.graph
        x = g.op("Add", x, self.attended(i, x), name=f"{address}.attn_sum")
        x = self.norm(f"encoder.layers.{i}.layer_norm", x, f"{address}.attn_sum/norm")
        x = g.op("Add", x, self.fed_forward(i, x), name=f"{address}.mlp_sum")
        return self.norm(f"encoder.layers.{i}.final_layer_norm", x, f"{address}.mlp_sum/norm")

    def attended(self, i: int, x: str) -> str:
        module, heads = f"{self.base}.encoder.layers.{i}.attention", self.layers.config.num_attention_heads
        attention = Attention(self.layers, module, f"enc.{i}", heads, gated=False)
        return attention.run(x, attention.keys_and_values(x))

    def fed_forward(self, i: int, x: str) -> str:
        module, address = f"{self.base}.encoder.layers.{i}.feed_forward", f"enc.{i}"
        y = self.layers.linear(f"{module}.intermediate_dense", x, f"{address}.fc1")
        y = self.layers.activate(y, f"{address}.fc1", self.layers.config.hidden_act)
        return self.layers.linear(f"{module}.output_dense", y, f"{address}.fc2")
