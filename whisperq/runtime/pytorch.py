"""A Whisper run by PyTorch in float: as it is, or emulating integers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel

from whisperq.models.gated_whisper import GatedWhisperForConditionalGeneration
from whisperq.runtime.ctc import float_products
from whisperq.runtime.interface import Products
from whisperq.runtime.padding import groups

Pair = tuple[Tensor, Tensor]  # keys and values, (batch, heads, rows, d_head)


@dataclass
class DecoderState:
    encoded: Tensor  # (batch, frames, d_model)
    cache: Any = None  # keys and values of every layer so far


@dataclass(frozen=True)
class Kept:
    """The state over padding: of every layer of the encoder, and of the decoder's cross-attention."""

    encoder: list[Pair]
    cross: list[Pair]
    encoded: Tensor  # (1, rows, d_model)


@dataclass
class Beyond:
    """Key-value cache of one layer: keys and values of the rows computed, followed by those kept for the padding."""

    kept: Pair | None = None
    own: list[Pair] = field(default_factory=list)

    def update(self, key: Tensor, value: Tensor, _layer: int | None) -> Pair:
        self.own.append((key, value))
        if self.kept is None:
            return key, value
        return joined(key, self.kept[0]), joined(value, self.kept[1])


def joined(own: Tensor, kept: Tensor) -> Tensor:
    """own (batch, heads, rows, d_head), kept (1, heads, window, d_head) -> (batch, heads, window, d_head)."""
    return torch.cat([own, kept[:, :, own.shape[2] :].expand(len(own), -1, -1, -1)], dim=2)


class PyTorchRuntime:
    """The model as it is: float, or emulated where quantizers watch its sites."""

    model: GatedWhisperForConditionalGeneration

    def __init__(self, model: PreTrainedModel, name: str = "float") -> None:
        self.model = model  # type: ignore[assignment]  # the family that writes tokens is this one
        self.name, self.notices = name, ()

    def encode(self, features: Tensor) -> DecoderState:
        features = features.to(self.model.device, self.model.dtype)
        return DecoderState(self.model.model.encoder(features).last_hidden_state)

    @torch.inference_mode()
    def keep(self, features: Tensor) -> Kept:
        layers = [Beyond() for _ in self.model.model.encoder.layers]
        encoded = self._encoded(features, features.shape[2] // 2, layers)
        return Kept([layer.own[0] for layer in layers], self._cross(encoded), encoded)

    @torch.inference_mode()
    def encode_rows(self, features: Tensor, rows: Sequence[int], kept: Kept) -> DecoderState:
        cross = [tuple(x.repeat(len(rows), 1, 1, 1) for x in pair) for pair in kept.cross]
        for count, utterances in groups(rows):
            encoded = self._encoded(features[utterances], count, map(Beyond, kept.encoder))
            for pair, own in zip(cross, self._cross(encoded), strict=True):
                for whole, part in zip(pair, own, strict=True):
                    whole[utterances, :, :count] = part
        cache = DynamicCache()
        for layer, pair in enumerate(cross):
            keys, values = pair
            cache.update(keys, values, layer)
        # The cache has all that cross-attention needs; the decoder only wants to see that there is an encoder.
        seen = kept.encoded.expand(len(rows), -1, -1)
        return DecoderState(seen, EncoderDecoderCache(DynamicCache(), cache))

    def _encoded(self, features: Tensor, rows: int, layers: Iterable[Beyond]) -> Tensor:
        """The encoder's first rows, (batch, rows, d_model); row t depends on frames 2 t - 2 to 2 t + 2."""
        encoder = self.model.model.encoder
        x = features[:, :, : 2 * rows + 1].to(self.model.device, self.model.dtype)
        x = F.gelu(encoder.conv1(x))[:, :, : 2 * rows]
        x = F.gelu(encoder.conv2(x)).transpose(1, 2) + encoder.embed_positions.weight[:rows]
        for layer, beyond in zip(encoder.layers, layers, strict=True):
            x = layer(x, past_key_values=beyond)
        return encoder.layer_norm(x)

    def _cross(self, encoded: Tensor) -> list[Pair]:
        """Keys and values of cross-attention, of each layer of the decoder."""
        blocks = [layer.encoder_attn for layer in self.model.model.decoder.layers]
        return [
            tuple(block._split(project(encoded), len(encoded)) for project in (block.k_proj, block.v_proj))
            for block in blocks
        ]

    def decode_step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        output = self.model.model.decoder(
            input_ids=tokens, encoder_hidden_states=state.encoded, past_key_values=state.cache, use_cache=True
        )
        state.cache = output.past_key_values
        return self.model.proj_out(output.last_hidden_state[:, -1]).float()

    def branch(self, state: DecoderState, rows: Tensor) -> None:
        state.cache.self_attention_cache.reorder_cache(rows)
        if len(rows) != len(state.encoded):
            state.encoded = state.encoded[rows]
            state.cache.cross_attention_cache.reorder_cache(rows)

    def products(self) -> Products:
        return float_products(self.model, self.name)
