"""A quantized Whisper's blocks, put together from the layers that lie on disk."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from whisperq.models.families import tied_names
from whisperq.runtime.int8.block_parts import Attention, FeedForward
from whisperq.runtime.int8.kernels import Heads, Norm
from whisperq.runtime.int8.layers import Layers
from whisperq.runtime.int8.matmuls import Matmul

TABLE, PROJECTION = "model.decoder.embed_tokens.weight", "proj_out.weight"


@dataclass(frozen=True)
class EncoderLayer:
    attention: Attention
    feed_forward: FeedForward


@dataclass(frozen=True)
class DecoderLayer:
    attention: Attention
    cross: Attention
    keys_and_values: Matmul  # of cross-attention, from the encoder's output
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


@dataclass(frozen=True)
class Reader:
    """Whisper's blocks, put together from `Layers`."""

    layers: Layers
    config: PreTrainedConfig

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

    def vocabulary(self) -> tuple[Table, Matmul]:
        """The table for tokens and the product for logits: on disk they are one tensor, unless they are untied."""
        name = PROJECTION if PROJECTION in self.layers.stored else TABLE
        stored = self.layers.stored.codes(name)
        projection = self.layers.product("dec.norm", [("proj_out", name.removesuffix(".weight"))])
        if not tied_names(self.config):
            return Table(self.layers.tensor(TABLE), None, None), projection
        divisor = self.layers.stored.table_divisor
        divisor = None if divisor is None else divisor.to(self.layers.device)
        if stored is None:
            return Table(self.layers.tensor(name), None, divisor), projection
        # Rows are looked up in the file's own pages: only those of tokens that occur are ever in memory.
        codes, scale = torch.from_numpy(stored.codes), torch.from_numpy(stored.scale).expand(len(stored.codes), 1)
        return Table(codes.to(self.layers.device), scale.clone().to(self.layers.device), divisor), projection


def _heads(d_model: int, count: int) -> Heads:
    return Heads(count, d_model // count)
