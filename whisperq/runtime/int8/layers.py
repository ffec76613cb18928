"""A quantized model's layers read from disk, ready for integer execution.

Layers that take in the same tensor become one product, their outputs side by side: q, k, v and a gate of the whole
width share one quantized input and one pass over it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from whisperq.ptq.arrays import Stored
from whisperq.ptq.checkpoint import CHANNEL_SCALE, PerToken
from whisperq.quant.wide import WideQParams, is_wide
from whisperq.runtime.int8.block_parts import Attention
from whisperq.runtime.int8.dynamic import TokenGrid
from whisperq.runtime.int8.grids import Grid, is_codes, of_windows, signed_qparams
from whisperq.runtime.int8.integer_products import integer_product
from whisperq.runtime.int8.kernels import AnyGrid, Heads, Kernels, Norm
from whisperq.runtime.int8.matmuls import FloatMatmul, IntegerWeight, Matmul, MixedMatmuls
from whisperq.runtime.int8.proof import prove_matmul
from whisperq.runtime.int8.wide_matmuls import SideBySide, WideGrid, WideMatmul
from whisperq.runtime.interface import Products

FUSED_GATES = ("headwise", "elementwise")
Made = TypeVar("Made", bound=Matmul)


@dataclass
class Layers:
    """Reads layers by address and module, and notes which of them run in integers."""

    stored: Stored
    device: str
    kernels: Kernels
    dtype: torch.dtype  # of queries, keys and values
    integer: list[str] = field(default_factory=list)
    floating: dict[str, str] = field(default_factory=dict)
    proven: set[tuple[object, ...]] = field(default_factory=set)  # kinds of products that were tried

    def products(self) -> Products:
        return Products(tuple(self.integer), dict(self.floating))

    def grid(self, site: str) -> Grid | WideGrid | TokenGrid | None:
        qparams = self.stored.activations.get(site)
        if isinstance(qparams, PerToken):
            return TokenGrid(qparams.bits, self.kernels.signed)
        if isinstance(qparams, WideQParams) or (qparams is not None and is_wide(qparams)):
            return WideGrid(qparams, self.kernels.signed, self.device)
        if qparams is None:
            return None
        divisor = self.stored.divisors.get(site)
        return Grid(
            signed_qparams(qparams) if self.kernels.signed else qparams,
            None if divisor is None else divisor.to(self.device),
        )

    def code_grid(self, site: str) -> Grid | TokenGrid | None:
        """The grid on which what makes this tensor leaves codes; None where it leaves floats."""
        grid = self.grid(site)
        return None if isinstance(grid, WideGrid) else grid

    def tensor(self, name: str) -> Tensor:
        # A copy: the file's pages are given back when the folder is closed.
        return torch.from_numpy(self.stored.float(name)).clone().to(self.device)

    def norm(self, module: str, epsilon: float = 1e-5) -> Norm:
        return Norm(self.tensor(f"{module}.weight"), self.tensor(f"{module}.bias"), epsilon)

    def cache_scales(self, block: str) -> tuple[Tensor, Tensor] | None:
        """The scales of the channels of a block's keys and values; None where the model keeps them in float."""
        names = [f"{block}.{name}{CHANNEL_SCALE}" for name in ("k_proj", "v_proj")]
        if names[0] not in self.stored:
            return None
        keys, values = map(self.tensor, names)
        return keys, values

    def product(self, site: str, layers: Sequence[tuple[str, str]]) -> Matmul:
        """One product of all layers (address, module) that take in the tensor at `site`."""
        grid = self.grid(site)
        codes = [self.integer_weight(module) for _, module in layers]
        for (address, module), weight in zip(layers, codes, strict=True):
            self._note(address, grid, weight, f"{module}.weight" in self.stored.grouped)
        # A decoder's block has as many rows as there are utterances. The vocabulary is too large to keep twice.
        few_rows = site.startswith("dec.") and site != "dec.norm"
        if grid is not None and all(codes):
            joined = IntegerWeight(*(torch.cat([getattr(c, n) for c in codes]) for n in ("codes", "scale", "bias")))
            if isinstance(grid, WideGrid):
                return self._wide_matmul(grid, joined, few_rows)
            return self._integer(joined, grid, few_rows, align=len(layers) > 1)
        if grid is None or not any(codes):
            weights, biases = zip(*(self.float_weight(module) for _, module in layers), strict=True)
            matrix = torch.cat(weights)
            return FloatMatmul(matrix, torch.cat(biases), of_windows(grid, matrix.shape[1]))
        if isinstance(grid, WideGrid):
            parts = [self._wide(grid, module, weight) for (_, module), weight in zip(layers, codes, strict=True)]
            return SideBySide(parts)
        parts = [
            FloatMatmul(*self.float_weight(module)) if weight is None else self._integer(weight, grid)
            for (_, module), weight in zip(layers, codes, strict=True)
        ]
        return MixedMatmuls(grid, parts)

    def grouped_products(self, site: str, address: str, module: str, groups: int) -> list[Matmul]:
        """A grouped convolution as a product for each group, over the windows of that group's channels."""
        grid, weight = self.grid(site), self.integer_weight(module)
        self._note(address, grid, weight, f"{module}.weight" in self.stored.grouped)
        if grid is not None and weight is not None:
            if isinstance(grid, WideGrid):
                raise TypeError(f"{site} is a convolution's input, which has no codes of 16 bits")
            return [self._integer(part, grid) for part in weight.chunk(groups)]
        values, bias = (t.chunk(groups) for t in self.float_weight(module))
        return [FloatMatmul(*part, grid) for part in zip(values, bias, strict=True)]

    def _wide(self, grid: WideGrid, module: str, weight: IntegerWeight | None) -> Matmul:
        """A layer of several, not all in integers, whose input has codes of 16 bits."""
        if weight is None:
            return FloatMatmul(*self.float_weight(module), grid)
        return self._wide_matmul(grid, weight, few_rows=False)

    def _wide_matmul(self, grid: WideGrid, weight: IntegerWeight, few_rows: bool) -> WideMatmul:
        made = WideMatmul(grid, weight, self.kernels, partial(self._integer, few_rows=few_rows), few_rows)
        return self._proven(made, weight, grid, few_rows, align=False)

    def _integer(
        self, weight: IntegerWeight, grid: Grid | TokenGrid, few_rows: bool = False, align: bool = False
    ) -> Matmul:
        if (own := self.kernels.own_matmul(weight, grid, self.device)) is not None:
            return self._proven(own, weight, grid, few_rows, align=False)
        made = integer_product(weight, grid, self.kernels, self.device, few_rows, align)
        return self._proven(made, weight, grid, few_rows, align)

    def _proven(self, made: Made, weight: IntegerWeight, grid: AnyGrid, few_rows: bool, align: bool) -> Made:
        """The product, after the first of its kind and shape was tried. Raises KernelError."""
        kind = type(made), weight.codes.shape, type(grid), getattr(grid, "quant_max", None), few_rows, align
        if kind not in self.proven:
            most = getattr(self.kernels, "most_rows", 0) if few_rows else 0
            prove_matmul(made, weight, grid, self.device, align, self.dtype, most)
            self.proven.add(kind)
        return made

    def _note(
        self, address: str, grid: Grid | WideGrid | TokenGrid | None, weight: IntegerWeight | None, grouped: bool
    ) -> None:
        if grid is not None and weight is not None:
            self.integer.append(address)
        elif grouped:
            self.floating[address] = "weights in groups"
        else:
            sides = {"input": grid, "weight": weight}
            self.floating[address] = f"float {' and '.join(s for s, side in sides.items() if side is None)}"

    def integer_weight(self, module: str) -> IntegerWeight | None:
        """Codes (N, K) and scales; a convolution's, (N, C, width), as the product over its unfolded input."""
        stored = self.stored.codes(f"{module}.weight")
        if stored is None:
            return None
        codes = _unfolded(torch.from_numpy(stored.codes))
        scale = torch.from_numpy(stored.scale).flatten().expand(len(codes)).clone()
        return IntegerWeight(codes, scale, self._bias(module, len(codes)))

    def float_weight(self, module: str) -> tuple[Tensor, Tensor]:
        """Weight (N, K) and bias (N), float32, dequantized where stored as codes."""
        weight = _unfolded(self.values(f"{module}.weight"))
        return weight, self._bias(module, len(weight))

    def values(self, name: str) -> Tensor:
        """A weight in float32, whichever way it is stored."""
        stored = self.stored.codes(name)
        if stored is None:
            return self.tensor(name)
        return (torch.from_numpy(stored.codes).float() * torch.from_numpy(stored.scale)).to(self.device)

    def _bias(self, module: str, outputs: int) -> Tensor:
        name = f"{module}.bias"
        return self.tensor(name) if name in self.stored else torch.zeros(outputs, device=self.device)

    def attention(self, module: str, norm: Norm, address: str, heads: Heads, gated: bool, cross: bool) -> Attention:
        """One attention block; in cross-attention its keys and values are read apart."""
        config, site = self.stored.config, f"{address}.attn_norm"
        kind = config.gate if gated else "none"
        names = ["q_proj"] if cross else ["q_proj", "k_proj", "v_proj"]
        layers = [(f"{address}.{name}", f"{module}.{name}") for name in names]
        width = heads.count * heads.dim * len(names)
        if kind in FUSED_GATES:
            layers.append((f"{address}.gate", f"{module}.gate.linear"))
        by_head = None if kind in (*FUSED_GATES, "none") else self._gate_by_head(kind, address, module, heads)
        for name in ("scores", "context"):
            self.floating[f"{address}.{name}"] = "attention products stay float"
        return Attention(
            norm, self.product(site, layers), self.product(f"{address}.context", [
                (f"{address}.out_proj", f"{module}.out_proj")]), heads, width, by_head,
            None if kind == "none" else 1 / config.gate_init,
        )  # fmt: skip

    def _gate_by_head(self, kind: str, address: str, module: str, heads: Heads) -> Callable[[Tensor], Tensor]:
        """A gate that looks at each head's part of the input: (rows, d_model) -> logits."""
        site = f"{address}.attn_norm"
        grid = self.grid(site)
        if kind == "shared":
            product = self.product(site, [(f"{address}.gate", f"{module}.gate.linear")])
            return lambda x: product(_codes(x, product.grid).reshape(-1, heads.dim)).reshape(len(x), -1)
        self.floating[f"{address}.gate"] = "a small product for each head"
        networks = [
            (self.values(f"{module}.gate.{name}.weight"), self.tensor(f"{module}.gate.{name}.bias"))
            for name in (("hidden", "linear") if kind == "mlp" else ("linear",))
        ]

        def logits(x: Tensor) -> Tensor:
            x = (x if grid is None else grid.rounded(x)).unflatten(1, (heads.count, heads.dim))
            for i, (weight, bias) in enumerate(networks):
                x = torch.einsum("rhd,hod->rho", torch.relu(x) if i else x, weight) + bias
            return x.flatten(1).contiguous()

        return logits


def _codes(x: Tensor, grid: Grid | None) -> Tensor:
    """Codes of the grid, where there is one: a norm leaves floats where the product that it is for takes them in."""
    return x if grid is None or is_codes(x) else grid.codes(x)


def _unfolded(weight: Tensor) -> Tensor:
    """(N, C, width) -> (N, width * C), as `unfold` lays out the input; (N, K) as it is."""
    return weight.transpose(1, 2).flatten(1) if weight.dim() == 3 else weight
