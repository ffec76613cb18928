"""Integer products on a GPU, in Triton; what follows a product is done on its sums before they leave the chip.

    y = s_x s_w (sum_k q_x q_w - z_x sum_k q_w) + b        then: GELU, quantized; or added to a sum; or as it is

Symbols as in matmuls.py, and in dynamic.py where each row has a scale and a zero_point. Codes are signed, as tensor
cores multiply them.
"""

from copy import copy

import torch
import triton
import triton.language as tl
from torch import Tensor

from whisperq.runtime.int8.dynamic import TokenCodes, TokenGrid
from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.kernels import AnyCodes, AnyGrid
from whisperq.runtime.int8.matmuls import IntegerWeight

LEAST_ROWS = 16  # rows, the least that tensor cores take at a time
INTERPRETED = triton.knobs.runtime.interpret  # on a CPU, where a cast to bfloat16 cuts digits off instead of rounding
ALIGNED = 16  # outputs: rows begin where fused attention can read them, and Triton writes whole vectors


@triton.jit
def rounded(x):
    """To the nearest integer, half to even, for |x| up to 2^22: behind 1.5 * 2^23 float32 has no digits."""
    return (x + 12582912.0) - 12582912.0


@triton.jit
def steps_of(value, scale, zero_point, quant_min, quant_max):
    """quant.grid.quantize, in float32: a true division. What lies 2^22 steps away is beyond any grid of 16 bits."""
    steps = tl.div_rn(value, tl.zeros_like(value) + scale)
    steps = tl.minimum(tl.maximum(steps, -4194304.0), 4194304.0)
    return tl.minimum(tl.maximum(rounded(steps) + zero_point, quant_min), quant_max)


@triton.jit
def gelu_of(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit(do_not_specialize=["rows"])
def product(
    x, weight, out, totals, scales, biases, x_scales, x_zero_points, rows, outputs, inputs, x_stride, out_stride,
    out_scale, out_zero_point, quant_min, quant_max,
    EVEN: tl.constexpr, TOKEN: tl.constexpr, ADD: tl.constexpr, GELU: tl.constexpr,
    CODES: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """M rows and N outputs of y. GROUP tiles of rows meet the same outputs, whose weights stay in the cache."""
    tile = tl.program_id(0)
    across, down = tl.cdiv(outputs, N), tl.cdiv(rows, M)
    group = tile // (GROUP * across)
    height = tl.minimum(down - group * GROUP, GROUP)
    top = (group * GROUP + tile % height) * M
    own = tl.arange(0, M)  # rows of the tile: their places, counted from its first, need 32 bits alone
    output = (tile % (GROUP * across)) // height * N + tl.arange(0, N)
    row, here, wanted = top + own, own < rows - top, output < outputs
    x += top.to(tl.int64) * x_stride
    out += top.to(tl.int64) * out_stride
    sums = tl.zeros((M, N), dtype=tl.int32)
    for first in range(0, inputs, K):
        k = first + tl.arange(0, K)
        meant, needed = here[:, None], wanted[None, :]
        if not EVEN:
            meant, needed = meant & (k < inputs)[None, :], needed & (k < inputs)[:, None]
        codes = tl.load(x + (own[:, None] * x_stride + k[None, :]), mask=meant, other=0)
        weights = tl.load(weight + (output[None, :] * inputs + k[:, None]), mask=needed, other=0)
        sums = tl.dot(codes, weights, sums, out_dtype=tl.int32)
    total = tl.load(totals + output, mask=wanted, other=0)[None, :]
    scale = tl.load(scales + output, mask=wanted, other=0.0)[None, :]
    bias = tl.load(biases + output, mask=wanted, other=0.0)[None, :]
    if TOKEN:
        zero_point = tl.load(x_zero_points + row, mask=here, other=0)[:, None]
        y = (sums - zero_point * total).to(tl.float32) * scale
        y = y * tl.load(x_scales + row, mask=here, other=0.0)[:, None] + bias
    else:
        y = (sums - total).to(tl.float32) * scale + bias
    place, mask = out + (own[:, None] * out_stride + output[None, :]), here[:, None] & wanted[None, :]
    if GELU:
        y = gelu_of(y)
    if ADD:
        y += tl.load(place, mask=mask, other=0.0)
    if CODES:
        tl.store(place, steps_of(y, out_scale, out_zero_point, quant_min, quant_max).to(tl.int8), mask=mask)
    else:
        tl.store(place, y.to(out.dtype.element_ty), mask=mask)


class TritonMatmul:
    """A `Matmul` of codes of one grid, or of a grid for each row."""

    def __init__(self, weight: IntegerWeight, grid: Grid | TokenGrid, device: str) -> None:
        self.grid: AnyGrid = grid
        self._codes = weight.codes.to(device).contiguous()
        totals = torch.cat([part.sum(dim=1, dtype=torch.int32) for part in weight.codes.split(4096)])
        scale = weight.scale
        if isinstance(grid, Grid):  # known now: part of what is added and multiplied
            totals, scale = totals * grid.zero_point, scale * grid.scale
        self._totals, self._scale = totals.to(device), scale.to(device).contiguous()
        self._bias = weight.bias.to(device).contiguous()

    def __call__(self, x: AnyCodes, dtype: torch.dtype = torch.float32) -> Tensor:
        outputs = len(self._codes)
        stored = torch.float32 if INTERPRETED else dtype
        aligned = torch.empty(len(x), -(-outputs // ALIGNED) * ALIGNED, dtype=stored, device=self._codes.device)
        self._run(x, aligned[:, :outputs])
        return aligned.to(dtype)[:, :outputs]

    def add(self, x: AnyCodes, sum: Tensor) -> Tensor:
        return self._run(x, sum, add=True)

    def gelu(self, x: AnyCodes, grid: AnyGrid) -> AnyCodes:
        fused = grid if isinstance(grid, Grid) and grid.divisor is None else None
        dtype = torch.float32 if fused is None else torch.int8
        out = torch.empty(len(x), len(self._codes), dtype=dtype, device=self._codes.device)
        self._run(x, out, gelu=True, grid=fused)
        return out if grid is fused else grid.codes(out)

    def rescaled(self, factor: Tensor, bias: Tensor) -> "TritonMatmul":
        """A copy with scales multiplied by `factor` and another bias."""
        other = copy(self)
        other._scale, other._bias = self._scale * factor, bias.contiguous()
        return other

    def _run(self, x: AnyCodes, out: Tensor, add: bool = False, gelu: bool = False, grid: Grid | None = None) -> Tensor:
        """What is asked for of the product, into `out` (rows, N), whose columns lie side by side."""
        (outputs, inputs), token = self._codes.shape, isinstance(x, TokenCodes)
        codes, rows = (x.codes if token else x), len(x)
        codes = codes if codes.stride(1) == 1 else codes.contiguous()
        m, n, k, warps, stages = tile_of(rows)
        product[(triton.cdiv(rows, m) * triton.cdiv(outputs, n),)](
            codes, self._codes, out, self._totals, self._scale, self._bias,
            *((x.scale, x.zero_point) if token else (self._scale, self._totals)), rows, outputs, inputs,
            codes.stride(0), out.stride(0), *numbers_of(grid),
            EVEN=inputs % k == 0, TOKEN=token, ADD=add, GELU=gelu, CODES=grid is not None, M=m, N=n, K=k,
            GROUP=8, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        return out


def numbers_of(grid: AnyGrid) -> tuple[float, float, float, float]:
    """scale, zero_point, quant_min and quant_max; floats, for whose values Triton compiles no kernels of their own."""
    if grid is None:
        return 1.0, 0.0, 0.0, 0.0
    scale, zero_point = (grid.scale, float(grid.zero_point)) if isinstance(grid, Grid) else (1.0, 0.0)
    return scale, zero_point, float(grid.quant_min), float(grid.quant_max)


def tile_of(rows: int) -> tuple[int, int, int, int, int]:
    """M, N, K, warps, stages. Of few rows weights are read once whatever is done: many small tiles read faster."""
    if rows <= LEAST_ROWS:
        return LEAST_ROWS, 32, 128, 4, 4
    return (64, 64, 128, 4, 3) if rows <= 64 else (128, 128, 128, 8, 3)
