"""A quantized Whisper run in integers by PyTorch.

Linear layers, convolutions and the vocabulary are INT8 products (`matmuls`); norms, softmax, attention products and
residual sums are float (`kernels`). All activations are rows: (batch * length, width).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from whisperq.jobs.progress import say
from whisperq.ptq.arrays import Stored
from whisperq.runtime.int8.block_parts import FeedForward
from whisperq.runtime.int8.blocks import DecoderLayer, Reader
from whisperq.runtime.int8.grids import Grid, is_codes
from whisperq.runtime.int8.kernels import AnyCodes, Cache, Heads
from whisperq.runtime.int8.layers import Layers
from whisperq.runtime.int8.matmuls import Matmul
from whisperq.runtime.int8.open import Choice, check_gelu, choose_kernels, open_integers
from whisperq.runtime.int8.proof import prove_kernels
from whisperq.runtime.int8.replay import Replay
from whisperq.runtime.interface import Products
from whisperq.runtime.padding import groups


@dataclass
class State:
    """Caches of one batch's decoding: cross-attention, and the decoder's own."""

    cross: list[Cache]
    own: list[Cache]
    replay: Replay | None = None  # of steps of one token
    branched: bool = False

    def forget_replay(self) -> None:
        if self.replay is not None:
            self.replay.end()
            self.replay = None


@dataclass(frozen=True)
class Kept:
    """The state over padding: keys and values of the encoder's layers, (window, 2 d_model), and of cross-attention."""

    encoder: list[Tensor]
    cross: list[Cache]


class Int8Runtime:
    """Encodes and decodes; `notices` says what a user should know of how."""

    name = "int8"

    def __init__(self, stored: Stored, device: str, choice: Choice, notices: Sequence[str] = ()) -> None:
        self.config, self.device = stored.config, device
        self.kernels, self.dtype, self.notices = choice.kernels, choice.attention, list(notices)
        heads = self.config.encoder_attention_heads
        prove_kernels(self.kernels, Heads(heads, self.config.d_model // heads), self.dtype, device)
        layers = Layers(stored, device, self.kernels, self.dtype)
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
        self.replays = self.kernels.signed and device != "cpu"  # whether steps are recorded

    @classmethod
    def load(
        cls, folder: Path, device: str = "cpu", attention_dtype: str = "auto", reduce_range: bool | None = None
    ) -> "Int8Runtime":
        """Raises InputError for a folder that cannot be read, UsageError for a model that has no integer form."""
        choice = choose_kernels(device, attention_dtype)
        stored, notices = open_integers(folder, device, choice, reduce_range)
        check_gelu(folder, (stored.config.activation_function,))
        return cls(stored, device, choice, notices)

    def products(self) -> Products:
        return self._products

    @torch.inference_mode()
    def trial(self) -> list[Tensor]:
        """The encoder's output and the logits of three steps, float32, to be compared with another device's."""
        frames = 2 * self.config.max_source_positions
        features = torch.randn(1, self.config.num_mel_bins, frames, generator=torch.Generator().manual_seed(0))
        encoded: AnyCodes = self.encoded(features)
        state = self._state([self._cross_cache(layer, encoded, 1) for layer in self.decoder], 1)
        values = encoded if self.encoded_grid is None else self.encoded_grid.values(encoded)
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        return [values, *(self.decode_step(token, state).clone() for _ in range(3))]

    @torch.inference_mode()
    def encode(self, features: Tensor) -> State:
        """features (batch, mel bins, frames) -> a state whose cross-attention keys and values are filled."""
        encoded = self.encoded(features)
        return self._state([self._cross_cache(layer, encoded, len(features)) for layer in self.decoder], len(features))

    @torch.inference_mode()
    def keep(self, features: Tensor) -> Kept:
        made: list[Tensor] = []
        encoded = self.encoded(features, made=made)
        return Kept(made, [self._cross_cache(layer, encoded, 1) for layer in self.decoder])

    @torch.inference_mode()
    def encode_rows(self, features: Tensor, rows: Sequence[int], kept: Kept) -> State:
        cross = [cache.repeated(len(rows)) for cache in kept.cross]
        for count, utterances in groups(rows):
            encoded = self.encoded(features[utterances], count, kept.encoder)
            for layer, whole in zip(self.decoder, cross, strict=True):
                whole.put(utterances, self._cross_cache(layer, encoded, len(utterances)))
        return self._state(cross, len(rows))

    def _state(self, cross: list[Cache], batch: int) -> State:
        like = torch.empty(0, dtype=self.dtype, device=self.device)
        capacity = self.config.max_target_positions
        return State(cross, [Cache.empty(batch, layer.attention.heads, capacity, like) for layer in self.decoder])

    @torch.inference_mode()
    def encoded(
        self,
        features: Tensor,
        rows: int | None = None,
        kept: Sequence[Tensor] | None = None,
        made: list[Tensor] | None = None,
    ) -> Tensor:
        """The encoder alone: codes of `encoded_grid`, or float32, (batch * rows, d_model); all rows, or the first.

        kept: each layer's keys and values of the rows behind; made: takes the layers' own. A row depends on five
        frames, two before and two after its own.
        """
        k, rows = self.kernels, rows or features.shape[2] // 2
        x = features[:, :, : 2 * rows + 1].to(self.device, torch.float32).transpose(1, 2).contiguous()
        for i, product in enumerate(self.convolutions):
            following = self.convolutions[1].grid if i == 0 else None
            x = self._convolve(x, product, stride=i + 1, grid=None if following is None else following.fused)
            x = x[:, : 2 * rows]
        x = x.add_(self.frame_positions[:rows]).flatten(0, 1)
        for i, layer in enumerate(self.encoder):
            a, beyond = layer.attention, None if kept is None else kept[i]
            normed = k.layer_norm(x, a.norm, a.inputs.grid)
            qkv = a.inputs(normed, self.dtype)
            if made is not None:
                made.append(qkv[:, a.width // 3 : a.width].contiguous())
            context = k.attention(qkv, len(features), a.heads, a.gate(normed, qkv), a.out.grid, beyond)
            x = self._feed_forward(a.out.add(context, x), layer.feed_forward)
        return k.layer_norm(x, self.encoder_norm, self.encoded_grid)

    @torch.inference_mode()
    def decode_step(self, tokens: Tensor, state: State) -> Tensor:
        """tokens (batch, new tokens) -> logits (batch, vocabulary), float32, after the last of them.

        Logits of a step of one token may be overwritten by the next one's.
        """
        past, tokens = state.own[0].past, tokens.to(self.device)
        if not self.replays or state.branched or tokens.shape[1] > 1 or not past:
            state.forget_replay()
            return self._step(tokens, state)
        if state.replay is None:
            try:
                state.replay = Replay(lambda some: self._step(some, state), state.own, tokens)
            except Exception as reason:  # of CUDA or Triton, each with errors of its own
                self.replays = False
                say(f"decoding steps could not be recorded ({reason}): each kernel is launched anew, slower")
                return self._step(tokens, state)
        return state.replay(tokens)

    def _step(self, tokens: Tensor, state: State) -> Tensor:
        k, (batch, length), past = self.kernels, tokens.shape, state.own[0].past
        recorded = state.own[0].past_on_device
        positions = self.token_positions[past : past + length] if recorded is None else self.token_positions[recorded]
        x = (self.table(tokens) + positions).flatten(0, 1)
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
        state.branched = True

    def _feed_forward(self, x: Tensor, layer: FeedForward) -> Tensor:
        normed = self.kernels.layer_norm(x, layer.norm, layer.fc1.grid)
        return layer.fc2.add(layer.fc1.gelu(normed, layer.fc2.grid), x)

    def _convolve(self, x: Tensor, product: Matmul, stride: int, grid: Grid | None) -> Tensor:
        """gelu of a convolution of width 3, padding 1; (batch, length, channels), floats or codes of its grid."""
        if not is_codes(x):
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
