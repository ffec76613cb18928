"""Layers as ONNX operators, each product named by its address.

    y = DequantizeLinear(QuantizeLinear(x)) @ DequantizeLinear(codes) + bias

QuantizeLinear has the site's scale and zero_point (unsigned codes), the weight's DequantizeLinear one scale
for each output channel (signed symmetric codes): the pattern that ONNX Runtime and OpenVINO turn into one
product of integers. A layer of which one side is float is a float layer, and its weight is stored in float:
of codes behind a DequantizeLinear alone both engines make a product that quantizes the input after all, on
the fly, with grids of their own.
"""

from collections.abc import Sequence

import numpy as np

from whisperq.graphs.graph import Graph
from whisperq.graphs.wide import WideWeight, wide_product
from whisperq.models.sites import canonical
from whisperq.ptq.arrays import Stored
from whisperq.quant.grid import QParams
from whisperq.quant.wide import WideQParams, is_wide

END = 2**63 - 1  # of a slice that goes as far as there is something


class Layers:
    """One stored model's layers, appended to one graph; values are called by their names in it.

    `products` maps the address of each matrix product to the weights and sites that keep it from integers.
    """

    def __init__(self, graph: Graph, stored: Stored) -> None:
        self.graph, self.stored, self.config = graph, stored, stored.config
        self.products: dict[str, list[str]] = {}

    def norm(self, module: str, x: str, address: str, epsilon: float = 1e-5) -> str:
        scale, bias = (self.tensor(f"{module}.{name}") for name in ("weight", "bias"))
        return self.graph.op("LayerNormalization", x, scale, bias, name=address, axis=-1, epsilon=epsilon)

    def activate(self, x: str, address: str, function: str) -> str:
        """function: gelu or relu."""
        if function == "relu":
            return self.graph.op("Relu", x, name=f"{address}/relu")
        return self.graph.op("Gelu", x, name=f"{address}/gelu", approximate="none")

    def linear(self, module: str, x: str, address: str, factor: float = 1.0, split: Sequence[int] = ()) -> str:
        """x (..., d_in) -> factor * (x @ W^T + bias), (..., d_out); `split` reshapes x before."""
        name = f"{module}.weight"
        integer = self.count(address, name)
        if integer and self.is_wide(address):
            codes = self.stored.integers(name)
            wide = WideWeight(name, _columns(codes.codes), codes.scale * np.float32(factor))
            x = self.reshaped(x, split, f"{address}/split") if split else x
            return self.biased(wide_product(self, x, address, wide), module, address, factor)
        weight = self.integer_weight(name, factor) if integer else self.float_weight(name, factor)
        y = self.product(address, self.activation(x, address, split, weight), weight)
        return self.biased(y, module, address, factor)

    def is_wide(self, address: str) -> bool:
        """Whether channels of this layer's input have codes of 16 bits."""
        grid = self.stored.activations.get(canonical(f"{address}:input"))
        return isinstance(grid, WideQParams) or (isinstance(grid, QParams) and is_wide(grid))

    def product(self, address: str, x: str, weight: str) -> str:
        return self.graph.op("MatMul", x, weight, name=address)

    def count(self, address: str, weight: str, site: str | None = None) -> bool:
        """Whether this product's weight and input are integers, which is noted; two may share one address."""
        site = site or canonical(f"{address}:input")
        floats = [] if weight in self.stored.weights else [weight]
        floats += [] if site in self.stored.activations else [site]
        self.products[address] = self.products.get(address, []) + floats
        return not floats

    def biased(self, y: str, module: str, address: str, factor: float = 1.0) -> str:
        if f"{module}.bias" not in self.stored:  # k_proj and proj_out have none
            return y
        bias = self.stored.float(f"{module}.bias").reshape(-1) * np.float32(factor)
        return self.graph.op("Add", y, self.graph.constant(f"{module}.bias", bias), name=f"{address}/bias")

    def tensor(self, name: str) -> str:
        return self.graph.constant(name, self.stored.float(name))

    def float_weight(self, name: str, factor: float = 1.0) -> str:
        """factor * W^T, (d_in, d_out), of a stored W: (d_out, d_in), or (heads, d_out, d_in) of a map by head."""
        return self.graph.constant(name, _columns(self.stored.float(name)) * np.float32(factor))

    def integer_weight(self, name: str, factor: float = 1.0) -> str:
        """factor * W^T, (d_in, d_out), of a quantized weight: integer codes behind a DequantizeLinear."""
        weight = self.stored.integers(name)
        return self.dequantized(name, _columns(weight.codes), weight.scale * np.float32(factor))

    def dequantized(self, name: str, codes: np.ndarray, scale: np.ndarray, again: bool = False) -> str:
        """Codes (d_in, d_out) and a scale for each column, or one for all -> their floats.

        again: for a second product. Where ONNX Runtime makes unsigned codes of a weight, for CPUs without VNNI, two
        products of the same constant are an error; this one is another when the engine opens the graph, not on disk.
        """
        scales = self.graph.constant(f"{name}.scale", scale.reshape(-1 if scale.size > 1 else ()))
        values = self.graph.constant(name, codes)
        if again:
            values = self.graph.op("Reshape", values, self.graph.integers(*codes.shape), name=f"{name}/again")
        return self.graph.op("DequantizeLinear", values, scales, name=f"{name}/dequantize", axis=1)

    def activation(self, x: str, address: str, split: Sequence[int] = (), weight: str = "") -> str:
        """The input of the layer at `address` on its site's grid, where it has one; `split` reshapes it before.

        weight: the constant (d_in, d_out) that a float layer multiplies it by. In such a layer 16 bits are as good as
        floats, so that of an input with wide channels the others alone are rounded.
        """
        site = canonical(f"{address}:input")
        if site not in self.stored.activations or self.is_wide(address):
            if isinstance(grid := self.stored.activations.get(site), WideQParams):
                wide = np.isin(np.arange(len(self.graph.constants[weight])), grid.channels.numpy())
                mask = self.graph.constant(f"{site}.wide", wide)
                x = self.graph.once("Where", mask, x, self.rounded(x, grid.main, site), name=f"{site}/narrow")
            return self.reshaped(x, split, f"{site}/split") if split else x
        codes = self.codes(x, site)
        if split:
            codes = self.reshaped(codes, split, f"{site}/split")
        return self.graph.once("DequantizeLinear", codes, *self.grid(site), name=f"{site}/dequantize")

    def codes(self, x: str, site: str) -> str:
        """x -> uint8 codes, once for all layers that read it; its channels are divided first where they are scaled."""
        if (divisor := self.stored.divisors.get(site)) is not None:
            divided = self.graph.constant(f"{site}.divisor", divisor.numpy())
            x = self.graph.once("Div", x, divided, name=f"{site}/divided")
        return self.quantized(x, self.static(site), site)

    def quantized(self, x: str, grid: QParams, name: str) -> str:
        """x -> uint8 codes of this grid; x is clipped first where the grid is narrower."""
        if grid.quant_max < 255:  # QuantizeLinear itself clips to 0..255
            ends = ((code - int(grid.zero_point)) * float(grid.scale) for code in (grid.quant_min, grid.quant_max))
            x = self.graph.once("Clip", x, *map(self.graph.scalar, ends), name=f"{name}/clip")
        return self.graph.once("QuantizeLinear", x, *self.named_grid(grid, name), name=f"{name}/quantize")

    def rounded(self, x: str, grid: QParams, name: str) -> str:
        """x as this grid represents it, float32."""
        codes = self.quantized(x, grid, name)
        return self.graph.once("DequantizeLinear", codes, *self.named_grid(grid, name), name=f"{name}/dequantize")

    def grid(self, site: str) -> tuple[str, str]:
        """The site's scale and zero_point."""
        return self.named_grid(self.static(site), site)

    def static(self, site: str) -> QParams:
        """The site's grid. Raises TypeError for one that is dynamic, or wide in some channels."""
        if not isinstance(grid := self.stored.activations[site], QParams):
            raise TypeError(f"{site} has no grid for all of its values")
        return grid

    def named_grid(self, grid: QParams, name: str) -> tuple[str, str]:
        return (
            self.graph.constant(f"{name}.scale", grid.scale.numpy()),
            self.graph.constant(f"{name}.zero_point", grid.zero_point.numpy().astype(np.uint8)),
        )

    def reshaped(self, x: str, shape: Sequence[int], name: str) -> str:
        """0 keeps a dimension, -1 is what remains."""
        return self.graph.op("Reshape", x, self.graph.integers(*shape), name=name)

    def convolution(self, module: str, x: str, address: str, stride: int, side: int = 0) -> str:
        """x (batch, length, d_in) -> (batch, frames, d_out); `side` zeros are put before and after x."""
        weight, g = f"{module}.weight", self.graph
        if self.count(address, weight):
            return self.biased(self._unfolded(weight, x, address, stride, side), module, address)
        x = g.op("Transpose", self.activation(x, address), perm=(0, 2, 1), name=f"{address}/channels")
        parameters = [self.tensor(n) for n in (weight, f"{module}.bias") if n in self.stored]
        y = g.op("Conv", x, *parameters, name=address, pads=[side, side], strides=[stride])
        return g.op("Transpose", y, perm=(0, 2, 1), name=f"{address}/frames")

    def _unfolded(self, weight: str, x: str, address: str, stride: int, side: int) -> str:
        """The convolution as one product: the codes of each frame beside those of its neighbours.

        ONNX Runtime has no convolution of integers to floats but ConvInteger, which OpenVINO runs in float;
        a quantized output, which QLinearConv asks for, is not in the recipe. Products both engines have.
        """
        g, site = self.graph, canonical(f"{address}:input")
        kernel = self.stored.integers(weight)
        d_out, d_in, width = kernel.codes.shape
        codes = self.padded(self.codes(x, site), address, side, side) if side else self.codes(x, site)
        ends = [k - width + 1 or END for k in range(width)]  # the first one's last place, counted from the end
        shifted = [
            g.op("Slice", codes, *map(g.integers, (k, end, 1, stride)), name=f"{address}/slice")
            for k, end in enumerate(ends)
        ]
        neighbours = g.op("Concat", *shifted, axis=2, name=f"{address}/neighbours")
        x = g.op("DequantizeLinear", neighbours, *self.grid(site), name=f"{address}/dequantize")
        columns = kernel.codes.transpose(2, 1, 0).reshape(width * d_in, d_out)
        return self.product(address, x, self.dequantized(weight, columns, kernel.scale))

    def padded(self, codes: str, address: str, before: int, after: int) -> str:
        """codes (batch, length, d_in) with zeros around their length."""
        _, zero_point = self.grid(canonical(f"{address}:input"))
        sides = self.graph.integers(0, before, 0, 0, after, 0)
        return self.graph.op("Pad", codes, sides, zero_point, name=f"{address}/pad", mode="constant")


def _columns(weight: np.ndarray) -> np.ndarray:
    """W^T; for a map by head the block-diagonal matrix of all heads, (heads * d_in, heads * d_out).

    One product of integers with one scale for each column is worth the zeros, which are exact.
    """
    if weight.ndim == 2:
        return weight.T
    heads, d_out, d_in = weight.shape
    dense = np.zeros((heads, d_in, heads, d_out), weight.dtype)
    for head in range(heads):
        dense[head, :, head] = weight[head].T
    return dense.reshape(heads * d_in, heads * d_out)
