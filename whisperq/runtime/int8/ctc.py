"""A quantized wav2vec 2.0 or HuBERT with a CTC head, run in integers by PyTorch.

    logits = head(blocks(p + gelu(positions(p)))),    p = projection(norm(convolutions(waveform)))

Linear layers and convolutions are INT8 products (`matmuls`, `convolutions`); norms, softmax, attention products
and residual sums are float (`kernels`). Each utterance is run alone, so that nothing is padded and nothing masked. Its
activations are rows: (frames, width).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from whisperq.models.ctc import shortest
from whisperq.ptq.arrays import Stored
from whisperq.runtime.int8.block_parts import Attention, FeedForward
from whisperq.runtime.int8.convolutions import Convolution, PositionalConvolution, TimeNorm
from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.kernels import Heads, Norm
from whisperq.runtime.int8.layers import Layers
from whisperq.runtime.int8.open import Choice, check_gelu, choose_kernels, open_integers
from whisperq.runtime.int8.proof import prove_kernels
from whisperq.runtime.interface import Products


@dataclass(frozen=True)
class Layer:
    attention: Attention
    feed_forward: FeedForward


class Int8Ctc:
    """Waveforms to logits; `notices` says what a user should know of how."""

    name = "int8"

    def __init__(self, stored: Stored, device: str, choice: Choice, notices: Sequence[str] = ()) -> None:
        self.config, self.device = stored.config, device
        self.kernels, self.dtype, self.notices = choice.kernels, choice.attention, list(notices)
        heads = self.config.num_attention_heads
        prove_kernels(self.kernels, Heads(heads, self.config.hidden_size // heads), self.dtype, device)
        layers = Layers(stored, device, self.kernels, self.dtype)
        read = Reader(layers, self.config)
        self.waveform_grid = layers.grid("cnn.0:input")
        self.convolutions = [read.convolution(i) for i in range(len(self.config.conv_dim))]
        self.features_norm = read.features_norm()
        self.projection = layers.product("feature_proj:input", [
            ("feature_proj", f"{read.base}.feature_projection.projection")])  # fmt: skip
        self.positions = read.positions()
        self.norm = read.norm("encoder.layer_norm")
        self.layers = [read.layer(i) for i in range(self.config.num_hidden_layers)]
        self.head = layers.product("enc.norm", [("ctc_head", "lm_head")])
        self.pre_norm = self.config.do_stable_layer_norm
        self._products = layers.products()

    @classmethod
    def load(
        cls, folder: Path, device: str = "cpu", attention_dtype: str = "auto", reduce_range: bool | None = None
    ) -> "Int8Ctc":
        """Raises InputError for a folder that cannot be read, UsageError for a model that has no integer form."""
        choice = choose_kernels(device, attention_dtype)
        stored, notices = open_integers(folder, device, choice, reduce_range)
        check_gelu(folder, (stored.config.hidden_act, stored.config.feat_extract_activation))
        return cls(stored, device, choice, notices)

    def products(self) -> Products:
        return self._products

    def trial(self) -> list[Tensor]:
        """The logits of a second of seeded noise, float32, to be compared with another device's."""
        return self.logits([torch.randn(16000, generator=torch.Generator().manual_seed(0))])

    def logits(self, waveforms: Sequence[Tensor]) -> list[Tensor]:
        """Each waveform (samples), float32, normalised -> (frames, vocabulary), float32."""
        return [self._logits(waveform) for waveform in waveforms]

    @torch.inference_mode()
    def _logits(self, waveform: Tensor) -> Tensor:
        if len(waveform) < shortest(self.config):
            return torch.empty(0, self.config.vocab_size, device=self.device)
        x = self.positions.add(self._projected(waveform.to(self.device, torch.float32)), self.kernels)
        return self.head(self._before_norms(x) if self.pre_norm else self._behind_norms(x))

    def _projected(self, waveform: Tensor) -> Tensor:
        """(samples) -> (frames, hidden)."""
        k = self.kernels
        x = k.quantize(waveform[:, None], self.waveform_grid)
        last = self.projection.grid if self.features_norm is None else None
        grids = [*(convolution.product.grid for convolution in self.convolutions[1:]), last]
        for convolution, grid in zip(self.convolutions, grids, strict=True):
            x = convolution(x, grid, k)
        if self.features_norm is not None:
            x = k.layer_norm(x, self.features_norm, self.projection.grid)
        return self.projection(x)

    def _before_norms(self, x: Tensor) -> Tensor:
        """Pre-norm blocks: each begins with its norm, and the sums pass by. -> the head's input."""
        k = self.kernels
        for layer in self.layers:
            a, f = layer.attention, layer.feed_forward
            x = self._attended(k.layer_norm(x, a.norm, a.inputs.grid), a, x)
            x = f.fc2.add(f.fc1.gelu(k.layer_norm(x, f.norm, f.fc1.grid), f.fc2.grid), x)
        return k.layer_norm(x, self.norm, self.head.grid)

    def _behind_norms(self, x: Tensor) -> Tensor:
        """Post-norm blocks: each ends with its norm, whose float output the next sum reads. -> the head's input."""
        k = self.kernels
        x = k.layer_norm(x, self.norm, None)
        for layer in self.layers:
            a, f = layer.attention, layer.feed_forward
            x = k.layer_norm(self._attended(k.quantize(x, a.inputs.grid), a, x), a.norm, None)
            x = f.fc2.add(f.fc1.gelu(k.quantize(x, f.fc1.grid), f.fc2.grid), x)
            x = k.layer_norm(x, f.norm, None)
        return k.quantize(x, self.head.grid)

    def _attended(self, inputs: Tensor, a: Attention, x: Tensor) -> Tensor:
        """The block's input as its first product takes it in, and x, to which its output is added."""
        return a.out.add(self.kernels.attention(a.inputs(inputs, self.dtype), 1, a.heads, None, a.out.grid), x)


@dataclass(frozen=True)
class Reader:
    """The network's parts, put together from `Layers`."""

    layers: Layers
    config: PreTrainedConfig

    @property
    def base(self) -> str:
        return self.config.model_type

    def norm(self, module: str) -> Norm:
        return self.layers.norm(f"{self.base}.{module}", self.config.layer_norm_eps)

    def convolution(self, i: int) -> Convolution:
        module, layers = f"{self.base}.feature_extractor.conv_layers.{i}", self.layers
        product = layers.product(f"cnn.{i}:input", [(f"cnn.{i}", f"{module}.conv")])
        norm: TimeNorm | Norm | None = None
        if self.config.feat_extract_norm == "layer":
            norm = layers.norm(f"{module}.layer_norm")
        elif i == 0:
            weight, _ = layers.float_weight(f"{module}.conv")
            over_time = layers.norm(f"{module}.layer_norm")
            grid = layers.grid("cnn.0:input")
            inputs = grid if isinstance(grid, Grid) else None
            norm = TimeNorm(inputs, weight.double(), over_time.weight, over_time.bias)
        return Convolution(product, self.config.conv_kernel[i], self.config.conv_stride[i], norm)

    def features_norm(self) -> Norm | None:
        """Layer norm of the feature projection's input; None for HuBERT models that have none."""
        has_one = getattr(self.config, "feat_proj_layer_norm", True)
        return self.norm("feature_projection.layer_norm") if has_one else None

    def positions(self) -> PositionalConvolution:
        module, config = f"{self.base}.encoder.pos_conv_embed", self.config
        products = self.layers.grouped_products(
            "pos_conv:input", "pos_conv", f"{module}.conv", config.num_conv_pos_embedding_groups
        )
        if not getattr(config, "conv_pos_batch_norm", False):
            return PositionalConvolution(products, config.num_conv_pos_embeddings)
        names = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, variance = (self.layers.tensor(f"{module}.batch_norm.{name}") for name in names)
        scale = weight / (variance + 1e-5).sqrt()
        return PositionalConvolution(products, config.num_conv_pos_embeddings, scale, bias - mean * scale)

    def layer(self, i: int) -> Layer:
        module, address, c = f"{self.base}.encoder.layers.{i}", f"enc.{i}", self.config
        heads = Heads(c.num_attention_heads, c.hidden_size // c.num_attention_heads)
        attention = self.layers.attention(
            f"{module}.attention", self.norm(f"encoder.layers.{i}.layer_norm"), address, heads, gated=False, cross=False
        )
        fc1, fc2 = (f"{module}.feed_forward.{name}_dense" for name in ("intermediate", "output"))
        return Layer(attention, FeedForward(
            self.norm(f"encoder.layers.{i}.final_layer_norm"),
            self.layers.product(f"{address}.mlp_norm", [(f"{address}.fc1", fc1)]),
            self.layers.product(f"{address}.fc2:input", [(f"{address}.fc2", fc2)]),
        ))  # fmt: skip
