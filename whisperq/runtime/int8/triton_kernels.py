"""Kernels between products on a GPU, in Triton: each reads a tensor once and quantizes what it computes.

`TorchKernels` says what each kernel means; rows and contexts have the shapes that it documents. With TRITON_INTERPRET=1
in the environment they run on a CPU, slowly, as the tests have them.
"""

import torch
import triton
from torch import Tensor

from whisperq.runtime.int8 import triton_code as code
from whisperq.runtime.int8.dynamic import TokenCodes, TokenGrid
from whisperq.runtime.int8.grids import Grid
from whisperq.runtime.int8.kernels import AnyCodes, AnyGrid, Cache, GateLogits, Heads, Norm
from whisperq.runtime.int8.matmuls import IntegerWeight, Matmul
from whisperq.runtime.int8.torch_kernels import TorchKernels
from whisperq.runtime.int8.triton_matmuls import TritonMatmul, numbers_of

LEAST_CHANNELS = 16  # channels: rows of fewer, as a waveform has them, are left to PyTorch
POSITIONS = 64  # of a cache that `attend` takes at a time


class TritonKernels(TorchKernels):
    """One launch for each kernel; the products on the GPU are of the same making."""

    signed = True

    def try_out(self, device: str) -> None:
        """Compile and run a small norm and a small product. Raises what Triton does where it cannot."""
        ones = torch.ones(1, 32, device=device)
        norm = Norm(ones[0], ones[0])
        weight = IntegerWeight(torch.ones(32, 32, dtype=torch.int8), ones[0].cpu(), ones[0].cpu())
        grid = TokenGrid(8, signed=True)
        self.own_matmul(weight, grid, device)(self.layer_norm(ones, norm, grid))

    def own_matmul(self, weight: IntegerWeight, grid: AnyGrid, device: str) -> Matmul:
        return TritonMatmul(weight, grid, device)

    def layer_norm(self, x: Tensor, norm: Norm, grid: AnyGrid, gelu: bool = False) -> AnyCodes:
        return self._by_row(x, norm, grid, gelu)

    def quantize(self, x: Tensor, grid: AnyGrid) -> AnyCodes:
        return x if grid is None else self._by_row(x, None, grid, gelu=False)

    def halves(self, x: Tensor, grid: AnyGrid) -> Tensor:
        channels, wide = grid.channels, grid.wide
        x = x if x.stride(1) == 1 else x.contiguous()
        count = x.shape[1] if channels is None else len(channels)
        out = torch.empty(2 * len(x), count, dtype=torch.int8, device=x.device)
        code.split_codes[(len(x),)](
            x, x if channels is None else channels, out, x.stride(0), len(x), float(wide.scale), float(wide.zero_point),
            0.0, float(wide.quant_max), COUNT=count, BLOCK=triton.next_power_of_2(count), SOME=channels is not None,
            BITS=grid.half_bits, num_warps=_warps(count),
        )  # fmt: skip
        return out

    def append(self, keys: Tensor, values: Tensor, cache: Cache) -> None:
        batch, heads, dim, capacity = cache.keys.shape
        length, scales, past_on_device = len(keys) // batch, cache.scales, cache.past_on_device
        if keys.stride() != values.stride() or keys.stride(1) != 1:
            keys, values = keys.contiguous(), values.contiguous()
        if cache.past + length > capacity:
            raise ValueError(f"a cache of {capacity} entries, {cache.past} of them filled, has no room for {length}")
        code.append[(len(keys), heads)](
            keys, values, cache.keys, cache.values, *((keys, keys) if scales is None else scales), keys.stride(0),
            capacity, cache.past if past_on_device is None else past_on_device, length, HEADS=heads, DIM=dim,
            SPAN=triton.next_power_of_2(dim), SCALED=scales is not None, ON_DEVICE=past_on_device is not None,
        )  # fmt: skip
        cache.past += 0 if past_on_device is not None else length

    def attend(
        self, query: Tensor, cache: Cache, causal: int, heads: Heads, gate: GateLogits | None, grid: AnyGrid
    ) -> AnyCodes:
        if isinstance(grid, TokenGrid):  # a row's grid hangs on all of its heads
            return self.quantize(self.attend(query, cache, causal, heads, gate, None), grid)
        width, scales = heads.count * heads.dim, cache.scales
        out = _empty(query, len(query), width, grid)
        code.attend[(len(query), heads.count)](
            query, cache.keys, cache.values, query if gate is None else gate.logits, out,
            *((query, query) if scales is None else scales), query.stride(0), _gate_stride(gate), cache.keys.shape[3],
            cache.past if cache.past_on_device is None else cache.past_on_device, causal,
            len(query) // len(cache.keys), heads.scaling,
            1.0 if gate is None else gate.factor, *numbers_of(grid), HEADS=heads.count, DIM=heads.dim,
            SPAN=triton.next_power_of_2(heads.dim), POSITIONS=POSITIONS, SCALED=scales is not None,
            SHARED=_shared(gate, width), CODES=grid is not None, ON_DEVICE=cache.past_on_device is not None,
        )  # fmt: skip
        return out

    def _finish(self, context: Tensor, heads: Heads, gate: GateLogits | None, grid: AnyGrid) -> AnyCodes:
        batch, _, length, _ = context.shape
        width = heads.count * heads.dim
        out, token = _empty(context, batch * length, width, grid), _token_places(context, batch * length, grid)
        code.gated[(batch * length,)](
            context, context if gate is None else gate.logits, out, *(token or (out, out)), *context.stride()[:3],
            _gate_stride(gate), length, 1.0 if gate is None else gate.factor, *numbers_of(grid), DIM=heads.dim,
            WIDTH=width, BLOCK=triton.next_power_of_2(width), SHARED=_shared(gate, width), CODES=grid is not None,
            TOKEN=token is not None, num_warps=_warps(width),
        )  # fmt: skip
        return out if token is None else TokenCodes(out, *token)

    def _by_row(self, x: Tensor, norm: Norm | None, grid: AnyGrid, gelu: bool) -> AnyCodes:
        if isinstance(grid, Grid) and (grid.divisor is not None or x.shape[-1] < LEAST_CHANNELS):
            return grid.codes(x if norm is None else self._by_row(x, norm, None, gelu))
        width = x.shape[-1]
        rows = x.reshape(-1, width)
        rows = rows if rows.stride(1) == 1 else rows.contiguous()
        out, token = _empty(rows, len(rows), width, grid), _token_places(rows, len(rows), grid)
        weight, bias, epsilon = (rows, rows, 0.0) if norm is None else (norm.weight, norm.bias, norm.epsilon)
        code.rows[(len(rows),)](
            rows, weight, bias, out, *(token or (out, out)), rows.stride(0), epsilon, *numbers_of(grid), WIDTH=width,
            BLOCK=triton.next_power_of_2(width), NORM=norm is not None, GELU=gelu, CODES=grid is not None,
            TOKEN=token is not None, num_warps=_warps(width),
        )  # fmt: skip
        return out.view(x.shape) if token is None else TokenCodes(out, *token)


def _empty(like: Tensor, rows: int, width: int, grid: AnyGrid) -> Tensor:
    return torch.empty(rows, width, dtype=torch.float32 if grid is None else torch.int8, device=like.device)


def _token_places(like: Tensor, rows: int, grid: AnyGrid) -> tuple[Tensor, Tensor] | None:
    """Where a row's scale and zero_point go, of a grid that has them by row."""
    if not isinstance(grid, TokenGrid):
        return None
    scales = torch.empty(rows, dtype=torch.float32, device=like.device)
    return scales, torch.empty(rows, dtype=torch.int32, device=like.device)


def _gate_stride(gate: GateLogits | None) -> int:
    return 0 if gate is None else gate.logits.stride(0)


def _shared(gate: GateLogits | None, width: int) -> int:
    return 0 if gate is None else width // gate.logits.shape[1]


def _warps(width: int) -> int:
    return 4 if width <= 2048 else 8
