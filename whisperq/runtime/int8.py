"""A quantized Whisper run in integers by PyTorch.

Linear layers, convolutions and the vocabulary are INT8 products (`products`); norms, softmax, attention products and
residual sums are float (`kernels`). All activations are rows: (batch * length, width).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from whisperq.models.gated_whisper import GatedWhisperConfig
from whisperq.runtime.int8_layers import Attention, FeedForward, Layers
from whisperq.runtime.int8_opening import check_gelu, choose_kernels, keep_freed_memory, open_integers
from whisperq.runtime.interface import Products
from whisperq.runtime.kernels import Cache, Heads, Norm
from whisperq.runtime.products import Product
from whisperq.runtime.stored import Stored

TABLE, PROJECTION = "model.decoder.embed_tokens.weight", "proj_out.weight"


@dataclass(frozen=True)
class EncoderLayer:
    attention: Attention
    feed_forward: FeedForward


@dataclass(frozen=True)
class DecoderLayer:
    attention: Attention
    cross: Attention
    keys_and_values: Product  # of cross-attention, from the encoder's output
    feed_forward: FeedForward
    cache_scales: tuple[Tensor, Tensor] | None  # of cross-attention's keys and values by channel, where codes are kept


@dataclass(frozen=True)
class Table:
    """The vocabulary's rows: codes (V, d_model) with a scale for each, or floats (scale None).

    divisor (d_model): of a row, where the product for logits has its columns scaled.
    """

    rows: Tensor
    scale: Tensor | None
    divisor: Tensor | None

    def __call__(self, tokens: Tensor) -> Tensor:
        rows = self.rows[tokens].float()
        rows = rows if self.scale is None else rows * self.scale[tokens]
        return rows if self.divisor is None else rows / self.divisor


@dataclass
class State:
    """What decoding one batch has gathered."""

    cross: list[Cache]
    own: list[Cache]


class Int8Runtime:
    """Encodes and decodes; `notices` says what a user should know of how."""

    name = "int8"

    def __init__(self, stored: Stored, device: str, attention_dtype: str, notices: Sequence[str] = ()) -> None:
        choice = choose_kernels(device, attention_dtype)
        self.config, self.device = stored.config, device
        self.kernels, self.dtype, self.notices = choice.kernels, choice.attention, [*notices, *choice.notices]
        layers = Layers(stored, device, self.kernels)
        read = Reader(layers, self.config)
        self.convolutions = [layers.product(f"enc.conv{i}:input", [(f"enc.conv{i}", f"model.encoder.conv{i}")])
                             for i in (1, 2)]  # fmt: skip
        self.frame_positions = layers.tensor("model.encoder.embed_positions.weight")
        self.encoder = [read.encoder_layer(i) for i in range(self.config.encoder_layers)]
        self.encoder_norm = layers.norm("model.encoder.layer_norm")
        self.encoded_grid = layers.code_grid("enc.norm")
        self.decoder = [read.decoder_layer(i) for i in range(self.config.decoder_layers)]
        self.decoder_norm = layers.norm("model.decoder.layer_norm")
        self.token_positions = layers.tensor("model.decoder.embed_positions.weight")
        self.table, self.projection = read.vocabulary()
        self._products = layers.products()

    @classmethod
    def load(
        cls, folder: Path, device: str = "cpu", attention_dtype: str = "auto", reduce_range: bool | None = None
    ) -> "Int8Runtime":
        """Raises InputError for a folder that cannot be read, UsageError for a model that has no integer form."""
        stored, notices = open_integers(folder, device, reduce_range)
        check_gelu(folder, (stored.config.activation_function,))
        runtime = cls(stored, device, attention_dtype, notices)
        keep_freed_memory()  # from now on: what packing needed for a moment goes back
        return runtime

    def products(self) -> Products:
        return self._products

    @torch.inference_mode()
    def encode(self, features: Tensor) -> State:
        """features (batch, mel bins, frames) -> a state whose cross-attention keys and values are filled."""
        encoded = self.encoded(features)
        batch = len(features)
        cross = [self._cross_cache(layer, encoded, batch) for layer in self.decoder]
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        capacity = self.config.max_target_positions
        return State(cross, [Cache.empty(batch, layer.attention.heads, capacity, like) for layer in self.decoder])

    @torch.inference_mode()
    def encoded(self, features: Tensor) -> Tensor:
        """The encoder alone: codes of `encoded_grid`, or float32, (batch * frames, d_model)."""
        k = self.kernels
        x = features.to(self.device, torch.float32).transpose(1, 2).contiguous()
        for i, product in enumerate(self.convolutions):
            following = self.convolutions[1].grid if i == 0 else None
            x = self._convolve(x, product, stride=i + 1, grid=None if following is None else following.fused)
        x = x.add_(self.frame_positions).flatten(0, 1)
        for layer in self.encoder:
            a = layer.attention
            normed = k.layer_norm(x, a.norm, a.inputs.grid)
            qkv = a.inputs(normed, self.dtype)
            context = k.attention(qkv, len(features), a.heads, a.gate(normed, qkv), a.out.grid)
            x = self._feed_forward(a.out.add(context, x), layer.feed_forward)
        return k.layer_norm(x, self.encoder_norm, self.encoded_grid)

    @torch.inference_mode()
    def decode_step(self, tokens: Tensor, state: State) -> Tensor:
        """tokens (batch, new tokens) -> logits (batch, vocabulary), float32, after the last of them."""
        k, (batch, length) = self.kernels, tokens.shape
        past = state.own[0].past
        x = (self.table(tokens) + self.token_positions[past : past + length]).flatten(0, 1)
        for layer, own, cross in zip(self.decoder, state.own, state.cross, strict=True):
            a, width = layer.attention, layer.attention.width // 3
            normed = k.layer_norm(x, a.norm, a.inputs.grid)
            qkv = a.inputs(normed, self.dtype)
            k.append(qkv[:, width : 2 * width], qkv[:, 2 * width : 3 * width], own)
            context = k.attend(qkv[:, :width], own, length, a.heads, a.gate(normed, qkv), a.out.grid)
            x = a.out.add(context, x)
            a = layer.cross
            normed = k.layer_norm(x, a.norm, a.inputs.grid)
            query = a.inputs(normed, self.dtype)
            context = k.attend(query[:, :width], cross, 0, a.heads, a.gate(normed, query), a.out.grid)
            x = self._feed_forward(a.out.add(context, x), layer.feed_forward)
        last = x.unflatten(0, (batch, length))[:, -1].contiguous()
        return self.projection(k.layer_norm(last, self.decoder_norm, self.projection.grid))

    @torch.inference_mode()
    def branch(self, state: State, rows: Tensor) -> None:
        # To cross-attention, which has no mask, an utterance's rows are what its tokens are: queries of one cache.
        state.own = [cache.branch(rows.to(self.device)) for cache in state.own]

    def _feed_forward(self, x: Tensor, layer: FeedForward) -> Tensor:
        normed = self.kernels.layer_norm(x, layer.norm, layer.fc1.grid)
        return layer.fc2.add(layer.fc1.gelu(normed, layer.fc2.grid), x)

    def _convolve(self, x: Tensor, product: Product, stride: int, grid) -> Tensor:
        """gelu of a convolution of width 3, padding 1; (batch, length, channels), floats or codes of its grid."""
        if x.dtype != torch.uint8:
            x = self.kernels.quantize(x, product.grid)
        zero = 0 if product.grid is None else product.grid.zero_point
        x = F.pad(x, (0, 0, 1, 1), value=zero)
        windows = x.unfold(1, 3, stride).transpose(2, 3).flatten(2)  # (batch, length / stride, 3 * channels)
        return product.gelu(windows.flatten(0, 1), grid).unflatten(0, windows.shape[:2])

    def _cross_cache(self, layer: DecoderLayer, encoded: Tensor, batch: int) -> Cache:
        scales = layer.cache_scales
        both = layer.keys_and_values(encoded, self.dtype if scales is None else torch.float32)
        width = both.shape[1] // 2
        like = both if scales is None else both.new_empty(0, dtype=torch.int8)
        cache = Cache.empty(batch, layer.cross.heads, both.shape[0] // batch, like)
        cache.scales = scales
        self.kernels.append(both[:, :width], both[:, width:], cache)
        return cache


@dataclass(frozen=True)
class Reader:
    """Whisper's blocks, put together from `Layers`."""

    layers: Layers
    config: GatedWhisperConfig

    def encoder_layer(self, i: int) -> EncoderLayer:
        module, address = f"model.encoder.layers.{i}", f"enc.{i}"
        heads = _heads(self.config.d_model, self.config.encoder_attention_heads)
        attention = self._attention(
            f"{module}.self_attn", f"{module}.self_attn_layer_norm", address, heads, cross=False
        )
        return EncoderLayer(attention, self._feed_forward(module, address))

    def decoder_layer(self, i: int) -> DecoderLayer:
        module, address = f"model.decoder.layers.{i}", f"dec.{i}"
        heads = _heads(self.config.d_model, self.config.decoder_attention_heads)
        own = self._attention(f"{module}.self_attn", f"{module}.self_attn_layer_norm", address, heads, cross=False)
        other, far = f"{module}.encoder_attn", f"{address}.cross"
        cross = self._attention(other, f"{other}_layer_norm", far, heads, cross=True)
        both = [(f"{far}.{name}", f"{other}.{name}") for name in ("k_proj", "v_proj")]
        keys_and_values, scales = self.layers.product("enc.norm", both), self.layers.cache_scales(far)
        return DecoderLayer(own, cross, keys_and_values, self._feed_forward(module, address), scales)

    def _attention(self, module: str, norm: str, address: str, heads: Heads, cross: bool) -> Attention:
        gated = not cross or self.config.cross_gate
        return self.layers.attention(module, self.layers.norm(norm), address, heads, gated, cross)

    def _feed_forward(self, module: str, address: str) -> FeedForward:
        norm: Norm = self.layers.norm(f"{module}.final_layer_norm")
        fc1 = self.layers.product(f"{address}.mlp_norm", [(f"{address}.fc1", f"{module}.fc1")])
        return FeedForward(
            norm, fc1, self.layers.product(f"{address}.fc2:input", [(f"{address}.fc2", f"{module}.fc2")])
        )

    def vocabulary(self) -> tuple[Table, Product]:
        """The table for tokens and the product for logits: on disk they are one tensor."""
        name = PROJECTION if PROJECTION in self.layers.stored else TABLE
        stored = self.layers.stored.codes(name)
        projection = self.layers.product("dec.norm", [("proj_out", name.removesuffix(".weight"))])
        divisor = self.layers.stored.table_divisor
        divisor = None if divisor is None else divisor.to(self.layers.device)
        if stored is None:
            return Table(self.layers.tensor(name), None, divisor), projection
        # Rows are looked up in the file's own pages: only those of tokens that occur are ever in memory.
        codes, scale = torch.from_numpy(stored.codes), torch.from_numpy(stored.scale).expand(len(stored.codes), 1)
        return Table(codes.to(self.layers.device), scale.clone().to(self.layers.device), divisor), projection


def _heads(d_model: int, count: int) -> Heads:
    return Heads(count, d_model // count)
